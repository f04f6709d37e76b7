//! One endpoint on a VXLAN: a TAP interface, a switch, and a UDP socket on port 4789.
//!
//! ```console
//! # vxlan-tap --name tap0 --mac 02:00:00:00:00:01 --address 10.0.0.1/24 --vni 77 \
//!       --local 192.0.2.1 --peer 192.0.2.2 --remote 02:00:00:00:00:02=10.0.0.2
//! ```
//!
//! What a program has to do around an [`overlay_vxlan::Switch`] is in [`Path::run`]: it hands over what came, with the time,
//! and is a [`Sink`] for what leaves. It ends with a signal; the interface goes with it. As root.

#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "a program has a clock; the switch has none"
)]
#![expect(clippy::print_stdout, reason = "it says what it learned")]

mod args;

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read},
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant as Clock},
};

use anyhow::Context as _;
use clap::Parser as _;
use ipnet::IpNet;
use overlay_core::{Instant, Machine as _, Seed};
use overlay_linux::netlink::{LinkChange, Netlink};
use overlay_vxlan::{
    Arrival, CoalesceConfig, Coalescer, Config, Ecn, Frame, NetworkConfig, Offload, Outer, Output,
    PortCapabilities, PortId, Received, Sink, Switch, VlanTags,
    offload::HEADER_BYTES,
    outer::encapsulation_bytes,
    wire::vxlan::{self, UDP_PORT},
};
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use args::Args;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut netlink = Netlink::open().context("open a netlink socket")?;
    let mtu = match (args.mtu, netlink.mtu_at(args.local)?) {
        (Some(mtu), _) => mtu,
        (None, Some(underlay)) => underlay.saturating_sub(encapsulation_bytes(args.peer)),
        (None, None) => anyhow::bail!("no interface has the address {}", args.local),
    };
    let socket = UdpSocket::bind((args.local, UDP_PORT));
    let socket = socket.with_context(|| format!("bind UDP {UDP_PORT} of {}", args.local))?;
    let state = UdpSocketState::new((&socket).into())?;
    let tap = DeviceBuilder::new()
        .name(&args.name)
        .layer(Layer::L2)
        // Super-frames and partial checksums are taken: a virtio-net header precedes each frame.
        .offload(true)
        .enable(false)
        .build_sync();
    let tap = tap.with_context(|| format!("make the TAP interface {}", args.name))?;
    tap.set_nonblocking(true)?;
    let switch = switch(&args, mtu, &tap)?;
    furnish(&mut netlink, &args, mtu).with_context(|| format!("set up {}", args.name))?;
    println!("{} is up, with an MTU of {mtu}", args.name);
    let mut path = Path {
        switch,
        ends: Ends { tap, socket, state },
        coalescer: Coalescer::new(CoalesceConfig::default()),
        frame: Frame::new(),
        octets: vec![0; RECEIVE_BYTES],
        started: Clock::now(),
    };
    path.run().context("wait for frames")
}

/// Makes a switch with one network, of which one endpoint is here.
fn switch(args: &Args, mtu: u16, tap: &SyncDevice) -> anyhow::Result<Switch> {
    let mut seed = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    let mut switch = Switch::new(Config::default(), Seed::from_bytes(seed));
    let network = NetworkConfig {
        mtu,
        learning: args.learn.then_some(Duration::from_secs(300)),
        vlan_tags: if args.vlan_tags {
            VlanTags::Carry
        } else {
            VlanTags::Drop
        },
        ..NetworkConfig::default()
    };
    switch.add_network(args.vni, network)?;
    let own = args.addresses.iter().map(IpNet::addr);
    let own: Vec<_> = own.chain(args.also.iter().copied()).collect();
    switch.add_port(PORT, args.vni, args.mac, &own)?;
    let capabilities = PortCapabilities {
        partial_checksum: true,
        segmentation: tap.tcp_gso(),
        udp_segmentation: tap.udp_gso(),
    };
    switch.set_port_capabilities(PORT, capabilities)?;
    switch.set_vteps(args.vni, &[args.peer].into())?;
    for (mac, addresses) in &args.remotes {
        switch.set_remote(args.vni, *mac, addresses, args.peer)?;
    }
    Ok(switch)
}

fn furnish(netlink: &mut Netlink, args: &Args, mtu: u16) -> io::Result<()> {
    let link = netlink.link(&args.name)?;
    let change = LinkChange {
        mac: Some(args.mac),
        mtu: Some(mtu.into()),
        queue_frames_max: Some(2_000),
        ..LinkChange::default()
    };
    netlink.change(link.index, change)?;
    for address in &args.addresses {
        netlink.add_address(link.index, *address)?;
    }
    let up = LinkChange {
        up: Some(true),
        ..LinkChange::default()
    };
    netlink.change(link.index, up)
}

/// The way of frames between the interface and the socket.
struct Path {
    switch: Switch,
    ends: Ends,
    coalescer: Coalescer<Tunnel>,
    frame: Frame,
    octets: Vec<u8>,
    started: Clock,
}

