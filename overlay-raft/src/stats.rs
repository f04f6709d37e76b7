//! Counters for an operator.

/// What a machine has counted since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Messages that were admitted.
    pub messages_received: u64,
    /// Messages that were refused with a [`DecodeError`](crate::DecodeError).
    pub messages_refused: u64,
    /// Messages that were handed out or wait for a write.
    pub messages_sent: u64,
    /// Messages that were dropped at [`Config::messages_max`](crate::Config::messages_max).
    pub messages_dropped: u64,
    /// Writes that were handed out.
    pub writes: u64,
    /// Attempts to find out whether an election would be won.
    pub pre_votes: u64,
    /// Elections that this member stood for.
    pub elections: u64,
    /// Elections that it won.
    pub elections_won: u64,
    /// Times that it gave up leadership because no quorum answered.
    pub quorums_lost: u64,
    /// Messages of a second leader of one term; anything but zero means that somebody's disk forgot a vote.
    pub conflicting_leaders: u64,
    /// Snapshots that it began to send.
    pub snapshots_sent: u64,
    /// Snapshots that took the place of its log.
    pub snapshots_installed: u64,
    /// Reads that were taken.
    pub reads: u64,
    /// Of these, those for which a lease held.
    pub lease_reads: u64,
}
