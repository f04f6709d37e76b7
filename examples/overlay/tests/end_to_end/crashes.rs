//! A daemon that is killed at any moment has forgotten nothing that it acknowledged.

use std::{
    collections::BTreeSet,
    env,
    process::Stdio,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use overlay_core::Seed;

use crate::support::{Swarm, finish};

/// How often it is killed, unless `OVERLAY_KILLS` says otherwise.
const KILLS: u32 = 10;

#[test]
fn a_daemon_that_is_killed_again_and_again_forgets_nothing() {
    let Some(mut swarm) = Swarm::new("kill -9 of a manager") else {
        return;
    };
    let kills = env::var("OVERLAY_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = env::var("OVERLAY_SEED").map_or(since.as_secs(), |seed| seed.parse().unwrap());
    let mut rng = Seed::from_u64(seed).rng();
    swarm.start(0);
    swarm.ok(0, &["init"]);
    let mut acknowledged = BTreeSet::new();
    for kill in 0..kills {
        let mut pending = Vec::new();
        let moment = rng.duration(Duration::ZERO..Duration::from_millis(60));
        for number in 0..3 {
            let name = format!("net-{kill}-{number}");
            let mut command = swarm.command(0, &["network", "create", &name]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            pending.push((name, command.spawn().unwrap()));
        }
        thread::sleep(moment);
        swarm.kill(0);
        for (name, child) in pending {
            if finish(child, "network create").status.success() {
                acknowledged.insert(name);
            }
        }
        swarm.start(0);
        let listed = swarm.until("the list of networks", |swarm| {
            swarm.lines(0, &["network", "ls", "--format", "json"])
        });
        let listed: BTreeSet<String> = listed
            .iter()
            .map(|network| network["Name"].as_str().unwrap().to_owned())
            .collect();
        let forgotten: Vec<_> = acknowledged.difference(&listed).collect();
        assert!(
            forgotten.is_empty(),
            "OVERLAY_SEED={seed}: kill {kill} lost {forgotten:?}"
        );
    }
    // Whatever was killed, the next one is as good as the first.
    swarm.ok(0, &["network", "create", "last"]);
    assert!(
        !acknowledged.is_empty() || kills == 0,
        "OVERLAY_SEED={seed}: nothing was acknowledged"
    );
}
