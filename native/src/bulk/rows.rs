//! Rows of a snapshot's chunk to columns, as `loader/formats/lookupd_columns.py` makes them.
//!
//! A chunk is taken only if every row has the everyday form. Whatever else it holds, the answer is None; the
//! row-by-row parser in Python then accepts what is merely unusual and names what is wrong.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use super::words;
use crate::limits::{
    E164_DIGITS_MAX, NETWORK_CODE_CHARS_MAX, ROUTING_NUMBER_CHARS_MAX, SNAPSHOT_LINE_BYTES_MAX, TN_DIGITS_MIN,
};

/// An index that stands for an empty field.
pub const EMPTY: i32 = -1;
/// Characters of a time with an offset.
const TIME_CHARS: usize = 25;
/// Bytes of a row that is not unusually short: how much room is made.
const USUAL_ROW_BYTES: usize = 32;

/// A column of the file, by the header's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// `tn`
    Tn,
    /// `network_code`
    NetworkCode,
    /// `routing_number`
    RoutingNumber,
    /// `donor`
    Donor,
    /// `ported_at`
    PortedAt,
}

impl Column {
    /// The column of this name; None if there is none.
    pub fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "tn" => Self::Tn,
            "network_code" => Self::NetworkCode,
            "routing_number" => Self::RoutingNumber,
            "donor" => Self::Donor,
            "ported_at" => Self::PortedAt,
            _ => return None,
        })
    }
}

/// A chunk's rows, one index a row: numbers and times as values, the rest as indices into lists, or `EMPTY`.
///
/// `ported_at` is in Unix seconds, 0 where the row has none. `codes` are sorted by length, then text,
/// `routing_numbers` by text; each stands once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// E.164 digits as integers.
    pub tn: Vec<u64>,
    /// Index into `codes`, never empty.
    pub network: Vec<i32>,
    /// Index into `codes`.
    pub donor: Vec<i32>,
    /// Index into `routing_numbers`.
    pub routing_number: Vec<i32>,
    /// Unix seconds.
    pub ported_at: Vec<u32>,
    /// Network codes of both columns.
    pub codes: Vec<String>,
    /// Routing numbers.
    pub routing_numbers: Vec<String>,
}

/// The rows of a chunk that ends with a line end; None if any of them is not of the everyday form.
///
/// columns: the header's, each at most once, `tn` and `network_code` among them; None without those.
pub fn parse_rows(chunk: &[u8], columns: &[Column]) -> Option<Rows> {
    let (&last, others) = columns.split_last()?;
    if chunk.last() != Some(&b'\n') || memchr::memchr(0, chunk).is_some() {
        return None; // a NUL would pad a short code
    }
    let mut parser = Parser::with_room(chunk.len() / USUAL_ROW_BYTES);
    let mut at = 0;
    while at < chunk.len() {
        let start = at;
        for &column in others {
            at = parser.take(chunk, at, column, b',')?;
        }
        at = parser.take(chunk, at, last, b'\n')?;
        if at - start > SNAPSHOT_LINE_BYTES_MAX + 1 {
            return None;
        }
    }
    parser.finish(columns)
}

struct Parser {
    rows: Rows,
    codes: Distinct<u64>,
    routing_numbers: Distinct<u128>,
    last_network: Option<(u64, i32)>,
    last_donor: Option<(u64, i32)>,
}

impl Parser {
    fn with_room(rows: usize) -> Self {
        let room = Rows {
            tn: Vec::with_capacity(rows),
            network: Vec::with_capacity(rows),
            donor: Vec::with_capacity(rows),
            routing_number: Vec::with_capacity(rows),
            ported_at: Vec::with_capacity(rows),
            ..Rows::default()
        };
        Self {
            rows: room,
            codes: Distinct::default(),
            routing_numbers: Distinct::default(),
            last_network: None,
            last_donor: None,
        }
    }

