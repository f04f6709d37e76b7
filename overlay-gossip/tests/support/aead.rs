//! A real AES-GCM for the tests.

use std::sync::Arc;

use aes_gcm::{
    AeadInPlace, Aes128Gcm, Aes256Gcm, KeyInit, Nonce,
    aead::generic_array::typenum::{U12, U16},
    aes::{Aes192, cipher::BlockCipher},
};
use overlay_core::aead::{Aead, AeadError, AeadProvider, NONCE_BYTES, TAG_BYTES};
use overlay_gossip::Keyring;

/// AES-GCM from the `aes-gcm` crate.
#[derive(Debug)]
pub(crate) struct RealAead;

struct Cipher<C>(C);

impl<C> std::fmt::Debug for Cipher<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher(..)")
    }
}

impl AeadProvider for RealAead {
    fn aes_gcm(&self, key: &[u8]) -> Result<Box<dyn Aead>, AeadError> {
        let found = key.len();
        let wrong = move |_| AeadError::KeyLength { found };
        Ok(match found {
            16 => Box::new(Cipher(Aes128Gcm::new_from_slice(key).map_err(wrong)?)),
            24 => Box::new(Cipher(
                aes_gcm::AesGcm::<Aes192, U12, U16>::new_from_slice(key).map_err(wrong)?,
            )),
            32 => Box::new(Cipher(Aes256Gcm::new_from_slice(key).map_err(wrong)?)),
            _ => return Err(AeadError::KeyLength { found }),
        })
    }
}

impl<A, T> Aead for Cipher<aes_gcm::AesGcm<A, U12, T>>
where
    aes_gcm::AesGcm<A, U12, T>: AeadInPlace<NonceSize = U12, TagSize = U16> + Send + Sync,
    A: BlockCipher,
    T: aes_gcm::TagSize,
{
    fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), AeadError> {
        let nonce = Nonce::from(nonce);
        let sealed = self
            .0
            .encrypt_in_place_detached(&nonce, associated, &mut buffer[from..]);
        let tag = sealed.map_err(|_| AeadError::TooLong {
            found: buffer.len(),
        })?;
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
        let nonce = Nonce::from(nonce);
        let end = buffer
            .len()
            .checked_sub(TAG_BYTES)
            .filter(|end| *end >= from);
        let end = end.ok_or(AeadError::Unauthentic)?;
        let tag = aes_gcm::Tag::clone_from_slice(&buffer.split_off(end));
        self.0
            .decrypt_in_place_detached(&nonce, associated, &mut buffer[from..], &tag)
            .map_err(|_| AeadError::Unauthentic)
    }
}

/// A ring with one key.
pub(crate) fn ring(key: &[u8]) -> Keyring {
    Keyring::new(Arc::new(RealAead), key).expect("a good key")
}
