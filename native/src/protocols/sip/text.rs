//! Pieces of SIP's text: blanks, tokens, numbers, quoted strings, parameters.

use memchr::{memchr, memchr2};

/// Digits that a number of a header may have; ten hold what 32 bits do.
const NUMBER_DIGITS_MAX: usize = 10;

/// Where a piece of a text lies: what is folded is in memory of its own, so pieces of it cannot be borrowed for long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Of so many bytes, from a place on. A message has under 2^32 bytes.
    #[inline]
    pub fn new(start: usize, bytes: usize) -> Self {
        Self { start: start as u32, end: (start + bytes) as u32 }
    }

    /// Where it ends.
    #[inline]
    pub fn end(self) -> usize {
        self.end as usize
    }

    /// Whether nothing lies there.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The piece; empty if the text is not the one that it was found in.
    #[inline]
    pub fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// A blank or a tab.
#[inline]
pub fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A byte that no value may hold.
#[inline]
pub fn is_control(byte: u8) -> bool {
    byte < b' ' && byte != b'\t'
}

/// Whether it is a token (RFC 3261 section 25.1).
#[inline]
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

/// Of a token.
#[inline]
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~' | b'-')
}

/// Without blanks and tabs around it.
#[inline]
pub fn trim(text: &[u8]) -> &[u8] {
    trim_end(trim_start(text))
}

/// Without blanks and tabs in front.
#[inline]
pub fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

/// Without blanks and tabs behind.
#[inline]
pub fn trim_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Digits as a number below `end`; None for anything else.
#[inline]
pub fn number(text: &[u8], end: u64) -> Option<u64> {
    if text.is_empty() || text.len() > NUMBER_DIGITS_MAX || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = text.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    (value < end).then_some(value)
}

/// `name=value`, or `name` alone: the name without blanks around it, the value as written.
#[inline]
pub fn parameter(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr(b'=', text) {
        Some(at) => (trim(text.get(..at).unwrap_or_default()), text.get(at + 1..)),
        None => (trim(text), None),
    }
}

/// The parts between separators, at least one, but separators inside quoted strings separate nothing; a quoted string
/// that does not end holds all the rest.
#[inline]
pub fn split_unquoted(text: &[u8], separator: u8) -> Parts<'_> {
    Parts { rest: Some(text), separator, has_quotes: memchr(b'"', text).is_some() }
}

/// See `split_unquoted`.
pub struct Parts<'t> {
    rest: Option<&'t [u8]>,
    separator: u8,
    has_quotes: bool,
}

impl<'t> Iterator for Parts<'t> {
    type Item = &'t [u8];

    #[inline]
    fn next(&mut self) -> Option<&'t [u8]> {
        let text = self.rest?;
        let end = if self.has_quotes { find_unquoted(text, self.separator) } else { memchr(self.separator, text) };
        let (part, rest) = match end {
            Some(end) => (text.get(..end)?, text.get(end + 1..)),
            None => (text, None),
        };
        self.rest = rest;
        Some(part)
    }
}

/// text: begins outside of a quoted string.
#[cold]
fn find_unquoted(text: &[u8], separator: u8) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(separator, b'"', text.get(at..)?)?;
        if text.get(at) == Some(&separator) {
            return Some(at);
        }
        at = end_of_quoted(text, at + 1)?;
    }
}

/// Where text goes on behind the quoted string that `at` is inside of.
fn end_of_quoted(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr2(b'\\', b'"', text.get(at..)?)?;
        if text.get(at) == Some(&b'"') {
            return Some(at + 1);
        }
        at += 2; // whatever follows a backslash is no quote
    }
}
