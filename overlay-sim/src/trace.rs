//! What happened, for observers and as a hash.

use std::fmt;

use overlay_core::Instant;

use crate::{Channel, HostId, runner};

/// One thing that happened in a world.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceEvent<'a> {
    /// When.
    pub at: Instant,
    /// What.
    pub kind: TraceKind<'a>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are the words of World's methods")]
pub enum TraceKind<'a> {
    /// Bytes arrived.
    Deliver {
        from: HostId,
        to: HostId,
        channel: Channel,
        bytes: &'a [u8],
    },
    /// A deadline was due.
    Timeout { host: HostId },
    /// Deferred work was due.
    Deferred { host: HostId, token: u64 },
    /// A host learned that a stream broke.
    StreamLost { from: HostId, to: HostId },
    /// The test called a host's machine.
    With { host: HostId },
    /// A host started.
    Boot { host: HostId },
    /// A host lost power.
    Crash { host: HostId },
    /// A host was stopped.
    Pause { host: HostId },
    /// A host went on.
    Resume { host: HostId },
}

impl fmt::Display for TraceEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at;
        match &self.kind {
            TraceKind::Deliver {
                from,
                to,
                channel,
                bytes,
            } => {
                let octets = bytes.len();
                write!(
                    f,
                    "{at} {} -> {}: {channel:?}, {octets} octets",
                    from.0, to.0
                )
            }
            TraceKind::Timeout { host } => write!(f, "{at} {}: timeout", host.0),
            TraceKind::Deferred { host, token } => write!(f, "{at} {}: deferred {token}", host.0),
            TraceKind::StreamLost { from, to } => {
                write!(f, "{at} {}: stream to {} lost", from.0, to.0)
            }
            TraceKind::With { host } => write!(f, "{at} {}: with", host.0),
            TraceKind::Boot { host } => write!(f, "{at} {}: boot", host.0),
            TraceKind::Crash { host } => write!(f, "{at} {}: crash", host.0),
            TraceKind::Pause { host } => write!(f, "{at} {}: pause", host.0),
            TraceKind::Resume { host } => write!(f, "{at} {}: resume", host.0),
        }
    }
}

type Observer = Box<dyn FnMut(&TraceEvent<'_>)>;

pub(crate) struct Trace {
    hash: Hash,
    observer: Option<Observer>,
    /// The environment asked for the trace of every world.
    printed: bool,
}

impl Trace {
    pub(crate) fn new() -> Self {
        Self {
            hash: Hash::new(),
            observer: None,
            printed: runner::prints_traces(),
        }
    }

    pub(crate) fn set_observer(&mut self, observer: Observer) {
        self.observer = Some(observer);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.get()
    }

    pub(crate) fn note(&mut self, at: Instant, kind: TraceKind<'_>) {
        self.hash.mix(at.as_nanos());
        let (tag, host) = match &kind {
            TraceKind::Deliver {
                from,
                to,
                channel,
                bytes,
            } => {
                self.hash.mix(from.0 as u64);
                self.hash.mix_bytes(bytes);
                (*channel as u64, to)
            }
            TraceKind::Deferred { host, token } => {
                self.hash.mix(*token);
                (2, host)
            }
            TraceKind::Timeout { host } => (3, host),
            TraceKind::StreamLost { from, to } => {
                self.hash.mix(from.0 as u64);
                (9, to)
            }
            TraceKind::With { host } => (4, host),
            TraceKind::Boot { host } => (5, host),
            TraceKind::Crash { host } => (6, host),
            TraceKind::Pause { host } => (7, host),
            TraceKind::Resume { host } => (8, host),
        };
        self.hash.mix(tag << 48 | host.0 as u64);
        if self.observer.is_none() && !self.printed {
            return;
        }
        let event = TraceEvent { at, kind };
        if self.printed {
            runner::print(&event.to_string());
        }
        if let Some(observer) = &mut self.observer {
            observer(&event);
        }
    }
}

/// A fast hash that depends on every octet; not against adversaries.
pub(crate) struct Hash(u64);

impl Hash {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn get(&self) -> u64 {
        self.0
    }

    pub(crate) fn mix(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }

    pub(crate) fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        let mut rest = [0; 8];
        rest[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.mix(u64::from_le_bytes(rest));
    }
}
