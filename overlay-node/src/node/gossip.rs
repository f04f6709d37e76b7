//! What gossip says, turned into names and the data plane.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use overlay_core::NodeId;
use overlay_gossip::{
    Event as GossipEvent, Gossip, Keyring, Member, MemberState, Output as GossipOutput,
};

use super::{Event, Node, Output};
use crate::{
    agent,
    identity::cipher::Ciphers,
    manager::Manager,
    state::{NodeRecord, Secret},
};

impl Node {
    /// Starts gossip once its keys are known: never without.
    pub(super) fn start_gossip(&mut self) {
        if self.gossip.is_some() {
            return;
        }
        let Some(assignment) = self.agent.assignment() else {
            return;
        };
        let Some(keyring) = keyring(&assignment.standing.gossip_keys) else {
            return;
        };
        let timers = &self.config.timers;
        let advertise = (self.config.address, self.config.gossip_port).into();
        let mut config = overlay_gossip::Config::lan(self.config.node.to_string(), advertise);
        config.timing.probe_interval = timers.probe_interval;
        config.timing.probe_timeout = timers.probe_timeout;
        config.timing.suspicion_min = timers.suspicion_min;
        config.timing.suspicion_mult = 2;
        config.timing.gossip_interval = timers.gossip_interval;
        config.timing.push_pull_interval = timers.push_pull_interval;
        config.timing.sync_interval = timers.sync_interval;
        config.meta = self.meta();
        config.keyring = Some(keyring);
        config.verifier = Some(Arc::new(assignment.standing.lease_key));
        let seeds: Vec<_> = assignment
            .standing
            .managers
            .iter()
            .filter(|manager| manager.node != self.config.node)
            .map(|manager| manager.gossip)
            .collect();
        let networks: Vec<_> = assignment
            .networks
            .iter()
            .map(|network| network.id)
            .collect();
        let Ok(mut gossip) = Gossip::new(config, self.seed.derive("gossip"), self.now) else {
            return;
        };
        gossip.join(self.now, &seeds);
        for network in networks {
            gossip.join_network(self.now, network);
        }
        self.gossip = Some(gossip);
    }

    /// Says in gossip whether this node takes management sessions: a node whose managers are all gone finds others by it.
    pub(super) fn tell_role(&mut self) {
        let (now, meta) = (self.now, self.meta());
        if let Some(gossip) = &mut self.gossip {
            // It is short enough.
            let _ = gossip.set_meta(now, meta);
        }
    }

    fn meta(&self) -> Vec<u8> {
        let mut meta = vec![META_VERSION];
        if let Some(manager) = &self.manager {
            meta.extend(self.config.management_port.to_be_bytes());
            if manager.epoch() > 0 {
                meta.extend(manager.epoch().to_be_bytes());
            }
        }
        meta
    }

    /// Turns to a node that speaks to this leader and that gossip takes for absent: after a restart a manager knows no
    /// member, and the others would look for it less and less often.
    pub(super) fn meet(&mut self, node: NodeId) {
        let address = self.state().and_then(|state| state.nodes().get(&node));
        let Some(address) = address.map(NodeRecord::gossip) else {
            return;
        };
        let now = self.now;
        self.gossip_do(|gossip| {
            let member = gossip.member(&node.to_string());
            if member.is_none_or(|member| member.state != MemberState::Alive) {
                gossip.join(now, &[address]);
            }
        });
    }

    pub(super) fn on_gossip(&mut self, output: GossipOutput) {
        match output {
            GossipOutput::Event(event) => self.on_gossip_event(event),
            output @ (GossipOutput::Datagram { .. }
            | GossipOutput::Dial { .. }
            | GossipOutput::StreamSend { .. }
            | GossipOutput::StreamClose { .. }) => {
                self.outputs.push_back(Output::Gossip(Box::new(output)));
            }
        }
    }

