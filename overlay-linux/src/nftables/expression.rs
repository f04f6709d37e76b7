//! The steps of rules, and how they are said to the kernel and heard from it.
//!
//! Registers are of 16 octets, or of 4, which lie in them: 1, then 2 with its parts 12 to 15, then 3. Whatever is heard
//! that is never made here is kept by its name, so that it differs from everything that is wanted.

use std::collections::BTreeMap;

use super::{
    attribute::{Attributes, Parsed},
    conntrack::{self, Tracked},
    field::{Field, REG_1, REG_2, REG_VERDICT, Register},
    verdict::Verdict,
};

/// One step of a rule. Loads and masks work on register 1 where nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    /// Loads the name of the interface by which the packet came.
    InputName,
    /// Loads the name of the interface by which the packet leaves.
    OutputName,
    /// Loads the family: 2 for IPv4, 10 for IPv6.
    Family,
    /// Loads whether the packet will be sealed as it leaves: 1, else 0.
    IsSealed,
    /// Loads the `reqid` of the association that opened the packet last; goes on only if one did.
    OpenedBy,
    /// Loads this.
    Constant(Vec<u8>),
    /// Loads the packet's mark.
    Mark,
    /// Gives the packet the mark in the register.
    SetMark,
    /// Loads the packet's priority: like the mark, a number that lasts from one rule to the next.
    Priority(Register),
    /// Gives the packet the priority in the register.
    SetPriority,
    /// Loads what a frame carries, whatever its tags.
    EtherType,
    /// Loads to whom a frame is: 1 to all, 2 to a group.
    PacketKind,
    /// Loads the transport protocol's number.
    Protocol,
    /// Loads octets of a header.
    Load(Field, Register),
    /// Loads the connection's state.
    State,
    /// Loads another part of the connection.
    Tracked(Tracked, Register),
    /// Has the connection looked for among those with the number in the register.
    SetZone,
    /// Keeps these bits.
    Mask(Vec<u8>),
    /// Goes on if the register is equal (or if it is not).
    Compare { equal: bool, with: Vec<u8> },
    /// Goes on if the register is one of these, from the first to the last.
    Within { first: Vec<u8>, last: Vec<u8> },
    /// Goes on above a rate, in packets a second, and in a burst.
    Above { rate: u64, burst: u32 },
    /// Counts.
    Counter,
    /// Makes a number below `modulus` of that many octets from register 2 on.
    Hash { octets: u32, modulus: u32 },
    /// Looks the register up in a set.
    Lookup(String, Found),
    /// Ends with a verdict.
    Verdict(Verdict),
    /// Gives the packet the source address of the interface by which it leaves.
    Masquerade,
    /// Gives the connection the destination address in the register.
    Destination { v6: bool },
    /// Ends with a reset for the sender.
    Reset,
    /// Ends with an ICMP error for the sender: port unreachable.
    Unreachable,
    /// Something that is never made here.
    Other(String),
}

/// What becomes of a look-up; without success the rule ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The rule goes on.
    Matches,
    /// It goes on only if there is nothing.
    Misses,
    /// What is there is the verdict.
    Decides,
    /// What is there comes into the register.
    Loads,
}

