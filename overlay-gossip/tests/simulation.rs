//! Clusters on virtual time: what SWIM and the tables promise, under faults.

use std::time::Duration;

use cluster::{Cluster, endpoint_id, name, network};
use overlay_core::{Instant, Rng, Seed};
use overlay_gossip::{Event, MemberState};
use overlay_sim::{
    NetworkConfig,
    faults::{Chaos, ChaosConfig, Weights},
    runner,
};

#[path = "support/cluster.rs"]
mod cluster;

/// Anything may happen for a while; then, after quiet, all agree with what the hosts really run.
#[test]
fn clusters_converge_after_chaos() {
    let markers = [
        "a member was declared down",
        "a row was shown again",
        "a former life was outdated",
    ];
    runner::seeds_reaching("clusters_converge_after_chaos", 200, &markers, |number| {
        let seed = Seed::from_u64(number);
        let mut rng = seed.derive("test").rng();
        let hosts = 3 + rng.index(6).unwrap();
        let mut cluster = Cluster::new(number, hosts, NetworkConfig::lan(), |_| {});
        let config = ChaosConfig {
            duration: Duration::from_millis(20)..Duration::from_secs(6),
            downtime: Duration::from_millis(50)..Duration::from_secs(6),
            ..ChaosConfig::default()
        };
        let mut chaos = Chaos::new(&seed, config);
        for _ in 0..60 {
            random_operation(&mut cluster, &mut rng);
            let slice = rng.duration(Duration::ZERO..Duration::from_millis(500));
            chaos.run_for(&mut cluster.world, slice, |_| {});
            cluster.check();
        }
        chaos.heal(&mut cluster.world);
        cluster.settle(Duration::from_secs(40));
        // A packet of a life that nobody remembers may still arrive, minutes late: even that is put right.
        cluster.world.run_for(Duration::from_secs(3));
        cluster.settle(Duration::from_secs(15));
        cluster.check();
        note_markers(&cluster);
    });
}

/// Owners restart again and again with nothing in memory, and say less than in their former lives, or the same under
/// other versions: after quiet, nobody holds a word of a former life, and all hold the same versions.
#[test]
fn restarted_owners_outdate_all_they_said() {
    let name = "restarted_owners_outdate_all_they_said";
    let markers = ["a former life was outdated", "a row was shown again"];
    runner::seeds_reaching(name, 1_200, &markers, |number| {
        let seed = Seed::from_u64(number);
        let mut rng = seed.derive("test").rng();
        let hosts = 2 + rng.index(4).unwrap();
        let mut cluster = Cluster::new(number, hosts, NetworkConfig::lan(), |_| {});
        let config = ChaosConfig {
            duration: Duration::from_millis(20)..Duration::from_secs(6),
            downtime: Duration::from_millis(5)..Duration::from_millis(800),
            weights: Weights {
                crash: 15,
                kill: 15,
                ..Weights::default()
            },
            ..ChaosConfig::default()
        };
        let mut chaos = Chaos::new(&seed, config);
        for _ in 0..20 {
            for _ in 0..rng.below(8) {
                random_operation(&mut cluster, &mut rng);
            }
            let slice = rng.duration(Duration::ZERO..Duration::from_secs(1));
            chaos.run_for(&mut cluster.world, slice, |_| {});
            cluster.check();
        }
        chaos.heal(&mut cluster.world);
        cluster.settle(Duration::from_secs(40));
        // A packet of a life that nobody remembers may still arrive, minutes late: even that is put right.
        cluster.world.run_for(Duration::from_secs(3));
        cluster.settle(Duration::from_secs(15));
        cluster.check();
        note_markers(&cluster);
    });
}

/// Every member notices that one is gone, within a bound, and hides its rows at that moment.
#[test]
fn a_crashed_member_is_noticed_by_all() {
    runner::seeds("a_crashed_member_is_noticed_by_all", 50, |number| {
        let mut cluster = lossy(number, 5, 10_000);
        for host in 0..5 {
            cluster.join_network(host, network(1));
            cluster.put_row(host, network(1), 1, 1);
        }
        cluster.settle(Duration::from_secs(5));
        let crashed = cluster.world.now();
        cluster.world.crash(cluster.hosts[4]);
        cluster.settle(Duration::from_secs(8));
        for host in 0..4 {
            let node = cluster.node(host);
            let down = position(node, crashed, |e| matches!(e, Event::MemberDown(_)));
            let hidden = position(node, crashed, |e| {
                matches!(e, Event::RowChanged { row: None, .. })
            });
            assert!(down.unwrap() < hidden.unwrap(), "{down:?} {hidden:?}");
        }
    });
}

