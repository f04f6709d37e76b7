//! The frame path of one node: one value that one thread drives.
//!
//! Out of an endpoint: anti-spoof, policy, balancer and switch (verdict), then encapsulation into the frame's headroom. Into
//! one: decapsulate, member and anti-spoof checks, switch, balancer back, policy. Frames of encrypted networks are sealed, and opened, by
//! whoever has the sockets ([`Sealing`]): the switch hands them out, and takes them, as such only.

mod capture;
mod endpoint;
mod lookup;
mod policy;
mod sealing;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use overlay_core::{
    EndpointId, Instant, Machine, Seed, Vni,
    plane::{DataPath, Desired, DesiredNetwork, Underlay},
};
use overlay_vxlan::{
    Config, DropReason, Frame, NetworkConfig, Outcome, Output, PortCapabilities, PortId, Received,
    Sink, Switch, VlanTags, pcapng::Direction, policy as stage, wire::vxlan,
};

use self::{
    capture::Captures,
    policy::Policies,
    services::{Services, Way},
};

pub use capture::{CaptureId, CaptureSpec};
pub use endpoint::{EchoReply, Endpoint};
pub use lookup::{Address, Found, Place};
pub use sealing::Sealing;

/// The frame path of one node.
#[derive(Debug)]
pub struct Plane {
    switch: Switch,
    services: Services,
    policies: Policies,
    captures: Captures,
    applied: Desired,
    ports: BTreeMap<EndpointId, PortId>,
    /// What the ports of endpoints take as it is; those that are not in here take nothing but whole frames.
    capabilities: BTreeMap<EndpointId, PortCapabilities>,
    next_port: u32,
    /// The backends of networks that the system carries: nobody here sees their flows.
    elsewhere: BTreeSet<EndpointId>,
    refused: u64,
}

impl Plane {
    /// Makes a frame path that carries nothing.
    pub fn new(seed: Seed) -> Self {
        Self {
            services: Services::new(seed.derive("services")),
            policies: Policies::new(seed.derive("policies")),
            captures: Captures::default(),
            switch: Switch::new(Config::default(), seed),
            applied: Desired::default(),
            ports: BTreeMap::new(),
            capabilities: BTreeMap::new(),
            next_port: 0,
            elsewhere: BTreeSet::new(),
            refused: 0,
        }
    }

    /// Makes the tables what `desired` says of the networks that user space carries; what does not differ is not touched.
    ///
    /// What the switch or a balancer refuses (a bound of its configuration) is left out and counted by
    /// [`refused`](Self::refused). Connections to backends that are gone are reset by the next
    /// [`handle_timeout`](Self::handle_timeout), which is due at once.
    pub fn apply(&mut self, now: Instant, desired: &Desired) {
        let mut carried = desired.clone();
        let kernel = |network: &DesiredNetwork| network.path == DataPath::Kernel;
        let elsewhere = carried.networks.values().filter(|network| kernel(network));
        let services = elsewhere.flat_map(|network| network.services.values());
        self.elsewhere = services
            .flat_map(|service| service.backends.keys().copied())
            .collect();
        carried.networks.retain(|_, network| !kernel(network));
        let desired = &carried;
        let before = std::mem::take(&mut self.applied);
        for (network, present) in &before.networks {
            let kept = desired
                .networks
                .get(network)
                .is_some_and(|next| next.vni == present.vni);
            if !kept {
                self.services.remove_network(*network);
                self.policies.remove_network(*network);
                self.remove_network(present);
            }
        }
        for (network, next) in &desired.networks {
            let present = before
                .networks
                .get(network)
                .filter(|present| present.vni == next.vni);
            if present != Some(next) {
                self.set_network(present, next);
                self.probe(now, [next], carried.underlay);
                let (ports, switch) = (&self.ports, &mut self.switch);
                self.policies.set_network(now, *network, next, ports);
                self.services
                    .set_network(now, *network, next, ports, switch);
            }
        }
        if before.underlay != carried.underlay {
            self.probe(now, carried.networks.values(), carried.underlay);
        }
        self.applied = carried;
    }

    /// Says what the port of an endpoint takes as it is, from now on; the endpoint may be on a network later.
    pub fn set_capabilities(&mut self, endpoint: EndpointId, capabilities: PortCapabilities) {
        if capabilities == PortCapabilities::default() {
            self.capabilities.remove(&endpoint);
        } else {
            self.capabilities.insert(endpoint, capabilities);
        }
        if let Some(port) = self.ports.get(&endpoint) {
            // A port that was refused is not there.
            let _ = self.switch.set_port_capabilities(*port, capabilities);
        }
    }

