//! How large a datagram to one peer may be, found by probing: DPLPMTUD (RFC 8899) as a machine.
//!
//! A [`Prober`] says which probes to send and is told which were acknowledged. Sizes are octets of the outer IP packet.
//!
//! ```text
//!            acknowledged           all sizes tried
//!   Base ─────────────────▶ Search ─────────────────▶ SearchComplete
//!    │  ▲ ▲                    ▲                        │    │
//!    │  │ └──────── nothing comes through any more ─────┼────┘
//!    │  │                      └── after raise_interval ┘
//!    │  │ acknowledged
//!    ▼  │
//!   Error (answered before) ───▶ Unsupported (never answered, or not for long)
//! ```
//!
//! Where it deviates from RFC 8899: the least size is that of `Base`, 1,280 octets, which every IPv6 path carries (§5.1.2
//! allows less over IPv4); a lost probe is given up after a second, not 15 (§5.1.1), because the underlay of a cluster has
//! short round trips; the first search starts at the largest size (§5.3.2 allows it), and until it fails the largest size
//! holds, because an endpoint that was once told of a small path MTU keeps to it for minutes; for the same reason what held
//! still holds while nothing at all comes through (§5.2 would go down to the least size): a smaller size helps nobody then.
//! A peer that never acknowledges anything is one without probing, such as a kernel, and no black hole: the largest size
//! holds.

use std::{collections::VecDeque, time::Duration};

use overlay_core::{Instant, Machine, Rng, Seed};

/// The bounds and times of probing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The size that is taken for granted (BASE_PLPMTU), in octets. Default 1,280.
    pub base_bytes: u16,
    /// How close to the real size a search comes, in octets. Default 8; 0 counts as 1. Too low: more probes.
    pub step_bytes: u16,
    /// How often a size is tried until it counts as too big (MAX_PROBES, RFC 8899 §5.1.2). Default 3; 0 counts as 1. Too
    /// low: a lossy path looks narrow; too high: a black hole is found late.
    pub probes_max: u8,
    /// How long to wait for an acknowledgement (PROBE_TIMER). Default 1 s, to be longer than any round trip.
    pub probe_interval: Duration,
    /// How often the found size is confirmed (CONFIRMATION_TIMER). Default 10 s: a black hole is found after at most this
    /// and `probes_max` times `probe_interval`.
    pub confirm_interval: Duration,
    /// How long after a search a larger size is tried again (PMTU_RAISE_TIMER). Default 10 min. A peer that does not
    /// acknowledge anything is asked again that often.
    pub raise_interval: Duration,
    /// How many sizes of `Base` in a row go unacknowledged until a peer that once answered counts as one without probing.
    /// Default 20.
    pub errors_max: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            base_bytes: 1_280,
            step_bytes: 8,
            probes_max: 3,
            probe_interval: Duration::from_secs(1),
            confirm_interval: Duration::from_secs(10),
            raise_interval: Duration::from_secs(600),
            errors_max: 20,
        }
    }
}

/// Where the search is (RFC 8899 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Whether the least size comes through is being found out.
    Base,
    /// Larger sizes are being tried.
    Search,
    /// The size is found; from time to time it is confirmed, and a larger one tried.
    SearchComplete,
    /// Not even the least size comes through any more: peer or path are down. What held still holds.
    Error,
    /// The peer acknowledges no probes. The largest size holds.
    Unsupported,
}

/// What the prober wants to have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a probe in a packet that must not be fragmented.
    Probe(Probe),
    /// Datagrams of this size, in octets of outer IP, are held to come through from now on.
    Mtu(u16),
}

/// One probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    /// Size of the outer IP packet, in octets.
    pub size_bytes: u16,
    /// What the acknowledgement has to repeat; nobody off the path can guess it.
    pub token: u64,
}

/// Finds the path MTU to one peer.
#[derive(Debug)]
pub struct Prober {
    config: Config,
    rng: Rng,
    now: Instant,
    state: State,
    /// The largest size that makes sense: the MTU of the underlay's interface.
    ceiling: u16,
    /// The largest size that came through; of `Base` before any did.
    confirmed: u16,
    /// The least size that did not; above the ceiling while none failed.
    failed: u32,
    /// What was told last.
    mtu: u16,
    outstanding: Option<Outstanding>,
    /// When the outstanding probe is lost, or the next one is due.
    deadline: Instant,
    /// When larger sizes are tried again.
    raise: Instant,
    hint: Hint,
    /// Whether the peer acknowledges probes at all.
    answered: bool,
    errors: u16,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    probe: Probe,
    tries: u8,
}

