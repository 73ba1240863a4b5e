//! Number + store -> outcome and route: the number, then its range holder, then not allocated.
//!
//! Mirrors `lookupd/engine.py`. Knows no dialect, no socket and no clock: the caller says when it is. A look-up is
//! done in two steps, `locate` and `find`, so that a batch can fetch all of its blocks before it reads the first.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Cache};

use crate::access::Clients;
use crate::counters::Usage;
use crate::limits::E164_DIGITS_MAX;
use crate::model::{Answer, InForce, Outcome, Route};
use crate::plan::{Digits, Plan};
use crate::store::{Block, Environment, RESTRICTED, ROUTE_MASK, Reader, Unreadable};
use crate::tap::Tap;

const NUMBERS_PER_BLOCK: u64 = 1000;

/// What is answered, from which data and to whom: one value that workers take over between two batches.
pub struct Terms {
    /// The store; None while there is none.
    pub store: Option<Arc<Environment>>,
    /// The numbering plan that numbers are read in.
    pub plan: Arc<Plan>,
    /// Seconds; data that is older is not answered from. 0 = however old.
    pub stale_after: f64,
    /// Whether this replica stands back: nothing is answered from its data, whose serial and age it tells.
    pub withdrawn: bool,
    /// Who may ask.
    pub clients: Arc<Clients>,
    /// What they asked, client by client.
    pub usage: Arc<Usage>,
}

impl Terms {
    fn has_store_of(&self, other: &Terms) -> bool {
        self.store.as_ref().map(Arc::as_ptr) == other.store.as_ref().map(Arc::as_ptr)
    }
}

/// What all workers of a process share.
pub struct Service {
    terms: ArcSwap<Terms>,
    tap: Arc<Tap>,
    damaged: Mutex<DamagedBlocks>,
}

/// Blocks of the terms' store found damaged while one state was served; the next commit may have mended them.
#[derive(Default)]
struct DamagedBlocks {
    serial: u64,
    blocks: BTreeSet<u64>,
}

impl Service {
    /// With its first terms.
    pub fn new(terms: Terms) -> Arc<Service> {
        let tap = Arc::<Tap>::default();
        tap.know(&terms.clients);
        Arc::new(Service { terms: ArcSwap::from_pointee(terms), tap, damaged: Mutex::default() })
    }

    /// Other terms, for every batch that begins from now on.
    pub fn use_terms(&self, terms: Terms) {
        let mut damaged = self.damaged();
        if !self.terms.load().has_store_of(&terms) {
            *damaged = DamagedBlocks::default(); // a store that was restored may have the same serial
        }
        self.tap.know(&terms.clients);
        self.terms.store(Arc::new(terms));
    }

    /// The query log's.
    pub fn tap(&self) -> &Arc<Tap> {
        &self.tap
    }

    /// The terms as they are now.
    pub fn terms(&self) -> Arc<Terms> {
        self.terms.load_full()
    }

    /// The damaged blocks that look-ups met in the state of this serial.
    pub fn damaged_blocks(&self, serial: u64) -> Vec<u64> {
        let damaged = self.damaged();
        if damaged.serial == serial { damaged.blocks.iter().copied().collect() } else { Vec::new() }
    }

    /// Off the usual path: a lock is taken only when a block is found damaged. terms: those it was met under.
    fn note_damaged(&self, terms: &Terms, serial: u64, block: u64) {
        let mut damaged = self.damaged();
        if !self.terms.load().has_store_of(terms) {
            return; // says nothing of the store that has taken its place
        }
        if damaged.serial != serial {
            *damaged = DamagedBlocks { serial, blocks: BTreeSet::new() };
        }
        damaged.blocks.insert(block);
    }

    fn damaged(&self) -> MutexGuard<'_, DamagedBlocks> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number on its way to its answer.
pub struct Located<'e> {
    digits: Option<Digits>,
    block: Place<'e>,
}

impl Located<'_> {
    /// The number; None when what was asked is none.
    pub fn tn(&self) -> Option<u64> {
        self.digits.as_ref().map(Digits::tn)
    }
}

enum Place<'e> {
    /// No data may be answered from, or what was asked is no number: nothing was looked up.
    Nowhere,
    Absent,
    Found(Block<'e>),
    Unreadable,
}

/// What the store says of a number, for dialects that need no more.
#[derive(Clone, Copy)]
pub struct Found<'e> {
    /// What became of the query.
    pub outcome: Outcome,
    /// The network that serves the number, if one does.
    pub route: Option<&'e Route>,
    /// The restriction in force.
    pub restriction: Option<InForce>,
}

impl<'e> Found<'e> {
    const fn nothing(outcome: Outcome) -> Found<'e> {
        Found { outcome, route: None, restriction: None }
    }
}

