//! Our own protocol, MessagePack in small arrays. `lookupd/protocols/npq.py` has the whole story; every byte agrees
//! with it, and exactly the messages that it refuses are refused here.

use crate::limits::{NPQ_NUMBERS_MAX, NUMBER_CHARS_MAX};
use crate::model::{Answer, Drop, InForce};
use crate::msgpack::{
    Integer, Reader, array_head, write_array, write_integer, write_nil, write_text, write_text_or_nil,
};

const VERSION: u8 = 1;
const QUERY: u8 = 0;
const ANSWER: u8 = 1;
const ERROR: u8 = 2;

const DETAIL_NAMES: u64 = 1;
const FLAG_RESTRICTED: u64 = 1;
const MEASURE_SHIFT: u32 = 1;
const UNTIL_SHIFT: u32 = 4;

/// No query.
pub const ERROR_MALFORMED: u8 = 1;
/// A version that is not spoken here.
pub const ERROR_VERSION: u8 = 2;
/// No number, or more than a query may hold.
pub const ERROR_TOO_MANY: u8 = 3;

/// Elements that every query has, and those that every version's query has.
const QUERY_ELEMENTS_MIN: usize = 4;
const QUERY_ELEMENTS_KNOWN: usize = 5;
const HEAD_ELEMENTS_MIN: usize = 3;

/// UTF-8 has at most four bytes a character.
const NUMBER_BYTES_MAX: usize = 4 * NUMBER_CHARS_MAX;

/// A number as it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number<'a> {
    /// At most 40 characters of any kind.
    Text(&'a str),
    /// E.164 with its country code.
    Whole(u64),
}

impl Number<'_> {
    /// What was dialled, as text; room: where it is written if it came as an integer.
    #[inline]
    pub fn dialled<'b>(&'b self, room: &'b mut [u8; 20]) -> &'b [u8] {
        match *self {
            Number::Text(text) => text.as_bytes(),
            Number::Whole(mut value) => {
                let mut digits = 0;
                for to in room.iter_mut().rev() {
                    *to = b'0' + (value % 10) as u8;
                    value /= 10;
                    digits += 1;
                    if value == 0 {
                        break;
                    }
                }
                room.get(room.len() - digits..).unwrap_or_default()
            }
        }
    }
}

/// The numbers of a batch, left where they are in the message; each was found to be one.
#[derive(Clone, Copy, Debug)]
pub struct Many<'a> {
    /// How many there are: 1 to `NPQ_NUMBERS_MAX`.
    pub count: usize,
    reader: Reader<'a>,
}

impl<'a> Many<'a> {
    /// The numbers in the order asked.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Number<'a>> + use<'a> {
        let mut reader = self.reader;
        (0..self.count).map_while(move |_| read_number(&mut reader))
    }
}

/// What a query asks.
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    /// A single number: the answer has a single result.
    One(Number<'a>),
    /// An array of numbers: the answer has an array of results.
    Many(Many<'a>),
}

/// One query message, borrowed from its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Echoed, never interpreted.
    pub id: u32,
    /// Whether the number in E.164 form and the operator's name are wanted too.
    pub names: bool,
    /// What is asked.
    pub numbers: Numbers<'a>,
}

/// Why a message is no query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It gets no error message, except where every message gets one.
    Drop(Drop),
    /// It gets an error message.
    Refused {
        /// The query's; None when it could not be read.
        id: Option<u32>,
        /// `ERROR_MALFORMED`, `ERROR_VERSION` or `ERROR_TOO_MANY`.
        code: u8,
    },
}

impl Fault {
    /// How the query is counted.
    pub fn reason(&self) -> Drop {
        match *self {
            Fault::Drop(reason) => reason,
            Fault::Refused { code: ERROR_VERSION, .. } => Drop::NotAQuery,
            Fault::Refused { .. } => Drop::Malformed,
        }
    }
}

/// Reads one query message.
#[inline]
pub fn decode_query(message: &[u8]) -> Result<Query<'_>, Fault> {
    let Some(found) = read_query(message) else { return Err(why(message)) };
    if found.kind != Integer::Positive(u64::from(QUERY)) {
        return Err(Fault::Drop(Drop::NotAQuery));
    }
    let query = found.query;
    if found.version != Integer::Positive(u64::from(VERSION)) {
        return Err(Fault::Refused { id: Some(query.id), code: ERROR_VERSION });
    }
    if let Numbers::Many(many) = query.numbers
        && !(1..=NPQ_NUMBERS_MAX).contains(&many.count)
    {
        return Err(Fault::Refused { id: Some(query.id), code: ERROR_TOO_MANY });
    }
    Ok(query)
}

/// A message with the layout of a query, of any version and kind.
struct Found<'a> {
    version: Integer,
    kind: Integer,
    query: Query<'a>,
}

#[inline]
fn read_query(message: &[u8]) -> Option<Found<'_>> {
    let mut reader = Reader::new(message);
    let elements = reader.array()?;
    if elements < QUERY_ELEMENTS_MIN {
        return None;
    }
    let version = reader.integer()?;
    let kind = reader.integer()?;
    let id = read_id(&mut reader)?;
    let numbers = read_numbers(&mut reader)?;
    let names = elements >= QUERY_ELEMENTS_KNOWN && reader.integer()? == Integer::Positive(DETAIL_NAMES);
    skip_to_end(reader, elements.saturating_sub(QUERY_ELEMENTS_KNOWN))?;
    Some(Found { version, kind, query: Query { id, names, numbers } })
}

