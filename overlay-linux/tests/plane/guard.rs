//! What nobody may send.

use std::net::UdpSocket;

use overlay_linux::plane::{Obstacle, Underlay, check};

use crate::net::{Outcome, World, inside_of, mac, within};

/// Frames that are not what they say they are get nowhere, and are counted by what is wrong with them.
pub(crate) fn spoofing() -> Outcome<()> {
    let mut world = World::new(false)?;
    let attempts = [
        (
            "source_address",
            "ip addr add 10.0.1.66/24 dev eth0",
            "ping -n -c 1 -W 1 -I 10.0.1.66 10.0.1.3",
        ),
        (
            "source_address",
            "ip addr add fd00:1::66/64 dev eth0 nodad",
            "ping -n -c 1 -W 1 -I fd00:1::66 fd00:1::3",
        ),
        (
            "foreign_address",
            "ip route add 10.7.0.0/16 dev eth0",
            "ping -n -c 1 -W 1 10.7.0.1",
        ),
        (
            "source_mac",
            "ip link set eth0 address 02:00:00:00:00:66",
            "ping -n -c 1 -W 1 10.0.1.3",
        ),
    ];
    world.reaches(1, 3)?;
    for (reason, preparation, attempt) in attempts {
        if reason == "foreign_address" {
            // Whoever knows a MAC address needs no answer.
            world.inside(
                1,
                &format!("ip neigh add 10.7.0.1 lladdr {} dev eth0", mac(3)),
            )?;
        }
        world.inside(1, preparation)?;
        let before = dropped(&mut world, 0, reason)?;
        assert!(world.inside(1, attempt).is_err(), "{attempt}");
        let after = dropped(&mut world, 0, reason)?;
        assert!(after > before, "{attempt}: {reason} {before} -> {after}");
        // Others are none the worse.
        world.reaches(2, 4)?;
    }
    Ok(())
}

/// A storm of one endpoint is cut short, and the others' questions go on.
pub(crate) fn storm() -> Outcome<()> {
    let mut world = World::new(false)?;
    let neighbour = "ip neigh add 10.0.1.200 lladdr ff:ff:ff:ff:ff:ff dev eth0";
    world.inside(1, neighbour)?;
    let before = received(&world)?;
    // As fast as it goes.
    let _ = world.inside(1, "ping -n -q -l 4000 -c 40000 -f -w 2 10.0.1.200");
    assert!(dropped(&mut world, 0, "flood_rate")? > 1_000);
    let flooded = received(&world)? - before;
    assert!(flooded < 6_000, "{flooded} frames came through");
    world.reaches(2, 4)?;
    Ok(())
}

fn received(world: &World) -> Outcome<u64> {
    let text = world.inside(3, "cat /proc/net/dev")?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("eth0:"));
    let packets = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(packets.ok_or("no counter")?.parse()?)
}

/// A VTEP that is no member is not heard, also where it knows the VNI, and somebody else's VNI is left alone.
pub(crate) fn strangers() -> Outcome<()> {
    let mut world = World::new(false)?;
    // The second host speaks by another address than the one that it is a member by.
    world.outside(1, "ip addr add 192.0.2.77/24 dev under")?;
    let stranger = "ip link add vx0 type vxlan id 4097 dstport 4790 local 192.0.2.77 remote 192.0.2.1 nolearning";
    world.outside(1, stranger)?;
    world.outside(1, "ip link del vx0")?;
    world.in_switch(1, "ip link del ovx4097")?;
    world.outside(
        1,
        "ip link add vx0 type vxlan id 4097 dstport 4789 local 192.0.2.77 nolearning",
    )?;
    world.outside(1, &format!("ip link set vx0 address {} up", mac(3)))?;
    world.outside(
        1,
        "bridge fdb append 00:00:00:00:00:00 dev vx0 dst 192.0.2.1",
    )?;
    world.outside(1, "ip addr add 10.0.1.3/24 dev vx0")?;
    assert!(
        world
            .outside(1, "ping -n -c 2 -i 0.2 -W 1 10.0.1.1")
            .is_err()
    );
    assert!(dropped(&mut world, 0, "unknown_vtep")? > 0);
    // Whatever stands in the octet that is reserved; and a VNI that is nobody's here is nobody's matter.
    for (header, counts) in [([0, 0x10, 0x01, 0xff], true), ([0, 0, 5, 0], false)] {
        let before = dropped(&mut world, 0, "unknown_vtep")?;
        inside_of(&world.hosts[1].outside, move || {
            let socket = UdpSocket::bind("192.0.2.77:0")?;
            let datagram = [&[8, 0, 0, 0], &header[..], &[0; 60]].concat();
            Ok(socket.send_to(&datagram, "192.0.2.1:4789")?)
        })?;
        let after = dropped(&mut world, 0, "unknown_vtep")?;
        assert_eq!(after > before, counts, "{header:?}: {before} -> {after}");
    }
    // The same by the address that it is a member by: heard.
    world.outside(1, "ip link del vx0")?;
    world.outside(
        1,
        "ip link add vx0 type vxlan id 4097 dstport 4789 local 192.0.2.2 nolearning",
    )?;
    world.outside(1, &format!("ip link set vx0 address {} up", mac(3)))?;
    world.outside(
        1,
        "bridge fdb append 00:00:00:00:00:00 dev vx0 dst 192.0.2.1",
    )?;
    world.outside(1, "ip addr add 10.0.1.3/24 dev vx0")?;
    world.outside(1, "ping -n -c 1 -W 2 10.0.1.1")?;
    Ok(())
}

