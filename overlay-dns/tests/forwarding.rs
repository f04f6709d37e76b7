//! Rules 24 and 32 to 38: what leaves, what comes back, and what happens when nothing does.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers here are test code as well"
)]

#[cfg(test)]
mod support;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use overlay_core::EndpointId;
use overlay_dns::{
    CacheConfig, Config, Event, Failure, ForwardConfig, Output, Transport, UpstreamError,
};
use support::*;

const PATIENCE: Duration = Duration::from_secs(5);

fn a(name: &str, ttl: u32, last: u8) -> Record {
    record(name, ttl, RData::A(rdata::A::new(203, 0, 113, last)))
}

fn soa(ttl: u32, minimum: u32) -> Record {
    let name = |text| Name::from_ascii(text).unwrap();
    let soa = rdata::SOA::new(name("ns.com."), name("admin.com."), 1, 2, 3, 4, minimum);
    record("com.", ttl, RData::SOA(soa))
}

fn example() -> Query {
    Query::new("example.com", RecordType::A)
}

fn negative(forward: &Forward, ttl: u32, minimum: u32) -> Vec<u8> {
    let mut message = forward.answer(ResponseCode::NXDomain, vec![]);
    message.add_authority(soa(ttl, minimum));
    message.to_vec().unwrap()
}

fn only_answer(outputs: &[Output]) -> Answer {
    let [answer] = answers(outputs).try_into().expect("one answer");
    answer
}

fn closed(outputs: &[Output]) -> Vec<u64> {
    let closed = outputs.iter().filter_map(|output| match output {
        Output::CloseForward { upstream } => Some(upstream.0),
        _ => None,
    });
    closed.collect()
}

#[test]
fn rule_24_nothing_leaves_where_forwarding_is_forbidden() {
    let mut bench = Bench::new();
    for name in ["example.com", "single", "8.8.8.8.in-addr.arpa", "com", ""] {
        for kind in [
            RecordType::A,
            RecordType::AAAA,
            RecordType::PTR,
            RecordType::NS,
        ] {
            let answer = bench.answer(&Query::new(name, kind).by(BOB));
            assert_eq!(answer.rcode(), ResponseCode::Refused, "{name}");
            assert!(answer.message.answers.is_empty());
        }
    }
    assert_eq!(bench.resolver.stats().upstream_queries, 0);
}

#[test]
fn foreign_names_are_forwarded_single_labels_among_them_unless_configured() {
    let mut bench = Bench::new();
    for name in ["example.com", "single", ""] {
        let forward = bench.forward(&Query::new(name, RecordType::A));
        assert_eq!((forward.to, forward.transport), (server(1), Transport::Udp));
    }
    let mut bench = Bench::with_config(Config {
        forward_single_labels: false,
        ..Config::default()
    });
    bench.ask("single", RecordType::A).assert_absent(".");
    bench.forward(&example());
}

#[test]
fn rule_25_flags_of_forwarded_answers() {
    let mut bench = Bench::new();
    for (number, flags) in [0x0100, 0x0000, 0x0110, 0x0120, 0x0130]
        .into_iter()
        .enumerate()
    {
        let query = Query { flags, ..example() };
        let forward = bench.forward(&query);
        let sent = forward.message().metadata;
        assert_eq!(sent.recursion_desired, flags & 0x0100 != 0);
        assert_eq!(sent.checking_disabled, flags & 0x0010 != 0);
        let mut reply = forward.answer(ResponseCode::NoError, vec![a("example.com.", 0, 1)]);
        reply.metadata.authentic_data = true;
        reply.metadata.authoritative = true;
        let outputs = bench.reply(&forward, &reply.to_vec().unwrap()).unwrap();
        let metadata = only_answer(&outputs).message.metadata;
        assert!(!metadata.authoritative, "AA is for our data");
        assert!(metadata.recursion_available);
        assert_eq!(
            metadata.authentic_data,
            flags & 0x0020 != 0,
            "{number}: AD if asked for"
        );
        assert_eq!(metadata.checking_disabled, flags & 0x0010 != 0);
    }
    // DO asks for AD as well, and is handed on (RFC 6840 §5.8, RFC 3225).
    let forward = bench.forward(&example().opt(1_232, 0, 0x8000));
    assert!(forward.message().edns.unwrap().flags().dnssec_ok);
    let mut reply = forward.answer(ResponseCode::NoError, vec![a("example.com.", 0, 1)]);
    reply.metadata.authentic_data = true;
    let outputs = bench.reply(&forward, &reply.to_vec().unwrap()).unwrap();
    let answer = only_answer(&outputs).message;
    assert!(answer.metadata.authentic_data && answer.edns.unwrap().flags().dnssec_ok);
}