/// What an ICMP error said, not validated yet.
#[derive(Clone, Copy, Debug)]
struct Hint {
    mtu: Option<u16>,
    /// Earlier than this no other one is believed.
    next: Instant,
}

impl Prober {
    /// Makes a prober for a path whose first link takes packets of at most `ceiling` octets, which hold until it is known
    /// better. The first probe is due at once.
    #[must_use]
    pub fn new(now: Instant, config: Config, ceiling: u16, seed: &Seed) -> Self {
        Self {
            rng: seed.rng(),
            now,
            state: State::Base,
            ceiling,
            confirmed: config.base_bytes.min(ceiling),
            failed: u32::from(ceiling) + 1,
            mtu: ceiling,
            outstanding: None,
            deadline: now,
            raise: now,
            hint: Hint {
                mtu: None,
                next: now,
            },
            answered: false,
            errors: 0,
            outputs: VecDeque::new(),
            config,
        }
    }

    /// Takes an acknowledgement: a probe of that size and token came through. Any but that of the probe on its way is
    /// ignored; returns whether it was that one.
    pub fn handle_acknowledgement(&mut self, now: Instant, acknowledged: Probe) -> bool {
        self.now = self.now.max(now);
        let expected = self.outstanding.map(|outstanding| outstanding.probe);
        if expected != Some(acknowledged) {
            return false;
        }
        self.outstanding = None;
        self.answered = true;
        self.errors = 0;
        let size = acknowledged.size_bytes;
        match self.state {
            State::Base | State::Error | State::Unsupported => {
                self.confirmed = size;
                self.search();
            }
            State::Search => {
                self.confirmed = size.max(self.confirmed);
                self.search();
            }
            State::SearchComplete => {
                self.hint.mtu = None;
                self.deadline = self.after(self.config.confirm_interval);
            }
        }
        true
    }

    /// Takes what an ICMP error of the underlay says, which anybody may have sent: it only decides what is probed next
    /// (RFC 8899 §4.6.2). Returns whether it does: not while a confirmation is on its way, and once a `probe_interval`.
    pub fn handle_packet_too_big(&mut self, now: Instant, mtu: u16) -> bool {
        self.now = self.now.max(now);
        if self.now < self.hint.next {
            return false;
        }
        let probed = self.outstanding.map(|outstanding| outstanding.probe);
        let next = match self.state {
            State::Search
                if mtu > self.confirmed
                    && probed.is_some_and(|probe| mtu < probe.size_bytes)
                    && self.hint.mtu.is_none() =>
            {
                mtu
            }
            State::SearchComplete
                if probed.is_none() && mtu >= self.base() && mtu < self.confirmed =>
            {
                self.confirmed
            }
            _ => return false,
        };
        self.hint = Hint {
            mtu: Some(mtu),
            next: self.after(self.config.probe_interval),
        };
        self.send(next);
        true
    }

    /// Says that the underlay's interface has another MTU; what was found is searched for anew up to it.
    pub fn set_ceiling(&mut self, now: Instant, ceiling: u16) {
        self.now = self.now.max(now);
        if ceiling == self.ceiling {
            return;
        }
        let before = std::mem::replace(&mut self.ceiling, ceiling);
        self.failed = u32::from(ceiling) + 1;
        self.confirmed = self.confirmed.min(ceiling);
        self.hint.mtu = None;
        self.outstanding = None;
        match self.state {
            State::Search | State::SearchComplete => self.search(),
            State::Base | State::Error | State::Unsupported => self.deadline = self.now,
        }
        // A path that was found to be narrower than its first link stays so until a probe says otherwise.
        self.tell(if self.mtu == before {
            ceiling
        } else {
            self.mtu.min(ceiling)
        });
    }

    /// Returns the size that is held to come through, in octets of outer IP.
    #[must_use]
    pub const fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Returns where the search is.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    fn base(&self) -> u16 {
        self.config.base_bytes.min(self.ceiling)
    }

    const fn is_untested(&self) -> bool {
        self.failed > self.ceiling as u32
    }

    fn after(&self, interval: Duration) -> Instant {
        self.now + interval.max(INTERVAL_MIN)
    }

    /// Sends the first probe of a size.
    fn send(&mut self, size_bytes: u16) {
        let token = self.rng.next_u64();
        let probe = Probe { size_bytes, token };
        self.try_again(Outstanding { probe, tries: 0 });
    }

