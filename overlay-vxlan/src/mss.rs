//! Clamping the maximum segment size that TCP announces, for paths on which ICMP errors get lost.

use std::net::IpAddr;

use crate::{
    frame::Frame,
    headers::{Headers, Payload},
    wire::{
        ethernet,
        ipv4::{self, Protocol},
        ipv6,
        tcp::{self, Flags},
    },
};

/// Lowers the maximum segment size option of a SYN to what fits packets of `mtu` octets, tags included (RFC 9293 §3.7.1).
///
/// A SYN without the option announces 536 or 1,220 octets, which fits all but the smallest paths, and is left alone.
pub(crate) fn clamp(frame: &mut Frame, headers: &Headers, mtu: u16) {
    let Payload::Ip(ip) = &headers.payload else {
        return;
    };
    if ip.protocol != Protocol::TCP || ip.fragment.is_some() {
        return;
    }
    let ip_bytes = match ip.source {
        IpAddr::V4(_) => ipv4::HEADER_BYTES,
        IpAddr::V6(_) => ipv6::HEADER_BYTES,
    };
    let tag_bytes = headers.payload_at - ethernet::HEADER_BYTES;
    let max = usize::from(mtu).saturating_sub(tag_bytes + ip_bytes + tcp::HEADER_BYTES);
    let max = u16::try_from(max).unwrap_or(u16::MAX);
    // The field of a partial checksum sums up the pseudo-header only, which stays.
    let is_complete = frame.offload().checksum.is_none_or(|partial| {
        usize::from(partial.start) + usize::from(partial.offset) != ip.upper_at + tcp::CHECKSUM
    });
    let segment = frame.bytes_mut().get_mut(ip.upper_at..ip.end);
    let Ok(mut segment) = tcp::Packet::new_checked(segment.unwrap_or_default()) else {
        return;
    };
    if segment.flags().contains(Flags::SYN) && segment.mss().is_some_and(|mss| mss > max) {
        segment.set_mss(max, is_complete);
    }
}
