//! The world drives hosts by the driver rules, loses what it says it loses, and replays.

#![expect(clippy::unwrap_used, reason = "test helpers")]

use std::{collections::VecDeque, time::Duration};

use overlay_core::{Disk as _, Instant, Machine, Rng, Seed};
use overlay_sim::{Boot, Channel, Host, HostId, NetworkConfig, Outbox, SimDisk, World};

/// Greets its peer every 10 ms, answers greetings, and counts on its disk how many it got.
struct Greeter {
    now: Instant,
    next: Instant,
    rng: Rng,
    peer: HostId,
    disk: SimDisk,
    queue: VecDeque<Out>,
    answers: Vec<u64>,
    counted: u64,
    recovered: u64,
}

enum Out {
    Send(HostId, Channel, u64),
    Count,
}

impl Greeter {
    fn boot(boot: Boot<'_>, peer: HostId) -> Self {
        let recovered = boot
            .disk
            .read("count")
            .map_or(0, |bytes| bytes.len() as u64);
        Self {
            now: boot.now,
            next: boot.now,
            rng: boot.seed.rng(),
            peer,
            disk: boot.disk,
            queue: VecDeque::new(),
            answers: Vec::new(),
            counted: 0,
            recovered,
        }
    }
}

impl Machine for Greeter {
    type Output = Out;

    fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.now >= self.next {
            self.next = self.now + Duration::from_millis(10);
            let word = self.rng.next_u64() | 1;
            self.queue
                .push_back(Out::Send(self.peer, Channel::Datagram, word));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(if self.queue.is_empty() {
            self.next
        } else {
            self.now
        })
    }

    fn poll_output(&mut self) -> Option<Out> {
        self.queue.pop_front()
    }
}

impl Host for Greeter {
    fn deliver(&mut self, now: Instant, from: HostId, _: Channel, bytes: &[u8]) {
        self.now = self.now.max(now);
        let word = u64::from_le_bytes(bytes.try_into().unwrap());
        if word & 1 == 1 {
            self.queue.push_back(Out::Count);
            self.queue
                .push_back(Out::Send(from, Channel::Stream, word & !1));
        } else {
            self.answers.push(word);
        }
    }

    fn route(&mut self, _: Instant, output: Out, outbox: &mut Outbox) {
        match output {
            Out::Send(to, channel, word) => outbox.send(to, channel, word.to_le_bytes().to_vec()),
            Out::Count => {
                self.disk.append("count", b"x").unwrap();
                self.disk.sync("count").unwrap();
                self.disk.sync_directory().unwrap();
                self.counted += 1;
            }
        }
    }
}

fn pair(seed: u64, config: NetworkConfig) -> (World<Greeter>, [HostId; 2]) {
    let mut world = World::new(Seed::from_u64(seed), config);
    let first = world.add(|boot| Greeter::boot(boot, HostId(1)));
    let second = world.add(|boot| Greeter::boot(boot, HostId(0)));
    (world, [first, second])
}

#[test]
fn greetings_are_answered_once_each_on_a_quiet_network() {
    let (mut world, [first, second]) = pair(1, NetworkConfig::default());
    world.run_for(Duration::from_secs(1));
    for host in [first, second] {
        let greeter = world.host(host).unwrap();
        assert!(
            (99..=100).contains(&greeter.answers.len()),
            "{}",
            greeter.answers.len()
        );
        assert_eq!(greeter.counted, world.host(first).unwrap().counted);
    }
}
