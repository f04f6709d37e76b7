//! What a balancer takes: a packet of a known flow, a new flow, a new table. Beside it: a map of the standard library, and
//! another crate's table.

use std::{
    collections::HashMap,
    hint::black_box,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use overlay_core::{Instant, Rng, Seed};
use overlay_lb::{
    Backend, BackendId, BackendState, Balancer, Config, FlowKey, Maglev, Protocol, Verdict, Vip,
    VipConfig,
};

use crate::{clock::cpu, heap};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const BACKENDS: u8 = 100;
const ENTRIES: u32 = 65_537;
const FRAME_BYTES: usize = 60;
/// Frames that are made before the clock runs.
const BATCH: usize = 1_024;

type Frame = [u8; FRAME_BYTES];

pub fn run(rounds: usize) {
    println!(
        "CPU time, the best and the median of {rounds} rounds; frames of {FRAME_BYTES} octets, IPv4 and TCP, 100 backends, Maglev"
    );
    packets("64 flows", 64, rounds);
    packets("1,000,000 flows", 1_000_000, rounds);
    memory(rounds);
    replies(rounds);
    map("64 flows", 64, rounds);
    map("1,000,000 flows", 1_000_000, rounds);
    opened(rounds);
    tables(rounds);
    fairness();
}

/// Packets of known flows, drawn at random: the verdict, and the frame rewritten.
fn packets(name: &str, flows: u32, rounds: usize) {
    let (held, now) = (heap::held(), Instant::EPOCH);
    let mut balancer = balancer(flows);
    open(&mut balancer, flows, now);
    let held = heap::held() - held;
    let seen = in_batches(
        rounds,
        &order(flows),
        |flow| segment(flow, ACK),
        |batch| {
            for frame in batch {
                black_box(balancer.handle_outbound(now, frame, None));
            }
        },
    );
    row(&format!("choose, track and rewrite, {name}"), seen, "");
    let seen = in_batches(
        rounds,
        &order(flows),
        |flow| segment(flow, ACK),
        |batch| {
            for frames in batch.chunks_mut(64) {
                balancer.prefetch(frames.iter().map(|frame| frame.as_slice()));
                for frame in frames {
                    black_box(balancer.handle_outbound(now, frame, None));
                }
            }
        },
    );
    row("  prefetched, in batches of 64", seen, "");
    println!(
        "{:<56} {:>12.1} octets",
        "  heap for each",
        held as f64 / f64::from(flows)
    );
}

fn replies(rounds: usize) {
    let (flows, now) = (64, Instant::EPOCH);
    let mut balancer = balancer(flows);
    open(&mut balancer, flows, now);
    let frames: Vec<Frame> = (0..flows)
        .map(|flow| {
            let mut frame = segment(flow, ACK);
            balancer.handle_outbound(now, &mut frame, None);
            turned(&frame)
        })
        .collect();
    let seen = in_batches(
        rounds,
        &order(flows),
        |flow| frames[flow as usize],
        |batch| {
            for frame in batch {
                black_box(balancer.handle_inbound(now, frame, None));
            }
        },
    );
    row("a reply rewritten back, 64 flows", seen, "");
}

/// Makes batches of frames, and measures what `work` does with them: they are in the cache, as after a driver's read.
fn in_batches(
    rounds: usize,
    order: &[u32],
    frame: impl Fn(u32) -> Frame,
    mut work: impl FnMut(&mut [Frame]),
) -> (f64, f64) {
    let mut frames = Vec::with_capacity(BATCH);
    let mut times: Vec<f64> = Vec::new();
    for _ in 0..rounds {
        let mut time = Duration::ZERO;
        for batch in order.chunks(BATCH) {
            frames.clear();
            frames.extend(batch.iter().map(|flow| frame(*flow)));
            time += cpu(|| work(black_box(&mut frames))).1;
        }
        times.push(time.as_nanos() as f64 / order.len() as f64);
    }
    times.sort_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}

/// What no table of this size can do without: one read whose place is not known before, of the 128 MiB that the slots fill.
fn memory(rounds: usize) {
    let slots: Vec<[u64; 8]> = vec![[1; 8]; 1 << 21];
    let order = order(1 << 21);
    let seen = nanos(rounds, order.len(), || {
        let mut last = 0;
        for at in &order {
            let at = *at as usize ^ usize::try_from(last).unwrap_or_default();
            last = slots[at & ((1 << 21) - 1)][4] & 1;
        }
        black_box(last);
    });
    row("one read of memory, 128 MiB, at random", seen, "");
}

/// The look-up alone in the standard library's map.
fn map(name: &str, flows: u32, rounds: usize) {
    let key = |flow: u32| FlowKey {
        vip: vip(),
        client: client(flow),
    };
    let map: HashMap<FlowKey, u32> = (0..flows).map(|flow| (key(flow), flow)).collect();
    let order = order(flows);
    let seen = nanos(rounds, order.len(), || {
        for flow in &order {
            black_box(map.get(&black_box(key(*flow))));
        }
    });
    row(
        &format!("peer: look-up alone, std HashMap, {name}"),
        seen,
        "",
    );
}

/// First segments of new flows into a table that has its size.
fn opened(rounds: usize) {
    let flows = 100_000;
    let mut balancer = balancer(flows);
    open(&mut balancer, 2 * flows, Instant::EPOCH);
    let mut next = 2 * flows;
    let seen = nanos(rounds, 100_000, || {
        for flow in next..next + 100_000 {
            let mut frame = segment(flow, SYN);
            black_box(balancer.handle_outbound(Instant::EPOCH, &mut frame, None));
        }
        next += 100_000;
    });
    row("a new flow, another evicted for it", seen, "");
}

fn tables(rounds: usize) {
    let backends: Vec<(BackendId, u16)> = (0..BACKENDS).map(|nth| (id(nth), 1)).collect();
    let seen = nanos(rounds, 1, || {
        black_box(Maglev::new(ENTRIES, 0, black_box(&backends)).expect("a prime"));
    });
    row("a table of 65,537 entries for 100 backends", seen, "");
    let names: Vec<u128> = (0..u128::from(BACKENDS)).collect();
    let seen = nanos(rounds, 1, || {
        let names = black_box(&names).clone();
        black_box(maglev::Maglev::with_capacity(names, ENTRIES as usize));
    });
    row("peer: the crate maglev 0.2.1", seen, "");
}

/// Shares and moves, of the flows themselves.
fn fairness() {
    let (flows, now) = (1_000_000, Instant::EPOCH);
    let mut full = balancer(flows);
    let choice = |balancer: &mut Balancer| {
        open(balancer, flows, now);
        (0..flows)
            .map(|flow| backend_of(balancer, flow))
            .collect::<Vec<u8>>()
    };
    let before = choice(&mut full);
    let table = Maglev::new(
        ENTRIES,
        0,
        &(0..BACKENDS).map(|nth| (id(nth), 1)).collect::<Vec<_>>(),
    )
    .expect("a prime");
    let mut entries = [0_u32; BACKENDS as usize];
    table
        .entries()
        .iter()
        .for_each(|place| entries[usize::from(*place)] += 1);
    let most = entries.iter().max().copied().unwrap_or_default();
    let over = f64::from(most) * f64::from(BACKENDS) / f64::from(ENTRIES) - 1.0;
    println!(
        "{:<56} {:>9.2} %",
        "entries of the backend with the most, over its share",
        over * 100.0
    );
    let mut less = balancer(flows);
    less.set_state(now, vip(), id(7), BackendState::Down)
        .expect("it is known");
    let after = choice(&mut less);
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(old, new)| **old != 7 && old != new)
        .count();
    println!(
        "{:<56} {:>9.2} %",
        "flows that another backend's end moves",
        moved as f64 * 100.0 / f64::from(flows)
    );
}

