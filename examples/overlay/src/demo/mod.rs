//! The demo: three hosts on this machine become a cluster, programs on them ping each other by name, the leader dies.
//! The figures are measured on the same hosts.

mod cluster;
mod figures;
mod interrupt;
mod loopback;
mod services;
mod steps;
mod walk;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;
use clap::Args;
use overlay_linux::{Capabilities, Privilege, Verdict, capabilities, hosts};

use crate::cli::complain;
use interrupt::Interrupt;
use steps::Steps;

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leave the cluster up afterwards and print the commands to play with it
    #[arg(long)]
    keep: bool,
    /// Run the nodes on loopback with endpoints inside this process, even if hosts could be made
    #[arg(long)]
    in_process: bool,
}

/// See the help texts.
#[derive(Debug, Args)]
#[command(after_help = figures::HELP)]
pub(crate) struct FiguresArgs {
    /// How often everything is measured
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
}

/// Runs the demo; the exit code is that of the truth.
pub(crate) fn run(args: DemoArgs) -> ExitCode {
    let exe = std::env::current_exe().map_err(anyhow::Error::from);
    finish(exe.and_then(|exe| play(&args, exe)))
}

/// Measures on three hosts; the exit code says whether there were figures, not what they are.
pub(crate) fn measure(args: FiguresArgs) -> ExitCode {
    let exe = std::env::current_exe().map_err(anyhow::Error::from);
    finish(exe.and_then(|exe| {
        let mut steps = Steps::new();
        if let Some(reason) = enter(&steps, &exe) {
            bail!("no hosts of their own can be made here: {reason}");
        }
        figures::measure(&mut steps, &Interrupt::watch()?, exe, args.rounds)
    }))
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<interrupt::Interrupted>() => {
            complain(format_args!("{error}"));
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            complain(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn play(args: &DemoArgs, exe: PathBuf) -> anyhow::Result<()> {
    let mut steps = Steps::new();
    let refusal = if args.in_process {
        Some("asked for by --in-process".to_owned())
    } else {
        enter(&steps, &exe)
    };
    let interrupt = Interrupt::watch()?;
    match refusal {
        None => walk::walk(&mut steps, &interrupt, exe, args.keep),
        Some(reason) => {
            steps.note(&format!("no hosts of their own can be made here: {reason}"));
            steps.note("reduced demo: three nodes on loopback, endpoints inside this process");
            loopback::walk(&mut steps, &interrupt)
        }
    }
}

/// Makes sure that hosts can be made, or says why not.
///
/// What is possible is found by trying; namespaces are entered before any thread starts.
fn enter(steps: &Steps, exe: &Path) -> Option<String> {
    match capabilities(exe) {
        Ok(found) if found.endpoints() => match hosts::enter() {
            Ok(Privilege::Given) => None,
            Ok(Privilege::UserNamespace) => {
                steps.note("without root: everything happens inside a new user namespace");
                None
            }
            Err(error) => Some(error.to_string()),
        },
        Ok(found) => Some(refusals(&found)),
        Err(error) => Some(error.to_string()),
    }
}

/// Says why endpoints of their own are not possible.
fn refusals(found: &Capabilities) -> String {
    let reason = |verdict: &Verdict| match verdict {
        Verdict::Possible => None,
        Verdict::Refused { reason } => Some(reason.clone()),
    };
    let verdicts = [
        &found.privileged,
        &found.user_namespace,
        &found.tap,
        &found.packet,
    ];
    verdicts.into_iter().find_map(reason).unwrap_or_default()
}

/// What a shell reports for a program that an interrupt ended.
const INTERRUPTED: u8 = 130;
