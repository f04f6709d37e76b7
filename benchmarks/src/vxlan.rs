//! What the data plane takes: outer headers, the forwarding database, memory. Beside it: other codecs, other tables.

use std::{
    collections::HashMap,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
};

use etherparse::{Ethernet2Header, Ipv4Header, SlicedPacket, TransportSlice, UdpHeader};
use overlay_core::{Instant, MacAddr, Seed, Vni};
use overlay_vxlan::{
    Config, Fdb, FlowKey, Frame, NetworkConfig, Outcome, Outer, PortId, Sink, Switch,
    decap::decapsulate,
    encap::{Ends, Template},
    fdb::{BATCH, NetworkIndex, NextHop},
    wire::{
        ethernet::{self, EtherType},
        ipv4::{self, Protocol},
        udp, vxlan,
    },
};
use smoltcp::{phy::ChecksumCapabilities, wire as smol};

use crate::{
    heap,
    lb::{nanos, row},
};

const INNER_BYTES: usize = 1_400;
const MACS: u32 = 1_000_000;
const PASSES: usize = 200_000;

pub fn run(rounds: usize) {
    println!(
        "CPU time, the best and the median of {rounds} rounds; inner frames of {INNER_BYTES} octets, outer IPv4"
    );
    encapsulation(rounds);
    decapsulation(rounds);
    database(rounds);
    memory();
    forwarding(rounds);
}

fn encapsulation(rounds: usize) {
    let template = Template::new(&ends(), vxlan::Repr::new(vni())).expect("one family");
    let expected = packet();
    let mut buffer = expected.clone();
    let asked = heap::asked();
    let seen = nanos(rounds, PASSES, || {
        for port in ports() {
            let outer = Outer {
                source_port: black_box(port),
                traffic_class: 0,
            };
            let written = template.write(outer, INNER_BYTES, black_box(&mut buffer));
            written.expect("room");
        }
    });
    let asked = heap::asked() - asked;
    row("encapsulate: template, 50 octets", seen, "");
    let key = FlowKey::new(&Seed::from_u64(1));
    let ends = [[10, 0, 0, 2], [10, 0, 0, 3]].map(Ipv4Addr::from);
    // Flows that were written long before: a port that was just written would have to be waited for.
    let flows: Vec<_> = (0..64)
        .map(|port| {
            let mut frame = inner(SOURCE_MAC, DESTINATION_MAC, ends);
            frame[35] = port;
            frame
        })
        .collect();
    let seen = nanos(rounds, PASSES, || {
        for at in 0..PASSES {
            let outer = Outer {
                source_port: key.source_port(black_box(&flows[at % 64])),
                traffic_class: 0,
            };
            let written = template.write(outer, INNER_BYTES, black_box(&mut buffer));
            written.expect("room");
        }
    });
    row("  with the entropy of the inner flow", seen, "");
    let mut buffer = expected.clone();
    let seen = nanos(rounds, PASSES, || {
        for port in ports() {
            smoltcp_emit(black_box(&mut buffer), black_box(port));
        }
    });
    smoltcp_emit(&mut buffer, 50_000);
    assert_eq!(buffer, expected, "smoltcp writes the same");
    row("  peer: smoltcp, emit of each header", seen, "");
    let mut buffer = expected.clone();
    let seen = nanos(rounds, PASSES, || {
        for port in ports() {
            etherparse_emit(black_box(&mut buffer), black_box(port));
        }
    });
    etherparse_emit(&mut buffer, 50_000);
    assert_eq!(buffer, expected, "etherparse writes the same");
    row("  peer: etherparse, header structures", seen, "");
    // Some rounds' lists of times are the only allocations.
    println!("{:<56} {:>12}", "  allocations in all rounds", asked);
}

fn decapsulation(rounds: usize) {
    let bytes = packet();
    let seen = nanos(rounds, PASSES, || {
        for _ in 0..PASSES {
            let read = decapsulate(black_box(&bytes), vxlan::UDP_PORT, false).expect("ours");
            black_box((read.source(), read.ecn(), read.vni(), read.payload()));
        }
    });
    row("decapsulate and validate", seen, "");
    let seen = nanos(rounds, PASSES, || {
        for _ in 0..PASSES {
            black_box(&smoltcp_read(black_box(&bytes)).expect("ours"));
        }
    });
    row("  peer: smoltcp, with the IPv4 checksum", seen, "");
    let seen = nanos(rounds, PASSES, || {
        for _ in 0..PASSES {
            black_box(&etherparse_read(black_box(&bytes)).expect("ours"));
        }
    });
    row("  peer: etherparse, sliced, without checksums", seen, "");
}

