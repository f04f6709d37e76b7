//! Floods of octets that nobody with a key sent: counted, and nothing else.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use aead::ring;
use overlay_core::{Instant, Machine, Rng, Seed};
use overlay_gossip::{
    Config, DecodeError, Gossip, Keyring, Output, StreamId,
    wire::{Alive, Message, PacketCodec, Ping, StreamCodec, StreamMessage, Versions},
};
use signer::{SPOKEN, Signer, signed};

#[path = "support/aead.rs"]
mod aead;
#[path = "support/signer.rs"]
#[allow(dead_code, reason = "nobody signs here")]
mod signer;

#[test]
fn a_flood_of_datagrams_without_the_key_is_counted_and_changes_nothing() {
    let (mut gossip, keys) = (member(true), keys());
    meet(&mut gossip, Some(&keys));
    let (now, before) = (gossip_now(), state(&gossip));
    let mut rng = Seed::from_u64(1).rng();
    let sealed = packets(Some(&keys))
        .encode(&parts(), true, [3; 12])
        .unwrap();
    let foreign = packets(Some(&ring(&[77; 16])))
        .encode(&parts(), true, [3; 12])
        .unwrap();
    let clear = packets(None).encode(&parts(), true, [3; 12]).unwrap();
    for number in 0..FLOOD {
        let bytes = match number % 5 {
            0 => random(&mut rng, 200),
            1 => cut(&sealed, &mut rng),
            2 => flipped(&sealed, &mut rng),
            3 => foreign.clone(),
            _ => clear.clone(),
        };
        let heard = gossip.handle_datagram(now, PEER, &bytes);
        assert!(heard.is_err(), "{number}: {bytes:?}");
    }
    let stats = gossip.stats();
    assert_eq!(
        (stats.datagrams_received, stats.malformed),
        (FLOOD + 1, FLOOD)
    );
    assert_eq!(
        (
            stats.parts_ignored,
            stats.claims_verified,
            stats.datagrams_sent
        ),
        (0, 1, 0)
    );
    assert_eq!(state(&gossip), before);
    assert_eq!(gossip.poll_output(), None);
    gossip
        .handle_datagram(now, PEER, &sealed)
        .expect("with the key");
    assert_eq!(gossip.stats().datagrams_sent, 1, "it listens");
    assert_eq!(gossip.members().count(), 2, "and forged is forged");
}

/// Without keys, whoever sends is heard; octets that mean nothing still change nothing.
#[test]
fn a_flood_of_random_datagrams_in_the_clear_is_counted_and_changes_nothing() {
    let mut gossip = member(false);
    meet(&mut gossip, None);
    let (now, before) = (gossip_now(), state(&gossip));
    let mut rng = Seed::from_u64(2).rng();
    let checked = packets(None).encode(&parts(), true, [3; 12]).unwrap();
    let mut meant = 0;
    for number in 0..FLOOD {
        let bytes = match number % 3 {
            0 => flipped(&checked, &mut rng), // the checksum tells
            1 => cut(&checked, &mut rng),
            _ => random(&mut rng, 200),
        };
        // The type octets of acks, nacks and users may come up; they ask for nothing.
        meant += u64::from(gossip.handle_datagram(now, PEER, &bytes).is_ok());
        while let Some(output) = gossip.poll_output() {
            assert!(matches!(output, Output::Event(_)), "{output:?}");
        }
    }
    let stats = gossip.stats();
    assert_eq!(
        (stats.datagrams_received, stats.malformed),
        (FLOOD + 1, FLOOD - meant)
    );
    assert!(meant < FLOOD / 100, "{meant}");
    assert_eq!(state(&gossip), before);
}

#[test]
fn a_flood_of_streams_without_the_key_is_closed_and_leaves_nothing() {
    let (mut gossip, keys) = (member(true), keys());
    let before = state(&gossip);
    let mut rng = Seed::from_u64(3).rng();
    let ping = StreamMessage::Ping(Ping {
        sequence: 1,
        node: "us".into(),
        origin: None,
    });
    let sealed = streams(Some(&keys)).encode(&ping, true, [3; 12]).unwrap();
    let clear = streams(None).encode(&ping, true, [3; 12]).unwrap();
    let mut now = gossip_now();
    for number in 1..=FLOOD / 10 {
        let (stream, from) = (StreamId::Accepted(number), PEER);
        gossip.handle_stream_opened(now, stream, from);
        let bytes = match number % 4 {
            0 => random(&mut rng, 200),
            1 => flipped(&sealed, &mut rng),
            2 => clear.clone(),
            _ => cut(&sealed, &mut rng),
        };
        for piece in bytes.chunks(40) {
            gossip.handle_stream_data(now, stream, piece);
        }
        gossip.handle_stream_closed(now, stream);
        while let Some(output) = gossip.poll_output() {
            assert_eq!(output, Output::StreamClose { stream }, "{bytes:?}");
        }
    }
    let stats = gossip.stats();
    assert!(stats.malformed > FLOOD / 10 / 2, "{stats:?}");
    assert_eq!(stats.streams_refused, 0);
    assert_eq!(state(&gossip), before);
    // Those that are held open end with their time, and there are never more than allowed.
    for (number, octet) in (0..1_000).zip((0..=9).cycle()) {
        let stream = StreamId::Accepted(FLOOD + number);
        let from = SocketAddr::from(([192, 0, 2, if number < 100 { 99 } else { octet }], 5_000));
        gossip.handle_stream_opened(now, stream, from);
        gossip.handle_stream_data(now, stream, &[10, 0, 16, 0, 0]);
        if number == 99 {
            assert_eq!(gossip.stats().streams_refused, 100 - 32, "of one host");
        }
    }
    assert_eq!(gossip.stats().streams_refused, 1_000 - 128);
    now += Duration::from_secs(10);
    gossip.handle_timeout(now);
    assert_eq!(gossip.stats().streams_timed_out, 128);
    while gossip.poll_output().is_some() {}
    assert_eq!(state(&gossip), before);
}

