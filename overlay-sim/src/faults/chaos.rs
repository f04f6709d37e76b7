//! Carries out a plan of faults.

use std::time::Duration;

use overlay_core::{Instant, Rng, Seed};

use super::{ChaosConfig, Fault};
use crate::{CrashPoint, FaultKind, Host, HostId, NetworkConfig, World};

/// A plan of faults under way.
#[derive(Debug)]
pub struct Chaos {
    config: ChaosConfig,
    rng: Rng,
    /// When the next fault strikes.
    next: Option<Instant>,
    ends: Vec<(Instant, End)>,
    /// The network before a burst.
    calm: Option<NetworkConfig>,
    aim: Option<HostId>,
    /// Hosts that are down and whose restart is planned.
    restarting: Vec<HostId>,
}

/// What ends a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Restart(HostId),
    Resume(HostId),
    Disarm(HostId),
    Rejoin,
    Unblock(Vec<(HostId, HostId)>),
    Calm,
    ExactClock(HostId),
}

/// Sync points within which a crash at one of them strikes.
const SYNC_POINTS: u64 = 20;
const EXACT_CLOCK_PPM: u32 = 1_000_000;

impl Chaos {
    /// Makes a plan.
    pub fn new(seed: &Seed, config: ChaosConfig) -> Self {
        Self {
            config,
            rng: seed.derive("chaos").rng(),
            next: None,
            ends: Vec::new(),
            calm: None,
            aim: None,
            restarting: Vec::new(),
        }
    }

    /// Makes every second fault strike this host, the leader for instance; `None` makes all hosts alike again.
    pub fn aim(&mut self, host: Option<HostId>) {
        self.aim = host;
    }

    /// Runs the safety phase, or a slice of it; `check` is called after each event and each fault.
    pub fn run_for<H: Host>(
        &mut self,
        world: &mut World<H>,
        duration: Duration,
        mut check: impl FnMut(&World<H>),
    ) {
        let limit = world.now() + duration;
        loop {
            self.plan_restarts(world);
            let next = self.next_fault(world.now());
            let end = self.ends.iter().map(|(at, _)| *at).min();
            let until = limit.min(next).min(end.unwrap_or(limit));
            let mut fallen = false;
            while !fallen && world.step(until) {
                check(world);
                fallen = world.down() > self.restarting.len();
            }
            if fallen {
                continue; // its restart may come before `until`
            }
            world.run_for(until.duration_since(world.now()));
            self.end_due(world);
            if world.now() >= next {
                self.next = None;
                self.strike(world);
            }
            check(world);
            if world.now() >= limit {
                return;
            }
        }
    }

    /// Ends all faults: the network is whole and as before, clocks are exact, all hosts are up.
    pub fn heal<H: Host>(&mut self, world: &mut World<H>) {
        for (_, end) in std::mem::take(&mut self.ends) {
            self.carry_out(world, end);
        }
        world.heal();
        for host in world.hosts() {
            let disk = world.disk(host);
            disk.crash_at_sync(0, CrashPoint::Before);
            disk.fail_append(0);
            disk.fail_sync(0);
            world.resume(host);
            if !world.is_up(host) {
                world.restart(host);
            }
        }
        self.next = None;
        self.restarting.clear();
    }

    fn next_fault(&mut self, now: Instant) -> Instant {
        let (rng, interval) = (&mut self.rng, &self.config.interval);
        *self
            .next
            .get_or_insert_with(|| now + rng.duration(interval.clone()))
    }

    /// Plans the restart of hosts that went down, by whatever.
    fn plan_restarts<H: Host>(&mut self, world: &World<H>) {
        self.restarting.retain(|host| !world.is_up(*host));
        if world.down() == self.restarting.len() {
            return;
        }
        for host in world.hosts() {
            if !world.is_up(host) && !self.restarting.contains(&host) {
                self.restarting.push(host);
                let downtime = self.rng.duration(self.config.downtime.clone());
                self.ends.push((world.now() + downtime, End::Restart(host)));
            }
        }
    }

    fn end_due<H: Host>(&mut self, world: &mut World<H>) {
        let now = world.now();
        let ends = std::mem::take(&mut self.ends);
        let (due, later): (Vec<_>, Vec<_>) = ends.into_iter().partition(|(at, _)| *at <= now);
        self.ends = later;
        for (_, end) in due {
            self.carry_out(world, end);
        }
    }

    fn carry_out<H: Host>(&mut self, world: &mut World<H>, end: End) {
        match end {
            End::Restart(host) => {
                self.restarting.retain(|other| *other != host);
                if !world.is_up(host) {
                    world.restart(host);
                }
            }
            End::Resume(host) => world.resume(host),
            End::Disarm(host) => world.disk(host).crash_at_sync(0, CrashPoint::Before),
            End::Rejoin => world.rejoin(),
            End::Unblock(paths) => {
                for (from, to) in paths {
                    world.unblock(from, to);
                }
            }
            End::Calm => {
                if let Some(calm) = self.calm.take() {
                    world.set_network(calm);
                }
            }
            End::ExactClock(host) => world.set_clock_rate(host, EXACT_CLOCK_PPM),
        }
    }

