//! Sockets that show a client's address to a program inside an endpoint.

use std::{
    env,
    fmt::Debug,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{self, Command},
    thread,
    time::{Duration, Instant},
};

use nix::libc;
use overlay_core::plane::{Namespace, NoSource, Platform, PlatformError, PortSpec, SourceKind};
use overlay_linux::{CommandSpec, Linux};
use socket2::Socket;

use super::{
    Outcome, Story,
    node::{Node, pause, spec, succeed},
    say,
};

pub(crate) const STORIES: &[(&str, Story)] = &[
    ("a_program_sees_the_address_of_its_client", seen),
    ("the_programs_own_ways_are_as_before", own_ways),
    ("what_can_be_no_source_is_refused", refused),
    ("a_source_in_use_is_said", in_use),
    ("what_leads_back_is_repaired_and_swept", repaired),
    ("sources_are_bounded", bounded),
    ("a_port_takes_its_sources_along", taken_along),
];

/// With a way out, where this kernel makes one, and an address of IPv6.
fn both(number: u8) -> Outcome<PortSpec> {
    let mut spec = spec(number)?;
    spec.addresses.push(format!("fd00:1::{number}/64").parse()?);
    Ok(spec)
}

/// On ports 80 and 53 of all addresses, tells everybody by which address they came, and sends back what they say.
pub(crate) fn answer() -> Outcome<()> {
    for any in ["0.0.0.0", "::"] {
        let any: std::net::IpAddr = any.parse()?;
        let kind = socket2::Domain::for_address((any, 80).into());
        let stream = Socket::new(kind, socket2::Type::STREAM, None)?;
        let datagrams = Socket::new(kind, socket2::Type::DGRAM, None)?;
        for (socket, port) in [(&stream, 80), (&datagrams, 53)] {
            if any.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&SocketAddr::from((any, port)).into())?;
        }
        stream.listen(16)?;
        let (listener, datagrams) = (TcpListener::from(stream), UdpSocket::from(datagrams));
        thread::Builder::new().spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = thread::Builder::new().spawn(move || echo(stream));
            }
        })?;
        thread::Builder::new().spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((_, from)) = datagrams.recv_from(&mut buffer) {
                let _ = datagrams.send_to(from.to_string().as_bytes(), from);
            }
        })?;
    }
    nix::unistd::pause();
    Ok(())
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    writeln!(stream, "{}", stream.peer_addr()?)?;
    io::copy(&mut stream.try_clone()?, &mut stream).map(drop)
}

/// Starts the program, and waits until it listens.
fn start(node: &mut Node, spec: &PortSpec) -> Outcome<()> {
    let server = CommandSpec::new(env::current_exe()?).args(["part", "answer"]);
    drop(node.linux.start(spec.endpoint, server)?);
    for address in ["10.0.1.2:80", "[fd00:1::2]:80"] {
        let address: SocketAddr = address.parse()?;
        let mut left = 250;
        while spec.addresses.iter().any(|own| own.addr() == address.ip()) {
            let socket = node
                .linux
                .open_stream(spec.endpoint, address.is_ipv6(), None)?;
            match connect(socket, address) {
                Ok(_) => break,
                Err(_) if left > 0 => left -= 1,
                Err(error) => return Err(error.into()),
            }
            pause(20)?;
        }
    }
    Ok(())
}

fn connect(socket: impl Into<Socket>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket.into();
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.set_write_timeout(Some(LIMIT))?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

const LIMIT: Duration = Duration::from_secs(5);

/// What the program says of a connection from `source`.
fn stream(linux: &mut Linux, spec: &PortSpec, source: &str, to: &str) -> Outcome<String> {
    let (source, to): (SocketAddr, SocketAddr) = (source.parse()?, to.parse()?);
    let opened = linux.open_stream(spec.endpoint, source.is_ipv6(), Some(source))?;
    let mut stream = connect(opened, to)?;
    // More than any buffer holds, both ways at once.
    let octets: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut writer = stream.try_clone()?;
    let sent = octets.clone();
    let writing = thread::Builder::new().spawn(move || {
        let written = writer.write_all(&sent);
        written.and_then(|()| writer.shutdown(Shutdown::Write))
    })?;
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard)?;
    writing.join().map_err(|_| "the writer panicked")??;
    let end = heard.iter().position(|octet| *octet == b'\n');
    let said = heard.drain(..=end.ok_or("no line")?).collect::<Vec<_>>();
    assert!(heard == octets, "{} octets came back", heard.len());
    Ok(String::from_utf8(said)?.trim().to_owned())
}