    /// Takes a frame that the endpoint behind `port` sent.
    pub fn handle_local(
        &mut self,
        now: Instant,
        port: PortId,
        frame: &mut Frame,
        sink: &mut impl Sink,
    ) {
        let vni = self.captures.vni_of(port);
        let before = self.before(frame);
        let dropped = self.carry_local(now, port, frame, sink);
        if let (Some(vni), Some(before), Some(reason)) = (vni, before, dropped) {
            let way = (Direction::Outbound, None);
            self.captures.add(now, vni, way, Some(reason), &before);
        }
    }

    /// Returns why the frame was dropped, if the switch did so.
    fn carry_local(
        &mut self,
        now: Instant,
        port: PortId,
        frame: &mut Frame,
        sink: &mut impl Sink,
    ) -> Option<DropReason> {
        let sink = &mut self.captures.tap(now, None, sink);
        let policies = &mut self.policies;
        let is_judged = policies.concerns(port);
        if !is_judged && !self.services.concerns(port) {
            let mut delivery = self.services.delivery(now, policies, sink);
            let outcome = self.switch.handle_local(now, port, frame, &mut delivery);
            return dropped(outcome);
        }
        if let Err(reason) = self.switch.admit_local(now, port, frame) {
            return Some(reason);
        }
        if is_judged
            && let Some(reason) = policies.judge(now, stage::Direction::Egress, port, frame)
        {
            return Some(reason);
        }
        match self.services.outbound(now, port, frame) {
            Way::On => {
                let mut delivery = self.services.delivery(now, policies, sink);
                return dropped(self.switch.forward_local(now, port, frame, &mut delivery));
            }
            Way::Back => sink.to_port(port, frame),
            Way::End => {}
        }
        None
    }

    /// Takes the payload of a datagram that came from a VTEP: the VXLAN header and a frame.
    pub fn handle_remote(
        &mut self,
        now: Instant,
        from: impl Into<Received>,
        frame: &mut Frame,
        sink: &mut impl Sink,
    ) {
        let from = from.into();
        let before = self.before(frame);
        let sink = &mut self.captures.tap(now, Some(from.from), sink);
        let mut delivery = self.services.delivery(now, &mut self.policies, sink);
        let outcome = self.switch.handle_remote(now, from, frame, &mut delivery);
        if let (Some(mut before), Some(reason)) = (before, dropped(outcome))
            && let Ok(vni) = vxlan::Packet::new_checked(before.bytes()).map(|header| header.vni())
            && before.pull_header(vxlan::HEADER_BYTES).is_some()
        {
            let way = (Direction::Inbound, Some(from.from));
            self.captures.add(now, vni, way, Some(reason), &before);
        }
    }

    /// Copies a frame if somebody wants to know what became of it.
    fn before(&self, frame: &Frame) -> Option<Frame> {
        (!self.captures.is_idle()).then(|| frame.clone())
    }

    /// Begins to capture the frames of a network, under a number that no running capture has.
    pub fn start_capture(&mut self, id: CaptureId, spec: CaptureSpec) {
        self.captures.start(id, spec);
    }

    /// Ends a capture; what was not taken yet is gone.
    pub fn stop_capture(&mut self, id: CaptureId) {
        self.captures.stop(id);
    }

    /// Takes what was captured since the last call, to be asked after each batch of frames.
    pub fn take_captured(&mut self) -> impl Iterator<Item = (CaptureId, Vec<u8>)> {
        self.captures.take()
    }

    /// Lets time pass: idle flows are forgotten, and who has lost a connection, or has to know that an address moved, hears
    /// of it.
    pub fn handle_timeout(&mut self, now: Instant, sink: &mut impl Sink) {
        let (switch, policies) = (&mut self.switch, &mut self.policies);
        let tap = &mut self.captures.tap(now, None, sink);
        self.services.handle_timeout(now, switch, policies, tap);
        self.policies.handle_timeout(now);
        self.switch.handle_timeout(now);
        while let Some(output) = self.switch.poll_output() {
            match output {
                Output::Announce(announcement) => {
                    let tap = &mut self.captures.tap(now, None, sink);
                    let mut delivery = self.services.delivery(now, &mut self.policies, tap);
                    self.switch.announce(now, &announcement, &mut delivery);
                }
                Output::PathPacket(packet) => {
                    self.switch.send_path_packet(now, &packet, sink);
                }
                Output::Event(_) => {}
            }
        }
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = [
            self.services.poll_timeout(),
            self.policies.poll_timeout(),
            self.switch.poll_timeout(),
        ];
        due.into_iter().flatten().min()
    }

