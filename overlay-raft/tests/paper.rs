//! One test for each rule of the Raft paper (extended version) and the thesis, named after where it stands.

mod cluster;

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use overlay_core::{Instant, Machine};
use overlay_raft::{
    Change, ChangeError, Event, Index, Payload, ProposeError, ReadMode, Role, Sending,
    TransferError,
};

use cluster::{Body, Cluster, ELECTION, HEARTBEAT, Node, Stored, command, config, id, membership};

fn granted(bodies: &[(u64, Body)]) -> Vec<(u64, bool)> {
    bodies
        .iter()
        .filter_map(|(to, body)| match body {
            Body::VoteReply { granted } => Some((*to, *granted)),
            _ => None,
        })
        .collect()
}

fn vote(last_index: u64, last_term: u64) -> Body {
    Body::Vote {
        last_index,
        last_term,
        transfer: false,
    }
}

// §5.1 Terms

#[test]
fn s5_1_a_higher_term_is_adopted_by_everybody() {
    let mut follower = Node::founder(1, &[1, 2, 3]);
    let mut candidate = Node::founder(1, &[1, 2, 3]);
    candidate.campaign();
    let mut leader = Node::leader();
    for node in [&mut follower, &mut candidate, &mut leader] {
        node.append((2, 9), (0, 0), &[], 0);
        assert_eq!(node.raft.term().get(), 9);
        assert_eq!(node.raft.role(), Role::Follower);
        assert_eq!(node.raft.leader(), Some(id(2)));
    }
}

#[test]
fn s5_1_a_request_of_an_earlier_term_is_refused_with_the_present_one() {
    let mut node = Node::with_log(1, &[3]);
    node.append((2, 2), (1, 0), &[2, 2], 3);
    node.feed_at(3, 2, vote(9, 2));
    node.feed_at(
        3,
        2,
        Body::Heartbeat {
            commit: 2,
            round: 1,
        },
    );
    let answers = node.messages();
    assert_eq!(answers.len(), 3);
    for (_, answer) in &answers {
        assert_eq!(answer.term, 3);
        assert!(matches!(
            answer.body,
            Body::Rejected { .. } | Body::VoteReply { granted: false }
        ));
    }
    assert_eq!(node.terms(), [3]);
    assert_eq!(node.raft.leader(), None);
}

// §5.2 Leader election

#[test]
fn s5_2_a_member_starts_as_follower() {
    let node = Node::founder(1, &[1, 2, 3]);
    assert_eq!(node.raft.role(), Role::Follower);
    assert!(node.sent.is_empty());
}

#[test]
fn s5_2_a_leader_sends_heartbeats_to_everybody_all_the_time() {
    let mut node = Node::leader();
    for _ in 0..3 {
        node.pass(HEARTBEAT);
        let to: Vec<u64> = node
            .take()
            .into_iter()
            .filter(|(_, body)| matches!(body, Body::Heartbeat { .. }))
            .map(|(to, _)| to)
            .collect();
        assert_eq!(to, [2, 3]);
    }
}

#[test]
fn s5_2_a_follower_waits_between_one_and_two_time_outs_at_random() {
    let mut waits = BTreeSet::new();
    for number in 1..=20 {
        let mut node = Node::founder(number, &(1..=20).collect::<Vec<_>>());
        let deadline = node.raft.poll_timeout().unwrap();
        assert!(deadline >= Instant::EPOCH + ELECTION);
        assert!(deadline < Instant::EPOCH + ELECTION * 2);
        waits.insert(deadline);
        node.pass(deadline.duration_since(Instant::EPOCH) - Duration::from_nanos(1));
        assert_eq!(node.raft.role(), Role::Follower);
        node.pass(Duration::from_nanos(1));
        assert_eq!(node.raft.role(), Role::PreCandidate);
    }
    assert!(waits.len() > 15, "{waits:?}");
}

#[test]
fn s5_2_a_heartbeat_puts_the_election_off() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    for _ in 0..20 {
        node.pass(ELECTION - Duration::from_millis(1));
        node.feed_at(
            2,
            1,
            Body::Heartbeat {
                commit: 0,
                round: 1,
            },
        );
    }
    assert_eq!(node.raft.role(), Role::Follower);
    assert_eq!(node.raft.term().get(), 1);
}

