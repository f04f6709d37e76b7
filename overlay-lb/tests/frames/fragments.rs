//! Fragments: only the first one of a packet has the ports.

use std::{net::SocketAddr, time::Duration};

use overlay_core::Machine;
use overlay_lb::{Balancer, Config, DropReason, Output, Protocol, Verdict};

use crate::{
    NOW, both,
    lab::{ACK, FAMILIES, Lab, SYN, id, mac, octets, packet, read, tcp},
};

/// Cuts a packet behind its first `cuts` octets (multiples of eight).
fn cut(frame: &[u8], lab: Lab, number: u32, cuts: &[usize]) -> Vec<Vec<u8>> {
    let header = if lab.v6 { 40 } else { 20 };
    let upper = &frame[14 + header..];
    let starts = [&[0], cuts].concat();
    let ends = [cuts, &[upper.len()]].concat();
    let pieces = starts.iter().zip(ends).map(|(start, end)| {
        fragment(
            frame,
            lab,
            number,
            *start,
            &upper[*start..end],
            end < upper.len(),
        )
    });
    pieces.collect()
}

fn fragment(
    frame: &[u8],
    lab: Lab,
    number: u32,
    start: usize,
    piece: &[u8],
    more: bool,
) -> Vec<u8> {
    let place = u16::try_from(start).expect("it fits");
    if lab.v6 {
        let mut bytes = frame[..54].to_vec();
        let length = u16::try_from(8 + piece.len()).expect("it fits");
        bytes[18..20].copy_from_slice(&length.to_be_bytes());
        let next = std::mem::replace(&mut bytes[20], 44);
        bytes.extend([next, 0]);
        bytes.extend((place | u16::from(more)).to_be_bytes());
        bytes.extend(number.to_be_bytes());
        bytes.extend(piece);
        return bytes;
    }
    let mut bytes = frame[..34].to_vec();
    let length = u16::try_from(20 + piece.len()).expect("it fits");
    bytes[16..18].copy_from_slice(&length.to_be_bytes());
    bytes[18..20].copy_from_slice(&u16::try_from(number).expect("it fits").to_be_bytes());
    let flags = (place / 8) | if more { 0x2000 } else { 0 };
    bytes[20..22].copy_from_slice(&flags.to_be_bytes());
    bytes[24..26].fill(0);
    let sum = header_sum(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&(!sum).to_be_bytes());
    bytes.extend(piece);
    bytes
}

fn header_sum(header: &[u8]) -> u16 {
    let none = std::net::IpAddr::from([0; 4]);
    crate::lab::sum((none, none), 1, header)
}

/// Puts the fragments of a packet together again.
fn whole(pieces: &[Vec<u8>], lab: Lab) -> Vec<u8> {
    let skip = if lab.v6 { 62 } else { 34 };
    if !lab.v6 {
        for piece in pieces {
            assert_eq!(header_sum(&piece[14..34]), 0xffff, "header of {piece:02x?}");
        }
    }
    let upper: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| piece[skip..].to_vec())
        .collect();
    let mut bytes = pieces[0][..if lab.v6 { 54 } else { 34 }].to_vec();
    if lab.v6 {
        bytes[20] = pieces[0][54];
        bytes[18..20].copy_from_slice(&u16::try_from(upper.len()).expect("it fits").to_be_bytes());
    } else {
        bytes[16..18].copy_from_slice(
            &u16::try_from(20 + upper.len())
                .expect("it fits")
                .to_be_bytes(),
        );
        bytes[20..22].fill(0);
        bytes[24..26].fill(0);
        let sum = header_sum(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&(!sum).to_be_bytes());
    }
    bytes.extend(upper);
    bytes
}

fn ends(lab: Lab) -> [SocketAddr; 3] {
    [lab.at(77, 40_000), lab.at(2, 80), lab.at(5, 8_080)]
}

