//! The VXLAN header (RFC 7348 §5), which follows the outer UDP header, and two extensions of it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |R|R|R|R|I|R|R|R|            Reserved                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                VXLAN Network Identifier (VNI) |   Reserved    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//!
//! The first word with a group policy (draft-smith-vxlan-group-policy §2.1):
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |G|R|R|R|I|R|R|R|R|D|R|R|A|R|R|R|        Group Policy ID        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//!
//! The first word of the generic protocol extension (draft-ietf-nvo3-vxlan-gpe §3):
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |R|R|Ver|I|P|B|O|       Reserved                | Next Protocol |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Both extensions use bits that RFC 7348 reserves, so a receiver has to know which of them its peers mean.

use overlay_core::Vni;

use super::{
    DecodeError, EmitError, need,
    octets::{read, read_u8, read_u16, tail, write},
    room,
};

/// Length of the header, in octets.
pub const HEADER_BYTES: usize = 8;
/// The UDP port that IANA assigned (RFC 7348 §8).
pub const UDP_PORT: u16 = 4789;
/// The UDP port that IANA assigned to the generic protocol extension (draft-ietf-nvo3-vxlan-gpe §5).
pub const GPE_UDP_PORT: u16 = 4790;

const FLAGS: usize = 0;
const POLICY_FLAGS: usize = 1;
const POLICY_ID: usize = 2;
const NEXT_PROTOCOL: usize = 3;
const VNI: usize = 4;

/// The I flag: the VNI is valid.
const VNI_VALID: u8 = 0x08;
/// The G flag: the header has a group policy.
const HAS_POLICY: u8 = 0x80;
/// The D flag: the source MAC address must not be learned.
const DONT_LEARN: u8 = 0x40;
/// The A flag: the policy was applied.
const POLICY_APPLIED: u8 = 0x08;
/// The version of the generic protocol extension.
const VERSION: u8 = 0x30;
/// The P flag: the header says what follows it.
const HAS_PROTOCOL: u8 = 0x04;
/// The O flag: operations, administration and maintenance.
const OAM: u8 = 0x01;

/// A view of a header and the inner frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T>(T);

impl<T: AsRef<[u8]>> Packet<T> {
    /// Takes a header of at least 8 octets with the I flag. All reserved bits are ignored (RFC 7348 §5).
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`], or [`DecodeError::FlagUnset`].
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        let octets = bytes.as_ref();
        need(octets, HEADER_BYTES)?;
        if read_u8(octets, FLAGS) & VNI_VALID == 0 {
            return Err(DecodeError::FlagUnset {
                offset: FLAGS,
                flags: VNI_VALID,
            });
        }
        Ok(Self(bytes))
    }

    /// Returns the network identifier.
    pub fn vni(&self) -> Vni {
        Vni::from_octets(read(self.0.as_ref(), VNI))
    }

    /// Returns the group policy, if there is one, from a peer that uses the extension.
    pub fn group_policy(&self) -> Option<GroupPolicy> {
        let bytes = self.0.as_ref();
        let flags = read_u8(bytes, POLICY_FLAGS);
        (read_u8(bytes, FLAGS) & HAS_POLICY != 0).then(|| GroupPolicy {
            id: read_u16(bytes, POLICY_ID),
            dont_learn: flags & DONT_LEARN != 0,
            applied: flags & POLICY_APPLIED != 0,
        })
    }

    /// Returns what follows the header, from a peer that uses the generic protocol extension; Ethernet if it does not say.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Version`], or [`DecodeError::Field`] for operations, administration and maintenance (the O flag),
    /// which is for the VTEP itself and must not be forwarded.
    pub fn next_protocol(&self) -> Result<NextProtocol, DecodeError> {
        let bytes = self.0.as_ref();
        let flags = read_u8(bytes, FLAGS);
        if flags & VERSION != 0 {
            return Err(DecodeError::Version {
                expected: 0,
                found: (flags & VERSION) >> 4,
            });
        }
        if flags & OAM != 0 {
            return Err(DecodeError::Field {
                offset: FLAGS,
                expected: u32::from(flags & !OAM),
                found: flags.into(),
            });
        }
        Ok(if flags & HAS_PROTOCOL == 0 {
            NextProtocol::ETHERNET
        } else {
            NextProtocol(read_u8(bytes, NEXT_PROTOCOL))
        })
    }

    /// Returns the inner frame, which may be shorter than an Ethernet header.
    pub fn payload(&self) -> &[u8] {
        tail(self.0.as_ref(), HEADER_BYTES..)
    }
}

/// Which group of endpoints a frame comes from, for the policies of the receiver (draft-smith-vxlan-group-policy §2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GroupPolicy {
    /// The group.
    pub id: u16,
    /// The receiver must not learn where the source MAC address is.
    pub dont_learn: bool,
    /// The policy was applied already.
    pub applied: bool,
}

/// What follows a header of the generic protocol extension (draft-ietf-nvo3-vxlan-gpe §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextProtocol(pub u8);

impl NextProtocol {
    /// An IPv4 packet.
    pub const IPV4: Self = Self(1);
    /// An IPv6 packet.
    pub const IPV6: Self = Self(2);
    /// An Ethernet frame.
    pub const ETHERNET: Self = Self(3);
    /// A network service header.
    pub const NSH: Self = Self(4);
}

