//! The process that keeps a lab: process 1 of its process namespace, with which all others end.

use std::{
    env,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
};

use ipnet::IpNet;
use nix::{
    errno::Errno,
    mount::{self, MsFlags},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::CloneFlags,
    sys::{
        signal::{self, SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{self, WaitPidFlag, WaitStatus},
    },
    unistd::{self, Pid},
};
use serde::{Deserialize, Serialize};

use super::{HOSTS_MAX, own_namespace};
use crate::{
    failure::{Doing, Failure},
    holder::{self, wire::Connection},
    namespace,
    netlink::{Link, LinkChange, Netlink},
};

/// The hidden argument.
pub(crate) const KEEPER: &str = "overlay-lab";
/// Second argument of the process that stays.
const SERVE: &str = "serve";

/// What the maker of a lab asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// First, and once. Answer: the hosts' network namespaces, the mount and the process namespace.
    Build { hosts: Vec<Vec<IpNet>>, mtu: u16 },
    /// Set the bridge's port of a host up or down.
    Link { host: usize, up: bool },
    /// End everything.
    End,
}

/// What the keeper answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Failed(Failure),
    Done,
}

/// The underlay: a bridge, and what keeps the hosts' namespaces.
#[derive(Debug)]
struct Underlay {
    netlink: Netlink,
    bridge: u32,
    hosts: Vec<Host>,
}

/// One host: its namespace, and both ends of its link.
#[derive(Debug)]
struct Host {
    namespace: File,
    inside: Netlink,
    interface: u32,
    /// The bridge's end.
    port: u32,
}

/// Runs one of the two processes.
pub(crate) fn run(mode: &str) -> Result<(), Failure> {
    let connection = Connection::new(holder::standard_input()?);
    if mode == SERVE {
        return serve(connection);
    }
    let launched = launch();
    if let Err(failure) = &launched {
        // A maker that is gone needs no answer.
        let _ = connection.send(&Answer::Failed(failure.clone()), &[]);
    }
    launched
}

fn launch() -> Result<(), Failure> {
    let flags = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    namespace::make(flags)?;
    // Nobody waits for it here: it outlives this process, but not the one that made the lab.
    Command::new("/proc/self/exe")
        .arg0("overlay")
        .args([KEEPER, SERVE])
        .stdout(Stdio::null())
        .spawn()
        .map(drop)
        .doing(|| "start the keeper of the hosts".into())
}

/// The process that stays, as long as the one that made the lab.
fn serve(mut connection: Connection) -> Result<(), Failure> {
    let null = File::open("/dev/null").doing(|| "open /dev/null".into())?;
    unistd::dup2_stdin(null.as_fd()).doing(|| "let go of standard input".into())?;
    env::set_current_dir("/").doing(|| "change to /".into())?;
    let first = connection.receive().doing(|| "wait for an order".into())?;
    let (Order::Build { hosts, mtu }, _) = first else {
        return Err(Failure::new("build", &Errno::EINVAL.into()));
    };
    let mut underlay = match build(&hosts, mtu) {
        Ok(underlay) => underlay,
        Err(failure) => {
            let _ = connection.send(&Answer::Failed(failure.clone()), &[]);
            return Err(failure);
        }
    };
    underlay.hand_over(&connection)?;
    let children = children()?;
    loop {
        let mut watched = [
            PollFd::new(connection.as_fd(), PollFlags::POLLIN),
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).doing(|| "wait for orders".into()),
        }
        let spoken = watched.first().and_then(PollFd::any).unwrap_or(true);
        while let Ok(Some(_)) = children.read_signal() {}
        reap(WaitPidFlag::WNOHANG);
        // The end of the stream: whoever made the lab is gone, and the kernel ends what is left with this process.
        if spoken && !connection.fill().doing(|| "hear an order".into())? {
            return Ok(());
        }
        while let Some((order, _)) = connection.next().doing(|| "understand an order".into())? {
            let done = match order {
                Order::Link { host, up } => underlay.set_link(host, up),
                Order::Build { .. } => Err(Failure::new("build", &Errno::EALREADY.into())),
                Order::End => {
                    // From process 1 this is all others of its namespace; there may be none.
                    let _ = signal::kill(Pid::from_raw(-1), Signal::SIGKILL);
                    reap(WaitPidFlag::empty());
                    return answer(&connection, Ok(()));
                }
            };
            answer(&connection, done)?;
        }
    }
}

fn answer(connection: &Connection, done: Result<(), Failure>) -> Result<(), Failure> {
    let answer = done.map_or_else(Answer::Failed, |()| Answer::Done);
    connection.send(&answer, &[]).doing(|| "answer".into())
}

fn children() -> Result<SignalFd, Failure> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().doing(|| "block SIGCHLD".into())?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&signals, flags).doing(|| "open a signal descriptor".into())
}

/// Collects orphans that ended.
fn reap(flags: WaitPidFlag) {
    while !matches!(
        wait::waitpid(None, Some(flags)),
        Ok(WaitStatus::StillAlive) | Err(_)
    ) {}
}