#[test]
fn s5_2_a_candidate_increments_its_term_votes_for_itself_and_asks_everybody() {
    let mut node = Node::with_log(1, &[1, 2]);
    node.campaign();
    let pre: Vec<(u64, Body)> = node
        .messages()
        .into_iter()
        .map(|(to, m)| (to, m.body))
        .collect();
    assert!(
        matches!(&pre[..], [(2, Body::PreVote { last_index: 3, last_term: 2, round: a }), (3, Body::PreVote { round: b, .. })] if a == b),
        "{pre:?}"
    );
    assert_eq!(node.raft.term().get(), 2, "asking first costs no term");
    let Body::PreVote { round, .. } = pre[0].1 else {
        unreachable!()
    };
    node.sent.clear();
    node.feed(
        2,
        Body::PreVoteReply {
            round,
            granted: true,
        },
    );
    assert_eq!(node.raft.role(), Role::Candidate);
    assert_eq!(node.raft.term().get(), 3);
    assert_eq!(node.take(), [(2, vote(3, 2)), (3, vote(3, 2))]);
    let stored = node.stored.hard_state.unwrap();
    assert_eq!((stored.term.get(), stored.vote), (3, Some(id(1))));
}

#[test]
fn s5_2_a_majority_elects_and_nothing_less() {
    let voters: Vec<u64> = (1..=5).collect();
    let mut node = Node::founder(1, &voters);
    node.campaign();
    node.win(2); // the pre-vote needs one more
    assert_eq!(node.raft.role(), Role::PreCandidate);
    node.win(3);
    assert_eq!(node.raft.role(), Role::Candidate);
    node.feed(2, Body::VoteReply { granted: true });
    node.feed(4, Body::VoteReply { granted: false });
    assert_eq!(node.raft.role(), Role::Leader, "1, 2 and 3 voted");

    let mut node = Node::founder(1, &voters);
    node.campaign();
    node.win(2);
    node.win(3);
    for voter in [4, 5] {
        node.feed(voter, Body::VoteReply { granted: false });
    }
    node.feed(3, Body::VoteReply { granted: true }); // said so before
    node.feed(9, Body::VoteReply { granted: true }); // no voter
    assert_eq!(node.raft.role(), Role::Candidate);
}

#[test]
fn s5_2_one_vote_each_term_first_come_first_served() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.feed_at(2, 1, vote(1, 0));
    node.feed_at(3, 1, vote(1, 0));
    node.feed_at(2, 1, vote(1, 0)); // §5.5: a repeated request gets the same answer
    assert_eq!(granted(&node.take()), [(2, true), (3, false), (2, true)]);
    node.restart();
    node.feed_at(3, 1, vote(1, 0));
    node.feed_at(2, 1, vote(1, 0));
    assert_eq!(granted(&node.take()), [(3, false), (2, true)]);
    node.feed_at(3, 2, vote(1, 0));
    assert_eq!(granted(&node.take()), [(3, true)]);
}

#[test]
fn s5_2_a_candidate_yields_to_the_leader_of_its_term() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.campaign();
    node.win(9); // nobody
    let term = node.raft.term().get();
    node.append((2, term), (1, 0), &[], 1);
    assert_eq!(node.raft.role(), Role::Follower);
    assert_eq!(node.raft.leader(), Some(id(2)));
}

#[test]
fn s5_2_a_split_vote_ends_in_another_election() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.campaign();
    node.feed(9, Body::VoteReply { granted: true });
    node.pass(ELECTION * 2);
    node.win(2);
    assert_eq!(node.raft.role(), Role::Leader);
    assert!(node.raft.stats().pre_votes >= 2);
}

#[test]
fn s5_2_of_three_members_one_is_elected_soon() {
    let mut cluster = Cluster::new(3);
    cluster.pass(ELECTION * 4);
    let leader = cluster.leader();
    for number in 1..=3 {
        assert_eq!(cluster.raft(number).leader(), Some(id(leader)));
        assert_eq!(
            cluster.raft(number).term(),
            cluster.raft(leader).term(),
            "one term"
        );
    }
}

// §5.3 Log replication

#[test]
fn s5_3_a_command_is_applied_once_a_majority_holds_it() {
    let mut node = Node::leader();
    let proposal = node.propose("x").unwrap();
    assert_eq!((proposal.term.get(), proposal.index.get()), (1, 3));
    let sent = node.take();
    let expected = Body::Append {
        previous: 2,
        previous_term: 1,
        commit: 2,
        entries: vec![(1, command("x"))],
    };
    assert_eq!(sent, [(2, expected.clone()), (3, expected)]);
    assert!(node.applied.is_empty());
    node.feed(3, Body::Accepted { matched: 3 });
    assert_eq!(node.commands(), ["x"]);
    assert_eq!(node.applied[0].index, proposal.index);
    assert_eq!(node.applied[0].term, proposal.term);
}

