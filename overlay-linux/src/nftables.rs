//! A small nf_tables client that blocks: one table of IPv4 rules, read back and replaced as a whole.
//!
//! Changes go in one batch, which the kernel carries out entirely or not at all, so there is no moment without rules.
//! No other table is touched. A socket belongs for ever to the namespace in which it was opened.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST};
use nix::{
    errno::Errno,
    sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType},
};

mod attribute;
mod table;
#[cfg(test)]
mod tests;

use attribute::{Attributes, Parsed};
pub(crate) use table::{Chain, Hook, Rule, Table, Verdict};

/// A netfilter socket of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Nftables {
    socket: OwnedFd,
    sequence: u32,
}

/// A message's kind, its flags, and what it is about.
type Message = (u16, u16, Attributes);

impl Nftables {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket::socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let sequence = 0;
        Ok(Self { socket, sequence })
    }

    /// Reads a table back; none if there is none of the name.
    pub(crate) fn read(&mut self, name: &str) -> io::Result<Option<Table>> {
        let about = Attributes::default().text(table::TABLE_NAME, name);
        let answers = match self.ask(GETTABLE, NLM_F_ACK, &about) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => return Ok(None),
            other => other?,
        };
        let flags = answers.iter().find_map(|answer| {
            let answer = Parsed(answer);
            answer.number(table::TABLE_FLAGS)
        });
        let mut found = Table {
            flags: flags.unwrap_or_default(),
            ..Table::default()
        };
        for answer in self.ask(GETCHAIN, NLM_F_DUMP, &Attributes::default())? {
            let answer = Parsed(&answer);
            if answer.text(table::CHAIN_TABLE).as_deref() != Some(name) {
                continue;
            }
            let chain = Chain {
                hook: Hook::parse(answer),
                rules: Vec::new(),
            };
            let name = answer.text(table::CHAIN_NAME).unwrap_or_default();
            found.chains.insert(name, chain);
        }
        for answer in self.raw_rules(name)? {
            let answer = Parsed(&answer);
            let chain = answer.text(table::RULE_CHAIN).unwrap_or_default();
            let list = answer.nested(table::RULE_EXPRESSIONS);
            if let Some(chain) = found.chains.get_mut(&chain) {
                chain.rules.push(Rule::parse(list.unwrap_or(Parsed(&[]))));
            }
        }
        Ok(Some(found))
    }

    /// Makes a table such as `table` says, in one step, in the place of the one of the same name if there is one.
    pub(crate) fn replace(&mut self, name: &str, wanted: &Table) -> io::Result<()> {
        let about = || Attributes::default().text(table::TABLE_NAME, name);
        let mut batch: Vec<Message> = vec![
            // What is not there cannot be deleted, and what is there can be made again.
            (NEWTABLE, NLM_F_CREATE, about()),
            (DELTABLE, 0, about()),
            (
                NEWTABLE,
                NLM_F_CREATE,
                about().number(table::TABLE_FLAGS, wanted.flags),
            ),
        ];
        for (chain, Chain { hook, .. }) in &wanted.chains {
            let about = Attributes::default()
                .text(table::CHAIN_TABLE, name)
                .text(table::CHAIN_NAME, chain);
            let about = match hook {
                Some(hook) => hook.emit(about),
                None => about,
            };
            batch.push((NEWCHAIN, NLM_F_CREATE, about));
        }
        // Rules may name any chain, so all chains come first.
        for (chain, Chain { rules, .. }) in &wanted.chains {
            for rule in rules {
                let about = Attributes::default()
                    .text(table::RULE_TABLE, name)
                    .text(table::RULE_CHAIN, chain)
                    .nest(table::RULE_EXPRESSIONS, &rule.emit());
                batch.push((NEWRULE, NLM_F_CREATE | NLM_F_APPEND, about));
            }
        }
        self.carry_out(&batch)
    }

    /// Deletes a table with all that it holds; one that is not there is fine.
    pub(crate) fn delete(&mut self, name: &str) -> io::Result<()> {
        let about = || Attributes::default().text(table::TABLE_NAME, name);
        self.carry_out(&[(NEWTABLE, NLM_F_CREATE, about()), (DELTABLE, 0, about())])
    }

    /// Finds the chains outside of the table `own` that drop what is forwarded unless a rule accepts it: `ip filter`,
    /// `FORWARD`.
    pub(crate) fn dropping_chains(&mut self, own: &str) -> io::Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for (family, word) in [(IPV4, "ip"), (INET, "inet")] {
            for answer in self.ask_family(family, GETCHAIN, NLM_F_DUMP, &Attributes::default())? {
                let answer = Parsed(&answer);
                let table = answer.text(table::CHAIN_TABLE).unwrap_or_default();
                let chain = answer.text(table::CHAIN_NAME).unwrap_or_default();
                let ours = family == IPV4 && table == own;
                if !ours && Hook::parse(answer).is_some_and(|hook| hook.drops_forwarded()) {
                    found.push((format!("{word} {table}"), chain));
                }
            }
        }
        Ok(found)
    }

    fn raw_rules(&mut self, name: &str) -> io::Result<Vec<Vec<u8>>> {
        let about = Attributes::default().text(table::RULE_TABLE, name);
        let mut all = self.ask(GETRULE, NLM_F_DUMP, &about)?;
        // Kernels before 4.4 do not choose by the table.
        all.retain(|answer| Parsed(answer).text(table::RULE_TABLE).as_deref() == Some(name));
        Ok(all)
    }

    /// Sends one question about IPv4 and returns the attributes of its answers.
    fn ask(&mut self, kind: u16, flags: u16, about: &Attributes) -> io::Result<Vec<Vec<u8>>> {
        self.ask_family(IPV4, kind, flags, about)
    }

    fn ask_family(
        &mut self,
        family: u8,
        kind: u16,
        flags: u16,
        about: &Attributes,
    ) -> io::Result<Vec<Vec<u8>>> {
        let first = self.sequence.wrapping_add(1);
        let (mut octets, kind) = (Vec::new(), SUBSYSTEM << 8 | kind);
        self.append(&mut octets, kind, flags, (family, 0), about);
        self.send(&octets)?;
        self.answers(first)
    }

    /// Sends changes as one batch and waits for the end of the last one, or the first refusal.
    fn carry_out(&mut self, batch: &[Message]) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let (mut octets, none) = (Vec::new(), Attributes::default());
        self.append(&mut octets, BATCH_BEGIN, 0, (0, SUBSYSTEM), &none);
        for (at, (kind, flags, about)) in batch.iter().enumerate() {
            let last = at + 1 == batch.len();
            let flags = if last { flags | NLM_F_ACK } else { *flags };
            let kind = SUBSYSTEM << 8 | kind;
            self.append(&mut octets, kind, flags, (IPV4, 0), about);
        }
        self.append(&mut octets, BATCH_END, 0, (0, SUBSYSTEM), &none);
        self.send(&octets)?;
        self.answers(first).map(drop)
    }

    fn append(
        &mut self,
        octets: &mut Vec<u8>,
        kind: u16,
        flags: u16,
        (family, resource): (u8, u16),
        about: &Attributes,
    ) {
        self.sequence = self.sequence.wrapping_add(1);
        let length = HEADER_BYTES + FAMILY_BYTES + about.octets().len();
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        octets.extend_from_slice(&length.to_ne_bytes());
        octets.extend_from_slice(&kind.to_ne_bytes());
        octets.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        octets.extend_from_slice(&self.sequence.to_ne_bytes());
        octets.extend_from_slice(&[0; 4]);
        octets.extend_from_slice(&[family, VERSION]);
        octets.extend_from_slice(&resource.to_be_bytes());
        octets.extend_from_slice(about.octets());
    }

    fn send(&self, octets: &[u8]) -> io::Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        socket::sendto(self.socket.as_raw_fd(), octets, &kernel, MsgFlags::empty())?;
        Ok(())
    }

    /// Collects answers to the messages from `first` on, up to an acknowledgement, the end of a dump or a refusal.
    ///
    /// What is left of an earlier exchange that ended with its first refusal is passed over by its number.
    fn answers(&self, first: u32) -> io::Result<Vec<Vec<u8>>> {
        let sent = self.sequence.wrapping_sub(first);
        let (mut answers, mut buffer) = (Vec::new(), vec![0; ANSWER_BYTES_MAX]);
        loop {
            let length = socket::recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((kind, sequence, body, after)) = split(rest) {
                rest = after;
                if sequence.wrapping_sub(first) > sent {
                    continue;
                }
                match kind {
                    ERROR => return refusal(body).map(|()| answers),
                    DONE => return Ok(answers),
                    _ => answers.push(body.get(FAMILY_BYTES..).unwrap_or_default().to_vec()),
                }
            }
        }
    }
}

/// Splits the first message off: its kind, its number, what is in it, and what comes after it.
fn split(octets: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let header = octets.first_chunk::<HEADER_BYTES>()?;
    let [a, b, c, d, e, f, _, _, i, j, k, l, ..] = *header;
    let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
    let body = octets.get(HEADER_BYTES..length)?;
    let after = octets.get(length.next_multiple_of(4)..).unwrap_or_default();
    let (kind, sequence) = (u16::from_ne_bytes([e, f]), u32::from_ne_bytes([i, j, k, l]));
    Some((kind, sequence, body, after))
}

fn refusal(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

const HEADER_BYTES: usize = 16;
/// Of `struct nfgenmsg`: family, version, resource.
const FAMILY_BYTES: usize = 4;
const VERSION: u8 = 0;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// `NFPROTO_INET`: IPv4 and IPv6 at once.
const INET: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const ERROR: u16 = 2;
const DONE: u16 = 3;

const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;

/// The kernel sends at most 32 KiB at once.
const ANSWER_BYTES_MAX: usize = 65_536;
