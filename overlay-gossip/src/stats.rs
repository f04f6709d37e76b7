//! Counters.

/// What happened so far, and how large things are. Counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Datagrams that were handed in.
    pub datagrams_received: u64,
    /// Datagrams that were queued.
    pub datagrams_sent: u64,
    /// Octets of the datagrams that were queued.
    pub datagram_bytes_sent: u64,
    /// Datagrams and streams that were malformed or not for us.
    pub malformed: u64,
    /// Parts of compounds that were left out.
    pub parts_ignored: u64,
    /// Probes that were started.
    pub probes: u64,
    /// Probes that nobody answered.
    pub probes_failed: u64,
    /// Probes that only the stream answered: datagrams do not get through.
    pub probes_by_stream_only: u64,
    /// How often we had to refute.
    pub refutations: u64,
    /// Members that were declared Down here.
    pub downs: u64,
    /// Members that were not taken up because of [`Limits::members_max`](crate::Limits::members_max).
    pub members_refused: u64,
    /// Claims of a name from another address that were not believed.
    pub name_conflicts: u64,
    /// Claims of members that were verified.
    pub claims_verified: u64,
    /// Claims of members, or of our own name, that were refused.
    pub claims_refused: u64,
    /// Claims that were dropped unseen because of
    /// [`Limits::claims_per_second_max`](crate::Limits::claims_per_second_max).
    pub claims_dropped: u64,
    /// Alive messages with versions that cannot be spoken with.
    pub versions_refused: u64,
    /// Broadcasts that were dropped because of [`Limits::broadcasts_max`](crate::Limits::broadcasts_max).
    pub broadcasts_dropped: u64,
    /// Streams that were refused because of [`Limits::streams_max`](crate::Limits::streams_max) or
    /// [`Limits::streams_per_address_max`](crate::Limits::streams_per_address_max), or closed for the octets they held.
    pub streams_refused: u64,
    /// Streams that took too long.
    pub streams_timed_out: u64,
    /// Relays that were refused because of [`Limits::relays_max`](crate::Limits::relays_max).
    pub relays_refused: u64,
    /// Late ticks after which suspicions were given more time.
    pub late_ticks: u64,
    /// Counters of the tables.
    pub tables: TableStats,
}

/// Counters of the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableStats {
    /// Table messages that were malformed.
    pub malformed: u64,
    /// Signatures of leases that were checked.
    pub leases_verified: u64,
    /// Rows that were rejected for their lease.
    pub leases_rejected: u64,
    /// Rows that were refused because of [`Limits::rows_max`](crate::Limits::rows_max).
    pub rows_refused: u64,
    /// Attachments that were refused because of [`Limits::attachments_max`](crate::Limits::attachments_max).
    pub attachments_refused: u64,
    /// Rows for networks that we did not join.
    pub rows_not_joined: u64,
    /// Digests that were sent.
    pub digests_sent: u64,
    /// Digests that were equal to ours.
    pub digests_equal: u64,
    /// Digests that were not.
    pub digests_unequal: u64,
    /// How often traces of a former life of this node were found and outdated.
    pub renewals: u64,
    /// How often that was not possible, because the trace was forged at the highest version there is.
    pub renewals_refused: u64,
    /// Rows of ours that others still had, and that were deleted again.
    pub strays_deleted: u64,
    /// Row broadcasts that were dropped because of [`Limits::row_broadcasts_max`](crate::Limits::row_broadcasts_max).
    pub broadcasts_dropped: u64,
}
