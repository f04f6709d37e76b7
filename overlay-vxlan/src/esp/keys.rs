//! What an association is made of.

use std::fmt;

use overlay_core::aead::AeadError;
use thiserror::Error;

use crate::wire::esp::Spi;

/// Octets of the longest key, that of AES-256.
const KEY_BYTES_MAX: usize = 32;

/// SPI, key and salt of one association (RFC 4106 §8.1). The secret is zeroed when it is dropped, and `Debug` does not show
/// it.
#[derive(Clone, PartialEq, Eq)]
pub struct SaKeys {
    spi: Spi,
    secret: Secret,
}

#[derive(Clone, PartialEq, Eq)]
struct Secret {
    key: [u8; KEY_BYTES_MAX],
    key_bytes: usize,
    salt: [u8; 4],
}

impl SaKeys {
    /// Takes what names an association and what keys it: a key of 16 octets (AES-128) or 32 (AES-256), and a salt.
    ///
    /// Key and salt together must be those of one direction between two nodes, and of nothing else ever: two senders with
    /// one key, or one that begins anew with it, give both texts away.
    ///
    /// # Errors
    ///
    /// [`KeysError::ReservedSpi`], or [`KeysError::Cipher`] for a key of another length.
    pub fn new(spi: Spi, key: &[u8], salt: [u8; 4]) -> Result<Self, KeysError> {
        if spi.is_reserved() {
            return Err(KeysError::ReservedSpi { spi });
        }
        let key_bytes = key.len();
        let mut secret = Secret {
            key: [0; KEY_BYTES_MAX],
            key_bytes,
            salt,
        };
        match secret.key.get_mut(..key_bytes) {
            Some(place) if [16, 32].contains(&key_bytes) => place.copy_from_slice(key),
            _ => return Err(AeadError::KeyLength { found: key_bytes }.into()),
        }
        Ok(Self { spi, secret })
    }

    /// Returns the name.
    #[must_use]
    pub const fn spi(&self) -> Spi {
        self.spi
    }

    pub(super) fn key(&self) -> &[u8] {
        self.secret
            .key
            .get(..self.secret.key_bytes)
            .unwrap_or_default()
    }

    pub(super) const fn salt(&self) -> [u8; 4] {
        self.secret.salt
    }
}

impl fmt::Debug for SaKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaKeys")
            .field("spi", &self.spi)
            .finish_non_exhaustive()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.key.fill(0);
        self.salt.fill(0);
        // Keeps the writes above from being left out as dead.
        std::hint::black_box((&self.key, &self.salt));
    }
}

/// The associations with one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerKeys {
    /// What is sent with.
    pub outbound: SaKeys,
    /// What may come: while keys are replaced, that of the old ones and that of the new ones.
    pub inbound: Vec<SaKeys>,
}

/// Keys were not taken; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeysError {
    /// There is no room for another peer.
    #[error("expected at most {max} peers")]
    Peers {
        /// The bound, [`Config::peers_max`](super::Config::peers_max).
        max: usize,
    },
    /// There are more inbound associations than a peer may have.
    #[error("expected at most {max} inbound associations, found {found}")]
    Inbound {
        /// The bound, [`Config::inbound_max`](super::Config::inbound_max).
        max: usize,
        /// How many there would be.
        found: usize,
    },
    /// No association may have this SPI.
    #[error("expected an SPI above 255, found {spi}")]
    ReservedSpi {
        /// The SPI.
        spi: Spi,
    },
    /// Two inbound associations of a peer have one SPI.
    #[error("expected one inbound association with SPI {spi}, found two")]
    SpiTwice {
        /// The SPI.
        spi: Spi,
    },
    /// Key and salt are, or were, those of another association.
    #[error("expected a key of its own for SPI {spi}, found that of another association")]
    KeyInUse {
        /// The SPI of the association that was to have it.
        spi: Spi,
    },
    /// The provider has no such cipher.
    #[error(transparent)]
    Cipher(#[from] AeadError),
}
