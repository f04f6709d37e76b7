//! Programs that people use, against a resolver that runs: what they make of its answers.
//!
//! A program that is not there is passed over, and says so.
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers here are test code as well"
)]

#[cfg(test)]
mod support;

use std::{
    env, fs,
    io::{ErrorKind, Write},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use overlay_dns::{
    Port,
    driver::{SocketsConfig, bind_shared},
};
use support::{running::*, *};

/// Where the resolver is that `/etc/resolv.conf` names inside.
const INSIDE: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 11)),
    53,
);

fn bench() -> Bench {
    let mut bench = crowd();
    let mut shop = records(&["shop"], &["10.0.1.50", "fd00:1::50"]);
    shop.texts = vec![b"open".to_vec()];
    shop.ports = vec![Port {
        name: "http".into(),
        protocol: "tcp".into(),
        number: 80,
        ..Port::default()
    }];
    bench.records(MY_NET, 50, shop);
    bench
}

/// What a program wrote; none if there is no such program.
async fn run(program: &'static str, arguments: Vec<String>) -> Option<String> {
    let asked = tokio::task::spawn_blocking(move || {
        let output = Command::new(program).args(&arguments).output();
        match output {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                Some(text + &String::from_utf8_lossy(&output.stderr))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                skipped(&format!("{program} is not installed"));
                None
            }
            Err(error) => panic!("{program}: {error}"),
        }
    });
    asked.await.unwrap()
}

