//! The network between hosts: delay, loss, and paths that are cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use overlay_core::{Instant, Rng, Seed};

use crate::{Channel, FaultKind, HostId, Stats};

/// How a network treats what is sent over it.
///
/// Chances are in parts of a million, for each datagram on its own. Streams know only the delays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// How long a message usually travels. Default 100 µs to 1 ms.
    pub delay: Range<Duration>,
    /// Chance of a delay from [`tail_delay`](Self::tail_delay) instead. Default 0.
    pub tail_ppm: u32,
    /// The heavy tail of the delays. Default 10 ms to 500 ms.
    pub tail_delay: Range<Duration>,
    /// Chance that a datagram is lost. Default 0.
    pub loss_ppm: u32,
    /// Chance that a datagram arrives twice. Default 0.
    pub duplicate_ppm: u32,
    /// Chance that a datagram is held back by [`reorder_delay`](Self::reorder_delay), so that later ones overtake it.
    /// Default 0.
    pub reorder_ppm: u32,
    /// How long a reordered datagram is held back. Default 1 ms to 20 ms.
    pub reorder_delay: Range<Duration>,
    /// Chance that a copy of a datagram arrives much later, after [`replay_delay`](Self::replay_delay). Default 0.
    pub replay_ppm: u32,
    /// How late a replayed datagram is. Default 1 s to 120 s.
    pub replay_delay: Range<Duration>,
    /// Chance that one bit of a datagram is flipped. Default 0.
    pub flip_ppm: u32,
    /// Chance that a datagram is cut short. Default 0.
    pub truncate_ppm: u32,
    /// How long a sender waits before it gives up a stream whose path is cut. Default 1 s.
    pub stream_timeout: Duration,
    /// Datagrams of more octets vanish, as in an MTU black hole. Default `usize::MAX`.
    pub datagram_bytes_max: usize,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            delay: Duration::from_micros(100)..Duration::from_millis(1),
            tail_ppm: 0,
            tail_delay: Duration::from_millis(10)..Duration::from_millis(500),
            loss_ppm: 0,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            reorder_delay: Duration::from_millis(1)..Duration::from_millis(20),
            replay_ppm: 0,
            replay_delay: Duration::from_secs(1)..Duration::from_secs(120),
            flip_ppm: 0,
            truncate_ppm: 0,
            stream_timeout: Duration::from_secs(1),
            datagram_bytes_max: usize::MAX,
        }
    }
}

impl NetworkConfig {
    /// A local network in order: the default.
    pub fn lan() -> Self {
        Self::default()
    }

    /// Between continents: 20 ms to 80 ms, a tail, and a loss of 0.1 %.
    pub fn wan() -> Self {
        Self {
            delay: Duration::from_millis(20)..Duration::from_millis(80),
            tail_ppm: 10_000,
            loss_ppm: 1_000,
            ..Self::default()
        }
    }

    /// A bad local network: 5 % loss, 2 % duplicates, 5 % reordered, 1 % very late, 0.1 % replayed.
    pub fn lossy() -> Self {
        Self {
            delay: Duration::from_micros(100)..Duration::from_millis(5),
            tail_ppm: 10_000,
            loss_ppm: 50_000,
            duplicate_ppm: 20_000,
            reorder_ppm: 50_000,
            replay_ppm: 1_000,
            ..Self::default()
        }
    }
}

/// The paths between all hosts.
#[derive(Debug)]
pub(crate) struct Network {
    config: NetworkConfig,
    links: BTreeMap<(HostId, HostId), NetworkConfig>,
    blocked: BTreeSet<(HostId, HostId)>,
    /// The part of the network that a host is in; hosts that are missing are in part 0.
    parts: BTreeMap<HostId, u64>,
    parts_made: u64,
    /// When the last stream message of a path arrives: a later one must not come before it.
    stream_tails: BTreeMap<(HostId, HostId), Instant>,
    rng: Rng,
}

impl Network {
    pub(crate) fn new(seed: &Seed, config: NetworkConfig) -> Self {
        Self {
            config,
            links: BTreeMap::new(),
            blocked: BTreeSet::new(),
            parts: BTreeMap::new(),
            parts_made: 0,
            stream_tails: BTreeMap::new(),
            rng: seed.derive("network").rng(),
        }
    }

    pub(crate) fn set_config(&mut self, config: NetworkConfig) {
        self.config = config;
    }

