//! Octets captured from memberlist, and octets computed with a standard AES-GCM.

use std::net::SocketAddr;

use overlay_gossip::{
    DecodeError, Keyring,
    wire::{
        Accusation, Ack, Alive, Message, Origin, Packet, PacketCodec, Ping, PushPull, PushPullNode,
        StreamCodec, StreamMessage, StreamReader, Versions,
    },
};
use support::ring;

#[path = "support/aead.rs"]
mod support;

#[test]
fn a_ping_is_memberlists() {
    assert_eq!(hex(&ping().encode()), PING);
    assert_eq!(Message::decode(&bytes(PING)), Ok(ping()));
}

#[test]
fn an_ack_is_memberlists() {
    let ack = Message::Ack(Ack {
        sequence: 301,
        payload: Vec::new(),
    });
    assert_eq!(hex(&ack.encode()), ACK);
    assert_eq!(Message::decode(&bytes(ACK)), Ok(ack));
}

#[test]
fn accusations_with_their_checksum_are_memberlists() {
    let accusation = Accusation {
        incarnation: 1,
        node: "py".into(),
        from: "go1".into(),
    };
    let suspect = Message::Suspect(accusation.clone());
    let dead = Message::Dead(accusation);
    let user = Message::User(b"pq".to_vec());
    for (message, vector) in [(suspect, SUSPECT), (dead, DEAD), (user, USER)] {
        let part = message.encode();
        let packet = packets(b"", None).encode(&[&part], true, NONCE).unwrap();
        assert_eq!(hex(&packet), vector);
        let decoded = packets(b"", None).decode(&bytes(vector)).unwrap();
        assert_eq!(decoded.messages, [message]);
    }
}

#[test]
fn an_ack_that_carries_an_alive_is_memberlists() {
    let ack = Message::Ack(Ack {
        sequence: 300,
        payload: b"rtt".to_vec(),
    });
    let messages = [ack, Message::Alive(go1())];
    let parts: Vec<Vec<u8>> = messages.iter().map(Message::encode).collect();
    let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
    let packet = packets(b"", None).encode(&parts, false, NONCE).unwrap();
    assert_eq!(hex(&packet), COMPOUND);
    let decoded = packets(b"", None).decode(&bytes(COMPOUND)).unwrap();
    assert_eq!(decoded.messages, messages);
}

#[test]
fn a_checksum_over_a_compound_is_memberlists() {
    let py = Alive {
        incarnation: 1,
        node: "py".into(),
        address: "127.0.0.9:17950".parse().unwrap(),
        meta: Vec::new(),
        versions: Versions([1, 5, 2, 0, 0, 0]),
    };
    let messages = [
        Message::Alive(py),
        Message::Alive(go1()),
        Message::User(b"hi".to_vec()),
    ];
    let parts: Vec<Vec<u8>> = messages.iter().map(Message::encode).collect();
    let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
    let packet = packets(b"", None).encode(&parts, true, NONCE).unwrap();
    assert_eq!(hex(&packet), CHECKED_COMPOUND);
    let decoded = packets(b"", None).decode(&bytes(CHECKED_COMPOUND)).unwrap();
    assert_eq!(decoded.messages, messages);
}

#[test]
fn a_push_pull_is_memberlists() {
    let state = StreamMessage::PushPull(PushPull {
        join: true,
        nodes: vec![PushPullNode {
            alive: go1(),
            state: 0,
        }],
        user_state: b"us".to_vec(),
    });
    assert_eq!(hex(&state.encode()), PUSH_PULL);
    let codec = stream(b"", None);
    assert_eq!(read(&codec, true, PUSH_PULL), Ok(Some(state.clone())));
    // Octet by octet, nothing is lost and nothing is read twice.
    let (mut reader, all) = (StreamReader::new(), bytes(PUSH_PULL));
    for (at, octet) in all.iter().enumerate() {
        let message = reader.push(&codec, true, &[*octet]).unwrap();
        assert_eq!(message, (at + 1 == all.len()).then(|| state.clone()));
    }
}

