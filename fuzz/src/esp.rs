//! Encrypted networks: what opens packets, while keys come and go.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use overlay_core::{Seed, aead::AeadProvider};
use overlay_node::identity::cipher::Ciphers;
use overlay_vxlan::{
    Frame, Outer,
    esp::{Associations, Config, Inbound, OpenError, PeerKeys, SaKeys, overhead_bytes},
    wire::{
        esp::{Datagram, Repr, Spi, Trailer},
        ipv4::Protocol,
        udp, vxlan,
    },
};

use crate::input::Input;

/// Steps of one script, so that no input takes long.
const STEPS_MAX: usize = 200;
/// Packets that are kept, to come again.
const KEPT_MAX: usize = 32;

/// A script of packets to a node: octets as they are, texts that a peer which has the keys might seal, real frames, and
/// those again or damaged. No sequence number is taken twice, and none is used twice, whatever becomes of the keys.
pub fn esp_open(bytes: &[u8]) {
    read(bytes);
    let mut input = Input::new(bytes);
    let mut nodes = Nodes::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            return;
        }
        match input.u8() % 6 {
            0 => {
                let from = address(input.u8() % 3);
                let frame = Frame::with_headroom(Frame::HEADROOM, input.bytes());
                nodes.open(from, frame);
            }
            1 => {
                let (ahead, mask, octet) = (input.u16(), input.u8(), input.u8());
                let text = text(mask, octet, input.bytes());
                let packet = nodes.craft(ahead, &text);
                nodes.open(address(1), packet);
            }
            2 => {
                let frame = Frame::with_headroom(Frame::HEADROOM, input.bytes());
                nodes.send(frame);
            }
            3 => {
                if let Some(frame) = nodes.kept(input.u8()) {
                    nodes.open(address(1), frame);
                }
            }
            4 => {
                let (which, at, bit) = (input.u8(), input.u16(), input.u8() % 8);
                if let Some(mut frame) = nodes.kept(which) {
                    let at = usize::from(at) % frame.len();
                    frame.bytes_mut()[at] ^= 1 << bit;
                    assert_eq!(
                        nodes.open(address(1), frame),
                        None,
                        "a damaged packet was taken"
                    );
                }
            }
            _ => nodes.set_keys(input.u8()),
        }
    }
}

/// What the octets would be on the wire, and as the end of a text.
fn read(bytes: &[u8]) {
    if let Ok(Datagram::Esp(packet)) = Datagram::read(bytes) {
        let mut header = [0xaa; 16];
        Repr::parse(&packet)
            .emit(&mut header)
            .expect("there is room");
        assert_eq!(header[..], bytes[..16]);
    }
    if let Ok(trailer) = Trailer::parse(bytes) {
        let mut end = [0xaa; 257];
        trailer.emit(&mut end).expect("there is room");
        assert!(bytes.ends_with(&end[..trailer.bytes()]));
    }
}

/// The octets as they are, or behind a UDP header and before a trailer, some of which are overwritten.
fn text(mask: u8, octet: u8, bytes: &[u8]) -> Vec<u8> {
    if mask & 1 != 0 {
        return bytes.to_vec();
    }
    let mut text = vec![0; udp::HEADER_BYTES];
    let datagram = udp::Repr {
        source_port: 50_000,
        destination_port: vxlan::UDP_PORT,
        payload_bytes: u16::try_from(bytes.len()).unwrap_or(u16::MAX - 8),
    };
    datagram.emit(&mut text).expect("there is room");
    text.extend_from_slice(bytes);
    let trailer = Trailer::behind(text.len(), Protocol::UDP);
    let end = text.len();
    text.resize(end + trailer.bytes(), 0);
    trailer.emit(&mut text[end..]).expect("there is room");
    let last = text.len() - 1;
    for (bit, at) in [(2, last), (4, last - 1), (8, last - 2), (16, 5), (32, 3)] {
        if mask & bit != 0 {
            text[at] = octet;
        }
    }
    text
}

/// Names the keys of a direction.
const GENERATIONS: u8 = 4;

struct Nodes {
    sender: Associations,
    receiver: Associations,
    generation: u8,
    /// Those that were sealed by the sender; and those that were taken.
    sealed: BTreeSet<(Spi, u64)>,
    taken: BTreeSet<(Spi, u64)>,
    kept: Vec<Frame>,
}

impl Nodes {
    fn new() -> Self {
        let node = |seed| {
            let config = Config {
                retired_max: GENERATIONS.into(),
                ..Config::default()
            };
            Associations::new(config, Arc::new(Ciphers), &Seed::from_u64(seed))
        };
        let mut nodes = Self {
            sender: node(1),
            receiver: node(2),
            generation: 0,
            sealed: BTreeSet::new(),
            taken: BTreeSet::new(),
            kept: Vec::new(),
        };
        nodes.set_keys(0);
        nodes
    }

