//! What a connection begins with.
//!
//! ```text
//!  0                       7        8                16               24               32
//! +-----------------------+--------+----------------+----------------+----------------+
//! |  "overlay" (7 octets)  | version|   group (LE)   |   sender (LE)  | recipient (LE) |
//! +-----------------------+--------+----------------+----------------+----------------+
//! ```

use crate::RaftId;

/// Who speaks to whom, and in which cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) group: u64,
    pub(super) from: RaftId,
    pub(super) to: RaftId,
}

impl Hello {
    pub(super) fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        let parts = MAGIC
            .into_iter()
            .chain([VERSION])
            .chain(self.group.to_le_bytes())
            .chain(self.from.get().to_le_bytes())
            .chain(self.to.get().to_le_bytes());
        for (place, octet) in bytes.iter_mut().zip(parts) {
            *place = octet;
        }
        bytes
    }

    /// Returns what a connection began with; `None` if nobody of ours says that.
    pub(super) fn decode(bytes: &[u8; HELLO_BYTES]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk()?;
        let (version, rest) = rest.split_first_chunk()?;
        let (group, rest) = rest.split_first_chunk()?;
        let (from, rest) = rest.split_first_chunk()?;
        let (to, _) = rest.split_first_chunk()?;
        if *magic != MAGIC || *version != [VERSION] {
            return None;
        }
        Some(Self {
            group: u64::from_le_bytes(*group),
            from: RaftId::new(u64::from_le_bytes(*from))?,
            to: RaftId::new(u64::from_le_bytes(*to))?,
        })
    }
}

/// How long it is, in octets.
pub(super) const HELLO_BYTES: usize = 32;

const MAGIC: [u8; 7] = *b"overlay";

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_says_what_was_meant() {
        let hello = Hello {
            group: u64::MAX,
            from: RaftId::new(1).unwrap(),
            to: RaftId::new(u64::MAX).unwrap(),
        };
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
    }

    #[test]
    fn another_protocol_another_version_and_nobody_are_refused() {
        let hello = Hello {
            group: 7,
            from: RaftId::new(1).unwrap(),
            to: RaftId::new(2).unwrap(),
        };
        for at in [0, 6, 7, 16] {
            let mut bytes = hello.encode();
            bytes[at] ^= 1;
            assert_eq!(Hello::decode(&bytes), None, "octet {at}");
        }
    }
}
