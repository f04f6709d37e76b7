//! Virtual addresses as parts of a table, and back.
//!
//! ```text
//! table inet overlay_services {
//!     set addresses4 { type ipv4_addr; elements = { 10.0.1.100, 10.0.1.101 } }
//!     map services4 { type ipv4_addr : verdict; elements = { 10.0.1.100 : goto vip_10.0.1.100 } }
//!     map slots_10.0.1.100 { type mark : ipv4_addr; elements = { 0 : 10.0.1.3, … 1023 : 10.0.1.4 } }
//!     chain vip_10.0.1.100 {
//!         tcp flags & (fin|syn|rst|ack) == syn
//!             dnat ip to jhash ip saddr . th sport . th dport mod 1024 seed … map @slots_10.0.1.100
//!         meta l4proto udp
//!             dnat ip to jhash ip saddr . th sport . th dport mod 1024 seed … map @slots_10.0.1.100
//!     }
//!     chain output { type nat hook output priority dstnat;
//!         ip daddr vmap @services4
//!         ip6 daddr vmap @services6
//!     }
//!     chain prerouting { type nat hook prerouting priority dstnat; … }    # the same, for packets of others
//!     chain refuse {
//!         meta l4proto tcp reject with tcp reset
//!         reject with icmpx port-unreachable
//!     }
//!     chain unserved { type filter hook output priority filter;
//!         ip daddr @addresses4 jump refuse                                # still the virtual address: no flow of ours
//!         ip6 daddr @addresses6 jump refuse
//!     }
//!     chain unserved_forward { type filter hook forward priority filter; … }
//! }
//! ```

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    plan::Actual,
    slots::SLOTS,
    vip::{HashBy, Vip},
};
use crate::nftables::{
    Batch, Chain, Element, Expression, Field, Found, Hook, Register, Rule, Set, SetKind, Table,
    Verdict, octets,
};

/// The table without any virtual address.
pub(super) fn skeleton() -> Table {
    let mut table = Table::default();
    let mut chain = |name: &str, hook, rules| {
        let chain = Chain { hook, rules };
        table.chains.insert(name.to_owned(), chain);
    };
    let serve = || [false, true].map(served).to_vec();
    let refuse = || [false, true].map(unserved).to_vec();
    chain(OUTPUT, Some(Hook::output_destination_nat()), serve());
    chain(PREROUTING, Some(Hook::destination_nat()), serve());
    chain(UNSERVED, Some(Hook::output()), refuse());
    chain(UNSERVED_FORWARD, Some(Hook::forward()), refuse());
    let reset = Rule::new().load(Expression::Protocol).compare(true, &[TCP]);
    let refused = vec![
        reset.load(Expression::Reset),
        Rule::new().load(Expression::Unreachable),
    ];
    chain(REFUSE, None, refused);
    for v6 in [false, true] {
        for (name, kind) in [
            (addresses(v6), SetKind::addresses(v6)),
            (services(v6), SetKind::verdicts(v6)),
        ] {
            let elements = BTreeMap::new();
            table.sets.insert(name.to_owned(), Set { kind, elements });
        }
    }
    table
}

/// Adds what a virtual address takes to a batch.
pub(super) fn put(batch: &mut Batch, address: IpAddr, vip: &Vip) {
    let (v6, key) = (address.is_ipv6(), octets(address));
    let present = BTreeMap::from([(key.clone(), Element::Present)]);
    batch.add_elements(addresses(v6), SetKind::addresses(v6), &present);
    let Some(parts) = Parts::of(address, vip) else {
        return;
    };
    batch.make_set(&slots_name(address), parts.slots.kind);
    let slots = &parts.slots;
    batch.add_elements(&slots_name(address), slots.kind, &slots.elements);
    batch.make_chain(&chain_name(address), None);
    batch.add_rules(&chain_name(address), &parts.chain.rules);
    let leads = BTreeMap::from([(key, leads_to(address))]);
    batch.add_elements(services(v6), SetKind::verdicts(v6), &leads);
}

