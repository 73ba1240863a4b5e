//! Message -> reply for each dialect: decode, resolve, encode, and what is to be counted.
//!
//! Mirrors `lookupd/fastpath/batch.py`, which defines what is right. A message is answered in two steps, `read` and
//! `reply`, so that a worker can have the blocks of a whole batch fetched in between. A new dialect implements
//! `Dialect`; workers, counters and rates are then there for it.

use std::net::SocketAddr;

use crate::access::Client;
use crate::counters::{Counts, UsageCells};
use crate::engine::{Engine, Located};
use crate::limits::{DATAGRAM_BYTES_MAX, PDB_DATAGRAM_BYTES_MAX, PDB_LATE_NS};
use crate::model::{Answer, Drop, OUTCOMES, Outcome, Refusal};
use crate::plan::Digits;
use crate::protocols::{npq, pdb};
use crate::tap::{Asking, Tape};

mod enum_dns;
mod sip;

pub use enum_dns::Enum;
pub use sip::Sip;

/// Blocks of a batch query that are on their way to the processor at a time: 32 kB, which its nearest cache holds.
const NUMBERS_AHEAD: usize = 16;

/// One dialect's side of a listener.
pub trait Dialect: Send {
    /// Its place in `counters::Usage`.
    const INDEX: usize;
    /// Answers that would leave later than this after the question arrived are not sent; 0 = any time.
    const LATE_NS: u64;
    /// Bytes of a datagram that are looked at; whatever lies behind them changes no answer.
    const BYTES_MAX: usize;
    /// A message that gets a reply, as far as it can be told without data.
    type Question<'m>;

    /// Decode a message and take it from its client's allowance. `now_ns`: of a clock that only grows.
    fn read<'m>(&self, message: &'m [u8], asker: Asker<'m>, now_ns: u64) -> Result<Self::Question<'m>, Silence>;

    /// The number that is looked up first, to be located ahead of `reply`.
    fn number(&self, question: &Self::Question<'_>, engine: &Engine) -> Option<Digits>;

    /// Where over UDP the reply goes instead of the port that the question came from.
    fn reply_port(&self, _question: &Self::Question<'_>) -> Option<u16> {
        None
    }

    /// Each number of a message of several, or of one that is refused unread, in its order; for the query log.
    fn numbers(&self, _question: &Self::Question<'_>, _engine: &Engine, _each: &mut dyn FnMut(Option<Digits>)) {}

    /// Append the reply to `out`; nothing is appended to it if there is none. located: of `number`.
    fn reply(
        &self,
        question: &Self::Question<'_>,
        located: &Located<'_>,
        engine: &Engine,
        out: &mut Vec<u8>,
    ) -> Result<Told, Silence>;
}

/// Who sent a message.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'c> {
    /// On whose allowance, and how it wants to be answered.
    pub client: &'c Client,
    /// From where.
    pub peer: SocketAddr,
}

/// Why a message gets no reply; it counts as one query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nothing that can be answered.
    Dropped(Drop),
    /// Over the client's rate.
    OverRate,
    /// None is due, as for SIP's ACK.
    NotDue,
}

/// What a reply says, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// One number's answer.
    Answer {
        /// Its outcome.
        outcome: Outcome,
        /// Whether it is given in spite of a fault.
        odd: bool,
    },
    /// One number, over its client's rate.
    Refusal,
    /// Several numbers' answers.
    Answers {
        /// How many of each outcome.
        by_outcome: [u16; OUTCOMES],
        /// How many more did not fit.
        left_out: u16,
    },
    /// Several numbers, over the rate.
    Refusals {
        /// How many are in the reply.
        numbers: u16,
        /// How many more did not fit.
        left_out: u16,
    },
    /// Something else than a number's answer.
    Other,
    /// An error message to something that was dropped.
    Fault(Drop),
}

/// Of `UsageCells`, behind the outcomes.
const USAGE_REFUSED: usize = OUTCOMES;
const USAGE_DROPPED: usize = OUTCOMES + 1;
const USAGE_OTHER: usize = OUTCOMES + 2;

/// What one client's messages did, for the listener and for the client.
#[derive(Default)]
pub struct Tally {
    /// Of the listener.
    pub counts: Counts,
    /// Of the client whose messages are being counted.
    pub usage: UsageCells,
}

