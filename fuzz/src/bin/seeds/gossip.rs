//! What two members say to each other.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use overlay_core::{EndpointId, Instant, MacAddr, Machine, NetworkId, NodeId, Seed as Randomness};
use overlay_fuzz::Script;
use overlay_gossip::{
    Config, Gossip, Lease, Output, Row, RowState, StreamId,
    wire::{Accusation, Message, Packet, PacketCodec},
};

use crate::{Seed, seed};

const CLEAR: PacketCodec<'_> = PacketCodec {
    label: b"",
    keyring: None,
    verify_incoming: true,
    verify_outgoing: true,
    compress: false,
    decompressed_bytes_max: 65_536,
};

/// What was said, the first of each kind and size.
#[derive(Default)]
struct Heard {
    packets: BTreeMap<(u8, usize), Vec<u8>>,
    messages: BTreeMap<(u8, usize), Message>,
    /// By whether the dialler said it.
    streams: BTreeMap<(bool, u8, usize), Vec<u8>>,
}

fn row(number: u8) -> Row {
    let endpoint = EndpointId::from_bytes([number; 16]);
    let mac = MacAddr::new([2, 0, 0, 0, 0, number]);
    let addresses = vec![[10, 0, 1, number].into()];
    Row {
        endpoint,
        mac,
        addresses: addresses.clone(),
        vtep: [192, 0, 2, 3].into(),
        names: vec!["web".into()],
        service: None,
        service_names: Vec::new(),
        ports: Vec::new(),
        weight: 1,
        state: RowState::Live,
        lease: Lease {
            network: NetworkId::from_bytes([7; 16]),
            endpoint,
            node: NodeId::from_bytes([3; 16]),
            addresses,
            mac,
            generation: 1,
            signature: Bytes::from_static(b"signed"),
        },
    }
}

fn listen(compress: bool) -> Heard {
    let addresses = [1, 3].map(|host| SocketAddr::from(([192, 0, 2, host], 7_946)));
    let mut now = Instant::EPOCH;
    let network = NetworkId::from_bytes([7; 16]);
    let mut heard = Heard::default();
    let mut members: Vec<Gossip> = [("one", 0), ("three", 1)]
        .into_iter()
        .map(|(name, at)| {
            let config = Config {
                compress,
                ..Config::lan(name, addresses[at])
            };
            let seed = Randomness::from_u64(at as u64);
            let mut member = Gossip::new(config, seed, now).expect("good settings");
            member.join_network(now, network);
            member
                .put_row(now, network, row(at as u8))
                .expect("a good row");
            member
        })
        .collect();
    members[1].join(now, &addresses[..1]);
    let other = |id| match id {
        StreamId::Dialled(number) => StreamId::Accepted(number),
        StreamId::Accepted(number) => StreamId::Dialled(number),
    };
    for step in 0..400 {
        for at in 0..2 {
            members[at].handle_timeout(now);
            while let Some(output) = members[at].poll_output() {
                let (peer, from) = (1 - at, addresses[at]);
                match output {
                    Output::Datagram { bytes, .. } => {
                        heard.packet(&bytes);
                        let _ = members[peer].handle_datagram(now, from, &bytes);
                    }
                    Output::Dial { stream, .. } => {
                        members[at].handle_stream_connected(now, stream);
                        members[peer].handle_stream_opened(now, other(stream), from);
                    }
                    Output::StreamSend { stream, bytes } => {
                        let dialler = matches!(stream, StreamId::Dialled(_));
                        let key = (dialler, bytes[0], bytes.len() / 128);
                        heard.streams.entry(key).or_insert_with(|| bytes.clone());
                        members[peer].handle_stream_data(now, other(stream), &bytes);
                    }
                    Output::StreamClose { stream } => {
                        members[peer].handle_stream_closed(now, other(stream));
                    }
                    Output::Event(_) => {}
                }
            }
        }
        if step == 200 {
            members[1].delete_row(now, network, row(1).endpoint);
            members[0].leave_network(now, network);
        }
        let next = members.iter().filter_map(Machine::poll_timeout).min();
        now = next.expect("a member has deadlines").max(now);
    }
    heard
}

