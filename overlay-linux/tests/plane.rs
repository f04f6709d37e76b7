//! The kernel plane with the real kernel: two hosts in network namespaces, as root and as an ordinary user.
//!
//! Each story is told by a process of its own, in namespaces that end with it.

use std::{env, fs, os::unix::fs::PermissionsExt, path::Path, process::Command, process::ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

#[path = "plane/cipher.rs"]
mod cipher;
#[path = "plane/flows.rs"]
mod flows;
#[path = "plane/frames.rs"]
mod frames;
#[path = "plane/guard.rs"]
mod guard;
#[path = "plane/holders.rs"]
mod holders;
#[path = "plane/net.rs"]
mod net;
#[path = "plane/policy.rs"]
mod policy;
#[path = "plane/reach.rs"]
mod reach;
#[path = "plane/repair.rs"]
mod repair;
#[path = "plane/seal.rs"]
mod seal;
#[path = "plane/sealed.rs"]
mod sealed;
#[path = "plane/uml.rs"]
mod uml;

use net::{Folder, Outcome, say};

type Story = fn() -> Outcome<()>;

const STORIES: &[(&str, Story)] = &[
    ("endpoints_reach_each_other_over_ipv4", reach::over_ipv4),
    ("endpoints_reach_each_other_over_ipv6", reach::over_ipv6),
    ("many_endpoints_are_no_matter", reach::many),
    ("a_host_that_was_made_by_hand_is_reached", guard::by_hand),
    ("spoofed_frames_get_nowhere", guard::spoofing),
    ("frames_are_what_they_say_they_are", frames::each),
    ("a_storm_is_cut_short", guard::storm),
    ("strangers_are_not_heard", guard::strangers),
    ("what_is_in_the_way_is_named", guard::obstacles),
    ("every_damage_is_repaired", repair::damages),
    ("what_is_somebody_elses_stays", repair::foreign),
    ("nothing_is_left_behind", repair::removal),
    ("a_flow_outlives_its_daemon", repair::kill),
    ("damage_is_heard_of", repair::watched),
    ("what_cannot_be_sealed_is_refused", seal::refused),
    ("each_layer_holds_back_what_is_in_clear", seal::layers),
    ("encrypted_networks_are_in_nobodys_way", seal::beside),
    ("what_is_denied_does_not_pass", policy::denied),
    ("a_rule_that_changes_ends_connections", policy::changed),
    ("rules_are_replaced_without_a_gap", policy::replaced),
    ("damaged_rules_let_nothing_pass", policy::damaged),
    ("packets_get_where_random_rules_say", policy::compared),
    (
        "networks_of_the_same_addresses_are_told_apart",
        policy::twins,
    ),
    ("errors_are_the_receivers_to_send", policy::errors),
    ("groups_are_reached_by_rules", policy::groups),
    ("rules_that_are_too_many_are_refused", policy::refused),
    ("a_thousand_rules_are_carried_out", policy::thousand),
    ("holders_make_ports", holders::life),
    ("holders_endpoints_reach_services", holders::services),
    ("what_is_denied_does_not_reach_services", holders::judged),
    ("there_are_no_ports_without_a_switch", holders::refused),
    (
        "the_ends_of_a_pair_have_different_indices",
        holders::indices,
    ),
];

/// Those that take a kernel that can seal.
const SEALED: &[(&str, Story)] = &[
    ("sealed_over_ipv4", sealed::over_ipv4),
    ("sealed_over_ipv6", sealed::over_ipv6),
    ("sealed_with_the_user_plane", sealed::with_user),
];

fn main() -> ExitCode {
    overlay_linux::holder::main_if_holder();
    let arguments: Vec<String> = env::args().collect();
    if let [_, mark, name] = arguments.as_slice()
        && mark == "story"
    {
        return tell(name);
    }
    if let [_, mark, switch] = arguments.as_slice()
        && mark == "daemon"
    {
        return end(repair::daemon(switch));
    }
    let copy = Folder::new("plane-binary").and_then(|folder| {
        // An ordinary user may not reach the folder that this binary is built in.
        fs::copy(env::current_exe()?, folder.path().join("plane"))?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        Ok(folder)
    });
    let Ok(copy) = copy else {
        say("cannot copy this binary for other users");
        return ExitCode::FAILURE;
    };
    let mut arguments = Arguments::from_args();
    // They wait most of the time, each for its own hosts.
    arguments.test_threads.get_or_insert(4);
    let conclusion = libtest_mimic::run(&arguments, trials(copy.path()));
    drop(copy);
    conclusion.exit();
}

fn tell(name: &str) -> ExitCode {
    let mut stories = STORIES.iter().chain(SEALED);
    let story = stories.find(|(known, _)| *known == name);
    let told = match story {
        Some((_, story)) => story(),
        None => Err("no such story".into()),
    };
    end(told)
}

fn end(told: Outcome<()>) -> ExitCode {
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn trials(copy: &Path) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (user, launcher) in USERS {
        for (name, _) in STORIES {
            let launcher: Vec<&'static str> = launcher.split(' ').collect();
            let binary = copy.join("plane");
            let trial = format!("{name}_as_{user}");
            let words = trial.clone();
            trials.push(Trial::test(trial, move || {
                run(&launcher, &binary, name, &words)
            }));
        }
    }
    let binary = copy.join("plane");
    trials.push(Trial::test("sealed_in_user_mode_linux", move || {
        let names: Vec<&str> = SEALED.iter().map(|(name, _)| *name).collect();
        uml::tell(&binary, &names)
    }));
    trials
}

fn run(launcher: &[&str], binary: &Path, name: &str, words: &str) -> Result<(), Failed> {
    let [program, options @ ..] = launcher else {
        return Err("no launcher".into());
    };
    let start = |what: &[&str]| {
        let mut command = Command::new(program);
        command.args(options).args(what).output()
    };
    match start(&["true"]) {
        Ok(output) if output.status.success() => {}
        tried => {
            let said = tried.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
            say(&format!("SKIPPED: {words}: no namespaces: {said:?}"));
            return Ok(());
        }
    }
    let output = start(&[&binary.to_string_lossy(), "story", name])?;
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("SKIPPED") {
        say(&said);
    }
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{}\n{said}", output.status).into())
    }
}

const USERS: [(&str, &str); 2] = [
    ("root", "unshare --net --mount --propagation private"),
    (
        "ordinary_user",
        "setpriv --reuid 65534 --regid 65534 --clear-groups unshare --user --map-root-user --net --mount --propagation private",
    ),
];
