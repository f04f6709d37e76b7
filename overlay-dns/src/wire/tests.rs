use super::*;

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

/// A message that is nothing but a header and these octets.
fn after_header(octets: &[u8]) -> Vec<u8> {
    [&[0; HEADER_BYTES][..], octets].concat()
}

#[test]
fn a_name_has_labels_of_1_to_63_octets_and_255_in_all() {
    let label = "x".repeat(63);
    assert!(Name::from_text(&label).is_ok());
    let found = ParseNameError::Label { found: 64 };
    assert_eq!(Name::from_text(&"x".repeat(64)), Err(found));
    assert_eq!(Name::from_text(""), Err(ParseNameError::Label { found: 0 }));
    // 3 * 64 + 62 = 254, and the root's octet.
    let longest = format!("{label}.{label}.{label}.{}", "x".repeat(61));
    assert_eq!(name(&longest).as_bytes().len(), 254);
    let too_long = format!("{longest}x");
    assert_eq!(Name::from_text(&too_long), Err(ParseNameError::Length));
    let most = vec!["x"; 127].join(".");
    assert_eq!(name(&most).count(), 127);
    assert_eq!(
        Name::from_text(&format!("{most}.x")),
        Err(ParseNameError::Length)
    );
}

#[test]
fn a_name_of_256_octets_is_refused_and_not_cut() {
    let labels = [1, b'x'].repeat(126);
    let longest = after_header(&[&labels[..], &[1, b'y', 0]].concat());
    assert_eq!(Name::decode(&longest, 12).unwrap().0.as_bytes().len(), 254);
    let longer = after_header(&[&labels[..], &[2, b'y', b'y', 0]].concat());
    assert_eq!(
        Name::decode(&longer, 12),
        Err(DecodeError::NameLength { at: 12 })
    );
}

#[test]
fn a_name_that_does_not_fit_is_not_appended_in_part() {
    let mut long = name(&vec!["x"; 126].join("."));
    let before = long;
    assert!(long.append(&name("a.b")).is_err());
    assert_eq!(long, before);
    assert!(long.append(&name("a")).is_ok());
}

#[test]
fn parts_of_a_name_are_found() {
    let whole = name("a.bb.c");
    assert_eq!(whole.suffix(1), name("bb.c").as_bytes());
    assert_eq!(whole.prefix(2), name("a.bb").as_bytes());
    assert_eq!(whole.middle(1, 2), name("bb").as_bytes());
    assert_eq!(
        (whole.suffix(3), whole.suffix(9), whole.prefix(0)),
        (&[][..], &[][..], &[][..])
    );
    assert!(whole.is_within(&name("c")) && whole.is_within(&whole));
    assert!(whole.is_within(&Name::ROOT) && !whole.is_within(&name("b.c")));
    assert!(!name("c").is_within(&whole));
}

#[test]
fn octets_that_are_not_visible_are_escaped() {
    let mut odd = Name::ROOT;
    odd.push(b"a.b\\ \x00\xff").unwrap();
    assert_eq!(odd.to_string(), "a\\.b\\\\\\032\\000\\255.");
    assert_eq!(Name::ROOT.to_string(), ".");
}

#[test]
fn a_chain_of_pointers_is_bounded_though_each_leads_back() {
    // At 12 the root, then pointers, each to the one before.
    let mut bytes = after_header(&[0]);
    for hop in 0..200_u16 {
        let target = if hop == 0 { 12 } else { 13 + 2 * (hop - 1) };
        bytes.extend((target | 0xc000).to_be_bytes());
    }
    let at = |hop: usize| 13 + 2 * (hop - 1);
    assert!(Name::decode(&bytes, at(127)).is_ok());
    let too_many = Name::decode(&bytes, at(128));
    assert!(matches!(too_many, Err(DecodeError::Pointer { .. })));
}

#[test]
fn a_name_with_pointers_ends_behind_the_first_of_them() {
    let bytes = after_header(b"\x01a\x00\x01b\xc0\x0c\xff");
    let (decoded, end) = Name::decode(&bytes, 15).unwrap();
    assert_eq!((decoded, end), (name("b.a"), 19));
}

