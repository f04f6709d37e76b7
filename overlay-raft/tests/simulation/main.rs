//! Whole clusters on virtual time, with faults: Raft's promises over many seeds.

mod checker;
mod member;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use overlay_core::{Rng, Seed};
use overlay_raft::{Change, Config, Raft, storage::StorageConfig};
use overlay_sim::{
    HostId, NetworkConfig, World,
    faults::{Chaos, ChaosConfig, Weights},
    runner::{self, sometimes},
};

use checker::Checker;
use member::{Member, Setup, id_of};

const MARKERS: [&str; 12] = [
    "a snapshot is restored",
    "a read is answered",
    "a proposal is lost",
    "a write fails",
    "one ticket covers several",
    "a leader with a slow disk hands over",
    "a learner is added",
    "a learner is promoted",
    "a voter is demoted",
    "a member is removed",
    "leadership is transferred",
    "a wiped voter is noticed",
];

#[test]
fn clusters_survive_every_fault() {
    runner::seeds_reaching("clusters_survive_every_fault", 240, &MARKERS, |number| {
        Cluster::new(number).run();
    });
}

struct Cluster {
    world: World<Member>,
    chaos: Chaos,
    checker: Rc<RefCell<Checker>>,
    rng: Rng,
    kind: Kind,
    /// Whether the last member's disk was lost once.
    wiped: Rc<Cell<bool>>,
}

/// What an operator does besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Nothing.
    Fixed,
    /// Changes the membership all the time.
    Changing,
    /// Loses a disk, and replaces the member.
    Wiping,
}

const SAFETY: Duration = Duration::from_secs(20);
const SLICE: Duration = Duration::from_millis(20);
/// Elections take at most 400 ms a round here, and changes of membership go on until the end.
const PROGRESS_MAX: Duration = Duration::from_secs(10);

impl Cluster {
    fn new(number: u64) -> Self {
        let seed = Seed::from_u64(number);
        let mut rng = seed.derive("test").rng();
        let kind = [Kind::Fixed, Kind::Changing, Kind::Changing, Kind::Wiping]
            [usize::try_from(number % 4).expect("below four")];
        let (hosts, founders) = match kind {
            Kind::Fixed => {
                let hosts = 3 + 2 * usize::from(rng.chance(300_000));
                (hosts, hosts)
            }
            Kind::Changing => (5, 3),
            Kind::Wiping => (4, 4),
        };
        let wiped = Rc::new(Cell::new(false));
        let setup = Setup {
            founders,
            wiped: Rc::clone(&wiped),
            storage: StorageConfig {
                segment_bytes_max: 256 + rng.below(4_096),
            },
            disk_delay: Duration::from_micros(100)..Duration::from_micros(200 + rng.below(20_000)),
            stall_ppm: u32::try_from(rng.below(3_000)).expect("small"),
            compact_after: 5 + rng.below(60),
            configure,
        };
        let checker = Rc::new(RefCell::new(Checker::default()));
        let network = if rng.chance(500_000) {
            NetworkConfig::lossy()
        } else {
            NetworkConfig::lan()
        };
        let mut world = World::new(seed.clone(), network);
        for _ in 0..hosts {
            let (setup, checker) = (setup.clone(), Rc::clone(&checker));
            world.add(move |boot| Member::boot(boot, &setup, &checker));
        }
        let weights = Weights {
            append_error: 2,
            sync_error: 3,
            ..Weights::default()
        };
        let config = ChaosConfig {
            weights,
            ..ChaosConfig::default()
        };
        Self {
            chaos: Chaos::new(&seed, config),
            world,
            checker,
            rng,
            kind,
            wiped,
        }
    }

    fn run(mut self) {
        let end = self.world.now() + SAFETY;
        while self.world.now() < end {
            self.chaos.run_for(&mut self.world, SLICE, |_| {});
            self.act();
        }
        self.chaos.heal(&mut self.world);
        self.world.set_network(NetworkConfig::lan());
        self.require_progress();
    }

    /// Clients and the operator, at whoever believes to lead: also one that was deposed.
    fn act(&mut self) {
        let leaders: Vec<HostId> = self
            .world
            .machines()
            .filter(|(host, member)| member.is_leader() && !self.world.is_paused(*host))
            .map(|(host, _)| host)
            .collect();
        let Some(&host) = self.rng.index(leaders.len()).map(|at| &leaders[at]) else {
            return;
        };
        sometimes("two leaders at once", leaders.len() > 1);
        for _ in 0..self.rng.below(3) {
            self.world.with(host, |member, now| member.propose(now));
        }
        if self.rng.chance(300_000) {
            self.world.with(host, |member, now| member.read(now));
        }
        if self.rng.chance(10_000) {
            self.transfer(host);
        }
        match self.kind {
            Kind::Fixed => {}
            Kind::Changing if self.rng.chance(60_000) => self.change(host),
            Kind::Changing => {}
            Kind::Wiping => self.replace_wiped(host),
        }
    }

