//! Sealing and opening: the packets, what is refused, and how keys are replaced.

#![allow(
    clippy::cast_possible_truncation,
    reason = "octets and halves of numbers are what is meant"
)]

mod cipher;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use cipher::Ring;
use overlay_core::{
    Rng, Seed,
    aead::{Aead, AeadError, AeadProvider},
};
use overlay_vxlan::{
    Frame, Offload, Outer, PartialChecksum,
    esp::{
        Associations, Config, FRONT_BYTES, Inbound, KeysError, OVERHEAD_BYTES_MAX, OpenError,
        Outbound, PeerKeys, SaKeys, SealError, WINDOW, overhead_bytes,
    },
    wire::{
        DecodeError,
        esp::{Repr, Spi, Trailer},
        ipv4::Protocol,
        udp,
    },
};
use proptest::prelude::*;

const PORT: u16 = 4_789;

fn node(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

/// Keys that no two numbers share.
fn keys(number: u8) -> SaKeys {
    let length = if number.is_multiple_of(2) { 16 } else { 32 };
    SaKeys::new(spi(number), &vec![number; length], [number; 4]).expect("a good key")
}

fn spi(number: u8) -> Spi {
    Spi(0x1000 + u32::from(number))
}

fn outbound_after(sequence: u64) -> Outbound {
    Outbound::resume(&keys(1), &Ring, sequence).expect("a good key")
}

fn inbound_after(sequence: u64) -> Inbound {
    Inbound::resume(&keys(1), &Ring, sequence).expect("a good key")
}

/// A VXLAN header and an inner frame, as far as sealing cares.
fn plain(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn framed(bytes: &[u8]) -> Frame {
    Frame::with_headroom(Frame::HEADROOM, bytes)
}

/// The packet of a text that need not be what ESP asks for.
fn packet(sequence: u64, text: &[u8]) -> Frame {
    let mut bytes = vec![0; 16];
    let header = Repr {
        spi: spi(1),
        sequence_low: sequence as u32,
        iv: sequence.to_be_bytes(),
    };
    header.emit(&mut bytes).expect("there is room");
    let nonce = [&[1; 4][..], &sequence.to_be_bytes()].concat();
    let associated = [&spi(1).0.to_be_bytes()[..], &sequence.to_be_bytes()].concat();
    let cipher = Ring.aes_gcm(&[1; 32]).expect("a good key");
    let mut text = text.to_vec();
    cipher
        .seal(
            nonce.try_into().expect("12 octets"),
            &associated,
            &mut text,
            0,
        )
        .expect("a short text");
    bytes.extend(text);
    framed(&bytes)
}

/// A UDP header with this payload and a trailer.
fn text(port: u16, payload: &[u8], next_header: Protocol) -> Vec<u8> {
    let mut text = vec![0; udp::HEADER_BYTES];
    let header = udp::Repr {
        source_port: 50_000,
        destination_port: port,
        payload_bytes: u16::try_from(payload.len()).expect("short"),
    };
    header.emit(&mut text).expect("there is room");
    text.extend(payload);
    let trailer = Trailer::behind(text.len(), next_header);
    let mut end = vec![0; trailer.bytes()];
    trailer.emit(&mut end).expect("there is room");
    text.extend(end);
    text
}

fn octets(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.split_whitespace().collect::<String>().into_bytes();
    let pairs = digits.chunks(2);
    let pairs = pairs.map(|pair| std::str::from_utf8(pair).expect("hexadecimal digits"));
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal digits"))
        .collect()
}

/// Key, salt, SPI and sequence number; the packet; the text.
type Vector = (
    &'static str,
    &'static str,
    u32,
    u64,
    &'static str,
    &'static str,
);

/// Those of draft-mcgrew-gcm-test-01 §4 that have extended sequence numbers.
const VECTORS: [Vector; 5] = [
    (
        "4c80cdefbb5d10da906ac73c3613a634",
        "2e443b68",
        0x0000_4321,
        0x8765_4321_0000_0000,
        "00004321000000004956ed7e3b244cfefecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34
         cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce61bc17d768fd9732459018148f6cbe72
         2fd04796562dfdb4",
        "45000048699a000080114db7c0a80102c0a801010a9bf15638d301000001000000000000045f736970045f7564700373
         69700963796265726369747902646b000021000101020201",
    ),
    (
        "3de09874b388e6491988d0c3607eae1f",
        "57690e43",
        0x42f6_7e3f,
        0x1010_1010_1010_1010,
        "42f67e3f101010104e280000a2fca1a3fba2ca845e5df9f0f22c3e6e86dd831e1fc65792cd1af9130e1379ed369f071f
         35e034be95f112e4e7d05d35",
        "4500001c42a200008001441f406793b6e00000020a00f5ff01020201",
    ),
    (
        "abbccddef00112233445566778899aababbccddef00112233445566778899aab",
        "73616c74",
        0x1740_5e67,
        0x156f_3126_dd0d_b99b,
        "17405e67dd0db99b616e640169766563f2d69ecdbd5a0d5b8d5ef38bad4da58d1f278fde98ef67549d524a3018d9a57f
         f4d3a31ce673119e451626c2415771e3b7eebca614c89b35",
        "45080028732c00004006e9f90a0106120a01038f06b88023dd6bafbecb71260250101f646d540001",
    ),
    (
        "abbccddef00112233445566778899aab",
        "decaf888",
        0x0000_0100,
        1,
        "0000010000000001cafedebaceface7429c9fc69a197d038ccdd14e2ddfcaa0543332164412503524303ed3c6c5f2838
         43af8c3e",
        "746f016265016f72016e6f7401746f0162650001",
    ),
    (
        "6c6567616c697a656d6172696a75616e61616e64646f69746265666f72656961",
        "7475726e",
        0x796b_6963,
        u64::MAX,
        "796b6963ffffffff333021696765746df97ab2aa356d8edce17644ac8c78e25dd24dedbb29ebf1b64a274b39b49c3a86
         4cd3d78ca4ae68a32b42458fb57dbe821dcc63b9d0937ba2945f669368661a329fb4c053",
        "45000030da3a00008001df3bc0a80005c0a800010800c6cd020007006162636465666768696a6b6c6d6e6f7071727374
         01020201",
    ),
];

#[test]
fn the_packets_of_the_draft_are_authentic() {
    for (key, salt, spi, sequence, packet, text) in VECTORS {
        let salt = octets(salt).try_into().expect("4 octets");
        let keys = SaKeys::new(Spi(spi), &octets(key), salt).expect("a good key");
        let mut inbound = Inbound::resume(&keys, &Ring, sequence - 1).expect("a good key");
        let mut frame = framed(&octets(packet));
        // The packets within are of IP: authentic, but none of ours.
        let found = Protocol(1);
        assert_eq!(
            inbound.open(PORT, &mut frame),
            Err(OpenError::NextHeader { found }),
            "sequence number {sequence:#x}"
        );
        let end = frame.len() - 16;
        assert_eq!(frame.bytes()[16..end], octets(text));
        assert_eq!(
            (inbound.sequence(), inbound.stats().unexpected),
            (sequence, 1)
        );
    }
}

#[test]
fn a_sealed_frame_is_esp_around_udp() {
    let mut outbound = outbound_after(0x1_0000_0004);
    for length in 8..40 {
        let sequence = outbound.sequence() + 1;
        let mut frame = framed(&plain(length));
        outbound.seal(50_000, PORT, &mut frame).unwrap();
        let expected = packet(sequence, &text(PORT, &plain(length), Protocol::UDP));
        assert_eq!(frame.bytes(), expected.bytes());
        assert_eq!(frame.len() - length, overhead_bytes(length));
    }
    let sealed = outbound.sealed();
    assert_eq!((sealed.frames, sealed.octets), (32, (0..32).sum()));
}

#[test]
fn the_overhead_is_what_the_bounds_say() {
    let overheads: Vec<_> = (0..8).map(overhead_bytes).collect();
    assert_eq!(overheads, [44, 43, 42, 45, 44, 43, 42, 45]);
    assert!(
        overheads
            .iter()
            .all(|octets| *octets <= OVERHEAD_BYTES_MAX.into())
    );
}

#[test]
fn any_flipped_bit_is_refused_and_changes_nothing() {
    let (mut outbound, mut inbound) = (outbound_after(9), inbound_after(9));
    let mut frame = framed(&plain(21));
    outbound.seal(50_000, PORT, &mut frame).unwrap();
    let bits = frame.len() * 8;
    for bit in 0..bits {
        let mut changed = frame.clone();
        changed.bytes_mut()[bit / 8] ^= 0x80 >> (bit % 8);
        let refused = inbound.open(PORT, &mut changed).unwrap_err();
        match (bit, refused) {
            (0..32, OpenError::UnknownSpi { .. })
            | (32..64, OpenError::Replayed { .. })
            | (32.., OpenError::Unauthentic) => {}
            (_, other) => panic!("bit {bit}: {other}"),
        }
        assert_eq!(inbound.sequence(), 9, "bit {bit}");
    }
    assert_eq!(inbound.stats().refused(), bits as u64);
    assert!(inbound.open(PORT, &mut frame).is_ok());
    assert_eq!(inbound.sequence(), 10);
}

#[test]
fn every_shorter_packet_is_refused() {
    let (mut outbound, mut inbound) = (outbound_after(0), inbound_after(0));
    let mut frame = framed(&plain(30));
    outbound.seal(50_000, PORT, &mut frame).unwrap();
    for length in 0..frame.len() {
        let mut shorter = frame.clone();
        shorter.truncate(length);
        let refused = inbound.open(PORT, &mut shorter);
        assert!(
            matches!(
                refused,
                Err(OpenError::Malformed(_) | OpenError::Unauthentic)
            ),
            "{length} octets: {refused:?}"
        );
        assert_eq!(shorter.len(), length);
    }
}

#[test]
fn what_is_authentic_has_to_be_a_datagram_for_the_port() {
    let good = text(PORT, &plain(12), Protocol::UDP);
    assert_eq!(good[20..], [1, 2, 2, 17]);
    let changed = |at: usize, octet| {
        let mut text = good.clone();
        text[at] = octet;
        text
    };
    let field = |offset, expected, found| DecodeError::Field {
        offset,
        expected,
        found,
    };
    let truncated = |need, have| DecodeError::Truncated { need, have };
    let length = DecodeError::Length {
        offset: 4,
        need: 8,
        found: 7,
    };
    let port = OpenError::Port {
        expected: PORT,
        found: 0x1200,
    };
    let next_header = OpenError::NextHeader { found: Protocol(4) };
    for (text, error) in [
        (changed(21, 9), OpenError::Content(field(21, 2, 9))),
        (changed(22, 255), OpenError::Content(truncated(257, 24))),
        (changed(23, 4), next_header),
        (changed(23, 59), OpenError::Dummy),
        (changed(3, 0), port),
        (changed(5, 21), OpenError::Content(truncated(21, 20))),
        (changed(5, 7), OpenError::Content(length)),
        (vec![9, 2, 2, 17], OpenError::Content(field(0, 1, 9))),
        (vec![1, 2, 2, 17], OpenError::Content(truncated(8, 0))),
    ] {
        let mut inbound = inbound_after(0);
        assert_eq!(inbound.open(PORT, &mut packet(5, &text)), Err(error));
        // An authentic packet was seen, whatever is in it.
        let again = inbound.open(PORT, &mut packet(5, &text));
        assert_eq!(again, Err(OpenError::Replayed { sequence: 5 }));
    }
}

/// RFC 4303 §2.7: what the datagram does not claim is padding.
#[test]
fn padding_behind_the_datagram_is_cut_off() {
    let mut padded = text(PORT, &plain(22), Protocol::UDP);
    padded[5] -= 8;
    let mut frame = packet(1, &padded);
    let opened = inbound_after(0).open(PORT, &mut frame).unwrap();
    assert_eq!((opened.source_port, opened.sequence), (50_000, 1));
    assert_eq!(frame.bytes(), plain(14));
}

#[test]
fn the_last_sequence_number_is_used_once() {
    let (mut outbound, mut inbound) = (outbound_after(u64::MAX - 2), inbound_after(u64::MAX - 9));
    for sequence in [u64::MAX - 1, u64::MAX] {
        let mut frame = framed(&plain(30));
        outbound.seal(1, PORT, &mut frame).unwrap();
        assert_eq!(inbound.open(PORT, &mut frame).unwrap().sequence, sequence);
    }
    let mut frame = framed(&plain(30));
    let before = frame.clone();
    assert_eq!(
        outbound.seal(1, PORT, &mut frame),
        Err(SealError::Exhausted)
    );
    assert_eq!(frame, before);
    assert_eq!(outbound.sealed().frames, 2);
}

#[test]
fn what_cannot_be_sealed_stays_as_it_is() {
    let mut outbound = outbound_after(0);
    let unfinished = Offload {
        checksum: Some(PartialChecksum {
            start: 42,
            offset: 6,
        }),
        ..Offload::NONE
    };
    let mut with_checksum = framed(&plain(100));
    with_checksum.set_offload(unfinished);
    let longest = 65_507 - 42;
    let (need, have) = (FRONT_BYTES, FRONT_BYTES - 1);
    for (mut frame, error) in [
        (
            Frame::with_headroom(have, &plain(100)),
            SealError::Headroom { need, have },
        ),
        (with_checksum, SealError::Unfinished),
        (
            framed(&plain(longest + 1)),
            SealError::Length { found: longest + 1 },
        ),
        (framed(&plain(70_000)), SealError::Length { found: 70_000 }),
    ] {
        let before = frame.clone();
        assert_eq!(outbound.seal(1, PORT, &mut frame), Err(error));
        assert_eq!(frame, before);
        assert_eq!(outbound.sequence(), 0);
    }
    assert_eq!(longest % 4, 1);
    let fits = longest - 3;
    let mut frame = Frame::with_headroom(FRONT_BYTES, &plain(fits));
    outbound.seal(1, PORT, &mut frame).unwrap();
    assert_eq!(frame.len() - fits, overhead_bytes(fits));
}

/// Packets around the place where the lower half begins anew, in any order and again and again.
#[test]
fn a_packet_is_taken_once_whatever_the_order() {
    for seed in 0..3 {
        let start = (3 << 32) - 4_000;
        let (mut outbound, mut inbound) = (outbound_after(start), inbound_after(start));
        let packets: Vec<_> = (0..8_000)
            .map(|_| {
                let mut frame = framed(&plain(16));
                outbound.seal(1, PORT, &mut frame).unwrap();
                frame
            })
            .collect();
        let mut rng = Seed::from_u64(seed).rng();
        let (mut seen, mut highest) = (BTreeSet::new(), start);
        let mut late = 0;
        for at in order(&mut rng, packets.len()) {
            let sequence = start + 1 + at as u64;
            let opened = inbound.open(PORT, &mut packets[at].clone());
            if sequence + WINDOW <= highest {
                // Taken for one of the next 2^32, which it is not.
                assert_eq!(opened, Err(OpenError::Unauthentic));
                late += 1;
            } else if seen.insert(sequence) {
                assert_eq!(opened.map(|opened| opened.sequence), Ok(sequence));
                highest = highest.max(sequence);
            } else {
                assert_eq!(opened, Err(OpenError::Replayed { sequence }));
            }
            assert_eq!(inbound.sequence(), highest);
        }
        let stats = inbound.stats();
        assert_eq!(
            (stats.opened.frames, stats.unauthentic),
            (seen.len() as u64, late)
        );
        assert!(
            late > 50 && stats.replayed > 500 && seen.len() > 6_000,
            "{stats:?}"
        );
    }
}

/// Mostly onwards, with steps back of up to twice the window, and repeats.
fn order(rng: &mut Rng, count: usize) -> Vec<usize> {
    let mut order = Vec::new();
    for at in 0..count {
        order.push(at);
        if rng.below(4) == 0 {
            let back = [3, 64, 2_000, 4_100][rng.index(4).expect("four")];
            order.push(at.saturating_sub(rng.below(back) as usize));
        }
    }
    for _ in 0..count / 2 {
        let at = rng.index(order.len() - 40).expect("many");
        order.swap(at, at + 40);
    }
    order
}

/// What is too old has no upper half yet.
#[test]
fn a_number_below_the_first_window_is_too_old() {
    let mut frame = framed(&plain(16));
    outbound_after(u64::from(u32::MAX) - 1)
        .seal(1, PORT, &mut frame)
        .unwrap();
    let sequence_low = u32::MAX;
    assert_eq!(
        inbound_after(5).open(PORT, &mut frame),
        Err(OpenError::TooOld { sequence_low })
    );
}

proptest! {
    #[test]
    fn what_was_sealed_opens_to_the_same(
        key in proptest::collection::vec(any::<u8>(), 32), is_long: bool, salt: [u8; 4], spi in 256..u32::MAX,
        sequence in prop_oneof![any::<u64>(), 0..100_u64, u64::MAX - 100..u64::MAX],
        behind in 0..5_000_u64, ports: (u16, u16), inner in proptest::collection::vec(any::<u8>(), 0..2_000),
    ) {
        let sequence = sequence.min(u64::MAX - 1);
        let key = if is_long { &key[..] } else { &key[..16] };
        let keys = SaKeys::new(Spi(spi), key, salt).unwrap();
        let mut outbound = Outbound::resume(&keys, &Ring, sequence).unwrap();
        let mut frame = framed(&inner);
        outbound.seal(ports.0, ports.1, &mut frame).unwrap();
        prop_assert_eq!(frame.len(), inner.len() + overhead_bytes(inner.len()));
        prop_assert_eq!(frame.headroom(), Frame::HEADROOM - FRONT_BYTES);
        // The receiver may have lost some packets before.
        let mut inbound = Inbound::resume(&keys, &Ring, sequence.saturating_sub(behind)).unwrap();
        let opened = inbound.open(ports.1, &mut frame).unwrap();
        prop_assert_eq!((opened.source_port, opened.sequence), (ports.0, sequence + 1));
        prop_assert_eq!(frame.bytes(), &inner[..]);
        prop_assert_eq!(frame.headroom(), Frame::HEADROOM);
    }

    #[test]
    fn garbage_is_refused_and_changes_nothing(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), known: bool,
    ) {
        let mut pair = Pair::new();
        let mut bytes = bytes;
        if known && bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&spi(1).0.to_be_bytes());
        }
        let mut frame = framed(&bytes);
        prop_assert!(pair.second.open(node(1), &mut frame).is_err());
        prop_assert_eq!(frame.len(), bytes.len());
        pair.carry(0);
    }
}

