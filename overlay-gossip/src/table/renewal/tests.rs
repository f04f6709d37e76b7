use std::time::Duration;

use super::super::{
    message::{Attachment, TableMessage, Version},
    tests::{NETWORK, Net, row, version},
};
use crate::DecodeError;

#[test]
fn a_former_word_above_ours_on_an_endpoint_is_outbid() {
    let mut net = Net::new(2);
    net.put(0, row(1, 1)).unwrap();
    net.run();
    net.tables[0].identity.version.sequence += 20;
    // Between our word on the endpoint and our last word.
    let former = net.record(0, row(1, 9), version(1, 10));
    net.deliver(0, Some(1), &former);
    assert_eq!(net.weights(1), [9]);
    net.wait(Duration::from_secs(20));
    assert_equal(&net, &[1]);
    assert_eq!(net.tables[0].stats().renewals, 1);
}

#[test]
fn a_former_deletion_above_our_row_is_outbid() {
    let mut net = Net::new(2);
    net.put(0, row(1, 1)).unwrap();
    net.run();
    net.tables[0].identity.version.sequence += 20;
    let former = deletion(&net, version(1, 10));
    net.deliver(0, Some(1), &former);
    assert_eq!(net.weights(1), [] as [u16; 0]);
    net.wait(Duration::from_secs(20));
    assert_equal(&net, &[1]);
}

#[test]
fn what_is_heard_right_after_a_renewal_is_outbid_soon() {
    let mut net = Net::new(2);
    net.put(0, row(1, 1)).unwrap();
    net.run();
    let renewals = |net: &Net| net.tables[0].stats().renewals;
    for incarnation in [5, 9, 7] {
        let former = net.record(0, row(1, 9), version(incarnation, 1));
        net.deliver(1, Some(0), &former);
    }
    assert_eq!(renewals(&net), 1, "the first one at once");
    net.wait(net.tables[0].timing.sync_retry);
    assert_eq!(renewals(&net), 2, "the others together, in a while");
    assert_eq!(net.tables[0].identity.version.incarnation, 10);
    assert_equal(&net, &[1]);
}

#[test]
fn absurd_versions_are_refused() {
    let mut net = Net::new(2);
    net.put(0, row(1, 1)).unwrap();
    net.run();
    let before = net.tables[0].identity.version;
    let (most, address) = (Version::MAX, net.address(1));
    for absurd in [
        version(u32::MAX, u64::MAX),
        version(most.incarnation + 1, 1),
        version(1, most.sequence + 1),
        version(1, u64::MAX),
    ] {
        let spoken = [
            net.record(0, row(1, 9), absurd),
            attachment(&net, absurd),
            deletion(&net, absurd),
        ];
        for bytes in spoken {
            for at in 0..2 {
                let heard = net.tables[at].handle_message(net.now, address, &bytes);
                assert_eq!(heard, Err(DecodeError::Value { field: "version" }));
            }
        }
    }
    net.wait(Duration::from_secs(20));
    assert_eq!(net.tables[0].identity.version, before);
    assert_equal(&net, &[1]);
}

#[test]
fn in_the_last_incarnation_the_sequence_outbids() {
    let mut net = Net::new(2);
    net.put(0, row(1, 1)).unwrap();
    net.run();
    let most = Version::MAX;
    let forged = [
        version(most.incarnation, 5),
        version(most.incarnation, 1 << 40),
        version(most.incarnation, most.sequence - 10),
    ];
    for forged in forged {
        let bytes = net.record(0, row(1, 9), forged);
        net.deliver(0, Some(1), &bytes);
        let bytes = attachment(&net, forged);
        net.deliver(0, Some(1), &bytes);
        net.wait(Duration::from_secs(20));
        assert!(net.tables[0].identity.version > forged);
        assert_equal(&net, &[1]);
    }
    // Nothing is above the very last version; saying so costs nothing but a counter.
    for _ in 0..3 {
        let bytes = net.record(0, row(2, 9), most);
        net.deliver(1, Some(0), &bytes);
        net.wait(Duration::from_secs(5));
    }
    assert_eq!(net.tables[0].stats().renewals_refused, 3);
    assert_equal(&net, &[1]);
}

