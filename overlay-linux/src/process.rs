//! The daemon's side of a program that a holder has started.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    command::{Exit, ProcessId, WindowSize},
    holder::wire::{Connection, Reply, Streams},
    sys,
};

/// A program in an endpoint's namespaces, with its streams.
///
/// Its descriptor ([`AsFd`]) becomes readable when the program has ended; ask [`try_wait`](Self::try_wait) then.
/// Dropping this leaves the program running: its holder goes on reading what it writes.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    connection: Connection,
    exit: Option<Exit>,
    /// The other end of its terminal, to be read and written.
    pub terminal: Option<File>,
    /// Its standard input, to be written; drop it for an end of input.
    pub input: Option<File>,
    /// Its standard output, to be read.
    pub output: Option<File>,
    /// Its standard error, to be read.
    pub error: Option<File>,
}

impl Process {
    pub(crate) fn new(
        id: ProcessId,
        streams: Streams,
        descriptors: Vec<OwnedFd>,
        connection: Connection,
    ) -> io::Result<Self> {
        connection.stream().set_nonblocking(true)?;
        let mut descriptors = descriptors.into_iter().map(File::from);
        let mut next = |present: bool| {
            if !present {
                return Ok(None);
            }
            let file = descriptors.next();
            file.map(Some)
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        };
        Ok(Self {
            id,
            terminal: next(streams.terminal)?,
            input: next(streams.input)?,
            output: next(streams.output)?,
            error: next(streams.error)?,
            connection,
            exit: None,
        })
    }

    /// Returns its number within the endpoint.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Returns how it ended, `None` while it runs. Never blocks.
    ///
    /// # Errors
    ///
    /// What the system says of the connection to the holder.
    pub fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        while self.exit.is_none() {
            if let Some((Reply::Exited(exit), _)) = self.connection.next::<Reply>()? {
                self.exit = Some(exit);
                break;
            }
            match self.connection.fill() {
                Ok(true) => {}
                Ok(false) => self.exit = Some(Exit::Unknown),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    self.exit = Some(Exit::Unknown);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.exit)
    }

    /// Waits until it has ended, at most `limit`; `None` if it still runs then.
    ///
    /// # Errors
    ///
    /// As [`try_wait`](Self::try_wait).
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<Exit>> {
        if self.try_wait()?.is_none() {
            let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
            poll(
                &mut [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)],
                timeout,
            )?;
        }
        self.try_wait()
    }

    /// Tells its terminal, if it has one, how large the window is now; the program hears of it by SIGWINCH.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn resize(&self, size: WindowSize) -> io::Result<()> {
        let terminal = self.terminal.as_ref();
        terminal.map_or(Ok(()), |terminal| {
            sys::set_window(terminal, size.rows, size.columns)
        })
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