#[test]
fn s5_3_committing_an_entry_commits_those_before_it() {
    let mut node = Node::with_log(1, &[1, 1, 2]);
    node.campaign();
    node.win(2);
    assert_eq!(node.raft.commit().get(), 1);
    node.feed(2, Body::Accepted { matched: 5 });
    assert_eq!(node.raft.commit().get(), 5);
    assert_eq!(node.commands(), ["1", "1", "2"], "in order");
}

#[test]
fn s5_3_a_follower_applies_what_the_leader_says_is_committed() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.append((2, 1), (1, 0), &[1, 1, 1], 1);
    assert!(node.applied.is_empty());
    node.append((2, 1), (4, 1), &[], 3);
    assert_eq!(node.applied.len(), 2);
    node.feed_at(
        2,
        1,
        Body::Heartbeat {
            commit: 4,
            round: 1,
        },
    );
    assert_eq!(node.applied.len(), 3);
    let indexes: Vec<u64> = node.applied.iter().map(|c| c.index.get()).collect();
    assert_eq!(indexes, [2, 3, 4]);
}

#[test]
fn s5_3_an_append_is_refused_unless_the_entry_before_it_is_there() {
    for (previous, previous_term, accepted) in [
        (3, 2, true),
        (2, 1, true),
        (1, 0, true),
        (4, 2, false),
        (3, 1, false),
        (3, 3, false),
    ] {
        let mut node = Node::with_log(1, &[1, 2]);
        node.append((2, 5), (previous, previous_term), &[5], 0);
        let answer = &node.take()[0].1;
        assert_eq!(
            matches!(answer, Body::Accepted { matched } if *matched == previous + 1),
            accepted,
            "{previous} of term {previous_term}: {answer:?}"
        );
        if !accepted {
            assert_eq!(node.terms(), [1, 2], "nothing changes");
        }
    }
}

#[test]
fn s5_3_conflicting_entries_are_replaced_and_those_that_agree_kept() {
    for (previous, sent, expected) in [
        ((3, 2), &[3, 3][..], &[1, 2, 3, 3][..]),
        ((1, 0), &[1, 4], &[1, 4]),
        ((2, 1), &[2, 3], &[1, 2, 3]),
        ((1, 0), &[1, 2], &[1, 2, 2]), // no conflict: nothing is cut
        ((2, 1), &[], &[1, 2, 2]),
    ] {
        let mut node = Node::with_log(1, &[1, 2, 2]);
        node.append((2, 5), previous, sent, 0);
        assert_eq!(node.terms(), expected, "{previous:?} {sent:?}");
        node.restart();
        assert_eq!(node.terms(), expected, "also on the disk");
    }
}

/// Figure 7: whatever a follower's log looks like, the leader makes it like its own.
#[test]
fn s5_3_a_leader_brings_every_log_of_figure_7_into_agreement() {
    let leader = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [&[u64]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    for follower in followers {
        let make = |number, terms| {
            let stored = Stored::founded(number, &[1, 2, 3], terms).with_term(7);
            Node::from_disk(config(number), stored)
        };
        // The third one's short log makes it vote for the first.
        let mut cluster =
            Cluster::from_nodes(vec![make(1, &leader), make(2, follower), make(3, &[])]);
        cluster.elect(1);
        cluster.propose(1, "x");
        cluster.pass(HEARTBEAT * 2);
        let log = cluster.node(1).terms();
        assert_eq!(log[..10], leader);
        assert_eq!(cluster.node(2).terms(), log, "{follower:?}");
        assert_eq!(cluster.node(3).terms(), log);
        assert_eq!(cluster.raft(2).commit(), cluster.raft(1).last_index());
    }
}

#[test]
fn s5_3_finding_the_point_of_agreement_skips_a_term_at_a_time() {
    let mut leader = vec![1; 50];
    leader.extend([9; 50]);
    let mut follower = vec![1; 50];
    follower.extend([4; 200]);
    let make = |number, terms: &[u64]| {
        let stored = Stored::founded(number, &[1, 2, 3], terms).with_term(9);
        Node::from_disk(config(number), stored)
    };
    let mut cluster = Cluster::from_nodes(vec![make(1, &leader), make(2, &follower), make(3, &[])]);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    assert_eq!(cluster.node(2).terms(), cluster.node(1).terms());
    assert!(
        cluster.raft(2).stats().messages_received < 20,
        "{:?}",
        cluster.raft(2).stats()
    );
}

#[test]
fn s5_3_entries_are_batched_and_pipelined_within_bounds() {
    let mut config = config(1);
    config.entries_per_append_max = 4;
    config.inflight_max = 3;
    config.writes_inflight_max = 1;
    let mut node = Node::founder_with(config, &[1, 2]);
    node.campaign();
    node.win(2);
    node.feed(2, Body::Accepted { matched: 2 });
    node.sent.clear();
    node.fast_disk = false;
    for _ in 0..20 {
        node.propose("x").unwrap();
    }
    let sizes = |node: &mut Node| -> Vec<usize> {
        let appends = node.take().into_iter().filter_map(|(_, body)| match body {
            Body::Append { entries, .. } => Some(entries.len()),
            _ => None,
        });
        appends.collect()
    };
    assert_eq!(sizes(&mut node), [1, 1, 1], "three under way, no more");
    node.feed(2, Body::Accepted { matched: 5 });
    assert_eq!(sizes(&mut node), [4, 4, 4], "the rest goes together");
    assert_eq!(node.writes.len(), 1);
    node.write_one();
    assert_eq!(node.writes[0].0.entries.len(), 19, "one write for the rest");
}

#[test]
fn s5_3_a_lost_message_is_sent_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    cluster.cut(1, 2);
    for _ in 0..5 {
        cluster.propose(1, "x");
    }
    cluster.heal();
    cluster.pass(HEARTBEAT * 4);
    assert_eq!(cluster.raft(2).commit(), cluster.raft(1).commit());
    assert_eq!(cluster.node(2).commands().len(), 5);
}

