//! Services, their tasks, and what becomes of their changes.

use overlay_core::{ServiceId, TaskId};

use super::*;
use crate::api::{
    Balance, ClientAddress, DesiredState, EndpointMode, EventInfo, FailureAction, Locality,
    NamedPort, NetworkChoice, NodeUpdate, PendingReason, Policy, Protocol, PublishMode,
    PublishedPort, RestartCondition, ServiceInfo, ServiceMode, ServiceSpec, Slot, TaskInfo,
    TaskSpec, TaskState, TaskStatus, UpdateOrder, UpdatePhase, UpdateStatus,
};

fn spec() -> ServiceSpec {
    let mut spec = ServiceSpec {
        name: "web".into(),
        mode: ServiceMode::Replicated(2),
        networks: vec!["my-net".into()],
        ports: vec![PublishedPort {
            published: 8080,
            target: 80,
            protocol: Protocol::Tcp,
            mode: PublishMode::Ingress,
            ..PublishedPort::default()
        }],
        ..ServiceSpec::default()
    };
    spec.task.command = vec!["overlay".into(), "httpd".into()];
    spec.task.environment = vec!["A=1".into(), "B=2".into()];
    // What is seen to be steady once is steady.
    spec.update.monitor_ms = 0;
    spec.restart.delay_ms = 0;
    spec
}

pub(super) fn service(running: u32, phase: Option<UpdatePhase>) -> ServiceInfo {
    ServiceInfo {
        id: ServiceId::from_bytes([7; 16]),
        ports: spec().ports,
        spec: spec(),
        previous: None,
        version: 42,
        virtual_addresses: BTreeMap::from([(
            NetworkId::from_bytes([5; 16]),
            vec![[10, 0, 1, 9].into()],
        )]),
        update: phase.map(|phase| UpdateStatus {
            phase,
            since_unix_ms: 0,
            message: "as the test says".into(),
        }),
        running,
        desired: 2,
        created_unix_ms: 1_709_208_000_500,
        updated_unix_ms: 1_709_208_000_500,
    }
}

pub(super) fn task(octet: u8, slot: u32, state: TaskState) -> TaskInfo {
    TaskInfo {
        id: TaskId::from_bytes([octet; 16]),
        service: ServiceId::from_bytes([7; 16]),
        service_name: "web".into(),
        slot: Slot::Replica(slot),
        spec: spec().task,
        node: Some(node_id(1)),
        hostname: "host1".into(),
        desired: if state.is_terminal() {
            DesiredState::Shutdown
        } else {
            DesiredState::Running
        },
        status: TaskStatus {
            state,
            since_unix_ms: time::unix_ms().saturating_sub(90_000),
            ..TaskStatus::default()
        },
        addresses: vec![[10, 0, 1, octet].into()],
    }
}

fn failed(octet: u8, slot: u32) -> TaskInfo {
    let mut task = task(octet, slot, TaskState::Failed);
    task.status.message = "non-zero exit (1)".into();
    task.addresses.clear();
    task
}

fn one(service: ServiceInfo) -> Value {
    answer(Response::Services(vec![service]))
}

pub(super) fn tasks(tasks: &[TaskInfo]) -> Value {
    answer(Response::Tasks(tasks.to_vec()))
}

