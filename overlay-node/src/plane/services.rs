//! The balancers of a node's frame path: one for each network that has services with virtual addresses.
//!
//! A balancer stands before the switch where a frame leaves an endpoint, and behind it where a reply comes in. Only the
//! node of the client looks: backends see the client's own address, and a node that has none of a service's clients keeps
//! nothing of their flows.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use overlay_core::{
    EndpointId, Instant, MacAddr, Machine as _, NetworkId, Seed, ServiceId, Vni,
    plane::{DesiredBackend, DesiredNetwork, DesiredService},
};
use overlay_lb::{
    Backend, BackendId, BackendState, Balancer, Config, Output, PartialChecksum, Protocol, Reset,
    Verdict, Vip,
};
use overlay_vxlan::{Frame, Outer, PortId, Sink, Switch, Unsealed, policy::Direction, wire};

use super::{capture::Hears, policy::Policies};

/// The balancers of all networks.
#[derive(Debug)]
pub(super) struct Services {
    seed: Seed,
    networks: BTreeMap<NetworkId, Balanced>,
    /// Which of them a port is on; ports of networks that never had services are not in here.
    ports: BTreeMap<PortId, NetworkId>,
    refused: u64,
}

/// One network with its balancer.
#[derive(Debug)]
struct Balanced {
    balancer: Balancer,
    vni: Vni,
    services: BTreeMap<ServiceId, DesiredService>,
    /// The clients that may be here.
    clients: BTreeMap<IpAddr, (PortId, MacAddr)>,
}

/// What is to be done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It goes on through the switch.
    On,
    /// It goes back to the port that it came from.
    Back,
    /// It ends here.
    End,
}

impl Services {
    pub(super) fn new(seed: Seed) -> Self {
        Self {
            seed,
            networks: BTreeMap::new(),
            ports: BTreeMap::new(),
            refused: 0,
        }
    }

    /// Returns how many addresses and backends there was no room for.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Returns how many flows to an endpoint are left; `None` while it is given new ones.
    pub(super) fn flows_left(&self, endpoint: EndpointId) -> Option<u32> {
        let networks = self.networks.values();
        networks
            .map(|network| network.balancer.flows_left(endpoint.into()))
            .try_fold(0_u32, |sum, left| Some(sum.saturating_add(left?)))
    }

    /// Returns whether a port is on a network that has services.
    pub(super) fn concerns(&self, port: PortId) -> bool {
        self.ports.contains_key(&port)
    }

    /// Makes the services of a network what `desired` says, and the switch answer for their addresses.
    pub(super) fn set_network(
        &mut self,
        now: Instant,
        id: NetworkId,
        desired: &DesiredNetwork,
        ports: &BTreeMap<EndpointId, PortId>,
        switch: &mut Switch,
    ) {
        if desired.services.is_empty() && !self.networks.contains_key(&id) {
            return;
        }
        let Some(network) = self.network(now, id, desired.vni) else {
            self.refused += 1;
            return;
        };
        let refused = network.set(now, &desired.services);
        let present = |(endpoint, port): (&EndpointId, &overlay_core::plane::DesiredPort)| {
            let id = ports.get(endpoint).copied()?;
            let mac = port.mac;
            let addresses = port.addresses.iter().map(ipnet::IpNet::addr);
            Some(
                addresses
                    .map(move |address| (address, (id, mac)))
                    .collect::<Vec<_>>(),
            )
        };
        network.clients = desired.ports.iter().filter_map(present).flatten().collect();
        let here: Vec<_> = network.clients.values().map(|(port, _)| *port).collect();
        let services = desired.services.values();
        let virtuals = services
            .flat_map(|service| {
                service
                    .addresses
                    .iter()
                    .map(|address| (*address, service.mac))
            })
            .collect();
        let answered = switch.set_virtual_addresses(desired.vni, &virtuals);
        self.refused += refused + u64::from(answered.is_err());
        self.ports.retain(|_, on| *on != id);
        self.ports.extend(here.into_iter().map(|port| (port, id)));
    }

    pub(super) fn remove_network(&mut self, id: NetworkId) {
        self.networks.remove(&id);
        self.ports.retain(|_, on| *on != id);
    }

    fn network(&mut self, now: Instant, id: NetworkId, vni: Vni) -> Option<&mut Balanced> {
        if !self.networks.contains_key(&id) {
            let seed = self.seed.derive(&id.to_string());
            let mut balancer = Balancer::new(config(), &seed, now).ok()?;
            // After a restart the table is fetched from others, while connections of before go on.
            balancer.settle_until(now, now + SETTLING);
            let made = Balanced {
                balancer,
                vni,
                services: BTreeMap::new(),
                clients: BTreeMap::new(),
            };
            self.networks.insert(id, made);
        }
        let network = self.networks.get_mut(&id)?;
        network.vni = vni;
        Some(network)
    }

