//! Who on a network may reach whom: a stage beside the switch, which lets pass what rules allow, and what belongs to it.
//!
//! A [`Policy`] is that of one network on one node. It looks at frames and changes none. The order of stages is:
//!
//! | way | stages |
//! |---|---|
//! | out of an endpoint | [`admit_local`](crate::Switch::admit_local), [`Egress`](Direction::Egress), balancer, [`forward_local`](crate::Switch::forward_local) |
//! | into an endpoint | [`handle_remote`](crate::Switch::handle_remote) or the above; before the sink writes to the port: balancer back, [`Ingress`](Direction::Ingress) |
//!
//! Both ways share the state of flows, so that a reply meets the flow that its request opened. On the way in the policy stands
//! *behind* the balancer: a reply of a backend then bears the virtual address, by which its flow is known here. A flow to a
//! virtual address is thus judged twice, under that address where it leaves, and under that of the backend where it arrives:
//! rules name both. What goes between two endpoints of one node is judged in both directions too, if the embedder asks.
//!
//! ```
//! use overlay_core::{Instant, Seed, plane::{AddressMatch, NetworkPolicy, PolicyRule, TrafficMatch, Verdict}};
//! use overlay_vxlan::{Frame, policy::{Config, Direction, Policy}, stats::DropReason};
//!
//! let web: ipnet::IpNet = "10.0.1.9/32".parse().unwrap();
//! let web = PolicyRule {
//!     name: "all to web".into(),
//!     from: AddressMatch::Any,
//!     to: [web].into_iter().collect(),
//!     traffic: vec![TrafficMatch::Tcp { first: 80, last: 80 }],
//!     verdict: Verdict::Allow,
//! };
//! let rules = NetworkPolicy { default: Verdict::Deny, rules: vec![web] };
//! let mut policy = Policy::new(Config::default(), &Seed::from_u64(1));
//! policy.set(Instant::EPOCH, &rules).unwrap();
//!
//! // Between admit_local and forward_local; Err goes to counters and captures.
//! let mut admit = |now, frame: &Frame| -> Result<(), DropReason> {
//!     policy.decide(now, Direction::Egress, frame.bytes()).drop_reason().map_or(Ok(()), Err)
//! };
//! assert_eq!(admit(Instant::EPOCH, &Frame::new()), Err(DropReason::Malformed));
//! let asked = policy.explain("10.0.1.2".parse().unwrap(), "10.0.1.9".parse().unwrap(), 6, 443);
//! assert_eq!(asked.to_string(), "denied by default");
//! ```
//!
//! # What is promised
//!
//! * **Open.** Without rules, and with [`Verdict::Allow`] as default, everything passes, nothing is looked at and no flow is
//!   known. State begins with the first rule: [`settle_until`](Policy::settle_until) is for what was there before.
//! * **Rules** are about who *opens* a flow. The first that matches decides, else the default; see
//!   [`NetworkPolicy::decide`].
//! * **Flows.** TCP: only a SYN opens one, and if the default is to deny, other segments without a flow are dropped. ICMP: an
//!   echo request opens one, for replies with its identifier. UDP, and other protocols by addresses alone: the first packet.
//!   Packets of both directions pass then, and ICMP errors (RFC 792 types 3, 11, 12; RFC 4443 types 1 to 4) that quote a
//!   packet of it, sent by who got that to who sent it. All other ICMP, and what goes to groups or to broadcast, is judged
//!   packet by packet, and replies to it are not awaited.
//! * **Changes.** [`Policy::set`] judges every known flow anew. One that is not allowed any more ends: none of its packets pass,
//!   in either direction, until a rule allows it again or it has been quiet for [`Timeouts::ended`]. TCP may be opened anew
//!   from the other end at once, if rules allow that.
//! * **Bounds.** No more than [`Config::flows_max`] flows. If they are all there, one that is ended makes room, or else the one
//!   that has waited longest for an answer; if there is none, the new flow is dropped. A flood of openings can therefore
//!   not end a flow that was answered, and what is denied takes no room.
//! * **Fragments** follow the first one, which must come first and hold the ports (of TCP also the flags). Of IPv4 and IPv6;
//!   a later one of TCP that could overwrite the flags is dropped (RFC 3128).
//! * **Always pass:** ARP, neighbour and router solicitations, neighbour advertisements. The switch polices them. Multicast
//!   listener reports are ICMPv6 as any other.
//! * **Not IP,** and frames of VLANs: the default decides; if that is to allow, packets of VLANs are judged as if they had no tag.
//!
//! # What a node that is not to be trusted can still do
//!
//! Its own egress means nothing: it may send what it likes, in the names of all endpoints that run there. The receiver's
//! ingress still holds: rules, and the flows that *its* endpoints have opened. Sequence numbers are not checked: who can
//! forge an endpoint's address may send into its flows.

