//! Cases that have hurt other implementations, by the numbers of the project's reference on Raft (section 4).
//!
//! 5 and 6 are about joint consensus, which this crate does not have. 19 to 21 also live in `disk.rs`, 25 in
//! `properties.rs`.

mod cluster;

use std::time::Duration;

use bytes::Bytes;
use overlay_core::{Instant, Machine};
use overlay_raft::{
    Change, ChangeError, Config, Event, Incarnation, Index, MessageError, Payload, ProposeError,
    ReadError, ReadMode, RestoreError, Restored, Role, TransferError,
};

use cluster::{
    Body, Cluster, ELECTION, GROUP, HEARTBEAT, Message, Node, Stored, command, config, id,
    membership,
};

/// Figure 8 as it is drawn, with the crash that makes the counted entry disappear.
#[test]
fn case_01_an_old_term_on_a_majority_is_not_committed() {
    let make = |number: u64, terms: &[u64]| {
        let stored = Stored::founded(number, &[1, 2, 3, 4, 5], terms).with_term(4);
        Node::from_disk(config(number), stored)
    };
    // (c): 1 was leader in term 2, crashed, leads again in term 5 and has copied its entry of term 2 to 3.
    let logs: [&[u64]; 5] = [&[1, 2], &[1, 2], &[1, 2], &[1], &[1, 3]];
    let nodes = logs
        .iter()
        .zip(1..)
        .map(|(terms, number)| make(number, terms));
    let mut cluster = Cluster::from_nodes(nodes.collect());
    for to in 2..=5 {
        cluster.cut(1, to);
    }
    let node = cluster.node(1);
    node.campaign();
    node.win(2);
    node.win(3);
    node.win(2);
    assert!(node.raft.is_leader());
    for follower in [2, 3] {
        node.feed(follower, Body::Accepted { matched: 3 });
    }
    assert_eq!(node.raft.commit().get(), 1, "entry 3 is of term 2");
    cluster.crash(1);
    // (d): 5 may be elected and overwrite it.
    cluster.heal();
    cluster.elect(5);
    cluster.pass(HEARTBEAT * 2);
    for number in 2..=5 {
        assert_eq!(cluster.node(number).terms()[..2], [1, 3]);
        assert_eq!(cluster.node(number).commands(), ["1", "3"]);
    }
}

#[test]
fn case_02_a_read_at_a_fresh_leader_waits_for_an_entry_of_its_term() {
    let mut node = Node::with_log(1, &[1, 1]);
    node.campaign();
    node.win(2);
    assert_eq!(node.raft.commit().get(), 1);
    let read = node.read();
    for round in 1..=3 {
        node.feed(2, Body::HeartbeatReply { round });
    }
    assert_eq!(node.reads, [], "entries 2 and 3 may have been acknowledged");
    node.feed(2, Body::Accepted { matched: 4 });
    assert_eq!(node.reads, [(read, 4)]);
    assert_eq!(node.commands(), ["1", "1"], "applied before it is answered");
}

#[test]
fn case_03_a_read_during_a_transfer_is_confirmed_or_lost_never_guessed() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    let node = cluster.node(1);
    node.raft.transfer(node.now, id(2)).unwrap();
    node.drain();
    let read = node.read();
    assert_eq!(node.reads, []);
    // The successor is elected by 3 before the old leader hears of it.
    for _ in 0..2 {
        cluster.cut(2, 1);
        cluster.cut(3, 1);
    }
    cluster.settle();
    assert!(cluster.raft(2).is_leader());
    cluster.propose(2, "new");
    assert!(cluster.raft(1).is_leader(), "it does not know yet");
    assert_eq!(cluster.node(1).reads, []);
    cluster.heal();
    cluster.pass(HEARTBEAT * 2);
    assert!(cluster.node(1).events.contains(&Event::ReadLost(read)));
}

#[test]
fn case_04_a_single_member_commits_again_what_it_holds_before_it_serves() {
    let mut node = Node::founder(1, &[1]);
    node.pass(Duration::ZERO);
    for _ in 0..3 {
        node.propose("x").unwrap();
    }
    assert_eq!(node.commands().len(), 3);
    let stored = node.stored.hard_state.as_ref().unwrap();
    assert!(stored.commit < node.raft.commit(), "{stored:?}");
    node.fast_disk = false;
    node.restart();
    assert_eq!(
        node.raft.read_index(node.now, ReadMode::Quorum),
        Err(ReadError::NoLeader)
    );
    node.fast_disk = true;
    node.write_all();
    let read = node.read();
    assert_eq!(node.commands().len(), 3);
    assert_eq!(node.reads, [(read, node.raft.commit().get())]);
}

#[test]
fn case_07_the_newest_membership_of_the_log_holds_also_after_a_restart() {
    let mut node = Node::leader();
    node.change(Change::Remove(id(3))).unwrap();
    node.restart();
    assert_eq!(*node.raft.membership(), membership(&[1, 2], &[]));
    assert!(!node.raft.is_membership_committed());
    // Another leader does not have it.
    node.append((2, 5), (2, 1), &[5], 3);
    assert_eq!(*node.raft.membership(), membership(&[1, 2, 3], &[]));
    let rolled_back = Event::MembershipChanged {
        index: Index::new(1),
        membership: membership(&[1, 2, 3], &[]),
        committed: true,
    };
    assert!(node.events.contains(&rolled_back));
    node.restart();
    assert_eq!(*node.raft.membership(), membership(&[1, 2, 3], &[]));
}

