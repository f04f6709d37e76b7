//! Constraints and preferences as text.

use super::world::{World, node};
use crate::{
    api::Role,
    scheduler::{ConstraintError, PreferenceError, constraint, preference},
};

#[test]
fn every_property_of_a_node_is_compared_both_ways() {
    let mut world = World::new(1);
    let record = world.node(1);
    record.role = Role::Manager;
    record.labels.insert("zone".into(), "Ost".into());
    let id = node(1).to_string().to_uppercase();
    let table = [
        ("node.hostname==HOST-1", true),
        ("node.hostname == host-2", false),
        ("node.role==manager", true),
        ("node.role == Worker", false),
        ("NODE.ROLE==MANAGER", true),
        ("node.ip==10.0.0.1", true),
        ("node.ip==10.0.0.0/8", true),
        ("node.ip==10.0.0.0/32", false),
        ("node.ip==::/0", false),
        ("node.labels.zone==ost", true),
        ("node.labels.zone==west", false),
        ("node.labels.Zone==ost", false),
        ("node.labels.none==ost", false),
        (&format!("node.id=={id}"), true),
    ];
    for (text, holds) in table {
        let read = constraint::parse(text).unwrap();
        assert_eq!(read.holds(world.node(1)), holds, "{text}");
        let negated = constraint::parse(&text.replacen("==", "!=", 1)).unwrap();
        assert_eq!(negated.holds(world.node(1)), !holds, "not {text}");
    }
}

#[test]
fn a_value_may_hold_an_operator() {
    let mut world = World::new(1);
    world.label(1, "a==b");
    for (text, holds) in [
        ("node.labels.zone==a==b", true),
        ("node.labels.zone!=a==b", false),
        ("node.labels.zone!=a!=b", true),
    ] {
        assert_eq!(constraint::parse(text).unwrap().holds(world.node(1)), holds);
    }
}

#[test]
fn a_wrong_constraint_says_what_is_wrong() {
    use ConstraintError as E;
    let error = |text: &str| constraint::parse(text).unwrap_err();
    for text in ["", "node.role", "node.role=manager", "x"] {
        assert_eq!(error(text), E::Operator { text: text.into() });
    }
    for key in ["", "node", "node.labels.", "engine.labels.a", "node.ünit"] {
        let found = error(&format!("{key}==1"));
        assert_eq!(found, E::Key { key: key.into() });
    }
    let key = "node.hostname".to_owned();
    assert_eq!(error("node.hostname== "), E::Value { key });
    assert!(matches!(error("node.role==boss"), E::Role { .. }));
    assert!(matches!(error("node.ip==10.0.0.0/33"), E::Address { .. }));
    assert!(matches!(error("node.id==abc"), E::Id { .. }));
    let long = error(&"é".repeat(1_000));
    assert!(long.to_string().len() < 300, "{long}");
}

#[test]
fn a_preference_names_a_label() {
    let read = preference::parse("spread=node.labels.zone");
    assert_eq!(read.as_deref(), Ok("zone"));
    let read = preference::parse(" Spread = node.labels.a.b ");
    assert_eq!(read.as_deref(), Ok("a.b"));
    for text in [
        "",
        "spread",
        "spread=",
        "spread=node.labels.",
        "spread==node.labels.zone",
        "binpack=node.labels.zone",
        "spread=node.id",
    ] {
        let text = text.to_owned();
        let found = preference::parse(&text);
        assert_eq!(found, Err(PreferenceError::Malformed { text }));
    }
}