#[test]
fn rule_31_unknown_types_pass_unchanged() {
    let mut bench = Bench::new();
    let query = Query::new("example.com", RecordType::Unknown(65_280));
    let forward = bench.forward(&query);
    // What looks like a compression pointer is none (RFC 3597 §4).
    let data = [0xc0, 12, 0xff, 0, 1];
    let mut reply = forward.bytes_of(ResponseCode::NoError, vec![]);
    reply[7] = 1;
    reply.extend([0xc0, 12, 0xff, 0, 0, 1, 0, 0, 0, 60, 0, 5]);
    reply.extend(data);
    let answer = only_answer(&bench.reply(&forward, &reply).unwrap());
    assert!(answer.bytes.ends_with(&data));
    assert_eq!(answer.message.answers.len(), 1);
}

#[test]
fn rule_32_ids_are_random_and_every_query_has_a_socket_of_its_own() {
    let mut bench = Bench::new();
    let (mut ids, mut tokens) = (BTreeSet::new(), BTreeSet::new());
    for number in 0..200 {
        let forward = bench.forward(&Query::new(&format!("n{number}.com"), RecordType::A));
        ids.insert(forward.message().metadata.id);
        tokens.insert(forward.upstream);
    }
    assert!(ids.len() > 190 && tokens.len() == 200);
    let steps: BTreeSet<u16> = ids
        .iter()
        .zip(ids.iter().skip(1))
        .map(|(a, b)| b - a)
        .collect();
    assert!(steps.len() > 20, "no regular steps");
}

#[test]
fn rule_32_an_answer_must_match_address_id_and_question_and_the_wait_goes_on() {
    let mut bench = Bench::new();
    let forward = bench.forward(&example());
    let good = forward.bytes_of(ResponseCode::NoError, vec![a("example.com.", 60, 1)]);
    let changed = |at: usize, bits: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= bits;
        bytes
    };
    for (name, forged) in [
        ("id", changed(1, 1)),
        ("query", changed(2, 0x80)),
        ("opcode", changed(2, 0x08)),
        ("case", changed(13, 0x20)),
        ("name", changed(13, 0x01)),
        ("type", changed(26, 0x01)),
        ("class", changed(28, 0x02)),
    ] {
        let refused = bench.reply(&forward, &forged);
        assert_eq!(refused, Err(UpstreamError::Mismatch), "{name}");
    }
    for from in [SocketAddr::new(server(1).ip(), 54), server(2)] {
        let elsewhere = Forward {
            to: from,
            ..forward.clone()
        };
        let refused = bench.reply(&elsewhere, &good);
        let address = UpstreamError::Address {
            expected: server(1),
            found: from,
        };
        assert_eq!(refused, Err(address));
    }
    for length in 0..good.len() {
        assert!(bench.reply(&forward, &good[..length]).is_err(), "{length}");
    }
    assert_eq!(bench.drain(), []);
    let outputs = bench.reply(&forward, &good).unwrap();
    assert_eq!(only_answer(&outputs).addresses().len(), 1);
    assert_eq!(closed(&outputs), [forward.upstream.0]);
    assert_eq!(bench.reply(&forward, &good), Err(UpstreamError::Unknown));
}

#[test]
fn rule_32_random_case_if_configured() {
    let mut bench = Bench::with_config(Config {
        forward: ForwardConfig {
            random_case: true,
            ..ForwardConfig::default()
        },
        ..Config::default()
    });
    let name = "a-rather-long-name-with-letters.example.com";
    let query = Query::new(name, RecordType::A);
    let forward = bench.forward(&query);
    let sent = &forward.bytes[12..12 + query.question().len()];
    assert!(sent.eq_ignore_ascii_case(&query.question()) && sent != query.question());
    let reply = forward.bytes_of(ResponseCode::NoError, vec![a(&format!("{name}."), 60, 1)]);
    let lower = {
        let mut bytes = reply.clone();
        bytes[12..12 + query.name.len()].make_ascii_lowercase();
        bytes
    };
    assert_eq!(bench.reply(&forward, &lower), Err(UpstreamError::Mismatch));
    let answer = only_answer(&bench.reply(&forward, &reply).unwrap());
    assert_eq!(
        answer.bytes[12..12 + query.question().len()],
        query.question()
    );
}

