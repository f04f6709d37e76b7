//! The command line against a daemon that answers what the test says: what is asked, what is printed, how it exits.

mod listings;
mod networks;
mod outputs;
mod policy;
mod schema;
mod services;

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{Json, Router, http::StatusCode, routing::post};
use clap::Parser as _;
use overlay_core::{EndpointId, MacAddr, NetworkId, NodeId, Vni, plane::Namespace};
use serde_json::{Value, json};
use tokio::net::UnixListener;

use super::{Cli, Command, Failure, Report, ask};
use crate::{
    api::{
        AttachRequest, Availability, EndpointInfo, Error, ErrorKind, Info, IpamConfig, Joined,
        LocalState, ManagerInfo, ManagerStatus, NetworkCreate, NetworkInfo, NodeInfo, NodeStatus,
        Request, Resources, Response, Role, SubnetSpec, TokenInfo,
    },
    client::Client,
    time,
    wire::{
        DIAGNOSE_PATH, LOOKUP_PATH, PROGRAMS_PATH, ProgramInfo, ProgramRequest, ProgramResponse,
        ProgramState, REQUEST_PATH, RUN_PATH,
    },
};

type Asked = Arc<Mutex<Vec<Value>>>;

/// Runs a command line against a daemon that answers its requests in turn; returns what was asked, too.
async fn run(words: &str, answers: Vec<Value>) -> (Result<Report, Failure>, Vec<Value>) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("overlay-cli-{}-{number}", std::process::id());
    let socket: PathBuf = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&socket).unwrap();
    let asked = Asked::default();
    let (log, answers) = (
        Arc::clone(&asked),
        Arc::new(Mutex::new(answers.into_iter())),
    );
    let answer = post(async move |Json(request): Json<Value>| {
        log.lock().unwrap().push(request);
        let answer = answers
            .lock()
            .unwrap()
            .next()
            .expect("one request more than answers");
        let refused = answer.get("kind").is_some();
        let status = if refused {
            StatusCode::CONFLICT
        } else {
            StatusCode::OK
        };
        (status, Json(answer))
    });
    let router = Router::new()
        .route(REQUEST_PATH, answer.clone())
        .route(RUN_PATH, answer.clone())
        .route(LOOKUP_PATH, answer.clone())
        .route(DIAGNOSE_PATH, answer.clone())
        .route(PROGRAMS_PATH, answer);
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let words = std::iter::once("overlay").chain(words.split_whitespace());
    let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
    let Command::Ask(command) = cli.command else {
        panic!("{:?}", cli.command)
    };
    let result = ask(&Client::new(&socket), command).await;
    serving.abort();
    fs::remove_file(&socket).unwrap();
    let asked = asked.lock().unwrap().clone();
    (result, asked)
}

/// Runs a command line that is to succeed; returns what it prints.
async fn printed(words: &str, answers: Vec<Value>) -> String {
    let report = run(words, answers)
        .await
        .0
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    report.text
}

fn answer(response: Response) -> Value {
    serde_json::to_value(response).unwrap()
}

fn refusal(kind: ErrorKind, message: &str) -> Value {
    serde_json::to_value(Error::new(kind, message)).unwrap()
}

fn node_id(octet: u8) -> NodeId {
    NodeId::from_bytes([octet; 16])
}

fn node(octet: u8, manager_status: Option<ManagerStatus>) -> NodeInfo {
    NodeInfo {
        id: node_id(octet),
        hostname: format!("host{octet}"),
        is_self: octet == 1,
        status: if octet == 3 {
            NodeStatus::Down
        } else {
            NodeStatus::Ready
        },
        availability: Availability::Active,
        role: if manager_status.is_some() {
            Role::Manager
        } else {
            Role::Worker
        },
        manager_status,
        address: [192, 168, 77, octet].into(),
        version: "0.1.0".into(),
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        resources: Resources {
            nano_cpus: 2_000_000_000,
            memory_bytes: 1 << 30,
        },
    }
}

fn nodes() -> Response {
    let leader = node(1, Some(ManagerStatus::Leader));
    Response::Nodes(vec![
        leader,
        node(2, Some(ManagerStatus::Reachable)),
        node(3, None),
    ])
}

