//! A SIP request's bytes -> what an answer to it needs: method, URI, sizes, and the fields that are repeated.
//! Everything else is skipped unread. Mirrors `lookupd/protocols/sip_message.py`.
//!
//! Values stay where they are in the message, except folded ones, which are joined in memory of their own.

use std::borrow::Cow;

use memchr::memchr;

use super::text::{
    Span, is_blank, is_control, is_token, number, parameter, split_unquoted, trim, trim_end, trim_start,
};
use super::via::Via;
use crate::limits::{SIP_LINES_MAX, SIP_MESSAGE_BYTES_MAX, SIP_VIAS_MAX};
use crate::model::Drop;

/// A header's value: trimmed, of one line.
pub type Value<'m> = Cow<'m, [u8]>;

const CSEQ_END: u64 = 1 << 31;
const MAX_FORWARDS_END: u64 = 256;

/// One request, sound or not.
#[derive(Debug)]
pub struct Request<'m> {
    /// As written.
    pub method: Value<'m>,
    /// The Request-URI; empty if the start line has other than three parts.
    pub uri: Value<'m>,
    /// The status that says what is wrong, 0 = nothing.
    pub fault: u16,
    /// The top Via value; of `via_line`.
    pub via: Via,
    /// The first Via line.
    pub via_line: Value<'m>,
    /// The Via lines behind it.
    pub more_vias: Vec<Value<'m>>,
    /// These four are empty where they are absent.
    pub from: Value<'m>,
    /// See `from`.
    pub to: Value<'m>,
    /// See `from`.
    pub call_id: Value<'m>,
    /// See `from`.
    pub cseq: Value<'m>,
    /// Of From; empty if there is none, or none can be read.
    pub from_tag: Span,
    /// Whether To can be read and has no tag.
    pub wants_tag: bool,
    /// None if it is absent or no number below 256.
    pub max_forwards: Option<u8>,
}

/// Whether a datagram holds nothing: what keeps the way through a NAT open.
pub fn is_empty(message: &[u8]) -> bool {
    message.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

/// Reads one request. message: a datagram, or what the framing cut off a stream. The error is `NotAQuery` for a
/// response, `Malformed` without a Via that an answer could go by.
pub fn read_request(message: &[u8], is_stream: bool) -> Result<Request<'_>, Drop> {
    let message = if is_stream { message } else { without_line_ends(message) };
    if message.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"SIP/")) {
        return Err(Drop::NotAQuery);
    }
    let head = Head::read(message)?;
    let via_line = head.via.unwrap_or_default();
    let via = Via::read(&via_line).ok_or(Drop::Malformed)?;
    let from_tag = read_tag(&head.from);
    let to_tag = read_tag(&head.to);
    let max_forwards = head.max_forwards.as_deref().map(|text| number(text, MAX_FORWARDS_END));
    let is_sound = head.is_sound
        && head.start.is_sound
        && from_tag.is_some()
        && to_tag.is_some()
        && !head.call_id.is_empty()
        && is_cseq(&head.cseq, &head.start.method)
        && max_forwards != Some(None)
        && via.port.is_some()
        && commas(&via_line) + head.more_vias.iter().map(|line| commas(line) + 1).sum::<usize>() < SIP_VIAS_MAX;
    let size_fault = size_fault(head.content_length.as_deref(), message.len(), head.body_at, is_stream);
    let fault = match (head.start.is_other_version, size_fault) {
        (true, _) => 505,
        (false, 0) if !is_sound => 400,
        (false, size_fault) => size_fault,
    };
    Ok(Request {
        method: head.start.method,
        uri: head.start.uri,
        fault,
        via,
        via_line,
        more_vias: head.more_vias,
        from: head.from,
        to: head.to,
        call_id: head.call_id,
        cseq: head.cseq,
        from_tag: from_tag.unwrap_or_default(),
        wants_tag: to_tag.is_some_and(Span::is_empty),
        max_forwards: max_forwards.flatten().map(|hops| hops as u8),
    })
}

fn without_line_ends(message: &[u8]) -> &[u8] {
    let start = message.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(message.len());
    message.get(start..).unwrap_or_default()
}

/// What lies between a message's start and its first empty line.
struct Head<'m> {
    start: Start<'m>,
    via: Option<Value<'m>>,
    more_vias: Vec<Value<'m>>,
    from: Value<'m>,
    to: Value<'m>,
    call_id: Value<'m>,
    cseq: Value<'m>,
    max_forwards: Option<Value<'m>>,
    content_length: Option<Value<'m>>,
    /// Where the body begins; None without an empty line.
    body_at: Option<usize>,
    /// Whether there are not too many lines, and each field that is read has a value and stands once.
    is_sound: bool,
}

