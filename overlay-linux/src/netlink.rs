//! A small rtnetlink client that blocks: links, addresses, routes of one network namespace.
//!
//! A socket belongs for ever to the namespace in which it was opened, so a [`Netlink`] goes on to manage that one
//! wherever its thread moves to. Nothing here enumerates and changes: every change names an interface by the index that
//! a creation or a look-up by exact name returned.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{
        BridgePortState, InfoBridgePort, InfoKind, InfoPortData, InfoPortKind, LinkAttribute,
        LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, State,
    },
};
use nix::sys::socket::{
    self, AddressFamily as SocketFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
};
use overlay_core::MacAddr;

mod create;
mod route;
mod rule;

pub use route::Route;
pub(crate) use rule::Rule;

/// An rtnetlink socket of the namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// An interface, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number within the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address; unspecified where it has none of 48 bits.
    pub mac: MacAddr,
    /// Its MTU, in octets.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether the kernel has found it working: up, with its other end up. Not said of TAPs and loopback.
    pub running: bool,
    /// Whether the bridge that it belongs to forwards to it.
    pub forwarding: bool,
    /// The bridge (or other upper device) that it belongs to.
    pub controller: Option<u32>,
    /// Whether the bridge keeps it from its other isolated members.
    pub isolated: bool,
    /// The index of its other end, in that one's namespace; not said if it is the same as its own.
    pub peer: Option<u32>,
    /// Whether it is a bridge.
    pub bridge: bool,
    /// What somebody wrote down about it.
    pub alias: Option<String>,
}