/// Two nodes; of the packets between them, only those from the first to the second are looked at.
struct Pair {
    first: Associations,
    second: Associations,
}

impl Pair {
    /// Keys 1 there, keys 2 back.
    fn new() -> Self {
        let mut pair = Self {
            first: associations(1),
            second: associations(2),
        };
        pair.first
            .set_peer(node(2), &peer(1, &[2]))
            .expect("good keys");
        pair.second
            .set_peer(node(1), &peer(2, &[1]))
            .expect("good keys");
        pair
    }

    fn seal(&mut self) -> Frame {
        let outer = Outer {
            source_port: 50_000,
            traffic_class: 0,
        };
        let mut frame = framed(&plain(60));
        self.first.seal(node(2), outer, &mut frame).expect("a peer");
        frame
    }

    /// Sends a packet, which is the one after so many.
    fn carry(&mut self, before: u64) {
        let mut frame = self.seal();
        let opened = self.second.open(node(1), &mut frame);
        assert_eq!(opened.map(|opened| opened.sequence), Ok(before + 1));
        assert_eq!(frame.bytes(), plain(60));
    }
}

fn associations(seed: u64) -> Associations {
    Associations::new(Config::default(), Arc::new(Ring), &Seed::from_u64(seed))
}

fn peer(outbound: u8, inbound: &[u8]) -> PeerKeys {
    PeerKeys {
        outbound: keys(outbound),
        inbound: inbound.iter().copied().map(keys).collect(),
    }
}