/// Says so even where the output of tests that pass is kept back.
fn skipped(reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn addresses(text: &str) -> usize {
    text.lines().filter(|line| line.contains("10.0.3.")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_understands_our_answers() {
    let running = serve(bench().resolver, SocketsConfig::default());
    let port = running.udp.port();
    for (arguments, expected) in [
        ("web A", &["10.0.1.2", "EDNS: version: 0"][..]),
        ("WeB.My-Net A +noedns", &["WeB.My-Net.", "10.0.1.2"]),
        ("web AAAA", &["NOERROR", "ANSWER: 0", "SOA"]),
        ("nobody.my-net A", &["NXDOMAIN", "SOA"]),
        ("-x 10.0.1.2 +short", &["web.my-net."]),
        ("-x fd00:1::50 +short", &["shop.my-net."]),
        ("web TXT +tcp", &["NOERROR", "(TCP)"]),
        ("shop TXT +short", &["\"open\""]),
        (
            "_http._tcp.shop SRV",
            &["0 0 80 shop.my-net.", "10.0.1.50", "fd00:1::50"],
        ),
        ("shop ANY", &["ANSWER: 1"]),
        ("shop A +ednsopt=10:0123456789abcdef +nsid", &["10.0.1.50"]),
        ("shop A +edns=1 +noednsneg", &["BADVERS"]),
        ("shop CH TXT", &["REFUSED"]),
        ("+opcode=4 shop", &["NOTIMP"]),
    ] {
        let to = format!("@127.0.0.1 -p {port} +tries=1 +time=5 {arguments}");
        let Some(text) = run("dig", words(&to)).await else {
            return;
        };
        assert!(!text.contains("WARNING"), "{text}");
        for part in expected {
            assert!(text.contains(part), "no {part} in: {text}");
        }
    }
    let all = format!("@127.0.0.1 -p {port} +tries=1 +time=5 crowd A +short");
    let text = run("dig", words(&all)).await.unwrap();
    assert_eq!(addresses(&text), 200, "after TC over TCP: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drill_understands_our_answers() {
    let running = serve(bench().resolver, SocketsConfig::default());
    let port = running.udp.port();
    for (arguments, expected) in [
        ("web A", &["rcode: NOERROR", "10.0.1.2"][..]),
        ("-t shop AAAA", &["fd00:1::50"]),
        ("web MX", &["rcode: NOERROR", "ANSWER: 0", "SOA"]),
        ("nobody.my-net A", &["rcode: NXDOMAIN", "SOA"]),
        ("-x 10.0.1.2", &["web.my-net."]),
        ("_http._tcp.shop SRV", &["shop.my-net.", "10.0.1.50"]),
    ] {
        // Options first, then name, server, type.
        let (options, rest) = match arguments.strip_prefix("-t ") {
            Some(rest) => ("-t", rest),
            None => ("", arguments),
        };
        let line = format!("-p {port} {options} {rest} @127.0.0.1");
        let Some(text) = run("drill", words(&line)).await else {
            return;
        };
        for part in expected {
            assert!(text.contains(part), "no {part} in: {text}");
        }
    }
    let text = run("drill", words(&format!("-p {port} -t crowd A @127.0.0.1"))).await;
    assert_eq!(addresses(&text.unwrap()), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kdig_understands_our_answers_over_tcp() {
    let running = serve(bench().resolver, SocketsConfig::default());
    let to = format!("@127.0.0.1 -p {} +tcp +keepopen", running.tcp.port());
    // One connection for all three.
    let line = format!("{to} crowd A shop AAAA nobody.my-net A");
    let Some(text) = run("kdig", words(&line)).await else {
        return;
    };
    assert_eq!(addresses(&text), 200, "{text}");
    assert!(
        text.contains("fd00:1::50") && text.contains("NXDOMAIN"),
        "{text}"
    );
    assert!(
        text.contains("(TCP)") && !text.contains("WARNING"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dnsperf_loses_nothing() {
    let running = serve(bench().resolver, SocketsConfig::default());
    let file = scratch("queries");
    let queries = "web A\nshop AAAA\nweb AAAA\ntasks.nobody.my-net A\n_http._tcp.shop SRV\n";
    fs::write(&file, queries).unwrap();
    for mode in ["udp", "tcp"] {
        let port = running.udp.port();
        let path = file.display();
        let line = format!("-s 127.0.0.1 -p {port} -m {mode} -d {path} -n 400 -c 4 -t 20");
        let Some(text) = run("dnsperf", words(&line)).await else {
            break;
        };
        for part in [
            "Queries completed:    2000 (100.00%)",
            "Queries lost:         0 (0.00%)",
            "NOERROR 1600 (80.00%), NXDOMAIN 400 (20.00%)",
        ] {
            assert!(text.contains(part), "{mode}: no {part} in: {text}");
        }
    }
    fs::remove_file(file).unwrap();
}

/// Runs [`inside`] where `/etc/resolv.conf` may name a resolver of ours: in a network and mount namespace of its own.
#[test]
fn the_libraries_of_programs_understand_our_answers() {
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "inside", "--ignored", "--nocapture"])
        .env("OVERLAY_DNS_INSIDE", "1")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(_) if !namespaces() => skipped("namespaces are not allowed here"),
        Ok(status) => panic!("inside: {status}"),
        Err(error) => skipped(&format!("unshare: {error}")),
    }
}

fn namespaces() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["--user", "--map-root-user", "--net", "--mount", "true"]);
    probe.status().is_ok_and(|status| status.success())
}

/// Not by itself: [`the_libraries_of_programs_understand_our_answers`] runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs in namespaces that another test makes"]
async fn inside() {
    assert!(env::var_os("OVERLAY_DNS_INSIDE").is_some(), "not inside");
    let conf = scratch("resolv.conf");
    fs::write(
        &conf,
        format!("nameserver {}\noptions ndots:0\n", INSIDE.ip()),
    )
    .unwrap();
    // Addresses beside the loopback ones, or `getent` thinks that the host has no use for any.
    for line in [
        "link set lo up",
        "address add 192.0.2.1/32 dev lo",
        "address add 2001:db8::1/128 dev lo",
    ] {
        let Some(said) = run("ip", words(line)).await else {
            return;
        };
        assert_eq!(said, "", "{line}");
    }
    let mount = format!("--bind {} /etc/resolv.conf", conf.display());
    let mounted = run("mount", words(&mount)).await;
    assert_eq!(mounted.as_deref(), Some(""), "resolv.conf is ours");
    let sockets = bind_shared(INSIDE).unwrap();
    let _running = serve_at(bench().resolver, SocketsConfig::default(), sockets);
    glibc().await;
    musl().await;
    fs::remove_file(conf).unwrap();
}

async fn glibc() {
    let getent = |line: &'static str| run("getent", words(line));
    let Some(web) = getent("ahosts web").await else {
        return;
    };
    assert!(web.contains("10.0.1.2") && web.contains("STREAM"), "{web}");
    let shop = getent("ahosts shop").await.unwrap();
    assert!(
        shop.contains("10.0.1.50") && shop.contains("fd00:1::50"),
        "{shop}"
    );
    // Without an IPv6 address: an empty answer, not a failure (RFC 4074 §3).
    let six = getent("ahostsv6 web").await.unwrap();
    assert!(!six.contains("fd00"), "{six}");
    // More than fits into a datagram: glibc asks again over TCP.
    let all = getent("ahostsv4 crowd").await.unwrap();
    let streams = all.lines().filter(|line| line.contains("STREAM")).count();
    assert_eq!(streams, 200, "{all}");
    let names = getent("hosts 10.0.1.2").await.unwrap();
    assert!(names.contains("web.my-net"), "{names}");
    assert_eq!(getent("hosts nobody.my-net").await.unwrap(), "");
}

/// A static program with musl asks A and AAAA at once and fails altogether if one of both is denied.
async fn musl() {
    let (source, program) = (scratch("lookup.c"), scratch("lookup"));
    fs::write(&source, LOOKUP).unwrap();
    let line = format!("-static -o {} {}", program.display(), source.display());
    let Some(said) = run("musl-gcc", words(&line)).await else {
        return;
    };
    assert_eq!(said, "", "the compiler has nothing to say");
    for (name, expected) in [
        ("web", "10.0.1.2\n"),
        ("WEB.my-net", "10.0.1.2\n"),
        ("shop", "10.0.1.50\nfd00:1::50\n"),
        ("nobody.my-net", "-2\n"), // EAI_NONAME
    ] {
        assert_eq!(execute(&program, name), expected, "{name}");
    }
    fs::remove_file(source).unwrap();
    fs::remove_file(program).unwrap();
}

fn execute(program: &Path, name: &str) -> String {
    let output = Command::new(program).arg0("lookup").arg(name).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let mut lines: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
    lines.sort_unstable();
    lines.concat()
}

/// A file of this process's own.
fn scratch(name: &str) -> PathBuf {
    env::temp_dir().join(format!("overlay-dns-{}-{name}", std::process::id()))
}

const LOOKUP: &str = r#"
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>

int main(int argc, char **argv) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
    int error = getaddrinfo(argv[argc - 1], "80", &hints, &found);
    if (error)
        return printf("%d\n", error), 1;
    for (; found; found = found->ai_next) {
        char text[64];
        void *at = found->ai_family == AF_INET
            ? (void *)&((struct sockaddr_in *)found->ai_addr)->sin_addr
            : (void *)&((struct sockaddr_in6 *)found->ai_addr)->sin6_addr;
        puts(inet_ntop(found->ai_family, at, text, sizeof text));
    }
}
"#;
