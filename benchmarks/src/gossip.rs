//! Membership on a virtual network: how soon the dead are found, what it costs, and who is wronged meanwhile.

mod cases;
mod foca;
mod ours;
mod world;

use std::{env, time::Duration};

use overlay_core::Seed;
use overlay_gossip::Config;

use cases::Make;
use foca::Theirs;
use ours::Ours;
use world::{Member, Network, World};

/// Prints what each case gives, or one of them: `detect`, `load`, `pause`, `loss`, `split` or `size`.
pub fn run(seeds: u64) {
    let wanted = env::args().nth(3);
    println!("ours");
    of_one::<Ours>(our_cluster, seeds, wanted.as_deref());
    println!("\nfoca 2");
    of_one::<Theirs>(their_cluster, seeds, wanted.as_deref());
}

fn of_one<M: Member>(make: Make<M>, seeds: u64, wanted: Option<&str>) {
    let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted == name);
    if is_wanted("detect") {
        cases::detect(make, 1_000, seeds);
    }
    if is_wanted("load") {
        cases::load(make, 1_000, Duration::from_secs(300));
    }
    if is_wanted("pause") {
        let seconds = Duration::from_secs;
        cases::pause(make, 200, seconds(2), seconds(4));
        cases::pause(make, 40, seconds(8), seconds(16));
    }
    if is_wanted("loss") {
        cases::loss(make, 200);
    }
    if is_wanted("split") {
        cases::split(make, 1_000);
    }
    if is_wanted("size") {
        cases::size(make, 1_000);
    }
}

fn lan(loss_ppm: u32) -> Network {
    Network {
        latency: Duration::from_micros(200)..Duration::from_millis(1),
        loss_ppm,
    }
}

fn our_cluster(seed: u64, count: usize, loss_ppm: u32) -> World<Ours> {
    let seed = Seed::from_u64(seed);
    let everybody = ours::everybody(count);
    let tune = |config: &mut Config| {
        config.limits.members_max = config.limits.members_max.max(count);
    };
    let members = (0..count).map(|number| Ours::new(&seed, number, &everybody, tune));
    World::new(&seed, lan(loss_ppm), members)
}

fn their_cluster(seed: u64, count: usize, loss_ppm: u32) -> World<Theirs> {
    let seed = Seed::from_u64(seed);
    let members = (0..count).map(|number| Theirs::new(&seed, number, count));
    World::new(&seed, lan(loss_ppm), members)
}
