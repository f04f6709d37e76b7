//! Bad input: each is refused with a reason, and nothing half done is left behind.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{OVERLAY, Swarm, address, finish, remote};

#[test]
fn bad_input_is_refused_with_a_reason_and_leaves_nothing() {
    let Some(mut swarm) = Swarm::new("bad input on two hosts") else {
        return;
    };
    swarm.start(0);
    swarm.start(1);
    before_the_cluster(&swarm);
    swarm.ok(0, &["init"]);
    membership(&swarm);
    networks(&swarm);
    programs(&swarm);
    daemons(&mut swarm);
}

/// Says that a message has all of the words.
fn mentions(message: &str, words: &[&str]) {
    let lower = message.to_lowercase();
    for word in words {
        assert!(
            lower.contains(&word.to_lowercase()),
            "{word:?} is not in {message:?}"
        );
    }
}

fn before_the_cluster(swarm: &Swarm) {
    for words in [
        &["node", "ls"][..],
        &["network", "ls"],
        &["join-token", "worker"],
    ] {
        mentions(&swarm.refused(0, words), &["not part of a cluster", "init"]);
    }
    assert!(swarm.ok(0, &["info"]).contains("Cluster: inactive"));
}

fn membership(swarm: &Swarm) {
    mentions(&swarm.refused(0, &["init"]), &["already", "cluster"]);
    let token = swarm.ok(0, &["join-token", "-q", "worker"]);
    let token = token.trim();
    mentions(
        &swarm.refused(1, &["join", "--token", "SWMTKN-1-x-y", &remote(0)]),
        &["token"],
    );
    let parts: Vec<&str> = token.split('-').collect();
    let [prefix, version, digest, secret] = parts[..] else {
        panic!("{token}")
    };
    let other = |text: &str| text.chars().rev().collect::<String>();
    let wrong_digest = format!("{prefix}-{version}-{}-{secret}", other(digest));
    swarm.refused(1, &["join", "--token", &wrong_digest, &remote(0)]);
    let wrong_secret = format!("{prefix}-{version}-{digest}-{}", other(secret));
    swarm.refused(1, &["join", "--token", &wrong_secret, &remote(0)]);
    let nobody = format!("{}:9", address(0));
    mentions(
        &swarm.refused(1, &["join", "--token", token, &nobody]),
        &[&nobody],
    );
    assert!(
        swarm.ok(1, &["info"]).contains("Cluster: inactive"),
        "nothing half joined"
    );
    assert_eq!(
        swarm.ok(0, &["node", "ls", "-q"]).lines().count(),
        1,
        "nobody was let in"
    );

    let rotated = swarm.ok(0, &["join-token", "-q", "--rotate", "worker"]);
    swarm.refused(1, &["join", "--token", token, &remote(0)]);
    swarm.ok(1, &["join", "--token", rotated.trim(), &remote(0)]);
    mentions(
        &swarm.refused(0, &["node", "inspect", "nobody"]),
        &["nobody"],
    );
    mentions(
        &swarm.refused(0, &["node", "demote", "host1"]),
        &["last manager"],
    );
    mentions(&swarm.refused(0, &["node", "rm", "host2"]), &["host2"]);
}

fn networks(swarm: &Swarm) {
    let create = |words: &[&str]| swarm.refused(0, &[&["network", "create"], words].concat());
    swarm.ok(
        0,
        &[
            "network",
            "create",
            "--attachable",
            "--subnet",
            "10.9.0.0/30",
            "small",
        ],
    );
    mentions(&create(&["small"]), &["small", "exists"]);
    mentions(
        &create(&["--subnet", "10.9.0.0/16", "wide"]),
        &["10.9.0.0", "overlap"],
    );
    create(&["--subnet", "10.8.0.5/24", "bits"]);
    create(&[
        "--subnet",
        "10.8.0.0/24",
        "--gateway",
        "10.7.0.1",
        "strange",
    ]);
    create(&["--driver", "macvlan", "lan"]);
    create(&["a name with spaces"]);
    mentions(
        &swarm.refused(0, &["network", "rm", "unheard-of"]),
        &["unheard-of"],
    );
    mentions(
        &swarm.refused(0, &["network", "inspect", "unheard-of"]),
        &["unheard-of"],
    );
    let names = swarm
        .lines(0, &["network", "ls", "--format", "json"])
        .unwrap();
    let own = names
        .iter()
        .filter(|network| network["Name"] != "ingress")
        .count();
    assert_eq!(own, 1, "only the good one is there: {names:?}");
}

