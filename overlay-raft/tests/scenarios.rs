//! Scenarios in text files: commands, and what must come of each. `OVERLAY_SCENARIOS=write` writes down what does.
//!
//! | command | what it does |
//! |---|---|
//! | `start N [trailing=0] [chunk=1]` | founders 1 to N; how many entries are kept before a snapshot, how many octets of it go at a time |
//! | `join I` | a member that waits to be added |
//! | `campaign I`, `propose I TEXT`, `read I`, `transfer I J`, `compact I TEXT` | as the machine's methods |
//! | `change I add-learner=4 promote=4 demote=2 remove=3` | all of it at once |
//! | `deliver [I J]` | delivers what is under way, from I to J alone |
//! | `drop [I J]` | loses it |
//! | `reverse I` | what it sent arrives the other way round |
//! | `settle` | delivers until nothing is under way, and tells no messages |
//! | `pass MS` | lets time pass for everybody |
//! | `slow I`, `sync I` | its disk finishes nothing any more; finishes everything and is quick again |
//! | `crash I`, `restart I` | it is down; it starts from what its disk holds |
//! | `show` | what everybody is and has |

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod cluster;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use overlay_raft::{Change, Event, Payload, RaftId, ReadMode, Role};

use cluster::{Body, Message, Node, config, id};

#[test]
fn scenarios_come_out_as_they_are_written_down() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let files = std::fs::read_dir(&folder).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 8, "{paths:?}");
    for path in paths {
        let expected = std::fs::read_to_string(&path).unwrap();
        let found = perform(&expected);
        if std::env::var("OVERLAY_SCENARIOS").is_ok_and(|what| what == "write") {
            std::fs::write(&path, found).unwrap();
        } else {
            assert_eq!(found, expected, "{}", path.display());
        }
    }
}

/// Performs the commands of a scenario; returns it with what came of them.
fn perform(text: &str) -> String {
    let (mut stage, mut told) = (Stage::default(), String::new());
    for line in text.lines() {
        match line.strip_prefix("> ") {
            Some(command) => {
                let _ = writeln!(told, "> {command}");
                stage.command(command);
                stage.tell_consequences();
                told.push_str(&std::mem::take(&mut stage.told));
            }
            None if line.starts_with('#') || line.is_empty() => {
                let _ = writeln!(told, "{line}");
            }
            None => {}
        }
    }
    told
}

#[derive(Default)]
struct Stage {
    nodes: BTreeMap<u64, Node>,
    down: BTreeSet<u64>,
    /// How much of what each has let out was told.
    seen: BTreeMap<u64, (usize, usize, usize, usize)>,
    told: String,
}

impl Stage {
    fn command(&mut self, command: &str) {
        let words: Vec<&str> = command.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        let who = number(1).unwrap_or_default();
        match (words[0], words.get(2)) {
            ("start", _) => self.start(who, &words[2..]),
            ("join", _) => drop(self.nodes.insert(who, Node::joiner(who))),
            ("campaign", _) => self.node(who).campaign(),
            ("propose", Some(text)) => {
                let result = self.node(who).propose(text);
                self.tell_error(result.err());
            }
            ("read", _) => {
                let node = self.node(who);
                let result = node.raft.read_index(node.now, ReadMode::Quorum);
                node.drain();
                self.tell_error(result.err());
            }
            ("transfer", _) => {
                let (node, to) = (self.node(who), id(number(2).unwrap()));
                let result = node.raft.transfer(node.now, to);
                node.drain();
                self.tell_error(result.err());
            }
            ("compact", Some(text)) => {
                let state = Bytes::copy_from_slice(text.as_bytes());
                let node = self.node(who);
                let result = node.raft.compact(node.now, node.raft.applied(), state);
                node.drain();
                self.tell_error(result.err());
            }
            ("change", _) => {
                let changes: Vec<Change> = words[2..].iter().map(|word| change(word)).collect();
                let result = self.node(who).change_all(&changes);
                self.tell_error(result.err());
            }
            ("deliver", _) => self.deliver(number(1).zip(number(2)), true),
            ("drop", _) => drop(self.take(number(1).zip(number(2)))),
            ("reverse", _) => self.node(who).sent.make_contiguous().reverse(),
            ("settle", _) => {
                while self.nodes.values().any(|node| !node.sent.is_empty()) {
                    self.deliver(None, false);
                }
            }
            ("pass", _) => self.pass(Duration::from_millis(who)),
            ("slow", _) => self.node(who).fast_disk = false,
            ("sync", _) => {
                self.node(who).fast_disk = true;
                self.node(who).write_all();
            }
            ("crash", _) => {
                self.down.insert(who);
                self.node(who).sent.clear();
            }
            ("restart", _) => {
                self.down.remove(&who);
                self.node(who).restart();
                self.seen.remove(&who);
            }
            ("show", _) => self.show(),
            _ => panic!("no command: {command}"),
        }
    }

