//! What comes together leaves together: how many messages and writes there are.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod cluster;

use bytes::Bytes;
use overlay_core::Machine;
use overlay_raft::{Config, Output};

use cluster::{Body, Cluster, HEARTBEAT, Node, config};

fn propose(node: &mut Node, count: usize) {
    for _ in 0..count {
        let command = Bytes::from_static(&[7; 64]);
        node.raft.propose(node.now, command).unwrap();
    }
}

#[test]
fn proposals_of_one_turn_leave_in_one_message_for_each_follower_and_one_write() {
    let mut node = Node::leader();
    let writes = node.raft.stats().writes;
    propose(&mut node, 100);
    assert!(
        node.raft.poll_output().is_none(),
        "nothing before the turn ends"
    );
    assert_eq!(
        node.raft.poll_timeout(),
        Some(node.now),
        "which it does at once"
    );
    node.drain();
    assert_eq!(node.raft.stats().writes, writes + 1);
    let sent = node.take();
    assert_eq!(sent.len(), 2);
    for (_, body) in sent {
        assert!(matches!(body, Body::Append { entries, .. } if entries.len() == 100));
    }
}

#[test]
fn appends_of_one_turn_are_acknowledged_at_once() {
    let mut node = Node::founder(2, &[1, 2, 3]);
    node.append((1, 1), (1, 0), &[1], 1);
    node.take();
    let writes = node.raft.stats().writes;
    for previous in 2..12_u64 {
        let body = Body::Append {
            previous,
            previous_term: 1,
            commit: 1,
            entries: vec![(1, cluster::command("x"))],
        };
        let message = cluster::Message {
            group: cluster::GROUP,
            to: 2,
            term: 1,
            incarnation: 0,
            means: Some(0),
            body,
        };
        let message = overlay_raft::Message::decode(&message.encode().into()).unwrap();
        node.raft
            .handle_message(node.now, cluster::id(1), message)
            .unwrap();
    }
    node.drain();
    assert_eq!(node.take(), [(1, Body::Accepted { matched: 12 })]);
    assert_eq!(node.raft.stats().writes, writes + 1);
}

/// 256 proposals at a time: an append and its acknowledgement for each follower, and word of the commit.
#[test]
fn at_256_in_flight_a_proposal_costs_three_hundredths_of_a_message() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    let sent = |cluster: &Cluster| -> u64 {
        (1..=3)
            .map(|number| cluster.raft(number).stats().messages_sent)
            .sum()
    };
    let before = sent(&cluster);
    for _ in 0..10 {
        propose(cluster.node(1), 256);
        cluster.node(1).drain();
        cluster.settle();
    }
    for number in 1..=3 {
        assert_eq!(cluster.node(number).applied.len(), 2_560);
    }
    let messages = sent(&cluster) - before;
    assert!(
        messages * 100 <= 3 * 2_560,
        "{messages} messages for 2,560 proposals"
    );
}

#[test]
fn word_of_a_commit_is_not_answered() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(HEARTBEAT);
    let before = cluster.raft(2).stats().messages_sent;
    cluster.propose(1, "x");
    assert_eq!(cluster.node(2).commands(), ["x"]);
    assert_eq!(cluster.raft(2).stats().messages_sent, before + 1);
}

#[test]
fn word_of_a_commit_says_no_more_than_what_the_follower_acknowledged() {
    let mut node = Node::leader();
    propose(&mut node, 1);
    node.drain();
    node.take();
    node.feed(2, Body::Accepted { matched: 3 });
    let told = node.take();
    assert!(told.contains(&(2, Body::Commit { commit: 3 })), "{told:?}");
    assert!(!told.contains(&(3, Body::Commit { commit: 3 })), "{told:?}");
}

fn leader_with_delay() -> Node {
    let config = Config {
        commit_delay: Config::new(cluster::id(1), 7).commit_delay,
        ..config(1)
    };
    let mut node = Node::leader_with(config);
    node.pass(HEARTBEAT);
    node.take();
    node
}

#[test]
fn word_of_a_commit_travels_with_the_next_entries() {
    let mut node = leader_with_delay();
    for last in 3..6 {
        propose(&mut node, 1);
        node.drain();
        let sent = node.take();
        assert_eq!(sent.len(), 2, "{sent:?}");
        for (_, body) in sent {
            assert!(
                matches!(body, Body::Append { commit, .. } if commit == last - 1),
                "{body:?}"
            );
        }
        for peer in [2, 3] {
            node.feed(peer, Body::Accepted { matched: last });
        }
        assert_eq!(node.raft.commit().get(), last);
        assert_eq!(node.take(), []);
    }
}

