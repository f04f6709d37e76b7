//! What gossip says, turned into names and the data plane.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use overlay_core::NodeId;
use overlay_gossip::{
    Event as GossipEvent, Gossip, Keyring, Member, MemberState, Output as GossipOutput,
};

use super::{Event, Node, Output};
use crate::{
    agent::{self, Zone},
    identity::cipher::Ciphers,
    manager::Manager,
    state::{NodeRecord, Secret, SharedKeys},
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
        if let Some(gossip) = &mut self.gossip {
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

    fn meta(&self) -> Vec<u8> {
        let standing = self.agent.assignment().map(|all| &all.standing);
        let said = Said {
            management_port: self.manager.as_ref().map(|_| self.config.management_port),
            epoch: self.manager.as_ref().map_or(0, Manager::epoch),
            zone: standing
                .map(|standing| standing.zone.clone())
                .unwrap_or_default(),
        };
        said.encode()
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
        let desired = self.agent.desired(rows, members);
        if *self.plane != desired {
            self.plane = Arc::new(desired);
            self.ordered += 1;
            self.outputs.push_back(Output::Plane {
                number: self.ordered,
                desired: Arc::clone(&self.plane),
            });
        }
        let (now, services) = (self.now, self.agent.service_names());
        for (network, service, records) in agent::changes(&self.services, &services) {
            match records {
                Some(records) => self.resolver.set_service(now, network, service, records),
                None => self.resolver.remove_service(now, network, service),
            }
        }
        self.services = services;
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

    fn member(&mut self, member: &Member, state: &'static str) {
        self.plane_dirty = true;
        let node = member.name.to_string();
        if let Ok(id) = node.parse() {
            let found = Said::of_manager(member);
            self.session
                .find(self.now, id, found.map(|(address, _)| address));
            let own = self.manager.as_ref().map(Manager::epoch);
            let later = own.zip(found).is_some_and(|(own, (_, epoch))| epoch > own);
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

/// What a member says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    /// Where it takes management sessions, if it is a manager. Whoever dials it checks its certificate.
    management_port: Option<u16>,
    /// How often the cluster was rebuilt from a survivor.
    epoch: u64,
    /// The zone that it is in, empty for none.
    zone: Zone,
}

impl Said {
    fn encode(&self) -> Vec<u8> {
        let mut meta = vec![META_VERSION];
        meta.extend(self.management_port.unwrap_or_default().to_be_bytes());
        meta.extend(self.epoch.to_be_bytes());
        meta.extend(self.zone.bytes());
        meta
    }

    /// Reads what a member says: nothing if it is of another version.
    fn read(meta: &[u8]) -> Self {
        let Some((&[META_VERSION, p0, p1, ref epoch @ ..], zone)) = meta.split_first_chunk::<11>()
        else {
            return Self::default();
        };
        let port = u16::from_be_bytes([p0, p1]);
        Self {
            management_port: (port != 0).then_some(port),
            epoch: u64::from_be_bytes(*epoch),
            zone: String::from_utf8_lossy(zone).into_owned(),
        }
    }

    /// Reads what an alive manager says, and where it is reached.
    fn of_manager(member: &Member) -> Option<(SocketAddr, u64)> {
        let said = Self::read(&member.meta);
        let address = SocketAddr::new(member.address.ip(), said.management_port?);
        (member.state == MemberState::Alive).then_some((address, said.epoch))
    }
}

/// Of what a member says of itself in gossip.
const META_VERSION: u8 = 2;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_says_of_itself_is_read_back() {
        for (port, epoch, zone) in [
            (None, 0, ""),
            (Some(2_377), 0, ""),
            (Some(1), u64::MAX, "north-1"),
            (None, 7, "süd"),
        ] {
            let said = Said {
                management_port: port,
                epoch,
                zone: zone.to_owned(),
            };
            let meta = said.encode();
            assert_eq!(Said::read(&meta), said);
            for short in 0..11 {
                assert_eq!(Said::read(&meta[..short]), Said::default());
            }
        }
        let mut other = Said::default().encode();
        other[0] = 1;
        other.extend(b"zone");
        assert_eq!(Said::read(&other), Said::default(), "of another version");
    }
}
