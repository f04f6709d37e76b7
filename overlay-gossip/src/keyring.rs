//! The key ring: an ordered list of keys of which the first encrypts and each decrypts.

use std::{fmt, sync::Arc};

use overlay_core::aead::{Aead, AeadProvider, NONCE_BYTES, TAG_BYTES};
use zeroize::Zeroizing;

use crate::{DecodeError, KeyError};

/// The keys of a cluster. `Debug` shows how many there are and nothing of them.
///
/// Rotation: install the new key on every member, use it on every member, then remove the old one. Or, where the keys of
/// each generation are handed out as a whole, hold three of them, oldest, primary and newest, and
/// [`replace`](Self::replace) them on each member whenever it hears of the next generation: members that are one
/// generation apart understand each other, so nobody has to wait for anybody.
#[derive(Clone)]
pub struct Keyring {
    provider: Arc<dyn AeadProvider>,
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    secret: Zeroizing<Vec<u8>>,
    cipher: Arc<dyn Aead>,
}

impl Keyring {
    /// Makes a ring with one key of 16, 24 or 32 octets: AES-128, AES-192, AES-256.
    ///
    /// # Errors
    ///
    /// [`KeyError::Length`] for a key that the provider has no cipher for.
    pub fn new(provider: Arc<dyn AeadProvider>, primary: &[u8]) -> Result<Self, KeyError> {
        let mut ring = Self {
            provider,
            keys: Vec::new(),
        };
        ring.install(primary)?;
        Ok(ring)
    }

    /// Adds a key that decrypts from now on. A key that is there already stays where it is.
    ///
    /// # Errors
    ///
    /// [`KeyError::Length`], or [`KeyError::Full`] with [`KEYS_MAX`] keys.
    pub fn install(&mut self, key: &[u8]) -> Result<(), KeyError> {
        if self.position(key).is_some() {
            return Ok(());
        }
        if self.keys.len() >= KEYS_MAX {
            return Err(KeyError::Full { limit: KEYS_MAX });
        }
        let cipher = self
            .provider
            .aes_gcm(key)
            .map_err(|_| KeyError::Length { found: key.len() })?;
        self.keys.push(Key {
            secret: Zeroizing::new(key.to_vec()),
            cipher: Arc::from(cipher),
        });
        Ok(())
    }

    /// Makes an installed key the primary one, which encrypts.
    ///
    /// # Errors
    ///
    /// [`KeyError::Unknown`] if it was not installed.
    pub fn make_primary(&mut self, key: &[u8]) -> Result<(), KeyError> {
        let at = self.position(key).ok_or(KeyError::Unknown)?;
        let key = self.keys.remove(at);
        self.keys.insert(0, key);
        Ok(())
    }

    /// Removes a key, which decrypts no more.
    ///
    /// # Errors
    ///
    /// [`KeyError::Primary`] for the primary key, [`KeyError::Unknown`] if it was not installed.
    pub fn remove(&mut self, key: &[u8]) -> Result<(), KeyError> {
        match self.position(key) {
            None => Err(KeyError::Unknown),
            Some(0) => Err(KeyError::Primary),
            Some(at) => {
                self.keys.remove(at);
                Ok(())
            }
        }
    }

    /// Makes the ring just `keys`, of which `primary` encrypts. What was installed before and is again is kept as it is;
    /// keys that are named twice count once.
    ///
    /// # Errors
    ///
    /// The ring is unchanged. [`KeyError::Unknown`] if `primary` is not among `keys`, [`KeyError::Full`] for more than
    /// [`KEYS_MAX`] keys, [`KeyError::Length`].
    pub fn replace<K: AsRef<[u8]>>(&mut self, keys: &[K], primary: &[u8]) -> Result<(), KeyError> {
        let mut ring = Self {
            provider: Arc::clone(&self.provider),
            keys: Vec::new(),
        };
        for key in keys.iter().map(K::as_ref) {
            match self.position(key).and_then(|at| self.keys.get(at)) {
                Some(_) if ring.contains(key) => {}
                Some(known) if ring.keys.len() < KEYS_MAX => ring.keys.push(known.clone()),
                Some(_) | None => ring.install(key)?,
            }
        }
        ring.make_primary(primary)?;
        *self = ring;
        Ok(())
    }

