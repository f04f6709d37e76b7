//! A small resolver: answers for the names of a hosts file, and forwards the rest.
//!
//! ```text
//! cargo run -p overlay-dns --features tokio --example hosts -- 127.0.0.1:5300 /etc/hosts 9.9.9.9
//! dig @127.0.0.1 -p 5300 localhost
//! ```
//!
//! The file is read again whenever it changes; the next answer has the new names.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program speaks to whoever started it"
)]

use std::{
    env, fs,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use overlay_core::{EndpointId, Instant, Machine, NetworkId, Seed};
use overlay_dns::{
    Config, Records, Resolver, View,
    driver::{Sockets, SocketsConfig},
};

/// Everybody who asks.
const CLIENT: EndpointId = EndpointId::from_bytes([0; 16]);
/// The one network that holds all names.
const NETWORK: NetworkId = NetworkId::from_bytes([0; 16]);
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some((listen, file, upstreams)) = parse(&arguments) else {
        eprintln!("usage: hosts ADDRESS:PORT FILE [UPSTREAM]...");
        return ExitCode::from(2);
    };
    match serve(listen, &file, upstreams).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hosts: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Option<(SocketAddr, PathBuf, Vec<SocketAddr>)> {
    let [listen, file, upstreams @ ..] = arguments else {
        return None;
    };
    let upstreams = upstreams
        .iter()
        .map(|text| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53)));
    let upstreams: Result<_, _> = upstreams.collect();
    Some((listen.parse().ok()?, file.into(), upstreams.ok()?))
}

async fn serve(
    listen: SocketAddr,
    file: &Path,
    upstreams: Vec<SocketAddr>,
) -> Result<(), Box<dyn std::error::Error>> {
    let start = tokio::time::Instant::now();
    let clock = || Instant::EPOCH + start.elapsed();
    let config = Config {
        own_addresses: vec![listen.ip()],
        ..Config::default()
    };
    let mut resolver = Resolver::new(config, entropy()?, clock());
    let view = View {
        networks: vec![NETWORK],
        forward: !upstreams.is_empty(),
    };
    resolver.set_client(clock(), CLIENT, view);
    resolver.set_upstreams(clock(), upstreams);

    let (sockets, mut inputs) = Sockets::new(SocketsConfig::default());
    let (udp, tcp) = (UdpSocket::bind(listen)?, TcpListener::bind(listen)?);
    sockets.serve(CLIENT, udp, Some(tcp))?;

    let mut read_at = None;
    let mut owners = 0;
    let mut look = clock();
    loop {
        if clock() >= look {
            look = clock() + LOOK;
            let changed_at = fs::metadata(file)?.modified()?;
            if read_at.replace(changed_at) != Some(changed_at) {
                owners = read(&mut resolver, clock(), &fs::read_to_string(file)?, owners);
                report(file, changed_at, &resolver);
            }
        }
        let due = resolver.poll_timeout().map_or(look, |due| due.min(look));
        let pause = due.duration_since(clock());
        let input = tokio::select! {
            input = inputs.recv() => input,
            () = tokio::time::sleep(pause) => None,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        for event in sockets.drive(&mut resolver, clock(), input) {
            println!("{event:?}");
        }
    }
}

/// Makes each line an owner: an address and its names. Returns how many there are now.
fn read(resolver: &mut Resolver, now: Instant, text: &str, before: u128) -> u128 {
    let mut owners = 0;
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else {
            continue;
        };
        let records = Records {
            names: words.map(str::to_owned).collect(),
            addresses: vec![address],
            ..Records::default()
        };
        resolver.set_records(now, NETWORK, owner(owners), records);
        owners += 1;
    }
    for gone in owners..before {
        resolver.remove_records(now, NETWORK, owner(gone));
    }
    owners
}

fn owner(number: u128) -> EndpointId {
    EndpointId::from_bytes(number.to_be_bytes())
}

fn report(file: &Path, changed_at: SystemTime, resolver: &Resolver) {
    let age = changed_at.elapsed().unwrap_or_default().as_secs();
    let names = resolver.stats().names;
    println!("{}, changed {age} s ago: {names} names", file.display());
}

/// The ids of upstream queries must be beyond guessing: the seed comes from the system.
fn entropy() -> Result<Seed, std::io::Error> {
    use std::io::Read;
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Seed::from_bytes(bytes))
}
