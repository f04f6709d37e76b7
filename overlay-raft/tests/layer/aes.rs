//! A real AES-256-GCM for the tests.

use aes_gcm::{AeadInPlace as _, Aes256Gcm, KeyInit as _, Nonce};
use overlay_core::aead::{Aead, AeadError, AeadProvider, NONCE_BYTES, TAG_BYTES};

/// AES-256-GCM from the `aes-gcm` crate.
#[derive(Debug)]
pub(crate) struct AesGcm256;

struct Cipher(Aes256Gcm);

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher(..)")
    }
}

impl AeadProvider for AesGcm256 {
    fn aes_gcm(&self, key: &[u8]) -> Result<Box<dyn Aead>, AeadError> {
        let found = key.len();
        let cipher = Aes256Gcm::new_from_slice(key).map_err(|_| AeadError::KeyLength { found })?;
        Ok(Box::new(Cipher(cipher)))
    }
}

impl Aead for Cipher {
    fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), AeadError> {
        let found = buffer.len();
        let nonce = Nonce::from(nonce);
        let tag = self
            .0
            .encrypt_in_place_detached(&nonce, associated, &mut buffer[from..])
            .map_err(|_| AeadError::TooLong { found })?;
        buffer.extend_from_slice(&tag);
        Ok(())
    }

    fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), AeadError> {
        let end = buffer.len().checked_sub(TAG_BYTES);
        let end = end.filter(|end| *end >= from);
        let tag = buffer.split_off(end.ok_or(AeadError::Unauthentic)?);
        let (nonce, tag) = (Nonce::from(nonce), aes_gcm::Tag::clone_from_slice(&tag));
        self.0
            .decrypt_in_place_detached(&nonce, associated, &mut buffer[from..], &tag)
            .map_err(|_| AeadError::Unauthentic)
    }
}