/// What frames of one super-frame have in common beside their own headers.
type Tunnel = (Received, [u8; vxlan::HEADER_BYTES]);

/// Where frames leave. What cannot leave is lost, as on any wire.
struct Ends {
    tap: SyncDevice,
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Sink for Ends {
    fn to_port(&mut self, _port: PortId, frame: &mut Frame) {
        let header = frame.offload().header();
        let parts = [
            IoSlice::new(&header[..HEADER_BYTES]),
            IoSlice::new(frame.bytes()),
        ];
        let _ = self.tap.send_vectored(&parts);
    }

    // All flows have one outer source port here. With some sockets, `outer.source_port` would say which one to take.
    fn to_vtep(&mut self, vtep: IpAddr, outer: Outer, frame: &mut Frame) {
        let datagram = Transmit {
            destination: SocketAddr::new(vtep, UDP_PORT),
            ecn: EcnCodepoint::from_bits(outer.traffic_class),
            contents: frame.bytes(),
            segment_size: None,
            src_ip: None,
        };
        let _ = self.state.try_send((&self.socket).into(), &datagram);
    }
}

impl Path {
    fn run(&mut self) -> io::Result<()> {
        loop {
            let due = self.switch.poll_timeout();
            let due = due.map(|due| due.duration_since(self.now()));
            let due = due.and_then(|due| Timespec::try_from(due).ok());
            let mut watched = [
                PollFd::new(&self.ends.tap, PollFlags::IN),
                PollFd::new(&self.ends.socket, PollFlags::IN),
            ];
            match poll(&mut watched, due.as_ref()) {
                Err(error) if error != rustix::io::Errno::INTR => return Err(error.into()),
                _ => {}
            }
            for turn in [Self::read, Self::receive] {
                match (0..BATCH).try_for_each(|_| turn(self)) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
            self.switch.handle_timeout(self.now());
            while let Some(output) = self.switch.poll_output() {
                self.obey(&output);
            }
        }
    }

    /// Takes a frame from the interface to the switch.
    fn read(&mut self) -> io::Result<()> {
        let mut header = [0; HEADER_BYTES];
        let place = self.frame.receive_buffer(Frame::HEADROOM, FRAME_BYTES_MAX);
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(place)];
        let read = self.ends.tap.recv_vectored(&mut parts)?;
        self.frame.truncate(read.saturating_sub(HEADER_BYTES));
        if let Ok(offload) = Offload::parse(&header) {
            self.frame.set_offload(offload);
            let now = self.now();
            self.switch
                .handle_local(now, PORT, &mut self.frame, &mut self.ends);
        }
        Ok(())
    }

    /// Takes datagrams from the socket to the switch, and makes super-frames of them on the way.
    fn receive(&mut self) -> io::Result<()> {
        let now = self.now();
        let mut meta = [RecvMeta::default()];
        let room = &mut [IoSliceMut::new(&mut self.octets)];
        match self
            .ends
            .state
            .recv((&self.ends.socket).into(), room, &mut meta)
        {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            // An ICMP error that an earlier datagram met.
            Err(_) => return Ok(()),
            Ok(_) => {}
        }
        let [meta] = meta;
        let received = Received {
            from: meta.addr.ip(),
            ecn: Ecn::from_traffic_class(meta.ecn.map_or(0, |ecn| ecn as u8)),
            sealed: false,
        };
        let arrival = Arrival::new(received, &self.octets[..meta.len], meta.stride);
        let (switch, ends) = (&mut self.switch, &mut self.ends);
        let mut forward = |(received, header): Tunnel, frame: &mut Frame| {
            if let Some(place) = frame.push_header(header.len()) {
                place.copy_from_slice(&header);
            }
            switch.handle_remote(now, received, frame, ends);
        };
        for datagram in arrival.datagrams() {
            // What is too short for a header is counted as such.
            let (header, inner) = datagram.split_first_chunk().unwrap_or((&[0; _], &[]));
            let (tunnel, size_bytes) = ((received, *header), arrival.segment_bytes());
            self.coalescer.push(tunnel, inner, size_bytes, &mut forward);
        }
        self.coalescer.flush(&mut forward);
        Ok(())
    }

    fn obey(&mut self, output: &Output) {
        let now = self.now();
        match output {
            Output::Event(event) => println!("{event:?}"),
            Output::Announce(announcement) => {
                self.switch.announce(now, announcement, &mut self.ends);
            }
            Output::PathPacket(packet) => {
                self.switch.send_path_packet(now, packet, &mut self.ends);
            }
        }
    }

    fn now(&self) -> Instant {
        let nanoseconds = self.started.elapsed().as_nanos();
        Instant::from_nanos(nanoseconds.try_into().unwrap_or(u64::MAX))
    }
}

const PORT: PortId = PortId(0);
/// Frames and datagrams that are handled before the other end has its turn.
const BATCH: usize = 64;
/// A super-frame of 64 KiB with its header and a tag.
const FRAME_BYTES_MAX: usize = 65_535 + 14 + 4;
/// What the system joins datagrams up to.
const RECEIVE_BYTES: usize = 65_535;
