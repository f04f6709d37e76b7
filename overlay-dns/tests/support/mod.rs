//! A resolver on a bench: two networks, two clients, queries as octets, answers read by two other implementations.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file compiles it for itself and uses a part"
)]

#[cfg(feature = "tokio")]
pub mod running;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use domain::{base::message::Message as DomainMessage, rdata::AllRecordData};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query as HickoryQuery, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use overlay_core::{EndpointId, Instant, Machine, NetworkId, Seed};
use overlay_dns::{Config, Output, QueryToken, Records, Resolver, Transport, UpstreamToken, View};

/// On `my-net` and `other`, forwarding.
pub const ALICE: EndpointId = EndpointId::from_bytes([1; 16]);
/// On `my-net` only, which is internal for it.
pub const BOB: EndpointId = EndpointId::from_bytes([2; 16]);
pub const MY_NET: NetworkId = NetworkId::from_bytes([1; 16]);
pub const OTHER: NetworkId = NetworkId::from_bytes([2; 16]);

pub struct Bench {
    pub resolver: Resolver,
    pub now: Instant,
    token: u64,
}

/// A query as a client writes it.
#[derive(Clone)]
pub struct Query {
    pub client: EndpointId,
    pub transport: Transport,
    pub id: u16,
    pub flags: u16,
    pub name: Vec<u8>,
    pub kind: u16,
    pub class: u16,
    pub opt: Option<Vec<u8>>,
}

/// An answer, and how hickory reads it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub bytes: Vec<u8>,
    pub message: Message,
}

/// A query that went to a server.
#[derive(Clone, Debug)]
pub struct Forward {
    pub upstream: UpstreamToken,
    pub to: SocketAddr,
    pub transport: Transport,
    pub bytes: Vec<u8>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with_config(Config::default())
    }

    pub fn with_config(config: Config) -> Self {
        Self::with_seed(config, 1)
    }

    pub fn with_seed(config: Config, seed: u64) -> Self {
        let now = Instant::from_millis(1_000);
        let mut resolver = Resolver::new(config, Seed::from_u64(seed), now);
        resolver.set_network(now, MY_NET, "my-net");
        resolver.set_subnets(now, MY_NET, &["10.0.1.0/24".parse().unwrap()]);
        resolver.set_network(now, OTHER, "other");
        let view = |networks: &[NetworkId], forward| View {
            networks: networks.to_vec(),
            forward,
        };
        resolver.set_client(now, ALICE, view(&[MY_NET, OTHER], true));
        resolver.set_client(now, BOB, view(&[MY_NET], false));
        resolver.set_upstreams(now, vec![server(1), server(2)]);
        let mut bench = Self {
            resolver,
            now,
            token: 0,
        };
        bench.set(MY_NET, 1, &["web", "www"], &["10.0.1.2"]);
        bench.set(MY_NET, 2, &["db.1.xyz"], &["10.0.1.3", "fd00:1::3"]);
        bench.set(OTHER, 3, &["web", "far"], &["10.0.2.2"]);
        bench
    }

    /// Gives an endpoint names and addresses.
    pub fn set(&mut self, network: NetworkId, owner: u8, names: &[&str], addresses: &[&str]) {
        let records = records(names, addresses);
        self.records(network, owner, records);
    }

    pub fn records(&mut self, network: NetworkId, owner: u8, records: Records) {
        let owner = endpoint(u16::from(owner));
        self.resolver.set_records(self.now, network, owner, records);
    }

    /// Asks as `ALICE`, over UDP without OPT, and expects an answer at once.
    pub fn ask(&mut self, name: &str, kind: RecordType) -> Answer {
        self.answer(&Query::new(name, kind))
    }

    /// Expects an answer at once and nothing else.
    pub fn answer(&mut self, query: &Query) -> Answer {
        let mut answers = self.send(query).unwrap();
        assert_eq!(answers.len(), 1, "expected one answer: {answers:?}");
        match answers.remove(0) {
            Output::Answer {
                client,
                token,
                bytes,
            } => {
                assert_eq!((client, token.0), (query.client, self.token));
                Answer::read(bytes)
            }
            other => panic!("expected an answer, found {other:?}"),
        }
    }

    /// Expects that a query goes to a server, and nothing else.
    pub fn forward(&mut self, query: &Query) -> Forward {
        let outputs = self.send(query).unwrap();
        let [forward] = forwards(&outputs).try_into().expect("one forward");
        assert_eq!(outputs.len(), 1, "{outputs:?}");
        forward
    }

    pub fn send(&mut self, query: &Query) -> Result<Vec<Output>, overlay_dns::QueryError> {
        self.send_bytes(query.client, query.transport, &query.bytes())
    }

    pub fn send_bytes(
        &mut self,
        client: EndpointId,
        transport: Transport,
        bytes: &[u8],
    ) -> Result<Vec<Output>, overlay_dns::QueryError> {
        self.token += 1;
        let token = QueryToken(self.token);
        self.resolver
            .handle_query(self.now, client, token, transport, bytes)?;
        Ok(self.drain())
    }

    /// The token of the latest query.
    pub fn token(&self) -> QueryToken {
        QueryToken(self.token)
    }

    /// Hands a server's message to the resolver.
    pub fn reply(
        &mut self,
        forward: &Forward,
        bytes: &[u8],
    ) -> Result<Vec<Output>, overlay_dns::UpstreamError> {
        let (upstream, from) = (forward.upstream, forward.to);
        self.resolver
            .handle_upstream(self.now, upstream, from, bytes)?;
        Ok(self.drain())
    }

    /// Lets time go on, and wakes the resolver whenever it wants.
    pub fn pass(&mut self, duration: Duration) -> Vec<Output> {
        let end = self.now + duration;
        let mut outputs = self.drain();
        while let Some(due) = self.resolver.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.resolver.handle_timeout(self.now);
            outputs.extend(self.drain());
        }
        self.now = end;
        outputs
    }

    pub fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.resolver.poll_output()).collect()
    }
}

