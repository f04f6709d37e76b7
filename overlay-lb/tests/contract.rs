//! The contract of all machines.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use overlay_core::{Instant, Machine, Rng, Seed};
use overlay_lb::{
    Backend, BackendId, BackendState, Balancer, Config, Distance, FlowKey, Locality, Output,
    Policy, Protocol, TcpFlags, Vip, VipConfig,
};
use overlay_sim::contract::{self, Acted, Subject};

struct BalancerSubject;

const FLOWS_MAX: u32 = 40;
const RESETS_MAX: u32 = 25;
const AFFINITIES_MAX: u32 = 20;
const HELD_MAX: u16 = 5;

impl Subject for BalancerSubject {
    type Machine = Balancer;

    fn build(&mut self, seed: Seed, now: Instant) -> Balancer {
        let config = Config {
            flows_max: FLOWS_MAX,
            affinities_max: AFFINITIES_MAX,
            vips_max: 3,
            backends_max: 3,
            resets_max: RESETS_MAX,
            fragments_held_max: HELD_MAX,
            maglev_entries: 13,
            ..Config::default()
        };
        Balancer::new(config, &seed, now).expect("13 is a prime")
    }

    fn act(&mut self, balancer: &mut Balancer, now: Instant, rng: &mut Rng) -> Acted {
        let (vip, id) = (vip(rng), BackendId::from_bytes([octet(rng, 5); 16]));
        match rng.below(9) {
            0 => balancer.set_vip(now, vip, config(rng)).into(),
            1 if rng.chance(300_000) => {
                balancer.remove_vip(now, vip);
                Acted::Done
            }
            2 => balancer.remove_backend(now, vip, id).into(),
            3 => balancer.set_state(now, vip, id, state(rng)).into(),
            4 | 5 => {
                let state = state(rng);
                let weight = u16::from(octet(rng, 3));
                let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 1, octet(rng, 4)));
                let ip = if rng.chance(100_000) {
                    "fd00::1".parse().expect("an address")
                } else {
                    ip
                };
                let address = SocketAddr::new(ip, 8080);
                balancer
                    .set_backend(
                        now,
                        vip,
                        Backend {
                            weight,
                            state,
                            distance: [Distance::Node, Distance::Far][usize::from(octet(rng, 2))],
                            ..Backend::new(id, address)
                        },
                    )
                    .into()
            }
            6 => {
                let frame = &mut fragment(rng, vip);
                balancer.handle_outbound(now, frame, None);
                Acted::Done
            }
            _ => {
                let flow = FlowKey {
                    vip,
                    client: SocketAddr::new([10, 0, 2, octet(rng, 9)].into(), 99),
                };
                packet(balancer, now, flow, octet(rng, 32), rng.below(3));
                Acted::Done
            }
        }
    }

    fn take(&mut self, output: Output) -> String {
        format!("{output:?}")
    }

    fn fingerprint(&self, balancer: &Balancer) -> String {
        let mut stats = balancer.stats();
        stats.rejected = 0;
        let vips: Vec<_> = balancer.vips().collect();
        let backends = vips.iter().map(|(vip, config)| {
            let flows = |backend: Backend| (backend, balancer.flows(*vip, backend.id));
            (
                *vip,
                *config,
                balancer.backends(*vip).map(flows).collect::<Vec<_>>(),
            )
        });
        format!("{stats:?} {:?}", backends.collect::<Vec<_>>())
    }

    fn footprint(&self, balancer: &Balancer) -> usize {
        let stats = balancer.stats();
        stats.flows + stats.affinities + stats.fragments_held
    }

    fn footprint_max(&self) -> usize {
        (FLOWS_MAX + AFFINITIES_MAX + u32::from(HELD_MAX)) as usize
    }

    fn feed(
        &mut self,
        balancer: &mut Balancer,
        now: Instant,
        bytes: &[u8],
        rng: &mut Rng,
    ) -> Acted {
        balancer.handle_timeout(now);
        let packets = bytes.as_chunks::<6>().0;
        for [a, b, high, low, flags, which] in packets.iter().copied() {
            let client = SocketAddr::new([10, 0, a, b].into(), u16::from_be_bytes([high, low]));
            let flow = FlowKey {
                vip: vip(rng),
                client,
            };
            packet(balancer, now, flow, flags, (which % 3).into());
        }
        Acted::Done
    }

    fn is_random(&self) -> bool {
        false // The seed hides places in the flow table; nothing of it is to be seen.
    }
}

fn packet(balancer: &mut Balancer, now: Instant, flow: FlowKey, flags: u8, which: u64) {
    let flags = TcpFlags::from_bits(flags);
    match which {
        0 => {
            balancer.handle_reply(now, flow, flags);
        }
        1 => {
            balancer.choose(now, flow);
        }
        _ => {
            balancer.choose_tcp(now, flow, flags);
        }
    }
}

/// The first or the second fragment of a UDP datagram, of few packets.
fn fragment(rng: &mut Rng, vip: Vip) -> [u8; 50] {
    let mut frame = [0; 50];
    frame[12..14].copy_from_slice(&[8, 0]);
    let is_first = rng.chance(300_000);
    let flags = if is_first { [0x20, 0] } else { [0, 1] };
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 36, 0, octet(rng, 4), flags[0], flags[1], 64, 17]);
    frame[26..30].copy_from_slice(&[10, 0, 2, octet(rng, 2)]);
    if let IpAddr::V4(address) = vip.addr {
        frame[30..34].copy_from_slice(&address.octets());
    }
    frame[34..40].copy_from_slice(&[0, 99, 0, 80, 0, 24]);
    frame
}

fn vip(rng: &mut Rng) -> Vip {
    let proto = if rng.chance(500_000) {
        Protocol::Tcp
    } else {
        Protocol::Udp
    };
    Vip {
        addr: [10, 0, 1, 200 + octet(rng, 2)].into(),
        proto,
        port: 80,
    }
}

fn config(rng: &mut Rng) -> VipConfig {
    let policies = [
        Policy::Maglev,
        Policy::WeightedRoundRobin,
        Policy::LeastConnections,
    ];
    let localities = [Locality::Any, Locality::Zone, Locality::Node];
    VipConfig {
        policy: policies[rng.index(3).unwrap_or(0)],
        affinity: rng.chance(500_000).then_some(Duration::from_secs(60)),
        locality: localities[rng.index(3).unwrap_or(0)],
    }
}

fn state(rng: &mut Rng) -> BackendState {
    let states = [
        BackendState::Active,
        BackendState::Draining,
        BackendState::Down,
    ];
    states[rng.index(3).unwrap_or(0)]
}

fn octet(rng: &mut Rng, bound: u64) -> u8 {
    u8::try_from(rng.below(bound)).expect("bounds are small")
}

#[test]
fn the_balancer_keeps_the_contract() {
    contract::assert_holds("the_balancer_keeps_the_contract", 30, || BalancerSubject);
}
