//! Linux under the overlay crates: TAP and veth ports, namespaces, netlink, holders

#![deny(unsafe_code)]

mod command;
mod failure;
pub mod holder;
pub mod hosts;
mod linux;
mod namespace;
pub mod netlink;
mod port;
mod probe;
mod process;
mod sys;

pub use command::{CommandSpec, Exit, ProcessId, ProcessStatus, Stdio, WindowSize};
pub use linux::{Found, Linux, Sockets};
pub use namespace::Privilege;
pub use overlay_vxlan::{Frame, Offload};
pub use port::{FRAME_BYTES_MAX, Port, PortKind};
pub use probe::{Capabilities, Verdict, capabilities};
pub use process::Process;
