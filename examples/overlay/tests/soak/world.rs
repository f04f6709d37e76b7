//! The hosts, what runs on them, and the rounds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use overlay_core::{Rng, Seed};

use crate::{
    INTERRUPTED, checks, damage,
    desired::{Desired, Endpoint},
    faults::Faults,
    flows::{self, Flow, Losses},
    orders::{Place, Program, Progress, Running, Step},
    support::{Cluster, OVERLAY, name, words},
    tables,
    tally::Tally,
};

/// Hosts; all but the last are managers.
pub(crate) const HOSTS: usize = 4;
/// Both have both families.
pub(crate) const NETWORKS: [&str; 2] = ["blue", "green"];
/// The service whose tasks come and go.
pub(crate) const SERVICE: &str = "web";
/// Programs that come and go.
const PROGRAMS: usize = 6;
/// How many of them are ordered about at a time.
const ORDERS_MAX: usize = 3;
/// From one check to the next.
const ROUND: Duration = Duration::from_secs(9);
/// From the end of all faults to a cluster in which all is as desired: the machine may be busy with other things.
const SETTLING_TIME_MAX: Duration = Duration::from_secs(30);
/// From a damage to its repair.
const REPAIR_TIME_MAX: Duration = Duration::from_secs(6);
/// An order that is refused has to have a fault as its reason that was not longer ago.
const AFTERMATH: Duration = Duration::from_secs(8);
const TASKS_MAX: u64 = 4;
/// Pings that may be lost without a fault, and one more of so many.
const ALLOWED_LOSSES: usize = 3;
const ALLOWED_LOSSES_ONE_IN: usize = 1_000;

/// Whether the kernel carries the networks of a host.
pub(crate) fn is_kernel(host: usize) -> bool {
    host.is_multiple_of(2)
}

/// How the daemon of a host is started.
pub(crate) fn options(host: usize) -> &'static [&'static str] {
    match is_kernel(host) {
        true => &["--data-path", "kernel"],
        false => &["--data-path", "user"],
    }
}

