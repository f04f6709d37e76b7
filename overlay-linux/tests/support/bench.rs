//! Two endpoints, joined by a thread that carries frames from one port to the other.

use std::{
    error::Error,
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
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
    plane::{Namespace, Platform, PortSpec},
};
use overlay_linux::{CommandSpec, Linux, Port, PortKind, Process, Stdio};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("overlay-linux-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn spec(number: u8) -> PortSpec {
    let address = std::net::Ipv4Addr::new(10, 0, 1, number);
    PortSpec {
        endpoint: EndpointId::from_bytes([number; 16]),
        namespace: Namespace::Own,
        interface: "eth0".into(),
        mac: MacAddr::from_ipv4(address),
        addresses: vec![format!("{address}/24").parse().unwrap()],
        gateway: None,
        mtu: 1450,
        hostname: format!("alpine{number}"),
    }
}

pub(crate) struct Bench {
    pub(crate) linux: Linux,
    pub(crate) specs: [PortSpec; 2],
    stop: Arc<AtomicBool>,
    carrier: Option<JoinHandle<()>>,
    _folder: Folder,
}

impl Bench {
    pub(crate) fn new(kind: PortKind) -> Outcome<Self> {
        let folder = Folder::new()?;
        let mut linux = Linux::new(folder.path(), std::env::current_exe()?).with_kind(kind);
        let specs = [spec(2), spec(3)];
        let ports = [linux.create_port(&specs[0])?, linux.create_port(&specs[1])?];
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let carrier = thread::spawn(move || carry(&ports, &stopped));
        Ok(Self {
            linux,
            specs,
            stop,
            carrier: Some(carrier),
            _folder: folder,
        })
    }

    pub(crate) fn run(&self, which: usize, words: &[&str]) -> Outcome<(Process, String)> {
        let command = command(words).stdio(Stdio::Pipes { input: false });
        let mut process = self.linux.exec(self.specs[which].endpoint, command)?;
        let text = read_all(&mut process)?;
        process.wait(Duration::from_secs(5))?;
        Ok((process, text))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
        for spec in &self.specs {
            let removed = self.linux.remove_port(spec.endpoint);
            if let Err(error) = removed {
                eprintln!("remove: {error}");
            }
        }
    }
}

pub(crate) fn command(words: &[&str]) -> CommandSpec {
    CommandSpec::new(words[0])
        .args(words[1..].iter().copied())
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
}

pub(crate) fn read_all(process: &mut Process) -> Outcome<String> {
    let files: Vec<File> = [
        process.terminal.as_ref(),
        process.output.as_ref(),
        process.error.as_ref(),
    ]
    .into_iter()
    .flatten()
    .map(File::try_clone)
    .collect::<Result<_, _>>()?;
    let mut octets = Vec::new();
    for mut file in files {
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            let mut buffer = [0; 4096];
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => octets.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() > limit {
                        return Err("no end of output".into());
                    }
                    poll(
                        &mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)],
                        PollTimeout::from(500u16),
                    )?;
                }
                Err(_) => break,
            }
        }
    }
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

fn carry(ports: &[Port; 2], stop: &AtomicBool) {
    let mut frame = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut watched = [0, 1].map(|n: usize| PollFd::new(ports[n].as_fd(), PollFlags::POLLIN));
        let _ = poll(&mut watched, PollTimeout::from(20u8));
        for (from, to) in [(0, 1), (1, 0)] {
            for _ in 0..64 {
                match ports[from].read_frame(&mut frame) {
                    Ok(offload) => {
                        let _ = ports[to].write_frame(&frame, offload);
                    }
                    Err(_) => break,
                }
            }
        }
    }
}
