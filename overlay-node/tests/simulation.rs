//! The whole cluster in a box, under faults, from many seeds.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::{collections::BTreeSet, time::Duration};

use overlay_core::{Rng, Seed, plane::Namespace};
use overlay_node::{
    Reply,
    api::{AttachRequest, ErrorKind, NetworkCreate, Request, Response},
    sim::{Cluster, Options},
};
use overlay_sim::{
    HostId,
    faults::{Chaos, ChaosConfig},
    runner::{self, sometimes},
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

/// One seed: twenty virtual seconds of faults and churn, then quiet; what was acknowledged is there.
fn survive(number: u64) {
    let seed = Seed::from_u64(number);
    let mut rng = seed.derive("churn").rng();
    let hosts = 3 + rng.index(3).unwrap_or_default();
    let mut options = Options::new(seed.derive("cluster"), hosts);
    options.managers = 3;
    let mut cluster = Cluster::new(options);
    assert!(
        cluster.settle(Duration::from_secs(10)),
        "{}",
        cluster.describe()
    );
    cluster.create_network(0, "net0").unwrap();
    let mut chaos = Chaos::new(&seed, ChaosConfig::default());
    let mut churn = Churn::default();
    for step in 0..80 {
        churn.act(&mut cluster, &mut rng, step);
        chaos.run_for(cluster.world(), Duration::from_millis(250), |_| {});
        churn.collect(&mut cluster);
        assert_eq!(cluster.violations(), [], "{}", cluster.describe());
    }
    chaos.heal(cluster.world());
    assert!(
        cluster.settle(Duration::from_secs(30)),
        "after healing\n{}",
        cluster.describe()
    );
    // Retries end, orphans go back, tables meet.
    cluster.run_for(Duration::from_secs(15));
    churn.collect(&mut cluster);
    assert_eq!(cluster.quiet_violations(), [], "{}", cluster.describe());
    let attached = cluster.attached_names();
    for name in &churn.acknowledged {
        assert!(
            attached.contains(name),
            "{name} was acknowledged and is gone: {attached:?}"
        );
    }
    sometimes(
        "an attach was acknowledged under faults",
        !churn.acknowledged.is_empty(),
    );
    sometimes("a request was refused", churn.refused > 0);
    sometimes("a network was created under faults", churn.networks > 1);
    // Whatever is there is reachable by name from elsewhere.
    let endpoints = cluster.live_endpoints();
    for (host, from) in &endpoints {
        for (_, to) in endpoints
            .iter()
            .filter(|(_, to)| to.network == from.network && to.id != from.id)
        {
            let address = to.addresses[0].addr();
            let resolved = cluster.resolve(*host, from.id, &to.name);
            assert_eq!(
                resolved,
                [address],
                "{} of {}\n{}",
                to.name,
                from.name,
                cluster.describe()
            );
            assert!(
                cluster.ping(*host, from.id, address),
                "{} to {}",
                from.name,
                to.name
            );
        }
    }
}

#[test]
fn a_cluster_survives_faults_and_keeps_what_it_acknowledged() {
    runner::seeds_reaching(
        "a_cluster_survives_faults_and_keeps_what_it_acknowledged",
        200,
        &[
            "an attach was acknowledged under faults",
            "a request was refused",
            "a network was created under faults",
        ],
        survive,
    );
}

/// Requests under way, and what came of those before.
#[derive(Default)]
struct Churn {
    waiting: Vec<(usize, u64, String)>,
    acknowledged: BTreeSet<String>,
    refused: u32,
    networks: usize,
}

impl Churn {
    fn act(&mut self, cluster: &mut Cluster, rng: &mut Rng, step: u32) {
        let host = rng.index(cluster.options().hosts).unwrap_or_default();
        let request = match rng.below(8) {
            0..=3 => {
                let network = format!("net{}", rng.below(self.networks as u64 + 1));
                Request::Attach(AttachRequest {
                    network,
                    name: format!("endpoint{step}"),
                    aliases: vec!["any".to_owned()],
                    address: None,
                    namespace: Namespace::InProcess,
                    endpoint: None,
                })
            }
            4..=5 => {
                let Some(name) = self.acknowledged.iter().next().cloned() else {
                    return;
                };
                // Whether or not it is carried out: from now on it may be gone.
                self.acknowledged.remove(&name);
                Request::Detach { endpoint: name }
            }
            6 => {
                let name = format!("net{}", self.networks + 1);
                Request::NetworkCreate(NetworkCreate {
                    name,
                    attachable: true,
                    ..NetworkCreate::default()
                })
            }
            _ => Request::NodeList,
        };
        let name = match &request {
            Request::Attach(attach) => attach.name.clone(),
            Request::NetworkCreate(create) => create.name.clone(),
            _ => String::new(),
        };
        let id = HostId(host);
        if let Some(Some(token)) = cluster
            .world()
            .with(id, |host, now| host.request(now, request))
        {
            self.waiting.push((host, token, name));
        }
    }

    fn collect(&mut self, cluster: &mut Cluster) {
        let waiting = std::mem::take(&mut self.waiting);
        for (host, token, name) in waiting {
            match cluster
                .world()
                .with(HostId(host), |host, _| host.take_reply(token))
            {
                Some(Some(Ok(Reply::Api(Response::Endpoints(_))))) => {
                    self.acknowledged.insert(name);
                }
                Some(Some(Ok(Reply::Api(Response::Networks(_))))) if !name.is_empty() => {
                    self.networks += 1;
                }
                Some(Some(Err(_))) => self.refused += 1,
                Some(None) => self.waiting.push((host, token, name)),
                // Answered otherwise, or the host that was asked is no more.
                Some(Some(Ok(_))) | None => {}
            }
        }
    }
}
