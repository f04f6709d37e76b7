//! Datagrams in batches: one system call reads or sends many.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

/// How many datagrams one system call reads or sends.
pub(super) const BATCH_MAX: usize = 32;
/// More than any query has; what is longer is cut and answered as malformed.
pub(super) const DATAGRAM_BYTES_MAX: usize = 4_096;

/// Room for a batch.
#[derive(Debug)]
pub(super) struct Room(Box<[u8]>);

impl Room {
    pub(super) fn new() -> Self {
        Self(vec![0; BATCH_MAX * DATAGRAM_BYTES_MAX].into())
    }

    /// Reads what is there, at most a batch and at most `max`; hands each datagram to `take` with whoever sent it.
    pub(super) fn receive(
        &mut self,
        socket: &impl AsRawFd,
        max: usize,
        mut take: impl FnMut(SocketAddr, &[u8]),
    ) -> io::Result<()> {
        let lengths = self.fill(socket, max)?;
        for (place, (peer, length)) in self.0.chunks_exact(DATAGRAM_BYTES_MAX).zip(lengths) {
            if let Some(peer) = peer {
                take(peer, place.get(..length).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Reads datagrams into their places; returns from whom each is, and its length.
    fn fill(
        &mut self,
        socket: &impl AsRawFd,
        max: usize,
    ) -> io::Result<Vec<(Option<SocketAddr>, usize)>> {
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH_MAX, None);
        let places = self.0.chunks_exact_mut(DATAGRAM_BYTES_MAX).take(max);
        let mut slices: Vec<_> = places.map(|place| [IoSliceMut::new(place)]).collect();
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let received = recvmmsg(fd, &mut headers, &mut slices, flags, None)?;
        let described =
            received.map(|message| (message.address.as_ref().and_then(address), message.bytes));
        Ok(described.collect())
    }
}

/// Sends answers from one socket; returns how many the system took.
pub(super) fn send(socket: &UdpSocket, answers: &[(SocketAddr, Vec<u8>)]) -> usize {
    if let [(peer, bytes)] = answers {
        return usize::from(socket.send_to(bytes, peer).is_ok());
    }
    let mut sent = 0;
    let mut rest = answers;
    while !rest.is_empty() {
        let (batch, behind) = rest.split_at(rest.len().min(BATCH_MAX));
        rest = behind;
        sent += send_batch(socket, batch);
    }
    sent
}

fn send_batch(socket: &UdpSocket, mut batch: &[(SocketAddr, Vec<u8>)]) -> usize {
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(batch.len(), None);
    let mut sent = 0;
    while !batch.is_empty() {
        let slices: Vec<_> = batch
            .iter()
            .map(|(_, bytes)| [IoSlice::new(bytes)])
            .collect();
        let peers: Vec<_> = batch.iter().map(|(peer, _)| Some((*peer).into())).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        let taken = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &peers, [], flags);
        // Of an error the first datagram is the cause, and the others may go.
        let (taken, skipped) = match taken.map(Iterator::count) {
            Ok(taken @ 1..) => (taken, 0),
            Ok(0) | Err(_) => (0, 1),
        };
        sent += taken;
        batch = batch.get(taken + skipped..).unwrap_or_default();
    }
    sent
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(four) = storage.as_sockaddr_in() {
        return Some(SocketAddr::V4((*four).into()));
    }
    storage
        .as_sockaddr_in6()
        .map(|six| SocketAddr::V6((*six).into()))
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;

    #[test]
    fn a_datagram_that_cannot_be_sent_is_passed_over() {
        let open = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (sender, receiver) = (open(), open());
        let patience = Some(Duration::from_secs(10));
        receiver.set_read_timeout(patience).unwrap();
        let good = receiver.local_addr().unwrap();
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        // More than a batch, with one that nobody can have at the beginning, in the middle and at the end.
        let answers: Vec<_> = (0..50_u8)
            .map(|number| {
                let bad = matches!(number, 0 | 20 | 49);
                (if bad { nowhere } else { good }, vec![number])
            })
            .collect();
        assert_eq!(send(&sender, &answers), 47);
        let mut seen = Vec::new();
        for _ in 0..47 {
            let mut buffer = [0; 8];
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(length, 1);
            seen.push(buffer[0]);
        }
        seen.sort_unstable();
        let expected: Vec<u8> = (1..49).filter(|number| *number != 20).collect();
        assert_eq!(seen, expected);
        assert_eq!(send(&sender, &answers[..1]), 0);
    }
}