    fn transfer(&mut self, host: HostId) {
        let target = HostId(self.rng.index(self.world.hosts().count()).expect("hosts"));
        let done = self.raft(host, |raft, now| raft.transfer(now, id_of(target)));
        sometimes("leadership is transferred", matches!(done, Some(Ok(()))));
    }

    fn change(&mut self, host: HostId) {
        let count = self.world.hosts().count();
        let target = HostId(self.rng.index(count).expect("hosts"));
        let id = id_of(target);
        let Some(membership) = self.raft(host, |raft, _| raft.membership().clone()) else {
            return;
        };
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
            return;
        } else if self.rng.chance(400_000) {
            (Change::Demote(id), "a voter is demoted")
        } else {
            (Change::Remove(id), "a member is removed")
        };
        let done = self.raft(host, |raft, now| raft.change(now, change));
        sometimes(marker, matches!(done, Some(Ok(_))));
    }

    /// Wipes one voter once; removes it when the leader notices, adds it and promotes it again.
    fn replace_wiped(&mut self, host: HostId) {
        let victim = HostId(3);
        if !self.wiped.get() {
            if self.rng.chance(5_000) && host != victim {
                self.world.crash(victim);
                self.world.disk(victim).wipe();
                self.wiped.set(true);
            }
            return;
        }
        if self.rng.chance(900_000) {
            return;
        }
        let id = id_of(victim);
        self.raft(host, |raft, now| {
            let lost = raft
                .followers()
                .any(|status| status.id == id && status.lost_disk);
            let membership = raft.membership();
            let change = if lost {
                Change::Remove(id)
            } else if membership.is_learner(id) {
                Change::Promote(id)
            } else if !membership.contains(id) {
                Change::AddLearner(id)
            } else {
                return;
            };
            let promoted = matches!(change, Change::Promote(_));
            let done = raft.change(now, change).is_ok();
            sometimes("a wiped voter is promoted again", done && promoted);
        });
    }

    /// After all faults are over: a leader, a write, and the same state on all members.
    fn require_progress(&mut self) {
        let led = self
            .world
            .run_until(PROGRESS_MAX, |world| leader_of(world).is_some());
        assert!(led, "no leader {PROGRESS_MAX:?} after healing");
        let mut done = false;
        for _ in 0..50 {
            if let Some(host) = leader_of(&self.world) {
                let before = self.checker.borrow().acknowledged();
                self.world.with(host, |member, now| member.propose(now));
                let checker = Rc::clone(&self.checker);
                done = self.world.run_until(PROGRESS_MAX / 50, |world| {
                    checker.borrow().acknowledged() > before && is_settled(world)
                });
            } else {
                self.world.run_for(PROGRESS_MAX / 50);
            }
            if done {
                break;
            }
        }
        assert!(done, "no progress {PROGRESS_MAX:?} after healing");
        let leader = leader_of(&self.world).expect("it is settled");
        let state = &self.world.host(leader).expect("it is up").operations;
        self.checker.borrow().check_final(state);
    }

    fn raft<R>(
        &mut self,
        host: HostId,
        f: impl FnOnce(&mut Raft, overlay_core::Instant) -> R,
    ) -> Option<R> {
        self.world
            .with(host, |member, now| {
                member.raft.as_mut().map(|raft| f(raft, now))
            })
            .flatten()
    }
}

/// Returns the leader of the highest term.
fn leader_of(world: &World<Member>) -> Option<HostId> {
    world
        .machines()
        .filter(|(_, member)| member.is_leader())
        .max_by_key(|(_, member)| member.raft().term())
        .map(|(host, _)| host)
}

/// Returns whether all members of the leader's membership hold what the leader holds.
fn is_settled(world: &World<Member>) -> bool {
    let Some(leader) = leader_of(world).and_then(|host| world.host(host)) else {
        return false;
    };
    let raft = leader.raft();
    raft.commit() == raft.last_index()
        && raft.membership().members().all(|id| {
            world
                .machines()
                .any(|(host, member)| id_of(host) == id && member.operations == leader.operations)
        })
}

/// Legal settings, hostile ones among them.
fn configure(config: &mut Config, rng: &mut Rng) {
    let mut pick = |choices: &[usize]| choices[rng.index(choices.len()).expect("not empty")];
    config.election_timeout = Duration::from_millis(200);
    config.heartbeat_interval = Duration::from_millis(50);
    config.entries_per_append_max = pick(&[1, 3, 256]);
    config.append_bytes_max = pick(&[1, 200, 1 << 18]) as u64;
    config.inflight_max = pick(&[1, 2, 64]);
    config.writes_inflight_max = pick(&[1, 2, 8]);
    config.trailing_entries_max = pick(&[0, 3, 500]);
    config.snapshot_chunk_bytes_max = pick(&[50, 200, 1 << 18]);
    config.uncommitted_bytes_max = pick(&[300, 1 << 20]) as u64;
    config.reads_max = 50;
}
