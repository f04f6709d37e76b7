use overlay_core::aead::{Aead, AeadError, NONCE_BYTES, TAG_BYTES};

use super::{
    super::crc::crc32c,
    record::{APPEND, CUT, Frame, UNSYNCED_UNKNOWN},
    *,
};

#[test]
fn a_record_is_bound_to_its_file_and_its_place() {
    let (record, _) = sealed(96, 0, APPEND, b"text");
    let mut frame = Frame::parse(96, &record).unwrap();
    let mut text = b"before ".to_vec();
    frame.open(&key(1), &mut text).unwrap();
    assert_eq!(text, b"before text");
    assert_eq!(frame.length(), record.len());
    assert!(frame.open(&key(2), &mut text).is_err(), "of another file");
    assert!(Frame::parse(97, &record).is_err());
    frame.place.position += 1;
    assert!(frame.open(&key(1), &mut text).is_err(), "at another place");
    assert_eq!(text, b"before text");
}

#[test]
fn what_was_durable_is_claimed_and_no_more() {
    let durable = |position, unsynced| {
        let (record, _) = sealed(position, unsynced, APPEND, b"");
        Frame::parse(position, &record).unwrap().durable()
    };
    assert_eq!(durable(1_000, 0), 1_000);
    assert_eq!(durable(1_000, 300), 700);
    assert_eq!(durable(1_000, 2_000), 0);
    assert_eq!(
        durable(1 << 40, UNSYNCED_UNKNOWN - 1),
        (1 << 40) - 0xffff_fffe
    );
    assert_eq!(durable(1 << 40, UNSYNCED_UNKNOWN), 0);
}

/// They are authentic, so they are no torn tails, even at the end of a file.
#[test]
fn records_that_make_no_sense_are_refused() {
    for (kind, text, expected) in [
        (3, &b"text"[..], "a later release wrote a record"),
        (CUT, &[0; 7], "a truncation makes the file longer"),
        (
            CUT,
            &5_u64.to_le_bytes(),
            "a truncation makes the file longer",
        ),
        (
            CUT,
            &u64::MAX.to_le_bytes(),
            "a truncation makes the file longer",
        ),
    ] {
        let (first, link) = sealed(96, 0, APPEND, b"text");
        let place = Place {
            position: 96 + octets(first.len()),
            unsynced: 0,
            link,
        };
        let (second, _) = record::seal(&key(1), place, kind, [0; NONCE_BYTES], text).unwrap();
        let file = [&[0; HEADER_BYTES][..], &first, &second].concat();
        let error = Content::read("a", &key(1), &file).err();
        let damaged = DiskError::Damaged {
            name: "a".to_owned(),
            offset: place.position,
            reason: expected,
        };
        assert_eq!(error, Some(damaged));
    }
}

fn sealed(position: u64, unsynced: u32, kind: u8, text: &[u8]) -> (Vec<u8>, Link) {
    let place = Place {
        position,
        unsynced,
        link: [1; 8],
    };
    record::seal(&key(1), place, kind, [9; NONCE_BYTES], text).unwrap()
}

fn key(file: u8) -> FileKey {
    FileKey {
        cipher: Box::new(Checked),
        file: [file; 16],
    }
}

/// Not a cipher: its tag is a checksum over everything that a tag covers.
#[derive(Debug)]
struct Checked;

impl Checked {
    fn tag(nonce: [u8; NONCE_BYTES], associated: &[u8], text: &[u8]) -> [u8; TAG_BYTES] {
        let sum = crc32c(crc32c(crc32c(0, &nonce), associated), text);
        let mut tag = [7; TAG_BYTES];
        tag[..4].copy_from_slice(&sum.to_le_bytes());
        tag
    }
}

impl Aead for Checked {
    fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), AeadError> {
        let tag = Self::tag(nonce, associated, &buffer[from..]);
        buffer.extend(tag);
        Ok(())
    }

    fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), AeadError> {
        let tag = buffer.split_off(buffer.len() - TAG_BYTES);
        let expected = Self::tag(nonce, associated, &buffer[from..]);
        (tag == expected)
            .then_some(())
            .ok_or(AeadError::Unauthentic)
    }
}
