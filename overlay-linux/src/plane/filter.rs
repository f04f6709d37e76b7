//! What may pass in the switch namespace: frames that are what they say they are, at a bounded rate.
//!
//! The same as `overlay-vxlan` decides on each frame. Where a rule cannot look at all that it does, it is stricter: a
//! message of neighbour discovery has at most one option of eight octets, and no header between IPv6's and its own.
//!
//! ```text
//! table bridge overlay_plane {
//!     map ports { type ifname : verdict; elements = { p01… : goto port_p01…, ovx4097 : goto in_4097 } }
//!     chain prerouting { type filter hook prerouting priority filter; iifname vmap @ports }
//!     chain output { type filter hook output priority filter; oifname @devices drop }   # a bridge has nothing to say
//!     chain port_p01… {
//!         meta pkttype { broadcast, multicast } jump flood_p01…    # no reserved groups; limit rate over 1000/second burst 2000
//!         ether saddr . ether type 02:42:0a:00:01:02 . ip goto ip4_p01…     # own source, then to4_4097: inside the network
//!         ether saddr . ether type 02:42:0a:00:01:02 . ip6 goto ip6_p01…    # own source, then nd_p01…, to6_4097
//!         ether saddr . ether type 02:42:0a:00:01:02 . arp goto arp_p01…    # own sender
//!         ether saddr != 02:42:0a:00:01:02 goto drop_source_mac
//!         ether type { 8021q, 8021ad } goto drop_vlan_tag    # or goto vlan, where VLANs are carried
//!     }
//!     chain postrouting { type filter hook postrouting priority 300; oifname @sealed meta mark set 0x6f766c79 }
//!     # and where networks have rules, see `policy`
//!     chain in_4097 { ether saddr != @remotes_4097 goto drop_source_mac; … }  # what a VXLAN device brings
//! }
//! ```

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use overlay_core::{
    MacAddr,
    plane::{DesiredNetwork, DesiredPort},
};

use super::{
    policy::{self, Policed},
    tables::{Rules, port_name, vxlan_name},
};
use crate::nftables::{
    Chain, Element, Expression, Field, Found, Hook, Register, Rule, Set, SetKind, Table, Verdict,
    name_value, octets,
};
use crate::xfrm::MARK;

/// Compiles the filter of these networks.
pub(super) fn compile(networks: &[&DesiredNetwork], policed: &[Policed<'_>]) -> Rules {
    let mut filter = Filter::default();
    let lookup = |name: &str, found| Expression::Lookup(name.to_owned(), found);
    let entry = Rule::new().load(Expression::InputName);
    let entry = entry.load(lookup(PORTS, Found::Decides));
    let hook = Some(Hook::bridge_prerouting());
    filter.chain("prerouting", hook, vec![entry]);
    let own = Rule::new()
        .load(Expression::OutputName)
        .load(lookup(DEVICES, Found::Matches))
        .ends(Verdict::Drop);
    filter.chain("output", Some(Hook::bridge_output()), vec![own]);
    for reason in REASONS {
        let counted = Rule::new().load(Expression::Counter).ends(Verdict::Drop);
        filter.chain(&format!("{DROP}{reason}"), None, vec![counted]);
    }
    filter.chain(VLAN, None, vlan());
    filter.set(PORTS, SetKind::BY_NAME, BTreeMap::new());
    filter.set(DEVICES, SetKind::NAMES, BTreeMap::new());
    for network in networks {
        filter.network(network);
    }
    filter.marks(networks);
    policy::frames(&mut filter.0, policed);
    Rules {
        table: filter.0,
        packets: policy::packets(policed),
    }
}

/// The reason that a chain drops for, if it does.
pub(super) fn reason(chain: &str) -> Option<&'static str> {
    let name = chain.strip_prefix(DROP)?;
    let mut reasons = REASONS.into_iter().chain([policy::POLICY]);
    reasons.find(|reason| *reason == name)
}

#[derive(Debug, Default)]
struct Filter(Table);

impl Filter {
    fn network(&mut self, network: &DesiredNetwork) {
        let vni = network.vni.get().to_string();
        let remotes = network.remotes.values().map(|remote| remote.mac);
        let present = |macs: &mut dyn Iterator<Item = MacAddr>| {
            let elements = macs.map(|mac| (mac.octets().to_vec(), Element::Present));
            elements.collect::<BTreeMap<_, _>>()
        };
        let remotes = present(&mut remotes.clone());
        self.set(&format!("remotes_{vni}"), SetKind::MACS, remotes);
        for v6 in [false, true] {
            let to = inside(network, v6, true, &Verdict::Accept);
            self.chain(&format!("to{}_{vni}", digit(v6)), None, to);
        }
        self.remote(network, &vni);
        for (endpoint, port) in &network.ports {
            self.port(network, &port_name(*endpoint), port, &vni);
        }
    }