#[test]
fn a_compressed_ack_expands_to_the_ack() {
    let ack = StreamMessage::Ack(Ack {
        sequence: 301,
        payload: Vec::new(),
    });
    assert_eq!(
        read(&stream(b"", None), false, COMPRESSED),
        Ok(Some(ack.clone()))
    );
    let codec = StreamCodec {
        compress: true,
        ..stream(b"", None)
    };
    assert_eq!(
        hex(&codec.encode(&ack, false, NONCE).unwrap()),
        COMPRESSED,
        "our own compression gives the same octets"
    );
}

#[test]
fn sealed_packets_are_those_of_a_standard_aes_gcm() {
    let ring = ring(&KEY);
    for (label, vector) in [(&b""[..], SEALED), (b"lab", SEALED_LABEL)] {
        let codec = packets(label, Some(&ring));
        let sealed = codec.encode(&[&ping().encode()], false, NONCE).unwrap();
        assert_eq!(hex(&sealed), vector);
        assert_eq!(codec.decode(&sealed).unwrap().messages, [ping()]);
    }
    let codec = packets(b"", Some(&ring));
    let padded = codec.decode(&bytes(SEALED_PADDED)).unwrap();
    assert_eq!(padded.messages, [ping()], "version 0 is accepted");
}

#[test]
fn sealed_streams_are_those_of_a_standard_aes_gcm() {
    let ring = ring(&KEY);
    let ack = StreamMessage::Ack(Ack {
        sequence: 301,
        payload: Vec::new(),
    });
    for (label, vector) in [(&b""[..], SEALED_STREAM), (b"lab", SEALED_STREAM_LABEL)] {
        let codec = stream(label, Some(&ring));
        assert_eq!(hex(&codec.encode(&ack, true, NONCE).unwrap()), vector);
        assert_eq!(read(&codec, false, vector), Ok(Some(ack.clone())));
        // The answer has no label in front, but is bound to it.
        let answer = hex(&codec.encode(&ack, false, NONCE).unwrap());
        assert_eq!(vector.strip_suffix(&answer).map(str::len), {
            let head = if label.is_empty() { 0 } else { 5 };
            Some(head * 2)
        });
        assert_eq!(read(&codec, true, &answer), Ok(Some(ack.clone())));
    }
}

#[test]
fn labels_keys_and_checksums_of_others_are_refused() {
    let ring = ring(&KEY);
    let sealed = bytes(SEALED_LABEL);
    assert_eq!(
        packets(b"other", Some(&ring)).decode(&sealed),
        Err(DecodeError::Label)
    );
    assert_eq!(
        packets(b"", Some(&ring)).decode(&sealed),
        Err(DecodeError::Label)
    );
    assert_eq!(
        packets(b"lab", Some(&ring)).decode(&bytes(SEALED)),
        Err(DecodeError::Label)
    );
    let other = support::ring(&[9; 32]);
    assert_eq!(
        packets(b"lab", Some(&other)).decode(&sealed),
        Err(DecodeError::Sealed)
    );
    assert_eq!(
        packets(b"", Some(&ring)).decode(&bytes(PING)),
        Err(DecodeError::Sealed),
        "in the clear"
    );
    let mut damaged = bytes(SUSPECT);
    *damaged.last_mut().unwrap() ^= 1;
    assert!(matches!(
        packets(b"", None).decode(&damaged),
        Err(DecodeError::Checksum { .. })
    ));
}

#[test]
fn a_ring_opens_with_each_of_its_keys() {
    let (mut new, old) = (ring(&[1; 32]), ring(&KEY));
    let sealed = packets(b"", Some(&old))
        .encode(&[&ping().encode()], false, NONCE)
        .unwrap();
    assert_eq!(
        packets(b"", Some(&new)).decode(&sealed),
        Err(DecodeError::Sealed)
    );
    new.install(&KEY).unwrap();
    assert_eq!(
        packets(b"", Some(&new)).decode(&sealed).unwrap().messages,
        [ping()]
    );
    let sealed = packets(b"", Some(&new))
        .encode(&[&ping().encode()], false, NONCE)
        .unwrap();
    assert_eq!(
        packets(b"", Some(&old)).decode(&sealed),
        Err(DecodeError::Sealed),
        "the first key still seals"
    );
    new.make_primary(&KEY).unwrap();
    new.remove(&[1; 32]).unwrap();
    let sealed = packets(b"", Some(&new))
        .encode(&[&ping().encode()], false, NONCE)
        .unwrap();
    assert!(packets(b"", Some(&old)).decode(&sealed).is_ok());
}

