//! Frames that a balancer sends itself: resets, unreachables, echo replies.

use std::net::IpAddr;

use crate::TcpFlags;
use crate::wire::{
    Delta, ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMP_BYTES, ICMPV6, IPV4_BYTES,
    IPV6_BYTES, Ip, Segment, Sum, TCP, TCP_BYTES, read_u16,
};

/// Answers a segment to nowhere with a reset (RFC 9293 §3.10.7.1); false if it is one itself.
pub(super) fn reset(answer: &mut Vec<u8>, bytes: &[u8], ip: &Ip<'_>, segment: &Segment) -> bool {
    if segment.flags.contains(TcpFlags::RST) {
        return false;
    }
    let Some((client, vip)) = ip.ports(bytes) else {
        return false;
    };
    let (sequence, acknowledgement) = if segment.flags.contains(TcpFlags::ACK) {
        (segment.acknowledgement, None)
    } else {
        (0, Some(segment.next()))
    };
    link(answer, bytes, ip.addresses.at);
    let (from, to) = (ip.addresses.destination(), ip.addresses.source());
    tcp_reset(answer, (from, vip), (to, client), sequence, acknowledgement);
    true
}

/// Appends IP and TCP headers of a reset.
pub(crate) fn tcp_reset(
    answer: &mut Vec<u8>,
    (from, source): (IpAddr, u16),
    (to, destination): (IpAddr, u16),
    sequence: u32,
    acknowledgement: Option<u32>,
) {
    network(answer, from, to, TCP, TCP_BYTES);
    let flags = 0x04 | if acknowledgement.is_some() { 0x10 } else { 0 };
    let at = answer.len();
    answer.extend_from_slice(&source.to_be_bytes());
    answer.extend_from_slice(&destination.to_be_bytes());
    answer.extend_from_slice(&sequence.to_be_bytes());
    answer.extend_from_slice(&acknowledgement.unwrap_or(0).to_be_bytes());
    answer.extend_from_slice(&[5 << 4, flags, 0, 0, 0, 0, 0, 0]);
    let mut sum = Sum::pseudo_header(from, to, TCP, 20);
    sum.add(&answer[at..]);
    answer[at + 16..at + 18].copy_from_slice(&sum.finish().to_be_bytes());
}

/// Answers a datagram to nowhere with port unreachable (RFC 792, RFC 4443 §3.1), quoting as much as fits
/// (RFC 1812 §4.3.2.3, RFC 4443 §2.4).
pub(super) fn unreachable(answer: &mut Vec<u8>, bytes: &[u8], ip: &Ip<'_>) {
    let (from, to) = (ip.addresses.destination(), ip.addresses.source());
    let (proto, kind, code, room) = if from.is_ipv4() {
        (ICMP, 3, 3, 576 - IPV4_BYTES - ICMP_BYTES)
    } else {
        (ICMPV6, 1, 4, 1280 - IPV6_BYTES - ICMP_BYTES)
    };
    let packet = &bytes[ip.addresses.at..ip.end];
    let quote = &packet[..packet.len().min(room)];
    link(answer, bytes, ip.addresses.at);
    network(answer, from, to, proto, ICMP_BYTES + quote.len());
    let at = answer.len();
    answer.extend_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
    answer.extend_from_slice(quote);
    let length = u32::try_from(ICMP_BYTES + quote.len()).expect("a quote is short");
    let mut sum = match proto {
        ICMPV6 => Sum::pseudo_header(from, to, proto, length),
        _ => Sum::default(),
    };
    sum.add(&answer[at..]);
    answer[at + 2..at + 4].copy_from_slice(&sum.finish().to_be_bytes());
}

/// Answers an echo request (RFC 792, RFC 4443 §4.2); false if it is longer than [`ECHO_BYTES_MAX`].
pub(super) fn echo(answer: &mut Vec<u8>, bytes: &[u8], ip: &Ip<'_>) -> bool {
    let message = &bytes[ip.upper..ip.end];
    let Some(sum) = read_u16(message, 2).filter(|_| message.len() <= ECHO_BYTES_MAX) else {
        return false;
    };
    let (from, to) = (ip.addresses.destination(), ip.addresses.source());
    let (request, reply) = if from.is_ipv4() { (8, 0) } else { (128, 129) };
    link(answer, bytes, ip.addresses.at);
    network(answer, from, to, ip.proto, message.len());
    let at = answer.len();
    answer.extend_from_slice(message);
    answer[at] = reply;
    let mut delta = Delta::default();
    delta.replace(request << 8, u16::from(reply) << 8);
    answer[at + 2..at + 4].copy_from_slice(&delta.apply(sum).to_be_bytes());
    true
}

/// Begins an answer: the frame's Ethernet header, a tag with it, back to its sender.
fn link(answer: &mut Vec<u8>, bytes: &[u8], network_at: usize) {
    answer.clear();
    answer.extend_from_slice(&bytes[..network_at]);
    answer[..6].copy_from_slice(&bytes[6..12]);
    answer[6..12].copy_from_slice(&bytes[..6]);
}

/// Appends an Ethernet header without a tag.
pub(crate) fn ethernet(answer: &mut Vec<u8>, destination: [u8; 6], source: [u8; 6], v6: bool) {
    let kind = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    answer.extend_from_slice(&destination);
    answer.extend_from_slice(&source);
    answer.extend_from_slice(&kind.to_be_bytes());
}

/// Appends an IP header for `length` octets of `proto`.
fn network(answer: &mut Vec<u8>, from: IpAddr, to: IpAddr, proto: u8, length: usize) {
    let short = |length: usize| {
        u16::try_from(length)
            .expect("answers are short")
            .to_be_bytes()
    };
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let at = answer.len();
            answer.extend_from_slice(&[0x45, 0]);
            answer.extend_from_slice(&short(IPV4_BYTES + length));
            answer.extend_from_slice(&[0, 0, 0x40, 0, HOPS, proto, 0, 0]);
            answer.extend_from_slice(&from.octets());
            answer.extend_from_slice(&to.octets());
            let mut sum = Sum::default();
            sum.add(&answer[at..]);
            answer[at + 10..at + 12].copy_from_slice(&sum.finish().to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            answer.extend_from_slice(&[0x60, 0, 0, 0]);
            answer.extend_from_slice(&short(length));
            answer.extend_from_slice(&[proto, HOPS]);
            answer.extend_from_slice(&from.octets());
            answer.extend_from_slice(&to.octets());
        }
        _ => debug_assert!(false, "both are of one packet"),
    }
}

/// The longest echo request that is answered, in octets.
const ECHO_BYTES_MAX: usize = 9_000;
/// Room for the longest answer.
pub(crate) const ANSWER_BYTES_MAX: usize = ETHERNET_BYTES + 4 + IPV6_BYTES + ECHO_BYTES_MAX;
const HOPS: u8 = 64;
