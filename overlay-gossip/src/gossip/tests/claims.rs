//! With a verifier: whose address is believed, what asking costs, and what is not refuted.

use std::sync::Arc;

use super::*;
use crate::MemberClaim;
use signer::{SPOKEN, Signer, signed};

#[path = "../../../tests/support/signer.rs"]
pub(in crate::gossip) mod signer;

#[test]
fn a_forged_claim_changes_nothing_whichever_way_it_comes() {
    for way in [Us::hear_alive, Us::hear_in_question, Us::hear_in_answer] {
        let (mut us, _) = checking(&["b"]);
        us.hear(suspect("c", 1, "b")); // nobody knows it
        let before = us.roster();
        let forged = [
            Alive {
                address: address(66),
                ..claim("b", 9, 1)
            },
            Alive {
                meta: b"manager".to_vec(),
                ..claim("b", 9, 1)
            },
            Alive {
                meta: Vec::new(),
                ..claim("b", u32::MAX / 2, 1)
            },
            Alive {
                versions: Versions([1, 4, 2, 0, 0, 0]),
                ..claim("b", 9, 1)
            },
            Alive {
                meta: signed("b", address(66), 1),
                ..claim("mallory", 9, 1)
            },
        ];
        for (at, forged) in forged.iter().enumerate() {
            way(&mut us, forged.clone());
            assert_eq!(us.roster(), before, "forgery {at}");
        }
        assert_eq!(us.gossip.stats().claims_refused, 5);
        assert!(us.gossip.broadcasts.is_empty(), "told nobody");
        assert_eq!(
            us.events(|event| matches!(event, Event::NameConflict { .. })),
            0
        );
        let refusals = us.events(|event| matches!(event, Event::ClaimRefused { .. }));
        assert_eq!(refusals, 1, "of five at once");
    }
}

#[test]
fn a_refusal_says_who_claimed_what() {
    let (mut us, _) = checking(&["b"]);
    us.hear_alive(Alive {
        address: address(66),
        ..claim("b", 9, 1)
    });
    let expected = Event::ClaimRefused {
        name: "b".into(),
        known: Some(address(b'b')),
        claimed: address(66),
        from: PEER,
    };
    assert_eq!(us.events(|event| *event == expected), 1);
    us.now += Duration::from_secs(1);
    us.hear_alive(claim("mallory", 1, 1).with_meta(b"?"));
    let stranger = |event: &Event| matches!(event, Event::ClaimRefused { known: None, .. });
    assert_eq!(us.events(stranger), 1, "once more after a second");
}

#[test]
fn a_member_moves_with_a_newer_claim_and_never_back() {
    for way in [Us::hear_alive, Us::hear_in_question, Us::hear_in_answer] {
        let (mut us, signer) = checking(&["b"]);
        let moved = claim_at("b", 2, address(66), 2);
        way(&mut us, moved.clone());
        assert_eq!(us.member("b").address, address(66));
        assert_eq!(us.member("b").incarnation, Incarnation(2));
        let updated = us.events(|event| matches!(event, Event::MemberUpdated(_)));
        assert_eq!(updated, 1);
        assert!(us.gossip.broadcasts.contains(&Name::from("b")), "passed on");
        let asked = signer.asked();
        way(&mut us, claim("b", 2, 1)); // late, which is no crime
        assert_eq!(
            (signer.asked(), us.gossip.stats().claims_refused),
            (asked, 0)
        );
        let before = us.roster();
        way(&mut us, claim("b", 7, 1)); // said again by somebody else
        assert_eq!(us.roster(), before);
        assert_eq!(us.gossip.stats().claims_refused, 1);
        us.hear(dead("b", 2, "c"));
        way(&mut us, claim("b", 8, 1));
        assert_eq!(us.state("b"), MemberState::Down, "nor from the grave");
        way(
            &mut us,
            Alive {
                incarnation: 3,
                ..moved.clone()
            },
        );
        assert_eq!(us.state("b"), MemberState::Alive);
    }
}

#[test]
fn what_is_known_is_not_verified_again() {
    let (mut us, signer) = checking(&["b", "c"]);
    assert_eq!(signer.asked(), 2);
    for incarnation in 2..50 {
        us.hear(suspect("b", incarnation - 1, "c"));
        us.hear_alive(claim("b", incarnation, 1));
    }
    us.hear_in_question(claim("c", 2, 1));
    assert_eq!(us.state("b"), MemberState::Alive);
    assert_eq!((signer.asked(), us.gossip.stats().claims_verified), (2, 2));
}

