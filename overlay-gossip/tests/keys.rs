//! Rotations: members whose keys are of different generations, as Docker hands them out: oldest, primary, newest.

use std::time::Duration;

use aead::ring;
use cluster::{Cluster, address, name, network};
use overlay_core::{Instant, Machine, Seed};
use overlay_gossip::{
    Config, Event, Gossip, KEYS_MAX, KeyError, MemberState, Output, StreamId, Timing,
};
use overlay_sim::{NetworkConfig, runner};

#[path = "support/aead.rs"]
mod aead;
#[path = "support/cluster.rs"]
#[allow(dead_code, reason = "nothing is deleted here")]
mod cluster;

#[test]
fn members_one_rotation_apart_understand_each_other_both_ways() {
    for (one, other, heard) in [
        (1, 1, true),
        (1, 2, true),
        (2, 1, true),
        (1, 3, false),
        (3, 1, false),
    ] {
        let (one, other) = (member(1, one), member(2, other));
        assert_eq!(meet(one, other), (heard, heard));
    }
}

#[test]
fn a_member_that_missed_rotations_hears_again_once_it_has_the_keys() {
    let (mut late, today) = (member(1, 1), member(2, 4));
    set(&mut late, 3).unwrap();
    assert_eq!(meet(late, today), (true, true), "one apart again");
}

#[test]
fn keys_are_set_all_or_none() {
    let mut gossip = member(1, 1);
    let before = format!("{gossip:?}");
    let refused = |gossip: &mut Gossip, keys: &[[u8; 16]], primary| {
        gossip.set_keys(Instant::EPOCH, keys, &key(primary))
    };
    let none = refused(&mut gossip, &[], 2);
    assert_eq!(none, Err(KeyError::Unknown));
    let foreign = refused(&mut gossip, &generation(2), 9);
    assert_eq!(foreign, Err(KeyError::Unknown));
    let many: Vec<_> = (0..=16).map(key).collect();
    let full = refused(&mut gossip, &many, 2);
    assert_eq!(full, Err(KeyError::Full { limit: KEYS_MAX }));
    let short = gossip.set_keys(Instant::EPOCH, &[&key(2)[..], &[1; 3]], &key(2));
    assert_eq!(short, Err(KeyError::Length { found: 3 }));
    assert_eq!(format!("{gossip:?}"), before);
    let ring = gossip.keyring().unwrap();
    assert!((1..=3).all(|number| ring.contains(&key(number))) && ring.is_primary(&key(2)));
    set(&mut gossip, 2).unwrap();
    let ring = gossip.keyring().unwrap();
    assert!((2..=4).all(|number| ring.contains(&key(number))) && ring.is_primary(&key(3)));
    assert_eq!(ring.len(), 3, "and not the oldest");
    let config = Config::lan("plain", address(1));
    let mut plain = Gossip::new(config, Seed::from_u64(1), Instant::EPOCH).unwrap();
    assert_eq!(set(&mut plain, 1), Err(KeyError::Plain));
}

