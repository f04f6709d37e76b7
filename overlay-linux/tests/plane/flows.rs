//! Packets of programs in endpoints, and whether they get there.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use overlay_linux::plane::SwitchNamespace;

use crate::net::{Outcome, World, eventually, inside_of, pause};

pub(crate) fn address(number: u8, v6: bool) -> Outcome<IpAddr> {
    let text = if v6 {
        format!("fd00:1::{number}")
    } else {
        format!("10.0.1.{number}")
    };
    Ok(text.parse()?)
}

pub(crate) fn pings(world: &World, from: u8, to: IpAddr, options: &str) -> bool {
    world
        .inside(from, &format!("ping -n -W 2 {options} {to}"))
        .is_ok()
}

/// Waits for an answer, though not for long: each attempt is.
pub(crate) fn gets_through(world: &World, (from, to): (u8, IpAddr), what: &str) -> Outcome<()> {
    let mut attempts = 0..10;
    match attempts.any(|_| pings(world, from, to, "-c 1")) {
        true => Ok(()),
        false => Err(format!("no answer: {what}").into()),
    }
}

/// Whether there is an answer at once, where none shall be.
pub(crate) fn hears(world: &World, from: u8, to: IpAddr) -> bool {
    let words = format!("ping -n -c 2 -i 0.2 -W 0.3 {to}");
    world.inside(from, &words).is_ok()
}

fn namespace(world: &World, number: u8) -> Outcome<&SwitchNamespace> {
    Ok(world.endpoints.get(&number).ok_or("no such endpoint")?)
}

pub(crate) fn datagrams(world: &World, number: u8, at: SocketAddr) -> Outcome<UdpSocket> {
    let socket = inside_of(namespace(world, number)?, move || Ok(UdpSocket::bind(at)?))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listener(world: &World, number: u8, port: u16, v6: bool) -> Outcome<TcpListener> {
    let at = SocketAddr::new(address(number, v6)?, port);
    inside_of(namespace(world, number)?, move || {
        Ok(TcpListener::bind(at)?)
    })
}

fn connect(
    world: &World,
    from: u8,
    to: SocketAddr,
    time: Duration,
) -> Outcome<io::Result<TcpStream>> {
    let connect = move || Ok(TcpStream::connect_timeout(&to, time));
    inside_of(namespace(world, from)?, connect)
}

/// Whether a connection is made; nothing answers otherwise, for less time than there is where one is `expected`.
pub(crate) fn connects(
    world: &World,
    (from, to): (u8, u8),
    port: u16,
    v6: bool,
    expected: bool,
) -> Outcome<bool> {
    let time = Duration::from_millis(if expected { 10_000 } else { 300 });
    let listener = listener(world, to, port, v6)?;
    match connect(world, from, listener.local_addr()?, time)? {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn connection(
    world: &World,
    from: u8,
    to: u8,
    port: u16,
) -> Outcome<(TcpStream, TcpStream)> {
    let listener = listener(world, to, port, false)?;
    let time = Duration::from_secs(10);
    let client = connect(world, from, listener.local_addr()?, time)??;
    let (server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
    }
    Ok((client, server))
}

/// Says something, and waits until all that was said has come.
pub(crate) fn talks(mut from: &TcpStream, to: &TcpStream) -> Outcome<()> {
    from.write_all(b"!")?;
    // What was held back is sent again at intervals that grow.
    for _ in 0..20 {
        if eventually(|| ends_in(to, b'!'), "octets").is_ok() {
            return Ok(());
        }
    }
    Err("a connection is cut off".into())
}

/// Says something that does not arrive.
pub(crate) fn silent(mut from: &TcpStream, to: &TcpStream) -> Outcome<()> {
    from.write_all(b"?")?;
    pause(400);
    let mut octets = [0; 64];
    match (&mut &*to).read(&mut octets) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        heard => Err(format!("a connection goes on: {heard:?}").into()),
    }
}

fn ends_in(mut stream: &TcpStream, octet: u8) -> bool {
    let mut octets = [0; 64];
    let heard = stream.read(&mut octets).unwrap_or(0);
    octets[..heard].ends_with(&[octet])
}

/// Whether a question is answered.
pub(crate) fn asks(world: &World, from: u8, to: u8, port: u16, v6: bool) -> Outcome<bool> {
    let server = datagrams(world, to, SocketAddr::new(address(to, v6)?, port))?;
    let client = datagrams(world, from, SocketAddr::new(address(from, v6)?, 0))?;
    for _ in 0..5 {
        client.send_to(b"?", server.local_addr()?)?;
        for _ in 0..10 {
            if let Ok((_, from)) = server.recv_from(&mut [0; 8]) {
                server.send_to(b"!", from)?;
            }
            if client.recv_from(&mut [0; 8]).is_ok() {
                return Ok(true);
            }
            pause(10);
        }
    }
    Ok(false)
}

/// Datagrams without end.
pub(crate) struct Flood {
    ends: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Flood {
    pub(crate) fn start(world: &World, from: u8, to: u8, port: u16) -> Outcome<Self> {
        let server = datagrams(world, to, SocketAddr::new(address(to, false)?, port))?;
        let client = datagrams(world, from, SocketAddr::new(address(from, false)?, 0))?;
        let to = server.local_addr()?;
        let ends = Arc::new(AtomicBool::new(false));
        let (sent, received) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (sends, receives) = (sent.clone(), received.clone());
        let (end, other) = (ends.clone(), ends.clone());
        let sender = thread::Builder::new().spawn(move || {
            while !end.load(Ordering::Relaxed) {
                for _ in 0..10 {
                    if client.send_to(b"?", to).is_ok() {
                        sends.fetch_add(1, Ordering::Relaxed);
                    }
                }
                pause(1);
            }
        })?;
        let receiver = thread::Builder::new().spawn(move || {
            while !other.load(Ordering::Relaxed) {
                while server.recv_from(&mut [0; 8]).is_ok() {
                    receives.fetch_add(1, Ordering::Relaxed);
                }
                pause(1);
            }
        })?;
        let threads = vec![sender, receiver];
        Ok(Self {
            ends,
            sent,
            received,
            threads,
        })
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(self) -> Outcome<(u64, u64)> {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| "a thread panicked")?;
        }
        Ok((
            self.sent.load(Ordering::Relaxed),
            self.received.load(Ordering::Relaxed),
        ))
    }
}
