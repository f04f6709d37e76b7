//! Coalescing in software: the segments of a flow become a super-frame again, the inverse of [`segment`](mod@crate::segment).
//!
//! A virtual interface, and every stage before it, then handles one frame in place of many: checks, look-ups, one system
//! call. Whoever receives a batch of datagrams hands their inner frames to a [`Coalescer`] and [flushes](Coalescer::flush)
//! it at the end of the batch: nothing waits for what may yet come.
//!
//! Two frames become one only if segmenting that one yields both again, octet by octet (but for the identification of IPv4
//! packets that must not be fragmented, which means nothing: RFC 6864 §4.1): equal headers and VLAN tags, without options of
//! IPv4 and extensions of IPv6; for TCP the next sequence number, equal acknowledgement, window and options; for UDP equal lengths;
//! a right checksum. The last segment may be shorter. The frames of a flow stay in their order.

use crate::{
    frame::Frame,
    offload::{Offload, PartialChecksum, Segmentation},
    wire::{
        ethernet, ipv4, ipv6,
        tcp::{self, Flags},
        udp,
    },
};

mod layout;

use layout::Layout;

/// The bounds of a [`Coalescer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoalesceConfig {
    /// Flows of which a super-frame is open. Default 8. Too low: many flows at once are handed on segment by segment.
    pub flows_max: usize,
    /// Segments of one super-frame. Default 64, as in Linux.
    pub segments_max: usize,
    /// Whether datagrams of UDP are coalesced as well. Default true. Where the interface does not take them, they would be
    /// segmented again.
    pub udp: bool,
    /// Whether a checksum that holds no more than the sum of the pseudo-header is taken for one that is still to be completed,
    /// and a TCP segment with such a one, if it is long, for a super-frame. Default true: Linux hands a tunnel's datagrams
    /// from one namespace to another as its sender left them, on which a device would have completed and segmented them. A
    /// damaged packet looks like that once in 65,536 times, as often as it looks right.
    pub unfinished: bool,
}

impl Default for CoalesceConfig {
    fn default() -> Self {
        Self {
            flows_max: 8,
            segments_max: 64,
            udp: true,
            unfinished: true,
        }
    }
}

/// Makes super-frames of the frames of a batch.
///
/// `K` is what frames must have in common beside their own headers, such as their VTEP and network.
#[derive(Debug)]
pub struct Coalescer<K> {
    config: CoalesceConfig,
    /// The first `used` are open; the others keep their buffers.
    open: Vec<Open<K>>,
    used: usize,
    /// What is handed on as it is.
    single: Frame,
}

/// A super-frame to which frames may yet be added.
#[derive(Debug)]
struct Open<K> {
    key: K,
    layout: Layout,
    frame: Frame,
    /// Payload of the first segment, in octets.
    size: usize,
    segments: usize,
    /// Sequence number of the next octet.
    sequence: u32,
    /// TCP flags of all segments.
    flags: Flags,
}

/// The longest that IPv4's total length and a virtio-net header can say.
const FRAME_BYTES_MAX: usize = ethernet::HEADER_BYTES + 65_535;

impl<K: Copy + PartialEq> Coalescer<K> {
    /// Makes one without open super-frames.
    #[must_use]
    pub const fn new(config: CoalesceConfig) -> Self {
        Self {
            config,
            open: Vec::new(),
            used: 0,
            single: Frame::new(),
        }
    }

    /// Takes a frame of the batch. What is complete by now goes to `sink`, with [`Frame::HEADROOM`] octets in front; a
    /// super-frame has a partial checksum. What `sink` leaves of a frame is used again.
    ///
    /// `size_bytes` is the payload of a segment, in octets, if the frame is known to be a super-frame whose checksum is
    /// unfinished.
    pub fn push(
        &mut self,
        key: K,
        bytes: &[u8],
        size_bytes: Option<u16>,
        sink: &mut impl FnMut(K, &mut Frame),
    ) {
        let Some(layout) = Layout::read(bytes) else {
            // A fragment, say, does not tell its ports: whatever is open between its hosts may be of its flow.
            self.close_all_of(sink, |open| open.is_between_hosts_of(bytes));
            return self.hand_on(key, bytes, Offload::NONE, sink);
        };
        let flow = self.open[..self.used]
            .iter()
            .position(|open| open.is_flow_of(key, &layout, bytes));
        let may_join = layout.may_join(bytes) && (self.config.udp || layout.is_tcp());
        if let Some(at) = flow {
            let open = &mut self.open[at];
            if may_join && open.takes(&layout, bytes, self.config.segments_max) {
                if open.add(&layout, bytes) {
                    self.close(at, sink);
                }
                return;
            }
            // The order of the flow is kept: what is open goes first.
            self.close(at, sink);
        }
        let offload = layout.offload(bytes, size_bytes, self.config.unfinished);
        if !may_join || !offload.validated || layout.is_last(bytes) {
            return self.hand_on(key, bytes, offload, sink);
        }
        if self.used == self.config.flows_max.max(1) {
            self.close(0, sink);
        }
        self.begin(key, layout, bytes);
    }

