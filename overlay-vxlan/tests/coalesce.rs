//! Coalescing is the inverse of segmentation: whatever is made of a batch, its segments are the frames that came.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use overlay_core::MacAddr;
use overlay_vxlan::{
    CoalesceConfig, Coalescer, Frame, Offload, SegmentKind, segment,
    wire::{
        checksum::Sum,
        ethernet::{self, EtherType},
        ipv4::{self, Protocol},
        ipv6,
        tcp::{self, Flags},
        udp,
    },
};
use proptest::prelude::*;

/// A frame to be made.
#[derive(Clone, Debug)]
struct Recipe {
    /// Who sends: flows differ in their ports, families and protocols.
    flow: u8,
    payload_bytes: usize,
    /// Octets of the sequence that are skipped before this segment.
    gap: u32,
    flags: Flags,
    window: u16,
    ttl: u8,
    traffic_class: u8,
    timestamp: Option<u8>,
    identification_gap: u16,
    /// VLAN tags; of more than two nothing is read.
    tags: usize,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    PayloadBit,
    NoChecksum,
    Fragment,
    Padding,
}

/// What a sender goes on from.
#[derive(Clone, Copy, Default)]
struct Sender {
    sequence: u32,
    identification: u16,
}

fn is_v6(flow: u8) -> bool {
    flow & 1 != 0
}

fn is_tcp(flow: u8) -> bool {
    flow & 2 != 0
}

fn dont_fragment(flow: u8) -> bool {
    flow & 4 != 0
}

/// A length within a packet.
fn number(octets: usize) -> u16 {
    u16::try_from(octets).expect("a packet")
}

fn addresses(flow: u8) -> (IpAddr, IpAddr) {
    if is_v6(flow) {
        let at = |host| IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host));
        (at(1), at(2))
    } else {
        let at = |host| IpAddr::from(Ipv4Addr::new(10, 0, 0, host));
        (at(1), at(2))
    }
}

fn upper(recipe: &Recipe, sender: &Sender) -> Vec<u8> {
    let (source, destination) = addresses(recipe.flow);
    let payload = (0..=u8::MAX).cycle().take(recipe.payload_bytes);
    let payload = payload.map(|octet| octet ^ recipe.flow);
    let ports = u16::from(recipe.flow);
    if is_tcp(recipe.flow) {
        let repr = tcp::Repr {
            source_port: 1_000 + ports,
            destination_port: 80,
            sequence: sender.sequence,
            acknowledgment: 7,
            flags: recipe.flags,
            window: recipe.window,
            urgent: 0,
        };
        let mut bytes = vec![0; tcp::HEADER_BYTES];
        repr.emit(&mut bytes).expect("as it was made");
        if let Some(value) = recipe.timestamp {
            bytes[12] = 0x80;
            bytes.extend([1, 1, 8, 10, 0, 0, 0, value, 0, 0, 0, 2]);
        }
        bytes.extend(payload);
        let mut segment = tcp::Packet::new_checked(&mut bytes[..]).expect("as it was made");
        segment.fill_checksum(source, destination);
        bytes
    } else {
        let repr = udp::Repr {
            source_port: 1_000 + ports,
            destination_port: 53,
            payload_bytes: number(recipe.payload_bytes),
        };
        let mut bytes = vec![0; udp::HEADER_BYTES];
        repr.emit(&mut bytes).expect("as it was made");
        bytes.extend(payload);
        if recipe.fault != Fault::NoChecksum {
            let mut datagram = udp::Packet::new_checked(&mut bytes[..]).expect("as it was made");
            datagram.fill_checksum(source, destination);
        }
        bytes
    }
}