impl Tally {
    /// A query from a source that is on no client's list.
    pub fn refuse_unknown(&mut self) {
        self.counts.receive(1);
        self.counts.refuse(Refusal::UnknownClient, 1);
    }

    fn drop(&mut self, reason: Drop, queries: u64) {
        self.counts.drop(reason, queries);
        self.usage[USAGE_DROPPED] += queries;
    }

    fn answer(&mut self, outcome: Outcome, queries: u64, latency_ns: Option<u64>) {
        if let Some(latency_ns) = latency_ns {
            self.counts.answer(outcome, queries);
            self.counts.time(outcome, queries, latency_ns);
            self.usage[outcome as usize] += queries;
        } else {
            self.drop(Drop::Unsent, queries);
        }
    }

    fn other(&mut self) {
        self.counts.other();
        self.usage[USAGE_OTHER] += 1;
    }

    fn refuse(&mut self, queries: u64, left_out: u64, sent: bool) {
        self.counts.receive(queries + left_out);
        self.drop(Drop::NoRoom, left_out);
        if sent {
            self.counts.refuse(Refusal::Rate, queries);
            self.usage[USAGE_REFUSED] += queries;
        } else {
            self.drop(Drop::Unsent, queries);
        }
    }
}

impl Silence {
    /// One query that got nothing.
    pub fn count(self, tally: &mut Tally) {
        tally.counts.receive(1);
        match self {
            Silence::Dropped(reason) => tally.drop(reason, 1),
            Silence::OverRate => {
                tally.counts.refuse(Refusal::Rate, 1);
                tally.usage[USAGE_REFUSED] += 1;
            }
            Silence::NotDue => tally.other(),
        }
    }
}

impl Told {
    /// The queries of one message. `latency_ns`: from its arrival to the reply's departure; None if it did not leave.
    pub fn count(&self, tally: &mut Tally, latency_ns: Option<u64>) {
        match *self {
            Told::Answer { outcome, odd } => {
                tally.counts.receive(1);
                if odd {
                    tally.counts.odd();
                }
                tally.answer(outcome, 1, latency_ns);
            }
            Told::Refusal => tally.refuse(1, 0, latency_ns.is_some()),
            Told::Refusals { numbers, left_out } => {
                tally.refuse(u64::from(numbers), u64::from(left_out), latency_ns.is_some());
            }
            Told::Answers { by_outcome, left_out } => {
                let answered: u64 = by_outcome.iter().copied().map(u64::from).sum();
                tally.counts.receive(answered + u64::from(left_out));
                tally.drop(Drop::NoRoom, u64::from(left_out));
                for (outcome, queries) in Outcome::ALL.into_iter().zip(by_outcome).filter(|(_, queries)| *queries > 0) {
                    tally.answer(outcome, u64::from(queries), latency_ns);
                }
            }
            Told::Other => {
                tally.counts.receive(1);
                if latency_ns.is_some() {
                    tally.other();
                } else {
                    tally.drop(Drop::Unsent, 1);
                }
            }
            Told::Fault(reason) => {
                tally.counts.receive(1);
                tally.drop(reason, 1);
            }
        }
    }
}

/// The whole way of one message: its reply appended to `out`, or silence.
pub fn respond<D: Dialect>(
    dialect: &D,
    engine: &Engine,
    message: &[u8],
    asker: Asker<'_>,
    now_ns: u64,
    out: &mut Vec<u8>,
) -> Result<Told, Silence> {
    respond_to(dialect, engine, message, asker, now_ns, out).map(|(told, _)| told)
}

/// The same, and where over UDP the reply goes instead of the port that the message came from.
pub fn respond_to<D: Dialect>(
    dialect: &D,
    engine: &Engine,
    message: &[u8],
    asker: Asker<'_>,
    now_ns: u64,
    out: &mut Vec<u8>,
) -> Result<(Told, Option<u16>), Silence> {
    let question = dialect.read(message, asker, now_ns)?;
    let located = engine.locate(dialect.number(&question, engine));
    let told = dialect.reply(&question, &located, engine, out)?;
    Ok((told, dialect.reply_port(&question)))
}

