//! What an embedder may get wrong: it is refused with a reason, and wedges nothing.

mod cluster;

use std::time::Duration;

use bytes::Bytes;
use overlay_core::{Instant, Machine as _, Seed};
use overlay_raft::{
    Change, ChangeError, CompactError, Config, ConfigError, Event, Output, Raft, RestoreError,
    Restored, Role, TransferError,
};

use cluster::{Body, Cluster, ELECTION, HEARTBEAT, Node, config, id};

/// A voter with another disk can be demoted, or removed, but not have its vote back in the same step: a membership would
/// name it twice.
#[test]
fn a_voter_that_lost_its_disk_votes_again_only_after_it_was_demoted() {
    for first in [Change::Demote(id(3)), Change::Remove(id(3))] {
        let mut cluster = Cluster::new(3);
        cluster.elect(1);
        cluster.pass(HEARTBEAT);
        cluster.crash(3);
        cluster.restart_with(Node::joiner(3));
        cluster.pass(ELECTION * 3);
        let mut at_once = vec![first];
        if first == Change::Remove(id(3)) {
            at_once.push(Change::AddLearner(id(3)));
        }
        at_once.push(Change::Promote(id(3)));
        let refused = cluster.change_all(1, &at_once);
        assert_eq!(refused, Err(ChangeError::OtherDisk { id: id(3) }));
        for change in &at_once {
            cluster.change(1, *change).unwrap();
            cluster.pass(ELECTION);
        }
        assert!(cluster.raft(1).membership().is_voter(id(3)));
        assert!(cluster.raft(1).is_membership_committed());
        cluster.cut(1, 2);
        cluster.cut(2, 1);
        cluster.propose(1, "with its vote");
        cluster.pass(HEARTBEAT);
        assert_eq!(cluster.node(3).commands(), ["with its vote"]);
    }
}

/// A founder whose disk was lost, founded again: to its peers it looks like the one that it was, with less than it acknowledged.
#[test]
fn a_voter_that_holds_less_than_it_acknowledged_is_told_of_and_does_not_count() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    for text in ["a", "b", "c"] {
        cluster.propose(1, text);
        cluster.pass(HEARTBEAT);
    }
    let acknowledged = cluster.raft(1).last_index();
    cluster.crash(3);
    cluster.restart_with(Node::founder(3, &[1, 2, 3]));
    // It shows as soon as there is something to send.
    cluster.propose(1, "d");
    cluster.pass(HEARTBEAT * 8);
    let forgot = Event::VoterForgot {
        id: id(3),
        acknowledged,
    };
    let told = cluster
        .node(1)
        .events
        .iter()
        .filter(|event| **event == forgot)
        .count();
    assert_eq!(told, 1, "{:?}", cluster.node(1).events);
    let status: Vec<_> = cluster
        .raft(1)
        .followers()
        .filter(|one| one.lost_disk)
        .collect();
    assert_eq!(status.len(), 1);
    assert_eq!(status[0].id, id(3));
    let refused = cluster.node(1).raft.transfer(Instant::EPOCH, id(3));
    assert_eq!(refused, Err(TransferError::Unreachable { to: id(3) }));
    // It is sent everything again, and its word counts for nothing.
    assert_eq!(cluster.node(3).commands(), ["a", "b", "c", "d"]);
    cluster.crash(2);
    let commit = cluster.raft(1).commit();
    cluster.node(1).propose("e").unwrap();
    cluster.pass(HEARTBEAT * 2);
    assert_eq!(cluster.raft(1).commit(), commit);
    cluster.restart(2);
    cluster.pass(ELECTION * 4);
    let leader = cluster.leader();
    if leader == 1 {
        cluster.change(1, Change::Demote(id(3))).unwrap();
        cluster.pass(HEARTBEAT * 2);
        cluster.change(1, Change::Promote(id(3))).unwrap();
        cluster.pass(HEARTBEAT * 2);
    }
    cluster.crash(if leader == 2 { 1 } else { 2 });
    let leader = cluster.leader();
    cluster.propose(leader, "e");
    cluster.pass(HEARTBEAT * 2);
    assert_eq!(
        cluster.node(3).commands().last().map(String::as_str),
        Some("e")
    );
}

