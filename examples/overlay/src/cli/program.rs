//! `run`, `exec`, `stop`, `rm`, `ps`.

use std::{io::IsTerminal as _, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{
    Failure, ListingArgs, Report,
    listing::Item,
    network::{AddressArgs, choice},
    runnable, stream,
    table::{Table, ellipsis},
    terminal, unexpected,
};
use crate::{
    api::NetworkChoice,
    client::{Client, Launched},
    time,
    wire::{
        ExecRequest, ProgramInfo, ProgramRequest, ProgramResponse, ProgramState, RunRequest, Stdio,
        WindowSize,
    },
};

/// See the help texts.
#[derive(Debug, Args)]
#[command(after_help = RUN_EXIT_CODES)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    streams: StreamArgs,
    /// Remove the program as soon as it ends
    #[arg(long)]
    rm: bool,
    /// The name to be found by on the network [default: the short identity]
    #[arg(long)]
    name: Option<String>,
    /// A network: its name, or name=NETWORK,alias=NAME,ip=IP with any of them; may be repeated
    #[arg(long, required = true, value_parser = choice)]
    network: Vec<NetworkChoice>,
    /// On the first network
    #[command(flatten)]
    addresses: AddressArgs,
    /// One more name to be found by on the first network; may be repeated
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// See the help texts.
#[derive(Debug, Args)]
#[command(after_help = EXEC_EXIT_CODES)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    streams: StreamArgs,
    #[command(flatten)]
    place: PlaceArgs,
    /// The program: name, identity, or the beginning of the identity
    program: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// What the streams are connected to.
#[derive(Debug, Args)]
struct StreamArgs {
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Do not wait for its end
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,
}

/// Environment and directory.
#[derive(Debug, Args)]
struct PlaceArgs {
    /// Set a variable of its environment; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// The directory to start in [default: the present one]
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<PathBuf>,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Seconds until it is killed
    #[arg(short, long, visible_alias = "timeout", default_value_t = 10)]
    time: u32,
    #[command(flatten)]
    programs: ProgramsArgs,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Kill them first if they run
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    programs: ProgramsArgs,
}

#[derive(Debug, Args)]
struct ProgramsArgs {
    /// Name, identity, or the beginning of the identity
    #[arg(required = true, value_name = "PROGRAM")]
    programs: Vec<String>,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// List those that ended, too
    #[arg(short, long)]
    all: bool,
    /// Print whole identities and commands
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    listing: ListingArgs,
}

const RUN_EXIT_CODES: &str = "Exit code: that of the program; 125 if the daemon refused, \
    126 if the program cannot be executed, 127 if it was not found.";
const EXEC_EXIT_CODES: &str = "Exit code: that of the command; 1 if the daemon refused, \
    126 if the command cannot be executed, 127 if it was not found.";

impl StreamArgs {
    fn stdio(&self) -> Result<Stdio, Failure> {
        let stdin = self.interactive;
        Ok(match (self.detach, self.tty) {
            (true, _) => Stdio::Detached,
            (false, false) => Stdio::Pipes { stdin },
            (false, true) if stdin && !std::io::stdin().is_terminal() => {
                return Err(Failure::new(
                    "standard input is no terminal: leave --tty out, or --interactive",
                ));
            }
            (false, true) => {
                let size = terminal::size().unwrap_or(WindowSize {
                    rows: 24,
                    columns: 80,
                });
                Stdio::Terminal { stdin, size }
            }
        })
    }
}

impl PlaceArgs {
    /// The environment for a command with `stdio`, and the directory.
    fn resolve(self, stdio: Stdio) -> (Vec<String>, Option<PathBuf>) {
        let mut environment = Vec::new();
        if let (Stdio::Terminal { .. }, Ok(terminal)) = (stdio, std::env::var("TERM")) {
            environment.push(format!("TERM={terminal}"));
        }
        for variable in self.env {
            match (variable.contains('='), std::env::var(&variable)) {
                (true, _) => environment.push(variable),
                (false, Ok(value)) => environment.push(format!("{variable}={value}")),
                (false, Err(_)) => {}
            }
        }
        let directory = match self.workdir {
            Some(path) => std::path::absolute(path).ok(),
            None => std::env::current_dir().ok(),
        };
        (environment, directory)
    }
}

pub(super) async fn run(client: &Client, args: RunArgs) -> Result<Report, Failure> {
    let stdio = args.streams.stdio()?;
    let (environment, directory) = args.place.resolve(stdio);
    let mut networks = args.network;
    if let Some(first) = networks.first_mut() {
        if !args.addresses.is_empty() && !first.addresses.is_empty() {
            return Err(Failure::new(
                "the addresses on the first network are given twice: leave out --ip, or ip= in --network",
            )
            .with_code(125));
        }
        first.addresses.extend(args.addresses.list());
        first.aliases.extend(args.alias);
    }
    let request = RunRequest {
        name: args.name,
        networks,
        command: runnable(args.command, "run")?,
        environment,
        directory,
        stdio,
        remove: args.rm,
    };
    let launched = client.run(&request).await.map_err(|error| {
        let failure = Failure::from(error);
        let code = if failure.code == 1 { 125 } else { failure.code };
        failure.with_code(code)
    })?;
    match launched {
        Launched::Detached(started) => Ok(Report::line(started.id)),
        Launched::Attached(connection) => stream::carry(connection, stdio).await,
    }
}

pub(super) async fn exec(client: &Client, args: ExecArgs) -> Result<Report, Failure> {
    let stdio = args.streams.stdio()?;
    let (environment, directory) = args.place.resolve(stdio);
    let request = ExecRequest {
        program: args.program,
        command: runnable(args.command, "exec")?,
        environment,
        directory,
        stdio,
    };
    match client.exec(&request).await? {
        Launched::Detached(_) => Ok(Report::default()),
        Launched::Attached(connection) => stream::carry(connection, stdio).await,
    }
}

pub(super) async fn stop(client: &Client, args: StopArgs) -> Result<Report, Failure> {
    let timeout_seconds = args.time;
    each(client, args.programs, |program| ProgramRequest::Stop {
        program,
        timeout_seconds,
    })
    .await
}

pub(super) async fn remove(client: &Client, args: RemoveArgs) -> Result<Report, Failure> {
    let force = args.force;
    each(client, args.programs, |program| ProgramRequest::Remove {
        program,
        force,
    })
    .await
}

/// Asks the same of one program after the other; one that fails stops none of the rest.
async fn each(
    client: &Client,
    programs: ProgramsArgs,
    ask: impl Fn(String) -> ProgramRequest,
) -> Result<Report, Failure> {
    let mut report = Report::default();
    for program in programs.programs {
        let answer = client.programs(&ask(program.clone())).await;
        report.add(answer.map(|_| program).map_err(Failure::from));
    }
    Ok(report)
}

pub(super) async fn list(client: &Client, args: ListArgs) -> Result<Report, Failure> {
    let filters = args.listing.filters(&["id", "name", "network", "status"])?;
    filters.one_of("status", &["created", "running", "exited"])?;
    // A status that is asked for is shown, also that of programs that ended.
    let all = args.all || !filters.any("status", |_| false);
    let mut programs = match client.programs(&ProgramRequest::List { all }).await? {
        ProgramResponse::Programs(programs) => programs,
        other => return Err(unexpected(&other)),
    };
    programs.retain(|program| {
        filters.begins("id", &program.id.to_string())
            && filters.any("name", |value| program.name.contains(value))
            && filters.is("network", &program.network)
            && filters.is("status", state(program.state))
    });
    let (now, whole) = (time::unix_ms(), args.no_trunc || args.listing.whole());
    let rows: Vec<ProgramRow> = programs
        .iter()
        .map(|program| ProgramRow::new(program, now, whole))
        .collect();
    args.listing.print(&rows, table)
}

/// A line of `ps`; fields in the order that Docker prints in JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ProgramRow {
    address: String,
    command: String,
    created_at: String,
    #[serde(rename = "ID")]
    id: String,
    names: String,
    networks: String,
    running_for: String,
    state: &'static str,
    status: String,
}

