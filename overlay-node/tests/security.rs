//! What is secret changes in time, and whoever is removed is out.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    rc::Rc,
    time::Duration,
};

use overlay_core::{NodeId, Seed};
use overlay_gossip::MemberState;
use overlay_node::{
    api::{
        ClusterUpdate, EndpointInfo, IssuedTokenInfo, NamedPort, NetworkCreate, PolicyChange,
        Protocol, Request, Response, RuleSpec, ServiceSpec, TaskSpec, TokenCreate, Verdict,
    },
    identity::{NextAuthority, ca_digest},
    sim::{Cluster, Options},
    state::{Secret, SharedKeys},
};
use overlay_sim::{HostId, NetworkConfig, TraceKind};

/// Types of records (RFC 1035 §3.2.2, RFC 2782).
const A: u8 = 1;
const PTR: u8 = 12;
const SRV: u8 = 33;

#[test]
fn keys_change_by_their_age_whoever_leads_and_nobody_is_left_behind() {
    let mut cluster = made(1, 4, 3);
    let seconds = |cluster: &mut Cluster, seconds| {
        for _ in 0..seconds {
            cluster.run_for(Duration::from_secs(1));
        }
    };
    rotate_every(&mut cluster, 10);
    let began = keys(&cluster);
    // Leaders change more often than keys do.
    for _ in 0..8 {
        let leader = HostId(cluster.leader().unwrap());
        cluster
            .world()
            .with(leader, |host, now| host.step_aside(now));
        seconds(&mut cluster, 5);
    }
    let after = keys(&cluster);
    let changes = after.generation - began.generation;
    assert!((3..=4).contains(&changes), "{changes} in 40 s");
    assert!(all_alive(&mut cluster), "{}", cluster.describe());
    // One is away for so long that it knows no key that is left.
    cluster.world().crash(HostId(3));
    seconds(&mut cluster, 45);
    let left = keys(&cluster);
    assert!(left.gossip.iter().all(|key| !after.gossip.contains(key)));
    cluster.world().restart(HostId(3));
    seconds(&mut cluster, 8);
    assert!(all_alive(&mut cluster), "{}", cluster.describe());
    assert_eq!(cluster.quiet_violations(), []);
}

#[test]
fn who_is_removed_knows_no_key_that_is_left_within_seconds() {
    let mut cluster = made(2, 5, 3);
    let before = keys(&cluster);
    let leader = cluster.leader().unwrap();
    // A worker to which words take longer than the leader takes for a change.
    let slow = NetworkConfig {
        delay: Duration::from_millis(400)..Duration::from_millis(500),
        ..cluster.options().network.clone()
    };
    cluster
        .world()
        .set_link(HostId(leader), HostId(3), Some(slow));
    let removed = HostId(4);
    // It hears nothing of it, and goes on as before.
    cluster.world().partition(&[removed]);
    let node = node_of(&mut cluster, removed.0);
    let members: Vec<_> = (0..5).map(|host| node_of(&mut cluster, host)).collect();
    for host in 0..4 {
        assert!(is_member(&mut cluster, host, node), "host{host}");
    }
    let remove = Request::NodeRemove {
        node: node.to_string(),
        force: true,
    };
    cluster.ask(leader, remove).unwrap();
    for _ in 0..500 {
        cluster.run_for(Duration::from_millis(10));
        let all: Vec<_> = (0..4).map(|host| generation(&mut cluster, host)).collect();
        let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!(most - least <= 1, "they understand each other: {all:?}");
    }
    let after = keys(&cluster);
    assert!(after.gossip.iter().all(|key| !before.gossip.contains(key)));
    assert_eq!(after.due, 0);
    cluster.run_for(Duration::from_secs(5));
    for host in 0..4 {
        let members = members.iter().copied();
        let of: Vec<_> = members
            .map(|node| is_member(&mut cluster, host, node))
            .collect();
        assert_eq!(of, [true, true, true, true, false], "host{host}");
    }
    cluster.run_for(Duration::from_secs(20));
    assert_eq!(keys(&cluster), after, "that was it");
    // The others were at one all along.
    for host in 0..4 {
        assert!(!heard_gone(&mut cluster, host, node), "host{host}");
    }
}

fn node_of(cluster: &mut Cluster, host: usize) -> NodeId {
    let host = cluster.world().host(HostId(host)).unwrap();
    host.node().unwrap().config().node
}

