//! The rules of an embedded resolver, one test each, in the order of the project's table: names and messages.
//!
//! Rules 12 and 13, which are about streams, are in `tests/sockets.rs`; 24 and 32 to 38 in `tests/forwarding.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers here are test code as well"
)]

#[cfg(test)]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use hickory_proto::{
    op::{OpCode, ResponseCode},
    rr::RecordType,
};
use overlay_core::{NetworkId, ServiceId};
use overlay_dns::{Config, Port, QueryError, Records, ServiceRecords, wire::Name};
use support::*;

const SERVICE: ServiceId = ServiceId::from_bytes([9; 16]);

fn task(number: u16) -> Records {
    let [high, low] = number.to_be_bytes();
    Records {
        names: vec![format!("web.{number}.t{number}")],
        services: vec!["shop".into()],
        ..records(&[], &[&format!("10.7.{high}.{low}")])
    }
}

/// A service `shop` with so many tasks on `my-net`.
fn shop(tasks: u16) -> Bench {
    let mut bench = Bench::new();
    for number in 0..tasks {
        let owner = endpoint(1_000 + number);
        bench
            .resolver
            .set_records(bench.now, MY_NET, owner, task(number));
    }
    bench
}

#[test]
fn rule_01_a_name_without_the_type_is_no_data_with_soa() {
    let mut bench = Bench::new();
    bench.ask("web", RecordType::MX).assert_no_data("web.");
    bench
        .ask("web.my-net", RecordType::MX)
        .assert_no_data("my-net.");
}

#[test]
fn rule_02_an_absent_name_in_our_zone_is_nxdomain_and_is_not_forwarded() {
    let config = Config {
        domain: Name::from_text("Overlay.Internal").ok(),
        ..Config::default()
    };
    let mut bench = Bench::with_config(config);
    bench
        .ask("nobody.my-net", RecordType::A)
        .assert_absent("my-net.");
    bench
        .ask("nobody.overlay.internal", RecordType::A)
        .assert_absent("overlay.internal.");
    bench
        .ask("nobody.other.overlay.internal", RecordType::A)
        .assert_absent("other.overlay.internal.");
    for name in ["web.overlay.internal", "web.my-net.overlay.internal"] {
        assert_eq!(bench.ask(name, RecordType::A).addresses().len(), 1);
    }
    // `other` could be a public domain: what is below it may be somebody else's.
    let foreign = Query::new("nobody.other", RecordType::A);
    bench.forward(&foreign);
}

#[test]
fn rule_03_aaaa_of_a_name_with_only_an_ipv4_address_is_no_data() {
    let mut bench = Bench::new();
    for (name, zone) in [("web", "web."), ("www", "www."), ("web.my-net", "my-net.")] {
        bench.ask(name, RecordType::AAAA).assert_no_data(zone);
    }
    let six = bench.ask("db.1.xyz", RecordType::AAAA);
    assert_eq!(six.texts(), ["db.1.xyz. 5 AAAA fd00:1::3"]);
    assert_eq!(
        bench.ask("web", RecordType::A).texts(),
        ["web. 5 A 10.0.1.2"]
    );
}

#[test]
fn rule_04_the_negative_ttl_is_that_of_the_soa_and_its_minimum() {
    let mut bench = Bench::new();
    for name in ["nobody.my-net", "web.my-net"] {
        let answer = bench.ask(name, RecordType::MX);
        let soa = texts(&answer.message.authorities);
        assert!(soa[0].starts_with("my-net. 1 SOA my-net. nobody.invalid. "));
        assert!(soa[0].ends_with(" 1"), "{soa:?}");
    }
}

#[test]
fn rule_05_an_empty_non_terminal_is_no_data() {
    let mut bench = Bench::new();
    bench.set(MY_NET, 4, &["web.tasks", "api.example.com"], &["10.0.1.4"]);
    bench.ask("tasks", RecordType::A).assert_no_data("tasks.");
    bench
        .ask("1.xyz.my-net", RecordType::A)
        .assert_no_data("my-net.");
    bench.ask("my-net", RecordType::A).assert_no_data("my-net.");
    // Above an alias that hides a public name stands a public domain.
    bench.forward(&Query::new("example.com", RecordType::A));
    bench.forward(&Query::new("com", RecordType::NS));
    bench
        .answer(&Query::new("example.com", RecordType::A).by(BOB))
        .assert_no_data("example.com.");

    bench.set(MY_NET, 4, &[], &["10.0.1.4"]);
    bench.forward(&Query::new("tasks", RecordType::A)); // nothing is below it any more
}

#[test]
fn rule_06_below_an_absent_name_nothing_exists() {
    let mut bench = Bench::new();
    bench
        .ask("a.nobody.my-net", RecordType::A)
        .assert_absent("my-net.");
}

