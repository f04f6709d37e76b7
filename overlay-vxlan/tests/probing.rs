//! Two switches that probe the path between them.

mod lab;

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use lab::*;
use overlay_core::{Instant, MacAddr, Machine, Seed, Vni};
use overlay_vxlan::{
    Config, DropReason, Event, Frame, Outcome, Output, PathPacket, Rate, Switch,
    pmtu::{Probe, State},
    wire::{ethernet::EtherType, probe, vxlan},
};

/// Two nodes, each a member of the other's networks, and what lies between them.
struct Pair {
    switches: [Switch; 2],
    vteps: [IpAddr; 2],
    now: Instant,
    /// Largest outer IP packet that comes through.
    mtu: usize,
    /// Octets of encryption.
    overhead: usize,
    largest: usize,
    events: Vec<u16>,
}

impl Pair {
    fn new(config: Config, mtu: usize, overhead: u16, vteps: [IpAddr; 2]) -> Self {
        let switches = [0, 1].map(|here| {
            let mut switch = Switch::new(config, Seed::from_u64(here));
            let config = overlay_vxlan::NetworkConfig {
                mtu: 8_900,
                overhead_bytes: overhead,
                ..network()
            };
            switch.add_network(vni(7), config).expect("the first");
            switch.set_vteps(vni(7), &vteps.into()).expect("two VTEPs");
            switch
        });
        Self {
            switches,
            vteps,
            now: Instant::from_millis(1),
            mtu,
            overhead: overhead.into(),
            largest: 0,
            events: Vec::new(),
        }
    }

    /// Lets time pass while both are driven.
    fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        loop {
            while self.settle() {}
            let due = self.switches.iter().filter_map(Machine::poll_timeout);
            let Some(due) = due.min().filter(|due| *due <= until) else {
                self.now = until;
                return;
            };
            self.now = due;
            for switch in &mut self.switches {
                switch.handle_timeout(due);
            }
        }
    }

    /// Carries what both want to send; returns whether there was anything.
    fn settle(&mut self) -> bool {
        let mut busy = false;
        for (at, back) in [(0, 1), (1, 0)] {
            while let Some(output) = self.switches[at].poll_output() {
                busy = true;
                match output {
                    Output::Announce(_) => {}
                    Output::Event(Event::PathMtu { vtep, mtu }) => {
                        assert_eq!(vtep, self.vteps[back]);
                        self.events.push(mtu);
                    }
                    Output::Event(_) => unreachable!("nothing is learned"),
                    Output::PathPacket(packet) => {
                        assert_eq!(packet.vtep, self.vteps[back]);
                        let mut sent = Sent::default();
                        assert!(self.switches[at].send_path_packet(self.now, &packet, &mut sent));
                        self.carry(at, back, sent);
                    }
                }
            }
        }
        busy
    }

    fn carry(&mut self, from: usize, to: usize, sent: Sent) {
        let headers = if self.vteps[0].is_ipv4() { 28 } else { 48 };
        for (vtep, outer, mut frame) in sent.to_vteps {
            assert_eq!(vtep, self.vteps[to]);
            assert!(outer.source_port >= 49_152);
            let size = frame.len() + headers + self.overhead;
            self.largest = self.largest.max(size);
            if size > self.mtu {
                continue;
            }
            let source = self.vteps[from];
            let mut delivered = Sent::default();
            let outcome =
                self.switches[to].handle_remote(self.now, source, &mut frame, &mut delivered);
            assert_eq!(outcome, Outcome::Dropped(DropReason::PathPacket));
            assert!(delivered.is_empty());
        }
    }

    fn found(&self) -> (Option<State>, Option<u16>) {
        let (switch, peer) = (&self.switches[0], self.vteps[1]);
        (switch.probing_state(peer), switch.path_mtu(peer))
    }
}

fn v4() -> [IpAddr; 2] {
    [vtep(1), vtep(2)]
}

fn v6() -> [IpAddr; 2] {
    ["2001:db8::1", "2001:db8::2"].map(|address| address.parse().expect("an address"))
}