impl Expression {
    /// What the kernel calls it.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::InputName
            | Self::OutputName
            | Self::Family
            | Self::PacketKind
            | Self::Mark
            | Self::SetMark
            | Self::Priority(_)
            | Self::SetPriority
            | Self::EtherType
            | Self::Protocol => "meta",
            Self::IsSealed => "rt",
            Self::OpenedBy => "xfrm",
            Self::Load(..) => "payload",
            Self::Above { .. } => "limit",
            Self::Counter => "counter",
            Self::Hash { .. } => "hash",
            Self::Lookup(..) => "lookup",
            Self::Destination { .. } => "nat",
            Self::Reset | Self::Unreachable => "reject",
            Self::State | Self::Tracked(..) | Self::SetZone => "ct",
            Self::Mask(_) => "bitwise",
            Self::Compare { .. } => "cmp",
            Self::Within { .. } => "range",
            Self::Verdict(_) | Self::Constant(_) => "immediate",
            Self::Masquerade => "masq",
            Self::Other(name) => name,
        }
    }

    /// In the kernel's own order, so that what it returns is the very same octets.
    pub(super) fn emit(&self) -> Attributes {
        let empty = Attributes::default();
        let meta_to = |key, register| {
            let key = Attributes::default().number(META_KEY, key);
            key.number(META_DREG, register)
        };
        let meta = |key| meta_to(key, REG_1);
        let set = |key| empty.clone().number(META_KEY, key).number(META_SREG, REG_1);
        match self {
            Self::InputName => meta(META_IIFNAME),
            Self::OutputName => meta(META_OIFNAME),
            Self::Family => meta(META_NFPROTO),
            Self::PacketKind => meta(META_PKTTYPE),
            Self::Protocol => meta(META_L4PROTO),
            Self::IsSealed => empty.number(RT_DREG, REG_1).number(RT_KEY, RT_XFRM),
            Self::OpenedBy => opened_by(),
            Self::Constant(octets) => constant(octets),
            Self::Mark => meta(META_MARK),
            Self::EtherType => meta(META_PROTOCOL),
            Self::SetMark => set(META_MARK),
            Self::Priority(register) => meta_to(META_PRIORITY, register.0),
            Self::SetPriority => set(META_PRIORITY),
            Self::Load(field, register) => empty
                .number(PAYLOAD_DREG, register.0)
                .number(PAYLOAD_BASE, field.header)
                .number(PAYLOAD_OFFSET, field.offset)
                .number(PAYLOAD_LEN, field.octets),
            Self::Above { rate, burst } => empty
                .value(LIMIT_RATE, &rate.to_be_bytes())
                .value(LIMIT_UNIT, &1_u64.to_be_bytes())
                .number(LIMIT_BURST, *burst)
                .number(LIMIT_TYPE, LIMIT_PACKETS)
                .number(LIMIT_FLAGS, LIMIT_ABOVE),
            Self::Hash { octets, modulus } => empty
                .number(HASH_SREG, REG_2)
                .number(HASH_DREG, REG_1)
                .number(HASH_LEN, *octets)
                .number(HASH_MODULUS, *modulus)
                .number(HASH_SEED, SEED)
                .number(HASH_TYPE, JENKINS),
            Self::Lookup(set, found) => lookup(set, *found),
            Self::Destination { v6 } => empty
                .number(NAT_TYPE, NAT_DESTINATION)
                .number(NAT_FAMILY, if *v6 { IPV6 } else { IPV4 })
                .number(NAT_ADDRESS_MIN, REG_1)
                .number(NAT_ADDRESS_MAX, REG_1)
                .number(NAT_FLAGS, NAT_MAP_IPS),
            Self::Reset => empty.number(REJECT_TYPE, REJECT_RESET),
            Self::Unreachable => empty
                .number(REJECT_TYPE, REJECT_UNREACHABLE)
                .value(REJECT_CODE, &[PORT_UNREACHABLE]),
            Self::State => conntrack::state(REG_1),
            Self::Tracked(part, register) => part.emit(*register),
            Self::SetZone => conntrack::set_zone(REG_1),
            Self::Mask(mask) => masked(mask),
            Self::Compare { equal, with } => empty
                .number(CMP_SREG, REG_1)
                .number(CMP_OP, if *equal { CMP_EQ } else { CMP_NEQ })
                .nest(CMP_DATA, &Attributes::default().value(DATA_VALUE, with)),
            Self::Within { first, last } => within(first, last),
            Self::Verdict(verdict) => {
                let verdict = Attributes::default().nest(DATA_VERDICT, &verdict.emit());
                empty
                    .number(IMMEDIATE_DREG, REG_VERDICT)
                    .nest(IMMEDIATE_DATA, &verdict)
            }
            Self::Masquerade | Self::Counter | Self::Other(_) => empty,
        }
    }

    pub(super) fn parse(name: &str, data: Parsed<'_>) -> Option<Self> {
        let known = match name {
            "meta" => about_packet(data)?,
            "payload" => {
                let field = Field {
                    header: data.number(PAYLOAD_BASE)?,
                    offset: data.number(PAYLOAD_OFFSET)?,
                    octets: data.number(PAYLOAD_LEN)?,
                };
                Self::Load(field, Register(data.number(PAYLOAD_DREG)?))
            }
            "limit" => Self::Above {
                rate: u64::from_be_bytes(data.value(LIMIT_RATE)?.try_into().ok()?),
                burst: data.number(LIMIT_BURST)?,
            },
            // However much it has counted.
            "counter" => return Some(Self::Counter),
            "hash" => Self::Hash {
                octets: data.number(HASH_LEN)?,
                modulus: data.number(HASH_MODULUS)?,
            },
            "lookup" => looked_up(data)?,
            "nat" => Self::Destination {
                v6: data.number(NAT_FAMILY)? == IPV6,
            },
            "reject" => match data.number(REJECT_TYPE)? {
                REJECT_RESET => Self::Reset,
                _ => Self::Unreachable,
            },
            "ct" if conntrack::is_state(data) => Self::State,
            "ct" if conntrack::sets_zone(data) => Self::SetZone,
            "ct" => {
                let (part, register) = Tracked::parse(data)?;
                Self::Tracked(part, register)
            }
            "bitwise" => {
                let mask = data.nested(BITWISE_MASK)?.value(DATA_VALUE)?;
                Self::Mask(mask.to_vec())
            }
            "cmp" => Self::Compare {
                equal: data.number(CMP_OP)? == CMP_EQ,
                with: data.nested(CMP_DATA)?.value(DATA_VALUE)?.to_vec(),
            },
            "range" => Self::Within {
                first: data.nested(RANGE_FROM)?.value(DATA_VALUE)?.to_vec(),
                last: data.nested(RANGE_TO)?.value(DATA_VALUE)?.to_vec(),
            },
            "rt" => Self::IsSealed,
            "xfrm" => Self::OpenedBy,
            "immediate" => {
                let inner = data.nested(IMMEDIATE_DATA)?;
                match inner.value(DATA_VALUE) {
                    Some(octets) => Self::Constant(octets.to_vec()),
                    None => Self::Verdict(Verdict::parse(inner.nested(DATA_VERDICT)?)?),
                }
            }
            "masq" => Self::Masquerade,
            _ => return None,
        };
        // Whatever is said otherwise, more or less means something else.
        let emitted = known.emit();
        let same = plain(name, data) == plain(name, Parsed(emitted.octets()));
        same.then_some(known)
    }
}