// §5.4 Safety

#[test]
fn s5_4_1_a_vote_is_refused_to_a_log_that_is_behind() {
    for (log, last, expected) in [
        (&[1, 1][..], (3, 1), true),
        (&[1, 1], (2, 2), true),
        (&[1, 1], (4, 1), true),
        (&[1, 1], (2, 1), false),
        (&[1, 2], (9, 1), false),
        (&[1, 1, 1], (3, 1), false),
        (&[], (1, 0), true),
    ] {
        let mut node = Node::with_log(1, log);
        let term = node.raft.term().get();
        node.feed_at(2, term + 1, vote(last.0, last.1));
        assert_eq!(granted(&node.take()), [(2, expected)], "{log:?} {last:?}");
        let pre_vote = Body::PreVote {
            round: 5,
            last_index: last.0,
            last_term: last.1,
        };
        node.feed_at(3, term + 1, pre_vote);
        let reply = Body::PreVoteReply {
            round: 5,
            granted: expected,
        };
        assert_eq!(node.take(), [(3, reply)]);
    }
}

#[test]
fn s5_4_2_only_entries_of_the_own_term_are_committed_by_counting() {
    let mut node = Node::with_log(1, &[1, 2]);
    node.campaign();
    node.win(2);
    assert_eq!(node.terms(), [1, 2, 3]);
    node.feed(2, Body::Accepted { matched: 3 });
    node.feed(3, Body::Accepted { matched: 3 });
    assert_eq!(
        node.raft.commit().get(),
        1,
        "all hold entry 3, but it is of term 2"
    );
    node.feed(2, Body::Accepted { matched: 4 });
    assert_eq!(node.raft.commit().get(), 4);
}

// §7 Log compaction

#[test]
fn s7_a_follower_that_is_too_far_behind_gets_the_snapshot() {
    let mut cluster = Cluster::with(3, |config| {
        config.trailing_entries_max = 0;
        config.snapshot_chunk_bytes_max = 4;
    });
    cluster.elect(1);
    cluster.isolate(3);
    cluster.propose(1, "a");
    cluster.propose(1, "b");
    cluster.compact(1, b"state of a and b");
    cluster.heal();
    cluster.propose(1, "c");
    cluster.pass(HEARTBEAT * 4);
    let index = cluster.raft(1).snapshot_index();
    let follower = cluster.node(3);
    assert_eq!(follower.restored.len(), 1);
    assert_eq!(follower.restored[0].index, index);
    assert_eq!(follower.restored[0].data, "state of a and b");
    assert_eq!(follower.commands(), ["c"]);
    assert_eq!(follower.raft.snapshot_index(), index);
    assert_eq!(cluster.raft(1).stats().snapshots_sent, 1);
    cluster.restart(3);
    assert_eq!(cluster.node(3).restored[0].data, "state of a and b");
    assert_eq!(cluster.node(3).commands(), ["c"]);
}

