//! Members of one kind on one virtual network: datagrams that may be lost, streams that are not, members that pause, and cuts.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    ops::Range,
    time::Duration,
};

use overlay_core::{Instant, Rng, Seed};

/// A member of a cluster, of whatever make.
pub trait Member {
    /// Something arrived from the member with that number.
    fn handle(&mut self, now: Instant, from: usize, input: Input);
    /// It is time.
    fn wake(&mut self, now: Instant);
    /// When it wants to be woken.
    fn deadline(&self) -> Option<Instant>;
    /// What it wants done and told, in order.
    fn drain(&mut self, effects: &mut Vec<Effect>);
    /// How many members it takes for being there, itself included.
    fn up(&self) -> usize;
    /// How often it had to say that it is there after all.
    fn renewals(&self) -> u64;
}

/// What arrives.
pub enum Input {
    Datagram(Vec<u8>),
    Stream(Stream),
}

/// One step of a stream, named by who opened it and that one's number.
pub struct Stream {
    pub opener: usize,
    pub number: u64,
    pub step: Step,
}

pub enum Step {
    Open,
    Data(Vec<u8>),
    Close,
}

/// What a member does.
pub enum Effect {
    Datagram {
        to: usize,
        bytes: Vec<u8>,
    },
    Stream {
        to: usize,
        stream: Stream,
    },
    /// It takes a member for gone now.
    Down(usize),
}

/// What the network is like.
#[derive(Clone)]
pub struct Network {
    pub latency: Range<Duration>,
    pub loss_ppm: u32,
}

/// What was sent, told and refused so far.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counters {
    pub datagrams: u64,
    pub datagram_bytes: u64,
    pub stream_bytes: u64,
    pub events: u64,
}

/// Somebody takes a member for gone.
#[derive(Clone, Copy, Debug)]
pub struct Notice {
    pub at: Instant,
    pub of: usize,
}

pub struct World<M> {
    slots: Vec<Slot<M>>,
    queue: BinaryHeap<Reverse<Due>>,
    due: Vec<Option<Event>>,
    free: Vec<usize>,
    sequence: u64,
    now: Instant,
    rng: Rng,
    pub network: Network,
    /// Members on different sides do not hear each other.
    sides: Option<Vec<bool>>,
    pub counters: Counters,
    pub notices: Vec<Notice>,
    effects: Vec<Effect>,
}

/// When, in which order, and where in the table the event is.
type Due = (Instant, u64, usize);

struct Slot<M> {
    member: Option<M>,
    armed: Instant,
    paused_until: Instant,
    inbox: VecDeque<(usize, Input)>,
}

enum Event {
    Arrival {
        to: usize,
        from: usize,
        input: Input,
    },
    Wake(usize),
    Resume(usize),
}