    /// Marks what has to be sealed.
    fn marks(&mut self, networks: &[&DesiredNetwork]) {
        let sealed = networks.iter().filter(|network| network.encrypted);
        let sealed = sealed.map(|network| {
            let device = name_value(&vxlan_name(network.vni));
            (device.to_vec(), Element::Present)
        });
        let sealed: BTreeMap<_, _> = sealed.collect();
        if sealed.is_empty() {
            return;
        }
        let marked = Rule::new()
            .load(Expression::OutputName)
            .load(Expression::Lookup(SEALED.to_owned(), Found::Matches))
            .load(Expression::Constant(MARK.to_ne_bytes().to_vec()))
            .load(Expression::SetMark);
        let hook = Some(Hook::bridge_postrouting());
        self.chain(POSTROUTING, hook, vec![marked]);
        self.set(SEALED, SetKind::NAMES, sealed);
    }

    /// What a port may send.
    fn port(&mut self, network: &DesiredNetwork, name: &str, port: &DesiredPort, vni: &str) {
        let mac = port.mac.octets();
        let mut rules = to_all(name);
        let kinds = [(IPV4, "ip4"), (IPV6, "ip6"), (ARP, "arp")];
        // Source and type lie side by side, and are looked at in one step: most frames need no other.
        rules.extend(kinds.map(|(kind, chain)| {
            let both = [&mac[..], &kind].concat();
            goes(equals(SOURCE_AND_KIND, &both), &format!("{chain}_{name}"))
        }));
        rules.push(drops(differs(SOURCE, &mac), "source_mac"));
        rules.extend(tags(network));
        self.entry(name, &format!("port_{name}"), rules);
        let flood = vec![reserved(), above(PORT_FLOOD)];
        self.chain(&format!("flood_{name}"), None, flood);
        let own = |v6: bool| {
            let addresses = port.addresses.iter().map(IpNet::addr);
            addresses.filter(move |address| address.is_ipv6() == v6)
        };
        let subnets = network.subnets.iter().filter(|one| one.addr().is_ipv4());
        let usual = own(false).flat_map(|address| {
            let subnets = subnets.clone();
            subnets.map(move |subnet| between(IpNet::from(address), *subnet))
        });
        let source = own(false).map(|address| {
            let from = equals(Field::source(false), &octets(address));
            goes(from, &format!("to4_{vni}"))
        });
        let last = || drops(Rule::new(), "source_address");
        let rules = usual.chain(source).chain([last()]).collect();
        self.chain(&format!("ip4_{name}"), None, rules);
        self.ip6(name, port, vni);
        let sender = own(false).map(|address| {
            let from = equals(ARP_SENDER, &octets(address));
            from.ends(Verdict::Accept)
        });
        // Before it has an address, a host asks whether somebody else has it (RFC 5227 §2.1.1).
        let probe = also_equals(equals(ARP_SENDER, &[0; 4]), ARP_OPERATION, &ARP_REQUEST);
        let mut rules = vec![
            drops(differs(ARP_KIND, &ARP_OF_IPV4), "malformed"),
            drops(differs(ARP_SENDER_MAC, &mac), "source_address"),
        ];
        rules.extend(sender);
        rules.push(probe.ends(Verdict::Accept));
        rules.push(last());
        self.chain(&format!("arp_{name}"), None, rules);
    }

