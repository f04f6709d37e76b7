//! Linux below a node: a holder for each endpoint.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    net::{TcpListener, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, OpenOptionsExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use overlay_core::{
    EndpointId,
    plane::{DataPath, NoWayOut, PlatformError, PortSpec},
};

#[cfg(doc)]
use crate::plane::SwitchNamespace;
use crate::{
    command::ProcessStatus,
    failure::Failure,
    holder::{
        self,
        record::Record,
        server::SOCKET,
        wire::{Connection, Description, Reply, Request, Setup},
    },
    port::{Port, PortKind},
};

mod bridged;
mod platform;
mod programs;
mod services;
mod sharing;
mod way_out;

pub use services::{EndpointReport, EndpointServices};
pub use way_out::DroppingChain;

/// Linux below a node: each endpoint's port is kept by a holder process under a state folder.
///
/// Endpoints that share a namespace share a holder. Whatever is said of programs and output here goes by the endpoint after
/// which the namespace is named, also when that endpoint itself has gone; any other in there leads to the same.
///
/// The value itself holds nothing but where that is, and why ports have no way out: all state is in the holders, so that a
/// restarted daemon has it by making another `Linux` over the same folder. One daemon at a time uses a folder.
#[derive(Clone, Debug)]
pub struct Linux {
    folder: PathBuf,
    holder: PathBuf,
    kind: Option<PortKind>,
    /// Where the kernel plane's namespace is kept, if there is one.
    switch: Option<PathBuf>,
    output_bytes_max: u64,
    /// The namespaces without the way out that they ask for, as the last try went.
    closed: BTreeMap<EndpointId, NoWayOut>,
}

/// The sockets of an endpoint's resolver, non-blocking. The holder keeps copies: what arrives between two lives of a
/// daemon waits.
#[derive(Debug)]
pub struct Sockets {
    /// Datagrams.
    pub udp: UdpSocket,
    /// Streams.
    pub tcp: TcpListener,
}

/// An endpoint that an earlier life of the daemon left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The port, as its holder has it.
    pub spec: PortSpec,
    /// By what means it is attached; `None` if the holder is gone, and with it namespaces, port and programs.
    pub kind: Option<PortKind>,
    /// The programs; of a holder that is gone, the newest main program only.
    pub processes: Vec<ProcessStatus>,
}

