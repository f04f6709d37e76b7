//! Frames that only a program makes which wants to be somebody else, one by one.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use overlay_linux::plane::Drops;

use crate::net::{Outcome, World, has, mac, say};

/// What a frame is dropped for, if it is.
type Expected = Option<&'static str>;

pub(crate) fn each() -> Outcome<()> {
    if !has("python3") {
        say("SKIPPED: frames made by hand: no python3 to send them");
        return Ok(());
    }
    let mut world = World::new(false)?;
    let program = world.folder.path().join("send.py");
    fs::write(&program, SEND)?;
    crate::net::eventually(|| world.reaches(1, 3).is_ok(), "a reply")?;
    each_of(&mut world, &program, frames())?;
    for network in world.hosts[0].desired.networks.values_mut() {
        network.vlan_tags = true;
    }
    world.apply(0)?;
    each_of(&mut world, &program, carried())
}

fn each_of(
    world: &mut World,
    program: &Path,
    frames: Vec<(&'static str, Vec<u8>, Expected)>,
) -> Outcome<()> {
    for (name, frame, expected) in frames {
        let before = world.hosts[0].plane.kernel().drops()?;
        let digits: String = frame.iter().map(|octet| format!("{octet:02x}")).collect();
        world.inside(1, &format!("python3 {} {digits}", program.display()))?;
        let after = world.hosts[0].plane.kernel().drops()?;
        let more = after
            .iter()
            .filter(|(reason, count)| Some(*count) != before.get(*reason));
        let more: Drops = more.map(|(reason, count)| (*reason, *count)).collect();
        let reasons: Vec<_> = more.keys().copied().collect();
        assert_eq!(reasons, Vec::from_iter(expected), "{name}");
    }
    Ok(())
}

/// Where VLANs are carried; only a frame in one is not looked into.
fn carried() -> Vec<(&'static str, Vec<u8>, Expected)> {
    let (own, other) = ([10, 0, 1, 1], [10, 0, 1, 2]);
    let tagged = |kind: [u8; 2], tag: u8, frame: Vec<u8>| {
        let mut tagged = frame;
        tagged.splice(12..12, [kind[0], kind[1], 0xe0, tag]);
        tagged
    };
    let (vlan, service) = ([0x81, 0], [0x88, 0xa8]);
    let mut foreign = tagged(vlan, 5, ipv4(other, [10, 7, 0, 1]));
    foreign[6..12].copy_from_slice(&octets(2));
    vec![
        ("in a VLAN", tagged(vlan, 5, ipv4(other, own)), None),
        (
            "in a service VLAN",
            tagged(service, 5, ipv4(other, own)),
            None,
        ),
        ("by another's MAC address", foreign, Some("source_mac")),
        (
            "with a priority",
            tagged(vlan, 0, ipv4(other, own)),
            Some("vlan_tag"),
        ),
        (
            "with its priority",
            tagged(service, 0, ipv4(own, other)),
            Some("vlan_tag"),
        ),
        ("without a tag", ipv4(other, own), Some("source_address")),
    ]
}

#[expect(clippy::too_many_lines, reason = "one entry for each frame")]
fn frames() -> Vec<(&'static str, Vec<u8>, Expected)> {
    let (own, other) = ([10, 0, 1, 1], [10, 0, 1, 2]);
    let (own6, other6) = ("fd00:1::1", "fd00:1::2");
    let local = "fe80::42:aff:fe00:101";
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let spoofed = Some("source_address");
    let link = |kind, mac| [&[kind, 1], &octets(mac)[..]].concat();
    let advertise = |target, options: &[u8]| nd(own6, other6, 136, target, options);
    vec![
        ("a packet", ipv4(own, other), None),
        ("to a group", ipv4(own, [224, 0, 0, 5]), None),
        ("to all", ipv4(own, [255; 4]), None),
        ("from elsewhere", ipv4(other, own), spoofed),
        (
            "to elsewhere",
            ipv4(own, [10, 7, 0, 1]),
            Some("foreign_address"),
        ),
        (
            "a tag",
            ethernet([0x81, 0], &[0, 1, 8, 0, 69]),
            Some("vlan_tag"),
        ),
        (
            "a service tag",
            ethernet([0x88, 0xa8], &[0, 1]),
            Some("vlan_tag"),
        ),
        ("anything else", ethernet([0x88, 0xb5], &[1, 2, 3]), None),
        ("spanning tree", reserved(), Some("reserved_group")),
        ("a question", arp(1, 1, own, [0, 1]), None),
        ("a probe", arp(1, 1, [0; 4], [0, 1]), None),
        ("an answer of nobody", arp(1, 2, [0; 4], [0, 1]), spoofed),
        ("another's answer", arp(1, 2, other, [0, 1]), spoofed),
        ("another's MAC address", arp(2, 2, own, [0, 1]), spoofed),
        ("no Ethernet", arp(1, 1, own, [0, 6]), Some("malformed")),
        (
            "a solicitation",
            nd(own6, other6, 135, other6, &link(1, 1)),
            None,
        ),
        (
            "by another's MAC address",
            nd(own6, other6, 135, other6, &link(1, 2)),
            spoofed,
        ),
        (
            "from the link-local one",
            nd(local, other6, 135, other6, &link(1, 1)),
            None,
        ),
        (
            "a detection",
            nd("::", "ff02::1:ff00:1", 135, own6, &nonce),
            None,
        ),
        (
            "a detection of one",
            nd("::", other6, 135, own6, &nonce),
            spoofed,
        ),
        ("an advertisement", advertise(own6, &link(2, 1)), None),
        ("without an option", advertise(own6, &[]), None),
        ("of the link-local one", advertise(local, &link(2, 1)), None),
        (
            "of another's address",
            advertise(other6, &link(2, 1)),
            spoofed,
        ),
        (
            "of another's MAC address",
            advertise(own6, &link(2, 2)),
            spoofed,
        ),
        (
            "behind a nonce",
            advertise(own6, &[&nonce[..], &link(2, 2)].concat()),
            Some("malformed"),
        ),
        (
            "a router",
            nd(local, "ff02::1", 134, own6, &[]),
            Some("router_message"),
        ),
        (
            "a redirect",
            nd(local, other6, 137, own6, &[]),
            Some("router_message"),
        ),
        ("an echo", nd(own6, other6, 128, own6, &[]), None),
        (
            "from elsewhere, IPv6",
            nd(other6, own6, 128, own6, &[]),
            spoofed,
        ),
        (
            "to elsewhere, IPv6",
            nd(own6, "fd00:7::1", 128, own6, &[]),
            Some("foreign_address"),
        ),
        ("behind another header", hidden(), Some("malformed")),
    ]
}

fn octets(number: u8) -> [u8; 6] {
    mac(number).octets()
}

/// To endpoint 2, from endpoint 1.
fn ethernet(kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = [&octets(2)[..], &octets(1), &kind, payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

fn reserved() -> Vec<u8> {
    let mut frame = ethernet([0, 39], &[0x42, 0x42, 3]);
    frame[..6].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, 0]);
    frame
}

fn ipv4(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source);
    packet.extend(destination);
    let sum: u32 = packet
        .chunks(2)
        .map(|two| u32::from(two[0]) << 8 | u32::from(two[1]))
        .sum();
    let sum = !(sum % 0xffff) & 0xffff;
    packet[10..12].copy_from_slice(&sum.to_be_bytes()[2..]);
    packet.extend([0, 9, 0, 9, 0, 8, 0, 0]);
    let mut frame = ethernet([8, 0], &packet);
    match Ipv4Addr::from(destination) {
        group if group.is_multicast() => frame[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 5]),
        all if all.is_broadcast() => frame[..6].copy_from_slice(&[0xff; 6]),
        _ => {}
    }
    frame
}

