//! Published UDP ports: what a client sends goes to one task as long as that one is there, and what it answers goes back.
//!
//! A client's datagrams are a flow. It has a socket in the namespace of a task of this node, or a connection to the daemon of
//! the task's node, which has the socket. On the connection each datagram is preceded by its length, two octets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use overlay_core::EndpointId;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::UdpSocket,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::AbortHandle,
    time::{sleep, sleep_until, timeout},
};

use super::{
    Carrier, DATAGRAMS, Origin, PATIENCE, Target,
    flows::{Flows, IDLE},
    listening,
    outside::{Client, Outside},
};
use crate::{
    agent::{AssignedPort, Backend},
    driver::{platform::PlatformThread, session},
};

/// A datagram that waits, and its share of the room for such.
struct Datagram {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

/// What one client sends, on its way to a task. It ends when this is dropped.
struct Flow {
    backend: Backend,
    target: u16,
    is_remote: bool,
    queue: mpsc::Sender<Datagram>,
    /// Whether the task answered since somebody looked.
    answered: Arc<AtomicBool>,
    carrying: AbortHandle,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

/// A published port, and whoever uses it.
struct Port {
    outside: Arc<Outside>,
    carrier: Carrier,
    assigned: watch::Receiver<AssignedPort>,
    flows: Flows<Client, Flow>,
}

/// Takes datagrams on a published port until it is no more.
pub(super) async fn listen(
    address: SocketAddr,
    carrier: Carrier,
    assigned: watch::Receiver<AssignedPort>,
) {
    let outside = listening(address, &assigned, Outside::bind).await;
    let mut port = Port {
        outside: Arc::new(outside),
        carrier,
        assigned,
        flows: Flows::new(),
    };
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let clock = port.carrier.clock;
        let deadline = port.flows.poll_timeout().map(|at| clock.deadline(at));
        let idle = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            received = port.outside.receive(&mut buffer) => match received {
                Ok((length, client)) => {
                    port.on_datagram(client, buffer.get(..length).unwrap_or_default());
                }
                Err(error) => {
                    tracing::debug!(%address, %error, "a datagram could not be taken");
                    sleep(PAUSE).await;
                }
            },
            changed = port.assigned.changed() => match changed {
                Ok(()) => port.on_assigned(),
                Err(_) => return,
            },
            () = idle => {
                let answered = |flow: &Flow| flow.answered.swap(false, Ordering::Relaxed);
                port.flows.handle_timeout(clock.now(), answered);
            }
        }
    }
}

impl Port {
    /// Queues a datagram for its flow, which begins or moves to another task if need be. What there is no room for is lost.
    fn on_datagram(&mut self, client: Client, bytes: &[u8]) {
        let room = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let room = room.saturating_add(OVERHEAD_BYTES);
        let Ok(room) = Arc::clone(&self.carrier.queued).try_acquire_many_owned(room) else {
            return;
        };
        let bytes = bytes.to_vec();
        let datagram = Datagram { bytes, _room: room };
        let now = self.carrier.clock.now();
        let (datagram, failed) = match self.flows.handle_use(now, client) {
            Some(flow) => match flow.queue.try_send(datagram) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => return,
                Err(mpsc::error::TrySendError::Closed(datagram)) => {
                    (datagram, Some(flow.backend.endpoint))
                }
            },
            None => (datagram, None),
        };
        let Some(flow) = self.begin(client, failed) else {
            return;
        };
        // The queue is new.
        let _ = flow.queue.try_send(datagram);
        self.flows.insert(now, client, flow);
    }

    /// Begins a flow to a task, to another one than what failed if there is any.
    fn begin(&mut self, client: Client, failed: Option<EndpointId>) -> Option<Flow> {
        let (backend, target, port) = {
            let assigned = self.assigned.borrow();
            let others = assigned.backends.iter();
            let others = others.filter(|backend| Some(backend.endpoint) != failed);
            let mut fit: Vec<_> = others.collect();
            if fit.is_empty() {
                fit = assigned.backends.iter().collect();
            }
            let turn = self.carrier.turn.fetch_add(1, Ordering::Relaxed);
            let backend = fit.get(turn.checked_rem(fit.len())?)?;
            (
                Backend::clone(backend),
                super::target(&assigned, backend),
                assigned.port.target,
            )
        };
        let is_remote = backend.node != self.carrier.node;
        if is_remote && self.carrier.flows_room.available_permits() == 0 {
            self.flows.end_oldest(|flow| flow.is_remote);
        }
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let answered = Arc::new(AtomicBool::new(false));
        let way = Way {
            client,
            outside: Arc::clone(&self.outside),
            answered: Arc::clone(&answered),
            queued,
        };
        let (carrier, to) = (self.carrier.clone(), backend.clone());
        let published = self.assigned.borrow().port.published;
        let at = client.at.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let origin = Origin::new(client.from, SocketAddr::new(at, published));
        let carrying = tokio::spawn(async move {
            let carried = if is_remote {
                way.forward(&carrier, &to, published, origin).await
            } else {
                way.deliver(&carrier.platform, &target, origin).await
            };
            if let Err(error) = carried {
                let (from, endpoint) = (client.from, to.endpoint);
                tracing::debug!(%from, %endpoint, %error, "a flow to a published port ended");
            }
        });
        Some(Flow {
            backend,
            target: port,
            is_remote,
            queue,
            answered,
            carrying: carrying.abort_handle(),
        })
    }

    /// Ends the flows to tasks that are gone.
    fn on_assigned(&mut self) {
        let assigned = self.assigned.borrow_and_update();
        self.flows.retain(|flow| {
            let own = &flow.backend;
            let stays = |backend: &Backend| {
                backend.endpoint == own.endpoint
                    && backend.node == own.node
                    && backend.addresses == own.addresses
            };
            flow.target == assigned.port.target && assigned.backends.iter().any(stays)
        });
    }
}

