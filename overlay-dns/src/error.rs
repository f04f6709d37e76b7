//! What can be wrong with what arrives.

use std::net::SocketAddr;

use overlay_core::EndpointId;
use thiserror::Error;

use crate::wire::{DecodeError, RdataError};

/// A query that gets no answer. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QueryError {
    /// It is shorter than a header.
    #[error("expected at least {need} octets, found {have}")]
    Truncated {
        /// Octets of a header.
        need: usize,
        /// Octets that came.
        have: usize,
    },
    /// It is no query but a response; answering it could make two servers talk for ever.
    #[error("expected a query, found a response")]
    Response,
    /// Nobody has said what this client can see.
    #[error("client {client} has no view")]
    UnknownClient {
        /// The client.
        client: EndpointId,
    },
}

/// An upstream message that is ignored. Nothing has changed, and the wait goes on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// No such exchange is open; it was answered, given up or cancelled.
    #[error("no such exchange is open")]
    Unknown,
    /// It comes from another address than the one that was asked.
    #[error("expected an answer from {expected}, found one from {found}")]
    Address {
        /// The server that was asked.
        expected: SocketAddr,
        /// Who answered.
        found: SocketAddr,
    },
    /// Its id or question is not that of the query, or it is no response.
    #[error("the message does not answer the query")]
    Mismatch,
    /// It is no message.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// The data of a record in it is malformed.
    #[error(transparent)]
    Rdata(#[from] RdataError),
}
