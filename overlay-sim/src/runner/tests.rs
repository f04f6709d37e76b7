use super::*;

#[test]
fn a_failing_seed_is_named_with_the_command_that_replays_it() {
    let result = catch_unwind(|| {
        seeds("unused", 10, |seed| assert!(seed != 3, "three is bad"));
    });
    let payload = result.unwrap_err();
    let text = message(payload.as_ref());
    assert!(text.starts_with("seed 3 failed: three is bad\n"), "{text}");
    let command = text.lines().find_map(|line| line.strip_prefix("replay: "));
    let command = command.unwrap().replace(" --release", "");
    assert_eq!(
        command,
        "OVERLAY_SEED=3 cargo test -p overlay-sim --lib \
         runner::tests::a_failing_seed_is_named_with_the_command_that_replays_it -- --exact --include-ignored"
    );
}

#[test]
fn without_a_thread_of_its_own_a_test_is_known_by_its_name() {
    let command = std::thread::scope(|scope| {
        let unnamed = scope.spawn(|| replay_command("module::test", 7));
        unnamed.join().unwrap()
    });
    assert!(command.starts_with("OVERLAY_SEED=7 "), "{command}");
    assert!(
        command.ends_with(" module::test -- --exact --include-ignored"),
        "{command}"
    );
}

#[test]
fn the_target_is_read_from_the_name_of_the_binary() {
    let test = Path::new("/target/debug/deps/my_simulation-0123456789abcdef");
    assert_eq!(target(test).as_deref(), Some("--test my_simulation"));
    let unit = Path::new("/target/debug/deps/overlay_sim-0123456789abcdef");
    assert_eq!(target(unit).as_deref(), Some("--lib"));
    assert_eq!(target(Path::new("/target/debug/something")), None);
}

#[test]
fn every_seed_runs_once_and_in_order() {
    let mut seen = Vec::new();
    seeds("order", 5, |seed| seen.push(seed));
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}

#[test]
fn a_marker_that_no_seed_reaches_fails_the_run() {
    let run = |markers: &'static [&'static str]| {
        catch_unwind(|| {
            seeds_reaching("markers", 4, markers, |seed| {
                sometimes("third seed", seed == 2);
                sometimes("ninth seed", seed == 8);
            });
        })
    };
    assert!(run(&["third seed"]).is_ok());
    let payload = run(&["third seed", "ninth seed"]).unwrap_err();
    let text = message(payload.as_ref());
    assert_eq!(text, "never reached by 4 seeds: [\"ninth seed\"]");
    assert!(run(&["never looked for"]).is_err());
    sometimes("before the run", true);
    assert!(run(&["before the run"]).is_err());
    assert!(run(&[]).is_ok());
}

#[test]
fn a_soak_runs_all_seeds_on_its_threads_and_adds_up() {
    let options = Soak {
        seeds: 10..60,
        elapsed_max: Duration::from_secs(60),
        threads: 3,
    };
    let sum = AtomicU64::new(0);
    let report = soak(&options, |seed| {
        sum.fetch_add(seed, Ordering::Relaxed);
        sometimes("even", seed % 2 == 0);
        tally(&Stats::default(), Instant::from_millis(1_000));
    });
    let report = report.unwrap();
    assert_eq!(sum.into_inner(), (10..60).sum());
    assert_eq!(report.seeds, 50);
    assert_eq!(report.markers["even"], 25);
    assert_eq!(report.virtual_elapsed, Duration::from_secs(50));
    assert!(report.to_string().starts_with("50 seeds in "), "{report}");
}

#[test]
fn a_soak_stops_at_the_first_failure_and_when_its_time_is_up() {
    let mut options = Soak {
        seeds: 0..1_000,
        elapsed_max: Duration::from_secs(60),
        threads: 2,
    };
    let count = AtomicU64::new(0);
    let failure = soak(&options, |seed| {
        count.fetch_add(1, Ordering::Relaxed);
        assert!(seed != 5, "five is bad");
    });
    assert_eq!(
        failure,
        Err(SeedFailure {
            seed: 5,
            message: "five is bad".to_owned()
        })
    );
    assert!(count.into_inner() < 1_000);
    options.elapsed_max = Duration::ZERO;
    assert_eq!(soak(&options, |_| ()).unwrap().seeds, 0);
}
