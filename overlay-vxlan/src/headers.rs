//! What the stages need to know of a frame, read once.

use std::net::IpAddr;

use overlay_core::MacAddr;

use crate::{
    config::{NetworkConfig, VlanTags},
    frame::Frame,
    wire::{
        DecodeError, arp,
        ethernet::{self, EtherType},
        ipv4::{self, Protocol},
        ipv6, vlan,
    },
};

/// Tags that are stepped over: a service tag and a customer tag.
pub(crate) const TAGS_MAX: usize = 2;

/// The headers of a frame. Offsets count from its first octet and lie inside of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers {
    pub(crate) destination: MacAddr,
    pub(crate) source: MacAddr,
    /// The identifier in the outer tag, if there is a tag: zero names no VLAN.
    pub(crate) vlan: Option<u16>,
    /// Where the payload begins, behind all tags.
    pub(crate) payload_at: usize,
    pub(crate) payload: Payload,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload {
    Arp(arp::Repr),
    Ip(Ip),
    Other,
}

/// An IP packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ip {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// The upper layer, behind all extension headers.
    pub(crate) protocol: Protocol,
    /// Where the upper layer begins; behind the first fragment, where its octets go on.
    pub(crate) upper_at: usize,
    /// Where the packet ends; padding may follow.
    pub(crate) end: usize,
    pub(crate) fragment: Option<Fragment>,
    /// Where the fragment belongs, in units of 8 octets.
    pub(crate) fragment_offset: u16,
    /// What the fragments of a packet share; zero for a whole packet of IPv6.
    pub(crate) identification: u32,
    pub(crate) dont_fragment: bool,
    /// DSCP and ECN.
    pub(crate) traffic_class: u8,
    pub(crate) flow_label: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment {
    First,
    Later,
}

impl Headers {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let frame = ethernet::Packet::new_checked(bytes)?;
        let mut payload_at = ethernet::HEADER_BYTES;
        let (mut ethertype, mut vlan) = (frame.ethertype(), None);
        for _ in 0..TAGS_MAX {
            if !ethertype.is_vlan() {
                break;
            }
            let tag = vlan::Packet::new_checked(bytes.get(payload_at..).unwrap_or_default())?;
            vlan.get_or_insert(tag.id());
            ethertype = tag.ethertype();
            payload_at += vlan::HEADER_BYTES;
        }
        if ethertype.is_vlan() {
            // Whatever is behind a third tag would pass unseen.
            return Err(DecodeError::Field {
                offset: payload_at - 2,
                expected: EtherType::IPV4.0.into(),
                found: ethertype.0.into(),
            });
        }
        let payload = bytes.get(payload_at..).unwrap_or_default();
        let payload = match ethertype {
            EtherType::ARP => Payload::Arp(arp::Repr::parse(&arp::Packet::new_checked(payload)?)),
            EtherType::IPV4 => {
                Payload::Ip(Ip::v4(&ipv4::Packet::new_checked(payload)?, payload_at))
            }
            EtherType::IPV6 => {
                Payload::Ip(Ip::v6(&ipv6::Packet::new_checked(payload)?, payload_at)?)
            }
            _ => Payload::Other,
        };
        Ok(Self {
            destination: frame.destination(),
            source: frame.source(),
            vlan,
            payload_at,
            payload,
        })
    }

    /// Writes DSCP and ECN of the IP packet that the frame carries, if it does.
    pub(crate) fn set_traffic_class(&self, frame: &mut Frame, traffic_class: u8) {
        let Payload::Ip(ip) = &self.payload else {
            return;
        };
        let packet = frame.bytes_mut().get_mut(self.payload_at..);
        let packet = packet.unwrap_or_default();
        if ip.source.is_ipv4() {
            ipv4::Packet::new_unchecked(packet).set_traffic_class(traffic_class);
        } else {
            ipv6::Packet::new_unchecked(packet).set_traffic_class(traffic_class);
        }
    }

    /// Returns whether the frame has a VLAN tag.
    pub(crate) const fn is_tagged(&self) -> bool {
        self.vlan.is_some()
    }

    /// What a network looks at of the payload.
    pub(crate) fn seen(&self, config: &NetworkConfig) -> &Payload {
        match self.vlan {
            Some(1..) if config.vlan_tags == VlanTags::Carry => &Payload::Other,
            _ => &self.payload,
        }
    }
}

impl Ip {
    fn v4(packet: &ipv4::Packet<&[u8]>, at: usize) -> Self {
        let fragment = match (packet.is_fragment(), packet.fragment_offset()) {
            (false, _) => None,
            (true, 0) => Some(Fragment::First),
            (true, _) => Some(Fragment::Later),
        };
        Self {
            source: packet.source().into(),
            destination: packet.destination().into(),
            protocol: packet.protocol(),
            upper_at: at + packet.header_bytes(),
            end: at + packet.total_bytes(),
            fragment,
            fragment_offset: packet.fragment_offset(),
            identification: packet.identification().into(),
            dont_fragment: packet.dont_fragment(),
            traffic_class: packet.traffic_class(),
            flow_label: 0,
        }
    }

    fn v6(packet: &ipv6::Packet<&[u8]>, at: usize) -> Result<Self, DecodeError> {
        let upper = packet.upper()?;
        let fragment = upper.fragment.map(|fragment| match fragment.offset {
            0 => Fragment::First,
            _ => Fragment::Later,
        });
        Ok(Self {
            source: packet.source().into(),
            destination: packet.destination().into(),
            protocol: upper.protocol,
            upper_at: at + upper.offset,
            end: at + packet.total_bytes(),
            fragment,
            fragment_offset: upper.fragment.map_or(0, |fragment| fragment.offset),
            identification: upper.fragment.map_or(0, |fragment| fragment.identification),
            dont_fragment: true,
            traffic_class: packet.traffic_class(),
            flow_label: packet.flow_label(),
        })
    }

    /// Returns header and payload of the upper layer; nothing behind the first fragment.
    pub(crate) fn upper<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match self.fragment {
            Some(Fragment::Later) => &[],
            Some(Fragment::First) | None => bytes.get(self.upper_at..self.end).unwrap_or_default(),
        }
    }
}
