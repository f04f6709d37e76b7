//! The programs of an endpoint: started, drained, reaped.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{self, Command},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    fcntl::{self, FcntlArg, OFlag},
    pty::{self, OpenptyResult},
    sys::{
        signal::{self, Signal},
        wait::{self, WaitPidFlag, WaitStatus},
    },
    unistd::{self, Pid},
};

use super::{output::Output, wire::Streams};
use crate::{
    command::{CommandSpec, Exit, ProcessId, ProcessStatus, Stdio},
    failure::{Doing, Failure},
    sys,
};

/// All programs of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    by_id: BTreeMap<ProcessId, Program>,
    last: ProcessId,
}

/// One program.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) status: ProcessStatus,
    pid: Pid,
    streams: Held,
    /// Who reads its streams and waits for its end.
    pub(crate) follower: Option<u64>,
    kill_at: Option<Instant>,
}

/// The holder's own copies of a program's streams; read only while nobody follows.
#[derive(Debug, Default)]
struct Held {
    terminal: Option<File>,
    output: Option<File>,
    error: Option<File>,
}

impl Programs {
    /// Starts a program and returns its number and what is to be handed to the follower.
    pub(crate) fn start(
        &mut self,
        command: CommandSpec,
        main: bool,
        follower: u64,
    ) -> Result<(ProcessId, Streams, Vec<OwnedFd>), Failure> {
        let busy = main && self.main().is_some_and(|main| main.status.exit.is_none());
        let running = self.by_id.values().filter(|p| p.status.exit.is_none());
        if busy || running.count() >= RUNNING_MAX {
            return Err(Failure::new("start another program", &Errno::EBUSY.into()));
        }
        self.forget_ended();
        let (mut child, held, input) = prepare(&command)?;
        let spawned = child
            .spawn()
            .doing(|| format!("start {}", command.program.display()))?;
        // The child's ends of its streams close with `child`.
        drop(child);
        self.last.0 += 1;
        let id = self.last;
        let pid = i32::try_from(spawned.id()).map_err(io::Error::other);
        let program = Program {
            status: ProcessStatus {
                id,
                command,
                main,
                exit: None,
                started: since_epoch(),
                ended: None,
            },
            pid: Pid::from_raw(pid.doing(|| "read a process number".into())?),
            streams: held,
            follower: Some(follower),
            kill_at: None,
        };
        let (streams, mut descriptors) = program.copies()?;
        let with_input = Streams {
            input: input.is_some(),
            ..streams
        };
        if let Some(input) = input {
            // Order: terminal, input, output, error.
            descriptors.insert(0, input);
        }
        self.by_id.insert(id, program);
        Ok((id, with_input, descriptors))
    }

    /// Hands the streams of a program to another follower.
    pub(crate) fn follow(
        &mut self,
        id: ProcessId,
        follower: u64,
    ) -> Result<(Streams, Vec<OwnedFd>), Failure> {
        let program = self.get(id)?;
        let copies = program.copies()?;
        program.follower = Some(follower);
        Ok(copies)
    }

    /// A follower is gone: its programs go on alone.
    pub(crate) fn unfollow(&mut self, follower: u64) {
        for program in self.by_id.values_mut() {
            if program.follower == Some(follower) {
                program.follower = None;
            }
        }
    }

    pub(crate) fn get(&mut self, id: ProcessId) -> Result<&mut Program, Failure> {
        let found = self.by_id.get_mut(&id);
        found.ok_or_else(|| Failure::new(format!("find program {id}"), &Errno::ESRCH.into()))
    }

    /// The newest main program.
    pub(crate) fn main(&self) -> Option<&Program> {
        self.by_id
            .values()
            .rev()
            .find(|program| program.status.main)
    }

    pub(crate) fn statuses(&self) -> Vec<ProcessStatus> {
        let statuses = self.by_id.values().map(|program| program.status.clone());
        statuses.collect()
    }

