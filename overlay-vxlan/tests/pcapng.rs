//! Captures are read by Wireshark as they were meant, and by a strict reader of the format.

mod lab;

use std::{process::Command, time::Duration};

use lab::*;
use overlay_vxlan::{
    DropReason, Frame, Offload, PartialChecksum, SegmentKind, Segmentation,
    pcapng::{Captured, Direction, Writer},
};

fn captured(direction: Direction) -> Captured {
    Captured {
        since_epoch: Duration::new(1_700_000_000, 123_456_789),
        direction,
        peer: None,
        dropped: None,
    }
}

/// A file of two networks and four frames.
fn file() -> Vec<u8> {
    let lab = Lab::new();
    let mut out = Vec::new();
    let mut writer = Writer::new(2_000, &mut out);
    let blue = writer.interface("blue", 1_450, &mut out);
    let frame = |bytes: &[u8]| Frame::with_headroom(4, bytes);
    let outbound = Captured {
        peer: Some(vtep(2)),
        ..captured(Direction::Outbound)
    };
    writer.frame(
        blue,
        &outbound,
        &frame(&udp4(&lab.here, &lab.there, b"hello")),
        &mut out,
    );
    // A network that comes later.
    let green = writer.interface("green", 8_950, &mut out);
    let inbound = Captured {
        peer: Some("2001:db8::9".parse().expect("an address")),
        ..captured(Direction::Inbound)
    };
    writer.frame(
        green,
        &inbound,
        &frame(&udp6(&lab.there, &lab.here, b"hello!")),
        &mut out,
    );
    let dropped = Captured {
        dropped: Some(DropReason::FloodRate),
        ..captured(Direction::Outbound)
    };
    let arp = arp_request(&lab.here, lab.there.v4);
    writer.frame(blue, &dropped, &frame(&arp), &mut out);
    let mut large = frame(&udp4(&lab.here, &lab.there, &[7; 5_000]));
    large.set_offload(Offload {
        checksum: Some(PartialChecksum {
            start: 34,
            offset: 6,
        }),
        segment: Some(Segmentation {
            kind: SegmentKind::Udp,
            size_bytes: 1_400,
            header_bytes: 42,
            ecn: false,
        }),
        validated: false,
    });
    writer.frame(blue, &captured(Direction::Outbound), &large, &mut out);
    out
}

/// Walks over the blocks: type and body of each.
fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let number = |bytes: &[u8]| u32::from_le_bytes(*bytes.first_chunk().expect("four octets"));
    let mut blocks = Vec::new();
    while !bytes.is_empty() {
        let length = usize::try_from(number(&bytes[4..])).expect("a length");
        assert_eq!(length % 4, 0);
        let (block, rest) = bytes.split_at(length);
        assert_eq!(number(&block[length - 4..]), number(&block[4..]));
        blocks.push((number(block), block[8..length - 4].to_vec()));
        bytes = rest;
    }
    blocks
}

#[test]
fn each_block_is_as_long_as_it_says() {
    let blocks = blocks(&file());
    let kinds: Vec<_> = blocks.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [0x0a0d_0d0a, 1, 6, 1, 6, 6, 6]);
    assert_eq!(blocks[0].1[..8], [0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0]);
    // Interface, time in nanoseconds, kept and whole length.
    let (_, last) = &blocks[6];
    let number = |at: usize| u32::from_le_bytes(*last[at..].first_chunk().expect("four octets"));
    let time = u64::from(number(4)) << 32 | u64::from(number(8));
    assert_eq!(time, 1_700_000_000_123_456_789);
    assert_eq!((number(0), number(12), number(16)), (0, 2_000, 5_042));
}

#[test]
fn any_length_is_padded_and_cut() {
    for length in 0..70 {
        let mut out = Vec::new();
        let mut writer = Writer::new(50, &mut out);
        let id = writer.interface(&"ä".repeat(600), 1_450, &mut out);
        let bytes: Vec<u8> = (0..length).collect();
        let frame = Frame::with_headroom(0, &bytes);
        let never = Captured {
            since_epoch: Duration::MAX,
            ..captured(Direction::Inbound)
        };
        writer.frame(id, &never, &frame, &mut out);
        let blocks = blocks(&out);
        let body = &blocks[2].1;
        let kept = bytes.len().min(50);
        assert_eq!(body[20..20 + kept], bytes[..kept]);
        // Flags and the end of the options follow the padding.
        assert_eq!(body.len(), 20 + kept.next_multiple_of(4) + 8 + 4);
    }
}

#[test]
fn tshark_reads_what_was_meant() {
    let version = Command::new("tshark").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: there is no tshark");
        return;
    }
    let name = format!("overlay-vxlan-{}.pcapng", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, file()).unwrap();
    let fields = [
        "frame.interface_name",
        "frame.interface_description",
        "frame.time_epoch",
        "frame.packet_flags_direction",
        "frame.comment",
        "frame.cap_len",
        "frame.len",
        "ip.dst",
        "ipv6.dst",
        "arp.dst.proto_ipv4",
    ];
    let mut command = Command::new("tshark");
    command
        .arg("-n")
        .arg("-r")
        .arg(&path)
        .args(["-T", "fields", "-E", "separator=|"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let time = "1700000000.123456789";
    let (outbound, inbound) = ("0x00000002", "0x00000001");
    let expected = [
        format!("blue|MTU 1450|{time}|{outbound}|peer 192.0.2.2|47|47|10.0.1.12||"),
        format!("green|MTU 8950|{time}|{inbound}|peer 2001:db8::9|68|68||fd00:0:0:1::2|"),
        format!("blue|MTU 1450|{time}|{outbound}|dropped: flood_rate|42|42|||10.0.1.12"),
        format!(
            "blue|MTU 1450|{time}|{outbound}|super-frame, to be cut to segments of 1400 octets (Udp),the checksum is yet to be completed|2000|5042|10.0.1.12||"
        ),
    ];
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines, expected);
}
