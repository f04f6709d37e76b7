//! The balancer: virtual addresses, backends, flows.

mod commands;
pub(crate) mod track;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use overlay_core::{Instant, Machine, Seed};

pub use self::commands::{BackendError, VipError};

use crate::{
    Backend, BackendId, BackendState, Config, ConfigError, Vip, VipConfig,
    addresses::Addresses,
    affinity::Affinities,
    flows::{Flows, Packed},
    fragments::Fragments,
    frame::answer::ANSWER_BYTES_MAX,
    held::Held,
    openings::Openings,
    reset::Reset,
    service::{Member, Service},
};

/// Chooses backends for flows, keeps to the choice, and rewrites frames accordingly.
///
/// A machine (see [`Machine`]): time comes in with each call, resets and events go out by
/// [`poll_output`](Machine::poll_output).
#[derive(Debug)]
pub struct Balancer {
    config: Config,
    now: Instant,
    /// Until then backends may be missing.
    settled_at: Instant,
    services: BTreeMap<Vip, Service>,
    /// All backends, by the numbers that flows refer to.
    members: Vec<Option<Member>>,
    free: Vec<u32>,
    /// The addresses of the services.
    pub(crate) addresses: Addresses,
    pub(crate) flows: Flows,
    pub(crate) fragments: Fragments,
    pub(crate) held: Held,
    pub(crate) openings: Openings,
    /// The frame that answers the last one.
    pub(crate) answer: Vec<u8>,
    affinities: Affinities,
    outputs: VecDeque<Output>,
    /// How many of the outputs are resets.
    resets: u32,
    pub(crate) stats: Stats,
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
            settled_at: Instant::EPOCH,
            services: BTreeMap::new(),
            members: Vec::new(),
            free: Vec::new(),
            addresses: Addresses::new(&seed.derive("addresses")),
            flows: Flows::new(&seed.derive("flows"), config.timeouts, config.flows_max),
            fragments: Fragments::new(&seed.derive("fragments"), config.fragments_max),
            held: Held::new(&config),
            openings: Openings::new(&config),
            answer: Vec::with_capacity(ANSWER_BYTES_MAX),
            affinities: Affinities::new(config.affinities_max),
            outputs: VecDeque::new(),
            resets: 0,
            stats: Stats::default(),
            config,
        })
    }

    /// Says whether all backends are known; see [`settle_until`](Self::settle_until).
    pub(crate) fn is_settled(&self) -> bool {
        self.now >= self.settled_at
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

    /// Returns how many flows to a backend are left at all virtual addresses; `None` while one of them still gives it new
    /// ones, that is, before the word that it drains has come. What a member answers to [`DrainOutput::Ask`].
    ///
    /// [`DrainOutput::Ask`]: crate::DrainOutput::Ask
    pub fn flows_left(&self, backend: BackendId) -> Option<u32> {
        let groups = self
            .services
            .values()
            .filter_map(|service| service.groups.get(&backend));
        let left = |sum: u32, group: &u32| {
            let active = self.member(*group)?.backend.state == BackendState::Active;
            (!active).then(|| sum.saturating_add(self.flows.live(*group)))
        };
        groups.into_iter().try_fold(0, left)
    }

    /// Returns the counters.
    pub fn stats(&self) -> Stats {
        Stats {
            flows: self.flows.len(),
            affinities: self.affinities.len(),
            fragments_held: self.held.len(),
            ..self.stats
        }
    }

    /// Gives back what was held of a packet whose first fragment has come.
    pub(crate) fn release(&mut self, packet: &Packed) {
        while let Some(bytes) = self.held.take(packet) {
            self.outputs.push_back(Output::Released(bytes));
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn member(&self, group: u32) -> Option<&Member> {
        self.members.get(group as usize)?.as_ref()
    }
}

impl Machine for Balancer {
    type Output = Output;

    fn handle_timeout(&mut self, now: Instant) {
        self.pass(now);
        self.stats.fragments_expired += self.held.expire(self.now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.outputs.is_empty() {
            let due = self.flows.next_due().map(|(deadline, _)| deadline);
            due.into_iter().chain(self.held.deadline()).min()
        } else {
            Some(self.now)
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front()?;
        match &output {
            Output::Released(bytes) => self.held.polled(bytes),
            Output::Reset(_) => self.resets -= 1,
            Output::Retried(_) | Output::Event(_) => {}
        }
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
        /// Whom it is to take for its client, so that it tells this flow from all others: the client, but for a client
        /// that is itself the backend, which cannot talk to its own address, and for a port that another flow of the
        /// client to this backend already has.
        source: SocketAddr,
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
    /// So many flows of the client to this backend have the same port that none was found for another.
    NoPort,
}

/// What the balancer asks its driver to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Take this frame to [`Balancer::handle_outbound`] again, as from the endpoint that sent it: the first fragment of its
    /// packet has come since [`Verdict::Held`](crate::Verdict::Held).
    Released(Box<[u8]>),
    /// Take this frame to [`Balancer::handle_outbound`] again, as from the endpoint that sent it: the first segment of a
    /// connection, which a backend has refused; it goes to another one. See
    /// [`Config::openings_max`](crate::Config::openings_max).
    Retried(Box<[u8]>),
    /// Reset both ends of a TCP connection that the balancer forgets.
    Reset(Reset),
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
    /// Connections that went to another backend because one refused them or said nothing.
    pub retried: u64,
    /// Flows forgotten because their time was over.
    pub expired: u64,
    /// Flows forgotten to make room.
    pub evicted: u64,
    /// Flows forgotten with their backend.
    pub cut: u64,
    /// Resets that were not queued because too many waited.
    pub resets_lost: u64,
    /// Fragments that are held now.
    pub fragments_held: usize,
    /// Fragments that were held for so long that they were dropped.
    pub fragments_expired: u64,
}