fn info() -> Info {
    Info {
        state: LocalState::Active,
        name: "host1".into(),
        version: "0.1.0".into(),
        node: Some(node_id(1)),
        cluster: Some(node_id(9)),
        role: Some(Role::Manager),
        address: Some([192, 168, 77, 1].into()),
        leader: Some(node_id(1)),
        managers: vec![ManagerInfo {
            node: node_id(1),
            address: "192.168.77.1:2377".parse().unwrap(),
        }],
        nodes_alive: 3,
        endpoints: 2,
        applied: Some(42),
        warnings: vec!["the disk is slow".into()],
    }
}

fn network() -> NetworkInfo {
    NetworkInfo {
        id: NetworkId::from_bytes([5; 16]),
        name: "my-net".into(),
        driver: "overlay".into(),
        scope: "swarm".into(),
        attachable: true,
        internal: false,
        ingress: false,
        subnets: vec![IpamConfig {
            aux_addresses: BTreeMap::from([("router".to_owned(), [10, 0, 1, 7].into())]),
            subnet: "10.0.1.0/24".parse().unwrap(),
            gateway: Some([10, 0, 1, 1].into()),
            ip_range: None,
            vni: Vni::new(4_097).unwrap(),
            used: 3,
            available: 250,
        }],
        options: BTreeMap::new(),
        labels: BTreeMap::from([("team".to_owned(), "blue".to_owned())]),
        created_unix_ms: 1_709_208_000_500,
        endpoints: vec![endpoint()],
        peers: vec![ManagerInfo {
            node: node_id(2),
            address: "192.168.77.2:7946".parse().unwrap(),
        }],
        node: None,
    }
}

fn endpoint() -> EndpointInfo {
    EndpointInfo {
        id: EndpointId::from_bytes([6; 16]),
        name: "alpine1".into(),
        aliases: vec!["web".into()],
        network: NetworkId::from_bytes([5; 16]),
        network_name: "my-net".into(),
        node: node_id(1),
        mac: MacAddr::new([2, 0x42, 10, 0, 1, 2]),
        addresses: vec!["10.0.1.2/24".parse().unwrap()],
        namespace: Some(Namespace::Path("/run/netns/blue".into())),
        ready: true,
    }
}

fn token(role: Role) -> TokenInfo {
    let remote = "192.168.77.1:2377".parse().unwrap();
    TokenInfo {
        role,
        token: "SWMTKN-1-digest-secret".into(),
        remote,
    }
}

#[tokio::test]
async fn init_prints_the_command_for_workers() {
    let joined = Joined {
        node: node_id(1),
        role: Role::Manager,
        worker_token: Some(token(Role::Worker)),
    };
    let (report, asked) = run(
        "init --advertise-addr 192.168.77.1",
        vec![answer(Response::Joined(joined))],
    )
    .await;
    let advertise = json!({"Init": {"advertise": "192.168.77.1", "pools": [], "force_new_cluster": false, "pool_split": null}});
    assert_eq!(asked, [advertise]);
    let expected = format!(
        "Cluster initialized: current node ({}) is now a manager.\n\
         \n\
         To add a worker to this cluster, run the following command:\n\
         \n    \
             overlay join --token SWMTKN-1-digest-secret 192.168.77.1:2377\n\
         \n\
         To add a manager to this cluster, run 'overlay join-token manager' and follow the instructions.\n\n",
        node_id(1)
    );
    assert_eq!(report.unwrap().text, expected);
}

#[tokio::test]
async fn join_adds_the_default_port_and_says_the_role() {
    let joined = Joined {
        node: node_id(2),
        role: Role::Worker,
        worker_token: None,
    };
    let (report, asked) = run(
        "join --token T 192.168.77.1",
        vec![answer(Response::Joined(joined))],
    )
    .await;
    assert_eq!(asked[0]["Join"]["remote"], "192.168.77.1:2377");
    assert_eq!(
        report.unwrap().text,
        "This node joined a cluster as a worker.\n"
    );
}

#[tokio::test]
async fn join_tokens_come_with_their_command_or_alone() {
    let manager = || vec![answer(Response::Token(token(Role::Manager)))];
    assert_eq!(
        printed("join-token -q manager", manager()).await,
        "SWMTKN-1-digest-secret\n"
    );
    let command = "To add a manager to this cluster, run the following command:\n\n    \
        overlay join --token SWMTKN-1-digest-secret 192.168.77.1:2377\n\n";
    assert_eq!(printed("join-token manager", manager()).await, command);
    let rotated = format!("Successfully rotated manager join token.\n\n{command}");
    assert_eq!(
        printed("join-token --rotate manager", manager()).await,
        rotated
    );
}

