//! The question who is in a network, which a member that joins one puts.
//!
//! Attachments reach everybody with the gossip, which takes rounds. Some members of the cluster hear of each at once: the
//! network's *directory*, those whose names and the network's id hash highest (highest random weight, Thaler and
//! Ravishankar 1998). Whoever knows the same members finds the same directory, so a member that joins asks it who is
//! there, in the same packet that says that it is itself.
//!
//! ```text
//! A: Enquiry ──▶ B, of the directory
//! A ◀── Members: some that are there, maybe none ── B
//! A: Digest, wishing everything ──▶ C, one of these
//! A ◀── Rows, whole ── C
//! ```

use std::{collections::BTreeSet, net::SocketAddr};

use overlay_core::NetworkId;

use super::{
    Tables,
    message::{Attachment, Members, TableMessage, Wish, hash},
    network::Network,
};
use crate::Name;

impl Tables {
    /// Returns the members that hear of a network's attachments at once.
    pub(super) fn directory(&self, network: NetworkId) -> BTreeSet<Name> {
        let up = self.members.iter().filter(|(_, up)| **up);
        let weigh = |name: &Name| hash(&[name.as_bytes(), network.as_bytes()]);
        let mut weighed: Vec<_> = up.map(|(name, _)| (weigh(name), name)).collect();
        let count = self.timing.sync_fanout.min(weighed.len());
        if count > 0 && count < weighed.len() {
            weighed.select_nth_unstable_by(count - 1, |one, other| other.cmp(one));
        }
        let highest = weighed.into_iter().take(count);
        highest.map(|(_, name)| name.clone()).collect()
    }

    /// Asks a member who is in a network; returns false if it was asked before, or if nothing is left to ask.
    pub(super) fn enquire(&mut self, attachment: &Attachment, member: &Name) -> bool {
        let place = self.networks.get_mut(&attachment.network);
        let Some(joined) = place.and_then(|place| place.joined.as_mut()) else {
            return false;
        };
        let open = !joined.synced && joined.asked.len() < ASKED_MAX;
        if !open || !joined.asked.insert(member.clone()) {
            return false;
        }
        joined.awaited.insert(member.clone());
        self.send(member, None, &TableMessage::Enquiry(attachment.clone()));
        true
    }

    /// A member is up: it is asked if too few were known before.
    pub(super) fn enquire_of(&mut self, member: &Name) {
        for network in self.unsynced() {
            let asked = self.networks.get(&network);
            let asked = asked.and_then(|place| place.joined.as_ref());
            if asked.is_none_or(|joined| joined.asked.len() >= self.timing.sync_fanout) {
                continue;
            }
            let own = self.owner(network, &self.identity.name);
            if let Some(attachment) = own.and_then(|own| own.attachment.clone()) {
                self.enquire(&attachment, member);
            }
        }
    }

    /// A member is Down: it will not answer.
    pub(super) fn give_up(&mut self, member: &Name) {
        for network in self.unsynced() {
            self.answered(network, member);
        }
    }

    fn unsynced(&self) -> Vec<NetworkId> {
        let open = |place: &Network| place.joined.as_ref().is_some_and(|joined| !joined.synced);
        let places = self.networks.iter().filter(|(_, place)| open(place));
        places.map(|(network, _)| *network).collect()
    }

    pub(super) fn on_enquiry(&mut self, from: SocketAddr, attachment: Attachment) {
        let (network, sender) = (attachment.network, attachment.owner.clone());
        self.on_attachment(attachment, Some(from));
        if self.is_own(&sender) {
            return;
        }
        let own = self.identity.name.clone();
        let own = self.is_joined(network).then_some(own);
        let others = self.random_members(network, MEMBERS_MAX);
        let others = others.into_iter().filter(|name| *name != sender);
        let known = own.into_iter().chain(others).take(MEMBERS_MAX);
        let attachments = known.filter_map(|name| self.owner(network, &name)?.attachment.clone());
        let members = Members {
            attachments: attachments.collect(),
            sender: self.identity.name.clone(),
            network,
        };
        self.send(&sender, Some(from), &TableMessage::Members(members));
    }

    pub(super) fn on_members(&mut self, members: Members) {
        for attachment in members.attachments {
            self.on_attachment(attachment, None);
        }
        self.answered(members.network, &members.sender);
    }

    /// A member was asked who is in a network, and has said it or never will.
    pub(super) fn answered(&mut self, network: NetworkId, member: &Name) {
        let nobody = self.network_members(network).next().is_none();
        let place = self.networks.get_mut(&network);
        let Some(joined) = place.and_then(|place| place.joined.as_mut()) else {
            return;
        };
        if joined.synced || !joined.awaited.remove(member) {
            return;
        }
        if nobody && joined.awaited.is_empty() {
            self.synced(network);
        } else if !nobody && !joined.fetching {
            self.fetch(network);
        }
    }

    /// Asks some members of a network for its table; returns whether there are any.
    pub(super) fn fetch(&mut self, network: NetworkId) -> bool {
        let peers = self.random_members(network, self.timing.sync_fanout);
        let place = self.networks.get_mut(&network);
        if let Some(joined) = place.and_then(|place| place.joined.as_mut()) {
            joined.fetching = !peers.is_empty();
            joined.sync_at = self.now + self.timing.sync_retry;
        }
        for peer in &peers {
            self.send_digest(network, peer, Wish::Everything);
        }
        !peers.is_empty()
    }
}

/// Members that are told in one answer, which fits a packet.
const MEMBERS_MAX: usize = 8;
/// Members that are asked of one network, as directories change while members come.
const ASKED_MAX: usize = 16;