#[test]
fn two_switches_find_the_path_between_them() {
    for (vteps, overhead, inner) in [(v4(), 0, 1_450), (v6(), 0, 1_430), (v4(), 37, 1_413)] {
        let mut pair = Pair::new(Config::default(), 1_500, overhead, vteps);
        assert_eq!(pair.found(), (None, None));
        assert!(pair.switches[0].probe_path(pair.now, vteps[1], Some(9_000)));
        assert_eq!(pair.found(), (Some(State::Base), Some(9_000)));
        pair.run_for(Duration::from_secs(60));
        assert_eq!(pair.found(), (Some(State::SearchComplete), Some(1_500)));
        assert_eq!(
            pair.largest, 9_000,
            "a probe is as large as it says, encryption included"
        );
        assert_eq!(pair.events.last(), Some(&1_500));
        let mtu = pair.switches[0].endpoint_mtu(vni(7), vteps[1]);
        assert_eq!(mtu, Some(inner));
        // The other one was not asked to search.
        assert_eq!(pair.switches[1].probing_state(vteps[0]), None);
        assert_eq!(pair.switches[1].path_mtu(vteps[0]), None);
        let sent = pair.switches[0].stats().path_packets;
        let answered = pair.switches[1].stats();
        assert!(answered.path_packets > 3 && answered.path_packets < sent);
        assert_eq!(
            answered.drops.of(DropReason::PathPacket),
            answered.path_packets
        );
        // The path narrows, and an ICMP error says so.
        pair.mtu = 1_400;
        assert!(pair.switches[0].handle_packet_too_big(pair.now, vteps[1], 1_400));
        pair.run_for(Duration::from_secs(60));
        assert_eq!(pair.found(), (Some(State::SearchComplete), Some(1_400)));
        assert!(pair.switches[0].probe_path(pair.now, vteps[1], None));
        assert_eq!(pair.found(), (None, None));
        assert!(!pair.switches[0].handle_packet_too_big(pair.now, vteps[1], 1_300));
        let largest = std::mem::take(&mut pair.largest);
        assert_eq!(largest, 9_000);
        pair.run_for(Duration::from_secs(3_600));
        assert_eq!((pair.largest, pair.switches[0].poll_timeout()), (0, None));
    }
}

#[test]
fn a_peer_that_drops_probes_keeps_the_mtu_of_the_underlay() {
    let mut pair = Pair::new(Config::default(), 0, 0, v4());
    assert!(pair.switches[0].probe_path(pair.now, vtep(2), Some(1_500)));
    pair.run_for(Duration::from_secs(60));
    assert_eq!(pair.found(), (Some(State::Unsupported), Some(1_500)));
    assert_eq!(pair.events, []);
}

#[test]
fn a_search_ends_with_the_vtep_and_a_stranger_is_not_probed() {
    let mut pair = Pair::new(Config::default(), 1_500, 0, v4());
    assert!(!pair.switches[0].probe_path(pair.now, vtep(9), Some(1_500)));
    assert!(pair.switches[0].probe_path(pair.now, vtep(2), Some(1_500)));
    let [Some(Output::PathPacket(_)), None] = [(); 2].map(|()| {
        pair.switches[0].handle_timeout(pair.now);
        pair.switches[0].poll_output()
    }) else {
        panic!("the first probe is due at once, and only once");
    };
    pair.switches[0]
        .set_vteps(vni(7), &BTreeSet::new())
        .unwrap();
    assert_eq!(pair.found(), (None, None));
    pair.run_for(Duration::from_secs(60));
    assert_eq!(pair.switches[0].poll_timeout(), None);
}

/// An acknowledgement of an earlier search is none of the next one.
#[test]
fn each_search_has_tokens_of_its_own() {
    let mut pair = Pair::new(Config::default(), 1_500, 0, v4());
    let mut tokens = BTreeSet::new();
    for _ in 0..3 {
        assert!(pair.switches[0].probe_path(pair.now, vtep(2), Some(1_500)));
        pair.switches[0].handle_timeout(pair.now);
        let Some(Output::PathPacket(packet)) = pair.switches[0].poll_output() else {
            panic!("the first probe is due at once");
        };
        let probe::Repr::Probe(probe) = packet.message else {
            panic!("nothing was asked for");
        };
        tokens.insert(probe.token);
        pair.switches[0].probe_path(pair.now, vtep(2), None);
    }
    assert_eq!(tokens.len(), 3);
}

#[test]
fn what_is_stale_is_not_sent() {
    let mut pair = Pair::new(Config::default(), 1_500, 0, v4());
    let packet = |vni: Vni, vtep| PathPacket {
        vtep,
        vni,
        message: probe::Repr::Probe(Probe {
            size_bytes: 1_280,
            token: 1,
        }),
    };
    for packet in [packet(vni(8), vtep(2)), packet(vni(7), vtep(9))] {
        let mut sent = Sent::default();
        assert!(!pair.switches[0].send_path_packet(pair.now, &packet, &mut sent));
        assert!(sent.is_empty());
    }
    // A size below that of the headers is sent as small as it goes.
    let small = PathPacket {
        message: probe::Repr::Probe(Probe {
            size_bytes: 3,
            token: 1,
        }),
        ..packet(vni(7), vtep(2))
    };
    let mut sent = Sent::default();
    assert!(pair.switches[0].send_path_packet(pair.now, &small, &mut sent));
    assert_eq!(sent.vtep().2.len(), 8 + 14 + 16);
}

