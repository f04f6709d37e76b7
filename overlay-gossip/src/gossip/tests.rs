pub(super) mod claims;

use std::time::Duration;

use super::*;
use crate::{
    Event, StreamId, Timing,
    wire::{
        Accusation, Ack, Alive, IndirectPing, Nack, Origin, Ping, PushPull, PushPullNode,
        StreamCodec, StreamMessage, StreamReader, Versions,
    },
};

#[test]
fn only_a_higher_incarnation_is_alive_again() {
    let mut us = Us::with(&["b"]);
    us.hear(suspect("b", 1, "c"));
    assert_eq!(us.state("b"), MemberState::Suspect);
    us.hear(alive("b", 1));
    assert_eq!(us.state("b"), MemberState::Suspect, "the same incarnation");
    us.hear(alive("b", 2));
    assert_eq!(us.state("b"), MemberState::Alive);
    us.hear(suspect("b", 1, "c"));
    us.hear(dead("b", 1, "c"));
    assert_eq!(us.state("b"), MemberState::Alive, "an old accusation");
    us.hear(dead("b", 2, "c"));
    assert_eq!(us.state("b"), MemberState::Down);
    us.hear(alive("b", 2));
    us.hear(suspect("b", 9, "c"));
    assert_eq!(us.state("b"), MemberState::Down);
    us.hear(alive("b", 3));
    assert_eq!(us.state("b"), MemberState::Alive);
}

#[test]
fn who_left_stays_left_until_it_comes_back() {
    let mut us = Us::with(&["b"]);
    us.hear(dead("b", 1, "b"));
    assert_eq!(us.state("b"), MemberState::Left);
    us.hear(dead("b", 5, "c"));
    us.hear(suspect("b", 5, "c"));
    assert_eq!(us.state("b"), MemberState::Left);
    us.hear(alive("b", 2));
    assert_eq!(us.state("b"), MemberState::Alive);
}

#[test]
fn a_name_moves_to_another_address_only_when_its_holder_is_gone() {
    let mut us = Us::with(&["b"]);
    let moved = |incarnation| {
        let Message::Alive(alive) = alive("b", incarnation) else {
            unreachable!("as it was made");
        };
        Message::Alive(Alive {
            address: address(99),
            ..alive
        })
    };
    us.hear(moved(5));
    us.hear(moved(6));
    assert_eq!(us.member("b").address, address(b'b'));
    assert_eq!(us.gossip.stats().name_conflicts, 2);
    let conflicts = us.events(|event| matches!(event, Event::NameConflict { .. }));
    assert_eq!(conflicts, 1, "told once for each address");
    us.hear(dead("b", 1, "c"));
    us.hear(moved(1));
    assert_eq!(
        us.state("b"),
        MemberState::Down,
        "not without a new incarnation"
    );
    us.hear(moved(2));
    assert_eq!(us.state("b"), MemberState::Alive);
    assert_eq!(us.member("b").address, address(99));
}

#[test]
fn an_accusation_of_ourselves_is_refuted_with_a_higher_incarnation() {
    let mut us = Us::with(&["b"]);
    us.hear(suspect("us", 0, "b"));
    assert_eq!(us.gossip.local().incarnation, Incarnation(1), "an old one");
    us.hear(suspect("us", 4, "b"));
    assert_eq!(us.gossip.local().incarnation, Incarnation(5));
    us.hear(dead("us", 5, "us"));
    assert_eq!(
        us.gossip.local().incarnation,
        Incarnation(6),
        "a former life left"
    );
    assert_eq!(us.gossip.health_score(), 2);
    us.hear(suspect("us", u32::MAX, "b"));
    assert_eq!(
        us.gossip.local().incarnation,
        Incarnation(6),
        "seven before ours"
    );
    let sent = us.run(Duration::from_secs(1));
    let told = |message: &Message| matches!(message, Message::Alive(alive) if alive.node == "us");
    assert!(sent.iter().any(|(_, message)| told(message)));
}

