//! Members of foca 2, as its LAN profile has them, with the smallest identity that can be renewed.

use std::{cmp::Reverse, collections::BinaryHeap, num::NonZeroU32};

use foca::{
    AccumulatingRuntime, Config, Foca, Identity, NoCustomBroadcast, OwnedNotification,
    PostcardCodec, Timer,
};
use overlay_core::{Instant, Seed};
use rand::{SeedableRng as _, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use super::world::{Effect, Input, Member};

/// Who, and how often it had to come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Id {
    number: u32,
    life: u32,
}

impl Identity for Id {
    type Addr = u32;

    fn renew(&self) -> Option<Self> {
        Some(Self {
            life: self.life + 1,
            ..*self
        })
    }

    fn addr(&self) -> u32 {
        self.number
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.life > adversary.life
    }
}

pub struct Theirs {
    foca: Foca<Id, PostcardCodec, SmallRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Id>,
    timers: BinaryHeap<Reverse<Due>>,
    ordered: u64,
    effects: Vec<Effect>,
    /// How often it was declared gone, and came back under a new identity.
    renewals: u64,
}

struct Due {
    at: Instant,
    number: u64,
    timer: Timer<Id>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, &self.timer, self.number).cmp(&(other.at, &other.timer, other.number))
    }
}

impl Theirs {
    pub fn new(seed: &Seed, number: usize, count: usize) -> Self {
        let id = |number: usize| Id {
            number: u32::try_from(number).expect("few"),
            life: 0,
        };
        let size = NonZeroU32::new(u32::try_from(count).expect("few")).expect("some");
        let drawn = seed.derive(&format!("foca {number}")).rng().next_u64();
        let rng = SmallRng::seed_from_u64(drawn);
        let foca = Foca::new(id(number), Config::new_lan(size), rng, PostcardCodec);
        let mut member = Self {
            foca,
            runtime: AccumulatingRuntime::new(),
            timers: BinaryHeap::new(),
            ordered: 0,
            effects: Vec::new(),
            renewals: 0,
        };
        let everybody = (0..count).map(|number| foca::Member::alive(id(number)));
        let told = member
            .foca
            .apply_many(everybody, false, &mut member.runtime);
        told.expect("it takes members");
        member.settle(Instant::EPOCH);
        member.effects.clear();
        member
    }

    fn settle(&mut self, now: Instant) {
        while let Some((to, bytes)) = self.runtime.to_send() {
            self.effects.push(Effect::Datagram {
                to: to.number as usize,
                bytes: bytes.to_vec(),
            });
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.ordered += 1;
            let (at, number) = (now + after, self.ordered);
            self.timers.push(Reverse(Due { at, number, timer }));
        }
        while let Some(told) = self.runtime.to_notify() {
            match told {
                OwnedNotification::MemberDown(id) => {
                    self.effects.push(Effect::Down(id.number as usize));
                }
                OwnedNotification::Rejoin(_) => self.renewals += 1,
                _ => {}
            }
        }
    }
}

impl Member for Theirs {
    fn handle(&mut self, now: Instant, _from: usize, input: Input) {
        if let Input::Datagram(bytes) = input {
            // What is about an identity that is gone is an error to it.
            let _ = self.foca.handle_data(&bytes, &mut self.runtime);
            self.settle(now);
        }
    }

    fn wake(&mut self, now: Instant) {
        while let Some(Reverse(due)) = self.timers.peek()
            && due.at <= now
        {
            let Some(Reverse(due)) = self.timers.pop() else {
                break;
            };
            // Late ones are an error to it, and it goes on.
            let _ = self.foca.handle_timer(due.timer, &mut self.runtime);
            self.settle(now);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse(due)| due.at)
    }

    fn drain(&mut self, effects: &mut Vec<Effect>) {
        effects.append(&mut self.effects);
    }

    fn up(&self) -> usize {
        self.foca.num_members() + 1
    }

    fn renewals(&self) -> u64 {
        self.renewals
    }
}