/// The same, noted on a tape that is on.
#[allow(clippy::too_many_arguments)] // those of `respond_to`, and two more
pub fn respond_noted<D: Dialect>(
    dialect: &D,
    engine: &Engine,
    message: &[u8],
    asker: Asker<'_>,
    now_ns: u64,
    out: &mut Vec<u8>,
    tape: &mut Tape,
    asking: Asking,
) -> Result<(Told, Option<u16>), Silence> {
    let question = dialect
        .read(message, asker, now_ns)
        .inspect_err(|silence| tape.note_silence(*silence, None, engine, asking))?;
    let located = engine.locate(dialect.number(&question, engine));
    let told = dialect
        .reply(&question, &located, engine, out)
        .inspect_err(|silence| tape.note_silence(*silence, located.tn(), engine, asking))?;
    tape.note_reply(dialect, &question, &located, told, engine, asking);
    Ok((told, dialect.reply_port(&question)))
}

/// The pdb dialect: OK with a carrier id, `NOT_FOUND`, `NOT_NUMBER`, or silence rather than a doubtful answer.
#[derive(Clone)]
pub struct Pdb {
    /// Whether the older form is answered too.
    pub legacy: bool,
    /// The carrier id of a network that has none.
    pub unmapped_carrier_id: u16,
}

impl Dialect for Pdb {
    const INDEX: usize = 1;
    const LATE_NS: u64 = PDB_LATE_NS;
    const BYTES_MAX: usize = PDB_DATAGRAM_BYTES_MAX;
    type Question<'m> = pdb::Query<'m>;

    fn read<'m>(&self, message: &'m [u8], asker: Asker<'m>, now_ns: u64) -> Result<pdb::Query<'m>, Silence> {
        let client = asker.client;
        if client.is_limited() && !client.take(1, now_ns, Some(asker.peer.ip())) {
            return Err(Silence::OverRate);
        }
        pdb::decode_query(message, self.legacy).map_err(Silence::Dropped)
    }

    fn number(&self, question: &pdb::Query<'_>, engine: &Engine) -> Option<Digits> {
        engine.digits(question.number.unwrap_or_default())
    }

    fn reply(
        &self,
        question: &pdb::Query<'_>,
        located: &Located<'_>,
        engine: &Engine,
        out: &mut Vec<u8>,
    ) -> Result<Told, Silence> {
        // What is not a number needs no data, but silence is kept all the same until there is some.
        let found = engine.find(located);
        if found.outcome == Outcome::Unavailable {
            return Err(Silence::Dropped(Drop::Unavailable));
        }
        let carrier_id =
            found.route.map(|route| route.pdb_carrier_id.filter(|id| *id != 0).unwrap_or(self.unmapped_carrier_id));
        pdb::encode_answer(question, carrier_id, out);
        Ok(Told::Answer { outcome: found.outcome, odd: question.odd })
    }
}

/// The npq dialect: one answer message for one query message.
#[derive(Clone)]
pub struct Npq {
    /// Of an answer to several numbers.
    pub answer_bytes_max: usize,
    /// Answer a malformed message too; over UDP that would answer forged sources.
    pub tells_errors: bool,
}

