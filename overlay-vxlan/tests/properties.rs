//! The switch against a naive model, and the isolation of networks.

mod lab;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use lab::*;
use overlay_core::{Instant, MacAddr, Machine, Seed, Vni};
use overlay_vxlan::{
    Config, DropReason, Frame, Location, NetworkConfig, Outcome, PortId, Rate, Switch,
    wire::{arp, ethernet::EtherType, vxlan},
};
use proptest::prelude::*;

const AGE: Duration = Duration::from_secs(10);
const VNIS: [u32; 3] = [0, 4_097, 0x00ff_ffff];

fn mac(number: u8) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, number])
}

fn mac_or_all(number: Option<u8>) -> MacAddr {
    number.map_or(MacAddr::BROADCAST, mac)
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, number)
}

/// Small numbers name VNIs, MAC addresses, IP addresses, VTEPs and ports.
#[derive(Clone, Debug)]
enum Op {
    AddNetwork {
        vni: u8,
        learning: bool,
    },
    RemoveNetwork {
        vni: u8,
    },
    AddPort {
        port: u8,
        vni: u8,
        mac: u8,
        address: u8,
    },
    RemovePort {
        port: u8,
    },
    SetRemote {
        vni: u8,
        mac: u8,
        address: u8,
        vtep: u8,
    },
    RemoveRemote {
        vni: u8,
        mac: u8,
        vtep: u8,
    },
    SetVteps {
        vni: u8,
        vteps: BTreeSet<u8>,
    },
    /// A frame with a right source to one address, or to all.
    Send {
        port: u8,
        to: Option<u8>,
    },
    /// A frame with any source.
    Spoof {
        port: u8,
        from: u8,
    },
    Ask {
        port: u8,
        target: u8,
    },
    Receive {
        vni: u8,
        vtep: u8,
        from: u8,
        to: Option<u8>,
    },
    Wait {
        seconds: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let (vni, macs, vtep, port) = (0..3u8, 0..5u8, 0..3u8, 0..5u8);
    prop_oneof![
        2 => (vni.clone(), any::<bool>()).prop_map(|(vni, learning)| Op::AddNetwork { vni, learning }),
        1 => vni.clone().prop_map(|vni| Op::RemoveNetwork { vni }),
        6 => (port.clone(), vni.clone(), macs.clone(), macs.clone())
            .prop_map(|(port, vni, mac, address)| Op::AddPort { port, vni, mac, address }),
        2 => port.clone().prop_map(|port| Op::RemovePort { port }),
        6 => (vni.clone(), macs.clone(), macs.clone(), vtep.clone())
            .prop_map(|(vni, mac, address, vtep)| Op::SetRemote { vni, mac, address, vtep }),
        3 => (vni.clone(), macs.clone(), vtep.clone())
            .prop_map(|(vni, mac, vtep)| Op::RemoveRemote { vni, mac, vtep }),
        3 => (vni.clone(), proptest::collection::btree_set(vtep.clone(), 0..3))
            .prop_map(|(vni, vteps)| Op::SetVteps { vni, vteps }),
        6 => (port.clone(), proptest::option::weighted(0.8, macs.clone()))
            .prop_map(|(port, to)| Op::Send { port, to }),
        1 => (port.clone(), macs.clone()).prop_map(|(port, from)| Op::Spoof { port, from }),
        4 => (port, macs.clone()).prop_map(|(port, target)| Op::Ask { port, target }),
        8 => (vni, vtep, macs.clone(), proptest::option::weighted(0.8, macs))
            .prop_map(|(vni, vtep, from, to)| Op::Receive { vni, vtep, from, to }),
        2 => (0..8u8).prop_map(|seconds| Op::Wait { seconds }),
    ]
}

/// What a switch does, in lists.
#[derive(Default)]
struct Model {
    now: Instant,
    networks: BTreeMap<u8, ModelNetwork>,
}

#[derive(Default)]
struct ModelNetwork {
    learning: bool,
    /// Port, MAC address, IP address; the newest last.
    ports: Vec<(u8, u8, u8)>,
    /// MAC address, VTEP, IP address; the newest last.
    remotes: Vec<(u8, u8, u8)>,
    vteps: BTreeSet<u8>,
    /// MAC address to VTEP and when it is forgotten.
    learned: BTreeMap<u8, (u8, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Port(u8),
    Vtep(u8),
}

/// What is to come out: the outcome, the ports and the VTEPs.
type Expected = (Outcome, Vec<u8>, Vec<u8>);

fn dropped(reason: DropReason) -> Expected {
    (Outcome::Dropped(reason), Vec::new(), Vec::new())
}

impl ModelNetwork {
    fn place(&self, now: Instant, mac: u8) -> Option<Place> {
        let port = self
            .ports
            .iter()
            .rev()
            .find(|port| port.1 == mac)
            .map(|port| Place::Port(port.0));
        let remote = self
            .remotes
            .iter()
            .rev()
            .find(|row| row.0 == mac)
            .map(|row| Place::Vtep(row.1));
        let learned = self
            .learned
            .get(&mac)
            .filter(|row| now < row.1)
            .map(|row| Place::Vtep(row.0));
        port.or(remote).or(learned)
    }

