//! What happened to queries: written by one worker, read by whoever collects metrics, without a lock.
//!
//! Mirrors `lookupd/observe/counters.py`. The conservation law, received = answered + other + refused + dropped, holds in
//! every reading: a worker publishes a batch as a whole, and a reader that met it halfway reads again.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::model::{DROPS, Drop, OUTCOMES, Outcome, REFUSALS, Refusal};

/// Buckets of the latency histogram: bucket i holds what took at most 2^i us; the last one, what took longer.
pub const BUCKETS: usize = 23;

/// No answer is measured longer, an hour: what is, was asked before the clock was set, and would be all of the sum.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Looks at a worker's counts that find it publishing before the reader gives way: the worker may wait for its core.
const SPINS_MAX: u64 = 100;

const RECEIVED: usize = 0;
const ODD: usize = 1;
const UNREADABLE: usize = 2;
const OTHER: usize = 3;
const ANSWERED: usize = 4;
const REFUSED: usize = ANSWERED + OUTCOMES;
const DROPPED: usize = REFUSED + REFUSALS;
const LATENCY_NS: usize = DROPPED + DROPS;
const LATENCY: usize = LATENCY_NS + OUTCOMES;
const CELLS: usize = LATENCY + OUTCOMES * BUCKETS;

const fn latency_cells(outcome: usize) -> Range<usize> {
    LATENCY + outcome * BUCKETS..LATENCY + (outcome + 1) * BUCKETS
}

/// Counts of one batch, or a sum of many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    cells: [u64; CELLS],
}

impl Default for Counts {
    fn default() -> Counts {
        Counts { cells: [0; CELLS] }
    }
}

impl Counts {
    /// So many queries arrived; a batch query counts once for each of its numbers.
    pub fn receive(&mut self, queries: u64) {
        self.cells[RECEIVED] += queries;
    }

    /// A query is answered in spite of a fault.
    pub fn odd(&mut self) {
        self.cells[ODD] += 1;
    }

    /// A message that asks for no number.
    pub fn other(&mut self) {
        self.cells[OTHER] += 1;
    }

    /// So many look-ups met a damaged block, or a route or restriction that is missing.
    pub fn unreadable(&mut self, lookups: u64) {
        self.cells[UNREADABLE] += lookups;
    }

    /// Answers; whoever sends them tells how long they took (`time`).
    pub fn answer(&mut self, outcome: Outcome, queries: u64) {
        self.cells[ANSWERED + outcome as usize] += queries;
    }

    /// Queries refused.
    pub fn refuse(&mut self, reason: Refusal, queries: u64) {
        self.cells[REFUSED + reason as usize] += queries;
    }

    /// Queries not answered.
    pub fn drop(&mut self, reason: Drop, queries: u64) {
        self.cells[DROPPED + reason as usize] += queries;
    }

    /// How long after their question answers were sent; at least a nanosecond, at most an hour.
    pub fn time(&mut self, outcome: Outcome, queries: u64, latency_ns: u64) {
        let latency_ns = latency_ns.clamp(1, LATENCY_NS_MAX);
        let sum = &mut self.cells[LATENCY_NS + outcome as usize];
        *sum = sum.saturating_add(latency_ns.saturating_mul(queries));
        self.cells[LATENCY + outcome as usize * BUCKETS + bucket(latency_ns)] += queries;
    }

    /// Queries that arrived.
    pub fn received(&self) -> u64 {
        self.cells[RECEIVED]
    }

    /// Queries answered in spite of a fault.
    pub fn odd_queries(&self) -> u64 {
        self.cells[ODD]
    }

    /// Messages that asked for no number.
    pub fn other_messages(&self) -> u64 {
        self.cells[OTHER]
    }

    /// Look-ups that met a damaged block, or a route or restriction that is missing.
    pub fn unreadable_lookups(&self) -> u64 {
        self.cells[UNREADABLE]
    }

    /// By `Outcome`.
    pub fn answered(&self) -> &[u64] {
        &self.cells[ANSWERED..REFUSED]
    }

    /// By `Refusal`.
    pub fn refused(&self) -> &[u64] {
        &self.cells[REFUSED..DROPPED]
    }

    /// By `Drop`.
    pub fn dropped(&self) -> &[u64] {
        &self.cells[DROPPED..LATENCY_NS]
    }

    /// Nanoseconds of all timed answers, by `Outcome`.
    pub fn latency_ns(&self) -> &[u64] {
        &self.cells[LATENCY_NS..LATENCY]
    }

    /// Timed answers of an outcome, by bucket.
    pub fn latency(&self, outcome: usize) -> &[u64] {
        &self.cells[latency_cells(outcome)]
    }

    /// The difference that the conservation law wants to be 0.
    pub fn balance(&self) -> i128 {
        i128::from(self.received()) - self.cells[OTHER..LATENCY_NS].iter().copied().map(i128::from).sum::<i128>()
    }

    /// Add another's counts.
    pub fn add(&mut self, other: &Counts) {
        for (sum, more) in self.cells.iter_mut().zip(other.cells) {
            *sum = sum.wrapping_add(more); // as `publish` adds
        }
    }

    /// Add to one part of a worker's cells, and begin anew.
    fn move_to(&mut self, cells: &[AtomicU64; CELLS], part: Range<usize>) {
        for (cell, more) in cells[part.clone()].iter().zip(&mut self.cells[part]) {
            if *more != 0 {
                cell.store(cell.load(Ordering::Relaxed).wrapping_add(*more), Ordering::Relaxed);
                *more = 0;
            }
        }
    }
}

