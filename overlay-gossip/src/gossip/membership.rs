//! Alive, suspect, dead: who believes what of whom (SWIM §4.2).

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{Gossip, canonical};
use crate::{
    Event, Incarnation, Member, MemberClaim, MemberState, Name,
    queue::Queue,
    suspicion::{Span, Suspicion},
    table::MARK,
    wire::{Accusation, Alive, Message},
};

impl Gossip {
    pub(super) fn on_message(&mut self, from: SocketAddr, message: Message) {
        match message {
            Message::Ping(ping) => self.on_ping(from, &ping),
            Message::IndirectPing(ping) => self.on_indirect_ping(from, ping),
            Message::Ack(ack) => self.on_ack(ack.sequence),
            Message::Nack(nack) => self.on_nack(nack.sequence),
            Message::Suspect(accusation) => self.on_suspect(&accusation),
            Message::Alive(alive) => self.on_alive(from, alive),
            Message::Dead(accusation) => self.on_dead(&accusation),
            Message::User(bytes) => self.on_user(from, Bytes::from(bytes)),
        }
    }

    pub(super) fn on_user(&mut self, from: SocketAddr, bytes: Bytes) {
        if bytes.first() == Some(&MARK) {
            // The tables count what they cannot read.
            let _counted = self.tables.handle_message(self.now, from, &bytes);
        } else {
            self.event(Event::UserMessage { from, bytes });
        }
    }

    /// `from`: source of the packet or stream that says so.
    pub(super) fn on_alive(&mut self, from: SocketAddr, mut alive: Alive) {
        if !self.is_spoken(alive.versions) {
            self.stats.versions_refused += 1;
            return;
        }
        alive.address = canonical(alive.address);
        if alive.address.port() == 0 {
            alive.address.set_port(self.local.member.address.port());
        }
        if *alive.node == *self.local.member.name {
            self.on_alive_self(from, &alive);
            return;
        }
        let Some(entry) = self.roster.get(&alive.node) else {
            if self.is_believed(from, &alive) {
                self.on_stranger(&alive);
            }
            return;
        };
        let member = &entry.member;
        let moved = member.address != alive.address && member.state.is_up();
        if moved && self.config.member_verifier.is_none() {
            self.on_conflict(&alive);
            return;
        }
        let newer = Incarnation(alive.incarnation).is_after(member.incarnation);
        if newer && self.is_believed(from, &alive) {
            self.renew_member(alive);
        }
    }

    /// Takes a newer word of a member that is known.
    fn renew_member(&mut self, alive: Alive) {
        let Some(entry) = self.roster.get_mut(&alive.node) else {
            return;
        };
        let member = &mut entry.member;
        let name = member.name.clone();
        let was = member.state;
        let changed = member.address != alive.address
            || member.meta != alive.meta
            || member.versions != alive.versions;
        member.incarnation = Incarnation(alive.incarnation);
        member.address = alive.address;
        member.versions = alive.versions;
        member.meta = Bytes::from(alive.meta.clone());
        entry.claimed = None;
        entry.retry = crate::roster::Retry::default();
        let alone = self.roster.up() == 0;
        self.roster.set_state(&name, MemberState::Alive, self.now);
        self.start_timers(alone);
        self.broadcast_member(&name, &Message::Alive(alive), false);
        self.tell_alive(&name, was, changed);
    }

    /// Somebody claims the name of a member that is up from elsewhere, and nobody is there to decide.
    fn on_conflict(&mut self, alive: &Alive) {
        self.stats.name_conflicts += 1;
        let Some(entry) = self.roster.get_mut(&alive.node) else {
            return;
        };
        let (known, claimed) = (entry.member.address, alive.address);
        if entry.claimed.replace(claimed) != Some(claimed) {
            let name = entry.member.name.clone();
            self.event(Event::NameConflict {
                name,
                known,
                claimed,
            });
        }
    }

    fn tell_alive(&mut self, name: &Name, was: MemberState, changed: bool) {
        let Some(entry) = self.roster.get(name) else {
            return;
        };
        let member = entry.member.clone();
        match was {
            MemberState::Down | MemberState::Left => {
                self.enlist(name);
                self.event(Event::MemberAlive(member));
                self.tables.handle_member_up(self.now, name);
                self.on_return(name);
            }
            MemberState::Suspect => self.event(Event::MemberRefuted(member.clone())),
            MemberState::Alive => {}
        }
        if changed && was.is_up() {
            let member = self.roster.get(name).map(|entry| entry.member.clone());
            self.outputs
                .extend(member.map(|m| crate::Output::Event(Event::MemberUpdated(m))));
        }
    }

