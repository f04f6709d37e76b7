//! What is left of former lives of this member, and how its present words get above them.
//!
//! A process that starts anew knows nothing of the versions that its name gave out before; it begins with the lowest.
//! As soon as anybody shows it a word of its own name that it did not say, or that it said otherwise, and which stands
//! at or above its own, it jumps over the highest version that it heard (as a Lamport clock does) and says everything
//! anew. Its attachments then void whatever a former life said.

use overlay_core::{EndpointId, NetworkId};

use super::{
    Tables,
    message::{Attachment, Version},
};

#[cfg(test)]
mod tests;

impl Tables {
    /// Somebody holds this version of a record of ours: is it what we said?
    pub(super) fn on_own_version(
        &mut self,
        network: NetworkId,
        endpoint: EndpointId,
        version: Version,
        digest: u64,
    ) {
        let Some(owner) = self.owner(network, &self.identity.name) else {
            return;
        };
        // Void, where our last attachment is known; who lacks it gets it with our next digest.
        if version < owner.floor() {
            return;
        }
        match owner.get(endpoint) {
            Some(known) if known.version > version => {}
            Some(known) if (known.version, known.digest) == (version, digest) => {}
            None if version <= self.identity.version => {
                if digest != 0 {
                    self.stats.strays_deleted += 1;
                    self.write(network, endpoint, None);
                }
            }
            // Above our word on this endpoint, or above all our words: a former life said it.
            Some(_) | None => self.outbid(version),
        }
    }

    /// Somebody speaks of an attachment of ours.
    pub(super) fn on_own_attachment(&mut self, attachment: &Attachment) {
        let ours = attachment.life == self.identity.life;
        if ours && attachment.version <= self.identity.version {
            return;
        }
        if attachment.version.incarnation >= self.identity.version.incarnation {
            self.outbid(attachment.version);
        }
        let known = self.owner(attachment.network, &self.identity.name);
        match known.and_then(|owner| owner.attachment.clone()) {
            Some(known) if known.version > attachment.version => self.announce(&known),
            Some(_) => {}
            None if attachment.joined => self.leave_former(attachment.network),
            None => {}
        }
    }

    /// A former life of this member was in a network. It may be about to join it again: only then its rows there stay
    /// visible without a gap. If it does not, it says after a while that it left.
    pub(super) fn leave_former(&mut self, network: NetworkId) {
        if self.identity.former.len() < self.limits.networks_max {
            let at = self.now + self.timing.row_grace;
            self.identity.former.entry(network).or_insert(at);
        }
    }

    pub(super) fn former_due(&mut self) {
        let now = self.now;
        let due = self.identity.former.iter().filter(|(_, at)| **at <= now);
        let due: Vec<NetworkId> = due.map(|(network, _)| *network).collect();
        for network in due {
            self.identity.former.remove(&network);
            let limits = &self.limits;
            let room =
                self.networks.len() < limits.networks_max || self.networks.contains_key(&network);
            if room && self.attachments < limits.attachments_max {
                self.attach(network, false);
            } else {
                self.stats.attachments_refused += 1;
            }
        }
    }

    /// A word of ours that we did not say has this version: get above it, now or as soon as we may.
    fn outbid(&mut self, heard: Version) {
        self.identity.heard = self.identity.heard.max(Some(heard));
        self.renew_due();
    }

    /// Renews if a word of a former life was heard, at most once in a while, whoever says what.
    pub(super) fn renew_due(&mut self) {
        if self.now < self.identity.renew_after {
            return;
        }
        if let Some(heard) = self.identity.heard.take() {
            self.identity.renew_after = self.now + self.timing.sync_retry;
            self.renew(heard);
        }
    }

    /// Outdates what a former life of this member said, by saying everything anew above it.
    fn renew(&mut self, heard: Version) {
        let Some(above) = heard.max(self.identity.version).above() else {
            self.stats.renewals_refused += 1;
            return;
        };
        self.stats.renewals += 1;
        self.identity.version = above;
        let name = self.identity.name.clone();
        for (network, joined, _) in self.where_owner(&name) {
            self.attach(network, joined);
            let Some(owner) = self.owner(network, &name) else {
                continue;
            };
            let records: Vec<_> = owner
                .records()
                .map(|(endpoint, record)| (endpoint, record.content.clone()))
                .collect();
            for (endpoint, content) in records {
                self.write(network, endpoint, content);
            }
        }
    }

    pub(super) fn next_version(&mut self) -> Version {
        self.identity.version = self.identity.version.next();
        self.identity.version
    }
}
