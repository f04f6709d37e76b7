//! Linux under the overlay crates: TAP and veth ports, namespaces, netlink, holders

#![deny(unsafe_code)]

mod command;
mod failure;
pub mod holder;
mod linux;
mod namespace;
pub mod netlink;
mod offload;
mod port;
mod process;
mod sys;

pub use command::{CommandSpec, Exit, ProcessId, ProcessStatus, Stdio, WindowSize};
pub use linux::{Found, Linux, Sockets};
pub use namespace::Privilege;
pub use offload::{Offload, PartialChecksum};
pub use port::{FRAME_BYTES_MAX, Port, PortKind};
pub use process::Process;
