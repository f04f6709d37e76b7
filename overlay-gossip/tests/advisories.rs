//! What went wrong in another implementation of this protocol, told to a member of this one: a test for each advisory.
//!
//! The shapes are sent in the clear, which leads further into the decoders than whoever has no key would come.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use overlay_core::{Instant, Machine, Seed};
use overlay_gossip::{
    Config, DecodeError, Gossip, Limits, MemberState, Output, StreamId,
    wire::{Accusation, Alive, Message, PacketCodec, StreamMessage},
};
use signer::{SPOKEN, Signer, signed};

#[path = "support/signer.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod signer;

struct Counting;

thread_local! {
    static HELD_BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(bytes: isize) {
    // A thread that ends has nobody left to count for.
    let _ = HELD_BYTES.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK_BYTES.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

fn size(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: every call goes on to the system's allocator as it came; the counters are plain numbers of this thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-size(layout.size()));
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        // Both are there for a moment.
        count(size(new));
        count(-size(layout.size()));
        unsafe { System.realloc(place, layout, new) }
    }
}

/// Returns how many octets something holds at a time, at the most.
fn asked<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD_BYTES.get();
    PEAK_BYTES.set(before);
    let done = work();
    let most = PEAK_BYTES.get() - before;
    (done, usize::try_from(most).expect("a peak is no valley"))
}

/// Headers of push/pulls and packets that announce more than comes.
#[test]
fn memberlist_357_counts_in_headers_reserve_nothing() {
    for nodes in [1_000, 1 << 20, 1 << 31, u64::from(u32::MAX), u64::MAX] {
        let mut stream = vec![PUSH_PULL];
        map(
            &mut stream,
            &[
                ("Join", Value::No),
                ("Nodes", Value::Number(nodes)),
                ("UserStateLen", Value::Number(0)),
            ],
        );
        stream.extend(node(&[1, 5, 2, 0, 0, 0])); // one of them
        let bytes = tell_stream(&stream);
        assert!(bytes < 32 * 1_024, "{nodes} nodes: {bytes} octets");
    }
    // A map, an array and a binary of 2³² − 1.
    for head in [0xdf, 0xdd, 0xc6] {
        for kind in [PUSH_PULL, PING, ALIVE, USER, ERROR] {
            let bytes = tell_stream(&[kind, head, 0xff, 0xff, 0xff, 0xff]);
            assert!(bytes < 32 * 1_024, "{kind} {head:x}: {bytes} octets");
            let bytes = tell_packet(&[kind, head, 0xff, 0xff, 0xff, 0xff]);
            assert!(bytes < 32 * 1_024, "{kind} {head:x}: {bytes} octets");
        }
    }
    // A compound of 255 parts of 65,535 octets, none of which is there.
    let compound = [&[COMPOUND, 255][..], &[0xff; 510]].concat();
    let bytes = tell_packet(&compound);
    assert!(bytes < 32 * 1_024, "compound: {bytes} octets");
}

/// Messages of users, and the state of users in a push/pull.
#[test]
fn memberlist_360_and_361_the_length_of_a_users_message_reserves_nothing() {
    for length in [
        1 << 16,
        1 << 31,
        u64::from(u32::MAX),
        (1 << 63) - 1,
        u64::MAX,
    ] {
        let mut user = vec![USER];
        map(&mut user, &[("UserMsgLen", Value::Number(length))]);
        user.extend([7; 100]);
        let bytes = tell_stream(&user);
        assert!(bytes < 32 * 1_024, "message of {length}: {bytes} octets");
        let mut state = vec![PUSH_PULL];
        map(
            &mut state,
            &[
                ("Join", Value::No),
                ("Nodes", Value::Number(0)),
                ("UserStateLen", Value::Number(length)),
            ],
        );
        state.extend([7; 100]);
        let bytes = tell_stream(&state);
        assert!(bytes < 32 * 1_024, "state of {length}: {bytes} octets");
    }
}

/// What expands a thousandfold ends at the bound, in packets and in streams, and wrapped in itself as well.
#[test]
fn memberlist_362_and_363_what_expands_ends_at_the_bound() {
    let bomb = compressed(&vec![USER; 8 << 20]);
    assert!(bomb.len() < (8 << 20) / 300, "{}", bomb.len());
    let bound = EXPANDED_BYTES_MAX;
    for bomb in [
        bomb.clone(),
        compressed(&bomb),
        compressed(&compressed(&bomb)),
    ] {
        let (decoded, bytes) = asked(|| codec(false).decode(&bomb));
        assert!(decoded.is_err(), "{decoded:?}");
        assert!(bytes < 6 * bound, "{bytes} octets in a packet");
        let bytes = tell_stream(&bomb);
        assert!(
            bytes < 6 * bound + 8 * bomb.len(),
            "{bytes} octets in a stream"
        );
    }
    // Many in one packet cost as much as one.
    let small = compressed(&vec![USER; 60_000]);
    let parts: Vec<&[u8]> = vec![&small; 200];
    let packet = codec(false).encode(&parts, false, [0; 12]).unwrap();
    let (_, bytes) = asked(|| codec(false).decode(&packet));
    assert!(bytes < 8 * bound, "{bytes} octets for many");
}

