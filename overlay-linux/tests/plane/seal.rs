//! Encrypted networks: nothing of them passes that is not sealed, whatever is missing or somebody takes away.

use std::net::IpAddr;

use overlay_core::plane::{DesiredNetwork, PeerKeys, PlatformError, SaKeys};
use overlay_linux::plane::{
    Host, Kernel, NoFiltering, NoSealing, Operation, Reconciler, Refused, Report, Rules,
    SealingStep, SwitchNamespace, Tables, Underlay, Watch, can_seal,
};

use crate::net::{Node, Outcome, World, inside_of, say};

/// Where the kernel cannot seal, it is said, and the network is closed in both directions.
pub(crate) fn refused() -> Outcome<()> {
    let mut world = World::bare(false)?;
    let fitness = fitness(&world, false)?;
    let Err(reason) = fitness else {
        say("SKIPPED: this kernel can seal");
        return Ok(());
    };
    assert!(matches!(reason, NoSealing::Esp { .. }), "{reason:?}");
    let words = reason.to_string();
    assert!(words.contains("load the modules esp4"), "{words}");
    encrypt(&mut world.hosts[0], 0);
    let report = world.apply(0)?;
    let refused: Vec<&Refused> = report.refused.iter().map(|(_, reason)| reason).collect();
    assert_eq!(refused, [&Refused::Sealing { reason }]);
    assert!(world.in_switch(0, "ip link show dev ovx4097").is_err());
    // Whoever makes a device of that number by hand sends nothing by it and hears nothing: of a peer that sends in clear.
    by_hand(&world)?;
    for host in 0..2 {
        let (here, there) = (2 - host, host + 1);
        let before = in_clear(&mut world)?;
        let ping = format!("ping -n -c 2 -i 0.2 -W 1 10.9.9.{here}");
        assert!(world.outside(host, &ping).is_err(), "from host {there}");
        assert!(in_clear(&mut world)? > before, "from host {there}");
    }
    assert_eq!(seen(&world, 4789)?, 0, "in clear");
    // Repaired, and as tight as before; without it all of that passes.
    world.outside(0, "nft delete table inet overlay_guard")?;
    world.outside(0, "ping -n -c 4 -W 1 10.9.9.2")?;
    assert!(seen(&world, 4789)? > 0);
    assert_eq!(world.plan(0)?, ["guard: make the table"]);
    assert_eq!(world.apply(0)?.repairs, 1);
    assert!(world.outside(0, "ping -n -c 1 -W 1 10.9.9.2").is_err());
    assert!(world.outside(1, "ping -n -c 1 -W 1 10.9.9.1").is_err());
    Ok(())
}

