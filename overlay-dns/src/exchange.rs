//! One query in flight, with all its tries.

use std::{collections::VecDeque, net::SocketAddr};

use overlay_core::{Instant, Rng};

use crate::{
    Transport, UpstreamToken,
    cache::Key,
    config::ForwardConfig,
    forward::Waiter,
    wire::{Class, Edns, Header},
};

/// One query in flight.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) key: Key,
    pub(crate) waiters: Vec<Waiter>,
    /// The tries that are open, oldest first.
    pub(crate) tries: Vec<Try>,
    /// When all is given up.
    pub(crate) deadline: Instant,
    /// When the next server is to be asked.
    pub(crate) due: Instant,
    /// The servers that have not failed, the next one first.
    servers: VecDeque<SocketAddr>,
}

/// One query to one server, from a socket of its own.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub(crate) token: UpstreamToken,
    pub(crate) server: SocketAddr,
    pub(crate) transport: Transport,
    /// Sent with an OPT record.
    pub(crate) edns: bool,
    pub(crate) id: u16,
    /// The octets of the question.
    pub(crate) question: Box<[u8]>,
}

impl Exchange {
    pub(crate) fn new(
        key: Key,
        servers: VecDeque<SocketAddr>,
        deadline: Instant,
        waiter: Waiter,
    ) -> Self {
        Self {
            key,
            waiters: vec![waiter],
            tries: Vec::new(),
            deadline,
            due: deadline,
            servers,
        }
    }

    pub(crate) fn find_try(&self, token: UpstreamToken) -> Option<&Try> {
        self.tries.iter().find(|tried| tried.token == token)
    }

    /// Returns the server that was asked last.
    pub(crate) fn last_server(&self) -> Option<SocketAddr> {
        self.tries.last().map(|tried| tried.server)
    }

    /// Takes the next server, which goes to the end of the line.
    pub(crate) fn next_server(&mut self) -> Option<SocketAddr> {
        let server = self.servers.pop_front()?;
        self.servers.push_back(server);
        Some(server)
    }

    /// Does not ask this server again.
    pub(crate) fn drop_server(&mut self, server: SocketAddr) {
        self.servers.retain(|other| *other != server);
    }

    /// Draws what makes a query hard to forge: its id, and perhaps the case of its letters.
    pub(crate) fn draw(&self, limits: &ForwardConfig, rng: &mut Rng) -> (u16, Box<[u8]>) {
        let [a, b] = rng.bytes();
        let (name, kind, _) = self.parts();
        let mut question = name.to_vec();
        if limits.random_case {
            let letters = question
                .iter_mut()
                .filter(|octet| octet.is_ascii_lowercase());
            for letter in letters {
                if rng.chance(500_000) {
                    letter.make_ascii_uppercase();
                }
            }
        }
        question.extend_from_slice(kind);
        question.extend_from_slice(&Class::IN.0.to_be_bytes());
        (u16::from_be_bytes([a, b]), question.into())
    }

    /// Makes the query, with an OPT record if `payload_bytes` is given.
    pub(crate) fn query(&self, id: u16, question: &[u8], payload_bytes: Option<u16>) -> Vec<u8> {
        let (_, _, flags) = self.parts();
        let mut header = Header::query(id);
        header.recursion_desired = flags & 8 != 0;
        header.authentic_data = flags & 4 != 0;
        header.checking_disabled = flags & 2 != 0;
        let mut bytes = header.emit().to_vec();
        bytes.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(payload_bytes.is_some())]);
        bytes.extend_from_slice(question);
        if let Some(payload_bytes) = payload_bytes {
            bytes.extend_from_slice(&Edns::new(payload_bytes, flags & 1 != 0).emit());
        }
        bytes
    }

    /// Returns the parts of the key: name with the root's octet, type, flags.
    fn parts(&self) -> (&[u8], &[u8], u8) {
        let (rest, flags) = self.key.split_at(self.key.len() - 1);
        let (name, kind) = rest.split_at(rest.len() - 2);
        (name, kind, flags.first().copied().unwrap_or_default())
    }
}
