//! The rules of an embedded resolver, one test each, in the order of the project's table.
//!
//! 12 and 13, which are about streams, are in `tests/sockets.rs`.

mod support;

use hickory_proto::{op::ResponseCode, rr::RecordType};
use support::*;

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
    let mut bench = Bench::new();
    bench
        .ask("nobody.my-net", RecordType::A)
        .assert_absent("my-net.");
}

#[test]
fn rule_03_aaaa_of_a_name_with_only_an_ipv4_address_is_no_data() {
    let mut bench = Bench::new();
    for name in ["web", "www", "web.my-net"] {
        let answer = bench.ask(name, RecordType::AAAA);
        assert_eq!(answer.rcode(), ResponseCode::NoError);
        assert!(answer.message.answers.is_empty() && answer.soa().is_some());
    }
    let six = bench.ask("db.1.xyz", RecordType::AAAA);
    assert_eq!(six.texts(), ["db.1.xyz. 5 AAAA fd00:1::3"]);
}
