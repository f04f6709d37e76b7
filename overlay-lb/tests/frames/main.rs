//! Frames through the balancer, written and read by an independent codec.

mod errors;
mod fragments;
mod lab;
mod random;
mod retries;

use std::time::Duration;

use lab::{
    ACK, CLIENT_MAC, FAMILIES, FIN, Lab, RST, SYN, Upper, VIP_MAC, answer, complete, echo, id,
    left_to_device, mac, packet, reaches, read, tcp, udp,
};
use overlay_core::{Instant, Machine};
use overlay_lb::{
    Backend, BackendState, Config, DropReason, Event, Output, Protocol, Verdict, VipConfig,
};

const NOW: Instant = Instant::EPOCH;
/// A sequence number more than half the circle from zero.
const FAR: u32 = 3_000_000_000;

#[test]
fn a_flow_goes_to_a_backend_and_its_replies_come_from_the_virtual_address() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(Config::default(), &[5, 6, 7]);
        let (client, vip) = (lab.at(77, 40_000), lab.at(2, 80));
        let mut first = packet(proto, client, vip, SYN, b"hello");
        let before = read(&first);
        let host = reaches(&mut balancer, NOW, &mut first);
        let mut expected = before.clone();
        expected.destination = lab.at(host, 8_080);
        expected.macs.0 = mac(host).octets();
        assert_eq!(read(&first), expected);

        let mut reply = packet(proto, lab.at(host, 8_080), client, SYN | ACK, b"odd");
        let mut expected = read(&reply);
        expected.source = vip;
        assert_eq!(
            balancer.handle_inbound(NOW, &mut reply, None),
            Verdict::Client
        );
        assert_eq!(read(&reply), expected);

        let mut next = packet(proto, client, vip, ACK, b"");
        assert_eq!(reaches(&mut balancer, NOW, &mut next), host);
    }
}

#[test]
fn a_checksum_that_is_left_to_the_device_stays_so() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let (client, vip, backend) = (lab.at(77, 40_000), lab.at(2, 80), lab.at(5, 8_080));
        let mut out = packet(proto, client, vip, SYN, &[9; 5_000]);
        let partial = left_to_device(&mut out, lab.v6, proto);
        let verdict = balancer.handle_outbound(NOW, &mut out, Some(partial));
        assert!(matches!(verdict, Verdict::Backend { .. }), "{verdict:?}");
        complete(&mut out, partial);
        assert_eq!(read(&out).destination, backend);

        let mut reply = packet(proto, backend, client, ACK, &[9; 5_001]);
        let partial = left_to_device(&mut reply, lab.v6, proto);
        let verdict = balancer.handle_inbound(NOW, &mut reply, Some(partial));
        assert_eq!(verdict, Verdict::Client);
        complete(&mut reply, partial);
        assert_eq!(read(&reply).source, vip);
    }
}

#[test]
fn a_checksum_further_in_that_is_left_to_the_device_is_not_this_one() {
    // A tunnel over UDP: its own checksum is whole, that of the segment within is not.
    let lab = FAMILIES[0];
    let mut balancer = lab.balancer(Config::default(), &[5]);
    let mut out = udp(lab.at(77, 40_000), lab.at(2, 80), &[1; 60]);
    let within = overlay_lb::PartialChecksum {
        start: 34 + 8 + 20,
        offset: 16,
    };
    let verdict = balancer.handle_outbound(NOW, &mut out, Some(within));
    assert!(matches!(verdict, Verdict::Backend { .. }), "{verdict:?}");
    assert_eq!(read(&out).destination, lab.at(5, 8_080));
}

#[test]
fn a_datagram_without_a_checksum_gets_none() {
    let lab = FAMILIES[0];
    let mut balancer = lab.balancer(Config::default(), &[5]);
    let mut out = udp(lab.at(77, 40_000), lab.at(2, 80), b"x");
    out[40..42].fill(0);
    reaches(&mut balancer, NOW, &mut out);
    assert_eq!(out[40..42], [0, 0]);
}

#[test]
fn what_is_not_for_a_virtual_address_passes_untouched() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let mut short = udp(lab.at(77, 1), lab.at(9, 80), b"x");
        short.truncate(20);
        let frames = [
            packet(Protocol::Tcp, lab.at(77, 1), lab.at(5, 8_080), SYN, b""),
            packet(Protocol::Udp, lab.at(77, 1), lab.at(9, 80), 0, b"x"),
            echo(lab.ip(77), lab.ip(5), b"x"),
            [[0xff; 12].to_vec(), vec![0x08, 0x06], vec![0; 28]].concat(),
            short,
            vec![],
            vec![1; 13],
        ];
        for frame in frames {
            let mut bytes = frame.clone();
            assert_eq!(
                balancer.handle_outbound(NOW, &mut bytes, None),
                Verdict::Pass
            );
            assert_eq!(
                balancer.handle_inbound(NOW, &mut bytes, None),
                Verdict::Pass
            );
            assert_eq!(bytes, frame);
        }
        assert_eq!(balancer.stats().flows, 0);
    }
}

