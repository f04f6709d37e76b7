//! AES-GCM from `ring`, as a backend would bring it.

#![allow(dead_code, reason = "no test uses all of it")]

use overlay_core::aead::{Aead, AeadError, AeadProvider, NONCE_BYTES, TAG_BYTES};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// AES-128-GCM and AES-256-GCM.
#[derive(Debug)]
pub(crate) struct Ring;

impl AeadProvider for Ring {
    fn aes_gcm(&self, key: &[u8]) -> Result<Box<dyn Aead>, AeadError> {
        let algorithm = match key.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            found => return Err(AeadError::KeyLength { found }),
        };
        let key = UnboundKey::new(algorithm, key).expect("the length fits");
        Ok(Box::new(AesGcm(LessSafeKey::new(key))))
    }
}

#[derive(Debug)]
struct AesGcm(LessSafeKey);

impl Aead for AesGcm {
    fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), AeadError> {
        let tag = self.seal_in_place(nonce, associated, &mut buffer[from..])?;
        buffer.extend(tag);
        Ok(())
    }

    fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), AeadError> {
        self.open_in_place(nonce, associated, &mut buffer[from..])?;
        buffer.truncate(buffer.len() - TAG_BYTES);
        Ok(())
    }

    fn seal_in_place(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], AeadError> {
        let found = text.len();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(associated), text)
            .map_err(|_| AeadError::TooLong { found })?;
        Ok(tag.as_ref().try_into().expect("16 octets"))
    }

    fn open_in_place(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        text_and_tag: &mut [u8],
    ) -> Result<(), AeadError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0
            .open_in_place(nonce, Aad::from(associated), text_and_tag)
            .map(|_| ())
            .map_err(|_| AeadError::Unauthentic)
    }
}
