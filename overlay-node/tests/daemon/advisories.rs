//! What went wrong with other managements of clusters, tried on running daemons: a test for each advisory.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use overlay_core::NodeId;
use overlay_node::{
    api::{ClusterUpdate, InitRequest, ManagerStatus, NetworkCreate, Request, Response, Role},
    identity::{
        certificate::{Own, unit},
        tls::{Credentials, joining_client},
    },
    state::RequestId,
    wire::{self, Ask, Message},
};
use overlay_raft::{
    HardState, RaftId,
    storage::{Log, StorageConfig},
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    at_rest::{opened, unsealed},
    host::{Host, Scratch, cluster, eventually, managers},
};

/// Who takes part in the consensus is said by a certificate: a worker's moves nobody's term, whomever it claims to be, nor
/// does a manager's that speaks for another one.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2021_37219_a_workers_certificate_speaks_no_raft() {
    let scratch = Scratch::new("raft");
    let hosts = cluster(&scratch, 40).await;
    let worker = Host::start(&scratch, 40, 4).await;
    worker.join(&hosts[0], Role::Worker).await;
    eventually("three managers", async || {
        let listed = managers(&hosts[0]).await;
        listed.iter().flatten().count() == 3 && listed.contains(&Some(ManagerStatus::Leader))
    })
    .await;
    let (leader, other) = (
        hard_state(&scratch, &hosts[0]),
        hard_state(&scratch, &hosts[1]),
    );
    let term = leader.term.get() + 1_000;
    let frame = vote(&leader, &other, term);
    let third = hard_state(&scratch, &hosts[2]);
    for (who, frame) in [
        (&worker, frame.clone()),
        (&worker, vote(&leader, &third, term)),
        (&hosts[2], frame.clone()), // in the name of the second one
    ] {
        let mut session = connect(&hosts[0], &credentials(who)).await;
        for _ in 0..10 {
            session.write_all(&frame).await.unwrap();
        }
        session.flush().await.unwrap();
        // What is answered to the last one comes after what the others did.
        session.write_all(&heartbeat()).await.unwrap();
        assert!(answers(&mut session).await > 0);
        write_something(&hosts[0]).await;
        let now = hard_state(&scratch, &hosts[0]);
        assert!(now.term.get() < term, "{who}: {now:?}", who = who.name);
    }
    // The same octets from whom they name are heard: what was sent is what it looks like.
    let mut session = connect(&hosts[0], &credentials(&hosts[1])).await;
    session.write_all(&frame).await.unwrap();
    session.flush().await.unwrap();
    eventually("a later term", async || {
        hard_state(&scratch, &hosts[0]).term.get() >= term
    })
    .await;
    for mut host in hosts.into_iter().chain([worker]) {
        host.stop().await;
    }
}

/// Whatever is asked without a certificate, by every kind of frame that there is or might be: nothing is answered but the
/// one ask that needs none, and that with a refusal where it needs one.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2020_15136_no_kind_of_request_does_without_a_certificate() {
    let scratch = Scratch::new("kinds");
    let mut host = Host::start(&scratch, 41, 1).await;
    host.ask(Request::Init(InitRequest::default()))
        .await
        .unwrap();
    let digest = overlay_node::identity::ca_digest(&credentials(&host).authority);
    let config = Arc::new(joining_client(digest).unwrap());
    let ask = Message::Ask {
        request: RequestId::from_bytes([9; 16]),
        ask: Ask::Api(Request::NodeList),
    };
    let asked = wire::encode(&ask);
    for kind in 0..=u8::MAX {
        // With the body of a session's frame, and with that of a join: whichever would be read.
        for body in [&asked[wire::HEADER_BYTES..], &renew()[wire::HEADER_BYTES..]] {
            let mut session = dial(&host, Arc::clone(&config)).await.unwrap();
            let mut frame = vec![kind, 1];
            frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
            frame.extend(body);
            session.write_all(&frame).await.unwrap();
            drop(session.shutdown().await);
            let mut said = Vec::new();
            drop(
                timeout(PATIENCE, session.read_to_end(&mut said))
                    .await
                    .unwrap(),
            );
            let text = String::from_utf8_lossy(&said);
            // Octets that happen to read as such an ask are one.
            let is_refused = kind == b'B' && text.contains("only for who shows one");
            assert!(is_refused || frame != renew(), "{text}");
            assert!(is_refused || said.is_empty(), "{kind}: {text}");
        }
    }
    host.stop().await;
}

