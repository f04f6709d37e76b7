//! Frames: header views, virtio-net headers, and the switch.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use overlay_core::{Instant, MacAddr, Machine, Seed, Vni};
use overlay_vxlan::{
    Config, Ecn, FlowKey, Frame, HeaderFormat, NetworkConfig, Offload, Outer, Output,
    PortCapabilities, PortId, Received, Sink, Switch, Unsealed, VlanTags, complete_checksum, decap,
    encap, offload, pmtu, segment,
    segment::segment_bytes_max,
    wire::{
        arp, ethernet, icmpv4, icmpv6, ipv4, ipv6, probe, tcp, udp, vlan,
        vxlan::{self, Extension},
    },
};

use crate::input::Input;

const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 2);
const DESTINATION: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 12);

/// Every view reads the octets; what parses is emitted and parses to the same again.
pub fn vxlan_headers(bytes: &[u8]) {
    let mut buffer = [0xaa; 64];
    if let Ok(packet) = ethernet::Packet::new_checked(bytes) {
        let repr = ethernet::Repr::parse(&packet);
        repr.emit(&mut buffer).expect("there is room");
        let again = ethernet::Packet::new_checked(&buffer[..]).expect("it was emitted");
        assert_eq!(ethernet::Repr::parse(&again), repr);
        assert_eq!(packet.payload().len(), bytes.len() - 14);
    }
    if let Ok(packet) = vlan::Packet::new_checked(bytes) {
        let repr = vlan::Repr::parse(&packet);
        repr.emit(&mut buffer).expect("there is room");
        assert_eq!(buffer[..4], bytes[..4]);
    }
    if let Ok(packet) = arp::Packet::new_checked(bytes) {
        let repr = arp::Repr::parse(&packet);
        repr.emit(&mut buffer).expect("there is room");
        assert_eq!(buffer[..28], bytes[..28]);
    }
    if let Ok(packet) = vxlan::Packet::new_checked(bytes) {
        let repr = vxlan::Repr::parse(&packet);
        repr.emit(&mut buffer).expect("there is room");
        let again = vxlan::Packet::new_checked(&buffer[..]).expect("it was emitted");
        assert_eq!(vxlan::Repr::parse(&again), repr);
    }
    if let Ok(packet) = vxlan::Packet::new_checked(bytes) {
        let policy = packet.group_policy().map(Extension::GroupPolicy);
        let next = packet.next_protocol().ok().map(Extension::NextProtocol);
        for extension in [policy, next].into_iter().flatten() {
            let octets = vxlan::Repr::with_extension(packet.vni(), extension).octets();
            let again = vxlan::Packet::new_checked(octets).expect("it was emitted");
            match extension {
                Extension::GroupPolicy(policy) => assert_eq!(again.group_policy(), Some(policy)),
                Extension::NextProtocol(next) => assert_eq!(again.next_protocol(), Ok(next)),
                Extension::None => unreachable!("it was read"),
            }
        }
    }
    if let Ok(repr) = probe::Repr::parse(bytes) {
        repr.emit(&mut buffer).expect("there is room");
        assert_eq!(buffer[..16], bytes[..16]);
    }
    assert!(FlowKey::new(&Seed::from_u64(1)).source_port(bytes) >= 49_152);
    read_network(bytes);
    read_transport(bytes);
    read_icmp(bytes);
    if let Ok(offload) = Offload::parse(bytes) {
        let again = Offload::parse(&offload.header()).expect("it was emitted");
        assert_eq!(again, offload);
    }
}

