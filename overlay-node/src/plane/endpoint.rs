//! An endpoint without an operating system: enough of ARP, IPv4 and ICMP to ping and to be pinged.
//!
//! The simulator and the in-process platform put it behind a port where otherwise a kernel would be.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
};

use overlay_core::MacAddr;
use overlay_vxlan::wire::{arp, ethernet, icmpv4, ipv4};

/// An endpoint with one IPv4 address that answers ARP and ICMP echo requests, and sends its own.
#[derive(Debug)]
pub struct Endpoint {
    mac: MacAddr,
    address: Ipv4Addr,
    neighbours: BTreeMap<Ipv4Addr, MacAddr>,
    /// Echo requests whose target's MAC address is not known yet, oldest first.
    waiting: VecDeque<(Ipv4Addr, u16)>,
    replies: VecDeque<EchoReply>,
    frames: VecDeque<Vec<u8>>,
    identifier: u16,
}

/// An echo reply that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoReply {
    /// Who answered.
    pub from: Ipv4Addr,
    /// Which request.
    pub sequence: u16,
    /// Hops that were left.
    pub ttl: u8,
}

impl Endpoint {
    /// Makes an endpoint.
    pub fn new(mac: MacAddr, address: Ipv4Addr) -> Self {
        let [.., a, b] = address.octets();
        Self {
            mac,
            address,
            neighbours: BTreeMap::new(),
            waiting: VecDeque::new(),
            replies: VecDeque::new(),
            frames: VecDeque::new(),
            identifier: u16::from_be_bytes([a, b]),
        }
    }

    /// Sends an echo request; asks for the MAC address first if it is not known.
    pub fn ping(&mut self, to: Ipv4Addr, sequence: u16) {
        match self.neighbours.get(&to).copied() {
            Some(mac) => self.echo_request(mac, to, sequence),
            None => {
                if self.waiting.len() >= WAITING_MAX {
                    self.waiting.pop_front();
                }
                self.waiting.push_back((to, sequence));
                self.ask(to);
            }
        }
    }

    /// Takes a frame; what is malformed or for others is dropped.
    pub fn handle_frame(&mut self, frame: &[u8]) {
        let Ok(frame) = ethernet::Packet::new_checked(frame) else {
            return;
        };
        if frame.destination() != self.mac && !frame.destination().is_multicast() {
            return;
        }
        match frame.ethertype() {
            ethernet::EtherType::ARP => self.on_arp(frame.payload()),
            ethernet::EtherType::IPV4 => self.on_ipv4(frame.source(), frame.payload()),
            _ => {}
        }
    }

    /// Returns the oldest frame that is to be sent.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }

    /// Returns the oldest echo reply that arrived.
    pub fn poll_reply(&mut self) -> Option<EchoReply> {
        self.replies.pop_front()
    }

    /// Returns its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Forgets the MAC addresses that it learned.
    pub fn forget_neighbours(&mut self) {
        self.neighbours.clear();
    }

    fn ask(&mut self, target_address: Ipv4Addr) {
        let (sender_mac, sender_address) = (self.mac, self.address);
        let target_mac = MacAddr::UNSPECIFIED;
        let operation = arp::Operation::REQUEST;
        let request = arp::Repr {
            operation,
            sender_mac,
            sender_address,
            target_mac,
            target_address,
        };
        self.send_arp(MacAddr::BROADCAST, request);
    }

