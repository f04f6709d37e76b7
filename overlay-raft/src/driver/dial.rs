//! The connection to a peer: what is sent goes there.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use overlay_core::Rng;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
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
        let mut bytes = hello.encode().to_vec();
        let mut messages = Vec::new();
        let mut unexpected = [0];
        loop {
            if !bytes.is_empty() {
                let writing = async {
                    writer.write_all(&bytes).await?;
                    writer.flush().await
                };
                time::timeout(shared.config.write_timeout, writing).await??;
                add(&shared.counters.writes, 1);
                if bytes.capacity() > CAPACITY_MAX {
                    bytes = Vec::new();
                }
                bytes.clear();
            }
            tokio::select! {
                count = self.queue.recv_many(&mut messages, TOGETHER_MAX) => {
                    if count == 0 {
                        return writer.shutdown().await;
                    }
                }
                // The peer has nothing to say here: it closed, or is no peer.
                _ = reader.read(&mut unexpected) => return Ok(()),
            }
            let count = messages.len();
            for message in messages.drain(..) {
                message.encode_into(&mut bytes);
            }
            add(&shared.counters.messages_sent, count);
        }
    }
}

/// So many messages are written at once.
const TOGETHER_MAX: usize = 64;

/// A buffer that became larger is given back.
const CAPACITY_MAX: usize = 1 << 20;
