use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use overlay_core::{MacAddr, NodeId};

use super::*;
use crate::RowError;

#[test]
fn a_row_and_its_lease_have_the_octets_of_version_1_for_ever() {
    let row = row(1, 1);
    assert_eq!(hex(&row.encode()), ROW_OCTETS);
    assert_eq!(hex(&row.lease.signed_bytes()), LEASE_OCTETS);
    let mut later = row.encode();
    later.push(7);
    let decoded = Row::decode(NETWORK, row.endpoint, &later);
    assert_eq!(
        decoded,
        Ok(row),
        "octets of a later version are passed over"
    );
}

#[test]
fn a_row_of_1024_octets_fits_and_one_more_does_not() {
    let mut net = Net::new(1);
    let sized = |length: usize| Row {
        service_names: vec!["x".repeat(length)],
        ..row(1, 1)
    };
    let full = |length: &usize| sized(*length).encoded_len() == ROW_BYTES_MAX;
    let spare = (0..ROW_BYTES_MAX).find(full).unwrap();
    assert_eq!(net.put(0, sized(spare)), Ok(()));
    let (limit, found) = (ROW_BYTES_MAX, ROW_BYTES_MAX + 1);
    let refused = Err(RowError::TooLong { limit, found });
    assert_eq!(net.put(0, sized(spare + 1)), refused);
}

#[test]
fn a_lease_that_speaks_of_something_else_is_refused() {
    let mut net = Net::new(1);
    let good = row(1, 1);
    let lease = || good.lease.clone();
    let endpoint = EndpointId::from_bytes([9; 16]);
    let wrong = [
        (
            "network",
            Lease {
                network: NetworkId::from_bytes([9; 16]),
                ..lease()
            },
        ),
        (
            "endpoint",
            Lease {
                endpoint,
                ..lease()
            },
        ),
        (
            "mac",
            Lease {
                mac: MacAddr::BROADCAST,
                ..lease()
            },
        ),
        (
            "addresses",
            Lease {
                addresses: Vec::new(),
                ..lease()
            },
        ),
        (
            "signature",
            Lease {
                signature: Bytes::from(vec![1; 97]),
                ..lease()
            },
        ),
    ];
    for (field, lease) in wrong {
        let row = Row {
            lease,
            ..good.clone()
        };
        assert_eq!(net.put(0, row), Err(RowError::Mismatch { field }));
    }
    let elsewhere = NetworkId::from_bytes([8; 16]);
    let refused = net.tables[0].put_row(net.now, elsewhere, good);
    assert_eq!(refused, Err(RowError::NotJoined));
}

#[test]
fn a_lease_is_verified_once_and_a_bad_one_is_rejected() {
    let mut net = Net::new(2);
    for tables in &mut net.tables {
        tables.verifier = Some(Arc::new(Signed));
    }
    for weight in 1..=3 {
        net.put(0, row(1, weight)).unwrap();
        net.run();
    }
    assert_eq!(net.weights(1), [3]);
    assert_eq!(
        net.tables[1].stats().leases_verified,
        1,
        "the lease did not change"
    );
    let mut forged = row(2, 1);
    forged.lease.signature = Bytes::from_static(b"forged");
    assert_eq!(net.put(0, forged.clone()), Err(RowError::Lease));
    net.tables[0].verifier = None; // a member that was taken over
    net.put(0, forged).unwrap();
    net.run();
    assert_eq!(net.weights(1), [3]);
    assert!(net.tables[1].stats().leases_rejected >= 1);
}

#[test]
fn rows_of_a_member_that_is_down_are_hidden_until_it_confirms_them() {
    let mut net = Net::new(3);
    net.put(0, row(1, 1)).unwrap();
    net.run();
    net.down(0);
    assert_eq!(net.weights(1), [] as [u16; 0]);
    assert_eq!(net.tables[1].digest(NETWORK), 0);
    assert!(
        net.last_row(1)
            .is_some_and(|(previous, row)| previous.is_some() && row.is_none())
    );
    net.cut = true;
    net.up(0);
    net.run();
    assert_eq!(net.weights(1), [] as [u16; 0], "it did not confirm yet");
    net.cut = false;
    net.wait(Duration::from_secs(10));
    assert_eq!(net.weights(1), [1]);
    assert!(
        net.last_row(1)
            .is_some_and(|(previous, row)| previous.is_none() && row.is_some())
    );
}

