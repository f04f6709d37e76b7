//! Membership and tables: datagrams, streams, and a member that is driven by octets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use overlay_core::{EndpointId, Instant, MacAddr, Machine, NetworkId, NodeId, Seed};
use overlay_gossip::{
    Config, Gossip, Keyring, Lease, Limits, Output, Row, RowState, StreamId,
    wire::{
        Alive, Message, Packet, PacketCodec, StreamCodec, StreamMessage, StreamReader, Versions,
    },
};
use overlay_node::identity::cipher::Ciphers;

use crate::input::Input;

const NETWORK: NetworkId = NetworkId::from_bytes([7; 16]);
const NONCE: [u8; 12] = [9; 12];
const STREAM_BYTES_MAX: usize = 1 << 16;

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number % 8 + 1], 7_946))
}

/// What a cluster has agreed on; two bits choose.
#[derive(Debug)]
struct Secrets {
    label: &'static [u8],
    keyring: Option<Keyring>,
}

impl Secrets {
    fn new(flags: u8) -> Self {
        let keyring = (flags & 1 != 0)
            .then(|| Keyring::new(Arc::new(Ciphers), &[1; 16]).expect("a good key"));
        Self {
            label: if flags & 2 != 0 { b"label" } else { b"" },
            keyring,
        }
    }

    fn packets(&self) -> PacketCodec<'_> {
        PacketCodec {
            label: self.label,
            keyring: self.keyring.as_ref(),
            verify_incoming: true,
            verify_outgoing: true,
            compress: false,
            decompressed_bytes_max: 65_536,
        }
    }

    fn streams(&self) -> StreamCodec<'_> {
        StreamCodec {
            label: self.label,
            keyring: self.keyring.as_ref(),
            verify_incoming: true,
            verify_outgoing: true,
            compress: false,
            stream_bytes_max: STREAM_BYTES_MAX,
        }
    }

    /// A member that knows another one and has a network with a row.
    fn member(&self, now: Instant) -> Gossip {
        let limits = Limits {
            members_max: 10,
            seeds_max: 4,
            broadcasts_max: 12,
            relays_max: 5,
            streams_max: 4,
            dials_max: 4,
            stream_bytes_max: STREAM_BYTES_MAX,
            stream_bytes_total_max: 2 * STREAM_BYTES_MAX,
            networks_max: 3,
            attachments_max: 12,
            rows_max: 20,
            row_broadcasts_max: 10,
            sync_bytes_max: 4_096,
            ..Limits::default()
        };
        let config = Config {
            label: self.label.to_vec(),
            keyring: self.keyring.clone(),
            limits,
            ..Config::lan("one", address(0))
        };
        let mut gossip = Gossip::new(config, Seed::from_u64(1), now).expect("good settings");
        let two = Message::Alive(Alive {
            incarnation: 1,
            node: "two".into(),
            address: address(1),
            meta: Vec::new(),
            versions: Versions([1, 5, 2, 0, 0, 0]),
        });
        let packet = self.packets().encode(&[&two.encode()], false, NONCE);
        let packet = packet.expect("one message fits");
        gossip
            .handle_datagram(now, address(1), &packet)
            .expect("a good packet");
        gossip.join_network(now, NETWORK);
        gossip.put_row(now, NETWORK, row(1)).expect("a good row");
        gossip
    }
}

fn row(number: u8) -> Row {
    let endpoint = EndpointId::from_bytes([number; 16]);
    let mac = MacAddr::new([2, 0, 0, 0, 0, number]);
    let addresses = vec![[10, 0, 1, number].into()];
    let lease = Lease {
        network: NETWORK,
        endpoint,
        node: NodeId::from_bytes([1; 16]),
        addresses: addresses.clone(),
        mac,
        generation: 1,
        signature: bytes::Bytes::from_static(b"signed"),
    };
    Row {
        endpoint,
        mac,
        addresses,
        vtep: [192, 0, 2, 1].into(),
        names: vec!["web".into()],
        service: None,
        service_names: Vec::new(),
        ports: Vec::new(),
        weight: 1,
        state: RowState::Live,
        lease,
    }
}

/// One datagram, then some time.
///
/// Two bits of the first octet choose label and key, the next whether the rest is sealed first: nobody forges a tag by
/// chance.
pub fn gossip_datagram(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let secrets = Secrets::new(flags);
    let datagram = match flags & 4 {
        0 => input.rest().to_vec(),
        _ => secrets
            .packets()
            .encode(&[input.rest()], flags & 8 != 0, NONCE)
            .expect("one part fits"),
    };
    if let Ok(packet) = secrets.packets().decode(&datagram) {
        survives(&secrets, &packet);
    }
    let mut now = Instant::from_millis(1);
    let mut gossip = secrets.member(now);
    drain(&mut gossip);
    let refused = gossip.handle_datagram(now, address(2), &datagram).is_err();
    let outputs = drain(&mut gossip);
    assert!(
        !refused || outputs == 0,
        "a refused datagram queued something"
    );
    for _ in 0..8 {
        now = gossip.poll_timeout().unwrap_or(now).max(now);
        gossip.handle_timeout(now);
        drain(&mut gossip);
    }
}

/// What was read can be written, and reads the same.
fn survives(secrets: &Secrets, packet: &Packet) {
    let parts: Vec<Vec<u8>> = packet.messages.iter().map(Message::encode).collect();
    for (part, message) in parts.iter().zip(&packet.messages) {
        assert_eq!(Message::decode(part).as_ref(), Ok(message));
    }
    let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
    if let Some(again) = secrets.packets().encode(&parts, true, NONCE) {
        let again = secrets
            .packets()
            .decode(&again)
            .expect("what was written reads");
        assert_eq!(again.messages, packet.messages);
    }
}

