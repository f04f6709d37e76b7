//! Joint consensus: sentences of Raft §6 and of the thesis §4.3, and the hard cases about it.

mod cluster;

use overlay_raft::{Change, ChangeError, Event, Index, Membership, Payload, Role};

use cluster::{
    Body, Cluster, ELECTION, HEARTBEAT, Node, Stored, config, id, membership, message::joint,
};

/// 2 and 3 go, 4 and 5 come.
fn replacement() -> [Change; 4] {
    [
        Change::Promote(id(4)),
        Change::Promote(id(5)),
        Change::Remove(id(2)),
        Change::Demote(id(3)),
    ]
}

fn voters(membership: &Membership) -> Vec<u64> {
    membership.voters().map(|id| id.get()).collect()
}

fn outgoing(membership: &Membership) -> Vec<u64> {
    membership.outgoing().map(|id| id.get()).collect()
}

/// "The cluster first switches to a transitional configuration we call joint consensus; once the joint consensus has been
/// committed, the system then transitions to the new configuration."
#[test]
fn s6_voters_are_replaced_in_two_steps_without_anybody_asking_for_the_second() {
    let mut cluster = Cluster::with_two_learners();
    let before = cluster.raft(1).last_index();
    cluster.node(1).events.clear();
    let proposal = cluster.change_all(1, &replacement()).unwrap();
    assert_eq!(proposal.index, before.next());
    cluster.pass(HEARTBEAT);
    let events = &cluster.node(1).events;
    let told: Vec<(u64, bool, bool)> = events
        .iter()
        .filter_map(|event| match event {
            Event::MembershipChanged {
                index,
                membership,
                committed,
            } => Some((
                index.get() - before.get(),
                membership.is_joint(),
                *committed,
            )),
            _ => None,
        })
        .collect();
    let expected = [
        (1, true, false),
        (1, true, true),
        (2, false, false),
        (2, false, true),
    ];
    assert_eq!(told, expected);
    let after = cluster.raft(1).membership();
    assert_eq!(voters(after), [1, 4, 5]);
    assert!(after.is_learner(id(3)) && !after.contains(id(2)));
    assert_eq!(cluster.raft(1).last_index().get(), before.get() + 2);
    cluster.propose(1, "x");
    cluster.pass(HEARTBEAT);
    for number in [1, 3, 4, 5] {
        assert_eq!(cluster.node(number).commands(), ["x"], "{number}");
    }
    assert_eq!(cluster.node(2).commands(), [""; 0]);
}

/// "A server always uses the latest configuration in its log, regardless of whether the entry is committed."
#[test]
fn s6_a_joint_membership_is_in_force_as_soon_as_it_is_in_the_log() {
    let mut cluster = Cluster::with_two_learners();
    for number in 2..=5 {
        cluster.isolate(number);
    }
    cluster.change_all(1, &replacement()).unwrap();
    let present = cluster.raft(1).membership();
    assert_eq!(voters(present), [1, 4, 5]);
    assert_eq!(outgoing(present), [1, 2, 3]);
    assert!(!cluster.raft(1).is_membership_committed());
    let index = cluster.raft(1).last_index();
    assert_eq!(
        cluster.change(1, Change::AddLearner(id(6))),
        Err(ChangeError::InProgress { index })
    );
}

/// "Agreement (for elections and entry commitment) requires separate majorities from both the old and new
/// configurations."
#[test]
fn s6_entries_need_a_majority_of_the_old_and_one_of_the_new_voters() {
    for absent in [[2, 3], [4, 5]] {
        let mut cluster = Cluster::with_two_learners();
        cluster.isolate(absent[0]);
        cluster.isolate(absent[1]);
        let commit = cluster.raft(1).commit();
        cluster.change_all(1, &replacement()).unwrap();
        cluster.propose(1, "x");
        cluster.pass(HEARTBEAT * 2);
        assert_eq!(cluster.raft(1).commit(), commit, "without {absent:?}");
        cluster.heal();
        cluster.pass(ELECTION * 4);
        let leader = cluster.leader();
        assert!(!cluster.raft(leader).membership().is_joint());
        assert!(cluster.raft(leader).commit() > commit);
    }
}

#[test]
fn s6_elections_need_a_majority_of_the_old_and_one_of_the_new_voters() {
    for absent in [[2, 3], [4, 5]] {
        let mut cluster = Cluster::with_two_learners();
        // Everybody has the joint membership; nobody knows that it is committed, and who led is gone.
        for number in 2..=5 {
            cluster.cut(number, 1);
        }
        cluster.change_all(1, &replacement()).unwrap();
        cluster.crash(1);
        for number in absent {
            cluster.crash(number);
        }
        let present: Vec<u64> = (2..=5).filter(|number| !absent.contains(number)).collect();
        cluster.pass(ELECTION * 6);
        for &number in &present {
            assert!(cluster.raft(number).membership().is_joint());
            assert!(!cluster.raft(number).is_leader(), "{number}");
        }
        for number in absent {
            cluster.restart(number);
        }
        cluster.pass(ELECTION * 6);
        let leader = cluster.leader();
        assert!(
            !cluster.raft(leader).membership().is_joint(),
            "whoever leads next leaves it (reference, case 5)"
        );
        assert_eq!(voters(cluster.raft(leader).membership()), [1, 4, 5]);
    }
}

