//! The portability datagram protocol of SIP proxies: version 1, and the older form. `lookupd/protocols/pdb.py` has
//! the whole story; every byte agrees with it.

use crate::limits::{PDB_DIGITS_MAX, PDB_MESSAGE_BYTES_MAX};
use crate::model::Drop;

const VERSION: u8 = 1;
const REQUEST: u8 = 0;
const REPLY: u8 = 1;
const OK: u8 = 1;
const NOT_NUMBER: u8 = 2;
const NOT_FOUND: u8 = 3;

/// Version, type, code, length, and two bytes of id.
const HEADER_BYTES: usize = 6;
/// The number's zero byte, and the carrier id.
const TAIL_BYTES: usize = 3;

/// One request, borrowed from its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// Echoed, never interpreted; None in the older form.
    pub id: Option<u16>,
    /// ASCII digits, to be echoed as they are; None if what was asked holds something else.
    pub number: Option<&'a [u8]>,
    /// The length byte disagreed with the datagram.
    pub odd: bool,
}

/// Reads one request of either form. datagram: as read, so cut at `PDB_DATAGRAM_BYTES_MAX` by the caller; what
/// lies behind the number's zero byte is not looked at.
#[inline]
pub fn decode_query(datagram: &[u8], legacy: bool) -> Result<Query<'_>, Drop> {
    match datagram {
        [VERSION, kind, _, length, high, low, payload @ ..] if !payload.is_empty() => {
            if *kind != REQUEST {
                return Err(Drop::NotAQuery); // answering an answer could make a loop
            }
            let end = memchr::memchr(0, payload).ok_or(Drop::Malformed)?;
            Ok(Query {
                id: Some(u16::from_be_bytes([*high, *low])),
                number: number(payload.get(..end).unwrap_or_default()),
                odd: usize::from(*length) != datagram.len(),
            })
        }
        [] | [VERSION, ..] => Err(Drop::Malformed),
        [b'0'..=b'9', ..] if legacy => decode_legacy(datagram),
        _ => Err(Drop::NotAQuery),
    }
}

/// The number, None if it is none; an empty one, or one over the bound, is a number that nobody has.
#[inline]
fn number(payload: &[u8]) -> Option<&[u8]> {
    if payload.len() > PDB_DIGITS_MAX {
        return Some(&[]);
    }
    payload.iter().all(u8::is_ascii_digit).then_some(payload)
}

/// The digits up to the first other byte.
fn decode_legacy(datagram: &[u8]) -> Result<Query<'_>, Drop> {
    let digits = datagram.iter().take(PDB_MESSAGE_BYTES_MAX).take_while(|byte| byte.is_ascii_digit()).count();
    if digits > PDB_MESSAGE_BYTES_MAX - TAIL_BYTES {
        return Err(Drop::TooLong); // no room for its echo
    }
    Ok(Query { id: None, number: datagram.get(..digits), odd: false })
}

/// Appends the reply to a request: OK with the carrier id, `NOT_FOUND` for None, `NOT_NUMBER` if it was no number.
/// query: as it was decoded. `carrier_id`: 1 to 32767.
#[inline]
pub fn encode_answer(query: &Query<'_>, carrier_id: Option<u16>, out: &mut Vec<u8>) {
    let Some(id) = query.id else {
        return encode_number(query.number.unwrap_or_default(), carrier_id.unwrap_or(0), out);
    };
    match (query.number, carrier_id) {
        (None, _) => encode_header(NOT_NUMBER, HEADER_BYTES, id, out),
        (_, None) => encode_header(NOT_FOUND, HEADER_BYTES, id, out),
        (Some(number), Some(carrier_id)) => {
            encode_header(OK, HEADER_BYTES + number.len() + TAIL_BYTES, id, out);
            encode_number(number, carrier_id, out);
        }
    }
}

/// length: under 256, since a number that has an echo has at most `PDB_DIGITS_MAX` digits.
#[inline]
fn encode_header(code: u8, length: usize, id: u16, out: &mut Vec<u8>) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[VERSION, REPLY, code, length as u8, high, low]);
}

#[inline]
fn encode_number(number: &[u8], carrier_id: u16, out: &mut Vec<u8>) {
    let [high, low] = carrier_id.to_be_bytes();
    out.extend_from_slice(number);
    out.extend_from_slice(&[0, high, low]);
}

#[cfg(test)]
mod tests;
