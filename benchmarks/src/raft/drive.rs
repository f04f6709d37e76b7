//! How members of a cluster are driven, ours and the peers' alike: one thread, queues between members, disks that are done at once.
//!
//! The programs of the peers include this file, so that everything but the member itself is the same.

use std::{
    collections::VecDeque,
    fmt,
    ops::Range,
    str::{FromStr, Split},
    time::Duration,
};

use crate::{clock::cpu, heap};

/// Commands that come out of one read buffer.
pub const CHUNK: u64 = 256;
/// How many entries a member applies between two compactions of its log.
pub const COMPACT_EVERY: u64 = 4_096;

/// How a peer is set up and driven. Ours is always as it comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setup {
    /// Its default configuration; a call for each proposal.
    Default,
    /// The configuration that is the fastest with a call for each proposal.
    Single,
    /// The fastest that its interface allows: all proposals of a turn in one call.
    Tuned,
}

impl Setup {
    const ALL: [(Self, &str); 3] = [
        (Self::Default, "default"),
        (Self::Single, "single"),
        (Self::Tuned, "tuned"),
    ];
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::ALL.iter().find(|(setup, _)| setup == self);
        f.write_str(word.map_or("", |(_, word)| word))
    }
}

impl FromStr for Setup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let setup = Self::ALL.iter().find(|(_, word)| *word == text);
        setup.map(|(setup, _)| *setup).ok_or_else(|| text.into())
    }
}

/// How many operations all members apply before the clock is looked at.
const PORTION: u64 = 65_536;
/// At least so much CPU time is measured, however fast a member is.
const MEASURED: Duration = Duration::from_millis(500);

/// What is run, as it is handed to the program that runs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    pub members: usize,
    pub command_bytes: usize,
    pub in_flight: u64,
    /// Whether each message is encoded and decoded again.
    pub codec: bool,
    pub setup: Setup,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            members,
            command_bytes,
            in_flight,
            codec,
            setup,
        } = self;
        write!(f, "{members},{command_bytes},{in_flight},{codec},{setup}")
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        fn next<T: FromStr>(words: &mut Split<'_, char>) -> Result<T, String> {
            let word = words.next().unwrap_or_default();
            word.parse().map_err(|_| format!("not expected: {word:?}"))
        }
        let words = &mut text.split(',');
        Ok(Self {
            members: next(words)?,
            command_bytes: next(words)?,
            in_flight: next(words)?,
            codec: next(words)?,
            setup: next(words)?,
        })
    }
}

/// What a run took, as its program prints it.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub ops_per_second: f64,
    pub allocations_per_op: f64,
    pub messages_per_op: f64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}",
            self.ops_per_second, self.allocations_per_op, self.messages_per_op
        )
    }
}

impl FromStr for Figures {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<f64>, _> = text.split_whitespace().map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[ops_per_second, allocations_per_op, messages_per_op]) => Ok(Self {
                ops_per_second,
                allocations_per_op,
                messages_per_op,
            }),
            _ => Err(format!("not expected: {text:?}")),
        }
    }
}

/// A member, with its disk.
pub trait Member {
    type Message;
    /// A message on the wire.
    type Octets;

    /// Proposes the commands of these operations, of which this member leads.
    fn propose(&mut self, commands: &Commands, ops: Range<u64>);
    /// Takes a message in.
    fn handle(&mut self, from: usize, message: Self::Message);
    /// Does all that is to be done: writes, sends and applies.
    fn drain(&mut self, network: &mut Network<Self>, applied: &mut Applied);
    /// Returns when something is due at this member.
    fn due(&self) -> Duration;
    /// Tells the time, at which something is due at a member. Called where nothing is under way.
    fn wake(&mut self, now: Duration);
    fn is_leader(&self) -> bool;
    /// Writes a message as octets.
    fn encode(message: &Self::Message) -> Self::Octets;
    /// Reads it again.
    fn decode(octets: Self::Octets) -> Self::Message;
}

/// What the application of a member knows.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Applied {
    pub ops: u64,
    /// Of what was applied, in this order.
    sum: u64,
}

impl Applied {
    pub fn apply(&mut self, command: &[u8]) {
        let (first, last) = (command.first_chunk::<8>(), command.last_chunk::<8>());
        let [first, last] = [first, last].map(|word| u64::from_le_bytes(*word.expect("8 octets")));
        self.ops += 1;
        self.sum = self.sum.rotate_left(5).wrapping_add(first)
            ^ last.wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ command.len() as u64;
    }
}

/// The commands of [`CHUNK`] operations, which come again and again.
pub struct Commands {
    octets: Vec<u8>,
    each: usize,
}

impl Commands {
    fn new(each: usize) -> Self {
        let mut state = 7_u64;
        let octets = (0..each * CHUNK as usize).map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        });
        Self {
            octets: octets.collect(),
            each,
        }
    }

    /// Returns all of them, as they lie in the buffer.
    #[allow(dead_code, reason = "one of the peers has no use for it")]
    pub fn chunk(&self) -> &[u8] {
        &self.octets
    }

    /// Returns where in the buffer the command of an operation is.
    pub fn place(&self, op: u64) -> Range<usize> {
        let start = (op % CHUNK) as usize * self.each;
        start..start + self.each
    }

    pub fn command(&self, op: u64) -> &[u8] {
        &self.octets[self.place(op)]
    }
}

