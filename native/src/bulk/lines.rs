//! A snapshot's text in chunks of whole lines, decompressed: what `loader.files.line_chunks` yields, chunk by chunk.
//!
//! The text is taken in pieces of a set size, whatever the source gives at a time, so that both paths cut the same
//! chunks. Damaged data is not told here: the caller starts again in Python, which names what is wrong.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// Compressed bytes taken from the source at a time.
const INPUT_BYTES: usize = 256 * 1024;
/// A frame's window may be 2^27 bytes, as in `loader.files.ZstdReader`.
const WINDOW_LOG_MAX: u32 = 27;

/// How a data file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip, of one member or several.
    Gzip,
    /// zstd, of one frame or several.
    Zstd,
}

/// Why there are no more chunks before the text ended.
#[derive(Debug)]
pub enum Stopped {
    /// The text is longer than it may be.
    TooLong,
    /// The source failed, or what it gave is damaged or truncated, or of a kind that is not read here.
    Declined(io::Error),
}

/// The bounds of reading, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of the text taken at a time.
    pub piece: usize,
    /// Of a line, without its end.
    pub line: usize,
    /// Of the whole text.
    pub text: u64,
}

/// Reads and decompresses a source, and cuts it behind line ends. Holds one piece and one line.
pub struct LineChunks<R: Read> {
    text: Text<R>,
    bounds: Bounds,
    buffer: Vec<u8>,
    given: usize,
    filled: usize,
    seen: u64,
    ended: bool,
}

impl<R: Read> LineChunks<R> {
    /// Takes no text yet. Fails where the source does, or has nothing to decompress.
    pub fn new(source: R, compression: Compression, bounds: Bounds) -> io::Result<Self> {
        let text = Text::new(source, compression)?;
        let buffer = vec![0; bounds.piece.saturating_add(bounds.line).saturating_add(1)];
        Ok(Self { text, bounds, buffer, given: 0, filled: 0, seen: 0, ended: false })
    }

    /// The next whole lines, CRLF made LF, borrowed until the next call; None at the end.
    ///
    /// A line over the bound comes alone, cut right behind the bound, as the last chunk. A last line without its
    /// end comes as it is.
    pub fn next_chunk(&mut self) -> Result<Option<&[u8]>, Stopped> {
        loop {
            let rest = self.keep_rest();
            if self.ended {
                return Ok(None);
            }
            let line_max = self.bounds.line.saturating_add(1);
            if rest > line_max {
                self.ended = true;
                return Ok(self.buffer.get(..line_max));
            }
            if self.fill()? == 0 {
                self.ended = true;
                let line = self.buffer.get(..rest).filter(|line| !line.is_empty());
                return Ok(line.map(|line| line.strip_suffix(b"\r").unwrap_or(line)));
            }
            let piece = self.buffer.get(rest..self.filled).unwrap_or_default();
            if let Some(at) = memchr::memrchr(b'\n', piece) {
                self.given = rest + at + 1;
                let text = self.buffer.get_mut(..self.given).unwrap_or_default();
                let kept = without_carriage_returns(text);
                return Ok(self.buffer.get(..kept));
            }
        }
    }

    /// Move what was not given yet to the buffer's start; returns its length.
    fn keep_rest(&mut self) -> usize {
        if self.given > 0 {
            self.buffer.copy_within(self.given..self.filled, 0);
            self.filled -= self.given;
            self.given = 0;
        }
        self.filled
    }

    /// Take the next piece behind what the buffer holds; returns its length, 0 at the end of the text.
    fn fill(&mut self) -> Result<usize, Stopped> {
        let start = self.filled;
        let end = start + self.bounds.piece;
        while let Some(room) = self.buffer.get_mut(self.filled..end).filter(|room| !room.is_empty()) {
            match self.text.read(room) {
                Ok(0) => break,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stopped::Declined(error)),
            }
        }
        let count = self.filled - start;
        self.seen = self.seen.saturating_add(count as u64);
        if self.seen > self.bounds.text { Err(Stopped::TooLong) } else { Ok(count) }
    }
}

/// Makes each CRLF an LF, moving the text together; returns its new length.
fn without_carriage_returns(text: &mut [u8]) -> usize {
    let Some(first) = memchr::memchr(b'\r', text) else { return text.len() };
    let mut kept = first;
    let mut at = first;
    while let Some(&byte) = text.get(at) {
        at += 1;
        if byte == b'\r' && text.get(at) == Some(&b'\n') {
            continue;
        }
        if let Some(place) = text.get_mut(kept) {
            *place = byte;
        }
        kept += 1;
    }
    kept
}

