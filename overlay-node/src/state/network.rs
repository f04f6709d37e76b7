//! Commands about networks.

mod options;

use std::collections::BTreeSet;

use ipnet::IpNet;
use overlay_core::{NetworkId, NodeId, Vni};
use overlay_ipam::{
    NetworkAddresses, PoolError, Subnet, SubnetConfig, SubnetRequest, VniAllocator,
};

use super::{ClusterState, CommandError, NetworkRecord, Outcome, SubnetRecord, node::is_name};
use crate::api::{NetworkCreate, SubnetSpec};
use options::Options;
pub(super) use options::{ALLOW, DENY, NO_POLICY, POLICY};

impl ClusterState {
    pub(super) fn create_network(
        &mut self,
        id: NetworkId,
        spec: NetworkCreate,
        actor: NodeId,
        at_unix_ms: u64,
    ) -> Result<Outcome, CommandError> {
        self.initialized()?;
        self.check_network(id, &spec)?;
        let options = Options::parse(&spec)?;
        let wanted = if spec.subnets.is_empty() {
            vec![SubnetSpec::default()]
        } else {
            spec.subnets.clone()
        };
        check_number(wanted.len())?;
        let taken = self.allocate_subnets(&wanted, &options.vnis)?;
        let mut addresses = NetworkAddresses::new();
        let subnets = taken
            .into_iter()
            .map(|subnet| subnet.add_to(&mut addresses))
            .collect();
        let driver = if spec.driver.is_empty() {
            OVERLAY.to_owned()
        } else {
            spec.driver
        };
        let is_local = driver == BRIDGE;
        let record = NetworkRecord {
            id,
            name: spec.name,
            driver,
            attachable: spec.attachable || is_local,
            internal: spec.internal,
            ingress: spec.ingress,
            subnets,
            addresses,
            mtu: options.mtu,
            options: spec.options,
            labels: spec.labels,
            created_unix_ms: at_unix_ms,
            node: is_local.then_some(actor),
            rules: Vec::new(),
        };
        self.networks.insert(&mut self.journal, id, record);
        Ok(Outcome::Network(id))
    }

    pub(super) fn remove_network(&mut self, network: NetworkId) -> Result<Outcome, CommandError> {
        let record = self
            .networks
            .get(network)
            .ok_or(CommandError::UnknownNetwork { network })?;
        if let Some(first) = self.endpoints_of(network).next() {
            return Err(CommandError::NetworkInUse {
                name: record.name.clone(),
                endpoints: self.endpoints.index().of_network.len(&network) as u64,
                first: first.name.clone(),
            });
        }
        let service = self.services.index().on_network.of(&network).next();
        if let Some(service) = service.and_then(|service| self.services.get(service)) {
            return Err(CommandError::NetworkOfService {
                network: record.name.clone(),
                service: service.spec().name.clone(),
            });
        }
        self.drop_network(network);
        Ok(Outcome::Done)
    }

    /// Gives a network more subnets.
    pub(super) fn extend_network(
        &mut self,
        network: NetworkId,
        wanted: &[SubnetSpec],
    ) -> Result<Outcome, CommandError> {
        let record = self
            .networks
            .get(network)
            .ok_or(CommandError::UnknownNetwork { network })?;
        check_number(record.subnets.len() + wanted.len())?;
        let taken = self.allocate_subnets(wanted, &[])?;
        self.networks.modify(&mut self.journal, network, |record| {
            for subnet in taken {
                let subnet = subnet.add_to(&mut record.addresses);
                record.subnets.push(subnet);
            }
        });
        Ok(Outcome::Network(network))
    }

    /// Removes a network that nothing uses any more.
    pub(super) fn drop_network(&mut self, network: NetworkId) {
        if let Some(record) = self.networks.remove(&mut self.journal, network) {
            for subnet in &record.subnets {
                self.release_subnet(subnet);
            }
        }
    }

