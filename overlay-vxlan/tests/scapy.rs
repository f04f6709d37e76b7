//! Our packets against those of another author: scapy's ESP opens what we seal, and we open what it seals.
//!
//! Needs `python3` with scapy and cryptography (Debian: python3-scapy); without them it says so and passes.

#![allow(
    clippy::cast_possible_truncation,
    reason = "octets and halves of numbers are what is meant"
)]

mod cipher;

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use cipher::Ring;
use overlay_core::{Rng, Seed};
use overlay_vxlan::{
    Frame,
    esp::{Inbound, Outbound, SaKeys},
    wire::{esp::Spi, vxlan},
};

struct Scapy {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Scapy {
    /// `None` where there is none.
    fn start() -> Option<Self> {
        let has_scapy = |python: &&str| {
            Command::new(python)
                .args(["-c", "import scapy.layers.ipsec, cryptography"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        let python = ["python3", "/usr/bin/python3"]
            .into_iter()
            .find(has_scapy)?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scapy/esp.py");
        let mut process = Command::new(python)
            .args(["-W", "ignore", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it ran just now");
        let input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        Some(Self {
            process,
            input,
            output,
        })
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").expect("it listens");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("it answers");
        assert!(!answer.is_empty(), "the script ended early");
        answer.trim().to_owned()
    }
}

impl Drop for Scapy {
    fn drop(&mut self) {
        // One that still runs at the end of a test is not needed any more.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn octets(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}

fn random(rng: &mut Rng, length: usize) -> Vec<u8> {
    (0..length).map(|_| rng.next_u64() as u8).collect()
}

/// One association and one packet of it, and the fields of a line that name them.
struct Case {
    keys: SaKeys,
    sequence: u64,
    source_port: u16,
    plain: Vec<u8>,
    fields: String,
}

impl Case {
    fn draw(rng: &mut Rng, number: usize) -> Self {
        let key = random(rng, [16, 32][number % 2]);
        let salt: [u8; 4] = random(rng, 4).try_into().expect("4 octets");
        let spi = Spi(256 + rng.below(1 << 31) as u32);
        let sequence = match number % 5 {
            0 => 1 + rng.below(1_000),
            1 => (1 << 32) - 1 - rng.below(3),
            2 => (1 << 32) + 1 + rng.below(1_000),
            3 => u64::MAX - rng.below(3),
            _ => rng.next_u64() | 1,
        };
        let length = [8, 22, 23, 24, 25, 1_422, 9_000][number % 7] + rng.below(4) as usize;
        let fields = format!("{} {} {:08x} {sequence:016x}", hex(&key), hex(&salt), spi.0);
        Self {
            keys: SaKeys::new(spi, &key, salt).expect("good keys"),
            sequence,
            source_port: rng.below(65_536) as u16,
            plain: random(rng, length),
            fields,
        }
    }
}

#[test]
fn scapy_opens_what_we_seal_and_seals_what_we_open() {
    let Some(mut scapy) = Scapy::start() else {
        eprintln!(
            "SKIPPED: no python3 with scapy and cryptography, so nobody else has looked at our packets"
        );
        return;
    };
    let mut rng = Seed::from_u64(1).rng();
    for number in 0..105 {
        let case = Case::draw(&mut rng, number);
        let fields = &case.fields;
        let mut outbound = Outbound::resume(&case.keys, &Ring, case.sequence - 1).unwrap();
        let mut frame = Frame::with_headroom(Frame::HEADROOM, &case.plain);
        outbound
            .seal(case.source_port, vxlan::UDP_PORT, &mut frame)
            .unwrap();
        // Ours there.
        let opened = scapy.ask(&format!("open {fields} {}", hex(frame.bytes())));
        let length = u16::try_from(case.plain.len() + 8).unwrap();
        let header = [case.source_port, vxlan::UDP_PORT, length, 0].map(u16::to_be_bytes);
        let datagram = [&header.concat()[..], &case.plain].concat();
        assert_eq!(opened, hex(&datagram), "{fields}");
        // Theirs here, octet by octet the same.
        let sealed = scapy.ask(&format!(
            "seal {fields} {:04x} {:04x} {}",
            case.source_port,
            vxlan::UDP_PORT,
            hex(&case.plain)
        ));
        assert_eq!(octets(&sealed), frame.bytes(), "{fields}");
        let mut theirs = Frame::with_headroom(0, &octets(&sealed));
        let mut inbound = Inbound::resume(&case.keys, &Ring, case.sequence - 1).unwrap();
        let opened = inbound.open(vxlan::UDP_PORT, &mut theirs).unwrap();
        assert_eq!(
            (opened.source_port, opened.sequence, theirs.bytes()),
            (case.source_port, case.sequence, &case.plain[..])
        );
        // The upper half of the sequence number is not in the packet, but authenticated.
        if number % 20 == 0 {
            let (before, sequence) = fields.rsplit_once(' ').unwrap();
            let other = u64::from_str_radix(sequence, 16).unwrap() ^ 1 << 32;
            let answer = scapy.ask(&format!(
                "open {before} {other:016x} {}",
                hex(frame.bytes())
            ));
            assert!(answer.starts_with("refused"), "{answer}");
        }
    }
}
