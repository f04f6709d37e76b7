use std::collections::BTreeSet;

use overlay_ipam::AddressSet;
use proptest::{collection::vec, prelude::*, sample::select};

use crate::stored;

#[derive(Clone, Debug)]
enum Op {
    Insert(u128),
    Remove(u128),
    InsertRun(u128, u16),
    RemoveRun(u128, u16),
    TakeFrom(u128, u128, u128),
}

/// Sets of one leaf, of several, of exactly a /8, of one more than that, of a /64 and of everything.
const LASTS: [u128; 10] = [
    0,
    255,
    4_095,
    4_096,
    40_959,
    60_000,
    (1 << 24) - 1,
    1 << 24,
    (1 << 64) - 1,
    u128::MAX,
];

fn number(last: u128) -> impl Strategy<Value = u128> {
    // Near the ends and near borders of leaves, so that leaves fill and runs of full ones meet.
    let near = prop_oneof![
        Just(0),
        Just(4_096),
        Just(12_288),
        Just(last),
        Just((last / 2) & !4_095)
    ];
    let offset = prop_oneof![2 => Just(0), 2 => -70_i32..70, 1 => 0_i32..9_000];
    (near, offset).prop_map(move |(near, offset)| {
        let moved = near.saturating_add_signed(offset.into());
        moved.min(last.saturating_add(3))
    })
}

fn op(last: u128) -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => number(last).prop_map(Op::Insert),
        2 => number(last).prop_map(Op::Remove),
        3 => (number(last), 0_u16..25_000).prop_map(|(from, len)| Op::InsertRun(from, len)),
        2 => (number(last), 0_u16..5_000).prop_map(|(from, len)| Op::RemoveRun(from, len)),
        4 => (number(last), number(last), number(last)).prop_map(|(a, b, c)| Op::TakeFrom(a, b, c)),
    ]
}

fn ops() -> impl Strategy<Value = (u128, Vec<Op>)> {
    select(&LASTS[..]).prop_flat_map(|last| (Just(last), vec(op(last), 0..20)))
}

fn first_clear(model: &BTreeSet<u128>, from: u128, last: u128) -> Option<u128> {
    let mut at = from;
    for taken in model.range(from..) {
        if *taken != at {
            break;
        }
        at = at.checked_add(1)?;
    }
    Some(at).filter(|at| *at <= last)
}

fn take(
    model: &mut BTreeSet<u128>,
    start: u128,
    end: u128,
    from: u128,
    last: u128,
) -> Option<u128> {
    let from = if start <= from && from <= end {
        from
    } else {
        start
    };
    let behind = first_clear(model, from, last).filter(|at| *at <= end);
    let found = behind.or_else(|| first_clear(model, start, last).filter(|at| *at <= end))?;
    model.insert(found);
    Some(found)
}

fn run(op: &Op, set: &mut AddressSet, model: &mut BTreeSet<u128>) {
    let last = set.last();
    match *op {
        Op::Insert(at) => assert_eq!(set.insert(at), at <= last && model.insert(at)),
        Op::Remove(at) => assert_eq!(set.remove(at), model.remove(&at)),
        Op::InsertRun(from, len) => (0..len.into()).for_each(|step| {
            let at = from.saturating_add(step);
            assert_eq!(set.insert(at), at <= last && model.insert(at));
        }),
        Op::RemoveRun(from, len) => (0..len.into()).for_each(|step| {
            let at = from.saturating_add(step);
            assert_eq!(set.remove(at), model.remove(&at));
        }),
        Op::TakeFrom(start, end, from) => {
            let expected = take(model, start, end, from, last);
            assert_eq!(set.take_from(start..=end, from), expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_set_is_an_ordered_set((last, ops) in ops(), probes in vec(any::<u16>(), 4)) {
        let (mut set, mut model) = (AddressSet::new(last), BTreeSet::new());
        for op in &ops {
            run(op, &mut set, &mut model);
        }
        prop_assert_eq!(set.len(), model.len() as u128);
        prop_assert!(set.iter().eq(model.iter().copied()));
        for at in probes.into_iter().map(u128::from).chain([0, last]) {
            prop_assert_eq!(set.contains(at), model.contains(&at));
            let clear = (at <= last).then(|| first_clear(&model, at, last)).flatten();
            prop_assert_eq!(set.first_clear(at), clear);
            prop_assert_eq!(set.first_set(at), model.range(at..).next().copied());
        }
        let again = stored(&set);
        prop_assert_eq!(&again, &set);
        prop_assert!(again.iter().eq(model.iter().copied()));
        // What was restored goes on as the original does.
        let (mut set, mut again) = (set, again);
        prop_assert_eq!(set.take_from(0..=last, last / 2), again.take_from(0..=last, last / 2));
        prop_assert_eq!(set.first_clear(0), again.first_clear(0));
    }
}

#[test]
fn a_half_random_slash_8_is_stored_in_little_more_than_its_bits() {
    let mut set = AddressSet::new((1 << 24) - 1);
    let mut rng = overlay_core::Seed::from_u64(8).rng();
    for word in 0..1_u128 << 18 {
        let bits = rng.next_u64();
        (0..64).filter(|bit| bits >> bit & 1 == 1).for_each(|bit| {
            set.insert(word * 64 + bit);
        });
    }
    let bytes = postcard::to_allocvec(&set).unwrap();
    assert!(bytes.len() <= 2_100_000, "{}", bytes.len());
    assert!(
        postcard::from_bytes::<AddressSet>(&bytes)
            .unwrap()
            .iter()
            .eq(set.iter())
    );
}

#[test]
fn a_whole_slash_8_fills_to_the_last_address_and_is_stored_in_a_few_octets() {
    let last = (1 << 24) - 1;
    let mut set = AddressSet::new(last);
    let mut cursor = 5;
    while let Some(found) = set.take_from(0..=last, cursor) {
        cursor = found + 1;
    }
    assert_eq!((set.len(), set.first_clear(0)), (1 << 24, None));
    assert!(set.remove(last - 1));
    assert_eq!(set.take_from(0..=last, 0), Some(last - 1));
    assert!(postcard::to_allocvec(&set).unwrap().len() < 32);
}
