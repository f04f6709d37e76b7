//! Queries to upstream servers: who waits for what, which server is asked next, and which answer is the right one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use overlay_core::{EndpointId, Instant, Rng};

use crate::{
    Output, QueryToken, Transport, UpstreamToken,
    cache::Key,
    config::{Config, ForwardConfig},
    error::UpstreamError,
    event::{Event, Failure},
    exchange::{Exchange, Try},
    query::{Asked, Terms},
    reply::{Reader, Reply},
    stats::Stats,
    wire::{Compressor, Header, Message, Name, Opcode, Rcode, RecordType},
};

/// Somebody who waits for an answer.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    pub(crate) client: EndpointId,
    pub(crate) token: QueryToken,
    header: Header,
    question: Box<[u8]>,
    terms: Terms,
    names: Vec<Name>,
}

/// An exchange that has come to its end.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) key: Key,
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) reply: Arc<Reply>,
}

/// Why nobody was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskError {
    NoUpstream,
    Busy,
}

/// What the forwarder may touch besides itself.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) config: &'a Config,
    pub(crate) queue: &'a mut VecDeque<Output>,
    pub(crate) stats: &'a mut Stats,
    pub(crate) rng: &'a mut Rng,
    pub(crate) compressor: &'a mut Compressor,
}

/// The upstream servers and everything that is in flight to them.
#[derive(Debug, Default)]
pub(crate) struct Forwarder {
    upstreams: Vec<Upstream>,
    exchanges: BTreeMap<u64, Exchange>,
    by_key: BTreeMap<Key, u64>,
    by_token: BTreeMap<UpstreamToken, u64>,
    timers: BTreeSet<(Instant, u64)>,
    waiting: BTreeMap<EndpointId, usize>,
    last_exchange: u64,
    last_token: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Upstream {
    address: SocketAddr,
    /// Asked last until then.
    penalized_until: Instant,
}

impl Waiter {
    pub(crate) fn new(
        client: EndpointId,
        token: QueryToken,
        asked: &Asked<'_>,
        names: Vec<Name>,
    ) -> Self {
        Self {
            client,
            token,
            header: asked.header,
            question: asked.question.wire.into(),
            terms: asked.terms,
            names,
        }
    }

    pub(crate) fn reader(&self, alias_ttl: u32) -> Reader<'_> {
        Reader {
            header: self.header,
            question: &self.question,
            terms: self.terms,
            names: &self.names,
            alias_ttl,
        }
    }
}

/// Writes the key under which equal queries are merged and answers are kept.
pub(crate) fn write_key(
    key: &mut Vec<u8>,
    name: &Name,
    kind: RecordType,
    header: &Header,
    dnssec_ok: bool,
) {
    key.clear();
    key.extend_from_slice(name.as_bytes());
    key.push(0);
    key.extend_from_slice(&kind.0.to_be_bytes());
    let flags = [
        header.recursion_desired,
        header.authentic_data,
        header.checking_disabled,
        dnssec_ok,
    ];
    key.push(
        flags
            .iter()
            .fold(0, |bits, flag| bits << 1 | u8::from(*flag)),
    );
}

impl Forwarder {
    /// Replaces the servers. Returns true if they changed.
    pub(crate) fn set_upstreams(
        &mut self,
        context: &mut Context<'_>,
        addresses: &[SocketAddr],
    ) -> bool {
        let mut upstreams: Vec<Upstream> = Vec::new();
        for address in addresses {
            let known = upstreams.iter().any(|other| other.address == *address);
            if known {
                continue;
            }
            let full = upstreams.len() >= context.config.forward.upstreams_max;
            if full || !is_usable(context.config, address) {
                let event = Event::UpstreamDropped { address: *address };
                context.queue.push_back(Output::Event(event));
                continue;
            }
            let old = (self.upstreams.iter()).find(|other| other.address == *address);
            upstreams.push(old.copied().unwrap_or(Upstream {
                address: *address,
                penalized_until: Instant::EPOCH,
            }));
        }
        let changed = !upstreams
            .iter()
            .map(|upstream| upstream.address)
            .eq(self.upstreams.iter().map(|upstream| upstream.address));
        self.upstreams = upstreams;
        changed
    }

