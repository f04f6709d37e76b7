//! The PROXY protocol, section by section of its specification (HAProxy's `doc/proxy-protocol.txt`, 2020/03/05), and
//! beside another implementation.

use std::net::{IpAddr, SocketAddr};

use overlay_lb::{
    Protocol,
    proxy::{DecodeError, Header, Parsed, Relayed, V1_BYTES_MAX, V2_BYTES_MAX, Version},
};
use ppp::PartialResult;
use proptest::prelude::*;

const SIGNATURE: [u8; 12] = [
    0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a,
];

/// §2.1: the example before an HTTP request.
#[test]
fn the_example_of_version_1() {
    let line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
    let request = [line, &b"GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n"[..]].concat();
    let header = relayed(Protocol::Tcp, "192.168.0.1:56324", "192.168.0.11:443");
    assert_eq!(header.emit(Version::V1), line);
    assert_eq!(
        Header::parse(&request),
        parsed(header, Version::V1, line.len())
    );
}

/// §2.1: the longest lines that a receiver must support.
#[test]
fn the_longest_lines_of_version_1() {
    let most = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let v4 = relayed(
        Protocol::Tcp,
        "255.255.255.255:65535",
        "255.255.255.255:65535",
    );
    let v6 = relayed(
        Protocol::Tcp,
        &format!("[{most}]:65535"),
        &format!("[{most}]:65535"),
    );
    for (header, length) in [(v4, 56), (v6, 104)] {
        let line = header.emit(Version::V1);
        assert_eq!(line.len(), length);
        assert_eq!(Header::parse(&line), parsed(header, Version::V1, length));
    }
    let worst = format!("PROXY UNKNOWN {most} {most} 65535 65535\r\n");
    assert_eq!(worst.len(), V1_BYTES_MAX);
    assert_eq!(
        Header::parse(worst.as_bytes()),
        parsed(Header::Unknown, Version::V1, V1_BYTES_MAX)
    );
    let longer = worst.replace("UNKNOWN ", "UNKNOWN  ");
    let too_long = DecodeError::TooLong { max: V1_BYTES_MAX };
    assert_eq!(Header::parse(longer.as_bytes()), Err(too_long));
    assert_eq!(Header::parse(&longer.as_bytes()[..106]), Ok(None));
    assert_eq!(Header::parse(&longer.as_bytes()[..107]), Err(too_long));
}

/// §2.1: what stands after `UNKNOWN` is ignored, and may be missing.
#[test]
fn unknown_of_version_1() {
    for line in [
        "PROXY UNKNOWN\r\n",
        "PROXY UNKNOWN \r\n",
        "PROXY UNKNOWN a\rb\nc\0\u{e9}\r\n",
    ] {
        assert_eq!(
            Header::parse(line.as_bytes()),
            parsed(Header::Unknown, Version::V1, line.len())
        );
    }
    for header in [
        Header::Unknown,
        Header::Local,
        relayed(Protocol::Udp, "10.0.0.1:1", "10.0.0.2:2"),
    ] {
        assert_eq!(header.emit(Version::V1), b"PROXY UNKNOWN\r\n");
    }
}

