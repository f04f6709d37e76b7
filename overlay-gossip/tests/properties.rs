//! Codecs: what is written is read again, and nothing that arrives can panic.

use std::net::{IpAddr, SocketAddr};

use overlay_core::{Instant, Machine, Seed};
use overlay_gossip::{
    Config, Gossip, Output, StreamId,
    wire::{
        Accusation, Ack, Alive, IndirectPing, Message, Nack, Origin, PacketCodec, Ping, PushPull,
        PushPullNode, StreamCodec, StreamMessage, StreamReader, Versions,
    },
};
use proptest::{collection::vec, option, prelude::*};
use support::ring;

#[path = "support/aead.rs"]
mod support;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_packet_holds_what_was_put_in(
        messages in vec(message(), 1..6),
        (checksum, compress, sealed) in any::<(bool, bool, bool)>(),
        label in vec(any::<u8>(), 0..20),
        nonce in any::<[u8; 12]>(),
    ) {
        let ring = ring(&[3; 32]);
        let codec = PacketCodec {
            label: &label,
            keyring: sealed.then_some(&ring),
            verify_incoming: true,
            verify_outgoing: true,
            compress,
            decompressed_bytes_max: 1 << 20,
        };
        let parts: Vec<Vec<u8>> = messages.iter().map(Message::encode).collect();
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        let packet = codec.encode(&parts, checksum, nonce).unwrap();
        let decoded = codec.decode(&packet).unwrap();
        prop_assert_eq!((decoded.messages, decoded.ignored), (messages, 0));
    }

    #[test]
    fn a_stream_holds_what_was_put_in_however_it_is_cut(
        message in stream_message(),
        (dialler, compress, sealed) in any::<(bool, bool, bool)>(),
        label in vec(any::<u8>(), 0..20),
        piece in 1..500_usize,
    ) {
        let ring = ring(&[3; 16]);
        let codec = stream_codec(&label, sealed.then_some(&ring), compress);
        let bytes = codec.encode(&message, dialler, [1; 12]).unwrap();
        let (mut reader, mut found) = (StreamReader::new(), None);
        for (at, piece) in bytes.chunks(piece).enumerate() {
            prop_assert_eq!(&found, &None, "complete before piece {}", at);
            found = reader.push(&codec, !dialler, piece).unwrap();
        }
        prop_assert_eq!(found, Some(message));
    }

    #[test]
    fn arbitrary_packets_never_panic(bytes in vec(any::<u8>(), 0..300), first in 0..15_u8) {
        let codec = PacketCodec {
            label: b"",
            keyring: None,
            verify_incoming: true,
            verify_outgoing: true,
            compress: true,
            decompressed_bytes_max: 4_096,
        };
        let begun = [&[first], &bytes[..]].concat();
        for bytes in [&bytes, &begun] {
            if let Ok(packet) = codec.decode(bytes) {
                for message in packet.messages {
                    // What was understood can be said, and is understood again.
                    prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
                }
            }
        }
    }

    #[test]
    fn arbitrary_streams_never_panic(bytes in vec(any::<u8>(), 0..300), first in 0..15_u8) {
        let codec = stream_codec(b"", None, true);
        let begun = [&[first], &bytes[..]].concat();
        for bytes in [&bytes, &begun] {
            let mut reader = StreamReader::new();
            for piece in bytes.chunks(7) {
                if !matches!(reader.push(&codec, false, piece), Ok(None)) {
                    break;
                }
            }
        }
    }

    /// Whatever a member hears, what it sends fits: with the smallest packets that it allows, the longest label and keys.
    #[test]
    fn every_packet_fits(
        heard in vec((message(), any::<bool>()), 1..40),
        label in prop_oneof![Just(0_usize), Just(128)],
        spare in 0..300_usize,
        sealed in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut config = Config::lan("us".repeat(32), SocketAddr::from(([192, 0, 2, 1], 7946)));
        config.label = vec![7; label];
        config.keyring = sealed.then(|| ring(&[5; 32]));
        config.verify_incoming = false;
        config.meta = vec![1; 512];
        let smallest = (576..2_000).find(|size| {
            config.limits.packet_bytes_max = *size;
            Gossip::new(config.clone(), Seed::from_u64(1), Instant::EPOCH).is_ok()
        });
        let limit = smallest.unwrap() + spare;
        config.limits.packet_bytes_max = limit;
        let codec_label = config.label.clone();
        let ring = config.keyring.clone();
        let codec = PacketCodec {
            label: &codec_label,
            keyring: ring.as_ref(),
            verify_incoming: true,
            verify_outgoing: true,
            compress: false,
            decompressed_bytes_max: 1 << 20,
        };
        let mut now = Instant::EPOCH;
        let mut gossip = Gossip::new(config, Seed::from_u64(seed), now).unwrap();
        for (message, wait) in heard {
            let packet = codec.encode(&[&message.encode()], false, [9; 12]).unwrap();
            let from = SocketAddr::from(([192, 0, 2, 9], 7946));
            gossip.handle_datagram(now, from, &packet).unwrap();
            if let Some(next) = gossip.poll_timeout().filter(|_| wait) {
                now = next;
                gossip.handle_timeout(now);
            }
            while let Some(output) = gossip.poll_output() {
                if let Output::Datagram { bytes, .. } = output {
                    prop_assert!(bytes.len() <= limit, "{} of {}", bytes.len(), limit);
                }
            }
        }
    }

    /// Streams that nobody opened, closed ones, and octets after the message are harmless.
    #[test]
    fn stray_streams_are_harmless(steps in vec((0..4_u8, 0..4_u64, vec(any::<u8>(), 0..40)), 0..40)) {
        let config = Config::lan("us", SocketAddr::from(([192, 0, 2, 1], 7946)));
        let mut gossip = Gossip::new(config, Seed::from_u64(1), Instant::EPOCH).unwrap();
        let peer = SocketAddr::from(([192, 0, 2, 9], 7946));
        gossip.join(Instant::EPOCH, &[peer]);
        for (what, number, bytes) in steps {
            let streams = [StreamId::Accepted(number), StreamId::Dialled(number)];
            let stream = streams[usize::from(what % 2)];
            match what {
                0 => gossip.handle_stream_opened(Instant::EPOCH, stream, peer),
                1 => gossip.handle_stream_closed(Instant::EPOCH, stream),
                _ => gossip.handle_stream_data(Instant::EPOCH, stream, &bytes),
            }
        }
    }
}

