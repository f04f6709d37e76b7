//! The handle to a member.

use std::{collections::BTreeMap, fmt, future::Future, io, net::SocketAddr, path::Path};

use bytes::Bytes;
use overlay_core::{Disk, Seed};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};

use super::{
    Application, Ended, FileDisk, HandOverError, Leading, Links, LogWriter, MembershipError,
    Options, ProposalError, QueryError, Start, StartError, Status, Tcp, Transport, clock,
    clock::Clock,
    run::{Inputs, Loop, Request},
};
use crate::{Change, Config, Index, Raft, RaftId, ReadMode, Restored};

/// A member that runs, with its sockets, its log and its application. Clones are handles to the same.
///
/// Every future that it hands out may be dropped at any time; what was asked may happen nevertheless. The member
/// ends when it is [shut down](Self::shutdown), when its disk fails, or with its last handle.
pub struct Member<A: Application> {
    requests: mpsc::Sender<Request<A>>,
    leading: watch::Receiver<Leading>,
    ended: watch::Receiver<Option<Ended>>,
    id: RaftId,
}

/// A command that was applied here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied<R> {
    /// Where it is in the log.
    pub index: Index,
    /// What the application said.
    pub answer: R,
}

impl<A: Application> Member<A> {
    /// Starts a member that has its log in `directory` and listens where `peers` say that it does. `start` says what an empty
    /// directory means; [`start_with`](Self::start_with) is for everything else.
    ///
    /// `application` is as new: what the log holds is restored and applied.
    ///
    /// # Errors
    ///
    /// [`StartError`] says what is not to be had.
    pub async fn start(
        start: Start,
        config: Config,
        peers: BTreeMap<RaftId, SocketAddr>,
        directory: &Path,
        application: A,
    ) -> Result<Self, StartError> {
        Self::start_in(Options::new(start, config, peers), directory, application).await
    }

