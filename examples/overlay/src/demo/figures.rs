//! What a cluster takes: time to notice and to heal, time of a write, memory. Measured, not judged.

mod samples;

use std::{
    fs,
    path::PathBuf,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    cluster::{Cluster, NAMES, leader},
    interrupt::Interrupt,
    steps::Steps,
};
use samples::{Amount, Samples};

/// Measures `rounds` times and prints the table.
pub(super) fn measure(
    steps: &mut Steps,
    interrupt: &Interrupt,
    exe: PathBuf,
    rounds: u32,
) -> anyhow::Result<()> {
    let load = load();
    let mut figures = Figures::new();
    Cluster::with(steps, interrupt, exe, |cluster, steps| {
        cluster.make(steps)?;
        (1..=rounds).try_for_each(|round| figures.round(cluster, steps, round))
    })?;
    steps.done();
    steps.note(&format!(
        "{} build, {} processors, load average {load} before, {} after",
        if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
        thread::available_parallelism().map_or(0, usize::from),
        self::load()
    ));
    steps.table(&samples::table(&figures.all()));
    steps.table(&format!("\n{HELP}\n"));
    Ok(())
}

/// All that is measured.
struct Figures {
    write: Samples,
    down: Samples,
    name_gone: Samples,
    healed: Samples,
    create_on_leader: Samples,
    create_on_follower: Samples,
    memory: Samples,
}

impl Figures {
    fn new() -> Self {
        let seconds = |what, milliseconds| {
            Samples::new(what, Amount::Time(Duration::from_millis(milliseconds)))
        };
        Self {
            write: seconds("1  leader cut off: next write", 1_500),
            down: seconds("2a node cut off: shown Down", 3_000),
            name_gone: seconds("2b node cut off: name gone", 3_000),
            healed: seconds("3  link healed: reached by name", 2_000),
            create_on_leader: seconds("4a network create, on the leader", 10),
            create_on_follower: seconds("4b network create, on a follower", 10),
            memory: Samples::new("5  memory of an idle manager", Amount::Octets(15_000_000)),
        }
    }

    fn all(&self) -> [&Samples; 7] {
        [
            &self.write,
            &self.down,
            &self.name_gone,
            &self.healed,
            &self.create_on_leader,
            &self.create_on_follower,
            &self.memory,
        ]
    }

    fn round(
        &mut self,
        cluster: &mut Cluster<'_>,
        steps: &mut Steps,
        round: u32,
    ) -> anyhow::Result<()> {
        let leads = steps.step(&format!("round {round}: idle"), || {
            let leads = cluster.whole()?;
            cluster.interrupt.pause(IDLE)?;
            let found = (0..cluster.hosts.len()).map(|host| cluster.memory(host));
            let found: Vec<_> = found.collect::<Result<_, _>>()?;
            let own = found.iter().map(|(_, own)| own.to_string());
            let own = own.collect::<Vec<_>>().join(", ");
            let all = self.memory.add(found.into_iter().map(|(all, _)| all));
            Ok((leads, format!("{all}; of it not mapped from files: {own}")))
        })?;
        let follows = (leads + 1) % cluster.hosts.len();
        for (host, role, samples) in [
            (leads, "leader", &mut self.create_on_leader),
            (follows, "follower", &mut self.create_on_follower),
        ] {
            let what = format!("round {round}: network create, on the {role}");
            steps.step(&what, || {
                let times = cluster.create(host, round)?;
                Ok(((), samples.add(times)))
            })?;
        }
        self.cut(cluster, steps, round, true)?;
        self.cut(cluster, steps, round, false)
    }

    /// Cuts the leader or a follower off, looks from another host, and heals.
    fn cut(
        &mut self,
        cluster: &mut Cluster<'_>,
        steps: &mut Steps,
        round: u32,
        the_leader: bool,
    ) -> anyhow::Result<()> {
        let leads = cluster.whole()?;
        cluster.interrupt.pause(IDLE)?;
        let hosts = cluster.hosts.len();
        let lost = if the_leader {
            leads
        } else {
            (leads + 1) % hosts
        };
        // Neither the leader, which knows first, nor the one that is lost.
        let asked = (leads + 2) % hosts;
        let (name, role) = (
            cluster.hosts[lost].name.clone(),
            if the_leader { "leader" } else { "follower" },
        );
        let what = format!("round {round}: {name}, {role}, is cut off");
        steps.step(&what, || {
            let began = Instant::now();
            cluster.lab.set_link(lost, false)?;
            let mut text = String::new();
            if the_leader {
                let wrote = cluster.write(asked, round, began)?;
                text = format!("write {}, ", self.write.add([wrote]));
            }
            let (down, gone) = cluster.lose(asked, lost, began)?;
            let (down, gone) = (self.down.add([down]), self.name_gone.add([gone]));
            Ok(((), format!("{text}Down {down}, name gone {gone}")))
        })?;
        steps.step(&format!("round {round}: {name} is back"), || {
            cluster.lab.set_link(lost, true)?;
            let began = Instant::now();
            cluster.eventually(&format!("an answer of {}", NAMES[lost]), || {
                let answered = cluster.ping_once(asked, lost)?.status.success();
                Ok(answered.then_some(()))
            })?;
            Ok(((), self.healed.add([Amount::Time(began.elapsed())])))
        })
    }
}