#[test]
fn rule_33_identical_queries_are_merged_and_each_client_gets_its_own_back() {
    let mut bench = Bench::new();
    bench.resolver.set_client(
        bench.now,
        BOB,
        overlay_dns::View {
            networks: vec![],
            forward: true,
        },
    );
    let queries = [
        Query::new("Example.COM", RecordType::A).id(7),
        Query::new("exAMPle.com", RecordType::A).id(7).by(BOB),
        Query::new("example.com", RecordType::A).id(9).edns(4_096),
        Query::new("example.com", RecordType::A).id(10).tcp(),
    ];
    let forward = bench.forward(&queries[0]);
    for query in &queries[1..] {
        assert_eq!(bench.send(query).unwrap(), [], "joined");
    }
    let records = vec![a("example.com.", 60, 1)];
    let outputs = bench
        .reply(&forward, &forward.bytes_of(ResponseCode::NoError, records))
        .unwrap();
    let clients: Vec<EndpointId> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Answer { client, .. } => Some(*client),
            _ => None,
        })
        .collect();
    assert_eq!(clients, [ALICE, BOB, ALICE, ALICE]);
    for (query, answer) in queries.iter().zip(answers(&outputs)) {
        assert_eq!(answer.message.metadata.id, query.id);
        let end = 12 + query.question().len();
        assert_eq!(&answer.bytes[12..end], query.question());
        assert_eq!(
            answer.bytes[end..end + 2],
            [0xc0, 12],
            "the owner is the question's name"
        );
        assert_eq!(answer.message.edns.is_some(), query.opt.is_some());
        assert_eq!(answer.addresses().len(), 1);
    }
    // Another type, and other flags that change the answer, are other questions.
    bench.forward(&Query::new("example.com", RecordType::AAAA));
    bench.forward(&example().opt(1_232, 0, 0x8000));
}

#[test]
fn rule_34_the_next_server_is_asked_after_a_timeout_and_all_is_over_in_time() {
    let mut bench = Bench::new();
    let begun = bench.now;
    let first = bench.forward(&example());
    let mut asked = vec![first.to];
    let mut opened = vec![first.upstream.0];
    let mut shut = Vec::new();
    let mut answer = None;
    while answer.is_none() {
        let due = bench.resolver.poll_timeout_of();
        let outputs = bench.pass(due.duration_since(bench.now));
        asked.extend(forwards(&outputs).iter().map(|forward| forward.to));
        opened.extend(forwards(&outputs).iter().map(|forward| forward.upstream.0));
        shut.extend(closed(&outputs));
        answer = answers(&outputs).pop();
    }
    assert_eq!(asked, [server(1), server(2), server(1)]);
    assert_eq!(answer.unwrap().rcode(), ResponseCode::ServFail);
    assert!(bench.now - begun < PATIENCE);
    assert_eq!(opened, shut, "each socket is closed once");
}

trait PollTimeoutOf {
    fn poll_timeout_of(&self) -> overlay_core::Instant;
}

impl PollTimeoutOf for overlay_dns::Resolver {
    fn poll_timeout_of(&self) -> overlay_core::Instant {
        overlay_core::Machine::poll_timeout(self).expect("something is in flight")
    }
}

#[test]
fn rule_34_servfail_and_refused_lead_to_the_next_server_at_once() {
    for rcode in [ResponseCode::ServFail, ResponseCode::Refused] {
        let mut bench = Bench::new();
        let first = bench.forward(&example());
        let outputs = bench.reply(&first, &first.bytes_of(rcode, vec![])).unwrap();
        let [second] = forwards(&outputs).try_into().expect("another server");
        assert_eq!(second.to, server(2));
        let outputs = bench
            .reply(&second, &second.bytes_of(rcode, vec![]))
            .unwrap();
        assert_eq!(only_answer(&outputs).rcode(), ResponseCode::ServFail);
        assert_eq!(forwards(&outputs).len(), 0, "nobody is left");
    }
}

