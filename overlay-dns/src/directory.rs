//! All networks and all views: where a name leads for a client.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use overlay_core::{EndpointId, NetworkId};

use crate::{
    config::{Config, NetworkZones},
    holder::{Held, Holder},
    names::{Keyed, Part, Source},
    records::View,
    reverse,
    wire::{Name, RecordType},
    zone::Zone,
};

/// A network with its name and zone.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// Lower-cased; none until the network is named.
    pub(crate) name: Option<Name>,
    pub(crate) subnets: Vec<IpNet>,
    pub(crate) zone: Zone,
}

/// A name that exists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) network: &'a Network,
    /// Those who count: for `tasks.NAME` the tasks; for `NAME` all, but with virtual addresses not the tasks.
    pub(crate) sources: &'a [Source],
    /// Named port and protocol, if the name is that of a port.
    pub(crate) port: Option<(&'a [u8], &'a [u8])>,
    /// How many labels of the name stand before the zone's.
    pub(crate) apex: usize,
}

/// Where a name leads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lookup<'a> {
    /// It exists and has records.
    Found(Found<'a>),
    /// It exists, but nothing is there: something is below it. With the labels before the zone's.
    Empty { apex: usize },
    /// It is ours and does not exist.
    Absent { apex: usize },
    /// It is not ours.
    Foreign,
}

/// Networks, their zones, and the views of the clients.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    pub(crate) networks: BTreeMap<NetworkId, Network>,
    pub(crate) views: BTreeMap<EndpointId, View>,
    /// Counts the changes, for SOA records.
    pub(crate) serial: u32,
    hash: Keyed,
}

impl Directory {
    pub(crate) fn new(hash: Keyed) -> Self {
        Self {
            networks: BTreeMap::new(),
            views: BTreeMap::new(),
            serial: 1,
            hash,
        }
    }

    /// Returns the network, made on first mention: rows may come before the name.
    pub(crate) fn network_mut(&mut self, network: NetworkId) -> &mut Network {
        let hash = &self.hash;
        self.networks.entry(network).or_insert_with(|| Network {
            name: None,
            subnets: Vec::new(),
            zone: Zone::new(hash),
        })
    }

    /// Puts the records of a holder in the place of those it had.
    pub(crate) fn set(
        &mut self,
        network: NetworkId,
        holder: Holder,
        held: Held,
        refused: &mut u64,
    ) {
        if self.network_mut(network).zone.set(holder, held, refused) {
            self.serial = self.serial.wrapping_add(1);
        }
    }

    /// Forgets the records of a holder.
    pub(crate) fn remove(&mut self, network: NetworkId, holder: Holder) {
        if let Some(network) = self.networks.get_mut(&network)
            && network.zone.remove(holder)
        {
            self.serial = self.serial.wrapping_add(1);
        }
    }

    fn visible<'a>(&'a self, view: &'a View) -> impl Iterator<Item = &'a Network> {
        view.networks
            .iter()
            .filter_map(|network| self.networks.get(network))
    }

