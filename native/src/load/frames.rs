//! Messages found in a stream of bytes, each dialect's in its own way.

use std::io::{self, ErrorKind};
use std::ops::Range;

use memchr::memmem;

use super::questions::Dialect;
use crate::limits::{NPQ_FRAME_BYTES_MAX, SIP_MESSAGE_BYTES_MAX};

const EMPTY_LINE: &[u8] = b"\r\n\r\n";

/// Where the first message stands in what is held; None while it is not whole. What is behind it begins at its end.
///
/// Errors: a message over the bound, or without a length, behind which nothing can be found again.
pub fn cut(dialect: Dialect, held: &[u8]) -> io::Result<Option<Range<usize>>> {
    let found = match dialect {
        Dialect::Npq => held.first_chunk().map(|head| (4, u32::from_be_bytes(*head) as usize)),
        Dialect::Enum => held.first_chunk().map(|head| (2, usize::from(u16::from_be_bytes(*head)))),
        Dialect::Sip => return cut_sip(held),
        Dialect::Pdb => return Err(ErrorKind::Unsupported.into()), // it has no streams
    };
    let Some((start, length)) = found else { return Ok(None) };
    if length > NPQ_FRAME_BYTES_MAX {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(Some(start..start + length).filter(|message| message.end <= held.len()))
}

/// RFC 3261 section 18.3: up to the empty line, and as many bytes behind it as Content-Length says.
fn cut_sip(held: &[u8]) -> io::Result<Option<Range<usize>>> {
    let start = held.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let Some(end) = memmem::find(&held[start..], EMPTY_LINE) else {
        return if held.len() > SIP_MESSAGE_BYTES_MAX { Err(ErrorKind::InvalidData.into()) } else { Ok(None) };
    };
    let body = start + end + EMPTY_LINE.len();
    match content_length(&held[start..body]) {
        Some(length) if length <= SIP_MESSAGE_BYTES_MAX => {
            Ok(Some(start..body + length).filter(|message| message.end <= held.len()))
        }
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        let name = line[..colon].trim_ascii_end();
        if !(name.eq_ignore_ascii_case(b"Content-Length") || name.eq_ignore_ascii_case(b"l")) {
            return None;
        }
        std::str::from_utf8(line[colon + 1..].trim_ascii()).ok()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_messages_are_found_and_parts_waited_for() {
        let table: [(Dialect, &[u8], Range<usize>); 5] = [
            (Dialect::Npq, b"\0\0\0\x03abc", 4..7),
            (Dialect::Enum, b"\0\x03abc", 2..5),
            (Dialect::Enum, b"\0\0", 2..2),
            (Dialect::Sip, b"SIP/2.0 404\r\nContent-Length: 0\r\n\r\n", 0..34),
            (Dialect::Sip, b"\r\nSIP/2.0 404\r\nVia: x\r\nL : 3\r\n\r\nabc", 2..35),
        ];
        for (dialect, bytes, message) in table {
            let more = [bytes, b"more"].concat();
            assert_eq!(cut(dialect, &more).unwrap(), Some(message.clone()), "{bytes:?}");
            for length in 0..bytes.len() {
                assert_eq!(cut(dialect, &bytes[..length]).unwrap(), None, "{length} of {bytes:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_cut_ends_the_stream() {
        let endless = vec![b'x'; SIP_MESSAGE_BYTES_MAX + 1];
        let table: [(Dialect, &[u8]); 5] = [
            (Dialect::Npq, b"\xff\0\0\0"),
            (Dialect::Sip, b"SIP/2.0 404\r\nVia: x\r\n\r\n"),
            (Dialect::Sip, b"SIP/2.0 404\r\nContent-Length: x\r\n\r\n"),
            (Dialect::Sip, b"SIP/2.0 404\r\nContent-Length: 65536\r\n\r\n"),
            (Dialect::Sip, &endless),
        ];
        for (dialect, bytes) in table {
            assert!(cut(dialect, bytes).is_err(), "{dialect:?}");
        }
    }
}