/// §2.1: what does not match exactly is refused; where it is, is said.
#[test]
fn malformed_lines_of_version_1() {
    for (line, offset) in [
        ("PROXY TCP5 1.2.3.4 5.6.7.8 9 10\r\n", 6),
        ("PROXY tcp4 1.2.3.4 5.6.7.8 9 10\r\n", 6),
        ("PROXY UNKNOWNS\r\n", 6),
        ("PROXY UNKNOWN\rx", 6),
        ("PROXY \r\n", 6),
        ("PROXY  TCP4 1.2.3.4 5.6.7.8 9 10\r\n", 6),
        ("PROXY TCP4\r\n", 11),
        ("PROXY TCP4  1.2.3.4 5.6.7.8 9 10\r\n", 11),
        ("PROXY TCP4 1.2.3 5.6.7.8 9 10\r\n", 11),
        ("PROXY TCP4 01.2.3.4 5.6.7.8 9 10\r\n", 11),
        ("PROXY TCP4 1.2.3.256 5.6.7.8 9 10\r\n", 11),
        ("PROXY TCP4 ::1 5.6.7.8 9 10\r\n", 11),
        ("PROXY TCP4 1.2.3.4 ::1 9 10\r\n", 19),
        ("PROXY TCP6 1.2.3.4 5.6.7.8 9 10\r\n", 11),
        ("PROXY TCP6 ::1 ::1::2 9 10\r\n", 15),
        ("PROXY TCP6 ::1 fe80::1%1 9 10\r\n", 15),
        ("PROXY TCP6 ::1 ::00001 9 10\r\n", 15),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 +9 10\r\n", 27),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 09 10\r\n", 27),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 65536 10\r\n", 27),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 9 \r\n", 29),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 9\r\n", 29),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 9 10 \r\n", 32),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 9 10 11\r\n", 32),
        // A single CR or LF does not end a line, and is refused at once.
        ("PROXY TCP4 1.2.3.4 5.6.7.8 9 10\n", 31),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 9 10\rx", 31),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\r\n", 29),
    ] {
        assert_eq!(
            Header::parse(line.as_bytes()),
            Err(DecodeError::Line { offset }),
            "{line:?}"
        );
    }
    for (line, other) in [("0", "10"), ("65535", "0")] {
        let line = format!("PROXY TCP4 1.2.3.4 5.6.7.8 {line} {other}\r\n");
        assert!(matches!(Header::parse(line.as_bytes()), Ok(Some(_))));
    }
}

/// §2.1: IPv6 addresses in capitals, shortened or not; mapped ones with dots, as `inet_ntop` writes them, too.
#[test]
fn forms_of_ipv6_addresses_in_version_1() {
    let mapped = relayed(Protocol::Tcp, "[::ffff:1.2.3.4]:1", "[fd00::a]:2");
    assert_eq!(
        mapped.emit(Version::V1),
        b"PROXY TCP6 ::ffff:102:304 fd00::a 1 2\r\n"
    );
    for line in [
        "PROXY TCP6 ::ffff:1.2.3.4 fd00::a 1 2\r\n",
        "PROXY TCP6 ::FFFF:102:304 FD00::A 1 2\r\n",
        "PROXY TCP6 0:0:0:0:0:ffff:0102:0304 fd00:0000:0000:0000:0000:0000:0000:000a 1 2\r\n",
    ] {
        assert_eq!(
            Header::parse(line.as_bytes()),
            parsed(mapped, Version::V1, line.len()),
            "{line:?}"
        );
    }
}

/// §2.2: the layouts, written out.
#[test]
fn the_layouts_of_version_2() {
    let v4 = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb];
    let mut v6 = [0; 36];
    (v6[0], v6[15], v6[16], v6[31]) = (0xfd, 1, 0xfd, 2);
    v6[32..].copy_from_slice(&[0xdc, 0x04, 0x01, 0xbb]);
    let (client, server) = ("192.168.0.1:56324", "192.168.0.11:443");
    let (client6, server6) = ("[fd00::1]:56324", "[fd00::2]:443");
    for (header, command, kind, block) in [
        (Header::Local, 0x20, 0x00, &[][..]),
        (Header::Unknown, 0x21, 0x00, &[]),
        (relayed(Protocol::Tcp, client, server), 0x21, 0x11, &v4),
        (relayed(Protocol::Udp, client, server), 0x21, 0x12, &v4),
        (relayed(Protocol::Tcp, client6, server6), 0x21, 0x21, &v6),
        (relayed(Protocol::Udp, client6, server6), 0x21, 0x22, &v6),
    ] {
        let bytes = binary(command, kind, block);
        assert_eq!(header.emit(Version::V2), bytes);
        let more = [&bytes, &b"octets of the client"[..]].concat();
        assert_eq!(
            Header::parse(&more),
            parsed(header, Version::V2, bytes.len())
        );
    }
}

