//! The balancer: virtual addresses, backends, flows.

mod commands;
mod track;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use overlay_core::{Instant, Machine, Seed};

pub use self::commands::{BackendError, VipError};

use crate::{
    Backend, BackendId, Config, ConfigError, FlowKey, Vip, VipConfig,
    affinity::Affinities,
    flows::Flows,
    service::{Member, Service},
};

/// Chooses backends for flows and keeps to the choice.
///
/// A machine (see [`Machine`]): time comes in with each call, resets and events go out by
/// [`poll_output`](Machine::poll_output).
#[derive(Debug)]
pub struct Balancer {
    config: Config,
    now: Instant,
    services: BTreeMap<Vip, Service>,
    /// All backends, by the numbers that flows refer to.
    members: Vec<Option<Member>>,
    free: Vec<u32>,
    flows: Flows,
    affinities: Affinities,
    outputs: VecDeque<Output>,
    /// How many of the outputs are resets.
    resets: u32,
    stats: Stats,
}

impl Balancer {
    /// Makes a balancer without virtual addresses. The seed keeps senders from filling one place of the flow table; it
    /// has no influence on any choice.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn new(config: Config, seed: &Seed, now: Instant) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            now,
            services: BTreeMap::new(),
            members: Vec::new(),
            free: Vec::new(),
            flows: Flows::new(&seed.derive("flows")),
            affinities: Affinities::new(config.affinities_max),
            outputs: VecDeque::new(),
            resets: 0,
            stats: Stats::default(),
            config,
        })
    }

    /// Returns the virtual addresses.
    pub fn vips(&self) -> impl Iterator<Item = (Vip, VipConfig)> + '_ {
        self.services
            .iter()
            .map(|(vip, service)| (*vip, service.config))
    }

    /// Returns the backends of a virtual address, in the order of their identities.
    pub fn backends(&self, vip: Vip) -> impl Iterator<Item = Backend> + '_ {
        let groups = self
            .services
            .get(&vip)
            .into_iter()
            .flat_map(|service| service.groups.values());
        groups.filter_map(|group| Some(self.member(*group)?.backend))
    }

    /// Returns how many flows of a backend have not ended; `None` if it is not known.
    pub fn flows(&self, vip: Vip, backend: BackendId) -> Option<u32> {
        let group = self.services.get(&vip)?.groups.get(&backend)?;
        Some(self.flows.live(*group))
    }

    /// Returns the counters.
    pub fn stats(&self) -> Stats {
        Stats {
            flows: self.flows.len(),
            affinities: self.affinities.len(),
            ..self.stats
        }
    }

    fn member(&self, group: u32) -> Option<&Member> {
        self.members.get(group as usize)?.as_ref()
    }
}

impl Machine for Balancer {
    type Output = Output;

    fn handle_timeout(&mut self, now: Instant) {
        self.pass(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.outputs.is_empty() {
            let due = self.flows.next_due(&self.config.timeouts);
            due.map(|(deadline, _)| deadline)
        } else {
            Some(self.now)
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front()?;
        self.resets -= u32::from(matches!(output, Output::Reset { .. }));
        Some(output)
    }
}

/// Where a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// To a backend.
    Backend {
        /// Which one.
        id: BackendId,
        /// Where it listens.
        address: SocketAddr,
    },
    /// Nowhere.
    Reject(Reject),
}

/// Why a flow goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reject {
    /// There is no such virtual address: not the balancer's business.
    UnknownVip,
    /// No backend takes flows: answer with a reset or with port unreachable, so that the client need not wait.
    NoBackend,
    /// A segment of a connection that nobody here knows, and whose backend cannot be told: answer with a reset, unless
    /// it is one itself.
    UnknownFlow,
}

/// What the balancer asks its driver to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Reset both ends of a TCP connection that the balancer forgets.
    Reset {
        /// The connection as the client sees it.
        flow: FlowKey,
        /// The backend.
        backend: BackendId,
        /// Where it listens.
        address: SocketAddr,
    },
    /// Something that the embedder may want to know.
    Event(Event),
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The last flow of a draining backend has ended.
    Drained {
        /// The virtual address.
        vip: Vip,
        /// The backend.
        backend: BackendId,
    },
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Flows that are tracked now.
    pub flows: usize,
    /// Clients whose backend is remembered now.
    pub affinities: usize,
    /// Flows that got a backend.
    pub chosen: u64,
    /// Packets that got none.
    pub rejected: u64,
    /// Flows forgotten because their time was over.
    pub expired: u64,
    /// Flows forgotten to make room.
    pub evicted: u64,
    /// Flows forgotten with their backend.
    pub cut: u64,
    /// Resets that were not queued because too many waited.
    pub resets_lost: u64,
}
