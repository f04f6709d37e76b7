//! What [`World`](crate::World) asks of a machine, and what it hands to it.

use std::{fmt, time::Duration};

use overlay_core::{Instant, Machine, Rng, Seed};

use crate::SimDisk;

/// A machine that [`World`](crate::World) can drive.
///
/// Implement it on the machine itself or on a wrapper that also holds what an application would: the state that is
/// applied, the log on disk. Every method may give the machine further inputs; whatever it queues is routed afterwards.
pub trait Host: Machine {
    /// Takes in `bytes` that came from `from`.
    fn deliver(&mut self, now: Instant, from: HostId, channel: Channel, bytes: &[u8]);

    /// Carries out one output: sends it, writes it to the disk, applies it.
    fn route(&mut self, now: Instant, output: Self::Output, outbox: &mut Outbox);

    /// Goes on with something that [`route`](Self::route) put off by [`Outbox::after`].
    ///
    /// Never called in a later life than the one that asked.
    fn handle_deferred(&mut self, now: Instant, token: u64) {
        let _ = (now, token);
    }

    /// Learns that something sent to `to` on [`Channel::Stream`] was lost: the connection is broken.
    ///
    /// Called once for each lost message: soon where `to` was down or in a new life, after
    /// [`NetworkConfig::stream_timeout`](crate::NetworkConfig::stream_timeout) where the path was cut.
    fn handle_stream_lost(&mut self, now: Instant, to: HostId) {
        let _ = (now, to);
    }
}

/// A host of a [`World`](crate::World), numbered from zero in the order of [`add`](crate::World::add).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {}", self.0)
    }
}

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Each message on its own: lost, doubled, reordered and damaged as [`NetworkConfig`](crate::NetworkConfig) says.
    Datagram,
    /// In order and whole; lost only when a partition cuts the path or a crash ends the receiver's life, and then the
    /// sender [learns of it](Host::handle_stream_lost).
    Stream,
}

/// Collects what a host does while it routes one output.
pub struct Outbox {
    pub(crate) orders: Vec<Order>,
    rng: Rng,
    /// The host ended its process.
    pub(crate) ended: bool,
}

impl Outbox {
    pub(crate) fn new(seed: &Seed) -> Self {
        Self {
            orders: Vec::new(),
            rng: seed.derive("outbox").rng(),
            ended: false,
        }
    }

    /// Sends `bytes` to `to`. A host that does not exist is one that is always down.
    pub fn send(&mut self, to: HostId, channel: Channel, bytes: Vec<u8>) {
        self.order(Order::Send { to, channel, bytes });
    }

    /// Has [`Host::handle_deferred`] called with `token` after `delay`: a slow disk, a slow operator.
    pub fn after(&mut self, delay: Duration, token: u64) {
        self.order(Order::After { delay, token });
    }

    /// Ends the host's process, as a program does that met a fatal error; what it ordered before is still done.
    ///
    /// The host is down until [`World::restart`](crate::World::restart) or the plan of faults starts it again.
    pub fn exit(&mut self) {
        self.ended = true;
    }

    fn order(&mut self, order: Order) {
        if !self.ended {
            self.orders.push(order);
        }
    }

    /// Returns a generator for what the environment decides at random, such as how long a write takes.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("orders", &self.orders.len())
            .finish_non_exhaustive()
    }
}

pub(crate) enum Order {
    Send {
        to: HostId,
        channel: Channel,
        bytes: Vec<u8>,
    },
    After {
        delay: Duration,
        token: u64,
    },
}

/// What a host finds when it starts.
#[derive(Debug)]
#[non_exhaustive]
pub struct Boot<'a> {
    /// Which host this is.
    pub host: HostId,
    /// Its disk, as the former life left it.
    pub disk: SimDisk,
    /// The time.
    pub now: Instant,
    /// Randomness for this life; each life has another.
    pub seed: Seed,
    /// How many lives came before this one.
    pub life: u64,
    /// Sends what a start sends outside the machine's own outputs.
    pub outbox: &'a mut Outbox,
}
