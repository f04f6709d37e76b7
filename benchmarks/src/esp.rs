//! What encryption takes: frames that are sealed and opened in place, beside the bare cipher with the same keys and lengths.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use overlay_core::Seed;
use overlay_node::identity::cipher::Ciphers;
use overlay_vxlan::{
    Frame, Outer,
    esp::{Associations, Config, PeerKeys, SaKeys, overhead_bytes},
    wire::{esp::Spi, vxlan},
};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::{clock::cpu, heap};

/// An inner packet of 1,400 octets, its Ethernet header and a VXLAN header.
const PLAIN_BYTES: usize = 1_400 + 14 + 8;
const PEERS: u8 = 64;
/// Batches of a packet to each peer in a round: ours and bare ones in turn.
const BATCHES: usize = 500;
/// What ESP has authenticated beside the text.
const ASSOCIATED: [u8; 12] = [7; 12];

pub fn run(rounds: usize) {
    println!(
        "CPU time of a packet, the best and the median of {rounds} rounds; inner packets of 1,400 octets, {PEERS} peers in turn"
    );
    for (name, key_bytes) in [("AES-128-GCM", 16), ("AES-256-GCM", 32)] {
        let mut bare = Bare::new(key_bytes);
        let mut ours = Ours::new(key_bytes);
        let mut seen = [const { Vec::new() }; 4];
        let mut ratios = Vec::new();
        let mut asked = 0;
        for round in 0..=rounds {
            let mut times = [Duration::ZERO; 4];
            let before = heap::asked();
            for _ in 0..BATCHES {
                let [bare_seal, bare_open, our_seal, our_open] = &mut times;
                *bare_seal += cpu(|| bare.seal()).1;
                *bare_open += cpu(|| bare.open()).1;
                *our_seal += cpu(|| ours.seal()).1;
                *our_open += cpu(|| ours.open()).1;
            }
            let grown = heap::asked() - before;
            // The first round fills caches and buffers.
            if round == 0 {
                continue;
            }
            asked += grown;
            let count = (BATCHES * usize::from(PEERS)) as f64;
            let each = times.map(|time| time.as_nanos() as f64 / count);
            ratios.push((each[2] + each[3]) / (each[0] + each[1]));
            for (seen, each) in seen.iter_mut().zip(each) {
                seen.push(each);
            }
        }
        println!("{name}");
        let whats = [
            "bare cipher, seal",
            "bare cipher, open",
            "ESP, seal",
            "ESP, open",
        ];
        for (what, seen) in whats.into_iter().zip(&mut seen) {
            let (best, median) = best_and_median(seen);
            println!(
                "{:<56} {best:>12.1} ns {median:>12.1} ns",
                format!("  {what}")
            );
        }
        let (best, median) = best_and_median(&mut ratios);
        println!(
            "{:<56} {best:>14.3}x {median:>14.3}x",
            "  ESP, in bare ciphers"
        );
        println!("{:<56} {asked:>12}", "  allocations");
    }
}

fn best_and_median(seen: &mut [f64]) -> (f64, f64) {
    seen.sort_by(f64::total_cmp);
    (seen[0], seen[seen.len() / 2])
}

fn key(peer: u8, key_bytes: usize) -> Vec<u8> {
    vec![peer; key_bytes]
}

fn address(peer: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, peer).into()
}

/// The cipher on texts of the same length, and nothing else.
struct Bare {
    keys: Vec<LessSafeKey>,
    texts: Vec<Vec<u8>>,
    sequence: u64,
}

impl Bare {
    fn new(key_bytes: usize) -> Self {
        let algorithm = match key_bytes {
            16 => &AES_128_GCM,
            _ => &AES_256_GCM,
        };
        let keys = (0..PEERS).map(|peer| {
            let key = UnboundKey::new(algorithm, &key(peer, key_bytes)).expect("the length fits");
            LessSafeKey::new(key)
        });
        // What is encrypted of a packet, and room for the tag.
        let text_bytes = PLAIN_BYTES + overhead_bytes(PLAIN_BYTES) - 16;
        Self {
            keys: keys.collect(),
            texts: vec![vec![7; text_bytes]; PEERS.into()],
            sequence: 0,
        }
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = [7; 12];
        nonce[4..].copy_from_slice(&self.sequence.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self) {
        self.sequence += 1;
        for at in 0..self.keys.len() {
            let nonce = self.nonce();
            let packet = black_box(&mut self.texts[at][..]);
            let (text, place) = packet.split_last_chunk_mut::<16>().expect("room for a tag");
            let sealed =
                self.keys[at].seal_in_place_separate_tag(nonce, Aad::from(ASSOCIATED), text);
            place.copy_from_slice(sealed.expect("a short text").as_ref());
        }
    }

    fn open(&mut self) {
        for at in 0..self.keys.len() {
            let nonce = self.nonce();
            let packet = black_box(&mut self.texts[at][..]);
            let opened = self.keys[at].open_in_place(nonce, Aad::from(ASSOCIATED), packet);
            black_box(opened.expect("it was sealed"));
        }
    }
}

/// What a node does that sends, and one that receives.
struct Ours {
    sender: Associations,
    receiver: Associations,
    frames: Vec<Frame>,
}

impl Ours {
    fn new(key_bytes: usize) -> Self {
        let node = |first: bool| {
            let seed = Seed::from_u64(first.into());
            let mut node = Associations::new(Config::default(), Arc::new(Ciphers), &seed);
            for peer in 0..PEERS {
                let forth = (0x1000 + u32::from(peer), key(peer, key_bytes));
                let back = (0x2000 + u32::from(peer), key(0x80 | peer, key_bytes));
                let [outbound, inbound] = if first { [forth, back] } else { [back, forth] };
                let keys = |(spi, key): (u32, Vec<u8>)| {
                    SaKeys::new(Spi(spi), &key, [7; 4]).expect("good keys")
                };
                let keys = PeerKeys {
                    outbound: keys(outbound),
                    inbound: vec![keys(inbound)],
                };
                node.set_peer(address(peer), &keys).expect("room");
            }
            node
        };
        // The VXLAN header is within the headroom of the inner frame.
        let headroom = Frame::HEADROOM - vxlan::HEADER_BYTES;
        let frame = Frame::with_headroom(headroom, &[7; PLAIN_BYTES]);
        Self {
            sender: node(true),
            receiver: node(false),
            frames: vec![frame; PEERS.into()],
        }
    }

    fn seal(&mut self) {
        let outer = Outer {
            source_port: 50_000,
            traffic_class: 0,
        };
        for (peer, frame) in (0..).zip(&mut self.frames) {
            let sealed = self.sender.seal(address(peer), outer, black_box(frame));
            sealed.expect("an association");
        }
    }

    fn open(&mut self) {
        for (peer, frame) in (0..).zip(&mut self.frames) {
            let opened = self.receiver.open(address(peer), black_box(frame));
            black_box(opened.expect("it was sealed"));
            debug_assert_eq!(frame.len(), PLAIN_BYTES);
        }
    }
}
