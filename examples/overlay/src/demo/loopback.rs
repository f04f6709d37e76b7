//! The reduced walk, where no hosts can be made: three nodes on loopback, endpoints inside this process.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use overlay_core::{EndpointId, plane::Namespace};
use overlay_node::{
    Timers,
    driver::{Daemon, InProcess, Options},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{interrupt::Interrupt, steps::Steps};
use crate::api::{
    AttachRequest, EndpointInfo, InitRequest, JoinRequest, ManagerStatus, NetworkCreate, NodeInfo,
    Request, Response, Role,
};

/// One node, its endpoints, and its address on loopback.
struct Node {
    name: String,
    address: IpAddr,
    platform: InProcess,
    daemon: Option<Daemon>,
}

struct Walk<'a> {
    runtime: Runtime,
    directory: TempDir,
    nodes: Vec<Node>,
    interrupt: &'a Interrupt,
}

/// Does the walk.
pub(super) fn walk(steps: &mut Steps, interrupt: &Interrupt) -> anyhow::Result<()> {
    let mut walk = Walk {
        runtime: tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?,
        directory: tempfile::Builder::new().prefix("overlay-demo-").tempdir()?,
        nodes: Vec::new(),
        interrupt,
    };
    let result = walk.steps(steps);
    if result.is_ok() {
        steps.done();
    }
    match interrupt.check() {
        Err(interrupted) => Err(interrupted.into()),
        Ok(()) => result,
    }
}

