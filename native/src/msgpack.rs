//! MessagePack: a bounded reader over one message, and the writer of the forms that we send.
//!
//! What a message means is left to `protocols::npq`. Source: <https://github.com/msgpack/msgpack/blob/master/spec.md>.

/// An integer of any width, as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integer {
    /// Zero or more, from a signed form or an unsigned one.
    Positive(u64),
    /// Less than zero.
    Negative(i64),
}

impl Integer {
    fn signed(value: i64) -> Self {
        u64::try_from(value).map_or(Self::Negative(value), Self::Positive)
    }
}

/// Reads values from the front of borrowed bytes. Every method gives None, and then stands anywhere, if the bytes
/// end too early or hold something else than what is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader that stands at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The code of the next value, which stays unread.
    #[inline]
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*bytes)
    }

    #[inline]
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    #[inline]
    fn u8(&mut self) -> Option<usize> {
        self.byte().map(usize::from)
    }

    #[inline]
    fn u16(&mut self) -> Option<usize> {
        self.fixed().map(|bytes| usize::from(u16::from_be_bytes(bytes)))
    }

    #[inline]
    fn u32(&mut self) -> Option<usize> {
        self.fixed().map(|bytes| u32::from_be_bytes(bytes) as usize)
    }

    /// The head of an array: how many elements follow.
    #[inline]
    pub fn array(&mut self) -> Option<usize> {
        match self.byte()? {
            code @ 0x90..=0x9f => Some(usize::from(code & 0x0f)),
            0xdc => self.u16(),
            0xdd => self.u32(),
            _ => None,
        }
    }

    /// An integer; neither a float nor a boolean will do.
    #[inline]
    pub fn integer(&mut self) -> Option<Integer> {
        let value = match self.byte()? {
            code @ 0x00..=0x7f => Integer::Positive(u64::from(code)),
            code @ 0xe0..=0xff => Integer::Negative(i64::from(code as i8)),
            0xcc => Integer::Positive(u64::from(self.byte()?)),
            0xcd => Integer::Positive(u64::from(u16::from_be_bytes(self.fixed()?))),
            0xce => Integer::Positive(u64::from(u32::from_be_bytes(self.fixed()?))),
            0xcf => Integer::Positive(u64::from_be_bytes(self.fixed()?)),
            0xd0 => Integer::signed(i64::from(i8::from_be_bytes(self.fixed()?))),
            0xd1 => Integer::signed(i64::from(i16::from_be_bytes(self.fixed()?))),
            0xd2 => Integer::signed(i64::from(i32::from_be_bytes(self.fixed()?))),
            0xd3 => Integer::signed(i64::from_be_bytes(self.fixed()?)),
            _ => return None,
        };
        Some(value)
    }

    /// The bytes of a text; whether they are UTF-8 is not looked at.
    #[inline]
    pub fn text(&mut self) -> Option<&'a [u8]> {
        let length = match self.byte()? {
            code @ 0xa0..=0xbf => usize::from(code & 0x1f),
            0xd9 => self.u8()?,
            0xda => self.u16()?,
            0xdb => self.u32()?,
            _ => return None,
        };
        self.bytes(length)
    }

    /// Passes over one value of any kind, however deep it is nested. Texts in it need not be UTF-8.
    pub fn skip(&mut self) -> Option<()> {
        // What is left to pass over is counted instead of nested, so depth costs no stack.
        let mut left: usize = 1;
        while left > 0 {
            left = (left - 1).saturating_add(self.skip_head()?);
            if left > self.rest.len() {
                return None; // each value has a byte at least
            }
        }
        Some(())
    }

    /// Passes over a value up to the values that it holds; returns how many these are.
    fn skip_head(&mut self) -> Option<usize> {
        let length = match self.byte()? {
            0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => 0,
            code @ 0x80..=0x8f => return Some(2 * usize::from(code & 0x0f)),
            code @ 0x90..=0x9f => return Some(usize::from(code & 0x0f)),
            code @ 0xa0..=0xbf => usize::from(code & 0x1f),
            0xc1 => return None,
            0xc4 | 0xd9 => self.u8()?,
            0xc5 | 0xda => self.u16()?,
            0xc6 | 0xdb => self.u32()?,
            0xc7 => self.u8()?.saturating_add(1), // an extension's type is a byte more
            0xc8 => self.u16()?.saturating_add(1),
            0xc9 => self.u32()?.saturating_add(1),
            0xcc | 0xd0 => 1,
            0xcd | 0xd1 | 0xd4 => 2,
            0xd5 => 3,
            0xca | 0xce | 0xd2 => 4,
            0xd6 => 5,
            0xcb | 0xcf | 0xd3 => 8,
            0xd7 => 9,
            0xd8 => 17,
            0xdc => return self.u16(),
            0xdd => return self.u32(),
            0xde => return Some(self.u16()?.saturating_mul(2)),
            0xdf => return Some(self.u32()?.saturating_mul(2)),
        };
        self.bytes(length).map(|_| 0)
    }
}

/// Appends nil.
#[inline]
pub fn write_nil(out: &mut Vec<u8>) {
    out.push(0xc0);
}

/// Appends an integer in its shortest form.
#[inline]
pub fn write_integer(value: u64, out: &mut Vec<u8>) {
    match value {
        0..=0x7f => out.push(value as u8),
        0x80..=0xff => out.extend_from_slice(&[0xcc, value as u8]),
        0x100..=0xffff => {
            out.push(0xcd);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(0xce);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        _ => {
            out.push(0xcf);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// Appends a text in its shortest form. text: under 2^32 bytes, as all of ours are.
#[inline]
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    let length = text.len();
    match length {
        0..=0x1f => out.push(0xa0 | length as u8),
        0x20..=0xff => out.extend_from_slice(&[0xd9, length as u8]),
        0x100..=0xffff => {
            out.push(0xda);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(0xdb);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// Appends a text, or nil where there is none.
#[inline]
pub fn write_text_or_nil(text: Option<&str>, out: &mut Vec<u8>) {
    match text {
        Some(text) => write_text(text, out),
        None => write_nil(out),
    }
}

/// Elements of an array whose head is one byte.
pub const FIXARRAY_MAX: usize = 15;

/// The head of an array of up to 65,535 elements, in its shortest form; its bytes are the first `.1` of `.0`.
#[inline]
pub fn array_head(elements: usize) -> ([u8; 3], usize) {
    if elements <= FIXARRAY_MAX {
        return ([0x90 | elements as u8, 0, 0], 1);
    }
    let [high, low] = (elements as u16).to_be_bytes();
    ([0xdc, high, low], 3)
}

/// Appends the head of an array of up to 65,535 elements; returns its bytes.
#[inline]
pub fn write_array(elements: usize, out: &mut Vec<u8>) -> usize {
    let (head, bytes) = array_head(elements);
    out.extend_from_slice(head.get(..bytes).unwrap_or_default());
    bytes
}

#[cfg(test)]
mod tests;
