//! The model of Raft itself: all of its states within small bounds keep Raft's promises, and no rule of it can be left out.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "model/mod.rs"]
mod model;

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
};

use overlay_core::{Rng, Seed};
use overlay_raft::{Incarnation, Index, RaftId, Term, TraceEvent};

use model::{Model, Role, Rule, Who};

/// How far states are followed.
#[derive(Clone, Copy)]
struct Bounds {
    terms: u64,
    entries: usize,
}

/// Every state of three members in two terms with an entry each; a restart at any time.
#[test]
fn every_state_within_small_bounds_keeps_the_promises() {
    let bounds = Bounds {
        terms: 2,
        entries: 1,
    };
    let (states, broken) = explore(Model::of(ids(), &[]), bounds, 3_000_000);
    assert_eq!(broken, None);
    println!("{states} states");
    assert!(states > 10_000, "{states} states");
}

/// Within larger bounds, by walks at random: what figure 8 needs is there.
#[test]
fn long_walks_keep_the_promises() {
    let bounds = Bounds {
        terms: 6,
        entries: 5,
    };
    for seed in 0..300 {
        let (_, broken) = walk(Model::of(ids(), &[]), bounds, 600, seed);
        assert_eq!(broken, None, "walk {seed}");
    }
}

/// For each rule a story that it ends, and that breaks a promise without it.
#[test]
fn no_rule_can_be_left_out() {
    let stories: [(Rule, &[Step], &str); 5] = [
        (Rule::OneVote, &ONE_VOTE, "election safety"),
        (Rule::UpToDate, &UP_TO_DATE, "leader completeness"),
        (Rule::OwnTerm, &FIGURE_8, "leader completeness"),
        (Rule::Durable, &DURABLE, "leader completeness"),
        (Rule::Consistency, &CONSISTENCY, "leader completeness"),
    ];
    for (rule, story, promise) in stories {
        let refused = tell(None, story);
        assert!(refused.is_err(), "{rule:?} refuses nothing");
        let told = tell(Some(rule), story).unwrap();
        assert_eq!(told.broken, [promise], "{rule:?}");
    }
}

/// A step, short: who, and in which term or at which index.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Campaigns, is voted for by the second, and leads, in a term.
    Elected(u64, u64, u64),
    Campaigns(u64, u64),
    Votes(u64, u64, u64),
    Leads(u64, u64),
    /// Appends, at an index, an entry of a term; its disk has it at once.
    Writes(u64, usize, u64),
    /// The same, without the disk.
    Appends(u64, usize, u64),
    Follows(u64, u64),
    Commits(u64, usize),
    Restarts(u64),
}

use Step::{Appends, Campaigns, Commits, Elected, Follows, Leads, Restarts, Votes, Writes};

const ONE_VOTE: [Step; 7] = [
    Campaigns(1, 1),
    Campaigns(2, 1),
    Follows(3, 1),
    Votes(3, 1, 1),
    Leads(1, 1),
    Votes(3, 1, 2),
    Leads(2, 1),
];

const UP_TO_DATE: [Step; 5] = [
    Elected(1, 2, 1),
    Writes(1, 1, 1),
    Writes(2, 1, 1),
    Commits(1, 1),
    Elected(3, 2, 2),
];

const FIGURE_8: [Step; 8] = [
    Elected(1, 2, 1),
    Writes(1, 1, 1),
    Elected(3, 2, 2),
    Writes(3, 1, 2),
    Elected(1, 2, 3),
    Writes(2, 1, 1),
    Commits(1, 1),
    Elected(3, 2, 4),
];

const DURABLE: [Step; 6] = [
    Elected(1, 2, 1),
    Writes(1, 1, 1),
    Appends(2, 1, 1),
    Commits(1, 1),
    Restarts(2),
    Elected(2, 3, 2),
];

const CONSISTENCY: [Step; 9] = [
    Elected(1, 2, 1),
    Writes(1, 1, 1),
    Elected(3, 2, 2),
    Writes(3, 1, 2),
    Writes(3, 2, 2),
    Follows(1, 2),
    Writes(1, 2, 2),
    Commits(3, 2),
    Elected(1, 2, 3),
];

fn tell(without: Option<Rule>, story: &[Step]) -> Result<Model, String> {
    let mut model = Model::of(ids(), &[]);
    model.without = without;
    for step in story {
        for (number, event) in events(&model, *step) {
            let id = (RaftId::new(number).unwrap(), Incarnation::FOUNDER);
            model
                .take(id, &event)
                .map_err(|need| format!("{step:?}: {event:?} needs {need}"))?;
        }
    }
    Ok(model)
}