/// Resolves numbers batch by batch: `begin`, then look-ups, whose answers come from one state. Of one thread.
pub struct Engine {
    service: Arc<Service>,
    newest: Cache<ServiceTerms, Arc<Terms>>,
    /// Those of this batch. Kept from batch to batch: counting references is shared work between cores.
    terms: Arc<Terms>,
    reader: Option<Reader>,
    serial: u32,
    /// Of the batch: restrictions begin and lapse by it.
    now: u64,
    age_seconds: Option<u64>,
    usable: bool,
    unreadable: Cell<u64>,
}

/// A reader of the terms' store; None while there is none, or none that can be read: the next batch tries again.
fn open(terms: &Terms) -> Option<Reader> {
    terms.store.as_ref().and_then(|store| Reader::new(Arc::clone(store)).ok())
}

/// Lets a `Cache` own its way to the terms.
struct ServiceTerms(Arc<Service>);

impl std::ops::Deref for ServiceTerms {
    type Target = ArcSwap<Terms>;

    fn deref(&self) -> &ArcSwap<Terms> {
        &self.0.terms
    }
}

impl Engine {
    /// Ready for its first `begin`. Holds no state until then: nobody may ever ask.
    pub fn new(service: Arc<Service>) -> Engine {
        let terms = service.terms();
        let mut reader = open(&terms);
        if let Some(reader) = &mut reader {
            reader.release();
        }
        Engine {
            newest: Cache::new(ServiceTerms(Arc::clone(&service))),
            service,
            reader,
            terms,
            serial: 0,
            now: 0,
            age_seconds: None,
            usable: false,
            unreadable: Cell::new(0),
        }
    }

    /// Take over new terms, pin the newest commit, judge whether its data may be answered from.
    ///
    /// `now`: Unix seconds. Never fails: a store that cannot be read is not usable.
    pub fn begin(&mut self, now: u64) {
        self.take_over();
        self.now = now;
        self.usable = false;
        self.age_seconds = None;
        let Some(reader) = self.reader.as_mut() else { return };
        if reader.pin().is_err() {
            return;
        }
        let state = reader.state();
        self.serial = state.serial as u32;
        let Some(confirmed_at) = state.confirmed_at else { return };
        let age = now.saturating_sub(confirmed_at);
        self.age_seconds = Some(age);
        let fresh = self.terms.stale_after == 0.0 || age as f64 <= self.terms.stale_after;
        self.usable = fresh && !self.terms.withdrawn;
    }

    /// Hold no old state while nothing is asked; the next `begin` pins again.
    pub fn rest(&mut self) {
        self.take_over();
        if let Some(reader) = self.reader.as_mut() {
            reader.release();
        }
    }

    fn take_over(&mut self) {
        let newest = self.newest.load();
        let same = Arc::ptr_eq(newest, &self.terms);
        if same && (self.reader.is_some() || self.terms.store.is_none()) {
            return;
        }
        let before = std::mem::replace(&mut self.terms, Arc::clone(newest));
        if !before.has_store_of(&self.terms) || self.reader.is_none() {
            self.reader = None; // let go of the old store before the new one is asked for a slot
            self.reader = open(&self.terms);
        }
    }

    /// The clients of the terms that the batch began with.
    pub fn clients(&self) -> &Arc<Clients> {
        &self.terms.clients
    }

    /// Their counts.
    pub fn usage(&self) -> &Usage {
        &self.terms.usage
    }

    /// The number's E.164 digits as the plan reads them.
    pub fn digits(&self, dialled: &[u8]) -> Option<Digits> {
        self.terms.plan.digits(dialled)
    }

    /// Whether a located number is shorter than any of this country that can be ported.
    pub fn is_incomplete(&self, located: &Located<'_>) -> bool {
        located.digits.as_ref().is_some_and(|digits| self.terms.plan.is_incomplete(digits))
    }

    /// The same of a number behind a context; see `Plan::digits_in`.
    pub fn digits_in(&self, context: &[u8], dialled: &[u8], whole: &[u8]) -> Option<Digits> {
        self.terms.plan.digits_in(context, dialled, whole)
    }

