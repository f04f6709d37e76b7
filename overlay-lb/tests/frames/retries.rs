//! Connections that a backend refuses, or does not answer: another one is asked.

use std::{collections::BTreeSet, time::Duration};

use overlay_core::{Instant, Machine};
use overlay_lb::{Balancer, Config, DropReason, Output, Verdict, VipConfig};

use super::lab::{
    ACK, FAMILIES, Lab, RST, SYN, Upper, complete, id, left_to_device, reaches, read, tcp,
};
use overlay_lb::Protocol;

const START: Instant = Instant::EPOCH;
/// The client's first sequence number.
const FIRST: u32 = u32::MAX;

fn config() -> Config {
    Config {
        openings_max: 2,
        ..Config::default()
    }
}

fn syn(lab: Lab, port: u16) -> Vec<u8> {
    tcp(lab.at(77, port), lab.at(2, 80), SYN, (FIRST, 0), b"")
}

/// What a backend sends back to the client.
fn back(lab: Lab, host: u8, port: u16, flags: u8) -> Vec<u8> {
    let numbers = (0, FIRST.wrapping_add(1));
    tcp(lab.at(host, 8_080), lab.at(77, port), flags, numbers, b"")
}

fn retried(balancer: &mut Balancer) -> Vec<Vec<u8>> {
    let outputs = std::iter::from_fn(|| balancer.poll_output());
    let frames = outputs.filter_map(|output| match output {
        Output::Retried(bytes) => Some(bytes.into_vec()),
        _ => None,
    });
    frames.collect()
}

#[test]
fn a_refused_connection_goes_to_another_backend_and_the_last_refusal_counts() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(config(), &[5, 6, 7, 8]);
        let mut hosts = BTreeSet::new();
        let mut frame = syn(lab, 40_000);
        let asked = read(&frame);
        for nth in 1.. {
            let host = reaches(&mut balancer, START, &mut frame);
            assert!(hosts.insert(host), "{host} was asked twice");
            let mut refusal = back(lab, host, 40_000, RST | ACK);
            let verdict = balancer.handle_inbound(START, &mut refusal, None);
            if nth == 3 {
                // Three were asked, and the client hears of it.
                assert_eq!(verdict, Verdict::Client);
                assert_eq!(read(&refusal).source, lab.at(2, 80));
                break;
            }
            assert_eq!(verdict, Verdict::Drop(DropReason::Refused));
            assert!(balancer.poll_timeout().is_some_and(|at| at <= START));
            frame = retried(&mut balancer).remove(0);
            assert_eq!(read(&frame), asked);
        }
        assert_eq!(retried(&mut balancer), Vec::<Vec<u8>>::new());
        assert_eq!(balancer.stats().retried, 2);
    }
}

#[test]
fn the_only_backends_refusal_is_told_at_once() {
    for lab in FAMILIES {
        for hosts in [&[5][..], &[5, 6]] {
            let mut balancer = lab.balancer(config(), hosts);
            let mut frame = syn(lab, 40_000);
            for left in (0..hosts.len()).rev() {
                let host = reaches(&mut balancer, START, &mut frame);
                let mut refusal = back(lab, host, 40_000, RST | ACK);
                let verdict = balancer.handle_inbound(START, &mut refusal, None);
                let told = verdict == Verdict::Client;
                assert_eq!(told, left == 0);
                frame = retried(&mut balancer).pop().unwrap_or_default();
            }
        }
    }
}

#[test]
fn a_connection_that_nobody_answers_goes_to_another_backend_when_the_client_asks_again() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(config(), &[5, 6, 7]);
        let first = reaches(&mut balancer, START, &mut syn(lab, 40_000));
        // Twice in a row is no silence.
        let soon = START + Duration::from_millis(100);
        assert_eq!(reaches(&mut balancer, soon, &mut syn(lab, 40_000)), first);
        let later = START + Duration::from_secs(1);
        let second = reaches(&mut balancer, later, &mut syn(lab, 40_000));
        assert_ne!(second, first);
        let later = START + Duration::from_secs(3);
        let third = reaches(&mut balancer, later, &mut syn(lab, 40_000));
        assert!(![first, second].contains(&third));
        // There is no fourth; this one is asked again.
        let later = START + Duration::from_secs(7);
        assert_eq!(reaches(&mut balancer, later, &mut syn(lab, 40_000)), third);
        // The answer of one that was given up is no reply any more.
        let mut late = back(lab, first, 40_000, SYN | ACK);
        let verdict = balancer.handle_inbound(later, &mut late, None);
        assert_eq!(verdict, Verdict::Pass);
        let mut answer = back(lab, third, 40_000, SYN | ACK);
        let verdict = balancer.handle_inbound(later, &mut answer, None);
        assert_eq!(verdict, Verdict::Client);
        assert_eq!(balancer.stats().flows, 1);
    }
}

