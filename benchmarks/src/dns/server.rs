//! The server on loopback under `dnsperf`: CPU time for each query, beside the servers of the system.

use std::{
    env, fs,
    io::{self, BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use overlay_core::{Instant, Machine};
use overlay_dns::{
    Records,
    driver::{Sockets, SocketsConfig, bind_shared},
};

use super::{CLIENT, NETWORK, NOW, address, endpoint, resolver};

const NAMES: u32 = 10_000;
/// The servers take turns, so that what else happens on the machine meets all of them.
const ROUNDS: usize = 3;
const SECONDS: u32 = 3;

pub(super) fn run() -> io::Result<()> {
    if Command::new("dnsperf").arg("-h").output().is_err() {
        println!("\nThe server is not measured: dnsperf is not installed.");
        return Ok(());
    }
    let folder = env::temp_dir().join(format!("overlay-benchmarks-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let measured = measure(&folder);
    fs::remove_dir_all(&folder)?;
    measured
}

fn measure(folder: &Path) -> io::Result<()> {
    let queries: String = (0..NAMES).map(|n| format!("web-{n}.test A\n")).collect();
    let file = folder.join("queries");
    fs::write(&file, queries)?;
    let mut servers = Vec::new();
    for (name, server) in [
        ("overlay-dns", Server::ours()),
        ("knot", Server::knot(folder)),
        ("dnsmasq", Server::dnsmasq(folder)),
    ] {
        match server {
            Ok(server) => servers.push((name, server, Vec::new())),
            Err(error) => println!("\n{name} is not measured: {error}."),
        }
    }
    for _ in 0..ROUNDS {
        for (_, server, figures) in &mut servers {
            figures.push(server.load(&file)?);
        }
    }
    println!("\n| server | reach, µs a query | CPU, µs a query | queries a second | lost |");
    println!("|---|---|---|---|---|");
    for (name, _, mut figures) in servers {
        figures.sort_by(|one, other| one.micros.total_cmp(&other.micros));
        let Figure { micros, rate, lost } = figures[figures.len() / 2];
        let reach = if name == "overlay-dns" { "5.2" } else { "" };
        println!("| {name} | {reach} | {micros:.1} | {rate:.0} | {lost} |");
    }
    Ok(())
}

struct Figure {
    micros: f64,
    rate: f64,
    lost: u64,
}

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// This program once more, as a server.
    fn ours() -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        let mut child = command.arg("dns-serve").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let said = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        BufReader::new(said).read_line(&mut line)?;
        let port = line.trim().parse().map_err(io::Error::other)?;
        Ok(Self { child, port })
    }

    fn knot(folder: &Path) -> io::Result<Self> {
        let port = free_port()?;
        let zone = folder.join("test.zone");
        let mut text =
            "$ORIGIN test.\n@ 5 SOA ns nobody 1 3600 600 86400 1\n@ 5 NS ns\n".to_owned();
        text.extend((0..NAMES).map(|n| format!("web-{n} 5 A {}\n", address(n))));
        fs::write(&zone, text)?;
        let (path, config) = (folder.display(), folder.join("knot.conf"));
        let zone = zone.display();
        let text = format!(
            "server:\n  listen: 127.0.0.1@{port}\n  rundir: {path}\n  udp-workers: 1\n  tcp-workers: 1\n  \
             background-workers: 1\ndatabase:\n  storage: {path}\nzone:\n  - domain: test\n    file: {zone}\n"
        );
        fs::write(&config, text)?;
        Self::start("knotd", &["-c".into(), config], port)
    }

    fn dnsmasq(folder: &Path) -> io::Result<Self> {
        let port = free_port()?;
        let hosts = folder.join("hosts");
        let text: String = (0..NAMES)
            .map(|n| format!("{} web-{n}.test\n", address(n)))
            .collect();
        fs::write(&hosts, text)?;
        let hosts = format!("--addn-hosts={}", hosts.display()).into();
        let port_is = format!("--port={port}").into();
        let fixed = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--no-hosts",
            "--no-resolv",
            "--local=/test/",
            "--local-ttl=5",
            "--user=",
            "--pid-file=",
        ];
        let arguments: Vec<PathBuf> = fixed.map(PathBuf::from).into_iter().collect();
        Self::start("dnsmasq", &[arguments, vec![hosts, port_is]].concat(), port)
    }

    fn start(program: &str, arguments: &[PathBuf], port: u16) -> io::Result<Self> {
        let mut command = Command::new(program);
        let quiet = || Stdio::null();
        let child = command.args(arguments).stdout(quiet()).stderr(quiet());
        let server = Self {
            child: child.spawn()?,
            port,
        };
        server.wait()?;
        Ok(server)
    }

    /// Asks until it has read its names.
    fn wait(&self) -> io::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x05web-0\x04test\0\0\x01\0\x01";
        for _ in 0..100 {
            socket.send_to(query, (Ipv4Addr::LOCALHOST, self.port))?;
            let mut answer = [0; 512];
            let read = socket.recv(&mut answer);
            if read.is_ok() && answer[6..8] == [0, 1] {
                return Ok(());
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Asks for some seconds, with a hundred queries on their way at a time.
    fn load(&self, queries: &Path) -> io::Result<Figure> {
        let before = self.ticks()?;
        let line = format!("-s 127.0.0.1 -p {} -l {SECONDS} -c 8 -q 100 -d", self.port);
        let mut command = Command::new("dnsperf");
        let output = command.args(line.split(' ')).arg(queries).output()?;
        let ticks = self.ticks()? - before;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = |title: &str| {
            let line = text
                .lines()
                .find_map(|line| line.trim().strip_prefix(title));
            let first = line.and_then(|line| line.split_whitespace().next());
            first.and_then(|word| word.parse::<f64>().ok())
        };
        let completed = number("Queries completed:").filter(|count| *count > 0.0);
        let completed = completed.ok_or_else(|| io::Error::other(text.clone()))?;
        let no_error = text.contains("NOERROR") && !text.contains("NXDOMAIN");
        assert!(no_error, "every name has an address: {text}");
        let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        Ok(Figure {
            micros: seconds * 1e6 / completed,
            rate: number("Queries per second:").unwrap_or_default(),
            lost: number("Queries lost:").unwrap_or_default() as u64,
        })
    }

    /// How long all threads of the server have had a processor, for themselves and in the kernel.
    fn ticks(&self) -> io::Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Behind the name, which may hold anything: fields 3 and on.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| {
            fields
                .get(number - 3)
                .and_then(|text| text.parse::<u64>().ok())
        };
        let sum = field(14).zip(field(15)).map(|(user, system)| user + system);
        sum.ok_or_else(|| io::Error::other("no times in /proc"))
    }
}

fn free_port() -> io::Result<u16> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(socket.local_addr()?.port())
}

/// Serves until it is killed; says at which port.
pub fn serve() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut resolver = resolver();
        for number in 0..NAMES {
            let records = Records {
                names: vec![format!("web-{number}.test")],
                addresses: vec![address(number).into()],
                ..Records::default()
            };
            resolver.set_records(NOW, NETWORK, endpoint(number), records);
        }
        let (sockets, mut inputs) = Sockets::new(SocketsConfig::default());
        let (udp, tcp) = bind_shared(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        println!("{}", udp.local_addr()?.port());
        sockets.serve(CLIENT, udp, Some(tcp))?;
        let start = tokio::time::Instant::now();
        let clock = || Instant::EPOCH + start.elapsed();
        loop {
            let due = resolver.poll_timeout();
            let pause = due.map_or(Duration::from_secs(60), |due| due.duration_since(clock()));
            let input = tokio::time::timeout(pause, inputs.recv())
                .await
                .ok()
                .flatten();
            sockets.drive(&mut resolver, clock(), input);
        }
    })
}
