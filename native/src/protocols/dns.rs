//! DNS messages as an authoritative server meets them: one question in, a reply of ready-made records out.
//!
//! Knows no zone and no record of ours: see `enum_dns`. `lookupd/protocols/dns.py` has the whole story; every byte
//! agrees with it.

use crate::limits::{AMPLIFICATION_MAX, DNS_ADDITIONAL_MAX, DNS_ANSWER_BYTES_MAX, DNS_NAME_BYTES_MAX};
use crate::model::Drop;

/// Type of an IPv4 address.
pub const A: u16 = 1;
/// Of a name server's name.
pub const NS: u16 = 2;
/// Of the zone's own record.
pub const SOA: u16 = 6;
/// Of text.
pub const TXT: u16 = 16;
/// Of an IPv6 address.
pub const AAAA: u16 = 28;
/// Of a rule that makes an address from a number.
pub const NAPTR: u16 = 35;
/// Of what EDNS adds to a message.
pub const OPT: u16 = 41;
/// Of a question for what has changed in a zone.
pub const IXFR: u16 = 251;
/// Of one for the whole zone.
pub const AXFR: u16 = 252;
/// Of one for whatever there is.
pub const ANY: u16 = 255;
/// The class that everything is in.
pub const IN: u16 = 1;

/// To the question's name, which always stands at the same place.
pub const POINTER_TO_QUESTION: [u8; 2] = (POINTER | HEADER_BYTES as u16).to_be_bytes();

const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AA: u16 = 0x0400;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
/// Of an OPT.
const DO: u16 = 0x8000;

const POINTER: u16 = 0xC000;
const HEADER_BYTES: usize = 12;
/// Type and class behind the question's name.
const KIND_AND_CLASS_BYTES: usize = 4;
const LABEL_BYTES_MAX: u8 = 63;
/// Of an answer over UDP to who sends no OPT.
const UNEXTENDED_BYTES: usize = 512;
/// Of an OPT that has no options.
const OPT_BYTES: usize = 11;

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Rcode {
    /// There are records, or the name has other ones.
    NoError = 0,
    /// It could not be read.
    FormErr = 1,
    /// There is nothing that could be answered from.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// It is no plain query.
    NotImp = 4,
    /// It is not answered here.
    Refused = 5,
    /// A version of EDNS that is not spoken here. Needs an OPT.
    BadVers = 16,
}

/// A name in its wire form, without pointers: at most 255 bytes, an empty label at its end.
#[derive(Clone, Copy, Debug)]
pub struct Name<'m> {
    /// Letters in the case they came in.
    pub wire: &'m [u8],
    starts: Starts,
}

/// At which places of a name a label begins, one bit each.
#[derive(Clone, Copy, Debug, Default)]
struct Starts([u64; 4]);

impl Starts {
    #[inline]
    fn put(&mut self, at: usize) {
        if let Some(word) = self.0.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
    }

    #[inline]
    fn has(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 != 0)
    }
}

impl<'m> Name<'m> {
    /// The name that begins here, and what lies behind it; None if it does not end, is too long, or has a pointer.
    #[inline]
    pub fn read(bytes: &'m [u8]) -> Option<(Name<'m>, &'m [u8])> {
        let mut starts = Starts::default();
        let mut at = 0;
        while at < DNS_NAME_BYTES_MAX {
            match *bytes.get(at)? {
                0 => {
                    let (wire, rest) = bytes.split_at_checked(at + 1)?;
                    return Some((Name { wire, starts }, rest));
                }
                length @ 1..=LABEL_BYTES_MAX => {
                    starts.put(at);
                    at += 1 + usize::from(length);
                }
                _ => return None,
            }
        }
        None
    }

    /// The labels that stand before this other name at its end; None if it ends otherwise. Letters' case is passed
    /// over. end: at least one label.
    #[inline]
    pub fn before(&self, end: &[u8]) -> Option<&'m [u8]> {
        let at = self.wire.len().checked_sub(end.len())?;
        let (before, rest) = self.wire.split_at_checked(at)?;
        // A label's length is below every letter: the comparison takes lengths as they are.
        (self.starts.has(at) && rest.eq_ignore_ascii_case(end)).then_some(before)
    }
}

/// What a query's OPT says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Of an answer over UDP.
    pub bytes_max: u16,
    /// Of EDNS.
    pub version: u8,
    /// Whether signatures are wanted.
    pub wants_dnssec: bool,
}

