//! What has to be done for what is there to become what is wanted.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use overlay_core::MacAddr;

use super::{
    sealing::SealingStep,
    tables::{Device, Hop, Kind, Place, Rules, Tables, Tunnel},
};
use crate::nftables::{self, Difference};

/// One step towards what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Make the filter in the switch namespace such as this, at once and entirely.
    Filter {
        /// The one that is there.
        from: Option<Rules>,
        /// None takes it away.
        to: Option<Rules>,
    },
    /// The same for the filter in the underlay's namespace.
    Guard {
        /// The one that is there.
        from: Option<Rules>,
        /// None takes it away.
        to: Option<Rules>,
    },
    /// Do something about what encrypted networks are sealed with.
    Sealing(SealingStep),
    /// Make a bridge or a VXLAN device.
    Make {
        /// Its name.
        name: String,
        /// What it shall be.
        device: Device,
    },
    /// Change a device that is there.
    Set {
        /// Its name.
        name: String,
        /// What it is.
        from: Device,
        /// What it shall be.
        to: Device,
    },
    /// Delete a device with all rows that name it.
    Delete {
        /// Its name.
        name: String,
    },
    /// Take a device that is not of our making out of a bridge that is.
    Expel {
        /// Its name.
        name: String,
        /// The bridge.
        bridge: String,
    },
    /// Send what a bridge gets for a MAC address there, in the place of where it went.
    Forward {
        /// What for.
        place: Place,
        /// Where to.
        hop: Hop,
    },
    /// Forget where a bridge sends what it gets for a MAC address.
    Forget {
        /// What for.
        place: Place,
        /// Where it went.
        hop: Hop,
    },
    /// Send what a VXLAN device gets for a MAC address to a VTEP: in the place of another one, or, of the unspecified
    /// address, also there.
    Tunnel {
        /// The device.
        device: String,
        /// The MAC address.
        mac: MacAddr,
        /// The VTEP.
        vtep: IpAddr,
    },
    /// Send it there no more.
    Untunnel {
        /// The device.
        device: String,
        /// The MAC address.
        mac: MacAddr,
        /// The VTEP.
        vtep: IpAddr,
    },
    /// Answer questions for an address on a bridge.
    Answer {
        /// The bridge.
        bridge: String,
        /// The address.
        address: IpAddr,
        /// With this MAC address.
        mac: MacAddr,
    },
    /// Answer them no more.
    Unanswer {
        /// The bridge.
        bridge: String,
        /// The address.
        address: IpAddr,
    },
}

/// What an operation is about; repairs are counted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// A filter.
    Filter,
    /// What encrypted networks are sealed with.
    Sealing,
    /// A device.
    Device,
    /// A bridge's row.
    Forwarding,
    /// A VXLAN device's row.
    Tunnel,
    /// A neighbour's row.
    Neighbour,
}

impl Operation {
    /// Returns what it is about.
    pub fn about(&self) -> About {
        match self {
            Self::Filter { .. } | Self::Guard { .. } => About::Filter,
            Self::Sealing(_) => About::Sealing,
            Self::Make { .. } | Self::Set { .. } | Self::Delete { .. } | Self::Expel { .. } => {
                About::Device
            }
            Self::Forward { .. } | Self::Forget { .. } => About::Forwarding,
            Self::Tunnel { .. } | Self::Untunnel { .. } => About::Tunnel,
            Self::Answer { .. } | Self::Unanswer { .. } => About::Neighbour,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter { from, to } => rules(f, "filter", from.as_ref(), to.as_ref()),
            Self::Guard { from, to } => rules(f, "guard", from.as_ref(), to.as_ref()),
            Self::Sealing(step) => step.fmt(f),
            Self::Make { name, device } => match device.kind {
                Kind::Vxlan(Tunnel {
                    vni, local, port, ..
                }) => write!(
                    f,
                    "make VXLAN device {name} of VNI {vni} from {local}, UDP port {port}"
                ),
                _ => write!(f, "make bridge {name}"),
            },
            Self::Set { name, from, to } => write!(f, "set {name}: {}", changes(from, to)),
            Self::Delete { name } => write!(f, "delete {name}"),
            Self::Expel { name, bridge } => write!(f, "take {name} out of {bridge}"),
            Self::Forward { place, hop } => {
                let Place { bridge, mac, .. } = place;
                write!(f, "{bridge}: forward {mac} to {}", hop.device)
            }
            Self::Forget { place, hop } => {
                let Place { bridge, mac, vlan } = place;
                write!(f, "{bridge}: forget {mac} at {}", hop.device)?;
                vlan.map_or(Ok(()), |vlan| write!(f, " in VLAN {vlan}"))
            }
            Self::Tunnel { device, mac, vtep } if *mac == MacAddr::UNSPECIFIED => {
                write!(f, "{device}: flood to {vtep}")
            }
            Self::Tunnel { device, mac, vtep } => write!(f, "{device}: send {mac} to {vtep}"),
            Self::Untunnel { device, mac, vtep } if *mac == MacAddr::UNSPECIFIED => {
                write!(f, "{device}: flood no more to {vtep}")
            }
            Self::Untunnel { device, mac, vtep } => {
                write!(f, "{device}: send {mac} no more to {vtep}")
            }
            Self::Answer {
                bridge,
                address,
                mac,
            } => write!(f, "{bridge}: answer for {address} with {mac}"),
            Self::Unanswer { bridge, address } => {
                write!(f, "{bridge}: answer no more for {address}")
            }
        }
    }
}