    /// Collects children that ended; returns the programs among them.
    pub(crate) fn reap(&mut self, output: &mut Output) -> Vec<ProcessId> {
        let mut ended = Vec::new();
        loop {
            let (pid, exit) = match wait::waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(_) => return ended,
                Ok(_) => continue,
            };
            let program = self
                .by_id
                .values_mut()
                .find(|program| program.pid == pid && program.status.exit.is_none());
            if let Some(program) = program {
                program.status.exit = Some(exit);
                program.status.ended = Some(since_epoch());
                program.kill_at = None;
                program.drain(output);
                ended.push(program.status.id);
            }
        }
    }

    /// The streams that nobody else reads.
    pub(crate) fn unread(&self) -> impl Iterator<Item = (ProcessId, BorrowedFd<'_>)> {
        self.by_id
            .values()
            .filter(|program| program.is_unread())
            .flat_map(|program| {
                let files = program.streams.files();
                files.map(|file| (program.status.id, file.as_fd()))
            })
    }

    pub(crate) fn drain(&mut self, id: ProcessId, output: &mut Output) {
        if let Some(program) = self.by_id.get_mut(&id) {
            program.drain(output);
        }
    }

    /// When the next program that was asked to stop is to be killed.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.by_id
            .values()
            .filter_map(|program| program.kill_at)
            .min()
    }

    /// Kills those whose grace is over; true if the main program is among them.
    pub(crate) fn kill_overdue(&mut self, now: Instant) -> bool {
        let mut main = false;
        for program in self.by_id.values_mut() {
            if program.kill_at.is_some_and(|at| at <= now) {
                program.kill_at = None;
                main |= program.status.main;
                // Gone in this moment is as good.
                let _ = program.signal(Signal::SIGKILL as i32, true);
            }
        }
        main
    }

    /// Kills the process groups of all programs.
    pub(crate) fn kill_all(&self) {
        for program in self.by_id.values() {
            let _ = program.signal(Signal::SIGKILL as i32, true);
        }
    }

    fn forget_ended(&mut self) {
        let main = self.main().map(|main| main.status.id);
        let ended = self.by_id.values().filter(|program| {
            let free = program.status.exit.is_some() && program.follower.is_none();
            free && Some(program.status.id) != main
        });
        let ids: Vec<_> = ended.map(|program| program.status.id).collect();
        let superfluous = ids.len().saturating_sub(ENDED_MAX);
        for id in ids.iter().take(superfluous) {
            self.by_id.remove(id);
        }
    }
}

impl Program {
    /// Sends a signal to the program, or to its whole process group.
    pub(crate) fn signal(&self, number: i32, group: bool) -> Result<(), Failure> {
        if self.status.exit.is_some() {
            let error = Errno::ESRCH.into();
            return Err(Failure::new("signal a program that has ended", &error));
        }
        let doing = || format!("send signal {number} to program {}", self.status.id);
        let number = Signal::try_from(number).doing(doing)?;
        let target = if group {
            Pid::from_raw(-self.pid.as_raw())
        } else {
            self.pid
        };
        signal::kill(target, number).doing(doing)
    }

    /// Sends a signal now and SIGKILL at `kill_at`.
    pub(crate) fn stop(&mut self, number: i32, kill_at: Instant) -> Result<(), Failure> {
        self.signal(number, true)?;
        self.kill_at = Some(kill_at);
        Ok(())
    }

    fn is_unread(&self) -> bool {
        self.follower.is_none() || self.status.command.stdio == Stdio::Kept
    }

    /// Copies of the streams for a follower.
    fn copies(&self) -> Result<(Streams, Vec<OwnedFd>), Failure> {
        if self.status.command.stdio == Stdio::Kept {
            return Ok((Streams::default(), Vec::new()));
        }
        let copies = self
            .streams
            .files()
            .map(|file| file.as_fd().try_clone_to_owned());
        let copies: io::Result<Vec<_>> = copies.collect();
        let streams = Streams {
            terminal: self.streams.terminal.is_some(),
            input: false,
            output: self.streams.output.is_some(),
            error: self.streams.error.is_some(),
        };
        Ok((streams, copies.doing(|| "copy a program's streams".into())?))
    }

