//! Scripts of frames to a virtual address, and of the replies; headers of the PROXY protocol.

use overlay_fuzz::Script;
use overlay_lb::{
    Protocol,
    proxy::{Header, Relayed, Version},
};

use super::{Seed, seed};

const CLIENT: [u8; 4] = [10, 0, 1, 77];
const VIP: [u8; 4] = [10, 0, 1, 2];
const BACKEND: [u8; 4] = [10, 0, 1, 5];

pub(super) fn scripts() -> Vec<Seed> {
    let out = |script: Script, frame: &[u8]| script.op(&[0]).bytes(frame);
    let back = |script: Script, frame: &[u8]| script.op(&[2]).bytes(frame);
    let ports = |from: u16, to: u16| [from.to_be_bytes(), to.to_be_bytes()].concat();
    let tcp = |from, to, ports: &[u8], flags| {
        let rest = [0, 0, 0, 7, 0, 0, 0, 9, 0x50, flags, 1, 0, 0, 0, 0, 0];
        packet(from, to, 6, &[ports, &rest, b"data"].concat(), 16)
    };
    let udp = |from, to, ports: &[u8]| {
        packet(from, to, 17, &[ports, &[0, 12, 0, 0], b"data"].concat(), 6)
    };
    let (forth, reply) = (ports(40_000, 80), ports(80, 40_000));
    let mut exchange = Script::new();
    for flags in [0x02, 0x10, 0x11] {
        exchange = out(exchange, &tcp(CLIENT, VIP, &forth, flags));
        exchange = back(exchange, &tcp(BACKEND, CLIENT, &reply, flags));
    }
    let sent = udp(CLIENT, BACKEND, &forth);
    let error = [&[3, 3, 0, 0, 0, 0, 0, 0], &sent[14..]].concat();
    let datagrams = out(Script::new(), &udp(CLIENT, VIP, &forth));
    let datagrams = back(datagrams, &udp(BACKEND, CLIENT, &reply));
    let datagrams = back(datagrams, &packet(BACKEND, CLIENT, 1, &error, 2));
    let mut first = udp(CLIENT, VIP, &forth);
    first[20] = 0x20;
    let mut later = first.clone();
    later[20..22].copy_from_slice(&[0, 2]);
    let echo = packet(CLIENT, VIP, 1, &[8, 0, 0, 0, 0, 1, 0, 1, 9, 9], 2);
    vec![
        seed("tcp", exchange.done()),
        seed("udp", datagrams.done()),
        seed("fragments", out(out(Script::new(), &first), &later).done()),
        seed("reordered", out(out(Script::new(), &later), &first).done()),
        seed("echo", out(Script::new(), &echo).done()),
        seed(
            "hairpin",
            out(
                out(Script::new(), &udp(BACKEND, VIP, &forth)),
                &udp(BACKEND, VIP, &reply),
            )
            .done(),
        ),
        seed(
            "nobody",
            out(
                out(Script::new(), &tcp(CLIENT, VIP, &ports(1, 81), 2)),
                &udp(CLIENT, VIP, &ports(1, 81)),
            )
            .done(),
        ),
        seed(
            "late",
            Script::new()
                .op(&[0])
                .bytes(&tcp(CLIENT, VIP, &forth, 0x10))
                .op(&[0xf3])
                .bytes(&[])
                .op(&[0xf0])
                .bytes(&udp(CLIENT, VIP, &forth))
                .done(),
        ),
    ]
}

/// An IPv4 packet in a frame, with right checksums; that of the upper protocol is `field` octets into it.
pub(super) fn packet(from: [u8; 4], to: [u8; 4], proto: u8, upper: &[u8], field: usize) -> Vec<u8> {
    let total = u16::try_from(20 + upper.len()).unwrap_or(u16::MAX);
    let [high, low] = total.to_be_bytes();
    let head = [0x45, 0, high, low, 0, 5, 0, 0, 64, proto, 0, 0];
    let mut header = [&head[..], &from, &to].concat();
    let header_sum = sum(&header);
    header[10..12].copy_from_slice(&header_sum.to_be_bytes());
    let mut upper = upper.to_vec();
    let [high, low] = (total - 20).to_be_bytes();
    let pseudo = [&from[..], &to, &[0, proto, high, low]].concat();
    let upper_sum = match proto {
        1 => sum(&upper),
        _ => sum(&[pseudo, upper.clone()].concat()),
    };
    upper[field..field + 2].copy_from_slice(&upper_sum.to_be_bytes());
    [&[2; 6][..], &[4; 6], &[8, 0], &header, &upper].concat()
}

/// The checksum over octets whose own checksum field is zero.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).expect("it was folded")
}

/// Headers of both versions, with octets of the client behind them.
pub(super) fn headers() -> Vec<Seed> {
    let relayed = |proto, source: &str, destination: &str| {
        let [source, destination] = [source, destination].map(|end| end.parse().expect("an end"));
        Header::Relayed(Relayed::new(proto, source, destination).expect("one family"))
    };
    let v4 = |proto| relayed(proto, "192.0.2.7:56324", "198.51.100.1:443");
    let v6 = |proto| relayed(proto, "[2001:db8::7]:56324", "[2001:db8:1::1]:443");
    let headers = [
        ("tcp4", v4(Protocol::Tcp)),
        ("udp4", v4(Protocol::Udp)),
        ("tcp6", v6(Protocol::Tcp)),
        ("udp6", v6(Protocol::Udp)),
        ("unknown", Header::Unknown),
        ("local", Header::Local),
    ];
    let versions = [("v1", Version::V1), ("v2", Version::V2)];
    let mut seeds: Vec<Seed> = versions
        .into_iter()
        .flat_map(|(prefix, version)| {
            headers.map(|(name, header)| {
                let bytes = [header.emit(version), b"GET /".to_vec()].concat();
                seed(format!("{prefix}-{name}"), bytes)
            })
        })
        .collect();
    let mut tlv = v4(Protocol::Tcp).emit(Version::V2);
    tlv[15] += 5;
    tlv.extend([1, 0, 2, b'h', b'2']);
    seeds.push(seed("v2-tlv", tlv));
    seeds
}