#[test]
fn nobody_to_serve_is_a_reset_and_not_a_hang() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(Config::default(), &[]);
        // RFC 9293 §3.10.7.1: without an acknowledgement the reset acknowledges; else it continues it.
        let cases = [
            (SYN, b"".as_slice(), RST | ACK, (0, 1_001)),
            (SYN, b"early", RST | ACK, (0, 1_006)),
            (SYN | FIN, b"", RST | ACK, (0, 1_002)),
            (ACK, b"data", RST, (2_000, 0)),
        ];
        for (flags, payload, answered, (sequence, acknowledgement)) in cases {
            for port in [80, 81] {
                let (client, vip) = (lab.at(77, 40_000), lab.at(2, port));
                let mut out = tcp(client, vip, flags, (1_000, 2_000), payload);
                let answer = answer(&mut balancer, &mut out);
                let upper = Upper::Tcp {
                    flags: answered,
                    sequence,
                    acknowledgement,
                };
                assert_eq!((answer.source, answer.destination), (vip, client));
                assert_eq!((answer.upper, answer.macs), (upper, back()));
            }
        }
        let mut reset = tcp(lab.at(77, 40_000), lab.at(2, 80), RST, (1, 0), b"");
        let verdict = balancer.handle_outbound(NOW, &mut reset, None);
        assert_eq!(verdict, Verdict::Drop(DropReason::Reset));
    }
}

#[test]
fn while_backends_may_be_missing_nothing_is_refused_and_no_connection_goes_astray() {
    for lab in FAMILIES {
        let unsettled = Verdict::Drop(DropReason::Unsettled);
        let (client, vip) = (lab.at(77, 40_000), lab.at(2, 80));
        let segment = |flags| tcp(client, vip, flags, (1_000, 2_000), b"");
        let mut balancer = lab.balancer(Config::default(), &[]);
        balancer.settle_until(NOW, NOW + Duration::from_secs(3));
        for mut frame in [segment(SYN), segment(ACK), udp(client, vip, b"x")] {
            assert_eq!(balancer.handle_outbound(NOW, &mut frame, None), unsettled);
        }
        for proto in [Protocol::Tcp, Protocol::Udp] {
            let backend = lab.backend(3);
            balancer
                .set_backend(NOW, lab.vip(proto, 80), backend)
                .unwrap();
        }
        // One backend is there: connections may begin, but who knows where this one was?
        assert_eq!(
            balancer.handle_outbound(NOW, &mut segment(ACK), None),
            unsettled
        );
        let mut other = tcp(lab.at(78, 1), vip, SYN, (1, 0), b"");
        assert_eq!(reaches(&mut balancer, NOW, &mut other), 3);
        assert_eq!(
            reaches(
                &mut balancer,
                NOW,
                &mut tcp(lab.at(78, 1), vip, ACK, (2, 1), b"")
            ),
            3
        );
        let settled = NOW + Duration::from_secs(3);
        assert_eq!(reaches(&mut balancer, settled, &mut segment(ACK)), 3);
    }
}

#[test]
fn a_datagram_to_nobody_is_told_so() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(Config::default(), &[]);
        for (port, size) in [(80, 3), (81, 1_400)] {
            let (client, vip) = (lab.at(77, 40_000), lab.at(2, port));
            let frame = udp(client, vip, &vec![3; size]);
            let answer = answer(&mut balancer, &mut frame.clone());
            let (kind, code, room) = if lab.v6 {
                (1, 4, 1_280 - 48)
            } else {
                (3, 3, 576 - 28)
            };
            assert_eq!(answer.upper, Upper::Icmp { kind, code });
            assert_eq!(
                (answer.source.ip(), answer.destination.ip()),
                (vip.ip(), client.ip())
            );
            let quote = &frame[14..];
            assert_eq!(answer.payload, quote[..quote.len().min(room)]);
        }
    }
}

