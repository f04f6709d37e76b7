//! What watchers are told.

use super::*;

#[test]
fn nothing_is_kept_until_it_is_asked_for() {
    let mut lab = Lab::new();
    assert_eq!(lab.state.changes_after(0).err(), Some(WatchError::Off));
    lab.state.watch(10);
    lab.create("a").unwrap();
    assert_eq!(lab.told(1).len(), 1);
    lab.state.watch(0);
    assert_eq!(lab.state.changes_after(1).err(), Some(WatchError::Off));
}

#[test]
fn a_change_says_what_was_and_what_is_and_who_did_it() {
    let mut lab = Lab::new();
    lab.state.watch(10);
    lab.set_address(9).unwrap();
    let told = lab.told(1);
    let [
        Change {
            index: 2,
            actor,
            object:
                Changed::Node {
                    previous: Some(previous),
                    new: Some(new),
                },
        },
    ] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!(*actor, node(1));
    assert_eq!(previous.address, ip("192.0.2.1"));
    assert_eq!(new.address, ip("192.0.2.9"));
}

#[test]
fn what_changes_nothing_is_not_told() {
    let mut lab = Lab::new();
    lab.state.watch(10);
    lab.set_address(1).unwrap();
    lab.refused(Command::RemoveNode { node: node(1) });
    assert!(lab.told(1).is_empty());
}

#[test]
fn an_address_is_told_with_its_endpoint_and_not_as_a_change_of_the_network() {
    let mut lab = Lab::new();
    let network = lab.create("a").unwrap();
    lab.state.watch(10);
    let endpoint = lab.attach(network, "e", None).unwrap();
    lab.detach(endpoint).unwrap();
    let told = lab.told(2);
    let [made, removed] = &told[..] else {
        panic!("{told:?}");
    };
    let (made, removed) = (&made.object, &removed.object);
    assert!(
        matches!(made, Changed::Endpoint { previous: None, new: Some(new) } if new.id == endpoint)
    );
    assert!(
        matches!(removed, Changed::Endpoint { previous: Some(previous), new: None } if previous.id == endpoint)
    );
}

#[test]
fn whoever_is_too_slow_is_told_so() {
    let mut lab = Lab::new();
    lab.state.watch(2);
    for octet in 2..=5 {
        lab.set_address(octet).unwrap();
    }
    // Changes 2 to 5; 4 and 5 are kept.
    let missed = WatchError::Missed { asked: 2, since: 3 };
    assert_eq!(lab.state.changes_after(2).err(), Some(missed));
    assert_eq!(lab.told(3).len(), 2);
    assert_eq!(lab.told(4).len(), 1);
    assert!(lab.told(5).is_empty());
}

#[test]
fn a_command_that_is_kept_in_part_counts_as_missed() {
    let mut lab = Lab::new();
    lab.apply(Command::AddNode(add(2, Role::Worker))).unwrap();
    let network = lab.create("a").unwrap();
    for (id, name) in [(800, "one"), (801, "two")] {
        let attach = AttachEndpoint {
            node: node(2),
            ..lab_attach(network, name, None, id)
        };
        lab.apply(Command::AttachEndpoint(attach)).unwrap();
    }
    lab.state.watch(2);
    lab.apply(Command::RemoveNode { node: node(2) }).unwrap();
    let missed = WatchError::Missed { asked: 5, since: 6 };
    assert_eq!(lab.state.changes_after(5).err(), Some(missed));
}

#[test]
fn a_snapshot_in_between_is_a_gap_that_is_told() {
    let mut lab = Lab::new();
    lab.state.watch(10);
    let mut ahead = lab.state.clone();
    let restored = {
        let mut other = Lab {
            state: std::mem::take(&mut ahead),
            next: lab.next,
        };
        other.set_address(7).unwrap();
        ClusterState::restore(&other.state.snapshot()).unwrap()
    };
    lab.state.replace(restored);
    lab.next += 1;
    let missed = WatchError::Missed { asked: 1, since: 2 };
    assert_eq!(lab.state.changes_after(1).err(), Some(missed));
    lab.set_address(8).unwrap();
    assert_eq!(lab.told(2).len(), 1);
}

#[test]
fn watching_changes_neither_hash_nor_snapshot_and_shows_no_secret() {
    let mut lab = Lab::new();
    let mut watched = lab.state.clone();
    watched.watch(10);
    let rotate = |secret| Command::RotateToken {
        role: Role::Worker,
        secret: Secret::new(vec![secret; 16]).unwrap(),
    };
    lab.apply(rotate(77)).unwrap();
    let mut other = Lab {
        state: watched,
        next: 1,
    };
    other.apply(rotate(77)).unwrap();
    assert_eq!(other.state.hash(), lab.state.hash());
    assert_eq!(other.state.snapshot(), lab.state.snapshot());
    let printed = format!("{:?} {:?}", other.told(1), other.state);
    assert!(printed.contains("Secret(..)") && !printed.contains("77, 77"));
}

impl Lab {
    fn told(&self, after: u64) -> Vec<Change> {
        self.state.changes_after(after).unwrap().cloned().collect()
    }

    fn set_address(&mut self, octet: u8) -> Result<Outcome, CommandError> {
        let known = add(1, Role::Manager);
        let description = NodeDescription {
            issuer: [0; 32],
            hostname: known.hostname,
            address: [192, 0, 2, octet].into(),
            management_port: known.management_port,
            gossip_port: known.gossip_port,
            version: known.version,
            resources: Resources::default(),
            routes: Vec::new(),
        };
        let node = node(1);
        self.apply(Command::DescribeNode { node, description })
    }
}
