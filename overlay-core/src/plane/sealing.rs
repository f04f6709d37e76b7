//! What encrypted networks are sealed with between nodes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The security associations with one peer (RFC 4303): ESP in transport mode around VXLAN, AES-128-GCM with an ICV of 16
/// octets (RFC 4106), extended sequence numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerKeys {
    /// What is sent with.
    pub outbound: SaKeys,
    /// What may come: one of each generation of keys, oldest first.
    pub inbound: Vec<SaKeys>,
}

/// SPI and secret of one association.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaKeys {
    /// Names it among those of its receiver; never below 256.
    pub spi: u32,
    /// The key, and behind it the salt of four octets, as RFC 4106 §8.1 has them.
    key: [u8; KEY_BYTES],
}

/// Octets of a key for AES-128, and of its salt.
const KEY_BYTES: usize = 20;

impl SaKeys {
    /// Takes what names an association and what keys it.
    pub const fn new(spi: u32, key: [u8; 16], salt: [u8; 4]) -> Self {
        let mut both = [0; KEY_BYTES];
        let (front, back) = both.split_at_mut(16);
        front.copy_from_slice(&key);
        back.copy_from_slice(&salt);
        Self { spi, key: both }
    }

    /// Returns the key.
    pub fn key(&self) -> &[u8] {
        self.key.split_at(16).0
    }

    /// Returns the salt.
    pub fn salt(&self) -> [u8; 4] {
        let mut salt = [0; 4];
        salt.copy_from_slice(self.key.split_at(16).1);
        salt
    }

    /// Returns key and salt in one piece, as a kernel takes them.
    pub const fn key_and_salt(&self) -> &[u8; KEY_BYTES] {
        &self.key
    }
}

impl fmt::Debug for SaKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaKeys")
            .field("spi", &format_args!("{:#010x}", self.spi))
            .finish_non_exhaustive()
    }
}

impl Drop for SaKeys {
    fn drop(&mut self) {
        self.key.fill(0);
        // Keeps the writes above from being left out as dead.
        std::hint::black_box(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_apart_and_never_shown() {
        let keys = SaKeys::new(0x1001, [7; 16], [8; 4]);
        assert_eq!((keys.key(), keys.salt()), (&[7; 16][..], [8; 4]));
        assert_eq!(keys.key_and_salt()[15..17], [7, 8]);
        assert_eq!(format!("{keys:?}"), "SaKeys { spi: 0x00001001, .. }");
    }
}