#[test]
fn case_07_two_voters_become_one_also_through_a_restart() {
    let mut cluster = Cluster::new(2);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    cluster.cut(2, 1);
    cluster.change(1, Change::Remove(id(2))).unwrap();
    assert!(cluster.raft(1).is_membership_committed(), "one of one");
    cluster.crash(2);
    cluster.restart(1);
    cluster.pass(Duration::from_millis(10));
    assert!(cluster.raft(1).is_leader(), "nobody else is needed");
}

#[test]
fn case_08_a_leaving_member_is_sent_entries_until_its_removal_is_committed() {
    let mut node = Node::leader();
    node.change(Change::Remove(id(3))).unwrap();
    node.propose("x").unwrap();
    let to: Vec<u64> = node.take().into_iter().map(|(to, _)| to).collect();
    assert_eq!(to, [2, 3, 2, 3]);
    node.feed(3, Body::Accepted { matched: 4 });
    node.feed(2, Body::Accepted { matched: 4 });
    let last = node.take();
    let told = Body::Commit { commit: 4 };
    assert!(
        last.contains(&(3, told)),
        "it learns that it left: {last:?}"
    );
    node.pass(HEARTBEAT * 3);
    assert!(node.take().iter().all(|(to, _)| *to == 2));
}

#[test]
fn case_09_a_removed_leader_does_not_count_itself_and_steps_down_when_told() {
    let mut node = Node::leader();
    node.change(Change::Remove(id(1))).unwrap();
    node.feed(2, Body::Accepted { matched: 3 });
    assert_eq!(
        node.raft.commit().get(),
        2,
        "2 alone is no quorum of 2 and 3"
    );
    assert!(node.raft.is_leader(), "not earlier");
    node.sent.clear();
    node.feed(3, Body::Accepted { matched: 3 });
    assert!(!node.raft.is_leader());
    let sent = node.take();
    let tells = |to: u64| {
        sent.iter()
            .any(|(at, body)| *at == to && *body == Body::Commit { commit: 3 })
    };
    assert!(tells(2) && tells(3), "{sent:?}");
    assert!(sent.iter().any(|(_, body)| *body == Body::TimeoutNow));
    node.pass(ELECTION * 10);
    assert_eq!(node.take(), [], "no more heartbeats, no campaign");
}

#[test]
fn case_09_a_demoted_leader_steps_down_and_goes_on_as_learner() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    cluster.change(1, Change::Demote(id(1))).unwrap();
    cluster.pass(ELECTION);
    assert_eq!(cluster.raft(1).role(), Role::Learner);
    let leader = cluster.leader();
    cluster.propose(leader, "x");
    cluster.pass(HEARTBEAT);
    assert_eq!(cluster.node(1).commands(), ["x"]);
}

/// The erratum to the thesis: a leader that has committed nothing of its term does not know which membership holds.
#[test]
fn case_10_no_change_before_an_entry_of_the_own_term_is_committed() {
    let mut node = Node::founder(1, &[1, 2, 3, 4]);
    node.campaign();
    node.win(2);
    node.win(3);
    node.win(2);
    assert!(node.raft.is_leader());
    assert_eq!(
        node.change(Change::AddLearner(id(5))),
        Err(ChangeError::NotReady {
            term: node.raft.term()
        })
    );
    node.feed(2, Body::Accepted { matched: 2 });
    assert!(
        node.change(Change::AddLearner(id(5))).is_err(),
        "two of four"
    );
    node.feed(3, Body::Accepted { matched: 2 });
    assert!(node.change(Change::AddLearner(id(5))).is_ok());
}

#[test]
fn case_11_a_member_campaigns_with_the_membership_of_its_log_not_of_its_state() {
    // 3 holds the entry that removes 1, but knows of nothing committed and has applied nothing.
    let mut node = Node::with_log(3, &[1]);
    let entries = vec![(2, Payload::Membership(membership(&[2, 3, 4], &[])))];
    let append = Body::Append {
        previous: 2,
        previous_term: 1,
        commit: 0,
        entries,
    };
    node.feed_at(2, 2, append);
    assert_eq!(node.raft.applied().get(), 1);
    node.sent.clear();
    node.campaign();
    let asked: Vec<u64> = node.take().into_iter().map(|(to, _)| to).collect();
    assert_eq!(asked, [2, 4]);
}

#[test]
fn case_12_a_learner_that_does_not_know_of_its_promotion_votes() {
    let mut cluster = Cluster::new(1);
    cluster.pass(Duration::from_millis(10));
    cluster.add_joiner(2);
    cluster.add_joiner(3);
    for newcomer in [2, 3] {
        cluster.change(1, Change::AddLearner(id(newcomer))).unwrap();
        cluster.pass(HEARTBEAT * 2);
    }
    cluster.change(1, Change::Promote(id(2))).unwrap();
    cluster.pass(HEARTBEAT * 2);
    cluster.cut(1, 3);
    cluster.change(1, Change::Promote(id(3))).unwrap();
    assert!(cluster.raft(1).is_membership_committed(), "1 and 2 hold it");
    assert_eq!(cluster.raft(3).role(), Role::Learner, "3 does not");
    cluster.crash(1);
    cluster.pass(ELECTION * 5);
    assert!(cluster.raft(2).is_leader(), "by the vote of 3");
    assert_eq!(cluster.raft(3).role(), Role::Follower);
}

