//! The replicated state: keys and values, sessions, and where members are to be found.

use std::collections::BTreeMap;

use bytes::Bytes;
use overlay_raft::{Event, Index, driver::Application};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What is replicated. Variants are only ever appended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Opens a session, whose name is where this is in the log.
    Open,
    /// A write of a session: the same number again is the same request again.
    Write {
        session: u64,
        number: u64,
        write: Write,
    },
    /// Where the members listen for each other.
    Peer { id: u64, address: String },
    /// Where a member takes clients.
    Clients { id: u64, address: String },
}

/// A change of one key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Write {
    Put {
        key: String,
        value: String,
    },
    Delete {
        key: String,
    },
    /// Writes `new` if the key has the value `old`; `None` means no value.
    Cas {
        key: String,
        old: Option<String>,
        new: String,
    },
}

/// What came of a command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Done,
    Opened {
        session: u64,
    },
    /// A `Cas` found another value.
    Differs {
        found: Option<String>,
    },
    /// The session is not known, or no longer: nothing was applied now.
    NoSession,
    /// The session has gone on to a later request: nothing was applied now.
    Outdated,
    /// The command is not one of ours.
    Malformed,
}

/// A client: its last request, and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Session {
    number: u64,
    outcome: Outcome,
    /// When it was used last, in the order of the log.
    used: u64,
}

/// Where members are to be found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Places {
    pub(crate) peers: BTreeMap<u64, String>,
    pub(crate) clients: BTreeMap<u64, String>,
}

/// All that is replicated.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    values: BTreeMap<String, String>,
    sessions: BTreeMap<u64, Session>,
    /// Sessions by when they were used last.
    order: BTreeMap<u64, u64>,
    places: Places,
}

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    state: State,
    /// Says when `places` changed.
    places: watch::Sender<Places>,
}

impl Store {
    pub(crate) fn new(places: watch::Sender<Places>) -> Self {
        let state = State::default();
        Self { state, places }
    }

    pub(crate) fn get(&self, key: &str) -> Option<String> {
        self.state.values.get(key).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.state.values.len()
    }

    pub(crate) fn clients(&self, id: u64) -> Option<String> {
        self.state.places.clients.get(&id).cloned()
    }
}

impl Application for Store {
    type Answer = Outcome;

    fn apply(&mut self, index: Index, command: &Bytes) -> Outcome {
        let Ok(command) = postcard::from_bytes(command) else {
            return Outcome::Malformed;
        };
        match command {
            Command::Open => self.state.open(index.get()),
            Command::Write {
                session,
                number,
                write,
            } => self.state.write(index.get(), session, number, write),
            Command::Peer { id, address } => {
                self.state.places.peers.insert(id, address);
                self.places.send_replace(self.state.places.clone());
                Outcome::Done
            }
            Command::Clients { id, address } => {
                self.state.places.clients.insert(id, address);
                Outcome::Done
            }
        }
    }

    fn snapshot(&self) -> Bytes {
        let bytes = postcard::to_allocvec(&self.state);
        Bytes::from(bytes.expect("a state in memory can be written to memory"))
    }

    fn restore(&mut self, snapshot: &Bytes) {
        self.state = postcard::from_bytes(snapshot).expect("a snapshot that a store made");
        self.places.send_replace(self.state.places.clone());
    }

    fn observe(&mut self, event: &Event) {
        match event {
            // Whoever waits for these is told.
            Event::ProposalLost(_) | Event::ProposalUnknown(_) | Event::ReadLost(_) => {}
            event => eprintln!("{event:?}"),
        }
    }
}