/// What a header says beside the VNI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Extension {
    /// Nothing (RFC 7348): an Ethernet frame follows.
    #[default]
    None,
    /// The group of the sender; an Ethernet frame follows.
    GroupPolicy(GroupPolicy),
    /// What follows.
    NextProtocol(NextProtocol),
}

/// The header as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Repr {
    /// The network identifier.
    pub vni: Vni,
    /// What it says beside.
    pub extension: Extension,
}

impl Repr {
    /// Makes the header of a network.
    pub const fn new(vni: Vni) -> Self {
        Self::with_extension(vni, Extension::None)
    }

    /// Makes the header of a network whose members use an extension.
    pub const fn with_extension(vni: Vni, extension: Extension) -> Self {
        Self { vni, extension }
    }

    /// Reads the header as RFC 7348 has it; the bits of extensions are reserved, and ignored.
    pub fn parse<T: AsRef<[u8]>>(packet: &Packet<T>) -> Self {
        Self::new(packet.vni())
    }

    /// Returns the octets of the header; all reserved bits are zero (RFC 7348 §5).
    #[must_use]
    pub const fn octets(&self) -> [u8; HEADER_BYTES] {
        let [a, b, c] = self.vni.octets();
        match self.extension {
            Extension::None => [VNI_VALID, 0, 0, 0, a, b, c, 0],
            Extension::GroupPolicy(policy) => {
                let [high, low] = policy.id.to_be_bytes();
                let learn = if policy.dont_learn { DONT_LEARN } else { 0 };
                let applied = if policy.applied { POLICY_APPLIED } else { 0 };
                let flags = learn | applied;
                [VNI_VALID | HAS_POLICY, flags, high, low, a, b, c, 0]
            }
            Extension::NextProtocol(next) => [VNI_VALID | HAS_PROTOCOL, 0, 0, next.0, a, b, c, 0],
        }
    }

    /// Writes the header to the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`EmitError`] below 8 octets; nothing is written.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), EmitError> {
        write(room(bytes, HEADER_BYTES)?, 0, self.octets());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vni() -> Vni {
        Vni::new(0x01_02_03).unwrap()
    }

    #[test]
    fn a_group_policy_is_where_the_draft_has_it() {
        for (id, dont_learn, applied, octets) in [
            (0, false, false, [0x88, 0, 0, 0, 1, 2, 3, 0]),
            (0xabcd, true, false, [0x88, 0x40, 0xab, 0xcd, 1, 2, 3, 0]),
            (0xffff, true, true, [0x88, 0x48, 0xff, 0xff, 1, 2, 3, 0]),
        ] {
            let policy = GroupPolicy {
                id,
                dont_learn,
                applied,
            };
            let repr = Repr::with_extension(vni(), Extension::GroupPolicy(policy));
            assert_eq!(repr.octets(), octets);
            let packet = Packet::new_checked(octets).unwrap();
            assert_eq!(packet.group_policy(), Some(policy));
            assert_eq!(packet.vni(), vni());
            // To who knows nothing of it, the bits are reserved.
            assert_eq!(Repr::parse(&packet), Repr::new(vni()));
        }
        let plain = Packet::new_checked([0x08, 0x48, 0xab, 0xcd, 1, 2, 3, 0]).unwrap();
        assert_eq!(plain.group_policy(), None);
    }

    #[test]
    fn what_follows_is_where_the_draft_has_it() {
        for next in [1, 2, 3, 4, 0, 255].map(NextProtocol) {
            let repr = Repr::with_extension(vni(), Extension::NextProtocol(next));
            assert_eq!(repr.octets(), [0x0c, 0, 0, next.0, 1, 2, 3, 0]);
            let packet = Packet::new_checked(repr.octets()).unwrap();
            assert_eq!(packet.next_protocol(), Ok(next));
        }
        let read = |flags| {
            let packet = Packet::new_checked([flags, 0xff, 0xff, 1, 1, 2, 3, 0xff]).unwrap();
            packet.next_protocol()
        };
        // Without the P flag an Ethernet frame follows; the B flag and reserved bits are ignored.
        assert_eq!(read(0x08), Ok(NextProtocol::ETHERNET));
        assert_eq!(read(0xca), Ok(NextProtocol::ETHERNET));
        assert_eq!(read(0x0e), Ok(NextProtocol::IPV4));
        for (flags, found) in [(0x1c, 1), (0x3c, 3)] {
            assert_eq!(
                read(flags),
                Err(DecodeError::Version { expected: 0, found })
            );
        }
        assert!(matches!(read(0x0d), Err(DecodeError::Field { .. })));
    }

    #[test]
    fn every_reserved_bit_is_ignored() {
        let octets = Repr::new(vni()).octets();
        for bit in 0..64 {
            let mut changed = octets;
            changed[bit / 8] ^= 0x80 >> (bit % 8);
            let read = Packet::new_checked(changed).map(|packet| Repr::parse(&packet));
            match bit {
                4 => assert_eq!(
                    read.unwrap_err(),
                    DecodeError::FlagUnset {
                        offset: 0,
                        flags: 8
                    }
                ),
                32..56 => assert_ne!(read, Ok(Repr::new(vni()))),
                _ => assert_eq!(read, Ok(Repr::new(vni())), "bit {bit}"),
            }
        }
    }
}