    /// Find the number's block and have the processor fetch it.
    pub fn locate(&self, digits: Option<Digits>) -> Located<'_> {
        let block = match (&self.reader, &digits) {
            (Some(reader), Some(number)) if self.usable => match reader.block(number.tn() / NUMBERS_PER_BLOCK) {
                Ok(None) => Place::Absent,
                Ok(Some(block)) => {
                    block.prefetch((number.tn() % NUMBERS_PER_BLOCK) as usize);
                    Place::Found(block)
                }
                Err(_) => Place::Unreadable,
            },
            _ => Place::Nowhere,
        };
        Located { digits, block }
    }

    /// What the store says of a located number. A damaged block, or a route or restriction that is missing, is `unavailable`.
    pub fn find<'e>(&'e self, located: &Located<'e>) -> Found<'e> {
        let Some(reader) = self.reader.as_ref().filter(|_| self.usable) else {
            return Found::nothing(Outcome::Unavailable);
        };
        let Some(digits) = &located.digits else { return Found::nothing(Outcome::NotPortable) };
        let entry = match &located.block {
            Place::Absent => 0,
            Place::Found(block) => match block.entry((digits.tn() % NUMBERS_PER_BLOCK) as usize) {
                Ok(entry) => entry,
                Err(damaged) => {
                    self.service.note_damaged(&self.terms, reader.state().serial, damaged.0);
                    return self.unreadable();
                }
            },
            Place::Unreadable | Place::Nowhere => return self.unreadable(),
        };
        let mut restriction = None;
        if entry & RESTRICTED != 0 {
            let Ok(found) = reader.restriction(digits.tn(), self.now) else { return self.unreadable() };
            restriction = found;
        }
        let route_id = entry & ROUTE_MASK;
        if route_id == 0 {
            return self.find_unported(reader, digits, restriction);
        }
        match reader.tables().route(route_id) {
            Some(route) => Found { outcome: Outcome::Ported, route: Some(route), restriction },
            None => self.unreadable(),
        }
    }

    /// The same once more, for the query log: what cannot be read is not counted again.
    pub fn look<'e>(&'e self, located: &Located<'e>) -> Found<'e> {
        let counted = self.unreadable.get();
        let found = self.find(located);
        self.unreadable.set(counted);
        found
    }

    fn find_unported<'e>(&'e self, reader: &'e Reader, digits: &Digits, restriction: Option<InForce>) -> Found<'e> {
        let portable = self.terms.plan.portable(digits);
        // A number of another country has no kind here; the ranges table may know it all the same.
        let may_be_held = portable.unwrap_or_else(|| !self.terms.plan.covers(digits));
        if !may_be_held {
            return Found { outcome: Outcome::NotPortable, route: None, restriction };
        }
        let Some(holder) = reader.tables().range_holder(digits.as_bytes()) else {
            let outcome = if portable.is_some() { Outcome::NotAllocated } else { Outcome::NotPortable };
            return Found { outcome, route: None, restriction };
        };
        match reader.tables().route(holder) {
            Some(route) => Found { outcome: Outcome::NotPorted, route: Some(route), restriction },
            None => self.unreadable(),
        }
    }

    /// Whether longer numbers begin with these ASCII digits: ported ones, and those of served ranges if `ranges` is
    /// set. Needs data to answer from. What cannot be read may be there.
    pub fn has_under(&self, digits: &[u8], ranges: bool) -> bool {
        let Some(reader) = self.reader.as_ref().filter(|_| self.usable) else { return false };
        if digits.len() >= E164_DIGITS_MAX || digits.first().is_none_or(|first| *first == b'0') {
            return false;
        }
        if ranges && reader.tables().touches_range(digits) && self.terms.plan.continues(digits) {
            return true;
        }
        reader.has_ported_under(digits).unwrap_or_else(|unreadable| {
            if let Unreadable::Block(damaged) = unreadable {
                self.service.note_damaged(&self.terms, reader.state().serial, damaged.0);
            }
            true
        })
    }

    fn unreadable(&self) -> Found<'_> {
        self.unreadable.set(self.unreadable.get() + 1);
        Found::nothing(Outcome::Unavailable)
    }

    /// The serial of the store that the batch is answered from, mod 2^32, and the age of its data.
    pub fn version(&self) -> (u32, Option<u64>) {
        (self.serial, self.age_seconds)
    }

    /// Whether there is data to answer from.
    pub fn is_usable(&self) -> bool {
        self.usable && self.reader.is_some()
    }

    /// The whole answer to a located number.
    pub fn answer<'e>(&'e self, located: &Located<'e>) -> Answer<'e> {
        let Found { outcome, route, restriction } = self.find(located);
        Answer { tn: located.digits.as_ref().map(Digits::tn), outcome, route, restriction, ..self.refuse() }
    }

    /// The answer to a client that is over its rate.
    pub fn refuse(&self) -> Answer<'_> {
        Answer {
            tn: None,
            outcome: Outcome::Refused,
            route: None,
            restriction: None,
            serial: self.serial,
            age_seconds: self.age_seconds,
        }
    }

    /// Queries that met a damaged block, or a route or restriction that is missing since this was last asked.
    pub fn take_unreadable(&self) -> u64 {
        self.unreadable.take()
    }
}

#[cfg(test)]
mod tests;
