//! The least that a tunnel in user space does: a frame read from a TAP device is a datagram, and the other way round. What a
//! round trip takes by it is what the system's wake-ups take.

use std::{io, net::UdpSocket, os::fd::AsFd as _};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tun_rs::{DeviceBuilder, Layer};

/// Carries frames between the TAP device `name` and the program of this kind at `peer`, for ever.
pub fn carry(name: &str, local: &str, peer: &str) -> io::Result<()> {
    let device = DeviceBuilder::new().name(name).layer(Layer::L2);
    let tap = device.enable(false).build_sync()?;
    let socket = UdpSocket::bind(local)?;
    socket.connect(peer)?;
    tap.set_nonblocking(true)?;
    socket.set_nonblocking(true)?;
    // As long as VXLAN's header, which says nothing here.
    let mut octets = [0; HEADER_BYTES + FRAME_BYTES_MAX];
    loop {
        let mut sources = [
            PollFd::new(tap.as_fd(), PollFlags::POLLIN),
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut sources, PollTimeout::NONE)?;
        while let Ok(length) = tap.recv(&mut octets[HEADER_BYTES..]) {
            // What does not leave is lost, as on any wire.
            let _ = socket.send(&octets[..HEADER_BYTES + length]);
        }
        while let Ok(length) = socket.recv(&mut octets) {
            let frame = octets.get(HEADER_BYTES..length).unwrap_or_default();
            let _ = tap.send(frame);
        }
    }
}

const HEADER_BYTES: usize = 8;
const FRAME_BYTES_MAX: usize = 2_048;