#[test]
fn rule_34_nxdomain_is_an_answer() {
    let mut bench = Bench::new();
    let forward = bench.forward(&example());
    let outputs = bench.reply(&forward, &negative(&forward, 60, 60)).unwrap();
    let answer = only_answer(&outputs);
    assert_eq!(answer.rcode(), ResponseCode::NXDomain);
    assert_eq!(answer.soa().as_deref(), Some("com."));
}

#[test]
fn rule_34_a_late_answer_of_an_earlier_server_counts() {
    let mut bench = Bench::new();
    let first = bench.forward(&example());
    let outputs = bench.pass(Duration::from_millis(1_500));
    assert_eq!(forwards(&outputs)[0].to, server(2));
    let records = vec![a("example.com.", 60, 1)];
    let outputs = bench
        .reply(&first, &first.bytes_of(ResponseCode::NoError, records))
        .unwrap();
    assert_eq!(only_answer(&outputs).addresses().len(), 1);
    assert_eq!(closed(&outputs).len(), 2);
}

#[test]
fn rule_34_a_late_failure_of_an_earlier_server_disturbs_nobody() {
    let mut bench = Bench::new();
    let first = bench.forward(&example());
    let outputs = bench.pass(Duration::from_millis(1_500));
    let [second] = forwards(&outputs).try_into().expect("the next server");
    let failure = first.bytes_of(ResponseCode::ServFail, vec![]);
    let outputs = bench.reply(&first, &failure).unwrap();
    assert_eq!(
        outputs,
        [Output::CloseForward {
            upstream: first.upstream
        }]
    );
    // The one that failed is out; the other one is asked again when it is its turn.
    let outputs = bench.pass(Duration::from_millis(1_500));
    assert_eq!(forwards(&outputs)[0].to, second.to);
}

#[test]
fn rule_34_a_server_that_did_not_answer_is_asked_last_for_a_while() {
    let mut bench = Bench::new();
    bench.forward(&example());
    let outputs = bench.pass(Duration::from_millis(1_500));
    assert!(outputs.contains(&Output::Event(Event::UpstreamFailed {
        address: server(1),
        failure: Failure::Timeout
    })));
    let other = bench.forward(&Query::new("other.com", RecordType::A));
    assert_eq!(other.to, server(2));
    bench.pass(Duration::from_secs(20));
    let later = bench.forward(&Query::new("later.com", RecordType::A));
    assert_eq!(later.to, server(1));
}

#[test]
fn rule_34_an_unreachable_server_is_passed_over_at_once() {
    let mut bench = Bench::new();
    let first = bench.forward(&example());
    bench
        .resolver
        .handle_upstream_failed(bench.now, first.upstream)
        .unwrap();
    let outputs = bench.drain();
    assert_eq!(forwards(&outputs)[0].to, server(2));
    assert_eq!(closed(&outputs), [first.upstream.0]);
}

#[test]
fn rule_34_without_servers_the_answer_is_servfail() {
    let mut bench = Bench::new();
    bench.resolver.set_upstreams(bench.now, vec![]);
    assert_eq!(bench.answer(&example()).rcode(), ResponseCode::ServFail);
}

#[test]
fn a_server_without_edns_is_asked_again_without() {
    for whole in [true, false] {
        let mut bench = Bench::new();
        let first = bench.forward(&example());
        assert!(first.message().edns.is_some());
        let mut refusal = first.bytes_of(ResponseCode::FormErr, vec![]);
        if !whole {
            refusal.truncate(12);
            refusal[5] = 0;
        }
        let outputs = bench.reply(&first, &refusal).unwrap();
        let [second] = forwards(&outputs).try_into().expect("the same server");
        assert_eq!(second.to, first.to);
        assert!(second.message().edns.is_none());
        let outputs = bench
            .reply(&second, &second.bytes_of(ResponseCode::FormErr, vec![]))
            .unwrap();
        assert_eq!(forwards(&outputs)[0].to, server(2), "and then the next");
    }
}

