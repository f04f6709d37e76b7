//! Rules as nodes hear of them, and as they are explained.

use std::net::IpAddr;

use overlay_core::plane::{AddressMatch, NetworkPolicy};

use super::*;
use crate::api::{PolicyAnswer, PolicyChange, PolicyQuestion, RuleSpec, Selector, Verdict};

#[test]
fn every_node_of_a_network_hears_whom_its_rules_mean_now() {
    let mut lab = Lab::new();
    let mut known = lab.agents(&[2, 3]);
    for number in [2, 3] {
        lab.attach_as(number, number, &format!("Stand{number}"));
    }
    lab.hear(&mut known);
    assert!(known.values().all(|one| policy(one).is_open()));
    lab.change(PolicyChange::Default {
        verdict: Verdict::Deny,
    });
    lab.add_rule("web", "label:tier=front", "service:web");
    lab.add_rule("alone", "endpoint:stand2", "any");
    lab.hear(&mut known);
    let first = agreed(&known);
    assert_eq!(first.default, Verdict::Deny);
    assert_eq!(first.rules[0].from, nobody(), "and not everybody");
    assert_eq!(first.rules[0].to, nobody());
    assert_eq!(number(&first.rules[1].from), 1);
    assert_eq!(first.rules[1].to, AddressMatch::Any);
    // Somebody attaches and detaches: whoever is on the network hears of it.
    let detach = Request::Detach {
        endpoint: "Stand2".to_owned(),
    };
    lab.attach_as(3, 9, "more");
    lab.ask(2, detach).unwrap();
    lab.hear(&mut known);
    known.retain(|_, one| !one.networks.is_empty());
    assert_eq!(agreed(&known).rules[1].from, nobody());
    lab.remove_rule("web");
    lab.remove_rule("alone");
    lab.change(PolicyChange::Default {
        verdict: Verdict::Allow,
    });
    lab.hear(&mut known);
    assert!(agreed(&known).is_open());
}

#[test]
fn a_service_is_its_tasks_and_its_virtual_address_by_the_labels_that_it_has_now() {
    let mut lab = Lab::new();
    let mut known = lab.agents(&[2, 3]);
    for number in [2, 3] {
        lab.attach_as(number, number, &format!("Stand{number}"));
    }
    lab.add_rule("web", "label:tier=front", "service:web");
    let mut spec = ServiceSpec {
        name: "web".to_owned(),
        networks: vec!["net".into()],
        ..ServiceSpec::default()
    };
    spec.labels.insert("tier".to_owned(), "front".to_owned());
    lab.ask(1, Request::ServiceCreate(Box::new(spec.clone())))
        .unwrap();
    lab.hear(&mut known);
    let of_service = |lab: &Lab| lab.addresses_of("web");
    let second = agreed(&known);
    let expected = of_service(&lab);
    assert_eq!(expected.len(), 2, "{expected:?}");
    assert_eq!(second.rules[0].to, expected.iter().copied().collect());
    assert_eq!(second.rules[0].from, second.rules[0].to);
    // Its labels change, and nothing else.
    let update = |spec: &ServiceSpec| Request::ServiceUpdate {
        service: "web".to_owned(),
        version: None,
        spec: Box::new(spec.clone()),
    };
    spec.labels.insert("tier".to_owned(), "back".to_owned());
    lab.ask(1, update(&spec)).unwrap();
    lab.hear(&mut known);
    assert_eq!(agreed(&known).rules[0].from, nobody());
    // More tasks, and then none.
    spec.mode = api::ServiceMode::Replicated(3);
    lab.ask(1, update(&spec)).unwrap();
    lab.hear(&mut known);
    assert_eq!(number(&agreed(&known).rules[0].to), 4);
    lab.ask(
        1,
        Request::ServiceRemove {
            service: "web".to_owned(),
        },
    )
    .unwrap();
    lab.hear(&mut known);
    let left = agreed(&known);
    // Tasks that are told to stop are there until they have stopped; the virtual address is not.
    assert_eq!(number(&left.rules[0].to), 3);
}

