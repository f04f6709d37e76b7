//! One task for each stream: writes what it is told, reports what it reads.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};

use crate::StreamId;

/// What the machine wants of a stream.
#[derive(Debug)]
pub(super) enum Order {
    Write(Vec<u8>),
    /// Once all is written.
    Close,
}

/// What happened to a stream.
#[derive(Debug)]
pub(super) enum Report {
    Connected,
    Data(Vec<u8>),
    Closed,
}

type Orders = mpsc::UnboundedReceiver<Order>;
type Reporter = mpsc::Sender<(StreamId, Report)>;

pub(super) async fn dial(to: SocketAddr, stream: StreamId, orders: Orders, reporter: Reporter) {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to));
    if let Ok(Ok(socket)) = connecting.await {
        // A receiver that is gone means that the sockets are: then nothing is left to do, here and below.
        reporter.send((stream, Report::Connected)).await.ok();
        serve(socket, stream, orders, reporter).await;
    } else {
        reporter.send((stream, Report::Closed)).await.ok();
    }
}

pub(super) async fn serve(
    socket: TcpStream,
    stream: StreamId,
    mut orders: Orders,
    reporter: Reporter,
) {
    // Small messages that are answered: waiting for more to send would only delay them.
    socket.set_nodelay(true).ok();
    let (reader, mut writer) = socket.into_split();
    tokio::select! {
        () = write(&mut orders, &mut writer) => {}
        () = read(reader, stream, &reporter) => {
            // The other side says no more, but may still listen; the machine will close.
            reporter.send((stream, Report::Closed)).await.ok();
            let rest = write(&mut orders, &mut writer);
            tokio::time::timeout(CONNECT_TIMEOUT, rest).await.ok();
        }
    }
}

/// Writes until it is told to close, or the sockets are gone, or writing fails.
async fn write(orders: &mut Orders, writer: &mut OwnedWriteHalf) {
    while let Some(Order::Write(bytes)) = orders.recv().await {
        if writer.write_all(&bytes).await.is_err() {
            // The reading side notices, too, and reports.
            std::future::pending::<()>().await;
        }
    }
    writer.shutdown().await.ok();
}

async fn read(mut reader: OwnedReadHalf, stream: StreamId, reporter: &Reporter) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(length @ 1..) = reader.read(&mut buffer).await {
        let bytes = buffer.get(..length).unwrap_or_default().to_vec();
        if reporter.send((stream, Report::Data(bytes))).await.is_err() {
            return;
        }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 16 * 1024;