fn events(model: &Model, step: Step) -> Vec<(u64, TraceEvent)> {
    let (of, id) = (Term::new, |number| RaftId::new(number).unwrap());
    let follows = |number, term| {
        let (term, leader) = (of(term), None);
        (number, TraceEvent::Follows { term, leader })
    };
    let votes = |number, term, candidate| {
        let (term, candidate) = (of(term), id(candidate));
        (number, TraceEvent::Votes { term, candidate })
    };
    let appended = |number, at, term| {
        let (first, terms) = (index(at), vec![of(term)]);
        (number, TraceEvent::Appended { first, terms })
    };
    let campaigns = |number, term| (number, TraceEvent::Campaigns { term: of(term) });
    let leads = |number, term| (number, TraceEvent::Leads { term: of(term) });
    match step {
        Elected(who, by, term) => vec![
            follows(who, term - 1),
            campaigns(who, term),
            follows(by, term),
            votes(by, term, who),
            leads(who, term),
        ],
        Campaigns(who, term) => vec![campaigns(who, term)],
        Votes(who, term, candidate) => vec![votes(who, term, candidate)],
        Leads(who, term) => vec![leads(who, term)],
        Appends(who, at, term) => vec![appended(who, at, term)],
        Writes(who, at, term) => {
            let index = index(at);
            vec![
                appended(who, at, term),
                (who, TraceEvent::Durable { index }),
            ]
        }
        Follows(who, term) => vec![follows(who, term)],
        Commits(who, at) => vec![(who, TraceEvent::Committed { index: index(at) })],
        Restarts(who) => vec![(
            who,
            model.restarted((id(who), Incarnation::FOUNDER)).unwrap(),
        )],
    }
}

fn ids() -> [RaftId; 3] {
    [1, 2, 3].map(|number| RaftId::new(number).unwrap())
}

/// Visits every state that can be reached; returns how many there are, and what is broken in one of them.
fn explore(start: Model, bounds: Bounds, states_max: usize) -> (usize, Option<&'static str>) {
    // Of 64 bits: that two of a million states have the same is less likely than one in ten million.
    let hash = |state: &Model| BuildHasherDefault::<DefaultHasher>::default().hash_one(state);
    let mut known = HashSet::from([hash(&start)]);
    let mut open = VecDeque::from([start]);
    while let Some(state) = open.pop_front() {
        for (id, step) in steps(&state, bounds) {
            let mut next = state.clone();
            if next.take(id, &step).is_err() {
                continue;
            }
            if let Some(broken) = next.broken.first() {
                return (known.len(), Some(broken));
            }
            if known.insert(hash(&next)) {
                open.push_back(next);
            }
        }
        assert!(known.len() < states_max, "more than {states_max} states");
    }
    (known.len(), None)
}

/// Takes `length` steps at random; returns how many were possible, and what they broke.
fn walk(
    mut model: Model,
    bounds: Bounds,
    length: usize,
    seed: u64,
) -> (usize, Option<&'static str>) {
    let mut rng: Rng = Seed::from_u64(seed).rng();
    let mut taken = 0;
    for _ in 0..length {
        let steps = steps(&model, bounds);
        let Some(at) = rng.index(steps.len()) else {
            break;
        };
        let (id, step) = &steps[at];
        // Restarts are rare, or nothing comes to be.
        if matches!(step, TraceEvent::Started { .. }) && rng.chance(900_000) {
            continue;
        }
        taken += usize::from(model.take(*id, step).is_ok());
        if let Some(broken) = model.broken.first() {
            return (taken, Some(broken));
        }
    }
    (taken, None)
}

/// Returns steps that may be possible: the model knows which are.
fn steps(model: &Model, bounds: Bounds) -> Vec<(Who, TraceEvent)> {
    let mut steps = Vec::new();
    let highest = model.members().map(|(_, member)| member.term).max();
    for (id, member) in model.members() {
        let mut add = |step| steps.push((id, step));
        let last = index(member.log.len());
        if member.role != Role::Leader && member.term.get() < bounds.terms {
            let term = member.term.next();
            add(TraceEvent::Campaigns { term });
        }
        for term in member.term.get() + 1..=highest.unwrap_or_default().get() {
            let term = Term::new(term);
            add(TraceEvent::Follows { term, leader: None });
        }
        let term = member.term;
        for ((candidate, _), _) in model.members().filter(|(other, _)| *other != id) {
            add(TraceEvent::Votes { term, candidate });
        }
        add(TraceEvent::Leads { term });
        if member.log.len() < bounds.entries {
            for of in 1..=term.get() {
                add(TraceEvent::Appended {
                    first: last.next(),
                    terms: vec![Term::new(of)],
                });
            }
        }
        for at in 1..=member.log.len() {
            let index = index(at);
            add(TraceEvent::Truncated { from: index });
            add(TraceEvent::Committed { index });
        }
        add(TraceEvent::Durable { index: last });
        if let Some(restarted) = model.restarted(id) {
            add(restarted);
        }
    }
    steps
}

fn index(place: usize) -> Index {
    Index::new(place as u64)
}
