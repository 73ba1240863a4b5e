//! What is read of a request and how it comes back. Every byte is compared with the Python module by `tests/parity`.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::message::{Request, is_empty, read_request};
use super::reply::{write_end, write_head, write_version};
use super::text::{Span, number, parameter, split_unquoted, trim};
use super::uri::Target;
use super::via::Via;
use super::*;
use crate::limits::{SIP_LINES_MAX, SIP_MESSAGE_BYTES_MAX, SIP_VIAS_MAX};
use crate::model::Drop;

/// Lines of the protocol sheet's example, without their ends.
const LINES: [&str; 9] = [
    "INVITE sip:+886912345678@127.0.0.1:15160;user=phone SIP/2.0",
    "Via: SIP/2.0/UDP 127.0.0.1:15999;rport;branch=z9hG4bK-1",
    "Max-Forwards: 70",
    "From: <sip:+886223456789@127.0.0.1:15999;user=phone>;tag=c1",
    "To: <sip:+886912345678@127.0.0.1:15160;user=phone>",
    "Call-ID: 1@127.0.0.1",
    "CSeq: 1 INVITE",
    "Contact: <sip:dip@127.0.0.1:15999>",
    "Content-Length: 0",
];

fn message(lines: &[&str]) -> Vec<u8> {
    [&lines.join("\r\n"), "\r\n\r\n"].concat().into_bytes()
}

/// The example with some lines in the place of one; None = it is left out.
fn with(at: usize, line: Option<&str>) -> Vec<u8> {
    let lines = LINES.iter().enumerate();
    let kept: Vec<_> = lines.filter_map(|(place, kept)| if place == at { line } else { Some(*kept) }).collect();
    message(&kept)
}

fn fault(message: &[u8]) -> Result<u16, Drop> {
    read_request(message, false).map(|request| request.fault)
}

fn replied(request: &Request<'_>, peer: &str) -> String {
    let mut out = b"kept".to_vec();
    write_head(request, 404, peer.parse().unwrap(), 0, &mut out);
    write_end(&mut out);
    String::from_utf8(out.strip_prefix(b"kept").unwrap().to_vec()).unwrap()
}

