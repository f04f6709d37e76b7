//! Fault plans: every kind of fault strikes, sound hosts survive, each planted bug is found.

#![expect(clippy::unwrap_used, reason = "test helpers")]

use std::{cell::RefCell, collections::BTreeSet, collections::VecDeque, rc::Rc, time::Duration};

use overlay_core::{Disk as _, DiskError, Instant, Machine, Rng, Seed};
use overlay_sim::{
    Boot, Channel, CrashPoint, FaultKind, Host, HostId, NetworkConfig, Outbox, SimDisk, World,
    faults::{Chaos, ChaosConfig, Weights},
    runner::{self, sometimes},
};

#[test]
fn a_sound_ledger_survives_every_fault_and_goes_on_after_healing() {
    let markers = [
        "host is down",
        "two hosts are down",
        "host is paused",
        "path is cut",
        "record was lost with the power",
        "host ended itself",
    ];
    runner::seeds_reaching("faults", 100, &markers, |seed| {
        let (world, acked) = story(seed, Flaw::None).unwrap();
        assert!(acked > 20, "{acked}");
        drop(world);
    });
}

#[test]
fn each_planted_bug_is_found() {
    for flaw in [
        Flaw::NoSync,
        Flaw::NoDirectorySync,
        Flaw::AcknowledgesFirst,
        Flaw::RetriesFailedSyncs,
        Flaw::TrustsTornRecords,
        Flaw::BuildsUponUnsynced,
    ] {
        let found = (0..100).filter(|&seed| story(seed, flaw).is_err()).count();
        assert!(found > 0, "{flaw:?} was not found");
    }
}

#[test]
fn a_plan_is_drawn_from_its_seed() {
    let hash = |seed| story(seed, Flaw::None).unwrap().0.trace_hash();
    assert_eq!(hash(3), hash(3));
    assert_ne!(hash(3), hash(4));
}

#[test]
fn every_kind_of_fault_strikes_and_ends() {
    let mut struck = BTreeSet::new();
    for seed in 0..20 {
        let (world, _) = story(seed, Flaw::None).unwrap();
        struck.extend(world.stats().faults().keys().copied());
    }
    for kind in [
        FaultKind::Loss,
        FaultKind::Duplicate,
        FaultKind::Reorder,
        FaultKind::Replay,
        FaultKind::Cut,
        FaultKind::Absent,
        FaultKind::Crash,
        FaultKind::Kill,
        FaultKind::Exit,
        FaultKind::CrashAtSync,
        FaultKind::Pause,
        FaultKind::Partition,
        FaultKind::OneWay,
        FaultKind::Burst,
        FaultKind::ClockRate,
        FaultKind::AppendError,
        FaultKind::SyncError,
    ] {
        assert!(struck.contains(&kind), "{kind} never struck: {struck:?}");
    }
}

#[test]
fn healing_also_ends_what_the_test_did_itself() {
    let seed = Seed::from_u64(1);
    let (mut world, _) = ledgers(&seed, 4, Flaw::None);
    let [a, b, c, d] = [0, 1, 2, 3].map(HostId);
    world.pause(a);
    world.crash(b);
    world.block(c, d);
    world.partition(&[a]);
    world.disk(c).crash_at_sync(1_000, CrashPoint::Before);
    Chaos::new(&seed, ChaosConfig::default()).heal(&mut world);
    assert!(!world.is_paused(a) && world.is_up(b) && !world.disk(c).is_armed());
    assert!(!world.is_cut(c, d) && !world.is_cut(a, b));
}

#[test]
fn no_more_hosts_than_allowed_are_away_at_once() {
    let config = ChaosConfig {
        interval: Duration::from_millis(10)..Duration::from_millis(50),
        unavailable_max: 2,
        ..ChaosConfig::default()
    };
    let mut most = 0;
    for seed in 0..10 {
        let seed = Seed::from_u64(seed);
        let (mut world, _) = ledgers(&seed, 5, Flaw::None);
        let mut chaos = Chaos::new(&seed, config.clone());
        chaos.run_for(&mut world, Duration::from_secs(20), |world| {
            let away = |host: &HostId| !world.is_up(*host) || world.is_paused(*host);
            let away = world.hosts().filter(away).count();
            most = most.max(away);
            assert!(away <= 2);
        });
    }
    assert_eq!(most, 2);
}

#[test]
fn the_aim_is_struck_more_often() {
    let config = ChaosConfig {
        weights: Weights {
            crash: 1,
            ..Weights::none()
        },
        ..ChaosConfig::default()
    };
    let seed = Seed::from_u64(1);
    let (mut world, _) = ledgers(&seed, 5, Flaw::None);
    let mut chaos = Chaos::new(&seed, config);
    chaos.aim(Some(HostId(3)));
    let mut down = [0_u32; 5];
    chaos.run_for(&mut world, Duration::from_secs(60), |world| {
        for host in world.hosts() {
            down[host.0] += u32::from(!world.is_up(host));
        }
    });
    let others = [0, 1, 2, 4].map(|host: usize| down[host]);
    assert!(others.iter().all(|other| *other < down[3] / 2), "{down:?}");
}

