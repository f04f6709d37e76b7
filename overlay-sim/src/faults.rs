//! A plan of faults, drawn from a seed.
//!
//! A run has two phases. In the *safety* phase ([`Chaos::run_for`]) anything may happen and the checks must hold after
//! every event. Then [`Chaos::heal`] ends all faults, and in the *liveness* phase, plain
//! [`World::run_until`](crate::World::run_until), the hosts must make progress within a stated time.

use std::{ops::Range, time::Duration};

use overlay_core::Rng;

use crate::NetworkConfig;
pub use chaos::Chaos;

mod chaos;

/// Which faults strike, how often and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChaosConfig {
    /// Time between two faults. Default 100 ms to 1 s.
    pub interval: Range<Duration>,
    /// How long a crashed host stays down. Default 50 ms to 3 s.
    pub downtime: Range<Duration>,
    /// How long a pause, a partition, a blocked path or a burst lasts. Default 20 ms to 3 s.
    ///
    /// One in four is ten times shorter: a path that flaps.
    pub duration: Range<Duration>,
    /// How many hosts may be down or paused at once. Default: all of them.
    ///
    /// Set it to a minority where the machine only promises to survive that.
    pub unavailable_max: usize,
    /// How the network is during a burst. Default: 20 % loss, 5 % doubled, 10 % reordered, 5 % very late.
    pub burst: NetworkConfig,
    /// The range of wrong clock rates, in parts of a million. Default 900,000 to 1,100,000.
    pub clock_rate_ppm: Range<u32>,
    /// How likely each fault is, in proportion to the others.
    pub weights: Weights,
}

impl Default for ChaosConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100)..Duration::from_secs(1),
            downtime: Duration::from_millis(50)..Duration::from_secs(3),
            duration: Duration::from_millis(20)..Duration::from_secs(3),
            unavailable_max: usize::MAX,
            burst: NetworkConfig {
                tail_ppm: 50_000,
                loss_ppm: 200_000,
                duplicate_ppm: 50_000,
                reorder_ppm: 100_000,
                replay_ppm: 5_000,
                ..NetworkConfig::lossy()
            },
            clock_rate_ppm: 900_000..1_100_000,
            weights: Weights::default(),
        }
    }
}

/// How likely each fault is, in proportion to the others; 0 switches one off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// A host loses power at once. Default 10.
    pub crash: u32,
    /// A host's process ends at once, and its system lives on: what it wrote is there, synced or not. Default 5.
    pub kill: u32,
    /// A host loses power at one of its next 20 sync points. Default 10.
    pub crash_at_sync: u32,
    /// All hosts lose power at once. Default 1.
    pub blackout: u32,
    /// A host stands still. Default 5.
    pub pause: u32,
    /// A random part of the hosts is cut off from the others. Default 8.
    pub partition: u32,
    /// One host is cut off from all others. Default 8.
    pub isolate: u32,
    /// Two parts see each other only through one host that is in both. Default 3.
    pub bridge: u32,
    /// One host can only send, or only receive. Default 5.
    pub one_way: u32,
    /// The path between two hosts is cut in one direction. Default 5.
    pub block: u32,
    /// The network gets worse. Default 8.
    pub burst: u32,
    /// A host's clock runs slow or fast. Default 3.
    pub clock: u32,
    /// An append of a host fails soon. Default 0: only for hosts that survive it, or restart themselves.
    pub append_error: u32,
    /// A sync of a host fails soon. Default 0: only for hosts that survive it, or restart themselves.
    pub sync_error: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            crash: 10,
            kill: 5,
            crash_at_sync: 10,
            blackout: 1,
            pause: 5,
            partition: 8,
            isolate: 8,
            bridge: 3,
            one_way: 5,
            block: 5,
            burst: 8,
            clock: 3,
            append_error: 0,
            sync_error: 0,
        }
    }
}

impl Weights {
    /// No fault at all: a start for a plan of few kinds.
    pub fn none() -> Self {
        Self {
            crash: 0,
            kill: 0,
            crash_at_sync: 0,
            blackout: 0,
            pause: 0,
            partition: 0,
            isolate: 0,
            bridge: 0,
            one_way: 0,
            block: 0,
            burst: 0,
            clock: 0,
            append_error: 0,
            sync_error: 0,
        }
    }

    fn draw(&self, rng: &mut Rng) -> Option<Fault> {
        let choices = [
            (self.crash, Fault::Crash),
            (self.kill, Fault::Kill),
            (self.crash_at_sync, Fault::CrashAtSync),
            (self.blackout, Fault::Blackout),
            (self.pause, Fault::Pause),
            (self.partition, Fault::Partition),
            (self.isolate, Fault::Isolate),
            (self.bridge, Fault::Bridge),
            (self.one_way, Fault::OneWay),
            (self.block, Fault::Block),
            (self.burst, Fault::Burst),
            (self.clock, Fault::Clock),
            (self.append_error, Fault::AppendError),
            (self.sync_error, Fault::SyncError),
        ];
        let sum = choices.iter().map(|(weight, _)| u64::from(*weight)).sum();
        let mut draw = rng.below(sum);
        for (weight, fault) in choices {
            if draw < u64::from(weight) {
                return Some(fault);
            }
            draw -= u64::from(weight);
        }
        None
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Crash,
    Kill,
    CrashAtSync,
    Blackout,
    Pause,
    Partition,
    Isolate,
    Bridge,
    OneWay,
    Block,
    Burst,
    Clock,
    AppendError,
    SyncError,
}
