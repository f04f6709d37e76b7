//! Commands about who on a network may reach whom.

use overlay_core::NetworkId;

use super::{
    ClusterState, CommandError, NetworkRecord, Outcome, ServiceRecord,
    network::{ALLOW, DENY, NO_POLICY, POLICY},
    node::is_name,
};
use crate::api::{PolicyChange, RuleSpec, Selector, TrafficMatch, Verdict};

impl ClusterState {
    pub(super) fn change_policy(
        &mut self,
        network: NetworkId,
        change: PolicyChange,
    ) -> Result<Outcome, CommandError> {
        let record = self
            .networks
            .get(network)
            .ok_or(CommandError::UnknownNetwork { network })?;
        if record.ingress {
            return Err(invalid(record, NO_POLICY));
        }
        match change {
            PolicyChange::Add {
                rule,
                before,
                replace,
            } => {
                let rules = with_rule(record, rule, before.as_deref(), replace)?;
                self.set_rules(network, rules);
            }
            PolicyChange::Remove { name } => {
                let mut rules = record.rules.clone();
                rules.remove(place(record, &name)?);
                self.set_rules(network, rules);
            }
            PolicyChange::Default { verdict } => {
                let word = match verdict {
                    Verdict::Allow => ALLOW,
                    Verdict::Deny => DENY,
                };
                self.networks.modify(&mut self.journal, network, |record| {
                    record.options.insert(POLICY.to_owned(), word.to_owned())
                });
            }
        }
        Ok(Outcome::Done)
    }

    /// Returns the services that have tasks on a network, those that are being removed among them.
    pub fn services_on(&self, network: NetworkId) -> impl Iterator<Item = &ServiceRecord> {
        let services = self.services.index().on_network.of(&network);
        services.filter_map(|service| self.services.get(service))
    }

    fn set_rules(&mut self, network: NetworkId, rules: Vec<RuleSpec>) {
        self.networks
            .modify(&mut self.journal, network, |record| record.rules = rules);
    }
}

/// Returns the rules of a network with one more, or another one.
fn with_rule(
    network: &NetworkRecord,
    rule: RuleSpec,
    before: Option<&str>,
    replace: bool,
) -> Result<Vec<RuleSpec>, CommandError> {
    check(network, &rule)?;
    let mut rules = network.rules.clone();
    let present = rules.iter().position(|other| other.name == rule.name);
    if present.is_some() && !replace {
        return Err(CommandError::RuleExists {
            network: network.name.clone(),
            name: rule.name,
        });
    }
    if let Some(before) = before {
        place(network, before)?;
    }
    match (present, before) {
        (Some(at), None) => {
            rules[at] = rule;
            return Ok(rules);
        }
        // Before itself is where it is.
        (Some(at), Some(before)) if before == rule.name => {
            rules[at] = rule;
            return Ok(rules);
        }
        (Some(at), Some(_)) => drop(rules.remove(at)),
        (None, _) => {}
    }
    if rules.len() >= RULES_MAX {
        return Err(CommandError::Limit {
            what: "rules a network".to_owned(),
            limit: RULES_MAX as u64,
        });
    }
    let next = before.and_then(|before| rules.iter().position(|other| other.name == before));
    rules.insert(next.unwrap_or(rules.len()), rule);
    Ok(rules)
}

fn place(network: &NetworkRecord, name: &str) -> Result<usize, CommandError> {
    let mut rules = network.rules.iter();
    let found = rules.position(|rule| rule.name == name);
    found.ok_or_else(|| CommandError::UnknownRule {
        network: network.name.clone(),
        name: name.chars().take(80).collect(),
    })
}

fn check(network: &NetworkRecord, rule: &RuleSpec) -> Result<(), CommandError> {
    if !is_name(&rule.name) {
        return Err(CommandError::InvalidName {
            name: rule.name.chars().take(80).collect(),
        });
    }
    for selector in [&rule.from, &rule.to] {
        let (least, longest) = match selector {
            Selector::Any => (1, 0),
            Selector::Service(name) | Selector::Endpoint(name) => (name.len(), name.len()),
            Selector::Label { key, value } => (key.len(), key.len().max(value.len())),
        };
        if least == 0 || longest > WORD_BYTES_MAX {
            let reason = format!(
                "a name, a label's key and its value have at most {WORD_BYTES_MAX} octets, and the first two at least one"
            );
            return Err(invalid(network, reason));
        }
    }
    let traffic = rule.traffic.len();
    if !(1..=TRAFFIC_MAX).contains(&traffic) {
        let reason =
            format!("expected 1 to {TRAFFIC_MAX} kinds of traffic in a rule, found {traffic}");
        return Err(invalid(network, reason));
    }
    for traffic in &rule.traffic {
        if let TrafficMatch::Tcp { first, last } | TrafficMatch::Udp { first, last } = traffic.0
            && first > last
        {
            let reason = format!("expected ports in ascending order, found {first} before {last}");
            return Err(invalid(network, reason));
        }
    }
    Ok(())
}

fn invalid(network: &NetworkRecord, reason: impl Into<String>) -> CommandError {
    CommandError::InvalidPolicy {
        network: network.name.clone(),
        reason: reason.into(),
    }
}

/// How many rules a network has at the most.
const RULES_MAX: usize = 256;
/// How many kinds of traffic a rule names at the most.
const TRAFFIC_MAX: usize = 32;
/// The longest name, and the longest key and value of a label, in octets.
const WORD_BYTES_MAX: usize = 253;