    /// Lets `waiter` wait for the answer to `key`; asks a server unless the same has been asked already.
    pub(crate) fn ask(
        &mut self,
        context: &mut Context<'_>,
        key: Key,
        waiter: Waiter,
    ) -> Result<(), AskError> {
        let limits = &context.config.forward;
        if self.waiting.get(&waiter.client).copied().unwrap_or(0) >= limits.client_waiters_max {
            return Err(AskError::Busy);
        }
        if let Some(number) = self.by_key.get(&key).copied() {
            let exchange = (self.exchanges.get_mut(&number))
                .filter(|exchange| exchange.waiters.len() < limits.waiters_max)
                .ok_or(AskError::Busy)?;
            context.stats.coalesced += 1;
            *self.waiting.entry(waiter.client).or_default() += 1;
            exchange.waiters.push(waiter);
            return Ok(());
        }
        if self.upstreams.is_empty() {
            return Err(AskError::NoUpstream);
        }
        if self.exchanges.len() >= limits.exchanges_max {
            return Err(AskError::Busy);
        }
        self.last_exchange += 1;
        let number = self.last_exchange;
        *self.waiting.entry(waiter.client).or_default() += 1;
        let deadline = context.now + limits.patience;
        let servers = self.order(context.now);
        let exchange = Exchange::new(Arc::clone(&key), servers, deadline, waiter);
        self.by_key.insert(key, number);
        self.exchanges.insert(number, exchange);
        self.advance(context, number, None);
        Ok(())
    }

