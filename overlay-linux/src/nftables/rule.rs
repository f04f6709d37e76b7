//! Rules: steps, one after the other.

use ipnet::Ipv4Net;

use super::{
    attribute::{Attributes, Parsed},
    conntrack::State,
    expression::{EXPR_DATA, EXPR_NAME, Expression, LIST_ELEM, name_value},
    field::{Field, Register},
    verdict::Verdict,
};

/// The expressions of a rule; the first that does not match ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule(pub(crate) Vec<Expression>);

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
        self.load(Expression::Load(Field::source(false), Register::FIRST))
            .load(Expression::Mask(subnet.netmask().octets().to_vec()))
            .compare(true, &subnet.network().octets())
    }

    /// Packets of connections that exist, and of those that belong to them.
    pub(crate) fn of_known_connections(self) -> Self {
        self.in_state(State(State::ESTABLISHED.0 | State::RELATED.0))
    }

    /// Packets in one of these states.
    pub(crate) fn in_state(self, State(states): State) -> Self {
        self.load(Expression::State)
            .load(Expression::Mask(states.to_ne_bytes().to_vec()))
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

    /// With this step more.
    pub(crate) fn load(mut self, expression: Expression) -> Self {
        self.0.push(expression);
        self
    }

    pub(crate) fn compare(self, equal: bool, with: &[u8]) -> Self {
        let with = with.to_vec();
        self.load(Expression::Compare { equal, with })
    }

    pub(crate) fn within(self, first: &[u8], last: &[u8]) -> Self {
        let (first, last) = (first.to_vec(), last.to_vec());
        if first == last {
            return self.compare(true, &first);
        }
        self.load(Expression::Within { first, last })
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
