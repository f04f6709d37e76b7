//! Who on a network may reach whom, with real packets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
};

use ipnet::IpNet;
use overlay_core::{
    NetworkId, Vni,
    plane::{AddressMatch, FlowMatch, NetworkPolicy, PolicyRule, TrafficMatch, Verdict},
};
use overlay_linux::plane::{Refused, SwitchNamespace, can_filter, port_name};

use crate::flows::{
    Flood, address, asks, connection, connects, datagrams, gets_through, hears, pings, silent,
    talks,
};
use crate::net::{
    OWN_INDEX, Outcome, World, endpoint, eventually, has, inside_of, mac, pause, run, say,
};

pub(crate) fn denied() -> Outcome<()> {
    let Some(mut world) = ready()? else {
        return Ok(());
    };
    let http = TrafficMatch::Tcp {
        first: 80,
        last: 81,
    };
    let dns = TrafficMatch::Udp {
        first: 53,
        last: 53,
    };
    let allowed = rule(
        &[1],
        &[3],
        vec![http, dns, TrafficMatch::Icmp],
        Verdict::Allow,
    )?;
    set(&mut world, Verdict::Deny, vec![allowed])?;
    for v6 in [false, true] {
        let to = address(3, v6)?;
        gets_through(&world, (1, to), "an allowed ping")?;
        assert!(pings(&world, 1, to, "-c 1 -s 4000"), "fragments");
        for (from, to) in [(3, 1), (1, 2), (2, 1), (1, 4), (2, 3)] {
            let to = address(to, v6)?;
            assert!(!hears(&world, from, to), "{from} reaches {to}");
        }
        for (from, to, port, expected) in [
            (1, 3, 79, false),
            (1, 3, 80, true),
            (1, 3, 81, true),
            (1, 3, 82, false),
            (2, 3, 80, false),
            (3, 1, 80, false),
            (1, 4, 80, false),
        ] {
            assert_eq!(
                connects(&world, (from, to), port, v6, expected)?,
                expected,
                "{from} to {to}:{port}"
            );
        }
        for (from, to, port, expected) in [(1, 3, 53, true), (1, 3, 54, false), (3, 1, 53, false)] {
            assert_eq!(
                asks(&world, from, to, port, v6)?,
                expected,
                "{from} to {to}:{port}"
            );
        }
        told(&world, to)?;
    }
    let drops = world.hosts[0].plane.kernel().drops()?;
    assert!(
        drops.get("policy").is_some_and(|count| *count > 20),
        "{drops:?}"
    );
    let unchanged = world.apply(0)?;
    assert!(
        unchanged.operations.is_empty(),
        "{:?}",
        unchanged.operations
    );
    Ok(())
}

