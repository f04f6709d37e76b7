//! `get`: fetches a page, for places without a browser.

use std::time::Duration;

use clap::Args;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::cli::{Failure, print};

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Address or name of the server, and its port: `web:8080`
    #[arg(value_name = "SERVER:PORT")]
    server: String,
    /// Seconds to wait for the answer
    #[arg(long, default_value_t = 5)]
    timeout: u64,
}

/// The longest answer, in octets.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Prints the body of the answer; 1 if there is none or it is no success.
pub(super) async fn run(args: GetArgs) -> Result<u8, Failure> {
    let server = &args.server;
    let fetched = timeout(Duration::from_secs(args.timeout), fetch(server)).await;
    let answer = match fetched {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(Failure::new(format_args!("{server}: {error}"))),
        Err(_) => return Err(Failure::new(format_args!("{server} does not answer"))),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(Failure::new(format_args!("{server} answers {status:?}")));
    }
    print(body);
    Ok(0)
}

async fn fetch(server: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
