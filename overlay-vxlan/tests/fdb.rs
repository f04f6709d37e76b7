//! The FDB against a naive model.

use std::{collections::BTreeMap, time::Duration};

use overlay_core::{Instant, MacAddr, Seed};
use overlay_vxlan::fdb::{BATCH, Fdb, Learned, NetworkIndex, NextHop};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Insert(Key, NextHop),
    Remove(Key),
    Learn(Key, NextHop, u64),
    Unlearn(NetworkIndex, Option<NextHop>),
    Quota(NetworkIndex, usize),
    Wait(u64),
    Age,
}

type Key = (NetworkIndex, MacAddr);

fn network() -> impl Strategy<Value = NetworkIndex> {
    prop_oneof![
        Just(NetworkIndex(0)),
        Just(NetworkIndex(1)),
        Just(NetworkIndex(u16::MAX))
    ]
}

fn key() -> impl Strategy<Value = Key> {
    // Enough to fill a table of 32 slots, few enough to meet again.
    (network(), 0..12u8).prop_map(|(network, mac)| (network, MacAddr::new([2, 0, 0, 0, 0, mac])))
}

fn hop() -> impl Strategy<Value = NextHop> {
    prop_oneof![
        (0..3u32).prop_map(NextHop::Port),
        (0..3u32).prop_map(NextHop::Vtep)
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (key(), hop()).prop_map(|(key, hop)| Op::Insert(key, hop)),
        3 => key().prop_map(Op::Remove),
        6 => (key(), hop(), 0..5_000u64).prop_map(|(key, hop, age)| Op::Learn(key, hop, age)),
        1 => (network(), proptest::option::of(hop())).prop_map(|(network, hop)| Op::Unlearn(network, hop)),
        1 => (network(), 0..10usize).prop_map(|(network, max)| Op::Quota(network, max)),
        2 => (0..2_000u64).prop_map(Op::Wait),
        2 => Just(Op::Age),
    ]
}

/// What an FDB is, without a thought for speed.
#[derive(Default)]
struct Model {
    now: Instant,
    fixed: BTreeMap<Key, NextHop>,
    learned: BTreeMap<Key, (NextHop, Instant)>,
    quotas: BTreeMap<NetworkIndex, usize>,
}

impl Model {
    fn lookup(&self, key: Key) -> Option<NextHop> {
        let learned = self
            .learned
            .get(&key)
            .filter(|(_, expires)| self.now < *expires);
        self.fixed
            .get(&key)
            .copied()
            .or(learned.map(|(hop, _)| *hop))
    }