#[test]
fn who_comes_back_is_asked_once_in_a_while() {
    let (mut us, signer) = checking(&["b", "c"]);
    let mut asked = Vec::new();
    for turn in 0..130_u32 {
        us.hear(dead("b", turn * 2 + 1, "c"));
        us.hear_alive(claim("b", turn * 2 + 2, 1));
        assert_eq!(us.state("b"), MemberState::Alive, "turn {turn}");
        asked.push(signer.asked() - 2);
        us.now += Duration::from_secs(1);
    }
    assert_eq!((asked[59], asked[60], asked[119], asked[120]), (0, 1, 1, 2));
}

#[test]
fn who_comes_back_needs_no_allowance() {
    let (mut us, signer) = checking(&["b", "c"]);
    us.gossip.config.limits.claims_per_second_max = 1;
    us.now += us.gossip.config.timing.claim_memory;
    us.hear_alive(claim("x", 1, 1).with_meta(b"?"));
    us.hear_alive(claim("d", 1, 1));
    assert_eq!((signer.asked(), us.gossip.stats().claims_dropped), (3, 1));
    us.hear(dead("b", 1, "c"));
    us.hear_alive(claim("b", 2, 1));
    assert_eq!((us.state("b"), signer.asked()), (MemberState::Alive, 4));
}

#[test]
fn a_revoked_member_stays_down_once_it_is() {
    let (mut us, signer) = checking(&["b", "c"]);
    us.now += us.gossip.config.timing.claim_memory;
    signer.revoke("b");
    us.hear_alive(claim("b", 2, 1));
    assert_eq!(
        us.state("b"),
        MemberState::Alive,
        "nothing changed, nobody was asked"
    );
    us.hear(dead("b", 2, "c"));
    for incarnation in 3..100 {
        us.hear_alive(claim("b", incarnation, 1));
    }
    assert_eq!(us.state("b"), MemberState::Down);
    assert_eq!(us.member("b").incarnation, Incarnation(2));
    assert_eq!(signer.asked(), 3, "and not for each try");
    assert_eq!(us.gossip.stats().claims_refused, 97);
}

#[test]
fn a_flood_of_claims_costs_its_allowance_and_touches_nobody_known() {
    let (mut us, signer) = checking(&["b", "c"]);
    us.gossip.config.limits.claims_per_second_max = 10;
    us.now += Duration::from_secs(1);
    let asked = signer.asked();
    for number in 0..10_000_u32 {
        if number % 4_000 == 1 {
            us.hear(dead("b", us.member("b").incarnation.0, "c"));
            us.hear_alive(claim("b", us.member("b").incarnation.0 + 1, 1));
            assert_eq!(us.state("b"), MemberState::Alive, "known as it was");
        }
        us.hear_alive(claim(&format!("x{number}"), 1, 1).with_meta(b"?"));
        us.hear_alive(claim("c", 2 + number, 1).with_meta(b"?"));
        us.now += Duration::from_micros(100);
    }
    // Those of one second are there at the start, and those of the second that it took, the last not yet.
    assert_eq!(signer.asked() - asked, 19);
    let stats = us.gossip.stats();
    assert_eq!((stats.claims_refused, stats.claims_dropped), (19, 19_981));
    assert_eq!(us.member("c").incarnation, Incarnation(1));
    us.hear_alive(claim("c", 99_999, 1).with_meta(b"?"));
    us.hear_alive(claim("d", 1, 1));
    assert_eq!(us.gossip.member("d"), None, "heard later");
    us.now += Duration::from_millis(100);
    us.hear_alive(claim("d", 1, 1));
    assert!(us.gossip.member("d").is_some());
}