    fn neighbour(&self, address: u8) -> Option<u8> {
        let port = self
            .ports
            .iter()
            .rev()
            .find(|port| port.2 == address)
            .map(|port| port.1);
        let remote = self
            .remotes
            .iter()
            .rev()
            .find(|row| row.2 == address)
            .map(|row| row.0);
        port.or(remote)
    }

    fn others(&self, port: u8) -> Vec<u8> {
        self.ports
            .iter()
            .map(|other| other.0)
            .filter(|other| *other != port)
            .collect()
    }

    fn flood(&self, port: u8) -> Expected {
        (
            Outcome::Flooded,
            self.others(port),
            self.vteps.iter().copied().collect(),
        )
    }

    fn receive(&mut self, now: Instant, vtep: u8, from: u8, to: Option<u8>) -> Expected {
        if !self.vteps.contains(&vtep) {
            return dropped(DropReason::UnknownVtep);
        }
        let is_local = self.ports.iter().any(|port| port.1 == from);
        let mut rows = self.remotes.iter().filter(|row| row.0 == from).peekable();
        let has_row = rows.peek().is_some();
        let is_there = rows.any(|row| row.1 == vtep);
        if is_local || (has_row && !is_there) || (!has_row && !self.learning) {
            return dropped(DropReason::SourceMac);
        }
        if !has_row {
            self.learned.insert(from, (vtep, now + AGE));
        }
        let Some(to) = to else {
            return (Outcome::Flooded, self.others(u8::MAX), Vec::new());
        };
        match self.place(now, to) {
            Some(Place::Port(port)) => (Outcome::ToPort, vec![port], Vec::new()),
            Some(Place::Vtep(_)) | None => dropped(DropReason::NotLocal),
        }
    }
}

impl Model {
    fn port(&self, port: u8) -> Option<(u8, u8, u8)> {
        self.networks.iter().find_map(|(vni, network)| {
            let found = network.ports.iter().find(|found| found.0 == port)?;
            Some((*vni, found.1, found.2))
        })
    }

    fn send(&self, port: u8, to: Option<u8>) -> Expected {
        let Some((vni, ..)) = self.port(port) else {
            return dropped(DropReason::UnknownPort);
        };
        let network = &self.networks[&vni];
        let Some(to) = to else {
            return network.flood(port);
        };
        match network.place(self.now, to) {
            Some(Place::Port(to)) if to == port => dropped(DropReason::SamePort),
            Some(Place::Port(to)) => (Outcome::ToPort, vec![to], Vec::new()),
            Some(Place::Vtep(vtep)) => (Outcome::ToVtep, Vec::new(), vec![vtep]),
            None => {
                let (outcome, _, vteps) = network.flood(port);
                (outcome, Vec::new(), vteps)
            }
        }
    }

    fn ask(&self, port: u8, target: u8) -> Expected {
        let Some((vni, mac, own)) = self.port(port) else {
            return dropped(DropReason::UnknownPort);
        };
        let network = &self.networks[&vni];
        match network.neighbour(target) {
            Some(found) if found != mac && target != own => {
                (Outcome::Answered, vec![port], Vec::new())
            }
            _ => network.flood(port),
        }
    }
}

/// The switch and the model side by side.
struct Pair {
    switch: Switch,
    model: Model,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let endless = Rate {
            per_second: u32::MAX,
            burst: u32::MAX,
        };
        let config = Config {
            flood_rate_max: endless,
            resolve_rate_max: endless,
            remote_flood_rate_max: endless,
            ..Config::default()
        };
        let switch = Switch::new(config, Seed::from_u64(seed));
        Self {
            switch,
            model: Model::default(),
        }
    }