fn read_network(bytes: &[u8]) {
    let mut buffer = [0xaa; 64];
    if let Ok(packet) = ipv4::Packet::new_checked(bytes) {
        assert!(packet.payload().len() <= bytes.len());
        if let Ok(repr) = ipv4::Repr::parse(&packet) {
            repr.emit(&mut buffer).expect("there is room");
            let again = ipv4::Packet::new_unchecked(&buffer[..]);
            assert!(again.is_checksum_valid());
            assert_eq!(
                (again.source(), again.destination()),
                (repr.source, repr.destination)
            );
        }
    }
    if let Ok(packet) = ipv6::Packet::new_checked(bytes) {
        let repr = ipv6::Repr::parse(&packet);
        repr.emit(&mut buffer).expect("there is room");
        assert_eq!(buffer[..40], bytes[..40]);
        if let Ok(upper) = packet.upper() {
            assert!((40..=packet.total_bytes()).contains(&upper.offset));
        }
    }
}

fn read_transport(bytes: &[u8]) {
    let mut buffer = [0xaa; 64];
    if let Ok(packet) = udp::Packet::new_checked(bytes) {
        packet.is_checksum_valid(SOURCE.into(), DESTINATION.into());
        let repr = udp::Repr::parse(&packet);
        repr.emit(&mut buffer).expect("there is room");
        assert_eq!(buffer[..6], bytes[..6]);
    }
    if let Ok(packet) = tcp::Packet::new_checked(bytes) {
        packet.is_checksum_valid(SOURCE.into(), DESTINATION.into());
        let length = 20 + packet.options().len() + packet.payload().len();
        assert_eq!(length, bytes.len());
        if let Some(mss) = packet.mss() {
            read_mss(bytes, mss);
        }
        let repr = tcp::Repr::parse(&packet);
        repr.emit(&mut buffer).expect("there is room");
        let again = tcp::Packet::new_checked(&buffer[..]).expect("it was emitted");
        assert_eq!(tcp::Repr::parse(&again), repr);
    }
}

/// Another maximum segment size leaves a right checksum right, and a wrong one wrong.
fn read_mss(bytes: &[u8], mss: u16) {
    let (source, destination) = (SOURCE.into(), DESTINATION.into());
    let mut changed = bytes.to_vec();
    let mut packet = tcp::Packet::new_checked(&mut changed[..]).expect("it was read");
    let before = packet.is_checksum_valid(source, destination);
    packet.set_mss(mss ^ 0x1234, true);
    assert_eq!(packet.mss(), Some(mss ^ 0x1234));
    assert_eq!(packet.is_checksum_valid(source, destination), before);
    packet.set_mss(mss, true);
    assert_eq!(packet.is_checksum_valid(source, destination), before);
}

fn read_icmp(bytes: &[u8]) {
    if let Ok(packet) = icmpv4::Packet::new_checked(bytes) {
        packet.is_error();
        let mut emitted = bytes.to_vec();
        if let Ok(repr) = icmpv4::Repr::parse(&packet) {
            repr.emit(&mut emitted).expect("there is room");
            let again = icmpv4::Packet::new_checked(&emitted[..]).expect("it was emitted");
            assert_eq!(icmpv4::Repr::parse(&again), Ok(repr));
        }
    }
    if let Ok(packet) = icmpv6::Packet::new_checked(bytes) {
        let _ = (packet.target(), packet.link_layer());
        let mut emitted = bytes.to_vec();
        if let Ok(repr) = icmpv6::Repr::parse(&packet, SOURCE, DESTINATION) {
            // Of a message that is not known, what follows the header belongs to it: a solicitation with another code.
            if !matches!(repr, icmpv6::Repr::Other { .. }) {
                emitted.truncate(repr.header_bytes().max(8));
            }
            repr.emit(&mut emitted, SOURCE, DESTINATION)
                .expect("there is room");
            let again = icmpv6::Packet::new_checked(&emitted[..]).expect("it was emitted");
            assert_eq!(icmpv6::Repr::parse(&again, SOURCE, DESTINATION), Ok(repr));
        }
    }
}

/// Endpoints 2 and 3 here, 12 and 13 behind the VTEPs 2 and 3.
struct Lab {
    switch: Switch,
    now: Instant,
    vni: Vni,
    ecn: Ecn,
    encrypted: bool,
}

