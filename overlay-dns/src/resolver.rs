//! The machine.

use std::{collections::VecDeque, fmt, net::SocketAddr, sync::Arc};

use ipnet::IpNet;
use overlay_core::{EndpointId, Instant, Machine, NetworkId, Seed, ServiceId};

use crate::{
    answer::{self, Scratch, Verdict},
    cache::Cache,
    compose::Members,
    config::Config,
    directory::Directory,
    error::{QueryError, UpstreamError},
    event::Event,
    forward::{self, AskError, Context, Finished, Forwarder, Waiter},
    holder::{Held, Holder, Limits},
    names::Keyed,
    query::{self, Asked, Rejected},
    records::{Records, ServiceRecords, View},
    reply::Reader,
    stats::Stats,
    wire::{Compressor, Name, Rcode},
};

/// Names a query for its driver, which chose the number. It comes back with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryToken(pub u64);

/// Names one query to one upstream server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamToken(pub u64);

/// How a message travels. Over TCP the two octets of length are the driver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Datagrams; answers are cut to what the client takes.
    Udp,
    /// Streams; answers are whole.
    Tcp,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send an answer to the client that asked.
    Answer {
        /// The client.
        client: EndpointId,
        /// The number that came with the query.
        token: QueryToken,
        /// The message. It may be handed back to [`Resolver::recycle`] when it has been sent.
        bytes: Vec<u8>,
    },
    /// Ask an upstream server, from a fresh socket with a random port (RFC 5452 §9.2). What comes back there goes to
    /// [`Resolver::handle_upstream`], an error of the socket to [`Resolver::handle_upstream_failed`].
    Forward {
        /// Names this query.
        upstream: UpstreamToken,
        /// The server.
        to: SocketAddr,
        /// How to ask.
        transport: Transport,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Close the socket of a forward. There is exactly one for each.
    CloseForward {
        /// The query.
        upstream: UpstreamToken,
    },
    /// Something that may be logged.
    Event(Event),
}

/// Answers the queries of endpoints from their views, and forwards foreign names.
///
/// See the [crate documentation](crate) for the loop that drives it.
/// Its `Debug` form shows the state without queued outputs, counters, and what is kept for speed alone.
pub struct Resolver {
    config: Config,
    directory: Directory,
    forwarder: Forwarder,
    cache: Cache,
    scratch: Scratch,
    queue: VecDeque<Output>,
    spare: Vec<Vec<u8>>,
    stats: Stats,
    now: Instant,
}

impl Resolver {
    /// Makes a resolver that knows nobody.
    pub fn new(config: Config, seed: Seed, now: Instant) -> Self {
        let hash = Keyed::new(seed.derive("hash").rng().next_u64());
        let mut config = config;
        config.domain = config.domain.map(Name::lowercase);
        Self {
            config,
            directory: Directory::new(hash),
            forwarder: Forwarder::default(),
            cache: Cache::default(),
            scratch: Scratch {
                compressor: Compressor::new(),
                members: Members::default(),
                rng: seed.derive("queries").rng(),
                name: Box::new(Name::ROOT),
                followed: Vec::new(),
                key: Vec::new(),
            },
            queue: VecDeque::new(),
            spare: Vec::new(),
            stats: Stats::default(),
            now,
        }
    }

    /// Says what a client can see. A client without a view gets no answers.
    pub fn set_client(&mut self, now: Instant, client: EndpointId, view: View) {
        self.pass(now);
        self.directory.views.insert(client, view);
    }

    /// Forgets a client; what it still waits for is not answered.
    pub fn remove_client(&mut self, now: Instant, client: EndpointId) {
        self.pass(now);
        self.directory.views.remove(&client);
        let (forwarder, mut context) = self.forwarder();
        forwarder.remove_client(&mut context, client);
    }

    /// Names a network; `NAME.NETWORK` is `NAME` in this network only. A text that is no domain name leaves it nameless.
    pub fn set_network(&mut self, now: Instant, network: NetworkId, name: &str) {
        self.pass(now);
        let name = Name::from_text(name).map(Name::lowercase).ok();
        self.stats.names_refused += u64::from(name.is_none());
        self.directory.network_mut(network).name = name;
    }

    /// Says which subnets a network has. Reverse lookups of their addresses are ours, for every client.
    pub fn set_subnets(&mut self, now: Instant, network: NetworkId, subnets: &[IpNet]) {
        self.pass(now);
        let subnets = subnets.iter().map(IpNet::trunc).collect();
        self.directory.network_mut(network).subnets = subnets;
    }

    /// Forgets a network with all its records.
    pub fn remove_network(&mut self, now: Instant, network: NetworkId) {
        self.pass(now);
        self.directory.networks.remove(&network);
    }