fn arp(sender: u8, operation: u8, address: [u8; 4], kind: [u8; 2]) -> Vec<u8> {
    let head = [kind[0], kind[1], 8, 0, 6, 4, 0, operation];
    let asked = [&[0; 6], &[10, 0, 1, 2][..]].concat();
    ethernet(
        [8, 6],
        &[&head, &octets(sender)[..], &address, &asked].concat(),
    )
}

/// A message of ICMPv6 with a target.
fn nd(source: &str, destination: &str, kind: u8, target: &str, options: &[u8]) -> Vec<u8> {
    let message = [&[kind, 0, 0, 0, 0, 0, 0, 0], &v6(target)[..], options].concat();
    ethernet([0x86, 0xdd], &ipv6(source, destination, 58, &message))
}

/// An advertisement of another's address behind a header of destination options.
fn hidden() -> Vec<u8> {
    let message = [&[136, 0, 0, 0, 0, 0, 0, 0], &v6("fd00:1::2")[..]].concat();
    let message = [&[58, 0, 1, 4, 0, 0, 0, 0], &message[..]].concat();
    ethernet([0x86, 0xdd], &ipv6("fd00:1::1", "fd00:1::2", 60, &message))
}

fn ipv6(source: &str, destination: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
    let head = [0x60, 0, 0, 0, 0, length, next, 255];
    [&head, &v6(source)[..], &v6(destination), payload].concat()
}

fn v6(address: &str) -> [u8; 16] {
    let address: Ipv6Addr = address.parse().unwrap_or(Ipv6Addr::UNSPECIFIED);
    address.octets()
}

const SEND: &str = "\
import socket, sys
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
packets.bind(('eth0', 0))
packets.send(bytes.fromhex(sys.argv[1]))
";