#[test]
fn case_12_a_member_whose_removal_only_its_own_disk_holds_brings_it_back() {
    let mut cluster = Cluster::new(2);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    cluster.node(1).fast_disk = false;
    cluster.change(1, Change::Remove(id(2))).unwrap();
    assert_eq!(*cluster.raft(2).membership(), membership(&[1], &[]));
    assert!(
        !cluster.raft(1).is_membership_committed(),
        "1 has not written it"
    );
    cluster.crash(1);
    cluster.node(1).fast_disk = true;
    cluster.restart(1);
    assert_eq!(*cluster.raft(1).membership(), membership(&[1, 2], &[]));
    cluster.crash(2);
    cluster.restart(2);
    // 1 needs the vote of 2, whose log is longer: only 2 can be elected, by the vote of 1 alone.
    cluster.pass(ELECTION * 10);
    assert!(cluster.raft(1).is_leader());
    assert_eq!(*cluster.raft(1).membership(), membership(&[1], &[]));
    assert!(cluster.raft(1).is_membership_committed());
    assert_eq!(cluster.raft(2).role(), Role::Learner);
}

#[test]
fn case_13_late_votes_and_pre_votes_change_nothing() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.campaign();
    let old = node
        .messages()
        .into_iter()
        .find_map(|(_, message)| match message.body {
            Body::PreVote { round, .. } => Some(round),
            _ => None,
        });
    let old = Body::PreVoteReply {
        round: old.unwrap(),
        granted: true,
    };
    node.pass(ELECTION * 2); // another attempt
    node.feed(2, old.clone());
    assert_eq!(
        node.raft.role(),
        Role::PreCandidate,
        "of an earlier attempt"
    );
    node.win(2);
    assert_eq!(node.raft.role(), Role::Leader);
    let (term, commit) = (node.raft.term(), node.raft.commit());
    node.feed_at(3, 0, old);
    node.feed(3, Body::VoteReply { granted: true });
    node.feed(3, Body::VoteReply { granted: false });
    assert_eq!(node.raft.role(), Role::Leader);
    node.append((2, 9), (0, 0), &[], 0);
    node.feed_at(3, term.get(), Body::VoteReply { granted: true });
    node.feed_at(3, term.get(), Body::Accepted { matched: 2 });
    node.feed_at(3, term.get(), Body::HeartbeatReply { round: 1 });
    assert_eq!(node.raft.role(), Role::Follower);
    assert_eq!(node.raft.commit(), commit);
}

#[test]
fn case_13_an_own_vote_that_becomes_durable_late_does_not_count() {
    let mut node = Node::alone_with_slow_disk(); // a candidate, its vote is being written
    assert_eq!(node.raft.role(), Role::Candidate);
    let term = node.raft.term().get();
    node.append((2, term + 1), (1, 0), &[], 1);
    node.write_all();
    assert_eq!(node.raft.role(), Role::Follower);
}

#[test]
fn case_14_a_member_that_comes_back_disturbs_nobody() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    let term = cluster.raft(1).term();
    for _ in 0..5 {
        cluster.isolate(3);
        cluster.pass(ELECTION * 5);
        cluster.heal();
        cluster.propose(1, "x");
        cluster.pass(HEARTBEAT * 3);
        assert_eq!(cluster.leader(), 1);
        assert_eq!(cluster.raft(1).term(), term);
    }
    assert_eq!(cluster.node(3).commands().len(), 5);
}

/// A term can be raised without an election won, say by a transfer that fails. The member must get back in.
#[test]
fn case_14_a_member_with_a_higher_term_is_taken_in_again() {
    let stored = Stored::founded(3, &[1, 2, 3], &[]).with_term(9);
    let nodes = vec![
        Node::founder(1, &[1, 2, 3]),
        Node::founder(2, &[1, 2, 3]),
        Node::from_disk(config(3), stored),
    ];
    let mut cluster = Cluster::from_nodes(nodes);
    cluster.isolate(3);
    cluster.elect(1);
    cluster.heal();
    cluster.pass(ELECTION * 5);
    let leader = cluster.leader();
    assert!(cluster.raft(leader).term().get() > 9);
    cluster.propose(leader, "x");
    cluster.pass(HEARTBEAT * 2);
    assert_eq!(cluster.node(3).commands(), ["x"]);
}

#[test]
fn case_15_a_snapshot_that_contradicts_the_log_takes_its_place() {
    let chunk = |term| Body::Chunk {
        index: 3,
        term,
        membership: membership(&[1, 2, 3], &[]),
        total: 1,
        offset: 0,
        data: Bytes::from_static(b"s"),
    };
    let mut node = Node::with_log(1, &[1, 1, 1, 1]);
    node.feed_at(2, 5, chunk(2));
    assert_eq!(
        node.raft.last_index().get(),
        3,
        "nothing of the old log stays"
    );
    assert_eq!(node.restored.len(), 1);
    assert_eq!(node.take(), [(2, Body::Accepted { matched: 3 })]);
    node.append((2, 5), (3, 2), &[5], 4);
    assert_eq!(node.take(), [(2, Body::Accepted { matched: 4 })], "no loop");
    node.restart();
    assert_eq!(node.raft.last_index().get(), 4);

    let mut node = Node::with_log(1, &[1, 1, 1, 1]);
    node.feed_at(2, 5, chunk(1));
    assert_eq!(
        node.raft.last_index().get(),
        5,
        "what follows a match is kept"
    );
    assert_eq!(node.restored.len(), 0);
    assert_eq!(node.commands(), ["1", "1"], "applied from the log");
    assert_eq!(node.take(), [(2, Body::Accepted { matched: 3 })]);
}