fn is_member(cluster: &mut Cluster, host: usize, node: NodeId) -> bool {
    let host = cluster.world().host(HostId(host)).unwrap();
    host.node().unwrap().is_member(node)
}

#[test]
fn tokens_expire_and_let_only_so_many_nodes_in() {
    let mut cluster = made(3, 1, 1);
    let create = |cluster: &mut Cluster, lifetime_ms, uses| -> IssuedTokenInfo {
        let wanted = TokenCreate {
            lifetime_ms,
            uses,
            ..TokenCreate::default()
        };
        let made = cluster.ask(0, Request::TokenCreate(wanted));
        let Ok(Response::Tokens(tokens)) = made else {
            panic!("{made:?}")
        };
        tokens[0].clone()
    };
    let once = create(&mut cluster, None, Some(1));
    let brief = create(&mut cluster, Some(5_000), None);
    assert_ne!(once.token, brief.token);
    let listed = cluster.ask(0, Request::TokenList).unwrap();
    let Response::Tokens(listed) = listed else {
        panic!("{listed:?}")
    };
    let ids = |tokens: &[IssuedTokenInfo]| -> BTreeSet<_> {
        tokens.iter().map(|token| token.id.clone()).collect()
    };
    assert_eq!(ids(&listed), ids(&[once.clone(), brief.clone()]));
    for (lifetime_ms, uses) in [(Some(0), None), (None, Some(0))] {
        let wanted = TokenCreate {
            lifetime_ms,
            uses,
            ..TokenCreate::default()
        };
        cluster.ask(0, Request::TokenCreate(wanted)).unwrap_err();
    }
    let remove = |token: &IssuedTokenInfo| Request::TokenRemove {
        token: token.id.clone(),
    };
    cluster.ask(0, remove(&once)).unwrap();
    cluster.ask(0, remove(&once)).unwrap_err();
}

#[test]
fn an_authority_is_dropped_once_every_node_has_a_certificate_of_the_next_one() {
    let mut cluster = made(4, 4, 3);
    cluster.world().crash(HostId(3));
    let next = NextAuthority {
        certificate: "the next one".to_owned(),
        key: Secret::any(b"its key".to_vec()),
        cross: "cross".to_owned(),
    };
    let rotate = |next: &NextAuthority| Request::AuthorityRotate {
        next: Some(Box::new(next.clone())),
    };
    cluster.ask(0, rotate(&next)).unwrap();
    let other = NextAuthority {
        certificate: "yet another".to_owned(),
        ..next.clone()
    };
    cluster.ask(0, rotate(&other)).unwrap_err();
    cluster.run_for(Duration::from_secs(10));
    let awaited = |cluster: &mut Cluster| {
        let Response::Cluster(info) = cluster.ask(0, Request::ClusterInspect).unwrap() else {
            panic!("no cluster")
        };
        info.next_authority.map(|next| next.awaited.len())
    };
    assert_eq!(awaited(&mut cluster), Some(1), "the one that is away");
    let state = cluster.leader_state().unwrap();
    assert!(state.authorities().eq(["", "the next one"]));
    assert_eq!(state.issuer(), ca_digest("the next one"));
    cluster.world().restart(HostId(3));
    cluster.run_for(Duration::from_secs(10));
    assert_eq!(awaited(&mut cluster), None);
    let state = cluster.leader_state().unwrap();
    assert!(state.authorities().eq(["the next one"]));
    assert_eq!(state.cluster().unwrap().ca_key.expose(), b"its key");
    cluster.ask(0, rotate(&other)).unwrap();
}