fn programs(swarm: &Swarm) {
    let run = |host, name, network| {
        let words = [
            "run",
            "-d",
            "--name",
            name,
            "--network",
            network,
            "--",
            "sleep",
            "1000",
        ];
        swarm.run(host, &words)
    };
    let refused = |host, name, network, words: &[&str]| {
        let output = run(host, name, network);
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        mentions(&String::from_utf8_lossy(&output.stderr), words);
    };
    refused(0, "web", "unheard-of", &["unheard-of"]);
    let started = run(0, "web", "small");
    assert!(started.status.success(), "{started:?}");
    refused(0, "web", "small", &["web"]);
    refused(1, "web", "small", &["web"]);
    // A /30 has a gateway and one address for a program.
    refused(1, "full", "small", &["10.9.0.0/30"]);
    swarm.ok(0, &["network", "create", "services-only"]);
    refused(0, "alone", "services-only", &["attachable"]);
    for (host, left) in [(0, 1), (1, 0)] {
        let listed = swarm.ok(host, &["ps", "-aq"]);
        assert_eq!(
            listed.lines().count(),
            left,
            "nothing half started is left on host {host}"
        );
    }
    mentions(&swarm.refused(0, &["rm", "web"]), &["web", "running"]);
    mentions(&swarm.refused(0, &["detach", "web"]), &["overlay stop"]);
    mentions(&swarm.refused(0, &["network", "rm", "small"]), &["small"]);
    mentions(
        &swarm.refused(0, &["stop", "nobody"]),
        &["nobody", "overlay ps"],
    );
    swarm.ok(0, &["rm", "-f", "web"]);
    let missing = [
        "attach",
        "--network",
        "small",
        "--name",
        "n",
        "--netns",
        "/no/such/namespace",
    ];
    swarm.refused(0, &missing);
    // The refusal gave the only address back.
    swarm.until("the address of the refused one", |_| {
        run(1, "next", "small").status.success().then_some(())
    });
    swarm.ok(1, &["rm", "-f", "next"]);
}

fn daemons(swarm: &mut Swarm) {
    let mut same_data = Command::new(OVERLAY);
    same_data
        .arg("daemon")
        .arg("--data-dir")
        .arg(swarm.path(0, "data"));
    same_data.arg("--socket").arg(swarm.path(2, "sock"));
    mentions(
        &ends(swarm, 0, &mut same_data),
        &["data directory", "in use", "process number"],
    );

    let mut same_socket = Command::new(OVERLAY);
    same_socket
        .arg("daemon")
        .arg("--data-dir")
        .arg(swarm.path(2, "data"));
    same_socket.arg("--socket").arg(swarm.path(0, "sock"));
    mentions(&ends(swarm, 0, &mut same_socket), &["socket", "already"]);

    // Another daemon in the network of the first host: it finds the ports taken when it needs them.
    let mut second = swarm.daemon(2);
    let mut second = swarm.spawn(0, second.stdout(Stdio::null()).stderr(Stdio::null()));
    swarm.until("the second daemon", |swarm| {
        swarm.run(2, &["info"]).status.success().then_some(())
    });
    let init = ["init", "--advertise-addr", &address(0).to_string()];
    mentions(&swarm.refused(2, &init), &["2377"]);
    assert!(swarm.ok(2, &["info"]).contains("Cluster: inactive"));
    second.kill().unwrap();
    second.wait().unwrap();

    swarm.kill(0);
    damage(&swarm.path(0, "data").join("node"));
    let mut daemon = swarm.daemon(0);
    mentions(&ends(swarm, 0, &mut daemon), &["log"]);
}

/// Flips octets near the beginning of the largest file, which no torn write explains.
fn damage(folder: &Path) {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            match entry.metadata().unwrap() {
                metadata if metadata.is_dir() => folders.push(entry.path()),
                metadata => files.push((metadata.len(), entry.path())),
            }
        }
    }
    let (length, largest) = files.into_iter().max().unwrap();
    assert!(length > 400, "{} is no log", largest.display());
    let mut octets = fs::read(&largest).unwrap();
    octets[200..208].iter_mut().for_each(|octet| *octet ^= 0xff);
    fs::write(&largest, octets).unwrap();
}

/// Starts a daemon that is to end by itself with a complaint.
fn ends(swarm: &mut Swarm, host: usize, command: &mut Command) -> String {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = finish(swarm.spawn(host, command), "a daemon that cannot run");
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}