#[test]
fn keys_are_replaced_without_losing_a_packet() {
    let mut pair = Pair::new();
    let mut sent = 0;
    for generation in (1..=9).step_by(2) {
        let (old, new) = (generation, generation + 2);
        let (back, new_back) = (old + 1, new + 1);
        pair.carry(sent);
        // The receiver takes both.
        pair.second
            .set_peer(node(1), &peer(back, &[old, new]))
            .unwrap();
        pair.carry(sent + 1);
        let mut late = [pair.seal(), pair.seal()];
        // The sender goes over; packets of the old keys are still on their way, and out of order.
        pair.first
            .set_peer(node(2), &peer(new, &[back, new_back]))
            .unwrap();
        pair.carry(0);
        for (late, sequence) in late.iter_mut().rev().zip([sent + 4, sent + 3]) {
            let mut again = late.clone();
            let opened = pair.second.open(node(1), late).unwrap();
            assert_eq!((opened.sequence, late.bytes()), (sequence, &plain(60)[..]));
            let replayed = Err(OpenError::Replayed { sequence });
            assert_eq!(pair.second.open(node(1), &mut again), replayed);
        }
        // The old keys go.
        pair.second
            .set_peer(node(1), &peer(new_back, &[new]))
            .unwrap();
        pair.first
            .set_peer(node(2), &peer(new, &[new_back]))
            .unwrap();
        pair.carry(1);
        sent = 2;
    }
    let stats = pair.second.stats().received;
    assert_eq!(
        (stats.opened.frames, stats.refused(), stats.replayed),
        (30, 10, 10)
    );
}