    /// Returns how many keys are installed, at least one.
    #[expect(clippy::len_without_is_empty, reason = "a ring is never empty")]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns whether `key` is installed.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.position(key).is_some()
    }

    /// Returns whether `key` is the primary one.
    pub fn is_primary(&self, key: &[u8]) -> bool {
        self.position(key) == Some(0)
    }

    /// Encrypts with the primary key: version, nonce, ciphertext, tag.
    pub(crate) fn seal(
        &self,
        framing: Framing,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        text: &[u8],
    ) -> Option<Vec<u8>> {
        let mut frame = Vec::with_capacity(text.len().saturating_add(SEAL_BYTES_MAX));
        frame.push(framing.version());
        frame.extend_from_slice(&nonce);
        frame.extend_from_slice(text);
        if framing == Framing::Padded {
            let pad = BLOCK_BYTES.saturating_sub(text.len() % BLOCK_BYTES);
            let octet = u8::try_from(pad).unwrap_or_default();
            frame.resize(frame.len().saturating_add(pad), octet);
        }
        let primary = self.keys.first()?;
        let sealed = primary
            .cipher
            .seal(nonce, associated, &mut frame, HEAD_BYTES);
        sealed.ok().map(|()| frame)
    }

    /// Decrypts a frame with whichever key fits.
    pub(crate) fn open(&self, associated: &[u8], frame: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let (&version, rest) = frame.split_first().ok_or(DecodeError::Sealed)?;
        let framing = Framing::of(version).ok_or(DecodeError::Sealed)?;
        let (nonce, text) = rest
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(DecodeError::Sealed)?;
        if text.len() < TAG_BYTES {
            return Err(DecodeError::Sealed);
        }
        for key in &self.keys {
            let mut buffer = text.to_vec();
            if key.cipher.open(*nonce, associated, &mut buffer, 0).is_ok() {
                return framing.strip(buffer);
            }
        }
        Err(DecodeError::Sealed)
    }

    fn position(&self, key: &[u8]) -> Option<usize> {
        self.keys.iter().position(|known| *known.secret == key)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

/// How a text becomes a frame; the first octet of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Version 0: padded to blocks of 16 octets (PKCS#7). Only accepted, never sent.
    Padded,
    /// Version 1: as it is.
    Plain,
}

impl Framing {
    const fn version(self) -> u8 {
        match self {
            Self::Padded => 0,
            Self::Plain => 1,
        }
    }

    const fn of(version: u8) -> Option<Self> {
        match version {
            0 => Some(Self::Padded),
            1 => Some(Self::Plain),
            _ => None,
        }
    }

    fn strip(self, mut text: Vec<u8>) -> Result<Vec<u8>, DecodeError> {
        if self == Self::Padded {
            let pad = text.last().copied().map_or(0, usize::from);
            let kept = text.len().checked_sub(pad);
            match kept {
                Some(kept) if (1..=BLOCK_BYTES).contains(&pad) => text.truncate(kept),
                _ => return Err(DecodeError::Sealed),
            }
        }
        Ok(text)
    }
}

/// Most keys on a ring; each costs a try on every foreign packet.
pub const KEYS_MAX: usize = 16;
/// Octets that sealing a packet adds.
pub(crate) const SEAL_BYTES: usize = HEAD_BYTES + TAG_BYTES;
const HEAD_BYTES: usize = 1 + NONCE_BYTES;
const BLOCK_BYTES: usize = 16;
const SEAL_BYTES_MAX: usize = SEAL_BYTES + BLOCK_BYTES;

#[cfg(test)]
mod tests {
    use overlay_core::aead::AeadError;

    use super::*;

    #[test]
    fn keys_are_installed_used_and_removed_in_turn() {
        let mut ring = Keyring::new(Arc::new(NoCipher), &[1; 16]).unwrap();
        ring.install(&[2; 32]).unwrap();
        ring.install(&[2; 32]).unwrap();
        assert_eq!(ring.len(), 2, "installed once");
        assert!(ring.is_primary(&[1; 16]));
        assert_eq!(ring.remove(&[1; 16]), Err(KeyError::Primary));
        assert_eq!(ring.make_primary(&[3; 16]), Err(KeyError::Unknown));
        ring.make_primary(&[2; 32]).unwrap();
        ring.remove(&[1; 16]).unwrap();
        assert!(ring.is_primary(&[2; 32]) && !ring.contains(&[1; 16]));
    }

