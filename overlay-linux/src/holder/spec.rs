//! What a port is made from, in the octets that holders of all releases know: which plane it belongs to is said beside it.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::{
    EndpointId, MacAddr,
    plane::{DataPath, Namespace, PortSpec, WayOut},
};
use serde::{Deserialize, Serialize};

/// A specification without its plane, in a message or a record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec(#[serde(with = "Known")] pub(crate) PortSpec);

/// The fields of [`PortSpec`] that all releases know.
#[derive(Serialize, Deserialize)]
#[serde(remote = "PortSpec")]
pub(crate) struct Known {
    endpoint: EndpointId,
    namespace: Namespace,
    interface: String,
    mac: MacAddr,
    addresses: Vec<IpNet>,
    on_link: Vec<IpNet>,
    gateway: Option<IpAddr>,
    mtu: u16,
    hostname: String,
    way_out: Option<WayOut>,
    #[serde(skip)]
    path: DataPath,
}