    fn on_arp(&mut self, packet: &[u8]) {
        let Ok(packet) = arp::Packet::new_checked(packet) else {
            return;
        };
        let asked = arp::Repr::parse(&packet);
        if asked.target_address != self.address || asked.sender_address.is_unspecified() {
            return;
        }
        if self.neighbours.len() < NEIGHBOURS_MAX {
            self.neighbours
                .insert(asked.sender_address, asked.sender_mac);
        }
        if asked.operation == arp::Operation::REQUEST {
            let (sender_mac, sender_address) = (self.mac, self.address);
            let reply = arp::Repr {
                operation: arp::Operation::REPLY,
                sender_mac,
                sender_address,
                target_mac: asked.sender_mac,
                target_address: asked.sender_address,
            };
            self.send_arp(asked.sender_mac, reply);
        }
        let (known, rest) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(to, _)| *to == asked.sender_address);
        self.waiting = rest;
        let known: VecDeque<_> = known;
        for (to, sequence) in known {
            self.echo_request(asked.sender_mac, to, sequence);
        }
    }

    fn on_ipv4(&mut self, source_mac: MacAddr, packet: &[u8]) {
        let Ok(packet) = ipv4::Packet::new_checked(packet) else {
            return;
        };
        let wanted = packet.destination() == self.address
            && packet.protocol() == ipv4::Protocol::ICMP
            && packet.is_checksum_valid()
            && !packet.is_fragment();
        let Ok(message) = icmpv4::Packet::new_checked(packet.payload()) else {
            return;
        };
        if !wanted {
            return;
        }
        match icmpv4::Repr::parse(&message) {
            Ok(icmpv4::Repr::EchoRequest {
                identifier,
                sequence,
            }) => {
                let reply = icmpv4::Repr::EchoReply {
                    identifier,
                    sequence,
                };
                self.send_icmp(source_mac, packet.source(), reply, message.payload());
            }
            Ok(icmpv4::Repr::EchoReply {
                identifier,
                sequence,
            }) if identifier == self.identifier && self.replies.len() < WAITING_MAX => {
                let (from, ttl) = (packet.source(), packet.ttl());
                self.replies.push_back(EchoReply {
                    from,
                    sequence,
                    ttl,
                });
            }
            _ => {}
        }
    }

    fn echo_request(&mut self, mac: MacAddr, to: Ipv4Addr, sequence: u16) {
        let identifier = self.identifier;
        let request = icmpv4::Repr::EchoRequest {
            identifier,
            sequence,
        };
        self.send_icmp(mac, to, request, PAYLOAD);
    }

    fn send_arp(&mut self, to: MacAddr, packet: arp::Repr) {
        let mut bytes = [0; arp::PACKET_BYTES];
        if packet.emit(&mut bytes).is_ok() {
            self.send(to, ethernet::EtherType::ARP, &bytes);
        }
    }

    fn send_icmp(&mut self, mac: MacAddr, to: Ipv4Addr, header: icmpv4::Repr, payload: &[u8]) {
        let mut message = vec![0; icmpv4::HEADER_BYTES];
        if header.emit(&mut message).is_err() {
            return;
        }
        message.extend_from_slice(payload);
        if let Ok(mut message) = icmpv4::Packet::new_checked(&mut message) {
            message.fill_checksum();
        }
        let Ok(payload_bytes) = u16::try_from(message.len()) else {
            return;
        };
        let packet = ipv4::Repr {
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol: ipv4::Protocol::ICMP,
            source: self.address,
            destination: to,
            payload_bytes,
        };
        let mut bytes = vec![0; ipv4::HEADER_BYTES];
        if packet.emit(&mut bytes).is_ok() {
            bytes.extend_from_slice(&message);
            self.send(mac, ethernet::EtherType::IPV4, &bytes);
        }
    }

    fn send(&mut self, destination: MacAddr, ethertype: ethernet::EtherType, payload: &[u8]) {
        let mut frame = vec![0; ethernet::HEADER_BYTES];
        let header = ethernet::Repr {
            destination,
            source: self.mac,
            ethertype,
        };
        if header.emit(&mut frame).is_ok() && self.frames.len() < FRAMES_MAX {
            frame.extend_from_slice(payload);
            self.frames.push_back(frame);
        }
    }
}

/// How many requests wait for a MAC address, and replies for their reader.
const WAITING_MAX: usize = 64;
/// How many frames wait to be sent.
const FRAMES_MAX: usize = 256;
/// How many MAC addresses are kept.
const NEIGHBOURS_MAX: usize = 1_024;
/// What an echo request carries: 56 octets, as `ping` sends them.
const PAYLOAD: &[u8] = &[0x61; 56];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_endpoints_ping_each_other() {
        let (a, b) = (Ipv4Addr::new(10, 0, 1, 2), Ipv4Addr::new(10, 0, 1, 3));
        let mut one = Endpoint::new(MacAddr::from_ipv4(a), a);
        let mut two = Endpoint::new(MacAddr::from_ipv4(b), b);
        one.ping(b, 7);
        for _ in 0..4 {
            while let Some(frame) = one.poll_frame() {
                two.handle_frame(&frame);
            }
            while let Some(frame) = two.poll_frame() {
                one.handle_frame(&frame);
            }
        }
        assert_eq!(
            one.poll_reply(),
            Some(EchoReply {
                from: b,
                sequence: 7,
                ttl: 64
            })
        );
        assert_eq!(one.poll_reply(), None);
    }
}
