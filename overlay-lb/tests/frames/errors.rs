//! ICMP errors, in both directions.

use overlay_lb::{Config, DropReason, Verdict};

use crate::{
    NOW, both,
    lab::{ACK, Lab, SYN, id, mac, packet, reaches, read, too_big},
};

/// How much of a packet is quoted: eight octets of the upper header, or all.
fn quotes(packet: &[u8], lab: Lab) -> [Vec<u8>; 3] {
    let ip = if lab.v6 { 40 } else { 20 };
    [ip + 8, ip + 19, packet.len() - 14].map(|length| packet[14..14 + length].to_vec())
}

#[test]
fn an_error_about_a_clients_packet_comes_back_as_about_one_to_the_virtual_address() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let (client, vip) = (lab.at(77, 40_000), lab.at(2, 80));
        let sent = packet(proto, client, vip, SYN, &[1; 31]);
        let mut seen = sent.clone();
        reaches(&mut balancer, NOW, &mut seen);
        // From the backend itself, and from a router before it.
        for (from, shown) in [(lab.ip(5), lab.ip(2)), (lab.ip(200), lab.ip(200))] {
            for (quote, expected) in quotes(&seen, lab).into_iter().zip(quotes(&sent, lab)) {
                let mut error = too_big(from, client.ip(), &quote);
                error.extend([0xaa; 20]); // padding
                let verdict = balancer.handle_inbound(NOW, &mut error, None);
                assert_eq!(verdict, Verdict::Client);
                let error = read(&error);
                assert_eq!(
                    (error.source.ip(), error.destination.ip()),
                    (shown, client.ip())
                );
                assert_eq!(error.payload, expected);
            }
        }
    }
}

#[test]
fn an_error_about_a_reply_goes_to_the_backend_that_sent_it() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let (client, vip, backend) = (lab.at(77, 40_000), lab.at(2, 80), lab.at(5, 8_080));
        reaches(
            &mut balancer,
            NOW,
            &mut packet(proto, client, vip, SYN, b""),
        );
        let sent = packet(proto, backend, client, ACK, &[1; 31]);
        let mut seen = sent.clone();
        assert_eq!(
            balancer.handle_inbound(NOW, &mut seen, None),
            Verdict::Client
        );
        for (quote, expected) in quotes(&seen, lab).into_iter().zip(quotes(&sent, lab)) {
            let mut error = too_big(client.ip(), vip.ip(), &quote);
            let verdict = balancer.handle_outbound(NOW, &mut error, None);
            let to = Verdict::Backend {
                id: id(5),
                address: backend,
                addressed: true,
            };
            assert_eq!(verdict, to);
            let error = read(&error);
            assert_eq!(
                (error.source.ip(), error.destination.ip()),
                (client.ip(), backend.ip())
            );
            assert_eq!((error.payload, error.macs.0), (expected, mac(5).octets()));
        }
    }
}

#[test]
fn an_error_of_a_client_that_is_its_own_backend_comes_back_to_it() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let (client, vip) = (lab.at(5, 40_000), lab.at(2, 80));
        let sent = packet(proto, client, vip, SYN, &[1; 31]);
        let mut seen = sent.clone();
        assert_eq!(
            balancer.handle_outbound(NOW, &mut seen, None),
            Verdict::Hairpin
        );
        // As the backend it reports to whom it takes for its client: the virtual address.
        let mut error = too_big(lab.ip(5), vip.ip(), &seen[14..]);
        assert_eq!(
            balancer.handle_outbound(NOW, &mut error, None),
            Verdict::Hairpin
        );
        let error = read(&error);
        assert_eq!(
            (error.source.ip(), error.destination.ip()),
            (vip.ip(), client.ip())
        );
        assert_eq!(error.payload, sent[14..]);
    }
}

#[test]
fn an_error_about_no_flow_goes_nowhere() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let (client, vip, backend) = (lab.at(77, 40_000), lab.at(2, 80), lab.at(5, 8_080));
        let unknown = DropReason::UnknownFlow;
        let quote = packet(proto, vip, client, ACK, b"never sent");
        let mut error = too_big(client.ip(), vip.ip(), &quote[14..]);
        assert_eq!(
            balancer.handle_outbound(NOW, &mut error, None),
            Verdict::Drop(unknown)
        );

        reaches(
            &mut balancer,
            NOW,
            &mut packet(proto, client, vip, SYN, b""),
        );
        // About a flow of its own, but from an address that the flow is not with.
        let mut error = too_big(
            client.ip(),
            lab.ip(2),
            &packet(proto, lab.at(3, 80), client, ACK, b"")[14..],
        );
        assert_eq!(
            balancer.handle_outbound(NOW, &mut error, None),
            Verdict::Drop(unknown)
        );
        // About a flow of its own, but to another virtual address than it is with.
        let other = overlay_lb::Vip {
            addr: lab.ip(3),
            ..lab.vip(proto, 80)
        };
        balancer
            .set_vip(NOW, other, overlay_lb::VipConfig::default())
            .unwrap();
        let quote = packet(proto, vip, client, ACK, b"");
        let mut error = too_big(client.ip(), other.addr, &quote[14..]);
        assert_eq!(
            balancer.handle_outbound(NOW, &mut error, None),
            Verdict::Drop(unknown)
        );
        // To another than the quoted packet's sender.
        let quote = packet(proto, client, backend, ACK, b"");
        let mut error = too_big(lab.ip(5), lab.ip(99), &quote[14..]);
        let before = error.clone();
        assert_eq!(
            balancer.handle_inbound(NOW, &mut error, None),
            Verdict::Pass
        );
        assert_eq!(error, before);
        // Quotes that end before the ports, or are of another protocol.
        let header = if lab.v6 { 40 } else { 20 };
        for length in [0, 1, header - 1, header, header + 3] {
            let mut error = too_big(lab.ip(5), client.ip(), &quote[14..14 + length]);
            assert_eq!(
                balancer.handle_inbound(NOW, &mut error, None),
                Verdict::Pass
            );
        }
        let mut other = quote[14..].to_vec();
        other[if lab.v6 { 6 } else { 9 }] = 132;
        let mut error = too_big(lab.ip(5), client.ip(), &other);
        assert_eq!(
            balancer.handle_inbound(NOW, &mut error, None),
            Verdict::Pass
        );
    }
}
