//! One flow: its state, and what is known besides.

use std::{net::SocketAddr, time::Duration};

use crate::{FlowKey, Protocol, Timeouts};

/// What the table knows about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Number of the backend in the balancer's list.
    pub(crate) group: u32,
    /// The client's port as the backend sees it.
    pub(crate) port: u16,
    pub(crate) state: FlowState,
    pub(crate) marks: Marks,
}

/// In which order flows have to make room: the first go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum FlowState {
    Closed,
    Opening,
    Datagram,
    HalfClosed,
    Established,
}

/// What is true of a flow besides its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks(u8);

impl Marks {
    pub(super) const NONE: Self = Self(0);
    /// TCP: the client has no more data.
    pub(crate) const CLIENT_FINISHED: Self = Self(1);
    /// TCP: the backend has no more data.
    pub(crate) const BACKEND_FINISHED: Self = Self(2);
    /// The client is the backend, which sees the virtual address in the place of its own.
    pub(crate) const HAIRPIN: Self = Self(4);
    /// TCP: the sequence is known.
    pub(super) const SEQUENCED: Self = Self(8);
    /// The backend has answered.
    pub(crate) const ANSWERED: Self = Self(16);

    pub(crate) const fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }

    pub(crate) const fn set(&mut self, mark: Self) {
        self.0 |= mark.0;
    }
}

/// Where a client's TCP connection is: the next octet that it sends, and the next one that it awaits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// The next octet that the client sends.
    pub client: u32,
    /// The next octet that the client awaits from the backend.
    pub backend: u32,
}

impl Flow {
    pub(crate) fn new(group: u32, proto: Protocol) -> Self {
        Self {
            group,
            state: match proto {
                Protocol::Tcp => FlowState::Opening,
                Protocol::Udp => FlowState::Datagram,
            },
            port: 0,
            marks: Marks::default(),
        }
    }

    /// A closed connection is kept only for late segments.
    pub(crate) fn is_live(self) -> bool {
        self.state != FlowState::Closed
    }

    /// Whom the backend takes for its client.
    pub(crate) fn source(&self, key: &FlowKey) -> SocketAddr {
        let ip = if self.marks.has(Marks::HAIRPIN) {
            key.vip.addr
        } else {
            key.client.ip()
        };
        SocketAddr::new(ip, self.port)
    }
}

impl FlowState {
    pub(super) const COUNT: usize = 5;
    pub(super) const ALL: [Self; Self::COUNT] = [
        Self::Closed,
        Self::Opening,
        Self::Datagram,
        Self::HalfClosed,
        Self::Established,
    ];

    pub(super) fn place(self) -> usize {
        self as usize
    }

    pub(super) fn timeout(self, timeouts: &Timeouts) -> Duration {
        match self {
            Self::Closed => timeouts.closed,
            Self::Opening => timeouts.opening,
            Self::Datagram => timeouts.datagram,
            Self::HalfClosed => timeouts.half_closed,
            Self::Established => timeouts.established,
        }
    }

    /// Whether both ends have to be told when the flow is forgotten.
    pub(crate) fn needs_reset(self) -> bool {
        matches!(self, Self::HalfClosed | Self::Established)
    }
}
