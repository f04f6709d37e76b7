//! The committed schema against what the commands print.

use clap::CommandFactory as _;
use jsonschema::{Validator, options};
use overlay_core::TaskId;
use overlay_node::driver::Finding;

use super::*;
use crate::{
    api::{
        Balance, ClientAddress, ClusterInfo, ClusterSettings, EventInfo, IssuedTokenInfo, Locality,
        NamedPort, Policy, PolicyInfo, Protocol, RuleInfo, RuleSpec, TaskState, UpdatePhase,
        Verdict,
    },
    cli::tests::services::{service, task, tasks},
};

const SCHEMA: &str = include_str!("../../../schema/overlay.schema.json");

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// The judge of the definition with this name.
fn judge(name: &str) -> Validator {
    let mut schema = schema();
    assert!(schema["$defs"].get(name).is_some(), "no definition {name}");
    let object = schema.as_object_mut().unwrap();
    object.remove("anyOf");
    object.insert("$ref".into(), json!(format!("#/$defs/{name}")));
    let options = options().should_validate_formats(true);
    options.build(&schema).unwrap()
}

/// Checks what a command printed: an array if it is `inspect`, lines otherwise.
fn check(name: &str, printed: &str) -> Vec<Value> {
    let judge = judge(name);
    let values: Vec<Value> = if name.ends_with("inspect") {
        vec![serde_json::from_str(printed).unwrap()]
    } else {
        let lines = printed.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    };
    assert!(!values.is_empty(), "{name} printed nothing");
    for value in &values {
        let errors = judge.iter_errors(value).map(|error| error.to_string());
        let errors: Vec<_> = errors.collect();
        assert!(errors.is_empty(), "{name}: {errors:?}\n{value:#}");
    }
    values
}

fn programs() -> Value {
    let program = |name: &str, state| ProgramInfo {
        id: EndpointId::from_bytes([6; 16]),
        name: name.to_owned(),
        command: ["a-command", "with", "many", "words"]
            .map(str::to_owned)
            .to_vec(),
        network: "my-net".into(),
        addresses: vec!["10.0.1.2/24".parse().unwrap()],
        remove: false,
        created_unix_ms: 1_709_208_000_500,
        state,
    };
    let programs = ProgramResponse::Programs(vec![
        program("a", ProgramState::Created),
        program("b", ProgramState::Running { since_unix_ms: 9 }),
        program(
            "c",
            ProgramState::Exited {
                code: 1,
                at_unix_ms: 9,
            },
        ),
    ]);
    serde_json::to_value(programs).unwrap()
}

type Case = (&'static str, &'static str, Vec<Value>);

/// Each command that prints JSON, with answers in which all that may be there is there, and as little as may be.
fn cases() -> Vec<Case> {
    [nodes_and_tasks(), networks_and_services(), the_rest()].concat()
}

fn info_answer(info: Info) -> Value {
    answer(Response::Info(Box::new(info)))
}

fn nodes_and_tasks() -> Vec<Case> {
    let mut waits = task(4, 2, TaskState::Pending);
    waits.hostname.clear();
    waits.node = None;
    waits.status.pending = Some(crate::api::PendingReason::NoNode);
    let all = || tasks(&[task(1, 1, TaskState::Failed), waits.clone()]);
    let worker = answer(Response::Nodes(vec![node(3, None)]));
    vec![
        ("node-ls", "node ls --format json", vec![answer(nodes())]),
        (
            "cluster-inspect",
            "cluster inspect",
            vec![answer(Response::Cluster(Box::new(cluster(None))))],
        ),
        (
            "cluster-inspect",
            "cluster inspect --format json",
            vec![answer(Response::Cluster(Box::new(cluster(Some(500)))))],
        ),
        (
            "token-ls",
            "token ls --format json",
            vec![answer(Response::Tokens(vec![token(None), token(Some(1))]))],
        ),
        (
            "policy-ls",
            "policy ls --format json my-net",
            vec![answer(Response::Policy(Box::new(policy())))],
        ),
        (
            "node-inspect",
            "node inspect self",
            vec![info_answer(info()), answer(nodes())],
        ),
        (
            "node-inspect",
            "node inspect --format json host3",
            vec![info_answer(info()), worker],
        ),
        (
            "node-ps",
            "node ps --format json",
            vec![answer(nodes()), all()],
        ),
        ("service-ps", "service ps --format json web", vec![all()]),
    ]
}