/// What the program says of a datagram from `source`.
fn datagram(linux: &mut Linux, spec: &PortSpec, source: &str, to: &str) -> Outcome<String> {
    let (source, to): (SocketAddr, SocketAddr) = (source.parse()?, to.parse()?);
    let socket = linux.open_datagrams(spec.endpoint, source.is_ipv6(), Some(source))?;
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect(to)?;
    ask(&socket)
}

fn ask(socket: &UdpSocket) -> Outcome<String> {
    socket.send(b"who am I")?;
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8(buffer[..length].to_vec())?)
}

/// That both ways of asking, in both families, see the client, and that nobody's port refuses.
fn check(node: &mut Node, spec: &PortSpec) -> Outcome<()> {
    for (client, own) in CLIENTS {
        for port in [1, 40_000, 65_534, 65_535] {
            let source = format!("{client}:{port}");
            let to = format!("{own}:80");
            assert_eq!(stream(&mut node.linux, spec, &source, &to)?, source);
            if port == 65_535 {
                continue;
            }
            let to = format!("{own}:53");
            assert_eq!(datagram(&mut node.linux, spec, &source, &to)?, source);
        }
        // By a port of the system's choice.
        let source = format!("{client}:0");
        for said in [
            stream(&mut node.linux, spec, &source, &format!("{own}:80"))?,
            datagram(&mut node.linux, spec, &source, &format!("{own}:53"))?,
        ] {
            let said: SocketAddr = said.parse()?;
            assert_eq!(said.ip(), source.parse::<SocketAddr>()?.ip());
            assert_ne!(said.port(), 0);
        }
        let begun = now();
        let nobody = format!("{own}:9");
        let source = format!("{client}:40001");
        for refused in [
            stream(&mut node.linux, spec, &source, &nobody).map_err(code),
            datagram(&mut node.linux, spec, &source, &nobody).map_err(code),
        ] {
            assert_eq!(refused, Err(Some(libc::ECONNREFUSED)), "{client}");
        }
        assert!(begun.elapsed() < LIMIT / 2, "{:?}", begun.elapsed());
    }
    Ok(())
}

const CLIENTS: [(&str, &str); 2] = [
    ("203.0.113.9", "10.0.1.2"),
    ("[2001:db8::9]", "[fd00:1::2]"),
];

#[expect(clippy::disallowed_methods, reason = "real processes run in real time")]
fn now() -> Instant {
    Instant::now()
}

/// The system's number of a failure, or the platform's.
fn code(error: Box<dyn std::error::Error>) -> Option<i32> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.raw_os_error();
    }
    match error.downcast_ref::<PlatformError>() {
        Some(PlatformError::System { code, .. }) => Some(*code),
        _ => None,
    }
}

fn seen() -> Outcome<()> {
    // Without any way out, and with one.
    let (mut node, mut internal) = (Node::new()?, both(2)?);
    internal.way_out = None;
    node.linux.create_port(&internal)?;
    start(&mut node, &internal)?;
    check(&mut node, &internal)?;
    node.linux.remove_port(internal.endpoint)?;
    let spec = both(2)?;
    if !node.make_or_skip(&[&spec])? {
        return Ok(());
    }
    start(&mut node, &spec)?;
    // With a strict look at where packets come from.
    for interface in ["all", "lo", "eth0", "eth1"] {
        let set = format!("echo 1 > /proc/sys/net/ipv4/conf/{interface}/rp_filter");
        let (done, text) = node.run(&spec, &["sh", "-c", &set])?;
        assert!(done, "{text}");
    }
    check(&mut node, &spec)?;
    assert_eq!(node.hears(&spec, "192.0.2.2:7")?, "192.0.2.1");
    Ok(())
}

