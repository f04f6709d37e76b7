//! What a machine answers about itself.

use crate::{
    Config, Incarnation, Index, Membership, Raft, RaftId, Role, Stats, Term,
    progress::FollowerStatus, raft::Standing,
};

impl Raft {
    /// Returns who leads, if known.
    pub fn leader(&self) -> Option<RaftId> {
        match &self.standing {
            Standing::Follower { leader, .. } => *leader,
            Standing::PreCandidate { .. } | Standing::Candidate { .. } => None,
            Standing::Leader(_) => Some(self.config.id),
        }
    }

    /// Returns what this member is.
    pub fn role(&self) -> Role {
        match &self.standing {
            Standing::Follower { .. } if !self.has_vote() => Role::Learner,
            Standing::Follower { .. } => Role::Follower,
            Standing::PreCandidate { .. } => Role::PreCandidate,
            Standing::Candidate { .. } => Role::Candidate,
            Standing::Leader(_) => Role::Leader,
        }
    }

    /// Returns whether this member leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.standing, Standing::Leader(_))
    }

    /// Returns who this member is.
    pub fn id(&self) -> RaftId {
        self.config.id
    }

    /// Returns the settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the present term.
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Returns the last entry that is known to be committed.
    pub fn commit(&self) -> Index {
        self.hard_state.commit
    }

    /// Returns the last entry whose effect was handed to the application.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// Returns the last entry of the log, committed or not.
    pub fn last_index(&self) -> Index {
        self.log.last_index()
    }

    /// Returns the term of an entry, `None` if it is not in memory.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    /// Returns the last entry that this member holds durably.
    pub fn durable(&self) -> Index {
        self.writes.durable()
    }

    /// Returns where the newest snapshot is; zero without one.
    pub fn snapshot_index(&self) -> Index {
        self.log.snapshot().index
    }

    /// Returns what the log in memory weighs: [`Config::log_bytes_max`] bounds it.
    pub fn log_bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// Returns the membership in force, committed or not.
    pub fn membership(&self) -> &Membership {
        self.log.membership()
    }

    /// Returns whether the membership in force is committed.
    pub fn is_membership_committed(&self) -> bool {
        self.log.membership_index() <= self.commit()
    }

    /// Returns which life of its disk this member is.
    pub fn incarnation(&self) -> Incarnation {
        self.hard_state.incarnation
    }

    /// Returns whether a write failed.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Returns the counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Returns what proposals weigh that wait to be committed; zero if this member does not lead.
    pub fn uncommitted_bytes(&self) -> u64 {
        match &self.standing {
            Standing::Leader(leader) => leader.uncommitted_bytes,
            _ => 0,
        }
    }

    /// Returns what a leader knows about the others; nothing if this member does not lead.
    pub fn followers(&self) -> impl Iterator<Item = FollowerStatus> + '_ {
        let leader = match &self.standing {
            Standing::Leader(leader) => Some(leader),
            _ => None,
        };
        let membership = self.membership();
        leader
            .into_iter()
            .flat_map(|leader| leader.followers.iter())
            .map(move |(id, progress)| {
                let meant = membership.incarnation(id);
                FollowerStatus {
                    id,
                    is_voter: meant.is_some(),
                    matched: progress.matched,
                    sending: progress.sending(),
                    contact: progress.contact,
                    lost_disk: meant.is_some_and(|meant| progress.lost_disk(meant)),
                }
            })
    }
}