#[test]
fn nothing_is_lost_by_a_crash_at_any_sync_point() {
    for side in [CrashPoint::Before, CrashPoint::After] {
        let mut point = 1;
        loop {
            let seed = Seed::from_u64(point);
            let disk = SimDisk::new(&seed);
            disk.crash_at_sync(point, side);
            let (mut world, book) = ledgers(&seed, 0, Flaw::None);
            let shared = Rc::clone(&book);
            let host = world.add_with_disk(disk, move |boot| {
                let itself = boot.host;
                Ledger::boot(boot, itself, 10, Flaw::None, &shared)
            });
            world.run_for(Duration::from_secs(1));
            let crashed = !world.is_up(host);
            if crashed {
                world.restart(host);
                world.run_for(Duration::from_secs(1));
            }
            check(&world, &book).unwrap();
            if !crashed {
                break;
            }
            point += 1;
        }
        assert!(point > 10, "{side:?}: only {point} sync points");
    }
}

/// Runs a world of ledgers through both phases; `Err` says what was lost, or that there was no progress.
fn story(seed: u64, flaw: Flaw) -> Result<(World<Ledger>, usize), String> {
    let seed = Seed::from_u64(seed);
    let (mut world, book) = ledgers(&seed, 3, flaw);
    let config = ChaosConfig {
        weights: Weights {
            append_error: 5,
            sync_error: 5,
            ..Weights::default()
        },
        ..ChaosConfig::default()
    };
    let mut chaos = Chaos::new(&seed, config);
    let mut result = Ok(());
    for _ in 0..10 {
        chaos.run_for(&mut world, Duration::from_secs(2), |world| {
            sometimes("host is down", world.down() > 0);
            sometimes("two hosts are down", world.down() > 1);
            sometimes("host is paused", world.is_paused(HostId(0)));
            sometimes("path is cut", world.is_cut(HostId(0), HostId(1)));
            if result.is_ok() {
                result = check(world, &book);
            }
        });
        result = result.and_then(|()| check_origin(&world, &book));
    }
    sometimes(
        "record was lost with the power",
        book.borrow().written > book.borrow().acked.len(),
    );
    sometimes(
        "host ended itself",
        world.stats().fault(FaultKind::Exit) > 0,
    );
    chaos.heal(&mut world);
    result?;
    assert_eq!(world.down(), 0);
    assert_eq!(world.network(), &NetworkConfig::default());
    assert!(!world.is_cut(HostId(0), HostId(1)));
    let clocks = |world: &World<Ledger>| [0, 1, 2].map(|host| world.clock(HostId(host)));
    let then = clocks(&world).map(|clock| clock + Duration::from_secs(1));
    world.run_for(Duration::from_secs(1));
    assert_eq!(clocks(&world), then, "all clocks are exact again");
    let acked = |book: &Shared| {
        book.borrow()
            .acked
            .iter()
            .map(|(host, _)| *host)
            .fold([0; 3], |mut sums, host| {
                sums[host.0] += 1;
                sums
            })
    };
    let before = acked(&book);
    let progress = |_: &World<Ledger>| {
        acked(&book)
            .iter()
            .zip(before)
            .all(|(now, then)| *now >= then + 5)
    };
    if !world.run_until(Duration::from_secs(5), progress) {
        return Err(format!("no progress: {before:?} {:?}", acked(&book)));
    }
    check(&world, &book)?;
    let count = book.borrow().acked.len();
    Ok((world, count))
}

/// Every record that was acknowledged is in the ledger of its host.
fn check(world: &World<Ledger>, book: &Shared) -> Result<(), String> {
    for (host, record) in &book.borrow().acked {
        if let Some(ledger) = world.host(*host)
            && !ledger.records.contains(record)
        {
            return Err(format!("{host} lost {record}"));
        }
    }
    Ok(())
}

/// No ledger holds a record that nobody ever offered.
fn check_origin(world: &World<Ledger>, book: &Shared) -> Result<(), String> {
    for (host, ledger) in world.machines() {
        if let Some(record) = ledger.records.difference(&book.borrow().offered).next() {
            return Err(format!("{host} made up {record}"));
        }
    }
    Ok(())
}

/// What the outside was told.
#[derive(Default)]
struct Book {
    offered: BTreeSet<u64>,
    acked: BTreeSet<(HostId, u64)>,
    written: usize,
}

type Shared = Rc<RefCell<Book>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    NoSync,
    NoDirectorySync,
    AcknowledgesFirst,
    RetriesFailedSyncs,
    TrustsTornRecords,
    BuildsUponUnsynced,
}