    fn ip6(&mut self, name: &str, port: &DesiredPort, vni: &str) {
        let mac = port.mac.octets();
        let addresses = port.addresses.iter().map(IpNet::addr);
        let mut own: Vec<Vec<u8>> = addresses.filter(IpAddr::is_ipv6).map(octets).collect();
        own.push(link_local(port.mac).octets().to_vec());
        let (discovery, inside) = (format!("nd_{name}"), format!("to6_{vni}"));
        let last = || drops(Rule::new(), "source_address");
        let source = own
            .iter()
            .map(|address| goes(equals(Field::source(true), address), &discovery));
        let detection = also_equals(
            equals(Field::source(true), &[0; 16]),
            Field::network(24, 1),
            &[0xff],
        );
        let detection = protocol(detection, true);
        let rules = source.chain([goes(detection, &discovery), last()]);
        let rules = rules.collect();
        self.chain(&format!("ip6_{name}"), None, rules);
        let neighbour = format!("neighbour_{name}");
        let mut rules = routers(&inside);
        for kind in [SOLICITATION, ADVERTISEMENT] {
            rules.push(goes(equals(ICMP_KIND, &[kind]), &neighbour));
        }
        rules.push(goes(Rule::new(), &inside));
        self.chain(&discovery, None, rules);
        let option = also_differs(equals(PAYLOAD_LENGTH, &[0, 32]), ND_OPTION, &NONCE);
        let mut rules = vec![
            drops(differs(NEXT_HEADER, &[ICMPV6]), "malformed"),
            drops(
                also_differs(differs(PAYLOAD_LENGTH, &[0, 24]), PAYLOAD_LENGTH, &[0, 32]),
                "malformed",
            ),
            drops(also_differs(option, ND_LINK_LAYER, &mac), "source_address"),
            goes(equals(ICMP_KIND, &[SOLICITATION]), &inside),
        ];
        let targets = own.iter();
        rules.extend(targets.map(|address| goes(equals(ND_TARGET, address), &inside)));
        rules.push(last());
        self.chain(&neighbour, None, rules);
    }

    /// What a VXLAN device may bring.
    fn remote(&mut self, network: &DesiredNetwork, vni: &str) {
        let name = vxlan_name(network.vni);
        let unknown = Rule::new()
            .load(Expression::Load(SOURCE, Register::FIRST))
            .load(Expression::Lookup(format!("remotes_{vni}"), Found::Misses));
        let mut rules = vec![drops(unknown, "source_mac")];
        rules.extend(to_all(&name));
        let kinds = [(IPV4, "from4"), (IPV6, "from6"), (ARP, "arp")];
        rules.extend(kinds.map(|(kind, chain)| {
            let chain = format!("{chain}_{vni}");
            goes(equals(KIND, &kind), &chain)
        }));
        rules.extend(tags(network));
        self.entry(&name, &format!("in_{vni}"), rules);
        let flood = vec![reserved(), above(REMOTE_FLOOD)];
        self.chain(&format!("flood_{name}"), None, flood);
        let to = Verdict::Goto(format!("to4_{vni}"));
        let usual = network.subnets.iter().filter(|one| one.addr().is_ipv4());
        let usual = usual.map(|subnet| between(*subnet, *subnet));
        let others = inside(network, false, false, &to);
        let rules = usual.chain(others).collect();
        self.chain(&format!("from4_{vni}"), None, rules);
        let discovery = format!("nd_{vni}");
        let to = Verdict::Goto(discovery.clone());
        let rules = inside(network, true, false, &to);
        self.chain(&format!("from6_{vni}"), None, rules);
        let to = format!("to6_{vni}");
        let mut rules = routers(&to);
        for kind in [SOLICITATION, ADVERTISEMENT] {
            let fragment = also_equals(equals(NEXT_HEADER, &[FRAGMENT]), ICMP_KIND, &[kind]);
            rules.push(drops(fragment, "malformed"));
        }
        rules.push(goes(Rule::new(), &to));
        self.chain(&discovery, None, rules);
        let mut rules = vec![drops(differs(ARP_KIND, &ARP_OF_IPV4), "malformed")];
        rules.push(equals(ARP_SENDER, &[0; 4]).ends(Verdict::Accept));
        rules.extend(subnets(network, false, ARP_SENDER, &Verdict::Accept));
        rules.push(drops(Rule::new(), "foreign_address"));
        self.chain(&format!("arp_{vni}"), None, rules);
    }

    /// Leads what comes by a device to a chain.
    fn entry(&mut self, device: &str, chain: &str, rules: Vec<Rule>) {
        self.chain(chain, None, rules);
        let key = name_value(device).to_vec();
        let verdict = Element::Verdict(Verdict::Goto(chain.to_owned()));
        for (set, element) in [(PORTS, verdict), (DEVICES, Element::Present)] {
            if let Some(set) = self.0.sets.get_mut(set) {
                set.elements.insert(key.clone(), element);
            }
        }
    }

    fn chain(&mut self, name: &str, hook: Option<Hook>, rules: Vec<Rule>) {
        let chain = Chain { hook, rules };
        self.0.chains.insert(name.to_owned(), chain);
    }

    fn set(&mut self, name: &str, kind: SetKind, elements: BTreeMap<Vec<u8>, Element>) {
        let set = Set { kind, elements };
        self.0.sets.insert(name.to_owned(), set);
    }
}