#[test]
fn a_row_above_the_word_that_its_owner_left_is_void() {
    let mut net = Net::new(3);
    net.put(0, row(1, 1)).unwrap();
    net.run();
    net.tables[0].leave_network(net.now, NETWORK);
    net.run();
    let former = net.record(0, row(1, 9), version(1, 90));
    net.deliver(0, Some(1), &former);
    net.wait(Duration::from_secs(20));
    assert_equal(&net, &[]);
}

#[test]
fn a_row_of_a_member_that_never_spoke_of_its_network_is_disowned() {
    let mut net = Net::new(2);
    net.wait(Duration::from_secs(20));
    net.tables[0].leave_network(net.now, NETWORK);
    net.wait(Duration::from_secs(20));
    let name = net.name(0);
    // Nobody remembers anything of it, and a packet of its former life comes late.
    net.tables[1].handle_member_gone(net.now, &name);
    net.tables[1].handle_member_up(net.now, &name);
    let former = net.record(0, row(1, 9), version(1, 90));
    net.deliver(0, Some(1), &former);
    assert_eq!(net.weights(1), [9]);
    net.wait(Duration::from_secs(40));
    assert_eq!(net.weights(1), [] as [u16; 0]);
}

#[test]
fn who_never_joined_again_leaves_above_its_former_life() {
    let mut net = Net::new(2);
    net.tables[0].identity.version.incarnation = 7;
    net.tables[0].leave_network(net.now, NETWORK);
    net.tables[0].join_network(net.now, NETWORK, false);
    net.put(0, row(1, 9)).unwrap();
    net.run();
    net.forget(0);
    net.wait(Duration::from_secs(30));
    assert_equal(&net, &[]);
    assert_eq!(net.tables[1].network_members(NETWORK).count(), 0);
}

#[test]
fn who_missed_a_new_life_hears_of_it_from_anybody() {
    let mut net = Net::new(3);
    net.put(0, row(1, 9)).unwrap();
    net.run();
    let name = net.name(0);
    // Member 1 knows of a new life without that row, member 2 only of the former one; the owner is out of reach.
    let later = attachment(&net, version(3, 1));
    net.deliver(0, Some(1), &later);
    net.tables[1].outputs.clear();
    net.tables[0].leave_network(net.now, NETWORK);
    net.tables[0].outputs.clear();
    net.deaf = Some(0);
    net.wait(Duration::from_secs(20));
    let floor = |at: usize| net.tables[at].owner(NETWORK, &name).map(|o| o.floor());
    assert_eq!(floor(2), floor(1));
    assert_eq!(net.weights(2), net.weights(1));
}

#[test]
fn a_stray_is_deleted_where_there_is_no_room_to_remember_it() {
    let mut net = Net::new(2);
    net.tables[0].limits.rows_max = 1;
    net.put(0, row(1, 1)).unwrap();
    net.run();
    net.tables[0].identity.version.sequence += 20;
    let lost = net.record(0, row(2, 9), version(1, 10));
    net.deliver(0, Some(1), &lost);
    assert_eq!(net.weights(1), [1, 9]);
    net.wait(Duration::from_secs(20));
    assert_equal(&net, &[1]);
    assert_eq!(net.tables[0].rows, 1);
}

/// All members of the network hold these rows, under the same versions.
fn assert_equal(net: &Net, weights: &[u16]) {
    let joined = |at: &usize| net.tables[*at].is_joined(NETWORK);
    for at in (0..net.tables.len()).filter(joined) {
        assert_eq!(net.weights(at), weights, "member {at}");
        let digest = |at: usize| net.tables[at].digest(NETWORK);
        let last = net.tables.len() - 1;
        assert_eq!(digest(at), digest(last), "members {at} and {last}");
    }
}

/// The deletion of the row of endpoint 1 by member 0.
fn deletion(net: &Net, version: Version) -> Vec<u8> {
    let sound = net.record(0, row(1, 1), Version::default());
    let Ok(TableMessage::Rows(mut rows)) = TableMessage::decode(&sound) else {
        unreachable!("rows");
    };
    for record in &mut rows.records {
        record.version = version;
        record.row = None;
        record.memory_seconds = 600;
    }
    TableMessage::Rows(rows).encode()
}

/// An attachment of member 0, of another life.
fn attachment(net: &Net, version: Version) -> Vec<u8> {
    TableMessage::Attachments(vec![Attachment {
        owner: net.name(0),
        network: NETWORK,
        version,
        life: 4_711,
        joined: true,
    }])
    .encode()
}
