//! Members that are Down, and seeds, are tried again: clusters that split merge.

use std::{net::SocketAddr, time::Duration};

use overlay_core::Instant;

use super::{Gossip, canonical};
use crate::{MemberState, Name, roster::Retry};

/// What is to be tried again.
#[derive(Debug, Default)]
pub(super) struct Healing {
    seeds: Vec<SeedAddress>,
    next_at: Option<Instant>,
}

#[derive(Debug)]
struct SeedAddress {
    address: SocketAddr,
    retry: Retry,
}

impl Healing {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next_at
    }
}

impl Gossip {
    pub(super) fn add_seeds(&mut self, seeds: &[SocketAddr]) {
        let own = self.local.member.address;
        let (now, limit) = (self.now, self.config.limits.seeds_max);
        for address in seeds.iter().map(|seed| canonical(*seed)) {
            if address == own {
                continue;
            }
            let (retry, seeds) = (Retry::default(), &mut self.healing.seeds);
            if let Some(seed) = seeds.iter_mut().find(|seed| seed.address == address) {
                seed.retry = retry;
            } else if seeds.len() < limit {
                seeds.push(SeedAddress { address, retry });
            }
        }
        self.healing.next_at = None;
        let due: Vec<SocketAddr> = self.due_seeds(now, limit);
        for address in due {
            self.dial_push_pull(address, true);
        }
        self.arm_healing();
    }

    /// Sees to it that a round of healing comes, if there is anything to heal.
    pub(super) fn arm_healing(&mut self) {
        let down = |state| state == MemberState::Down;
        let any_down = self.roster.entries().any(|e| down(e.member.state));
        let left = self.local.member.state == MemberState::Left;
        if self.healing.next_at.is_some() || left {
            return;
        }
        if any_down || self.missing_seeds().next().is_some() {
            let interval = self.config.timing.heal_interval;
            let wait = interval * 3 / 4 + self.rng.duration(Duration::ZERO..interval / 2);
            self.healing.next_at = Some(self.now + wait);
        }
    }

    pub(super) fn heal_due(&mut self) {
        if self.healing.next_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.healing.next_at = None;
        for address in self.due_seeds(self.now, TRIES_MAX) {
            self.dial_push_pull(address, true);
        }
        if self.is_my_turn() {
            self.try_down();
        }
        self.arm_healing();
    }

    /// In a large cluster only a few members try in each interval.
    pub(super) fn is_my_turn(&mut self) -> bool {
        let members = u64::try_from(self.roster.up() + 1).unwrap_or(u64::MAX);
        self.rng.below(members) < u64::from(self.config.timing.heal_nodes)
    }

    fn try_down(&mut self) {
        let now = self.now;
        let due = self.roster.draw(&mut self.rng, TRIES_MAX, |entry| {
            entry.member.state == MemberState::Down && entry.retry.at <= now
        });
        for name in due {
            let timing = &self.config.timing;
            let (first, max) = (timing.heal_interval, timing.heal_backoff_max);
            let Some(entry) = self.roster.get_mut(&name) else {
                continue;
            };
            let by_stream = entry.retry.tries % 2 == 1;
            entry.retry.back_off(now, first, max, &mut self.rng);
            let address = entry.member.address;
            self.ping_down(&name);
            if by_stream {
                self.dial_push_pull(address, false);
            }
        }
    }

    /// A member that was gone is there again: exchange everything with it, since others may be behind it.
    pub(super) fn on_return(&mut self, name: &Name) {
        if self.is_my_turn()
            && let Some(entry) = self.roster.get(name)
        {
            self.dial_push_pull(entry.member.address, false);
        }
    }

    /// Returns whether nobody else is in the cluster, as far as anybody could know here.
    pub(super) fn is_alone(&self) -> bool {
        let mut up = self.roster.entries().filter(|e| e.member.state.is_up());
        up.next().is_none() && self.missing_seeds().next().is_none()
    }

    /// Returns the seeds at whose address no member is.
    fn missing_seeds(&self) -> impl Iterator<Item = &SeedAddress> {
        let seeds = self.healing.seeds.iter();
        seeds.filter(|seed| !self.is_address_up(seed.address))
    }

    fn is_address_up(&self, address: SocketAddr) -> bool {
        let mut up = self.roster.entries().filter(|e| e.member.state.is_up());
        up.any(|entry| entry.member.address == address)
    }

    /// Takes the seeds that are to be tried now, and sets their next try.
    fn due_seeds(&mut self, now: Instant, count: usize) -> Vec<SocketAddr> {
        let timing = &self.config.timing;
        let (first, max) = (timing.heal_interval, timing.heal_backoff_max);
        let missing: Vec<SocketAddr> = self.missing_seeds().map(|seed| seed.address).collect();
        let seeds = self.healing.seeds.iter_mut();
        let due = seeds.filter(|s| missing.contains(&s.address) && s.retry.at <= now);
        let mut taken = Vec::new();
        for seed in due.take(count) {
            seed.retry.back_off(now, first, max, &mut self.rng);
            taken.push(seed.address);
        }
        taken
    }
}

/// Most members and most seeds that are tried in one interval.
const TRIES_MAX: usize = 4;
