//! The kernel's tracked flows: those to virtual addresses are found, and forgotten (ctnetlink).

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use nix::errno::Errno;

use super::plan::Flow;
use crate::nftables::{
    attribute::{Attributes, Parsed},
    socket::{Message, Socket},
};

/// Finds the flows that `looked_for` says, at most [`FLOWS_MAX`].
pub(super) fn find(
    socket: &mut Socket,
    looked_for: &mut dyn FnMut(&Flow) -> bool,
) -> io::Result<Vec<Flow>> {
    let mut found = Vec::new();
    let question = message(GET, NLM_F_DUMP, 0, Attributes::default());
    socket.ask_each(&question, |answer| {
        let flow = parse(Parsed(answer));
        let flow = flow.filter(|flow| found.len() < FLOWS_MAX && looked_for(flow));
        found.extend(flow);
    })?;
    Ok(found)
}

/// Forgets a flow; one that is gone is fine.
pub(super) fn forget(socket: &mut Socket, flow: &Flow) -> io::Result<()> {
    let family = if flow.to.is_ipv6() { IPV6 } else { IPV4 };
    match socket.ask(&message(DELETE, NLM_F_ACK, family, emit(flow))) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
        forgotten => forgotten.map(drop),
    }
}

fn message(kind: u16, flags: u16, family: u8, about: Attributes) -> Message {
    Message {
        subsystem: SUBSYSTEM,
        kind,
        flags,
        family,
        about,
    }
}

/// What names a flow. Never without its addresses: that would be all flows.
fn emit(flow: &Flow) -> Attributes {
    let (source, destination) = if flow.to.is_ipv6() {
        (V6_SOURCE, V6_DESTINATION)
    } else {
        (V4_SOURCE, V4_DESTINATION)
    };
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let addresses = Attributes::default()
        .value(source, &octets(flow.client.ip()))
        .value(destination, &octets(flow.to.ip()));
    let protocol = Attributes::default()
        .value(PROTOCOL_NUMBER, &[flow.protocol])
        .value(SOURCE_PORT, &flow.client.port().to_be_bytes())
        .value(DESTINATION_PORT, &flow.to.port().to_be_bytes());
    let tuple = Attributes::default()
        .nest(TUPLE_ADDRESSES, &addresses)
        .nest(TUPLE_PROTOCOL, &protocol);
    let about = Attributes::default().nest(ORIGINAL, &tuple);
    match flow.id {
        Some(id) => about.number(ID, id),
        None => about,
    }
}

fn parse(flow: Parsed<'_>) -> Option<Flow> {
    let (protocol, client, to) = tuple(flow.nested(ORIGINAL)?)?;
    // Who answers.
    let (_, backend, _) = tuple(flow.nested(REPLY)?)?;
    Some(Flow {
        protocol,
        client,
        to,
        backend: backend.ip(),
        id: flow.number(ID),
    })
}

/// Protocol, source and destination, where there are ports.
fn tuple(tuple: Parsed<'_>) -> Option<(u8, SocketAddr, SocketAddr)> {
    let addresses = tuple.nested(TUPLE_ADDRESSES)?;
    let address = |v4, v6| -> Option<IpAddr> {
        let v4 = addresses.value(v4).map(<[u8; 4]>::try_from);
        let v6 = addresses.value(v6).map(<[u8; 16]>::try_from);
        match (v4, v6) {
            (Some(Ok(octets)), _) => Some(octets.into()),
            (None, Some(Ok(octets))) => Some(octets.into()),
            _ => None,
        }
    };
    let protocol = tuple.nested(TUPLE_PROTOCOL)?;
    let port = |kind| -> Option<u16> {
        let octets = protocol.value(kind)?.try_into().ok()?;
        Some(u16::from_be_bytes(octets))
    };
    let number = *protocol.value(PROTOCOL_NUMBER)?.first()?;
    let source = SocketAddr::new(address(V4_SOURCE, V6_SOURCE)?, port(SOURCE_PORT)?);
    let to = address(V4_DESTINATION, V6_DESTINATION)?;
    let destination = SocketAddr::new(to, port(DESTINATION_PORT)?);
    Some((number, source, destination))
}

/// Flows that are found at a time; more are found the next time.
const FLOWS_MAX: usize = 65_536;

// `linux/netfilter/nfnetlink_conntrack.h`.
/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_flow_is_heard_as_it_was_said(
            client: SocketAddr, port: u16, other: [u8; 16], protocol: u8, id: Option<u32>,
        ) {
            let address = |last: u8| -> IpAddr {
                let mut octets = other;
                octets[3] = last;
                octets[15] = last;
                if client.is_ipv6() {
                    octets.into()
                } else {
                    [octets[0], octets[1], octets[2], octets[3]].into()
                }
            };
            // As it is heard, without what is no part of it.
            let client = SocketAddr::new(client.ip(), client.port());
            let to = SocketAddr::new(address(1), port);
            let flow = Flow { protocol, client, to, backend: address(2), id };
            let reply = Flow {
                client: SocketAddr::new(flow.backend, port),
                to: client,
                ..flow
            };
            let reply = emit(&reply);
            let reply = Parsed(reply.octets()).value(ORIGINAL).unwrap().to_vec();
            let said = emit(&flow).value(REPLY, &reply);
            prop_assert_eq!(parse(Parsed(said.octets())), Some(flow));
        }

        #[test]
        fn arbitrary_octets_never_panic(octets: Vec<u8>) {
            let _ = parse(Parsed(&octets));
        }
    }
}