#[tokio::test]
async fn create_asks_for_what_the_options_say() {
    let words = "service create --name web --network my-net --network name=other --replicas 3 -p 8080:80/udp \
        --publish published=1,target=2,mode=host --constraint node.role==worker --placement-pref spread=node.labels.zone \
        --replicas-max-per-node 2 --restart-condition on-failure --restart-delay 1m30s --restart-max-attempts 4 \
        --restart-window 1h --update-parallelism 2 --update-delay 500ms --update-order start-first \
        --update-failure-action rollback --update-monitor 7s --update-max-failure-ratio 0.25 --rollback-parallelism 0 \
        --rollback-monitor 1s --env A=b -e C=d --label x=y --stop-grace-period 3s --workdir /tmp -d -- sh -c true";
    let (report, asked) = run(words, vec![one(service(0, None))]).await;
    let asked: Request = serde_json::from_value(asked[0].clone()).unwrap();
    let Request::ServiceCreate(spec) = asked else {
        panic!("{asked:?}")
    };
    assert_eq!(spec.mode, ServiceMode::Replicated(3));
    assert_eq!(spec.networks, ["my-net".into(), "other".into()]);
    assert_eq!(spec.ports.len(), 2);
    assert_eq!(spec.placement.constraints, ["node.role==worker"]);
    assert_eq!(spec.placement.preferences, ["spread=node.labels.zone"]);
    assert_eq!(spec.placement.replicas_per_node_max, 2);
    let restart = (spec.restart.condition, spec.restart.delay_ms);
    assert_eq!(restart, (RestartCondition::OnFailure, 90_000));
    let restart = (spec.restart.attempts_max, spec.restart.window_ms);
    assert_eq!(restart, (4, 3_600_000));
    let update = (spec.update.parallelism, spec.update.delay_ms);
    assert_eq!(update, (2, 500));
    assert_eq!(spec.update.order, UpdateOrder::StartFirst);
    assert_eq!(spec.update.failure_action, FailureAction::Rollback);
    assert_eq!(spec.update.monitor_ms, 7_000);
    assert_eq!(spec.update.failures_max_permille, 250);
    let rollback = (spec.rollback.parallelism, spec.rollback.monitor_ms);
    assert_eq!(rollback, (0, 1_000));
    assert_eq!(spec.labels["x"], "y");
    let expected = TaskSpec {
        command: ["sh", "-c", "true"].map(str::to_owned).to_vec(),
        environment: vec!["A=b".into(), "C=d".into()],
        directory: "/tmp".into(),
        stop_grace_ms: 3_000,
        ..TaskSpec::default()
    };
    assert_eq!(spec.task, expected);
    let id = ServiceId::from_bytes([7; 16]);
    assert_eq!(report.unwrap().text, format!("{id}\n"));
}

#[tokio::test]
async fn what_a_service_offers_is_said_by_options() {
    let words = "service create --name web --network name=my-net,alias=www,alias=w3,ip=10.0.1.50,ip6=fd00::50 \
        -p 192.0.2.1:8080:80 -p [2001:db8::1]:8081:81/udp -p 192.0.2.1::82 \
        -p published=443,target=8443,ip=::1,nodes=node.labels.edge==yes,nodes=node.role!=manager,client=proxy \
        --named-port http=80 --named-port dns=53/udp --txt v=1 --txt two --lb-policy least-connections --lb-affinity 10m \
        --lb-locality node-only --drain-period 0 -d -- sh";
    let (report, asked) = run(words, vec![one(service(0, None))]).await;
    report.unwrap();
    let asked: Request = serde_json::from_value(asked[0].clone()).unwrap();
    let Request::ServiceCreate(spec) = asked else {
        panic!("{asked:?}")
    };
    let on = NetworkChoice {
        network: "my-net".into(),
        aliases: vec!["www".into(), "w3".into()],
        addresses: vec![[10, 0, 1, 50].into(), "fd00::50".parse().unwrap()],
    };
    assert_eq!(spec.networks, [on]);
    let port = |published, target| PublishedPort {
        published,
        target,
        address: Some([192, 0, 2, 1].into()),
        ..PublishedPort::default()
    };
    let expected = [
        port(8_080, 80),
        PublishedPort {
            protocol: Protocol::Udp,
            address: Some("2001:db8::1".parse().unwrap()),
            ..port(8_081, 81)
        },
        port(0, 82),
        PublishedPort {
            address: Some("::1".parse().unwrap()),
            nodes: vec!["node.labels.edge==yes".into(), "node.role!=manager".into()],
            client: ClientAddress::ProxyV2,
            ..port(443, 8_443)
        },
    ];
    assert_eq!(spec.ports, expected);
    let expected = [
        named("http", 80, Protocol::Tcp),
        named("dns", 53, Protocol::Udp),
    ];
    assert_eq!(spec.named_ports, expected);
    assert_eq!(spec.texts, ["v=1", "two"]);
    let balance = Balance {
        policy: Policy::LeastConnections,
        affinity_ms: 600_000,
        locality: Locality::NodeOnly,
    };
    assert_eq!((spec.balance, spec.task.drain_ms), (balance, 0));
}

