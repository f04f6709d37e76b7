//! When an endpoint is ready, and when its network hears of it.

use super::*;
use crate::agent::readiness::FETCHING;

/// An agent with one endpoint, whose port is being made.
fn asked(path: DataPath) -> (Agent, EndpointId, NetworkId) {
    let endpoint = EndpointId::from_bytes([1; 16]);
    let config = Config {
        data_path: path,
        ..config()
    };
    let mut agent = Agent::new(config, AgentMemory::default(), Instant::EPOCH);
    agent.expect(endpoint, Namespace::InProcess);
    agent.assign(Instant::EPOCH, assignment(5, &[endpoint]));
    let network = agent.carried().next().unwrap().id;
    (agent, endpoint, network)
}

/// What is wished of rows: whether they are put.
fn rows(agent: &mut Agent) -> Vec<bool> {
    let wishes = std::iter::from_fn(|| agent.poll_wish());
    let about_rows = wishes.filter_map(|wish| match wish {
        Wish::PutRow(..) => Some(true),
        Wish::DeleteRow(..) => Some(false),
        _ => None,
    });
    about_rows.collect()
}

#[test]
fn an_endpoint_waits_for_the_tables_of_its_network() {
    let (mut agent, endpoint, network) = asked(DataPath::User);
    agent.handle_port(Instant::EPOCH, endpoint, Ok(()));
    assert!(!agent.settle_ports(1, 0));
    assert_eq!(agent.port(endpoint), None);
    agent.handle_synced(network);
    assert!(
        agent.settle_ports(2, 0),
        "what user space carries needs no word"
    );
    assert_eq!(agent.port(endpoint), Some(Ok(())));
    assert!(!agent.settle_ports(2, 0), "once");
}

#[test]
fn tables_that_do_not_come_are_not_waited_for_for_ever() {
    let (mut agent, endpoint, _) = asked(DataPath::User);
    agent.handle_port(Instant::EPOCH, endpoint, Ok(()));
    let due = agent.poll_timeout().unwrap();
    assert_eq!(due, Instant::EPOCH + FETCHING);
    agent.handle_timeout(due);
    assert!(agent.settle_ports(1, 0));
    assert_eq!(agent.port(endpoint), Some(Ok(())));
    assert_eq!(agent.poll_timeout(), None);
}

#[test]
fn an_endpoint_waits_until_the_system_carries_what_the_tables_say() {
    let (mut agent, endpoint, network) = asked(DataPath::Kernel);
    agent.handle_port(Instant::EPOCH, endpoint, Ok(()));
    assert!(!agent.settle_ports(1, 1), "the tables are on their way");
    agent.handle_synced(network);
    assert!(!agent.settle_ports(3, 2));
    // What is ordered later is not waited for.
    assert!(!agent.settle_ports(7, 2));
    assert_eq!(agent.port(endpoint), None);
    assert!(agent.settle_ports(8, 3));
    assert_eq!(agent.port(endpoint), Some(Ok(())));
}

#[test]
fn a_network_hears_of_an_endpoint_while_its_port_is_made_and_that_it_could_not_be() {
    let (mut agent, endpoint, network) = asked(DataPath::User);
    assert_eq!(rows(&mut agent), [] as [bool; 0], "nobody to tell is known");
    agent.handle_synced(network);
    assert_eq!(rows(&mut agent), [true]);
    let error = PlatformError::UnknownEndpoint { endpoint };
    agent.handle_port(Instant::EPOCH, endpoint, Err(error.clone()));
    assert_eq!(rows(&mut agent), [false]);
    let due = agent.poll_timeout().unwrap();
    agent.handle_timeout(due);
    assert_eq!(rows(&mut agent), [true], "it is tried again");
    agent.handle_port(due, endpoint, Ok(()));
    assert_eq!(rows(&mut agent), [true]);
    // Whoever relies on it goes on, whatever happens to its port later.
    agent.create_port(endpoint);
    agent.handle_port(due, endpoint, Err(error));
    assert_eq!(rows(&mut agent), [] as [bool; 0]);
}

#[test]
fn what_runs_since_a_former_life_waits_for_nobody() {
    let (mut agent, endpoint, _) = asked(DataPath::User);
    agent.handle_port(Instant::EPOCH, endpoint, Ok(()));
    let memory = agent.poll_memory().unwrap();
    let mut again = Agent::new(config(), memory, Instant::EPOCH);
    assert_eq!(
        rows(&mut again),
        [] as [bool; 0],
        "not before its port was found"
    );
    again.handle_port(Instant::EPOCH, endpoint, Ok(()));
    assert_eq!(rows(&mut again), [true]);
    assert!(again.settle_ports(1, 0));
}