/// "… the leader steps down (returns to follower state) once it has committed the C_new log entry. … there will be a
/// period of time … when the leader is managing a cluster that does not include itself."
#[test]
fn s6_a_leader_that_goes_leads_until_the_new_voters_are_certain() {
    let mut cluster = Cluster::with_two_learners();
    let change = [
        Change::Promote(id(4)),
        Change::Promote(id(5)),
        Change::Remove(id(1)),
    ];
    cluster.change_all(1, &change).unwrap();
    cluster.pass(HEARTBEAT);
    assert!(!cluster.raft(1).is_leader());
    cluster.pass(ELECTION * 2);
    let leader = cluster.leader();
    assert_eq!(voters(cluster.raft(leader).membership()), [2, 3, 4, 5]);
    assert!(!cluster.raft(leader).membership().is_joint());
    cluster.propose(leader, "x");
    assert_eq!(cluster.node(1).commands(), [""; 0]);
}

/// Reference, case 6: the second step is proposed once, however often there is an occasion.
#[test]
fn case_06_a_joint_membership_is_left_once() {
    let mut node = Node::leader();
    node.change(Change::AddLearner(id(4))).unwrap();
    node.feed(2, Body::Accepted { matched: 3 });
    node.feed(4, Body::Accepted { matched: 3 });
    node.change_all(&[Change::Promote(id(4)), Change::Remove(id(3))])
        .unwrap();
    assert!(node.raft.membership().is_joint());
    node.feed(4, Body::Accepted { matched: 4 });
    assert!(node.raft.membership().is_joint(), "{:?}", node.raft);
    node.feed(2, Body::Accepted { matched: 4 });
    for _ in 0..3 {
        node.feed(2, Body::Accepted { matched: 4 });
        node.feed(4, Body::Accepted { matched: 4 });
        node.pass(HEARTBEAT);
    }
    assert!(!node.raft.membership().is_joint());
    assert_eq!(node.raft.last_index().get(), 5);
}

/// Reference, case 5: also by one that was elected when it was committed already.
#[test]
fn case_05_a_leader_of_a_later_term_leaves_what_another_entered() {
    let mut stored = Stored::founded(1, &[1, 2, 3], &[1]);
    stored.entries[1].payload = Payload::Membership(joint(&[1, 2, 4], &[1, 2, 3], &[]));
    let mut node = Node::from_disk(config(1), stored);
    node.campaign();
    node.win(2);
    assert_eq!(node.raft.role(), Role::Leader);
    node.feed(2, Body::Accepted { matched: 3 });
    assert!(
        !node.raft.membership().is_joint(),
        "an entry of its own term is committed, hence all before it"
    );
    assert_eq!(voters(node.raft.membership()), [1, 2, 4]);
    assert_eq!(node.raft.last_index().get(), 4);
}

/// Thesis §4.1: what is overwritten no longer holds.
#[test]
fn t4_a_joint_membership_that_is_overwritten_is_taken_back() {
    let mut cluster = Cluster::with_two_learners();
    for number in 2..=5 {
        cluster.isolate(number);
    }
    cluster.change_all(1, &replacement()).unwrap();
    cluster.pass(ELECTION);
    assert!(cluster.raft(1).membership().is_joint());
    cluster.heal();
    cluster.isolate(1);
    cluster.pass(ELECTION * 4);
    let leader = cluster.leader();
    cluster.propose(leader, "x");
    cluster.heal();
    cluster.pass(HEARTBEAT * 4);
    let restored = cluster.raft(1).membership();
    assert_eq!(voters(restored), [1, 2, 3]);
    assert!(!restored.is_joint());
}

/// One voter that comes or goes needs no second step (thesis §4.1).
#[test]
fn t4_1_what_differs_by_one_voter_is_one_step() {
    let mut cluster = Cluster::with_two_learners();
    let steps: [&[Change]; 3] = [
        &[Change::Promote(id(4)), Change::Remove(id(5))],
        &[Change::Demote(id(4)), Change::AddLearner(id(6))],
        &[Change::Remove(id(4)), Change::Remove(id(6))],
    ];
    for step in steps {
        let before = cluster.raft(1).last_index();
        cluster.change_all(1, step).unwrap();
        cluster.pass(HEARTBEAT);
        assert_eq!(cluster.raft(1).last_index(), before.next(), "{step:?}");
        assert!(cluster.raft(1).is_membership_committed());
    }
    assert_eq!(
        cluster.raft(1).membership(),
        &membership(&[1, 2, 3], &[]),
        "as in the beginning"
    );
}

#[test]
fn changes_that_contradict_each_other_are_refused_and_nothing_changes() {
    let mut cluster = Cluster::with_two_learners();
    let before = format!("{:?}", cluster.raft(1));
    let refused = [
        (&[][..], ChangeError::Nothing),
        (
            &[Change::Remove(id(2)), Change::Remove(id(2))],
            ChangeError::NotMember { id: id(2) },
        ),
        (
            &[Change::Promote(id(4)), Change::AddLearner(id(4))],
            ChangeError::AlreadyMember { id: id(4) },
        ),
        (
            &[
                Change::Remove(id(2)),
                Change::Remove(id(3)),
                Change::Remove(id(1)),
            ],
            ChangeError::LastVoter { id: id(1) },
        ),
    ];
    for (changes, error) in refused {
        assert_eq!(cluster.change_all(1, changes), Err(error), "{changes:?}");
    }
    assert_eq!(format!("{:?}", cluster.raft(1)), before);
}

/// Reference, case 8, for a joint membership: who goes is sent what decides it.
#[test]
fn case_08_voters_that_go_are_sent_the_log_until_the_new_ones_are_certain() {
    let mut cluster = Cluster::with_two_learners();
    cluster.change_all(1, &replacement()).unwrap();
    cluster.pass(HEARTBEAT * 2);
    let gone = cluster.raft(2);
    assert!(!gone.membership().contains(id(2)), "it knows that it left");
    assert_eq!(gone.role(), Role::Learner);
    assert_eq!(gone.last_index(), Index::new(6));
}
