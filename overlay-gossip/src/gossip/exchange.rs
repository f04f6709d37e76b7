//! Streams: push/pull of the whole membership, pings, long messages.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use overlay_core::Instant;

use super::{Gossip, canonical, membership::alive_of};
use crate::{
    Event, Member, MemberState, Output, StreamId,
    table::MARK,
    wire::{
        Accusation, Ack, Ping, PushPull, PushPullNode, StreamCodec, StreamMessage, StreamReader,
        Versions,
    },
};

/// The streams that are open.
#[derive(Debug, Default)]
pub(super) struct Streams {
    sessions: BTreeMap<StreamId, Session>,
    dialled: usize,
    next_id: u64,
    /// Octets that all streams hold unread.
    held: usize,
}

#[derive(Debug)]
struct Session {
    purpose: Purpose,
    address: SocketAddr,
    reader: StreamReader,
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    PushPull { join: bool },
    Ping { sequence: u32 },
    Accepted,
}

impl Streams {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.sessions.values().map(|session| session.until).min()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn dialled(&self) -> usize {
        self.dialled
    }

    fn accepted_from(&self, from: SocketAddr) -> usize {
        let from = canonical(from).ip();
        let accepted = self.sessions.values();
        let accepted = accepted.filter(|session| session.purpose == Purpose::Accepted);
        accepted.filter(|s| s.address.ip() == from).count()
    }

    /// Returns the stream that holds most, `stream` with `more` octets; of equal ones that which was to hold more.
    fn largest(&self, stream: StreamId, more: usize) -> Option<StreamId> {
        let held = self.sessions.iter().map(|(id, session)| {
            let is_growing = *id == stream;
            let more = if is_growing { more } else { 0 };
            (session.reader.len().saturating_add(more), is_growing, *id)
        });
        held.max().map(|(_, _, id)| id)
    }

    fn remove(&mut self, stream: StreamId) -> Option<Session> {
        let session = self.sessions.remove(&stream)?;
        self.held -= session.reader.len();
        self.dialled -= usize::from(session.purpose != Purpose::Accepted);
        Some(session)
    }
}

impl Gossip {
    /// Somebody opened a stream to us. `stream` is a [`StreamId::Accepted`] that was not used before.
    pub fn handle_stream_opened(&mut self, now: Instant, stream: StreamId, from: SocketAddr) {
        self.advance(now);
        let accepted = self.streams.sessions.len() - self.streams.dialled;
        let known = self.streams.sessions.contains_key(&stream);
        let full = accepted >= self.config.limits.streams_max
            || self.streams.accepted_from(from) >= self.config.limits.streams_per_address_max;
        if full || known || matches!(stream, StreamId::Dialled(_)) {
            self.stats.streams_refused += 1;
            if !known {
                self.outputs.push_back(Output::StreamClose { stream });
            }
            return;
        }
        self.open(stream, Purpose::Accepted, canonical(from));
    }

    /// A stream that we dialled is open.
    pub fn handle_stream_connected(&mut self, now: Instant, stream: StreamId) {
        // What there is to say was queued when it was dialled.
        let _ = stream;
        self.advance(now);
    }

    /// Octets arrived on a stream. A malformed message closes it and is counted.
    pub fn handle_stream_data(&mut self, now: Instant, stream: StreamId, bytes: &[u8]) {
        self.advance(now);
        self.make_room(stream, bytes.len());
        let Some(session) = self.streams.sessions.get_mut(&stream) else {
            return;
        };
        let codec = StreamCodec {
            label: &self.config.label,
            keyring: self.config.keyring.as_ref(),
            verify_incoming: self.config.verify_incoming,
            verify_outgoing: self.config.verify_outgoing,
            compress: self.config.compress,
            stream_bytes_max: self.config.limits.stream_bytes_max,
        };
        let before = session.reader.len();
        let dialled = session.purpose != Purpose::Accepted;
        let message = session.reader.push(&codec, dialled, bytes);
        self.streams.held += session.reader.len() - before;
        match message {
            Ok(None) => {}
            Ok(Some(message)) => self.on_stream_message(stream, message),
            Err(_) => {
                self.stats.malformed += 1;
                self.close(stream);
            }
        }
        self.settle();
    }

    /// A stream was closed by the other side, broke, or could not be opened.
    pub fn handle_stream_closed(&mut self, now: Instant, stream: StreamId) {
        self.advance(now);
        self.streams.remove(stream);
    }