impl Linux {
    /// Makes a platform that keeps its holders' folders in `folder`, and starts `holder` (a binary that calls
    /// [`main_if_holder`](crate::holder::main_if_holder) first of all) as such.
    pub fn new(folder: impl Into<PathBuf>, holder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            holder: holder.into(),
            kind: None,
            switch: None,
            output_bytes_max: 1 << 20,
            closed: BTreeMap::new(),
        }
    }

    /// Makes ports of this kind only, rather than the first that is to be had.
    #[must_use]
    pub fn with_kind(mut self, kind: PortKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Makes ports of [`DataPath::Kernel`] with their outer ends in the namespace
    /// that a [`SwitchNamespace`] keeps by this file. Without it there are none.
    ///
    /// Who makes the rest of that plane, and keeps it so, is a [`Reconciler`](crate::plane::Reconciler): it is a value of
    /// its own, because it has sockets, counters and a rhythm, and this one none of them.
    #[must_use]
    pub fn with_switch(mut self, path: impl Into<PathBuf>) -> Self {
        self.switch = Some(path.into());
        self
    }

    /// Keeps at most this many octets of each endpoint's output. Default 1 MiB.
    #[must_use]
    pub fn with_output_bytes_max(mut self, octets: u64) -> Self {
        self.output_bytes_max = octets;
        self
    }

    /// Says whether this kernel can seal what encrypted networks of the kernel plane send, over IPv4 or IPv6; by trying it, in a
    /// namespace that ends with it. Without this the plane refuses them.
    ///
    /// # Errors
    ///
    /// [`PlatformError::Unsupported`] with what is missing and what to do about it; see
    /// [`NoSealing`](crate::plane::NoSealing).
    pub fn can_seal(&self, v6: bool) -> Result<(), PlatformError> {
        crate::plane::can_seal(v6).map_err(|reason| PlatformError::Unsupported {
            what: "an encrypted network in the kernel",
            reason: reason.to_string(),
        })
    }

    /// Says whether this kernel can carry out the rules of networks in the kernel plane; by trying it, in a namespace that ends
    /// with it. Without this the plane refuses networks that have rules.
    ///
    /// # Errors
    ///
    /// [`PlatformError::Unsupported`] with what is missing and what to do about it; see
    /// [`NoFiltering`](crate::plane::NoFiltering).
    pub fn can_filter(&self) -> Result<(), PlatformError> {
        crate::plane::can_filter().map_err(|reason| PlatformError::Unsupported {
            what: "a network with rules in the kernel",
            reason: reason.to_string(),
        })
    }

    /// Lists what earlier lives of the daemon left in the folder.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read. Entries that are no endpoint's are passed over.
    pub fn list(&self) -> Result<Vec<Found>, PlatformError> {
        let mut found = Vec::new();
        for endpoint in self.endpoints()? {
            match self.describe(endpoint) {
                Ok((description, _)) => found.push(Found {
                    spec: description.spec,
                    kind: Some(description.kind),
                    processes: description.processes,
                }),
                Err(_) => found.extend(self.lost(endpoint)),
            }
        }
        Ok(found)
    }

    /// Describes the port of an endpoint, which is unknown unless it has one.
    fn describe(
        &self,
        endpoint: EndpointId,
    ) -> Result<(Description, Option<OwnedFd>), PlatformError> {
        // A holder of an earlier release knows of this question alone, and has one port.
        let any = self.describe_any(endpoint)?;
        if any.0.spec.endpoint == endpoint {
            return Ok(any);
        }
        match self.call(endpoint, &Request::DescribePort(endpoint)) {
            Ok(answer) => described(answer),
            Err(error) => Err(unknown_if_absent(error, endpoint)),
        }
    }

    /// Describes one of the ports in the namespace of an endpoint.
    fn describe_any(
        &self,
        endpoint: EndpointId,
    ) -> Result<(Description, Option<OwnedFd>), PlatformError> {
        described(self.call(endpoint, &Request::Describe)?)
    }

    /// What a holder that is gone has written down of an endpoint.
    fn lost(&self, endpoint: EndpointId) -> Option<Found> {
        let record = Record::read(&self.folder_of(endpoint)).ok()?;
        Some(Found {
            spec: record.port(endpoint)?.clone(),
            kind: None,
            processes: record.ended().into_iter().collect(),
        })
    }

    fn call(
        &self,
        endpoint: EndpointId,
        request: &Request,
    ) -> Result<(Reply, Vec<OwnedFd>), PlatformError> {
        let mut connection = self.connect(endpoint)?;
        exchange(&mut connection, request)
    }

    fn connect(&self, endpoint: EndpointId) -> Result<Connection, PlatformError> {
        let folder = self.folder_of(endpoint);
        let connected = connect_in(&folder).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
            stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(Connection::new(stream)),
            Err(error) if is_gone(&error) => Err(PlatformError::UnknownEndpoint { endpoint }),
            Err(error) => Err(system(
                &format!("connect to the holder in {}", folder.display()),
                &error,
            )),
        }
    }

    /// Starts the holder of a namespace that is named after `name`, and waits until it has made its first port.
    fn launch(
        &self,
        name: EndpointId,
        spec: &PortSpec,
        mode: &str,
    ) -> Result<Option<Port>, PlatformError> {
        let folder = self.folder_of(name);
        let doing = format!("make {}", folder.display());
        let made = make_folder(&folder);
        made.map_err(|error| system(&doing, &error))?;
        // The holder's working directory is another one.
        let folder = folder
            .canonicalize()
            .map_err(|error| system(&doing, &error))?;
        let made = self.launch_in(&folder, spec, mode);
        if made.is_err() {
            // Nothing half made is left; the first failure says more than this one.
            let _ = fs::remove_dir_all(&folder);
        }
        made
    }

    fn launch_in(
        &self,
        folder: &Path,
        spec: &PortSpec,
        mode: &str,
    ) -> Result<Option<Port>, PlatformError> {
        let switch = self.switch_of(spec)?;
        let (ours, theirs) =
            UnixStream::pair().map_err(|error| system("make a socket pair", &error))?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(folder.join(LOG))
            .map_err(|error| system("open the holder's log", &error))?;
        let mut child = Command::new(&self.holder)
            .args([holder::HOLDER, mode])
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| system(&format!("start {}", self.holder.display()), &error))?;
        let setup = Setup {
            spec: spec.clone(),
            kind: self.kind,
            folder: folder.to_owned(),
            output_bytes_max: self.output_bytes_max,
        };
        let mut connection = Connection::new(ours);
        let limited = connection.stream().set_read_timeout(Some(ANSWER_TIME_MAX));
        let answer = limited
            .map_err(|error| system("limit the time to answer", &error))
            .and_then(|()| {
                let descriptors: Vec<_> = switch.iter().map(AsFd::as_fd).collect();
                let setup = Request::Setup(Box::new(setup));
                exchange_with(&mut connection, &setup, &descriptors)
            });
        // It ends as soon as it has started the process that stays.
        let _ = child.wait();
        match answer? {
            (Reply::Ready(kind), descriptors) => port_of(descriptors.into_iter().next(), kind),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn endpoints(&self) -> Result<Vec<EndpointId>, PlatformError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(system(&format!("read {}", self.folder.display()), &error)),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut endpoints: Vec<EndpointId> = names.filter_map(|name| name.parse().ok()).collect();
        endpoints.sort_unstable();
        Ok(endpoints)
    }

    fn folder_of(&self, endpoint: EndpointId) -> PathBuf {
        self.folder.join(endpoint.to_string())
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder)
}