/// §2.2: what is longer than the addresses is stepped over, whatever it is.
#[test]
fn tlvs_of_version_2_are_stepped_over() {
    let header = relayed(Protocol::Tcp, "1.2.3.4:1", "5.6.7.8:2");
    let addresses = [1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2];
    // ALPN; NOOP; one whose length goes beyond the header.
    for tlvs in [
        &[1, 0, 2, b'h', b'2'][..],
        &[4, 0, 0],
        &[0x20, 0xff, 0xff],
        &[0],
    ] {
        let bytes = binary(0x21, 0x11, &[&addresses, tlvs].concat());
        assert_eq!(
            Header::parse(&bytes),
            parsed(header, Version::V2, bytes.len())
        );
        let last = bytes.len() - 1;
        assert_eq!(Header::parse(&bytes[..last]), Ok(None));
    }
}

/// §2.2: LOCAL whatever its family is; UNSPEC and UNIX without addresses.
#[test]
fn headers_of_version_2_without_addresses() {
    for (command, kind, length, header) in [
        (0x20, 0x00, 3, Header::Local),
        (0x20, 0x11, 12, Header::Local),
        (0x20, 0x11, 5, Header::Local),
        (0x20, 0xff, 0, Header::Local),
        (0x21, 0x00, 9, Header::Unknown),
        (0x21, 0x01, 0, Header::Unknown),
        (0x21, 0x10, 12, Header::Unknown),
        (0x21, 0x31, 216, Header::Unknown),
        (0x21, 0x32, 220, Header::Unknown),
    ] {
        let bytes = binary(command, kind, &vec![7; length]);
        assert_eq!(
            Header::parse(&bytes),
            parsed(header, Version::V2, 16 + length)
        );
    }
}

/// §2.2: what is not assigned is refused, as soon as it is there.
#[test]
fn malformed_headers_of_version_2() {
    for (command, kind, length, error) in [
        (0x11, 0x11, 12, DecodeError::Version { found: 1 }),
        (0x31, 0x11, 12, DecodeError::Version { found: 3 }),
        (0x22, 0x11, 12, DecodeError::Command { found: 2 }),
        (0x2f, 0x11, 12, DecodeError::Command { found: 15 }),
        (0x21, 0x41, 12, DecodeError::Family { found: 4 }),
        (0x21, 0x13, 12, DecodeError::Transport { found: 3 }),
        (0x21, 0x11, 11, short(12, 11)),
        (0x21, 0x22, 35, short(36, 35)),
        (0x21, 0x31, 215, short(216, 215)),
    ] {
        let bytes = binary(command, kind, &vec![0; length]);
        assert_eq!(Header::parse(&bytes), Err(error));
        // No octet of the addresses is awaited before.
        assert_eq!(Header::parse(&bytes[..16]), Err(error));
    }
    for (length, expected) in [
        (V2_BYTES_MAX - 16, Ok(None)),
        (
            V2_BYTES_MAX - 15,
            Err(DecodeError::TooLong { max: V2_BYTES_MAX }),
        ),
        (65_535, Err(DecodeError::TooLong { max: V2_BYTES_MAX })),
    ] {
        let head = &binary(0x21, 0x11, &vec![0; length])[..16];
        assert_eq!(Header::parse(head), expected);
    }
}

/// §2.2: who sends something else is found out by the first octet that differs.
#[test]
fn other_protocols_are_refused_at_once() {
    assert_eq!(Header::parse(b""), Ok(None));
    for prefix in [&SIGNATURE[..], b"PROXY "] {
        for end in 0..prefix.len() {
            assert_eq!(Header::parse(&prefix[..end]), Ok(None));
            let mut wrong = prefix[..=end].to_vec();
            wrong[end] ^= 0x20;
            assert_eq!(Header::parse(&wrong), Err(DecodeError::Signature));
        }
    }
    assert_eq!(
        Header::parse(b"GET / HTTP/1.1\r\n"),
        Err(DecodeError::Signature)
    );
}

#[test]
fn ends_of_two_families_are_refused() {
    let (v4, v6) = (
        "10.0.0.1:1".parse().unwrap(),
        "[::ffff:10.0.0.2]:2".parse().unwrap(),
    );
    for (source, destination) in [(v4, v6), (v6, v4)] {
        let error = Relayed::new(Protocol::Tcp, source, destination).unwrap_err();
        assert_eq!((error.client, error.destination), (source, destination));
    }
}

