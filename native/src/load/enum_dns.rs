//! ENUM as the asking side speaks it: a NAPTR question with EDNS for each number, and what became of it.

use memchr::memmem;

use super::replies::{ECHOED, ERROR, NOT_ALLOCATED, NOT_PORTED, PORTED, REFUSED, Reply, TRUNCATED, UNAVAILABLE};
use crate::limits::{DNS_ANSWER_BYTES_MAX, DNS_NAME_BYTES_MAX, NUMBER_CHARS_MAX};

const HEAD_BYTES: usize = 12;
/// Recursion desired, one question, and one record behind it: what a switch's resolver sends.
const HEAD: [u8; HEAD_BYTES - 2] = [1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
const NAPTR: u16 = 35;
const LABEL_BYTES_MAX: usize = 63;
/// With it a name has room for the longest number that a file may hold.
const APEX_BYTES_MAX: usize = DNS_NAME_BYTES_MAX - 2 * NUMBER_CHARS_MAX;

const IS_REPLY: u16 = 0x8000;
const IS_CUT: u16 = 0x0200;

/// What all questions of a run share.
pub struct Frame {
    /// The apex, NAPTR, IN and the OPT record.
    tail: Vec<u8>,
    framed: bool,
}

impl Frame {
    /// apex: with or without its last dot. framed: two bytes of length before each message (RFC 1035 section 4.2.2).
    /// Errors: the apex is no domain name, or one that leaves no room for numbers.
    pub fn new(apex: &str, framed: bool) -> Result<Frame, String> {
        let mut tail = Vec::new();
        for label in apex.trim_end_matches('.').split('.') {
            if !(1..=LABEL_BYTES_MAX).contains(&label.len()) || !label.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!("{apex:?}: no domain name"));
            }
            tail.push(label.len() as u8);
            tail.extend_from_slice(label.as_bytes());
        }
        tail.push(0);
        if tail.len() > APEX_BYTES_MAX {
            return Err(format!("{apex:?}: longer than {APEX_BYTES_MAX} bytes on the wire"));
        }
        tail.extend_from_slice(&NAPTR.to_be_bytes());
        tail.extend_from_slice(&[0, 1, 0, 0, 41]);
        tail.extend_from_slice(&(DNS_ANSWER_BYTES_MAX as u16).to_be_bytes());
        tail.extend_from_slice(&[0; 6]);
        Ok(Frame { tail, framed })
    }

    /// Write the question for a number whose labels are these behind what is there.
    pub fn write(&self, labels: &[u8], id: u16, message: &mut Vec<u8>) {
        if self.framed {
            let length = HEAD_BYTES + labels.len() + self.tail.len();
            message.extend_from_slice(&(length as u16).to_be_bytes());
        }
        message.extend_from_slice(&id.to_be_bytes());
        message.extend_from_slice(&HEAD);
        message.extend_from_slice(labels);
        message.extend_from_slice(&self.tail);
    }
}

/// A number's labels, the last digit first (RFC 6116 section 3.2). A plus sign and separators are left out; any other
/// character is a label too, which makes a name that does not exist.
pub fn write_labels(number: &str, to: &mut Vec<u8>) {
    for byte in number.bytes().rev().filter(|byte| !b"+-.()".contains(byte)) {
        to.extend_from_slice(&[1, byte]);
    }
}

/// Read a reply; None for bytes that are none.
pub fn read(bytes: &[u8]) -> Option<Reply> {
    let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let flags = word(2);
    let outcome = match flags & 15 {
        _ if flags & IS_REPLY == 0 => ECHOED,
        _ if flags & IS_CUT != 0 => TRUNCATED,
        0 => read_records(rest, word(4), word(6))?,
        2 => UNAVAILABLE,
        3 => NOT_ALLOCATED,
        5 => REFUSED,
        _ => ERROR,
    };
    Some(Reply::of(u32::from(word(0)), outcome, 1))
}

/// The outcome that the first NAPTR record tells; a name without one is a number without an answer.
fn read_records(mut rest: &[u8], questions: u16, answers: u16) -> Option<usize> {
    for _ in 0..questions {
        rest = behind_name(rest)?.get(4..)?;
    }
    for _ in 0..answers {
        let (head, behind) = behind_name(rest)?.split_first_chunk::<10>()?;
        let (data, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes([head[8], head[9]])))?;
        if u16::from_be_bytes([head[0], head[1]]) == NAPTR {
            return read_naptr(data);
        }
        rest = behind;
    }
    Some(NOT_ALLOCATED)
}

/// Order and preference, then flags, services and the regular expression, each behind its length.
fn read_naptr(data: &[u8]) -> Option<usize> {
    let (_, rest) = behind_text(data.get(4..)?)?;
    let (_, rest) = behind_text(rest)?;
    let (rule, _) = behind_text(rest)?;
    let has = |parameter: &[u8]| memmem::find(rule, parameter).is_some();
    Some(if has(b";rn=") || has(b";cic=") {
        PORTED
    } else if has(b";npdi") {
        NOT_PORTED
    } else {
        ERROR
    })
}