#[test]
fn a_name_that_grows_too_long_by_pointers_is_refused() {
    // 100 octets of labels, and a loop is impossible: three names that each point to the former.
    let hundred = [1, b'x'].repeat(50);
    let mut bytes = after_header(&hundred);
    bytes.push(0);
    let second = bytes.len();
    bytes.extend(&hundred);
    bytes.extend([0xc0, 12]);
    let third = u16::try_from(bytes.len()).unwrap();
    bytes.extend(&hundred);
    bytes.extend((u16::try_from(second).unwrap() | 0xc000).to_be_bytes());
    assert!(Name::decode(&bytes, second).is_ok());
    let refused = Name::decode(&bytes, usize::from(third));
    assert_eq!(
        refused,
        Err(DecodeError::NameLength {
            at: usize::from(third)
        })
    );
}

#[test]
fn names_behind_the_reach_of_pointers_are_written_whole_and_read_again() {
    let (mut out, mut compressor) = (Vec::new(), Compressor::new());
    let mut writer = Writer::new(&mut out, &mut compressor, 65_535);
    let fixed = (RecordType(65_280), Class::IN, 0);
    let padding = vec![0; 0x4000];
    let root = Owner::Name(&Name::ROOT);
    writer
        .record(Section::Answer, root, fixed, |w| w.bytes(&padding))
        .unwrap();
    let far = name("far.example");
    for _ in 0..2 {
        writer
            .record(Section::Answer, Owner::Name(&far), fixed, |_| Ok(()))
            .unwrap();
    }
    writer.finish(Header::query(0), None);
    let message = Message::new_checked(&out).unwrap();
    for record in message.records().skip(1) {
        assert_eq!(Name::decode(&out, record.owner_at).unwrap().0, far);
        assert_eq!(out[record.owner_at], 3, "not a pointer");
    }
}

#[test]
fn a_record_that_does_not_fit_leaves_no_trace() {
    let (mut out, mut compressor) = (Vec::new(), Compressor::new());
    let mut writer = Writer::new(&mut out, &mut compressor, 40);
    let fixed = (RecordType::TXT, Class::IN, 0);
    let (first, second) = (name("first"), name("second"));
    let mut add = |owner, octets: usize| {
        writer.record(Section::Answer, Owner::Name(owner), fixed, |w| {
            w.bytes(&vec![7; octets])
        })
    };
    assert_eq!(add(&second, 30), Err(Full));
    assert_eq!(add(&first, 11), Ok(())); // 12 + 7 + 10 + 11 = 40
    assert_eq!(add(&second, 0), Err(Full));
    writer.finish(Header::query(0), None);
    assert_eq!(out.len(), 40);
    let message = Message::new_checked(&out).unwrap();
    assert_eq!(message.record_count(Section::Answer), 1);
}

#[test]
fn no_pointer_leads_to_what_was_taken_back() {
    let (mut out, mut compressor) = (Vec::new(), Compressor::new());
    let mut writer = Writer::new(&mut out, &mut compressor, 200);
    let (gone, fixed) = (name("gone"), (RecordType::TXT, Class::IN, 0));
    let mark = writer.mark();
    let add = |writer: &mut Writer<'_>, owner: &Name, data: &[u8]| {
        let owner = Owner::Name(owner);
        writer.record(Section::Answer, owner, fixed, |w| w.bytes(data))
    };
    add(&mut writer, &name("xxxxxxxxxx"), &[]).unwrap(); // the next owner stands at 34
    add(&mut writer, &gone, &[]).unwrap();
    writer.rollback(mark);
    let data = [&[0; 11][..], b"\x04gone\x00"].concat(); // and so does this data
    add(&mut writer, &Name::ROOT, &data).unwrap();
    add(&mut writer, &gone, &[]).unwrap();
    writer.finish(Header::query(0), None);
    assert_eq!(out[34..40], *b"\x04gone\x00");
    assert_eq!(out[40], 4, "a name, not a pointer into opaque data");
}

#[test]
fn octets_behind_the_last_record_are_ignored() {
    let bytes = after_header(&[1, 2, 3]);
    assert!(Message::new_checked(&bytes).is_ok());
    assert!(Message::new_checked(&bytes[..11]).is_err());
}

#[test]
fn codes_are_written_by_name_or_number() {
    assert_eq!(RecordType::AAAA.to_string(), "AAAA");
    assert_eq!(RecordType(65_280).to_string(), "TYPE65280");
    assert_eq!(format!("{:?}", Rcode::NXDOMAIN), "NXDOMAIN");
}
