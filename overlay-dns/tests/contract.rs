//! The resolver keeps the contract of machines.
#![allow(clippy::unwrap_used, reason = "the helpers here are test code as well")]

#[cfg(test)]
mod support;

use std::time::Duration;

use overlay_core::{EndpointId, Instant, NetworkId, Rng, Seed};
use overlay_dns::{
    CacheConfig, Config, ForwardConfig, Output, QueryToken, Records, Resolver, Transport,
    UpstreamToken, View,
};
use overlay_sim::contract::{self, Acted, Subject};
use support::{Query, server};

#[test]
fn the_resolver_keeps_the_contract_of_machines() {
    let summary = contract::assert_holds(
        "the_resolver_keeps_the_contract_of_machines",
        12,
        ResolverSubject::default,
    );
    assert!(
        summary.refused > 100 && summary.timeouts > 100,
        "{summary:?}"
    );
}

/// A resolver with small limits, and what its driver remembers.
#[derive(Default)]
struct ResolverSubject {
    tokens: u64,
    /// The queries that are open at servers, with their octets.
    forwards: Vec<(UpstreamToken, std::net::SocketAddr, Vec<u8>)>,
}

const NAMES: &[&str] = &[
    "web",
    "api",
    "tasks.shop",
    "web.net-1",
    "a.com",
    "b.com",
    "c.org",
    "nobody.net-1",
    "localhost",
    "1.0.0.10.in-addr.arpa",
    "8.8.8.8.in-addr.arpa",
    "_http._tcp.web",
];

fn pick<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[rng.index(of.len()).unwrap()]
}

fn name(rng: &mut Rng) -> &'static str {
    let name: &&str = pick(rng, NAMES);
    name
}

fn client(rng: &mut Rng) -> EndpointId {
    EndpointId::from_bytes([u8::try_from(rng.below(3)).unwrap(); 16])
}

fn network(rng: &mut Rng) -> NetworkId {
    NetworkId::from_bytes([u8::try_from(rng.below(2)).unwrap(); 16])
}

fn query(rng: &mut Rng) -> Query {
    let kinds = [1_u16, 28, 12, 16, 33, 255, 65_280];
    let mut query = Query::new(name(rng), (*pick(rng, &kinds)).into());
    query.id = u16::try_from(rng.below(65_536)).unwrap();
    if rng.chance(500_000) {
        query = query.edns(u16::try_from(rng.below(4_096)).unwrap());
    }
    query
}

impl ResolverSubject {
    fn ask(&mut self, resolver: &mut Resolver, now: Instant, rng: &mut Rng, bytes: &[u8]) -> Acted {
        let transport = *pick(rng, &[Transport::Udp, Transport::Tcp]);
        let token = QueryToken(self.tokens + 1);
        let acted: Acted = resolver
            .handle_query(now, client(rng), token, transport, bytes)
            .into();
        self.tokens += u64::from(acted == Acted::Done);
        acted
    }

    /// What a server says to one of the open queries.
    fn upstream(&self, rng: &mut Rng) -> Option<(UpstreamToken, std::net::SocketAddr, Vec<u8>)> {
        let at = rng.index(self.forwards.len())?;
        let (upstream, to, query) = &self.forwards[at];
        let question_end = 12 + query[12..].iter().position(|octet| *octet == 0)? + 5;
        let mut bytes = query[..question_end].to_vec();
        let rcode = *pick(rng, &[0_u8, 0, 0, 0, 2, 3, 5, 1]);
        let cut = if rng.chance(100_000) { 0x02 } else { 0 };
        bytes[2..12].copy_from_slice(&[0x81 | cut, 0x80 | rcode, 0, 1, 0, 1, 0, 0, 0, 0]);
        let ttl = u8::try_from(rng.below(4)).unwrap();
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4, 203, 0, 113, ttl]);
        Some((*upstream, *to, bytes))
    }
}

impl Subject for ResolverSubject {
    type Machine = Resolver;

