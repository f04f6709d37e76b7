//! Encrypted networks on a kernel that can seal: told inside user-mode Linux where the running one cannot.

use std::{
    net::{IpAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType},
};
use overlay_core::{Seed, plane::SaKeys};
use overlay_linux::{
    Frame,
    plane::{NoSealing, Reconciler},
};
use overlay_vxlan::{
    Outer,
    esp::{self, Associations, Config},
    wire::esp::Spi,
};

use crate::{
    cipher::Ring,
    net::{Outcome, World, eventually, inside_of, pause, say},
    seal::{Partial, Without, encrypt, fitness, key, open},
};

/// Two kernels: everything is sealed, keys change without a loss, nothing is taken twice, and what is flushed goes on.
pub(crate) fn over_ipv4() -> Outcome<()> {
    between_kernels(false)
}

/// The same over IPv6.
pub(crate) fn over_ipv6() -> Outcome<()> {
    between_kernels(true)
}

fn between_kernels(v6: bool) -> Outcome<()> {
    let Some(mut world) = sealing_world(v6)? else {
        return Ok(());
    };
    let mut planes = [planned(&world, 0)?, planned(&world, 1)?];
    for (host, plane) in planes.iter_mut().enumerate() {
        let plan = plane.plan(&world.hosts[host].desired)?;
        assert_eq!(plan.operations, [], "all is read back as it was made");
    }
    let capture = Capture::start(&world, 0)?;
    // Links inside of a kernel that has just begun take their time.
    eventually(|| world.reaches(1, 3).is_ok(), "a first answer")?;
    eventually(
        || world.reaches(4, 2).is_ok(),
        "a first answer of the other pair",
    )?;
    world.inside(1, "ping -n -c 2 -i 0.2 -W 2 -s 4000 10.0.1.3")?;
    let flow = world.start(1, "ping -n -q -i 0.02 -c 150 -W 2 10.0.1.3")?;
    rotate(&mut world, &mut planes)?;
    let text = String::from_utf8(flow.wait_with_output()?.stdout)?;
    assert!(text.contains("150 received, 0% packet loss"), "{text}");
    world.reaches(3, 1)?;
    let seen = capture.end()?;
    let sealed = seen.iter().filter(|one| one.port == 4500).count();
    assert!(sealed > 300, "{sealed} of {}", seen.len());
    assert_eq!(seen.len(), sealed, "in clear");
    // What came before, again.
    let last = seen.iter().rfind(|one| one.to == world.hosts[0].address);
    let again = last.ok_or("nothing came")?.payload.clone();
    assert_eq!(again[..4], 0x2002_u32.to_be_bytes(), "of the new keys");
    replayed(&world, &again)?;
    // Somebody flushes: keys are taken up beyond where they were.
    let flushes: &[&str] = if v6 { &[] } else { &["state", "policy"] };
    for &what in flushes {
        // What came since it was read last could come once more.
        planes[0].plan(&world.hosts[0].desired)?;
        world.outside(0, &format!("ip xfrm {what} flush"))?;
        if what == "state" {
            assert!(world.inside(1, "ping -n -c 1 -W 1 10.0.1.3").is_err());
        }
        let report = planes[0].apply(&world.hosts[0].desired)?;
        assert!(report.repairs > 0 && !report.operations.is_empty());
        eventually(|| world.reaches(1, 3).is_ok(), "an answer after a repair")?;
        world.reaches(3, 1)?;
        replayed(&world, &again)?;
    }
    planes[0].apply(&overlay_core::plane::Desired::default())?;
    for what in ["state", "policy"] {
        let left = world.outside(0, &format!("ip xfrm {what}"))?;
        assert!(
            !left.contains("4500") && !left.contains("0x6f766c79"),
            "{left}"
        );
    }
    Ok(())
}