/// The headers that a template writes, by smoltcp.
fn smoltcp_emit(bytes: &mut [u8], port: u16) {
    let link = smol::EthernetRepr {
        src_addr: smol::EthernetAddress(SOURCE_MAC.octets()),
        dst_addr: smol::EthernetAddress(DESTINATION_MAC.octets()),
        ethertype: smol::EthernetProtocol::Ipv4,
    };
    let network = smol::Ipv4Repr {
        src_addr: SOURCE,
        dst_addr: DESTINATION,
        next_header: smol::IpProtocol::Udp,
        payload_len: 16 + INNER_BYTES,
        hop_limit: 64,
    };
    link.emit(&mut smol::EthernetFrame::new_unchecked(&mut *bytes));
    let caps = ChecksumCapabilities::default();
    network.emit(
        &mut smol::Ipv4Packet::new_unchecked(&mut bytes[14..]),
        &caps,
    );
    let mut datagram = smol::UdpPacket::new_unchecked(&mut bytes[34..]);
    datagram.set_src_port(port);
    datagram.set_dst_port(vxlan::UDP_PORT);
    datagram.set_len((16 + INNER_BYTES) as u16);
    datagram.set_checksum(0);
    bytes[42..50].copy_from_slice(&vxlan::Repr::new(vni()).octets());
}

fn etherparse_emit(bytes: &mut [u8], port: u16) {
    let link = Ethernet2Header {
        source: SOURCE_MAC.octets(),
        destination: DESTINATION_MAC.octets(),
        ether_type: etherparse::EtherType::IPV4,
    };
    let mut network = Ipv4Header::new(
        (16 + INNER_BYTES) as u16,
        64,
        etherparse::IpNumber::UDP,
        SOURCE.octets(),
        DESTINATION.octets(),
    )
    .expect("a short packet");
    network.dont_fragment = true;
    network.header_checksum = network.calc_header_checksum();
    let transport = UdpHeader {
        source_port: port,
        destination_port: vxlan::UDP_PORT,
        length: (16 + INNER_BYTES) as u16,
        checksum: 0,
    };
    bytes[..14].copy_from_slice(&link.to_bytes());
    bytes[14..34].copy_from_slice(&network.to_bytes());
    bytes[34..42].copy_from_slice(&transport.to_bytes());
    bytes[42..50].copy_from_slice(&vxlan::Repr::new(vni()).octets());
}

fn smoltcp_read(bytes: &[u8]) -> Option<(IpAddr, Vni)> {
    let link = smol::EthernetFrame::new_checked(bytes).ok()?;
    let network = smol::Ipv4Packet::new_checked(link.payload()).ok()?;
    if link.ethertype() != smol::EthernetProtocol::Ipv4
        || !network.verify_checksum()
        || network.next_header() != smol::IpProtocol::Udp
        || network.frag_offset() != 0
        || network.more_frags()
    {
        return None;
    }
    let datagram = smol::UdpPacket::new_checked(network.payload()).ok()?;
    let header = vxlan::Packet::new_checked(datagram.payload()).ok()?;
    (datagram.dst_port() == vxlan::UDP_PORT).then(|| (network.src_addr().into(), header.vni()))
}

fn etherparse_read(bytes: &[u8]) -> Option<(IpAddr, Vni)> {
    let packet = SlicedPacket::from_ethernet(bytes).ok()?;
    let source = packet.net.as_ref()?.ipv4_ref()?.header().source_addr();
    let Some(TransportSlice::Udp(datagram)) = packet.transport else {
        return None;
    };
    let header = vxlan::Packet::new_checked(datagram.payload()).ok()?;
    (datagram.destination_port() == vxlan::UDP_PORT).then(|| (source.into(), header.vni()))
}

