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

    /// Encrypts `text` in place and returns the tag; for packets that are built in a larger buffer.
    ///
    /// A nonce must never be used twice with one key. The default goes by way of [`seal`](Self::seal) and a copy.
    ///
    /// # Errors
    ///
    /// [`AeadError::TooLong`] if the cipher cannot take that much; the text is unchanged.
    fn seal_in_place(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], AeadError> {
        let found = text.len();
        let mut buffer = text.to_vec();
        self.seal(nonce, associated, &mut buffer, 0)?;
        let (sealed, tag) = buffer
            .split_last_chunk()
            .filter(|(sealed, _)| sealed.len() == found)
            .ok_or(AeadError::TooLong { found })?;
        text.copy_from_slice(sealed);
        Ok(*tag)
    }

    /// Checks and decrypts a text in place, of which the last [`TAG_BYTES`] octets are the tag; those are unspecified then.
    ///
    /// The default goes by way of [`open`](Self::open) and a copy.
    ///
    /// # Errors
    ///
    /// [`AeadError::Unauthentic`]; what `text_and_tag` then holds is unspecified.
    fn open_in_place(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        text_and_tag: &mut [u8],
    ) -> Result<(), AeadError> {
        let mut buffer = text_and_tag.to_vec();
        self.open(nonce, associated, &mut buffer, 0)?;
        let place = text_and_tag.get_mut(..buffer.len());
        place
            .ok_or(AeadError::Unauthentic)?
            .copy_from_slice(&buffer);
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds the first octet of nonce and associated data to each octet: no cipher, but one that tells them apart.
    #[derive(Debug)]
    struct Shift;

    impl Aead for Shift {
        fn seal(
            &self,
            nonce: [u8; NONCE_BYTES],
            associated: &[u8],
            buffer: &mut Vec<u8>,
            from: usize,
        ) -> Result<(), AeadError> {
            let by = nonce[0].wrapping_add(associated[0]);
            for octet in &mut buffer[from..] {
                *octet = octet.wrapping_add(by);
            }
            buffer.extend([by; TAG_BYTES]);
            Ok(())
        }

        fn open(
            &self,
            nonce: [u8; NONCE_BYTES],
            associated: &[u8],
            buffer: &mut Vec<u8>,
            from: usize,
        ) -> Result<(), AeadError> {
            let by = nonce[0].wrapping_add(associated[0]);
            let end = buffer.len().checked_sub(TAG_BYTES);
            let end = end.ok_or(AeadError::Unauthentic)?;
            if buffer[end..] != [by; TAG_BYTES] {
                return Err(AeadError::Unauthentic);
            }
            buffer.truncate(end);
            for octet in &mut buffer[from..] {
                *octet = octet.wrapping_sub(by);
            }
            Ok(())
        }
    }

    #[test]
    fn a_cipher_that_knows_vectors_alone_seals_and_opens_in_place() {
        let mut packet = *b"hello................";
        let (text, place) = packet.split_at_mut(5);
        let tag = Shift.seal_in_place([1; 12], &[2], text).unwrap();
        assert_eq!((&*text, tag), (&b"khoor"[..], [3; TAG_BYTES]));
        place.copy_from_slice(&tag);
        let sealed = packet;
        Shift.open_in_place([1; 12], &[2], &mut packet).unwrap();
        assert_eq!(packet[..5], *b"hello");
        for (nonce, associated, octets) in
            [(2, 2, &sealed[..]), (1, 3, &sealed), (1, 2, &sealed[..15])]
        {
            let opened = Shift.open_in_place([nonce; 12], &[associated], &mut octets.to_vec());
            assert_eq!(opened, Err(AeadError::Unauthentic));
        }
    }
}