    /// Read the field at a position, which `mark` must end; returns where the next one starts.
    #[inline]
    fn take(&mut self, chunk: &[u8], at: usize, column: Column, mark: u8) -> Option<usize> {
        // Mostly a time is of one length, and then there is no need to look for its end: no comma passes for a digit.
        if column == Column::PortedAt
            && chunk.get(at + TIME_CHARS) == Some(&mark)
            && let Some(seconds) = chunk.get(at..at + TIME_CHARS).and_then(words::time)
        {
            self.rows.ported_at.push(seconds);
            return Some(at + TIME_CHARS + 1);
        }
        let end = words::field_end(chunk, at);
        if chunk.get(end) != Some(&mark) {
            return None;
        }
        let field = chunk.get(at..end)?;
        match column {
            Column::Tn => self.rows.tn.push(tn(field)?),
            Column::NetworkCode => {
                let code = code_of(chunk, at, field.len())?;
                let index = self.codes.index_after(&mut self.last_network, code, |code| is_code(code, field.len()))?;
                self.rows.network.push(index);
            }
            Column::Donor if field.is_empty() => self.rows.donor.push(EMPTY),
            Column::Donor => {
                let code = code_of(chunk, at, field.len())?;
                let index = self.codes.index_after(&mut self.last_donor, code, |code| is_code(code, field.len()))?;
                self.rows.donor.push(index);
            }
            Column::RoutingNumber => {
                let index = if field.is_empty() { EMPTY } else { self.routing_number(field)? };
                self.rows.routing_number.push(index);
            }
            Column::PortedAt => self.rows.ported_at.push(if field.is_empty() { 0 } else { words::time(field)? }),
        }
        Some(end + 1)
    }

    fn routing_number(&mut self, field: &[u8]) -> Option<i32> {
        if field.len() > ROUTING_NUMBER_CHARS_MAX {
            return None;
        }
        let mut padded = [0; 16];
        for (byte, from) in padded.iter_mut().zip(field) {
            *byte = *from;
        }
        self.routing_numbers.index(u128::from_be_bytes(padded), |_| {
            field.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'A'..=b'F'))
        })
    }

    fn finish(mut self, columns: &[Column]) -> Option<Rows> {
        let count = self.rows.tn.len();
        for (column, values) in
            [(Column::Donor, &mut self.rows.donor), (Column::RoutingNumber, &mut self.rows.routing_number)]
        {
            if !columns.contains(&column) {
                values.resize(count, EMPTY);
            }
        }
        if !columns.contains(&Column::PortedAt) {
            self.rows.ported_at.resize(count, 0);
        }
        let codes = self.codes.sorted_by_key(|code| (std::cmp::Reverse(code.leading_zeros() / 8), code.swap_bytes()));
        let routing_numbers = self.routing_numbers.sorted_by_key(|text| *text);
        for values in [&mut self.rows.network, &mut self.rows.donor] {
            codes.renumber(values)?;
        }
        routing_numbers.renumber(&mut self.rows.routing_number)?;
        self.rows.codes = codes.values.iter().map(|code| text(&code.to_le_bytes())).collect();
        self.rows.routing_numbers = routing_numbers.values.iter().map(|value| text(&value.to_be_bytes())).collect();
        let lengths =
            [self.rows.network.len(), self.rows.donor.len(), self.rows.routing_number.len(), self.rows.ported_at.len()];
        (lengths == [count; 4]).then_some(self.rows) // a column that the header has not, or has twice
    }
}

/// The characters of a code's field as a word; None if they are none or too many.
#[inline]
fn code_of(chunk: &[u8], at: usize, length: usize) -> Option<u64> {
    (1..=NETWORK_CODE_CHARS_MAX).contains(&length).then(|| words::first_chars(words::word_at(chunk, at), length))
}

fn is_code(code: u64, length: usize) -> bool {
    code.to_le_bytes().into_iter().take(length).all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
}

/// 5 to 15 digits without a leading zero.
#[inline]
fn tn(field: &[u8]) -> Option<u64> {
    if field.len() < TN_DIGITS_MIN || field.len() > E164_DIGITS_MAX || field.first() == Some(&b'0') {
        return None;
    }
    words::number(field)
}

fn text(padded: &[u8]) -> String {
    padded.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte)).collect()
}

/// Distinct values in the order of their first appearance.
#[derive(Default)]
struct Distinct<T> {
    found: FxHashMap<T, i32>,
}

impl<T: Copy + Eq + std::hash::Hash> Distinct<T> {
    /// The same as `index`, with the column's last value at hand: neighbours mostly went to the same network.
    #[inline]
    fn index_after(&mut self, last: &mut Option<(T, i32)>, value: T, is_right: impl Fn(T) -> bool) -> Option<i32> {
        if let Some((same, index)) = *last
            && same == value
        {
            return Some(index);
        }
        let index = self.index(value, is_right)?;
        *last = Some((value, index));
        Some(index)
    }