/// Of anything but IP and ARP nothing is known, but a tag would hide them.
fn tags(network: &DesiredNetwork) -> [Rule; 2] {
    let tags = [[0x81, 0x00], [0x88, 0xa8]];
    tags.map(|kind| {
        let tagged = equals(KIND, &kind);
        if network.vlan_tags {
            goes(tagged, VLAN)
        } else {
            drops(tagged, "vlan_tag")
        }
    })
}

/// The VLANs of endpoints are networks of their own. A tag without an identifier names none: whoever gets it takes the frame
/// for one without a tag.
fn vlan() -> Vec<Rule> {
    let none = masked(TAG, vec![0x0f, 0xff], &[0, 0]);
    vec![drops(none, "vlan_tag"), Rule::new().ends(Verdict::Accept)]
}

/// Bounds what goes to all. To somebody whom no row names nothing goes: bridges do not flood it.
fn to_all(name: &str) -> Vec<Rule> {
    let kinds = [BROADCAST, MULTICAST];
    let rules = kinds.map(|kind| {
        let rule = Rule::new().load(Expression::PacketKind);
        let rule = rule.compare(true, &[kind]);
        rule.ends(Verdict::Jump(format!("flood_{name}")))
    });
    rules.into()
}

/// Accepts packets of IPv4 from one of these to the other. In steps of four octets, which the kernel does fastest.
fn between(source: IpNet, destination: IpNet) -> Rule {
    let part = |rule: Rule, field, net: IpNet| {
        let rule = rule.load(Expression::Load(field, Register::FIRST));
        let rule = if net.prefix_len() < net.max_prefix_len() {
            rule.load(Expression::Mask(octets(net.netmask())))
        } else {
            rule
        };
        rule.compare(true, &octets(net.network()))
    };
    let from = part(Rule::new(), Field::source(false), source);
    part(from, Field::destination(false), destination).ends(Verdict::Accept)
}

/// Ends with the verdict if the source or destination may be in the network; drops all others.
fn inside(network: &DesiredNetwork, v6: bool, destination: bool, verdict: &Verdict) -> Vec<Rule> {
    let field = if destination {
        Field::destination(v6)
    } else {
        Field::source(v6)
    };
    let mut rules = subnets(network, v6, field, verdict);
    let everywhere: &[(&[u8], &[u8])] = if v6 { &EVERYWHERE6 } else { &EVERYWHERE4 };
    for (mask, value) in everywhere {
        // Full width: registers are compared as they are loaded.
        let width = if v6 { 16 } else { 4 };
        let whole = |octets: &[u8]| {
            let mut whole = octets.to_vec();
            whole.resize(width, 0);
            whole
        };
        let rule = masked(field, whole(mask), &whole(value));
        rules.push(rule.ends(verdict.clone()));
    }
    rules.push(drops(Rule::new(), "foreign_address"));
    rules
}

/// Ends with the verdict if an address is in one of the network's subnets, of which none means all.
fn subnets(network: &DesiredNetwork, v6: bool, field: Field, verdict: &Verdict) -> Vec<Rule> {
    if network.subnets.is_empty() {
        return vec![Rule::new().ends(verdict.clone())];
    }
    let subnets = network.subnets.iter();
    let subnets = subnets.filter(|subnet| subnet.addr().is_ipv6() == v6);
    let rules = subnets.map(|subnet| {
        let (mask, network) = (octets(subnet.netmask()), octets(subnet.network()));
        masked(field, mask, &network).ends(verdict.clone())
    });
    rules.collect()
}

/// Lets through what is not ICMPv6, and drops what only routers say.
fn routers(otherwise: &str) -> Vec<Rule> {
    let mut rules = vec![goes(protocol(Rule::new(), false), otherwise)];
    for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
        rules.push(drops(equals(ICMP_KIND, &[kind]), "router_message"));
    }
    rules
}

/// Group addresses that bridges keep to themselves.
fn reserved() -> Rule {
    let mask = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xf0];
    let rule = masked(DESTINATION, mask, &[0x01, 0x80, 0xc2, 0, 0, 0]);
    drops(rule, "reserved_group")
}

fn above((rate, burst): (u64, u32)) -> Rule {
    let rule = Rule::new().load(Expression::Above { rate, burst });
    drops(rule, "flood_rate")
}

fn protocol(rule: Rule, icmpv6: bool) -> Rule {
    rule.load(Expression::Protocol).compare(icmpv6, &[ICMPV6])
}

