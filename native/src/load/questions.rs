//! What is asked, encoded ahead: messages in which little more than the id is still to be put.

use std::net::SocketAddr;

use super::enum_dns;
use super::sip;
use crate::limits::{NPQ_NUMBERS_MAX, NUMBER_CHARS_MAX};

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Our own, with ids of 32 bits.
    Npq,
    /// That of SIP proxies, version 1, with ids of 16 bits.
    Pdb,
    /// NAPTR questions, with ids of 16 bits.
    Enum,
    /// INVITE requests, with ids of 32 bits in what tells a call from any other.
    Sip,
}

impl Dialect {
    /// Bits of an id.
    pub fn id_bits(self) -> u32 {
        match self {
            Dialect::Npq | Dialect::Sip => 32,
            Dialect::Pdb | Dialect::Enum => 16,
        }
    }

    /// Where ids begin. Of `npq` at the first one that takes four bytes in an answer too: answers of one length
    /// can be joined.
    pub fn first_id(self) -> u32 {
        match self {
            Dialect::Npq => 0x1_0000,
            Dialect::Pdb | Dialect::Enum | Dialect::Sip => 0,
        }
    }
}

/// Numbers of a file at most: what is particular to each message is held in memory, some 25 bytes.
pub const NUMBERS_MAX: usize = 1 << 22;
/// Numbers drawn of a range: a million touches every block of any plan's store, and is drawn in a tenth of a second.
pub const NUMBERS_DRAWN: usize = 1 << 20;

/// Version 1, kind 0, and the head of an id of four bytes.
const NPQ_HEAD: [u8; 4] = [0x95, 1, 0, 0xCE];
const NPQ_DETAIL_NONE: u8 = 0;
const PDB_HEAD_BYTES: usize = 6;

/// Messages to be asked one after another, and from the first again.
pub struct Questions {
    /// Which protocol they are of.
    pub dialect: Dialect,
    /// What is particular to each: a whole message of npq and pdb, of ENUM the labels, of SIP the number.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    shape: Shape,
}

/// What is put around that.
enum Shape {
    Whole { id_at: usize },
    Enum(enum_dns::Frame),
    Sip(sip::Invite),
}

impl Questions {
    /// Of npq, and of pdb. numbers: at least one, each 1 to 40 printable characters (see `read_numbers`). batch: numbers
    /// in each message, 1 to 1,000, of `pdb` 1; the last one is filled up from the first number. framed: as frames.
    pub fn new(dialect: Dialect, numbers: &[Box<str>], batch: usize, framed: bool) -> Questions {
        let (length_bytes, batch) = (if framed { 4 } else { 0 }, batch.clamp(1, NPQ_NUMBERS_MAX));
        let shape = Shape::Whole { id_at: length_bytes + 4 };
        let mut questions = Questions { dialect, bytes: Vec::new(), ends: Vec::new(), shape };
        let messages = numbers.len().div_ceil(batch);
        let mut rest = numbers.iter().cycle();
        for _ in 0..messages {
            let start = questions.bytes.len();
            questions.bytes.resize(start + length_bytes, 0);
            match dialect {
                Dialect::Npq => encode_npq(&mut questions.bytes, rest.by_ref().take(batch), batch),
                _ => encode_pdb(&mut questions.bytes, rest.next().map_or("", |number| number)),
            }
            let length = (questions.bytes.len() - start - length_bytes) as u32;
            questions.bytes[start..start + length_bytes].copy_from_slice(&length.to_be_bytes()[..length_bytes]);
            questions.ends.push(questions.bytes.len());
        }
        questions
    }

    /// Of ENUM, below an apex. numbers: as above. Errors: the apex is no domain name, or too long.
    pub fn of_enum(numbers: &[Box<str>], apex: &str, framed: bool) -> Result<Questions, String> {
        let shape = Shape::Enum(enum_dns::Frame::new(apex, framed)?);
        Ok(Questions::of_parts(Dialect::Enum, shape, numbers, enum_dns::write_labels))
    }

    /// Of SIP. numbers: as above, and as they stand in the Request-URI. server: its host. run: differs between runs.
    pub fn of_sip(numbers: &[Box<str>], server: SocketAddr, tcp: bool, run: u32) -> Questions {
        let shape = Shape::Sip(sip::Invite::new(server, tcp, run));
        Questions::of_parts(Dialect::Sip, shape, numbers, sip::write_number)
    }

