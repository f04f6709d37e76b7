//! Shows how a set of weighted backends shares new flows under each policy, and what a removal moves.
//!
//! `cargo run -p overlay-lb --example shares -- 10.0.1.3:80=1 10.0.1.4:80=2 10.0.1.5:80=1`; without backends it takes these.

use std::{net::SocketAddr, process::ExitCode};

use overlay_core::{Instant, Seed};
use overlay_lb::{
    Backend, BackendId, BackendState, Balancer, Choice, Config, FlowKey, Policy, Protocol, Vip,
    VipConfig,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.is_empty() {
        arguments = SAMPLE.map(str::to_owned).into();
    }
    match backends(&arguments).and_then(|backends| shares(&backends)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn backends(arguments: &[String]) -> Result<Vec<Backend>, Failure> {
    let backend = |(nth, text): (u128, &String)| {
        let (address, weight) = text.split_once('=').ok_or("expected ADDRESS:PORT=WEIGHT")?;
        let id = BackendId::from_bytes((nth + 1).to_be_bytes());
        let backend = Backend::new(id, address.parse()?);
        Ok(Backend {
            weight: weight.parse()?,
            ..backend
        })
    };
    (0..).zip(arguments).map(backend).collect()
}

fn shares(backends: &[Backend]) -> Result<(), Failure> {
    let any = if backends[0].address.is_ipv4() {
        "0.0.0.0"
    } else {
        "::"
    };
    let vip = Vip {
        addr: any.parse()?,
        proto: Protocol::Tcp,
        port: 80,
    };
    for policy in [
        Policy::Maglev,
        Policy::WeightedRoundRobin,
        Policy::LeastConnections,
    ] {
        under(policy, vip, backends)?;
    }
    Ok(())
}

fn under(policy: Policy, vip: Vip, backends: &[Backend]) -> Result<(), Failure> {
    let now = Instant::EPOCH;
    let mut balancer = Balancer::new(Config::default(), &Seed::from_u64(0), now)?;
    balancer.set_vip(
        now,
        vip,
        VipConfig {
            policy,
            ..VipConfig::default()
        },
    )?;
    for backend in backends {
        balancer.set_backend(now, vip, *backend)?;
    }
    let before: Vec<Choice> = flows(vip).map(|flow| balancer.choose(now, flow)).collect();
    say(&format!("{policy:?}"));
    for Backend {
        id,
        address,
        weight,
        ..
    } in balancer.backends(vip)
    {
        let share = balancer.flows(vip, id).unwrap_or_default();
        say(&format!(
            "  {address} of weight {weight}: {share} of {FLOWS} flows"
        ));
    }
    // A second look at the same flows, with nothing remembered and the first backend gone.
    balancer.remove_vip(now, vip);
    balancer.set_vip(
        now,
        vip,
        VipConfig {
            policy,
            ..VipConfig::default()
        },
    )?;
    for (nth, backend) in (0..).zip(backends) {
        let state = if nth == 0 {
            BackendState::Down
        } else {
            BackendState::Active
        };
        balancer.set_backend(now, vip, Backend { state, ..*backend })?;
    }
    let moved = flows(vip).zip(&before).filter(|(flow, before)| {
        let gone = matches!(before, Choice::Backend { id, .. } if *id == backends[0].id);
        let after = balancer.choose(now, *flow);
        !gone && after != **before
    });
    say(&format!(
        "  without {}: {} others would move",
        backends[0].address,
        moved.count()
    ));
    Ok(())
}

fn flows(vip: Vip) -> impl Iterator<Item = FlowKey> {
    let host = if vip.addr.is_ipv4() {
        [10, 0, 2, 2].into()
    } else {
        "fd00::2".parse().unwrap_or(vip.addr)
    };
    (0..FLOWS).map(move |port| FlowKey {
        vip,
        client: SocketAddr::new(host, port),
    })
}

#[expect(clippy::print_stdout, reason = "a program for people")]
fn say(text: &str) {
    println!("{text}");
}

const FLOWS: u16 = 60_000;
const SAMPLE: [&str; 3] = ["10.0.1.3:80=1", "10.0.1.4:80=2", "10.0.1.5:80=1"];