impl Lab {
    /// Bits choose: learning, VLAN tags, a port that takes super-frames, an MSS clamp; two the header, or encryption; two are
    /// the outer ECN.
    fn new(flags: u8) -> Self {
        let vni = Vni::new(4_097).expect("24 bits");
        let config = Config {
            learned_rows_max: 4,
            outputs_max: 4,
            ..Config::default()
        };
        let mut switch = Switch::new(config, Seed::from_u64(1));
        let network = NetworkConfig {
            mtu: 1_450,
            subnets: vec![
                "10.0.1.0/24".parse().expect("a subnet"),
                "fd00:0:0:1::/64".parse().expect("a subnet"),
            ],
            learning: (flags & 1 != 0).then_some(Duration::from_secs(60)),
            vlan_tags: match flags & 2 != 0 {
                false => VlanTags::Drop,
                true if flags & 0x40 != 0 => VlanTags::Carry,
                true => VlanTags::Inspect,
            },
            mss_clamp: flags & 8 != 0,
            encrypted: is_encrypted(flags),
            header: match flags >> 4 & 3 {
                1 => HeaderFormat::GroupPolicy { id: 7 },
                2 => HeaderFormat::Gpe,
                _ => HeaderFormat::Plain,
            },
            ..NetworkConfig::default()
        };
        switch.add_network(vni, network).expect("it is the first");
        for number in [2, 3] {
            let (port, mac) = (PortId(number.into()), mac(number));
            switch
                .add_port(port, vni, mac, &addresses(number))
                .expect("few ports");
        }
        let capabilities = PortCapabilities {
            partial_checksum: flags & 4 != 0,
            segmentation: flags & 4 != 0,
            udp_segmentation: flags & 4 != 0,
        };
        switch
            .set_port_capabilities(PortId(3), capabilities)
            .expect("it was added");
        for (number, node) in [(12, 2), (13, 3)] {
            switch
                .set_remote(vni, mac(number), &addresses(number), vtep(node))
                .expect("few rows");
        }
        let vteps = BTreeSet::from([vtep(2), vtep(3)]);
        switch.set_vteps(vni, &vteps).expect("few VTEPs");
        let now = Instant::from_millis(1);
        let ecn = Ecn::from_traffic_class(flags >> 6);
        Self {
            switch,
            now,
            vni,
            ecn,
            encrypted: is_encrypted(flags),
        }
    }

    /// A frame from endpoint 2 that begins with a virtio-net header.
    fn local(&mut self, bytes: &[u8]) {
        let Ok(offload) = Offload::parse(bytes) else {
            return;
        };
        let frame = bytes
            .get(offload::MERGED_HEADER_BYTES..)
            .unwrap_or_default();
        let mut frame = Frame::with_headroom(Frame::HEADROOM, frame);
        frame.set_offload(offload);
        read_offload(&frame);
        let mut sink = Checked {
            vni: self.vni,
            encrypted: self.encrypted,
            source: Some(mac(2)),
        };
        self.switch
            .handle_local(self.now, PortId(2), &mut frame, &mut sink);
    }

    fn remote(&mut self, node: u8, bytes: &[u8]) {
        let mut frame = Frame::with_headroom(Frame::HEADROOM, bytes);
        let mut sink = Checked {
            vni: self.vni,
            encrypted: self.encrypted,
            source: None,
        };
        let received = Received {
            from: vtep(node),
            ecn: self.ecn,
            sealed: self.encrypted,
        };
        self.switch
            .handle_remote(self.now, received, &mut frame, &mut sink);
    }

    /// Carries out what the switch asks for.
    fn settle(&mut self) {
        while let Some(output) = self.switch.poll_output() {
            match output {
                Output::Event(_) => {}
                Output::Announce(announcement) => {
                    let mut sink = Checked {
                        vni: self.vni,
                        encrypted: self.encrypted,
                        source: None,
                    };
                    self.switch.announce(self.now, &announcement, &mut sink);
                }
                Output::PathPacket(packet) => {
                    let mut sink = Checked {
                        vni: self.vni,
                        encrypted: self.encrypted,
                        source: Some(probe::SOURCE),
                    };
                    self.switch.send_path_packet(self.now, &packet, &mut sink);
                }
            }
        }
    }
}

