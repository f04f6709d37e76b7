//! The socket half on loopback: rules 12 and 13, a real client, and an upstream server that misbehaves.
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers here are test code as well"
)]

#[cfg(test)]
mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::rr::RecordType;
use overlay_dns::driver::{Sockets, SocketsConfig, bind_shared};
use support::{running::*, *};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
    time::timeout,
};

async fn ask_udp(to: SocketAddr, query: &Query) -> Answer {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(to).await.unwrap();
    socket.send(&query.bytes()).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await;
    Answer::read(buffer[..length.unwrap().unwrap()].to_vec())
}

fn framed(query: &Query) -> Vec<u8> {
    let bytes = query.bytes();
    let length = u16::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes()[..], &bytes].concat()
}

async fn read_framed(stream: &mut TcpStream) -> Answer {
    let read = async {
        let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut bytes).await.unwrap();
        bytes
    };
    Answer::read(timeout(PATIENCE, read).await.unwrap())
}

#[tokio::test]
async fn rule_12_after_tc_the_whole_answer_comes_over_tcp() {
    let running = serve(crowd().resolver, SocketsConfig::default());
    let query = Query::new("crowd", RecordType::A);
    let cut = ask_udp(running.udp, &query).await;
    assert!(cut.message.metadata.truncation);

    let mut stream = TcpStream::connect(running.tcp).await.unwrap();
    stream
        .write_all(&framed(&query.clone().tcp()))
        .await
        .unwrap();
    assert_eq!(read_framed(&mut stream).await.addresses().len(), 200);
}

#[tokio::test]
async fn rule_12_several_queries_share_a_connection_in_any_number_of_segments() {
    let running = serve(crowd().resolver, SocketsConfig::default());
    let mut stream = TcpStream::connect(running.tcp).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let queries: Vec<Query> = (0..5)
        .map(|id| Query::new("web", RecordType::A).id(id).tcp())
        .collect();
    let bytes: Vec<u8> = queries.iter().flat_map(framed).collect();
    for part in bytes.chunks(7) {
        stream.write_all(part).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(read_framed(&mut stream).await.message.metadata.id);
    }
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn rule_12_a_client_that_closed_its_half_still_gets_its_answers() {
    let running = serve(crowd().resolver, SocketsConfig::default());
    let mut stream = TcpStream::connect(running.tcp).await.unwrap();
    let query = Query::new("web", RecordType::A).tcp();
    stream.write_all(&framed(&query)).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_framed(&mut stream).await.addresses().len(), 1);
    let end = timeout(PATIENCE, stream.read(&mut [0])).await.unwrap();
    assert_eq!(end.unwrap(), 0, "and the connection is closed");
}

#[tokio::test]
async fn rule_13_connections_are_bounded_and_idle_ones_closed_and_half_a_length_blocks_nobody() {
    let config = SocketsConfig {
        connections_max: 2,
        idle_timeout: Duration::from_millis(300),
        message_timeout: Duration::from_millis(300),
        ..SocketsConfig::default()
    };
    let running = serve(crowd().resolver, config);
    let mut half = TcpStream::connect(running.tcp).await.unwrap();
    half.write_all(&[0]).await.unwrap();
    let mut second = TcpStream::connect(running.tcp).await.unwrap();
    let query = Query::new("web", RecordType::A).tcp();
    second.write_all(&framed(&query)).await.unwrap();
    assert_eq!(read_framed(&mut second).await.addresses().len(), 1);

    let mut third = TcpStream::connect(running.tcp).await.unwrap();
    let end = timeout(PATIENCE, third.read(&mut [0])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "one too many: {end:?}");
    for stream in [&mut half, &mut second] {
        let end = timeout(PATIENCE, stream.read(&mut [0])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "idle: {end:?}");
    }
    let mut fourth = TcpStream::connect(running.tcp).await.unwrap();
    fourth.write_all(&framed(&query)).await.unwrap();
    assert_eq!(read_framed(&mut fourth).await.addresses().len(), 1);
}

