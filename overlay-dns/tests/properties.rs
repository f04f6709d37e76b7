//! Properties: hostile octets, agreement with two other implementations, and a naive model of the lookup.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers here are test code as well"
)]

#[cfg(test)]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use domain::base::message::Message as DomainMessage;
use hickory_proto::{
    op::{Message as HickoryMessage, ResponseCode},
    rr::{Name as HickoryName, RData, Record, RecordType, rdata},
};
use overlay_core::{EndpointId, NetworkId};
use overlay_dns::{
    Config, Output, QueryError, Transport, View,
    wire::{Class, Compressor, DecodeError, Header, Message, Name, Owner, Section, Writer},
};
use proptest::{collection::vec, prelude::*};
use support::*;

/// A label of one to 63 octets, most of them short.
fn label() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => "[a-zA-Z0-9_-]{1,8}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 1..=63),
    ]
}

fn name() -> impl Strategy<Value = Name> {
    vec(label(), 0..6).prop_map(|labels| {
        let mut name = Name::ROOT;
        for label in labels {
            let _ = name.push(&label); // until it is full
        }
        name
    })
}

fn hickory_name() -> impl Strategy<Value = HickoryName> {
    vec("[a-z]{1,6}", 1..4).prop_map(|labels| {
        let name = HickoryName::from_str(&labels.join(".")).unwrap();
        name.append_domain(&HickoryName::root()).unwrap()
    })
}

fn rdata() -> impl Strategy<Value = RData> {
    let soa = (hickory_name(), hickory_name(), any::<[u32; 5]>()).prop_map(|(m, r, n)| {
        let [serial, refresh, retry, expire, minimum] = n.map(|number| number >> 1);
        let (refresh, retry, expire) = [refresh, retry, expire].map(u32::cast_signed).into();
        RData::SOA(rdata::SOA::new(
            m, r, serial, refresh, retry, expire, minimum,
        ))
    });
    prop_oneof![
        any::<Ipv4Addr>().prop_map(|ip| RData::A(rdata::A(ip))),
        any::<[u16; 8]>().prop_map(|ip| RData::AAAA(rdata::AAAA(ip.into()))),
        hickory_name().prop_map(|name| RData::CNAME(rdata::CNAME(name))),
        hickory_name().prop_map(|name| RData::NS(rdata::NS(name))),
        hickory_name().prop_map(|name| RData::PTR(rdata::PTR(name))),
        (any::<u16>(), hickory_name()).prop_map(|(p, name)| RData::MX(rdata::MX::new(p, name))),
        (any::<[u16; 3]>(), hickory_name())
            .prop_map(|([p, w, n], name)| RData::SRV(rdata::SRV::new(p, w, n, name))),
        vec("[ -~]{0,40}", 1..4).prop_map(|texts| RData::TXT(rdata::TXT::new(texts))),
        soa,
    ]
}

fn record_strategy() -> impl Strategy<Value = Record> {
    (hickory_name(), 0..u32::MAX / 2, rdata())
        .prop_map(|(name, ttl, data)| Record::from_rdata(name, ttl, data))
}

/// A message as hickory writes it: a query, or a response with records of every kind.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let records = vec(record_strategy(), 0..6);
    (
        hickory_name(),
        any::<u16>(),
        records,
        any::<bool>(),
        0..3_usize,
    )
        .prop_map(|(name, id, records, edns, response)| {
            let query = Query::new(name.to_ascii().trim_end_matches('.'), RecordType::A).id(id);
            let query = if edns { query.edns(1_232) } else { query };
            let bytes = query.bytes();
            if response == 0 {
                return bytes;
            }
            let mut message = HickoryMessage::from_vec(&bytes).unwrap().into_response();
            let (first, rest) = records.split_at(records.len() / 2);
            message.add_answers(first.iter().cloned());
            message.add_authorities(rest.iter().cloned());
            message.to_vec().unwrap()
        })
}

/// What a fault of the wire or an attacker does to a message.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let flips = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (message(), flips, any::<prop::sample::Index>(), 0..4_u8).prop_map(
        |(mut bytes, flips, cut, what)| {
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            match what {
                0 => bytes.truncate(cut.index(bytes.len())),
                1 => {
                    // A pointer to anywhere.
                    let at = cut.index(bytes.len());
                    bytes[at] |= 0xc0;
                }
                _ => {}
            }
            bytes
        },
    )
}