    fn check_network(&self, id: NetworkId, spec: &NetworkCreate) -> Result<(), CommandError> {
        if !is_name(&spec.name) {
            return Err(CommandError::InvalidName {
                name: spec.name.chars().take(80).collect(),
            });
        }
        if !["", OVERLAY, BRIDGE].contains(&&*spec.driver) {
            return Err(CommandError::UnknownDriver {
                driver: spec.driver.chars().take(80).collect(),
            });
        }
        let refused = match (spec.ingress, self.ingress()) {
            (true, Some(other)) => Some(format!(
                "{:?} is the network of published ports, and there is only one: remove it first",
                other.name
            )),
            (true, None) if spec.attachable || spec.driver == BRIDGE => Some(
                "the network of published ports is of driver overlay, and nobody attaches to it"
                    .to_owned(),
            ),
            (false, _) if spec.name == INGRESS => Some(
                "that name is kept for the network of published ports: create it with --ingress"
                    .to_owned(),
            ),
            _ => None,
        };
        if let Some(reason) = refused {
            let name = spec.name.clone();
            return Err(CommandError::InvalidNetwork { name, reason });
        }
        if OF_EACH_NODE.contains(&&*spec.name) {
            return Err(CommandError::Predefined {
                name: spec.name.clone(),
            });
        }
        let other = self.network_named(&spec.name);
        if let Some(other) = other.or_else(|| self.networks.get(id)) {
            let (name, network) = (other.name.clone(), other.id);
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

    /// Takes a subnet and a VNI for each that is wanted, or nothing.
    fn allocate_subnets(
        &mut self,
        wanted: &[SubnetSpec],
        vnis: &[Vni],
    ) -> Result<Vec<TakenSubnet>, CommandError> {
        let next = self.vnis.next();
        let mut subnets = Vec::new();
        for (at, spec) in wanted.iter().enumerate() {
            match self.allocate_subnet(spec, vnis.get(at).copied()) {
                Ok(subnet) => subnets.push(subnet),
                Err(error) => {
                    for TakenSubnet { record, .. } in &subnets {
                        self.release_subnet(record);
                    }
                    self.vnis.resume_at(next);
                    return Err(error);
                }
            }
        }
        Ok(subnets)
    }

    fn release_subnet(&mut self, subnet: &SubnetRecord) {
        self.pools
            .release(subnet.prefix)
            .expect("the network's subnet was allocated");
        self.vnis.release(subnet.vni);
    }

    /// Takes one subnet and its VNI, or nothing but a step of the search for VNIs.
    fn allocate_subnet(
        &mut self,
        spec: &SubnetSpec,
        vni: Option<Vni>,
    ) -> Result<TakenSubnet, CommandError> {
        let vni = allocate_vni(&mut self.vnis, vni)?;
        let taken = self.cut_subnet(spec, vni);
        if taken.is_err() {
            self.vnis.release(vni);
        }
        taken
    }

    fn cut_subnet(&mut self, spec: &SubnetSpec, vni: Vni) -> Result<TakenSubnet, CommandError> {
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
        // Whoever names a subnet knows the hosts' routes.
        let routes = match request {
            SubnetRequest::Exact(_) => Vec::new(),
            _ => self.routes_of_nodes(),
        };
        let prefix = match self.pools.allocate(request, &routes) {
            Ok(prefix) => prefix,
            Err(PoolError::Exhausted { .. }) if !routes.is_empty() => {
                return Err(CommandError::PoolsRouted { route: routes[0] });
            }
            Err(error) => return Err(self.pool_error(spec, &error)),
        };
        let config = SubnetConfig {
            gateway: spec.gateway,
            range: spec.ip_range,
            excluded: spec
                .aux_addresses
                .values()
                .copied()
                .map(IpNet::from)
                .collect(),
            ..SubnetConfig::new(prefix)
        };
        match Subnet::new(config.clone()) {
            Ok(subnet) => {
                let record = SubnetRecord {
                    prefix,
                    gateway: subnet.gateway(),
                    ip_range: spec.ip_range,
                    aux_addresses: spec.aux_addresses.clone(),
                    vni,
                };
                Ok(TakenSubnet { record, config })
            }
            Err(error) => {
                self.pools
                    .release(prefix)
                    .expect("it was allocated just now");
                Err(CommandError::InvalidSubnet {
                    subnet: prefix.to_string(),
                    reason: error.to_string(),
                })
            }
        }
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

    /// Returns where the hosts have routes to, each once.
    fn routes_of_nodes(&self) -> Vec<IpNet> {
        let routes = self.nodes().values().flat_map(|node| &node.routes);
        let routes: BTreeSet<_> = routes.copied().collect();
        routes.into_iter().collect()
    }

    fn network_of(&self, prefix: IpNet) -> String {
        let network = self.networks.index().with_subnet(prefix);
        let record = network.and_then(|network| self.networks.get(network));
        record
            .map(|network| network.name.clone())
            .unwrap_or_default()
    }

    /// Returns the network of that name.
    pub fn network_named(&self, name: &str) -> Option<&NetworkRecord> {
        self.networks.get(self.networks.index().named(name)?)
    }
}

/// A subnet that was taken from the pools, and is of no network yet.
struct TakenSubnet {
    record: SubnetRecord,
    config: SubnetConfig,
}

impl TakenSubnet {
    fn add_to(self, addresses: &mut NetworkAddresses) -> SubnetRecord {
        let added = addresses.add(self.config);
        added.expect("it is valid, and overlaps no other of the pools'");
        self.record
    }
}

fn check_number(subnets: usize) -> Result<(), CommandError> {
    if subnets <= SUBNETS_MAX {
        return Ok(());
    }
    let what = "subnets a network".to_owned();
    let limit = SUBNETS_MAX as u64;
    Err(CommandError::Limit { what, limit })
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

/// Name of the network of published ports that each cluster has from the start.
pub const INGRESS: &str = "ingress";
/// The driver of networks that are on all nodes.
const OVERLAY: &str = "overlay";
/// The driver of networks that are on the node where they were created, and on no other.
pub const BRIDGE: &str = "bridge";
/// Networks that each node has by itself.
pub(crate) const OF_EACH_NODE: [&str; 2] = ["host", "none"];
/// How many networks a cluster has at the most.
const NETWORKS_MAX: usize = 65_536;
/// How many subnets a network has at the most.
const SUBNETS_MAX: usize = 16;
