//! Programs on several networks, and what a crash leaves of that.

use overlay_core::{EndpointId, plane::Namespace};
use serde_json::{Value, json};

use super::*;

fn on_both(name: &str) -> RunRequest {
    RunRequest {
        networks: vec![on("front"), on("back")],
        ..shell(name, "exec sleep 1000", Stdio::Detached)
    }
}

fn connect(network: &str) -> ProgramRequest {
    ProgramRequest::Connect {
        program: "web".into(),
        network: on(network),
    }
}

fn disconnect(network: &str, force: bool) -> ProgramRequest {
    ProgramRequest::Disconnect {
        program: "web".into(),
        network: network.into(),
        force,
    }
}

impl Fixture {
    async fn run(&self, request: &RunRequest) -> EndpointId {
        match self.client.run(request).await {
            Ok(Launched::Detached(started)) => started.id,
            other => panic!("{other:?}"),
        }
    }

    /// What is attached: the networks, and the numbers of the interfaces in the namespace of this name.
    fn interfaces(&self, with: EndpointId) -> Vec<(String, u8)> {
        let places = self.node.places().into_iter();
        let number = |(network, namespace)| match namespace {
            Namespace::Own => (network, 0),
            Namespace::Shared {
                with: name,
                interface,
            } => {
                assert_eq!(name, with);
                (network, interface)
            }
            other => panic!("{other:?}"),
        };
        places.map(number).collect()
    }

    /// The only record, as it is on disk.
    fn record(&self) -> Value {
        let folder = self.folder.join("programs");
        let mut files = fs::read_dir(folder).unwrap().flatten();
        let file = files.next().unwrap().path();
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }

    async fn networks(&self) -> String {
        let [program] = self.list().await.try_into().unwrap();
        program.network
    }
}

fn numbered(pairs: &[(&str, u8)]) -> Vec<(String, u8)> {
    pairs
        .iter()
        .map(|(name, number)| ((*name).to_owned(), *number))
        .collect()
}

#[tokio::test]
async fn a_program_has_an_endpoint_on_each_network_and_gives_all_back() {
    let fixture = Fixture::start().await;
    let id = fixture.run(&on_both("web")).await;
    assert_eq!(
        fixture.interfaces(id),
        numbered(&[("back", 1), ("front", 0)])
    );
    assert_eq!(fixture.networks().await, "front,back");
    let stop = ProgramRequest::Stop {
        program: "web".into(),
        timeout_seconds: 10,
    };
    assert_eq!(fixture.ask(stop).await, Ok(ProgramResponse::Done));
    assert_eq!(fixture.node.attached(), 0);
    assert_eq!(fixture.networks().await, "front,back", "where it was");
}

#[tokio::test]
async fn a_second_network_that_is_refused_takes_the_first_back() {
    let fixture = Fixture::start().await;
    fixture.node.close_network("back");
    let refused = fixture.client.run(&on_both("web")).await;
    let (kind, _) = refusal(refused.unwrap_err());
    assert_eq!(kind, ErrorKind::Forbidden);
    let left = (
        fixture.node.attached(),
        fixture.records(),
        fixture.holders.alive(),
    );
    assert_eq!(left, (0, 0, 0));
    for networks in [vec![], vec![on("a"), on("a")], vec![on("a"); 17]] {
        let request = RunRequest {
            networks,
            ..on_both("web")
        };
        let refused = fixture.client.run(&request).await.unwrap_err();
        let (kind, message) = refusal(refused);
        assert!(
            matches!(kind, ErrorKind::Invalid | ErrorKind::Limit),
            "{message}"
        );
    }
    assert_eq!(fixture.records(), 0);
}

#[tokio::test]
async fn a_crash_between_two_attachments_leaves_neither() {
    let fixture = Fixture::start().await;
    fixture.node.silence_network("back");
    let (client, run) = (fixture.client.clone(), on_both("web"));
    tokio::spawn(async move { client.run(&run).await });
    let both = async || (fixture.node.attached() == 2).then_some(());
    fixture.until("both attachments", both).await;
    let restarted = fixture.restart().await;
    let undone = async || {
        let left = (fixture.node.attached(), fixture.records());
        (left == (0, 0) && restarted.list().await.is_empty()).then_some(())
    };
    restarted.until("the undoing", undone).await;
}