    /// Hands on whatever is open: the end of a batch.
    pub fn flush(&mut self, sink: &mut impl FnMut(K, &mut Frame)) {
        for open in &mut self.open[..self.used] {
            open.finish();
            sink(open.key, &mut open.frame);
        }
        self.used = 0;
    }

    /// Hands on a frame as it is.
    fn hand_on(
        &mut self,
        key: K,
        bytes: &[u8],
        offload: Offload,
        sink: &mut impl FnMut(K, &mut Frame),
    ) {
        self.single
            .receive_buffer(Frame::HEADROOM, bytes.len())
            .copy_from_slice(bytes);
        self.single.set_offload(offload);
        sink(key, &mut self.single);
    }

    fn close_all_of(
        &mut self,
        sink: &mut impl FnMut(K, &mut Frame),
        which: impl Fn(&Open<K>) -> bool,
    ) {
        let mut at = 0;
        while at < self.used {
            if which(&self.open[at]) {
                self.close(at, sink);
            } else {
                at += 1;
            }
        }
    }

    fn begin(&mut self, key: K, layout: Layout, bytes: &[u8]) {
        if self.used == self.open.len() {
            self.open.push(Open {
                key,
                layout,
                frame: Frame::new(),
                size: 0,
                segments: 0,
                sequence: 0,
                flags: Flags(0),
            });
        }
        let open = &mut self.open[self.used];
        self.used += 1;
        open.frame
            .receive_buffer(Frame::HEADROOM, bytes.len())
            .copy_from_slice(bytes);
        (open.key, open.layout) = (key, layout);
        (open.size, open.segments) = (bytes.len() - layout.payload_at, 1);
        if layout.is_tcp() {
            let segment = tcp::Packet::new_unchecked(&bytes[layout.upper_at..]);
            open.sequence = segment.sequence().wrapping_add(octets(open.size));
            open.flags = segment.flags();
        }
    }

    fn close(&mut self, at: usize, sink: &mut impl FnMut(K, &mut Frame)) {
        let open = &mut self.open[at];
        open.finish();
        sink(open.key, &mut open.frame);
        self.used -= 1;
        // The oldest stays in front.
        self.open[at..=self.used].rotate_left(1);
    }
}

impl<K: Copy + PartialEq> Open<K> {
    /// Whether a frame is of the same flow.
    fn is_flow_of(&self, key: K, layout: &Layout, bytes: &[u8]) -> bool {
        let own = self.frame.bytes();
        let ports = layout.upper_at..layout.upper_at + 4;
        self.layout.kind == layout.kind
            && self.layout.upper_at == layout.upper_at
            && own[ports.clone()] == bytes[ports]
            && own[layout.addresses()] == bytes[layout.addresses()]
            && self.key == key
    }

    /// Whether a frame that is part of no super-frame is between the same two hosts.
    fn is_between_hosts_of(&self, bytes: &[u8]) -> bool {
        let addresses = self.layout.addresses();
        bytes
            .get(addresses.clone())
            .is_some_and(|found| *found == self.frame.bytes()[addresses])
    }

    /// Whether a frame of the flow is the next segment, and a right one.
    fn takes(&self, layout: &Layout, bytes: &[u8], segments_max: usize) -> bool {
        let own = self.frame.bytes();
        let payload_bytes = bytes.len() - layout.payload_at;
        self.segments < segments_max
            && payload_bytes <= self.size
            && own.len() + payload_bytes <= FRAME_BYTES_MAX
            && self.layout == *layout
            && own[..layout.network_at] == bytes[..layout.network_at]
            && self.has_same_network_header(bytes)
            && self.has_next_transport_header(bytes)
            && layout.is_checksum_valid(bytes)
    }

