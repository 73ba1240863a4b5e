//! SIP as the asking side speaks it: an INVITE of a usual size for each number, and what became of it.
//!
//! No ACK is sent. A server that keeps no transactions has no use for it; one that does sends its answer again.

use std::net::SocketAddr;

use memchr::{memchr, memmem};

use super::replies::{ECHOED, ERROR, NOT_ALLOCATED, NOT_PORTABLE, NOT_PORTED, PORTED, REFUSED, Reply, UNAVAILABLE};

const METHOD: &str = "INVITE";
/// Behind it stands what tells a call from any other (RFC 3261 section 8.1.1.7).
const BRANCH: &str = "branch=z9hG4bK";
/// Hex digits that tell a call from any other: of the run, of the socket, of the question.
const CALL_BYTES: usize = 8 + 4 + 8;
/// An address for documents (RFC 5737): answers go by `rport` (RFC 3581) to where the question came from.
const SENT_BY: &str = "192.0.2.1:5060";
/// Where the number and the call stand in the template; neither byte is in a message.
const NUMBER_MARK: char = '\u{1}';
const CALL_MARK: char = '\u{2}';

/// A call offered with three codecs and keypad tones, as softswitches do.
const BODY: &str = "v=0\r\n\
    o=- 3926 3926 IN IP4 192.0.2.1\r\n\
    s=-\r\n\
    c=IN IP4 192.0.2.1\r\n\
    t=0 0\r\n\
    m=audio 40000 RTP/AVP 8 0 18 101\r\n\
    a=rtpmap:8 PCMA/8000\r\n\
    a=rtpmap:0 PCMU/8000\r\n\
    a=rtpmap:18 G729/8000\r\n\
    a=rtpmap:101 telephone-event/8000\r\n\
    a=fmtp:101 0-15\r\n\
    a=ptime:20\r\n\
    a=sendrecv\r\n";

/// What all questions of a run share: pieces of text, each with what stands behind it.
pub struct Invite {
    pieces: Vec<(Box<[u8]>, Slot)>,
    run: u32,
}

#[derive(Clone, Copy)]
enum Slot {
    Number,
    Call,
    Nothing,
}

impl Invite {
    /// server: the host of the Request-URI. run: tells this run's calls from those of another.
    pub fn new(server: SocketAddr, tcp: bool, run: u32) -> Invite {
        let transport = if tcp { "TCP" } else { "UDP" };
        let (number, call, length) = (NUMBER_MARK, CALL_MARK, BODY.len());
        let text = format!(
            "{METHOD} sip:{number}@{server};user=phone SIP/2.0\r\n\
             Via: SIP/2.0/{transport} {SENT_BY};rport;{BRANCH}{call}\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:+10000000000@{SENT_BY};user=phone>;tag={call}\r\n\
             To: <sip:{number}@{server};user=phone>\r\n\
             Call-ID: {call}@192.0.2.1\r\n\
             CSeq: 1 {METHOD}\r\n\
             Contact: <sip:bench@{SENT_BY}>\r\n\
             Allow: INVITE, ACK, CANCEL, OPTIONS, BYE\r\n\
             Supported: timer\r\n\
             User-Agent: lookupd bench\r\n\
             Content-Type: application/sdp\r\n\
             Content-Length: {length}\r\n\r\n{BODY}"
        );
        let mut pieces = Vec::new();
        for piece in text.split_inclusive([NUMBER_MARK, CALL_MARK]) {
            let slot = match piece.chars().last() {
                Some(NUMBER_MARK) => Slot::Number,
                Some(CALL_MARK) => Slot::Call,
                _ => Slot::Nothing,
            };
            let text = piece.trim_end_matches([NUMBER_MARK, CALL_MARK]);
            pieces.push((text.as_bytes().into(), slot));
        }
        Invite { pieces, run }
    }

    /// Write the question for a number, as it stands in a URI, behind what is there. line: of the socket.
    pub fn write(&self, number: &[u8], line: u16, id: u32, message: &mut Vec<u8>) {
        let mut call = [0; CALL_BYTES];
        put_hex(self.run, &mut call[..8]);
        put_hex(u32::from(line), &mut call[8..12]);
        put_hex(id, &mut call[12..]);
        for (text, slot) in &self.pieces {
            message.extend_from_slice(text);
            match slot {
                Slot::Number => message.extend_from_slice(number),
                Slot::Call => message.extend_from_slice(&call),
                Slot::Nothing => {}
            }
        }
    }
}

fn put_hex(mut value: u32, to: &mut [u8]) {
    for digit in to.iter_mut().rev() {
        *digit = b"0123456789abcdef"[value as usize & 15];
        value >>= 4;
    }
}