    /// Puts the records of an endpoint in the place of those it had in this network. The next answer has them.
    ///
    /// Several owners may have one name: it has the addresses of all of them.
    pub fn set_records(
        &mut self,
        now: Instant,
        network: NetworkId,
        owner: EndpointId,
        records: Records,
    ) {
        self.pass(now);
        let (limits, refused) = (self.limits(), &mut self.stats.names_refused);
        let held = Held::endpoint(&records, limits, refused);
        self.directory
            .set(network, Holder::Endpoint(owner), held, refused);
    }

    /// Forgets the records of an endpoint in this network. The next answer is without them.
    pub fn remove_records(&mut self, now: Instant, network: NetworkId, owner: EndpointId) {
        self.pass(now);
        self.directory.remove(network, Holder::Endpoint(owner));
    }

    /// Puts the records of a service in the place of those it had in this network.
    pub fn set_service(
        &mut self,
        now: Instant,
        network: NetworkId,
        service: ServiceId,
        records: ServiceRecords,
    ) {
        self.pass(now);
        let (limits, refused) = (self.limits(), &mut self.stats.names_refused);
        let held = Held::service(&records, limits, refused);
        self.directory
            .set(network, Holder::Service(service), held, refused);
    }

    /// Forgets the records of a service in this network.
    pub fn remove_service(&mut self, now: Instant, network: NetworkId, service: ServiceId) {
        self.pass(now);
        self.directory.remove(network, Holder::Service(service));
    }

    /// Sets the servers to which foreign names are forwarded, in the order in which they are asked.
    ///
    /// Our own addresses are dropped, so that no query goes in a circle; so is what no server can have. Each dropped
    /// one queues [`Event::UpstreamDropped`]. A changed list empties the cache.
    pub fn set_upstreams(&mut self, now: Instant, upstreams: Vec<SocketAddr>) {
        self.pass(now);
        let (forwarder, mut context) = self.forwarder();
        if forwarder.set_upstreams(&mut context, &upstreams) {
            self.cache.clear();
        }
    }

    /// Takes a query from a client.
    ///
    /// Called by the driver for each message that arrives at the resolver's address in the client's namespace. Queues
    /// [`Output::Answer`], at once or later, or [`Output::Forward`].
    ///
    /// # Errors
    ///
    /// What [`QueryError`] names gets no answer, and changes nothing. A query that is merely malformed is answered.
    pub fn handle_query(
        &mut self,
        now: Instant,
        client: EndpointId,
        token: QueryToken,
        transport: Transport,
        bytes: &[u8],
    ) -> Result<(), QueryError> {
        self.pass(now);
        let parsed = query::parse(&self.config, transport, bytes)
            .inspect_err(|_| self.stats.dropped += 1)?;
        let Some(view) = self.directory.views.get(&client) else {
            self.stats.dropped += 1;
            return Err(QueryError::UnknownClient { client });
        };
        self.stats.queries += 1;
        let rejected = match parsed {
            Ok(asked) => {
                let mut bytes = self.spare.pop().unwrap_or_default();
                let data = (&self.config, &self.directory, view);
                let verdict = answer::answer(data, &asked, &mut self.scratch, &mut bytes);
                match verdict {
                    Verdict::Answered { truncated } => {
                        self.stats.answered += 1;
                        self.stats.truncated += u64::from(truncated);
                        self.queue.push_back(Output::Answer {
                            client,
                            token,
                            bytes,
                        });
                        return Ok(());
                    }
                    Verdict::Rejected(rcode) => {
                        self.recycle(self.now, bytes);
                        asked.reject(rcode)
                    }
                    Verdict::Foreign => {
                        self.recycle(self.now, bytes);
                        self.forward(client, token, &asked);
                        return Ok(());
                    }
                }
            }
            Err(rejected) => rejected,
        };
        self.reject(client, token, &rejected);
        Ok(())
    }

