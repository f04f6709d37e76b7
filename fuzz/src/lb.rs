//! Frames through the balancer, and headers of the PROXY protocol.

use std::time::Duration;

use overlay_core::{Instant, Machine, Seed};
use overlay_lb::{
    Backend, BackendId, Balancer, Config, Output, PartialChecksum, Protocol, Verdict, Vip,
    VipConfig,
    proxy::{Header, V1_BYTES_MAX, V2_BYTES_MAX, Version},
};

use crate::input::Input;

const FLOWS_MAX: u32 = 16;
const HELD_MAX: u16 = 4;
const ANSWER_BYTES_MAX: usize = 9_100;

/// A script: an octet chooses what happens, frames have their length in front.
///
/// A frame that is rewritten keeps its length and right checksums, the answer to a right one has right ones, and nothing grows beyond
/// its bound.
pub fn lb_frames(bytes: &[u8]) {
    let (mut input, mut now) = (Input::new(bytes), Instant::EPOCH);
    let mut balancer = balancer(now);
    while !input.is_empty() {
        let kind = input.u8();
        now += Duration::from_secs(u64::from(kind >> 4) * 60);
        let partial = (kind & 4 != 0).then(|| PartialChecksum {
            start: u16::from(input.u8()),
            offset: u16::from(input.u8()),
        });
        let mut frame = input.bytes().to_vec();
        let before = frame.clone();
        balancer.prefetch([frame.as_slice()]);
        let verdict = match kind & 3 {
            0 | 1 => balancer.handle_outbound(now, &mut frame, partial),
            2 => balancer.handle_inbound(now, &mut frame, partial),
            _ => {
                balancer.handle_timeout(now);
                continue;
            }
        };
        match verdict {
            Verdict::Answer(answer) => {
                assert!(answer.len() <= ANSWER_BYTES_MAX);
                assert!(is_damaged(&before) || !is_damaged(answer));
            }
            Verdict::Pass | Verdict::Held | Verdict::Drop(_) => assert_eq!(frame, before),
            Verdict::Backend { .. } | Verdict::Client | Verdict::Hairpin => {
                assert_eq!(frame.len(), before.len());
                assert!(partial.is_some() || is_damaged(&before) || !is_damaged(&frame));
            }
        }
        let stats = balancer.stats();
        assert!(stats.flows <= FLOWS_MAX as usize && stats.fragments_held <= HELD_MAX.into());
        while let Some(output) = balancer.poll_output() {
            let Output::Released(bytes) = output else {
                continue;
            };
            let verdict = balancer.handle_outbound(now, &mut bytes.into_vec(), None);
            assert!(matches!(
                verdict,
                Verdict::Backend { .. } | Verdict::Hairpin | Verdict::Client
            ));
        }
    }
}

/// What a connection brings first.
///
/// A header is known by its own octets alone, is not awaited for ever, and says the same when it is written again.
pub fn lb_proxy(bytes: &[u8]) {
    let Ok(Some(parsed)) = Header::parse(bytes) else {
        let is_awaited = Header::parse(bytes) == Ok(None);
        assert!(!is_awaited || bytes.len() < V2_BYTES_MAX);
        return;
    };
    let max = match parsed.version {
        Version::V1 => V1_BYTES_MAX,
        Version::V2 => V2_BYTES_MAX,
    };
    assert!(parsed.length <= max);
    assert_eq!(Header::parse(&bytes[..parsed.length]), Ok(Some(parsed)));
    assert_eq!(Header::parse(&bytes[..parsed.length - 1]), Ok(None));
    let again = parsed.header.emit(parsed.version);
    let read = Header::parse(&again).expect("what was written is valid");
    let read = read.expect("what was written is whole");
    assert_eq!((read.header, read.length), (parsed.header, again.len()));
}

fn balancer(now: Instant) -> Balancer {
    let config = Config {
        flows_max: FLOWS_MAX,
        fragments_max: 4,
        fragments_held_max: HELD_MAX,
        fragments_held_octets_max: 2_000,
        maglev_entries: 13,
        backends_max: 4,
        ..Config::default()
    };
    let mut balancer = Balancer::new(config, &Seed::from_u64(1), now).expect("13 is a prime");
    for (vip, port, hosts) in [
        ("10.0.1.", 80, 5..7),
        ("10.0.1.", 81, 0..0),
        ("fd00::", 0, 5..7),
    ] {
        for proto in [Protocol::Tcp, Protocol::Udp] {
            let addr = format!("{vip}2").parse().expect("an address");
            let vip_of = Vip { addr, proto, port };
            balancer
                .set_vip(now, vip_of, VipConfig::default())
                .expect("there is room");
            for host in hosts.clone() {
                let address = format!("{vip}{host}").parse().expect("an address");
                let address = std::net::SocketAddr::new(address, port);
                let backend = Backend::new(BackendId::from_bytes([host; 16]), address);
                balancer
                    .set_backend(now, vip_of, backend)
                    .expect("there is room");
            }
        }
    }
    balancer
}

/// Whether a whole IPv4 packet behind an Ethernet header without a tag has a wrong checksum: of its header, or of TCP,
/// UDP or ICMP.
fn is_damaged(frame: &[u8]) -> bool {
    let Some(packet) = frame.get(14..).filter(|packet| packet.len() >= 20) else {
        return true;
    };
    let (header, total) = (
        usize::from(packet[0] & 15) * 4,
        usize::from(u16::from_be_bytes([packet[2], packet[3]])),
    );
    if frame[12..14] != [8, 0] || packet[0] >> 4 != 4 || header < 20 || total < header {
        return true;
    }
    let (Some(upper), fragment) = (packet.get(header..total), packet[6] & 0x3f | packet[7]) else {
        return true;
    };
    if fragment != 0 {
        return sum(&packet[..header]) != 0xffff;
    }
    let pseudo = [
        &packet[12..20],
        &[0, packet[9]],
        &u16::try_from(upper.len()).unwrap_or(0).to_be_bytes(),
    ]
    .concat();
    let upper = match packet[9] {
        1 => sum(upper) != 0xffff,
        17 if upper.get(6..8) == Some(&[0, 0]) => false,
        6 | 17 => sum(&[pseudo.as_slice(), upper].concat()) != 0xffff,
        _ => true,
    };
    upper || sum(&packet[..header]) != 0xffff
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).expect("it was folded")
}
