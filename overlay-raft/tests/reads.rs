//! Linearizable reads on followers and by lease (thesis §6.4).

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod cluster;

use std::time::Duration;

use overlay_raft::{Change, Config, Event, ReadError, ReadId, ReadMode, Role};

use cluster::{Body, Cluster, ELECTION, HEARTBEAT, Node, Stored, config, id};

/// How far clocks may be off in these tests, in millionths.
const DRIFT: u32 = 100_000;
/// What is left of an election time-out of 500 ms then: 500 * 0.9 / 1.1.
const LEASE: Duration = Duration::from_nanos(409_090_909);

fn with_leases(number: u64) -> Config {
    Config {
        clock_drift_ppm_max: Some(DRIFT),
        ..config(number)
    }
}

/// A leader of three, whose last heartbeat a quorum has just acknowledged.
fn leader_with_lease() -> Node {
    let mut node = Node::founder_with(with_leases(1), &[1, 2, 3]);
    node.campaign();
    node.win(2);
    for peer in [2, 3] {
        node.feed(peer, Body::Accepted { matched: 2 });
    }
    node.pass(HEARTBEAT);
    acknowledge_heartbeats(&mut node, 2);
    node
}

fn acknowledge_heartbeats(node: &mut Node, peer: u64) {
    for (to, body) in node.take() {
        if let Body::Heartbeat { round, .. } = body
            && to == peer
        {
            node.feed(peer, Body::HeartbeatReply { round });
        }
    }
}

fn read(node: &mut Node, mode: ReadMode) -> ReadId {
    let read = node.raft.read_index(node.now, mode).unwrap();
    node.drain();
    read
}

fn is_answered(node: &Node, read: ReadId) -> bool {
    node.reads.iter().any(|(answered, _)| *answered == read)
}

#[test]
fn a_follower_answers_what_the_leader_has_committed() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    cluster.cut(1, 3);
    let written = cluster.propose(1, "x");
    // 3 does not know of the write, which is done.
    let read = read(cluster.node(3), ReadMode::Quorum);
    cluster.settle();
    assert_eq!(cluster.node(3).reads, []);
    cluster.heal();
    cluster.pass(HEARTBEAT * 3);
    assert_eq!(cluster.node(3).reads, [(read, written.index.get())]);
    assert_eq!(
        cluster.node(3).commands(),
        ["x"],
        "applied before it is answered"
    );
}

#[test]
fn reads_of_one_turn_are_asked_for_together() {
    let mut node = Node::founder(2, &[1, 2, 3]);
    node.append((1, 1), (1, 0), &[], 1);
    node.take();
    for _ in 0..5 {
        node.raft.read_index(node.now, ReadMode::Quorum).unwrap();
    }
    node.drain();
    let asked: Vec<(u64, Body)> = node.take();
    let [(1, Body::ReadAsk { life, number: 5 })] = asked[..] else {
        panic!("{asked:?}");
    };
    let number = 3;
    node.feed(
        1,
        Body::ReadAnswer {
            life,
            number,
            index: 1,
        },
    );
    assert_eq!(
        node.reads.len(),
        3,
        "an answer is about all reads before it, too"
    );
    let number = 5;
    node.feed(
        1,
        Body::ReadAnswer {
            life,
            number,
            index: 1,
        },
    );
    assert_eq!(node.reads.len(), 5);
}

#[test]
fn a_read_whose_question_was_lost_is_asked_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    cluster.cut(2, 1);
    let read = read(cluster.node(2), ReadMode::Quorum);
    cluster.settle();
    cluster.heal();
    cluster.settle();
    assert!(!is_answered(cluster.node(2), read));
    cluster.pass(HEARTBEAT * 3);
    assert!(is_answered(cluster.node(2), read));
}

#[test]
fn answers_to_another_life_or_from_another_member_are_none() {
    let mut node = Node::founder(2, &[1, 2, 3]);
    node.append((1, 1), (1, 0), &[], 1);
    node.take();
    let read = read(&mut node, ReadMode::Quorum);
    let [(1, Body::ReadAsk { life, number })] = node.take()[..] else {
        panic!("it asks the leader");
    };
    let (index, other) = (1, life ^ 1);
    node.feed(
        1,
        Body::ReadAnswer {
            life: other,
            number,
            index,
        },
    );
    node.feed(
        3,
        Body::ReadAnswer {
            life,
            number,
            index,
        },
    );
    assert!(!is_answered(&node, read));
    node.feed(
        1,
        Body::ReadAnswer {
            life,
            number,
            index,
        },
    );
    assert!(is_answered(&node, read));
}