    fn on_stranger(&mut self, alive: &Alive) {
        if self.roster.len() >= self.config.limits.members_max && !self.evict() {
            self.stats.members_refused += 1;
            return;
        }
        let name = Name::from(alive.node.as_str());
        let member = Member {
            name: name.clone(),
            address: alive.address,
            meta: Bytes::from(alive.meta.clone()),
            state: MemberState::Alive,
            incarnation: Incarnation(alive.incarnation),
            versions: alive.versions,
        };
        let alone = self.roster.up() == 0;
        self.roster.insert(member.clone(), self.now);
        self.start_timers(alone);
        self.enlist(&name);
        self.broadcast_member(&name, &Message::Alive(alive.clone()), false);
        self.event(Event::MemberAlive(member));
        self.tables.handle_member_up(self.now, &name);
    }

    fn enlist(&mut self, name: &Name) {
        let members = self.roster.len();
        self.probing.enlist(name.clone(), members, &mut self.rng);
    }

    /// Sets the timers that stood still while we were alone.
    fn start_timers(&mut self, alone: bool) {
        if alone {
            let timing = &self.config.timing;
            let first = self.rng.duration(Duration::ZERO..timing.probe_interval);
            self.probing.start(self.now + first);
            let push_pull = timing.push_pull_interval;
            self.timers.push_pull_at = self.now + self.rng.duration(push_pull / 2..push_pull);
        }
    }

    /// Makes room by forgetting the member that is gone for the longest time.
    fn evict(&mut self) -> bool {
        let gone = self.roster.entries().filter(|e| !e.member.state.is_up());
        let oldest = gone.min_by_key(|entry| entry.since);
        let Some(name) = oldest.map(|entry| entry.member.name.clone()) else {
            return false;
        };
        self.forget_member(&name);
        true
    }

    pub(super) fn forget_member(&mut self, name: &Name) {
        self.roster.remove(name);
        self.broadcasts.remove(name);
        self.tables.handle_member_gone(self.now, name);
    }

    /// Somebody says that we are alive: that may be our former life, or another member with our name.
    fn on_alive_self(&mut self, from: SocketAddr, alive: &Alive) {
        let (own, said) = (&self.local.member, Incarnation(alive.incarnation));
        let leaving = self.local.leave_until.is_some() || own.state == MemberState::Left;
        if leaving || own.incarnation.is_after(said) {
            return;
        }
        let same = MemberClaim::of_alive(alive).says_as(&MemberClaim::of_member(own));
        if same && said == own.incarnation {
            return;
        }
        // What nobody else believes needs no answer, or somebody who makes it up could keep us busy.
        if same || self.is_believable_of_us(from, alive) {
            self.refute(said);
        }
    }

    pub(super) fn on_suspect(&mut self, accusation: &Accusation) {
        if *accusation.node == *self.local.member.name {
            self.on_accused(accusation);
            return;
        }
        let by = Name::from(accusation.from.as_str());
        let Some(entry) = self.roster.get(&accusation.node) else {
            return;
        };
        let (name, member) = (entry.member.name.clone(), &entry.member);
        if member
            .incarnation
            .is_after(Incarnation(accusation.incarnation))
        {
            return;
        }
        let message = Message::Suspect(accusation.clone());
        match member.state {
            MemberState::Suspect => {
                if self.roster.confirm(&name, &by) {
                    self.broadcast_member(&name, &message, false);
                }
            }
            MemberState::Alive => {
                let span = Span::of(&self.config.timing, self.roster.up() + 1);
                let suspicion = Suspicion::new(by.clone(), span, self.now);
                self.roster.suspect(&name, suspicion, self.now);
                if let Some(entry) = self.roster.get_mut(&name) {
                    entry.member.incarnation = Incarnation(accusation.incarnation);
                    let member = entry.member.clone();
                    self.event(Event::MemberSuspect { member, by });
                }
                self.broadcast_member(&name, &message, false);
            }
            MemberState::Down | MemberState::Left => {}
        }
    }

