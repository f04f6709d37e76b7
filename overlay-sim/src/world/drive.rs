//! Processes events and drives machines by the rules for drivers.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use overlay_core::Instant;

use super::World;
use crate::{
    Boot, Channel, FaultKind, Host, HostId, disk::PowerLoss, host::Order, trace::TraceKind,
};

pub(super) type CallFn<H> = Box<dyn FnOnce(&mut World<H>)>;

pub(super) enum Event<H: Host> {
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
    /// A stream message of this life of `from` was lost.
    Lost {
        from: HostId,
        life: u64,
        to: HostId,
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
    pub(super) fn process(&mut self, event: Event<H>) {
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
            Event::Lost { from, life, to } => {
                let slot = self.slot_mut(from);
                if slot.life != life || slot.machine.is_none() {
                    return;
                }
                if slot.paused {
                    slot.held.push_back(Event::Lost { from, life, to });
                    return;
                }
                self.trace
                    .note(self.now, TraceKind::StreamLost { from, to });
                self.drive(from, |machine, now| machine.handle_stream_lost(now, to));
            }
            Event::Wake { host } => self.wake(host),
            Event::Call(f) => f(self),
        }
    }

    fn deliver(&mut self, from: HostId, to: HostId, channel: Channel, life: u64, bytes: Vec<u8>) {
        if self.network.is_cut(from, to) {
            return self.lose(from, to, channel, FaultKind::Cut);
        }
        let slot = &mut self.hosts[to.0];
        let old_stream = channel == Channel::Stream && slot.life != life;
        if slot.machine.is_none() || old_stream {
            return self.lose(from, to, channel, FaultKind::Absent);
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
        if machine
            .poll_timeout()
            .is_none_or(|at| at > slot.clock.local(now))
        {
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

    /// Starts a host that is down.
    pub(super) fn boot(&mut self, host: HostId) {
        self.trace.note(self.now, TraceKind::Boot { host });
        self.stats.boots += 1;
        let slot = &mut self.hosts[host.0];
        let label = format!("host {} life {}", host.0, slot.life);
        let boot = Boot {
            host,
            disk: slot.disk.clone(),
            now: slot.clock.local(self.now),
            seed: self.seed.derive(&label),
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
                self.down -= 1;
                self.drive(host, |_, _| ());
            }
            Err(payload) if payload.is::<PowerLoss>() => {
                self.outbox.orders.clear();
                self.outbox.ended = false;
                self.stats.count(FaultKind::CrashAtSync);
                self.take_down(host);
            }
            Err(payload) => resume_unwind(payload),
        }
    }

    /// Runs `f` on a machine, drains it, sends what it sends, and sets its next wake-up.
    pub(super) fn drive<R>(
        &mut self,
        host: HostId,
        f: impl FnOnce(&mut H, Instant) -> R,
    ) -> Option<R> {
        let slot = &mut self.hosts[host.0];
        let now = slot.clock.local(self.now);
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
                if outbox.ended {
                    break;
                }
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
                self.outbox.ended = false;
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
        if std::mem::take(&mut self.outbox.ended) {
            self.stats.count(FaultKind::Exit);
            self.stop(from);
        }
    }

    pub(super) fn send(&mut self, from: HostId, to: HostId, channel: Channel, bytes: Vec<u8>) {
        self.stats.sent += 1;
        if self.network.is_cut(from, to) {
            return self.lose(from, to, channel, FaultKind::Cut);
        }
        let Some(life) = self.hosts.get(to.0).map(|slot| slot.life) else {
            return self.lose(from, to, channel, FaultKind::Absent);
        };
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

    /// Counts a message that finds no receiver; the sender of a stream learns of it.
    fn lose(&mut self, from: HostId, to: HostId, channel: Channel, kind: FaultKind) {
        self.stats.count(kind);
        if channel == Channel::Stream {
            let delay = match kind {
                FaultKind::Cut => self.network.config().stream_timeout,
                _ => self.network.refusal_delay(),
            };
            let life = self.slot(from).life;
            let event = Event::Lost { from, life, to };
            self.queue.push(self.now + delay, event);
        }
    }

    pub(super) fn schedule_wake(&mut self, host: HostId) {
        let slot = &mut self.hosts[host.0];
        let Some(machine) = &slot.machine else { return };
        if slot.paused {
            return;
        }
        let Some(at) = machine.poll_timeout() else {
            return;
        };
        let at = slot.clock.world(at).max(self.now);
        // A wake-up that stands earlier looks again when it comes, so that a moved deadline costs nothing.
        if slot.wake.is_none_or(|wake| at < wake) {
            slot.wake = Some(at);
            self.queue.push(at, Event::Wake { host });
        }
    }

    /// Ends a host's life together with the power of its disk.
    pub(super) fn take_down(&mut self, host: HostId) {
        self.stop(host);
        self.slot(host).disk.crash();
    }

    /// Ends a host's life.
    pub(super) fn stop(&mut self, host: HostId) {
        self.trace.note(self.now, TraceKind::Crash { host });
        let slot = &mut self.hosts[host.0];
        self.down += usize::from(slot.stop());
    }
}
