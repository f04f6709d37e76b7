//! A cluster of simulated hosts, and what a test does with it.

use std::{collections::BTreeSet, net::IpAddr, ops::Range, time::Duration};

use overlay_core::{EndpointId, Instant, Seed, plane::Namespace};
use overlay_sim::{HostId, NetworkConfig, World};

use super::{check::History, host::SimHost};
use crate::{
    Reply, Timers,
    api::{self, AttachRequest, EndpointInfo, ErrorKind, NetworkInfo, Request, Response, Role},
    state::Secret,
    stub,
};

/// How a simulated cluster is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything random comes from it.
    pub seed: Seed,
    /// How many hosts there are. The first makes the cluster, the others join.
    pub hosts: usize,
    /// How many of the first hosts are managers.
    pub managers: usize,
    /// Timers of the nodes.
    pub timers: Timers,
    /// The underlay.
    pub network: NetworkConfig,
    /// How long a write to disk takes.
    pub write_delay: Range<Duration>,
    /// How many commands are applied between snapshots.
    pub snapshot_interval: u64,
}

impl Options {
    /// Makes options for `hosts` hosts, all of them managers up to five.
    pub fn new(seed: Seed, hosts: usize) -> Self {
        Self {
            seed,
            hosts,
            managers: hosts.min(5),
            timers: Timers {
                orphan_grace: Duration::from_secs(3),
                ..Timers::prompt()
            },
            network: NetworkConfig::default(),
            write_delay: Duration::from_micros(100)..Duration::from_millis(2),
            snapshot_interval: 50,
        }
    }

    pub(super) fn token(&self) -> Secret<16> {
        Secret::random(&mut self.seed.derive("token").rng())
    }

    pub(super) fn role(&self, host: HostId) -> Role {
        if host.0 < self.managers {
            Role::Manager
        } else {
            Role::Worker
        }
    }
}

/// A cluster of simulated hosts.
#[derive(Debug)]
pub struct Cluster {
    world: World<SimHost>,
    options: Options,
    sequence: u16,
    pub(super) history: History,
}

impl Cluster {
    /// Makes the hosts; the first makes the cluster and the others join as soon as time passes.
    pub fn new(options: Options) -> Self {
        let mut world = World::new(options.seed.derive("world"), options.network.clone());
        for _ in 0..options.hosts {
            let options = options.clone();
            world.add(move |boot| SimHost::boot(&options, boot));
        }
        Self {
            world,
            options,
            sequence: 0,
            history: History::default(),
        }
    }

    /// Returns the world, for faults.
    pub fn world(&mut self) -> &mut World<SimHost> {
        &mut self.world
    }

    /// Returns the options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Returns the time.
    pub fn now(&self) -> Instant {
        self.world.now()
    }

    /// Lets time pass.
    pub fn run_for(&mut self, duration: Duration) {
        self.world.run_for(duration);
    }

    /// Lets time pass until every host is part of the cluster, one leads, and all managers vote and have applied the
    /// same; returns whether that came about within `limit`.
    pub fn settle(&mut self, limit: Duration) -> bool {
        let until = self.now() + limit;
        loop {
            if is_settled(&self.world, self.options.hosts) {
                return true;
            }
            if self.now() >= until {
                return false;
            }
            self.world.run_for(STEP);
        }
    }

