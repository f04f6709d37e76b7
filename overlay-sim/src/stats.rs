//! What happened in a world, in numbers.

use std::{collections::BTreeMap, fmt, time::Duration};

/// Counters of one [`World`](crate::World).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Events that were processed: deliveries, wake-ups, deferred work, calls.
    pub events: u64,
    /// Messages that hosts sent.
    pub sent: u64,
    /// Messages that hosts received.
    pub delivered: u64,
    /// Octets that hosts received.
    pub delivered_bytes: u64,
    /// Wake-ups by [`poll_timeout`](overlay_core::Machine::poll_timeout).
    pub timeouts: u64,
    /// Outputs that hosts routed.
    pub outputs: u64,
    /// Starts of hosts, first ones included.
    pub boots: u64,
    faults: BTreeMap<FaultKind, u64>,
}

impl Stats {
    pub(crate) fn count(&mut self, kind: FaultKind) {
        *self.faults.entry(kind).or_default() += 1;
    }

    /// Returns how often each kind of fault struck; kinds that never struck are missing.
    pub fn faults(&self) -> &BTreeMap<FaultKind, u64> {
        &self.faults
    }

    /// Returns how often one kind of fault struck.
    pub fn fault(&self, kind: FaultKind) -> u64 {
        self.faults.get(&kind).copied().unwrap_or_default()
    }

    /// Returns the events per second over `elapsed`, virtual or real.
    pub fn events_per_second(&self, elapsed: Duration) -> u64 {
        let nanoseconds = elapsed.as_nanos().max(1);
        let rate = u128::from(self.events) * 1_000_000_000 / nanoseconds;
        u64::try_from(rate).unwrap_or(u64::MAX)
    }

    /// Adds the counters of another world.
    pub fn merge(&mut self, other: &Self) {
        self.events += other.events;
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.delivered_bytes += other.delivered_bytes;
        self.timeouts += other.timeouts;
        self.outputs += other.outputs;
        self.boots += other.boots;
        for (&kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events, {} sent, {} delivered, {} timeouts, {} outputs, {} boots; faults:",
            self.events, self.sent, self.delivered, self.timeouts, self.outputs, self.boots
        )?;
        if self.faults.is_empty() {
            return f.write_str(" none");
        }
        for (kind, count) in &self.faults {
            write!(f, " {kind} {count}")?;
        }
        Ok(())
    }
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// A datagram was lost by chance.
    Loss,
    /// A datagram arrived twice.
    Duplicate,
    /// A datagram was held back.
    Reorder,
    /// A datagram came again, much later.
    Replay,
    /// A bit of a datagram was flipped.
    Flip,
    /// A datagram was cut short.
    Truncate,
    /// A datagram was longer than its path takes.
    TooLong,
    /// A message met a cut path.
    Cut,
    /// A message met a host that was down, or a new life at the end of an old stream.
    Absent,
    /// A host crashed.
    Crash,
    /// A host's process was killed.
    Kill,
    /// A host ended its process itself.
    Exit,
    /// A host crashed at a sync point.
    CrashAtSync,
    /// A host was paused.
    Pause,
    /// The network was parted, or one path blocked.
    Partition,
    /// A path was blocked in one direction.
    OneWay,
    /// The network was made worse for a while.
    Burst,
    /// A host's clock was made slow or fast.
    ClockRate,
    /// An append was made to fail.
    AppendError,
    /// A sync was made to fail.
    SyncError,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loss => "loss",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::Replay => "replay",
            Self::Flip => "flip",
            Self::Truncate => "truncate",
            Self::TooLong => "too-long",
            Self::Cut => "cut",
            Self::Absent => "absent",
            Self::Crash => "crash",
            Self::Kill => "kill",
            Self::Exit => "exit",
            Self::CrashAtSync => "crash-at-sync",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::OneWay => "one-way",
            Self::Burst => "burst",
            Self::ClockRate => "clock-rate",
            Self::AppendError => "append-error",
            Self::SyncError => "sync-error",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_adds_every_counter() {
        let mut stats = Stats {
            events: 1,
            sent: 2,
            delivered: 3,
            delivered_bytes: 4,
            timeouts: 5,
            outputs: 6,
            boots: 7,
            faults: [(FaultKind::Loss, 8)].into(),
        };
        let mut other = stats.clone();
        other.count(FaultKind::Crash);
        stats.merge(&other);
        let doubled = Stats {
            events: 2,
            sent: 4,
            delivered: 6,
            delivered_bytes: 8,
            timeouts: 10,
            outputs: 12,
            boots: 14,
            faults: [(FaultKind::Loss, 16), (FaultKind::Crash, 1)].into(),
        };
        assert_eq!(stats, doubled);
        assert_eq!(
            stats.to_string(),
            "2 events, 4 sent, 6 delivered, 10 timeouts, 12 outputs, 14 boots; faults: loss 16 crash 1"
        );
        assert_eq!(stats.events_per_second(Duration::from_millis(500)), 4);
        assert_eq!(stats.events_per_second(Duration::ZERO), 2_000_000_000);
    }
}
