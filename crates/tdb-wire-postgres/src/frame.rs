//! Finds message boundaries in a stream of bytes that arrives in pieces of any size. A frame is a tag, a length that
//! includes itself, and a body. Bodies are skipped without a copy, except the beginnings of the frames that a caller reads.

use thiserror::Error;

/// The largest accepted value of the length field. It is PostgreSQL's limit too (MaxAllocSize, 1 GB), in both directions.
pub const FRAME_LEN_MAX: u32 = 0x3fff_ffff;
/// The size of a header in bytes: tag and length.
pub const HEADER_LEN: usize = 5;

/// A header whose length is too small for its own field or larger than [`FRAME_LEN_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a message with the invalid length {len}")]
pub struct FrameError {
    /// The value of the length field, which includes itself.
    pub len: i32,
}

/// How many bytes of a body are read at most, unless the reader was made with another limit. Command tags and names are
/// shorter; a notice has its SQLSTATE in its first bytes.
pub const READ_LEN_MAX: u32 = 1024;
/// When a frame has been used, the memory of the buffer beyond this capacity is released.
const KEEP_CAPACITY_MAX: usize = 2048;

/// A frame whose header is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message type.
    pub tag: u8,
    /// The length of the body in bytes, without the length field.
    pub body_len: u32,
}

/// Splits a stream into spans that are skipped and frames that are read. It buffers only the bytes of a frame that is read
/// and arrived in several pieces.
#[derive(Clone, Debug)]
pub struct Reader {
    position: Position,
    kept: Vec<u8>,
    /// The frame in `kept` was returned; the next call clears it.
    returned: bool,
    read_len_max: u32,
}

/// What [`Reader::next`] took from the front of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'b> {
    /// Contiguous frames and parts of frames that are skipped.
    Span(&'b [u8]),
    /// A frame that `read` selected.
    Frame(Frame<'b>),
    /// All bytes are consumed. The beginning of a frame that is read may be buffered.
    Spent,
}

/// A frame that is read: its header and the first bytes of its body, [`READ_LEN_MAX`] or what the reader was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'b> {
    /// The header and the part of the body that is read.
    pub bytes: &'b [u8],
    /// How many bytes of the body follow; they are the beginning of the next span.
    pub rest: u32,
}

/// The position of the stream in a frame that is skipped.
#[derive(Clone, Debug, Default)]
struct Position {
    header: [u8; HEADER_LEN],
    header_len: u8,
    /// How many bytes of the current body have not arrived.
    body_left: u32,
}

impl Reader {
    /// A reader that reads, and therefore may buffer, up to `read_len_max` bytes of a body.
    pub fn with_read_len(read_len_max: u32) -> Self {
        Self {
            position: Position::default(),
            kept: Vec::new(),
            returned: false,
            read_len_max,
        }
    }

    /// Takes the next piece from the front of `bytes`. `read` selects frames by their tag; `saw` is called with the header
    /// of each other frame when the header is complete. After an error the stream cannot be read further.
    pub fn next<'s, 'b: 's>(
        &'s mut self,
        bytes: &mut &'b [u8],
        read: impl Fn(u8) -> bool,
        mut saw: impl FnMut(Header),
    ) -> Result<Piece<'s>, FrameError> {
        if self.returned {
            self.returned = false;
            self.kept.clear();
            self.kept.shrink_to(KEEP_CAPACITY_MAX);
        }
        if !self.kept.is_empty() {
            return self.keep(bytes);
        }
        let all = *bytes;
        while self.position.skip_body(bytes) {
            if self.position.header_len == 0 && bytes.first().is_some_and(|tag| read(*tag)) {
                return match all.len() - bytes.len() {
                    0 => self.read(bytes),
                    passed => Ok(Piece::Span(all.split_at(passed).0)),
                };
            }
            match self.position.header(bytes)? {
                Some(header) => saw(header),
                None => break,
            }
        }
        Ok(if all.is_empty() { Piece::Spent } else { Piece::Span(all) })
    }

    /// Whether the stream is between two frames.
    pub fn is_at_boundary(&self) -> bool {
        (self.kept.is_empty() || self.returned) && self.position.header_len == 0 && self.position.body_left == 0
    }

    /// The number of bytes that are buffered, at the beginning of a frame that is read and has not arrived completely.
    pub fn buffered_len(&self) -> usize {
        if self.returned { 0 } else { self.kept.len() }
    }

    /// Reads the frame that begins here. In the common case the part that is read has arrived completely.
    fn read<'s, 'b: 's>(&'s mut self, bytes: &mut &'b [u8]) -> Result<Piece<'s>, FrameError> {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return self.keep(bytes);
        };
        let (len, rest) = read_len(*header, self.read_len_max)?;
        match bytes.split_at_checked(len) {
            Some((frame, others)) => {
                *bytes = others;
                self.position.body_left = rest;
                Ok(Piece::Frame(Frame { bytes: frame, rest }))
            }
            None => self.keep(bytes),
        }
    }

    /// Adds bytes to the buffered frame and returns it when the part that is read is complete.
    fn keep<'s, 'b: 's>(&'s mut self, bytes: &mut &'b [u8]) -> Result<Piece<'s>, FrameError> {
        loop {
            let (len, rest) = match self.kept.first_chunk::<HEADER_LEN>() {
                Some(header) => read_len(*header, self.read_len_max)?,
                None => (HEADER_LEN, 0),
            };
            let missing = len.saturating_sub(self.kept.len());
            if missing == 0 && self.kept.len() >= HEADER_LEN {
                self.returned = true;
                self.position.body_left = rest;
                return Ok(Piece::Frame(Frame {
                    bytes: &self.kept,
                    rest,
                }));
            }
            if bytes.is_empty() {
                return Ok(Piece::Spent);
            }
            let (now, others) = bytes.split_at(missing.min(bytes.len()));
            self.kept.extend_from_slice(now);
            *bytes = others;
        }
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self::with_read_len(READ_LEN_MAX)
    }
}

