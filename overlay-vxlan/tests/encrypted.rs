//! Encrypted networks in the switch: every way out is sealed, and nothing comes in that was not.

mod cipher;
mod lab;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use cipher::Ring;
use lab::*;
use overlay_core::{MacAddr, Machine, Seed};
use overlay_vxlan::{
    CoalesceConfig, Coalescer, Config, DropReason, Ecn, Frame, NetworkConfig, Offload, Outcome,
    Outer, Output, PathPacket, PortId, Received, SegmentKind, Segmentation, Sink, Switch, Unsealed,
    esp::{self, Associations, PeerKeys, SaKeys},
    pmtu::Probe,
    wire::{esp::Spi, ethernet::EtherType, probe, vxlan},
};

fn encrypted() -> NetworkConfig {
    NetworkConfig {
        encrypted: true,
        ..network()
    }
}

/// What a backend that seals sends, and what would have left in the open.
struct Sealing {
    associations: Associations,
    /// To which VTEP, and the payload of a datagram to UDP port 4500.
    sealed: Vec<(IpAddr, Frame)>,
    rest: Sent,
}

impl Sink for Sealing {
    fn to_port(&mut self, port: PortId, frame: &mut Frame) {
        self.rest.to_port(port, frame);
    }

    fn to_vtep(&mut self, vtep: IpAddr, outer: Outer, frame: &mut Frame) {
        self.rest.to_vtep(vtep, outer, frame);
    }

    fn to_sealed_vtep(
        &mut self,
        vtep: IpAddr,
        outer: Outer,
        frame: &mut Frame,
    ) -> Result<(), Unsealed> {
        self.associations.seal(vtep, outer, frame)?;
        self.sealed.push((vtep, std::mem::take(frame)));
        Ok(())
    }
}

/// The key of one direction between two nodes.
fn keys(from: IpAddr, to: IpAddr) -> SaKeys {
    let last = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    let (from, to) = (last(from), last(to));
    let spi = Spi(u32::from_be_bytes([1, 0, from, to]));
    SaKeys::new(spi, &[from; 16], [to; 4]).expect("a good key")
}

fn sealing(here: IpAddr, peers: &[IpAddr]) -> Sealing {
    let config = esp::Config::default();
    let mut associations = Associations::new(config, Arc::new(Ring), &Seed::from_u64(1));
    for peer in peers {
        let keys = PeerKeys {
            outbound: keys(here, *peer),
            inbound: vec![keys(*peer, here)],
        };
        associations.set_peer(*peer, &keys).expect("good keys");
    }
    Sealing {
        associations,
        sealed: Vec::new(),
        rest: Sent::default(),
    }
}

/// A frame for each way out, and how often it goes to a VTEP.
fn cases(lab: &Lab) -> Vec<(Frame, usize)> {
    let (here, there) = (lab.here, lab.there);
    let frame = |bytes: Vec<u8>| Frame::with_headroom(Frame::HEADROOM, &bytes);
    let mut super_frame = frame(udp4(&here, &there, &[7; 3_000]));
    super_frame.set_offload(Offload {
        segment: Some(Segmentation {
            kind: SegmentKind::Udp,
            size_bytes: 1_000,
            header_bytes: 42,
            ecn: false,
        }),
        ..Offload::NONE
    });
    let mut fragmented = udp4(&here, &lab.elsewhere, &[7; 1_200]);
    // Without the DF flag; the checksum of the header makes up for it.
    fragmented[20] = 0;
    fragmented[24] = fragmented[24].wrapping_add(0x40);
    let nobody = std::net::Ipv4Addr::new(10, 0, 1, 99);
    let v6_nobody = "fd00:0:0:1::99".parse().expect("an address");
    vec![
        (frame(udp4(&here, &there, b"unicast")), 1),
        (frame(udp6(&here, &there, b"unicast")), 1),
        (super_frame, 3),
        (frame(fragmented), 2),
        (frame(arp_request(&here, nobody)), 2),
        (frame(solicitation(here.mac, here.v6, v6_nobody)), 2),
        (
            frame(link(
                here.mac,
                MacAddr::BROADCAST,
                EtherType::EXPERIMENT,
                b"all",
            )),
            2,
        ),
        (
            frame(link(
                here.mac,
                MacAddr::new([2; 6]),
                EtherType::EXPERIMENT,
                b"?",
            )),
            2,
        ),
    ]
}

