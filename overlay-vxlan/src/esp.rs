//! Encrypted networks: ESP (RFC 4303) around VXLAN, with AES-GCM (RFC 4106), as the payload of UDP datagrams (RFC 3948).
//!
//! [`Associations`] seals what a [`Sink`](crate::Sink) is handed for a VTEP of a network with
//! [`NetworkConfig::encrypted`](crate::NetworkConfig::encrypted), and opens what came to UDP port
//! [4500](crate::wire::esp::UDP_PORT). It opens no socket and negotiates no keys; those come from outside, and so does the
//! cipher (an [`AeadProvider`](overlay_core::aead::AeadProvider)).
//!
//! ```text
//!  VXLAN:     |IP|UDP 4789|              |VXLAN| inner frame
//!  encrypted: |IP|UDP 4500|ESP 8|IV 8|UDP|VXLAN| inner frame |padding 0-3, 2|ICV 16|
//!                               ^--------- encrypted ---------------------^
//!                         ^--- authenticated (with the upper half of the sequence number) ---^
//! ```
//!
//! It is transport mode: a kernel that has a VXLAN device, and states with `rfc4106(gcm(aes))`, an ICV of 128 bits,
//! extended sequence numbers and `espinudp`, sends and takes the same. The UDP header within has no checksum; over IPv6 the
//! kernel's VXLAN device has to be told to take that (`udp6zerocsumrx`).
//!
//! # What is promised
//!
//! * **Secrecy and authenticity** of everything from the inner UDP header on: VNI, inner frame, entropy port. Nobody
//!   without the key can make or change a packet. The outer IP and UDP headers are not authenticated, so neither are ECN and
//!   DSCP; lengths, times, and who talks to whom are visible. Each association stands for one peer: a packet that one peer
//!   sealed is not taken from the address of another.
//! * **No replays**: each sequence number is taken once, in any order within [`WINDOW`] packets. One that is later than that is
//!   dropped; it is taken for a packet of the next 2^32 then, and so counts as unauthentic (RFC 4303 appendix A2.2).
//! * **No nonce twice**, as long as no key is: the initialization vector is the sequence number of 64 bits, and a key that
//!   was taken away and is set again goes on where it was. After 2^64 - 1 packets [`SealError::Exhausted`] says so; nothing
//!   else counts against a limit here.
//! * **Nothing in the open**: what cannot be sealed is an error, and the switch never hands a frame of an encrypted network to
//!   [`Sink::to_vtep`](crate::Sink::to_vtep).
//!
//! # What the owner has to do
//!
//! * **Keys of their own** for each direction between two nodes, and new ones after each start: nothing here survives a restart,
//!   sequence numbers least of all. One nonce that is used twice gives away what two texts differ in, and lets anybody forge
//!   packets of that key. A key that this node uses already for something else is refused ([`KeysError::KeyInUse`]); what
//!   other nodes do with it, it cannot see.
//! * **New keys in time.** [`Outbound::sealed`] and [`Outbound::sequence`] say how far a key was used. The birthday bound of
//!   blocks of 128 bits is the reason: packets of 1,500 octets are about 2^7 blocks, so that after 2^40 of them (half a
//!   day at 25 million a second) an adversary tells the stream from noise with a probability of about 2^-35. New keys every 12
//!   hours keep below that; what they do more is to bound how much traffic one stolen key opens.
//! * **Room**: [`OVERHEAD_BYTES_MAX`] octets beside what VXLAN takes. The path MTUs of the [`Switch`](crate::Switch) include
//!   them; [`NetworkConfig::mtu`](crate::NetworkConfig::mtu) is the owner's choice.
//!
//! # Example
//!
//! Two nodes with one key for each direction. The cipher of the example is none: a real one is `overlay-node`'s.
//!
//! ```
//! # use overlay_core::aead::{Aead, AeadError, AeadProvider};
//! use std::{net::IpAddr, sync::Arc};
//! use overlay_core::Seed;
//! use overlay_vxlan::{
//!     Frame, Outer,
//!     esp::{Associations, Config, OpenError, PeerKeys, SaKeys},
//!     wire::esp::Spi,
//! };
//! # #[derive(Debug)]
//! # struct NoCipher(Vec<u8>);
//! # impl AeadProvider for NoCipher {
//! #     fn aes_gcm(&self, key: &[u8]) -> Result<Box<dyn Aead>, AeadError> { Ok(Box::new(NoCipher(key.to_vec()))) }
//! # }
//! # impl Aead for NoCipher {
//! #     fn seal(&self, _: [u8; 12], _: &[u8], buffer: &mut Vec<u8>, _: usize) -> Result<(), AeadError> {
//! #         buffer.extend_from_slice(&self.0[..16]);
//! #         Ok(())
//! #     }
//! #     fn open(&self, _: [u8; 12], _: &[u8], buffer: &mut Vec<u8>, _: usize) -> Result<(), AeadError> {
//! #         let end = buffer.len() - 16;
//! #         if buffer.split_off(end) == self.0[..16] { Ok(()) } else { Err(AeadError::Unauthentic) }
//! #     }
//! # }
//!
//! let nodes: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap());
//! let forth = SaKeys::new(Spi(0x1001), &[1; 16], [7; 4]).unwrap();
//! let back = SaKeys::new(Spi(0x1002), &[2; 16], [8; 4]).unwrap();
//! # let provider = Arc::new(NoCipher(Vec::new()));
//! let mut first = Associations::new(Config::default(), provider.clone(), &Seed::from_u64(1));
//! let keys = PeerKeys { outbound: forth.clone(), inbound: vec![back.clone()] };
//! first.set_peer(nodes[1], &keys).unwrap();
//! let mut second = Associations::new(Config::default(), provider, &Seed::from_u64(2));
//! second.set_peer(nodes[0], &PeerKeys { outbound: back, inbound: vec![forth] }).unwrap();
//!
//! // What a sink is handed: a VXLAN header and an inner frame.
//! let plain = b"\x08\0\0\0\0\x10\x01\0inner frame";
//! let mut frame = Frame::with_headroom(Frame::HEADROOM, plain);
//! let outer = Outer { source_port: 50_000, traffic_class: 0 };
//! first.seal(nodes[1], outer, &mut frame).unwrap();
//!
//! // To UDP port 4500 of the other node, and there:
//! let mut again = frame.clone();
//! let opened = second.open(nodes[0], &mut frame).unwrap();
//! assert_eq!((opened.source_port, frame.bytes()), (50_000, &plain[..]));
//! assert_eq!(second.open(nodes[0], &mut again), Err(OpenError::Replayed { sequence: 1 }));
//! ```

