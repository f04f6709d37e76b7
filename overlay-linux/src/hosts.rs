//! Hosts in a box: network namespaces joined by a bridge, for demonstrations and tests on one machine.
//!
//! Everything is built inside a network namespace of its own, so that the machine's interfaces and addresses are neither
//! touched nor seen. All programs of a [`Lab`] live in a process namespace of its own; when the lab ends, or the process
//! that made it, however it ends, the kernel ends them all, holders included.

use std::{
    env,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{self, Child, Command},
    thread,
    time::Duration,
};

use ipnet::IpNet;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{self, CloneFlags},
};
use overlay_core::plane::PlatformError;

use crate::{
    failure::Failure,
    holder::wire::Connection,
    namespace::{self, Privilege},
    sys,
};

mod keeper;

pub(crate) use keeper::{KEEPER, run};

use keeper::{Answer, Order};

/// Makes sure that the process may make namespaces, by moving it into a new user namespace if it takes that.
///
/// Whether it takes that is found by trying. Only while the process has a single thread. In a user namespace the user
/// is root, owns what is made in there, and reaches nothing of the host's network.
///
/// # Errors
///
/// What the system says of the user namespace, or of the network namespace inside it. The process may be in a new user
/// namespace then, which does no harm.
pub fn enter() -> Result<Privilege, PlatformError> {
    let home = namespace::current()?;
    let privilege = namespace::make(CloneFlags::CLONE_NEWNET)?;
    match namespace::enter(&home) {
        Ok(()) => {}
        // The way back into the host's network is closed to a user namespace: this one takes its place.
        Err(_) if privilege == Privilege::UserNamespace => {}
        Err(failure) => return Err(failure.into()),
    }
    Ok(privilege)
}

/// Hosts on a bridge, each a network namespace.
#[derive(Debug)]
pub struct Lab {
    keeper: Connection,
    /// Those that were started here and may still run.
    children: Vec<OwnedFd>,
    hosts: Vec<OwnedFd>,
    mounts: OwnedFd,
    processes: OwnedFd,
}

/// What a [`Lab`] is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabConfig {
    /// For each host, the addresses of its interface `eth0`. At most [`HOSTS_MAX`].
    pub hosts: Vec<Vec<IpNet>>,
    /// MTU of the bridge and of the hosts' interfaces, in octets.
    pub mtu: u16,
}

impl Lab {
    /// Builds the hosts. `helper` is a binary that calls [`main_if_holder`](crate::holder::main_if_holder) first of all.
    ///
    /// # Errors
    ///
    /// What the system says; nothing is left behind. Call [`enter`] first where that is not sure.
    pub fn new(helper: &Path, config: &LabConfig) -> Result<Self, PlatformError> {
        let (ours, theirs) = UnixStream::pair().map_err(|e| system("make a socket pair", &e))?;
        let mut child = Command::new(helper)
            .arg(KEEPER)
            .stdin(OwnedFd::from(theirs))
            .stdout(process::Stdio::null())
            .spawn()
            .map_err(|error| system(&format!("start {}", helper.display()), &error))?;
        let mut keeper = Connection::new(ours);
        let order = Order::Build {
            hosts: config.hosts.clone(),
            mtu: config.mtu,
        };
        let built = keeper
            .stream()
            .set_read_timeout(Some(ANSWER_TIME_MAX))
            .map_err(|error| system("limit the time to answer", &error))
            .and_then(|()| exchange(&mut keeper, &order));
        // It ends as soon as it has started the process that stays.
        let _ = child.wait();
        let mut descriptors = built?;
        let hosts: Vec<_> = descriptors
            .drain(..config.hosts.len().min(descriptors.len()))
            .collect();
        match <[OwnedFd; 2]>::try_from(descriptors) {
            Ok([mounts, processes]) => Ok(Self {
                keeper,
                children: Vec::new(),
                hosts,
                mounts,
                processes,
            }),
            Err(_) => Err(system(
                "take up the hosts",
                &io::ErrorKind::InvalidData.into(),
            )),
        }
    }

