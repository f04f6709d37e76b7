//! Whole clusters on virtual time, with faults: Raft's promises over many seeds.

mod checker;
mod history;
#[path = "../layer/mod.rs"]
mod layer;
mod member;
#[path = "../model/mod.rs"]
mod model;
mod operator;
#[cfg(overlay_raft_planted)]
mod planted;

use std::{
    cell::{Cell, RefCell},
    num::NonZeroUsize,
    rc::Rc,
    time::Duration,
};

use overlay_core::{Instant, Rng, Seed};
use overlay_raft::{Config, storage::StorageConfig};
use overlay_sim::{
    HostId, NetworkConfig, World,
    faults::{Chaos, ChaosConfig, Weights},
    runner::{self, Soak, sometimes},
};

use checker::Checker;
use layer::Layer;
use member::{Member, Setup, id_of};

const MARKERS: [&str; 19] = [
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
    "a voter without its disk is replaced",
    "two leaders at once",
    "a membership is joint",
    "voters are replaced",
    "a follower answers a read",
    "a read by lease",
    "a long history is linearizable",
];

#[test]
fn clusters_survive_every_fault() {
    runner::seeds_reaching("clusters_survive_every_fault", 400, &MARKERS, |number| {
        Cluster::new(number, Layer::Plain).run();
    });
}

/// What is asked of the plain disk is asked of the sealed one, too; a smaller number of seeds reaches what concerns it.
#[test]
fn clusters_survive_every_fault_on_sealed_disks() {
    runner::seeds_reaching(
        "clusters_survive_every_fault_on_sealed_disks",
        100,
        &["a snapshot is restored", "a write fails"],
        |number| Cluster::new(number, Layer::Sealed).run(),
    );
}

/// The big run, with shorter schedules: `cargo test --release -p overlay-raft --test simulation million -- --ignored
/// --nocapture`, with `OVERLAY_SEEDS` for another number than a million.
#[test]
#[ignore = "20 minutes of two cores"]
fn a_million_schedules() {
    let count = std::env::var("OVERLAY_SEEDS").ok();
    let count = count.and_then(|count| count.parse().ok());
    let soak = Soak {
        seeds: 0..count.unwrap_or(1_000_000),
        elapsed_max: Duration::from_secs(24 * 3_600),
        threads: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
    };
    let report = runner::soak(&soak, |number| {
        let layer = if number.is_multiple_of(16) {
            Layer::Sealed
        } else {
            Layer::Plain
        };
        Cluster::new(number, layer).run_for(SAFETY / 4);
    })
    .unwrap_or_else(|failure| panic!("{failure}"));
    println!("{report}");
    assert_eq!(report.seeds, soak.seeds.end);
}

struct Cluster {
    world: World<Member>,
    chaos: Chaos,
    checker: Rc<RefCell<Checker>>,
    number: u64,
    rng: Rng,
    kind: Kind,
    /// Whose disk was lost.
    wiped: Rc<Cell<Option<HostId>>>,
    healed: Rc<Cell<bool>>,
    /// When another member is cut off.
    stranded_until: Instant,
}

/// What happens besides faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Nothing.
    Fixed,
    /// The membership changes all the time.
    Changing,
    /// A voter loses its disk, and is replaced.
    Wiping,
    /// Several campaign at once, with slow disks, and fall in the middle of it.
    Dueling,
    /// One of three is cut off at any time, a leader preferably before it has copied anything (Raft figure 8).
    Stranding,
    /// The same of four, while leaders begin with changes of the membership (erratum to the thesis, §4.1).
    Reforming,
    /// Others campaign while the leader is cut off and relies on what they vowed.
    Usurping,
}

const SAFETY: Duration = Duration::from_secs(20);
const SLICE: Duration = Duration::from_millis(20);
/// Elections take at most 400 ms a round here, and changes of membership go on until the end.
const PROGRESS_MAX: Duration = Duration::from_secs(10);

