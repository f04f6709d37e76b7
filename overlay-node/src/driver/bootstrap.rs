//! Joining: a node without a certificate shows a token's secret to a manager whose authority the token pins.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::CertificateError;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{active::Input, clock::Clock, session::invalid};
use crate::{
    Peer,
    agent::Assignment,
    api::{self, ErrorKind, Role},
    identity::{
        JoinToken,
        tls::{joining_client, node_name},
    },
    state::{AddNode, Secret},
    wire,
};

/// What a node asks a manager for outside of a session.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Bootstrap {
    /// Let me in.
    Join {
        secret: Secret<16>,
        request: String,
        node: AddNode,
    },
    /// Sign my key again, for the role that I have by now. Only with a certificate.
    Renew { request: String },
}

/// What a node gets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Admission {
    pub(crate) authority: String,
    pub(crate) certificate: String,
    /// The digest of the authority that signed it.
    pub(crate) issuer: [u8; 32],
    pub(crate) assignment: Option<Box<Assignment>>,
}

type Answer = Result<Admission, api::Error>;

/// Asks the manager at `remote` to let `node` in.
pub(crate) async fn join(
    token: &JoinToken,
    remote: SocketAddr,
    request: String,
    node: AddNode,
) -> Answer {
    let untrusted = |error: &dyn std::fmt::Display| {
        let text = format!("no TLS session with {remote} could be prepared: {error}");
        api::Error::new(ErrorKind::Untrusted, text)
    };
    let config = joining_client(token.ca_digest).map_err(|error| untrusted(&error))?;
    let ask = Bootstrap::Join {
        secret: token.secret.clone(),
        request,
        node,
    };
    exchange(remote, Arc::new(config), &ask).await
}

/// Asks the manager at `remote` to sign this node's key again.
pub(crate) async fn renew(
    remote: SocketAddr,
    client: &Arc<rustls::ClientConfig>,
    request: String,
) -> Answer {
    exchange(remote, Arc::clone(client), &Bootstrap::Renew { request }).await
}

async fn exchange(
    remote: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    ask: &Bootstrap,
) -> Answer {
    let talk = async {
        let stream = TcpStream::connect(remote).await?;
        let connector = TlsConnector::from(config);
        let mut stream = connector.connect(node_name(Role::Manager), stream).await?;
        stream.write_all(&wire::encode_body(KIND, ask)).await?;
        stream.flush().await?;
        receive::<Answer>(KIND, &mut stream).await
    };
    match timeout(PATIENCE, talk).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Err(explain(remote, &error)),
        Err(_) => {
            let text = format!(
                "{remote} did not answer within {PATIENCE:?}: check the address and that TCP port {} is open",
                remote.port()
            );
            Err(api::Error::new(ErrorKind::Unavailable, text))
        }
    }
}

fn explain(remote: SocketAddr, error: &std::io::Error) -> api::Error {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if let Some(rustls::Error::InvalidCertificate(reason)) = tls
        && is_of_another_time(reason)
    {
        let text = format!(
            "the certificate of {remote} is not valid at {} s since 1970, which is what this host's clock says: set the clock, \
             here or there",
            Clock::unix_now().as_secs()
        );
        return api::Error::new(ErrorKind::Untrusted, text);
    }
    if let Some(rustls::Error::InvalidCertificate(_)) = tls {
        let text = format!(
            "{remote} is not a manager of the cluster that the token is for (its certificate authority has another digest): \
             get a fresh token with `join-token` and check the address"
        );
        return api::Error::new(ErrorKind::Untrusted, text);
    }
    let text = format!(
        "manager {remote} cannot be reached ({error}): check the address, that the daemon runs there, and that TCP port {} is open",
        remote.port()
    );
    api::Error::new(ErrorKind::Unavailable, text)
}

fn is_of_another_time(reason: &CertificateError) -> bool {
    use CertificateError as E;
    matches!(
        reason,
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. }
    )
}

/// Answers one ask.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    peer: Option<Peer>,
    inputs: &mpsc::Sender<Input>,
) -> std::io::Result<()> {
    let ask: Bootstrap = receive(KIND, &mut stream).await?;
    let (reply, answer) = oneshot::channel();
    inputs
        .send(Input::Bootstrap { peer, ask, reply })
        .await
        .map_err(invalid)?;
    let answer: Answer = answer.await.map_err(invalid)?;
    if peer.is_none()
        && answer
            .as_ref()
            .is_err_and(|error| error.kind == ErrorKind::Untrusted)
    {
        // Whoever tries many tokens waits for each, in a place of which an address has few.
        tokio::time::sleep(PENALTY).await;
    }
    stream.write_all(&wire::encode_body(KIND, &answer)).await?;
    stream.flush().await?;
    stream.shutdown().await
}

