//! What went wrong in other resolvers and forwarders, asked of this one: a test for each advisory.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers here are test code as well"
)]

#[cfg(test)]
mod support;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use hickory_proto::{
    op::ResponseCode,
    rr::{RData, Record, RecordType, rdata},
};
use overlay_dns::{Output, Transport, UpstreamError};
use support::*;

fn a(name: &str, last: u8) -> Record {
    record(name, 60, RData::A(rdata::A::new(203, 0, 113, last)))
}

fn example() -> Query {
    Query::new("example.com", RecordType::A)
}

/// Whoever is on an internal network alone tells nobody outside anything by asking: neither by names nor by types.
#[test]
fn cve_2024_29018_names_of_internal_networks_do_not_leak() {
    let mut bench = Bench::new();
    let tunnel = format!(
        "{}.{}.evil.example",
        "6d7920736563726574".repeat(3),
        "a".repeat(63)
    );
    let names = [
        "example.com",
        "com",
        "web.evil.example",
        "7.113.0.203.in-addr.arpa",
        "",
        &tunnel,
    ];
    for name in names {
        for kind in [
            1, 2, 5, 6, 12, 15, 16, 28, 33, 43, 48, 64, 65, 255, 256, 257, 65_280,
        ] {
            for transport in [Transport::Udp, Transport::Tcp] {
                let query = Query {
                    transport,
                    kind,
                    ..Query::new(name, RecordType::A).by(BOB)
                };
                let outputs = bench.send(&query).unwrap();
                assert!(forwards(&outputs).is_empty(), "{name} {kind}: {outputs:?}");
                assert!(
                    answers(&outputs)
                        .iter()
                        .all(|answer| answer.texts().is_empty())
                );
            }
        }
    }
    // Nor when the host's servers change, or what it waits for comes to an end.
    bench.resolver.set_upstreams(bench.now, vec![server(7)]);
    assert!(forwards(&bench.pass(Duration::from_secs(60))).is_empty());
    assert_eq!(bench.resolver.stats().upstream_queries, 0);
    // What is its own it still gets, and others still ask.
    assert_eq!(
        bench
            .answer(&Query::new("web", RecordType::A).by(BOB))
            .addresses()
            .len(),
        1
    );
    bench.forward(&example());
}

/// An answer counts from the address and port that was asked, over the socket of its question, and from nowhere else.
#[test]
fn cve_2020_25684_an_answer_belongs_to_one_socket_and_one_address() {
    let mut bench = Bench::new();
    let all: Vec<Forward> = (0..50)
        .map(|number| bench.forward(&Query::new(&format!("n{number}.com"), RecordType::A)))
        .collect();
    let sockets: BTreeSet<_> = all.iter().map(|forward| forward.upstream).collect();
    assert_eq!(
        sockets.len(),
        all.len(),
        "a socket for each, with a port of its own"
    );
    let good = all[0].bytes_of(ResponseCode::NoError, vec![a("n0.com.", 1)]);
    for other in &all[1..] {
        let elsewhere = Forward {
            upstream: other.upstream,
            ..all[0].clone()
        };
        assert_eq!(bench.reply(&elsewhere, &good), Err(UpstreamError::Mismatch));
    }
    let asked = all[0].to;
    for from in [
        server(2),
        SocketAddr::new(asked.ip(), 5_353),
        "[::ffff:192.0.2.1]:54".parse().unwrap(),
    ] {
        let from = Forward {
            to: from,
            ..all[0].clone()
        };
        assert!(matches!(
            bench.reply(&from, &good),
            Err(UpstreamError::Address { .. })
        ));
    }
    assert_eq!(answers(&bench.reply(&all[0], &good).unwrap()).len(), 1);
}

/// The whole question is compared, octet by octet, not a sum of it.
#[test]
fn cve_2020_25685_an_answer_is_for_the_question_that_was_asked() {
    let mut bench = Bench::new();
    let forward = bench.forward(&example());
    let good = forward.bytes_of(ResponseCode::NoError, vec![a("example.com.", 1)]);
    let end = 12 + example().question().len();
    for at in 12..end {
        for bit in 0..8 {
            let mut forged = good.clone();
            forged[at] ^= 1 << bit;
            assert!(
                bench.reply(&forward, &forged).is_err(),
                "octet {at}, bit {bit}"
            );
        }
    }
    // Two that change places have the same sum, and are another name.
    for at in 13..end - 6 {
        let mut forged = good.clone();
        forged.swap(at, at + 1);
        if forged != good {
            assert!(bench.reply(&forward, &forged).is_err(), "octets {at}");
        }
    }
    assert_eq!(bench.drain(), []);
    assert_eq!(answers(&bench.reply(&forward, &good).unwrap()).len(), 1);
}

