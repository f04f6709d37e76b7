//! ICMP: errors about balanced packets, in both directions, and echo requests.

use super::{DropReason, PartialChecksum, Verdict, answer, rewrite, verdict};
use crate::{
    Balancer, Protocol,
    flows::{Marks, Packed},
    fragments::Hop,
    wire::{ICMP, Ip, TCP},
};

impl Balancer {
    /// Takes an ICMP message to a virtual address.
    pub(super) fn outbound_icmp(
        &mut self,
        bytes: &mut [u8],
        ip: &Ip<'_>,
        partial: Option<PartialChecksum>,
    ) -> Verdict<'_> {
        let Some(message) = bytes.get(ip.upper..ip.end).filter(|bytes| bytes.len() >= 8) else {
            return Verdict::Drop(DropReason::Malformed);
        };
        match kind(ip, message[0]) {
            Kind::Echo if ip.fragment.is_some() => Verdict::Drop(DropReason::TooLong),
            Kind::Echo => {
                if answer::echo(&mut self.answer, bytes, ip) {
                    Verdict::Answer(&self.answer)
                } else {
                    Verdict::Drop(DropReason::TooLong)
                }
            }
            // Whoever answers for the virtual address's link address answers these, too.
            Kind::Neighbour => Verdict::Pass,
            Kind::Error => match self.outbound_error(bytes, ip, partial) {
                Some(to) => verdict(to, bytes),
                None => Verdict::Drop(DropReason::UnknownFlow),
            },
            Kind::Other => Verdict::Drop(DropReason::Protocol),
        }
    }

    /// Rewrites a client's error about a packet that came to it from a virtual address: its backend is told.
    fn outbound_error(
        &self,
        bytes: &mut [u8],
        ip: &Ip<'_>,
        partial: Option<PartialChecksum>,
    ) -> Option<Hop> {
        let addresses = rewrite::quoted_addresses(bytes, ip)?;
        let quoted = rewrite::quoted(bytes, ip, &addresses)?;
        let (vip, client) = quoted.ends(bytes)?;
        let key = Packed::of_ends(protocol(&quoted), ip.addresses.v6, vip, client);
        let Some(at) = self.flows.find(&key) else {
            return self.error_of_backend(bytes, ip, partial, &quoted);
        };
        if vip.words != ip.addresses.to {
            return None;
        }
        let (source, backend) = self.flows.forth(at);
        // Who reports: the client, which the backend may know by another address, or somebody on the way to it.
        let from = if ip.addresses.from == client.words {
            source.words
        } else {
            ip.addresses.from
        };
        let (inner, outer) = ((backend, source), (from, backend.words));
        rewrite::rewrite_error(bytes, ip, partial, &quoted, inner, outer);
        Some(self.to_backend(at, backend.port))
    }

    /// Rewrites an error about a packet that a client sent to a virtual address; `None` if it is about another.
    pub(super) fn inbound_error(
        &self,
        bytes: &mut [u8],
        ip: &Ip<'_>,
        partial: Option<PartialChecksum>,
    ) -> Option<Hop> {
        let message = bytes.get(ip.upper..ip.end)?;
        if kind(ip, *message.first()?) != Kind::Error {
            return None;
        }
        let addresses = rewrite::quoted_addresses(bytes, ip)?;
        let quoted = rewrite::quoted(bytes, ip, &addresses)?;
        self.error_of_backend(bytes, ip, partial, &quoted)
    }

    /// The quoted packet is one that the backend got, or would have.
    fn error_of_backend(
        &self,
        bytes: &mut [u8],
        ip: &Ip<'_>,
        partial: Option<PartialChecksum>,
        quoted: &Ip<'_>,
    ) -> Option<Hop> {
        let (source, backend) = quoted.ends(bytes)?;
        let key = Packed::of_ends(protocol(quoted), ip.addresses.v6, backend, source);
        let at = self.flows.find_back(&key)?;
        if source.words != ip.addresses.to {
            return None;
        }
        let flow = self.flows.flow(at);
        let (vip, client) = self.flows.back(at);
        let from = if ip.addresses.from == backend.words {
            vip.words
        } else {
            ip.addresses.from
        };
        let (inner, outer) = ((client, vip), (from, client.words));
        rewrite::rewrite_error(bytes, ip, partial, quoted, inner, outer);
        let hairpin = flow.marks.has(Marks::HAIRPIN);
        Some(if hairpin { Hop::Hairpin } else { Hop::Client })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Error,
    Echo,
    Neighbour,
    Other,
}

/// Tells messages apart (RFC 792; RFC 4443 §2.1, RFC 4861 §4).
fn kind(ip: &Ip<'_>, number: u8) -> Kind {
    match (ip.proto, number) {
        (ICMP, 3 | 4 | 11 | 12) => Kind::Error,
        (ICMP, 8) | (_, 128) => Kind::Echo,
        (ICMP, _) => Kind::Other,
        (_, 1..=4) => Kind::Error,
        (_, 133..=137) => Kind::Neighbour,
        _ => Kind::Other,
    }
}

fn protocol(ip: &Ip<'_>) -> Protocol {
    if ip.proto == TCP {
        Protocol::Tcp
    } else {
        Protocol::Udp
    }
}
