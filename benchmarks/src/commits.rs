//! What TLS takes of committed writes: three managers in this process, on loopback, with their disks, and 256 writes under way.
//!
//! There is no mode without TLS to compare with. So what the managers' processors do for a write is measured, then what TLS alone
//! takes for as many octets in records of the size that was seen.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use overlay_node::{
    Timers,
    api::{InitRequest, JoinRequest, NodeUpdate, Request, Response, Role},
    driver::{Daemon, Handle, InProcess, Options},
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustix::time::{ClockId, clock_gettime};
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig,
    ServerConnection,
    crypto::ring::default_provider,
    pki_types::{PrivateKeyDer, ServerName},
    version::TLS13,
};

use crate::clock::cpu;

const UNDER_WAY: usize = 256;
const MANAGERS: u8 = 3;
const ROUND: Duration = Duration::from_secs(5);

/// What was seen of one round, per write.
struct Seen {
    writes: f64,
    cpu_us: f64,
    octets: f64,
    segments: f64,
}

pub fn run(rounds: usize) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let directory = std::env::temp_dir().join(format!("overlay-commits-{}", std::process::id()));
    let measured = runtime.block_on(measure(rounds, &directory));
    let removed = std::fs::remove_dir_all(&directory);
    let mut seen = measured?;
    removed?;
    println!(
        "{MANAGERS} managers in one process on loopback, {UNDER_WAY} writes under way, the median of {rounds} rounds of {} s",
        ROUND.as_secs()
    );
    seen.sort_by(|a, b| a.writes.total_cmp(&b.writes));
    let Some(one) = seen.get(seen.len() / 2) else {
        return Ok(());
    };
    let record = (one.octets / one.segments) as usize;
    let records = one.octets / record as f64;
    let tls = tls(record)?.as_nanos() as f64 / 1_000.0 * records;
    println!("  committed writes                 {:>12.0} /s", one.writes);
    println!(
        "  CPU time of all, clients with them {:>10.1} us a write",
        one.cpu_us
    );
    println!(
        "  on the wire                      {:>12.0} octets a write, {record} a segment",
        one.octets
    );
    println!("  TLS alone, both ends             {tls:>12.2} us a write");
    println!(
        "  without it                       {:>12.3} x of the writes",
        one.cpu_us / (one.cpu_us - tls)
    );
    Ok(())
}

