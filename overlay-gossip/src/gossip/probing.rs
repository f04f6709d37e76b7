//! Probes: ping, ask others to ping, ping by stream, suspect (SWIM §3.1, Lifeguard §IV).

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use overlay_core::{Instant, Rng};

use super::Gossip;
use crate::{
    MemberState, Name,
    wire::{Accusation, Ack, IndirectPing, Message, Nack, Origin, Ping},
};

/// Whose turn it is, and what is under way.
#[derive(Debug)]
pub(super) struct Probing {
    /// Members in the order of this round; the last is next.
    order: Vec<Name>,
    next_at: Instant,
    current: Option<Probe>,
    /// Pings for others, by our sequence number.
    relays: BTreeMap<u32, Relay>,
    sequence: u32,
}

/// The probe of one member.
#[derive(Debug)]
struct Probe {
    target: Name,
    sequence: u32,
    /// When others are asked; `None` once they were.
    ask_at: Option<Instant>,
    answered: bool,
    /// Nacks that should come if the network between us and those who were asked is fine.
    nacks_expected: u32,
    nacks: u32,
}

/// A ping for somebody else.
#[derive(Debug)]
struct Relay {
    sequence: u32,
    reply_to: SocketAddr,
    requester: Option<Name>,
    nack: bool,
    until: Instant,
}

impl Probing {
    pub(super) fn new(next_at: Instant, sequence: u32) -> Self {
        Self {
            order: Vec::new(),
            next_at,
            current: None,
            relays: BTreeMap::new(),
            sequence,
        }
    }

    /// Gives a new member a random place in this round. A round that holds more than twice `members` is full of those
    /// who came and went, and is begun anew.
    pub(super) fn enlist(&mut self, name: Name, members: usize, rng: &mut Rng) {
        if self.order.len() > members.saturating_mul(2) {
            self.order.clear();
        }
        let at = rng.index(self.order.len() + 1).unwrap_or(0);
        self.order.insert(at, name);
    }

    pub(super) fn deadline(&self, active: bool) -> Option<Instant> {
        let asking = self.current.as_ref().and_then(|probe| probe.ask_at);
        let relay = self.relays.values().map(|relay| relay.until).min();
        let next = active.then_some(self.next_at);
        [next, asking.filter(|_| active), relay]
            .into_iter()
            .flatten()
            .min()
    }

    /// Starts probing, now that there is somebody to probe.
    pub(super) fn start(&mut self, next_at: Instant) {
        self.next_at = next_at;
        self.current = None;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.order.len() + self.relays.len()
    }

