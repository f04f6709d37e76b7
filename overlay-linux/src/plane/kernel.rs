//! The kernel below the plan, or a stand-in for it.

use nix::errno::Errno;
use overlay_core::plane::PlatformError;

use super::{filtering::NoFiltering, fitness::NoSealing, plan::Operation, tables::Tables};

/// What carries the plan out.
pub trait Kernel {
    /// Says whether it can seal what encrypted networks send, over IPv4 or IPv6.
    ///
    /// # Errors
    ///
    /// What is missing.
    fn can_seal(&mut self, v6: bool) -> Result<(), NoSealing>;

    /// Says whether it can carry out the rules of networks.
    ///
    /// # Errors
    ///
    /// What is missing.
    fn can_filter(&mut self) -> Result<(), NoFiltering>;

    /// Reads back what is there of the plane's making.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    fn read(&mut self) -> Result<Tables, PlatformError>;

    /// Carries out one operation.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`]. Some say only that the kernel has changed since it was read.
    fn carry_out(&mut self, operation: &Operation) -> Result<(), PlatformError>;
}

/// Whether an error says that the kernel is another one than it was, or busy for a moment: to be looked at again.
pub(super) fn passes(error: &PlatformError) -> bool {
    let codes = [
        Errno::EAGAIN,
        Errno::EBUSY,
        Errno::EEXIST,
        Errno::EINTR,
        Errno::ENOBUFS,
        Errno::ENODEV,
        Errno::ENOENT,
        Errno::ESRCH,
    ];
    let codes = codes.map(|code| code as i32);
    matches!(error, PlatformError::System { code, .. } if codes.contains(code))
}