/// A node is removed by its identity, which is that of its key: another form of the signature in its certificate, which is
/// as valid, makes it no other node.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_25793_a_removed_node_does_not_come_back_by_another_form_of_its_certificate() {
    let scratch = Scratch::new("malleable");
    let mut first = Host::start(&scratch, 42, 1).await;
    first
        .ask(Request::Init(InitRequest::default()))
        .await
        .unwrap();
    let mut worker = Host::start(&scratch, 42, 2).await;
    worker.join(&first, Role::Worker).await;
    let own = credentials(&worker);
    let twin = Credentials {
        certificate: other_form(&own.certificate),
        ..own.clone()
    };
    assert_ne!(twin.certificate, own.certificate);
    let node = Own::read(&own.certificate).unwrap().peer.node;
    assert_eq!(Own::read(&twin.certificate).unwrap().peer.node, node);
    worker.stop().await;
    // While it is a node, either form of its certificate is its.
    for credentials in [&own, &twin] {
        let mut session = connect(&first, credentials).await;
        session.write_all(&heartbeat()).await.unwrap();
        let said = next(&mut session).await.unwrap();
        assert!(!matches!(said, Message::Removed), "{said:?}");
    }
    remove(&first, node).await;
    for credentials in [&own, &twin, &own] {
        let mut session = connect(&first, credentials).await;
        session.write_all(&heartbeat()).await.unwrap();
        let said = next(&mut session).await;
        assert!(matches!(said, None | Some(Message::Removed)), "{said:?}");
        // Nor is its key signed again.
        let mut session = connect(&first, credentials).await;
        session.write_all(&renew()).await.unwrap();
        let mut said = Vec::new();
        drop(
            timeout(PATIENCE, session.read_to_end(&mut said))
                .await
                .unwrap(),
        );
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("does not know the node"), "{said}");
    }
    let Ok(Response::Nodes(nodes)) = first.ask(Request::NodeList).await else {
        panic!("no nodes")
    };
    assert_eq!(nodes.len(), 1);
    first.stop().await;
}

async fn remove(host: &Host, node: NodeId) {
    eventually("its removal", async || {
        let remove = Request::NodeRemove {
            node: node.to_string(),
            force: true,
        };
        host.ask(remove).await.is_ok()
    })
    .await;
}

/// Has the log written to, whatever it held back.
async fn write_something(host: &Host) {
    let change = ClusterUpdate {
        task_history_limit: Some(3),
        ..ClusterUpdate::default()
    };
    host.ask(Request::ClusterUpdate(change)).await.unwrap();
    let create = NetworkCreate {
        name: "after".to_owned(),
        ..NetworkCreate::default()
    };
    drop(host.ask(Request::NetworkCreate(create)).await);
}