    /// A value's index; a new one is asked whether it is what it should be, and None if not.
    fn index(&mut self, value: T, is_right: impl Fn(T) -> bool) -> Option<i32> {
        let next = i32::try_from(self.found.len()).ok()?;
        Some(match self.found.entry(value) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(_) if !is_right(value) => return None,
            Entry::Vacant(entry) => *entry.insert(next),
        })
    }

    /// The values in the order of a key.
    fn sorted_by_key<K: Ord>(self, key: impl Fn(&T) -> K) -> Sorted<T> {
        let mut pairs: Vec<(T, i32)> = self.found.into_iter().collect();
        pairs.sort_by_key(|(value, _)| key(value));
        let mut place = vec![EMPTY; pairs.len()];
        for (at, (_, index)) in pairs.iter().enumerate() {
            if let (Ok(index), Ok(at)) = (usize::try_from(*index), i32::try_from(at))
                && let Some(slot) = place.get_mut(index)
            {
                *slot = at;
            }
        }
        Sorted { values: pairs.into_iter().map(|(value, _)| value).collect(), place }
    }
}

/// Values in their order, and for each index of their first appearance its place in that order.
struct Sorted<T> {
    values: Vec<T>,
    place: Vec<i32>,
}

impl<T> Sorted<T> {
    fn renumber(&self, indices: &mut [i32]) -> Option<()> {
        for index in indices {
            if *index != EMPTY {
                *index = *self.place.get(usize::try_from(*index).ok()?)?;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Column; 5] = [Column::Tn, Column::NetworkCode, Column::RoutingNumber, Column::Donor, Column::PortedAt];

    #[test]
    fn everyday_rows_become_columns_with_sorted_lists() {
        let chunk = b"886912345678,B2,D9,,2026-03-01T09:00:00+08:00\n886912345679,1401,,B2,\n10000,A1,0,1401,\n";
        let rows = parse_rows(chunk, &ALL).unwrap();
        assert_eq!(rows.tn, [886_912_345_678, 886_912_345_679, 10_000]);
        assert_eq!(rows.codes, ["A1", "B2", "1401"]);
        assert_eq!(rows.network, [1, 2, 0]);
        assert_eq!(rows.donor, [-1, 1, 2]);
        assert_eq!(rows.routing_numbers, ["0", "D9"]);
        assert_eq!(rows.routing_number, [1, -1, 0]);
        assert_eq!(rows.ported_at, [1_772_326_800, 0, 0]);
    }

    #[test]
    fn columns_in_another_order_and_fewer_of_them_are_read() {
        let rows = parse_rows(b"A,12345\n", &[Column::NetworkCode, Column::Tn]).unwrap();
        assert_eq!(
            (rows.tn.as_slice(), rows.donor.as_slice(), rows.ported_at.as_slice()),
            (&[12345][..], &[-1][..], &[0][..])
        );
        assert_eq!(parse_rows(b"12345\n", &[Column::Tn]), None);
        assert_eq!(parse_rows(b"12345,12345\n", &[Column::Tn, Column::Tn]), None);
        assert_eq!(parse_rows(b"\n", &[]), None);
    }

    #[test]
    fn unusual_chunks_are_declined() {
        for chunk in [
            "",
            "\n",
            "\n\n",
            ",,,,",
            ",,,,\n",
            "886912345678,1402,,,",
            "886912345678,1402,,\n886912345679,1402,,,,\n",
            "1000,1,,,\n",
            "1000000000000000,1,,,\n",
            "012345,1,,,\n",
            "886912345678,,,,\n",
            "886912345678,a,,,\n",
            "886912345678,AAAAAAAAA,,,\n",
            "886912345678,A\0,,,\n",
            "886912345678,1402,AAAAAAAAAAAAAAAA,,\n",
            "886912345678,1402,G,,\n",
            "886912345678,1402,,AAAAAAAAA,\n",
            "886912345678,1402,,,0\n",
            "886912345678,1402,,,\r\n",
            "886912345678,1402,,,,\n",
            "886912345678,1402,,,\n\n",
        ] {
            assert_eq!(parse_rows(chunk.as_bytes(), &ALL), None, "{chunk:?}");
        }
    }
}