#[test]
fn offers_that_make_no_sense_are_refused() {
    for words in [
        "service create -p 1.2.3:80:80 -- x",
        "service create -p target=80,client=x -- x",
        "service create --named-port http -- x",
        "service create --named-port http=0 -- x",
        "service create --lb-policy random -- x",
        "service create --network name=a,ip=x -- x",
    ] {
        let words = std::iter::once("overlay").chain(words.split(' '));
        let error = Cli::try_parse_from(words).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }
}

#[tokio::test]
async fn what_a_service_offers_changes_one_by_one() {
    let mut seen = service(2, None);
    seen.spec.named_ports = vec![
        named("http", 80, Protocol::Tcp),
        named("dns", 53, Protocol::Udp),
    ];
    seen.spec.texts = vec!["v=1".into(), "two".into()];
    let words = "service update -d --named-port-add http=8080 --named-port-add tls=443 --txt-add three --txt-rm v=1 \
        --network-add name=my-net,alias=new web";
    let (_, asked) = run(words, vec![one(seen.clone()), one(seen)]).await;
    let asked: Request = serde_json::from_value(asked[1].clone()).unwrap();
    let Request::ServiceUpdate { spec, .. } = asked else {
        panic!("{asked:?}")
    };
    let expected = [
        named("dns", 53, Protocol::Udp),
        named("http", 8_080, Protocol::Tcp),
        named("tls", 443, Protocol::Tcp),
    ];
    assert_eq!(spec.named_ports, expected);
    assert_eq!(spec.texts, ["two", "three"]);
    assert_eq!(
        (spec.networks.len(), &spec.networks[0].aliases[..]),
        (1, &["new".to_owned()][..])
    );
}

fn named(name: &str, target: u16, protocol: Protocol) -> NamedPort {
    NamedPort {
        name: name.into(),
        target,
        protocol,
    }
}

#[tokio::test]
async fn update_changes_what_it_was_told_to_and_names_the_version_that_it_saw() {
    let words = "service update -d --replicas 5 --env-add B=3 --env-rm A --label-add k=v --constraint-add node.id==x \
        --publish-rm 80 --publish-add 9090:90 --network-add other --endpoint-mode dnsrr web -- sleep 1";
    let answers = vec![one(service(2, None)), one(service(2, None))];
    let (report, asked) = run(words, answers).await;
    let asked: Request = serde_json::from_value(asked[1].clone()).unwrap();
    let Request::ServiceUpdate { version, spec, .. } = asked else {
        panic!("{asked:?}")
    };
    assert_eq!(version, Some(42));
    assert_eq!(spec.mode, ServiceMode::Replicated(5));
    assert_eq!(spec.task.environment, ["B=3"]);
    assert_eq!(spec.task.command, ["sleep", "1"]);
    assert_eq!(spec.labels["k"], "v");
    assert_eq!(spec.placement.constraints, ["node.id==x"]);
    assert_eq!(spec.networks, ["my-net".into(), "other".into()]);
    assert_eq!((spec.ports.len(), spec.ports[0].published), (1, 9090));
    assert_eq!(spec.endpoint_mode, EndpointMode::Dnsrr);
    assert_eq!(spec.update, self::spec().update, "the rest stays");
    assert_eq!(report.unwrap().text, "web\n");

    let (_, asked) = run(
        "service update -d --rollback web",
        vec![one(service(2, None))],
    )
    .await;
    assert_eq!(asked, [json!({"ServiceRollback": {"service": "web"}})]);
    let answers = vec![one(service(2, None)), one(service(2, None))];
    let (_, asked) = run("service update -d --constraint-rm a==b web", answers).await;
    let unchanged = asked[1]["ServiceUpdate"]["spec"].clone();
    assert_eq!(unchanged, serde_json::to_value(self::spec()).unwrap());
}

