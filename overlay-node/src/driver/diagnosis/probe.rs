//! Packets from an endpoint here to one of each peer, through everything that is in between.
//!
//! They go to a port where nobody listens, and the peer's own network stack answers: TCP with a reset, UDP with an ICMP
//! error. Both come only if what was sent arrived whole, with a good checksum. So nothing has to run at the other end, and
//! a device that mangles one of the protocols inside of VXLAN shows in that protocol alone.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use overlay_core::{
    EndpointId,
    plane::{DataPath, Desired, PlatformError},
};
use tokio::{net::TcpSocket, task::JoinSet};

use overlay_vxlan::outer::encapsulation_bytes;

use super::Finding;
use crate::driver::{plane::PathInfo, platform::PlatformThread};

/// Which way is tried.
#[derive(Clone, Copy, Debug)]
struct Way {
    from: EndpointId,
    to: IpAddr,
    vtep: IpAddr,
    mtu: u16,
    kernel: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answers {
    tcp: bool,
    small: bool,
    large: bool,
}

/// Tries the way to one endpoint of each network on each peer.
///
/// Where the switch knows how much passes, packets are that large and no larger: endpoints are told.
pub(super) async fn overlay(
    platform: &PlatformThread,
    desired: &Desired,
    paths: &BTreeMap<IpAddr, PathInfo>,
) -> Vec<Finding> {
    let mut tried = JoinSet::new();
    for (about, way) in ways(desired, paths).into_iter().take(WAYS_MAX) {
        let platform = platform.clone();
        tried.spawn(async move {
            let answers = answers(&platform, way).await;
            (about, way, answers)
        });
    }
    let mut found = tried.join_all().await;
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let finding =
        |(about, way, answers): (String, Way, Result<Answers, PlatformError>)| match answers {
            Ok(answers) => judge(about, way, answers),
            Err(error) => Finding::bad(
                "overlay",
                about,
                format!("it cannot be tried: {error}"),
                "try it on another node",
            )
            .as_warning(),
        };
    found.into_iter().map(finding).collect()
}

fn ways(desired: &Desired, paths: &BTreeMap<IpAddr, PathInfo>) -> BTreeMap<String, Way> {
    let mut ways = BTreeMap::new();
    for network in desired.networks.values() {
        let kernel = network.path == DataPath::Kernel;
        for remote in network.remotes.values() {
            let outer = paths.get(&remote.vtep).and_then(|info| info.mtu);
            let inner = outer.map(|outer| outer.saturating_sub(encapsulation_bytes(remote.vtep)));
            for to in &remote.addresses {
                let family = |port: &&overlay_core::plane::DesiredPort| {
                    let own = &port.addresses;
                    own.iter().any(|own| own.addr().is_ipv4() == to.is_ipv4())
                };
                let mut ports = network.ports.iter();
                let Some((from, _)) = ports.find(|(_, port)| family(port)) else {
                    continue;
                };
                let version = if to.is_ipv4() { "IPv4" } else { "IPv6" };
                let about = format!("VNI {} to {}, {version}", network.vni, remote.vtep);
                ways.entry(about).or_insert(Way {
                    from: *from,
                    to: *to,
                    vtep: remote.vtep,
                    mtu: inner.map_or(network.mtu, |inner| inner.min(network.mtu)),
                    kernel,
                });
            }
        }
    }
    ways
}

async fn answers(platform: &PlatformThread, way: Way) -> Result<Answers, PlatformError> {
    let (small, large) = (1, way.mtu.saturating_sub(headers(way.to)));
    Ok(Answers {
        tcp: tcp(platform, way).await?,
        small: udp(platform, way, small).await?,
        large: udp(platform, way, large).await?,
    })
}

/// Octets of IP and UDP headers.
fn headers(to: IpAddr) -> u16 {
    match to {
        IpAddr::V4(_) => 20 + 8,
        IpAddr::V6(_) => 40 + 8,
    }
}

async fn tcp(platform: &PlatformThread, way: Way) -> Result<bool, PlatformError> {
    let stream = platform.stream(way.from, way.to.is_ipv6(), None).await?;
    let doing = |error: io::Error| PlatformError::system("use a socket of an endpoint", &error);
    stream.set_nonblocking(true).map_err(doing)?;
    let socket = TcpSocket::from_std_stream(stream);
    let connecting = socket.connect(SocketAddr::new(way.to, PORT));
    Ok(match tokio::time::timeout(PATIENCE, connecting).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        Err(_) => false,
    })
}