    fn of_parts(dialect: Dialect, shape: Shape, numbers: &[Box<str>], write: fn(&str, &mut Vec<u8>)) -> Questions {
        let mut questions = Questions { dialect, bytes: Vec::new(), ends: Vec::new(), shape };
        for number in numbers {
            write(number, &mut questions.bytes);
            questions.ends.push(questions.bytes.len());
        }
        questions
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is nothing to ask.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Write the `at`-th message (from the first again behind the last) under this id into `message`. line: which of the
    /// run's sockets asks; ids are each socket's own.
    pub fn write(&self, at: usize, id: u32, line: u16, message: &mut Vec<u8>) {
        let at = at % self.ends.len();
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        message.clear();
        let particular = &self.bytes[start..self.ends[at]];
        match &self.shape {
            Shape::Enum(frame) => frame.write(particular, id as u16, message),
            Shape::Sip(invite) => invite.write(particular, line, id, message),
            Shape::Whole { id_at } => {
                message.extend_from_slice(particular);
                // The id's lower bytes, as many as the dialect has.
                let id = id.to_be_bytes();
                let id = &id[id.len() - self.dialect.id_bits() as usize / 8..];
                message[*id_at..*id_at + id.len()].copy_from_slice(id);
            }
        }
    }
}

fn encode_npq<'a>(to: &mut Vec<u8>, numbers: impl Iterator<Item = &'a Box<str>>, batch: usize) {
    to.extend_from_slice(&NPQ_HEAD);
    to.extend_from_slice(&[0; 4]);
    match batch {
        1 => {}
        2..=15 => to.push(0x90 | batch as u8),
        _ => {
            to.push(0xDC);
            to.extend_from_slice(&(batch as u16).to_be_bytes());
        }
    }
    for number in numbers {
        match number.len() {
            length @ 0..=31 => to.push(0xA0 | length as u8),
            length => to.extend_from_slice(&[0xD9, length as u8]),
        }
        to.extend_from_slice(number.as_bytes());
    }
    to.push(NPQ_DETAIL_NONE);
}

fn encode_pdb(to: &mut Vec<u8>, number: &str) {
    let length = PDB_HEAD_BYTES + number.len() + 1;
    to.extend_from_slice(&[1, 0, 0, length as u8, 0, 0]);
    to.extend_from_slice(number.as_bytes());
    to.push(0);
}

/// Numbers of a file, one a line; empty lines and those that begin with `#` are passed over.
///
/// Errors: the line and the reason; too many, or none.
pub fn read_numbers(text: &[u8]) -> Result<Vec<Box<str>>, String> {
    let mut numbers = Vec::new();
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        if line.len() > NUMBER_CHARS_MAX || !line.iter().all(u8::is_ascii_graphic) {
            return Err(format!("line {}: a number is 1 to {NUMBER_CHARS_MAX} characters without spaces", at + 1));
        }
        if numbers.len() == NUMBERS_MAX {
            return Err(format!("line {}: more than {NUMBERS_MAX} numbers: ask --range, or a part", at + 1));
        }
        numbers.push(String::from_utf8_lossy(line).into());
    }
    if numbers.is_empty() { Err("no number in it".into()) } else { Ok(numbers) }
}

/// Numbers of a range, drawn evenly with repetition: the same ones for the same seed. first: not above last.
pub fn draw_numbers(first: u64, last: u64, seed: u64, count: usize) -> Vec<Box<str>> {
    let width = u128::from(last.saturating_sub(first)) + 1;
    let mut state = seed;
    (0..count)
        .map(|_| {
            let place = (u128::from(next_random(&mut state)) * width) >> 64;
            (first + place as u64).to_string().into()
        })
        .collect()
}

