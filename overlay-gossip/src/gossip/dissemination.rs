//! Packets out: direct messages, piggybacked broadcasts, rounds of gossip.

use std::net::SocketAddr;

use bytes::Bytes;

use super::Gossip;
use crate::{
    MemberState, Name, Output,
    queue::retransmits,
    roster::Entry,
    wire::{COMPOUND_BYTES, LENGTH_BYTES, Message, PARTS_MAX, PacketCodec, overhead_bytes},
};

impl Gossip {
    pub(super) fn packet_codec(&self) -> PacketCodec<'_> {
        PacketCodec {
            label: &self.config.label,
            keyring: self.config.keyring.as_ref(),
            verify_incoming: self.config.verify_incoming,
            verify_outgoing: self.config.verify_outgoing,
            compress: self.config.compress,
            decompressed_bytes_max: self.config.limits.decompressed_bytes_max,
        }
    }

    /// Returns the octets that the parts of one compound may have, with the length of each.
    pub(super) fn gossip_budget(&self) -> usize {
        let sealed = self.config.keyring.is_some();
        let overhead = overhead_bytes(&self.config.label, sealed) + COMPOUND_BYTES;
        self.config.limits.packet_bytes_max.saturating_sub(overhead)
    }

    /// Returns whether a message of the application fits a datagram of its own.
    pub(super) fn fits_packet(&self, message_bytes: usize) -> bool {
        let sealed = self.config.keyring.is_some();
        let overhead = overhead_bytes(&self.config.label, sealed) + 1;
        message_bytes.saturating_add(overhead) <= self.config.limits.packet_bytes_max
    }

    /// Sends messages in one datagram, filled up with broadcasts. `peer` is the receiver's name, if it is known.
    pub(super) fn send_messages(
        &mut self,
        to: SocketAddr,
        peer: Option<&Name>,
        messages: &[Message],
    ) {
        let mut parts: Vec<Bytes> = messages.iter().map(|m| Bytes::from(m.encode())).collect();
        let used: usize = parts.iter().map(|part| part.len() + LENGTH_BYTES).sum();
        let budget = self.gossip_budget().saturating_sub(used);
        let places = PARTS_MAX.saturating_sub(parts.len());
        parts.append(&mut self.take_broadcasts(budget, places));
        self.send_parts(to, peer, &parts);
    }

    /// Sends a user message: by datagram if it fits one, otherwise by a stream of its own.
    pub(super) fn send_user(&mut self, to: SocketAddr, peer: Option<&Name>, bytes: &[u8]) {
        if self.fits_packet(bytes.len()) {
            // Nothing rides on it: a burst to one member would use up the transmissions of what others still miss.
            let message = Message::User(bytes.to_vec()).encode();
            self.send_parts(to, peer, &[Bytes::from(message)]);
        } else {
            self.dial_user(to, bytes);
        }
    }

    fn send_parts(&mut self, to: SocketAddr, peer: Option<&Name>, parts: &[Bytes]) {
        let entry = peer.and_then(|peer| self.roster.get(peer));
        let checksum = entry.is_some_and(|entry| {
            let (_, max, _) = entry.member.versions.protocol();
            max >= CHECKSUM_VERSION
        });
        let nonce = self.rng.bytes();
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        let Some(bytes) = self.packet_codec().encode(&parts, checksum, nonce) else {
            return;
        };
        debug_assert!(
            bytes.len() <= self.config.limits.packet_bytes_max,
            "a packet of {} octets does not fit",
            bytes.len()
        );
        self.stats.datagrams_sent += 1;
        self.stats.datagram_bytes_sent += u64::try_from(bytes.len()).unwrap_or(0);
        self.outputs.push_back(Output::Datagram { to, bytes });
    }

    /// Takes broadcasts for one packet, those of membership first.
    fn take_broadcasts(&mut self, budget: usize, places: usize) -> Vec<Bytes> {
        let mult = self.config.timing.retransmit_mult;
        let times_max = retransmits(mult, self.roster.up() + 1);
        let mut taken = self
            .broadcasts
            .take(budget, LENGTH_BYTES, places, times_max);
        let used: usize = taken.iter().map(|part| part.len() + LENGTH_BYTES).sum();
        let places = places.saturating_sub(taken.len());
        let rest = budget.saturating_sub(used);
        let mut users = self
            .user_broadcasts
            .take(rest, LENGTH_BYTES, places, times_max);
        taken.append(&mut users);
        taken
    }

    /// Queues a membership message, in place of what was queued about the member.
    pub(super) fn broadcast_member(&mut self, about: &Name, message: &Message, own: bool) {
        let bytes = Bytes::from(message.encode());
        self.broadcasts.push(about.clone(), bytes, own);
        self.arm_gossip();
    }

    /// Sees to it that a round of gossip comes, if there is anything to say and somebody to say it to.
    pub(super) fn arm_gossip(&mut self) {
        let anything = !self.broadcasts.is_empty() || !self.user_broadcasts.is_empty();
        if anything && self.roster.up() > 0 && self.timers.gossip_at.is_none() {
            let interval = self.config.timing.gossip_interval;
            let soon = self.now + interval / SOON;
            self.timers.gossip_at = Some(soon.max(self.timers.gossip_from + interval));
        }
    }

    pub(super) fn gossip_due(&mut self) {
        if self.timers.gossip_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.timers.gossip_at = None;
        self.timers.gossip_from = self.now;
        self.gossip_round(self.config.timing.gossip_nodes);
        self.arm_gossip();
    }

    /// Tells `count` random members what there is to tell.
    pub(super) fn gossip_round(&mut self, count: usize) {
        let (now, patience) = (self.now, self.config.timing.gossip_to_the_dead);
        let wanted = |entry: &Entry| match entry.member.state {
            MemberState::Alive | MemberState::Suspect => true,
            MemberState::Down => now.duration_since(entry.since) < patience,
            MemberState::Left => false,
        };
        for name in self.roster.draw(&mut self.rng, count, wanted) {
            let parts = self.take_broadcasts(self.gossip_budget(), PARTS_MAX);
            if parts.is_empty() {
                return;
            }
            let address = self.roster.get(&name).map(|entry| entry.member.address);
            if let Some(address) = address {
                self.send_parts(address, Some(&name), &parts);
            }
        }
    }
}

/// Members whose protocol reaches this version understand a checksum.
const CHECKSUM_VERSION: u8 = 5;
/// Part of the gossip interval that the first broadcast after a silence waits for others.
const SOON: u32 = 10;