#[tokio::test]
async fn node_ls_has_dockers_columns() {
    let table = "\
ID                            HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION
ID1 *   host1      Ready     Active         Leader           0.1.0
ID2     host2      Ready     Active         Reachable        0.1.0
ID3     host3      Down      Active                          0.1.0
";
    let ids: Vec<String> = (1..=3).map(|octet| node_id(octet).to_string()).collect();
    let table = (1..=3).fold(table.to_owned(), |table, octet| {
        table.replace(&format!("ID{octet}"), &ids[octet - 1])
    });
    assert_eq!(printed("node ls", vec![answer(nodes())]).await, table);
    assert_eq!(
        printed("node ls -q", vec![answer(nodes())]).await,
        ids.join("\n") + "\n"
    );
    let lines = printed("node ls --format json", vec![answer(nodes())]).await;
    let first = lines.lines().next().unwrap();
    let expected = format!(
        "{{\"Availability\":\"Active\",\"EngineVersion\":\"0.1.0\",\"Hostname\":\"host1\",\"ID\":\"{}\",\
         \"ManagerStatus\":\"Leader\",\"Self\":true,\"Status\":\"Ready\"}}",
        ids[0]
    );
    assert_eq!((lines.lines().count(), first), (3, expected.as_str()));
}

#[tokio::test]
async fn node_inspect_prints_an_array_in_dockers_shape() {
    let answers = vec![answer(Response::Info(Box::new(info()))), answer(nodes())];
    let printed: Value =
        serde_json::from_str(&printed("node inspect self", answers).await).unwrap();
    let expected = json!([{
        "ID": node_id(1).to_string(),
        "Spec": {"Labels": {"zone": "a"}, "Role": "manager", "Availability": "active"},
        "Description": {
            "Hostname": "host1",
            "Resources": {"NanoCPUs": 2_000_000_000_u64, "MemoryBytes": 1 << 30},
            "Engine": {"EngineVersion": "0.1.0"},
        },
        "Status": {"State": "ready", "Addr": "192.168.77.1"},
        "ManagerStatus": {"Leader": true, "Reachability": "reachable", "Addr": "192.168.77.1:2377"},
    }]);
    assert_eq!(printed, expected);
}

#[tokio::test]
async fn of_several_nodes_each_is_tried_and_failures_are_told_at_the_end() {
    let one = |octet, status| answer(Response::Nodes(vec![node(octet, status)]));
    let answers = vec![
        one(3, None),
        answer(Response::Done),
        refusal(ErrorKind::NotFound, "no such node: nobody"),
        one(2, Some(ManagerStatus::Reachable)),
    ];
    let (report, asked) = run("node promote host3 nobody host2", answers).await;
    let report = report.unwrap();
    let text =
        "Node host3 promoted to a manager in the cluster.\nNode host2 is already a manager.\n";
    assert_eq!((report.text.as_str(), asked.len()), (text, 4));
    let failures: Vec<(&str, u8)> = report
        .failures
        .iter()
        .map(|failure| (failure.message.as_str(), failure.code))
        .collect();
    assert_eq!(failures, [("no such node: nobody", 1)]);
}

#[tokio::test]
async fn network_create_asks_for_what_the_options_say() {
    let words = "network create -d overlay --attachable --subnet 10.1.0.0/16 --gateway 10.1.0.9 \
        --ip-range 10.1.2.0/24 --opt encrypted --label a=b my-net";
    let (report, asked) = run(words, vec![answer(Response::Networks(vec![network()]))]).await;
    let expected = Request::NetworkCreate(NetworkCreate {
        name: "my-net".into(),
        driver: "overlay".into(),
        attachable: true,
        internal: false,
        subnets: vec![SubnetSpec {
            subnet: Some("10.1.0.0/16".parse().unwrap()),
            gateway: Some([10, 1, 0, 9].into()),
            ip_range: Some("10.1.2.0/24".parse().unwrap()),
            ..SubnetSpec::default()
        }],
        options: BTreeMap::from([("encrypted".to_owned(), String::new())]),
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        ingress: false,
    });
    assert_eq!(asked, [serde_json::to_value(expected).unwrap()]);
    assert_eq!(report.unwrap().text, format!("{}\n", network().id));
}

