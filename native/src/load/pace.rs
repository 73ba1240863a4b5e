//! When the next question is due: as soon as there is room in the window, or at its own moment.

/// How a run is paced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// So many queries in flight on each socket; the next one leaves when one is answered or lost.
    Closed {
        /// At least 1.
        window: u32,
    },
    /// So many queries a second over all sockets, evenly spaced, whether or not answers come.
    Open {
        /// At least 1.
        rate: u64,
    },
}

impl Loop {
    /// Queries that one socket can have in flight: of an open loop, those of one timeout, with room.
    pub fn in_flight_max(self, sockets: u64, timeout_ns: u64) -> u64 {
        match self {
            Loop::Closed { window } => u64::from(window),
            Loop::Open { rate } => {
                let in_flight = u128::from(rate) * u128::from(timeout_ns) / 1_000_000_000 / u128::from(sockets.max(1));
                // 2: answers over their time are looked for every few milliseconds only.
                u64::try_from(in_flight).unwrap_or(u64::MAX).saturating_add(2)
            }
        }
    }
}

/// One socket's part of the schedule.
pub struct Pace {
    kind: Loop,
    place: u64,
    sockets: u64,
    share: u64,
    asked: u64,
    start_ns: u64,
    due_ns: u64,
}

impl Pace {
    /// place: of the socket among all `sockets`, whose turns are spread evenly. share: its queries in all.
    pub fn new(kind: Loop, place: u64, sockets: u64, share: u64) -> Pace {
        Pace { kind, place, sockets, share, asked: 0, start_ns: 0, due_ns: 0 }
    }

    /// The schedule begins now.
    pub fn begin(&mut self, now_ns: u64) {
        self.start_ns = now_ns;
        self.due_ns = self.moment(0);
    }

    /// Whether the share is used up.
    pub fn is_done(&self) -> bool {
        self.asked >= self.share
    }

    /// When the next question was meant to leave, if one may leave now. waiting: those in flight.
    pub fn next(&self, now_ns: u64, waiting: usize) -> Option<u64> {
        if self.is_done() {
            return None;
        }
        match self.kind {
            Loop::Closed { window } => (waiting < window as usize).then_some(now_ns),
            Loop::Open { .. } => (self.due_ns <= now_ns).then_some(self.due_ns),
        }
    }

    /// It was asked.
    pub fn count(&mut self) {
        self.asked += 1;
        self.due_ns = self.moment(self.asked);
    }

    /// The moment of this socket's `turn`-th question; of a closed loop, its start.
    fn moment(&self, turn: u64) -> u64 {
        let Loop::Open { rate } = self.kind else { return self.start_ns };
        let place = u128::from(turn) * u128::from(self.sockets) + u128::from(self.place);
        let since = place * 1_000_000_000 / u128::from(rate.max(1));
        self.start_ns.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(rate: u64, sockets: u64, seconds: u64) -> Vec<u64> {
        let mut found = Vec::new();
        for place in 0..sockets {
            let mut pace = Pace::new(Loop::Open { rate }, place, sockets, u64::MAX);
            pace.begin(1_000);
            while let Some(due) = pace.next(999 + seconds * 1_000_000_000, 1 << 30) {
                found.push(due);
                pace.count();
            }
        }
        found.sort_unstable();
        found
    }

    #[test]
    fn open_loop_spreads_its_rate_evenly_over_time_and_sockets() {
        for (rate, sockets) in [(1, 1), (3, 1), (1000, 7), (999, 64), (7, 1000), (1_000_003, 3)] {
            let found = moments(rate, sockets, 2);
            assert_eq!(found.len() as u64, 2 * rate, "{rate} a second on {sockets}");
            let (shortest, longest) = found
                .windows(2)
                .fold((u64::MAX, 0), |(low, high), pair| (low.min(pair[1] - pair[0]), high.max(pair[1] - pair[0])));
            assert!(rate == 1 || longest - shortest <= 1, "{shortest} to {longest} ns at {rate} on {sockets}");
        }
    }

    #[test]
    fn open_loop_asks_on_time_whatever_is_in_flight_and_late_ones_keep_their_moment() {
        let mut pace = Pace::new(Loop::Open { rate: 10 }, 0, 1, 3);
        pace.begin(0);
        assert_eq!(pace.next(0, 1 << 40), Some(0));
        pace.count();
        assert_eq!(pace.next(99_999_999, 0), None);
        assert_eq!(pace.next(5_000_000_000, 0), Some(100_000_000));
        pace.count();
        assert_eq!(pace.next(5_000_000_000, 0), Some(200_000_000));
        pace.count();
        assert_eq!(pace.next(u64::MAX, 0), None);
        assert!(pace.is_done());
    }

    #[test]
    fn closed_loop_asks_when_there_is_room() {
        let mut pace = Pace::new(Loop::Closed { window: 2 }, 0, 1, 2);
        pace.begin(5);
        assert_eq!(pace.next(7, 2), None);
        assert_eq!(pace.next(7, 1), Some(7));
        pace.count();
        pace.count();
        assert_eq!(pace.next(7, 0), None);
    }

    #[test]
    fn rates_and_counts_at_the_edge_do_not_overflow() {
        let mut pace = Pace::new(Loop::Open { rate: 1 }, u64::MAX, u64::MAX, u64::MAX);
        pace.begin(u64::MAX);
        assert_eq!(pace.next(u64::MAX, 0), Some(u64::MAX));
        assert_eq!(Loop::Open { rate: u64::MAX }.in_flight_max(0, u64::MAX), u64::MAX);
        assert_eq!(Loop::Open { rate: 1000 }.in_flight_max(1, 1_000_000_000), 1002);
    }
}
