//! IPv4 packets that may be fragmented are, where a path is narrower than the network.

mod lab;

use lab::*;
use overlay_vxlan::{
    Config, DropReason, Frame, NetworkConfig, Offload, Outcome, PartialChecksum, SegmentKind,
    Segmentation,
    wire::{
        checksum::Sum,
        ethernet::EtherType,
        ipv4::{self, Protocol},
        udp,
    },
};

/// Outer octets of the path; inner packets have 50 less.
const PATH: u16 = 1_280;
const MTU: usize = 1_230;

fn lab() -> Lab {
    let config = NetworkConfig {
        vlan_tags: overlay_vxlan::VlanTags::Inspect,
        ..network()
    };
    let mut lab = Lab::with(Config::default(), config);
    lab.switch.set_path_mtu(lab.there.vtep, Some(PATH));
    lab
}

/// A UDP packet without the DF flag, with options in its IPv4 header.
fn packet(from: &Endpoint, to: &Endpoint, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let datagram = udp_datagram((4_000, 5_000), from.v4.into(), to.v4.into(), payload);
    let repr = ipv4::Repr {
        dont_fragment: false,
        ..ipv4_repr(from.v4, to.v4, Protocol::UDP)
    };
    let mut bytes = ipv4_packet(repr, &[options, &datagram].concat());
    bytes[0] += u8::try_from(options.len() / 4).expect("short options");
    ipv4::Packet::new_unchecked(&mut bytes[..]).fill_checksum();
    link(from.mac, to.mac, EtherType::IPV4, &bytes)
}

/// Puts fragments together again; each must be sound and fit. Returns what they carry, from which octet on, and whether
/// more follows.
fn reassembled(sent: &Sent, headers: usize) -> (usize, Vec<u8>, bool) {
    let mut whole = Vec::new();
    let (mut first, mut more) = (None, true);
    for (_, outer, datagram) in &sent.to_vteps {
        assert_eq!(*outer, sent.to_vteps[0].1, "all fragments take one way");
        let bytes = &datagram.bytes()[8 + headers..];
        assert!(bytes.len() + headers - 14 <= MTU);
        let packet = ipv4::Packet::new_checked(bytes).expect("a packet");
        assert!(packet.is_checksum_valid());
        assert!(!packet.dont_fragment());
        assert_eq!((packet.identification(), packet.ttl()), (7, 64));
        assert_eq!(packet.total_bytes(), bytes.len(), "no padding");
        assert!(more, "the last one is the last");
        let at = usize::from(packet.fragment_offset()) * 8;
        let start = *first.get_or_insert(at);
        assert_eq!(at - start, whole.len());
        whole.extend_from_slice(packet.payload());
        more = packet.more_fragments();
    }
    (first.expect("a fragment"), whole, more)
}

#[test]
fn a_packet_that_may_be_fragmented_is() {
    for length in [1_203, 1_204, 1_300, 1_422] {
        let mut lab = lab();
        let payload: Vec<u8> = (0..length).map(|at: u32| at.to_le_bytes()[0]).collect();
        let frame = packet(&lab.here, &lab.there, &[], &payload);
        let (outcome, sent) = lab.send(lab.here.port, &frame);
        assert_eq!(outcome, Outcome::ToVtep);
        assert_eq!(sent.to_vteps.len(), 2);
        assert_eq!(reassembled(&sent, 14), (0, frame[34..].to_vec(), false));
        assert_eq!(lab.switch.stats().to_vteps.frames, 2);
    }
    let mut lab = lab();
    let fits = packet(&lab.here, &lab.there, &[], &[7; 1_202]);
    let (_, sent) = lab.send(lab.here.port, &fits);
    assert_eq!(sent.vtep().2[8..], fits);
    // With padding behind the packet, which is not part of it.
    let mut padded = packet(&lab.here, &lab.there, &[], &[7; 1_400]);
    let expected = padded[34..].to_vec();
    padded.extend([0xee; 9]);
    let (_, sent) = lab.send(lab.here.port, &padded);
    assert_eq!(reassembled(&sent, 14), (0, expected, false));
}

#[test]
fn a_tag_takes_its_room() {
    let mut lab = lab();
    let frame = packet(&lab.here, &lab.there, &[], &[7; 1_400]);
    let (_, sent) = lab.send(lab.here.port, &tagged(&frame, 9));
    assert_eq!(reassembled(&sent, 18), (0, frame[34..].to_vec(), false));
}

#[test]
fn a_fragment_is_cut_further() {
    for (offset, more) in [(0, true), (100, true), (100, false)] {
        let mut lab = lab();
        let mut frame = packet(&lab.here, &lab.there, &[], &[7; 1_400]);
        let flag = if more { 0x20 } else { 0 };
        frame[20..22].copy_from_slice(&[flag, offset]);
        ipv4::Packet::new_unchecked(&mut frame[14..]).fill_checksum();
        let (outcome, sent) = lab.send(lab.here.port, &frame);
        assert_eq!(outcome, Outcome::ToVtep);
        let start = usize::from(offset) * 8;
        assert_eq!(reassembled(&sent, 14), (start, frame[34..].to_vec(), more));
    }
    // It would go on behind the largest packet that there is.
    let mut lab = lab();
    let mut frame = packet(&lab.here, &lab.there, &[], &[7; 1_400]);
    frame[20..22].copy_from_slice(&[0x1f, 0xff]);
    ipv4::Packet::new_unchecked(&mut frame[14..]).fill_checksum();
    let (outcome, sent) = lab.send(lab.here.port, &frame);
    assert_eq!(outcome, Outcome::Dropped(DropReason::Malformed));
    assert!(sent.is_empty());
}