/// The generator `SplitMix64`: every seed gives a sequence of its own.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(all: &[&str]) -> Vec<Box<str>> {
        all.iter().map(|number| (*number).into()).collect()
    }

    fn written(questions: &Questions, at: usize, id: u32) -> Vec<u8> {
        let mut message = Vec::new();
        questions.write(at, id, 0, &mut message);
        message
    }

    #[test]
    fn npq_messages_have_the_id_in_four_bytes() {
        let asked = Questions::new(Dialect::Npq, &numbers(&["886912345678", "110"]), 1, false);
        assert_eq!(asked.len(), 2);
        assert_eq!(written(&asked, 0, 0x0102_0304), b"\x95\x01\x00\xce\x01\x02\x03\x04\xac886912345678\x00");
        assert_eq!(written(&asked, 3, 5), b"\x95\x01\x00\xce\x00\x00\x00\x05\xa3110\x00");
    }

    #[test]
    fn batches_are_filled_up_and_framed() {
        let asked = Questions::new(Dialect::Npq, &numbers(&["1", "2", "3"]), 2, true);
        assert_eq!(asked.len(), 2);
        assert_eq!(written(&asked, 1, 9), b"\x00\x00\x00\x0e\x95\x01\x00\xce\x00\x00\x00\x09\x92\xa13\xa11\x00");
        let asked = Questions::new(Dialect::Npq, &numbers(&["1"]), 1000, false);
        assert_eq!(written(&asked, 0, 0)[8..11], [0xDC, 3, 0xE8]);
    }

    #[test]
    fn pdb_messages_have_length_and_id_of_two_bytes() {
        let asked = Questions::new(Dialect::Pdb, &numbers(&["110"]), 1, false);
        assert_eq!(written(&asked, 0, 0xFFFE), b"\x01\x00\x00\x0a\xff\xfe110\x00");
    }

    #[test]
    fn enum_and_sip_messages_are_put_together_when_they_leave() {
        let all = numbers(&["+886912345678", "110"]);
        let asked = Questions::of_enum(&all, "np.example", false).unwrap();
        assert_eq!((asked.len(), &written(&asked, 3, 0x1_FFFE)[..2]), (2, &b"\xff\xfe"[..]));
        assert_eq!(written(&asked, 3, 0)[12..22], *b"\x010\x011\x011\x02np\x07");
        assert!(Questions::of_enum(&all, "np..example", false).is_err());
        let asked = Questions::of_sip(&all, "127.0.0.1:5060".parse().unwrap(), false, 1);
        assert!(written(&asked, 0, 1).starts_with(b"INVITE sip:+886912345678@127.0.0.1:5060;"));
        assert!(written(&asked, 1, 1).starts_with(b"INVITE sip:110@127.0.0.1:5060;"));
        assert_ne!(written(&asked, 0, 1), written(&asked, 0, 2));
        let mut other_line = Vec::new();
        asked.write(0, 1, 1, &mut other_line);
        assert_ne!(written(&asked, 0, 1), other_line);
    }

    #[test]
    fn long_numbers_have_their_own_head() {
        let number = "1".repeat(40);
        let asked = Questions::new(Dialect::Npq, &numbers(&[&number]), 1, false);
        assert_eq!(written(&asked, 0, 0)[8..10], [0xD9, 40]);
    }

    #[test]
    fn files_are_read_line_by_line_and_told_by_line() {
        assert_eq!(read_numbers(b"1\r\n\n# two\n +2 \n3").unwrap(), numbers(&["1", "+2", "3"]));
        assert!(read_numbers(b"").is_err());
        assert!(read_numbers(b"1\n2 3\n").unwrap_err().starts_with("line 2:"));
        assert!(read_numbers("1\n2\n\u{661}\n".as_bytes()).unwrap_err().starts_with("line 3:"));
        assert!(read_numbers(&[b'1'; 41]).is_err());
    }

    #[test]
    fn ranges_are_drawn_evenly_and_the_same_for_a_seed() {
        let drawn = draw_numbers(100, 109, 1, 50_000);
        assert_eq!(drawn, draw_numbers(100, 109, 1, 50_000));
        assert_ne!(drawn, draw_numbers(100, 109, 2, 50_000));
        for digit in 100..=109 {
            let count = drawn.iter().filter(|number| ***number == *digit.to_string()).count();
            assert!(count.abs_diff(5_000) < 400, "{digit}: {count}");
        }
        assert_eq!(*draw_numbers(u64::MAX, u64::MAX, 0, 1)[0], *u64::MAX.to_string());
    }
}
