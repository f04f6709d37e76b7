//! VXLAN and inner-frame codecs, forwarding database and switch: the user-space data plane of an overlay network.
//!
//! A [`Switch`] holds the networks of one node: which endpoints are here, behind which port, and which are elsewhere,
//! behind which VTEP. It is handed frames and says where they go, by calling a [`Sink`]. On the way it answers ARP and
//! neighbour discovery from its tables, refuses frames that lie about where they come from, tells senders of packets
//! that are too big, replicates what is for all (within named rates), completes checksums, cuts super-frames and puts the
//! VXLAN header into the headroom of the [`Frame`]. The codecs of [`wire`], the [`Fdb`], [`segment()`] and
//! [`complete_checksum`] can be used alone.
//!
//! It opens no socket and no interface, reads no clock and starts no thread: outer UDP and IP headers are the driver's
//! (mostly the kernel's). It does not route between networks and snoops no multicast groups. Networks may be encrypted
//! ([`esp`]); keys and cipher come from outside.
//!
//! # Driving it
//!
//! Two switches back to back. What one sends to a VTEP is the payload of a UDP datagram to port
//! [4789](wire::vxlan::UDP_PORT); here it is handed to the other one.
//!
//! ```
//! use std::net::{IpAddr, Ipv4Addr};
//! use overlay_core::{Instant, MacAddr, Seed, Vni};
//! use overlay_vxlan::{
//!     Config, Frame, NetworkConfig, Outcome, Outer, PortId, Sink, Switch,
//!     wire::{ethernet, ipv4::{self, Protocol}},
//! };
//!
//! /// Keeps what a switch sends. A driver would write it to an interface or a socket.
//! #[derive(Default)]
//! struct Sent { to_ports: Vec<(PortId, Frame)>, to_vteps: Vec<(IpAddr, Frame)> }
//!
//! impl Sink for Sent {
//!     fn to_port(&mut self, port: PortId, frame: &mut Frame) {
//!         self.to_ports.push((port, std::mem::take(frame)));
//!     }
//!     fn to_vtep(&mut self, vtep: IpAddr, _outer: Outer, frame: &mut Frame) {
//!         self.to_vteps.push((vtep, std::mem::take(frame)));
//!     }
//! }
//!
//! // A network with an endpoint on each of two nodes.
//! let vni = Vni::new(4097).unwrap();
//! let nodes = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)].map(IpAddr::from);
//! let endpoints = [Ipv4Addr::new(10, 0, 1, 2), Ipv4Addr::new(10, 0, 1, 3)];
//! let macs = endpoints.map(MacAddr::from_ipv4);
//! let mut switches = [0, 1].map(|here| {
//!     let there = 1 - here;
//!     let mut switch = Switch::new(Config::default(), Seed::from_u64(here as u64));
//!     let network = NetworkConfig {
//!         subnets: vec!["10.0.1.0/24".parse().unwrap()],
//!         ..NetworkConfig::default()
//!     };
//!     switch.add_network(vni, network).unwrap();
//!     switch.add_port(PortId(7), vni, macs[here], &[endpoints[here].into()]).unwrap();
//!     switch.set_remote(vni, macs[there], &[endpoints[there].into()], nodes[there]).unwrap();
//!     switch.set_vteps(vni, &[nodes[there]].into()).unwrap();
//!     switch
//! });
//!
//! // The endpoint on the first node sends a packet.
//! let mut bytes = [0; 14 + 20 + 5];
//! let link = ethernet::Repr {
//!     destination: macs[1], source: macs[0], ethertype: ethernet::EtherType::IPV4,
//! };
//! link.emit(&mut bytes).unwrap();
//! let network = ipv4::Repr {
//!     source: endpoints[0], destination: endpoints[1], protocol: Protocol(253), payload_bytes: 5, ttl: 64,
//!     traffic_class: 0, identification: 0, dont_fragment: true, more_fragments: false, fragment_offset: 0,
//! };
//! network.emit(&mut bytes[14..]).unwrap();
//! bytes[34..].copy_from_slice(b"hello");
//!
//! // Out: read from the interface with headroom in front, handed to the switch, sent by the sink.
//! let now = Instant::EPOCH;
//! let mut sent = Sent::default();
//! let mut frame = Frame::with_headroom(Frame::HEADROOM, &bytes);
//! assert_eq!(switches[0].handle_local(now, PortId(7), &mut frame, &mut sent), Outcome::ToVtep);
//! let (vtep, mut datagram) = sent.to_vteps.pop().unwrap();
//! assert_eq!((vtep, datagram.len()), (nodes[1], 8 + bytes.len()));
//!
//! // In: received from the socket, handed to the switch, written to the interface by the sink.
//! assert_eq!(switches[1].handle_remote(now, nodes[0], &mut datagram, &mut sent), Outcome::ToPort);
//! let (port, frame) = sent.to_ports.pop().unwrap();
//! assert_eq!((port, frame.bytes()), (PortId(7), &bytes[..]));
//! ```
//!
//! A switch also has outputs, and with learning deadlines and events: it is an [`overlay_core::Machine`], driven by the usual
//! loop. [`Output::Announce`] goes back to [`Switch::announce`] with a sink, [`Output::PathPacket`] to
//! [`Switch::send_path_packet`].
//!
//! # Stages
//!
//! | stage | from a port | from a VTEP |
//! |---|---|---|
//! | open | – | (the driver opens what is sealed) VXLAN header, network, sealed if it is encrypted, member VTEP |
//! | admit | MAC, ARP, IP and ND source are the port's | MAC source is known behind that VTEP; subnets |
//! | *between* | [`Switch::admit_local`] and [`Switch::forward_local`] leave room, for a [`policy`] and a balancer | [`Switch::admit_remote`], [`Switch::forward_remote`] |
//! | decide | answer, too big, one next hop, flood, drop | one port, flood to ports, drop |
//! | carry out | segment, complete checksum, encapsulate (the sink seals) | – |
//!
//! # Choices
//!
//! * Frames with a VLAN tag are dropped unless [`NetworkConfig::vlan_tags`] says otherwise. Up to two tags pass then, and
//!   the packet behind them is checked like any other, or not at all. (RFC 7348 §6.1 would strip a tag on the way out; the
//!   VLANs of an endpoint would then be one.)
//! * Frames of other EtherTypes than ARP, IPv4 and IPv6 are forwarded by their MAC addresses.
//! * Router advertisements and redirects are dropped: no endpoint is a router.
//! * A MAC address that no row has is flooded to the VTEPs, within a rate: rows may still be on their way. What a VTEP
//!   sends for an address that is not here is dropped: nothing is ever sent on.
//! * The outer ECN field is the inner one, and marks of the underlay are carried inwards (RFC 6040; Linux, which also turns
//!   an inner CE into an outer ECT(0), comes to the same mark in the end). The DSCP is the network's unless
//!   [`NetworkConfig::dscp`] says that it is the inner one.
//! * A packet that is too big for the path to a VTEP, and not for the network, is answered with an ICMP error, or cut if it is
//!   IPv4 and may be.
//! * ICMP errors come from the address that the packet went to, because no address here is the network's own.
//!
//! | module | holds |
//! |---|---|
//! | [`switch`], [`sink`] | [`Switch`] and its control plane; [`Sink`], where its frames go |
//! | [`forward`] | the way of a frame through it |
//! | [`frame`], [`offload`] | [`Frame`] with headroom, [`Offload`] with the meaning of virtio-net |
//! | [`encap`], [`decap`] | all outer headers from Ethernet on, for backends without a UDP socket |
//! | [`esp`] | encrypted networks: sealing and opening |
//! | [`policy`] | who on a network may reach whom: rules, and the flows that they allow |
//! | [`segment`](mod@segment), [`coalesce`] | segmentation in software, and its inverse |
//! | [`arrival`] | what a socket with receive offload returned, as datagrams again |
//! | [`fdb`] | the forwarding database |
//! | [`announce`] | telling endpoints that an address moved |
//! | [`pmtu`], [`probing`] | path MTU discovery (RFC 8899): the search, and the probes of the switch |
//! | [`flow`], [`outer`] | the outer source port; DSCP and ECN of the outer header |
//! | [`pcapng`] | what a capture of frames looks like in a file |
//! | [`config`], [`limit`] | bounds, properties of a network, rates |
//! | [`error`], [`stats`] | why something was refused; what was counted |
//! | [`wire`] | Ethernet, VLAN, ARP, IPv4, IPv6, ICMP, UDP, TCP, VXLAN, ESP, checksums |

