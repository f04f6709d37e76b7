//! The kernel plane of services on this machine's kernel, with real clients and backends in namespaces.
//!
//! What this machine does not allow is skipped, loudly.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    libc,
    poll::{PollTimeout, poll},
};
use overlay_linux::services::{
    Actual, Kernel, Netfilter, Operation, Reconciler, Vip, compile_all, plan,
};

#[path = "services/net.rs"]
mod net;

use net::{
    BACKENDS, Client, LIMIT, Outcome, Services, ask, datagrams, endpoint, id, nft, one, service,
    skip, v4, v6, with_backends,
};

/// The virtual addresses of most tests: one of each family.
fn both() -> [IpAddr; 2] {
    [v4(100), v6(100)]
}

#[test]
fn flows_spread_by_weight_on_all_ports() {
    with_backends("flows_spread_by_weight_on_all_ports", |reconciler| {
        let services = one(service(&both(), &[(3, 1), (4, 3)]));
        reconciler.apply(&services)?;
        for address in both() {
            let [light, heavy] = if address.is_ipv6() {
                [v6(3), v6(4)]
            } else {
                [v4(3), v4(4)]
            };
            let mut streams = BTreeMap::new();
            for _ in 0..FLOWS {
                let client = Client::connect(address)?;
                *streams.entry(client.backend).or_insert(0_u32) += 1;
            }
            let mut sockets = BTreeMap::new();
            for _ in 0..FLOWS {
                let backend = ask(&datagrams(address)?)?;
                *sockets.entry(backend).or_insert(0_u32) += 1;
            }
            for counts in [streams, sockets] {
                assert_eq!(counts.values().sum::<u32>(), FLOWS);
                // A quarter, up to five standard deviations of as many independent choices.
                let light = counts[&light];
                assert!((57..=143).contains(&light), "{counts:?}");
                assert_eq!(counts[&heavy], FLOWS - light);
            }
            let mut other = Client::connect_port(address, 8_080)?;
            other.echo()?;
        }
        Ok(())
    })
    .unwrap();
}

const FLOWS: u32 = 400;

