//! The socket half: a connection to each peer for what is sent, one from each for what comes.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use overlay_core::Seed;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, oneshot},
    task::{AbortHandle, JoinHandle},
};

use super::{Transport, accept, dial};
use crate::{Config, Message, RaftId};

/// Limits of the sockets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinksConfig {
    /// How many messages wait to be sent to one peer; more are dropped, and Raft repeats what matters. Default 4,096.
    pub queue_max: usize,
    /// How many connections may be open that peers, or strangers, made. Default 128.
    pub connections_max: usize,
    /// How many arrivals wait for the loop; connections are not read meanwhile. Default 256.
    pub arrivals_max: usize,
    /// The first pause before a lost connection is dialled again; each further one is twice as long. Default 20 ms.
    pub redial_min: Duration,
    /// The longest pause. Default 1 s. A peer that comes back calls, and is called back at once.
    pub redial_max: Duration,
    /// How long connecting may take. Default 2 s.
    pub connect_timeout: Duration,
    /// How long an accepted connection may take to say whose it is. Default 2 s.
    pub hello_timeout: Duration,
    /// How long the peer may take nothing of what is written before the connection is given up. Default 5 s.
    pub write_timeout: Duration,
}

impl Default for LinksConfig {
    fn default() -> Self {
        Self {
            queue_max: 4_096,
            connections_max: 128,
            arrivals_max: 256,
            redial_min: Duration::from_millis(20),
            redial_max: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(2),
            hello_timeout: Duration::from_secs(2),
            write_timeout: Duration::from_secs(5),
        }
    }
}

/// What was counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LinksStats {
    /// Connections that were made to peers.
    pub connected: u64,
    /// Attempts to connect that failed.
    pub connects_failed: u64,
    /// Connections that were accepted and said that they are a peer's.
    pub accepted: u64,
    /// Connections that were closed because there were too many, or because of what they began with.
    pub refused: u64,
    /// Connections of peers that were closed because of a message that is too long or none at all.
    pub malformed: u64,
    /// Messages that were written.
    pub messages_sent: u64,
    /// Calls that wrote them.
    pub writes: u64,
    /// Messages that were dropped because the peer is unknown, unreachable or too slow.
    pub messages_dropped: u64,
    /// Messages that arrived.
    pub messages_received: u64,
}

/// Messages that came from a peer together.
#[derive(Debug)]
pub struct Arrival {
    /// The peer, as its hello says, and as the [`Transport`] has made sure of, if it does.
    pub from: RaftId,
    /// In the order in which they were sent.
    pub messages: Vec<Message>,
}

/// All connections of one member. Dropping it closes them.
#[derive(Debug)]
pub struct Links<T> {
    shared: Arc<Shared<T>>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
pub(super) struct Shared<T> {
    pub(super) config: LinksConfig,
    pub(super) transport: T,
    pub(super) group: u64,
    pub(super) id: RaftId,
    /// The longest message that is taken.
    pub(super) message_bytes_max: usize,
    pub(super) arrivals: mpsc::Sender<Arrival>,
    pub(super) counters: Counters,
    seed: Seed,
    peers: Mutex<BTreeMap<RaftId, Peer>>,
}

#[derive(Debug)]
struct Peer {
    address: SocketAddr,
    queue: mpsc::Sender<Message>,
    /// Ends a pause before the next attempt to connect.
    wake: Arc<Notify>,
    dialling: AbortHandle,
    /// Dropped when the peer makes another connection: that ends the one before.
    incoming: Option<oneshot::Sender<()>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.dialling.abort();
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connected: AtomicU64,
    pub(super) connects_failed: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) messages_sent: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) messages_dropped: AtomicU64,
    pub(super) messages_received: AtomicU64,
}

impl<T: Transport> Links<T> {
    /// Takes connections on `listener`, for the member that `raft` describes; peers follow with
    /// [`set_peer`](Self::set_peer). What arrives comes out of the channel. To be called within a tokio runtime.
    pub fn start(
        config: LinksConfig,
        raft: &Config,
        seed: Seed,
        listener: TcpListener,
        transport: T,
    ) -> (Self, mpsc::Receiver<Arrival>) {
        let (arrivals, received) = mpsc::channel(config.arrivals_max.max(1));
        let shared = Arc::new(Shared {
            transport,
            group: raft.group,
            id: raft.id,
            message_bytes_max: message_bytes_max(raft),
            arrivals,
            counters: Counters::default(),
            seed,
            peers: Mutex::default(),
            config,
        });
        let accepting = tokio::spawn(accept::run(Arc::clone(&shared), listener));
        (Self { shared, accepting }, received)
    }

    /// Says where a peer listens, and connects to it. Another address than before takes the place of that one.
    pub fn set_peer(&self, id: RaftId, address: SocketAddr) {
        let mut peers = self.shared.peers();
        if id == self.shared.id || peers.get(&id).is_some_and(|peer| peer.address == address) {
            return;
        }
        let (queue, queued) = mpsc::channel(self.shared.config.queue_max.max(1));
        let wake = Arc::new(Notify::new());
        let dialler = dial::Dialler {
            to: id,
            address,
            queue: queued,
            wake: Arc::clone(&wake),
            rng: self.shared.seed.derive(&format!("dial {id}")).rng(),
        };
        let dialling = tokio::spawn(dialler.run(Arc::clone(&self.shared))).abort_handle();
        let peer = Peer {
            address,
            queue,
            wake,
            dialling,
            incoming: None,
        };
        peers.insert(id, peer);
    }