    /// Returns how many flows to an endpoint the balancers of this node have; `None` while one of them gives it new ones, and
    /// if the system carries its network.
    pub fn flows_left(&self, endpoint: EndpointId) -> Option<u32> {
        if self.elsewhere.contains(&endpoint) {
            return None;
        }
        self.services.flows_left(endpoint)
    }

    /// Returns the port of an endpoint that runs here.
    pub fn port(&self, endpoint: EndpointId) -> Option<PortId> {
        self.ports.get(&endpoint).copied()
    }

    /// Returns the networks that user space carries.
    pub fn vnis(&self) -> BTreeSet<Vni> {
        let networks = self.applied.networks.values();
        networks.map(|network| network.vni).collect()
    }

    /// Returns the VTEPs of all networks that user space carries.
    pub fn vteps(&self) -> BTreeSet<IpAddr> {
        let networks = self.applied.networks.values();
        networks
            .flat_map(|network| network.vteps.iter().copied())
            .collect()
    }

    /// Returns the switch, for its tables and counters.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Returns what the policies of the networks that have one have counted.
    pub fn policy_stats(&self) -> impl Iterator<Item = (Vni, stage::Stats)> + '_ {
        self.policies.stats()
    }

    /// Returns how many rows, ports, virtual addresses, backends and policies were refused.
    pub fn refused(&self) -> u64 {
        self.refused + self.services.refused() + self.policies.refused()
    }

    /// Looks for the largest size of datagrams to all VTEPs of these networks.
    fn probe<'a>(
        &mut self,
        now: Instant,
        networks: impl IntoIterator<Item = &'a DesiredNetwork>,
        underlay: Option<Underlay>,
    ) {
        let mtu = underlay.map(|underlay| underlay.mtu);
        for vtep in networks.into_iter().flat_map(|network| &network.vteps) {
            self.switch.probe_path(now, *vtep, mtu);
        }
    }

    fn remove_network(&mut self, network: &DesiredNetwork) {
        for endpoint in network.ports.keys() {
            if let Some(port) = self.ports.remove(endpoint) {
                self.switch.remove_port(port);
                self.captures.remove_port(port);
            }
        }
        self.switch.remove_network(network.vni);
    }

    fn set_network(&mut self, present: Option<&DesiredNetwork>, next: &DesiredNetwork) {
        let config = NetworkConfig {
            mtu: next.mtu,
            subnets: next.subnets.clone(),
            vlan_tags: if next.vlan_tags {
                VlanTags::Carry
            } else {
                VlanTags::Drop
            },
            encrypted: next.encrypted,
            ..NetworkConfig::default()
        };
        let made = match present {
            None => self.switch.add_network(next.vni, config),
            Some(present)
                if (present.mtu, present.vlan_tags, present.encrypted)
                    != (next.mtu, next.vlan_tags, next.encrypted)
                    || present.subnets != next.subnets =>
            {
                self.switch.set_network(next.vni, config)
            }
            Some(_) => Ok(()),
        };
        self.count(made.is_ok());
        let none = BTreeMap::new();
        let before = present.map_or(&none, |present| &present.ports);
        for (endpoint, port) in before {
            if next.ports.get(endpoint) != Some(port)
                && let Some(port) = self.ports.remove(endpoint)
            {
                self.switch.remove_port(port);
                self.captures.remove_port(port);
            }
        }
        for (endpoint, port) in &next.ports {
            if before.get(endpoint) != Some(port) {
                let id = PortId(self.next_port);
                self.next_port = self.next_port.wrapping_add(1);
                let addresses: Vec<_> = port.addresses.iter().map(ipnet::IpNet::addr).collect();
                let added = self.switch.add_port(id, next.vni, port.mac, &addresses);
                self.count(added.is_ok());
                self.ports.insert(*endpoint, id);
                self.captures.set_port(id, next.vni);
                if let Some(capabilities) = self.capabilities.get(endpoint) {
                    let _ = self.switch.set_port_capabilities(id, *capabilities);
                }
            }
        }
        if present.is_none_or(|present| present.vteps != next.vteps) {
            let set = self.switch.set_vteps(next.vni, &next.vteps);
            self.count(set.is_ok());
        }
        if present.is_none_or(|present| present.remotes != next.remotes) {
            let refused = self.switch.set_remotes(next.vni, next.remotes.values());
            self.refused += refused.map_or(1, |rows| rows as u64);
        }
    }

    fn count(&mut self, taken: bool) {
        self.refused += u64::from(!taken);
    }
}

fn dropped(outcome: Outcome) -> Option<DropReason> {
    match outcome {
        Outcome::Dropped(reason) => Some(reason),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
