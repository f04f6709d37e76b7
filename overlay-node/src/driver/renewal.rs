//! The node's own certificate: for its present role, signed by the present authority, and young.

use std::time::Duration;

use super::{
    active::{Active, Input},
    bootstrap::{self, Admission},
    clock::Clock,
};
use crate::{
    api::{self, ErrorKind},
    identity::{
        certificate::{self, Own},
        tls::{Credentials, Sides},
    },
    secret::Secret,
};

/// How the renewal of the node's certificate goes.
#[derive(Debug, Default)]
pub(crate) struct Renewal {
    under_way: bool,
    failures: u32,
}

impl Active {
    /// Trusts the authorities that the managers name, and has the node's key signed again if its certificate is for another
    /// role, by another authority, or past its half-life.
    pub(crate) fn check_certificate(&mut self) {
        let Some(standing) = self.node.assignment().map(|all| &all.standing) else {
            return;
        };
        let trusted = standing.authorities.concat();
        let (role, issuer) = (standing.role, standing.issuer);
        let credentials = &self.identity.credentials;
        if !trusted.is_empty() && credentials.authority != trusted {
            let credentials = Credentials {
                authority: trusted,
                ..credentials.clone()
            };
            self.adopt(credentials);
        }
        let credentials = &self.identity.credentials;
        let own = Own::read(&credentials.certificate);
        let is_right = own.is_ok_and(|own| own.peer.role == role && !own.is_due(Clock::unix_now()));
        if !is_right || credentials.issuer != issuer {
            self.renew();
        }
    }

    /// Has a new key of the node's signed, for its present role.
    pub(super) fn renew(&mut self) {
        if std::mem::replace(&mut self.renewal.under_way, true) {
            return;
        }
        let made = match certificate::request() {
            Ok(made) => made,
            Err(error) => {
                let error = api::Error::new(ErrorKind::Platform, error.to_string());
                return self.on_renewed(Err(error));
            }
        };
        if let Some(signed) = self.sign_own(&made.1) {
            return self.on_renewed(signed.map(|admission| (admission, made.0)));
        }
        let managers: Vec<_> = self
            .node
            .assignment()
            .into_iter()
            .flat_map(|assignment| &assignment.standing.managers)
            .filter(|manager| manager.node != self.identity.node)
            .map(|manager| manager.management)
            .collect();
        let (client, inputs) = (self.sides.borrow().client.clone(), self.inputs.clone());
        self.tasks.spawn(async move {
            let text = "no manager is known that could sign this node's key again";
            let mut result = Err(api::Error::new(ErrorKind::Unavailable, text));
            for remote in managers {
                let signed = bootstrap::renew(remote, &client, made.1.clone()).await;
                result = signed.map(|admission| (admission, made.0.clone()));
                if result.is_ok() {
                    break;
                }
            }
            let _ = inputs.send(Input::Renewed(result)).await;
        });
    }

    /// Signs the node's key itself, if it is a manager that has caught up with its role.
    fn sign_own(&self, request: &str) -> Option<Result<Admission, api::Error>> {
        let role = self.node.assignment()?.standing.role;
        let own = self.node.state()?.nodes().get(&self.identity.node)?;
        let is_manager = own.raft.is_some() && own.role == role;
        is_manager.then(|| self.issue(request, own.id, role))
    }

    pub(super) fn on_renewed(&mut self, result: Result<(Admission, Secret<0>), api::Error>) {
        self.renewal.under_way = false;
        let (admission, key) = match result {
            Ok(renewed) => renewed,
            Err(error) => {
                let pause = RENEWAL_RETRY * 2_u32.saturating_pow(self.renewal.failures.min(8));
                self.renewal.failures += 1;
                // Then it is tried again, as long as it is due.
                self.certificate_check = self.clock.now() + pause;
                let clock = self.clock_warning();
                let clock = clock.map_or_else(String::new, |warning| format!(": {warning}"));
                return tracing::warn!(%error, ?pause, "the certificate was not renewed{clock}");
            }
        };
        self.renewal.failures = 0;
        let issuer = admission.issuer;
        self.adopt(Credentials {
            authority: admission.authority,
            certificate: admission.certificate,
            key,
            issuer,
        });
        self.node.handle_certificate(self.clock.now(), issuer);
        // Sessions of the old certificate end; whoever needs one dials again.
        self.lines.clear();
    }

    fn adopt(&mut self, credentials: Credentials) {
        let sides = match Sides::new(&credentials) {
            Ok(sides) => sides,
            Err(error) => return tracing::error!(%error, "a renewed certificate is of no use"),
        };
        self.identity.credentials = credentials;
        if let Err(error) = self.store.save_identity(&self.identity) {
            tracing::error!(%error, "the renewed certificate could not be kept");
        }
        self.sides.send_replace(sides);
    }

    /// Says what is wrong if the node's certificate is not valid by this host's clock.
    pub(crate) fn clock_warning(&self) -> Option<String> {
        let own = Own::read(&self.identity.credentials.certificate).ok()?;
        let now = Clock::unix_now();
        if own.is_valid(now) {
            return None;
        }
        let (from, to) = (own.not_before.as_secs(), own.not_after.as_secs());
        let now = now.as_secs();
        Some(format!(
            "this node's certificate is valid from {from} to {to} (Unix time), and this host's clock says {now}: set the clock; if it is right, the node was away for too long and has to leave and join again"
        ))
    }
}

/// How long to wait before a certificate that could not be renewed is tried again, at first; up to 256 times as long later.
const RENEWAL_RETRY: Duration = Duration::from_secs(1);