impl<M: Member> World<M> {
    pub fn new(seed: &Seed, network: Network, members: impl IntoIterator<Item = M>) -> Self {
        let slots = members.into_iter().map(|member| Slot {
            member: Some(member),
            armed: FAR,
            paused_until: Instant::EPOCH,
            inbox: VecDeque::new(),
        });
        let slots: Vec<_> = slots.collect();
        let count = slots.len();
        let mut world = Self {
            slots,
            queue: BinaryHeap::new(),
            due: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            now: Instant::EPOCH,
            rng: seed.derive("world").rng(),
            network,
            sides: None,
            counters: Counters::default(),
            notices: Vec::new(),
            effects: Vec::new(),
        };
        for at in 0..count {
            world.after(at);
        }
        world
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn members(&self) -> impl Iterator<Item = (usize, &M)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(at, slot)| slot.member.as_ref().map(|member| (at, member)))
    }

    /// Ends a member without a word.
    pub fn kill(&mut self, at: usize) {
        self.slots[at].member = None;
        self.slots[at].inbox.clear();
    }

    /// Stops a member's process for some time: what arrives waits, as far as a socket's buffer goes.
    pub fn pause(&mut self, at: usize, duration: Duration) {
        let until = self.now + duration;
        self.slots[at].paused_until = until;
        self.push(until, Event::Resume(at));
    }

    /// Cuts the network in two, or makes it whole.
    pub fn cut(&mut self, sides: Option<Vec<bool>>) {
        self.sides = sides;
    }

    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now + duration, |_| false);
    }

    /// Runs until `end`, or until something is so: looked at after each event. Returns whether it was so.
    pub fn run_until(&mut self, end: Instant, is_so: impl Fn(&Self) -> bool) -> bool {
        while let Some(Reverse((at, _, place))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            let event = self.due[place].take();
            self.free.push(place);
            if let Some(event) = event {
                self.counters.events += 1;
                self.carry_out(event);
            }
            if is_so(self) {
                return true;
            }
        }
        self.now = end;
        false
    }

    fn carry_out(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Arrival { to, from, input } => {
                let slot = &mut self.slots[to];
                let Some(member) = &mut slot.member else {
                    if let Input::Stream(stream) = input
                        && matches!(stream.step, Step::Open)
                    {
                        let step = Step::Close;
                        self.send(to, from, Input::Stream(Stream { step, ..stream }));
                    }
                    return;
                };
                if slot.paused_until > now {
                    if slot.inbox.len() < INBOX_MAX || matches!(input, Input::Stream(_)) {
                        slot.inbox.push_back((from, input));
                    }
                    return;
                }
                member.handle(now, from, input);
                self.after(to);
            }
            Event::Wake(at) => {
                let slot = &mut self.slots[at];
                // Another wake-up was ordered since, or it is paused and is woken when it goes on.
                if slot.armed != now || slot.paused_until > now {
                    return;
                }
                slot.armed = FAR;
                if let Some(member) = &mut slot.member {
                    member.wake(now);
                    self.after(at);
                }
            }
            Event::Resume(at) => {
                let slot = &mut self.slots[at];
                if slot.paused_until > now {
                    return;
                }
                let waiting = std::mem::take(&mut slot.inbox);
                let Some(member) = &mut slot.member else {
                    return;
                };
                // A loop that goes on reads its sockets, or looks at its clock first.
                let clock_first = self.rng.chance(500_000);
                if clock_first {
                    member.wake(now);
                }
                for (from, input) in waiting {
                    member.handle(now, from, input);
                }
                member.wake(now);
                self.after(at);
            }
        }
    }

    /// Carries out what a member wants, and orders its next wake-up.
    fn after(&mut self, at: usize) {
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(member) = &mut self.slots[at].member {
            member.drain(&mut effects);
        }
        for effect in effects.drain(..) {
            match effect {
                Effect::Datagram { to, bytes } => {
                    self.counters.datagrams += 1;
                    self.counters.datagram_bytes += bytes.len() as u64;
                    if !self.rng.chance(self.network.loss_ppm) {
                        self.send(at, to, Input::Datagram(bytes));
                    }
                }
                Effect::Stream { to, stream } => {
                    if let Step::Data(bytes) = &stream.step {
                        self.counters.stream_bytes += bytes.len() as u64;
                    }
                    self.send(at, to, Input::Stream(stream));
                }
                Effect::Down(of) => self.notices.push(Notice { at: self.now, of }),
            }
        }
        self.effects = effects;
        let slot = &mut self.slots[at];
        let Some(deadline) = slot.member.as_ref().and_then(Member::deadline) else {
            return;
        };
        if slot.armed > deadline || slot.armed < self.now {
            slot.armed = deadline.max(self.now);
            let armed = slot.armed;
            self.push(armed, Event::Wake(at));
        }
    }

    fn send(&mut self, from: usize, to: usize, input: Input) {
        if let Some(sides) = &self.sides
            && sides[from] != sides[to]
        {
            return;
        }
        let latency = match &input {
            Input::Datagram(_) => self.rng.duration(self.network.latency.clone()),
            // Always the same, so that its order stays.
            Input::Stream(_) => self.network.latency.end,
        };
        self.push(self.now + latency, Event::Arrival { to, from, input });
    }

    fn push(&mut self, at: Instant, event: Event) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.due.push(None);
            self.due.len() - 1
        });
        self.due[place] = Some(event);
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, place)));
    }
}

/// Datagrams that a socket holds: some 200 KiB.
const INBOX_MAX: usize = 256;

const FAR: Instant = Instant::from_nanos(u64::MAX);