#[test]
fn scopes_are_left_out() {
    let scoped: SocketAddr = "[fe80::1%7]:1".parse().unwrap();
    let relayed = Relayed::new(Protocol::Tcp, scoped, scoped).unwrap();
    assert_eq!(relayed.source(), "[fe80::1]:1".parse().unwrap());
    assert_eq!(relayed.destination(), relayed.source());
    assert_eq!(relayed.proto(), Protocol::Tcp);
}

proptest! {
    /// All prefixes of a header ask for more, the whole is read whatever follows, and both versions are what another
    /// implementation takes them for.
    #[test]
    fn what_is_emitted_is_parsed(header in headers(), rest in any::<[u8; 4]>()) {
        for version in [Version::V1, Version::V2] {
            let bytes = header.emit(version);
            for end in 0..bytes.len() {
                prop_assert_eq!(Header::parse(&bytes[..end]), Ok(None));
            }
            let expected = match header {
                Header::Relayed(relayed) if version == Version::V1 && relayed.proto() == Protocol::Udp => Header::Unknown,
                Header::Local if version == Version::V1 => Header::Unknown,
                header => header,
            };
            let more = [&bytes[..], &rest].concat();
            prop_assert_eq!(Header::parse(&more), parsed(expected, version, bytes.len()));
            prop_assert_eq!(theirs(&more), Some((expected, bytes.len())));
        }
    }

    /// Near and far from valid: what one prefix refuses, no longer one accepts; what is accepted reads the same again; and
    /// the other implementation accepts it, too.
    #[test]
    fn what_is_not_a_header_is_refused(bytes in damaged()) {
        let mut last = Ok(None);
        for end in 0..=bytes.len() {
            let seen = Header::parse(&bytes[..end]);
            match last {
                Ok(None) => {}
                Ok(Some(_)) => prop_assert_eq!(seen, last),
                Err(_) => prop_assert!(seen.is_err(), "{last:?}, then {seen:?}"),
            }
            last = seen;
        }
        prop_assert!(last != Ok(None) || bytes.len() < V2_BYTES_MAX);
        if let Ok(Some(Parsed { header, version, length })) = last {
            prop_assert_eq!(Header::parse(&bytes[..length]), last);
            let again = header.emit(version);
            prop_assert_eq!(Header::parse(&again), parsed(header, version, again.len()));
            // They look at the family of a LOCAL header and at the addresses of an UNSPEC one; and to them the first CR
            // ends a line, which is UTF-8.
            let line = &bytes[..length.saturating_sub(2)];
            let is_theirs = match version {
                Version::V1 => !line.contains(&b'\r') && std::str::from_utf8(line).is_ok(),
                Version::V2 => header != Header::Local && bytes[13] & 0xf != 0,
            };
            prop_assert!(!is_theirs || theirs(&bytes) == Some((header, length)));
        } else if last.is_err() {
            // To them a number may have a sign.
            let is_ours = bytes.contains(&b'+') || last == Err(DecodeError::TooLong { max: V2_BYTES_MAX });
            prop_assert!(is_ours || theirs(&bytes).is_none(), "{last:?}");
        }
    }
}

fn ends() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = any::<(SocketAddrOf<4>, SocketAddrOf<4>)>();
    let v6 = any::<(SocketAddrOf<16>, SocketAddrOf<16>)>();
    prop_oneof![
        v4.prop_map(|(one, other)| (address(one), address(other))),
        v6.prop_map(|(one, other)| (address(one), address(other))),
    ]
}

type SocketAddrOf<const N: usize> = ([u8; N], u16);

fn address<const N: usize>((octets, port): SocketAddrOf<N>) -> SocketAddr
where
    IpAddr: From<[u8; N]>,
{
    SocketAddr::new(octets.into(), port)
}

fn headers() -> impl Strategy<Value = Header> {
    let proto = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let relayed = (proto, ends()).prop_map(|(proto, (source, destination))| {
        Header::Relayed(Relayed::new(proto, source, destination).expect("one family"))
    });
    prop_oneof![1 => Just(Header::Local), 1 => Just(Header::Unknown), 6 => relayed]
}

