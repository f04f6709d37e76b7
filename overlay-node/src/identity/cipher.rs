//! The provider behind the AEAD seam of `overlay-core`: AES-GCM from `ring`.

use overlay_core::aead::{Aead, AeadError, AeadProvider, NONCE_BYTES, TAG_BYTES};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// AES-128-GCM and AES-256-GCM; there is no AES-192 here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ciphers;

impl AeadProvider for Ciphers {
    fn aes_gcm(&self, key: &[u8]) -> Result<Box<dyn Aead>, AeadError> {
        let algorithm = match key.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            found => return Err(AeadError::KeyLength { found }),
        };
        let key = UnboundKey::new(algorithm, key)
            .map_err(|_| AeadError::KeyLength { found: key.len() })?;
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
        let found = buffer.len();
        let text = buffer.get_mut(from..).ok_or(AeadError::TooLong { found })?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(associated), text)
            .map_err(|_| AeadError::TooLong { found })?;
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
        let text = buffer.get_mut(from..).ok_or(AeadError::Unauthentic)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0
            .open_in_place(nonce, Aad::from(associated), text)
            .map_err(|_| AeadError::Unauthentic)?;
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
        // Always as long as that: the tag of GCM.
        tag.as_ref()
            .try_into()
            .map_err(|_| AeadError::TooLong { found })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_and_nothing_else_does() {
        for length in [16, 32] {
            let cipher = Ciphers.aes_gcm(&vec![7; length]).unwrap();
            let mut buffer = b"headhello".to_vec();
            cipher.seal([1; 12], b"aad", &mut buffer, 4).unwrap();
            assert_eq!(buffer.len(), 9 + TAG_BYTES);
            let sealed = buffer.clone();
            cipher.open([1; 12], b"aad", &mut buffer, 4).unwrap();
            assert_eq!(buffer, b"headhello");
            let mut changed = sealed.clone();
            changed[5] ^= 1;
            let opened = cipher.open([1; 12], b"aad", &mut changed, 4);
            assert_eq!(opened, Err(AeadError::Unauthentic));
            let opened = cipher.open([1; 12], b"other", &mut sealed.clone(), 4);
            assert_eq!(opened, Err(AeadError::Unauthentic));
            // In place it is the same.
            let mut text = *b"hello";
            let tag = cipher.seal_in_place([1; 12], b"aad", &mut text).unwrap();
            assert_eq!([&text[..], &tag[..]].concat(), sealed[4..]);
            let mut packet = sealed[4..].to_vec();
            cipher.open_in_place([1; 12], b"aad", &mut packet).unwrap();
            assert_eq!(packet[..5], *b"hello");
            for (associated, octets) in [(&b"aad"[..], &sealed[5..]), (b"other", &sealed[4..])] {
                let opened = cipher.open_in_place([1; 12], associated, &mut octets.to_vec());
                assert_eq!(opened, Err(AeadError::Unauthentic));
            }
        }
        assert_eq!(
            Ciphers.aes_gcm(&[0; 24]).err(),
            Some(AeadError::KeyLength { found: 24 })
        );
    }
}
