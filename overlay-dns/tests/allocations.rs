//! Answers from our own data and from the cache ask for no memory once their buffers have grown.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers here are test code as well"
)]

#[cfg(test)]
mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use hickory_proto::{
    op::ResponseCode,
    rr::{RData, RecordType, rdata},
};
use overlay_core::{Machine, ServiceId};
use overlay_dns::{Output, Port, QueryToken, Records, ServiceRecords};
use support::*;

struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn count() {
    // A thread that ends has nobody left to count for.
    let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
}

// SAFETY: every call goes on to the system's allocator as it came; the counter is a plain number of this thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(place, layout, size) }
    }
}

fn bench() -> Bench {
    let mut bench = Bench::new();
    let http = Port {
        name: "http".into(),
        protocol: "tcp".into(),
        number: 80,
        ..Port::default()
    };
    for number in 10..20 {
        let name = format!("shop.{number}");
        let (four, six) = (format!("10.0.1.{number}"), format!("fd00:1::{number}"));
        let mut row = records(&[&name], &[&four, &six]);
        row.services = vec!["shop".into()];
        row.ports = vec![http.clone()];
        row.texts = vec![name.into_bytes(), b"shop".to_vec()];
        bench.records(MY_NET, number, row);
    }
    let alias = Records {
        names: vec!["alias".into()],
        canonical: Some("web".into()),
        ..Records::default()
    };
    bench.records(MY_NET, 30, alias);
    let service = ServiceRecords {
        names: vec!["virtual".into()],
        addresses: vec!["10.0.1.200".parse().unwrap()],
        ports: vec![http],
        ..ServiceRecords::default()
    };
    let id = ServiceId::from_bytes([7; 16]);
    bench.resolver.set_service(bench.now, MY_NET, id, service);
    bench
}

#[test]
fn answers_from_our_own_data_ask_for_no_memory() {
    let mut bench = bench();
    for (name, kind, what) in [
        ("web", RecordType::A, "one address"),
        ("virtual", RecordType::A, "a virtual address"),
        ("shop", RecordType::A, "ten addresses"),
        ("tasks.shop", RecordType::AAAA, "ten of IPv6"),
        ("shop.my-net", RecordType::A, "in a network"),
        ("web", RecordType::AAAA, "no data"),
        ("nobody.my-net", RecordType::A, "no name"),
        ("shop", RecordType::TXT, "texts"),
        ("_http._tcp.shop", RecordType::SRV, "places"),
        ("_http._tcp.virtual", RecordType::SRV, "a place"),
        ("12.1.0.10.in-addr.arpa", RecordType::PTR, "a reverse name"),
        ("99.1.0.10.in-addr.arpa", RecordType::PTR, "no reverse name"),
        ("alias", RecordType::A, "an alias"),
        ("shop", RecordType::ANY, "any"),
        ("localhost", RecordType::A, "localhost"),
        ("my-net", RecordType::SOA, "a zone"),
    ] {
        let query = Query::new(name, kind).edns(1_232).bytes();
        assert_eq!(asked_for(&mut bench, &query, what), 0, "{what}");
    }
}

#[test]
fn forwarded_answers_that_are_kept_ask_for_no_memory() {
    let mut bench = bench();
    let query = Query::new("Example.com", RecordType::A).edns(1_232);
    let forward = bench.forward(&query);
    let address = |last| RData::A(rdata::A::new(203, 0, 113, last));
    let records = (1..9).map(|last| record("example.com.", 60, address(last)));
    let reply = forward.bytes_of(ResponseCode::NoError, records.collect());
    bench.reply(&forward, &reply).unwrap();
    assert_eq!(asked_for(&mut bench, &query.bytes(), "kept"), 0);
}

/// How often memory is asked for by the third answer to a query.
fn asked_for(bench: &mut Bench, query: &[u8], what: &str) -> usize {
    let mut asked = 0;
    for _ in 0..3 {
        let before = ASKED.get();
        let (client, token) = (ALICE, QueryToken(1));
        let udp = overlay_dns::Transport::Udp;
        let taken = bench
            .resolver
            .handle_query(bench.now, client, token, udp, query);
        taken.unwrap();
        let Some(Output::Answer { bytes, .. }) = bench.resolver.poll_output() else {
            panic!("{what}: not answered at once");
        };
        assert!(bytes.len() > 12 + 5);
        bench.resolver.recycle(bench.now, bytes);
        asked = ASKED.get() - before;
    }
    asked
}
