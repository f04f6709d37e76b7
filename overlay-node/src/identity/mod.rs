//! Who is who: join tokens, address leases, and behind the feature `tokio` certificates and TLS.

mod authority;
pub mod cipher;
mod lease;
mod token;

#[cfg(feature = "tokio")]
pub mod certificate;
#[cfg(feature = "tokio")]
pub mod tls;

pub use authority::NextAuthority;
pub use lease::{LeaseKey, LeaseSigner};
pub use token::{JoinToken, TokenError, ca_digest};
