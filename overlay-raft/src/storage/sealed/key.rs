//! Keys: the caller's, which wraps, and one for each file.

use std::fmt;

use overlay_core::{
    Rng,
    aead::{Aead, AeadError, AeadProvider, NONCE_BYTES, TAG_BYTES},
};

/// The key that everything on a disk is sealed under: 32 octets, drawn at random, never a passphrase.
///
/// `Debug` does not show it; it is overwritten when dropped.
pub struct DataKey([u8; KEY_BYTES]);

impl DataKey {
    /// Takes a key in.
    pub const fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Draws a key.
    pub fn random(rng: &mut Rng) -> Self {
        Self(rng.bytes())
    }

    /// Shows the octets, for who has to keep them.
    pub const fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

impl Drop for DataKey {
    fn drop(&mut self) {
        erase(&mut self.0);
    }
}

/// A data key as a cipher, with its identity.
pub(super) struct Wrapping {
    pub(super) cipher: Box<dyn Aead>,
    pub(super) id: u64,
}

impl Wrapping {
    /// The identity is the first half of the tag of nothing under the key: it tells keys apart and does not tell the key.
    ///
    /// Its nonce is zero, which no random one repeats but with a chance of 2⁻⁹⁶ each.
    pub(super) fn new(provider: &dyn AeadProvider, key: &DataKey) -> Result<Self, AeadError> {
        let cipher = provider.aes_gcm(&key.0)?;
        let mut tag = Vec::with_capacity(TAG_BYTES);
        cipher.seal([0; NONCE_BYTES], IDENTITY, &mut tag, 0)?;
        let id = tag.first_chunk().copied().ok_or(AeadError::Unauthentic)?;
        Ok(Self {
            cipher,
            id: u64::from_be_bytes(id),
        })
    }
}

/// The cipher of one file, and the identity that its records are bound to. Both stay when it is renamed or wrapped anew.
pub(super) struct FileKey {
    pub(super) cipher: Box<dyn Aead>,
    pub(super) file: [u8; FILE_BYTES],
}

/// Overwrites what was secret.
pub(super) fn erase(bytes: &mut [u8]) {
    bytes.fill(0);
    // Keeps the writes above from being left out as dead.
    std::hint::black_box(bytes);
}

/// Octets of a key: AES-256.
pub(super) const KEY_BYTES: usize = 32;
/// Octets of a file's identity.
pub(super) const FILE_BYTES: usize = 16;
const IDENTITY: &[u8] = b"overlay sealed disk, identity of a key";
