//! The ENUM dialect: a DNS query in, its authoritative reply out. `protocols::enum_dns` has the records.
//!
//! Mirrors `lookupd/fastpath/enum.py`, which defines what is right.

use super::{Asker, Dialect, Silence, Told};
use crate::engine::{Engine, Located};
use crate::limits::{DNS_MESSAGE_BYTES_MAX, DNS_QUERY_BYTES_MAX};
use crate::model::{Drop, Outcome};
use crate::plan::Digits;
use crate::protocols::dns::{self, Bare, Fault, Filling, Query, Rcode, Reply};
use crate::protocols::enum_dns::{Asked, Dialled, Parts, Profile, TOLD_BYTES_MAX, Version, Zone};

/// NAPTR for numbers, the zone's own records, NODATA, NXDOMAIN; an error of DNS for everything else.
#[derive(Clone)]
pub struct Enum {
    /// Answers are bounded, and addresses may be forged.
    pub over_udp: bool,
}

/// A message of DNS that gets a reply.
pub struct Question<'m>(Kind<'m>);

enum Kind<'m> {
    /// A header alone.
    Bare(Bare),
    /// Its question with a code, no zone being asked.
    Code(Query<'m>, Rcode, Told),
    /// Its question with TC, so that it comes again over TCP.
    Again(Query<'m>),
    /// To be answered from data.
    Name(Named<'m>),
}

/// A question for a name in a zone.
struct Named<'m> {
    query: Query<'m>,
    profile: &'m Profile,
    zone: &'m Zone,
    /// Before the apex.
    labels: &'m [u8],
    asked: Asked,
}

impl Dialect for Enum {
    const INDEX: usize = 2;
    const LATE_NS: u64 = 0; // an answer carries its question and id: a late one does no harm
    const BYTES_MAX: usize = DNS_QUERY_BYTES_MAX;
    type Question<'m> = Question<'m>;

    fn read<'m>(&self, message: &'m [u8], asker: Asker<'m>, now_ns: u64) -> Result<Question<'m>, Silence> {
        let client = asker.client;
        let host = self.over_udp.then(|| asker.peer.ip());
        let query = match dns::decode_query(message) {
            Ok(query) => query,
            Err(fault) => return of_fault(fault, || !client.is_limited() || client.take(1, now_ns, host)),
        };
        if client.is_limited() {
            if host.is_some_and(|host| !client.take_from(host, now_ns)) {
                return Ok(Question(Kind::Again(query)));
            }
            if !client.take(1, now_ns, None) {
                return Ok(Question(Kind::Code(query, Rcode::Refused, Told::Refusal)));
            }
        }
        let profile = client.enum_profile();
        let found = if query.class == dns::IN { profile.find(&query.name) } else { None };
        let Some((zone, labels)) = found else {
            return Ok(Question(Kind::Code(query, Rcode::Refused, Told::Fault(Drop::NotAQuery))));
        };
        Ok(Question(Kind::Name(Named { query, profile, zone, labels, asked: zone.asked(labels) })))
    }

    fn number(&self, question: &Question<'_>, engine: &Engine) -> Option<Digits> {
        match &question.0 {
            Kind::Name(Named { asked: Asked::Number(number), .. }) => engine.digits(number.dialled()),
            _ => None,
        }
    }

    fn reply(
        &self,
        question: &Question<'_>,
        located: &Located<'_>,
        engine: &Engine,
        out: &mut Vec<u8>,
    ) -> Result<Told, Silence> {
        Ok(match &question.0 {
            Kind::Bare(bare) => {
                bare.write(out);
                Told::Fault(bare.reason())
            }
            Kind::Code(query, rcode, told) => {
                write_code(query, *rcode, out);
                *told
            }
            Kind::Again(query) => {
                let mut reply = Reply::new(query, false, out);
                reply.cut();
                reply.end(query, Rcode::NoError, &[], DNS_MESSAGE_BYTES_MAX);
                Told::Refusal
            }
            Kind::Name(named) => self.reply_named(named, located, engine, out),
        })
    }
}

/// Silence, or the error that a message gets. take: it from the allowances, and whether it was within them.
#[cold]
fn of_fault(fault: Fault<'_>, take: impl FnOnce() -> bool) -> Result<Question<'_>, Silence> {
    let reason = fault.reason();
    let kind = match fault {
        Fault::Drop(reason) => return Err(Silence::Dropped(reason)),
        Fault::Bare(bare) => Kind::Bare(bare),
        Fault::Refused(query, rcode) => Kind::Code(query, rcode, Told::Fault(reason)),
    };
    if take() { Ok(Question(kind)) } else { Err(Silence::Dropped(reason)) }
}

/// Append a reply with a code and no records.
fn write_code(query: &Query<'_>, rcode: Rcode, out: &mut Vec<u8>) {
    Reply::new(query, false, out).end(query, rcode, &[], DNS_MESSAGE_BYTES_MAX);
}

impl Enum {
    fn reply_named(&self, named: &Named<'_>, located: &Located<'_>, engine: &Engine, out: &mut Vec<u8>) -> Told {
        let Named { query, zone, asked, .. } = named;
        if !engine.is_usable() {
            write_code(query, Rcode::ServFail, out);
            return Told::Answer { outcome: Outcome::Unavailable, odd: false };
        }
        if let Asked::Number(number) = asked {
            let outcome = self.reply_number(named, number, located, engine, out);
            return Told::Answer { outcome, odd: false };
        }
        let (serial, _) = engine.version();
        let mut reply = Reply::new(query, true, out);
        let rcode = zone.own_records(*asked, query.kind, Filling::new(named.labels, serial), &mut reply);
        reply.end(query, rcode, &[], self.bytes_max(query));
        Told::Other
    }

    #[inline]
    fn reply_number(
        &self,
        named: &Named<'_>,
        number: &Dialled,
        located: &Located<'_>,
        engine: &Engine,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let Named { query, profile, zone, labels, .. } = named;
        let found = engine.find(located);
        let parts: Option<Parts<'_>> = match profile.parts(found.outcome, found.route) {
            Ok(parts) if found.outcome != Outcome::Unavailable => parts,
            _ => {
                write_code(query, Rcode::ServFail, out);
                return Outcome::Unavailable;
            }
        };
        let (serial, age_seconds) = engine.version();
        let version = Version { serial, age_seconds };
        let mut reply = Reply::new(query, true, out);
        let has_records = parts.is_some_and(|parts| profile.answer(query.kind, parts, version, &mut reply));
        if !has_records {
            zone.nothing(Filling::new(labels, serial), &mut reply);
        }
        let exists = parts.is_some() || engine.has_under(number.digits(), profile.answers_unported());
        let rcode = if exists { Rcode::NoError } else { Rcode::NxDomain };
        reply.end(
            query,
            rcode,
            profile.option(version, found.restriction, &mut [0; TOLD_BYTES_MAX]),
            self.bytes_max(query),
        );
        found.outcome
    }

    #[inline]
    fn bytes_max(&self, query: &Query<'_>) -> usize {
        if self.over_udp { query.datagram_bytes_max() } else { DNS_MESSAGE_BYTES_MAX }
    }
}

#[cfg(test)]
mod tests;
