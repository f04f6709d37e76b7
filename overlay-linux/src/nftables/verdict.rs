//! How rules end, and how it is said to the kernel and heard from it.

use super::attribute::{Attributes, Parsed};

/// How a rule ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Jump(String),
    /// As a jump, but never back.
    Goto(String),
}

impl Verdict {
    pub(super) fn emit(&self) -> Attributes {
        let empty = Attributes::default();
        match self {
            Self::Drop => empty.number(VERDICT_CODE, DROP),
            Self::Accept => empty.number(VERDICT_CODE, ACCEPT),
            Self::Jump(chain) => empty.number(VERDICT_CODE, JUMP).text(VERDICT_CHAIN, chain),
            Self::Goto(chain) => empty.number(VERDICT_CODE, GOTO).text(VERDICT_CHAIN, chain),
        }
    }

    pub(super) fn parse(data: Parsed<'_>) -> Option<Self> {
        match data.number(VERDICT_CODE)? {
            DROP => Some(Self::Drop),
            ACCEPT => Some(Self::Accept),
            JUMP => Some(Self::Jump(data.text(VERDICT_CHAIN)?)),
            GOTO => Some(Self::Goto(data.text(VERDICT_CHAIN)?)),
            _ => None,
        }
    }
}

// `linux/netfilter/nf_tables.h` and `linux/netfilter.h`, by the names there without their prefix.
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
pub(super) const DROP: u32 = 0;
pub(super) const ACCEPT: u32 = 1;
/// -3.
const JUMP: u32 = 0xffff_fffd;
/// -4.
const GOTO: u32 = 0xffff_fffc;
