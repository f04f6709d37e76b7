//! Plans the addresses of networks, and says what is wrong with a plan.
//!
//! Reads a plan from a file or from standard input, one statement a line:
//!
//! ```text
//! pool 10.0.0.0/8 24                  # subnets are cut from here; Docker's default if there is no such line
//! avoid 10.0.1.0/24                   # used elsewhere: a VPN, a host's route
//! network web                         # any subnet
//! network db 0.0.0.0/26               # any of this length
//! network old 192.168.7.0/24          # this very one
//! host web proxy                      # any address
//! host web printer 10.0.0.200         # this very one
//! ```
//!
//! `cargo run -p overlay-ipam --example plan -- FILE`, or `-` for standard input; without a file it shows the plan above.

use std::{collections::BTreeMap, io::Read, process::ExitCode};

use ipnet::IpNet;
use overlay_core::Vni;
use overlay_ipam::{OwnerId, PoolConfig, Pools, Subnet, SubnetConfig, SubnetRequest, VniAllocator};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let text = match std::env::args().nth(1).as_deref() {
        None => Ok(SAMPLE.to_owned()),
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        Some(path) => std::fs::read_to_string(path),
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => return fail(&error.to_string()),
    };
    let mut plan = match Plan::new(&text) {
        Ok(plan) => plan,
        Err(error) => return fail(&error.to_string()),
    };
    let mut wrong = 0;
    for (number, line) in (1..).zip(text.lines()) {
        if let Err(error) = plan.run(line) {
            wrong += 1;
            say(&format!("line {number}: {error}"));
        }
    }
    plan.print();
    if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

struct Plan {
    pools: Pools,
    vnis: VniAllocator,
    avoid: Vec<IpNet>,
    networks: BTreeMap<String, (Vni, Subnet)>,
    names: BTreeMap<OwnerId, String>,
}

impl Plan {
    fn new(text: &str) -> Result<Self, Failure> {
        let mut configs = Vec::new();
        for line in text.lines() {
            if let ["pool", prefix, split] = words(line)[..] {
                configs.push(PoolConfig {
                    prefix: prefix.parse()?,
                    split: split.parse()?,
                });
            }
        }
        let pools = if configs.is_empty() {
            Pools::docker_default()
        } else {
            Pools::new(&configs)?
        };
        Ok(Self {
            pools,
            vnis: VniAllocator::new(),
            avoid: Vec::new(),
            networks: BTreeMap::new(),
            names: BTreeMap::new(),
        })
    }

    fn run(&mut self, line: &str) -> Result<(), Failure> {
        match words(line)[..] {
            [] | ["pool", _, _] => Ok(()),
            ["avoid", prefix] => {
                self.avoid.push(prefix.parse()?);
                Ok(())
            }
            ["network", name] => self.network(name, SubnetRequest::Any),
            ["network", name, prefix] => {
                self.network(name, SubnetRequest::from_prefix(prefix.parse()?))
            }
            ["host", network, name] => self.host(network, name, None),
            ["host", network, name, address] => self.host(network, name, Some(address)),
            _ => Err("expected pool, avoid, network or host".into()),
        }
    }

    fn network(&mut self, name: &str, request: SubnetRequest) -> Result<(), Failure> {
        if self.networks.contains_key(name) {
            return Err(format!("there is a network {name} already").into());
        }
        let prefix = self.pools.allocate(request, &self.avoid)?;
        let subnet = Subnet::new(SubnetConfig::new(prefix))?;
        self.networks
            .insert(name.to_owned(), (self.vnis.allocate()?, subnet));
        Ok(())
    }

    fn host(&mut self, network: &str, name: &str, address: Option<&str>) -> Result<(), Failure> {
        let found = self.networks.get_mut(network);
        let (_, subnet) = found.ok_or_else(|| format!("there is no network {network}"))?;
        let owner = OwnerId::from_bytes((self.names.len() as u128).to_be_bytes());
        match address {
            Some(address) => subnet.reserve(owner, address.parse()?, 0)?,
            None => subnet.allocate(owner, 0)?,
        };
        self.names.insert(owner, name.to_owned());
        Ok(())
    }

    fn print(&self) {
        for (name, (vni, subnet)) in &self.networks {
            let gateway = subnet
                .gateway()
                .map_or("none".to_owned(), |gateway| gateway.to_string());
            let (prefix, left) = (subnet.prefix(), subnet.available());
            say(&format!(
                "{name}: {prefix}, VNI {vni}, gateway {gateway}, {left} addresses left"
            ));
            for lease in subnet.leases() {
                say(&format!(
                    "  {:<15} {}",
                    lease.address, self.names[&lease.owner]
                ));
            }
        }
    }
}

fn words(line: &str) -> Vec<&str> {
    let statement = line.split('#').next().unwrap_or_default();
    statement.split_whitespace().collect()
}

#[expect(clippy::print_stdout, reason = "a program for people")]
fn say(text: &str) {
    println!("{text}");
}

fn fail(text: &str) -> ExitCode {
    say(text);
    ExitCode::FAILURE
}

const SAMPLE: &str = "\
avoid 10.0.1.0/24
network web
network db 0.0.0.0/26
network old 192.168.7.0/24
host web proxy
host web printer 10.0.0.200
host web cache
";
