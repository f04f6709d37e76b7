//! A frame allocates nothing, whatever becomes of it, once the tables have their size.

use std::{
    alloc::System,
    net::{Ipv4Addr, SocketAddr},
};

use etherparse::PacketBuilder;
use overlay_core::{Instant, Machine, Seed};
use overlay_lb::{Backend, BackendId, Balancer, Config, Policy, Protocol, Verdict, Vip, VipConfig};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);

fn tcp(from: (u8, u16), to: (Ipv4Addr, u16), flags: u8) -> Vec<u8> {
    let source = [10, 0, 1, from.0];
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source, to.0.octets(), 64);
    let mut builder = builder.tcp(from.1, to.1, 7, 100);
    if flags & 2 != 0 {
        builder = builder.syn();
    }
    if flags & 16 != 0 {
        builder = builder.ack(9);
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, b"some octets").expect("it fits");
    frame
}

#[test]
fn a_frame_allocates_nothing() {
    let now = Instant::EPOCH;
    let config = Config {
        flows_max: 1_000,
        ..Config::default()
    };
    let mut balancer = Balancer::new(config, &Seed::from_u64(1), now).unwrap();
    for (port, policy) in [
        (80, Policy::Maglev),
        (81, Policy::WeightedRoundRobin),
        (82, Policy::LeastConnections),
        (83, Policy::Maglev),
    ] {
        let vip = Vip {
            addr: VIP.into(),
            proto: Protocol::Tcp,
            port,
        };
        let config = VipConfig {
            policy,
            ..VipConfig::default()
        };
        balancer.set_vip(now, vip, config).unwrap();
        for last in [5, 6].into_iter().filter(|_| port != 83) {
            let address = SocketAddr::from(([10, 0, 1, last], 8_080));
            let backend = Backend::new(BackendId::from_bytes([last; 16]), address);
            balancer.set_backend(now, vip, backend).unwrap();
        }
    }
    // Fills the tables; what is beyond is evicted.
    for port in 0..3_000 {
        for vip in 80..83 {
            balancer.handle_outbound(now, &mut tcp((77, port), (VIP, vip), 2), None);
        }
    }
    while balancer.poll_output().is_some() {}
    let mut frames = Vec::new();
    for port in 10_000..10_200 {
        for vip in 80..84 {
            frames.push(tcp((77, port), (VIP, vip), 2));
            frames.push(tcp((5, port), (VIP, vip), 2));
        }
        frames.push(tcp((77, port), ([10, 0, 1, 9].into(), 80), 2));
    }
    let mut replies: Vec<_> = (10_000..10_200)
        .map(|port| tcp((5, 8_080), ([10, 0, 1, 77].into(), port), 16))
        .collect();

    let region = Region::new(ALLOCATOR);
    let mut kinds = [0; 5];
    for frame in &mut frames {
        let kind = match balancer.handle_outbound(now, frame, None) {
            Verdict::Backend { .. } => 0,
            Verdict::Answer(_) => 1,
            Verdict::Hairpin => 2,
            Verdict::Pass => 3,
            verdict @ (Verdict::Client | Verdict::Held | Verdict::Drop(_)) => {
                unreachable!("{verdict:?}")
            }
        };
        kinds[kind] += 1;
    }
    for reply in &mut replies {
        kinds[4] += u32::from(balancer.handle_inbound(now, reply, None) == Verdict::Client);
    }
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0));
    assert!(kinds.iter().all(|count| *count > 50), "{kinds:?}");
}
