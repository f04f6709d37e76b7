//! Bugs that tests plant, one at a time, to prove that their checks find them.
//!
//! Only with `--cfg overlay_raft_planted`; otherwise [`has`] is `false` and nothing of it is compiled in.

#[cfg(overlay_raft_planted)]
use std::cell::Cell;

/// A bug that others have had, or could have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(
    not(overlay_raft_planted),
    expect(unreachable_pub, reason = "tests see it, with the cfg")
)]
pub enum Bug {
    /// A leader commits an entry of an earlier term by counting (Raft figure 8).
    CommitsOfEarlierTerms,
    /// A leader counts itself before its disk has the entry.
    CountsItselfTooEarly,
    /// A follower acknowledges before its disk has the entry.
    AnswersBeforeItIsDurable,
    /// A voter votes again in the same term.
    VotesTwice,
    /// A voter does not compare logs (Raft §5.4.1).
    VotesForAnyLog,
    /// The term and the vote are not written.
    ForgetsItsVote,
    /// A follower commits its own tail, which the leader has not confirmed (reference, case 17).
    CommitsItsOwnTail,
    /// A leader's heartbeats tell more than what the follower has.
    TellsTooMuch,
    /// A late append cuts off what a later one brought (case 18).
    TruncatesWithoutConflict,
    /// A follower takes entries without looking at the one before (Raft §5.3).
    SkipsTheConsistencyCheck,
    /// Messages of earlier terms are taken for ones of the present term.
    HearsTheDead,
    /// A write that was overwritten meanwhile vouches for what took its place.
    TrustsOldTickets,
    /// A disk that was lost counts as the voter that it was (case 20).
    TrustsLostDisks,
    /// Pieces of a snapshot are joined as they come.
    JoinsAnyPieces,
    /// A snapshot is acknowledged that does not fit, without being taken (case 15).
    KeepsAContradictingLog,
    /// Reads are answered without asking a quorum.
    ReadsWithoutARound,
    /// Reads are answered before an entry of the own term is committed (case 2).
    ReadsTooEarly,
    /// Followers answer reads at once.
    FollowersReadAlone,
    /// An answer is taken for a later question.
    MixesUpAnswers,
    /// A voter that hears a leader votes for another one while leases are relied upon.
    BreaksItsVow,
    /// A lease holds although somebody was asked to campaign (case 3).
    KeepsItsLease,
    /// A joint membership asks only the new voters.
    AsksOnlyTheNewVoters,
    /// A change is taken before an entry of the own term is committed (case 10).
    ChangesTooEarly,
    /// Changes of several voters are made in one step.
    SkipsTheJointStep,
    /// A membership that was overwritten goes on to hold (case 7).
    KeepsAnOverwrittenMembership,
    /// The application gets an entry again.
    AppliesTwice,
}

/// All of them.
#[cfg(overlay_raft_planted)]
pub const BUGS: [Bug; 26] = [
    Bug::CommitsOfEarlierTerms,
    Bug::CountsItselfTooEarly,
    Bug::AnswersBeforeItIsDurable,
    Bug::VotesTwice,
    Bug::VotesForAnyLog,
    Bug::ForgetsItsVote,
    Bug::CommitsItsOwnTail,
    Bug::TellsTooMuch,
    Bug::TruncatesWithoutConflict,
    Bug::SkipsTheConsistencyCheck,
    Bug::HearsTheDead,
    Bug::TrustsOldTickets,
    Bug::TrustsLostDisks,
    Bug::JoinsAnyPieces,
    Bug::KeepsAContradictingLog,
    Bug::ReadsWithoutARound,
    Bug::ReadsTooEarly,
    Bug::FollowersReadAlone,
    Bug::MixesUpAnswers,
    Bug::BreaksItsVow,
    Bug::KeepsItsLease,
    Bug::AsksOnlyTheNewVoters,
    Bug::ChangesTooEarly,
    Bug::SkipsTheJointStep,
    Bug::KeepsAnOverwrittenMembership,
    Bug::AppliesTwice,
];

#[cfg(overlay_raft_planted)]
thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug into all machines of this thread, in the place of the one before.
#[cfg(overlay_raft_planted)]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Returns whether a bug is planted.
#[cfg(overlay_raft_planted)]
pub(crate) fn has(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Returns that no bug is planted.
#[cfg(not(overlay_raft_planted))]
pub(crate) const fn has(_: Bug) -> bool {
    false
}