fn described(
    (reply, descriptors): (Reply, Vec<OwnedFd>),
) -> Result<(Description, Option<OwnedFd>), PlatformError> {
    match reply {
        Reply::Description(mut description) => {
            if description.kind == PortKind::Bridged {
                description.spec.path = DataPath::Kernel;
            }
            Ok((*description, descriptors.into_iter().next()))
        }
        other => Err(unexpected(&other)),
    }
}

/// A holder that has no port of an endpoint does not know it, whatever others it has.
fn unknown_if_absent(error: PlatformError, endpoint: EndpointId) -> PlatformError {
    match error {
        PlatformError::System { code, .. } if code == nix::libc::ENODEV => {
            PlatformError::UnknownEndpoint { endpoint }
        }
        error => error,
    }
}

/// Connects by a short path, because the folder's may be longer than an address holds.
fn connect_in(folder: &Path) -> io::Result<UnixStream> {
    let directory = File::open(folder)?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    match UnixStream::connect(path) {
        // Without a /proc of our own process namespace only the plain way is left.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            UnixStream::connect(folder.join(SOCKET))
        }
        other => other,
    }
}

fn exchange(
    connection: &mut Connection,
    request: &Request,
) -> Result<(Reply, Vec<OwnedFd>), PlatformError> {
    exchange_with(connection, request, &[])
}

/// The same, with descriptors for the holder.
fn exchange_with(
    connection: &mut Connection,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(Reply, Vec<OwnedFd>), PlatformError> {
    connection
        .send(request, descriptors)
        .and_then(|()| connection.receive::<Reply>())
        .map_err(|error| PlatformError::system("talk with the holder", &error))
        .and_then(|(reply, descriptors)| match reply {
            Reply::Failed(failure) => Err(failure.into()),
            reply => Ok((reply, descriptors)),
        })
}

fn port_of(descriptor: Option<OwnedFd>, kind: PortKind) -> Result<Option<Port>, PlatformError> {
    match (descriptor, kind) {
        (_, PortKind::Bridged) => Ok(None),
        (Some(descriptor), _) => Ok(Some(Port::new(descriptor, kind))),
        (None, _) => Err(unexpected(&Reply::Ready(kind))),
    }
}

/// No folder, no socket in it, or nobody behind it.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

fn system(operation: &str, error: &io::Error) -> PlatformError {
    Failure::new(operation, error).into()
}

fn unexpected(reply: &Reply) -> PlatformError {
    let error = io::Error::new(
        io::ErrorKind::InvalidData,
        format!("unexpected answer {reply:?}"),
    );
    system("talk with the holder", &error)
}

/// Where holders say what went wrong.
const LOG: &str = "holder.log";

/// Making a port takes milliseconds; removing one waits up to 2 s for killed programs.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
