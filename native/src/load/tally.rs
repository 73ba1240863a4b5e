//! What came of the queries of one thread, and of all: counts, and latencies to three digits.

use hdrhistogram::Histogram;

use super::replies::OUTCOMES;

/// Latencies above it are counted as this one, in nanoseconds: no query waits longer.
pub const LATENCY_NS_MAX: u64 = 60_000_000_000;
const DIGITS: u8 = 3;

/// Counts of queries unless a name says otherwise.
pub struct Tally {
    /// Asked, also those that the kernel did not take.
    pub sent: u64,
    /// Answered in time.
    pub received: u64,
    /// Not answered in time.
    pub lost: u64,
    /// Of the lost: those that the kernel did not take.
    pub unsent: u64,
    /// Answers to queries given up before.
    pub late: u64,
    /// Answers to queries answered before.
    pub duplicate: u64,
    /// Messages that answer nothing that was asked.
    pub unknown: u64,
    /// Numbers answered.
    pub numbers: u64,
    /// Numbers by outcome; see `replies::labels`.
    pub outcomes: [u64; OUTCOMES],
    /// Times that the other host said nobody listens, or closed a connection.
    pub turned_away: u64,
    /// Of the answers in time, in nanoseconds.
    pub latency: Histogram<u64>,
    /// How far behind its moment a query left at most: of an open loop, what the client itself could not keep.
    pub behind_ns_max: u64,
    /// When the last answer in time came, on the monotonic clock.
    pub last_reply_ns: u64,
    /// Processor time of the asking threads.
    pub cpu_ns: u64,
}

impl Tally {
    /// Nothing yet.
    #[expect(clippy::expect_used, clippy::missing_panics_doc, reason = "the bounds are constants, which tests try")]
    pub fn new() -> Tally {
        let latency = Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("bounds of a histogram");
        Tally {
            sent: 0,
            received: 0,
            lost: 0,
            unsent: 0,
            late: 0,
            duplicate: 0,
            unknown: 0,
            numbers: 0,
            outcomes: [0; OUTCOMES],
            turned_away: 0,
            latency,
            behind_ns_max: 0,
            last_reply_ns: 0,
            cpu_ns: 0,
        }
    }

    /// An answer in time.
    pub fn answered(&mut self, latency_ns: u64, now_ns: u64) {
        self.received += 1;
        self.last_reply_ns = now_ns;
        self.latency.saturating_record(latency_ns);
    }

    /// Take over what another thread found.
    pub fn add(&mut self, other: &Tally) {
        self.sent += other.sent;
        self.received += other.received;
        self.lost += other.lost;
        self.unsent += other.unsent;
        self.late += other.late;
        self.duplicate += other.duplicate;
        self.unknown += other.unknown;
        self.numbers += other.numbers;
        for (all, one) in self.outcomes.iter_mut().zip(other.outcomes) {
            *all += one;
        }
        self.turned_away += other.turned_away;
        // Both have the same bounds, so nothing is left out.
        let _ = self.latency.add(&other.latency);
        self.behind_ns_max = self.behind_ns_max.max(other.behind_ns_max);
        self.last_reply_ns = self.last_reply_ns.max(other.last_reply_ns);
        self.cpu_ns += other.cpu_ns;
    }

    /// Latencies as (the largest of its bucket in nanoseconds, count), without empty buckets.
    pub fn histogram(&self) -> Vec<(u64, u64)> {
        self.latency.iter_recorded().map(|each| (each.value_iterated_to(), each.count_since_last_iteration())).collect()
    }
}

impl Default for Tally {
    fn default() -> Self {
        Tally::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_from_nothing_to_beyond_the_bound_are_counted() {
        let mut tally = Tally::new();
        for latency in [0, 1, 1_000, 1_001, LATENCY_NS_MAX, LATENCY_NS_MAX + 1, u64::MAX] {
            tally.answered(latency, 5);
        }
        let found = tally.histogram();
        assert_eq!(found.iter().map(|(_, count)| count).sum::<u64>(), 7);
        assert_eq!(tally.latency.len(), 7);
        assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0));
        // Three digits: a bucket's upper end is off by a thousandth at most.
        let (last, count) = *found.last().unwrap();
        assert_eq!(count, 3);
        assert!((LATENCY_NS_MAX..=LATENCY_NS_MAX / 1000 * 1001).contains(&last), "{last}");
        assert!(tally.latency.value_at_quantile(0.5).abs_diff(1_001) <= 1);
    }

    #[test]
    fn threads_are_added_up() {
        let (mut all, mut one) = (Tally::new(), Tally::new());
        one.answered(10, 100);
        one.answered(20, 90);
        one.sent = 3;
        one.lost = 1;
        one.outcomes[2] = 2;
        one.behind_ns_max = 7;
        all.add(&one);
        all.add(&one);
        assert_eq!((all.sent, all.received, all.lost, all.outcomes[2]), (6, 4, 2, 4));
        assert_eq!((all.latency.len(), all.behind_ns_max, all.last_reply_ns), (4, 7, 90));
        assert_eq!(all.histogram(), [(10, 2), (20, 2)]);
    }
}