#[test]
fn all_fragments_go_the_way_of_the_first_in_both_directions() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let [client, vip, backend] = ends(lab);
        let sent = packet(proto, client, vip, SYN, &[7; 90]);
        let mut pieces = cut(&sent, lab, 9, &[24, 64]);
        for piece in &mut pieces {
            let verdict = balancer.handle_outbound(NOW, piece, None);
            let to = Verdict::Backend {
                id: id(5),
                address: backend,
                addressed: true,
            };
            assert_eq!((verdict, &piece[..6]), (to, &mac(5).octets()[..]));
        }
        let seen = read(&whole(&pieces, lab));
        assert_eq!((seen.source, seen.destination), (client, backend));

        let mut pieces = cut(
            &packet(proto, backend, client, ACK, &[7; 91]),
            lab,
            9,
            &[32],
        );
        for piece in &mut pieces {
            assert_eq!(balancer.handle_inbound(NOW, piece, None), Verdict::Client);
        }
        let seen = read(&whole(&pieces, lab));
        assert_eq!((seen.source, seen.destination), (vip, client));
    }
}

#[test]
fn fragments_of_a_hairpin_come_back_too() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let client = lab.at(5, 40_000);
        let mut pieces = cut(
            &packet(proto, client, lab.at(2, 80), SYN, &[7; 90]),
            lab,
            9,
            &[24],
        );
        for piece in &mut pieces {
            assert_eq!(balancer.handle_outbound(NOW, piece, None), Verdict::Hairpin);
        }
        assert_eq!(read(&whole(&pieces, lab)).source, lab.at(2, 40_000));
    }
}

#[test]
fn a_fragment_whose_first_is_not_known_ends_here() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let [client, vip, _] = ends(lab);
        let pieces = cut(&packet(proto, client, vip, SYN, &[7; 90]), lab, 9, &[24]);
        let other = cut(&packet(proto, client, vip, SYN, &[7; 90]), lab, 10, &[24]);
        let dropped = Verdict::Drop(DropReason::Fragment);
        let mut out = |bytes: &[u8], now| {
            let verdict = balancer.handle_outbound(now, &mut bytes.to_vec(), None);
            let reaches = matches!(verdict, Verdict::Backend { .. });
            assert!(reaches || verdict == dropped, "{verdict:?}");
            reaches
        };
        assert!(!out(&pieces[1], NOW));
        assert!(out(&pieces[0], NOW));
        assert!(!out(&other[1], NOW));
        assert!(out(&pieces[1], NOW + Duration::from_secs(59)));
        assert!(!out(&pieces[1], NOW + Duration::from_secs(60)));
    }
}

#[test]
fn a_fragment_that_would_overwrite_the_ports_ends_here() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(Config::default(), &[5]);
        let [client, vip, _] = ends(lab);
        let sent = tcp(client, vip, SYN, (1, 0), &[7; 90]);
        let first = &mut cut(&sent, lab, 9, &[24])[0];
        let verdict = balancer.handle_outbound(NOW, first, None);
        assert!(matches!(verdict, Verdict::Backend { .. }), "{verdict:?}");
        for (start, is_dropped) in [(8, true), (16, true), (24, false)] {
            let mut later = fragment(&sent, lab, 9, start, &[0; 8], true);
            let verdict = balancer.handle_outbound(NOW, &mut later, None);
            let dropped = verdict == Verdict::Drop(DropReason::Fragment);
            assert_eq!(dropped, is_dropped, "{start}");
        }
        // A first one without the whole header.
        let mut tiny = fragment(
            &sent,
            lab,
            10,
            0,
            &sent[if lab.v6 { 54 } else { 34 }..][..16],
            true,
        );
        let verdict = balancer.handle_outbound(NOW, &mut tiny, None);
        assert_eq!(verdict, Verdict::Drop(DropReason::Malformed));
    }
}

#[test]
fn packets_that_are_remembered_are_bounded() {
    let lab = FAMILIES[0];
    let config = Config {
        fragments_max: 4,
        ..Config::default()
    };
    let mut balancer = lab.balancer(config, &[5]);
    let [client, vip, _] = ends(lab);
    let sent = packet(Protocol::Udp, client, vip, 0, &[7; 90]);
    for number in 0..1_000 {
        let first = &mut cut(&sent, lab, number, &[24])[0];
        balancer.handle_outbound(NOW, first, None);
    }
    let known = (0..1_000).filter(|number| {
        let later = &mut cut(&sent, lab, *number, &[24])[1];
        !matches!(balancer.handle_outbound(NOW, later, None), Verdict::Drop(_))
    });
    assert_eq!(known.collect::<Vec<_>>(), [996, 997, 998, 999]);
}