#[test]
fn case_16_a_newcomer_gets_the_snapshot_of_an_idle_leader() {
    let mut cluster = Cluster::with(1, |config| config.trailing_entries_max = 0);
    cluster.pass(Duration::from_millis(10));
    cluster.propose(1, "x");
    cluster.change(1, Change::AddLearner(id(2))).unwrap();
    cluster.compact(1, b"x");
    assert_eq!(
        cluster.raft(1).snapshot_index(),
        cluster.raft(1).last_index()
    );
    cluster.pass(HEARTBEAT * 3); // 2 is not even there yet
    cluster.add_joiner(2);
    cluster.pass(HEARTBEAT * 3);
    assert_eq!(cluster.node(2).restored[0].data, "x");
    assert_eq!(cluster.raft(2).commit(), cluster.raft(1).commit());
    cluster.change(1, Change::Promote(id(2))).unwrap();
}

#[test]
fn case_17_an_obsolete_tail_is_never_committed() {
    let mut node = Node::with_log(1, &[1, 1, 1]);
    node.append((2, 5), (2, 1), &[], 4);
    assert_eq!(
        node.raft.commit().get(),
        2,
        "entries 3 and 4 are not the leader's"
    );
    node.append((2, 5), (2, 1), &[5], 4);
    assert_eq!(node.raft.commit().get(), 3);
    let mut leader = Node::leader();
    leader.propose("x").unwrap();
    leader.feed(2, Body::Accepted { matched: 3 });
    leader.sent.clear();
    leader.pass(HEARTBEAT);
    let heartbeats: Vec<(u64, u64)> = leader
        .take()
        .into_iter()
        .filter_map(|(to, body)| match body {
            Body::Heartbeat { commit, .. } => Some((to, commit)),
            _ => None,
        })
        .collect();
    assert_eq!(
        heartbeats,
        [(2, 3), (3, 2)],
        "no more than each acknowledged"
    );
}

#[test]
fn case_18_reordered_and_repeated_appends_take_nothing_back() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.append((2, 1), (1, 0), &[1, 1, 1], 1);
    node.append((2, 1), (1, 0), &[1], 1);
    node.append((2, 1), (2, 1), &[], 1);
    assert_eq!(
        node.raft.last_index().get(),
        4,
        "an older message is no truncation"
    );
    let matched: Vec<Body> = node.take().into_iter().map(|(_, body)| body).collect();
    assert_eq!(matched, [4, 2, 2].map(|matched| Body::Accepted { matched }));
    node.append((2, 1), (3, 1), &[1, 1], 5);
    node.append((2, 1), (0, 0), &[], 0);
    assert_eq!(
        node.raft.commit().get(),
        5,
        "a commit index is never taken back"
    );
    assert_eq!(node.applied.len(), 4);
}

#[test]
fn case_18_a_leader_that_contradicts_what_is_committed_is_refused() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.append((2, 1), (1, 0), &[1, 1], 3);
    let body = Body::Append {
        previous: 1,
        previous_term: 0,
        commit: 3,
        entries: vec![(2, command("other"))],
    };
    let error = node.try_feed(3, 2, body).unwrap_err();
    assert_eq!(
        error.to_string(),
        "entry 2 is of term 2, but it is committed here with term 1"
    );
    assert_eq!(node.raft.term().get(), 1, "nothing changed");
    assert_eq!(node.terms(), [1, 1]);
}

#[test]
fn case_19_after_a_failed_write_nothing_leaves_any_more() {
    let mut node = Node::leader();
    node.fast_disk = false;
    node.propose("x").unwrap();
    node.propose("y").unwrap();
    node.sent.clear();
    let (_, first) = node.writes.pop_front().unwrap();
    let (_, second) = node.writes.pop_front().unwrap();
    node.raft.handle_persist_failed(node.now, first);
    node.drain();
    assert_eq!(node.events.last(), Some(&Event::Fatal));
    node.raft.handle_persisted(node.now, second);
    node.raft.handle_timeout(node.now + ELECTION * 10);
    node.feed(2, Body::Accepted { matched: 4 });
    node.campaign();
    assert_eq!(node.propose("z"), Err(ProposeError::Stopped));
    assert!(
        node.raft
            .compact(node.now, Index::new(2), Bytes::new())
            .is_err()
    );
    assert_eq!(node.take(), []);
    assert!(node.applied.is_empty());
    assert_eq!(node.raft.poll_timeout(), None);
    assert!(node.raft.is_stopped());
    // Rebuilt from what the disk holds, it never uses (term 1, index 3) again.
    node.restart();
    node.fast_disk = true;
    node.campaign();
    node.win(2);
    assert_eq!(node.terms(), [1, 2]);
}

#[test]
fn case_20_an_empty_disk_alone_is_refused() {
    let start = |restored| {
        overlay_raft::Raft::new(
            config(1),
            overlay_core::Seed::from_u64(1),
            Instant::EPOCH,
            restored,
        )
    };
    let error = start(Restored::empty()).unwrap_err();
    assert_eq!(error, RestoreError::Empty);
    assert_eq!(
        start(Restored::bootstrap([id(2), id(3)])).unwrap_err(),
        RestoreError::NotAmongVoters { id: id(1) }
    );
    assert!(start(Restored::joining()).is_ok());
}

/// The whole story: a voter votes, loses its disk, and is asked again in the same term.
#[test]
fn case_20_a_wiped_voter_does_not_vote_again() {
    let vote = Body::Vote {
        last_index: 1,
        last_term: 0,
        transfer: false,
    };
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.feed_at(2, 1, vote.clone());
    assert_eq!(node.take(), [(2, Body::VoteReply { granted: true })]);
    let mut wiped = Node::joiner(1);
    let request = Message {
        group: GROUP,
        to: 1,
        term: 1,
        incarnation: 0,
        means: Some(0),
        body: vote,
    };
    wiped.feed_message(3, &request).unwrap();
    assert_eq!(wiped.take(), [(3, Body::VoteReply { granted: false })]);
    assert_ne!(wiped.raft.incarnation(), Incarnation::FOUNDER);
    wiped.restart();
    let pre_vote = Body::PreVote {
        round: 1,
        last_index: 1,
        last_term: 0,
    };
    let body = pre_vote;
    wiped.feed_message(3, &Message { body, ..request }).unwrap();
    assert_eq!(
        wiped.take(),
        [(
            3,
            Body::PreVoteReply {
                round: 1,
                granted: false
            }
        )]
    );
}

