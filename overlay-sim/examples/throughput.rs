//! How many small events the simulator processes in a real second: `cargo run --release -p overlay-sim --example throughput`.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement"
)]

use std::{collections::VecDeque, time::Duration};

use overlay_core::{Instant, Machine, Seed};
use overlay_sim::{Channel, Host, HostId, NetworkConfig, Outbox, World};

/// Throws a ball of 64 octets to the next host, and looks up every millisecond.
struct Player {
    now: Instant,
    next: Instant,
    neighbour: HostId,
    queue: VecDeque<Vec<u8>>,
}

impl Machine for Player {
    type Output = Vec<u8>;

    fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.now >= self.next {
            self.next = self.now + Duration::from_millis(1);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let drained = self.queue.is_empty();
        Some(if drained { self.next } else { self.now })
    }

    fn poll_output(&mut self) -> Option<Vec<u8>> {
        self.queue.pop_front()
    }
}

impl Host for Player {
    fn deliver(&mut self, now: Instant, _from: HostId, _channel: Channel, bytes: &[u8]) {
        self.now = self.now.max(now);
        self.queue.push_back(bytes.to_vec());
    }

    fn route(&mut self, _now: Instant, ball: Vec<u8>, outbox: &mut Outbox) {
        outbox.send(self.neighbour, Channel::Datagram, ball);
    }
}

fn main() {
    for (hosts, balls, network) in [
        (5, 5, NetworkConfig::lan()),
        (100, 1_000, NetworkConfig::lan()),
        (10_000, 10_000, NetworkConfig::lan()),
        (
            5,
            100,
            NetworkConfig {
                loss_ppm: 0,
                replay_ppm: 0,
                duplicate_ppm: 0,
                flip_ppm: 1,
                truncate_ppm: 1,
                ..NetworkConfig::lossy()
            },
        ),
    ] {
        let mut world = World::new(Seed::from_u64(1), network);
        for host in 0..hosts {
            world.add(move |boot| Player {
                now: boot.now,
                next: boot.now,
                neighbour: HostId((host + 1) % hosts),
                queue: VecDeque::new(),
            });
        }
        for ball in 0..balls {
            let host = HostId(ball % hosts);
            world.with(host, |player, _| player.queue.push_back(vec![7; 64]));
        }
        let started = std::time::Instant::now();
        while world.stats().events < 3_000_000 {
            world.run_for(Duration::from_millis(1));
        }
        let rate = world.stats().events_per_second(started.elapsed());
        println!("{hosts:>6} hosts, {balls:>6} balls: {rate:>9} events a second");
    }
}
