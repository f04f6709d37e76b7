//! A small swarm: the daemon, its Docker-shaped command line, the demo and its figures.
//!
//! This binary only wires: `overlay-node` is the cluster, `overlay-linux` the operating system below it.

#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "a program has a clock, threads and pauses; the machines below have none"
)]

use overlay_node::api;

mod builtin;
mod cli;
mod client;
mod daemon;
mod demo;
mod time;
mod wire;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command, Failure, Report};
use client::Client;

fn main() -> ExitCode {
    // Before anything else, while there is one thread: this process may be a holder of programs.
    overlay_linux::holder::main_if_holder();
    let arguments = builtin::arguments(std::env::args_os().collect());
    let cli = Cli::parse_from(arguments);
    let socket = cli.socket.unwrap_or_else(cli::default_socket);
    match cli.command {
        Command::Builtin(command) => builtin::run(command),
        Command::Demo(args) => demo::run(args),
        Command::Figures(args) => demo::measure(args),
        Command::Daemon(args) => daemon::run(args, socket),
        Command::Generate(command) => finish(cli::generate(command)),
        Command::Ask(command) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let result = match runtime {
                Ok(runtime) => runtime.block_on(cli::ask(&Client::new(socket), command)),
                Err(error) => Err(Failure::new(error)),
            };
            finish(result)
        }
    }
}

fn finish(result: Result<Report, Failure>) -> ExitCode {
    let report = result.unwrap_or_else(|failure| Report {
        failures: vec![failure],
        ..Report::default()
    });
    report.finish()
}