    fn learn(&mut self, key: Key, hop: NextHop, expires: Instant) -> Learned {
        if self.fixed.contains_key(&key) {
            return Learned::Refused;
        }
        if let Some((before, until)) = self.learned.insert(key, (hop, expires)) {
            return match (before == hop, self.now < until) {
                (_, false) => Learned::New,
                (true, true) => Learned::Refreshed,
                (false, true) => Learned::Moved { from: before },
            };
        }
        self.learned.remove(&key);
        let quota = self.quotas.get(&key.0).copied().unwrap_or(0);
        if quota == 0 {
            return Learned::Refused;
        }
        if self
            .learned
            .keys()
            .filter(|(network, _)| *network == key.0)
            .count()
            >= quota
        {
            return Learned::Full;
        }
        self.learned.insert(key, (hop, expires));
        Learned::New
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn it_does_what_the_model_does(seed: u64, ops in proptest::collection::vec(op(), 0..150)) {
        let mut fdb = Fdb::new(&Seed::from_u64(seed));
        let mut model = Model::default();
        for op in ops {
            match op {
                Op::Insert((network, mac), hop) => {
                    fdb.insert(network, mac, hop);
                    model.learned.remove(&(network, mac));
                    model.fixed.insert((network, mac), hop);
                }
                Op::Remove((network, mac)) => {
                    prop_assert_eq!(fdb.remove(network, mac), model.fixed.remove(&(network, mac)));
                }
                Op::Learn((network, mac), hop, age) => {
                    let expires = model.now + Duration::from_millis(age);
                    let learned = fdb.learn(model.now, network, mac, hop, expires);
                    prop_assert_eq!(learned, model.learn((network, mac), hop, expires));
                }
                Op::Unlearn(network, hop) => {
                    fdb.unlearn(network, hop);
                    model.learned.retain(|key, row| key.0 != network || hop.is_some_and(|hop| hop != row.0));
                }
                Op::Quota(network, max) => {
                    fdb.set_quota(network, max);
                    model.quotas.insert(network, max);
                }
                Op::Wait(time) => model.now += Duration::from_millis(time),
                Op::Age => {
                    // As a driver does: when the table asks for it.
                    if let Some(due) = fdb.next_ageing() {
                        model.now = model.now.max(due);
                    }
                    let mut aged = BTreeMap::new();
                    fdb.age(model.now, |network, mac, hop| {
                        aged.insert((network, mac), hop);
                    });
                    let mut expected = BTreeMap::new();
                    model.learned.retain(|key, (hop, expires)| {
                        let aged = *expires <= model.now;
                        if aged {
                            expected.insert(*key, *hop);
                        }
                        !aged
                    });
                    prop_assert_eq!(aged, expected);
                    prop_assert!(fdb.next_ageing().is_none_or(|due| due > model.now));
                    prop_assert_eq!(fdb.next_ageing().is_none(), model.learned.is_empty());
                }
            }
            for network in [NetworkIndex(0), NetworkIndex(1), NetworkIndex(u16::MAX)] {
                for mac in 0..13 {
                    let mac = MacAddr::new([2, 0, 0, 0, 0, mac]);
                    let key = (network, mac);
                    prop_assert_eq!(fdb.lookup(model.now, network, mac), model.lookup(key));
                    prop_assert_eq!(fdb.is_static(network, mac), model.fixed.contains_key(&key));
                }
            }
            // More than one batch, with one that nobody has and some twice.
            let networks = [NetworkIndex(0), NetworkIndex(1), NetworkIndex(u16::MAX)];
            let keys: Vec<Key> = networks
                .into_iter()
                .flat_map(|network| (0..13).map(move |mac| (network, MacAddr::new([2, 0, 0, 0, 0, mac]))))
                .chain([(NetworkIndex(u16::MAX), MacAddr::BROADCAST); 2])
                .collect();
            let keys = keys.repeat(4);
            let mut found = Vec::new();
            fdb.lookup_batch(model.now, &keys, |hop| found.push(hop));
            let expected: Vec<_> = keys.iter().map(|key| model.lookup(*key)).collect();
            prop_assert!(keys.len() > BATCH);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(fdb.len(), model.fixed.len() + model.learned.len());
        }
    }
}

#[test]
fn the_last_address_of_the_last_network_is_like_any_other() {
    let mut fdb = Fdb::new(&Seed::from_u64(0));
    let (network, mac) = (
        NetworkIndex(u16::MAX),
        MacAddr::new([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]),
    );
    fdb.insert(network, mac, NextHop::Port(1));
    assert_eq!(
        fdb.lookup(Instant::EPOCH, network, mac),
        Some(NextHop::Port(1))
    );
    assert_eq!(
        fdb.lookup(Instant::EPOCH, network, MacAddr::BROADCAST),
        None
    );
    assert_eq!(
        fdb.learn(
            Instant::EPOCH,
            network,
            MacAddr::BROADCAST,
            NextHop::Port(1),
            Instant::MAX
        ),
        Learned::Refused
    );
}

#[test]
fn the_row_that_ages_first_is_waited_for() {
    let mut fdb = Fdb::new(&Seed::from_u64(0));
    let network = NetworkIndex(0);
    fdb.set_quota(network, 10);
    for (number, seconds) in [(1, 100), (2, 10), (3, 50)] {
        let mac = MacAddr::new([2, 0, 0, 0, 0, number]);
        let expires = Instant::from_millis(seconds * 1_000);
        fdb.learn(Instant::EPOCH, network, mac, NextHop::Vtep(0), expires);
    }
    for seconds in [10, 50, 100] {
        let due = Instant::from_millis(seconds * 1_000);
        assert_eq!(fdb.next_ageing(), Some(due));
        fdb.age(due - Duration::from_nanos(1), |_, _, _| panic!("too early"));
        let mut aged = 0;
        fdb.age(due, |_, _, _| aged += 1);
        assert_eq!(aged, 1);
    }
    assert_eq!(fdb.next_ageing(), None);
}

#[test]
fn a_large_table_holds_every_row() {
    let mut fdb = Fdb::new(&Seed::from_u64(7));
    let mac = |number: u32| {
        let [a, b, c, d] = number.to_be_bytes();
        MacAddr::new([2, 0x42, a, b, c, d])
    };
    for number in 0..50_000 {
        fdb.insert(NetworkIndex(3), mac(number), NextHop::Vtep(number));
    }
    for number in (0..50_000).step_by(2) {
        assert_eq!(
            fdb.remove(NetworkIndex(3), mac(number)),
            Some(NextHop::Vtep(number))
        );
    }
    assert_eq!(fdb.len(), 25_000);
    for number in 0..50_000 {
        let expected = (number % 2 == 1).then_some(NextHop::Vtep(number));
        assert_eq!(
            fdb.lookup(Instant::EPOCH, NetworkIndex(3), mac(number)),
            expected
        );
        assert_eq!(
            fdb.lookup(Instant::EPOCH, NetworkIndex(2), mac(number)),
            None
        );
    }
}
