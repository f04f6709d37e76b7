//! What a table holds, and how its parts are said to the kernel and heard from it.

use std::collections::BTreeMap;

use super::{
    attribute::{Attributes, Parsed},
    rule::Rule,
    set::Set,
    verdict::{ACCEPT, DROP},
};

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// 0; the kernel's flags otherwise, such as that of a table that sleeps.
    pub(crate) flags: u32,
    /// Its chains by their names.
    pub(crate) chains: BTreeMap<String, Chain>,
    /// Its sets and maps by their names.
    pub(crate) sets: BTreeMap<String, Set>,
}

/// A chain: its place in the kernel, if it has one, and its rules in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// Where packets enter a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub(crate) kind: String,
    pub(crate) number: u32,
    pub(crate) priority: i32,
    /// What happens to packets at the end of the chain.
    pub(crate) policy: Policy,
}

/// What happens at the end of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Accept,
    Drop,
}

impl Hook {
    /// For packets between two other hosts.
    pub(crate) fn forward() -> Self {
        Self {
            kind: "filter".to_owned(),
            number: HOOK_FORWARD,
            priority: PRIORITY_FILTER,
            policy: Policy::Accept,
        }
    }

    /// For packets to this host.
    pub(crate) fn input() -> Self {
        Self {
            number: HOOK_INPUT,
            ..Self::forward()
        }
    }

    /// For frames that a bridge has just got.
    pub(crate) fn bridge_prerouting() -> Self {
        Self {
            number: HOOK_PREROUTING,
            priority: PRIORITY_BRIDGED,
            ..Self::forward()
        }
    }

    /// The same, after what is usual, and before the packets in them are looked at.
    pub(crate) fn bridge_prerouting_later() -> Self {
        Self {
            priority: PRIORITY_BRIDGED_LATER,
            ..Self::bridge_prerouting()
        }
    }

    /// For frames from one member of a bridge to another, after all rules for the packets in them.
    pub(crate) fn bridge_forward_last() -> Self {
        Self {
            priority: PRIORITY_LAST,
            ..Self::forward()
        }
    }

    /// For packets that have just come, before fragments of them are put together.
    pub(crate) fn before_fragments() -> Self {
        Self {
            priority: PRIORITY_BEFORE_FRAGMENTS,
            ..Self::prerouting()
        }
    }

    /// The same, when their connection is known.
    pub(crate) fn prerouting() -> Self {
        Self {
            number: HOOK_PREROUTING,
            ..Self::forward()
        }
    }

    /// For frames of a bridge itself.
    pub(crate) fn bridge_output() -> Self {
        Self {
            number: HOOK_OUTPUT,
            ..Self::bridge_prerouting()
        }
    }

    /// For frames that are about to leave a bridge, after all others.
    pub(crate) fn bridge_postrouting() -> Self {
        Self {
            number: HOOK_POSTROUTING,
            priority: PRIORITY_LAST,
            ..Self::forward()
        }
    }

    /// For packets of programs on this host, after all others.
    pub(crate) fn output_last() -> Self {
        Self {
            priority: PRIORITY_LAST,
            ..Self::output()
        }
    }

    /// For packets that are about to leave, when their connection's address is chosen.
    pub(crate) fn source_nat() -> Self {
        Self {
            kind: "nat".to_owned(),
            number: HOOK_POSTROUTING,
            priority: PRIORITY_SOURCE_NAT,
            policy: Policy::Accept,
        }
    }

    /// For packets of programs on this host, when their connection's destination is chosen.
    pub(crate) fn output_destination_nat() -> Self {
        Self {
            kind: "nat".to_owned(),
            number: HOOK_OUTPUT,
            priority: PRIORITY_DESTINATION_NAT,
            policy: Policy::Accept,
        }
    }

    /// The same for packets of others.
    pub(crate) fn destination_nat() -> Self {
        Self {
            number: HOOK_PREROUTING,
            ..Self::output_destination_nat()
        }
    }

    /// For packets of programs on this host, before their connection's destination is chosen.
    pub(crate) fn output_before_nat() -> Self {
        Self {
            priority: PRIORITY_MANGLE,
            ..Self::output()
        }
    }

    /// For packets of programs on this host.
    pub(crate) fn output() -> Self {
        Self {
            number: HOOK_OUTPUT,
            ..Self::forward()
        }
    }

    /// Whether packets between two other hosts end here unless a rule accepts them.
    pub(super) fn drops_forwarded(&self) -> bool {
        self.number == HOOK_FORWARD && self.policy == Policy::Drop
    }

    pub(super) fn emit(&self, attributes: Attributes) -> Attributes {
        let place = Attributes::default()
            .number(HOOK_NUMBER, self.number)
            .value(HOOK_PRIORITY, &self.priority.to_be_bytes());
        let policy = match self.policy {
            Policy::Accept => ACCEPT,
            Policy::Drop => DROP,
        };
        attributes
            .nest(CHAIN_HOOK, &place)
            .number(CHAIN_POLICY, policy)
            .text(CHAIN_TYPE, &self.kind)
    }

    pub(super) fn parse(chain: Parsed<'_>) -> Option<Self> {
        let place = chain.nested(CHAIN_HOOK)?;
        let priority = place.value(HOOK_PRIORITY)?.try_into().ok()?;
        Some(Self {
            kind: chain.text(CHAIN_TYPE)?,
            number: place.number(HOOK_NUMBER)?,
            priority: i32::from_be_bytes(priority),
            policy: match chain.number(CHAIN_POLICY) {
                Some(DROP) => Policy::Drop,
                _ => Policy::Accept,
            },
        })
    }
}

// `linux/netfilter/nf_tables.h`, by the names there without their prefix.
pub(super) const TABLE_NAME: u16 = 1;
pub(super) const TABLE_FLAGS: u16 = 2;
pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
const HOOK_PREROUTING: u32 = 0;
const HOOK_INPUT: u32 = 1;
const HOOK_FORWARD: u32 = 2;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;
/// `NF_IP_PRI_RAW_BEFORE_DEFRAG`.
const PRIORITY_BEFORE_FRAGMENTS: i32 = -450;
const PRIORITY_BRIDGED: i32 = -200;
const PRIORITY_BRIDGED_LATER: i32 = -150;
const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_DESTINATION_NAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE_NAT: i32 = 100;
/// After what is usual, and after what changes addresses.
const PRIORITY_LAST: i32 = 300;