#[test]
fn rule_35_a_cut_answer_is_fetched_over_tcp_and_cut_for_the_client() {
    let mut bench = Bench::new();
    let first = bench.forward(&example());
    let mut cut = first.answer(ResponseCode::NoError, vec![]);
    cut.metadata.truncation = true;
    let outputs = bench.reply(&first, &cut.to_vec().unwrap()).unwrap();
    let [second] = forwards(&outputs).try_into().expect("over TCP");
    assert_eq!((second.to, second.transport), (first.to, Transport::Tcp));
    assert_eq!(closed(&outputs), [first.upstream.0]);

    let many: Vec<Record> = (0..200).map(|last| a("example.com.", 60, last)).collect();
    let outputs = bench
        .reply(&second, &second.bytes_of(ResponseCode::NoError, many))
        .unwrap();
    let answer = only_answer(&outputs);
    assert!(answer.message.metadata.truncation && answer.bytes.len() <= 512);
    assert!(answer.addresses().is_empty());
    // The client's own retry comes out of the cache.
    let whole = bench.answer(&example().tcp());
    assert_eq!(whole.addresses().len(), 200);
    let larger = bench.answer(&example().edns(1_232));
    assert!(larger.message.metadata.truncation && larger.bytes.len() <= 1_232);
}

#[test]
fn rule_35_whole_sets_before_the_one_that_does_not_fit_stay_and_extras_go_first() {
    let mut bench = Bench::new();
    let forward = bench.forward(&example());
    let alias = RData::CNAME(rdata::CNAME(Name::from_ascii("x.com.").unwrap()));
    let mut records = vec![record("example.com.", 60, alias)];
    records.extend((0..20).map(|last| a("x.com.", 60, last)));
    let mut reply = forward.answer(ResponseCode::NoError, records);
    reply.add_additionals((0..30).map(|last| a("extra.com.", 60, last)));
    let outputs = bench.reply(&forward, &reply.to_vec().unwrap()).unwrap();
    let answer = only_answer(&outputs);
    assert_eq!(answer.addresses().len(), 20);
    assert!(answer.message.additionals.is_empty() && !answer.message.metadata.truncation);

    let forward = bench.forward(&Query::new("big.com", RecordType::A));
    let alias = RData::CNAME(rdata::CNAME(Name::from_ascii("x.com.").unwrap()));
    let mut records = vec![record("big.com.", 60, alias)];
    records.extend((0..40).map(|last| a("x.com.", 60, last)));
    let outputs = bench
        .reply(&forward, &forward.bytes_of(ResponseCode::NoError, records))
        .unwrap();
    let answer = only_answer(&outputs);
    assert_eq!(answer.texts(), ["big.com. 60 CNAME x.com."]);
    assert!(answer.message.metadata.truncation);
}

#[test]
fn rule_35_absence_needs_its_authority() {
    let mut bench = Bench::new();
    let forward = bench.forward(&example());
    let mut reply = forward.answer(ResponseCode::NXDomain, vec![]);
    reply.add_authority(soa(60, 60));
    let proof = |last: u8| RData::TXT(rdata::TXT::new(vec![format!("{last:0100}")]));
    reply.add_authorities((0..5).map(|last| record("proof.com.", 60, proof(last))));
    let outputs = bench.reply(&forward, &reply.to_vec().unwrap()).unwrap();
    let answer = only_answer(&outputs);
    assert!(answer.message.metadata.truncation && answer.bytes.len() <= 512);
    assert_eq!(
        answer.message.authorities.len(),
        1,
        "the set that fits stays"
    );
    let whole = bench.answer(&example().tcp());
    assert_eq!(whole.message.authorities.len(), 6);
}

#[test]
fn rule_36_answers_are_kept_and_count_down() {
    let mut bench = Bench::new();
    let forward = bench.forward(&example());
    let records = vec![a("example.com.", 60, 1), a("example.com.", 30, 2)];
    bench
        .reply(&forward, &forward.bytes_of(ResponseCode::NoError, records))
        .unwrap();
    bench.pass(Duration::from_millis(29_999));
    let mut ttls: Vec<u32> = bench
        .answer(&example().id(99))
        .message
        .answers
        .iter()
        .map(|record| record.ttl)
        .collect();
    ttls.sort_unstable();
    assert_eq!(ttls, [1, 31]);
    bench.pass(Duration::from_millis(1));
    bench.forward(&example());
}

