//! Replacing the certificate authority while all nodes go on.
//!
//! From the beginning of a replacement on, nodes trust both authorities, and whoever renews its certificate gets one of the new
//! one, together with the new one's certificate as the old one signed it: so it is also taken by nodes that have not heard
//! yet. Once every node has such a certificate, the old authority is dropped, and the join tokens change with it.

use super::{ClusterState, CommandError, Outcome};
use crate::identity::{NextAuthority, ca_digest};

impl ClusterState {
    /// Returns the certificates of the authorities that nodes trust, PEM, the one that signs last.
    pub fn authorities(&self) -> impl Iterator<Item = &str> {
        let cluster = self.cluster();
        let next = cluster.and_then(|cluster| cluster.next_authority.as_deref());
        cluster
            .map(|cluster| cluster.ca_certificate.as_str())
            .into_iter()
            .chain(next.map(|next| next.certificate.as_str()))
    }

    /// Returns the digest of the authority that signs.
    pub fn issuer(&self) -> [u8; 32] {
        self.authorities().last().map(ca_digest).unwrap_or_default()
    }

    pub(super) fn begin_authority(&mut self, next: NextAuthority) -> Result<Outcome, CommandError> {
        let cluster = self.cluster().ok_or(CommandError::NotInitialized)?;
        if let Some(present) = &cluster.next_authority {
            if **present == next {
                return Ok(Outcome::Done);
            }
            return Err(CommandError::AuthorityChanging);
        }
        self.cluster.modify(&mut self.journal, (), |cluster| {
            cluster.next_authority = Some(Box::new(next));
        });
        Ok(Outcome::Done)
    }

    pub(super) fn finish_authority(&mut self, digest: [u8; 32]) -> Result<Outcome, CommandError> {
        let cluster = self.cluster().ok_or(CommandError::NotInitialized)?;
        let next = cluster.next_authority.as_deref();
        if next.is_some_and(|next| ca_digest(&next.certificate) == digest) {
            self.cluster.modify(&mut self.journal, (), |cluster| {
                if let Some(next) = cluster.next_authority.take() {
                    cluster.ca_certificate = next.certificate;
                    cluster.ca_key = next.key;
                }
            });
        }
        Ok(Outcome::Done)
    }
}
