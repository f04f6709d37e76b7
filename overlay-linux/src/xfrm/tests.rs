//! What is said to the kernel and heard from it.

use std::net::IpAddr;

use overlay_core::plane::SaKeys;
use proptest::prelude::*;

use super::*;

fn association(outbound: bool, v6: bool) -> (AssociationId, Association) {
    let [one, other]: [IpAddr; 2] = if v6 {
        ["2001:db8::1", "2001:db8::2"]
    } else {
        ["192.0.2.1", "192.0.2.2"]
    }
    .map(|address| address.parse().unwrap());
    let spi = 0x1234_5678;
    let id = AssociationId {
        destination: other,
        spi,
    };
    let association = Association {
        source: one,
        secret: Secret(Some(SaKeys::new(spi, [7; 16], [8; 4]))),
        port: 4500,
        outbound,
        inner_port: 4789,
    };
    (id, association)
}

#[test]
fn an_association_is_read_as_it_was_made() {
    for (outbound, v6) in [(true, true), (true, false), (false, true), (false, false)] {
        let (id, association) = association(outbound, v6);
        let after = 0x1_0000_0002;
        let body = association.emit(&id, after);
        let found = Found {
            association: Some(association),
            sequence: after,
        };
        assert_eq!(association::parse(&body), Some((id, found)));
    }
}

#[test]
fn what_is_somebody_elses_or_not_as_it_was_made_is_told() {
    let (id, association) = association(false, false);
    let body = association.emit(&id, 0);
    let changed = |at: usize| {
        let mut body = body.clone();
        body[at] ^= 1;
        association::parse(&body)
    };
    for foreign in [76, 208] {
        assert_eq!(changed(foreign), None, "octet {foreign}");
    }
    // Selector, mode, flags, cipher, length of the key, kind of encapsulation, window.
    let attributes = 224;
    let encapsulation = attributes + 4 + 92;
    let replay = encapsulation + 4 + 24;
    for odd in [
        0,
        44,
        214,
        216,
        attributes + 4,
        attributes + 4 + 64,
        encapsulation + 4,
        replay + 4 + 20,
    ] {
        let (_, found) = changed(odd).unwrap();
        assert_eq!(found.association, None, "octet {odd}");
    }
    // The key is another one, the ports are.
    for other in [attributes + 4 + 72, encapsulation + 4 + 2] {
        let (_, found) = changed(other).unwrap();
        let found = found.association;
        assert!(found.is_none_or(|found| !association.is(&found)), "{other}");
    }
    let mut hidden = body.clone();
    hidden[attributes + 4 + 72..attributes + 4 + 92].fill(0);
    let (_, found) = association::parse(&hidden).unwrap();
    assert!(association.is(&found.association.unwrap()));
}

#[test]
fn a_policy_is_read_as_it_was_made() {
    let [one, other]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|one| one.parse().unwrap());
    let selector = Selector::udp(one, other);
    let policy = Policy::new(one, other, 0x1001);
    assert_eq!(
        (policy.spi(), selector.destination()),
        (Some(0x1001), Some(other))
    );
    let body = policy.emit(&selector);
    assert_eq!(Policy::parse(&body), Some((selector, policy.clone())));
    // Direction, `reqid`, mark.
    for foreign in [160, 168 + 4 + 44, body.len() - 8, body.len() - 1] {
        let mut body = body.clone();
        body[foreign] ^= 1;
        assert_eq!(Policy::parse(&body), None, "octet {foreign}");
    }
    for odd in [161, 152, 168 + 4 + 16] {
        let mut body = body.clone();
        body[odd] ^= 1;
        let (_, found) = Policy::parse(&body).unwrap();
        assert_ne!(found, policy, "octet {odd}");
    }
}

proptest! {
    #[test]
    fn arbitrary_octets_never_panic(octets: Vec<u8>, at: usize, octet: u8) {
        let _ = (association::parse(&octets), Policy::parse(&octets));
        let (id, association) = association(at % 2 == 0, octet % 2 == 0);
        let mut body = association.emit(&id, 0);
        let at = at % body.len();
        body[at] = octet;
        let _ = association::parse(&body);
        body.truncate(at);
        let _ = (association::parse(&body), Policy::parse(&body));
    }
}
