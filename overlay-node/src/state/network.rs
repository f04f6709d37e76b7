//! Commands about networks.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::{NetworkId, Vni};
use overlay_ipam::{PoolError, Pools, Subnet, SubnetConfig, SubnetRequest, VniAllocator};

use super::{ClusterState, CommandError, NetworkRecord, Outcome, SubnetRecord, node::is_name};
use crate::api::{NetworkCreate, SubnetSpec};

impl ClusterState {
    pub(super) fn create_network(
        &mut self,
        id: NetworkId,
        spec: NetworkCreate,
        at_unix_ms: u64,
    ) -> Result<Outcome, CommandError> {
        self.initialized()?;
        self.check_network(&spec)?;
        let options = Options::parse(&spec)?;
        let wanted = if spec.subnets.is_empty() {
            vec![SubnetSpec {
                subnet: None,
                gateway: None,
                ip_range: None,
            }]
        } else {
            spec.subnets.clone()
        };
        if wanted.len() > SUBNETS_MAX {
            let what = "subnets a network".to_owned();
            return Err(CommandError::Limit {
                what,
                limit: SUBNETS_MAX as u64,
            });
        }
        // Both allocators are small; what fails half way is thrown away as a whole.
        let (mut pools, mut vnis) = (self.pools.clone(), self.vnis.clone());
        let mut subnets = Vec::new();
        for (at, spec) in wanted.iter().enumerate() {
            let vni = allocate_vni(&mut vnis, options.vnis.get(at).copied())?;
            subnets.push(self.allocate_subnet(&mut pools, spec, vni)?);
        }
        (self.pools, self.vnis) = (pools, vnis);
        let ingress = spec.name == INGRESS;
        let driver = if spec.driver.is_empty() {
            OVERLAY.to_owned()
        } else {
            spec.driver
        };
        let record = NetworkRecord {
            id,
            name: spec.name,
            driver,
            attachable: spec.attachable,
            internal: spec.internal,
            ingress,
            subnets,
            mtu: options.mtu,
            options: spec.options,
            labels: spec.labels,
            created_unix_ms: at_unix_ms,
        };
        self.networks.insert(id, record);
        Ok(Outcome::Network(id))
    }

    pub(super) fn remove_network(&mut self, network: NetworkId) -> Result<Outcome, CommandError> {
        let record = self
            .networks
            .get(&network)
            .ok_or(CommandError::UnknownNetwork { network })?;
        if record.ingress {
            return Err(CommandError::Predefined {
                name: record.name.clone(),
            });
        }
        let mut users = self
            .endpoints
            .values()
            .filter(|endpoint| endpoint.network == network);
        if let Some(first) = users.next() {
            return Err(CommandError::NetworkInUse {
                name: record.name.clone(),
                endpoints: users.count() as u64 + 1,
                first: first.name.clone(),
            });
        }
        let mut services = self.services.values();
        if let Some(service) = services.find(|service| service.networks.contains(&network)) {
            return Err(CommandError::NetworkOfService {
                network: record.name.clone(),
                service: service.spec().name.clone(),
            });
        }
        if let Some(record) = self.networks.remove(&network) {
            for subnet in record.subnets {
                self.pools
                    .release(subnet.prefix)
                    .expect("the network's subnet was allocated");
                self.vnis.release(subnet.vni);
            }
        }
        Ok(Outcome::Done)
    }

    fn check_network(&self, spec: &NetworkCreate) -> Result<(), CommandError> {
        if !is_name(&spec.name) {
            return Err(CommandError::InvalidName {
                name: spec.name.chars().take(80).collect(),
            });
        }
        if !spec.driver.is_empty() && spec.driver != OVERLAY {
            return Err(CommandError::UnknownDriver {
                driver: spec.driver.clone(),
            });
        }
        if let Some(other) = self.networks.values().find(|other| other.name == spec.name) {
            let (name, network) = (spec.name.clone(), other.id);
            return Err(CommandError::NetworkExists { name, network });
        }
        if self.networks.len() >= NETWORKS_MAX {
            let what = "networks".to_owned();
            return Err(CommandError::Limit {
                what,
                limit: NETWORKS_MAX as u64,
            });
        }
        Ok(())
    }

