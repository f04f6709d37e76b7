//! A node without a cluster, and holders without namespaces.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{self, Command},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use overlay_core::{
    EndpointId, MacAddr, NetworkId, NodeId, TaskId,
    plane::{Change, Namespace, PlatformError},
};
use overlay_linux::{CommandSpec, Exit, OutputCursor, ProcessId, ProcessStatus, Stdio, Written};
use overlay_node::{
    driver::{CaptureOptions, Captured, Finding, LogLine, LogOptions, Logs, LookupOptions, logs},
    plane::{Address, Found, Place},
};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::watch;

use crate::{
    api::{AttachRequest, EndpointInfo, Error, ErrorKind, Request, Response},
    daemon::{
        holders::{Holders, Running, Streams},
        node::{Node, Soon},
    },
};

/// Attaches and detaches endpoints, and knows nothing else.
#[derive(Default)]
pub(in crate::daemon) struct FakeNode {
    endpoints: Mutex<BTreeMap<EndpointId, EndpointInfo>>,
    refused: Mutex<Option<ErrorKind>>,
    detachments_to_refuse: AtomicU32,
    /// The network that nothing may be attached to.
    closed: Mutex<Option<String>>,
    /// The network on which an attachment is not answered.
    silent: Mutex<Option<String>>,
}

impl FakeNode {
    pub(in crate::daemon) fn attached(&self) -> usize {
        self.endpoints.lock().unwrap().len()
    }

    pub(in crate::daemon) fn refuse_attach(&self, kind: ErrorKind) {
        *self.refused.lock().unwrap() = Some(kind);
    }

    pub(in crate::daemon) fn accept_attach(&self) {
        *self.refused.lock().unwrap() = None;
    }

    pub(in crate::daemon) fn refuse_detach(&self, times: u32) {
        self.detachments_to_refuse.store(times, Ordering::Relaxed);
    }

    pub(in crate::daemon) fn attach_orphan(&self) {
        let orphan = AttachRequest {
            network: "my-net".to_owned(),
            name: "orphan".to_owned(),
            aliases: Vec::new(),
            addresses: Vec::new(),
            namespace: Namespace::Own,
            endpoint: None,
        };
        let id = EndpointId::from_bytes([9; 16]);
        let mut endpoints = self.endpoints.lock().unwrap();
        endpoints.insert(id, info(id, orphan));
    }

    pub(in crate::daemon) fn close_network(&self, name: &str) {
        *self.closed.lock().unwrap() = Some(name.to_owned());
    }

    pub(in crate::daemon) fn silence_network(&self, name: &str) {
        *self.silent.lock().unwrap() = Some(name.to_owned());
    }

    /// The networks of what is attached, with the places there.
    pub(in crate::daemon) fn places(&self) -> Vec<(String, Namespace)> {
        let endpoints = self.endpoints.lock().unwrap();
        let place = |info: &EndpointInfo| {
            let namespace = info.namespace.clone().unwrap();
            (info.network_name.clone(), namespace)
        };
        let mut places: Vec<_> = endpoints.values().map(place).collect();
        places.sort_by(|a, b| a.0.cmp(&b.0));
        places
    }

    fn answer(&self, request: Request) -> Result<Response, Error> {
        let mut endpoints = self.endpoints.lock().unwrap();
        match request {
            Request::Attach(attach) => {
                if let Some(kind) = *self.refused.lock().unwrap() {
                    return Err(Error::new(kind, "as the test wants it"));
                }
                if self.closed.lock().unwrap().as_ref() == Some(&attach.network) {
                    return Err(Error::new(ErrorKind::Forbidden, "it is not attachable"));
                }
                let id = attach.endpoint.expect("a run draws the identity");
                let info = info(id, attach);
                endpoints.insert(id, info.clone());
                Ok(Response::Endpoints(vec![info]))
            }
            Request::Detach { endpoint } => {
                let left = self.detachments_to_refuse.load(Ordering::Relaxed);
                if left > 0 {
                    self.detachments_to_refuse
                        .store(left - 1, Ordering::Relaxed);
                    return Err(Error::new(ErrorKind::Unavailable, "no manager answers"));
                }
                let id = endpoint
                    .parse()
                    .expect("a program is detached by its identity");
                let removed = endpoints.remove(&id);
                removed
                    .map(|_| Response::Done)
                    .ok_or_else(|| Error::new(ErrorKind::NotFound, "none"))
            }
            Request::EndpointList => Ok(Response::Endpoints(endpoints.values().cloned().collect())),
            _ => Err(Error::new(
                ErrorKind::NotMember,
                "this node is not part of a cluster",
            )),
        }
    }
}