/// The worst case: the client has the very address that the programs go to.
fn own_ways() -> Outcome<()> {
    let (mut node, spec) = (Node::new()?, both(2)?);
    if !node.make_or_skip(&[&spec])? {
        return Ok(());
    }
    start(&mut node, &spec)?;
    let world: SocketAddr = "192.0.2.2:7".parse()?;
    let client = node.linux.open_stream(spec.endpoint, false, Some(world))?;
    let mut client = connect(client, "10.0.1.2:80".parse()?)?;
    let datagrams =
        node.linux
            .open_datagrams(spec.endpoint, false, Some("192.0.2.2:5000".parse()?))?;
    datagrams.set_nonblocking(false)?;
    datagrams.connect("10.0.1.2:53")?;
    // By the way out, to the very address and port of the client.
    for _ in 0..3 {
        assert_eq!(node.hears(&spec, "192.0.2.2:7")?, "192.0.2.1");
        assert!(node.pings(&spec, "192.0.2.2")?);
        let (_, by) = node.run(
            &spec,
            &[
                "ip",
                "route",
                "get",
                "192.0.2.2",
                "ipproto",
                "udp",
                "dport",
                "5001",
            ],
        )?;
        assert!(by.contains("dev eth1"), "{by}");
        assert_eq!(ask(&datagrams)?, "192.0.2.2:5000");
    }
    // The host, by the way out's bridge, and what it gets from there.
    let mut hop = node.linux.dial(spec.endpoint, 80, LIMIT)?;
    hop.set_read_timeout(Some(LIMIT))?;
    let mut heard = [0; 11];
    hop.read_exact(&mut heard)?;
    assert_eq!(&heard, b"172.18.0.1:");
    let host = UdpSocket::bind("172.18.0.1:0")?;
    host.set_read_timeout(Some(LIMIT))?;
    host.connect("172.18.0.2:53")?;
    assert_eq!(ask(&host)?, host.local_addr()?.to_string());
    // And the client still is one.
    client.write_all(b"!")?;
    let mut heard = [0; 13];
    client.read_exact(&mut heard)?;
    assert_eq!(&heard, b"192.0.2.2:7\n!");
    // It reaches nothing but the endpoint itself.
    let away = node
        .linux
        .open_stream(spec.endpoint, false, Some("203.0.113.9:7".parse()?))?;
    let away = Socket::from(away);
    away.set_nonblocking(false)?;
    let reached = away.connect_timeout(&world.into(), Duration::from_millis(300));
    assert!(reached.is_err());
    Ok(())
}

fn refused() -> Outcome<()> {
    let (mut node, spec) = (Node::new()?, spec(2)?);
    let has_way_out = node.make_or_skip(&[&spec])?;
    let mut check = |source: &str, v6, expected: NoSource| -> Outcome<()> {
        let source: SocketAddr = source.parse()?;
        let stream = node.linux.open_stream(spec.endpoint, v6, Some(source));
        let datagrams = node.linux.open_datagrams(spec.endpoint, v6, Some(source));
        for error in [stream.map(drop), datagrams.map(drop)] {
            let expected = PlatformError::Source {
                address: source,
                reason: expected.clone(),
            };
            assert_eq!(error, Err(expected), "{source}");
        }
        Ok(())
    };
    check("203.0.113.9:7", true, NoSource::Family)?;
    check("[2001:db8::9]:7", false, NoSource::Family)?;
    let kind = SourceKind::Loopback;
    check("127.0.0.1:7", false, NoSource::Kind { kind })?;
    check("10.0.1.2:7", false, NoSource::Own)?;
    if has_way_out {
        check("172.18.0.2:7", false, NoSource::Own)?;
    }
    check("[2001:db8::9]:7", true, NoSource::NoAddress)?;
    // The one port for which the kernel has no rules.
    let last = Some("203.0.113.9:65535".parse()?);
    let last = node.linux.open_datagrams(spec.endpoint, false, last);
    let unsupported = NoSource::Unsupported {
        reason: "no rule leads datagrams to port 65535 back".into(),
    };
    assert!(
        matches!(&last, Err(PlatformError::Source { reason, .. }) if *reason == unsupported),
        "{last:?}"
    );
    let (one, way) = (Some("203.0.113.9:7".parse()?), both(9)?.endpoint);
    let unknown = node.linux.open_stream(way, false, one).map(drop);
    let endpoint = way;
    assert_eq!(unknown, Err(PlatformError::UnknownEndpoint { endpoint }));
    // None of it did anything.
    let (_, rules) = node.run(&spec, &["ip", "rule"])?;
    assert!(!rules.contains("1000:"), "{rules}");
    Ok(())
}