fn frame(recipe: &Recipe, sender: &mut Sender) -> Vec<u8> {
    sender.sequence = sender.sequence.wrapping_add(recipe.gap);
    sender.identification = sender
        .identification
        .wrapping_add(recipe.identification_gap);
    let upper = upper(recipe, sender);
    sender.sequence = sender
        .sequence
        .wrapping_add(number(recipe.payload_bytes).into());
    sender.identification = sender.identification.wrapping_add(1);
    let mut bytes = vec![0; ethernet::HEADER_BYTES];
    let link = ethernet::Repr {
        destination: MacAddr::new([2, 0, 0, 0, 0, 2]),
        source: MacAddr::new([2, 0, 0, 0, 0, 1]),
        ethertype: if is_v6(recipe.flow) {
            EtherType::IPV6
        } else {
            EtherType::IPV4
        },
    };
    link.emit(&mut bytes).expect("as it was made");
    for _ in 0..recipe.tags {
        bytes.splice(12..12, [0x81, 0, 0, 5]);
    }
    let protocol = if is_tcp(recipe.flow) {
        Protocol::TCP
    } else {
        Protocol::UDP
    };
    let payload_bytes = number(upper.len());
    match addresses(recipe.flow) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let repr = ipv4::Repr {
                source,
                destination,
                protocol,
                payload_bytes,
                ttl: recipe.ttl,
                traffic_class: recipe.traffic_class,
                identification: sender.identification,
                dont_fragment: dont_fragment(recipe.flow),
                more_fragments: recipe.fault == Fault::Fragment,
                fragment_offset: 0,
            };
            let mut header = [0; ipv4::HEADER_BYTES];
            repr.emit(&mut header).expect("as it was made");
            bytes.extend(header);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let repr = ipv6::Repr {
                source,
                destination,
                next_header: protocol,
                payload_bytes,
                hop_limit: recipe.ttl,
                traffic_class: recipe.traffic_class,
                flow_label: u32::from(recipe.flow),
            };
            let mut header = [0; ipv6::HEADER_BYTES];
            repr.emit(&mut header).expect("as it was made");
            bytes.extend(header);
        }
        _ => unreachable!("both are of one family"),
    }
    bytes.extend(upper);
    match recipe.fault {
        Fault::PayloadBit => *bytes.last_mut().expect("as it was made") ^= 1,
        Fault::Padding => bytes.extend([0; 3]),
        _ => {}
    }
    bytes
}

/// What is told of a flow by its frames; the identification of what must not be fragmented says nothing.
fn normalised(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = network_at(&bytes);
    if bytes[at - 2..at] == [8, 0] {
        let mut packet = ipv4::Packet::new_unchecked(&mut bytes[at..]);
        if packet.dont_fragment() && !packet.is_fragment() {
            packet.set_identification(0);
            packet.fill_checksum();
        }
    }
    bytes
}

/// Pushes a batch; returns what came out, and that cut again.
fn coalesce(config: CoalesceConfig, batch: &[(u8, Vec<u8>)]) -> (Vec<Frame>, Vec<(u8, Vec<u8>)>) {
    let mut coalescer = Coalescer::new(config);
    let mut whole = Vec::new();
    let mut sink = |key: u8, frame: &mut Frame| whole.push((key, frame.clone()));
    for (key, bytes) in batch {
        coalescer.push(*key, bytes, None, &mut sink);
    }
    coalescer.flush(&mut sink);
    let mut cut = Vec::new();
    let mut scratch = Frame::new();
    for (key, frame) in &whole {
        segment(&mut frame.clone(), &mut scratch, 0, |frame| {
            cut.push((*key, frame.bytes().to_vec()));
        })
        .expect("a super-frame can be segmented");
    }
    (whole.into_iter().map(|(_, frame)| frame).collect(), cut)
}

fn recipe(flow: u8, payload_bytes: usize) -> Recipe {
    Recipe {
        flow,
        payload_bytes,
        gap: 0,
        flags: Flags::ACK,
        window: 500,
        ttl: 64,
        traffic_class: 0,
        timestamp: Some(1),
        identification_gap: 0,
        tags: 0,
        fault: Fault::None,
    }
}