/// Answers that the network kept and repeats prove nothing.
#[test]
fn old_refusals_that_are_repeated_are_no_proof_of_a_lost_disk() {
    let mut node = Node::leader();
    let refusal = |previous: u64| Body::Rejected {
        previous,
        hint: 1,
        hint_term: 0,
    };
    node.propose("x").unwrap();
    node.feed(3, Body::Accepted { matched: 2 });
    for _ in 0..20 {
        node.feed(3, refusal(3));
        node.feed(3, refusal(2));
        node.feed(3, refusal(2));
    }
    node.feed(3, Body::Accepted { matched: 3 });
    node.feed(2, Body::Accepted { matched: 3 });
    let forgot = |event: &Event| matches!(event, Event::VoterForgot { .. });
    assert!(!node.events.iter().any(forgot), "{:?}", node.events);
    assert!(node.raft.followers().all(|one| !one.lost_disk));
}

/// Voters that go are members until they are gone.
#[test]
fn a_joint_membership_counts_those_who_go() {
    let mut cluster = Cluster::with(3, |config| config.members_max = 4);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    let changes = [
        Change::Remove(id(2)),
        Change::Remove(id(3)),
        Change::AddLearner(id(5)),
        Change::AddLearner(id(6)),
    ];
    let refused = cluster.change_all(1, &changes);
    let too_many = ChangeError::TooMany {
        members: 5,
        members_max: 4,
    };
    assert_eq!(refused, Err(too_many));
    // Whoever makes room first has it.
    cluster
        .change_all(1, &[Change::Remove(id(2)), Change::AddLearner(id(5))])
        .unwrap();
    cluster.pass(HEARTBEAT);
    assert!(cluster.raft(1).is_membership_committed());
    assert_eq!(cluster.raft(1).membership().len(), 3);
}

/// A removed member whose acknowledgement comes after those of the others hears of its removal all the same.
#[test]
fn a_removed_member_that_is_slow_learns_that_it_was_removed() {
    let mut node = Node::leader();
    let change = node.change(Change::Remove(id(3))).unwrap();
    let matched = change.index.get();
    node.feed(2, Body::Accepted { matched });
    assert!(node.raft.is_membership_committed());
    node.take();
    node.feed(3, Body::Accepted { matched });
    node.pass(HEARTBEAT);
    let told = Body::Commit { commit: matched };
    let sent = node.take();
    assert!(sent.contains(&(3, told)), "{sent:?}");
    // Told, it is left alone.
    node.pass(HEARTBEAT * 2);
    assert!(node.take().iter().all(|(to, _)| *to == 2));
    // As is one that does not answer, after a while.
    let mut node = Node::leader();
    node.change(Change::Remove(id(3))).unwrap();
    node.feed(2, Body::Accepted { matched });
    for _ in 0..20 {
        node.pass(HEARTBEAT);
        node.feed(2, Body::Accepted { matched });
    }
    node.take();
    node.pass(HEARTBEAT * 2);
    assert!(node.take().iter().all(|(to, _)| *to == 2));
}

#[test]
fn a_removed_member_knows_it_in_a_cluster_whose_messages_take_time() {
    let mut cluster = Cluster::new(4);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    // What 2 says arrives after what the others say.
    cluster.cut(2, 1);
    cluster.change(1, Change::Remove(id(2))).unwrap();
    cluster.pass(Duration::from_millis(10));
    cluster.heal();
    cluster.pass(ELECTION * 4);
    assert_eq!(cluster.raft(2).role(), Role::Learner);
    assert!(cluster.raft(2).is_membership_committed());
    assert!(cluster.raft(1).is_leader(), "undisturbed");
}

/// One entropy for all members of a test is no disaster: they draw differently.
#[test]
fn members_with_one_seed_elect_a_leader() {
    let ids = [1, 2, 3].map(id);
    let now = Instant::EPOCH;
    let mut due = Vec::new();
    for own in ids {
        let restored = Restored::bootstrap(ids);
        let mut raft = Raft::new(config(own.get()), Seed::from_u64(1), now, restored).unwrap();
        raft.handle_timeout(now);
        while raft.poll_output().is_some() {}
        due.push(raft.poll_timeout());
    }
    due.dedup();
    assert_eq!(due.len(), 3, "{due:?}");
}