fn build(hosts: &[Vec<IpNet>], mtu: u16) -> Result<Underlay, Failure> {
    if hosts.len() > HOSTS_MAX {
        return Err(Failure::new("make so many hosts", &Errno::E2BIG.into()));
    }
    remount()?;
    let mut netlink = Netlink::open().doing(|| "open a netlink socket".into())?;
    namespace::raise_loopback(&mut netlink)?;
    namespace::quieten_ipv6("default", false);
    let bridge = netlink
        .create_bridge(BRIDGE)
        .doing(|| format!("make the bridge {BRIDGE}"))?;
    raise(&mut netlink, bridge, mtu, None)?;
    let mut underlay = Underlay {
        netlink,
        bridge,
        hosts: Vec::new(),
    };
    for addresses in hosts {
        underlay.add_host(addresses, mtu)?;
    }
    for host in 0..underlay.hosts.len() {
        underlay.await_link(host)?;
    }
    Ok(underlay)
}

/// Shows the lab's own processes in /proc, where that may be mounted, and keeps mounts from the host.
fn remount() -> Result<(), Failure> {
    let propagation = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount::mount(None::<&str>, "/", None::<&str>, propagation, None::<&str>)
        .doing(|| "separate the mounts from the host's".into())?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Best effort: without it, programs see the host's processes.
    let _ = mount::mount(Some("proc"), "/proc", Some("proc"), safe, None::<&str>);
    Ok(())
}

fn raise(
    netlink: &mut Netlink,
    index: u32,
    mtu: u16,
    controller: Option<u32>,
) -> Result<(), Failure> {
    let change = LinkChange {
        up: Some(true),
        mtu: Some(u32::from(mtu)),
        controller,
        ..LinkChange::default()
    };
    let raised = netlink.change(index, change);
    raised.doing(|| format!("set an interface up with MTU {mtu}"))
}

impl Underlay {
    fn add_host(&mut self, addresses: &[IpNet], mtu: u16) -> Result<(), Failure> {
        let home = namespace::current()?;
        namespace::make_network()?;
        let host = namespace::current()?;
        let has_ipv6 = addresses.iter().any(|address| address.addr().is_ipv6());
        namespace::quieten_ipv6("default", has_ipv6);
        let mut inside = Netlink::open().doing(|| "open a netlink socket".into())?;
        namespace::raise_loopback(&mut inside)?;
        namespace::enter(&home)?;
        let name = format!("host{}", self.hosts.len() + 1);
        let port = self
            .netlink
            .create_veth(&name, INTERFACE, Some(host.as_fd()))
            .doing(|| format!("make the veth pair of {name}"))?;
        raise(&mut self.netlink, port, mtu, Some(self.bridge))?;
        let interface = inside
            .link(INTERFACE)
            .doing(|| format!("look for {INTERFACE} of {name}"))?;
        for address in addresses {
            inside
                .add_address(interface.index, *address)
                .doing(|| format!("add {address} to {name}"))?;
        }
        raise(&mut inside, interface.index, mtu, None)?;
        self.hosts.push(Host {
            namespace: host,
            inside,
            interface: interface.index,
            port,
        });
        Ok(())
    }

    /// Hands the namespaces to whoever made the lab.
    fn hand_over(&self, connection: &Connection) -> Result<(), Failure> {
        let own = ["mnt", "pid"].map(own_namespace);
        let [mounts, processes] = own;
        let mounts = mounts.doing(|| "open the mount namespace".into())?;
        let processes = processes.doing(|| "open the process namespace".into())?;
        let hosts = self.hosts.iter().map(|host| host.namespace.as_fd());
        let others = [mounts.as_fd(), processes.as_fd()];
        let all: Vec<BorrowedFd<'_>> = hosts.chain(others).collect();
        connection
            .send(&Answer::Done, &all)
            .doing(|| "hand the namespaces over".into())
    }

    fn set_link(&mut self, host: usize, up: bool) -> Result<(), Failure> {
        let port = self.hosts.get(host).map(|host| host.port);
        let port = port
            .ok_or_else(|| io::Error::from(Errno::ENODEV))
            .doing(|| format!("look for host {host}"))?;
        let change = LinkChange {
            up: Some(up),
            ..LinkChange::default()
        };
        let set = self.netlink.change(port, change);
        set.doing(|| format!("set the link of host {host}"))?;
        if up { self.await_link(host) } else { Ok(()) }
    }

    /// Waits until both ends of a host's link work: the kernel looks at some changes once a second only, and until it
    /// has, an end drops what it is to send.
    fn await_link(&mut self, host: usize) -> Result<(), Failure> {
        let Self { netlink, hosts, .. } = self;
        let Some(found) = hosts.get_mut(host) else {
            return Ok(());
        };
        for _ in 0..LINK_LOOKS_MAX {
            let outer = link(netlink, found.port)?;
            let inner = link(&mut found.inside, found.interface)?;
            let outer = outer.is_some_and(|link| link.running && link.forwarding);
            if outer && inner.is_some_and(|link| link.running) {
                return Ok(());
            }
            let _ = poll(&mut [], PollTimeout::from(LINK_LOOK_MS));
        }
        let doing = format!("wait for the link of host {host}");
        Err(Failure::new(doing, &Errno::ETIMEDOUT.into()))
    }
}

fn link(netlink: &mut Netlink, index: u32) -> Result<Option<Link>, Failure> {
    let links = netlink.links().doing(|| "list interfaces".into())?;
    Ok(links.into_iter().find(|link| link.index == index))
}

const BRIDGE: &str = "underlay";
/// The interface of each host.
const INTERFACE: &str = "eth0";

/// How often a link is looked at: 3 s in all.
const LINK_LOOKS_MAX: u32 = 300;
const LINK_LOOK_MS: u8 = 10;
