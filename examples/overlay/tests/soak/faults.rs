//! Hosts that are cut off, daemons that die, an underlay that has another MTU: for a while.

use std::time::{Duration, Instant, SystemTime};

use overlay_core::Rng;

use crate::{
    support::{Cluster, address, name},
    world::{self, HOSTS},
};

/// Faults that go on, and when there were others.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    active: Vec<Active>,
    windows: Vec<Window>,
}

#[derive(Debug)]
struct Active {
    host: usize,
    until: Instant,
    undo: Undo,
    window: usize,
}

#[derive(Clone, Copy, Debug)]
enum Undo {
    Link,
    Rules,
    Start,
    Mtu,
}

/// Whom a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Concern {
    /// All that goes to a host or comes from there.
    Host(usize),
    /// What goes between two hosts.
    Pair(usize, usize),
    /// Nobody's frames.
    Nobody,
}

/// When a fault was, in Unix time.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) from: f64,
    pub(crate) to: Option<f64>,
    pub(crate) concern: Concern,
    pub(crate) what: String,
}

/// How many faults there are at a time.
const ACTIVE_MAX: usize = 2;

impl Faults {
    /// Begins one by chance; returns its kind, and what it is.
    pub(crate) fn begin(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Rng,
    ) -> anyhow::Result<Option<(&'static str, String)>> {
        let host = random.index(HOSTS).unwrap_or_default();
        if self.active.len() >= ACTIVE_MAX || self.active.iter().any(|one| one.host == host) {
            return Ok(None);
        }
        let mut lasts = random.duration(Duration::from_millis(500)..Duration::from_secs(4));
        let other = (host + 1 + random.index(HOSTS - 1).unwrap_or_default()) % HOSTS;
        let at = name(host);
        let (kind, what, undo, concern) = match random.below(6) {
            0 => {
                cluster.lab.set_link(host, false)?;
                let what = format!("the link of {at} is down");
                ("partition of a host", what, Undo::Link, Concern::Host(host))
            }
            1 => {
                drop_traffic(cluster, host, "", true)?;
                let what = format!("{at} drops all traffic");
                (
                    "partition of a host",
                    what,
                    Undo::Rules,
                    Concern::Host(host),
                )
            }
            2 => {
                let (both, from) = (random.below(2) == 0, address(other));
                drop_traffic(cluster, host, &from.to_string(), both)?;
                let way = if both { "to and from" } else { "from" };
                let what = format!("{at} drops traffic {way} {}", name(other));
                let concern = Concern::Pair(host, other);
                ("partition between two hosts", what, Undo::Rules, concern)
            }
            3 => {
                cluster.kill(host)?;
                let what = format!("the daemon of {at}");
                // Others take a host for lost whose daemon is away for a second or two.
                let kind = "daemon killed, and missed by others";
                (kind, what, Undo::Start, Concern::Host(host))
            }
            4 => {
                cluster.kill(host)?;
                lasts = random.duration(Duration::ZERO..Duration::from_millis(200));
                // The kernel goes on.
                let concern = match world::is_kernel(host) {
                    true => Concern::Nobody,
                    false => Concern::Host(host),
                };
                let what = format!("the daemon of {at}");
                ("daemon killed and restarted", what, Undo::Start, concern)
            }
            _ => {
                set_mtu(cluster, host, 1_400)?;
                let what = format!("that of {at} is 1400");
                ("underlay MTU changed", what, Undo::Mtu, Concern::Nobody)
            }
        };
        let window = self.open(concern, &what);
        self.active.push(Active {
            host,
            until: Instant::now() + lasts,
            undo,
            window,
        });
        Ok(Some((kind, format!("{what}, for {lasts:.1?}"))))
    }

    /// Heals what is due, or all; returns what was healed.
    pub(crate) fn heal(&mut self, cluster: &mut Cluster, all: bool) -> anyhow::Result<Vec<String>> {
        let now = Instant::now();
        let mut healed = Vec::new();
        while let Some(at) = self.active.iter().position(|one| all || one.until <= now) {
            let Active {
                host, undo, window, ..
            } = self.active.remove(at);
            match undo {
                Undo::Link => cluster.lab.set_link(host, true)?,
                Undo::Rules => {
                    // Whoever flushed all rules meanwhile has flushed these.
                    let script = format!("add table inet {TABLE}; delete table inet {TABLE}");
                    cluster.on_host(host, &["nft", &script])?;
                }
                Undo::Start => cluster.start(host, world::options(host))?,
                Undo::Mtu => set_mtu(cluster, host, 1_500)?,
            }
            self.windows[window].to = Some(unix_now());
            healed.push(format!("healed: {}", self.windows[window].what));
        }
        Ok(healed)
    }

    /// Notes a fault that is over as soon as somebody repairs it.
    pub(crate) fn once(&mut self, concern: Concern, what: &str) {
        let window = self.open(concern, what);
        self.windows[window].to = Some(unix_now());
    }

    /// Whether a host's daemon runs.
    pub(crate) fn answers(&self, host: usize) -> bool {
        let mut active = self.active.iter();
        !active.any(|one| one.host == host && matches!(one.undo, Undo::Start))
    }

    /// Whether there has been no fault at all since a while before `began`.
    pub(crate) fn quiet_since(&self, began: Instant, before: Duration) -> bool {
        let since = unix_now() - (began.elapsed() + before).as_secs_f64();
        let mut windows = self.windows.iter();
        !windows.any(|one| one.to.is_none_or(|to| to > since))
    }

    pub(crate) fn windows(&self) -> &[Window] {
        &self.windows
    }

    fn open(&mut self, concern: Concern, what: &str) -> usize {
        self.windows.push(Window {
            from: unix_now(),
            to: None,
            concern,
            what: what.to_owned(),
        });
        self.windows.len() - 1
    }
}

impl Concern {
    /// Whether it is about what goes between two hosts.
    pub(crate) fn touches(self, one: usize, other: usize) -> bool {
        match self {
            Self::Host(host) => host == one || host == other,
            Self::Pair(first, second) => {
                (first, second) == (one, other) || (first, second) == (other, one)
            }
            Self::Nobody => false,
        }
    }
}

/// Rules of a host that drop what comes from a peer, or from all others, and maybe what goes there.
fn drop_traffic(cluster: &mut Cluster, host: usize, peer: &str, both: bool) -> anyhow::Result<()> {
    let of = |side: &str| match peer {
        "" => "meta iifname != \"lo\"".replace("iif", if side == "daddr" { "oif" } else { "iif" }),
        peer => format!("ip {side} {peer}"),
    };
    let mut script = format!("table inet {TABLE} {{\n");
    let hooks = [("input", "saddr"), ("output", "daddr")];
    for (hook, side) in hooks.iter().take(1 + usize::from(both)) {
        script.push_str(&format!(
            "chain {hook} {{ type filter hook {hook} priority -400; {} drop; }}\n",
            of(side)
        ));
    }
    script.push('}');
    cluster.on_host(host, &["nft", &script])
}

fn set_mtu(cluster: &mut Cluster, host: usize, mtu: u16) -> anyhow::Result<()> {
    let mtu = mtu.to_string();
    cluster.on_host(host, &["ip", "link", "set", "eth0", "mtu", &mtu])
}

pub(crate) fn unix_now() -> f64 {
    let since = SystemTime::UNIX_EPOCH.elapsed();
    since.unwrap_or_default().as_secs_f64()
}

/// The table of the rules that drop.
const TABLE: &str = "soak";