fn message() -> impl Strategy<Value = Message> {
    let ack = (any::<u32>(), vec(any::<u8>(), 0..40));
    prop_oneof![
        ping().prop_map(Message::Ping),
        indirect_ping().prop_map(Message::IndirectPing),
        ack.prop_map(|(sequence, payload)| Message::Ack(Ack { sequence, payload })),
        any::<u32>().prop_map(|sequence| Message::Nack(Nack { sequence })),
        accusation().prop_map(Message::Suspect),
        accusation().prop_map(Message::Dead),
        alive().prop_map(Message::Alive),
        vec(any::<u8>(), 0..300).prop_map(Message::User),
    ]
}

fn accusation() -> impl Strategy<Value = Accusation> {
    let parts = (any::<u32>(), name(), name());
    parts.prop_map(|(incarnation, node, from)| Accusation {
        incarnation,
        node,
        from,
    })
}

fn stream_message() -> impl Strategy<Value = StreamMessage> {
    let node = (alive(), 0..4_u8).prop_map(|(alive, state)| PushPullNode { alive, state });
    let push_pull = (any::<bool>(), vec(node, 0..20), vec(any::<u8>(), 0..2_000));
    prop_oneof![
        ping().prop_map(StreamMessage::Ping),
        push_pull.prop_map(|(join, nodes, user_state)| {
            StreamMessage::PushPull(PushPull {
                join,
                nodes,
                user_state,
            })
        }),
        vec(any::<u8>(), 0..5_000).prop_map(StreamMessage::User),
        ".{0,60}".prop_map(StreamMessage::Error),
    ]
}

fn ping() -> impl Strategy<Value = Ping> {
    (any::<u32>(), name(), origin()).prop_map(|(sequence, node, origin)| Ping {
        sequence,
        node,
        origin,
    })
}

fn indirect_ping() -> impl Strategy<Value = IndirectPing> {
    let parts = (any::<u32>(), address(), name(), any::<bool>(), origin());
    parts.prop_map(|(sequence, target, node, nack, origin)| IndirectPing {
        sequence,
        target,
        node,
        nack,
        origin,
    })
}

fn alive() -> impl Strategy<Value = Alive> {
    let versions = prop_oneof![Just([1, 5, 2, 0, 0, 0]), any::<[u8; 6]>()];
    let meta = vec(any::<u8>(), 0..=512);
    let parts = (any::<u32>(), name(), address(), meta, versions);
    parts.prop_map(|(incarnation, node, address, meta, versions)| Alive {
        incarnation,
        node,
        address,
        meta,
        versions: Versions(versions),
    })
}

fn origin() -> impl Strategy<Value = Option<Origin>> {
    let port = |address: &SocketAddr| address.port() != 0;
    let address = address().prop_filter("an origin has a port", port);
    option::of((address, name()).prop_map(|(address, node)| Origin { address, node }))
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,3}", "[a-z]{128}", "[äö]{1,20}"]
}

fn address() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
}

fn stream_codec<'a>(
    label: &'a [u8],
    keyring: Option<&'a overlay_gossip::Keyring>,
    compress: bool,
) -> StreamCodec<'a> {
    StreamCodec {
        label,
        keyring,
        verify_incoming: true,
        verify_outgoing: true,
        compress,
        stream_bytes_max: 1 << 20,
    }
}
