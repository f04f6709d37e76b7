//! The way of a frame through the switch allocates nothing, whatever becomes of the frame.

mod cipher;
mod lab;

use std::{alloc::System, net::IpAddr, sync::Arc, time::Duration};

use cipher::Ring;

use lab::*;
use overlay_core::{Instant, MacAddr, Seed};
use overlay_vxlan::{
    Config, Frame, NetworkConfig, Offload, Outcome, Outer, PortId, SegmentKind, Segmentation, Sink,
    esp::{self, Associations, PeerKeys, SaKeys},
    wire::{esp::Spi, ethernet::EtherType},
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Counts what comes out, as a driver with buffers of its own would copy it.
#[derive(Default)]
struct Counted {
    frames: usize,
}

impl Sink for Counted {
    fn to_port(&mut self, _port: PortId, _frame: &mut Frame) {
        self.frames += 1;
    }

    fn to_vtep(&mut self, _vtep: IpAddr, _outer: Outer, _frame: &mut Frame) {
        self.frames += 1;
    }

    fn copy_to_port(&mut self, _port: PortId, _frame: &Frame) {
        self.frames += 1;
    }

    fn copy_to_vtep(&mut self, _vtep: IpAddr, _outer: Outer, _frame: &Frame) {
        self.frames += 1;
    }
}

/// One frame and where it comes from: a port, or a VTEP.
type Case = (Result<PortId, IpAddr>, Frame);

/// A frame for each outcome.
fn cases(lab: &Lab) -> Vec<Case> {
    let (here, there) = (lab.here, lab.there);
    let out = |bytes: Vec<u8>| (Ok(here.port), Frame::with_headroom(Frame::HEADROOM, &bytes));
    let back = |bytes: Vec<u8>| {
        let datagram = encapsulated(lab.vni, &bytes);
        (
            Err(there.vtep),
            Frame::with_headroom(Frame::HEADROOM, &datagram),
        )
    };
    let mut super_frame = out(udp4(&here, &there, &[7; 10_000]));
    super_frame.1.set_offload(Offload {
        segment: Some(Segmentation {
            kind: SegmentKind::Udp,
            size_bytes: 1_000,
            header_bytes: 42,
            ecn: false,
        }),
        ..Offload::NONE
    });
    // The answer to one without a link-layer option is longer than the question.
    let solicitation = solicitation(here.mac, here.v6, there.v6);
    vec![
        out(udp4(&here, &there, b"x")),
        out(udp6(&here, &lab.neighbour, b"x")),
        out(arp_request(&here, there.v4)),
        out(solicitation),
        out(link(
            here.mac,
            MacAddr::BROADCAST,
            EtherType::EXPERIMENT,
            b"x",
        )),
        out(udp4(&here, &there, &[7; 2_000])),
        out(udp4(&there, &here, b"spoofed")),
        out(vec![1, 2, 3]),
        super_frame,
        back(udp4(&there, &here, b"x")),
        back(udp6(&Endpoint::new(99, 2), &here, b"learned")),
        back(link(
            there.mac,
            MacAddr::BROADCAST,
            EtherType::EXPERIMENT,
            b"x",
        )),
        back(udp4(&there, &lab.elsewhere, b"not here")),
    ]
}

/// Sends a frame for each outcome, twice; returns what became of those of the second round, and the allocations of each.
fn carry_all() -> Vec<(Outcome, usize)> {
    let learning = Some(Duration::from_secs(1));
    let config = NetworkConfig {
        learning,
        ..network()
    };
    let mut lab = Lab::with(Config::default(), config);
    let (mut frame, mut sink) = (Frame::new(), Counted::default());
    let mut counted = Vec::new();
    for round in 0..2u64 {
        lab.now = Instant::from_millis(1 + round);
        // In the first round, the buffer in which super-frames are cut is made.
        counted.clear();
        for (from, case) in cases(&lab) {
            frame.copy_from(&case);
            let region = Region::new(ALLOCATOR);
            let outcome = match from {
                Ok(port) => lab
                    .switch
                    .handle_local(lab.now, port, &mut frame, &mut sink),
                Err(vtep) => lab
                    .switch
                    .handle_remote(lab.now, vtep, &mut frame, &mut sink),
            };
            let change = region.change();
            counted.push((outcome, change.allocations + change.reallocations));
        }
    }
    assert_eq!(lab.switch.stats().learned, 1);
    assert!(sink.frames > 20);
    counted
}

/// Learns up to the quota and beyond; returns the allocations. Room was reserved when the network was added.
fn learn_all() -> usize {
    let config = Config {
        learned_rows_max: 60,
        outputs_max: 10,
        ..Config::default()
    };
    let learning = Some(Duration::from_secs(1));
    let mut lab = Lab::with(
        config,
        NetworkConfig {
            learning,
            ..network()
        },
    );
    let mut sink = Counted::default();
    let mut allocations = 0;
    for number in 100..200 {
        let inner = udp4(&Endpoint::new(number, 2), &lab.here, b"x");
        let mut frame = Frame::with_headroom(0, &encapsulated(lab.vni, &inner));
        let region = Region::new(ALLOCATOR);
        lab.switch
            .handle_remote(lab.now, vtep(2), &mut frame, &mut sink);
        let change = region.change();
        allocations += change.allocations + change.reallocations;
    }
    let stats = lab.switch.stats();
    assert_eq!(
        (stats.learned, stats.learning_full, stats.outputs_lost),
        (60, 40, 50)
    );
    allocations
}

/// Seals and opens frames, opens one again and one that is damaged, in a frame whose buffer has room; returns the
/// allocations.
fn seal_all() -> usize {
    let keys = |number: u8| {
        let spi = Spi(0x1000 + u32::from(number));
        SaKeys::new(spi, &[number; 32], [number; 4]).expect("a good key")
    };
    let mut nodes = [(1, 2), (2, 1)].map(|(outbound, inbound)| {
        let config = esp::Config::default();
        let mut node = Associations::new(config, Arc::new(Ring), &Seed::from_u64(1));
        let keys = PeerKeys {
            outbound: keys(outbound),
            inbound: vec![keys(inbound)],
        };
        node.set_peer(vtep(outbound), &keys).expect("good keys");
        node
    });
    let outer = Outer {
        source_port: 50_000,
        traffic_class: 0,
    };
    let (mut frame, mut again) = (Frame::new(), Frame::new());
    let longest = 1_500 + usize::from(esp::OVERHEAD_BYTES_MAX);
    frame.receive_buffer(Frame::HEADROOM, longest);
    again.receive_buffer(Frame::HEADROOM, longest);
    let region = Region::new(ALLOCATOR);
    for length in 1_400..1_500 {
        let bytes = frame.receive_buffer(Frame::HEADROOM, length);
        bytes.fill(7);
        nodes[0].seal(vtep(1), outer, &mut frame).expect("room");
        again.copy_from(&frame);
        again.bytes_mut()[100] ^= 1;
        assert!(nodes[1].open(vtep(2), &mut again).is_err(), "damaged");
        again.copy_from(&frame);
        assert!(nodes[1].open(vtep(2), &mut frame).is_ok());
        assert!(nodes[1].open(vtep(2), &mut again).is_err(), "replayed");
        assert_eq!(frame.len(), length);
    }
    let change = region.change();
    change.allocations + change.reallocations
}

/// One test, because the allocator counts for the whole process; the harness may allocate meanwhile, but not each time.
#[test]
fn no_frame_makes_the_switch_allocate() {
    let attempts: Vec<_> = (0..3).map(|_| carry_all()).collect();
    for at in 0..attempts[0].len() {
        let (outcome, _) = attempts[0][at];
        let least = attempts.iter().map(|attempt| attempt[at].1).min();
        assert_eq!(least, Some(0), "frame {at}: {outcome:?}");
    }
    let outcomes: Vec<_> = attempts[0].iter().map(|(outcome, _)| *outcome).collect();
    for outcome in [
        Outcome::ToPort,
        Outcome::ToVtep,
        Outcome::Flooded,
        Outcome::Answered,
    ] {
        assert!(outcomes.contains(&outcome), "{outcome:?} is not tried");
    }
    assert_eq!((0..3).map(|_| learn_all()).min(), Some(0));
    assert_eq!((0..3).map(|_| seal_all()).min(), Some(0));
}
