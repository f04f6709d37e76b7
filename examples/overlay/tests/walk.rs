//! The binary end to end: daemons on hosts in a box, asked by its own command line, and the system's programs.
//!
//! What this machine does not allow or does not have is skipped, loudly.

#![expect(
    clippy::disallowed_methods,
    reason = "real processes take real time: all is polled, with deadlines"
)]

use std::path::Path;

use libtest_mimic::{Arguments, Failed, Trial};
use overlay_linux::{capabilities, holder, hosts};

#[path = "walk/advisories.rs"]
mod advisories;
#[path = "walk/attacks.rs"]
mod attacks;
#[path = "walk/balance.rs"]
mod balance;
#[path = "walk/doctor.rs"]
mod doctor;
#[path = "walk/ingress.rs"]
mod ingress;
#[path = "walk/local.rs"]
mod local;
#[path = "walk/losses.rs"]
mod losses;
#[path = "walk/names.rs"]
mod names;
#[path = "walk/networks.rs"]
mod networks;
#[path = "walk/outputs.rs"]
mod outputs;
#[path = "walk/planes.rs"]
mod planes;
#[path = "walk/policy.rs"]
mod policy;
#[path = "walk/ports.rs"]
mod ports;
#[path = "walk/programs.rs"]
mod programs;
#[path = "walk/refusals.rs"]
mod refusals;
#[path = "walk/roles.rs"]
mod roles;
#[path = "walk/sealed.rs"]
mod sealed;
#[path = "walk/security.rs"]
mod security;
#[path = "walk/services.rs"]
mod services;
mod support;
#[path = "walk/traffic.rs"]
mod traffic;
#[path = "walk/wire.rs"]
mod wire;

use support::{Cluster, OVERLAY, is_installed, say};

/// A test: its name, the hosts it takes, the programs it takes, what it does.
struct Story {
    name: &'static str,
    hosts: usize,
    programs: &'static [&'static str],
    tell: fn(&mut Cluster) -> anyhow::Result<()>,
}

const STORIES: &[&[Story]] = &[
    wire::STORIES,
    traffic::STORIES,
    planes::STORIES,
    doctor::STORIES,
    losses::STORIES,
    programs::STORIES,
    networks::STORIES,
    refusals::STORIES,
    roles::STORIES,
    services::STORIES,
    ports::STORIES,
    ingress::STORIES,
    names::STORIES,
    balance::STORIES,
    outputs::STORIES,
    security::STORIES,
    policy::STORIES,
    local::STORIES,
    attacks::STORIES,
    advisories::STORIES,
];

fn main() {
    holder::main_if_holder();
    let mut arguments = Arguments::from_args();
    // They measure time, and each takes a handful of processes.
    arguments.test_threads.get_or_insert(1);
    // What is possible is found by trying; namespaces are entered before any thread starts.
    let refusal = match capabilities(Path::new(OVERLAY)) {
        Ok(found) if found.endpoints() => hosts::enter().err().map(|error| error.to_string()),
        Ok(found) => Some(format!(
            "hosts and endpoints cannot be made here: {found:?}"
        )),
        Err(error) => Some(error.to_string()),
    };
    let trials = STORIES.iter().copied().flatten();
    let trials = trials.filter_map(|story| trial(story, refusal.as_deref()));
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn trial(story: &'static Story, refusal: Option<&str>) -> Option<Trial> {
    let missing = story.programs.iter().find(|name| !is_installed(name));
    let missing = missing.map(|name| format!("{name} is not installed"));
    if let Some(reason) = refusal.map(str::to_owned).or(missing) {
        say(&format!("SKIPPED: {}: {reason}", story.name));
        return None;
    }
    let run = || {
        let mut cluster =
            Cluster::new(story.hosts).map_err(|error| Failed::from(format!("{error:#}")))?;
        let told = (story.tell)(&mut cluster);
        told.map_err(|error| Failed::from(format!("{error:#}\n{}", cluster.logs())))
    };
    Some(Trial::test(story.name, run))
}