    pub(super) fn delay(&mut self, gap: Duration) {
        self.next_at += gap;
        if let Some(ask_at) = self.current.as_mut().and_then(|p| p.ask_at.as_mut()) {
            *ask_at += gap;
        }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

impl Gossip {
    pub(super) fn probe_due(&mut self) {
        self.end_relays();
        if self.roster.up() == 0 || self.local.member.state == MemberState::Left {
            return;
        }
        if self.probing.next_at <= self.now {
            self.end_probe();
            self.start_probe();
        }
        let current = self.probing.current.as_ref();
        if current.is_some_and(|probe| probe.ask_at.is_some_and(|at| at <= self.now)) {
            self.ask_others();
        }
    }

    fn start_probe(&mut self) {
        let timing = &self.config.timing;
        self.probing.next_at = self.now + self.awareness.scale(timing.probe_interval);
        let ask_at = self.now + timing.probe_timeout;
        let Some(target) = self.next_target() else {
            return;
        };
        let sequence = self.probing.next_sequence();
        let (address, message) = self.ping_messages(&target, sequence);
        self.stats.probes += 1;
        self.probing.current = Some(Probe {
            target: target.clone(),
            sequence,
            ask_at: Some(ask_at),
            answered: false,
            nacks_expected: 0,
            nacks: 0,
        });
        if let Some(address) = address {
            self.send_messages(address, Some(&target), &message);
        }
    }

    /// A ping; with the accusation if its target is suspected, so that it can refute at once (Lifeguard: buddy).
    fn ping_messages(&self, target: &Name, sequence: u32) -> (Option<SocketAddr>, Vec<Message>) {
        let Some(entry) = self.roster.get(target) else {
            return (None, Vec::new());
        };
        let mut messages = vec![Message::Ping(self.ping_of(target, sequence))];
        let accusation = Accusation {
            incarnation: entry.member.incarnation.0,
            node: target.to_string(),
            from: self.local.member.name.to_string(),
        };
        match entry.member.state {
            MemberState::Suspect => messages.push(Message::Suspect(accusation)),
            MemberState::Down => messages.push(Message::Dead(accusation)),
            MemberState::Alive | MemberState::Left => {}
        }
        (Some(entry.member.address), messages)
    }

    pub(super) fn ping_of(&self, target: &Name, sequence: u32) -> Ping {
        Ping {
            sequence,
            node: target.to_string(),
            origin: Some(self.origin()),
        }
    }

    /// Pings a member that is Down, with the accusation that it can refute.
    pub(super) fn ping_down(&mut self, target: &Name) {
        let sequence = self.probing.next_sequence();
        let (address, messages) = self.ping_messages(target, sequence);
        if let Some(address) = address {
            self.send_messages(address, Some(target), &messages);
        }
    }

    fn origin(&self) -> Origin {
        Origin {
            address: self.local.member.address,
            node: self.local.member.name.to_string(),
        }
    }

    /// Takes the next member that is up; shuffles anew at the end of a round, and forgets who is gone for long.
    fn next_target(&mut self) -> Option<Name> {
        for _ in 0..2 {
            while let Some(name) = self.probing.order.pop() {
                let entry = self.roster.get(&name);
                if entry.is_some_and(|entry| entry.member.state.is_up()) {
                    return Some(name);
                }
            }
            self.forget_gone();
            let up = self.roster.entries().filter(|e| e.member.state.is_up());
            let mut order: Vec<Name> = up.map(|entry| entry.member.name.clone()).collect();
            self.rng.shuffle(&mut order);
            self.probing.order = order;
        }
        None
    }

    fn forget_gone(&mut self) {
        let (now, memory) = (self.now, self.config.timing.member_memory);
        let gone: Vec<Name> = self
            .roster
            .entries()
            .filter(|entry| !entry.member.state.is_up() && now - entry.since >= memory)
            .map(|entry| entry.member.name.clone())
            .collect();
        for name in gone {
            self.forget_member(&name);
        }
    }

    /// Nobody answered in time: ask some others, and try a stream.
    fn ask_others(&mut self) {
        let Some(probe) = self.probing.current.as_mut() else {
            return;
        };
        probe.ask_at = None;
        let (target, sequence) = (probe.target.clone(), probe.sequence);
        let Some(entry) = self.roster.get(&target) else {
            return;
        };
        let (address, versions) = (entry.member.address, entry.member.versions);
        let count = self.config.timing.indirect_checks;
        let helpers = self.roster.draw(&mut self.rng, count, |entry| {
            entry.member.state == MemberState::Alive && entry.member.name != target
        });
        for helper in helpers {
            self.ask_one(&helper, &target, address, sequence);
        }
        let (_, max, _) = versions.protocol();
        if self.config.timing.stream_ping && max >= STREAM_PING_VERSION {
            let ping = self.ping_of(&target, sequence);
            self.dial_ping(address, ping);
        }
    }

    fn ask_one(&mut self, helper: &Name, target: &Name, address: SocketAddr, sequence: u32) {
        let Some(entry) = self.roster.get(helper) else {
            return;
        };
        let (_, max, _) = entry.member.versions.protocol();
        let (to, nack) = (entry.member.address, max >= NACK_VERSION);
        if let Some(probe) = self.probing.current.as_mut() {
            probe.nacks_expected += u32::from(nack);
        }
        let message = Message::IndirectPing(IndirectPing {
            sequence,
            target: address,
            node: target.to_string(),
            nack,
            origin: Some(self.origin()),
        });
        self.send_messages(to, Some(helper), &[message]);
    }

    /// Judges the probe whose time is over.
    fn end_probe(&mut self) {
        let Some(probe) = self.probing.current.take() else {
            return;
        };
        if probe.answered {
            return;
        }
        let Some(entry) = self.roster.get(&probe.target) else {
            return;
        };
        if !entry.member.state.is_up() {
            return;
        }
        self.stats.probes_failed += 1;
        let missing = probe.nacks_expected.saturating_sub(probe.nacks);
        let blame = if probe.nacks_expected > 0 { missing } else { 1 };
        let accusation = Accusation {
            incarnation: entry.member.incarnation.0,
            node: probe.target.to_string(),
            from: self.local.member.name.to_string(),
        };
        self.awareness.worsen(blame);
        self.on_suspect(&accusation);
    }

    /// Who is probed answered, itself or through others. `stream`: by stream.
    pub(super) fn on_probe_answer(&mut self, sequence: u32, stream: bool) {
        let Some(probe) = self.probing.current.as_mut() else {
            return;
        };
        if probe.sequence != sequence || probe.answered {
            return;
        }
        probe.answered = true;
        probe.ask_at = None;
        self.awareness.improve();
        self.stats.probes_by_stream_only += u64::from(stream);
    }

    pub(super) fn on_ack(&mut self, sequence: u32) {
        let Some(relay) = self.probing.relays.remove(&sequence) else {
            self.on_probe_answer(sequence, false);
            return;
        };
        let ack = Message::Ack(Ack {
            sequence: relay.sequence,
            payload: Vec::new(),
        });
        self.send_messages(relay.reply_to, relay.requester.as_ref(), &[ack]);
    }

    pub(super) fn on_nack(&mut self, sequence: u32) {
        let current = self.probing.current.as_mut();
        if let Some(probe) = current.filter(|probe| probe.sequence == sequence) {
            probe.nacks = probe.nacks.saturating_add(1);
        }
    }

    pub(super) fn on_ping(&mut self, from: SocketAddr, ping: &Ping) {
        if !ping.node.is_empty() && *ping.node != *self.local.member.name {
            return;
        }
        let ack = Message::Ack(Ack {
            sequence: ping.sequence,
            payload: Vec::new(),
        });
        let (to, name) = answer_to(ping.origin.as_ref(), from);
        self.send_messages(to, name.as_ref(), &[ack]);
    }

    pub(super) fn on_indirect_ping(&mut self, from: SocketAddr, request: IndirectPing) {
        if self.probing.relays.len() >= self.config.limits.relays_max {
            self.stats.relays_refused += 1;
            return;
        }
        let mut target = request.target;
        if target.port() == 0 {
            target.set_port(self.local.member.address.port());
        }
        let (reply_to, requester) = answer_to(request.origin.as_ref(), from);
        let sequence = self.probing.next_sequence();
        let relay = Relay {
            sequence: request.sequence,
            reply_to,
            requester,
            nack: request.nack,
            until: self.now + self.config.timing.probe_timeout,
        };
        self.probing.relays.insert(sequence, relay);
        let name = Name::from(request.node);
        let ping = Message::Ping(self.ping_of(&name, sequence));
        self.send_messages(target, Some(&name), &[ping]);
    }

    /// Tells who asked that nothing was heard.
    fn end_relays(&mut self) {
        let now = self.now;
        let over = self.probing.relays.iter().filter(|(_, r)| r.until <= now);
        let over: Vec<u32> = over.map(|(sequence, _)| *sequence).collect();
        for sequence in over {
            let Some(relay) = self.probing.relays.remove(&sequence) else {
                continue;
            };
            if relay.nack {
                let nack = Message::Nack(Nack {
                    sequence: relay.sequence,
                });
                self.send_messages(relay.reply_to, relay.requester.as_ref(), &[nack]);
            }
        }
    }
}

fn answer_to(origin: Option<&Origin>, from: SocketAddr) -> (SocketAddr, Option<Name>) {
    match origin {
        Some(origin) => (origin.address, Some(Name::from(origin.node.as_str()))),
        None => (from, None),
    }
}

/// Members whose protocol reaches this version can be pinged by stream.
const STREAM_PING_VERSION: u8 = 3;
/// Members whose protocol reaches this version send nacks.
const NACK_VERSION: u8 = 4;