    /// Looks at a frame that the endpoint behind `port` sent, and that was admitted.
    pub(super) fn outbound(&mut self, now: Instant, port: PortId, frame: &mut Frame) -> Way {
        let Some(network) = self.of_port(port).filter(|_| !is_tagged(frame)) else {
            return Way::On;
        };
        let partial = partial(frame);
        let answer = match network
            .balancer
            .handle_outbound(now, frame.bytes_mut(), partial)
        {
            // Each backend has its MAC address, so that the frame has it by now.
            Verdict::Pass | Verdict::Backend { .. } => return Way::On,
            Verdict::Client | Verdict::Hairpin => return Way::Back,
            Verdict::Drop(_) | Verdict::Held => return Way::End,
            Verdict::Answer(bytes) => bytes,
        };
        *frame = Frame::with_headroom(Frame::HEADROOM, answer);
        Way::Back
    }

    /// Looks at a frame that is about to be delivered to `port`; returns whether it is.
    fn inbound(&mut self, now: Instant, port: PortId, frame: &mut Frame) -> bool {
        let Some(network) = self.of_port(port).filter(|_| !is_tagged(frame)) else {
            return true;
        };
        let partial = partial(frame);
        let verdict = network
            .balancer
            .handle_inbound(now, frame.bytes_mut(), partial);
        !matches!(verdict, Verdict::Drop(_))
    }

    fn of_port(&mut self, port: PortId) -> Option<&mut Balanced> {
        self.networks.get_mut(self.ports.get(&port)?)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let networks = self.networks.values();
        networks
            .filter_map(|network| network.balancer.poll_timeout())
            .min()
    }

    /// Forgets idle flows, tells both ends of those that came to an end of it, and asks other backends for connections that
    /// one has refused.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        switch: &mut Switch,
        policies: &mut Policies,
        sink: &mut impl Hears,
    ) {
        let (mut resets, mut again) = (Vec::new(), Vec::new());
        for (id, network) in &mut self.networks {
            network.balancer.handle_timeout(now);
            while let Some(output) = network.balancer.poll_output() {
                match output {
                    Output::Reset(reset) => resets.push((*id, reset)),
                    Output::Released(bytes) | Output::Retried(bytes) => again.push((*id, bytes)),
                    Output::Event(_) => {}
                }
            }
        }
        for (network, reset) in resets {
            self.reset(now, network, &reset, switch, policies, sink);
        }
        for (network, bytes) in again {
            self.send_again(now, network, &bytes, switch, policies, sink);
        }
    }

    /// Takes a frame that an endpoint has sent and that waited here, as if it came now.
    fn send_again(
        &mut self,
        now: Instant,
        network: NetworkId,
        bytes: &[u8],
        switch: &mut Switch,
        policies: &mut Policies,
        sink: &mut impl Hears,
    ) {
        let clients = self.networks.get(&network).map(|network| &network.clients);
        let mut clients = clients.into_iter().flatten();
        let sender = clients.find(|(_, (_, mac))| bytes.get(6..12) == Some(&mac.octets()));
        // One that has gone meanwhile awaits nothing.
        let Some((port, _)) = sender.map(|(_, sender)| *sender) else {
            return;
        };
        let mut frame = Frame::with_headroom(Frame::HEADROOM, bytes);
        match self.outbound(now, port, &mut frame) {
            Way::On => {
                let mut delivery = self.delivery(now, policies, sink);
                switch.forward_local(now, port, &mut frame, &mut delivery);
            }
            Way::Back => sink.to_port(port, &mut frame),
            Way::End => {}
        }
    }

    fn reset(
        &mut self,
        now: Instant,
        network: NetworkId,
        reset: &Reset,
        switch: &mut Switch,
        policies: &mut Policies,
        sink: &mut impl Hears,
    ) {
        let Some(network) = self.networks.get(&network) else {
            return;
        };
        let client = network.clients.get(&reset.flow.client.ip()).copied();
        let Some((port, client)) = client else {
            return;
        };
        let source = network.mac_of(reset.flow.vip.addr);
        if let Some(bytes) = reset.to_client(source, client) {
            sink.to_port(
                port,
                &mut Frame::with_headroom(Frame::HEADROOM, bytes.as_slice()),
            );
        }
        let backend = reset.mac.and_then(|mac| reset.to_backend(client, mac));
        if let Some(bytes) = backend {
            let mut frame = Frame::with_headroom(Frame::HEADROOM, &bytes);
            let mut delivery = self.delivery(now, policies, sink);
            switch.forward_local(now, port, &mut frame, &mut delivery);
        }
    }

    /// Puts the way of replies, and the policies, before a sink.
    pub(super) fn delivery<'a, S: Hears>(
        &'a mut self,
        now: Instant,
        policies: &'a mut Policies,
        sink: &'a mut S,
    ) -> Delivery<'a, S> {
        Delivery {
            now,
            services: self,
            policies,
            sink,
        }
    }
}

impl Balanced {
    /// Brings the balancer in line; returns how much there was no room for.
    fn set(&mut self, now: Instant, next: &BTreeMap<ServiceId, DesiredService>) -> u64 {
        let before = std::mem::take(&mut self.services);
        // An address may go from one service to another.
        for service in before.values() {
            for vip in vips(service).filter(|vip| !holds(next, *vip)) {
                self.balancer.remove_vip(now, vip);
            }
        }
        let mut refused = 0;
        for (id, service) in next {
            let present = before.get(id);
            if present == Some(service) {
                continue;
            }
            for vip in vips(service) {
                refused += self.serve(now, vip, service);
            }
        }
        self.services = next.clone();
        refused
    }