fn backend_of(balancer: &mut Balancer, flow: u32) -> u8 {
    let mut frame = segment(flow, ACK);
    match balancer.handle_outbound(Instant::EPOCH, &mut frame, None) {
        Verdict::Backend { id, .. } => id.as_bytes()[0],
        other => unreachable!("{other:?}"),
    }
}

fn balancer(flows: u32) -> Balancer {
    let config = Config {
        flows_max: flows,
        ..Config::default()
    };
    let mut balancer = Balancer::new(config, &Seed::from_u64(1), Instant::EPOCH).expect("valid");
    balancer
        .set_vip(Instant::EPOCH, vip(), VipConfig::default())
        .expect("room");
    for nth in 0..BACKENDS {
        let backend = Backend::new(id(nth), ([10, 0, 1, nth], 8_080).into());
        balancer
            .set_backend(Instant::EPOCH, vip(), backend)
            .expect("room");
    }
    balancer
}

/// Goes through the handshake of each flow.
fn open(balancer: &mut Balancer, flows: u32, now: Instant) {
    for flow in 0..flows {
        let mut first = segment(flow, SYN);
        balancer.handle_outbound(now, &mut first, None);
        balancer.handle_inbound(now, &mut turned(&first), None);
        balancer.handle_outbound(now, &mut segment(flow, ACK), None);
    }
}

