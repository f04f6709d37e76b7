//! Whether what an alive message says is to be believed.

use std::net::SocketAddr;

use super::Gossip;
use crate::{
    Event, MemberClaim, Name,
    claim::Verdict,
    wire::{Alive, Versions},
};

impl Gossip {
    /// Returns whether an alive of another member is to be believed; what is not is counted, and told now and then.
    pub(super) fn is_believed(&mut self, from: SocketAddr, alive: &Alive) -> bool {
        let Some(verifier) = self.config.member_verifier.clone() else {
            return true;
        };
        let claim = MemberClaim::of_alive(alive);
        let entry = self.roster.get(&alive.node);
        let Some((member, verdict)) = entry.map(|e| (e.member.clone(), e.verdict)) else {
            return self.may_verify() && {
                let good = verifier.verify(&claim, None);
                self.judge(from, alive, None, good)
            };
        };
        let known = MemberClaim::of_member(&member);
        let same = claim.says_as(&known);
        if same && member.state.is_up() {
            return true;
        }
        if same && self.now - verdict.at < self.config.timing.claim_memory {
            self.stats.claims_refused += u64::from(!verdict.believed);
            return verdict.believed;
        }
        // What is known already is bounded by the members and `claim_memory`: no flood keeps members from coming back.
        if !same && !self.may_verify() {
            return false;
        }
        let believed = verifier.verify(&claim, Some(&known));
        let entry = self.roster.get_mut(&alive.node);
        if let Some(entry) = entry.filter(|_| same || believed) {
            let at = self.now;
            entry.verdict = Verdict { at, believed };
        }
        self.judge(from, alive, Some(member.address), believed)
    }

    /// Returns whether others could believe an alive that says something else of us than we do. If so, it is to be
    /// refuted; if not, nobody holds it but who made it up.
    pub(super) fn is_believable_of_us(&mut self, from: SocketAddr, alive: &Alive) -> bool {
        let Some(verifier) = self.config.member_verifier.clone() else {
            return true;
        };
        let address = self.local.member.address;
        self.may_verify() && {
            let good = verifier.verify(&MemberClaim::of_alive(alive), None);
            self.judge(from, alive, Some(address), good)
        }
    }

    /// Returns whether `versions` can be spoken with. Checked with a verifier only: one member that nobody can speak with
    /// would keep all others from merging.
    pub(super) fn is_spoken(&self, versions: Versions) -> bool {
        let fits = |part: fn(Versions) -> (u8, u8, u8)| {
            let (ours, theirs) = (part(self.local.member.versions), part(versions));
            let common = ours.0.max(theirs.0)..=ours.1.min(theirs.1);
            common.contains(&ours.2) && common.contains(&theirs.2)
        };
        let strict = self.config.member_verifier.is_some();
        versions.is_sound() && (!strict || fits(Versions::protocol) && fits(Versions::delegate))
    }

    fn may_verify(&mut self) -> bool {
        let rate = self.config.limits.claims_per_second_max;
        let may = self.roster.allowance.take(self.now, rate);
        self.stats.claims_dropped += u64::from(!may);
        may
    }

    fn judge(
        &mut self,
        from: SocketAddr,
        alive: &Alive,
        known: Option<SocketAddr>,
        good: bool,
    ) -> bool {
        self.stats.claims_verified += 1;
        if !good {
            self.stats.claims_refused += 1;
            if self.roster.allowance.tell(self.now) {
                self.event(Event::ClaimRefused {
                    name: Name::from(alive.node.as_str()),
                    known,
                    claimed: alive.address,
                    from,
                });
            }
        }
        good
    }
}
