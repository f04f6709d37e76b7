use std::collections::BTreeSet;

use overlay_core::Vni;
use overlay_ipam::{VniAllocator, VniError};
use proptest::{collection::vec, prelude::*};

use crate::stored;

#[derive(Clone, Debug)]
enum Op {
    Allocate,
    Reserve(u32),
    Release(u32),
}

const FIRST: u32 = 4096;
const LAST: u32 = (1 << 24) - 1;

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0_u32..3, FIRST - 2..FIRST + 12, LAST - 10..=LAST]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => Just(Op::Allocate),
        2 => number().prop_map(Op::Reserve),
        3 => number().prop_map(Op::Release),
    ]
}

/// An allocator whose cursor stands shortly before the end: as a snapshot says it, too.
fn near_the_end(back: u32) -> VniAllocator {
    let empty = postcard::to_allocvec(&VniAllocator::new()).expect("memory is the only limit");
    let cursor = postcard::to_allocvec(&FIRST).expect("memory is the only limit");
    let mut bytes = empty
        .strip_suffix(cursor.as_slice())
        .expect("the cursor comes last")
        .to_vec();
    bytes.extend(postcard::to_allocvec(&(LAST - back)).expect("memory is the only limit"));
    postcard::from_bytes(&bytes).expect("only the cursor differs")
}

proptest! {
    #[test]
    fn identifiers_are_serial_and_unique(back in 0_u32..12, ops in vec(op(), 0..80)) {
        let mut vnis = near_the_end(back);
        let (mut model, mut cursor) = (BTreeSet::new(), LAST - back);
        for op in &ops {
            let vni = |number| Vni::new(number).unwrap();
            match *op {
                Op::Allocate => {
                    let lap = (cursor..=LAST).chain(FIRST..cursor);
                    let expected = lap.into_iter().find(|number| !model.contains(number)).unwrap();
                    prop_assert_eq!(vnis.allocate(), Ok(vni(expected)));
                    model.insert(expected);
                    cursor = if expected == LAST { FIRST } else { expected + 1 };
                }
                Op::Reserve(number) if model.insert(number) => prop_assert_eq!(vnis.reserve(vni(number)), Ok(())),
                Op::Reserve(number) => {
                    let before = vnis.state_hash();
                    prop_assert_eq!(vnis.reserve(vni(number)), Err(VniError::Taken { vni: vni(number) }));
                    prop_assert_eq!(vnis.state_hash(), before);
                }
                Op::Release(number) => prop_assert_eq!(vnis.release(vni(number)), model.remove(&number)),
            }
        }
        prop_assert!(vnis.iter().map(Vni::get).eq(model.iter().copied()));
        let mut again = stored(&vnis);
        prop_assert_eq!(again.state_hash(), vnis.state_hash());
        prop_assert_eq!(&again, &vnis);
        prop_assert_eq!(again.allocate(), vnis.allocate());
    }
}

#[test]
fn whoever_takes_back_what_it_was_given_leaves_no_trace() {
    for mut vnis in [VniAllocator::new(), near_the_end(0)] {
        let before = vnis.clone();
        let next = vnis.next();
        let given = vnis.allocate().expect("hardly any is given out");
        assert_ne!(vnis.state_hash(), before.state_hash());
        vnis.release(given);
        assert_ne!(vnis, before, "the search goes on behind it");
        vnis.resume_at(next);
        assert_eq!((vnis.state_hash(), &vnis), (before.state_hash(), &before));
    }
    let mut vnis = VniAllocator::new();
    vnis.resume_at(Vni::new(1).expect("24 bits"));
    assert_eq!(vnis.next(), VniAllocator::FIRST);
}