const COMMAND_WIDTH_MAX: usize = 20;

impl ProgramRow {
    fn new(program: &ProgramInfo, now: u64, whole: bool) -> Self {
        let command = program.command.join(" ");
        let addresses: Vec<String> = program
            .addresses
            .iter()
            .map(|address| address.addr().to_string())
            .collect();
        let status = match program.state {
            ProgramState::Created => "Created".to_owned(),
            ProgramState::Running { since_unix_ms } => {
                format!("Up {}", time::human_since(since_unix_ms, now))
            }
            ProgramState::Exited { code, at_unix_ms } => {
                let ago = time::human_since(at_unix_ms, now);
                format!("Exited ({code}) {ago} ago")
            }
        };
        Self {
            address: addresses.join(","),
            command: if whole {
                format!("\"{command}\"")
            } else {
                format!("\"{}\"", ellipsis(&command, COMMAND_WIDTH_MAX))
            },
            created_at: time::rfc3339(program.created_unix_ms),
            id: if whole {
                program.id.to_string()
            } else {
                program.id.short()
            },
            names: program.name.clone(),
            networks: program.network.clone(),
            running_for: format!("{} ago", time::human_since(program.created_unix_ms, now)),
            state: state(program.state),
            status,
        }
    }
}

const fn state(state: ProgramState) -> &'static str {
    match state {
        ProgramState::Created => "created",
        ProgramState::Running { .. } => "running",
        ProgramState::Exited { .. } => "exited",
    }
}

impl Item for ProgramRow {
    const FIELDS: &'static [(&'static str, &'static str)] = &[
        ("Address", "ADDRESS"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("ID", "ID"),
        ("Names", "NAMES"),
        ("Networks", "NETWORK"),
        ("RunningFor", "CREATED"),
        ("State", "STATE"),
        ("Status", "STATUS"),
    ];

    fn identity(&self) -> String {
        self.id.clone()
    }
}

fn table(rows: &[ProgramRow]) -> Table {
    let headers = [
        "ID", "COMMAND", "CREATED", "STATUS", "NETWORK", "ADDRESS", "NAMES",
    ];
    let mut table = Table::new(&headers);
    for row in rows {
        table.row([
            row.id.clone(),
            row.command.clone(),
            row.running_for.clone(),
            row.status.clone(),
            row.networks.clone(),
            row.address.clone(),
            row.names.clone(),
        ]);
    }
    table
}