    fn start(&mut self, count: u64, settings: &[&str]) {
        let voters: Vec<u64> = (1..=count).collect();
        for &voter in &voters {
            let mut config = config(voter);
            for setting in settings {
                match setting.split_once('=') {
                    Some(("trailing", entries)) => {
                        config.trailing_entries_max = entries.parse().unwrap();
                    }
                    Some(("chunk", octets)) => {
                        config.snapshot_chunk_bytes_max = octets.parse().unwrap();
                    }
                    _ => panic!("no setting: {setting}"),
                }
            }
            let node = Node::founder_with(config, &voters);
            self.nodes.insert(voter, node);
        }
    }

    fn node(&mut self, number: u64) -> &mut Node {
        self.nodes.get_mut(&number).expect("a member")
    }

    /// Takes what is under way, or of it what one member sent another.
    fn take(&mut self, only: Option<(u64, u64)>) -> Vec<(u64, u64, Bytes)> {
        let mut taken = Vec::new();
        for (&from, node) in &mut self.nodes {
            let sent = std::mem::take(&mut node.sent);
            for (to, bytes) in sent {
                if only.is_none_or(|pair| pair == (from, to)) {
                    taken.push((from, to, bytes));
                } else {
                    node.sent.push_back((to, bytes));
                }
            }
        }
        taken
    }

    fn deliver(&mut self, only: Option<(u64, u64)>, tells: bool) {
        for (from, to, bytes) in self.take(only) {
            if tells {
                let body = Message::decode(&bytes).body;
                let _ = writeln!(self.told, "{from} to {to}: {}", describe(&body));
            }
            let is_down = self.down.contains(&to);
            if let Some(node) = self.nodes.get_mut(&to).filter(|_| !is_down) {
                let message = overlay_raft::Message::decode(&bytes).unwrap();
                if let Err(error) = node.raft.handle_message(node.now, id(from), message) {
                    let _ = writeln!(self.told, "{to} refuses: {error}");
                }
                node.drain();
            }
        }
    }

    fn pass(&mut self, duration: Duration) {
        for (number, node) in &mut self.nodes {
            let end = node.now + duration;
            if self.down.contains(number) {
                node.now = end;
                continue;
            }
            node.pass(duration);
        }
    }

    fn tell_error(&mut self, error: Option<impl std::fmt::Display>) {
        if let Some(error) = error {
            let _ = writeln!(self.told, "refused: {error}");
        }
    }

    /// Tells what members let out besides messages.
    fn tell_consequences(&mut self) {
        for (number, node) in &self.nodes {
            let seen = self.seen.entry(*number).or_default();
            for snapshot in &node.restored[seen.0..] {
                let state = String::from_utf8_lossy(&snapshot.data);
                let _ = writeln!(
                    self.told,
                    "{number} restores {state:?} at {}",
                    snapshot.index
                );
            }
            for applied in &node.applied[seen.1..] {
                let text = String::from_utf8_lossy(&applied.command);
                let _ = writeln!(self.told, "{number} applies {text} at {}", applied.index);
            }
            for (_, index) in &node.reads[seen.2..] {
                let _ = writeln!(self.told, "{number} answers a read at {index}");
            }
            for event in &node.events[seen.3..] {
                tell_event(&mut self.told, *number, event);
            }
            *seen = (
                node.restored.len(),
                node.applied.len(),
                node.reads.len(),
                node.events.len(),
            );
        }
    }