#![warn(clippy::indexing_slicing, clippy::as_conversions)]

mod associations;
mod cipher;
mod inbound;
mod keys;
mod outbound;
mod retired;
mod stats;
mod window;

pub use associations::Associations;
pub use inbound::{Inbound, OpenError, Opened};
pub use keys::{KeysError, PeerKeys, SaKeys};
pub use outbound::{Outbound, SealError};
pub use stats::{OpenStats, Stats};

use crate::wire::{
    esp::{HEADER_BYTES, ICV_BYTES, Trailer},
    ipv4::Protocol,
    udp, vxlan,
};

/// The bounds of [`Associations`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Peers at once. Default 4,096. Too low: [`set_peer`](Associations::set_peer) fails.
    pub peers_max: usize,
    /// Inbound associations of one peer, about 1 KB each. Default 4: three generations of keys, and one to spare.
    pub inbound_max: usize,
    /// Keys that are used no more and of which it is remembered how far they were. Default 8,192, up to about 600 KB; the oldest
    /// are forgotten. Too low: a key that comes back begins anew, which must not be.
    pub retired_max: usize,
    /// UDP port of VXLAN, here and at all peers. Default [4789](vxlan::UDP_PORT).
    pub data_port: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            peers_max: 4_096,
            inbound_max: 4,
            retired_max: 8_192,
            data_port: vxlan::UDP_PORT,
        }
    }
}

/// How many packets the anti-replay window reaches back, the newest one included.
pub const WINDOW: u64 = 2_048;
/// One more than [`WINDOW`] has room in.
const WINDOW_BLOCKS: usize = 33;

/// What sealing pushes in front of the VXLAN header, in octets: ESP header, initialization vector and a UDP header.
pub const FRONT_BYTES: usize = HEADER_BYTES + udp::HEADER_BYTES;
/// What sealing appends at most, in octets: three of padding, two of trailer, the ICV.
pub const TAIL_BYTES_MAX: usize = 5 + ICV_BYTES;
/// What sealing adds at most to the payload of a datagram, in octets.
pub const OVERHEAD_BYTES_MAX: u16 = 45;

/// The longest payload of a datagram over IPv4, in octets.
const DATAGRAM_BYTES_MAX: usize = 65_535 - 20 - udp::HEADER_BYTES;

/// Returns how many octets sealing adds to VXLAN header and inner frame, of `plain_bytes` octets together: 42 to 45.
#[must_use]
pub fn overhead_bytes(plain_bytes: usize) -> usize {
    let payload_bytes = plain_bytes.saturating_add(udp::HEADER_BYTES);
    FRONT_BYTES + ICV_BYTES + Trailer::behind(payload_bytes, Protocol::UDP).bytes()
}

#[expect(clippy::as_conversions, reason = "both are small constants")]
const _: () = assert!(FRONT_BYTES + TAIL_BYTES_MAX == OVERHEAD_BYTES_MAX as usize);
const _: () = assert!(window::Window::<WINDOW_BLOCKS>::WIDTH == WINDOW);