    fn allocate_subnet(
        &self,
        pools: &mut Pools,
        spec: &SubnetSpec,
        vni: Vni,
    ) -> Result<SubnetRecord, CommandError> {
        let request = match spec.subnet {
            None => SubnetRequest::Any,
            Some(subnet) if subnet.addr().is_unspecified() && subnet.prefix_len() > 0 => {
                SubnetRequest::Length(subnet.prefix_len())
            }
            Some(subnet) if subnet.trunc() != subnet => {
                return Err(CommandError::HostBits {
                    subnet,
                    expected: subnet.trunc(),
                });
            }
            Some(subnet) => SubnetRequest::Exact(subnet),
        };
        let prefix = pools
            .allocate(request, &[])
            .map_err(|error| self.pool_error(spec, &error))?;
        let config = SubnetConfig {
            gateway: spec.gateway,
            range: spec.ip_range,
            ..SubnetConfig::new(prefix)
        };
        let addresses = Subnet::new(config).map_err(|error| CommandError::InvalidSubnet {
            subnet: prefix.to_string(),
            reason: error.to_string(),
        })?;
        let gateway: Option<IpAddr> = addresses.gateway();
        Ok(SubnetRecord {
            prefix,
            gateway,
            ip_range: spec.ip_range,
            vni,
            addresses,
        })
    }

    fn pool_error(&self, spec: &SubnetSpec, error: &PoolError) -> CommandError {
        match error {
            PoolError::Exhausted { .. } => CommandError::PoolsExhausted,
            PoolError::Overlap { prefix, with } => CommandError::SubnetOverlap {
                subnet: *prefix,
                other: *with,
                name: self.network_of(*with),
            },
            other => CommandError::InvalidSubnet {
                subnet: spec
                    .subnet
                    .map_or_else(|| "any".to_owned(), |subnet| subnet.to_string()),
                reason: other.to_string(),
            },
        }
    }

    fn network_of(&self, prefix: IpNet) -> String {
        let holds =
            |network: &&NetworkRecord| network.subnets.iter().any(|subnet| subnet.prefix == prefix);
        self.networks
            .values()
            .find(holds)
            .map(|network| network.name.clone())
            .unwrap_or_default()
    }
}

/// Driver options that are understood.
#[derive(Default)]
struct Options {
    mtu: Option<u16>,
    vnis: Vec<Vni>,
}

impl Options {
    fn parse(spec: &NetworkCreate) -> Result<Self, CommandError> {
        let mut options = Self::default();
        for (option, value) in &spec.options {
            let refuse = |reason: &str| CommandError::InvalidOption {
                option: option.clone(),
                value: value.clone(),
                reason: reason.to_owned(),
            };
            match option.as_str() {
                MTU => {
                    let mtu = value
                        .parse()
                        .ok()
                        .filter(|mtu| (MTU_MIN..=MTU_MAX).contains(mtu));
                    options.mtu = Some(mtu.ok_or_else(|| refuse("expected 576 to 9000 octets"))?);
                }
                VNIS => {
                    for part in value.split(',') {
                        let vni = part.trim().parse().ok().and_then(Vni::new);
                        options
                            .vnis
                            .push(vni.ok_or_else(|| refuse("expected numbers of 24 bits"))?);
                    }
                }
                ENCRYPTED if value == "false" => {}
                // Fail closed: a network that was asked to be encrypted is never carried in clear.
                ENCRYPTED => return Err(refuse("encrypted networks are not offered yet")),
                _ => return Err(refuse("no such option")),
            }
        }
        Ok(options)
    }
}

fn allocate_vni(vnis: &mut VniAllocator, wanted: Option<Vni>) -> Result<Vni, CommandError> {
    match wanted {
        Some(vni) => vnis
            .reserve(vni)
            .map(|()| vni)
            .map_err(|_| CommandError::VniInUse { vni }),
        None => vnis.allocate().map_err(|_| CommandError::VnisExhausted),
    }
}

/// Name of the network of published ports, kept from the start.
pub const INGRESS: &str = "ingress";
/// The one driver.
const OVERLAY: &str = "overlay";
const MTU: &str = "com.docker.network.driver.mtu";
const VNIS: &str = "com.docker.network.driver.overlay.vxlanid_list";
const ENCRYPTED: &str = "encrypted";
/// Smallest MTU: every IPv4 host takes datagrams of this size (RFC 791 §3.1).
const MTU_MIN: u16 = 576;
/// Largest MTU: jumbo frames.
const MTU_MAX: u16 = 9_000;
/// How many networks a cluster has at the most.
const NETWORKS_MAX: usize = 65_536;
/// How many subnets a network has at the most.
const SUBNETS_MAX: usize = 16;
