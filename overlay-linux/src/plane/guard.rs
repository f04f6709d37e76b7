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
//!
//! Of encrypted networks nothing passes that is not sealed:
//!
//! ```text
//!     set sealed { elements = { 0x00100200 } }      # networks that are encrypted
//!     set closed { elements = { 0x00100300 } }      # those that cannot be: nothing of them passes at all
//!     chain input { …
//!         udp dport 4789 @th,96,32 & 0xffffff00 @closed goto clear
//!         udp dport 4789 @th,96,32 & 0xffffff00 @sealed goto sealed
//!         … }
//!     chain sealed { ipsec in reqid 0x6f766c79 goto members; goto clear }      # members as in input, others to strangers
//!     chain leak { type filter hook output priority 300;
//!         udp dport 4789 @th,96,32 & 0xffffff00 @closed goto clear
//!         udp dport 4789 @th,96,32 & 0xffffff00 @sealed rt ipsec missing goto clear
//!     }
//!     chain clear { counter drop }
//! ```

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::{Vni, plane::DesiredNetwork};

use super::{compile::Underlay, tables::Rules};
use crate::nftables::{
    Chain, Element, Expression, Field, Found, Hook, Register, Rule, Set, SetKind, Table, Verdict,
    octets,
};
use crate::xfrm::REQID;

/// Compiles the filter before the VXLAN devices of these networks. Of encrypted ones that are `closed` nothing passes.
pub(super) fn compile(
    networks: &[&DesiredNetwork],
    closed: &BTreeSet<Vni>,
    underlay: &Underlay,
) -> Rules {
    let mut guard = Guard {
        table: Table::default(),
        port: underlay.port,
    };
    for v6 in [false, true] {
        let kind = SetKind::numbered_addresses(v6);
        guard.set(members(v6), kind, BTreeMap::new());
    }
    let mut input = guard.seals(networks, closed);
    input.extend(guard.of_members());
    let stranger = Expression::Lookup(NETWORKS.to_owned(), Found::Decides);
    input.push(guard.to_port().load(stranger));
    guard.chain(INPUT, Some(Hook::input()), input);
    guard.chain(STRANGERS, None, vec![counted()]);
    let mut leads = BTreeMap::new();
    for network in networks {
        let vni = key(network.vni);
        let goto = Verdict::Goto(STRANGERS.to_owned());
        leads.insert(vni.clone(), Element::Verdict(goto));
        let vteps = network.remotes.values().map(|remote| remote.vtep);
        for vtep in vteps.chain(network.vteps.iter().copied()) {
            let member = [vni.clone(), octets(vtep)].concat();
            if let Some(set) = guard.table.sets.get_mut(members(vtep.is_ipv6())) {
                set.elements.insert(member, Element::Present);
            }
        }
    }
    guard.set(NETWORKS, SetKind::BY_NUMBER, leads);
    Rules {
        table: guard.table,
        packets: None,
    }
}

struct Guard {
    table: Table,
    port: u16,
}

impl Guard {
    /// What is not sealed, or cannot be: rules of the input, and all of the output.
    fn seals(&mut self, networks: &[&DesiredNetwork], closed: &BTreeSet<Vni>) -> Vec<Rule> {
        let sealed = networks.iter().filter(|network| network.encrypted);
        let present = |vni: Vni| (key(vni), Element::Present);
        let sealed: BTreeMap<_, _> = sealed.map(|network| present(network.vni)).collect();
        let closed: BTreeMap<_, _> = closed.iter().map(|vni| present(*vni)).collect();
        let (mut input, mut output) = (Vec::new(), Vec::new());
        let goto = |rule: Rule, chain: &str| rule.ends(Verdict::Goto(chain.to_owned()));
        if !closed.is_empty() {
            for rules in [&mut input, &mut output] {
                rules.push(goto(self.of_number(CLOSED), CLEAR));
            }
            self.set(CLOSED, SetKind::NUMBERS, closed);
        }
        if !sealed.is_empty() {
            input.push(goto(self.of_number(SEALED), SEALED));
            let leaves = self.of_number(SEALED).load(Expression::IsSealed);
            output.push(goto(leaves.compare(true, &[0]), CLEAR));
            let opened = Rule::new().load(Expression::OpenedBy);
            let opened = opened.compare(true, &REQID.to_ne_bytes());
            let rules = vec![goto(opened, MEMBERS), goto(Rule::new(), CLEAR)];
            self.chain(SEALED, None, rules);
            let mut rules = self.of_members();
            rules.push(goto(Rule::new(), STRANGERS));
            self.chain(MEMBERS, None, rules);
            self.set(SEALED, SetKind::NUMBERS, sealed);
        }
        if !output.is_empty() {
            self.chain(LEAK, Some(Hook::output_last()), output);
            self.chain(CLEAR, None, vec![counted()]);
        }
        input
    }

