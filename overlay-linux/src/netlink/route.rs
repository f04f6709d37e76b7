//! Routes of the IPv4 and IPv6 families.

use std::{io, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
        RouteScope, RouteType,
    },
};

use super::{Netlink, family};

/// A unicast route of IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads to.
    pub destination: Ipv4Net,
    /// The next hop, if there is one and only one.
    pub gateway: Option<IpAddr>,
    /// The interfaces that packets leave by; several for a route with several next hops.
    pub interfaces: Vec<u32>,
    /// Whether it is in the table that every packet comes to.
    pub main: bool,
}

impl Netlink {
    /// Adds (or replaces) a route to `destination` through `gateway` on an interface.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn add_route(
        &mut self,
        index: u32,
        destination: IpNet,
        gateway: Option<IpAddr>,
    ) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination.addr());
        message.header.destination_prefix_length = destination.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope = RouteScope::Link;
        message.attributes = vec![RouteAttribute::Oif(index)];
        if destination.prefix_len() > 0 {
            let network = RouteAddress::from(destination.network());
            let attribute = RouteAttribute::Destination(network);
            message.attributes.push(attribute);
        }
        if let Some(gateway) = gateway {
            message.header.scope = RouteScope::Universe;
            message.header.flags = RouteFlags::Onlink;
            let attribute = RouteAttribute::Gateway(RouteAddress::from(gateway));
            message.attributes.push(attribute);
        }
        let request = RouteNetlinkMessage::NewRoute(message);
        self.command(request, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Makes all destinations of a family local, by way of the loopback interface `index`, in a table that only packets of
    /// certain rules come to. What is sent without a source gets `source`; one that the table has already is replaced.
    pub(crate) fn set_local_route(
        &mut self,
        table: u32,
        index: u32,
        source: IpAddr,
    ) -> io::Result<()> {
        let request = RouteNetlinkMessage::NewRoute(local_route(table, index, source));
        self.command(request, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes away what [`set_local_route`](Self::set_local_route) made.
    pub(crate) fn remove_local_route(
        &mut self,
        table: u32,
        index: u32,
        source: IpAddr,
    ) -> io::Result<()> {
        let request = RouteNetlinkMessage::DelRoute(local_route(table, index, source));
        self.command(request, 0)
    }

    /// Lists the unicast routes of IPv4, of all tables.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let answers = self.call(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(route_of).collect())
    }
}

fn local_route(table: u32, index: u32, source: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(source);
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Local;
    message.header.scope = RouteScope::Host;
    message.attributes = vec![
        RouteAttribute::Table(table),
        RouteAttribute::Oif(index),
        RouteAttribute::PrefSource(RouteAddress::from(source)),
    ];
    message
}

fn route_of(answer: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.address_family != AddressFamily::Inet {
        return None;
    }
    let mut route = Route {
        destination: Ipv4Net::default(),
        gateway: None,
        interfaces: Vec::new(),
        main: header.table == RouteHeader::RT_TABLE_MAIN,
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(network)) => {
                let length = message.header.destination_prefix_length;
                route.destination = Ipv4Net::new(network, length).ok()?;
            }
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => {
                route.gateway = Some(gateway.into());
            }
            RouteAttribute::Oif(index) => route.interfaces.push(index),
            RouteAttribute::MultiPath(hops) => {
                let indices = hops.iter().map(|hop| hop.interface_index);
                route.interfaces.extend(indices);
            }
            _ => {}
        }
    }
    Some(route)
}
