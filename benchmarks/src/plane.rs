//! The data plane between two hosts in network namespaces, beside the kernel's own VXLAN and packaged tunnels, in one run.
//!
//! Needs root, `ip`, `iperf3` and `ping`, and the program built by `cargo build --release`; peers that are not installed are
//! left out, and said to be.

#![expect(clippy::disallowed_methods, reason = "real time is what is measured")]

mod host;
mod load;
mod plain;
mod setups;

use std::{
    env, io,
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
    time::Duration,
};

use self::{
    host::{Running, has, run_all, until},
    load::Load,
    setups::{Ours, Setup},
};

/// What is measured of each way, the words for it, and what ours in user space shall reach.
const FIGURES: [(&str, Figure, &str); 6] = [
    ("TCP, Gbit/s", Figure::Tcp, ">= 0.45 x"),
    ("UDP 64 B, kpps", Figure::Udp("plain:64"), ">= 1 x"),
    ("UDP 1400 B, kpps", Figure::Udp("plain:1400"), ">= 1 x"),
    ("in trains, kpps", Figure::Udp("train:1400"), ">= 500"),
    ("RTT min, us", Figure::Ping { least: true }, "<= raw + 30"),
    ("RTT mean, us", Figure::Ping { least: false }, "<= raw + 60"),
];