#[test]
fn a_network_without_rules_touches_nobody_else_when_an_endpoint_comes() {
    let mut lab = Lab::new();
    let mut known = lab.agents(&[2, 3]);
    lab.attach_as(2, 2, "one");
    lab.hear(&mut known);
    let (before, index) = (known[&node(2)].version, lab.manager.state().applied());
    lab.attach_as(3, 3, "two");
    lab.hear(&mut known);
    assert_eq!(known[&node(2)].version, before);
    assert!(lab.manager.state().applied() > index);
    lab.add_rule("web", "any", "service:web");
    lab.hear(&mut known);
    let before = known[&node(2)].version;
    lab.attach_as(3, 4, "three");
    lab.hear(&mut known);
    assert_eq!(known[&node(2)].version, before, "nobody means it");
    lab.add_rule("four", "any", "endpoint:four");
    lab.attach_as(3, 5, "four");
    lab.hear(&mut known);
    assert!(known[&node(2)].version > before);
    assert_eq!(number(&agreed(&known).rules[1].to), 1);
}

/// As many addresses as there may be in all rules, and then one more.
#[test]
fn nothing_passes_where_rules_mean_more_than_nodes_take() {
    let mut lab = Lab::new();
    let mut known = lab.agents(&[2]);
    lab.attach_as(2, 2, "one");
    let spec = ServiceSpec {
        name: "web".to_owned(),
        networks: vec!["net".into()],
        mode: api::ServiceMode::Replicated(127),
        ..ServiceSpec::default()
    };
    lab.ask(1, Request::ServiceCreate(Box::new(spec))).unwrap();
    lab.hear(&mut known);
    let all = lab.addresses_of("web").len();
    assert_eq!(all, 128);
    for number in 0..254 {
        lab.add_rule(&format!("rule{number}"), "service:web", "service:web");
    }
    lab.add_rule("last", "service:web", "any");
    lab.hear(&mut known);
    let matches = 254 * (128 + 128 + 1) + 128 + 1 + 1;
    assert_eq!(matches, 65_536 - 128);
    assert_eq!(agreed(&known).rules.len(), 255);
    lab.add_rule("more", "service:web", "endpoint:none");
    lab.hear(&mut known);
    let closed = agreed(&known);
    assert_eq!((closed.default, closed.rules.len()), (Verdict::Deny, 0));
    let inspect = Request::PolicyInspect {
        network: "net".to_owned(),
    };
    let told = lab.ask(1, inspect).unwrap();
    let Answer::Api(Response::Policy(told)) = told else {
        panic!("{told:?}")
    };
    assert!(told.too_large);
    assert_eq!(told.rules[0].from_addresses, Some(128));
    assert_eq!(told.default, Verdict::Allow);
    lab.remove_rule("more");
    lab.hear(&mut known);
    assert_eq!(agreed(&known).rules.len(), 255);
}

#[test]
fn it_is_explained_which_rule_decides_about_each_pair() {
    let mut lab = Lab::new();
    lab.agents(&[2, 3]);
    lab.attach_as(2, 2, "client");
    lab.attach_as(3, 3, "db");
    let spec = ServiceSpec {
        name: "web".to_owned(),
        networks: vec!["net".into()],
        ..ServiceSpec::default()
    };
    lab.ask(1, Request::ServiceCreate(Box::new(spec))).unwrap();
    lab.pass(TICK * 10);
    let all = lab.addresses_of("web");
    let open = lab.explain("client", "web", 80).unwrap();
    assert_eq!((open.len(), open[0].pairs.len()), (1, all.len()));
    assert_eq!((open[0].verdict, &open[0].rule), (Verdict::Allow, &None));
    lab.change(PolicyChange::Default {
        verdict: Verdict::Deny,
    });
    lab.add_rule("web", "endpoint:client", "service:web");
    let allowed = lab.explain("client", "web", 80).unwrap();
    let by_web = Some((1, "web".to_owned()));
    assert_eq!(allowed[0].rule, by_web);
    assert_eq!((allowed.len(), allowed[0].network.as_str()), (1, "net"));
    for (from, to, port) in [("client", "web", 81), ("db", "web", 80), ("web", "db", 80)] {
        let denied = lab.explain(from, to, port).unwrap();
        let by_default = (Verdict::Deny, &None);
        assert_eq!((denied[0].verdict, &denied[0].rule), by_default, "{from}");
    }
    // One of the addresses alone is denied before.
    let virtual_address = all.iter().next_back().unwrap().to_string();
    let only = lab.explain("client", &virtual_address, 80).unwrap();
    assert_eq!((only[0].pairs.len(), &only[0].rule), (1, &by_web));
    let db = lab.addresses_of("db").pop().unwrap();
    let only = lab.explain(&db.to_string(), "web", 80).unwrap();
    assert_eq!(only[0].verdict, Verdict::Deny);
    for (from, to) in [("nobody", "web"), ("client", "192.0.2.1"), ("db", "db")] {
        let error = lab.explain(from, to, 80).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    }
}