/// Nobody is there: what says so is about an allowed flow.
fn told(world: &World, to: IpAddr) -> Outcome<()> {
    let client = datagrams(world, 1, SocketAddr::new(address(1, to.is_ipv6())?, 0))?;
    client.connect((to, 53))?;
    let refused = || {
        let sent = client.send(b"?");
        let heard = client.recv(&mut [0; 8]);
        let errors = [sent.err(), heard.err()].into_iter().flatten();
        errors
            .into_iter()
            .any(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    eventually(refused, "a datagram to a closed port is refused")?;
    Ok(())
}

pub(crate) fn changed() -> Outcome<()> {
    let Some(mut world) = ready()? else {
        return Ok(());
    };
    let http = || {
        vec![TrafficMatch::Tcp {
            first: 80,
            last: 80,
        }]
    };
    let (client, server) = connection(&world, 1, 3, 80)?;
    talks(&client, &server)?;
    // A flow from before the first rules is not known.
    set(
        &mut world,
        Verdict::Deny,
        vec![rule(&[1], &[3], http(), Verdict::Allow)?],
    )?;
    silent(&client, &server)?;
    silent(&server, &client)?;
    let (client, server) = connection(&world, 1, 3, 80)?;
    talks(&client, &server)?;
    talks(&server, &client)?;
    for policy in [
        (Verdict::Deny, Vec::new()),
        (
            Verdict::Allow,
            vec![rule(&[1], &[3], http(), Verdict::Deny)?],
        ),
        // Whoever opened it decides.
        (
            Verdict::Deny,
            vec![rule(&[3], &[1], vec![TrafficMatch::Any], Verdict::Allow)?],
        ),
    ] {
        set(&mut world, policy.0, policy.1)?;
        silent(&client, &server)?;
        silent(&server, &client)?;
        // And it goes on when it is allowed again.
        set(
            &mut world,
            Verdict::Deny,
            vec![rule(&[1], &[3], http(), Verdict::Allow)?],
        )?;
        talks(&server, &client)?;
        talks(&client, &server)?;
    }
    // Replies are no rule's matter.
    let both = rule(&[3], &[1], vec![TrafficMatch::Any], Verdict::Deny)?;
    set(&mut world, Verdict::Allow, vec![both])?;
    talks(&client, &server)?;
    talks(&server, &client)?;
    assert!(!connects(&world, (3, 1), 80, false, false)?);
    set(&mut world, Verdict::Allow, Vec::new())?;
    talks(&client, &server)?;
    assert!(connects(&world, (3, 1), 80, false, true)?);
    Ok(())
}

/// Datagrams go to who must not get them for as long as rules are replaced, and to who may.
pub(crate) fn replaced() -> Outcome<()> {
    let Some(mut world) = ready()? else {
        return Ok(());
    };
    let dns = vec![TrafficMatch::Udp {
        first: 53,
        last: 53,
    }];
    for default in [Verdict::Deny, Verdict::Allow] {
        let rules = |at: u8| -> Outcome<Vec<PolicyRule>> {
            // Numbers and places differ each time.
            let mut rules = Vec::new();
            for one in 0..at % 7 {
                let port = u16::from(at) + u16::from(one);
                let carried = vec![TrafficMatch::Udp {
                    first: 100 + port,
                    last: 200 + port,
                }];
                rules.push(rule(&[1, 2 + one % 3], &[1 + at % 4], carried, default)?);
            }
            rules.push(rule(&[1], &[3], dns.clone(), Verdict::Allow)?);
            rules.push(rule(&[1], &[2, 3], vec![TrafficMatch::Any], Verdict::Deny)?);
            Ok(rules)
        };
        set(&mut world, default, rules(0)?)?;
        // Of what goes to another node, that one would drop what passes here.
        let denied = Flood::start(&world, 1, 2, 9)?;
        let allowed = Flood::start(&world, 1, 3, 53)?;
        eventually(|| allowed.received() > 0, "what is allowed")?;
        for at in 1..=100 {
            set(&mut world, default, rules(at)?)?;
        }
        let sent = denied.sent();
        eventually(|| denied.sent() > sent, "another one")?;
        let before = allowed.received();
        eventually(
            || allowed.received() > before,
            "what is allowed is there still",
        )?;
        pause(100);
        let (sent, received) = denied.stop()?;
        assert!(sent > 100, "{sent}");
        allowed.stop()?;
        assert_eq!(received, 0, "of {sent}, under {default:?}");
    }
    Ok(())
}

#[expect(clippy::too_many_lines, reason = "one entry for each damage")]
pub(crate) fn damaged() -> Outcome<()> {
    let Some(mut world) = ready()? else {
        return Ok(());
    };
    let ping = || vec![TrafficMatch::Icmp];
    for default in [Verdict::Deny, Verdict::Allow] {
        let allowed = rule(&[1], &[3, 2], ping(), Verdict::Allow)?;
        let denied = rule(&[3], &[1], ping(), Verdict::Deny)?;
        set(&mut world, default, vec![allowed, denied])?;
        let (to, from) = (address(3, false)?, address(1, false)?);
        gets_through(&world, (1, to), "an allowed ping")?;
        assert!(!hears(&world, 3, from));
        let listed = world.in_switch(0, "nft list table inet overlay_policy")?;
        let versioned = |what: &str| -> Outcome<String> {
            let found = listed
                .split_whitespace()
                .find(|word| word.starts_with(what));
            Ok(found.ok_or("no such set")?.to_owned())
        };
        for (damage, passes) in [
            ("nft flush ruleset".to_owned(), true),
            ("nft delete table inet overlay_policy".to_owned(), false),
            ("nft flush chain inet overlay_policy pass".to_owned(), false),
            (
                "nft flush chain inet overlay_policy judge".to_owned(),
                false,
            ),
            (
                "nft delete element inet overlay_policy networks {ovb4097}".to_owned(),
                false,
            ),
            (
                "nft flush chain bridge overlay_plane judged".to_owned(),
                true,
            ),
            (
                "nft flush chain bridge overlay_plane unjudged".to_owned(),
                true,
            ),
            (
                format!(
                    "nft flush map inet overlay_policy {}",
                    versioned("decide_4097_")?
                ),
                false,
            ),
            (
                format!(
                    "nft flush map inet overlay_policy {}",
                    versioned("to4_4097_")?
                ),
                default == Verdict::Allow,
            ),
            (
                format!(
                    "nft flush map inet overlay_policy {}",
                    versioned("pairs_4097_")?
                ),
                default == Verdict::Allow,
            ),
            ("nft flush map inet overlay_policy zones".to_owned(), true),
            (
                "ip link set ovb4097 type bridge nf_call_iptables 0".to_owned(),
                false,
            ),
            (
                "ip link set ovb4097 type bridge nf_call_ip6tables 0".to_owned(),
                true,
            ),
        ] {
            let words = damage.as_str();
            if default == Verdict::Allow && !words.contains("flush map") {
                continue;
            }
            world.in_switch(0, words)?;
            match passes {
                true => gets_through(&world, (1, to), words)?,
                false => assert!(!hears(&world, 1, to), "{words}, default {default:?}"),
            }
            assert_ne!(world.plan(0)?, Vec::<String>::new(), "{words}");
            let report = world.apply(0)?;
            assert!(report.repairs > 0, "{words}");
            assert_eq!(world.plan(0)?, Vec::<String>::new(), "{words}");
            gets_through(&world, (1, to), words)?;
            assert!(!hears(&world, 3, from), "{words}");
        }
    }
    // Without rules nothing of it is there.
    set(&mut world, Verdict::Allow, Vec::new())?;
    let ruleset = world.in_switch(0, "nft list ruleset")?;
    for word in [
        "policy accept;\n\t\tct",
        "overlay_policy",
        "policed",
        "judged",
        "drop_policy",
    ] {
        assert!(!ruleset.contains(word), "{word}: {ruleset}");
    }
    let bridge = world.in_switch(0, "ip -d link show ovb4097")?;
    assert!(
        bridge.contains("nf_call_iptables 0 nf_call_ip6tables 0"),
        "{bridge}"
    );
    world.reaches(3, 1)
}

/// Random rules and flows: packets get where the rules say that they do.
pub(crate) fn compared() -> Outcome<()> {
    let Some(mut world) = ready()? else {
        return Ok(());
    };
    let mut random = Random(0x0123_4567_89ab_cdef);
    let mut sockets = Vec::new();
    for number in 1..=4 {
        for v6 in [false, true] {
            for port in PORTS {
                let at = SocketAddr::new(address(number, v6)?, port);
                sockets.push((at, datagrams(&world, number, at)?));
            }
        }
    }
    let (mut passed, mut dropped) = (0, 0);
    for _ in 0..40 {
        let (default, rules) = random.policy()?;
        set(&mut world, default, rules.clone())?;
        let policy = NetworkPolicy { default, rules };
        let mut expected = std::collections::BTreeSet::new();
        let mut flows = 0_u32;
        for from in 1..=4 {
            for (to, _) in &sockets {
                let source = address(from, to.is_ipv6())?;
                if source == to.ip() || random.below(3) > 0 {
                    continue;
                }
                let client = datagrams(&world, from, SocketAddr::new(source, 0))?;
                let flow = FlowMatch {
                    from: source,
                    to: to.ip(),
                    protocol: 17,
                    port: to.port(),
                };
                if policy.decide(&flow).0 == Verdict::Allow {
                    expected.insert((client.local_addr()?, *to));
                }
                client.send_to(b"?", *to)?;
                flows += 1;
            }
        }
        let mut heard = std::collections::BTreeSet::new();
        let mut listen = || {
            for (to, socket) in &sockets {
                while let Ok((_, from)) = socket.recv_from(&mut [0; 8]) {
                    heard.insert((from, *to));
                }
            }
            heard.is_superset(&expected)
        };
        eventually(&mut listen, "all that is allowed")?;
        pause(20);
        listen();
        assert_eq!(heard, expected, "{policy:?}");
        passed += expected.len();
        dropped += flows as usize - expected.len();
    }
    // Neither is the exception.
    assert!(
        passed > 100 && dropped > 100,
        "{passed} passed, {dropped} did not"
    );
    Ok(())
}

#[expect(clippy::too_many_lines, reason = "a network is made by hand")]
/// Two networks of the same addresses: a flow of one is none of the other.
pub(crate) fn twins() -> Outcome<()> {
    let Some(mut world) = ready()? else {
        return Ok(());
    };
    let dns = vec![TrafficMatch::Udp {
        first: 53,
        last: 53,
    }];
    let rules = vec![rule(&[1], &[2], dns, Verdict::Allow)?];
    let host = &mut world.hosts[0];
    let mut twin = host
        .desired
        .networks
        .values()
        .next()
        .ok_or("no network")?
        .clone();
    twin.vni = Vni::new(4098).ok_or("no VNI")?;
    twin.remotes.clear();
    let ports = std::mem::take(&mut twin.ports);
    let others = ports
        .into_iter()
        .zip([11, 12])
        .map(|((_, port), number)| (endpoint(number), port));
    twin.ports = others.collect();
    host.desired
        .networks
        .insert(NetworkId::from_bytes([2; 16]), twin);
    let mut inside = Vec::new();
    for number in [1, 2] {
        let path = world.folder.path().join(format!("twin{number}"));
        let namespace = SwitchNamespace::open(path)?;
        let (port, switch) = (
            port_name(endpoint(10 + number)),
            world.hosts[0].switch.display(),
        );
        let address = mac(number);
        for words in [
            format!(
                "ip link add eth0 index {OWN_INDEX} address {address} mtu 1450 type veth peer name {port} netns {switch}"
            ),
            format!("ip addr add 10.0.1.{number}/24 dev eth0"),
            "ip link set eth0 up".to_owned(),
        ] {
            run(&namespace, &words)?;
        }
        inside.push(namespace);
    }
    for network in world.hosts[0].desired.networks.values_mut() {
        network.policy = NetworkPolicy {
            default: Verdict::Deny,
            rules: rules.clone(),
        };
    }
    world.apply(0)?;
    let [one, two] = [(1, 5_000), (2, 53)].map(|(number, port)| -> Outcome<SocketAddr> {
        Ok(SocketAddr::new(address(number, false)?, port))
    });
    let (one, two) = (one?, two?);
    let (client, server) = (datagrams(&world, 1, one)?, datagrams(&world, 2, two)?);
    let bind = |namespace, at| -> Outcome<UdpSocket> {
        let socket = inside_of(namespace, move || Ok(UdpSocket::bind(at)?))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let (other_client, other_server) = (bind(&inside[0], one)?, bind(&inside[1], two)?);
    let sends = |from: &UdpSocket, to: &UdpSocket| {
        let _ = from.send_to(b"?", to.local_addr().unwrap_or(one));
        pause(20);
        to.recv_from(&mut [0; 8]).is_ok()
    };
    eventually(|| sends(&client, &server), "a question")?;
    assert!(sends(&server, &client), "an answer");
    for _ in 0..5 {
        assert!(
            !sends(&other_server, &other_client),
            "an answer to another's question"
        );
    }
    eventually(
        || sends(&other_client, &other_server),
        "the other's question",
    )?;
    assert!(sends(&other_server, &other_client), "the other's answer");
    Ok(())
}

/// To many goes what a rule says, also in fragments, and nobody waits for an answer.
pub(crate) fn groups() -> Outcome<()> {
    let Some(mut world) = ready()? else {
        return Ok(());
    };
    let group = Ipv4Addr::new(239, 1, 1, 1);
    let to = SocketAddr::new(group.into(), 5_353);
    let own = |number: u8| Ipv4Addr::new(10, 0, 1, number);
    let client = datagrams(&world, 1, SocketAddr::new(own(1).into(), 5_000))?;
    socket2::SockRef::from(&client).set_multicast_if_v4(&own(1))?;
    let members = [2, 3].map(|number| -> Outcome<UdpSocket> {
        let member = datagrams(&world, number, SocketAddr::new([0; 4].into(), 5_353))?;
        member.join_multicast_v4(&group, &own(number))?;
        Ok(member)
    });
    let [near, far] = members;
    let members = [near?, far?];
    let heard = |octets: usize| {
        let _ = client.send_to(&vec![0; octets], to);
        pause(20);
        let heard = |member: &UdpSocket| {
            member
                .recv(&mut [0; 8_192])
                .is_ok_and(|heard| heard == octets)
        };
        members.iter().filter(|member| heard(member)).count()
    };
    eventually(|| heard(1) == 2, "a group")?;
    let mdns = vec![TrafficMatch::Udp {
        first: 5_353,
        last: 5_353,
    }];
    let to_group = |net: &str| -> Outcome<PolicyRule> {
        Ok(PolicyRule {
            to: [net.parse::<IpNet>()?].into_iter().collect(),
            ..rule(&[1], &[], mdns.clone(), Verdict::Allow)?
        })
    };
    set(
        &mut world,
        Verdict::Deny,
        vec![
            to_group("239.1.1.2/32")?,
            rule(&[1], &[2, 3], mdns.clone(), Verdict::Allow)?,
        ],
    )?;
    assert_eq!((heard(1), heard(4_000)), (0, 0));
    set(&mut world, Verdict::Deny, vec![to_group("239.0.0.0/8")?])?;
    eventually(|| heard(1) == 2, "a group that is allowed")?;
    eventually(|| heard(4_000) == 2, "fragments to a group")?;
    for member in &members {
        member.send_to(b"!", client.local_addr()?)?;
    }
    pause(100);
    assert!(
        client.recv(&mut [0; 8]).is_err(),
        "an answer to what went to many"
    );
    Ok(())
}

/// An error about a flow is its receiver's to send, and nobody else's.
pub(crate) fn errors() -> Outcome<()> {
    let Some(mut world) = ready()? else {
        return Ok(());
    };
    if !has("python3") {
        say("SKIPPED: errors made by hand: no python3 to send them");
        return Ok(());
    }
    let dns = vec![TrafficMatch::Udp {
        first: 53,
        last: 53,
    }];
    set(
        &mut world,
        Verdict::Deny,
        vec![rule(&[1], &[3], dns, Verdict::Allow)?],
    )?;
    let server = datagrams(&world, 3, SocketAddr::new(address(3, false)?, 53))?;
    let client = datagrams(&world, 1, SocketAddr::new(address(1, false)?, 0))?;
    client.connect(server.local_addr()?)?;
    let asks = || client.send(b"?").is_ok() && server.recv_from(&mut [0; 8]).is_ok();
    eventually(asks, "a question")?;
    let port = client.local_addr()?.port();
    let error = |from: u8| -> Outcome<bool> {
        let program = world.folder.path().join("error.py");
        std::fs::write(&program, ERROR)?;
        world.inside(from, &format!("python3 {} {port}", program.display()))?;
        pause(100);
        let heard = client.recv(&mut [0; 8]).err().map(|error| error.kind());
        Ok(heard == Some(io::ErrorKind::ConnectionRefused))
    };
    assert!(!error(2)?, "an error of somebody else");
    assert!(error(3)?, "an error of the receiver");
    assert!(!error(4)?, "an error of somebody else");
    Ok(())
}

/// Port unreachable, about a datagram of 10.0.1.1 from the port that is named to 10.0.1.3, port 53.
const ERROR: &str = "\
import socket, struct, sys
quoted = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 29, 0, 0, 64, 17, 0,
    socket.inet_aton('10.0.1.1'), socket.inet_aton('10.0.1.3'))
quoted += struct.pack('!HHHHB', int(sys.argv[1]), 53, 9, 0, 63)
def message(check):
    return struct.pack('!BBHI', 3, 3, check, 0) + quoted
octets = message(0) + bytes(len(message(0)) % 2)
total = sum(struct.unpack('!%dH' % (len(octets) // 2), octets))
total = (total & 0xffff) + (total >> 16)
total = (total & 0xffff) + (total >> 16)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
raw.sendto(message(~total & 0xffff), ('10.0.1.1', 0))
";

pub(crate) fn refused() -> Outcome<()> {
    let Some(mut world) = ready()? else {
        return Ok(());
    };
    let any = AddressMatch::Any;
    let rules = (0..2_000_u32).map(|at| {
        let one: AddressMatch = [IpAddr::from((at * 2).to_be_bytes())].into_iter().collect();
        let (from, to) = if at % 2 == 0 {
            (any.clone(), one)
        } else {
            (one, any.clone())
        };
        PolicyRule {
            name: String::new(),
            from,
            to,
            traffic: vec![TrafficMatch::Icmp],
            verdict: Verdict::Allow,
        }
    });
    for network in world.hosts[0].desired.networks.values_mut() {
        network.policy = NetworkPolicy {
            default: Verdict::Deny,
            rules: rules.clone().collect(),
        };
    }
    let report = world.apply(0)?;
    assert!(
        matches!(report.refused.as_slice(), [(_, Refused::Policy { .. })]),
        "{:?}",
        report.refused
    );
    let links = world.in_switch(0, "ip -o link")?;
    assert!(
        !links.contains("ovb4097") && !links.contains("ovx4097"),
        "{links}"
    );
    assert!(!hears(&world, 1, address(2, false)?));
    Ok(())
}

/// As many rules as a large network may have, with both what they take and what they cost said.
pub(crate) fn thousand() -> Outcome<()> {
    let Some(mut world) = ready()? else {
        return Ok(());
    };
    let mut rules = Vec::new();
    for at in 0..1_000_u32 {
        let five = |first: u8| -> AddressMatch {
            let all = (0..5)
                .map(|one| IpAddr::from((u32::from(first) << 24 | (at * 5 + one)).to_be_bytes()));
            all.collect()
        };
        let first = u16::try_from(at)?;
        rules.push(PolicyRule {
            name: format!("{at}"),
            from: five(10),
            to: five(11),
            traffic: vec![TrafficMatch::Tcp {
                first,
                last: first + 100,
            }],
            verdict: Verdict::Allow,
        });
    }
    rules.push(rule(&[1], &[3], vec![TrafficMatch::Icmp], Verdict::Allow)?);
    for host in 0..2 {
        for network in world.hosts[host].desired.networks.values_mut() {
            network.policy = NetworkPolicy {
                default: Verdict::Deny,
                rules: rules.clone(),
            };
        }
        world.apply(host)?;
    }
    assert_eq!(world.plan(0)?, Vec::<String>::new());
    let to = address(3, false)?;
    gets_through(&world, (1, to), "the last rule's ping")?;
    assert!(!hears(&world, 1, address(4, false)?));
    Ok(())
}

/// A world without rules; none where the kernel cannot carry them out.
fn ready() -> Outcome<Option<World>> {
    if let Err(reason) = can_filter() {
        say(&format!("SKIPPED: rules of networks: {reason}"));
        return Ok(None);
    }
    let world = World::new(false)?;
    eventually(|| world.reaches(1, 3).is_ok(), "a reply")?;
    Ok(Some(world))
}

fn set(world: &mut World, default: Verdict, rules: Vec<PolicyRule>) -> Outcome<()> {
    for host in 0..2 {
        for network in world.hosts[host].desired.networks.values_mut() {
            network.policy = NetworkPolicy {
                default,
                rules: rules.clone(),
            };
        }
        let report = world.apply(host)?;
        assert!(report.refused.is_empty(), "{:?}", report.refused);
    }
    Ok(())
}

fn rule(
    from: &[u8],
    to: &[u8],
    traffic: Vec<TrafficMatch>,
    verdict: Verdict,
) -> Outcome<PolicyRule> {
    let all = |numbers: &[u8]| -> Outcome<AddressMatch> {
        let mut all = Vec::new();
        for number in numbers {
            all.extend([address(*number, false)?, address(*number, true)?]);
        }
        Ok(all.into_iter().collect())
    };
    Ok(PolicyRule {
        name: String::new(),
        from: all(from)?,
        to: all(to)?,
        traffic,
        verdict,
    })
}

/// The same numbers every time (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn policy(&mut self) -> Outcome<(Verdict, Vec<PolicyRule>)> {
        let mut rules = Vec::new();
        for _ in 0..self.below(8) {
            let rule = PolicyRule {
                name: String::new(),
                from: self.addresses()?,
                to: self.addresses()?,
                traffic: (0..self.below(3)).map(|_| self.traffic()).collect(),
                verdict: self.verdict(),
            };
            rules.push(rule);
        }
        // An open network has no rules to compare.
        rules.push(rule(&[9], &[9], vec![TrafficMatch::Any], Verdict::Deny)?);
        Ok((self.verdict(), rules))
    }

    fn verdict(&mut self) -> Verdict {
        if self.below(2) == 0 {
            Verdict::Allow
        } else {
            Verdict::Deny
        }
    }

    fn addresses(&mut self) -> Outcome<AddressMatch> {
        let nets = [
            "10.0.1.0/31",
            "10.0.1.2/31",
            "10.0.1.3/32",
            "10.0.1.1/32",
            "10.0.1.4/30",
            "10.0.1.0/24",
        ];
        let others = [
            "fd00:1::/127",
            "fd00:1::2/127",
            "fd00:1::4/128",
            "fd00:1::/64",
            "fd00:1::1/128",
            "fd00:2::/64",
        ];
        if self.below(4) == 0 {
            return Ok(AddressMatch::Any);
        }
        let mut all = std::collections::BTreeSet::new();
        for _ in 0..self.below(4) {
            let from = if self.below(2) == 0 { nets } else { others };
            let at = usize::try_from(self.below(from.len() as u64))?;
            all.insert(from[at].parse()?);
        }
        Ok(AddressMatch::Of(all))
    }

    fn traffic(&mut self) -> TrafficMatch {
        match self.below(6) {
            0 => TrafficMatch::Any,
            1 => TrafficMatch::Protocol(17),
            2 => TrafficMatch::Tcp {
                first: 0,
                last: u16::MAX,
            },
            3 => TrafficMatch::Udp {
                first: 54,
                last: 53,
            },
            4 => TrafficMatch::Udp {
                first: 53,
                last: 1_000,
            },
            _ => TrafficMatch::Udp {
                first: 1_001,
                last: u16::MAX,
            },
        }
    }
}

const PORTS: [u16; 5] = [52, 53, 1_000, 1_001, 65_535];