impl State {
    /// Opens a session; the one that was used least recently makes room, the same on all members.
    fn open(&mut self, index: u64) -> Outcome {
        if self.sessions.len() >= SESSIONS_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.sessions.remove(&oldest);
        }
        let session = Session {
            number: 0,
            outcome: Outcome::Opened { session: index },
            used: index,
        };
        self.sessions.insert(index, session);
        self.order.insert(index, index);
        Outcome::Opened { session: index }
    }

    fn write(&mut self, index: u64, name: u64, number: u64, write: Write) -> Outcome {
        let Some(session) = self.sessions.get_mut(&name) else {
            return Outcome::NoSession;
        };
        self.order.remove(&session.used);
        self.order.insert(index, name);
        session.used = index;
        if number < session.number {
            return Outcome::Outdated;
        }
        if number > session.number {
            session.number = number;
            session.outcome = change(&mut self.values, write);
        }
        session.outcome.clone()
    }
}

fn change(values: &mut BTreeMap<String, String>, write: Write) -> Outcome {
    match write {
        Write::Put { key, value } => {
            values.insert(key, value);
        }
        Write::Delete { key } => {
            values.remove(&key);
        }
        Write::Cas { key, old, new } => {
            let found = values.get(&key);
            if found != old.as_ref() {
                let found = found.cloned();
                return Outcome::Differs { found };
            }
            values.insert(key, new);
        }
    }
    Outcome::Done
}

/// So many sessions are remembered.
const SESSIONS_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_request_again_is_applied_once_and_answered_again() {
        let mut store = store();
        let session = open(&mut store, 1);
        let cas = || Write::Cas {
            key: "a".to_owned(),
            old: None,
            new: "1".to_owned(),
        };
        assert_eq!(write(&mut store, 2, session, 1, cas()), Outcome::Done);
        assert_eq!(write(&mut store, 3, session, 1, cas()), Outcome::Done);
        let found = Some("1".to_owned());
        let differs = Outcome::Differs { found };
        assert_eq!(write(&mut store, 4, session, 2, cas()), differs);
        assert_eq!(write(&mut store, 5, session, 1, cas()), Outcome::Outdated);
    }

    #[test]
    fn the_session_that_was_used_least_recently_makes_room() {
        let mut store = store();
        let first = open(&mut store, 1);
        let second = open(&mut store, 2);
        assert_eq!(write(&mut store, 3, first, 1, put()), Outcome::Done);
        for index in 4..4 + SESSIONS_MAX as u64 - 1 {
            open(&mut store, index);
        }
        let next = 10 + SESSIONS_MAX as u64;
        assert_eq!(
            write(&mut store, next, second, 1, put()),
            Outcome::NoSession
        );
        assert_eq!(write(&mut store, next + 1, first, 2, put()), Outcome::Done);
    }

    #[test]
    fn a_snapshot_remembers_sessions() {
        let mut store = store();
        let session = open(&mut store, 1);
        assert_eq!(write(&mut store, 2, session, 1, put()), Outcome::Done);
        let mut other = Store::new(watch::Sender::default());
        other.restore(&store.snapshot());
        assert_eq!(other.get("a").as_deref(), Some("1"));
        let cas = Write::Cas {
            key: "a".to_owned(),
            old: None,
            new: "2".to_owned(),
        };
        assert_eq!(write(&mut other, 3, session, 1, cas), Outcome::Done);
        assert_eq!(other.get("a").as_deref(), Some("1"));
    }

    fn store() -> Store {
        Store::new(watch::Sender::default())
    }

    fn put() -> Write {
        Write::Put {
            key: "a".to_owned(),
            value: "1".to_owned(),
        }
    }

    fn open(store: &mut Store, index: u64) -> u64 {
        match apply(store, index, &Command::Open) {
            Outcome::Opened { session } => session,
            other => panic!("{other:?}"),
        }
    }

    fn write(store: &mut Store, index: u64, session: u64, number: u64, write: Write) -> Outcome {
        let command = Command::Write {
            session,
            number,
            write,
        };
        apply(store, index, &command)
    }

    fn apply(store: &mut Store, index: u64, command: &Command) -> Outcome {
        let bytes = Bytes::from(postcard::to_allocvec(command).unwrap());
        store.apply(Index::new(index), &bytes)
    }
}
