//! A list of numbers, piece by piece: everyday rows read, looked up and written; odd ones are Python's.
//!
//! Mirrors `lookupd/batch/rows.py` and `worker.py`, which define what is right. Files, and what an odd row means, are
//! left to them.

mod rows;
mod seen;

pub use rows::{Form, Row, cut};
pub use seen::Seen;

use rustc_hash::FxHashMap;

use crate::engine::Engine;
use crate::model::{Outcome, Route};
use crate::plan::{Digits, Plan};

/// Rows whose blocks are fetched before the first of them is read.
const LOCATED_AT_ONCE: usize = 64;
/// Characters of the longest everyday number, with blanks and hyphens.
const NUMBER_BYTES_MAX: usize = 32;
/// The answer of a row that has none yet.
pub const NO_ANSWER: u32 = u32::MAX;

/// What a row is told of its number, as values of their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Told {
    /// What became of the question.
    pub outcome: u8,
    /// Network code, routing number, operator.
    pub route: Option<(String, Option<String>, String)>,
    /// Whether a restriction exists.
    pub restricted: bool,
}

/// All that was told so far, each once; rows hold a place in it.
#[derive(Default)]
pub struct Answers {
    places: FxHashMap<Told, u32>,
    all: Vec<Told>,
}

impl Answers {
    /// In the order in which they were first met.
    pub fn all(&self) -> &[Told] {
        &self.all
    }

    fn place(&mut self, told: Told) -> u32 {
        let next = self.all.len() as u32;
        *self.places.entry(told).or_insert_with_key(|told| {
            self.all.push(told.clone());
            next
        })
    }
}

/// Routes of the state that is pinned, by where they lie.
type Known = FxHashMap<(usize, u8, bool), u32>;

/// The number in an everyday cell; None: Python reads it.
pub fn read_number(cell: &[u8], plan: &Plan) -> Option<Digits> {
    let cell = match cell {
        [b'"', inner @ .., b'"'] => inner,
        _ => cell,
    };
    let mut dialled = [0_u8; NUMBER_BYTES_MAX];
    let mut length = 0;
    if cell.len() > NUMBER_BYTES_MAX {
        return None;
    }
    for &byte in cell {
        match byte {
            b'0'..=b'9' => {}
            b'+' if length == 0 => {}
            b' ' | b'-' => continue,
            _ => return None,
        }
        *dialled.get_mut(length)? = byte;
        length += 1;
    }
    let dialled = dialled.get(..length)?;
    let is_plain = match dialled.first()? {
        b'+' => true,
        b'0' => dialled.get(1) != Some(&b'0'),
        _ => false,
    };
    let digits = plan.digits(dialled)?;
    (is_plain || plan.covers(&digits)).then_some(digits)
}

/// Look up the rows that have a number and no answer. The engine's batch has begun.
pub fn answer(engine: &Engine, rows: &mut [Row], answers: &mut Answers) {
    let mut known = Known::default();
    for lot in rows.chunks_mut(LOCATED_AT_ONCE) {
        let located: [_; LOCATED_AT_ONCE] =
            std::array::from_fn(|at| lot.get(at).and_then(|row| row.digits).map(|digits| engine.locate(Some(digits))));
        for (row, located) in lot.iter_mut().zip(&located) {
            let Some(located) = located else { continue };
            let found = engine.find(located);
            row.answer = place(&mut known, answers, found.outcome, found.route, found.restricted);
        }
    }
}

fn place(known: &mut Known, answers: &mut Answers, outcome: Outcome, route: Option<&Route>, restricted: bool) -> u32 {
    let at = route.map_or(0, |route| std::ptr::from_ref(route) as usize);
    *known.entry((at, outcome as u8, restricted)).or_insert_with(|| {
        let route = route.map(|it| (it.network_code.clone(), it.routing_number.clone(), it.operator.clone()));
        answers.place(Told { outcome: outcome as u8, route, restricted })
    })
}

/// What is added to rows with one answer, but for number and note; and the file of their network.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// From the separator on.
    pub text: Vec<u8>,
    /// Which of the files by network.
    pub network: usize,
}

/// How rows are written.
pub struct Style<'a> {
    /// Between fields.
    pub separator: u8,
    /// Of rows that have lost theirs.
    pub newline: &'a [u8],
    /// By answer.
    pub endings: &'a [Ending],
    /// Of rows without an answer: with note and all, in their order.
    pub bad: &'a [Vec<u8>],
    /// Of rows without an answer: the file of those without network.
    pub none: usize,
    /// How many files by network; 0 = none are asked for.
    pub networks: usize,
}

/// Rows as they go to the output, and what is counted.
#[derive(Default)]
pub struct Written {
    /// All.
    pub out: Vec<u8>,
    /// By network.
    pub by_network: Vec<Vec<u8>>,
    /// Rows by answer.
    pub counts: Vec<u64>,
    /// Rows that repeat an earlier number.
    pub duplicates: u64,
}

/// Write the rows of a piece. None: an ending is missing.
pub fn write(piece: &[u8], rows: &[Row], first_row: u64, seen: &mut Seen, style: &Style<'_>) -> Option<Written> {
    let mut written = Written { counts: vec![0; style.endings.len()], ..Written::default() };
    written.by_network.resize(style.networks, Vec::new());
    written.out.reserve(piece.len() + rows.len() * 48);
    let mut bad = style.bad.iter();
    for (row, number) in rows.iter().zip(first_row..) {
        let begin = written.out.len();
        let out = &mut written.out;
        out.extend_from_slice(row.body(piece)?);
        out.extend(std::iter::repeat_n(style.separator, row.missing));
        let network = if let Some(digits) = &row.digits {
            let ending = style.endings.get(row.answer as usize)?;
            *written.counts.get_mut(row.answer as usize)? += 1;
            out.extend_from_slice(&ending.text);
            out.push(style.separator);
            out.extend_from_slice(digits.as_bytes());
            out.push(style.separator);
            if let Some(first) = seen.first(digits.tn(), number) {
                written.duplicates += 1;
                out.extend_from_slice(format!("duplicate of row {first}").as_bytes());
            }
            ending.network
        } else {
            out.extend_from_slice(bad.next()?);
            style.none
        };
        out.extend_from_slice(if row.is_too_long { style.newline } else { piece.get(row.end..row.after)? });
        if style.networks > 0 {
            written.by_network.get_mut(network)?.extend_from_slice(out.get(begin..)?);
        }
    }
    Some(written)
}

/// Only remember the numbers of rows that were written before.
pub fn remember(rows: &[Row], first_row: u64, seen: &mut Seen) {
    for (row, number) in rows.iter().zip(first_row..) {
        if let Some(digits) = &row.digits {
            seen.first(digits.tn(), number);
        }
    }
}