/// Headers with some octets changed, left out or added; and octets at random behind a right beginning.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let octet = prop_oneof![
        any::<u8>(),
        prop::sample::select(b"0123456789abcdef:. \r\nTCP46UNKNOWN".to_vec()),
    ];
    let version = prop_oneof![Just(Version::V1), Just(Version::V2)];
    let change = (any::<prop::sample::Index>(), 0..4_u8, octet.clone());
    let changed = (headers(), version, prop::collection::vec(change, 0..4)).prop_map(
        |(header, version, changes)| {
            let mut bytes = header.emit(version);
            for (at, kind, octet) in changes {
                let at = at.index(bytes.len() + 1);
                match kind {
                    0 | 1 if at < bytes.len() => bytes[at] = octet,
                    2 if at < bytes.len() => drop(bytes.remove(at)),
                    _ => bytes.insert(at, octet),
                }
            }
            bytes
        },
    );
    let beginning = prop::sample::select(vec![
        b"".to_vec(),
        b"PROXY TCP4 ".to_vec(),
        b"PROXY UNKNOWN".to_vec(),
        [&SIGNATURE[..], b"\x21\x11\x00"].concat(),
    ]);
    let drawn = (beginning, prop::collection::vec(octet, 0..300))
        .prop_map(|(beginning, rest)| [beginning, rest].concat());
    prop_oneof![changed, drawn]
}

/// What the crate `ppp` reads.
fn theirs(bytes: &[u8]) -> Option<(Header, usize)> {
    let end = |ip: IpAddr, port| SocketAddr::new(ip, port);
    let relayed = |proto, source, destination| {
        let relayed = Relayed::new(proto, source, destination).expect("one family");
        Header::Relayed(relayed)
    };
    match ppp::HeaderResult::parse(bytes) {
        result if result.is_incomplete() => None,
        ppp::HeaderResult::V1(Ok(header)) => {
            let length = header.header.len();
            let header = match header.addresses {
                ppp::v1::Addresses::Unknown => Header::Unknown,
                ppp::v1::Addresses::Tcp4(ends) => relayed(
                    Protocol::Tcp,
                    end(ends.source_address.into(), ends.source_port),
                    end(ends.destination_address.into(), ends.destination_port),
                ),
                ppp::v1::Addresses::Tcp6(ends) => relayed(
                    Protocol::Tcp,
                    end(ends.source_address.into(), ends.source_port),
                    end(ends.destination_address.into(), ends.destination_port),
                ),
            };
            Some((header, length))
        }
        ppp::HeaderResult::V2(Ok(header)) => {
            let length = header.len();
            let proto = match header.protocol {
                ppp::v2::Protocol::Stream => Some(Protocol::Tcp),
                ppp::v2::Protocol::Datagram => Some(Protocol::Udp),
                ppp::v2::Protocol::Unspecified => None,
            };
            let header = match (header.command, header.addresses, proto) {
                (ppp::v2::Command::Local, ..) => Header::Local,
                (_, ppp::v2::Addresses::IPv4(ends), Some(proto)) => relayed(
                    proto,
                    end(ends.source_address.into(), ends.source_port),
                    end(ends.destination_address.into(), ends.destination_port),
                ),
                (_, ppp::v2::Addresses::IPv6(ends), Some(proto)) => relayed(
                    proto,
                    end(ends.source_address.into(), ends.source_port),
                    end(ends.destination_address.into(), ends.destination_port),
                ),
                _ => Header::Unknown,
            };
            Some((header, length))
        }
        _ => None,
    }
}

fn relayed(proto: Protocol, source: &str, destination: &str) -> Header {
    let [source, destination] = [source, destination].map(|end| end.parse().expect("an end"));
    Header::Relayed(Relayed::new(proto, source, destination).expect("one family"))
}

fn parsed(header: Header, version: Version, length: usize) -> Result<Option<Parsed>, DecodeError> {
    Ok(Some(Parsed {
        header,
        version,
        length,
    }))
}

fn binary(command: u8, kind: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len())
        .expect("it is short")
        .to_be_bytes();
    [&SIGNATURE[..], &[command, kind], &length, block].concat()
}

fn short(need: usize, have: usize) -> DecodeError {
    DecodeError::Addresses { need, have }
}
