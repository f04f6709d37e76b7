//! Maglev against its paper (Eisenbud et al., NSDI'16): §3.4, §5.3.

use std::collections::BTreeMap;

use overlay_lb::{BackendId, ConfigError, Maglev};

const ENTRIES: u32 = 65_537;

#[test]
fn shares_are_even_to_one_percent() {
    for count in [1, 2, 3, 10, 100, 600] {
        let shares = shares(&table(&backends(count, |_| 1)), usize::from(count));
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(most - least <= 1, "{count}: {least} to {most}");
    }
}

#[test]
fn shares_follow_the_weights_to_one_percent() {
    let weight = |nth: u16| [1, 2, 5, 10][usize::from(nth % 4)];
    let backends = backends(100, weight);
    let total: u32 = backends.iter().map(|backend| u32::from(backend.1)).sum();
    for (nth, share) in (0..).zip(shares(&table(&backends), 100)) {
        let fair = f64::from(ENTRIES) * f64::from(weight(nth)) / f64::from(total);
        let off = (f64::from(share) - fair).abs();
        assert!(off <= (fair / 100.0).max(1.0), "{nth}: {share} of {fair}");
    }
}

#[test]
fn the_smallest_and_the_largest_weight_go_together() {
    let backends = [(id(1), u16::MAX), (id(2), 1), (id(3), 0)];
    let shares = shares(&table(&backends), 3);
    assert_eq!(shares[2], 0);
    assert!((1..=3).contains(&shares[1]), "{shares:?}");
}

#[test]
fn few_hashes_move_besides_those_of_a_removed_backend() {
    for count in [3_u16, 10, 100] {
        let before = backends(count, |_| 1);
        let (full, mut moved) = (table(&before), 0);
        for gone in 0..count.min(10) {
            let mut after = before.clone();
            after.remove(usize::from(gone));
            moved += needless(&full, &before, &table(&after), &after);
        }
        let percent = f64::from(moved) * 100.0 / f64::from(ENTRIES) / f64::from(count.min(10));
        // §5.3, figure 12: the smaller the shares, the more entries move besides.
        assert!(percent <= 1.0, "{count} backends: {percent} %");
    }
}

#[test]
fn the_order_of_the_list_does_not_matter() {
    let forth = backends(50, |nth| nth % 3 + 1);
    let back: Vec<_> = forth.iter().rev().copied().collect();
    let (one, other) = (table(&forth), table(&back));
    for (one, other) in one.entries().iter().zip(other.entries()) {
        assert_eq!(forth[usize::from(*one)], back[usize::from(*other)]);
    }
    let reseeded = Maglev::new(ENTRIES, 1, &forth).unwrap();
    assert_ne!(one, reseeded);
}

#[test]
fn every_entry_has_a_backend_and_a_look_up_finds_it() {
    let table = Maglev::new(7, 0, &backends(3, |_| 1)).unwrap();
    assert_eq!(table.entries().len(), 7);
    assert!(table.entries().iter().all(|place| *place < 3));
    let ends = [0, u64::MAX].map(|hash| table.lookup(hash));
    let expected = [0, 6].map(|at: usize| Some(usize::from(table.entries()[at])));
    assert_eq!(ends, expected);
}

#[test]
fn nobody_to_choose_is_no_choice() {
    for none in [vec![], backends(3, |_| 0)] {
        assert_eq!(table(&none).lookup(7), None);
    }
    let odd = Maglev::new(65_536, 0, &backends(2, |_| 1));
    assert_eq!(odd, Err(ConfigError::NotPrime { found: 65_536 }));
}

#[test]
fn nodes_of_all_releases_choose_alike() {
    let table = Maglev::new(13, 7, &backends(4, |nth| nth + 1)).unwrap();
    assert_eq!(table.entries(), GOLDEN);
}

const GOLDEN: [u16; 13] = [1, 2, 3, 1, 2, 3, 1, 3, 2, 3, 0, 2, 3];

/// Entries that changed their backend although it is still there.
fn needless(
    full: &Maglev,
    before: &[(BackendId, u16)],
    less: &Maglev,
    after: &[(BackendId, u16)],
) -> u32 {
    let still: BTreeMap<BackendId, ()> = after.iter().map(|backend| (backend.0, ())).collect();
    let pairs = full.entries().iter().zip(less.entries());
    let moved = pairs.filter(|(old, new)| {
        let (old, new) = (before[usize::from(**old)].0, after[usize::from(**new)].0);
        old != new && still.contains_key(&old)
    });
    u32::try_from(moved.count()).expect("a table has 65,537 entries")
}

fn shares(table: &Maglev, count: usize) -> Vec<u32> {
    let mut shares = vec![0; count];
    for place in table.entries() {
        shares[usize::from(*place)] += 1;
    }
    shares
}

fn table(backends: &[(BackendId, u16)]) -> Maglev {
    Maglev::new(ENTRIES, 0, backends).expect("65,537 is a prime")
}

fn backends(count: u16, weight: impl Fn(u16) -> u16) -> Vec<(BackendId, u16)> {
    (0..count).map(|nth| (id(nth), weight(nth))).collect()
}

fn id(nth: u16) -> BackendId {
    let mut rng = overlay_core::Seed::from_u64(nth.into()).rng();
    BackendId::from_bytes(rng.bytes())
}
