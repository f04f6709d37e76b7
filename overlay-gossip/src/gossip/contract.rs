//! The contract of `overlay_core::machine`, with hostile peers.

use std::{net::SocketAddr, sync::Arc};

use overlay_core::{EndpointId, Instant, MacAddr, NetworkId, NodeId, Rng, Seed};
use overlay_sim::contract::{self, Acted, Subject};

use super::{
    Gossip,
    tests::claims::signer::{Signer, signed},
};
use crate::{
    Config, Lease, Limits, MemberVerifier, Name, Output, Row, RowState, StreamId, Timing,
    table::message::{
        Attachment, Digest, Members, OwnerHash, OwnerVersions, Purpose, RecordVersion, Rows,
        Summary, TableMessage, Version, Versions as RowVersions, WireRecord, Wish,
    },
    wire::{
        Accusation, Ack, Alive, IndirectPing, Message, Nack, Origin, PacketCodec, Ping, PushPull,
        PushPullNode, StreamCodec, StreamMessage, Versions,
    },
};

#[test]
fn a_member_keeps_the_contract() {
    let summary =
        contract::assert_holds("gossip::contract::a_member_keeps_the_contract", 6, || {
            Hostile::default()
        });
    assert!(summary.done > 500 && summary.refused > 50, "{summary:?}");
    assert!(summary.outputs > 500, "{summary:?}");
}

#[test]
fn a_member_with_a_verifier_keeps_the_contract() {
    let name = "gossip::contract::a_member_with_a_verifier_keeps_the_contract";
    let summary = contract::assert_holds(name, 6, || Hostile {
        streams: 0,
        verifier: Some(Arc::new(Signer::default())),
    });
    assert!(summary.done > 500 && summary.refused > 50, "{summary:?}");
    assert!(summary.outputs > 500, "{summary:?}");
}

/// Peers that say whatever the wire can say.
#[derive(Default)]
struct Hostile {
    streams: u64,
    verifier: Option<Arc<dyn MemberVerifier>>,
}

impl Subject for Hostile {
    type Machine = Gossip;

    fn build(&mut self, seed: Seed, now: Instant) -> Gossip {
        let config = Config {
            timing: Timing::quick(),
            limits: limits(),
            member_verifier: self.verifier.clone(),
            ..Config::lan("name-0", address(0))
        };
        Gossip::new(config, seed, now).expect("a good configuration")
    }

    fn act(&mut self, gossip: &mut Gossip, now: Instant, rng: &mut Rng) -> Acted {
        match rng.below(9) {
            0 => gossip.join(now, &[address(rng.below(6))]),
            1 if rng.chance(100_000) => gossip.leave(now),
            2 => return gossip.set_meta(now, vec![7; 509 + draw(rng, 5)]).into(),
            3 => gossip.join_network(now, network(rng)),
            4 if rng.chance(300_000) => gossip.leave_network(now, network(rng)),
            5 => {
                let network = network(rng);
                return gossip.put_row(now, network, row(network, rng)).into();
            }
            6 => gossip.delete_row(now, network(rng), endpoint(rng)),
            7 => {
                let bytes = vec![0xf0 | rng.bytes::<1>()[0]; draw(rng, 3_000)];
                return gossip.send(now, &name(rng), &bytes).into();
            }
            8 => return gossip.broadcast(now, &vec![1; draw(rng, 2_000)]).into(),
            _ => gossip.handle_stream_connected(now, StreamId::Dialled(1)),
        }
        Acted::Done
    }

    fn take(&mut self, output: Output) -> String {
        if let Output::Datagram { bytes, .. } = &output {
            assert!(bytes.len() <= limits().packet_bytes_max, "{}", bytes.len());
        }
        format!("{output:?}")
    }

    fn fingerprint(&self, gossip: &Gossip) -> String {
        let Gossip {
            local,
            roster,
            awareness,
            probing,
            broadcasts,
            user_broadcasts,
            streams,
            healing,
            timers,
            ..
        } = gossip;
        let tables = gossip.tables.fingerprint();
        format!(
            "{local:?} {roster:?} {awareness:?} {probing:?} {broadcasts:?} {user_broadcasts:?} {streams:?} {healing:?} \
             {timers:?} {tables}"
        )
    }

    fn footprint(&self, gossip: &Gossip) -> usize {
        gossip.roster.len()
            + gossip.broadcasts.len()
            + gossip.user_broadcasts.len()
            + gossip.probing.len()
            + gossip.streams.len()
            + gossip.tables.footprint()
    }

    fn footprint_max(&self) -> usize {
        let limits = limits();
        let members = limits.members_max * 3 + 1; // and twice as places in a round
        let tables = limits.rows_max
            + limits.attachments_max * 2 // and asks
            + limits.networks_max * (2 + limits.row_broadcasts_max)
            + 8; // ourselves in each network
        let streams = limits.streams_max + limits.dials_max;
        members + tables + streams + limits.broadcasts_max * 2 + limits.relays_max
    }

