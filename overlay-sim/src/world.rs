//! Hosts on virtual time.

use std::{
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use overlay_core::{Instant, Seed};

use crate::{
    Boot, Channel, FaultKind, Host, HostId, NetworkConfig, Outbox, SimDisk, Stats,
    disk::PowerLoss,
    host::Order,
    network::Network,
    queue::Queue,
    trace::{Trace, TraceEvent, TraceKind},
};

/// Hosts, their disks and the network between them, on virtual time and from one seed.
///
/// After each event of a host (a delivery, a wake-up, deferred work, a call of [`with`](Self::with)) its outputs are
/// drained and routed, and the next wake-up is set from `poll_timeout`, as every driver does it.
pub struct World<H: Host> {
    seed: Seed,
    now: Instant,
    queue: Queue<Event<H>>,
    hosts: Vec<Slot<H>>,
    network: Network,
    outbox: Outbox,
    stats: Stats,
    trace: Trace,
}

type BootFn<H> = Box<dyn FnMut(Boot<'_>) -> H>;
type CallFn<H> = Box<dyn FnOnce(&mut World<H>)>;

struct Slot<H: Host> {
    boot: BootFn<H>,
    disk: SimDisk,
    machine: Option<H>,
    /// How often it was booted.
    life: u64,
    /// The wake-up that stands in the queue.
    wake: Option<Instant>,
    /// Wake-ups at one instant, without which a machine that makes no progress would spin for ever.
    spins: (Instant, u32),
    paused: bool,
    /// What came while it was paused.
    held: VecDeque<Event<H>>,
}

enum Event<H: Host> {
    Deliver {
        from: HostId,
        to: HostId,
        channel: Channel,
        /// The life that the receiver had when a stream message was sent.
        life: u64,
        bytes: Vec<u8>,
    },
    Deferred {
        host: HostId,
        life: u64,
        token: u64,
    },
    Wake {
        host: HostId,
    },
    Call(CallFn<H>),
}

/// A host that wakes up so often without time going on makes no progress.
const SPINS_MAX: u32 = 10_000;
/// A machine that queues so many outputs for one event never stops.
const OUTPUTS_MAX: u64 = 10_000_000;
/// Datagrams that wait for a paused host, as in a socket's buffer; more are lost.
const HELD_MAX: usize = 4_096;

impl<H: Host> World<H> {
    /// Makes a world without hosts.
    pub fn new(seed: Seed, config: NetworkConfig) -> Self {
        Self {
            now: Instant::EPOCH,
            queue: Queue::new(),
            hosts: Vec::new(),
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
        self.hosts.push(Slot {
            boot: Box::new(boot),
            disk,
            machine: None,
            life: 0,
            wake: None,
            spins: (Instant::EPOCH, 0),
            paused: false,
            held: VecDeque::new(),
        });
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

    /// Starts a host that is down, from its disk; crashes it first if it is up.
    pub fn restart(&mut self, host: HostId) {
        if self.slot(host).machine.is_some() {
            self.crash(host);
        }
        self.trace.note(self.now, TraceKind::Boot { host });
        self.stats.boots += 1;
        let now = self.now;
        let slot = &mut self.hosts[host.0];
        let boot = Boot {
            host,
            disk: slot.disk.clone(),
            now,
            seed: self
                .seed
                .derive(&format!("host {} life {}", host.0, slot.life)),
            life: slot.life,
            outbox: &mut self.outbox,
        };
        slot.life += 1;
        slot.disk.set_running(true);
        let booted = catch_unwind(AssertUnwindSafe(|| (slot.boot)(boot)));
        slot.disk.set_running(false);
        match booted {
            Ok(machine) => {
                slot.machine = Some(machine);
                self.drive(host, |_, _| ());
            }
            Err(payload) if payload.is::<PowerLoss>() => {
                self.outbox.orders.clear();
                self.stats.count(FaultKind::CrashAtSync);
                self.take_down(host);
            }
            Err(payload) => resume_unwind(payload),
        }
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

    /// Blocks the path from one host to another; the way back stays open.
    pub fn block(&mut self, from: HostId, to: HostId) {
        self.stats.count(FaultKind::OneWay);
        self.network.block(from, to);
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

    fn process(&mut self, event: Event<H>) {
        self.stats.events += 1;
        match event {
            Event::Deliver {
                from,
                to,
                channel,
                life,
                bytes,
            } => self.deliver(from, to, channel, life, bytes),
            Event::Deferred { host, life, token } => {
                let slot = self.slot_mut(host);
                if slot.life != life || slot.machine.is_none() {
                    return;
                }
                if slot.paused {
                    slot.held.push_back(Event::Deferred { host, life, token });
                    return;
                }
                self.trace
                    .note(self.now, TraceKind::Deferred { host, token });
                self.drive(host, |machine, now| machine.handle_deferred(now, token));
            }
            Event::Wake { host } => self.wake(host),
            Event::Call(f) => f(self),
        }
    }

    fn deliver(&mut self, from: HostId, to: HostId, channel: Channel, life: u64, bytes: Vec<u8>) {
        let slot = &mut self.hosts[to.0];
        let old_stream = channel == Channel::Stream && slot.life != life;
        if slot.machine.is_none() || old_stream {
            self.stats.count(FaultKind::Absent);
            return;
        }
        if self.network.is_cut(from, to) {
            self.stats.count(FaultKind::Cut);
            return;
        }
        if slot.paused {
            if channel == Channel::Datagram && slot.held.len() >= HELD_MAX {
                self.stats.count(FaultKind::Loss);
                return;
            }
            slot.held.push_back(Event::Deliver {
                from,
                to,
                channel,
                life,
                bytes,
            });
            return;
        }
        self.stats.delivered += 1;
        self.stats.delivered_bytes += bytes.len() as u64;
        let kind = TraceKind::Deliver {
            from,
            to,
            channel,
            bytes: &bytes,
        };
        self.trace.note(self.now, kind);
        self.drive(to, |machine, now| {
            machine.deliver(now, from, channel, &bytes);
        });
    }

    fn wake(&mut self, host: HostId) {
        let now = self.now;
        let slot = &mut self.hosts[host.0];
        if slot.wake != Some(now) {
            return; // an earlier wake-up took its place
        }
        slot.wake = None;
        let Some(machine) = &slot.machine else { return };
        if slot.paused {
            return; // `resume` sets it again
        }
        if machine.poll_timeout().is_none_or(|at| at > now) {
            return self.schedule_wake(host);
        }
        slot.spins = match slot.spins {
            (at, count) if at == now => (now, count + 1),
            _ => (now, 1),
        };
        let spins = slot.spins.1;
        assert!(
            spins < SPINS_MAX,
            "{host} makes no progress: {spins} wake-ups at {now} (contract, line 5)"
        );
        self.stats.timeouts += 1;
        self.trace.note(now, TraceKind::Timeout { host });
        self.drive(host, |machine, now| machine.handle_timeout(now));
    }

    /// Runs `f` on a machine, drains it, sends what it sends, and sets its next wake-up.
    fn drive<R>(&mut self, host: HostId, f: impl FnOnce(&mut H, Instant) -> R) -> Option<R> {
        let now = self.now;
        let slot = &mut self.hosts[host.0];
        let machine = slot.machine.as_mut()?;
        let (outbox, stats) = (&mut self.outbox, &mut self.stats);
        // What was ordered before a call that the power loss cuts short still counts.
        let mut whole = outbox.orders.len();
        slot.disk.set_running(true);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let result = f(machine, now);
            let before = stats.outputs;
            while let Some(output) = machine.poll_output() {
                stats.outputs += 1;
                assert!(stats.outputs - before < OUTPUTS_MAX, "{host} never drains");
                whole = outbox.orders.len();
                machine.route(now, output, outbox);
            }
            result
        }));
        slot.disk.set_running(false);
        match result {
            Ok(result) => {
                self.flush(host);
                self.schedule_wake(host);
                Some(result)
            }
            Err(payload) if payload.is::<PowerLoss>() => {
                self.outbox.orders.truncate(whole);
                self.flush(host);
                self.stats.count(FaultKind::CrashAtSync);
                self.take_down(host);
                None
            }
            Err(payload) => resume_unwind(payload),
        }
    }

    fn flush(&mut self, from: HostId) {
        let mut orders = std::mem::take(&mut self.outbox.orders);
        let life = self.slot(from).life;
        for order in orders.drain(..) {
            match order {
                Order::Send { to, channel, bytes } => self.send(from, to, channel, bytes),
                Order::After { delay, token } => {
                    let event = Event::Deferred {
                        host: from,
                        life,
                        token,
                    };
                    self.queue.push(self.now + delay, event);
                }
            }
        }
        self.outbox.orders = orders; // keeps its room
    }

    fn send(&mut self, from: HostId, to: HostId, channel: Channel, bytes: Vec<u8>) {
        self.stats.sent += 1;
        let life = self.slot(to).life;
        let queue = &mut self.queue;
        let arrive = |at, bytes| {
            let event = Event::Deliver {
                from,
                to,
                channel,
                life,
                bytes,
            };
            queue.push(at, event);
        };
        self.network.send(
            self.now,
            (from, to),
            channel,
            bytes,
            &mut self.stats,
            arrive,
        );
    }

    fn schedule_wake(&mut self, host: HostId) {
        let slot = &mut self.hosts[host.0];
        let Some(machine) = &slot.machine else { return };
        if slot.paused {
            return;
        }
        let Some(at) = machine.poll_timeout() else {
            return;
        };
        let at = at.max(self.now);
        // A wake-up that stands earlier looks again when it comes, so that a moved deadline costs nothing.
        if slot.wake.is_none_or(|wake| at < wake) {
            slot.wake = Some(at);
            self.queue.push(at, Event::Wake { host });
        }
    }

    fn take_down(&mut self, host: HostId) {
        self.trace.note(self.now, TraceKind::Crash { host });
        let slot = self.slot_mut(host);
        slot.machine = None;
        slot.paused = false;
        slot.held.clear();
        slot.wake = None;
        slot.disk.crash();
    }

    fn slot(&self, host: HostId) -> &Slot<H> {
        &self.hosts[host.0]
    }

    fn slot_mut(&mut self, host: HostId) -> &mut Slot<H> {
        &mut self.hosts[host.0]
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