    /// As [`start`](Self::start), with other settings.
    ///
    /// # Errors
    ///
    /// [`StartError`] says what is not to be had.
    pub async fn start_in(
        options: Options,
        directory: &Path,
        application: A,
    ) -> Result<Self, StartError> {
        let id = options.config.id;
        let address = options.peers.get(&id).copied();
        let address = address.ok_or(StartError::NoAddress { id })?;
        let disk = FileDisk::open_exclusive(directory).map_err(|source| {
            let directory = directory.to_owned();
            match source.kind() {
                io::ErrorKind::WouldBlock => StartError::InUse { directory },
                _ => StartError::Directory { directory, source },
            }
        })?;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| StartError::Listen { address, source })?;
        Self::start_with(options, listener, Tcp, disk, application)
    }

    /// Starts a member on sockets, a transport and a disk of the embedder's choice. To be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`StartError`] if the log cannot be read or is not this member's.
    pub fn start_with(
        options: Options,
        listener: TcpListener,
        transport: impl Transport,
        disk: impl Disk + Send + 'static,
        application: A,
    ) -> Result<Self, StartError> {
        let seed = clock::entropy().map_err(StartError::Entropy)?;
        let (tell, written) = mpsc::unbounded_channel();
        let (log, restored) =
            LogWriter::open(disk, options.storage, move |what| tell.send(what).is_ok())?;
        let clock = Clock::start();
        let raft = begin(&options, restored).and_then(|restored| {
            let config = options.config.clone();
            Ok(Raft::new(
                config,
                seed.derive("member"),
                clock.now(),
                restored,
            )?)
        });
        let raft = match raft {
            Ok(raft) => raft,
            Err(error) => {
                // The disk is free when this returns.
                log.close();
                return Err(error);
            }
        };
        let (links, arrivals) = start_links(&options, &seed, listener, transport);
        let (requests, asked) = mpsc::channel(options.requests_max.max(1));
        let (leading, led) = watch::channel(Leading::default());
        let (end, ended) = watch::channel(None);
        let id = options.config.id;
        let inputs = Inputs {
            written,
            arrivals,
            requests: asked,
        };
        let driver = Loop::new(raft, application, links, log, clock, &options, leading);
        tokio::spawn(async move {
            let why = driver.run(inputs).await;
            end.send_replace(Some(why));
        });
        Ok(Self {
            requests,
            leading: led,
            ended,
            id,
        })
    }

    /// Returns who this is.
    pub fn id(&self) -> RaftId {
        self.id
    }

    /// Replicates `command` and waits until it is applied here.
    ///
    /// It ends in one of three ways: done, never to be ([`Refused`](ProposalError::Refused), [`Lost`](ProposalError::Lost)), or
    /// [`Unknown`](ProposalError::Unknown). Whoever asks again after the last needs commands with an identity, or
    /// one may be applied twice. While a leader has lost its quorum, it waits.
    ///
    /// # Errors
    ///
    /// [`ProposalError`]. A member that does not lead refuses and says who does.
    pub async fn propose(&self, command: Bytes) -> Result<Applied<A::Answer>, ProposalError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Propose { command, reply };
        let sent = self.requests.send(request).await;
        sent.map_err(|_| ProposalError::Ended)?;
        answer.await.unwrap_or(Err(ProposalError::Unknown))
    }

    /// Waits until the application's state contains everything that was committed before this was called; returns up
    /// to where it does. Works on every member: one that does not lead asks the leader.
    ///
    /// # Errors
    ///
    /// [`QueryError`]: ask again.
    pub async fn read(&self, mode: ReadMode) -> Result<Index, QueryError> {
        let (reply, answer) = oneshot::channel();
        let then = Box::new(move |_: &A, index: Result<Index, QueryError>| {
            // Whoever asked may have gone.
            let _ = reply.send(index);
        });
        self.ask_read(mode, then).await?;
        answer.await.unwrap_or(Err(QueryError::Ended))
    }

    /// Looks at the application's state when it contains everything that was committed before this was called: a
    /// linearizable read.
    ///
    /// `look` runs in the member's loop, so it should be short.
    ///
    /// # Errors
    ///
    /// [`QueryError`]: ask again.
    pub async fn query<R: Send + 'static>(
        &self,
        mode: ReadMode,
        look: impl FnOnce(&A) -> R + Send + 'static,
    ) -> Result<R, QueryError> {
        let (reply, answer) = oneshot::channel();
        let then = Box::new(move |application: &A, index: Result<Index, QueryError>| {
            // As above.
            let _ = reply.send(index.map(|_| look(application)));
        });
        self.ask_read(mode, then).await?;
        answer.await.unwrap_or(Err(QueryError::Ended))
    }

    /// Looks at the application's state as it is here, which may be of the past. As for [`query`](Self::query), briefly.
    ///
    /// # Errors
    ///
    /// [`QueryError::Ended`] alone.
    pub async fn look<R: Send + 'static>(
        &self,
        look: impl FnOnce(&A) -> R + Send + 'static,
    ) -> Result<R, QueryError> {
        let (reply, answer) = oneshot::channel();
        let look = Box::new(move |application: &A| {
            // As above.
            let _ = reply.send(look(application));
        });
        let sent = self.requests.send(Request::Look(look)).await;
        sent.map_err(|_| QueryError::Ended)?;
        answer.await.map_err(|_| QueryError::Ended)
    }

    /// Changes the membership ([`Raft::change`]) and waits until that is committed, both steps of it where there are two: then
    /// the next one is taken. Returns where the first step is.
    ///
    /// Addresses of members that are added are said to every member with [`set_peer`](Self::set_peer) before, and again to
    /// each that starts: see [the module](crate::driver#addresses).
    ///
    /// # Errors
    ///
    /// [`MembershipError`].
    pub async fn change(&self, changes: Vec<Change>) -> Result<Index, MembershipError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(Request::Change { changes, reply }).await;
        sent.map_err(|_| MembershipError::Ended)?;
        answer.await.unwrap_or(Err(MembershipError::Unknown))
    }

    /// Hands leadership to `to` and waits until another member leads.
    ///
    /// # Errors
    ///
    /// [`HandOverError`].
    pub async fn transfer(&self, to: RaftId) -> Result<(), HandOverError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(Request::Transfer { to, reply }).await;
        sent.map_err(|_| HandOverError::Ended)?;
        answer.await.unwrap_or(Err(HandOverError::Ended))
    }

    /// Says where a member listens.
    pub async fn set_peer(&self, id: RaftId, address: SocketAddr) {
        // To a member that ended, it makes no difference.
        let _ = self.requests.send(Request::Peer(id, Some(address))).await;
    }

    /// Forgets where a member listens, and closes its connections. For one that was removed.
    pub async fn remove_peer(&self, id: RaftId) {
        // As above.
        let _ = self.requests.send(Request::Peer(id, None)).await;
    }

    /// Returns what the member is at the moment; `None` once it ended.
    pub async fn status(&self) -> Option<Status> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Status(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Returns who leads, as far as this member knows.
    pub fn leading(&self) -> Leading {
        *self.leading.borrow()
    }

    /// Returns where to see who leads, and to wait for another one.
    pub fn leadings(&self) -> watch::Receiver<Leading> {
        self.leading.clone()
    }

    /// Waits until a leader is known, and returns it.
    ///
    /// # Errors
    ///
    /// [`Ended`] if the member ends before.
    pub async fn leader_known(&self) -> Result<RaftId, Ended> {
        let mut leading = self.leading.clone();
        let known = leading.wait_for(|leading| leading.leader.is_some()).await;
        if let Some(leader) = known.ok().and_then(|leading| leading.leader) {
            return Ok(leader);
        }
        Err(self.ended().await)
    }

    /// Ends the member, after a leader has handed over; returns when its log and its sockets are closed, so that it can be
    /// started again.
    pub async fn shutdown(&self) {
        // One that ended already needs no word.
        let _ = self.requests.send(Request::ShutDown).await;
        self.ended().await;
    }

    /// Waits until the member ends, and says why.
    pub fn ended(&self) -> impl Future<Output = Ended> + Send + 'static {
        let mut ended = self.ended.clone();
        async move {
            let why = ended.wait_for(Option::is_some).await;
            why.ok()
                .and_then(|why| why.clone())
                .unwrap_or(Ended::Panicked)
        }
    }

    async fn ask_read(&self, mode: ReadMode, then: Then<A>) -> Result<(), QueryError> {
        let sent = self.requests.send(Request::Read { mode, then }).await;
        sent.map_err(|_| QueryError::Ended)
    }
}

