//! The queries of one socket that wait for an answer, found by id in one step, in the order they were sent.

/// What a reply's id says about it.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled {
    /// The answer to a query in flight, which was meant to leave at `intended_ns`.
    Answered {
        /// On the monotonic clock.
        intended_ns: u64,
    },
    /// Its query was given up before, or so long ago that nobody knows.
    Late,
    /// Its query was answered before.
    Duplicate,
    /// Nothing was asked under this id.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Waiting,
    Answered,
    Lost,
}

#[derive(Clone, Copy)]
struct Slot {
    intended_ns: u64,
    sent_ns: u64,
    id: u32,
    /// Neighbours among those waiting, older and newer; `NONE` at either end.
    older: u32,
    newer: u32,
    state: State,
}

const NONE: u32 = u32::MAX;
/// Ids that are remembered at least, so that a copy or a late answer is known as such.
const REMEMBERED_MIN: u64 = 256;

/// Ids of one socket: which are in use, and what became of the latest.
pub struct Flight {
    slots: Box<[Slot]>,
    first_id: u32,
    id_mask: u32,
    /// Ids gone through, also those passed over.
    passed: u64,
    oldest: u32,
    newest: u32,
    waiting: usize,
}

impl Flight {
    /// `in_flight`: how many may wait at once; what does not fit is not issued. `id_bits`: 16 or 32. `first_id`: where
    /// ids begin, and begin again behind the last one; below 2^16.
    pub fn new(in_flight: u64, id_bits: u32, first_id: u32) -> Flight {
        let most = 1_u64 << id_bits.min(24);
        // 4: behind those in flight there is room to remember what became of the last ones.
        let slots = in_flight.saturating_mul(4).clamp(REMEMBERED_MIN, most).next_power_of_two() as usize;
        let free = Slot { intended_ns: 0, sent_ns: 0, id: 0, older: NONE, newer: NONE, state: State::Free };
        let id_mask = u32::MAX >> (32 - id_bits);
        let slots = vec![free; slots].into_boxed_slice();
        Flight { slots, first_id, id_mask, passed: 0, oldest: NONE, newest: NONE, waiting: 0 }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Ids there are.
    fn ids(&self) -> u64 {
        u64::from(self.id_mask) + 1 - u64::from(self.first_id)
    }

    fn slot_of(&self, id: u32) -> u32 {
        id & (self.slots.len() as u32 - 1)
    }

    /// An id for a query sent now; None when all are in use.
    pub fn issue(&mut self, intended_ns: u64, sent_ns: u64) -> Option<u32> {
        if self.waiting == self.slots.len() {
            return None;
        }
        // A query that waits long keeps its place; the others go around it. With fewer ids than twice the slots
        // one turn may meet only taken ones: bounded by a turn through all ids.
        for _ in 0..self.ids() {
            let id = self.first_id + (self.passed % self.ids()) as u32;
            self.passed += 1;
            let at = self.slot_of(id);
            if self.slots[at as usize].state != State::Waiting {
                self.link(at, id, intended_ns, sent_ns);
                return Some(id);
            }
        }
        None
    }

    fn link(&mut self, at: u32, id: u32, intended_ns: u64, sent_ns: u64) {
        let older = self.newest;
        self.slots[at as usize] = Slot { intended_ns, sent_ns, id, older, newer: NONE, state: State::Waiting };
        match older {
            NONE => self.oldest = at,
            _ => self.slots[older as usize].newer = at,
        }
        self.newest = at;
        self.waiting += 1;
    }

    fn unlink(&mut self, at: u32, state: State) {
        let Slot { older, newer, .. } = self.slots[at as usize];
        match older {
            NONE => self.oldest = newer,
            _ => self.slots[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            _ => self.slots[newer as usize].older = older,
        }
        self.slots[at as usize].state = state;
        self.waiting -= 1;
    }

    /// A reply came with this id.
    pub fn settle(&mut self, id: u32) -> Settled {
        let at = self.slot_of(id);
        let slot = &self.slots[at as usize];
        if slot.state == State::Free || slot.id != id {
            let asked = id >= self.first_id && id <= self.id_mask && u64::from(id - self.first_id) < self.passed;
            return if asked { Settled::Late } else { Settled::Unknown };
        }
        match slot.state {
            State::Waiting => {
                let intended_ns = slot.intended_ns;
                self.unlink(at, State::Answered);
                Settled::Answered { intended_ns }
            }
            State::Answered => Settled::Duplicate,
            State::Lost | State::Free => Settled::Late,
        }
    }

    /// This one was not sent after all, or nobody will answer it; whether it was waiting.
    pub fn give_up(&mut self, id: u32) -> bool {
        let at = self.slot_of(id);
        let slot = &self.slots[at as usize];
        let waits = slot.state == State::Waiting && slot.id == id;
        if waits {
            self.unlink(at, State::Lost);
        }
        waits
    }

    /// Give up those sent before this moment; returns how many.
    pub fn expire(&mut self, sent_before_ns: u64) -> u64 {
        let mut lost = 0;
        while self.oldest != NONE && self.slots[self.oldest as usize].sent_ns < sent_before_ns {
            self.unlink(self.oldest, State::Lost);
            lost += 1;
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_copies_late_and_unknown_ones_are_told_apart() {
        let mut flight = Flight::new(4, 32, 0x100);
        let ids: Vec<u32> = (0..3).map(|at| flight.issue(at, at + 10).unwrap()).collect();
        assert_eq!(ids, [0x100, 0x101, 0x102]);
        assert_eq!(flight.settle(0x101), Settled::Answered { intended_ns: 1 });
        assert_eq!(flight.settle(0x101), Settled::Duplicate);
        assert_eq!(flight.expire(11), 1);
        assert_eq!(flight.settle(0x100), Settled::Late);
        assert_eq!(flight.settle(0x103), Settled::Unknown);
        assert_eq!(flight.settle(0xFF), Settled::Unknown);
        assert!(flight.give_up(0x102));
        assert!(!flight.give_up(0x102));
        assert_eq!((flight.waiting(), flight.expire(u64::MAX)), (0, 0));
    }

    #[test]
    fn ids_of_16_bits_go_around_and_past_those_still_waiting() {
        let mut flight = Flight::new(65_535, 16, 0);
        assert_eq!(flight.issue(7, 7), Some(0));
        for turn in 0..200_000_u64 {
            let id = flight.issue(turn, turn).unwrap();
            assert_ne!(id, 0);
            assert_eq!(flight.settle(id), Settled::Answered { intended_ns: turn });
        }
        assert_eq!(flight.settle(0), Settled::Answered { intended_ns: 7 });
    }

    #[test]
    fn every_id_can_be_in_flight_and_no_more() {
        let mut flight = Flight::new(u64::MAX, 16, 0);
        for turn in 0..65_536 {
            assert_eq!(flight.issue(turn, turn), Some(turn as u32));
        }
        assert_eq!(flight.issue(0, 0), None);
        assert_eq!(flight.expire(30_000), 30_000);
        assert_eq!(flight.issue(9, 90_000), Some(0));
        assert_eq!(flight.settle(40_000), Settled::Answered { intended_ns: 40_000 });
        assert_eq!(flight.waiting(), 65_536 - 30_000);
    }

    #[test]
    fn ids_of_32_bits_begin_again_behind_the_last_one() {
        let mut flight = Flight::new(10, 32, 0x1_0000 - 1);
        flight.passed = flight.ids() - 1;
        assert_eq!(flight.issue(0, 0), Some(u32::MAX));
        assert_eq!(flight.settle(u32::MAX), Settled::Answered { intended_ns: 0 });
        assert_eq!(flight.issue(0, 0), Some(0xFFFF));
    }

    #[test]
    fn answer_to_what_is_long_forgotten_is_late() {
        let mut flight = Flight::new(1, 32, 0);
        for _ in 0..2 * REMEMBERED_MIN {
            let id = flight.issue(0, 0).unwrap();
            flight.settle(id);
        }
        assert_eq!(flight.settle(0), Settled::Late);
    }
}
