//! The loop of a holder: one thread that waits for daemons, children and output.

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{self, SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{self, Id, WaitPidFlag, WaitStatus},
    },
    unistd::Pid,
};
use overlay_core::{
    EndpointId,
    plane::{DataPath, Namespace, PortSpec},
};

use super::{
    files,
    output::Output,
    ports::Ports,
    programs::Programs,
    record::Record,
    wire::{Connection, Description, Reply, Request, Setup},
};
use crate::{
    command::ProcessId,
    failure::{Doing, Failure},
    namespace,
    netlink::Netlink,
    way_out::inside,
};

mod sockets;

/// A holder at work.
#[derive(Debug)]
pub(crate) struct Server {
    folder: PathBuf,
    /// The name of the programs' host.
    hostname: String,
    /// Whether the namespaces are ours, so that all that lives in them is, too.
    own: bool,
    ports: Ports,
    sockets: BTreeMap<SocketAddr, (UdpSocket, TcpListener)>,
    programs: Programs,
    output: Output,
    listener: UnixListener,
    children: SignalFd,
    clients: BTreeMap<u64, Connection>,
    last_client: u64,
    removed: bool,
}

/// What the loop waits for.
#[derive(Clone, Copy, Debug)]
enum Source {
    Listener,
    Children,
    Client(u64),
    Stream(ProcessId),
}