/// RFC 791 §3.1: an option with the copied flag is in each fragment, another one in the first.
#[test]
fn options_are_copied_if_they_say_so() {
    let mut lab = lab();
    let options = [0x94, 4, 1, 2, 1, 7, 3, 4, 0x83, 3, 4, 0];
    let frame = packet(&lab.here, &lab.there, &options, &[7; 1_380]);
    let (_, sent) = lab.send(lab.here.port, &frame);
    let headers: Vec<_> = sent
        .to_vteps
        .iter()
        .map(|(_, _, datagram)| datagram.bytes()[8 + 34..8 + 46].to_vec())
        .collect();
    assert_eq!(headers[0], options);
    assert_eq!(headers[1], [0x94, 4, 1, 2, 1, 1, 1, 1, 0x83, 3, 4, 0]);
    assert_eq!(reassembled(&sent, 14), (0, frame[46..].to_vec(), false));
    // What cannot be walked is left as it is.
    for options in [[7, 1, 0, 0], [7, 200, 0, 0], [1, 1, 1, 7]] {
        let frame = packet(&lab.here, &lab.there, &options, &[7; 1_380]);
        let (_, sent) = lab.send(lab.here.port, &frame);
        for (_, _, datagram) in &sent.to_vteps {
            assert_eq!(datagram.bytes()[8 + 34..8 + 38], options);
        }
    }
}

#[test]
fn checksums_are_complete_before_the_cut() {
    let mut lab = lab();
    let good = packet(&lab.here, &lab.there, &[], &[7; 1_400]);
    let mut partial = good.clone();
    let length = u32::try_from(good.len() - 34).unwrap();
    let (source, destination) = (lab.here.v4.into(), lab.there.v4.into());
    let pseudo = Sum::pseudo_header(source, destination, Protocol::UDP, length).fold();
    partial[40..42].copy_from_slice(&pseudo.to_be_bytes());
    let mut frame = Frame::with_headroom(Frame::HEADROOM, &partial);
    let checksum = PartialChecksum {
        start: 34,
        offset: 6,
    };
    frame.set_offload(Offload {
        checksum: Some(checksum),
        ..Offload::NONE
    });
    let (_, sent) = lab.send_frame(lab.here.port, frame);
    assert_eq!(reassembled(&sent, 14), (0, good[34..].to_vec(), false));
    // Of a super-frame, each datagram is one packet.
    let large = packet(&lab.here, &lab.there, &[], &[7; 4_000]);
    let mut frame = Frame::with_headroom(Frame::HEADROOM, &large);
    frame.set_offload(Offload {
        checksum: Some(checksum),
        segment: Some(Segmentation {
            kind: SegmentKind::Udp,
            size_bytes: 1_400,
            header_bytes: 42,
            ecn: false,
        }),
        validated: false,
    });
    let (outcome, sent) = lab.send_frame(lab.here.port, frame);
    assert_eq!(outcome, Outcome::ToVtep);
    // Two of 1,400 octets in two fragments each, and one of 1,200 in one.
    assert_eq!(sent.to_vteps.len(), 5);
    let last = &sent.to_vteps[4].2.bytes()[8..];
    let datagram = udp::Packet::new_checked(&last[34..]).unwrap();
    assert_eq!(datagram.payload(), [7; 1_200]);
    assert!(datagram.is_checksum_valid(source, destination));
}

/// Who forbids fragments is told, and a network's own MTU is no path.
#[test]
fn others_are_not_cut() {
    let mut lab = lab();
    let told = Outcome::Dropped(DropReason::TooBigAnswered);
    let strict = udp4(&lab.here, &lab.there, &[7; 1_300]);
    assert_eq!(lab.send(lab.here.port, &strict).0, told);
    let v6 = udp6(&lab.here, &lab.there, &[7; 1_300]);
    assert_eq!(lab.send(lab.here.port, &v6).0, told);
    let other = link(
        lab.here.mac,
        lab.there.mac,
        EtherType::EXPERIMENT,
        &[7; 1_231],
    );
    assert_eq!(
        lab.send(lab.here.port, &other).0,
        Outcome::Dropped(DropReason::TooBig)
    );
    let jumbo = packet(&lab.here, &lab.there, &[], &[7; 1_423]);
    assert_eq!(
        lab.send(lab.here.port, &jumbo).0,
        Outcome::Dropped(DropReason::TooBig)
    );
}

#[test]
fn the_place_of_a_fragment_leaves_the_other_flags() {
    for (before, offset, more, after) in [
        ([0x40, 0], 1, true, [0x60, 1]),
        ([0x7f, 0xff], 0, false, [0x40, 0]),
        ([0x80, 0], 0x1fff, true, [0xbf, 0xff]),
        ([0, 0], 0xffff, false, [0x1f, 0xff]),
    ] {
        let mut header = [0; 20];
        header[6..8].copy_from_slice(&before);
        ipv4::Packet::new_unchecked(&mut header[..]).set_fragment(offset, more);
        assert_eq!(header[6..8], after);
    }
}