#[test]
fn a_worker_neither_changes_nor_reads_a_policy() {
    let mut lab = Lab::new();
    lab.agents(&[2]);
    let question = PolicyQuestion {
        network: None,
        from: "any".to_owned(),
        to: "any".to_owned(),
        protocol: 6,
        port: 80,
    };
    let inspect = Request::PolicyInspect {
        network: "net".to_owned(),
    };
    let change = Request::PolicyChange {
        network: "net".to_owned(),
        change: Box::new(PolicyChange::Default {
            verdict: Verdict::Deny,
        }),
    };
    for request in [change, inspect, Request::PolicyExplain(question)] {
        let error = lab.ask(2, request).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotManager, "{error}");
    }
    let networks = lab.manager.state().networks().values();
    assert!(networks.clone().all(|network| !network.has_policy()));
}

impl Lab {
    /// Adds workers whose agents are heard.
    fn agents(&mut self, numbers: &[u8]) -> BTreeMap<NodeId, Assignment> {
        let each = numbers.iter().map(|number| {
            self.add(*number, Role::Worker);
            let first = whole(self.beat(*number, 0).last().unwrap());
            (node(*number), first)
        });
        each.collect()
    }

    fn attach_as(&mut self, on: u8, number: u8, name: &str) {
        let attach = AttachRequest {
            network: "net".to_owned(),
            name: name.to_owned(),
            aliases: Vec::new(),
            addresses: Vec::new(),
            namespace: overlay_core::plane::Namespace::InProcess,
            endpoint: Some(EndpointId::from_bytes([number; 16])),
        };
        self.ask(on, Request::Attach(attach)).unwrap();
    }

    fn change(&mut self, change: PolicyChange) {
        let (network, change) = ("net".to_owned(), Box::new(change));
        self.ask(1, Request::PolicyChange { network, change })
            .unwrap();
    }

    fn add_rule(&mut self, name: &str, from: &str, to: &str) {
        let selector = |text: &str| -> Selector { text.parse().unwrap() };
        self.change(PolicyChange::Add {
            rule: RuleSpec {
                name: name.to_owned(),
                from: selector(from),
                to: selector(to),
                traffic: vec!["tcp/80".parse().unwrap()],
                verdict: Verdict::Allow,
            },
            before: None,
            replace: false,
        });
    }

    fn remove_rule(&mut self, name: &str) {
        let name = name.to_owned();
        self.change(PolicyChange::Remove { name });
    }

    fn explain(
        &mut self,
        from: &str,
        to: &str,
        port: u16,
    ) -> Result<Vec<PolicyAnswer>, api::Error> {
        let question = PolicyQuestion {
            network: None,
            from: from.to_owned(),
            to: to.to_owned(),
            protocol: 6,
            port,
        };
        match self.ask(1, Request::PolicyExplain(question))? {
            Answer::Api(Response::PolicyAnswers(answers)) => Ok(answers),
            other => panic!("{other:?}"),
        }
    }

    /// Returns the addresses of endpoints of that name or of a service's, and its virtual ones, as the state has them.
    fn addresses_of(&self, name: &str) -> Vec<IpAddr> {
        let state = self.manager.state();
        let endpoints = state.endpoints().values().filter(|endpoint| {
            let owner = endpoint.task.as_ref().map(|owner| &*owner.service_name);
            endpoint.name == name || owner == Some(name)
        });
        let endpoints = endpoints.flat_map(|endpoint| &endpoint.addresses);
        let services = state.services().values();
        let services = services.filter(|service| service.spec().name == name);
        let services = services.flat_map(|service| service.virtual_addresses.values().flatten());
        endpoints.chain(services).map(ipnet::IpNet::addr).collect()
    }
}

fn policy(assignment: &Assignment) -> &NetworkPolicy {
    &assignment.networks[0].policy
}

/// Returns the policy that all nodes have.
fn agreed(known: &BTreeMap<NodeId, Assignment>) -> NetworkPolicy {
    let mut all = known.values().map(policy);
    let first = all.next().unwrap();
    assert!(all.all(|other| other == first), "{known:?}");
    first.clone()
}

fn nobody() -> AddressMatch {
    AddressMatch::Of(Default::default())
}

fn number(addresses: &AddressMatch) -> usize {
    match addresses {
        AddressMatch::Of(nets) => nets.len(),
        AddressMatch::Any => panic!("everybody"),
    }
}