    /// Describes each host in a line, for the message of a failed test.
    pub fn describe(&self) -> String {
        let describe = |(id, host): (HostId, &SimHost)| {
            let Some(node) = host.node() else {
                return format!("{id}: joining");
            };
            let raft = node.raft().map(|raft| {
                let (voters, learners) = (raft.membership().voters(), raft.membership().learners());
                format!(
                    "{} {:?} term {} commit {} last {} durable {} voters {:?} learners {:?} followers {:?}",
                    raft.id(),
                    raft.role(),
                    raft.term(),
                    raft.commit(),
                    raft.last_index(),
                    raft.durable(),
                    voters.collect::<Vec<_>>(),
                    learners.collect::<Vec<_>>(),
                    raft.followers().collect::<Vec<_>>()
                )
            });
            let applied = node.state().map(crate::state::ClusterState::applied);
            let members: Vec<_> = node
                .gossip()
                .into_iter()
                .flat_map(overlay_gossip::Gossip::members)
                .map(|member| {
                    let name = member.name.get(..8).unwrap_or_default();
                    format!("{name} {:?} {}", member.state, member.address)
                })
                .collect();
            let networks = node
                .assignment()
                .into_iter()
                .flat_map(|assignment| &assignment.networks);
            let rows: Vec<_> = networks
                .filter_map(|network| Some((network, node.gossip()?)))
                .map(|(network, gossip)| {
                    let rows = gossip.rows(network.id).count();
                    let others = gossip.network_members(network.id).count();
                    let digest = gossip.table_digest(network.id);
                    format!("{}: {rows} from {others}, {digest:x}", network.name)
                })
                .collect();
            let record = self.leader_state().and_then(|state| {
                let record = state.nodes().get(&node.config().node)?;
                Some((record.role, record.raft))
            });
            format!(
                "{id} ({}) with leader {:?}: {raft:?}, for the leader {record:?}, applied {applied:?}, members {members:?}, rows {rows:?}",
                node.config().node,
                node.leader(),
            )
        };
        self.world
            .machines()
            .map(describe)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Returns the host that leads, if one does and no other.
    pub fn leader(&self) -> Option<usize> {
        let mut leaders = self
            .world
            .machines()
            .filter(|(_, host)| host.node().is_some_and(crate::Node::leads))
            .map(|(id, _)| id.0);
        let leader = leaders.next();
        leaders.next().map_or(leader, |_| None)
    }

    /// Asks a host and lets time pass until it answers.
    ///
    /// # Errors
    ///
    /// What the host answered, or that it did not within 20 virtual seconds.
    pub fn ask(&mut self, host: usize, request: Request) -> Result<Response, api::Error> {
        let silent = || {
            api::Error::new(
                ErrorKind::Unavailable,
                format!("host {host} did not answer"),
            )
        };
        let id = HostId(host);
        let token = self
            .world
            .with(id, |host, now| host.request(now, request))
            .flatten();
        let token = token.ok_or_else(silent)?;
        let answered =
            |world: &World<SimHost>| world.host(id).is_none_or(|host| host.has_reply(token));
        self.world.run_until(Duration::from_secs(20), answered);
        match self
            .world
            .with(id, |host, _| host.take_reply(token))
            .flatten()
        {
            Some(Ok(Reply::Api(response))) => Ok(response),
            Some(Ok(Reply::Admitted(_))) => Ok(Response::Done),
            Some(Err(error)) => Err(error),
            None => Err(silent()),
        }
    }

    /// Creates an attachable network.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn create_network(&mut self, host: usize, name: &str) -> Result<NetworkInfo, api::Error> {
        let spec = api::NetworkCreate {
            name: name.to_owned(),
            attachable: true,
            ..api::NetworkCreate::default()
        };
        match self.ask(host, Request::NetworkCreate(spec))? {
            Response::Networks(mut networks) if !networks.is_empty() => Ok(networks.remove(0)),
            other => Err(unexpected(&other)),
        }
    }

