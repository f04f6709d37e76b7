//! Hosts on virtual time.

use std::{fmt, time::Duration};

use overlay_core::{Instant, Seed};

use crate::{
    Boot, Channel, FaultKind, Host, HostId, NetworkConfig, Outbox, SimDisk, Stats,
    network::Network,
    queue::Queue,
    runner,
    trace::{Trace, TraceEvent, TraceKind},
};
use drive::Event;
use slot::Slot;

mod drive;
mod slot;

/// Hosts, their disks and the network between them, on virtual time and from one seed.
///
/// After each event of a host (a delivery, a wake-up, deferred work, a call of [`with`](Self::with)) its outputs are
/// drained and routed, and the next wake-up is set from `poll_timeout`, as every driver does it.
///
/// A host whose disk loses power at a [sync point](SimDisk::crash_at_sync) is stopped in the midst of its code by
/// unwinding, so simulations need the panic strategy `unwind`. A host that panics by itself fails the test.
///
/// # Panics
///
/// All methods that take the [`HostId`] of the host they are about, if there is no such host; and runs, if a host wakes
/// up 10,000 times without time going on, or queues ten million outputs at once.
pub struct World<H: Host> {
    seed: Seed,
    now: Instant,
    queue: Queue<Event<H>>,
    hosts: Vec<Slot<H>>,
    /// How many hosts are down.
    down: usize,
    network: Network,
    outbox: Outbox,
    stats: Stats,
    trace: Trace,
}

impl<H: Host> World<H> {
    /// Makes a world without hosts.
    pub fn new(seed: Seed, config: NetworkConfig) -> Self {
        Self {
            now: Instant::EPOCH,
            queue: Queue::new(),
            hosts: Vec::new(),
            down: 0,
            network: Network::new(&seed, config),
            outbox: Outbox::new(&seed),
            stats: Stats::default(),
            trace: Trace::new(),
            seed,
        }
    }

