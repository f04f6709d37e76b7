//! The tables of the data plane, read by other means than ours, and compared with what is desired.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    net::IpAddr,
};

use anyhow::{Context as _, ensure};
use overlay_core::EndpointId;
use overlay_linux::plane::port_name;
use serde_json::Value;

use crate::{
    desired::{Desired, Endpoint},
    support::{Cluster, address, name, words},
    world::NETWORKS,
};

/// The device, the MAC address, and what it leads to or from.
pub(crate) type Row = (String, String, String);

/// What `ip` and `bridge` tell of a switch namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// Devices, and the bridges that they are members of.
    pub(crate) devices: BTreeMap<String, Option<String>>,
    down: BTreeSet<String>,
    /// Whether [`FOREIGN`] is there.
    foreign: bool,
    /// VXLAN device, MAC address, VTEP.
    pub(crate) tunnels: BTreeSet<Row>,
    /// Member of a bridge, MAC address, bridge: what does not age.
    pub(crate) forwarding: BTreeSet<Row>,
    /// Bridge, MAC address, IP address.
    pub(crate) neighbours: BTreeSet<Row>,
}

impl Kernel {
    pub(crate) fn read(cluster: &mut Cluster, host: usize) -> anyhow::Result<Self> {
        let switch = format!("--net={}", cluster.data(host).join("switch").display());
        let script = "ip -j link && bridge -j fdb && ip -j neigh show nud permanent";
        let told = cluster.on_host_says(host, &["nsenter", &switch, "sh", "-c", script])?;
        // Where there is nothing, `ip` says nothing, or an empty list.
        let lists = serde_json::Deserializer::from_str(&told).into_iter::<Vec<Value>>();
        let lists: Result<Vec<_>, _> = lists.collect();
        let lists = lists.with_context(|| told.clone())?;
        let [links, rows, neighbours] = &lists[..] else {
            ensure!(lists.len() == 3, "three lists: {told}");
            return Ok(Self::default());
        };
        let mut found = Self::default();
        for link in links {
            let device = text(link, "ifname")?;
            if device == "lo" {
                continue;
            }
            if device == FOREIGN {
                found.foreign = true;
                continue;
            }
            let flags = link["flags"].as_array().context("no flags")?;
            if !flags.iter().any(|flag| flag == "UP") {
                found.down.insert(device.clone());
            }
            let controller = link["master"].as_str().map(str::to_owned);
            found.devices.insert(device, controller);
        }
        for row in rows {
            let (device, mac) = (text(row, "ifname")?, text(row, "mac")?);
            if let Some(vtep) = row["dst"].as_str() {
                found.tunnels.insert((device, mac, vtep.to_owned()));
            } else if let Some(bridge) = row["master"].as_str()
                && row["state"] == "static"
            {
                found.forwarding.insert((device, mac, bridge.to_owned()));
            }
        }
        for row in neighbours {
            let device = text(row, "dev")?;
            if let Some(mac) = row["lladdr"].as_str() {
                let address: IpAddr = text(row, "dst")?.parse()?;
                found
                    .neighbours
                    .insert((device, mac.to_owned(), address.to_string()));
            }
        }
        Ok(found)
    }

    /// What it has to be on a host.
    fn wanted(desired: &Desired, host: usize) -> anyhow::Result<Self> {
        let mut wanted = Self::default();
        let carried = (0..NETWORKS.len()).filter(|network| desired.carries(host, *network));
        for network in carried {
            let vni = desired.vnis[network];
            let (bridge, vxlan) = (format!("ovb{vni}"), format!("ovx{vni}"));
            wanted.devices.insert(bridge.clone(), None);
            wanted.devices.insert(vxlan.clone(), Some(bridge.clone()));
            for one in desired.on(network) {
                let mut device = vxlan.clone();
                if one.host == host {
                    let octets = one.id.parse::<EndpointId>()?;
                    device = port_name(octets);
                    wanted.devices.insert(device.clone(), Some(bridge.clone()));
                } else {
                    let vtep = address(one.host).to_string();
                    let nobody = "00:00:00:00:00:00".to_owned();
                    wanted.tunnels.insert((vxlan.clone(), nobody, vtep.clone()));
                    wanted
                        .tunnels
                        .insert((vxlan.clone(), one.mac.clone(), vtep));
                }
                wanted
                    .forwarding
                    .insert((device, one.mac.clone(), bridge.clone()));
                for address in &one.addresses {
                    let row = (bridge.clone(), one.mac.clone(), address.to_string());
                    wanted.neighbours.insert(row);
                }
            }
        }
        Ok(wanted)
    }
}

/// Somebody else's device among ours, which is left alone.
const FOREIGN: &str = "foreign0";

/// Adds it.
pub(crate) fn add_foreign(cluster: &mut Cluster, host: usize) -> anyhow::Result<()> {
    let switch = format!("--net={}", cluster.data(host).join("switch").display());
    let add = words("ip link add", &[FOREIGN, "type", "bridge"]);
    cluster.on_host(host, &[&["nsenter", &*switch][..], &add].concat())
}

