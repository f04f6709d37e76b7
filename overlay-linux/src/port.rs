//! The frame side of an endpoint's port.

use std::{
    fs::{self, File},
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use overlay_vxlan::{Frame, Offload, PortCapabilities, offload::HEADER_BYTES};
use serde::{Deserialize, Serialize};

use crate::sys;

mod make;

pub(crate) use make::{Made, make};

/// The frame side of an endpoint's port: what the endpoint sends is read here, what it is to receive is written here.
///
/// Reading and writing never block; wait for readiness by the descriptor ([`AsFd`]). The port lives on in its holder, so
/// dropping this closes only this side. The namespace behind it cannot vanish entirely while a `Port` is open.
#[derive(Debug)]
pub struct Port {
    file: File,
    kind: PortKind,
    capabilities: PortCapabilities,
}

/// By what means a port is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortKind {
    /// A TAP interface inside the endpoint's namespace.
    Tap,
    /// A veth pair; its outer end lives in a hidden namespace, with a packet socket bound to it.
    Packet,
    /// A veth pair; its outer end is a member of a bridge of the kernel plane, and nobody reads its frames.
    Bridged,
}

impl Port {
    pub(crate) fn new(descriptor: OwnedFd, kind: PortKind) -> Self {
        let file = File::from(descriptor);
        let (tcp, udp) = match kind {
            // Not with the interface: one that an earlier release made is as good then.
            PortKind::Tap => match sys::set_tap_offload(&file, true) {
                Ok(()) => (true, true),
                Err(_) => (sys::set_tap_offload(&file, false).is_ok(), false),
            },
            PortKind::Packet => (true, takes_udp_segments()),
            PortKind::Bridged => (false, false),
        };
        Self {
            file,
            kind,
            capabilities: PortCapabilities {
                partial_checksum: tcp,
                segmentation: tcp,
                udp_segmentation: udp,
            },
        }
    }

    /// Reads one frame (Ethernet II, without FCS) into `frame`, which is cut or grown to its length.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if none waits; else what the system says. `frame` is empty then. An endpoint that is gone shows as
    /// an error other than `WouldBlock`.
    pub fn read_frame(&self, frame: &mut Vec<u8>) -> io::Result<Offload> {
        frame.resize(FRAME_BYTES_MAX, 0);
        let read = self.read_into(frame);
        let length = read.as_ref().map_or(0, |(length, _)| *length);
        frame.truncate(length);
        read.map(|(_, offload)| offload)
    }

    /// Reads one frame to the beginning of `place` and returns its length; longer ones are dropped.
    ///
    /// For callers that keep headroom before the frame. [`FRAME_BYTES_MAX`] octets are always enough.
    ///
    /// # Errors
    ///
    /// As [`read_frame`](Self::read_frame).
    pub fn read_into(&self, place: &mut [u8]) -> io::Result<(usize, Offload)> {
        let room = place.len();
        loop {
            // One octet more than there is room for tells a frame that does not fit from one that just fits.
            let (mut header, mut beyond) = ([0; HEADER_BYTES], [0; 1]);
            let parts = &mut [
                IoSliceMut::new(&mut header),
                IoSliceMut::new(place),
                IoSliceMut::new(&mut beyond),
            ];
            let read = match (&self.file).read_vectored(parts) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let Some(length) = read.checked_sub(HEADER_BYTES) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            match Offload::parse(&header) {
                Ok(offload) if length <= room => return Ok((length, offload)),
                _ => {}
            }
        }
    }

    /// Reads one frame of at most `bytes_max` octets into `frame`, with room in front for everything that is pushed on it.
    ///
    /// # Errors
    ///
    /// As [`read_frame`](Self::read_frame).
    pub fn receive(&self, frame: &mut Frame, bytes_max: usize) -> io::Result<()> {
        let place = frame.receive_buffer(Frame::HEADROOM, bytes_max);
        let read = self.read_into(place);
        let length = read.as_ref().map_or(0, |(length, _)| *length);
        frame.truncate(length);
        read.map(|(_, offload)| frame.set_offload(offload))
    }

    /// Hands one frame to the endpoint.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the endpoint's queue is full (drop the frame); else what the system says.
    pub fn write_frame(&self, frame: &[u8], offload: Offload) -> io::Result<()> {
        let header = offload.header();
        let (header, _) = header.split_at(HEADER_BYTES);
        loop {
            match (&self.file).write_vectored(&[IoSlice::new(header), IoSlice::new(frame)]) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns what may be written as it is: super-frames, and frames with a partial checksum.
    pub fn capabilities(&self) -> PortCapabilities {
        self.capabilities
    }

    /// By what means the port is attached.
    pub fn kind(&self) -> PortKind {
        self.kind
    }

    /// Makes another handle for the same port. Each frame is read by one of them only.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn try_clone(&self) -> io::Result<Self> {
        let file = self.file.try_clone()?;
        Ok(Self {
            file,
            kind: self.kind,
            capabilities: self.capabilities,
        })
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Port {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Whether the kernel exchanges super-frames of UDP with its virtio header: since Linux 6.2.
///
/// A packet socket cannot be asked; before, it loses them.
pub(crate) fn takes_udp_segments() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    let version: (u32, u32) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    version >= (6, 2)
}

/// Octets that any frame of a port has room in: the largest IP packet, Ethernet header and a VLAN tag.
pub const FRAME_BYTES_MAX: usize = 65_535 + 14 + 4;