    fn strike<H: Host>(&mut self, world: &mut World<H>) {
        let Some(fault) = self.config.weights.draw(&mut self.rng) else {
            return;
        };
        let Some(host) = self.victim(world) else {
            return;
        };
        match fault {
            Fault::Partition
            | Fault::Isolate
            | Fault::Bridge
            | Fault::OneWay
            | Fault::Block
            | Fault::Burst => self.strike_network(world, fault, host),
            _ => self.strike_host(world, fault, host),
        }
    }

    fn strike_host<H: Host>(&mut self, world: &mut World<H>, fault: Fault, host: HostId) {
        let hosts = world.hosts().count();
        match fault {
            Fault::Crash if self.may_take(world, 1) => world.crash(host),
            Fault::Kill if self.may_take(world, 1) => world.kill(host),
            Fault::Blackout if self.may_take(world, hosts) => {
                world.hosts().for_each(|host| world.crash(host));
            }
            Fault::CrashAtSync if self.may_take(world, 1) => {
                let after = self.rng.chance(500_000);
                let side = if after {
                    CrashPoint::After
                } else {
                    CrashPoint::Before
                };
                let nth = 1 + self.rng.below(SYNC_POINTS);
                world.disk(host).crash_at_sync(nth, side);
                self.end_later(world, End::Disarm(host));
            }
            Fault::Pause if self.may_take(world, 1) => {
                world.pause(host);
                self.end_later(world, End::Resume(host));
            }
            Fault::Clock => {
                let rates = &self.config.clock_rate_ppm;
                let width = rates.end.saturating_sub(rates.start);
                let above = u32::try_from(self.rng.below(u64::from(width))).unwrap_or(0);
                world.set_clock_rate(host, rates.start + above);
                self.end_later(world, End::ExactClock(host));
            }
            Fault::AppendError => {
                let nth = 1 + self.rng.below(SYNC_POINTS);
                world.disk(host).fail_append(nth);
                world.count_fault(FaultKind::AppendError);
            }
            Fault::SyncError => {
                let nth = 1 + self.rng.below(SYNC_POINTS);
                world.disk(host).fail_sync(nth);
                world.count_fault(FaultKind::SyncError);
            }
            _ => {} // too many hosts are away already
        }
    }

    fn strike_network<H: Host>(&mut self, world: &mut World<H>, fault: Fault, host: HostId) {
        let mut others: Vec<HostId> = world.hosts().filter(|other| *other != host).collect();
        self.rng.shuffle(&mut others);
        match fault {
            Fault::Partition => {
                others.truncate(self.rng.index(others.len()).unwrap_or(0));
                others.push(host);
                world.partition(&others);
                self.end_later(world, End::Rejoin);
            }
            Fault::Isolate => {
                world.partition(&[host]);
                self.end_later(world, End::Rejoin);
            }
            Fault::Bridge => {
                let (left, right) = others.split_at(others.len() / 2);
                let pairs = left
                    .iter()
                    .flat_map(|&a| right.iter().flat_map(move |&b| [(a, b), (b, a)]));
                self.block(world, pairs.collect(), FaultKind::Partition);
            }
            Fault::OneWay => {
                let inward = self.rng.chance(500_000);
                let path = |other| match inward {
                    true => (other, host),
                    false => (host, other),
                };
                let paths = others.into_iter().map(path).collect();
                self.block(world, paths, FaultKind::OneWay);
            }
            Fault::Block => {
                let path = others.first().map(|&other| (host, other));
                self.block(world, path.into_iter().collect(), FaultKind::OneWay);
            }
            Fault::Burst if self.calm.is_none() => {
                self.calm = Some(world.network().clone());
                world.set_network(self.config.burst.clone());
                world.count_fault(FaultKind::Burst);
                self.end_later(world, End::Calm);
            }
            _ => {} // one burst at a time
        }
    }

    fn block<H: Host>(
        &mut self,
        world: &mut World<H>,
        paths: Vec<(HostId, HostId)>,
        kind: FaultKind,
    ) {
        world.block_paths(&paths);
        world.count_fault(kind);
        self.end_later(world, End::Unblock(paths));
    }

    fn end_later<H: Host>(&mut self, world: &World<H>, end: End) {
        let mut duration = self.rng.duration(self.config.duration.clone());
        if self.rng.chance(250_000) {
            duration /= 10;
        }
        self.ends.push((world.now() + duration, end));
    }

    /// Draws the host that is struck.
    fn victim<H: Host>(&mut self, world: &World<H>) -> Option<HostId> {
        if let Some(aim) = self.aim
            && self.rng.chance(500_000)
        {
            return Some(aim);
        }
        self.rng.index(world.hosts().count()).map(HostId)
    }

    /// Returns whether so many more hosts may be taken away.
    fn may_take<H: Host>(&self, world: &World<H>, more: usize) -> bool {
        let away = world.hosts().filter(|&host| {
            !world.is_up(host) || world.is_paused(host) || world.disk(host).is_armed()
        });
        match more {
            1 => away.count() < self.config.unavailable_max,
            _ => more <= self.config.unavailable_max,
        }
    }
}