    fn vni(number: u8) -> Vni {
        vni(VNIS[usize::from(number)])
    }

    /// Does one thing with both; what one refuses, the other does.
    fn apply(&mut self, op: &Op) {
        match *op {
            Op::AddNetwork { vni, learning } => {
                let config = NetworkConfig {
                    learning: learning.then_some(AGE),
                    ..NetworkConfig::default()
                };
                let added = self.switch.add_network(Self::vni(vni), config).is_ok();
                assert_eq!(added, !self.model.networks.contains_key(&vni));
                let network = self.model.networks.entry(vni);
                network.or_insert_with(|| ModelNetwork {
                    learning,
                    ..Default::default()
                });
            }
            Op::RemoveNetwork { vni } => {
                let removed = self.switch.remove_network(Self::vni(vni));
                assert_eq!(removed, self.model.networks.remove(&vni).is_some());
            }
            Op::AddPort {
                port,
                vni,
                mac,
                address,
            } => self.add_port(port, vni, mac, address),
            Op::RemovePort { port } => {
                let removed = self.switch.remove_port(PortId(port.into()));
                assert_eq!(removed, self.model.port(port).is_some());
                for network in self.model.networks.values_mut() {
                    network.ports.retain(|other| other.0 != port);
                }
            }
            Op::SetRemote {
                vni,
                mac,
                address,
                vtep,
            } => self.set_remote(vni, (mac, vtep, address)),
            Op::RemoveRemote { vni, mac, vtep } => self.remove_remote(vni, mac, vtep),
            Op::SetVteps { vni, ref vteps } => {
                let addresses: BTreeSet<_> = vteps.iter().map(|node| vtep(*node)).collect();
                let set = self.switch.set_vteps(Self::vni(vni), &addresses);
                let network = self.model.networks.get_mut(&vni);
                assert_eq!(set.is_ok(), network.is_some());
                if let Some(network) = network {
                    network.learned.retain(|_, row| vteps.contains(&row.0));
                    network.vteps.clone_from(vteps);
                }
            }
            Op::Wait { seconds } => {
                self.model.now += Duration::from_secs(seconds.into());
                self.switch.handle_timeout(self.model.now);
                while self.switch.poll_output().is_some() {}
            }
            Op::Send { port, to } => self.send(port, None, to),
            Op::Spoof { port, from } => self.send(port, Some(from), None),
            Op::Ask { port, target } => self.ask(port, target),
            Op::Receive {
                vni,
                vtep,
                from,
                to,
            } => self.receive(vni, vtep, from, to),
        }
    }

    fn add_port(&mut self, port: u8, vni: u8, number: u8, ip: u8) {
        let addresses = [address(ip).into()];
        let id = PortId(port.into());
        let added = self
            .switch
            .add_port(id, Self::vni(vni), mac(number), &addresses);
        let is_new = self.model.port(port).is_none();
        let network = self.model.networks.get_mut(&vni).filter(|_| is_new);
        assert_eq!(added.is_ok(), network.is_some());
        if let Some(network) = network {
            network.ports.push((port, number, ip));
            network.learned.remove(&number);
        }
    }

    fn set_remote(&mut self, vni: u8, row: (u8, u8, u8)) {
        let (number, node, ip) = row;
        let addresses = [address(ip).into()];
        let set = self
            .switch
            .set_remote(Self::vni(vni), mac(number), &addresses, vtep(node));
        let network = self.model.networks.get_mut(&vni);
        assert_eq!(set.is_ok(), network.is_some());
        if let Some(network) = network.filter(|network| !network.remotes.contains(&row)) {
            network
                .remotes
                .retain(|other| (other.0, other.1) != (number, node));
            network.remotes.push(row);
            network.learned.remove(&number);
        }
    }

    fn remove_remote(&mut self, vni: u8, number: u8, node: u8) {
        let removed = self
            .switch
            .remove_remote(Self::vni(vni), mac(number), vtep(node));
        let found = self.model.networks.get_mut(&vni).and_then(|network| {
            let at = network
                .remotes
                .iter()
                .position(|row| (row.0, row.1) == (number, node))?;
            Some(network.remotes.remove(at))
        });
        assert_eq!(removed, found.is_some());
    }

