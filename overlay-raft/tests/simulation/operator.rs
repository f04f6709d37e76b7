//! Clients and operators: what happens to a cluster besides faults.

use std::{rc::Rc, time::Duration};

use overlay_core::Instant;
use overlay_raft::{Change, Membership, Raft, RaftId, ReadMode};
use overlay_sim::{HostId, runner::sometimes};

use crate::{Cluster, Kind, member::id_of};

impl Cluster {
    /// Acts at whoever believes to lead: also at one that was deposed, or stood still and has not noticed yet.
    pub(crate) fn act(&mut self) {
        let leaders: Vec<HostId> = self
            .world
            .machines()
            .filter(|(_, member)| member.is_leader())
            .map(|(host, _)| host)
            .collect();
        sometimes("two leaders at once", leaders.len() > 1);
        match self.kind {
            Kind::Dueling => self.duel(&leaders),
            Kind::Stranding | Kind::Reforming => self.strand(&leaders),
            Kind::Fixed | Kind::Changing | Kind::Wiping => {}
        }
        self.read(&leaders);
        for &host in &leaders {
            for _ in 0..self.rng.below(3) {
                self.world.with(host, |member, now| member.propose(now));
            }
            if self.rng.chance(10_000) {
                self.transfer(host);
            }
            let kind = self.kind;
            match kind {
                Kind::Fixed | Kind::Dueling | Kind::Stranding => {}
                Kind::Reforming if self.is_fresh(host) || self.rng.chance(50_000) => {
                    self.change(host);
                }
                Kind::Reforming => {}
                Kind::Changing if self.rng.chance(60_000) => self.change(host),
                Kind::Changing => {}
                Kind::Wiping => self.lose_disk(host),
            }
        }
    }

    /// Reads anywhere; always from each of several leaders, all but one of which are mistaken.
    fn read(&mut self, leaders: &[HostId]) {
        let mut readers = Vec::new();
        if leaders.len() > 1 {
            readers.extend_from_slice(leaders);
        } else if self.rng.chance(500_000) {
            readers.push(self.any_host());
        } else {
            readers.extend(leaders.iter().filter(|_| self.rng.chance(500_000)));
        }
        for host in readers {
            let mode = if self.rng.chance(500_000) {
                ReadMode::Lease
            } else {
                ReadMode::Quorum
            };
            self.world.with(host, |member, now| member.read(now, mode));
        }
    }

    /// Has everybody campaign at once, and takes the power from one in the middle of it.
    fn duel(&mut self, leaders: &[HostId]) {
        for &host in leaders {
            // One that has not committed anything of its term yet: what it has is left behind on few disks.
            let fresh = self.raft(host, |raft, _| raft.commit() < raft.last_index());
            if fresh == Some(true) && self.rng.chance(300_000) {
                let moment = self.rng.duration(Duration::ZERO..Duration::from_millis(20));
                self.crash_after(host, moment);
            }
        }
        if self.rng.chance(900_000) {
            return;
        }
        for &host in leaders {
            if self.rng.chance(500_000) {
                self.world.crash(host);
            }
        }
        let hosts: Vec<HostId> = self.world.hosts().collect();
        for &host in &hosts {
            self.raft(host, |raft, now| raft.campaign(now));
        }
        let victim = hosts[self.rng.index(hosts.len()).expect("hosts")];
        let moment = self.rng.duration(Duration::ZERO..Duration::from_millis(60));
        self.crash_after(victim, moment);
    }

    /// Returns whether a leader has committed nothing of its term yet.
    fn is_fresh(&mut self, host: HostId) -> bool {
        let fresh = self.raft(host, |raft, _| {
            raft.term_at(raft.commit()) != Some(raft.term())
        });
        fresh == Some(true)
    }

    /// Cuts one off for a while: a leader that has copied nothing yet, or anybody.
    fn strand(&mut self, leaders: &[HostId]) {
        let now = self.world.now();
        let mut victim = None;
        for &host in leaders {
            let fresh = self.raft(host, |raft, _| {
                let matched = raft.followers().map(|status| status.matched).max();
                raft.commit() < raft.last_index() && matched < Some(raft.last_index())
            });
            if fresh == Some(true) && self.rng.chance(300_000) {
                victim = Some(host);
            }
        }
        if now >= self.stranded_until {
            victim = victim.or(Some(self.any_host()));
        }
        if let Some(host) = victim {
            self.world.rejoin();
            self.world.partition(&[host]);
            let range = Duration::from_millis(50)..Duration::from_millis(800);
            self.stranded_until = now + self.rng.duration(range);
        }
    }

    fn crash_after(&mut self, host: HostId, moment: Duration) {
        let healed = Rc::clone(&self.healed);
        self.world.at(self.world.now() + moment, move |world| {
            if !healed.get() {
                world.crash(host);
            }
        });
    }

