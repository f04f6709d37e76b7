//! Where a frame goes: pure decisions that borrow from the tables.

use std::net::{IpAddr, Ipv6Addr};

use overlay_core::{Instant, MacAddr};

use crate::{
    admit,
    fdb::{NetworkIndex, NextHop},
    frame::Frame,
    headers::{Headers, Ip, Payload},
    meters::Limit,
    reply,
    segment::segment_bytes_max,
    stats::DropReason,
    tables::{Network, Port, Tables, Vtep},
    wire::{
        arp, ethernet,
        icmpv6::{self, Kind},
        ipv4::Protocol,
        ipv6,
    },
};

/// Where a frame goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict<'a> {
    Port(u32, &'a Port),
    /// To a VTEP; packets beyond these octets are to be fragmented.
    Vtep(u32, &'a Vtep, Option<u16>),
    /// To all others of the network, within a rate.
    Flood {
        to_ports: bool,
        limit: Limit,
    },
    /// Back, with the MAC address of the asked one.
    Answer {
        request: Request,
        mac: MacAddr,
    },
    /// Back, with the MTU of the network or the path.
    TooBig(Ip, u16),
    Drop(DropReason),
}

/// A question that the tables may answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    Arp(arp::Repr),
    Neighbour { asker: Ipv6Addr, target: Ipv6Addr },
}

impl Request {
    /// Reads a request that was sent to all; one that was sent to a neighbour asks whether that one is still there.
    fn read(headers: &Headers, payload: &Payload, bytes: &[u8]) -> Option<Self> {
        if !headers.destination.is_multicast() {
            return None;
        }
        match payload {
            // An announcement asks for the sender's own address (RFC 5227 §2.3).
            Payload::Arp(packet) => (packet.operation == arp::Operation::REQUEST
                && packet.target_address != packet.sender_address)
                .then_some(Self::Arp(*packet)),
            Payload::Ip(ip) => Self::read_solicitation(headers, ip, bytes),
            Payload::Other => None,
        }
    }

    /// Reads a solicitation that RFC 4861 §7.1.1 calls valid.
    fn read_solicitation(headers: &Headers, ip: &Ip, bytes: &[u8]) -> Option<Self> {
        let (IpAddr::V6(asker), IpAddr::V6(group)) = (ip.source, ip.destination) else {
            return None;
        };
        if ip.protocol != Protocol::ICMPV6 || ip.fragment.is_some() {
            return None;
        }
        let packet = ipv6::Packet::new_checked(bytes.get(headers.payload_at..)?).ok()?;
        let message = icmpv6::Packet::new_checked(ip.upper(bytes)).ok()?;
        if message.kind() != Kind::NEIGHBOUR_SOLICITATION
            || message.code() != 0
            || packet.hop_limit() != 255
            || !message.is_checksum_valid(asker, group)
        {
            return None;
        }
        let target = message.target().filter(|target| !target.is_multicast())?;
        let link_layer = message.link_layer().ok()?;
        let is_detection = asker.is_unspecified();
        if is_detection && (link_layer.is_some() || group != ipv6::solicited_node(target)) {
            return None;
        }
        Some(Self::Neighbour { asker, target })
    }

    fn target(&self) -> IpAddr {
        match self {
            Self::Arp(packet) => packet.target_address.into(),
            Self::Neighbour { target, .. } => (*target).into(),
        }
    }
}

/// Everything that a decision looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'t, 'f> {
    pub(crate) tables: &'t Tables,
    pub(crate) now: Instant,
    pub(crate) index: NetworkIndex,
    pub(crate) network: &'t Network,
    pub(crate) headers: &'f Headers,
    pub(crate) frame: &'f Frame,
}

