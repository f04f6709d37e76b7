//! AES-GCM as ESP uses it: what nonce and associated data are made of (RFC 4106).

use std::fmt;

use overlay_core::aead::{Aead, AeadError, AeadProvider, TAG_BYTES};

use super::keys::SaKeys;
use crate::wire::esp::Spi;

/// A cipher with its key and salt.
pub(super) struct Cipher {
    aead: Box<dyn Aead>,
    salt: [u8; 4],
}

/// Tells keys apart without having them: what the cipher makes of nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fingerprint([u8; TAG_BYTES]);

impl Cipher {
    pub(super) fn new(keys: &SaKeys, provider: &dyn AeadProvider) -> Result<Self, AeadError> {
        Ok(Self {
            aead: provider.aes_gcm(keys.key())?,
            salt: keys.salt(),
        })
    }

    /// Encrypts a text; the sequence number is the initialization vector, which so is never used twice.
    #[inline]
    pub(super) fn seal(
        &self,
        spi: Spi,
        sequence: u64,
        text: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], AeadError> {
        let nonce = self.nonce(sequence.to_be_bytes());
        self.aead
            .seal_in_place(nonce, &associated(spi, sequence), text)
    }

    /// Checks and decrypts a text with its ICV.
    #[inline]
    pub(super) fn open(
        &self,
        spi: Spi,
        sequence: u64,
        iv: [u8; 8],
        text_and_icv: &mut [u8],
    ) -> Result<(), AeadError> {
        self.aead
            .open_in_place(self.nonce(iv), &associated(spi, sequence), text_and_icv)
    }

    /// Returns what tells key and salt from others. The nonce is that of sequence number zero, which is never sent.
    pub(super) fn fingerprint(&self) -> Result<Fingerprint, AeadError> {
        let nonce = self.nonce([0; 8]);
        let tag = self.aead.seal_in_place(nonce, b"fingerprint", &mut []);
        tag.map(Fingerprint)
    }

    /// Returns salt and initialization vector (RFC 4106 §4).
    fn nonce(&self, iv: [u8; 8]) -> [u8; 12] {
        joined(u32::from_be_bytes(self.salt), u64::from_be_bytes(iv))
    }
}

/// Returns SPI and the whole sequence number (RFC 4106 §5, figure 3).
fn associated(spi: Spi, sequence: u64) -> [u8; 12] {
    joined(spi.0, sequence)
}

/// Writes 4 octets and 8 as one word: what is read in other pieces than it was written in has to be waited for.
fn joined(first: u32, rest: u64) -> [u8; 12] {
    let word = u128::from(first) << 96 | u128::from(rest) << 32;
    let octets = word.to_be_bytes();
    *octets
        .first_chunk()
        .expect("a word of 16 octets has 12 in front")
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher(..)")
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(..)")
    }
}

impl Drop for Cipher {
    fn drop(&mut self) {
        self.salt.fill(0);
        // Keeps the write above from being left out as dead.
        std::hint::black_box(&self.salt);
    }
}
