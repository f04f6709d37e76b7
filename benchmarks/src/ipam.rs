//! What addresses and subnets take: one operation, the worst one, memory, snapshots. Beside it: a bitmap that is searched
//! from end to end, and another crate's compressed one.

use std::{hint::black_box, net::Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use overlay_core::{Rng, Seed};
use overlay_ipam::{AddressSet, OwnerId, PoolConfig, Pools, Subnet, SubnetConfig, SubnetRequest};
use roaring::RoaringBitmap;

use crate::{
    clock::cpu,
    heap,
    lb::{nanos, row},
};

const SLASH_8: u32 = 1 << 24;
const SLASH_16: u32 = 1 << 16;

pub fn run(rounds: usize) {
    println!("CPU time, the best and the median of {rounds} rounds");
    next_fit(
        "next-fit in an empty /16, to the last address",
        SLASH_16,
        rounds,
    );
    next_fit(
        "next-fit in an empty /8, to the last address",
        SLASH_8,
        rounds,
    );
    worst(rounds);
    memory();
    snapshots(rounds);
    subnets(rounds);
    leases(rounds);
}

fn next_fit(name: &str, size: u32, rounds: usize) {
    let seen = filled(
        rounds,
        size,
        || AddressSet::new((size - 1).into()),
        |set, from| set.take_from(0..=u128::from(size - 1), from),
    );
    row(name, seen, "");
    let seen = filled(
        rounds,
        size,
        || Bitmap::new(size),
        |set, from| set.take_from(from),
    );
    row("  peer: bitmap", seen, "");
}

/// Takes all addresses, each from behind the last one.
fn filled<S>(
    rounds: usize,
    size: u32,
    new: impl Fn() -> S,
    take: impl Fn(&mut S, u128) -> Option<u128>,
) -> (f64, f64) {
    nanos(rounds, size as usize, || {
        let (mut set, mut from) = (new(), 0);
        while let Some(taken) = take(&mut set, from) {
            from = taken + 1;
        }
        black_box(&set);
    })
}

/// Single operations, each measured by itself over many repetitions of the same state.
fn worst(rounds: usize) {
    let last = u128::from(SLASH_8 - 1);
    let mut set = AddressSet::new(last);
    (0..=last).for_each(|number| {
        set.insert(number);
    });
    // The one address that is left lies right before where the search begins, so that it goes all the way around.
    for (name, free, from) in [
        (
            "one address left in a /8, found all the way around",
            8_000_000_u32,
            8_000_001_u32,
        ),
        (
            "one address left in a /8, found from its start",
            SLASH_8 - 1,
            0,
        ),
    ] {
        set.remove(free.into());
        let seen = nanos(rounds, REPEAT, || {
            for _ in 0..REPEAT {
                let taken = set.take_from(0..=last, black_box(from.into()));
                set.remove(black_box(taken.unwrap_or_default()));
            }
        });
        set.insert(free.into());
        row(name, seen, "taken and put back");
    }
    let mut bitmap = Bitmap::new(SLASH_8);
    bitmap.words.fill(u64::MAX);
    bitmap.words[8_000_000 >> 6] &= !1;
    let seen = nanos(rounds, 100, || {
        for _ in 0..100 {
            let taken = bitmap.take_from(black_box(8_000_001));
            bitmap.remove(black_box(taken.unwrap_or_default()));
        }
    });
    row("  peer: bitmap", seen, "taken and put back");

    let mut half = AddressSet::new(last);
    let mut bitmap = Bitmap::new(SLASH_8);
    for number in 0..SLASH_8 / 2 {
        half.insert(number.into());
        bitmap.insert(number.into());
    }
    let seen = nanos(rounds, REPEAT, || {
        for _ in 0..REPEAT {
            let taken = half.take_from(0..=last, 0);
            half.remove(black_box(taken.unwrap_or_default()));
        }
    });
    row(
        "first-fit in a /8 whose lower half is taken",
        seen,
        "taken and put back",
    );
    let seen = nanos(rounds, 100, || {
        for _ in 0..100 {
            let taken = bitmap.take_from(0);
            bitmap.remove(black_box(taken.unwrap_or_default()));
        }
    });
    row("  peer: bitmap", seen, "taken and put back");
}

fn memory() {
    let (empty, bytes) = held(|| AddressSet::new((SLASH_8 - 1).into()));
    octets("an empty /8", bytes);
    drop(empty);
    let (_, bytes) = held(|| Bitmap::new(SLASH_8));
    octets("  peer: bitmap", bytes);
    let (_, bytes) = held(random_half);
    octets("a /8 of which a random half is taken", bytes);
    let (_, bytes) = held(|| {
        let mut set = RoaringBitmap::new();
        half().for_each(|number| {
            set.insert(number);
        });
        set
    });
    octets("  peer: roaring", bytes);
    let (_, bytes) = held(|| {
        let (mut set, mut rng) = (AddressSet::new(u64::MAX.into()), rng());
        for _ in 0..1_000 {
            set.insert(rng.next_u64().into());
        }
        set
    });
    octets("an IPv6 /64 with 1,000 addresses at random", bytes);
}

fn snapshots(rounds: usize) {
    let set = random_half();
    let bytes = postcard::to_allocvec(&set).expect("memory is there");
    octets(
        "snapshot of a /8 of which a random half is taken",
        bytes.len(),
    );
    let peer: RoaringBitmap = half().collect();
    octets("  peer: roaring", peer.serialized_size());
    let seen = nanos(rounds, 1, || {
        black_box(postcard::to_allocvec(black_box(&set)).expect("memory is there"));
    });
    row("  to make it", seen, "");
    let seen = nanos(rounds, 1, || {
        black_box(postcard::from_bytes::<AddressSet>(black_box(&bytes)).expect("it is one"));
    });
    row("  to restore it", seen, "");
    let mut stored = Vec::new();
    peer.serialize_into(&mut stored).expect("memory is there");
    let seen = nanos(rounds, 1, || {
        black_box(RoaringBitmap::deserialize_from(black_box(&stored[..])).expect("it is one"));
    });
    row("  peer: roaring, to restore it", seen, "");
}

fn subnets(rounds: usize) {
    let prefix = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8).into();
    let mut pools = Pools::new(&[PoolConfig { prefix, split: 24 }]).expect("a valid pool");
    let cut: Vec<IpNet> = (0..10_000)
        .map(|_| {
            pools
                .allocate(SubnetRequest::Any, &[])
                .expect("there is room")
        })
        .collect();
    let mut rng = rng();
    let order: Vec<IpNet> = (0..10_000)
        .filter_map(|_| cut.get(rng.index(cut.len())?).copied())
        .collect();
    let seen = nanos(rounds, 2 * order.len(), || {
        for prefix in &order {
            pools.release(*prefix).expect("it is allocated");
            black_box(
                pools
                    .allocate(SubnetRequest::Any, &[])
                    .expect("there is room"),
            );
        }
    });
    row("a subnet cut or taken back among 10,000", seen, "");
    let foreign = [Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 12).into()];
    let seen = nanos(rounds, 2 * 1_000, || {
        for _ in 0..1_000 {
            let prefix = pools
                .allocate(SubnetRequest::Any, &foreign)
                .expect("there is room");
            pools.release(prefix).expect("it is allocated");
        }
    });
    row("  with 10.0.0.0/12 in use elsewhere", seen, "");
}

