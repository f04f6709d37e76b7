//! Names: the parser of messages, queries of clients, answers of upstream servers.

use std::net::SocketAddr;

use domain::{base::message::Message as DomainMessage, rdata::AllRecordData};
use overlay_core::{EndpointId, Instant, Machine, NetworkId, Seed, ServiceId};
use overlay_dns::{
    Config, Output, Port, QueryToken, Records, Resolver, ServiceRecords, Transport, View,
    wire::{Compressor, DecodeError, Full, Header, Message, Name, Owner, Section, Writer},
};

use crate::input::Input;

/// What is accepted is a message for an independent parser, too, and can be written again.
pub fn dns_message(bytes: &[u8]) {
    // About OPT there are rules (RFC 6891 §6.1.1) that are not all theirs.
    let about_opt = matches!(Message::new_checked(bytes), Err(DecodeError::Opt { .. }));
    if !about_opt && has_known_data(bytes) && !may_point_into_the_header(bytes) {
        let ours = is_read_whole(bytes);
        let hickory = hickory_proto::op::Message::from_vec(bytes);
        assert_eq!(ours, hickory.is_ok(), "{hickory:?}");
        // For domain a pointer may lead into its own name, as long as it leads back.
        let into_itself = format!("{hickory:?}").contains("PointerNotPriorToLabel");
        let domain = is_read_whole_by_domain(bytes);
        assert!(ours == domain || (domain && into_itself), "domain differs");
    }
    let Ok(message) = Message::new_checked(bytes) else {
        return;
    };
    let sections = [Section::Answer, Section::Authority, Section::Additional];
    let claimed = sections.map(|section| usize::from(message.record_count(section)));
    assert_eq!(message.records().count(), claimed.iter().sum());
    assert_eq!(message.question().is_some(), message.question_count() > 0);
    assert!(is_read_by_another(bytes), "the other parser refuses it");

    let (mut out, mut compressor) = (Vec::new(), Compressor::new());
    let mut writer = Writer::new(&mut out, &mut compressor, 65_535);
    let mut written = [0_usize; 3];
    for record in message.records() {
        let (name, _) = Name::decode(bytes, record.owner_at).expect("it was checked");
        let fixed = (record.kind, record.class, record.ttl);
        // What cannot be understood is left out, with its record.
        let data = |writer: &mut Writer<'_>| writer.rdata(&message, &record).map_err(|_| Full);
        let done = writer.record(record.section, Owner::Name(&name), fixed, data);
        let at = sections
            .iter()
            .position(|section| *section == record.section);
        written[at.expect("one of three")] += usize::from(done.is_ok());
    }
    writer.finish(Header::query(message.header().id), None);
    let again = Message::new_checked(&out).expect("what was written reads");
    let found = sections.map(|section| usize::from(again.record_count(section)));
    assert_eq!(found, written);
    assert!(is_read_by_another(&out), "the other parser refuses ours");
}

fn is_read_by_another(bytes: &[u8]) -> bool {
    DomainMessage::from_octets(bytes).is_ok_and(|message| {
        message.question().all(|question| question.is_ok())
            && message.iter().all(|record| record.is_ok())
    })
}

/// Whether the data of each record is read to its last octet.
fn is_read_whole(bytes: &[u8]) -> bool {
    let Ok(message) = Message::new_checked(bytes) else {
        return false;
    };
    let (mut out, mut compressor) = (Vec::new(), Compressor::new());
    message.records().all(|record| {
        let mut writer = Writer::new(&mut out, &mut compressor, 65_535);
        writer.rdata(&message, &record).is_ok()
    })
}

fn is_read_whole_by_domain(bytes: &[u8]) -> bool {
    is_read_by_another(bytes)
        && DomainMessage::from_octets(bytes).is_ok_and(|message| {
            message.iter().all(|record| {
                let data =
                    record.map(|(record, _)| record.into_any_record::<AllRecordData<_, _>>());
                data.is_ok_and(|data| data.is_ok())
            })
        })
}

/// Others read a name in the header; nothing there was written as one (RFC 1035 §4.1.4).
fn may_point_into_the_header(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair[0] == 0xc0 && pair[1] < 12)
}

/// Whether all three look at the data of every record.
fn has_known_data(bytes: &[u8]) -> bool {
    const KINDS: [u16; 9] = [1, 2, 5, 6, 12, 15, 16, 28, 33];
    let Ok(message) = DomainMessage::from_octets(bytes) else {
        return true;
    };
    message.iter().map_while(Result::ok).all(|(record, _)| {
        let (kind, class) = (record.rtype().to_int(), record.class().to_int());
        kind == 41 || (class == 1 && record.rdlen() > 0 && KINDS.contains(&kind))
    })
}

const ALICE: EndpointId = EndpointId::from_bytes([1; 16]);
const BOB: EndpointId = EndpointId::from_bytes([2; 16]);
const MY_NET: NetworkId = NetworkId::from_bytes([1; 16]);
const OTHER: NetworkId = NetworkId::from_bytes([2; 16]);

fn server(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 53))
}