/// A million MAC addresses, looked up in an order that no cache knows.
fn database(rounds: usize) {
    let network = NetworkIndex(0);
    let order = order(MACS);
    let keys: Vec<_> = order.iter().map(|at| (network, mac(*at))).collect();
    let held = heap::held();
    let mut fdb = Fdb::new(&Seed::from_u64(1));
    for at in 0..MACS {
        fdb.insert(network, mac(at), NextHop::Vtep(at % 1_000));
    }
    let held = heap::held() - held;
    let now = Instant::EPOCH;
    let seen = nanos(rounds, keys.len(), || {
        for keys in keys.chunks(BATCH) {
            fdb.lookup_batch(now, keys, |hop| {
                black_box(hop);
            });
        }
    });
    row(
        &format!("FDB, 1,000,000 MACs, in batches of {BATCH}"),
        seen,
        "",
    );
    let seen = nanos(rounds, keys.len(), || {
        for (network, mac) in &keys {
            black_box(fdb.lookup(now, *network, *mac));
        }
    });
    row("  one after the other, overlapping", seen, "");
    let seen = nanos(rounds, keys.len(), || {
        // Each look-up waits for the one before.
        let mut last = 0;
        for at in 0..keys.len() {
            let (network, mac) = keys[at ^ last];
            last = match fdb.lookup(now, network, mac) {
                Some(NextHop::Vtep(hop)) => usize::from(hop == u32::MAX),
                _ => 1,
            };
        }
        black_box(last);
    });
    row("  each after the one before: cold, single", seen, "");
    println!(
        "{:<56} {:>12.1} octets",
        "  heap for each",
        held as f64 / f64::from(MACS)
    );
    drop(fdb);
    let peer: hashbrown::HashMap<_, u32, foldhash::fast::RandomState> = keys
        .iter()
        .map(|key| (*key, u32::from(key.1.octets()[5])))
        .collect();
    let seen = nanos(rounds, keys.len(), || {
        for key in &keys {
            black_box(peer.get(black_box(key)));
        }
    });
    row("  peer: hashbrown with foldhash", seen, "");
    drop(peer);
    let peer: HashMap<_, u32> = keys
        .iter()
        .map(|key| (*key, u32::from(key.1.octets()[5])))
        .collect();
    let seen = nanos(rounds, keys.len(), || {
        for key in &keys {
            black_box(peer.get(black_box(key)));
        }
    });
    row("  peer: std HashMap", seen, "");
}

/// What the tables of a switch take for remote endpoints, on ten VTEPs.
fn memory() {
    for (name, addresses) in [("IPv4", 1), ("IPv4 and IPv6", 2)] {
        let held = heap::held();
        let mut switch = Switch::new(Config::default(), Seed::from_u64(1));
        switch
            .add_network(vni(), NetworkConfig::default())
            .expect("room");
        let empty = heap::held() - held;
        for number in 0..1_000_u32 {
            let [.., high, low] = number.to_be_bytes();
            let v4 = Ipv4Addr::new(10, 0, high, low);
            let both = [v4.into(), IpAddr::V6(v4.to_ipv6_mapped().octets().into())];
            let v6: IpAddr = format!("fd00::{number:x}").parse().expect("an address");
            let both = [both[0], v6];
            let vtep = Ipv4Addr::new(192, 0, 2, low % 10).into();
            switch
                .set_remote(vni(), MacAddr::from_ipv4(v4), &both[..addresses], vtep)
                .expect("room");
        }
        let rows = heap::held() - held - empty;
        println!(
            "{:<56} {:>12.1} KB",
            format!("1,000 remote endpoints with {name}"),
            rows as f64 / 1_000.0
        );
        println!(
            "{:<56} {:>12.1} KB",
            "  a switch with one empty network",
            empty as f64 / 1_000.0
        );
        drop(switch);
    }
}

/// Takes frames and does nothing with them.
struct Nowhere;

impl Sink for Nowhere {
    fn to_port(&mut self, _port: PortId, frame: &mut Frame) {
        black_box(frame.bytes());
    }

    fn to_vtep(&mut self, _vtep: IpAddr, _outer: Outer, frame: &mut Frame) {
        black_box(frame.bytes());
    }
}