#[test]
fn s7_entries_after_the_snapshot_are_kept_and_those_before_it_for_a_while() {
    let mut config = config(1);
    config.trailing_entries_max = 1;
    let mut node = Node::founder_with(config, &[1]);
    node.pass(Duration::ZERO);
    for _ in 0..4 {
        node.propose("x").unwrap();
    }
    let raft = &mut node.raft;
    raft.compact(node.now, Index::new(4), Bytes::new()).unwrap();
    assert_eq!(raft.term_at(Index::new(2)), None);
    assert!(raft.term_at(Index::new(4)).is_some());
    assert_eq!(raft.last_index().get(), 6);
    node.drain();
    let first = node.stored.entries.first().unwrap().index;
    assert_eq!(first.get(), 5, "the disk keeps what follows the snapshot");
    assert_eq!(
        node.raft
            .compact(node.now, Index::new(7), Bytes::new())
            .unwrap_err()
            .to_string(),
        "index 7 is not applied yet, 6 is"
    );
    assert_eq!(
        node.raft
            .compact(node.now, Index::new(4), Bytes::new())
            .unwrap_err()
            .to_string(),
        "index 4 is compacted already, the snapshot is at 4"
    );
}

#[test]
fn s7_pieces_that_are_lost_repeated_or_out_of_order_do_no_harm() {
    let mut node = Node::with_log(1, &[1]);
    let chunk = |offset: u64, data: &'static [u8]| Body::Chunk {
        index: 9,
        term: 4,
        membership: membership(&[1, 2, 3], &[]),
        total: 6,
        offset,
        data: Bytes::from_static(data),
    };
    let wanted = |wanted| vec![(2, Body::SnapshotReply { index: 9, wanted })];
    node.feed_at(2, 5, chunk(2, b"cd"));
    assert_eq!(node.take(), wanted(0), "the beginning is missing");
    node.feed_at(2, 5, chunk(0, b"ab"));
    assert_eq!(node.take(), wanted(2));
    node.feed_at(2, 5, chunk(0, b"ab"));
    assert_eq!(node.take(), wanted(2));
    node.feed_at(2, 5, chunk(4, b"ef"));
    assert_eq!(node.take(), wanted(2));
    node.feed_at(2, 5, chunk(2, b"cd"));
    assert_eq!(node.take(), wanted(4));
    assert!(node.restored.is_empty());
    node.feed_at(2, 5, chunk(4, b"ef"));
    assert_eq!(node.take(), [(2, Body::Accepted { matched: 9 })]);
    assert_eq!(node.restored[0].data, "abcdef");
    node.feed_at(2, 5, chunk(4, b"ef"));
    assert_eq!(node.take(), [(2, Body::Accepted { matched: 9 })]);
    assert_eq!(node.restored.len(), 1);
}

// §8 Client interaction

#[test]
fn s8_a_term_begins_with_an_entry_that_no_application_sees() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.campaign();
    node.win(2);
    let entries: Vec<Payload> = node
        .take()
        .into_iter()
        .filter_map(|(_, body)| match body {
            Body::Append { entries, .. } => Some(entries.into_iter().map(|(_, payload)| payload)),
            _ => None,
        })
        .flatten()
        .collect();
    assert!(entries.iter().all(|payload| *payload == Payload::Noop));
    node.feed(2, Body::Accepted { matched: 2 });
    assert_eq!(node.raft.applied().get(), 2);
    assert!(node.applied.is_empty());
}

#[test]
fn s8_proposals_go_to_the_leader() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    assert_eq!(
        node.propose("x"),
        Err(ProposeError::NotLeader { leader: None })
    );
    node.append((2, 1), (1, 0), &[], 1);
    let leader = Some(id(2));
    assert_eq!(node.propose("x"), Err(ProposeError::NotLeader { leader }));
    assert_eq!(
        node.raft.transfer(node.now, id(1)),
        Err(TransferError::NotLeader { leader })
    );
    assert_eq!(
        node.change(Change::Remove(id(3))),
        Err(ChangeError::Propose(ProposeError::NotLeader { leader }))
    );
}

// Thesis §3.10 Leadership transfer

#[test]
fn t3_10_leadership_goes_to_the_chosen_one_at_once() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    cluster.propose(1, "x");
    let node = cluster.node(1);
    node.raft.transfer(node.now, id(3)).unwrap();
    node.drain();
    assert_eq!(
        node.propose("y"),
        Err(ProposeError::Transferring { to: id(3) })
    );
    cluster.settle();
    assert!(
        cluster.raft(3).is_leader(),
        "without waiting for a time-out"
    );
    assert_eq!(cluster.raft(1).leader(), Some(id(3)));
}