    /// Takes a message from an upstream server, which arrived at the socket of a forward from `from`.
    ///
    /// May queue [`Output::Answer`] to everybody who waits, [`Output::Forward`] for another try, and
    /// [`Output::CloseForward`].
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]: the message is ignored, and the driver goes on reading from the socket.
    pub fn handle_upstream(
        &mut self,
        now: Instant,
        upstream: UpstreamToken,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), UpstreamError> {
        self.pass(now);
        let (forwarder, mut context) = self.forwarder();
        let finished = forwarder.handle_upstream(&mut context, upstream, from, bytes);
        let finished = finished.inspect_err(|_| self.stats.upstream_ignored += 1)?;
        self.settle(finished);
        Ok(())
    }

    /// Takes the news that a forward cannot be carried out: no socket, port unreachable, connection closed.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::Unknown`] if the forward has been closed.
    pub fn handle_upstream_failed(
        &mut self,
        now: Instant,
        upstream: UpstreamToken,
    ) -> Result<(), UpstreamError> {
        self.pass(now);
        let (forwarder, mut context) = self.forwarder();
        let finished = forwarder.handle_failed(&mut context, upstream)?;
        self.settle(finished);
        Ok(())
    }

    /// Takes back the buffer of an answer that has been sent, for the next one.
    pub fn recycle(&mut self, now: Instant, bytes: Vec<u8>) {
        self.pass(now);
        if self.spare.len() < self.config.spare_buffers_max {
            self.spare.push(bytes);
        }
    }

    /// Returns the counters.
    pub fn stats(&self) -> Stats {
        let networks = self.directory.networks.values();
        Stats {
            names: networks.map(|network| network.zone.names.len()).sum(),
            exchanges: self.forwarder.len(),
            cache_entries: self.cache.len(),
            cache_bytes: self.cache.bytes(),
            ..self.stats
        }
    }

    /// Returns the options.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn pass(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn limits(&self) -> Limits {
        Limits {
            names_max: self.config.names_max,
            records_max: self.config.records_max,
        }
    }

    fn forwarder(&mut self) -> (&mut Forwarder, Context<'_>) {
        let context = Context {
            now: self.now,
            config: &self.config,
            queue: &mut self.queue,
            stats: &mut self.stats,
            rng: &mut self.scratch.rng,
            compressor: &mut self.scratch.compressor,
        };
        (&mut self.forwarder, context)
    }

    /// Answers from the cache or asks upstream for the name that was gone through last.
    fn forward(&mut self, client: EndpointId, token: QueryToken, asked: &Asked<'_>) {
        let Scratch {
            name,
            followed,
            key,
            ..
        } = &mut self.scratch;
        let last = followed.last().unwrap_or(name);
        let dnssec_ok = asked.terms.edns.is_some_and(|edns| edns.dnssec_ok);
        forward::write_key(key, last, asked.question.kind, &asked.header, dnssec_ok);
        let aliases = match followed.as_slice() {
            [] => Vec::new(),
            followed => [std::slice::from_ref(&**name), followed].concat(),
        };
        if let Some((reply, age)) = self.cache.get(self.now, key) {
            let reply = Arc::clone(reply);
            self.stats.cache_hits += 1;
            let reader = Reader {
                header: asked.header,
                question: asked.question.wire,
                terms: asked.terms,
                names: &aliases,
                alias_ttl: answer::seconds(self.config.ttl),
            };
            self.emit(client, token, (&reply, age), &reader);
            return;
        }
        let key = key.as_slice().into();
        let waiter = Waiter::new(client, token, asked, aliases);
        let (forwarder, mut context) = self.forwarder();
        match forwarder.ask(&mut context, key, waiter) {
            Ok(()) => self.stats.forwarded += 1,
            Err(error) => {
                self.stats.overloaded += u64::from(error == AskError::Busy);
                self.reject(client, token, &asked.reject(Rcode::SERVFAIL));
            }
        }
    }

    fn reject(&mut self, client: EndpointId, token: QueryToken, rejected: &Rejected<'_>) {
        let view = self.directory.views.get(&client);
        let forward = view.is_some_and(|view| view.forward);
        let mut bytes = self.spare.pop().unwrap_or_default();
        rejected.emit(forward, &mut self.scratch.compressor, &mut bytes);
        self.stats.rejected += 1;
        self.queue.push_back(Output::Answer {
            client,
            token,
            bytes,
        });
    }

    /// Answers everybody who waited for an exchange, and keeps the answer.
    fn settle(&mut self, finished: Option<Finished>) {
        let Some(finished) = finished else { return };
        let (key, reply) = (&finished.key, &finished.reply);
        self.cache.insert(&self.config.cache, self.now, key, reply);
        let alias_ttl = answer::seconds(self.config.ttl);
        for waiter in &finished.waiters {
            let reader = waiter.reader(alias_ttl);
            self.emit(waiter.client, waiter.token, (reply, 0), &reader);
        }
    }

    fn emit(
        &mut self,
        client: EndpointId,
        token: QueryToken,
        (reply, age): (&Arc<crate::reply::Reply>, u32),
        reader: &Reader<'_>,
    ) {
        let mut bytes = self.spare.pop().unwrap_or_default();
        let truncated = reply.emit(reader, age, &mut self.scratch.compressor, &mut bytes);
        self.stats.truncated += u64::from(truncated);
        self.queue.push_back(Output::Answer {
            client,
            token,
            bytes,
        });
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("directory", &self.directory)
            .field("forwarder", &self.forwarder)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

impl Machine for Resolver {
    type Output = Output;

    fn handle_timeout(&mut self, now: Instant) {
        self.pass(now);
        loop {
            let (forwarder, mut context) = self.forwarder();
            let Some(finished) = forwarder.handle_timeout(&mut context) else {
                return;
            };
            self.settle(finished);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.queue.is_empty() {
            self.forwarder.deadline()
        } else {
            Some(self.now)
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }
}