/// Arrays of versions with fewer or more than six places.
#[test]
fn memberlist_368_versions_may_be_too_few() {
    for count in 0..=8 {
        let versions: Vec<u8> = [1, 5, 2, 0, 0, 0, 9, 9][..count].to_vec();
        let mut alive = vec![ALIVE];
        alive.extend(described("Node", &versions));
        let mut pushed = vec![PUSH_PULL];
        map(
            &mut pushed,
            &[
                ("Join", Value::No),
                ("Nodes", Value::Number(1)),
                ("UserStateLen", Value::Number(0)),
            ],
        );
        pushed.extend(node(&versions));
        // None at all is well-formed, and spoken by nobody; six are believed; others are malformed.
        let sound = matches!(count, 0 | 6);
        assert_eq!(Message::decode(&alive).is_ok(), sound, "{count}");
        assert_eq!(
            StreamMessage::decode(&pushed, 1 << 16).is_ok(),
            sound,
            "{count}"
        );
        let mut member = member(false);
        let heard = member.handle_datagram(now(), PEER, &alive);
        assert_eq!(heard.is_ok(), sound, "{count}: {heard:?}");
        assert_eq!(member.member("b").is_some(), count == 6, "{count}");
        tell_stream(&pushed);
    }
}

/// Messages of nothing, by every way that leads to one.
#[test]
fn memberlist_369_nothing_is_no_message() {
    let nothing = compressed(&[]);
    let crc = |payload: &[u8]| {
        // Made by the encoder, and cut down to what it wraps.
        let packet = codec(true).encode(&[payload], true, [0; 12]);
        packet.unwrap_or_default()
    };
    let mut packets = vec![
        Vec::new(),
        vec![COMPRESS],
        vec![COMPOUND],
        vec![COMPOUND, 0],
        vec![COMPOUND, 1, 0, 0],
        vec![COMPOUND, 3, 0, 0, 0, 0, 0, 0],
        vec![HAS_CRC, 0, 0, 0, 0],
        vec![ENCRYPT],
        vec![HAS_LABEL, 0],
        vec![HAS_LABEL, 1, b'x'],
        nothing.clone(),
        compressed(&nothing),
        crc(&[]),
        crc(&nothing),
    ];
    let empty: Vec<&[u8]> = vec![&nothing, &[], &nothing];
    packets.extend(codec(false).encode(&empty, false, [0; 12]));
    for packet in packets {
        tell_packet(&packet);
        tell_stream(&packet);
        let (decoded, _) = asked(|| codec(false).decode(&packet));
        let messages = decoded.map_or(0, |packet| packet.messages.len());
        assert_eq!(messages, 0, "{packet:?}");
    }
    assert!(matches!(
        StreamMessage::decode(&[], 1 << 16),
        Err(DecodeError::Truncated { .. })
    ));
}

/// Whoever has the key can speak, and is nobody else for that: it neither moves nor renames nor ends another member.
#[test]
fn memberlist_design_the_shared_key_makes_nobody_another_member() {
    let mut member = member(true);
    let at = |last| SocketAddr::from(([192, 0, 2, last], 7_946));
    let alive = |node: &str, address, incarnation, meta| {
        Message::Alive(Alive {
            incarnation,
            node: node.into(),
            address,
            meta,
            versions: SPOKEN,
        })
    };
    let honest = alive("a", at(2), 1, signed("a", at(2), 1));
    member
        .handle_datagram(now(), at(2), &honest.encode())
        .unwrap();
    let held = |member: &Gossip| {
        let held = member.member("a").unwrap();
        (held.address, held.meta.clone())
    };
    let before = held(&member);
    for lie in [
        alive("a", PEER, 1_000, signed("a", at(2), 1)), // its signature for another place
        alive("a", PEER, 1_001, signed("liar", PEER, 9)), // another's signature
        alive("a", PEER, 1_002, Vec::new()),            // none
        alive("us", PEER, 1_003, signed("liar", PEER, 9)), // and the member itself
    ] {
        member.handle_datagram(now(), PEER, &lie.encode()).unwrap();
        assert_eq!(held(&member), before);
        assert_eq!(member.local().address, at(1));
    }
    // That it be dead is an accusation, which it hears of and refutes, and which moves nothing either.
    let dead = Message::Dead(Accusation {
        incarnation: 1,
        node: "a".into(),
        from: "liar".into(),
    });
    member.handle_datagram(now(), PEER, &dead.encode()).unwrap();
    let taken = alive("a", PEER, 2_000, signed("liar", PEER, 9));
    member
        .handle_datagram(now(), PEER, &taken.encode())
        .unwrap();
    let back = alive("a", at(2), 2, signed("a", at(2), 1));
    member
        .handle_datagram(now(), at(2), &back.encode())
        .unwrap();
    assert_eq!(held(&member), before);
    assert_eq!(member.member("a").unwrap().state, MemberState::Alive);
    assert!(member.stats().claims_refused >= 4);
}