    fn sample(&mut self, rng: &mut Rng) -> Vec<u8> {
        let parts: Vec<Vec<u8>> = (0..=rng.below(4)).map(|_| message(rng).encode()).collect();
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        let codec = PacketCodec {
            label: b"",
            keyring: None,
            verify_incoming: true,
            verify_outgoing: true,
            compress: rng.chance(300_000),
            decompressed_bytes_max: 65_536,
        };
        let packet = codec.encode(&parts, rng.chance(300_000), [0; 12]);
        packet.expect("few parts")
    }

    fn feed(&mut self, gossip: &mut Gossip, now: Instant, bytes: &[u8], rng: &mut Rng) -> Acted {
        match rng.below(8) {
            0 => {
                self.streams += 1;
                let stream = StreamId::Accepted(self.streams);
                gossip.handle_stream_opened(now, stream, address(rng.below(6)));
            }
            1 => {
                let stream = StreamId::Accepted(rng.below(self.streams + 1));
                gossip.handle_stream_data(now, stream, bytes);
            }
            2 => {
                let codec = StreamCodec {
                    label: b"",
                    keyring: None,
                    verify_incoming: true,
                    verify_outgoing: true,
                    compress: rng.chance(500_000),
                    stream_bytes_max: 1 << 20,
                };
                let message = codec.encode(&stream_message(rng), true, [0; 12]);
                let stream = if rng.chance(700_000) {
                    StreamId::Accepted(rng.below(self.streams + 1))
                } else {
                    StreamId::Dialled(rng.below(50))
                };
                let message = message.expect("a message of its kind");
                gossip.handle_stream_data(now, stream, &message);
            }
            3 => gossip.handle_stream_closed(now, StreamId::Dialled(rng.below(50))),
            _ => {
                return gossip
                    .handle_datagram(now, address(rng.below(6)), bytes)
                    .into();
            }
        }
        Acted::Done
    }
}

fn limits() -> Limits {
    Limits {
        members_max: 10,
        claims_per_second_max: 20,
        seeds_max: 4,
        broadcasts_max: 12,
        relays_max: 5,
        streams_max: 4,
        dials_max: 4,
        stream_bytes_max: 1 << 20,
        stream_bytes_total_max: 1 << 20,
        networks_max: 3,
        attachments_max: 12,
        rows_max: 20,
        row_broadcasts_max: 10,
        sync_bytes_max: 4_096,
        ..Limits::default()
    }
}

fn message(rng: &mut Rng) -> Message {
    let accusation = Accusation {
        incarnation: incarnation(rng),
        node: name(rng),
        from: name(rng),
    };
    match rng.below(16) {
        0 => Message::Ping(ping(rng)),
        1 => Message::IndirectPing(IndirectPing {
            sequence: rng.next_u32(),
            target: address(rng.below(6)),
            node: name(rng),
            nack: rng.chance(500_000),
            origin: origin(rng),
        }),
        2 => Message::Ack(Ack {
            sequence: rng.next_u32(),
            payload: Vec::new(),
        }),
        3 => Message::Nack(Nack {
            sequence: rng.next_u32(),
        }),
        4 => Message::Suspect(accusation),
        5 => Message::Dead(accusation),
        6..=8 => Message::Alive(alive(rng)),
        9 => Message::User(rng.bytes::<9>().to_vec()),
        _ => Message::User(table_message(rng).encode()),
    }
}

fn stream_message(rng: &mut Rng) -> StreamMessage {
    match rng.below(4) {
        0 => StreamMessage::Ping(ping(rng)),
        1 => StreamMessage::Ack(Ack {
            sequence: rng.next_u32(),
            payload: Vec::new(),
        }),
        2 => StreamMessage::User(table_message(rng).encode()),
        _ => {
            let attachments = (0..rng.below(6)).map(|_| attachment(rng)).collect();
            let node = |rng: &mut Rng| PushPullNode {
                alive: alive(rng),
                state: u8::try_from(rng.below(5)).expect("a small number"),
            };
            StreamMessage::PushPull(PushPull {
                join: rng.chance(500_000),
                nodes: (0..rng.below(6)).map(|_| node(rng)).collect(),
                user_state: TableMessage::Attachments(attachments).encode(),
            })
        }
    }
}