    /// Finds a lower-cased name: itself in all networks of the view, then without its last label in the network of
    /// that name, then without the last two, and so on. The first hit wins.
    pub(crate) fn lookup<'a>(
        &'a self,
        config: &Config,
        view: &'a View,
        name: &'a Name,
        kind: RecordType,
    ) -> Lookup<'a> {
        let domain = config
            .domain
            .as_ref()
            .filter(|domain| name.is_within(domain));
        let end = name.count() - domain.map_or(0, Name::count);
        for kept in (1..=end).rev() {
            let suffix = name.middle(kept, end);
            let mut hash = None;
            for network in self.visible(view) {
                if kept < end && !network.is_named(suffix) {
                    continue;
                }
                let apex = match (kept < end, domain) {
                    (true, _) => kept,
                    (false, Some(_)) => end,
                    (false, None) => 0,
                };
                let hash = *hash.get_or_insert_with(|| self.hash.hash(name.prefix(kept)));
                if let Some(lookup) = network.find(&self.hash, (name, hash), kept, apex) {
                    return lookup;
                }
            }
        }
        if let Some(lookup) = self.lookup_zones(config, view, name, (end, domain.is_some())) {
            return lookup;
        }
        self.lookup_above(view, name, kind)
    }

    /// The name has no records: is it in a zone that we own?
    fn lookup_zones(
        &self,
        config: &Config,
        view: &View,
        name: &Name,
        (end, in_domain): (usize, bool),
    ) -> Option<Lookup<'_>> {
        let mut absent = None;
        for kept in (0..end).rev() {
            for network in self.visible(view) {
                let owned = in_domain || !view.forward || network.owns_its_name(config);
                if !owned || !network.is_named(name.middle(kept, end)) {
                    continue;
                }
                if kept == 0 || network.zone.names.is_above(name.prefix(kept)) {
                    return Some(Lookup::Empty { apex: kept });
                }
                absent = absent.or(Some(kept));
            }
        }
        if in_domain {
            let above = |network: &Network| network.zone.names.is_above(name.prefix(end));
            if end == 0 || self.visible(view).any(above) {
                return Some(Lookup::Empty { apex: end });
            }
        }
        let absent = absent.or(in_domain.then_some(end));
        absent.map(|apex| Lookup::Absent { apex })
    }

    /// The name is in no zone of ours, but may stand above one of our names. An upstream server may know more of such
    /// a name (`example.com`, with an alias `api.example.com` here), but not an address of a single label.
    fn lookup_above(&self, view: &View, name: &Name, kind: RecordType) -> Lookup<'_> {
        let address = matches!(kind, RecordType::A | RecordType::AAAA);
        let ours = !view.forward || (name.count() == 1 && address);
        let above = |network: &Network| network.zone.names.is_above(name.as_bytes());
        if ours && self.visible(view).any(above) {
            return Lookup::Empty { apex: 0 };
        }
        Lookup::Foreign
    }

    /// Finds the name of an address below `in-addr.arpa` or `ip6.arpa`.
    pub(crate) fn lookup_reverse<'a>(
        &'a self,
        config: &Config,
        view: &'a View,
        name: &Name,
    ) -> ReverseLookup<'a> {
        let Some(asked) = reverse::parse(name) else {
            return ReverseLookup::Foreign;
        };
        let subnets = self.networks.values().flat_map(|network| &network.subnets);
        let subnet = subnets
            .filter(|subnet| subnet.contains(&asked.prefix))
            .max_by_key(|subnet| subnet.prefix_len());
        let zone = subnet.copied().or_else(|| {
            let private = reverse::private_zone(&asked.prefix)?;
            let kept = reverse::is_never_global(&private) || !config.forward_private_reverse;
            (kept || !view.forward).then_some(private)
        });
        let before = |zone: &IpNet| name.count().saturating_sub(reverse::labels(zone));
        if let Some(address) = asked.address() {
            for network in self.visible(view) {
                if network.zone.at_address(address).next().is_some() {
                    return ReverseLookup::Found {
                        network,
                        address,
                        apex: zone.as_ref().map_or(0, before),
                    };
                }
            }
            if address.is_loopback() {
                return ReverseLookup::Loopback;
            }
        }
        let (first, last) = (asked.prefix.network(), asked.prefix.broadcast());
        let below = asked.is_prefix()
            && (self.visible(view)).any(|network| network.zone.has_address_within(first, last));
        match zone {
            Some(zone) => {
                let apex = before(&zone);
                if asked.is_prefix() && (below || apex == 0 || asked.prefix.contains(&zone)) {
                    ReverseLookup::Empty { apex }
                } else {
                    ReverseLookup::Absent { apex }
                }
            }
            None if below && !view.forward => ReverseLookup::Empty { apex: 0 },
            None => ReverseLookup::Foreign,
        }
    }
}

/// Where a reverse name leads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReverseLookup<'a> {
    /// Endpoints of the network have the address.
    Found {
        network: &'a Network,
        address: IpAddr,
        /// How many labels stand before the zone's.
        apex: usize,
    },
    /// It is the host itself.
    Loopback,
    /// Something is below the name.
    Empty { apex: usize },
    /// The zone is ours, and the name does not exist.
    Absent { apex: usize },
    /// It is not ours.
    Foreign,
}

impl Network {
    fn is_named(&self, wire: &[u8]) -> bool {
        self.name
            .as_ref()
            .is_some_and(|name| name.as_bytes() == wire)
    }

    fn owns_its_name(&self, config: &Config) -> bool {
        match config.network_zones {
            NetworkZones::Never => false,
            NetworkZones::Always => true,
            NetworkZones::Unambiguous => self.name.as_ref().is_some_and(is_no_public_domain),
        }
    }