/// What is under way between members, counted from 0.
pub struct Network<M: Member + ?Sized> {
    codec: bool,
    messages: u64,
    sender: usize,
    moved: Vec<VecDeque<(usize, M::Message)>>,
    octets: Vec<VecDeque<(usize, M::Octets)>>,
}

impl<M: Member> Network<M> {
    fn new(case: &Case) -> Self {
        let members = 0..case.members;
        Self {
            codec: case.codec,
            messages: 0,
            sender: 0,
            moved: members.clone().map(|_| VecDeque::new()).collect(),
            octets: members.map(|_| VecDeque::new()).collect(),
        }
    }

    /// Sends a message from the member that is drained now.
    pub fn send(&mut self, to: usize, message: M::Message) {
        self.messages += 1;
        if self.codec {
            self.octets[to].push_back((self.sender, M::encode(&message)));
        } else {
            self.moved[to].push_back((self.sender, message));
        }
    }

    fn receive(&mut self, at: usize) -> Option<(usize, M::Message)> {
        if self.codec {
            let (from, octets) = self.octets[at].pop_front()?;
            Some((from, M::decode(octets)))
        } else {
            self.moved[at].pop_front()
        }
    }
}

struct Cluster<M: Member> {
    members: Vec<M>,
    applied: Vec<Applied>,
    network: Network<M>,
    commands: Commands,
    leader: usize,
    proposed: u64,
}

/// Runs a case on members that `new` makes, each from its place among them.
pub fn run<M: Member>(case: &Case, new: impl FnMut(usize) -> M) -> Figures {
    let mut cluster = Cluster {
        members: (0..case.members).map(new).collect(),
        applied: vec![Applied::default(); case.members],
        network: Network::new(case),
        commands: Commands::new(case.command_bytes),
        leader: 0,
        proposed: 0,
    };
    cluster.elect();
    // Fills caches and buffers, and has logs compacted for the first time.
    cluster.apply(2 * COMPACT_EVERY, case.in_flight);
    let before = (heap::asked(), cluster.network.messages);
    let (mut ops, mut time) = (0, Duration::ZERO);
    while time < MEASURED {
        time += cpu(|| cluster.apply(PORTION, case.in_flight)).1;
        ops += PORTION;
    }
    let asked = heap::asked() - before.0;
    let messages = cluster.network.messages - before.1;
    cluster.check();
    let ops = ops as f64;
    Figures {
        ops_per_second: ops / time.as_secs_f64(),
        allocations_per_op: asked as f64 / ops,
        messages_per_op: messages as f64 / ops,
    }
}

impl<M: Member> Cluster<M> {
    /// Hands a member all that came for it; returns whether that was anything.
    fn deliver(&mut self, at: usize) -> bool {
        let member = &mut self.members[at];
        let mut any = false;
        while let Some((from, message)) = self.network.receive(at) {
            member.handle(from, message);
            any = true;
        }
        if any {
            self.drain(at);
        }
        any
    }

    fn drain(&mut self, at: usize) {
        self.network.sender = at;
        self.members[at].drain(&mut self.network, &mut self.applied[at]);
    }

    /// Gives each member a turn, the leader last; returns whether anything came for any.
    fn turn(&mut self) -> bool {
        let count = self.members.len();
        let mut any = false;
        for behind in 1..=count {
            any |= self.deliver((self.leader + behind) % count);
        }
        any
    }

    /// Lets time pass until something is due.
    fn wake(&mut self) {
        let now = self.members.iter().map(M::due).min().expect("members");
        for at in 0..self.members.len() {
            self.members[at].wake(now);
            self.drain(at);
        }
    }

    /// Lets time pass until there is one leader and nothing is under way.
    fn elect(&mut self) {
        loop {
            while self.turn() {}
            if let Some(leader) = self.members.iter().position(M::is_leader) {
                self.leader = leader;
                return;
            }
            self.wake();
        }
    }

    /// Has all members apply so many more operations, with so many of them in flight on the leader.
    fn apply(&mut self, ops: u64, in_flight: u64) {
        let goal = self.applied[self.leader].ops + ops;
        while self.applied.iter().any(|applied| applied.ops < goal) {
            let until = goal.min(self.applied[self.leader].ops + in_flight);
            let free = self.proposed..until;
            let proposes = !free.is_empty();
            if proposes {
                self.members[self.leader].propose(&self.commands, free);
                self.proposed = until;
                self.drain(self.leader);
            }
            if !self.turn() && !proposes {
                self.wake();
            }
        }
    }

    /// Sees whether all members applied what was proposed, in this order.
    fn check(&self) {
        let mut expected = Applied::default();
        for op in 0..self.proposed {
            expected.apply(self.commands.command(op));
        }
        for applied in &self.applied {
            assert_eq!(*applied, expected, "what a member applied");
        }
    }
}
