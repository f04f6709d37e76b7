//! Who on a network may reach whom: a [`NetworkPolicy`] in the switch namespace.
//!
//! Bridges of networks with rules show the packets in their frames to the rules for packets, with connection tracking
//! (`br_netfilter`, by the bridge's own setting). A packet that may pass gets a mark there, and what has none goes no further:
//! where packets are not shown, for whatever reason, none passes. Others' bridges are spared all of this.
//!
//! ```text
//! table inet overlay_policy {
//!     map zones { type ifname : 16 bits; elements = { ovb4097 : 4097 } }      # networks may have the same addresses
//!     chain zones { type filter hook prerouting priority -450; ct zone set iifname map @zones }
//!     map networks { type ifname : verdict; elements = { ovb4097 : goto net_4097 } }
//!     chain judge { type filter hook prerouting priority filter; iifname vmap @networks }
//!     chain net_4097 { meta nfproto ipv4 goto net4_4097; goto net6_4097 }
//!     chain net4_4097 {                                                       # net6: neighbour discovery passes
//!         meta pkttype { broadcast, multicast } goto packet4_4097             # and to groups by whatever MAC address
//!         ct state untracked goto packet4_4097
//!         meta l4proto icmp goto icmp4_4097             # no echo: packet4; errors about a flow of who sends them: flow4
//!         goto tracked4_4097 }
//!     chain tracked4_4097 {
//!         ct state new tcp flags & (fin|syn|rst|ack) != syn goto drop_policy  # if the default is to deny
//!         ct state invalid goto drop_policy                                   # else: goto packet4_4097
//!         goto flow4_4097 }
//!     chain flow4_4097 {                                                      # by who opened it, and to what
//!         meta mark set 0 meta priority set 0
//!         meta mark set ct original ip daddr map @to4_4097_…
//!         meta priority set ct original ip saddr map @from4_4097_…
//!         meta mark set meta mark . meta priority map @pairs_4097_…
//!         ct protocol tcp meta priority set ct original proto-dst map @tcp4_4097_…    # udp4; others: protocols4
//!         meta mark . meta priority vmap @decide_4097_…
//!         goto drop_policy }                                                  # the default
//!     chain packet4_4097 { … }                                                # the same, by the packet alone
//!     chain pass { meta priority set 0 meta mark set 0x6f766c70 accept }
//! }
//! table bridge overlay_plane { …                                              # beside what every network has
//!     chain unjudged { type filter hook prerouting priority -150;
//!         iifname @policed meta mark set 0
//!         ether type { ip, ip6, arp } accept; iifname @strict goto drop_policy }
//!     chain judged { type filter hook forward priority 300;
//!         iifname @policed meta protocol { ip, ip6 } meta mark != 0x6f766c70 goto drop_policy }
//!     chain postrouting { … meta mark 0x6f766c70 meta mark set 0 }
//! }
//! ```
//!
//! *Established* is not enough to pass: each packet is judged by who opened its flow, so that with the rules change all
//! flows, and nothing has to be forgotten. That is a few look-ups, however many rules there are: see [`classes`]. Their names
//! tell one set of rules from another, so that what is under way while rules are replaced is judged by the former ones alone:
//! new sets are there before the rules that look into them, and the former go after theirs, see
//! [`stages`](crate::nftables::stages). Where somebody else takes half of them away, what is under way is dropped, also if the
//! default is to allow. Mark and priority are where numbers are kept from one rule to the next; both are 0 when a packet comes
//! from another namespace, and when it has passed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use overlay_core::{
    MacAddr, Vni,
    plane::{DesiredNetwork, NetworkPolicy, Verdict as Allowed},
};

use super::{
    filter::{self, DROP},
    tables::{bridge_name, port_name, vxlan_name},
};
use crate::nftables::{
    Chain, Element, Expression, Found, Hook, Rule, Set, SetKind, Table, Verdict, name_value, octets,
};

mod access;
mod chains;
mod classes;

pub(crate) use access::{ACCESS, Access, access};
pub use classes::TooMany;
use classes::{Classes, Span, TCP, UDP, at};

/// The rules of a network, as look-ups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Compiled {
    classes: Classes,
    default: Allowed,
    /// Tells these rules from others.
    version: u64,
}

/// Compiles the rules of a network; none if it is open.
pub(super) fn compile(policy: &NetworkPolicy) -> Result<Option<Compiled>, TooMany> {
    if policy.is_open() {
        return Ok(None);
    }
    Ok(Some(Compiled {
        classes: classes::compile(policy)?,
        default: policy.default,
        version: version(policy),
    }))
}

/// A network with its rules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policed<'a> {
    pub(super) network: &'a DesiredNetwork,
    pub(super) policy: &'a Compiled,
}