#[test]
fn a_cut_compound_gives_what_is_whole() {
    let (first, second) = (ping().encode(), bytes(ACK));
    let mut packet = packets(b"", None)
        .encode(&[&first, &second], false, NONCE)
        .unwrap();
    packet.pop();
    let expected = Packet {
        messages: vec![ping()],
        ignored: 1,
    };
    assert_eq!(packets(b"", None).decode(&packet), Ok(expected));
}

#[test]
fn unknown_types_beside_known_ones_are_ignored() {
    let packet = packets(b"", None)
        .encode(&[&[99, 1, 2], &ping().encode()], false, NONCE)
        .unwrap();
    let decoded = packets(b"", None).decode(&packet).unwrap();
    assert_eq!((decoded.messages, decoded.ignored), (vec![ping()], 1));
    assert_eq!(
        packets(b"", None).decode(&[99, 1, 2]),
        Err(DecodeError::Kind { found: 99 })
    );
}

#[test]
fn both_integer_families_and_both_raw_families_are_read() {
    // {"SeqNo": int16 300, "Node": str8 "b", "Other": [1, {"x": nil}], "SourceAddr": bin8, "SourcePort": int32}
    let mut body = vec![0, 0x85];
    body.extend_from_slice(b"\xa5SeqNo\xd1\x01\x2c\xa4Node\xd9\x01b\xa5Other\x92\x01\x81\xa1x\xc0");
    body.extend_from_slice(
        b"\xaaSourceAddr\xc4\x04\x7f\x00\x00\x01\xaaSourcePort\xd2\x00\x00\x46\x1e",
    );
    let Ok(Message::Ping(ping)) = Message::decode(&body) else {
        panic!("no ping: {:?}", Message::decode(&body));
    };
    assert_eq!((ping.sequence, &*ping.node), (300, "b"));
    assert_eq!(
        ping.origin.unwrap().address,
        "127.0.0.1:17950".parse().unwrap()
    );
    let negative = b"\x00\x81\xa5SeqNo\xff";
    assert_eq!(
        Message::decode(negative),
        Err(DecodeError::Value { field: "SeqNo" })
    );
}

#[test]
fn a_bomb_is_refused() {
    let bomb = Message::User(vec![0; 1_000_000]).encode();
    let codec = PacketCodec {
        compress: true,
        ..packets(b"", None)
    };
    let packet = codec.encode(&[&bomb], false, NONCE).unwrap();
    assert!(packet.len() < 20_000);
    assert_eq!(codec.decode(&packet), Err(DecodeError::Compression));
    let roomy = PacketCodec {
        decompressed_bytes_max: 1_000_001,
        ..codec
    };
    assert_eq!(roomy.decode(&packet).unwrap().messages.len(), 1);
}

fn ping() -> Message {
    Message::Ping(Ping {
        sequence: 1,
        node: "py".into(),
        origin: Some(Origin {
            address: SocketAddr::from(([127, 0, 0, 1], 17_950)),
            node: "go1".into(),
        }),
    })
}

fn go1() -> Alive {
    Alive {
        incarnation: 1,
        node: "go1".into(),
        address: SocketAddr::from(([127, 0, 0, 1], 17_950)),
        meta: b"m1".to_vec(),
        versions: Versions([1, 5, 2, 0, 0, 0]),
    }
}

/// A codec as a cluster with these secrets has it.
fn packets<'a>(label: &'a [u8], keyring: Option<&'a Keyring>) -> PacketCodec<'a> {
    PacketCodec {
        label,
        keyring,
        verify_incoming: true,
        verify_outgoing: true,
        compress: false,
        decompressed_bytes_max: 65_536,
    }
}

