//! What the machine asks its driver to do, and what it tells.

use std::net::SocketAddr;

use bytes::Bytes;
use overlay_core::{EndpointId, NetworkId};

use crate::{Member, Name, Row};

/// The name of a stream between the machine and its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamId {
    /// A stream that the machine asked for; the machine counts these.
    Dialled(u64),
    /// A stream that somebody else opened; the driver counts these and never uses a number twice.
    Accepted(u64),
}

/// What the driver has to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "events are rare beside their handling, and a box would be an allocation for each"
)]
pub enum Output {
    /// Send one datagram.
    Datagram {
        /// Where to.
        to: SocketAddr,
        /// At most [`Limits::packet_bytes_max`](crate::Limits::packet_bytes_max) octets.
        bytes: Vec<u8>,
    },
    /// Open a stream. Report [`handle_stream_connected`](crate::Gossip::handle_stream_connected) or
    /// [`handle_stream_closed`](crate::Gossip::handle_stream_closed); octets sent before are to be kept.
    Dial {
        /// Its name from now on.
        stream: StreamId,
        /// Where to.
        to: SocketAddr,
    },
    /// Write octets to a stream.
    StreamSend {
        /// The stream.
        stream: StreamId,
        /// The octets.
        bytes: Vec<u8>,
    },
    /// Write out what was sent, then close. The stream's name is not used again; nothing more need be reported.
    StreamClose {
        /// The stream.
        stream: StreamId,
    },
    /// Something that the embedder wants to know.
    Event(Event),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "events are rare beside their handling, and a box would be an allocation for each"
)]
pub enum Event {
    /// A member is there: it is new, or it came back from Down or Left.
    MemberAlive(Member),
    /// A member changed its address, meta data or versions.
    MemberUpdated(Member),
    /// A member is suspected; `by` is who said so first.
    MemberSuspect {
        /// The member.
        member: Member,
        /// Who suspects it.
        by: Name,
    },
    /// A suspicion was refuted.
    MemberRefuted(Member),
    /// A member did not refute in time. Its rows are hidden.
    MemberDown(Member),
    /// A member left. Its rows are gone.
    MemberLeft(Member),
    /// Somebody claims the name of a member from another address, and was not believed: without a verifier.
    NameConflict {
        /// The name.
        name: Name,
        /// The address that was believed before.
        known: SocketAddr,
        /// The other address.
        claimed: SocketAddr,
    },
    /// The verifier refused a claim of the name of a member, or of ours. Told at most once a second.
    ClaimRefused {
        /// The name.
        name: Name,
        /// The address that is believed; `None` if nothing is known of the name.
        known: Option<SocketAddr>,
        /// The address that was claimed.
        claimed: SocketAddr,
        /// Source address of the packet or stream. Members that have the same verifier pass on no such claim, so it is
        /// the one who made it up, unless that forged its source address.
        from: SocketAddr,
    },
    /// Leaving was told to the others (or took too long): the driver may stop.
    LeaveDone,
    /// A seed or member answered a join.
    Joined {
        /// Its address.
        address: SocketAddr,
    },
    /// A message of the application arrived.
    UserMessage {
        /// Source address of the packet or stream.
        from: SocketAddr,
        /// The octets.
        bytes: Bytes,
    },
    /// A member is in a network now.
    NetworkMemberJoined {
        /// The network.
        network: NetworkId,
        /// The member.
        member: Name,
    },
    /// A member is no longer in a network, or is Down, or left.
    NetworkMemberLeft {
        /// The network.
        network: NetworkId,
        /// The member.
        member: Name,
    },
    /// The table of a network that we joined was fetched from a member (or nobody else is in it).
    NetworkSynced {
        /// The network.
        network: NetworkId,
    },
    /// A visible row changed. Played back from the start, these events give exactly
    /// [`rows`](crate::Gossip::rows), own rows included.
    RowChanged {
        /// The network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// The member that runs it.
        owner: Name,
        /// What was visible before; `None` for a new row and for one that is shown again.
        previous: Option<Row>,
        /// What is visible now; `None` if it was deleted or hidden.
        row: Option<Row>,
    },
}