/// One question, in class and type whatever it likes.
#[derive(Clone, Copy, Debug)]
pub struct Query<'m> {
    /// Echoed, never interpreted.
    pub id: [u8; 2],
    /// Whether a recursion was desired, which is echoed too.
    pub wants_recursion: bool,
    /// As it came, letters' case too.
    pub question: &'m [u8],
    /// Its name.
    pub name: Name<'m>,
    /// Its type.
    pub kind: u16,
    /// Its class.
    pub class: u16,
    /// What it says of itself beyond RFC 1035, if it does.
    pub edns: Option<Edns>,
    /// Bytes of the message.
    pub bytes: usize,
}

/// Why a message is no query that a zone could answer.
#[derive(Clone, Copy, Debug)]
pub enum Fault<'m> {
    /// It gets silence: answering a reply could make a loop.
    Drop(Drop),
    /// It gets a header alone, having no question that could be sent back.
    Bare(Bare),
    /// It gets its question back, and this.
    Refused(Query<'m>, Rcode),
}

/// A reply of a header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bare {
    id: [u8; 2],
    flags: u16,
}

impl Fault<'_> {
    /// How the query is counted.
    pub fn reason(&self) -> Drop {
        match *self {
            Fault::Drop(reason) => reason,
            Fault::Bare(bare) => bare.reason(),
            Fault::Refused(..) => Drop::NotAQuery,
        }
    }
}

impl Bare {
    /// How the query is counted.
    pub fn reason(&self) -> Drop {
        if self.flags & OPCODE == 0 { Drop::Malformed } else { Drop::NotAQuery }
    }

    /// Append it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut header = [0; HEADER_BYTES];
        let [high, low] = self.flags.to_be_bytes();
        header[..4].copy_from_slice(&[self.id[0], self.id[1], high, low]);
        out.extend_from_slice(&header);
    }
}

/// Reads one query. message: without the length that stands before it over TCP.
#[inline]
pub fn decode_query(message: &[u8]) -> Result<Query<'_>, Fault<'_>> {
    let Some((header, rest)) = message.split_first_chunk::<HEADER_BYTES>() else {
        return Err(Fault::Drop(Drop::Malformed));
    };
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (id, flags) = ([header[0], header[1]], word(2));
    if flags & QR != 0 {
        return Err(Fault::Drop(Drop::NotAQuery));
    }
    let bare = |rcode: Rcode| Fault::Bare(Bare { id, flags: QR | flags & (OPCODE | RD) | rcode as u16 });
    if flags & OPCODE != 0 {
        return Err(bare(Rcode::NotImp));
    }
    let [questions, answers, authorities, additional] = [word(4), word(6), word(8), word(10)];
    let asked = if questions == 1 { read_question(rest) } else { None };
    let Some((name, kind, class, behind)) = asked else { return Err(bare(Rcode::FormErr)) };
    let wants_transfer = matches!(kind, AXFR | IXFR);
    let edns = if answers != 0 || authorities != 0 {
        if !wants_transfer {
            return Err(bare(Rcode::FormErr));
        }
        None // IXFR has the SOA that its client knows
    } else {
        find_edns(behind, additional).map_err(|()| bare(Rcode::FormErr))?
    };
    let question = rest.get(..name.wire.len() + KIND_AND_CLASS_BYTES).unwrap_or_default();
    let wants_recursion = flags & RD != 0;
    let query = Query { id, wants_recursion, question, name, kind, class, edns, bytes: message.len() };
    if edns.is_some_and(|edns| edns.version != 0) {
        return Err(Fault::Refused(query, Rcode::BadVers));
    }
    if wants_transfer {
        return Err(Fault::Refused(query, Rcode::Refused));
    }
    Ok(query)
}

/// Name, type and class, and what lies behind them.
#[inline]
fn read_question(bytes: &[u8]) -> Option<(Name<'_>, u16, u16, &[u8])> {
    let (name, rest) = Name::read(bytes)?;
    let ([k1, k0, c1, c0], behind) = rest.split_first_chunk::<KIND_AND_CLASS_BYTES>()?;
    Some((name, u16::from_be_bytes([*k1, *k0]), u16::from_be_bytes([*c1, *c0]), behind))
}

/// The OPT among the additional records, if there is one. Err when they cannot be walked, or there are two of it.
/// Bytes behind the last record are not looked at.
#[inline]
fn find_edns(mut bytes: &[u8], records: u16) -> Result<Option<Edns>, ()> {
    if usize::from(records) > DNS_ADDITIONAL_MAX {
        return Err(());
    }
    let mut found = None;
    for _ in 0..records {
        let (edns, behind) = read_edns(bytes).ok_or(())?;
        bytes = behind;
        if edns.is_some() && found.is_some() {
            return Err(());
        }
        found = found.or(edns);
    }
    Ok(found)
}