fn about_packet(data: Parsed<'_>) -> Option<Expression> {
    let register = data.number(META_DREG);
    Some(match data.number(META_KEY)? {
        META_IIFNAME => Expression::InputName,
        META_OIFNAME => Expression::OutputName,
        META_NFPROTO => Expression::Family,
        META_PKTTYPE => Expression::PacketKind,
        META_MARK if register.is_some() => Expression::Mark,
        META_MARK => Expression::SetMark,
        META_PRIORITY => match register {
            Some(register) => Expression::Priority(Register(register)),
            None => Expression::SetPriority,
        },
        META_PROTOCOL => Expression::EtherType,
        META_L4PROTO => Expression::Protocol,
        _ => return None,
    })
}

fn opened_by() -> Attributes {
    Attributes::default()
        .number(XFRM_DREG, REG_1)
        .number(XFRM_KEY, XFRM_REQID)
        .value(XFRM_DIRECTION, &[XFRM_IN])
        .number(XFRM_PLACE, 0)
}

fn within(first: &[u8], last: &[u8]) -> Attributes {
    let end = |octets| Attributes::default().value(DATA_VALUE, octets);
    Attributes::default()
        .number(RANGE_SREG, REG_1)
        .number(RANGE_OP, RANGE_IS_IN)
        .nest(RANGE_FROM, &end(first))
        .nest(RANGE_TO, &end(last))
}

fn constant(octets: &[u8]) -> Attributes {
    let data = Attributes::default().value(DATA_VALUE, octets);
    let place = Attributes::default().number(IMMEDIATE_DREG, REG_1);
    place.nest(IMMEDIATE_DATA, &data)
}

fn masked(mask: &[u8]) -> Attributes {
    Attributes::default()
        .number(BITWISE_SREG, REG_1)
        .number(BITWISE_DREG, REG_1)
        .number(BITWISE_LEN, u32::try_from(mask.len()).unwrap_or(u32::MAX))
        .number(BITWISE_OP, MASK_XOR)
        .nest(BITWISE_MASK, &Attributes::default().value(DATA_VALUE, mask))
        .nest(
            BITWISE_XOR,
            &Attributes::default().value(DATA_VALUE, &vec![0; mask.len()]),
        )
}

fn lookup(set: &str, found: Found) -> Attributes {
    let about = Attributes::default().text(LOOKUP_SET, set);
    let about = about.number(LOOKUP_SREG, REG_1);
    let about = match found {
        Found::Matches | Found::Misses => about,
        Found::Decides => about.number(LOOKUP_DREG, REG_VERDICT),
        Found::Loads => about.number(LOOKUP_DREG, REG_1),
    };
    about.number(LOOKUP_FLAGS, u32::from(found == Found::Misses))
}

fn looked_up(data: Parsed<'_>) -> Option<Expression> {
    let found = match data.number(LOOKUP_DREG) {
        None if data.number(LOOKUP_FLAGS)? == 0 => Found::Matches,
        None => Found::Misses,
        Some(REG_VERDICT) => Found::Decides,
        Some(_) => Found::Loads,
    };
    Some(Expression::Lookup(data.text(LOOKUP_SET)?, found))
}