    fn serve(&mut self, now: Instant, vip: Vip, service: &DesiredService) -> u64 {
        if self.balancer.set_vip(now, vip, service.config).is_err() {
            return 1;
        }
        let wanted: BTreeMap<_, _> = service
            .backends
            .iter()
            .filter_map(|(id, backend)| Some((BackendId::from(*id), made(*id, backend, vip)?)))
            .collect();
        let known: Vec<_> = self
            .balancer
            .backends(vip)
            .map(|backend| backend.id)
            .collect();
        for id in known.into_iter().filter(|id| !wanted.contains_key(id)) {
            // It is there: it was listed just now.
            let _ = self.balancer.remove_backend(now, vip, id);
        }
        let set = |backend| self.balancer.set_backend(now, vip, backend).is_err();
        wanted.into_values().map(set).map(u64::from).sum()
    }

    fn mac_of(&self, address: IpAddr) -> MacAddr {
        let mut services = self.services.values();
        let service = services.find(|service| service.addresses.contains(&address));
        service.map_or(MacAddr::UNSPECIFIED, |service| service.mac)
    }
}

/// A sink to which replies come from the virtual address, and only what may come.
pub(super) struct Delivery<'a, S> {
    now: Instant,
    services: &'a mut Services,
    policies: &'a mut Policies,
    sink: &'a mut S,
}

impl<S: Hears> Sink for Delivery<'_, S> {
    fn to_port(&mut self, port: PortId, frame: &mut Frame) {
        if !self.services.inbound(self.now, port, frame) {
            return;
        }
        match self
            .policies
            .judge(self.now, Direction::Ingress, port, frame)
        {
            None => self.sink.to_port(port, frame),
            Some(reason) => self.sink.dropped(port, reason, frame),
        }
    }

    fn to_vtep(&mut self, vtep: IpAddr, outer: Outer, frame: &mut Frame) {
        self.sink.to_vtep(vtep, outer, frame);
    }

    fn copy_to_vtep(&mut self, vtep: IpAddr, outer: Outer, frame: &Frame) {
        self.sink.copy_to_vtep(vtep, outer, frame);
    }

    fn to_sealed_vtep(
        &mut self,
        vtep: IpAddr,
        outer: Outer,
        frame: &mut Frame,
    ) -> Result<(), Unsealed> {
        self.sink.to_sealed_vtep(vtep, outer, frame)
    }

    fn copy_to_sealed_vtep(
        &mut self,
        vtep: IpAddr,
        outer: Outer,
        frame: &Frame,
    ) -> Result<(), Unsealed> {
        self.sink.copy_to_sealed_vtep(vtep, outer, frame)
    }
}

/// Whether a frame is of a VLAN, in which nobody has a virtual address.
fn is_tagged(frame: &Frame) -> bool {
    let frame = wire::ethernet::Packet::new_checked(frame.bytes());
    frame.is_ok_and(|frame| frame.ethertype().is_vlan())
}

/// All ports of each of a service's addresses, as in Docker.
fn vips(service: &DesiredService) -> impl Iterator<Item = Vip> {
    let each = |addr: IpAddr| {
        [Protocol::Tcp, Protocol::Udp].map(|proto| Vip {
            addr,
            proto,
            port: 0,
        })
    };
    service.addresses.iter().copied().flat_map(each)
}

fn holds(services: &BTreeMap<ServiceId, DesiredService>, vip: Vip) -> bool {
    let mut services = services.values();
    services.any(|service| service.addresses.contains(&vip.addr))
}

/// Makes a backend for a virtual address; `None` if it has no address of that family.
fn made(id: EndpointId, backend: &DesiredBackend, vip: Vip) -> Option<Backend> {
    let mut addresses = backend.addresses.iter();
    let address = addresses.find(|address| address.is_ipv4() == vip.addr.is_ipv4())?;
    let state = if backend.draining {
        BackendState::Draining
    } else {
        BackendState::Active
    };
    Some(Backend {
        mac: Some(backend.mac),
        weight: backend.weight,
        state,
        distance: backend.distance,
        ..Backend::new(id.into(), SocketAddr::new(*address, 0))
    })
}

fn partial(frame: &Frame) -> Option<PartialChecksum> {
    let checksum = frame.offload().checksum?;
    Some(PartialChecksum {
        start: checksum.start,
        offset: checksum.offset,
    })
}

/// How long it takes at the most until the rows of a network's table are there; what is lost until then is sent again.
const SETTLING: Duration = Duration::from_secs(3);

/// Bounds of one network's balancer. Tables are smaller than the crate's defaults: each service in use has two.
fn config() -> Config {
    Config {
        backends_max: 1_024,
        maglev_entries: 16_381,
        fragments_held_max: 64,
        openings_max: 1_024,
        ..Config::default()
    }
}
