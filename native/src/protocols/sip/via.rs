//! The top Via value: whom the answer goes to, and how it comes back completed (RFC 3261 section 18.2, RFC 3581
//! section 4).

use std::io::Write;
use std::net::IpAddr;

use super::text::{Span, is_blank, is_token_byte, number, parameter, split_unquoted, trim_end, trim_start};
use super::write_decimal;

const SIP_PORT: u16 = 5060;

/// What was found of a Via line's first value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    /// The value itself, without blanks behind it.
    top: Span,
    /// Behind the value: a comma and further values.
    rest_at: usize,
    /// Of sent-by, without brackets.
    host: Span,
    /// Of sent-by: 0 = none is named, None = one that cannot be.
    pub port: Option<u16>,
    branch: Span,
    has_rport: bool,
}

impl Via {
    /// None if no answer can go by it. line: of any bytes.
    pub fn read(line: &[u8]) -> Option<Via> {
        let whole = split_unquoted(line, b',').next()?;
        let top = trim_end(whole);
        let mut parts = split_unquoted(top, b';');
        let base = parts.next()?;
        let (host, port) = read_base(base)?;
        let mut via = Via {
            top: Span::new(0, top.len()),
            rest_at: whole.len(),
            host,
            port,
            branch: Span::default(),
            has_rport: false,
        };
        let (mut at, mut has_branch) = (base.len() + 1, false);
        for part in parts {
            let (name, value) = parameter(part);
            if name.eq_ignore_ascii_case(b"rport") {
                via.has_rport = true;
            } else if !has_branch && name.eq_ignore_ascii_case(b"branch") {
                has_branch = true;
                let value = trim_start(value.unwrap_or_default());
                via.branch = Span::new(at + part.len() - value.len(), trim_end(value).len());
            }
            at += part.len() + 1;
        }
        Some(via)
    }

    /// Of its line; empty if there is none.
    #[inline]
    pub fn branch(self, line: &[u8]) -> &[u8] {
        self.branch.of(line)
    }

    /// Where over UDP the answer goes instead of where the request came from.
    #[inline]
    pub fn reply_port(self) -> Option<u16> {
        match self.port {
            Some(port) if !self.has_rport => Some(if port == 0 { SIP_PORT } else { port }),
            _ => None,
        }
    }

    /// Append the line with where the request came from: an rport gets the port, and `received` behind it; without
    /// rport, `received` is the last parameter, and only there if sent-by is not the address itself. What the request
    /// brought of either is not kept.
    pub fn write_completed(self, line: &[u8], host: IpAddr, port: u16, out: &mut Vec<u8>) {
        let mut parts = split_unquoted(self.top.of(line), b';');
        out.extend_from_slice(parts.next().unwrap_or_default());
        let mut is_told = false;
        for part in parts {
            let (name, _) = parameter(part);
            if name.eq_ignore_ascii_case(b"rport") {
                if !is_told {
                    out.extend_from_slice(b";rport=");
                    write_decimal(port.into(), out);
                    out.extend_from_slice(RECEIVED);
                    write_address(host, out);
                    is_told = true;
                }
            } else if !name.eq_ignore_ascii_case(b"received") {
                out.push(b';');
                out.extend_from_slice(part);
            }
        }
        if !is_told {
            let end = out.len();
            out.extend_from_slice(RECEIVED);
            write_address(host, out);
            let is_sent_by =
                out.get(end + RECEIVED.len()..).is_some_and(|told| told.eq_ignore_ascii_case(self.host.of(line)));
            if is_sent_by {
                out.truncate(end);
            }
        }
        out.extend_from_slice(line.get(self.rest_at..).unwrap_or_default());
    }
}

const RECEIVED: &[u8] = b";received=";

fn write_address(host: IpAddr, out: &mut Vec<u8>) {
    match host {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                write_decimal(octet.into(), out);
            }
        }
        // A vector takes all that is written to it.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

/// Protocol and sent-by: where the host lies, and its port. None for what is no such thing.
fn read_base(base: &[u8]) -> Option<(Span, Option<u16>)> {
    let (name, rest) = base.split_at_checked(3)?;
    if !name.eq_ignore_ascii_case(b"SIP") {
        return None;
    }
    let rest = trim_start(trim_start(rest).strip_prefix(b"/")?).strip_prefix(b"2.0")?;
    let rest = trim_start(trim_start(rest).strip_prefix(b"/")?);
    let rest = behind(rest, is_token_byte)?;
    let rest = behind(rest, is_blank)?;
    let start = base.len() - rest.len();
    let (host, rest) = if let Some(inner) = rest.strip_prefix(b"[") {
        let behind = behind(inner, is_address_byte)?;
        (Span::new(start + 1, inner.len() - behind.len()), behind.strip_prefix(b"]")?)
    } else {
        let behind = behind(rest, is_name_byte)?;
        (Span::new(start, rest.len() - behind.len()), behind)
    };
    let rest = trim_start(rest);
    if rest.is_empty() {
        return Some((host, Some(0)));
    }
    let digits = trim_end(trim_start(rest.strip_prefix(b":")?));
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port = number(digits, 1 << 16).filter(|port| *port != 0).map(|port| port as u16);
    Some((host, port))
}

/// What lies behind one or more such bytes; None if there is none of them.
#[inline]
pub fn behind(text: &[u8], is_such: impl Fn(u8) -> bool) -> Option<&[u8]> {
    let end = text.iter().position(|byte| !is_such(*byte)).unwrap_or(text.len());
    text.get(end..).filter(|_| end > 0)
}

/// Of an IPv6 address, as text.
#[inline]
pub fn is_address_byte(byte: u8) -> bool {
    byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')
}

/// Of a host's name, or of an IPv4 address as text.
#[inline]
pub fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}
