//! Who may send to the VXLAN devices: members of the network, and nobody else.
//!
//! ```text
//! table inet overlay_guard {
//!     map networks { type mark : verdict; elements = { 0x00100100 : goto from_4097 } }       # VNI and reserved octet
//!     set members4_4097 { type ipv4_addr; elements = { 192.0.2.2 } }
//!     chain input { type filter hook input priority filter; udp dport 4789 @th,96,32 & 0xffffff00 vmap @networks }
//!     chain from_4097 { ip saddr @members4_4097 accept; ip6 saddr @members6_4097 accept; counter drop }
//! }
//! ```
//! A VNI that is none of ours is somebody else's.

use std::{collections::BTreeMap, net::IpAddr};

use overlay_core::{Vni, plane::DesiredNetwork};

use super::{compile::Underlay, filter::octets, tables::Rules};
use crate::nftables::{
    Chain, Element, Expression, Field, Found, Hook, Register, Rule, Set, SetKind, Table, Verdict,
};

/// Compiles the filter before the VXLAN devices of these networks.
pub(super) fn compile(networks: &[&DesiredNetwork], underlay: &Underlay) -> Rules {
    let mut table = Table::default();
    let port = underlay.port.to_be_bytes();
    let entry = Rule::new()
        .load(Expression::Protocol)
        .compare(true, &[UDP])
        .load(Expression::Load(DESTINATION_PORT, Register::FIRST))
        .compare(true, &port)
        .load(Expression::Load(VNI, Register::FIRST))
        .load(Expression::Mask(vec![0xff, 0xff, 0xff, 0]))
        .load(Expression::Lookup(NETWORKS.to_owned(), Found::Decides));
    let chain = Chain {
        hook: Some(Hook::input()),
        rules: vec![entry],
    };
    table.chains.insert("input".to_owned(), chain);
    let mut leads = BTreeMap::new();
    for network in networks {
        let vni = network.vni;
        let chain = format!("{FROM}{}", vni.get());
        let goto = Element::Verdict(Verdict::Goto(chain.clone()));
        leads.insert(key(vni), goto);
        let vteps = network.remotes.values().map(|remote| remote.vtep);
        let vteps: Vec<IpAddr> = vteps.chain(network.vteps.iter().copied()).collect();
        let mut rules = Vec::new();
        for v6 in [false, true] {
            let members = format!("members{}_{}", if v6 { 6 } else { 4 }, vni.get());
            let own = vteps.iter().filter(|vtep| vtep.is_ipv6() == v6);
            let elements = own.map(|vtep| (octets(*vtep), Element::Present));
            let set = Set {
                kind: SetKind::addresses(v6),
                elements: elements.collect(),
            };
            table.sets.insert(members.clone(), set);
            let member = Rule::new()
                .load(Expression::Family)
                .compare(true, &[if v6 { IPV6 } else { IPV4 }])
                .load(Expression::Load(Field::source(v6), Register::FIRST))
                .load(Expression::Lookup(members, Found::Matches))
                .ends(Verdict::Accept);
            rules.push(member);
        }
        let counted = Rule::new().load(Expression::Counter);
        rules.push(counted.ends(Verdict::Drop));
        let hook = None;
        table.chains.insert(chain, Chain { hook, rules });
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
    chain.starts_with(FROM)
}

/// The VNI as it stands in the header, with the octet after it.
fn key(vni: Vni) -> Vec<u8> {
    let [a, b, c] = vni.octets();
    vec![a, b, c, 0]
}

/// The table's name.
pub(super) const TABLE: &str = "overlay_guard";
const NETWORKS: &str = "networks";
const FROM: &str = "from_";
const DESTINATION_PORT: Field = Field::transport(2, 2);
/// After the headers of UDP, and flags and reserved octets of VXLAN (RFC 7348 §5).
const VNI: Field = Field::transport(12, 4);
const UDP: u8 = 17;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// `NFPROTO_IPV6`.
const IPV6: u8 = 10;
