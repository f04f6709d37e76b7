//! Why a daemon does not start, or stops.

use std::net::SocketAddr;

use overlay_core::DiskError;
use overlay_raft::{driver::LogError, storage::OpenError};
use thiserror::Error;

use super::StoreError;
use crate::{
    NodeError,
    api::{self, ErrorKind},
};

/// The daemon could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log cannot be used.
    #[error("the log cannot be used: {reason}")]
    Log {
        /// What is wrong, where, and what next.
        reason: String,
    },
    /// What the disk holds does not fit together.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A port is in use or may not be had.
    #[error("{protocol} {address} cannot be listened on: {error}; is another daemon running here?")]
    Port {
        /// TCP, UDP or both.
        protocol: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// A thread could not be started.
    #[error("the thread of the {what} could not be started: {error}")]
    Thread {
        /// Which.
        what: &'static str,
        /// What the system said.
        error: std::io::Error,
    },
    /// The node's certificate or key cannot be used.
    #[error(
        "the node's certificate or key in the data directory cannot be used ({reason}): restore it from a copy, or remove the data directory and join again"
    )]
    Credentials {
        /// What the library said.
        reason: String,
    },
    /// The system gives no entropy.
    #[error("the system gives no entropy: {reason}")]
    Entropy {
        /// What it said.
        reason: String,
    },
}

/// The daemon stopped by itself.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StopError {
    /// Something that must be on the disk could not be written.
    #[error(
        "the daemon stopped because {reason}: make room or replace the disk, then start it again; nothing that was acknowledged is lost"
    )]
    Storage {
        /// What failed.
        reason: String,
    },
}

impl StartError {
    pub(crate) fn port(protocol: &'static str, address: SocketAddr, error: std::io::Error) -> Self {
        Self::Port {
            protocol,
            address,
            error,
        }
    }
}

impl From<LogError> for StartError {
    fn from(error: LogError) -> Self {
        let mut reason = error.to_string();
        if let LogError::Open(OpenError::Disk(DiskError::Damaged { .. })) = error {
            reason.push_str(": remove the data directory and join again");
        }
        Self::Log { reason }
    }
}

impl From<StartError> for api::Error {
    fn from(error: StartError) -> Self {
        let kind = match &error {
            StartError::Port { .. } => ErrorKind::Conflict,
            StartError::Thread { .. } | StartError::Entropy { .. } => ErrorKind::Platform,
            StartError::Store(_)
            | StartError::Log { .. }
            | StartError::Credentials { .. }
            | StartError::Node(_) => ErrorKind::Storage,
        };
        Self::new(kind, error.to_string())
    }
}
