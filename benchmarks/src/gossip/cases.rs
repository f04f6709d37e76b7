//! What is measured, of members of any make.

use std::time::Duration;

use overlay_core::Instant;

use super::world::{Member, World};
use crate::{clock::cpu, heap};

/// Makes a cluster of so many that know each other, by a seed and the loss in parts of a million.
pub type Make<M> = fn(u64, usize, u32) -> World<M>;

pub fn detect<M: Member>(make: Make<M>, count: usize, seeds: u64) {
    let (mut firsts, mut spreads, mut wronged) = (Vec::new(), Vec::new(), 0);
    let ((), took) = cpu(|| {
        for seed in 0..seeds {
            let mut world = make(seed, count, 10_000);
            world.run_for(SETTLING);
            let victim = world.rng().index(count).unwrap_or(0);
            let killed = world.now();
            world.kill(victim);
            let end = killed + Duration::from_secs(120);
            world.run_until(end, |world| {
                world
                    .notices
                    .iter()
                    .filter(|notice| notice.of == victim)
                    .count()
                    + 1
                    >= world.len()
            });
            let times: Vec<Instant> = world
                .notices
                .iter()
                .filter(|notice| notice.of == victim)
                .map(|notice| notice.at)
                .collect();
            wronged += world.notices.len() - times.len();
            if let (Some(first), true) = (times.iter().min(), times.len() + 1 >= count) {
                firsts.push((*first - killed).as_secs_f64());
                let last = times.iter().max().copied().unwrap_or(*first);
                spreads.push((last - *first).as_secs_f64());
            }
        }
    });
    println!(
        "detect {count}: first {:.2} s (median of {}), all {:.2} s after; wronged {wronged}; {:.1} CPU s",
        median(&mut firsts),
        firsts.len(),
        median(&mut spreads),
        took.as_secs_f64(),
    );
}

pub fn load<M: Member>(make: Make<M>, count: usize, duration: Duration) {
    let mut world = make(1, count, 10_000);
    world.run_for(SETTLING);
    let before = world.counters;
    let ((), took) = cpu(|| world.run_for(duration));
    let per = |bytes: u64| bytes as f64 / count as f64 / duration.as_secs_f64();
    println!(
        "load {count}: {:.1} B/node/s in datagrams, {:.1} in streams; {:.0} node-s per CPU s, {} events",
        per(world.counters.datagram_bytes - before.datagram_bytes),
        per(world.counters.stream_bytes - before.stream_bytes),
        count as f64 * duration.as_secs_f64() / took.as_secs_f64(),
        world.counters.events - before.events,
    );
}

pub fn pause<M: Member>(make: Make<M>, count: usize, stopped: Duration, period: Duration) {
    let mut world = make(1, count, 0);
    world.run_for(SETTLING);
    let before = world.counters;
    world.run_for(Duration::from_secs(60));
    let healthy = world.counters.datagram_bytes - before.datagram_bytes;
    world.notices.clear();
    let before = world.counters;
    let refuted =
        |world: &World<M>| -> u64 { world.members().map(|(_, one)| one.renewals()).sum() };
    let renewals = refuted(&world);
    let end = world.now() + Duration::from_secs(300);
    let slow = count / 4;
    // Each at a phase of its own.
    let mut next: Vec<Instant> = Vec::new();
    for _ in 0..slow {
        let phase = world.rng().duration(Duration::ZERO..period);
        next.push(world.now() + phase);
    }
    while let Some((at, who)) = next.iter().copied().zip(0..).min() {
        if at > end {
            break;
        }
        world.run_until(at, |_| false);
        world.pause(who, stopped);
        next[who] = at + period;
    }
    world.run_until(end, |_| false);
    let wronged = world
        .notices
        .iter()
        .filter(|notice| notice.of >= slow)
        .count();
    println!(
        "pause {count}, {stopped:?} in {period:?}: {} notices of the paused, {wronged} of others; {} renewals; {:.2} times the load",
        world.notices.len() - wronged,
        refuted(&world) - renewals,
        (world.counters.datagram_bytes - before.datagram_bytes) as f64 / healthy as f64 / 5.0,
    );
}

pub fn loss<M: Member>(make: Make<M>, count: usize) {
    let mut world = make(1, count, 250_000);
    let ((), took) = cpu(|| world.run_for(Duration::from_secs(300)));
    println!(
        "loss {count}, 25 %: {} notices, {:.0} B/node/s; {:.1} CPU s",
        world.notices.len(),
        world.counters.datagram_bytes as f64 / count as f64 / 300.0,
        took.as_secs_f64(),
    );
}

pub fn split<M: Member>(make: Make<M>, count: usize) {
    let mut world = make(1, count, 10_000);
    world.run_for(SETTLING);
    world.cut(Some((0..count).map(|number| number < count / 2).collect()));
    world.run_for(Duration::from_secs(600));
    world.cut(None);
    let healed = world.now();
    let whole = |world: &World<M>| world.members().all(|(_, one)| one.up() == count);
    let mut took = None;
    for _ in 0..1_200 {
        world.run_for(Duration::from_millis(100));
        if whole(&world) {
            took = Some(world.now() - healed);
            break;
        }
    }
    println!("split {count}, 10 min: one again after {took:?}");
}

pub fn size<M: Member>(make: Make<M>, count: usize) {
    let before = heap::held();
    let world = make(1, count, 0);
    let held = heap::held() - before;
    println!(
        "size {count}: {:.0} octets of heap for each known member",
        held as f64 / count as f64 / count as f64
    );
    drop(world);
}

/// What everybody was told at the beginning is told to everybody.
const SETTLING: Duration = Duration::from_secs(60);

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
