//! Rules that send packets to another routing table than the main one.

use std::{io, net::SocketAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, IpProtocol, RouteNetlinkMessage,
    rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange},
};
use nix::errno::Errno;

use super::{Netlink, family};

/// Which packets come to a table of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Those with this mark come to the table of the same number.
    Mark {
        /// Mark and table.
        table: u32,
        /// Of IPv6 rather than IPv4.
        v6: bool,
    },
    /// Datagrams of UDP to this address and port.
    Datagrams {
        /// Where they come to.
        table: u32,
        /// The address and port.
        to: SocketAddr,
    },
}

impl Netlink {
    /// Adds a rule; one that is there is fine.
    pub(crate) fn add_rule(&mut self, rule: Rule) -> io::Result<()> {
        let request = RouteNetlinkMessage::NewRule(rule.message());
        match self.command(request, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => Ok(()),
            added => added,
        }
    }

    /// Removes a rule; one that is not there is fine.
    pub(crate) fn remove_rule(&mut self, rule: Rule) -> io::Result<()> {
        let request = RouteNetlinkMessage::DelRule(rule.message());
        match self.command(request, 0) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
            removed => removed,
        }
    }

    /// Lists the rules such as are made here, in a family.
    pub(crate) fn rules(&mut self, v6: bool) -> io::Result<Vec<Rule>> {
        let mut message = RuleMessage::default();
        message.header.family = if v6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        let answers = self.call(RouteNetlinkMessage::GetRule(message), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(rule_of).collect())
    }
}

impl Rule {
    fn message(self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.action = RuleAction::ToTable;
        match self {
            Self::Mark { table, v6 } => {
                message.header.family = if v6 {
                    AddressFamily::Inet6
                } else {
                    AddressFamily::Inet
                };
                message.attributes = vec![
                    RuleAttribute::Priority(MARKS),
                    RuleAttribute::FwMark(table),
                    RuleAttribute::FwMask(u32::MAX),
                    RuleAttribute::Table(table),
                ];
            }
            Self::Datagrams { table, to } => {
                let (start, end) = (to.port(), to.port());
                message.header.family = family(to.ip());
                message.header.dst_len = if to.is_ipv6() { 128 } else { 32 };
                message.attributes = vec![
                    RuleAttribute::Priority(DATAGRAMS),
                    RuleAttribute::Destination(to.ip()),
                    RuleAttribute::IpProtocol(IpProtocol::Udp),
                    RuleAttribute::DestinationPortRange(RulePortRange { start, end }),
                    RuleAttribute::Table(table),
                ];
            }
        }
        message
    }
}

fn rule_of(answer: RouteNetlinkMessage) -> Option<Rule> {
    let RouteNetlinkMessage::NewRule(message) = answer else {
        return None;
    };
    let mut table = u32::from(message.header.table);
    let (mut priority, mut mark, mut address, mut port) = (None, None, None, None);
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Table(found) => table = found,
            RuleAttribute::Priority(found) => priority = Some(found),
            RuleAttribute::FwMark(found) => mark = Some(found),
            RuleAttribute::Destination(found) => address = Some(found),
            RuleAttribute::DestinationPortRange(found) => port = Some(found.start),
            _ => {}
        }
    }
    match priority {
        Some(MARKS) if mark == Some(table) => Some(Rule::Mark {
            table,
            v6: message.header.family == AddressFamily::Inet6,
        }),
        Some(DATAGRAMS) => Some(Rule::Datagrams {
            table,
            to: SocketAddr::new(address?, port?),
        }),
        _ => None,
    }
}

/// After the table of the namespace's own addresses (0), before the main one (32,766).
const MARKS: u32 = 1_000;
const DATAGRAMS: u32 = 1_001;
