//! Fragmenting IPv4 packets for a path that is narrower than the network (RFC 791 §2.3, §3.2).

use crate::{
    frame::Frame,
    headers::{Headers, Payload},
    stats::DropReason,
    wire::{ethernet, ipv4},
};

/// Octets in the unit of a fragment's offset.
const UNIT: usize = 8;
/// The offset is a number of 13 bits.
const OFFSET_MAX: usize = 0x1fff;
/// An option with this flag belongs into each fragment (RFC 791 §3.1).
const COPIED: u8 = 0x80;
const OPTION_END: u8 = 0;
const OPTION_NONE: u8 = 1;

/// Cuts a frame, whose IPv4 packet may be fragmented, into packets of at most `mtu` octets, tags included, and hands each to
/// `sink` in `scratch`, with [`Frame::HEADROOM`] octets in front.
///
/// The frame is no super-frame and its checksum is complete. If it cannot be cut, `sink` was not called.
pub(crate) fn fragment(
    frame: &Frame,
    scratch: &mut Frame,
    mtu: u16,
    mut sink: impl FnMut(&mut Frame),
) -> Result<(), DropReason> {
    let bytes = frame.bytes();
    let headers = Headers::read(bytes).map_err(|_| DropReason::Malformed)?;
    let at = headers.payload_at;
    let Payload::Ip(ip) = headers.payload else {
        return Err(DropReason::TooBig);
    };
    let whole = ipv4::Packet::new_unchecked(bytes.get(at..).unwrap_or_default());
    let (start, more) = (whole.fragment_offset(), whole.more_fragments());
    let header = bytes.get(..ip.upper_at).unwrap_or_default();
    let payload = bytes.get(ip.upper_at..ip.end).unwrap_or_default();
    let room = usize::from(mtu) + ethernet::HEADER_BYTES;
    let room = room.saturating_sub(header.len()) / UNIT * UNIT;
    if room == 0 || !ip.source.is_ipv4() || ip.dont_fragment {
        return Err(DropReason::TooBig);
    }
    if usize::from(start) + payload.len() / UNIT > OFFSET_MAX {
        return Err(DropReason::Malformed);
    }
    let count = payload.len().div_ceil(room);
    for (nth, chunk) in payload.chunks(room).enumerate() {
        let target = scratch.receive_buffer(Frame::HEADROOM, header.len() + chunk.len());
        let (front, back) = target.split_at_mut(header.len());
        front.copy_from_slice(header);
        back.copy_from_slice(chunk);
        let packet = target.get_mut(at..).unwrap_or_default();
        let total = u16::try_from(packet.len()).map_err(|_| DropReason::Malformed)?;
        let skipped = u16::try_from(nth * room / UNIT).map_err(|_| DropReason::Malformed)?;
        if nth > 0 {
            drop_options(packet.get_mut(ipv4::HEADER_BYTES..ip.upper_at - at));
        }
        let mut packet = ipv4::Packet::new_unchecked(packet);
        packet.set_total_bytes(total);
        packet.set_fragment(start + skipped, more || nth + 1 < count);
        packet.fill_checksum();
        sink(scratch);
    }
    Ok(())
}

/// Puts "no operation" in place of options that only the first fragment has. Options that end behind the header stay.
fn drop_options(options: Option<&mut [u8]>) {
    let mut rest = options.unwrap_or_default();
    while let [kind, tail @ ..] = rest {
        let length = match (*kind, tail.first()) {
            (OPTION_END, _) => return,
            (OPTION_NONE, _) => 1,
            (_, Some(length)) => usize::from(*length),
            (_, None) => return,
        };
        if length == 0 || length > rest.len() || (length < 2 && rest[0] != OPTION_NONE) {
            return;
        }
        let (option, next) = rest.split_at_mut(length);
        if option[0] & COPIED == 0 {
            option.fill(OPTION_NONE);
        }
        rest = next;
    }
}
