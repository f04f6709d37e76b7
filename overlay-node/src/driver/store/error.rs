//! Why a data directory cannot be used.

use std::{
    io,
    path::{Path, PathBuf},
};

use overlay_core::DiskError;
use thiserror::Error;

/// The data directory cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another daemon has it.
    #[error(
        "data directory {path:?} is in use by another daemon: stop it, or give another --data-dir"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{operation} {path:?} failed: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A sealed file cannot be read or written.
    #[error("{path:?}: {source}")]
    Disk {
        /// The directory.
        path: PathBuf,
        /// What is wrong with which file.
        source: DiskError,
    },
    /// There are files and no key that they could be sealed with.
    #[error(
        "data directory {path:?} has files and no key: it was written by a version that did not seal, or the file `key` is \
         lost. Put that back, or remove the directory and join again"
    )]
    NoKey {
        /// The directory.
        path: PathBuf,
    },
    /// It is sealed, and the unlock key was not given.
    #[error("data directory {path:?} is locked: run `unlock` with the cluster's unlock key")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The system gives no entropy.
    #[error("the system gives no entropy: {reason}")]
    Entropy {
        /// What it said.
        reason: String,
    },
    /// A file's content cannot be understood.
    #[error(
        "{path:?} is damaged ({reason}): restore it from a copy, or remove the data directory and join again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

pub(super) fn system(operation: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::System {
        operation,
        path: path.to_owned(),
        source,
    }
}

pub(super) fn disk(directory: &Path, source: DiskError) -> StoreError {
    StoreError::Disk {
        path: directory.to_owned(),
        source,
    }
}