#[test]
fn t3_10_a_transfer_that_does_not_happen_is_given_up() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    cluster.cut(1, 3);
    let node = cluster.node(1);
    node.raft.transfer(node.now, id(3)).unwrap();
    node.drain();
    cluster.pass(ELECTION);
    let node = cluster.node(1);
    assert!(node.events.contains(&Event::TransferFailed { to: id(3) }));
    assert!(node.propose("y").is_ok());
}

// Thesis §4 Membership changes

#[test]
fn t4_1_a_membership_is_in_force_as_soon_as_it_is_in_the_log() {
    let mut node = Node::leader();
    node.change(Change::Remove(id(3))).unwrap();
    assert_eq!(*node.raft.membership(), membership(&[1, 2], &[]));
    assert!(!node.raft.is_membership_committed());
    node.feed(3, Body::Accepted { matched: 3 });
    assert_eq!(node.raft.commit().get(), 2, "3 no longer counts");
    node.feed(2, Body::Accepted { matched: 3 });
    assert_eq!(node.raft.commit().get(), 3);
    let changes: Vec<bool> = node
        .events
        .iter()
        .filter_map(|event| match event {
            Event::MembershipChanged {
                index, committed, ..
            } if index.get() == 3 => Some(*committed),
            _ => None,
        })
        .collect();
    assert_eq!(changes, [false, true]);
}

#[test]
fn t4_1_one_change_at_a_time() {
    let mut node = Node::leader();
    node.change(Change::Remove(id(3))).unwrap();
    let index = Index::new(3);
    assert_eq!(
        node.change(Change::AddLearner(id(4))),
        Err(ChangeError::InProgress { index })
    );
    node.feed(2, Body::Accepted { matched: 3 });
    assert!(node.change(Change::AddLearner(id(4))).is_ok());
}

#[test]
fn t4_2_1_a_newcomer_learns_first_and_votes_when_it_has_caught_up() {
    let mut cluster = Cluster::with(3, |config| config.entries_per_append_max = 2);
    cluster.elect(1);
    for _ in 0..10 {
        cluster.propose(1, "x");
    }
    cluster.add_joiner(4);
    assert_eq!(cluster.raft(4).role(), Role::Learner);
    cluster.isolate(4);
    cluster.change(1, Change::AddLearner(id(4))).unwrap();
    assert_eq!(
        cluster.change(1, Change::Promote(id(4))),
        Err(ChangeError::NotCaughtUp {
            id: id(4),
            matched: Index::ZERO,
            last: cluster.raft(1).last_index(),
        })
    );
    cluster.heal();
    cluster.pass(HEARTBEAT * 2);
    assert_eq!(cluster.node(4).commands().len(), 10);
    assert_eq!(cluster.raft(4).role(), Role::Learner);
    cluster.change(1, Change::Promote(id(4))).unwrap();
    cluster.pass(HEARTBEAT);
    assert_eq!(cluster.raft(4).role(), Role::Follower);
    assert_eq!(cluster.raft(1).membership().voters().count(), 4);
    cluster.isolate(1);
    cluster.isolate(2);
    cluster.pass(ELECTION * 4);
    assert!(!cluster.raft(3).is_leader(), "two of four are no quorum");
    assert!(!cluster.raft(4).is_leader());
    cluster.heal();
    cluster.crash(1);
    cluster.pass(ELECTION * 4);
    let leader = cluster.leader();
    cluster.propose(leader, "y");
}

#[test]
fn t4_2_1_a_learner_counts_for_nothing() {
    let mut node = Node::leader();
    node.change(Change::Demote(id(3))).unwrap();
    node.feed(2, Body::Accepted { matched: 3 });
    node.propose("x").unwrap();
    node.feed(3, Body::Accepted { matched: 4 });
    assert_eq!(node.raft.commit().get(), 3);
    node.feed(2, Body::Accepted { matched: 4 });
    assert_eq!(node.raft.commit().get(), 4);
}

#[test]
fn t4_2_1_a_learner_forgets_a_leader_that_is_silent() {
    let mut cluster = Cluster::new(1);
    cluster.elect(1);
    cluster.add_joiner(2);
    cluster.change(1, Change::AddLearner(id(2))).unwrap();
    cluster.pass(HEARTBEAT * 2);
    cluster.pass(ELECTION * 4);
    assert_eq!(cluster.raft(2).leader(), Some(id(1)));
    cluster.cut(1, 2);
    cluster.pass(ELECTION * 2);
    assert_eq!(cluster.raft(2).leader(), None);
    assert_eq!(cluster.raft(2).role(), Role::Learner);
}