#[test]
fn there_is_no_last_incarnation() {
    let mut us = Us::with(&["b"]);
    const HALF: u32 = 1 << 31;
    for (accused, refuted) in [
        (HALF + 1, HALF + 2),
        (u32::MAX, 0),
        (0, 1),
        (HALF, HALF + 1),
    ] {
        us.hear(suspect("us", accused, "b"));
        assert_eq!(
            us.gossip.local().incarnation,
            Incarnation(refuted),
            "{accused}"
        );
        us.hear(suspect("b", accused, "c"));
        us.hear(alive("b", refuted));
        assert_eq!(us.state("b"), MemberState::Alive, "{accused}");
    }
}

#[test]
fn who_leaves_does_not_refute() {
    let mut us = Us::with(&["b"]);
    us.gossip.leave(us.now);
    let farewell = dead("us", 1, "us");
    assert!(
        us.sent()
            .iter()
            .any(|(to, message)| (*to, message) == (address(b'b'), &farewell))
    );
    us.hear(farewell);
    us.hear(suspect("us", 9, "b"));
    assert_eq!(us.gossip.local().incarnation, Incarnation(1));
    us.run(Duration::from_secs(6));
    assert_eq!(us.events(|event| *event == Event::LeaveDone), 1);
    us.gossip.join(us.now, &[]);
    assert_eq!(us.gossip.local().state, MemberState::Alive);
    assert_eq!(
        us.gossip.local().incarnation,
        Incarnation(2),
        "or nobody would believe it"
    );
}

#[test]
fn a_late_tick_blames_nobody() {
    let mut us = Us::with(&["b", "c"]);
    us.hear(suspect("b", 1, "c"));
    us.now += Duration::from_secs(3_600); // this process slept
    us.gossip.handle_timeout(us.now);
    assert_eq!(us.state("b"), MemberState::Suspect);
    us.hear(alive("b", 2));
    assert_eq!(us.state("b"), MemberState::Alive);
    // Awake, time counts.
    us.hear(suspect("b", 2, "c"));
    us.run(Duration::from_secs(60));
    assert_eq!(us.state("b"), MemberState::Down);
}

#[test]
fn sleep_is_counted_once_however_many_packets_waited() {
    let mut us = Us::with(&["b", "c"]);
    us.hear(suspect("b", 1, "c"));
    us.now += Duration::from_secs(600); // this process slept
    for sequence in 0..1_000 {
        // They are taken in before anything that is due.
        us.hear(Message::Nack(Nack { sequence }));
    }
    assert_eq!(us.gossip.stats().late_ticks, 1);
    us.run(Duration::from_secs(60));
    assert_eq!(us.state("b"), MemberState::Down);
}

#[test]
fn a_suspect_is_told_with_the_ping() {
    let mut us = Us::with(&["b"]);
    us.hear(suspect("b", 1, "c"));
    us.run(Duration::from_millis(50)); // lets broadcasts go
    let mut packets = Vec::new();
    for _ in 0..100 {
        let next = us.gossip.poll_timeout().expect("a probe comes");
        us.now = us.now.max(next);
        us.gossip.handle_timeout(us.now);
        packets.append(&mut us.packets());
        if packets
            .iter()
            .any(|(_, packet)| matches!(packet[0], Message::Ping(_)))
        {
            break;
        }
    }
    let ping = packets
        .iter()
        .find(|(_, packet)| matches!(packet[0], Message::Ping(_)));
    let (to, packet) = ping.expect("a probe");
    assert_eq!(*to, address(b'b'));
    assert!(matches!(&packet[1], Message::Suspect(accusation) if accusation.node == "b"));
}

#[test]
fn a_ping_is_answered_to_its_origin_and_only_by_who_is_meant() {
    let mut us = Us::with(&[]);
    let ping = |node: &str, origin| {
        Message::Ping(Ping {
            sequence: 7,
            node: node.into(),
            origin,
        })
    };
    let origin = Origin {
        address: address(50),
        node: "z".into(),
    };
    us.hear(ping("us", Some(origin)));
    us.hear(ping("", None));
    us.hear(ping("b", None));
    let ack = Message::Ack(Ack {
        sequence: 7,
        payload: Vec::new(),
    });
    assert_eq!(us.sent(), [(address(50), ack.clone()), (PEER, ack)]);
}