use overlay_core::{
    Instant, Seed,
    plane::{FlowMatch, NetworkPolicy, Verdict},
};

use crate::headers::Headers;

mod compiled;
mod config;
mod decision;
mod flow;
mod flows;
mod fragments;
mod intervals;
mod packet;

pub use config::{Config, PolicyError, Timeouts};
pub use decision::{Decided, Decision, Direction, Explanation, Reason, Stats};

use compiled::Compiled;
use flow::{Flow, NO_RULE, Oriented, is_syn};
use flows::Flows;
use fragments::Fragments;
use packet::{Carried, Packet, Seen};

/// The policy of one network on one node.
#[derive(Debug)]
pub struct Policy {
    config: Config,
    /// None while the network is open.
    rules: Option<Rules>,
    flows: Flows,
    fragments: Fragments,
    now: Instant,
    settled: Instant,
    stats: Stats,
}

#[derive(Debug)]
struct Rules {
    compiled: Compiled,
    names: Vec<String>,
}

impl Policy {
    /// Makes an open policy. `seed`: others must not know it, or they choose flows that are slow to find.
    #[must_use]
    pub fn new(config: Config, seed: &Seed) -> Self {
        Self {
            config,
            rules: None,
            flows: Flows::new(&seed.derive("flows"), config.flows_max, config.timeouts),
            fragments: Fragments::new(&seed.derive("fragments"), config.fragments_max),
            now: Instant::EPOCH,
            settled: Instant::EPOCH,
            stats: Stats::default(),
        }
    }

    /// Replaces the rules, and ends the flows that they do not allow.
    ///
    /// It takes time with the number of rules and of flows. If the policy is open, all flows are forgotten.
    ///
    /// # Errors
    ///
    /// [`PolicyError`]; the rules are those from before.
    pub fn set(&mut self, now: Instant, policy: &NetworkPolicy) -> Result<(), PolicyError> {
        self.now = self.now.max(now);
        if policy.is_open() {
            self.rules = None;
            self.flows.clear();
            self.fragments.clear();
            return Ok(());
        }
        let compiled = Compiled::new(policy, &self.config)?;
        let ended = self.flows.judge(self.now, |key, opened_by_lower| {
            let (verdict, rule) = compiled.decide(&key.flow_match(opened_by_lower));
            (verdict == Verdict::Allow).then_some(number(rule))
        });
        self.stats.flows_ended += ended;
        self.fragments.clear();
        let names = policy.rules.iter().map(|rule| rule.name.clone()).collect();
        self.rules = Some(Rules { compiled, names });
        Ok(())
    }

    /// Takes what comes until then for a part of flows that were there before: after a restart, or when an open network gets
    /// its first rules.
    ///
    /// A packet then opens a flow whatever it is, if the rules allow its direction, and else if they allow the other one: nobody
    /// knows who had opened it. For that time, who may be reached by a flow can send to who may open it.
    pub fn settle_until(&mut self, now: Instant, until: Instant) {
        self.now = self.now.max(now);
        self.settled = until;
    }