fn any_recipe() -> impl Strategy<Value = Recipe> {
    let rarely = |value: u8| prop_oneof![20 => Just(0), 1 => Just(value)];
    let fault = prop_oneof![
        30 => Just(Fault::None),
        1 => Just(Fault::PayloadBit),
        1 => Just(Fault::NoChecksum),
        1 => Just(Fault::Fragment),
        1 => Just(Fault::Padding),
    ];
    let flags = prop_oneof![
        20 => Just(Flags::ACK),
        2 => Just(Flags::ACK | Flags::PSH),
        1 => Just(Flags::ACK | Flags::FIN),
        1 => Just(Flags::SYN),
        1 => Just(Flags::ACK | Flags::CWR),
        1 => Just(Flags::ACK | Flags::ECE),
        1 => Just(Flags::ACK | Flags::URG),
        1 => Just(Flags::RST),
    ];
    let payload =
        prop_oneof![12 => Just(1_000_usize), 2 => 1..1_000_usize, 1 => Just(0), 1 => Just(1_001)];
    let header = (
        rarely(1),
        rarely(1),
        rarely(3),
        prop_oneof![9 => Just(Some(1)), 1 => Just(Some(2)), 1 => Just(None)],
    );
    let faults = (
        fault,
        prop_oneof![20 => Just(0), 9 => Just(1), 5 => Just(2), 1 => Just(3)],
    );
    (
        0..8_u8,
        payload,
        rarely(1),
        flags,
        header,
        rarely(1),
        faults,
    )
        .prop_map(
            |(
                flow,
                payload_bytes,
                gap,
                flags,
                (window, ttl, class, timestamp),
                id,
                (fault, tags),
            )| Recipe {
                gap: gap.into(),
                tags,
                flags,
                window: 500 + u16::from(window),
                ttl: 64 - ttl,
                traffic_class: class,
                timestamp,
                identification_gap: id.into(),
                fault,
                ..recipe(flow, payload_bytes)
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_segments_of_what_comes_out_are_the_frames_that_came(
        recipes in prop::collection::vec((0..2_u8, any_recipe()), 1..80),
        flows_max in 0..4_usize,
        segments_max in 1..70_usize,
        udp in any::<bool>(),
    ) {
        let mut senders = BTreeMap::<_, Sender>::new();
        let batch: Vec<_> = recipes
            .iter()
            .map(|(key, recipe)| {
                let sender = senders.entry((*key, recipe.flow)).or_default();
                (*key, recipe.flow, frame(recipe, sender))
            })
            .collect();
        let pushed: Vec<_> = batch.iter().map(|(key, _, bytes)| (*key, bytes.clone())).collect();
        let config = CoalesceConfig { flows_max, segments_max, udp, unfinished: false };
        let (_, cut) = coalesce(config, &pushed);

        // As many frames, and those of each flow in their order. Frames of unlike flows are unlike.
        prop_assert_eq!(cut.len(), batch.len());
        for flow in 0..8 {
            for key in 0..2 {
                let own = in_vlans(batch
                    .iter()
                    .filter(|(of, by, _)| (*of, *by) == (key, flow))
                    .map(|(_, _, bytes)| bytes));
                let found = in_vlans(cut
                    .iter()
                    .filter(|(of, bytes)| *of == key && flow_of(bytes) == flow)
                    .map(|(_, bytes)| bytes));
                prop_assert!(own == found, "flow {} of {}", flow, key);
            }
        }
    }

    #[test]
    fn any_octets_come_out_as_they_came(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 0..10)) {
        let pushed: Vec<_> = frames.into_iter().map(|bytes| (0, bytes)).collect();
        let (_, cut) = coalesce(CoalesceConfig::default(), &pushed);
        prop_assert_eq!(cut, pushed);
    }
}

/// The frames of a flow in each VLAN, which are flows of their own.
fn in_vlans<'a>(frames: impl Iterator<Item = &'a Vec<u8>>) -> BTreeMap<usize, Vec<Vec<u8>>> {
    let mut vlans = BTreeMap::<_, Vec<_>>::new();
    for bytes in frames {
        let vlan = vlans.entry(network_at(bytes)).or_default();
        vlan.push(normalised(bytes.clone()));
    }
    vlans
}

/// Where the IP packet begins.
fn network_at(bytes: &[u8]) -> usize {
    let tags = bytes[12..]
        .chunks(4)
        .take_while(|tag| tag[..2] == [0x81, 0]);
    14 + 4 * tags.count()
}

/// Which flow a frame is of, by its ports and what is tied to them.
fn flow_of(bytes: &[u8]) -> u8 {
    let at = network_at(bytes);
    let upper = if bytes[at] >> 4 == 4 {
        at + 20
    } else {
        at + 40
    };
    u8::try_from(u16::from_be_bytes([bytes[upper], bytes[upper + 1]]) - 1_000)
        .expect("as it was made")
}

fn train(flow: u8, lengths: &[usize]) -> Vec<(u8, Vec<u8>)> {
    tagged_train(flow, lengths, 0)
}

fn tagged_train(flow: u8, lengths: &[usize], tags: usize) -> Vec<(u8, Vec<u8>)> {
    let mut sender = Sender::default();
    let made = lengths.iter().map(|length| {
        let recipe = Recipe {
            tags,
            ..recipe(flow, *length)
        };
        frame(&recipe, &mut sender)
    });
    made.map(|bytes| (0, bytes)).collect()
}

#[test]
fn a_train_of_each_kind_becomes_one_super_frame() {
    for (flow, tags) in (0..8).flat_map(|flow| (0..3).map(move |tags| (flow, tags))) {
        let batch = tagged_train(flow, &[1_000, 1_000, 1_000, 400], tags);
        let (whole, _) = coalesce(CoalesceConfig::default(), &batch);
        assert_eq!(whole.len(), 1, "flow {flow}");
        let segmentation = whole[0].offload().segment.expect("a super-frame");
        let kind = match (is_tcp(flow), is_v6(flow)) {
            (false, _) => SegmentKind::Udp,
            (true, false) => SegmentKind::TcpV4,
            (true, true) => SegmentKind::TcpV6,
        };
        assert_eq!((segmentation.kind, segmentation.size_bytes), (kind, 1_000));
        assert!(whole[0].offload().checksum.is_some());
        let header_bytes = batch[0].1.len() - 1_000;
        assert_eq!(whole[0].len(), header_bytes + 3_400);
    }
}