/// A kernel and the user plane's own sealing understand each other.
pub(crate) fn with_user() -> Outcome<()> {
    let Some(world) = sealing_world(false)? else {
        return Ok(());
    };
    let mut plane = planned(&world, 0)?;
    let stop = Arc::new(AtomicBool::new(false));
    let user = {
        let (here, there, stop) = (world.hosts[1].address, world.hosts[0].address, stop.clone());
        let outside = world.hosts[1].outside.path().to_owned();
        thread::Builder::new().spawn(move || {
            let outside = overlay_linux::plane::SwitchNamespace::open(outside)?;
            inside_of(&outside, move || answer(here, there, &stop))
        })?
    };
    let capture = Capture::start(&world, 0)?;
    let mut reached = Ok(());
    // All lengths of the padding.
    for bytes in [56, 57, 58, 59, 1_300] {
        let ping = format!("ping -n -c 3 -i 0.2 -W 1 -s {bytes} 10.0.1.3");
        reached = reached.and(world.inside(1, &ping).map(drop));
    }
    stop.store(true, Ordering::Relaxed);
    let answered = user.join().map_err(|_| "the user plane panicked")?;
    reached?;
    assert!(answered? >= 15);
    let seen = capture.end()?;
    assert!(seen.len() >= 30 && seen.iter().all(|one| one.port == 4500));
    plane.apply(&overlay_core::plane::Desired::default())?;
    Ok(())
}

/// Opens what comes, and seals an answer to each question for 10.0.1.3; returns how many there were.
fn answer(here: IpAddr, there: IpAddr, stop: &AtomicBool) -> Outcome<u32> {
    let user = |keys: SaKeys| esp::SaKeys::new(Spi(keys.spi), keys.key(), keys.salt());
    let keys = esp::PeerKeys {
        outbound: user(key(1, 1))?,
        inbound: vec![user(key(0, 1))?],
    };
    let mut associations = Associations::new(Config::default(), Arc::new(Ring), &Seed::from_u64(1));
    associations.set_peer(there, &keys)?;
    let socket = UdpSocket::bind((here, 4500))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (mut buffer, mut answered) = ([0; 2_048], 0);
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, _)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let mut frame = Frame::with_headroom(Frame::HEADROOM, &buffer[..length]);
        let opened = associations.open(there, &mut frame)?;
        let mut octets = frame.bytes().to_vec();
        // VXLAN, Ethernet, IPv4 and an ICMP echo request.
        if octets.get(20..22) != Some(&[8, 0]) || octets.get(31) != Some(&1) || octets[42] != 8 {
            continue;
        }
        assert_eq!(octets[4..7], [0, 0x10, 1], "the VNI");
        let swap = |octets: &mut Vec<u8>, one: usize, other: usize, length: usize| {
            for at in 0..length {
                octets.swap(one + at, other + at);
            }
        };
        swap(&mut octets, 8, 14, 6);
        swap(&mut octets, 34, 38, 4);
        octets[42] = 0;
        let sum = u16::from_be_bytes([octets[44], octets[45]]);
        let (sum, carry) = sum.overflowing_add(0x0800);
        let sum = (sum + u16::from(carry)).to_be_bytes();
        octets[44..46].copy_from_slice(&sum);
        let mut frame = Frame::with_headroom(Frame::HEADROOM, &octets);
        let outer = Outer {
            source_port: opened.source_port,
            traffic_class: 0,
        };
        associations.seal(there, outer, &mut frame)?;
        socket.send_to(frame.bytes(), (there, 4500))?;
        answered += 1;
    }
    Ok(answered)
}

/// New keys are taken first, then sent with, and then the old ones go.
fn rotate(world: &mut World, planes: &mut [Reconciler<Partial>; 2]) -> Outcome<()> {
    for step in 0..3 {
        for (host, plane) in planes.iter_mut().enumerate() {
            pause(250);
            let desired = &mut world.hosts[host].desired;
            for peer in desired.peers.values_mut() {
                match step {
                    0 => peer.inbound.push(key(1 - host, 2)),
                    1 => peer.outbound = key(host, 2),
                    _ => drop(peer.inbound.remove(0)),
                }
            }
            let report = plane.apply(desired)?;
            let expected = [1, 3, 1][step];
            assert_eq!(report.operations.len(), expected, "{:?}", report.operations);
        }
    }
    Ok(())
}

