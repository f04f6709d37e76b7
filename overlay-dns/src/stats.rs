//! Counters.

/// What a resolver has done since it was made. Counters but for the last four, which are present sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Queries that arrived.
    pub queries: u64,
    /// Queries that got no answer: too short, responses, unknown clients.
    pub dropped: u64,
    /// Queries that were answered from our own data.
    pub answered: u64,
    /// Answers that say that the query is malformed, of an unknown kind, or unwelcome.
    pub rejected: u64,
    /// Answers that did not fit and say so.
    pub truncated: u64,
    /// Queries that were answered from the cache.
    pub cache_hits: u64,
    /// Queries that wait, or waited, for an upstream server.
    pub forwarded: u64,
    /// Of these, queries that joined one already in flight.
    pub coalesced: u64,
    /// Queries that were not forwarded because of a limit.
    pub overloaded: u64,
    /// Queries sent to upstream servers.
    pub upstream_queries: u64,
    /// Upstream messages that were ignored: malformed, or not an answer to the query.
    pub upstream_ignored: u64,
    /// Queries that no upstream server answered.
    pub upstream_failures: u64,
    /// Names in records that are none, or more than are kept.
    pub names_refused: u64,
    /// Names of all networks.
    pub names: usize,
    /// Queries in flight.
    pub exchanges: usize,
    /// Answers in the cache.
    pub cache_entries: usize,
    /// Memory of the cache, in octets, about.
    pub cache_bytes: usize,
}