#[test]
fn who_has_no_endpoint_on_an_encrypted_network_gets_no_keys_by_saying_that_it_is_there() {
    let mut cluster = made(6, 4, 3);
    let spec = NetworkCreate {
        name: "secret".to_owned(),
        attachable: true,
        options: BTreeMap::from([("encrypted".to_owned(), "true".to_owned())]),
        ..NetworkCreate::default()
    };
    cluster.ask(0, Request::NetworkCreate(spec)).unwrap();
    let attached: Vec<_> = (0..2)
        .map(|host| cluster.attach(host, "secret", &format!("e{host}")).unwrap())
        .collect();
    let network = attached[0].network;
    let addresses: Vec<_> = (0..4).map(|host| address_of(&mut cluster, host)).collect();
    for liar in [2, 3] {
        let world = cluster.world();
        world.with(HostId(liar), |host, now| host.claim_network(now, network));
    }
    cluster.run_for(Duration::from_secs(5));
    for host in [0, 1] {
        let peers = {
            let host = cluster.world().host(HostId(host)).unwrap();
            let desired = host.node().unwrap().desired();
            // They were heard of: what is flooded goes to all that say they are there.
            let vteps = &desired.networks[&network].vteps;
            assert!(addresses[2..].iter().all(|liar| vteps.contains(liar)));
            desired.peers.keys().copied().collect::<Vec<_>>()
        };
        assert_eq!(peers, [addresses[1 - host]], "host{host}");
    }
    // Who gets an endpoint there gets keys.
    cluster.attach(2, "secret", "e2").unwrap();
    cluster.run_for(Duration::from_secs(5));
    let host = cluster.world().host(HostId(0)).unwrap();
    let peers = &host.node().unwrap().desired().peers;
    assert!(peers.keys().eq(&addresses[1..3]), "{peers:?}");
}

fn address_of(cluster: &mut Cluster, host: usize) -> IpAddr {
    let host = cluster.world().host(HostId(host)).unwrap();
    host.node().unwrap().config().address
}

#[test]
fn an_encrypted_network_shows_nothing_and_loses_nothing_while_keys_change() {
    let mut cluster = made(5, 3, 3);
    for (name, encrypted) in [("secret", "true"), ("open", "false")] {
        let spec = NetworkCreate {
            name: name.to_owned(),
            attachable: true,
            options: BTreeMap::from([("encrypted".to_owned(), encrypted.to_owned())]),
            ..NetworkCreate::default()
        };
        cluster.ask(0, Request::NetworkCreate(spec)).unwrap();
    }
    let mut attach = |name| -> Vec<_> {
        let attached = (0..3).map(|host| cluster.attach(host, name, &format!("{name}{host}")));
        attached.map(Result::unwrap).collect()
    };
    let (secret, open) = (attach("secret"), attach("open"));
    cluster.run_for(Duration::from_secs(1));
    // Who sees what is on the wire sees both MAC addresses of a frame beside each other.
    let pairs = |endpoints: &[EndpointInfo]| -> Vec<Vec<u8>> {
        let macs = endpoints.iter().map(|endpoint| endpoint.mac.octets());
        let macs: Vec<_> = macs.collect();
        let each = macs
            .iter()
            .flat_map(|to| macs.iter().map(move |from| (to, from)));
        each.filter(|(to, from)| to != from)
            .map(|(to, from)| [*to, *from].concat())
            .collect()
    };
    let patterns = [pairs(&secret), pairs(&open)];
    let seen = Rc::new(RefCell::new([0, 0]));
    let counts = Rc::clone(&seen);
    cluster.world().observe(move |event| {
        if let TraceKind::Deliver { bytes, .. } = &event.kind {
            for (patterns, count) in patterns.iter().zip(counts.borrow_mut().iter_mut()) {
                let shows = |pattern: &Vec<u8>| bytes.windows(12).any(|part| part == pattern);
                *count += usize::from(patterns.iter().any(shows));
            }
        }
    });
    rotate_every(&mut cluster, 10);
    let before = keys(&cluster).generation;
    for round in 0..200 {
        for endpoints in [&secret, &open] {
            let (from, to) = (round % 3, (round + 1) % 3);
            let began = cluster.now();
            let address = endpoints[to].addresses[0].addr();
            assert!(cluster.ping(from, endpoints[from].id, address));
            let took = cluster.now().duration_since(began);
            assert!(took < Duration::from_millis(500), "round {round}: {took:?}");
        }
        cluster.run_for(Duration::from_millis(300));
    }
    assert!(keys(&cluster).generation >= before + 5);
    let [secret, open] = *seen.borrow();
    assert_eq!(secret, 0, "of {open} that show something");
    assert!(open >= 400, "{open}");
}