/// The outer side of a flow.
struct Way {
    client: Client,
    outside: Arc<Outside>,
    answered: Arc<AtomicBool>,
    queued: mpsc::Receiver<Datagram>,
}

impl Way {
    /// Carries a flow to a task of this node.
    async fn deliver(
        mut self,
        platform: &PlatformThread,
        target: &Target,
        origin: Origin,
    ) -> io::Result<()> {
        let (task, address) = target.datagrams(platform, origin).await?;
        loop {
            tokio::select! {
                datagram = self.queued.recv() => match datagram {
                    Some(datagram) => send(&task, &datagram.bytes, address).await?,
                    None => return Ok(()),
                },
                bytes = receive(&task) => self.answer(&bytes?).await,
            }
        }
    }

    /// Carries a flow to the daemon of another node.
    async fn forward(
        mut self,
        carrier: &Carrier,
        backend: &Backend,
        published: u16,
        origin: Origin,
    ) -> io::Result<()> {
        let reached = async {
            let room = Arc::clone(&carrier.flows_room).acquire_owned().await;
            let stream = carrier.reach(DATAGRAMS, backend, published, origin).await?;
            io::Result::Ok((stream, room))
        };
        let (stream, _room) = timeout(PATIENCE, reached).await??;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut queued = std::mem::replace(&mut self.queued, mpsc::channel(1).1);
        let there = async {
            while let Some(datagram) = queued.recv().await {
                write(&mut writer, &datagram.bytes).await?;
            }
            Ok(())
        };
        let back = async {
            loop {
                let bytes = read(&mut reader).await?;
                self.answer(&bytes).await;
            }
        };
        tokio::select! {
            result = there => result,
            result = back => result,
        }
    }

    async fn answer(&self, bytes: &[u8]) {
        self.answered.store(true, Ordering::Relaxed);
        if let Err(error) = self.outside.send(bytes, self.client).await {
            let to = self.client.from;
            tracing::debug!(%to, %error, "an answer from a published port could not be sent");
        }
    }
}

