//! The rules of the way out, as a table that can be compared with the kernel's.
//!
//! ```text
//! table ip overlay {
//!     chain forward { type filter hook forward priority filter; policy accept;
//!         iifname BRIDGE oifname BRIDGE drop                      # no endpoint reaches another
//!         iifname BRIDGE ip saddr SUBNET accept
//!         iifname BRIDGE drop                                     # what claims to come from elsewhere
//!         oifname BRIDGE ct state established,related accept
//!         oifname BRIDGE drop                                     # nor does anybody else reach one
//!         iifname eth0 oifname eth0 accept                        # for each interface that was made to forward:
//!         iifname eth0 jump guard                                 # not from one of these to another
//!     }
//!     chain guard { oifname eth0 drop … }
//!     chain postrouting { type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr SUBNET oifname != BRIDGE masquerade
//!     }
//! }
//! ```

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::plane::WayOut;

use crate::nftables::{Chain, Hook, Rule, Table, Verdict};

/// The rules for a bridge, and for interfaces that forward for its sake alone.
pub(super) fn table(way: &WayOut, opened: &BTreeSet<String>) -> Table {
    let (bridge, subnet) = (&way.bridge, way.gateway.trunc());
    let mut forward = vec![
        Rule::new().input(bridge).output(bridge).ends(Verdict::Drop),
        Rule::new()
            .input(bridge)
            .source(subnet)
            .ends(Verdict::Accept),
        Rule::new().input(bridge).ends(Verdict::Drop),
        Rule::new()
            .output(bridge)
            .of_known_connections()
            .ends(Verdict::Accept),
        Rule::new().output(bridge).ends(Verdict::Drop),
    ];
    let mut guard = Vec::new();
    for name in opened {
        // Frames that pass a bridge come by here, too, where the kernel is told so.
        let passing = Rule::new().input(name).output(name);
        let jump = Verdict::Jump(GUARD.to_owned());
        forward.push(passing.ends(Verdict::Accept));
        forward.push(Rule::new().input(name).ends(jump));
        guard.push(Rule::new().output(name).ends(Verdict::Drop));
    }
    let masquerade = Rule::new().source(subnet).not_output(bridge).masquerades();
    let chains = [
        (FORWARD, Some(Hook::forward()), forward),
        (GUARD, None, guard),
        (POSTROUTING, Some(Hook::source_nat()), vec![masquerade]),
    ];
    let chains = chains.map(|(name, hook, rules)| (name.to_owned(), Chain { hook, rules }));
    Table {
        flags: 0,
        chains: chains.into(),
        sets: BTreeMap::new(),
    }
}

/// The bridge that a table is for.
pub(super) fn bridge_of(table: &Table) -> Option<String> {
    let forward = table.chains.get(FORWARD)?;
    let mut rules = forward.rules.iter();
    // Whoever changes the table may put something in front.
    rules.find_map(|rule| rule.source_name().filter(|_| rule.target_name().is_some()))
}

/// The interfaces that a table guards because they were made to forward.
pub(super) fn opened_in(table: &Table) -> BTreeSet<String> {
    let guard = table.chains.get(GUARD);
    let rules = guard.map(|chain| chain.rules.as_slice());
    let rules = rules.unwrap_or_default().iter();
    rules.filter_map(Rule::target_name).collect()
}

const FORWARD: &str = "forward";
const GUARD: &str = "guard";
const POSTROUTING: &str = "postrouting";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_tells_what_it_was_made_for() {
        let way = WayOut {
            bridge: "gw0".into(),
            gateway: "172.18.0.1/16".parse().unwrap(),
            interface: "eth1".into(),
            address: "172.18.0.5/16".parse().unwrap(),
            mtu: 1500,
        };
        for opened in [&[][..], &["eth0"], &["eth0", "wlan0"]] {
            let opened: BTreeSet<_> = opened.iter().map(|name| (*name).to_owned()).collect();
            let table = table(&way, &opened);
            assert_eq!(bridge_of(&table), Some("gw0".to_owned()));
            assert_eq!(opened_in(&table), opened);
        }
        assert_eq!(bridge_of(&Table::default()), None);
        assert_eq!(opened_in(&Table::default()), BTreeSet::new());
    }
}
