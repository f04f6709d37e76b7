//! The same answers by libraries that parse and build messages; the names are in a hash map.
//!
//! They leave the addresses in their order, know one client and one network, and check nothing but the question.

use std::{collections::HashMap, hint::black_box, net::Ipv4Addr};

use domain::{
    base::{
        MessageBuilder, Name, Rtype, Serial, StaticCompressor, ToName, Ttl,
        iana::{Class, Rcode},
        message::Message,
    },
    rdata,
};
use hickory_proto::{
    op,
    rr::{self, LowerName, RData, Record, RecordType},
};

const TTL: u32 = 5;
const NEGATIVE_TTL: u32 = 1;

/// `domain`, with buffers that are kept between answers.
pub(super) struct Domain {
    names: HashMap<Vec<u8>, Vec<Ipv4Addr>>,
    apex: Name<Vec<u8>>,
    nobody: Name<Vec<u8>>,
    key: Vec<u8>,
    out: Vec<u8>,
}

impl Domain {
    pub(super) fn new(names: &[(String, Vec<Ipv4Addr>)]) -> Self {
        let name = |text: &str| text.parse::<Name<Vec<u8>>>().expect("a name");
        let entry = |(text, addresses): &(String, Vec<Ipv4Addr>)| {
            (name(text).into_octets(), addresses.clone())
        };
        Self {
            names: names.iter().map(entry).collect(),
            apex: name("."),
            nobody: name("nobody.invalid"),
            key: Vec::new(),
            out: Vec::new(),
        }
    }

    pub(super) fn answer(&mut self, query: &[u8]) {
        let message = Message::from_octets(query).expect("a message");
        let question = message.sole_question().expect("a question");
        self.key.clear();
        let composed = question.qname().compose_canonical(&mut self.key);
        composed.expect("a vector takes everything");
        let addresses = &self.names[&self.key];
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let builder = MessageBuilder::from_target(StaticCompressor::new(out)).expect("room");
        let mut builder = builder
            .start_answer(&message, Rcode::NOERROR)
            .expect("room");
        builder.header_mut().set_aa(true);
        let wanted = question.qtype() == Rtype::A;
        for address in addresses.iter().filter(|_| wanted) {
            let data = rdata::A::new(*address);
            let record = (question.qname(), Class::IN, Ttl::from_secs(TTL), data);
            builder.push(record).expect("room");
        }
        let mut builder = builder.authority();
        if !wanted {
            let ttl = Ttl::from_secs(NEGATIVE_TTL);
            let hours = Ttl::from_secs(3_600);
            let (apex, nobody) = (&self.apex, &self.nobody);
            let data = rdata::Soa::new(apex, nobody, Serial(1), hours, hours, hours, ttl);
            builder.push((apex, Class::IN, ttl, data)).expect("room");
        }
        let out = builder.finish().into_target();
        black_box(&out);
        self.out = out;
    }
}

/// `hickory-proto`.
pub(super) struct Hickory {
    names: HashMap<LowerName, Vec<Ipv4Addr>>,
    nobody: rr::Name,
}

impl Hickory {
    pub(super) fn new(names: &[(String, Vec<Ipv4Addr>)]) -> Self {
        let name = |text: &str| rr::Name::from_ascii(format!("{text}.")).expect("a name");
        let entry = |(text, addresses): &(String, Vec<Ipv4Addr>)| {
            (LowerName::new(&name(text)), addresses.clone())
        };
        Self {
            names: names.iter().map(entry).collect(),
            nobody: name("nobody.invalid"),
        }
    }

    pub(super) fn answer(&mut self, query: &[u8]) {
        let query = op::Message::from_vec(query).expect("a message");
        let question = &query.queries[0];
        let addresses = &self.names[&LowerName::new(question.name())];
        let mut answer = op::Message::response(query.metadata.id, op::OpCode::Query);
        answer.metadata.authoritative = true;
        answer.add_query(question.clone());
        if question.query_type() == RecordType::A {
            answer.add_answers(addresses.iter().map(|address| {
                let data = RData::A(rr::rdata::A(*address));
                Record::from_rdata(question.name().clone(), TTL, data)
            }));
        } else {
            let (root, nobody) = (rr::Name::root(), self.nobody.clone());
            let data =
                rr::rdata::SOA::new(root.clone(), nobody, 1, 3_600, 600, 86_400, NEGATIVE_TTL);
            answer.add_authorities([Record::from_rdata(root, NEGATIVE_TTL, RData::SOA(data))]);
        }
        black_box(answer.to_vec().expect("a message"));
    }
}