#[test]
fn case_20_a_wiped_voter_is_noticed_replaced_and_votes_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "x");
    cluster.crash(3);
    cluster.add_joiner(3);
    cluster.restart(3); // an empty disk under the same id
    cluster.pass(HEARTBEAT * 3);
    assert_eq!(cluster.node(3).commands(), ["x"], "it is sent the log");
    assert_eq!(cluster.raft(3).role(), Role::Learner, "but has no vote");
    let lost = Event::VoterLostDisk { id: id(3) };
    assert!(cluster.node(1).events.contains(&lost));
    assert!(cluster.raft(1).followers().any(|status| status.lost_disk));
    assert_eq!(
        {
            let node = cluster.node(1);
            node.raft.transfer(node.now, id(3))
        },
        Err(TransferError::Unreachable { to: id(3) })
    );
    cluster.pass(ELECTION * 5);
    assert_eq!(cluster.leader(), 1, "it does not campaign");

    for change in [
        Change::Remove(id(3)),
        Change::AddLearner(id(3)),
        Change::Promote(id(3)),
    ] {
        cluster.change(1, change).unwrap();
        cluster.pass(HEARTBEAT * 3);
    }
    assert_eq!(cluster.raft(3).role(), Role::Follower);
    cluster.crash(1);
    cluster.pass(ELECTION * 5);
    let leader = cluster.leader();
    cluster.propose(leader, "y");
}

/// What is sent to the disk that is gone must not be believed about the new one.
#[test]
fn case_20_a_commit_index_for_the_lost_disk_is_not_believed() {
    let mut wiped = Node::joiner(3);
    wiped.append((1, 1), (0, 0), &[1, 1], 0);
    let heartbeat = Message {
        group: GROUP,
        to: 3,
        term: 2,
        incarnation: 0,
        means: Some(0),
        body: Body::Heartbeat {
            commit: 2,
            round: 1,
        },
    };
    wiped.feed_message(2, &heartbeat).unwrap();
    assert_eq!(wiped.raft.commit(), Index::ZERO);
}

#[test]
fn case_21_a_vote_is_sent_when_it_is_durable_and_not_before() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.fast_disk = false;
    let vote = |last_index| Body::Vote {
        last_index,
        last_term: 0,
        transfer: false,
    };
    node.feed_at(2, 1, vote(1));
    assert_eq!(node.take(), []);
    let mut crashed = Node::from_disk(config(1), node.stored.clone());
    crashed.feed_at(3, 1, vote(1));
    assert_eq!(
        crashed.take(),
        [(3, Body::VoteReply { granted: true })],
        "it never said anything to 2"
    );
    node.write_all();
    assert_eq!(node.take(), [(2, Body::VoteReply { granted: true })]);
    node.restart();
    node.feed_at(3, 1, vote(1));
    assert_eq!(node.take(), [(3, Body::VoteReply { granted: false })]);
}

#[test]
fn case_21_a_candidate_asks_and_counts_itself_when_its_own_vote_is_durable() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.fast_disk = false;
    node.campaign();
    node.win(2);
    assert_eq!(node.raft.role(), Role::Candidate, "2 voted, but 1 not yet");
    let asks = |node: &Node| {
        node.messages()
            .iter()
            .any(|(_, message)| matches!(message.body, Body::Vote { .. }))
    };
    assert!(!asks(&node));
    node.write_all();
    assert!(asks(&node));
    assert_eq!(node.raft.role(), Role::Leader);
}

#[test]
fn case_21_an_append_is_acknowledged_when_it_is_durable_and_not_before() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.fast_disk = false;
    node.append((2, 1), (1, 0), &[1, 1], 3);
    node.append((2, 1), (3, 1), &[1], 3);
    assert_eq!(node.take(), []);
    assert!(node.applied.is_empty());
    node.write_one();
    assert_eq!(node.take(), [(2, Body::Accepted { matched: 3 })]);
    assert_eq!(node.applied.len(), 2);
    node.write_one();
    assert_eq!(node.take(), [(2, Body::Accepted { matched: 4 })]);
}

/// The tickets of writes whose entries were overwritten meanwhile vouch for nothing (etcd's ABA case).
#[test]
fn case_21_a_ticket_of_an_overwritten_write_vouches_for_nothing() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.fast_disk = false;
    node.append((2, 1), (1, 0), &[1, 1, 1], 1);
    node.append((3, 2), (1, 0), &[2, 2, 2], 4);
    node.write_one();
    assert_eq!(
        node.raft.durable().get(),
        1,
        "the disk holds entries of term 1"
    );
    assert!(
        node.applied.is_empty(),
        "those that are committed are not durable"
    );
    assert_eq!(node.take(), [], "an acknowledgement of term 1 is void");
    node.write_one();
    assert_eq!(node.raft.durable().get(), 4);
    assert_eq!(node.commands(), ["2", "2", "2"]);
    assert_eq!(node.take(), [(3, Body::Accepted { matched: 4 })]);
}

