//! Names: what an answer costs, beside two libraries that could have given it, and what a large zone takes.

mod peers;
mod server;

pub use server::serve;

use std::{hint::black_box, net::Ipv4Addr, time::Duration};

use overlay_core::{EndpointId, Instant, Machine, NetworkId, Seed, ServiceId};
use overlay_dns::{Config, Output, QueryToken, Records, Resolver, ServiceRecords, Transport, View};

use crate::{clock::cpu, heap};

const CLIENT: EndpointId = EndpointId::from_bytes([0xff; 16]);
const NETWORK: NetworkId = NetworkId::from_bytes([1; 16]);
const NOW: Instant = Instant::from_millis(1_000);

const NAMES: u32 = 10_000;
/// Names with ten addresses each; with those of the tasks there are 10,000 and some as well.
const CROWDS: u32 = 1_000;
const SERVICES: u32 = 10_000;
const TASKS: u32 = 5;
/// Each round asks for every name once, in an order of its own. The three take turns by blocks: what else happens on the
/// machine meets all of them, and each finds its own names in the cache again.
const ROUNDS: usize = 10;
const BLOCKS: usize = 6;

/// A question for every name, and what answers it.
pub(crate) struct Case {
    title: &'static str,
    reach: u32,
    resolver: Resolver,
    /// For the peers: the same names with the same addresses.
    pub(crate) names: Vec<(String, Vec<Ipv4Addr>)>,
    queries: Vec<Vec<u8>>,
    answers: u16,
    authorities: u16,
}

pub fn run() {
    println!(
        "| answer | reach, ns | overlay-dns, ns | allocations | domain, ns | allocations | hickory-proto, ns | allocations |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for mut case in [
        single("one A", 120, 1, false),
        single("one A, with EDNS", 120, 1, true),
        crowded(),
        single("NODATA with SOA", 150, 28, false),
    ] {
        case.measure();
    }
    println!("\n| zone | reach, MB | held, MB | octets a task | an update, ns |");
    println!("|---|---|---|---|---|");
    memory("name and short identity; virtual addresses", true);
    memory("name alone; no virtual addresses", false);
    if let Err(error) = server::run() {
        println!("\nThe server is not measured: {error}.");
    }
}

impl Case {
    fn measure(&mut self) {
        let mut domain = peers::Domain::new(&self.names);
        let mut hickory = peers::Hickory::new(&self.names);
        let mut figures = [(); 3].map(|()| Figure::default());
        let mut rng = Seed::from_u64(7).rng();
        let queries = &self.queries.clone();
        let mut order: Vec<usize> = (0..queries.len()).collect();
        for _ in 0..BLOCKS {
            let rounds: Vec<Round> = (0..ROUNDS)
                .map(|_| {
                    rng.shuffle(&mut order);
                    Round::new(order.iter().map(|at| queries[*at].as_slice()))
                })
                .collect();
            let [ours, first, second] = &mut figures;
            ours.block(&rounds, |query| self.answer(query));
            first.block(&rounds, |query| domain.answer(query));
            second.block(&rounds, |query| hickory.answer(query));
        }
        let (title, reach) = (self.title, self.reach);
        let [ours, domain, hickory] = figures.map(|figure| figure.cells(queries.len()));
        println!("| {title} | {reach} | {ours} | {domain} | {hickory} |");
    }

    /// What a driver does for each datagram.
    fn answer(&mut self, query: &[u8]) {
        let taken = self
            .resolver
            .handle_query(NOW, CLIENT, QueryToken(1), Transport::Udp, query);
        taken.expect("the client is known");
        let Some(Output::Answer { bytes, .. }) = self.resolver.poll_output() else {
            unreachable!("the name is ours");
        };
        check(&bytes, self.answers, self.authorities);
        self.resolver.recycle(NOW, bytes);
    }
}

/// Every answer says what it should; this costs all three the same.
fn check(bytes: &[u8], answers: u16, authorities: u16) {
    assert_eq!(bytes[6..8], answers.to_be_bytes());
    assert_eq!(bytes[8..10], authorities.to_be_bytes());
    black_box(bytes);
}

/// The queries of a round, one behind the other: what has just been received is in the cache.
struct Round {
    octets: Vec<u8>,
    lengths: Vec<usize>,
}

impl Round {
    fn new<'a>(queries: impl Iterator<Item = &'a [u8]>) -> Self {
        let (mut octets, mut lengths) = (Vec::new(), Vec::new());
        for query in queries {
            octets.extend(query);
            lengths.push(query.len());
        }
        Self { octets, lengths }
    }

    fn queries(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.octets.as_slice();
        self.lengths.iter().map(move |length| {
            let (query, tail) = rest.split_at(*length);
            rest = tail;
            query
        })
    }
}

#[derive(Default)]
struct Figure {
    times: Vec<Duration>,
    allocations: usize,
}

