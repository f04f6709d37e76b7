//! The anti-replay window: which sequence numbers were seen (RFC 4303 §3.4.3; the blocks are those of RFC 6479).

#![expect(
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "numbers of 64 bits, and of a block below their count"
)]

/// The numbers below the highest one that was seen, as bits in a ring of blocks.
///
/// One block more than the window has room in lets the window begin within a block: moving it on clears whole blocks, at
/// most all of them, and shifts nothing.
#[derive(Clone, Debug)]
pub(super) struct Window<const BLOCKS: usize> {
    highest: u64,
    blocks: [u64; BLOCKS],
}

/// Why a sequence number is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is below the window.
    TooOld,
    /// It was seen.
    Replayed,
}

/// Bits of a block.
const BITS: u64 = u64::BITS as u64;

impl<const BLOCKS: usize> Window<BLOCKS> {
    /// How many numbers back it reaches, the highest one included.
    pub(super) const WIDTH: u64 = (BLOCKS as u64 - 1) * BITS;

    /// Makes a window in which all numbers up to `highest` were seen; zero, which is never sent, always was.
    pub(super) const fn behind(highest: u64) -> Self {
        let mut blocks = [u64::MAX; BLOCKS];
        blocks[Self::place(highest)] >>= BITS - 1 - highest % BITS;
        Self { highest, blocks }
    }

    pub(super) const fn highest(&self) -> u64 {
        self.highest
    }

    /// Completes a number of which the lower half is known (RFC 4303 appendix A2.2): of those that fit, the only one from
    /// the lower edge of the window to 2^32 beyond. `None` if that is no number of 64 bits.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower half is what is meant"
    )]
    pub(super) const fn complete(&self, low: u32) -> Option<u64> {
        // Below zero for as long as the window is not full: then the first numbers that fit are none.
        let edge = self.highest.wrapping_sub(Self::WIDTH - 1);
        let ahead = low.wrapping_sub(edge as u32) as u64;
        match (Self::WIDTH - 1).checked_sub(self.highest) {
            None | Some(0) => edge.checked_add(ahead),
            Some(missing) => ahead.checked_sub(missing),
        }
    }

    /// Says whether a packet with this number would be new. Changes nothing: the packet may be forged.
    pub(super) fn check(&self, sequence: u64) -> Result<(), Refused> {
        if sequence > self.highest {
            return Ok(());
        }
        if self.highest - sequence >= Self::WIDTH {
            return Err(Refused::TooOld);
        }
        if self.blocks[Self::place(sequence)] & Self::bit(sequence) != 0 {
            return Err(Refused::Replayed);
        }
        Ok(())
    }

    /// Notes the number of an authentic packet that was [checked](Self::check).
    pub(super) fn accept(&mut self, sequence: u64) {
        if sequence > self.highest {
            let entered = (sequence / BITS - self.highest / BITS).min(BLOCKS as u64);
            for back in 0..entered {
                self.blocks[Self::place(sequence - back * BITS)] = 0;
            }
            self.highest = sequence;
        }
        self.blocks[Self::place(sequence)] |= Self::bit(sequence);
    }

    const fn place(sequence: u64) -> usize {
        (sequence / BITS % BLOCKS as u64) as usize
    }

    const fn bit(sequence: u64) -> u64 {
        1 << (sequence % BITS)
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::cast_possible_truncation,
        reason = "the halves of a number are what is meant"
    )]

    use std::collections::BTreeSet;

    use overlay_core::Seed;

    use super::*;

    /// What was seen, as a set.
    struct Model {
        highest: u64,
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn check(&self, sequence: u64, width: u64) -> Result<(), Refused> {
            if sequence.saturating_add(width) <= self.highest {
                Err(Refused::TooOld)
            } else if self.seen.contains(&sequence) {
                Err(Refused::Replayed)
            } else {
                Ok(())
            }
        }
    }

    /// Numbers around the edges of window, blocks and lower half, in any order, each perhaps not accepted.
    fn compare<const BLOCKS: usize>(start: u64, seed: u64) {
        let width = Window::<BLOCKS>::WIDTH;
        let mut window = Window::<BLOCKS>::behind(start);
        let seen = (start.saturating_sub(2 * width)..=start).collect();
        let mut model = Model {
            highest: start,
            seen,
        };
        let mut rng = Seed::from_u64(seed).rng();
        let mut outcomes = [0; 3];
        for _ in 0..4_000 {
            let reach = [3, 70, width, 3 * width][rng.index(4).unwrap()];
            let near = model.highest.saturating_sub(reach);
            let sequence = near.saturating_add(rng.below(2 * reach + 1 - reach / 3));
            let expected = model.check(sequence, width);
            assert_eq!(window.check(sequence), expected, "{sequence} of {window:?}");
            outcomes[expected.map_or_else(|refused| refused as usize, |()| 2)] += 1;
            if expected.is_ok() && rng.below(4) > 0 {
                window.accept(sequence);
                model.seen.insert(sequence);
                model.highest = model.highest.max(sequence);
                assert_eq!(window.highest(), model.highest);
            }
        }
        assert!(outcomes.iter().all(|count| *count > 100), "{outcomes:?}");
    }

    #[test]
    fn it_says_what_a_set_of_all_numbers_says() {
        for seed in 0..5 {
            for start in [0, 1, 63, 64, 1 << 20, (1 << 32) - 100, (7 << 32) - 3_000] {
                compare::<2>(start, seed);
                compare::<3>(start, seed);
                compare::<17>(start, seed);
            }
        }
    }

    /// The table of RFC 4303 appendix A2.2, case by case, in halves as it is written there.
    fn by_the_table(top: u64, low: u32, width: u32) -> Option<u64> {
        let (th, tl) = ((top >> 32) as u32, top as u32);
        let high = if tl >= width - 1 {
            // The window is within one half.
            if low >= tl - (width - 1) {
                th
            } else {
                th.checked_add(1)?
            }
        } else if low >= tl.wrapping_sub(width - 1) {
            th.checked_sub(1)?
        } else {
            th
        };
        Some(u64::from(high) << 32 | u64::from(low))
    }

    #[test]
    fn the_upper_half_is_that_of_the_appendix() {
        let width = Window::<3>::WIDTH;
        assert_eq!(width, 128);
        let near = |at: u64| (0..300).map(move |by| at.wrapping_sub(150).wrapping_add(by));
        for top in [
            0,
            1,
            127,
            128,
            1 << 31,
            (1 << 32) - 1,
            1 << 32,
            (1 << 32) + 200,
            u64::MAX,
        ] {
            let tops = near(top).filter(|near| near.abs_diff(top) < 200);
            for top in tops {
                let window = Window::<3>::behind(top);
                let lows = [0, 1 << 31, u64::from(u32::MAX), top, top.wrapping_sub(127)];
                for low in lows.into_iter().flat_map(near).map(|low| low as u32) {
                    let expected = by_the_table(top, low, 128);
                    assert_eq!(window.complete(low), expected, "{low} after {top}");
                }
            }
        }
    }

    #[test]
    fn a_number_that_comes_after_the_lower_half_began_anew_is_the_next_one() {
        let mut window = Window::<3>::behind((1 << 32) - 2);
        for sequence in [(1 << 32) - 1, 1 << 32, (1 << 32) + 1_u64] {
            let completed = window.complete(sequence as u32).unwrap();
            assert_eq!(completed, sequence);
            window.check(completed).unwrap();
            window.accept(completed);
        }
        assert_eq!(window.complete(u32::MAX), Some((1 << 32) - 1));
        assert_eq!(window.check((1 << 32) - 1), Err(Refused::Replayed));
    }
}