#[test]
fn rule_36_absence_is_kept_for_the_lesser_of_both_numbers_of_the_soa() {
    for (ttl, minimum) in [(7, 60), (60, 7)] {
        let mut bench = Bench::new();
        let forward = bench.forward(&example());
        bench
            .reply(&forward, &negative(&forward, ttl, minimum))
            .unwrap();
        bench.pass(Duration::from_millis(6_999));
        assert_eq!(bench.answer(&example()).rcode(), ResponseCode::NXDomain);
        bench.pass(Duration::from_millis(1));
        bench.forward(&example());
    }
}

#[test]
fn rule_36_what_may_not_be_kept_is_not() {
    let mut bench = Bench::new();
    let high_bit = 1 << 31;
    for ttl in [0, high_bit] {
        let forward = bench.forward(&example());
        let records = vec![a("example.com.", ttl, 1)];
        let outputs = bench
            .reply(&forward, &forward.bytes_of(ResponseCode::NoError, records))
            .unwrap();
        assert_eq!(only_answer(&outputs).message.answers[0].ttl, 0);
    }
    // Without an SOA record nobody knows for how long (RFC 2308 §5).
    let forward = bench.forward(&example());
    bench
        .reply(&forward, &forward.bytes_of(ResponseCode::NXDomain, vec![]))
        .unwrap();
    bench.forward(&example());
}

#[test]
fn rule_36_caps_of_seven_days_and_three_hours() {
    let day = Duration::from_secs(86_400);
    let mut bench = Bench::new();
    let forward = bench.forward(&example());
    let records = vec![a("example.com.", 30 * 86_400, 1)];
    bench
        .reply(&forward, &forward.bytes_of(ResponseCode::NoError, records))
        .unwrap();
    bench.pass(7 * day - Duration::from_secs(1));
    bench.answer(&example());
    bench.pass(Duration::from_secs(1));
    let forward = bench.forward(&example());
    bench
        .reply(&forward, &negative(&forward, 86_400, 86_400))
        .unwrap();
    bench.pass(Duration::from_secs(3 * 3_600 - 1));
    bench.answer(&example());
    bench.pass(Duration::from_secs(1));
    bench.forward(&example());
}

#[test]
fn rule_36_failures_are_kept_for_a_second() {
    let mut bench = Bench::new();
    bench.forward(&example());
    bench.pass(Duration::from_millis(4_500));
    assert_eq!(bench.answer(&example()).rcode(), ResponseCode::ServFail);
    bench.pass(Duration::from_millis(999));
    assert_eq!(bench.answer(&example()).rcode(), ResponseCode::ServFail);
    bench.pass(Duration::from_millis(1));
    bench.forward(&example());
}

#[test]
fn rule_36_a_name_of_our_own_is_before_the_cache_and_other_servers_empty_it() {
    let mut bench = Bench::new();
    let query = Query::new("late", RecordType::A);
    let forward = bench.forward(&query);
    bench.reply(&forward, &negative(&forward, 60, 60)).unwrap();
    assert_eq!(bench.answer(&query).rcode(), ResponseCode::NXDomain);
    bench.set(MY_NET, 9, &["late"], &["10.0.1.9"]);
    assert_eq!(bench.answer(&query).addresses().len(), 1);
    bench.set(MY_NET, 9, &[], &[]);
    assert_eq!(bench.answer(&query).rcode(), ResponseCode::NXDomain);
    let now = bench.now;
    bench
        .resolver
        .set_upstreams(now, vec![server(1), server(2)]);
    assert_eq!(
        bench.answer(&query).rcode(),
        ResponseCode::NXDomain,
        "the same servers"
    );
    bench.resolver.set_upstreams(now, vec![server(3)]);
    assert_eq!(bench.forward(&query).to, server(3));
}

