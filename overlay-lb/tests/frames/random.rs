//! Frames at random: every checksum stays right, and no octets do harm.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use overlay_core::{Instant, Seed};
use overlay_lb::{Backend, Balancer, Config, PartialChecksum, Protocol, Verdict, Vip, VipConfig};
use proptest::{collection::vec, prelude::*};

use crate::{
    NOW,
    lab::{ACK, FAMILIES, SYN, complete, id, left_to_device, packet, read},
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_request_and_its_reply_are_those_of_the_virtual_address(
        v6: bool,
        tcp: bool,
        addresses in any::<[[u8; 16]; 3]>(),
        ports in any::<[u16; 3]>(),
        payload in vec(any::<u8>(), 0..80),
        offload: bool,
    ) {
        let ip = |octets: [u8; 16]| if v6 {
            IpAddr::from(octets)
        } else {
            let [a, b, c, d, ..] = octets;
            IpAddr::from([a, b, c, d])
        };
        let [client, vip, backend] = [0, 1, 2].map(|nth| SocketAddr::new(ip(addresses[nth]), ports[nth]));
        prop_assume!(client.ip() != backend.ip() && client.ip() != vip.ip() && ports[1] != 0 && ports[2] != 0);
        let proto = if tcp { Protocol::Tcp } else { Protocol::Udp };
        let mut balancer = Balancer::new(Config::default(), &Seed::from_u64(5), NOW).unwrap();
        let key = Vip { addr: vip.ip(), proto, port: vip.port() };
        balancer.set_vip(NOW, key, VipConfig::default()).unwrap();
        balancer.set_backend(NOW, key, Backend::new(id(5), backend)).unwrap();

        let exchange = |frame: &mut [u8], handle: &mut dyn FnMut(&mut [u8], Option<PartialChecksum>)| {
            let partial = offload.then(|| left_to_device(frame, v6, proto));
            handle(frame, partial);
            if let Some(partial) = partial {
                complete(frame, partial);
            }
            read(frame)
        };
        let mut out = packet(proto, client, vip, SYN, &payload);
        let mut expected = read(&out);
        let seen = exchange(&mut out, &mut |frame, partial| {
            let verdict = balancer.handle_outbound(NOW, frame, partial);
            assert_eq!(verdict, Verdict::Backend { id: id(5), address: backend, addressed: false });
        });
        expected.destination = backend;
        prop_assert_eq!(seen, expected);
        let mut reply = packet(proto, backend, client, ACK, &payload);
        let mut expected = read(&reply);
        let seen = exchange(&mut reply, &mut |frame, partial| {
            assert_eq!(balancer.handle_inbound(NOW, frame, partial), Verdict::Client);
        });
        expected.source = vip;
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn no_octets_do_harm(
        frames in vec((any::<bool>(), vec(any::<u8>(), 0..100), vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), any::<bool>(), 0_usize..4), 1..40),
        starts in any::<(u16, u16)>(),
    ) {
        let lab = FAMILIES[0];
        let config = Config { flows_max: 8, fragments_max: 3, affinities_max: 2, ..Config::default() };
        let mut balancer = lab.balancer(config, &[5, 6]);
        for (inbound, raw, changes, partial, kind) in frames {
            let mut frame = match kind {
                0 => raw,
                1 => packet(Protocol::Tcp, lab.at(77, 1), lab.at(2, 80), SYN, &raw),
                2 => packet(Protocol::Udp, lab.at(77, 1), lab.at(2, 80), 0, &raw),
                _ => crate::lab::too_big(lab.ip(77), lab.ip(2), &packet(Protocol::Udp, lab.at(2, 80), lab.at(77, 1), 0, &raw)[14..]),
            };
            for (at, octet) in changes {
                if !frame.is_empty() {
                    let at = at.index(frame.len());
                    frame[at] = octet;
                }
            }
            balancer.prefetch([frame.as_slice()]);
            let length = frame.len();
            let partial = partial.then_some(PartialChecksum { start: starts.0, offset: starts.1 });
            let verdict = if inbound {
                balancer.handle_inbound(NOW, &mut frame, partial)
            } else {
                balancer.handle_outbound(NOW, &mut frame, partial)
            };
            if let Verdict::Answer(bytes) = verdict {
                prop_assert!(bytes.len() <= 9_100);
            }
            prop_assert_eq!(frame.len(), length);
            prop_assert!(balancer.stats().flows <= 8);
        }
    }
}