/// Sends a record to its neighbour every so often, half of them again; keeps the records that it gets, and acknowledges them.
struct Ledger {
    id: HostId,
    neighbour: HostId,
    period: Duration,
    now: Instant,
    next: Instant,
    rng: Rng,
    queue: VecDeque<Out>,
    offers: Vec<u64>,
    disk: SimDisk,
    records: BTreeSet<u64>,
    file: String,
    file_is_new: bool,
    flaw: Flaw,
    book: Shared,
}

enum Out {
    Offer(u64),
    Keep(u64),
}

impl Ledger {
    fn boot(boot: Boot<'_>, neighbour: HostId, period: u64, flaw: Flaw, book: &Shared) -> Self {
        let mut ledger = Self {
            id: boot.host,
            neighbour,
            period: Duration::from_millis(period),
            now: boot.now,
            next: boot.now,
            rng: boot.seed.rng(),
            queue: VecDeque::new(),
            offers: Vec::new(),
            disk: boot.disk,
            records: BTreeSet::new(),
            file: format!("ledger-{}", boot.life),
            file_is_new: true,
            flaw,
            book: Rc::clone(book),
        };
        ledger.recover().unwrap();
        ledger
    }

    /// Reads all files; a record is its eight octets twice. Each life writes a file of its own.
    fn recover(&mut self) -> Result<(), DiskError> {
        for name in self.disk.list()? {
            let bytes = self.disk.read(&name)?;
            let mut whole = 0;
            for record in bytes.chunks(16) {
                let (once, twice) = record.split_at(record.len().min(8));
                if self.flaw != Flaw::TrustsTornRecords && once != twice {
                    break;
                }
                let mut octets = [0; 8];
                octets[..once.len()].copy_from_slice(once);
                self.records.insert(u64::from_le_bytes(octets));
                whole += record.len();
            }
            if self.flaw != Flaw::BuildsUponUnsynced {
                // What was read may live in memory only. A sync can fail again, and then the records are in doubt.
                self.disk.truncate(&name, whole as u64)?;
                while self.disk.sync(&name).is_err() {
                    self.disk.kill();
                }
            }
        }
        while self.flaw != Flaw::BuildsUponUnsynced && self.disk.sync_directory().is_err() {
            self.disk.kill();
        }
        Ok(())
    }

    fn keep(&mut self, record: u64) -> Result<(), DiskError> {
        if self.flaw == Flaw::AcknowledgesFirst {
            self.acknowledge(record);
        }
        let once = record.to_le_bytes();
        let result = self.disk.append(&self.file, &[once, once].concat());
        self.book.borrow_mut().written += 1;
        result?;
        if self.flaw != Flaw::NoSync {
            let result = self.disk.sync(&self.file);
            if self.flaw == Flaw::RetriesFailedSyncs {
                self.disk.sync(&self.file)?;
            } else {
                result?;
            }
        }
        if self.file_is_new && self.flaw != Flaw::NoDirectorySync {
            self.disk.sync_directory()?;
            self.file_is_new = false;
        }
        self.acknowledge(record);
        Ok(())
    }

    fn acknowledge(&mut self, record: u64) {
        self.records.insert(record);
        self.book.borrow_mut().acked.insert((self.id, record));
    }
}

impl Machine for Ledger {
    type Output = Out;

    fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.now >= self.next {
            self.next = self.now + self.period;
            let recent = self.offers.len().min(40);
            let record = match self.rng.index(2 * recent) {
                Some(back) if back < recent => self.offers[self.offers.len() - 1 - back],
                _ => self.rng.next_u64(),
            };
            self.offers.push(record);
            self.book.borrow_mut().offered.insert(record);
            self.queue.push_back(Out::Offer(record));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let drained = self.queue.is_empty();
        Some(if drained { self.next } else { self.now })
    }

    fn poll_output(&mut self) -> Option<Out> {
        self.queue.pop_front()
    }
}

impl Host for Ledger {
    fn deliver(&mut self, now: Instant, _: HostId, _: Channel, bytes: &[u8]) {
        self.now = self.now.max(now);
        let record = u64::from_le_bytes(bytes.try_into().unwrap());
        if self.records.contains(&record) {
            self.acknowledge(record); // it is kept already, or so this life believes
        } else {
            self.queue.push_back(Out::Keep(record));
        }
    }

    fn route(&mut self, _: Instant, output: Out, outbox: &mut Outbox) {
        match output {
            Out::Offer(record) => {
                let bytes = record.to_le_bytes().to_vec();
                outbox.send(self.neighbour, Channel::Datagram, bytes);
            }
            Out::Keep(record) => {
                if self.keep(record).is_err() {
                    outbox.exit();
                }
            }
        }
    }
}

fn ledgers(seed: &Seed, hosts: usize, flaw: Flaw) -> (World<Ledger>, Shared) {
    let book = Shared::default();
    let mut world = World::new(seed.clone(), NetworkConfig::default());
    for host in 0..hosts {
        let book = Rc::clone(&book);
        let neighbour = HostId((host + 1) % hosts);
        world.add(move |boot| Ledger::boot(boot, neighbour, 100, flaw, &book));
    }
    (world, book)
}