fn table_message(rng: &mut Rng) -> TableMessage {
    let (network, sender) = (network(rng), Name::from(name(rng)));
    match rng.below(8) {
        6 => TableMessage::Enquiry(attachment(rng)),
        7 => TableMessage::Members(Members {
            sender,
            network,
            attachments: (0..rng.below(3)).map(|_| attachment(rng)).collect(),
        }),
        0 => TableMessage::Attachments((0..rng.below(3)).map(|_| attachment(rng)).collect()),
        1 | 2 => TableMessage::Rows(Rows {
            sender,
            network,
            purpose: [Purpose::News, Purpose::Part, Purpose::Whole][draw(rng, 3)],
            records: (0..rng.below(4)).map(|_| record(network, rng)).collect(),
            wanted: (0..rng.below(3))
                .map(|_| (OwnerHash::of(&name(rng)), endpoint(rng)))
                .collect(),
        }),
        3 => TableMessage::Digest(Digest {
            attachment: attachment(rng),
            table: rng.below(2),
            own: rng.below(2),
            wish: [Wish::Differences, Wish::Word, Wish::Everything][draw(rng, 3)],
        }),
        4 => TableMessage::Summary(Summary {
            attachment: attachment(rng),
            owners: (0..rng.below(4))
                .map(|_| (OwnerHash::of(&name(rng)), rng.next_u64()))
                .collect(),
        }),
        _ => {
            let versions = |rng: &mut Rng| RecordVersion {
                endpoint: endpoint(rng),
                version: version(rng),
                digest: rng.below(3),
            };
            TableMessage::Versions(RowVersions {
                sender,
                network,
                owners: (0..rng.below(3))
                    .map(|_| {
                        let rows = (0..rng.below(3)).map(|_| versions(rng)).collect();
                        OwnerVersions::all(OwnerHash::of(&name(rng)), rows)
                    })
                    .collect(),
            })
        }
    }
}

fn attachment(rng: &mut Rng) -> Attachment {
    Attachment {
        owner: Name::from(name(rng)),
        network: network(rng),
        version: version(rng),
        life: rng.below(3),
        joined: rng.chance(700_000),
    }
}

fn record(network: NetworkId, rng: &mut Rng) -> WireRecord {
    let row = row(network, rng);
    WireRecord {
        owner: Name::from(name(rng)),
        endpoint: row.endpoint,
        version: version(rng),
        row: rng.chance(700_000).then(|| row.encode().into()),
        memory_seconds: rng.next_u32(),
    }
}

fn row(network: NetworkId, rng: &mut Rng) -> Row {
    let endpoint = endpoint(rng);
    Row {
        endpoint,
        mac: MacAddr::UNSPECIFIED,
        addresses: Vec::new(),
        vtep: address(0).ip(),
        names: vec!["x".repeat(if rng.chance(50_000) {
            1_100
        } else {
            draw(rng, 20)
        })],
        service: None,
        service_names: Vec::new(),
        ports: Vec::new(),
        weight: 1,
        state: RowState::Live,
        lease: Lease {
            network,
            endpoint,
            node: NodeId::from_bytes([1; 16]),
            addresses: Vec::new(),
            mac: MacAddr::UNSPECIFIED,
            generation: rng.below(2),
            signature: bytes::Bytes::new(),
        },
    }
}

fn alive(rng: &mut Rng) -> Alive {
    let (node, address) = (name(rng), address(rng.below(6)));
    let meta = if rng.chance(500_000) {
        signed(&node, address, rng.bytes::<1>()[0] & 3)
    } else {
        vec![1; length(rng, 520)]
    };
    Alive {
        incarnation: incarnation(rng),
        node,
        address,
        meta,
        versions: Versions([1, 5, 2, 0, 0, 0]),
    }
}

fn ping(rng: &mut Rng) -> Ping {
    Ping {
        sequence: rng.next_u32(),
        node: name(rng),
        origin: origin(rng),
    }
}

fn origin(rng: &mut Rng) -> Option<Origin> {
    rng.chance(500_000).then(|| Origin {
        address: address(rng.below(6)),
        node: name(rng),
    })
}

fn version(rng: &mut Rng) -> Version {
    let most = Version::MAX;
    let near = |most: u64, rng: &mut Rng| most - 2 + rng.below(4);
    match rng.below(100) {
        0 => Version {
            sequence: near(most.sequence, rng),
            ..most
        },
        1 => Version {
            incarnation: u32::MAX,
            sequence: u64::MAX,
        },
        _ => Version {
            incarnation: incarnation(rng),
            sequence: rng.below(20),
        },
    }
}

fn incarnation(rng: &mut Rng) -> u32 {
    if rng.chance(10_000) {
        u32::MAX
    } else {
        u32::try_from(rng.below(8)).expect("a small number")
    }
}

/// More names than members are remembered; the machine under test is `name-0`.
fn name(rng: &mut Rng) -> String {
    format!("name-{}", rng.below(30))
}

fn address(number: u64) -> SocketAddr {
    let octet = u8::try_from(number).expect("a small number");
    SocketAddr::from(([192, 0, 2, 100 + octet], 7946))
}

fn network(rng: &mut Rng) -> NetworkId {
    NetworkId::from_bytes([u8::try_from(rng.below(4)).expect("a small number"); 16])
}

fn endpoint(rng: &mut Rng) -> EndpointId {
    EndpointId::from_bytes([u8::try_from(rng.below(40)).expect("a small number"); 16])
}

fn draw(rng: &mut Rng, bound: usize) -> usize {
    rng.index(bound).unwrap_or(0)
}

/// Mostly short; sometimes up to and beyond a limit.
fn length(rng: &mut Rng, limit: usize) -> usize {
    if rng.chance(50_000) {
        draw(rng, limit)
    } else {
        draw(rng, 5)
    }
}
