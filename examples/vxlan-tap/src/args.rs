//! The command line.

use std::net::IpAddr;

use anyhow::Context as _;
use clap::Parser;
use ipnet::IpNet;
use overlay_core::{MacAddr, Vni};

/// One endpoint on a VXLAN: a TAP interface, a switch, and a UDP socket on port 4789.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// The interface that is made
    #[arg(long)]
    pub(crate) name: String,
    /// Its MAC address
    #[arg(long)]
    pub(crate) mac: MacAddr,
    /// Its addresses; packets from others are dropped
    #[arg(long = "address", value_name = "CIDR")]
    pub(crate) addresses: Vec<IpNet>,
    /// Another address that packets may come from, such as that of a VLAN on top of the interface
    #[arg(long = "also", value_name = "IP")]
    pub(crate) also: Vec<IpAddr>,
    /// Its MTU, in octets [default: what the interface of the local address has room for]
    #[arg(long)]
    pub(crate) mtu: Option<u16>,
    /// The network
    #[arg(long, value_parser = vni)]
    pub(crate) vni: Vni,
    /// Address of this VTEP
    #[arg(long)]
    pub(crate) local: IpAddr,
    /// Address of the other VTEP
    #[arg(long)]
    pub(crate) peer: IpAddr,
    /// An endpoint behind the other VTEP
    #[arg(long = "remote", value_name = "MAC=IP,…", value_parser = remote)]
    pub(crate) remotes: Vec<(MacAddr, Vec<IpAddr>)>,
    /// Learn other endpoints from what they send
    #[arg(long)]
    pub(crate) learn: bool,
    /// Let frames with VLAN tags pass
    #[arg(long)]
    pub(crate) vlan_tags: bool,
}

fn vni(text: &str) -> anyhow::Result<Vni> {
    Vni::new(text.parse()?).context("expected at most 16777215")
}

fn remote(text: &str) -> anyhow::Result<(MacAddr, Vec<IpAddr>)> {
    let (mac, addresses) = text.split_once('=').unwrap_or((text, ""));
    let addresses = addresses.split(',').filter(|address| !address.is_empty());
    let addresses: Result<_, _> = addresses.map(str::parse).collect();
    Ok((mac.parse()?, addresses?))
}