#[test]
fn a_key_that_stays_or_comes_back_goes_on() {
    let mut pair = Pair::new();
    let first = pair.seal();
    pair.second.open(node(1), &mut first.clone()).unwrap();
    let replayed = |pair: &mut Pair| pair.second.open(node(1), &mut first.clone());
    // It stays.
    pair.first.set_peer(node(2), &peer(1, &[2, 4])).unwrap();
    pair.second.set_peer(node(1), &peer(2, &[3, 1])).unwrap();
    pair.carry(1);
    assert_eq!(
        replayed(&mut pair),
        Err(OpenError::Replayed { sequence: 1 })
    );
    // It goes, and comes back.
    pair.first.set_peer(node(2), &peer(5, &[2])).unwrap();
    pair.second.set_peer(node(1), &peer(2, &[5])).unwrap();
    pair.carry(0);
    assert_eq!(
        replayed(&mut pair),
        Err(OpenError::UnknownSpi { spi: spi(1) })
    );
    pair.first.set_peer(node(2), &peer(1, &[2])).unwrap();
    pair.second.set_peer(node(1), &peer(2, &[1])).unwrap();
    pair.carry(2);
    assert_eq!(
        replayed(&mut pair),
        Err(OpenError::Replayed { sequence: 1 })
    );
    // The peer goes, and comes back; and once more under another address.
    for address in [2, 9] {
        assert!(pair.first.remove_peer(node(2)));
        assert!(!pair.first.remove_peer(node(2)));
        assert!(pair.second.remove_peer(node(1)));
        assert!(pair.first.is_empty() && pair.second.is_empty());
        pair.first.set_peer(node(address), &peer(1, &[2])).unwrap();
        pair.second.set_peer(node(1), &peer(2, &[1])).unwrap();
        assert_eq!(pair.first.outbound(node(address)).unwrap().sequence(), 3);
        assert_eq!(pair.second.inbound(node(1))[0].sequence(), 3);
        assert_eq!(
            replayed(&mut pair),
            Err(OpenError::Replayed { sequence: 1 })
        );
        if address == 9 {
            break;
        }
    }
    // Under another name it is the same key.
    let renamed = SaKeys::new(Spi(0x7777), &[1; 32], [1; 4]).unwrap();
    let keys = PeerKeys {
        outbound: renamed,
        inbound: Vec::new(),
    };
    pair.first.set_peer(node(9), &keys).unwrap();
    let outbound = pair.first.outbound(node(9)).unwrap();
    assert_eq!((outbound.spi(), outbound.sequence()), (Spi(0x7777), 3));
}