/// In the namespaces of a host's programs, interfaces have what they shall.
pub(crate) fn interfaces(cluster: &Cluster, host: usize, desired: &Desired) -> anyhow::Result<()> {
    let mut wanted: BTreeMap<&str, BTreeSet<Interface>> = BTreeMap::new();
    for one in desired.at(host) {
        let addresses = one.addresses.iter().copied().collect();
        let interface = (one.mac.clone(), MTU, true, addresses);
        wanted.entry(&one.name).or_default().insert(interface);
    }
    for (program, wanted) in wanted {
        let told = cluster.ask(
            host,
            &words("exec", &[program, "--", "ip", "-j", "address"]),
        )?;
        let mut found = BTreeSet::new();
        for link in serde_json::from_str::<Vec<Value>>(&told)? {
            // The others are the loopback and the way out.
            if !text(&link, "ifname")?.starts_with("eth") {
                continue;
            }
            let flags = link["flags"].as_array().context("no flags")?;
            let up = flags.iter().any(|flag| flag == "UP");
            let all = link["addr_info"].as_array().context("no addresses")?.iter();
            let all = all.filter(|one| one["scope"] == "global");
            let addresses: anyhow::Result<BTreeSet<IpAddr>> =
                all.map(|one| Ok(text(one, "local")?.parse()?)).collect();
            let mtu = link["mtu"].as_u64().context("no MTU")?;
            found.insert((text(&link, "address")?, mtu, up, addresses?));
        }
        same(program, "interfaces", &found, &wanted)?;
    }
    Ok(())
}

/// The MAC address, the MTU, whether it is up, and the IP addresses.
type Interface = (String, u64, bool, BTreeSet<IpAddr>);

/// That of the networks, over an underlay of 1500 octets.
const MTU: u64 = 1_450;

/// On a host whose networks the kernel carries, its tables are what is desired, and nothing is left to be done.
pub(crate) fn kernel(cluster: &mut Cluster, host: usize, desired: &Desired) -> anyhow::Result<()> {
    let (found, wanted) = (Kernel::read(cluster, host)?, Kernel::wanted(desired, host)?);
    let at = name(host);
    ensure!(found.foreign, "{at}: {FOREIGN} is gone");
    ensure!(found.down.is_empty(), "{at}: down: {:?}", found.down);
    let devices = |of: &Kernel| of.devices.clone().into_iter().collect();
    same(&at, "devices", &devices(&found), &devices(&wanted))?;
    same(&at, "forwarding rows", &found.tunnels, &wanted.tunnels)?;
    same(
        &at,
        "rows of bridges",
        &found.forwarding,
        &wanted.forwarding,
    )?;
    same(&at, "neighbours", &found.neighbours, &wanted.neighbours)?;
    let plan = cluster.ask(host, &["network", "plan"])?;
    ensure!(plan.is_empty(), "{at}: still to do: {plan}");
    Ok(())
}

/// On a host whose networks user space carries, each address leads where it shall, and those that are gone nowhere.
pub(crate) fn user(
    cluster: &Cluster,
    host: usize,
    desired: &Desired,
    gone: &[Endpoint],
) -> anyhow::Result<()> {
    for (network, called) in NETWORKS.iter().enumerate() {
        if !desired.carries(host, network) {
            continue;
        }
        let mut wanted = BTreeMap::new();
        let known = gone.iter().filter(|one| one.network == network);
        for one in known.clone() {
            let addresses = one.addresses.iter().map(IpAddr::to_string);
            for address in addresses.chain([one.mac.clone()]) {
                wanted.insert(address, "unknown".to_owned());
            }
        }
        for one in desired.on(network) {
            let place = match one.host == host {
                true => format!("{} endpoint {}", one.mac, one.id),
                false => format!("{} vtep {}", one.mac, address(one.host)),
            };
            for address in one.addresses.iter().map(IpAddr::to_string) {
                wanted.insert(address, place.clone());
            }
            wanted.insert(one.mac.clone(), place);
        }
        let mut words = vec!["network", "lookup", called];
        words.extend(wanted.keys().map(String::as_str));
        let said = cluster.ask(host, &words)?;
        let found = said.lines().filter_map(|line| line.split_once(' '));
        let found = found.map(|(address, place)| (address.to_owned(), place.to_owned()));
        let rows = |all: BTreeMap<String, String>| all.into_iter().collect();
        same(&name(host), called, &found.collect(), &rows(wanted))?;
    }
    Ok(())
}

/// Says what there is too much and too little.
pub(crate) fn same<T: Ord + Debug>(
    at: &str,
    what: &str,
    found: &BTreeSet<T>,
    wanted: &BTreeSet<T>,
) -> anyhow::Result<()> {
    let more: Vec<_> = found.difference(wanted).collect();
    let less: Vec<_> = wanted.difference(found).collect();
    ensure!(
        more.is_empty() && less.is_empty(),
        "{at}: {what}: too many: {more:?}; missing: {less:?}"
    );
    Ok(())
}

fn text(of: &Value, key: &str) -> anyhow::Result<String> {
    let text = of[key].as_str().map(str::to_owned);
    text.with_context(|| format!("no {key}: {of}"))
}
