//! The whole cluster in a box, under faults, from many seeds.

#![cfg(feature = "sim")]

use std::time::Duration;

use overlay_core::Seed;
use overlay_node::{
    api::{ErrorKind, Request},
    sim::{Cluster, Options},
};

#[test]
fn three_hosts_become_a_cluster_and_their_endpoints_reach_each_other() {
    let mut cluster = Cluster::new(Options::new(Seed::from_u64(1), 3));
    assert!(
        cluster.settle(Duration::from_secs(10)),
        "{}",
        cluster.describe()
    );
    let network = cluster.create_network(0, "my-net").unwrap();
    assert_eq!(network.subnets[0].subnet.to_string(), "10.0.1.0/24");
    assert_eq!(network.subnets[0].vni.get(), 4097);
    let endpoints: Vec<_> = (0..3)
        .map(|host| {
            cluster
                .attach(host, "my-net", &format!("alpine{}", host + 1))
                .unwrap()
        })
        .collect();
    cluster.run_for(Duration::from_millis(500));
    for (from, one) in endpoints.iter().enumerate() {
        for two in endpoints.iter().filter(|two| two.id != one.id) {
            let to = two.addresses[0].addr();
            assert_eq!(
                cluster.resolve(from, one.id, &two.name),
                [to],
                "{} of {}\n{}",
                two.name,
                one.name,
                cluster.describe()
            );
            assert!(
                cluster.ping(from, one.id, to),
                "{} to {}",
                one.name,
                two.name
            );
        }
    }
    assert_eq!(cluster.quiet_violations(), []);
}

#[test]
fn a_name_that_is_taken_is_refused_and_nothing_is_left_of_the_attempt() {
    let mut cluster = Cluster::new(Options::new(Seed::from_u64(2), 3));
    assert!(
        cluster.settle(Duration::from_secs(10)),
        "{}",
        cluster.describe()
    );
    cluster.create_network(1, "my-net").unwrap();
    cluster.attach(0, "my-net", "one").unwrap();
    let error = cluster.attach(1, "my-net", "one").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    let error = cluster.attach(1, "other", "one").unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    let error = cluster.create_network(2, "my-net").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    cluster.run_for(Duration::from_secs(3));
    assert_eq!(cluster.quiet_violations(), []);
    cluster
        .ask(
            0,
            Request::Detach {
                endpoint: "one".to_owned(),
            },
        )
        .unwrap();
    cluster.attach(1, "my-net", "one").unwrap();
}
