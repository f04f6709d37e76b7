//! Rules: in order, within bounds, and refused with the reason.

use super::*;
use crate::api::{PolicyChange, RuleSpec, Selector, Traffic, TrafficMatch, Verdict};

#[test]
fn rules_are_in_the_order_that_was_asked_for() {
    let mut lab = Lab::new();
    let id = lab.create("net").unwrap();
    for name in ["a", "b", "c"] {
        lab.apply(add_rule(id, rule(name), None, false)).unwrap();
    }
    lab.apply(add_rule(id, rule("d"), Some("b"), false))
        .unwrap();
    assert_eq!(names(&lab), ["a", "d", "b", "c"]);
    // In its place, and elsewhere.
    let denies = RuleSpec {
        verdict: Verdict::Deny,
        ..rule("d")
    };
    for before in [None, Some("d")] {
        let denies = denies.clone();
        lab.apply(add_rule(id, denies, before, true)).unwrap();
        assert_eq!(names(&lab), ["a", "d", "b", "c"]);
    }
    assert_eq!(lab.network("net").rules[1].verdict, Verdict::Deny);
    lab.apply(add_rule(id, rule("c"), Some("a"), true)).unwrap();
    assert_eq!(names(&lab), ["c", "a", "d", "b"]);
    lab.apply(add_rule(id, rule("e"), None, true)).unwrap();
    let name = "d".to_owned();
    lab.apply(change(id, PolicyChange::Remove { name }))
        .unwrap();
    assert_eq!(names(&lab), ["c", "a", "b", "e"]);
    let restored = ClusterState::restore(&lab.state.snapshot()).unwrap();
    assert_eq!(restored.networks()[&id].rules, lab.network("net").rules);
    assert_eq!(restored.hash(), lab.state.hash());
}

#[test]
fn the_default_is_open_until_it_is_said_otherwise() {
    let mut lab = Lab::new();
    let open = lab.create("open").unwrap();
    lab.create_option("closed", "policy", "deny").unwrap();
    lab.create_option("named", "policy", "allow").unwrap();
    let error = lab.create_option("wrong", "policy", "reject").unwrap_err();
    assert!(matches!(error, CommandError::InvalidOption { .. }));
    let default = |lab: &Lab, name| lab.network(name).policy_default();
    assert_eq!(default(&lab, "open"), Verdict::Allow);
    assert_eq!(default(&lab, "closed"), Verdict::Deny);
    assert_eq!(default(&lab, "named"), Verdict::Allow);
    assert!(!lab.network("open").has_policy());
    for verdict in [Verdict::Deny, Verdict::Allow] {
        let before = lab.state.hash();
        lab.apply(change(open, PolicyChange::Default { verdict }))
            .unwrap();
        assert_eq!(default(&lab, "open"), verdict);
        assert_ne!(lab.state.hash(), before);
    }
    lab.apply(add_rule(open, rule("a"), None, false)).unwrap();
    assert!(lab.network("open").has_policy());
}

#[test]
fn what_is_no_rule_is_refused_and_changes_nothing() {
    let mut lab = Lab::new();
    let id = lab.create("net").unwrap();
    lab.apply(add_rule(id, rule("a"), None, false)).unwrap();
    let exists = lab.refused(add_rule(id, rule("a"), None, false));
    assert!(matches!(exists, CommandError::RuleExists { .. }));
    let unknown = [
        add_rule(id, rule("b"), Some("c"), false),
        add_rule(id, rule("a"), Some("c"), true),
        change(
            id,
            PolicyChange::Remove {
                name: "c".to_owned(),
            },
        ),
    ];
    for command in unknown {
        let error = lab.refused(command);
        assert!(matches!(error, CommandError::UnknownRule { .. }), "{error}");
    }
    let nameless = lab.refused(add_rule(id, rule("-"), None, false));
    assert!(matches!(nameless, CommandError::InvalidName { .. }));
    let of_words = |from: &str, to: &str| RuleSpec {
        from: Selector::Service(from.to_owned()),
        to: Selector::Label {
            key: to.to_owned(),
            value: String::new(),
        },
        ..rule("b")
    };
    let (most, more) = ("x".repeat(253), "x".repeat(254));
    lab.apply(add_rule(id, of_words(&most, &most), None, false))
        .unwrap();
    let ports = |first, last| RuleSpec {
        traffic: vec![Traffic(TrafficMatch::Udp { first, last })],
        ..rule("b")
    };
    let kinds = |number| RuleSpec {
        traffic: vec![Traffic(TrafficMatch::Icmp); number],
        ..rule("b")
    };
    lab.apply(add_rule(id, kinds(32), None, true)).unwrap();
    for rule in [
        of_words("", "x"),
        of_words("x", ""),
        of_words(&more, "x"),
        of_words("x", &more),
        ports(2, 1),
        kinds(0),
        kinds(33),
    ] {
        let error = lab.refused(add_rule(id, rule, None, true));
        assert!(
            matches!(error, CommandError::InvalidPolicy { .. }),
            "{error}"
        );
    }
    let error = lab.refused(add_rule(network(77), rule("a"), None, false));
    assert!(matches!(error, CommandError::UnknownNetwork { .. }));
}