    /// Adds a host with an empty disk and starts it; `boot` makes its machine, now and after each restart.
    pub fn add(&mut self, boot: impl FnMut(Boot<'_>) -> H + 'static) -> HostId {
        let seed = self.seed.derive(&format!("host {}", self.hosts.len()));
        self.add_with_disk(SimDisk::new(&seed), boot)
    }

    /// As [`add`](Self::add), with a disk that was prepared: filled, or armed to crash.
    pub fn add_with_disk(
        &mut self,
        disk: SimDisk,
        boot: impl FnMut(Boot<'_>) -> H + 'static,
    ) -> HostId {
        let host = HostId(self.hosts.len());
        self.hosts.push(Slot::new(disk, Box::new(boot)));
        self.down += 1;
        self.restart(host);
        host
    }

    /// Calls `f` with a host's machine, then drains it; `None` if the host is down, or went down meanwhile.
    pub fn with<R>(&mut self, host: HostId, f: impl FnOnce(&mut H, Instant) -> R) -> Option<R> {
        self.trace.note(self.now, TraceKind::With { host });
        self.drive(host, f)
    }

    /// Calls `f` with the world at a virtual time; at once, but within the next run, if that is past.
    pub fn at(&mut self, at: Instant, f: impl FnOnce(&mut Self) + 'static) {
        self.queue.push(at.max(self.now), Event::Call(Box::new(f)));
    }

    /// Processes the next event, if there is one until `limit`, and moves the time there. Returns whether there was one.
    pub fn step(&mut self, limit: Instant) -> bool {
        let Some((at, event)) = self.queue.pop(limit) else {
            return false;
        };
        self.now = at;
        self.process(event);
        true
    }

    /// Runs for a while of virtual time.
    pub fn run_for(&mut self, duration: Duration) {
        let limit = self.now + duration;
        while self.step(limit) {}
        self.now = limit;
    }

    /// Runs until `pred` holds, which is asked now and after each event. Returns `false` if it did not within `limit`.
    pub fn run_until(&mut self, limit: Duration, mut pred: impl FnMut(&Self) -> bool) -> bool {
        let limit = self.now + limit;
        loop {
            if pred(self) {
                return true;
            }
            if !self.step(limit) {
                self.now = limit;
                return pred(self);
            }
        }
    }

    /// Takes a host's power away; what its disk did not sync is lost or torn. Nothing happens to a host that is down.
    pub fn crash(&mut self, host: HostId) {
        if self.slot(host).machine.is_some() {
            self.stats.count(FaultKind::Crash);
            self.take_down(host);
        }
    }

    /// Ends a host's process, as SIGKILL does: its disk keeps what was written, synced or not.
    ///
    /// Nothing happens to a host that is down.
    pub fn kill(&mut self, host: HostId) {
        if self.slot(host).machine.is_some() {
            self.stats.count(FaultKind::Kill);
            self.stop(host);
        }
    }

    /// Starts a host that is down, from its disk; crashes it first if it is up.
    pub fn restart(&mut self, host: HostId) {
        if self.slot(host).machine.is_some() {
            self.crash(host);
        }
        self.boot(host);
    }

    /// Stops a host without its knowledge, as SIGSTOP does: what comes for it waits, its deadlines pass.
    pub fn pause(&mut self, host: HostId) {
        let slot = self.slot_mut(host);
        if slot.machine.is_some() && !slot.paused {
            slot.paused = true;
            self.stats.count(FaultKind::Pause);
            self.trace.note(self.now, TraceKind::Pause { host });
        }
    }

    /// Lets a paused host go on: first it gets what waited for it, then its deadlines.
    pub fn resume(&mut self, host: HostId) {
        let slot = self.slot_mut(host);
        if !slot.paused {
            return;
        }
        slot.paused = false;
        let held = std::mem::take(&mut slot.held);
        self.trace.note(self.now, TraceKind::Resume { host });
        for event in held {
            self.process(event);
        }
        self.schedule_wake(host);
    }

    /// Makes a host's clock run slow or fast from now on, in parts of a million; 1,000,000 is exact.
    pub fn set_clock_rate(&mut self, host: HostId, rate_ppm: u32) {
        let now = self.now;
        self.slot_mut(host).clock.set_rate(now, rate_ppm);
        self.stats.count(FaultKind::ClockRate);
        self.schedule_wake(host);
    }

    /// Puts a host's clock forward, as after the move of a virtual machine.
    pub fn advance_clock(&mut self, host: HostId, by: Duration) {
        self.slot_mut(host).clock.advance(by);
        self.stats.count(FaultKind::ClockRate);
        self.schedule_wake(host);
    }

    /// Blocks the path from one host to another; the way back stays open.
    pub fn block(&mut self, from: HostId, to: HostId) {
        self.stats.count(FaultKind::OneWay);
        self.network.block(from, to);
    }

    pub(crate) fn block_paths(&mut self, paths: &[(HostId, HostId)]) {
        for &(from, to) in paths {
            self.network.block(from, to);
        }
    }

    pub(crate) fn count_fault(&mut self, kind: FaultKind) {
        self.stats.count(kind);
    }

    /// Opens a path that was blocked.
    pub fn unblock(&mut self, from: HostId, to: HostId) {
        self.network.unblock(from, to);
    }

    /// Separates the hosts of `group` from all others, in both directions; among themselves they can talk.
    ///
    /// A second call separates another group from all others, the first one included.
    pub fn partition(&mut self, group: &[HostId]) {
        self.stats.count(FaultKind::Partition);
        self.network.partition(group);
    }

    /// Ends all partitions; blocked paths stay blocked.
    pub fn rejoin(&mut self) {
        self.network.rejoin();
    }

    /// Ends all partitions and opens all blocked paths.
    pub fn heal(&mut self) {
        self.network.heal();
    }

    /// Changes how the network treats what is sent from now on.
    pub fn set_network(&mut self, config: NetworkConfig) {
        self.network.set_config(config);
    }

    /// Changes how one path treats what is sent over it; `None` makes it like all others again.
    pub fn set_link(&mut self, from: HostId, to: HostId, config: Option<NetworkConfig>) {
        self.network.set_link(from, to, config);
    }

    /// Puts bytes onto the network as if `from` had sent them: spoofed, replayed or damaged ones.
    pub fn inject(&mut self, from: HostId, to: HostId, channel: Channel, bytes: Vec<u8>) {
        self.send(from, to, channel, bytes);
    }

    /// Has `observer` called with everything that happens from now on.
    pub fn observe(&mut self, observer: impl FnMut(&TraceEvent<'_>) + 'static) {
        self.trace.set_observer(Box::new(observer));
    }

    /// Returns a host's machine, `None` while it is down.
    pub fn host(&self, host: HostId) -> Option<&H> {
        self.slot(host).machine.as_ref()
    }

    /// Returns the hosts.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + use<H> {
        (0..self.hosts.len()).map(HostId)
    }

    /// Returns the machines of the hosts that are up.
    pub fn machines(&self) -> impl Iterator<Item = (HostId, &H)> {
        self.hosts.iter().enumerate().filter_map(|(at, slot)| {
            let machine = slot.machine.as_ref()?;
            Some((HostId(at), machine))
        })
    }

    /// Returns a handle to a host's disk.
    pub fn disk(&self, host: HostId) -> SimDisk {
        self.slot(host).disk.clone()
    }

    /// Returns whether a host is up, paused or not.
    pub fn is_up(&self, host: HostId) -> bool {
        self.slot(host).machine.is_some()
    }

    /// Returns how many hosts are down.
    pub fn down(&self) -> usize {
        self.down
    }

    /// Returns the time that a host's clock shows.
    pub fn clock(&self, host: HostId) -> Instant {
        self.slot(host).clock.local(self.now)
    }

    /// Returns whether a host is paused.
    pub fn is_paused(&self, host: HostId) -> bool {
        self.slot(host).paused
    }

    /// Returns whether messages from one host to another are cut off by a partition or a block.
    pub fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.network.is_cut(from, to)
    }

    /// Returns the virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Returns how the network treats what is sent.
    pub fn network(&self) -> &NetworkConfig {
        self.network.config()
    }

    /// Returns the counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Returns how many events wait in the queue.
    pub fn pending(&self) -> usize {
        self.queue.len()
    }

    /// Returns a hash of everything that happened: the same seed and the same calls give the same one.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    fn slot(&self, host: HostId) -> &Slot<H> {
        &self.hosts[host.0]
    }

    fn slot_mut(&mut self, host: HostId) -> &mut Slot<H> {
        &mut self.hosts[host.0]
    }
}

impl<H: Host> Drop for World<H> {
    fn drop(&mut self) {
        runner::tally(&self.stats, self.now);
    }
}

impl<H: Host> fmt::Debug for World<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("now", &self.now)
            .field("hosts", &self.hosts.len())
            .field("pending", &self.queue.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