/// The table for packets; none where all networks are open.
pub(super) fn packets(policed: &[Policed<'_>]) -> Option<Table> {
    if policed.is_empty() {
        return None;
    }
    let mut made = Packets(Table::default());
    let zone = Rule::new()
        .load(Expression::InputName)
        .load(Expression::Lookup(ZONES.to_owned(), Found::Loads))
        .load(Expression::SetZone);
    made.chain(ZONES, Some(Hook::before_fragments()), vec![zone]);
    let judge = Rule::new().load(Expression::InputName);
    let judge = judge.load(Expression::Lookup(NETWORKS.to_owned(), Found::Decides));
    made.chain(JUDGE, Some(Hook::prerouting()), vec![judge]);
    let pass = unranked(Rule::new())
        .load(Expression::Constant(PASSES.to_ne_bytes().to_vec()))
        .load(Expression::SetMark)
        .ends(Verdict::Accept);
    made.chain(PASS, None, vec![pass]);
    made.chain(&dropping(), None, vec![counted()]);
    let zones = zones(policed.iter().map(|one| one.network.vni));
    let zones = zones.iter().map(|(vni, zone)| {
        let bridge = name_value(&bridge_name(*vni)).to_vec();
        (bridge, Element::Data(zone.to_ne_bytes().to_vec()))
    });
    made.set(ZONES.to_owned(), SetKind::ZONES, zones.collect());
    let networks = policed.iter().map(|Policed { network, .. }| {
        let bridge = name_value(&bridge_name(network.vni)).to_vec();
        let chain = format!("net_{}", network.vni.get());
        (bridge, Element::Verdict(Verdict::Goto(chain)))
    });
    made.set(NETWORKS.to_owned(), SetKind::BY_NAME, networks.collect());
    for one in policed {
        made.look_ups(one);
        made.peers(one.network);
        made.network(one);
    }
    Some(made.0)
}

/// What there is about frames: those whose packets were not judged go nowhere.
pub(super) fn frames(table: &mut Table, policed: &[Policed<'_>]) {
    if policed.is_empty() {
        return;
    }
    let devices = |which: fn(&Policed<'_>) -> bool| {
        let networks = policed.iter().filter(|one| which(one));
        let names = networks.flat_map(|one| {
            let ports = one.network.ports.keys().map(|port| port_name(*port));
            ports.chain([vxlan_name(one.network.vni)])
        });
        let names = names.map(|name| (name_value(&name).to_vec(), Element::Present));
        let (kind, elements) = (SetKind::NAMES, names.collect());
        Set { kind, elements }
    };
    let all = devices(|_| true);
    let strict = devices(|one| one.policy.default == Allowed::Deny);
    table.sets.insert(POLICED.to_owned(), all);
    table.sets.insert(STRICT.to_owned(), strict);
    let from = |set: &str| {
        let rule = Rule::new().load(Expression::InputName);
        rule.load(Expression::Lookup(set.to_owned(), Found::Matches))
    };
    let mut unjudged = vec![unmarked(from(POLICED))];
    for kind in [filter::IPV4, filter::IPV6, filter::ARP] {
        let kind = filter::equals(filter::KIND, &kind);
        unjudged.push(kind.ends(Verdict::Accept));
    }
    unjudged.push(denied(from(STRICT)));
    let judged = [filter::IPV4, filter::IPV6].map(|kind| {
        let rule = from(POLICED).load(Expression::EtherType);
        let rule = rule.compare(true, &kind).load(Expression::Mark);
        denied(rule.compare(false, &PASSES.to_ne_bytes()))
    });
    let passed = Rule::new().load(Expression::Mark);
    let passed = unmarked(passed.compare(true, &PASSES.to_ne_bytes()));
    let later = Hook::bridge_prerouting_later();
    for (name, hook, rules) in [
        ("unjudged", Some(later), unjudged),
        ("judged", Some(Hook::bridge_forward_last()), judged.into()),
        (&dropping(), None, vec![counted()]),
    ] {
        let chain = Chain { hook, rules };
        table.chains.insert(name.to_owned(), chain);
    }
    // Before what is sealed gets its own mark.
    let last = table.chains.entry(filter::POSTROUTING.to_owned());
    let last = last.or_insert_with(|| Chain {
        hook: Some(Hook::bridge_postrouting()),
        rules: Vec::new(),
    });
    last.rules.insert(0, passed);
}

/// The bridges whose packets a table judges.
pub(super) fn judged(table: Option<&Table>) -> BTreeSet<String> {
    let set = table.and_then(|table| table.sets.get(NETWORKS));
    let names = set.into_iter().flat_map(|set| set.elements.keys());
    let names = names.filter_map(|name| {
        let end = name.iter().position(|octet| *octet == 0);
        String::from_utf8(name.get(..end?)?.to_vec()).ok()
    });
    names.collect()
}

/// Whether a chain drops what is not allowed.
pub(super) fn drops(chain: &str) -> bool {
    chain == dropping()
}

struct Packets(Table);

impl Packets {
    /// What the rules of a network are looked up in.
    fn look_ups(&mut self, one: &Policed<'_>) {
        let Compiled {
            classes, default, ..
        } = one.policy;
        for v6 in [false, true] {
            let of = usize::from(v6);
            for (what, spans) in [("to", &classes.to), ("from", &classes.from)] {
                let key = |number: u128| {
                    let octets = number.to_be_bytes();
                    let skipped = if v6 { 0 } else { 12 };
                    octets.get(skipped..).unwrap_or_default().to_vec()
                };
                let name = one.versioned(&format!("{what}{}", filter::digit(v6)));
                self.set(name, SetKind::ranges(v6), ranges(&spans[of], end, key));
            }
            self.traffic(one, v6);
        }
        let pair = |one: u32, other: u32| [one.to_ne_bytes(), other.to_ne_bytes()].concat();
        let pairs = classes.pairs.iter().map(|((to, from), list)| {
            let key = pair(end(*to), end(*from));
            (key, Element::Data(later(*list).to_ne_bytes().to_vec()))
        });
        self.set(one.versioned("pairs"), SetKind::PAIRS, pairs.collect());
        let decisions = classes.decisions.iter();
        let decisions = decisions.map(|((list, traffic), verdict)| {
            let chain = match verdict {
                Allowed::Allow => PASS.to_owned(),
                Allowed::Deny => dropping(),
            };
            let verdict = Element::Verdict(Verdict::Goto(chain));
            (pair(later(*list), later(*traffic)), verdict)
        });
        let mut decisions: BTreeMap<_, _> = decisions.collect();
        if *default == Allowed::Allow {
            // In the set whose verdicts it vouches for: they go at one moment.
            let pass = Verdict::Goto(PASS.to_owned());
            decisions.insert(WHOLE.to_vec(), Element::Verdict(pass));
        }
        let name = one.versioned("decide");
        self.set(name, SetKind::BY_PAIR, decisions);
    }

    /// What is carried: ports of TCP and UDP, and other protocols.
    fn traffic(&mut self, one: &Policed<'_>, v6: bool) {
        let spans = &one.policy.classes.traffic[usize::from(v6)];
        for (what, protocol) in [("tcp", TCP), ("udp", UDP)] {
            let (low, high) = (at(protocol, 0), at(protocol, u16::MAX));
            let own = spans
                .iter()
                .filter(|span| span.first <= high && span.last >= low);
            let own = own.map(|span| Span {
                first: span.first.max(low),
                last: span.last.min(high),
                class: span.class,
            });
            let own: Vec<Span> = own.collect();
            let name = one.versioned(&format!("{what}{}", filter::digit(v6)));
            let ports = ranges(&own, later, |number| {
                let [.., high, low] = number.to_be_bytes();
                vec![high, low]
            });
            self.set(name, SetKind::PORT_RANGES, ports);
        }
        let others = (0..=u8::MAX).filter(|protocol| ![TCP, UDP].contains(protocol));
        let others = others.filter_map(|protocol| {
            let number = at(protocol, 0);
            let mut found = spans.iter();
            let span = found.find(|span| (span.first..=span.last).contains(&number))?;
            let class = later(span.class).to_ne_bytes().to_vec();
            Some((vec![protocol], Element::Data(class)))
        });
        let name = one.versioned(&format!("protocols{}", filter::digit(v6)));
        self.set(name, SetKind::PROTOCOLS, others.collect());
    }

    /// Every address twice: whether two are the same is looked up.
    fn peers(&mut self, network: &DesiredNetwork) {
        let ports = network.ports.values().map(|port| {
            let own = port.addresses.iter().map(IpNet::addr);
            (port.mac, own.collect::<Vec<IpAddr>>())
        });
        let remotes = network.remotes.values();
        let remotes = remotes.map(|one| (one.mac, one.addresses.clone()));
        let mut peers = [BTreeMap::new(), BTreeMap::new()];
        let all = ports.chain(remotes);
        for address in all.flat_map(|(mac, own): (MacAddr, Vec<IpAddr>)| {
            own.into_iter().chain([filter::link_local(mac).into()])
        }) {
            let key = [octets(address), octets(address)].concat();
            peers[usize::from(address.is_ipv6())].insert(key, Element::Present);
        }
        let [four, six] = peers;
        for (v6, peers) in [(false, four), (true, six)] {
            let kind = SetKind::address_pairs(v6);
            self.set(peers_name(network.vni, v6), kind, peers);
        }
    }

    fn chain(&mut self, name: &str, hook: Option<Hook>, rules: Vec<Rule>) {
        let chain = Chain { hook, rules };
        self.0.chains.insert(name.to_owned(), chain);
    }

    fn set(&mut self, name: String, kind: SetKind, elements: BTreeMap<Vec<u8>, Element>) {
        self.0.sets.insert(name, Set { kind, elements });
    }
}

impl Policed<'_> {
    /// The name of what is made for these rules alone.
    fn versioned(&self, what: &str) -> String {
        let vni = self.network.vni.get();
        format!("{what}_{vni}_{:016x}", self.policy.version)
    }

    fn named(&self, what: &str, v6: bool) -> String {
        format!("{what}{}_{}", filter::digit(v6), self.network.vni.get())
    }
}

fn peers_name(vni: Vni, v6: bool) -> String {
    format!("peers{}_{}", filter::digit(v6), vni.get())
}

fn ranges(
    spans: &[Span],
    numbered: fn(u32) -> u32,
    key: impl Fn(u128) -> Vec<u8>,
) -> BTreeMap<Vec<u8>, Element> {
    let elements = spans.iter().map(|span| {
        let class = numbered(span.class).to_ne_bytes().to_vec();
        let key = [key(span.first), key(span.last)].concat();
        (key, Element::Data(class))
    });
    elements.collect()
}

/// The number of a class of addresses; none has that of what was not found.
const fn end(class: u32) -> u32 {
    class.saturating_add(1)
}

/// The number of what takes the place of such a class: of a list, and of a class of traffic. None has that of another.
const fn later(number: u32) -> u32 {
    number | LATER
}

/// The zone of each network: of its VNI as much as a zone has, or the next that is free.
fn zones(vnis: impl Iterator<Item = Vni>) -> BTreeMap<Vni, u16> {
    let (mut zones, mut taken) = (BTreeMap::new(), BTreeSet::new());
    for vni in vnis.collect::<BTreeSet<Vni>>() {
        let [_, high, low] = vni.octets();
        let mut zone = u16::from_be_bytes([high, low]);
        while taken.contains(&zone) && taken.len() < usize::from(u16::MAX) {
            zone = zone.wrapping_add(1);
        }
        taken.insert(zone);
        zones.insert(vni, zone);
    }
    zones
}

fn of_family(v6: bool) -> Rule {
    let family = if v6 { FAMILY_6 } else { FAMILY_4 };
    Rule::new()
        .load(Expression::Family)
        .compare(true, &[family])
}

fn unmarked(rule: Rule) -> Rule {
    rule.load(Expression::Constant(vec![0; 4]))
        .load(Expression::SetMark)
}

/// As it comes from another namespace.
fn unranked(rule: Rule) -> Rule {
    rule.load(Expression::Constant(vec![0; 4]))
        .load(Expression::SetPriority)
}

fn counted() -> Rule {
    Rule::new().load(Expression::Counter).ends(Verdict::Drop)
}

fn denied(rule: Rule) -> Rule {
    rule.ends(Verdict::Goto(dropping()))
}

fn dropping() -> String {
    format!("{DROP}{POLICY}")
}

/// A number that other rules do not have (FNV-1a, of 64 bits): nobody gains by rules that share one, as both are then turned
/// into each other like any table.
fn version(policy: &NetworkPolicy) -> u64 {
    let octets = postcard::to_allocvec(policy).unwrap_or_default();
    let octets = octets.iter().chain(&[LAYOUT]);
    octets.fold(FNV_OFFSET, |hash, octet| {
        (hash ^ u64::from(*octet)).wrapping_mul(FNV_PRIME)
    })
}

/// The table's name.
pub(super) const TABLE: &str = "overlay_policy";
/// Why something is dropped, in the words of `overlay-vxlan`.
pub(super) const POLICY: &str = "policy";
const ZONES: &str = "zones";
const JUDGE: &str = "judge";
const NETWORKS: &str = "networks";
const PASS: &str = "pass";
const POLICED: &str = "policed";
const STRICT: &str = "strict";
/// The mark of packets that may pass, from where they are judged to where they leave the bridge.
const PASSES: u32 = 0x6f76_6c70;
/// Beyond the number of any class of addresses, and far from the mark.
const LATER: u32 = 0x4000_0000;
/// A list and a class that are none: there as long as all others are.
const WHOLE: [u8; 8] = [0xff; 8];
/// Changes with what the same rules are compiled to.
const LAYOUT: u8 = 1;
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;
/// `NFPROTO_IPV4`.
const FAMILY_4: u8 = 2;
/// `NFPROTO_IPV6`.
const FAMILY_6: u8 = 10;
