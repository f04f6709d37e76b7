//! Raft as states and steps, small enough to be read at once: what a step needs, and what it changes.
//!
//! There are no messages in it. A step looks at what the others have promised or done, which is what messages are about;
//! that they come late changes nothing, for a promise holds and what a leader has appended in its term stays. Memberships are
//! as the members tell them.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "helpers of tests, of which each file uses a part"
)]

use std::collections::{BTreeMap, BTreeSet};

use overlay_raft::{Incarnation, Index, Membership, RaftId, Term, TraceEvent};

/// A member whose disk was lost is another one, also if it has the same id; who it was holds for ever what it held in the end.
pub type Who = (RaftId, Incarnation);

/// All members together, and what they have promised.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Model {
    members: BTreeMap<Who, Member>,
    /// The end of each candidate's log, term and index, in the term of its candidacy.
    candidacies: BTreeMap<(Term, RaftId), (Term, usize)>,
    votes: BTreeMap<(Term, Who), RaftId>,
    /// Who led in each term, and the log that it had there in the end.
    offices: BTreeMap<Term, Office>,
    /// The term of each committed entry, and the lowest term in which it was committed.
    committed: Vec<(Term, Term)>,
    /// Promises of Raft that do not hold.
    pub broken: Vec<&'static str>,
    /// A rule that is left out, to see whether it is needed.
    pub without: Option<Rule>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Member {
    pub role: Role,
    pub term: Term,
    /// The term of each entry from the very first on.
    pub log: Vec<Term>,
    durable: usize,
    commit: usize,
    applied: usize,
    voters: Voters,
}

/// Who makes a quorum: of each of these sets more than half.
type Voters = Vec<BTreeSet<Who>>;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Office {
    leaders: BTreeSet<RaftId>,
    log: Vec<Term>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Role {
    #[default]
    Follower,
    Candidate,
    Leader,
}

/// A rule of the protocol that can be left out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// One vote a term (Raft §5.2).
    OneVote,
    /// Votes go to logs that are up to date (Raft §5.4.1).
    UpToDate,
    /// Only entries of the own term are committed by counting (Raft §5.4.2).
    OwnTerm,
    /// What counts is durable.
    Durable,
    /// Entries follow the one that the leader has before them (Raft §5.3).
    Consistency,
}

impl Model {
    /// Makes members that begin with the same `log`, all of it durable and committed, of which all vote.
    pub fn of(members: impl IntoIterator<Item = RaftId>, log: &[Term]) -> Self {
        let founder = |id| (id, Incarnation::FOUNDER);
        let ids: BTreeSet<Who> = members.into_iter().map(founder).collect();
        let member = Member {
            log: log.to_vec(),
            durable: log.len(),
            commit: log.len(),
            applied: log.len(),
            voters: vec![ids.clone()],
            ..Member::default()
        };
        Self {
            members: ids.into_iter().map(|id| (id, member.clone())).collect(),
            committed: log.iter().map(|term| (*term, *term)).collect(),
            ..Self::default()
        }
    }

    pub fn members(&self) -> impl Iterator<Item = (Who, &Member)> {
        self.members.iter().map(|(id, member)| (*id, member))
    }

    /// Returns how `id` starts again if everything that is not durable is lost. Its vote is not: it is told of when it is durable.
    pub fn restarted(&self, id: Who) -> Option<TraceEvent> {
        let member = self.members.get(&id)?;
        let (index, term) = (Index::ZERO, Term::ZERO);
        Some(TraceEvent::Started {
            term: member.term,
            vote: self.votes.get(&(member.term, id)).copied(),
            commit: Index::new(member.commit.min(member.durable) as u64),
            applied: index,
            snapshot: (index, term),
            terms: member.log[..member.durable].to_vec(),
            membership: Membership::default(),
        })
    }