impl Heard {
    fn packet(&mut self, bytes: &[u8]) {
        self.packets
            .entry((bytes[0], bytes.len() / 64))
            .or_insert_with(|| bytes.to_vec());
        let Packet { messages, .. } = CLEAR.decode(bytes).expect("a good packet");
        for message in messages {
            let encoded = message.encode();
            let key = match &message {
                Message::User(user) => (user.get(1).copied().unwrap_or(0) | 0x80, user.len() / 64),
                _ => (encoded[0], 0),
            };
            self.messages.entry(key).or_insert(message);
        }
    }
}

pub(crate) fn datagrams() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, compress) in [("clear", false), ("compressed", true)] {
        for ((kind, size), bytes) in listen(compress).packets.into_iter().take(12) {
            let flags = seeds.len() as u8 & 3;
            let label = format!("{name}-{kind}-{size}");
            seeds.push(seed(label.clone(), [&[0], &bytes[..]].concat()));
            seeds.push(seed(
                format!("{label}-sealed"),
                [&[4 | flags], &bytes[..]].concat(),
            ));
        }
    }
    let accusation = Accusation {
        incarnation: 1,
        node: "two".into(),
        from: "one".into(),
    };
    for message in [
        Message::Suspect(accusation.clone()),
        Message::Dead(accusation),
    ] {
        let bytes = message.encode();
        seeds.push(seed(
            format!("accusation-{}", bytes[0]),
            [&[0], &bytes[..]].concat(),
        ));
    }
    seeds
}

pub(crate) fn streams() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, compress) in [("clear", false), ("compressed", true)] {
        for ((dialler, kind, size), bytes) in listen(compress).streams.into_iter().take(8) {
            let flags = if dialler { 0 } else { 8 };
            let label = format!("{name}-{dialler}-{kind}-{size}");
            seeds.push(seed(label.clone(), [&[flags], &bytes[..]].concat()));
            if !compress {
                let flags = flags | 7 | 0x30;
                seeds.push(seed(
                    format!("{label}-sealed"),
                    [&[flags], &bytes[..]].concat(),
                ));
            }
        }
    }
    seeds
}

pub(crate) fn scripts() -> Vec<Seed> {
    let heard = listen(false);
    let mut seeds = Vec::new();
    let (mut all, mut at) = (Script::new().op(&[1]), 0_u8);
    for ((kind, size), message) in &heard.messages {
        at = at.wrapping_add(1);
        let script = match message {
            Message::User(user) if user.len() >= 7 => {
                Script::new().op(&[0, 3, kind & 0x7f]).bytes(&user[7..])
            }
            _ => Script::new()
                .op(&[0, 1, 2])
                .bytes(&message.encode())
                .bytes(b""),
        };
        let script = script.op(&[15, 50, 12, at, 15, 255]);
        seeds.push(seed(format!("message-{kind}-{size}"), script.done()));
        all = all
            .op(&[1, 2])
            .bytes(&message.encode())
            .bytes(b"")
            .op(&[15, 20]);
    }
    seeds.push(seed("all", all.done()));
    for ((dialler, kind, size), bytes) in heard.streams.iter().take(6) {
        let script = match dialler {
            true => Script::new()
                .op(&[0, 5, 2, 7, 2])
                .bytes(bytes)
                .op(&[8, 2, 15, 100]),
            false => Script::new()
                .op(&[1, 9, 3, 7, 3])
                .bytes(bytes)
                .op(&[8, 3, 15, 100]),
        };
        seeds.push(seed(
            format!("stream-{dialler}-{kind}-{size}"),
            script.done(),
        ));
    }
    let commands = [
        0, 10, 1, 12, 3, 13, 3, 11, 1, 14, 5, 14, 1, 15, 255, 15, 255,
    ];
    seeds.push(seed("commands", commands));
    seeds
}
