//! The Internet checksum (RFC 1071), also over pseudo-headers, and its incremental update (RFC 1624).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ipv4::Protocol;

/// A running one's complement sum of 16-bit words.
///
/// Pieces are added in any order; a piece of odd length is padded with a zero octet, so only the last piece of a message
/// may have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Starts at zero.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Starts with the pseudo-header of TCP, UDP and ICMPv6 (RFC 9293 §3.1, RFC 8200 §8.1).
    ///
    /// `length` is that of transport header and payload, in octets. Addresses of two families sum up to nonsense.
    #[must_use]
    pub fn pseudo_header(
        source: IpAddr,
        destination: IpAddr,
        protocol: Protocol,
        length: u32,
    ) -> Self {
        let mut sum = Self::new();
        sum.add_address(source);
        sum.add_address(destination);
        sum.add_bytes(&length.to_be_bytes());
        sum.add_word(u16::from(protocol.0));
        sum
    }

    /// Adds one word.
    pub fn add_word(&mut self, word: u16) {
        self.0 = self.0.wrapping_add(u64::from(word));
    }

    /// Adds `bytes`, at most 2^32 octets over the life of the sum.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        // Eight octets at a time in the machine's own order, as two numbers of 32 bits: 2^32 - 1 is a multiple of
        // 2^16 - 1, so the carries fold to the same sum, and a sum of swapped words is the swapped sum (RFC 1071 §2).
        let (words, rest) = bytes.as_chunks::<8>();
        if !words.is_empty() {
            let (mut low, mut high) = (0_u64, 0_u64);
            for word in words {
                let word = u64::from_ne_bytes(*word);
                low = low.wrapping_add(word & 0xffff_ffff);
                high = high.wrapping_add(word >> 32);
            }
            self.add_word(u16::from_be(Self(low.wrapping_add(high)).fold()));
        }
        let (words, rest) = rest.as_chunks::<4>();
        for word in words {
            self.0 = self.0.wrapping_add(u64::from(u32::from_be_bytes(*word)));
        }
        match *rest {
            [a] => self.add_word(u16::from_be_bytes([a, 0])),
            [a, b] => self.add_word(u16::from_be_bytes([a, b])),
            [a, b, c] => {
                self.add_word(u16::from_be_bytes([a, b]));
                self.add_word(u16::from_be_bytes([c, 0]));
            }
            _ => {}
        }
    }

    /// Returns the sum in 16 bits, not complemented: what a partial checksum's field holds.
    #[must_use]
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16).wrapping_add(sum & 0xffff);
        }
        u16::try_from(sum).unwrap_or(u16::MAX)
    }

    /// Returns the checksum: the complement of the sum. Zero over a message that contains its right checksum.
    #[must_use]
    pub fn finish(self) -> u16 {
        !self.fold()
    }

    fn add_address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.add_bytes(&Ipv4Addr::octets(&address)),
            IpAddr::V6(address) => self.add_bytes(&Ipv6Addr::octets(&address)),
        }
    }
}

/// Returns the checksum of `bytes`.
#[must_use]
pub fn of(bytes: &[u8]) -> u16 {
    let mut sum = Sum::new();
    sum.add_bytes(bytes);
    sum.finish()
}

/// Returns the checksum after one word of the message changed from `old` to `new` (RFC 1624 §3, equation 3).
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = Sum::new();
    sum.add_word(!checksum);
    sum.add_word(!old);
    sum.add_word(new);
    sum.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        let mut sum = Sum::new();
        sum.add_bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.fold(), 0xddf2);
        assert_eq!(sum.finish(), 0x220d);
    }

    #[test]
    fn the_example_of_rfc_1624_section_4() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn odd_pieces_are_padded() {
        for (bytes, padded) in [
            (&[1u8][..], &[1u8, 0][..]),
            (&[1, 2, 3], &[1, 2, 3, 0]),
            (&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 0]),
        ] {
            assert_eq!(of(bytes), of(padded));
        }
        assert_eq!(of(&[]), 0xffff);
    }

    #[test]
    fn the_largest_message_does_not_overflow() {
        assert_eq!(of(&[0xff; 65_536]), 0);
    }
}
