//! The command line: Docker's words, columns and messages.

mod capture;
mod cluster;
mod doctor;
mod events;
mod filter;
mod generate;
mod listing;
mod logs;
mod network;
mod node;
mod policy;
mod program;
mod report;
mod service;
mod stream;
mod table;
mod template;
mod terminal;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub(crate) use generate::generate;
pub(crate) use listing::ListingArgs;
pub(crate) use report::{Failure, Report, complain, is_read, print};
pub(crate) use table::Table;

use crate::{builtin, client::Client, daemon, demo};

/// A small swarm: hosts become a cluster, overlay networks span them, programs on them find each other by name.
#[derive(Debug, Parser)]
#[command(
    name = "overlay",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// The unix socket of the daemon
    #[arg(long, global = true, env = "OVERLAY_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One of the commands, by where it runs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon of this host, in the foreground
    Daemon(daemon::DaemonArgs),
    /// Show it all on this machine: three hosts, a network, pings by name, a leader that dies
    Demo(demo::DemoArgs),
    /// Measure on this machine what a cluster of three hosts takes: fail-over, a lost node, writes, memory
    Figures(demo::FiguresArgs),
    #[command(flatten)]
    Generate(generate::GenerateCommand),
    #[command(flatten)]
    Ask(AskCommand),
    #[command(flatten)]
    Builtin(builtin::BuiltinCommand),
}

/// The commands that ask a daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum AskCommand {
    /// Make a new cluster, with this node as its first manager
    Init(cluster::InitArgs),
    /// Join a cluster, as worker or manager by the token
    Join(cluster::JoinArgs),
    /// Leave the cluster
    Leave(cluster::LeaveArgs),
    /// Print the command with which another host joins
    JoinToken(cluster::JoinTokenArgs),
    /// Manage join tokens that expire, or that let a certain number of nodes in
    #[command(subcommand)]
    Token(cluster::token::TokenCommand),
    /// Print the certificate of the cluster's authority, or replace the authority
    Ca(cluster::authority::CaArgs),
    /// Open this manager after a restart, with the unlock key from standard input
    Unlock,
    /// Print the key that managers open with after a restart
    UnlockKey(cluster::locking::UnlockKeyArgs),
    /// Describe this node
    Info(cluster::InfoArgs),
    /// Manage the cluster as a whole
    #[command(subcommand)]
    Cluster(cluster::settings::ClusterCommand),
    /// Manage nodes
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Manage networks
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Manage who on a network may reach whom
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Manage services
    #[command(subcommand)]
    Service(service::ServiceCommand),
    Capture(capture::CaptureArgs),
    Doctor(doctor::DoctorArgs),
    /// Show what changed in the cluster
    Events(events::EventsArgs),
    /// Print what a program, a task, or the tasks of a service have written
    Logs(logs::LogsArgs),
    /// Run a program on a network
    Run(program::RunArgs),
    /// Run a command beside a running program
    Exec(program::ExecArgs),
    /// Stop running programs
    Stop(program::StopArgs),
    /// Remove programs
    Rm(program::RemoveArgs),
    /// List programs
    Ps(program::ListArgs),
    /// Attach a network namespace that somebody else made to a network
    Attach(network::AttachArgs),
    /// Detach what `attach` attached
    Detach(network::DetachArgs),
}

/// The socket to use when neither `--socket` nor `OVERLAY_SOCKET` says another.
pub(crate) fn default_socket() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run/overlay.sock");
    }
    let directory = std::env::var_os("XDG_RUNTIME_DIR");
    directory
        .map_or_else(std::env::temp_dir, PathBuf::from)
        .join("overlay.sock")
}

/// Carries out a command that asks the daemon.
pub(crate) async fn ask(client: &Client, command: AskCommand) -> Result<Report, Failure> {
    match command {
        AskCommand::Init(args) => cluster::init(client, args).await,
        AskCommand::Join(args) => cluster::join(client, args).await,
        AskCommand::Leave(args) => cluster::leave(client, args).await,
        AskCommand::JoinToken(args) => cluster::join_token(client, args).await,
        AskCommand::Token(command) => cluster::token::run(client, command).await,
        AskCommand::Ca(args) => cluster::authority::run(client, args).await,
        AskCommand::Unlock => cluster::locking::unlock(client).await,
        AskCommand::UnlockKey(args) => cluster::locking::unlock_key(client, args).await,
        AskCommand::Info(args) => cluster::info(client, args).await,
        AskCommand::Cluster(command) => cluster::settings::run(client, command).await,
        AskCommand::Node(command) => node::run(client, command).await,
        AskCommand::Network(command) => network::run(client, command).await,
        AskCommand::Policy(command) => policy::run(client, command).await,
        AskCommand::Service(command) => service::run(client, command).await,
        AskCommand::Capture(args) => capture::run(client, args).await,
        AskCommand::Doctor(args) => doctor::run(client, args).await,
        AskCommand::Events(args) => events::run(client, args).await,
        AskCommand::Logs(args) => logs::run(client, args).await,
        AskCommand::Run(args) => program::run(client, args).await,
        AskCommand::Exec(args) => program::exec(client, args).await,
        AskCommand::Stop(args) => program::stop(client, args).await,
        AskCommand::Rm(args) => program::remove(client, args).await,
        AskCommand::Ps(args) => program::list(client, args).await,
        AskCommand::Attach(args) => network::attach(client, args).await,
        AskCommand::Detach(args) => network::detach(client, args).await,
    }
}

/// The daemon answered something else than was asked.
fn unexpected(response: &impl std::fmt::Debug) -> Failure {
    Failure::new(format_args!(
        "the daemon answered something else than was asked: {response:?}; are both of one version?"
    ))
}

/// Refuses a command that begins like an option: it was meant to be one, and there is none of that name.
fn runnable(command: Vec<String>, of: &str) -> Result<Vec<String>, Failure> {
    match command.first() {
        Some(option) if option.starts_with('-') => Err(Failure::new(format_args!(
            "no option `{option}`: `overlay {of} --help` lists those that there are"
        ))
        .with_code(2)),
        _ => Ok(command),
    }
}

/// Reads `KEY=VALUE`; without the sign the value is empty.
fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("expected KEY=VALUE, found `{text}`"));
    }
    Ok((key.to_owned(), value.to_owned()))
}
