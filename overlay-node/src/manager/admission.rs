//! Who may join: tokens, and the authority that signs; and what managers open with.

use std::net::SocketAddr;

use overlay_core::Instant;

use super::{Manager, query::not_a_cluster};
use crate::{
    api::{self, ErrorKind, IssuedTokenInfo, Request, Response, Role, TokenCreate, TokenInfo},
    identity::{JoinToken, UnlockKey, ca_digest},
    state::{Cluster, Command, CommandError, IssuedToken, Secret, TokenId},
};

impl Manager {
    /// Turns a request about who may join into a command.
    pub(super) fn admission_command(
        &mut self,
        now: Instant,
        request: &Request,
    ) -> Result<Command, api::Error> {
        Ok(match request {
            Request::TokenCreate(wanted) => self.issue(now, wanted)?,
            Request::TokenRemove { token } => Command::RevokeToken {
                id: find_token(token)?,
            },
            Request::Autolock { on } => Command::LockManagers {
                unlock: on.then(|| UnlockKey::random(&mut self.rng)),
                rotate: false,
            },
            Request::UnlockKey { .. } => Command::LockManagers {
                unlock: Some(UnlockKey::random(&mut self.rng)),
                rotate: true,
            },
            Request::AuthorityRotate { next: Some(next) } => Command::BeginAuthority(next.clone()),
            _ => {
                let text =
                    "a new certificate authority is made by the manager that is asked for it";
                return Err(api::Error::new(ErrorKind::Invalid, text));
            }
        })
    }

    fn issue(&mut self, now: Instant, wanted: &TokenCreate) -> Result<Command, api::Error> {
        if wanted.uses == Some(0) || wanted.lifetime_ms == Some(0) {
            let text = "such a token would let nobody in: give at least one use and some time";
            return Err(api::Error::new(ErrorKind::Invalid, text));
        }
        let unix_ms = self.unix_ms(now);
        let expires = wanted.lifetime_ms.map(|ms| unix_ms.saturating_add(ms));
        Ok(Command::IssueToken {
            id: TokenId::random(&mut self.rng),
            token: IssuedToken {
                role: wanted.role,
                secret: Secret::random(&mut self.rng),
                expires_unix_ms: expires,
                uses_left: wanted.uses,
                created_unix_ms: unix_ms,
            },
        })
    }

    /// Returns the join token of a role.
    pub(crate) fn token(&self, role: Role) -> Result<TokenInfo, api::Error> {
        let cluster = self.state.cluster().ok_or_else(not_a_cluster)?;
        let secret = match role {
            Role::Worker => &cluster.worker_token,
            Role::Manager => &cluster.manager_token,
        };
        Ok(TokenInfo {
            role,
            token: text_of(cluster, secret),
            remote: self.joined_at(),
        })
    }

    /// Describes a token beside those of the roles.
    pub(super) fn describe_token(&self, id: TokenId) -> Result<IssuedTokenInfo, api::Error> {
        let cluster = self.state.cluster().ok_or_else(not_a_cluster)?;
        let token = id.to_string();
        let unknown = CommandError::UnknownToken { token };
        let token = cluster.tokens.get(&id).ok_or(unknown)?;
        Ok(IssuedTokenInfo {
            id: id.to_string(),
            role: token.role,
            token: text_of(cluster, &token.secret),
            remote: self.joined_at(),
            expires_unix_ms: token.expires_unix_ms,
            uses_left: token.uses_left,
            created_unix_ms: token.created_unix_ms,
        })
    }

    pub(super) fn describe_tokens(&self) -> Result<Response, api::Error> {
        let cluster = self.state.cluster().ok_or_else(not_a_cluster)?;
        let tokens = cluster.tokens.keys().map(|id| self.describe_token(*id));
        Ok(Response::Tokens(tokens.collect::<Result<_, _>>()?))
    }

    /// Returns what managers open with.
    pub(super) fn unlock_key(&self) -> Result<Response, api::Error> {
        let cluster = self.state.cluster().ok_or_else(not_a_cluster)?;
        let key = cluster.unlock_key.as_ref().map(ToString::to_string);
        Ok(Response::UnlockKey(key))
    }

    /// Returns where nodes may join: at this manager.
    fn joined_at(&self) -> SocketAddr {
        (self.config.address, self.config.management_port).into()
    }
}

/// Returns the token that shows a secret to whoever has this cluster's authority.
fn text_of(cluster: &Cluster, secret: &Secret<16>) -> String {
    let token = JoinToken {
        ca_digest: ca_digest(&cluster.ca_certificate),
        secret: secret.clone(),
    };
    token.to_string()
}

fn find_token(text: &str) -> Result<TokenId, api::Error> {
    let token = text.chars().take(80).collect();
    text.parse()
        .map_err(|_| CommandError::UnknownToken { token }.into())
}
