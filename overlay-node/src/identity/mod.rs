//! Who is who: join tokens, unlock keys, address leases, and behind the feature `tokio` certificates and TLS.

mod authority;
pub mod cipher;
mod claim;
mod lease;
mod pair;
mod token;
mod unlock;

#[cfg(feature = "tokio")]
pub mod certificate;
#[cfg(feature = "tokio")]
pub mod tls;

pub use authority::NextAuthority;
pub(crate) use claim::{Claims, Generation, Said, Signer};
pub use claim::{NodeKey, Pass};
pub use lease::{LeaseKey, LeaseSigner};
pub(crate) use pair::Pairs;
pub use token::{JoinToken, TokenError, ca_digest};
pub use unlock::{UnlockKey, UnlockKeyError};
