//! AES-GCM from `ring`, as a backend would bring it.

use overlay_core::aead::{Aead, AeadError, AeadProvider, NONCE_BYTES, TAG_BYTES};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// AES-128-GCM.
#[derive(Debug)]
pub(crate) struct Ring;

#[derive(Debug)]
struct AesGcm(LessSafeKey);

impl AeadProvider for Ring {
    fn aes_gcm(&self, key: &[u8]) -> Result<Box<dyn Aead>, AeadError> {
        let found = key.len();
        let key = UnboundKey::new(&AES_128_GCM, key);
        let key = key.map_err(|_| AeadError::KeyLength { found })?;
        Ok(Box::new(AesGcm(LessSafeKey::new(key))))
    }
}

impl Aead for AesGcm {
    fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), AeadError> {
        let (nonce, found) = (Nonce::assume_unique_for_key(nonce), buffer.len());
        let text = &mut buffer[from..];
        let sealed = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(associated), text);
        let tag = sealed.map_err(|_| AeadError::TooLong { found })?;
        buffer.extend_from_slice(tag.as_ref());
        Ok(())
    }

    fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), AeadError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let text = &mut buffer[from..];
        let opened = self.0.open_in_place(nonce, Aad::from(associated), text);
        opened.map_err(|_| AeadError::Unauthentic)?;
        buffer.truncate(buffer.len() - TAG_BYTES);
        Ok(())
    }
}