impl Figure {
    fn block(&mut self, rounds: &[Round], mut answer: impl FnMut(&[u8])) {
        for round in rounds {
            let before = heap::asked();
            let ((), took) = cpu(|| round.queries().for_each(&mut answer));
            self.allocations = heap::asked() - before; // the last round's: everything is warm
            self.times.push(took);
        }
    }

    /// The median round, for each query.
    fn cells(mut self, queries: usize) -> String {
        self.times.sort();
        let nanos = self.times[self.times.len() / 2].as_nanos() as f64 / queries as f64;
        let allocations = self.allocations as f64 / queries as f64;
        format!("{nanos:.0} | {allocations:.1}")
    }
}

fn resolver() -> Resolver {
    let mut resolver = Resolver::new(Config::default(), Seed::from_u64(1), NOW);
    resolver.set_network(NOW, NETWORK, "net");
    let view = View {
        networks: vec![NETWORK],
        forward: true,
    };
    resolver.set_client(NOW, CLIENT, view);
    resolver
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number)
}

fn endpoint(number: u32) -> EndpointId {
    // Random, as identities are: their order is not that in which they came.
    EndpointId::from_bytes(Seed::from_u64(u64::from(number)).rng().bytes())
}

/// Every name has one address.
fn single(title: &'static str, reach: u32, kind: u16, edns: bool) -> Case {
    let mut resolver = resolver();
    let mut names = Vec::new();
    for number in 0..NAMES {
        let name = format!("web-{number}");
        let records = Records {
            names: vec![name.clone()],
            addresses: vec![address(number).into()],
            ..Records::default()
        };
        resolver.set_records(NOW, NETWORK, endpoint(number), records);
        names.push((name, vec![address(number)]));
    }
    Case {
        title,
        reach,
        resolver,
        queries: queries(&names, kind, edns),
        names,
        answers: u16::from(kind == 1),
        authorities: u16::from(kind != 1),
    }
}

/// Names of services without virtual addresses; ten tasks each, which have names of their own.
fn crowded() -> Case {
    let mut resolver = resolver();
    let mut names = Vec::new();
    for service in 0..CROWDS {
        let name = format!("web-{service}");
        let numbers = (0..10).map(|task| service * 10 + task);
        for number in numbers.clone() {
            let records = Records {
                names: vec![format!("{name}.{number}")],
                addresses: vec![address(number).into()],
                services: vec![name.clone()],
                ..Records::default()
            };
            resolver.set_records(NOW, NETWORK, endpoint(number), records);
        }
        names.push((name, numbers.map(address).collect()));
    }
    Case {
        title: "ten A",
        reach: 150,
        resolver,
        queries: queries(&names, 1, false),
        names,
        answers: 10,
        authorities: 0,
    }
}

fn queries(names: &[(String, Vec<Ipv4Addr>)], kind: u16, edns: bool) -> Vec<Vec<u8>> {
    let query = |(number, name): (usize, &str)| {
        let [.., high, low] = number.to_be_bytes();
        let mut query = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
        query.push(u8::try_from(name.len()).expect("a short label"));
        query.extend(name.as_bytes());
        query.extend([0, 0, u8::try_from(kind).expect("a low type"), 0, 1]);
        if edns {
            query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        }
        query
    };
    let names = names.iter().map(|(name, _)| name.as_str());
    names.enumerate().map(query).collect()
}

/// What a zone takes; tasks named `web-1.2.` and twelve characters, as a node names them.
fn memory(title: &str, full: bool) {
    let before = heap::held();
    let (mut resolver, setup) = cpu(|| {
        let mut resolver = resolver();
        for service in 0..SERVICES {
            fill(&mut resolver, service, full);
        }
        resolver
    });
    let held = heap::held() - before;
    let tasks = SERVICES * TASKS;
    let nanos = setup.as_nanos() / u128::from(tasks);
    println!(
        "| {SERVICES} services × {TASKS} tasks: {title} | 8 | {:.2} | {} | {nanos} |",
        held as f64 / 1e6,
        held / tasks as usize,
    );
    resolver.remove_network(NOW, NETWORK);
    black_box(&mut resolver);
}

fn fill(resolver: &mut Resolver, service: u32, full: bool) {
    let name = format!("web-{service}");
    for slot in 0..TASKS {
        let id = endpoint(service * TASKS + slot);
        let task = EndpointId::from_bytes(id.as_bytes().map(|octet| !octet));
        let mut names = vec![format!("{name}.{slot}.{}", task.short())];
        if full {
            names.push(id.short());
        }
        let records = Records {
            names,
            addresses: vec![address(service * TASKS + slot).into()],
            services: vec![name.clone()],
            ..Records::default()
        };
        resolver.set_records(NOW, NETWORK, id, records);
    }
    if full {
        let records = ServiceRecords {
            names: vec![name],
            addresses: vec![address(0x10_0000 + service).into()],
            ..ServiceRecords::default()
        };
        let id = ServiceId::from_bytes(u128::from(service).to_be_bytes());
        resolver.set_service(NOW, NETWORK, id, records);
    }
}