#[test]
fn the_cache_is_bounded_and_what_expires_first_goes_first() {
    let mut bench = Bench::with_config(Config {
        cache: CacheConfig {
            entries_max: 2,
            ..CacheConfig::default()
        },
        ..Config::default()
    });
    for (name, ttl) in [("a.com", 60), ("b.com", 30), ("c.com", 90)] {
        let forward = bench.forward(&Query::new(name, RecordType::A));
        let records = vec![a(&format!("{name}."), ttl, 1)];
        bench
            .reply(&forward, &forward.bytes_of(ResponseCode::NoError, records))
            .unwrap();
    }
    assert_eq!(bench.resolver.stats().cache_entries, 2);
    bench.answer(&Query::new("a.com", RecordType::A));
    bench.answer(&Query::new("c.com", RecordType::A));
    bench.forward(&Query::new("b.com", RecordType::A));
}

#[test]
fn the_cache_is_bounded_in_octets() {
    let bytes_max = 3_000;
    let mut bench = Bench::with_config(Config {
        cache: CacheConfig {
            bytes_max,
            ..CacheConfig::default()
        },
        ..Config::default()
    });
    for number in 0..50 {
        let name = format!("n{number}.com");
        let forward = bench.forward(&Query::new(&name, RecordType::A));
        let records = (0..number)
            .map(|last| a(&format!("{name}."), 60, last))
            .collect();
        bench
            .reply(&forward, &forward.bytes_of(ResponseCode::NoError, records))
            .unwrap();
        assert!(bench.resolver.stats().cache_bytes <= bytes_max);
    }
    assert!(bench.resolver.stats().cache_entries > 0);
}

#[test]
fn rule_37_our_own_address_is_dropped_from_the_servers() {
    let mut bench = Bench::new();
    let own: Vec<SocketAddr> = [
        "127.0.0.11:53",
        "127.0.0.11:5353",
        "[::ffff:127.0.0.11]:53",
        "0.0.0.0:53",
        "224.0.0.1:53",
        "192.0.2.1:0",
    ]
    .iter()
    .map(|text| text.parse().unwrap())
    .collect();
    let mut servers = own.clone();
    servers.push(server(5));
    bench.resolver.set_upstreams(bench.now, servers);
    let dropped: Vec<Output> = own
        .iter()
        .map(|address| Output::Event(Event::UpstreamDropped { address: *address }))
        .collect();
    assert_eq!(bench.drain(), dropped);
    assert_eq!(bench.forward(&example()).to, server(5));
}

#[test]
fn rule_38_special_names_are_not_forwarded() {
    let mut bench = Bench::new();
    let localhost = bench.ask("localhost", RecordType::A);
    assert_eq!(localhost.addresses(), [IpAddr::from([127, 0, 0, 1])]);
    let six = bench.ask("x.LocalHost", RecordType::AAAA);
    assert_eq!(six.addresses(), ["::1".parse::<IpAddr>().unwrap()]);
    bench
        .ask("localhost", RecordType::MX)
        .assert_no_data("localhost.");
    for (name, zone) in [
        ("invalid", "invalid."),
        ("x.invalid", "invalid."),
        ("printer.local", "local."),
        ("a.onion", "onion."),
    ] {
        bench.ask(name, RecordType::A).assert_absent(zone);
        bench
            .answer(&Query::new(name, RecordType::A).by(BOB))
            .assert_absent(zone);
    }
    for name in ["resolver.arpa", "_dns.resolver.arpa"] {
        bench
            .ask(name, RecordType::Unknown(64))
            .assert_no_data("resolver.arpa.");
    }
    assert_eq!(bench.resolver.stats().upstream_queries, 0);
    // An endpoint may be called so, but not `localhost`.
    bench.set(MY_NET, 9, &["box.local", "localhost"], &["10.0.1.9"]);
    assert_eq!(bench.ask("box.local", RecordType::A).addresses().len(), 1);
    assert_eq!(
        bench.ask("localhost", RecordType::A).addresses(),
        [IpAddr::from([127, 0, 0, 1])]
    );
}

#[test]
fn an_alias_of_a_foreign_name_is_answered_with_what_upstream_says() {
    let mut bench = Bench::new();
    let mut alias = records(&["ext"], &[]);
    alias.canonical = Some("Example.com".into());
    bench.records(MY_NET, 9, alias);
    let query = Query::new("EXT", RecordType::A).edns(1_232);
    let forward = bench.forward(&query);
    assert_eq!(
        forward.message().queries[0].name().to_string(),
        "example.com."
    );
    let reply = forward.bytes_of(ResponseCode::NoError, vec![a("example.com.", 60, 1)]);
    let answer = only_answer(&bench.reply(&forward, &reply).unwrap());
    let order: Vec<String> = answer
        .message
        .answers
        .iter()
        .map(|record| format!("{} {}", record.name, record.data))
        .collect();
    assert_eq!(order, ["EXT. example.com.", "example.com. 203.0.113.1"]);
    let cached = bench.answer(&query);
    assert_eq!(cached.texts().len(), 2);
    let internal = bench.answer(&query.by(BOB));
    assert_eq!(internal.rcode(), ResponseCode::Refused);
}

