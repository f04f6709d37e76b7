//! Messages as clients and servers write them.

use overlay_dns::wire::{
    Class, Compressor, Edns, Header, Name, Owner, Rcode, RecordType, Section, Writer,
};

use crate::{Seed, seed};

fn name(text: &str) -> Name {
    Name::from_text(text).expect("a good name")
}

fn question(of: &str, kind: RecordType) -> Vec<u8> {
    let mut wire = name(of).as_bytes().to_vec();
    wire.extend(kind.0.to_be_bytes());
    wire.extend(Class::IN.0.to_be_bytes());
    wire
}

fn query(of: &str, kind: RecordType, edns: bool) -> Vec<u8> {
    let (mut out, mut compressor) = (Vec::new(), Compressor::new());
    let mut writer = Writer::new(&mut out, &mut compressor, 512);
    writer.question(&question(of, kind));
    writer.finish(Header::query(7), edns.then(|| Edns::new(1_232, false)));
    out
}

/// A server's answer about `example.com`, which has an alias and records of several kinds.
fn answer(rcode: Rcode, edns: bool) -> Vec<u8> {
    let (mut out, mut compressor) = (Vec::new(), Compressor::new());
    let mut writer = Writer::new(&mut out, &mut compressor, 4_096);
    let (alias, target) = (name("example.com"), name("www.example.com"));
    writer.question(&question("example.com", RecordType::A));
    writer.remember_question();
    let fixed = |kind| (kind, Class::IN, 300);
    let mut put = |section, owner: &Name, kind, data: &dyn Fn(&mut Writer<'_>)| {
        let write = |writer: &mut Writer<'_>| {
            data(writer);
            Ok(())
        };
        let written = writer.record(section, Owner::Name(owner), fixed(kind), write);
        written.expect("there is room");
    };
    let octets = |octets: &'static [u8]| {
        move |writer: &mut Writer<'_>| writer.bytes(octets).expect("there is room")
    };
    if rcode == Rcode(0) {
        put(Section::Answer, &alias, RecordType::CNAME, &|writer| {
            writer.name(&target, true).expect("there is room");
        });
        put(
            Section::Answer,
            &target,
            RecordType::A,
            &octets(&[203, 0, 113, 1]),
        );
        put(
            Section::Answer,
            &target,
            RecordType::AAAA,
            &octets(&[0x20; 16]),
        );
        put(
            Section::Answer,
            &target,
            RecordType::TXT,
            &octets(b"\x04text"),
        );
        put(Section::Answer, &target, RecordType::SRV, &|writer| {
            writer.bytes(&[0, 0, 0, 1, 0, 80]).expect("there is room");
            writer.name(&target, false).expect("there is room");
        });
    }
    put(Section::Authority, &alias, RecordType::SOA, &|writer| {
        writer.name(&target, true).expect("there is room");
        writer.name(&alias, true).expect("there is room");
        writer
            .bytes(&[0, 0, 0, 60].repeat(5))
            .expect("there is room");
    });
    let header = Header::query(7).reply(rcode);
    writer.finish(header, edns.then(|| Edns::new(1_232, true)));
    out
}

fn replies() -> Vec<(String, Vec<u8>)> {
    let mut replies = Vec::new();
    for rcode in [0, 2, 3] {
        for edns in [false, true] {
            replies.push((format!("rcode-{rcode}-{edns}"), answer(Rcode(rcode), edns)));
        }
    }
    replies
}

fn questions() -> Vec<(String, Vec<u8>)> {
    let kinds = [
        ("web", RecordType::A),
        ("WEB.my-net", RecordType::AAAA),
        ("tasks.shop", RecordType::A),
        ("shop", RecordType::TXT),
        ("_http._tcp.web", RecordType::SRV),
        ("2.1.0.10.in-addr.arpa", RecordType::PTR),
        ("nobody.my-net", RecordType::A),
        ("example.com", RecordType::A),
        ("localhost", RecordType(255)),
    ];
    let mut queries = Vec::new();
    for (at, (text, kind)) in kinds.into_iter().enumerate() {
        queries.push((text.to_owned(), query(text, kind, at % 2 == 1)));
    }
    queries
}

pub(crate) fn messages() -> Vec<Seed> {
    let all = questions().into_iter().take(3).chain(replies());
    all.map(|(name, bytes)| seed(name, bytes)).collect()
}

pub(crate) fn queries() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (at, (name, bytes)) in questions().into_iter().enumerate() {
        let flags = u8::try_from(at % 4).expect("below four");
        seeds.push(seed(name, [&[flags], &bytes[..]].concat()));
    }
    seeds
}

pub(crate) fn answers() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let end = 12 + question("example.com", RecordType::A).len();
    for (name, bytes) in replies() {
        // The target puts the question in.
        let without = [&bytes[..12], &bytes[end..]].concat();
        let edns = u8::from(name.ends_with("true"));
        seeds.push(seed(
            format!("{name}-udp"),
            [&[edns], &without[..]].concat(),
        ));
        seeds.push(seed(
            format!("{name}-tcp"),
            [&[2 | edns], &without[..]].concat(),
        ));
    }
    seeds.push(seed("whole", [&[4], &answer(Rcode(0), false)[..]].concat()));
    seeds
}
