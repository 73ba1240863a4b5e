//! Rows and their fields in a piece of a list; mirrors `lookupd/batch/rows.py`, whose rules it keeps.

use memchr::{memchr, memchr2, memchr3};

use super::{NO_ANSWER, read_number};
use crate::limits::BATCH_ROW_BYTES_MAX;
use crate::plan::{Digits, Plan};

const LOOK_AHEAD: usize = BATCH_ROW_BYTES_MAX + 2;

/// How rows are written.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Between fields.
    pub separator: u8,
    /// Which field has the number, from 0.
    pub column: usize,
    /// How many fields a row has.
    pub columns: usize,
    /// Whether rows must be UTF-8.
    pub is_utf8: bool,
}

/// One row of a piece.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Where it begins.
    pub start: usize,
    /// Where its line end begins.
    pub end: usize,
    /// Where the next row begins.
    pub after: usize,
    /// Columns that it lacks.
    pub missing: usize,
    /// Its line end is not within the bound.
    pub is_too_long: bool,
    /// Its number; None: it is odd, until Python has read it.
    pub digits: Option<Digits>,
    /// Which of the answers.
    pub answer: u32,
}

impl Row {
    /// As it was; nothing of one that is too long.
    pub fn body<'p>(&self, piece: &'p [u8]) -> Option<&'p [u8]> {
        if self.is_too_long { Some(&[]) } else { piece.get(self.start..self.end) }
    }
}

/// A row as it was read: its end, the next one's start, how many fields, and where the number's field lies.
struct Read {
    end: usize,
    after: usize,
    fields: usize,
    cell: (usize, usize),
}

enum Next {
    Row(Read),
    TooLong,
    More,
}

/// A piece's rows, how many bytes of it they take, and whether the last one is too long and goes on behind it.
///
/// skipping: the piece begins within such a row.
pub fn cut(piece: &[u8], form: &Form, plan: &Plan, last: bool, mut skipping: bool) -> (Vec<Row>, usize, bool) {
    let mut rows = Vec::with_capacity(piece.len() / 16);
    let mut at = 0;
    loop {
        if skipping {
            let Some(behind) = skip_line(piece.get(at..).unwrap_or_default(), last) else {
                let held = usize::from(piece.last() == Some(&b'\r')); // an LF may be still to come
                return (rows, piece.len() - held, true);
            };
            at += behind;
            skipping = false;
        }
        if at >= piece.len() {
            return (rows, at, false);
        }
        match next_row(piece, at, form, last) {
            Next::More => return (rows, at, false),
            Next::TooLong => {
                rows.push(Row {
                    start: at,
                    end: piece.len(),
                    after: piece.len(),
                    missing: form.columns.saturating_sub(1),
                    is_too_long: true,
                    digits: None,
                    answer: NO_ANSWER,
                });
                skipping = true;
            }
            Next::Row(read) => {
                rows.push(Row {
                    start: at,
                    end: read.end,
                    after: read.after,
                    missing: form.columns.saturating_sub(read.fields),
                    is_too_long: false,
                    digits: number(piece, at, &read, form, plan),
                    answer: NO_ANSWER,
                });
                at = read.after;
            }
        }
    }
}

fn number(piece: &[u8], start: usize, read: &Read, form: &Form, plan: &Plan) -> Option<Digits> {
    if read.fields > form.columns || read.fields <= form.column {
        return None;
    }
    let digits = read_number(piece.get(read.cell.0..read.cell.1)?, plan)?;
    let text = piece.get(start..read.end)?;
    (!form.is_utf8 || text.is_ascii() || std::str::from_utf8(text).is_ok()).then_some(digits)
}

fn next_row(piece: &[u8], start: usize, form: &Form, last: bool) -> Next {
    let is_certain = last || piece.len() - start >= LOOK_AHEAD;
    let limit = piece.len().min(start + LOOK_AHEAD);
    let Some(window) = piece.get(..limit) else { return Next::More };
    for quotes in [true, false] {
        if let Some(read) = read(piece, window, start, form, quotes)
            && read.end - start <= BATCH_ROW_BYTES_MAX
            && (last || is_ended(piece, &read))
        {
            return Next::Row(read);
        }
        if !is_certain {
            return Next::More;
        }
    }
    Next::TooLong
}

/// Whether its line end is whole: behind a CR an LF may be still to come.
fn is_ended(piece: &[u8], read: &Read) -> bool {
    read.after > read.end && (piece.get(read.after - 1) == Some(&b'\n') || read.after < piece.len())
}

/// None: a quote was left open.
fn read(piece: &[u8], window: &[u8], start: usize, form: &Form, quotes: bool) -> Option<Read> {
    let mut fields = 0;
    let mut cell = (start, start);
    let mut at = start;
    loop {
        let begin = at;
        if quotes && window.get(at) == Some(&b'"') {
            at = closing_quote(window, at + 1)? + 1;
        }
        let found = memchr3(form.separator, b'\r', b'\n', window.get(at..)?).map(|ahead| at + ahead);
        let end = found.unwrap_or(window.len());
        if fields == form.column {
            cell = (begin, end);
        }
        fields += 1;
        let Some(found) = found else { return Some(Read { end, after: end, fields, cell }) };
        match window.get(found)? {
            b'\n' => return Some(Read { end, after: end + 1, fields, cell }),
            b'\r' => {
                let after = end + 1 + usize::from(piece.get(end + 1) == Some(&b'\n'));
                return Some(Read { end, after, fields, cell });
            }
            _ => at = found + 1,
        }
    }
}

fn closing_quote(window: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr(b'"', window.get(at..)?)?;
        if window.get(at + 1) != Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

/// Behind the end of a line that was too long; None: read on.
fn skip_line(piece: &[u8], last: bool) -> Option<usize> {
    let Some(end) = memchr2(b'\r', b'\n', piece) else { return last.then_some(piece.len()) };
    if piece.get(end) == Some(&b'\n') {
        return Some(end + 1);
    }
    match piece.get(end + 1) {
        Some(b'\n') => Some(end + 2),
        Some(_) => Some(end + 1),
        None => last.then_some(end + 1),
    }
}
