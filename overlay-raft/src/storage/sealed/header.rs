//! The header of a sealed file.

#![warn(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use overlay_core::{
    Rng,
    aead::{AeadError, AeadProvider, NONCE_BYTES},
};

use super::{
    super::crc::crc32c,
    key::{FILE_BYTES, FileKey, KEY_BYTES, Wrapping, erase},
};

/// A header that is whole. Whether it is authentic shows when its key is unwrapped.
pub(super) struct Header {
    /// The identity of the data key.
    pub(super) key: u64,
    file: [u8; FILE_BYTES],
    nonce: [u8; NONCE_BYTES],
    /// The file's key, sealed under the data key.
    wrapped: [u8; WRAPPED_BYTES],
}

/// Why a file has no header that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unusable {
    /// The file was not finished: it holds nothing yet.
    Torn,
    /// It does not begin like a sealed file.
    Plain,
    /// It did once.
    Damaged(&'static str),
}

impl Header {
    /// Reads the header of a file.
    ///
    /// It is synced before anything follows, so a crash damages it only where nothing does.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Unusable> {
        if bytes.len() <= HEADER_BYTES {
            let crashed = |(found, written): (&u8, &u8)| found == written || *found == 0;
            if !bytes.iter().zip(&MAGIC).all(crashed) {
                return Err(Unusable::Plain);
            }
        } else if !is_sealed(bytes) {
            return Err(Unusable::Plain);
        }
        let (head, _) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(Unusable::Torn)?;
        let parsed = Self::fields(head);
        match parsed {
            None if bytes.len() == HEADER_BYTES => Err(Unusable::Torn),
            None => Err(Unusable::Damaged("checksum of the header")),
            Some((VERSION, header)) => Ok(header),
            Some(_) => Err(Unusable::Damaged("unknown version of the format")),
        }
    }

    /// Unwraps the file's key.
    pub(super) fn unwrap(
        &self,
        provider: &dyn AeadProvider,
        wrapping: &Wrapping,
    ) -> Result<FileKey, AeadError> {
        let mut key = self.wrapped.to_vec();
        let opened =
            wrapping
                .cipher
                .open(self.nonce, &associated(self.key, self.file), &mut key, 0);
        let cipher = opened.and_then(|()| provider.aes_gcm(&key));
        erase(&mut key);
        Ok(FileKey {
            cipher: cipher?,
            file: self.file,
        })
    }

    /// Returns the octets of a header for the same file under another data key; its records stay as they are.
    pub(super) fn wrap_anew(
        &self,
        old: &Wrapping,
        new: &Wrapping,
        rng: &mut Rng,
    ) -> Result<Vec<u8>, AeadError> {
        let mut key = self.wrapped.to_vec();
        let opened = old
            .cipher
            .open(self.nonce, &associated(self.key, self.file), &mut key, 0);
        let header = opened.and_then(|()| emit(new, self.file, &key, rng.bytes()));
        erase(&mut key);
        header
    }

    /// Takes a header apart; `None` if it begins otherwise or its checksum does not fit.
    fn fields(head: &[u8; HEADER_BYTES]) -> Option<(u8, Self)> {
        let (covered, sum) = head.split_last_chunk::<4>()?;
        if !is_sealed(covered) || crc32c(0, covered) != u32::from_le_bytes(*sum) {
            return None;
        }
        let (prefix, rest) = covered.split_first_chunk::<PREFIX_BYTES>()?;
        let (key, rest) = rest.split_first_chunk::<8>()?;
        let (file, rest) = rest.split_first_chunk::<FILE_BYTES>()?;
        let (nonce, wrapped) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let header = Self {
            key: u64::from_be_bytes(*key),
            file: *file,
            nonce: *nonce,
            wrapped: *wrapped.first_chunk()?,
        };
        // A reserved octet that is set would be a later version's.
        let [_, _, _, _, version, 0, 0, 0] = *prefix else {
            return Some((0, header));
        };
        Some((version, header))
    }
}

/// Makes the header of a new file, with a key of its own.
pub(super) fn create(
    provider: &dyn AeadProvider,
    wrapping: &Wrapping,
    rng: &mut Rng,
) -> Result<(Vec<u8>, FileKey), AeadError> {
    let file = rng.bytes();
    let mut key: [u8; KEY_BYTES] = rng.bytes();
    let made = emit(wrapping, file, &key, rng.bytes())
        .and_then(|header| Ok((header, provider.aes_gcm(&key)?)));
    erase(&mut key);
    let (header, cipher) = made?;
    Ok((header, FileKey { cipher, file }))
}

/// Returns whether a file begins like a sealed one.
pub(super) fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

fn emit(
    wrapping: &Wrapping,
    file: [u8; FILE_BYTES],
    key: &[u8],
    nonce: [u8; NONCE_BYTES],
) -> Result<Vec<u8>, AeadError> {
    let associated = associated(wrapping.id, file);
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend(associated);
    out.extend(nonce);
    let from = out.len();
    out.extend_from_slice(key);
    wrapping.cipher.seal(nonce, &associated, &mut out, from)?;
    let sum = crc32c(0, &out);
    out.extend(sum.to_le_bytes());
    Ok(out)
}

/// Everything before the nonce.
fn associated(key: u64, file: [u8; FILE_BYTES]) -> [u8; ASSOCIATED_BYTES] {
    let mut out = [0; ASSOCIATED_BYTES];
    let key = key.to_be_bytes();
    let octets = MAGIC.iter().chain(&[VERSION, 0, 0, 0]);
    let octets = octets.chain(&key).chain(&file);
    for (to, octet) in out.iter_mut().zip(octets) {
        *to = *octet;
    }
    out
}

/// Octets of a header.
pub(super) const HEADER_BYTES: usize = 96;
const MAGIC: [u8; 4] = *b"OVLS";
const VERSION: u8 = 1;
const PREFIX_BYTES: usize = 8;
const ASSOCIATED_BYTES: usize = 32;
const WRAPPED_BYTES: usize = 48;
