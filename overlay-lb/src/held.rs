//! Fragments that came before the first one of their packet, which has the ports.

use std::collections::VecDeque;

use overlay_core::Instant;

use crate::{Config, flows::Packed};

/// Frames in the order in which they came: bounded in number, octets and time.
#[derive(Debug)]
pub(crate) struct Held {
    frames: VecDeque<Frame>,
    /// Of these, and of those that wait to be polled.
    octets: usize,
    /// Frames that wait to be polled.
    taken: usize,
    frames_max: usize,
    octets_max: usize,
}

#[derive(Debug)]
struct Frame {
    packet: Packed,
    since: Instant,
    bytes: Box<[u8]>,
}

impl Held {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            frames: VecDeque::new(),
            octets: 0,
            taken: 0,
            frames_max: config.fragments_held_max.into(),
            octets_max: usize::try_from(config.fragments_held_octets_max).unwrap_or(usize::MAX),
        }
    }

    /// Holds a frame; false if there is no room.
    pub(crate) fn hold(&mut self, packet: Packed, bytes: &[u8], now: Instant) -> bool {
        let octets = self.octets.saturating_add(bytes.len());
        if self.frames.len() + self.taken >= self.frames_max || octets > self.octets_max {
            return false;
        }
        self.octets = octets;
        self.frames.push_back(Frame {
            packet,
            since: now,
            bytes: bytes.into(),
        });
        true
    }

    /// Takes a frame of a packet, the one that came first; it needs its room until it is [`polled`](Self::polled).
    pub(crate) fn take(&mut self, packet: &Packed) -> Option<Box<[u8]>> {
        let at = self
            .frames
            .iter()
            .position(|frame| frame.packet == *packet)?;
        let bytes = self.frames.remove(at)?.bytes;
        self.taken += 1;
        Some(bytes)
    }

    /// Notes that a frame that was taken is out.
    pub(crate) fn polled(&mut self, bytes: &[u8]) {
        self.octets -= bytes.len();
        self.taken -= 1;
    }

    /// Drops what was held for too long; returns how many.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        while self.deadline().is_some_and(|deadline| deadline <= now)
            && let Some(frame) = self.frames.pop_front()
        {
            self.octets -= frame.bytes.len();
            expired += 1;
        }
        expired
    }

    /// When the first one has been held for too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let frame = self.frames.front()?;
        Some(frame.since + Config::FRAGMENTS_HELD_FOR)
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }
}
