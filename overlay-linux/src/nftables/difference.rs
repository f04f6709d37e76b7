//! From the table that is there to the one that is wanted, by no more changes than it takes.

use std::collections::BTreeMap;

use super::{
    batch::Batch,
    set::{Element, Set},
    table::{Chain, Table},
    verdict::Verdict,
};

/// What has to be done with a table, in words for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Whether it has to be made anew.
    pub(crate) whole: bool,
    /// What there is to do, in order.
    pub(crate) words: Vec<String>,
}

/// Says what has to be done for one table to become another; nothing to a table that is as wanted.
pub(crate) fn difference(there: Option<&Table>, wanted: &Table) -> Difference {
    let mut words = Vec::new();
    let Some(there) = there.filter(|there| can_become(there, wanted)) else {
        words.push("make the table".to_owned());
        return Difference { whole: true, words };
    };
    for (name, chain) in &wanted.chains {
        match there.chains.get(name) {
            None => words.push(format!("add chain {name}")),
            Some(found) if found.rules != chain.rules => {
                words.push(format!("set the rules of {name}"));
            }
            Some(_) => {}
        }
    }
    for (name, set) in &wanted.sets {
        let empty = BTreeMap::new();
        let found = there.sets.get(name).map_or(&empty, |set| &set.elements);
        let added = changed(found, &set.elements).count();
        let removed = found.keys().filter(|key| !set.elements.contains_key(*key));
        let removed = removed.count();
        if added + removed > 0 {
            words.push(format!("add {added} and remove {removed} of {name}"));
        }
    }
    let gone = there.chains.keys();
    let gone = gone.filter(|name| !wanted.chains.contains_key(*name));
    words.extend(gone.map(|name| format!("remove chain {name}")));
    let gone = there.sets.keys();
    let gone = gone.filter(|name| !wanted.sets.contains_key(*name));
    words.extend(gone.map(|name| format!("remove set {name}")));
    let whole = false;
    Difference { whole, words }
}

/// Whether a table can be changed into another without being made anew.
fn can_become(there: &Table, wanted: &Table) -> bool {
    let hook = |chain: &Chain, name: &String| {
        let found = there.chains.get(name);
        found.is_none_or(|found| found.hook == chain.hook)
    };
    there.flags == wanted.flags
        && wanted.chains.iter().all(|(name, chain)| hook(chain, name))
        && wanted.sets.iter().all(|(name, set)| {
            let found = there.sets.get(name);
            found.is_none_or(|found| found.kind == set.kind)
        })
}

/// What a table is on its way to the wanted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stages {
    /// With more sets than there are.
    pub(crate) early: Option<Table>,
    /// With the rules and elements that are wanted, and with more sets.
    pub(crate) late: Option<Table>,
}

/// Returns by which stages a table becomes another, so that no rule at any moment looks into a set that is not filled.
///
/// The kernel fills sets of ranges when rules of the same transaction are in effect already, and a packet that is under way
/// finds nothing any more in a set that goes. So such sets come before the rules that use them, and sets go after them.
pub(crate) fn stages(there: Option<&Table>, wanted: &Table) -> Stages {
    let Some(there) = there.filter(|there| can_become(there, wanted)) else {
        let (early, late) = (None, None);
        return Stages { early, late };
    };
    let more = |to: &Table, from: &Table, which: &dyn Fn(&Set) -> bool| {
        let mut more = to.clone();
        for (name, set) in from.sets.iter().filter(|(_, set)| which(set)) {
            let place = more.sets.entry(name.clone());
            place.or_insert_with(|| set.clone());
        }
        Some(more).filter(|more| more != to)
    };
    // What leads to a chain that goes has to go with it.
    let leads_on = |element: &Element| match element {
        Element::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain)) => {
            wanted.chains.contains_key(chain)
        }
        _ => true,
    };
    Stages {
        early: more(there, wanted, &|set| set.kind.is_ranged()),
        late: more(wanted, there, &|set| set.elements.values().all(leads_on)),
    }
}

fn changed<'a>(
    there: &'a BTreeMap<Vec<u8>, Element>,
    wanted: &'a BTreeMap<Vec<u8>, Element>,
) -> impl Iterator<Item = (&'a Vec<u8>, &'a Element)> {
    let elements = wanted.iter();
    elements.filter(|(key, element)| there.get(*key) != Some(element))
}

impl Batch {
    /// Changes the table that is there into the one that is wanted.
    pub(crate) fn turn(&mut self, there: Option<&Table>, wanted: &Table) {
        let Some(there) = there.filter(|there| can_become(there, wanted)) else {
            self.delete_table();
            self.fill(wanted);
            return;
        };
        let empty = BTreeMap::new();
        for (name, set) in &wanted.sets {
            if !there.sets.contains_key(name) {
                self.make_set(name, set.kind);
            }
        }
        for (name, chain) in &wanted.chains {
            if !there.chains.contains_key(name) {
                self.make_chain(name, chain.hook.as_ref());
            }
        }
        for (name, set) in &there.sets {
            if !set.kind.leads() && !wanted.sets.contains_key(name) {
                // It goes with all that is in it.
                continue;
            }
            let wanted = wanted.sets.get(name).map(|set| &set.elements);
            let wanted = wanted.unwrap_or(&empty);
            for (key, element) in &set.elements {
                if wanted.get(key) != Some(element) {
                    self.delete_element(name, set.kind, key);
                }
            }
        }
        for (name, set) in &wanted.sets {
            let found = there.sets.get(name).map_or(&empty, |set| &set.elements);
            let changed = changed(found, &set.elements);
            let changed: BTreeMap<Vec<u8>, Element> = changed
                .map(|(key, element)| (key.clone(), element.clone()))
                .collect();
            if !changed.is_empty() {
                self.add_elements(name, set.kind, &changed);
            }
        }
        for (name, chain) in &wanted.chains {
            let found = there.chains.get(name);
            let found = found.map_or(&[][..], |found| &found.rules);
            if found != chain.rules {
                if !found.is_empty() {
                    self.delete_rules(name);
                }
                self.add_rules(name, &chain.rules);
            }
        }
        let gone = there.chains.keys();
        let gone: Vec<_> = gone
            .filter(|name| !wanted.chains.contains_key(*name))
            .collect();
        // They may lead to each other.
        gone.iter().for_each(|name| self.delete_rules(name));
        gone.iter().for_each(|name| self.delete_chain(name));
        let gone = there.sets.keys();
        let gone = gone.filter(|name| !wanted.sets.contains_key(*name));
        gone.for_each(|name| self.delete_set(name));
    }
}