#[test]
fn a_member_that_changed_its_rows_while_it_was_down_shows_the_new_ones_only() {
    let mut net = Net::new(2);
    net.put(0, row(1, 1)).unwrap();
    net.put(0, row(2, 1)).unwrap();
    net.run();
    net.down(0);
    net.cut = true;
    net.delete(0, 1);
    net.put(0, row(2, 2)).unwrap();
    net.run();
    net.cut = false;
    net.events[1].clear();
    net.up(0);
    net.wait(Duration::from_secs(10));
    assert_eq!(net.weights(1), [2]);
    let shown: Vec<_> = net.events[1]
        .iter()
        .filter_map(|event| match event {
            Event::RowChanged { row, .. } => Some(row.as_ref().map(|row| row.weight)),
            _ => None,
        })
        .collect();
    assert_eq!(
        shown,
        [Some(2)],
        "the old row never shows, and the deleted one neither"
    );
}

#[test]
fn rows_of_a_member_that_left_are_forgotten() {
    let mut net = Net::new(2);
    net.put(0, row(1, 1)).unwrap();
    net.run();
    let name = net.name(0);
    net.tables[1].handle_member_gone(net.now, &name);
    net.collect();
    assert_eq!(net.weights(1), [] as [u16; 0]);
    assert_eq!(
        (net.tables[1].rows, net.tables[1].attachments),
        (0, 1),
        "ourselves"
    );
}

#[test]
fn who_leaves_a_network_takes_its_rows_along() {
    let mut net = Net::new(2);
    net.put(0, row(1, 1)).unwrap();
    net.run();
    net.tables[0].leave_network(net.now, NETWORK);
    net.run();
    assert_eq!(net.weights(1), [] as [u16; 0]);
    assert_eq!(net.tables[1].network_members(NETWORK).count(), 0);
    let left = |event: &Event| matches!(event, Event::NetworkMemberLeft { .. });
    assert!(net.events[1].iter().any(left));
    // And an old packet does not bring them back.
    let old = net.record(0, row(1, 1), version(1, 2));
    net.deliver(0, Some(1), &old);
    assert_eq!(net.weights(1), [] as [u16; 0]);
}

#[test]
fn equal_tables_cost_one_packet() {
    let mut net = Net::new(2);
    for endpoint in 1..=50 {
        net.put(0, row(endpoint, 1)).unwrap();
    }
    net.wait(Duration::from_secs(60));
    assert_eq!(net.tables[0].digest(NETWORK), net.tables[1].digest(NETWORK));
    let (digests, sent) = (net.digests(), net.sent);
    net.wait(Duration::from_secs(60));
    assert!(net.digests() > digests);
    assert_eq!(net.sent - sent, net.digests() - digests);
}

#[test]
fn a_member_that_missed_everything_finds_it_by_digest() {
    let mut net = Net::new(3);
    net.run();
    net.cut = true;
    for endpoint in 1..=30 {
        net.put(0, row(endpoint, 1)).unwrap();
    }
    net.delete(0, 7);
    net.wait(Duration::from_secs(30)); // until all transmissions are spent
    assert_eq!(net.weights(1).len(), 0);
    net.cut = false;
    net.wait(Duration::from_secs(30));
    assert_eq!(net.weights(1).len(), 29);
    assert_eq!(net.weights(2).len(), 29);
}

#[test]
fn an_answer_longer_than_allowed_comes_in_parts() {
    let mut net = Net::new(2);
    for tables in &mut net.tables {
        tables.limits.sync_bytes_max = 2_000;
    }
    net.cut = true;
    for endpoint in 1..=40 {
        net.put(0, row(endpoint, 1)).unwrap();
    }
    net.wait(Duration::from_secs(30));
    net.cut = false;
    net.wait(Duration::from_secs(200));
    assert_eq!(net.weights(1).len(), 40);
    assert!(net.longest <= 4_000, "{}", net.longest);
}

#[test]
fn a_deletion_is_remembered_for_its_time_and_no_longer() {
    let mut net = Net::new(2);
    net.put(0, row(1, 1)).unwrap();
    net.run();
    let old = net.record(0, row(1, 1), net.tables[0].identity.version);
    net.delete(0, 1);
    net.run();
    let memory = net.tables[0].timing.tombstone_memory;
    net.wait(memory - Duration::from_secs(30));
    net.deliver(0, Some(1), &old);
    net.collect();
    assert_eq!(net.weights(1), [] as [u16; 0]);
    // Who joins now does not remember it for longer than the others.
    net.join(Duration::ZERO);
    net.run();
    assert_eq!(net.tables[2].rows, 1);
    net.wait(Duration::from_secs(60));
    assert_eq!(
        net.tables.iter().map(|tables| tables.rows).sum::<usize>(),
        0
    );
}