    fn build(&mut self, seed: Seed, now: Instant) -> Resolver {
        let config = Config {
            spare_buffers_max: 2,
            forward: ForwardConfig {
                exchanges_max: 4,
                waiters_max: 3,
                client_waiters_max: 5,
                tries_max: 2,
                patience: Duration::from_millis(2_500),
                try_timeout: Duration::from_millis(700),
                ..ForwardConfig::default()
            },
            cache: CacheConfig {
                entries_max: 8,
                ..CacheConfig::default()
            },
            ..Config::default()
        };
        let mut resolver = Resolver::new(config, seed, now);
        for number in 0..2 {
            let view = View {
                networks: vec![
                    NetworkId::from_bytes([0; 16]),
                    NetworkId::from_bytes([1; 16]),
                ],
                forward: true,
            };
            resolver.set_client(now, EndpointId::from_bytes([number; 16]), view);
        }
        resolver.set_upstreams(now, vec![server(1), server(2)]);
        resolver
    }

    fn act(&mut self, resolver: &mut Resolver, now: Instant, rng: &mut Rng) -> Acted {
        match rng.below(12) {
            0 => {
                let owner = EndpointId::from_bytes([u8::try_from(rng.below(4)).unwrap(); 16]);
                let address = format!("10.0.0.{}", rng.below(4));
                let records = Records {
                    names: vec![name(rng).to_owned()],
                    services: vec!["shop".to_owned()],
                    addresses: vec![address.parse().unwrap()],
                    ..Records::default()
                };
                resolver.set_records(now, network(rng), owner, records);
            }
            1 => {
                let owner = EndpointId::from_bytes([u8::try_from(rng.below(4)).unwrap(); 16]);
                resolver.remove_records(now, network(rng), owner);
            }
            2 if rng.chance(100_000) => resolver.remove_client(now, client(rng)),
            2 => {
                let view = View {
                    networks: vec![network(rng)],
                    forward: rng.chance(800_000),
                };
                resolver.set_client(now, client(rng), view);
            }
            3 => {
                let text: &&str = pick(rng, &["net-1", "net", "x..y"]);
                resolver.set_network(now, network(rng), text);
            }
            4 if rng.chance(200_000) => {
                let count = rng.index(4).unwrap();
                resolver.set_upstreams(now, (0..4).map(server).take(count).collect());
            }
            5 => resolver.recycle(now, Vec::new()),
            6 => {
                let open = self.upstream(rng).map(|(upstream, ..)| upstream);
                let upstream = open.unwrap_or(UpstreamToken(0));
                let upstream = *pick(rng, &[upstream, UpstreamToken(u64::MAX)]);
                return resolver.handle_upstream_failed(now, upstream).into();
            }
            7 | 8 => {
                let unknown = (UpstreamToken(0), server(1), vec![0; 12]);
                let (upstream, mut from, bytes) = self.upstream(rng).unwrap_or(unknown);
                if rng.chance(100_000) {
                    from.set_port(54);
                }
                return resolver.handle_upstream(now, upstream, from, &bytes).into();
            }
            _ => {
                let bytes = query(rng).bytes();
                return self.ask(resolver, now, rng, &bytes);
            }
        }
        Acted::Done
    }

    fn take(&mut self, output: Output) -> String {
        let text = format!("{output:?}");
        match output {
            Output::Forward {
                upstream,
                to,
                bytes,
                ..
            } => self.forwards.push((upstream, to, bytes)),
            Output::CloseForward { upstream } => {
                let before = self.forwards.len();
                self.forwards.retain(|(open, ..)| *open != upstream);
                assert_eq!(self.forwards.len() + 1, before, "closed exactly once");
            }
            Output::Answer { .. } | Output::Event(_) => {}
        }
        text
    }

    fn fingerprint(&self, resolver: &Resolver) -> String {
        format!("{resolver:?}")
    }

    fn footprint(&self, resolver: &Resolver) -> usize {
        let stats = resolver.stats();
        stats.exchanges + stats.cache_entries
    }

    fn footprint_max(&self) -> usize {
        4 + 8
    }

    fn sample(&mut self, rng: &mut Rng) -> Vec<u8> {
        match self.upstream(rng) {
            Some((_, _, bytes)) if rng.chance(500_000) => bytes,
            _ => query(rng).bytes(),
        }
    }

    fn feed(
        &mut self,
        resolver: &mut Resolver,
        now: Instant,
        bytes: &[u8],
        rng: &mut Rng,
    ) -> Acted {
        let open = self.upstream(rng).filter(|_| rng.chance(500_000));
        match open {
            Some((upstream, from, _)) => {
                resolver.handle_upstream(now, upstream, from, bytes).into()
            }
            None => self.ask(resolver, now, rng, bytes),
        }
    }
}