    /// Reads what waits, if nobody else does: the main program's output is kept, others' is dropped.
    fn drain(&mut self, output: &mut Output) {
        if !self.is_unread() {
            return;
        }
        let mut buffer = [0; 8_192];
        let Held {
            terminal,
            output: standard,
            error,
        } = &mut self.streams;
        for slot in [terminal, standard, error] {
            let Some(file) = slot else { continue };
            // Bounded, so that one that writes without end does not keep us from everything else.
            for _ in 0..READS_MAX {
                match file.read(&mut buffer) {
                    Ok(read) if read > 0 => {
                        let octets = buffer.get(..read).unwrap_or_default();
                        if self.status.main {
                            output.write(octets);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // A terminal that nobody has open any more says EIO.
                    _ => {
                        *slot = None;
                        break;
                    }
                }
            }
        }
    }
}

impl Held {
    fn files(&self) -> impl Iterator<Item = &File> {
        let files = [&self.terminal, &self.output, &self.error];
        files.into_iter().flatten()
    }
}

/// Makes the streams of a program: its own ends go into the command, ours are kept, an input is only handed on.
fn prepare(spec: &CommandSpec) -> Result<(Command, Held, Option<OwnedFd>), Failure> {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(&spec.program);
    if let Some(arg0) = &spec.arg0 {
        command.arg0(arg0);
    }
    command
        .args(&spec.args)
        .env_clear()
        .envs(&spec.environment)
        .current_dir(spec.directory.as_deref().unwrap_or("/".as_ref()))
        .stdin(process::Stdio::null());
    let (mut held, mut input) = (Held::default(), None);
    match spec.stdio {
        Stdio::Kept => {
            let (ours, theirs) = pipe()?;
            let copy = theirs.try_clone().doing(|| "copy a pipe".into())?;
            command.stdout(theirs).stderr(copy);
            held.output = Some(unblock(ours)?);
        }
        Stdio::Pipes { input: wanted } => {
            if wanted {
                let (theirs, ours) = pipe()?;
                command.stdin(theirs);
                input = Some(unblock(ours)?.into());
            }
            let (ours, theirs) = pipe()?;
            command.stdout(theirs);
            held.output = Some(unblock(ours)?);
            let (ours, theirs) = pipe()?;
            command.stderr(theirs);
            held.error = Some(unblock(ours)?);
        }
        Stdio::Terminal(size) => {
            let OpenptyResult { master, slave } = open_terminal()?;
            sys::set_window(&master, size.rows, size.columns)
                .doing(|| "set the window's size".into())?;
            let copies = (slave.try_clone(), slave.try_clone());
            command
                .stdin(copies.0.doing(|| "copy a terminal".into())?)
                .stdout(copies.1.doing(|| "copy a terminal".into())?)
                .stderr(slave);
            held.terminal = Some(unblock(master)?);
        }
    }
    sys::lead_session(&mut command, matches!(spec.stdio, Stdio::Terminal(_)));
    Ok((command, held, input))
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    unistd::pipe2(OFlag::O_CLOEXEC).doing(|| "make a pipe".into())
}

fn open_terminal() -> Result<OpenptyResult, Failure> {
    let opened = pty::openpty(None, None).doing(|| "open a terminal".into())?;
    for end in [&opened.master, &opened.slave] {
        let flags = FcntlArg::F_SETFD(fcntl::FdFlag::FD_CLOEXEC);
        fcntl::fcntl(end, flags).doing(|| "keep a terminal to ourselves".into())?;
    }
    Ok(opened)
}

fn unblock(descriptor: OwnedFd) -> Result<File, Failure> {
    let doing = || "set a stream non-blocking".into();
    let flags = fcntl::fcntl(&descriptor, FcntlArg::F_GETFL).doing(doing)?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl::fcntl(&descriptor, FcntlArg::F_SETFL(flags)).doing(doing)?;
    Ok(File::from(descriptor))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a holder is no machine: it notes when its programs really ran"
)]
fn since_epoch() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

/// Programs that run at a time in one endpoint.
const RUNNING_MAX: usize = 128;
/// Ended programs, beside the main one, whose status is remembered.
const ENDED_MAX: usize = 64;
/// Reads from one stream before the others have their turn.
const READS_MAX: usize = 16;