    /// Closes streams until another `more` octets of `stream` may be held: those that hold most, `stream` perhaps.
    fn make_room(&mut self, stream: StreamId, more: usize) {
        let limit = self.config.limits.stream_bytes_total_max;
        while self.streams.sessions.contains_key(&stream)
            && self.streams.held.saturating_add(more) > limit
        {
            let largest = self.streams.largest(stream, more).unwrap_or(stream);
            self.stats.streams_refused += 1;
            self.close(largest);
        }
    }

    fn on_stream_message(&mut self, stream: StreamId, message: StreamMessage) {
        let Some(session) = self.streams.sessions.get(&stream) else {
            return;
        };
        let (purpose, from) = (session.purpose, session.address);
        match (purpose, message) {
            (Purpose::Accepted, StreamMessage::PushPull(theirs)) => {
                let reply = StreamMessage::PushPull(self.push_pull(theirs.join));
                self.reply(stream, &reply);
                self.merge(from, theirs);
            }
            (Purpose::Accepted, StreamMessage::Ping(ping)) => {
                if ping.node.is_empty() || *ping.node == *self.local.member.name {
                    let ack = StreamMessage::Ack(Ack {
                        sequence: ping.sequence,
                        payload: Vec::new(),
                    });
                    self.reply(stream, &ack);
                } else {
                    self.close(stream);
                }
            }
            (Purpose::Accepted, StreamMessage::User(bytes)) => {
                self.close(stream);
                self.on_user(from, Bytes::from(bytes));
            }
            (Purpose::PushPull { join }, StreamMessage::PushPull(theirs)) => {
                self.close(stream);
                let dropped = self.stats.claims_dropped;
                let merged = self.merge(from, theirs);
                if self.stats.claims_dropped > dropped {
                    self.push_pull_soon();
                }
                if merged && join {
                    self.event(Event::Joined { address: from });
                }
            }
            (Purpose::Ping { sequence }, StreamMessage::Ack(ack)) => {
                self.close(stream);
                if ack.sequence == sequence {
                    self.on_probe_answer(sequence, true);
                }
            }
            _ => self.close(stream),
        }
    }

    /// Sends the answer, and closes.
    fn reply(&mut self, stream: StreamId, message: &StreamMessage) {
        self.write(stream, message, false);
        self.close(stream);
    }

    fn write(&mut self, stream: StreamId, message: &StreamMessage, dialler: bool) {
        let nonce = self.rng.bytes();
        let codec = StreamCodec {
            label: &self.config.label,
            keyring: self.config.keyring.as_ref(),
            verify_incoming: self.config.verify_incoming,
            verify_outgoing: self.config.verify_outgoing,
            compress: self.config.compress,
            stream_bytes_max: self.config.limits.stream_bytes_max,
        };
        if let Some(bytes) = codec.encode(message, dialler, nonce) {
            self.outputs.push_back(Output::StreamSend { stream, bytes });
        }
    }

    fn open(&mut self, stream: StreamId, purpose: Purpose, address: SocketAddr) {
        self.streams.dialled += usize::from(purpose != Purpose::Accepted);
        let session = Session {
            purpose,
            address,
            reader: StreamReader::new(),
            until: self.now + self.config.timing.stream_timeout,
        };
        self.streams.sessions.insert(stream, session);
    }

    fn close(&mut self, stream: StreamId) {
        self.streams.remove(stream);
        self.outputs.push_back(Output::StreamClose { stream });
    }

    pub(super) fn close_late_streams(&mut self) {
        let now = self.now;
        let sessions = self.streams.sessions.iter();
        let late = sessions.filter(|(_, session)| session.until <= now);
        let late: Vec<StreamId> = late.map(|(stream, _)| *stream).collect();
        for stream in late {
            self.stats.streams_timed_out += 1;
            self.close(stream);
        }
    }

    fn dial(&mut self, to: SocketAddr) -> Option<StreamId> {
        if self.streams.dialled >= self.config.limits.dials_max {
            self.stats.streams_refused += 1;
            return None;
        }
        self.streams.next_id += 1;
        let stream = StreamId::Dialled(self.streams.next_id);
        self.outputs.push_back(Output::Dial { stream, to });
        Some(stream)
    }

    pub(super) fn dial_push_pull(&mut self, to: SocketAddr, join: bool) {
        if let Some(stream) = self.dial(to) {
            self.open(stream, Purpose::PushPull { join }, to);
            let message = StreamMessage::PushPull(self.push_pull(join));
            self.write(stream, &message, true);
        }
    }

    pub(super) fn dial_ping(&mut self, to: SocketAddr, ping: Ping) {
        if let Some(stream) = self.dial(to) {
            let sequence = ping.sequence;
            self.open(stream, Purpose::Ping { sequence }, to);
            self.write(stream, &StreamMessage::Ping(ping), true);
        }
    }

