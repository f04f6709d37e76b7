//! Whether this kernel, this daemon and this host can have the plane at all.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
    path::Path,
};

use nix::errno::Errno;
use overlay_core::{
    EndpointId, MacAddr, NetworkId, Vni,
    plane::{DataPath, Desired, DesiredNetwork, DesiredPort, PlatformError},
};
use thiserror::Error;

use super::{
    compile::Underlay,
    devices,
    host::Host,
    namespace::SwitchNamespace,
    reconciler::Reconciler,
    tables::{Kind, Tunnel},
};
use crate::{
    failure::{Doing, Failure},
    netlink::{LinkChange, Netlink},
};

/// Why there is no kernel plane here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// The daemon may not change networks.
    #[error(
        "no privilege over the network: start the daemon as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN"
    )]
    Privilege,
    /// The kernel lacks something.
    #[error(
        "the kernel cannot do all that it takes (VXLAN, bridges, nf_tables of bridges): {error}"
    )]
    Kernel {
        /// What failed.
        error: PlatformError,
    },
    /// Somebody's socket has the port: a program's, or that of a VXLAN device in another namespace.
    #[error(
        "UDP port {port} is taken by a program's socket: end that program, or take another port"
    )]
    Socket {
        /// The port.
        port: u16,
    },
    /// Somebody's VXLAN device has it, and is made by other rules.
    #[error(
        "UDP port {port} is taken by the VXLAN device {device}, with which it cannot be shared"
    )]
    Device {
        /// The port.
        port: u16,
        /// The device.
        device: String,
    },
}

/// Tries whether the plane can be had over this underlay, from the calling thread's namespace; `scratch` is the path of a
/// file that is made for a moment.
///
/// What is tried is made in namespaces of its own, but for one VXLAN device at the underlay's port for a moment.
///
/// # Errors
///
/// What is in the way.
pub fn check(underlay: &Underlay, scratch: &Path) -> Result<(), Obstacle> {
    let kernel = |error: PlatformError| match &error {
        PlatformError::System { code, .. }
            if [Errno::EPERM, Errno::EACCES]
                .map(|code| code as i32)
                .contains(code) =>
        {
            Obstacle::Privilege
        }
        _ => Obstacle::Kernel { error },
    };
    let namespace = SwitchNamespace::open(scratch).map_err(kernel)?;
    let tried = try_in(&namespace, underlay).and_then(|()| take(&namespace, underlay));
    // The first failure says more than this one.
    let removed = namespace.remove();
    let obstacle = tried.and_then(|obstacle| removed.map(|()| obstacle));
    obstacle.map_err(kernel)?.map_or(Ok(()), Err)
}

/// Everything of a plane, over a loopback of its own.
fn try_in(namespace: &SwitchNamespace, underlay: &Underlay) -> Result<(), PlatformError> {
    let path = namespace.path().with_extension("inner");
    let within = || {
        let inner = SwitchNamespace::open(&path);
        inner.and_then(Host::open).map_err(failure)
    };
    let host = namespace.within(within)?;
    let mut reconciler = Reconciler::new(
        host,
        Underlay {
            local: LOOPBACK,
            ..*underlay
        },
    );
    let applied = namespace.within(|| {
        let applied = reconciler
            .apply(&sample())
            .and_then(|_| reconciler.apply(&Desired::default()));
        applied.map_err(failure)
    });
    let removed = reconciler.into_kernel().into_namespace().remove();
    applied?;
    removed
}

/// Makes a VXLAN device at the port for a moment; if it is not to be had, says who has it.
fn take(
    namespace: &SwitchNamespace,
    underlay: &Underlay,
) -> Result<Option<Obstacle>, PlatformError> {
    let port = underlay.port;
    let doing = || format!("make a VXLAN device at UDP port {port}");
    let open = || Netlink::open().doing(|| "open a netlink socket".into());
    let (mut netlink, mut scratch) = (open()?, namespace.within(open)?);
    for vni in NUMBERS {
        let tunnel = Tunnel::new(Vni::from_octets(vni), underlay);
        let made = devices::make_vxlan(&mut netlink, PROBE, &tunnel, namespace.as_fd());
        // It has its socket from when it goes up.
        let made = made.and_then(|()| {
            let up = LinkChange {
                up: Some(true),
                ..LinkChange::default()
            };
            let index = scratch.link(PROBE)?.index;
            let raised = scratch.change(index, up);
            scratch.delete(index).and(raised)
        });
        match made.as_ref().map_err(std::io::Error::raw_os_error) {
            Ok(()) => return Ok(None),
            // Somebody's number.
            Err(Some(code)) if code == Errno::EEXIST as i32 => {}
            Err(Some(code)) if code == Errno::EADDRINUSE as i32 => break,
            Err(_) => made.doing(doing)?,
        }
    }
    // The kernel's own socket: VXLAN devices share one, unless they are made by other rules.
    let links = devices::read(&mut netlink).doing(|| "list interfaces".into())?;
    let other = links.all().find(|(_, device)| match &device.kind {
        Kind::Vxlan(tunnel) => device.up && tunnel.port == port,
        Kind::Other(kind) => device.up && kind == "Vxlan",
        _ => false,
    });
    Ok(Some(match other {
        Some((device, _)) => Obstacle::Device {
            port,
            device: device.to_owned(),
        },
        None => Obstacle::Socket { port },
    }))
}

fn failure(error: PlatformError) -> Failure {
    match error {
        PlatformError::System {
            operation, code, ..
        } if code != 0 => Failure::new(operation, &std::io::Error::from_raw_os_error(code)),
        error => Failure::new("try the plane", &std::io::Error::other(error.to_string())),
    }
}

/// A network with one endpoint, which is not there.
fn sample() -> Desired {
    let port = DesiredPort {
        mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
        addresses: Vec::new(),
    };
    let network = DesiredNetwork {
        vlan_tags: false,
        encrypted: false,
        policy: Default::default(),
        vni: Vni::from_octets([0xff; 3]),
        path: DataPath::Kernel,
        subnets: Vec::new(),
        mtu: 1_450,
        ports: BTreeMap::from([(EndpointId::from_bytes([0; 16]), port)]),
        remotes: BTreeMap::new(),
        vteps: [IpAddr::from(Ipv4Addr::new(127, 0, 0, 2))].into(),
        services: BTreeMap::new(),
    };
    Desired {
        underlay: None,
        networks: BTreeMap::from([(NetworkId::from_bytes([0; 16]), network)]),
        peers: BTreeMap::new(),
    }
}

/// Such as few use.
const NUMBERS: [[u8; 3]; 3] = [[0xff, 0xff, 0xfe], [0xff, 0xfd, 0xa5], [0xfe, 0x5a, 0x01]];
const PROBE: &str = "probe0";
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
