//! What a driver hands over: words on what was ordered, queries, octets of gossip.

use std::net::SocketAddr;

#[cfg(feature = "sim")]
use overlay_core::NetworkId;
use overlay_core::{EndpointId, Instant, plane::PlatformError};
use overlay_dns::{QueryError, QueryToken, Transport, UpstreamToken};
use overlay_gossip::StreamId;
use overlay_raft::PersistTicket;

use super::{Event, Node, Output};
use crate::agent::TaskReport;

impl Node {
    /// Takes the driver's word that a write is durable, and with it all earlier ones.
    pub fn handle_persisted(&mut self, now: Instant, ticket: PersistTicket) {
        self.advance(now);
        if let Some(manager) = &mut self.manager {
            manager.handle_persisted(self.now, ticket);
        }
        self.settle();
    }

    /// Takes the driver's word that a write failed. The manager's part stops: rebuild the node from what the disk holds.
    pub fn handle_persist_failed(&mut self, now: Instant, ticket: PersistTicket) {
        self.advance(now);
        if let Some(manager) = &mut self.manager {
            manager.handle_persist_failed(self.now, ticket);
        }
        self.settle();
    }

    /// Takes the driver's word on a port that [`Output::CreatePort`] asked for.
    pub fn handle_port(
        &mut self,
        now: Instant,
        endpoint: EndpointId,
        result: Result<(), PlatformError>,
    ) {
        self.advance(now);
        self.take_port(endpoint, result);
        self.settle();
    }

    /// Takes the MTU that the underlay has by now, in octets.
    pub fn handle_underlay_mtu(&mut self, now: Instant, mtu: u16) {
        self.advance(now);
        self.agent.set_underlay_mtu(mtu);
        self.plane_dirty = true;
        self.settle();
    }

    /// Takes the digest of the authority that signed the certificate which the node has by now.
    pub fn handle_certificate(&mut self, now: Instant, issuer: [u8; 32]) {
        self.advance(now);
        if std::mem::replace(&mut self.config.issuer, issuer) != issuer {
            self.described = false;
        }
        self.settle();
    }

    /// Takes the driver's word that the system carries what it can of the data plane that was ordered with this number. An
    /// endpoint whose frames the system carries is ready only then.
    pub fn handle_plane(&mut self, now: Instant, number: u64) {
        self.advance(now);
        self.carried = self.carried.max(number.min(self.ordered));
        self.settle();
    }

    pub(super) fn take_port(&mut self, endpoint: EndpointId, result: Result<(), PlatformError>) {
        if let Err(error) = &result {
            let error = error.clone();
            self.outputs
                .push_back(Output::Event(Event::PortFailed { endpoint, error }));
        }
        self.agent.handle_port(self.now, endpoint, result);
        self.plane_dirty = true;
    }

    /// Takes the word of whoever runs the tasks that [`Output::StartTask`] and [`Output::StopTask`] were about.
    pub fn handle_task(&mut self, now: Instant, report: TaskReport) {
        self.advance(now);
        self.agent.handle_task(report);
        self.settle();
    }

    /// Lets go of everything that was assigned to this node, as it has left its cluster or was removed from it.
    pub fn disband(&mut self, now: Instant) {
        self.advance(now);
        self.agent.disband(self.now);
        self.settle();
    }

    /// Returns whether the managers said that this node is none of the cluster's any more.
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// Takes a query that an endpoint sent to its resolver.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if nobody will answer it: the driver forgets `token`.
    pub fn handle_query(
        &mut self,
        now: Instant,
        client: EndpointId,
        token: QueryToken,
        transport: Transport,
        bytes: &[u8],
    ) -> Result<(), QueryError> {
        self.advance(now);
        self.names
            .resolver
            .handle_query(self.now, client, token, transport, bytes)?;
        self.settle();
        Ok(())
    }

    /// Takes the answer of an upstream server.
    pub fn handle_upstream(
        &mut self,
        now: Instant,
        upstream: UpstreamToken,
        from: SocketAddr,
        bytes: &[u8],
    ) {
        self.advance(now);
        let _ = self
            .names
            .resolver
            .handle_upstream(self.now, upstream, from, bytes);
        self.settle();
    }

    /// Takes the driver's word that an upstream server could not be asked.
    pub fn handle_upstream_failed(&mut self, now: Instant, upstream: UpstreamToken) {
        self.advance(now);
        let _ = self
            .names
            .resolver
            .handle_upstream_failed(self.now, upstream);
        self.settle();
    }

    /// Says which servers know foreign names.
    pub fn set_upstreams(&mut self, now: Instant, upstreams: Vec<SocketAddr>) {
        self.advance(now);
        self.names.resolver.set_upstreams(self.now, upstreams);
        self.settle();
    }

    /// Takes a gossip datagram. Malformed ones are counted and dropped.
    pub fn handle_gossip_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.with_gossip(now, |gossip, now| {
            let _ = gossip.handle_datagram(now, from, bytes);
        });
    }

    /// Takes a gossip stream that somebody dialled.
    pub fn handle_stream_opened(&mut self, now: Instant, stream: StreamId, from: SocketAddr) {
        self.with_gossip(now, |gossip, now| {
            gossip.handle_stream_opened(now, stream, from)
        });
    }

    /// Takes the driver's word that a stream it was told to dial stands.
    pub fn handle_stream_connected(&mut self, now: Instant, stream: StreamId) {
        self.with_gossip(now, |gossip, now| {
            gossip.handle_stream_connected(now, stream)
        });
    }

    /// Takes octets of a gossip stream.
    pub fn handle_stream_data(&mut self, now: Instant, stream: StreamId, bytes: &[u8]) {
        self.with_gossip(now, |gossip, now| {
            gossip.handle_stream_data(now, stream, bytes)
        });
    }

    /// Takes the end of a gossip stream, whoever ended it.
    pub fn handle_stream_closed(&mut self, now: Instant, stream: StreamId) {
        self.with_gossip(now, |gossip, now| gossip.handle_stream_closed(now, stream));
    }

    /// Hands leadership to another manager, if this node leads and there is one: do so before stopping.
    pub fn step_aside(&mut self, now: Instant) {
        self.advance(now);
        if let Some(manager) = &mut self.manager {
            manager.step_aside(self.now);
        }
        self.settle();
    }

    /// Says that it is on a network whatever was assigned to it, as a node does that is not to be trusted.
    #[cfg(feature = "sim")]
    pub(crate) fn claim_network(&mut self, now: Instant, network: NetworkId) {
        self.advance(now);
        self.gossip_do(|gossip| gossip.join_network(now, network));
        self.settle();
    }
}