/// How many packets the counter of a rule has seen; none if it has none.
pub(super) fn counted(mut list: Parsed<'_>) -> Option<u64> {
    list.find_map(|(_, inner)| {
        let inner = Parsed(inner);
        let data = inner.nested(EXPR_DATA)?;
        let counter = inner.text(EXPR_NAME)? == "counter";
        let packets = data.value(COUNTER_PACKETS)?.try_into().ok()?;
        counter.then(|| u64::from_be_bytes(packets))
    })
}

/// The attributes of an expression in whatever order, without what only newer kernels say.
fn plain<'a>(name: &str, data: Parsed<'a>) -> BTreeMap<u16, &'a [u8]> {
    let since_5_6 = (BITWISE_OP, &MASK_XOR.to_be_bytes()[..]);
    let said = data.filter(|one| match name {
        "bitwise" => *one != since_5_6,
        "limit" => one.0 != LIMIT_PAD,
        _ => true,
    });
    said.collect()
}

/// The kernel compares the whole field of a name.
pub(crate) fn name_value(name: &str) -> [u8; 16] {
    let mut value = [0; 16];
    for (place, octet) in value.iter_mut().zip(name.bytes()) {
        *place = octet;
    }
    value
}

// `linux/netfilter/nf_tables.h`, by the names there without their prefix.
pub(super) const LIST_ELEM: u16 = 1;
pub(super) const EXPR_NAME: u16 = 1;
pub(super) const EXPR_DATA: u16 = 2;
pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
const META_DREG: u16 = 1;
const META_KEY: u16 = 2;
const META_SREG: u16 = 3;
const META_PROTOCOL: u32 = 1;
const META_PRIORITY: u32 = 2;
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const META_PKTTYPE: u32 = 19;
const RT_DREG: u16 = 1;
const RT_KEY: u16 = 2;
/// Since Linux 5.0.
const RT_XFRM: u32 = 4;
const XFRM_DREG: u16 = 1;
const XFRM_KEY: u16 = 2;
const XFRM_DIRECTION: u16 = 3;
const XFRM_PLACE: u16 = 4;
const XFRM_REQID: u32 = 5;
const XFRM_IN: u8 = 0;
const CMP_SREG: u16 = 1;
const CMP_OP: u16 = 2;
const CMP_DATA: u16 = 3;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const RANGE_SREG: u16 = 1;
const RANGE_OP: u16 = 2;
const RANGE_FROM: u16 = 3;
const RANGE_TO: u16 = 4;
const RANGE_IS_IN: u32 = 0;
const PAYLOAD_DREG: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LEN: u16 = 4;
const BITWISE_SREG: u16 = 1;
const BITWISE_DREG: u16 = 2;
const BITWISE_LEN: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
const BITWISE_OP: u16 = 6;
const MASK_XOR: u32 = 0;
const IMMEDIATE_DREG: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const HASH_SREG: u16 = 1;
const HASH_DREG: u16 = 2;
const HASH_LEN: u16 = 3;
const HASH_MODULUS: u16 = 4;
const HASH_SEED: u16 = 5;
const HASH_TYPE: u16 = 7;
const JENKINS: u32 = 0;
/// The same everywhere, so that all nodes choose alike.
const SEED: u32 = 0x6f76_6c79;
const COUNTER_PACKETS: u16 = 2;
const LIMIT_RATE: u16 = 1;
const LIMIT_UNIT: u16 = 2;
const LIMIT_BURST: u16 = 3;
const LIMIT_TYPE: u16 = 4;
const LIMIT_FLAGS: u16 = 5;
/// Aligns numbers on some machines.
const LIMIT_PAD: u16 = 6;
const LIMIT_PACKETS: u32 = 0;
/// `NFT_LIMIT_F_INV`.
const LIMIT_ABOVE: u32 = 1;
const LOOKUP_SET: u16 = 1;
const LOOKUP_SREG: u16 = 2;
const LOOKUP_DREG: u16 = 3;
const LOOKUP_FLAGS: u16 = 5;
const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_ADDRESS_MIN: u16 = 3;
const NAT_ADDRESS_MAX: u16 = 4;
const NAT_FLAGS: u16 = 7;
const NAT_DESTINATION: u32 = 1;
const NAT_MAP_IPS: u32 = 1;
const REJECT_TYPE: u16 = 1;
const REJECT_CODE: u16 = 2;
const REJECT_RESET: u32 = 1;
/// For both families.
const REJECT_UNREACHABLE: u32 = 2;
const PORT_UNREACHABLE: u8 = 1;
/// `NFPROTO_IPV4`.
const IPV4: u32 = 2;
/// `NFPROTO_IPV6`.
const IPV6: u32 = 10;