/// A message of npq that gets a reply.
pub enum NpqQuestion<'m> {
    /// To be answered from data.
    Query(npq::Query<'m>),
    /// Each of its numbers is answered `refused`.
    OverRate(npq::Query<'m>),
    /// Gets the error message, if there is one for it.
    Fault(npq::Fault),
}

impl Dialect for Npq {
    const INDEX: usize = 0;
    const LATE_NS: u64 = 0; // an answer carries its question's id: a late one does no harm
    const BYTES_MAX: usize = DATAGRAM_BYTES_MAX;
    type Question<'m> = NpqQuestion<'m>;

    fn read<'m>(&self, message: &'m [u8], asker: Asker<'m>, now_ns: u64) -> Result<NpqQuestion<'m>, Silence> {
        let client = asker.client;
        let host = (!self.tells_errors).then(|| asker.peer.ip());
        let query = match npq::decode_query(message) {
            Ok(query) => query,
            Err(fault) => {
                let within_rate = !client.is_limited() || client.take(1, now_ns, host);
                let has_message = self.tells_errors || matches!(fault, npq::Fault::Refused { .. });
                return if has_message && (within_rate || self.tells_errors) {
                    Ok(NpqQuestion::Fault(fault))
                } else {
                    Err(Silence::Dropped(fault.reason()))
                };
            }
        };
        let numbers = match &query.numbers {
            npq::Numbers::One(_) => 1,
            npq::Numbers::Many(many) => many.count as u64,
        };
        if client.is_limited() && !client.take(numbers, now_ns, host) {
            return Ok(NpqQuestion::OverRate(query));
        }
        Ok(NpqQuestion::Query(query))
    }

    fn number(&self, question: &NpqQuestion<'_>, engine: &Engine) -> Option<Digits> {
        match question {
            NpqQuestion::Query(npq::Query { numbers: npq::Numbers::One(number), .. }) => digits_of(number, engine),
            _ => None,
        }
    }

    fn reply(
        &self,
        question: &NpqQuestion<'_>,
        located: &Located<'_>,
        engine: &Engine,
        out: &mut Vec<u8>,
    ) -> Result<Told, Silence> {
        Ok(match question {
            NpqQuestion::Query(query) => match &query.numbers {
                npq::Numbers::One(_) => {
                    let answer = engine.answer(located);
                    npq::encode_one(query, &answer, out);
                    Told::Answer { outcome: answer.outcome, odd: false }
                }
                npq::Numbers::Many(many) => self.reply_many(query, &resolve_all(many, engine), out),
            },
            NpqQuestion::OverRate(query) => match &query.numbers {
                npq::Numbers::One(_) => {
                    npq::encode_one(query, &engine.refuse(), out);
                    Told::Refusal
                }
                npq::Numbers::Many(many) => self.reply_many(query, &vec![engine.refuse(); many.count], out),
            },
            NpqQuestion::Fault(fault) => {
                match *fault {
                    npq::Fault::Refused { id, code } => npq::encode_error(id, code, out),
                    npq::Fault::Drop(_) => npq::encode_error(None, npq::ERROR_MALFORMED, out),
                }
                Told::Fault(fault.reason())
            }
        })
    }

    fn numbers(&self, question: &NpqQuestion<'_>, engine: &Engine, each: &mut dyn FnMut(Option<Digits>)) {
        let (NpqQuestion::Query(query) | NpqQuestion::OverRate(query)) = question else { return };
        match &query.numbers {
            npq::Numbers::One(number) => each(digits_of(number, engine)),
            npq::Numbers::Many(many) => many.iter().for_each(|number| each(digits_of(&number, engine))),
        }
    }
}

impl Npq {
    fn reply_many(&self, query: &npq::Query<'_>, answers: &[Answer<'_>], out: &mut Vec<u8>) -> Told {
        let held = npq::encode_many(query, answers, self.answer_bytes_max, out);
        let left_out = (answers.len() - held) as u16;
        let mut by_outcome = [0; OUTCOMES];
        for answer in &answers[..held] {
            by_outcome[answer.outcome as usize] += 1;
        }
        match by_outcome[Outcome::Refused as usize] {
            0 => Told::Answers { by_outcome, left_out },
            numbers => Told::Refusals { numbers, left_out },
        }
    }
}

fn digits_of(number: &npq::Number<'_>, engine: &Engine) -> Option<Digits> {
    let mut room = [0; 20];
    engine.digits(number.dialled(&mut room))
}

/// The answers of a batch query, all of one state, a few blocks ahead of the one that is read.
fn resolve_all<'e>(many: &npq::Many<'_>, engine: &'e Engine) -> Vec<Answer<'e>> {
    let mut answers = Vec::with_capacity(many.count);
    let mut ahead = Vec::with_capacity(NUMBERS_AHEAD);
    for number in many.iter() {
        ahead.push(engine.locate(digits_of(&number, engine)));
        if ahead.len() == NUMBERS_AHEAD {
            answers.extend(ahead.drain(..).map(|located| engine.answer(&located)));
        }
    }
    answers.extend(ahead.drain(..).map(|located| engine.answer(&located)));
    answers
}

#[cfg(test)]
mod tests;
