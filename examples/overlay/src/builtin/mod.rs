//! Programs that come with the binary, so that the demo needs none beside itself: `ping`, `sleep`, `httpd` and `echod`.
//!
//! They run as `overlay ping …`, or when the binary is executed under their names.

mod echo;
mod echod;
mod get;
mod httpd;
mod ping;
mod sleep;

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::Subcommand;

pub(crate) use echod::EchodArgs;
pub(crate) use get::GetArgs;
pub(crate) use httpd::HttpdArgs;
pub(crate) use ping::PingArgs;
pub(crate) use sleep::SleepArgs;

use crate::cli::{Failure, Report};

/// See the help texts.
#[derive(Debug, Subcommand)]
pub(crate) enum BuiltinCommand {
    /// Send ICMP echo requests and tell of the replies
    Ping(PingArgs),
    /// Do nothing for a while
    Sleep(SleepArgs),
    /// Answer HTTP requests with who answers
    Httpd(HttpdArgs),
    /// Send UDP datagrams back; answer an empty one with the task's name
    Echod(EchodArgs),
    /// Fetch a page over HTTP
    Get(GetArgs),
}

/// Turns `/somewhere/ping HOST` into `overlay ping HOST`; other arguments stay as they are.
pub(crate) fn arguments(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments
        .first()
        .map(Path::new)
        .and_then(Path::file_name)
        .map(OsString::from);
    match name {
        Some(name)
            if ["ping", "sleep", "httpd", "echod"]
                .iter()
                .any(|builtin| name == *builtin) =>
        {
            arguments.splice(..1, [OsString::from("overlay"), name]);
            arguments
        }
        _ => arguments,
    }
}

/// Runs a built-in program to its end.
pub(crate) fn run(command: BuiltinCommand) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(async {
            match command {
                BuiltinCommand::Ping(args) => ping::run(args).await,
                BuiltinCommand::Sleep(args) => sleep::run(args).await,
                BuiltinCommand::Httpd(args) => httpd::run(args).await,
                BuiltinCommand::Echod(args) => echod::run(args).await,
                BuiltinCommand::Get(args) => get::run(args).await,
            }
        }),
        Err(error) => Err(Failure::new(error)),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => Report {
            failures: vec![failure],
            ..Report::default()
        }
        .finish(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_binary_chooses_a_builtin() {
        let given = |words: &[&str]| arguments(words.iter().map(OsString::from).collect());
        assert_eq!(
            given(&["/x/ping", "-c", "1", "a"]),
            ["overlay", "ping", "-c", "1", "a"]
        );
        assert_eq!(given(&["overlay", "ping", "a"]), ["overlay", "ping", "a"]);
        assert_eq!(given(&[]), [""; 0]);
    }
}
