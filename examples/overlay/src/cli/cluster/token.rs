//! `token ls`, `token rm`, and `join-token` with an end.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::join_command;
use crate::{
    api::{IssuedTokenInfo, Request, Response, TokenCreate, TokenInfo},
    cli::{Failure, ListingArgs, Report, Table, listing::Item, unexpected},
    client::Client,
    time,
};

/// See the help texts.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// List the join tokens that were made by `join-token --expires` or `--uses`
    #[command(visible_alias = "list")]
    Ls(ListingArgs),
    /// Take such tokens back; nodes that joined with them stay
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// The identity that `token ls` shows
    #[arg(required = true, value_name = "TOKEN")]
    tokens: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TokenJson {
    #[serde(rename = "ID")]
    id: String,
    role: &'static str,
    created_at: String,
    /// Empty if it does not expire.
    expires_at: String,
    /// How many nodes more it lets in; any number if `null`.
    uses_left: Option<u32>,
}

impl Item for TokenJson {
    const FIELDS: &'static [(&'static str, &'static str)] = &[
        ("ID", "ID"),
        ("Role", "ROLE"),
        ("CreatedAt", "CREATED"),
        ("ExpiresAt", "EXPIRES"),
        ("UsesLeft", "USES LEFT"),
    ];

    fn identity(&self) -> String {
        self.id.clone()
    }
}

impl From<IssuedTokenInfo> for TokenJson {
    fn from(info: IssuedTokenInfo) -> Self {
        Self {
            id: info.id,
            role: info.role.as_str(),
            created_at: time::rfc3339(info.created_unix_ms),
            expires_at: info.expires_unix_ms.map_or_else(String::new, time::rfc3339),
            uses_left: info.uses_left,
        }
    }
}

pub(crate) async fn create(
    client: &Client,
    wanted: TokenCreate,
    quiet: bool,
) -> Result<Report, Failure> {
    let made = match client.request(&Request::TokenCreate(wanted)).await? {
        Response::Tokens(mut tokens) if tokens.len() == 1 => tokens.remove(0),
        other => return Err(unexpected(&other)),
    };
    if quiet {
        return Ok(Report::line(made.token));
    }
    Ok(Report::text(join_command(&TokenInfo {
        role: made.role,
        token: made.token,
        remote: made.remote,
    })))
}

pub(crate) async fn run(client: &Client, command: TokenCommand) -> Result<Report, Failure> {
    match command {
        TokenCommand::Ls(args) => list(client, args).await,
        TokenCommand::Rm(args) => {
            let mut report = Report::default();
            for token in args.tokens {
                let request = Request::TokenRemove {
                    token: token.clone(),
                };
                report.add(match client.request(&request).await {
                    Ok(Response::Done) => Ok(token),
                    Ok(other) => Err(unexpected(&other)),
                    Err(error) => Err(error.into()),
                });
            }
            Ok(report)
        }
    }
}

async fn list(client: &Client, args: ListingArgs) -> Result<Report, Failure> {
    args.filters(&[])?;
    let tokens = match client.request(&Request::TokenList).await? {
        Response::Tokens(tokens) => tokens,
        other => return Err(unexpected(&other)),
    };
    let items: Vec<TokenJson> = tokens.into_iter().map(Into::into).collect();
    args.print(&items, |items| {
        let mut table = Table::new(&["ID", "ROLE", "CREATED", "EXPIRES", "USES LEFT"]);
        for item in items {
            let uses = item.uses_left;
            table.row([
                item.id.clone(),
                item.role.to_owned(),
                item.created_at.clone(),
                item.expires_at.clone(),
                uses.map_or_else(|| "any".to_owned(), |uses| uses.to_string()),
            ]);
        }
        table
    })
}
