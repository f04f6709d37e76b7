//! Who is let in, and certificates that are replaced: real TLS, real clocks.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use overlay_core::plane::Namespace;
use overlay_node::{
    Peer,
    api::{
        ClusterInfo, ClusterUpdate, Error, ErrorKind, InitRequest, IssuedTokenInfo, JoinRequest,
        NetworkCreate, Request, Response, Role, TokenCreate,
    },
    identity::certificate::{self, Own},
};

use tokio::{
    io::AsyncReadExt as _,
    net::{TcpSocket, TcpStream},
};

use super::{
    at_rest::opened,
    host::{Host, Scratch, cluster, eventually},
};

async fn made(host: &Host, wanted: TokenCreate) -> IssuedTokenInfo {
    match host.ask(Request::TokenCreate(wanted)).await {
        Ok(Response::Tokens(mut tokens)) => tokens.remove(0),
        other => panic!("{other:?}"),
    }
}

async fn join(host: &Host, token: &IssuedTokenInfo) -> Result<Response, Error> {
    let join = JoinRequest {
        token: token.token.clone(),
        remote: token.remote,
        advertise: None,
    };
    host.ask(Request::Join(join)).await
}

async fn inspect(host: &Host) -> ClusterInfo {
    match host.ask(Request::ClusterInspect).await {
        Ok(Response::Cluster(info)) => *info,
        other => panic!("{other:?}"),
    }
}