/// A kernel with everything but associations: each layer by itself lets nothing out in clear.
pub(crate) fn layers() -> Outcome<()> {
    let mut world = World::bare(false)?;
    if fitness(&world, false)?.is_ok() {
        say("SKIPPED: this kernel can seal");
        return Ok(());
    }
    let mut plane = open(&world.hosts[0], Without::Associations)?;
    encrypt(&mut world.hosts[0], 0);
    world.apply(1)?;
    count(&world)?;
    let desired = world.hosts[0].desired.clone();
    plane.apply(&desired)?;
    assert_eq!(done(&plane.plan(&desired)?), Vec::<String>::new());
    let policies = world.outside(0, "ip xfrm policy")?;
    for part in [
        "src 192.0.2.1/32 dst 192.0.2.2/32 proto udp",
        "mark 0x6f766c79/0xffffffff",
        "spi 0x00001001 reqid 1870031993 mode transport",
    ] {
        assert!(policies.contains(part), "{part} in {policies}");
    }
    let clear = |plane: &mut Reconciler<Partial>| -> Outcome<u64> {
        let drops = plane.kernel().host.drops()?;
        Ok(drops.get("in_clear").copied().unwrap_or_default())
    };
    let silent = |world: &World, what: &str| {
        let pinged = world.inside(1, "ping -n -c 2 -i 0.2 -W 1 10.0.1.3");
        assert!(pinged.is_err(), "{what}");
        assert_eq!(seen(world, 4789).ok(), Some(0), "{what}");
    };
    // The policy wants an association, and there is none: such a route leads nowhere.
    silent(&world, "policies");
    let before = clear(&mut plane)?;
    // No policy: the guard.
    let switch = SwitchNamespace::open(&world.hosts[0].switch)?;
    let mut watch = inside_of(&world.hosts[0].outside, move || Ok(Watch::open(&switch)?))?;
    world.outside(0, "ip xfrm policy flush")?;
    assert!(watch.is_due()?, "a flush is heard of");
    silent(&world, "no policies");
    let dropped = clear(&mut plane)?;
    assert!(dropped > before);
    let words = done(&plane.apply(&desired)?);
    assert_eq!(words, ["seal with SPI 0x00001001 to 192.0.2.2"]);
    // No mark: the guard again.
    world.in_switch(0, "nft delete table bridge overlay_plane")?;
    silent(&world, "no mark");
    assert!(clear(&mut plane)? > dropped);
    plane.apply(&desired)?;
    // No guard: the policy.
    world.outside(0, "nft delete table inet overlay_guard")?;
    silent(&world, "no guard");
    // None of these, which is what all of this is for.
    world.outside(0, "ip xfrm policy flush")?;
    let _ = world.inside(1, "ping -n -c 1 -W 1 10.0.1.3");
    assert!(seen(&world, 4789)? > 0);
    plane.apply(&desired)?;
    // What comes in clear from a member.
    let before = clear(&mut plane)?;
    assert!(world.inside(3, "ping -n -c 1 -W 1 10.0.1.1").is_err());
    assert!(clear(&mut plane)? > before);
    // Others' policies stay.
    let foreign = "ip xfrm policy add src 192.0.2.1/32 dst 192.0.2.2/32 proto udp dport 53 dir out tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 7 mode transport";
    world.outside(0, foreign)?;
    plane.apply(&overlay_core::plane::Desired::default())?;
    let policies = world.outside(0, "ip xfrm policy")?;
    assert!(
        policies.contains("reqid 7 ") && !policies.contains("0x6f766c79"),
        "{policies}"
    );
    assert!(world.outside(0, "nft list tables")?.is_empty());
    Ok(())
}

/// Only the other networks' frames are in clear.
pub(crate) fn beside() -> Outcome<()> {
    let mut world = World::new(false)?;
    let mut desired = world.hosts[0].desired.clone();
    let mut other = desired.networks.values().next().cloned().ok_or("none")?;
    other.vni = overlay_core::Vni::new(4098).ok_or("no VNI")?;
    (other.encrypted, other.ports) = (true, Default::default());
    let id = overlay_core::NetworkId::from_bytes([2; 16]);
    desired.networks.insert(id, other);
    let report = world.hosts[0].plane.apply(&desired)?;
    let expected = usize::from(fitness(&world, false)?.is_err());
    assert_eq!(report.refused.len(), expected);
    world.reaches(1, 3)?;
    world.reaches(3, 1)?;
    Ok(())
}

/// Which of a kernel's parts is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Without {
    /// A kernel with IPsec, but no ESP.
    Associations,
    /// One with no nf_tables of IP.
    Guard,
}

/// The kernel, which is said to be able to seal.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) host: Host,
    without: Without,
    /// The guard that was asked for where there can be none.
    pretended: Option<Rules>,
}

impl Kernel for Partial {
    fn can_seal(&mut self, _v6: bool) -> Result<(), NoSealing> {
        Ok(())
    }

    fn can_filter(&mut self) -> Result<(), NoFiltering> {
        self.host.can_filter()
    }

    fn read(&mut self) -> Result<Tables, PlatformError> {
        let mut tables = self.host.read()?;
        if self.without == Without::Guard {
            tables.guard.clone_from(&self.pretended);
        }
        Ok(tables)
    }

