//! The cluster state: commands applied in each second of CPU time, and what its hash and its snapshot cost.

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use overlay_node::state::ClusterState;

use crate::{
    clock::cpu,
    mix::{ENDPOINTS, Kind, Mix, NETWORKS, NODES, SERVICES, SHARES, TASKS},
};

/// Commands of a round are made before it is measured; so few that they are still in the cache, as commands that were
/// just received are.
const ROUND: usize = 1_000;
/// How many rounds there are if nothing is said.
pub const ROUNDS: usize = 1_000;

pub fn run(rounds: usize) {
    let mut mix = Mix::new();
    let mut state = ClusterState::new();
    for (index, proposal) in mix.setup() {
        state
            .apply(index, proposal)
            .expect("the setup is carried out");
    }
    println!(
        "{NODES} nodes, {NETWORKS} networks, {SERVICES} services, {TASKS} tasks with an endpoint each, {ENDPOINTS} other \
         endpoints; {} commands made it.\n",
        state.applied()
    );
    commands(&mut mix, &mut state, rounds);
    by_kind(&mut mix, &mut state, rounds);
    whole(&mut state);
}

/// The figure: what is applied, with the hash read after each command.
fn commands(mix: &mut Mix, state: &mut ClusterState, rounds: usize) {
    let (mut times, mut refused) = (Vec::new(), 0);
    for _ in 0..rounds {
        let round: Vec<_> = (0..ROUND).map(|_| mix.next()).collect();
        let (failed, took) = cpu(|| {
            let mut failed = 0;
            for (_, index, proposal) in round {
                failed += u64::from(state.apply(index, proposal).is_err());
                black_box(state.hash());
            }
            failed
        });
        times.push(took);
        refused += failed;
    }
    assert_eq!(refused, 0, "every command does what it says");
    state.check().expect("the state does not contradict itself");
    let all: Duration = times.iter().sum();
    times.sort();
    let rate = |commands: usize, took: Duration| commands as f64 / took.as_secs_f64();
    println!(
        "| commands | CPU time | commands each CPU-second | median round | best tenth of the rounds |"
    );
    println!("|---|---|---|---|---|");
    println!(
        "| {} | {:.3} s | {:.0} | {:.0} | {:.0} |\n",
        ROUND * rounds,
        all.as_secs_f64(),
        rate(ROUND * rounds, all),
        rate(ROUND, times[rounds / 2]),
        rate(ROUND, times[rounds / 10]),
    );
}

/// What each kind costs, the hash included. Reading the clock costs more than many a command: that is taken off.
fn by_kind(mix: &mut Mix, state: &mut ClusterState, rounds: usize) {
    let readings: Duration = (0..100_000).map(|_| cpu(|| ()).1).sum();
    let reading = readings / 100_000;
    let mut sums: BTreeMap<Kind, (u32, Duration)> = BTreeMap::new();
    for _ in 0..ROUND * rounds / 5 {
        let (kind, index, proposal) = mix.next();
        let (_, took) = cpu(|| {
            let outcome = state.apply(index, proposal);
            black_box(state.hash());
            outcome
        });
        let (count, sum) = sums.entry(kind).or_default();
        (*count, *sum) = (*count + 1, *sum + took.saturating_sub(reading));
    }
    println!("| share | command | ns each |");
    println!("|---|---|---|");
    for (kind, share, words) in SHARES {
        let (count, sum) = sums.get(&kind).copied().unwrap_or_default();
        let each = sum.as_nanos() / u128::from(count.max(1));
        println!("| {:.1} % | {words} | {each} |", share as f64 / 10.0);
    }
    println!();
}

/// What the whole state costs.
fn whole(state: &mut ClusterState) {
    const HASHES: u32 = 100_000;
    let (_, hashes) = cpu(|| {
        for _ in 0..HASHES {
            black_box(black_box(&*state).hash());
        }
    });
    let (snapshot, writing) = cpu(|| state.snapshot());
    let (restored, reading) = cpu(|| ClusterState::restore(&snapshot));
    let same = restored.is_ok_and(|restored| restored.hash() == state.hash());
    assert!(same, "what is restored is the same");
    println!("| hash | snapshot | its size | restore, with all hashes and indices |");
    println!("|---|---|---|---|");
    println!(
        "| {:?} | {:.2} ms | {} KiB | {:.2} ms |",
        hashes / HASHES,
        writing.as_secs_f64() * 1e3,
        snapshot.len() / 1024,
        reading.as_secs_f64() * 1e3
    );
}