    /// Forgets a peer and closes its connections.
    pub fn remove_peer(&self, id: RaftId) {
        self.shared.peers().remove(&id);
    }

    /// Returns the peers, and where they listen.
    pub fn peers(&self) -> BTreeMap<RaftId, SocketAddr> {
        let peers = self.shared.peers();
        peers.iter().map(|(id, peer)| (*id, peer.address)).collect()
    }

    /// Sends a message, or drops it and counts that: to a peer that is unknown, or behind which too much waits.
    pub fn send(&self, to: RaftId, message: Message) {
        let peers = self.shared.peers();
        let sent = peers
            .get(&to)
            .is_some_and(|peer| peer.queue.try_send(message).is_ok());
        if !sent {
            add(&self.shared.counters.messages_dropped, 1);
        }
    }

    /// Closes all connections, and returns when the address may be listened on again.
    pub async fn close(mut self) {
        self.accepting.abort();
        // It was aborted: there is no other outcome.
        let _ = (&mut self.accepting).await;
    }

    /// Returns the counters.
    pub fn stats(&self) -> LinksStats {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinksStats {
            connected: read(&counters.connected),
            connects_failed: read(&counters.connects_failed),
            accepted: read(&counters.accepted),
            refused: read(&counters.refused),
            malformed: read(&counters.malformed),
            messages_sent: read(&counters.messages_sent),
            writes: read(&counters.writes),
            messages_dropped: read(&counters.messages_dropped),
            messages_received: read(&counters.messages_received),
        }
    }
}

impl<T> Drop for Links<T> {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.peers().clear();
    }
}

impl<T> Shared<T> {
    /// Notes that `from` made a connection; returns what ends when it makes another one. `None` for a stranger.
    pub(super) fn admit(&self, from: RaftId) -> Option<oneshot::Receiver<()>> {
        let mut peers = self.peers();
        let peer = peers.get_mut(&from)?;
        let (replaced, ends) = oneshot::channel();
        peer.incoming = Some(replaced);
        // It is up: no need to wait with the connection in the other direction.
        peer.wake.notify_one();
        Some(ends)
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<RaftId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn add(counter: &AtomicU64, count: usize) {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Returns how long a message may be that a member with these settings sends.
///
/// Entries are weighed with what they take beside their content, but for memberships, of which an append may carry several:
/// these take less than three times their weight.
fn message_bytes_max(config: &Config) -> usize {
    let entries = usize::try_from(config.append_bytes_max).unwrap_or(usize::MAX);
    let appended = entries.saturating_mul(3).max(config.command_bytes_max);
    let membership = config.members_max.saturating_mul(MEMBER_BYTES_MAX);
    appended
        .max(config.snapshot_chunk_bytes_max)
        .saturating_add(membership)
        .saturating_add(REST_BYTES_MAX)
}

/// A member, at most: an incoming and an outgoing voter, each with two long numbers.
const MEMBER_BYTES_MAX: usize = 40;

/// Header, envelope and the numbers of any message, with room to spare.
const REST_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        Entry, Incarnation, Index, Membership, Payload, Term,
        snapshot::Chunk,
        wire::{Append, Body, Envelope},
    };

    const BIG: u64 = u64::MAX >> 2;

    #[test]
    fn the_longest_messages_are_taken() {
        let mut config = Config::new(id(1), u64::MAX);
        (config.append_bytes_max, config.command_bytes_max) = (2_000, 10_000);
        (config.snapshot_chunk_bytes_max, config.members_max) = (5_000, 9);
        let command = Payload::Command(Bytes::from(vec![7; config.command_bytes_max]));
        assert_taken(&config, append(vec![command]));
        let joint = Payload::Membership(joint(9));
        // Each weighs 64 octets and 16 for each member.
        assert_taken(&config, append(vec![joint; 2_000 / (64 + 9 * 16)]));
        let chunk = Chunk {
            index: Index::new(BIG),
            term: Term::new(BIG),
            membership: self::joint(9),
            total_bytes: u64::MAX,
            offset: u64::MAX,
            data: Bytes::from(vec![7; config.snapshot_chunk_bytes_max]),
        };
        assert_taken(&config, Body::Chunk(Box::new(chunk)));
    }

    fn assert_taken(config: &Config, body: Body) {
        let envelope = Envelope {
            group: u64::MAX,
            to: id(u64::MAX),
            term: Term::new(BIG),
            incarnation: Incarnation::new(u64::MAX),
            means: Some(Incarnation::new(u64::MAX)),
        };
        let length = Message { envelope, body }.encode().len();
        let max = message_bytes_max(config);
        assert!(length <= max, "{length} octets, {max} are taken");
    }

    fn append(payloads: Vec<Payload>) -> Body {
        let entry = |payload| Entry {
            index: Index::new(BIG),
            term: Term::new(BIG),
            payload,
        };
        Body::Append(Append {
            previous: Index::new(BIG),
            previous_term: Term::new(BIG),
            entries: payloads.into_iter().map(entry).collect(),
            commit: Index::new(BIG),
        })
    }

    fn joint(members: u64) -> Membership {
        let voters: Vec<_> = (0..members)
            .map(|number| (id(u64::MAX - members + number), Incarnation::new(u64::MAX)))
            .collect();
        Membership::from_parts(voters.clone(), voters, Vec::new())
    }

    fn id(number: u64) -> RaftId {
        RaftId::new(number).unwrap()
    }
}
