//! A replicated key-value store: what a program does around [`overlay_raft::driver::Member`].
//!
//! `state` is what is replicated, `server` answers clients, `client` asks until it has an answer; the README shows a session.

#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "a program has a clock; the machine has none"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it answers on standard output, and says on standard error what happens"
)]

mod args;
mod bench;
mod client;
mod protocol;
mod server;
mod state;

use std::{process::ExitCode, time::Duration};

use clap::Parser as _;
use overlay_raft::driver::Start;

use args::{At, Cli, Command, Serve};
use client::Client;
use protocol::{Answer, Freshness, Request};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Serve(serve) => server::serve(settings(&serve)).await?,
        Command::Status { at } => return status(at).await,
        Command::Bench {
            reads,
            in_flight,
            connections,
            seconds,
            value_bytes,
            at,
        } => {
            let load = bench::Load {
                reads,
                in_flight,
                connections,
                seconds,
                value_bytes,
            };
            bench::run(at.addresses, load).await?;
        }
        Command::BenchDisk { data, seconds } => bench::disk(&data, seconds)?,
        command => return ask(command).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn settings(serve: &Serve) -> server::Settings {
    server::Settings {
        id: serve.id,
        peers: serve.peers(),
        clients: serve.listen_clients,
        data: serve.data.clone(),
        start: match (serve.found, serve.join) {
            (true, _) => Start::Found,
            (false, true) => Start::Join,
            (false, false) => Start::Resume,
        },
        group: serve.group,
        timers: serve.profile.timers(),
        clock_drift_ppm_max: serve.clock_drift_ppm,
        compact_entries: serve.compact_entries,
    }
}

/// Asks one thing and prints the answer.
async fn ask(command: Command) -> anyhow::Result<ExitCode> {
    let answer = match command {
        Command::Put { key, value, at } => {
            let put = |session, number| Request::Put {
                session,
                number,
                key: key.clone(),
                value: value.clone(),
            };
            client(at)?.write(put).await?
        }
        Command::Delete { key, at } => {
            let delete = |session, number| Request::Delete {
                session,
                number,
                key: key.clone(),
            };
            client(at)?.write(delete).await?
        }
        Command::Cas {
            key,
            old,
            new,
            absent,
            at,
        } => {
            let cas = |session, number| Request::Cas {
                session,
                number,
                key: key.clone(),
                old: (!absent).then(|| old.clone()),
                new: new.clone(),
            };
            client(at)?.write(cas).await?
        }
        Command::Get {
            key,
            stale,
            lease,
            at,
        } => {
            let freshness = match (stale, lease) {
                (true, _) => Freshness::Stale,
                (_, true) => Freshness::Lease,
                _ => Freshness::Linearizable,
            };
            client(at)?.ask(&Request::Get { key, freshness }).await?
        }
        Command::AddLearner { member, at } => {
            let (id, address) = (member.0.get(), member.1.to_string());
            client(at)?
                .ask(&Request::AddLearner { id, address })
                .await?
        }
        Command::Promote { id, at } => client(at)?.ask(&Request::Promote { id }).await?,
        Command::Remove { id, at } => client(at)?.ask(&Request::Remove { id }).await?,
        Command::Transfer { to, at } => client(at)?.ask(&Request::Transfer { to }).await?,
        Command::Serve(_)
        | Command::Status { .. }
        | Command::Bench { .. }
        | Command::BenchDisk { .. } => {
            unreachable!("done before")
        }
    };
    Ok(say(answer))
}

fn client(at: At) -> anyhow::Result<Client> {
    Client::new(at.addresses, Duration::from_secs(at.patience))
}

fn say(answer: Answer) -> ExitCode {
    match answer {
        Answer::Done => println!("done"),
        Answer::Value { value: Some(value) } => println!("{value}"),
        Answer::Value { value: None } => return ExitCode::FAILURE,
        Answer::Differs { found } => {
            println!("not done, the value is {found:?}");
            return ExitCode::FAILURE;
        }
        Answer::Refused { why } => {
            println!("refused: {why}");
            return ExitCode::FAILURE;
        }
        other => {
            println!("{other:?}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Asks each member for itself.
async fn status(at: At) -> anyhow::Result<ExitCode> {
    let patience = Duration::from_secs(at.patience.min(1));
    let mut silent = false;
    for address in at.addresses {
        let mut client = Client::new(vec![address.clone()], patience)?;
        match client.ask(&Request::Status).await {
            Ok(Answer::Status(status)) => println!("{address} {}", serde_json::to_string(&status)?),
            Ok(other) => println!("{address} {other:?}"),
            Err(error) => {
                silent = true;
                println!("{address} {error}");
            }
        }
    }
    Ok(ExitCode::from(u8::from(silent)))
}