/// What to do with the application once a read is ready, or lost.
pub(super) type Then<A> = Box<dyn FnOnce(&A, Result<Index, QueryError>) + Send>;

/// What a member begins with.
fn begin(options: &Options, restored: Restored) -> Result<Restored, StartError> {
    Ok(match options.start {
        _ if !restored.is_empty() => restored,
        Start::Resume => {
            let id = options.config.id;
            return Err(StartError::Empty { id });
        }
        Start::Found => Restored::bootstrap(options.peers.keys().copied()),
        Start::Join => Restored::joining(),
    })
}

fn start_links<T: Transport>(
    options: &Options,
    seed: &Seed,
    listener: TcpListener,
    transport: T,
) -> (Links<T>, mpsc::Receiver<super::Arrival>) {
    let (config, seed) = (options.links.clone(), seed.derive("links"));
    let (links, arrivals) = Links::start(config, &options.config, seed, listener, transport);
    for (id, address) in &options.peers {
        links.set_peer(*id, *address);
    }
    (links, arrivals)
}

impl<A: Application> Clone for Member<A> {
    fn clone(&self) -> Self {
        Self {
            requests: self.requests.clone(),
            leading: self.leading.clone(),
            ended: self.ended.clone(),
            id: self.id,
        }
    }
}

impl<A: Application> fmt::Debug for Member<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("id", &self.id)
            .field("leading", &self.leading())
            .finish_non_exhaustive()
    }
}