/// Reads one message of a kind.
pub(crate) async fn receive<T: for<'a> Deserialize<'a>>(
    kind: u8,
    stream: &mut (impl AsyncRead + Unpin),
) -> std::io::Result<T> {
    let mut header = [0; wire::HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let length = wire::length_of(kind, header).map_err(invalid)?;
    let mut body = Vec::new();
    let taken = stream.take(length as u64).read_to_end(&mut body).await?;
    if taken < length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    wire::decode_body(&body).map_err(invalid)
}

pub(crate) const KIND: u8 = b'B';
/// How long a token that is not valid waits for its answer.
const PENALTY: Duration = Duration::from_secs(1);
/// How long a join may take, finding the leader included.
const PATIENCE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, path::PathBuf};

    use overlay_core::NodeId;

    use super::*;
    use crate::{
        Config,
        api::{InitRequest, Request, Response, TokenInfo},
        driver::{Daemon, InProcess, Options},
        identity::certificate,
    };

    #[tokio::test]
    async fn a_token_does_not_give_another_nodes_name() {
        let lab = Lab::start(1).await;
        let token = lab.worker.token.parse().unwrap();
        let (_, request) = certificate::request().unwrap();
        for taken in [lab.node, NodeId::from_bytes([7; 16])] {
            let refused = lab.join(&token, taken, &request).await.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Untrusted, "{refused}");
        }
        let own = certificate::node_of(&request).unwrap();
        let admission = lab.join(&token, own, &request).await.unwrap();
        let issued = pem::parse(&admission.certificate).unwrap();
        let peer = certificate::peer(issued.contents()).unwrap();
        assert_eq!((peer.node, peer.role), (own, Role::Worker));
        lab.stop().await;
    }

    #[tokio::test]
    async fn a_part_of_a_secret_lets_nobody_in() {
        let lab = Lab::start(2).await;
        let token: JoinToken = lab.worker.token.parse().unwrap();
        let (_, request) = certificate::request().unwrap();
        let own = certificate::node_of(&request).unwrap();
        let whole = token.secret.expose().to_vec();
        let (empty, longer) = (Vec::new(), [&whole[..], &[0]].concat());
        for secret in [empty, whole[..15].to_vec(), longer] {
            // What a program of somebody else would send: this one cannot make such a secret.
            let bytes = postcard::to_allocvec(&secret).unwrap();
            let Ok(secret) = postcard::from_bytes(&bytes) else {
                continue;
            };
            let token = JoinToken {
                secret,
                ..token.clone()
            };
            let refused = lab.join(&token, own, &request).await.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Untrusted, "{refused}");
        }
        lab.join(&token, own, &request).await.unwrap();
        lab.stop().await;
    }

    /// A daemon alone in its cluster.
    struct Lab {
        daemon: Daemon,
        folder: PathBuf,
        node: NodeId,
        worker: TokenInfo,
    }

    impl Lab {
        async fn start(number: u8) -> Self {
            let address = IpAddr::from([127, 91, number, 1]);
            let name = format!("overlay-name-{number}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            let mut options = Options::new("host1", &folder);
            (options.advertise, options.listen) = (Some(address), address);
            let daemon = Daemon::start(options, InProcess::new()).await.unwrap();
            let init = Request::Init(InitRequest::default());
            let made = daemon.handle().request(init).await;
            let Ok(Response::Joined(made)) = made else {
                panic!("{made:?}")
            };
            Self {
                daemon,
                folder,
                node: made.node,
                worker: made.worker_token.unwrap(),
            }
        }

        async fn join(&self, token: &JoinToken, node: NodeId, request: &str) -> Answer {
            let config = Config::new(node, "host2", "127.91.0.2".parse().unwrap());
            let node = AddNode::new(&config, Role::Worker);
            join(token, self.worker.remote, request.to_owned(), node).await
        }

        async fn stop(self) {
            self.daemon.handle().shutdown().await;
            self.daemon.stopped().await.unwrap();
            std::fs::remove_dir_all(self.folder).unwrap();
        }
    }
}
