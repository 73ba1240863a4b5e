//! One socket's questions and answers, whatever carries them.

use super::flight::{Flight, Settled};
use super::pace::Pace;
use super::questions::{Dialect, Questions};
use super::replies;
use super::tally::Tally;

/// What one socket asks, when, and what it waits for.
pub struct Asking<'a> {
    questions: &'a Questions,
    at: usize,
    line: u16,
    pace: Pace,
    flight: Flight,
    timeout_ns: u64,
    message: Vec<u8>,
}

impl<'a> Asking<'a> {
    /// line: which of the run's sockets this is, and at: the question it begins with. `in_flight`: how many may wait
    /// at once.
    pub fn new(
        questions: &'a Questions,
        line: u16,
        at: usize,
        pace: Pace,
        in_flight: u64,
        timeout_ns: u64,
    ) -> Asking<'a> {
        let flight = Flight::new(in_flight, questions.dialect.id_bits(), questions.dialect.first_id());
        Asking { questions, at, line, pace, flight, timeout_ns, message: Vec::new() }
    }

    /// What is spoken.
    pub fn dialect(&self) -> Dialect {
        self.questions.dialect
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
        self.questions.write(self.at, id, self.line, &mut self.message);
        self.at = if self.at + 1 < self.questions.len() { self.at + 1 } else { 0 };
        Some((id, &self.message))
    }

    /// Asking has ended: what was due and could not be asked any more counts as how far behind we were.
    pub fn end(&self, now_ns: u64, tally: &mut Tally) {
        if let Some(intended) = self.pace.next(now_ns, self.flight.waiting()) {
            tally.behind_ns_max = tally.behind_ns_max.max(now_ns.saturating_sub(intended));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::pace::Loop;

    /// An answer to a query of `pdb` with this id.
    fn not_found(id: u8) -> [u8; 6] {
        [1, 1, 3, 6, 0, id]
    }

    fn asked(kind: Loop, run: impl FnOnce(&mut Asking<'_>, &mut Tally)) -> Tally {
        let questions = Questions::new(Dialect::Pdb, &["110".into()], 1, false);
        let mut asking = Asking::new(&questions, 0, 0, Pace::new(kind, 0, 1, 3), 10, 1_000);
        let mut tally = Tally::new();
        asking.begin(0);
        run(&mut asking, &mut tally);
        tally
    }

    #[test]
    fn open_loop_counts_from_the_intended_send_and_gives_up_from_the_actual_one() {
        let tally = asked(Loop::Open { rate: 1_000_000 }, |asking, tally| {
            assert_eq!(asking.next(5_000, tally).unwrap().0, 0); // meant for 0
            assert_eq!(asking.next(5_000, tally).unwrap().0, 1); // meant for 1,000
            asking.take(&not_found(1), 5_500, tally);
            asking.expire(5_900, tally);
            assert_eq!(tally.lost, 0);
            asking.expire(6_001, tally);
            asking.end(9_000, tally); // the third was meant for 2,000
        });
        assert_eq!(tally.histogram(), [(4_503, 1)]); // 4,500, in a bucket of 4
        assert_eq!((tally.sent, tally.received, tally.lost, tally.behind_ns_max), (2, 1, 1, 7_000));
        assert_eq!((tally.outcomes[1], tally.numbers, tally.last_reply_ns), (1, 1, 5_500));
    }

    #[test]
    fn closed_loop_counts_from_the_actual_send() {
        let tally = asked(Loop::Closed { window: 1 }, |asking, tally| {
            assert!(asking.next(5_000, tally).is_some());
            assert!(asking.next(5_000, tally).is_none());
            asking.take(&not_found(0), 5_500, tally);
            asking.take(&not_found(0), 5_600, tally);
            asking.take(&not_found(9), 5_600, tally);
            asking.take(b"junk", 5_600, tally);
            assert_eq!(asking.next(6_000, tally).unwrap().0, 1);
            asking.not_sent(1, tally);
            asking.not_sent(1, tally);
            asking.take(&not_found(1), 6_100, tally);
            asking.end(9_000, tally);
        });
        assert_eq!(tally.histogram(), [(500, 1)]);
        assert_eq!((tally.sent, tally.received, tally.lost, tally.unsent), (2, 1, 1, 1));
        assert_eq!((tally.duplicate, tally.unknown, tally.late, tally.behind_ns_max), (1, 2, 1, 0));
    }
}