#[test]
fn a_large_cluster_is_learnt_as_fast_as_may_be_verified() {
    let (mut us, _) = checking(&[]);
    us.gossip.config.limits.claims_per_second_max = 10;
    let names: Vec<String> = (0..35).map(|number| format!("n{number}")).collect();
    let everybody = |names: &[String]| {
        let node = |name: &String| PushPullNode {
            alive: claim(name, 1, 1),
            state: 0,
        };
        names.iter().map(node).collect::<Vec<_>>()
    };
    us.gossip.dial_push_pull(PEER, false);
    let start = us.now;
    while us.gossip.members().count() <= names.len() {
        us.answer_dials(&everybody(&names));
        let next = us.gossip.poll_timeout().expect("a push/pull comes");
        us.now = us.now.max(next);
        assert!(us.now < start + Duration::from_secs(6), "{:?}", us.now);
        us.gossip.handle_timeout(us.now);
    }
    // Nobody else decides how often we ask.
    let at = us.gossip.timers.push_pull_at;
    us.hear_in_question(claim("y", 1, 1).with_meta(b"?"));
    for number in 0..30 {
        us.hear_in_question(claim(&format!("z{number}"), 1, 1));
    }
    assert!(us.gossip.stats().claims_dropped > 25);
    assert_eq!(us.gossip.timers.push_pull_at, at);
}

#[test]
fn what_nobody_believes_of_us_is_not_refuted() {
    for way in [Us::hear_alive, Us::hear_in_question, Us::hear_in_answer] {
        let (mut us, _) = checking(&["b"]);
        let own = us.gossip.local().clone();
        let health = us.gossip.health_score();
        for incarnation in 1..200 {
            way(
                &mut us,
                claim_at("us", incarnation, address(66), 1).with_meta(b"?"),
            );
            way(&mut us, claim("us", incarnation, 1).with_meta(b"?"));
        }
        assert_eq!(*us.gossip.local(), own);
        let stats = us.gossip.stats();
        assert_eq!((stats.refutations, stats.claims_refused), (0, 398));
        assert_eq!(us.gossip.health_score(), health);
        assert!(us.gossip.broadcasts.is_empty());
    }
}

#[test]
fn what_others_may_believe_of_us_is_refuted() {
    let (mut us, _) = checking(&["b"]);
    // Our former life, elsewhere.
    us.hear_alive(claim_at("us", 5, address(66), 0));
    assert_eq!(us.gossip.local().incarnation, Incarnation(6));
    us.hear_alive(claim_at("us", 5, address(66), 0));
    assert_eq!(us.gossip.local().incarnation, Incarnation(6), "it is late");
    // Ourselves, with an incarnation that somebody made up.
    us.hear_alive(claim_at("us", 40, address(1), 1));
    assert_eq!(us.gossip.local().incarnation, Incarnation(41));
    assert_eq!(us.gossip.local().address, address(1));
    assert_eq!(us.gossip.stats().refutations, 2);
}

#[test]
fn without_tokens_claims_of_us_wait_as_others_do() {
    let (mut us, signer) = checking(&[]);
    us.gossip.config.limits.claims_per_second_max = 1;
    us.now += Duration::from_secs(1);
    us.hear_alive(claim("us", 7, 1).with_meta(b"?"));
    us.hear_alive(claim_at("us", 7, address(66), 0));
    assert_eq!((signer.asked(), us.gossip.stats().claims_dropped), (1, 1));
    us.now += Duration::from_secs(1);
    us.hear_alive(claim_at("us", 7, address(66), 0));
    assert_eq!(us.gossip.local().incarnation, Incarnation(8));
}

#[test]
fn the_verifier_is_told_what_was_known() {
    #[derive(Debug)]
    struct Recorder(std::sync::Mutex<Vec<String>>);
    impl crate::MemberVerifier for Recorder {
        fn verify(&self, claim: &MemberClaim<'_>, known: Option<&MemberClaim<'_>>) -> bool {
            let said = |claim: &MemberClaim<'_>| {
                let meta = String::from_utf8_lossy(claim.meta).into_owned();
                format!(
                    "{} {} {} {meta}",
                    claim.name, claim.address, claim.incarnation
                )
            };
            let line = format!("{} <- {:?}", said(claim), known.map(said));
            self.0.lock().expect("one thread").push(line);
            true
        }
    }
    let mut us = Us::with(&[]);
    let recorder = Arc::new(Recorder(std::sync::Mutex::default()));
    us.gossip.config.member_verifier = Some(recorder.clone());
    us.hear_alive(claim("b", 3, 1).with_meta(b"one"));
    us.hear_alive(claim_at("b", 4, address(66), 1).with_meta(b"two"));
    us.hear_alive(claim("us", 4, 1).with_meta(b"three"));
    let lines = recorder.0.lock().expect("one thread");
    let expected = [
        "b 192.0.2.98:7946 3 one <- None",
        "b 192.0.2.66:7946 4 two <- Some(\"b 192.0.2.98:7946 3 one\")",
        "us 192.0.2.117:7946 4 three <- None",
    ];
    assert_eq!(*lines, expected);
}