#[test]
fn a_row_that_its_owner_forgot_is_deleted_again() {
    let mut net = Net::new(2);
    net.run();
    let current = net.tables[0].identity.version;
    net.tables[0].identity.version.sequence += 5;
    let lost = net.record(
        0,
        row(1, 1),
        Version {
            sequence: current.sequence + 2,
            ..current
        },
    );
    net.deliver(0, Some(1), &lost);
    assert_eq!(net.weights(1), [1]);
    net.wait(Duration::from_secs(20));
    assert_eq!(net.weights(1), [] as [u16; 0]);
    assert_eq!(net.tables[0].stats().strays_deleted, 1);
}

#[test]
fn a_new_life_outdates_the_former_one() {
    let mut net = Net::new(3);
    net.tables[0].identity.version.incarnation = 7; // a long life
    net.tables[0].leave_network(net.now, NETWORK);
    net.tables[0].join_network(net.now, NETWORK, false);
    net.put(0, row(1, 1)).unwrap();
    net.put(0, row(2, 1)).unwrap();
    net.run();
    net.reboot(0);
    net.put(0, row(1, 2)).unwrap();
    net.wait(Duration::from_secs(3));
    assert!(net.tables[0].identity.version.incarnation > 7);
    assert_eq!(net.weights(1), [2, 1], "the other one may come yet");
    net.wait(Duration::from_secs(20));
    assert_eq!(net.weights(1), [2]);
    assert_eq!(net.weights(2), [2]);
}

#[test]
fn news_may_come_before_the_attachment_and_before_the_member() {
    let mut net = Net::new(2);
    net.tables[1].handle_member_gone(net.now, &Name::from("node-0"));
    let early = net.record(0, row(1, 1), version(1, 9));
    net.deliver(0, Some(1), &early);
    assert_eq!(net.weights(1), [] as [u16; 0], "nobody knows its owner");
    net.tables[1].handle_member_up(net.now, &Name::from("node-0"));
    assert_eq!(net.weights(1), [1]);
}

#[test]
fn full_tables_refuse_and_count() {
    let mut net = Net::new(2);
    net.tables[0].limits.rows_max = 2;
    net.tables[1].limits.rows_max = 1;
    net.put(0, row(1, 1)).unwrap();
    net.put(0, row(2, 1)).unwrap();
    assert_eq!(net.put(0, row(3, 1)), Err(RowError::Full { limit: 2 }));
    assert_eq!(
        net.put(0, row(2, 2)),
        Ok(()),
        "in place of one that is there"
    );
    net.run();
    assert_eq!(net.weights(1).len(), 1);
    assert!(net.tables[1].stats().rows_refused > 0);
}

#[test]
fn words_of_members_that_nobody_knows_are_forgotten() {
    let mut net = Net::new(1);
    let stranger = Attachment {
        owner: Name::from("nobody"),
        network: NETWORK,
        version: version(1, 1),
        life: 1,
        joined: true,
    };
    let message = TableMessage::Attachments(vec![stranger]).encode();
    net.deliver(0, Some(0), &message);
    assert_eq!(net.tables[0].attachments, 2);
    net.wait(Duration::from_secs(120));
    assert_eq!(net.tables[0].attachments, 1);
}

#[test]
fn who_knows_nobody_asks_the_first_that_come_and_a_directory_is_the_same_for_all() {
    let mut net = Net::new(8);
    let other = NetworkId::from_bytes([9; 16]);
    let directories: Vec<_> = net.tables.iter().map(|one| one.directory(other)).collect();
    let all: BTreeSet<_> = directories.iter().flatten().collect();
    assert!(directories.iter().all(|directory| directory.len() == 3));
    // Each leaves itself out, so one more may step in.
    assert!((3..=4).contains(&all.len()), "{all:?}");
    net.forget(0);
    let lonely = &mut net.tables[0];
    for member in 1..8 {
        lonely.handle_member_down(net.now, &Name::from(format!("node-{member}")));
    }
    lonely.join_network(net.now, other, false);
    while lonely.poll_output().is_some() {}
    for member in 1..8 {
        lonely.handle_member_up(net.now, &Name::from(format!("node-{member}")));
    }
    let asked = std::iter::from_fn(|| lonely.poll_output()).filter(|output| match output {
        TableOutput::Send { bytes, .. } => {
            matches!(TableMessage::decode(bytes), Ok(TableMessage::Enquiry(_)))
        }
        _ => false,
    });
    assert_eq!(asked.count(), 3);
}

