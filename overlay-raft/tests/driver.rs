//! Members with sockets and files, on loopback. Nothing here depends on how fast the machine is.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use overlay_core::{Disk, DiskError, Instant, Machine as _, Seed};
use overlay_raft::{
    Change, Config, Index, MessageError, Output, ProposeError, Raft, RaftId, ReadMode, Restored,
    Role,
    driver::{
        Accepted, Application, Ended, FileDisk, Member, Options, ProposalError, QueryError, Start,
        StartError, Tcp, Transport,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

#[tokio::test(flavor = "multi_thread")]
async fn three_elect_and_commit_and_one_comes_back_from_its_disk() {
    let mut cluster = Cluster::new("three", 3).await;
    let first: Vec<_> = (0..20).collect();
    for number in &first {
        cluster.write(*number).await;
    }
    let leader = cluster.leader().await;
    let gone = cluster.follower(leader).await;
    cluster.stop(gone).await;
    for number in 20..40 {
        cluster.write(number).await;
    }
    cluster.start(gone).await;
    let member = cluster.member(gone);
    let all: Vec<u64> = (0..40).collect();
    let read = cluster.read(member).await;
    assert_eq!(read, all, "a linearizable read of one that was away");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_shuts_down_hands_over_and_what_it_acknowledged_stays() {
    let mut cluster = Cluster::new("hand-over", 3).await;
    cluster.write(1).await;
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    cluster.write(2).await;
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    assert_eq!(cluster.read(cluster.member(next)).await, [1, 2]);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_refuses_and_says_who_leads() {
    let cluster = Cluster::new("follower", 3).await;
    cluster.write(1).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower(leader).await;
    until("it names the leader", async || {
        let refused = cluster.member(follower).propose(command(2)).await.err()?;
        let named = |leader: Option<RaftId>| leader.is_some_and(|leader| leader != follower);
        let ProposalError::Refused(ProposeError::NotLeader { leader }) = refused else {
            return None;
        };
        named(leader).then_some(())
    })
    .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_changes_nothing() {
    let cluster = Cluster::new("stranger", 3).await;
    cluster.write(1).await;
    let leader = cluster.leader().await;
    let before = cluster.member(leader).status().await.unwrap();
    let address = cluster.addresses[&leader];
    let peer = cluster.follower(leader).await;
    let hello = hello(GROUP, peer, leader);
    let mut of_another_group = hello.clone();
    of_another_group[8] ^= 1;
    let mut for_another = hello.clone();
    for_another[24] = 99;
    let mut from_nobody = hello.clone();
    from_nobody[16] = 99;
    let garbage = vec![0xa5; 1_000];
    for bytes in [of_another_group, for_another, from_nobody, garbage] {
        assert_closed(address, &bytes).await;
    }
    cluster.write(2).await;
    let after = cluster.member(leader).status().await.unwrap();
    assert_eq!(after.links.refused, before.links.refused + 4);
    assert_eq!(after.links.malformed, 0);
    assert_eq!(cluster.read(cluster.member(leader)).await, [1, 2]);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_long_or_none_closes_the_connection() {
    let cluster = Cluster::new("long", 3).await;
    cluster.write(1).await;
    let leader = cluster.leader().await;
    let peer = cluster.follower(leader).await;
    let hello = hello(GROUP, peer, leader);
    // A kind, a version, and a length that no message has.
    let too_long = [vec![4, 2], u32::MAX.to_le_bytes().to_vec()].concat();
    let unknown_kind = vec![200, 2, 0, 0, 0, 0];
    for bytes in [too_long, unknown_kind] {
        let bytes = [hello.clone(), bytes].concat();
        assert_closed(cluster.addresses[&leader], &bytes).await;
    }
    until("both are counted", async || {
        let status = cluster.member(leader).status().await.unwrap();
        (status.links.malformed == 2).then_some(())
    })
    .await;
    cluster.write(2).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_comes_back_is_connected_to_again() {
    let mut cluster = Cluster::new("back-off", 2).await;
    cluster.write(1).await;
    let leader = cluster.leader().await;
    let peer = cluster.follower(leader).await;
    cluster.stop(peer).await;
    let failed = until("connecting fails several times", async || {
        let status = cluster.member(leader).status().await.unwrap();
        (status.links.connects_failed >= 3).then_some(status.links)
    })
    .await;
    cluster.start(peer).await;
    cluster.write(2).await;
    let status = cluster.member(leader).status().await.unwrap();
    assert!(status.links.connected > failed.connected);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_gets_the_snapshot_and_votes_once_it_is_promoted() {
    let mut cluster = Cluster::new("newcomer", 1).await;
    for number in 0..50 {
        cluster.write(number).await;
    }
    let leader = cluster.leader().await;
    let newcomer = cluster.add().await;
    cluster.start_as(newcomer, Start::Join).await;
    let member = cluster.member(leader);
    member
        .set_peer(newcomer, cluster.addresses[&newcomer])
        .await;
    let status = member.status().await.unwrap();
    assert!(status.snapshot_index > Index::ZERO, "{status:?}");
    member
        .change(vec![Change::AddLearner(newcomer)])
        .await
        .unwrap();
    until("the newcomer is promoted", async || {
        member.change(vec![Change::Promote(newcomer)]).await.ok()
    })
    .await;
    let all: Vec<u64> = (0..50).collect();
    assert_eq!(cluster.read(cluster.member(newcomer)).await, all);
    until("the newcomer leads", async || {
        // Refused once it does.
        let _ = member.transfer(newcomer).await;
        (cluster.leader().await == newcomer).then_some(())
    })
    .await;
    cluster.write(50).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_ends_the_member() {
    let directory = directory("failing");
    let fails = Arc::new(AtomicBool::new(false));
    let disk = Failing {
        disk: FileDisk::open_exclusive(&directory).unwrap(),
        fails: Arc::clone(&fails),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peers = BTreeMap::from([(id(1), listener.local_addr().unwrap())]);
    let options = Options::new(Start::Found, Config::new(id(1), GROUP), peers);
    let member = Member::start_with(options, listener, Tcp, disk, Journal::default()).unwrap();
    member.leader_known().await.unwrap();
    member.propose(command(1)).await.unwrap();
    fails.store(true, Ordering::SeqCst);
    let unknown = member.propose(command(2)).await;
    assert_eq!(unknown, Err(ProposalError::Unknown));
    assert!(matches!(member.ended().await, Ended::Disk(_)));
    let ended = member.propose(command(3)).await;
    assert_eq!(ended, Err(ProposalError::Ended));
    let read = member.read(ReadMode::Quorum).await;
    assert_eq!(read, Err(QueryError::Ended));
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_has_one_member_at_a_time() {
    let cluster = Cluster::new("lock", 1).await;
    let options = cluster.options(id(1), Start::Found);
    let second = Member::start_in(options, &cluster.path(id(1)), Journal::default()).await;
    let Err(StartError::InUse { directory }) = second else {
        panic!("{second:?}");
    };
    assert_eq!(directory, cluster.path(id(1)));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_directory_is_one_that_was_lost_unless_it_is_said_what_it_means() {
    let mut cluster = Cluster::new("empty", 1).await;
    cluster.write(1).await;
    cluster.stop(id(1)).await;
    let options = cluster.options(id(1), Start::Resume);
    let lost = directory("lost");
    let refused = Member::start_in(options.clone(), &lost, Journal::default()).await;
    assert!(
        matches!(refused, Err(StartError::Empty { .. })),
        "{refused:?}"
    );
    // Refused, it leaves the directory to the next one, at once.
    let other = cluster.options(id(2), Start::Resume);
    let mut peers = options.peers.clone();
    peers.insert(id(2), SocketAddr::from(([127, 0, 0, 1], 0)));
    let other = Options { peers, ..other };
    for _ in 0..20 {
        let refused =
            Member::start_in(other.clone(), &cluster.path(id(1)), Journal::default()).await;
        assert!(
            matches!(refused, Err(StartError::Restore(_))),
            "{refused:?}"
        );
    }
    let member = Member::start_in(options, &cluster.path(id(1)), Journal::default()).await;
    let member = member.unwrap();
    until("it reads", async || {
        member.read(ReadMode::Quorum).await.ok()
    })
    .await;
    member.shutdown().await;
    std::fs::remove_dir_all(lost).unwrap();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_two_steps_is_over_when_the_next_one_is_taken() {
    let mut cluster = Cluster::new("steps", 1).await;
    let leader = cluster.leader().await;
    let newcomers = [cluster.add().await, cluster.add().await];
    for newcomer in newcomers {
        cluster.start_as(newcomer, Start::Join).await;
    }
    for newcomer in newcomers {
        for member in cluster.members.values() {
            member
                .set_peer(newcomer, cluster.addresses[&newcomer])
                .await;
        }
        let member = cluster.member(leader);
        member
            .change(vec![Change::AddLearner(newcomer)])
            .await
            .unwrap();
    }
    let member = cluster.member(leader);
    let promotions = newcomers.map(Change::Promote).to_vec();
    until("both are promoted", async || {
        member.change(promotions.clone()).await.ok()
    })
    .await;
    let demotions = newcomers.map(Change::Demote).to_vec();
    member.change(demotions).await.unwrap();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_shown_with_its_reason() {
    let cluster = Cluster::new("refused", 3).await;
    cluster.write(1).await;
    let leader = cluster.leader().await;
    let peer = cluster.follower(leader).await;
    let member = cluster.member(leader);
    assert_eq!(member.status().await.unwrap().refused, None);
    // A member of another cluster behind the hello of one of this.
    let founders = Restored::bootstrap([peer, leader]);
    let config = Config::new(peer, GROUP + 1);
    let mut stranger = Raft::new(config, Seed::from_u64(1), Instant::EPOCH, founders).unwrap();
    let mut bytes = hello(GROUP, peer, leader);
    while bytes.len() == hello(GROUP, peer, leader).len() {
        let due = stranger.poll_timeout().unwrap();
        stranger.handle_timeout(due);
        while let Some(output) = stranger.poll_output() {
            match output {
                Output::Persist(batch) => stranger.handle_persisted(due, batch.into_parts().1),
                Output::Send { message, .. } => bytes.extend_from_slice(&message.encode()),
                _ => {}
            }
        }
    }
    let mut connection = TcpStream::connect(cluster.addresses[&leader])
        .await
        .unwrap();
    connection.write_all(&bytes).await.unwrap();
    let (from, error) = until("it is refused", async || {
        member.status().await.unwrap().refused
    })
    .await;
    assert_eq!(from, peer);
    assert!(matches!(error, MessageError::WrongGroup { .. }), "{error}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_proved_to_be_another_is_refused() {
    let directory = directory("proven");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let others = (2..=3).map(|number| (id(number), nobody.local_addr().unwrap()));
    let peers = others.chain([(id(1), address)]).collect();
    let options = Options::new(Start::Found, Config::new(id(1), GROUP), peers);
    let disk = FileDisk::open_exclusive(&directory).unwrap();
    let transport = Proving(id(2));
    let journal = Journal::default();
    let member = Member::start_with(options, listener, transport, disk, journal).unwrap();
    assert_closed(address, &hello(GROUP, id(3), id(1))).await;
    let mut proven = TcpStream::connect(address).await.unwrap();
    proven.write_all(&hello(GROUP, id(2), id(1))).await.unwrap();
    until("the right one is taken", async || {
        let links = member.status().await.unwrap().links;
        (links.accepted == 1 && links.refused == 1).then_some(())
    })
    .await;
    member.shutdown().await;
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_future_that_is_dropped_leaves_nothing_behind() {
    let cluster = Cluster::new("dropped", 3).await;
    cluster.write(1).await;
    let leader = cluster.leader().await;
    let member = cluster.member(leader);
    for number in 100..110 {
        // Polled once, or twice, and dropped.
        let _ = timeout(Duration::ZERO, member.propose(command(number))).await;
        let _ = timeout(Duration::ZERO, member.read(ReadMode::Quorum)).await;
    }
    cluster.write(2).await;
    let read = cluster.read(member).await;
    assert_eq!((read.first(), read.last()), (Some(&1), Some(&2)));
    cluster.end().await;
}

/// Members of a cluster, each with its address and its directory.
struct Cluster {
    name: &'static str,
    addresses: BTreeMap<RaftId, SocketAddr>,
    listeners: BTreeMap<RaftId, TcpListener>,
    members: BTreeMap<RaftId, Member<Journal>>,
    /// Those that the cluster was founded with.
    founders: usize,
}

impl Cluster {
    async fn new(name: &'static str, count: u64) -> Self {
        let mut cluster = Self {
            name,
            addresses: BTreeMap::new(),
            listeners: BTreeMap::new(),
            members: BTreeMap::new(),
            founders: usize::try_from(count).unwrap(),
        };
        for _ in 0..count {
            cluster.add().await;
        }
        for number in 1..=count {
            cluster.start(id(number)).await;
        }
        cluster
    }

    /// Makes room for one more.
    async fn add(&mut self) -> RaftId {
        let next = id(self.addresses.len() as u64 + 1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.addresses.insert(next, listener.local_addr().unwrap());
        self.listeners.insert(next, listener);
        next
    }

    async fn start(&mut self, id: RaftId) {
        self.start_as(id, Start::Found).await;
    }

    async fn start_as(&mut self, id: RaftId, start: Start) {
        let address = self.addresses[&id];
        let listener = match self.listeners.remove(&id) {
            Some(listener) => listener,
            None => {
                until("the address is free", async || {
                    TcpListener::bind(address).await.ok()
                })
                .await
            }
        };
        let options = self.options(id, start);
        let disk = FileDisk::open_exclusive(&self.path(id)).unwrap();
        let member = Member::start_with(options, listener, Tcp, disk, Journal::default());
        self.members.insert(id, member.unwrap());
    }

    fn options(&self, id: RaftId, start: Start) -> Options {
        let peers = match start {
            Start::Join | Start::Resume => self.addresses.clone(),
            Start::Found => {
                let founders = self.addresses.iter().take(self.founders);
                founders.map(|(id, address)| (*id, *address)).collect()
            }
        };
        let mut config = Config::new(id, GROUP);
        config.trailing_entries_max = 2;
        let mut options = Options::new(start, config, peers);
        options.compact_entries = 10;
        options
    }

    async fn stop(&mut self, id: RaftId) {
        let member = self.members.remove(&id).unwrap();
        member.shutdown().await;
    }

    fn member(&self, id: RaftId) -> &Member<Journal> {
        &self.members[&id]
    }

    async fn leader(&self) -> RaftId {
        until("somebody leads", async || {
            for (id, member) in &self.members {
                let status = member.status().await?;
                if status.role == Role::Leader {
                    return Some(*id);
                }
            }
            None
        })
        .await
    }

    async fn follower(&self, leader: RaftId) -> RaftId {
        let follower = *self.members.keys().find(|id| **id != leader).unwrap();
        until("it follows", async || {
            let leading = self.member(follower).leading();
            (leading.leader == Some(leader)).then_some(())
        })
        .await;
        follower
    }

    /// Writes a number once: what is refused or lost is tried again.
    async fn write(&self, number: u64) {
        until("a write is acknowledged", async || {
            for member in self.members.values() {
                match member.propose(command(number)).await {
                    Ok(_) => return Some(()),
                    Err(ProposalError::Refused(_) | ProposalError::Lost) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            None
        })
        .await;
    }

    async fn read(&self, member: &Member<Journal>) -> Vec<u64> {
        until("a read is answered", async || {
            let read = member.query(ReadMode::Quorum, |journal| journal.0.clone());
            read.await.ok()
        })
        .await
    }

    fn path(&self, id: RaftId) -> PathBuf {
        directory(&format!("{}-{id}", self.name))
    }

    async fn end(self) {
        for member in self.members.values() {
            member.shutdown().await;
        }
        for id in self.addresses.keys() {
            // One that never started has none.
            let _ = std::fs::remove_dir_all(self.path(*id));
        }
    }
}

/// Numbers, in the order in which they were committed.
#[derive(Debug, Default)]
struct Journal(Vec<u64>);

impl Application for Journal {
    type Answer = usize;

    fn apply(&mut self, _index: Index, command: &Bytes) -> usize {
        self.0.push(number(command));
        self.0.len()
    }

    fn snapshot(&self) -> Bytes {
        self.0.iter().flat_map(|one| one.to_le_bytes()).collect()
    }

    fn restore(&mut self, snapshot: &Bytes) {
        self.0 = snapshot.chunks(8).map(number).collect();
    }
}

/// A transport by which everybody proves to be the same.
struct Proving(RaftId);

impl Transport for Proving {
    type Stream = TcpStream;

    async fn connect(&self, to: RaftId, address: SocketAddr) -> io::Result<TcpStream> {
        Tcp.connect(to, address).await
    }

    async fn accept(
        &self,
        stream: TcpStream,
        _address: SocketAddr,
    ) -> io::Result<Accepted<TcpStream>> {
        let proven = Some(self.0);
        Ok(Accepted { stream, proven })
    }
}

/// A disk that can be told to fail.
struct Failing {
    disk: FileDisk,
    fails: Arc<AtomicBool>,
}

impl Disk for Failing {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.disk.list()
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, DiskError> {
        self.disk.read(name)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.disk.append(name, bytes)
    }

    fn truncate(&mut self, name: &str, length_bytes: u64) -> Result<(), DiskError> {
        self.disk.truncate(name, length_bytes)
    }

    fn sync(&mut self, name: &str) -> Result<(), DiskError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(DiskError::Failed {
                operation: "sync",
                name: name.to_owned(),
                kind: io::ErrorKind::Other,
            });
        }
        self.disk.sync(name)
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.disk.remove(name)
    }

    fn sync_directory(&mut self) -> Result<(), DiskError> {
        self.disk.sync_directory()
    }
}

/// Sends octets as somebody might, and waits until the connection is closed at the other end.
async fn assert_closed(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let end = timeout(PATIENCE, stream.read(&mut [0; 16])).await;
    let end = end.expect("it is closed in time");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

/// What a connection begins with, written down once more.
fn hello(group: u64, from: RaftId, to: RaftId) -> Vec<u8> {
    let mut bytes = b"overlay\x01".to_vec();
    for number in [group, from.get(), to.get()] {
        bytes.extend(number.to_le_bytes());
    }
    bytes
}

/// Waits for something, generously.
async fn until<T>(what: &str, mut happens: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(happened) = happens().await {
                return happened;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    match timeout(PATIENCE, waiting).await {
        Ok(happened) => happened,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

fn directory(name: &str) -> PathBuf {
    let name = format!("overlay-raft-driver-{name}-{}", std::process::id());
    Path::new(&std::env::temp_dir()).join(name)
}

fn command(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

fn number(bytes: impl AsRef<[u8]>) -> u64 {
    u64::from_le_bytes(bytes.as_ref().try_into().unwrap())
}

fn id(number: u64) -> RaftId {
    RaftId::new(number).unwrap()
}

const GROUP: u64 = 7;

const PATIENCE: Duration = Duration::from_secs(120);
