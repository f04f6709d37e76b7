//! What one read of a socket with receive offload returns: datagrams, or one super-frame of a tunnel of the same machine.

use std::net::Ipv4Addr;

use overlay_vxlan::{
    Arrival,
    wire::{
        ipv4::{self, Protocol},
        ipv6,
    },
};

/// A datagram with an inner frame of UDP, behind so many VLAN tags.
fn datagram(v6: bool, tags: usize, payload_bytes: u16) -> Vec<u8> {
    let mut bytes = vec![0; 8 + 12];
    for _ in 0..tags {
        bytes.extend([0x81, 0, 0, 5]);
    }
    bytes.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
    let at = bytes.len();
    if v6 {
        bytes.resize(at + ipv6::HEADER_BYTES, 0);
        let header = ipv6::Repr {
            traffic_class: 0,
            flow_label: 0,
            next_header: Protocol::UDP,
            hop_limit: 64,
            source: Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped(),
            destination: Ipv4Addr::new(10, 0, 0, 2).to_ipv6_mapped(),
            payload_bytes,
        };
        header.emit(&mut bytes[at..]).expect("room");
    } else {
        bytes.resize(at + ipv4::HEADER_BYTES, 0);
        let header = ipv4::Repr {
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol: Protocol::UDP,
            source: Ipv4Addr::new(10, 0, 0, 1),
            destination: Ipv4Addr::new(10, 0, 0, 2),
            payload_bytes,
        };
        header.emit(&mut bytes[at..]).expect("room");
    }
    bytes.resize(bytes.len() + usize::from(payload_bytes), 7);
    bytes
}

fn arrival(octets: &[u8], datagram_bytes: usize) -> Arrival<'_> {
    let from = Ipv4Addr::new(192, 0, 2, 1);
    Arrival::new(std::net::IpAddr::from(from).into(), octets, datagram_bytes)
}

#[test]
fn datagrams_of_one_length_are_taken_apart() {
    for (v6, tags) in [(false, 0), (true, 0), (false, 1), (true, 2)] {
        let [whole, last] = [500, 100].map(|payload| datagram(v6, tags, payload));
        let octets = [&whole[..], &whole, &last].concat();
        let arrival = arrival(&octets, whole.len());
        assert_eq!(arrival.segment_bytes(), None);
        let found: Vec<_> = arrival.datagrams().collect();
        assert_eq!(found, [&whole[..], &whole, &last]);
    }
}

#[test]
fn a_single_datagram_is_one() {
    let one = datagram(false, 0, 500);
    assert_eq!(arrival(&one, one.len()).segment_bytes(), None);
    assert_eq!(
        arrival(&one, one.len()).datagrams().collect::<Vec<_>>(),
        [&one[..]]
    );
    // As some systems say it of a single one.
    assert_eq!(arrival(&[], 0).datagrams().count(), 0);
    assert_eq!(arrival(&[1, 2], 0).datagrams().count(), 2);
}

#[test]
fn a_super_frame_is_one_datagram() {
    for (v6, tags) in [
        (false, 0),
        (true, 0),
        (false, 1),
        (true, 1),
        (false, 2),
        (true, 2),
    ] {
        let whole = datagram(v6, tags, 5_000);
        let arrival = arrival(&whole, 1_000);
        assert_eq!(
            arrival.segment_bytes(),
            Some(1_000),
            "IPv6 {v6}, {tags} tags"
        );
        assert_eq!(arrival.datagrams().collect::<Vec<_>>(), [&whole[..]]);
    }
}

#[test]
fn octets_that_are_no_frame_are_datagrams() {
    let octets = [7; 3_000];
    let arrival = arrival(&octets, 1_000);
    assert_eq!(
        (arrival.segment_bytes(), arrival.datagrams().count()),
        (None, 3)
    );
}