impl Frame<'_> {
    /// The message type.
    pub fn tag(&self) -> u8 {
        self.bytes.first().copied().unwrap_or(0)
    }

    /// The part of the body that was read.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }
}

impl Position {
    /// Skips the rest of the current body. Returns whether its end was reached.
    fn skip_body(&mut self, bytes: &mut &[u8]) -> bool {
        let skipped = usize::try_from(self.body_left).unwrap_or(usize::MAX).min(bytes.len());
        *bytes = bytes.split_at(skipped).1;
        self.body_left -= u32::try_from(skipped).unwrap_or(0);
        self.body_left == 0
    }

    /// Takes the next header; `None` if it is not complete.
    fn header(&mut self, bytes: &mut &[u8]) -> Result<Option<Header>, FrameError> {
        // The common case: the whole header has arrived.
        if self.header_len == 0
            && let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>()
        {
            *bytes = rest;
            return self.begin(*header).map(Some);
        }
        while usize::from(self.header_len) < HEADER_LEN {
            let Some((byte, rest)) = bytes.split_first() else {
                return Ok(None);
            };
            if let Some(slot) = self.header.get_mut(usize::from(self.header_len)) {
                *slot = *byte;
            }
            self.header_len += 1;
            *bytes = rest;
        }
        self.header_len = 0;
        self.begin(self.header).map(Some)
    }

    fn begin(&mut self, header: [u8; HEADER_LEN]) -> Result<Header, FrameError> {
        let header = parse_header(header)?;
        self.body_left = header.body_len;
        Ok(header)
    }
}

/// How many bytes of a frame are read, header included, and how many are not.
fn read_len(header: [u8; HEADER_LEN], max: u32) -> Result<(usize, u32), FrameError> {
    let body_len = parse_header(header)?.body_len;
    let read = body_len.min(max);
    Ok((HEADER_LEN + usize::try_from(read).unwrap_or(0), body_len - read))
}

/// Parses a header. An error if its length is invalid.
pub fn parse_header([tag, a, b, c, d]: [u8; HEADER_LEN]) -> Result<Header, FrameError> {
    let len = u32::from_be_bytes([a, b, c, d]);
    match len.checked_sub(4) {
        Some(body_len) if len <= FRAME_LEN_MAX => Ok(Header { tag, body_len }),
        _ => Err(FrameError { len: len.cast_signed() }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
        prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 1..12)
    }

    fn encode(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, body) in frames {
            out.push(*tag);
            out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
            out.extend_from_slice(body);
        }
        out
    }

    /// The result of reading `parts`: the frames that are read, tag and body length of the others, and all bytes in order.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Seen {
        read: Vec<(u8, Vec<u8>)>,
        passed: Vec<(u8, u32)>,
        bytes: Vec<u8>,
    }

    fn find(parts: &[&[u8]], read: impl Fn(u8) -> bool) -> Seen {
        let (mut reader, mut seen) = (Reader::default(), Seen::default());
        let mut passed = Vec::new();
        for mut bytes in parts.iter().copied() {
            loop {
                match reader
                    .next(&mut bytes, &read, |header| passed.push((header.tag, header.body_len)))
                    .unwrap()
                {
                    Piece::Span(span) => seen.bytes.extend_from_slice(span),
                    Piece::Frame(frame) => {
                        seen.bytes.extend_from_slice(frame.bytes);
                        seen.read.push((frame.tag(), frame.body().to_vec()));
                    }
                    Piece::Spent => break,
                }
            }
        }
        assert!(reader.is_at_boundary());
        seen.passed = passed;
        seen
    }

    proptest! {
        #[test]
        fn finds_every_frame_wherever_the_stream_is_cut(frames in frames(), modulus in 1u8..5) {
            let stream = encode(&frames);
            let read = |tag: u8| tag.is_multiple_of(modulus);
            let expected = Seen {
                read: frames.iter().filter(|(tag, _)| read(*tag)).cloned().collect(),
                passed: frames.iter().filter(|(tag, _)| !read(*tag))
                    .map(|(tag, body)| (*tag, u32::try_from(body.len()).unwrap())).collect(),
                bytes: stream.clone(),
            };
            for cut in 0..=stream.len() {
                prop_assert_eq!(&find(&[&stream[..cut], &stream[cut..]], read), &expected, "cut at {}", cut);
            }
            let single: Vec<_> = stream.chunks(1).collect();
            prop_assert_eq!(find(&single, read), expected);
        }
    }

    #[test]
    fn a_long_frame_is_read_in_part_and_the_rest_is_skipped() {
        let long = vec![7; 3000];
        let stream = encode(&[(b'N', long.clone()), (b'D', vec![1]), (b'N', vec![2])]);
        for cut in [0, 3, 500, 1029, 1030, 2000, 3006] {
            let seen = find(&[&stream[..cut], &stream[cut..]], |tag| tag == b'N');
            assert_eq!(seen.read, [(b'N', vec![7; 1024]), (b'N', vec![2])], "cut at {cut}");
            assert_eq!((seen.passed, &seen.bytes), (vec![(b'D', 1)], &stream), "cut at {cut}");
        }
    }

    #[test]
    fn impossible_lengths_are_errors() {
        for len in [0u32, 1, 3, 0x4000_0000, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let stream = [&b"D"[..], &len.to_be_bytes()].concat();
            for read in [true, false] {
                let mut reader = Reader::default();
                assert!(reader.next(&mut &stream[..], |_| read, drop).is_err(), "{len}");
            }
        }
    }
}
