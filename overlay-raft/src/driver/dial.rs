//! The connection to a peer: what is sent goes there.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use overlay_core::Rng;
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{Notify, mpsc},
    time,
};

use super::{
    Transport,
    hello::Hello,
    links::{Shared, add},
};
use crate::{Message, RaftId};

/// Keeps one connection to one peer.
pub(super) struct Dialler {
    pub(super) to: RaftId,
    pub(super) address: SocketAddr,
    pub(super) queue: mpsc::Receiver<Message>,
    pub(super) wake: Arc<Notify>,
    pub(super) rng: Rng,
}

impl Dialler {
    /// Connects again and again, until nobody has anything to send any more.
    pub(super) async fn run<T: Transport>(mut self, shared: Arc<Shared<T>>) {
        let config = &shared.config;
        let mut pause = config.redial_min;
        while !self.queue.is_closed() {
            let connecting = shared.transport.connect(self.to, self.address);
            match time::timeout(config.connect_timeout, connecting).await {
                Ok(Ok(stream)) => {
                    add(&shared.counters.connected, 1);
                    let begun = time::Instant::now();
                    // Why it ended does not matter: it is made anew.
                    let _ = self.converse(&shared, stream).await;
                    if begun.elapsed() >= config.redial_max {
                        pause = config.redial_min;
                    }
                }
                Ok(Err(_)) | Err(_) => add(&shared.counters.connects_failed, 1),
            }
            let jittered = self
                .rng
                .duration(pause / 2..pause.max(Duration::from_nanos(2)));
            tokio::select! {
                () = time::sleep(jittered) => pause = (pause * 2).min(config.redial_max),
                () = self.wake.notified() => {
                    // Whoever calls often is not called back more often than this.
                    time::sleep(config.redial_min.min(jittered)).await;
                    pause = config.redial_min;
                }
            }
            // What waited is of the past; Raft says anew what still matters.
            while self.queue.try_recv().is_ok() {
                add(&shared.counters.messages_dropped, 1);
            }
        }
    }

    /// Sends until the connection ends.
    async fn converse<T: Transport>(
        &mut self,
        shared: &Shared<T>,
        stream: T::Stream,
    ) -> io::Result<()> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let hello = Hello {
            group: shared.group,
            from: shared.id,
            to: self.to,
        };
        write(shared, &mut writer, &hello.encode()).await?;
        let (mut bytes, mut messages, mut unexpected) = (Vec::new(), Vec::new(), [0]);
        loop {
            tokio::select! {
                count = self.queue.recv_many(&mut messages, TOGETHER_MAX) => {
                    if count == 0 {
                        return writer.shutdown().await;
                    }
                }
                // The peer has nothing to say here: it closed, or is no peer.
                _ = reader.read(&mut unexpected) => return Ok(()),
            }
            add(&shared.counters.messages_sent, messages.len());
            for message in messages.drain(..) {
                message.encode_into(&mut bytes);
                if bytes.len() >= TOGETHER_BYTES {
                    write(shared, &mut writer, &bytes).await?;
                    bytes.clear();
                }
            }
            write(shared, &mut writer, &bytes).await?;
            bytes.clear();
            if bytes.capacity() > CAPACITY_MAX {
                bytes = Vec::new();
            }
        }
    }
}

/// Writes all, as slowly as the peer takes it, but not to one that takes nothing.
async fn write<T>(
    shared: &Shared<T>,
    writer: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = time::timeout(shared.config.write_timeout, writer.write(bytes)).await??;
        add(&shared.counters.writes, 1);
        bytes = bytes.get(written..).unwrap_or_default();
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    time::timeout(shared.config.write_timeout, writer.flush()).await?
}

/// So many messages are taken from the queue at once.
const TOGETHER_MAX: usize = 64;

/// What is written at once, but for a last message that is longer.
const TOGETHER_BYTES: usize = 256 << 10;

/// A buffer that became larger is given back.
const CAPACITY_MAX: usize = 1 << 20;
