//! The frame path: frames out of an endpoint towards a virtual address, and the replies into it.
//!
//! ```text
//!  endpoint --> handle_outbound --> switch --> ... backend
//!  endpoint <-- handle_inbound <--- switch <-- ... backend
//! ```
//!
//! Both rewrite in place. A frame of a known flow allocates nothing; one that begins a flow only while a table grows.

pub(crate) mod answer;
mod error;
mod rewrite;

use std::net::SocketAddr;

use overlay_core::Instant;

use crate::{
    BackendId, Balancer, FlowKey, Protocol, Reject, Sequence, TcpFlags, Vip,
    balancer::track::Side,
    flows::{End, Marks, Packed},
    fragments::{Hop, Way},
    wire::{
        Addresses, ICMP, ICMPV6, Ip, Segment, TCP, UDP, UDP_BYTES, addresses, network_at,
        plain_addresses,
    },
};

/// A checksum of which the sender has summed up only the pseudo-header, the rest being left to the device.
///
/// The meaning is that of virtio-net's `VIRTIO_NET_HDR_F_NEEDS_CSUM` (VIRTIO 1.2 §5.1.6.2): the sum from `start` to the
/// end goes to `start + offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the sum begins, in octets from the start of the frame.
    pub start: u16,
    /// Where the checksum is, in octets from `start`.
    pub offset: u16,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Nothing was changed: not the balancer's business.
    Pass,
    /// It was rewritten to a backend, and goes on by its new destination.
    Backend {
        /// Which one.
        id: BackendId,
        /// Where it listens.
        address: SocketAddr,
        /// Whether the destination in the Ethernet header was written, too; if not, the caller does.
        addressed: bool,
    },
    /// A reply was rewritten: it comes from the virtual address now.
    Client,
    /// It was rewritten, and goes back to the endpoint that it came from, which is client and backend at once.
    Hairpin,
    /// It ends here, and this frame goes back to the endpoint that it came from.
    Answer(&'a [u8]),
    /// It is a fragment whose first one has not come: the balancer has kept a copy, and the frame itself ends here. See
    /// [`Config::fragments_held_max`](crate::Config::fragments_held_max).
    Held,
    /// It ends here.
    Drop(DropReason),
}

/// Why a frame ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropReason {
    /// Its headers are cut short, or say what cannot be.
    Malformed,
    /// A virtual address speaks TCP, UDP and ICMP echo.
    Protocol,
    /// A fragment whose first one has not come, or is forgotten; or one that overlaps the headers in the first one.
    Fragment,
    /// An ICMP error about a packet of no known flow.
    UnknownFlow,
    /// A reset of no known flow, which is not to be answered.
    Reset,
    /// See [`Reject::NoPort`].
    NoPort,
    /// An echo request that is too long to be answered.
    TooLong,
    /// Who would serve it may not be known yet; see [`Balancer::settle_until`].
    Unsettled,
    /// A backend's refusal of a connection that another one is asked for now.
    Refused,
}

