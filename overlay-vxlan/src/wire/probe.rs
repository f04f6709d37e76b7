//! Probes of the path MTU between two switches of this family: the payload of an inner Ethernet frame.
//!
//! The frame has EtherType 0x88b5 and goes to 01:80:c2:00:00:0e, a group that bridges do not forward: a peer that knows
//! nothing of probes drops it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                          Magic "oPMT"                         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Version (1)  |     Kind      |             Size              |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                                                               |
//! +                             Token                             +
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                      Padding, ignored ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use overlay_core::MacAddr;

use super::{
    DecodeError, EmitError, need,
    octets::{read, read_u8, read_u16, read_u32, write, write_u8, write_u16, write_u32},
    room,
};
use crate::pmtu::Probe;

/// Length of the payload without padding, in octets.
pub const HEADER_BYTES: usize = 16;
/// Where the frame goes: the nearest bridge (IEEE 802.1Q table 8-1), which never forwards it.
pub const DESTINATION: MacAddr = MacAddr::new([0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e]);
/// Where the frame comes from: a locally administered address that no endpoint has.
pub const SOURCE: MacAddr = MacAddr::new([0x02, 0x00, 0x00, 0x00, 0x88, 0xb5]);

const MAGIC: usize = 0;
const VERSION: usize = 4;
const KIND: usize = 5;
const SIZE: usize = 6;
const TOKEN: usize = 8;

const MAGIC_VALUE: u32 = u32::from_be_bytes(*b"oPMT");
const VERSION_VALUE: u8 = 1;
const KIND_PROBE: u8 = 1;
const KIND_ACKNOWLEDGEMENT: u8 = 2;

/// The payload as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repr {
    /// Asks for an acknowledgement; padding follows up to the size.
    Probe(Probe),
    /// The probe came through.
    Acknowledgement(Probe),
}

impl Repr {
    /// Reads the payload of a frame; padding is ignored.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`], [`DecodeError::Version`], or [`DecodeError::Field`] for something else than a probe.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        need(bytes, HEADER_BYTES)?;
        let (magic, version) = (read_u32(bytes, MAGIC), read_u8(bytes, VERSION));
        if magic != MAGIC_VALUE {
            return Err(DecodeError::Field {
                offset: MAGIC,
                expected: MAGIC_VALUE,
                found: magic,
            });
        }
        if version != VERSION_VALUE {
            return Err(DecodeError::Version {
                expected: VERSION_VALUE,
                found: version,
            });
        }
        let probe = Probe {
            size_bytes: read_u16(bytes, SIZE),
            token: u64::from_be_bytes(read(bytes, TOKEN)),
        };
        match read_u8(bytes, KIND) {
            KIND_PROBE => Ok(Self::Probe(probe)),
            KIND_ACKNOWLEDGEMENT => Ok(Self::Acknowledgement(probe)),
            kind => Err(DecodeError::Field {
                offset: KIND,
                expected: KIND_PROBE.into(),
                found: kind.into(),
            }),
        }
    }

    /// Writes the payload to the start of `bytes`; padding is the caller's.
    ///
    /// # Errors
    ///
    /// [`EmitError`] below 16 octets; nothing is written.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), EmitError> {
        let header = room(bytes, HEADER_BYTES)?;
        let (kind, probe) = match self {
            Self::Probe(probe) => (KIND_PROBE, probe),
            Self::Acknowledgement(probe) => (KIND_ACKNOWLEDGEMENT, probe),
        };
        write_u32(header, MAGIC, MAGIC_VALUE);
        write_u8(header, VERSION, VERSION_VALUE);
        write_u8(header, KIND, kind);
        write_u16(header, SIZE, probe.size_bytes);
        write(header, TOKEN, probe.token.to_be_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_survives_the_round_trip_and_others_are_refused() {
        let probe = Probe {
            size_bytes: 0x0102,
            token: 0x0304_0506_0708_090a,
        };
        for repr in [Repr::Probe(probe), Repr::Acknowledgement(probe)] {
            let mut bytes = [0xff; 20];
            repr.emit(&mut bytes).unwrap();
            assert_eq!(Repr::parse(&bytes), Ok(repr));
            assert_eq!(bytes[6..16], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
            assert_eq!(bytes[16..], [0xff; 4]);
            assert_eq!(
                Repr::parse(&bytes[..15]),
                Err(DecodeError::Truncated { need: 16, have: 15 })
            );
            for at in 0..6 {
                let mut wrong = bytes;
                wrong[at] ^= 0x80;
                assert!(Repr::parse(&wrong).is_err(), "octet {at}");
            }
            assert_eq!(
                repr.emit(&mut bytes[..15]),
                Err(EmitError { need: 16, have: 15 })
            );
        }
    }
}