impl Walk<'_> {
    fn steps(&mut self, steps: &mut Steps) -> anyhow::Result<()> {
        steps.step("three nodes on loopback", || {
            for number in 1..=3 {
                self.start(number)?;
            }
            Ok(((), "127.0.0.1, 127.0.0.2, 127.0.0.3".to_owned()))
        })?;
        steps.step("node1: init", || {
            self.ask(0, Request::Init(InitRequest::default()))?;
            Ok(((), "is the first manager".to_owned()))
        })?;
        for node in 1..3 {
            steps.step(&format!("node{}: join by token", node + 1), || {
                let token = Request::JoinToken {
                    role: Role::Manager,
                    rotate: false,
                };
                let Response::Token(token) = self.ask(0, token)? else {
                    bail!("no token")
                };
                let (token, remote) = (token.token, token.remote);
                self.ask(
                    node,
                    Request::Join(JoinRequest {
                        token,
                        remote,
                        advertise: None,
                    }),
                )?;
                Ok(((), "joined as a manager".to_owned()))
            })?;
        }
        steps.step("create the network my-net", || {
            let (name, attachable) = ("my-net".to_owned(), true);
            let create = NetworkCreate {
                name,
                attachable,
                ..NetworkCreate::default()
            };
            let Response::Networks(networks) = self.ask(0, Request::NetworkCreate(create))? else {
                bail!("no network")
            };
            let subnet = networks.first().and_then(|network| network.subnets.first());
            Ok((
                (),
                subnet
                    .map(|subnet| subnet.subnet.to_string())
                    .unwrap_or_default(),
            ))
        })?;
        let mut endpoints = Vec::new();
        for (node, name) in NAMES.iter().enumerate() {
            endpoints.push(steps.step(&format!("node{}: attach {name}", node + 1), || {
                let endpoint = self.attach(node, name)?;
                let address = endpoint.addresses.first().map(ToString::to_string);
                Ok((endpoint.id, address.unwrap_or_default()))
            })?);
        }
        for (node, from) in NAMES.iter().enumerate() {
            for to in NAMES.iter().filter(|to| *to != from) {
                let what = format!("{from}: ping {to}");
                steps.step(&what, || Ok(((), self.ping(node, endpoints[node], to)?)))?;
            }
        }
        self.lose_leader(steps, &endpoints)
    }

    fn lose_leader(&mut self, steps: &mut Steps, endpoints: &[EndpointId]) -> anyhow::Result<()> {
        let lost = self.leader(0)?.context("nobody leads")?;
        let left: Vec<_> = (0..self.nodes.len()).filter(|node| *node != lost).collect();
        steps.step(&format!("stop the leader, node{}", lost + 1), || {
            self.nodes[lost].daemon = None;
            Ok(((), "gone".to_owned()))
        })?;
        for (node, other) in [(left[0], left[1]), (left[1], left[0])] {
            let (from, to) = (NAMES[node], NAMES[other]);
            let what = format!("{from}: ping {to}");
            steps.step(&what, || Ok(((), self.ping(node, endpoints[node], to)?)))?;
        }
        steps.step("who leads now?", || {
            let leads = self.eventually("a new leader", || {
                Ok(self.leader(left[0])?.filter(|leader| *leader != lost))
            })?;
            Ok(((), format!("node{}", leads + 1)))
        })
    }

    fn start(&mut self, number: u8) -> anyhow::Result<()> {
        let name = format!("node{number}");
        let address = IpAddr::from(Ipv4Addr::new(127, 0, 0, number));
        let mut options = Options::new(&name, self.directory.path().join(&name));
        options.timers = Timers::prompt();
        (options.advertise, options.listen) = (Some(address), address);
        let platform = InProcess::new();
        let daemon = self
            .runtime
            .block_on(Daemon::start(options, platform.clone()))?;
        self.nodes.push(Node {
            name,
            address,
            platform,
            daemon: Some(daemon),
        });
        Ok(())
    }

    fn ask(&self, node: usize, request: Request) -> anyhow::Result<Response> {
        self.interrupt.check()?;
        let name = &self.nodes[node].name;
        let daemon = self.nodes[node]
            .daemon
            .as_ref()
            .with_context(|| format!("{name} stopped"))?;
        let handle = daemon.handle();
        Ok(self
            .runtime
            .block_on(async move { handle.request(request).await })?)
    }

    fn attach(&self, node: usize, name: &str) -> anyhow::Result<EndpointInfo> {
        let attach = AttachRequest {
            network: "my-net".to_owned(),
            name: name.to_owned(),
            aliases: Vec::new(),
            addresses: Vec::new(),
            namespace: Namespace::InProcess,
            endpoint: None,
        };
        match self.ask(node, Request::Attach(attach))? {
            Response::Endpoints(endpoints) => endpoints.into_iter().next().context("no endpoint"),
            other => bail!("the node answered {other:?}"),
        }
    }

    fn ping(&self, node: usize, from: EndpointId, to: &str) -> anyhow::Result<String> {
        let platform = &self.nodes[node].platform;
        self.eventually(&format!("an answer of {to}"), || {
            let began = Instant::now();
            let reply = platform.ping(from, to, Duration::from_secs(1)).ok();
            Ok(reply.map(|reply| {
                let time = began.elapsed().as_secs_f64() * 1_000.0;
                format!(
                    "reply from {}: ttl={} time={time:.3} ms",
                    reply.from, reply.ttl
                )
            }))
        })
    }

    /// Returns which node leads, as `node` knows it.
    fn leader(&self, node: usize) -> anyhow::Result<Option<usize>> {
        let Response::Nodes(nodes) = self.ask(node, Request::NodeList)? else {
            bail!("no list")
        };
        let leads = |info: &&NodeInfo| info.manager_status == Some(ManagerStatus::Leader);
        let leader = nodes.iter().find(leads).map(|info| info.address);
        Ok(self
            .nodes
            .iter()
            .position(|node| Some(node.address) == leader))
    }

    fn eventually<T>(
        &self,
        what: &str,
        mut attempt: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        loop {
            if let Some(found) = attempt()? {
                return Ok(found);
            }
            if began.elapsed() > PATIENCE {
                bail!("{what} did not come within {PATIENCE:?}");
            }
            self.interrupt.pause(Duration::from_millis(20))?;
        }
    }
}

const NAMES: [&str; 3] = ["alpine1", "alpine2", "alpine3"];
/// How long anything may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(20);