fn order(flows: u32) -> Vec<u32> {
    let mut rng: Rng = Seed::from_u64(2).rng();
    let draw = |_| u32::try_from(rng.below(flows.into())).unwrap_or_default();
    (0..1_000_000).map(draw).collect()
}

fn vip() -> Vip {
    Vip {
        addr: VIP.into(),
        proto: Protocol::Tcp,
        port: 80,
    }
}

fn id(nth: u8) -> BackendId {
    let mut bytes: [u8; 16] = Seed::from_u64(nth.into()).rng().bytes();
    bytes[0] = nth;
    BackendId::from_bytes(bytes)
}

/// 30,000 ports of each client.
fn client(flow: u32) -> SocketAddr {
    let [_, a, b, c] = (flow / 30_000 + 0x01_0000).to_be_bytes();
    let port = u16::try_from(flow % 30_000).unwrap_or_default() + 32_768;
    ([10, a, b, c], port).into()
}

fn segment(flow: u32, flags: u8) -> Frame {
    let mut frame: Frame = [0; FRAME_BYTES];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 6]);
    frame[30..34].copy_from_slice(&VIP.octets());
    frame[36..38].copy_from_slice(&80_u16.to_be_bytes());
    frame[46..48].copy_from_slice(&[5 << 4, flags]);
    set_client(&mut frame, flow);
    frame
}

fn set_client(frame: &mut Frame, flow: u32) {
    let SocketAddr::V4(client) = client(flow) else {
        return;
    };
    frame[26..30].copy_from_slice(&client.ip().octets());
    frame[34..36].copy_from_slice(&client.port().to_be_bytes());
}

/// The reply to a segment.
fn turned(frame: &Frame) -> Frame {
    let mut turned = *frame;
    turned[26..30].copy_from_slice(&frame[30..34]);
    turned[30..34].copy_from_slice(&frame[26..30]);
    turned[34..36].copy_from_slice(&frame[36..38]);
    turned[36..38].copy_from_slice(&frame[34..36]);
    turned
}

/// Returns the best and the median of the rounds, for each of `count` things.
pub fn nanos(rounds: usize, count: usize, mut work: impl FnMut()) -> (f64, f64) {
    let each = |time: Duration| time.as_nanos() as f64 / count as f64;
    let mut times: Vec<f64> = (0..rounds).map(|_| each(cpu(&mut work).1)).collect();
    times.sort_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}

pub fn row(name: &str, (best, median): (f64, f64), note: &str) {
    println!("{name:<56} {best:>12.1} ns {median:>12.1} ns  {note}");
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