    /// Attaches an endpoint.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn attach(
        &mut self,
        host: usize,
        network: &str,
        name: &str,
    ) -> Result<EndpointInfo, api::Error> {
        let attach = AttachRequest {
            network: network.to_owned(),
            name: name.to_owned(),
            aliases: Vec::new(),
            addresses: Vec::new(),
            namespace: Namespace::InProcess,
            endpoint: None,
        };
        match self.ask(host, Request::Attach(attach))? {
            Response::Endpoints(mut endpoints) if !endpoints.is_empty() => Ok(endpoints.remove(0)),
            other => Err(unexpected(&other)),
        }
    }

    /// Resolves a name as an endpoint would; empty if there is no such address.
    pub fn resolve(&mut self, host: usize, endpoint: EndpointId, name: &str) -> Vec<IpAddr> {
        self.sequence = self.sequence.wrapping_add(1);
        let Some(query) = stub::query(self.sequence, name) else {
            return Vec::new();
        };
        let answer = self.query(host, endpoint, &query);
        answer
            .map(|answer| stub::addresses(&answer))
            .unwrap_or_default()
    }

    /// Puts a DNS message to an endpoint's resolver and returns the answer, if there is one at once.
    pub fn query(&mut self, host: usize, endpoint: EndpointId, message: &[u8]) -> Option<Vec<u8>> {
        let id = HostId(host);
        self.world.with(id, |host, now| {
            while host.take_answer().is_some() {}
            host.query(now, endpoint, message);
        });
        self.world.with(id, |host, _| host.take_answer()).flatten()
    }

    /// Sends up to three echo requests, a second each, and returns whether one was answered.
    pub fn ping(&mut self, host: usize, from: EndpointId, to: IpAddr) -> bool {
        let IpAddr::V4(to) = to else { return false };
        let id = HostId(host);
        (0..3).any(|_| {
            self.sequence = self.sequence.wrapping_add(1);
            let sequence = self.sequence;
            self.world.with(id, |host, now| {
                while host.take_echo().is_some() {}
                host.ping(now, from, to, sequence);
            });
            let echoed = |world: &World<SimHost>| world.host(id).is_some_and(SimHost::has_echo);
            self.world.run_until(Duration::from_secs(1), echoed);
            let echo = self.world.with(id, |host, _| host.take_echo()).flatten();
            echo.is_some_and(|echo| echo.from == to && echo.sequence == sequence)
        })
    }

    /// Removes the nodes that no host is: of joins that were never finished.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn remove_strangers(&mut self) -> Result<usize, api::Error> {
        let own: BTreeSet<_> = self
            .world
            .machines()
            .filter_map(|(_, host)| Some(host.node()?.config().node))
            .collect();
        let strangers: Vec<_> = self.nodes().difference(&own).copied().collect();
        let Some(leader) = self.leader() else {
            return Ok(0);
        };
        for node in &strangers {
            let node = node.to_string();
            self.ask(leader, Request::NodeRemove { node, force: true })?;
        }
        Ok(strangers.len())
    }

    pub(super) fn hosts(&self) -> &World<SimHost> {
        &self.world
    }
}

fn is_settled(world: &World<SimHost>, hosts: usize) -> bool {
    let nodes = || world.machines().filter_map(|(_, host)| host.node());
    if nodes().count() != hosts {
        return false;
    }
    let Some((leader, state, raft)) = nodes()
        .find(|node| node.leads())
        .and_then(|leader| Some((leader, leader.state()?, leader.raft()?)))
    else {
        return false;
    };
    // What the leader's state says of the hosts' nodes; others are of joins that were never finished.
    let records: Vec<_> = nodes()
        .filter_map(|node| state.nodes().get(&node.config().node))
        .collect();
    let wanted: BTreeSet<_> = records.iter().filter_map(|record| record.raft).collect();
    records.len() == hosts
        && raft.membership().voters().collect::<BTreeSet<_>>() == wanted
        && nodes().zip(&records).all(|(node, record)| {
            node.raft().map(overlay_raft::Raft::id) == record.raft
                && node.leader() == Some(leader.config().node)
                && node
                    .state()
                    .is_none_or(|applied| applied.applied() == state.applied())
        })
        && nodes().all(|node| {
            node.gossip()
                .is_some_and(|gossip| gossip.members().count() >= hosts)
        })
}

fn unexpected(response: &Response) -> api::Error {
    api::Error::new(
        ErrorKind::Invalid,
        format!("the host answered {response:?}"),
    )
}

/// How often a cluster that is to settle is looked at.
const STEP: Duration = Duration::from_millis(20);
