//! `unlock`, `unlock-key`, and `--autolock`.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Args;

use crate::{
    api::{Request, Response},
    cli::{Failure, Report, terminal::Hidden, unexpected},
    client::Client,
};

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct UnlockKeyArgs {
    /// Only print the key
    #[arg(short, long)]
    quiet: bool,
    /// Replace the key first; a manager that is down now still opens with the former one
    #[arg(long)]
    rotate: bool,
}

/// Reads the key from standard input: an argument would be seen by everybody on the host.
pub(crate) async fn unlock(client: &Client) -> Result<Report, Failure> {
    let key = read_key()
        .map_err(|error| Failure::new(format_args!("the unlock key could not be read: {error}")))?;
    match client.request(&Request::Unlock { key }).await? {
        Response::Done => Ok(Report::default()),
        other => Err(unexpected(&other)),
    }
}

fn read_key() -> io::Result<String> {
    let mut key = String::new();
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        stdin.read_line(&mut key)?;
        return Ok(key);
    }
    let mut terminal = io::stderr();
    write!(terminal, "Please enter the unlock key: ")?;
    terminal.flush()?;
    let hidden = Hidden::enter()?;
    let read = stdin.read_line(&mut key);
    drop(hidden);
    writeln!(terminal)?;
    read.map(|_| key)
}

pub(crate) async fn unlock_key(client: &Client, args: UnlockKeyArgs) -> Result<Report, Failure> {
    let rotate = args.rotate;
    let Some(key) = ask(client, Request::UnlockKey { rotate }).await? else {
        return Err(Failure::new(
            "managers are not locked, so there is no unlock key: `overlay cluster update --autolock` makes one",
        ));
    };
    if args.quiet {
        return Ok(Report::line(key));
    }
    let done = if rotate {
        "Successfully rotated manager unlock key.\n\n"
    } else {
        ""
    };
    Ok(Report::text(format!("{done}{}", how_to_unlock(&key))))
}

/// Has managers locked or open, and says with which key they open.
pub(crate) async fn autolock(client: &Client, on: bool) -> Result<String, Failure> {
    let key = ask(client, Request::Autolock { on }).await?;
    Ok(key.map_or_else(String::new, |key| format!("\n{}", how_to_unlock(&key))))
}

async fn ask(client: &Client, request: Request) -> Result<Option<String>, Failure> {
    match client.request(&request).await? {
        Response::UnlockKey(key) => Ok(key),
        other => Err(unexpected(&other)),
    }
}

fn how_to_unlock(key: &str) -> String {
    format!(
        "A manager whose daemon was restarted waits for `overlay unlock` and this key:\n\n    {key}\n\n\
         Keep it where no manager's disk is: without it, none of them starts again.\n"
    )
}