impl<'t> View<'t, '_> {
    fn request_read(&self) -> Option<Request> {
        let payload = self.headers.seen(&self.network.config);
        Request::read(self.headers, payload, self.frame.bytes())
    }

    /// Decides on an admitted frame from a local port.
    pub(crate) fn decide_local(&self, from: u32, port: &Port) -> Verdict<'t> {
        if let Some(request) = self.request_read() {
            return self.request(port, request);
        }
        if let Payload::Ip(ip) = self.headers.seen(&self.network.config)
            && !admit::is_inside(self.network, ip.destination)
        {
            return Verdict::Drop(DropReason::ForeignAddress);
        }
        if let Err(verdict) = self.check_size(self.network.config.mtu) {
            return verdict;
        }
        if self.headers.destination.is_multicast() {
            return Verdict::Flood {
                to_ports: true,
                limit: Limit::Flood,
            };
        }
        match self.lookup() {
            Some(NextHop::Port(to)) if to == from => Verdict::Drop(DropReason::SamePort),
            Some(hop) => self.next(hop),
            // It is behind none of the ports, whose addresses are all known.
            None => Verdict::Flood {
                to_ports: false,
                limit: Limit::Flood,
            },
        }
    }

    /// Decides on an admitted frame from a VTEP. It never leaves to another one (split horizon).
    pub(crate) fn decide_remote(&self) -> Verdict<'t> {
        if let Some(request) = self.request_read()
            && let Some(mac) = self
                .tables
                .neighbour(self.now, self.index, request.target())
            && let Some(hop @ NextHop::Port(_)) = self.tables.lookup(self.now, self.index, mac)
        {
            return self.next(hop);
        }
        if self.headers.destination.is_multicast() {
            return Verdict::Flood {
                to_ports: true,
                limit: Limit::Flood,
            };
        }
        match self.lookup() {
            Some(hop @ NextHop::Port(_)) => self.next(hop),
            Some(NextHop::Vtep(_)) | None => Verdict::Drop(DropReason::NotLocal),
        }
    }

    fn request(&self, port: &Port, request: Request) -> Verdict<'t> {
        let target = request.target();
        if !admit::is_inside(self.network, target) {
            return Verdict::Drop(DropReason::ForeignAddress);
        }
        match self.tables.neighbour(self.now, self.index, target) {
            // Whether somebody else has its own address: those who do answer for themselves.
            Some(mac) if mac == port.mac => Verdict::Flood {
                to_ports: true,
                limit: Limit::Flood,
            },
            Some(mac) => Verdict::Answer { request, mac },
            None => Verdict::Flood {
                to_ports: true,
                limit: Limit::Resolve,
            },
        }
    }

    /// Checks that the frame, or each segment of a super-frame, is a packet of at most `mtu` octets.
    fn check_size(&self, mtu: u16) -> Result<(), Verdict<'t>> {
        let max = usize::from(mtu) + ethernet::HEADER_BYTES;
        if self.frame.len() <= max || segment_bytes_max(self.frame).is_ok_and(|bytes| bytes <= max)
        {
            return Ok(());
        }
        match self.headers.payload {
            Payload::Ip(ip) if reply::may_report(self.headers, &ip, self.frame.bytes()) => {
                Err(Verdict::TooBig(ip, mtu))
            }
            _ => Err(Verdict::Drop(DropReason::TooBig)),
        }
    }

    fn lookup(&self) -> Option<NextHop> {
        self.tables
            .lookup(self.now, self.index, self.headers.destination)
    }

    fn next(&self, hop: NextHop) -> Verdict<'t> {
        let verdict = match hop {
            NextHop::Port(to) => self
                .tables
                .ports
                .get(to)
                .map(|port| Verdict::Port(to, port)),
            NextHop::Vtep(to) => self.tables.vtep(to).map(|vtep| self.path(to, vtep)),
        };
        debug_assert!(verdict.is_some(), "a row of the FDB leads somewhere");
        verdict.unwrap_or(Verdict::Drop(DropReason::NotLocal))
    }

    fn may_fragment(&self) -> bool {
        match &self.headers.payload {
            Payload::Ip(ip) => ip.source.is_ipv4() && !ip.dont_fragment,
            Payload::Arp(_) | Payload::Other => false,
        }
    }

    /// Decides whether the frame fits the path to a VTEP.
    fn path(&self, to: u32, vtep: &'t Vtep) -> Verdict<'t> {
        let mut mtu = vtep.inner_mtu(&self.network.config);
        if mtu < self.network.config.mtu
            && let Payload::Ip(ip) = &self.headers.payload
        {
            let tag_bytes = self.headers.payload_at - ethernet::HEADER_BYTES;
            let tag_bytes = u16::try_from(tag_bytes).unwrap_or_default();
            mtu = self.network.limit(ip.source, mtu, tag_bytes);
        }
        match self.check_size(mtu) {
            Ok(()) => Verdict::Vtep(to, vtep, None),
            Err(_) if self.may_fragment() => Verdict::Vtep(to, vtep, Some(mtu)),
            Err(verdict) => verdict,
        }
    }
}