#[test]
fn a_network_that_shall_be_encrypted_is_refused_where_it_cannot_be() {
    let mut cluster = made(6, 1, 1);
    let create = |cluster: &mut Cluster, name: &str, options: &[(&str, &str)]| {
        let options = options.iter();
        let options = options.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let spec = NetworkCreate {
            name: name.to_owned(),
            attachable: true,
            options: options.collect(),
            ..NetworkCreate::default()
        };
        cluster.ask(0, Request::NetworkCreate(spec))
    };
    for wrong in ["yes", "1", "TRUE", "off"] {
        create(&mut cluster, "wrong", &[("encrypted", wrong)]).unwrap_err();
    }
    let kernel = [("encrypted", ""), ("data-path", "kernel")];
    create(&mut cluster, "kernel", &kernel).unwrap();
    let refused = cluster.attach(0, "kernel", "one").unwrap_err();
    let reason = "this node carries encrypted networks by user";
    assert!(refused.message.contains(reason), "{refused}");
}

#[test]
fn only_who_a_rule_allows_is_reached_and_only_as_long_as_it_is_there() {
    let mut cluster = made(7, 3, 3);
    closed_network(&mut cluster, "show");
    let ends = attach_all(
        &mut cluster,
        &[("one", 0), ("two", 1), ("three", 2), ("near", 0)],
    );
    let pings = |cluster: &mut Cluster, from: usize, to: usize| {
        let (host, from) = &ends[from];
        cluster.ping(*host, from.id, ends[to].1.addresses[0].addr())
    };
    for (from, to) in [(0, 1), (1, 0), (0, 3)] {
        assert!(!pings(&mut cluster, from, to), "{from} to {to}");
    }
    allow(&mut cluster, "forth", "endpoint:one", "endpoint:two");
    allow(&mut cluster, "near", "endpoint:one", "endpoint:near");
    assert!(pings(&mut cluster, 0, 1), "and the answer comes back");
    assert!(pings(&mut cluster, 0, 3), "on one and the same node");
    for (from, to) in [(1, 0), (3, 0), (0, 2), (2, 1)] {
        assert!(!pings(&mut cluster, from, to), "{from} to {to}");
    }
    // Names are found all the same.
    let found = cluster.resolve(1, ends[1].1.id, "one");
    assert_eq!(found, [ends[0].1.addresses[0].addr()]);
    change(
        &mut cluster,
        PolicyChange::Remove {
            name: "forth".to_owned(),
        },
    );
    assert!(!pings(&mut cluster, 0, 1));
    assert!(pings(&mut cluster, 0, 3));
    let verdict = Verdict::Allow;
    change(&mut cluster, PolicyChange::Default { verdict });
    assert!(pings(&mut cluster, 2, 1));
    cluster.run_for(Duration::from_secs(3));
    assert_eq!(cluster.quiet_violations(), []);
}

/// Of services, their tasks, their ports and their addresses backwards: each is found, or not, as the rules say.
#[test]
fn what_is_hidden_is_found_by_no_kind_of_question() {
    let mut cluster = made(11, 3, 3);
    closed_network(&mut cluster, "hide");
    let ends = attach_all(&mut cluster, &[("one", 0), ("two", 1)]);
    let spec = ServiceSpec {
        name: "web".to_owned(),
        task: TaskSpec {
            command: vec!["forever".to_owned()],
            ..TaskSpec::default()
        },
        networks: vec!["my-net".into()],
        named_ports: vec![NamedPort {
            name: "http".to_owned(),
            target: 80,
            protocol: Protocol::Tcp,
        }],
        ..ServiceSpec::default()
    };
    let created = cluster.ask(0, Request::ServiceCreate(Box::new(spec)));
    assert!(matches!(created, Ok(Response::Services(_))), "{created:?}");
    cluster.run_for(Duration::from_secs(5));
    let state = cluster.leader_state().unwrap();
    let task = state.endpoints().values().find(|end| end.task.is_some());
    let task = task.unwrap().addresses[0].addr();
    let service = state.services().values().next().unwrap();
    let service = service.virtual_addresses.values().flatten().next();
    let service = service.unwrap().addr();
    let backwards = |address: IpAddr| {
        let IpAddr::V4(address) = address else {
            panic!("{address}")
        };
        let [a, b, c, d] = address.octets();
        format!("{d}.{c}.{b}.{a}.in-addr.arpa")
    };
    let questions = [
        ("web".to_owned(), A),
        ("tasks.web".to_owned(), A),
        ("_http._tcp.web".to_owned(), SRV),
        (backwards(task), PTR),
        (backwards(service), PTR),
        (backwards(ends[1].1.addresses[0].addr()), PTR),
        ("two".to_owned(), A),
    ];
    let hidden: Vec<(u8, u16)> = questions
        .iter()
        .map(|(name, kind)| asks(&mut cluster, &ends[0], name, *kind))
        .collect();
    let nowhere = asks(&mut cluster, &ends[0], "9.9.0.10.in-addr.arpa", PTR);
    assert!(
        hidden.iter().all(|(_, records)| *records == 0),
        "{hidden:?}"
    );
    assert_eq!(hidden[3], nowhere, "as what there is not");
    allow(&mut cluster, "web", "endpoint:one", "service:web");
    allow(&mut cluster, "two", "endpoint:one", "endpoint:two");
    cluster.run_for(Duration::from_secs(1));
    for (name, kind) in &questions {
        let (code, records) = asks(&mut cluster, &ends[0], name, *kind);
        assert_eq!((code, records), (0, 1), "{name}");
    }
    let (_, records) = asks(&mut cluster, &ends[1], "web", A);
    assert_eq!(records, 0, "nothing was said of the other one");
}

