//! What is sent, octet by octet, and what the kernel makes of it, in a network namespace of the test's own.

use std::{io::Write, process::Command, thread};

use nix::sched::{self, CloneFlags};
use proptest::prelude::*;

use super::{
    attribute::HEADER_BYTES as ATTRIBUTE_HEADER,
    socket::{refusal, split},
    *,
};

#[cfg(target_endian = "little")]
#[test]
fn a_rule_is_sent_as_these_octets() {
    let rule = Rule::new()
        .source("172.18.0.0/16".parse().unwrap())
        .not_output("gw")
        .masquerades();
    assert_eq!(hex(rule.emit().octets()), MASQUERADE_RULE);
    let rule = Rule::new()
        .output("gw")
        .of_known_connections()
        .ends(Verdict::Accept);
    assert_eq!(hex(rule.emit().octets()), STATE_RULE);
}

/// The attributes one below the other; the octet order of x86-64 and AArch64 in the headers.
#[cfg(target_endian = "little")]
const MASQUERADE_RULE: &str = "\
    34000100 0c000100 7061796c 6f616400 24000200 \
    08000100 00000001 08000200 00000001 08000300 0000000c 08000400 00000004 \
    4c000100 0c000100 62697477 69736500 3c000200 \
    08000100 00000001 08000200 00000001 08000300 00000004 08000600 00000000 \
    0c000400 08000100 ffff0000 0c000500 08000100 00000000 \
    2c000100 08000100 636d7000 20000200 \
    08000100 00000001 08000200 00000000 0c000300 08000100 ac120000 \
    24000100 09000100 6d657461 00000000 14000200 08000200 00000007 08000100 00000001 \
    38000100 08000100 636d7000 2c000200 \
    08000100 00000001 08000200 00000001 18000300 14000100 67770000 00000000 00000000 00000000 \
    14000100 09000100 6d617371 00000000 04000200";

#[cfg(target_endian = "little")]
const STATE_RULE: &str = "\
    24000100 09000100 6d657461 00000000 14000200 08000200 00000007 08000100 00000001 \
    38000100 08000100 636d7000 2c000200 \
    08000100 00000001 08000200 00000000 18000300 14000100 67770000 00000000 00000000 00000000 \
    20000100 07000100 63740000 14000200 08000100 00000001 08000200 00000000 \
    4c000100 0c000100 62697477 69736500 3c000200 \
    08000100 00000001 08000200 00000001 08000300 00000004 08000600 00000000 \
    0c000400 08000100 06000000 0c000500 08000100 00000000 \
    2c000100 08000100 636d7000 20000200 \
    08000100 00000001 08000200 00000001 0c000300 08000100 00000000 \
    30000100 0e000100 696d6d65 64696174 65000000 1c000200 \
    08000100 00000000 10000200 0c000200 08000100 00000001";

#[test]
fn the_kernel_returns_the_very_same_octets() {
    in_a_namespace("the_kernel_returns_the_very_same_octets", || {
        let mut nftables = Nftables::open().unwrap();
        let wanted = example();
        nftables.replace("overlay", &wanted).unwrap();
        assert_eq!(nftables.read("overlay").unwrap(), Some(wanted.clone()));
        let mut sent: Vec<_> = wanted.chains.values().flat_map(|c| &c.rules).collect();
        for answer in nftables.raw_rules("overlay").unwrap() {
            let list = Parsed(&answer).value(table::RULE_EXPRESSIONS).unwrap();
            let rule = sent
                .iter()
                .position(|rule| rule.emit().octets() == list)
                .expect("a rule with these octets");
            sent.remove(rule);
        }
        assert_eq!(sent, Vec::<&Rule>::new());
    });
}