#[test]
fn only_so_many_keys_are_remembered() {
    let config = Config {
        retired_max: 2,
        ..Config::default()
    };
    let mut node_1 = Associations::new(config, Arc::new(Ring), &Seed::from_u64(1));
    let outer = Outer {
        source_port: 1,
        traffic_class: 0,
    };
    let mut use_key = |number, times| {
        node_1.set_peer(node(2), &peer(number, &[])).unwrap();
        for _ in 0..times {
            node_1
                .seal(node(2), outer, &mut framed(&plain(20)))
                .unwrap();
        }
        node_1.outbound(node(2)).unwrap().sequence()
    };
    assert_eq!([use_key(1, 1), use_key(2, 2), use_key(3, 3)], [1, 2, 3]);
    // 1 and 2 are remembered; 1 is used again, so that 3 is.
    assert_eq!(use_key(1, 1), 2);
    assert_eq!([use_key(2, 0), use_key(3, 0)], [2, 3]);
    // By now 1 and 2 again. What was never used is not remembered, and drives out nothing.
    assert_eq!([use_key(4, 0), use_key(5, 0)], [0, 0]);
    assert_eq!(use_key(6, 1), 1);
    assert_eq!(
        [use_key(7, 0), use_key(2, 0)],
        [0, 0],
        "2 was driven out by 3 and 6"
    );
}