#[tokio::test]
async fn service_ls_has_dockers_columns() {
    let services = || vec![one(service(1, None))];
    let id = ServiceId::from_bytes([7; 16]);
    let table = format!(
        "ID             NAME      MODE         REPLICAS   COMMAND         PORTS\n\
         {}   web       replicated   1/2        overlay httpd   *:8080->80/tcp\n",
        id.short()
    );
    assert_eq!(printed("service ls", services()).await, table);
    assert_eq!(
        printed("service ls -q", services()).await,
        format!("{id}\n")
    );
    let json: Value =
        serde_json::from_str(&printed("service ls --format json", services()).await).unwrap();
    let [name, replicas, ports] = ["Name", "Replicas", "Ports"].map(|key| &json[key]);
    assert_eq!(
        (name, replicas, ports),
        (&json!("web"), &json!("1/2"), &json!("*:8080->80/tcp"))
    );
}

#[tokio::test]
async fn service_inspect_prints_an_array_in_dockers_shape() {
    let services = || vec![one(service(1, Some(UpdatePhase::Completed)))];
    let json: Value =
        serde_json::from_str(&printed("service inspect web", services()).await).unwrap();
    let service = &json[0];
    assert_eq!(service["Version"]["Index"], 42);
    assert_eq!(service["Spec"]["Mode"]["Replicated"]["Replicas"], 2);
    assert_eq!(
        service["Spec"]["TaskTemplate"]["ProcessSpec"]["Env"][0],
        "A=1"
    );
    assert_eq!(
        service["Spec"]["RollbackConfig"]["Monitor"],
        5_000_000_000_u64
    );
    assert_eq!(service["Endpoint"]["Ports"][0]["PublishedPort"], 8080);
    assert_eq!(service["Endpoint"]["VirtualIPs"][0]["Addr"], "10.0.1.9");
    assert_eq!(service["UpdateStatus"]["State"], "completed");
    assert_eq!(service["ServiceStatus"]["RunningTasks"], 1);
    let text = printed("service inspect --pretty web", services()).await;
    for line in [
        "Name:           web",
        " Replicas:       2",
        " Message:        as the test says",
        " Port:           *:8080->80/tcp",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
}

#[tokio::test]
async fn service_ps_shows_the_history_of_each_slot_and_why_a_task_waits() {
    let mut waits = task(4, 2, TaskState::Pending);
    waits.hostname.clear();
    waits.status.pending = Some(PendingReason::NodeLimit { limit: 1 });
    let history = [failed(2, 1), task(3, 1, TaskState::Running), waits];
    let text = printed("service ps web", vec![tasks(&history)]).await;
    let squeezed: Vec<String> = text
        .lines()
        .map(|line| {
            line.split_whitespace()
                .skip(1)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    assert_eq!(
        squeezed,
        [
            "NAME COMMAND NODE DESIRED STATE CURRENT STATE ADDRESS ERROR",
            "web.1 overlay httpd host1 Running Running about a minute ago 10.0.1.3",
            "\\_ web.1 overlay httpd host1 Shutdown Failed about a minute ago \"non-zero exit (1)\"",
            "web.2 overlay httpd Running Pending about a minute ago 10.0.1.4 \
             \"no suitable node (max replicas per node 1 reach…\"",
        ]
    );
    let whole = printed("service ps --no-trunc web", vec![tasks(&history)]).await;
    assert!(whole.contains("per node 1 reached)\""), "{whole}");
    let answers = vec![answer(nodes()), tasks(&history)];
    let (report, asked) = run("node ps", answers).await;
    let node = node_id(1).to_string();
    assert_eq!(
        asked[1],
        json!({"TaskList": {"service": null, "node": node}})
    );
    assert_eq!(report.unwrap().text, text);
}

#[tokio::test]
async fn scale_takes_several_services_and_tells_of_each() {
    let answers = vec![
        one(service(2, None)),
        refusal(ErrorKind::NotFound, "no service b"),
    ];
    let (report, asked) = run("service scale -d a=3 b=0", answers).await;
    assert_eq!(
        asked[0],
        json!({"ServiceScale": {"service": "a", "replicas": 3}})
    );
    assert_eq!(
        asked[1],
        json!({"ServiceScale": {"service": "b", "replicas": 0}})
    );
    let report = report.unwrap();
    assert_eq!(report.failures[0].message, "b: no service b");
}

#[tokio::test]
async fn a_change_is_followed_until_all_tasks_run() {
    let running = [
        task(1, 1, TaskState::Running),
        task(2, 2, TaskState::Running),
    ];
    let answers = vec![
        one(service(0, None)),
        one(service(1, Some(UpdatePhase::Updating))),
        tasks(&[
            task(1, 1, TaskState::Running),
            task(2, 2, TaskState::Preparing),
        ]),
        one(service(2, Some(UpdatePhase::Completed))),
        tasks(&running),
    ];
    let (report, asked) = run("service rollback web", answers).await;
    let report = report.unwrap();
    assert_eq!((asked.len(), report.code, report.failures.len()), (5, 0, 0));
}

#[tokio::test]
async fn an_election_in_between_is_borne_with() {
    let running = [
        task(1, 1, TaskState::Running),
        task(2, 2, TaskState::Running),
    ];
    let answers = vec![
        one(service(0, None)),
        refusal(ErrorKind::Unavailable, "nobody leads"),
        one(service(2, None)),
        tasks(&running),
    ];
    let (report, _) = run("service scale web=2", answers).await;
    assert!(report.unwrap().failures.is_empty());
}

#[tokio::test]
async fn a_change_that_was_given_up_fails_and_says_why() {
    let cases = [
        (
            "service scale -q web=2",
            UpdatePhase::Paused,
            "paused the update",
        ),
        (
            "service scale -q web=2",
            UpdatePhase::RollbackCompleted,
            "rolled back the update",
        ),
        (
            "service rollback -q web",
            UpdatePhase::RollbackPaused,
            "paused the rollback",
        ),
    ];
    for (words, phase, what) in cases {
        let answers = vec![
            one(service(0, None)),
            one(service(1, Some(phase))),
            tasks(&[failed(1, 1), task(2, 2, TaskState::Running)]),
        ];
        let failure = match run(words, answers).await.0 {
            Ok(mut report) => report.failures.pop().unwrap(),
            Err(failure) => failure,
        };
        let expected = format!("{what} of service web: as the test says; web.1: non-zero exit (1)");
        assert_eq!((failure.message, failure.code), (expected, 1));
    }
}

#[tokio::test]
async fn tasks_that_have_ended_and_are_not_restarted_end_the_command() {
    let followed = |ends: [TaskInfo; 2]| {
        let answers = vec![one(service(0, None)), one(service(0, None)), tasks(&ends)];
        run("service create -q --name web -- true", answers)
    };
    let complete = |octet, slot| task(octet, slot, TaskState::Complete);
    let (report, _) = followed([complete(1, 1), complete(2, 2)]).await;
    assert_eq!(report.unwrap().code, 0);
    let (report, _) = followed([complete(1, 1), failed(2, 2)]).await;
    assert_eq!(
        report.unwrap_err().message,
        "task web.2 failed and is not restarted: non-zero exit (1)"
    );
}

#[tokio::test]
async fn node_update_asks_for_what_the_options_say() {
    let answers = vec![
        answer(Response::Nodes(vec![node(2, None)])),
        answer(Response::Done),
    ];
    let words =
        "node update --availability drain --role manager --label-add k=v --label-rm x host2";
    let (report, asked) = run(words, answers).await;
    let expected = Request::NodeUpdate(NodeUpdate {
        node: node_id(2).to_string(),
        availability: Some(Availability::Drain),
        role: Some(Role::Manager),
        labels_add: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        labels_remove: vec!["x".into()],
    });
    assert_eq!(asked[1], serde_json::to_value(expected).unwrap());
    assert_eq!(report.unwrap().text, "host2\n");
}

#[tokio::test]
async fn events_are_lines_with_what_and_which() {
    let event = EventInfo {
        index: 9,
        at_unix_ms: 1_709_208_000_500,
        actor: node_id(1),
        kind: "service".into(),
        action: "create".into(),
        id: "abc".into(),
        name: "web\x1b".into(),
    };
    let events = || vec![answer(Response::Events(vec![event.clone()]))];
    let (report, asked) = run("events --since 8", events()).await;
    assert_eq!(asked, [json!({"Events": {"after": 8}})]);
    let line = format!(
        "2024-02-29T12:00:00.5Z service create abc (name=web\\u{{1b}}, actor={}, index=9)\n",
        node_id(1).short()
    );
    assert_eq!(report.unwrap().text, line);
    let json: Value =
        serde_json::from_str(&printed("events --format json", events()).await).unwrap();
    assert_eq!(
        (&json["Type"], &json["Index"]),
        (&json!("service"), &json!(9))
    );
}

#[test]
fn service_commands_are_read_as_by_docker() {
    let read = |words: &str| {
        Cli::try_parse_from(std::iter::once("overlay").chain(words.split_whitespace()))
    };
    for words in [
        "service create --name a -- sleep 1",
        "service create --name a --mode global sleep -x",
        "service ls --format json",
        "service ps -q --no-trunc a b",
        "service update --args sleep a",
        "service update --publish 80 a",
        "service logs -f --tail 5 -t --since 10m --no-trunc a",
        "service logs --raw -n all a",
        "service ls -f name=a -f mode=global",
        "service ps --filter desired-state=running --format {{.ID}} a",
        "service scale -d a=1 b=2",
        "node ps host1 self",
        "events -f",
        "logs -f a",
        "httpd --port 8080",
    ] {
        let parsed = read(words);
        assert!(parsed.is_ok(), "{words}: {}", parsed.unwrap_err());
    }
    for words in [
        "service create --name a",
        "service create --name a --restart-delay 10 -- x",
        "service create --name a -p 80/icmp -- x",
        "service create --name a --update-order first -- x",
        "service create --name a --env =b -- x",
        "service scale a",
        "service logs --tail many a",
        "service logs --since yesterday a",
        "service logs --raw --no-trunc a",
        "service ls --filter name",
        "service scale a=many",
        "service update --args x a -- y",
        "node update --availability asleep a",
    ] {
        let error = read(words).expect_err(words);
        assert_eq!(error.exit_code(), 2, "{words}");
    }
}

#[tokio::test]
async fn create_reads_files_of_variables_and_what_is_set_aside() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, "# a comment\n\n  A=b c\nNOT_SET_ANYWHERE\nPATH\n").unwrap();
    let words = format!(
        "service create -d --env-file {} -e A=d --reserve-cpu 0.5 --reserve-memory 64m -- x",
        file.path().display()
    );
    let (_, asked) = run(&words, vec![one(service(0, None))]).await;
    let Ok(Request::ServiceCreate(spec)) = serde_json::from_value(asked[0].clone()) else {
        panic!("{asked:?}")
    };
    let path = format!("PATH={}", std::env::var("PATH").unwrap());
    assert_eq!(spec.task.environment, ["A=b c", &path, "A=d"]);
    let resources = spec.task.resources;
    let (cpus, memory) = (resources.nano_cpus, resources.memory_bytes);
    assert_eq!((cpus, memory), (500_000_000, 67_108_864));
    assert!(spec.name.starts_with("service-"), "{}", spec.name);
    fs::write(&file, "A=b\n=c\n").unwrap();
    let failure = run(&words, Vec::new()).await.0.unwrap_err();
    assert!(
        failure.message.contains("line 2") && failure.code == 2,
        "{failure}"
    );
    let missing = "service create --env-file /no/such/file -- x";
    let failure = run(missing, Vec::new()).await.0.unwrap_err();
    assert!(failure.message.contains("/no/such/file"), "{failure}");
    let answers = vec![one(service(2, None))];
    let failure = run("service update --force web", answers)
        .await
        .0
        .unwrap_err();
    assert!(
        failure.message.contains("--env-add") && failure.code == 2,
        "{failure}"
    );
}

#[tokio::test]
async fn a_global_service_has_no_number_of_replicas() {
    let words = "service create --name a --mode global --replicas 2 -- x";
    let (report, asked) = run(words, Vec::new()).await;
    assert_eq!((report.unwrap_err().code, asked.len()), (2, 0));
}
