//! Which backend each slot of a virtual address leads to.
//!
//! Every backend gets its fair share of the [`SLOTS`], rounded to a whole one (largest remainder), and takes its turns
//! evenly among the others'. In each turn it takes the first slot of its own random order that nobody has: so each backend
//! sits where it would sit without the others, nearly, and few slots move when one of them comes or goes (Maglev, NSDI'16
//! §3.4, with turns by weight). Nothing but the backends' identities and weights has a say: nodes that know the same ones
//! agree, whatever they knew before. Of equal backends, besides the slots of the one that goes, 1 to 7 % of all move.

use std::net::IpAddr;

use overlay_core::EndpointId;

/// Slots of a virtual address with more than one backend: a share is exact to 1 in 1,024.
pub const SLOTS: usize = 1_024;

/// A backend that takes new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: EndpointId,
    pub(super) address: IpAddr,
    pub(super) weight: u16,
}

/// Assigns the slots: none without a candidate, one for a single candidate, else [`SLOTS`].
///
/// The candidates have weights above 0 and identities of their own, in whatever order.
pub(super) fn assign(candidates: &[Candidate]) -> Vec<IpAddr> {
    match candidates {
        [] => return Vec::new(),
        [one] => return vec![one.address],
        _ => {}
    }
    let mut candidates = candidates.to_vec();
    candidates.sort_by_key(|candidate| candidate.id);
    let mut places: Vec<Place> = candidates.iter().map(|one| Place::new(one.id)).collect();
    let mut slots = vec![None; SLOTS];
    for which in turns(&shares(&candidates)) {
        let (Some(place), Some(candidate)) = (places.get_mut(which), candidates.get(which)) else {
            continue;
        };
        // There are as many turns as slots, so one is free.
        while let Some(slot) = place.next().and_then(|at| slots.get_mut(at)) {
            if slot.is_none() {
                *slot = Some(candidate.address);
                break;
            }
        }
    }
    slots.into_iter().flatten().collect()
}

/// How many slots each candidate gets: its fair share without the fraction, and one of those that are left over if its
/// fraction is among the largest.
fn shares(candidates: &[Candidate]) -> Vec<usize> {
    let slots = SLOTS as u64;
    let weights = candidates.iter().map(|one| u64::from(one.weight));
    let total = weights.clone().sum::<u64>().max(1);
    let mut shares: Vec<u64> = weights.clone().map(|one| one * slots / total).collect();
    let mut fractions: Vec<(u64, usize)> = weights
        .enumerate()
        .map(|(at, one)| (one * slots % total, at))
        .collect();
    // Of equal ones the first.
    fractions.sort_by_key(|(fraction, at)| (std::cmp::Reverse(*fraction), *at));
    let mut left = slots.saturating_sub(shares.iter().sum());
    for (_, at) in fractions {
        if let Some(share) = shares.get_mut(at).filter(|_| left > 0) {
            *share += 1;
            left -= 1;
        }
    }
    let whole = shares.into_iter();
    whole
        .map(|share| usize::try_from(share).unwrap_or(SLOTS))
        .collect()
}

/// Whose turn it is: each one's turns are spread evenly over all of them.
fn turns(shares: &[usize]) -> Vec<usize> {
    let mut turns = Vec::with_capacity(SLOTS);
    for (which, share) in shares.iter().enumerate() {
        // The middles of `share` equal parts of the whole, exact enough to be told apart.
        let at = |turn: usize| (2 * turn as u64 + 1) * (1 << 32) / (*share as u64);
        turns.extend((0..*share).map(|turn| (at(turn), which)));
    }
    turns.sort_unstable();
    turns.into_iter().map(|(_, which)| which).collect()
}

/// A backend's own order of the slots.
#[derive(Clone, Copy, Debug)]
struct Place {
    key: u64,
    turn: u64,
}

impl Place {
    fn new(id: EndpointId) -> Self {
        let (mut high, mut low) = ([0; 8], [0; 8]);
        for (at, octet) in id.as_bytes().iter().enumerate() {
            let half = if at < 8 { &mut high } else { &mut low };
            if let Some(place) = half.get_mut(at % 8) {
                *place = *octet;
            }
        }
        let key = mix(mix(u64::from_be_bytes(high)) ^ u64::from_be_bytes(low));
        Self { key, turn: 0 }
    }

    /// The next slot; every one comes once in [`SLOTS`] turns. A permutation: each step can be undone.
    fn next(&mut self) -> Option<usize> {
        if self.turn >= SLOTS as u64 {
            return None;
        }
        let mut at = self.turn;
        self.turn += 1;
        for shift in [0, 20, 40] {
            let key = self.key >> shift;
            at = (at.wrapping_mul((key << 1) | 1) ^ (key >> 10)) & MASK;
            at ^= at >> 5;
        }
        usize::try_from(at).ok()
    }
}

/// The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA'14).
fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

const MASK: u64 = SLOTS as u64 - 1;