#[test]
fn a_leader_that_no_quorum_confirms_answers_no_follower() {
    let mut node = Node::leader();
    node.feed(2, Body::ReadAsk { life: 9, number: 1 });
    let answers = |node: &mut Node| {
        let sent = node.take();
        let heartbeats: Vec<u64> = sent
            .iter()
            .filter_map(|(to, body)| match body {
                Body::Heartbeat { round, .. } if *to == 3 => Some(*round),
                _ => None,
            })
            .collect();
        let answered = sent
            .iter()
            .any(|(to, body)| *to == 2 && matches!(body, Body::ReadAnswer { .. }));
        (heartbeats, answered)
    };
    let (rounds, answered) = answers(&mut node);
    assert!(!answered && rounds.len() == 1, "it asks a quorum first");
    node.feed(3, Body::HeartbeatReply { round: rounds[0] });
    assert!(answers(&mut node).1);
    node.feed(9, Body::ReadAsk { life: 9, number: 2 });
    node.pass(HEARTBEAT);
    assert!(node.take().iter().all(|(to, _)| *to != 9), "9 is no member");
}

#[test]
fn a_learner_reads_as_well() {
    let mut cluster = Cluster::new(3);
    cluster.add_joiner(4);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    cluster.change(1, Change::AddLearner(id(4))).unwrap();
    cluster.pass(HEARTBEAT);
    let read = read(cluster.node(4), ReadMode::Quorum);
    cluster.settle();
    assert!(is_answered(cluster.node(4), read));
}

#[test]
fn reads_of_a_follower_are_lost_with_its_leader_unless_they_are_confirmed() {
    let mut node = Node::founder(2, &[1, 2, 3]);
    node.append((1, 1), (1, 0), &[], 1);
    node.take();
    let confirmed = read(&mut node, ReadMode::Quorum);
    let [(1, Body::ReadAsk { life, number })] = node.take()[..] else {
        panic!("it asks the leader");
    };
    node.feed(
        1,
        Body::ReadAnswer {
            life,
            number,
            index: 2,
        },
    );
    let asked = read(&mut node, ReadMode::Quorum);
    node.append((3, 2), (1, 0), &[], 1);
    assert!(node.events.contains(&Event::ReadLost(asked)));
    assert!(!node.events.contains(&Event::ReadLost(confirmed)));
    node.append((3, 2), (1, 0), &[2], 2);
    assert_eq!(
        node.reads,
        [(confirmed, 2)],
        "what was confirmed stays true"
    );
}

#[test]
fn a_read_without_a_leader_is_refused() {
    let mut node = Node::founder(2, &[1, 2, 3]);
    let refused = node.raft.read_index(node.now, ReadMode::Quorum);
    assert_eq!(refused, Err(ReadError::NoLeader));
    let refused = node.raft.read_index(node.now, ReadMode::Lease);
    assert_eq!(
        refused,
        Err(ReadError::NoLease),
        "no bound of clocks is set"
    );
}

// Thesis §6.4.1: leases

#[test]
fn t6_4_1_a_leader_answers_at_once_for_as_long_as_a_quorum_keeps_its_vow() {
    let mut node = leader_with_lease();
    let start = node.now;
    let at_once = read(&mut node, ReadMode::Lease);
    assert!(is_answered(&node, at_once));
    assert_eq!(node.raft.stats().lease_reads, 1);
    // Nobody answers any more. The round of the read's own time is what counts.
    node.now = start + LEASE - Duration::from_nanos(1);
    let last = read(&mut node, ReadMode::Lease);
    assert!(is_answered(&node, last));
    node.now = start + LEASE;
    let late = read(&mut node, ReadMode::Lease);
    assert!(!is_answered(&node, late), "as with a quorum from here on");
    acknowledge_heartbeats(&mut node, 2);
    assert!(is_answered(&node, late));
}

#[test]
fn t6_4_1_a_lease_counts_from_when_the_round_was_sent() {
    let mut node = leader_with_lease();
    node.pass(HEARTBEAT);
    let sent_at = node.now;
    node.now = sent_at + HEARTBEAT / 2;
    acknowledge_heartbeats(&mut node, 2);
    node.now = sent_at + LEASE;
    let late = read(&mut node, ReadMode::Lease);
    assert!(!is_answered(&node, late));
}

