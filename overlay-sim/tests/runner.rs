//! The environment picks the seed: the printed command really replays.

use std::{env, process::Command};

use overlay_sim::runner;

#[test]
fn the_replay_command_runs_the_failing_seed_alone() {
    let failing = run(&[]);
    assert!(failing.contains("seed 6 failed: six is bad"), "{failing}");
    let command = failing
        .lines()
        .find_map(|line| line.trim().strip_prefix("replay: "));
    let command = command.expect("a failing run prints the command");
    assert!(
        command.ends_with(" inner -- --exact --include-ignored"),
        "{command}"
    );
    let (variable, _) = command.split_once(' ').expect("the variable comes first");
    let replayed = run(&[variable.split_once('=').expect("an assignment")]);
    assert!(replayed.contains("running seed 6"), "{replayed}");
    assert!(!replayed.contains("running seed 5"), "{replayed}");
    let other = run(&[("OVERLAY_SEEDS", "3")]);
    assert!(
        other.contains("running seed 2") && !other.contains("seed 6"),
        "{other}"
    );
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn inner() {
    runner::seeds("inner", 10, |seed| {
        println!("running seed {seed}");
        assert!(seed != 6, "six is bad");
    });
}

/// Runs `inner` in a process of its own and returns what it printed.
fn run(variables: &[(&str, &str)]) -> String {
    let binary = env::current_exe().expect("a test has a binary");
    let output = Command::new(binary)
        .args(["inner", "--exact", "--ignored", "--nocapture"])
        .env_remove("OVERLAY_SEED")
        .env_remove("OVERLAY_SEEDS")
        .envs(variables.iter().copied())
        .output()
        .expect("the binary that runs can run again");
    [output.stdout, output.stderr]
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .concat()
}