/// Ranges that lie side by side, at both ends of what there is, and what of them somebody takes away.
#[test]
fn ranges_are_read_back_as_they_were_made() {
    in_a_namespace("ranges_are_read_back_as_they_were_made", || {
        let mut nftables = Nftables::open_inet().unwrap();
        let number = |number: u32| Element::Data(number.to_ne_bytes().to_vec());
        let range = |first: [u8; 2], last: [u8; 2]| [first, last].concat();
        let mut wanted = Table::default();
        let elements = BTreeMap::from([
            (range([0, 0], [0, 79]), number(1)),
            (range([0, 80], [0, 80]), number(2)),
            (range([0, 81], [1, 0]), number(1)),
            (range([2, 0], [2, 255]), number(3)),
            (range([3, 0], [255, 255]), number(4)),
        ]);
        let kind = SetKind::PORT_RANGES;
        let set = Set { kind, elements };
        wanted.sets.insert("ports".into(), set.clone());
        nftables.replace("overlay", &wanted).unwrap();
        assert_eq!(nftables.read("overlay").unwrap(), Some(wanted.clone()));
        // One is changed, one goes, one comes, and all in the kernel's own table.
        let mut other = wanted.clone();
        let ports = &mut other.sets.get_mut("ports").unwrap().elements;
        ports.insert(range([0, 80], [0, 80]), number(9));
        ports.remove(&range([3, 0], [255, 255]));
        ports.insert(range([1, 200], [1, 201]), number(5));
        let mut batch = nftables.batch("overlay");
        batch.turn(Some(&wanted), &other);
        nftables.commit(&batch).unwrap();
        assert_eq!(nftables.read("overlay").unwrap(), Some(other.clone()));
        let found = set::collect(kind, vec![(vec![0, 5], false, Element::Present)]);
        assert_eq!(
            found.into_keys().collect::<Vec<_>>(),
            [range([0, 5], [255, 255])]
        );
        assert_ne!(other, wanted);
    });
}

#[test]
fn a_table_is_replaced_as_a_whole_or_not_at_all() {
    in_a_namespace("a_table_is_replaced_as_a_whole_or_not_at_all", || {
        let mut nftables = Nftables::open().unwrap();
        assert_eq!(nftables.read("overlay").unwrap(), None);
        let wanted = example();
        for _ in 0..2 {
            nftables.replace("overlay", &wanted).unwrap();
            assert_eq!(nftables.read("overlay").unwrap(), Some(wanted.clone()));
        }
        let mut broken = Table::default();
        let nowhere = Rule::new().ends(Verdict::Jump("nowhere".into()));
        let chain = Chain {
            hook: None,
            rules: vec![nowhere],
        };
        broken.chains.insert("chain".into(), chain);
        let refused = nftables.replace("overlay", &broken).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::ENOENT as i32));
        assert_eq!(nftables.read("overlay").unwrap(), Some(wanted));
        // Another one's table is none of ours.
        nftables.replace("other", &Table::default()).unwrap();
        for _ in 0..2 {
            nftables.delete("overlay").unwrap();
            assert_eq!(nftables.read("overlay").unwrap(), None);
        }
        assert_eq!(nftables.read("other").unwrap(), Some(Table::default()));
    });
}

