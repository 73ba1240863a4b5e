//! Any message of the `sip` dialect, as a datagram and in a stream.

#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use lookupd_native::limits::{SIP_DATAGRAM_BYTES_MAX, SIP_VIAS_MAX};
use lookupd_native::model::Drop;
use lookupd_native::protocols::sip::message::{Request, is_empty, read_request};
use lookupd_native::protocols::sip::reply::{write_end, write_head};
use lookupd_native::protocols::sip::uri::Target;
use lookupd_native::protocols::sip::{Form, Profile};

/// Header names, blanks, `received`, `rport`, the tag: all that a reply has more than its request, whose values stand
/// in it once each. A value of a compact line grows by its full name.
const REPLY_MORE_BYTES_MAX: usize = 300 + 4 * SIP_VIAS_MAX;

/// The answer is lines without control bytes, ended by an empty one; it is never taken for a request.
fn check_reply(reply: &[u8]) {
    let head = reply.strip_suffix(b"\r\n\r\n").expect("ended");
    let text = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    for line in text {
        assert!(!line.is_empty() && line.iter().all(|byte| *byte >= b' ' || *byte == b'\t'), "{}", line.escape_ascii());
    }
    for is_stream in [false, true] {
        assert_eq!(read_request(reply, is_stream).map(|_| ()), Err(Drop::NotAQuery));
    }
}

fn check_request(request: &Request<'_>, message: &[u8], peer: SocketAddr) {
    assert!([0, 400, 505, 513].contains(&request.fault));
    let (mut reply, mut again) = (b"before".to_vec(), b"before".to_vec());
    write_head(request, 302, peer, 7, &mut reply);
    write_head(request, 302, peer, 7, &mut again);
    assert_eq!(reply, again);
    if request.fault == 0 {
        check_contact(&request.uri, &mut reply);
    }
    write_end(&mut reply);
    let reply = reply.strip_prefix(b"before").expect("appended");
    assert!(reply.len() <= 2 * message.len() + REPLY_MORE_BYTES_MAX || request.fault != 0);
    check_reply(reply);
}

fn check_contact(uri: &[u8], reply: &mut Vec<u8>) {
    let Ok(target) = Target::read(uri) else { return };
    let dialled = target.dialled(uri);
    let dialled = dialled.as_bytes();
    assert!(dialled.strip_prefix(b"+").unwrap_or(dialled).iter().all(u8::is_ascii_digit));
    if dialled.is_empty() {
        return;
    }
    for form in [Form::Parameter, Form::Replace, Form::Prefix] {
        for domain in ["", "gw.example:5060"] {
            let profile = Profile { form, domain: domain.to_owned(), ..Profile::default() };
            for rn in [None, Some("D0401")] {
                let start = reply.len();
                reply.extend_from_slice(b"Contact: ");
                target.write_contact(uri, &profile, rn, None, reply);
                let value = reply[start..].strip_prefix(b"Contact: <").and_then(|rest| rest.strip_suffix(b">"));
                let inner = value.expect("in angle brackets");
                assert!(!inner.iter().any(|byte| b"<> \t\r\n\"".contains(byte)), "{}", inner.escape_ascii());
                assert!(inner.windows(5).any(|part| part == b";npdi"));
                reply.truncate(start);
            }
        }
    }
    reply.extend_from_slice(b"Contact: ");
    target.write_contact(uri, &Profile::default(), Some("D0401"), None, reply);
    reply.extend_from_slice(b"\r\n");
}

fuzz_target!(|message: &[u8]| {
    let peers: [SocketAddr; 2] = [([127, 0, 0, 1], 15999).into(), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7], 5060).into()];
    for is_stream in [false, true] {
        let message = if is_stream { message } else { &message[..message.len().min(SIP_DATAGRAM_BYTES_MAX)] };
        match read_request(message, is_stream) {
            Ok(request) => {
                assert!(!is_empty(message));
                assert!(request.fault != 0 || request.more_vias.len() < SIP_VIAS_MAX);
                peers.iter().for_each(|peer| check_request(&request, message, *peer));
            }
            Err(reason) => assert!(matches!(reason, Drop::Malformed | Drop::NotAQuery)),
        }
    }
});
