//! The kernel plane of networks: bridges, VXLAN devices, rows and filters, compared with what is desired and repaired.
//!
//! Networks whose path is [`DataPath::Kernel`](overlay_core::plane::DataPath) are carried by the system's own devices. No
//! process sees a frame, and all of it goes on while daemons come and go.
//!
//! ```text
//! namespace of the underlay        switch namespace (kept by a file)                    namespace of an endpoint
//!  UDP 4789 ── inet overlay_guard ── ovx4097 ── ovb4097 ── p0123456789abcd ══ veth ══ eth0
//!                                        └ bridge overlay_plane ┘
//! ```
//!
//! A VXLAN device (RFC 7348) has its socket in the namespace in which [`Host`] was opened, and is itself in the switch
//! namespace, with a bridge for each network. Ports are made by the holders of their endpoints
//! ([`Linux::with_switch`](crate::Linux::with_switch)); here they become members. Nothing is learned: each endpoint has a
//! static row on the bridge, each remote one a row on the VXLAN device, and each address a neighbour on the bridge, which
//! answers ARP and neighbour discovery for remote endpoints itself. Broadcast and multicast go to every VTEP of the network.
//!
//! # What is checked
//!
//! By nf_tables, in the words of `overlay-vxlan`: a port sends from its own MAC and IP addresses and to those of its network
//! only, says nothing that is a router's to say, and speaks to all at a bounded rate; a VXLAN device brings what comes from
//! endpoints of the network and no others, from VTEPs that are members of it. What is dropped is counted by reason
//! ([`Host::drops`]).
//!
//! It differs from the user plane in this: a frame to a MAC address that no row has is dropped, and not sent to all VTEPs;
//! which VTEP a known MAC address came from is not looked at, as long as it is a member; questions for addresses that nobody
//! has count as broadcast, and have no rate of their own; and no port is told that a packet is too big.
//!
//! # Encrypted networks
//!
//! What a network with [`DesiredNetwork::encrypted`](overlay_core::plane::DesiredNetwork::encrypted) sends is sealed by the
//! kernel: ESP in transport mode (RFC 4303) with AES-GCM and an ICV of 128 bits (RFC 4106), extended sequence numbers, a
//! window of 2,048 packets, in UDP (RFC 3948). Those are the very packets of `overlay_vxlan::esp`, so that peers may be of
//! either plane. [`can_seal()`] says whether the kernel can; where not, such a network is [`Refused`], and closed: its VNI
//! neither leaves nor enters. It is guarded before its device is made, and without a guard it has none.
//!
//! Keys are [`Desired::peers`](overlay_core::plane::Desired::peers). To replace them without losing a packet, all nodes get
//! the new inbound ones first, then send with the new ones, then forget the old. Keys of a former life of the daemon are as
//! good as new ones: an association that is there is left as it is. A key that was taken away must not come back.
//!
//! Sealed datagrams come by a UDP socket of the [`Host`]: [`Host::sealed_socket`]. As long as a copy of it is open somewhere,
//! they come also while no daemon is there; [`Host::take_sealed_socket`] takes such a copy up again. Without one, peers are
//! not heard until the next life opens it. There is one for the node, so while an encrypted network has the user data path,
//! which needs the same port and the same keys, none has the kernel's.
//!
//! # Who may reach whom
//!
//! A network with a [`policy`](overlay_core::plane::DesiredNetwork::policy) is judged by nf_tables with connection tracking,
//! in the switch namespace, where no program of an endpoint has a say; [`can_filter()`] says whether the kernel can. Where
//! not, such a network is [`Refused`], and nothing of it passes. Rules are there before a port is a member of the bridge, are
//! replaced in one step, and a packet that they have not seen goes nowhere. Networks without rules are not looked at.
//!
//! The words are those of `overlay_vxlan::policy`: who opens a flow decides; the first rule that matches, or the default;
//! replies pass, and errors about a flow from who got the packet to who sent it; of TCP only a SYN opens a flow if the default
//! is to deny; ARP and neighbour discovery pass; what goes to groups is judged packet by packet (and known to the kernel for half a minute all the same); fragments are judged as the
//! packet that they are of. Each packet is judged by who opened its flow: a rule that changes ends the flows that it does
//! not allow, in both directions, until another one allows them. Flows are known here for as long as the kernel knows them
//! (its own time-outs and `nf_conntrack_max`), whatever becomes of the daemon.
//!
//! It differs from the user plane in this. Packets that come here bear addresses of endpoints, as virtual ones are exchanged
//! in the endpoints' own namespaces: there a flow to a virtual address is judged under that
//! ([`EndpointServices`](crate::EndpointServices)), and here, on both nodes, under that of its backend. There is no time to
//! settle: flows from before a network's first rules are not known, and TCP among them ends if the default is to deny.
//! Packets that cannot belong to a flow as tracking sees it, such as of TCP out of its window, are dropped if the default is to
//! deny; a flow that ended with a rule is not opened from its other end between the same ports. Of an error about a flow
//! that is denied the rules for ICMP do not decide. Packets in VLANs are dropped if the default is to deny; if not, they are
//! judged as without a tag, in two tags they are not.
//!
//! # How it is used
//!
//! [`compile()`] and [`plan()`] are pure: what shall be done is a value, whatever the [`Kernel`], and reads as
//! `ovx4097: send 02:42:0a:00:01:03 to 192.0.2.2`. [`Reconciler`] does it, additions before removals and replacements in one
//! step; a second time it does nothing. [`Watch`] says when somebody has changed something. [`check()`] says beforehand why
//! there can be no such plane. Services of such networks are made by [`EndpointServices`](crate::EndpointServices).
//!
//! ```no_run
//! use std::time::Duration;
//! use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
//! use overlay_core::plane::Desired;
//! use overlay_linux::plane::{Host, Reconciler, SwitchNamespace, Underlay, Watch};
//!
//! # fn desired() -> Desired { Desired::default() }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let host = Host::open(SwitchNamespace::open("/run/overlay/switch")?)?;
//! let mut watch = Watch::open(host.namespace())?;
//! let underlay = Underlay { local: "192.0.2.1".parse()?, port: 4789 };
//! let mut plane = Reconciler::new(host, underlay);
//! loop {
//!     let report = plane.apply(&desired())?;
//!     for operation in &report.operations {
//!         println!("{operation}");
//!     }
//!     let watched = watch.descriptors().into_iter();
//!     let mut watched: Vec<_> = watched.map(|one| PollFd::new(one, PollFlags::POLLIN)).collect();
//!     // Now and then also without being told.
//!     poll(&mut watched, PollTimeout::try_from(Duration::from_secs(10))?)?;
//!     watch.is_due()?;
//! }
//! # }
//! ```
//!
//! # What is left alone
//!
//! Devices under other names than ours, whatever they are, with their rows; other tables than `bridge overlay_plane`,
//! `inet overlay_policy` and `inet overlay_guard`; associations and policies with other numbers than ours (`reqid` 0x6f766c79); VNIs that are not ours. A device of somebody's that is made a member of one of our bridges is taken
//! out of it. A VXLAN device owns its UDP port: no program of the underlay's namespace can have it as well.

mod check;
mod compile;
mod devices;
mod filter;
mod filtering;
mod fitness;
mod guard;
mod host;
mod kernel;
mod namespace;
mod plan;
mod policy;
mod reconciler;
mod rows;
mod sealer;
mod sealing;
mod tables;
#[cfg(test)]
mod tests;
mod watch;

pub use check::{Obstacle, check};
pub use compile::{Abilities, Refused, Underlay, Wanted, compile};
pub use filtering::{NoFiltering, can_filter};
pub use fitness::{NoSealing, can_seal};
pub use host::{Drops, Host};
pub use kernel::Kernel;
pub use namespace::SwitchNamespace;
pub use plan::{About, Operation, missing, plan};
pub use policy::TooMany;
pub(crate) use policy::{ACCESS, Access, access};
pub use reconciler::{Reconciler, Report, Stats};
pub use sealing::{Sealing, SealingStep};
pub use tables::{
    Device, Hop, Kind, Membership, Place, Rules, Tables, Tunnel, bridge_name, port_name, vxlan_name,
};
pub use watch::Watch;
