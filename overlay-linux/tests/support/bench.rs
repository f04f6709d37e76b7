//! Two endpoints, joined by a thread that carries frames from one port to the other.

use std::{
    env,
    error::Error,
    fs::{self, File},
    io::{self, Read, Write},
    net::Ipv4Addr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use overlay_core::{
    EndpointId, MacAddr,
    plane::{DataPath, Namespace, Platform, PortSpec},
};
use overlay_linux::{CommandSpec, Exit, Linux, Port, PortKind, Process, Stdio};

/// What a test comes to.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// A folder that goes away.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("overlay-linux-{}-{number}", process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a port whose frames are read and written here.
pub(crate) fn port(linux: &mut Linux, spec: &PortSpec) -> Outcome<Port> {
    Ok(linux.create_port(spec)?.ok_or("nothing to hold")?)
}

/// The endpoint 10.0.1.`number`.
pub(crate) fn spec(number: u8) -> Outcome<PortSpec> {
    let address = Ipv4Addr::new(10, 0, 1, number);
    Ok(PortSpec {
        endpoint: EndpointId::from_bytes([number; 16]),
        namespace: Namespace::Own,
        interface: "eth0".into(),
        mac: MacAddr::from_ipv4(address),
        addresses: vec![format!("{address}/24").parse()?],
        on_link: Vec::new(),
        gateway: None,
        mtu: 1450,
        hostname: format!("alpine{number}"),
        way_out: None,
        path: DataPath::User,
    })
}

/// Two endpoints that reach each other.
pub(crate) struct Bench {
    pub(crate) linux: Linux,
    pub(crate) specs: [PortSpec; 2],
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
    carrier: Option<JoinHandle<()>>,
    folder: Folder,
}

impl Bench {
    pub(crate) fn new(kind: PortKind) -> Outcome<Self> {
        Self::with(kind, [spec(2)?, spec(3)?])
    }

    pub(crate) fn with(kind: PortKind, specs: [PortSpec; 2]) -> Outcome<Self> {
        let folder = Folder::new()?;
        let linux = Linux::new(folder.path(), env::current_exe()?).with_kind(kind);
        let mut bench = Self {
            linux,
            specs,
            stop: Arc::new(AtomicBool::new(false)),
            seen: Arc::default(),
            carrier: None,
            folder,
        };
        bench.carry()?;
        Ok(bench)
    }

    /// Starts the thread between the ports, which are made or taken up.
    fn carry(&mut self) -> Outcome<()> {
        let ports = [
            port(&mut self.linux, &self.specs[0])?,
            port(&mut self.linux, &self.specs[1])?,
        ];
        let (stop, seen) = (self.stop.clone(), self.seen.clone());
        let carrier = thread::Builder::new().spawn(move || carry(&ports, &stop, &seen))?;
        self.carrier = Some(carrier);
        Ok(())
    }

    /// Ends the daemon's side and starts it again: what is left is found in the folder.
    pub(crate) fn restart(&mut self) -> Outcome<()> {
        self.halt();
        self.linux = self.linux.clone();
        self.stop = Arc::new(AtomicBool::new(false));
        self.carry()
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
    }

    /// Returns what frames were seen so far.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn endpoint(&self, which: usize) -> EndpointId {
        self.specs[which].endpoint
    }

    /// Runs a program beside the main one, and returns how it ended and what it wrote.
    pub(crate) fn run(&self, which: usize, words: &[&str]) -> Outcome<(Exit, String)> {
        run(&self.linux, self.endpoint(which), words)
    }

    /// Runs a program that must succeed, and returns what it wrote.
    pub(crate) fn succeed(&self, which: usize, words: &[&str]) -> Outcome<String> {
        succeed(&self.linux, self.endpoint(which), words)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.halt();
        for spec in &self.specs {
            if let Err(error) = self.linux.remove_port(spec.endpoint) {
                say(&format!("cannot remove a port: {error}"));
            }
        }
    }
}

