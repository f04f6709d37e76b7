//! What is started in an endpoint's namespaces, and how it ends.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// A program to be started in an endpoint's namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandSpec {
    /// What is executed: a path, or a name that is looked for in the environment's `PATH`.
    pub program: PathBuf,
    /// The name under which it is executed (`argv[0]`), where that is not `program`.
    pub arg0: Option<String>,
    /// Its arguments, without `argv[0]`.
    pub args: Vec<String>,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
    /// Its working directory; `/` if none.
    pub directory: Option<PathBuf>,
    /// What its standard streams are.
    pub stdio: Stdio,
}

impl CommandSpec {
    /// Makes a command without arguments, with an empty environment and its output kept.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arg0: None,
            args: Vec::new(),
            environment: BTreeMap::new(),
            directory: None,
            stdio: Stdio::Kept,
        }
    }

    /// Makes a command that executes the holder's own binary under another name: a built-in program.
    pub fn builtin(name: impl Into<String>) -> Self {
        Self {
            arg0: Some(name.into()),
            ..Self::new("/proc/self/exe")
        }
    }

    /// Sets the arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets one variable of the environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Sets what the standard streams are.
    #[must_use]
    pub fn stdio(mut self, stdio: Stdio) -> Self {
        self.stdio = stdio;
        self
    }
}

/// What the standard streams of a program are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// No input; the holder keeps the newest output in a file of bounded size.
    Kept,
    /// Pipes, handed to the daemon.
    Pipes {
        /// Whether there is a standard input at all.
        input: bool,
    },
    /// A terminal of its own, whose other end is handed to the daemon.
    Terminal(WindowSize),
}

/// Size of a terminal's window, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// A program that a holder has started; counted from 1 within an endpoint, never used again.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct ProcessId(pub u32);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By a signal of this number.
    Signal(i32),
    /// With its holder: nobody saw how.
    Unknown,
}

impl Exit {
    /// Returns the status as a shell shows it: 128 + n for signal n.
    pub const fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::Unknown => 255,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::Unknown => f.write_str("lost with its holder"),
        }
    }
}

/// A program of an endpoint, as its holder knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its number within the endpoint.
    pub id: ProcessId,
    /// What was started.
    pub command: CommandSpec,
    /// Whether it is the endpoint's main program, with which all others end.
    pub main: bool,
    /// How it ended; `None` while it runs.
    pub exit: Option<Exit>,
    /// When it was started, since the Unix epoch.
    pub started: Duration,
    /// When it ended, since the Unix epoch.
    pub ended: Option<Duration>,
}