impl Node for FakeNode {
    fn request(&self, request: Request) -> Soon<Result<Response, Error>> {
        let silent = self.silent.lock().unwrap().clone();
        let unanswered = matches!(
            &request,
            Request::Attach(attach) if Some(&attach.network) == silent.as_ref()
        );
        let answer = self.answer(request);
        Box::pin(async move {
            if unanswered {
                std::future::pending::<()>().await;
            }
            answer
        })
    }

    fn capture(&self, _: CaptureOptions) -> Soon<Result<Captured, Error>> {
        let error = Error::new(ErrorKind::NotFound, "no frames pass here");
        Box::pin(async move { Err(error) })
    }

    fn plan(&self) -> Soon<Result<Vec<Change>, Error>> {
        let change = Change::new(None, "make bridge ovb1");
        Box::pin(async move { Ok(vec![change]) })
    }

    fn diagnose(&self) -> Soon<Result<Vec<Finding>, Error>> {
        let finding = Finding::good("clock", "this host", "nobody has set the clock");
        Box::pin(async move { Ok(vec![finding]) })
    }

    fn lookup(&self, options: LookupOptions) -> Soon<Result<Vec<Found>, Error>> {
        let place = Some(Place::Vtep("192.0.2.2".parse().unwrap()));
        let found = options
            .addresses
            .into_iter()
            .map(move |address| match address {
                Address::Mac(mac) => Found {
                    mac: Some(mac),
                    place,
                },
                Address::Ip(_) => Found::default(),
            });
        let found = found.collect();
        Box::pin(async move { Ok(found) })
    }

    fn logs(&self, task: TaskId, options: LogOptions) -> Soon<Result<Logs, Error>> {
        Box::pin(async move {
            if task.as_bytes() != &[1; 16] {
                return Err(Error::new(ErrorKind::NotFound, "no such task"));
            }
            let (sink, logs) = logs();
            tokio::spawn(async move {
                let text = b"a\xff".to_vec();
                let at_unix_ms = options.since_unix_ms;
                sink.line(LogLine { at_unix_ms, text }).await.ok();
                let error = Error::new(ErrorKind::Unavailable, "host2 does not answer");
                sink.refuse(error).await;
            });
            Ok(logs)
        })
    }
}

fn info(id: EndpointId, attach: AttachRequest) -> EndpointInfo {
    let number = attach.network.bytes().fold(1, u8::wrapping_add);
    EndpointInfo {
        id,
        name: attach.name,
        aliases: attach.aliases,
        network: NetworkId::from_bytes([number; 16]),
        network_name: attach.network,
        node: NodeId::from_bytes([2; 16]),
        mac: MacAddr::new([2, 66, 10, 0, 1, 2]),
        addresses: vec!["10.0.1.2/24".parse().unwrap()],
        namespace: Some(attach.namespace),
        ready: true,
    }
}

/// Starts real processes, in the namespaces of the test.
#[derive(Default)]
pub(in crate::daemon) struct FakeHolders {
    programs: Mutex<Vec<Program>>,
    refuses: AtomicBool,
    hangs: AtomicBool,
    followers: watch::Sender<u32>,
}