#[test]
fn a_key_has_one_use() {
    let mut node_1 = associations(1);
    node_1.set_peer(node(2), &peer(1, &[2])).unwrap();
    let in_use = |number| Err(KeysError::KeyInUse { spi: spi(number) });
    for (address, keys, expected) in [
        // Another peer's, either way.
        (3, peer(1, &[4]), in_use(1)),
        (3, peer(3, &[2]), in_use(2)),
        // The other direction's.
        (3, peer(2, &[4]), in_use(2)),
        (2, peer(2, &[1]), in_use(2)),
        (2, peer(3, &[1]), in_use(1)),
        // Both at once.
        (3, peer(5, &[5]), in_use(5)),
    ] {
        assert_eq!(node_1.set_peer(node(address), &keys), expected);
    }
    assert_eq!(node_1.len(), 1);
    // Used once for one direction, it never is for the other.
    let outer = Outer {
        source_port: 1,
        traffic_class: 0,
    };
    node_1
        .seal(node(2), outer, &mut framed(&plain(20)))
        .unwrap();
    node_1.remove_peer(node(2));
    assert_eq!(node_1.set_peer(node(3), &peer(3, &[1])), in_use(1));
    node_1.set_peer(node(3), &peer(1, &[2])).unwrap();
    assert_eq!(node_1.outbound(node(3)).unwrap().sequence(), 1);
}