impl Query {
    pub fn new(name: &str, kind: RecordType) -> Self {
        Self {
            client: ALICE,
            transport: Transport::Udp,
            id: 0x1234,
            flags: 0x0100,
            name: wire(name),
            kind: kind.into(),
            class: 1,
            opt: None,
        }
    }

    pub fn by(mut self, client: EndpointId) -> Self {
        self.client = client;
        self
    }

    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    pub fn tcp(mut self) -> Self {
        self.transport = Transport::Tcp;
        self
    }

    pub fn edns(self, payload_bytes: u16) -> Self {
        self.opt(payload_bytes, 0, 0)
    }

    /// Adds an OPT record with version and flags.
    pub fn opt(mut self, payload_bytes: u16, version: u8, flags: u16) -> Self {
        let mut opt = vec![0, 0, 41];
        opt.extend(payload_bytes.to_be_bytes());
        opt.extend([0, version]);
        opt.extend(flags.to_be_bytes());
        opt.extend([0, 0]);
        self.opt = Some(opt);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.id.to_be_bytes().to_vec();
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 0, 0, u8::from(self.opt.is_some())]);
        bytes.extend(self.question());
        bytes.extend(self.opt.iter().flatten());
        bytes
    }

    pub fn question(&self) -> Vec<u8> {
        let mut bytes = self.name.clone();
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(self.class.to_be_bytes());
        bytes
    }
}

impl Answer {
    /// Reads an answer with hickory and with domain; both have to find it whole.
    pub fn read(bytes: Vec<u8>) -> Self {
        let message = Message::from_vec(&bytes)
            .unwrap_or_else(|error| panic!("hickory: {error}: {bytes:02x?}"));
        let count = domain_records(&bytes).unwrap_or_else(|error| panic!("domain: {error}"));
        let expected = message.all_sections().count() + usize::from(message.edns.is_some());
        assert_eq!(count, expected);
        assert_eq!(message.metadata.message_type, MessageType::Response);
        Self { bytes, message }
    }

    pub fn rcode(&self) -> ResponseCode {
        self.message.metadata.response_code
    }

    /// The answer section as text, sorted.
    pub fn texts(&self) -> Vec<String> {
        texts(&self.message.answers)
    }

