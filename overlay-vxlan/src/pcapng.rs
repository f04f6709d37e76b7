//! Captured frames as a pcapng file (draft-ietf-opsawg-pcapng): a writer that appends blocks to a buffer.
//!
//! A file is a section header, a description of each network (an "interface" of link type Ethernet), and a block for each
//! frame: the inner frame, after decryption and without outer headers, with direction, peer, and why it was dropped.
//!
//! ```
//! use std::time::Duration;
//! use overlay_vxlan::{DropReason, Frame, pcapng::{Captured, Direction, Writer}};
//!
//! let mut file = Vec::new();
//! let mut writer = Writer::new(262_144, &mut file);
//! let network = writer.interface("blue", 1_450, &mut file);
//! let frame = Frame::with_headroom(0, &[0xff; 60]);
//! let captured = Captured {
//!     since_epoch: Duration::from_secs(1_700_000_000),
//!     direction: Direction::Outbound,
//!     peer: Some("192.0.2.2".parse().unwrap()),
//!     dropped: Some(DropReason::FloodRate),
//! };
//! writer.frame(network, &captured, &frame, &mut file);
//! assert_eq!(file.len() % 4, 0);
//! ```

use std::{net::IpAddr, time::Duration};

use crate::{
    frame::Frame,
    offload::{Offload, Segmentation},
    stats::DropReason,
};

/// Appends blocks to a buffer that the caller writes out and clears.
///
/// Numbers are little-endian, times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Writer {
    snap_bytes: u32,
    interfaces: u32,
}

/// A network of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId(u32);

/// Which way a frame went, seen from the endpoints of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To an endpoint.
    Inbound,
    /// From an endpoint.
    Outbound,
}

/// What is known of a frame beside its octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When, since 1970-01-01 UTC without leap seconds; the caller's clock. Times beyond the year 2554 become that year.
    pub since_epoch: Duration,
    /// Which way.
    pub direction: Direction,
    /// The VTEP that it came from or went to, if it was one.
    pub peer: Option<IpAddr>,
    /// Why it was dropped, if it was.
    pub dropped: Option<DropReason>,
}

impl Writer {
    /// Begins a file: appends the section header to `out`. Of each frame at most `snap_bytes` octets are kept.
    #[must_use]
    pub fn new(snap_bytes: u32, out: &mut Vec<u8>) -> Self {
        block(out, SECTION_HEADER, |out| {
            out.extend(BYTE_ORDER.to_le_bytes());
            out.extend(VERSION.into_iter().flat_map(u16::to_le_bytes));
            // Nobody knows yet how long it will be.
            out.extend(u64::MAX.to_le_bytes());
            option(out, USER_APPLICATION, b"overlay-vxlan");
            end_of_options(out);
        });
        Self {
            snap_bytes,
            interfaces: 0,
        }
    }

    /// Appends the description of a network, which comes before its frames. A name is cut at 1,024 octets.
    pub fn interface(&mut self, name: &str, mtu: u16, out: &mut Vec<u8>) -> InterfaceId {
        let mut end = name.len().min(NAME_BYTES_MAX);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        block(out, INTERFACE_DESCRIPTION, |out| {
            out.extend(ETHERNET.to_le_bytes());
            out.extend([0, 0]);
            out.extend(self.snap_bytes.to_le_bytes());
            option(
                out,
                INTERFACE_NAME,
                name.get(..end).unwrap_or_default().as_bytes(),
            );
            option(
                out,
                INTERFACE_DESCRIPTION_TEXT,
                format!("MTU {mtu}").as_bytes(),
            );
            option(out, TIME_RESOLUTION, &[NANOSECONDS]);
            end_of_options(out);
        });
        let id = InterfaceId(self.interfaces);
        self.interfaces = self.interfaces.saturating_add(1);
        id
    }

    /// Appends a frame. A super-frame is written whole, with a comment that says what the device was to do with it.
    pub fn frame(
        &self,
        interface: InterfaceId,
        captured: &Captured,
        frame: &Frame,
        out: &mut Vec<u8>,
    ) {
        let bytes = frame.bytes();
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let kept = length.min(self.snap_bytes);
        let nanoseconds = u64::try_from(captured.since_epoch.as_nanos()).unwrap_or(u64::MAX);
        let [high, low] = [nanoseconds >> 32, nanoseconds & 0xffff_ffff];
        block(out, ENHANCED_PACKET, |out| {
            let times = [high, low].map(|half| u32::try_from(half).unwrap_or(u32::MAX));
            let fields = [interface.0, times[0], times[1], kept, length];
            out.extend(fields.into_iter().flat_map(u32::to_le_bytes));
            padded(out, bytes.get(..kept as usize).unwrap_or(bytes));
            let direction = match captured.direction {
                Direction::Inbound => INBOUND,
                Direction::Outbound => OUTBOUND,
            };
            option(out, PACKET_FLAGS, &direction.to_le_bytes());
            if let Some(peer) = captured.peer {
                comment(out, &format!("peer {peer}"));
            }
            if let Some(reason) = captured.dropped {
                comment(out, &format!("dropped: {reason}"));
            }
            comment_offload(out, frame.offload());
            end_of_options(out);
        });
    }
}

fn comment_offload(out: &mut Vec<u8>, offload: Offload) {
    if let Some(Segmentation {
        kind, size_bytes, ..
    }) = offload.segment
    {
        comment(
            out,
            &format!("super-frame, to be cut to segments of {size_bytes} octets ({kind:?})"),
        );
    }
    if offload.checksum.is_some() {
        comment(out, "the checksum is yet to be completed");
    }
}

/// Appends a block: its type, its length, what `body` appends, and the length again.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let length = out.len() - start + 4;
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    out.extend(length);
    if let Some(field) = out.get_mut(start + 4..start + 8) {
        field.copy_from_slice(&length);
    }
}

/// Appends an option, of which the first 65,535 octets count.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend(code.to_le_bytes());
    out.extend(length.to_le_bytes());
    padded(out, value.get(..usize::from(length)).unwrap_or(value));
}

/// Appends octets, and zeroes up to a multiple of four.
fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    let padding = bytes.len().next_multiple_of(4) - bytes.len();
    out.extend(std::iter::repeat_n(0, padding));
}

fn comment(out: &mut Vec<u8>, text: &str) {
    option(out, COMMENT, text.as_bytes());
}

fn end_of_options(out: &mut Vec<u8>) {
    option(out, END_OF_OPTIONS, &[]);
}

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const VERSION: [u16; 2] = [1, 0];
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;
const NAME_BYTES_MAX: usize = 1_024;

const END_OF_OPTIONS: u16 = 0;
const COMMENT: u16 = 1;
const PACKET_FLAGS: u16 = 2;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_DESCRIPTION_TEXT: u16 = 3;
const USER_APPLICATION: u16 = 4;
const TIME_RESOLUTION: u16 = 9;
/// Ten to the power of minus nine seconds.
const NANOSECONDS: u8 = 9;
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
