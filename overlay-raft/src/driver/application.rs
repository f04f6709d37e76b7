//! What a member replicates.

use bytes::Bytes;

use crate::{Event, Index};

/// The state machine of an embedder: the same commands in the same order on every member.
///
/// It begins empty in every life of a member; what the member knows is then restored and applied. It is called from the
/// loop of the member, which does nothing else meanwhile: what takes longer than a heartbeat belongs elsewhere.
pub trait Application: Send + 'static {
    /// What comes of a command; handed to whoever proposed it, on the member where that was.
    type Answer: Send + 'static;

    /// Applies a committed command. Nothing may go into the result but the state and the command: no clock, no randomness,
    /// no hash order.
    fn apply(&mut self, index: Index, command: &Bytes) -> Self::Answer;

    /// Returns the whole state, so that the log before it can be forgotten.
    fn snapshot(&self) -> Bytes;

    /// Replaces the whole state by one that [`snapshot`](Self::snapshot) returned, here or on another member.
    fn restore(&mut self, snapshot: &Bytes);

    /// Sees what happens to the member, for logs and for the curious.
    fn observe(&mut self, event: &Event) {
        let _ = event;
    }
}
