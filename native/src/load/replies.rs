//! Replies as far as the asking side looks at them: the id, and the outcome of each number.

use super::questions::Dialect;
use super::{enum_dns, sip};

/// Kinds of outcomes that are counted, of any dialect.
pub const OUTCOMES: usize = 8;
const NPQ_OUTCOMES: u64 = 6;
pub(super) const PORTED: usize = 0;
pub(super) const NOT_PORTED: usize = 1;
pub(super) const NOT_ALLOCATED: usize = 2;
pub(super) const NOT_PORTABLE: usize = 3;
/// Of ENUM, which does not tell numbers that cannot be ported: come again over TCP.
pub(super) const TRUNCATED: usize = 3;
pub(super) const UNAVAILABLE: usize = 4;
pub(super) const REFUSED: usize = 5;
pub(super) const ERROR: usize = 6;
/// The question itself came back, as from an echo.
pub(super) const ECHOED: usize = 7;

/// The names of the counts, in their order; an empty one is never counted.
pub fn labels(dialect: Dialect) -> [&'static str; OUTCOMES] {
    match dialect {
        Dialect::Npq | Dialect::Sip => {
            ["ported", "not_ported", "not_allocated", "not_portable", "unavailable", "refused", "error", "echoed"]
        }
        Dialect::Enum => {
            ["ported", "not_ported", "not_allocated", "truncated", "unavailable", "refused", "error", "echoed"]
        }
        Dialect::Pdb => ["ok", "not_found", "not_number", "", "", "", "", "echoed"],
    }
}

/// One reply.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// That of its question.
    pub id: u32,
    /// Numbers by outcome.
    pub outcomes: [u32; OUTCOMES],
}

impl Reply {
    pub(super) fn of(id: u32, outcome: usize, count: u32) -> Reply {
        let mut outcomes = [0; OUTCOMES];
        outcomes[outcome] = count;
        Reply { id, outcomes }
    }
}

/// Read a reply; None for bytes that are none.
pub fn read(dialect: Dialect, bytes: &[u8]) -> Option<Reply> {
    match dialect {
        Dialect::Npq => read_npq(&mut Rest(bytes)),
        Dialect::Pdb => read_pdb(bytes),
        Dialect::Enum => enum_dns::read(bytes),
        Dialect::Sip => sip::read(bytes),
    }
}

fn read_pdb(bytes: &[u8]) -> Option<Reply> {
    let [version, kind, code, length, high, low, rest @ ..] = bytes else { return None };
    let id = u32::from(u16::from_be_bytes([*high, *low]));
    if *version != 1 || usize::from(*length) != bytes.len() {
        return None;
    }
    let outcome = match (kind, code) {
        (0, _) => ECHOED,
        (1, 1) if matches!(rest, [.., 0, _, _]) => 0,
        (1, 3) => 1,
        (1, 2) => 2,
        _ => return None,
    };
    Some(Reply::of(id, outcome, 1))
}

fn read_npq(rest: &mut Rest<'_>) -> Option<Reply> {
    let elements = rest.array()?;
    let (1, kind) = (rest.unsigned()?, rest.unsigned()?) else { return None };
    let id = u32::try_from(rest.unsigned()?).ok()?;
    match kind {
        0 => {
            let numbers = if rest.is_array() { rest.array()? } else { 1 };
            Some(Reply::of(id, ECHOED, numbers as u32))
        }
        1 if elements >= 6 => {
            rest.skip(2)?; // serial, age
            let mut reply = Reply::of(id, 0, 0);
            let first = rest.array()?;
            if rest.is_array() {
                for _ in 0..first {
                    let elements = rest.array()?;
                    count_result(rest, elements, &mut reply)?;
                }
            } else if first > 0 {
                count_result(rest, first, &mut reply)?;
            }
            Some(reply)
        }
        2 => Some(Reply::of(id, ERROR, 1)),
        _ => None,
    }
}