#[test]
fn a_node_that_restarts_without_managers_lets_pass_what_it_let_pass() {
    let mut cluster = made(8, 4, 3);
    closed_network(&mut cluster, "hide");
    let ends = attach_all(&mut cluster, &[("one", 3), ("two", 3), ("three", 3)]);
    allow(&mut cluster, "forth", "endpoint:one", "endpoint:two");
    cluster.run_for(Duration::from_secs(1));
    let alone = HostId(3);
    cluster.world().partition(&[alone]);
    cluster.world().crash(alone);
    cluster.world().restart(alone);
    cluster.run_for(Duration::from_secs(2));
    let address = |to: usize| ends[to].1.addresses[0].addr();
    for (from, to, reached) in [(0, 1, true), (1, 0, false), (0, 2, false)] {
        let from = ends[from].1.id;
        assert_eq!(cluster.ping(3, from, address(to)), reached, "to {to}");
    }
    assert_eq!(cluster.resolve(3, ends[0].1.id, "two"), [address(1)]);
    assert!(cluster.resolve(3, ends[1].1.id, "one").is_empty());
}

#[test]
fn names_that_may_not_be_reached_do_not_resolve_if_so_asked() {
    let mut cluster = made(9, 3, 3);
    closed_network(&mut cluster, "hide");
    let ends = attach_all(&mut cluster, &[("one", 0), ("two", 1), ("three", 2)]);
    cluster.run_for(Duration::from_secs(1));
    let finds = |cluster: &mut Cluster, from: usize, name: &str| {
        let (host, from) = &ends[from];
        !cluster.resolve(*host, from.id, name).is_empty()
    };
    let seen = |cluster: &mut Cluster, expected: &[(usize, &str)]| {
        for (from, (_, end)) in ends.iter().enumerate() {
            for name in ["one", "two", "three", "none", "two.my-net"] {
                let own = end.name == name.trim_end_matches(".my-net");
                let is_seen = own || expected.contains(&(from, name));
                assert_eq!(finds(cluster, from, name), is_seen, "{from}: {name}");
            }
        }
    };
    seen(&mut cluster, &[]);
    allow(&mut cluster, "forth", "endpoint:one", "endpoint:two");
    cluster.run_for(Duration::from_secs(1));
    seen(&mut cluster, &[(0, "two"), (0, "two.my-net")]);
    // Who comes later is seen, or not, from the start.
    allow(&mut cluster, "late", "endpoint:three", "endpoint:late");
    let late = cluster.attach(1, "my-net", "late").unwrap();
    cluster.run_for(Duration::from_secs(1));
    assert!(finds(&mut cluster, 2, "late"));
    assert!(!finds(&mut cluster, 0, "late"));
    assert!(cluster.resolve(1, late.id, "three").is_empty());
    let detach = Request::Detach {
        endpoint: "late".to_owned(),
    };
    cluster.ask(1, detach).unwrap();
    cluster.run_for(Duration::from_secs(1));
    assert!(!finds(&mut cluster, 2, "late"));
    for name in ["forth", "late"] {
        let name = name.to_owned();
        change(&mut cluster, PolicyChange::Remove { name });
    }
    cluster.run_for(Duration::from_secs(1));
    seen(&mut cluster, &[]);
    let verdict = Verdict::Allow;
    change(&mut cluster, PolicyChange::Default { verdict });
    cluster.run_for(Duration::from_secs(1));
    for (from, name) in [(0, "three"), (1, "one"), (2, "two.my-net")] {
        assert!(finds(&mut cluster, from, name), "{from}: {name}");
    }
}

