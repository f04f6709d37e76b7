//! The chains of one network.

use overlay_core::plane::Verdict as Allowed;

use super::{
    PASS, Packets, Policed, WHOLE,
    classes::{TCP, UDP},
    denied, of_family, peers_name, unmarked, unranked,
};
use crate::nftables::{Expression, Field, Found, Register, Rule, State, Tracked, Verdict};
use crate::plane::filter;

impl Packets {
    pub(super) fn network(&mut self, one: &Policed<'_>) {
        let vni = one.network.vni.get();
        let four = goes(of_family(false), one.named("net", false));
        let six = goes(Rule::new(), one.named("net", true));
        self.chain(&format!("net_{vni}"), None, vec![four, six]);
        for v6 in [false, true] {
            self.family(one, v6);
        }
    }

    fn family(&mut self, one: &Policed<'_>, v6: bool) {
        let (icmp, echoes, errors) = if v6 {
            (ICMPV6, ECHOES_6, &ERRORS_6[..])
        } else {
            (ICMP, ECHOES_4, &ERRORS_4[..])
        };
        let to = |chain: &str| one.named(chain, v6);
        let mut rules = Vec::new();
        if v6 {
            rules.extend(NEIGHBOURS.map(|kind| {
                let rule = carries(ICMPV6).load(Expression::Load(ICMP_KIND, Register::FIRST));
                goes(rule.compare(true, &[kind]), PASS.to_owned())
            }));
        }
        rules.extend(to_many(v6).into_iter().map(|rule| goes(rule, to("packet"))));
        let untracked = Rule::new().in_state(State::UNTRACKED);
        rules.push(goes(untracked, to("packet")));
        rules.push(goes(carries(icmp), to("icmp")));
        rules.push(goes(Rule::new(), to("tracked")));
        self.chain(&to("net"), None, rules);
        let of_kind = |kind: u8| {
            let rule = Rule::new().load(Expression::Load(ICMP_KIND, Register::FIRST));
            rule.compare(true, &[kind])
        };
        let mut rules: Vec<Rule> = echoes.map(|kind| goes(of_kind(kind), to("tracked"))).into();
        let related = |kind: &u8| goes(of_kind(*kind).in_state(State::RELATED), to("related"));
        rules.extend(errors.iter().map(related));
        rules.push(goes(Rule::new(), to("packet")));
        self.chain(&to("icmp"), None, rules);
        self.chain(&to("related"), None, related_rules(one, v6));
        self.chain(&to("tracked"), None, tracked(one, v6));
        for (chain, by) in [("flow", By::Flow), ("packet", By::Packet)] {
            let mut rules = decides(one, v6, by);
            rules.extend(default(one));
            self.chain(&to(chain), None, rules);
        }
    }
}

/// Errors are about a flow if they come from who got the packet, and go to who sent it, as tracking itself has seen.
fn related_rules(one: &Policed<'_>, v6: bool) -> Vec<Rule> {
    let beside = if v6 { Register::NEXT } else { Register::BESIDE };
    let peers = Expression::Lookup(peers_name(one.network.vni, v6), Found::Matches);
    let ends = [
        (0, Tracked::Source { v6 }),
        (1, Tracked::Destination { v6 }),
    ];
    let rules = ends.map(|(direction, end)| {
        let rule = Rule::new()
            .load(Expression::Tracked(Tracked::Direction, Register::FIRST))
            .compare(true, &[direction])
            .load(Expression::Load(Field::source(v6), Register::FIRST))
            .load(Expression::Tracked(end, beside))
            .load(peers.clone());
        goes(rule, one.named("flow", v6))
    });
    let rest = goes(Rule::new(), one.named("packet", v6));
    rules.into_iter().chain([rest]).collect()
}

/// What is of a flow that is there, or opens one.
fn tracked(one: &Policed<'_>, v6: bool) -> Vec<Rule> {
    let invalid = Rule::new().in_state(State::INVALID);
    let mut rules = Vec::new();
    match one.policy.default {
        Allowed::Deny => {
            let opens = carries(TCP).in_state(State::NEW);
            let opens = opens.load(Expression::Load(Field::TCP_FLAGS, Register::FIRST));
            let opens = opens.load(Expression::Mask(vec![FIN | SYN | RST | ACK]));
            rules.push(denied(opens.compare(false, &[SYN])));
            rules.push(denied(invalid));
        }
        Allowed::Allow => rules.push(goes(invalid, one.named("packet", v6))),
    }
    rules.push(goes(Rule::new(), one.named("flow", v6)));
    rules
}