    #[test]
    fn a_ring_is_bounded_and_takes_no_wrong_length() {
        let mut ring = Keyring::new(Arc::new(NoCipher), &[0; 16]).unwrap();
        assert_eq!(ring.install(&[1; 17]), Err(KeyError::Length { found: 17 }));
        for number in 1..16 {
            ring.install(&[number; 16]).unwrap();
        }
        let full = Err(KeyError::Full { limit: KEYS_MAX });
        assert_eq!(ring.install(&[99; 16]), full);
    }

    #[test]
    fn a_ring_is_replaced_as_a_whole_or_not_at_all() {
        let key = |number: u8| [number; 16];
        let mut ring = Keyring::new(Arc::new(NoCipher), &key(1)).unwrap();
        ring.replace(&[key(1), key(2), key(3), key(2)], &key(2))
            .unwrap();
        assert!(ring.is_primary(&key(2)) && ring.len() == 3);
        let kept = Arc::clone(&ring.keys[0].cipher);
        let many: Vec<[u8; 16]> = (2..=18).map(key).collect();
        let too_many = ring.replace(&many, &key(2));
        assert_eq!(too_many, Err(KeyError::Full { limit: KEYS_MAX }));
        let known_beyond: Vec<[u8; 16]> = (4..=19).chain([2]).map(key).collect();
        let too_many = ring.replace(&known_beyond, &key(4));
        assert_eq!(too_many, Err(KeyError::Full { limit: KEYS_MAX }));
        let none: [[u8; 16]; 0] = [];
        assert_eq!(ring.replace(&none, &key(2)), Err(KeyError::Unknown));
        assert_eq!(ring.replace(&[key(4)], &key(2)), Err(KeyError::Unknown));
        let short = ring.replace(&[&key(4)[..], &[0; 15]], &key(4));
        assert_eq!(short, Err(KeyError::Length { found: 15 }));
        assert!(ring.is_primary(&key(2)) && ring.contains(&key(1)) && ring.contains(&key(3)));
        ring.replace(&[key(4), key(2)], &key(4)).unwrap();
        assert!(ring.is_primary(&key(4)) && !ring.contains(&key(1)) && ring.len() == 2);
        assert!(Arc::ptr_eq(&kept, &ring.keys[1].cipher), "kept as it was");
        ring.replace(&many[..16], &many[15]).unwrap();
        assert_eq!(ring.len(), KEYS_MAX);
    }

    #[test]
    fn a_ring_does_not_show_its_keys() {
        let ring = Keyring::new(Arc::new(NoCipher), &[77; 16]).unwrap();
        assert_eq!(format!("{ring:?}"), "Keyring { keys: 1, .. }");
    }

    #[test]
    fn padding_that_cannot_be_is_refused() {
        let strip = |text: &[u8]| Framing::Padded.strip(text.to_vec());
        assert_eq!(strip(b"a\x02\x02"), Ok(b"a".to_vec()));
        for text in [&b""[..], b"a\x00", b"a\x03", &[17; 32]] {
            assert_eq!(strip(text), Err(DecodeError::Sealed), "{text:?}");
        }
    }

    /// Knows lengths, and nothing else.
    #[derive(Debug)]
    struct NoCipher;

    impl AeadProvider for NoCipher {
        fn aes_gcm(&self, key: &[u8]) -> Result<Box<dyn Aead>, AeadError> {
            match key.len() {
                16 | 24 | 32 => Ok(Box::new(Self)),
                found => Err(AeadError::KeyLength { found }),
            }
        }
    }

    impl Aead for NoCipher {
        fn seal(&self, _: [u8; 12], _: &[u8], _: &mut Vec<u8>, _: usize) -> Result<(), AeadError> {
            Ok(())
        }

        fn open(&self, _: [u8; 12], _: &[u8], _: &mut Vec<u8>, _: usize) -> Result<(), AeadError> {
            Err(AeadError::Unauthentic)
        }
    }
}