#[test]
fn a_network_has_so_many_rules_and_no_more() {
    let mut lab = Lab::new();
    let id = lab.create("net").unwrap();
    for number in 0..256 {
        let rule = rule(&format!("r{number}"));
        lab.apply(add_rule(id, rule, None, false)).unwrap();
    }
    let error = lab.refused(add_rule(id, rule("more"), None, false));
    assert!(matches!(error, CommandError::Limit { limit: 256, .. }));
    // Another one in the place of one, and before another, is none more.
    lab.apply(add_rule(id, rule("r3"), None, true)).unwrap();
    lab.apply(add_rule(id, rule("r3"), Some("r0"), true))
        .unwrap();
}

#[test]
fn the_network_of_published_ports_has_no_policy() {
    let mut lab = Lab::new();
    let ingress = lab.network(INGRESS).id;
    let error = lab.refused(add_rule(ingress, rule("a"), None, false));
    assert!(matches!(error, CommandError::InvalidPolicy { .. }));
    let verdict = Verdict::Deny;
    lab.refused(change(ingress, PolicyChange::Default { verdict }));
    lab.apply(Command::RemoveNetwork { network: ingress })
        .unwrap();
    let error = lab.create_with("published", |spec| {
        (spec.ingress, spec.attachable) = (true, false);
        spec.options.insert("policy".to_owned(), "deny".to_owned());
    });
    let error = error.unwrap_err();
    assert!(
        matches!(error, CommandError::InvalidOption { .. }),
        "{error}"
    );
}

#[test]
fn a_change_is_told_as_one_of_its_network() {
    let mut lab = Lab::new();
    lab.state.watch(100);
    let id = lab.create("net").unwrap();
    let seen = lab.state.applied();
    lab.apply(add_rule(id, rule("a"), None, false)).unwrap();
    let changes: Vec<_> = lab.state.changes_after(seen).unwrap().collect();
    let [change] = &changes[..] else {
        panic!("{changes:?}")
    };
    let Changed::Network { previous, new } = &change.object else {
        panic!("{change:?}")
    };
    let rules = |record: &Option<Box<NetworkRecord>>| record.as_ref().unwrap().rules.len();
    assert_eq!((rules(previous), rules(new)), (0, 1));
    let events: Vec<_> = lab.state.events_after(seen).collect();
    assert_eq!(
        (&*events[0].kind, &*events[0].action),
        ("network", "update")
    );
    assert_eq!((events.len(), &*events[0].name), (1, "net"));
}

fn add_rule(id: NetworkId, rule: RuleSpec, before: Option<&str>, replace: bool) -> Command {
    let before = before.map(str::to_owned);
    let add = PolicyChange::Add {
        rule,
        before,
        replace,
    };
    change(id, add)
}

fn change(network: NetworkId, change: PolicyChange) -> Command {
    let change = Box::new(change);
    Command::ChangePolicy { network, change }
}

fn rule(name: &str) -> RuleSpec {
    RuleSpec {
        name: name.to_owned(),
        from: Selector::Any,
        to: Selector::Service("web".to_owned()),
        traffic: vec!["tcp/80".parse().unwrap()],
        verdict: Verdict::Allow,
    }
}

fn names(lab: &Lab) -> Vec<String> {
    let rules = lab.network("net").rules.iter();
    rules.map(|rule| rule.name.clone()).collect()
}