#[test]
fn many_clients_of_many_virtual_addresses_never_cross() {
    // Few ports, few backends: flows of one client to one backend would look the same, were their ports not changed.
    for lab in FAMILIES {
        let mut balancer = lab.balancer(Config::default(), &[]);
        let vips: Vec<Vip> = (100..110)
            .map(|last| Vip {
                addr: lab.ip(last),
                ..lab.vip(Protocol::Udp, 80)
            })
            .collect();
        for vip in &vips {
            balancer.set_vip(NOW, *vip, VipConfig::default()).unwrap();
            for host in [5, 6] {
                balancer.set_backend(NOW, *vip, lab.backend(host)).unwrap();
            }
        }
        // By what a backend sees: who the client is, and whom it takes its partner for.
        let mut flows: BTreeMap<(SocketAddr, SocketAddr), (SocketAddr, SocketAddr)> =
            BTreeMap::new();
        let mut rng = Seed::from_u64(3).rng();
        let mut hairpins = 0;
        for _ in 0..5_000 {
            let host = [5, 6, 77, 78][rng.index(4).unwrap()];
            let client = lab.at(host, 1_000 + u16::try_from(rng.below(3)).unwrap());
            let vip = vips[rng.index(vips.len()).unwrap()];
            let server = SocketAddr::new(vip.addr, vip.port);
            let mut out = packet(Protocol::Udp, client, server, 0, b"?");
            let verdict = balancer.handle_outbound(NOW, &mut out, None);
            let hairpin = verdict == Verdict::Hairpin;
            assert!(
                hairpin || matches!(verdict, Verdict::Backend { .. }),
                "{verdict:?}"
            );
            hairpins += u32::from(hairpin);
            let seen = read(&out);
            let known = flows.insert((seen.destination, seen.source), (client, server));
            assert!(known.is_none_or(|known| known == (client, server)));
            let mut reply = packet(Protocol::Udp, seen.destination, seen.source, 0, b"!");
            let verdict = if hairpin {
                balancer.handle_outbound(Instant::EPOCH, &mut reply, None)
            } else {
                balancer.handle_inbound(Instant::EPOCH, &mut reply, None)
            };
            assert_eq!(
                verdict,
                if hairpin {
                    Verdict::Hairpin
                } else {
                    Verdict::Client
                }
            );
            let reply = read(&reply);
            assert_eq!((reply.source, reply.destination), (server, client));
        }
        assert!(hairpins > 500, "{hairpins}");
    }
}

#[test]
fn a_client_that_uses_all_ports_in_a_row_finds_others() {
    let lab = FAMILIES[0];
    let config = Config {
        flows_max: 100_000,
        ..Config::default()
    };
    let mut balancer = lab.balancer(config, &[5]);
    let other = Vip {
        addr: lab.ip(3),
        ..lab.vip(Protocol::Udp, 80)
    };
    balancer.set_vip(NOW, other, VipConfig::default()).unwrap();
    balancer.set_backend(NOW, other, lab.backend(5)).unwrap();
    for vip in [lab.at(2, 80), lab.at(3, 80)] {
        for port in 1_024..25_000 {
            let mut out = packet(Protocol::Udp, lab.at(77, port), vip, 0, b"?");
            let verdict = balancer.handle_outbound(NOW, &mut out, None);
            assert!(
                matches!(verdict, Verdict::Backend { .. }),
                "{port}: {verdict:?}"
            );
        }
    }
}
