//! What of a listing is listed, and how.

use super::*;
use crate::{
    api::{DesiredState, ServiceMode, TaskState},
    cli::tests::services::{service, task, tasks},
};

/// The first column of what is printed, without its header.
async fn names(words: &str, answers: Vec<Value>) -> Vec<String> {
    let text = printed(&format!("{words} --format {{{{.Name}}}}"), answers).await;
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn nodes_are_filtered_and_printed_by_templates() {
    let listed = async |filters: &str| {
        let words = format!("node ls {filters} --format {{{{.Hostname}}}}");
        let text = printed(&words, vec![answer(nodes())]).await;
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, ["host1", "host2", "host3"]);
    assert_eq!(listed("--filter role=worker").await, ["host3"]);
    assert_eq!(
        listed("-f name=host1 -f name=host3").await,
        ["host1", "host3"]
    );
    assert_eq!(listed("-f role=manager -f name=host2").await, ["host2"]);
    assert_eq!(listed("-f label=zone=b").await, [""; 0]);
    assert_eq!(
        listed("-f node.label=zone -f membership=accepted")
            .await
            .len(),
        3
    );
    assert_eq!(listed("-f membership=pending").await, [""; 0]);
    assert_eq!(
        listed(&format!("-f id={}", &node_id(2).to_string()[..9])).await,
        ["host2"]
    );
    for (words, said) in [
        (
            "node ls -f driver=x",
            "id, name, label, node.label, role, membership",
        ),
        ("node ls -f role=king", "manager, worker"),
        (
            "node ls --format {{.Image}}",
            ".Availability .EngineVersion",
        ),
    ] {
        let (result, _) = run(words, vec![answer(nodes())]).await;
        let failure = result.unwrap_err();
        assert!(
            failure.message.contains(said) && failure.code == 2,
            "{failure}"
        );
    }
}

#[tokio::test]
async fn tables_by_templates_have_headers_and_columns() {
    let answers = vec![answer(Response::Networks(vec![network()]))];
    let table = printed(r"network ls --format table\t{{.ID}}\t{{.Name}}", answers).await;
    // The first tab of the words above only separates `table` from what follows; see the next test for the rest.
    assert!(table.starts_with("table\t"), "{table}");
    let template = |text: &str| {
        let args = ["overlay", "network", "ls", "--format", text];
        Cli::try_parse_from(args).map(|_| ())
    };
    assert!(template(r"table {{.ID}}\t{{.Name}}").is_ok());
    let error = template("{{range .}}").unwrap_err().to_string();
    assert!(
        error.contains("not offered") && error.contains("jq"),
        "{error}"
    );
}

#[tokio::test]
async fn networks_are_filtered() {
    let ingress = NetworkInfo {
        name: "ingress".into(),
        ingress: true,
        labels: BTreeMap::new(),
        ..network()
    };
    let networks = || vec![answer(Response::Networks(vec![network(), ingress.clone()]))];
    let listed = async |filters: &str| names(&format!("network ls {filters}"), networks()).await;
    assert_eq!(listed("-f name=net").await, ["my-net"]);
    assert_eq!(listed("-f driver=overlay -f scope=swarm").await.len(), 2);
    assert_eq!(listed("-f driver=bridge").await, [""; 0]);
    assert_eq!(listed("-f label=team").await, ["my-net"]);
    assert_eq!(listed("-f type=builtin").await, ["ingress"]);
}

#[tokio::test]
async fn services_and_tasks_are_filtered() {
    let mut global = service(0, None);
    global.spec.mode = ServiceMode::Global;
    global.spec.name = "agent".into();
    let services = || {
        vec![answer(Response::Services(vec![
            service(1, None),
            global.clone(),
        ]))]
    };
    let listed = async |filters: &str| names(&format!("service ls {filters}"), services()).await;
    assert_eq!(listed("-f mode=global").await, ["agent"]);
    assert_eq!(listed("-f name=we").await, ["web"]);
    assert_eq!(listed("-f label=x").await, [""; 0]);

    let mut other = task(2, 2, TaskState::Running);
    (other.node, other.hostname) = (Some(node_id(2)), "host2".into());
    let mut ended = task(3, 3, TaskState::Failed);
    ended.desired = DesiredState::Shutdown;
    let all = || {
        vec![tasks(&[
            task(1, 1, TaskState::Running),
            other.clone(),
            ended.clone(),
        ])]
    };
    let listed = async |filters: &str| names(&format!("service ps web {filters}"), all()).await;
    assert_eq!(listed("-f node=host2").await, ["web.2"]);
    let node = node_id(1).to_string();
    assert_eq!(listed(&format!("-f node={node}")).await, ["web.1", "web.3"]);
    assert_eq!(listed("-f desired-state=running").await, ["web.1", "web.2"]);
    assert_eq!(
        listed("-f desired-state=shutdown -f name=web.3").await,
        ["web.3"]
    );
    assert_eq!(listed("-f name=web.2 -f name=web.1").await.len(), 2);
}

#[tokio::test]
async fn events_are_filtered() {
    let event = |kind: &str, name: &str| crate::api::EventInfo {
        index: 9,
        at_unix_ms: 0,
        actor: node_id(1),
        kind: kind.into(),
        action: "create".into(),
        id: "abc".into(),
        name: name.into(),
    };
    let events = || {
        vec![answer(Response::Events(vec![
            event("node", "a"),
            event("task", "b"),
        ]))]
    };
    let text = printed(
        "events --filter type=task --format {{.Type}}:{{.Actor.Attributes.name}}",
        events(),
    )
    .await;
    assert_eq!(text, "task:b\n");
    assert_eq!(printed("events --filter event=remove", events()).await, "");
}

#[tokio::test]
async fn descriptions_are_printed_by_templates_with_paths() {
    let answers = || vec![answer(Response::Info(Box::new(info()))), answer(nodes())];
    let text = printed(
        "node inspect self -f {{.Spec.Labels.zone}}/{{.Spec.Role}}",
        answers(),
    )
    .await;
    assert_eq!(text, "a/manager\n");
    let text = printed("node inspect self --pretty", answers()).await;
    for line in [
        "Hostname:               host1",
        " Leader:                Yes",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
    let (result, _) = run("node inspect self -f {{.Spec.Rolle}}", answers()).await;
    let failure = result.unwrap_err();
    assert!(
        failure.message.contains(".Availability .Labels .Role"),
        "{failure}"
    );
    let answers = vec![answer(Response::Info(Box::new(info())))];
    assert_eq!(printed("info -f {{.Name}}", answers).await, "host1\n");
}

#[tokio::test]
async fn prune_removes_what_nothing_uses_and_asks_first() {
    let other = NetworkInfo {
        id: NetworkId::from_bytes([8; 16]),
        name: "used".into(),
        labels: BTreeMap::new(),
        ..network()
    };
    let ingress = NetworkInfo {
        ingress: true,
        ..network()
    };
    let list = || {
        answer(Response::Networks(vec![
            other.clone(),
            ingress.clone(),
            network(),
        ]))
    };
    let answers = vec![
        list(),
        answer(Response::Done),
        refusal(ErrorKind::InUse, "network \"used\" is in use"),
    ];
    let (report, asked) = run("network prune --force", answers).await;
    let report = report.unwrap();
    assert_eq!(report.text, "Deleted Networks:\nmy-net\n\n");
    assert!(report.failures.is_empty() && asked.len() == 3, "{asked:?}");
    let answers = vec![list(), answer(Response::Done)];
    let (_, asked) = run("network prune -f --filter label=team=blue", answers).await;
    assert_eq!(asked.len(), 2);
}

#[tokio::test]
async fn an_option_that_there_is_not_is_no_command() {
    for (words, said) in [
        ("service create --nmae web sleep 1", "no option `--nmae`"),
        (
            "run --network n --netwrok a sleep 1",
            "no option `--netwrok`",
        ),
        ("exec a --tyy sh", "no option `--tyy`"),
    ] {
        let failure = run(words, Vec::new()).await.0.unwrap_err();
        assert!(
            failure.message.contains(said) && failure.code == 2,
            "{failure}"
        );
    }
}

#[test]
fn options_that_are_not_offered_are_refused_with_the_reason() {
    for (words, said) in [
        ("service create --hostname x -- y", "host name"),
        ("service create --limit-memory 1g -- y", "--reserve-memory"),
        ("service create --health-cmd x -- y", "health checks"),
        (
            "service create --mount type=bind -- y",
            "files of their host",
        ),
        ("service update --image nginx web", "--args"),
        ("service update --user nobody web", "setpriv"),
        ("network create --scope local n", "swarm"),
        ("network create --ipam-driver dhcp n", "by itself"),
    ] {
        let words = std::iter::once("overlay").chain(words.split(' '));
        let error = Cli::try_parse_from(words).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(said) && error.exit_code() == 2, "{text}");
    }
}