impl Balancer {
    /// Takes a frame that an endpoint sent, before it is forwarded.
    ///
    /// `bytes`: an Ethernet II frame without FCS, with at most one VLAN tag; a super-frame (TSO, USO), too. `partial`:
    /// what its sender left to the device. The sender's own addresses are to be verified before: whoever can write
    /// another's address can end its flows. May queue [`Output`](crate::Output)s.
    pub fn handle_outbound(
        &mut self,
        now: Instant,
        bytes: &mut [u8],
        partial: Option<PartialChecksum>,
    ) -> Verdict<'_> {
        self.pass(now);
        // The same twice: first for the frames that most are, with all offsets known to the compiler.
        if let Some(addresses) = plain_addresses(bytes) {
            return self.outbound(bytes, &addresses, partial);
        }
        match network_at(bytes).and_then(|at| addresses(bytes, at)) {
            Some(addresses) => self.outbound(bytes, &addresses, partial),
            None => Verdict::Pass,
        }
    }

    #[inline(always)]
    fn outbound(
        &mut self,
        bytes: &mut [u8],
        addresses: &Addresses,
        partial: Option<PartialChecksum>,
    ) -> Verdict<'_> {
        if !self.addresses.may_contain(addresses.to) {
            return Verdict::Pass;
        }
        if let Some((at, ip)) = self.known(bytes, addresses) {
            return self.forward(bytes, &ip, partial, at);
        }
        if !self.addresses.contains(addresses.to, addresses.v6) {
            return Verdict::Pass;
        }
        let Some(ip) = Ip::parse(bytes, addresses) else {
            return Verdict::Drop(DropReason::Malformed);
        };
        match (ip.proto, addresses.v6) {
            _ if ip.is_later_fragment() => match self.later_fragment(bytes, &ip) {
                Some(to) => verdict(to, bytes),
                None if self.hold(bytes, &ip) => Verdict::Held,
                None => Verdict::Drop(DropReason::Fragment),
            },
            (TCP, _) => self.outbound_tcp(bytes, &ip, partial),
            (UDP, _) => self.outbound_udp(bytes, &ip, partial),
            (ICMP, false) | (ICMPV6, true) => self.outbound_icmp(bytes, &ip, partial),
            _ => Verdict::Drop(DropReason::Protocol),
        }
    }

    /// Reads ahead where the flows of a batch of outbound frames are kept, so that the memory's latency passes once for all
    /// of them; then give each to [`handle_outbound`](Self::handle_outbound).
    ///
    /// Changes nothing. Worth it for batches of some ten to a hundred frames once the flows outgrow the processor's cache.
    pub fn prefetch<'a>(&self, frames: impl IntoIterator<Item = &'a [u8]>) {
        let mut frames = frames.into_iter();
        let mut homes = [0; AHEAD];
        loop {
            // First where, then what: a processor overlaps reads only of instructions that are near each other.
            let mut count = 0;
            for (home, bytes) in homes.iter_mut().zip(&mut frames) {
                *home = self.home(bytes);
                count += 1;
            }
            self.flows.glance(&homes[..count]);
            if count < AHEAD {
                return;
            }
        }
    }

    /// Where the flow of an outbound frame would be; anywhere for what is not of a flow.
    fn home(&self, bytes: &[u8]) -> u32 {
        let read = network_at(bytes).and_then(|at| addresses(bytes, at));
        if let Some(addresses) = read
            && self.addresses.may_contain(addresses.to)
            && let Some(ip) = Ip::parse(bytes, &addresses)
            && let Some((client, vip)) = ip.ends(bytes)
        {
            let udp = ip.proto == UDP;
            let proto = if udp { Protocol::Udp } else { Protocol::Tcp };
            let key = Packed::of_ends(proto, addresses.v6, vip, client);
            return self.flows.hash(&key);
        }
        0
    }

    /// Takes a frame that is about to be delivered to an endpoint: rewrites a backend's replies, and errors about packets
    /// to it, so that they come from the virtual address. All else is [`Verdict::Pass`].
    pub fn handle_inbound(
        &mut self,
        now: Instant,
        bytes: &mut [u8],
        partial: Option<PartialChecksum>,
    ) -> Verdict<'_> {
        self.pass(now);
        let read = network_at(bytes).and_then(|at| addresses(bytes, at));
        let Some(ip) = read
            .as_ref()
            .and_then(|addresses| Ip::parse(bytes, addresses))
        else {
            return Verdict::Pass;
        };
        if !self.openings.is_empty() && self.is_retried(bytes, &ip) {
            return Verdict::Drop(DropReason::Refused);
        }
        let to = match ip.proto {
            _ if ip.is_later_fragment() => self.later_fragment(bytes, &ip),
            TCP | UDP => self.reply(bytes, &ip, partial),
            ICMP | ICMPV6 => self.inbound_error(bytes, &ip, partial),
            _ => None,
        };
        to.map_or(Verdict::Pass, |to| verdict(to, bytes))
    }

    /// Follows the flow of a packet, if it is known, which most are.
    #[inline(always)]
    fn known<'a>(&mut self, bytes: &[u8], addresses: &'a Addresses) -> Option<(u32, Ip<'a>)> {
        let ip = Ip::parse(bytes, addresses)?;
        let (proto, segment) = match ip.proto {
            TCP => (
                Protocol::Tcp,
                Some(Segment::parse(bytes, ip.upper, ip.end)?),
            ),
            UDP if ip.upper + UDP_BYTES <= ip.end => (Protocol::Udp, None),
            _ => return None,
        };
        if ip.is_later_fragment() {
            return None;
        }
        let (client, vip) = ip.ends(bytes)?;
        let at = self
            .flows
            .find(&Packed::of_ends(proto, addresses.v6, vip, client))?;
        let flags = segment.map(|segment| segment.flags);
        if flags.is_some_and(TcpFlags::opens) && self.is_given_up(at) {
            return None;
        }
        self.follow(at, Side::Client, flags)?;
        if let Some(segment) = segment {
            self.sequence(at, &segment);
        }
        Some((at, ip))
    }

    /// Takes the first packet of a flow, or one of a backend to itself.
    fn outbound_tcp(
        &mut self,
        bytes: &mut [u8],
        ip: &Ip<'_>,
        partial: Option<PartialChecksum>,
    ) -> Verdict<'_> {
        let segment = Segment::parse(bytes, ip.upper, ip.end);
        let (Some(segment), Some(ports)) = (segment, ip.ports(bytes)) else {
            return Verdict::Drop(DropReason::Malformed);
        };
        if let Some(to) = self.reply(bytes, ip, partial) {
            return verdict(to, bytes);
        }
        let settled = self.is_settled();
        if !settled && !segment.flags.opens() {
            return Verdict::Drop(DropReason::Unsettled);
        }
        let key = flow_key(ip.addresses, Protocol::Tcp, ports);
        match self.open(&key, Some(segment.flags)) {
            Ok(at) => {
                if segment.flags.opens() && self.choices(at) > 1 {
                    let now = self.now();
                    let next = segment.next();
                    self.openings
                        .begin(Packed::new(&key), bytes, partial, next, now);
                }
                self.sequence(at, &segment);
                self.forward(bytes, ip, partial, at)
            }
            Err(Reject::NoPort) => Verdict::Drop(DropReason::NoPort),
            Err(_) if !settled => Verdict::Drop(DropReason::Unsettled),
            Err(Reject::UnknownVip | Reject::NoBackend | Reject::UnknownFlow) => {
                if answer::reset(&mut self.answer, bytes, ip, &segment) {
                    Verdict::Answer(&self.answer)
                } else {
                    Verdict::Drop(DropReason::Reset)
                }
            }
        }
    }

    /// Takes the first packet of a flow, or one of a backend to itself.
    fn outbound_udp(
        &mut self,
        bytes: &mut [u8],
        ip: &Ip<'_>,
        partial: Option<PartialChecksum>,
    ) -> Verdict<'_> {
        let ports = ip.ports(bytes).filter(|_| ip.upper + UDP_BYTES <= ip.end);
        let Some(ports) = ports else {
            return Verdict::Drop(DropReason::Malformed);
        };
        if let Some(to) = self.reply(bytes, ip, partial) {
            return verdict(to, bytes);
        }
        match self.open(&flow_key(ip.addresses, Protocol::Udp, ports), None) {
            Ok(at) => self.forward(bytes, ip, partial, at),
            Err(Reject::NoPort) => Verdict::Drop(DropReason::NoPort),
            Err(_) if !self.is_settled() => Verdict::Drop(DropReason::Unsettled),
            Err(Reject::UnknownVip | Reject::NoBackend | Reject::UnknownFlow) => {
                answer::unreachable(&mut self.answer, bytes, ip);
                Verdict::Answer(&self.answer)
            }
        }
    }

    /// Notes where a client's connection is. Before the first acknowledgement it is not known what it awaits.
    #[inline(always)]
    fn sequence(&mut self, at: u32, segment: &Segment) {
        if segment.flags.contains(TcpFlags::ACK) {
            let next = Sequence {
                client: segment.next(),
                backend: segment.acknowledgement,
            };
            self.flows.advance(at, next);
        }
    }

    /// Rewrites a client's packet to the backend of its flow.
    #[inline(always)]
    fn forward(
        &mut self,
        bytes: &mut [u8],
        ip: &Ip<'_>,
        partial: Option<PartialChecksum>,
        at: u32,
    ) -> Verdict<'static> {
        let (source, backend) = self.flows.forth(at);
        rewrite::rewrite(bytes, ip, partial, source, backend);
        let to = self.to_backend(at, backend.port);
        if ip.fragment.is_some() {
            self.remember(ip, source, backend, to);
        }
        verdict(to, bytes)
    }

    /// Where a packet to the backend of a flow goes.
    #[inline(always)]
    fn to_backend(&self, at: u32, port: u16) -> Hop {
        let flow = self.flows.flow(at);
        match self.member(flow.group) {
            Some(member) if !flow.marks.has(Marks::HAIRPIN) => {
                let mut address = member.backend.address;
                address.set_port(port);
                Hop::Backend {
                    id: member.backend.id,
                    address,
                    mac: member.backend.mac,
                }
            }
            _ => Hop::Hairpin,
        }
    }

    /// Rewrites a backend's packet to the client of its flow; `None` if there is none.
    #[inline]
    fn reply(
        &mut self,
        bytes: &mut [u8],
        ip: &Ip<'_>,
        partial: Option<PartialChecksum>,
    ) -> Option<Hop> {
        let (proto, flags) = match ip.proto {
            TCP => {
                let segment = Segment::parse(bytes, ip.upper, ip.end)?;
                (Protocol::Tcp, Some(segment.flags))
            }
            _ => (Protocol::Udp, None),
        };
        let (backend, client) = ip.ends(bytes)?;
        let key = Packed::of_ends(proto, ip.addresses.v6, backend, client);
        let at = self.flows.find_back(&key)?;
        self.follow(at, Side::Backend, flags);
        let (vip, client) = self.flows.back(at);
        rewrite::rewrite(bytes, ip, partial, vip, client);
        let to = if self.flows.flow(at).marks.has(Marks::HAIRPIN) {
            Hop::Hairpin
        } else {
            Hop::Client
        };
        if ip.fragment.is_some() {
            self.remember(ip, vip, client, to);
        }
        Some(to)
    }

    /// Looks at a backend's answer to a connection: whether it is a refusal, and another backend is asked.
    fn is_retried(&mut self, bytes: &[u8], ip: &Ip<'_>) -> bool {
        if ip.proto != TCP || ip.is_later_fragment() {
            return false;
        }
        let segment = Segment::parse(bytes, ip.upper, ip.end);
        let (Some(segment), Some((backend, client))) = (segment, ip.ends(bytes)) else {
            return false;
        };
        let key = Packed::of_ends(Protocol::Tcp, ip.addresses.v6, backend, client);
        let Some(at) = self.flows.find_back(&key) else {
            return false;
        };
        if segment.flags.contains(TcpFlags::RST) {
            self.refused(at, segment.acknowledgement)
        } else {
            self.answered(at);
            false
        }
    }

    /// Remembers the way of a first fragment for the later ones.
    fn remember(&mut self, ip: &Ip<'_>, source: End, destination: End, to: Hop) {
        let Some(fragment) = ip.fragment else {
            return;
        };
        let way = Way {
            source: source.words,
            destination: destination.words,
            to,
        };
        let (packet, now) = (packet(ip, fragment.id), self.now());
        self.fragments.set(packet, way, now);
        self.release(&packet);
    }

    /// Rewrites a fragment that has no ports like the first of its packet.
    fn later_fragment(&self, bytes: &mut [u8], ip: &Ip<'_>) -> Option<Hop> {
        let fragment = ip.fragment.filter(|_| !ip.overlaps_header())?;
        let way = self.fragments.get(&packet(ip, fragment.id), self.now())?;
        rewrite::set_addresses(bytes, ip.addresses, way.source, way.destination);
        Some(way.to)
    }

    /// Holds a fragment that has no ports until the first of its packet comes; false if there is no room for it.
    fn hold(&mut self, bytes: &[u8], ip: &Ip<'_>) -> bool {
        let now = self.now();
        self.stats.fragments_expired += self.held.expire(now);
        let fragment = ip.fragment.filter(|_| !ip.overlaps_header());
        fragment.is_some_and(|fragment| self.held.hold(packet(ip, fragment.id), bytes, now))
    }
}

/// Writes the Ethernet addresses of a rewritten frame.
#[inline(always)]
fn verdict(to: Hop, bytes: &mut [u8]) -> Verdict<'static> {
    match to {
        Hop::Client => Verdict::Client,
        Hop::Hairpin => {
            let (destination, rest) = bytes.split_at_mut(6);
            destination.swap_with_slice(&mut rest[..6]);
            Verdict::Hairpin
        }
        Hop::Backend { id, address, mac } => {
            if let Some(mac) = mac {
                bytes[..6].copy_from_slice(&mac.octets());
            }
            Verdict::Backend {
                id,
                address,
                addressed: mac.is_some(),
            }
        }
    }
}

fn flow_key(addresses: &Addresses, proto: Protocol, (source, destination): (u16, u16)) -> FlowKey {
    FlowKey {
        vip: Vip {
            addr: addresses.destination(),
            proto,
            port: destination,
        },
        client: SocketAddr::new(addresses.source(), source),
    }
}

fn packet(ip: &Ip<'_>, id: u32) -> Packed {
    let Addresses { v6, from, to, .. } = *ip.addresses;
    Packed::of_packet(v6, [from, to], ip.proto, id)
}

/// How many frames are read ahead of at once.
const AHEAD: usize = 64;