/// The whole way through a switch, checks, tables and counters included.
fn forwarding(rounds: usize) {
    let mut switch = Switch::new(Config::default(), Seed::from_u64(1));
    switch
        .add_network(vni(), NetworkConfig::default())
        .expect("room");
    let ends: [Ipv4Addr; 2] = [[10, 0, 0, 2], [10, 0, 0, 3]].map(Ipv4Addr::from);
    let [here, there] = ends.map(MacAddr::from_ipv4);
    let port = PortId(1);
    switch
        .add_port(port, vni(), here, &[ends[0].into()])
        .expect("room");
    let peer = IpAddr::from(DESTINATION);
    switch
        .set_remote(vni(), there, &[ends[1].into()], peer)
        .expect("room");
    switch.set_vteps(vni(), &[peer].into()).expect("room");
    let now = Instant::EPOCH;
    let out = inner(here, there, ends);
    let mut frame = Frame::with_headroom(Frame::HEADROOM, &out);
    let seen = nanos(rounds, PASSES, || {
        for _ in 0..PASSES {
            let outcome = switch.handle_local(now, port, &mut frame, &mut Nowhere);
            debug_assert_eq!(outcome, Outcome::ToVtep);
            frame.pull_header(8).expect("just pushed");
        }
    });
    row("switch: a frame from a port to a VTEP", seen, "");
    let back = inner(there, here, [ends[1], ends[0]]);
    let datagram = [&vxlan::Repr::new(vni()).octets()[..], &back].concat();
    let mut frame = Frame::with_headroom(Frame::HEADROOM, &datagram);
    let seen = nanos(rounds, PASSES, || {
        for _ in 0..PASSES {
            let outcome = switch.handle_remote(now, peer, &mut frame, &mut Nowhere);
            debug_assert_eq!(outcome, Outcome::ToPort);
            frame.push_header(8).expect("just pulled");
        }
    });
    row("switch: a frame from a VTEP to a port", seen, "");
    let stats = switch.stats();
    assert_eq!(stats.drops.total(), 0);
    assert!(stats.to_vteps.frames > 0 && stats.to_ports.frames > 0);
}

/// A UDP datagram over IPv4 in a frame.
fn inner(from: MacAddr, to: MacAddr, [source, destination]: [Ipv4Addr; 2]) -> Vec<u8> {
    let mut bytes = vec![7; INNER_BYTES];
    let link = ethernet::Repr {
        destination: to,
        source: from,
        ethertype: EtherType::IPV4,
    };
    link.emit(&mut bytes).expect("room");
    let payload_bytes = (INNER_BYTES - 34) as u16;
    let network = ipv4::Repr {
        traffic_class: 0,
        identification: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: Protocol::UDP,
        source,
        destination,
        payload_bytes,
    };
    network.emit(&mut bytes[14..]).expect("room");
    let transport = udp::Repr {
        source_port: 4_000,
        destination_port: 5_000,
        payload_bytes: payload_bytes - 8,
    };
    transport.emit(&mut bytes[34..]).expect("room");
    bytes
}

const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const DESTINATION: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const SOURCE_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);
const DESTINATION_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 2]);

fn ends() -> Ends {
    Ends {
        source_mac: SOURCE_MAC,
        destination_mac: DESTINATION_MAC,
        source: SOURCE.into(),
        destination: DESTINATION.into(),
        port: vxlan::UDP_PORT,
        hop_limit: 64,
        udp_checksum: false,
    }
}

fn vni() -> Vni {
    Vni::new(4_097).expect("24 bits")
}

/// An encapsulated frame from port 50,000.
fn packet() -> Vec<u8> {
    let template = Template::new(&ends(), vxlan::Repr::new(vni())).expect("one family");
    let mut frame = Frame::with_headroom(Frame::HEADROOM, &[7; INNER_BYTES]);
    let outer = Outer {
        source_port: 50_000,
        traffic_class: 0,
    };
    template.encapsulate(outer, &mut frame).expect("room");
    frame.bytes().to_vec()
}

fn ports() -> impl Iterator<Item = u16> {
    (0..PASSES).map(|at| 49_152 | (at & 0x3fff) as u16)
}

fn mac(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr::new([0x02, 0x42, a, b, c, d])
}

/// All numbers below `count`, shuffled.
fn order(count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    Seed::from_u64(7).rng().shuffle(&mut order);
    order
}