fn lab(config: NetworkConfig) -> Lab {
    let mut lab = Lab::with(Config::default(), config);
    // So narrow that packets for endpoint 13 are fragmented.
    assert!(lab.switch.set_path_mtu(lab.elsewhere.vtep, Some(1_000)));
    lab
}

fn path_packet(lab: &Lab) -> PathPacket {
    PathPacket {
        vtep: lab.there.vtep,
        vni: lab.vni,
        message: probe::Repr::Probe(Probe {
            size_bytes: 1_300,
            token: 1,
        }),
    }
}

#[test]
fn every_way_out_is_sealed() {
    let mut lab = lab(encrypted());
    let vteps = [lab.there.vtep, lab.elsewhere.vtep];
    let mut sink = sealing(vtep(1), &vteps);
    let mut total = 0;
    for (number, (mut frame, count)) in cases(&lab).into_iter().enumerate() {
        let outcome = lab
            .switch
            .handle_local(lab.now, lab.here.port, &mut frame, &mut sink);
        assert!(
            matches!(outcome, Outcome::ToVtep | Outcome::Flooded),
            "{number}: {outcome:?}"
        );
        assert_eq!(sink.sealed.len(), count, "{number}");
        for (to, mut frame) in sink.sealed.drain(..) {
            let mut peer = sealing(to, &[vtep(1)]);
            peer.associations.open(vtep(1), &mut frame).unwrap();
            let packet = vxlan::Packet::new_checked(frame.bytes()).unwrap();
            assert_eq!(packet.vni(), lab.vni, "{number}");
        }
        total += count as u64;
    }
    assert!(
        lab.switch
            .send_path_packet(lab.now, &path_packet(&lab), &mut sink)
    );
    assert_eq!((sink.sealed.len(), sink.rest.to_vteps.len()), (1, 0));
    assert!(
        sink.rest.to_ports.len() >= 3,
        "local ports take part in floods"
    );
    let stats = lab.switch.stats();
    assert_eq!((stats.to_vteps.frames, stats.path_packets), (total, 1));
    assert_eq!(stats.drops.total(), 0);
    assert_eq!(sink.associations.stats().sealed.frames, total + 1);
}

#[test]
fn who_does_not_seal_sends_nothing() {
    let mut lab = lab(encrypted());
    let mut drops = 0;
    let mut sent = Sent::default();
    for (number, (mut frame, count)) in cases(&lab).into_iter().enumerate() {
        let outcome = lab
            .switch
            .handle_local(lab.now, lab.here.port, &mut frame, &mut sent);
        // A frame that was to go to one VTEP is one drop; of a flooded one, each copy is.
        drops += match outcome {
            Outcome::Dropped(DropReason::NoAssociation) => 1,
            Outcome::Flooded => count as u64,
            other => panic!("{number}: {other:?}"),
        };
        assert_eq!(sent.to_vteps, [], "{number}");
    }
    assert!(
        !lab.switch
            .send_path_packet(lab.now, &path_packet(&lab), &mut sent)
    );
    assert_eq!(sent.to_vteps, []);
    let stats = lab.switch.stats();
    assert_eq!(stats.drops.of(DropReason::NoAssociation), drops + 1);
    assert_eq!((stats.to_vteps.frames, stats.path_packets), (0, 0));
    let vtep = lab.switch.vtep_stats(lab.there.vtep).unwrap();
    assert_eq!(vtep.sent.frames, 0);
}