#[test]
fn a_virtual_address_answers_echo_requests() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(Config::default(), &[]);
        for size in [0, 56, 8_992] {
            let mut out = echo(lab.ip(77), lab.ip(2), &vec![8; size]);
            let answer = answer(&mut balancer, &mut out);
            let kind = if lab.v6 { 129 } else { 0 };
            assert_eq!(answer.upper, Upper::Icmp { kind, code: 0 });
            assert_eq!((answer.payload, answer.macs), (vec![8; size], back()));
            assert_eq!(
                (answer.source.ip(), answer.destination.ip()),
                (lab.ip(2), lab.ip(77))
            );
        }
        let mut out = echo(lab.ip(77), lab.ip(2), &[8; 8_993]);
        let verdict = balancer.handle_outbound(NOW, &mut out, None);
        assert_eq!(verdict, Verdict::Drop(DropReason::TooLong));
    }
}

#[test]
fn neighbour_discovery_and_other_protocols_are_told_apart() {
    let lab = FAMILIES[1];
    let mut balancer = lab.balancer(Config::default(), &[5]);
    let mut solicitation = Vec::new();
    let builder = lab::ip(lab.ip(77), lab.ip(2)).icmpv6_raw(135, 0, [0; 4]);
    builder.write(&mut solicitation, &[0; 16]).unwrap();
    assert_eq!(
        balancer.handle_outbound(NOW, &mut solicitation, None),
        Verdict::Pass
    );
    // SCTP, and the other family's ICMP: its checksum has another meaning.
    for lab in FAMILIES {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        for proto in [132, if lab.v6 { 1 } else { 58 }] {
            let mut other = echo(lab.ip(77), lab.ip(2), b"x");
            other[if lab.v6 { 20 } else { 23 }] = proto;
            let verdict = balancer.handle_outbound(NOW, &mut other, None);
            assert_eq!(verdict, Verdict::Drop(DropReason::Protocol));
        }
    }
}

#[test]
fn headers_that_are_cut_short_end_here() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let whole = packet(proto, lab.at(77, 40_000), lab.at(2, 80), SYN, b"");
        let headers = if lab.v6 { 54 } else { 34 };
        for length in headers..whole.len() {
            let mut bytes = whole[..length].to_vec();
            let verdict = balancer.handle_outbound(NOW, &mut bytes, None);
            assert_eq!(verdict, Verdict::Drop(DropReason::Malformed), "{length}");
            // The same, with an IP header that agrees.
            let upper = u16::try_from(length - headers).unwrap().to_be_bytes();
            let total = u16::try_from(length - 14).unwrap().to_be_bytes();
            let (at, field) = if lab.v6 { (18, upper) } else { (16, total) };
            bytes[at..at + 2].copy_from_slice(&field);
            let verdict = balancer.handle_outbound(NOW, &mut bytes, None);
            assert_eq!(verdict, Verdict::Drop(DropReason::Malformed), "{length}");
        }
        assert_eq!(balancer.stats().flows, 0);
        // Padding is no part of the packet.
        let mut padded = [whole, vec![0xee; 30]].concat();
        let verdict = balancer.handle_outbound(NOW, &mut padded, None);
        assert!(matches!(verdict, Verdict::Backend { .. }));
        assert_eq!(read(&padded).destination, lab.at(5, 8_080));
    }
}

#[test]
fn a_tag_is_stepped_over() {
    let lab = FAMILIES[0];
    let mut balancer = lab.balancer(Config::default(), &[]);
    let frame = tcp(lab.at(77, 40_000), lab.at(2, 80), SYN, (7, 0), b"");
    let tag = [0x81, 0x00, 0x20, 0x05];
    let mut tagged = [&frame[..12], &tag, &frame[12..]].concat();
    let Verdict::Answer(answer) = balancer.handle_outbound(NOW, &mut tagged, None) else {
        panic!("a reset")
    };
    assert_eq!(answer[12..16], tag);
    let mut twice = [&frame[..12], &tag, &tag, &frame[12..]].concat();
    assert_eq!(
        balancer.handle_outbound(NOW, &mut twice, None),
        Verdict::Pass
    );
}

#[test]
fn a_client_that_is_its_own_backend_talks_to_itself() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let (client, vip) = (lab.at(5, 40_000), lab.at(2, 80));
        let mut out = packet(proto, client, vip, SYN, b"me");
        assert_eq!(
            balancer.handle_outbound(NOW, &mut out, None),
            Verdict::Hairpin
        );
        // With its own address as source its kernel would drop it.
        let seen = read(&out);
        assert_eq!(
            (seen.source, seen.destination),
            (lab.at(2, 40_000), lab.at(5, 8_080))
        );
        assert_eq!(seen.macs, back());
        let mut reply = packet(proto, seen.destination, seen.source, SYN | ACK, b"too");
        assert_eq!(
            balancer.handle_outbound(NOW, &mut reply, None),
            Verdict::Hairpin
        );
        let seen = read(&reply);
        assert_eq!(
            (seen.source, seen.destination, seen.macs),
            (vip, client, back())
        );
    }
}