    pub(crate) fn set_link(&mut self, from: HostId, to: HostId, config: Option<NetworkConfig>) {
        match config {
            Some(config) => self.links.insert((from, to), config),
            None => self.links.remove(&(from, to)),
        };
    }

    pub(crate) fn block(&mut self, from: HostId, to: HostId) {
        self.blocked.insert((from, to));
    }

    pub(crate) fn unblock(&mut self, from: HostId, to: HostId) {
        self.blocked.remove(&(from, to));
    }

    pub(crate) fn partition(&mut self, group: &[HostId]) {
        self.parts_made += 1;
        for &host in group {
            self.parts.insert(host, self.parts_made);
        }
    }

    pub(crate) fn rejoin(&mut self) {
        self.parts.clear();
    }

    pub(crate) fn heal(&mut self) {
        self.blocked.clear();
        self.rejoin();
    }

    pub(crate) fn config(&self) -> &NetworkConfig {
        &self.config
    }

    pub(crate) fn is_cut(&self, from: HostId, to: HostId) -> bool {
        (!self.blocked.is_empty() && self.blocked.contains(&(from, to)))
            || (!self.parts.is_empty() && self.parts.get(&from) != self.parts.get(&to))
    }

    /// Draws how long the news takes that `to` knows nothing of a stream.
    pub(crate) fn refusal_delay(&mut self) -> Duration {
        draw_delay(&self.config, &mut self.rng)
    }

    /// Decides what becomes of one message over a whole path; calls `arrive` for each copy that will come out.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        (from, to): (HostId, HostId),
        channel: Channel,
        bytes: Vec<u8>,
        stats: &mut Stats,
        arrive: impl FnMut(Instant, Vec<u8>),
    ) {
        let config = match self.links.get(&(from, to)) {
            Some(link) => link,
            None => &self.config,
        };
        match channel {
            Channel::Stream => {
                let tail = self.stream_tails.entry((from, to)).or_default();
                let at = (now + draw_delay(config, &mut self.rng)).max(*tail);
                *tail = at;
                let mut arrive = arrive;
                arrive(at, bytes);
            }
            Channel::Datagram => {
                send_datagram(config, &mut self.rng, now, bytes, stats, arrive);
            }
        }
    }
}

fn draw_delay(config: &NetworkConfig, rng: &mut Rng) -> Duration {
    if config.tail_ppm > 0 && rng.chance(config.tail_ppm) {
        return rng.duration(config.tail_delay.clone());
    }
    rng.duration(config.delay.clone())
}

fn send_datagram(
    config: &NetworkConfig,
    rng: &mut Rng,
    now: Instant,
    mut bytes: Vec<u8>,
    stats: &mut Stats,
    mut arrive: impl FnMut(Instant, Vec<u8>),
) {
    // A chance of zero draws nothing, which keeps a quiet network fast.
    let mut strikes = |rng: &mut Rng, ppm: u32, kind: FaultKind| {
        let struck = ppm > 0 && rng.chance(ppm);
        if struck {
            stats.count(kind);
        }
        struck
    };
    if strikes(rng, config.loss_ppm, FaultKind::Loss) {
        return;
    }
    if bytes.len() > config.datagram_bytes_max {
        strikes(rng, 1_000_000, FaultKind::TooLong);
        return;
    }
    if strikes(rng, config.replay_ppm, FaultKind::Replay) {
        arrive(
            now + rng.duration(config.replay_delay.clone()),
            bytes.clone(),
        );
    }
    if strikes(rng, config.duplicate_ppm, FaultKind::Duplicate) {
        arrive(now + draw_delay(config, rng), bytes.clone());
    }
    if !bytes.is_empty() && strikes(rng, config.flip_ppm, FaultKind::Flip) {
        flip_bit(&mut bytes, rng);
    }
    if !bytes.is_empty() && strikes(rng, config.truncate_ppm, FaultKind::Truncate) {
        bytes.truncate(rng.index(bytes.len()).unwrap_or(0));
    }
    let mut at = now + draw_delay(config, rng);
    if strikes(rng, config.reorder_ppm, FaultKind::Reorder) {
        at += rng.duration(config.reorder_delay.clone());
    }
    arrive(at, bytes);
}

/// Flips one bit of `bytes`.
pub(crate) fn flip_bit(bytes: &mut [u8], rng: &mut Rng) {
    if let Some(at) = rng.index(bytes.len()) {
        bytes[at] ^= 1 << rng.below(8);
    }
}
