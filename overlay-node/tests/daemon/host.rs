//! A daemon on loopback with in-process endpoints.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use overlay_core::{EndpointId, plane::Namespace};
use overlay_node::{
    Timers,
    api::{
        AttachRequest, EndpointInfo, Error, InitRequest, JoinRequest, ManagerStatus, Request,
        Response, Role,
    },
    driver::{Daemon, Handle, InProcess, Options},
};

/// One daemon and its endpoints.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) address: IpAddr,
    pub(super) directory: PathBuf,
    pub(super) platform: InProcess,
    pub(super) daemon: Option<Daemon>,
}

/// A directory that goes with the test.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("overlay-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Host {
    pub(super) async fn start(scratch: &Scratch, network: u8, number: u8) -> Self {
        let name = format!("host{number}");
        let mut host = Self {
            address: Ipv4Addr::new(127, 90, network, number).into(),
            directory: scratch.0.join(&name),
            platform: InProcess::new(),
            daemon: None,
            name,
        };
        host.restart().await;
        host
    }

    pub(super) fn options(&self) -> Options {
        let mut options = Options::new(&self.name, &self.directory);
        options.timers = Timers::prompt();
        options.advertise = Some(self.address);
        options.listen = self.address;
        options
    }

    pub(super) async fn restart(&mut self) {
        let options = self.options();
        self.daemon = Some(Daemon::start(options, self.platform.clone()).await.unwrap());
    }

    pub(super) async fn stop(&mut self) {
        let daemon = self.daemon.take().unwrap();
        daemon.handle().shutdown().await;
        daemon.stopped().await.unwrap();
    }

    pub(super) fn handle(&self) -> Handle {
        self.daemon.as_ref().unwrap().handle()
    }

    pub(super) async fn ask(&self, request: Request) -> Result<Response, Error> {
        self.handle().request(request).await
    }

    pub(super) async fn join(&self, first: &Self, role: Role) {
        let Ok(Response::Token(token)) = first
            .ask(Request::JoinToken {
                role,
                rotate: false,
            })
            .await
        else {
            panic!("no token");
        };
        let join = JoinRequest {
            token: token.token,
            remote: token.remote,
            advertise: None,
        };
        self.ask(Request::Join(join)).await.unwrap();
    }

    pub(super) async fn attach(&self, name: &str) -> Result<EndpointInfo, Error> {
        self.attach_to("my-net", name, Namespace::InProcess).await
    }

    pub(super) async fn attach_to(
        &self,
        network: &str,
        name: &str,
        namespace: Namespace,
    ) -> Result<EndpointInfo, Error> {
        let attach = AttachRequest {
            network: network.to_owned(),
            name: name.to_owned(),
            aliases: Vec::new(),
            addresses: Vec::new(),
            namespace,
            endpoint: None,
        };
        match self.ask(Request::Attach(attach)).await? {
            Response::Endpoints(mut endpoints) => Ok(endpoints.remove(0)),
            other => panic!("{other:?}"),
        }
    }

    /// Pings by name until answered, for at most ten seconds. A name that is not known yet is refused at once.
    pub(super) async fn reaches(&self, from: EndpointId, name: &str) -> bool {
        let pings = async {
            loop {
                let (platform, name) = (self.platform.clone(), name.to_owned());
                let patience = Duration::from_millis(500);
                let pinged =
                    tokio::task::spawn_blocking(move || platform.ping(from, &name, patience)).await;
                if pinged.unwrap().is_ok_and(|echo| echo.ttl == 64) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), pings)
            .await
            .is_ok()
    }
}

pub(super) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(10), wait).await;
    assert!(came.is_ok(), "{what} did not come about within ten seconds");
}

/// A daemon that has stopped may hold its sockets for a moment, until the runtime has dropped its tasks.
pub(super) async fn port_is_free(host: &Host) {
    let address = SocketAddr::new(host.address, 2_377);
    eventually("a free port", async || {
        tokio::net::TcpListener::bind(address).await.is_ok()
    })
    .await;
}

pub(super) async fn managers(host: &Host) -> Vec<Option<ManagerStatus>> {
    match host.ask(Request::NodeList).await {
        Ok(Response::Nodes(nodes)) => nodes.iter().map(|node| node.manager_status).collect(),
        _ => Vec::new(),
    }
}

pub(super) async fn cluster(scratch: &Scratch, network: u8) -> Vec<Host> {
    let mut hosts = Vec::new();
    for number in 1..=3 {
        hosts.push(Host::start(scratch, network, number).await);
    }
    hosts[0]
        .ask(Request::Init(InitRequest::default()))
        .await
        .unwrap();
    hosts[1].join(&hosts[0], Role::Manager).await;
    hosts[2].join(&hosts[0], Role::Manager).await;
    hosts
}