#[test]
fn flows_of_two_virtual_addresses_to_one_backend_stay_apart() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let other = overlay_lb::Vip {
            addr: lab.ip(3),
            ..lab.vip(proto, 80)
        };
        balancer.set_vip(NOW, other, VipConfig::default()).unwrap();
        balancer.set_backend(NOW, other, lab.backend(5)).unwrap();
        let (client, vips) = (lab.at(77, 40_000), [lab.at(2, 80), lab.at(3, 80)]);
        let seen = vips.map(|vip| {
            let mut out = packet(proto, client, vip, SYN, b"");
            reaches(&mut balancer, NOW, &mut out);
            read(&out).source
        });
        assert_eq!(seen[0], client);
        assert_eq!(seen[1].ip(), client.ip());
        assert_ne!(seen[0], seen[1]);
        for (seen, vip) in seen.into_iter().zip(vips) {
            let mut reply = packet(proto, lab.at(5, 8_080), seen, ACK, b"");
            assert_eq!(
                balancer.handle_inbound(NOW, &mut reply, None),
                Verdict::Client
            );
            assert_eq!(
                (read(&reply).source, read(&reply).destination),
                (vip, client)
            );
        }
    }
}

#[test]
fn one_virtual_address_serves_all_ports_that_have_none_of_their_own() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let any = lab.vip(proto, 0);
        balancer.set_vip(NOW, any, VipConfig::default()).unwrap();
        let backend = Backend {
            address: lab.at(6, 0),
            ..lab.backend(6)
        };
        balancer.set_backend(NOW, any, backend).unwrap();
        for (port, backend) in [
            (80, lab.at(5, 8_080)),
            (81, lab.at(6, 81)),
            (9_999, lab.at(6, 9_999)),
        ] {
            let mut out = packet(proto, lab.at(77, 40_000), lab.at(2, port), SYN, b"");
            reaches(&mut balancer, NOW, &mut out);
            assert_eq!(read(&out).destination, backend);
            let mut reply = packet(proto, backend, lab.at(77, 40_000), ACK, b"");
            assert_eq!(
                balancer.handle_inbound(NOW, &mut reply, None),
                Verdict::Client
            );
            assert_eq!(read(&reply).source, lab.at(2, port));
        }
    }
}

#[test]
fn a_connection_that_was_idle_for_two_hours_lives_and_one_that_has_to_go_is_reset_at_both_ends() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let (client, vip) = (lab.at(77, 40_000), lab.at(2, 80));
        let mut now = NOW;
        let send = |balancer: &mut overlay_lb::Balancer, now, flags, numbers, payload: &[u8]| {
            reaches(
                balancer,
                now,
                &mut tcp(client, vip, flags, numbers, payload),
            )
        };
        send(&mut balancer, now, SYN, (u32::MAX, 0), b"");
        let mut reply = tcp(lab.at(5, 8_080), client, SYN | ACK, (FAR - 1, 0), b"");
        let verdict = balancer.handle_inbound(now, &mut reply, None);
        assert_eq!(verdict, Verdict::Client);
        send(&mut balancer, now, ACK, (0, FAR), b"request");
        send(&mut balancer, now, ACK, (7, FAR + 400), b"");
        now += Duration::from_secs(2 * 3_600 + 660);
        balancer.handle_timeout(now);
        assert_eq!(balancer.poll_output(), None);
        send(&mut balancer, now, ACK, (7, FAR + 400), b"x");
        // An old segment comes late; it does not turn the connection back.
        send(&mut balancer, now, ACK, (0, FAR), b"re");
        now = balancer.poll_timeout().unwrap();
        balancer.handle_timeout(now);
        let Some(Output::Reset(reset)) = balancer.poll_output() else {
            panic!("the connection has ended")
        };
        let (to_client, to_backend) = (
            read(&reset.to_client(VIP_MAC, CLIENT_MAC).unwrap()),
            read(&reset.to_backend(CLIENT_MAC, reset.mac.unwrap()).unwrap()),
        );
        let upper = |sequence, acknowledgement| Upper::Tcp {
            flags: RST | ACK,
            sequence,
            acknowledgement,
        };
        // Exactly what each side awaits: with another number a reset is ignored (RFC 5961 §3.2).
        assert_eq!(to_client.upper, upper(FAR + 400, 8));
        assert_eq!((to_client.source, to_client.destination), (vip, client));
        assert_eq!(to_client.macs, back());
        assert_eq!(to_backend.upper, upper(8, FAR + 400));
        assert_eq!(
            (to_backend.source, to_backend.destination),
            (client, lab.at(5, 8_080))
        );
        assert_eq!(to_backend.macs, (mac(5).octets(), CLIENT_MAC.octets()));
    }
}