struct Program {
    endpoint: EndpointId,
    id: ProcessId,
    main: bool,
    pid: Pid,
    exit: watch::Receiver<Option<Exit>>,
}

impl FakeHolders {
    pub(in crate::daemon) fn refuse_start(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::Relaxed);
    }

    pub(in crate::daemon) fn never_start(&self) {
        self.hangs.store(true, Ordering::Relaxed);
    }

    /// What was never started starts now.
    pub(in crate::daemon) fn start_again(&self) {
        self.hangs.store(false, Ordering::Relaxed);
    }

    /// What was never started fails now, and what runs ends, so that the test can.
    pub(in crate::daemon) fn give_up(&self) {
        for program in self.programs.lock().unwrap().iter() {
            let _ = kill_process_group(program.pid, Signal::KILL);
        }
        self.refuses.store(true, Ordering::Relaxed);
        self.hangs.store(false, Ordering::Relaxed);
    }

    /// From now on nobody who followed before hears of an end.
    pub(in crate::daemon) fn lose_followers(&self) {
        self.followers.send_modify(|generation| *generation += 1);
        let programs = self.programs.lock().unwrap();
        for program in programs.iter().filter(|program| program.id == ProcessId(2)) {
            let _ = kill_process_group(program.pid, Signal::HUP);
        }
    }

    pub(in crate::daemon) fn alive(&self) -> usize {
        let programs = self.programs.lock().unwrap();
        programs
            .iter()
            .filter(|program| program.exit.borrow().is_none())
            .count()
    }

    pub(in crate::daemon) fn runs(&self, endpoint: EndpointId) -> bool {
        let programs = self.programs.lock().unwrap();
        let mut of = programs
            .iter()
            .filter(|program| program.endpoint == endpoint);
        of.any(|program| program.exit.borrow().is_none())
    }

    fn exit_of(&self, program: &Program) -> Soon<Exit> {
        let (mut exit, mut followers) = (program.exit.clone(), self.followers.subscribe());
        Box::pin(async move {
            tokio::select! {
                biased;
                _ = followers.changed() => std::future::pending().await,
                exit = ended(&mut exit) => exit,
            }
        })
    }

    /// The holder of an endpoint dies with all that it knows.
    pub(in crate::daemon) fn lose(&self, endpoint: EndpointId) {
        let mut programs = self.programs.lock().unwrap();
        for program in programs.iter().filter(|one| one.endpoint == endpoint) {
            let _ = kill_process_group(program.pid, Signal::KILL);
        }
        programs.retain(|program| program.endpoint != endpoint);
    }

    fn find<T>(
        &self,
        endpoint: EndpointId,
        process: ProcessId,
        then: impl FnOnce(&Program) -> T,
    ) -> Result<T, PlatformError> {
        let programs = self.programs.lock().unwrap();
        let mut fitting = programs.iter().filter(|program| program.id == process);
        let found = fitting.find(|program| program.endpoint == endpoint);
        found
            .map(then)
            .ok_or(PlatformError::UnknownEndpoint { endpoint })
    }
}

async fn ended(exit: &mut watch::Receiver<Option<Exit>>) -> Exit {
    exit.wait_for(Option::is_some).await.unwrap().unwrap()
}

