//! A resolver that runs on loopback.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use overlay_core::{Instant, Machine};
use overlay_dns::{
    Event, Resolver,
    driver::{Sockets, SocketsConfig},
};
use tokio::{task::JoinHandle, time::timeout};

use super::{ALICE, Bench, MY_NET, endpoint, records};

pub const PATIENCE: Duration = Duration::from_secs(10);

/// A resolver that runs on loopback.
pub struct Running {
    pub udp: SocketAddr,
    pub tcp: SocketAddr,
    pub sockets: Sockets,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.sockets.close();
    }
}

/// Serves `ALICE` of the bench.
pub fn serve(resolver: Resolver, config: SocketsConfig) -> Running {
    serve_at(resolver, config, same_port())
}

pub fn serve_at(
    resolver: Resolver,
    config: SocketsConfig,
    (udp, tcp): (std::net::UdpSocket, std::net::TcpListener),
) -> Running {
    let (udp_address, tcp_address) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let (sockets, mut inputs) = Sockets::new(config);
    sockets.serve(ALICE, udp, Some(tcp)).unwrap();
    let (handle, mut resolver) = (sockets.clone(), resolver);
    let task = tokio::spawn(async move {
        let start = tokio::time::Instant::now();
        let clock = || Instant::from_millis(1_000) + start.elapsed();
        loop {
            let due = resolver.poll_timeout();
            let pause = due.map_or(PATIENCE, |due| due.duration_since(clock()));
            let input = timeout(pause, inputs.recv()).await.ok().flatten();
            let _: Vec<Event> = handle.drive(&mut resolver, clock(), input);
        }
    });
    Running {
        udp: udp_address,
        tcp: tcp_address,
        sockets,
        task,
    }
}

/// dig asks over TCP at the port where it asked over UDP.
pub fn same_port() -> (std::net::UdpSocket, std::net::TcpListener) {
    for _ in 0..50 {
        let tcp = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        if let Ok(udp) = std::net::UdpSocket::bind(tcp.local_addr().unwrap()) {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both");
}

/// A name with 200 addresses, beside the others.
pub fn crowd() -> Bench {
    let mut bench = Bench::new();
    for number in 0..200 {
        let address = format!("10.0.3.{number}");
        let owner = endpoint(1_000 + number);
        let records = records(&["crowd"], &[&address]);
        bench
            .resolver
            .set_records(bench.now, MY_NET, owner, records);
    }
    bench
}