#[tokio::test]
async fn a_burst_is_answered_whole_and_everybody_gets_their_own() {
    let resolver = crowd().resolver;
    let (udp, tcp) = same_port();
    let to = udp.local_addr().unwrap();
    // More than one batch is there before anybody reads.
    let clients: Vec<_> = (0..3)
        .map(|_| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
        .collect();
    for id in 0..80_u16 {
        let name = ["web", "www", "nobody.my-net"][usize::from(id) % 3];
        let query = Query::new(name, RecordType::A).id(id).bytes();
        let client = &clients[usize::from(id) % 3];
        client.send_to(&query, to).unwrap();
        client.send_to(&[0; 5], to).unwrap(); // gets no answer
    }
    let running = serve_at(resolver, SocketsConfig::default(), (udp, tcp));
    for (number, client) in clients.into_iter().enumerate() {
        client.set_nonblocking(true).unwrap();
        let client = UdpSocket::from_std(client).unwrap();
        let mut ids = Vec::new();
        let expected: Vec<u16> = (0..80)
            .filter(|id| usize::from(*id) % 3 == number)
            .collect();
        while ids.len() < expected.len() {
            let mut buffer = vec![0; 4_096];
            let length = timeout(PATIENCE, client.recv(&mut buffer)).await;
            let answer = Answer::read(buffer[..length.unwrap().unwrap()].to_vec());
            assert_eq!(answer.addresses().len(), usize::from(number < 2));
            ids.push(answer.message.metadata.id);
        }
        ids.sort_unstable();
        assert_eq!(ids, expected);
    }
    assert_eq!(running.sockets.dropped(), 0);
}

#[tokio::test]
async fn whoever_cannot_be_answered_takes_nobody_along() {
    let (udp, tcp) = same_port();
    let to = udp.local_addr().unwrap();
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for id in 0..20_u16 {
        let query = Query::new("web", RecordType::A).id(id).bytes();
        if id % 2 == 0 {
            client.send_to(&query, to).await.unwrap();
        } else {
            let closed = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            closed.send_to(&query, to).unwrap();
        }
    }
    let _running = serve_at(crowd().resolver, SocketsConfig::default(), (udp, tcp));
    let mut ids = Vec::new();
    while ids.len() < 10 {
        let mut buffer = [0; 512];
        let length = timeout(PATIENCE, client.recv(&mut buffer)).await;
        let answer = Answer::read(buffer[..length.unwrap().unwrap()].to_vec());
        ids.push(answer.message.metadata.id);
    }
    ids.sort_unstable();
    assert_eq!(ids, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]);
}