fn pipe(file: impl Into<OwnedFd>) -> File {
    let file: OwnedFd = file.into();
    let flags = rustix::fs::fcntl_getfl(&file).unwrap();
    rustix::fs::fcntl_setfl(&file, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    File::from(file)
}

impl Holders for FakeHolders {
    fn start(
        &self,
        endpoint: EndpointId,
        command: CommandSpec,
        main: bool,
    ) -> Result<Running, PlatformError> {
        while self.hangs.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        if self.refuses.load(Ordering::Relaxed) {
            return Err(PlatformError::system(
                "start a program",
                &io::ErrorKind::Other.into(),
            ));
        }
        let mut child = Command::new(&command.program);
        child
            .args(&command.args)
            .env_clear()
            .envs(&command.environment)
            .process_group(0);
        child.stdin(process::Stdio::null());
        child
            .stdout(process::Stdio::null())
            .stderr(process::Stdio::null());
        if let Stdio::Pipes { input } = command.stdio {
            child
                .stdout(process::Stdio::piped())
                .stderr(process::Stdio::piped());
            if input {
                child.stdin(process::Stdio::piped());
            }
        }
        let mut child = child.spawn().unwrap();
        let streams = Streams {
            terminal: None,
            input: child.stdin.take().map(pipe),
            output: child.stdout.take().map(pipe),
            error: child.stderr.take().map(pipe),
            follower: None,
        };
        let (sender, exit) = watch::channel(None);
        let pid = Pid::from_child(&child);
        thread::spawn(move || {
            let status = child.wait().unwrap();
            let signal = || Exit::Signal(status.signal().unwrap());
            sender.send_replace(Some(status.code().map_or_else(signal, Exit::Code)));
        });
        let mut programs = self.programs.lock().unwrap();
        let id = ProcessId(u32::try_from(programs.len()).unwrap() + 1);
        let program = Program {
            endpoint,
            id,
            main,
            pid,
            exit,
        };
        let exit = self.exit_of(&program);
        programs.push(program);
        Ok(Running {
            process: id,
            streams,
            exit,
        })
    }

    fn follow(&self, endpoint: EndpointId, process: ProcessId) -> Result<Running, PlatformError> {
        let exit = self.find(endpoint, process, |program| self.exit_of(program))?;
        Ok(Running {
            process,
            streams: Streams::default(),
            exit,
        })
    }

    fn main_program(&self, endpoint: EndpointId) -> Result<Option<ProcessStatus>, PlatformError> {
        let programs = self.programs.lock().unwrap();
        let mut of = programs
            .iter()
            .filter(|program| program.endpoint == endpoint);
        let status = |program: &Program| ProcessStatus {
            id: program.id,
            command: CommandSpec::new("/bin/sh"),
            main: true,
            exit: *program.exit.borrow(),
            started: Duration::ZERO,
            ended: None,
        };
        Ok(of.find(|program| program.main).map(status))
    }

    fn holds(&self, endpoint: EndpointId) -> Result<bool, PlatformError> {
        Ok(self.main_program(endpoint)?.is_some())
    }

    fn output(
        &self,
        endpoint: EndpointId,
        cursor: &mut OutputCursor,
    ) -> Result<Vec<Written>, PlatformError> {
        if cursor.file != 0 {
            return Ok(Vec::new());
        }
        let octets = format!("the output of {endpoint}\nand more\n").into_bytes();
        let from = OutputCursor { file: 1, offset: 0 };
        let offset = octets.len() as u64;
        *cursor = OutputCursor { offset, ..from };
        let at_unix_ms = Some(1_000);
        Ok(vec![Written {
            at_unix_ms,
            from,
            octets,
        }])
    }

    fn signal(
        &self,
        endpoint: EndpointId,
        process: ProcessId,
        signal: i32,
    ) -> Result<(), PlatformError> {
        self.find(endpoint, process, |program| {
            let signal = Signal::from_named_raw(signal).unwrap();
            let _ = kill_process_group(program.pid, signal);
        })
    }

    fn stop(
        &self,
        endpoint: EndpointId,
        process: ProcessId,
        signal: i32,
        grace: Duration,
    ) -> Result<(), PlatformError> {
        self.signal(endpoint, process, signal)?;
        // Whoever started the tests may have had a signal ignored, which programs inherit here.
        self.find(endpoint, process, |program| {
            let (pid, exit) = (program.pid, program.exit.clone());
            thread::spawn(move || {
                thread::sleep(grace.min(PATIENCE));
                if exit.borrow().is_none() {
                    let _ = kill_process_group(pid, Signal::KILL);
                }
            });
        })
    }
}

/// How long a program is waited for at the most before it is killed.
const PATIENCE: Duration = Duration::from_secs(2);
