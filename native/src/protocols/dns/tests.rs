use proptest::prelude::*;

use super::*;

/// `8.7.6.np.example.`, NAPTR, IN.
const QUESTION: &[u8] = b"\x018\x017\x016\x02np\x07example\0\0\x23\0\x01";
const APEX: &[u8] = b"\x02np\x07example\0";

/// id 0x1234, RD; counts of answers, authorities and additional records.
fn header(flags: u16, counts: [u16; 4]) -> Vec<u8> {
    let words = [[0x1234, flags].as_slice(), &counts].concat();
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn query(additional: &[&[u8]]) -> Vec<u8> {
    [&header(RD, [1, 0, 0, additional.len() as u16]), QUESTION, &additional.concat()].concat()
}

fn opt(bytes_max: u16, version: u8, flags: u16, options: &[u8]) -> Vec<u8> {
    let [s1, s0] = bytes_max.to_be_bytes();
    let [f1, f0] = flags.to_be_bytes();
    [&[0, 0, 41, s1, s0, 0, version, f1, f0, 0, options.len() as u8], options].concat()
}

fn bare(message: &[u8]) -> Option<Vec<u8>> {
    let Err(Fault::Bare(bare)) = decode_query(message) else { return None };
    let mut out = Vec::new();
    bare.write(&mut out);
    Some(out)
}

fn replied(message: &[u8], write: impl FnOnce(&Query<'_>, &mut Vec<u8>)) -> Vec<u8> {
    let mut out = b"before".to_vec();
    write(&decode_query(message).unwrap(), &mut out);
    out.strip_prefix(b"before").expect("appended").to_vec()
}

#[test]
fn question_is_read_with_the_letters_it_came_in() {
    let message = query(&[]);
    let query = decode_query(&message).unwrap();
    assert_eq!((query.id, query.wants_recursion, query.kind, query.class), ([0x12, 0x34], true, NAPTR, IN));
    assert_eq!((query.question, query.bytes, query.edns), (QUESTION, message.len(), None));
    assert_eq!(query.name.before(b"\x02Np\x07eXample\0"), Some(b"\x018\x017\x016".as_slice()));
    assert_eq!(query.name.before(query.name.wire), Some(b"".as_slice()));
    for other in [b"\x07example\0x".as_slice(), b"p\x07example\0", b"\x01p\x07example\0", &QUESTION[..0]] {
        assert_eq!(query.name.before(other), None, "{other:?}");
    }
}

#[test]
fn label_that_ends_like_an_apex_is_no_zones() {
    // One label of 12 bytes: the last eleven are what the apex begins with, a length among them.
    let wire = [&[11], &APEX[..11], &[0]].concat();
    assert!(Name::read(&wire).unwrap().0.before(APEX).is_none());
}

#[test]
fn name_has_255_bytes_at_most_and_no_pointers() {
    let of = |lengths: &[u8]| {
        let labels = lengths.iter().flat_map(|length| [&[*length][..], &vec![b'x'; usize::from(*length)]].concat());
        labels.chain([0, 7]).collect::<Vec<_>>()
    };
    for (lengths, read) in [
        (&[63, 63, 63, 61][..], Some(255)),
        (&[63, 63, 63, 62], None),
        (&[63, 63, 63, 63], None),
        (&[64], None),
        (&[1; 127], Some(255)),
        (&[1; 128], None),
        (&[], Some(1)),
    ] {
        let bytes = of(lengths);
        let name = Name::read(&bytes).map(|(name, behind)| (name.wire.len(), behind));
        assert_eq!(name, read.map(|length| (length, [7].as_slice())), "{lengths:?}");
    }
    for bytes in [b"".as_slice(), b"\x02a", b"\x01a", b"\xc0\x0c", b"\x01a\xc0\x0c", b"\x80", b"\x40"] {
        assert!(Name::read(bytes).is_none(), "{bytes:?}");
    }
}

#[test]
fn what_is_no_plain_query_is_told_apart() {
    let silent = |message: &[u8]| decode_query(message).err().map(|fault| (fault.reason(), bare(message)));
    assert_eq!(silent(&query(&[])[..11]), Some((Drop::Malformed, None)));
    assert_eq!(silent(&header(QR, [1, 0, 0, 0])), Some((Drop::NotAQuery, None)));
    assert_eq!(bare(&header(0x7D8F, [0; 4])).unwrap(), header(0xF904, [0; 4]));
    let formerr = header(QR | RD | 1, [0; 4]);
    for counts in [[0, 0, 0, 0], [2, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [1, 0, 0, 9]] {
        assert_eq!(bare(&[&header(RD, counts), QUESTION].concat()).as_ref(), Some(&formerr), "{counts:?}");
    }
    let whole = query(&[]);
    for end in HEADER_BYTES..whole.len() {
        assert_eq!(bare(&whole[..end]).as_ref(), Some(&formerr), "{end}");
    }
    assert!(decode_query(&[&whole, b"behind".as_slice()].concat()).is_ok());
}

#[test]
fn opt_is_found_behind_other_records_and_only_once() {
    let tsig = b"\x01k\0\0\xfa\0\xff\0\0\0\0\0\x03abc".as_slice();
    let sound = opt(1400, 0, 0x8001, b"\0\x0a\0\x02xx\0\x03\0\0");
    let expected = Edns { bytes_max: 1400, version: 0, wants_dnssec: true };
    for records in [vec![&sound[..]], vec![tsig, &sound], vec![&sound, tsig], vec![tsig; 8]] {
        let found = decode_query(&query(&records)).unwrap().edns;
        assert_eq!(found, records.contains(&&sound[..]).then_some(expected), "{records:?}");
    }
    let named = [b"\x01x", &sound[..]].concat();
    let mut overrunning = sound.clone();
    overrunning[10] += 1;
    let (half, over) = (opt(512, 0, 0, b"\0\x0a\0"), opt(512, 0, 0, b"\0\x0a\0\x03xx"));
    for records in [vec![&sound[..]; 2], vec![&named], vec![&overrunning], vec![&half], vec![&over], vec![tsig; 9]] {
        assert!(bare(&query(&records)).is_some(), "{records:?}");
    }
}

#[test]
fn transfers_and_other_versions_get_their_question_back() {
    let kind = |kind: u16, counts: [u16; 4], records: &[u8]| {
        let mut message = [&header(0, counts), QUESTION, records].concat();
        message[HEADER_BYTES + QUESTION.len() - 4..][..2].copy_from_slice(&kind.to_be_bytes());
        match decode_query(&message) {
            Err(Fault::Refused(query, rcode)) => Some((rcode, query.edns.is_some())),
            _ => None,
        }
    };
    let (plain, later) = (opt(512, 0, 0, b""), opt(512, 1, 0, b""));
    for transfer in [AXFR, IXFR] {
        assert_eq!(kind(transfer, [1, 0, 0, 0], b""), Some((Rcode::Refused, false)));
        assert_eq!(kind(transfer, [1, 0, 0, 1], &plain), Some((Rcode::Refused, true)));
        assert_eq!(kind(transfer, [1, 0, 1, 1], &plain), Some((Rcode::Refused, false)));
        assert_eq!(kind(transfer, [1, 0, 0, 1], &later), Some((Rcode::BadVers, true)));
        assert_eq!(kind(transfer, [1, 0, 0, 1], b""), None);
    }
    assert_eq!(kind(NAPTR, [1, 0, 0, 1], &later), Some((Rcode::BadVers, true)));
}

#[test]
fn size_over_udp_is_the_least_of_what_client_path_and_question_allow() {
    let bytes_max = |records: &[&[u8]]| decode_query(&query(records)).unwrap().datagram_bytes_max();
    let padding = [[0, 12, 0, 180].as_slice(), &[0; 180]].concat();
    let padded = |size| bytes_max(&[&opt(size, 0, 0, &padding)]);
    assert_eq!(bytes_max(&[]), 4 * query(&[]).len());
    for (size, expected) in [(0, 512), (511, 512), (513, 513), (900, 900), (1232, 932), (65_535, 932)] {
        assert_eq!(padded(size), expected.min(4 * (query(&[]).len() + 11 + padding.len())), "{size}");
    }
    let more = [[0, 12, 0, 250].as_slice(), &[0; 250]].concat();
    let record = opt(65_535, 0, 0, &[]);
    let long = [&record[..9], &(more.len() as u16).to_be_bytes(), &more].concat();
    assert_eq!(bytes_max(&[&long]), 1232.min(4 * (query(&[]).len() + long.len())));
}

/// Two records of 15 bytes, and one additional one.
fn some_records() -> (Records, Records) {
    let (mut two, mut one) = (Records::default(), Records::default());
    let owner = Data::default().bytes(&POINTER_TO_QUESTION);
    for _ in 0..2 {
        two.add(&Data::default().pointer(), TXT, 60, &Data::default().bytes(b"\x02ab"));
    }
    one.add(&owner, SOA, 61, &Data::default().serial().bytes(b"!"));
    (two, one)
}

#[test]
fn records_are_filled_with_the_apex_and_the_serial() {
    let (two, one) = some_records();
    let reply = replied(&query(&[&opt(1232, 0, 0x8000, b"")]), |query, out| {
        let mut reply = Reply::new(query, true, out);
        let filling = Filling::new(b"\x018\x017\x016", 0xFFFE_FDFC);
        reply.answer(&two, filling);
        reply.authority(&one, filling);
        reply.extra(&one, filling);
        reply.end(query, Rcode::NxDomain, b"opts", 4096);
    });
    let txt = b"\xc0\x12\0\x10\0\x01\0\0\0\x3c\0\x03\x02ab".as_slice();
    let soa = b"\xc0\x0c\0\x06\0\x01\0\0\0\x3d\0\x05\xff\xfe\xfd\xfc!".as_slice();
    let opt = b"\0\0\x29\x04\xd0\0\0\x80\0\0\x04opts".as_slice();
    assert_eq!(reply, [&header(0x8503, [1, 2, 1, 2]), QUESTION, txt, txt, soa, soa, opt].concat());
}

#[test]
fn reply_that_is_too_long_loses_what_is_additional_and_then_everything() {
    let (two, one) = some_records();
    let (message, opt) = (query(&[&opt(512, 0, 0, b"")]), b"\0\0\x29\x04\xd0\0\0\0\0\0\0".as_slice());
    let reply_of = |bytes_max| {
        replied(&message, |query, out| {
            let mut reply = Reply::new(query, true, out);
            reply.answer(&two, Filling::new(b"", 0));
            reply.extra(&one, Filling::new(b"", 0));
            reply.end(query, Rcode::NoError, b"", bytes_max);
        })
    };
    let whole = reply_of(4096);
    let less = whole.len() - 17;
    assert_eq!(reply_of(whole.len()), whole);
    for bytes_max in [whole.len() - 1, less] {
        let mut expected = [&whole[..whole.len() - 17 - opt.len()], opt].concat();
        expected[11] = 1;
        assert_eq!(reply_of(bytes_max), expected);
    }
    for bytes_max in [less - 1, 0] {
        assert_eq!(reply_of(bytes_max), [&header(0x8700, [1, 0, 0, 1]), QUESTION, opt].concat());
    }
}

proptest! {
    #[test]
    fn any_bytes_give_a_question_of_theirs_or_a_reason(start in 0_u8..4, bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let message = match start {
            0 => bytes,
            1 => [&header(0, [1, 0, 0, 0]), &bytes[..]].concat(),
            2 => [&header(0, [1, 0, 0, 2]), QUESTION, &bytes].concat(),
            _ => [&query(&[]), &bytes[..]].concat(),
        };
        match decode_query(&message) {
            Ok(query) | Err(Fault::Refused(query, _)) => {
                prop_assert!(message[HEADER_BYTES..].starts_with(query.question));
                prop_assert_eq!(query.question.len(), query.name.wire.len() + 4);
            }
            Err(fault) => prop_assert!(matches!(fault.reason(), Drop::Malformed | Drop::NotAQuery)),
        }
    }
}