#[test]
fn with_a_verifier_nobody_comes_in_whom_nobody_can_speak_with() {
    let (mut us, _) = checking(&["b"]);
    let odd = Versions([1, 5, 2, 3, 3, 3]);
    us.gossip.config.member_verifier = Some(Arc::new(Believer));
    us.hear_alive(Alive {
        versions: odd,
        ..claim("b", 2, 1)
    });
    us.hear_alive(Alive {
        versions: odd,
        ..claim("c", 1, 1)
    });
    assert_eq!(us.member("b").versions, SPOKEN);
    assert_eq!(us.gossip.member("c"), None);
    assert_eq!(us.gossip.stats().versions_refused, 2);
    us.gossip.config.member_verifier = None;
    us.hear_alive(Alive {
        versions: odd,
        ..claim("c", 1, 1)
    });
    assert!(us.gossip.member("c").is_some(), "as memberlist");
}

/// Believes everybody.
#[derive(Debug)]
struct Believer;

impl crate::MemberVerifier for Believer {
    fn verify(&self, _: &MemberClaim<'_>, _: Option<&MemberClaim<'_>>) -> bool {
        true
    }
}

impl Us {
    fn hear_alive(&mut self, alive: Alive) {
        self.hear(Message::Alive(alive));
    }

    /// Hears it in a push/pull that somebody else begins.
    fn hear_in_question(&mut self, alive: Alive) {
        let nodes = vec![PushPullNode { alive, state: 0 }];
        self.stream(&push_pull(nodes));
    }

    /// Hears it in the answer to a push/pull of ours.
    fn hear_in_answer(&mut self, alive: Alive) {
        self.gossip.dial_push_pull(PEER, false);
        self.answer_dials(&[PushPullNode { alive, state: 0 }]);
    }

    /// Answers all push/pulls that were begun.
    fn answer_dials(&mut self, nodes: &[PushPullNode]) {
        let outputs: Vec<Output> = std::iter::from_fn(|| self.gossip.poll_output()).collect();
        for output in outputs {
            match output {
                Output::Dial { stream, .. } => {
                    let bytes = push_pull(nodes.to_vec()).encode();
                    self.gossip.handle_stream_data(self.now, stream, &bytes);
                }
                Output::Event(event) => self.events.push(event),
                Output::Datagram { .. }
                | Output::StreamSend { .. }
                | Output::StreamClose { .. } => {}
            }
        }
    }

    fn roster(&self) -> Vec<Member> {
        self.gossip.members().cloned().collect()
    }
}

impl Alive {
    fn with_meta(self, meta: &[u8]) -> Self {
        Self {
            meta: meta.to_vec(),
            ..self
        }
    }
}

/// One of us that believes signatures only, with nothing left to be told.
fn checking(members: &[&str]) -> (Us, Arc<Signer>) {
    let (mut us, signer) = (Us::with(&[]), Arc::new(Signer::default()));
    us.gossip.config.member_verifier = Some(signer.clone());
    let meta = signed("us", address(1), 1);
    us.gossip.set_meta(us.now, meta).expect("a short one");
    for member in members {
        us.hear_alive(claim(member, 1, 1));
    }
    us.gossip.broadcasts = Queue::new(100);
    us.gossip.local.member.incarnation = Incarnation(1);
    us.packets();
    (us, signer)
}

fn push_pull(nodes: Vec<PushPullNode>) -> StreamMessage {
    StreamMessage::PushPull(PushPull {
        join: false,
        nodes,
        user_state: Vec::new(),
    })
}

fn claim(node: &str, incarnation: u32, generation: u8) -> Alive {
    claim_at(node, incarnation, address(node.as_bytes()[0]), generation)
}

fn claim_at(node: &str, incarnation: u32, address: SocketAddr, generation: u8) -> Alive {
    Alive {
        incarnation,
        node: node.into(),
        address,
        meta: signed(node, address, generation),
        versions: SPOKEN,
    }
}