#[tokio::test]
async fn network_ls_has_dockers_columns() {
    let networks = || vec![answer(Response::Networks(vec![network()]))];
    let id = network().id.short();
    let table =
        format!("NETWORK ID     NAME      DRIVER    SCOPE\n{id}   my-net    overlay   swarm\n");
    assert_eq!(printed("network ls", networks()).await, table);
    let whole = printed("network ls -q --no-trunc", networks()).await;
    assert_eq!(whole, format!("{}\n", network().id));
    let json = format!(
        "{{\"CreatedAt\":\"2024-02-29T12:00:00.5Z\",\"Driver\":\"overlay\",\"ID\":\"{}\",\"IPv4\":\"true\",\
         \"IPv6\":\"false\",\"Internal\":\"false\",\"Labels\":\"team=blue\",\"Name\":\"my-net\",\"Scope\":\"swarm\"}}\n",
        network().id
    );
    assert_eq!(printed("network ls --format json", networks()).await, json);
}

#[tokio::test]
async fn network_inspect_prints_an_array_in_dockers_shape() {
    let answers = vec![answer(Response::Networks(vec![network()]))];
    let printed: Value =
        serde_json::from_str(&printed("network inspect my-net", answers).await).unwrap();
    let endpoint = endpoint().id.to_string();
    let expected = json!([{
        "Name": "my-net",
        "Id": network().id.to_string(),
        "Created": "2024-02-29T12:00:00.5Z",
        "Scope": "swarm",
        "Driver": "overlay",
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": {"Driver": "default", "Config": [
            {"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1", "AuxiliaryAddresses": {"router": "10.0.1.7"}, "Used": 3, "Available": 250},
        ]},
        "Internal": false,
        "Attachable": true,
        "Ingress": false,
        "Containers": {endpoint.as_str(): {
            "Name": "alpine1",
            "EndpointID": endpoint,
            "MacAddress": "02:42:0a:00:01:02",
            "IPv4Address": "10.0.1.2/24",
            "IPv6Address": "",
            "Aliases": ["web"],
            "NodeID": node_id(1).to_string(),
        }},
        "Options": {"com.docker.network.driver.overlay.vxlanid_list": "4097"},
        "Labels": {"team": "blue"},
        "Peers": [{"Name": node_id(2).to_string(), "IP": "192.168.77.2"}],
    }]);
    assert_eq!(printed, expected);
}

#[tokio::test]
async fn a_namespace_is_attached_by_its_absolute_path() {
    let words =
        "attach --network my-net --name alpine1 --netns /run/netns/blue --ip 10.0.1.2 --alias web";
    let (report, asked) = run(words, vec![answer(Response::Endpoints(vec![endpoint()]))]).await;
    let expected = Request::Attach(AttachRequest {
        network: "my-net".into(),
        name: "alpine1".into(),
        aliases: vec!["web".into()],
        addresses: vec![[10, 0, 1, 2].into()],
        namespace: Namespace::Path("/run/netns/blue".into()),
        endpoint: None,
    });
    assert_eq!(asked, [serde_json::to_value(expected).unwrap()]);
    assert_eq!(report.unwrap().text, format!("{}\n", endpoint().id));
}

#[tokio::test]
async fn ps_lists_programs_with_their_state() {
    let program = |name: &str, command: &[&str], state| ProgramInfo {
        id: EndpointId::from_bytes([6; 16]),
        name: name.to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        network: "my-net".into(),
        addresses: vec!["10.0.1.2/24".parse().unwrap()],
        remove: false,
        created_unix_ms: time::unix_ms().saturating_sub(150_000),
        state,
    };
    let since_unix_ms = time::unix_ms().saturating_sub(90_000);
    let ended = ProgramState::Exited {
        code: 137,
        at_unix_ms: since_unix_ms,
    };
    let programs = ProgramResponse::Programs(vec![
        program(
            "alpine1",
            &["sleep", "infinity"],
            ProgramState::Running { since_unix_ms },
        ),
        program("alpine2", &["a-command", "with", "many", "words"], ended),
    ]);
    let (report, asked) = run("ps -a", vec![serde_json::to_value(&programs).unwrap()]).await;
    let list = serde_json::to_value(ProgramRequest::List { all: true }).unwrap();
    assert_eq!(asked, [list]);
    let id = EndpointId::from_bytes([6; 16]).short();
    let table = format!(
        "ID             COMMAND                  CREATED         STATUS                              NETWORK   ADDRESS    NAMES\n\
         {id}   \"sleep infinity\"         2 minutes ago   Up About a minute                   my-net    10.0.1.2   alpine1\n\
         {id}   \"a-command with many…\"   2 minutes ago   Exited (137) About a minute ago     my-net    10.0.1.2   alpine2\n"
    );
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let printed = report.unwrap().text;
    assert_eq!(squeeze(&printed), squeeze(&table));
    // The last column is not padded: with its name cut off, every line is equally long.
    let widths: Vec<usize> = printed
        .lines()
        .map(|line| line.chars().count() - line.split(' ').next_back().map_or(0, str::len))
        .collect();
    assert!(
        widths.iter().all(|width| *width == widths[0]),
        "columns are aligned:\n{printed}"
    );
}