/// Without faults but loss, nobody who is there is ever declared Down.
#[test]
fn loss_alone_declares_nobody_down() {
    runner::seeds("loss_alone_declares_nobody_down", 50, |number| {
        let mut cluster = lossy(number, 6, 50_000);
        cluster.world.run_for(Duration::from_secs(25));
        for host in 0..6 {
            let downs = cluster.node(host).gossip.stats().downs;
            assert_eq!(downs, 0, "host {host}");
        }
    });
}

/// A member that nobody reaches for a moment is suspected, refutes, and is never Down.
#[test]
fn a_suspected_member_refutes() {
    let markers = ["somebody was suspected"];
    runner::seeds_reaching("a_suspected_member_refutes", 50, &markers, |number| {
        let mut cluster = lossy(number, 4, 0);
        cluster.settle(Duration::from_secs(5));
        cluster.world.partition(&[cluster.hosts[3]]);
        cluster.world.run_for(Duration::from_millis(1_100));
        cluster.world.heal();
        cluster.world.run_for(Duration::from_secs(6));
        assert_eq!(cluster.differences(), Vec::<String>::new());
        let refuted = cluster.node(3).gossip.local().incarnation.0 > 1;
        runner::sometimes("somebody was suspected", refuted);
    });
}

/// A paused process finds all its deadlines passed: it must not blame the others.
#[test]
fn a_member_that_slept_blames_nobody() {
    runner::seeds("a_member_that_slept_blames_nobody", 50, |number| {
        let mut cluster = lossy(number, 4, 0);
        cluster.settle(Duration::from_secs(5));
        cluster.world.pause(cluster.hosts[0]);
        cluster.world.run_for(Duration::from_secs(20));
        cluster.world.resume(cluster.hosts[0]);
        cluster.settle(Duration::from_secs(10));
        assert_eq!(cluster.node(0).gossip.stats().downs, 0);
    });
}

/// A new row is visible on all members of its network within half a second, also with some loss.
#[test]
fn a_row_is_everywhere_within_half_a_second() {
    runner::seeds("a_row_is_everywhere_within_half_a_second", 50, |number| {
        let mut cluster = lossy(number, 8, 20_000);
        for host in 0..8 {
            cluster.join_network(host, network(1));
        }
        cluster.settle(Duration::from_secs(5));
        cluster.world.run_for(Duration::from_secs(1));
        cluster.put_row(3, network(1), 1, 1);
        let seen = cluster.settle(Duration::from_millis(500));
        assert!(seen <= Duration::from_millis(500), "{seen:?}");
    });
}

/// Who joins a network gets its table at once, and rows go to nobody else.
#[test]
fn a_joining_member_fetches_the_table_at_once() {
    runner::seeds("a_joining_member_fetches_the_table_at_once", 50, |number| {
        let mut cluster = lossy(number, 5, 10_000);
        for host in 0..3 {
            cluster.join_network(host, network(1));
            for endpoint in 0..20 {
                cluster.put_row(host, network(1), endpoint, 1);
            }
        }
        cluster.settle(Duration::from_secs(5));
        cluster.join_network(3, network(1));
        let waited = cluster.settle(Duration::from_millis(1_500));
        assert!(waited <= Duration::from_millis(1_250), "{waited:?}");
        let synced = |event: &Event| matches!(event, Event::NetworkSynced { .. });
        assert!(position(cluster.node(3), Instant::EPOCH, synced).is_some());
        assert_eq!(cluster.node(4).gossip.rows(network(1)).count(), 0);
        assert_eq!(cluster.node(4).gossip.stats().tables.rows_not_joined, 0);
    });
}