/// The record that begins here, if it is an OPT, and what lies behind it; None if it is no record, or no sound OPT.
#[inline]
fn read_edns(bytes: &[u8]) -> Option<(Option<Edns>, &[u8])> {
    let (owner, rest) = Name::read(bytes)?;
    let ([k1, k0, s1, s0, _, version, f1, f0, d1, d0], rest) = rest.split_first_chunk::<10>()?;
    let (data, behind) = rest.split_at_checked(u16::from_be_bytes([*d1, *d0]).into())?;
    if u16::from_be_bytes([*k1, *k0]) != OPT {
        return Some((None, behind));
    }
    let edns = Edns {
        bytes_max: u16::from_be_bytes([*s1, *s0]),
        version: *version,
        wants_dnssec: u16::from_be_bytes([*f1, *f0]) & DO != 0,
    };
    (owner.wire.len() == 1 && options_are_whole(data)).then_some((Some(edns), behind))
}

#[inline]
fn options_are_whole(mut data: &[u8]) -> bool {
    // Ends: each turn takes four bytes at least.
    while !data.is_empty() {
        let Some(([_, _, high, low], rest)) = data.split_first_chunk::<4>() else { return false };
        let Some((_, behind)) = rest.split_at_checked(u16::from_be_bytes([*high, *low]).into()) else { return false };
        data = behind;
    }
    true
}

impl Query<'_> {
    /// What a reply over UDP may have: what the client and the path take, and no more than some times its question.
    #[inline]
    pub fn datagram_bytes_max(&self) -> usize {
        let taken = self
            .edns
            .map_or(UNEXTENDED_BYTES, |edns| usize::from(edns.bytes_max).clamp(UNEXTENDED_BYTES, DNS_ANSWER_BYTES_MAX));
        taken.min(AMPLIFICATION_MAX * self.bytes)
    }
}

/// Records made before anybody asks for them. What is known only with the question is filled in: where its name has
/// the apex, and the store's serial.
#[derive(Clone, Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    count: u16,
    /// Places of pointers to the apex.
    pointers: Vec<usize>,
    /// Places of the serial.
    serials: Vec<usize>,
}

impl Records {
    /// How many there are.
    #[inline]
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Add a record of class IN. owner and data: what `Data` had put into it.
    pub fn add(&mut self, owner: &Data, kind: u16, ttl: u32, data: &Data) {
        self.put(owner);
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend(IN.to_be_bytes());
        self.bytes.extend(ttl.to_be_bytes());
        self.bytes.extend((data.bytes.len() as u16).to_be_bytes());
        self.put(data);
        self.count += 1;
    }

    /// Add all of another's.
    pub fn append(&mut self, other: &Records) {
        let start = self.bytes.len();
        self.bytes.extend(&other.bytes);
        self.pointers.extend(other.pointers.iter().map(|at| start + at));
        self.serials.extend(other.serials.iter().map(|at| start + at));
        self.count += other.count;
    }

    fn put(&mut self, data: &Data) {
        let start = self.bytes.len();
        self.bytes.extend(&data.bytes);
        self.pointers.extend(data.pointers.iter().map(|at| start + at));
        self.serials.extend(data.serials.iter().map(|at| start + at));
    }

    #[inline]
    fn write(&self, filling: Filling, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        for at in &self.pointers {
            patch(out, start + at, &(POINTER | filling.apex_at).to_be_bytes());
        }
        for at in &self.serials {
            patch(out, start + at, &filling.serial.to_be_bytes());
        }
    }
}

/// A record's owner or data while it is put together.
#[derive(Clone, Debug, Default)]
pub struct Data {
    bytes: Vec<u8>,
    pointers: Vec<usize>,
    serials: Vec<usize>,
}

impl Data {
    /// With bytes behind it.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Data {
        self.bytes.extend(bytes);
        self
    }

    /// With a pointer to the apex behind it.
    #[must_use]
    pub fn pointer(mut self) -> Data {
        self.pointers.push(self.bytes.len());
        self.bytes(&[0; 2])
    }

    /// With the store's serial behind it.
    #[must_use]
    pub fn serial(mut self) -> Data {
        self.serials.push(self.bytes.len());
        self.bytes(&[0; 4])
    }
}

