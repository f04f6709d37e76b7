//! The shape of every state machine, and what it promises.
//!
//! A machine is a value that holds protocol state. It never reads a clock, opens a socket, spawns, blocks, locks,
//! logs, or draws ambient randomness. It has four kinds of method:
//!
//! | verb | form | meaning |
//! |---|---|---|
//! | `handle_*` | `(&mut self, now: Instant, …)` | something arrived: a datagram, an acknowledgement, a deadline |
//! | imperative | `(&mut self, now: Instant, …) -> Result<_, _>` | the embedder commands |
//! | `poll_*` | `poll_output(&mut self)`, `poll_timeout(&self)` | drain one output; read the next deadline |
//! | noun | `(&self) -> …` | a query |
//!
//! # Contract
//!
//! `overlay-sim` checks each line on any machine.
//!
//! 1. **Time.** `now` is the first argument of each `&mut self` method except `poll_output`. A `now` in the past is
//!    raised to the last seen one; it never panics.
//! 2. **Randomness** comes from the [`Seed`](crate::Seed) given to the constructor, and from nowhere else.
//! 3. **Outputs** are computed by `handle_*` and commands, in causal order, in one queue. [`Machine::poll_output`] only
//!    pops: polling later, or in pieces, changes nothing.
//! 4. **Deadlines** live inside. [`Machine::poll_timeout`] is idempotent; while outputs are queued it returns the last
//!    seen `now`, so that a driver that forgot to drain wakes at once.
//! 5. **Progress.** After `handle_timeout(now)` and a full drain, `poll_timeout()` is `None` or later than `now`. Early
//!    and late wake-ups are harmless.
//! 6. **`Err` means that nothing happened:** the state is unchanged (but for the last seen time and a counter), and
//!    nothing is queued.
//! 7. **Remote input never panics** and never grows memory without a bound named in the machine's `Config`.
//! 8. **Determinism.** The same constructor arguments and the same calls give the same outputs on every platform.

use crate::Instant;

/// A value that holds protocol state and is driven from outside.
///
/// The [module documentation](self) states what an implementation promises.
pub trait Machine {
    /// What the machine asks its driver to do. Output enums are exhaustive: a new kind must break every driver.
    type Output;

    /// Runs everything that is due at `now`. May be called early, late or repeatedly.
    fn handle_timeout(&mut self, now: Instant);

    /// Returns when [`handle_timeout`](Self::handle_timeout) is to be called next, `None` if nothing is pending.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Pops the oldest queued output.
    fn poll_output(&mut self) -> Option<Self::Output>;
}
