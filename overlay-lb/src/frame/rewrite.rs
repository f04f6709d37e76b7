//! Changing addresses and ports in place, checksums with them (RFC 1624).

use super::PartialChecksum;
use crate::flows::End;
use crate::wire::{
    Addresses, Delta, ICMP_BYTES, ICMPV6, Ip, TCP, UDP, addresses, read, read_u16, write,
};

/// Changes both ends of a TCP segment or a UDP datagram, whole or a first fragment.
#[inline(always)]
pub(super) fn rewrite(
    bytes: &mut [u8],
    ip: &Ip<'_>,
    partial: Option<PartialChecksum>,
    source: End,
    destination: End,
) {
    let pseudo = set_addresses(bytes, ip.addresses, source.words, destination.words);
    let ports = set_ports(bytes, ip.upper, source.port, destination.port);
    let field = checksum_of(ip.proto);
    let at = ip.upper + field;
    let Some(before) = read_u16(bytes, at) else {
        return; // a quote that ends before
    };
    let after = if is_partial(partial, ip.upper, field) {
        pseudo.apply_partial(before)
    } else {
        transport(ip.proto, before, pseudo.and(ports))
    };
    write(bytes, at, after.to_be_bytes());
}

/// Changes the packet that an ICMP error quotes, and both addresses of the error itself.
///
/// `inner`: both ends of the quoted packet. The quote may end after eight octets of the upper header (RFC 792).
pub(super) fn rewrite_error(
    bytes: &mut [u8],
    ip: &Ip<'_>,
    partial: Option<PartialChecksum>,
    quoted: &Ip<'_>,
    inner: (End, End),
    outer: ([u64; 2], [u64; 2]),
) {
    // What follows the packet is padding, and no part of the quote.
    let packet = &mut bytes[..ip.end];
    let quote = quoted.addresses.at..packet.len().min(quoted.upper + 24);
    let (mut before, mut after) = ([0; QUOTE_BYTES_MAX], [0; QUOTE_BYTES_MAX]);
    before[..quote.len()].copy_from_slice(&packet[quote.clone()]);
    rewrite(packet, quoted, None, inner.0, inner.1);
    after[..quote.len()].copy_from_slice(&packet[quote]);
    let mut inside = Delta::default();
    for (old, new) in before.as_chunks().0.iter().zip(after.as_chunks().0) {
        if old != new {
            inside.replace_wide(*old, *new);
        }
    }
    let pseudo = set_addresses(bytes, ip.addresses, outer.0, outer.1);
    let at = ip.upper + 2;
    let Some(sum) = read_u16(bytes, at) else {
        return;
    };
    let sum = match (ip.proto, is_partial(partial, ip.upper, 2)) {
        (ICMPV6, true) => pseudo.apply_partial(sum),
        (_, true) => sum,
        (ICMPV6, false) => inside.and(pseudo).apply(sum),
        (_, false) => inside.apply(sum),
    };
    write(bytes, at, sum.to_be_bytes());
}

/// Changes both addresses, and the checksum of an IPv4 header; returns what that adds to a pseudo-header.
#[inline(always)]
pub(super) fn set_addresses(
    bytes: &mut [u8],
    before: &Addresses,
    source: [u64; 2],
    destination: [u64; 2],
) -> Delta {
    let (mut delta, at) = (Delta::default(), before.at);
    if before.v6 {
        let words = before.from.into_iter().zip(source);
        let words = words.chain(before.to.into_iter().zip(destination));
        for (at, (old, new)) in (at + 8..).step_by(8).zip(words) {
            delta.replace_long(old, new);
            write(bytes, at, new.to_be_bytes());
        }
        return delta;
    }
    let ends = [
        (at + 12, before.from, source),
        (at + 16, before.to, destination),
    ];
    for (at, [_, old], [_, new]) in ends {
        let ([.., p, q, r, s], [.., a, b, c, d]) = (old.to_be_bytes(), new.to_be_bytes());
        if old != new {
            delta.replace_wide([p, q, r, s], [a, b, c, d]);
            write(bytes, at, [a, b, c, d]);
        }
    }
    if let Some(sum) = read_u16(bytes, at + 10) {
        write(bytes, at + 10, delta.apply(sum).to_be_bytes());
    }
    delta
}

#[inline(always)]
fn set_ports(bytes: &mut [u8], at: usize, source: u16, destination: u16) -> Delta {
    let mut delta = Delta::default();
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    if let Some(old) = read::<4>(bytes, at) {
        delta.replace_wide(old, [a, b, c, d]);
        write(bytes, at, [a, b, c, d]);
    }
    delta
}

/// Returns the changed checksum of a whole segment or datagram; zero in UDP is none, and stays so (RFC 768).
#[inline(always)]
fn transport(proto: u8, before: u16, delta: Delta) -> u16 {
    match (proto, before, delta.apply(before)) {
        (UDP, 0, _) => 0,
        (UDP, _, 0) => 0xffff,
        (_, _, after) => after,
    }
}

/// Whether the sender left the checksum of this header to the device, and not that of one further in.
#[inline(always)]
fn is_partial(partial: Option<PartialChecksum>, upper: usize, field: usize) -> bool {
    partial.is_some_and(|partial| {
        (usize::from(partial.start), usize::from(partial.offset)) == (upper, field)
    })
}

fn checksum_of(proto: u8) -> usize {
    if proto == TCP { 16 } else { 6 }
}

/// Reads the addresses of the packet that an ICMP error quotes.
pub(super) fn quoted_addresses(bytes: &[u8], ip: &Ip<'_>) -> Option<Addresses> {
    let quoted = addresses(bytes.get(..ip.end)?, ip.upper + ICMP_BYTES)?;
    (quoted.v6 == ip.addresses.v6).then_some(quoted)
}

/// Reads the headers of the packet that an ICMP error quotes.
pub(super) fn quoted<'a>(bytes: &[u8], ip: &Ip<'_>, quoted: &'a Addresses) -> Option<Ip<'a>> {
    let quoted = Ip::parse_quoted(bytes.get(..ip.end)?, quoted)?;
    let near = quoted.upper - quoted.addresses.at + 24 <= QUOTE_BYTES_MAX;
    let known = matches!(quoted.proto, TCP | UDP) && !quoted.is_later_fragment();
    (near && known).then_some(quoted)
}

/// The most octets of a quote that change: an IP header with extensions, ports and checksum. A multiple of four.
const QUOTE_BYTES_MAX: usize = 256;