/// Whoever changes our table with the usual tool is seen, and the tool understands what we made.
#[test]
fn the_usual_tool_sees_what_was_made_and_its_changes_are_seen() {
    in_a_namespace("the_usual_tool_sees_what_was_made", || {
        let nft = |words: &str| -> Option<String> {
            let output = Command::new("nft").args(words.split(' ')).output().ok()?;
            assert!(output.status.success(), "nft {words}: {output:?}");
            Some(String::from_utf8(output.stdout).unwrap())
        };
        let mut nftables = Nftables::open().unwrap();
        let wanted = example();
        nftables.replace("overlay", &wanted).unwrap();
        let Some(text) = nft("list table ip overlay") else {
            return say("SKIPPED: the_usual_tool_sees_what_was_made: nft is not installed");
        };
        for line in [
            "type filter hook forward priority filter; policy accept;",
            "iifname \"gw\" oifname \"gw\" drop",
            "oifname \"gw\" ct state established,related accept",
            "iifname \"eth0\" jump guard",
            "type nat hook postrouting priority srcnat; policy accept;",
            "ip saddr 172.18.0.0/16 oifname != \"gw\" masquerade",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        for change in [
            "add rule ip overlay forward counter",
            "insert rule ip overlay forward ip daddr 10.0.0.1 drop",
            "insert rule ip overlay forward ct state new accept",
            "add rule ip overlay postrouting masquerade random",
            "add chain ip overlay another",
            "flush chain ip overlay guard",
            "chain ip overlay forward { policy drop; }",
            "add table ip overlay { flags dormant; }",
        ] {
            nft(change);
            let found = nftables.read("overlay").unwrap();
            assert_ne!(found, Some(wanted.clone()), "{change}");
            nftables.replace("overlay", &wanted).unwrap();
            assert_eq!(nftables.read("overlay").unwrap(), Some(wanted.clone()));
        }
    });
}

proptest! {
    #[test]
    fn a_rule_is_heard_as_it_was_said(network: u32, length in 0_u8..=32, name in "[a-z]{1,15}") {
        let subnet = ipnet::Ipv4Net::new(network.into(), length).unwrap();
        let rule = Rule::new()
            .source(subnet)
            .input(&name)
            .not_output(&name)
            .of_known_connections()
            .ends(Verdict::Jump(name.clone()));
        let octets = rule.emit();
        let heard = Rule::parse(Parsed(octets.octets()));
        prop_assert_eq!(heard.source_name(), Some(name));
        prop_assert_eq!(heard, rule);
    }

    #[test]
    fn arbitrary_octets_never_panic(octets: Vec<u8>) {
        let rule = Rule::parse(Parsed(&octets));
        let _ = (rule.target_name(), Hook::parse(Parsed(&octets)));
        let _ = (SetKind::parse(Parsed(&octets)), set::parse_elements(Parsed(&octets)));
        let mut rest = octets.as_slice();
        while let Some((_, _, body, after)) = split(rest) {
            let _ = refusal(body);
            prop_assert!(after.len() + ATTRIBUTE_HEADER < rest.len());
            rest = after;
        }
    }
}

fn example() -> Table {
    let rules = vec![
        Rule::new().input("gw").output("gw").ends(Verdict::Drop),
        Rule::new()
            .output("gw")
            .of_known_connections()
            .ends(Verdict::Accept),
        Rule::new()
            .input("eth0")
            .ends(Verdict::Jump("guard".into())),
    ];
    let forward = Chain {
        hook: Some(Hook::forward()),
        rules,
    };
    let subnet = "172.18.0.1/16".parse().unwrap();
    let masquerade = Rule::new().source(subnet).not_output("gw").masquerades();
    let postrouting = Chain {
        hook: Some(Hook::source_nat()),
        rules: vec![masquerade],
    };
    let guard = Chain {
        hook: None,
        rules: vec![Rule::new().output("eth0").ends(Verdict::Drop)],
    };
    let chains = [
        ("forward", forward),
        ("postrouting", postrouting),
        ("guard", guard),
    ];
    Table {
        sets: BTreeMap::new(),
        flags: 0,
        chains: chains.map(|(name, chain)| (name.to_owned(), chain)).into(),
    }
}

/// Runs in a thread of its own, in a network namespace that ends with it.
fn in_a_namespace(name: &str, test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let run = || match sched::unshare(CloneFlags::CLONE_NEWNET) {
            Err(error) => say(&format!("SKIPPED: {name}: no namespace: {error}")),
            Ok(()) => match Nftables::open().and_then(|mut socket| socket.read("x")) {
                Err(error) => say(&format!("SKIPPED: {name}: no nf_tables: {error}")),
                Ok(_) => test(),
            },
        };
        scope.spawn(run).join().unwrap();
    });
}

fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn hex(octets: &[u8]) -> String {
    let words = octets.chunks(4).map(|word| {
        let digits = word.iter().map(|octet| format!("{octet:02x}"));
        digits.collect::<String>()
    });
    words.collect::<Vec<_>>().join(" ")
}
