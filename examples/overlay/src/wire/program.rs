//! Programs: what a client asks for and what it is told.

use std::path::PathBuf;

use ipnet::IpNet;
use overlay_core::{EndpointId, TaskId};
use overlay_node::driver::LogOptions;
use serde::{Deserialize, Serialize};

use crate::api::{self, NetworkChoice};

/// What a client asks about programs, beside running them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ProgramRequest {
    /// Lists the programs.
    List {
        /// Those that ended, too.
        all: bool,
    },
    /// Ends a program: SIGTERM, and SIGKILL after the time-out.
    Stop {
        /// Identity, name, or an unambiguous prefix of the identity.
        program: String,
        /// How long to wait in between, in seconds.
        timeout_seconds: u32,
    },
    /// Removes a program that ended.
    Remove {
        /// As in `Stop`.
        program: String,
        /// Kill it first if it runs.
        force: bool,
    },
    /// Answers when the program has ended.
    Wait {
        /// As in `Stop`.
        program: String,
    },
    /// Gives a program that runs an interface on one more network.
    Connect {
        /// As in `Stop`.
        program: String,
        /// The network, and who the program is on it.
        network: NetworkChoice,
    },
    /// Takes a program that runs off a network.
    Disconnect {
        /// As in `Stop`.
        program: String,
        /// The network: identity, name, or an unambiguous prefix of the identity.
        network: String,
        /// Answer at once also when no manager can be asked: it is done as soon as one can.
        force: bool,
    },
    /// Lists the tasks of services that this node runs or ran lately.
    Tasks,
}

/// The answer to a [`ProgramRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ProgramResponse {
    /// To `List`, sorted by creation, newest first.
    Programs(Vec<ProgramInfo>),
    /// To `Wait`.
    Exited {
        /// The exit code; 128 and the signal's number if a signal ended it.
        code: i32,
    },
    /// To `Tasks`.
    Tasks(Vec<TaskProgram>),
    /// It is done; there is nothing to tell.
    Done,
}

/// Asks for what a program or task has written; the answer is a [`LogItem`] a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogsRequest {
    /// Of what.
    pub(crate) of: LogsOf,
    /// Which part.
    pub(crate) options: LogOptions,
}

/// Whose output is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogsOf {
    /// A program or task of this node: identity, name, or an unambiguous prefix of the identity.
    Program(String),
    /// A task, on any node if this one is a manager.
    Task(TaskId),
}

/// One line of an output, or its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogItem {
    /// A line.
    Line {
        /// When it was written, in milliseconds since 1970.
        at_unix_ms: Option<u64>,
        /// What; what is no UTF-8 is replaced.
        text: String,
    },
    /// Why there is nothing more.
    Refused(Refusal),
}

/// The program of a task on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskProgram {
    /// The task.
    pub(crate) id: TaskId,
    /// Its name: that of its service, and its slot.
    pub(crate) name: String,
    /// The name of its service.
    pub(crate) service: String,
    /// Whether it runs.
    pub(crate) running: bool,
}

/// A program to be run on networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunRequest {
    /// Its name, also in the networks' names; the short identity if `None`.
    pub(crate) name: Option<String>,
    /// The networks, at least one: its first interface is on the first.
    pub(crate) networks: Vec<NetworkChoice>,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// More environment, `KEY=VALUE`.
    pub(crate) environment: Vec<String>,
    /// The directory to start in; `/` if `None`.
    pub(crate) directory: Option<PathBuf>,
    /// What its streams are connected to.
    pub(crate) stdio: Stdio,
    /// Forget it as soon as it ends.
    pub(crate) remove: bool,
}

/// A command to be run beside a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExecRequest {
    /// The program: identity, name, or an unambiguous prefix of the identity.
    pub(crate) program: String,
    /// The command and its arguments.
    pub(crate) command: Vec<String>,
    /// More environment, `KEY=VALUE`.
    pub(crate) environment: Vec<String>,
    /// The directory to start in; `/` if `None`.
    pub(crate) directory: Option<PathBuf>,
    /// What its streams are connected to.
    pub(crate) stdio: Stdio,
}

/// What the streams of a program are connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stdio {
    /// Nothing.
    Detached,
    /// Pipes to the client; standard input only if `stdin`.
    Pipes {
        /// Whether the client sends input.
        stdin: bool,
    },
    /// A terminal of this size, driven by the client.
    Terminal {
        /// Whether the client sends input.
        stdin: bool,
        /// Its size.
        size: WindowSize,
    },
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WindowSize {
    /// Lines.
    pub(crate) rows: u16,
    /// Characters in a line.
    pub(crate) columns: u16,
}

/// The answer to a detached run or exec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    /// The program, for `exec` the one that it runs beside.
    pub(crate) id: EndpointId,
}

/// One program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProgramInfo {
    /// Its identity, that of its first endpoint.
    pub(crate) id: EndpointId,
    /// Its name.
    pub(crate) name: String,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// Names of its networks, by its interfaces, with commas.
    pub(crate) network: String,
    /// Its addresses, in the same order.
    pub(crate) addresses: Vec<IpNet>,
    /// Whether it is forgotten as soon as it ends.
    pub(crate) remove: bool,
    /// When it was created, in milliseconds since 1970.
    pub(crate) created_unix_ms: u64,
    /// What it is doing.
    pub(crate) state: ProgramState,
}

/// What a program is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProgramState {
    /// It is being started.
    Created,
    /// It runs.
    Running {
        /// Since when, in milliseconds since 1970.
        since_unix_ms: u64,
    },
    /// It ended.
    Exited {
        /// The exit code; 128 and the signal's number if a signal ended it.
        code: i32,
        /// When, in milliseconds since 1970.
        at_unix_ms: u64,
    },
}

impl ProgramState {
    /// Whether it has not ended.
    pub(crate) const fn is_running(&self) -> bool {
        !matches!(self, Self::Exited { .. })
    }
}

/// The body of every answer that is none: what was wrong, and how the command line is to exit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// What was wrong and what next.
    #[serde(flatten)]
    pub(crate) error: api::Error,
    /// The exit code of a command that could not be started: 126 if it is none, 127 if it was not found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<u8>,
}

impl From<api::Error> for Refusal {
    fn from(error: api::Error) -> Self {
        Self {
            error,
            exit_code: None,
        }
    }
}
