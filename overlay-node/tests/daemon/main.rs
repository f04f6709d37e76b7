//! Three daemons on loopback with in-process endpoints: real sockets, real TLS, real files.

#![cfg(feature = "tokio")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "a failed test panics"
)]

mod admission;
mod advisories;
mod at_rest;
mod host;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use host::{Host, Scratch, cluster, eventually, managers, port_is_free};
use overlay_core::plane::{DataPath, Namespace};
use overlay_node::{
    Timers,
    api::{
        ErrorKind, InitRequest, JoinRequest, LocalState, ManagerStatus, NetworkCreate, Request,
        Response, Role,
    },
    driver::{Daemon, InProcess, Options},
};

/// One resolver for a namespace, which outlives the endpoint after which it is named.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_share_a_namespace_share_its_resolver() {
    let scratch = Scratch::new("shared");
    let mut host = Host::start(&scratch, 7, 1).await;
    host.ask(Request::Init(InitRequest::default()))
        .await
        .unwrap();
    for name in ["my-net", "other"] {
        let create = NetworkCreate {
            name: name.to_owned(),
            attachable: true,
            ..NetworkCreate::default()
        };
        host.ask(Request::NetworkCreate(create)).await.unwrap();
    }
    let first = host.attach("web").await.unwrap().id;
    let peer = host.attach("peer").await.unwrap().id;
    let shared = |interface| Namespace::Shared {
        with: first,
        interface,
    };
    let taken = host.attach_to("other", "web", shared(0)).await;
    assert_eq!(taken.unwrap_err().kind, ErrorKind::Conflict);
    let second = host.attach_to("other", "web", shared(1)).await;
    let second = second.unwrap().id;
    let far = host.attach_to("other", "far", Namespace::InProcess).await;
    far.unwrap();
    assert!(host.reaches(first, "peer").await);
    assert!(host.reaches(second, "far").await);
    assert!(host.reaches(peer, "web").await);
    let detach = Request::Detach {
        endpoint: first.to_string(),
    };
    host.ask(detach).await.unwrap();
    assert!(host.reaches(second, "far").await);
    host.stop().await;
    port_is_free(&host).await;
    host.restart().await;
    assert!(host.reaches(second, "far").await);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walk_of_three_daemons() {
    let scratch = Scratch::new("walk");
    let mut hosts = cluster(&scratch, 1).await;
    let create = NetworkCreate {
        name: "my-net".to_owned(),
        attachable: true,
        ..NetworkCreate::default()
    };
    // A manager that does not lead forwards what it gets.
    let Ok(Response::Networks(networks)) = hosts[1].ask(Request::NetworkCreate(create)).await
    else {
        panic!("no network");
    };
    assert_eq!(networks[0].subnets[0].subnet.to_string(), "10.0.1.0/24");
    let mut endpoints = Vec::new();
    for (host, name) in hosts.iter().zip(["alpine1", "alpine2", "alpine3"]) {
        endpoints.push(host.attach(name).await.unwrap());
    }
    for (host, from) in hosts.iter().zip(&endpoints) {
        for to in endpoints.iter().filter(|to| to.id != from.id) {
            assert!(
                host.reaches(from.id, &to.name).await,
                "{} to {}",
                from.name,
                to.name
            );
        }
    }
    // The leader goes; names and frames do not notice, and another one leads.
    hosts[0].stop().await;
    assert!(hosts[1].reaches(endpoints[1].id, "alpine3").await);
    eventually("a new leader", async || {
        managers(&hosts[1])
            .await
            .contains(&Some(ManagerStatus::Leader))
    })
    .await;
    let late = hosts[2].attach("late").await.unwrap();
    assert!(hosts[1].reaches(endpoints[1].id, "late").await);
    // It comes back and has forgotten nothing.
    hosts[0].restart().await;
    assert!(hosts[2].reaches(late.id, "alpine1").await);
    let Ok(Response::Info(info)) = hosts[0].ask(Request::Info).await else {
        panic!("no info")
    };
    assert_eq!(
        (info.state, info.role),
        (LocalState::Active, Some(Role::Manager))
    );
    for host in &mut hosts {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_was_passed_carries_the_frames() {
    let scratch = Scratch::new("passed");
    let mut first = Host::start(&scratch, 8, 1).await;
    first
        .ask(Request::Init(InitRequest::default()))
        .await
        .unwrap();
    first.stop().await;
    port_is_free(&first).await;
    let mut options = first.options();
    let passed = |port| Some(Arc::new(UdpSocket::bind((first.address, port)).unwrap()));
    options.data_socket = passed(0);
    let refused = Daemon::start(options.clone(), first.platform.clone()).await;
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("bind it to port 4789"), "{said}");
    port_is_free(&first).await;
    options.data_socket = passed(4_789);
    options.data_path = DataPath::Kernel;
    let refused = Daemon::start(options.clone(), first.platform.clone()).await;
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("no use for a socket"), "{said}");
    options.data_path = DataPath::User;
    let started = Daemon::start(options, first.platform.clone()).await;
    first.daemon = Some(started.unwrap());

    let other = Host::start(&scratch, 8, 2).await;
    other.join(&first, Role::Worker).await;
    let create = NetworkCreate {
        name: "my-net".to_owned(),
        attachable: true,
        ..NetworkCreate::default()
    };
    first.ask(Request::NetworkCreate(create)).await.unwrap();
    let (one, two) = (first.attach("one").await, other.attach("two").await);
    assert!(first.reaches(one.unwrap().id, "two").await);
    assert!(other.reaches(two.unwrap().id, "one").await);
    for mut host in [other, first] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_with_what_and_what_next() {
    let scratch = Scratch::new("bad-input");
    let first = Host::start(&scratch, 2, 1).await;
    let second = Host::start(&scratch, 2, 2).await;
    let error = first.ask(Request::NodeList).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotMember, "{error}");
    first
        .ask(Request::Init(InitRequest::default()))
        .await
        .unwrap();
    let error = first
        .ask(Request::Init(InitRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyMember, "{error}");
    let Ok(Response::Token(token)) = first
        .ask(Request::JoinToken {
            role: Role::Worker,
            rotate: false,
        })
        .await
    else {
        panic!("no token");
    };
    let join = |token: String, remote: SocketAddr| {
        Request::Join(JoinRequest {
            token,
            remote,
            advertise: None,
        })
    };
    let wrong = |at: usize| {
        let mut text = token.token.clone().into_bytes();
        text[at] = if text[at] == b'1' { b'2' } else { b'1' };
        String::from_utf8(text).unwrap()
    };
    let (digest, secret) = (wrong(20), wrong(token.token.len() - 3));
    for (token, remote, kind) in [
        (
            "SWMTKN-1-short".to_owned(),
            token.remote,
            ErrorKind::Invalid,
        ),
        (digest, token.remote, ErrorKind::Untrusted),
        (secret, token.remote, ErrorKind::Untrusted),
        (
            token.token.clone(),
            SocketAddr::new(first.address, 1),
            ErrorKind::Unavailable,
        ),
    ] {
        let error = second.ask(join(token, remote)).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        let Ok(Response::Info(info)) = second.ask(Request::Info).await else {
            panic!("no info")
        };
        assert_eq!(
            info.state,
            LocalState::Inactive,
            "nothing half done is left"
        );
    }
    let old = token.token.clone();
    second.ask(join(token.token, token.remote)).await.unwrap();
    let error = second.ask(Request::NodeList).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotManager, "{error}");
    // A second daemon on the same directory, and one on the same port.
    let options = Options::new("other", &first.directory);
    let error = Daemon::start(options, InProcess::new()).await.unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    let third = Host::start(&scratch, 2, 3).await;
    let mut options = Options::new("fourth", scratch.0.join("fourth"));
    options.timers = Timers::prompt();
    (options.advertise, options.listen) = (Some(first.address), first.address);
    let fourth = Daemon::start(options, InProcess::new()).await.unwrap();
    let error = fourth
        .handle()
        .request(Request::Init(InitRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    drop(third);
    let rotate = Request::JoinToken {
        role: Role::Worker,
        rotate: true,
    };
    let Ok(Response::Token(rotated)) = first.ask(rotate).await else {
        panic!("the new token is the answer")
    };
    assert_ne!(rotated.token, old);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_follows_the_role_also_over_a_restart() {
    let scratch = Scratch::new("role");
    let first = Host::start(&scratch, 4, 1).await;
    let mut second = Host::start(&scratch, 4, 2).await;
    first
        .ask(Request::Init(InitRequest::default()))
        .await
        .unwrap();
    second.join(&first, Role::Worker).await;
    let set_role = |role| Request::NodeSetRole {
        node: second.name.clone(),
        role,
    };
    let (promote, demote) = (set_role(Role::Manager), set_role(Role::Worker));
    first.ask(promote).await.unwrap();
    // What only a manager may ask the leader for.
    eventually("a promoted node", async || {
        managers(&second).await.len() == 2
    })
    .await;
    second.stop().await;
    port_is_free(&second).await;
    second.restart().await;
    eventually("a promoted node after a restart", async || {
        let statuses = managers(&second).await;
        statuses.contains(&Some(ManagerStatus::Leader)) && !statuses.contains(&None)
    })
    .await;
    first.ask(demote).await.unwrap();
    eventually("a demoted node", async || {
        matches!(second.ask(Request::Info).await, Ok(Response::Info(info)) if info.role == Some(Role::Worker))
    })
    .await;
    second.stop().await;
    port_is_free(&second).await;
    second.restart().await;
    let refused = second.ask(Request::NodeList).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotManager, "{refused}");
    second.ask(Request::NetworkList).await.unwrap();
}

#[tokio::test]
async fn a_node_that_left_begins_anew() {
    let scratch = Scratch::new("anew");
    let host = Host::start(&scratch, 5, 1).await;
    let mut clusters = Vec::new();
    for _ in 0..2 {
        host.ask(Request::Init(InitRequest::default()))
            .await
            .unwrap();
        let Ok(Response::Info(info)) = host.ask(Request::Info).await else {
            panic!("no info")
        };
        clusters.push(info.cluster);
        let Ok(Response::Networks(networks)) = host.ask(Request::NetworkList).await else {
            panic!("no networks")
        };
        let names: Vec<_> = networks
            .iter()
            .map(|network| network.name.as_str())
            .collect();
        assert_eq!(names, ["host", "ingress", "none"]);
        host.ask(Request::NetworkCreate(NetworkCreate {
            name: "my-net".to_owned(),
            attachable: true,
            ..NetworkCreate::default()
        }))
        .await
        .unwrap();
        host.attach("one").await.unwrap();
        host.ask(Request::Leave { force: true }).await.unwrap();
    }
    assert_ne!(clusters[0], clusters[1]);
}

#[tokio::test]
async fn a_daemon_whose_disk_fails_stops_and_goes_on_once_it_is_mended() {
    let scratch = Scratch::new("disk");
    let mut host = Host::start(&scratch, 3, 1).await;
    host.ask(Request::Init(InitRequest::default()))
        .await
        .unwrap();
    host.ask(Request::NetworkCreate(NetworkCreate {
        name: "my-net".to_owned(),
        attachable: true,
        ..NetworkCreate::default()
    }))
    .await
    .unwrap();
    // A directory where a file is to be made fails for root too.
    let obstacle = host.directory.join("node/agent.new");
    std::fs::create_dir(&obstacle).unwrap();
    let refused = host.attach("one").await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused}");
    let failure = host.daemon.take().unwrap().stopped().await.unwrap_err();
    assert!(failure.to_string().contains("agent"), "{failure}");
    std::fs::remove_dir(obstacle).unwrap();
    host.restart().await;
    let Ok(Response::Networks(networks)) = host.ask(Request::NetworkList).await else {
        panic!("no networks")
    };
    assert!(networks.iter().any(|network| network.name == "my-net"));
    host.attach("two").await.unwrap();
}
