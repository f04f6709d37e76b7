//! Claims of a name and an address, who decides on them, and what deciding may cost.

use std::{fmt, net::SocketAddr, time::Duration};

use overlay_core::Instant;

use crate::{
    Incarnation, Member,
    wire::{Alive, Versions},
};

/// What an alive message says of a member, or what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberClaim<'a> {
    /// Its name, 1 to 128 octets.
    pub name: &'a str,
    /// Where it listens, address and port.
    pub address: SocketAddr,
    /// Its incarnation. Anybody can raise it: it says nothing of how old the rest is.
    pub incarnation: Incarnation,
    /// What it says of itself, at most 512 octets.
    pub meta: &'a [u8],
    /// Protocol and delegate versions that it speaks.
    pub versions: Versions,
}

/// Decides whether a member is who and where it claims to be.
///
/// An application puts a signature into the meta data ([`Config::meta`](crate::Config::meta)) that covers the name, the
/// address and a generation, which counts the claims that were signed for the name. It should cover the versions and all
/// that the meta data say besides, too: what is not covered, others can change until the member refutes it. The form of
/// all that is the application's.
///
/// Asked before an alive message, from wherever it came (a datagram, a push/pull of either direction), adds a member or
/// changes its address, meta data or versions; not for what is in the roster already, except once in each
/// [`Timing::claim_memory`](crate::Timing::claim_memory) when a member comes back from Down or Left. What is refused
/// changes nothing: neither the known member nor its incarnation.
///
/// # What a member that holds the keys can do, and what it cannot
///
/// It cannot, as long as the verifier does its part: take the name or address of another member, or move it; change its
/// meta data; bring in members that nobody signed for. It cannot keep members of good standing from being heard by a
/// flood of claims: those cost at most [`Limits::claims_per_second_max`](crate::Limits::claims_per_second_max)
/// verifications. New members and new addresses are heard late during such a flood.
///
/// It can
///
/// * suspect members, declare them Down or Left, and raise their incarnations. Each of these is refuted by the member
///   itself with the next gossip, from whatever incarnation; until then the member and its rows are hidden, again and
///   again for as long as it goes on;
/// * bring up an older claim of a member, where nobody knows the newer one yet: the member refutes that, too;
/// * say that rows of others are deleted or networks are left, which their owners put right; rows themselves are
///   protected by their leases ([`LeaseVerifier`](crate::LeaseVerifier));
/// * read everything that is told, and have members send pings and answers to addresses that it names.
///
/// Without a verifier it can also speak for every name whose holder is Down or unknown.
pub trait MemberVerifier: fmt::Debug + Send + Sync {
    /// Returns whether `claim` is to be believed.
    ///
    /// `known` is what was believed of the same name before, whatever became of the member since. With it an older claim,
    /// which is as well signed, is told from a newer one: refuse a lower generation. `None`: nothing is known of the name,
    /// or the claim is about this member itself and the question is only whether others could believe it.
    ///
    /// The answer depends on nothing but the arguments and what the embedder told the implementation. About 50 µs is
    /// what the defaults reckon with.
    fn verify(&self, claim: &MemberClaim<'_>, known: Option<&MemberClaim<'_>>) -> bool;
}

impl<'a> MemberClaim<'a> {
    pub(crate) fn of_alive(alive: &'a Alive) -> Self {
        Self {
            name: &alive.node,
            address: alive.address,
            incarnation: Incarnation(alive.incarnation),
            meta: &alive.meta,
            versions: alive.versions,
        }
    }

    pub(crate) fn of_member(member: &'a Member) -> Self {
        Self {
            name: &member.name,
            address: member.address,
            incarnation: member.incarnation,
            meta: &member.meta,
            versions: member.versions,
        }
    }

    /// Returns whether both say the same, incarnations aside.
    pub(crate) fn says_as(&self, other: &MemberClaim<'_>) -> bool {
        let Self { incarnation, .. } = *self;
        MemberClaim {
            incarnation,
            ..*other
        } == *self
    }
}

/// What was decided on the claim that the roster holds of a member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    pub(crate) at: Instant,
    pub(crate) believed: bool,
}

/// What claims may still cost, and when a refused one may be told again.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    /// Until when the verifications so far are spread, had they come evenly.
    spread_until: Instant,
    tell_from: Instant,
}

impl Allowance {
    /// Takes one verification; returns false if those of a second were taken.
    ///
    /// A token bucket that holds those of one second, written as the virtual schedule of ITU-T I.371 Annex A.
    pub(crate) fn take(&mut self, now: Instant, per_second_max: u32) -> bool {
        let each = SECOND / per_second_max.max(1);
        let from = self.spread_until.max(now);
        if (from - now).saturating_add(each) > SECOND {
            return false;
        }
        self.spread_until = from + each;
        true
    }

    /// Returns whether a refusal may be told now: once a second.
    pub(crate) fn tell(&mut self, now: Instant) -> bool {
        let due = self.tell_from <= now;
        if due {
            self.tell_from = now + SECOND;
        }
        due
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_holds_one_second_and_refills_evenly() {
        let mut allowance = Allowance::default();
        let start = Instant::from_millis(5_000);
        let mut taken = |now| (0..10).filter(|_| allowance.take(now, 4)).count();
        assert_eq!(taken(start), 4, "a whole second's");
        assert_eq!(taken(start + Duration::from_millis(249)), 0);
        assert_eq!(taken(start + Duration::from_millis(250)), 1);
        assert_eq!(taken(start + Duration::from_millis(1_000)), 3);
        assert_eq!(taken(start + Duration::from_secs(60)), 4, "no more");
        assert_eq!(taken(Instant::EPOCH), 0, "the past brings nothing");
    }

    #[test]
    fn the_rate_of_one_is_one() {
        let mut allowance = Allowance::default();
        assert!(allowance.take(Instant::EPOCH, 1) && !allowance.take(Instant::EPOCH, 1));
        assert!(allowance.take(Instant::EPOCH + SECOND, 1));
    }

    #[test]
    fn refusals_are_told_once_a_second() {
        let mut allowance = Allowance::default();
        let told = [0, 1, 999, 1_000, 1_001].map(|at| allowance.tell(Instant::from_millis(at)));
        assert_eq!(told, [true, false, false, true, false]);
    }

    #[test]
    fn claims_are_the_same_whatever_their_incarnation() {
        let claim = MemberClaim {
            name: "a",
            address: SocketAddr::from(([192, 0, 2, 1], 7946)),
            incarnation: Incarnation(1),
            meta: b"m",
            versions: Versions([1; 6]),
        };
        let later = MemberClaim {
            incarnation: Incarnation(2),
            ..claim
        };
        assert!(claim.says_as(&later) && claim != later);
        let port = SocketAddr::from(([192, 0, 2, 1], 7947));
        let others = [
            MemberClaim { name: "b", ..later },
            MemberClaim {
                address: port,
                ..later
            },
            MemberClaim { meta: b"", ..later },
            MemberClaim {
                versions: Versions([2; 6]),
                ..later
            },
        ];
        assert!(others.iter().all(|other| !claim.says_as(other)));
    }
}