#[test]
fn rule_07_case_does_not_matter_and_the_question_is_echoed() {
    let mut bench = Bench::new();
    bench.set(MY_NET, 4, &["MiXed"], &["10.0.1.4"]);
    for name in ["WEB", "wEb.MY-net", "Db.1.XYZ", "mixed", "NoBody.My-Net"] {
        let query = Query::new(name, RecordType::A);
        let answer = bench.answer(&query);
        let end = 12 + query.question().len();
        assert_eq!(&answer.bytes[12..end], query.question());
        let found = answer.rcode() == ResponseCode::NoError;
        assert_eq!(found, name != "NoBody.My-Net");
    }
    // Only ASCII letters fold (RFC 4343 §3): U+00C4 and U+00E4 stay apart.
    bench.set(MY_NET, 4, &["\u{c4}.my-net"], &["10.0.1.4"]);
    let folded = bench.ask("\u{e4}.my-net", RecordType::A);
    assert_eq!(folded.rcode(), ResponseCode::NXDomain);
}

#[test]
fn rule_08_owners_point_to_the_question_and_srv_targets_are_whole() {
    let mut bench = Bench::new();
    let answer = bench.ask("web", RecordType::A);
    let record_at = 12 + Query::new("web", RecordType::A).question().len();
    assert_eq!(answer.bytes[record_at..record_at + 2], [0xc0, 12]);

    bench.records(MY_NET, 5, http("site", "10.0.1.5"));
    let answer = bench.ask("_http._tcp.site.my-net", RecordType::SRV);
    let target = wire("site.my-net");
    let inside = answer
        .bytes
        .windows(target.len())
        .filter(|part| *part == target);
    assert_eq!(inside.count(), 2, "in the question and in the SRV data");
    assert_pointers_lead_back(&answer.bytes);
}

/// Every octet pair that can be a pointer within names leads back; hickory and domain have read the names themselves.
fn assert_pointers_lead_back(bytes: &[u8]) {
    let message = overlay_dns::wire::Message::new_checked(bytes).unwrap();
    for record in message.records() {
        let at = record.owner_at;
        if bytes[at] & 0xc0 == 0xc0 {
            let target = usize::from(u16::from_be_bytes([bytes[at] & 0x3f, bytes[at + 1]]));
            assert!((12..at).contains(&target));
        }
    }
}

#[test]
fn rule_09_malformed_names_are_format_errors() {
    let mut bench = Bench::new();
    let long_label = [&[64][..], &[b'a'; 64], &[0]].concat();
    let long_name = [[1, b'a'].repeat(128), vec![0]].concat();
    let longest = [[1, b'a'].repeat(127), vec![0]].concat();
    for (name, ok) in [
        (vec![0xc0, 12], false), // itself
        (vec![1, b'a', 0xc0, 12], false),
        (vec![0xc0, 0x40], false), // forward
        (vec![0xc0, 4], false),    // into the header
        (long_label, false),
        (long_name, false),
        (longest, true),
        (vec![0x80, 1], false),
    ] {
        let query = Query {
            name,
            ..Query::new("", RecordType::A).by(if ok { BOB } else { ALICE })
        };
        let answer = bench.answer(&query);
        if ok {
            assert_eq!(
                answer.rcode(),
                ResponseCode::Refused,
                "it is merely foreign"
            );
        } else {
            assert_eq!(answer.bytes[..12], FORMAT_ERROR);
            assert_eq!(answer.bytes.len(), 12);
        }
    }
}