/// Cuts a frame and completes its checksum, apart from any switch.
fn read_offload(frame: &Frame) {
    let longest = segment_bytes_max(frame);
    let mut scratch = Frame::new();
    let cut = segment(&mut frame.clone(), &mut scratch, 8, |part| {
        let most = *longest
            .as_ref()
            .expect("a frame that can be cut has a longest part");
        assert!(part.len() <= most);
        assert_eq!(part.offload().checksum, None);
    });
    assert!(cut.is_err() || longest.is_ok());
    let mut whole = frame.clone();
    if complete_checksum(&mut whole).is_err() {
        assert_eq!(
            whole.bytes(),
            frame.bytes(),
            "a refused checksum changed something"
        );
    }
}

/// Looks at what a switch sends.
struct Checked {
    vni: Vni,
    encrypted: bool,
    /// Who sent it, if it came from a port.
    source: Option<MacAddr>,
}

impl Sink for Checked {
    fn to_port(&mut self, port: PortId, frame: &mut Frame) {
        assert!(port == PortId(2) || port == PortId(3));
        ethernet::Packet::new_checked(frame.bytes()).expect("a frame");
    }

    fn to_vtep(&mut self, to: IpAddr, _outer: Outer, frame: &mut Frame) {
        assert!(
            !self.encrypted,
            "a frame of an encrypted network leaves in the open"
        );
        self.look(to, frame);
    }

    fn to_sealed_vtep(
        &mut self,
        to: IpAddr,
        _outer: Outer,
        frame: &mut Frame,
    ) -> Result<(), Unsealed> {
        assert!(self.encrypted, "a frame of another network is sealed");
        self.look(to, frame);
        if to == vtep(3) { Err(Unsealed) } else { Ok(()) }
    }
}

impl Checked {
    fn look(&self, to: IpAddr, frame: &Frame) {
        assert!(to == vtep(2) || to == vtep(3));
        assert_eq!(frame.offload().checksum, None);
        let packet = vxlan::Packet::new_checked(frame.bytes()).expect("a VXLAN header");
        assert_eq!(packet.vni(), self.vni);
        let inner = ethernet::Packet::new_checked(packet.payload()).expect("an inner frame");
        let source = self.source.expect("what came from a VTEP goes to none");
        assert_eq!(inner.source(), source);
    }
}

const fn is_encrypted(flags: u8) -> bool {
    flags >> 4 & 3 == 3
}

fn mac(number: u8) -> MacAddr {
    MacAddr::from_ipv4(Ipv4Addr::new(10, 0, 1, number))
}

fn addresses(number: u8) -> [IpAddr; 2] {
    [
        Ipv4Addr::new(10, 0, 1, number).into(),
        Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, number.into()).into(),
    ]
}

fn vtep(node: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, node).into()
}

/// The payload of a UDP datagram from VTEP 2, after an octet that chooses the network's properties.
pub fn vxlan_remote(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    Lab::new(input.u8()).remote(2, input.rest());
}

/// A virtio-net header and a frame of endpoint 2, after an octet that chooses the network's properties.
pub fn vxlan_local(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    Lab::new(input.u8()).local(input.rest());
}

/// Frames from both sides, and time.
pub fn vxlan_switch(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut lab = Lab::new(input.u8());
    while !input.is_empty() {
        match input.u8() % 10 {
            0..=2 => lab.local(input.bytes()),
            3..=5 => {
                let node = 1 + input.u8() % 4;
                lab.remote(node, input.bytes());
            }
            6 => lab.now += Duration::from_secs(input.u8().into()),
            7 => lab.switch.handle_timeout(lab.now),
            8 => {
                let ceiling = 100 * u16::from(input.u8());
                let ceiling = (ceiling > 0).then_some(ceiling);
                lab.switch.probe_path(lab.now, vtep(2), ceiling);
            }
            _ => {
                let mtu = u16::from_be_bytes([input.u8(), input.u8()]);
                lab.switch.handle_packet_too_big(lab.now, vtep(2), mtu);
            }
        }
        lab.settle();
    }
}

