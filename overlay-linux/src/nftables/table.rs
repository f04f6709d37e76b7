//! What a table holds, and how its parts are said to the kernel and heard from it.
//!
//! Only what the way out needs: IPv4, register 1, a handful of expressions. Whatever else is heard is kept by its name, so
//! that it differs from everything that is wanted.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use super::attribute::{Attributes, Parsed};

/// A table of the IPv4 family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// 0; the kernel's flags otherwise, such as that of a table that sleeps.
    pub(crate) flags: u32,
    /// Its chains by their names.
    pub(crate) chains: BTreeMap<String, Chain>,
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

/// The expressions of a rule; the first that does not match ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule(pub(crate) Vec<Expression>);

/// One step of a rule. Loads and masks work on register 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    /// Loads the name of the interface by which the packet came.
    InputName,
    /// Loads the name of the interface by which the packet leaves.
    OutputName,
    /// Loads the IPv4 source address.
    Source,
    /// Loads the connection's state.
    State,
    /// Keeps these bits.
    Mask([u8; 4]),
    /// Goes on if the register is equal (or if it is not).
    Compare { equal: bool, with: Vec<u8> },
    /// Ends with a verdict.
    Verdict(Verdict),
    /// Gives the packet the source address of the interface by which it leaves.
    Masquerade,
    /// Something that is never made here.
    Other(String),
}

/// How a rule ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Jump(String),
}

impl Rule {
    /// Matches everything.
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn input(self, name: &str) -> Self {
        self.load(Expression::InputName)
            .compare(true, &name_value(name))
    }

    pub(crate) fn output(self, name: &str) -> Self {
        self.load(Expression::OutputName)
            .compare(true, &name_value(name))
    }

    pub(crate) fn not_output(self, name: &str) -> Self {
        self.load(Expression::OutputName)
            .compare(false, &name_value(name))
    }

    pub(crate) fn source(self, subnet: Ipv4Net) -> Self {
        self.load(Expression::Source)
            .load(Expression::Mask(subnet.netmask().octets()))
            .compare(true, &subnet.network().octets())
    }

    /// Packets of connections that exist, and of those that belong to them.
    pub(crate) fn of_known_connections(self) -> Self {
        let states = ESTABLISHED | RELATED;
        self.load(Expression::State)
            .load(Expression::Mask(states.to_ne_bytes()))
            .compare(false, &[0; 4])
    }

    pub(crate) fn ends(self, verdict: Verdict) -> Self {
        self.load(Expression::Verdict(verdict))
    }

    pub(crate) fn masquerades(self) -> Self {
        self.load(Expression::Masquerade)
    }

    /// The interface that packets must come by, if the rule says so.
    pub(crate) fn source_name(&self) -> Option<String> {
        self.name_after(&Expression::InputName)
    }

    /// The interface that packets must leave by, if the rule says so.
    pub(crate) fn target_name(&self) -> Option<String> {
        self.name_after(&Expression::OutputName)
    }

    fn name_after(&self, load: &Expression) -> Option<String> {
        let mut pairs = self.0.windows(2);
        pairs.find_map(|pair| match pair {
            [found, Expression::Compare { equal: true, with }] if found == load => {
                let end = with.iter().position(|octet| *octet == 0);
                let name = with.get(..end.unwrap_or(with.len()))?;
                String::from_utf8(name.to_vec()).ok()
            }
            _ => None,
        })
    }

    fn load(mut self, expression: Expression) -> Self {
        self.0.push(expression);
        self
    }

    fn compare(self, equal: bool, with: &[u8]) -> Self {
        let with = with.to_vec();
        self.load(Expression::Compare { equal, with })
    }

    pub(super) fn emit(&self) -> Attributes {
        self.0.iter().fold(Attributes::default(), |all, one| {
            let inner = Attributes::default()
                .text(EXPR_NAME, one.name())
                .nest(EXPR_DATA, &one.emit());
            all.nest(LIST_ELEM, &inner)
        })
    }

    pub(super) fn parse(list: Parsed<'_>) -> Self {
        let expressions = list.map(|(_, inner)| {
            let inner = Parsed(inner);
            let name = inner.text(EXPR_NAME).unwrap_or_default();
            let data = inner.nested(EXPR_DATA).unwrap_or(Parsed(&[]));
            Expression::parse(&name, data).unwrap_or(Expression::Other(name))
        });
        Self(expressions.collect())
    }
}

impl Expression {
    fn name(&self) -> &str {
        match self {
            Self::InputName | Self::OutputName => "meta",
            Self::Source => "payload",
            Self::State => "ct",
            Self::Mask(_) => "bitwise",
            Self::Compare { .. } => "cmp",
            Self::Verdict(_) => "immediate",
            Self::Masquerade => "masq",
            Self::Other(name) => name,
        }
    }