    /// Takes a step of `id`.
    ///
    /// # Errors
    ///
    /// What the step needs and does not have; nothing changes then.
    pub fn take(&mut self, id: Who, step: &TraceEvent) -> Result<(), String> {
        let member = self.members.get(&id).cloned().unwrap_or_default();
        let next = match step {
            TraceEvent::Started { .. } => self.start(id, step)?,
            TraceEvent::Follows { term, .. } => {
                need(*term >= member.term, "terms never fall")?;
                Member {
                    role: Role::Follower,
                    term: *term,
                    ..member
                }
            }
            TraceEvent::AsksFirst => {
                need(member.role != Role::Leader, "a leader asks nobody")?;
                Member {
                    role: Role::Follower,
                    ..member
                }
            }
            TraceEvent::Campaigns { term } => {
                need(*term == member.term.next(), "the next term")?;
                let end = (last_term(&member.log), member.log.len());
                self.candidacies.insert((*term, id.0), end);
                self.votes.insert((*term, id), id.0);
                Member {
                    role: Role::Candidate,
                    term: *term,
                    ..member
                }
            }
            TraceEvent::Votes { term, candidate } => {
                self.vote(id, &member, *term, *candidate)?;
                member
            }
            TraceEvent::Leads { term } => self.lead(id, &member, *term)?,
            TraceEvent::Appended { first, terms } => {
                self.append(id, &member, place(first.get()), terms)?
            }
            TraceEvent::Truncated { from } => self.truncate(&member, place(from.get()))?,
            TraceEvent::Durable { index } => {
                need(place(index.get()) <= member.log.len(), "what is in the log")?;
                Member {
                    durable: place(index.get()),
                    ..member
                }
            }
            TraceEvent::Committed { index } => self.commit(&member, place(index.get()))?,
            TraceEvent::Installed { index, term } => {
                self.install(&member, place(index.get()), *term)?
            }
            TraceEvent::Applied { index } => apply(member, place(index.get()))?,
            TraceEvent::Compacted { index } => {
                need(
                    place(index.get()) <= member.applied,
                    "snapshots hold what is applied",
                )?;
                member
            }
            TraceEvent::Reconfigured { membership, .. } => Member {
                voters: voters_of(membership),
                ..member
            },
            step => return Err(format!("the model does not know {step:?}")),
        };
        self.members.insert(id, next);
        Ok(())
    }

    /// A member starts from its disk: what was not durable may be gone.
    fn start(&mut self, id: Who, step: &TraceEvent) -> Result<Member, String> {
        let TraceEvent::Started {
            term,
            vote,
            commit,
            applied,
            snapshot,
            terms,
            membership,
        } = step
        else {
            return Err("a start".to_owned());
        };
        let base = place(snapshot.0.get());
        let mut log: Vec<Term> = self.committed.iter().map(|(term, _)| *term).collect();
        need(base <= log.len(), "snapshots hold what is committed")?;
        log.truncate(base);
        need(
            base == 0 || log.last() == Some(&snapshot.1),
            "the snapshot's term",
        )?;
        log.extend(terms);
        // What founders begin with nobody has to commit.
        let founding = log
            .iter()
            .take(place(commit.get()))
            .take_while(|term| **term == Term::ZERO);
        for term in founding.skip(self.committed.len()) {
            self.committed.push((*term, *term));
        }
        self.votes.retain(|(at, voter), given| {
            *voter != id || at < term || (at == term && *vote == Some(*given))
        });
        Ok(Member {
            role: Role::Follower,
            term: *term,
            durable: log.len(),
            commit: place(commit.get()),
            applied: place(applied.get()),
            voters: match voters_of(membership) {
                none if none.is_empty() => {
                    self.members.get(&id).map_or(none, |own| own.voters.clone())
                }
                voters => voters,
            },
            log,
        })
    }

    fn vote(&mut self, id: Who, own: &Member, term: Term, to: RaftId) -> Result<(), String> {
        need(term == own.term, "a vote in the own term")?;
        let given = *self.votes.get(&(term, id)).unwrap_or(&to);
        if self.without != Some(Rule::OneVote) {
            need(given == to, "one vote a term")?;
        }
        let Some(&end) = self.candidacies.get(&(term, to)) else {
            return Err("votes go to candidates".to_owned());
        };
        if self.without != Some(Rule::UpToDate) {
            let known = (last_term(&own.log), own.log.len());
            need(end >= known, "the candidate's log is up to date")?;
        }
        self.votes.insert((term, id), to);
        Ok(())
    }

    fn lead(&mut self, id: Who, own: &Member, term: Term) -> Result<Member, String> {
        need(
            own.role == Role::Candidate && term == own.term,
            "a candidacy",
        )?;
        let voted = |voter: &Who| self.votes.get(&(term, *voter)) == Some(&id.0);
        need(has_quorum(&own.voters, voted), "the votes of a quorum")?;
        let office = self.offices.entry(term).or_insert_with(|| Office {
            leaders: BTreeSet::new(),
            log: own.log.clone(),
        });
        office.leaders.insert(id.0);
        if office.leaders.len() > 1 {
            self.broken.push("election safety");
        }
        let holds = |(at, (of, since)): (usize, &(Term, Term))| {
            *since >= term || own.log.get(at) == Some(of)
        };
        if !self.committed.iter().enumerate().all(holds) {
            self.broken.push("leader completeness");
        }
        Ok(Member {
            role: Role::Leader,
            ..own.clone()
        })
    }

