//! The lives of a simulated host: what its disk holds, how it begins, joins and leaves.

use std::{net::SocketAddr, time::Duration};

use overlay_core::{Disk as _, DiskError, NodeId, plane::Namespace};
use overlay_raft::{
    RaftId,
    storage::{Log, StorageConfig},
};
use overlay_sim::{Channel, HostId, SimDisk};
use serde::{Deserialize, Serialize};

use super::{super::packet::Packet, Effect, INIT, SimHost, traffic::address};
use crate::{
    Beginning, Boot as NodeBoot, Config, ManagerBoot, Node, RequestToken,
    agent::{AgentMemory, Assignment},
    api::Role,
    state::{AddNode, ClusterSeed, Secret},
};

/// Who a host is, as its disk holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) node: NodeId,
    cluster: NodeId,
    epoch: u64,
    pub(super) raft: Option<RaftId>,
    seeds: Vec<(NodeId, SocketAddr)>,
}

impl SimHost {
    pub(super) fn initialize(&mut self) {
        let config = self.config(self.drawn);
        let mut rng = self.options.seed.derive("cluster").rng();
        let mut first = ClusterSeed::generate(&mut rng, &config, String::new(), String::new());
        // Every life of the first host makes the same cluster until it is on its disk.
        first.worker_token = self.options.token();
        let raft = RaftId::new(1).expect("one is not zero");
        let identity = Identity {
            node: self.drawn,
            cluster: first.id,
            epoch: 0,
            raft: Some(raft),
            seeds: Vec::new(),
        };
        if self.clear_log().is_err() {
            return self.effects.push_back(Effect::Exit);
        }
        self.start(identity, Beginning::Found);
        if let Some(node) = &mut self.node {
            node.initialize(self.now, RequestToken(INIT), first);
        }
    }

    /// Removes a file; returns whether it is gone for good.
    pub(super) fn forget(&mut self, name: &str) -> bool {
        self.disk.remove(name).is_ok() && self.disk.sync_directory().is_ok()
    }

    pub(super) fn start(&mut self, mut identity: Identity, beginning: Beginning) {
        let manager = match identity.raft {
            None => None,
            Some(raft) => {
                let opened = Log::open(self.disk.clone(), StorageConfig::default());
                let Ok((log, found)) = opened else {
                    return self.effects.push_back(Effect::Exit);
                };
                self.log = Some(log);
                let boot =
                    ManagerBoot::new(raft, identity.cluster, identity.epoch, found, beginning);
                identity.epoch = boot.epoch;
                Some(boot)
            }
        };
        let memory = read(&self.disk, MEMORY).unwrap_or_default();
        let boot = NodeBoot {
            memory,
            manager,
            seeds: identity.seeds.clone(),
        };
        let config = self.config(identity.node);
        match Node::new(config, self.seed.derive("node"), self.now, boot) {
            Ok(node) => self.node = Some(node),
            // What the disk holds contradicts itself: a host that never comes up fails every test.
            Err(_) => return self.effects.push_back(Effect::Exit),
        }
        self.identity = Some(identity);
    }

    pub(super) fn config(&self, node: NodeId) -> Config {
        let mut config = Config::new(node, format!("host{}", self.host.0), address(self.host));
        let key = self.options.seed.derive(&format!("key of {node}"));
        config.key = Secret::random(&mut key.rng());
        // Time never goes back here.
        config.life = self.now.as_nanos();
        config.timers = self.options.timers;
        config.snapshot_interval = self.options.snapshot_interval;
        config.task_namespace = Namespace::InProcess;
        config
    }

    pub(super) fn save<T: Serialize>(&mut self, name: &str, value: &T) -> bool {
        let bytes = postcard::to_allocvec(value).expect("every part serializes");
        let new = format!("{name}.new");
        let mut write = || -> Result<(), DiskError> {
            if self.disk.read(&new).is_ok() {
                self.disk.remove(&new)?;
            }
            self.disk.append(&new, &bytes)?;
            self.disk.sync(&new)?;
            self.disk.rename(&new, name)?;
            self.disk.sync_directory()
        };
        let written = write().is_ok();
        if !written {
            self.effects.push_back(Effect::Exit);
        }
        written
    }

