//! Changes of one table, which the kernel carries out entirely or not at all.

use std::collections::BTreeMap;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};

use super::{
    INET, SUBSYSTEM,
    attribute::Attributes,
    expression::Expression,
    rule::Rule,
    set::{self, Element, SetKind},
    socket::Message,
    table::{self, Chain, Hook, Table},
};

/// Changes of one table, in order.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    family: u8,
    table: String,
    messages: Vec<Message>,
    /// What each of them is about, in words.
    words: Vec<String>,
    sets: u32,
}

impl Batch {
    pub(super) fn new(family: u8, table: &str) -> Self {
        Self {
            family,
            table: table.to_owned(),
            messages: Vec::new(),
            words: Vec::new(),
            sets: 0,
        }
    }

    /// Goes on with another table, for both families of IP at once.
    pub(crate) fn go_on_with_inet(&mut self, table: &str) {
        self.family = INET;
        table.clone_into(&mut self.table);
    }

    /// Makes the table; one that is there is fine.
    pub(crate) fn make_table(&mut self, flags: Option<u32>) {
        let about = self.about(table::TABLE_NAME);
        let about = match flags {
            Some(flags) => about.number(table::TABLE_FLAGS, flags),
            None => about,
        };
        let words = format!("make the table {}", self.table);
        self.push(NEWTABLE, NLM_F_CREATE, about, words);
    }

    /// Deletes the table with all that it holds; one that is not there is fine.
    pub(crate) fn delete_table(&mut self) {
        // What is not there cannot be deleted, and what is there can be made again.
        self.make_table(None);
        let words = format!("delete the table {}", self.table);
        self.push(DELTABLE, 0, self.about(table::TABLE_NAME), words);
    }

    /// Makes a table such as `wanted`, where there is none.
    pub(crate) fn fill(&mut self, wanted: &Table) {
        self.make_table(Some(wanted.flags));
        // Rules and elements may name any chain and set.
        for (name, set) in &wanted.sets {
            self.make_set(name, set.kind);
        }
        for (name, Chain { hook, .. }) in &wanted.chains {
            self.make_chain(name, hook.as_ref());
        }
        for (name, set) in &wanted.sets {
            self.add_elements(name, set.kind, &set.elements);
        }
        for (name, Chain { rules, .. }) in &wanted.chains {
            self.add_rules(name, rules);
        }
    }

    /// Makes a chain; one that is there is fine.
    pub(crate) fn make_chain(&mut self, name: &str, hook: Option<&Hook>) {
        let about = self.about(table::CHAIN_TABLE).text(table::CHAIN_NAME, name);
        let about = match hook {
            Some(hook) => hook.emit(about),
            None => about,
        };
        self.push(
            NEWCHAIN,
            NLM_F_CREATE,
            about,
            format!("make the chain {name}"),
        );
    }

    /// Deletes a chain that is there, and before that its rules.
    pub(crate) fn delete_chain(&mut self, name: &str) {
        self.delete_rules(name);
        let chain = self.about(table::CHAIN_TABLE).text(table::CHAIN_NAME, name);
        self.push(DELCHAIN, 0, chain, format!("delete the chain {name}"));
    }

    /// Deletes the rules of a chain that is there.
    pub(crate) fn delete_rules(&mut self, name: &str) {
        let rules = self.about(table::RULE_TABLE).text(table::RULE_CHAIN, name);
        self.push(DELRULE, 0, rules, format!("delete the rules of {name}"));
    }

    pub(crate) fn add_rules(&mut self, chain: &str, rules: &[Rule]) {
        for rule in rules {
            let about = self
                .about(table::RULE_TABLE)
                .text(table::RULE_CHAIN, chain)
                .nest(table::RULE_EXPRESSIONS, &rule.emit());
            let names: Vec<&str> = rule.0.iter().map(Expression::name).collect();
            let words = format!("add a rule of {} to {chain}", names.join(", "));
            self.push(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, about, words);
        }
    }

    pub(crate) fn make_set(&mut self, name: &str, kind: SetKind) {
        self.sets += 1;
        let about = self.about(set::SET_TABLE).text(set::SET_NAME, name);
        let about = kind.emit(about).number(set::SET_ID, self.sets);
        self.push(NEWSET, NLM_F_CREATE, about, format!("make the set {name}"));
    }

    /// Deletes a set that is there.
    pub(crate) fn delete_set(&mut self, name: &str) {
        let about = self.about(set::SET_TABLE).text(set::SET_NAME, name);
        self.push(DELSET, 0, about, format!("delete the set {name}"));
    }

    pub(crate) fn add_elements(
        &mut self,
        set: &str,
        kind: SetKind,
        elements: &BTreeMap<Vec<u8>, Element>,
    ) {
        let all: Vec<_> = elements.iter().collect();
        for some in all.chunks(ELEMENTS_MAX) {
            let about = self.elements(set);
            let about = set::emit_elements(about, kind, some.iter().copied());
            let words = format!("add elements to {set}");
            self.push(NEWSETELEM, NLM_F_CREATE, about, words);
        }
    }

    /// Deletes an element that is there.
    pub(crate) fn delete_element(&mut self, set: &str, kind: SetKind, key: &[u8]) {
        let element = [(&key.to_vec(), &Element::Present)];
        let about = set::emit_elements(self.elements(set), kind, element);
        self.push(DELSETELEM, 0, about, format!("delete an element of {set}"));
    }

    /// Its length, in octets, and what comes before and after it.
    pub(crate) fn octets(&self) -> usize {
        let messages: usize = self.messages.iter().map(Message::octets).sum();
        messages + EDGES_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// What a message is about, in words, by its place.
    pub(super) fn words(&self, place: usize) -> Option<&str> {
        self.words.get(place).map(String::as_str)
    }

    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    fn elements(&self, set: &str) -> Attributes {
        let about = self.about(set::ELEMENTS_TABLE);
        about.text(set::ELEMENTS_SET, set)
    }

    fn about(&self, name: u16) -> Attributes {
        Attributes::default().text(name, &self.table)
    }

    fn push(&mut self, kind: u16, flags: u16, about: Attributes, words: String) {
        self.words.push(words);
        self.messages.push(Message {
            subsystem: SUBSYSTEM,
            kind,
            flags,
            family: self.family,
            about,
        });
    }
}

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;
/// In one message: an attribute holds at most 64 KiB.
const ELEMENTS_MAX: usize = 512;
/// Of the messages that begin and end a batch.
const EDGES_BYTES: usize = 40;
