//! `ca`: the cluster's certificate authority.

use std::time::Duration;

use clap::Args;

use crate::{
    api::{ClusterInfo, Request, Response},
    cli::{Failure, Report, unexpected},
    client::Client,
};

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct CaArgs {
    /// Replace the authority: all nodes get new certificates, then the join tokens change
    #[arg(long)]
    rotate: bool,
    /// Do not wait until all nodes have new certificates
    #[arg(short, long, requires = "rotate")]
    detach: bool,
}

pub(crate) async fn run(client: &Client, args: CaArgs) -> Result<Report, Failure> {
    if !args.rotate {
        return Ok(Report::text(inspect(client).await?.ca_certificate));
    }
    let rotate = Request::AuthorityRotate { next: None };
    match client.request(&rotate).await? {
        Response::Done => {}
        other => return Err(unexpected(&other)),
    }
    if args.detach {
        return Ok(Report::line(
            "The certificate authority is being replaced: `overlay cluster inspect` tells when it is done.",
        ));
    }
    loop {
        let info = inspect(client).await?;
        if info.next_authority.is_none() {
            return Ok(Report::text(info.ca_certificate));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn inspect(client: &Client) -> Result<ClusterInfo, Failure> {
    match client.request(&Request::ClusterInspect).await? {
        Response::Cluster(info) => Ok(*info),
        other => Err(unexpected(&other)),
    }
}

/// How often it is looked whether all nodes have new certificates.
const LOOK: Duration = Duration::from_millis(200);