/// Reads what a host's certificate says, and with which authorities it goes.
fn certificate_of(host: &Host) -> (Own, String) {
    let identity = opened(&host.directory, "identity.json");
    let identity: serde_json::Value = serde_json::from_slice(&identity).unwrap();
    let text = |part: &str| identity["credentials"][part].as_str().unwrap().to_owned();
    (Own::read(&text("certificate")).unwrap(), text("authority"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_one_node_lets_one_in_and_a_brief_one_none_later() {
    let scratch = Scratch::new("tokens");
    let first = Host::start(&scratch, 21, 1).await;
    let init = Request::Init(InitRequest::default());
    first.ask(init).await.unwrap();
    let once = TokenCreate {
        role: Role::Manager,
        uses: Some(1),
        lifetime_ms: Some(60_000),
    };
    let once = made(&first, once).await;
    let second = Host::start(&scratch, 21, 2).await;
    let Ok(Response::Joined(joined)) = join(&second, &once).await else {
        panic!("not joined")
    };
    assert_eq!(joined.role, Role::Manager);
    let third = Host::start(&scratch, 21, 3).await;
    let refused = join(&third, &once).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Untrusted, "{refused}");
    assert!(refused.message.contains("fresh one"), "{refused}");
    let brief = TokenCreate {
        lifetime_ms: Some(300),
        ..TokenCreate::default()
    };
    let brief = made(&first, brief).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let refused = join(&third, &brief).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Untrusted, "{refused}");
    // Neither left anything of the attempt, and a token of the role goes on.
    third.join(&first, Role::Worker).await;
    assert_eq!(inspect(&first).await.nodes, 3);
    for mut host in [first, second, third] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_at_half_of_their_life_and_nobody_notices() {
    let scratch = Scratch::new("renewal");
    let hosts = cluster(&scratch, 22).await;
    let brief = ClusterUpdate {
        certificate_ms: Some(10_000),
        ..ClusterUpdate::default()
    };
    hosts[0].ask(Request::ClusterUpdate(brief)).await.unwrap();
    let create = NetworkCreate {
        name: "my-net".to_owned(),
        attachable: true,
        ..NetworkCreate::default()
    };
    hosts[0].ask(Request::NetworkCreate(create)).await.unwrap();
    // The first of such a life: who is renewed for another reason, or joins.
    let worker = Host::start(&scratch, 22, 4).await;
    worker.join(&hosts[0], Role::Worker).await;
    let (own, _) = certificate_of(&worker);
    let life = own.not_after - own.not_before;
    assert_eq!(
        life,
        Duration::from_secs(3_600 + 10),
        "an hour of it before now"
    );
    let one = worker.attach("one").await.unwrap();
    hosts[0].attach("two").await.unwrap();
    for lives in 1..=2 {
        let (before, _) = certificate_of(&worker);
        eventually("a younger certificate", async || {
            certificate_of(&worker).0.not_after > before.not_after
        })
        .await;
        assert!(worker.reaches(one.id, "two").await, "after {lives}");
        // It still is a node whom managers listen to.
        let name = format!("late{lives}");
        let late = worker.attach_to("my-net", &name, Namespace::InProcess);
        late.await.unwrap();
    }
    for mut host in hosts.into_iter().chain([worker]) {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_replaced_while_all_go_on() {
    let scratch = Scratch::new("authority");
    let mut hosts = cluster(&scratch, 23).await;
    let worker = Host::start(&scratch, 23, 4).await;
    worker.join(&hosts[0], Role::Worker).await;
    hosts.push(worker);
    let former = inspect(&hosts[0]).await.ca_certificate;
    let old_token = made(&hosts[0], TokenCreate::default()).await;
    // One is away, so both are trusted until it is back.
    hosts[3].stop().await;
    let rotate = || Request::AuthorityRotate { next: None };
    hosts[1].ask(rotate()).await.unwrap();
    let refused = hosts[0].ask(rotate()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InUse, "{refused}");
    eventually("the others' new certificates", async || {
        let next = inspect(&hosts[0]).await.next_authority;
        next.is_some_and(|next| next.awaited.len() == 1)
    })
    .await;
    // Whoever has a token of before joins in the midst of it.
    let fifth = Host::start(&scratch, 23, 5).await;
    join(&fifth, &old_token).await.unwrap();
    hosts.push(fifth);
    hosts[3].restart().await;
    eventually("the end of the former authority", async || {
        inspect(&hosts[0]).await.next_authority.is_none()
    })
    .await;
    let present = inspect(&hosts[0]).await.ca_certificate;
    assert_ne!(present, former);
    eventually("trust in the new one alone", async || {
        hosts.iter().all(|host| certificate_of(host).1 == present)
    })
    .await;
    // The tokens changed with it.
    let late = Host::start(&scratch, 23, 6).await;
    let refused = join(&late, &old_token).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Untrusted, "{refused}");
    late.join(&hosts[2], Role::Worker).await;
    hosts.push(late);
    assert_eq!(inspect(&hosts[0]).await.nodes, 6);
    // All of them start again with what they kept.
    for host in &mut hosts {
        host.stop().await;
    }
    for host in &mut hosts {
        super::host::port_is_free(host).await;
        host.restart().await;
    }
    eventually("a cluster again", async || {
        let asked = hosts[5].ask(Request::Info).await;
        matches!(asked, Ok(Response::Info(info)) if info.nodes_alive == 6)
    })
    .await;
    for mut host in hosts {
        host.stop().await;
    }
}

/// Connects from an address of loopback, of which everybody has many.
async fn knock(from: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((IpAddr::from(from), 0).into())?;
    socket.connect(to).await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_keep_nobody_out() {
    let scratch = Scratch::new("silent");
    let mut first = Host::start(&scratch, 24, 1).await;
    let init = Request::Init(InitRequest::default());
    first.ask(init).await.unwrap();
    let to = SocketAddr::new(first.address, 2_377);
    // Many of one address, and one each of many.
    let mut silent = Vec::new();
    for _ in 0..150 {
        silent.push(knock([127, 90, 24, 66], to).await.unwrap());
    }
    for number in 0..200 {
        silent.push(knock([127, 90, 25, number], to).await.unwrap());
    }
    // Those of one address were too many: the first of them made way.
    let mut octets = [0; 1];
    let ended = silent[0].read(&mut octets);
    let ended = tokio::time::timeout(Duration::from_secs(4), ended).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    let one = tokio::time::timeout(Duration::from_millis(50), silent[200].read(&mut octets));
    assert!(one.await.is_err(), "it is left alone");
    let mut second = Host::start(&scratch, 24, 2).await;
    second.join(&first, Role::Worker).await;
    drop(silent);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_waits_while_a_right_one_lets_in() {
    let scratch = Scratch::new("guesses");
    let mut first = Host::start(&scratch, 26, 1).await;
    let init = Request::Init(InitRequest::default());
    first.ask(init).await.unwrap();
    let right = made(&first, TokenCreate::default()).await;
    let (front, _) = right.token.rsplit_once('-').unwrap();
    let wrong = IssuedTokenInfo {
        token: format!("{front}-{:0>25}", 1),
        ..right.clone()
    };
    let guesser = Host::start(&scratch, 26, 3).await;
    let began = tokio::time::Instant::now();
    let guess = async {
        let refused = join(&guesser, &wrong).await.unwrap_err();
        (refused, began.elapsed())
    };
    let mut second = Host::start(&scratch, 26, 2).await;
    let ((refused, took), joined) = tokio::join!(guess, join(&second, &right));
    joined.unwrap();
    assert_eq!(refused.kind, ErrorKind::Untrusted, "{refused}");
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert_eq!(inspect(&first).await.nodes, 2);
    for host in [&mut first, &mut second] {
        host.stop().await;
    }
}

#[test]
fn a_chain_leads_to_the_former_authority() {
    let cluster = overlay_core::NodeId::from_bytes([1; 16]);
    let now = Duration::from_secs(1_700_000_000);
    let first = certificate::Authority::generate(cluster, now).unwrap();
    let next = first.succeed(cluster, now).unwrap();
    assert_ne!(first.certificate(), next.certificate);
    let (_, request) = certificate::request().unwrap();
    let subject = certificate::Subject {
        cluster,
        node: certificate::node_of(&request).unwrap(),
        role: Role::Worker,
    };
    let chain = certificate::Authority::next(&next)
        .issue(&request, subject, now, Duration::from_secs(60))
        .unwrap();
    assert!(chain.ends_with(&next.cross));
    let peer = Peer {
        node: subject.node,
        role: subject.role,
    };
    assert_eq!(Own::read(&chain).unwrap().peer, peer);
}
