//! Rules: what is asked for, and how answers read.

use super::*;
use crate::api::{
    PolicyAnswer, PolicyChange, PolicyInfo, PolicyQuestion, RuleInfo, RuleSpec, Verdict,
};

#[tokio::test]
async fn a_rule_is_added_with_what_was_said_of_it() {
    let add = |rule, before: Option<&str>, replace| PolicyChange::Add {
        rule,
        before: before.map(str::to_owned),
        replace,
    };
    let web = rule("web", "label:tier=front", &["tcp/80", "udp/53", "icmp"]);
    let any = RuleSpec {
        from: "any".parse().unwrap(),
        to: "any".parse().unwrap(),
        verdict: Verdict::Deny,
        ..rule("none", "any", &["any"])
    };
    for (words, change) in [
        (
            "policy add my-net web --from label:tier=front --to service:web --port tcp/80,udp/53 --port icmp",
            add(web, None, false),
        ),
        (
            "policy add --before web --replace --deny my-net none",
            add(any, Some("web"), true),
        ),
        (
            "policy default my-net deny",
            PolicyChange::Default {
                verdict: Verdict::Deny,
            },
        ),
    ] {
        let (report, asked) = run(words, vec![answer(Response::Done)]).await;
        assert_eq!(report.unwrap().text.lines().count(), 1);
        let expected = Request::PolicyChange {
            network: "my-net".into(),
            change: Box::new(change),
        };
        assert_eq!(asked, [serde_json::to_value(expected).unwrap()], "{words}");
    }
}

#[tokio::test]
async fn rules_are_removed_one_by_one_and_each_refusal_is_told() {
    let refused = refusal(ErrorKind::NotFound, "no such rule");
    let answers = vec![answer(Response::Done), refused];
    let (report, asked) = run("policy rm my-net a b", answers).await;
    let report = report.unwrap();
    assert_eq!((&*report.text, report.failures.len()), ("a\n", 1));
    assert_eq!(asked.len(), 2);
}

#[test]
fn what_is_neither_selector_nor_traffic_is_refused_at_once() {
    for words in [
        "policy add my-net a --from web",
        "policy add my-net a --to service:",
        "policy add my-net a --port 80",
        "policy add my-net a --port tcp/80,udp/0x35",
        "policy default my-net reject",
        "policy explain a b",
        "policy explain a b:http",
    ] {
        let words = std::iter::once("overlay").chain(words.split_whitespace());
        Cli::try_parse_from(words).unwrap_err();
    }
}

#[tokio::test]
async fn the_list_shows_whom_rules_mean_now_and_the_default_last() {
    let infos = [
        (rule("web", "service:front", &["tcp/80", "icmp"]), Some(2)),
        (rule("all", "any", &["any"]), None),
    ];
    let infos = infos.map(|(rule, from_addresses)| RuleInfo {
        rule,
        from_addresses,
        to_addresses: Some(0),
    });
    let policy = Response::Policy(Box::new(PolicyInfo {
        network: NetworkId::from_bytes([5; 16]),
        network_name: "my-net".into(),
        default: Verdict::Deny,
        rules: infos.to_vec(),
        too_large: false,
    }));
    let text = printed("policy ls my-net", vec![answer(policy.clone())]).await;
    let lines: Vec<Vec<_>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let expected = [
        "NUMBER NAME FROM TO TRAFFIC VERDICT",
        "1 web service:front (2) service:web (nobody) tcp/80,icmp allow",
        "2 all any service:web (nobody) any allow",
        "- (default) any any any deny",
    ];
    let expected = expected.map(|line| line.split(' ').collect::<Vec<_>>());
    assert_eq!(lines, expected);
    let names = printed("policy ls -q my-net", vec![answer(policy)]).await;
    assert_eq!(names, "web\nall\n");
}

#[tokio::test]
async fn it_is_explained_by_which_rule_and_for_which_pairs_if_they_differ() {
    let made = |network: &str, rule: Option<(u64, &str)>, last: u8, left_out| PolicyAnswer {
        network: network.into(),
        verdict: match rule {
            Some(_) => Verdict::Allow,
            None => Verdict::Deny,
        },
        rule: rule.map(|(number, name)| (number, name.to_owned())),
        pairs: vec![([10, 0, 1, 2].into(), [10, 0, 1, last].into())],
        left_out,
    };
    let answers = Response::PolicyAnswers(vec![
        made("a", Some((2, "web")), 3, 0),
        made("a", None, 4, 0),
        made("b", None, 5, 7),
    ]);
    let words = "policy explain --network a front web:53/udp";
    let (report, asked) = run(words, vec![answer(answers)]).await;
    let lines = "a: allowed by rule 2 (web)\n  10.0.1.2 to 10.0.1.3\n\
                 a: denied by default\n  10.0.1.2 to 10.0.1.4\n\
                 b: denied by default\n  7 more pairs were not looked at\n";
    assert_eq!(report.unwrap().text, lines);
    let question = Request::PolicyExplain(PolicyQuestion {
        network: Some("a".into()),
        from: "front".into(),
        to: "web".into(),
        protocol: 17,
        port: 53,
    });
    assert_eq!(asked, [serde_json::to_value(question).unwrap()]);
}

fn rule(name: &str, from: &str, traffic: &[&str]) -> RuleSpec {
    let traffic = traffic.iter().map(|text| text.parse().unwrap());
    RuleSpec {
        name: name.into(),
        from: from.parse().unwrap(),
        to: "service:web".parse().unwrap(),
        traffic: traffic.collect(),
        verdict: Verdict::Allow,
    }
}
