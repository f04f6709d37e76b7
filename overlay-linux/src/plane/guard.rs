//! Who may send to the VXLAN devices: members of the network, and nobody else.
//!
//! ```text
//! table inet overlay_guard {
//!     set members4 { elements = { 0x00100100 . 192.0.2.2 } }                  # VNI and reserved octet, and who is a member
//!     map networks { type mark : verdict; elements = { 0x00100100 : goto strangers } }
//!     chain input { type filter hook input priority filter;
//!         udp dport 4789 @th,96,32 & 0xffffff00 . ip saddr @members4 accept
//!         udp dport 4789 @th,96,32 & 0xffffff00 . ip6 saddr @members6 accept
//!         udp dport 4789 @th,96,32 & 0xffffff00 vmap @networks
//!     }
//!     chain strangers { counter drop }
//! }
//! ```
//! A VNI that is none of ours is somebody else's.

use std::collections::BTreeMap;

use overlay_core::{Vni, plane::DesiredNetwork};

use super::{compile::Underlay, tables::Rules};
use crate::nftables::{
    Chain, Element, Expression, Field, Found, Hook, Register, Rule, Set, SetKind, Table, Verdict,
    octets,
};

/// Compiles the filter before the VXLAN devices of these networks.
pub(super) fn compile(networks: &[&DesiredNetwork], underlay: &Underlay) -> Rules {
    let mut table = Table::default();
    let to_port = || {
        let rule = Rule::new()
            .load(Expression::Protocol)
            .compare(true, &[UDP])
            .load(Expression::Load(DESTINATION_PORT, Register::FIRST));
        let rule = rule.compare(true, &underlay.port.to_be_bytes());
        rule.load(Expression::Load(VNI, Register::FIRST))
            .load(Expression::Mask(vec![0xff, 0xff, 0xff, 0]))
    };
    let mut rules = Vec::new();
    for v6 in [false, true] {
        let name = members(v6);
        // In one step with the VNI, because all that members send passes here.
        let member = Rule::new()
            .load(Expression::Family)
            .compare(true, &[if v6 { IPV6 } else { IPV4 }]);
        let Rule(steps) = to_port();
        let member = steps.into_iter().fold(member, Rule::load);
        let member = member
            .load(Expression::Load(Field::source(v6), Register::BESIDE))
            .load(Expression::Lookup(name.to_owned(), Found::Matches));
        rules.push(member.ends(Verdict::Accept));
        let kind = SetKind::numbered_addresses(v6);
        let elements = BTreeMap::new();
        table.sets.insert(name.to_owned(), Set { kind, elements });
    }
    let stranger = Expression::Lookup(NETWORKS.to_owned(), Found::Decides);
    rules.push(to_port().load(stranger));
    let hook = Some(Hook::input());
    table.chains.insert(INPUT.to_owned(), Chain { hook, rules });
    let counted = Rule::new().load(Expression::Counter).ends(Verdict::Drop);
    let (hook, rules) = (None, vec![counted]);
    table
        .chains
        .insert(STRANGERS.to_owned(), Chain { hook, rules });
    let mut leads = BTreeMap::new();
    for network in networks {
        let vni = key(network.vni);
        let goto = Verdict::Goto(STRANGERS.to_owned());
        leads.insert(vni.clone(), Element::Verdict(goto));
        let vteps = network.remotes.values().map(|remote| remote.vtep);
        for vtep in vteps.chain(network.vteps.iter().copied()) {
            let member = [vni.clone(), octets(vtep)].concat();
            if let Some(set) = table.sets.get_mut(members(vtep.is_ipv6())) {
                set.elements.insert(member, Element::Present);
            }
        }
    }
    let networks = Set {
        kind: SetKind::BY_NUMBER,
        elements: leads,
    };
    table.sets.insert(NETWORKS.to_owned(), networks);
    Rules(table)
}

/// Whether a chain drops what comes from strangers.
pub(super) fn drops(chain: &str) -> bool {
    chain == STRANGERS
}

fn members(v6: bool) -> &'static str {
    if v6 { "members6" } else { "members4" }
}

/// The VNI as it stands in the header, with the octet after it.
fn key(vni: Vni) -> Vec<u8> {
    let [a, b, c] = vni.octets();
    vec![a, b, c, 0]
}

/// The table's name.
pub(super) const TABLE: &str = "overlay_guard";
const NETWORKS: &str = "networks";
const INPUT: &str = "input";
const STRANGERS: &str = "strangers";
const DESTINATION_PORT: Field = Field::transport(2, 2);
/// After the headers of UDP, and flags and reserved octets of VXLAN (RFC 7348 §5).
const VNI: Field = Field::transport(12, 4);
const UDP: u8 = 17;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// `NFPROTO_IPV6`.
const IPV6: u8 = 10;