/// By what a packet is judged.
#[derive(Clone, Copy, Debug)]
enum By {
    /// By the first packet of its flow.
    Flow,
    /// By itself.
    Packet,
}

/// Looks a packet up; what the rules say nothing about goes on.
fn decides(one: &Policed<'_>, v6: bool, by: By) -> Vec<Rule> {
    let own = |what: &str| one.versioned(&format!("{what}{}", filter::digit(v6)));
    let finds = |map: String| Expression::Lookup(map, Found::Loads);
    let [to, from, protocol, port] = match by {
        By::Flow => [
            Expression::Tracked(Tracked::Destination { v6 }, Register::FIRST),
            Expression::Tracked(Tracked::Source { v6 }, Register::FIRST),
            Expression::Tracked(Tracked::Protocol, Register::FIRST),
            Expression::Tracked(Tracked::Port, Register::FIRST),
        ],
        By::Packet => [
            Expression::Load(Field::destination(v6), Register::FIRST),
            Expression::Load(Field::source(v6), Register::FIRST),
            Expression::Protocol,
            Expression::Load(DESTINATION_PORT, Register::FIRST),
        ],
    };
    let both = |rule: Rule| {
        let rule = rule.load(Expression::Mark);
        rule.load(Expression::Priority(Register::BESIDE))
    };
    let mut rules = vec![
        unranked(unmarked(Rule::new())),
        Rule::new()
            .load(to)
            .load(finds(own("to")))
            .load(Expression::SetMark),
        Rule::new()
            .load(from)
            .load(finds(own("from")))
            .load(Expression::SetPriority),
        both(Rule::new())
            .load(finds(one.versioned("pairs")))
            .load(Expression::SetMark),
    ];
    // What is not found leaves the number of an address, with which nothing is found either.
    for (what, number) in [("tcp", TCP), ("udp", UDP)] {
        let rule = Rule::new().load(protocol.clone()).compare(true, &[number]);
        let rule = rule.load(port.clone()).load(finds(own(what)));
        rules.push(rule.load(Expression::SetPriority));
    }
    // Of these two nothing is in there.
    let rule = Rule::new().load(protocol).load(finds(own("protocols")));
    rules.push(rule.load(Expression::SetPriority));
    let verdict = Expression::Lookup(one.versioned("decide"), Found::Decides);
    rules.push(both(Rule::new()).load(verdict));
    rules
}

/// Where the rules say nothing. To allow takes that none of them was missed.
fn default(one: &Policed<'_>) -> Vec<Rule> {
    let deny = denied(Rule::new());
    match one.policy.default {
        Allowed::Deny => vec![deny],
        Allowed::Allow => {
            let whole = Rule::new().load(Expression::Constant(WHOLE.to_vec()));
            let passes = Expression::Lookup(one.versioned("decide"), Found::Decides);
            vec![whole.load(passes), deny]
        }
    }
}

/// What goes to many: nobody waits for an answer.
fn to_many(v6: bool) -> Vec<Rule> {
    let to = |field| Rule::new().load(Expression::Load(field, Register::FIRST));
    let kinds = [filter::BROADCAST, filter::MULTICAST];
    let kinds = kinds.map(|kind| {
        let rule = Rule::new().load(Expression::PacketKind);
        rule.compare(true, &[kind])
    });
    let mut rules = Vec::from(kinds);
    if v6 {
        rules.push(to(Field::network(24, 1)).compare(true, &[0xff]));
    } else {
        let group = to(Field::destination(false));
        let group = group.load(Expression::Mask(vec![0xf0, 0, 0, 0]));
        rules.push(group.compare(true, &[0xe0, 0, 0, 0]));
        rules.push(to(Field::destination(false)).compare(true, &[0xff; 4]));
    }
    rules
}

fn carries(protocol: u8) -> Rule {
    let rule = Rule::new().load(Expression::Protocol);
    rule.compare(true, &[protocol])
}

fn goes(rule: Rule, chain: String) -> Rule {
    rule.ends(Verdict::Goto(chain))
}

const DESTINATION_PORT: Field = Field::transport(2, 2);
const ICMP_KIND: Field = Field::transport(0, 1);
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Requests and replies (RFC 792, RFC 4443 §4).
const ECHOES_4: [u8; 2] = [8, 0];
const ECHOES_6: [u8; 2] = [128, 129];
/// Destination unreachable, time exceeded, parameter problem.
const ERRORS_4: [u8; 3] = [3, 11, 12];
/// These, and packet too big.
const ERRORS_6: [u8; 4] = [1, 2, 3, 4];
/// Router and neighbour solicitations, neighbour advertisements (RFC 4861 §4).
const NEIGHBOURS: [u8; 3] = [133, 135, 136];
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