/// All of it.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    random: Rng,
    programs: Vec<Program>,
    flows: Vec<Flow>,
    faults: Faults,
    tally: Tally,
    /// Orders about the service and the nodes.
    service: Option<Running>,
    replicas: u64,
    drained: Option<usize>,
    /// Endpoints that were seen.
    seen: BTreeSet<Endpoint>,
    pings: Losses,
    refused: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> anyhow::Result<Self> {
        let mut cluster = Cluster::new(HOSTS)?;
        for host in 0..HOSTS {
            cluster.start(host, options(host))?;
        }
        cluster.ask(0, &["init"])?;
        for host in 1..HOSTS {
            let role = if host + 1 < HOSTS {
                "manager"
            } else {
                "worker"
            };
            cluster.join(host, role)?;
        }
        for (number, network) in NETWORKS.iter().enumerate() {
            let (v4, v6) = (
                format!("10.{}.0.0/24", 9 + number),
                format!("fd00:{}::/64", 9 + number),
            );
            let create = ["network", "create", "--attachable", "--subnet", &v4];
            cluster.ask(0, &[&create[..], &["--subnet", &v6, network]].concat())?;
        }
        let flows = flows::start(&cluster)?;
        for host in (0..HOSTS).filter(|host| is_kernel(*host)) {
            tables::add_foreign(&mut cluster, host)?;
        }
        let service = format!("service create -d --name {SERVICE} --replicas 2");
        let more = ["--network", NETWORKS[1], "--", OVERLAY, "sleep", "86400"];
        cluster.ask(0, &words(&service, &more))?;
        let mut world = Self {
            cluster,
            random: Seed::from_u64(seed).rng(),
            programs: (0..PROGRAMS)
                .map(|number| Program::new(format!("prog{number}")))
                .collect(),
            flows,
            faults: Faults::default(),
            tally: Tally::new(),
            service: None,
            replicas: 2,
            drained: None,
            seen: BTreeSet::new(),
            pings: Losses::default(),
            refused: 0,
        };
        world.settle()?;
        Ok(world)
    }

    /// Rounds until the time is over.
    pub(crate) fn run(&mut self, duration: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < duration {
            let round = Instant::now();
            while round.elapsed() < ROUND && began.elapsed() < duration {
                self.step()?;
                let pause = self
                    .random
                    .duration(Duration::from_millis(20)..Duration::from_millis(250));
                self.wait(pause)?;
            }
            self.settle()?;
            self.repairs()?;
            self.losses()?;
        }
        Ok(())
    }

    pub(crate) fn summary(&self) -> String {
        let Losses {
            answered,
            excused,
            unexplained,
        } = &self.pings;
        format!(
            "{}  {} orders refused while something was wrong\n  {answered} pings answered, {excused} lost to faults that concern them, {} to none: {unexplained:?}",
            self.tally,
            self.refused,
            unexplained.len()
        )
    }

    pub(crate) fn history(&self) -> String {
        self.tally.history()
    }

    /// Lets time pass, in which orders go on and faults end.
    fn wait(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        loop {
            self.go_on(false)?;
            if Instant::now() >= until {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Goes on with what was begun.
    fn go_on(&mut self, heal_all: bool) -> anyhow::Result<()> {
        if INTERRUPTED.load(Ordering::SeqCst) {
            bail!("interrupted");
        }
        for healed in self.faults.heal(&mut self.cluster, heal_all)? {
            self.tally.note(&healed);
        }
        for program in &mut self.programs {
            match program.poll(&self.cluster)? {
                Progress::Idle | Progress::Busy => {}
                Progress::Done(words) => self.tally.note(&format!("done: {words}")),
                Progress::Refused { said, began } => {
                    self.tally.note(&format!("refused: {said}"));
                    ensure!(
                        !self.faults.quiet_since(began, AFTERMATH),
                        "refused although nothing was wrong: {said}"
                    );
                    self.refused += 1;
                }
            }
        }
        if let Some(service) = &mut self.service
            && let Some((status, said)) = service.poll()?
        {
            let words = service.words.join(" ");
            self.tally
                .note(&format!("`{words}`: {status} {}", said.trim()));
            self.service = None;
        }
        Ok(())
    }

    /// Does one thing by chance.
    fn step(&mut self) -> anyhow::Result<()> {
        match self.random.below(100) {
            0..45 => self.order(),
            45..53 => self.order_service(),
            53..68 => {
                let begun = self.faults.begin(&mut self.cluster, &mut self.random)?;
                if let Some((kind, what)) = begun {
                    self.tally.count(kind, &what);
                }
                Ok(())
            }
            68..86 => {
                let host = 2 * self.random.index(HOSTS / 2).unwrap_or_default();
                self.damage_switch(host).map(drop)
            }
            _ => self.damage_endpoint().map(drop),
        }
    }

    /// Orders a program to come, go, move, or change its networks.
    fn order(&mut self) -> anyhow::Result<()> {
        let busy = self.programs.iter().filter(|one| !one.is_idle());
        if busy.count() >= ORDERS_MAX {
            return Ok(());
        }
        let at = self.random.index(PROGRAMS).unwrap_or_default();
        let (host, network) = (self.random.index(HOSTS), self.random.index(NETWORKS.len()));
        let (host, network) = (host.unwrap_or_default(), network.unwrap_or_default());
        let choice = self.random.below(10);
        let program = &mut self.programs[at];
        if !program.is_idle() {
            return Ok(());
        }
        let mut networks = BTreeSet::from([network]);
        let (kind, steps) = match &program.place {
            None => {
                if choice < 4 {
                    networks.extend(0..NETWORKS.len());
                }
                ("attach", vec![Step::Run(Place { host, networks })])
            }
            Some(_) if choice < 3 => ("detach", vec![Step::Remove]),
            Some(place) if choice < 7 => {
                let networks = place.networks.clone();
                let run = Step::Run(Place { host, networks });
                ("move", vec![Step::Remove, run])
            }
            Some(place) if !place.networks.contains(&network) => {
                ("network connect", vec![Step::Connect(network)])
            }
            Some(place) if place.networks.len() > 1 => {
                ("network disconnect", vec![Step::Disconnect(network)])
            }
            Some(_) => return Ok(()),
        };
        self.tally
            .count(kind, &format!("{} {steps:?}", program.name));
        program.order(steps);
        Ok(())
    }

    /// Scales the service, or lets its tasks leave a host.
    fn order_service(&mut self) -> anyhow::Result<()> {
        if self.service.is_some() {
            return Ok(());
        }
        let by = self.random.index(HOSTS - 1).unwrap_or_default();
        let (kind, line) = match (self.random.below(3), self.drained) {
            (0, None) => {
                let host = self.random.index(HOSTS).unwrap_or_default();
                self.drained = Some(host);
                let line = format!("node update --availability drain {}", name(host));
                ("drain", line)
            }
            (0, Some(host)) => {
                self.drained = None;
                let line = format!("node update --availability active {}", name(host));
                ("drain ended", line)
            }
            _ => {
                self.replicas = self.random.below(TASKS_MAX + 1);
                let line = format!("service scale -d {SERVICE}={}", self.replicas);
                ("scale", line)
            }
        };
        self.tally.count(kind, &line);
        let words = line.split(' ').map(str::to_owned).collect();
        self.service = Some(Running::start(&self.cluster, by, words)?);
        Ok(())
    }

    fn damage_switch(&mut self, host: usize) -> anyhow::Result<bool> {
        let damaged = damage::switch(&mut self.cluster, host, &mut self.random)?;
        let Some(damage) = damaged else {
            return Ok(false);
        };
        self.faults.once(damage.concern, &damage.what);
        self.tally.count(damage.kind, &damage.what);
        Ok(true)
    }

    fn damage_endpoint(&mut self) -> anyhow::Result<bool> {
        let at = self.random.index(PROGRAMS).unwrap_or_default();
        let program = &self.programs[at];
        let Some(place) = program.place.as_ref().filter(|_| program.is_idle()) else {
            return Ok(false);
        };
        if !self.faults.answers(place.host) {
            return Ok(false);
        }
        let (host, random) = (place.host, &mut self.random);
        let damage = damage::endpoint(&self.cluster, host, &program.name, random)?;
        self.tally.count(damage.kind, &damage.what);
        Ok(true)
    }

    /// Ends all faults and orders, and waits until all is as desired everywhere.
    fn settle(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        self.tally.note("heal everything");
        self.go_on(true)?;
        let healed = Instant::now();
        while self.service.is_some() || self.programs.iter().any(|one| !one.is_idle()) {
            self.go_on(true)?;
            self.resolve()?;
            std::thread::sleep(Duration::from_millis(10));
            ensure!(
                began.elapsed() < 3 * SETTLING_TIME_MAX,
                "orders did not end"
            );
        }
        self.assert_service()?;
        let desired = self.until("all as desired", SETTLING_TIME_MAX, Self::is_as_desired)?;
        self.tally.took(
            "from the end of all faults and orders to tables as desired",
            healed.elapsed(),
        );
        let gone = self.gone(&desired);
        let checked = Instant::now();
        self.until("everybody reached", SETTLING_TIME_MAX, |world| {
            checks::reach(&world.cluster, &desired, &gone)
        })?;
        self.tally.took(
            "from there until everybody reaches everybody",
            checked.elapsed(),
        );
        self.seen.extend(desired.endpoints.iter().cloned());
        self.tally.count("check", "all as desired");
        Ok(())
    }

    /// Programs of which it is not known what became of them are removed.
    fn resolve(&mut self) -> anyhow::Result<()> {
        for at in 0..self.programs.len() {
            if !self.programs[at].doubtful {
                continue;
            }
            let called = self.programs[at].name.clone();
            for host in 0..HOSTS {
                let listed = self.cluster.list(host, &["ps", "-a"])?;
                if listed.iter().any(|row| row["Names"] == *called) {
                    let removed = self.cluster.run(host, &["rm", "-f", &called])?;
                    if !removed.status.success() {
                        let said = String::from_utf8_lossy(&removed.stderr).into_owned();
                        self.tally.note(&format!("rm -f {called}: {}", said.trim()));
                        return Ok(());
                    }
                }
            }
            self.tally
                .note(&format!("removed {called}, whatever became of it"));
            let program = &mut self.programs[at];
            (program.place, program.doubtful) = (None, false);
        }
        Ok(())
    }

    /// Says again what was last said of the service: it may have been refused.
    fn assert_service(&mut self) -> anyhow::Result<()> {
        let scale = format!("service scale -d {SERVICE}={}", self.replicas);
        let mut lines = vec![scale];
        for host in 0..HOSTS {
            let state = match self.drained == Some(host) {
                true => "drain",
                false => "active",
            };
            lines.push(format!("node update --availability {state} {}", name(host)));
        }
        for line in lines {
            self.until(&line.clone(), SETTLING_TIME_MAX, |world| {
                world.cluster.ask(0, &words(&line, &[]))
            })?;
        }
        Ok(())
    }

    /// Tables, and what is left, on all hosts.
    fn is_as_desired(&mut self) -> anyhow::Result<Desired> {
        let desired = Desired::ask(&self.cluster, 0)?;
        let flows: BTreeMap<_, _> = self
            .flows
            .iter()
            .map(|flow| (flow.name(), flow.from))
            .collect();
        let replicas = usize::try_from(self.replicas)?;
        checks::state(&desired, &self.programs, &flows, replicas)?;
        if let Some(drained) = self.drained {
            let mut there = desired.at(drained);
            ensure!(
                !there.any(|one| one.name.starts_with(&format!("{SERVICE}."))),
                "tasks on a drained host"
            );
        }
        let gone = self.gone(&desired);
        checks::tables(&mut self.cluster, &desired, &gone)?;
        checks::leftovers(&mut self.cluster, &desired, &self.programs)?;
        Ok(desired)
    }

    /// Endpoints that were, with those addresses that nobody else has now.
    fn gone(&self, desired: &Desired) -> Vec<Endpoint> {
        let alive: BTreeSet<&str> = desired.endpoints.iter().map(|one| &*one.name).collect();
        let used: BTreeSet<_> = desired
            .endpoints
            .iter()
            .flat_map(|one| &one.addresses)
            .collect();
        let macs: BTreeSet<_> = desired.endpoints.iter().map(|one| &one.mac).collect();
        let gone = self.seen.iter().filter(|one| {
            !alive.contains(&*one.name)
                && !macs.contains(&one.mac)
                && !one.addresses.iter().any(|address| used.contains(address))
        });
        gone.cloned().collect()
    }

    /// Damages one thing after the other, and sees how long it takes until nothing is to be seen of it.
    fn repairs(&mut self) -> anyhow::Result<()> {
        for host in (0..HOSTS).filter(|host| is_kernel(*host)) {
            if self.damage_switch(host)? {
                let began = Instant::now();
                self.until("the repair", REPAIR_TIME_MAX, Self::is_as_desired)?;
                self.tally
                    .took("from a damage in a switch to its repair", began.elapsed());
            }
        }
        // Not every program runs.
        for _ in 0..PROGRAMS {
            if !self.damage_endpoint()? {
                continue;
            }
            let began = Instant::now();
            self.until("the repair", REPAIR_TIME_MAX, Self::is_as_desired)?;
            self.tally.took(
                "from a damage in an endpoint to its repair",
                began.elapsed(),
            );
        }
        Ok(())
    }

    /// Hardly a ping is lost to nothing: a machine that is busy with other things may lose a few.
    fn losses(&mut self) -> anyhow::Result<()> {
        self.pings = Losses::default();
        for flow in &self.flows {
            let losses = flow.losses(&self.cluster, self.faults.windows())?;
            self.pings.add(losses);
        }
        let allowed = ALLOWED_LOSSES + self.pings.answered / ALLOWED_LOSSES_ONE_IN;
        ensure!(
            self.pings.unexplained.len() <= allowed,
            "lost what no fault explains: {:#?}; faults: {:#?}",
            self.pings.unexplained,
            self.faults
                .windows()
                .iter()
                .rev()
                .take(30)
                .collect::<Vec<_>>()
        );
        Ok(())
    }

    /// Tries until it succeeds.
    fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut attempt: impl FnMut(&mut Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        loop {
            if INTERRUPTED.load(Ordering::SeqCst) {
                bail!("interrupted");
            }
            match attempt(self) {
                Ok(done) => return Ok(done),
                Err(error) if began.elapsed() > limit => {
                    return Err(error).with_context(|| format!("{what}, within {limit:?}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}