/// What `Records` are filled with.
#[derive(Clone, Copy, Debug)]
pub struct Filling {
    apex_at: u16,
    serial: u32,
}

impl Filling {
    /// before: the labels before the apex in the question's name, of at most 255 bytes.
    #[inline]
    pub fn new(before: &[u8], serial: u32) -> Filling {
        Filling { apex_at: (HEADER_BYTES + before.len()) as u16, serial }
    }
}

/// Puts bytes in the place of others.
#[inline]
pub fn patch(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(room) = out.get_mut(at..at + bytes.len()) {
        room.copy_from_slice(bytes);
    }
}

/// A reply while it is written, behind whatever lies in its buffer already.
pub struct Reply<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    /// Where the question ends, and where additional records that may be left out begin.
    question_end: usize,
    extra_start: usize,
    flags: u16,
    answers: u16,
    authorities: u16,
    extras: u16,
}

impl<'o> Reply<'o> {
    /// With its question, and no records yet. authoritative: said by a zone.
    #[inline]
    pub fn new(query: &Query<'_>, authoritative: bool, out: &'o mut Vec<u8>) -> Reply<'o> {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        patch(out, start, &query.id);
        out.extend_from_slice(query.question);
        let flags = QR | if query.wants_recursion { RD } else { 0 } | if authoritative { AA } else { 0 };
        let question_end = out.len();
        let extra_start = question_end;
        Reply { out, start, question_end, extra_start, flags, answers: 0, authorities: 0, extras: 0 }
    }

    /// Say that it was cut: the client comes again over TCP.
    pub fn cut(&mut self) {
        self.flags |= TC;
    }

    /// Records in answer.
    #[inline]
    pub fn answer(&mut self, records: &Records, filling: Filling) {
        records.write(filling, self.out);
        self.answers += records.count;
    }

    /// So many records in answer, which are written behind what is there.
    #[inline]
    pub fn answer_by(&mut self, count: u16, write: impl FnOnce(&mut Vec<u8>)) {
        write(self.out);
        self.answers += count;
    }

    /// Records of authority, behind the answers.
    #[inline]
    pub fn authority(&mut self, records: &Records, filling: Filling) {
        records.write(filling, self.out);
        self.authorities += records.count;
    }

    /// Additional records, behind those of authority.
    pub fn extra(&mut self, records: &Records, filling: Filling) {
        self.extra_start = self.out.len();
        records.write(filling, self.out);
        self.extras += records.count;
    }

    /// End it with an OPT, if the query had one, and `option` in it. Above `bytes_max` the additional records are left
    /// out, then all of them.
    #[inline]
    pub fn end(mut self, query: &Query<'_>, rcode: Rcode, option: &[u8], bytes_max: usize) {
        let opt_bytes = if query.edns.is_some() { OPT_BYTES + option.len() } else { 0 };
        if self.extras != 0 && self.len() + opt_bytes > bytes_max {
            self.out.truncate(self.extra_start);
            self.extras = 0;
        }
        if self.len() + opt_bytes > bytes_max {
            // A question and an OPT fit every bound: no longer than what was asked, but for our options of 24 bytes.
            self.out.truncate(self.question_end);
            (self.answers, self.authorities) = (0, 0);
            self.cut();
        }
        if let Some(edns) = query.edns {
            write_opt(edns, rcode, option, self.out);
            self.extras += 1;
        }
        let flags = (self.flags | rcode as u16 & 0xF).to_be_bytes();
        let words = [flags, 1_u16.to_be_bytes(), self.answers.to_be_bytes(), self.authorities.to_be_bytes()];
        patch(self.out, self.start + 2, words.as_flattened());
        patch(self.out, self.start + 10, &self.extras.to_be_bytes());
    }

    #[inline]
    fn len(&self) -> usize {
        self.out.len() - self.start
    }
}

#[inline]
fn write_opt(edns: Edns, rcode: Rcode, option: &[u8], out: &mut Vec<u8>) {
    let [s1, s0] = (DNS_ANSWER_BYTES_MAX as u16).to_be_bytes();
    let [k1, k0] = OPT.to_be_bytes();
    let [f1, f0] = if edns.wants_dnssec { DO } else { 0 }.to_be_bytes();
    let [d1, d0] = (option.len() as u16).to_be_bytes();
    out.extend_from_slice(&[0, k1, k0, s1, s0, (rcode as u16 >> 4) as u8, 0, f1, f0, d1, d0]);
    out.extend_from_slice(option);
}

#[cfg(test)]
mod tests;