/// Id, QR, RD and RA, FORMERR, and nothing else.
const FORMAT_ERROR: [u8; 12] = [0x12, 0x34, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn rule_10_without_opt_an_answer_has_at_most_512_octets() {
    // 12 octets of header, 10 of question, 16 each: 30 fit.
    let whole = shop(30).ask("shop", RecordType::A);
    assert_eq!(whole.addresses().len(), 30);
    assert!(!whole.message.metadata.truncation && whole.bytes.len() <= 512);
    let cut = shop(31).ask("shop", RecordType::A);
    assert_eq!(cut.texts(), [""; 0], "a set is whole or absent");
    assert!(cut.message.metadata.truncation);
}

#[test]
fn rule_10_dropping_additional_data_is_no_truncation() {
    let mut bench = Bench::new();
    for number in 0..10 {
        let name = format!("a-rather-long-name-{number}");
        bench.records(
            MY_NET,
            10 + number,
            http(&name, &format!("10.0.1.{number}")),
        );
        let mut service = http("site", &format!("10.0.1.{number}"));
        service.names.insert(0, name);
        bench.records(MY_NET, 10 + number, service);
    }
    let answer = bench.ask("_http._tcp.site", RecordType::SRV);
    let (found, more) = (answer.texts().len(), answer.message.additionals.len());
    assert_eq!(found, 10);
    assert!(more < 10 && !answer.message.metadata.truncation, "{more}");
}

#[test]
fn rule_11_with_opt_an_answer_fits_the_client_and_our_limit() {
    for (announced, most) in [
        (0, 512),
        (511, 512),
        (700, 700),
        (1_232, 1_232),
        (65_535, 1_232),
    ] {
        // The largest set that fits: header, question, OPT, and 16 octets an address.
        let fits = (most - 12 - 10 - 11) / 16;
        let query = Query::new("shop", RecordType::A).edns(announced);
        let whole = shop(fits).answer(&query);
        assert_eq!(whole.addresses().len(), usize::from(fits), "{announced}");
        assert!(whole.bytes.len() <= usize::from(most));
        let cut = shop(fits + 1).answer(&query);
        assert!(cut.message.metadata.truncation && cut.addresses().is_empty());
    }
}

#[test]
fn rule_14_opt_is_answered_by_opt_without_options() {
    let mut bench = Bench::new();
    let mut query = Query::new("web", RecordType::A).opt(4_096, 0, 0x8000);
    if let Some(opt) = &mut query.opt {
        // A cookie (RFC 7873 §4).
        opt.truncate(9);
        opt.extend([0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
    for name in ["web", "nobody.my-net", "1.0.0.127.in-addr.arpa"] {
        query.name = wire(name);
        let answer = bench.answer(&query);
        let edns = answer.message.edns.as_ref().expect("an OPT record");
        assert_eq!((edns.version(), edns.max_payload()), (0, 1_232));
        assert!(edns.options().as_ref().is_empty() && edns.flags().dnssec_ok);
        query.opt = None;
        assert!(bench.answer(&query).message.edns.is_none());
        query.opt = Query::new("", RecordType::A).opt(4_096, 0, 0x8000).opt;
    }
}

#[test]
fn rule_15_a_later_version_of_edns_is_badvers() {
    let mut bench = Bench::new();
    let answer = bench.answer(&Query::new("web", RecordType::A).opt(1_232, 1, 0));
    assert_eq!(u16::from(answer.rcode()), 16);
    assert!(answer.message.answers.is_empty());
    assert_eq!(answer.message.edns.map(|edns| edns.version()), Some(0));
}

#[test]
fn rule_16_two_opts_or_malformed_ones_are_format_errors() {
    let mut bench = Bench::new();
    let good = Query::new("web", RecordType::A).edns(1_232);
    let opt = good.opt.clone().unwrap();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.bytes();
        change(&mut bytes);
        bytes
    };
    let opt_at = good.bytes().len() - opt.len();
    let two = changed(&|bytes| {
        bytes.extend(&opt);
        bytes[11] = 2;
    });
    let owned = changed(&|bytes| {
        bytes.splice(opt_at..=opt_at, [1, b'a', 0]);
    });
    let longer = changed(&|bytes| *bytes.last_mut().unwrap() = 1);
    let half_an_option = changed(&|bytes| {
        *bytes.last_mut().unwrap() = 3;
        bytes.extend([0, 10, 0]);
    });
    let option_too_long = changed(&|bytes| {
        *bytes.last_mut().unwrap() = 4;
        bytes.extend([0, 10, 0, 1]);
    });
    let as_answer = changed(&|bytes| (bytes[7], bytes[11]) = (1, 0));
    for bytes in [
        two,
        owned,
        longer,
        half_an_option,
        option_too_long,
        as_answer,
    ] {
        let outputs = bench.send_bytes(ALICE, good.transport, &bytes).unwrap();
        let [answer] = answers(&outputs).try_into().unwrap();
        assert_eq!(answer.bytes, FORMAT_ERROR);
    }
}

#[test]
fn rule_17_unknown_opcodes_are_not_implemented() {
    let mut bench = Bench::new();
    for opcode in (1..16).filter(|opcode| *opcode != 0) {
        let query = Query {
            flags: opcode << 11 | 0x0100,
            ..Query::new("web", RecordType::A)
        };
        let answer = bench.answer(&query);
        assert_eq!(answer.rcode(), ResponseCode::NotImp);
        assert_eq!(answer.message.metadata.id, 0x1234);
        let expected = OpCode::from_u8(u8::try_from(opcode).unwrap());
        assert_eq!(answer.message.metadata.op_code, expected);
    }
}

#[test]
fn rule_18_responses_are_dropped() {
    let mut bench = Bench::new();
    for flags in [0x8000, 0x8183, 0xf800] {
        let query = Query {
            flags,
            ..Query::new("web", RecordType::A)
        };
        assert_eq!(bench.send(&query), Err(QueryError::Response));
    }
}

#[test]
fn rule_19_short_messages_are_dropped_and_broken_ones_are_format_errors() {
    let mut bench = Bench::new();
    let bytes = Query::new("web", RecordType::A).edns(1_232).bytes();
    for length in 0..bytes.len() {
        let sent = bench.send_bytes(ALICE, overlay_dns::Transport::Udp, &bytes[..length]);
        if length < 12 {
            let truncated = QueryError::Truncated {
                need: 12,
                have: length,
            };
            assert_eq!(sent, Err(truncated));
        } else {
            let [answer] = answers(&sent.unwrap()).try_into().unwrap();
            assert_eq!(answer.bytes, FORMAT_ERROR, "{length}");
        }
    }
}

#[test]
fn rule_20_a_query_has_one_question() {
    let mut bench = Bench::new();
    let query = Query::new("web", RecordType::A);
    for count in [0, 2] {
        let mut bytes = query.bytes();
        bytes[5] = count;
        bytes.extend(query.question());
        let outputs = bench.send_bytes(ALICE, query.transport, &bytes).unwrap();
        let [answer] = answers(&outputs).try_into().unwrap();
        assert_eq!(answer.bytes, FORMAT_ERROR);
    }
}

#[test]
fn rule_21_any_gets_one_set() {
    let mut bench = Bench::new();
    let answer = bench.ask("db.1.xyz", RecordType::ANY);
    assert_eq!(answer.texts(), ["db.1.xyz. 5 A 10.0.1.3"]);
    bench.set(MY_NET, 4, &["six"], &["fd00:1::4"]);
    let answer = bench.ask("six", RecordType::ANY);
    assert_eq!(answer.texts(), ["six. 5 AAAA fd00:1::4"]);
}

#[test]
fn rule_22_transfers_are_refused() {
    let mut bench = Bench::new();
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        for name in ["my-net", "example.com"] {
            for query in [Query::new(name, kind), Query::new(name, kind).tcp()] {
                assert_eq!(bench.answer(&query).rcode(), ResponseCode::Refused);
            }
        }
    }
}

#[test]
fn rule_23_other_classes_are_refused() {
    let mut bench = Bench::new();
    for class in [0, 2, 3, 4, 254, 255] {
        let query = Query {
            class,
            ..Query::new("version.bind", RecordType::TXT)
        };
        assert_eq!(bench.answer(&query).rcode(), ResponseCode::Refused);
    }
}

#[test]
fn rule_25_flags_of_our_own_answers() {
    let mut bench = Bench::new();
    for (client, forwards) in [(ALICE, true), (BOB, false)] {
        for flags in [0, 0x0100, 0x0010, 0x0020, 0x0040, 0x01ff & 0x0170] {
            let query = Query {
                flags,
                ..Query::new("web", RecordType::A).by(client)
            };
            let answer = bench.answer(&query);
            let metadata = answer.message.metadata;
            assert!(metadata.authoritative && !metadata.authentic_data);
            assert_eq!(metadata.recursion_desired, flags & 0x0100 != 0);
            assert_eq!(metadata.recursion_available, forwards);
            assert_eq!(answer.bytes[3] & 0x40, 0, "Z is zero");
            assert_eq!(metadata.checking_disabled, flags & 0x0010 != 0);
        }
    }
    let refused = bench.answer(&Query::new("example.com", RecordType::A).by(BOB));
    assert!(!refused.message.metadata.authoritative);
    assert!(!refused.message.metadata.recursion_available);
}

#[test]
fn rule_26_a_set_has_each_member_once_one_ttl_and_every_first_place() {
    let mut bench = shop(4);
    // The same address under two owners, and under two kinds of name.
    let mut twice = task(0);
    twice.names.push("shop".into());
    bench.records(MY_NET, 77, twice);
    let mut first: BTreeMap<_, u32> = BTreeMap::new();
    for _ in 0..800 {
        let answer = bench.ask("shop", RecordType::A);
        let addresses = answer.addresses();
        let different: BTreeSet<_> = addresses.iter().collect();
        assert_eq!((addresses.len(), different.len()), (4, 4));
        let mut ttls = answer.message.answers.iter().map(|record| record.ttl);
        assert!(ttls.all(|ttl| ttl == 5));
        *first.entry(addresses[0]).or_default() += 1;
    }
    assert_eq!(first.len(), 4);
    assert!(
        first.values().all(|count| (140..260).contains(count)),
        "{first:?}"
    );
}

#[test]
fn rule_27_reverse_names_of_endpoints() {
    let mut bench = Bench::new();
    let ptr = bench.ask("2.1.0.10.in-addr.arpa", RecordType::PTR);
    assert_eq!(ptr.texts(), ["2.1.0.10.in-addr.arpa. 5 PTR web.my-net."]);
    let nibbles = "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa";
    let ptr = bench.ask(&nibbles.to_uppercase(), RecordType::PTR);
    assert_eq!(ptr.message.answers[0].data.to_string(), "db.1.xyz.my-net.");
    bench
        .ask("2.1.0.10.in-addr.arpa", RecordType::A)
        .assert_no_data("1.0.10.in-addr.arpa.");
    // Partial names of our zone exist, absent addresses do not.
    for (name, zone) in [("1.0.10", "1.0.10"), ("0.10", "10"), ("10", "10")] {
        bench
            .ask(&format!("{name}.in-addr.arpa"), RecordType::PTR)
            .assert_no_data(&format!("{zone}.in-addr.arpa."));
    }
    for absent in ["9", "02", "256", "x", "1.2"] {
        bench
            .ask(&format!("{absent}.1.0.10.in-addr.arpa"), RecordType::PTR)
            .assert_absent("1.0.10.in-addr.arpa.");
    }
    bench
        .ask(&nibbles[2..], RecordType::PTR)
        .assert_no_data("d.f.ip6.arpa.");
}

#[test]
fn rule_27_private_reverse_zones_and_our_subnets_do_not_leak() {
    let config = Config {
        forward_private_reverse: true,
        ..Config::default()
    };
    let mut kept = Bench::new();
    let mut leaky = Bench::with_config(config);
    let ours = ["198.51.100.0/24", "11.0.16.0/20"].map(|net| net.parse().unwrap());
    let hidden = NetworkId::from_bytes([77; 16]); // in nobody's view
    for bench in [&mut kept, &mut leaky] {
        bench.resolver.set_subnets(bench.now, hidden, &ours);
        for never in [
            "1.16.0.11",
            "9.1.0.10",
            "1.0.0.0",
            "1.1.254.169",
            "1.31.0.11",
        ] {
            let answer = bench.ask(&format!("{never}.in-addr.arpa"), RecordType::PTR);
            assert_eq!(answer.rcode(), ResponseCode::NXDomain, "{never}");
        }
        let localhost = bench.ask("1.0.0.127.in-addr.arpa", RecordType::PTR);
        assert_eq!(localhost.message.answers[0].data.to_string(), "localhost.");
        for public in ["8.8.8.8", "1.32.0.11", "1.0.172"] {
            bench.forward(&Query::new(
                &format!("{public}.in-addr.arpa"),
                RecordType::PTR,
            ));
        }
    }
    for private in ["1.0.5.10", "1.0.31.172", "1.1.168.192", "1.0.64.100"] {
        let query = Query::new(&format!("{private}.in-addr.arpa"), RecordType::PTR);
        assert_eq!(kept.answer(&query).rcode(), ResponseCode::NXDomain);
        leaky.forward(&query);
        let internal = leaky.answer(&query.by(BOB));
        assert_eq!(internal.rcode(), ResponseCode::NXDomain);
    }
}

/// An endpoint with a port `http` over TCP.
fn http(name: &str, address: &str) -> Records {
    Records {
        ports: vec![Port {
            name: "HTTP".into(),
            protocol: "tcp".into(),
            number: 8_080,
            priority: 1,
            weight: 2,
        }],
        ..records(&[name], &[address])
    }
}

#[test]
fn rule_28_named_ports_are_found_by_srv() {
    let mut bench = Bench::new();
    let mut with_alias = http("site", "10.0.1.5");
    with_alias.names.push("alias".into());
    bench.records(MY_NET, 5, with_alias);
    for name in ["site", "alias", "alias.my-net"] {
        let answer = bench.ask(&format!("_http._TCP.{name}"), RecordType::SRV);
        let data = &answer.message.answers[0].data;
        assert_eq!(data.to_string(), "1 2 8080 site.my-net.", "never an alias");
        assert_eq!(answer.message.answers[0].record_type(), RecordType::SRV);
        let more = texts(&answer.message.additionals);
        assert_eq!(more, ["site.my-net. 5 A 10.0.1.5"]);
    }
    bench
        .ask("_tcp.site", RecordType::SRV)
        .assert_no_data("_tcp.site.");
    bench
        .ask("_http._udp.site.my-net", RecordType::SRV)
        .assert_absent("my-net.");
    bench
        .ask("_http._tcp.site", RecordType::A)
        .assert_no_data("_http._tcp.site.");
}

#[test]
fn rule_28_equal_places_and_their_addresses_are_told_once() {
    let mut bench = Bench::new();
    let mut twice = http("site", "10.0.1.5");
    twice.ports.push(twice.ports[0].clone());
    let mut other = twice.ports[0].clone();
    other.number = 8_081;
    twice.ports.push(other);
    bench.records(MY_NET, 5, twice);
    let answer = bench.ask("_http._tcp.site", RecordType::SRV);
    assert_eq!(answer.texts().len(), 2);
    assert_eq!(answer.message.additionals.len(), 1);
}

#[test]
fn rule_28_the_target_is_no_alias() {
    let mut bench = Bench::new();
    let outside = Records {
        canonical: Some("db.example.com".into()),
        ..http("outside", "10.0.1.9")
    };
    let outside = Records {
        addresses: Vec::new(),
        ..outside
    };
    bench.records(MY_NET, 9, outside);
    let answer = bench.ask("_http._tcp.outside", RecordType::SRV);
    let targets: Vec<_> = answer.texts();
    assert_eq!(targets.len(), 1);
    assert!(targets[0].ends_with(" db.example.com."), "{targets:?}");
}

#[test]
fn rule_28_the_target_is_the_end_of_a_chain_of_aliases() {
    let mut bench = Bench::new();
    let alias = |name: &str, canonical: &str| Records {
        addresses: Vec::new(),
        canonical: Some(canonical.into()),
        ..http(name, "10.0.1.9")
    };
    let chain = [
        ("outside", "middle.my-net"),
        ("other", "db.example.com"),
        ("middle", "db.example.com"),
        ("inside", "nearer"),
        ("nearer", "site.my-net"),
        ("one", "two"),
        ("two", "one"),
    ];
    for (number, (name, canonical)) in (10..).zip(chain) {
        bench.records(MY_NET, number, alias(name, canonical));
    }
    bench.records(MY_NET, 5, http("site", "10.0.1.5"));
    let targets = |bench: &mut Bench, name: &str| {
        let answer = bench.ask(&format!("_http._tcp.{name}"), RecordType::SRV);
        let answers = answer.message.answers.iter();
        let targets: Vec<_> = answers.map(|record| record.data.to_string()).collect();
        (targets, texts(&answer.message.additionals))
    };
    let (found, more) = targets(&mut bench, "outside");
    assert_eq!(found, ["1 2 8080 db.example.com."]);
    assert!(more.is_empty());
    let (found, more) = targets(&mut bench, "inside");
    assert_eq!(found, ["1 2 8080 site.my-net."]);
    assert_eq!(more, ["site.my-net. 5 A 10.0.1.5"]);
    // A circle has no end.
    bench
        .ask("_http._tcp.one", RecordType::SRV)
        .assert_no_data("_http._tcp.one.");
    // Two ways to one end are one place.
    let mut both = alias("both", "middle");
    bench.records(MY_NET, 30, both.clone());
    both.canonical = Some("other".into());
    bench.records(MY_NET, 31, both);
    assert_eq!(targets(&mut bench, "both").0, ["1 2 8080 db.example.com."]);
}

#[test]
fn rule_29_equal_texts_of_several_owners_are_told_once() {
    let mut bench = Bench::new();
    for owner in [5, 6] {
        let mut records = records(&["note"], &["10.0.1.5"]);
        records.texts = vec![b"same".to_vec(), vec![owner]];
        bench.records(MY_NET, owner, records);
    }
    let answer = bench.ask("note", RecordType::TXT);
    assert_eq!(answer.texts().len(), 3);
}

#[test]
fn rule_29_texts_of_any_length() {
    let mut bench = Bench::new();
    for (text, strings) in [
        (0, vec![0]),
        (255, vec![255]),
        (256, vec![255, 1]),
        (600, vec![255, 255, 90]),
    ] {
        let mut records = records(&["note"], &["10.0.1.5"]);
        records.texts = vec![vec![b'x'; text]];
        bench.records(MY_NET, 5, records);
        let answer = bench.answer(&Query::new("note", RecordType::TXT).tcp());
        let [record] = &answer.message.answers[..] else {
            panic!("one record");
        };
        let hickory_proto::rr::RData::TXT(txt) = &record.data else {
            panic!("a text");
        };
        let lengths: Vec<_> = txt.txt_data.iter().map(|part| part.len()).collect();
        assert_eq!(lengths, strings);
    }
}

#[test]
fn rule_30_aliases_are_followed_in_order() {
    let mut bench = Bench::new();
    let alias = |to: &str| Records {
        canonical: Some(to.into()),
        ..Records::default()
    };
    let named = |name: &str, to: &str| Records {
        names: vec![name.into()],
        ..alias(to)
    };
    bench.records(MY_NET, 10, named("a", "B"));
    bench.records(MY_NET, 11, named("b", "web.my-net"));
    let answer = bench.ask("A", RecordType::A);
    let order: Vec<_> = answer
        .message
        .answers
        .iter()
        .map(|record| format!("{} {}", record.name, record.data))
        .collect();
    assert_eq!(order, ["A. b.", "b. web.my-net.", "web.my-net. 10.0.1.2"]);
    let only = bench.ask("a", RecordType::CNAME);
    assert_eq!(only.texts(), ["a. 5 CNAME b."]);

    bench.records(MY_NET, 11, named("b", "nobody.my-net"));
    let last = bench.ask("a", RecordType::A);
    assert_eq!(last.rcode(), ResponseCode::NXDomain);
    assert_eq!(
        (last.texts().len(), last.soa().as_deref()),
        (2, Some("my-net."))
    );
    bench.records(MY_NET, 11, named("b", "web"));
    let none = bench.ask("a", RecordType::AAAA);
    assert_eq!(none.rcode(), ResponseCode::NoError);
    assert_eq!(
        (none.texts().len(), none.soa().as_deref()),
        (2, Some("web."))
    );

    bench.records(MY_NET, 11, named("b", "a"));
    assert_eq!(
        bench.ask("a", RecordType::A).rcode(),
        ResponseCode::ServFail
    );
    for hop in 0..8_u8 {
        let to = format!("hop{}", hop + 1);
        bench.records(MY_NET, 20 + hop, named(&format!("hop{hop}"), &to));
    }
    bench.set(MY_NET, 40, &["hop8"], &["10.0.1.8"]);
    assert_eq!(bench.ask("hop0", RecordType::A).texts().len(), 9);
    bench.records(MY_NET, 40, named("hop8", "web"));
    assert_eq!(
        bench.ask("hop0", RecordType::A).rcode(),
        ResponseCode::ServFail
    );
}

#[test]
fn rule_31_an_unknown_type_of_our_names_is_no_data() {
    let mut bench = Bench::new();
    bench
        .ask("web", RecordType::Unknown(65_280))
        .assert_no_data("web.");
}

#[test]
fn rule_39_what_is_gone_is_out_of_the_next_answer() {
    let mut bench = shop(8);
    assert_eq!(bench.ask("tasks.shop", RecordType::A).addresses().len(), 8);
    for number in 1..8 {
        let owner = endpoint(1_000 + number);
        bench.resolver.remove_records(bench.now, MY_NET, owner);
        let left = bench.ask("tasks.shop", RecordType::A).addresses();
        assert_eq!(left.len(), usize::from(8 - number));
    }
    assert_eq!(bench.ask("web.0.t0", RecordType::A).addresses().len(), 1);
    bench.forward(&Query::new("web.7.t7", RecordType::A));
    bench.resolver.remove_network(bench.now, MY_NET);
    bench.forward(&Query::new("shop", RecordType::A));
}

#[test]
fn rule_39_an_address_of_several_owners_is_told_once() {
    let mut bench = Bench::new();
    bench.set(MY_NET, 7, &["twice"], &["10.0.1.9"]);
    bench.set(MY_NET, 8, &["twice"], &["10.0.1.9", "10.0.1.8"]);
    let mut addresses = bench.ask("twice", RecordType::A).addresses();
    addresses.sort_unstable();
    assert_eq!(addresses, ips(&["10.0.1.8", "10.0.1.9"]));
    // Once one of both is gone nothing is shared any more, and the other still has it.
    let gone = endpoint(7);
    bench.resolver.remove_records(bench.now, MY_NET, gone);
    let mut addresses = bench.ask("twice", RecordType::A).addresses();
    addresses.sort_unstable();
    assert_eq!(addresses, ips(&["10.0.1.8", "10.0.1.9"]));

    // A virtual address that an endpoint of this name has as well.
    bench.set(MY_NET, 9, &["virtual"], &["10.0.1.77"]);
    let service = ServiceRecords {
        names: vec!["virtual".into()],
        addresses: ips(&["10.0.1.77"]),
        ..ServiceRecords::default()
    };
    let id = ServiceId::from_bytes([1; 16]);
    bench.resolver.set_service(bench.now, MY_NET, id, service);
    let answer = bench.ask("virtual", RecordType::A);
    assert_eq!(answer.addresses(), ips(&["10.0.1.77"]));
}

#[test]
fn a_task_may_be_named_as_its_service() {
    let mut bench = Bench::new();
    let mut row = records(&["both"], &["10.0.1.9"]);
    row.services = vec!["both".into()];
    bench.records(MY_NET, 7, row);
    bench.set(MY_NET, 8, &["both"], &["10.0.1.8"]);
    let tasks = bench.ask("tasks.both", RecordType::A).addresses();
    assert_eq!(tasks, ips(&["10.0.1.9"]));
    let mut all = bench.ask("both", RecordType::A).addresses();
    all.sort_unstable();
    assert_eq!(all, ips(&["10.0.1.8", "10.0.1.9"]));
}

fn ips(texts: &[&str]) -> Vec<std::net::IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn rule_39_an_address_that_moved_leads_to_its_new_owner() {
    let mut bench = Bench::new();
    let reverse = "2.1.0.10.in-addr.arpa";
    bench.set(MY_NET, 8, &["next"], &["10.0.1.2"]); // beside the old owner for a while
    assert_eq!(bench.ask(reverse, RecordType::PTR).texts().len(), 2);
    bench.set(MY_NET, 1, &["web"], &["10.0.1.77"]);
    let left = bench.ask(reverse, RecordType::PTR);
    assert_eq!(left.message.answers[0].data.to_string(), "next.my-net.");
    assert_eq!(left.message.answers.len(), 1);
    bench
        .resolver
        .remove_records(bench.now, MY_NET, endpoint(8));
    bench
        .ask(reverse, RecordType::PTR)
        .assert_absent("1.0.10.in-addr.arpa.");
}

#[test]
fn rule_40_two_hundred_tasks_are_cut_over_udp_and_whole_over_tcp() {
    let mut bench = shop(200);
    let query = Query::new("tasks.shop", RecordType::A);
    assert!(bench.answer(&query).message.metadata.truncation);
    let whole = bench.answer(&query.tcp());
    assert_eq!(whole.addresses().len(), 200);
    assert!(!whole.message.metadata.truncation);
}

#[test]
fn lookup_goes_through_the_networks_in_order_and_the_first_hit_wins() {
    let mut bench = Bench::new();
    let mut first = |name: &str| bench.ask(name, RecordType::A).texts();
    assert_eq!(first("web"), ["web. 5 A 10.0.1.2"]);
    assert_eq!(first("far"), ["far. 5 A 10.0.2.2"]);
    assert_eq!(first("web.other"), ["web.other. 5 A 10.0.2.2"]);
    // A client sees its own networks only.
    let query = Query::new("far", RecordType::A).by(BOB);
    assert_eq!(bench.answer(&query).rcode(), ResponseCode::Refused);
}

#[test]
fn lookup_tries_the_whole_name_then_ever_longer_names_of_networks() {
    let mut bench = Bench::new();
    let dotted = NetworkId::from_bytes([3; 16]);
    bench.resolver.set_network(bench.now, dotted, "net.c");
    let view = overlay_dns::View {
        networks: vec![MY_NET, OTHER, dotted],
        forward: true,
    };
    bench.resolver.set_client(bench.now, ALICE, view);
    bench.resolver.set_network(bench.now, OTHER, "c");
    bench.set(dotted, 30, &["a"], &["10.0.3.1"]);
    let address = |bench: &mut Bench| bench.ask("a.net.c", RecordType::A).texts();
    assert_eq!(address(&mut bench), ["a.net.c. 5 A 10.0.3.1"]);
    bench.set(OTHER, 31, &["a.net"], &["10.0.3.2"]);
    assert_eq!(address(&mut bench), ["a.net.c. 5 A 10.0.3.2"]);
    bench.set(MY_NET, 32, &["a.net.c"], &["10.0.3.3"]);
    assert_eq!(address(&mut bench), ["a.net.c. 5 A 10.0.3.3"]);
}

#[test]
fn a_name_of_several_owners_has_the_addresses_of_all() {
    let mut bench = Bench::new();
    bench.set(MY_NET, 4, &["one", "pool"], &["10.0.1.4"]);
    bench.set(MY_NET, 5, &["two", "pool"], &["10.0.1.5", "10.0.1.4"]);
    assert_eq!(
        bench.ask("pool", RecordType::A).texts(),
        ["pool. 5 A 10.0.1.4", "pool. 5 A 10.0.1.5"]
    );
    bench.set(MY_NET, 5, &["two"], &["10.0.1.5"]);
    assert_eq!(
        bench.ask("pool", RecordType::A).texts(),
        ["pool. 5 A 10.0.1.4"]
    );
}

#[test]
fn a_service_leads_to_its_virtual_address_or_to_its_tasks() {
    let mut bench = shop(3);
    assert_eq!(bench.ask("shop", RecordType::A).addresses().len(), 3);
    let mut service = ServiceRecords {
        names: vec!["shop".into(), "store".into()],
        addresses: vec!["10.0.1.200".parse().unwrap()],
        ..ServiceRecords::default()
    };
    let now = bench.now;
    bench
        .resolver
        .set_service(now, MY_NET, SERVICE, service.clone());
    assert_eq!(
        bench.ask("shop", RecordType::A).texts(),
        ["shop. 5 A 10.0.1.200"]
    );
    assert_eq!(
        bench.ask("store", RecordType::A).texts(),
        ["store. 5 A 10.0.1.200"]
    );
    assert_eq!(bench.ask("tasks.shop", RecordType::A).addresses().len(), 3);
    let reverse = bench.ask("200.1.0.10.in-addr.arpa", RecordType::PTR);
    assert_eq!(
        reverse.texts(),
        ["200.1.0.10.in-addr.arpa. 5 PTR shop.my-net."]
    );
    service.addresses.clear();
    bench.resolver.set_service(now, MY_NET, SERVICE, service);
    let reverse = bench.ask("200.1.0.10.in-addr.arpa", RecordType::PTR);
    assert_eq!(reverse.rcode(), ResponseCode::NXDomain);
    assert_eq!(bench.ask("shop", RecordType::A).addresses().len(), 3);
    bench.resolver.remove_service(now, MY_NET, SERVICE);
    bench.forward(&Query::new("store", RecordType::A));
}

#[test]
fn a_zone_has_an_soa_record_that_counts_its_changes() {
    let mut bench = Bench::new();
    let serial = |bench: &mut Bench| {
        let answer = bench.ask("web", RecordType::SOA);
        let hickory_proto::rr::RData::SOA(soa) = &answer.message.answers[0].data else {
            panic!("expected SOA");
        };
        soa.serial
    };
    let before = serial(&mut bench);
    bench.set(MY_NET, 1, &["web", "www"], &["10.0.1.2"]); // nothing new
    assert_eq!(serial(&mut bench), before);
    bench.set(MY_NET, 1, &["web", "www"], &["10.0.1.9"]);
    assert!(serial(&mut bench) > before);
}

#[test]
fn texts_that_are_no_names_are_left_out_and_counted() {
    let mut bench = Bench::new();
    let long = "x".repeat(64);
    bench.set(MY_NET, 4, &["good", "", "a..b", &long], &["10.0.1.4"]);
    assert_eq!(bench.resolver.stats().names_refused, 3);
    assert_eq!(bench.ask("good", RecordType::A).addresses().len(), 1);
}