    pub(super) fn clear_log(&mut self) -> Result<(), DiskError> {
        self.log = None;
        for name in self.disk.list()? {
            if ![IDENTITY, MEMORY, LEFT, RECOVER].contains(&&*name) {
                self.disk.remove(&name)?;
            }
        }
        self.disk.sync_directory()
    }

    pub(super) fn ask_to_join(&mut self) {
        self.join_at = Some(self.now + JOIN_RETRY);
        let node = AddNode::new(&self.config(self.drawn), Role::Worker);
        let node = AddNode {
            role: self.options.role(self.host),
            ..node
        };
        // Any host may answer; those that are no managers refuse.
        let to = HostId(self.join_tries % self.options.hosts.max(1));
        self.join_tries += 1;
        self.send(to, Channel::Stream, &Packet::Join(node));
    }

    pub(super) fn on_admitted(&mut self, assignment: Assignment) {
        if self.node.is_some() {
            return;
        }
        let node = self.drawn;
        let managers = assignment
            .standing
            .managers
            .iter()
            .filter(|manager| manager.node != node);
        let identity = Identity {
            node,
            cluster: assignment.cluster,
            epoch: assignment.epoch,
            raft: assignment.standing.raft,
            seeds: managers
                .map(|manager| (manager.node, manager.management))
                .collect(),
        };
        let memory = AgentMemory {
            assignment: Some(assignment),
            ..AgentMemory::default()
        };
        let cleared = self.clear_log().is_ok();
        if cleared && self.save(MEMORY, &memory) && self.save(IDENTITY, &identity) {
            self.join_at = None;
            self.start(identity, Beginning::Resume);
        } else {
            self.effects.push_back(Effect::Exit);
        }
    }

    /// Forgets the cluster, as a daemon does that left it, and begins anew.
    pub(super) fn leave(&mut self) {
        self.log = None;
        let mut forget = || -> Result<(), DiskError> {
            // In this order: a host that forgot half of it goes on as a stranger, never as its former self.
            if self.disk.read(LEFT).is_err() {
                self.disk.append(LEFT, b"left")?;
                self.disk.sync(LEFT)?;
            }
            for name in [IDENTITY, MEMORY] {
                if self.disk.read(name).is_ok() {
                    self.disk.remove(name)?;
                }
            }
            self.disk.sync_directory()
        };
        // Whether or not it worked: the next life goes on with what there is.
        let _ = forget();
        self.effects.push_back(Effect::Exit);
    }

    pub(super) fn change_log(&mut self, part: Option<(RaftId, u64)>) {
        let Some(mut identity) = self.identity.clone() else {
            return;
        };
        identity.raft = part.map(|(raft, _)| raft);
        identity.epoch = part.map_or(identity.epoch, |(_, epoch)| epoch);
        let raft = identity.raft;
        // A log that is there belongs to the identity: without one it is emptied, with one it is filled.
        let changed = match raft {
            Some(_) => self.clear_log().is_ok() && self.save(IDENTITY, &identity),
            None => self.save(IDENTITY, &identity) && self.clear_log().is_ok(),
        };
        if !changed {
            return self.effects.push_back(Effect::Exit);
        }
        self.identity = Some(identity);
        if raft.is_some() {
            match Log::open(self.disk.clone(), StorageConfig::default()) {
                Ok((log, _)) => self.log = Some(log),
                Err(_) => self.effects.push_back(Effect::Exit),
            }
        }
    }
}

pub(super) fn read<T: for<'a> Deserialize<'a>>(disk: &SimDisk, name: &str) -> Option<T> {
    let bytes = disk.read(name).ok()?;
    Some(postcard::from_bytes(&bytes).expect("a file that was renamed into place is whole"))
}

pub(super) const IDENTITY: &str = "identity";
pub(super) const MEMORY: &str = "agent";
pub(super) const LEFT: &str = "left";
/// It is there while the next life is to rebuild the cluster.
pub(super) const RECOVER: &str = "recover";
/// How long a host waits before it asks again to join.
const JOIN_RETRY: Duration = Duration::from_millis(500);