/// The bucket of a time: the first whose bound is not below it.
fn bucket(latency_ns: u64) -> usize {
    let us = latency_ns.div_ceil(1000).max(1);
    ((u64::BITS - (us - 1).leading_zeros()) as usize).min(BUCKETS - 1)
}

/// A worker's counts where others can read them. One thread publishes; any may read.
#[repr(align(128))] // two cache lines: a neighbour's writes would slow ours down
pub struct Counters {
    /// Odd while a batch is being published.
    version: AtomicU64,
    cells: [AtomicU64; CELLS],
}

impl Default for Counters {
    fn default() -> Counters {
        Counters { version: AtomicU64::new(0), cells: [const { AtomicU64::new(0) }; CELLS] }
    }
}

impl Counters {
    /// Add a batch, which begins anew. Only the owner's thread may call this.
    pub fn publish(&self, batch: &mut Counts) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        // Of the histograms, most of the cells, only those that have something: a batch may be one query.
        for outcome in 0..OUTCOMES {
            if batch.cells[LATENCY_NS + outcome] != 0 {
                batch.move_to(&self.cells, latency_cells(outcome));
            }
        }
        batch.move_to(&self.cells, 0..LATENCY);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// All batches so far, none of them in part.
    pub fn read(&self) -> Counts {
        let mut turns = 0_u64;
        loop {
            let before = self.version.load(Ordering::Acquire);
            let mut counts = Counts::default();
            for (sum, cell) in counts.cells.iter_mut().zip(&self.cells) {
                *sum = cell.load(Ordering::Relaxed);
            }
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return counts;
            }
            turns += 1;
            if turns < SPINS_MAX {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// How many dialects clients are counted by.
pub const DIALECTS: usize = 4;

/// Kinds of what became of a client's queries: answered by outcome, refused, not answered, not about a number.
pub const USAGE_CELLS: usize = OUTCOMES + 3;

/// One client's queries in one dialect, in a batch or in all.
pub type UsageCells = [u64; USAGE_CELLS];

/// Queries by client and dialect, shared by all workers: they add to it once a batch.
pub struct Usage {
    cells: Vec<[[AtomicU64; USAGE_CELLS]; DIALECTS]>,
}

impl Usage {
    /// For so many clients.
    pub fn new(clients: usize) -> Usage {
        let cells = (0..clients).map(|_| [const { [const { AtomicU64::new(0) }; USAGE_CELLS] }; DIALECTS]).collect();
        Usage { cells }
    }

    /// Add what a batch did for a client, which begins anew.
    pub fn add(&self, client: usize, dialect: usize, batch: &mut UsageCells) {
        if let Some(cells) = self.cells.get(client).and_then(|dialects| dialects.get(dialect)) {
            for (cell, more) in cells.iter().zip(batch) {
                if *more != 0 {
                    cell.fetch_add(*more, Ordering::Relaxed);
                    *more = 0;
                }
            }
        }
    }

    /// By client, then by dialect.
    pub fn read(&self) -> Vec<[UsageCells; DIALECTS]> {
        let load = |cells: &[AtomicU64; USAGE_CELLS]| cells.each_ref().map(|cell| cell.load(Ordering::Relaxed));
        self.cells.iter().map(|dialects| dialects.each_ref().map(load)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn bucket_bounds_are_powers_of_two_microseconds() {
        for (ns, expected) in
            [(0, 0), (1, 0), (1000, 0), (1001, 1), (2000, 1), (2001, 2), (1_000_000, 10), (u64::MAX, BUCKETS - 1)]
        {
            assert_eq!(bucket(ns), expected, "{ns} ns");
        }
    }

    #[test]
    fn every_reading_balances_while_a_worker_publishes() {
        let counters = Arc::new(Counters::default());
        let done = Arc::new(AtomicBool::new(false));
        let worker = {
            let (counters, done) = (Arc::clone(&counters), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut batch = Counts::default();
                for _ in 0..200_000 {
                    batch.receive(3);
                    batch.answer(Outcome::Ported, 1);
                    batch.time(Outcome::Ported, 1, 1500);
                    batch.refuse(Refusal::Rate, 1);
                    batch.drop(Drop::Unsent, 1);
                    counters.publish(&mut batch);
                    assert_eq!(batch, Counts::default());
                }
                done.store(true, Ordering::Release);
            })
        };
        let mut last = 0;
        while !done.load(Ordering::Acquire) {
            let read = counters.read();
            assert_eq!(read.balance(), 0);
            assert!(read.received() >= last);
            last = read.received();
        }
        assert!(worker.join().is_ok());
        let all = counters.read();
        assert_eq!((all.received(), all.latency(0)[1], all.latency_ns()[0]), (600_000, 200_000, 300_000_000));
    }

    #[test]
    fn clock_that_was_set_while_questions_waited_does_not_end_the_sum() {
        let (counters, mut batch) = (Counters::default(), Counts::default());
        for _ in 0..100 {
            batch.answer(Outcome::Ported, 1000);
            batch.time(Outcome::Ported, 1000, 1_800_000_000_000_000_000); // from 1970 to 2027
        }
        counters.publish(&mut batch);
        let read = counters.read();
        assert_eq!((read.latency(0)[BUCKETS - 1], read.latency_ns()[0]), (100_000, 100_000 * LATENCY_NS_MAX));
    }
}