#[tokio::test]
async fn info_shows_the_state_and_what_is_amiss() {
    let active = || vec![answer(Response::Info(Box::new(info())))];
    let text = printed("info", active()).await;
    for line in [
        "Cluster: active",
        " Is Manager: true",
        "  192.168.77.1:2377",
        "WARNING: the disk is slow",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is missing:\n{text}"
        );
    }
    let json: Value = serde_json::from_str(&printed("info --format json", active()).await).unwrap();
    let [state, control, address] =
        ["LocalNodeState", "ControlAvailable", "NodeAddr"].map(|key| &json[key]);
    assert_eq!(
        (state, control, address),
        (&json!("active"), &json!(true), &json!("192.168.77.1"))
    );
}

#[tokio::test]
async fn a_refusal_is_the_message_of_the_daemon_and_exits_with_one() {
    let (report, _) = run(
        "leave",
        vec![refusal(ErrorKind::QuorumLoss, "it would lose the quorum")],
    )
    .await;
    let failure = report.unwrap_err();
    assert_eq!(
        (failure.message.as_str(), failure.code),
        ("it would lose the quorum", 1)
    );
}

#[tokio::test]
async fn without_a_daemon_the_message_says_where_and_what_next() {
    let error = Client::new("/no/such/socket")
        .request(&Request::Info)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/no/such/socket") && error.contains("OVERLAY_SOCKET"),
        "{error}"
    );
}

#[test]
fn command_lines_are_read_as_by_docker() {
    let accepted = [
        "run --name a --network n -- sh -c true",
        "run -it --rm --name a --network n sh -c true",
        "run -d --network n --ip 10.0.1.9 --alias x --alias y -e A=b sleep 1",
        "exec -it a -- ls -l",
        "exec a ls -l",
        "rm -f a b",
        "stop -t 3 a",
        "node rm --force a",
        "run -d --network a --network name=b,alias=x,alias=y,ip=10.0.1.9 sleep 1",
        "network ls -q",
        "network connect --alias x --ip 10.0.1.9 n a",
        "network disconnect -f n a",
        "--socket /x ps -a",
        "ps -aq --socket /x",
    ];
    for words in accepted {
        let parsed = Cli::try_parse_from(std::iter::once("overlay").chain(words.split(' ')));
        assert!(parsed.is_ok(), "{words}: {}", parsed.unwrap_err());
    }
    let refused = [
        "run --name a --network n",
        "run --name a -- true",
        "run -d -i --network n -- true",
        "run --network a,b -- true",
        "run --network alias=x -- true",
        "run --network name=a,name=b -- true",
        "run --network name=a,ip=nonsense -- true",
        "network connect n",
        "exec a",
        "join 192.168.77.1:2377",
        "join --token T 192.168.77.1:port",
        "join-token king",
        "network create --subnet 10.0.0.0/33 n",
        "network create --label =x n",
        "node ls --format {{range}}",
        "attach --network n --name a",
        "node promote",
        "unheard-of",
    ];
    for words in refused {
        let parsed = Cli::try_parse_from(std::iter::once("overlay").chain(words.split(' ')));
        let error = parsed.expect_err(words);
        assert_eq!(error.exit_code(), 2, "{words}");
    }
}

#[test]
fn options_after_the_command_belong_to_the_command() {
    let parsed =
        Cli::try_parse_from(["overlay", "exec", "a", "ls", "-l", "--socket", "x"]).unwrap();
    assert_eq!(parsed.socket, None);
    let Command::Ask(super::AskCommand::Exec(args)) = parsed.command else {
        panic!()
    };
    assert!(
        format!("{args:?}").contains(r#"["ls", "-l", "--socket", "x"]"#),
        "{args:?}"
    );
}