fn networks_and_services() -> Vec<Case> {
    let networks = || vec![answer(Response::Networks(vec![network()]))];
    let bare_network = NetworkInfo {
        endpoints: Vec::new(),
        peers: Vec::new(),
        subnets: Vec::new(),
        labels: BTreeMap::new(),
        ..network()
    };
    let bare_network = vec![answer(Response::Networks(vec![bare_network]))];
    let mut full = service(1, Some(UpdatePhase::RollbackPaused));
    full.previous = Some(full.spec.clone());
    full.spec.placement.replicas_per_node_max = 2;
    full.spec.task.resources = Resources {
        nano_cpus: 500_000_000,
        memory_bytes: 1 << 20,
    };
    full.spec.networks[0].aliases = vec!["www".into()];
    full.spec.texts = vec!["v=1".into()];
    full.spec.named_ports = vec![NamedPort {
        name: "http".into(),
        target: 80,
        protocol: Protocol::Udp,
    }];
    full.spec.balance = Balance {
        policy: Policy::WeightedRoundRobin,
        affinity_ms: 1_000,
        locality: Locality::NodeOnly,
    };
    full.ports[0].address = Some([192, 0, 2, 1].into());
    full.ports[0].nodes = vec!["node.role==worker".into()];
    full.ports[0].client = ClientAddress::ProxyV2;
    let mut global = service(0, None);
    global.spec.mode = crate::api::ServiceMode::Global;
    let services = vec![full.clone(), global.clone()];
    let services = vec![answer(Response::Services(services))];
    vec![
        ("network-ls", "network ls --format json", networks()),
        ("network-inspect", "network inspect my-net", networks()),
        ("network-inspect", "network inspect my-net", bare_network),
        ("service-ls", "service ls --format json", services),
        (
            "service-inspect",
            "service inspect web global",
            vec![one_of(&full), one_of(&global)],
        ),
    ]
}

fn the_rest() -> Vec<Case> {
    let bare_info = Info {
        state: LocalState::Inactive,
        node: None,
        cluster: None,
        role: None,
        address: None,
        leader: None,
        managers: Vec::new(),
        applied: None,
        warnings: Vec::new(),
        ..info()
    };
    let event = |kind: &str, id: String| EventInfo {
        index: 9,
        at_unix_ms: 1_709_208_000_500,
        actor: node_id(1),
        kind: kind.into(),
        action: "create".into(),
        id,
        name: "web".into(),
    };
    let events = vec![
        event("service", "abc".into()),
        event("task", TaskId::from_bytes([1; 16]).to_string()),
    ];
    let events = vec![answer(Response::Events(events))];
    let finding = Finding::bad("frames", "VNI 9", "7 are lost", "wait");
    let findings = vec![Finding::good("frames", "VNI 8", "none"), finding];
    let findings = vec![serde_json::to_value(findings).unwrap()];
    let doctor = "doctor --filter check=frames --format json";
    vec![
        ("doctor", doctor, findings),
        ("events", "events --format json", events),
        ("ps", "ps -a --format json", vec![programs()]),
        ("info", "info --format json", vec![info_answer(info())]),
        ("info", "info --format json", vec![info_answer(bare_info)]),
    ]
}

fn one_of(service: &crate::api::ServiceInfo) -> Value {
    answer(Response::Services(vec![service.clone()]))
}

#[tokio::test]
async fn what_the_commands_print_is_what_the_schema_says() {
    for (name, words, answers) in cases() {
        check(name, &printed(words, answers).await);
    }
}

#[tokio::test]
async fn a_field_more_or_less_is_noticed() {
    for (name, words, answers) in cases() {
        let judge = judge(name);
        let value = check(name, &printed(words, answers).await).remove(0);
        let first = |value: &mut Value| match value {
            Value::Array(all) => all[0].take(),
            value => value.take(),
        };
        let wrap = |object: Value| match &value {
            Value::Array(_) => json!([object]),
            _ => object,
        };
        let whole = first(&mut value.clone());
        let mut more = whole.clone();
        more["Surprise"] = json!(1);
        assert!(!judge.is_valid(&wrap(more)), "{name} with a surprise");
        for field in whole.as_object().unwrap().keys() {
            if ["ManagerStatus", "UpdateStatus", "PreviousSpec"].contains(&field.as_str())
                && name.ends_with("inspect")
            {
                continue;
            }
            let mut less = whole.clone();
            less.as_object_mut().unwrap().remove(field);
            assert!(!judge.is_valid(&wrap(less)), "{name} without {field}");
        }
    }
}

