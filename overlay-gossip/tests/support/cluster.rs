//! Members of one cluster as hosts of a simulated world.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use overlay_core::{EndpointId, Instant, MacAddr, Machine, NetworkId, NodeId, Seed};
use overlay_gossip::{
    Config, Event, Gossip, Lease, MemberState, Output, Row, RowState, StreamId, Timing,
};
use overlay_sim::{Channel, Host, HostId, NetworkConfig, Outbox, World};

/// What the hosts shall run, as their users know it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    /// For each host and network the rows by endpoint.
    pub(crate) hosts: BTreeMap<usize, BTreeMap<NetworkId, BTreeMap<EndpointId, Row>>>,
}

/// A world with the truth about it.
pub(crate) struct Cluster {
    pub(crate) world: World<Node>,
    pub(crate) truth: Rc<RefCell<Truth>>,
    pub(crate) hosts: Vec<HostId>,
}

/// One member.
pub(crate) struct Node {
    pub(crate) gossip: Gossip,
    truth: Rc<RefCell<Truth>>,
    host: usize,
    life: u64,
    /// Whether it told what it runs; until then, what users want waits in the truth.
    started: bool,
    /// In which order it tells what it runs: another one in each life.
    order: u64,
    /// Streams that others opened: who, which life of it, its number.
    accepted: BTreeMap<(usize, u64, u64), u64>,
    callers: BTreeMap<u64, (usize, u64, u64)>,
    /// Whom our own streams go to.
    dialled: BTreeMap<u64, usize>,
    next_accepted: u64,
    /// The rows as the events tell them.
    played: BTreeMap<(NetworkId, String, EndpointId), Row>,
    pub(crate) events: Vec<(Instant, Event)>,
    pub(crate) largest_datagram: usize,
}

impl Cluster {
    /// Hosts that join through the first one, or the second if they are the first.
    pub(crate) fn new(
        seed: u64,
        hosts: usize,
        network: NetworkConfig,
        tune: impl Fn(&mut Config) + Clone + 'static,
    ) -> Self {
        let truth = Rc::new(RefCell::new(Truth::default()));
        let mut world = World::new(Seed::from_u64(seed), network);
        let ids = (0..hosts).map(|at| {
            let (truth, tune) = (truth.clone(), tune.clone());
            world.add(move |boot| {
                let mut config = Config {
                    timing: Timing::quick(),
                    ..Config::lan(name(at), address(at))
                };
                tune(&mut config);
                let gossip = Gossip::new(config, boot.seed, boot.now);
                let gossip = gossip.expect("a good configuration");
                let mut node = Node::new(gossip, truth.clone(), at, boot.life);
                let seed = usize::from(at == 0).min(hosts - 1);
                node.gossip.join(boot.now, &[address(seed)]);
                // A restarted daemon takes its time to find out what it still runs, or says it before it heard anything.
                let rng = boot.outbox.rng();
                node.order = rng.next_u64();
                let busy = rng.duration(Duration::ZERO..STARTING);
                if boot.life == 0 || rng.chance(300_000) {
                    node.start(boot.now);
                } else {
                    boot.outbox.after(busy, 0);
                }
                node
            })
        });
        let hosts = ids.collect();
        Self {
            world,
            truth,
            hosts,
        }
    }

    pub(crate) fn join_network(&mut self, host: usize, network: NetworkId) {
        let mut truth = self.truth.borrow_mut();
        let networks = truth.hosts.entry(host).or_default();
        networks.entry(network).or_default();
        drop(truth);
        self.with_started(host, |node, now| node.gossip.join_network(now, network));
    }

    pub(crate) fn leave_network(&mut self, host: usize, network: NetworkId) {
        let mut truth = self.truth.borrow_mut();
        truth.hosts.entry(host).or_default().remove(&network);
        drop(truth);
        self.with_started(host, |node, now| node.gossip.leave_network(now, network));
    }

    /// Puts a row, if the host is in the network; `weight` makes it differ from former ones.
    pub(crate) fn put_row(&mut self, host: usize, network: NetworkId, endpoint: u8, weight: u16) {
        let row = row(network, host, endpoint, weight);
        let mut truth = self.truth.borrow_mut();
        let rows = truth.hosts.entry(host).or_default().get_mut(&network);
        let Some(rows) = rows else { return };
        rows.insert(row.endpoint, row.clone());
        drop(truth);
        self.with_started(host, |node, now| {
            let put = node.gossip.put_row(now, network, row);
            put.expect("a joined network and a good row");
        });
    }

