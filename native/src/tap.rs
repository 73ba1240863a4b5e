//! The query log's native side: what workers note of each number asked, and the lines that Python writes to a file.
//!
//! A worker never waits for it: what is noted goes into a bounded queue of its own, and what does not fit is counted as
//! lost. While the tap is off a batch costs one load. `lookupd/tap.py` notes the same and says what each field means;
//! files and their rotation are left to `lookupd/query_log.py`.

use std::io::Write;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::access::Clients;
use crate::counters::DIALECTS;
use crate::engine::{Engine, Located};
use crate::limits::{NETWORK_CODE_CHARS_MAX, QUERY_LOG_QUEUE_MAX, ROUTING_NUMBER_CHARS_MAX};
use crate::model::{Drop, OUTCOMES, Outcome, Route};
use crate::responder::{Dialect, Silence, Told};

/// Clients lists whose names are kept: a record may be of the one before the one in force, never of an older one.
const LISTS_MAX: usize = 4;

/// How often a queue that is being emptied is tried again before the records wait for the next batch.
const TRIES: usize = 64;

/// Of a record whose reply was not timed.
const UNTIMED: u32 = u32::MAX;

/// By the value of `Outcome`, then what got no answer.
const OUTCOME_NAMES: [&str; OUTCOMES + 1] =
    ["ported", "not_ported", "not_allocated", "not_portable", "unavailable", "refused", "dropped"];

/// By the value of `Drop`.
const REASONS: [&str; 7] = ["malformed", "not_a_query", "too_long", "late", "unavailable", "no_room", "unsent"];

/// What became of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answered, or refused for its client's rate.
    Outcome(Outcome),
    /// Not answered.
    Dropped(Drop),
}

impl Verdict {
    fn index(self) -> usize {
        match self {
            Verdict::Outcome(outcome) => outcome as usize,
            Verdict::Dropped(_) => OUTCOMES,
        }
    }

    fn reason(self) -> Option<&'static str> {
        match self {
            Verdict::Outcome(_) => None,
            Verdict::Dropped(reason) => REASONS.get(reason as usize).copied(),
        }
    }

    fn or_unsent(self, left: bool) -> Verdict {
        match self {
            Verdict::Outcome(_) if !left => Verdict::Dropped(Drop::Unsent),
            _ => self,
        }
    }
}

/// A short ASCII text in place: records are copied, not allocated.
#[derive(Clone, Copy)]
struct Short<const N: usize> {
    bytes: [u8; N],
    /// Over N: there is no text.
    length: u8,
}

impl<const N: usize> Short<N> {
    fn new(text: Option<&str>) -> Self {
        let mut bytes = [0; N];
        let Some(text) = text else { return Self { bytes, length: u8::MAX } };
        let length = text.len().min(N);
        bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        Self { bytes, length: length as u8 }
    }

    fn as_str(&self) -> Option<&str> {
        self.bytes.get(..usize::from(self.length)).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }
}

/// One number asked.
#[derive(Clone, Copy)]
struct Record {
    at_ns: u64,
    number: Option<u64>,
    /// `Clients::id` of the list that the client is in.
    list: u64,
    client: u32,
    serial: u32,
    reply_us: u32,
    source: IpAddr,
    verdict: Verdict,
    network_code: Short<NETWORK_CODE_CHARS_MAX>,
    routing_number: Short<ROUTING_NUMBER_CHARS_MAX>,
}

/// Who asked, and when; the same for all numbers of a message.
#[derive(Clone, Copy)]
pub struct Asking {
    /// Of the clients list in force.
    pub client: usize,
    /// Where from.
    pub source: IpAddr,
    /// Nanoseconds since 1970.
    pub at_ns: u64,
}

/// What is noted, shared by all workers of a process.
#[derive(Default)]
pub struct Tap {
    /// One of so many queries; 0 = the tap is off.
    sample: AtomicU32,
    /// A bit for each of `OUTCOME_NAMES`.
    outcomes: AtomicU32,
    /// Whether numbers are written whole.
    full: AtomicBool,
    queues: Mutex<Vec<Arc<Queue>>>,
    lists: Mutex<Vec<Arc<Clients>>>,
    /// Of queues whose worker has ended.
    lost: AtomicU64,
}

