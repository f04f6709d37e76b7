//! Whether this kernel can carry out the rules of networks.

use std::{fs, io, path::Path};

use nix::errno::Errno;
use overlay_core::plane::{
    AddressMatch, NetworkPolicy, PlatformError, PolicyRule, TrafficMatch, Verdict,
};
use thiserror::Error;

use super::{
    filter,
    fitness::sample,
    host::change,
    policy::{self, Policed},
};
use crate::{
    failure::{Doing, Failure},
    namespace,
    nftables::Nftables,
};

/// Why the kernel cannot carry out rules.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NoFiltering {
    /// The daemon may not change networks.
    #[error(
        "no privilege over the network: start the daemon as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN"
    )]
    Privilege,
    /// Bridges do not show packets to the rules for packets.
    #[error(
        "bridges do not show packets to the rules for packets: load the module br_netfilter, take a kernel with \
         CONFIG_BRIDGE_NETFILTER, or the user data path"
    )]
    Bridges,
    /// There are not all the rules that it takes.
    #[error(
        "nf_tables has not all the rules that it takes: take a kernel with CONFIG_NF_TABLES_INET, CONFIG_NFT_CT and \
         CONFIG_NF_CONNTRACK_ZONES, or the user data path ({error})"
    )]
    Rules {
        /// What failed.
        error: PlatformError,
    },
}

/// Tries whether the kernel can carry out the rules of networks, with everything that it takes. The calling thread is in
/// another network namespace for a moment; that ends with all that was made in it.
///
/// # Errors
///
/// What is missing, and what to do about it.
pub fn can_filter() -> Result<(), NoFiltering> {
    let home = namespace::current().map_err(refused)?;
    namespace::make_network().map_err(refused)?;
    let tried = try_here();
    namespace::enter(&home).map_err(refused)?;
    tried
}

fn try_here() -> Result<(), NoFiltering> {
    if !Path::new(SHOWN).exists() {
        return Err(NoFiltering::Bridges);
    }
    let (desired, _) = sample(false);
    let compiled = policy::compile(&rules());
    let too_many = |error| refused(Failure::new("compile rules", &io::Error::other(error)));
    let compiled = compiled.map_err(too_many)?;
    let networks: Vec<_> = desired.networks.values().collect();
    let policed = networks.iter().zip(&compiled);
    let policed = policed.map(|(network, policy)| Policed { network, policy });
    let rules = filter::compile(&networks, &policed.collect::<Vec<_>>());
    let doing = || "make rules for packets".to_owned();
    let tried = Nftables::open_bridge()
        .doing(doing)
        .and_then(|mut tables| change(&mut tables, filter::TABLE, None, Some(&rules)));
    tried.map_err(refused)
}

/// Has packets of VLANs shown like others, in the namespace that the thread is in. Where that cannot be, none of them passes.
pub(super) fn show_vlans() {
    let _: io::Result<()> = fs::write(SHOWN_VLANS, "1");
}

fn refused(failure: Failure) -> NoFiltering {
    if failure.is_one_of(&[Errno::EPERM, Errno::EACCES]) {
        NoFiltering::Privilege
    } else {
        let error = failure.into();
        NoFiltering::Rules { error }
    }
}

/// One rule, to a documentation address (RFC 5737).
fn rules() -> NetworkPolicy {
    let to = std::net::IpAddr::from([192, 0, 2, 1]);
    NetworkPolicy {
        default: Verdict::Allow,
        rules: vec![PolicyRule {
            name: String::new(),
            from: AddressMatch::Any,
            to: [to].into_iter().collect(),
            traffic: vec![TrafficMatch::Icmp],
            verdict: Verdict::Deny,
        }],
    }
}

const SHOWN: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
const SHOWN_VLANS: &str = "/proc/sys/net/bridge/bridge-nf-filter-vlan-tagged";
