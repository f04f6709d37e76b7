//! Clusters with a member that holds the keys and lies: nobody's name or address is taken.

use std::{cell::Cell, collections::BTreeMap, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use cluster::{Cluster, address, name};
use overlay_core::{Instant, Machine, Rng, Seed};
use overlay_gossip::{
    Config, Event, Gossip, Limits, Member, MemberState, StreamId, Timing,
    wire::{
        Accusation, Alive, Message, PushPull, PushPullNode, StreamCodec, StreamMessage, Versions,
    },
};
use overlay_sim::{NetworkConfig, runner};
use proptest::{collection::vec, prelude::*};
use signer::{SPOKEN, Signer, signed};

#[path = "support/cluster.rs"]
#[allow(dead_code, reason = "nobody has rows here")]
mod cluster;
#[path = "support/signer.rs"]
mod signer;

/// One of the members believes everything and passes it on; and everybody is told lies, by datagram and by stream.
#[test]
fn a_traitor_takes_nobody_s_name_or_address() {
    let markers = ["the traitor believed itself", "somebody was accused"];
    let test = "a_traitor_takes_nobody_s_name_or_address";
    runner::seeds_reaching(test, 40, &markers, |number| {
        let mut cluster = signed_cluster(number, 6, Lies::of(TRAITOR));
        cluster.settle(Duration::from_secs(10));
        let before = known(&cluster);
        let mut rng = Seed::from_u64(number).derive("lies").rng();
        for _ in 0..60 {
            let target = rng.index(6).expect("hosts");
            let (victim, lie) = (rng.index(TRAITOR).expect("hosts"), rng.next_u32());
            tell(&mut cluster, target, &lies(victim, lie), &mut rng);
            cluster
                .world
                .run_for(rng.duration(Duration::ZERO..Duration::from_millis(300)));
            assert_eq!(
                known(&cluster),
                before,
                "after a lie of {victim} to {target}"
            );
        }
        let poisoned = cluster.node(TRAITOR).gossip.members();
        let poisoned = poisoned
            .filter(|member| member.address == elsewhere())
            .count()
            > 0;
        runner::sometimes("the traitor believed itself", poisoned);
        for host in 0..TRAITOR {
            let gossip = &cluster.node(host).gossip;
            let stats = gossip.stats();
            runner::sometimes("somebody was accused", stats.downs > 0);
            assert!(stats.claims_refused > 0, "host {host}");
            let mut events = cluster.node(host).events.iter();
            let conflict = |event: &Event| matches!(event, Event::NameConflict { .. });
            assert!(!events.any(|(_, event)| conflict(event)), "host {host}");
        }
        // Left alone, the honest ones agree again.
        cluster.world.crash(cluster.hosts[TRAITOR]);
        cluster.world.run_for(Duration::from_secs(40));
        for host in 0..TRAITOR {
            for member in cluster.node(host).gossip.members() {
                let honest = *member.name != *name(TRAITOR);
                let alive = member.state == MemberState::Alive;
                assert_eq!(alive, honest, "host {host} on {}", member.name);
            }
        }
    });
}

/// Who comes back elsewhere, with a newer signature, is believed by all, and its old address by nobody.
#[test]
fn an_honest_move_passes_everywhere() {
    for quick in [true, false] {
        let test = format!("an_honest_move_passes_everywhere ({quick})");
        runner::seeds(&test, 30, |number| {
            let moves = Lies::of(usize::MAX);
            let mut cluster = signed_cluster(number, 6, moves.clone());
            cluster.settle(Duration::from_secs(10));
            let (mover, old) = (3, address(3));
            let new = SocketAddr::new(old.ip(), 7_950);
            if quick {
                cluster.world.crash(cluster.hosts[mover]);
            } else {
                cluster.world.crash(cluster.hosts[mover]);
                cluster.world.run_for(Duration::from_secs(20)); // long enough to be Down
            }
            moves.generation.set(2);
            cluster.world.restart(cluster.hosts[mover]);
            cluster.settle(Duration::from_secs(15));
            let replay = Message::Alive(Alive {
                incarnation: 1_000,
                node: name(mover),
                address: old,
                meta: signed(&name(mover), old, 1),
                versions: SPOKEN,
            });
            for host in 0..6 {
                let moved = cluster
                    .node(host)
                    .gossip
                    .member(&name(mover))
                    .unwrap()
                    .address;
                assert_eq!(moved, new, "host {host}");
                assert_eq!(cluster.node(host).gossip.stats().claims_refused, 0);
                datagram(&mut cluster, host, &replay);
            }
            cluster.world.run_for(Duration::from_secs(5));
            for host in 0..6 {
                let gossip = &cluster.node(host).gossip;
                let moved = gossip.member(&name(mover)).unwrap().address;
                assert_eq!(moved, new, "host {host}");
                let refused = u64::from(host != mover); // who is meant refutes
                assert_eq!(gossip.stats().claims_refused, refused, "host {host}");
            }
        });
    }
}

/// An accusation of whatever incarnation, told to whomever, is refuted.
#[test]
fn absurd_accusations_are_refuted() {
    runner::seeds("absurd_accusations_are_refuted", 40, |number| {
        let mut cluster = signed_cluster(number, 5, Lies::of(usize::MAX));
        cluster.settle(Duration::from_secs(10));
        let mut rng = Seed::from_u64(number).derive("lies").rng();
        for _ in 0..12 {
            let victim = rng.index(5).expect("hosts");
            let own = cluster.node(victim).gossip.local().incarnation.0;
            let ahead = [0, 1, 1 << 30, (1 << 31) - 1, 1 << 31];
            let accused = rng.index(ahead.len() + 1).map(|at| ahead.get(at));
            let accused = accused
                .flatten()
                .map_or(u32::MAX, |by| own.wrapping_add(*by));
            let accusation = |from: usize| Accusation {
                incarnation: accused,
                node: name(victim),
                from: name(from),
            };
            let message = match rng.below(3) {
                0 => Message::Suspect(accusation(4)),
                1 => Message::Dead(accusation(4)),
                _ => Message::Dead(accusation(victim)),
            };
            let target = rng.index(5).expect("hosts");
            datagram(&mut cluster, target, &message);
        }
        cluster.settle(Duration::from_secs(40));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Whatever a member hears, its roster holds no address that was not verified.
    #[test]
    fn no_address_is_held_that_was_not_verified(
        heard in vec((alive(), 0..6_u8, 0..400_u64), 1..120),
        rate in prop_oneof![Just(3), Just(1_000)],
        members in prop_oneof![Just(2), Just(100)],
    ) {
        let verifier = Arc::new(Signer::default());
        let config = Config {
            timing: Timing { claim_memory: Duration::from_millis(500), ..Timing::quick() },
            limits: Limits {
                claims_per_second_max: rate,
                members_max: members,
                ..Limits::default()
            },
            compress: false,
            meta: signed("a", address(1), 1),
            member_verifier: Some(verifier.clone()),
            ..Config::lan("a", address(1))
        };
        let mut now = Instant::EPOCH;
        let mut gossip = Gossip::new(config, Seed::from_u64(1), now).unwrap();
        for (number, (alive, way, wait)) in (0..).zip(heard) {
            let mut before: BTreeMap<String, Member> = BTreeMap::new();
            before.extend(gossip.members().map(|m| (m.name.to_string(), m.clone())));
            let accusation = Accusation {
                incarnation: alive.incarnation,
                node: alive.node.clone(),
                from: if way == 4 { alive.node.clone() } else { "z".into() },
            };
            match way {
                0..3 => hear(&mut gossip, now, &Message::Alive(alive)),
                3 | 4 => hear(&mut gossip, now, &Message::Dead(accusation)),
                _ => exchange(&mut gossip, now, StreamId::Accepted(number), alive),
            }
            for member in gossip.members().skip(1) {
                prop_assert!(verifier.believed(&member.name, member.address), "{:?}", member);
                let newer = before.get(&*member.name).is_none_or(|b| b.meta[0] <= member.meta[0]);
                prop_assert!(newer, "{:?} was {:?}", member, before.get(&*member.name));
            }
            prop_assert_eq!(gossip.local().address, address(1));
            now += Duration::from_millis(wait);
            gossip.handle_timeout(now);
            while gossip.poll_output().is_some() {}
        }
    }
}

/// Few names and addresses, so that they meet; most are signed, but with what was signed for something else.
fn alive() -> impl Strategy<Value = Alive> {
    let name = || (0..4_usize).prop_map(|at| ["a", "b", "c", "d"][at].to_owned());
    let place = || (1..4_u8).prop_map(|octet| address(usize::from(octet)));
    let meta = prop_oneof![
        3 => Just(None),
        2 => (name(), place(), 0..3_u8).prop_map(|(name, at, generation)| Some(signed(&name, at, generation))),
        1 => vec(any::<u8>(), 0..12).prop_map(Some),
    ];
    let spoken = prop_oneof![
        4 => Just(SPOKEN),
        1 => Just(Versions([1, 5, 2, 0, 1, 0])),
        1 => Just(Versions([1, 5, 2, 9, 9, 9])),
    ];
    let parts = (0..9_u32, name(), place(), 0..3_u8, meta, spoken);
    parts.prop_map(
        |(incarnation, node, address, generation, meta, versions)| Alive {
            meta: meta.unwrap_or_else(|| signed(&node, address, generation)),
            incarnation,
            node,
            address,
            versions,
        },
    )
}

fn hear(gossip: &mut Gossip, now: Instant, message: &Message) {
    let heard = gossip.handle_datagram(now, address(9), &message.encode());
    heard.expect("well-formed");
}

fn exchange(gossip: &mut Gossip, now: Instant, stream: StreamId, alive: Alive) {
    gossip.handle_stream_opened(now, stream, address(9));
    gossip.handle_stream_data(now, stream, &push_pull(alive, 0));
}

/// What a host does otherwise than the others.
#[derive(Clone)]
struct Lies {
    /// Who has no verifier, and no signature that others could check.
    traitor: usize,
    /// How often host 3 was given a new address.
    generation: Rc<Cell<u8>>,
}

impl Lies {
    fn of(traitor: usize) -> Self {
        let generation = Rc::new(Cell::new(1));
        Self {
            traitor,
            generation,
        }
    }
}

fn signed_cluster(number: u64, hosts: usize, lies: Lies) -> Cluster {
    let network = NetworkConfig {
        loss_ppm: 10_000,
        ..NetworkConfig::lan()
    };
    Cluster::new(number, hosts, network, move |config| {
        let generation = lies.generation.get();
        if config.name == name(3) && generation > 1 {
            config.advertise.set_port(7_950);
        }
        let generation = if config.name == name(3) {
            generation
        } else {
            1
        };
        config.meta = signed(&config.name, config.advertise, generation);
        if config.name != name(lies.traitor) {
            config.member_verifier = Some(Arc::new(Signer::default()));
        }
    })
}

/// Names, addresses and meta data, as all but the traitor know them.
fn known(cluster: &Cluster) -> Vec<(String, SocketAddr, Vec<u8>)> {
    let hosts = (0..TRAITOR).map(|host| &cluster.node(host).gossip);
    let members = hosts.flat_map(Gossip::members);
    members
        .map(|member| {
            (
                member.name.to_string(),
                member.address,
                member.meta.to_vec(),
            )
        })
        .collect()
}

/// What a traitor may say of somebody: that it is dead, and then that it is here.
fn lies(victim: usize, lie: u32) -> Vec<Message> {
    let alive = Alive {
        incarnation: lie,
        node: name(victim),
        address: elsewhere(),
        meta: Vec::new(),
        versions: SPOKEN,
    };
    let of = |alive: Alive, meta: Vec<u8>| Message::Alive(Alive { meta, ..alive });
    let dead = Message::Dead(Accusation {
        incarnation: lie.wrapping_sub(1),
        node: name(victim),
        from: name(TRAITOR),
    });
    let meta = signed(&name(victim), address(victim), 1);
    match lie % 5 {
        0 => vec![of(alive, meta)],
        1 => vec![dead, of(alive, signed(&name(TRAITOR), elsewhere(), 1))],
        2 => vec![
            dead,
            of(
                Alive {
                    address: address(TRAITOR),
                    ..alive
                },
                meta,
            ),
        ],
        3 => vec![of(
            Alive {
                address: address(victim),
                ..alive
            },
            b"manager".to_vec(),
        )],
        _ => vec![
            dead,
            of(
                Alive {
                    node: format!("new-{lie}"),
                    ..alive
                },
                meta,
            ),
        ],
    }
}

/// Tells it to one member, by datagrams or in a push/pull.
fn tell(cluster: &mut Cluster, target: usize, messages: &[Message], rng: &mut Rng) {
    for message in messages {
        match message {
            Message::Alive(alive) if rng.chance(400_000) => {
                let stream = StreamId::Accepted(1_000_000 + rng.below(1_000_000));
                let octets = push_pull(alive.clone(), 0);
                cluster.world.with(cluster.hosts[target], |node, now| {
                    node.gossip
                        .handle_stream_opened(now, stream, address(TRAITOR));
                    node.gossip.handle_stream_data(now, stream, &octets);
                });
            }
            message => datagram(cluster, target, message),
        }
    }
}

fn datagram(cluster: &mut Cluster, target: usize, message: &Message) {
    cluster.world.with(cluster.hosts[target], |node, now| {
        let heard = node
            .gossip
            .handle_datagram(now, address(TRAITOR), &message.encode());
        heard.expect("well-formed");
    });
}

fn push_pull(alive: Alive, state: u8) -> Vec<u8> {
    let message = StreamMessage::PushPull(PushPull {
        join: false,
        nodes: vec![PushPullNode { alive, state }],
        user_state: Vec::new(),
    });
    let codec = StreamCodec {
        label: b"",
        keyring: None,
        verify_incoming: true,
        verify_outgoing: true,
        compress: false,
        stream_bytes_max: 1 << 20,
    };
    codec
        .encode(&message, true, [0; 12])
        .expect("a short message")
}

fn elsewhere() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 77], 7_946))
}

const TRAITOR: usize = 5;