/// What is described as an object is described whole.
#[test]
fn the_schema_leaves_nothing_open() {
    fn walk(value: &Value, path: &str) {
        if let Some(properties) = value.get("properties") {
            assert_eq!(value["additionalProperties"], false, "{path}");
            for required in value["required"].as_array().unwrap() {
                let required = required.as_str().unwrap();
                assert!(properties.get(required).is_some(), "{path}: {required}");
            }
        }
        match value {
            Value::Object(all) => all
                .iter()
                .for_each(|(key, below)| walk(below, &format!("{path}/{key}"))),
            Value::Array(all) => all.iter().for_each(|below| walk(below, path)),
            _ => {}
        }
    }
    let schema = schema();
    assert!(jsonschema::meta::is_valid(&schema));
    walk(&schema["$defs"], "");
}

/// A command that takes `--format` prints JSON, and then the schema describes it and a test above looks at it.
#[test]
fn no_command_is_forgotten() {
    fn collect(command: &clap::Command, path: &[String], found: &mut Vec<String>) {
        if command.get_arguments().any(|arg| arg.get_id() == "format") {
            found.push(path.join("-"));
        }
        for below in command.get_subcommands() {
            let path = [path, &[below.get_name().to_owned()]].concat();
            collect(below, &path, found);
        }
    }
    let mut found = Vec::new();
    collect(&Cli::command(), &[], &mut found);
    found.sort();
    let tested = cases().into_iter().map(|(name, ..)| name.to_owned());
    let tested: std::collections::BTreeSet<_> = tested.collect();
    assert_eq!(found, Vec::from_iter(tested));
    let schema = schema();
    let described = schema["anyOf"].as_array().unwrap().iter();
    let mut described: Vec<_> = described
        .map(|one| one["$ref"].as_str().unwrap().replace("#/$defs/", ""))
        .collect();
    described.sort();
    assert_eq!(found, described);
}

#[tokio::test]
async fn every_listing_takes_templates_with_all_its_fields() {
    for (name, words, answers) in cases() {
        // The tasks of nodes and of services are described together.
        let described = if name.ends_with("-ps") { "task" } else { name };
        let Some(fields) = schema()["$defs"][described].get("properties").cloned() else {
            continue;
        };
        if ["events", "info"].contains(&name) {
            continue;
        }
        let template: Vec<String> = fields
            .as_object()
            .unwrap()
            .keys()
            .map(|field| format!("{{{{.{field}}}}}"))
            .collect();
        let words = words.replace("json", &template.join("|"));
        let text = printed(&words, answers).await;
        let cells = text.lines().next().unwrap().split('|').count();
        assert_eq!(cells, template.len(), "{text}");
    }
}

fn policy() -> PolicyInfo {
    let rule = |name: &str, from: &str, verdict| RuleSpec {
        name: name.to_owned(),
        from: from.parse().unwrap(),
        to: "service:web".parse().unwrap(),
        traffic: ["tcp/80", "udp/1-65535", "icmp", "protocol/47"]
            .map(|traffic| traffic.parse().unwrap())
            .to_vec(),
        verdict,
    };
    let rules = [
        rule("one", "label:tier=front", Verdict::Allow),
        rule("two", "any", Verdict::Deny),
    ];
    let infos = rules.map(|rule| RuleInfo {
        from_addresses: (rule.name == "one").then_some(2),
        to_addresses: Some(0),
        rule,
    });
    PolicyInfo {
        network: NetworkId::from_bytes([5; 16]),
        network_name: "my-net".to_owned(),
        default: Verdict::Deny,
        rules: infos.to_vec(),
        too_large: false,
    }
}

fn token(uses_left: Option<u32>) -> IssuedTokenInfo {
    IssuedTokenInfo {
        id: "00112233445566aa".to_owned(),
        role: Role::Worker,
        token: "SWMTKN-1-a-b".to_owned(),
        remote: ([192, 0, 2, 1], 2_377).into(),
        expires_unix_ms: uses_left.map(|_| 1_709_208_000_500),
        uses_left,
        created_unix_ms: 1_709_208_000_500,
    }
}

fn cluster(heartbeat_ms: Option<u64>) -> ClusterInfo {
    ClusterInfo {
        id: node_id(200),
        created_unix_ms: 1_709_208_000_500,
        epoch: 1,
        settings: ClusterSettings {
            heartbeat_ms,
            ..ClusterSettings::default()
        },
        autolock: heartbeat_ms.is_some(),
        ca_certificate: "-----BEGIN CERTIFICATE-----".to_owned(),
        next_authority: None,
        key_generation: 3,
        keys_rotated_unix_ms: 1_709_208_000_500,
        nodes: 3,
        managers: 1,
    }
}
