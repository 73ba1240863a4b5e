//! One socket's questions and answers, whatever carries them.

use super::flight::{Flight, Settled};
use super::pace::Pace;
use super::questions::Questions;
use super::replies;
use super::tally::Tally;

/// What one socket asks, when, and what it waits for.
pub struct Asking<'a> {
    questions: &'a Questions,
    at: usize,
    pace: Pace,
    flight: Flight,
    timeout_ns: u64,
    message: Vec<u8>,
}

impl<'a> Asking<'a> {
    /// at: the question to begin with. `in_flight`: how many may wait at once.
    pub fn new(questions: &'a Questions, at: usize, pace: Pace, in_flight: u64, timeout_ns: u64) -> Asking<'a> {
        let flight = Flight::new(in_flight, questions.dialect.id_bits(), questions.dialect.first_id());
        Asking { questions, at, pace, flight, timeout_ns, message: Vec::new() }
    }

    /// The schedule begins now.
    pub fn begin(&mut self, now_ns: u64) {
        self.pace.begin(now_ns);
    }

    /// Whether anything is in flight.
    pub fn is_waiting(&self) -> bool {
        self.flight.waiting() > 0
    }

    /// Whether the share of this socket was asked.
    pub fn is_done(&self) -> bool {
        self.pace.is_done()
    }

    /// The next message and its id, if one is due; counted as sent.
    pub fn next(&mut self, now_ns: u64, tally: &mut Tally) -> Option<(u32, &[u8])> {
        let intended = self.pace.next(now_ns, self.flight.waiting())?;
        let id = self.flight.issue(intended, now_ns)?;
        self.pace.count();
        tally.sent += 1;
        tally.behind_ns_max = tally.behind_ns_max.max(now_ns - intended);
        self.questions.write(self.at, id, &mut self.message);
        self.at = if self.at + 1 < self.questions.len() { self.at + 1 } else { 0 };
        Some((id, &self.message))
    }

    /// The kernel did not take this one.
    pub fn not_sent(&mut self, id: u32, tally: &mut Tally) {
        if self.flight.give_up(id) {
            tally.lost += 1;
            tally.unsent += 1;
        }
    }

    /// Something came.
    pub fn take(&mut self, reply: &[u8], now_ns: u64, tally: &mut Tally) {
        let Some(reply) = replies::read(self.questions.dialect, reply) else {
            tally.unknown += 1;
            return;
        };
        match self.flight.settle(reply.id) {
            Settled::Answered { intended_ns } => {
                tally.answered(now_ns.saturating_sub(intended_ns), now_ns);
                for (all, count) in tally.outcomes.iter_mut().zip(reply.outcomes) {
                    *all += u64::from(count);
                    tally.numbers += u64::from(count);
                }
            }
            Settled::Late => tally.late += 1,
            Settled::Duplicate => tally.duplicate += 1,
            Settled::Unknown => tally.unknown += 1,
        }
    }

    /// Give up what has waited too long.
    pub fn expire(&mut self, now_ns: u64, tally: &mut Tally) {
        tally.lost += self.flight.expire(now_ns.saturating_sub(self.timeout_ns));
    }

    /// Nobody will answer any more: all that is in flight is lost.
    pub fn give_up_all(&mut self, tally: &mut Tally) {
        tally.lost += self.flight.expire(u64::MAX);
    }
}