    /// Accepts what comes from members.
    fn of_members(&self) -> Vec<Rule> {
        let rules = [false, true].map(|v6| {
            // In one step with the VNI, because all that members send passes here.
            let member = Rule::new()
                .load(Expression::Family)
                .compare(true, &[if v6 { IPV6 } else { IPV4 }]);
            let Rule(steps) = self.to_port();
            let member = steps.into_iter().fold(member, Rule::load);
            let member = member
                .load(Expression::Load(Field::source(v6), Register::BESIDE))
                .load(Expression::Lookup(members(v6).to_owned(), Found::Matches));
            member.ends(Verdict::Accept)
        });
        rules.into()
    }

    /// VXLAN whose VNI is in a set.
    fn of_number(&self, set: &str) -> Rule {
        let found = Expression::Lookup(set.to_owned(), Found::Matches);
        self.to_port().load(found)
    }

    /// VXLAN, with the VNI in the register.
    fn to_port(&self) -> Rule {
        let rule = Rule::new()
            .load(Expression::Protocol)
            .compare(true, &[UDP])
            .load(Expression::Load(DESTINATION_PORT, Register::FIRST));
        let rule = rule.compare(true, &self.port.to_be_bytes());
        rule.load(Expression::Load(VNI, Register::FIRST))
            .load(Expression::Mask(vec![0xff, 0xff, 0xff, 0]))
    }

    fn chain(&mut self, name: &str, hook: Option<Hook>, rules: Vec<Rule>) {
        let chain = Chain { hook, rules };
        self.table.chains.insert(name.to_owned(), chain);
    }

    fn set(&mut self, name: &str, kind: SetKind, elements: BTreeMap<Vec<u8>, Element>) {
        let set = Set { kind, elements };
        self.table.sets.insert(name.to_owned(), set);
    }
}

fn counted() -> Rule {
    Rule::new().load(Expression::Counter).ends(Verdict::Drop)
}

/// The networks that pass sealed only, or not at all.
pub(super) fn sealed(rules: Option<&Rules>) -> BTreeSet<Vni> {
    let sets = rules.into_iter().flat_map(|Rules { table, .. }| {
        let sets = [SEALED, CLOSED].map(|name| table.sets.get(name));
        sets.into_iter().flatten()
    });
    let keys = sets.flat_map(|set| set.elements.keys());
    let numbers = keys.filter_map(|key| key.first_chunk().map(|vni| Vni::from_octets(*vni)));
    numbers.collect()
}

/// Whether a chain drops what is not sealed.
pub(super) fn is_clear(chain: &str) -> bool {
    chain == CLEAR
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
const MEMBERS: &str = "members";
const SEALED: &str = "sealed";
const CLOSED: &str = "closed";
const LEAK: &str = "leak";
const CLEAR: &str = "clear";
const DESTINATION_PORT: Field = Field::transport(2, 2);
/// After the headers of UDP, and flags and reserved octets of VXLAN (RFC 7348 §5).
const VNI: Field = Field::transport(12, 4);
const UDP: u8 = 17;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// `NFPROTO_IPV6`.
const IPV6: u8 = 10;