/// Tells a new member one datagram; returns how much memory that took at a time.
fn tell_packet(packet: &[u8]) -> usize {
    let mut member = member(false);
    let (_, bytes) = asked(|| member.handle_datagram(now(), PEER, packet));
    while member.poll_output().is_some() {}
    bytes
}

/// Tells a new member one stream, in pieces, and lets its time pass; returns how much memory that took at a time.
fn tell_stream(octets: &[u8]) -> usize {
    let mut member = member(false);
    let stream = StreamId::Accepted(1);
    let ((), bytes) = asked(|| {
        member.handle_stream_opened(now(), stream, PEER);
        for piece in octets.chunks(1_400) {
            member.handle_stream_data(now(), stream, piece);
        }
    });
    let mut closed = false;
    let mut drain = |member: &mut Gossip| {
        while let Some(output) = member.poll_output() {
            closed |= output == Output::StreamClose { stream };
        }
    };
    drain(&mut member);
    member.handle_timeout(now() + Duration::from_secs(60));
    drain(&mut member);
    assert!(closed, "it is held for ever: {octets:?}");
    bytes
}

fn member(signed: bool) -> Gossip {
    let config = Config {
        member_verifier: signed.then(|| Arc::new(Signer::default()) as _),
        compress: false,
        limits: Limits {
            decompressed_bytes_max: EXPANDED_BYTES_MAX,
            stream_bytes_max: EXPANDED_BYTES_MAX,
            ..Limits::default()
        },
        ..Config::lan("us", SocketAddr::from(([192, 0, 2, 1], 7_946)))
    };
    Gossip::new(config, Seed::from_u64(1), now()).expect("as it is made here")
}

fn codec(compress: bool) -> PacketCodec<'static> {
    PacketCodec {
        label: b"",
        keyring: None,
        verify_incoming: true,
        verify_outgoing: true,
        compress,
        decompressed_bytes_max: EXPANDED_BYTES_MAX,
    }
}

/// A compress message.
fn compressed(content: &[u8]) -> Vec<u8> {
    let squeezed = weezl::encode::Encoder::new(weezl::BitOrder::Lsb, 8).encode(content);
    let mut message = vec![COMPRESS];
    let squeezed = squeezed.expect("as it is made here");
    map(
        &mut message,
        &[
            ("Algo", Value::Number(0)),
            ("Buf", Value::Octets(&squeezed)),
        ],
    );
    message
}

/// A node of a push/pull.
fn node(versions: &[u8]) -> Vec<u8> {
    described("Name", versions)
}

fn described(name: &str, versions: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    map(
        &mut out,
        &[
            ("Addr", Value::Octets(&[192, 0, 2, 2])),
            ("Incarnation", Value::Number(1)),
            ("Meta", Value::Octets(b"")),
            (name, Value::Octets(b"b")),
            ("Port", Value::Number(7_946)),
            ("State", Value::Number(0)),
            ("Vsn", Value::Octets(versions)),
        ],
    );
    out
}

enum Value<'a> {
    Number(u64),
    Octets(&'a [u8]),
    No,
}

/// A map of msgpack, with raw octets as that of 2008 has them.
fn map(out: &mut Vec<u8>, entries: &[(&str, Value<'_>)]) {
    let small = |length: usize| u8::try_from(length).expect("short");
    let raw = |out: &mut Vec<u8>, octets: &[u8]| {
        match octets.len() {
            length @ ..32 => out.push(0xa0 | small(length)),
            length => {
                out.push(0xdb);
                out.extend(u32::try_from(length).expect("short").to_be_bytes());
            }
        }
        out.extend_from_slice(octets);
    };
    out.push(0x80 | small(entries.len()));
    for (key, value) in entries {
        raw(out, key.as_bytes());
        match value {
            Value::Number(number) => {
                out.push(0xcf);
                out.extend(number.to_be_bytes());
            }
            Value::Octets(octets) => raw(out, octets),
            Value::No => out.push(0xc2),
        }
    }
}

fn now() -> Instant {
    Instant::from_millis(1_000)
}

const PEER: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9)),
    7_946,
);
const EXPANDED_BYTES_MAX: usize = 1 << 16;

// Kinds of messages, as memberlist numbers them.
const PING: u8 = 0;
const ALIVE: u8 = 4;
const PUSH_PULL: u8 = 6;
const COMPOUND: u8 = 7;
const USER: u8 = 8;
const COMPRESS: u8 = 9;
const ENCRYPT: u8 = 10;
const HAS_CRC: u8 = 12;
const ERROR: u8 = 13;
const HAS_LABEL: u8 = 244;
