//! Who is let in, and whose key is signed.

use std::time::Duration;

use overlay_core::NodeId;
use tokio::sync::oneshot;

use super::{
    active::{Active, Admitted},
    bootstrap::{Admission, Bootstrap},
    clock::Clock,
    waiting::Waiting,
};
use crate::{
    Peer,
    api::{self, ErrorKind, Role},
    identity::{
        NextAuthority,
        certificate::{self, Authority, Subject},
    },
    state::{AddNode, Secret, TokenId},
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
                let Some((role, shown)) = self.shown(secret.expose()) else {
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
                self.node.admit(self.clock.now(), token, node, shown);
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

    /// Returns the role that a token's secret stands for, and which token it is if not that of the role. What is compared takes
    /// the same time whatever the secret.
    fn shown(&self, secret: &[u8]) -> Option<(Role, Option<TokenId>)> {
        let cluster = self.node.cluster()?;
        let same = |known: &Secret<16>| {
            let known = known.expose();
            let differ = known
                .iter()
                .zip(secret)
                .fold(0, |sum, (a, b)| sum | (a ^ b));
            known.len() == secret.len() && std::hint::black_box(differ) == 0
        };
        let worker = same(&cluster.worker_token);
        let manager = same(&cluster.manager_token);
        let mut shown = None;
        for (id, token) in &cluster.tokens {
            if same(&token.secret) {
                // Whether it is still valid, the leader says.
                shown = Some((token.role, Some(*id)));
            }
        }
        match (manager, worker) {
            (true, _) => Some((Role::Manager, None)),
            (false, true) => Some((Role::Worker, None)),
            (false, false) => shown,
        }
    }

    pub(super) fn issue(&self, request: &str, node: NodeId, role: Role) -> Admitted {
        let state = self.node.state();
        let known = state.and_then(|state| Some((state, state.cluster()?)));
        let (state, cluster) = known.ok_or_else(|| {
            let text = "this manager has not caught up with the cluster yet: try again, or ask another one";
            api::Error::new(ErrorKind::Unavailable, text)
        })?;
        let authority = match &cluster.next_authority {
            Some(next) => Authority::next(next),
            None => Authority::new(&cluster.ca_certificate, &cluster.ca_key),
        };
        let subject = Subject {
            cluster: cluster.id,
            node,
            role,
        };
        let life = Duration::from_millis(cluster.settings.certificate_ms);
        let certificate = authority
            .issue(request, subject, Clock::unix_now(), life)
            .map_err(|error| api::Error::new(ErrorKind::Invalid, error.to_string()))?;
        Ok(Admission {
            authority: state.authorities().collect(),
            certificate,
            issuer: state.issuer(),
            assignment: None,
        })
    }

    /// Makes an authority that is to take over from the cluster's.
    pub(super) fn succeed(&self) -> Result<Box<NextAuthority>, api::Error> {
        let cluster = self.node.cluster().ok_or_else(|| {
            let text = "this node is not a manager: run this on a manager";
            api::Error::new(ErrorKind::NotManager, text)
        })?;
        let present = Authority::new(&cluster.ca_certificate, &cluster.ca_key);
        let next = present.succeed(cluster.id, Clock::unix_now());
        next.map(Box::new)
            .map_err(|error| api::Error::new(ErrorKind::Platform, error.to_string()))
    }
}