/// What stands in the way is named: another VXLAN device of the VNI, and a socket at the port.
pub(crate) fn obstacles() -> Outcome<()> {
    let mut world = World::bare(false)?;
    let scratch = world.folder.path().join("scratch");
    let underlay = Underlay {
        local: world.hosts[0].address,
        port: 4789,
    };
    let checked = |world: &World| {
        let scratch = scratch.clone();
        inside_of(&world.hosts[0].outside, move || {
            Ok(check(&underlay, &scratch))
        })
    };
    assert_eq!(checked(&world)?, Ok(()));
    assert!(!scratch.exists());
    // Our own and others' devices are in nobody's way.
    world.apply(0)?;
    world.outside(
        0,
        "ip link add vx99 type vxlan id 99 dstport 4789 local 192.0.2.1",
    )?;
    assert_eq!(checked(&world)?, Ok(()));
    let mut desired = world.hosts[0].desired.clone();
    world.outside(0, "ip link del vx99")?;
    world.outside(
        0,
        "ip link add vx98 type vxlan id 4098 dstport 4789 local 192.0.2.1",
    )?;
    for network in desired.networks.values_mut() {
        network.vni = overlay_core::Vni::new(4098).ok_or("no VNI")?;
    }
    let refused = world.hosts[0].plane.apply(&desired).map(drop);
    let words = refused.err().ok_or("it was made")?.to_string();
    assert!(
        words.contains("another VXLAN device has its VNI at UDP port 4789"),
        "{words}"
    );
    world.outside(0, "ip link del vx98")?;
    world.hosts[0].plane.apply(&desired)?;
    world.hosts[0]
        .plane
        .apply(&overlay_core::plane::Desired::default())?;
    // A program that has the port.
    let socket = inside_of(&world.hosts[0].outside, || {
        Ok(UdpSocket::bind("0.0.0.0:4789")?)
    })?;
    assert_eq!(checked(&world)?, Err(Obstacle::Socket { port: 4789 }));
    let refused = world.apply(0).map(drop);
    let words = refused.err().ok_or("it was made")?.to_string();
    assert!(
        words.contains("a program's socket has UDP port 4789"),
        "{words}"
    );
    drop(socket);
    world.apply(0)?;
    // A device that shares with nobody.
    world.hosts[0]
        .plane
        .apply(&overlay_core::plane::Desired::default())?;
    world.outside(0, "ip link add vx97 type vxlan dstport 4789 external")?;
    world.outside(0, "ip link set vx97 up")?;
    let found = checked(&world)?;
    let expected = Obstacle::Device {
        port: 4789,
        device: "vx97".to_owned(),
    };
    assert_eq!(found, Err(expected));
    Ok(())
}

/// A host whose VXLAN device was made by hand, with the usual tools.
pub(crate) fn by_hand() -> Outcome<()> {
    let mut world = World::bare(false)?;
    world.apply(0)?;
    let switch = world.hosts[1].switch.clone();
    let made = "ip link add vx0 type vxlan id 4097 dstport 4789 local 192.0.2.2 nolearning";
    world.outside(1, made)?;
    world.outside(1, &format!("ip link set vx0 netns {}", switch.display()))?;
    let (third, fourth) = (
        overlay_linux::plane::port_name(crate::net::endpoint(3)),
        overlay_linux::plane::port_name(crate::net::endpoint(4)),
    );
    for words in [
        "ip link add br0 type bridge".to_owned(),
        "ip link set vx0 mtu 1450 master br0 up".to_owned(),
        "ip link set br0 up".to_owned(),
        format!("ip link set {third} master br0 up"),
        format!("ip link set {fourth} master br0 up"),
        "bridge fdb append 00:00:00:00:00:00 dev vx0 dst 192.0.2.1".to_owned(),
        format!("bridge fdb add {} dev vx0 self dst 192.0.2.1", mac(1)),
    ] {
        within(&switch, &words)?;
    }
    crate::net::eventually(|| world.reaches(1, 3).is_ok(), "the bridge to forward")?;
    for (from, to) in [(1, 3), (3, 1), (2, 4), (4, 2), (1, 2)] {
        world.reaches(from, to)?;
    }
    world.inside(1, "ping -n -c 1 -W 2 -M do -s 1422 10.0.1.4")?;
    world.inside(3, "ping -n -c 1 -W 2 -s 4000 fd00:1::2")?;
    Ok(())
}

fn dropped(world: &mut World, host: usize, reason: &str) -> Outcome<u64> {
    let drops = world.hosts[host].plane.kernel().drops()?;
    Ok(drops.get(reason).copied().unwrap_or_default())
}