/// Sends a datagram of the second host again: it is dropped for its number.
fn replayed(world: &World, payload: &[u8]) -> Outcome<()> {
    let before = late(world)?;
    let (payload, here, there) = (
        payload.to_vec(),
        world.hosts[1].address,
        world.hosts[0].address,
    );
    inside_of(&world.hosts[1].outside, move || {
        Ok(UdpSocket::bind((here, 0))?.send_to(&payload, (there, 4500))?)
    })?;
    eventually(
        || late(world).is_ok_and(|now| now == before + 1),
        "a replay to be dropped",
    )
}

fn late(world: &World) -> Outcome<u64> {
    let counters = world.outside(0, "cat /proc/net/xfrm_stat")?;
    let line = counters
        .lines()
        .find_map(|line| line.strip_prefix("XfrmInStateSeqError"));
    Ok(line.ok_or("no counter")?.trim().parse()?)
}

/// With both networks encrypted; none where this kernel cannot.
fn sealing_world(v6: bool) -> Outcome<Option<World>> {
    let mut world = World::bare(v6)?;
    match fitness(&world, v6)? {
        Ok(()) => {}
        // All but rules of IP: user-mode Linux.
        Err(NoSealing::Rules { .. }) => {}
        Err(reason) => {
            say(&format!("SKIPPED: this kernel cannot seal: {reason}"));
            return Ok(None);
        }
    }
    for host in 0..2 {
        encrypt(&mut world.hosts[host], host);
    }
    for number in 1..=4 {
        let mtu = crate::net::mtu(v6) - 50;
        world.inside(number, &format!("ip link set eth0 mtu {mtu}"))?;
    }
    Ok(Some(world))
}

fn planned(world: &World, host: usize) -> Outcome<Reconciler<Partial>> {
    let node = &world.hosts[host];
    let mut plane = open(node, Without::Guard)?;
    let report = plane.apply(&node.desired)?;
    assert_eq!(report.refused, []);
    Ok(plane)
}

/// What passes between the hosts, as a thread hears it.
struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome<Vec<Seen>>>,
}

/// A UDP datagram.
struct Seen {
    to: IpAddr,
    port: u16,
    payload: Vec<u8>,
}

impl Capture {
    fn start(world: &World, host: usize) -> Outcome<Self> {
        let socket = inside_of(&world.hosts[host].outside, || {
            let (kind, all) = (SockType::Raw, SockProtocol::EthAll);
            let flags = SockFlag::SOCK_NONBLOCK;
            Ok(socket::socket(AddressFamily::Packet, kind, flags, all)?)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().spawn(move || hear(&socket, &stopped))?;
        Ok(Self { stop, thread })
    }

    fn end(self) -> Outcome<Vec<Seen>> {
        pause(300);
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the capture panicked")?
    }
}

fn hear(socket: &OwnedFd, stop: &AtomicBool) -> Outcome<Vec<Seen>> {
    let (mut seen, mut buffer) = (Vec::new(), vec![0; 65_536]);
    while !stop.load(Ordering::Relaxed) {
        let mut watched = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut watched, PollTimeout::from(50_u8))?;
        while let Ok(length) = socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            seen.extend(datagram(&buffer[..length])?);
        }
    }
    Ok(seen)
}

fn datagram(frame: &[u8]) -> Outcome<Option<Seen>> {
    let (to, udp) = match (&frame[12..14], frame.get(20), frame.get(23)) {
        ([0x86, 0xdd], Some(17), _) => (IpAddr::from(<[u8; 16]>::try_from(&frame[38..54])?), 54),
        ([8, 0], _, Some(17)) => (IpAddr::from(<[u8; 4]>::try_from(&frame[30..34])?), 34),
        _ => return Ok(None),
    };
    let udp = &frame[udp..];
    let port = u16::from_be_bytes([udp[2], udp[3]]);
    let payload = udp[8..].to_vec();
    Ok(Some(Seen { to, port, payload }))
}
