//! The other members that are remembered.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use overlay_core::{Instant, Rng};

use crate::{
    Member, MemberState, Name,
    claim::{Allowance, Verdict},
    suspicion::Suspicion,
};

/// All members but ourselves.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    entries: BTreeMap<Name, Entry>,
    /// The names in no order, to draw from.
    names: Vec<Name>,
    up: usize,
    /// When suspicions end.
    deadlines: BTreeSet<(Instant, Name)>,
    /// What verifying claims of a place in here may still cost.
    pub(crate) allowance: Allowance,
}

/// A member with what only this node knows of it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) member: Member,
    /// Since when it is in its state.
    pub(crate) since: Instant,
    suspicion: Option<Suspicion>,
    /// When, and how often already, it was tried while it was Down.
    pub(crate) retry: Retry,
    /// The last address that was claimed for its name and not believed.
    pub(crate) claimed: Option<SocketAddr>,
    /// What was decided on the claim that is held of it.
    pub(crate) verdict: Verdict,
}

/// A back-off.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retry {
    pub(crate) at: Instant,
    pub(crate) tries: u32,
}

impl Retry {
    /// Sets the next try: twice as far off each time up to `max`, give or take a quarter.
    pub(crate) fn back_off(&mut self, now: Instant, first: Duration, max: Duration, rng: &mut Rng) {
        let wait = first.saturating_mul(1 << self.tries.min(16)).min(max);
        self.tries = self.tries.saturating_add(1);
        self.at = now + wait * 3 / 4 + rng.duration(Duration::ZERO..wait / 2);
    }
}

impl Roster {
    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Entry> {
        self.entries.get_mut(name)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Returns how many members are remembered.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns how many members are up.
    pub(crate) fn up(&self) -> usize {
        self.up
    }

    pub(crate) fn insert(&mut self, member: Member, now: Instant) {
        let name = member.name.clone();
        self.up += usize::from(member.state.is_up());
        let entry = Entry {
            member,
            since: now,
            suspicion: None,
            retry: Retry::default(),
            claimed: None,
            verdict: Verdict {
                at: now,
                believed: true,
            },
        };
        self.names.push(name.clone());
        self.entries.insert(name, entry);
    }

    pub(crate) fn remove(&mut self, name: &Name) {
        self.end_suspicion(name);
        if let Some(entry) = self.entries.remove(name) {
            self.up -= usize::from(entry.member.state.is_up());
            self.names.retain(|known| known != name);
        }
    }

    /// Changes the state of a member; any suspicion ends.
    pub(crate) fn set_state(&mut self, name: &Name, state: MemberState, now: Instant) {
        self.end_suspicion(name);
        if let Some(entry) = self.entries.get_mut(name) {
            self.up -= usize::from(entry.member.state.is_up());
            self.up += usize::from(state.is_up());
            if entry.member.state != state {
                entry.since = now;
            }
            entry.member.state = state;
        }
    }

    pub(crate) fn suspect(&mut self, name: &Name, suspicion: Suspicion, now: Instant) {
        self.set_state(name, MemberState::Suspect, now);
        if let Some(entry) = self.entries.get_mut(name) {
            self.deadlines.insert((suspicion.deadline(), name.clone()));
            entry.suspicion = Some(suspicion);
        }
    }

    /// Takes a confirmation of a suspicion that runs; returns whether it is worth passing on.
    pub(crate) fn confirm(&mut self, name: &Name, from: &Name) -> bool {
        let entry = self.entries.get_mut(name);
        let Some(suspicion) = entry.and_then(|entry| entry.suspicion.as_mut()) else {
            return false;
        };
        let before = suspicion.deadline();
        let news = suspicion.confirm(from);
        if news {
            self.deadlines.remove(&(before, name.clone()));
            self.deadlines.insert((suspicion.deadline(), name.clone()));
        }
        news
    }

    fn end_suspicion(&mut self, name: &Name) {
        let entry = self.entries.get_mut(name);
        if let Some(suspicion) = entry.and_then(|entry| entry.suspicion.take()) {
            self.deadlines.remove(&(suspicion.deadline(), name.clone()));
        }
    }

    /// Returns when the next suspicion ends.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Returns a member whose suspicion has ended.
    pub(crate) fn expired(&self, now: Instant) -> Option<Name> {
        let (at, name) = self.deadlines.first()?;
        (*at <= now).then(|| name.clone())
    }

    /// Gives all suspicions more time.
    pub(crate) fn delay(&mut self, gap: Duration) {
        let names: Vec<Name> = self
            .deadlines
            .iter()
            .map(|(_, name)| name.clone())
            .collect();
        self.deadlines.clear();
        for name in names {
            let entry = self.entries.get_mut(&name);
            if let Some(suspicion) = entry.and_then(|entry| entry.suspicion.as_mut()) {
                suspicion.delay(gap);
                self.deadlines.insert((suspicion.deadline(), name));
            }
        }
    }

    /// Draws at most `count` different members that satisfy `wanted`.
    pub(crate) fn draw(
        &self,
        rng: &mut Rng,
        count: usize,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Vec<Name> {
        let is_wanted = |name: &Name| self.entries.get(name).is_some_and(&wanted);
        let mut drawn: Vec<Name> = Vec::new();
        if self.names.len() > DRAW_ALL_MAX {
            for _ in 0..count * DRAW_TRIES {
                let at = rng.index(self.names.len());
                let name = at.and_then(|at| self.names.get(at));
                if let Some(name) = name.filter(|name| is_wanted(name) && !drawn.contains(name)) {
                    drawn.push(name.clone());
                }
                if drawn.len() >= count {
                    return drawn;
                }
            }
            if !drawn.is_empty() {
                return drawn;
            }
        }
        drawn = self
            .names
            .iter()
            .filter(|name| is_wanted(name))
            .cloned()
            .collect();
        for at in 0..count.min(drawn.len()) {
            if let Some(other) = rng.index(drawn.len() - at) {
                drawn.swap(at, at + other);
            }
        }
        drawn.truncate(count);
        drawn
    }
}

/// Up to this many members, draws are exact; beyond, they are tried at random first.
const DRAW_ALL_MAX: usize = 64;
const DRAW_TRIES: usize = 8;