#[test]
fn case_21_a_ticket_covers_all_earlier_ones_and_foreign_ones_nothing() {
    let mut node = Node::founder(1, &[1, 2, 3]);
    let mut other = Node::joiner(4);
    (node.fast_disk, other.fast_disk) = (false, false);
    for index in 1..=4 {
        node.append((2, 1), (index, u64::from(index > 1)), &[1], 5);
        other.append((2, 1), (index - 1, u64::from(index > 1)), &[1], 5);
    }
    assert_eq!(node.writes.len(), 4);
    let (_, foreign) = other.writes.pop_back().unwrap();
    node.raft.handle_persisted(node.now, foreign);
    node.drain();
    assert_eq!(node.take(), []);
    let (_, third) = node.writes.remove(2).unwrap();
    node.raft.handle_persisted(node.now, third);
    node.drain();
    assert_eq!(node.take().len(), 3);
    assert_eq!(node.raft.durable().get(), 4);
    let (_, first) = node.writes.remove(0).unwrap();
    node.raft.handle_persisted(node.now, first);
    node.drain();
    assert_eq!(node.take(), [], "said before");
    assert_eq!(node.raft.durable().get(), 4);
}

#[test]
fn case_22_a_leader_whose_disk_stalls_hands_over_within_a_time_out() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    cluster.node(1).fast_disk = false;
    cluster.propose(1, "x");
    let since = cluster.now;
    cluster.pass(ELECTION - Duration::from_millis(10));
    assert!(cluster.raft(1).is_leader());
    cluster.pass(Duration::from_millis(20));
    assert!(!cluster.raft(1).is_leader());
    let stalled = Event::DiskStalled { since };
    assert!(cluster.node(1).events.contains(&stalled));
    let leader = cluster.leader();
    assert_ne!(leader, 1, "at once, without waiting for a time-out");
    cluster.propose(leader, "y");
    assert_eq!(cluster.node(leader).commands(), ["x", "y"]);
    cluster.pass(ELECTION * 10);
    assert_ne!(cluster.leader(), 1);
    cluster.node(1).write_all();
    cluster.node(1).fast_disk = true;
    cluster.settle();
    cluster.pass(HEARTBEAT * 3);
    assert_eq!(cluster.node(1).commands(), ["x", "y"]);
}

#[test]
fn case_22_a_single_member_with_a_slow_disk_stays_leader() {
    let mut node = Node::founder(1, &[1]);
    node.pass(Duration::ZERO);
    node.fast_disk = false;
    node.propose("x").unwrap();
    node.pass(ELECTION * 5);
    assert!(node.raft.is_leader(), "nobody else could lead");
    node.write_all();
    assert_eq!(node.commands(), ["x"]);
}

#[test]
fn case_23_every_message_passes_the_same_check_of_its_term() {
    let mut node = Node::with_log(1, &[1]).raised(5);
    let before = format!(
        "{:?}",
        (node.terms(), node.raft.commit(), node.raft.leader())
    );
    let chunk = Body::Chunk {
        index: 9,
        term: 4,
        membership: membership(&[1, 2], &[]),
        total: 1,
        offset: 0,
        data: Bytes::from_static(b"s"),
    };
    let append = Body::Append {
        previous: 1,
        previous_term: 0,
        commit: 9,
        entries: vec![(4, command("x"))],
    };
    for body in [
        append,
        chunk,
        Body::Heartbeat {
            commit: 9,
            round: 1,
        },
        Body::TimeoutNow,
        Body::Accepted { matched: 9 },
        Body::HeartbeatReply { round: 9 },
        Body::VoteReply { granted: true },
        Body::SnapshotReply {
            index: 9,
            wanted: 0,
        },
    ] {
        node.feed_at(2, 4, body);
    }
    let after = format!(
        "{:?}",
        (node.terms(), node.raft.commit(), node.raft.leader())
    );
    assert_eq!(before, after);
    assert_eq!(node.raft.role(), Role::Follower);
    assert_eq!(node.raft.term().get(), 5);
}

#[test]
fn case_24_a_transfer_waits_for_the_target_or_is_refused() {
    let mut node = Node::leader();
    node.propose("x").unwrap();
    node.raft.transfer(node.now, id(2)).unwrap();
    node.drain();
    let asked = |node: &mut Node| {
        node.take()
            .into_iter()
            .any(|(to, body)| to == 2 && body == Body::TimeoutNow)
    };
    assert!(!asked(&mut node), "2 lacks entry 3");
    node.feed(2, Body::Accepted { matched: 3 });
    assert!(asked(&mut node));
    assert_eq!(
        node.raft.transfer(node.now, id(3)),
        Err(TransferError::InProgress { to: id(2) })
    );

    let mut node = Node::leader();
    node.change(Change::AddLearner(id(4))).unwrap();
    for (to, expected) in [
        (1, TransferError::AlreadyLeader { to: id(1) }),
        (4, TransferError::NotVoter { to: id(4) }),
        (9, TransferError::NotVoter { to: id(9) }),
    ] {
        assert_eq!(node.raft.transfer(node.now, id(to)), Err(expected));
    }
    for _ in 0..5 {
        node.pass(ELECTION / 5);
        node.feed(3, Body::HeartbeatReply { round: 1 });
    }
    assert_eq!(
        node.raft.transfer(node.now, id(2)),
        Err(TransferError::Unreachable { to: id(2) })
    );
    assert!(node.raft.transfer(node.now, id(3)).is_ok());
}