/// Members that hear each other at once; datagrams and streams alike.
pub(super) struct Net {
    pub(super) tables: Vec<Tables>,
    pub(super) events: Vec<Vec<Event>>,
    pub(super) now: Instant,
    /// Nothing arrives.
    pub(super) cut: bool,
    /// Nothing arrives here.
    pub(super) deaf: Option<usize>,
    sent: u64,
    longest: usize,
}

impl Net {
    pub(super) fn new(members: usize) -> Self {
        let mut net = Self {
            tables: Vec::new(),
            events: Vec::new(),
            now: Instant::from_millis(1_000),
            cut: false,
            deaf: None,
            sent: 0,
            longest: 0,
        };
        for _ in 0..members {
            net.join(Duration::ZERO);
        }
        net.run();
        net
    }

    /// Adds a member that joins the network.
    fn join(&mut self, after: Duration) {
        self.wait(after);
        let at = self.tables.len();
        let config = Config::lan(format!("node-{at}"), self.address(at));
        let seed = Seed::from_u64(u64::try_from(at).unwrap_or(0));
        self.tables
            .push(Tables::new(&config, 1_300, &seed, self.now));
        self.events.push(Vec::new());
        for (one, other) in (0..at).map(|other| (at, other)) {
            let (one_name, other_name) = (self.name(one), self.name(other));
            self.tables[one].handle_member_up(self.now, &other_name);
            self.tables[other].handle_member_up(self.now, &one_name);
            let state = self.tables[other].user_state();
            if !state.is_empty() {
                self.tables[one].handle_user_state(self.now, &state);
            }
        }
        self.tables[at].join_network(self.now, NETWORK, at == 0);
    }

    /// The process of a member ends and starts anew, and hears of the tables.
    pub(super) fn reboot(&mut self, at: usize) {
        self.forget(at);
        for other in (0..self.tables.len()).filter(|other| *other != at) {
            let state = self.tables[other].user_state();
            self.tables[at].handle_user_state(self.now, &state);
        }
        self.tables[at].join_network(self.now, NETWORK, false);
        self.run();
    }

    /// The process of a member ends and starts anew, and knows of nothing but the other members.
    pub(super) fn forget(&mut self, at: usize) {
        let config = Config::lan(format!("node-{at}"), self.address(at));
        self.tables[at] = Tables::new(&config, 1_300, &Seed::from_u64(99), self.now);
        for other in (0..self.tables.len()).filter(|other| *other != at) {
            let name = self.name(other);
            self.tables[at].handle_member_up(self.now, &name);
        }
    }

    pub(super) fn put(&mut self, at: usize, row: Row) -> Result<(), RowError> {
        self.tables[at].put_row(self.now, NETWORK, row)
    }

    pub(super) fn delete(&mut self, at: usize, endpoint: u8) {
        self.tables[at].delete_row(self.now, NETWORK, EndpointId::from_bytes([endpoint; 16]));
    }

    fn down(&mut self, at: usize) {
        let name = self.name(at);
        for other in (0..self.tables.len()).filter(|other| *other != at) {
            self.tables[other].handle_member_down(self.now, &name);
        }
        self.collect();
    }

    fn up(&mut self, at: usize) {
        let name = self.name(at);
        for other in (0..self.tables.len()).filter(|other| *other != at) {
            self.tables[other].handle_member_up(self.now, &name);
        }
    }

    /// Delivers until nobody has anything to say.
    pub(super) fn run(&mut self) {
        while self.collect() {}
    }

    fn collect(&mut self) -> bool {
        let mut any = false;
        for from in 0..self.tables.len() {
            while let Some(output) = self.tables[from].poll_output() {
                any = true;
                match output {
                    TableOutput::Event(event) => self.events[from].push(event),
                    TableOutput::Send { to, bytes, .. } => {
                        self.sent += 1;
                        self.longest = self.longest.max(bytes.len());
                        let to = (0..self.tables.len()).find(|at| self.name(*at) == to);
                        self.deliver(from, to, &bytes);
                    }
                    TableOutput::Broadcast { bytes, .. } => {
                        for to in (0..self.tables.len()).filter(|to| *to != from) {
                            self.deliver(from, Some(to), &bytes);
                        }
                    }
                }
            }
        }
        any
    }

