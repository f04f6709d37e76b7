//! The switch keeps the machine contract.

mod lab;

use std::{collections::BTreeSet, time::Duration};

use lab::*;
use overlay_core::{Instant, Rng, Seed, Vni};
use overlay_sim::contract::{self, Acted, Subject};
use overlay_vxlan::{
    Config, DropReason, Frame, NetworkConfig, Output, PortId, Switch,
    pmtu::{self, Prober},
};

const LEARNED_MAX: u16 = 8;

struct SwitchSubject;

impl SwitchSubject {
    fn vni() -> Vni {
        vni(1)
    }

    /// The control plane takes no time, but the driver's clock goes on: a frame from nowhere tells it.
    fn tell(switch: &mut Switch, now: Instant) {
        let nowhere = switch.admit_local(now, PortId(u32::MAX), &Frame::new());
        assert_eq!(nowhere, Err(DropReason::UnknownPort));
    }

    fn endpoint(rng: &mut Rng) -> Endpoint {
        // More than may be learned.
        let number = u8::try_from(rng.below(40)).expect("below 40");
        let node = u8::try_from(rng.below(4)).expect("below 4");
        Endpoint::new(number, node)
    }
}

impl Subject for SwitchSubject {
    type Machine = Switch;

    fn build(&mut self, seed: Seed, now: Instant) -> Switch {
        let config = Config {
            ports_max: 4,
            remotes_max: 6,
            vteps_max: 3,
            learned_rows_max: LEARNED_MAX,
            outputs_max: 100_000,
            ..Config::default()
        };
        let mut switch = Switch::new(config, seed);
        let learning = Some(Duration::from_secs(5));
        let network = NetworkConfig {
            learning,
            ..network()
        };
        switch
            .add_network(Self::vni(), network)
            .expect("the first network");
        switch
            .set_vteps(Self::vni(), &BTreeSet::from([vtep(1), vtep(2)]))
            .expect("two VTEPs");
        Self::tell(&mut switch, now);
        switch
    }

    fn act(&mut self, switch: &mut Switch, now: Instant, rng: &mut Rng) -> Acted {
        let (some, other) = (Self::endpoint(rng), Self::endpoint(rng));
        Self::tell(switch, now);
        let vni = if rng.chance(100_000) {
            vni(2)
        } else {
            Self::vni()
        };
        match rng.below(10) {
            0 => switch
                .add_port(some.port, vni, some.mac, &some.addresses())
                .into(),
            1 => {
                switch.remove_port(some.port);
                Acted::Done
            }
            2 => switch
                .set_remote(vni, some.mac, &some.addresses(), some.vtep)
                .into(),
            3 => {
                switch.remove_remote(vni, some.mac, some.vtep);
                Acted::Done
            }
            4 => {
                let count = rng.below(5);
                let vteps = (0..count)
                    .filter_map(|node| u8::try_from(node).ok())
                    .map(vtep);
                switch.set_vteps(vni, &vteps.collect()).into()
            }
            5 => {
                let ceiling = rng.chance(800_000).then_some(1_500);
                switch.probe_path(now, some.vtep, ceiling);
                Acted::Done
            }
            6 => {
                switch.handle_packet_too_big(now, some.vtep, 1_400);
                Acted::Done
            }
            _ => {
                let frame = udp4(&some, &other, b"x");
                let mut frame = Frame::with_headroom(Frame::HEADROOM, &frame);
                let port = PortId(some.port.0);
                switch.handle_local(now, port, &mut frame, &mut Sent::default());
                Acted::Done
            }
        }
    }

    fn take(&mut self, output: Output) -> String {
        format!("{output:?}")
    }

    fn fingerprint(&self, switch: &Switch) -> String {
        let places = (0..40).map(|number| {
            let endpoint = Endpoint::new(number, 0);
            let address = endpoint.v4.into();
            (
                switch.location(Self::vni(), endpoint.mac),
                switch.neighbour(Self::vni(), address),
            )
        });
        format!("{:?}", places.collect::<Vec<_>>())
    }

    fn footprint(&self, switch: &Switch) -> usize {
        let macs = (0..40).map(|number| Endpoint::new(number, 0).mac);
        macs.filter(|mac| switch.location(Self::vni(), *mac).is_some())
            .count()
    }

    fn footprint_max(&self) -> usize {
        4 + 6 + usize::from(LEARNED_MAX)
    }

    fn sample(&mut self, rng: &mut Rng) -> Vec<u8> {
        let (from, to) = (Self::endpoint(rng), Self::endpoint(rng));
        encapsulated(Self::vni(), &udp4(&from, &to, b"x"))
    }

    fn feed(&mut self, switch: &mut Switch, now: Instant, bytes: &[u8], rng: &mut Rng) -> Acted {
        let from = Self::endpoint(rng).vtep;
        let mut frame = Frame::with_headroom(0, bytes);
        switch.handle_remote(now, from, &mut frame, &mut Sent::default());
        Acted::Done
    }

    fn is_random(&self) -> bool {
        // The seed keys hash tables, picks source ports and tokens, none of which has to differ in each run.
        false
    }
}

#[test]
fn the_switch_keeps_the_contract() {
    contract::assert_holds("the_switch_keeps_the_contract", 20, || SwitchSubject);
}

/// A prober whose peer is silent: acknowledgements depend on outputs, which are taken at other times in each run.
struct ProberSubject;

impl Subject for ProberSubject {
    type Machine = Prober;

    fn build(&mut self, seed: Seed, now: Instant) -> Prober {
        Prober::new(now, pmtu::Config::default(), 1_500, &seed)
    }

    fn act(&mut self, prober: &mut Prober, now: Instant, rng: &mut Rng) -> Acted {
        match rng.below(4) {
            0 => {
                let mtu = u16::try_from(rng.below(2_000)).expect("below 2,000");
                if prober.handle_packet_too_big(now, mtu) {
                    Acted::Done
                } else {
                    Acted::Refused
                }
            }
            1 => {
                let ceiling = u16::try_from(rng.below(10_000)).expect("below 10,000");
                prober.set_ceiling(now, ceiling);
                Acted::Done
            }
            _ => Acted::Skipped,
        }
    }

    fn take(&mut self, output: pmtu::Output) -> String {
        format!("{output:?}")
    }

    fn fingerprint(&self, prober: &Prober) -> String {
        format!("{:?} {}", prober.state(), prober.mtu())
    }

    fn footprint(&self, _prober: &Prober) -> usize {
        0
    }

    fn footprint_max(&self) -> usize {
        0
    }
}

#[test]
fn a_prober_keeps_the_contract() {
    contract::assert_holds("a_prober_keeps_the_contract", 20, || ProberSubject);
}