#[test]
fn a_relay_forwards_the_ack_or_says_that_it_heard_nothing() {
    let mut us = Us::with(&[]);
    let request = |sequence| {
        Message::IndirectPing(IndirectPing {
            sequence,
            target: address(60),
            node: "t".into(),
            nack: true,
            origin: Some(Origin {
                address: address(50),
                node: "z".into(),
            }),
        })
    };
    us.hear(request(70));
    let sent = us.sent();
    let [(to, Message::Ping(ping))] = &sent[..] else {
        panic!("one ping expected: {sent:?}");
    };
    assert_eq!((*to, &*ping.node), (address(60), "t"));
    assert_ne!(ping.sequence, 70, "a number of its own");
    let ack = |sequence| {
        Message::Ack(Ack {
            sequence,
            payload: Vec::new(),
        })
    };
    us.hear(ack(ping.sequence));
    assert_eq!(us.sent(), [(address(50), ack(70))]);
    us.hear(request(71));
    us.sent();
    us.now += us.gossip.config.timing.probe_timeout;
    us.gossip.handle_timeout(us.now);
    let nack = Message::Nack(Nack { sequence: 71 });
    assert_eq!(us.sent(), [(address(50), nack)]);
}

#[test]
fn peers_that_cannot_speak_with_us_are_not_merged() {
    let mut us = Us::with(&[]);
    let node = |versions| {
        let Message::Alive(alive) = alive("b", 1) else {
            unreachable!("as it was made");
        };
        PushPullNode {
            alive: Alive { versions, ..alive },
            state: 0,
        }
    };
    let push_pull = |versions| {
        StreamMessage::PushPull(PushPull {
            join: true,
            nodes: vec![node(versions)],
            user_state: Vec::new(),
        })
    };
    // serf: delegate versions 2, 5, 4. We speak none.
    us.stream(&push_pull(Versions([1, 5, 2, 2, 5, 4])));
    assert_eq!(us.gossip.members().count(), 1);
    assert_eq!(us.gossip.stats().versions_refused, 1);
    let answer = us.stream(&push_pull(Versions([1, 5, 2, 0, 0, 0])));
    assert_eq!(us.gossip.members().count(), 2);
    let Some(StreamMessage::PushPull(answer)) = answer else {
        panic!("an answer expected: {answer:?}");
    };
    assert!(answer.join, "the same as in the question");
    assert_eq!(answer.nodes.len(), 1, "from before the merge");
}

#[test]
fn hearsay_of_a_death_is_a_suspicion() {
    let mut us = Us::with(&["b", "c"]);
    let Message::Alive(b) = alive("b", 1) else {
        unreachable!("as it was made");
    };
    let Message::Alive(c) = alive("c", 1) else {
        unreachable!("as it was made");
    };
    us.stream(&StreamMessage::PushPull(PushPull {
        join: false,
        nodes: vec![
            PushPullNode { alive: b, state: 2 },
            PushPullNode { alive: c, state: 3 },
        ],
        user_state: Vec::new(),
    }));
    assert_eq!(us.state("b"), MemberState::Suspect);
    assert_eq!(us.state("c"), MemberState::Left);
}

#[test]
fn streams_are_bounded_in_number_and_octets_and_time() {
    let mut us = Us::with(&[]);
    us.gossip.config.limits.streams_max = 2;
    us.gossip.config.limits.stream_bytes_total_max = 10;
    for number in 1..=3 {
        us.gossip
            .handle_stream_opened(us.now, StreamId::Accepted(number), PEER);
    }
    assert_eq!(us.closed(), [StreamId::Accepted(3)]);
    us.gossip
        .handle_stream_data(us.now, StreamId::Accepted(1), b"\x06\x83\xa4Joi");
    us.gossip
        .handle_stream_data(us.now, StreamId::Accepted(2), b"\x06\x83\xa4Joi");
    assert_eq!(us.closed(), [StreamId::Accepted(2)], "together too much");
    us.run(us.gossip.config.timing.stream_timeout);
    assert_eq!(us.gossip.streams.len(), 0);
    assert!(us.gossip.stats().streams_refused >= 1);
}