#[test]
fn case_24_a_target_without_a_vote_does_not_campaign() {
    let mut node = Node::joiner(4);
    node.append((2, 1), (0, 0), &[1], 0);
    node.feed(2, Body::TimeoutNow);
    assert_eq!(node.raft.role(), Role::Learner);
    let mut node = Node::founder(1, &[1, 2, 3]);
    node.append((2, 1), (1, 0), &[], 1);
    node.feed(3, Body::TimeoutNow); // not the leader
    assert_eq!(node.raft.role(), Role::Follower);
    node.feed(2, Body::TimeoutNow);
    assert_eq!(node.raft.role(), Role::Candidate);
}

#[test]
fn case_26_a_leader_that_reaches_nobody_takes_no_more_than_it_may() {
    let adjust = |config: &mut Config| config.uncommitted_bytes_max = 1_000;
    let mut cluster = Cluster::with(3, adjust);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    cluster.isolate(1);
    let mut taken = 0;
    let error = loop {
        match cluster.node(1).propose("0123456789") {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100, "memory grows");
    };
    assert_eq!(taken, 1_000 / 74);
    assert_eq!(
        error,
        ProposeError::Busy {
            bytes: 74 * taken,
            bytes_max: 1_000
        }
    );
    assert_eq!(cluster.raft(1).uncommitted_bytes(), 74 * taken);
    cluster.heal();
    cluster.pass(HEARTBEAT * 4);
    assert!(cluster.raft(1).is_leader());
    assert_eq!(cluster.raft(1).uncommitted_bytes(), 0);
    cluster.propose(1, "x");
}

#[test]
fn case_26_a_full_log_refuses_until_it_is_compacted() {
    let mut config = config(1);
    config.log_bytes_max = 500;
    config.trailing_entries_max = 0;
    let mut node = Node::founder_with(config.clone(), &[1]);
    node.pass(Duration::ZERO);
    let error = loop {
        if let Err(error) = node.propose("x") {
            break error;
        }
    };
    assert!(matches!(error, ProposeError::LogFull { .. }), "{error}");
    let applied = node.raft.applied();
    node.raft.compact(node.now, applied, Bytes::new()).unwrap();
    node.drain();
    assert!(node.propose("x").is_ok());

    config.id = id(1);
    let mut follower = Node::founder_with(config, &[1, 2, 3]);
    follower.append((2, 1), (1, 0), &[1, 1], 3);
    let body = |length| Body::Append {
        previous: 3,
        previous_term: 1,
        commit: 3,
        entries: vec![(1, command(&"x".repeat(length)))],
    };
    let error = follower.try_feed(2, 1, body(800)).unwrap_err();
    assert!(matches!(
        error,
        MessageError::LogFull {
            bytes_max: 1_000,
            ..
        }
    ));
    follower.feed(2, body(600));
    assert_eq!(follower.raft.last_index().get(), 4);
}

#[test]
fn a_proposal_is_lost_when_something_else_is_committed_in_its_place_and_not_before() {
    let mut node = Node::leader();
    let proposal = node.propose("x").unwrap();
    node.append((2, 2), (2, 1), &[2], 2);
    let lost = Event::ProposalLost(proposal);
    assert!(
        !node.events.contains(&lost),
        "a copy of it may yet be committed by a third member (figure 8)"
    );
    node.append((2, 2), (3, 2), &[], 3);
    assert!(node.events.contains(&lost));
    let mut node = Node::leader();
    let proposal = node.propose("x").unwrap();
    node.feed_at(2, 2, whole_snapshot());
    assert!(node.events.contains(&Event::ProposalUnknown(proposal)));
}

#[test]
fn a_cluster_is_rebuilt_from_one_survivor_under_a_new_number() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "x");
    cluster.cut(1, 3);
    cluster.propose(1, "y");
    cluster.pass(HEARTBEAT);
    let stored = cluster.node(2).stored.clone();
    let restored = stored.restore().recover(8).unwrap();
    let mut new = config(2);
    new.group = 8;
    let mut survivor = Node::new(new.clone(), Instant::EPOCH, Stored::default(), restored);
    survivor.pass(Duration::ZERO);
    assert!(survivor.raft.is_leader());
    assert_eq!(survivor.commands(), ["x", "y"]);
    survivor.propose("z").unwrap();
    survivor.restart();
    survivor.pass(Duration::ZERO);
    assert_eq!(survivor.commands(), ["x", "y", "z"]);
    assert_eq!(
        survivor.try_feed(1, 99, Body::TimeoutNow),
        Err(MessageError::WrongGroup {
            expected: 8,
            found: GROUP
        })
    );
    let restored = stored.restore();
    let start = overlay_raft::Raft::new(
        new,
        overlay_core::Seed::from_u64(1),
        Instant::EPOCH,
        restored,
    );
    assert_eq!(
        start.unwrap_err(),
        RestoreError::WrongGroup {
            expected: 8,
            found: GROUP
        }
    );
}

impl Node {
    /// Starts it again in a higher term.
    fn raised(self, term: u64) -> Self {
        let config = self.raft.config().clone();
        Self::from_disk(config, self.stored.with_term(term))
    }
}