/// Takes away what there is of a virtual address.
pub(super) fn remove(batch: &mut Batch, address: IpAddr, there: &Table) {
    let (v6, key) = (address.is_ipv6(), octets(address));
    for name in [services(v6), addresses(v6)] {
        let set = there.sets.get(name);
        let set = set.filter(|set| set.elements.contains_key(&key));
        if let Some(set) = set {
            batch.delete_element(name, set.kind, &key);
        }
    }
    if there.chains.contains_key(&chain_name(address)) {
        batch.delete_chain(&chain_name(address));
    }
    if there.sets.contains_key(&slots_name(address)) {
        batch.delete_set(&slots_name(address));
    }
}

/// What a table holds, in the words of the plan. Without a table there is nothing.
pub(super) fn read(table: Option<&Table>) -> Actual {
    let Some(table) = table else {
        return Actual::default();
    };
    let mut rest = table.clone();
    let mut found = BTreeMap::new();
    for address in mentioned(table) {
        found.insert(address, vip_of(table, address));
        // What is left over afterwards is the skeleton, or nothing that is ours.
        rest.chains.remove(&chain_name(address));
        rest.sets.remove(&slots_name(address));
        for name in [services(address.is_ipv6()), addresses(address.is_ipv6())] {
            if let Some(set) = rest.sets.get_mut(name) {
                set.elements.remove(&octets(address));
            }
        }
    }
    Actual {
        sound: rest == skeleton(),
        vips: found,
        flows: Vec::new(),
    }
}

/// The addresses that any part of a table is about.
fn mentioned(table: &Table) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for v6 in [false, true] {
        for name in [services(v6), addresses(v6)] {
            let keys = table.sets.get(name).map(|set| set.elements.keys());
            all.extend(keys.into_iter().flatten().filter_map(|key| address(key)));
        }
    }
    let chains = table.chains.keys().filter_map(|n| n.strip_prefix(CHAIN));
    let sets = table.sets.keys().filter_map(|n| n.strip_prefix(SLOTS_OF));
    all.extend(chains.chain(sets).filter_map(named));
    all.sort_unstable();
    all.dedup();
    all
}

/// Reads a virtual address back: none if anything about it is not such as it is made.
fn vip_of(table: &Table, address: IpAddr) -> Option<Vip> {
    let (v6, key) = (address.is_ipv6(), octets(address));
    let element = |name: &str| table.sets.get(name).and_then(|set| set.elements.get(&key));
    if element(addresses(v6)) != Some(&Element::Present) {
        return None;
    }
    let chain = table.chains.get(&chain_name(address));
    let slots = table.sets.get(&slots_name(address));
    let led = element(services(v6));
    let (Some(chain), Some(slots), Some(led)) = (chain, slots, led) else {
        let nothing = chain.is_none() && slots.is_none() && led.is_none();
        let slots = Vec::new();
        // By what flows are hashed that are refused cannot be told, and does not matter.
        let by = HashBy::Flow;
        return nothing.then_some(Vip { by, slots });
    };
    if *led != leads_to(address) || slots.elements.len() > SLOTS {
        return None;
    }
    let addresses: Option<Vec<IpAddr>> = (0..slots.elements.len())
        .map(
            |slot| match slots.elements.get(slot_key(slot).as_slice())? {
                Element::Data(octets) => self::address(octets),
                _ => None,
            },
        )
        .collect();
    let found = addresses?;
    [HashBy::Flow, HashBy::Client].into_iter().find_map(|by| {
        let slots_found = found.clone();
        let vip = Vip {
            by,
            slots: slots_found,
        };
        let parts = Parts::of(address, &vip)?;
        (parts.chain == *chain && parts.slots == *slots).then_some(vip)
    })
}

/// The chain and the map of a virtual address that leads anywhere.
struct Parts {
    chain: Chain,
    slots: Set,
}

