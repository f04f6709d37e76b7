//! Security associations: ESP in transport mode (RFC 4303) inside UDP (RFC 3948), AES-GCM (RFC 4106), extended sequence
//! numbers.
//!
//! ```text
//! struct xfrm_usersa_info
//! 0        56          72   76      80       96       160   192     204  208   212    214  215    216    224
//! +--------+-----------+----+-------+--------+--------+-----+-------+----+-----+------+----+------+-----+
//! |selector|destination| SPI|proto -| source | limits | use | stats | seq|reqid|family|mode|window|flags|
//! +--------+-----------+----+-------+--------+--------+-----+-------+----+-----+------+----+------+-----+
//! ```
//! and behind it, as attributes: algorithm with key and ICV, UDP encapsulation, replay window.

use std::{fmt, net::IpAddr};

use overlay_core::plane::SaKeys;

use super::{
    ESP, REQID, TRANSPORT_MODE,
    selector::{Selector, address, family, parse_address, put},
};
use crate::nftables::attribute::{Attributes, Parsed};

/// What names an association: where it ends, and its SPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AssociationId {
    pub(crate) destination: IpAddr,
    pub(crate) spi: u32,
}

/// One direction between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Association {
    pub(crate) source: IpAddr,
    pub(crate) secret: Secret,
    /// Both UDP ports of what is sealed.
    pub(crate) port: u16,
    /// Whether it is sent with, rather than opened with.
    pub(crate) outbound: bool,
    /// The UDP port of what is inside.
    pub(crate) inner_port: u16,
}

/// Key and salt, which are never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) Option<SaKeys>);

/// An association as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// None if it is none such as are made here.
    pub(crate) association: Option<Association>,
    /// The last sequence number, sent or taken.
    pub(crate) sequence: u64,
}

impl AssociationId {
    pub(super) fn emit(&self) -> Vec<u8> {
        let mut body = vec![0; ID_BYTES];
        put(&mut body, 0, &address(self.destination));
        put(&mut body, 16, &self.spi.to_be_bytes());
        put(&mut body, 20, &family(self.destination).to_ne_bytes());
        put(&mut body, 22, &[ESP]);
        body
    }
}

impl Association {
    /// Whether the kernel has this one: keys that it does not show are taken for the same.
    pub(crate) fn is(&self, found: &Self) -> bool {
        let shown = found.secret.0.is_some();
        let secret = if shown { &found.secret } else { &self.secret };
        let secret = secret.clone();
        Self {
            secret,
            ..found.clone()
        } == *self
    }

    /// Such that the next packet has the number after `after`, or all up to that one have come.
    pub(super) fn emit(&self, id: &AssociationId, after: u64) -> Vec<u8> {
        let selector = Selector::udp_to(self.source, id.destination, self.inner_port);
        let mut body = vec![0; INFO_BYTES];
        let fields: [(usize, &[u8]); 9] = [
            (0, selector.octets()),
            (DESTINATION, &address(id.destination)),
            (SPI, &id.spi.to_be_bytes()),
            (PROTOCOL, &[ESP]),
            (SOURCE, &address(self.source)),
            (LIMITS, &NO_LIMITS),
            (REQID_AT, &REQID.to_ne_bytes()),
            (FAMILY, &family(id.destination).to_ne_bytes()),
            (MODE, &[TRANSPORT_MODE, 0, EXTENDED]),
        ];
        for (offset, value) in fields {
            put(&mut body, offset, value);
        }
        let mut algorithm = vec![0; ALGORITHM_BYTES];
        put(&mut algorithm, 0, ALGORITHM);
        put(&mut algorithm, KEY_LENGTH, &KEY_BITS.to_ne_bytes());
        put(&mut algorithm, KEY_LENGTH + 4, &ICV_BITS.to_ne_bytes());
        if let Secret(Some(keys)) = &self.secret {
            algorithm.extend_from_slice(keys.key_and_salt());
        }
        let attributes = Attributes::default()
            .value(ATTRIBUTE_ALGORITHM, &algorithm)
            .value(ATTRIBUTE_ENCAPSULATION, &self.encapsulation())
            .value(ATTRIBUTE_REPLAY, &self.replay(after));
        super::wipe(&mut algorithm);
        body.extend_from_slice(attributes.octets());
        let mut octets = attributes.into_octets();
        super::wipe(&mut octets);
        body
    }

    /// Reads one of ours back.
    fn parse(body: &[u8], id: &AssociationId) -> Option<Self> {
        let attributes = Parsed(body.get(INFO_BYTES..)?);
        let of = u16::from_ne_bytes(*body.get(FAMILY..)?.first_chunk()?);
        let algorithm = attributes.value(ATTRIBUTE_ALGORITHM)?;
        let key = algorithm.get(ALGORITHM_BYTES..)?;
        let port = attributes.value(ATTRIBUTE_ENCAPSULATION)?;
        let replay = attributes.value(ATTRIBUTE_REPLAY)?;
        let inner_port = body.get(SELECTOR_PORT..)?.first_chunk()?;
        let found = Self {
            source: parse_address(body.get(SOURCE..)?, of)?,
            secret: Secret::parse(id.spi, key),
            port: u16::from_be_bytes(*port.get(2..)?.first_chunk()?),
            outbound: *replay.first_chunk()? == OUTBOUND_WORDS.to_ne_bytes(),
            inner_port: u16::from_be_bytes(*inner_port),
        };
        // Whatever is said otherwise means something else.
        let mut made = found.emit(id, 0);
        let own = Parsed(made.get(INFO_BYTES..)?);
        let name = |algorithm: &[u8]| algorithm.get(..ALGORITHM_BYTES).map(<[u8]>::to_vec);
        let window =
            |replay: &[u8]| Some((replay.get(..4)?.to_vec(), replay.get(20..24)?.to_vec()));
        let same = body.get(..Selector::BYTES) == made.get(..Selector::BYTES)
            && body.get(MODE) == made.get(MODE)
            && body.get(FLAGS) == made.get(FLAGS)
            && name(algorithm) == own.value(ATTRIBUTE_ALGORITHM).and_then(name)
            && Some(port) == own.value(ATTRIBUTE_ENCAPSULATION)
            && window(replay) == own.value(ATTRIBUTE_REPLAY).and_then(window)
            && attributes.value(super::ATTRIBUTE_MARK).is_none();
        super::wipe(&mut made);
        same.then_some(found)
    }

