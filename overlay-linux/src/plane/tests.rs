//! Plans, carried out on a kernel that is a few tables.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use nix::errno::Errno;
use overlay_core::{
    EndpointId, MacAddr, NetworkId, Vni,
    plane::{DataPath, Desired, DesiredNetwork, DesiredPort, PlatformError, RemoteEndpoint},
};
use proptest::prelude::*;

use super::{plan::can_become, tables::is_ours, *};
use crate::{nftables::Chain, plane::sealing::Act};

mod sealing;

/// A kernel in memory: what it holds, what was done to it, and what it refuses.
#[derive(Debug, Default)]
struct Fake {
    tables: Tables,
    /// Every operation, as people read it.
    record: Vec<String>,
    /// Errors for the next operations, the next one last.
    refusals: Vec<Option<Errno>>,
    /// The next reads.
    overruns: usize,
    /// Why it cannot seal.
    unfit: Option<NoSealing>,
    /// Why it cannot carry out rules.
    lame: Option<NoFiltering>,
    /// Pairs of ports and MAC addresses that must be led to a proper end after each operation.
    flows: Vec<(String, MacAddr)>,
}

impl Kernel for Fake {
    fn can_seal(&mut self, _v6: bool) -> Result<(), NoSealing> {
        match &self.unfit {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    fn can_filter(&mut self) -> Result<(), NoFiltering> {
        match &self.lame {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    fn read(&mut self) -> Result<Tables, PlatformError> {
        if self.overruns > 0 {
            self.overruns -= 1;
            return Err(error(Errno::ENOBUFS));
        }
        // Foreign devices are not read back.
        Ok(self.tables.clone())
    }

    fn carry_out(&mut self, operation: &Operation) -> Result<(), PlatformError> {
        if let Some(Some(refusal)) = self.refusals.pop() {
            return Err(error(refusal));
        }
        self.record.push(operation.to_string());
        self.do_it(operation)?;
        for (port, mac) in &self.flows {
            assert!(
                self.leads(port, *mac).is_some(),
                "{operation} cuts {port} off from {mac}"
            );
        }
        Ok(())
    }
}

impl Fake {
    #[expect(clippy::too_many_lines, reason = "one arm for each operation")]
    /// As the kernel does: what it refuses, what it takes away with something else, what a replacement replaces.
    fn do_it(&mut self, operation: &Operation) -> Result<(), PlatformError> {
        let tables = &mut self.tables;
        let missing = |name: &str, tables: &Tables| {
            let there = tables.devices.contains_key(name);
            if there {
                Ok(())
            } else {
                Err(error(Errno::ENODEV))
            }
        };
        match operation.clone() {
            Operation::Filter { to, .. } => tables.filter = to,
            Operation::Guard { to, .. } => tables.guard = to,
            Operation::Sealing(step) => seal(&mut tables.sealing, step.0)?,
            Operation::Make { name, device } => {
                if tables.devices.contains_key(&name) {
                    return Err(error(Errno::EEXIST));
                }
                if let Some((bridge, _)) = &device.member {
                    missing(bridge, tables)?;
                }
                tables.devices.insert(name, device);
            }
            Operation::Set { name, from, to } => {
                missing(&name, tables)?;
                assert!(can_become(&from.kind, &to.kind));
                if let Some((bridge, _)) = &to.member {
                    missing(bridge, tables)?;
                }
                if from.member.as_ref().map(|one| &one.0) != to.member.as_ref().map(|one| &one.0) {
                    // What leads to a member goes when it leaves.
                    tables.forwarding.retain(|_, hop| hop.device != name);
                }
                tables.devices.insert(name, to);
            }
            Operation::Delete { name } => {
                missing(&name, tables)?;
                tables.devices.remove(&name);
                for device in tables.devices.values_mut() {
                    if device.member.as_ref().is_some_and(|one| one.0 == name) {
                        device.member = None;
                    }
                }
                tables
                    .forwarding
                    .retain(|place, hop| place.bridge != name && hop.device != name);
                tables.tunnels.retain(|(device, _), _| *device != name);
                tables.neighbours.retain(|(bridge, _), _| *bridge != name);
            }
            Operation::Expel { name, .. } => {
                tables.strangers.remove(&name);
            }
            Operation::Forward { place, hop } => {
                missing(&place.bridge, tables)?;
                missing(&hop.device, tables)?;
                tables.forwarding.insert(place, hop);
            }
            Operation::Forget { place, .. } => {
                let gone = tables.forwarding.remove(&place);
                gone.ok_or_else(|| error(Errno::ENOENT))?;
            }
            Operation::Tunnel { device, mac, vtep } => {
                missing(&device, tables)?;
                let row = tables.tunnels.entry((device, mac)).or_default();
                if mac != MacAddr::UNSPECIFIED && !row.contains(&vtep) {
                    row.pop_first();
                }
                row.insert(vtep);
            }
            Operation::Untunnel { device, mac, vtep } => {
                let key = (device, mac);
                let row = tables
                    .tunnels
                    .get_mut(&key)
                    .ok_or_else(|| error(Errno::ENOENT))?;
                row.remove(&vtep);
                if row.is_empty() {
                    tables.tunnels.remove(&key);
                }
            }
            Operation::Answer {
                bridge,
                address,
                mac,
            } => {
                missing(&bridge, tables)?;
                tables.neighbours.insert((bridge, address), Some(mac));
            }
            Operation::Unanswer { bridge, address } => {
                let gone = tables.neighbours.remove(&(bridge, address));
                gone.ok_or_else(|| error(Errno::ENOENT))?;
            }
        }
        Ok(())
    }

    /// The bridge by which a frame from a port to a MAC address comes to an end, a port or a VTEP, and by which device.
    fn leads(&self, port: &str, mac: MacAddr) -> Option<(String, String)> {
        let Tables {
            devices,
            forwarding,
            tunnels,
            ..
        } = &self.tables;
        let member = |name: &str| {
            let device = devices.get(name).filter(|device| device.up)?;
            device.member.as_ref().map(|(bridge, _)| bridge.clone())
        };
        let bridge = member(port)?;
        let (up, vlan) = (devices.get(&bridge).is_some_and(|one| one.up), None);
        let place = Place {
            bridge: bridge.clone(),
            mac,
            vlan,
        };
        let hop = forwarding.get(&place).map(|hop| hop.device.clone());
        let hop = hop.filter(|hop| up && hop != port && member(hop).as_ref() == Some(&bridge))?;
        let ends = match devices.get(&hop).map(|device| &device.kind) {
            Some(Kind::Vxlan(_)) => {
                let vteps = tunnels.get(&(hop.clone(), mac));
                vteps.is_some_and(|vteps| !vteps.is_empty())
            }
            Some(Kind::Port) => true,
            _ => false,
        };
        ends.then_some((bridge, hop))
    }
}

/// As the kernel does: nothing is made twice.
fn seal(sealing: &mut Sealing, act: Act) -> Result<(), PlatformError> {
    match act {
        Act::Listen(at) => sealing.socket = Some(at),
        Act::Close(at) => assert_eq!(sealing.socket.take(), Some(at)),
        Act::Associate(id, association) => {
            if sealing.associations.contains_key(&id) {
                return Err(error(Errno::EEXIST));
            }
            sealing.associations.insert(id, Some(association));
        }
        Act::Dissociate(id) => {
            let used = sealing.policies.values();
            let mut used = used.filter_map(|policy| policy.spi());
            assert!(!used.any(|spi| spi == id.spi), "{id:?} is in use");
            sealing.associations.remove(&id);
        }
        Act::Seal(selector, policy) => {
            let spi = policy.spi().unwrap();
            let mut ids = sealing.associations.keys();
            assert!(ids.any(|id| id.spi == spi), "{policy:?} seals with nothing");
            sealing.policies.insert(selector, policy);
        }
        Act::Unseal(selector) => {
            sealing.policies.remove(&selector);
        }
    }
    Ok(())
}

fn error(code: Errno) -> PlatformError {
    PlatformError::system("try", &std::io::Error::from_raw_os_error(code as i32))
}

#[test]
fn what_is_wanted_comes_about_and_stays() {
    let mut plane = plane();
    let report = plane.apply(&desired()).unwrap();
    assert!(!report.operations.is_empty() && report.repairs == 0);
    assert_eq!(report.missing, Vec::<String>::new());
    assert!(is_whole(plane.kernel(), &desired()));
    assert_eq!(plane.apply(&desired()).unwrap(), Report::default());
    let stats = plane.stats();
    assert_eq!(
        (stats.applied, stats.failed, stats.repairs.len()),
        (2, 0, 0)
    );
}

#[test]
fn a_plan_is_readable() {
    let mut plane = plane();
    let words = |plane: &mut Reconciler<Fake>, desired: &Desired| -> Vec<String> {
        let report = plane.plan(desired).unwrap();
        report.operations.iter().map(ToString::to_string).collect()
    };
    let first = words(&mut plane, &desired());
    assert_eq!(
        first[..2],
        ["filter: make the table", "guard: make the table"]
    );
    let expected = [
        "make bridge ovb4097",
        "make VXLAN device ovx4097 of VNI 4097 from 192.0.2.1, UDP port 4789",
        "set p01010101010101: member of ovb4097, up",
        "set p02020202020202: member of ovb4097, up",
        "ovx4097: flood to 192.0.2.2",
        "ovx4097: flood to 192.0.2.3",
        "ovx4097: send 02:42:0a:00:01:03 to 192.0.2.2",
        "ovb4097: forward 02:42:0a:00:01:01 to p01010101010101",
        "ovb4097: forward 02:42:0a:00:01:02 to p02020202020202",
        "ovb4097: forward 02:42:0a:00:01:03 to ovx4097",
        "ovb4097: answer for 10.0.1.1 with 02:42:0a:00:01:01",
        "ovb4097: answer for 10.0.1.2 with 02:42:0a:00:01:02",
        "ovb4097: answer for 10.0.1.3 with 02:42:0a:00:01:03",
    ];
    assert_eq!(first[2..], expected);
    assert_eq!(
        plane.kernel().record,
        Vec::<String>::new(),
        "a plan does nothing"
    );
    plane.apply(&desired()).unwrap();
    let mut moved = desired();
    let network = network(&mut moved);
    network.remotes.get_mut(&id(3)).unwrap().vtep = "192.0.2.3".parse().unwrap();
    network.vteps.remove(&"192.0.2.2".parse().unwrap());
    let expected = [
        "guard: add 0 and remove 1 of members4",
        "ovx4097: send 02:42:0a:00:01:03 to 192.0.2.3",
        "ovx4097: flood no more to 192.0.2.2",
    ];
    assert_eq!(words(&mut plane, &moved), expected);
    let expected = [
        "set p01010101010101: member of none",
        "set p02020202020202: member of none",
        "delete ovx4097",
        "delete ovb4097",
        "remove the filter",
        "remove the guard",
    ];
    assert_eq!(words(&mut plane, &Desired::default()), expected);
}

#[test]
fn a_network_that_the_user_plane_carries_is_not_this_ones_matter() {
    let mut desired = desired();
    network(&mut desired).path = DataPath::User;
    assert_eq!(
        compile(&desired, &underlay(), &Abilities::ALL),
        Wanted::default()
    );
}

fn deny_all(desired: &mut Desired) {
    network(desired).policy.default = overlay_core::plane::Verdict::Deny;
}

#[test]
fn a_network_whose_rules_cannot_be_carried_out_is_not_there() {
    let mut desired = desired();
    deny_all(&mut desired);
    let mut plane = plane();
    plane.kernel().lame = Some(NoFiltering::Bridges);
    let report = plane.apply(&desired).unwrap();
    let reason = NoFiltering::Bridges;
    let first = NetworkId::from_bytes([1; 16]);
    assert_eq!(report.refused, [(first, Refused::Filtering { reason })]);
    assert_eq!(report.operations, []);
    // An open one does not ask.
    network(&mut desired).policy = Default::default();
    assert_eq!(plane.apply(&desired).unwrap().refused, []);
}

#[test]
fn where_rules_cannot_be_made_there_is_no_bridge() {
    let mut desired = desired();
    deny_all(&mut desired);
    let mut plane = plane();
    plane.kernel().refusals = vec![Some(Errno::EINVAL)];
    plane.apply(&desired).unwrap_err();
    let devices = |plane: &mut Reconciler<Fake>| plane.kernel().tables.devices.clone();
    let bridged = |plane: &mut Reconciler<Fake>| {
        let devices = devices(plane);
        let members = devices.values().filter(|device| device.member.is_some());
        (devices.contains_key("ovb4097"), members.count())
    };
    assert_eq!(bridged(&mut plane), (false, 0));
    plane.apply(&desired).unwrap();
    assert_eq!(bridged(&mut plane), (true, 3));
    // A network that is there and gets rules which cannot be: it is there no more.
    let mut plane = self::plane();
    let mut open = desired.clone();
    network(&mut open).policy = Default::default();
    plane.apply(&open).unwrap();
    assert_eq!(bridged(&mut plane), (true, 3));
    plane.kernel().refusals = vec![Some(Errno::EINVAL)];
    plane.apply(&desired).unwrap_err();
    assert_eq!(bridged(&mut plane), (false, 0));
    plane.apply(&desired).unwrap();
    // Rules that are there stay until others can be made.
    let mut changed = desired.clone();
    network(&mut changed).policy.default = Default::default();
    let denied = overlay_core::plane::PolicyRule {
        name: String::new(),
        from: overlay_core::plane::AddressMatch::Any,
        to: overlay_core::plane::AddressMatch::Any,
        traffic: vec![overlay_core::plane::TrafficMatch::Icmp],
        verdict: overlay_core::plane::Verdict::Deny,
    };
    network(&mut changed).policy.rules.push(denied);
    let before = plane.kernel().tables.filter.clone();
    plane.kernel().refusals = vec![Some(Errno::EINVAL)];
    plane.apply(&changed).unwrap_err();
    assert_eq!(plane.kernel().tables.filter, before);
    assert_eq!(bridged(&mut plane), (true, 3));
}

#[test]
fn what_cannot_be_is_said() {
    let mut desired = desired();
    let mut twin = network(&mut desired).clone();
    let far = "2001:db8::9".parse().unwrap();
    network(&mut desired).vteps.insert(far);
    let mut double = network(&mut desired).remotes[&id(3)].clone();
    double.vtep = "192.0.2.3".parse().unwrap();
    network(&mut desired).remotes.insert(id(4), double);
    twin.ports.clear();
    desired
        .networks
        .insert(NetworkId::from_bytes([2; 16]), twin);
    let refused = compile(&desired, &underlay(), &Abilities::ALL).refused;
    let (first, second) = (
        NetworkId::from_bytes([1; 16]),
        NetworkId::from_bytes([2; 16]),
    );
    let local = underlay().local;
    let expected = [
        (second, Refused::Number { other: first }),
        (first, Refused::Shared { mac: mac(3) }),
        (first, Refused::Family { vtep: far, local }),
    ];
    assert_eq!(refused, expected);
}

#[test]
fn what_passes_is_tried_again_and_what_does_not_is_said() {
    for passing in [Errno::ENOBUFS, Errno::EEXIST, Errno::ENOENT, Errno::EBUSY] {
        let mut plane = plane();
        plane.kernel().overruns = 1;
        plane.kernel().refusals = vec![Some(passing), None, Some(passing), Some(passing), None];
        plane.apply(&desired()).unwrap();
        assert!(is_whole(plane.kernel(), &desired()));
    }
    let mut plane = plane();
    // The first of many is refused: all others are done.
    plane.kernel().refusals = vec![Some(Errno::EPERM)];
    let failure = plane.apply(&desired()).unwrap_err();
    assert_eq!(failure, error(Errno::EPERM));
    assert!(
        plane.kernel().record.len() > 10,
        "{:?}",
        plane.kernel().record
    );
    let stats = plane.stats().clone();
    assert_eq!((stats.applied, stats.failed), (0, 1));
    assert_eq!(stats.last_failure, Some(failure));
    plane.apply(&desired()).unwrap();
    assert_eq!(
        plane.stats().repairs,
        BTreeMap::new(),
        "it was never whole before"
    );
}

#[test]
fn a_port_that_is_not_there_is_waited_for() {
    let mut plane = plane();
    let port = plane
        .kernel()
        .tables
        .devices
        .remove(&port_name(id(1)))
        .unwrap();
    let report = plane.apply(&desired()).unwrap();
    assert_eq!(report.missing, [port_name(id(1))]);
    plane.kernel().tables.devices.insert(port_name(id(1)), port);
    let report = plane.apply(&desired()).unwrap();
    let words: Vec<String> = report.operations.iter().map(ToString::to_string).collect();
    let expected = [
        "set p01010101010101: member of ovb4097, up",
        "ovb4097: forward 02:42:0a:00:01:01 to p01010101010101",
    ];
    assert_eq!(words, expected);
}

#[test]
fn only_names_of_ours_are_ours() {
    let ours = [bridge_name(vni()), vxlan_name(vni()), port_name(id(0xa1))];
    assert!(ours.iter().all(|name| is_ours(name) && name.len() <= 15));
    let others = [
        "lo",
        "ovb",
        "ovb16777216",
        "ovb01",
        "ovb-1",
        "ovx4097a",
        "ovs-system",
        "p1",
        "p0101010101010g",
        "p010101010101011",
        "P01010101010101",
        "pA1A1A1A1A1A1A1",
    ];
    for name in others {
        assert!(!is_ours(name), "{name}");
    }
}

proptest! {
    /// From any state to any other, whatever was damaged: the tables are as wanted, a second time there is nothing to do,
    /// and what was led to its end before and shall be afterwards is all the while.
    #[test]
    fn all_that_is_wanted_comes_about_whatever_is_there(
        before in some_desired(),
        after in some_desired(),
        damages in prop::collection::vec(any::<(u8, u8)>(), 0..6),
    ) {
        let mut plane = plane();
        plane.apply(&before).unwrap();
        for (kind, which) in damages {
            damage(&mut plane.kernel().tables, kind, which);
        }
        let wanted = compile(&after, &underlay(), &Abilities::ALL).tables;
        let mut whole = Fake { tables: compile(&after, &underlay(), &Abilities::ALL).tables, ..Fake::default() };
        with_ports(&mut whole.tables);
        let kernel = plane.kernel();
        let ports: Vec<String> = kernel.tables.devices.keys().cloned().collect();
        for port in ports {
            for number in 1..8 {
                let flow = (port.clone(), mac(number));
                let [there, to_be] = [&*kernel, &whole].map(|one| one.leads(&flow.0, flow.1));
                // Not to an endpoint that has left: its port goes before another way is there.
                let stays = there.is_some_and(|(bridge, hop)| {
                    let same = to_be.is_some_and(|(to_be, _)| to_be == bridge);
                    same && wanted.devices.contains_key(&hop)
                });
                if stays {
                    kernel.flows.push(flow);
                }
            }
        }
        plane.apply(&after).unwrap();
        plane.kernel().flows.clear();
        prop_assert_eq!(&plane.apply(&after).unwrap().operations, &[]);
        prop_assert!(is_whole(plane.kernel(), &after));
    }
}

/// Whether all is as wanted. Ports that nobody wants have no part in anything.
fn is_whole(kernel: &Fake, desired: &Desired) -> bool {
    let mut there = kernel.tables.clone();
    let devices = &mut there.devices;
    devices.retain(|_, device| device.kind != Kind::Port || device.member.is_some());
    there == compile(desired, &underlay(), &Abilities::ALL).tables
}

#[expect(clippy::too_many_lines, reason = "one arm for each kind of damage")]
/// Does something by hand.
fn damage(tables: &mut Tables, kind: u8, which: u8) {
    fn nth<K: Clone + Ord, V>(map: &BTreeMap<K, V>, which: u8) -> Option<K> {
        let place = usize::from(which).checked_rem(map.len())?;
        map.keys().nth(place).cloned()
    }
    let (stray, bridge) = (mac(99), bridge_name(vni()));
    match kind % 13 {
        0 => {
            let row = nth(&tables.forwarding, which);
            row.map(|row| tables.forwarding.remove(&row));
        }
        1 => {
            let row = nth(&tables.tunnels, which);
            row.map(|row| tables.tunnels.remove(&row));
        }
        2 => {
            let row = nth(&tables.neighbours, which);
            row.map(|row| tables.neighbours.remove(&row));
        }
        3 => {
            if let Some(row) = nth(&tables.tunnels, which) {
                let stray = BTreeSet::from([[192, 0, 2, which].into()]);
                tables.tunnels.insert(row, stray);
            }
        }
        4 => {
            if let Some(row) = nth(&tables.neighbours, which) {
                let other = (which > 128).then_some(stray);
                tables.neighbours.insert(row, other);
            }
        }
        5 => {
            if let (Some(place), Some(device)) =
                (nth(&tables.forwarding, which), nth(&tables.devices, which))
            {
                let fixed = which > 128;
                tables.forwarding.insert(place, Hop { device, fixed });
            }
        }
        6 => {
            if let Some(name) = nth(&tables.devices, which) {
                tables.devices.get_mut(&name).unwrap().up = false;
            }
        }
        7 => {
            if let Some(name) = nth(&tables.devices, which) {
                tables.devices.get_mut(&name).unwrap().member = None;
            }
        }
        8 => {
            // Ports are made by others.
            if let Some(name) = nth(&tables.devices, which).filter(|name| !name.starts_with('p')) {
                let mut fake = Fake {
                    tables: tables.clone(),
                    ..Fake::default()
                };
                fake.do_it(&Operation::Delete { name }).unwrap();
                *tables = fake.tables;
            }
        }
        9 => {
            if let Some(rules) = &mut tables.filter {
                let intruder = Chain {
                    hook: None,
                    rules: Vec::new(),
                };
                rules.table.chains.insert("intruder".to_owned(), intruder);
            }
        }
        10 => (tables.filter, tables.guard) = (None, None),
        11 => {
            let name = format!("eth{which}");
            tables.strangers.insert(name, bridge);
        }
        _ => {
            if tables.devices.contains_key(&bridge) {
                let hop = Hop {
                    device: bridge.clone(),
                    fixed: true,
                };
                let vlan = Some(7);
                tables.forwarding.insert(
                    Place {
                        bridge,
                        mac: stray,
                        vlan,
                    },
                    hop,
                );
            }
        }
    }
}

/// Networks 4097 and 4098 with some of the endpoints 1 to 7, here or elsewhere.
fn some_desired() -> impl Strategy<Value = Desired> {
    let places = prop::collection::vec(0..5_u8, 7);
    (places, any::<bool>(), 1_400..1_403_u16).prop_map(|(places, second, mtu)| {
        let mut desired = Desired::default();
        for number in 0..=u32::from(second) {
            let mut network = bare();
            (network.vni, network.mtu) = (Vni::new(4097 + number).unwrap(), mtu);
            for (endpoint, place) in (1_u8..).zip(&places) {
                // Every other one is of the second network.
                if second && u32::from(endpoint % 2) != number {
                    continue;
                }
                put(&mut network, endpoint, *place);
            }
            let id = NetworkId::from_bytes([u8::try_from(number).unwrap() + 1; 16]);
            desired.networks.insert(id, network);
        }
        desired
    })
}

/// An endpoint here (1), at one of two other nodes (2, 3), or nowhere.
fn put(network: &mut DesiredNetwork, number: u8, place: u8) {
    let address: IpNet = format!("10.0.1.{number}/24").parse().unwrap();
    match place {
        1 => {
            let port = DesiredPort {
                mac: mac(number),
                addresses: vec![address],
            };
            network.ports.insert(id(number), port);
        }
        2 | 3 => {
            let vtep = [192, 0, 2, place].into();
            let addresses = vec![address.addr()];
            let remote = RemoteEndpoint {
                mac: mac(number),
                addresses,
                vtep,
            };
            network.remotes.insert(id(number), remote);
            network.vteps.insert(vtep);
        }
        _ => {}
    }
}

fn bare() -> DesiredNetwork {
    DesiredNetwork {
        vlan_tags: false,
        encrypted: false,
        policy: Default::default(),
        vni: vni(),
        path: DataPath::Kernel,
        subnets: vec!["10.0.1.0/24".parse().unwrap()],
        mtu: 1_450,
        ports: BTreeMap::new(),
        remotes: BTreeMap::new(),
        vteps: BTreeSet::new(),
        services: BTreeMap::new(),
    }
}

/// Two endpoints here, one at 192.0.2.2, and another member.
fn desired() -> Desired {
    let mut network = bare();
    for (number, place) in [(1, 1), (2, 1), (3, 2)] {
        put(&mut network, number, place);
    }
    network.vteps.insert("192.0.2.3".parse().unwrap());
    Desired {
        peers: BTreeMap::new(),
        underlay: None,
        networks: BTreeMap::from([(NetworkId::from_bytes([1; 16]), network)]),
    }
}

fn network(desired: &mut Desired) -> &mut DesiredNetwork {
    desired.networks.values_mut().next().unwrap()
}

/// Over a kernel in which holders have made the ports of the endpoints 1 to 7.
fn plane() -> Reconciler<Fake> {
    let mut fake = Fake::default();
    with_ports(&mut fake.tables);
    Reconciler::new(fake, underlay())
}

fn with_ports(tables: &mut Tables) {
    for number in 1..8 {
        let port = Device {
            kind: Kind::Port,
            mtu: 1_450,
            up: false,
            member: None,
        };
        let devices = &mut tables.devices;
        devices.entry(port_name(id(number))).or_insert(port);
    }
}

fn underlay() -> Underlay {
    Underlay {
        local: "192.0.2.1".parse().unwrap(),
        port: 4789,
    }
}

fn vni() -> Vni {
    Vni::new(4097).unwrap()
}

fn id(number: u8) -> EndpointId {
    EndpointId::from_bytes([number; 16])
}

fn mac(number: u8) -> MacAddr {
    MacAddr::from_ipv4([10, 0, 1, number].into())
}