/// One result whose array head has been read.
fn count_result(rest: &mut Rest<'_>, elements: usize, reply: &mut Reply) -> Option<()> {
    let outcome = rest.unsigned().filter(|outcome| *outcome < NPQ_OUTCOMES)?;
    reply.outcomes[outcome as usize] += 1;
    rest.skip(elements.checked_sub(1)?)
}

/// What is left of a MessagePack message.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take(&mut self, count: usize) -> Option<u64> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn pass(&mut self, count: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(count).ok()?..)?;
        Some(())
    }

    fn is_array(&self) -> bool {
        matches!(self.0.first(), Some(0x90..=0x9F | 0xDC | 0xDD))
    }

    fn array(&mut self) -> Option<usize> {
        match self.take(1)? {
            head @ 0x90..=0x9F => Some(head as usize & 15),
            0xDC => self.take(2).map(|count| count as usize),
            0xDD => self.take(4).map(|count| count as usize),
            _ => None,
        }
    }

    fn unsigned(&mut self) -> Option<u64> {
        match self.take(1)? {
            value @ 0..=0x7F => Some(value),
            0xCC => self.take(1),
            0xCD => self.take(2),
            0xCE => self.take(4),
            0xCF => self.take(8),
            _ => None,
        }
    }

    /// Pass over so many values, with all that is in them; each takes a byte at least, so this ends.
    fn skip(&mut self, values: usize) -> Option<()> {
        let mut left = values as u64;
        while left > 0 {
            left -= 1;
            let (bytes, values) = match self.take(1)? as u8 {
                0..=0x7F | 0xE0.. | 0xC0 | 0xC2 | 0xC3 => (0, 0),
                head @ 0x80..=0x8F => (0, u64::from(head & 15) * 2),
                head @ 0x90..=0x9F => (0, u64::from(head & 15)),
                head @ 0xA0..=0xBF => (u64::from(head & 31), 0),
                0xC4 | 0xD9 => (self.take(1)?, 0),
                0xC5 | 0xDA => (self.take(2)?, 0),
                0xC6 | 0xDB => (self.take(4)?, 0),
                0xCC | 0xD0 => (1, 0),
                0xCD | 0xD1 | 0xD4 => (2, 0),
                0xD5 => (3, 0),
                0xCE | 0xD2 | 0xCA => (4, 0),
                0xD6 => (5, 0),
                0xCF | 0xD3 | 0xCB => (8, 0),
                0xD7 => (9, 0),
                0xD8 => (17, 0),
                0xDC => (0, self.take(2)?),
                0xDD => (0, self.take(4)?),
                0xDE => (0, self.take(2)? * 2),
                0xDF => (0, self.take(4)? * 2),
                0xC7 => (self.take(1)? + 1, 0),
                0xC8 => (self.take(2)? + 1, 0),
                0xC9 => (self.take(4)? + 1, 0),
                0xC1 => return None,
            };
            self.pass(bytes)?;
            left += values;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::load::frames::cut;

    fn npq(bytes: &[u8]) -> Option<(u32, Vec<u32>)> {
        read(Dialect::Npq, bytes).map(|reply| (reply.id, reply.outcomes.to_vec()))
    }

    #[test]
    fn npq_answers_of_one_and_of_many_are_counted() {
        // [1, 1, 7, 5, 60, [0, "1402", "D0402", 0]]
        let one = b"\x96\x01\x01\x07\x05\x3c\x94\x00\xa41402\xa5D0402\x00";
        assert_eq!(npq(one), Some((7, vec![1, 0, 0, 0, 0, 0, 0, 0])));
        // [1, 1, 70000, 5, nil, [[4, nil, nil, 0], [1, "1401", nil, 1, 886912, "a name", {later: x}], [1, ...]]]
        let many = b"\x96\x01\x01\xce\x00\x01\x11\x70\x05\xc0\x93\x94\x04\xc0\xc0\x00\
            \x97\x01\xa41401\xc0\x01\xcd\x03\x78\xa1a\x81\x01\x02\x91\x01";
        assert_eq!(npq(many), Some((70_000, vec![0, 2, 0, 0, 1, 0, 0, 0])));
        assert_eq!(npq(b"\x96\x01\x01\x07\x05\x3c\x90"), Some((7, vec![0; 8])));
    }

    #[test]
    fn errors_echoes_and_what_is_no_answer() {
        assert_eq!(npq(b"\x95\x01\x02\x07\x01\xa1x"), Some((7, vec![0, 0, 0, 0, 0, 0, 1, 0])));
        assert_eq!(npq(b"\x95\x01\x00\x07\xa1x\x00"), Some((7, vec![0, 0, 0, 0, 0, 0, 0, 1])));
        assert_eq!(npq(b"\x95\x01\x00\x07\x93\xa1x\xa1x\xa1x\x00"), Some((7, vec![0, 0, 0, 0, 0, 0, 0, 3])));
        for bytes in [&b""[..], b"\x95", b"\x95\x02\x02\x07\x01\xa1x", b"\x95\x01\x02\xc0\x01\xa1x", b"\x01\x01\x01"] {
            assert_eq!(npq(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn pdb_replies_by_code() {
        let table: [(&[u8], Option<usize>); 9] = [
            (b"\x01\x01\x01\x0c\x00\x09110\x00\x00\x65", Some(0)),
            (b"\x01\x01\x03\x06\x00\x09", Some(1)),
            (b"\x01\x01\x02\x06\x00\x09", Some(2)),
            (b"\x01\x00\x00\x0a\x00\x09110\x00", Some(7)),
            (b"\x01\x01\x01\x06\x00\x09", None),
            (b"\x01\x01\x03\x07\x00\x09", None),
            (b"\x01\x01\x04\x06\x00\x09", None),
            (b"\x02\x01\x03\x06\x00\x09", None),
            (b"\x01\x01\x03\x05\x00", None),
        ];
        for (bytes, outcome) in table {
            assert_eq!(read(Dialect::Pdb, bytes), outcome.map(|outcome| Reply::of(9, outcome, 1)), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_not(bytes: Vec<u8>) {
            let _ = read(Dialect::Npq, &bytes);
            let _ = read(Dialect::Pdb, &bytes);
            let _ = read(Dialect::Enum, &bytes);
            let _ = read(Dialect::Sip, &bytes);
            for dialect in [Dialect::Npq, Dialect::Enum, Dialect::Sip] {
                let _ = cut(dialect, &bytes);
            }
            let behind = |head: &[u8]| [head, &bytes].concat();
            let _ = read(Dialect::Npq, &behind(b"\x96\x01\x01\x07\x05\x3c"));
            let _ = read(Dialect::Enum, &behind(b"\0\x07\x85\0\0\0\0\x01\0\0\0\0"));
            let _ = read(Dialect::Enum, &behind(b"\0\x07\x85\0\0\0\0\x01\0\0\0\0\0\0\x23\0\x01\0\0\0\0\0\x20\0\0\0\0"));
        }

        #[test]
        fn any_text_in_a_sip_reply_is_read_or_not(
            via in "[ -~]{0,80}", contact in "[;:<>@=a-z+0-9]{0,40}", to in "[;:<>@=a-z+0-9]{0,40}"
        ) {
            let text = format!(
                "SIP/2.0 302 x\r\nVia: {via}branch=z9hG4bKc0ffee0000030000feed\r\nContact: {contact}\r\nTo: {to}\r\n\
                 CSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
            );
            prop_assert_eq!(cut(Dialect::Sip, text.as_bytes()).unwrap(), Some(0..text.len()));
            let reply = read(Dialect::Sip, text.as_bytes()).unwrap();
            let outcome = reply.outcomes.iter().position(|count| *count == 1).unwrap();
            prop_assert!([PORTED, NOT_PORTED, ERROR].contains(&outcome));
        }
    }
}
