//! One member: it answers clients.

use std::{collections::BTreeMap, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use overlay_raft::{
    Change, Config, ProposeError, RaftId, ReadMode,
    driver::{Member, MembershipError, Options, ProposalError, QueryError, Start},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::{mpsc, watch},
};

use crate::{
    protocol::{Answer, Answered, Asked, Freshness, Request, Status},
    state::{Command, Outcome, Places, Store, Write},
};

/// What a member is started with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) id: RaftId,
    pub(crate) peers: BTreeMap<RaftId, SocketAddr>,
    pub(crate) clients: SocketAddr,
    pub(crate) data: PathBuf,
    pub(crate) start: Start,
    pub(crate) group: u64,
    pub(crate) timers: Option<(Duration, Duration)>,
    pub(crate) clock_drift_ppm_max: Option<u32>,
    pub(crate) compact_entries: Option<u64>,
}

/// Runs until a signal comes or the member ends.
pub(crate) async fn serve(settings: Settings) -> anyhow::Result<()> {
    let listener = TcpListener::bind(settings.clients).await;
    let listener = listener.with_context(|| format!("listen on {}", settings.clients))?;
    let clients = listener.local_addr()?.to_string();
    let (places, found) = watch::channel(Places::default());
    let member = Member::start_in(options(&settings), &settings.data, Store::new(places)).await?;
    println!("member {} takes clients at {clients}", settings.id);
    tokio::spawn(follow_places(member.clone(), found));
    tokio::spawn(announce(member.clone(), clients));
    let accepting = tokio::spawn(accept(listener, member.clone()));
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let why = tokio::select! {
        why = member.ended() => Some(why),
        _ = terminated.recv() => None,
        _ = tokio::signal::ctrl_c() => None,
    };
    accepting.abort();
    match why {
        Some(why) => Err(why.into()),
        None => {
            member.shutdown().await;
            Ok(())
        }
    }
}

fn options(settings: &Settings) -> Options {
    let mut config = Config::new(settings.id, settings.group);
    if let Some((election, heartbeat)) = settings.timers {
        (config.election_timeout, config.heartbeat_interval) = (election, heartbeat);
    }
    config.clock_drift_ppm_max = settings.clock_drift_ppm_max;
    let mut options = Options::new(settings.start, config, settings.peers.clone());
    if let Some(entries) = settings.compact_entries {
        options.compact_entries = entries;
    }
    options
}

/// Tells the member where others listen, as soon as the state says so.
async fn follow_places(member: Member<Store>, mut places: watch::Receiver<Places>) {
    while places.changed().await.is_ok() {
        let peers = places.borrow_and_update().peers.clone();
        for (id, address) in peers {
            if let (Some(id), Ok(address)) = (RaftId::new(id), address.parse()) {
                member.set_peer(id, address).await;
            }
        }
    }
}