impl Cluster {
    fn new(number: u64, layer: Layer) -> Self {
        let seed = Seed::from_u64(number);
        let mut rng = seed.derive("test").rng();
        let kinds = [
            Kind::Fixed,
            Kind::Changing,
            Kind::Wiping,
            Kind::Dueling,
            Kind::Stranding,
            Kind::Reforming,
            Kind::Usurping,
        ];
        let kind = kinds[usize::try_from(number % 7).expect("below seven")];
        let (hosts, founders) = match kind {
            Kind::Fixed => {
                let hosts = 3 + 2 * usize::from(rng.chance(300_000));
                (hosts, hosts)
            }
            Kind::Changing => (5, 3),
            Kind::Reforming => (5, 4),
            Kind::Wiping | Kind::Dueling | Kind::Stranding | Kind::Usurping => (3, 3),
        };
        let slow = match kind {
            Kind::Dueling => 100_000,
            _ => 20_000,
        };
        let (wiped, healed) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(false)));
        let setup = Setup {
            founders,
            leases: kind == Kind::Usurping || rng.chance(500_000),
            wiped: Rc::clone(&wiped),
            healed: Rc::clone(&healed),
            storage: StorageConfig {
                segment_bytes_max: 256 + rng.below(4_096),
                reserve_bytes_max: rng.below(1_024),
            },
            layer,
            disk_delay: Duration::from_micros(100)..Duration::from_micros(200 + rng.below(slow)),
            stall_ppm: u32::try_from(rng.below(3_000)).expect("small"),
            compact_after: 5 + rng.below(60),
            configure,
        };
        let checker = Rc::new(RefCell::new(Checker::default()));
        let network = network_of(kind, &mut rng);
        let mut world = World::new(seed.clone(), network);
        for _ in 0..hosts {
            let (setup, checker) = (setup.clone(), Rc::clone(&checker));
            world.add(move |boot| Member::boot(boot, &setup, &checker));
        }
        Self {
            number,
            chaos: Chaos::new(&seed, faults_of(kind)),
            world,
            checker,
            rng,
            kind,
            wiped,
            healed,
            stranded_until: Instant::EPOCH,
        }
    }

    fn run(self) {
        self.run_for(SAFETY);
    }

    fn run_for(mut self, duration: Duration) {
        let end = self.world.now() + duration;
        while self.world.now() < end {
            self.chaos.run_for(&mut self.world, SLICE, |_| {});
            self.act();
        }
        self.healed.set(true);
        self.chaos.heal(&mut self.world);
        self.world.set_network(NetworkConfig::lan());
        self.require_progress();
    }

    /// After all faults are over: a leader, a write, and the same state on all members.
    fn require_progress(&mut self) {
        let led = self
            .world
            .run_until(PROGRESS_MAX, |world| leader_of(world).is_some());
        assert!(
            led,
            "no leader {PROGRESS_MAX:?} after healing: {}",
            describe(&self.world)
        );
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
        assert!(
            done,
            "no progress {PROGRESS_MAX:?} after healing: {}",
            describe(&self.world)
        );
        let leader = leader_of(&self.world).expect("it is settled");
        let state = &self.world.host(leader).expect("it is up").operations;
        let checker = self.checker.borrow();
        checker.check_final(state);
        // The checker takes as long as all the rest.
        if self.number.is_multiple_of(7) {
            assert!(checker.clients.is_linearizable(), "what clients saw");
            let long = checker.clients.manageable() >= 100;
            sometimes("a long history is linearizable", long);
        }
    }
}

fn network_of(kind: Kind, rng: &mut Rng) -> NetworkConfig {
    if matches!(kind, Kind::Stranding | Kind::Reforming) {
        return NetworkConfig {
            delay: Duration::from_millis(5)..Duration::from_millis(40),
            ..NetworkConfig::lan()
        };
    }
    if rng.chance(500_000) {
        NetworkConfig::lossy()
    } else {
        NetworkConfig::lan()
    }
}

fn faults_of(kind: Kind) -> ChaosConfig {
    let default = ChaosConfig::default();
    let mut weights = Weights {
        append_error: 2,
        sync_error: 3,
        ..Weights::default()
    };
    match kind {
        Kind::Fixed | Kind::Changing | Kind::Wiping => ChaosConfig { weights, ..default },
        Kind::Dueling => {
            weights.isolate = 40;
            ChaosConfig {
                weights,
                interval: Duration::from_millis(20)..Duration::from_millis(300),
                downtime: Duration::from_millis(1)..Duration::from_millis(100),
                duration: Duration::from_millis(5)..Duration::from_millis(500),
                ..default
            }
        }
        Kind::Stranding | Kind::Reforming | Kind::Usurping => ChaosConfig {
            weights: Weights {
                crash: 1,
                ..Weights::none()
            },
            ..default
        },
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

fn describe(world: &World<Member>) -> String {
    world
        .machines()
        .map(|(host, member)| {
            let raft = member.raft();
            let followers: Vec<_> = raft.followers().collect();
            format!(
                "\n{host}: {:?} in term {}, commit {} of {}, durable {}, applied {}, {:?} {followers:?}",
                raft.role(),
                raft.term(),
                raft.commit(),
                raft.last_index(),
                raft.durable(),
                raft.applied(),
                raft.membership(),
            )
        })
        .collect()
}

/// Legal settings, hostile ones among them.
fn configure(config: &mut Config, rng: &mut Rng) {
    let mut pick = |choices: &[usize]| choices[rng.index(choices.len()).expect("not empty")];
    config.election_timeout = Duration::from_millis(200);
    config.heartbeat_interval = Duration::from_millis(50);
    config.commit_delay = Duration::from_millis(pick(&[0, 2, 20]) as u64);
    config.entries_per_append_max = pick(&[1, 3, 256]);
    config.append_bytes_max = pick(&[1, 200, 1 << 18]) as u64;
    config.inflight_max = pick(&[1, 2, 64]);
    config.inflight_bytes_max = pick(&[1, 500, 8 << 20]) as u64;
    config.writes_inflight_max = pick(&[1, 2, 8]);
    config.trailing_entries_max = pick(&[0, 3, 500]);
    config.snapshot_chunk_bytes_max = pick(&[50, 200, 1 << 18]);
    config.uncommitted_bytes_max = pick(&[300, 1 << 20]) as u64;
    config.reads_max = 50;
}