#[derive(Clone, Copy)]
enum Figure {
    Tcp,
    Udp(&'static str),
    Ping { least: bool },
}

/// Prints the table of `rounds` rounds; each goes over all ways, so that what disturbs one disturbs all.
pub fn run(rounds: usize) -> io::Result<()> {
    // The kernel's first: the others are compared with it.
    let mut setups = vec![setups::kernel()?, setups::raw()?];
    let ours = Ours::start("ours", "o", &[])?;
    let mut attach = Vec::new();
    for round in 0..=rounds {
        let took = ours.attach_and_ping(round)?;
        // The first one begins the network on both hosts.
        if round > 0 {
            attach.push(took.as_secs_f64() * 1e3);
        }
    }
    setups.push(ours.setup()?);
    let polling = Ours::start("ours, --busy-poll 50", "ob", &["--busy-poll", "50"])?;
    setups.push(polling.setup()?);
    let in_kernel = Ours::start("ours, --data-path kernel", "ok", &["--data-path", "kernel"])?;
    setups.push(in_kernel.setup()?);
    setups.push(setups::plain()?);
    for (program, make) in [
        ("ovs-vswitchd", setups::ovs as fn() -> io::Result<Setup>),
        ("openvpn", setups::openvpn),
    ] {
        if !has(program) {
            println!("without {program}, which is not installed");
            continue;
        }
        match make() {
            Ok(setup) => setups.push(setup),
            Err(error) => println!("without {program}: {error}"),
        }
    }
    let mut seen = vec![vec![Vec::new(); FIGURES.len()]; setups.len()];
    for round in 0..rounds {
        for (setup, seen) in setups.iter().zip(&mut seen) {
            for ((_, figure, _), seen) in FIGURES.iter().zip(seen) {
                let measured = figure.measure(setup)?;
                seen.push(measured);
                eprint!(".");
            }
        }
        eprintln!(" round {} of {rounds}", round + 1);
    }
    print(&setups, &mut seen, &mut attach);
    Ok(())
}

/// Prints medians, and what they are of the kernel's.
fn print(setups: &[Setup], seen: &mut [Vec<Vec<f64>>], attach: &mut [f64]) {
    print!("{:26}", "");
    for (name, ..) in FIGURES {
        print!("{name:>18}");
    }
    println!();
    let mut kernel = [f64::NAN; FIGURES.len()];
    for (setup, seen) in setups.iter().zip(seen) {
        let medians: Vec<_> = seen.iter_mut().map(|of| median(of)).collect();
        if setup.name == setups::KERNEL {
            kernel.copy_from_slice(&medians);
        }
        print!("{:26}", setup.name);
        for (value, kernel) in medians.iter().zip(kernel) {
            print!("{:>18}", format!("{value:.2} ({:.2} x)", value / kernel));
        }
        println!();
    }
    print!("{:26}", "reach of ours");
    for (.., reach) in FIGURES {
        print!("{reach:>18}");
    }
    println!();
    println!(
        "x: of the kernel's in the same run, medians; TCP also >= 5 times the best of the tunnels below it"
    );
    println!(
        "attach an endpoint, to one ping by name from another host: {:.0} ms, worst {:.0} ms (reach 150)",
        median(attach),
        attach.last().copied().unwrap_or_default()
    );
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Figure {
    fn measure(self, setup: &Setup) -> io::Result<f64> {
        match self {
            Self::Tcp => tcp(setup),
            Self::Udp(load) => udp(setup, load),
            Self::Ping { least } => ping(setup, least),
        }
    }
}

fn line(prefix: &[String], line: &str) -> Vec<String> {
    let words = line.split_whitespace().map(str::to_owned);
    prefix.iter().cloned().chain(words).collect()
}

fn tcp(setup: &Setup) -> io::Result<f64> {
    let _server = Running::start(&line(&setup.server, "iperf3 -s -1"))?;
    let client = format!("iperf3 -f m -t {SECONDS} -c {}", setup.address);
    let said = until(|| run_all(&line(&setup.client, &client)))?;
    let receiver = said.lines().rev().find(|line| line.contains("receiver"));
    let words: Vec<_> = receiver.unwrap_or_default().split_whitespace().collect();
    let unit = words.iter().position(|word| *word == "Mbits/sec");
    let rate = unit.and_then(|at| words.get(at.checked_sub(1)?)?.parse::<f64>().ok());
    rate.map(|rate| rate / 1e3)
        .ok_or_else(|| io::Error::other(said))
}

/// Sends from this program's own binary, started beside the containers.
fn udp(setup: &Setup, load: &str) -> io::Result<f64> {
    let own = env::current_exe()?.display().to_string();
    let at = format!("{}:5999", setup.address);
    let words = line(&setup.server, &format!("{own} plane-receive {load} {at}"));
    let mut receiver = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(receiver.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
    said.read_line(&mut String::new())?;
    let sender = format!("{own} plane-send {load} {at} {SECONDS}");
    run_all(&line(&setup.client, &sender))?;
    let mut rate = String::new();
    said.read_to_string(&mut rate)?;
    receiver.wait()?;
    let rate = rate.trim().parse::<f64>();
    rate.map(|rate| rate / 1e3).map_err(io::Error::other)
}

fn ping(setup: &Setup, least: bool) -> io::Result<f64> {
    let command = format!("ping -q -c 500 -i 0.002 {}", setup.address);
    let said = run_all(&line(&setup.client, &command))?;
    let numbers = said.lines().rev().find_map(|line| line.split(" = ").nth(1));
    let field = numbers.and_then(|numbers| numbers.split('/').nth(usize::from(!least)));
    let rate = field.and_then(|field| field.parse::<f64>().ok());
    rate.map(|ms| ms * 1e3)
        .ok_or_else(|| io::Error::other(said))
}

/// What a container does for [`run`]; not for people.
pub fn send(arguments: &[String]) -> io::Result<()> {
    let [load, to, seconds] = arguments else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let load = Load::parse(load).ok_or(io::ErrorKind::InvalidInput)?;
    let to = to.parse().map_err(io::Error::other)?;
    let seconds = seconds.parse().map_err(io::Error::other)?;
    load::send(to, load, Duration::from_secs(seconds))
}

/// What a host does for [`run`]; not for people.
pub fn carry(arguments: &[String]) -> io::Result<()> {
    let [name, local, peer] = arguments else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    plain::carry(name, local, peer)
}

/// What a container does for [`run`]; not for people.
pub fn receive(arguments: &[String]) -> io::Result<()> {
    let [load, at] = arguments else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let load = Load::parse(load).ok_or(io::ErrorKind::InvalidInput)?;
    load::receive(at.parse().map_err(io::Error::other)?, load)
}

/// How often each way is measured if nobody says.
pub const ROUNDS: usize = 3;
/// How long each load is put on.
const SECONDS: u64 = 2;