    pub(super) fn deliver(&mut self, from: usize, to: Option<usize>, bytes: &[u8]) {
        if let Some(to) = to.filter(|to| !self.cut && self.deaf != Some(*to)) {
            let address = self.address(from);
            let heard = self.tables[to].handle_message(self.now, address, bytes);
            heard.expect("well-formed");
        }
    }

    /// Lets time pass, with every timer in its turn.
    pub(super) fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.run();
        while let Some(next) = self.tables.iter().filter_map(Tables::poll_timeout).min() {
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            for tables in &mut self.tables {
                tables.handle_timeout(self.now);
            }
            self.run();
        }
        self.now = end;
    }

    pub(super) fn weights(&self, at: usize) -> Vec<u16> {
        self.tables[at]
            .rows(NETWORK)
            .map(|(_, row)| row.weight)
            .collect()
    }

    fn last_row(&self, at: usize) -> Option<(Option<Row>, Option<Row>)> {
        self.events[at].iter().rev().find_map(|event| match event {
            Event::RowChanged { previous, row, .. } => Some((previous.clone(), row.clone())),
            _ => None,
        })
    }

    fn digests(&self) -> u64 {
        self.tables
            .iter()
            .map(|tables| tables.stats().digests_sent)
            .sum()
    }

    /// A packet with a row, as its owner could have sent it.
    pub(super) fn record(&self, owner: usize, row: Row, version: Version) -> Vec<u8> {
        TableMessage::Rows(message::Rows {
            sender: self.name(owner),
            network: NETWORK,
            purpose: message::Purpose::News,
            records: vec![message::WireRecord {
                owner: self.name(owner),
                endpoint: row.endpoint,
                version,
                row: Some(Bytes::from(row.encode())),
                memory_seconds: 0,
            }],
            wanted: Vec::new(),
        })
        .encode()
    }

    pub(super) fn name(&self, at: usize) -> Name {
        Name::from(format!("node-{at}"))
    }

    pub(super) fn address(&self, at: usize) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, u8::try_from(at).unwrap_or(0)], 7946))
    }
}

/// Accepts the signature that [`row`] makes.
#[derive(Debug)]
struct Signed;

impl LeaseVerifier for Signed {
    fn verify(&self, signed: &[u8], signature: &[u8]) -> bool {
        signed.starts_with(b"overlay-lease\0\x01") && signature == [0x5a; 64]
    }
}

pub(super) fn row(endpoint: u8, weight: u16) -> Row {
    let id = EndpointId::from_bytes([endpoint; 16]);
    let address = Ipv4Addr::new(10, 0, 1, endpoint);
    let (mac, addresses) = (MacAddr::from_ipv4(address), vec![IpAddr::V4(address)]);
    Row {
        endpoint: id,
        mac,
        addresses: addresses.clone(),
        vtep: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        names: vec!["web.1".to_owned()],
        service: Some(overlay_core::ServiceId::from_bytes([3; 16])),
        service_names: vec!["web".to_owned()],
        ports: vec![PortMapping {
            name: String::new(),
            protocol: Protocol::Tcp,
            target: 80,
            published: 8_080,
        }],
        weight,
        state: RowState::Live,
        lease: Lease {
            network: NETWORK,
            endpoint: id,
            node: NodeId::from_bytes([4; 16]),
            addresses,
            mac,
            generation: 5,
            signature: Bytes::from_static(&[0x5a; 64]),
        },
    }
}

pub(super) fn version(incarnation: u32, sequence: u64) -> Version {
    Version {
        incarnation,
        sequence,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|octet| format!("{octet:02x}")).collect()
}

pub(super) const NETWORK: NetworkId = NetworkId::from_bytes([1; 16]);
const ROW_OCTETS: &str = "0102420a00010101000a00010100c00002010105776562\
    2e310103030303030303030303030303030303010377656201000050903f01010404040404040404040404040404040405\
    405a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\
    5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";
const LEASE_OCTETS: &str = "6f7665726c61792d6c65617365000101010101010101010101010101010101010101010101010101\
    0101010101010104040404040404040404040404040404000000000000000502420a00010101040a000101";