impl Server {
    /// Furnishes the namespaces and makes the port; with a `switch` namespace, one of the kernel plane.
    pub(crate) fn set_up(
        setup: Setup,
        switch: Option<OwnedFd>,
        own: bool,
    ) -> Result<Self, Failure> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        signals.thread_block().doing(|| "block SIGCHLD".into())?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let children =
            SignalFd::with_flags(&signals, flags).doing(|| "open a signal descriptor".into())?;
        let spec = &setup.spec;
        if own {
            files::furnish(spec, &setup.folder)?;
            let mut netlink = Netlink::open().doing(|| "open a netlink socket".into())?;
            namespace::raise_loopback(&mut netlink)?;
            let has_ipv6 = spec.addresses.iter().any(|a| a.addr().is_ipv6());
            namespace::quieten_ipv6("default", has_ipv6);
        } else if let Namespace::Path(path) = &spec.namespace {
            let doing = || format!("enter {}", path.display());
            let target = fs::File::open(path).doing(doing)?;
            namespace::enter(&target).map_err(|failure| Failure {
                operation: doing(),
                ..failure
            })?;
        }
        let listener = listen(&setup.folder)?;
        let output = Output::open(&setup.folder, setup.output_bytes_max)
            .doing(|| "open the output file".into())?;
        let Setup {
            mut spec,
            kind,
            folder,
            ..
        } = setup;
        spec.path = path_by(switch.as_ref());
        let hostname = spec.hostname.clone();
        let mut ports = Ports::new(kind);
        ports.set_way_out(spec.way_out.clone());
        ports.add(spec, switch.as_ref().map(AsFd::as_fd))?;
        let server = Self {
            folder,
            hostname,
            own,
            ports,
            sockets: BTreeMap::new(),
            programs: Programs::default(),
            output,
            listener,
            children,
            clients: BTreeMap::new(),
            last_client: 0,
            removed: false,
        };
        server.write_record();
        Ok(server)
    }

    /// Answers the daemon that started this holder.
    pub(crate) fn greet(&mut self, connection: Connection) -> Result<(), Failure> {
        let (_, kind, port) = self.ports.describe(self.ports.first()?)?;
        let descriptors: Vec<_> = port.iter().map(AsFd::as_fd).collect();
        connection
            .send(&Reply::Ready(kind), &descriptors)
            .doing(|| "answer the daemon".into())?;
        let unblocked = connection.stream().set_nonblocking(true);
        unblocked.doing(|| "set a connection non-blocking".into())?;
        self.last_client += 1;
        self.clients.insert(self.last_client, connection);
        Ok(())
    }

    /// Serves until the port is removed.
    pub(crate) fn run(&mut self) -> Result<(), Failure> {
        while !self.removed {
            for source in self.wait().doing(|| "wait for anything".into())? {
                match source {
                    Source::Listener => self.accept(),
                    Source::Children => self.reap(),
                    Source::Client(client) => self.on_client(client),
                    Source::Stream(id) => self.programs.drain(id, &mut self.output),
                }
            }
            if self.programs.kill_overdue(now()) {
                self.end_all();
            }
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<Vec<Source>> {
        let fixed = [
            (Source::Listener, self.listener.as_fd()),
            (Source::Children, self.children.as_fd()),
        ];
        let clients = self.clients.iter();
        let clients = clients.map(|(id, connection)| (Source::Client(*id), connection.as_fd()));
        let streams = self.programs.unread();
        let streams = streams.map(|(id, stream)| (Source::Stream(id), stream));
        let (sources, descriptors): (Vec<Source>, Vec<BorrowedFd<'_>>) =
            fixed.into_iter().chain(clients).chain(streams).unzip();
        let watched = descriptors.iter();
        let mut watched: Vec<_> = watched
            .map(|descriptor| PollFd::new(*descriptor, PollFlags::POLLIN))
            .collect();
        let timeout = self.programs.deadline().map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = watched.iter().map(|one| one.any().unwrap_or(true));
        let sources = sources.into_iter().zip(ready);
        Ok(sources
            .filter_map(|(source, ready)| ready.then_some(source))
            .collect())
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        // One that comes when there are too many is closed at once.
        if self.clients.len() < CLIENTS_MAX && stream.set_nonblocking(true).is_ok() {
            self.last_client += 1;
            self.clients
                .insert(self.last_client, Connection::new(stream));
        }
    }

    fn reap(&mut self) {
        while let Ok(Some(_)) = self.children.read_signal() {}
        for id in self.programs.reap(&mut self.output) {
            let Ok(program) = self.programs.get(id) else {
                continue;
            };
            let (main, follower, exit) =
                (program.status.main, program.follower, program.status.exit);
            if let (Some(follower), Some(exit)) = (follower, exit) {
                self.tell(follower, &Reply::Exited(exit), &[]);
            }
            if main {
                self.end_all();
                self.write_record();
            }
        }
    }

    fn on_client(&mut self, client: u64) {
        let Some(connection) = self.clients.get_mut(&client) else {
            return;
        };
        match connection.fill() {
            Ok(true) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(false) | Err(_) => return self.drop_client(client),
        }
        loop {
            let Some(connection) = self.clients.get_mut(&client) else {
                return;
            };
            match connection.next::<Request>() {
                Ok(Some((request, descriptors))) => self.answer(client, request, descriptors),
                Ok(None) => return,
                Err(error) => {
                    let failure = Failure::new(NOT_UNDERSTOOD, &error);
                    self.tell(client, &Reply::Failed(failure), &[]);
                    return self.drop_client(client);
                }
            }
        }
    }

    fn answer(&mut self, client: u64, request: Request, descriptors: Vec<OwnedFd>) {
        let answered = self.carry_out(client, request, descriptors);
        let (reply, descriptors) =
            answered.unwrap_or_else(|failure| (Reply::Failed(failure), Vec::new()));
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        self.tell(client, &reply, &borrowed);
        // One that ended before its follower came.
        if let Reply::Started(_, id) = reply {
            let exit = self.programs.get(id).ok().and_then(|p| p.status.exit);
            if let Some(exit) = exit {
                self.tell(client, &Reply::Exited(exit), &[]);
            }
        }
    }

    fn carry_out(
        &mut self,
        client: u64,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        let reply = match request {
            Request::Setup(_) => {
                let error = Errno::EALREADY.into();
                return Err(Failure::new("set up a second time", &error));
            }
            Request::Describe => return self.describe(self.ports.first()?),
            Request::DescribePort(endpoint) => return self.describe(endpoint),
            Request::Sockets(_)
            | Request::Stream { .. }
            | Request::Datagrams { .. }
            | Request::From { .. } => return self.open(request),
            Request::Actual => Reply::Actual(self.ports.actual(self.ports.first()?)?),
            Request::ActualPort(endpoint) => Reply::Actual(self.ports.actual(endpoint)?),
            Request::Repair(spec) => {
                let done = self.ports.repair(&spec.0)?;
                self.note_ports();
                Reply::Repaired(done)
            }
            Request::AddPort(spec) => return self.add_port(spec.0, None),
            Request::AddBridgedPort(spec) => return self.add_bridged_port(spec.0, descriptors),
            Request::RemovePort(endpoint) => self.remove_port(endpoint)?,
            Request::Start { command, main } => {
                let (id, streams, descriptors) = self.programs.start(command, main, client)?;
                if main {
                    self.write_record();
                }
                return Ok((Reply::Started(streams, id), descriptors));
            }
            Request::Follow(id) => {
                let (streams, descriptors) = self.programs.follow(id, client)?;
                return Ok((Reply::Started(streams, id), descriptors));
            }
            Request::Signal {
                process,
                signal,
                group,
            } => {
                self.programs.get(process)?.signal(signal, group)?;
                Reply::Done
            }
            Request::Stop {
                process,
                signal,
                grace,
            } => {
                let kill_at = now() + grace.min(GRACE_MAX);
                self.programs.get(process)?.stop(signal, kill_at)?;
                Reply::Done
            }
            Request::Remove => {
                self.end()?;
                Reply::Done
            }
            Request::Inner(interface) => {
                let found = Reply::Inner(inside::Inner::find(&interface)?);
                return Ok((found, vec![namespace::current()?.into()]));
            }
            Request::WayOut(way) => {
                self.ports.set_way_out(way.map(|way| *way));
                self.write_record();
                Reply::Done
            }
            Request::FurnishWayOut => Reply::Repaired(self.furnish_way_out()?),
        };
        Ok((reply, Vec::new()))
    }

    fn describe(&self, endpoint: EndpointId) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        let (spec, kind, port) = self.ports.describe(endpoint)?;
        let description = Box::new(Description {
            spec,
            kind,
            processes: self.programs.statuses(),
        });
        Ok((Reply::Description(description), port.into_iter().collect()))
    }

    /// With a `switch` namespace, of the kernel plane.
    fn add_port(
        &mut self,
        spec: PortSpec,
        switch: Option<&OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        let endpoint = spec.endpoint;
        let added = self.ports.add(spec, switch.map(AsFd::as_fd));
        // Also without success: one that was replaced is gone.
        self.note_ports();
        added?;
        let (_, kind, port) = self.ports.describe(endpoint)?;
        Ok((Reply::Ready(kind), port.into_iter().collect()))
    }

    fn add_bridged_port(
        &mut self,
        mut spec: PortSpec,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        let switch = descriptors.into_iter().next();
        let missing = || io::Error::from(io::ErrorKind::InvalidInput);
        let switch = switch.ok_or_else(missing);
        let switch = switch.doing(|| "take the switch namespace".into())?;
        spec.path = path_by(Some(&switch));
        self.add_port(spec, Some(&switch))
    }

    fn remove_port(&mut self, endpoint: EndpointId) -> Result<Reply, Failure> {
        let others = self.ports.specs();
        let others = others.iter().filter(|spec| spec.endpoint != endpoint);
        let left = u32::try_from(others.count()).unwrap_or(u32::MAX);
        if left == 0 {
            self.end()?;
        } else {
            let removed = self.ports.remove(endpoint);
            self.note_ports();
            removed?;
        }
        Ok(Reply::Left(left))
    }

    /// Kills all programs, removes all ports and ends.
    fn end(&mut self) -> Result<(), Failure> {
        self.end_all();
        self.await_all();
        self.removed = true;
        self.ports.clear()
    }

    /// Writes down which ports there are, for daemons and for programs.
    fn note_ports(&self) {
        if self.own {
            files::list(&self.hostname, &self.ports.specs(), &self.folder);
        }
        self.write_record();
    }

    fn furnish_way_out(&self) -> Result<Vec<String>, Failure> {
        let way = self.ports.way_out();
        way.map_or(Ok(Vec::new()), |way| inside::furnish(way, self.own))
    }

    /// Kills everything that lives in the endpoint's namespaces, as far as that is ours to do.
    fn end_all(&self) {
        self.programs.kill_all();
        if self.own {
            // From process 1 this is all others of its namespace; there may be none.
            let _ = signal::kill(Pid::from_raw(-1), Signal::SIGKILL);
        }
    }

    /// Waits until all children are reaped, for a bounded time: one may hang in the kernel.
    fn await_all(&mut self) {
        let limit = now() + REMOVE_TIME_MAX;
        while now() < limit {
            for id in self.programs.reap(&mut self.output) {
                let program = self.programs.get(id).ok();
                let ended = program.and_then(|p| Some((p.follower?, p.status.exit?)));
                if let Some((follower, exit)) = ended {
                    self.tell(follower, &Reply::Exited(exit), &[]);
                }
            }
            // Only looks: reaping is what knows whose end it is.
            let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            match wait::waitid(Id::All, look) {
                Ok(WaitStatus::StillAlive) => {
                    let mut watched = [PollFd::new(self.children.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut watched, PollTimeout::from(50_u8));
                    while let Ok(Some(_)) = self.children.read_signal() {}
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    fn tell(&mut self, client: u64, reply: &Reply, descriptors: &[BorrowedFd<'_>]) {
        let told = self
            .clients
            .get(&client)
            .map(|connection| connection.send(reply, descriptors));
        if let Some(Err(_)) = told {
            self.drop_client(client);
        }
    }

    fn drop_client(&mut self, client: u64) {
        self.clients.remove(&client);
        self.programs.unfollow(client);
    }

    /// A full disk must not stop the endpoint.
    fn write_record(&self) {
        let record = Record {
            ports: self.ports.specs(),
            main: self.programs.main().map(|main| main.status.clone()),
        };
        if let Err(failure) = record
            .write(&self.folder)
            .doing(|| "write the record".into())
        {
            super::log(&failure);
        }
    }
}

/// A port of the kernel plane comes with the namespace of its outer end.
fn path_by(switch: Option<&OwnedFd>) -> DataPath {
    switch.map_or(DataPath::User, |_| DataPath::Kernel)
}

/// Binds the socket by a relative path, because an absolute one may be longer than an address holds.
fn listen(folder: &Path) -> Result<UnixListener, Failure> {
    let doing = || format!("listen in {}", folder.display());
    env::set_current_dir(folder).doing(doing)?;
    match fs::remove_file(SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).doing(doing),
        _ => {}
    }
    let listener = UnixListener::bind(SOCKET).doing(doing)?;
    listener.set_nonblocking(true).doing(doing)?;
    env::set_current_dir("/").doing(|| "change to /".into())?;
    Ok(listener)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a holder is no machine: its programs run in real time"
)]
fn now() -> Instant {
    Instant::now()
}

/// What a holder fails at that is asked for something of a later release. Never changed.
pub(crate) const NOT_UNDERSTOOD: &str = "understand the daemon";
/// The socket's name in the holder's folder.
pub(crate) const SOCKET: &str = "holder.sock";
/// Daemons and followers at a time.
///
/// With the streams of all programs this stays below the usual limit of 1,024 descriptors.
const CLIENTS_MAX: usize = 256;
/// The longest grace before a kill.
const GRACE_MAX: Duration = Duration::from_secs(3_600);
/// How long a removal waits for killed children.
const REMOVE_TIME_MAX: Duration = Duration::from_secs(2);