fn leases(rounds: usize) {
    const LEASES: u64 = 1_000_000;
    let prefix = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8).into();
    let set = || {
        let mut set = AddressSet::new((SLASH_8 - 1).into());
        (0..u128::from(LEASES)).for_each(|number| {
            set.insert(number);
        });
        set
    };
    let (_, bare) = held(set);
    let fill = || {
        let mut subnet = Subnet::new(SubnetConfig::new(prefix)).expect("a valid subnet");
        let mut rng = rng();
        for index in 0..LEASES {
            let owner = OwnerId::from_bytes(rng.bytes());
            subnet.allocate(owner, index).expect("there is room");
        }
        subnet
    };
    let (subnet, bytes) = held(fill);
    let each = (bytes - bare) as f64 / LEASES as f64;
    println!(
        "{:<56} {each:>12.1} octets",
        "a lease with its owner, of 1,000,000, besides the set"
    );
    let mut subnet = subnet;
    let owners: Vec<OwnerId> = subnet
        .leases()
        .map(|lease| lease.owner)
        .step_by(97)
        .collect();
    let seen = nanos(rounds, 2 * owners.len(), || {
        for owner in &owners {
            subnet.release_owner(*owner, LEASES).expect("it holds one");
            subnet.allocate(*owner, LEASES).expect("there is room");
        }
    });
    row("  taken or given back", seen, "");
    let before = heap::asked();
    for owner in &owners {
        subnet.release_owner(*owner, LEASES).expect("it holds one");
        subnet.allocate(*owner, LEASES).expect("there is room");
    }
    let asked = (heap::asked() - before) as f64 / (2 * owners.len()) as f64;
    println!("{:<56} {asked:>12.2} times", "  memory asked for meanwhile");
}

/// Every other address, more or less.
fn half() -> impl Iterator<Item = u32> {
    let mut rng = rng();
    (0..SLASH_8 / 64).flat_map(move |word| {
        let bits = rng.next_u64();
        (0..64)
            .filter(move |bit| bits >> bit & 1 == 1)
            .map(move |bit| word * 64 + bit)
    })
}

fn random_half() -> AddressSet {
    let mut set = AddressSet::new((SLASH_8 - 1).into());
    half().for_each(|number| {
        set.insert(number.into());
    });
    set
}

fn rng() -> Rng {
    Seed::from_u64(4).rng()
}

/// Makes a value; returns it, and the octets that it holds.
fn held<T>(make: impl FnOnce() -> T) -> (T, usize) {
    let before = heap::held();
    let (value, _) = cpu(make);
    let bytes = heap::held() - before;
    (value, bytes)
}

fn octets(name: &str, bytes: usize) {
    println!("{name:<56} {:>12.1} KB", bytes as f64 / 1_000.0);
}

/// What is naive: a bit each, searched word by word.
struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    fn new(size: u32) -> Self {
        Self {
            words: vec![0; size as usize / 64],
        }
    }

    fn take_from(&mut self, from: u128) -> Option<u128> {
        let from = usize::try_from(from).ok()?;
        let found = self.clear_in(from, self.words.len() * 64);
        let found = found.or_else(|| self.clear_in(0, from))?;
        self.words[found >> 6] |= 1 << (found & 63);
        Some(found as u128)
    }

    fn clear_in(&self, from: usize, end: usize) -> Option<usize> {
        let mut mask = u64::MAX << (from & 63);
        for at in from >> 6..end.div_ceil(64) {
            let free = !self.words[at] & mask;
            if free != 0 {
                return Some(at * 64 + free.trailing_zeros() as usize).filter(|found| *found < end);
            }
            mask = u64::MAX;
        }
        None
    }

    fn insert(&mut self, number: u128) {
        self.words[(number >> 6) as usize] |= 1 << (number & 63);
    }

    fn remove(&mut self, number: u128) {
        self.words[(number >> 6) as usize] &= !(1 << (number & 63));
    }
}

const REPEAT: usize = 10_000;
