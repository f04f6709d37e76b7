//! Telling both ends of a connection that nobody knows it any more.

use std::net::SocketAddr;

use overlay_core::MacAddr;

use crate::{BackendId, FlowKey, Sequence, frame::answer};

/// A TCP connection that the balancer forgets, of which both ends are to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The connection as the client sees it.
    pub flow: FlowKey,
    /// The backend.
    pub backend: BackendId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whom the backend takes for its client.
    pub source: SocketAddr,
    /// Where frames to the backend are sent, if that is known.
    pub mac: Option<MacAddr>,
    /// Where the connection is; `None` if its segments were not seen as frames.
    pub sequence: Option<Sequence>,
}

impl Reset {
    /// Makes the frame that resets the client, from `source` (the virtual address's) to `destination` (the client's).
    ///
    /// `None` if the sequence is not known: a reset with another is ignored (RFC 5961 §3.2). If the client had not
    /// acknowledged all that it had received, it asks back, and that segment is answered by a reset as one of an unknown
    /// flow.
    pub fn to_client(&self, source: MacAddr, destination: MacAddr) -> Option<Vec<u8>> {
        let Sequence { client, backend } = self.sequence?;
        let vip = SocketAddr::new(self.flow.vip.addr, self.flow.vip.port);
        Some(segment(
            (source, vip),
            (destination, self.flow.client),
            backend,
            client,
        ))
    }

    /// Makes the frame that resets the backend, from `source` (the client's) to `destination` (see [`mac`](Self::mac)).
    ///
    /// `None` as in [`to_client`](Self::to_client).
    pub fn to_backend(&self, source: MacAddr, destination: MacAddr) -> Option<Vec<u8>> {
        let Sequence { client, backend } = self.sequence?;
        Some(segment(
            (source, self.source),
            (destination, self.address),
            client,
            backend,
        ))
    }
}

fn segment(
    (from, source): (MacAddr, SocketAddr),
    (to, destination): (MacAddr, SocketAddr),
    sequence: u32,
    acknowledgement: u32,
) -> Vec<u8> {
    let mut frame = Vec::new();
    answer::ethernet(&mut frame, to.octets(), from.octets(), source.is_ipv6());
    let (source, destination) = (
        (source.ip(), source.port()),
        (destination.ip(), destination.port()),
    );
    let acknowledgement = Some(acknowledgement);
    answer::tcp_reset(&mut frame, source, destination, sequence, acknowledgement);
    frame
}