#[test]
fn no_connection_breaks_over_a_hundred_rolling_updates() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(Config::default(), &[100, 101, 102, 103]);
        let (mut now, vip) = (NOW, lab.vip(Protocol::Tcp, 80));
        for update in 0..100_u8 {
            // Clients are busy all the while; each round the oldest task is replaced, start first.
            let clients: Vec<_> = (0..20).map(|port| lab.at(77, 1_000 + port)).collect();
            let served = clients.iter().map(|client| {
                let mut first = tcp(*client, lab.at(2, 80), SYN, (1, 0), b"");
                (*client, reaches(&mut balancer, now, &mut first))
            });
            let served: Vec<_> = served.collect();
            let exchange = |balancer: &mut overlay_lb::Balancer, flags| {
                for (client, host) in &served {
                    let mut out = tcp(*client, lab.at(2, 80), flags, (2, 9), b"request");
                    assert_eq!(reaches(balancer, now, &mut out), *host);
                    let mut reply = tcp(lab.at(*host, 8_080), *client, flags, (9, 2), b"reply");
                    assert_eq!(
                        balancer.handle_inbound(now, &mut reply, None),
                        Verdict::Client
                    );
                }
            };
            exchange(&mut balancer, ACK);
            let (old, new) = (100 + update, 104 + update);
            balancer.set_backend(now, vip, lab.backend(new)).unwrap();
            balancer
                .set_state(now, vip, id(old), BackendState::Draining)
                .unwrap();
            exchange(&mut balancer, ACK);
            exchange(&mut balancer, FIN | ACK);
            let drained = Output::Event(Event::Drained {
                vip,
                backend: id(old),
            });
            assert_eq!(balancer.poll_output(), Some(drained));
            assert_eq!(balancer.poll_output(), None);
            balancer.remove_backend(now, vip, id(old)).unwrap();
            now += Duration::from_secs(300);
        }
        assert_eq!(balancer.stats().rejected, 0);
    }
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_sent_as_ones() {
    // RFC 768: zero says that there is none.
    let lab = FAMILIES[0];
    let mut balancer = lab.balancer(Config::default(), &[5]);
    let (client, vip) = (lab.at(77, 40_000), lab.at(2, 80));
    let mut ones = 0;
    for payload in 0..=u16::MAX {
        let mut out = udp(client, vip, &payload.to_be_bytes());
        balancer.handle_outbound(NOW, &mut out, None);
        assert_ne!(out[40..42], [0, 0]);
        ones += u32::from(out[40..42] == [0xff, 0xff]);
    }
    assert!(ones > 0);
}

#[test]
fn replies_of_a_client_to_itself_are_not_taken_for_those_of_another_flow() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let any = lab.vip(proto, 0);
        balancer.set_vip(NOW, any, VipConfig::default()).unwrap();
        let backend = Backend {
            address: lab.at(6, 0),
            ..lab.backend(6)
        };
        balancer.set_backend(NOW, any, backend).unwrap();
        // From the port at which it serves, to the one that its next connection will come from.
        let mut first = packet(proto, lab.at(5, 8_080), lab.at(2, 40_000), SYN, b"");
        assert_eq!(reaches(&mut balancer, NOW, &mut first), 6);
        let mut out = packet(proto, lab.at(5, 40_000), lab.at(2, 80), SYN, b"");
        assert_eq!(
            balancer.handle_outbound(NOW, &mut out, None),
            Verdict::Hairpin
        );
        let seen = read(&out);
        assert_ne!(seen.source, lab.at(2, 40_000));
        let mut reply = packet(proto, lab.at(5, 8_080), seen.source, ACK, b"");
        assert_eq!(
            balancer.handle_outbound(NOW, &mut reply, None),
            Verdict::Hairpin
        );
        assert_eq!(read(&reply).destination, lab.at(5, 40_000));
    }
}

/// From the virtual address's link address to the client's.
fn back() -> ([u8; 6], [u8; 6]) {
    (CLIENT_MAC.octets(), VIP_MAC.octets())
}

fn both() -> impl Iterator<Item = (Lab, Protocol)> {
    let protocols = [Protocol::Tcp, Protocol::Udp];
    FAMILIES
        .into_iter()
        .flat_map(move |lab| protocols.map(|proto| (lab, proto)))
}