/// What is kept for slow followers leaves room, however large commands are.
#[test]
fn a_log_of_large_commands_has_room_again_once_it_is_compacted() {
    let config = Config {
        log_bytes_max: 100_000,
        ..config(1)
    };
    let mut node = Node::founder_with(config, &[1]);
    let large = "x".repeat(2_000);
    for round in 0..200 {
        if node.propose(&large).is_err() {
            let applied = node.raft.applied();
            node.raft.compact(node.now, applied, Bytes::new()).unwrap();
            node.drain();
            node.propose(&large)
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
    }
    assert!(node.raft.log_bytes() <= 100_000);
    assert!(node.raft.snapshot_index() > Index::new(100));
}

/// A follower that lost what it had received and was then sent the first pieces again, by the network, wants what is
/// behind the leader's offset, and not from the beginning either.
#[test]
fn a_snapshot_goes_on_from_wherever_the_follower_is() {
    let config = Config {
        trailing_entries_max: 0,
        snapshot_chunk_bytes_max: 10,
        ..config(1)
    };
    let mut node = Node::founder_with(config, &[1, 2, 3]);
    node.campaign();
    node.win(2);
    node.feed(2, Body::Accepted { matched: 2 });
    node.propose("x").unwrap();
    node.feed(2, Body::Accepted { matched: 3 });
    node.raft
        .compact(node.now, Index::new(3), Bytes::from_static(&[7; 50]))
        .unwrap();
    node.drain();
    node.take();
    let sent = |node: &mut Node| -> Vec<u64> {
        node.take()
            .into_iter()
            .filter_map(|(to, body)| match body {
                Body::Chunk { offset, .. } if to == 3 => Some(offset),
                _ => None,
            })
            .collect()
    };
    node.feed(
        3,
        Body::Rejected {
            previous: 1,
            hint: 0,
            hint_term: 0,
        },
    );
    node.pass(HEARTBEAT * 3);
    assert!(sent(&mut node).contains(&0));
    for (wanted, then) in [
        (10, vec![10]),
        (40, vec![40]),
        (20, vec![20]),
        (20, vec![]),
        (0, vec![0]),
    ] {
        node.feed(3, Body::SnapshotReply { index: 3, wanted });
        assert_eq!(sent(&mut node), then, "{wanted} is wanted");
    }
}

/// Each proposal has its end, also one whose index its own proposer has used again in a later term.
#[test]
fn proposals_of_two_terms_at_one_index_have_an_end_each() {
    let mut node = Node::leader();
    let earlier = ["a", "b", "c"].map(|text| node.propose(text).unwrap());
    // Another leader cuts them off; then this one leads again.
    node.append((2, 2), (2, 1), &[2], 2);
    node.pass(ELECTION * 2);
    node.take();
    node.campaign();
    node.win(3);
    assert_eq!(node.raft.role(), Role::Leader);
    let later = node.propose("d").unwrap();
    assert_eq!(later.index, earlier[2].index);
    let matched = later.index.get();
    node.feed(3, Body::Accepted { matched });
    let lost: Vec<_> = earlier.map(Event::ProposalLost).into();
    assert_eq!(lost_of(&node), lost);
    assert_eq!(node.commands().last().map(String::as_str), Some("d"));
}

#[test]
fn a_proposal_ends_before_earlier_ones_at_higher_indexes_do() {
    let mut node = Node::leader();
    let earlier = ["a", "b", "c", "d", "e"].map(|text| node.propose(text).unwrap());
    node.append((2, 2), (2, 1), &[2], 2);
    node.pass(ELECTION * 2);
    node.take();
    node.campaign();
    node.win(3);
    let later = node.propose("f").unwrap();
    assert_eq!(later.index, earlier[2].index);
    // Cut off as well, and the fate of that index decided, while the one of those behind it is open.
    node.append((2, 4), (3, 2), &[4, 4], 5);
    let [a, b, c, ..] = earlier.map(Event::ProposalLost);
    assert_eq!(lost_of(&node), [a, b, c, Event::ProposalLost(later)]);
}

#[test]
fn a_change_ends_with_word_of_its_commit_or_of_its_loss() {
    let ends = |node: &Node| -> Vec<Event> {
        let is_end = |event: &&Event| {
            matches!(
                event,
                Event::ChangeCommitted(_) | Event::ProposalLost(_) | Event::ProposalUnknown(_)
            )
        };
        node.events.iter().filter(is_end).cloned().collect()
    };
    let started = || {
        let mut node = Node::leader();
        let change = node.change(Change::AddLearner(id(4))).unwrap();
        assert_eq!(ends(&node), []);
        (node, change)
    };
    // Committed by whoever proposed it.
    let (mut node, change) = started();
    let matched = change.index.get();
    node.feed(2, Body::Accepted { matched });
    assert_eq!(ends(&node), [Event::ChangeCommitted(change)]);
    node.propose("x").unwrap();
    node.feed(
        2,
        Body::Accepted {
            matched: matched + 1,
        },
    );
    assert_eq!(ends(&node), [Event::ChangeCommitted(change)]);
    // By another leader.
    let (mut node, change) = started();
    node.append((2, 2), (matched, 1), &[2], matched + 1);
    assert_eq!(ends(&node), [Event::ChangeCommitted(change)]);
    // Overwritten.
    let (mut node, change) = started();
    node.append((2, 2), (matched - 1, 1), &[2], matched);
    assert_eq!(ends(&node), [Event::ProposalLost(change)]);
    // Contained in a snapshot, or not.
    let (mut node, change) = started();
    node.feed_at(2, 2, whole_snapshot());
    node.append((2, 2), (9, 2), &[2], 10);
    assert_eq!(ends(&node), [Event::ProposalUnknown(change)]);
}

fn lost_of(node: &Node) -> Vec<Event> {
    let lost = |event: &&Event| matches!(event, Event::ProposalLost(_));
    node.events.iter().filter(lost).cloned().collect()
}

/// A snapshot at index 9 that is complete with its first piece.
fn whole_snapshot() -> Body {
    Body::Chunk {
        index: 9,
        term: 2,
        membership: membership(&[1, 2, 3], &[]),
        total: 0,
        offset: 0,
        data: Bytes::new(),
    }
}