/// Runs a program beside the main one of an endpoint, and returns how it ended and what it wrote.
pub(crate) fn run(linux: &Linux, endpoint: EndpointId, words: &[&str]) -> Outcome<(Exit, String)> {
    let piped = command(words).stdio(Stdio::Pipes { input: false });
    let mut process = linux.exec(endpoint, piped)?;
    let text = read_all(&process)?;
    let exit = process.wait(Duration::from_secs(5))?;
    Ok((exit.ok_or("the program does not end")?, text))
}

/// Runs a program that must succeed, and returns what it wrote.
pub(crate) fn succeed(linux: &Linux, endpoint: EndpointId, words: &[&str]) -> Outcome<String> {
    match run(linux, endpoint, words)? {
        (Exit::Code(0), text) => Ok(text),
        (exit, text) => Err(format!("{words:?}: {exit}\n{text}").into()),
    }
}

/// A command with the usual search path.
pub(crate) fn command(words: &[&str]) -> CommandSpec {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    CommandSpec::new(words[0])
        .args(words[1..].iter().copied())
        .env("PATH", path)
}

/// Reads all streams of a program to their end.
pub(crate) fn read_all(process: &Process) -> Outcome<String> {
    let streams = [&process.terminal, &process.output, &process.error];
    let mut text = String::new();
    for stream in streams.into_iter().flatten() {
        text.push_str(&read_until(stream, None)?);
    }
    Ok(text)
}

/// Reads a stream to its end, or until `mark` was seen.
pub(crate) fn read_until(mut stream: &File, mark: Option<&str>) -> Outcome<String> {
    let (mut text, limit) = (String::new(), Deadline::after(Duration::from_secs(20)));
    loop {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(text),
            Ok(read) => text.push_str(&String::from_utf8_lossy(&buffer[..read])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                limit.check(&text)?;
                let watched = PollFd::new(stream.as_fd(), PollFlags::POLLIN);
                poll(&mut [watched], PollTimeout::from(500_u16))?;
            }
            // A terminal that nobody has open any more.
            Err(_) => return Ok(text),
        }
        if mark.is_some_and(|mark| text.contains(mark)) {
            return Ok(text);
        }
    }
}

/// Waits until something holds.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool, what: &str) -> Outcome<()> {
    let limit = Deadline::after(Duration::from_secs(5));
    while !holds() {
        limit.check(what)?;
        poll(&mut [], PollTimeout::from(10_u8))?;
    }
    Ok(())
}

/// Lets some real time pass.
pub(crate) fn pause(milliseconds: u16) -> Outcome<()> {
    poll(&mut [], PollTimeout::from(milliseconds))?;
    Ok(())
}

/// A limit of real time.
pub(crate) struct Deadline(Instant);

#[expect(clippy::disallowed_methods, reason = "real processes run in real time")]
impl Deadline {
    pub(crate) fn after(duration: Duration) -> Self {
        Self(Instant::now() + duration)
    }

    pub(crate) fn check(&self, what: &str) -> Outcome<()> {
        if Instant::now() > self.0 {
            return Err(format!("took too long: {what}").into());
        }
        Ok(())
    }
}

/// Says something that must not be overlooked.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// What frames were carried.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Those to be segmented.
    pub(crate) super_frames: AtomicU32,
    /// Others that are longer than the MTU and an Ethernet header.
    pub(crate) beyond_mtu: AtomicU32,
}

/// Carries frames between two ports until it is told to stop.
pub(crate) fn carry(ports: &[Port; 2], stop: &AtomicBool, seen: &Seen) {
    let mut frame = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut watched = ports
            .each_ref()
            .map(|port| PollFd::new(port.as_fd(), PollFlags::POLLIN));
        let _ = poll(&mut watched, PollTimeout::from(20_u8));
        for (from, to) in [(0, 1), (1, 0)] {
            for _ in 0..64 {
                let Ok(offload) = ports[from].read_frame(&mut frame) else {
                    break;
                };
                if offload.segment.is_some() {
                    seen.super_frames.fetch_add(1, Ordering::Relaxed);
                } else if frame.len() > 1450 + 14 {
                    seen.beyond_mtu.fetch_add(1, Ordering::Relaxed);
                }
                let _ = ports[to].write_frame(&frame, offload);
            }
        }
    }
}