#[test]
fn a_network_in_the_open_is_not_sealed() {
    let mut lab = lab(network());
    let mut sink = sealing(vtep(1), &[lab.there.vtep, lab.elsewhere.vtep]);
    for (mut frame, _) in cases(&lab) {
        lab.switch
            .handle_local(lab.now, lab.here.port, &mut frame, &mut sink);
    }
    lab.switch
        .send_path_packet(lab.now, &path_packet(&lab), &mut sink);
    assert!(sink.sealed.is_empty() && sink.rest.to_vteps.len() > 10);
}

/// A peer without an association gets nothing; the others get their copies.
#[test]
fn a_flood_reaches_who_can_read_it() {
    let mut lab = lab(encrypted());
    let mut sink = sealing(vtep(1), &[lab.elsewhere.vtep]);
    let bytes = link(
        lab.here.mac,
        MacAddr::BROADCAST,
        EtherType::EXPERIMENT,
        b"all",
    );
    let mut frame = Frame::with_headroom(Frame::HEADROOM, &bytes);
    let outcome = lab
        .switch
        .handle_local(lab.now, lab.here.port, &mut frame, &mut sink);
    assert_eq!(outcome, Outcome::Flooded);
    let vteps: Vec<_> = sink.sealed.iter().map(|(vtep, _)| *vtep).collect();
    assert_eq!(vteps, [lab.elsewhere.vtep]);
    let stats = lab.switch.stats();
    assert_eq!(
        (
            stats.to_vteps.frames,
            stats.drops.of(DropReason::NoAssociation)
        ),
        (1, 1)
    );
    assert_eq!(sink.associations.stats().no_association, 1);
}

#[test]
fn only_what_was_sealed_is_taken_and_only_by_an_encrypted_network() {
    for (is_encrypted, sealed, reason) in [
        (true, false, Some(DropReason::Unencrypted)),
        (false, true, Some(DropReason::Encrypted)),
        (true, true, None),
        (false, false, None),
    ] {
        let mut lab = lab(if is_encrypted { encrypted() } else { network() });
        let received = |from: IpAddr| Received {
            sealed,
            ..Received::from(from)
        };
        let probe = {
            let mut payload = vec![0; 40];
            path_packet(&lab).message.emit(&mut payload).unwrap();
            link(
                probe::SOURCE,
                probe::DESTINATION,
                EtherType::EXPERIMENT,
                &payload,
            )
        };
        let unicast = udp4(&lab.there, &lab.here, b"x");
        let broadcast = link(
            lab.there.mac,
            MacAddr::BROADCAST,
            EtherType::EXPERIMENT,
            b"x",
        );
        for (inner, taken) in [
            (unicast, Outcome::ToPort),
            (broadcast, Outcome::Flooded),
            (probe, Outcome::Dropped(DropReason::PathPacket)),
        ] {
            let before = lab.switch.stats().from_vteps;
            let (outcome, sent) = lab.receive(received(lab.there.vtep), &inner);
            match reason {
                Some(reason) => {
                    assert_eq!(outcome, Outcome::Dropped(reason));
                    assert!(sent.is_empty());
                    // Nothing was learned from it, and no probe is answered.
                    assert_eq!(lab.switch.stats().from_vteps, before);
                    assert_eq!(lab.switch.poll_output(), None);
                }
                None => assert_eq!(outcome, taken),
            }
        }
        if let Some(reason) = reason {
            assert_eq!(lab.switch.stats().drops.of(reason), 3);
        }
        // Membership is asked for as ever.
        let stranger = lab
            .receive(received(vtep(9)), &udp4(&lab.there, &lab.here, b"x"))
            .0;
        let expected = reason.unwrap_or(DropReason::UnknownVtep);
        assert_eq!(stranger, Outcome::Dropped(expected));
    }
}