#[test]
fn bounds_and_bad_keys_change_nothing() {
    let config = Config {
        peers_max: 1,
        inbound_max: 2,
        ..Config::default()
    };
    let mut node_1 = Associations::new(config, Arc::new(Ring), &Seed::from_u64(1));
    node_1.set_peer(node(2), &peer(1, &[2])).unwrap();
    let twice = PeerKeys {
        outbound: keys(1),
        inbound: vec![
            keys(2),
            SaKeys::new(spi(2), &[9; 16], [9; 4]).expect("a good key"),
        ],
    };
    for (address, keys, error) in [
        (3, peer(3, &[4]), KeysError::Peers { max: 1 }),
        (
            2,
            peer(1, &[2, 4, 6]),
            KeysError::Inbound { max: 2, found: 3 },
        ),
        (2, twice, KeysError::SpiTwice { spi: spi(2) }),
    ] {
        assert_eq!(node_1.set_peer(node(address), &keys), Err(error));
        assert_eq!((node_1.len(), node_1.inbound(node(2)).len()), (1, 1));
        assert!(node_1.inbound(node(3)).is_empty() && node_1.outbound(node(3)).is_none());
    }
    node_1.set_peer(node(2), &peer(1, &[2, 4])).unwrap();
    for reserved in [0, 1, 255] {
        let spi = Spi(reserved);
        let made = SaKeys::new(spi, &[1; 16], [0; 4]);
        assert_eq!(made, Err(KeysError::ReservedSpi { spi }));
    }
    for found in [0, 15, 17, 24, 31, 33, 64] {
        let made = SaKeys::new(spi(1), &vec![1; found], [0; 4]);
        let error = AeadError::KeyLength { found };
        assert_eq!(made, Err(KeysError::Cipher(error)));
    }
}

/// Counts how often a key opens something.
#[derive(Debug)]
struct Counting(Arc<AtomicUsize>);

#[derive(Debug)]
struct CountingCipher(Box<dyn Aead>, Arc<AtomicUsize>);

impl AeadProvider for Counting {
    fn aes_gcm(&self, key: &[u8]) -> Result<Box<dyn Aead>, AeadError> {
        let cipher = Ring.aes_gcm(key)?;
        Ok(Box::new(CountingCipher(cipher, Arc::clone(&self.0))))
    }
}

