//! What an operator wants to know.

use std::net::SocketAddr;

use crate::wire::Rcode;

/// Something that a driver may log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An upstream server is not used: it is this resolver itself, no address of one host, or one too many.
    UpstreamDropped {
        /// The server.
        address: SocketAddr,
    },
    /// An upstream server did not answer, and is asked last for a while.
    UpstreamFailed {
        /// The server.
        address: SocketAddr,
        /// What happened.
        failure: Failure,
    },
}

/// Why an upstream server was no help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// It did not answer in time.
    Timeout,
    /// The driver could not reach it.
    Unreachable,
    /// It answered with this code.
    Rcode(Rcode),
}

impl Failure {
    /// Returns true if it speaks against the server rather than against the question.
    pub(crate) fn is_of_server(self) -> bool {
        match self {
            Self::Timeout | Self::Unreachable => true,
            Self::Rcode(rcode) => rcode == Rcode::REFUSED,
        }
    }
}
