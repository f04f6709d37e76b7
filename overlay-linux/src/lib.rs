//! Linux under the overlay crates: TAP and veth ports, namespaces, netlink, holders, the kernel plane.
//!
//! [`Linux`] is the [`Platform`](overlay_core::plane::Platform) of a daemon on Linux. For each endpoint it starts a
//! *holder*: a small process of the daemon's own binary that makes the endpoint's namespaces, its port and its programs,
//! and keeps them while daemons come and go. The daemon gets the port's descriptor and reads and writes frames. All of it
//! by system calls and netlink, without external programs; as root, or as an ordinary user by way of user namespaces.
//!
//! A port that asks for a [`WayOut`](overlay_core::plane::WayOut) gets a second interface on a bridge of the host, with
//! masquerading, as far as the daemon may change the host's network; [`Platform::way_out`](overlay_core::plane::Platform)
//! says whether it did. By the same bridge the host reaches the endpoint: [`Linux::dial`].
//!
//! A socket towards an endpoint may show the address of whoever it speaks for
//! ([`open_stream`](overlay_core::plane::Platform::open_stream) with a source): a proxy's client, which the programs in
//! there then see as their peer. For that the endpoint's namespace gets a routing rule and a table for what is answered, and
//! three settings that let answers have the mark of what they answer.
//!
//! Networks may be carried by the kernel instead of by a process: [`plane`] makes bridges, VXLAN devices, rows and filters
//! such as are desired, and repairs them. For programs whose packets do not pass a switch in user space, [`services`] makes
//! virtual addresses by nf_tables.
//!
//! It does not itself switch, encapsulate or answer anything, has no thread and no runtime of its own, and never changes an
//! interface, a mount or a file that it did not make; but interfaces by which a way out leads are made to forward on a
//! host that is no router, for as long as there is one. It does not isolate programs beyond network, processes, host name
//! and mounts: they see the host's files and run as the daemon's user.
//!
//! # How a daemon uses it
//!
//! ```no_run
//! use std::{io, os::fd::AsFd};
//! use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
//! use overlay_core::{EndpointId, MacAddr, plane::{DataPath, Namespace, Platform, PortSpec}};
//! use overlay_linux::{CommandSpec, Frame, Linux, holder};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // First of all: this very binary is started again as the holder.
//! holder::main_if_holder();
//!
//! let mut linux = Linux::new("/var/lib/overlay/endpoints", std::env::current_exe()?);
//! for found in linux.list()? {
//!     // What an earlier life left: `create_port` with the same spec takes it up.
//!     linux.create_port(&found.spec)?;
//! }
//! let spec = PortSpec {
//!     endpoint: EndpointId::from_bytes([1; 16]),
//!     namespace: Namespace::Own,
//!     interface: "eth0".into(),
//!     mac: MacAddr::from_ipv4([10, 0, 1, 2].into()),
//!     addresses: vec!["10.0.1.2/24".parse()?],
//!     on_link: Vec::new(),
//!     gateway: None,
//!     mtu: 1450,
//!     hostname: "alpine1".into(),
//!     way_out: None,
//!     path: DataPath::User,
//! };
//! let port = linux.create_port(&spec)?.expect("a network of the user plane has one");
//! let resolver = linux.open_sockets(spec.endpoint, "127.0.0.11:53".parse()?)?;
//! let mut main = linux.start(spec.endpoint, CommandSpec::new("/bin/sleep").args(["60"]))?;
//!
//! let mut frame = Frame::new();
//! while main.try_wait()?.is_none() {
//!     let mut watched = [&port.as_fd(), &resolver.udp.as_fd(), &main.as_fd()]
//!         .map(|descriptor| PollFd::new(*descriptor, PollFlags::POLLIN));
//!     poll(&mut watched, PollTimeout::NONE)?;
//!     match port.receive(&mut frame, 1450 + 18) {
//!         Ok(()) => { /* switch.handle_local(now, port, &mut frame, &mut sink) */ }
//!         Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
//!         Err(error) => return Err(error.into()), // the endpoint is gone
//!     }
//! }
//! linux.remove_port(spec.endpoint)?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`holder`] | the process that keeps an endpoint, and the one call that a binary makes for it |
//! | [`hosts`] | several hosts in a box, for demonstrations and tests |
//! | [`netlink`] | links, addresses and routes, blocking |
//! | [`plane`] | networks that the kernel carries |
//! | [`services`] | virtual addresses of services, in the kernel |
//!
//! `unsafe` is in one private module, `sys`: device ioctls, options of sockets, packet sockets, adopted descriptors, and the moment between
//! fork and exec.

#![deny(unsafe_code)]

mod command;
mod failure;
pub mod holder;
pub mod hosts;
mod linux;
mod namespace;
pub mod netlink;
mod nftables;
pub mod plane;
mod port;
mod probe;
mod process;
pub mod services;
mod sys;
mod transparent;
mod way_out;
mod xfrm;

pub use overlay_vxlan::{Frame, Offload, PortCapabilities};

pub use command::{CommandSpec, Exit, ProcessId, ProcessStatus, Stdio, WindowSize};
pub use holder::output::{OutputCursor, Written};
pub use linux::{DroppingChain, EndpointReport, EndpointServices, Found, Linux, Sockets};
pub use namespace::Privilege;
pub use port::{FRAME_BYTES_MAX, Port, PortKind};
pub use probe::{Capabilities, Verdict, capabilities};
pub use process::Process;
pub use sys::peer_groups;