/// A datagram of many parts, each of which expands to more than allowed, costs one of them.
#[test]
fn many_bombs_cost_as_much_as_one() {
    let bomb = packets(None)
        .encode(&[&[8; 60_000]], false, [0; 12])
        .unwrap();
    assert!(bomb.len() < 1_000, "{}", bomb.len());
    let ping = Message::Ping(Ping {
        sequence: 1,
        node: "us".into(),
        origin: None,
    })
    .encode();
    let codec = PacketCodec {
        compress: false,
        decompressed_bytes_max: 50_000,
        ..packets(None)
    };
    let packet = codec
        .encode(&[&bomb, &small(), &ping], false, [0; 12])
        .unwrap();
    let packet = codec.decode(&packet).unwrap();
    assert_eq!((packet.messages.len(), packet.ignored), (1, 2), "the ping");
    let packet = codec
        .encode(&[&small(), &small(), &ping], false, [0; 12])
        .unwrap();
    assert_eq!(codec.decode(&packet).unwrap().ignored, 0);
    assert_eq!(codec.decode(&bomb), Err(DecodeError::Compression));
}

/// Something small that is compressed.
fn small() -> Vec<u8> {
    packets(None)
        .encode(&[&[8; 500]], false, [0; 12])
        .expect("as it is made here")
}

/// Everything but the counters, which come last, and the time.
fn state(gossip: &Gossip) -> String {
    let all = format!("{gossip:?}");
    let (state, _) = all.split_once(", stats: Stats {").expect("counters");
    let mut pieces = state.split(", now: ");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |state, piece| {
        let (_, rest) = piece.split_once(", ").expect("more than the time");
        state + ", " + rest
    })
}

fn member(sealed: bool) -> Gossip {
    let config = Config {
        keyring: sealed.then(keys),
        member_verifier: Some(Arc::new(Signer::default())),
        ..Config::lan("us", SocketAddr::from(([192, 0, 2, 1], 7_946)))
    };
    Gossip::new(config, Seed::from_u64(1), gossip_now()).expect("as it is made here")
}

/// Has it know another member.
fn meet(gossip: &mut Gossip, keys: Option<&Keyring>) {
    let address = SocketAddr::from(([192, 0, 2, 2], 7_946));
    let alive = Message::Alive(Alive {
        incarnation: 3,
        node: "a".into(),
        address,
        meta: signed("a", address, 1),
        versions: SPOKEN,
    });
    let packet = packets(keys).encode(&[&alive.encode()], true, [4; 12]);
    let heard = gossip.handle_datagram(gossip_now(), address, &packet.expect("as it is made here"));
    heard.expect("with the key");
    while gossip.poll_output().is_some() {}
    assert_eq!(gossip.members().count(), 2);
}

fn gossip_now() -> Instant {
    Instant::from_millis(1_000)
}

/// Three, as during rotations.
fn keys() -> Keyring {
    let mut keys = ring(&[1; 16]);
    keys.replace(&[[1; 16], [2; 16], [3; 16]], &[2; 16])
        .expect("as it is made here");
    keys
}

/// A ping and an alive.
fn parts() -> [&'static [u8]; 2] {
    let ping = Message::Ping(Ping {
        sequence: 7,
        node: "us".into(),
        origin: None,
    });
    let alive = Message::Alive(Alive {
        incarnation: 3,
        node: "b".into(),
        address: PEER,
        meta: b"some meta data".to_vec(),
        versions: Versions([1, 5, 2, 0, 0, 0]),
    });
    [ping, alive].map(|message| &*message.encode().leak())
}

fn packets(keyring: Option<&Keyring>) -> PacketCodec<'_> {
    PacketCodec {
        label: b"",
        keyring,
        verify_incoming: true,
        verify_outgoing: true,
        compress: true,
        decompressed_bytes_max: 65_536,
    }
}

fn streams(keyring: Option<&Keyring>) -> StreamCodec<'_> {
    StreamCodec {
        label: b"",
        keyring,
        verify_incoming: true,
        verify_outgoing: true,
        compress: false,
        stream_bytes_max: 1 << 20,
    }
}

fn random(rng: &mut Rng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.index(most).expect("as it is made here")];
    rng.fill(&mut bytes);
    bytes
}

fn cut(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    bytes[..rng.index(bytes.len()).expect("as it is made here")].to_vec()
}

fn flipped(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = rng.index(bytes.len()).expect("as it is made here");
    bytes[at] ^= 1 << rng.below(8);
    bytes
}

const FLOOD: u64 = 100_000;
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)), 7_946);