    /// Finds the first `kept` labels of `name`, whose hash is given: a name as it stands, the tasks of one, or a port of
    /// one.
    fn find<'a>(
        &'a self,
        hasher: &Keyed,
        (name, hash): (&'a Name, u64),
        kept: usize,
        apex: usize,
    ) -> Option<Lookup<'a>> {
        let found = |sources, port| {
            Some(Lookup::Found(Found {
                network: self,
                sources,
                port,
                apex,
            }))
        };
        if let Some(all) = self.zone.names.sources(hash, name.prefix(kept)) {
            return found(self.whole(all), None);
        }
        if let Some(all) = self.tasks_of(hasher, name, 0, kept) {
            return found(tasks(all), None);
        }
        let marked = |index| name.label(index).and_then(|label| label.strip_prefix(b"_"));
        let first = marked(0)?;
        let depth = 1 + usize::from(marked(1).is_some());
        let (all, sources) = self.find_base(hasher, name, depth, kept)?;
        let Some(protocol) = marked(1) else {
            let exists = self.has_port(all, |_, protocol| first.eq_ignore_ascii_case(protocol));
            return Some(if exists {
                Lookup::Empty { apex }
            } else {
                Lookup::Absent { apex }
            });
        };
        if self.has_port(all, |name, other| is_port(name, other, (first, protocol))) {
            return found(sources, Some((first, protocol)));
        }
        Some(Lookup::Absent { apex })
    }

    /// Finds the labels `from..to`: all sources of the name, and those who count.
    fn find_base(
        &self,
        hasher: &Keyed,
        name: &Name,
        from: usize,
        to: usize,
    ) -> Option<(&[Source], &[Source])> {
        if from >= to {
            return None;
        }
        let wire = name.middle(from, to);
        if let Some(all) = self.zone.names.sources(hasher.hash(wire), wire) {
            return Some((all, self.whole(all)));
        }
        let all = self.tasks_of(hasher, name, from, to)?;
        Some((all, tasks(all)))
    }

    /// Returns all sources of the service of which `tasks.NAME` is asked.
    fn tasks_of(&self, hasher: &Keyed, name: &Name, from: usize, to: usize) -> Option<&[Source]> {
        if name.label(from) != Some(b"tasks") || from + 1 >= to {
            return None;
        }
        let wire = name.middle(from + 1, to);
        let all = self.zone.names.sources(hasher.hash(wire), wire)?;
        // Sorted by their parts: if any is more than an endpoint, the first or the last is.
        let (first, last) = (all.first()?, all.last()?);
        let only_endpoints = first.part() == Part::Endpoint && last.part() == Part::Endpoint;
        (!only_endpoints).then_some(all)
    }

    /// Returns the sources that count for a name as it stands.
    fn whole<'a>(&self, all: &'a [Source]) -> &'a [Source] {
        let mut services = all
            .iter()
            .take_while(|source| source.part() == Part::Virtual);
        if !services.any(|source| self.zone.addresses(source.slot()).next().is_some()) {
            return all;
        }
        let end = all.partition_point(|source| source.part() < Part::Task);
        all.get(..end).unwrap_or_default()
    }

    fn has_port(&self, sources: &[Source], matches: impl Fn(&[u8], &[u8]) -> bool) -> bool {
        let ports = sources
            .iter()
            .flat_map(|source| self.zone.ports(source.slot()));
        ports
            .into_iter()
            .any(|port| matches(port.name.as_bytes(), port.protocol.as_bytes()))
    }
}

/// Returns the sources that are tasks.
fn tasks(all: &[Source]) -> &[Source] {
    let start = all.partition_point(|source| source.part() < Part::EndpointAndTask);
    all.get(start..).unwrap_or_default()
}

impl Found<'_> {
    /// Returns true if two of the sources may have the same address.
    pub(crate) fn may_repeat(&self) -> bool {
        let [first, _, ..] = self.sources else {
            return false;
        };
        first.part() == Part::Virtual || self.network.zone.has_shared_addresses()
    }
}

/// Compares the name and protocol of a port with what was asked for.
pub(crate) fn is_port(name: &[u8], protocol: &[u8], asked: (&[u8], &[u8])) -> bool {
    name.eq_ignore_ascii_case(asked.0) && protocol.eq_ignore_ascii_case(asked.1)
}

/// Public top-level domains consist of letters, or begin with `xn--` (RFC 3696 §2).
fn is_no_public_domain(name: &Name) -> bool {
    let Some(last) = name
        .count()
        .checked_sub(1)
        .and_then(|last| name.label(last))
    else {
        return false;
    };
    !last.starts_with(b"xn--") && !last.iter().all(u8::is_ascii_alphabetic)
}
