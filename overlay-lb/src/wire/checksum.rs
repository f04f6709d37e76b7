//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::IpAddr;

/// A running one's complement sum of 16-bit words.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Starts with the pseudo-header of TCP, UDP and ICMPv6 (RFC 9293 §3.1, RFC 8200 §8.1).
    pub(crate) fn pseudo_header(
        source: IpAddr,
        destination: IpAddr,
        proto: u8,
        length: u32,
    ) -> Self {
        let mut sum = Self::default();
        for address in [source, destination] {
            match address {
                IpAddr::V4(address) => sum.add(&address.octets()),
                IpAddr::V6(address) => sum.add(&address.octets()),
            }
        }
        sum.add(&length.to_be_bytes());
        sum.add(&[0, proto]);
        sum
    }

    /// Adds octets; only the last piece of a message may be odd in length.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<2>();
        for word in words {
            self.0 = self.0.wrapping_add(u64::from(u16::from_be_bytes(*word)));
        }
        if let [octet] = rest {
            self.0 = self
                .0
                .wrapping_add(u64::from(u16::from_be_bytes([*octet, 0])));
        }
    }

    /// Returns the checksum: the complement of the sum.
    pub(crate) fn finish(self) -> u16 {
        !fold(self.0)
    }
}

/// What replacing some words adds to a sum (RFC 1624 §3, equation 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta(u64);

impl Delta {
    pub(crate) fn replace(&mut self, old: u16, new: u16) {
        self.0 = self
            .0
            .wrapping_add(u64::from(!old))
            .wrapping_add(u64::from(new));
    }

    /// Replaces four octets: 2^32 - 1 is a multiple of 2^16 - 1, so they fold to the same sum.
    #[inline]
    pub(crate) fn replace_wide(&mut self, old: [u8; 4], new: [u8; 4]) {
        self.0 = self
            .0
            .wrapping_add(u64::from(!u32::from_be_bytes(old)))
            .wrapping_add(u64::from(u32::from_be_bytes(new)));
    }

    /// Replaces eight octets.
    #[inline]
    pub(crate) fn replace_long(&mut self, old: u64, new: u64) {
        for word in [!old, new] {
            self.0 = self
                .0
                .wrapping_add(word >> 32)
                .wrapping_add(word & 0xffff_ffff);
        }
    }

    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// Returns the checksum after the change.
    #[inline(always)]
    pub(crate) fn apply(self, checksum: u16) -> u16 {
        !fold(self.0.wrapping_add(u64::from(!checksum)))
    }

    /// Returns the sum of a pseudo-header after the change: what the field of a partial checksum holds.
    #[inline]
    pub(crate) fn apply_partial(self, sum: u16) -> u16 {
        fold(self.0.wrapping_add(u64::from(sum)))
    }
}

#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32).wrapping_add(sum & 0xffff_ffff);
    let sum = (sum >> 16).wrapping_add(sum & 0xffff);
    let sum = (sum >> 16).wrapping_add(sum & 0xffff);
    let sum = (sum >> 16).wrapping_add(sum & 0xffff);
    // No more is left than 16 bits.
    let [.., high, low] = sum.to_be_bytes();
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        let mut sum = Sum::default();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), 0x220d);
    }

    #[test]
    fn the_example_of_rfc_1624_section_4() {
        let mut delta = Delta::default();
        delta.replace(0x5555, 0x3285);
        assert_eq!(delta.apply(0xdd2f), 0x0000);
    }

    #[test]
    fn the_largest_sums_fold() {
        for sum in [u64::MAX, 0xffff_ffff, 0xffff_0000_ffff, 0x1_ffff, 0xffff] {
            let mut slow = sum;
            while slow > 0xffff {
                slow = (slow >> 16) + (slow & 0xffff);
            }
            assert_eq!(u64::from(fold(sum)), slow);
        }
    }

    #[test]
    fn a_change_is_worth_a_new_sum() {
        let mut rng = overlay_core::Seed::from_u64(7).rng();
        for _ in 0..1_000 {
            let (mut bytes, new): ([u8; 24], [u8; 4]) = (rng.bytes(), rng.bytes());
            let before = {
                let mut sum = Sum::default();
                sum.add(&bytes);
                sum.finish()
            };
            let mut delta = Delta::default();
            delta.replace_wide(bytes[8..12].try_into().unwrap(), new);
            bytes[8..12].copy_from_slice(&new);
            let mut sum = Sum::default();
            sum.add(&bytes);
            // Zero has two forms in one's complement; all else has one.
            let both = [delta.apply(before), sum.finish()];
            assert!(both[0] == both[1] || both.iter().all(|sum| [0, 0xffff].contains(sum)));
        }
    }
}