#[test]
fn case_02_no_lease_holds_before_an_entry_of_the_own_term_is_committed() {
    let mut node = Node::founder_with(with_leases(1), &[1, 2, 3]);
    node.campaign();
    node.win(2);
    node.pass(HEARTBEAT);
    acknowledge_heartbeats(&mut node, 2);
    let read = read(&mut node, ReadMode::Lease);
    assert!(!is_answered(&node, read));
    node.feed(2, Body::Accepted { matched: 2 });
    acknowledge_heartbeats(&mut node, 2);
    assert!(is_answered(&node, read));
}

#[test]
fn case_03_no_lease_holds_once_somebody_may_have_been_asked_to_campaign() {
    let mut node = leader_with_lease();
    node.feed(3, Body::HeartbeatReply { round: 1 });
    node.raft.transfer(node.now, id(3)).unwrap();
    let during = read(&mut node, ReadMode::Lease);
    assert!(!is_answered(&node, during));
    node.take();
    // It did not happen in time; the request may still be on its way.
    for _ in 0..10 {
        node.pass(HEARTBEAT);
        acknowledge_heartbeats(&mut node, 2);
    }
    assert!(node.events.contains(&Event::TransferFailed { to: id(3) }));
    let after = node.raft.stats().lease_reads;
    let read = read(&mut node, ReadMode::Lease);
    assert!(!is_answered(&node, read));
    assert_eq!(node.raft.stats().lease_reads, after);
}

#[test]
fn a_lease_ends_with_the_membership_of_those_who_gave_it() {
    let mut node = leader_with_lease();
    node.change(Change::Remove(id(3))).unwrap();
    let read = read(&mut node, ReadMode::Lease);
    assert!(!is_answered(&node, read));
}

#[test]
fn the_only_voter_needs_nobodys_vow() {
    let mut node = Node::founder_with(with_leases(1), &[1]);
    node.pass(ELECTION);
    let read = read(&mut node, ReadMode::Lease);
    assert!(is_answered(&node, read));
    assert_eq!(node.raft.stats().lease_reads, 1);
}

fn vote(last_index: u64, transfer: bool) -> Body {
    Body::Vote {
        last_index,
        last_term: 9,
        transfer,
    }
}

fn grants(node: &mut Node) -> bool {
    node.take()
        .iter()
        .any(|(_, body)| *body == Body::VoteReply { granted: true })
}

#[test]
fn whoever_heard_a_leader_votes_for_nobody_within_an_election_time_out() {
    let mut node = Node::founder_with(with_leases(2), &[1, 2, 3]);
    node.append((1, 1), (1, 0), &[], 1);
    let heard = node.now;
    // Also in a term that something else brought it into, and also if it is told to campaign itself.
    node.feed_at(3, 5, Body::VoteReply { granted: false });
    assert_eq!(node.raft.term().get(), 5);
    node.now = heard + ELECTION - Duration::from_nanos(1);
    node.take();
    node.feed_at(3, 5, vote(9, false));
    assert!(!grants(&mut node));
    node.campaign();
    node.feed_at(3, 6, vote(9, false));
    assert!(!grants(&mut node));
    for _ in 0..2 {
        let granted = true;
        let rounds: Vec<u64> = node
            .take()
            .into_iter()
            .filter_map(|(_, body)| match body {
                Body::PreVote { round, .. } => Some(round),
                _ => None,
            })
            .collect();
        for round in rounds {
            node.feed(3, Body::PreVoteReply { round, granted });
        }
        assert_ne!(node.raft.role(), Role::Candidate);
    }
    node.feed_at(3, 7, vote(9, true));
    assert!(grants(&mut node), "unless the leader itself asked for it");
    node.now = heard + ELECTION;
    node.feed_at(1, 8, vote(9, false));
    assert!(grants(&mut node));
}

#[test]
fn a_voter_that_restarts_keeps_the_vow_that_it_may_have_made() {
    let stored = Stored::founded(2, &[1, 2, 3], &[1]);
    let mut node = Node::from_disk(with_leases(2), stored.clone());
    node.feed_at(3, 5, vote(9, false));
    assert!(!grants(&mut node));
    node.now += ELECTION;
    node.feed_at(3, 6, vote(9, false));
    assert!(grants(&mut node));
    let mut without = Node::from_disk(config(2), stored);
    without.feed_at(3, 5, vote(9, false));
    assert!(
        grants(&mut without),
        "where nobody relies on it there is none"
    );
}