fn in_use() -> Outcome<()> {
    let (mut node, mut spec) = (Node::new()?, both(2)?);
    spec.way_out = None;
    node.linux.create_port(&spec)?;
    start(&mut node, &spec)?;
    for (client, own) in CLIENTS {
        let v6 = own.contains(':');
        let source: SocketAddr = format!("{client}:40000").parse()?;
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(node.linux.open_stream(spec.endpoint, v6, Some(source))?);
        }
        // The same client, to the same port: the second one is told.
        let to: SocketAddr = format!("{own}:80").parse()?;
        let mut streams = streams.into_iter();
        let mut next = || streams.next().ok_or("no more");
        let _first = connect(next()?, to)?;
        let second = connect(next()?, to).map_err(|error| error.raw_os_error());
        assert_eq!(second.map(drop), Err(Some(libc::EADDRNOTAVAIL)));
        // To another one there is nothing against it.
        let third = connect(next()?, format!("{own}:9").parse()?);
        let third = third.map_err(|error| error.raw_os_error());
        assert_eq!(third.map(drop), Err(Some(libc::ECONNREFUSED)));
        // A port on which the program itself listens.
        let source: SocketAddr = format!("{client}:80").parse()?;
        let listening = node.linux.open_stream(spec.endpoint, v6, Some(source));
        let listening = listening.map_err(|error| code(error.into()));
        assert_eq!(listening.map(drop), Err(Some(libc::EADDRINUSE)));
        let source: SocketAddr = format!("{client}:40000").parse()?;
        let _held = node.linux.open_datagrams(spec.endpoint, v6, Some(source))?;
        let again = node.linux.open_datagrams(spec.endpoint, v6, Some(source));
        let again = again.map_err(|error| code(error.into()));
        assert_eq!(again.map(drop), Err(Some(libc::EADDRINUSE)));
    }
    Ok(())
}

/// The rules for sources inside an endpoint.
fn rules(node: &Node, spec: &PortSpec, family: &str, priority: &str) -> Outcome<usize> {
    let (done, text) = node.run(spec, &["ip", family, "rule"])?;
    assert!(done, "{text}");
    let own = text.lines().filter(|line| line.starts_with(priority));
    Ok(own.count())
}

fn repaired() -> Outcome<()> {
    let (mut node, spec) = (Node::new()?, both(2)?);
    node.linux.create_port(&spec)?;
    start(&mut node, &spec)?;
    for _ in 0..2 {
        check(&mut node, &spec)?;
        for family in ["-4", "-6"] {
            let words = ["ip", family, "rule"];
            assert_eq!(rules(&node, &spec, family, "1000:")?, 1);
            for priority in ["1000", "1001"] {
                while node
                    .run(&spec, &[&words[..], &["del", "pref", priority]].concat())?
                    .0
                {}
            }
            let flush = ["ip", family, "route", "flush", "type", "local", "table"];
            let (_, shown) = node.run(&spec, &["ip", family, "route", "show", "table", "all"])?;
            let table = shown.lines().find(|line| line.starts_with("local default"));
            let table = table.and_then(|line| line.split_once("table "));
            let (_, table) = table.ok_or("no table")?;
            let table = table.split(' ').next().ok_or("no table")?;
            let (done, text) = node.run(&spec, &[&flush[..], &[table]].concat())?;
            assert!(done, "{text}");
        }
        let off = "echo 0 > /proc/sys/net/ipv4/tcp_fwmark_accept";
        assert!(node.run(&spec, &["sh", "-c", off])?.0);
    }
    // Sockets that are gone leave no rules for long, and those that are there keep theirs.
    let held = "203.0.113.8:40000".parse()?;
    let held = node
        .linux
        .open_datagrams(spec.endpoint, false, Some(held))?;
    held.set_nonblocking(false)?;
    held.set_read_timeout(Some(LIMIT))?;
    held.connect("10.0.1.2:53")?;
    let mut most = 0;
    for port in 1_001..1_200 {
        let source = SocketAddr::new("203.0.113.9".parse()?, port);
        drop(
            node.linux
                .open_datagrams(spec.endpoint, false, Some(source))?,
        );
        if port % 20 == 0 {
            most = most.max(rules(&node, &spec, "-4", "1001:")?);
        }
    }
    assert!((1..=17).contains(&most), "{most} rules");
    assert_eq!(ask(&held)?, "203.0.113.8:40000");
    Ok(())
}