/// Creates a network on which nobody reaches anybody.
fn closed_network(cluster: &mut Cluster, names: &str) {
    let options = [("policy", "deny"), ("policy-names", names)];
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let spec = NetworkCreate {
        name: "my-net".to_owned(),
        attachable: true,
        options: options.into(),
        ..NetworkCreate::default()
    };
    cluster.ask(0, Request::NetworkCreate(spec)).unwrap();
}

/// Puts a question to an endpoint's resolver; returns the code of the answer and how many records are in it.
fn asks(
    cluster: &mut Cluster,
    (host, end): &(usize, EndpointInfo),
    name: &str,
    kind: u8,
) -> (u8, u16) {
    let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, kind, 0, 1]);
    let answer = cluster.query(*host, end.id, &message).unwrap();
    (answer[3] & 15, u16::from_be_bytes([answer[6], answer[7]]))
}

/// Attaches endpoints to hosts.
fn attach_all(cluster: &mut Cluster, ends: &[(&str, usize)]) -> Vec<(usize, EndpointInfo)> {
    let mut attach = |(name, host): &(&str, usize)| {
        let attached = cluster.attach(*host, "my-net", name);
        (*host, attached.unwrap())
    };
    ends.iter().map(&mut attach).collect()
}

fn allow(cluster: &mut Cluster, name: &str, from: &str, to: &str) {
    let rule = RuleSpec {
        name: name.to_owned(),
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        traffic: vec!["icmp".parse().unwrap()],
        verdict: Verdict::Allow,
    };
    let add = PolicyChange::Add {
        rule,
        before: None,
        replace: false,
    };
    change(cluster, add);
}

/// Changes the policy, and lets every node hear of it.
fn change(cluster: &mut Cluster, change: PolicyChange) {
    let network = "my-net".to_owned();
    let change = Box::new(change);
    let request = Request::PolicyChange { network, change };
    cluster.ask(0, request).unwrap();
    cluster.run_for(Duration::from_millis(500));
}

fn made(seed: u64, hosts: usize, managers: usize) -> Cluster {
    let mut options = Options::new(Seed::from_u64(seed), hosts);
    options.managers = managers;
    let mut cluster = Cluster::new(options);
    assert!(cluster.settle(Duration::from_secs(10)));
    cluster.run_for(Duration::from_secs(3));
    assert!(all_alive(&mut cluster), "{}", cluster.describe());
    cluster
}

fn rotate_every(cluster: &mut Cluster, seconds: u64) {
    let change = ClusterUpdate {
        key_rotation_ms: Some(seconds * 1_000),
        ..ClusterUpdate::default()
    };
    cluster.ask(0, Request::ClusterUpdate(change)).unwrap();
}

fn keys(cluster: &Cluster) -> SharedKeys {
    let state = cluster.leader_state().unwrap();
    state.cluster().unwrap().keys.clone()
}

/// Returns the newest key that a host has.
fn generation(cluster: &mut Cluster, host: usize) -> u64 {
    let host = cluster.world().host(HostId(host)).unwrap();
    let assignment = host.node().unwrap().assignment().unwrap();
    assignment.standing.keys.generation
}

/// Returns whether every host holds every other one alive.
fn all_alive(cluster: &mut Cluster) -> bool {
    let hosts = cluster.options().hosts;
    (0..hosts).all(|host| {
        let host = cluster.world().host(HostId(host)).unwrap();
        let gossip = host.node().and_then(|node| node.gossip());
        gossip.is_some_and(|gossip| {
            let members = gossip.members();
            members
                .filter(|member| member.state == MemberState::Alive)
                .count()
                == hosts
        })
    })
}

/// Returns whether a host holds anybody but `except` for gone.
fn heard_gone(cluster: &mut Cluster, host: usize, except: NodeId) -> bool {
    let host = cluster.world().host(HostId(host)).unwrap();
    let gossip = host.node().unwrap().gossip().unwrap();
    let mut members = gossip.members();
    members.any(|member| member.state != MemberState::Alive && *member.name != *except.to_string())
}
