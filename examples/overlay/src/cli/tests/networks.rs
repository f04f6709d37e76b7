//! Several networks of a program.

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