    fn transfer(&mut self, host: HostId) {
        let target = self.any_host();
        let done = self.raft(host, |raft, now| raft.transfer(now, id_of(target)));
        sometimes("leadership is transferred", matches!(done, Some(Ok(()))));
    }

    fn change(&mut self, host: HostId) {
        let Some(membership) = self.raft(host, |raft, _| raft.membership().clone()) else {
            return;
        };
        let (change, marker) = if self.rng.chance(300_000) {
            self.replacement(&membership)
        } else {
            self.step(&membership)
        };
        if change.is_empty() {
            return;
        }
        let done = self.raft(host, |raft, now| raft.change(now, &change));
        sometimes(marker, matches!(done, Some(Ok(_))));
        let is_joint = self.raft(host, |raft, _| raft.membership().is_joint());
        sometimes("a membership is joint", is_joint == Some(true));
    }

    /// All learners for as many voters.
    fn replacement(&mut self, membership: &Membership) -> (Vec<Change>, &'static str) {
        let learners = membership.learners().map(Change::Promote);
        let mut change: Vec<Change> = learners.collect();
        let gone = self.rng.chance(500_000);
        let voters = membership.voters().take(change.len());
        change.extend(voters.map(|id| {
            if gone {
                Change::Remove(id)
            } else {
                Change::Demote(id)
            }
        }));
        (change, "voters are replaced")
    }

    /// A change of one member.
    fn step(&mut self, membership: &Membership) -> (Vec<Change>, &'static str) {
        let id = id_of(self.any_host());
        // At least two voters stay, so that a removed leader has somebody to lead the rest.
        let spare = membership.voters().count() > 2;
        let (change, marker) = if membership.is_learner(id) {
            if self.rng.chance(800_000) {
                (Change::Promote(id), "a learner is promoted")
            } else {
                (Change::Remove(id), "a member is removed")
            }
        } else if !membership.contains(id) {
            (Change::AddLearner(id), "a learner is added")
        } else if !spare {
            return (Vec::new(), "a member is removed");
        } else if self.rng.chance(400_000) {
            (Change::Demote(id), "a voter is demoted")
        } else {
            (Change::Remove(id), "a member is removed")
        };
        (vec![change], marker)
    }

    /// Once, at the worst moment: two of three hold what the third does not, one of them loses its disk, and the other
    /// goes down. Afterwards the operator replaces the one that lost its disk.
    fn lose_disk(&mut self, leader: HostId) {
        if self.wiped.get().is_some() {
            self.replace(leader);
            return;
        }
        if self.rng.chance(990_000) || self.world.down() > 0 {
            return;
        }
        let others: Vec<HostId> = self.world.hosts().filter(|host| *host != leader).collect();
        let at = self.rng.index(2).expect("two");
        let (victim, lagging) = (others[at], others[1 - at]);
        self.world.pause(lagging);
        for _ in 0..5 {
            self.world.with(leader, |member, now| member.propose(now));
        }
        self.world.run_for(Duration::from_millis(60));
        self.world.crash(victim);
        self.world.disk(victim).wipe();
        self.wiped.set(Some(victim));
        self.world.crash(leader);
        self.world.resume(lagging);
        self.world.restart(victim);
        sometimes("a voter loses its disk", true);
        self.world.run_for(Duration::from_millis(1_500));
    }

    fn replace(&mut self, leader: HostId) {
        let Some(id) = self.wiped.get().map(id_of) else {
            return;
        };
        if self.rng.chance(900_000) {
            return;
        }
        self.raft(leader, |raft, now| {
            let Some(change) = step_of_replacement(raft, id) else {
                return;
            };
            let promotes = matches!(change, Change::Promote(_));
            let done = raft.change(now, &[change]).is_ok();
            sometimes("a voter without its disk is replaced", done && promotes);
        });
    }

    fn any_host(&mut self) -> HostId {
        HostId(self.rng.index(self.world.hosts().count()).expect("hosts"))
    }

    fn raft<R>(&mut self, host: HostId, f: impl FnOnce(&mut Raft, Instant) -> R) -> Option<R> {
        self.world
            .with(host, |member, now| {
                member.raft.as_mut().map(|raft| f(raft, now))
            })
            .flatten()
    }
}

fn step_of_replacement(raft: &Raft, id: RaftId) -> Option<Change> {
    let lost = raft
        .followers()
        .any(|status| status.id == id && status.lost_disk);
    let membership = raft.membership();
    if lost {
        Some(Change::Remove(id))
    } else if membership.is_learner(id) {
        Some(Change::Promote(id))
    } else if !membership.contains(id) {
        Some(Change::AddLearner(id))
    } else {
        None
    }
}
