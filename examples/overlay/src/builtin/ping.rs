//! `ping`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, ToSocketAddrs as _},
    time::{Duration, Instant},
};

use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep_until,
};

use super::echo::{Answer, EchoSocket, PAYLOAD_BYTES};
use crate::cli::{Failure, print};

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    /// Stop after this many requests
    #[arg(short, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Seconds to wait for the last replies
    #[arg(short = 'W', value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    wait: Duration,
    /// Seconds between two requests
    #[arg(short, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    /// Only print the summary
    #[arg(short)]
    quiet: bool,
    /// Use IPv4 only
    #[arg(short = '4', conflicts_with = "v6")]
    v4: bool,
    /// Use IPv6 only
    #[arg(short = '6')]
    v6: bool,
    /// Name or address
    host: String,
}

const INTERVAL_MIN: Duration = Duration::from_millis(2);
/// Requests that may be open at once; older ones count as lost.
const OPEN_MAX: usize = 4_096;

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("expected seconds, found `{text}`"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Pings; 0 if anything was answered, 1 if nothing, 2 if it could not be tried.
pub(super) async fn run(args: PingArgs) -> Result<u8, Failure> {
    let failure = |what: &dyn std::fmt::Display| {
        Failure::new(format_args!("ping: {}: {what}", args.host)).with_code(2)
    };
    let host = resolve(&args).map_err(|error| failure(&error))?;
    // The low bits of the process's number: two pings of one namespace differ.
    let identifier = u16::try_from(std::process::id() & 0xffff).unwrap_or_default();
    let socket = EchoSocket::open(host, identifier).map_err(|error| failure(&error))?;
    let on_wire = PAYLOAD_BYTES + 8 + if host.is_ipv4() { 20 } else { 40 };
    print(&format!(
        "PING {} ({host}) {PAYLOAD_BYTES}({on_wire}) bytes of data.\n",
        args.host
    ));
    let mut run = Run::new(&args, Instant::now());
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failure(&error))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failure(&error))?;
    while let Some(deadline) = run.deadline() {
        tokio::select! {
            answer = socket.receive() => match answer {
                Ok(answer) => run.take(answer, Instant::now()),
                // The kernel hands on what an earlier request met, such as an unreachable host.
                Err(error) => run.complain(&error),
            },
            () = sleep_until(deadline.into()) => run.due(&socket, Instant::now()),
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    print(&run.summary(Instant::now()));
    Ok(u8::from(run.times.is_empty()))
}

fn resolve(args: &PingArgs) -> Result<IpAddr, String> {
    let fits = |address: &IpAddr| match address {
        IpAddr::V4(_) => !args.v6,
        IpAddr::V6(_) => !args.v4,
    };
    let found = (args.host.as_str(), 0)
        .to_socket_addrs()
        .map_err(|error| format!("name or service not known ({error})"))?;
    let mut found: Vec<IpAddr> = found.map(|address| address.ip()).filter(fits).collect();
    found.sort_by_key(IpAddr::is_ipv6);
    found
        .first()
        .copied()
        .ok_or_else(|| "has no address of this version".to_owned())
}

/// What was sent and what came back.
struct Run<'a> {
    args: &'a PingArgs,
    started: Instant,
    next: Instant,
    sent: u32,
    open: BTreeMap<u32, Instant>,
    times: Vec<Duration>,
    errors: u32,
}

impl<'a> Run<'a> {
    fn new(args: &'a PingArgs, now: Instant) -> Self {
        let (open, times) = (BTreeMap::new(), Vec::new());
        Self {
            args,
            started: now,
            next: now,
            sent: 0,
            open,
            times,
            errors: 0,
        }
    }

    fn all_sent(&self) -> bool {
        self.args.count.is_some_and(|count| self.sent >= count)
    }

    /// When something is to be done next; `None` when all is over.
    fn deadline(&self) -> Option<Instant> {
        if !self.all_sent() {
            return Some(self.next);
        }
        let last = self.open.values().next_back()?;
        Some(*last + self.args.wait)
    }

    fn due(&mut self, socket: &EchoSocket, now: Instant) {
        if self.all_sent() {
            self.open.clear();
            return;
        }
        self.sent += 1;
        self.next = now + self.args.interval.max(INTERVAL_MIN);
        self.open.insert(self.sent, now);
        if self.open.len() > OPEN_MAX {
            self.open.pop_first();
        }
        if let Err(error) = socket.send(low_bits(self.sent)) {
            self.open.remove(&self.sent);
            self.complain(&error);
        }
    }

    fn take(&mut self, answer: Answer, now: Instant) {
        let (Answer::Reply { sequence, .. } | Answer::Unreachable { sequence, .. }) = answer;
        let mut open = self.open.keys().rev();
        let Some(number) = open.find(|number| low_bits(**number) == sequence).copied() else {
            return;
        };
        let Some(sent) = self.open.remove(&number) else {
            return;
        };
        match answer {
            Answer::Reply {
                from, ttl, length, ..
            } => {
                let time = now.saturating_duration_since(sent);
                self.times.push(time);
                let ttl = ttl.map_or_else(String::new, |ttl| format!(" ttl={ttl}"));
                let time = milliseconds(time);
                self.tell(&format!(
                    "{length} bytes from {from}: icmp_seq={number}{ttl} time={time} ms\n"
                ));
            }
            Answer::Unreachable { from, .. } => {
                self.errors += 1;
                self.tell(&format!(
                    "From {from} icmp_seq={number} Destination Unreachable\n"
                ));
            }
        }
    }

    fn complain(&mut self, error: &std::io::Error) {
        self.errors += 1;
        self.tell(&format!("icmp_seq={} {error}\n", self.sent));
    }

    fn tell(&self, line: &str) {
        if !self.args.quiet {
            print(line);
        }
    }

    fn summary(&self, now: Instant) -> String {
        let (received, elapsed) = (
            self.times.len(),
            now.saturating_duration_since(self.started),
        );
        let lost = u64::from(self.sent) - received as u64;
        let errors = match self.errors {
            0 => String::new(),
            errors => format!(", +{errors} errors"),
        };
        let mut text = format!(
            "\n--- {} ping statistics ---\n{} packets transmitted, {received} received{errors}, {}% packet loss, time {}ms\n",
            self.args.host,
            self.sent,
            lost * 100 / u64::from(self.sent.max(1)),
            elapsed.as_millis()
        );
        if let (Some(min), Some(max)) = (self.times.iter().min(), self.times.iter().max()) {
            let count = u32::try_from(received).unwrap_or(u32::MAX);
            let average = self.times.iter().sum::<Duration>() / count;
            let deviations = self
                .times
                .iter()
                .map(|time| time.abs_diff(average).as_secs_f64());
            let variance = deviations
                .map(|deviation| deviation * deviation)
                .sum::<f64>();
            let deviation = Duration::from_secs_f64((variance / f64::from(count)).sqrt());
            let fields = [*min, average, *max, deviation].map(milliseconds).join("/");
            writeln!(text, "rtt min/avg/max/mdev = {fields} ms")
                .expect("writing to a string cannot fail");
        }
        text
    }
}

fn low_bits(number: u32) -> u16 {
    u16::try_from(number & 0xffff).unwrap_or_default()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1_000.0)
}