#[tokio::test]
async fn too_many_queries_without_an_answer_forget_the_oldest() {
    let mut bench = Bench::new();
    // A server that never answers.
    let silent = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = silent.local_addr().unwrap();
    bench.resolver.set_upstreams(bench.now, vec![server]);
    let config = SocketsConfig {
        queries_max: 8,
        ..SocketsConfig::default()
    };
    let running = serve(bench.resolver, config);
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for id in 0..50_u16 {
        let query = Query::new("example.com", RecordType::A).id(id).bytes();
        client.send_to(&query, running.udp).await.unwrap();
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while running.sockets.dropped() < 42 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // What is ours is answered all the same.
    let answer = ask_udp(running.udp, &Query::new("web", RecordType::A)).await;
    assert_eq!(answer.addresses().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_for_a_connection_that_is_gone_holds_up_nobody() {
    let late = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut bench = Bench::new();
    let server = late.local_addr().unwrap();
    bench.resolver.set_upstreams(bench.now, vec![server]);
    let config = SocketsConfig {
        idle_timeout: Duration::from_millis(20),
        ..SocketsConfig::default()
    };
    let running = serve(bench.resolver, config);
    let mut stream = TcpStream::connect(running.tcp).await.unwrap();
    let query = Query::new("example.com", RecordType::A).tcp();
    stream.write_all(&framed(&query)).await.unwrap();
    let mut buffer = [0; 512];
    let (length, peer) = timeout(PATIENCE, late.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    // Nothing more comes, so the connection is closed.
    let end = timeout(PATIENCE, stream.read(&mut [0])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    let answer = foreign_answer(&buffer[..length], 1);
    late.send_to(&answer, peer).await.unwrap();

    let deadline = tokio::time::Instant::now() + PATIENCE;
    let handle = running.sockets.clone();
    let dropped = move || {
        tokio::task::spawn_blocking({
            let handle = handle.clone();
            move || handle.dropped()
        })
    };
    while timeout(PATIENCE, dropped()).await.unwrap().unwrap() == 0 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = ask_udp(running.udp, &Query::new("web", RecordType::A)).await;
    assert_eq!(answer.addresses().len(), 1);
}

#[tokio::test]
async fn a_change_is_in_the_next_answer() {
    let (udp, tcp) = same_port();
    let to = udp.local_addr().unwrap();
    let (sockets, mut inputs) = Sockets::new(SocketsConfig::default());
    sockets.serve(ALICE, udp, Some(tcp)).unwrap();
    let mut bench = Bench::new();
    let query = Query::new("web", RecordType::A);
    for number in 2..30_u8 {
        let address = format!("10.0.1.{number}");
        bench.set(MY_NET, 1, &["web"], &[&address]);
        let query = query.clone();
        let asked = tokio::spawn(async move { ask_udp(to, &query).await });
        let input = timeout(PATIENCE, inputs.recv()).await.unwrap();
        sockets.drive(&mut bench.resolver, bench.now, input);
        let answer = asked.await.unwrap();
        assert_eq!(
            answer.addresses(),
            [address.parse::<std::net::IpAddr>().unwrap()]
        );
    }
    sockets.close();
}

#[tokio::test]
async fn two_resolvers_share_a_port() {
    let (first, second);
    {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let sockets = bind_shared(address).unwrap();
        let again = bind_shared(sockets.0.local_addr().unwrap()).unwrap();
        let mut bench = Bench::new();
        first = serve_at(bench.resolver, SocketsConfig::default(), sockets);
        bench = Bench::new();
        bench.set(MY_NET, 1, &["web"], &["10.0.1.77"]);
        second = serve_at(bench.resolver, SocketsConfig::default(), again);
    }
    assert_eq!((first.udp, first.tcp), (second.udp, second.tcp));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let answer = ask_udp(first.udp, &Query::new("web", RecordType::A)).await;
        seen.extend(answer.addresses());
        let mut stream = TcpStream::connect(first.tcp).await.unwrap();
        let query = Query::new("web", RecordType::A).tcp();
        stream.write_all(&framed(&query)).await.unwrap();
        assert_eq!(read_framed(&mut stream).await.addresses().len(), 1);
        if seen.len() == 2 {
            return;
        }
    }
    panic!("one of the two was never asked: {seen:?}");
}

/// A server that cuts every answer over UDP and gives it over TCP.
async fn cutting_server() -> (SocketAddr, JoinHandle<()>) {
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = Arc::new(UdpSocket::bind(address).await.unwrap());
    let task = tokio::spawn(async move {
        let mut buffer = [0; 4_096];
        loop {
            tokio::select! {
                Ok((length, peer)) = udp.recv_from(&mut buffer) => {
                    let mut answer = foreign_answer(&buffer[..length], 0);
                    answer[2] |= 0x02;
                    udp.send_to(&answer, peer).await.unwrap();
                }
                Ok((mut stream, _)) = tcp.accept() => {
                    let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
                    stream.read_exact(&mut query).await.unwrap();
                    let answer = foreign_answer(&query, 3);
                    let length = u16::try_from(answer.len()).unwrap();
                    stream.write_all(&length.to_be_bytes()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        }
    });
    (address, task)
}

/// Answers a query with `count` addresses.
fn foreign_answer(query: &[u8], count: u8) -> Vec<u8> {
    let mut answer = query[..query.len() - 11].to_vec(); // without the OPT record, which is the last
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
    for number in 0..count {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, number]);
    }
    answer
}

#[tokio::test]
async fn a_cut_answer_of_a_server_is_fetched_over_tcp() {
    let (server, task) = cutting_server().await;
    let mut bench = Bench::new();
    bench.resolver.set_upstreams(bench.now, vec![server]);
    let running = serve(bench.resolver, SocketsConfig::default());
    let answer = ask_udp(running.udp, &Query::new("example.com", RecordType::A)).await;
    assert_eq!(answer.addresses().len(), 3);
    task.abort();
}

#[tokio::test]
async fn an_unreachable_server_is_noticed_at_once() {
    let (server, task) = cutting_server().await;
    let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let gone = closed.local_addr().unwrap();
    drop(closed);
    let mut bench = Bench::new();
    bench.resolver.set_upstreams(bench.now, vec![gone, server]);
    let running = serve(bench.resolver, SocketsConfig::default());
    let begun = tokio::time::Instant::now();
    let answer = ask_udp(running.udp, &Query::new("example.com", RecordType::A)).await;
    assert_eq!(answer.addresses().len(), 3);
    assert!(
        begun.elapsed() < Duration::from_millis(1_400),
        "not by a timeout"
    );
    task.abort();
}

#[tokio::test]
async fn a_client_that_was_stopped_gets_no_answers() {
    let running = serve(Bench::new().resolver, SocketsConfig::default());
    let query = Query::new("web", RecordType::A);
    assert_eq!(ask_udp(running.udp, &query).await.addresses().len(), 1);
    running.sockets.stop(ALICE);
    tokio::time::sleep(Duration::from_millis(50)).await;
    // The port is free again.
    std::net::UdpSocket::bind(running.udp).unwrap();
    std::net::TcpListener::bind(running.tcp).unwrap();
}

/// A daemon whose resolver starts anew keeps the sockets of its endpoints, where programs wait for answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolver_that_is_gone_takes_no_queries_from_its_successor() {
    let (udp, tcp) = same_port();
    let copies = || (udp.try_clone().unwrap(), tcp.try_clone().unwrap());
    let (former, inputs) = Sockets::new(SocketsConfig::default());
    let (its_udp, its_tcp) = copies();
    former.serve(ALICE, its_udp, Some(its_tcp)).unwrap();
    drop((inputs, former));

    let running = serve_at(crowd().resolver, SocketsConfig::default(), copies());
    // The former one's tasks hear of it on another thread, and end a moment later; if they did not, every other query would be
    // lost.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut row = 0;
    while row < 20 {
        assert!(tokio::time::Instant::now() < deadline, "queries are lost");
        let query = Query::new("web", RecordType::A);
        let asked = ask_udp(running.udp, &query);
        let answered = timeout(Duration::from_millis(200), asked).await.is_ok();
        row = if answered { row + 1 } else { 0 };
    }
    for _ in 0..50 {
        let answer = ask_udp(running.udp, &Query::new("web", RecordType::A)).await;
        assert_eq!(answer.addresses().len(), 1);
        let mut stream = TcpStream::connect(running.tcp).await.unwrap();
        let query = Query::new("web", RecordType::A).tcp();
        stream.write_all(&framed(&query)).await.unwrap();
        assert_eq!(read_framed(&mut stream).await.addresses().len(), 1);
    }
}