    /// Decides about a frame, which is not changed. It allocates for new flows, and for new packets in fragments.
    ///
    /// `frame`: an Ethernet II frame without FCS, as the switch has admitted it.
    #[inline]
    pub fn decide(&mut self, now: Instant, direction: Direction, frame: &[u8]) -> Decision {
        if self.rules.is_none() {
            return Decision::OPEN;
        }
        self.decide_closed(now, direction, frame)
    }

    /// Forgets the flows whose time is over. They do not count in any case, and make room when it is needed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.flows.expire(self.now);
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) gives memory back.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.flows.first_end()
    }

    /// Returns which rule decides if `from` opens a flow to `to`: by `protocol` of the IP header (6 is TCP), and to `port` if it
    /// is TCP or UDP. State does not count.
    #[must_use]
    pub fn explain(
        &self,
        from: std::net::IpAddr,
        to: std::net::IpAddr,
        protocol: u8,
        port: u16,
    ) -> Explanation<'_> {
        let flow = FlowMatch {
            from,
            to,
            protocol,
            port,
        };
        let Some(rules) = &self.rules else {
            let verdict = Verdict::Allow;
            return Explanation {
                verdict,
                rule: None,
            };
        };
        let (verdict, rule) = rules.compiled.decide(&flow);
        Explanation {
            verdict,
            rule: rule.map(|at| (at, rules.names[at].as_str())),
        }
    }

    /// Returns the name of a rule, by its number in a [`Decision`].
    #[must_use]
    pub fn rule(&self, number: u32) -> Option<&str> {
        let names = &self.rules.as_ref()?.names;
        names.get(usize::try_from(number).ok()?).map(String::as_str)
    }

    /// Returns whether everything passes.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.rules.is_none()
    }

    /// Returns what was counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            flows: self.flows.len(),
            flows_evicted: self.flows.evicted(),
            ..self.stats
        }
    }

    fn decide_closed(&mut self, now: Instant, direction: Direction, frame: &[u8]) -> Decision {
        self.now = self.now.max(now);
        let decision = match Headers::read(frame) {
            Ok(headers) => self.judge(&headers, frame),
            Err(_) => Decision::deny(Reason::Malformed),
        };
        match direction {
            Direction::Egress => self.stats.egress.add(decision),
            Direction::Ingress => self.stats.ingress.add(decision),
        }
        decision
    }

    fn judge(&mut self, headers: &Headers, frame: &[u8]) -> Decision {
        let Some(rules) = &self.rules else {
            return Decision::OPEN;
        };
        let default = rules.compiled.default();
        let seen = match headers.vlan {
            // An identifier of zero is a priority, and no VLAN.
            Some(1..) if default == Verdict::Deny => Seen::NotIp,
            _ => Seen::of(headers, frame),
        };
        let packet = match seen {
            Seen::Neighbour => return Decision::allow(Reason::Neighbour),
            Seen::Malformed => return Decision::deny(Reason::Malformed),
            Seen::NotIp => {
                return Decision {
                    verdict: default,
                    reason: Reason::NotIp,
                    rule: None,
                };
            }
            Seen::Packet(packet) => packet,
        };
        if matches!(packet.carried, Carried::LaterFragment) {
            return match self.fragments.has(self.now, &packet) {
                true => Decision::allow(Reason::Fragment),
                false => Decision::deny(Reason::LaterFragment),
            };
        }
        let decision = self.judge_packet(&packet);
        if packet.identification.is_some() && decision.is_allowed() {
            self.fragments.note(self.now, &packet);
        }
        decision
    }

    /// Decides about a packet, or its first fragment.
    fn judge_packet(&mut self, packet: &Packet) -> Decision {
        if let Carried::Error { about: Some(about) } = packet.carried
            && let Some(flow) = self.flows.find(self.now, &about.key)
            && let Some(flow) = self.flows.get(flow)
            && !flow.is_ended()
        {
            return Decision {
                rule: (flow.rule != NO_RULE).then_some(flow.rule),
                ..Decision::allow(Reason::Related)
            };
        }
        let Some(oriented) = Oriented::of(packet).filter(|_| packet.is_unicast()) else {
            return self.ask(packet);
        };
        let Some(at) = self.flows.find(self.now, &oriented.key) else {
            return self.judge_new(packet, oriented);
        };
        let Some(flow) = self.flows.get(at) else {
            return self.judge_new(packet, oriented);
        };
        let is_answer = oriented.from_lower != flow.opened_by_lower;
        if is_answer && flow.is_beyond_opening() && packet.is_syn() {
            return self.judge_new(packet, oriented);
        }
        let (is_ended, rule) = (flow.is_ended(), flow.rule);
        self.flows.touch(self.now, at, |flow| {
            if !is_ended {
                flow.advance(&packet.carried, oriented.from_lower);
            }
        });
        if is_ended {
            return Decision::deny(Reason::Ended);
        }
        Decision {
            rule: (rule != NO_RULE).then_some(rule),
            ..Decision::allow(Reason::Flow)
        }
    }

    /// Decides about a packet of a flow that is not known, and makes it known if it may be.
    fn judge_new(&mut self, packet: &Packet, oriented: Oriented) -> Decision {
        let Some(rules) = &self.rules else {
            return Decision::OPEN;
        };
        let opening = packet.opening();
        // Of an echo it is known who asked; it is not worth more.
        let is_settling = self.now < self.settled && packet.carried.is_settled();
        if opening == Opening::No && !is_settling && rules.compiled.default() == Verdict::Deny {
            return Decision::deny(Reason::NoFlow);
        }
        let Oriented { key, from_lower } = oriented;
        let by = |opener| Decision::of_rules(rules.compiled.decide(&key.flow_match(opener)));
        let forth = by(from_lower);
        let (opener, decision) = match forth.verdict {
            Verdict::Allow if opening != Opening::No || is_settling => (from_lower, forth),
            Verdict::Deny if opening != Opening::Yes && is_settling => {
                (!from_lower, by(!from_lower))
            }
            Verdict::Allow | Verdict::Deny => return forth,
        };
        if !decision.is_allowed() {
            return forth;
        }
        let rule = decision.rule.unwrap_or(NO_RULE);
        let mut flow = Flow::new(opener, rule, self.now);
        if opening == Opening::No {
            flow.set_answered();
        }
        flow.advance(&packet.carried, from_lower);
        match self.flows.insert(self.now, key, flow) {
            true => decision,
            false => Decision::deny(Reason::Full),
        }
    }

    /// Decides by the rules alone.
    fn ask(&self, packet: &Packet) -> Decision {
        let Some(rules) = &self.rules else {
            return Decision::OPEN;
        };
        Decision::of_rules(rules.compiled.decide(&FlowMatch {
            from: packet.from,
            to: packet.to,
            protocol: packet.protocol.0,
            port: packet.port(),
        }))
    }
}

impl Packet {
    fn is_syn(&self) -> bool {
        matches!(self.carried, Carried::Tcp { flags, .. } if is_syn(flags))
    }

    fn opening(&self) -> Opening {
        let is_it = match self.carried {
            Carried::Tcp { flags, .. } => is_syn(flags),
            Carried::Echo { is_reply, .. } => !is_reply,
            _ => return Opening::Perhaps,
        };
        if is_it { Opening::Yes } else { Opening::No }
    }
}

impl Carried {
    /// Whether it may be a part of a flow from before, while that is asked.
    const fn is_settled(&self) -> bool {
        !matches!(self, Self::Echo { .. })
    }
}

/// Whether a packet opens a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Yes,
    No,
    /// It does not say.
    Perhaps,
}

fn number(rule: Option<usize>) -> u32 {
    rule.and_then(|rule| u32::try_from(rule).ok())
        .unwrap_or(NO_RULE)
}
