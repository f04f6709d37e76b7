//! A small nf_tables client that blocks: one table, read back and changed.
//!
//! Changes go in one batch, which the kernel carries out entirely or not at all, so there is no moment without rules.
//! No other table is touched. A socket belongs for ever to the namespace in which it was opened.

use std::{collections::BTreeMap, io};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use nix::errno::Errno;

pub(crate) mod attribute;
mod batch;
mod conntrack;
mod difference;
mod expression;
mod field;
mod rule;
mod set;
pub(crate) mod socket;
mod table;
#[cfg(test)]
mod tests;
mod verdict;

use attribute::{Attributes, Parsed};
pub(crate) use batch::Batch;
pub(crate) use conntrack::{State, Tracked};
pub(crate) use difference::{Difference, difference, stages};
pub(crate) use expression::{Expression, Found, name_value};
pub(crate) use field::{Field, Register};
pub(crate) use rule::Rule;
pub(crate) use set::{Element, Set, SetKind, octets};
use socket::{Message, Socket};
pub(crate) use table::{Chain, Hook, Table};
pub(crate) use verdict::Verdict;

/// A netfilter socket of the namespace in which it was opened, for tables of one family.
#[derive(Debug)]
pub(crate) struct Nftables {
    socket: Socket,
    family: u8,
}

impl Nftables {
    /// Opens a socket in the calling thread's network namespace, for tables of IPv4.
    pub(crate) fn open() -> io::Result<Self> {
        Self::of(IPV4)
    }

    /// The same, for tables of both families at once. Since Linux 5.2 they may change addresses.
    pub(crate) fn open_inet() -> io::Result<Self> {
        Self::of(INET)
    }

    /// The same, for tables of frames on bridges.
    pub(crate) fn open_bridge() -> io::Result<Self> {
        Self::of(BRIDGE)
    }

    fn of(family: u8) -> io::Result<Self> {
        let socket = Socket::open()?;
        Ok(Self { socket, family })
    }

    /// Reads a table back; none if there is none of the name.
    pub(crate) fn read(&mut self, name: &str) -> io::Result<Option<Table>> {
        let Some(answers) = self.ask_of(name)? else {
            return Ok(None);
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
        let about = Attributes::default().text(set::SET_TABLE, name);
        for answer in self.ask(GETSET, NLM_F_DUMP, &about)? {
            let answer = Parsed(&answer);
            let set = answer.text(set::SET_NAME);
            let (Some(set), Some(kind)) = (set, SetKind::parse(answer)) else {
                continue;
            };
            if answer.text(set::SET_TABLE).as_deref() == Some(name) {
                let elements = self.elements(name, &set, kind)?;
                found.sets.insert(set, Set { kind, elements });
            }
        }
        Ok(Some(found))
    }

    /// Asks for a table without what is in it; none if there is none of the name.
    fn ask_of(&mut self, name: &str) -> io::Result<Option<Vec<Vec<u8>>>> {
        let about = Attributes::default().text(table::TABLE_NAME, name);
        match self.ask(GETTABLE, NLM_F_ACK, &about) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(None),
            other => other.map(Some),
        }
    }

    /// How many packets the counters of each chain of a table have seen.
    pub(crate) fn counted(&mut self, name: &str) -> io::Result<BTreeMap<String, u64>> {
        let mut counted = BTreeMap::new();
        for answer in self.raw_rules(name)? {
            let answer = Parsed(&answer);
            let list = answer.nested(table::RULE_EXPRESSIONS);
            let packets = expression::counted(list.unwrap_or(Parsed(&[])));
            if let (Some(chain), Some(packets)) = (answer.text(table::RULE_CHAIN), packets) {
                let sum: &mut u64 = counted.entry(chain).or_default();
                *sum = sum.saturating_add(packets);
            }
        }
        Ok(counted)
    }

    /// Makes a table such as `wanted` says, in one step, in the place of the one of the same name if there is one.
    pub(crate) fn replace(&mut self, name: &str, wanted: &Table) -> io::Result<()> {
        let mut batch = self.batch(name);
        batch.delete_table();
        batch.fill(wanted);
        self.commit(&batch)
    }

    /// Deletes a table with all that it holds; one that is not there is fine.
    pub(crate) fn delete(&mut self, name: &str) -> io::Result<()> {
        // A change of nothing takes as long as any: milliseconds.
        if self.ask_of(name)?.is_none() {
            return Ok(());
        }
        let mut batch = self.batch(name);
        batch.delete_table();
        self.commit(&batch)
    }

    /// Begins changes of a table.
    pub(crate) fn batch(&self, name: &str) -> Batch {
        Batch::new(self.family, name)
    }

    /// Carries changes out, all of them or none.
    pub(crate) fn commit(&mut self, batch: &Batch) -> io::Result<()> {
        self.socket.carry_out(batch.messages())
    }

    /// Which part of a batch was refused, in words.
    pub(crate) fn refused<'a>(&self, batch: &'a Batch) -> Option<&'a str> {
        batch.words(self.socket.refused()?)
    }

    /// How long a batch may be, in octets, if `wanted` is more than usual.
    pub(crate) fn room(&self, wanted: usize) -> io::Result<usize> {
        self.socket.make_room(wanted)
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
                let ours = family == self.family && table == own;
                if !ours && Hook::parse(answer).is_some_and(|hook| hook.drops_forwarded()) {
                    found.push((format!("{word} {table}"), chain));
                }
            }
        }
        Ok(found)
    }

    fn elements(
        &mut self,
        table: &str,
        set: &str,
        kind: SetKind,
    ) -> io::Result<BTreeMap<Vec<u8>, Element>> {
        let about = Attributes::default()
            .text(set::ELEMENTS_TABLE, table)
            .text(set::ELEMENTS_SET, set);
        let answers = self.ask(GETSETELEM, NLM_F_DUMP, &about)?;
        let answers = answers.iter();
        let elements = answers.flat_map(|answer| set::parse_elements(Parsed(answer)));
        Ok(set::collect(kind, elements.collect()))
    }

    fn raw_rules(&mut self, name: &str) -> io::Result<Vec<Vec<u8>>> {
        let about = Attributes::default().text(table::RULE_TABLE, name);
        let mut all = self.ask(GETRULE, NLM_F_DUMP, &about)?;
        // Kernels before 4.4 do not choose by the table.
        all.retain(|answer| Parsed(answer).text(table::RULE_TABLE).as_deref() == Some(name));
        Ok(all)
    }

    /// Sends one question and returns the attributes of its answers.
    fn ask(&mut self, kind: u16, flags: u16, about: &Attributes) -> io::Result<Vec<Vec<u8>>> {
        self.ask_family(self.family, kind, flags, about)
    }

    fn ask_family(
        &mut self,
        family: u8,
        kind: u16,
        flags: u16,
        about: &Attributes,
    ) -> io::Result<Vec<Vec<u8>>> {
        self.socket.ask(&Message {
            subsystem: SUBSYSTEM,
            kind,
            flags,
            family,
            about: about.clone(),
        })
    }
}

/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// `NFPROTO_INET`: IPv4 and IPv6 at once.
const INET: u8 = 1;
/// `NFPROTO_BRIDGE`.
const BRIDGE: u8 = 7;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const GETTABLE: u16 = 1;
const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const GETSET: u16 = 10;
const GETSETELEM: u16 = 13;