#[test]
fn a_network_may_become_encrypted() {
    let mut lab = lab(network());
    let mut sent = Sent::default();
    let mut send = |lab: &mut Lab| {
        let bytes = udp4(&lab.here, &lab.there, b"x");
        let mut frame = Frame::with_headroom(Frame::HEADROOM, &bytes);
        lab.switch
            .handle_local(lab.now, lab.here.port, &mut frame, &mut sent)
    };
    assert_eq!(send(&mut lab), Outcome::ToVtep);
    lab.switch.set_network(lab.vni, encrypted()).unwrap();
    assert_eq!(send(&mut lab), Outcome::Dropped(DropReason::NoAssociation));
    assert_eq!(sent.to_vteps.len(), 1);
}

/// The largest packet that an endpoint may send fills the path, or would with the longest padding; none is longer.
#[test]
fn what_fits_by_the_path_mtu_fits_sealed() {
    for (here, there, headers) in [
        (vtep(1), vtep(2), 28),
        (
            "2001:db8::1".parse().unwrap(),
            "2001:db8::2".parse().unwrap(),
            48,
        ),
    ] {
        for path_mtu in 1_390..1_420 {
            for overhead_bytes in [0, 7] {
                let config = NetworkConfig {
                    mtu: 8_900,
                    overhead_bytes,
                    ..encrypted()
                };
                let mut lab = Lab::with(Config::default(), config.clone());
                let far = Endpoint {
                    vtep: there,
                    ..Endpoint::new(14, 9)
                };
                lab.switch
                    .set_remote(lab.vni, far.mac, &far.addresses(), far.vtep)
                    .unwrap();
                lab.switch
                    .set_vteps(lab.vni, &BTreeSet::from([there]))
                    .unwrap();
                assert!(lab.switch.set_path_mtu(there, Some(path_mtu)));
                let mtu = lab.switch.endpoint_mtu(lab.vni, there).unwrap();
                assert_eq!(mtu, path_mtu - config.underlay_bytes(there));
                let mut sink = sealing(here, &[there]);
                for (octets, expected) in [
                    (mtu, Outcome::ToVtep),
                    (mtu + 1, Outcome::Dropped(DropReason::TooBigAnswered)),
                ] {
                    let bytes = udp4(&lab.here, &far, &vec![7; usize::from(octets) - 28]);
                    let mut frame = Frame::with_headroom(Frame::HEADROOM, &bytes);
                    let outcome =
                        lab.switch
                            .handle_local(lab.now, lab.here.port, &mut frame, &mut sink);
                    assert_eq!(outcome, expected);
                }
                let [(_, sealed)] = &sink.sealed[..] else {
                    panic!("one frame was sealed");
                };
                let size = sealed.len() + headers + usize::from(overhead_bytes);
                let missing = usize::from(path_mtu).checked_sub(size);
                assert!(
                    missing.is_some_and(|missing| missing < 4),
                    "{size} of {path_mtu}"
                );
            }
        }
    }
}

