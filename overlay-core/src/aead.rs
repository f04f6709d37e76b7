//! Authenticated encryption, provided from outside.
//!
//! The cores that need it (gossip, encrypted networks) say what they seal and with which nonce; the cipher itself comes
//! from a maintained library behind these traits. `overlay-node` has the provider.

use std::fmt;

use thiserror::Error;

/// Length of a nonce, in octets.
pub const NONCE_BYTES: usize = 12;
/// Length of a tag, in octets.
pub const TAG_BYTES: usize = 16;

/// Makes ciphers from keys.
pub trait AeadProvider: fmt::Debug + Send + Sync {
    /// Makes an AES-GCM cipher; `key` of 16 octets picks AES-128, of 24 AES-192, of 32 AES-256.
    ///
    /// # Errors
    ///
    /// [`AeadError::KeyLength`] for every length that this provider has no cipher for.
    fn aes_gcm(&self, key: &[u8]) -> Result<Box<dyn Aead>, AeadError>;
}

/// One cipher with one key.
pub trait Aead: fmt::Debug + Send + Sync {
    /// Encrypts `buffer[from..]` in place and appends the tag.
    ///
    /// A nonce must never be used twice with one key.
    ///
    /// # Errors
    ///
    /// [`AeadError::TooLong`] if the cipher cannot take that much; the buffer is unchanged.
    fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), AeadError>;

    /// Checks and decrypts `buffer[from..]` in place and cuts the tag off.
    ///
    /// # Errors
    ///
    /// [`AeadError::Unauthentic`]; what the buffer then holds from `from` on is unspecified, so keep a copy in order to
    /// try another key.
    fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), AeadError>;
}

/// Sealing or opening failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AeadError {
    /// No cipher for a key of this length.
    #[error("no cipher for a key of {found} octets")]
    KeyLength {
        /// Octets of the key.
        found: usize,
    },
    /// The tag does not fit the text, the nonce, the associated data or the key.
    #[error("not authentic")]
    Unauthentic,
    /// The text is longer than the cipher takes.
    #[error("text of {found} octets is too long")]
    TooLong {
        /// Octets of the text.
        found: usize,
    },
}