#[tokio::test]
async fn a_connection_is_remembered_and_so_is_its_end() {
    let fixture = Fixture::start().await;
    let id = fixture
        .run(&shell("web", "exec sleep 1000", Stdio::Detached))
        .await;
    assert_eq!(
        fixture.ask(connect("back")).await,
        Ok(ProgramResponse::Done)
    );
    let (kind, message) = fixture.ask(connect("back")).await.unwrap_err();
    assert_eq!(
        (kind, message.contains("already")),
        (ErrorKind::Conflict, true)
    );

    let fixture = fixture.restart().await;
    assert_eq!(fixture.networks().await, "my-net,back");
    assert_eq!(
        fixture.interfaces(id),
        numbered(&[("back", 1), ("my-net", 0)])
    );
    let done = fixture.ask(disconnect("my-net", false)).await;
    assert_eq!(done, Ok(ProgramResponse::Done));
    for (network, kind) in [("my-net", ErrorKind::NotFound), ("back", ErrorKind::InUse)] {
        let refused = fixture.ask(disconnect(network, false)).await.unwrap_err();
        assert_eq!(refused.0, kind, "{}", refused.1);
    }

    let fixture = fixture.restart().await;
    assert_eq!(fixture.networks().await, "back");
    assert_eq!(fixture.interfaces(id), numbered(&[("back", 1)]));
    // It is found by its identity although no endpoint has that any more, and the free interface is taken again.
    assert_eq!(
        fixture.ask(connect("third")).await,
        Ok(ProgramResponse::Done)
    );
    assert_eq!(
        fixture.interfaces(id),
        numbered(&[("back", 1), ("third", 0)])
    );
    let detach = Request::Detach {
        endpoint: fixture.record()["links"][0]["endpoint"]
            .as_str()
            .unwrap()
            .to_owned(),
    };
    let refused = fixture.client.request(&detach).await.map_err(refusal);
    assert_eq!(refused.unwrap_err().0, ErrorKind::InUse);
    let stop = ProgramRequest::Stop {
        program: id.to_string(),
        timeout_seconds: 10,
    };
    assert_eq!(fixture.ask(stop).await, Ok(ProgramResponse::Done));
    assert_eq!(fixture.node.attached(), 0);
    let (kind, _) = fixture.ask(connect("front")).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Conflict, "it is not running");
}

#[tokio::test]
async fn a_connection_that_is_refused_leaves_nothing() {
    let fixture = Fixture::start().await;
    let id = fixture
        .run(&shell("web", "exec sleep 1000", Stdio::Detached))
        .await;
    let before = fixture.record();
    fixture.node.close_network("back");
    let (kind, _) = fixture.ask(connect("back")).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Forbidden);
    assert_eq!(fixture.record(), before);
    assert_eq!(fixture.interfaces(id), numbered(&[("my-net", 0)]));
}

#[tokio::test]
async fn what_a_crash_left_between_connected_and_not_is_detached() {
    let fixture = Fixture::start().await;
    let id = fixture
        .run(&shell("web", "exec sleep 1000", Stdio::Detached))
        .await;
    fixture.node.silence_network("back");
    let client = fixture.client.clone();
    tokio::spawn(async move { client.programs(&connect("back")).await });
    let attached = async || (fixture.node.attached() == 2).then_some(());
    fixture.until("the attachment", attached).await;
    let restarted = fixture.restart().await;
    let undone = async || (fixture.node.attached() == 1).then_some(());
    restarted.until("the undoing", undone).await;
    let written = async || (fixture.record()["links"].as_array()?.len() == 1).then_some(());
    restarted.until("the undoing on disk", written).await;
    assert_eq!(fixture.interfaces(id), numbered(&[("my-net", 0)]));
    assert_eq!(fixture.holders.alive(), 1, "the program runs on");
}

#[tokio::test]
async fn without_a_manager_a_disconnection_is_refused_or_carried_out_later() {
    let fixture = Fixture::start().await;
    let id = fixture.run(&on_both("web")).await;
    fixture.node.refuse_detach(1);
    let (kind, _) = fixture.ask(disconnect("back", false)).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Unavailable);
    assert_eq!(fixture.networks().await, "front,back");
    fixture.node.refuse_detach(2);
    let done = fixture.ask(disconnect("back", true)).await;
    assert_eq!(done, Ok(ProgramResponse::Done));
    let detached = async || (fixture.networks().await == "front").then_some(());
    fixture.until("the disconnection", detached).await;
    assert_eq!(fixture.interfaces(id), numbered(&[("front", 0)]));
}

#[tokio::test]
async fn the_record_of_a_program_with_one_endpoint_is_taken_up() {
    let fixture = Fixture::start().await;
    let id = fixture
        .run(&shell("web", "exec sleep 1000", Stdio::Detached))
        .await;
    let mut record = fixture.record();
    // As earlier releases wrote it.
    record.as_object_mut().unwrap().remove("links");
    let file = fixture.folder.join("programs").join(format!("{id}.json"));
    fs::write(file, record.to_string()).unwrap();
    let fixture = fixture.restart().await;
    assert_eq!(fixture.networks().await, "my-net");
    assert_eq!(
        fixture.ask(connect("back")).await,
        Ok(ProgramResponse::Done)
    );
    assert_eq!(
        fixture.interfaces(id),
        numbered(&[("back", 1), ("my-net", 0)])
    );
    assert_eq!(fixture.record()["links"][0]["endpoint"], json!(id));
    let done = fixture.ask(disconnect("my-net", false)).await;
    assert_eq!(done, Ok(ProgramResponse::Done));
    assert_eq!(fixture.interfaces(id), numbered(&[("back", 1)]));
}
