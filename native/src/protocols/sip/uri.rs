//! The number that a Request-URI asks for, and the URI of the Contact that answers it. Mirrors
//! `lookupd/protocols/sip_uri.py`.

use memchr::{memchr, memchr2};

use super::text::Span;
use super::via::{behind, is_address_byte, is_name_byte};
use super::{Form, Profile};
use crate::limits::NUMBER_CHARS_MAX;
use crate::model::Drop;

/// Of a number as it is written; each character may be escaped.
const ESCAPED_MAX: usize = 3 * NUMBER_CHARS_MAX;
const CONTEXT_MAX: usize = 64;
/// A `+`, and the digits of a context and of a number.
const DIALLED_MAX: usize = 1 + CONTEXT_MAX + ESCAPED_MAX;
const PORT_DIGITS_MAX: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Sip,
    Sips,
    Tel,
}

/// What a Request-URI asks for; pieces are of that URI.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    scheme: Scheme,
    /// As written.
    number: Span,
    /// The phone-context as written; empty if there is none, or none that can be repeated.
    context: Span,
    /// With its port, as written; empty in a tel URI.
    host: Span,
    /// Whether the number has `npdi` or `rn` already (RFC 4694 section 5).
    pub is_dipped: bool,
}

/// A number without separators, as it was dialled; empty = not a number.
#[derive(Debug)]
pub struct Dialled {
    bytes: [u8; DIALLED_MAX],
    length: usize,
    /// Where the digits of the number alone begin, behind those of its context.
    digits_at: usize,
}

impl Dialled {
    /// As `Plan::digits` takes it.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Of the number alone.
    pub fn digits(&self) -> &[u8] {
        self.bytes.get(self.digits_at..self.length).unwrap_or_default()
    }

