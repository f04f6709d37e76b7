//! A service as text for people.

use std::fmt::Write as _;

use super::{
    mode,
    print::{action, condition, endpoint_mode, order, phase, ratio},
    values::{duration, shown},
};
use crate::{
    api::{Placement, ServiceInfo, ServiceMode, UpdatePolicy},
    cli::table::printable,
    time,
};

/// A service as `inspect --pretty` prints it.
pub(super) fn pretty(service: &ServiceInfo) -> String {
    let spec = &service.spec;
    let mut text = String::new();
    line(&mut text, 0, "ID", &service.id.to_string());
    line(&mut text, 0, "Name", &spec.name);
    for (key, value) in &spec.labels {
        line(&mut text, 0, "Label", &format!("{key}={value}"));
    }
    line(&mut text, 0, "Service Mode", &mode(service).to_uppercase());
    if let ServiceMode::Replicated(replicas) = spec.mode {
        line(&mut text, 1, "Replicas", &replicas.to_string());
    }
    if let Some(update) = &service.update {
        line(&mut text, 0, "UpdateStatus", "");
        line(&mut text, 1, "State", phase(update.phase));
        let since = time::human_since(update.since_unix_ms, time::unix_ms());
        line(
            &mut text,
            1,
            "Since",
            &format!("{} ago", since.to_lowercase()),
        );
        line(&mut text, 1, "Message", &update.message);
    }
    placement(&mut text, &spec.placement);
    policy(&mut text, "UpdateConfig", &spec.update);
    policy(&mut text, "RollbackConfig", &spec.rollback);
    line(&mut text, 0, "Restart", "");
    line(&mut text, 1, "Condition", condition(spec.restart.condition));
    line(&mut text, 1, "Delay", &duration(spec.restart.delay_ms));
    if spec.restart.attempts_max > 0 {
        line(
            &mut text,
            1,
            "Max attempts",
            &spec.restart.attempts_max.to_string(),
        );
    }
    line(&mut text, 0, "Task", "");
    line(&mut text, 1, "Command", &spec.task.command.join(" "));
    for variable in &spec.task.environment {
        line(&mut text, 1, "Env", variable);
    }
    if !spec.task.directory.is_empty() {
        line(&mut text, 1, "Dir", &spec.task.directory);
    }
    line(
        &mut text,
        1,
        "Stop grace",
        &duration(spec.task.stop_grace_ms),
    );
    line(&mut text, 1, "Drain", &duration(spec.task.drain_ms));
    let networks: Vec<&str> = spec.networks.iter().map(|on| on.network.as_str()).collect();
    line(&mut text, 0, "Networks", &networks.join(" "));
    line(
        &mut text,
        0,
        "Endpoint Mode",
        endpoint_mode(spec.endpoint_mode),
    );
    for address in service.virtual_addresses.values().flatten() {
        line(&mut text, 1, "Address", &address.to_string());
    }
    for port in &service.ports {
        line(&mut text, 1, "Port", &shown(port));
    }
    text
}

fn placement(text: &mut String, placement: &Placement) {
    line(text, 0, "Placement", "");
    for constraint in &placement.constraints {
        line(text, 1, "Constraint", constraint);
    }
    for preference in &placement.preferences {
        line(text, 1, "Preference", preference);
    }
    if placement.replicas_per_node_max > 0 {
        let most = placement.replicas_per_node_max;
        line(text, 1, "Max Per Node", &most.to_string());
    }
}

fn policy(text: &mut String, label: &str, policy: &UpdatePolicy) {
    line(text, 0, label, "");
    line(text, 1, "Parallelism", &policy.parallelism.to_string());
    line(text, 1, "Delay", &duration(policy.delay_ms));
    line(text, 1, "On failure", action(policy.failure_action));
    line(text, 1, "Monitoring", &duration(policy.monitor_ms));
    let most = ratio(policy.failures_max_permille).to_string();
    line(text, 1, "Max failures", &most);
    line(text, 1, "Order", order(policy.order));
}

fn line(text: &mut String, indent: usize, label: &str, value: &str) {
    let label = format!("{label}:");
    let value = printable(value.to_owned());
    writeln!(text, "{:indent$}{label:15} {value}", "").expect("writing to a string cannot fail");
}