/// A number as it stands in a URI's user part: what has a meaning of its own there becomes `%HH` (RFC 3261 section 25.1).
pub fn write_number(number: &str, to: &mut Vec<u8>) {
    for byte in number.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()+".contains(&byte) {
            to.push(byte);
        } else {
            to.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

/// Read a reply; None for bytes that are none, and for one that is not final.
pub fn read(bytes: &[u8]) -> Option<Reply> {
    let (start, mut rest) = line(bytes)?;
    let status = if start.starts_with(METHOD.as_bytes()) { None } else { Some(read_status(start)?) };
    let mut fields = Fields::default();
    loop {
        let (text, behind) = line(rest)?;
        if text.is_empty() {
            break;
        }
        fields.add(text);
        rest = behind;
    }
    let id = read_id(fields.via?)?;
    if !fields.cseq?.ends_with(METHOD.as_bytes()) {
        return None;
    }
    let outcome = match status {
        None => ECHOED,
        Some(100..=199) => return None,
        Some(301 | 302) => read_redirect(fields.contact, fields.to),
        Some(404) => NOT_ALLOCATED,
        Some(484) => NOT_PORTABLE,
        Some(500 | 503) => UNAVAILABLE,
        Some(403) => REFUSED,
        Some(_) => ERROR,
    };
    Some(Reply::of(id, outcome, 1))
}

/// Of each, the first one's value.
#[derive(Default)]
struct Fields<'a> {
    via: Option<&'a [u8]>,
    to: Option<&'a [u8]>,
    cseq: Option<&'a [u8]>,
    contact: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn add(&mut self, text: &'a [u8]) {
        let Some(colon) = memchr(b':', text) else { return };
        let (name, value) = (text[..colon].trim_ascii_end(), text[colon + 1..].trim_ascii());
        let is = |one: &[u8]| name.eq_ignore_ascii_case(one);
        let field = if is(b"Via") || is(b"v") {
            &mut self.via
        } else if is(b"To") || is(b"t") {
            &mut self.to
        } else if is(b"CSeq") {
            &mut self.cseq
        } else if is(b"Contact") || is(b"m") {
            &mut self.contact
        } else {
            return;
        };
        field.get_or_insert(value);
    }
}

/// A line without its end, and what is behind it; None if it has no end.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(b'\n', bytes)?;
    let text = &bytes[..end];
    Some((text.strip_suffix(b"\r").unwrap_or(text), &bytes[end + 1..]))
}

fn read_status(start: &[u8]) -> Option<u32> {
    let digits = start.strip_prefix(b"SIP/2.0 ")?.first_chunk::<3>()?;
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|status| *status >= 100)
}

/// The question's id: the last digits of the call that the top Via's branch tells.
fn read_id(via: &[u8]) -> Option<u32> {
    let start = memmem::find(via, BRANCH.as_bytes())? + BRANCH.len();
    let call = via.get(start..start + CALL_BYTES)?;
    u32::from_str_radix(std::str::from_utf8(&call[12..]).ok()?, 16).ok()
}

/// A routing number or a carrier says that it was ported, also where it replaces the number; the number with `npdi`
/// alone that it was not (RFC 4694 section 5).
fn read_redirect(contact: Option<&[u8]>, to: Option<&[u8]>) -> usize {
    let Some(user) = contact.and_then(user_part) else { return ERROR };
    let mut parts = user.split(|byte| *byte == b';');
    let number = parts.next();
    let mut is_dipped = false;
    for part in parts {
        let name = part.split(|byte| *byte == b'=').next().unwrap_or(part);
        if name.eq_ignore_ascii_case(b"rn") || name.eq_ignore_ascii_case(b"cic") {
            return PORTED;
        }
        is_dipped |= name.eq_ignore_ascii_case(b"npdi");
    }
    let asked = to.and_then(user_part).and_then(|user| user.split(|byte| *byte == b';').next());
    match (is_dipped, number == asked) {
        (true, true) => NOT_PORTED,
        (true, false) => PORTED,
        (false, _) => ERROR,
    }
}