    /// `struct xfrm_encap_tmpl`: kind, both ports, an address that only translators ask for.
    fn encapsulation(&self) -> [u8; ENCAPSULATION_BYTES] {
        let mut octets = [0; ENCAPSULATION_BYTES];
        put(&mut octets, 0, &ESP_IN_UDP.to_ne_bytes());
        put(&mut octets, 2, &self.port.to_be_bytes());
        put(&mut octets, 4, &self.port.to_be_bytes());
        octets
    }

    /// `struct xfrm_replay_state_esn`: words of the bitmap, sent, taken, the upper halves of both, the window, the bitmap.
    fn replay(&self, after: u64) -> Vec<u8> {
        let words = if self.outbound {
            OUTBOUND_WORDS
        } else {
            WINDOW / 32
        };
        let [a, b, c, d, e, f, g, h] = after.to_be_bytes();
        let (upper, lower) = (
            u32::from_be_bytes([a, b, c, d]),
            u32::from_be_bytes([e, f, g, h]),
        );
        let (sent, taken) = if self.outbound {
            ([lower, upper], [0; 2])
        } else {
            ([0; 2], [lower, upper])
        };
        let head = [words, sent[0], taken[0], sent[1], taken[1], words * 32];
        // Whatever came before is taken for seen.
        let bit = if after == 0 { 0 } else { u32::MAX };
        let bitmap = (0..words).map(|_| bit);
        let all = head.into_iter().chain(bitmap);
        all.flat_map(u32::to_ne_bytes).collect()
    }
}

impl Secret {
    fn parse(spi: u32, octets: &[u8]) -> Self {
        let keys = octets.split_first_chunk().and_then(|(key, rest)| {
            let salt = *rest.first_chunk()?;
            Some(SaKeys::new(spi, *key, salt))
        });
        // A kernel that is locked down shows zeros.
        Self(keys.filter(|keys| keys.key_and_salt().iter().any(|octet| *octet != 0)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Reads one of ours back, whatever it is made of.
pub(super) fn parse(body: &[u8]) -> Option<(AssociationId, Found)> {
    let of = u16::from_ne_bytes(*body.get(FAMILY..)?.first_chunk()?);
    let reqid = u32::from_ne_bytes(*body.get(REQID_AT..)?.first_chunk()?);
    if reqid != REQID || *body.get(PROTOCOL)? != ESP {
        return None;
    }
    let id = AssociationId {
        destination: parse_address(body.get(DESTINATION..)?, of)?,
        spi: u32::from_be_bytes(*body.get(SPI..)?.first_chunk()?),
    };
    let association = Association::parse(body, &id);
    let replay = Parsed(body.get(INFO_BYTES..)?).value(ATTRIBUTE_REPLAY);
    let word = |at: usize| {
        let word = replay?.get(4 * at..)?.first_chunk()?;
        Some(u64::from(u32::from_ne_bytes(*word)))
    };
    let number = |lower, upper| Some(word(upper)? << 32 | word(lower)?);
    let sequence = number(1, 3).max(number(2, 4)).unwrap_or_default();
    let found = Found {
        association,
        sequence,
    };
    Some((id, found))
}

/// No bounds in octets and packets, none in time.
pub(super) const NO_LIMITS: [u8; 64] = {
    let mut limits = [0; 64];
    let mut at = 0;
    while at < 32 {
        limits[at] = 0xff;
        at += 1;
    }
    limits
};

const ID_BYTES: usize = 24;
const INFO_BYTES: usize = 224;
/// In the selector.
const SELECTOR_PORT: usize = 32;
const DESTINATION: usize = 56;
const SPI: usize = 72;
const PROTOCOL: usize = 76;
const SOURCE: usize = 80;
const LIMITS: usize = 96;
const REQID_AT: usize = 208;
const FAMILY: usize = 212;
const MODE: usize = 214;
const FLAGS: usize = 216;
/// `XFRM_STATE_ESN`.
const EXTENDED: u8 = 128;
const ATTRIBUTE_ENCAPSULATION: u16 = 4;
const ATTRIBUTE_ALGORITHM: u16 = 18;
const ATTRIBUTE_REPLAY: u16 = 23;
const ENCAPSULATION_BYTES: usize = 24;
/// `UDP_ENCAP_ESPINUDP`.
const ESP_IN_UDP: u16 = 2;
const ALGORITHM: &[u8] = b"rfc4106(gcm(aes))";
/// Name and both lengths.
const ALGORITHM_BYTES: usize = 72;
const KEY_LENGTH: usize = 64;
/// With the salt.
const KEY_BITS: u32 = 160;
const ICV_BITS: u32 = 128;
/// Packets that may come late: as many as the user plane takes.
const WINDOW: u32 = 2_048;
/// Nothing comes by it, but none at all is refused.
const OUTBOUND_WORDS: u32 = 1;