    pub(super) fn on_dead(&mut self, accusation: &Accusation) {
        if *accusation.node == *self.local.member.name {
            self.on_accused(accusation);
            return;
        }
        let Some(entry) = self.roster.get_mut(&accusation.node) else {
            return;
        };
        let member = &mut entry.member;
        let name = member.name.clone();
        let left = accusation.from == accusation.node;
        let over =
            member.state == MemberState::Left || (member.state == MemberState::Down && !left);
        let accused = Incarnation(accusation.incarnation);
        if member.incarnation.is_after(accused) || over {
            return;
        }
        member.incarnation = accused;
        let state = if left {
            MemberState::Left
        } else {
            MemberState::Down
        };
        self.roster.set_state(&name, state, self.now);
        self.broadcast_member(&name, &Message::Dead(accusation.clone()), false);
        let Some(member) = self.roster.get(&name).map(|entry| entry.member.clone()) else {
            return;
        };
        if left {
            self.event(Event::MemberLeft(member));
            self.tables.handle_member_gone(self.now, &name);
        } else {
            self.stats.downs += 1;
            self.event(Event::MemberDown(member));
            self.tables.handle_member_down(self.now, &name);
            self.arm_healing();
        }
    }

    fn on_accused(&mut self, accusation: &Accusation) {
        let own = &self.local.member;
        let leaving = self.local.leave_until.is_some() || own.state == MemberState::Left;
        let accused = Incarnation(accusation.incarnation);
        if !leaving && !own.incarnation.is_after(accused) {
            self.refute(accused);
        }
    }

    /// Says that we are alive, louder than an accusation.
    fn refute(&mut self, accused: Incarnation) {
        self.stats.refutations += 1;
        self.awareness.worsen(1);
        self.renew_incarnation(accused);
    }

    /// Says anew what we are, with an incarnation beyond `seen` and our own.
    pub(super) fn renew_incarnation(&mut self, seen: Incarnation) {
        let own = &mut self.local.member;
        own.incarnation = own.incarnation.latest(seen).next();
        let (name, alive) = (own.name.clone(), alive_of(own));
        self.broadcast_member(&name, &Message::Alive(alive), true);
    }

    /// Declares Down whoever did not refute in time.
    pub(super) fn end_suspicions(&mut self) {
        while let Some(name) = self.roster.expired(self.now) {
            let Some(entry) = self.roster.get(&name) else {
                return;
            };
            let accusation = Accusation {
                incarnation: entry.member.incarnation.0,
                node: name.to_string(),
                from: self.local.member.name.to_string(),
            };
            self.on_dead(&accusation);
        }
    }

    pub(super) fn start_leaving(&mut self) {
        if self.local.member.state == MemberState::Left {
            return;
        }
        self.local.member.state = MemberState::Left;
        let name = self.local.member.name.clone();
        let farewell = Message::Dead(Accusation {
            incarnation: self.local.member.incarnation.0,
            node: name.to_string(),
            from: name.to_string(),
        });
        self.local.leave_until = Some(self.now + self.config.timing.leave_timeout);
        self.broadcast_member(&name, &farewell, true);
        self.gossip_round(self.config.timing.row_fanout);
        self.leave_due();
    }

    pub(super) fn leave_due(&mut self) {
        let Some(until) = self.local.leave_until else {
            return;
        };
        let told = !self.broadcasts.contains(&self.local.member.name) || self.roster.up() == 0;
        if told || until <= self.now {
            self.local.leave_until = None;
            self.event(Event::LeaveDone);
        }
    }

    /// A member that left joins again.
    pub(super) fn rejoin(&mut self) {
        if self.local.member.state == MemberState::Left {
            self.local.leave_until = None;
            self.local.member.state = MemberState::Alive;
            self.broadcasts = Queue::new(self.config.limits.broadcasts_max);
            self.renew_incarnation(self.local.member.incarnation);
            self.start_timers(true);
        }
    }
}

pub(super) fn alive_of(member: &Member) -> Alive {
    Alive {
        incarnation: member.incarnation.0,
        node: member.name.to_string(),
        address: member.address,
        meta: member.meta.to_vec(),
        versions: member.versions,
    }
}
