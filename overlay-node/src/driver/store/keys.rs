//! What the data directory is sealed with, and how that is kept beside it: as it is, or under an unlock key.

use overlay_core::{
    Rng,
    aead::{AeadProvider as _, NONCE_BYTES},
};
use overlay_raft::storage::DataKey;
use serde::{Deserialize, Serialize};

use crate::{
    identity::{UnlockKey, cipher::Ciphers},
    secret::Secret,
};

/// The keys that the files of a data directory are sealed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keys {
    current: Secret<32>,
    /// The one that takes over; files may be under either.
    next: Option<Secret<32>>,
}

impl Keys {
    pub(super) fn random(rng: &mut Rng) -> Self {
        Self {
            current: Secret::random(rng),
            next: None,
        }
    }

    pub(super) fn current(&self) -> DataKey {
        data_key(&self.current)
    }

    pub(super) fn next(&self) -> Option<DataKey> {
        self.next.as_ref().map(data_key)
    }

    /// Begins to replace the key, unless it is being replaced already.
    pub(super) fn succeed(&mut self, rng: &mut Rng) {
        self.next.get_or_insert_with(|| Secret::random(rng));
    }

    /// Drops the former key: everything is sealed with its successor.
    pub(super) fn settle(&mut self) {
        if let Some(next) = self.next.take() {
            self.current = next;
        }
    }
}

fn data_key(secret: &Secret<32>) -> DataKey {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(secret.expose());
    let key = DataKey::new(bytes);
    bytes.fill(0);
    std::hint::black_box(&bytes);
    key
}

/// The content of the key file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum KeyFile {
    /// Whoever has the directory has the keys.
    Open(Keys),
    /// They are sealed with an unlock key, which is elsewhere.
    Locked {
        nonce: [u8; NONCE_BYTES],
        sealed: Vec<u8>,
    },
}

impl KeyFile {
    /// Puts keys under an unlock key, or under none.
    ///
    /// The nonce is random: a file is written anew only when its keys change.
    pub(super) fn new(keys: &Keys, unlock: Option<&UnlockKey>, rng: &mut Rng) -> Self {
        let Some(unlock) = unlock else {
            return Self::Open(keys.clone());
        };
        let nonce = rng.bytes();
        let mut sealed = postcard::to_allocvec(keys).expect("every part serializes");
        let cipher = Ciphers.aes_gcm(unlock.secret().expose());
        let cipher = cipher.expect("an unlock key has the octets of AES-256");
        cipher
            .seal(nonce, ASSOCIATED, &mut sealed, 0)
            .expect("keys are short");
        Self::Locked { nonce, sealed }
    }

    /// Returns the keys; `None` if `unlock` is not the one that they are under.
    pub(super) fn open(&self, unlock: Option<&UnlockKey>) -> Option<Keys> {
        match (self, unlock) {
            (Self::Open(keys), _) => Some(keys.clone()),
            (Self::Locked { .. }, None) => None,
            (Self::Locked { nonce, sealed }, Some(unlock)) => {
                let cipher = Ciphers.aes_gcm(unlock.secret().expose()).ok()?;
                let mut text = sealed.clone();
                cipher.open(*nonce, ASSOCIATED, &mut text, 0).ok()?;
                let keys = postcard::from_bytes(&text).ok();
                text.fill(0);
                std::hint::black_box(&text);
                keys
            }
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(postcard::to_allocvec(self).expect("every part serializes"));
        bytes
    }

    /// Reads a key file, or says why it is none.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let (version, content) = bytes.split_first().ok_or("it is empty")?;
        if *version != VERSION {
            return Err("it is of another version");
        }
        postcard::from_bytes(content).map_err(|_| "its content is malformed")
    }
}

const VERSION: u8 = 1;
const ASSOCIATED: &[u8] = b"overlay data directory, keys";

#[cfg(test)]
mod tests {
    use overlay_core::Seed;

    use super::*;

    #[test]
    fn locked_keys_open_with_their_unlock_key_only() {
        let mut rng = Seed::from_u64(1).rng();
        let (mut keys, unlock) = (Keys::random(&mut rng), UnlockKey::random(&mut rng));
        keys.succeed(&mut rng);
        let file = KeyFile::new(&keys, Some(&unlock), &mut rng);
        let bytes = file.to_bytes();
        for secret in [&keys.current, keys.next.as_ref().unwrap()] {
            let mut parts = bytes.windows(8);
            assert!(!parts.any(|part| part == &secret.expose()[..8]));
        }
        let read = KeyFile::from_bytes(&bytes).unwrap();
        assert_eq!(read.open(Some(&unlock)), Some(keys.clone()));
        assert_eq!(read.open(None), None);
        assert_eq!(read.open(Some(&UnlockKey::random(&mut rng))), None);
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            let opened = KeyFile::from_bytes(&bytes).map(|file| file.open(Some(&unlock)));
            assert!(!matches!(opened, Ok(Some(_))), "octet {at}");
        }
        let open = KeyFile::new(&keys, None, &mut rng).to_bytes();
        let open = KeyFile::from_bytes(&open).unwrap();
        assert_eq!(open.open(None), Some(keys));
    }

    #[test]
    fn a_key_that_takes_over_is_one() {
        let mut rng = Seed::from_u64(2).rng();
        let mut keys = Keys::random(&mut rng);
        let first = keys.clone();
        keys.settle();
        assert_eq!(keys, first);
        keys.succeed(&mut rng);
        let next = keys.next.clone();
        keys.succeed(&mut rng);
        assert_eq!((&keys.current, &keys.next), (&first.current, &next));
        keys.settle();
        assert_eq!((Some(&keys.current), &keys.next), (next.as_ref(), &None));
    }
}
