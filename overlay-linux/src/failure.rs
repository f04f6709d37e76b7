//! A failed system call in a form that travels from a holder to its daemon.

use std::{fmt, io};

use overlay_core::plane::PlatformError;
use serde::{Deserialize, Serialize};

/// What was tried, and what the system said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// With its object: `open /dev/net/tun`.
    pub(crate) operation: String,
    /// `errno`, 0 if there was none.
    pub(crate) code: i32,
    /// The error in words, where there was no `errno`.
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(operation: impl Into<String>, error: &io::Error) -> Self {
        let code = error.raw_os_error().unwrap_or_default();
        let detail = if code == 0 {
            error.to_string()
        } else {
            String::new()
        };
        Self {
            operation: operation.into(),
            code,
            detail,
        }
    }

    pub(crate) fn is_one_of(&self, codes: &[nix::errno::Errno]) -> bool {
        codes.iter().any(|code| *code as i32 == self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            operation,
            code,
            detail,
        } = self;
        if *code == 0 {
            write!(f, "{operation}: {detail}")
        } else {
            write!(f, "{operation}: {}", io::Error::from_raw_os_error(*code))
        }
    }
}

impl From<Failure> for PlatformError {
    fn from(failure: Failure) -> Self {
        if failure.code == 0 {
            let operation = format!("{}: {}", failure.operation, failure.detail);
            return Self::system(operation, &io::ErrorKind::Other.into());
        }
        let error = io::Error::from_raw_os_error(failure.code);
        Self::system(failure.operation, &error)
    }
}

/// Says what was being done when a call failed.
pub(crate) trait Doing<T> {
    /// Names the operation, with its object.
    fn doing(self, operation: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, operation: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(operation(), &error.into()))
    }
}