/// A whole packet from Ethernet on. What is read of it, a template writes, and it is read alike.
pub fn vxlan_outer(bytes: &[u8]) {
    let strict = decap::decapsulate(bytes, vxlan::UDP_PORT, false);
    let Ok(read) = decap::decapsulate(bytes, vxlan::UDP_PORT, true) else {
        assert!(strict.is_err(), "who asks for more accepts less");
        return;
    };
    assert!(strict.is_err() || strict == Ok(read));
    let inner = &read.payload()[vxlan::HEADER_BYTES..];
    for udp_checksum in [false, true] {
        let ends = encap::Ends {
            source_mac: mac(2),
            destination_mac: mac(3),
            source: read.source(),
            destination: read.destination(),
            port: vxlan::UDP_PORT,
            hop_limit: 64,
            udp_checksum,
        };
        let template = encap::Template::new(&ends, vxlan::Repr::new(read.vni()));
        let mut frame = Frame::with_headroom(Frame::HEADROOM, inner);
        let outer = Outer {
            source_port: read.source_port(),
            traffic_class: read.ecn().bits(),
        };
        let template = template.expect("a packet has one family");
        let written = template.encapsulate(outer, &mut frame);
        written.expect("it is no longer than it was");
        let again = decap::decapsulate(frame.bytes(), vxlan::UDP_PORT, !udp_checksum);
        let again = again.expect("we wrote it");
        assert_eq!(&again.payload()[vxlan::HEADER_BYTES..], inner);
        let said = |read: &decap::Decapsulated<'_>| {
            let ends = (read.source(), read.destination(), read.source_port());
            (ends, read.ecn(), read.vni())
        };
        assert_eq!(said(&again), said(&read));
    }
}

/// A prober, its acknowledgements, ICMP errors and time.
pub fn vxlan_path(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut now = Instant::from_millis(1);
    let ceiling = 50 * u16::from(input.u8());
    let seed = Seed::from_u64(1);
    let mut prober = pmtu::Prober::new(now, pmtu::Config::default(), ceiling, &seed);
    let mut ceilings = ceiling;
    let mut last = None;
    while !input.is_empty() {
        match input.u8() % 6 {
            0 => now += Duration::from_millis(100 * u64::from(input.u8())),
            1 => {
                if let Some(due) = prober.poll_timeout() {
                    now = now.max(due);
                }
            }
            2 => {
                if let Some(probe) = last {
                    prober.handle_acknowledgement(now, probe);
                }
            }
            3 => {
                let size_bytes = u16::from_be_bytes([input.u8(), input.u8()]);
                let token = input.u8().into();
                let made_up = pmtu::Probe { size_bytes, token };
                assert!(!prober.handle_acknowledgement(now, made_up));
            }
            4 => {
                let mtu = u16::from_be_bytes([input.u8(), input.u8()]);
                prober.handle_packet_too_big(now, mtu);
            }
            _ => {
                ceilings = 50 * u16::from(input.u8());
                prober.set_ceiling(now, ceilings);
            }
        }
        prober.handle_timeout(now);
        let mut count = 0;
        while let Some(output) = prober.poll_output() {
            count += 1;
            if let pmtu::Output::Probe(probe) = output {
                assert!(probe.size_bytes <= ceilings);
                last = Some(probe);
            }
        }
        assert!(count <= 6, "{count} outputs of one step");
        assert!(prober.mtu() <= ceilings);
        assert!(prober.poll_timeout().is_some_and(|due| due > now));
    }
}