#[test]
fn a_draining_backend_keeps_its_flows_and_takes_no_new_ones() {
    with_backends("a_draining_backend_keeps_its_flows", |reconciler| {
        let mut services = one(service(&both(), &[(3, 1)]));
        reconciler.apply(&services)?;
        let mut old = Vec::new();
        for address in both() {
            let socket = datagrams(address)?;
            let backend = ask(&socket)?;
            old.push((Client::connect(address)?, socket, backend));
        }
        services = one(service(&both(), &[(3, 1), (4, 1)]));
        change(&mut services, |service| {
            let backend = service.backends.get_mut(&endpoint(3)).unwrap();
            backend.draining = true;
        });
        reconciler.apply(&services)?;
        for (client, socket, backend) in &mut old {
            client.echo()?;
            assert_eq!(ask(socket)?, *backend);
        }
        for address in both() {
            let new = if address.is_ipv6() { v6(4) } else { v4(4) };
            for _ in 0..20 {
                assert_eq!(Client::connect(address)?.backend, new);
                assert_eq!(ask(&datagrams(address)?)?, new);
            }
        }
        // When it has gone, they go.
        services = one(service(&both(), &[(4, 1)]));
        let report = reconciler.apply(&services)?;
        let forgotten = report.operations.iter();
        let forgotten = forgotten.filter(|one| matches!(one, Operation::Forget { .. }));
        assert_eq!(forgotten.count(), 4, "{:?}", report.operations);
        for (client, ..) in &mut old {
            assert_eq!(code(client.echo()), Err(Some(ended(reconciler)?)));
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn whoever_only_waits_for_a_backend_that_is_gone_is_told() {
    with_backends("whoever_only_waits", |reconciler| {
        if !reconciler.kernel().ends_connections()? {
            skip("whoever_only_waits", "no CONFIG_INET_DIAG_DESTROY");
            return Ok(());
        }
        reconciler.apply(&one(service(&both(), &[(3, 1)])))?;
        let guised = "::ffff:10.0.1.100".parse()?;
        let mut waiting = [v4(100), v6(100), guised].map(Client::connect);
        reconciler.apply(&one(service(&both(), &[(4, 1)])))?;
        for client in &mut waiting {
            let begun = now();
            let client = client.as_mut().map_err(|error| error.to_string())?;
            assert_eq!(code(client.wait()), Err(Some(libc::ECONNABORTED)));
            assert!(begun.elapsed() < LIMIT / 2);
        }
        // A connection that is gone but still tracked, and a program that listens where it was: that one is somebody else.
        let mut listeners = Vec::new();
        for address in both() {
            let client = Client::connect(address)?;
            let local = client.local()?;
            client.break_off()?;
            listeners.push(listen(local)?);
        }
        let report = reconciler.apply(&one(service(&both(), &[(5, 1)])))?;
        let forgotten = report.operations.iter();
        let forgotten = forgotten.filter(|one| matches!(one, Operation::Forget { .. }));
        assert_eq!(forgotten.count(), 2, "{:?}", report.operations);
        for listener in listeners {
            TcpStream::connect(listener.local_addr()?)?;
            listener.accept()?;
        }
        Ok(())
    })
    .unwrap();
}

/// Listens where a connection was. A child of another test may still hold it, until it executes its own program.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let begun = now();
    loop {
        match TcpListener::bind(address) {
            Err(error) if begun.elapsed() < LIMIT && error.kind() == io::ErrorKind::AddrInUse => {
                poll(&mut [], PollTimeout::from(10_u8))?;
            }
            bound => return bound,
        }
    }
}

/// As for those whose connections are not this kernel's own: they meet a reset when they send.
#[test]
fn the_flows_of_a_backend_that_is_gone_do_not_hang() {
    with_backends("the_flows_of_a_backend_that_is_gone", |_| {
        let mut reconciler = Reconciler::new(Netfilter::open()?.without_aborts());
        let all: Vec<_> = BACKENDS.map(|number| (number, 1)).into();
        let mut services = one(service(&both(), &all));
        reconciler.apply(&services)?;
        for address in both() {
            let mut clients = Vec::new();
            let mut sockets = Vec::new();
            for _ in 0..40 {
                clients.push(Client::connect(address)?);
                let socket = datagrams(address)?;
                sockets.push((ask(&socket)?, socket));
            }
            let gone = clients[0].backend;
            let number = BACKENDS
                .into_iter()
                .find(|one| [v4(*one), v6(*one)].contains(&gone));
            change(&mut services, |service| {
                service.backends.remove(&endpoint(number.unwrap()));
            });
            let begun = now();
            reconciler.apply(&services)?;
            for client in &mut clients {
                let echoed = code(client.echo());
                if client.backend == gone {
                    assert_eq!(echoed, Err(Some(libc::ECONNRESET)));
                } else {
                    assert_eq!(echoed, Ok(()), "of {}", client.backend);
                }
            }
            // Of UDP the very next datagram goes to one that is there; the others stay where they were.
            for (former, socket) in &sockets {
                let backend = ask(socket)?;
                assert_ne!(backend, gone);
                assert!(*former == gone || backend == *former);
            }
            assert!(begun.elapsed() < LIMIT / 2);
            services = one(service(&both(), &all));
            reconciler.apply(&services)?;
        }
        // Also if nobody answers at the address of the one that is left: they are not led there.
        let mut clients = [Client::connect(v4(100))?, Client::connect(v6(100))?];
        reconciler.apply(&one(service(&both(), &[(99, 1)])))?;
        for client in &mut clients {
            let begun = now();
            assert_eq!(code(client.echo()), Err(Some(libc::ECONNRESET)));
            assert!(begun.elapsed() < LIMIT / 2);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_address_without_a_backend_refuses_at_once() {
    with_backends("an_address_without_a_backend", |reconciler| {
        let mut services = one(service(&both(), &[]));
        // One whose backends are all of the other family is no better.
        let mut other = service(&[v6(101)], &[(3, 1)]);
        for backend in other.backends.values_mut() {
            backend.addresses = vec![v4(3)];
        }
        services.insert(id(2), other);
        reconciler.apply(&services)?;
        for address in [v4(100), v6(100), v6(101)] {
            let begun = now();
            let refused = code(Client::connect(address).map(drop));
            assert_eq!(refused, Err(Some(libc::ECONNREFUSED)), "{address}");
            // The sender is told twice: by the rule that drops its datagram, and by the error that this comes with.
            let socket = datagrams(address)?;
            assert_eq!(code(socket.send(b"who").map(drop)), Err(Some(libc::EPERM)));
            let refused = code(socket.recv(&mut [0]).map(drop));
            assert_eq!(refused, Err(Some(libc::ECONNREFUSED)), "{address}");
            assert!(begun.elapsed() < LIMIT / 2);
        }
        // And serves as soon as there is one, also the socket that was refused.
        let socket = datagrams(v4(100))?;
        assert!(ask(&socket).is_err() && socket.take_error()?.is_some());
        reconciler.apply(&one(service(&both(), &[(5, 1)])))?;
        assert_eq!(ask(&socket)?, v4(5));
        assert_eq!(Client::connect(v6(100))?.backend, v6(5));
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_client_keeps_its_backend_if_that_is_asked_for() {
    with_backends("a_client_keeps_its_backend", |reconciler| {
        let all: Vec<_> = BACKENDS.map(|number| (number, 1)).into();
        let mut services = one(service(&both(), &all));
        change(&mut services, |service| {
            service.config.affinity = Some(Duration::from_secs(60));
        });
        reconciler.apply(&services)?;
        for address in both() {
            let first = Client::connect(address)?.backend;
            for _ in 0..30 {
                assert_eq!(Client::connect(address)?.backend, first);
                assert_eq!(ask(&datagrams(address)?)?, first);
            }
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_backend_serves_itself_and_ordinary_addresses_are_left_alone() {
    with_backends("a_backend_serves_itself", |reconciler| {
        // The client's own address is among the backends.
        let listener = TcpListener::bind((v4(2), 80))?;
        reconciler.apply(&one(service(&[v4(100)], &[(2, 1)])))?;
        let stream = TcpStream::connect((v4(100), 80))?;
        let (_, from) = listener.accept()?;
        assert_eq!(from, stream.local_addr()?);
        for number in BACKENDS {
            assert_eq!(Client::connect(v4(number))?.backend, v4(number));
            assert_eq!(ask(&datagrams(v6(number))?)?, v6(number));
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_is_there_is_found_again_and_not_done_twice() {
    with_backends("what_is_there_is_found_again", |reconciler| {
        let mut services = Services::new();
        for number in 0..20 {
            let addresses = [v4(100 + number), v6(100 + number)];
            let backends: &[(u8, u16)] = match number % 4 {
                0 => &[],
                1 => &[(3, 7)],
                2 => &[(3, 1), (4, 2)],
                _ => &[(3, 1), (4, 2), (5, 300), (6, 1)],
            };
            let mut service = service(&addresses, backends);
            if number % 3 == 0 {
                service.config.affinity = Some(Duration::from_secs(1));
            }
            services.insert(id(number), service);
        }
        let report = reconciler.apply(&services)?;
        assert_eq!(report.operations.len(), 41);
        assert_eq!(reconciler.apply(&services)?.operations, []);
        // Another life, which knows nothing.
        let mut next = Reconciler::new(Netfilter::open()?);
        assert_eq!(next.apply(&services)?.operations, []);
        assert_eq!(Client::connect(v6(101))?.backend, v6(3));
        // And what is not wanted any more goes.
        services.clear();
        // The connection's flow, too.
        assert_eq!(next.apply(&services)?.operations.len(), 41);
        let actual = next.kernel().read()?;
        assert_eq!((actual.sound, actual.vips.len()), (true, 0));
        next.kernel().remove()?;
        assert_eq!(next.kernel().read()?, Actual::default());
        Ok(())
    })
    .unwrap();
}

#[test]
fn whatever_somebody_does_to_the_table_is_repaired_and_counted() {
    let name = "whatever_somebody_does_to_the_table";
    with_backends(name, |reconciler| {
        if nft("--version")?.is_none() {
            skip(name, "nft is not installed");
            return Ok(());
        }
        let mut services = one(service(&both(), &[(3, 1), (4, 1)]));
        services.insert(id(2), service(&[v4(101)], &[]));
        reconciler.apply(&services)?;
        // Somebody else's tables, of the same name in another family among them.
        nft("add table inet other")?;
        nft("add chain inet other output { type filter hook output priority 0 ; }")?;
        nft("add rule inet other output ip daddr 203.0.113.1 drop")?;
        nft("add table ip overlay_services")?;
        nft("add chain ip overlay_services vip_10.0.1.100")?;
        let others = || -> Outcome<_> {
            let one = nft("list table inet other")?;
            Ok((one, nft("list table ip overlay_services")?))
        };
        let before = others()?;
        let lost = "fd000000000000000000000000000064";
        let damages = [
            "delete element inet overlay_services slots_10.0.1.100 { 0 }".to_owned(),
            "delete element inet overlay_services services4 { 10.0.1.100 }".to_owned(),
            "delete element inet overlay_services addresses4 { 10.0.1.101 }".to_owned(),
            "flush chain inet overlay_services vip_10.0.1.100".to_owned(),
            format!("flush map inet overlay_services slots_{lost}"),
            format!("insert rule inet overlay_services vip_{lost} counter drop"),
            "flush chain inet overlay_services output".to_owned(),
            "insert rule inet overlay_services unserved accept".to_owned(),
            "delete chain inet overlay_services unserved_forward".to_owned(),
            "add chain inet overlay_services another".to_owned(),
            "add element inet overlay_services addresses4 { 10.0.1.55 }".to_owned(),
            "add map inet overlay_services slots_10.0.1.56 { type ipv4_addr : ipv4_addr ; }".into(),
            "add table inet overlay_services { flags dormant ; }".to_owned(),
            "delete table inet overlay_services".to_owned(),
        ];
        let mut repairs = 0;
        for damage in &damages {
            nft(damage)?;
            let report = reconciler.apply(&services)?;
            assert!(report.repairs > 0, "{damage}");
            assert_eq!(report.repairs, report.operations.len() as u64, "{damage}");
            repairs += report.repairs;
            assert_eq!(reconciler.apply(&services)?.operations, [], "{damage}");
            for address in both() {
                Client::connect(address)?.echo()?;
            }
            assert!(Client::connect(v4(101)).is_err());
        }
        assert_eq!(reconciler.stats().repairs, repairs);
        assert_eq!(others()?, before);
        // What the tool says of it.
        let text = nft("list table inet overlay_services")?.ok_or("no table")?;
        for line in [
            "type nat hook output priority",
            "ip daddr vmap @services4",
            "ip6 daddr @addresses6 jump refuse",
            "reject with tcp reset",
            "10.0.1.100 : goto vip_10.0.1.100",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_change_is_carried_out_entirely_or_not_at_all() {
    with_backends("a_change_is_carried_out_entirely", |reconciler| {
        let services = one(service(&both(), &[(3, 1), (4, 1)]));
        reconciler.apply(&services)?;
        let before = reconciler.kernel().read()?;
        let mut held = Client::connect(v4(100))?;
        // The last of three is nonsense: an IPv6 backend of an IPv4 address.
        let vip = |backend| Vip {
            by: overlay_linux::services::HashBy::Flow,
            slots: vec![backend],
        };
        let (address, odd) = (v4(100), v4(101));
        let broken = [
            Operation::Make,
            Operation::Put {
                address,
                vip: vip(v4(6)),
            },
            Operation::Put {
                address: odd,
                vip: vip(v6(6)),
            },
        ];
        let refused = reconciler.kernel().commit(&broken).unwrap_err().to_string();
        // And which part of it was refused is said.
        assert!(
            refused.contains("add elements to slots_10.0.1.101"),
            "{refused}"
        );
        assert_eq!(reconciler.kernel().read()?, before);
        held.echo()?;
        assert_ne!(Client::connect(v4(100))?.backend, v4(6));
        Ok(())
    })
    .unwrap();
}

/// The table is changed, and then the daemon dies.
#[test]
fn whoever_was_interrupted_goes_on() {
    with_backends("whoever_was_interrupted_goes_on", |reconciler| {
        let mut services = one(service(&both(), &[(3, 1)]));
        reconciler.apply(&services)?;
        let mut clients = [Client::connect(v4(100))?, Client::connect(v6(100))?];
        services = one(service(&both(), &[(4, 1)]));
        let (wanted, _) = compile_all(&services);
        let mut dying = Netfilter::open()?;
        let operations = plan(&wanted, &dying.read()?);
        dying.commit(&operations)?;
        drop(dying);
        for client in &mut clients {
            client.echo()?;
        }
        let mut next = Reconciler::new(Netfilter::open()?);
        let report = next.apply(&services)?;
        assert_eq!(report.operations.len(), 2, "{:?}", report.operations);
        assert_eq!(next.stats().forgotten, 2);
        for client in &mut clients {
            assert_eq!(code(client.echo()), Err(Some(ended(&mut next)?)));
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn rolling_updates_break_no_connection_to_a_backend_that_stays() {
    with_backends("rolling_updates_break_no_connection", |reconciler| {
        let all: Vec<_> = BACKENDS.map(|number| (number, 1)).into();
        let mut services = one(service(&both(), &all));
        reconciler.apply(&services)?;
        for round in 0..100 {
            let updated = BACKENDS[round % BACKENDS.len()];
            let address = both()[round % 2];
            let mut clients = Vec::new();
            for _ in 0..8 {
                clients.push(Client::connect(address)?);
            }
            // It drains, and when those who have flows at it are done, it is replaced.
            change(&mut services, |service| {
                let backend = service.backends.get_mut(&endpoint(updated)).unwrap();
                backend.draining = true;
            });
            reconciler.apply(&services)?;
            for client in &mut clients {
                client.echo()?;
            }
            clients.retain(|client| ![v4(updated), v6(updated)].contains(&client.backend));
            change(&mut services, |service| {
                service.backends.remove(&endpoint(updated));
            });
            reconciler.apply(&services)?;
            clients.push(Client::connect(address)?);
            services = one(service(&both(), &all));
            reconciler.apply(&services)?;
            for client in &mut clients {
                client.echo()?;
            }
        }
        assert_eq!(reconciler.stats().repairs, 0);
        Ok(())
    })
    .unwrap();
}

/// In a user namespace of an ordinary user.
#[test]
fn an_ordinary_user_can_do_the_same() {
    let name = "an_ordinary_user_can_do_the_same";
    if !nix::unistd::geteuid().is_root() {
        return skip(name, "only root becomes another user");
    }
    let copy = std::env::temp_dir().join(format!("overlay-services-{}", std::process::id()));
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args(["unshare", "--user", "--map-root-user", "--net"])
        .arg(&copy)
        .args(["--skip", "rolling", "--skip", name])
        .current_dir("/")
        .output();
    let _ = std::fs::remove_file(&copy);
    let Ok(output) = output else {
        return skip(name, "no setpriv");
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let skipped = String::from_utf8_lossy(&output.stderr);
    if skipped.starts_with("unshare: ") || skipped.starts_with("setpriv: ") {
        return skip(name, skipped.trim());
    }
    for line in skipped.lines().filter(|line| line.contains("SKIPPED")) {
        skip(name, line);
    }
    assert!(output.status.success(), "{said}\n{skipped}");
    assert!(said.contains("11 passed"), "{said}");
}

fn change(services: &mut Services, change: impl FnOnce(&mut overlay_core::plane::DesiredService)) {
    change(
        services
            .get_mut(&id(1))
            .expect("tests that change it have it"),
    );
}

/// How a connection ends whose flow is forgotten, as its program sends.
fn ended(reconciler: &mut Reconciler<Netfilter>) -> Outcome<i32> {
    let aborted = reconciler.kernel().ends_connections()?;
    Ok(if aborted {
        libc::ECONNABORTED
    } else {
        libc::ECONNRESET
    })
}

fn code(outcome: io::Result<()>) -> Result<(), Option<i32>> {
    outcome.map_err(|error| error.raw_os_error())
}

#[expect(clippy::disallowed_methods, reason = "real programs run in real time")]
fn now() -> Instant {
    Instant::now()
}
