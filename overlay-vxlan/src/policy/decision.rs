//! What was decided of a frame, why, and how often.

use std::fmt;

use overlay_core::plane::Verdict;

use crate::stats::DropReason;

/// Which way a frame goes, as its endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Out of an endpoint of this node.
    Egress,
    /// Into an endpoint of this node.
    Ingress,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// Whether it passes.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule that allowed or denied the flow, if it was one; its name is that of
    /// [`Policy::rule`](super::Policy::rule).
    pub rule: Option<u32>,
}

impl Decision {
    pub(super) const OPEN: Self = Self::allow(Reason::Open);

    pub(super) const fn allow(reason: Reason) -> Self {
        let verdict = Verdict::Allow;
        Self {
            verdict,
            reason,
            rule: None,
        }
    }

    pub(super) const fn deny(reason: Reason) -> Self {
        let verdict = Verdict::Deny;
        Self {
            verdict,
            reason,
            rule: None,
        }
    }

    /// What the rules say.
    pub(super) fn of_rules((verdict, rule): (Verdict, Option<usize>)) -> Self {
        Self {
            verdict,
            reason: match rule {
                Some(_) => Reason::Rule,
                None => Reason::Default,
            },
            rule: rule.and_then(|rule| u32::try_from(rule).ok()),
        }
    }

    /// Returns whether the frame passes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }

    /// Returns why a frame that does not pass was dropped, as captures and counters have it.
    #[must_use]
    pub fn drop_reason(&self) -> Option<DropReason> {
        (!self.is_allowed()).then_some(match self.reason {
            Reason::Malformed => DropReason::Malformed,
            _ => DropReason::Policy,
        })
    }
}

/// Why a frame passes or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Passes: the network has no rules. It is not counted.
    Open,
    /// Passes: ARP or neighbour discovery, which the switch polices.
    Neighbour,
    /// Passes or not: a rule says so.
    Rule,
    /// Passes or not: no rule matches.
    Default,
    /// Passes: its flow is known.
    Flow,
    /// Passes: an ICMP error about a flow that is known.
    Related,
    /// Passes: its first fragment did.
    Fragment,
    /// Dropped: it opens no flow, and there is none that it belongs to.
    NoFlow,
    /// Dropped: the rules allow its flow no more.
    Ended,
    /// Dropped: it may open a flow, but there is no room for one.
    Full,
    /// Dropped: a fragment whose first one did not pass, or has not come before it.
    LaterFragment,
    /// Dropped: headers are cut short, or lie about a length.
    Malformed,
    /// Passes or not, as flows that no rule matches: neither IP nor ARP, or of a VLAN.
    NotIp,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 13] = [
        Self::Open,
        Self::Neighbour,
        Self::Rule,
        Self::Default,
        Self::Flow,
        Self::Related,
        Self::Fragment,
        Self::NoFlow,
        Self::Ended,
        Self::Full,
        Self::LaterFragment,
        Self::Malformed,
        Self::NotIp,
    ];

    /// Returns the name that a counter of it has: lower case with underscores.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Neighbour => "neighbour",
            Self::Rule => "rule",
            Self::Default => "default",
            Self::Flow => "flow",
            Self::Related => "related",
            Self::Fragment => "fragment",
            Self::NoFlow => "no_flow",
            Self::Ended => "ended",
            Self::Full => "full",
            Self::LaterFragment => "later_fragment",
            Self::Malformed => "malformed",
            Self::NotIp => "not_ip",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which rule decides about a flow that somebody opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation<'a> {
    /// Whether it may be.
    pub verdict: Verdict,
    /// Number and name of the rule; `None`: no rule matches, and the network's default decides.
    pub rule: Option<(usize, &'a str)>,
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Allow => "allowed",
            Verdict::Deny => "denied",
        };
        match self.rule {
            Some((at, name)) => write!(f, "{verdict} by rule {} ({name})", at + 1),
            None => write!(f, "{verdict} by default"),
        }
    }
}

/// Frames of one direction, by what was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decided([[u64; 2]; Reason::ALL.len()]);

impl Decided {
    pub(super) fn add(&mut self, decision: Decision) {
        self.0[decision.reason as usize][decision.verdict as usize] += 1;
    }

    /// Returns how many frames had this verdict for this reason.
    #[must_use]
    pub const fn of(&self, verdict: Verdict, reason: Reason) -> u64 {
        self.0[reason as usize][verdict as usize]
    }

    /// Returns how many frames had this verdict.
    #[must_use]
    pub fn total(&self, verdict: Verdict) -> u64 {
        self.0.iter().map(|counts| counts[verdict as usize]).sum()
    }
}

/// What a policy counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames out of endpoints.
    pub egress: Decided,
    /// Frames into endpoints.
    pub ingress: Decided,
    /// Flows that are known now; of those whose time is over, some may still be among them.
    pub flows: usize,
    /// Flows that nobody had answered and that made room for others.
    pub flows_evicted: u64,
    /// Flows that a change of the rules ended.
    pub flows_ended: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_counters_of_its_own() {
        let mut decided = Decided::default();
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
            decided.add(Decision::deny(reason));
            assert_eq!(decided.of(Verdict::Deny, reason), 1);
            assert_eq!(decided.of(Verdict::Allow, reason), 0);
        }
        assert_eq!(decided.total(Verdict::Deny), Reason::ALL.len() as u64);
        let names: std::collections::BTreeSet<_> = Reason::ALL.map(Reason::name).into();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