    /// Goes over to other keys, of which the receiver still takes one generation beside; or takes them away for once.
    fn set_keys(&mut self, choice: u8) {
        self.generation = choice % GENERATIONS;
        let beside = (self.generation + 1) % GENERATIONS;
        if choice & 0x40 != 0 {
            self.sender.remove_peer(address(2));
        }
        if choice & 0x80 != 0 {
            self.receiver.remove_peer(address(1));
        }
        let outbound = keys(self.generation);
        let there = PeerKeys {
            outbound,
            inbound: Vec::new(),
        };
        let here = PeerKeys {
            outbound: SaKeys::new(Spi(0x2000), &[9; 32], [9; 4]).expect("good keys"),
            inbound: vec![keys(beside), keys(self.generation)],
        };
        self.sender.set_peer(address(2), &there).expect("good keys");
        self.receiver
            .set_peer(address(1), &here)
            .expect("good keys");
    }

    /// Seals a frame, keeps it, and has it opened.
    fn send(&mut self, mut frame: Frame) {
        let plain = frame.clone();
        let outer = Outer {
            source_port: 50_000,
            traffic_class: 0,
        };
        let sealed = self.sender.seal(address(2), outer, &mut frame);
        sealed.expect("an association, and a short frame");
        assert_eq!(frame.len(), plain.len() + overhead_bytes(plain.len()));
        let outbound = self.sender.outbound(address(2)).expect("an association");
        let (spi, sequence) = (outbound.spi(), outbound.sequence());
        assert!(
            self.sealed.insert((spi, sequence)),
            "a nonce was used twice"
        );
        if self.kept.len() < KEPT_MAX {
            self.kept.push(frame.clone());
        }
        // A dishonest packet with this number, or one far above, may have come before.
        if let Some(opened) = self.open(address(1), frame) {
            assert_eq!(opened.bytes(), plain.bytes());
        }
    }

    /// A packet of who has the keys and may say what it likes; its number is near the highest one that was taken.
    fn craft(&self, ahead: u16, text: &[u8]) -> Frame {
        let keys = keys(self.generation);
        let inbound = self.receiver.inbound(address(1));
        let inbound = inbound.iter().find(|inbound| inbound.spi() == keys.spi());
        let highest = inbound.map_or(0, Inbound::sequence);
        let sequence = highest.saturating_add(ahead.into()).saturating_sub(0x1000);
        let [spi, low] = [keys.spi().0, sequence as u32].map(u32::to_be_bytes);
        let iv = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let mut packet = [&spi[..], &low, &iv].concat();
        let nonce = [&[self.generation; 4][..], &iv].concat();
        let associated = [&spi[..], &sequence.to_be_bytes()].concat();
        packet.extend_from_slice(text);
        let cipher = Ciphers.aes_gcm(&[self.generation; 16]).expect("16 octets");
        let nonce = nonce.try_into().expect("12 octets");
        cipher
            .seal(nonce, &associated, &mut packet, 16)
            .expect("a short text");
        Frame::with_headroom(Frame::HEADROOM, &packet)
    }

    /// Has a packet opened; returns what came out.
    fn open(&mut self, from: IpAddr, mut frame: Frame) -> Option<Frame> {
        let before = frame.len();
        let spi = match Datagram::read(frame.bytes()) {
            Ok(Datagram::Esp(packet)) => Some(packet.spi()),
            Ok(Datagram::NonEsp | Datagram::KeepAlive) | Err(_) => None,
        };
        let refused = self.receiver.stats().received.refused();
        match self.receiver.open(from, &mut frame) {
            Ok(opened) => {
                let spi = spi.expect("it is an ESP packet");
                assert_eq!(from, address(1));
                assert!(
                    self.taken.insert((spi, opened.sequence)),
                    "a packet was taken twice"
                );
                assert!(frame.len() + overhead_bytes(frame.len()) <= before);
                Some(frame)
            }
            Err(OpenError::KeepAlive | OpenError::Dummy) => None,
            Err(_) => {
                assert_eq!(frame.len(), before);
                assert_eq!(self.receiver.stats().received.refused(), refused + 1);
                None
            }
        }
    }

    fn kept(&self, which: u8) -> Option<Frame> {
        let at = usize::from(which).checked_rem(self.kept.len())?;
        self.kept.get(at).cloned()
    }
}

fn keys(generation: u8) -> SaKeys {
    let spi = Spi(0x1000 + u32::from(generation));
    SaKeys::new(spi, &[generation; 16], [generation; 4]).expect("good keys")
}

fn address(node: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, node).into()
}