/// Why `read_query` found none. A version that we do not know may have another layout: the first elements alone are
/// looked at.
#[cold]
fn why(message: &[u8]) -> Fault {
    let Some((version, kind, id)) = read_head(message) else { return Fault::Drop(Drop::Malformed) };
    if kind != Integer::Positive(u64::from(QUERY)) {
        return Fault::Drop(Drop::NotAQuery);
    }
    let code = if version == Integer::Positive(u64::from(VERSION)) { ERROR_MALFORMED } else { ERROR_VERSION };
    Fault::Refused { id, code }
}

/// Version, kind, and the id if it is one, of a message whose other elements may be anything.
fn read_head(message: &[u8]) -> Option<(Integer, Integer, Option<u32>)> {
    let mut reader = Reader::new(message);
    let elements = reader.array()?;
    let behind = elements.checked_sub(HEAD_ELEMENTS_MIN)?;
    let version = reader.integer()?;
    let kind = reader.integer()?;
    let id = read_id(&mut reader.clone());
    reader.skip()?;
    skip_to_end(reader, behind)?;
    Some((version, kind, id))
}

/// None unless exactly so many values lie behind, and nothing else.
#[inline]
fn skip_to_end(mut reader: Reader<'_>, values: usize) -> Option<()> {
    for _ in 0..values {
        reader.skip()?;
    }
    reader.rest().is_empty().then_some(())
}

#[inline]
fn read_id(reader: &mut Reader<'_>) -> Option<u32> {
    match reader.integer()? {
        Integer::Positive(value) => u32::try_from(value).ok(),
        Integer::Negative(_) => None,
    }
}

#[inline]
fn read_numbers<'a>(reader: &mut Reader<'a>) -> Option<Numbers<'a>> {
    if !matches!(reader.peek()?, 0x90..=0x9f | 0xdc | 0xdd) {
        return read_number(reader).map(Numbers::One);
    }
    let count = reader.array()?;
    let many = Many { count, reader: *reader };
    for _ in 0..count {
        read_number(reader)?;
    }
    Some(Numbers::Many(many))
}

#[inline]
fn read_number<'a>(reader: &mut Reader<'a>) -> Option<Number<'a>> {
    if !matches!(reader.peek()?, 0xa0..=0xbf | 0xd9..=0xdb) {
        return match reader.integer()? {
            Integer::Positive(value) => Some(Number::Whole(value)),
            Integer::Negative(_) => None,
        };
    }
    let bytes = reader.text()?;
    if bytes.len() > NUMBER_BYTES_MAX {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    (bytes.len() <= NUMBER_CHARS_MAX || text.chars().count() <= NUMBER_CHARS_MAX).then_some(Number::Text(text))
}

/// Appends the answer message to a query of a single number; it fits any datagram.
#[inline]
pub fn encode_one(query: &Query<'_>, answer: &Answer<'_>, out: &mut Vec<u8>) {
    write_answer_head(query, answer, out);
    write_result(query, answer, out);
}

/// Appends the answer message, and returns how many of the answers it holds: as many as fit, from the first.
/// answers: in the order asked, at least one, all of one state. `bytes_max`: of the message.
pub fn encode_many(query: &Query<'_>, answers: &[Answer<'_>], bytes_max: usize, out: &mut Vec<u8>) -> usize {
    let Some(first) = answers.first() else { return 0 };
    if matches!(query.numbers, Numbers::One(_)) {
        encode_one(query, first, out);
        return 1;
    }
    let start = out.len();
    write_answer_head(query, first, out);
    // The array's head is written for all of the answers first, and again if fewer fit.
    let array_at = out.len();
    let array_bytes = write_array(answers.len(), out);
    let mut held = 0;
    for answer in answers {
        let end = out.len();
        write_result(query, answer, out);
        if out.len() - start - array_bytes + array_head(held + 1).1 > bytes_max {
            out.truncate(end);
            break;
        }
        held += 1;
    }
    if held < answers.len() {
        let (array, bytes) = array_head(held);
        out.splice(array_at..array_at + array_bytes, array.into_iter().take(bytes));
    }
    held
}

/// All of an answer message but its results.
#[inline]
fn write_answer_head(query: &Query<'_>, first: &Answer<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x96, VERSION, ANSWER]);
    write_integer(u64::from(query.id), out);
    write_integer(u64::from(first.serial), out);
    match first.age_seconds {
        Some(seconds) => write_integer(seconds, out),
        None => write_nil(out),
    }
}

/// One bit that there is a restriction, three bits of its measure, then when it lapses.
fn flags(restriction: InForce) -> u64 {
    FLAG_RESTRICTED | (restriction.measure as u64) << MEASURE_SHIFT | restriction.until << UNTIL_SHIFT
}

#[inline]
fn write_result(query: &Query<'_>, answer: &Answer<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&[if query.names { 0x96 } else { 0x94 }, answer.outcome as u8]);
    match answer.route {
        Some(route) => {
            write_text(&route.network_code, out);
            write_text_or_nil(route.routing_number.as_deref(), out);
        }
        None => out.extend_from_slice(&[0xc0, 0xc0]),
    }
    write_integer(answer.restriction.map_or(0, flags), out);
    if query.names {
        match answer.tn {
            Some(tn) => write_integer(tn, out),
            None => write_nil(out),
        }
        write_text_or_nil(answer.route.map(|route| route.operator.as_str()), out);
    }
}

/// Appends the error message. code: one of those of `Fault::Refused`; the text of another one is that of the first.
pub fn encode_error(id: Option<u32>, code: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x95, VERSION, ERROR]);
    match id {
        Some(id) => write_integer(u64::from(id), out),
        None => write_nil(out),
    }
    write_integer(u64::from(code), out);
    let text = match code {
        ERROR_VERSION => "version 1 is spoken here",
        ERROR_TOO_MANY => "1 to 1000 numbers in a query",
        _ => "not a query",
    };
    write_text(text, out);
}

#[cfg(test)]
mod tests;
