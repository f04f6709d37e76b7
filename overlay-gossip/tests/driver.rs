//! Three members on real sockets of this host.
#![cfg(feature = "tokio")]

use std::{net::SocketAddr, time::Duration};

use overlay_core::Seed;
use overlay_gossip::{
    Config, Event, MemberState, Timing,
    driver::{Driver, Sockets},
};

#[path = "support/aead.rs"]
mod support;

/// Members with keys join over TCP, probe over UDP, send a message that needs a stream, and leave.
#[test]
fn members_meet_and_part_on_real_sockets() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let story = tokio::time::timeout(Duration::from_secs(20), story());
        story.await.expect("the story ends in time");
    });
}

async fn story() {
    let mut first = member("first", 1).await;
    let mut second = member("second", 2).await;
    let seed = first.gossip().local().address;
    second.command(|gossip, now| gossip.join(now, &[seed]));
    let met = |driver: &Driver| driver.gossip().members().count() == 2;
    while !met(&first) || !met(&second) {
        tokio::select! {
            _ = first.next_event() => {}
            _ = second.next_event() => {}
        }
    }
    let long = vec![7; 100_000];
    second
        .command(|gossip, now| gossip.send(now, "first", &long))
        .expect("a member");
    let arrived = until(&mut first, &mut second, |event| match event {
        Event::UserMessage { bytes, .. } => Some(bytes.clone()),
        _ => None,
    });
    assert_eq!(arrived.await, long);
    second.command(|gossip, now| gossip.leave(now));
    until(&mut first, &mut second, |event| match event {
        Event::MemberLeft(member) => Some(member.clone()),
        _ => None,
    })
    .await;
    let second = first.gossip().member("second");
    assert_eq!(second.map(|member| member.state), Some(MemberState::Left));
}

/// Drives both until an event of the first one is the wanted one.
async fn until<R>(
    first: &mut Driver,
    second: &mut Driver,
    wanted: impl Fn(&Event) -> Option<R>,
) -> R {
    loop {
        tokio::select! {
            event = first.next_event() => {
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
            _ = second.next_event() => {}
        }
    }
}

async fn member(name: &str, seed: u64) -> Driver {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let sockets = Sockets::bind(address).await.expect("a free port");
    let config = Config {
        keyring: Some(support::ring(&[5; 32])),
        label: b"test".to_vec(),
        timing: Timing::quick(),
        ..Config::lan(name, sockets.local_addr())
    };
    Driver::new(config, Seed::from_u64(seed), sockets).expect("a good configuration")
}