#[test]
fn who_holds_most_gives_way_and_nobody_takes_all_places() {
    let mut us = Us::with(&[]);
    us.gossip.config.limits.stream_bytes_total_max = 1_000;
    us.gossip.config.limits.streams_per_address_max = 3;
    let open = |us: &mut Us, number, from| {
        us.gossip
            .handle_stream_opened(us.now, StreamId::Accepted(number), from);
    };
    for number in 1..=4 {
        open(&mut us, number, SocketAddr::new(PEER.ip(), 1_000));
    }
    assert_eq!(
        us.closed(),
        [StreamId::Accepted(4)],
        "the fourth of one host"
    );
    open(&mut us, 5, address(1));
    us.gossip
        .handle_stream_closed(us.now, StreamId::Accepted(1));
    open(&mut us, 6, PEER);
    assert_eq!(us.closed(), []);
    // A push/pull of which nothing but the head has come.
    let mut head =
        b"\x06\x83\xa5Nodes\xcd\x01\x00\xa4Join\xc2\xacUserStateLen\x00\x87\xa4Meta\xda\x02\x00"
            .to_vec();
    head.resize(450, 0);
    for (number, octets) in [(2, 450), (3, 400), (5, 100)] {
        let stream = StreamId::Accepted(number);
        us.gossip
            .handle_stream_data(us.now, stream, &head[..octets]);
    }
    assert_eq!(us.closed(), []);
    us.gossip
        .handle_stream_data(us.now, StreamId::Accepted(6), &head[..300]);
    assert_eq!(us.closed(), [StreamId::Accepted(2)], "the largest");
    us.gossip
        .handle_stream_data(us.now, StreamId::Accepted(5), &head[..400]);
    assert_eq!(
        us.closed(),
        [StreamId::Accepted(5)],
        "the largest is itself"
    );
    assert_eq!(us.gossip.stats().streams_refused, 3);
}

#[test]
fn members_are_bounded_and_the_gone_give_way() {
    let mut us = Us::with(&["b", "c"]);
    us.gossip.config.limits.members_max = 2;
    us.hear(alive("d", 1));
    assert_eq!(us.gossip.member("d"), None);
    assert_eq!(us.gossip.stats().members_refused, 1);
    us.hear(dead("b", 1, "c"));
    us.hear(alive("d", 1));
    assert!(us.gossip.member("d").is_some() && us.gossip.member("b").is_none());
}

#[test]
fn a_failed_probe_costs_health_and_an_answered_one_restores_it() {
    let mut us = Us::with(&["b"]);
    us.run(Duration::from_secs(3)); // nobody answers
    assert!(us.gossip.health_score() > 0);
    assert!(matches!(
        us.state("b"),
        MemberState::Suspect | MemberState::Down
    ));
    assert!(us.gossip.stats().probes_failed >= 1);
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = Config::lan("us", address(1));
        change(&mut config);
        Gossip::new(config, Seed::from_u64(1), Instant::EPOCH).err()
    };
    assert_eq!(refused(&|_| {}), None);
    let name = |length| move |config: &mut Config| config.name = "x".repeat(length);
    assert_eq!(refused(&name(64)), None);
    assert!(matches!(refused(&name(65)), Some(ConfigError::Name { .. })));
    assert!(matches!(refused(&name(0)), Some(ConfigError::Name { .. })));
    assert_eq!(
        refused(&|config| config.advertise.set_port(0)),
        Some(ConfigError::Advertise)
    );
    assert_eq!(
        refused(&|config| config.timing.gossip_interval = Duration::ZERO),
        Some(ConfigError::Zero {
            field: "gossip_interval"
        })
    );
    assert!(matches!(
        refused(&|config| config.limits.packet_bytes_max = 1_200),
        Some(ConfigError::PacketTooSmall { .. })
    ));
    assert_eq!(
        refused(&|config| config.timing.probe_timeout = config.timing.probe_interval),
        Some(ConfigError::ProbeTimeout)
    );
}

/// A member, and what it sends.
struct Us {
    gossip: Gossip,
    now: Instant,
    events: Vec<Event>,
    streams: u64,
}