#[test]
fn one_that_has_answered_is_not_left() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(config(), &[5, 6, 7]);
        let host = reaches(&mut balancer, START, &mut syn(lab, 40_000));
        let mut answer = back(lab, host, 40_000, SYN | ACK);
        balancer.handle_inbound(START, &mut answer, None);
        // Its answer was lost on the last stretch.
        let later = START + Duration::from_secs(1);
        assert_eq!(reaches(&mut balancer, later, &mut syn(lab, 40_000)), host);
        let mut reset = back(lab, host, 40_000, RST | ACK);
        let verdict = balancer.handle_inbound(later, &mut reset, None);
        assert_eq!(verdict, Verdict::Client);
        assert_eq!(retried(&mut balancer), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn a_made_up_refusal_moves_nothing() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(config(), &[5, 6, 7]);
        let host = reaches(&mut balancer, START, &mut syn(lab, 40_000));
        let (from, to) = (lab.at(host, 8_080), lab.at(77, 40_000));
        let mut reset = tcp(from, to, RST | ACK, (0, FIRST.wrapping_add(2)), b"");
        let verdict = balancer.handle_inbound(START, &mut reset, None);
        assert_eq!(verdict, Verdict::Client);
        assert_eq!(retried(&mut balancer), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn what_is_kept_is_bounded() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(config(), &[5, 6, 7]);
        let hosts: Vec<_> = (0..3)
            .map(|nth| reaches(&mut balancer, START, &mut syn(lab, 40_000 + nth)))
            .collect();
        // The first one had to go.
        for (nth, kept) in [(0, false), (1, true), (2, true)] {
            let port = 40_000 + nth;
            let mut refusal = back(lab, hosts[usize::from(nth)], port, RST | ACK);
            balancer.handle_inbound(START, &mut refusal, None);
            assert_eq!(retried(&mut balancer).len(), usize::from(kept));
        }
        // Data with the first segment is not kept.
        let (client, vip) = (lab.at(77, 50_000), lab.at(2, 80));
        let mut long = tcp(client, vip, SYN, (FIRST, 0), &[1; 200]);
        let host = reaches(&mut balancer, START, &mut long);
        let mut refusal = back(lab, host, 50_000, RST | ACK);
        balancer.handle_inbound(START, &mut refusal, None);
        assert_eq!(retried(&mut balancer), Vec::<Vec<u8>>::new());
        // Off, as it is by default.
        let mut balancer = lab.balancer(Config::default(), &[5, 6, 7]);
        let host = reaches(&mut balancer, START, &mut syn(lab, 40_000));
        let mut refusal = back(lab, host, 40_000, RST | ACK);
        let verdict = balancer.handle_inbound(START, &mut refusal, None);
        assert_eq!(verdict, Verdict::Client);
    }
}

#[test]
fn a_checksum_that_was_left_to_the_device_is_done_in_the_copy() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(config(), &[5, 6]);
        let mut frame = syn(lab, 40_000);
        let asked = read(&frame);
        let partial = left_to_device(&mut frame, lab.v6, Protocol::Tcp);
        balancer.handle_outbound(START, &mut frame, Some(partial));
        complete(&mut frame, partial);
        let host = read(&frame).destination;
        let host = if host == lab.at(5, 8_080) { 5 } else { 6 };
        let mut refusal = back(lab, host, 40_000, RST | ACK);
        balancer.handle_inbound(START, &mut refusal, None);
        let again = retried(&mut balancer).remove(0);
        assert_eq!(read(&again), asked);
        let Upper::Tcp { sequence, .. } = read(&again).upper else {
            unreachable!("TCP")
        };
        assert_eq!(sequence, FIRST);
    }
}

#[test]
fn affinity_follows_to_the_backend_that_takes_the_connection() {
    for lab in FAMILIES {
        let mut balancer = lab.balancer(config(), &[5, 6, 7]);
        let sticky = VipConfig {
            affinity: Some(Duration::from_secs(60)),
            ..VipConfig::default()
        };
        let vip = lab.vip(Protocol::Tcp, 80);
        balancer.set_vip(START, vip, sticky).unwrap();
        let host = reaches(&mut balancer, START, &mut syn(lab, 40_000));
        let mut refusal = back(lab, host, 40_000, RST | ACK);
        balancer.handle_inbound(START, &mut refusal, None);
        let mut again = retried(&mut balancer).remove(0);
        let other = reaches(&mut balancer, START, &mut again);
        assert_ne!(other, host);
        assert_eq!(reaches(&mut balancer, START, &mut syn(lab, 40_001)), other);
        assert_eq!(balancer.flows(vip, id(host)), Some(0));
    }
}