    pub(super) fn dial_user(&mut self, to: SocketAddr, bytes: &[u8]) {
        if let Some(stream) = self.dial(to) {
            let message = StreamMessage::User(bytes.to_vec());
            self.write(stream, &message, true);
            self.outputs.push_back(Output::StreamClose { stream });
        }
    }

    pub(super) fn push_pull_due(&mut self) {
        if self.roster.up() == 0 || self.timers.push_pull_at > self.now {
            return;
        }
        self.timers.push_pull_at = self.now + self.push_pull_interval();
        let up = |entry: &crate::roster::Entry| entry.member.state == MemberState::Alive;
        let peer = self.roster.draw(&mut self.rng, 1, up).pop();
        let address = peer.and_then(|peer| Some(self.roster.get(&peer)?.member.address));
        if let Some(address) = address.filter(|_| self.local.member.state == MemberState::Alive) {
            self.dial_push_pull(address, false);
        }
    }

    /// An answer named more members than may be verified at once: the rest is asked for when it may be. Only where we
    /// asked, so that nobody else decides how often we do.
    fn push_pull_soon(&mut self) {
        let soon = self.now + CLAIMS_REFILL;
        self.timers.push_pull_at = self.timers.push_pull_at.min(soon);
    }

    /// Large clusters exchange less often: the interval times `ceil(log2(members) - 5) + 1` beyond 32.
    fn push_pull_interval(&self) -> Duration {
        let members = self.roster.up() + 1;
        let log2 = usize::BITS - (members - 1).leading_zeros();
        self.config.timing.push_pull_interval * (log2.saturating_sub(5) + 1)
    }

    /// Everything that we know.
    fn push_pull(&self, join: bool) -> PushPull {
        let node = |member: &Member| PushPullNode {
            alive: alive_of(member),
            state: member.state.number(),
        };
        PushPull {
            join,
            nodes: self.members().map(node).collect(),
            user_state: self.tables.user_state(),
        }
    }

    /// Takes what somebody else knows; returns false if it cannot be spoken with.
    fn merge(&mut self, from: SocketAddr, theirs: PushPull) -> bool {
        if !self.is_compatible(&theirs) {
            self.stats.versions_refused += 1;
            return false;
        }
        for node in theirs.nodes {
            let accusation = |from: &str| Accusation {
                incarnation: node.alive.incarnation,
                node: node.alive.node.clone(),
                from: from.to_owned(),
            };
            match MemberState::of(node.state) {
                Some(MemberState::Alive) => self.on_alive(from, node.alive),
                // Never Down at once on hearsay: the accused may refute.
                Some(MemberState::Suspect | MemberState::Down) => {
                    let accusation = accusation(&self.local.member.name);
                    self.on_suspect(&accusation);
                }
                Some(MemberState::Left) => {
                    let accusation = accusation(&node.alive.node);
                    self.on_dead(&accusation);
                }
                None => self.stats.parts_ignored += 1,
            }
        }
        if theirs.user_state.first() == Some(&MARK) {
            self.tables.handle_user_state(self.now, &theirs.user_state);
        }
        true
    }

    /// Every node must speak, now, what all that are alive can speak; for the protocol and for the application's.
    fn is_compatible(&self, theirs: &PushPull) -> bool {
        let ours = self.members().map(|m| (m.state.number(), m.versions));
        let ours = ours.filter(|(_, versions)| versions.is_sound());
        let theirs = theirs.nodes.iter().map(|n| (n.state, n.alive.versions));
        let all: Vec<(u8, Versions)> = ours
            .chain(theirs.filter(|(_, versions)| versions.is_sound()))
            .collect();
        let fits = |part: fn(Versions) -> (u8, u8, u8)| {
            let alive = all.iter().filter(|(state, _)| *state == 0);
            let alive: Vec<_> = alive.map(|(_, versions)| part(*versions)).collect();
            let min = alive.iter().map(|(min, _, _)| *min).max().unwrap_or(0);
            let max = alive
                .iter()
                .map(|(_, max, _)| *max)
                .min()
                .unwrap_or(u8::MAX);
            let mut currents = all.iter().map(|(_, versions)| part(*versions).2);
            currents.all(|current| (min..=max).contains(&current))
        };
        fits(Versions::protocol) && fits(Versions::delegate)
    }
}

/// Time after which [`Limits::claims_per_second_max`](crate::Limits::claims_per_second_max) claims may be verified again.
const CLAIMS_REFILL: Duration = Duration::from_secs(1);