/// The parts of a start line.
struct Start<'m> {
    method: Value<'m>,
    uri: Value<'m>,
    is_sound: bool,
    /// Whether it is three parts, of which the last one names another version of SIP than 2.0.
    is_other_version: bool,
}

/// Lines of a head, one after another; a bare LF is taken for a line's end.
struct Lines<'m> {
    message: &'m [u8],
    /// Where the next line begins.
    at: usize,
}

impl<'m> Lines<'m> {
    /// The next line without its end; None if there is no whole one.
    #[inline]
    fn next(&mut self) -> Option<&'m [u8]> {
        let rest = self.message.get(self.at..)?;
        let end = memchr(b'\n', rest)?;
        self.at += end + 1;
        let line = rest.get(..end)?;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }

    #[inline]
    fn continues(&self) -> bool {
        self.message.get(self.at).is_some_and(|byte| is_blank(*byte))
    }

    /// A line with those that continue it, of which at most `left` are read. Counts them.
    #[cold]
    fn unfold(&mut self, line: &[u8], left: &mut usize) -> Vec<u8> {
        let mut joined = line.to_vec();
        while *left > 0
            && self.continues()
            && let Some(line) = self.next()
        {
            *left -= 1;
            joined.truncate(trim_end(&joined).len());
            joined.push(b' ');
            joined.extend_from_slice(trim(line));
        }
        joined
    }

    /// Where the body begins, looked for from the next line on.
    #[cold]
    fn find_body(mut self) -> Option<usize> {
        while let Some(line) = self.next() {
            if line.is_empty() {
                return Some(self.at);
            }
        }
        None
    }
}

impl<'m> Head<'m> {
    fn read(message: &'m [u8]) -> Result<Self, Drop> {
        let mut lines = Lines { message, at: 0 };
        let line = lines.next().ok_or(Drop::Malformed)?;
        let mut left = SIP_LINES_MAX;
        let start = if lines.continues() {
            let joined = lines.unfold(line, &mut left);
            Start::read(&joined).into_owned()
        } else {
            Start::read(line)
        };
        let mut head = Head {
            start,
            via: None,
            more_vias: Vec::new(),
            from: Cow::default(),
            to: Cow::default(),
            call_id: Cow::default(),
            cseq: Cow::default(),
            max_forwards: None,
            content_length: None,
            body_at: None,
            is_sound: true,
        };
        while left > 0 {
            let Some(line) = lines.next() else { return Ok(head) };
            if line.is_empty() {
                head.body_at = Some(lines.at);
                return Ok(head);
            }
            left -= 1;
            if lines.continues() {
                let joined = lines.unfold(line, &mut left);
                if let Some((name, value)) = cut_field(&joined) {
                    head.take(name, Cow::Owned(value.to_vec()))?;
                }
            } else if let Some((name, value)) = cut_field(line) {
                head.take(name, Cow::Borrowed(value))?;
            }
        }
        let more = Lines { message, at: lines.at }.next();
        head.is_sound &= more.is_none_or(<[u8]>::is_empty);
        head.body_at = lines.find_body();
        Ok(head)
    }

    /// One header line. The error: the first Via is nothing that an answer could repeat.
    #[inline]
    fn take(&mut self, name: &[u8], value: Value<'m>) -> Result<(), Drop> {
        let Some(field) = Field::of(name) else { return Ok(()) };
        if value.is_empty() || has(&value, is_control) {
            self.is_sound = false;
            return if field == Field::Via && self.via.is_none() { Err(Drop::Malformed) } else { Ok(()) };
        }
        let place = match field {
            Field::Via if self.via.is_none() => {
                self.via = Some(value);
                return Ok(());
            }
            Field::Via => {
                self.more_vias.push(value);
                return Ok(());
            }
            Field::From => &mut self.from,
            Field::To => &mut self.to,
            Field::CallId => &mut self.call_id,
            Field::CSeq => &mut self.cseq,
            Field::MaxForwards => self.max_forwards.get_or_insert_default(),
            Field::ContentLength => self.content_length.get_or_insert_default(),
        };
        if place.is_empty() {
            *place = value;
        } else {
            self.is_sound = false;
        }
        Ok(())
    }
}

impl<'m> Start<'m> {
    fn read(line: &'m [u8]) -> Self {
        let Some((method, uri, version)) = cut_in_three(line) else {
            let end = memchr(b' ', line).unwrap_or(line.len());
            let method = Cow::Borrowed(line.get(..end).unwrap_or_default());
            return Self { method, uri: Cow::default(), is_sound: false, is_other_version: false };
        };
        let is_sip = version.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"SIP/"));
        Self {
            method: Cow::Borrowed(method),
            uri: Cow::Borrowed(uri),
            is_sound: is_sip && is_token(method) && !uri.is_empty() && !has(line, |byte| byte < b' '),
            is_other_version: is_sip && version.get(4..) != Some(b"2.0"),
        }
    }

    fn into_owned(self) -> Start<'static> {
        let Start { method, uri, is_sound, is_other_version } = self;
        let (method, uri) = (Cow::Owned(method.into_owned()), Cow::Owned(uri.into_owned()));
        Start { method, uri, is_sound, is_other_version }
    }
}