    pub(crate) fn delete_row(&mut self, host: usize, network: NetworkId, endpoint: u8) {
        let endpoint = endpoint_id(host, endpoint);
        let mut truth = self.truth.borrow_mut();
        let rows = truth.hosts.entry(host).or_default().get_mut(&network);
        let Some(rows) = rows else { return };
        rows.remove(&endpoint);
        drop(truth);
        self.with_started(host, |node, now| {
            node.gossip.delete_row(now, network, endpoint)
        });
    }

    fn with_started(&mut self, host: usize, command: impl FnOnce(&mut Node, Instant)) {
        self.world.with(self.hosts[host], |node, now| {
            if node.started {
                command(node, now);
            }
        });
    }

    /// Returns the rows that every member of a network shall see: those of hosts that are up.
    pub(crate) fn expected(&self, network: NetworkId) -> BTreeMap<(String, EndpointId), Row> {
        let mut expected = BTreeMap::new();
        for (host, networks) in &self.truth.borrow().hosts {
            if !self.world.is_up(self.hosts[*host]) {
                continue;
            }
            for (endpoint, row) in networks.get(&network).into_iter().flatten() {
                expected.insert((name(*host), *endpoint), row.clone());
            }
        }
        expected
    }

    /// Returns what is not as it shall be after quiet, in words.
    pub(crate) fn differences(&self) -> Vec<String> {
        let mut found = Vec::new();
        let up: BTreeSet<String> = self.world.machines().map(|(id, _)| name(id.0)).collect();
        for (id, node) in self.world.machines() {
            for member in node.gossip.members() {
                let shall_be_up = up.contains(&*member.name);
                let is = member.state;
                if shall_be_up != (is == MemberState::Alive) {
                    found.push(format!("{id} believes {} to be {is:?}", member.name));
                }
            }
            let known = node.gossip.members().count();
            if known < up.len() {
                found.push(format!("{id} knows {known} of {} members", up.len()));
            }
            let truth = self.truth.borrow();
            let networks: Vec<NetworkId> = truth
                .hosts
                .get(&id.0)
                .into_iter()
                .flat_map(|networks| networks.keys().copied())
                .collect();
            drop(truth);
            for network in networks {
                let expected = self.expected(network);
                let rows = node.rows(network);
                if rows != expected {
                    found.push(format!(
                        "{id} sees {:?} in {network:?}, expected {:?}",
                        brief(&rows),
                        brief(&expected)
                    ));
                }
            }
        }
        self.differing_digests(&mut found);
        found
    }

    /// Where rows are equal their versions shall be, too: else members compare their tables for ever.
    fn differing_digests(&self, found: &mut Vec<String>) {
        let mut digests: BTreeMap<NetworkId, BTreeMap<u64, Vec<usize>>> = BTreeMap::new();
        for (id, node) in self.world.machines() {
            for network in node.gossip.networks() {
                let digest = node.gossip.table_digest(network);
                let holders = digests.entry(network).or_default().entry(digest);
                holders.or_default().push(id.0);
            }
        }
        let differing = digests.iter().filter(|(_, holders)| holders.len() > 1);
        found.extend(differing.map(|(network, holders)| {
            let holders: Vec<_> = holders.values().collect();
            format!("digests of {network:?} differ: {holders:?}")
        }));
    }

    /// Lets time pass until everything is as it shall be; panics with the differences if it never is.
    pub(crate) fn settle(&mut self, limit: Duration) -> Duration {
        let start = self.world.now();
        loop {
            let differences = self.differences();
            let waited = self.world.now() - start;
            if differences.is_empty() {
                return waited;
            }
            assert!(waited < limit, "after {waited:?}: {differences:#?}");
            self.world.run_for(Duration::from_millis(250));
        }
    }

    /// Checks what holds at any time.
    pub(crate) fn check(&self) {
        for (_, node) in self.world.machines() {
            node.check();
        }
    }