async fn measure(rounds: usize, directory: &std::path::Path) -> io::Result<Vec<Seen>> {
    let mut daemons = Vec::new();
    for number in 1..=MANAGERS {
        daemons.push(start(directory.join(number.to_string()), number).await?);
    }
    let handles: Vec<Handle> = daemons.iter().map(Daemon::handle).collect();
    let [first, others @ ..] = &handles[..] else {
        return Ok(Vec::new());
    };
    ask(first, Request::Init(InitRequest::default())).await?;
    let role = Role::Manager;
    for other in others {
        let rotate = false;
        let told = ask(first, Request::JoinToken { role, rotate }).await?;
        let Response::Token(token) = told else {
            return Err(io::Error::other("no token"));
        };
        let join = JoinRequest {
            token: token.token,
            remote: token.remote,
            advertise: None,
        };
        ask(other, Request::Join(join)).await?;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut seen = Vec::new();
    for round in 0..=rounds {
        let one = load(first).await?;
        // The first one fills caches and dials.
        if round > 0 {
            seen.push(one);
        }
    }
    for daemon in daemons {
        daemon.handle().shutdown().await;
        daemon.stopped().await.map_err(io::Error::other)?;
    }
    Ok(seen)
}

async fn start(directory: PathBuf, number: u8) -> io::Result<Daemon> {
    let address = IpAddr::from(Ipv4Addr::new(127, 91, 0, number));
    let mut options = Options::new(format!("host{number}"), directory);
    options.timers = Timers::prompt();
    options.advertise = Some(address);
    options.listen = address;
    let daemon = Daemon::start(options, InProcess::new()).await;
    daemon.map_err(io::Error::other)
}

async fn ask(handle: &Handle, request: Request) -> io::Result<Response> {
    handle.request(request).await.map_err(io::Error::other)
}

/// As many writes as there is time for: a label of a node, another value each time.
#[expect(
    clippy::disallowed_methods,
    reason = "writes are counted by the second"
)]
async fn load(handle: &Handle) -> io::Result<Seen> {
    let done = Arc::new(AtomicU64::new(0));
    let (octets, segments) = wire()?;
    let (began, used) = (Instant::now(), process());
    let writers = (0..UNDER_WAY).map(|writer| {
        let (handle, done) = (handle.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            while began.elapsed() < ROUND {
                let number = done.fetch_add(1, Ordering::Relaxed);
                let label = (format!("label{}", writer % 64), number.to_string());
                let update = NodeUpdate {
                    node: "host1".to_owned(),
                    labels_add: BTreeMap::from([label]),
                    ..NodeUpdate::default()
                };
                ask(&handle, Request::NodeUpdate(update)).await?;
            }
            io::Result::Ok(())
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.map_err(io::Error::other)??;
    }
    let took = began.elapsed();
    let used = process().saturating_sub(used);
    let (octets, segments) = {
        let (more, others) = wire()?;
        (more - octets, others - segments)
    };
    let writes = done.load(Ordering::Relaxed) as f64;
    Ok(Seen {
        writes: writes / took.as_secs_f64(),
        cpu_us: used.as_micros() as f64 / writes,
        octets: octets as f64 / writes,
        segments: segments as f64 / writes,
    })
}

/// How long this process has had processors.
fn process() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
}

/// Octets of IP and segments of TCP that this network has sent so far.
fn wire() -> io::Result<(u64, u64)> {
    let octets = counter("/proc/self/net/netstat", "IpExt:", "OutOctets")?;
    let segments = counter("/proc/self/net/snmp", "Tcp:", "OutSegs")?;
    Ok((octets, segments))
}

fn counter(file: &str, group: &str, name: &str) -> io::Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next(), lines.next());
    let mut pairs = names
        .zip(values)
        .into_iter()
        .flat_map(|(names, values)| names.split(' ').zip(values.split(' ')));
    let found = pairs.find(|(found, _)| *found == name);
    let value = found.and_then(|(_, value)| value.parse().ok());
    value.ok_or_else(|| io::Error::other(format!("{file} has no {name}")))
}

/// What a record of so many octets takes, sealed at one end and opened at the other.
fn tls(octets: usize) -> io::Result<Duration> {
    let (mut client, mut server) = pair().map_err(io::Error::other)?;
    let text = vec![7; octets];
    let mut wire = Vec::new();
    let mut read = vec![0; octets];
    let mut carry = |client: &mut ClientConnection, server: &mut ServerConnection| {
        client.writer().write_all(&text)?;
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire)?;
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest)?;
            server.process_new_packets().map_err(io::Error::other)?;
        }
        server.reader().read_exact(&mut read)
    };
    for _ in 0..RECORDS / 10 {
        carry(&mut client, &mut server)?;
    }
    let (carried, time) = cpu(|| {
        for _ in 0..RECORDS {
            carry(&mut client, &mut server)?;
        }
        io::Result::Ok(())
    });
    carried?;
    Ok(time / RECORDS)
}

const RECORDS: u32 = 20_000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn pair() -> Result<(ClientConnection, ServerConnection), Failure> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let provider = Arc::new(default_provider());
    let key = PrivateKeyDer::try_from(signing_key.serialize_der())?;
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone())?;
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost")?;
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        hand_over(&mut client, &mut server)?;
        hand_over(&mut server, &mut client)?;
    }
    Ok((client, server))
}

/// Takes what one end has written to the other.
fn hand_over<S, T>(
    from: &mut ConnectionCommon<S>,
    to: &mut ConnectionCommon<T>,
) -> Result<(), Failure> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire)?;
    }
    let mut rest = &wire[..];
    while !rest.is_empty() {
        to.read_tls(&mut rest)?;
        to.process_new_packets()?;
    }
    Ok(())
}
