//! A country's numbering plan: reads what is dialled in it, and says whether such a number can be ported.
//!
//! The plan files, and the names of the kinds, are left to `lookupd/numbering.py`, whose `Plan` this mirrors.

use crate::limits::{E164_DIGITS_MAX, TN_DIGITS_MIN};

/// The digits of an E.164 number: 5 to 15 ASCII digits, none of them a zero in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digits {
    bytes: [u8; E164_DIGITS_MAX],
    length: u8,
    tn: u64,
}

impl Digits {
    /// None unless the two parts, one behind the other, are such digits.
    #[inline]
    fn read(head: &[u8], tail: &[u8]) -> Option<Self> {
        let length = head.len() + tail.len();
        if !(TN_DIGITS_MIN..=E164_DIGITS_MAX).contains(&length) {
            return None;
        }
        let mut bytes = [0; E164_DIGITS_MAX];
        let mut tn = 0;
        for (to, &byte) in bytes.iter_mut().zip(head.iter().chain(tail)) {
            if !byte.is_ascii_digit() {
                return None;
            }
            *to = byte;
            tn = tn * 10 + u64::from(byte - b'0');
        }
        (bytes[0] != b'0').then_some(Self { bytes, length: length as u8, tn })
    }

    /// The digits as text.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// The number as the store knows it.
    #[inline]
    pub fn tn(&self) -> u64 {
        self.tn
    }
}

/// Numbers of one length that begin alike, and whether they can be ported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Digits of the whole number.
    pub digits: usize,
    /// Country code and prefix.
    pub prefix: String,
    /// Whether numbers of this kind can be ported.
    pub portable: bool,
}

/// The heads of one length, among the numbers of one length.
#[derive(Debug)]
struct Level {
    /// The number divided by this is its head.
    divisor: u64,
    /// Sorted by the head; each stands once.
    heads: Vec<(u64, bool)>,
}

impl Level {
    /// A head that stands already is replaced.
    fn put(&mut self, head: u64, portable: bool) {
        match self.heads.binary_search_by_key(&head, |entry| entry.0) {
            Ok(at) => self.heads[at].1 = portable,
            Err(at) => self.heads.insert(at, (head, portable)),
        }
    }

    #[inline]
    fn find(&self, tn: u64) -> Option<bool> {
        let head = tn / self.divisor;
        let at = self.heads.binary_search_by_key(&head, |entry| entry.0).ok()?;
        self.heads.get(at).map(|entry| entry.1)
    }
}

/// One country's numbering plan. Never changes once made.
#[derive(Debug)]
pub struct Plan {
    country_code: Vec<u8>,
    /// None unless it starts with 0: only then can it be told from the start of an E.164 number.
    trunk_prefix: Option<Vec<u8>>,
    /// By the digits of the whole number; the longest heads first.
    levels: [Vec<Level>; E164_DIGITS_MAX + 1],
}

impl Plan {
    /// heads: of several with the same digits and prefix the last one counts; one that no number can have is left
    /// out.
    pub fn new(country_code: &str, trunk_prefix: &str, heads: Vec<Head>) -> Self {
        let mut levels: [Vec<Level>; E164_DIGITS_MAX + 1] = Default::default();
        for head in heads {
            let Some(levels) = levels.get_mut(head.digits) else { continue };
            let Some(exponent) = head.digits.checked_sub(head.prefix.len()) else { continue };
            // An empty head is 0, what any number divided by its own power of ten is.
            let is_prefix = head.prefix.bytes().all(|byte| byte.is_ascii_digit()) && !head.prefix.starts_with('0');
            let (true, Some(divisor)) = (is_prefix, 10_u64.checked_pow(exponent as u32)) else { continue };
            let prefix = head.prefix.bytes().fold(0, |value, byte| value * 10 + u64::from(byte - b'0'));
            let at = levels.partition_point(|level| level.divisor < divisor);
            if levels.get(at).is_none_or(|level| level.divisor != divisor) {
                levels.insert(at, Level { divisor, heads: Vec::new() });
            }
            levels[at].put(prefix, head.portable);
        }
        Self {
            country_code: country_code.as_bytes().to_vec(),
            trunk_prefix: trunk_prefix.starts_with('0').then(|| trunk_prefix.as_bytes().to_vec()),
            levels,
        }
    }

    /// The number's E.164 digits, None if what was dialled is no such number. dialled: ASCII digits, before which a
    /// `+` or the trunk prefix of a national number may stand; any other bytes are no number.
    #[inline]
    pub fn digits(&self, dialled: &[u8]) -> Option<Digits> {
        match dialled.first()? {
            b'+' => Digits::read(&[], dialled.get(1..)?),
            b'0' => {
                // In a plan without national form a zero in front is nothing.
                let national = dialled.strip_prefix(self.trunk_prefix.as_deref()?)?;
                Digits::read(&self.country_code, national)
            }
            _ => Digits::read(&[], dialled),
        }
    }

    /// The same of a number that was dialled where all numbers begin with the digits `context`: its own stand behind
    /// those, but for this plan's trunk prefix. whole: a `+`, the context and the number.
    #[inline]
    pub fn digits_in(&self, context: &[u8], dialled: &[u8], whole: &[u8]) -> Option<Digits> {
        let is_national =
            context == self.country_code && self.trunk_prefix.as_ref().is_some_and(|trunk| dialled.starts_with(trunk));
        self.digits(if is_national { dialled } else { whole })
    }

    /// Whether the number is of a kind that can be ported; None for a wrong length, or another country's.
    #[inline]
    pub fn portable(&self, digits: &Digits) -> Option<bool> {
        let levels = self.levels.get(usize::from(digits.length))?;
        levels.iter().find_map(|level| level.find(digits.tn))
    }

    /// Whether a number that can be ported, or one of another country, may begin with these ASCII digits and be
    /// longer.
    pub fn continues(&self, digits: &[u8]) -> bool {
        let begins_alike = |level: &Level, length: usize| {
            let prefix_digits = length - level.divisor.ilog10() as usize;
            level.heads.iter().any(|(head, portable)| {
                let mut room = [0; E164_DIGITS_MAX];
                let head = decimal(*head, prefix_digits, &mut room);
                *portable && (head.starts_with(digits) || digits.starts_with(head))
            })
        };
        let longer = self.levels.iter().enumerate().skip(digits.len() + 1);
        longer.into_iter().any(|(length, levels)| levels.iter().any(|level| begins_alike(level, length)))
            || (!digits.starts_with(&self.country_code) && digits.len() < E164_DIGITS_MAX)
    }

    /// Whether a number of this country is of no kind because it is shorter than any that can be ported.
    pub fn is_incomplete(&self, digits: &Digits) -> bool {
        let has_portable = |levels: &Vec<Level>| levels.iter().any(|level| level.heads.iter().any(|head| head.1));
        let shortest = self.levels.iter().position(has_portable).unwrap_or(0);
        usize::from(digits.length) < shortest && self.covers(digits) && self.portable(digits).is_none()
    }

    /// Whether the number starts with this plan's country code.
    #[inline]
    pub fn covers(&self, digits: &Digits) -> bool {
        digits.as_bytes().starts_with(&self.country_code)
    }
}

/// A number's decimal digits, so many of them.
fn decimal(mut value: u64, digits: usize, room: &mut [u8; E164_DIGITS_MAX]) -> &[u8] {
    let digits = digits.min(E164_DIGITS_MAX);
    for place in room[..digits].iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
    &room[..digits]
}

#[cfg(test)]
mod tests;