    /// Whether the IP headers differ in nothing but lengths, identification and checksum.
    fn has_same_network_header(&self, bytes: &[u8]) -> bool {
        let own = &self.frame.bytes()[self.layout.network_at..];
        let packet = &bytes[self.layout.network_at..];
        if !self.layout.is_ipv4() {
            // Version, traffic class and flow label; hop limit.
            return own[..4] == packet[..4] && own[7] == packet[7];
        }
        let (first, next) = (
            ipv4::Packet::new_unchecked(own),
            ipv4::Packet::new_unchecked(packet),
        );
        let added = next.identification().wrapping_sub(first.identification());
        // Version and traffic class; fragmentation, time to live and protocol.
        own[..2] == packet[..2]
            && own[6..10] == packet[6..10]
            && (next.dont_fragment() || usize::from(added) == self.segments)
    }

    /// Whether the TCP header goes on where this one ends.
    fn has_next_transport_header(&self, bytes: &[u8]) -> bool {
        if !self.layout.is_tcp() {
            return true;
        }
        let range = self.layout.upper_at..self.layout.payload_at;
        let (own, next) = (&self.frame.bytes()[range.clone()], &bytes[range]);
        // Acknowledgement; window; urgent pointer and options. Flags were looked at before.
        tcp::Packet::new_unchecked(next).sequence() == self.sequence
            && own[8..12] == next[8..12]
            && own[14..16] == next[14..16]
            && own[18..] == next[18..]
    }

    /// Adds the payload of the next segment; returns whether it is the last one.
    fn add(&mut self, layout: &Layout, bytes: &[u8]) -> bool {
        let payload = &bytes[layout.payload_at..];
        self.frame.append(payload);
        self.segments += 1;
        let mut last = payload.len() < self.size;
        if layout.is_tcp() {
            self.sequence = self.sequence.wrapping_add(octets(payload.len()));
            let flags = tcp::Packet::new_unchecked(&bytes[layout.upper_at..]).flags();
            self.flags = self.flags | flags;
            last |= flags.contains(Flags::PSH);
        }
        last
    }

    /// Makes the headers those of a super-frame, if it is one.
    fn finish(&mut self) {
        let layout = self.layout;
        let length = self.frame.len();
        if length - layout.payload_at <= self.size {
            self.frame.set_offload(Offload {
                validated: true,
                ..Offload::NONE
            });
            return;
        }
        let upper_bytes = length - layout.upper_at;
        let sum = layout.pseudo_header(self.frame.bytes(), upper_bytes);
        let bytes = self.frame.bytes_mut();
        let packet = &mut bytes[layout.network_at..];
        let lengths = "a super-frame is at most FRAME_BYTES_MAX long";
        if layout.is_ipv4() {
            let total = u16::try_from(packet.len()).expect(lengths);
            let mut packet = ipv4::Packet::new_unchecked(packet);
            packet.set_total_bytes(total);
            packet.fill_checksum();
        } else {
            let payload = u16::try_from(upper_bytes).expect(lengths);
            ipv6::Packet::new_unchecked(packet).set_payload_bytes(payload);
        }
        let upper = &mut bytes[layout.upper_at..];
        if layout.is_tcp() {
            tcp::Packet::new_unchecked(&mut *upper).set_flags(self.flags);
        } else {
            let total = u16::try_from(upper_bytes).expect(lengths);
            udp::Packet::new_unchecked(&mut *upper).set_total_bytes(total);
        }
        let at = layout.checksum_at();
        upper[at..at + 2].copy_from_slice(&sum.fold().to_be_bytes());
        let number = |octets: usize| u16::try_from(octets).expect(lengths);
        self.frame.set_offload(Offload {
            checksum: Some(PartialChecksum {
                start: number(layout.upper_at),
                offset: number(layout.checksum_at()),
            }),
            segment: Some(Segmentation {
                kind: layout.kind,
                size_bytes: number(self.size),
                header_bytes: number(layout.payload_at),
                ecn: false,
            }),
            validated: false,
        });
    }
}

/// A length within a frame, as a difference of sequence numbers.
fn octets(length: usize) -> u32 {
    u32::try_from(length).expect("a frame is below 2^32")
}