impl Parts {
    fn of(address: IpAddr, vip: &Vip) -> Option<Self> {
        if vip.slots.is_empty() {
            return None;
        }
        let v6 = address.is_ipv6();
        let modulus = u32::try_from(vip.slots.len()).ok()?;
        let chosen = |rule: Rule| {
            let source = Field::source(v6);
            let mut hashed = source.octets();
            let mut rule = rule.load(Expression::Load(source, Register::HASHED));
            if vip.by == HashBy::Flow {
                let ports = Register::hashed_after(hashed);
                rule = rule.load(Expression::Load(Field::PORTS, ports));
                hashed += Field::PORTS.octets();
            }
            let octets = hashed;
            rule.load(Expression::Hash { octets, modulus })
                .load(Expression::Lookup(slots_name(address), Found::Loads))
                .load(Expression::Destination { v6 })
        };
        // What is in the middle of a connection that nobody knows any more is refused, rather than led elsewhere.
        let begins = Rule::new()
            .load(Expression::Protocol)
            .compare(true, &[TCP])
            .load(Expression::Load(Field::TCP_FLAGS, Register::FIRST))
            .load(Expression::Mask(vec![FIN | SYN | RST | ACK]))
            .compare(true, &[SYN]);
        let datagram = Rule::new().load(Expression::Protocol).compare(true, &[UDP]);
        let elements = vip.slots.iter().enumerate();
        let elements = elements
            .map(|(slot, backend)| (slot_key(slot).to_vec(), Element::Data(octets(*backend))));
        Some(Self {
            chain: Chain {
                hook: None,
                rules: vec![chosen(begins), chosen(datagram)],
            },
            slots: Set {
                kind: SetKind::slots(v6),
                elements: elements.collect(),
            },
        })
    }
}

/// Leads packets to virtual addresses to their chains.
fn served(v6: bool) -> Rule {
    of_family(v6).load(Expression::Lookup(services(v6).to_owned(), Found::Decides))
}

/// Refuses what is still to a virtual address after that.
fn unserved(v6: bool) -> Rule {
    let looked = Expression::Lookup(addresses(v6).to_owned(), Found::Matches);
    let refuse = Verdict::Jump(REFUSE.to_owned());
    of_family(v6).load(looked).ends(refuse)
}

fn of_family(v6: bool) -> Rule {
    let family = if v6 { IPV6 } else { IPV4 };
    Rule::new()
        .load(Expression::Family)
        .compare(true, &[family])
        .load(Expression::Load(Field::destination(v6), Register::FIRST))
}

fn leads_to(address: IpAddr) -> Element {
    Element::Verdict(Verdict::Goto(chain_name(address)))
}

fn chain_name(address: IpAddr) -> String {
    format!("{CHAIN}{}", name(address))
}

fn slots_name(address: IpAddr) -> String {
    format!("{SLOTS_OF}{}", name(address))
}

/// Such as the usual tool takes for a name: IPv6 addresses without colons.
fn name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("{:032x}", u128::from(v6)),
    }
}

fn named(name: &str) -> Option<IpAddr> {
    let v6 = || u128::from_str_radix(name, 16).ok().map(Ipv6Addr::from);
    let v4 = name.parse::<Ipv4Addr>().ok().map(IpAddr::from);
    let found = v4.or_else(|| v6().map(IpAddr::from))?;
    (self::name(found) == name).then_some(found)
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| v6()).ok()
}

/// The number that a hash yields, as the kernel has it in a register.
fn slot_key(slot: usize) -> [u8; 4] {
    u32::try_from(slot).unwrap_or(u32::MAX).to_ne_bytes()
}

fn addresses(v6: bool) -> &'static str {
    if v6 { "addresses6" } else { "addresses4" }
}

fn services(v6: bool) -> &'static str {
    if v6 { "services6" } else { "services4" }
}

/// The table's name.
pub(super) const TABLE: &str = "overlay_services";
const OUTPUT: &str = "output";
const PREROUTING: &str = "prerouting";
const UNSERVED: &str = "unserved";
const UNSERVED_FORWARD: &str = "unserved_forward";
const REFUSE: &str = "refuse";
const CHAIN: &str = "vip_";
const SLOTS_OF: &str = "slots_";
const TCP: u8 = 6;
const UDP: u8 = 17;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// `NFPROTO_IPV6`.
const IPV6: u8 = 10;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