/// Two nodes whose path takes so much: what is found by sealed probes is what sealed frames have room for.
#[test]
fn probes_are_sealed_and_measure_what_frames_need() {
    for (path, expected) in [(1_500, 1_500), (1_491, 1_488)] {
        let vteps = [vtep(1), vtep(2)];
        let mut switches = [0, 1].map(|here| {
            let mut switch = Switch::new(Config::default(), Seed::from_u64(here));
            let config = NetworkConfig {
                mtu: 8_900,
                ..encrypted()
            };
            switch.add_network(vni(7), config).unwrap();
            switch.set_vteps(vni(7), &vteps.into()).unwrap();
            switch
        });
        let mut sinks = [
            sealing(vteps[0], &vteps[1..]),
            sealing(vteps[1], &vteps[..1]),
        ];
        let mut now = overlay_core::Instant::from_millis(1);
        let end = now + Duration::from_secs(60);
        assert!(switches[0].probe_path(now, vteps[1], Some(9_000)));
        let mut largest = 0;
        while now < end {
            for (at, back) in [(0, 1), (1, 0)] {
                while let Some(output) = switches[at].poll_output() {
                    let Output::PathPacket(packet) = output else {
                        continue;
                    };
                    assert!(switches[at].send_path_packet(now, &packet, &mut sinks[at]));
                    assert!(sinks[at].rest.is_empty());
                    let (to, mut frame) = sinks[at].sealed.pop().unwrap();
                    assert_eq!(to, vteps[back]);
                    let size = frame.len() + 28;
                    largest = largest.max(size);
                    if let probe::Repr::Probe(probe) = packet.message {
                        let size_bytes = usize::from(probe.size_bytes);
                        assert!((size_bytes - 3..=size_bytes).contains(&size));
                    }
                    if size > path {
                        continue;
                    }
                    sinks[back]
                        .associations
                        .open(vteps[at], &mut frame)
                        .unwrap();
                    let received = Received {
                        from: vteps[at],
                        ecn: Ecn::NotEct,
                        sealed: true,
                    };
                    let outcome =
                        switches[back].handle_remote(now, received, &mut frame, &mut sinks[back]);
                    assert_eq!(outcome, Outcome::Dropped(DropReason::PathPacket));
                }
            }
            let due = switches.iter().filter_map(Machine::poll_timeout).min();
            now = due.unwrap_or(end);
            for switch in &mut switches {
                switch.handle_timeout(now);
            }
        }
        assert_eq!(largest, 9_000);
        let found = switches[0].path_mtu(vteps[1]).unwrap();
        // Within the step of the search; and what fills it is no longer than the path.
        assert!((expected - 8..=expected + 3).contains(&found), "{found}");
        assert!(usize::from(found) / 4 * 4 <= path, "{found}");
    }
}

/// Sealed packets are multiples of four octets long, so they do not tell what others have room for.
#[test]
fn probes_go_in_the_open_where_a_network_is() {
    let mut switch = Switch::new(Config::default(), Seed::from_u64(1));
    let probed_in = |switch: &mut Switch, number: u32, config: NetworkConfig| {
        switch.add_network(vni(number), config).unwrap();
        switch.set_vteps(vni(number), &[vtep(2)].into()).unwrap();
        assert!(switch.probe_path(overlay_core::Instant::EPOCH, vtep(2), Some(1_500)));
        loop {
            match switch.poll_output() {
                Some(Output::PathPacket(packet)) => return packet.vni,
                Some(_) => {}
                None => switch.handle_timeout(switch.poll_timeout().expect("a search")),
            }
        }
    };
    assert_eq!(probed_in(&mut switch, 1, encrypted()), vni(1));
    assert_eq!(
        probed_in(&mut switch, 2, encrypted()),
        vni(1),
        "the same as long as it is there"
    );
    assert_eq!(probed_in(&mut switch, 3, network()), vni(3));
    assert_eq!(probed_in(&mut switch, 4, network()), vni(3));
    assert_eq!(probed_in(&mut switch, 5, encrypted()), vni(3));
}

/// Frames of one flow that came both ways are not made one: a network takes those of one kind only.
#[test]
fn what_was_sealed_is_not_coalesced_with_what_was_not() {
    let lab = Lab::new();
    let frame = udp4(&lab.there, &lab.here, &[7; 500]);
    let mut coalescer = Coalescer::new(CoalesceConfig::default());
    for (sealed, expected) in [([true, true], 1), ([false, false], 1), ([true, false], 2)] {
        let mut frames = Vec::new();
        let mut sink = |key: Received, frame: &mut Frame| frames.push((key.sealed, frame.len()));
        for sealed in sealed {
            let received = Received {
                sealed,
                ..Received::from(lab.there.vtep)
            };
            coalescer.push(received, &frame, None, &mut sink);
        }
        coalescer.flush(&mut sink);
        assert_eq!(frames.len(), expected);
        assert_eq!(frames[0].0, sealed[0]);
    }
}
