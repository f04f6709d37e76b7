//! Rows: which endpoint is behind which VTEP, and the lease that proves its address.

use std::{fmt, net::IpAddr};

use bytes::Bytes;
use overlay_core::{EndpointId, MacAddr, NetworkId, NodeId, ServiceId};
use serde::{Deserialize, Serialize};

use crate::{DecodeError, RowError};

/// One endpoint of a network, as its owner tells it. At most [`ROW_BYTES_MAX`] octets encoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The underlay address of the node that runs it.
    pub vtep: IpAddr,
    /// Its names, the primary one first.
    pub names: Vec<String>,
    /// The service that it belongs to.
    pub service: Option<ServiceId>,
    /// The names of that service on this network, the primary one first; empty without one.
    pub service_names: Vec<String>,
    /// Ports that it publishes.
    pub ports: Vec<PortMapping>,
    /// Its share of the load among the endpoints of the service.
    pub weight: u16,
    /// Whether it takes load.
    pub state: RowState,
    /// Proof that a manager gave it these addresses. Network, endpoint, MAC address and addresses equal the row's.
    pub lease: Lease,
}

/// Whether an endpoint takes load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RowState {
    /// Reachable, but not to be chosen yet.
    Starting,
    /// To be chosen.
    Live,
    /// No longer to be chosen; what it has goes on.
    Draining,
}

/// A port of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Name of the port, empty for none.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port at the endpoint.
    pub target: u16,
    /// Port at which it is published, 0 for none.
    pub published: u16,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// An address given to an endpoint, signed once by a manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The network.
    pub network: NetworkId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The node that may run it.
    pub node: NodeId,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Counts the leases of the addresses, so that a newer one is told from an older one.
    pub generation: u64,
    /// Signature of [`signed_bytes`](Self::signed_bytes), at most 96 octets.
    pub signature: Bytes,
}

/// Checks signatures of leases.
pub trait LeaseVerifier: fmt::Debug + Send + Sync {
    /// Returns whether a manager of this cluster signed `signed`.
    fn verify(&self, signed: &[u8], signature: &[u8]) -> bool;

    /// Returns whether the member `owner` may run endpoints of `node`. Believed unless an implementation knows better.
    fn is_owner(&self, owner: &str, node: NodeId) -> bool {
        let _ = (owner, node);
        true
    }
}

impl Lease {
    /// Returns the octets that are signed: the same for ever for the same lease.
    ///
    /// ```text
    /// "overlay-lease" 0 | version 1 | network 16 | endpoint 16 | node 16 | generation 8 | MAC 6 | count 1 | (4 or 6, address)*
    /// ```
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut out = b"overlay-lease\0\x01".to_vec();
        out.extend_from_slice(self.network.as_bytes());
        out.extend_from_slice(self.endpoint.as_bytes());
        out.extend_from_slice(self.node.as_bytes());
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&self.mac.octets());
        out.push(u8::try_from(self.addresses.len()).unwrap_or(u8::MAX));
        for address in &self.addresses {
            match address {
                IpAddr::V4(address) => {
                    out.push(4);
                    out.extend_from_slice(&address.octets());
                }
                IpAddr::V6(address) => {
                    out.push(6);
                    out.extend_from_slice(&address.octets());
                }
            }
        }
        out
    }
}

impl Row {
    /// Returns the length of the encoded row, in octets.
    pub fn encoded_len(&self) -> usize {
        self.encode().len()
    }

    /// Checks what a table would check, in this order: lease and row agree, the row fits.
    ///
    /// # Errors
    ///
    /// [`RowError::Mismatch`] or [`RowError::TooLong`].
    pub fn check(&self, network: NetworkId) -> Result<(), RowError> {
        let lease = &self.lease;
        let fields = [
            ("network", lease.network == network),
            ("endpoint", lease.endpoint == self.endpoint),
            ("mac", lease.mac == self.mac),
            ("addresses", lease.addresses == self.addresses),
            ("signature", lease.signature.len() <= SIGNATURE_BYTES_MAX),
        ];
        if let Some((field, _)) = fields.into_iter().find(|(_, equal)| !equal) {
            return Err(RowError::Mismatch { field });
        }
        let found = self.encoded_len();
        if found > ROW_BYTES_MAX {
            return Err(RowError::TooLong {
                limit: ROW_BYTES_MAX,
                found,
            });
        }
        Ok(())
    }

    /// Encodes the row: a format version, then the fields that its key does not say already.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let fields = Fields {
            mac: self.mac,
            addresses: self.addresses.clone(),
            vtep: self.vtep,
            names: self.names.clone(),
            service: self.service,
            service_names: self.service_names.clone(),
            ports: self.ports.clone(),
            weight: self.weight,
            state: self.state,
            node: self.lease.node,
            generation: self.lease.generation,
            signature: self.lease.signature.clone(),
        };
        let out = postcard::to_extend(&fields, vec![FORMAT]);
        out.expect("a vector takes every octet, and no field has an unknown length")
    }

    /// Decodes a row. Octets behind the known fields are of a later version and ignored.
    pub(crate) fn decode(
        network: NetworkId,
        endpoint: EndpointId,
        bytes: &[u8],
    ) -> Result<Self, DecodeError> {
        let malformed = DecodeError::Value { field: "row" };
        if bytes.len() > ROW_BYTES_MAX {
            return Err(DecodeError::TooLong {
                what: "row",
                limit: ROW_BYTES_MAX,
                found: bytes.len(),
            });
        }
        let (&format, rest) = bytes.split_first().ok_or(malformed)?;
        if format != FORMAT {
            return Err(DecodeError::Version { found: format });
        }
        let (fields, _later): (Fields, _) =
            postcard::take_from_bytes(rest).map_err(|_| malformed)?;
        if fields.signature.len() > SIGNATURE_BYTES_MAX {
            return Err(malformed);
        }
        Ok(Self {
            endpoint,
            mac: fields.mac,
            vtep: fields.vtep,
            names: fields.names,
            service: fields.service,
            service_names: fields.service_names,
            ports: fields.ports,
            weight: fields.weight,
            state: fields.state,
            lease: Lease {
                network,
                endpoint,
                node: fields.node,
                addresses: fields.addresses.clone(),
                mac: fields.mac,
                generation: fields.generation,
                signature: fields.signature,
            },
            addresses: fields.addresses,
        })
    }
}

/// The encoded fields. Order and types never change; new ones are appended.
#[derive(Serialize, Deserialize)]
struct Fields {
    mac: MacAddr,
    addresses: Vec<IpAddr>,
    vtep: IpAddr,
    names: Vec<String>,
    service: Option<ServiceId>,
    service_names: Vec<String>,
    ports: Vec<PortMapping>,
    weight: u16,
    state: RowState,
    node: NodeId,
    generation: u64,
    signature: Bytes,
}

/// Largest encoded row, in octets.
pub const ROW_BYTES_MAX: usize = 1_024;
const SIGNATURE_BYTES_MAX: usize = 96;
const FORMAT: u8 = 1;