    /// Of the context that completes it; empty if none does.
    #[inline]
    pub fn context(&self) -> &[u8] {
        self.bytes.get(1..self.digits_at).unwrap_or_default()
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn clear(&mut self) {
        self.length = 0;
    }

    /// Append the digits of a number as written. Whether it is in the global form; None if it is no number.
    #[inline]
    fn take(&mut self, written: &[u8]) -> Option<bool> {
        if written.len() > ESCAPED_MAX {
            return None;
        }
        let (mut is_global, before) = (false, self.length);
        let mut is_first = true;
        let mut rest = written;
        while let [byte, behind @ ..] = rest {
            let (byte, behind) = if *byte == b'%' { unescape(behind) } else { (*byte, behind) };
            rest = behind;
            match byte {
                b'0'..=b'9' => self.push(byte),
                b'-' | b'.' | b'(' | b')' | b' ' => continue,
                b'+' if is_first => is_global = true,
                _ => return None,
            }
            is_first = false;
        }
        (self.length > before).then_some(is_global)
    }
}

/// The byte that two hex digits behind a `%` stand for; without them the `%` itself, which no number has.
fn unescape(text: &[u8]) -> (u8, &[u8]) {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if let [high, low, rest @ ..] = text
        && let (Some(high), Some(low)) = (digit(*high), digit(*low))
    {
        return ((high * 16 + low) as u8, rest);
    }
    (b'%', text)
}

impl Target {
    /// The error is `NotAQuery` for another scheme, `Malformed` for a host that is none.
    pub fn read(uri: &[u8]) -> Result<Target, Drop> {
        let colon = memchr(b':', uri).ok_or(Drop::NotAQuery)?;
        let (name, rest) = (uri.get(..colon).unwrap_or_default(), uri.get(colon + 1..).unwrap_or_default());
        let scheme = match name.len() {
            3 if name.eq_ignore_ascii_case(b"sip") => Scheme::Sip,
            4 if name.eq_ignore_ascii_case(b"sips") => Scheme::Sips,
            3 if name.eq_ignore_ascii_case(b"tel") => Scheme::Tel,
            _ => return Err(Drop::NotAQuery),
        };
        let mut target = Target {
            scheme,
            number: Span::default(),
            context: Span::default(),
            host: Span::default(),
            is_dipped: false,
        };
        if scheme == Scheme::Tel {
            target.read_user(rest, colon + 1);
            return Ok(target);
        }
        let (user, host) = match memchr(b'@', rest) {
            Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..).unwrap_or_default()),
            None => (&[][..], rest),
        };
        let host_at = uri.len() - host.len();
        let host = host.get(..memchr2(b';', b'?', host).unwrap_or(host.len())).unwrap_or_default();
        if !is_host_port(host) {
            return Err(Drop::Malformed);
        }
        target.host = Span::new(host_at, host.len());
        let user = user.get(..memchr(b':', user).unwrap_or(user.len())).unwrap_or_default();
        target.read_user(user, colon + 1);
        Ok(target)
    }

    /// user: a number and its parameters. at: its place in the URI.
    fn read_user(&mut self, user: &[u8], mut at: usize) {
        let mut has_context = false;
        for (place, part) in user.split(|byte| *byte == b';').enumerate() {
            let end = memchr(b'=', part).unwrap_or(part.len());
            let name = part.get(..end).unwrap_or_default();
            if place == 0 {
                self.number = Span::new(at, part.len());
            } else if name.eq_ignore_ascii_case(b"npdi") || name.eq_ignore_ascii_case(b"rn") {
                self.is_dipped = true;
            } else if !has_context && name.eq_ignore_ascii_case(b"phone-context") {
                has_context = true;
                let value = part.get(end + 1..).unwrap_or_default();
                if is_context(value) {
                    self.context = Span::new(at + end + 1, value.len());
                }
            }
            at += part.len() + 1;
        }
    }

    /// What was dialled. A local number with a context of digits is a global one (RFC 3966 section 5.1.5). uri: the
    /// one that was read.
    #[inline]
    pub fn dialled(&self, uri: &[u8]) -> Dialled {
        let mut dialled = Dialled { bytes: [0; DIALLED_MAX], length: 0, digits_at: 0 };
        dialled.push(b'+');
        let number = self.number.of(uri);
        match dialled.take(number) {
            None => dialled.clear(),
            Some(true) => dialled.digits_at = 1,
            Some(false) => {
                let context = self.context.of(uri);
                dialled.length = 1;
                if context.is_empty() || dialled.take(context) != Some(true) {
                    dialled.clear();
                }
                dialled.digits_at = dialled.length;
                dialled.take(number);
            }
        }
        dialled
    }

    /// Append the Contact's value, in angle brackets. uri: the one that was read, whose number was found; it is answered
    /// by a tel URI if it is one, unless the profile has a domain.
    pub fn write_contact(&self, uri: &[u8], profile: &Profile, rn: Option<&str>, cic: Option<&str>, out: &mut Vec<u8>) {
        let host = if profile.domain.is_empty() { self.host.of(uri) } else { profile.domain.as_bytes() };
        out.extend_from_slice(match self.scheme {
            _ if host.is_empty() => b"<tel:",
            Scheme::Sips => b"<sips:",
            Scheme::Sip | Scheme::Tel => b"<sip:",
        });
        let form = if rn.is_none() { Form::Parameter } else { profile.form };
        let rn_text = rn.unwrap_or_default();
        match form {
            Form::Parameter => {
                out.extend_from_slice(self.number.of(uri));
                if !self.context.is_empty() {
                    out.extend_from_slice(b";phone-context=");
                    out.extend_from_slice(self.context.of(uri));
                }
                profile.parameters.write(rn, cic, out);
            }
            Form::Replace => {
                if profile.parameters.rn_context.is_empty() {
                    out.push(b'+');
                }
                out.extend_from_slice(rn_text.as_bytes());
            }
            Form::Prefix => {
                out.extend_from_slice(rn_text.as_bytes());
                out.extend_from_slice(self.dialled(uri).digits());
            }
        }
        if form != Form::Parameter {
            out.push(b';');
            out.extend_from_slice(profile.parameters.npdi.as_bytes());
        }
        if !host.is_empty() {
            out.push(b'@');
            out.extend_from_slice(host);
            out.extend_from_slice(b";user=phone");
        }
        out.push(b'>');
    }
}

/// Whether it may stand in a Contact again: a domain name, or digits with separators and their escapes.
fn is_context(text: &[u8]) -> bool {
    let is_such = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'(' | b')' | b'%' | b'-');
    (1..=CONTEXT_MAX).contains(&text.len()) && text.iter().all(is_such)
}

/// A name, an address, or an IPv6 address in brackets; perhaps a port behind it.
fn is_host_port(text: &[u8]) -> bool {
    let rest = match text.strip_prefix(b"[") {
        Some(inner) => behind(inner, is_address_byte).and_then(|rest| rest.strip_prefix(b"]")),
        None => behind(text, is_name_byte),
    };
    match rest {
        Some([]) => true,
        Some([b':', port @ ..]) => (1..=PORT_DIGITS_MAX).contains(&port.len()) && port.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}