/// Of the URI in angle brackets: what stands before the `@`, of a tel URI all of it.
fn user_part(value: &[u8]) -> Option<&[u8]> {
    let uri = &value[memchr(b'<', value)? + 1..];
    let uri = &uri[memchr(b':', uri)? + 1..];
    let end = uri.iter().position(|byte| matches!(byte, b'@' | b'>'))?;
    Some(&uri[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite(number: &str, server: &str, tcp: bool) -> String {
        let (mut user, mut message) = (Vec::new(), Vec::new());
        write_number(number, &mut user);
        Invite::new(server.parse().unwrap(), tcp, 0xC0FF_EE00).write(&user, 3, 0xFEED, &mut message);
        String::from_utf8(message).unwrap()
    }

    fn reply(status: &str, contact: &str) -> String {
        format!(
            "SIP/2.0 {status}\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;rport=9;received=127.0.0.1;branch=z9hG4bK\
             c0ffee0000030000feed\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:+12@h;user=phone>;tag=2\r\nCall-ID: x\r\n\
             CSeq: 1 INVITE\r\n{contact}Content-Length: 0\r\n\r\n"
        )
    }

    #[test]
    fn invite_has_the_number_and_the_call_in_their_places_and_a_body() {
        let text = invite("+886912345678", "127.0.0.1:5060", false);
        assert!(text.starts_with("INVITE sip:+886912345678@127.0.0.1:5060;user=phone SIP/2.0\r\nVia: SIP/2.0/UDP "));
        assert!(text.contains(";rport;branch=z9hG4bKc0ffee0000030000feed\r\n"));
        assert!(text.contains("\r\nTo: <sip:+886912345678@127.0.0.1:5060;user=phone>\r\n"));
        assert!(text.contains("\r\nCall-ID: c0ffee0000030000feed@192.0.2.1\r\n"));
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("\r\nContent-Length: {}", body.len())));
        assert!((600..1300).contains(&text.len()), "{}", text.len());
        assert!(!text.contains([NUMBER_MARK, CALL_MARK]));
        let text = invite("1#;@a", "[::1]:5070", true);
        assert!(text.starts_with("INVITE sip:1%23%3B%40a@[::1]:5070;user=phone SIP/2.0\r\nVia: SIP/2.0/TCP "));
    }

    #[test]
    fn question_that_comes_back_is_told() {
        assert_eq!(read(invite("1", "127.0.0.1:1", false).as_bytes()), Some(Reply::of(0xFEED, ECHOED, 1)));
    }

    #[test]
    fn replies_by_status_and_contact() {
        let moved = |contact: &str| reply("302 Moved Temporarily", &format!("Contact: {contact}\r\n"));
        let table = [
            (moved("<sip:+12;npdi;rn=+1402@h;user=phone>"), Some(PORTED)),
            (moved("<sip:+12;cic=1402;cic-context=x;npdi@h>"), Some(PORTED)),
            (moved("<tel:+12;npdi;rn=1402;rn-context=np.example>"), Some(PORTED)),
            (moved("<sip:+1402;npdi@h>"), Some(PORTED)),
            (moved("<sip:140212;npdi=yes@h>"), Some(PORTED)),
            (moved("<sip:+12;npdi@h;user=phone>"), Some(NOT_PORTED)),
            (moved("<sip:+12;NPDI=yes@h>"), Some(NOT_PORTED)),
            (moved("<sip:+12@h;npdi>"), Some(ERROR)),
            (moved("sip:+12;npdi"), Some(ERROR)),
            (reply("301 Moved", "m : <sip:+12;rn=+1402@h>\r\n"), Some(PORTED)),
            (reply("302 Moved", ""), Some(ERROR)),
            (reply("200 OK", ""), Some(ERROR)),
            (reply("404 Not Found", ""), Some(NOT_ALLOCATED)),
            (reply("484 Address Incomplete", ""), Some(NOT_PORTABLE)),
            (reply("500", ""), Some(UNAVAILABLE)),
            (reply("503 Service Unavailable", ""), Some(UNAVAILABLE)),
            (reply("403 Forbidden", ""), Some(REFUSED)),
            (reply("100 Trying", ""), None),
            (reply("40", ""), None),
            (reply("404 Not Found", "").replace("SIP/2.0 404", "SIP/3.0 404"), None),
            (reply("404 Not Found", "").replace("CSeq: 1 INVITE", "CSeq: 1 CANCEL"), None),
            (reply("404 Not Found", "").replace("z9hG4bKc0", "z9hG4bK"), None),
            (reply("404 Not Found", "").replace("0000feed", "0000fee?"), None),
            (reply("404 Not Found", "").replace("Via:", "Vie:"), None),
            (reply("404 Not Found", "").replace("\r\n", "\n").replace("Via:", "v :"), Some(NOT_ALLOCATED)),
        ];
        for (message, outcome) in table {
            assert_eq!(read(message.as_bytes()), outcome.map(|outcome| Reply::of(0xFEED, outcome, 1)), "{message}");
        }
    }

    #[test]
    fn reply_without_its_empty_line_is_none() {
        let whole = reply("404 Not Found", "");
        for length in 0..whole.len() - 2 {
            assert_eq!(read(&whole.as_bytes()[..length]), None, "{length}");
        }
    }
}