#[test]
fn what_is_alone_comes_out_as_it_came_and_is_known_to_be_right() {
    for flow in 0..8 {
        let batch = train(flow, &[1_000]);
        let (whole, _) = coalesce(CoalesceConfig::default(), &batch);
        assert_eq!(whole[0].bytes(), batch[0].1);
        assert!(whole[0].offload().validated);
        assert_eq!(whole[0].offload().segment, None);
    }
}

#[test]
fn a_wrong_checksum_is_nowhere_called_right() {
    for flow in 0..8 {
        let mut batch = train(flow, &[1_000, 1_000, 1_000]);
        *batch[1].1.last_mut().expect("as it was made") ^= 0x10;
        let (whole, _) = coalesce(CoalesceConfig::default(), &batch);
        assert_eq!(whole.len(), 3, "flow {flow}");
        let validated = whole.iter().map(|frame| frame.offload().validated);
        assert_eq!(validated.collect::<Vec<_>>(), [true, false, true]);
    }
}

#[test]
fn a_checksum_that_was_left_to_a_device_is_completed_by_whoever_delivers() {
    for (flow, tags) in (0..8).flat_map(|flow| (0..3).map(move |tags| (flow, tags))) {
        for octets in [1, 1_000, 4_000] {
            let batch = tagged_train(flow, &[octets], tags);
            let right = &batch[0].1;
            // As a kernel leaves it: the sum of the pseudo-header alone.
            let upper_at = 4 * tags + if is_v6(flow) { 54 } else { 34 };
            let at = upper_at
                + if is_tcp(flow) {
                    tcp::CHECKSUM
                } else {
                    udp::CHECKSUM
                };
            let protocol = if is_tcp(flow) {
                Protocol::TCP
            } else {
                Protocol::UDP
            };
            let (source, destination) = addresses(flow);
            let length = u32::from(number(right.len() - upper_at));
            let partial = Sum::pseudo_header(source, destination, protocol, length).fold();
            let mut left = right.clone();
            left[at..at + 2].copy_from_slice(&partial.to_be_bytes());
            let (whole, mut cut) = coalesce(CoalesceConfig::default(), &[(0, left.clone())]);
            assert_eq!(whole[0].bytes(), left);
            let is_super = whole[0].offload().segment.is_some();
            assert_eq!(is_super, octets > 1_280 && is_tcp(flow), "flow {flow}");
            if is_super {
                assert!(
                    cut.iter()
                        .all(|(_, bytes)| bytes.len() <= 14 + 4 * tags + 1_280)
                );
                let again = coalesce(CoalesceConfig::default(), &cut).0;
                assert_eq!(again.len(), 1);
                assert_eq!(again[0].len(), right.len());
            } else {
                assert_eq!(cut.remove(0).1, *right, "flow {flow}");
            }
            // Elsewhere it is as wrong as any other.
            let strict = CoalesceConfig {
                unfinished: false,
                ..CoalesceConfig::default()
            };
            assert_eq!(coalesce(strict, &[(0, left)]).0[0].offload(), Offload::NONE);
        }
    }
}

#[test]
fn an_unfinished_super_frame_of_udp_is_cut_as_it_was_to_be() {
    for flow in [0, 1] {
        let mut bytes = train(flow, &[2_500]).remove(0).1;
        let upper_at = if is_v6(flow) { 54 } else { 34 };
        let (source, destination) = addresses(flow);
        let length = u32::from(number(bytes.len() - upper_at));
        let partial = Sum::pseudo_header(source, destination, Protocol::UDP, length).fold();
        bytes[upper_at + 6..upper_at + 8].copy_from_slice(&partial.to_be_bytes());
        let mut coalescer = Coalescer::new(CoalesceConfig::default());
        let mut lengths = Vec::new();
        coalescer.push((), &bytes, Some(1_000), &mut |(), frame| {
            segment(frame, &mut Frame::new(), 0, |frame| {
                lengths.push(frame.len() - upper_at - 8);
            })
            .expect("it can be segmented");
        });
        assert_eq!(lengths, [1_000, 1_000, 500]);
    }
}

#[test]
fn a_super_frame_is_no_longer_than_a_packet_can_say() {
    let batch = train(2, &[1_400; 60]);
    let config = CoalesceConfig {
        segments_max: 1_000,
        ..CoalesceConfig::default()
    };
    let (whole, _) = coalesce(config, &batch);
    assert_eq!(whole.len(), 2);
    assert!(whole.iter().all(|frame| frame.len() <= 14 + 65_535));
}
