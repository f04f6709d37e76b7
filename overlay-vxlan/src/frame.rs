//! Frames with room in front.

use crate::offload::Offload;

/// One Ethernet frame, or a super-frame that is still to be segmented, with room for headers in front.
///
/// The room makes encapsulation a write of a few octets: nothing on the way of a frame copies it. A frame that came from
/// a virtual interface may carry an [`Offload`]: work that its sender left to the device.
///
/// ```text
///  buffer: |<------- headroom ------->|<--------- bytes --------->|<-- spare -->|
///                                 head^                       tail^
/// ```
#[derive(Debug, Default)]
pub struct Frame {
    /// Never shrinks: what is spare is not zeroed again for each frame that is read into it.
    buffer: Vec<u8>,
    head: usize,
    tail: usize,
    offload: Offload,
}

impl Frame {
    /// Headroom for everything that this family pushes, in octets: VXLAN, UDP, ESP, UDP once more, and an outer IPv6 and
    /// Ethernet header with a tag are 98.
    pub const HEADROOM: usize = 128;

    /// Makes an empty frame that owns no memory.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            buffer: Vec::new(),
            head: 0,
            tail: 0,
            offload: Offload::NONE,
        }
    }

    /// Makes a frame from a copy of `bytes`, with `headroom` octets in front.
    #[must_use]
    pub fn with_headroom(headroom: usize, bytes: &[u8]) -> Self {
        let mut buffer = Vec::with_capacity(headroom + bytes.len());
        buffer.resize(headroom, 0);
        buffer.extend_from_slice(bytes);
        Self::from_buffer(buffer, headroom)
    }

    /// Makes a frame from `buffer`, which begins `head` octets into it; a `head` behind the end makes it empty.
    #[must_use]
    pub fn from_buffer(buffer: Vec<u8>, head: usize) -> Self {
        let tail = buffer.len();
        Self {
            head: head.min(tail),
            tail,
            buffer,
            offload: Offload::NONE,
        }
    }

    /// Makes the frame `length` octets long, `headroom` octets into its buffer, and returns them to be written.
    ///
    /// For a driver that reads into the frame: what is in there is unspecified, and [`truncate`](Self::truncate) cuts it
    /// to what was read. The offload is cleared. Allocates only while the buffer grows.
    pub fn receive_buffer(&mut self, headroom: usize, length: usize) -> &mut [u8] {
        (self.head, self.tail) = (headroom, headroom + length);
        self.offload = Offload::NONE;
        if self.buffer.len() < self.tail {
            self.buffer.resize(self.tail, 0);
        }
        self.bytes_mut()
    }

    /// Prepends `length` octets and returns them to be written; `None`, and no change, if the headroom is smaller.
    ///
    /// A partial checksum moves with the octets it is about.
    pub fn push_header(&mut self, length: usize) -> Option<&mut [u8]> {
        self.head = self.head.checked_sub(length)?;
        if let Some(checksum) = &mut self.offload.checksum {
            let moved = usize::from(checksum.start).saturating_add(length);
            checksum.start = u16::try_from(moved).unwrap_or(u16::MAX);
        }
        Some(&mut self.buffer[self.head..self.head + length])
    }

    /// Removes `length` octets in front, which become headroom; `None`, and no change, if there are fewer.
    ///
    /// A partial checksum that began in them is forgotten.
    #[must_use = "there may be fewer octets"]
    pub fn pull_header(&mut self, length: usize) -> Option<()> {
        if length > self.len() {
            return None;
        }
        self.head += length;
        self.offload.checksum = self.offload.checksum.and_then(|mut checksum| {
            let moved = usize::from(checksum.start).checked_sub(length)?;
            checksum.start = u16::try_from(moved).ok()?;
            Some(checksum)
        });
        Some(())
    }

    /// Cuts the frame to at most `length` octets.
    pub fn truncate(&mut self, length: usize) {
        self.tail = self.tail.min(self.head.saturating_add(length));
    }

    /// Makes the frame `length` octets long; new octets are zero.
    pub fn resize(&mut self, length: usize) {
        let tail = self.head + length;
        if self.buffer.len() < tail {
            self.buffer.resize(tail, 0);
        }
        if self.tail < tail {
            self.buffer[self.tail..tail].fill(0);
        }
        self.tail = tail;
    }

    /// Adds octets at the end; allocates only while the buffer grows.
    pub fn append(&mut self, bytes: &[u8]) {
        let tail = self.tail + bytes.len();
        if self.buffer.len() < tail {
            self.buffer.resize(tail, 0);
        }
        self.buffer[self.tail..tail].copy_from_slice(bytes);
        self.tail = tail;
    }

    /// Appends `length` octets and returns them to be written; what is in there is unspecified. Allocates only while the
    /// buffer grows.
    pub fn push_trailer(&mut self, length: usize) -> &mut [u8] {
        let begin = self.tail;
        self.tail += length;
        if self.buffer.len() < self.tail {
            self.buffer.resize(self.tail, 0);
        }
        &mut self.buffer[begin..self.tail]
    }

    /// Makes the frame what `other` is, headroom and offload included; allocates only while the buffer grows.
    pub fn copy_from(&mut self, other: &Self) {
        self.receive_buffer(other.head, other.len())
            .copy_from_slice(other.bytes());
        self.offload = other.offload;
    }

    /// Says what the sender left to the device.
    pub fn set_offload(&mut self, offload: Offload) {
        self.offload = offload;
    }

    /// Returns the octets, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.head..self.tail]
    }

    /// Returns the octets.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.head..self.tail]
    }

    /// Returns how many octets there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.tail - self.head
    }

    /// Returns whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many octets of headers can be pushed.
    #[must_use]
    pub const fn headroom(&self) -> usize {
        self.head
    }

    /// Returns what the sender left to the device.
    #[must_use]
    pub const fn offload(&self) -> Offload {
        self.offload
    }
}

