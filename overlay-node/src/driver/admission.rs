//! Who is let in, and whose key is signed.

use std::time::Duration;

use overlay_core::NodeId;
use tokio::sync::oneshot;

use super::{
    active::{Active, Admitted, Input},
    bootstrap::{self, Admission, Bootstrap},
    clock::Clock,
    waiting::Waiting,
};
use crate::{
    Peer,
    api::{self, ErrorKind, Role},
    identity::{
        certificate::{self, Authority},
        tls::Credentials,
    },
    state::AddNode,
};

impl Active {
    pub(super) fn on_bootstrap(
        &mut self,
        peer: Option<Peer>,
        ask: Bootstrap,
        reply: oneshot::Sender<Admitted>,
    ) {
        match (ask, peer) {
            (
                Bootstrap::Join {
                    secret,
                    request,
                    node,
                },
                _,
            ) => {
                let Some(role) = self.role_for(secret.expose()) else {
                    let text = "the token's secret is not valid (any more): get a fresh token with `join-token` on a manager";
                    let _ = reply.send(Err(api::Error::new(ErrorKind::Untrusted, text)));
                    return;
                };
                if certificate::node_of(&request) != Ok(node.id) {
                    let text = "the node's identity is not that of its key: join with this program's own `join`";
                    let _ = reply.send(Err(api::Error::new(ErrorKind::Untrusted, text)));
                    return;
                }
                let node = AddNode { role, ..node };
                let waiting = Waiting::Join {
                    request,
                    role,
                    node: node.id,
                    reply,
                };
                let token = self.token(waiting);
                self.node.admit(self.clock.now(), token, node);
            }
            (Bootstrap::Renew { request }, Some(peer)) => {
                let _ = reply.send(self.renew_for(peer.node, &request));
            }
            (Bootstrap::Renew { .. }, None) => {
                let text = "a certificate is renewed only for who shows one";
                let _ = reply.send(Err(api::Error::new(ErrorKind::Forbidden, text)));
            }
        }
    }

    fn renew_for(&self, node: NodeId, request: &str) -> Admitted {
        let record = self.node.state().and_then(|state| state.nodes().get(&node));
        let role = record.map(|record| record.role).ok_or_else(|| {
            let text =
                "this manager does not know the node: it was removed, or ask another manager";
            api::Error::new(ErrorKind::Forbidden, text)
        })?;
        self.issue(request, node, role)
    }

    /// Returns the role that a token's secret stands for; takes the same time whatever the secret.
    fn role_for(&self, secret: &[u8]) -> Option<Role> {
        let cluster = self.node.cluster()?;
        let same = |known: &[u8]| {
            let differ = known
                .iter()
                .zip(secret)
                .fold(0, |sum, (a, b)| sum | (a ^ b));
            known.len() == secret.len() && std::hint::black_box(differ) == 0
        };
        let worker = same(cluster.worker_token.expose());
        let manager = same(cluster.manager_token.expose());
        match (manager, worker) {
            (true, _) => Some(Role::Manager),
            (false, true) => Some(Role::Worker),
            (false, false) => None,
        }
    }

    pub(super) fn issue(&self, request: &str, node: NodeId, role: Role) -> Admitted {
        let cluster = self.node.cluster().ok_or_else(|| {
            let text = "this manager has not caught up with the cluster yet: try again, or ask another one";
            api::Error::new(ErrorKind::Unavailable, text)
        })?;
        let authority = Authority::new(&cluster.ca_certificate, &cluster.ca_key);
        let certificate = authority
            .issue(request, node, cluster.id, role, Clock::unix_now())
            .map_err(|error| api::Error::new(ErrorKind::Invalid, error.to_string()))?;
        let authority = cluster.ca_certificate.clone();
        Ok(Admission {
            authority,
            certificate,
            assignment: None,
        })
    }

    /// Has the node's key signed again if its certificate is for another role than the node has: a former life may have
    /// ended between the two.
    pub(super) fn match_certificate(&mut self) {
        let certificate = pem::parse(&self.identity.credentials.certificate).ok();
        let peer = certificate.and_then(|pem| certificate::peer(pem.contents()).ok());
        let role = self
            .node
            .assignment()
            .map(|assignment| assignment.standing.role);
        if let (Some(peer), Some(role)) = (peer, role)
            && peer.role != role
        {
            self.renew();
        }
    }

    /// Has the node's key signed again for its present role.
    pub(super) fn renew(&mut self) {
        if std::mem::replace(&mut self.renewing, true) {
            return;
        }
        let managers: Vec<_> = self
            .node
            .assignment()
            .into_iter()
            .flat_map(|assignment| &assignment.standing.managers)
            .filter(|manager| manager.node != self.identity.node)
            .map(|manager| manager.management)
            .collect();
        let (credentials, inputs) = (self.credentials.borrow().clone(), self.inputs.clone());
        self.tasks.spawn(async move {
            let text = "no manager signed this node's key again";
            let mut result = Err(api::Error::new(ErrorKind::Unavailable, text));
            for remote in managers {
                result = match certificate::request() {
                    Err(error) => Err(api::Error::new(ErrorKind::Invalid, error.to_string())),
                    Ok((key, request)) => bootstrap::renew(remote, &credentials, request)
                        .await
                        .map(|admission| (admission, key)),
                };
                if result.is_ok() {
                    break;
                }
            }
            if result.is_err() {
                // Then it is tried again.
                tokio::time::sleep(RENEWAL_RETRY).await;
            }
            let _ = inputs.send(Input::Renewed(result)).await;
        });
    }

    pub(super) fn on_renewed(&mut self, result: Result<(Admission, String), api::Error>) {
        self.renewing = false;
        let (admission, key) = match result {
            Ok(renewed) => renewed,
            Err(error) => {
                tracing::warn!(%error, "the certificate was not renewed; trying again");
                return self.match_certificate();
            }
        };
        let credentials = Credentials {
            authority: admission.authority,
            certificate: admission.certificate,
            key: crate::state::Secret::any(key.into_bytes()),
        };
        self.identity.credentials = credentials.clone();
        if let Err(error) = self.store.save_identity(&self.identity) {
            tracing::error!(%error, "the renewed certificate could not be kept");
        }
        self.credentials.send_replace(credentials);
        // Sessions of the old certificate end; whoever needs one dials again.
        self.lines.clear();
    }
}

/// How long to wait before a certificate that could not be renewed is tried again.
const RENEWAL_RETRY: Duration = Duration::from_secs(1);