    fn show(&mut self) {
        for (number, node) in &self.nodes {
            if self.down.contains(number) {
                let _ = writeln!(self.told, "{number} is down");
                continue;
            }
            let raft = &node.raft;
            let role = match raft.role() {
                Role::Learner => "learner",
                Role::Follower => "follower",
                Role::PreCandidate => "pre-candidate",
                Role::Candidate => "candidate",
                Role::Leader => "leader",
            };
            let first = raft.snapshot_index().get() + 1;
            let terms: Vec<String> = (first..=raft.last_index().get())
                .filter_map(|at| raft.term_at(overlay_raft::Index::new(at)))
                .map(|term| term.to_string())
                .collect();
            let _ = writeln!(
                self.told,
                "{number} {role} in term {}, log {first}.. [{}], durable {}, commit {}",
                raft.term(),
                terms.join(" "),
                raft.durable(),
                raft.commit(),
            );
        }
    }
}

fn change(word: &str) -> Change {
    let (what, who) = word.split_once('=').unwrap();
    let who = id(who.parse().unwrap());
    match what {
        "add-learner" => Change::AddLearner(who),
        "promote" => Change::Promote(who),
        "demote" => Change::Demote(who),
        "remove" => Change::Remove(who),
        what => panic!("no change: {what}"),
    }
}

fn list(ids: impl Iterator<Item = RaftId>) -> String {
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    ids.join(" ")
}

fn tell_event(told: &mut String, number: u64, event: &Event) {
    let _ = match event {
        Event::LeaderChanged {
            leader: Some(leader),
            term,
        } => writeln!(told, "{number} is led by {leader} in term {term}"),
        Event::LeaderChanged { leader: None, .. } => Ok(()),
        Event::MembershipChanged {
            index,
            membership,
            committed,
        } => {
            let mut text = format!("voters {}", list(membership.voters()));
            if membership.is_joint() {
                let _ = write!(text, " and {}", list(membership.outgoing()));
            }
            if membership.learners().next().is_some() {
                let _ = write!(text, ", learners {}", list(membership.learners()));
            }
            let certain = if *committed { "certain" } else { "in force" };
            writeln!(told, "{number} has {text} {certain} at {index}")
        }
        Event::ChangeCommitted(id) => writeln!(told, "{number} has its change at {}", id.index),
        Event::ProposalLost(lost) => {
            writeln!(told, "{number} lost {} of term {}", lost.index, lost.term)
        }
        Event::ReadLost(_) => writeln!(told, "{number} lost a read"),
        event => writeln!(told, "{number}: {event:?}"),
    };
}

/// Without what is drawn at random.
fn describe(body: &Body) -> String {
    match body {
        Body::PreVote {
            last_index,
            last_term,
            ..
        } => format!("pre-vote? log ends at {last_index} of term {last_term}"),
        Body::PreVoteReply { granted, .. } => format!("pre-vote {granted}"),
        Body::Vote {
            last_index,
            last_term,
            transfer,
        } => format!("vote? log ends at {last_index} of term {last_term}, transfer {transfer}"),
        Body::VoteReply { granted } => format!("vote {granted}"),
        Body::Append {
            previous,
            previous_term,
            commit,
            entries,
        } => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(term, payload)| match payload {
                    Payload::Noop => format!("{term}:noop"),
                    Payload::Command(text) => format!("{term}:{}", String::from_utf8_lossy(text)),
                    Payload::Membership(_) => format!("{term}:membership"),
                })
                .collect();
            let entries = entries.join(" ");
            format!("append [{entries}] after {previous} of term {previous_term}, commit {commit}")
        }
        Body::Accepted { matched } => format!("has {matched}"),
        Body::Rejected {
            previous,
            hint,
            hint_term,
        } => format!("has no {previous}, perhaps {hint} of term {hint_term}"),
        Body::Heartbeat { commit, .. } => format!("heartbeat, commit {commit}"),
        Body::HeartbeatReply { .. } => "heartbeat heard".to_owned(),
        Body::Chunk {
            index,
            total,
            offset,
            data,
            ..
        } => format!(
            "snapshot at {index}, octets {offset} to {} of {total}",
            offset + data.len() as u64
        ),
        Body::SnapshotReply { index, wanted } => {
            format!("snapshot at {index} wanted from {wanted}")
        }
        Body::TimeoutNow => "campaign now".to_owned(),
        Body::Commit { commit } => format!("commit {commit}"),
        Body::ReadAsk { number, .. } => format!("may reads up to {number} be answered?"),
        Body::ReadAnswer { number, index, .. } => format!("reads up to {number} see {index}"),
    }
}
