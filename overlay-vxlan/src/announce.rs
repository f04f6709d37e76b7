//! Telling the endpoints of this node that an IP address has another MAC address now.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
};

use overlay_core::{Instant, MacAddr, Vni};

use crate::{
    fdb::NetworkIndex,
    frame::Frame,
    sink::Sink,
    switch::{Output, Switch},
    wire::{
        EmitError, arp,
        ethernet::{self, EtherType},
        icmpv6,
        ipv4::Protocol,
        ipv6,
    },
};

/// An IP address of a network has moved to another MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Announcement {
    /// The network.
    pub vni: Vni,
    /// The address.
    pub address: IpAddr,
    /// Who has it now.
    pub mac: MacAddr,
}

impl Switch {
    /// Tells all local ports of the network, but for that of the MAC address itself, where the IP address is now.
    ///
    /// To call with each [`Output::Announce`]. The ports get an ARP announcement (RFC 5227 §2.3) or an unsolicited
    /// neighbour advertisement that overrides what they know (RFC 4861 §7.2.6), once. Returns how many ports were told:
    /// none if the address has moved on meanwhile, of which there is another output.
    pub fn announce(
        &mut self,
        now: Instant,
        announcement: &Announcement,
        sink: &mut impl Sink,
    ) -> usize {
        self.now = self.now.max(now);
        let Announcement { vni, address, mac } = *announcement;
        let Self { tables, meters, .. } = self;
        let index = tables.network_index(vni);
        let Some((index, network)) = index.and_then(|index| Some((index, tables.network(index)?)))
        else {
            return 0;
        };
        let frame = frame(address, mac);
        let (Some(frame), true) = (frame, tables.has_claim(index, address, mac)) else {
            return 0;
        };
        let ports = network.ports.iter();
        let ports = ports.filter_map(|port| Some((*port, tables.ports.get(*port)?)));
        let mut told = 0;
        for (to, port) in ports.filter(|(_, port)| port.mac != mac) {
            meters.count_to_port(index, to, frame.len());
            sink.copy_to_port(port.id, &frame);
            told += 1;
        }
        meters.count(index, |stats| stats.announced += 1);
        told
    }

    /// Queues what the last command moved.
    pub(crate) fn queue_moves(&mut self) {
        for (network, address, mac) in std::mem::take(&mut self.tables.moves.found) {
            let vni = self.tables.network(network).map(|network| network.vni);
            if let Some(vni) = vni {
                let announcement = Announcement { vni, address, mac };
                self.queue(network, Output::Announce(announcement));
            }
        }
    }
}

/// Which IP addresses have moved from one MAC address to another.
#[derive(Clone, Debug)]
pub(crate) struct Moves {
    max: usize,
    /// Who had an address that nobody has now. An endpoint mostly leaves before it is back elsewhere.
    former: BTreeMap<(NetworkIndex, IpAddr), MacAddr>,
    /// The keys of `former`, oldest first, and perhaps some that came back.
    order: VecDeque<(NetworkIndex, IpAddr)>,
    /// What has moved since the switch looked last.
    pub(crate) found: Vec<(NetworkIndex, IpAddr, MacAddr)>,
}

impl Moves {
    pub(crate) const fn new(former_max: usize) -> Self {
        Self {
            max: former_max,
            former: BTreeMap::new(),
            order: VecDeque::new(),
            found: Vec::new(),
        }
    }

    /// Notes that nobody has an address any more.
    pub(crate) fn gone(&mut self, network: NetworkIndex, address: IpAddr, mac: MacAddr) {
        if self.max == 0 {
            return;
        }
        while self.order.len() >= self.max {
            if let Some(oldest) = self.order.pop_front() {
                self.former.remove(&oldest);
            }
        }
        self.order.push_back((network, address));
        self.former.insert((network, address), mac);
    }

    /// Notes who has an address now, and who had it until now.
    pub(crate) fn here(
        &mut self,
        network: NetworkIndex,
        address: IpAddr,
        before: Option<MacAddr>,
        mac: MacAddr,
    ) {
        let former = self.former.remove(&(network, address));
        if before.or(former).is_some_and(|before| before != mac) {
            self.found.push((network, address, mac));
        }
    }

    /// Forgets a network.
    pub(crate) fn forget(&mut self, network: NetworkIndex) {
        self.former.retain(|(of, _), _| *of != network);
        self.order.retain(|(of, _)| *of != network);
        self.found.retain(|(of, ..)| *of != network);
    }
}

/// Makes the announcement that `address` is at `mac`.
fn frame(address: IpAddr, mac: MacAddr) -> Option<Frame> {
    let payload_bytes = match address {
        IpAddr::V4(_) => arp::PACKET_BYTES,
        IpAddr::V6(_) => ipv6::HEADER_BYTES + icmpv6::NEIGHBOUR_BYTES,
    };
    let bytes = vec![0; ethernet::HEADER_BYTES + payload_bytes];
    let mut frame = Frame::with_headroom(Frame::HEADROOM, &bytes);
    emit(frame.bytes_mut(), address, mac).ok()?;
    Some(frame)
}

fn emit(bytes: &mut [u8], address: IpAddr, mac: MacAddr) -> Result<(), EmitError> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let (destination, ethertype) = match address {
        IpAddr::V4(_) => (MacAddr::BROADCAST, EtherType::ARP),
        IpAddr::V6(_) => (ipv6::multicast_mac(all_nodes), EtherType::IPV6),
    };
    let link = ethernet::Repr {
        destination,
        source: mac,
        ethertype,
    };
    link.emit(bytes)?;
    let payload = bytes.get_mut(ethernet::HEADER_BYTES..).unwrap_or_default();
    match address {
        IpAddr::V4(address) => arp::Repr {
            operation: arp::Operation::REQUEST,
            sender_mac: mac,
            sender_address: address,
            target_mac: MacAddr::UNSPECIFIED,
            target_address: address,
        }
        .emit(payload),
        IpAddr::V6(address) => {
            let network = ipv6::Repr {
                traffic_class: 0,
                flow_label: 0,
                next_header: Protocol::ICMPV6,
                hop_limit: 255,
                source: address,
                destination: all_nodes,
                payload_bytes: 32,
            };
            network.emit(payload)?;
            let message = payload.get_mut(ipv6::HEADER_BYTES..).unwrap_or_default();
            icmpv6::Repr::NeighbourAdvertisement {
                router: false,
                solicited: false,
                overrides: true,
                target: address,
                mac: Some(mac),
            }
            .emit(message, address, all_nodes)
        }
    }
}