enum Text<R: Read> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Text<R> {
    fn new(source: R, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Plain => Self::Plain(source),
            Compression::Gzip => {
                let mut source = BufReader::with_capacity(INPUT_BYTES, source);
                if source.fill_buf()?.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into()); // what an empty file is, Python says
                }
                Self::Gzip(Box::new(MultiGzDecoder::new(source)))
            }
            Compression::Zstd => {
                let source = BufReader::with_capacity(INPUT_BYTES, source);
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }
}

impl<R: Read> Read for Text<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(source) => source.read(buffer),
            Self::Zstd(source) => source.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const BOUNDS: Bounds = Bounds { piece: 16, line: 8, text: 1000 };

    fn chunks(data: &[u8], compression: Compression, bounds: Bounds) -> Result<Vec<Vec<u8>>, Stopped> {
        let mut chunks = LineChunks::new(data, compression, bounds).map_err(Stopped::Declined)?;
        let mut found = Vec::new();
        while let Some(chunk) = chunks.next_chunk()? {
            found.push(chunk.to_vec());
        }
        Ok(found)
    }

    fn plain(text: &str) -> Vec<String> {
        let found = chunks(text.as_bytes(), Compression::Plain, BOUNDS).unwrap();
        found.into_iter().map(|chunk| String::from_utf8(chunk).unwrap()).collect()
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn chunks_end_behind_the_last_line_end_of_each_piece() {
        assert_eq!(plain("abc\ndef\nghi\njkl\nmno\npq\n"), ["abc\ndef\nghi\njkl\n", "mno\npq\n"]);
        assert_eq!(plain("abcde\nfghij\nklmno\npq"), ["abcde\nfghij\n", "klmno\n", "pq"]);
        assert_eq!(plain(""), [] as [&str; 0]);
        assert_eq!(plain("\n\n"), ["\n\n"]);
    }

    #[test]
    fn carriage_returns_go_only_before_line_ends() {
        assert_eq!(plain("a\r\nb\r\r\nc\rd\r\n"), ["a\nb\r\nc\rd\n"]);
        assert_eq!(plain("a\r\nb\r"), ["a\n", "b"]);
        assert_eq!(plain("aaaaaa\nbbbbbbbb\r\nc\r\n"), ["aaaaaa\n", "bbbbbbbb\nc\n"]);
    }

    #[test]
    fn line_over_the_bound_comes_alone_and_cut_as_the_last() {
        assert_eq!(plain("a\n12345678\r\nb\n"), ["a\n12345678\nb\n"]);
        assert_eq!(plain("a\n1234567890\nb\n12345678901234567890\nc\n"), ["a\n1234567890\nb\n", "123456789"]);
        assert_eq!(plain("123456789012345678901234567890\n"), ["123456789"]);
    }

    #[test]
    fn members_and_frames_are_read_one_after_another() {
        let text = b"abc\ndef\n".repeat(50);
        let (first, second) = text.split_at(133);
        let expected = chunks(&text, Compression::Plain, BOUNDS).unwrap();
        let gz = [gzip(first), gzip(b""), gzip(second)].concat();
        assert_eq!(chunks(&gz, Compression::Gzip, BOUNDS).unwrap(), expected);
        let frames: Vec<Vec<u8>> =
            [first, b"".as_slice(), second].iter().map(|part| zstd::encode_all(*part, 3).unwrap()).collect();
        assert_eq!(chunks(&frames.concat(), Compression::Zstd, BOUNDS).unwrap(), expected);
        for (data, compression) in [(gz, Compression::Gzip), (frames.concat(), Compression::Zstd)] {
            let mut damaged = 0;
            for length in 1..data.len() {
                damaged += usize::from(chunks(&data[..length], compression, BOUNDS).is_err());
            }
            assert_eq!(damaged, data.len() - 3, "a cut is whole only between members");
            let with_garbage = [data.as_slice(), b"x"].concat();
            assert!(matches!(chunks(&with_garbage, compression, BOUNDS), Err(Stopped::Declined(_))));
        }
    }

    #[test]
    fn text_beyond_the_bound_stops() {
        let bomb = zstd::encode_all(b"a\n".repeat(501).as_slice(), 3).unwrap();
        assert!(matches!(chunks(&bomb, Compression::Zstd, BOUNDS), Err(Stopped::TooLong)));
        let most = zstd::encode_all(b"a\n".repeat(500).as_slice(), 3).unwrap();
        assert!(chunks(&most, Compression::Zstd, BOUNDS).is_ok());
    }
}