/// Whether hickory takes it.
fn hickory_accepts(bytes: &[u8]) -> bool {
    HickoryMessage::from_vec(bytes).is_ok()
}

/// Whether domain finds every question and record, without a look into their data, and our rules about OPT hold.
fn domain_accepts(bytes: &[u8]) -> bool {
    let Ok(message) = DomainMessage::from_octets(bytes) else {
        return false;
    };
    message.question().all(|question| question.is_ok())
        && message.iter().all(|record| record.is_ok())
}

/// Reads a message to the last octet of the data of each record.
fn read_whole(bytes: &[u8]) -> Result<(), String> {
    let message = Message::new_checked(bytes).map_err(|error| error.to_string())?;
    let (mut out, mut compressor) = (Vec::new(), Compressor::new());
    for record in message.records() {
        let mut writer = Writer::new(&mut out, &mut compressor, 65_535);
        let written = writer.rdata(&message, &record);
        written.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Whether a name may point into the header, which others read as a name. Here that is malformed: nothing there was
/// written as one (RFC 1035 §4.1.4: a prior occurrence).
fn may_point_into_the_header(bytes: &[u8]) -> bool {
    bytes
        .windows(2)
        .any(|pair| pair[0] == 0xc0 && usize::from(pair[1]) < 12)
}

/// Whether all three look at the data of every record: of other types and classes one or the other takes any octets, and
/// hickory takes no record without data but OPT.
fn has_known_data(bytes: &[u8]) -> bool {
    const KINDS: [u16; 9] = [1, 2, 5, 6, 12, 15, 16, 28, 33];
    const OPT: u16 = 41;
    let Ok(message) = DomainMessage::from_octets(bytes) else {
        return true;
    };
    message.iter().map_while(Result::ok).all(|(record, _)| {
        let kind = record.rtype().to_int();
        let class = record.class().to_int();
        kind == OPT || (class == 1 && record.rdlen() > 0 && KINDS.contains(&kind))
    })
}

/// Octets that look like a message at least at the beginning.
fn octets() -> impl Strategy<Value = Vec<u8>> {
    let counted = (vec(0..3_u8, 4), vec(any::<u8>(), 0..60)).prop_map(|(counts, rest)| {
        let mut bytes = vec![0, 7, 0x81, 0];
        bytes.extend(counts.into_iter().flat_map(|count| [0, count]));
        // Short labels and ends of names are likely.
        bytes.extend(
            rest.into_iter()
                .map(|octet| if octet < 180 { octet % 4 } else { octet }),
        );
        bytes
    });
    prop_oneof![6 => damaged(), 2 => counted, 1 => vec(any::<u8>(), 0..100)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn all_three_accept_and_refuse_the_same_messages(bytes in octets()) {
        if !has_known_data(&bytes) || may_point_into_the_header(&bytes) {
            return Ok(());
        }
        // About OPT there are rules (RFC 6891 §6.1.1) that are not all theirs.
        if matches!(Message::new_checked(&bytes), Err(DecodeError::Opt { .. })) {
            return Ok(());
        }
        let (ours, domain) = (read_whole(&bytes), domain_records(&bytes));
        let hickory = HickoryMessage::from_vec(&bytes);
        prop_assert_eq!(ours.is_ok(), hickory.is_ok(), "ours {:?}, hickory {:?}", ours, hickory);
        // For domain a pointer may lead into its own name, as long as it leads back.
        let into_itself = format!("{hickory:?}").contains("PointerNotPriorToLabel");
        let same = ours.is_ok() == domain.is_ok() || (domain.is_ok() && into_itself);
        prop_assert!(same, "ours {:?}, domain {:?}", ours, domain);
    }

    #[test]
    fn questions_and_records_end_where_domain_finds_their_ends(bytes in octets()) {
        let ours = Message::new_checked(&bytes);
        // Of OPT we read the options as well; and see above for pointers.
        let other = matches!(ours, Err(DecodeError::Opt { .. } | DecodeError::Pointer { .. }));
        if other || has_opt(&bytes) || may_point_into_the_header(&bytes) {
            return Ok(());
        }
        prop_assert_eq!(ours.is_ok(), domain_accepts(&bytes), "{:?}", ours);
    }
}

fn has_opt(bytes: &[u8]) -> bool {
    DomainMessage::from_octets(bytes).is_ok_and(|message| {
        let mut records = message.iter().map_while(Result::ok);
        records.any(|(record, _)| record.rtype().to_int() == 41)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_octets_as_a_query_do_no_harm(bytes in prop_oneof![damaged(), vec(any::<u8>(), 0..600)], tcp: bool) {
        let mut bench = Bench::new();
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        for client in [ALICE, BOB] {
            let outputs = match bench.send_bytes(client, transport, &bytes) {
                Ok(outputs) => outputs,
                Err(QueryError::Truncated { .. }) => {
                    prop_assert!(bytes.len() < 12);
                    continue;
                }
                Err(error) => {
                    prop_assert_eq!(error, QueryError::Response);
                    prop_assert!(bytes[2] & 0x80 != 0);
                    continue;
                }
            };
            prop_assert_eq!(outputs.len(), 1);
            for answer in answers(&outputs) {
                prop_assert_eq!(&answer.bytes[..2], &bytes[..2], "the id");
                let edns = Message::new_checked(&bytes).ok().and_then(|message| message.edns());
                let limit = edns.map_or(512, |edns| edns.payload_bytes.clamp(512, 1_232));
                prop_assert!(tcp || answer.bytes.len() <= usize::from(limit));
            }
            let internal = client == BOB;
            prop_assert!(!internal || forwards(&outputs).is_empty(), "nothing leaves");
        }
    }

    #[test]
    fn any_octets_as_an_upstream_answer_do_no_harm(
        bytes in prop_oneof![damaged(), vec(any::<u8>(), 0..600)],
        matching: bool,
        edns: bool,
    ) {
        let mut bench = Bench::new();
        let query = Query::new("example.com", RecordType::A);
        let query = if edns { query.edns(4_096) } else { query };
        let forward = bench.forward(&query);
        let bytes = if matching { answering(&forward, &bytes) } else { bytes };
        match bench.reply(&forward, &bytes) {
            Ok(outputs) => {
                for output in &outputs {
                    let Output::Answer { bytes: answer, .. } = output else { continue };
                    let limit = if edns { 1_232 } else { 512 };
                    prop_assert!(answer.len() <= limit);
                    prop_assert_eq!(&answer[..2], query.id.to_be_bytes());
                    let end = 12 + query.question().len();
                    prop_assert_eq!(&answer[12..end], query.question());
                    prop_assert!(domain_accepts(answer));
                    // The data of some types is opaque to us, and may be nonsense.
                    prop_assert!(!hickory_accepts(&bytes) || hickory_accepts(answer));
                }
            }
            Err(_) => prop_assert_eq!(bench.drain(), []),
        }
    }

    #[test]
    fn what_a_server_says_arrives_unchanged(records in vec(record_strategy(), 1..8), extra in vec(record_strategy(), 0..4)) {
        let mut bench = Bench::new();
        let query = Query::new("example.com", RecordType::A).tcp();
        let forward = bench.forward(&query);
        let mut reply = forward.answer(ResponseCode::NoError, records);
        reply.add_additionals(extra);
        let outputs = bench.reply(&forward, &reply.to_vec().unwrap()).unwrap();
        let [answer] = answers(&outputs).try_into().unwrap();
        prop_assert_eq!(&answer.message.answers, &reply.answers);
        prop_assert_eq!(&answer.message.additionals, &reply.additionals);
        // And so it does out of the cache.
        if bench.resolver.stats().cache_entries > 0 {
            prop_assert_eq!(&bench.answer(&query).message.answers, &reply.answers);
        }
    }

    #[test]
    fn names_survive_compression(names in vec(name(), 1..40), case: bool) {
        let (mut out, mut compressor) = (Vec::new(), Compressor::new());
        let mut writer = Writer::new(&mut out, &mut compressor, 65_535);
        for name in &names {
            let fixed = (overlay_dns::wire::RecordType::PTR, Class::IN, 0);
            writer.record(Section::Answer, Owner::Name(name), fixed, |w| w.name(name, case)).unwrap();
        }
        writer.finish(Header::query(0), None);
        let message = Message::new_checked(&out).unwrap();
        let mut read = Vec::new();
        for record in message.records() {
            for at in [record.owner_at, record.rdata_at] {
                read.push(Name::decode(&out, at).unwrap().0);
            }
        }
        let twice: Vec<Name> = names.iter().flat_map(|name| [*name, *name]).collect();
        prop_assert_eq!(read, twice);
        prop_assert!(domain_accepts(&out));
    }

    #[test]
    fn names_survive_text(labels in vec("[a-z0-9_-]{1,63}", 1..4)) {
        let text = labels.join(".");
        let name = Name::from_text(&text).unwrap();
        prop_assert_eq!(name.to_string(), format!("{text}."));
        prop_assert_eq!(Name::from_text(&name.to_string()).unwrap(), name);
        let lower = Name::from_text(&text.to_uppercase()).unwrap().lowercase();
        prop_assert_eq!(lower, name);
    }

    #[test]
    fn headers_survive(octets: [u8; 12]) {
        let header = Header::parse(&octets).unwrap();
        let mut again = octets;
        again[..4].copy_from_slice(&header.emit());
        prop_assert_eq!(Header::parse(&again).unwrap(), header);
        prop_assert_eq!(again[3] & 0x40, 0);
        prop_assert_eq!((again[2], again[3] | 0x40), (octets[2], octets[3] | 0x40));
    }
}

/// Puts id, flags and question of a matching answer before octets that may be anything.
fn answering(forward: &Forward, bytes: &[u8]) -> Vec<u8> {
    let mut answer = forward.bytes_of(ResponseCode::NoError, vec![]);
    let question_end = 12 + Query::new("example.com", RecordType::A).question().len();
    answer.truncate(question_end);
    let rest = bytes.get(12..).unwrap_or_default();
    answer[6..12].copy_from_slice(&[0, bytes.first().copied().unwrap_or(0) & 3, 0, 0, 0, 0]);
    answer.extend(rest);
    answer
}

/// What happens to the names of two networks.
#[derive(Clone, Debug)]
enum Op {
    Set {
        network: u8,
        owner: u8,
        names: Vec<&'static str>,
        service: Option<&'static str>,
        addresses: Vec<u8>,
    },
    Remove {
        network: u8,
        owner: u8,
    },
    Name {
        network: u8,
        name: &'static str,
    },
    View {
        networks: Vec<u8>,
    },
}

const TEXTS: &[&str] = &["a", "b", "A.b", "c", "b.c", "tasks", "a.c", "tasks.b"];

fn op() -> impl Strategy<Value = Op> {
    let text = || prop::sample::select(TEXTS);
    prop_oneof![
        6 => (0..3_u8, 0..5_u8, vec(text(), 0..3), prop::option::of(text()), vec(0..6_u8, 0..3))
            .prop_map(|(network, owner, names, service, addresses)| Op::Set {
                network, owner, names, service, addresses
            }),
        2 => (0..3_u8, 0..5_u8).prop_map(|(network, owner)| Op::Remove { network, owner }),
        1 => (0..3_u8, text()).prop_map(|(network, name)| Op::Name { network, name }),
        1 => vec(0..3_u8, 0..4).prop_map(|networks| Op::View { networks }),
    ]
}

/// One owner's part in one network: names, service, addresses.
type Row = (BTreeSet<String>, Option<String>, BTreeSet<IpAddr>);

/// The lookup as the documentation of Docker tells it, without any index.
#[derive(Default)]
struct Model {
    names: BTreeMap<u8, String>,
    rows: BTreeMap<(u8, u8), Row>,
    view: Vec<u8>,
}

impl Model {
    /// The addresses of a name; none if nobody has it.
    fn lookup(&self, name: &str) -> Option<BTreeSet<IpAddr>> {
        let labels: Vec<&str> = name.split('.').collect();
        for kept in (1..=labels.len()).rev() {
            let (first, network_name) = (labels[..kept].join("."), labels[kept..].join("."));
            for network in &self.view {
                let named = self.names.get(network) == Some(&network_name);
                if kept < labels.len() && !named {
                    continue;
                }
                if let Some(found) = self.in_network(*network, &first) {
                    return Some(found);
                }
            }
        }
        None
    }

    fn in_network(&self, network: u8, name: &str) -> Option<BTreeSet<IpAddr>> {
        let rows = || self.rows.iter().filter(|((other, _), _)| *other == network);
        let union = |rows: Vec<&Row>| {
            let found = !rows.is_empty();
            found.then(|| {
                rows.iter()
                    .flat_map(|(.., addresses)| addresses.clone())
                    .collect()
            })
        };
        let has = |row: &&Row| row.0.contains(name) || row.1.as_deref() == Some(name);
        let whole = union(rows().map(|(_, row)| row).filter(has).collect());
        whole.or_else(|| {
            let service = name.strip_prefix("tasks.")?;
            let tasks = rows()
                .map(|(_, row)| row)
                .filter(|row| row.1.as_deref() == Some(service));
            union(tasks.collect())
        })
    }
}

fn network(number: u8) -> NetworkId {
    NetworkId::from_bytes([number; 16])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn lookup_is_what_a_naive_model_says(ops in vec(op(), 1..30), seed: u64) {
        let mut bench = Bench::with_seed(Config::default(), seed);
        let mut model = Model::default();
        let now = bench.now;
        for number in [MY_NET, OTHER] {
            bench.resolver.remove_network(now, number);
        }
        bench.resolver.set_client(now, ALICE, View { networks: vec![], forward: true });
        for op in ops {
            apply(&mut bench, &mut model, op);
            for text in TEXTS.iter().flat_map(|text| [(*text).to_owned(), format!("{text}.C")]) {
                let lower = text.to_lowercase();
                let outputs = bench.send(&Query::new(&text, RecordType::A)).unwrap();
                match model.lookup(&lower) {
                    Some(addresses) => {
                        let [answer] = answers(&outputs).try_into().unwrap();
                        let list = answer.addresses();
                        let set: BTreeSet<IpAddr> = list.iter().copied().collect();
                        prop_assert_eq!(list.len(), set.len(), "each once");
                        prop_assert_eq!(set, addresses, "{}", text);
                    }
                    // It is forwarded, refused for overload, or stands above another name.
                    None => {
                        let answers = answers(&outputs);
                        prop_assert!(answers.iter().all(|answer| answer.texts().is_empty()));
                    }
                }
            }
        }
    }
}

fn apply(bench: &mut Bench, model: &mut Model, op: Op) {
    let now = bench.now;
    let id = |owner: u8| EndpointId::from_bytes([owner; 16]);
    match op {
        Op::Set {
            network: number,
            owner,
            names,
            service,
            addresses,
        } => {
            let lower = |text: &&str| text.to_lowercase();
            let addresses: Vec<IpAddr> = addresses
                .iter()
                .map(|last| IpAddr::from([10, 0, 0, *last]))
                .collect();
            let mut set = records(&names, &[]);
            set.services = service.iter().map(|text| (*text).to_owned()).collect();
            set.addresses.clone_from(&addresses);
            bench
                .resolver
                .set_records(now, network(number), id(owner), set);
            let row = (
                names.iter().map(lower).collect(),
                service.as_ref().map(lower),
                addresses.into_iter().collect(),
            );
            model.rows.insert((number, owner), row);
        }
        Op::Remove {
            network: number,
            owner,
        } => {
            bench
                .resolver
                .remove_records(now, network(number), id(owner));
            model.rows.remove(&(number, owner));
        }
        Op::Name {
            network: number,
            name,
        } => {
            bench.resolver.set_network(now, network(number), name);
            model.names.insert(number, name.to_lowercase());
        }
        Op::View { networks } => {
            model.view.clone_from(&networks);
            let networks = networks.into_iter().map(network).collect();
            let view = View {
                networks,
                forward: true,
            };
            bench.resolver.set_client(now, ALICE, view);
        }
    }
}