fn bounded() -> Outcome<()> {
    let (mut node, mut spec) = (Node::new()?, both(2)?);
    spec.way_out = None;
    node.linux.create_port(&spec)?;
    let own = process::id().to_string();
    let raised = Command::new("prlimit")
        .args(["--nofile=4096:4096", "--pid", &own])
        .output();
    if !raised.is_ok_and(|output| output.status.success()) {
        say("SKIPPED: sources_are_bounded: more descriptors are not to be had");
        return Ok(());
    }
    let mut sockets = Vec::new();
    let mut open = |port| -> Outcome<UdpSocket> {
        // Of the other family there are as many to be had, whatever happens here.
        if port % 100 == 0 {
            let other = SocketAddr::new("2001:db8::9".parse()?, port);
            drop(
                node.linux
                    .open_datagrams(spec.endpoint, true, Some(other))?,
            );
        }
        let source = SocketAddr::new("203.0.113.9".parse()?, port);
        Ok(node
            .linux
            .open_datagrams(spec.endpoint, false, Some(source))?)
    };
    for port in 1..=1_024 {
        sockets.push(open(port)?);
    }
    let more = open(2_000).map_err(code).map(drop);
    assert_eq!(more, Err(Some(libc::EMFILE)));
    sockets.truncate(1_000);
    for port in 2_000..2_024 {
        sockets.push(open(port)?);
    }
    assert_eq!(open(3_000).map_err(code).map(drop), Err(Some(libc::EMFILE)));
    Ok(())
}

fn taken_along() -> Outcome<()> {
    // In a namespace of somebody else: a child that sleeps.
    let mut child = Command::new("unshare")
        .args(["-n", "sleep", "60"])
        .spawn()?;
    let path = format!("/proc/{}/ns/net", child.id());
    let own = std::fs::read_link("/proc/self/ns/net")?;
    let mut left = 250;
    while std::fs::read_link(&path)? == own && left > 0 {
        (left, _) = (left - 1, pause(20)?);
    }
    let inside = format!("nsenter -t {} -n", child.id());
    succeed(&format!("{inside} ip link set lo up"))?;
    let everything = || -> Outcome<Vec<String>> {
        let mut all = Vec::new();
        for family in ["-4", "-6"] {
            all.push(succeed(&format!("{inside} ip {family} rule"))?);
            all.push(succeed(&format!(
                "{inside} ip {family} route show table all"
            ))?);
        }
        Ok(all)
    };
    let before = everything()?;
    let (mut node, mut spec) = (Node::new()?, both(2)?);
    spec.namespace = Namespace::Path(path.into());
    spec.way_out = None;
    node.linux.create_port(&spec)?;
    let mut held = Vec::<Box<dyn Debug>>::new();
    for client in ["203.0.113.9:7", "[2001:db8::9]:7"] {
        let source: SocketAddr = client.parse()?;
        let v6 = source.is_ipv6();
        let linux = &mut node.linux;
        held.push(Box::new(linux.open_stream(
            spec.endpoint,
            v6,
            Some(source),
        )?));
        held.push(Box::new(linux.open_datagrams(
            spec.endpoint,
            v6,
            Some(source),
        )?));
    }
    assert_ne!(everything()?, before);
    node.linux.remove_port(spec.endpoint)?;
    assert_eq!(everything()?, before);
    child.kill()?;
    child.wait()?;
    Ok(())
}