impl Aead for CountingCipher {
    fn seal(&self, n: [u8; 12], a: &[u8], b: &mut Vec<u8>, from: usize) -> Result<(), AeadError> {
        self.0.seal(n, a, b, from)
    }

    fn open(&self, n: [u8; 12], a: &[u8], b: &mut Vec<u8>, from: usize) -> Result<(), AeadError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.open(n, a, b, from)
    }
}

#[test]
fn only_what_may_be_a_peers_and_new_meets_a_cipher() {
    let opened = Arc::new(AtomicUsize::new(0));
    let provider = Arc::new(Counting(Arc::clone(&opened)));
    let mut pair = Pair::new();
    pair.second = Associations::new(Config::default(), provider, &Seed::from_u64(2));
    pair.second.set_peer(node(1), &peer(2, &[1])).unwrap();
    pair.second.set_peer(node(3), &peer(4, &[3])).unwrap();
    let frame = pair.seal();
    let mut open = |from, bytes: &[u8]| pair.second.open(from, &mut framed(bytes));
    let unknown = |number| Err(OpenError::UnknownSpi { spi: spi(number) });
    // From a stranger, from another peer, with another SPI.
    assert_eq!(open(node(9), frame.bytes()), unknown(1));
    assert_eq!(open(node(3), frame.bytes()), unknown(1));
    let mut changed = frame.clone();
    changed.bytes_mut()[3] += 1;
    assert_eq!(open(node(1), changed.bytes()), unknown(2));
    assert_eq!(open(node(1), &[0xff]), Err(OpenError::KeepAlive));
    assert_eq!(open(node(1), &[0; 40]), Err(OpenError::NonEsp));
    assert!(matches!(
        open(node(1), &frame.bytes()[..30]),
        Err(OpenError::Malformed(_))
    ));
    assert_eq!(opened.load(Ordering::Relaxed), 0);
    // An IPv4 address that is written as one of IPv6 is the same.
    let mapped = "::ffff:192.0.2.1".parse().unwrap();
    assert!(open(mapped, frame.bytes()).is_ok());
    assert_eq!(opened.load(Ordering::Relaxed), 1);
    assert!(matches!(
        open(node(1), frame.bytes()),
        Err(OpenError::Replayed { .. })
    ));
    assert_eq!(opened.load(Ordering::Relaxed), 1);
    let stats = pair.second.stats().received;
    assert_eq!(
        (
            stats.unknown,
            stats.keep_alives,
            stats.non_esp,
            stats.malformed,
            stats.replayed
        ),
        (3, 1, 1, 1, 1)
    );
    assert_eq!((stats.opened.frames, stats.opened.octets), (1, 52));
    assert_eq!(pair.second.inbound(node(1))[0].stats().opened.frames, 1);
    let sealed = pair.first.stats().sealed;
    assert_eq!((sealed.frames, sealed.octets), (1, 52));
}

#[test]
fn nothing_leaves_for_who_is_no_peer() {
    let mut pair = Pair::new();
    let outer = Outer {
        source_port: 1,
        traffic_class: 0,
    };
    let mut frame = framed(&plain(60));
    let before = frame.clone();
    let sealed = pair.first.seal(node(9), outer, &mut frame);
    assert_eq!((sealed, &frame), (Err(SealError::NoAssociation), &before));
    let mut short = Frame::with_headroom(3, &plain(60));
    assert!(pair.first.seal(node(2), outer, &mut short).is_err());
    let stats = pair.first.stats();
    assert_eq!(
        (stats.no_association, stats.unfit, stats.sealed.frames),
        (1, 1, 0)
    );
}

#[test]
fn debug_shows_no_secret() {
    let keys = SaKeys::new(spi(1), &[0xab; 16], [0xcd; 4]).unwrap();
    let mut node_1 = associations(1);
    let peer = PeerKeys {
        outbound: keys.clone(),
        inbound: Vec::new(),
    };
    node_1.set_peer(node(2), &peer).unwrap();
    let shown = [
        format!("{keys:?} {peer:?} {node_1:?}"),
        format!("{:?}", Inbound::new(&keys, &Ring).unwrap()),
        format!("{:?}", node_1.outbound(node(2)).unwrap()),
    ]
    .concat();
    for secret in ["171", "205", "ab, ", "cd, ", "abab", "cdcd"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains("Spi(4097)"));
}
