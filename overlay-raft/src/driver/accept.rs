//! The connections that peers make, and strangers: what arrives comes from there.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time,
};

use super::{
    Transport,
    hello::{HELLO_BYTES, Hello},
    links::{Arrival, Shared, add},
    transport::Accepted,
};
use crate::{Message, RaftId};

/// Accepts for ever; all connections end with it.
pub(super) async fn run<T: Transport>(shared: Arc<Shared<T>>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(_) if connections.len() >= shared.config.connections_max => {
                    add(&shared.counters.refused, 1);
                }
                Ok((stream, address)) => {
                    connections.spawn(serve(Arc::clone(&shared), stream, address));
                }
                // Out of descriptors, most likely.
                Err(_) => time::sleep(BREATH).await,
            },
        }
    }
}

async fn serve<T: Transport>(shared: Arc<Shared<T>>, stream: TcpStream, address: SocketAddr) {
    let opening = open(&shared, stream, address);
    let opened = time::timeout(shared.config.hello_timeout, opening).await;
    let Ok(Ok(Some((from, stream, ends)))) = opened else {
        add(&shared.counters.refused, 1);
        return;
    };
    add(&shared.counters.accepted, 1);
    tokio::select! {
        // Another connection takes the place of this one, or the peer is forgotten.
        _ = ends => {}
        end = read(&shared, from, stream) => {
            if end == End::Malformed {
                add(&shared.counters.malformed, 1);
            }
        }
    }
}

/// Finds out whose connection it is. `None` if it is no peer's.
async fn open<T: Transport>(
    shared: &Shared<T>,
    stream: TcpStream,
    address: SocketAddr,
) -> io::Result<Option<(RaftId, T::Stream, oneshot::Receiver<()>)>> {
    let Accepted { mut stream, proven } = shared.transport.accept(stream, address).await?;
    let mut bytes = [0; HELLO_BYTES];
    stream.read_exact(&mut bytes).await?;
    let meant = |hello: &Hello| {
        hello.group == shared.group
            && hello.to == shared.id
            && proven.is_none_or(|proven| proven == hello.from)
    };
    let Some(hello) = Hello::decode(&bytes).filter(meant) else {
        return Ok(None);
    };
    let admitted = shared.admit(hello.from);
    Ok(admitted.map(|ends| (hello.from, stream, ends)))
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Closed,
    Malformed,
}

/// Cuts what arrives into messages until the connection ends.
async fn read<T: Transport>(
    shared: &Shared<T>,
    from: RaftId,
    mut stream: impl AsyncRead + Unpin,
) -> End {
    let mut bytes = BytesMut::new();
    loop {
        make_room(&mut bytes);
        match stream.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return End::Closed,
            Ok(_) => {}
        }
        let Some(messages) = cut(&mut bytes, shared.message_bytes_max) else {
            return End::Malformed;
        };
        if messages.is_empty() {
            continue;
        }
        add(&shared.counters.messages_received, messages.len());
        if shared
            .arrivals
            .send(Arrival { from, messages })
            .await
            .is_err()
        {
            return End::Closed;
        }
    }
}

/// Makes room by what arrived and not by what is claimed. It is used up before there is more: what messages carry stays where
/// it was received, so that little of it is wasted.
fn make_room(bytes: &mut BytesMut) {
    if bytes.capacity() - bytes.len() < READ_BYTES_MIN {
        bytes.reserve(READ_BYTES.max(bytes.len()));
    }
}

/// Takes the messages that are whole. `None` if what is there is none, or longer than a message may be.
fn cut(bytes: &mut BytesMut, message_bytes_max: usize) -> Option<Vec<Message>> {
    let mut messages = Vec::new();
    while let Some(length) = Message::length(bytes) {
        if length > message_bytes_max {
            return None;
        }
        if bytes.len() < length {
            break;
        }
        let message = bytes.split_to(length).freeze();
        messages.push(Message::decode(&message).ok()?);
    }
    Some(messages)
}

/// How much room is made at once.
const READ_BYTES: usize = 64 << 10;

/// With less room than this, more is made.
const READ_BYTES_MIN: usize = 4 << 10;

/// How long to wait when the system has no connection to give.
const BREATH: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use overlay_core::{Instant, Machine as _, Seed};

    use super::*;
    use crate::{Config, Output, Raft, Restored};

    #[test]
    fn messages_are_cut_wherever_the_stream_breaks() {
        let one = message();
        let stream = [&one[..], &one[..], &one[..]].concat();
        for at in 0..=stream.len() {
            let mut bytes = BytesMut::from(&stream[..at]);
            let mut count = cut(&mut bytes, one.len()).unwrap().len();
            bytes.extend_from_slice(&stream[at..]);
            count += cut(&mut bytes, one.len()).unwrap().len();
            assert_eq!((count, bytes.len()), (3, 0), "broken at {at}");
        }
    }

    #[test]
    fn a_message_is_too_long_as_soon_as_it_says_so() {
        let one = message();
        let mut bytes = BytesMut::from(&one[..]);
        assert_eq!(cut(&mut bytes, one.len()).map(|cut| cut.len()), Some(1));
        let mut bytes = BytesMut::from(&one[..6]);
        assert_eq!(cut(&mut bytes, one.len() - 1), None);
        assert_eq!(cut(&mut bytes, one.len()), Some(Vec::new()));
    }

    #[test]
    fn room_follows_what_arrived() {
        let mut bytes = BytesMut::from(&[4, 2, 0, 0, 0, 64][..]);
        assert_eq!(cut(&mut bytes, usize::MAX), Some(Vec::new()));
        make_room(&mut bytes);
        assert!(bytes.capacity() < 4 * READ_BYTES, "{}", bytes.capacity());
    }

    /// What a candidate sends.
    fn message() -> Bytes {
        let ids = [1, 2].map(|number| RaftId::new(number).unwrap());
        let config = Config::new(ids[0], 7);
        let restored = Restored::bootstrap(ids);
        let mut raft = Raft::new(config, Seed::from_u64(1), Instant::EPOCH, restored).unwrap();
        loop {
            while let Some(output) = raft.poll_output() {
                match output {
                    Output::Send { message, .. } => return message.encode(),
                    Output::Persist(batch) => {
                        raft.handle_persisted(Instant::EPOCH, batch.into_parts().1);
                    }
                    _ => {}
                }
            }
            raft.handle_timeout(raft.poll_timeout().unwrap());
        }
    }
}