impl Cluster<'_> {
    /// Waits until every node sees every node ready, every manager reachable and the same leader; returns the leader.
    fn whole(&self) -> anyhow::Result<usize> {
        self.eventually("a cluster that is whole", || {
            let mut leaders = Vec::new();
            for host in 0..self.hosts.len() {
                let nodes = self.nodes(host)?;
                let fine = |node: &&serde_json::Value| {
                    node["Status"] == "Ready"
                        && (node["ManagerStatus"] == "Leader"
                            || node["ManagerStatus"] == "Reachable")
                };
                if nodes.iter().filter(fine).count() != self.hosts.len() {
                    return Ok(None);
                }
                leaders.extend(leader(&nodes));
            }
            leaders.dedup();
            let [name] = &leaders[..] else {
                return Ok(None);
            };
            Ok(self.hosts.iter().position(|host| host.name == *name))
        })
    }

    /// Reads how much of a daemon is in memory: all of it, and without what is mapped from files such as the program.
    fn memory(&self, host: usize) -> anyhow::Result<(Amount, Amount)> {
        let daemon = self.hosts[host].daemon.as_ref();
        let daemon = daemon.context("it has no daemon")?.id();
        let path = format!("/proc/{daemon}/status");
        let status = fs::read_to_string(&path).with_context(|| path.clone())?;
        let read = |key: &str| {
            let found = status.lines().find_map(|line| line.strip_prefix(key));
            let kibibytes = found.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok());
            let kibibytes: u64 = kibibytes.with_context(|| format!("{path} has no {key}"))?;
            anyhow::Ok(Amount::Octets(kibibytes * 1_024))
        };
        Ok((read("VmRSS:")?, read("RssAnon:")?))
    }

    /// Creates networks, one after the other, and removes them again.
    fn create(&self, host: usize, round: u32) -> anyhow::Result<Vec<Amount>> {
        let name = |number: u32| format!("figure-{round}-{host}-{number}");
        let mut times = Vec::new();
        for number in 0..CREATES {
            let began = Instant::now();
            self.ask(host, &["network", "create", &name(number)])?;
            times.push(Amount::Time(began.elapsed()));
        }
        for number in 0..CREATES {
            self.ask(host, &["network", "rm", &name(number)])?;
        }
        Ok(times)
    }

    /// Tries until a write is acknowledged.
    fn write(&self, asked: usize, round: u32, began: Instant) -> anyhow::Result<Amount> {
        let mut attempts = 0;
        self.eventually("an acknowledged write", || {
            attempts += 1;
            // A name of its own each time: one that was not acknowledged may have happened.
            let name = format!("after-{round}-{attempts}");
            self.ask(asked, &["network", "create", &name])?;
            Ok(Some(Amount::Time(began.elapsed())))
        })
    }

    /// Waits until a host that is lost is shown as down, and the name of its program is gone.
    fn lose(&self, asked: usize, lost: usize, began: Instant) -> anyhow::Result<(Amount, Amount)> {
        let (mut down, mut gone) = (None, None);
        self.eventually("the loss of a node", || {
            if down.is_none() {
                let nodes = self.nodes(asked)?;
                let name = &self.hosts[lost].name;
                let mut lost = nodes.iter().filter(|node| node["Hostname"] == **name);
                let found = lost.any(|node| node["Status"] == "Down");
                down = found.then(|| Amount::Time(began.elapsed()));
            }
            if gone.is_none() {
                let found = is_unknown(&self.ping_once(asked, lost)?);
                let at = began.elapsed();
                // The server itself is still asked with success.
                let found = found && !is_unknown(&self.ping_once(asked, asked)?);
                gone = found.then_some(Amount::Time(at));
            }
            Ok(down.zip(gone))
        })
    }

    /// Resolves the name of a host's program on another host, and pings it once.
    fn ping_once(&self, from: usize, to: usize) -> anyhow::Result<Output> {
        let exe = self.exe.display().to_string();
        let ping = ["exec", NAMES[from], "--", &exe, "ping", "-c", "1"];
        self.run(
            from,
            &[&ping[..], &["-W", WAIT_SECONDS, NAMES[to]]].concat(),
        )
    }
}

/// Whether a ping had no address to send to, rather than no answer. An unknown name is asked upstream, where hosts of
/// the demo reach nobody: whether DNS says "no such name" or "not now" does not matter.
fn is_unknown(ping: &Output) -> bool {
    let said = String::from_utf8_lossy(&ping.stderr);
    ping.status.code() == Some(2) && said.contains("name or service not known")
}

/// The load average of the machine: of one, five and fifteen minutes.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let words: Vec<_> = text.split(' ').take(3).collect();
    words.join(" ")
}

/// What each figure is, for the help and under the table.
pub(super) const HELP: &str = "\
Each round, on three managers in network namespaces; times are looked at about every 10 ms, through the command line:
  1   from taking the leader's link down, its daemon left running, until a `network create` on another host has
      returned success; tried again and again, each attempt from start to end
  2a  from taking the link of a node (the leader, then a follower) down until `node ls` on another host says Down
  2b  from the same moment until DNS on that host, asked by a program there, has no address for the name of the lost
      node's program, and still has one for another name
  3   from the moment the link carries frames again until a program on another host has resolved the name and had one
      ping answered
  4   one `overlay network create` from exec to exit, process start included; 10 in a row on each host
  5   VmRSS of each of the three daemons after a second in which nothing was asked; 1 MB is 1,000,000 octets
Of an even number of samples the median is the greater of the two in the middle. The exit code does not depend on
the figures; it is 1 if something did not happen within 30 seconds.";

/// Nothing is asked for this long before what is measured.
const IDLE: Duration = Duration::from_secs(1);
/// Networks created in a row on a host, each round.
const CREATES: u32 = 10;
/// How long an answer to a single ping is waited for.
const WAIT_SECONDS: &str = "0.02";
