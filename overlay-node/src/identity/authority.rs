//! The certificate authority that takes over from another one.

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// The certificate authority that takes over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextAuthority {
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: Secret<0>,
    /// A certificate of the same name and key that the present authority signed, PEM: nodes that trust only that one take what
    /// the next one signed.
    pub cross: String,
}