    /// Hands out the data plane if it changed.
    pub(super) fn settle_plane(&mut self) {
        if !std::mem::take(&mut self.plane_dirty) {
            return;
        }
        let gossip = self.gossip.as_ref();
        let rows = |network| match gossip {
            Some(gossip) => gossip.rows(network).map(|(_, row)| row).collect(),
            None => Vec::new(),
        };
        let members = |network| -> BTreeSet<IpAddr> {
            gossip.map_or_else(BTreeSet::new, |gossip| {
                gossip
                    .network_members(network)
                    .map(|member| member.address.ip())
                    .collect()
            })
        };
        let desired = self.agent.desired(rows, members);
        if *self.plane != desired {
            self.plane = Arc::new(desired);
            self.outputs
                .push_back(Output::Plane(Arc::clone(&self.plane)));
        }
    }

    fn on_gossip_event(&mut self, event: GossipEvent) {
        match event {
            GossipEvent::RowChanged {
                network,
                endpoint,
                row,
                ..
            } => {
                match row {
                    Some(row) => {
                        let records = agent::records(&row);
                        self.resolver
                            .set_records(self.now, network, endpoint, records);
                    }
                    None => self.resolver.remove_records(self.now, network, endpoint),
                }
                self.plane_dirty = true;
            }
            GossipEvent::MemberAlive(member) => self.member(&member, "alive"),
            GossipEvent::MemberUpdated(member) => self.member(&member, "updated"),
            GossipEvent::MemberSuspect { member, .. } => self.member(&member, "suspect"),
            GossipEvent::MemberRefuted(member) => self.member(&member, "refuted"),
            GossipEvent::MemberDown(member) => self.member(&member, "down"),
            GossipEvent::MemberLeft(member) => self.member(&member, "left"),
            GossipEvent::NetworkMemberJoined { .. } | GossipEvent::NetworkMemberLeft { .. } => {
                self.plane_dirty = true;
            }
            _ => {}
        }
    }

    fn member(&mut self, member: &Member, state: &'static str) {
        self.plane_dirty = true;
        let node = member.name.to_string();
        if let Ok(id) = node.parse() {
            let found = Manages::read(member);
            self.session
                .find(self.now, id, found.map(|found| found.address));
            let own = self.manager.as_ref().map(Manager::epoch);
            let later = own.zip(found).is_some_and(|(own, found)| found.epoch > own);
            if !later {
                self.rebuilt.remove(&id);
            } else if self.rebuilt.len() < REBUILT_MAX {
                self.rebuilt.insert(id);
            }
        }
        self.outputs
            .push_back(Output::Event(Event::Member { node, state }));
    }
}

/// What a member that is a manager says of itself. Whoever dials it checks its certificate.
#[derive(Clone, Copy)]
struct Manages {
    /// Where it takes management sessions.
    address: SocketAddr,
    /// How often the cluster was rebuilt from a survivor.
    epoch: u64,
}

impl Manages {
    /// Reads what an alive member says, `None` if it is no manager.
    fn read(member: &Member) -> Option<Self> {
        let [META_VERSION, high, low, rest @ ..] = &*member.meta else {
            return None;
        };
        let epoch = match rest {
            [] => 0,
            rest => u64::from_be_bytes(rest.try_into().ok()?),
        };
        let port = u16::from_be_bytes([*high, *low]);
        let address = SocketAddr::new(member.address.ip(), port);
        (member.state == MemberState::Alive).then_some(Self { address, epoch })
    }
}

/// Of what a member says of itself in gossip.
const META_VERSION: u8 = 1;
/// How many managers of a later group are asked at the most.
const REBUILT_MAX: usize = 8;

/// Makes the ring: all keys open, the second oldest seals (the oldest if there is one only), as in Docker.
fn keyring(keys: &[Secret<16>]) -> Option<Keyring> {
    let primary = keys.get(1).or_else(|| keys.first())?;
    let mut ring = Keyring::new(Arc::new(Ciphers), primary.expose()).ok()?;
    for key in keys {
        ring.install(key.expose()).ok()?;
    }
    Some(ring)
}