    /// In the kernel's own order, so that what it returns is the very same octets.
    fn emit(&self) -> Attributes {
        let empty = Attributes::default();
        match self {
            Self::InputName => empty
                .number(META_KEY, META_IIFNAME)
                .number(META_DREG, REG_1),
            Self::OutputName => empty
                .number(META_KEY, META_OIFNAME)
                .number(META_DREG, REG_1),
            Self::Source => empty
                .number(PAYLOAD_DREG, REG_1)
                .number(PAYLOAD_BASE, NETWORK_HEADER)
                .number(PAYLOAD_OFFSET, SOURCE_OFFSET)
                .number(PAYLOAD_LEN, WORD_BYTES),
            Self::State => empty.number(CT_DREG, REG_1).number(CT_KEY, CT_STATE),
            Self::Mask(mask) => empty
                .number(BITWISE_SREG, REG_1)
                .number(BITWISE_DREG, REG_1)
                .number(BITWISE_LEN, WORD_BYTES)
                .number(BITWISE_OP, MASK_XOR)
                .nest(BITWISE_MASK, &Attributes::default().value(DATA_VALUE, mask))
                .nest(
                    BITWISE_XOR,
                    &Attributes::default().value(DATA_VALUE, &[0; 4]),
                ),
            Self::Compare { equal, with } => empty
                .number(CMP_SREG, REG_1)
                .number(CMP_OP, if *equal { CMP_EQ } else { CMP_NEQ })
                .nest(CMP_DATA, &Attributes::default().value(DATA_VALUE, with)),
            Self::Verdict(verdict) => {
                let verdict = Attributes::default().nest(DATA_VERDICT, &verdict.emit());
                empty
                    .number(IMMEDIATE_DREG, REG_VERDICT)
                    .nest(IMMEDIATE_DATA, &verdict)
            }
            Self::Masquerade | Self::Other(_) => empty,
        }
    }

    fn parse(name: &str, data: Parsed<'_>) -> Option<Self> {
        let known = match name {
            "meta" => match data.number(META_KEY)? {
                META_IIFNAME => Self::InputName,
                META_OIFNAME => Self::OutputName,
                _ => return None,
            },
            "payload" => Self::Source,
            "ct" => Self::State,
            "bitwise" => {
                let mask = data.nested(BITWISE_MASK)?.value(DATA_VALUE)?;
                Self::Mask(mask.try_into().ok()?)
            }
            "cmp" => Self::Compare {
                equal: data.number(CMP_OP)? == CMP_EQ,
                with: data.nested(CMP_DATA)?.value(DATA_VALUE)?.to_vec(),
            },
            "immediate" => {
                let verdict = data.nested(IMMEDIATE_DATA)?.nested(DATA_VERDICT)?;
                Self::Verdict(Verdict::parse(verdict)?)
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

/// The attributes of an expression in whatever order, without what only newer kernels say.
fn plain<'a>(name: &str, data: Parsed<'a>) -> BTreeMap<u16, &'a [u8]> {
    let since_5_6 = (BITWISE_OP, &MASK_XOR.to_be_bytes()[..]);
    let said = data.filter(|one| name != "bitwise" || *one != since_5_6);
    said.collect()
}

impl Verdict {
    fn emit(&self) -> Attributes {
        let empty = Attributes::default();
        match self {
            Self::Drop => empty.number(VERDICT_CODE, DROP),
            Self::Accept => empty.number(VERDICT_CODE, ACCEPT),
            Self::Jump(chain) => empty.number(VERDICT_CODE, JUMP).text(VERDICT_CHAIN, chain),
        }
    }

    fn parse(data: Parsed<'_>) -> Option<Self> {
        match data.number(VERDICT_CODE)? {
            DROP => Some(Self::Drop),
            ACCEPT => Some(Self::Accept),
            JUMP => Some(Self::Jump(data.text(VERDICT_CHAIN)?)),
            _ => None,
        }
    }
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

    /// For packets that are about to leave, when their connection's address is chosen.
    pub(crate) fn source_nat() -> Self {
        Self {
            kind: "nat".to_owned(),
            number: HOOK_POSTROUTING,
            priority: PRIORITY_SOURCE_NAT,
            policy: Policy::Accept,
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

/// The kernel compares the whole field of a name.
fn name_value(name: &str) -> [u8; 16] {
    let mut value = [0; 16];
    for (place, octet) in value.iter_mut().zip(name.bytes()) {
        *place = octet;
    }
    value
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
const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const META_DREG: u16 = 1;
const META_KEY: u16 = 2;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const CMP_SREG: u16 = 1;
const CMP_OP: u16 = 2;
const CMP_DATA: u16 = 3;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const PAYLOAD_DREG: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LEN: u16 = 4;
const NETWORK_HEADER: u32 = 1;
/// Of the source address in an IPv4 header (RFC 791 §3.1).
const SOURCE_OFFSET: u32 = 12;
const WORD_BYTES: u32 = 4;
const BITWISE_SREG: u16 = 1;
const BITWISE_DREG: u16 = 2;
const BITWISE_LEN: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
const BITWISE_OP: u16 = 6;
const MASK_XOR: u32 = 0;
const CT_DREG: u16 = 1;
const CT_KEY: u16 = 2;
const CT_STATE: u32 = 0;
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;
const IMMEDIATE_DREG: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// -3.
const JUMP: u32 = 0xffff_fffd;

// `linux/netfilter_ipv4.h`.
const HOOK_FORWARD: u32 = 2;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE_NAT: i32 = 100;
