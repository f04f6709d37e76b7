//! The node's resolver and its sockets, which are `overlay-dns`'s own.

use std::net::{IpAddr, SocketAddr};

use overlay_core::Instant;
use overlay_dns::{
    Transport,
    driver::{Input, Sockets},
};

use crate::Node;

/// Hands a query or an upstream's answer to the node.
pub(crate) fn handle(node: &mut Node, sockets: &Sockets, now: Instant, input: Input) {
    let mut query = |client, token, transport, bytes: &[u8]| {
        let taken = node.handle_query(now, client, token, transport, bytes);
        // A query that is no message gets no answer; the resolver counts it.
        if taken.is_err() {
            sockets.forget(token);
        }
    };
    match input {
        Input::Datagrams(datagrams) => {
            for (token, bytes) in datagrams.queries() {
                query(datagrams.client, token, Transport::Udp, bytes);
            }
        }
        Input::Query {
            client,
            token,
            transport,
            bytes,
        } => query(client, token, transport, &bytes),
        Input::Upstream {
            upstream,
            from,
            bytes,
        } => {
            node.handle_upstream(now, upstream, from, &bytes);
        }
        Input::UpstreamFailed { upstream } => node.handle_upstream_failed(now, upstream),
    }
}

/// Reads the servers of the host's own `/etc/resolv.conf`.
pub(crate) fn host_upstreams() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    upstreams(&text)
}

fn upstreams(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse::<IpAddr>().ok())
        .map(|server| SocketAddr::new(server, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_order_and_the_rest_is_skipped() {
        let text = "# a comment\nsearch example.org\nnameserver 192.0.2.1\nnameserver\t2001:db8::1\nnameserver junk\n";
        let servers: [SocketAddr; 2] = [
            "192.0.2.1:53".parse().unwrap(),
            "[2001:db8::1]:53".parse().unwrap(),
        ];
        assert_eq!(upstreams(text), servers);
    }
}