fn behind_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

fn behind_name(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (length, rest) = bytes.split_first()?;
        match *length {
            0 => return Some(rest),
            1..=63 => bytes = rest.get(usize::from(*length)..)?,
            0xC0.. => return rest.get(1..),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(number: &str, apex: &str, framed: bool) -> Vec<u8> {
        let (mut labels, mut message) = (Vec::new(), Vec::new());
        write_labels(number, &mut labels);
        Frame::new(apex, framed).unwrap().write(&labels, 0x1A2B, &mut message);
        message
    }

    /// An answer as servers send it: the question, then a record for it.
    fn answer(flags: u16, answers: u16, kind: u16, data: &[u8]) -> Vec<u8> {
        let mut message = question("12", "np.example", false);
        message[2..4].copy_from_slice(&flags.to_be_bytes());
        message[6..8].copy_from_slice(&answers.to_be_bytes());
        message[11] = 0;
        message.truncate(message.len() - 11);
        message.extend_from_slice(&[0xC0, 12]);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        message.extend_from_slice(data);
        message
    }

    fn naptr(rule: &str) -> Vec<u8> {
        let mut data = b"\0\x64\0\x0a\x01u\x0cE2U+pstn:tel".to_vec();
        data.push(rule.len() as u8);
        data.extend_from_slice(rule.as_bytes());
        data.push(0);
        data
    }

    #[test]
    fn question_is_that_of_a_resolver() {
        // The worked example of the protocol's sheet.
        let expected = b"\x1a\x2b\x01\x00\0\x01\0\0\0\0\0\x01\
            \x018\x017\x016\x015\x014\x013\x012\x011\x019\x016\x018\x018\x02np\x07example\0\
            \0\x23\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";
        assert_eq!(question("886912345678", "np.example", false), expected);
        assert_eq!(question("+886-912.345(678)", "np.example.", true), [b"\0\x3f", expected.as_slice()].concat());
        assert_eq!(question("12ab", "x", false)[12..22], *b"\x01b\x01a\x012\x011\x01x");
    }

    #[test]
    fn apex_is_a_name_with_room_for_numbers() {
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(45)].join(".");
        assert!(Frame::new(&long, false).is_ok());
        for apex in ["", ".", "a..b", "a b", &"a".repeat(64), &format!("{long}d"), "\u{e9}"] {
            assert!(Frame::new(apex, false).is_err(), "{apex:?}");
        }
    }

    #[test]
    fn replies_by_code_and_record() {
        let (ported, dipped) = (naptr("!^(.*)$!tel:\\1;npdi;rn=+1402!"), naptr("!^(.*)$!tel:\\1;npdi!"));
        let carrier = naptr("!^(.*)$!tel:\\1;cic=1402;cic-context=x;npdi!");
        let table = [
            (answer(0x8500, 1, NAPTR, &ported), Some(PORTED)),
            (answer(0x8500, 1, NAPTR, &carrier), Some(PORTED)),
            (answer(0x8500, 1, NAPTR, &dipped), Some(NOT_PORTED)),
            (answer(0x8500, 1, NAPTR, &naptr("!^.*$!sip:a@b!")), Some(ERROR)),
            (answer(0x8500, 1, 5, &ported), Some(NOT_ALLOCATED)),
            (answer(0x8500, 0, NAPTR, &ported), Some(NOT_ALLOCATED)),
            (answer(0x8503, 0, NAPTR, &ported), Some(NOT_ALLOCATED)),
            (answer(0x8700, 0, NAPTR, &[]), Some(TRUNCATED)),
            (answer(0x8102, 0, NAPTR, &[]), Some(UNAVAILABLE)),
            (answer(0x8105, 0, NAPTR, &[]), Some(REFUSED)),
            (answer(0x8101, 0, NAPTR, &[]), Some(ERROR)),
            (answer(0x0100, 0, NAPTR, &[]), Some(ECHOED)),
            (answer(0x8500, 2, 5, &ported), None),
            (answer(0x8500, 1, NAPTR, &ported[..20]), None),
            (answer(0x8101, 0, NAPTR, &[])[..11].to_vec(), None),
        ];
        for (message, outcome) in table {
            assert_eq!(read(&message), outcome.map(|outcome| Reply::of(0x1A2B, outcome, 1)), "{message:?}");
        }
    }

    #[test]
    fn reply_that_is_cut_anywhere_is_none() {
        let whole = answer(0x8500, 1, NAPTR, &naptr("!^(.*)$!tel:\\1;npdi!"));
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), None, "{length}");
        }
    }
}