fn stream<'a>(label: &'a [u8], keyring: Option<&'a Keyring>) -> StreamCodec<'a> {
    StreamCodec {
        label,
        keyring,
        verify_incoming: true,
        verify_outgoing: true,
        compress: false,
        stream_bytes_max: 1 << 20,
    }
}

fn read(
    codec: &StreamCodec<'_>,
    dialled: bool,
    vector: &str,
) -> Result<Option<StreamMessage>, DecodeError> {
    StreamReader::new().push(codec, dialled, &bytes(vector))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(&String::from_utf8_lossy(pair), 16).expect("two digits"))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|octet| format!("{octet:02x}")).collect()
}

const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const NONCE: [u8; 12] = [
    0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b,
];
const PING: &str = "\
    0085a44e6f6465a27079a55365714e6f01aa536f7572636541646472a47f000001aa536f757263654e6f6465a3676f31\
    aa536f75726365506f7274cd461e";
const ACK: &str = "0282a75061796c6f6164c0a55365714e6fcd012d";
const SUSPECT: &str = "0c7eac6abb0383a446726f6da3676f31ab496e6361726e6174696f6e01a44e6f6465a27079";
const DEAD: &str = "0c37e37d840583a446726f6da3676f31ab496e6361726e6174696f6e01a44e6f6465a27079";
const USER: &str = "0cf96fb0f6087071";
const COMPOUND: &str = "\
    07020017003d0282a75061796c6f6164a3727474a55365714e6fcd012c0486a441646472a47f000001ab496e6361726e\
    6174696f6e01a44d657461a26d31a44e6f6465a3676f31a4506f7274cd461ea356736ea6010502000000";
const CHECKED_COMPOUND: &str = "\
    0c36fb38790703003a003d00030486a441646472a47f000009ab496e6361726e6174696f6e01a44d657461c0a44e6f64\
    65a27079a4506f7274cd461ea356736ea60105020000000486a441646472a47f000001ab496e6361726e6174696f6e01\
    a44d657461a26d31a44e6f6465a3676f31a4506f7274cd461ea356736ea6010502000000086869";
const PUSH_PULL: &str = "\
    0683a44a6f696ec3a54e6f64657301ac5573657253746174654c656e0287a441646472a47f000001ab496e6361726e61\
    74696f6e01a44d657461a26d31a44e616d65a3676f31a4506f7274cd461ea5537461746500a356736ea6010502000000\
    7573";
const COMPRESSED: &str =
    "0982a4416c676f00a3427566b90005083a05254c1e366fc29001566a4a99384ede340bd02220";
const SEALED: &str = "\
    01101112131415161718191a1bc4aba7e1602bd34d67a4f8a6a256a5513b1627e8438608dac4af4d63c37a11add37372\
    50f4d49879adcfb1ad79b73e2a23eb9e5e8ba0deb80467597bc18ef7846c4aedc718e45802084d0e711c6a";
const SEALED_LABEL: &str = "\
    f4036c616201101112131415161718191a1bc4aba7e1602bd34d67a4f8a6a256a5513b1627e8438608dac4af4d63c37a\
    11add3737250f4d49879adcfb1ad79b73e2a23eb9e5e8ba0deb80467597bc18e31bb839d18b793d94a0e8c27bdccc2ab";
const SEALED_PADDED: &str = "\
    00101112131415161718191a1bc4aba7e1602bd34d67a4f8a6a256a5513b1627e8438608dac4af4d63c37a11add37372\
    50f4d49879adcfb1ad79b73e2a23eb9e5e8ba0deb80467597bc18e449a98a6324a2ae90c7be65a707e4f6b05ac";
const SEALED_STREAM: &str = "\
    0a0000003101101112131415161718191a1bc6aca4ff6e36da8076b99d5094429a70557175aa9f23c8f2f8f58a177437\
    cb5c650c8044";
const SEALED_STREAM_LABEL: &str = "\
    f4036c61620a0000003101101112131415161718191a1bc6aca4ff6e36da8076b99d5094429a70557175aa3f6099043a\
    9168b33564dd2136c67bf4";