/// What to change about an interface; `None` leaves a property as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Administratively up or down.
    pub up: Option<bool>,
    /// MTU in octets.
    pub mtu: Option<u32>,
    /// MAC address.
    pub mac: Option<MacAddr>,
    /// The bridge to belong to.
    pub controller: Option<u32>,
    /// Frames that may wait for a reader.
    pub queue_frames_max: Option<u32>,
    /// Segments that a frame handed to the device may stand for; 1 makes the kernel cut super-frames up beforehand.
    pub segments_max: Option<u32>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn open() -> io::Result<Self> {
        let socket = socket::socket(
            SocketFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Lists the interfaces.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.call(get_link(0, None), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(link_of).collect())
    }

    /// Returns the interface with this number.
    ///
    /// # Errors
    ///
    /// `ENODEV` where there is none; else what the kernel says.
    pub fn link_at(&mut self, index: u32) -> io::Result<Link> {
        self.one_link(get_link(index, None))
    }

    /// Looks an interface up by its exact name; none is no error.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn find(&mut self, name: &str) -> io::Result<Option<Link>> {
        match self.link(name) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            found => found.map(Some),
        }
    }

    fn one_link(&mut self, request: RouteNetlinkMessage) -> io::Result<Link> {
        let mut links = self.call(request, NLM_F_ACK)?.into_iter();
        let none = || io::Error::from_raw_os_error(nix::libc::ENODEV);
        links.find_map(link_of).ok_or_else(none)
    }

    /// Returns the MTU of the interface that has an address, in octets; more than 65,535 are as many.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn mtu_at(&mut self, address: IpAddr) -> io::Result<Option<u16>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.call(request, NLM_F_DUMP)?;
        let index = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => {
                let found = address_of(&message)?.addr() == address;
                found.then_some(message.header.index)
            }
            _ => None,
        });
        let link = match index.map(|index| self.link_at(index)).transpose() {
            // It went away a moment ago.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => None,
            found => found?,
        };
        Ok(link.map(|link| u16::try_from(link.mtu).unwrap_or(u16::MAX)))
    }

    /// Looks an interface up by its exact name.
    ///
    /// # Errors
    ///
    /// `ENODEV` where there is none; else what the kernel says.
    pub fn link(&mut self, name: &str) -> io::Result<Link> {
        let link = self.one_link(get_link(0, Some(name)))?;
        // The kernel takes other names of an interface as well.
        if link.name == name {
            Ok(link)
        } else {
            Err(io::Error::from_raw_os_error(nix::libc::ENODEV))
        }
    }

    /// Changes properties of an interface.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn change(&mut self, index: u32, change: LinkChange) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        if let Some(up) = change.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up {
                LinkFlags::Up
            } else {
                LinkFlags::empty()
            };
        }
        let attributes = [
            change.mtu.map(LinkAttribute::Mtu),
            change
                .mac
                .map(|mac| LinkAttribute::Address(mac.octets().to_vec())),
            change.controller.map(LinkAttribute::Controller),
            change.queue_frames_max.map(LinkAttribute::TxQueueLen),
            change.segments_max.map(LinkAttribute::GsoMaxSegs),
        ];
        message.attributes = attributes.into_iter().flatten().collect();
        self.command(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Gives an interface another name. It has to be down.
    ///
    /// # Errors
    ///
    /// `EEXIST` if the name is taken; else what the kernel says.
    pub fn rename(&mut self, index: u32, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.command(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Writes something down about an interface.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn set_alias(&mut self, index: u32, alias: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::IfAlias(alias.to_owned())];
        self.command(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Keeps a member of a bridge from the bridge's other isolated members.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn isolate(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let properties = InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)]);
        message.attributes = vec![LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(properties),
        ])];
        // What concerns a member is not looked at in a request to set a link.
        self.command(RouteNetlinkMessage::NewLink(message), 0)
    }

    /// Deletes an interface, and its peer if it has one.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn delete(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.command(RouteNetlinkMessage::DelLink(message), 0)
    }

    /// Lists the addresses of an interface, without those that the kernel gave it itself (scope link).
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn addresses(&mut self, index: u32) -> io::Result<Vec<IpNet>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.call(request, NLM_F_DUMP)?;
        let mine = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                address_of(&message)
            }
            _ => None,
        });
        Ok(mine.collect())
    }

    /// Gives an interface an address; one that it has already is fine.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> io::Result<()> {
        let request = RouteNetlinkMessage::NewAddress(address_message(index, address));
        self.command(request, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes an address away from an interface.
    ///
    /// # Errors
    ///
    /// `EADDRNOTAVAIL` if it has none such; else what the kernel says.
    pub fn remove_address(&mut self, index: u32, address: IpNet) -> io::Result<()> {
        let request = RouteNetlinkMessage::DelAddress(address_message(index, address));
        self.command(request, 0)
    }

    fn command(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.call(request, NLM_F_ACK | flags).map(drop)
    }

    /// Sends one request and collects its answers up to the acknowledgement, the end of the dump or the error.
    pub(crate) fn call(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut octets = vec![0; message.buffer_len()];
        message.serialize(&mut octets);
        let kernel = NetlinkAddr::new(0, 0);
        socket::sendto(self.socket.as_raw_fd(), &octets, &kernel, MsgFlags::empty())?;
        let (mut answers, mut buffer) = (Vec::new(), vec![0; ANSWER_BYTES_MAX]);
        loop {
            let length = socket::recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let taken = usize::try_from(answer.header.length).unwrap_or(usize::MAX);
                rest = rest.get(taken.next_multiple_of(4)..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(code) => Err(io::Error::from_raw_os_error(code.get().abs())),
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Asks for one interface or, with neither, for all of them; without counters, of which nobody here knows anything.
fn get_link(index: u32, name: Option<&str>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let named = name.map(|name| LinkAttribute::IfName(name.to_owned()));
    message.attributes.extend(named);
    let mask = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    message.attributes.push(mask);
    RouteNetlinkMessage::GetLink(message)
}

fn link_of(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: MacAddr::UNSPECIFIED,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        running: false,
        forwarding: false,
        controller: None,
        isolated: false,
        peer: None,
        bridge: false,
        alias: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::OperState(state) => link.running = state == State::Up,
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::LinkInfo(infos) => {
                let forwarding = InfoBridgePort::State(BridgePortState::Forwarding);
                link.forwarding = has_property(&infos, &forwarding);
                link.isolated = has_property(&infos, &InfoBridgePort::Isolated(true));
                link.bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
            }
            LinkAttribute::Address(octets) => {
                let octets = <[u8; 6]>::try_from(octets);
                link.mac = octets.map(MacAddr::new).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

fn has_property(infos: &[LinkInfo], wanted: &InfoBridgePort) -> bool {
    infos.iter().any(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(properties)) => properties.contains(wanted),
        _ => false,
    })
}

fn address_of(message: &AddressMessage) -> Option<IpNet> {
    if message.header.scope == AddressScope::Link {
        return None;
    }
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(found) => local = Some(*found),
            AddressAttribute::Address(found) => address = Some(*found),
            _ => {}
        }
    }
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
    ];
    match address {
        IpNet::V4(v4) => {
            let broadcast = AddressAttribute::Broadcast(v4.broadcast());
            message.attributes.push(broadcast);
        }
        // Addresses are allocated once for the whole cluster: asking the neighbours first only costs a second.
        IpNet::V6(_) => {
            message.header.flags = AddressHeaderFlags::Nodad;
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            message.attributes.push(flags);
        }
    }
    message
}

pub(crate) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The kernel sends at most 32 KiB at once.
const ANSWER_BYTES_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mtu_is_found_by_an_address_of_its_interface() {
        let mut netlink = Netlink::open().unwrap();
        let loopback = [127, 0, 0, 1].into();
        let nobody = [192, 0, 2, 1].into();
        let links = netlink.links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        let expected = u16::try_from(lo.mtu).unwrap_or(u16::MAX);
        assert_eq!(netlink.mtu_at(loopback).unwrap(), Some(expected));
        assert_eq!(netlink.mtu_at(nobody).unwrap(), None);
    }
}