    fn try_again(&mut self, mut outstanding: Outstanding) {
        outstanding.tries = outstanding.tries.saturating_add(1);
        self.outstanding = Some(outstanding);
        self.deadline = self.after(self.config.probe_interval);
        self.outputs.push_back(Output::Probe(outstanding.probe));
    }

    /// Tries the next size, or is done.
    fn search(&mut self) {
        self.state = State::Search;
        // While the largest size may come through, it holds; from the first failure on, what came through does.
        if !self.is_untested() || self.mtu < self.confirmed {
            self.tell(self.confirmed);
        }
        if let Some(size) = self.candidate() {
            self.send(size);
            return;
        }
        self.state = State::SearchComplete;
        self.tell(self.confirmed);
        self.deadline = self.after(self.config.confirm_interval);
        self.raise = self.after(self.config.raise_interval);
    }

    /// Returns the next size to try, between what came through and what did not.
    fn candidate(&mut self) -> Option<u16> {
        let (low, high) = (self.confirmed, self.failed);
        let between = |size: u16| size > low && u32::from(size) < high;
        if let Some(hint) = self.hint.mtu.take().filter(|hint| between(*hint)) {
            return Some(hint);
        }
        if self.is_untested() {
            return (self.ceiling > low).then_some(self.ceiling);
        }
        let first = COMMON_SIZES.partition_point(|size| *size <= low);
        let end = COMMON_SIZES.partition_point(|size| u32::from(*size) < high);
        if let Some(common) = COMMON_SIZES
            .get(first..end)
            .filter(|sizes| !sizes.is_empty())
        {
            return common.get(common.len() / 2).copied();
        }
        let gap = high.saturating_sub(u32::from(low));
        let half = u16::try_from(gap / 2).unwrap_or(u16::MAX);
        (gap > u32::from(self.config.step_bytes.max(1))).then(|| low.saturating_add(half))
    }

    /// Draws the conclusions from a size that was tried often enough.
    fn lost(&mut self, size: u16) {
        match self.state {
            State::Base if !self.answered => self.give_up(),
            State::Unsupported => self.give_up(),
            State::Base | State::Error if self.errors >= self.config.errors_max => self.give_up(),
            State::Base | State::Error => {
                self.errors += 1;
                self.state = State::Error;
                // Whatever was lost was not lost because of its size.
                self.failed = u32::from(self.ceiling) + 1;
                self.deadline = self.after(self.config.probe_interval);
            }
            State::Search => {
                // An ICMP error that lied is no reason to think less of the size it drew away from.
                self.failed = self.failed.min(u32::from(size));
                self.hint.mtu = None;
                self.search();
            }
            // What came through before does not any more: a black hole, or nothing at all comes through.
            State::SearchComplete => {
                self.failed = u32::from(size);
                self.confirmed = self.base().min(size);
                self.state = State::Base;
                self.send(self.confirmed);
            }
        }
    }

    fn give_up(&mut self) {
        self.state = State::Unsupported;
        self.answered = false;
        self.failed = u32::from(self.ceiling) + 1;
        self.tell(self.ceiling);
        self.deadline = self.after(self.config.raise_interval);
    }

    fn tell(&mut self, mtu: u16) {
        if mtu != self.mtu {
            self.mtu = mtu;
            self.outputs.push_back(Output::Mtu(mtu));
        }
    }
}

impl Machine for Prober {
    type Output = Output;

    fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.now < self.deadline {
            return;
        }
        match self.outstanding.take() {
            Some(outstanding) if outstanding.tries < self.config.probes_max => {
                self.try_again(outstanding);
            }
            Some(outstanding) => self.lost(outstanding.probe.size_bytes),
            None if self.state != State::SearchComplete => self.send(self.base()),
            None if self.now >= self.raise && self.confirmed < self.ceiling => {
                self.failed = u32::from(self.ceiling) + 1;
                self.search();
            }
            None => self.send(self.confirmed),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.outputs.is_empty() {
            Some(self.deadline)
        } else {
            Some(self.now)
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

/// The least time between two probes of one size, whatever the configuration says: time has to go on.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Sizes that paths have, in octets: tunnels, PPPoE, Ethernet, FDDI, jumbo frames. A search tries them before others.
const COMMON_SIZES: [u16; 22] = [
    1_320, 1_350, 1_380, 1_400, 1_420, 1_430, 1_440, 1_450, 1_460, 1_472, 1_480, 1_492, 1_500,
    2_048, 4_096, 4_352, 7_981, 8_192, 8_850, 8_900, 8_950, 9_000,
];