#![forbid(unsafe_code)]

mod admit;
pub mod announce;
pub mod arrival;
pub mod coalesce;
pub mod config;
pub mod decap;
pub mod encap;
pub mod error;
pub mod esp;
mod exit;
pub mod fdb;
mod few;
pub mod flow;
pub mod forward;
mod fragment;
pub mod frame;
mod hash;
mod headers;
pub mod limit;
mod meters;
mod mss;
pub mod offload;
pub mod outer;
mod path;
pub mod pcapng;
pub mod pmtu;
pub mod policy;
pub mod probing;
mod reply;
pub mod segment;
pub mod sink;
mod slab;
pub mod stats;
pub mod switch;
mod tables;
mod verdict;
pub mod wire;

pub use announce::Announcement;
pub use arrival::Arrival;
pub use coalesce::{CoalesceConfig, Coalescer};
pub use config::{Config, HeaderFormat, NetworkConfig, PortCapabilities, VlanTags};
pub use error::{EndpointError, NetworkError};
pub use fdb::Fdb;
pub use flow::FlowKey;
pub use forward::Outcome;
pub use frame::Frame;
pub use limit::Rate;
pub use offload::{
    Offload, OffloadError, PartialChecksum, SegmentKind, Segmentation, complete_checksum,
};
pub use outer::{Ecn, Outer, OuterDscp, Received};
pub use probing::PathPacket;
pub use segment::{SegmentError, segment};
pub use sink::{Sink, Unsealed};
pub use stats::{DropReason, Drops, PortStats, Stats, Traffic, VtepStats};
pub use switch::{Event, Location, Output, PortId, Switch};
