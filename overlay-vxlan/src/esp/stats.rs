//! What associations counted.

use super::{OpenError, Opened, SealError};
use crate::{frame::Frame, stats::Traffic, wire::vxlan};

/// What became of datagrams of UDP port 4500.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenStats {
    /// Frames that came out.
    pub opened: Traffic,
    /// Keep-alives.
    pub keep_alives: u64,
    /// What a non-ESP marker was in front of.
    pub non_esp: u64,
    /// Cut short or not aligned.
    pub malformed: u64,
    /// From an address, or with an SPI, of no association.
    pub unknown: u64,
    /// Below the window.
    pub too_old: u64,
    /// Seen before.
    pub replayed: u64,
    /// The ICV does not fit. More than a few: somebody forges packets, or two nodes do not agree on keys.
    pub unauthentic: u64,
    /// Authentic dummies.
    pub dummies: u64,
    /// Authentic, but not what is expected: the peer means something else.
    pub unexpected: u64,
}

impl OpenStats {
    /// Counts what became of a datagram.
    pub(super) fn count(&mut self, opened: &Result<Opened, OpenError>, frame: &Frame) {
        let counter = match opened {
            Ok(_) => {
                let octets = frame.len().saturating_sub(vxlan::HEADER_BYTES);
                return self.opened.add(octets);
            }
            Err(OpenError::KeepAlive) => &mut self.keep_alives,
            Err(OpenError::NonEsp) => &mut self.non_esp,
            Err(OpenError::Malformed(_)) => &mut self.malformed,
            Err(OpenError::UnknownSpi { .. }) => &mut self.unknown,
            Err(OpenError::TooOld { .. }) => &mut self.too_old,
            Err(OpenError::Replayed { .. }) => &mut self.replayed,
            Err(OpenError::Unauthentic) => &mut self.unauthentic,
            Err(OpenError::Dummy) => &mut self.dummies,
            Err(OpenError::Content(_) | OpenError::NextHeader { .. } | OpenError::Port { .. }) => {
                &mut self.unexpected
            }
        };
        *counter = counter.saturating_add(1);
    }

    /// Returns how many datagrams were dropped; keep-alives and dummies are made for that.
    #[must_use]
    pub fn refused(&self) -> u64 {
        let refused = [
            self.non_esp,
            self.malformed,
            self.unknown,
            self.too_old,
            self.replayed,
            self.unauthentic,
            self.unexpected,
        ];
        refused.iter().sum()
    }
}

/// What was counted for all associations of a node, those that are gone included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames that were sealed.
    pub sealed: Traffic,
    /// Frames for VTEPs without an association.
    pub no_association: u64,
    /// Frames for associations whose sequence numbers are used up.
    pub exhausted: u64,
    /// Frames that were too long, without headroom, or with work left to a device.
    pub unfit: u64,
    /// What became of received datagrams.
    pub received: OpenStats,
}

impl Stats {
    /// Counts what became of a frame of so many octets, VXLAN header included.
    pub(super) fn count_sealed(&mut self, sealed: Result<(), SealError>, octets: usize) {
        let counter = match sealed {
            Ok(()) => {
                return self.sealed.add(octets.saturating_sub(vxlan::HEADER_BYTES));
            }
            Err(SealError::NoAssociation) => &mut self.no_association,
            Err(SealError::Exhausted) => &mut self.exhausted,
            Err(SealError::Headroom { .. } | SealError::Length { .. } | SealError::Unfinished) => {
                &mut self.unfit
            }
        };
        *counter = counter.saturating_add(1);
    }
}