#[test]
fn a_packet_that_is_its_own_only_fragment_is_whole() {
    // RFC 6946.
    let lab = FAMILIES[1];
    let mut balancer = lab.balancer(Config::default(), &[5]);
    let [client, vip, backend] = ends(lab);
    let sent = packet(Protocol::Udp, client, vip, 0, b"whole");
    let mut atomic = fragment(&sent, lab, 9, 0, &sent[54..], false);
    let verdict = balancer.handle_outbound(NOW, &mut atomic, None);
    assert!(matches!(verdict, Verdict::Backend { .. }), "{verdict:?}");
    assert_eq!(atomic[38..54], octets(backend.ip()));
    let mut later = fragment(&sent, lab, 9, 8, &[0; 8], false);
    let verdict = balancer.handle_outbound(NOW, &mut later, None);
    assert_eq!(verdict, Verdict::Drop(DropReason::Fragment));
}

/// A balancer that holds up to three fragments.
fn holding() -> Config {
    Config {
        fragments_held_max: 3,
        ..Config::default()
    }
}

fn released(balancer: &mut Balancer) -> Vec<Vec<u8>> {
    let outputs = std::iter::from_fn(|| balancer.poll_output());
    let frames = outputs.filter_map(|output| match output {
        Output::Released(bytes) => Some(bytes.into_vec()),
        Output::Retried(_) | Output::Reset(_) | Output::Event(_) => None,
    });
    frames.collect()
}

#[test]
fn fragments_that_come_before_their_first_one_are_held() {
    for (lab, proto) in both() {
        let mut balancer = lab.balancer(holding(), &[5]);
        let [client, vip, backend] = ends(lab);
        let sent = packet(proto, client, vip, SYN, &[7; 90]);
        let (pieces, other) = (cut(&sent, lab, 9, &[24, 64]), cut(&sent, lab, 10, &[24]));
        for bytes in [&pieces[2], &other[1], &pieces[1]] {
            let seen = &mut bytes.clone();
            assert_eq!(balancer.handle_outbound(NOW, seen, None), Verdict::Held);
            assert_eq!(seen, bytes);
        }
        assert_eq!(balancer.stats().fragments_held, 3);
        assert_eq!(released(&mut balancer), Vec::<Vec<u8>>::new());
        let mut first = pieces[0].clone();
        let verdict = balancer.handle_outbound(NOW, &mut first, None);
        assert!(matches!(verdict, Verdict::Backend { .. }), "{verdict:?}");
        assert_eq!(balancer.poll_timeout(), Some(NOW));
        let mut rest = released(&mut balancer);
        assert_eq!(rest, [pieces[2].clone(), pieces[1].clone()]);
        for bytes in &mut rest {
            let verdict = balancer.handle_outbound(NOW, bytes, None);
            assert!(matches!(verdict, Verdict::Backend { .. }), "{verdict:?}");
        }
        let seen = read(&whole(&[first, rest.remove(1), rest.remove(0)], lab));
        assert_eq!((seen.source, seen.destination), (client, backend));
        assert_eq!(balancer.stats().fragments_held, 1);
    }
}