    fn carry_out(&mut self, operation: &Operation) -> Result<(), PlatformError> {
        match (self.without, operation) {
            (Without::Guard, Operation::Guard { to, .. }) => self.pretended.clone_from(to),
            (Without::Associations, Operation::Sealing(step)) if is_association(step) => {}
            _ => return self.host.carry_out(operation),
        }
        Ok(())
    }
}

fn is_association(step: &SealingStep) -> bool {
    let words = step.to_string();
    words.starts_with("associate") || words.starts_with("dissociate")
}

/// What is done but for associations, which are tried again each time.
fn done(report: &Report) -> Vec<String> {
    let words = report.operations.iter().map(ToString::to_string);
    words
        .filter(|words| !words.starts_with("associate"))
        .collect()
}

/// Opens a plane of a host, as [`crate::net::open`].
pub(crate) fn open(node: &Node, without: Without) -> Outcome<Reconciler<Partial>> {
    let switch = node.switch.clone();
    let opened = inside_of(&node.outside, move || {
        Ok(Host::open(SwitchNamespace::open(switch)?)?)
    });
    let underlay = Underlay {
        local: node.address,
        port: 4789,
    };
    let kernel = Partial {
        host: opened?,
        without,
        pretended: None,
    };
    Ok(Reconciler::new(kernel, underlay))
}

/// Makes a host's network an encrypted one, with keys of a generation.
pub(crate) fn encrypt(node: &mut Node, host: usize) {
    let peer: Vec<IpAddr> = networks(node).flat_map(|one| one.vteps.clone()).collect();
    networks(node).for_each(|network| {
        network.encrypted = true;
        network.mtu -= 50;
    });
    for peer in peer {
        let keys = PeerKeys {
            outbound: key(host, 1),
            inbound: vec![key(1 - host, 1)],
        };
        node.desired.peers.insert(peer, keys);
    }
}

/// What a host sends with in a generation.
pub(crate) fn key(host: usize, generation: u8) -> SaKeys {
    let number = 0x1001 + u32::from(generation - 1) * 0x1000 + u32::try_from(host).unwrap_or(9);
    let octet = generation * 16 + u8::from(host > 0);
    SaKeys::new(number, [octet; 16], [octet + 7; 4])
}

fn networks(node: &mut Node) -> impl Iterator<Item = &mut DesiredNetwork> {
    node.desired.networks.values_mut()
}

pub(crate) fn fitness(world: &World, v6: bool) -> Outcome<Result<(), NoSealing>> {
    inside_of(&world.hosts[0].outside, move || Ok(can_seal(v6)))
}

fn in_clear(world: &mut World) -> Outcome<u64> {
    let drops = world.hosts[0].plane.kernel().drops()?;
    Ok(drops.get("in_clear").copied().unwrap_or_default())
}

/// Devices of the encrypted network's number, made by the usual tools.
fn by_hand(world: &World) -> Outcome<()> {
    for (host, peer) in [(0, 2), (1, 1)] {
        let own = 3 - peer;
        for words in [
            format!(
                "ip link add vx0 type vxlan id 4097 dstport 4789 local 192.0.2.{own} remote 192.0.2.{peer}"
            ),
            format!("ip addr add 10.9.9.{own}/24 dev vx0"),
            "ip link set vx0 up".to_owned(),
        ] {
            world.outside(host, &words)?;
        }
    }
    count(world)
}

/// Counts what comes to the second host, before anything else sees it.
fn count(world: &World) -> Outcome<()> {
    for words in [
        "nft add table inet seen",
        "nft add chain inet seen input { type filter hook prerouting priority -500 ; }",
        "nft add rule inet seen input udp dport 4789 counter",
        "nft add rule inet seen input udp dport 4500 counter",
    ] {
        world.outside(1, words)?;
    }
    Ok(())
}

fn seen(world: &World, port: u16) -> Outcome<u64> {
    let rules = world.outside(1, "nft list table inet seen")?;
    let mark = format!("udp dport {port} counter packets ");
    let rest = rules.split(&mark).nth(1).ok_or("no such counter")?;
    Ok(rest.split(' ').next().ok_or("no number")?.parse()?)
}