    /// Takes an upstream message. Returns what it brought to an end.
    pub(crate) fn handle_upstream(
        &mut self,
        context: &mut Context<'_>,
        token: UpstreamToken,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Result<Option<Finished>, UpstreamError> {
        let number = *self.by_token.get(&token).ok_or(UpstreamError::Unknown)?;
        let exchange = self.exchanges.get(&number).ok_or(UpstreamError::Unknown)?;
        let tried = exchange.find_try(token).ok_or(UpstreamError::Unknown)?;
        let message = check(tried, from, bytes)?;
        let (server, transport, edns) = (tried.server, tried.transport, tried.edns);
        let failed = matches!(
            message.header().rcode,
            Rcode::SERVFAIL | Rcode::REFUSED | Rcode::FORMERR | Rcode::NOTIMP
        ) || message.edns().is_some_and(|edns| edns.rcode_high != 0);
        if failed || message.question_count() == 0 {
            let unknown_edns =
                edns && !matches!(message.header().rcode, Rcode::SERVFAIL | Rcode::REFUSED);
            return Ok(if unknown_edns {
                // A server that does not know EDNS says so in one of these ways (RFC 6891 §7).
                self.start(context, number, (server, transport, false), Some(token));
                None
            } else {
                self.fail_try(
                    context,
                    number,
                    token,
                    Failure::Rcode(message.header().rcode),
                )
            });
        }
        if message.header().truncated && transport == Transport::Udp {
            self.start(context, number, (server, Transport::Tcp, edns), Some(token));
            return Ok(None);
        }
        let reply = Reply::new(&message, &context.config.cache, context.compressor)?;
        if let Some(upstream) = self.upstream_mut(server) {
            upstream.penalized_until = Instant::EPOCH;
        }
        Ok(self.finish(context, number, Arc::new(reply)))
    }

    /// Takes the news that the driver could not carry out a forward.
    pub(crate) fn handle_failed(
        &mut self,
        context: &mut Context<'_>,
        token: UpstreamToken,
    ) -> Result<Option<Finished>, UpstreamError> {
        let number = *self.by_token.get(&token).ok_or(UpstreamError::Unknown)?;
        Ok(self.fail_try(context, number, token, Failure::Unreachable))
    }

    /// Goes on with one exchange that is due, if there is one. Returns what came to an end, and whether to go on.
    pub(crate) fn handle_timeout(&mut self, context: &mut Context<'_>) -> Option<Option<Finished>> {
        let (due, number) = *self.timers.first()?;
        if due > context.now {
            return None;
        }
        let exchange = self.exchanges.get(&number)?;
        let (deadline, server) = (exchange.deadline, exchange.last_server());
        if let Some(server) = server {
            self.penalize(context, server, Failure::Timeout);
        }
        if deadline <= context.now {
            return Some(self.give_up(context, number));
        }
        Some(self.advance(context, number, None))
    }

    /// Drops everybody who waits for `client`, and what nobody waits for any more.
    pub(crate) fn remove_client(&mut self, context: &mut Context<'_>, client: EndpointId) {
        if self.waiting.remove(&client).is_none() {
            return;
        }
        let mut abandoned = Vec::new();
        for (number, exchange) in &mut self.exchanges {
            exchange.waiters.retain(|waiter| waiter.client != client);
            if exchange.waiters.is_empty() {
                abandoned.push(*number);
            }
        }
        for number in abandoned {
            self.close(context, number);
        }
    }

    /// Returns when something is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Returns how many different queries are in flight.
    pub(crate) fn len(&self) -> usize {
        self.exchanges.len()
    }

    /// Asks the next server; gives up if all have failed.
    fn advance(
        &mut self,
        context: &mut Context<'_>,
        number: u64,
        replaced: Option<UpstreamToken>,
    ) -> Option<Finished> {
        let server = self.exchanges.get_mut(&number)?.next_server();
        let Some(server) = server else {
            return self.give_up(context, number);
        };
        self.start(context, number, (server, Transport::Udp, true), replaced);
        None
    }

    /// Starts a try, in the place of another one if so wished.
    fn start(
        &mut self,
        context: &mut Context<'_>,
        number: u64,
        (server, transport, edns): (SocketAddr, Transport, bool),
        replaced: Option<UpstreamToken>,
    ) {
        let Some(exchange) = self.exchanges.get_mut(&number) else {
            return;
        };
        let limits = &context.config.forward;
        let full = exchange.tries.len() >= limits.tries_max.max(1);
        let oldest = exchange.tries.first().map(|tried| tried.token);
        if let Some(token) = replaced.or(oldest.filter(|_| full)) {
            exchange.tries.retain(|tried| tried.token != token);
            self.by_token.remove(&token);
            context
                .queue
                .push_back(Output::CloseForward { upstream: token });
        }
        self.last_token += 1;
        let upstream = UpstreamToken(self.last_token);
        let payload_bytes = context.config.udp_payload_bytes_max;
        let (id, question) = exchange.draw(limits, context.rng);
        let bytes = exchange.query(id, &question, edns.then_some(payload_bytes));
        context.queue.push_back(Output::Forward {
            upstream,
            to: server,
            transport,
            bytes,
        });
        exchange.tries.push(Try {
            token: upstream,
            server,
            transport,
            edns,
            id,
            question,
        });
        self.by_token.insert(upstream, number);
        self.timers.remove(&(exchange.due, number));
        exchange.due = exchange.deadline.min(context.now + try_timeout(limits));
        self.timers.insert((exchange.due, number));
        context.stats.upstream_queries += 1;
    }

    /// One server failed: asks the next if that was the latest one asked.
    fn fail_try(
        &mut self,
        context: &mut Context<'_>,
        number: u64,
        token: UpstreamToken,
        failure: Failure,
    ) -> Option<Finished> {
        let exchange = self.exchanges.get_mut(&number)?;
        let server = exchange.find_try(token)?.server;
        let latest = exchange.tries.last().map(|tried| tried.token) == Some(token);
        exchange.drop_server(server);
        self.penalize(context, server, failure);
        if latest {
            return self.advance(context, number, Some(token));
        }
        let exchange = self.exchanges.get_mut(&number)?;
        exchange.tries.retain(|tried| tried.token != token);
        self.by_token.remove(&token);
        context
            .queue
            .push_back(Output::CloseForward { upstream: token });
        None
    }

    fn give_up(&mut self, context: &mut Context<'_>, number: u64) -> Option<Finished> {
        context.stats.upstream_failures += 1;
        let reply = Arc::new(Reply::failure(&context.config.cache));
        self.finish(context, number, reply)
    }

    fn finish(
        &mut self,
        context: &mut Context<'_>,
        number: u64,
        reply: Arc<Reply>,
    ) -> Option<Finished> {
        let exchange = self.close(context, number)?;
        for waiter in &exchange.waiters {
            if let Some(count) = self.waiting.get_mut(&waiter.client) {
                *count -= 1;
                if *count == 0 {
                    self.waiting.remove(&waiter.client);
                }
            }
        }
        Some(Finished {
            key: exchange.key,
            waiters: exchange.waiters,
            reply,
        })
    }

    fn close(&mut self, context: &mut Context<'_>, number: u64) -> Option<Exchange> {
        let exchange = self.exchanges.remove(&number)?;
        self.by_key.remove(&exchange.key);
        self.timers.remove(&(exchange.due, number));
        for tried in &exchange.tries {
            self.by_token.remove(&tried.token);
            context.queue.push_back(Output::CloseForward {
                upstream: tried.token,
            });
        }
        Some(exchange)
    }

    /// Returns the servers in the order in which they are to be asked.
    fn order(&self, now: Instant) -> VecDeque<SocketAddr> {
        let mut servers: Vec<Upstream> = self.upstreams.clone();
        servers.sort_by_key(|upstream| upstream.penalized_until > now); // stable
        servers.iter().map(|upstream| upstream.address).collect()
    }

    fn penalize(&mut self, context: &mut Context<'_>, server: SocketAddr, failure: Failure) {
        let until = context.now + context.config.forward.penalty;
        let Some(upstream) = self.upstream_mut(server) else {
            return;
        };
        let news = upstream.penalized_until <= context.now;
        if failure.is_of_server() {
            upstream.penalized_until = until;
            if news {
                context
                    .queue
                    .push_back(Output::Event(Event::UpstreamFailed {
                        address: server,
                        failure,
                    }));
            }
        }
    }

    fn upstream_mut(&mut self, address: SocketAddr) -> Option<&mut Upstream> {
        self.upstreams
            .iter_mut()
            .find(|upstream| upstream.address == address)
    }
}

/// Checks that a message answers a try: address, id, and question with its case (RFC 5452 §9.1).
fn check<'a>(tried: &Try, from: SocketAddr, bytes: &'a [u8]) -> Result<Message<'a>, UpstreamError> {
    if from.ip() != tried.server.ip() || from.port() != tried.server.port() {
        return Err(UpstreamError::Address {
            expected: tried.server,
            found: from,
        });
    }
    let message = Message::new_checked(bytes)?;
    let header = message.header();
    if !header.response || header.id != tried.id || header.opcode != Opcode::QUERY {
        return Err(UpstreamError::Mismatch);
    }
    let same = match message.question() {
        Some(question) => message.question_count() == 1 && question.wire == &*tried.question,
        // A server that could not read the query has no question to echo.
        None => header.rcode != Rcode::NOERROR && header.rcode != Rcode::NXDOMAIN,
    };
    if same {
        Ok(message)
    } else {
        Err(UpstreamError::Mismatch)
    }
}

fn try_timeout(limits: &ForwardConfig) -> std::time::Duration {
    limits.try_timeout.max(std::time::Duration::from_millis(1))
}

fn is_usable(config: &Config, address: &SocketAddr) -> bool {
    let ip = match address.ip() {
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
        ip @ IpAddr::V4(_) => ip,
    };
    let own = config.own_addresses.contains(&ip);
    !own && !ip.is_unspecified() && !ip.is_multicast() && address.port() != 0
}