/// Rotations reach the members one after the other, and one of them misses each second rotation: nobody is ever taken
/// for gone, and rows go on arriving.
#[test]
fn rotations_at_different_times_are_not_noticed() {
    runner::seeds(
        "rotations_at_different_times_are_not_noticed",
        12,
        |number| {
            let lossy = NetworkConfig {
                loss_ppm: 10_000,
                ..NetworkConfig::lan()
            };
            let mut cluster =
                Cluster::new(number, 4, lossy, |config| config.keyring = Some(keyring(1)));
            for host in 0..4 {
                cluster.join_network(host, network(1));
            }
            cluster.settle(Duration::from_secs(10));
            let mut rng = Seed::from_u64(number).derive("test").rng();
            for rotation in 2..8_u8 {
                let mut order = vec![0, 1, 2, 3];
                rng.shuffle(&mut order);
                for host in order {
                    if host == 3 && rotation % 2 == 0 {
                        // It misses this one, and hears of the next before the others do.
                        continue;
                    }
                    let wait = rng.duration(Duration::ZERO..Duration::from_secs(3));
                    give(&mut cluster, host, rotation);
                    cluster.world.run_for(wait);
                }
                if rotation % 2 == 0 {
                    give(&mut cluster, 3, rotation + 1);
                }
                cluster.put_row(usize::from(rotation) % 4, network(1), rotation, 1);
                cluster.settle(Duration::from_secs(5));
            }
            for host in 0..4 {
                let node = cluster.node(host);
                let down = |event: &Event| matches!(event, Event::MemberDown(_));
                assert!(
                    !node.events.iter().any(|(_, event)| down(event)),
                    "host {host}"
                );
                assert_eq!(node.gossip.stats().malformed, 0, "host {host}");
            }
        },
    );
}

/// Lets two members talk for some seconds; returns whether each took the other for alive.
fn meet(one: Gossip, other: Gossip) -> (bool, bool) {
    let mut members = [one, other];
    let mut now = Instant::EPOCH;
    members[0].join(now, &[address(2)]);
    members[1].join(now, &[address(1)]);
    let back = |id: StreamId| match id {
        StreamId::Dialled(number) => StreamId::Accepted(number),
        StreamId::Accepted(number) => StreamId::Dialled(number),
    };
    while now < Instant::EPOCH + Duration::from_secs(5) {
        for member in &mut members {
            member.handle_timeout(now);
        }
        for at in [0, 1, 0, 1, 0, 1, 0, 1] {
            while let Some(output) = members[at].poll_output() {
                let peer = &mut members[1 - at];
                let from = address(at + 1);
                match output {
                    Output::Datagram { bytes, .. } => drop(peer.handle_datagram(now, from, &bytes)),
                    Output::Dial { stream, .. } => {
                        peer.handle_stream_opened(now, back(stream), from)
                    }
                    Output::StreamSend { stream, bytes } => {
                        peer.handle_stream_data(now, back(stream), &bytes);
                    }
                    Output::StreamClose { stream } => peer.handle_stream_closed(now, back(stream)),
                    Output::Event(_) => {}
                }
            }
        }
        now += Duration::from_millis(50);
    }
    let alive = |gossip: &Gossip, host: usize| {
        let member = gossip.member(&name(host));
        member.is_some_and(|member| member.state == MemberState::Alive)
    };
    (alive(&members[0], 2), alive(&members[1], 1))
}

fn member(host: usize, rotation: u8) -> Gossip {
    let config = Config {
        keyring: Some(keyring(rotation)),
        timing: Timing::quick(),
        ..Config::lan(name(host), address(host))
    };
    let seed = Seed::from_u64(u64::try_from(host).expect("as it is made here"));
    Gossip::new(config, seed, Instant::EPOCH).expect("as it is made here")
}

fn keyring(rotation: u8) -> overlay_gossip::Keyring {
    let keys = generation(rotation);
    let mut ring = ring(&keys[0]);
    ring.replace(&keys, &keys[1]).expect("as it is made here");
    ring
}

fn give(cluster: &mut Cluster, host: usize, rotation: u8) {
    cluster.world.with(cluster.hosts[host], |node, now| {
        let keys = generation(rotation);
        node.gossip
            .set_keys(now, &keys, &keys[1])
            .expect("as it is made here");
    });
}

fn set(gossip: &mut Gossip, rotation: u8) -> Result<(), KeyError> {
    let keys = generation(rotation);
    gossip.set_keys(Instant::EPOCH, &keys, &keys[1])
}

/// Oldest, primary, newest.
fn generation(rotation: u8) -> [[u8; 16]; 3] {
    [rotation, rotation + 1, rotation + 2].map(key)
}

fn key(number: u8) -> [u8; 16] {
    [number; 16]
}
