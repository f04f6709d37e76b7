//! Join tokens that expire, or that let a certain number of nodes in.

use std::{fmt, str::FromStr};

use overlay_core::Rng;
use serde::{Deserialize, Serialize};

use super::{AddNode, ClusterState, CommandError, Outcome, Secret};
use crate::api::Role;

/// Identifies a join token; it is no secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId([u8; 8]);

impl TokenId {
    /// Draws a fresh one.
    pub fn random(rng: &mut Rng) -> Self {
        Self(rng.bytes())
    }

    /// Makes one from its octets.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl FromStr for TokenId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes()))
    }
}

/// A join token beside the two that every cluster has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// What it makes of a node.
    pub role: Role,
    /// Its secret.
    pub secret: Secret<16>,
    /// Until when it lets nodes in, in milliseconds since 1970 by the leader's clock; for good if `None`.
    pub expires_unix_ms: Option<u64>,
    /// How many nodes more it lets in; any number if `None`.
    pub uses_left: Option<u32>,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
}

impl IssuedToken {
    /// Returns whether it lets a node in at this time.
    pub fn is_valid(&self, unix_ms: u64) -> bool {
        self.expires_unix_ms.is_none_or(|end| unix_ms < end) && self.uses_left != Some(0)
    }
}

impl ClusterState {
    pub(super) fn issue_token(
        &mut self,
        at_unix_ms: u64,
        id: TokenId,
        token: IssuedToken,
    ) -> Result<Outcome, CommandError> {
        let cluster = self.cluster().ok_or(CommandError::NotInitialized)?;
        let valid = cluster.tokens.values();
        if valid.filter(|token| token.is_valid(at_unix_ms)).count() >= TOKENS_MAX {
            return Err(CommandError::Limit {
                what: "join tokens that are still valid (`token ls` shows them)".to_owned(),
                limit: TOKENS_MAX as u64,
            });
        }
        self.cluster.modify(&mut self.journal, (), |cluster| {
            // What lets nobody in any more is of no use.
            cluster.tokens.retain(|_, token| token.is_valid(at_unix_ms));
            cluster.tokens.insert(id, token);
        });
        Ok(Outcome::Issued(id))
    }

    pub(super) fn revoke_token(&mut self, id: TokenId) -> Result<Outcome, CommandError> {
        let removed = self
            .cluster
            .modify(&mut self.journal, (), |cluster| cluster.tokens.remove(&id))
            .ok_or(CommandError::NotInitialized)?;
        let unknown = CommandError::UnknownToken {
            token: id.to_string(),
        };
        removed.map(|_| Outcome::Done).ok_or(unknown)
    }

    pub(super) fn admit(
        &mut self,
        index: u64,
        at_unix_ms: u64,
        node: AddNode,
        id: TokenId,
    ) -> Result<Outcome, CommandError> {
        let cluster = self.cluster().ok_or(CommandError::NotInitialized)?;
        let token = cluster.tokens.get(&id);
        let token = token.filter(|token| token.is_valid(at_unix_ms));
        let role = token.ok_or(CommandError::TokenSpent)?.role;
        let outcome = self.add_node(index, AddNode { role, ..node })?;
        self.cluster.modify(&mut self.journal, (), |cluster| {
            let token = cluster.tokens.get_mut(&id);
            if let Some(left) = token.and_then(|token| token.uses_left.as_mut()) {
                *left = left.saturating_sub(1);
            }
        });
        Ok(outcome)
    }
}

/// How many tokens there are at the most that let somebody in.
const TOKENS_MAX: usize = 256;
