//! A tiny HTTP responder: each request is answered with who answers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use overlay_linux::netlink::Netlink;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::Semaphore,
    time::timeout,
};

use crate::cli::{Failure, print};

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct HttpdArgs {
    /// TCP port to listen at
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// What to say beside
    #[arg(long)]
    text: Option<String>,
}

/// Requests that are answered at a time.
const CLIENTS_MAX: usize = 256;
/// The longest head of a request, in octets.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a connection that could not be taken: too many files are open.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers until a signal ends it.
pub(super) async fn run(args: HttpdArgs) -> Result<u8, Failure> {
    let listener = listen(args.port).await.map_err(|error| {
        Failure::new(format_args!("cannot listen at port {}: {error}", args.port))
    })?;
    print(&format!("listening at port {}\n", args.port));
    let text = args.text.map(|text| text + "\n").unwrap_or_default();
    let text: Arc<str> = text.into();
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let Ok((connection, from)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let text = Arc::clone(&text);
        tokio::spawn(async move {
            let _place = place;
            let from = from.ip().to_canonical();
            let about = || about(&text, &addresses(), from);
            let answered = timeout(PATIENCE, answer(connection, about)).await;
            if let Ok(Ok(request)) = answered {
                print(&format!("{from} {}\n", request.escape_debug()));
            }
        });
    }
}

/// Listens at all addresses of both kinds, or at those of IPv4 where there is no other.
async fn listen(port: u16) -> io::Result<TcpListener> {
    let any = |address: IpAddr| SocketAddr::new(address, port);
    match TcpListener::bind(any(Ipv6Addr::UNSPECIFIED.into())).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(any(Ipv4Addr::UNSPECIFIED.into())).await,
    }
}

/// Reads one request and answers it; returns its first line.
async fn answer(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    about: impl FnOnce() -> String,
) -> io::Result<String> {
    let mut head = Vec::new();
    let mut chunk = [0; 1_024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = connection.read(&mut chunk).await?;
        if length == 0 || head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(chunk.get(..length).unwrap_or_default());
    }
    let head = String::from_utf8_lossy(&head);
    let request = head.lines().next().unwrap_or_default().to_owned();
    let body = about();
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    if !request.starts_with("HEAD ") {
        answer.push_str(&body);
    }
    connection.write_all(answer.as_bytes()).await?;
    connection.shutdown().await?;
    Ok(request)
}

/// Who this is, and who asks.
fn about(text: &str, addresses: &[String], client: IpAddr) -> String {
    let host = rustix::system::uname();
    let mut body = format!("{text}host: {}\n", host.nodename().to_string_lossy());
    for address in addresses {
        body.push_str(&format!("address: {address}\n"));
    }
    body.push_str(&format!("client: {client}\n"));
    if let Ok(task) = std::env::var("OVERLAY_TASK") {
        body.push_str(&format!("task: {task}\n"));
    }
    body
}

/// The addresses of this host, without those that are nobody else's business.
fn addresses() -> Vec<String> {
    let found = || -> io::Result<Vec<String>> {
        let mut netlink = Netlink::open()?;
        let mut found = Vec::new();
        for link in netlink.links()? {
            let addresses = netlink.addresses(link.index)?.into_iter();
            let addresses = addresses.map(|address| address.addr());
            let shown = addresses.filter(|address| match address {
                IpAddr::V4(address) => !address.is_loopback(),
                IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
            });
            found.extend(shown.map(|address| address.to_string()));
        }
        Ok(found)
    };
    found().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(request: &[u8]) -> String {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(request).await.unwrap();
        let about = || about("hello\n", &["10.0.1.2".into()], [192, 0, 2, 7].into());
        let answered = answer(server, about).await;
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(answered.is_ok(), !text.is_empty());
        text
    }

    #[tokio::test]
    async fn a_request_is_answered_with_who_answers() {
        let text = asked(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let length = format!("content-length: {}", body.len());
        assert!(head.contains(&length), "{head}");
        assert!(body.starts_with("hello\nhost: "), "{body}");
        assert!(body.contains("\naddress: 10.0.1.2\n"), "{body}");
        assert!(body.contains("\nclient: 192.0.2.7\n"), "{body}");
        let text = asked(b"HEAD / HTTP/1.1\r\n\r\n").await;
        assert!(text.ends_with("\r\n\r\n"), "{text}");
    }

    #[tokio::test]
    async fn what_is_no_request_is_not_answered() {
        let long = [b'x'; HEAD_BYTES_MAX + 2_048];
        assert_eq!(asked(&long).await, "");
    }
}
