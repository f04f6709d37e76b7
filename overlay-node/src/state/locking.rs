//! Whether managers' data directories are locked.

use super::{ClusterState, CommandError, Outcome};
use crate::identity::UnlockKey;

impl ClusterState {
    pub(super) fn lock_managers(
        &mut self,
        unlock: Option<UnlockKey>,
        rotate: bool,
    ) -> Result<Outcome, CommandError> {
        let present = self.cluster().ok_or(CommandError::NotInitialized)?;
        let is_locked = present.unlock_key.is_some();
        if rotate && !is_locked {
            return Err(CommandError::NotLocked);
        }
        // Who asks twice for locked managers keeps the key that was written down the first time.
        if unlock.is_some() == is_locked && !rotate {
            return Ok(Outcome::UnlockKey);
        }
        self.cluster.modify(&mut self.journal, (), |cluster| {
            cluster.unlock_key = unlock;
        });
        Ok(Outcome::UnlockKey)
    }
}