/// Who joins a network right after its first member has the rows of that one before it is told that it has the table,
/// however large the cluster is: nobody has to wait for the rounds of gossip that tell everybody of the first member.
#[test]
fn a_network_that_was_just_made_is_found_at_once() {
    for hosts in [2, 5, 40] {
        let name = format!("a_network_that_was_just_made_is_found_at_once ({hosts})");
        runner::seeds(&name, 30, |number| {
            let mut cluster = Cluster::new(number, hosts, NetworkConfig::lan(), |_| {});
            cluster.settle(Duration::from_secs(30));
            let begun = cluster.world.now();
            cluster.join_network(0, network(1));
            cluster.put_row(0, network(1), 1, 1);
            cluster.world.run_for(Duration::from_millis(5));
            cluster.join_network(1, network(1));
            let synced = |event: &Event| matches!(event, Event::NetworkSynced { .. });
            cluster.world.run_for(Duration::from_millis(20));
            let at = position(cluster.node(1), begun, synced).expect("it has the table");
            let row = |event: &Event| matches!(event, Event::RowChanged { .. });
            let found = position(cluster.node(1), begun, row).expect("it has the row");
            assert!(found < at, "row {found}, table {at}");
        });
    }
}

/// Who joins a network in which nobody is hears so at once.
#[test]
fn a_network_without_members_is_known_as_such_at_once() {
    for hosts in [1, 2, 40] {
        let name = format!("a_network_without_members_is_known_as_such_at_once ({hosts})");
        runner::seeds(&name, 30, |number| {
            let mut cluster = Cluster::new(number, hosts, NetworkConfig::lan(), |_| {});
            cluster.settle(Duration::from_secs(30));
            let begun = cluster.world.now();
            cluster.join_network(0, network(1));
            cluster.world.run_for(Duration::from_millis(5));
            let synced = |event: &Event| matches!(event, Event::NetworkSynced { .. });
            let at = position(cluster.node(0), begun, synced);
            assert!(at.is_some(), "nobody answered");
        });
    }
}

/// A daemon that restarts at once keeps what it still runs visible all the time; what it no longer runs vanishes.
#[test]
fn a_restarted_member_outdates_its_former_rows() {
    runner::seeds(
        "a_restarted_member_outdates_its_former_rows",
        50,
        |number| {
            let mut cluster = lossy(number, 4, 0);
            for host in 0..4 {
                cluster.join_network(host, network(1));
            }
            cluster.put_row(2, network(1), 1, 1);
            cluster.put_row(2, network(1), 2, 1);
            cluster.settle(Duration::from_secs(5));
            let before = cluster.world.now();
            let mut truth = cluster.truth.borrow_mut();
            let rows = truth.hosts.get_mut(&2).unwrap().get_mut(&network(1));
            rows.unwrap().remove(&endpoint_id(2, 2));
            drop(truth);
            cluster.world.restart(cluster.hosts[2]);
            cluster.settle(Duration::from_secs(15));
            for host in [0, 1, 3] {
                let kept = endpoint_id(2, 1);
                let blink = position(cluster.node(host), before, |event| match event {
                    Event::RowChanged { endpoint, row, .. } => *endpoint == kept && row.is_none(),
                    _ => false,
                });
                assert_eq!(blink, None, "host {host}");
            }
        },
    );
}

/// Two halves that were apart for long find each other, and each shows the other's rows again.
#[test]
fn halves_that_were_apart_merge() {
    runner::seeds("halves_that_were_apart_merge", 30, |number| {
        let mut cluster = lossy(number, 6, 0);
        for host in 0..6 {
            cluster.join_network(host, network(1));
            cluster.put_row(host, network(1), 1, 1);
        }
        cluster.settle(Duration::from_secs(5));
        let half: Vec<_> = cluster.hosts[..3].to_vec();
        cluster.world.partition(&half);
        cluster.world.run_for(Duration::from_secs(60));
        assert_eq!(cluster.node(0).gossip.rows(network(1)).count(), 3);
        // Changed while apart.
        cluster.put_row(1, network(1), 1, 2);
        cluster.delete_row(4, network(1), 1);
        cluster.world.heal();
        let waited = cluster.settle(Duration::from_secs(10));
        assert!(waited <= Duration::from_secs(10), "{waited:?}");
    });
}

/// Without any seed in reach, halves find each other because members that are Down are tried again.
#[test]
fn halves_merge_without_seeds() {
    runner::seeds("halves_merge_without_seeds", 30, |number| {
        let mut cluster = lossy(number, 5, 0);
        cluster.settle(Duration::from_secs(5));
        cluster.world.crash(cluster.hosts[0]); // everybody's seed
        cluster.world.crash(cluster.hosts[1]); // the seed's seed
        let half: Vec<_> = cluster.hosts[2..4].to_vec();
        cluster.world.partition(&half);
        cluster.world.run_for(Duration::from_secs(60));
        cluster.world.rejoin();
        cluster.settle(Duration::from_secs(12));
    });
}