async fn udp(platform: &PlatformThread, way: Way, octets: u16) -> Result<bool, PlatformError> {
    let socket = platform.datagrams(way.from, way.to.is_ipv6(), None).await?;
    let doing = |error: io::Error| PlatformError::system("use a socket of an endpoint", &error);
    socket.set_nonblocking(true).map_err(doing)?;
    // Forbids fragments, which would hide what is too large.
    quinn_udp::UdpSocketState::new((&socket).into()).map_err(doing)?;
    let socket = tokio::net::UdpSocket::from_std(socket).map_err(doing)?;
    let connected = socket.connect(SocketAddr::new(way.to, PORT)).await;
    connected.map_err(doing)?;
    let (message, mut room) = (vec![0; usize::from(octets)], [0]);
    for _ in 0..TRIES {
        // One may be lost, and the peer may answer a few of a second only (RFC 1812 §4.3.2.8).
        match socket.send(&message).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(true),
            // Larger than the interface takes.
            Err(_) => return Ok(false),
        }
        match tokio::time::timeout(PATIENCE / TRIES, socket.recv(&mut room)).await {
            Ok(Ok(_)) => return Ok(true),
            Ok(Err(error)) => return Ok(error.kind() == io::ErrorKind::ConnectionRefused),
            Err(_) => {}
        }
    }
    Ok(false)
}

fn judge(about: String, way: Way, answers: Answers) -> Finding {
    let Way { vtep, mtu, .. } = way;
    match answers {
        Answers {
            tcp: true,
            small: true,
            large: true,
        } => {
            let found = format!("TCP and UDP pass, in packets of up to {mtu} octets");
            Finding::good("overlay", about, found)
        }
        Answers {
            tcp: false,
            small: false,
            large: false,
        } => {
            let found = format!("nothing of what is sent to {} is answered", way.to);
            let advice = format!(
                "see whether a firewall or a security group drops the data port (UDP, 4789 if no other was chosen) between here and {vtep}, or whether a hypervisor keeps it for itself (VMware NSX: take another --data-port on all nodes)"
            );
            Finding::bad("overlay", about, found, advice)
        }
        Answers {
            small: true,
            large: false,
            ..
        } => {
            let found = format!("packets of {mtu} octets are lost, small ones pass");
            let advice = format!(
                "the way to {vtep} is narrower than this host's interface says: find out by `ping -M do -s SIZE {vtep}`, and set --underlay-mtu on all nodes, or the network's MTU (`-o com.docker.network.driver.mtu=N`)"
            );
            Finding::bad("overlay", about, found, advice)
        }
        Answers {
            tcp: false,
            small: true,
            large: true,
        } => Finding::bad(
            "overlay",
            about,
            "UDP passes and TCP does not",
            format!(
                "{}; or a firewall inside the endpoint drops it",
                mangled(way)
            ),
        ),
        Answers { .. } => Finding::bad(
            "overlay",
            about,
            format!(
                "answered: TCP {}, small UDP {}, UDP of {mtu} octets {}",
                answers.tcp, answers.small, answers.large
            ),
            format!(
                "{}; or a firewall inside the endpoint keeps it from answering",
                mangled(way)
            ),
        )
        .as_warning(),
    }
}

/// What to do about a device that breaks checksums within VXLAN.
fn mangled(way: Way) -> String {
    let vtep = way.vtep;
    let off = format!(
        "a network device on the way to {vtep} may break checksums inside of VXLAN: try `ethtool -K DEVICE tx-udp_tnl-segmentation off tx-checksum-ip-generic off` on the underlay's device of both hosts"
    );
    if way.kernel {
        format!("{off}, or --data-path user, which computes them itself")
    } else {
        off
    }
}

/// Discard (RFC 863), which hardly anybody has; an answer from there is one as well.
const PORT: u16 = 9;
const PATIENCE: Duration = Duration::from_secs(3);
const TRIES: u32 = 3;
/// Ways that are tried.
const WAYS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::{super::Health, *};

    #[test]
    fn each_outcome_has_a_cause_of_its_own() {
        let way = Way {
            from: EndpointId::from_bytes([1; 16]),
            to: "10.0.1.3".parse().unwrap(),
            vtep: "192.0.2.2".parse().unwrap(),
            mtu: 1_450,
            kernel: true,
        };
        for (tcp, small, large, health, words) in [
            (true, true, true, Health::Good, "up to 1450"),
            (false, false, false, Health::Bad, "security group"),
            (false, true, false, Health::Bad, "--underlay-mtu"),
            (true, true, false, Health::Bad, "--underlay-mtu"),
            (false, true, true, Health::Bad, "ethtool"),
            (true, false, false, Health::Warning, "ethtool"),
            (true, false, true, Health::Warning, "ethtool"),
            (false, false, true, Health::Warning, "ethtool"),
        ] {
            let answers = Answers { tcp, small, large };
            let found = judge("a way".to_owned(), way, answers);
            assert_eq!(found.health, health, "{answers:?}");
            let said = found.advice.unwrap_or(found.found);
            assert!(said.contains(words), "{answers:?}: {said}");
        }
    }
}
