//! Which addresses of a subnet are given out, as ranges beside the bits.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Reserved, SubnetConfig, SubnetError};
use crate::prefix::{Block, Family, number};

/// The addresses of a subnet, counted from its first one.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) block: Block,
    gateway: Option<u128>,
    /// Excluded ranges, ascending, disjoint, not touching.
    excluded: Vec<Span>,
    /// From which addresses are chosen, likewise.
    dynamic: Vec<Span>,
    /// How many there are; `u128::MAX` stands for all beyond, too.
    capacity: u128,
}

/// First and last address of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    start: u128,
    end: u128,
}

impl Layout {
    pub(super) fn new(config: &SubnetConfig) -> Result<Self, SubnetError> {
        let prefix = config.prefix;
        let block = whole(prefix)?;
        let mut layout = Self {
            block,
            gateway: None,
            excluded: Vec::new(),
            dynamic: Vec::new(),
            capacity: 0,
        };
        for excluded in &config.excluded {
            let inner = Block::new(*excluded);
            if !block.covers(inner) {
                return Err(SubnetError::ExcludedOutside {
                    prefix,
                    excluded: *excluded,
                });
            }
            layout.excluded.push(layout.span(inner));
        }
        merge(&mut layout.excluded);
        layout.gateway = layout.place_gateway(config)?;
        let range = match config.range {
            None => block,
            Some(range) => Some(whole(range)?)
                .filter(|inner| block.covers(*inner))
                .ok_or(SubnetError::RangeOutside { prefix, range })?,
        };
        layout.dynamic = layout.holes(layout.span(range));
        let sizes = layout
            .dynamic
            .iter()
            .map(|span| (span.end - span.start).saturating_add(1));
        layout.capacity = sizes.fold(0, u128::saturating_add);
        Ok(layout)
    }

    pub(super) fn gateway(&self) -> Option<IpAddr> {
        self.gateway.map(|at| self.address(at))
    }

    pub(super) const fn capacity(&self) -> u128 {
        self.capacity
    }

    pub(super) fn address(&self, at: u128) -> IpAddr {
        self.block.family.address(self.block.base + at)
    }

    /// Returns the place of an address; `None` if it is outside.
    pub(super) fn place(&self, address: IpAddr) -> Option<u128> {
        self.block
            .contains(address)
            .then(|| number(address) - self.block.base)
    }

    pub(super) fn reserved(&self, at: u128) -> Option<Reserved> {
        if let Some(reserved) = self.edge(at) {
            Some(reserved)
        } else if self.gateway == Some(at) {
            Some(Reserved::Gateway)
        } else {
            find(&self.excluded, at)
                .filter(|span| span.start <= at)
                .map(|_| Reserved::Excluded)
        }
    }

    pub(super) fn is_dynamic(&self, at: u128) -> bool {
        find(&self.dynamic, at).is_some_and(|span| span.start <= at)
    }

    /// Returns the first address at or after `from` that is chosen from, and the last one of its range.
    pub(super) fn dynamic_from(&self, from: u128) -> Option<(u128, u128)> {
        let span = find(&self.dynamic, from)?;
        Some((span.start.max(from), span.end))
    }

    /// Addresses that no host may have. A subnet of one or two addresses gives out all (RFC 3021, RFC 6164).
    fn edge(&self, at: u128) -> Option<Reserved> {
        if self.block.span() <= 1 {
            return None;
        }
        match self.block.family {
            Family::V4 if at == 0 => Some(Reserved::Network),
            Family::V4 if at == self.block.span() => Some(Reserved::Broadcast),
            Family::V6 if at == 0 => Some(Reserved::RouterAnycast),
            Family::V4 | Family::V6 => None,
        }
    }

    fn place_gateway(&self, config: &SubnetConfig) -> Result<Option<u128>, SubnetError> {
        let prefix = config.prefix;
        let Some(gateway) = config.gateway else {
            let all = Span {
                start: 0,
                end: self.block.span(),
            };
            let wanted = config.reserve_gateway && all.end > 1;
            let first = self.holes(all).first().map(|span| span.start);
            return Ok(first.filter(|_| wanted));
        };
        let at = self
            .place(gateway)
            .ok_or(SubnetError::GatewayOutside { prefix, gateway })?;
        match self.edge(at) {
            Some(reserved) => Err(SubnetError::GatewayReserved {
                prefix,
                gateway,
                reserved,
            }),
            None => Ok(Some(at)),
        }
    }

    /// Returns what of `whole` is not reserved.
    fn holes(&self, whole: Span) -> Vec<Span> {
        let single = |at| Span { start: at, end: at };
        let edges = [0, self.block.span()]
            .into_iter()
            .filter(|at| self.edge(*at).is_some());
        let mut reserved = self.excluded.clone();
        reserved.extend(edges.chain(self.gateway).map(single));
        merge(&mut reserved);
        let (mut holes, mut next) = (Vec::new(), Some(whole.start));
        for span in reserved {
            let Some(start) = next.filter(|start| *start <= whole.end) else {
                break;
            };
            if span.start > start {
                holes.push(Span {
                    start,
                    end: whole.end.min(span.start - 1),
                });
            }
            next = span.end.checked_add(1).map(|behind| behind.max(start));
        }
        if let Some(start) = next.filter(|start| *start <= whole.end) {
            holes.push(Span {
                start,
                end: whole.end,
            });
        }
        holes
    }

    fn span(&self, inner: Block) -> Span {
        Span {
            start: inner.base - self.block.base,
            end: inner.last() - self.block.base,
        }
    }
}

fn whole(prefix: IpNet) -> Result<Block, SubnetError> {
    let block = Block::new(prefix);
    let expected = block.prefix();
    if expected == prefix {
        Ok(block)
    } else {
        Err(SubnetError::HostBits { prefix, expected })
    }
}

/// Returns the first span that ends at or after `at`.
fn find(spans: &[Span], at: u128) -> Option<Span> {
    spans
        .get(spans.partition_point(|span| span.end < at))
        .copied()
}

fn merge(spans: &mut Vec<Span>) {
    spans.sort_unstable();
    spans.dedup_by(|next, before| {
        let joined = next.start <= before.end.saturating_add(1);
        if joined {
            before.end = before.end.max(next.end);
        }
        joined
    });
}