/// One worker's records on their way to the file.
struct Queue {
    dialect: &'static str,
    transport: &'static str,
    records: Mutex<Vec<Record>>,
    /// Empty, with the room of the last time: a worker whose queue begins anew would have to ask for memory.
    spare: Mutex<Vec<Record>>,
    lost: AtomicU64,
}

impl Queue {
    /// Move records behind those that wait; what finds no room is lost.
    fn take_in(&self, records: &mut Vec<Record>, mut waiting: MutexGuard<'_, Vec<Record>>) {
        let room = QUERY_LOG_QUEUE_MAX.saturating_sub(waiting.len());
        self.lost.fetch_add(records.len().saturating_sub(room) as u64, Ordering::Relaxed);
        records.truncate(room);
        waiting.append(records);
    }

    /// Each record that waits. The worker is kept out for no longer than two vectors take to change places.
    fn take_out(&self, take: impl FnMut(Record)) {
        let mut spare = locked(&self.spare);
        std::mem::swap(&mut *locked(&self.records), &mut *spare);
        spare.drain(..).for_each(take);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tap {
    /// sample: 0 = off. outcomes: a bit for each, in the order of `OUTCOME_NAMES`. full: write numbers whole.
    pub fn set(&self, sample: u32, outcomes: u32, full: bool) {
        self.outcomes.store(outcomes, Ordering::Relaxed);
        self.full.store(full, Ordering::Relaxed);
        self.sample.store(sample, Ordering::Relaxed);
    }

    /// A worker's own tape. dialect: `Dialect::INDEX`.
    pub fn tape(self: &Arc<Tap>, dialect: usize, transport: &'static str) -> Tape {
        let dialect = DIALECT_NAMES.get(dialect).copied().unwrap_or_default();
        let queue = Arc::new(Queue {
            dialect,
            transport,
            records: Mutex::default(),
            spare: Mutex::default(),
            lost: AtomicU64::new(0),
        });
        locked(&self.queues).push(Arc::clone(&queue));
        Tape { tap: Arc::clone(self), queue, records: Vec::new(), sample: 0, outcomes: 0, until_next: 0 }
    }

    /// A clients list that records may be of from now on.
    pub fn know(&self, clients: &Arc<Clients>) {
        let mut lists = locked(&self.lists);
        if lists.last().is_some_and(|known| Arc::ptr_eq(known, clients)) {
            return;
        }
        lists.push(Arc::clone(clients));
        let old = lists.len().saturating_sub(LISTS_MAX);
        lists.drain(..old);
    }

    /// Append a line for each record so far, the oldest first; returns how many.
    pub fn drain(&self, out: &mut Vec<u8>) -> usize {
        let lists = locked(&self.lists).clone();
        let queues = locked(&self.queues).clone();
        let mut drained = Vec::new();
        for (at, queue) in queues.iter().enumerate() {
            queue.take_out(|record| drained.push((record, at)));
        }
        drained.sort_by_key(|(record, _)| record.at_ns);
        let full = self.full.load(Ordering::Relaxed);
        for (record, at) in &drained {
            let list = lists.iter().find(|list| list.id() == record.list);
            let client = list.map_or("?", |list| list.client(record.client as usize).name());
            record.write(client, &queues[*at], full, out);
        }
        drop(queues);
        self.forget_ended();
        drained.len()
    }

    /// Let go of queues that are empty and whose worker has ended.
    fn forget_ended(&self) {
        locked(&self.queues).retain(|queue| {
            let ended = Arc::strong_count(queue) == 1 && locked(&queue.records).is_empty();
            if ended {
                self.lost.fetch_add(queue.lost.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            !ended
        });
    }

    /// Records that found no room, since the start.
    pub fn lost(&self) -> u64 {
        let queues = locked(&self.queues);
        let living: u64 = queues.iter().map(|queue| queue.lost.load(Ordering::Relaxed)).sum();
        living + self.lost.load(Ordering::Relaxed)
    }
}

/// In the order of `Dialect::INDEX`, as `lookupd.observe.counters.DIALECTS` has them.
const DIALECT_NAMES: [&str; DIALECTS] = ["npq", "pdb", "enum", "sip"];

/// What one worker notes. Of one thread.
pub struct Tape {
    tap: Arc<Tap>,
    queue: Arc<Queue>,
    records: Vec<Record>,
    /// As the batch began; 0 = off.
    sample: u32,
    outcomes: u32,
    /// Queries until the next one that is noted.
    until_next: u32,
}

impl Tape {
    /// A batch begins. This load is all that the tap costs while it is off.
    #[inline]
    pub fn begin(&mut self) {
        self.sample = self.tap.sample.load(Ordering::Relaxed);
        if self.sample != 0 {
            self.outcomes = self.tap.outcomes.load(Ordering::Relaxed);
        }
    }

    /// Whether anything is noted in this batch.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.sample != 0
    }

    /// Where the next record will be; see `settle`.
    #[inline]
    pub fn mark(&self) -> usize {
        self.records.len()
    }

    /// A message that gets a reply.
    pub fn note_reply<D: Dialect>(
        &mut self,
        dialect: &D,
        question: &D::Question<'_>,
        located: &Located<'_>,
        told: Told,
        engine: &Engine,
        asking: Asking,
    ) {
        match told {
            Told::Answer { outcome, .. } => self.note_answer(located, outcome, engine, asking),
            Told::Refusal => {
                let mut number = None;
                dialect.numbers(question, engine, &mut |digits| number = digits.map(|digits| digits.tn()));
                self.note(number, Verdict::Outcome(Outcome::Refused), None, engine, asking);
            }
            Told::Answers { by_outcome, .. } => {
                let mut held: usize = by_outcome.iter().copied().map(usize::from).sum();
                dialect.numbers(question, engine, &mut |digits| {
                    if held == 0 {
                        let number = digits.map(|digits| digits.tn());
                        self.note(number, Verdict::Dropped(Drop::NoRoom), None, engine, asking);
                    } else {
                        held -= 1;
                        if self.is_next(engine, asking) {
                            let located = engine.locate(digits);
                            let outcome = engine.look(&located).outcome;
                            self.put_answer(&located, outcome, engine, asking);
                        }
                    }
                });
            }
            Told::Refusals { numbers, .. } => {
                let mut held = usize::from(numbers);
                dialect.numbers(question, engine, &mut |digits| {
                    let verdict = match held {
                        0 => Verdict::Dropped(Drop::NoRoom),
                        _ => Verdict::Outcome(Outcome::Refused),
                    };
                    held = held.saturating_sub(1);
                    self.note(digits.map(|digits| digits.tn()), verdict, None, engine, asking);
                });
            }
            Told::Fault(reason) => self.note(None, Verdict::Dropped(reason), None, engine, asking),
            Told::Other => {}
        }
    }

    /// A message that gets none. number: if it was read so far.
    pub fn note_silence(&mut self, silence: Silence, number: Option<u64>, engine: &Engine, asking: Asking) {
        let verdict = match silence {
            Silence::Dropped(reason) => Verdict::Dropped(reason),
            Silence::OverRate => Verdict::Outcome(Outcome::Refused),
            Silence::NotDue => return,
        };
        self.note(number, verdict, None, engine, asking);
    }

    /// What became of the reply whose records are from the mark on to the other. `latency_ns`: None if it did not leave.
    pub fn settle(&mut self, records: std::ops::Range<usize>, latency_ns: Option<u64>) {
        for record in self.records.get_mut(records).unwrap_or_default() {
            record.verdict = record.verdict.or_unsent(latency_ns.is_some());
            if let Some(latency) = latency_ns {
                record.reply_us = u32::try_from(latency / 1000).unwrap_or(UNTIMED - 1);
            } else {
                record.network_code = Short::new(None);
                record.routing_number = Short::new(None);
            }
        }
    }

    /// The batch is over: hand on what was noted. Waits for nobody.
    #[inline]
    pub fn publish(&mut self) {
        if !self.records.is_empty() {
            self.hand_on();
        }
    }

    fn hand_on(&mut self) {
        let Tape { records, queue, outcomes, .. } = self;
        records.retain(|record| *outcomes >> record.verdict.index() & 1 != 0);
        for _ in 0..TRIES {
            match queue.records.try_lock() {
                Ok(waiting) => return queue.take_in(records, waiting),
                Err(TryLockError::Poisoned(poisoned)) => return queue.take_in(records, poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        if records.len() > QUERY_LOG_QUEUE_MAX {
            queue.lost.fetch_add(records.len() as u64, Ordering::Relaxed);
            records.clear();
        }
    }

    /// Whether this query is one of the sample.
    #[inline]
    fn is_next(&mut self, engine: &Engine, asking: Asking) -> bool {
        if self.sample == 0 || !engine.clients().client(asking.client).is_tapped() {
            return false;
        }
        if self.until_next == 0 {
            self.until_next = self.sample - 1;
            return true;
        }
        self.until_next = (self.until_next - 1).min(self.sample - 1);
        false
    }

    fn note_answer(&mut self, located: &Located<'_>, outcome: Outcome, engine: &Engine, asking: Asking) {
        if self.is_next(engine, asking) {
            self.put_answer(located, outcome, engine, asking);
        }
    }

    fn put_answer(&mut self, located: &Located<'_>, outcome: Outcome, engine: &Engine, asking: Asking) {
        let route = match outcome {
            Outcome::Ported | Outcome::NotPorted => engine.look(located).route,
            _ => None,
        };
        self.put(located.tn(), Verdict::Outcome(outcome), route, engine, asking);
    }

    fn note(&mut self, number: Option<u64>, verdict: Verdict, route: Option<&Route>, engine: &Engine, asking: Asking) {
        if self.is_next(engine, asking) {
            self.put(number, verdict, route, engine, asking);
        }
    }

    fn put(&mut self, number: Option<u64>, verdict: Verdict, route: Option<&Route>, engine: &Engine, asking: Asking) {
        self.records.push(Record {
            at_ns: asking.at_ns,
            number,
            list: engine.clients().id(),
            client: asking.client as u32,
            serial: engine.version().0,
            reply_us: UNTIMED,
            source: asking.source,
            verdict,
            network_code: Short::new(route.map(|route| route.network_code.as_str())),
            routing_number: Short::new(route.and_then(|route| route.routing_number.as_deref())),
        });
    }
}

impl std::ops::Drop for Tape {
    /// The last records of a worker that ends, which may wait.
    fn drop(&mut self) {
        let Tape { records, queue, outcomes, .. } = self;
        records.retain(|record| *outcomes >> record.verdict.index() & 1 != 0);
        queue.take_in(records, locked(&queue.records));
    }
}

impl Record {
    /// As one line of JSON, with the keys of `lookupd.tap.Record` in their order.
    fn write(&self, client: &str, queue: &Queue, full: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        write_time(self.at_ns / 1_000_000, out);
        out.extend_from_slice(b"\",\"client\":");
        write_text(Some(client), out);
        out.extend_from_slice(b",\"dialect\":");
        write_text(Some(queue.dialect), out);
        out.extend_from_slice(b",\"transport\":");
        write_text(Some(queue.transport), out);
        out.extend_from_slice(b",\"number\":");
        match self.number {
            Some(tn) if full => put(out, format_args!("\"+{tn}\"")),
            Some(tn) => put(out, format_args!("\"+{}****\"", tn / 10_000)),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"outcome\":");
        write_text(OUTCOME_NAMES.get(self.verdict.index()).copied(), out);
        out.extend_from_slice(b",\"reason\":");
        write_text(self.verdict.reason(), out);
        out.extend_from_slice(b",\"network_code\":");
        write_text(self.network_code.as_str(), out);
        out.extend_from_slice(b",\"routing_number\":");
        write_text(self.routing_number.as_str(), out);
        put(out, format_args!(",\"serial\":{},\"source\":\"{}\",\"reply_us\":", self.serial, self.source));
        match self.reply_us {
            UNTIMED => out.extend_from_slice(b"null"),
            micros => put(out, format_args!("{micros}")),
        }
        out.extend_from_slice(b"}\n");
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text); // a vector takes all
}

/// A string of JSON, or null.
fn write_text(text: Option<&str>, out: &mut Vec<u8>) {
    let Some(text) = text else { return out.extend_from_slice(b"null") };
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0C => out.extend_from_slice(b"\\f"),
            0..0x20 => put(out, format_args!("\\u{byte:04x}")),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// RFC 3339 in UTC, `2026-03-01T01:00:00.250Z`.
fn write_time(at_ms: u64, out: &mut Vec<u8>) {
    let (seconds, millis) = (at_ms / 1000, at_ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, so that the day that comes and goes is a year's last. 719 468: from 0000-03-01 to 1970.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    put(out, format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"));
}

#[cfg(test)]
mod tests;
