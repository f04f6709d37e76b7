//! What is known of the connection that a packet is of.

use super::{attribute::Attributes, attribute::Parsed, field::Register};

/// A part of a connection; addresses and ports are those of the packet that began it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracked {
    /// The source address.
    Source { v6: bool },
    /// The destination address.
    Destination { v6: bool },
    /// The transport protocol's number.
    Protocol,
    /// The destination port, or what stands for it: type and code of ICMP.
    Port,
    /// 1 if the packet, or the one that an error quotes, goes the other way than the first one; else 0.
    Direction,
}

impl Tracked {
    const ALL: [Self; 7] = [
        Self::Source { v6: false },
        Self::Source { v6: true },
        Self::Destination { v6: false },
        Self::Destination { v6: true },
        Self::Protocol,
        Self::Port,
        Self::Direction,
    ];

    const fn key(self) -> u32 {
        match self {
            Self::Source { v6: false } => SOURCE_IP,
            Self::Source { v6: true } => SOURCE_IP6,
            Self::Destination { v6: false } => DESTINATION_IP,
            Self::Destination { v6: true } => DESTINATION_IP6,
            Self::Protocol => PROTOCOL,
            Self::Port => DESTINATION_PORT,
            Self::Direction => DIRECTION,
        }
    }

    pub(super) fn emit(self, register: Register) -> Attributes {
        let about = Attributes::default()
            .number(CT_DREG, register.0)
            .number(CT_KEY, self.key());
        match self {
            // The kernel has these of both ways alike.
            Self::Protocol | Self::Direction => about,
            _ => about.value(CT_DIRECTION, &[ORIGINAL]),
        }
    }

    pub(super) fn parse(data: Parsed<'_>) -> Option<(Self, Register)> {
        let key = data.number(CT_KEY)?;
        let found = Self::ALL.into_iter().find(|one| one.key() == key)?;
        Some((found, Register(data.number(CT_DREG)?)))
    }
}

/// The connection's state, into the first register.
pub(super) fn state(register: u32) -> Attributes {
    let about = Attributes::default().number(CT_DREG, register);
    about.number(CT_KEY, STATE)
}

/// The zone of a connection that is not looked for yet, from the first register.
pub(super) fn set_zone(register: u32) -> Attributes {
    let about = Attributes::default().number(CT_SREG, register);
    about.number(CT_KEY, ZONE)
}

/// Whether the state is asked for.
pub(super) fn is_state(data: Parsed<'_>) -> bool {
    data.number(CT_KEY) == Some(STATE)
}

/// Whether the zone is set.
pub(super) fn sets_zone(data: Parsed<'_>) -> bool {
    data.number(CT_KEY) == Some(ZONE) && data.number(CT_SREG).is_some()
}

/// States, as bits; a packet has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State(pub(super) u32);

impl State {
    /// It cannot be a packet of any connection.
    pub(crate) const INVALID: Self = Self(1);
    pub(super) const ESTABLISHED: Self = Self(2);
    /// An error about a packet of a connection.
    pub(crate) const RELATED: Self = Self(4);
    /// The first of a connection, which begins when the packet has left.
    pub(crate) const NEW: Self = Self(8);
    /// Of no connection, as somebody said so.
    pub(crate) const UNTRACKED: Self = Self(64);
}

// `linux/netfilter/nf_tables.h`, by the names there without their prefix.
const CT_DREG: u16 = 1;
const CT_KEY: u16 = 2;
const CT_DIRECTION: u16 = 3;
const CT_SREG: u16 = 4;
const STATE: u32 = 0;
const DIRECTION: u32 = 1;
const PROTOCOL: u32 = 10;
const DESTINATION_PORT: u32 = 12;
const ZONE: u32 = 17;
/// Since Linux 4.17.
const SOURCE_IP: u32 = 19;
const DESTINATION_IP: u32 = 20;
const SOURCE_IP6: u32 = 21;
const DESTINATION_IP6: u32 = 22;
const ORIGINAL: u8 = 0;