/// Carries the flow of another node's client to a task of this node and back, until that node has enough or nothing comes
/// for `silence`.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite,
    task: &UdpSocket,
    address: SocketAddr,
    silence: Duration,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let used = AtomicBool::new(true);
    let there = async {
        loop {
            let bytes = read(&mut reader).await?;
            used.store(true, Ordering::Relaxed);
            send(task, &bytes, address).await?;
        }
    };
    let back = async {
        loop {
            let bytes = receive(task).await?;
            used.store(true, Ordering::Relaxed);
            write(&mut writer, &bytes).await?;
        }
    };
    let idle = async {
        while used.swap(false, Ordering::Relaxed) {
            sleep(silence).await;
        }
    };
    tokio::select! {
        result = there => result,
        result = back => result,
        () = idle => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Sends to a task. What IPv6 carries and IPv4 does not is lost, as on the way.
async fn send(task: &UdpSocket, bytes: &[u8], address: SocketAddr) -> io::Result<()> {
    if address.is_ipv4() && bytes.len() > IPV4_DATAGRAM_BYTES_MAX {
        return Ok(());
    }
    task.send(bytes).await.map(drop)
}

/// Waits for a datagram. While there is none, no buffer is held.
async fn receive(task: &UdpSocket) -> io::Result<Vec<u8>> {
    loop {
        task.readable().await?;
        let mut bytes = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        match task.try_recv_buf(&mut bytes) {
            Ok(_) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(session::invalid)?;
    let framed = [&length.to_be_bytes()[..], bytes].concat();
    stream.write_all(&framed).await?;
    stream.flush().await
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Room for the flows to other nodes, and for the datagrams that wait.
pub(super) fn rooms() -> (Arc<Semaphore>, Arc<Semaphore>) {
    let flows = Semaphore::new(REMOTE_FLOWS_MAX);
    let queued = Semaphore::new(QUEUED_BYTES_MAX);
    (Arc::new(flows), Arc::new(queued))
}

/// How long the flow of another node's client stays when nothing comes: that node ends it first, unless it is lost.
pub(super) const SILENCE: Duration = IDLE.saturating_mul(3);
/// The longest datagram, in octets, that has a length.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// The longest datagram over IPv4, in octets: the packet's length counts both headers.
const IPV4_DATAGRAM_BYTES_MAX: usize = 65_507;
/// How many datagrams of a flow wait at the most; more are lost.
const QUEUE_MAX: usize = 64;
/// How much waits on a node at the most, in octets; more is lost.
const QUEUED_BYTES_MAX: usize = 16 * 1_024 * 1_024;
/// What a datagram that waits takes beside its own octets.
const OVERHEAD_BYTES: u32 = 64;
/// How many flows of a node go to other nodes at a time: each is a connection, and those are shared with the cluster's own.
const REMOTE_FLOWS_MAX: usize = 512;
/// After a datagram that could not be taken.
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn datagrams_of_any_length_go_to_the_task_and_back() {
        let (server, task, address) = pair().await;
        let (mut near, far) = tokio::io::duplex(1 << 18);
        let exchanging = tokio::spawn(async move { exchange(far, &task, address, IDLE).await });
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        for length in [0, 1, 1_500, IPV4_DATAGRAM_BYTES_MAX] {
            let datagram = vec![b'x'; length];
            write(&mut near, &datagram).await.unwrap();
            let (taken, from) = server.recv_from(&mut buffer).await.unwrap();
            assert_eq!(taken, length);
            server.send_to(&buffer[..taken], from).await.unwrap();
            assert_eq!(read(&mut near).await.unwrap(), datagram);
        }
        // What IPv4 does not carry is lost and ends nothing.
        write(&mut near, &buffer).await.unwrap();
        write(&mut near, b"after").await.unwrap();
        assert_eq!(server.recv(&mut buffer).await.unwrap(), 5);
        // The other node has enough.
        drop(near);
        let ended = exchanging.await.unwrap().unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_task_that_is_gone_ends_the_exchange() {
        let (server, task, address) = pair().await;
        let (mut near, far) = tokio::io::duplex(1 << 18);
        drop(server);
        let ends = async move { exchange(far, &task, address, IDLE).await };
        let ended = tokio::spawn(ends);
        // The datagram that finds nobody is lost; the next one is told.
        while !ended.is_finished() {
            // The exchange may end in the midst of it.
            let _ = write(&mut near, b"anybody?").await;
            sleep(Duration::from_millis(5)).await;
        }
        let ended = ended.await.unwrap().unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn an_exchange_that_is_idle_ends() {
        let (_server, task, address) = pair().await;
        let (_near, far) = tokio::io::duplex(1 << 18);
        let ended = exchange(far, &task, address, Duration::from_millis(20))
            .await
            .unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }

    async fn pair() -> (UdpSocket, UdpSocket, SocketAddr) {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let task = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        task.connect(address).await.unwrap();
        (server, task, address)
    }
}