#[test]
fn t4_2_2_a_removed_leader_leads_until_its_removal_is_committed() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    let node = cluster.node(1);
    node.change(Change::Remove(id(1))).unwrap();
    assert!(node.raft.is_leader());
    node.propose("x").unwrap();
    cluster.settle();
    assert!(!cluster.raft(1).is_leader());
    assert_eq!(cluster.raft(1).role(), Role::Learner, "it never campaigns");
    let leader = cluster.leader();
    assert_eq!(*cluster.raft(leader).membership(), membership(&[2, 3], &[]));
    cluster.propose(leader, "y");
    assert_eq!(cluster.node(leader).commands(), ["x", "y"]);
    cluster.pass(ELECTION * 4);
    assert!(cluster.raft(leader).is_leader(), "the removed one is quiet");
    assert_eq!(cluster.raft(1).leader(), None, "nobody leads it any more");
}

#[test]
fn t4_2_3_voters_are_loyal_to_a_leader_that_lives() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.append((2, 1), (1, 0), &[], 1);
    node.sent.clear();
    node.feed_at(3, 5, vote(9, 4));
    node.feed_at(
        3,
        5,
        Body::PreVote {
            round: 1,
            last_index: 9,
            last_term: 4,
        },
    );
    assert_eq!(node.take(), []);
    assert_eq!(node.raft.term().get(), 1, "its term does not matter either");
    let transfer = Body::Vote {
        last_index: 9,
        last_term: 4,
        transfer: true,
    };
    node.feed_at(3, 5, transfer);
    assert_eq!(
        granted(&node.take()),
        [(3, true)],
        "unless the leader asked for it"
    );
}

#[test]
fn t4_2_3_loyalty_ends_with_the_time_out() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.append((2, 1), (1, 0), &[], 1);
    node.sent.clear();
    node.now += ELECTION; // its own election comes later, at random
    node.feed_at(3, 2, vote(1, 0));
    assert_eq!(granted(&node.take()), [(3, true)]);
}

// Thesis §6.2, §6.4 Serving clients

#[test]
fn t6_2_a_leader_that_no_quorum_answers_steps_down() {
    let mut cluster = Cluster::new(5);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    for lost in [3, 4] {
        cluster.isolate(lost);
    }
    cluster.pass(ELECTION * 4);
    assert!(cluster.raft(1).is_leader(), "three of five are a quorum");
    cluster.isolate(5);
    cluster.pass(ELECTION * 2);
    assert!(!cluster.raft(1).is_leader());
    assert_eq!(cluster.raft(1).stats().quorums_lost, 1);
}

#[test]
fn t6_4_a_read_waits_for_a_quorum_that_confirms_the_leader_after_it_came() {
    let mut node = Node::leader();
    node.pass(HEARTBEAT);
    let old = node.take().into_iter().find_map(|(_, body)| match body {
        Body::Heartbeat { round, .. } => Some(round),
        _ => None,
    });
    let read = node.read();
    node.feed(
        2,
        Body::HeartbeatReply {
            round: old.unwrap(),
        },
    );
    assert_eq!(node.reads, [], "sent before the read came");
    let new = node.take().into_iter().find_map(|(_, body)| match body {
        Body::Heartbeat { round, .. } => Some(round),
        _ => None,
    });
    node.feed(
        2,
        Body::HeartbeatReply {
            round: new.unwrap(),
        },
    );
    assert_eq!(node.reads, [(read, 2)]);
}

#[test]
fn t6_4_many_reads_share_a_round() {
    let mut node = Node::leader();
    let rounds = |node: &mut Node| -> Vec<u64> {
        let rounds: BTreeSet<u64> = node
            .take()
            .into_iter()
            .filter_map(|(_, body)| match body {
                Body::Heartbeat { round, .. } => Some(round),
                _ => None,
            })
            .collect();
        rounds.into_iter().collect()
    };
    for _ in 0..100 {
        node.raft.read_index(node.now, ReadMode::Quorum).unwrap();
    }
    node.drain();
    let [round] = rounds(&mut node)[..] else {
        panic!("one round for all that came together");
    };
    node.feed(2, Body::HeartbeatReply { round });
    assert_eq!(node.reads.len(), 100);
    node.reads.clear();
    // One by one they do not wait for the answer to the first, but the number of rounds has a bound.
    let reads: Vec<_> = (0..100).map(|_| node.read()).collect();
    let first = rounds(&mut node);
    assert_eq!(first.len(), 4);
    node.feed(3, Body::HeartbeatReply { round: first[3] });
    assert_eq!(node.reads.len(), 4);
    let [round] = rounds(&mut node)[..] else {
        panic!("one round for all that waited");
    };
    node.feed(3, Body::HeartbeatReply { round });
    let answered: Vec<_> = node.reads.iter().map(|(read, _)| *read).collect();
    assert_eq!(answered, reads);
}

