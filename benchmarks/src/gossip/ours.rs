//! Our members.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use overlay_core::{Instant, Machine as _, Seed};
use overlay_gossip::{
    Config, Event, Gossip, Output, StreamId,
    wire::{Alive, PushPull, PushPullNode, StreamCodec, StreamMessage},
};

use super::world::{Effect, Input, Member, Step, Stream};

/// One member, and the streams between it and others.
pub struct Ours {
    pub gossip: Gossip,
    number: usize,
    accepted: HashMap<(usize, u64), u64>,
    callers: HashMap<u64, (usize, u64)>,
    dialled: HashMap<u64, usize>,
    next_accepted: u64,
}

impl Ours {
    /// Makes a member that knows all the others: `everybody` is what one would tell it on joining.
    pub fn new(seed: &Seed, number: usize, everybody: &[u8], tune: impl Fn(&mut Config)) -> Self {
        let mut config = Config::lan(name(number), address(number));
        tune(&mut config);
        let seed = seed.derive(&format!("member {number}"));
        let mut gossip = Gossip::new(config, seed, Instant::EPOCH).expect("a sound configuration");
        let stream = StreamId::Accepted(0);
        gossip.handle_stream_opened(Instant::EPOCH, stream, address(number));
        gossip.handle_stream_data(Instant::EPOCH, stream, everybody);
        gossip.handle_stream_closed(Instant::EPOCH, stream);
        while gossip.poll_output().is_some() {}
        Self {
            gossip,
            number,
            accepted: HashMap::new(),
            callers: HashMap::new(),
            dialled: HashMap::new(),
            next_accepted: 1,
        }
    }

    fn stream(&self, id: StreamId, step: Step) -> Option<Effect> {
        let (to, opener, number) = match id {
            StreamId::Dialled(number) => (*self.dialled.get(&number)?, self.number, number),
            StreamId::Accepted(number) => {
                let (opener, number) = *self.callers.get(&number)?;
                (opener, opener, number)
            }
        };
        let stream = Stream {
            opener,
            number,
            step,
        };
        Some(Effect::Stream { to, stream })
    }

    fn forget(&mut self, id: StreamId) {
        match id {
            StreamId::Dialled(number) => drop(self.dialled.remove(&number)),
            StreamId::Accepted(number) => {
                if let Some(caller) = self.callers.remove(&number) {
                    self.accepted.remove(&caller);
                }
            }
        }
    }
}

impl Member for Ours {
    fn handle(&mut self, now: Instant, from: usize, input: Input) {
        let stream = match input {
            Input::Datagram(bytes) => {
                let handled = self.gossip.handle_datagram(now, address(from), &bytes);
                return handled.expect("what members send is readable");
            }
            Input::Stream(stream) => stream,
        };
        let id = if stream.opener == self.number {
            StreamId::Dialled(stream.number)
        } else {
            let key = (stream.opener, stream.number);
            if matches!(stream.step, Step::Open) {
                self.accepted.insert(key, self.next_accepted);
                self.callers.insert(self.next_accepted, key);
                self.next_accepted += 1;
            }
            let Some(number) = self.accepted.get(&key) else {
                return;
            };
            StreamId::Accepted(*number)
        };
        match stream.step {
            Step::Open => self.gossip.handle_stream_opened(now, id, address(from)),
            Step::Data(bytes) => self.gossip.handle_stream_data(now, id, &bytes),
            Step::Close => {
                self.gossip.handle_stream_closed(now, id);
                self.forget(id);
            }
        }
    }

    fn wake(&mut self, now: Instant) {
        self.gossip.handle_timeout(now);
    }

    fn deadline(&self) -> Option<Instant> {
        self.gossip.poll_timeout()
    }

    fn up(&self) -> usize {
        let members = self.gossip.members();
        members.filter(|member| member.state.is_up()).count()
    }

    fn renewals(&self) -> u64 {
        self.gossip.stats().refutations
    }

    fn drain(&mut self, effects: &mut Vec<Effect>) {
        while let Some(output) = self.gossip.poll_output() {
            match output {
                Output::Datagram { to, bytes } => effects.push(Effect::Datagram {
                    to: number_of(to),
                    bytes,
                }),
                Output::Dial { stream, to } => {
                    if let StreamId::Dialled(number) = stream {
                        self.dialled.insert(number, number_of(to));
                    }
                    effects.extend(self.stream(stream, Step::Open));
                }
                Output::StreamSend { stream, bytes } => {
                    effects.extend(self.stream(stream, Step::Data(bytes)));
                }
                Output::StreamClose { stream } => {
                    effects.extend(self.stream(stream, Step::Close));
                    self.forget(stream);
                }
                Output::Event(Event::MemberDown(member)) => {
                    effects.push(Effect::Down(number_of(member.address)));
                }
                Output::Event(_) => {}
            }
        }
    }
}

/// What a member is told that joins a cluster of so many.
pub fn everybody(count: usize) -> Vec<u8> {
    let nodes = (0..count).map(|number| PushPullNode {
        alive: Alive {
            incarnation: 1,
            node: name(number),
            address: address(number),
            meta: Vec::new(),
            versions: overlay_gossip::wire::Versions([1, 5, 2, 0, 0, 0]),
        },
        state: 0,
    });
    let codec = StreamCodec {
        label: b"",
        keyring: None,
        verify_incoming: true,
        verify_outgoing: true,
        compress: false,
        stream_bytes_max: usize::MAX,
    };
    let message = StreamMessage::PushPull(PushPull {
        join: false,
        nodes: nodes.collect(),
        user_state: Vec::new(),
    });
    codec
        .encode(&message, true, [0; 12])
        .expect("nothing is too long")
}

pub fn name(number: usize) -> String {
    format!("node-{number:05}")
}

fn address(number: usize) -> SocketAddr {
    let number = u32::try_from(number).expect("few") + 1;
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number);
    SocketAddr::new(IpAddr::V4(ip), 7946)
}

fn number_of(address: SocketAddr) -> usize {
    let IpAddr::V4(ip) = address.ip() else {
        unreachable!("all are IPv4")
    };
    (u32::from(ip) - u32::from(Ipv4Addr::new(10, 0, 0, 0)) - 1) as usize
}
