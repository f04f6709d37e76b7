//! The process that keeps an endpoint's namespaces, port and programs while daemons come and go.
//!
//! Endpoints that share a namespace share its holder: it makes further ports as it is asked, and stays until the last of
//! them goes. Its folder has the name of the endpoint after which the namespace is named; that of each other one is a
//! symbolic link to it.
//!
//! A holder is the daemon's own binary under a hidden first argument. The daemon starts it with one end of a socket pair
//! as standard input; it moves into new namespaces (or, for a namespace that somebody else made, into that one), makes
//! the port, answers with its descriptor, and from then on listens at `<state>/<endpoint>/holder.sock`. It leads its own
//! session and is nobody's child, so it survives its daemon; a restarted daemon finds it by its folder.
//!
//! For an endpoint with its own namespaces the holder is process 1 of its own process namespace. Orphans come to it to be
//! reaped, and the kernel ends whatever is left in there when it ends, however it ends.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio, exit},
    time::Duration,
};

use nix::{sched::CloneFlags, unistd};

use crate::{
    failure::{Doing, Failure},
    hosts, probe,
};

mod files;
pub(crate) mod output;
mod ports;
mod programs;
pub(crate) mod record;
pub(crate) mod server;
pub(crate) mod spec;
pub(crate) mod wire;

use server::Server;
use wire::{Connection, Reply, Request};

/// Turns the process into a holder (or another of this crate's helper processes) if its arguments say so.
///
/// The first thing in `main`, before any thread exists; returns at once if the process is none of them.
pub fn main_if_holder() {
    let mut arguments = env::args_os().skip(1);
    let (name, mode) = (arguments.next(), arguments.next());
    let mode = mode.as_deref().and_then(OsStr::to_str).unwrap_or_default();
    let done = match name.as_deref().and_then(OsStr::to_str) {
        Some(HOLDER) => run(mode),
        Some(hosts::KEEPER) => hosts::run(mode),
        Some(probe::PROBE) => probe::run(mode),
        _ => return,
    };
    if let Err(failure) = &done {
        log(failure);
    }
    exit(i32::from(done.is_err()));
}

/// The hidden argument.
pub(crate) const HOLDER: &str = "overlay-holder";
/// Second argument: in namespaces of its own.
pub(crate) const OWN: &str = "own";
/// Second argument: in a network namespace that somebody else made.
pub(crate) const JOIN: &str = "join";
/// Second argument of the process that stays.
const SERVE: &str = "serve";

fn run(mode: &str) -> Result<(), Failure> {
    match mode {
        SERVE => serve(),
        OWN | JOIN => launch(mode == OWN),
        _ => {
            let error = io::ErrorKind::InvalidInput.into();
            Err(Failure::new("start a holder", &error))
        }
    }
}

/// The first process: makes the namespaces and starts the one that stays, as a child of whoever adopts orphans.
fn launch(own: bool) -> Result<(), Failure> {
    let launched = try_launch(own);
    if let Err(failure) = &launched {
        let connection = Connection::new(standard_input()?);
        let reply = Reply::Failed(failure.clone());
        connection
            .send(&reply, &[])
            .doing(|| "answer the daemon".into())?;
    }
    launched
}

fn try_launch(own: bool) -> Result<(), Failure> {
    unistd::setsid().doing(|| "lead a session".into())?;
    if own {
        let flags = CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWNET;
        crate::namespace::make(flags)?;
    }
    // Nobody waits for it here: it outlives this process.
    Command::new("/proc/self/exe")
        .arg0("overlay")
        .args([HOLDER, SERVE, if own { OWN } else { JOIN }])
        .stdout(Stdio::null())
        .spawn()
        .map(drop)
        .doing(|| "start the holder's process".into())
}

/// The process that stays.
fn serve() -> Result<(), Failure> {
    let stream = standard_input()?;
    let null = File::open("/dev/null").doing(|| "open /dev/null".into())?;
    unistd::dup2_stdin(null.as_fd()).doing(|| "let go of standard input".into())?;
    let own = env::args_os().nth(3).is_some_and(|mode| mode == OWN);
    stream
        .set_read_timeout(Some(SETUP_TIME_MAX))
        .doing(|| "limit the time to set up".into())?;
    let mut connection = Connection::new(stream);
    let (request, descriptors) = connection
        .receive::<Request>()
        .doing(|| "wait for the daemon's first words".into())?;
    let Request::Setup(setup) = request else {
        let error = io::ErrorKind::InvalidData.into();
        return Err(Failure::new("wait for the setup", &error));
    };
    match Server::set_up(*setup, descriptors.into_iter().next(), own) {
        Ok(mut server) => {
            server.greet(connection)?;
            server.run()
        }
        Err(failure) => {
            // A daemon that is gone needs no answer.
            let _ = connection.send(&Reply::Failed(failure.clone()), &[]);
            Err(failure)
        }
    }
}

/// Takes the conversation that was handed over as standard input.
pub(crate) fn standard_input() -> Result<UnixStream, Failure> {
    let descriptor: OwnedFd = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .doing(|| "take standard input".into())?;
    Ok(UnixStream::from(descriptor))
}

/// Says what went wrong in the holder's own log, which is its standard error.
fn log(failure: &Failure) {
    // Where even that cannot be written there is nobody left to tell.
    let _ = writeln!(io::stderr(), "overlay: {failure}");
}

/// Writes a file so that it is either the old or the new one.
fn replace(folder: &Path, name: &str, octets: &[u8]) -> io::Result<()> {
    let fresh = folder.join(format!("{name}.new"));
    fs::write(&fresh, octets)?;
    fs::rename(fresh, folder.join(name))
}

/// The daemon sends the setup before anything else.
const SETUP_TIME_MAX: Duration = Duration::from_secs(10);
