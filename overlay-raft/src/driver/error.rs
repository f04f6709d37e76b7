//! What may come of what a member was asked.

use std::{io, net::SocketAddr, path::PathBuf};

use overlay_core::DiskError;
use thiserror::Error;

use super::LogError;
use crate::{ChangeError, ProposeError, RaftId, ReadError, RestoreError, TransferError};

/// A member could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no address for the member itself.
    #[error("no address of member {id} itself among the peers")]
    NoAddress {
        /// The member.
        id: RaftId,
    },
    /// The address is not to be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody has the directory.
    #[error(
        "{} is in use by another process, or by a member of this one that has not ended: wait until it has",
        directory.display()
    )]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// The directory is not to be had.
    #[error("cannot open {}: {source}", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The log is empty where one was expected.
    #[error(
        "the log of member {id} is empty: if its disk was lost, remove the member from the cluster and add it anew \
         (`Start::Join`); if the cluster is new, say so (`Start::Found`)"
    )]
    Empty {
        /// The member.
        id: RaftId,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What the log holds is not this member's.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The system has no entropy for a seed.
    #[error("no entropy: {0}")]
    Entropy(#[source] io::Error),
}

/// A command was not applied, or nobody can say whether it was.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ProposalError {
    /// It was not taken. Nothing happened.
    #[error(transparent)]
    Refused(#[from] ProposeError),
    /// Another command is in its place: it never was applied and never will be.
    #[error("lost to another leader")]
    Lost,
    /// It may have been applied, or be applied yet, or never: a snapshot took its place, or the member ended.
    #[error("whether it is applied is not known")]
    Unknown,
    /// The member had ended already. Nothing happened.
    #[error("the member ended")]
    Ended,
}

/// A change of the membership did not come about, or nobody can say whether it did.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// It was not taken. Nothing happened.
    #[error(transparent)]
    Refused(#[from] ChangeError),
    /// Another entry is in its place: it did not come about.
    #[error("lost to another leader")]
    Lost,
    /// It may have come about or not.
    #[error("whether it came about is not known")]
    Unknown,
    /// The member had ended already. Nothing happened.
    #[error("the member ended")]
    Ended,
}

/// A read cannot be answered here and now. Reads change nothing: ask again.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum QueryError {
    /// It was not taken.
    #[error(transparent)]
    Refused(#[from] ReadError),
    /// The leader changed meanwhile.
    #[error("the leader changed")]
    Lost,
    /// The member ended.
    #[error("the member ended")]
    Ended,
}

/// Leadership was not handed over.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum HandOverError {
    /// It was not begun.
    #[error(transparent)]
    Refused(#[from] TransferError),
    /// The successor did not take it in time; this member leads on.
    #[error("{to} did not take over in time")]
    TimedOut {
        /// Who should have led.
        to: RaftId,
    },
    /// The member ended.
    #[error("the member ended")]
    Ended,
}

/// Why a member ended.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Ended {
    /// It was asked to, or nobody had a handle to it any more.
    #[error("shut down")]
    ShutDown,
    /// Its disk failed: what it holds is unknown until it is opened again.
    #[error("the log could not be written: {0}")]
    Disk(DiskError),
    /// The application panicked.
    #[error("the application panicked")]
    Panicked,
}