#[test]
fn example_is_read_and_comes_back() {
    let message = message(&LINES);
    let request = read_request(&message, false).unwrap();
    assert_eq!((request.fault, &*request.method, request.max_forwards), (0, &b"INVITE"[..], Some(70)));
    assert_eq!(&*request.uri, b"sip:+886912345678@127.0.0.1:15160;user=phone");
    assert_eq!((request.from_tag.of(&request.from), request.wants_tag), (&b"c1"[..], true));
    assert_eq!(request.via.reply_port(), None);
    let reply = replied(&request, "192.0.2.7:1024");
    let lines: Vec<_> = reply.split("\r\n").collect();
    assert_eq!(lines[0], "SIP/2.0 404 Not Found");
    assert_eq!(lines[1], "Via: SIP/2.0/UDP 127.0.0.1:15999;rport=1024;received=192.0.2.7;branch=z9hG4bK-1");
    let (to, tag) = lines[3].split_once(";tag=").unwrap();
    assert_eq!((lines[2], to, lines[4], lines[5]), (LINES[3], LINES[4], LINES[5], LINES[6]));
    assert!(tag.len() == 16 && tag.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
    assert_eq!(lines[6..], ["Content-Length: 0", "", ""]);
    assert_eq!(replied(&read_request(&message, true).unwrap(), "192.0.2.7:1024"), reply, "the same again");
}

#[test]
fn tag_depends_on_branch_call_from_tag_and_seed() {
    let tags: Vec<_> = [
        message(&LINES),
        with(1, Some("Via: SIP/2.0/UDP 127.0.0.1:15999;rport;branch=z9hG4bK-2")),
        with(3, Some("From: <sip:a@b>;tag=c2")),
        with(5, Some("Call-ID: 2@127.0.0.1")),
    ]
    .iter()
    .flat_map(|message| [0, 1].map(|seed| (message, seed)))
    .map(|(message, seed)| {
        let mut out = Vec::new();
        write_head(&read_request(message, false).unwrap(), 404, ([127, 0, 0, 1], 1).into(), seed, &mut out);
        let text = String::from_utf8(out).unwrap();
        text.lines().find_map(|line| line.strip_prefix("To: ")).unwrap().to_owned()
    })
    .collect();
    for (at, tag) in tags.iter().enumerate() {
        assert!(!tags[..at].contains(tag), "{tag}");
    }
}

#[test]
fn each_fault_has_its_status() {
    let many = |name: &str, count: usize| {
        let more = vec![name; count].join("\r\n");
        with(2, Some(&more))
    };
    for (at, line, expected) in [
        (0, Some("INVITE sip:a@b SIP/3.0"), Ok(505)),
        (0, Some("INVITE sip:a@b sip/2.0"), Ok(0)),
        (0, Some("INVITE sip:a@b\r\n SIP/2.0"), Ok(0)),
        (0, Some("INVITE  sip:a@b SIP/2.0"), Ok(400)),
        (0, Some("INVITE  SIP/2.0"), Ok(400)),
        (0, Some("INVITE sip:a@b HTTP/1.1"), Ok(400)),
        (0, Some("INVITE sip:\ta@b SIP/2.0"), Ok(400)),
        (0, Some("SIP/2.0 200 OK"), Err(Drop::NotAQuery)),
        (0, Some("sIp/9 x"), Err(Drop::NotAQuery)),
        (1, None, Err(Drop::Malformed)),
        (1, Some("Via:"), Err(Drop::Malformed)),
        (1, Some("Via: SIP/2.0/UDP"), Err(Drop::Malformed)),
        (1, Some("Via: SIP/2.0/UDP a\x01"), Err(Drop::Malformed)),
        (1, Some("Via: SIP/2.0/UDP a:0"), Ok(400)),
        (1, Some("Via: SIP/2.0/UDP a:65536"), Ok(400)),
        (1, Some("Via: SIP/2.0/UDP a:x"), Err(Drop::Malformed)),
        (1, Some("v:SIP/2.0/UDP a\r\nVIA : \t SIP / 2.0 / TCP [::1] : 5060 ;rport"), Ok(0)),
        (2, None, Ok(0)),
        (2, Some("Max-Forwards: 256"), Ok(400)),
        (2, Some("Max-Forwards: 0"), Ok(0)),
        (3, None, Ok(400)),
        (3, Some("f:sip:a@b;tag=1"), Ok(0)),
        (3, Some("From: <sip:a@b>;tag="), Ok(400)),
        (3, Some("From: <sip:a@b>;tag=\0"), Ok(400)),
        (3, Some("From: \"<\" <sip:a@b"), Ok(400)),
        (3, Some("From: <sip:a@b>\r\nf: <sip:a@b>"), Ok(400)),
        (4, None, Ok(400)),
        (5, Some("Call-ID\r\n : 1"), Ok(0)),
        (6, Some("CSeq: 1 ACK"), Ok(400)),
        (6, Some("CSeq: 2147483648 INVITE"), Ok(400)),
        (6, Some("CSeq:\t2147483647\t INVITE "), Ok(0)),
        (8, Some("l: 1"), Ok(400)),
        (8, Some("l: 00000000000"), Ok(400)),
        (8, Some("no colon"), Ok(0)),
    ] {
        assert_eq!(fault(&with(at, line)), expected, "{line:?}");
    }
    assert_eq!(fault(&many("X: y", SIP_LINES_MAX - 7)), Ok(0));
    assert_eq!(fault(&many("X: y", SIP_LINES_MAX - 6)), Ok(400));
    assert_eq!(fault(&many("v: SIP/2.0/UDP a", SIP_VIAS_MAX - 1)), Ok(0));
    assert_eq!(fault(&many("v: SIP/2.0/UDP a", SIP_VIAS_MAX)), Ok(400));
}

#[test]
fn every_cut_of_the_example_is_a_fault_or_nothing() {
    let message = message(&LINES);
    assert_eq!(fault(&[b"\r\n\n", &message[..]].concat()), Ok(0));
    for end in 0..message.len() {
        // Of the last empty line a bare LF would do, but there is none before the message's end.
        assert!(matches!(fault(&message[..end]), Ok(400) | Err(Drop::Malformed)), "{end}");
    }
}

#[test]
fn stream_needs_a_length_within_the_bound() {
    let of_stream = |message: &[u8]| read_request(message, true).map(|request| request.fault);
    assert_eq!(of_stream(&message(&LINES)), Ok(0));
    assert_eq!(of_stream(&with(8, None)), Ok(400));
    assert_eq!(of_stream(&with(8, Some("l: 65535"))), Ok(513));
    let mut endless = with(8, Some(&format!("X: {}", "y".repeat(SIP_MESSAGE_BYTES_MAX))));
    assert_eq!(of_stream(&endless), Ok(400));
    endless.truncate(endless.len() - 2);
    assert_eq!(of_stream(&endless), Ok(513));
}

#[test]
fn nothing_is_line_ends_and_zeros() {
    for (message, expected) in [(&b""[..], true), (b"\r\n\0\n", true), (b"\r\n ", false), (b"jaK", false)] {
        assert_eq!(is_empty(message), expected);
    }
}

#[test]
fn via_comes_back_with_where_the_request_came_from() {
    let completed = |line: &str, host: &str| {
        let mut out = Vec::new();
        let via = Via::read(line.as_bytes()).unwrap();
        via.write_completed(line.as_bytes(), host.parse::<IpAddr>().unwrap(), 7, &mut out);
        (String::from_utf8(out).unwrap(), via.reply_port())
    };
    for (line, host, expected, port) in [
        ("SIP/2.0/UDP 192.0.2.7", "192.0.2.7", "SIP/2.0/UDP 192.0.2.7", Some(5060)),
        ("SIP/2.0/UDP 192.0.2.7:9 ;x", "192.0.2.8", "SIP/2.0/UDP 192.0.2.7:9 ;x;received=192.0.2.8", Some(9)),
        ("SIP/2.0/UDP a;rport=5;rport", "192.0.2.8", "SIP/2.0/UDP a;rport=7;received=192.0.2.8", None),
        ("SIP/2.0/UDP a;received=1; RPORT ;b", "192.0.2.8", "SIP/2.0/UDP a;rport=7;received=192.0.2.8;b", None),
        ("SIP/2.0/UDP [2001:DB8::7]", "2001:db8::7", "SIP/2.0/UDP [2001:DB8::7]", Some(5060)),
        ("SIP/2.0/UDP a;x=\",;rport\" ,b;rport", "::1", "SIP/2.0/UDP a;x=\",;rport\";received=::1,b;rport", Some(5060)),
    ] {
        assert_eq!(completed(line, host), (expected.to_owned(), port));
    }
}

#[test]
fn number_of_a_uri_is_what_was_dialled() {
    for (uri, dialled, is_dipped) in [
        ("sip:+886-912.(345)%20678@h;user=phone", "+886912345678", false),
        ("SIPS:%2b886912345678:pw;npdi@h", "+886912345678", false),
        ("tel:0912345678;NPDI=yes", "0912345678", true),
        ("tel:912345678;phone-context=+886;rn=1", "+886912345678", true),
        ("tel:912345678;phone-context=example.com;phone-context=+886", "912345678", false),
        ("tel:+1;phone-context=+886", "+1", false),
        ("sip:h;npdi", "", false),
        ("sip:9+1@h", "", false),
        ("sip:letters@h;npdi", "", false),
        ("sip:%3@h", "", false),
    ] {
        let target = Target::read(uri.as_bytes()).unwrap();
        assert_eq!(target.dialled(uri.as_bytes()).as_bytes(), dialled.as_bytes(), "{uri}");
        assert_eq!(target.is_dipped, is_dipped, "{uri}");
    }
    let longest = format!("tel:{};phone-context=+{}", "1".repeat(120), "2".repeat(63));
    assert_eq!(Target::read(longest.as_bytes()).unwrap().dialled(longest.as_bytes()).as_bytes().len(), 184);
    let longer = format!("tel:{}", "1".repeat(121));
    assert!(Target::read(longer.as_bytes()).unwrap().dialled(longer.as_bytes()).as_bytes().is_empty());
    for (uri, reason) in [
        ("http://h", Drop::NotAQuery),
        ("sip", Drop::NotAQuery),
        ("sip:1@", Drop::Malformed),
        ("sip:1@h:123456", Drop::Malformed),
        ("sip:1@[::1", Drop::Malformed),
        ("sip:1@a@b", Drop::Malformed),
    ] {
        assert_eq!(Target::read(uri.as_bytes()).map(|_| ()), Err(reason), "{uri}");
    }
}

#[test]
fn contact_has_the_form_of_the_profile() {
    let contact = |uri: &str, profile: &Profile, rn, cic| {
        let mut out = Vec::new();
        Target::read(uri.as_bytes()).unwrap().write_contact(uri.as_bytes(), profile, rn, cic, &mut out);
        String::from_utf8(out).unwrap()
    };
    let of = |form, rn_context: &str, domain: &str| Profile {
        form,
        domain: domain.to_owned(),
        parameters: Parameters {
            npdi: "npdi=yes".to_owned(),
            rn_context: rn_context.to_owned(),
            cic_context: "+886".to_owned(),
        },
        ..Profile::default()
    };
    let (sip, tel) = ("sip:+886-912@h:5", "tel:912;phone-context=+886");
    for (uri, profile, rn, expected) in [
        (sip, of(Form::Parameter, "", ""), Some("F1"), "<sip:+886-912;npdi=yes;rn=+F1@h:5;user=phone>"),
        (tel, of(Form::Parameter, "np", ""), Some("F1"), "<tel:912;phone-context=+886;npdi=yes;rn=F1;rn-context=np>"),
        (tel, of(Form::Prefix, "", "gw"), Some("F1"), "<sip:F1912;npdi=yes@gw;user=phone>"),
        (sip, of(Form::Prefix, "", "gw"), Some("F1"), "<sip:F1886912;npdi=yes@gw;user=phone>"),
        (sip, of(Form::Replace, "", ""), Some("F1"), "<sip:+F1;npdi=yes@h:5;user=phone>"),
        ("sips:1@h", of(Form::Replace, "np", ""), Some("F1"), "<sips:F1;npdi=yes@h;user=phone>"),
        (sip, of(Form::Replace, "np", ""), None, "<sip:+886-912;npdi=yes@h:5;user=phone>"),
    ] {
        assert_eq!(contact(uri, &profile, rn, None), expected);
    }
    let with_cic = contact(tel, &of(Form::Parameter, "", ""), None, Some("14"));
    assert_eq!(with_cic, "<tel:912;phone-context=+886;cic=14;cic-context=+886;npdi=yes>");
}

#[test]
fn pieces_of_text_are_told_apart() {
    let parts = |text: &'static str| split_unquoted(text.as_bytes(), b';').map(<[u8]>::to_vec).collect::<Vec<_>>();
    assert_eq!(parts("a;;b"), [&b"a"[..], b"", b"b"]);
    assert_eq!(parts("a\";\\\";\";b"), [&b"a\";\\\";\""[..], b"b"]);
    assert_eq!(parts("\\\";a"), [&b"\\\";a"[..]], "a quoted string that does not end");
    assert_eq!(parts("\"\\"), [&b"\"\\"[..]]);
    assert_eq!(parts(""), [&b""[..]]);
    assert_eq!((trim(b" \ta b\t "), trim(b" ")), (&b"a b"[..], &b""[..]));
    assert_eq!(parameter(b" a = b=c "), (&b"a"[..], Some(&b" b=c "[..])));
    assert_eq!(parameter(b" a "), (&b"a"[..], None));
    assert_eq!(
        (number(b"255", 256), number(b"256", 256), number(b"", 1), number(b"+1", 9)),
        (Some(255), None, None, None)
    );
    assert_eq!((number(b"0000000001", 9), number(b"00000000001", 9)), (Some(1), None));
    assert_eq!(Span::new(1, 2).of(b"abcd"), b"bc");
    assert_eq!(Span::new(3, 2).of(b"abcd"), b"");
    let mut out = Vec::new();
    for value in [0, 9, 10, u64::MAX] {
        write_decimal(value, &mut out);
        out.push(b' ');
    }
    assert_eq!(out, b"0 9 10 18446744073709551615 ");
    let mut out = Vec::new();
    write_version((7, None), &mut out);
    write_version((u32::MAX, Some(0)), &mut out);
    assert_eq!(out, b"X-Lookupd: serial=7, age=-\r\nX-Lookupd: serial=4294967295, age=0\r\n");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is put into the example: a reply of lines without control bytes, or none.
    #[test]
    fn any_bytes_get_a_sound_reply_or_none(
        at in 0..400_usize,
        put in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'"'), Just(b';')], 0..6),
        over in 0..4_usize,
        is_stream: bool,
    ) {
        let mut message = message(&LINES);
        let at = at.min(message.len());
        let end = (at + over).min(message.len());
        message.splice(at..end, put);
        if let Ok(request) = read_request(&message, is_stream) {
            let mut out = Vec::new();
            write_head(&request, 404, SocketAddr::from(([127, 0, 0, 1], 5060)), 0, &mut out);
            write_end(&mut out);
            let lines = out.strip_suffix(b"\r\n\r\n").unwrap().split(|byte| *byte == b'\n');
            for line in lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
                prop_assert!(!line.is_empty() && !line.iter().any(|byte| *byte < b' ' && *byte != b'\t'));
            }
            prop_assert_eq!(read_request(&out, is_stream).map(|_| ()), Err(Drop::NotAQuery));
        }
    }
}
