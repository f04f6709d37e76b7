//! What gossip says, turned into names and the data plane.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use overlay_core::{NodeId, plane::PeerKeys};
use overlay_gossip::{
    Event as GossipEvent, Gossip, Keyring, Member, MemberState, Output as GossipOutput,
};

use super::{Event, Node, Output};
use crate::{
    agent::{self, Zone},
    identity::{Claims, Generation, Said, Signer, cipher::Ciphers},
    manager::Manager,
    state::{NodeRecord, Secret, SharedKeys},
};

impl Node {
    /// Starts gossip once its keys are known: never without.
    pub(super) fn start_gossip(&mut self) {
        if self.gossip.is_some() {
            return;
        }
        let Some(meta) = self.meta() else {
            return;
        };
        let Some(assignment) = self.agent.assignment() else {
            return;
        };
        let Some(keyring) = keyring(&assignment.standing.keys) else {
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
        config.meta = meta;
        config.keyring = Some(keyring);
        config.verifier = Some(Arc::new(assignment.standing.lease_key));
        config.member_verifier = Some(Arc::new(Claims {
            cluster: assignment.cluster,
            managers: assignment.standing.lease_key,
        }));
        let seeds: Vec<_> = assignment
            .standing
            .managers
            .iter()
            .filter(|manager| manager.node != self.config.node)
            .map(|manager| manager.gossip)
            .collect();
        let networks: Vec<_> = self.agent.carried().map(|network| network.id).collect();
        let Ok(mut gossip) = Gossip::new(config, self.seed.derive("gossip"), self.now) else {
            return;
        };
        gossip.join(self.now, &seeds);
        for network in networks {
            gossip.join_network(self.now, network);
        }
        self.gossip = Some(gossip);
    }

    /// Says in gossip whether this node takes management sessions, by which a node whose managers are all gone finds others,
    /// and its zone.
    pub(super) fn tell_standing(&mut self) {
        let (now, meta) = (self.now, self.meta());
        if let (Some(gossip), Some(meta)) = (&mut self.gossip, meta) {
            // It is short enough.
            let _ = gossip.set_meta(now, meta);
        }
    }

    /// Uses the shared keys of the assignment from here on.
    pub(super) fn take_keys(&mut self) {
        let Some(assignment) = self.agent.assignment() else {
            return;
        };
        let (now, keys) = (self.now, &assignment.standing.keys);
        let (Some(gossip), Some((_, sealing))) = (&mut self.gossip, keys.sealing()) else {
            return;
        };
        let all: Vec<_> = keys.gossip.iter().map(Secret::expose).collect();
        // They are keys: the state holds no others.
        let _ = gossip.set_keys(now, &all, sealing.expose());
    }

    /// Signs what this node says of itself, which is later than all that it has said before; nothing without a pass.
    fn meta(&mut self) -> Option<Vec<u8>> {
        let assignment = self.agent.assignment()?;
        let standing = &assignment.standing;
        let said = Said {
            management_port: self.manager.as_ref().map(|_| self.config.management_port),
            epoch: self.manager.as_ref().map_or(0, Manager::epoch),
            exchange: self.pairs.public(),
            zone: standing.zone.clone(),
        };
        self.said += 1;
        let signer = Signer {
            cluster: assignment.cluster,
            node: self.config.node,
            key: self.key.as_ref()?,
            pass: &standing.pass,
        };
        let generation = Generation {
            life: self.config.life,
            number: self.said,
        };
        let address = (self.config.address, self.config.gossip_port).into();
        Some(said.sign(&signer, address, generation))
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
        let members = |network| -> BTreeMap<IpAddr, Zone> {
            gossip.map_or_else(BTreeMap::new, |gossip| {
                let members = gossip.network_members(network);
                members
                    .map(|member| (member.address.ip(), Said::read(&member.meta).zone))
                    .collect()
            })
        };
        let mut desired = self.agent.desired(rows, members);
        desired.peers = self.peers();
        if *self.plane != desired {
            self.plane = Arc::new(desired);
            self.ordered += 1;
            self.outputs.push_back(Output::Plane {
                number: self.ordered,
                desired: Arc::clone(&self.plane),
            });
        }
        let (now, services) = (self.now, self.agent.service_names());
        self.names.set_policies(now, self.agent.carried());
        for (network, service, records) in agent::changes(&self.services, &services) {
            match records {
                Some(records) => self.names.set_service(now, network, service, records),
                None => self.names.remove_service(now, network, service),
            }
        }
        self.services = services;
    }

    /// Returns the keys with the members of encrypted networks, by their addresses.
    fn peers(&mut self) -> BTreeMap<IpAddr, PeerKeys> {
        let mut peers = BTreeMap::new();
        let (Some(assignment), Some(gossip)) = (self.agent.assignment(), &self.gossip) else {
            return peers;
        };
        let (cluster, own) = (assignment.cluster, self.config.node);
        let mut named = BTreeSet::new();
        for network in self.agent.carried().filter(|network| network.encrypted) {
            // Whoever says that it is on a network and has no endpoint there that a manager knows of gets no keys.
            let rows = gossip.rows(network.id);
            let leased: BTreeSet<_> = rows.map(|(_, row)| row.lease.node).collect();
            for member in gossip.network_members(network.id) {
                let Ok(node) = member.name.parse::<NodeId>() else {
                    continue;
                };
                if node == own || !leased.contains(&node) || !named.insert(node) {
                    continue;
                }
                let public = Said::read(&member.meta).exchange;
                let shared = &assignment.standing.keys;
                if let Some(keys) = self.pairs.keys(cluster, own, (node, public), shared) {
                    peers.insert(member.address.ip().to_canonical(), keys);
                }
            }
        }
        self.pairs.retain(|node| named.contains(&node));
        peers
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
                        self.names.set_records(self.now, network, endpoint, records);
                    }
                    None => self.names.remove_records(self.now, network, endpoint),
                }
                self.plane_dirty = true;
            }
            GossipEvent::MemberAlive(member) => self.member(&member, "alive"),
            GossipEvent::MemberUpdated(member) => self.member(&member, "updated"),
            GossipEvent::MemberSuspect { member, .. } => self.member(&member, "suspect"),
            GossipEvent::MemberRefuted(member) => self.member(&member, "refuted"),
            GossipEvent::MemberDown(member) => {
                self.on_member_gone(&member);
                self.member(&member, "down");
            }
            GossipEvent::MemberLeft(member) => {
                self.on_member_gone(&member);
                self.member(&member, "left");
            }
            GossipEvent::NetworkSynced { network } => self.agent.handle_synced(network),
            GossipEvent::UserMessage { bytes, .. } => self.on_user_message(&bytes),
            GossipEvent::NetworkMemberJoined { .. } | GossipEvent::NetworkMemberLeft { .. } => {
                self.plane_dirty = true;
            }
            _ => {}
        }
    }

    /// Notes a manager of a group that came after this one's.
    pub(super) fn note_rebuilt(&mut self, node: NodeId) {
        if self.rebuilt.len() < REBUILT_MAX {
            self.rebuilt.insert(node);
        }
    }

    fn member(&mut self, member: &Member, state: &'static str) {
        self.plane_dirty = true;
        let node = member.name.to_string();
        if let Ok(id) = node.parse() {
            let found = manager_at(member);
            self.session
                .find(self.now, id, found.map(|(address, _)| address));
            let own = self.manager.as_ref().map(Manager::epoch);
            let later = own.zip(found).is_some_and(|(own, (_, epoch))| epoch > own);
            if !later {
                self.rebuilt.remove(&id);
            } else {
                self.note_rebuilt(id);
            }
        }
        self.outputs
            .push_back(Output::Event(Event::Member { node, state }));
    }
}

/// Returns where an alive manager is reached, and its epoch.
fn manager_at(member: &Member) -> Option<(SocketAddr, u64)> {
    let said = Said::read(&member.meta);
    let address = SocketAddr::new(member.address.ip(), said.management_port?);
    (member.state == MemberState::Alive).then_some((address, said.epoch))
}

/// How many managers of a later group are asked at the most.
const REBUILT_MAX: usize = 8;

/// Makes the ring: all keys open, the middle one seals.
fn keyring(keys: &SharedKeys) -> Option<Keyring> {
    let (_, sealing) = keys.sealing()?;
    let mut ring = Keyring::new(Arc::new(Ciphers), sealing.expose()).ok()?;
    for key in &keys.gossip {
        ring.install(key.expose()).ok()?;
    }
    Some(ring)
}
