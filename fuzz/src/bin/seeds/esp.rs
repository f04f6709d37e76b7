//! Packets to a node with encrypted networks.

use overlay_fuzz::Script;

use crate::{Seed, seed};

/// Octets as they are: from whom.
const AS_IT_IS: u8 = 0;
/// A text that is sealed: two octets of distance, a mask, an octet to put.
const CRAFTED: u8 = 1;
const SENT: u8 = 2;
const AGAIN: u8 = 3;
/// Which one, two octets of place, which bit.
const DAMAGED: u8 = 4;
const KEYS: u8 = 5;

/// Scripts for a sender and a receiver that has its keys.
pub(crate) fn scripts() -> Vec<Seed> {
    let frame = b"\x08\0\0\0\0\x10\x01\0inner frame";
    let sent = |script: Script| script.op(&[SENT]).bytes(frame);
    let keys = |script: Script, choice| script.op(&[KEYS, choice]);
    let plain = sent(sent(Script::new()).op(&[AGAIN, 0])).op(&[DAMAGED, 1, 20, 0, 3]);
    let mut rotated = sent(Script::new());
    for choice in [3, 0, 1, 2, 3] {
        rotated = sent(keys(rotated, choice)).op(&[AGAIN, 0]);
    }
    let mut gone = Script::new();
    for choice in [0x40, 0x80, 0xc0, 0xc1, 0xc0] {
        gone = sent(keys(gone, choice)).op(&[AGAIN, 1]);
    }
    let mut crafted = Script::new();
    for (ahead, mask, octet) in [
        (0x1001_u16, 0, 0),
        (0x1000, 0, 0),
        (0x0f80, 2, 59),
        (0x1002, 2, 4),
        (0x1003, 4, 255),
        (0x1004, 8, 9),
        (0x1005, 16, 9),
        (0x1006, 32, 9),
        (0xffff, 0, 0),
        (0x0900, 0, 0),
        (0x0700, 0, 0),
    ] {
        let [low, high] = ahead.to_le_bytes();
        crafted = crafted.op(&[CRAFTED, low, high, mask, octet]).bytes(frame);
    }
    let text = [1, 2, 2, 17];
    let crafted = sent(crafted.op(&[CRAFTED, 1, 0x10, 1, 0]).bytes(&text));
    let header = [0, 0, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
    let forged = [&header[..], &[7; 20]].concat();
    let raw = [&[0xff][..], &[0; 8], &forged, &header]
        .into_iter()
        .fold(Script::new(), |script, bytes| {
            script.op(&[AS_IT_IS, 1]).bytes(bytes)
        });
    vec![
        seed("sent", plain.done()),
        seed("rotated", rotated.done()),
        seed("gone", gone.done()),
        seed("crafted", crafted.done()),
        seed("raw", raw.done()),
        seed("packet", forged),
    ]
}