    /// Starts a program on a host: in its network, and in the lab's process and mount namespaces.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an unknown host; else what the system says.
    pub fn spawn_in(&mut self, host: usize, command: &mut Command) -> io::Result<Child> {
        let network = self.namespace(host).ok_or(io::ErrorKind::InvalidInput)?;
        let directory = env::current_dir()?;
        // A thread of its own, because it never comes back from there.
        let spawn = || {
            sched::unshare(CloneFlags::CLONE_FS)?;
            sched::setns(&self.mounts, CloneFlags::CLONE_NEWNS)?;
            sched::setns(&self.processes, CloneFlags::CLONE_NEWPID)?;
            sched::setns(network, CloneFlags::CLONE_NEWNET)?;
            // Entering a mount namespace leads to its root.
            env::set_current_dir(&directory)?;
            command.spawn()
        };
        let spawned = thread::scope(|scope| scope.spawn(spawn).join());
        let spawned =
            spawned.unwrap_or_else(|_| Err(io::Error::other("the spawning thread panicked")))?;
        self.children.retain(|child| {
            let mut ended = [PollFd::new(child.as_fd(), PollFlags::POLLIN)];
            poll(&mut ended, PollTimeout::ZERO) == Ok(0)
        });
        self.children.push(sys::open_process(spawned.id())?);
        Ok(spawned)
    }

    /// Cuts a host off, or joins it to the others again.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn set_link(&mut self, host: usize, up: bool) -> Result<(), PlatformError> {
        exchange(&mut self.keeper, &Order::Link { host, up }).map(drop)
    }

    /// Returns the network namespace of a host.
    pub fn namespace(&self, host: usize) -> Option<BorrowedFd<'_>> {
        self.hosts.get(host).map(AsFd::as_fd)
    }

    /// Returns the words with which a person enters a host's network from another terminal, while this process lives.
    pub fn enter_command(&self, host: usize) -> Option<String> {
        let (pid, number) = (process::id(), self.namespace(host)?.as_raw_fd());
        let user = match fs::read_to_string("/proc/self/uid_map") {
            Ok(map) if map.split_whitespace().eq(["0", "0", "4294967295"]) => String::new(),
            _ => format!(" --user=/proc/{pid}/ns/user --preserve-credentials"),
        };
        Some(format!("nsenter{user} --net=/proc/{pid}/fd/{number}"))
    }
}

impl Drop for Lab {
    /// Ends everything that lives in the lab, and waits for it.
    fn drop(&mut self) {
        // A keeper that is gone has taken all others along.
        let _ = exchange(&mut self.keeper, &Order::End);
        // Orphans have ended by now; our own children, which only we can reap, are dying.
        for child in &self.children {
            let mut ended = [PollFd::new(child.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut ended, PollTimeout::from(END_MS_MAX));
        }
    }
}

fn exchange(keeper: &mut Connection, order: &Order) -> Result<Vec<OwnedFd>, PlatformError> {
    let answer = keeper
        .send(order, &[])
        .and_then(|()| keeper.receive::<Answer>())
        .map_err(|error| system("talk with the keeper of the hosts", &error))?;
    match answer {
        (Answer::Failed(failure), _) => Err(failure.into()),
        (Answer::Done, descriptors) => Ok(descriptors),
    }
}

fn system(operation: &str, error: &io::Error) -> PlatformError {
    Failure::new(operation, error).into()
}

/// Hosts of one lab.
pub const HOSTS_MAX: usize = 60;

/// How long the end of a lab is waited for.
const END_MS_MAX: u16 = 5_000;

const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Opens one of the calling process's namespaces.
fn own_namespace(kind: &str) -> io::Result<File> {
    File::open(format!("/proc/self/ns/{kind}"))
}