    /// Sends a frame from a port, with its own address as source unless another is given.
    fn send(&mut self, port: u8, from: Option<u8>, to: Option<u8>) {
        let known = self.model.port(port);
        let own = known.map_or(0, |known| known.1);
        let source = mac(from.unwrap_or(own));
        let bytes = link(source, mac_or_all(to), EtherType::EXPERIMENT, b"x");
        let expected = match (known, from) {
            (Some(_), Some(from)) if from != own => dropped(DropReason::SourceMac),
            _ => self.model.send(port, to),
        };
        let (outcome, sent) = self.local(port, &bytes);
        self.compare(outcome, &sent, expected, known.map(|known| known.0));
    }

    fn ask(&mut self, port: u8, target: u8) {
        let known = self.model.port(port);
        let (vni, own, ip) = known.unwrap_or((0, 0, 0));
        let asker = Endpoint {
            mac: mac(own),
            v4: address(ip),
            ..Endpoint::new(2, 1)
        };
        let expected = self.model.ask(port, target);
        let (outcome, sent) = self.local(port, &arp_request(&asker, address(target)));
        if outcome == Outcome::Answered {
            let answer = arp::Packet::new_checked(&sent.to_ports[0].1.bytes()[14..]).expect("ARP");
            let found = self.model.networks[&vni].neighbour(target);
            assert_eq!(Some(answer.sender_mac()), found.map(mac));
        }
        self.compare(outcome, &sent, expected, known.map(|known| known.0));
    }

    fn receive(&mut self, vni: u8, node: u8, from: u8, to: Option<u8>) {
        let now = self.model.now;
        let inner = link(mac(from), mac_or_all(to), EtherType::EXPERIMENT, b"x");
        let mut frame = Frame::with_headroom(0, &encapsulated(Self::vni(vni), &inner));
        let mut sent = Sent::default();
        let outcome = self
            .switch
            .handle_remote(now, vtep(node), &mut frame, &mut sent);
        let network = self.model.networks.get_mut(&vni);
        let unknown = dropped(DropReason::UnknownNetwork);
        let expected = network.map_or(unknown, |network| network.receive(now, node, from, to));
        self.compare(outcome, &sent, expected, Some(vni));
    }

    fn local(&mut self, port: u8, bytes: &[u8]) -> (Outcome, Sent) {
        let mut frame = Frame::with_headroom(Frame::HEADROOM, bytes);
        let mut sent = Sent::default();
        let (now, port) = (self.model.now, PortId(port.into()));
        let outcome = self.switch.handle_local(now, port, &mut frame, &mut sent);
        (outcome, sent)
    }

    fn compare(&self, outcome: Outcome, sent: &Sent, expected: Expected, own: Option<u8>) {
        let ports: Vec<_> = expected
            .1
            .iter()
            .map(|port| PortId((*port).into()))
            .collect();
        let vteps: Vec<_> = expected.2.iter().map(|node| vtep(*node)).collect();
        assert_eq!(
            (outcome, sent.ports(), sent.vteps()),
            (expected.0, ports, vteps)
        );
        self.check_isolation(sent, own);
    }

    /// Whatever came out is of the network that it went into.
    fn check_isolation(&self, sent: &Sent, own: Option<u8>) {
        for (port, _) in &sent.to_ports {
            let number = u8::try_from(port.0).expect("a small number");
            assert_eq!(self.model.port(number).map(|port| port.0), own);
        }
        for (_, _, datagram) in &sent.to_vteps {
            let packet = vxlan::Packet::new_checked(datagram.bytes()).expect("a VXLAN header");
            assert_eq!(Some(packet.vni()), own.map(Self::vni));
        }
    }

    fn compare_tables(&self) {
        for (vni, network) in &self.model.networks {
            for number in 0..5 {
                let place = network
                    .place(self.model.now, number)
                    .map(|place| match place {
                        Place::Port(port) => Location::Port(PortId(port.into())),
                        Place::Vtep(node) => Location::Vtep(vtep(node)),
                    });
                assert_eq!(self.switch.location(Self::vni(*vni), mac(number)), place);
                let neighbour = network.neighbour(number).map(mac);
                let ip = IpAddr::from(address(number));
                assert_eq!(self.switch.neighbour(Self::vni(*vni), ip), neighbour);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_switch_does_what_the_model_does(seed: u64, ops in proptest::collection::vec(op(), 0..120)) {
        let mut pair = Pair::new(seed);
        for op in ops {
            pair.apply(&op);
            pair.compare_tables();
        }
    }
}
