//! Probing of the path MTU against simulated paths.

use std::{collections::BTreeMap, time::Duration};

use overlay_core::{Instant, Machine, Rng, Seed};
use overlay_vxlan::pmtu::{Config, Output, Probe, Prober, State};
use proptest::prelude::*;

const RTT: Duration = Duration::from_millis(2);

/// A path, the peer at its end, and the prober at its start.
struct Path {
    prober: Prober,
    now: Instant,
    /// Largest packet that comes through.
    mtu: u16,
    /// Millionths of all probes, and of all acknowledgements, that are lost.
    loss: u32,
    silent: bool,
    rng: Rng,
    /// Acknowledgements on their way.
    returning: BTreeMap<(Instant, u64), Probe>,
    probes: Vec<(Instant, u16)>,
    told: Vec<u16>,
}

impl Path {
    fn new(seed: u64, ceiling: u16, mtu: u16) -> Self {
        let seed = Seed::from_u64(seed);
        let now = Instant::from_millis(5);
        Self {
            prober: Prober::new(now, Config::default(), ceiling, &seed.derive("prober")),
            now,
            mtu,
            loss: 0,
            silent: false,
            rng: seed.derive("path").rng(),
            returning: BTreeMap::new(),
            probes: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Lets time pass; returns at `until`.
    fn run(&mut self, until: Instant) {
        loop {
            self.drain();
            let next = self.returning.keys().next().map(|(at, _)| *at);
            let due = self.prober.poll_timeout();
            let Some(next) = next.into_iter().chain(due).min().filter(|at| *at <= until) else {
                self.now = until;
                return;
            };
            assert!(next >= self.now, "time goes on");
            self.now = next;
            let arrived = self.returning.first_key_value();
            if arrived.is_some_and(|((at, _), _)| *at <= next)
                && let Some((_, probe)) = self.returning.pop_first()
            {
                self.prober.handle_acknowledgement(next, probe);
            }
            self.prober.handle_timeout(next);
        }
    }

    fn run_for(&mut self, duration: Duration) {
        self.run(self.now + duration);
    }

    fn drain(&mut self) {
        while let Some(output) = self.prober.poll_output() {
            match output {
                Output::Mtu(mtu) => self.told.push(mtu),
                Output::Probe(probe) => {
                    self.probes.push((self.now, probe.size_bytes));
                    let lost = (0..2).any(|_| self.rng.chance(self.loss));
                    if !lost && !self.silent && probe.size_bytes <= self.mtu {
                        self.returning.insert((self.now + RTT, probe.token), probe);
                    }
                }
            }
        }
        assert_eq!(
            self.told.last().copied().unwrap_or(self.prober.mtu()),
            self.prober.mtu()
        );
        let due = self.prober.poll_timeout().expect("there is always a timer");
        assert!(due >= self.now || self.probes.is_empty());
    }

    fn settled(&self) -> (State, u16) {
        (self.prober.state(), self.prober.mtu())
    }
}

#[test]
fn a_path_as_wide_as_its_first_link_is_confirmed_in_two_round_trips() {
    for ceiling in [1_280, 1_281, 1_500, 9_000, u16::MAX] {
        let mut path = Path::new(1, ceiling, ceiling);
        path.run_for(3 * RTT);
        assert_eq!(path.settled(), (State::SearchComplete, ceiling));
        assert_eq!(path.told, [], "it held before");
        let expected = if ceiling == 1_280 { 1 } else { 2 };
        assert_eq!(path.probes.len(), expected);
    }
}

#[test]
fn a_narrow_path_is_found_within_a_minute_and_with_few_probes() {
    let exact = [1_280, 1_400, 1_420, 1_450, 1_492, 1_500, 8_900];
    for mtu in exact.into_iter().chain((1_281..9_000).step_by(97)) {
        let mut path = Path::new(1, 9_000, mtu);
        path.run_for(Duration::from_secs(60));
        let (state, found) = path.settled();
        assert_eq!(state, State::SearchComplete);
        assert!(found <= mtu && mtu - found < 8, "{found} of {mtu}");
        if exact.contains(&mtu) {
            assert_eq!(found, mtu, "sizes that paths have are found to the octet");
        }
        // What is told only rises once the largest size has failed.
        assert!(path.told.is_sorted(), "{:?}", path.told);
        assert!(path.probes.len() < 60, "{} probes", path.probes.len());
    }
}

/// A probe that is lost is sent again after a second, three times in all (RFC 8899 §5.1.1, §5.1.2).
#[test]
fn a_lost_probe_is_sent_again_and_then_given_up() {
    let mut path = Path::new(1, 1_500, 1_400);
    path.run_for(Duration::from_millis(3_100));
    let start = path.probes[0].0;
    let sent: Vec<_> = path
        .probes
        .iter()
        .map(|(at, size)| (at.duration_since(start).as_millis(), *size))
        .collect();
    assert_eq!(
        sent[..4],
        [(0, 1_280), (2, 1_500), (1_002, 1_500), (2_002, 1_500)]
    );
    assert_eq!(sent[4].0, 3_002);
    assert!(sent[4].1 < 1_500);
    assert_eq!(
        path.told[0], 1_280,
        "what came through holds once the largest size failed"
    );
}

#[test]
fn a_peer_that_never_answers_is_no_black_hole() {
    let mut path = Path::new(1, 1_500, 1_500);
    path.silent = true;
    path.run_for(Duration::from_secs(3_600));
    assert_eq!(path.settled(), (State::Unsupported, 1_500));
    assert_eq!(path.told, []);
    // Three probes of the least size every ten minutes.
    assert!(path.probes.len() <= 3 * 7, "{} probes", path.probes.len());
    assert!(path.probes.iter().all(|(_, size)| *size == 1_280));
    // Until it does.
    path.silent = false;
    path.mtu = 1_400;
    path.run_for(Duration::from_secs(700));
    assert_eq!(path.settled(), (State::SearchComplete, 1_400));
}

#[test]
fn a_path_that_narrows_in_flight_is_noticed() {
    let mut path = Path::new(1, 9_000, 9_000);
    path.run_for(Duration::from_secs(25));
    assert_eq!(path.settled(), (State::SearchComplete, 9_000));
    path.mtu = 1_450;
    // Confirmation after at most 10 s, three tries of a second, and a round trip for the least size.
    path.run_for(Duration::from_millis(13_100));
    assert!(path.prober.mtu() <= 1_450, "{}", path.prober.mtu());
    path.run_for(Duration::from_secs(60));
    assert_eq!(path.settled(), (State::SearchComplete, 1_450));
    // Wider again: found when larger sizes are tried again.
    path.mtu = 9_000;
    path.run_for(Duration::from_secs(620));
    assert_eq!(path.settled(), (State::SearchComplete, 9_000));
}

/// A reboot of the peer says nothing about the path.
#[test]
fn a_peer_that_is_down_leaves_the_size_as_it_was() {
    let mut path = Path::new(1, 1_500, 1_500);
    path.run_for(Duration::from_secs(1));
    path.silent = true;
    path.run_for(Duration::from_secs(60));
    assert_eq!(path.settled(), (State::Error, 1_500));
    path.silent = false;
    path.run_for(Duration::from_secs(5));
    assert_eq!(path.settled(), (State::SearchComplete, 1_500));
    assert_eq!(path.told, []);
    // Down for good, or back without probing.
    path.silent = true;
    path.mtu = 1_400;
    path.run_for(Duration::from_secs(120));
    assert_eq!(path.settled(), (State::Unsupported, 1_500));
}

#[test]
fn an_icmp_error_of_the_underlay_shortens_the_search_but_is_not_believed() {
    // True: the named size is probed first.
    let mut path = Path::new(1, 9_000, 1_437);
    path.run_for(Duration::from_millis(100));
    assert!(path.prober.handle_packet_too_big(path.now, 1_437));
    path.run_for(Duration::from_millis(100));
    assert_eq!(path.probes.last().map(|(_, size)| *size), Some(9_000));
    assert!(path.probes.iter().any(|(_, size)| *size == 1_437));
    path.run_for(Duration::from_secs(60));
    let (state, found) = path.settled();
    assert_eq!(state, State::SearchComplete);
    assert!((1_437 - 7..=1_437).contains(&found));
    // Too large for what is probed, too small, or not of this path.
    let mut path = Path::new(1, 1_500, 1_500);
    path.run_for(Duration::from_secs(1));
    for mtu in [0, 68, 1_279, 1_500, 9_000] {
        assert!(!path.prober.handle_packet_too_big(path.now, mtu), "{mtu}");
    }
    // A lie: one probe more, and nothing else.
    let before = path.probes.len();
    assert!(path.prober.handle_packet_too_big(path.now, 1_300));
    path.run_for(Duration::from_millis(500));
    assert_eq!(path.settled(), (State::SearchComplete, 1_500));
    assert_eq!(path.probes.len(), before + 1);
    // Not more often than probes are sent.
    assert!(!path.prober.handle_packet_too_big(path.now, 1_300));
    path.run_for(Duration::from_millis(500));
    assert!(path.prober.handle_packet_too_big(path.now, 1_300));
    assert_eq!(path.told, []);
    // The truth, in flight.
    let mut path = Path::new(1, 1_500, 1_500);
    path.run_for(Duration::from_secs(1));
    path.mtu = 1_413;
    assert!(path.prober.handle_packet_too_big(path.now, 1_413));
    path.run_for(Duration::from_millis(3_100));
    assert_eq!(path.prober.mtu(), 1_413);
}

#[test]
fn only_the_probe_on_its_way_can_be_acknowledged() {
    let mut prober = Prober::new(Instant::EPOCH, Config::default(), 1_500, &Seed::from_u64(1));
    let now = Instant::from_millis(1);
    prober.handle_timeout(now);
    let Some(Output::Probe(probe)) = prober.poll_output() else {
        panic!("the first probe is due at once");
    };
    let token = probe.token;
    for wrong in [
        Probe {
            token: !token,
            ..probe
        },
        Probe {
            size_bytes: 1_281,
            token,
        },
        Probe {
            size_bytes: u16::MAX,
            token: 0,
        },
    ] {
        assert!(!prober.handle_acknowledgement(now, wrong));
    }
    assert_eq!(prober.state(), State::Base);
    assert!(prober.handle_acknowledgement(now, probe));
    assert!(!prober.handle_acknowledgement(now, probe), "once");
    assert_eq!(prober.state(), State::Search);
}

#[test]
fn another_ceiling_starts_a_search_up_to_it() {
    let mut path = Path::new(1, 1_500, 9_000);
    path.run_for(Duration::from_secs(1));
    path.prober.set_ceiling(path.now, 9_000);
    path.run_for(Duration::from_secs(1));
    assert_eq!(path.settled(), (State::SearchComplete, 9_000));
    path.prober.set_ceiling(path.now, 1_500);
    assert_eq!(path.prober.mtu(), 1_500, "nothing larger leaves the host");
    path.run_for(Duration::from_secs(1));
    assert_eq!(path.settled(), (State::SearchComplete, 1_500));
    // Below the least size, and a path that is known to be narrow.
    path.prober.set_ceiling(path.now, 1_000);
    path.run_for(Duration::from_secs(1));
    assert_eq!(path.settled(), (State::SearchComplete, 1_000));
    path.prober.set_ceiling(path.now, 1_500);
    path.mtu = 1_400;
    path.run_for(Duration::from_secs(60));
    assert_eq!(path.settled(), (State::SearchComplete, 1_400));
    path.prober.set_ceiling(path.now, 9_000);
    assert_eq!(path.prober.mtu(), 1_400);
    path.run_for(Duration::from_secs(60));
    assert_eq!(path.settled(), (State::SearchComplete, 1_400));
    assert!(
        path.told.iter().skip(5).all(|mtu| *mtu <= 1_500),
        "{:?}",
        path.told
    );
}

/// Of the probes three tenths go unanswered, or, worse, three tenths of the probes and of the acknowledgements are lost.
#[test]
fn heavy_loss_makes_the_size_too_small_at_times_and_never_too_large() {
    for (loss, reached_min) in [(163_000, 100), (300_000, 20)] {
        let reached = (0..200).filter(|seed| survives(*seed, loss)).count();
        assert!(
            reached >= reached_min,
            "{reached} of 200 were found in spite of the loss"
        );
    }
}

/// Probes a path that loses packets; returns whether the right size was found before that was over.
fn survives(seed: u64, loss: u32) -> bool {
    let mtu = 1_280 + u16::try_from(seed * 38).expect("a size");
    let mut path = Path::new(seed, 9_000, mtu);
    path.loss = loss;
    path.run_for(Duration::from_secs(120));
    // From the first answer on, nothing is held that did not come through, but for the largest size at first.
    for told in &path.told {
        assert!(*told <= mtu || *told == 9_000, "{told} of {mtu}");
        assert!(*told >= 1_280);
    }
    let answered = path.prober.state() != State::Unsupported;
    let reached = answered && (mtu - 7..=mtu).contains(&path.prober.mtu());
    // And when the loss is over, the right size is found, if need be after the timer for larger ones.
    path.loss = 0;
    path.run_for(Duration::from_secs(1_300));
    let (state, found) = path.settled();
    assert_eq!(state, State::SearchComplete, "seed {seed}");
    assert!(
        found <= mtu && mtu - found < 8,
        "seed {seed}: {found} of {mtu}"
    );
    reached
}

#[test]
fn intervals_of_zero_do_not_stop_the_time() {
    let zero = Config {
        base_bytes: 0,
        step_bytes: 0,
        probes_max: 0,
        probe_interval: Duration::ZERO,
        confirm_interval: Duration::ZERO,
        raise_interval: Duration::ZERO,
        errors_max: 0,
    };
    for silent in [false, true] {
        let mut path = Path::new(1, 1_500, 1_400);
        path.prober = Prober::new(path.now, zero, 1_500, &Seed::from_u64(1));
        path.silent = silent;
        path.run_for(Duration::from_millis(500));
        assert!(path.probes.len() <= 1_100, "{}", path.probes.len());
    }
}

proptest! {
    /// Whatever happens, what is told stays between the least size and the ceiling, and probes are rare.
    #[test]
    fn anything_may_happen(
        seed: u64,
        events in proptest::collection::vec((0u8..6, any::<u16>(), 0u64..30_000), 1..40),
    ) {
        let mut path = Path::new(seed, 1_500, 1_500);
        let mut ceilings = 1_500;
        for (event, number, millis) in events {
            match event {
                0 => path.mtu = number,
                1 => path.silent = !path.silent,
                2 => path.loss = u32::from(number) * 10,
                3 => {
                    path.prober.handle_packet_too_big(path.now, number);
                }
                4 => {
                    path.prober.set_ceiling(path.now, number);
                    ceilings = number;
                }
                _ => {}
            }
            let before = path.probes.len();
            path.run_for(Duration::from_millis(millis));
            prop_assert!(path.prober.mtu() <= ceilings);
            // In a search each of some thirty sizes may be acknowledged at once; but for that, one a second.
            let most = 2 * 40 + usize::try_from(millis / 1_000).unwrap();
            prop_assert!(path.probes.len() - before <= most);
            prop_assert!(path.probes[before..].iter().all(|(_, size)| *size <= ceilings));
        }
        // In the end the path is what it is.
        path.prober.set_ceiling(path.now, 9_000);
        (path.mtu, path.loss, path.silent) = (1_471, 0, false);
        path.run_for(Duration::from_secs(1_400));
        let (state, found) = path.settled();
        prop_assert_eq!(state, State::SearchComplete);
        prop_assert!((1_464..=1_471).contains(&found), "{}", found);
    }
}