    fn append(
        &mut self,
        id: Who,
        own: &Member,
        first: usize,
        terms: &[Term],
    ) -> Result<Member, String> {
        let before = first.saturating_sub(1);
        need(before == own.log.len(), "the log has no gaps")?;
        let mut log = own.log.clone();
        log.extend(terms);
        if own.role == Role::Leader {
            need(
                terms.iter().all(|term| *term == own.term),
                "entries of the own term",
            )?;
            let office = self.offices.get_mut(&own.term).ok_or("an office")?;
            if office.leaders.contains(&id.0) {
                office.log.clone_from(&log);
            }
        } else {
            let office = self
                .offices
                .get(&own.term)
                .ok_or("a leader of the own term")?;
            let sent = office.log.get(before..log.len());
            need(sent == Some(terms), "what the leader has")?;
            if self.without != Some(Rule::Consistency) {
                let same = office.log.get(..before) == Some(&own.log[..]);
                need(same, "the logs agree before it")?;
            }
        }
        Ok(Member { log, ..own.clone() })
    }

    fn truncate(&self, own: &Member, from: usize) -> Result<Member, String> {
        need(own.role != Role::Leader, "a leader removes nothing")?;
        need(
            from > own.commit && from <= own.log.len(),
            "what is committed stays",
        )?;
        let office = self
            .offices
            .get(&own.term)
            .ok_or("a leader of the own term")?;
        let at = from - 1;
        let conflicts = office.log.get(at).is_some_and(|term| *term != own.log[at]);
        need(conflicts, "only what contradicts the leader is removed")?;
        Ok(Member {
            log: own.log[..at].to_vec(),
            durable: own.durable.min(at),
            ..own.clone()
        })
    }

    fn commit(&mut self, own: &Member, index: usize) -> Result<Member, String> {
        need(
            index > own.commit && index <= own.log.len(),
            "the commit index rises",
        )?;
        if own.role == Role::Leader {
            if self.without != Some(Rule::OwnTerm) {
                need(own.log[index - 1] == own.term, "an entry of the own term")?;
            }
            let holds = |other: &Who| {
                let Some(other) = self.members.get(other) else {
                    return false;
                };
                let durable = other.durable >= index || self.without == Some(Rule::Durable);
                durable && other.log.get(index - 1) == own.log.get(index - 1)
            };
            need(has_quorum(&own.voters, holds), "a quorum that holds it")?;
            for at in 0..index {
                match self.committed.get(at) {
                    None => self.committed.push((own.log[at], own.term)),
                    Some((term, _)) if *term != own.log[at] => {
                        self.broken.push("state machine safety")
                    }
                    Some(_) => {}
                }
            }
        } else {
            let known = self
                .committed
                .get(..index)
                .ok_or("what somebody has committed")?;
            let same = known.iter().map(|(term, _)| term).eq(&own.log[..index]);
            need(same, "what is committed is the same everywhere")?;
        }
        Ok(Member {
            commit: index,
            ..own.clone()
        })
    }

    fn install(&self, own: &Member, index: usize, term: Term) -> Result<Member, String> {
        need(index > own.commit, "a snapshot that is newer")?;
        let known = self.committed.get(..index).ok_or("what is committed")?;
        let log: Vec<Term> = known.iter().map(|(term, _)| *term).collect();
        need(
            log.last() == Some(&term),
            "the term of what is committed there",
        )?;
        Ok(Member {
            log,
            durable: 0,
            commit: index,
            applied: index,
            ..own.clone()
        })
    }
}

fn apply(own: Member, index: usize) -> Result<Member, String> {
    need(index <= own.commit, "what is applied is committed")?;
    need(index <= own.durable, "what is applied is durable here")?;
    need(index > own.applied, "nothing is applied twice")?;
    Ok(Member {
        applied: index,
        ..own
    })
}

fn voters_of(membership: &Membership) -> Voters {
    let meant = |id| Some((id, membership.incarnation(id)?));
    let incoming: BTreeSet<Who> = membership.voters().filter_map(meant).collect();
    let outgoing: BTreeSet<Who> = membership.outgoing().filter_map(meant).collect();
    [incoming, outgoing]
        .into_iter()
        .filter(|voters| !voters.is_empty())
        .collect()
}

fn has_quorum(voters: &Voters, agrees: impl Fn(&Who) -> bool) -> bool {
    let majority = |set: &BTreeSet<Who>| 2 * set.iter().filter(|id| agrees(id)).count() > set.len();
    !voters.is_empty() && voters.iter().all(majority)
}

fn last_term(log: &[Term]) -> Term {
    log.last().copied().unwrap_or_default()
}

fn place(index: u64) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn need(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}