/// What a host's copy of the log says of itself, read from a copy of that copy.
fn hard_state(scratch: &Scratch, host: &Host) -> HardState {
    let copy = scratch.0.join("copy");
    drop(fs::remove_dir_all(&copy));
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(host.directory.join("raft")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let disk = unsealed(&host.directory, &copy);
    let (_, restored) = Log::open(disk, StorageConfig::default()).unwrap();
    restored.hard_state().unwrap().clone()
}

/// The frame in which one manager asks another for its vote in a later term, at the leader's own wish, which is heard at
/// once (thesis §4.2.3).
fn vote(to: &HardState, from: &HardState, term: u64) -> Vec<u8> {
    let number = |id: RaftId| id.get();
    let mut body = Vec::new();
    for value in [from.group, number(to.id), term, from.incarnation.get()] {
        varint(&mut body, value);
    }
    body.push(0); // it means any incarnation
    for value in [u64::MAX >> 1, term - 1] {
        varint(&mut body, value);
    }
    body.push(1); // a transfer
    let mut message = vec![3, 2];
    message.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    message.extend(body);
    wire::encode(&Message::Raft {
        from: from.id,
        to: to.id,
        bytes: message.into(),
    })
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

fn heartbeat() -> Vec<u8> {
    wire::encode(&Message::Heartbeat {
        version: 0,
        epoch: 0,
    })
}

/// Asks for a key to be signed again.
fn renew() -> Vec<u8> {
    [&[b'B', 1, 0, 0, 0, 5, 1, 3][..], b"key"].concat()
}

/// Returns who a host is, and by which key.
fn credentials(host: &Host) -> Credentials {
    let identity = opened(&host.directory, "identity.json");
    let identity: serde_json::Value = serde_json::from_slice(&identity).unwrap();
    serde_json::from_value(identity["credentials"].clone()).unwrap()
}

async fn connect(to: &Host, credentials: &Credentials) -> TlsStream<TcpStream> {
    let config = Arc::new(credentials.client().unwrap());
    dial(to, config).await.unwrap()
}

async fn dial(to: &Host, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(SocketAddr::new(to.address, 2_377)).await?;
    let name = ServerName::try_from(unit(Role::Manager)).unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

/// Reads the next frame; none if the session ended.
async fn next(session: &mut TlsStream<TcpStream>) -> Option<Message> {
    let read = async {
        let mut frame = vec![0; wire::HEADER_BYTES];
        session.read_exact(&mut frame).await.ok()?;
        let length = wire::body_length(frame[..].try_into().ok()?).ok()?;
        let mut body = vec![0; length];
        session.read_exact(&mut body).await.ok()?;
        frame.extend(body);
        wire::decode(&frame).ok()
    };
    timeout(PATIENCE, read).await.ok().flatten()
}

/// Counts the octets that come before nothing comes for a moment.
async fn answers(session: &mut TlsStream<TcpStream>) -> usize {
    let mut octets = [0; 4_096];
    let read = timeout(PATIENCE, session.read(&mut octets)).await;
    read.map_or(0, |read| read.unwrap_or(0))
}

/// The same certificate with the other signature that ECDSA has for it: (r, n − s) in the place of (r, s) (SEC 1 §4.1.4).
fn other_form(certificate: &str) -> String {
    let mut all = pem::parse_many(certificate).unwrap();
    let der = all[0].contents().to_vec();
    let (_, inside) = element(&der);
    let (signed, rest) = split(inside);
    let (algorithm, bits) = split(rest);
    let (_, bits) = element(bits);
    let (_, pair) = element(&bits[1..]);
    let (r, s) = split(pair);
    let s = negated(element(s).1);
    let pair = [r, &integer(&s)].concat();
    let bits = [&[0][..], &wrapped(0x30, &pair)].concat();
    let inside = [signed, algorithm, &wrapped(0x03, &bits)].concat();
    all[0] = pem::Pem::new("CERTIFICATE", wrapped(0x30, &inside));
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_many_config(&all, config)
}

/// Returns the length of an element's head, and its content.
fn element(der: &[u8]) -> (usize, &[u8]) {
    let (head, length) = match der[1] {
        0x81 => (3, usize::from(der[2])),
        0x82 => (4, usize::from(u16::from_be_bytes([der[2], der[3]]))),
        short => (2, usize::from(short)),
    };
    (head, &der[head..head + length])
}

/// Splits behind the first element.
fn split(der: &[u8]) -> (&[u8], &[u8]) {
    let (head, content) = element(der);
    der.split_at(head + content.len())
}

fn wrapped(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    let [high, low] = length.to_be_bytes();
    let head = match length {
        ..0x80 => vec![tag, low],
        0x80..0x100 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&head[..], content].concat()
}

/// A positive integer without needless zeroes.
fn integer(value: &[u8; 32]) -> Vec<u8> {
    let first = value.iter().position(|octet| *octet != 0).unwrap_or(31);
    let value = &value[first..];
    let zero: &[u8] = if value[0] >= 0x80 { &[0] } else { &[] };
    wrapped(0x02, &[zero, value].concat())
}

/// n − s, for the order n of P-256 (SEC 2 §2.4.2).
fn negated(s: &[u8]) -> [u8; 32] {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut padded = [0; 32];
    let s = &s[s.len().saturating_sub(32)..];
    padded[32 - s.len()..].copy_from_slice(s);
    let (mut result, mut borrow) = ([0; 32], 0);
    for at in (0..32).rev() {
        let difference = i16::from(ORDER[at]) - i16::from(padded[at]) - borrow;
        borrow = i16::from(difference < 0);
        result[at] = u8::try_from(difference + 256 * borrow).unwrap();
    }
    result
}

const PATIENCE: Duration = Duration::from_secs(10);