fn rules(
    f: &mut fmt::Formatter<'_>,
    word: &str,
    from: Option<&Rules>,
    to: Option<&Rules>,
) -> fmt::Result {
    let Some(to) = to else {
        return write!(f, "remove the {word}");
    };
    let Difference { mut words, .. } =
        nftables::difference(from.map(|rules| &rules.table), &to.table);
    let packets = from.and_then(|rules| rules.packets.as_ref());
    match &to.packets {
        Some(to) => {
            let Difference { words: more, .. } = nftables::difference(packets, to);
            words.extend(more.into_iter().map(|one| format!("of packets: {one}")));
        }
        None if packets.is_some() => words.push("remove the table for packets".to_owned()),
        None => {}
    }
    write!(f, "{word}: {}", words.join(", "))
}

fn changes(from: &Device, to: &Device) -> String {
    let mut words = Vec::new();
    if from.kind != to.kind {
        words.push("what it is made of".to_owned());
    }
    if from.mtu != to.mtu {
        words.push(format!("MTU {} -> {}", from.mtu, to.mtu));
    }
    let bridge = |device: &Device| device.member.as_ref().map(|(bridge, _)| bridge.clone());
    if bridge(from) != bridge(to) {
        let bridge = bridge(to).unwrap_or_else(|| "none".to_owned());
        words.push(format!("member of {bridge}"));
    } else if from.member != to.member {
        words.push("how it is a member of its bridge".to_owned());
    }
    if from.up != to.up {
        words.push(if to.up { "up" } else { "down" }.to_owned());
    }
    words.join(", ")
}

/// Plans what has to be done, in order; nothing if everything is as it shall be.
///
/// What has no part in a network leaves it first; then come filters, so that nothing passes unchecked; then what is added or
/// replaced; then what is removed. What may come sealed is there before anything is sealed with its like. A port that is not there is not made here, and rows that lead to it wait: see
/// [`missing`].
pub fn plan(wanted: &Tables, actual: &Tables) -> Vec<Operation> {
    let mut planner = Planner {
        wanted,
        actual,
        made: BTreeSet::new(),
        operations: Vec::new(),
    };
    planner.strangers();
    planner.filters(true);
    planner.sealing(wanted.sealing.additions(&actual.sealing));
    planner.devices();
    planner.rows();
    planner.removals();
    planner.sealing(wanted.sealing.removals(&actual.sealing));
    planner.filters(false);
    planner.operations
}

/// The ports that are wanted and not there: whoever holds their endpoints makes them.
pub fn missing<'a>(wanted: &'a Tables, actual: &Tables) -> Vec<&'a str> {
    let ports = wanted
        .devices
        .iter()
        .filter(|(_, device)| device.kind == Kind::Port);
    let gone = ports.filter(|(name, _)| !is_port(actual, name));
    gone.map(|(name, _)| name.as_str()).collect()
}

fn is_port(actual: &Tables, name: &str) -> bool {
    let found = actual.devices.get(name);
    found.is_some_and(|device| device.kind == Kind::Port)
}

struct Planner<'a> {
    wanted: &'a Tables,
    actual: &'a Tables,
    /// The devices that are made anew, so that no row names them yet.
    made: BTreeSet<&'a str>,
    operations: Vec<Operation>,
}

impl<'a> Planner<'a> {
    /// Ports that have no part in anything any more leave their bridges before the filter knows nothing of them. Whoever
    /// holds their endpoints removes them.
    fn strangers(&mut self) {
        for (name, device) in &self.actual.devices {
            let wanted = self.wanted.devices.contains_key(name);
            if !wanted && device.kind == Kind::Port && device.member.is_some() {
                let (name, from, mut to) = (name.clone(), device.clone(), device.clone());
                to.member = None;
                self.operations.push(Operation::Set { name, from, to });
            }
        }
        for (name, bridge) in &self.actual.strangers {
            let (name, bridge) = (name.clone(), bridge.clone());
            self.operations.push(Operation::Expel { name, bridge });
        }
    }

    /// Filters that shall be come first, those that shall not come last.
    fn filters(&mut self, wanted: bool) {
        let (ours, theirs) = (&self.wanted.filter, &self.actual.filter);
        if ours != theirs && ours.is_some() == wanted {
            let (from, to) = (theirs.clone(), ours.clone());
            self.operations.push(Operation::Filter { from, to });
        }
        let (ours, theirs) = (&self.wanted.guard, &self.actual.guard);
        if ours != theirs && ours.is_some() == wanted {
            let (from, to) = (theirs.clone(), ours.clone());
            self.operations.push(Operation::Guard { from, to });
        }
    }

    fn sealing(&mut self, steps: Vec<SealingStep>) {
        self.operations
            .extend(steps.into_iter().map(Operation::Sealing));
    }