pub(super) fn equals(field: Field, value: &[u8]) -> Rule {
    also_equals(Rule::new(), field, value)
}

fn also_equals(rule: Rule, field: Field, value: &[u8]) -> Rule {
    let rule = rule.load(Expression::Load(field, Register::FIRST));
    rule.compare(true, value)
}

fn differs(field: Field, value: &[u8]) -> Rule {
    also_differs(Rule::new(), field, value)
}

fn also_differs(rule: Rule, field: Field, value: &[u8]) -> Rule {
    let rule = rule.load(Expression::Load(field, Register::FIRST));
    rule.compare(false, value)
}

fn masked(field: Field, mask: Vec<u8>, value: &[u8]) -> Rule {
    Rule::new()
        .load(Expression::Load(field, Register::FIRST))
        .load(Expression::Mask(mask))
        .compare(true, value)
}

fn goes(rule: Rule, chain: &str) -> Rule {
    rule.ends(Verdict::Goto(chain.to_owned()))
}

fn drops(rule: Rule, reason: &str) -> Rule {
    rule.ends(Verdict::Goto(format!("{DROP}{reason}")))
}

pub(super) fn digit(v6: bool) -> char {
    if v6 { '6' } else { '4' }
}

/// The address that an interface makes of its MAC address (RFC 4291 appendix A).
pub(super) fn link_local(mac: MacAddr) -> Ipv6Addr {
    overlay_vxlan::wire::ipv6::link_local(mac)
}

/// The table's name.
pub(super) const TABLE: &str = "overlay_plane";
const PORTS: &str = "ports";
const DEVICES: &str = "devices";
const SEALED: &str = "sealed";
const VLAN: &str = "vlan";
pub(super) const POSTROUTING: &str = "postrouting";
pub(super) const DROP: &str = "drop_";
/// In the words of `overlay-vxlan`.
const REASONS: [&str; 8] = [
    "malformed",
    "source_mac",
    "source_address",
    "foreign_address",
    "router_message",
    "vlan_tag",
    "reserved_group",
    "flood_rate",
];
/// Frames a second, and in a burst, of one port to all.
const PORT_FLOOD: (u64, u32) = (1_000, 2_000);
/// The same of all other nodes to the ports here.
const REMOTE_FLOOD: (u64, u32) = (10_000, 20_000);
/// Multicast and broadcast.
const EVERYWHERE4: [(&[u8], &[u8]); 2] = [(&[0xf0], &[0xe0]), (&[0xff; 4], &[0xff; 4])];
/// Multicast, link-local unicast and the unspecified address.
const EVERYWHERE6: [(&[u8], &[u8]); 3] = [
    (&[0xff], &[0xff]),
    (&[0xff, 0xc0], &[0xfe, 0x80]),
    (&[0xff; 16], &[0; 16]),
];
const DESTINATION: Field = Field::link(0, 6);
const SOURCE: Field = Field::link(6, 6);
pub(super) const KIND: Field = Field::link(12, 2);
/// Priority and identifier of the outer tag.
const TAG: Field = Field::link(14, 2);
const SOURCE_AND_KIND: Field = Field::link(6, 8);
pub(super) const IPV4: [u8; 2] = [0x08, 0x00];
pub(super) const IPV6: [u8; 2] = [0x86, 0xdd];
pub(super) const ARP: [u8; 2] = [0x08, 0x06];
/// `PACKET_BROADCAST` and `PACKET_MULTICAST` of `linux/if_packet.h`.
pub(super) const BROADCAST: u8 = 1;
pub(super) const MULTICAST: u8 = 2;
/// Kinds and lengths of both addresses (RFC 826).
const ARP_KIND: Field = Field::network(0, 6);
const ARP_OF_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_OPERATION: Field = Field::network(6, 2);
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_SENDER_MAC: Field = Field::network(8, 6);
const ARP_SENDER: Field = Field::network(14, 4);
const PAYLOAD_LENGTH: Field = Field::network(4, 2);
const NEXT_HEADER: Field = Field::network(6, 1);
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;
const ICMP_KIND: Field = Field::transport(0, 1);
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const ND_TARGET: Field = Field::transport(8, 16);
/// Kind and length, in units of eight octets, of the first option (RFC 4861 §4.6).
const ND_OPTION: Field = Field::transport(24, 2);
const ND_LINK_LAYER: Field = Field::transport(26, 6);
/// RFC 3971 §5.3.2: such as duplicate address detection has (RFC 7527).
const NONCE: [u8; 2] = [14, 1];
