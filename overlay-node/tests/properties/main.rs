//! The cluster state against a naive model, and octets from outside.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

mod command;
mod model;
mod op;
mod services;
mod watcher;

use std::collections::BTreeSet;

use overlay_node::{
    identity::JoinToken,
    state::{ClusterState, Command, Outcome},
    wire,
};
use proptest::prelude::*;

use command::{command, proposal, seed};
use model::{Model, Node};
use op::{Op, op, prelude};
use services::check_progress;
use watcher::Watcher;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_state_is_what_a_naive_model_says(
        ops in prop::collection::vec(op(), 1..120),
        cut in 0..120_usize,
        kept in 1..40_usize,
        eager in any::<bool>(),
        prepared in any::<bool>(),
    ) {
        let mut state = ClusterState::new();
        let mut replica = ClusterState::new();
        state.watch(kept);
        let (mut model, mut watcher) = (Model::default(), Watcher::default());
        let mut last = proposal(1, Command::InitCluster(Box::new(seed())));
        state.apply(1, last.clone()).unwrap();
        replica.apply(1, last.clone()).unwrap();
        model.nodes.insert(0, Node::new(0, true));
        let mut last_outcome = state.outcome(last.request).unwrap().clone();
        let mut rafts = BTreeSet::new();
        let mut index = 1;
        let first = if prepared { prelude() } else { Vec::new() };
        for (at, op) in first.iter().chain(&ops).enumerate() {
            index += 2; // gaps are entries of the consensus itself
            let before = state.clone();
            if matches!(op, Op::Again) {
                let again = state.apply(index, last.clone());
                prop_assert_eq!(&again, &last_outcome);
                prop_assert_eq!(substance(&state), substance(&before));
            } else {
                let expected = model.run(index, op);
                last = proposal(index, command(op, &state));
                let outcome = state.apply(index, last.clone());
                match (expected, &outcome, op) {
                    (Some(expected), outcome, _) => {
                        prop_assert_eq!(outcome.is_ok(), expected, "{:?}: {:?}", op, outcome);
                    }
                    (None, Ok(_), Op::Attach { endpoint, node, network, name, .. }) => {
                        model.endpoints.insert(*endpoint, (*node, *network, *name));
                    }
                    (None, _, _) => {}
                }
                if let (Ok(Outcome::Node(node, Some(raft))), Op::SetRole { .. } | Op::AddNode { .. }) = (&outcome, op) {
                    let same = before.nodes().get(node).and_then(|record| record.raft) == Some(*raft);
                    prop_assert!(rafts.insert(*raft) || same, "{} was used before", raft);
                }
                if outcome.is_err() {
                    prop_assert_eq!(substance(&state), substance(&before));
                }
                prop_assert_eq!(state.outcome(last.request), Some(&outcome));
                last_outcome = outcome;
            }
            model.check(&state);
            check_progress(&before, &state);
            if eager || at % 5 == 4 {
                watcher.follow(&state);
            }
            let replayed = replica.apply(index, last.clone());
            prop_assert_eq!(&replayed, &last_outcome);
            prop_assert_eq!(state.hash(), replica.hash());
            if at == cut {
                replica = ClusterState::restore(&replica.snapshot()).unwrap();
                prop_assert_eq!(state.hash(), replica.hash());
                let lists = watcher.lists;
                state.replace(replica.clone());
                watcher.follow(&state);
                prop_assert!(eager || watcher.lists > lists || at % 5 == 4, "a gap was not told");
            }
        }
        watcher.follow(&state);
    }

    #[test]
    fn octets_from_outside_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = ClusterState::restore(&bytes);
        let _ = wire::decode(&bytes);
        let mut framed = vec![b'S', 1];
        framed.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        framed.extend_from_slice(&bytes);
        let _ = ClusterState::restore(&framed);
        let mut framed = vec![b'M', 1];
        framed.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
        framed.extend_from_slice(&bytes);
        let _ = wire::decode(&framed);
    }

    #[test]
    fn text_from_outside_never_panics(text in "(SWMTKN-1-)?[-0-9a-zA-Z\\PC]{0,90}") {
        let _ = text.parse::<JoinToken>();
    }

    #[test]
    fn a_damaged_snapshot_never_panics(
        ops in prop::collection::vec(op(), 1..30),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut state = ClusterState::new();
        state.apply(1, proposal(1, Command::InitCluster(Box::new(seed())))).unwrap();
        let mut index = 1;
        for op in ops.iter().filter(|op| !matches!(op, Op::Again)) {
            index += 1;
            let _ = state.apply(index, proposal(index, command(op, &state)));
        }
        let mut bytes = state.snapshot();
        for (at, value) in damage {
            let at = 10 + at.index(bytes.len() - 10);
            bytes[at] = value;
        }
        // The log's checksum catches damage long before; what gets past it is at least read without a panic.
        let _ = ClusterState::restore(&bytes).map(|state| state.snapshot());
    }
}

/// All but what every request leaves, a refused or a repeated one, too: the index, and the memory of requests.
fn substance(state: &ClusterState) -> String {
    let events = state.events_after(0).count();
    let tables = (
        state.nodes(),
        state.networks(),
        state.endpoints(),
        state.services(),
    );
    let rest = (state.cluster(), state.tasks(), state.former(), events);
    format!("{tables:?} {rest:?}")
}
