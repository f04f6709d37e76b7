//! Scripts of rules and of frames that they are about.

use overlay_fuzz::Script;

use super::{Seed, lb::packet, seed};

const CLIENT: [u8; 4] = [10, 0, 1, 2];
const SERVER: [u8; 4] = [10, 0, 1, 3];

pub(super) fn scripts() -> Vec<Seed> {
    // Denies by default. From 10.0.1.2 to everybody, TCP to port 80; any to any, UDP to port 53; ICMP.
    let rules = |head: u8| {
        let tcp = [0b0000_0010, 1, 2, 0, 80, 0, 80, 0];
        let udp = [0b0000_1011, 53, 0, 53, 0];
        let icmp = [0b0001_0011, 0, 0, 0, 0];
        Script::new().op(&[4, head]).op(&tcp).op(&udp).op(&icmp)
    };
    let out = |script: Script, frame: &[u8]| script.op(&[0]).bytes(frame);
    let tcp = |from, to, ports: [u8; 4], flags| {
        let rest = [0, 0, 0, 7, 0, 0, 0, 9, 0x50, flags, 1, 0, 0, 0, 0, 0];
        packet(from, to, 6, &[&ports[..], &rest, b"data"].concat(), 16)
    };
    let (forth, back) = ([0, 9, 0, 80], [0, 80, 0, 9]);
    let mut exchange = rules(0x13);
    for (there, answer) in [(0x02, 0x12), (0x10, 0x11), (0x11, 0x10)] {
        exchange = out(exchange, &tcp(CLIENT, SERVER, forth, there));
        exchange = out(exchange, &tcp(SERVER, CLIENT, back, answer));
    }
    let datagram = packet(CLIENT, SERVER, 17, b"\0\x09\0\x35\0\x0c\0\0data", 6);
    let reply = packet(SERVER, CLIENT, 17, b"\0\x35\0\x09\0\x0c\0\0data", 6);
    let error = [&[3, 3, 0, 0, 0, 0, 0, 0], &datagram[14..]].concat();
    let error = packet(SERVER, CLIENT, 1, &error, 2);
    let echo = packet(CLIENT, SERVER, 1, &[8, 0, 0, 0, 0, 1, 0, 1], 2);
    let mut first = datagram.clone();
    first[20] = 0x20;
    let mut later = first.clone();
    later[20..22].copy_from_slice(&[0, 1]);
    let datagrams = [&datagram, &reply, &error, &echo];
    let datagrams = datagrams
        .into_iter()
        .fold(rules(0x13), |it, frame| out(it, frame));
    // The same rules again, then none.
    let change = out(rules(0x13), &datagram).op(&[4, 0x10]);
    let change = out(out(change, &datagram), &reply).op(&[4, 0]);
    let settling = rules(0x13).op(&[7, 30]);
    let settling = out(settling, &tcp(SERVER, CLIENT, back, 0x10))
        .op(&[0xf8])
        .bytes(&datagram);
    vec![
        seed("tcp", exchange.done()),
        seed("datagrams", datagrams.done()),
        seed("fragments", out(out(rules(0x13), &first), &later).done()),
        seed("change", out(change, &reply).done()),
        seed("settling", settling.done()),
        seed("lenient", out(rules(0x03), &datagram).done()),
        seed("explain", rules(0x13).op(&[6, 1, 2, 3, 80, 0]).done()),
    ]
}
