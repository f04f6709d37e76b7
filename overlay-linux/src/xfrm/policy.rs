//! Outbound policies: what is marked and goes to a peer is sealed with an association.
//!
//! ```text
//! struct xfrm_userpolicy_info            struct xfrm_user_tmpl (attribute 5)
//! 0        56       120    152      156    160  161    162    163       168
//! +--------+--------+------+--------+------+----+------+-----+-----+----+
//! |selector| limits | use  |priority| index| dir|action|flags|share| -  |
//! +--------+--------+------+--------+------+----+------+-----+-----+----+
//! 0           16    20      24       28       44      48   49    50  51   52         64
//! +-----------+-----+-------+--------+--------+-------+----+-----+---+----+----------+
//! |destination| SPI |proto -|family -| source | reqid |mode|share|opt| -  |algorithms|
//! +-----------+-----+-------+--------+--------+-------+----+-----+---+----+----------+
//! ```

use std::net::IpAddr;

use super::{
    ATTRIBUTE_MARK, ESP, MARK, REQID, TRANSPORT_MODE,
    association::NO_LIMITS,
    selector::{Selector, address, family, put},
};
use crate::nftables::attribute::{Attributes, Parsed};

/// How what is selected is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Such as the kernel has it: one template, or what somebody made of it.
    template: Vec<u8>,
    priority: u32,
    /// Whether it lets pass rather than blocks.
    allows: bool,
}

impl Policy {
    /// By the association of this SPI.
    pub(crate) fn new(source: IpAddr, destination: IpAddr, spi: u32) -> Self {
        let mut template = vec![0; TEMPLATE_BYTES];
        let fields: [(usize, &[u8]); 7] = [
            (0, &address(destination)),
            (TEMPLATE_SPI, &spi.to_be_bytes()),
            (20, &[ESP]),
            (24, &family(destination).to_ne_bytes()),
            (28, &address(source)),
            (TEMPLATE_REQID, &REQID.to_ne_bytes()),
            (48, &[TRANSPORT_MODE]),
        ];
        for (offset, value) in fields {
            put(&mut template, offset, value);
        }
        put(&mut template, 52, &[0xff; 12]);
        Self {
            template,
            priority: PRIORITY,
            allows: true,
        }
    }

    /// The SPI that it seals with.
    pub(crate) fn spi(&self) -> Option<u32> {
        let spi = self.template.get(TEMPLATE_SPI..)?.first_chunk()?;
        Some(u32::from_be_bytes(*spi))
    }

    pub(super) fn emit(&self, selector: &Selector) -> Vec<u8> {
        let mut body = vec![0; POLICY_BYTES];
        let action = if self.allows { ALLOW } else { BLOCK };
        let fields: [(usize, &[u8]); 4] = [
            (0, selector.octets()),
            (LIMITS, &NO_LIMITS),
            (POLICY_PRIORITY, &self.priority.to_ne_bytes()),
            (DIRECTION, &[OUT, action]),
        ];
        for (offset, value) in fields {
            put(&mut body, offset, value);
        }
        let attributes = Attributes::default().value(ATTRIBUTE_TEMPLATE, &self.template);
        let attributes = attributes.value(ATTRIBUTE_MARK, &mark());
        body.extend_from_slice(attributes.octets());
        body
    }

    /// Reads one of ours back: outbound, with our mark and `reqid`.
    pub(super) fn parse(body: &[u8]) -> Option<(Selector, Self)> {
        let attributes = Parsed(body.get(POLICY_BYTES..)?);
        let template = attributes.value(ATTRIBUTE_TEMPLATE)?;
        let reqid = template.get(TEMPLATE_REQID..)?.first_chunk()?;
        let marked = attributes.value(ATTRIBUTE_MARK) == Some(&mark());
        let direction = *body.get(DIRECTION)?;
        if !marked || u32::from_ne_bytes(*reqid) != REQID || direction != OUT {
            return None;
        }
        let priority = body.get(POLICY_PRIORITY..)?.first_chunk()?;
        let policy = Self {
            template: template.to_vec(),
            priority: u32::from_ne_bytes(*priority),
            allows: *body.get(DIRECTION + 1)? == ALLOW,
        };
        Some((Selector::parse(body)?, policy))
    }
}

/// What names a policy of ours to the kernel.
pub(super) fn emit_id(selector: &Selector) -> Vec<u8> {
    let mut body = vec![0; ID_BYTES];
    put(&mut body, 0, selector.octets());
    put(&mut body, ID_DIRECTION, &[OUT]);
    let attributes = Attributes::default().value(ATTRIBUTE_MARK, &mark());
    body.extend_from_slice(attributes.octets());
    body
}

/// The mark, and all of its bits.
fn mark() -> [u8; 8] {
    let mut both = [0xff; 8];
    put(&mut both, 0, &MARK.to_ne_bytes());
    both
}

const POLICY_BYTES: usize = 168;
const LIMITS: usize = 56;
const POLICY_PRIORITY: usize = 152;
const DIRECTION: usize = 160;
/// Before those of others, which have no mark to tell them apart by.
const PRIORITY: u32 = 1;
const OUT: u8 = 1;
const ALLOW: u8 = 0;
const BLOCK: u8 = 1;
const ATTRIBUTE_TEMPLATE: u16 = 5;
const TEMPLATE_BYTES: usize = 64;
const TEMPLATE_SPI: usize = 16;
const TEMPLATE_REQID: usize = 44;
const ID_BYTES: usize = 64;
const ID_DIRECTION: usize = 60;
