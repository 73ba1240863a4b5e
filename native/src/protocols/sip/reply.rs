//! A SIP request and a verdict -> the answer's bytes: a redirect server's, without transactions (RFC 3261 section
//! 8.2.7). Mirrors `lookupd/protocols/sip.py`.

use std::net::SocketAddr;

use twox_hash::XxHash3_64;

use super::message::Request;
use super::write_decimal;
use crate::model::InForce;

/// Keep-alive in a stream (RFC 5626 section 3.5.1).
pub const PING: &[u8] = b"\r\n\r\n";
/// The answer to it.
pub const PONG: &[u8] = b"\r\n";

/// A header line of some answers.
pub const ALLOW: &[u8] = b"Allow: INVITE, ACK, CANCEL, OPTIONS\r\n";
/// Header lines of the answer to OPTIONS.
pub const ALLOW_AND_ACCEPT: &[u8] = b"Allow: INVITE, ACK, CANCEL, OPTIONS\r\nAccept: application/sdp\r\n";
/// Seconds until data that is missing may be there.
pub const RETRY_LATER: &[u8] = b"Retry-After: 5\r\n";
/// An allowance is full again after a second.
pub const RETRY_SOON: &[u8] = b"Retry-After: 1\r\n";

/// The start of an answer, with every status that is sent.
fn status_line(status: u16) -> &'static [u8] {
    match status {
        200 => b"SIP/2.0 200 OK\r\nVia: ",
        301 => b"SIP/2.0 301 Moved Permanently\r\nVia: ",
        302 => b"SIP/2.0 302 Moved Temporarily\r\nVia: ",
        400 => b"SIP/2.0 400 Bad Request\r\nVia: ",
        404 => b"SIP/2.0 404 Not Found\r\nVia: ",
        405 => b"SIP/2.0 405 Method Not Allowed\r\nVia: ",
        416 => b"SIP/2.0 416 Unsupported URI Scheme\r\nVia: ",
        483 => b"SIP/2.0 483 Too Many Hops\r\nVia: ",
        484 => b"SIP/2.0 484 Address Incomplete\r\nVia: ",
        503 => b"SIP/2.0 503 Service Unavailable\r\nVia: ",
        505 => b"SIP/2.0 505 Version Not Supported\r\nVia: ",
        513 => b"SIP/2.0 513 Message Too Large\r\nVia: ",
        _ => b"SIP/2.0 500 Server Internal Error\r\nVia: ",
    }
}

/// Append the answer up to the fields that every answer has; `write_end` must follow. peer: where the request came
/// from. Fields that a faulty request lacks are left out.
pub fn write_head(request: &Request<'_>, status: u16, peer: SocketAddr, tag_seed: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(status_line(status));
    request.via.write_completed(&request.via_line, peer.ip(), peer.port(), out);
    for line in &request.more_vias {
        out.extend_from_slice(b"\r\nVia: ");
        out.extend_from_slice(line);
    }
    if !request.from.is_empty() {
        out.extend_from_slice(b"\r\nFrom: ");
        out.extend_from_slice(&request.from);
    }
    if !request.to.is_empty() {
        out.extend_from_slice(b"\r\nTo: ");
        out.extend_from_slice(&request.to);
        if request.wants_tag {
            let tag = make_tag(request, tag_seed, out);
            out.extend_from_slice(b";tag=");
            out.extend_from_slice(&tag);
        }
    }
    if !request.call_id.is_empty() {
        out.extend_from_slice(b"\r\nCall-ID: ");
        out.extend_from_slice(&request.call_id);
    }
    if !request.cseq.is_empty() {
        out.extend_from_slice(b"\r\nCSeq: ");
        out.extend_from_slice(&request.cseq);
    }
    out.extend_from_slice(b"\r\n");
}

/// Append the end of an answer.
pub fn write_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
}

/// Append the header line that says from which data an answer is, and how old it is.
pub fn write_version((serial, age_seconds): (u32, Option<u64>), out: &mut Vec<u8>) {
    out.extend_from_slice(b"X-Lookupd: serial=");
    write_decimal(serial.into(), out);
    out.extend_from_slice(b", age=");
    match age_seconds {
        Some(seconds) => write_decimal(seconds, out),
        None => out.push(b'-'),
    }
    out.extend_from_slice(b"\r\n");
}

/// Append the header line that says that a restriction is placed on the number, which, and when it lapses.
pub fn write_restriction(restriction: InForce, out: &mut Vec<u8>) {
    out.extend_from_slice(b"X-Lookupd-Restriction: ");
    out.extend_from_slice(restriction.measure.label().as_bytes());
    out.extend_from_slice(b"; until=");
    write_decimal(restriction.until, out);
    out.extend_from_slice(b"\r\n");
}

/// A To tag that every repetition of the request gets too: 16 hex digits. seed: 64 bits that nobody else knows. room:
/// left as it was.
fn make_tag(request: &Request<'_>, seed: u64, room: &mut Vec<u8>) -> [u8; 16] {
    let start = room.len();
    room.extend_from_slice(request.via.branch(&request.via_line));
    room.push(0);
    room.extend_from_slice(&request.call_id);
    room.push(0);
    room.extend_from_slice(request.from_tag.of(&request.from));
    let hash = XxHash3_64::oneshot_with_seed(seed, room.get(start..).unwrap_or_default());
    room.truncate(start);
    let mut tag = [0; 16];
    for (at, digit) in tag.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(hash >> (4 * at)) as usize & 15];
    }
    tag
}