/// However many ask the same, one query is on its way: there are no birthdays to hope for.
#[test]
fn cve_2020_25686_the_same_question_is_asked_once_at_a_time() {
    let mut bench = Bench::new();
    let forward = bench.forward(&example());
    let mut waiting = 1;
    for id in 0..1_000 {
        // Those that wait with it are bounded; who is one too many is told so, and nobody is asked for them.
        match &bench.send(&example().id(id)).unwrap()[..] {
            [] => waiting += 1,
            outputs => assert!(forwards(outputs).is_empty(), "{outputs:?}"),
        }
    }
    assert!(waiting > 10, "{waiting}");
    assert_eq!(bench.resolver.stats().upstream_queries, 1);
    let reply = forward.bytes_of(ResponseCode::NoError, vec![a("example.com.", 1)]);
    let answered = answers(&bench.reply(&forward, &reply).unwrap());
    assert_eq!(answered.len(), waiting, "and answered with it");
}

/// Names that point to themselves, forward, in circles, past the end; lengths that are not there; counts that are too high.
#[test]
fn rfc_9267_names_lengths_and_counts_are_not_believed() {
    let mut bench = Bench::new();
    let head = |counts: [u8; 8]| [&[0x12, 0x34, 0x01, 0x00][..], &counts].concat();
    let question = [0, 1, 0, 0, 0, 0, 0, 0];
    let names: [&[u8]; 9] = [
        &[0xc0, 12],           // itself
        &[1, b'a', 0xc0, 12],  // itself, by way of a label
        &[0xc0, 14, 0xc0, 12], // a circle of two
        &[0xc0, 0xff],         // past the end
        &[0xff, 0xff],         // as far as it goes
        &[63, b'a'],           // a label that is not there
        &[0x40, b'a', 0],      // kinds of labels that are none
        &[0x80, b'a', 0],
        &[1, b'a'], // no end
    ];
    for name in names {
        let query = [&head(question), name, &[0, 1, 0, 1]].concat();
        let outputs = bench
            .send_bytes(ALICE, Transport::Udp, &query)
            .unwrap_or_default();
        assert!(forwards(&outputs).is_empty(), "{name:x?}: {outputs:?}");
        for output in &outputs {
            let Output::Answer { bytes, .. } = output else {
                panic!("{output:?}")
            };
            assert_eq!(bytes[3] & 15, 1, "a format error: {name:x?}");
        }
    }
    for counts in [
        [0xff; 8],
        [0, 1, 0xff, 0xff, 0, 0, 0, 0],
        [0xff, 0xff, 0, 0, 0, 0, 0, 0],
    ] {
        let query = [&head(counts), &example().question()[..]].concat();
        let outputs = bench
            .send_bytes(ALICE, Transport::Udp, &query)
            .unwrap_or_default();
        assert!(forwards(&outputs).is_empty(), "{counts:?}: {outputs:?}");
    }
    // The same in what servers say: the answer is not one, and the wait goes on.
    let forward = bench.forward(&example());
    let good = forward.bytes_of(ResponseCode::NoError, vec![]);
    let at = u8::try_from(good.len()).unwrap();
    let names: [&[u8]; 8] = [
        &[0xc0, at],
        &[1, b'a', 0xc0, at],
        &[0xc0, at + 2, 0xc0, at],
        &[0xc0, 0xff],
        &[0xff, 0xff],
        &[63, b'a'],
        &[0x40, b'a', 0],
        &[0x80, b'a', 0],
    ];
    for name in names {
        for data in [&[0, 4, 1, 2, 3, 4][..], &[0xff, 0xff], &[0, 2, 0xc0, 12]] {
            for kind in [1, 2, 5, 6, 12, 15, 33] {
                let mut bad = good.clone();
                bad[7] = 1;
                bad.extend(name);
                bad.extend([0, kind, 0, 1, 0, 0, 0, 60]);
                bad.extend(data);
                match bench.reply(&forward, &bad) {
                    Err(_) => assert_eq!(bench.drain(), []),
                    Ok(outputs) => panic!("{bad:x?}: {outputs:?}"),
                }
            }
        }
    }
    assert_eq!(answers(&bench.reply(&forward, &good).unwrap()).len(), 1);
}