    pub(crate) fn node(&self, host: usize) -> &Node {
        self.world
            .host(self.hosts[host])
            .expect("a host that is up")
    }
}

impl Node {
    fn new(gossip: Gossip, truth: Rc<RefCell<Truth>>, host: usize, life: u64) -> Self {
        Self {
            gossip,
            truth,
            host,
            life,
            started: false,
            order: 0,
            accepted: BTreeMap::new(),
            callers: BTreeMap::new(),
            dialled: BTreeMap::new(),
            next_accepted: 0,
            played: BTreeMap::new(),
            events: Vec::new(),
            largest_datagram: 0,
        }
    }

    /// Tells what it still runs.
    fn start(&mut self, now: Instant) {
        self.started = true;
        let networks = self.truth.borrow().hosts.get(&self.host).cloned();
        let mut networks: Vec<_> = networks.unwrap_or_default().into_iter().collect();
        if self.order & 1 == 1 {
            networks.reverse();
        }
        for (network, rows) in networks {
            self.gossip.join_network(now, network);
            let mut rows: Vec<_> = rows.into_values().collect();
            rows.sort_by_key(|row| u64::from(row.endpoint.as_bytes()[1]) ^ (self.order >> 1 & 7));
            for row in rows {
                let put = self.gossip.put_row(now, network, row);
                put.expect("a joined network and a good row");
            }
        }
    }

    pub(crate) fn rows(&self, network: NetworkId) -> BTreeMap<(String, EndpointId), Row> {
        let rows = self.gossip.rows(network);
        rows.map(|(owner, row)| ((owner.to_owned(), row.endpoint), row.clone()))
            .collect()
    }

    /// Events, played back, give exactly the visible rows; packets fit.
    fn check(&self) {
        let mut rows = BTreeMap::new();
        for network in self.gossip.networks() {
            for ((owner, endpoint), row) in self.rows(network) {
                rows.insert((network, owner, endpoint), row);
            }
        }
        assert_eq!(self.played, rows, "events and rows of host {}", self.host);
        assert!(self.largest_datagram <= 1_400, "{}", self.largest_datagram);
    }

    fn on_event(&mut self, now: Instant, event: Event) {
        if let Event::RowChanged {
            network,
            endpoint,
            owner,
            previous,
            row,
        } = &event
        {
            let key = (*network, owner.to_string(), *endpoint);
            assert_eq!(self.played.get(&key), previous.as_ref(), "{key:?}");
            match row {
                Some(row) => self.played.insert(key, row.clone()),
                None => self.played.remove(&key),
            };
        }
        self.events.push((now, event));
    }

    /// Octets of a stream: caller's life and number, direction, what happened.
    fn send_stream(&self, stream: StreamId, what: u8, bytes: &[u8], outbox: &mut Outbox) {
        let (peer, life, number, back) = match stream {
            StreamId::Dialled(number) => {
                let Some(peer) = self.dialled.get(&number) else {
                    return;
                };
                (*peer, self.life, number, 0)
            }
            StreamId::Accepted(number) => {
                let Some((peer, life, theirs)) = self.callers.get(&number) else {
                    return;
                };
                (*peer, *life, *theirs, 1)
            }
        };
        let mut frame = vec![back, what];
        frame.extend_from_slice(&life.to_be_bytes());
        frame.extend_from_slice(&number.to_be_bytes());
        frame.extend_from_slice(bytes);
        outbox.send(HostId(peer), Channel::Stream, frame);
    }

    fn on_stream(&mut self, now: Instant, from: usize, frame: &[u8]) {
        let (head, bytes) = frame.split_at(18);
        let word = |at: usize| {
            let octets: [u8; 8] = head[at..at + 8].try_into().expect("eight octets");
            u64::from_be_bytes(octets)
        };
        let (back, what, life, number) = (head[0] == 1, head[1], word(2), word(10));
        let stream = if back {
            if life != self.life {
                return; // for a former life of ours
            }
            StreamId::Dialled(number)
        } else {
            let key = (from, life, number);
            if what == OPEN {
                self.next_accepted += 1;
                self.accepted.insert(key, self.next_accepted);
                self.callers.insert(self.next_accepted, key);
            }
            let Some(number) = self.accepted.get(&key) else {
                return; // opened in a former life of ours
            };
            StreamId::Accepted(*number)
        };
        match what {
            OPEN => self.gossip.handle_stream_opened(now, stream, address(from)),
            DATA => self.gossip.handle_stream_data(now, stream, bytes),
            _ => self.gossip.handle_stream_closed(now, stream),
        }
    }
}