/// Two members that cannot reach each other, but reach the others, are not Down: the others vouch for them.
#[test]
fn others_vouch_for_who_is_out_of_reach() {
    runner::seeds("others_vouch_for_who_is_out_of_reach", 30, |number| {
        let mut cluster = lossy(number, 5, 0);
        cluster.settle(Duration::from_secs(5));
        let (one, other) = (cluster.hosts[2], cluster.hosts[3]);
        cluster.world.block(one, other);
        cluster.world.block(other, one);
        cluster.world.run_for(Duration::from_secs(20));
        assert_eq!(cluster.differences(), Vec::<String>::new());
        for host in 0..5 {
            let stats = cluster.node(host).gossip.stats();
            assert_eq!((stats.downs, stats.probes_failed), (0, 0), "host {host}");
        }
    });
}

/// A member that leaves is Left everywhere at once, and its rows are gone.
#[test]
fn a_member_that_leaves_is_gone_at_once() {
    runner::seeds("a_member_that_leaves_is_gone_at_once", 30, |number| {
        let mut cluster = lossy(number, 5, 10_000);
        for host in 0..5 {
            cluster.join_network(host, network(1));
            cluster.put_row(host, network(1), 1, 1);
        }
        cluster.settle(Duration::from_secs(5));
        cluster
            .world
            .with(cluster.hosts[0], |node, now| node.gossip.leave(now));
        cluster.world.run_for(Duration::from_secs(1));
        let done = |event: &Event| matches!(event, Event::LeaveDone);
        assert!(position(cluster.node(0), Instant::EPOCH, done).is_some());
        for host in 1..5 {
            let gossip = &cluster.node(host).gossip;
            let state = gossip.member(&name(0)).map(|member| member.state);
            assert_eq!(state, Some(MemberState::Left), "host {host}");
            assert_eq!(gossip.rows(network(1)).count(), 4, "host {host}");
        }
    });
}

fn lossy(number: u64, hosts: usize, loss_ppm: u32) -> Cluster {
    let network = NetworkConfig {
        loss_ppm,
        ..NetworkConfig::lan()
    };
    Cluster::new(number, hosts, network, |_| {})
}

fn random_operation(cluster: &mut Cluster, rng: &mut Rng) {
    let host = rng.index(cluster.hosts.len()).expect("hosts");
    let network = network(u8::from(rng.chance(500_000)));
    let endpoint = u8::try_from(rng.below(3)).expect("a small number");
    match rng.below(10) {
        0..=2 => cluster.join_network(host, network),
        3 => cluster.leave_network(host, network),
        4..=7 => {
            let weight = u16::try_from(rng.below(1_000)).expect("a small number");
            cluster.put_row(host, network, endpoint, weight);
        }
        _ => cluster.delete_row(host, network, endpoint),
    }
}

fn note_markers(cluster: &Cluster) {
    let (mut downs, mut renewals, mut strays, mut shown) = (0, 0, 0, 0);
    for (_, node) in cluster.world.machines() {
        let stats = node.gossip.stats();
        downs += stats.downs;
        renewals += stats.tables.renewals;
        strays += stats.tables.strays_deleted;
        let again = |event: &Event| {
            matches!(
                event,
                Event::RowChanged {
                    previous: None,
                    row: Some(_),
                    ..
                }
            )
        };
        let mut alive = node.events.iter().map(|(_, event)| event);
        let back = alive.any(|event| matches!(event, Event::MemberDown(_)));
        shown += usize::from(back && alive.any(again));
    }
    runner::sometimes("a member was declared down", downs > 0);
    runner::sometimes("a row was shown again", shown > 0);
    runner::sometimes("a former life was outdated", renewals > 0);
    runner::sometimes("a stray was deleted", strays > 0);
}

fn position(node: &cluster::Node, from: Instant, wanted: impl Fn(&Event) -> bool) -> Option<usize> {
    let mut events = node.events.iter();
    events.position(|(at, event)| *at >= from && wanted(event))
}