/// Keys and signatures by the thousand are octets that are passed on: none is tried, and none leads to another question.
#[test]
fn cve_2023_50387_keys_and_signatures_cost_no_more_than_their_octets() {
    let mut bench = Bench::new();
    let query = Query::new("example.com", RecordType::DNSKEY)
        .tcp()
        .opt(4_096, 0, 0x8000);
    let forward = bench.forward(&query);
    let mut reply = forward.bytes_of(ResponseCode::NoError, vec![]);
    // A server's OPT would come last; what is here goes in front of nothing.
    reply[10..12].copy_from_slice(&[0, 0]);
    reply.truncate(12 + query.question().len());
    let mut count = 0_u16;
    while reply.len() < 60_000 {
        // Keys of one tag, and signatures by it (RFC 4034 §2, §3): each would have to be tried with each.
        let (kind, data): (u8, &[u8]) = match count % 2 {
            0 => (48, &[1, 0, 3, 15, 1, 2, 3, 4]),
            _ => (
                46,
                &[
                    0, 48, 15, 2, 0, 0, 0, 60, 0x7f, 0, 0, 0, 0, 0, 0, 1, 0x12, 0x34, 0, 9, 9,
                ],
            ),
        };
        reply.extend([
            0xc0,
            12,
            0,
            kind,
            0,
            1,
            0,
            0,
            0,
            60,
            0,
            u8::try_from(data.len()).unwrap(),
        ]);
        reply.extend(data);
        count += 1;
    }
    reply[6..8].copy_from_slice(&count.to_be_bytes());
    let outputs = if forward.transport == Transport::Udp {
        // It is cut there, as it has to be, and asked for over TCP.
        let mut cut = forward.bytes_of(ResponseCode::NoError, vec![]);
        cut[2] |= 2;
        let outputs = bench.reply(&forward, &cut).unwrap();
        let [again] = forwards(&outputs).try_into().unwrap();
        reply[..2].copy_from_slice(&again.bytes[..2]);
        bench.reply(&again, &reply).unwrap()
    } else {
        bench.reply(&forward, &reply).unwrap()
    };
    assert!(forwards(&outputs).is_empty());
    let [answer] = answers(&outputs).try_into().unwrap();
    assert_eq!(answer.message.answers.len(), usize::from(count));
    assert!(
        !answer.message.metadata.authentic_data,
        "nobody vouches for it"
    );
    assert_eq!(bench.resolver.stats().upstream_queries, 2);
}

#[cfg(feature = "tokio")]
mod sockets {
    use overlay_dns::driver::SocketsConfig;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        time::timeout,
    };

    use super::{
        support::running::{PATIENCE, crowd, serve},
        *,
    };

    /// Connections that say nothing, or one octet at a time, or never listen: each ends in its time, and there are few.
    #[tokio::test]
    async fn hickory_x41_2025_connections_end_in_time_and_are_few() {
        let config = SocketsConfig {
            connections_max: 8,
            idle_timeout: Duration::from_millis(300),
            message_timeout: Duration::from_millis(300),
            ..SocketsConfig::default()
        };
        let running = serve(crowd().resolver, config);
        let mut held = Vec::new();
        for number in 0..40 {
            let mut stream = TcpStream::connect(running.tcp).await.unwrap();
            if number % 2 == 0 {
                // A length that takes for ever to come true.
                drop(stream.write_all(&[0xff, 0xff, 1]).await);
            }
            held.push(stream);
        }
        for stream in &mut held {
            let end = timeout(PATIENCE, stream.read(&mut [0])).await.unwrap();
            assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        }
        let query = Query::new("web", RecordType::A).tcp();
        let bytes = query.bytes();
        let mut stream = TcpStream::connect(running.tcp).await.unwrap();
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        stream
            .write_all(&[&length[..], &bytes].concat())
            .await
            .unwrap();
        let mut length = [0; 2];
        timeout(PATIENCE, stream.read_exact(&mut length))
            .await
            .unwrap()
            .unwrap();
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        timeout(PATIENCE, stream.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(Answer::read(answer).addresses().len(), 1);
    }
}

/// An alias of an alias, for ever: it is given up after a few.
#[test]
fn hickory_x41_2025_aliases_end() {
    let mut bench = Bench::new();
    let alias = |name: String, to: String| overlay_dns::Records {
        names: vec![name],
        canonical: Some(to),
        ..overlay_dns::Records::default()
    };
    for number in 0..200_u8 {
        let next = (u16::from(number) + 1) % 200;
        bench.records(
            MY_NET,
            number,
            alias(format!("loop{number}"), format!("loop{next}")),
        );
    }
    let answer = bench.ask("loop0", RecordType::A);
    assert_eq!(answer.rcode(), ResponseCode::ServFail);
    assert!(
        answer.message.answers.len() <= 16,
        "{}",
        answer.message.answers.len()
    );
}

/// Servers that are the resolver itself, by whatever spelling: nothing is sent in a circle.
#[test]
fn cve_2020_15114_a_forwarder_does_not_ask_itself() {
    let mut bench = Bench::new();
    let own = [
        "127.0.0.11:53",
        "[::ffff:127.0.0.11]:53",
        "0.0.0.0:53",
        "[::]:53",
    ];
    let own = own.iter().map(|text| text.parse().unwrap());
    bench.resolver.set_upstreams(bench.now, own.collect());
    bench.drain();
    let mut outputs = bench.send(&example()).unwrap();
    outputs.extend(bench.pass(Duration::from_secs(60)));
    assert!(forwards(&outputs).is_empty(), "{outputs:?}");
    let [answer] = answers(&outputs).try_into().unwrap();
    assert_eq!(answer.rcode(), ResponseCode::ServFail);
}