#[test]
fn t6_4_reads_of_a_deposed_leader_are_lost() {
    let mut node = Node::leader();
    let read = node.read();
    node.append((2, 9), (0, 0), &[], 0);
    assert!(node.events.contains(&Event::ReadLost(read)));
    assert_eq!(node.reads, []);
}

// Thesis §9.6 Pre-vote

#[test]
fn t9_6_a_member_that_cannot_win_does_not_raise_its_term() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let term = cluster.raft(1).term();
    cluster.isolate(3);
    cluster.pass(ELECTION * 20);
    assert_eq!(cluster.raft(3).term(), term);
    assert!(cluster.raft(3).stats().pre_votes > 5);
    cluster.heal();
    cluster.pass(ELECTION);
    assert!(cluster.raft(1).is_leader());
    assert_eq!(cluster.raft(1).term(), term);
    assert_eq!(cluster.raft(3).leader(), Some(id(1)));
}

#[test]
fn t9_6_a_pre_vote_binds_nobody() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    for from in [2, 3] {
        node.feed_at(
            from,
            4,
            Body::PreVote {
                round: from,
                last_index: 1,
                last_term: 0,
            },
        );
    }
    let replies = node.take();
    assert!(replies.iter().all(|(to, body)| *body
        == Body::PreVoteReply {
            round: *to,
            granted: true
        }));
    assert_eq!(node.raft.term().get(), 0);
    assert_eq!(node.stored.hard_state.unwrap().vote, None);
}

#[test]
fn t9_6_a_candidate_of_an_earlier_term_is_told_the_present_one() {
    let mut node = Node::with_log(1, &[1]).restarted_at(5);
    node.feed_at(
        2,
        3,
        Body::PreVote {
            round: 1,
            last_index: 9,
            last_term: 3,
        },
    );
    let (_, reply) = node.messages().remove(0);
    assert_eq!(reply.term, 5);
    assert_eq!(
        reply.body,
        Body::PreVoteReply {
            round: 1,
            granted: false
        }
    );
    let mut candidate = Node::founder(1, &[1, 2, 3]);
    candidate.campaign();
    candidate.feed_at(
        2,
        5,
        Body::PreVoteReply {
            round: 1,
            granted: false,
        },
    );
    assert_eq!(candidate.raft.term().get(), 5);
    assert_eq!(candidate.raft.role(), Role::Follower);
}

// Thesis §10.2.1 Writing to the leader's disk in parallel

#[test]
fn t10_2_1_a_leader_sends_while_it_writes_and_commits_without_itself() {
    let mut node = Node::leader();
    node.fast_disk = false;
    node.propose("x").unwrap();
    assert_eq!(node.take().len(), 2, "sent before it is durable here");
    node.feed(2, Body::Accepted { matched: 3 });
    assert_eq!(node.raft.commit().get(), 2, "one durable copy of three");
    node.feed(3, Body::Accepted { matched: 3 });
    assert_eq!(node.raft.commit().get(), 3, "two durable copies");
    assert!(
        node.applied.is_empty(),
        "but not applied before it is durable here"
    );
    node.write_all();
    assert_eq!(node.commands(), ["x"]);
}

#[test]
fn followers_are_shown_as_they_are() {
    let mut node = Node::leader();
    node.change(Change::AddLearner(id(4))).unwrap();
    let shown: Vec<_> = node
        .raft
        .followers()
        .map(|status| {
            (
                status.id.get(),
                status.is_voter,
                status.matched.get(),
                status.sending,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (2, true, 2, Sending::Replicate),
            (3, true, 2, Sending::Replicate),
            (4, false, 0, Sending::Probe)
        ]
    );
}

impl Node {
    fn restarted_at(self, term: u64) -> Self {
        let config = self.raft.config().clone();
        Self::from_disk(config, self.stored.with_term(term))
    }
}