    /// The addresses in the answer section, in their order.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let data = self.message.answers.iter().map(|record| &record.data);
        data.filter_map(|data| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(a) => Some(IpAddr::V6(a.0)),
            _ => None,
        })
        .collect()
    }

    /// The owner of the SOA record in the authority section.
    pub fn soa(&self) -> Option<String> {
        let mut soa = self.message.authorities.iter();
        soa.find(|record| record.record_type() == RecordType::SOA)
            .map(|record| record.name.to_string())
    }

    /// No data, but an authority that says so.
    pub fn assert_no_data(&self, zone: &str) {
        assert_eq!(self.rcode(), ResponseCode::NoError);
        assert_eq!(self.texts(), [""; 0]);
        assert_eq!(self.soa().as_deref(), Some(zone));
        assert!(self.message.metadata.authoritative);
    }

    /// No such name, and an authority that says so.
    pub fn assert_absent(&self, zone: &str) {
        assert_eq!(self.rcode(), ResponseCode::NXDomain);
        assert_eq!(self.texts(), [""; 0]);
        assert_eq!(self.soa().as_deref(), Some(zone));
        assert!(self.message.metadata.authoritative);
    }
}

impl Forward {
    /// What the server reads.
    pub fn message(&self) -> Message {
        Message::from_vec(&self.bytes).unwrap()
    }

    /// A server's answer to it, made by hickory.
    pub fn answer(&self, rcode: ResponseCode, answers: Vec<Record>) -> Message {
        let query = self.message();
        let mut message = Message::response(query.metadata.id, OpCode::Query);
        message.metadata.response_code = rcode;
        message.metadata.recursion_desired = true;
        message.metadata.recursion_available = true;
        message.add_query(HickoryQuery::clone(&query.queries[0]));
        message.add_answers(answers);
        message
    }

    pub fn bytes_of(&self, rcode: ResponseCode, answers: Vec<Record>) -> Vec<u8> {
        self.answer(rcode, answers).to_vec().unwrap()
    }
}

/// The answers among outputs.
pub fn answers(outputs: &[Output]) -> Vec<Answer> {
    let bytes = outputs.iter().filter_map(|output| match output {
        Output::Answer { bytes, .. } => Some(bytes.clone()),
        _ => None,
    });
    bytes.map(Answer::read).collect()
}

/// The forwards among outputs.
pub fn forwards(outputs: &[Output]) -> Vec<Forward> {
    let forwards = outputs.iter().filter_map(|output| match output {
        Output::Forward {
            upstream,
            to,
            transport,
            bytes,
        } => Some(Forward {
            upstream: *upstream,
            to: *to,
            transport: *transport,
            bytes: bytes.clone(),
        }),
        _ => None,
    });
    forwards.collect()
}

pub fn texts(records: &[Record]) -> Vec<String> {
    let mut texts: Vec<String> = records
        .iter()
        .map(|record| {
            let (name, kind) = (&record.name, record.record_type());
            format!("{name} {} {kind} {}", record.ttl, record.data)
        })
        .collect();
    texts.sort();
    texts
}

pub fn records(names: &[&str], addresses: &[&str]) -> Records {
    Records {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        ..Records::default()
    }
}

pub fn record(name: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, data)
}

pub fn endpoint(number: u16) -> EndpointId {
    let [a, b] = number.to_be_bytes();
    let mut bytes = [0xee; 16];
    (bytes[14], bytes[15]) = (a, b);
    EndpointId::from_bytes(bytes)
}

pub fn server(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 53))
}

/// The wire form of a name, as written.
pub fn wire(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// Reads every record with `domain`; how many there are.
pub fn domain_records(bytes: &[u8]) -> Result<usize, String> {
    let message = DomainMessage::from_octets(bytes).map_err(|error| error.to_string())?;
    for question in message.question() {
        question.map_err(|error| error.to_string())?;
    }
    let mut count = 0;
    for record in message.iter() {
        let (record, _) = record.map_err(|error| error.to_string())?;
        record
            .into_any_record::<AllRecordData<_, _>>()
            .map_err(|error| error.to_string())?;
        count += 1;
    }
    Ok(count)
}