/// Alice is on both networks and may ask upstream; Bob is on an internal one.
fn resolver(now: Instant) -> Resolver {
    let mut resolver = Resolver::new(Config::default(), Seed::from_u64(1), now);
    resolver.set_network(now, MY_NET, "my-net");
    resolver.set_subnets(now, MY_NET, &["10.0.1.0/24".parse().expect("a subnet")]);
    resolver.set_network(now, OTHER, "other");
    let view = |networks: &[NetworkId], forward| View {
        networks: networks.to_vec(),
        forward,
    };
    resolver.set_client(now, ALICE, view(&[MY_NET, OTHER], true));
    resolver.set_client(now, BOB, view(&[MY_NET], false));
    resolver.set_upstreams(now, vec![server(1), server(2)]);
    let port = Port {
        name: "http".into(),
        protocol: "tcp".into(),
        number: 80,
        priority: 0,
        weight: 1,
    };
    for number in 1..=3 {
        let owner = EndpointId::from_bytes([10 + number; 16]);
        let records = Records {
            names: vec![format!("web{number}"), "web".into(), "a.b".into()],
            addresses: vec![
                [10, 0, 1, number].into(),
                "fd00::1".parse().expect("an address"),
            ],
            services: vec!["shop".into()],
            ports: vec![port.clone()],
            texts: vec![b"text".to_vec()],
            canonical: (number == 3).then(|| "web.example.com".into()),
        };
        resolver.set_records(now, MY_NET, owner, records);
    }
    let shop = ServiceRecords {
        names: vec!["shop".into()],
        addresses: vec![[10, 0, 1, 9].into()],
        ports: vec![port],
        texts: Vec::new(),
    };
    resolver.set_service(now, MY_NET, ServiceId::from_bytes([1; 16]), shop);
    while resolver.poll_output().is_some() {}
    resolver
}

/// A client's query: an octet that chooses client and transport, and the message.
pub fn dns_query(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let query = input.rest();
    let client = if flags & 1 == 0 { ALICE } else { BOB };
    let is_tcp = flags & 2 != 0;
    let transport = if is_tcp {
        Transport::Tcp
    } else {
        Transport::Udp
    };
    let now = Instant::from_millis(1_000);
    let mut resolver = resolver(now);
    let refused = resolver.handle_query(now, client, QueryToken(1), transport, query);
    let limit = Message::new_checked(query)
        .ok()
        .and_then(|message| message.edns())
        .map_or(512, |edns| edns.payload_bytes.clamp(512, 1_232));
    let mut outputs = 0;
    while let Some(output) = resolver.poll_output() {
        outputs += 1;
        match output {
            Output::Answer { bytes, .. } => {
                assert_eq!(bytes[..2], query[..2], "the id");
                assert!(is_tcp || bytes.len() <= usize::from(limit));
                assert!(is_read_by_another(&bytes), "the other parser refuses ours");
                Message::new_checked(&bytes).expect("our own answer reads");
            }
            Output::Forward { bytes, .. } => {
                assert_eq!(client, ALICE, "nothing of an internal client leaves");
                assert!(is_read_by_another(&bytes), "the other parser refuses ours");
            }
            Output::CloseForward { .. } | Output::Event(_) => {}
        }
    }
    assert_eq!(refused.is_err(), outputs == 0, "one of both");
}

/// What a server says: an octet of choices, and the message; with a bit its id and question are made good first.
pub fn dns_upstream(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let name = b"\x07example\x03com\x00\x00\x01\x00\x01";
    let mut query = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    query.extend(name);
    if flags & 1 != 0 {
        query[11] = 1;
        query.extend(b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00");
    }
    let transport = if flags & 2 != 0 {
        Transport::Tcp
    } else {
        Transport::Udp
    };
    let now = Instant::from_millis(1_000);
    let mut resolver = resolver(now);
    let asked = |resolver: &mut Resolver, token| {
        resolver
            .handle_query(now, ALICE, QueryToken(token), transport, &query)
            .expect("a good query");
    };
    asked(&mut resolver, 1);
    let Some(Output::Forward {
        upstream,
        to,
        bytes: forward,
        ..
    }) = resolver.poll_output()
    else {
        unreachable!("the name is foreign");
    };
    let mut answer = input.rest().to_vec();
    if flags & 4 == 0 && answer.len() >= 12 {
        let rest = answer.split_off(12);
        answer[..2].copy_from_slice(&forward[..2]);
        answer[2] = answer[2] & 0x07 | 0x80;
        answer[4..6].copy_from_slice(&[0, 1]);
        answer.extend(&forward[12..12 + name.len()]);
        answer.extend(rest);
    }
    let refused = resolver
        .handle_upstream(now, upstream, to, &answer)
        .is_err();
    let mut outputs = 0;
    // The second time the cache may answer.
    for token in [2, 3] {
        while let Some(output) = resolver.poll_output() {
            outputs += 1;
            let Output::Answer { bytes, .. } = output else {
                continue;
            };
            let limit = if flags & 1 != 0 { 1_232 } else { 512 };
            assert!(flags & 2 != 0 || bytes.len() <= limit);
            assert_eq!(bytes[..2], query[..2], "the id");
            assert_eq!(bytes[12..12 + name.len()], *name, "the question");
            assert!(is_read_by_another(&bytes), "the other parser refuses ours");
            Message::new_checked(&bytes).expect("our own answer reads");
        }
        if token == 2 {
            assert!(
                !refused || outputs == 0,
                "a refused answer queued something"
            );
            asked(&mut resolver, token);
        }
    }
}
