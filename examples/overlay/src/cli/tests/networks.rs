//! Several networks of a program.

use overlay_node::{
    driver::LookupOptions,
    plane::{Address, Found, Place},
};

use super::*;
use crate::{
    api::NetworkChoice,
    wire::{ProgramRequest, ProgramResponse, RunRequest, Started},
};

fn choice(network: &str, address: Option<[u8; 4]>, aliases: &[&str]) -> NetworkChoice {
    NetworkChoice {
        network: network.into(),
        addresses: address.map(Into::into).into_iter().collect(),
        aliases: aliases.iter().map(|alias| (*alias).into()).collect(),
    }
}

#[tokio::test]
async fn networks_are_named_in_order_and_the_short_options_are_about_the_first() {
    let started = Started {
        id: EndpointId::from_bytes([6; 16]),
    };
    let words = "run -d --ip 10.0.1.9 --alias x --network a \
                 --network name=b,alias=y,alias=z,ip=10.0.2.9 --network name=c true";
    let (report, asked) = run(words, vec![serde_json::to_value(&started).unwrap()]).await;
    assert_eq!(report.unwrap().text, format!("{}\n", started.id));
    let asked: RunRequest = serde_json::from_value(asked[0].clone()).unwrap();
    let expected = [
        choice("a", Some([10, 0, 1, 9]), &["x"]),
        choice("b", Some([10, 0, 2, 9]), &["y", "z"]),
        choice("c", None, &[]),
    ];
    assert_eq!(asked.networks, expected);
    let twice = "run -d --ip 10.0.1.9 --network name=a,ip=10.0.1.8 true";
    let (report, asked) = run(twice, vec![]).await;
    let failure = report.unwrap_err();
    assert_eq!((failure.code, asked.len()), (125, 0), "{failure}");
}

#[tokio::test]
async fn programs_are_connected_and_disconnected() {
    let done = || vec![serde_json::to_value(ProgramResponse::Done).unwrap()];
    let words = "network connect --alias x --ip 10.0.1.9 my-net web";
    let (report, asked) = run(words, done()).await;
    assert_eq!(report.unwrap().text, "", "as in Docker");
    let expected = ProgramRequest::Connect {
        program: "web".into(),
        network: choice("my-net", Some([10, 0, 1, 9]), &["x"]),
    };
    assert_eq!(asked, [serde_json::to_value(expected).unwrap()]);
    for (words, force) in [
        ("network disconnect my-net web", false),
        ("network disconnect -f my-net web", true),
    ] {
        let (report, asked) = run(words, done()).await;
        assert_eq!(report.unwrap().text, "");
        let expected = ProgramRequest::Disconnect {
            program: "web".into(),
            network: "my-net".into(),
            force,
        };
        assert_eq!(asked, [serde_json::to_value(expected).unwrap()]);
    }
}

#[tokio::test]
async fn a_look_up_says_where_each_address_leads() {
    let (mac, endpoint) = (
        MacAddr::new([2, 0, 0, 0, 0, 1]),
        EndpointId::from_bytes([6; 16]),
    );
    let at = |place| Found {
        mac: Some(mac),
        place,
    };
    let vtep = Place::Vtep([192, 0, 2, 2].into());
    let found = [
        at(Some(vtep)),
        at(Some(Place::Endpoint(endpoint))),
        at(None),
        Found::default(),
    ];
    let words = "network lookup my-net 10.0.1.2 02:00:00:00:00:01 10.0.1.9 fd00::7";
    let (report, asked) = run(words, vec![serde_json::to_value(found).unwrap()]).await;
    let lines = format!(
        "10.0.1.2 {mac} vtep 192.0.2.2\n{mac} {mac} endpoint {endpoint}\n10.0.1.9 {mac} virtual\nfd00::7 unknown\n"
    );
    assert_eq!(report.unwrap().text, lines);
    let expected = LookupOptions {
        network: "my-net".into(),
        addresses: vec![
            Address::Ip([10, 0, 1, 2].into()),
            Address::Mac(mac),
            Address::Ip([10, 0, 1, 9].into()),
            Address::Ip("fd00::7".parse().unwrap()),
        ],
    };
    assert_eq!(asked, [serde_json::to_value(expected).unwrap()]);
}