#[test]
fn too_much_in_flight_is_servfail() {
    let limits = ForwardConfig {
        exchanges_max: 3,
        waiters_max: 2,
        client_waiters_max: 4,
        ..ForwardConfig::default()
    };
    let mut bench = Bench::with_config(Config {
        forward: limits,
        ..Config::default()
    });
    let name = |number: u32| Query::new(&format!("n{number}.com"), RecordType::A);
    for number in 0..3 {
        bench.forward(&name(number));
    }
    assert_eq!(
        bench.answer(&name(3)).rcode(),
        ResponseCode::ServFail,
        "exchanges"
    );
    assert_eq!(bench.send(&name(0)).unwrap(), []);
    assert_eq!(
        bench.answer(&name(0)).rcode(),
        ResponseCode::ServFail,
        "waiters"
    );
    assert_eq!(
        bench.answer(&name(1)).rcode(),
        ResponseCode::ServFail,
        "of one client"
    );
    assert_eq!(bench.resolver.stats().overloaded, 3);
    bench.pass(PATIENCE);
    bench.pass(PATIENCE);
    bench.forward(&name(9));
}

#[test]
fn tries_of_one_query_hold_a_bounded_number_of_sockets() {
    let mut bench = Bench::with_config(Config {
        forward: ForwardConfig {
            try_timeout: Duration::ZERO,
            patience: Duration::from_millis(50),
            tries_max: 2,
            ..ForwardConfig::default()
        },
        ..Config::default()
    });
    let mut open: BTreeSet<u64> = BTreeSet::from([bench.forward(&example()).upstream.0]);
    let outputs = bench.pass(PATIENCE);
    for output in &outputs {
        match output {
            Output::Forward { upstream, .. } => assert!(open.insert(upstream.0)),
            Output::CloseForward { upstream } => assert!(open.remove(&upstream.0)),
            _ => {}
        }
        assert!(open.len() <= 2);
    }
    assert!(open.is_empty());
    assert_eq!(only_answer(&outputs).rcode(), ResponseCode::ServFail);
}

#[test]
fn a_client_that_went_away_is_not_answered_and_its_queries_are_cancelled() {
    let mut bench = Bench::new();
    let forward = bench.forward(&example());
    bench.resolver.remove_client(bench.now, ALICE);
    assert_eq!(closed(&bench.drain()), [forward.upstream.0]);
    assert_eq!(bench.resolver.stats().exchanges, 0);
    assert_eq!(bench.pass(PATIENCE), []);
    assert!(
        bench.send(&example()).is_err(),
        "without a view there are no answers"
    );
}

#[test]
fn compressed_names_of_a_server_arrive_whole() {
    let mut bench = Bench::new();
    let name = |text| Name::from_ascii(text).unwrap();
    let data = [
        RData::MX(rdata::MX::new(10, name("mail.example.com."))),
        RData::NS(rdata::NS(name("ns.example.com."))),
        RData::SRV(rdata::SRV::new(1, 2, 3, name("host.example.com."))),
        RData::PTR(rdata::PTR(name("ptr.example.com."))),
        RData::TXT(rdata::TXT::new(vec!["\u{c0}\u{0c}".into()])),
    ];
    let records: Vec<Record> = data
        .iter()
        .map(|data| record("example.com.", 60, data.clone()))
        .collect();
    let forward = bench.forward(&example());
    let outputs = bench
        .reply(&forward, &forward.bytes_of(ResponseCode::NoError, records))
        .unwrap();
    let answer: Message = only_answer(&outputs).message;
    let seen: Vec<&RData> = answer.answers.iter().map(|record| &record.data).collect();
    assert_eq!(seen, data.iter().collect::<Vec<_>>());
}
