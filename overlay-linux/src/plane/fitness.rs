//! Whether this kernel can seal what encrypted networks send.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use nix::errno::Errno;
use overlay_core::{
    Vni,
    plane::{DataPath, Desired, DesiredNetwork, PeerKeys, PlatformError, SaKeys},
};
use thiserror::Error;

use super::{compile::Underlay, filter, guard, sealing};
use crate::{
    failure::{Doing, Failure},
    namespace,
    nftables::Nftables,
    sys,
    xfrm::Xfrm,
};

/// Why the kernel cannot seal.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NoSealing {
    /// The daemon may not change networks.
    #[error(
        "no privilege over the network: start the daemon as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN"
    )]
    Privilege,
    /// There is no XFRM to be spoken to.
    #[error(
        "the kernel has no IPsec: take one with CONFIG_XFRM_USER, or the user data path ({error})"
    )]
    Xfrm {
        /// What failed.
        error: PlatformError,
    },
    /// There is no ESP, or not with the cipher, UDP and extended sequence numbers.
    #[error(
        "the kernel has no ESP with AES-GCM in UDP: load the modules esp4, esp6 and gcm, take a kernel with \
         CONFIG_INET_ESP, CONFIG_INET6_ESP and CONFIG_CRYPTO_GCM, or the user data path ({error})"
    )]
    Esp {
        /// What failed.
        error: PlatformError,
    },
    /// There are no policies that go by a mark.
    #[error("the kernel takes no policy that seals what is marked ({error})")]
    Policy {
        /// What failed.
        error: PlatformError,
    },
    /// No socket opens ESP.
    #[error("the kernel opens no ESP that comes in UDP ({error})")]
    Socket {
        /// What failed.
        error: PlatformError,
    },
    /// nf_tables cannot tell what is sealed from what is not.
    #[error(
        "nf_tables cannot tell sealed packets from others: take a kernel with CONFIG_NF_TABLES_INET and \
         CONFIG_NFT_XFRM, or the user data path ({error})"
    )]
    Rules {
        /// What failed.
        error: PlatformError,
    },
}

/// Tries whether the kernel can seal, with everything that it takes, over IPv4 or IPv6. The calling thread is in another
/// network namespace for a moment; that ends with all that was made in it.
///
/// # Errors
///
/// What is missing, and what to do about it.
pub fn can_seal(v6: bool) -> Result<(), NoSealing> {
    let failed = |failure: Failure| privilege(failure, |error| NoSealing::Rules { error });
    let home = namespace::current().map_err(failed)?;
    namespace::make_network().map_err(failed)?;
    let tried = try_here(v6);
    namespace::enter(&home).map_err(failed)?;
    tried
}

fn try_here(v6: bool) -> Result<(), NoSealing> {
    let (desired, underlay) = sample(v6);
    let (wanted, _) = sealing::compile(&desired, &underlay);
    let xfrm = Xfrm::open().doing(|| "open an XFRM socket".into());
    let mut xfrm = xfrm.map_err(|failure| privilege(failure, |error| NoSealing::Xfrm { error }))?;
    for (id, association) in &wanted.associations {
        let Some(association) = association else {
            continue;
        };
        let made = xfrm.associate(id, association, 0);
        let made = made.doing(|| "make a security association".into());
        made.map_err(|failure| privilege(failure, |error| NoSealing::Esp { error }))?;
    }
    for (selector, policy) in &wanted.policies {
        let made = xfrm.set_policy(selector, policy);
        let made = made.doing(|| "make a security policy".into());
        made.map_err(|failure| privilege(failure, |error| NoSealing::Policy { error }))?;
    }
    let any = if v6 {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    };
    let opened = listen(SocketAddr::new(any, 0));
    opened.map_err(|failure| privilege(failure, |error| NoSealing::Socket { error }))?;
    rules(&desired, &underlay)
        .map_err(|failure| privilege(failure, |error| NoSealing::Rules { error }))
}

/// Makes both filters.
fn rules(desired: &Desired, underlay: &Underlay) -> Result<(), Failure> {
    let networks: Vec<&DesiredNetwork> = desired.networks.values().collect();
    let doing = || "make the rules for sealed packets".to_owned();
    let (guard, filter) = (
        guard::compile(&networks, &BTreeSet::new(), underlay),
        filter::compile(&networks, &[]),
    );
    let mut tables = Nftables::open_inet().doing(doing)?;
    tables.replace(guard::TABLE, &guard.table).doing(doing)?;
    let mut tables = Nftables::open_bridge().doing(doing)?;
    tables.replace(filter::TABLE, &filter.table).doing(doing)
}

/// Opens a socket of the namespace that the thread is in, whose ESP the kernel opens.
pub(super) fn listen(at: SocketAddr) -> Result<UdpSocket, Failure> {
    let socket = UdpSocket::bind(at).doing(|| format!("bind UDP {at}"))?;
    sys::open_esp(&socket).doing(|| format!("have ESP opened that comes to UDP {at}"))?;
    Ok(socket)
}

fn privilege(failure: Failure, otherwise: impl FnOnce(PlatformError) -> NoSealing) -> NoSealing {
    if failure.is_one_of(&[Errno::EPERM, Errno::EACCES]) {
        NoSealing::Privilege
    } else {
        otherwise(failure.into())
    }
}

/// A network between two documentation addresses (RFC 5737, RFC 3849), with keys that are none.
pub(super) fn sample(v6: bool) -> (Desired, Underlay) {
    let [local, peer] = [1, 2].map(|number| {
        if v6 {
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number])
        } else {
            IpAddr::from(Ipv4Addr::from_bits(0xc000_0200 | u32::from(number)))
        }
    });
    let keys = |spi| SaKeys::new(spi, [1; 16], [2; 4]);
    let peers = PeerKeys {
        outbound: keys(0x1001),
        inbound: vec![keys(0x1002)],
    };
    let network = DesiredNetwork {
        policy: Default::default(),
        vlan_tags: false,
        encrypted: true,
        vni: Vni::from_octets([0xff; 3]),
        path: DataPath::Kernel,
        subnets: Vec::new(),
        mtu: 1_400,
        ports: BTreeMap::new(),
        remotes: BTreeMap::new(),
        vteps: [peer].into(),
        services: BTreeMap::new(),
    };
    let desired = Desired {
        underlay: None,
        networks: BTreeMap::from([(overlay_core::NetworkId::from_bytes([0; 16]), network)]),
        peers: BTreeMap::from([(peer, peers)]),
    };
    (desired, Underlay { local, port: 4_789 })
}