#[test]
fn what_is_held_is_bounded_in_number_octets_and_time() {
    for (lab, proto) in both() {
        let [client, vip, _] = ends(lab);
        let sent = packet(proto, client, vip, SYN, &[7; 90]);
        let later = |number| cut(&sent, lab, number, &[24]).remove(1);
        let dropped = Verdict::Drop(DropReason::Fragment);
        let hold = |balancer: &mut Balancer, number, now| {
            balancer.handle_outbound(now, &mut later(number), None) == Verdict::Held
        };

        let mut balancer = lab.balancer(holding(), &[5]);
        let held: Vec<_> = (0..5)
            .map(|number| hold(&mut balancer, number, NOW))
            .collect();
        assert_eq!(held, [true, true, true, false, false]);
        let (just, end) = (
            NOW + Duration::from_millis(999),
            NOW + Config::FRAGMENTS_HELD_FOR,
        );
        assert!(!hold(&mut balancer, 6, just));
        assert_eq!(balancer.poll_timeout(), Some(end));
        balancer.handle_timeout(just);
        assert_eq!(balancer.stats().fragments_held, 3);
        balancer.handle_timeout(end);
        let stats = balancer.stats();
        assert_eq!((stats.fragments_held, stats.fragments_expired), (0, 3));
        assert_eq!(balancer.poll_timeout(), None);
        // Without a wake-up in between, too.
        assert!((0..3).all(|number| hold(&mut balancer, number, end)));
        let later_on = end + Config::FRAGMENTS_HELD_FOR;
        assert!((0..3).all(|number| hold(&mut balancer, number, later_on)));

        let config = Config {
            fragments_held_octets_max: u32::try_from(2 * later(0).len() + 1).expect("a few"),
            ..holding()
        };
        let mut balancer = lab.balancer(config, &[5]);
        let held: Vec<_> = (0..3)
            .map(|number| hold(&mut balancer, number, NOW))
            .collect();
        assert_eq!(held, [true, true, false]);
        // The octets of what is released or expired are free again.
        let mut first = cut(&sent, lab, 0, &[24]).remove(0);
        balancer.handle_outbound(NOW, &mut first, None);
        assert_eq!(released(&mut balancer).len(), 1);
        assert!(hold(&mut balancer, 3, NOW) && !hold(&mut balancer, 4, NOW));
        assert!((5..7).all(|number| hold(&mut balancer, number, end)));

        let mut balancer = lab.balancer(Config::default(), &[5]);
        let verdict = balancer.handle_outbound(NOW, &mut later(0), None);
        assert_eq!(verdict, dropped);
    }
}

#[test]
fn what_was_released_needs_its_room_until_it_is_polled() {
    let lab = FAMILIES[0];
    let mut balancer = lab.balancer(holding(), &[5]);
    let [client, vip, _] = ends(lab);
    let sent = packet(Protocol::Udp, client, vip, SYN, &[7; 90]);
    let held = |balancer: &mut Balancer, number| {
        let mut pieces = cut(&sent, lab, number, &[24]);
        let verdict = balancer.handle_outbound(NOW, &mut pieces[1], None);
        let is_held = verdict == Verdict::Held;
        balancer.handle_outbound(NOW, &mut pieces[0], None);
        is_held
    };
    let seen: Vec<_> = (0..5).map(|number| held(&mut balancer, number)).collect();
    assert_eq!(seen, [true, true, true, false, false]);
    assert_eq!(released(&mut balancer).len(), 3);
    assert!(held(&mut balancer, 5));
}

#[test]
fn what_no_first_fragment_may_release_is_not_held() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(holding(), &[5]);
        let [client, vip, backend] = ends(lab);
        let sent = tcp(client, vip, SYN, (1, 0), &[7; 90]);
        // It would overwrite the header.
        let mut overlapping = fragment(&sent, lab, 9, 8, &[0; 8], true);
        let verdict = balancer.handle_outbound(NOW, &mut overlapping, None);
        assert_eq!(verdict, Verdict::Drop(DropReason::Fragment));
        // Its end is missing.
        let mut cut_short = fragment(&sent, lab, 9, 24, &[0; 8], true);
        cut_short.truncate(cut_short.len() - 1);
        let verdict = balancer.handle_outbound(NOW, &mut cut_short, None);
        assert_eq!(verdict, Verdict::Drop(DropReason::Malformed));
        // It is not for a virtual address.
        let direct = tcp(client, backend, SYN, (1, 0), &[7; 90]);
        let mut direct = fragment(&direct, lab, 9, 24, &[0; 8], true);
        assert_eq!(
            balancer.handle_outbound(NOW, &mut direct, None),
            Verdict::Pass
        );
        assert_eq!(balancer.stats().fragments_held, 0);
    }
}