#[test]
fn word_of_a_commit_travels_alone_where_nothing_follows() {
    let mut node = leader_with_delay();
    propose(&mut node, 1);
    node.drain();
    node.feed(2, Body::Accepted { matched: 3 });
    node.take();
    let delay = node.raft.config().commit_delay;
    let start = node.now;
    assert_eq!(node.raft.poll_timeout(), Some(start + delay));
    node.pass(delay - std::time::Duration::from_nanos(1));
    assert_eq!(node.take(), []);
    node.pass(std::time::Duration::from_nanos(1));
    assert_eq!(node.take(), [(2, Body::Commit { commit: 3 })]);
    // The other one is told when it has something to be told of.
    node.feed(3, Body::Accepted { matched: 3 });
    node.pass(delay);
    assert_eq!(node.take(), [(3, Body::Commit { commit: 3 })]);
    node.pass(delay * 2);
    assert_eq!(node.take(), [], "once");
}

/// The window counts octets as well: a follower that acknowledges nothing is sent no more than that.
#[test]
fn no_message_follows_when_enough_octets_are_on_their_way() {
    let config = Config {
        inflight_bytes_max: 1_000,
        append_bytes_max: 300,
        entries_per_append_max: 1,
        ..config(1)
    };
    let mut node = Node::leader_with(config);
    node.take();
    propose(&mut node, 30); // 128 octets each, by their weight
    node.drain();
    let appends = |node: &mut Node| {
        node.take()
            .iter()
            .filter(|(to, body)| *to == 2 && matches!(body, Body::Append { .. }))
            .count()
    };
    assert_eq!(appends(&mut node), 8, "the eighth passes 1,000");
    node.feed(2, Body::Accepted { matched: 4 });
    assert_eq!(appends(&mut node), 2, "as much as arrived");
}

/// Entries are shared, not copied: what is written, sent and applied is the very same command.
#[test]
fn a_command_is_never_copied_inside() {
    let mut node = Node::leader();
    let command = Bytes::from(vec![7; 100]);
    let place = command.as_ptr();
    node.raft.propose(node.now, command).unwrap();
    node.raft.handle_timeout(node.now);
    let mut seen = 0;
    let mut ticket = None;
    while let Some(output) = node.raft.poll_output() {
        if let Output::Persist(batch) = output {
            let (write, its) = batch.into_parts();
            let entry = write.entries.last().unwrap();
            assert!(
                matches!(&entry.payload, overlay_raft::Payload::Command(found) if found.as_ptr() == place)
            );
            seen += 1;
            ticket = Some(its);
        }
    }
    node.raft.handle_persisted(node.now, ticket.unwrap());
    node.feed(2, Body::Accepted { matched: 3 });
    assert_eq!(node.applied[0].command.as_ptr(), place);
    assert_eq!(seen, 1);
}

/// Who leaves is told so before it is told nothing any more, however long word of a commit may wait.
#[test]
fn who_leaves_is_told_of_the_commit_at_once() {
    let mut node = leader_with_delay();
    node.change(overlay_raft::Change::Remove(cluster::id(3)))
        .unwrap();
    node.feed(3, Body::Accepted { matched: 3 });
    node.take();
    node.feed(2, Body::Accepted { matched: 3 });
    let told = node.take();
    assert!(told.contains(&(3, Body::Commit { commit: 3 })), "{told:?}");
}

#[test]
fn who_reads_is_told_of_the_commit_with_the_answer() {
    let mut node = leader_with_delay();
    propose(&mut node, 1);
    node.drain();
    for peer in [2, 3] {
        node.feed(peer, Body::Accepted { matched: 3 });
    }
    node.feed(3, Body::ReadAsk { life: 9, number: 1 });
    let rounds: Vec<u64> = node
        .take()
        .into_iter()
        .filter_map(|(_, body)| match body {
            Body::Heartbeat { round, .. } => Some(round),
            _ => None,
        })
        .collect();
    node.feed(2, Body::HeartbeatReply { round: rounds[0] });
    let told = node.take();
    assert!(told.contains(&(3, Body::Commit { commit: 3 })), "{told:?}");
}

/// What was owed to the leader of one term is not said in another.
#[test]
fn an_acknowledgement_of_an_earlier_term_is_never_sent() {
    let mut node = Node::founder(2, &[1, 2, 3]);
    node.append((1, 1), (1, 0), &[], 1);
    node.take();
    let hear = |node: &mut Node, from: u64, term: u64, body: Body| {
        let message = cluster::Message {
            group: cluster::GROUP,
            to: 2,
            term,
            incarnation: 0,
            means: Some(0),
            body,
        };
        let message = overlay_raft::Message::decode(&message.encode().into()).unwrap();
        let from = cluster::id(from);
        node.raft.handle_message(node.now, from, message).unwrap();
    };
    let entries = vec![(1, cluster::command("x"))];
    let append = Body::Append {
        previous: 1,
        previous_term: 0,
        commit: 1,
        entries,
    };
    // Both in one turn.
    hear(&mut node, 1, 1, append);
    hear(&mut node, 3, 5, Body::VoteReply { granted: false });
    node.drain();
    assert_eq!(node.raft.term().get(), 5);
    assert_eq!(node.take(), []);
}