/// The three parts that single blanks separate; None if there are more or fewer.
#[inline]
fn cut_in_three(line: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let first = memchr(b' ', line)?;
    let rest = line.get(first + 1..)?;
    let second = memchr(b' ', rest)?;
    let version = rest.get(second + 1..)?;
    memchr(b' ', version).is_none().then_some((line.get(..first)?, rest.get(..second)?, version))
}

/// A header line's name and value; None if it has no colon.
#[inline]
fn cut_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', line)?;
    Some((trim_end(line.get(..colon)?), trim(line.get(colon + 1..)?)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Via,
    From,
    To,
    CallId,
    CSeq,
    MaxForwards,
    ContentLength,
}

impl Field {
    /// Of those that are read.
    #[inline]
    fn of(name: &[u8]) -> Option<Field> {
        let (full, field): (&[u8], Field) = match (name.len(), name.first()?.to_ascii_lowercase()) {
            (1, b'v') => return Some(Field::Via),
            (1, b'f') => return Some(Field::From),
            (1, b't') => return Some(Field::To),
            (1, b'i') => return Some(Field::CallId),
            (1, b'l') => return Some(Field::ContentLength),
            (3, b'v') => (b"via", Field::Via),
            (4, b'f') => (b"from", Field::From),
            (2, b't') => (b"to", Field::To),
            (7, b'c') => (b"call-id", Field::CallId),
            (4, b'c') => (b"cseq", Field::CSeq),
            (12, b'm') => (b"max-forwards", Field::MaxForwards),
            (14, b'c') => (b"content-length", Field::ContentLength),
            _ => return None,
        };
        name.eq_ignore_ascii_case(full).then_some(field)
    }
}

/// Whether any byte is such a one; without a branch for each, so that many are looked at in one step.
#[inline]
fn has(text: &[u8], is_such: impl Fn(u8) -> bool) -> bool {
    text.iter().fold(false, |found, byte| found | is_such(*byte))
}

fn commas(value: &[u8]) -> usize {
    memchr::memchr_iter(b',', value).count()
}

/// Where the tag of a From or To lies, an empty place if there is none; None for what is no value of such a field.
///
/// A display name in quotes, an address in angle brackets or without, then parameters (RFC 3261 section 20.10).
fn read_tag(value: &[u8]) -> Option<Span> {
    let mut at = 0;
    if value.first() == Some(&b'"') {
        at = split_unquoted(value, b'<').next()?.len();
        if at == value.len() {
            return None;
        }
    }
    let bracket = memchr(b'<', value.get(at..)?);
    if let Some(start) = bracket {
        at += start;
        at += memchr(b'>', value.get(at..)?)? + 1;
    }
    let mut parts = split_unquoted(value.get(at..)?, b';');
    let first = parts.next()?;
    if trim(first).is_empty() != bracket.is_some() {
        return None;
    }
    at += first.len() + 1;
    for part in parts {
        let (name, text) = parameter(part);
        if name.eq_ignore_ascii_case(b"tag") {
            let text = text.unwrap_or_default();
            let tag = trim_start(text);
            let start = at + part.len() - tag.len();
            let tag = trim_end(tag);
            return (!tag.is_empty()).then_some(Span::new(start, tag.len()));
        }
        at += part.len() + 1;
    }
    Some(Span::default())
}

/// Whether it is a number and the method of the start line (RFC 3261 section 8.1.1.5).
fn is_cseq(value: &[u8], method: &[u8]) -> bool {
    let Some(end) = value.iter().position(|byte| is_blank(*byte)) else { return false };
    let (digits, named) = value.split_at(end);
    number(digits, CSEQ_END).is_some() && trim(named) == method
}

/// 0, 400 or 513 (RFC 3261 section 18.3). `body_at`: None if the head has no end.
fn size_fault(content_length: Option<&[u8]>, bytes: usize, body_at: Option<usize>, is_stream: bool) -> u16 {
    let Some(body_at) = body_at else {
        return if is_stream && bytes > SIP_MESSAGE_BYTES_MAX { 513 } else { 400 };
    };
    let Some(length) = content_length else { return if is_stream { 400 } else { 0 } };
    let Some(length) = number(length, u64::MAX) else { return 400 };
    let end = body_at as u64 + length;
    if is_stream && end > SIP_MESSAGE_BYTES_MAX as u64 {
        return 513;
    }
    if end > bytes as u64 { 400 } else { 0 }
}