impl Machine for Node {
    type Output = Output;

    fn handle_timeout(&mut self, now: Instant) {
        self.gossip.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.gossip.poll_timeout()
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.gossip.poll_output()
    }
}

impl Host for Node {
    fn deliver(&mut self, now: Instant, from: HostId, channel: Channel, bytes: &[u8]) {
        match channel {
            Channel::Datagram => {
                // Damaged ones are counted, which is all that is to be done.
                self.gossip
                    .handle_datagram(now, address(from.0), bytes)
                    .ok();
            }
            Channel::Stream => self.on_stream(now, from.0, bytes),
        }
    }

    fn handle_deferred(&mut self, now: Instant, _token: u64) {
        self.start(now);
    }

    fn route(&mut self, now: Instant, output: Output, outbox: &mut Outbox) {
        match output {
            Output::Datagram { to, bytes } => {
                self.largest_datagram = self.largest_datagram.max(bytes.len());
                if let Some(host) = host_at(to) {
                    outbox.send(HostId(host), Channel::Datagram, bytes);
                }
            }
            Output::Dial { stream, to } => {
                let (StreamId::Dialled(number), Some(host)) = (stream, host_at(to)) else {
                    return;
                };
                self.dialled.insert(number, host);
                self.send_stream(stream, OPEN, &[], outbox);
            }
            Output::StreamSend { stream, bytes } => self.send_stream(stream, DATA, &bytes, outbox),
            Output::StreamClose { stream } => self.send_stream(stream, CLOSE, &[], outbox),
            Output::Event(event) => self.on_event(now, event),
        }
    }
}

pub(crate) fn name(host: usize) -> String {
    format!("node-{host}")
}

pub(crate) fn address(host: usize) -> SocketAddr {
    let host = u8::try_from(host).expect("a small cluster");
    SocketAddr::from(([192, 0, 2, host], 7946))
}

fn host_at(address: SocketAddr) -> Option<usize> {
    match address.ip() {
        IpAddr::V4(ip) => Some(usize::from(ip.octets()[3])),
        IpAddr::V6(_) => None,
    }
}

pub(crate) fn network(number: u8) -> NetworkId {
    NetworkId::from_bytes([number; 16])
}

pub(crate) fn endpoint_id(host: usize, endpoint: u8) -> EndpointId {
    let host = u8::try_from(host).expect("a small cluster");
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&[host, endpoint]);
    EndpointId::from_bytes(bytes)
}

pub(crate) fn row(network: NetworkId, host: usize, endpoint: u8, weight: u16) -> Row {
    let id = endpoint_id(host, endpoint);
    let octet = u8::try_from(host).expect("a small cluster");
    let address = Ipv4Addr::new(10, 0, octet, endpoint);
    let (mac, addresses) = (MacAddr::from_ipv4(address), vec![IpAddr::V4(address)]);
    Row {
        endpoint: id,
        mac,
        addresses: addresses.clone(),
        vtep: IpAddr::V4(Ipv4Addr::new(192, 0, 2, octet)),
        names: vec![format!("task-{host}-{endpoint}")],
        service: None,
        service_names: Vec::new(),
        ports: Vec::new(),
        weight,
        state: RowState::Live,
        lease: Lease {
            network,
            endpoint: id,
            node: NodeId::from_bytes([octet; 16]),
            addresses,
            mac,
            generation: 1,
            signature: Bytes::from_static(&[0x5a; 64]),
        },
    }
}

fn brief(rows: &BTreeMap<(String, EndpointId), Row>) -> Vec<String> {
    let brief = rows
        .iter()
        .map(|((owner, _), row)| format!("{owner} {} {}", row.names[0], row.weight));
    brief.collect()
}

/// Longest time that a restarted daemon is busy with itself.
const STARTING: Duration = Duration::from_secs(3);
const OPEN: u8 = 0;
const DATA: u8 = 1;
const CLOSE: u8 = 2;