    fn devices(&mut self) {
        // A member names its bridge.
        let bridges = |device: &Device| matches!(device.kind, Kind::Bridge { .. });
        for bridge in [true, false] {
            for (name, device) in &self.wanted.devices {
                if bridges(device) == bridge {
                    self.device(name, device);
                }
            }
        }
    }

    fn device(&mut self, name: &'a str, device: &'a Device) {
        let found = self.actual.devices.get(name);
        let to = device.clone();
        match found {
            Some(found) if can_become(&found.kind, &device.kind) => {
                let of_new = device.member.as_ref();
                let of_new = of_new.is_some_and(|(bridge, _)| self.made.contains(bridge.as_str()));
                if found != device || of_new {
                    let (name, mut from) = (name.to_owned(), found.clone());
                    if of_new {
                        from.member = None;
                    }
                    self.operations.push(Operation::Set { name, from, to });
                }
                return;
            }
            Some(_) => {
                let name = name.to_owned();
                self.operations.push(Operation::Delete { name });
            }
            None => {}
        }
        if device.kind != Kind::Port {
            self.made.insert(name);
            let (name, device) = (name.to_owned(), to);
            self.operations.push(Operation::Make { name, device });
        }
    }

    fn rows(&mut self) {
        let (wanted, actual) = (self.wanted, self.actual);
        for ((device, mac), vteps) in &wanted.tunnels {
            let found = actual.tunnels.get(&(device.clone(), *mac));
            let found = found.filter(|_| !self.made.contains(device.as_str()));
            for vtep in vteps {
                if !found.is_some_and(|found| found.contains(vtep)) {
                    self.operations.push(Operation::Tunnel {
                        device: device.clone(),
                        mac: *mac,
                        vtep: *vtep,
                    });
                }
            }
        }
        for (place, hop) in &wanted.forwarding {
            let found = actual.forwarding.get(place);
            let there = self.wanted.devices.get(&hop.device);
            let there = there.is_none_or(|device| device.kind != Kind::Port)
                || is_port(actual, &hop.device);
            let named = [place.bridge.as_str(), hop.device.as_str()];
            let fresh = named.iter().any(|name| self.made.contains(name));
            if there && (found != Some(hop) || fresh) {
                let (place, hop) = (place.clone(), hop.clone());
                self.operations.push(Operation::Forward { place, hop });
            }
        }
        for ((bridge, address), mac) in &wanted.neighbours {
            let found = actual.neighbours.get(&(bridge.clone(), *address));
            let fresh = self.made.contains(bridge.as_str());
            if let Some(mac) = mac.filter(|_| found != Some(mac) || fresh) {
                self.operations.push(Operation::Answer {
                    bridge: bridge.clone(),
                    address: *address,
                    mac,
                });
            }
        }
    }

    fn removals(&mut self) {
        let (wanted, actual) = (self.wanted, self.actual);
        let stays = |name: &str| wanted.devices.contains_key(name) && !self.made.contains(name);
        let mut operations = Vec::new();
        for (bridge, address) in actual.neighbours.keys() {
            let key = (bridge.clone(), *address);
            if stays(bridge) && !wanted.neighbours.contains_key(&key) {
                let (bridge, address) = key;
                operations.push(Operation::Unanswer { bridge, address });
            }
        }
        for (place, hop) in &actual.forwarding {
            let gone = !wanted.forwarding.contains_key(place);
            if gone && stays(&place.bridge) && actual.devices.contains_key(&hop.device) {
                let (place, hop) = (place.clone(), hop.clone());
                operations.push(Operation::Forget { place, hop });
            }
        }
        for ((device, mac), vteps) in &actual.tunnels {
            let wanted = wanted.tunnels.get(&(device.clone(), *mac));
            // A row with one VTEP is replaced.
            let replaced = wanted.is_some() && vteps.len() == 1 && *mac != MacAddr::UNSPECIFIED;
            for vtep in vteps.iter().filter(|_| stays(device) && !replaced) {
                if !wanted.is_some_and(|wanted| wanted.contains(vtep)) {
                    operations.push(Operation::Untunnel {
                        device: device.clone(),
                        mac: *mac,
                        vtep: *vtep,
                    });
                }
            }
        }
        // Members before their bridge.
        for bridge in [false, true] {
            for (name, device) in &actual.devices {
                let is_bridge = matches!(device.kind, Kind::Bridge { .. });
                if is_bridge != bridge || wanted.devices.contains_key(name) {
                    continue;
                }
                let name = name.clone();
                if device.kind != Kind::Port {
                    operations.push(Operation::Delete { name });
                }
            }
        }
        self.operations.extend(operations);
    }
}

/// Whether a device can be changed into another without being made anew.
pub(super) fn can_become(found: &Kind, wanted: &Kind) -> bool {
    match (found, wanted) {
        (Kind::Bridge { .. }, Kind::Bridge { .. }) => true,
        (Kind::Vxlan(found), Kind::Vxlan(wanted)) => {
            let learning = wanted.learning;
            Tunnel { learning, ..*found } == *wanted
        }
        (found, wanted) => found == wanted,
    }
}