impl Us {
    fn with(members: &[&str]) -> Self {
        let config = Config {
            timing: Timing::quick(),
            compress: false,
            ..Config::lan("us", address(1))
        };
        let now = Instant::from_millis(1_000);
        let gossip = Gossip::new(config, Seed::from_u64(1), now).expect("a good configuration");
        let mut us = Self {
            gossip,
            now,
            events: Vec::new(),
            streams: 0,
        };
        for member in members {
            us.hear(alive(member, 1));
        }
        us.packets();
        us
    }

    fn hear(&mut self, message: Message) {
        let heard = self
            .gossip
            .handle_datagram(self.now, PEER, &message.encode());
        heard.expect("well-formed");
    }

    /// Opens a stream, says something, and returns the answer.
    fn stream(&mut self, message: &StreamMessage) -> Option<StreamMessage> {
        self.streams += 1;
        let stream = StreamId::Accepted(self.streams);
        self.gossip.handle_stream_opened(self.now, stream, PEER);
        self.gossip
            .handle_stream_data(self.now, stream, &message.encode());
        let codec = StreamCodec {
            label: b"",
            keyring: None,
            verify_incoming: true,
            verify_outgoing: true,
            compress: false,
            stream_bytes_max: 1 << 20,
        };
        let mut answer = None;
        while let Some(output) = self.gossip.poll_output() {
            match output {
                Output::StreamSend { bytes, .. } => {
                    answer = StreamReader::new()
                        .push(&codec, true, &bytes)
                        .expect("well-formed");
                }
                Output::Event(event) => self.events.push(event),
                Output::Datagram { .. } | Output::Dial { .. } | Output::StreamClose { .. } => {}
            }
        }
        answer
    }

    /// Lets time pass; returns what was sent.
    fn run(&mut self, duration: Duration) -> Vec<(SocketAddr, Message)> {
        let (end, mut sent) = (self.now + duration, self.sent());
        while let Some(next) = self.gossip.poll_timeout().filter(|next| *next <= end) {
            self.now = next;
            self.gossip.handle_timeout(next);
            sent.append(&mut self.sent());
        }
        self.now = end;
        sent
    }

    fn packets(&mut self) -> Vec<(SocketAddr, Vec<Message>)> {
        let mut packets = Vec::new();
        while let Some(output) = self.gossip.poll_output() {
            match output {
                Output::Datagram { to, bytes } => {
                    let packet = self.gossip.packet_codec().decode(&bytes);
                    packets.push((to, packet.expect("well-formed").messages));
                }
                Output::Event(event) => self.events.push(event),
                Output::Dial { .. } | Output::StreamSend { .. } | Output::StreamClose { .. } => {}
            }
        }
        packets
    }

    fn sent(&mut self) -> Vec<(SocketAddr, Message)> {
        let packets = self.packets().into_iter();
        packets
            .flat_map(|(to, messages)| messages.into_iter().map(move |message| (to, message)))
            .collect()
    }

    fn closed(&mut self) -> Vec<StreamId> {
        let outputs = std::iter::from_fn(|| self.gossip.poll_output());
        let closed = outputs.filter_map(|output| match output {
            Output::StreamClose { stream } => Some(stream),
            _ => None,
        });
        closed.collect()
    }

    fn events(&mut self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.packets();
        self.events.iter().filter(|event| wanted(event)).count()
    }

    fn member(&self, name: &str) -> &Member {
        self.gossip.member(name).expect("a known member")
    }

    fn state(&self, name: &str) -> MemberState {
        self.member(name).state
    }
}

fn alive(node: &str, incarnation: u32) -> Message {
    Message::Alive(Alive {
        incarnation,
        node: node.into(),
        address: address(node.as_bytes()[0]),
        meta: Vec::new(),
        versions: Versions([1, 5, 2, 0, 0, 0]),
    })
}

fn suspect(node: &str, incarnation: u32, from: &str) -> Message {
    Message::Suspect(accusation(node, incarnation, from))
}

fn dead(node: &str, incarnation: u32, from: &str) -> Message {
    Message::Dead(accusation(node, incarnation, from))
}

fn accusation(node: &str, incarnation: u32, from: &str) -> Accusation {
    Accusation {
        incarnation,
        node: node.into(),
        from: from.into(),
    }
}

fn address(octet: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, octet], 7946))
}

const PEER: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 200)),
    7946,
);