/// Writes into the state where this member takes clients, whenever it begins to lead: followers send clients there.
async fn announce(member: Member<Store>, clients: String) {
    let mut led = member.leadings();
    let ended = member.ended();
    let id = member.id();
    let announcing = async {
        loop {
            let leads = led.borrow_and_update().leader == Some(id);
            let known = member.look(move |store| store.clients(id.get())).await;
            if leads && known.is_ok_and(|known| known.as_ref() != Some(&clients)) {
                let address = clients.clone();
                let id = id.get();
                // If it fails, another member leads.
                let _ = propose(&member, &Command::Clients { id, address }).await;
            }
            if led.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = announcing => {}
        _ = ended => {}
    }
}

async fn accept(listener: TcpListener, member: Member<Store>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(talk(stream, member.clone()))),
            // Out of descriptors, most likely.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Answers one client until it goes.
async fn talk(stream: TcpStream, member: Member<Store>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let (answers, answered) = mpsc::channel(PIPELINED_MAX);
    let writing = tokio::spawn(write_answers(writer, answered));
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    let busy = Arc::new(tokio::sync::Semaphore::new(PIPELINED_MAX));
    loop {
        line.clear();
        let mut limited = (&mut reader).take(LINE_BYTES_MAX);
        if limited.read_until(b'\n', &mut line).await? == 0 || line.last() != Some(&b'\n') {
            break;
        }
        let Ok(asked) = serde_json::from_slice::<Asked>(&line) else {
            break;
        };
        let Ok(permit) = Arc::clone(&busy).acquire_owned().await else {
            break;
        };
        let (member, answers) = (member.clone(), answers.clone());
        tokio::spawn(async move {
            let answer = answer(&member, asked.request).await;
            let id = asked.id;
            // The client may have gone.
            let _ = answers.send(Answered { id, answer }).await;
            drop(permit);
        });
    }
    drop(answers);
    writing.await?
}

/// Writes what is ready in one go.
async fn write_answers(
    mut writer: OwnedWriteHalf,
    mut answered: mpsc::Receiver<Answered>,
) -> io::Result<()> {
    let (mut ready, mut bytes) = (Vec::new(), Vec::new());
    while answered.recv_many(&mut ready, PIPELINED_MAX).await > 0 {
        for answer in ready.drain(..) {
            serde_json::to_writer(&mut bytes, &answer)?;
            bytes.push(b'\n');
        }
        writer.write_all(&bytes).await?;
        bytes.clear();
    }
    Ok(())
}

async fn answer(member: &Member<Store>, request: Request) -> Answer {
    match request {
        Request::Open => write(member, &Command::Open).await,
        Request::Put {
            session,
            number,
            key,
            value,
        } => write_in(member, session, number, Write::Put { key, value }).await,
        Request::Delete {
            session,
            number,
            key,
        } => write_in(member, session, number, Write::Delete { key }).await,
        Request::Cas {
            session,
            number,
            key,
            old,
            new,
        } => write_in(member, session, number, Write::Cas { key, old, new }).await,
        Request::Get { key, freshness } => get(member, key, freshness).await,
        Request::Status => status(member).await,
        Request::AddLearner { id, address } => add_learner(member, id, address).await,
        Request::Promote { id } => change(member, id, Change::Promote).await,
        Request::Remove { id } => change(member, id, Change::Remove).await,
        Request::Transfer { to } => transfer(member, to).await,
    }
}

async fn write_in(member: &Member<Store>, session: u64, number: u64, write_: Write) -> Answer {
    let command = Command::Write {
        session,
        number,
        write: write_,
    };
    write(member, &command).await
}

async fn write(member: &Member<Store>, command: &Command) -> Answer {
    match propose(member, command).await {
        Ok(Outcome::Done) => Answer::Done,
        Ok(Outcome::Opened { session }) => Answer::Opened { session },
        Ok(Outcome::Differs { found }) => Answer::Differs { found },
        Ok(Outcome::NoSession) => Answer::NoSession,
        Ok(outcome @ (Outcome::Outdated | Outcome::Malformed)) => refused(format!("{outcome:?}")),
        Err(ProposalError::Refused(error)) => not_taken(member, &error).await,
        Err(error) => again(error),
    }
}

async fn propose(member: &Member<Store>, command: &Command) -> Result<Outcome, ProposalError> {
    let bytes = postcard::to_allocvec(command).expect("a command in memory fits into memory");
    let applied = member.propose(Bytes::from(bytes)).await?;
    Ok(applied.answer)
}

async fn not_taken(member: &Member<Store>, error: &ProposeError) -> Answer {
    match error {
        ProposeError::NotLeader { leader } => not_leader(member, *leader).await,
        ProposeError::TooLarge { .. } => refused(error),
        _ => again(error),
    }
}

async fn not_leader(member: &Member<Store>, leader: Option<RaftId>) -> Answer {
    let leader = leader.map(RaftId::get);
    let at = match leader {
        Some(id) => member.look(move |store| store.clients(id)).await,
        None => Ok(None),
    };
    let at = at.unwrap_or_default();
    Answer::NotLeader { leader, at }
}

async fn get(member: &Member<Store>, key: String, freshness: Freshness) -> Answer {
    let look = move |store: &Store| store.get(&key);
    let value = match freshness {
        Freshness::Linearizable => member.query(ReadMode::Quorum, look).await,
        Freshness::Lease => member.query(ReadMode::Lease, look).await,
        Freshness::Stale => member.look(look).await,
    };
    match value {
        Ok(value) => Answer::Value { value },
        Err(QueryError::Refused(error @ overlay_raft::ReadError::NoLease)) => refused(error),
        Err(error) => again(error),
    }
}

async fn add_learner(member: &Member<Store>, id: u64, address: String) -> Answer {
    if address.parse::<SocketAddr>().is_err() {
        return refused(format!("{address} is no address and port"));
    }
    match write(member, &Command::Peer { id, address }).await {
        Answer::Done => change(member, id, Change::AddLearner).await,
        other => other,
    }
}

async fn change(member: &Member<Store>, id: u64, what: fn(RaftId) -> Change) -> Answer {
    let Some(id) = RaftId::new(id) else {
        return refused("members are numbered from 1");
    };
    match member.change(vec![what(id)]).await {
        Ok(_) => Answer::Done,
        Err(MembershipError::Refused(error)) => match error {
            overlay_raft::ChangeError::Propose(error) => not_taken(member, &error).await,
            overlay_raft::ChangeError::NotReady { .. } => again(error),
            error => refused(error),
        },
        Err(error) => again(error),
    }
}

async fn transfer(member: &Member<Store>, to: u64) -> Answer {
    let Some(to) = RaftId::new(to) else {
        return refused("members are numbered from 1");
    };
    match member.transfer(to).await {
        Ok(()) => Answer::Done,
        Err(overlay_raft::driver::HandOverError::Refused(
            overlay_raft::TransferError::NotLeader { leader },
        )) => not_leader(member, leader).await,
        Err(error) => refused(error),
    }
}

async fn status(member: &Member<Store>) -> Answer {
    let keys = member.look(Store::len).await.unwrap_or_default();
    let Some(status) = member.status().await else {
        return again("the member ended");
    };
    Answer::Status(Box::new(Status {
        id: status.id.get(),
        role: format!("{:?}", status.role).to_lowercase(),
        leader: status.leader.map(RaftId::get),
        term: status.term.get(),
        commit: status.commit.get(),
        applied: status.applied.get(),
        snapshot: status.snapshot_index.get(),
        keys,
        voters: status.membership.voters().map(RaftId::get).collect(),
        learners: status.membership.learners().map(RaftId::get).collect(),
        followers: status
            .followers
            .iter()
            .map(|follower| (follower.id.get(), follower.matched.get()))
            .collect(),
        writes: status.stats.writes,
        messages_sent: status.links.messages_sent,
        socket_writes: status.links.writes,
        messages_dropped: status.links.messages_dropped,
    }))
}

fn again(why: impl ToString) -> Answer {
    let why = why.to_string();
    Answer::Again { why }
}

fn refused(why: impl ToString) -> Answer {
    let why = why.to_string();
    Answer::Refused { why }
}

/// So many requests of one client are worked on at the same time.
const PIPELINED_MAX: usize = 1_024;

/// A line, at most: two values of the longest that a command may hold.
const LINE_BYTES_MAX: u64 = 4 << 20;