/// A snapshot that is taken before the commands were is a loss that shows after the next restart.
#[test]
fn commands_that_were_not_taken_out_cannot_be_compacted() {
    let now = Instant::EPOCH;
    let restored = Restored::bootstrap([id(1)]);
    let mut raft = Raft::new(config(1), Seed::from_u64(1), now, restored).unwrap();
    let turn = |raft: &mut Raft| {
        let due = raft.poll_timeout().unwrap();
        raft.handle_timeout(due);
        while let Some(output) = raft.poll_output() {
            if let Output::Persist(batch) = output {
                raft.handle_persisted(due, batch.into_parts().1);
            }
        }
        due
    };
    for _ in 0..20 {
        turn(&mut raft);
    }
    assert!(raft.is_leader());
    let due = raft.poll_timeout().unwrap();
    let proposal = raft.propose(due, Bytes::from_static(b"x")).unwrap();
    // Its write is durable and it is committed; the command waits in the queue.
    turn(&mut raft);
    raft.handle_timeout(due);
    assert_eq!(raft.applied(), proposal.index);
    let refused = raft.compact(due, proposal.index, Bytes::new());
    let waiting = CompactError::NotTaken {
        index: proposal.index,
    };
    assert_eq!(refused, Err(waiting));
    while raft.poll_output().is_some() {}
    raft.compact(due, proposal.index, Bytes::new()).unwrap();
}

#[test]
fn a_disk_is_recovered_under_a_new_number_or_not_at_all() {
    let mut node = Node::leader();
    node.write_all();
    let same = node.stored.restore().recover(7);
    assert_eq!(same, Err(RestoreError::SameGroup { group: 7 }));
    assert!(node.stored.restore().recover(8).is_ok());
    assert_eq!(Restored::empty().recover(7), Ok(Restored::empty()));
}

#[test]
fn settings_that_cannot_work_are_refused_and_none_panics() {
    type Spoil = fn(&mut Config);
    let settings: [(&str, Spoil); 9] = [
        ("heartbeat_interval", |config| {
            config.heartbeat_interval = Duration::ZERO;
        }),
        ("heartbeat_interval", |config| {
            config.heartbeat_interval = Duration::MAX;
        }),
        ("election_timeout", |config| {
            config.election_timeout = Duration::MAX;
        }),
        ("election_timeout", |config| {
            config.election_timeout = config.heartbeat_interval * 2 - Duration::from_nanos(1);
        }),
        ("commit_delay", |config| config.commit_delay = Duration::MAX),
        ("uncommitted_bytes_max", |config| {
            config.uncommitted_bytes_max = 0
        }),
        ("log_bytes_max", |config| config.log_bytes_max = 0),
        ("command_bytes_max", |config| config.command_bytes_max = 0),
        ("snapshot_bytes_max", |config| config.snapshot_bytes_max = 0),
    ];
    for (setting, spoil) in settings {
        let mut config = config(1);
        spoil(&mut config);
        let refused = config.check().unwrap_err();
        assert!(
            refused.to_string().contains(setting),
            "{setting}: {refused}"
        );
        let restored = Restored::bootstrap([id(1)]);
        let built = Raft::new(config, Seed::from_u64(1), Instant::EPOCH, restored);
        assert_eq!(built.err(), Some(RestoreError::Config(refused)));
    }
    let longest = Config {
        election_timeout: Duration::from_secs(3_600),
        heartbeat_interval: Duration::from_secs(1_800),
        ..config(1)
    };
    assert_eq!(longest.check(), Ok::<(), ConfigError>(()));
}

/// What a leader puts into its log is what every follower takes.
#[test]
fn no_list_of_changes_makes_a_membership_that_others_refuse() {
    let (mut accepted, mut accepted_with_lost) = (0, 0);
    for seed in 0..600 {
        let mut rng = Seed::from_u64(seed).rng();
        let mut cluster = Cluster::with_two_learners();
        let loses = rng.chance(500_000);
        let lost = 2 + rng.below(2);
        if loses {
            // Another disk under an old name.
            cluster.crash(lost);
            cluster.restart_with(Node::joiner(lost));
            cluster.pass(ELECTION * 3);
        }
        let mut changes = Vec::new();
        for _ in 0..=rng.below(4) {
            let who = if rng.chance(500_000) {
                lost
            } else {
                1 + rng.below(5)
            };
            let who = id(who);
            changes.push(match rng.below(4) {
                0 => Change::AddLearner(who),
                1 => Change::Promote(who),
                2 => Change::Demote(who),
                _ => Change::Remove(who),
            });
        }
        let taken = cluster.change_all(1, &changes).is_ok();
        accepted += u64::from(taken);
        accepted_with_lost += u64::from(taken && loses);
        // Whoever is sent it takes it: a refusal is a panic of the cluster's.
        cluster.pass(HEARTBEAT * 3);
        for number in 1..=5 {
            let refused = cluster.raft(number).stats().messages_refused;
            assert_eq!(refused, 0, "seed {seed}: {changes:?} at {number}");
        }
    }
    assert!(
        accepted > 100 && accepted_with_lost > 40,
        "{accepted}, {accepted_with_lost}"
    );
}