/// Copies octets and offload; what is in the headroom and spare is not copied.
impl Clone for Frame {
    fn clone(&self) -> Self {
        let mut copy = Self::with_headroom(self.head, self.bytes());
        copy.offload = self.offload;
        copy
    }
}

/// Equal octets, headroom and offload.
impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        (self.bytes(), self.head, self.offload) == (other.bytes(), other.head, other.offload)
    }
}

impl Eq for Frame {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::PartialChecksum;

    #[test]
    fn pushing_and_pulling_move_no_octets() {
        let mut frame = Frame::with_headroom(8, b"inner");
        let at = frame.bytes().as_ptr();
        frame.push_header(8).unwrap().copy_from_slice(b"8 octets");
        assert_eq!(frame.bytes(), b"8 octetsinner");
        assert_eq!(frame.headroom(), 0);
        frame.pull_header(8).unwrap();
        assert_eq!(frame.bytes().as_ptr(), at);
        assert_eq!(frame.bytes(), b"inner");
    }

    #[test]
    fn too_little_headroom_changes_nothing() {
        let mut frame = Frame::with_headroom(7, b"inner");
        let before = frame.clone();
        assert!(frame.push_header(8).is_none());
        assert!(frame.pull_header(6).is_none());
        assert_eq!(frame, before);
        assert!(frame.push_header(7).is_some());
    }

    #[test]
    fn a_partial_checksum_moves_with_its_octets() {
        let mut frame = Frame::with_headroom(8, &[0; 60]);
        let checksum = PartialChecksum {
            start: 34,
            offset: 16,
        };
        frame.set_offload(Offload {
            checksum: Some(checksum),
            ..Offload::NONE
        });
        frame.push_header(8).unwrap();
        assert_eq!(frame.offload().checksum.unwrap().start, 42);
        frame.pull_header(8).unwrap();
        assert_eq!(frame.offload().checksum, Some(checksum));
        frame.pull_header(35).unwrap();
        assert_eq!(frame.offload().checksum, None);
    }

    #[test]
    fn a_receive_buffer_is_reused() {
        let mut frame = Frame::with_headroom(4, b"old content");
        frame.set_offload(Offload {
            validated: true,
            ..Offload::NONE
        });
        frame.receive_buffer(2, 3).copy_from_slice(b"new");
        frame.truncate(2);
        assert_eq!((frame.bytes(), frame.headroom()), (&b"ne"[..], 2));
        assert_eq!(frame.offload(), Offload::NONE);
        assert!(Frame::from_buffer(vec![1, 2], 3).is_empty());
    }

    #[test]
    fn octets_that_were_cut_off_do_not_come_back() {
        let mut frame = Frame::with_headroom(2, b"secret");
        frame.truncate(1);
        frame.truncate(4);
        assert_eq!(frame.bytes(), b"s");
        frame.resize(4);
        assert_eq!(frame.bytes(), b"s\0\0\0");
        frame.resize(8);
        assert_eq!(frame.bytes(), b"s\0\0\0\0\0\0\0");
        assert_eq!(frame, frame.clone());
        let mut copy = Frame::new();
        copy.copy_from(&frame);
        assert_eq!(copy, frame);
    }
}