/// The inner frame of a probe.
fn probe_frame(destination: MacAddr, ethertype: EtherType, message: probe::Repr) -> Vec<u8> {
    let mut payload = vec![0; 64];
    message.emit(&mut payload).expect("room");
    link(probe::SOURCE, destination, ethertype, &payload)
}

#[test]
fn only_members_are_answered_and_not_without_end() {
    let config = Config {
        acknowledge_rate_max: Rate {
            per_second: 1,
            burst: 3,
        },
        ..Config::default()
    };
    let mut lab = Lab::with(config, network());
    let asked = Probe {
        size_bytes: 1_400,
        token: 77,
    };
    let frame = probe_frame(
        probe::DESTINATION,
        EtherType::EXPERIMENT,
        probe::Repr::Probe(asked),
    );
    let taken = Outcome::Dropped(DropReason::PathPacket);
    for _ in 0..10 {
        assert_eq!(lab.receive(lab.there.vtep, &frame).0, taken);
    }
    let outputs: Vec<_> = std::iter::from_fn(|| lab.switch.poll_output()).collect();
    let answer = PathPacket {
        vtep: lab.there.vtep,
        vni: lab.vni,
        message: probe::Repr::Acknowledgement(asked),
    };
    assert_eq!(outputs, [Output::PathPacket(answer); 3]);
    // Another member has a rate of its own; who is none gets nothing.
    assert_eq!(lab.receive(lab.elsewhere.vtep, &frame).0, taken);
    assert!(lab.switch.poll_output().is_some());
    let (outcome, _) = lab.receive(vtep(9), &frame);
    assert_eq!(outcome, Outcome::Dropped(DropReason::UnknownVtep));
    // An answer that nobody asked for.
    let message = probe::Repr::Acknowledgement(asked);
    let unasked = probe_frame(probe::DESTINATION, EtherType::EXPERIMENT, message);
    assert_eq!(lab.receive(lab.there.vtep, &unasked).0, taken);
    assert_eq!(lab.switch.poll_output(), None);
    // The answer is short, whatever the probe was.
    let mut sent = Sent::default();
    lab.switch.send_path_packet(lab.now, &answer, &mut sent);
    let (to, _, datagram) = sent.vtep();
    assert_eq!((to, datagram.len()), (lab.there.vtep, 8 + 14 + 16));
    let packet = vxlan::Packet::new_checked(datagram).unwrap();
    assert_eq!(probe::Repr::parse(&packet.payload()[14..]), Ok(message));
}

#[test]
fn what_only_looks_like_a_probe_is_dropped_as_before() {
    let mut lab = Lab::new();
    let message = probe::Repr::Probe(Probe {
        size_bytes: 1_400,
        token: 77,
    });
    let good = probe_frame(probe::DESTINATION, EtherType::EXPERIMENT, message);
    // An endpoint probes nothing.
    let mut own = good.clone();
    own[6..12].copy_from_slice(&lab.here.mac.octets());
    let (outcome, sent) = lab.send(lab.here.port, &own);
    assert_eq!(outcome, Outcome::Dropped(DropReason::ReservedGroup));
    assert!(sent.is_empty());
    let mut other_magic = good.clone();
    other_magic[14] ^= 1;
    for frame in [
        probe_frame(probe::DESTINATION, EtherType(0x88cc), message),
        other_magic,
        good[..29].to_vec(),
    ] {
        let (outcome, _) = lab.receive(lab.there.vtep, &frame);
        assert_eq!(outcome, Outcome::Dropped(DropReason::ReservedGroup));
    }
    // To an endpoint it is a frame like any other, and from nobody's address.
    let frame = probe_frame(lab.here.mac, EtherType::EXPERIMENT, message);
    let (outcome, _) = lab.receive(lab.there.vtep, &frame);
    assert_eq!(outcome, Outcome::Dropped(DropReason::SourceMac));
    let mut frame = Frame::with_headroom(0, &encapsulated(lab.vni, &good[..8]));
    let outcome =
        lab.switch
            .handle_remote(lab.now, lab.there.vtep, &mut frame, &mut Sent::default());
    assert_eq!(outcome, Outcome::Dropped(DropReason::Malformed));
    assert_eq!(lab.switch.poll_output(), None);
}