/// The octets of a stream, in pieces, to a member that was dialled or dialled itself.
pub fn gossip_stream(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let secrets = Secrets::new(flags);
    let dialled = flags & 8 != 0;
    let codec = StreamCodec {
        compress: flags & 0x10 != 0,
        ..secrets.streams()
    };
    let mut octets = input.rest().to_vec();
    if flags & 4 != 0 {
        let Ok(message) = StreamMessage::decode(&octets, STREAM_BYTES_MAX) else {
            return;
        };
        let Some(encoded) = codec.encode(&message, !dialled, NONCE) else {
            return;
        };
        let again = StreamReader::new().push(&codec, dialled, &encoded);
        assert_eq!(again, Ok(Some(message)), "what was written reads");
        octets = encoded;
    }
    let mut now = Instant::from_millis(1);
    let mut gossip = secrets.member(now);
    let mut stream = StreamId::Accepted(1);
    if dialled {
        gossip.join(now, &[address(3)]);
        while let Some(output) = gossip.poll_output() {
            if let Output::Dial { stream: own, .. } = output {
                stream = own;
            }
        }
        gossip.handle_stream_connected(now, stream);
    } else {
        gossip.handle_stream_opened(now, stream, address(3));
    }
    let size = match flags >> 5 {
        0 => usize::MAX,
        size => usize::from(size) * 16,
    };
    for piece in octets.chunks(size.min(octets.len().max(1))) {
        gossip.handle_stream_data(now, stream, piece);
    }
    gossip.handle_stream_closed(now, stream);
    drain(&mut gossip);
    for _ in 0..4 {
        now = gossip.poll_timeout().unwrap_or(now).max(now);
        gossip.handle_timeout(now);
        drain(&mut gossip);
    }
}

/// A member whose peers, embedder and clock say whatever the octets say.
pub fn gossip_machine(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let secrets = Secrets::new(input.u8());
    let mut now = Instant::from_millis(1);
    let mut gossip = secrets.member(now);
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        act(&secrets, &mut gossip, &mut now, &mut input);
        drain(&mut gossip);
    }
}

fn act(secrets: &Secrets, gossip: &mut Gossip, now: &mut Instant, input: &mut Input<'_>) {
    let (op, number) = (input.u8() % 16, input.u8());
    let network = NetworkId::from_bytes([number % 4 + 6; 16]);
    let stream = match number & 1 {
        0 => StreamId::Accepted(u64::from(number >> 1 & 7)),
        _ => StreamId::Dialled(u64::from(number >> 1 & 7)),
    };
    match op {
        0 => {
            let _ = gossip.handle_datagram(*now, address(number), input.bytes());
        }
        1 | 2 => {
            let parts = [input.bytes(), input.bytes()];
            let parts = if parts[1].is_empty() {
                &parts[..1]
            } else {
                &parts[..]
            };
            let packet = secrets.packets().encode(parts, number & 8 != 0, NONCE);
            let packet = packet.expect("two parts fit");
            let _ = gossip.handle_datagram(*now, address(number), &packet);
        }
        3 | 4 => {
            let user = Message::User(table_message(number, input.bytes())).encode();
            let packet = secrets.packets().encode(&[&user], false, NONCE);
            let packet = packet.expect("one part fits");
            let _ = gossip.handle_datagram(*now, address(number), &packet);
        }
        5 => gossip.handle_stream_opened(*now, stream, address(number)),
        6 => gossip.handle_stream_data(*now, stream, input.bytes()),
        7 => {
            if let Ok(message) = StreamMessage::decode(input.bytes(), STREAM_BYTES_MAX) {
                let dialler = matches!(stream, StreamId::Accepted(_));
                let octets = secrets.streams().encode(&message, dialler, NONCE);
                gossip.handle_stream_data(*now, stream, &octets.unwrap_or_default());
            }
        }
        8 => gossip.handle_stream_closed(*now, stream),
        9 => gossip.join(*now, &[address(number)]),
        10 => gossip.join_network(*now, network),
        11 => gossip.leave_network(*now, network),
        12 => {
            let _ = gossip.put_row(*now, NETWORK, row(number % 8));
        }
        13 => gossip.delete_row(*now, NETWORK, row(number % 8).endpoint),
        14 if number == 1 => gossip.leave(*now),
        14 => {
            let _ = gossip.set_meta(*now, vec![number]);
        }
        _ => {
            *now += Duration::from_millis(u64::from(number) * 20);
            gossip.handle_timeout(*now);
        }
    }
}

/// What tables say to one another: a header that is good, and a body that is anything.
fn table_message(number: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a body is short");
    let mut message = vec![0xf7, number % 6, 1];
    message.extend(length.to_be_bytes());
    message.extend_from_slice(body);
    message
}

/// Takes all outputs and looks at everything that can be asked; returns how many outputs there were.
fn drain(gossip: &mut Gossip) -> usize {
    let packet_bytes_max = Limits::default().packet_bytes_max;
    let mut count = 0;
    while let Some(output) = gossip.poll_output() {
        count += 1;
        if let Output::Datagram { bytes, .. } = output {
            assert!(
                bytes.len() <= packet_bytes_max,
                "a datagram of {} octets",
                bytes.len()
            );
        }
    }
    assert!(gossip.members().count() <= 11);
    for network in gossip.networks().collect::<Vec<_>>() {
        gossip.table_digest(network);
        assert!(gossip.rows(network).count() <= 20);
        assert!(gossip.network_members(network).count() <= 12);
    }
    count
}
