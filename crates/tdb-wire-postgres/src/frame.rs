//! Finding message boundaries in a stream of bytes, however it is cut. A frame is a tag, a length that counts itself, and
//! a body; bodies are hopped over, not copied.

use thiserror::Error;

/// PostgreSQL refuses longer messages too (MaxAllocSize, 1 GB), in both directions.
pub const FRAME_LEN_MAX: u32 = 0x3fff_ffff;
/// Tag and length.
pub const HEADER_LEN: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a message with the invalid length {len}")]
pub struct FrameError {
    pub len: i32,
}

/// Where in the stream we are. 13 bytes per direction; no buffer.
#[derive(Clone, Debug, Default)]
pub struct Scanner {
    header: [u8; HEADER_LEN],
    header_len: u8,
    /// Bytes of the current body still to come.
    body_left: u32,
}

/// A frame whose header is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// Length of the body, without the length field.
    pub body_len: u32,
}

/// What [`Scanner::next`] found in the bytes it consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A header ends here; its body begins at the next byte.
    Header(Header),
    /// The rest of the bytes belongs to a frame that is not complete.
    Spent,
}

impl Scanner {
    /// Takes bytes from the front of `bytes` up to the end of the next header, hopping over the body before it.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Result<Step, FrameError> {
        let hop = usize::try_from(self.body_left).unwrap_or(usize::MAX).min(bytes.len());
        *bytes = bytes.split_at(hop).1;
        self.body_left -= u32::try_from(hop).unwrap_or(0);
        if self.body_left > 0 {
            return Ok(Step::Spent);
        }
        // The common case: the whole header is here.
        if self.header_len == 0
            && let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>()
        {
            *bytes = rest;
            return self.begin(*header);
        }
        while usize::from(self.header_len) < HEADER_LEN {
            let Some((byte, rest)) = bytes.split_first() else {
                return Ok(Step::Spent);
            };
            if let Some(slot) = self.header.get_mut(usize::from(self.header_len)) {
                *slot = *byte;
            }
            self.header_len += 1;
            *bytes = rest;
        }
        self.header_len = 0;
        self.begin(self.header)
    }

    /// Whether the stream stands between two frames.
    pub fn is_at_boundary(&self) -> bool {
        self.header_len == 0 && self.body_left == 0
    }

    fn begin(&mut self, header: [u8; HEADER_LEN]) -> Result<Step, FrameError> {
        let header = parse_header(header)?;
        self.body_left = header.body_len;
        Ok(Step::Header(header))
    }
}

/// Reads tag and length.
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

    fn scan(scanner: &mut Scanner, mut bytes: &[u8], found: &mut Vec<(u8, u32)>) {
        while let Step::Header(header) = scanner.next(&mut bytes).unwrap() {
            found.push((header.tag, header.body_len));
        }
    }

    proptest! {
        #[test]
        fn finds_every_frame_wherever_the_stream_is_cut(frames in frames()) {
            let stream = encode(&frames);
            let expected: Vec<_> = frames.iter().map(|(tag, body)| (*tag, u32::try_from(body.len()).unwrap())).collect();
            for cut in 0..=stream.len() {
                let (mut scanner, mut found) = (Scanner::default(), Vec::new());
                scan(&mut scanner, &stream[..cut], &mut found);
                scan(&mut scanner, &stream[cut..], &mut found);
                prop_assert_eq!(&found, &expected, "cut at {}", cut);
                prop_assert!(scanner.is_at_boundary());
            }
            let (mut scanner, mut found) = (Scanner::default(), Vec::new());
            stream.chunks(1).for_each(|byte| scan(&mut scanner, byte, &mut found));
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn impossible_lengths_are_errors() {
        for len in [0u32, 1, 3, 0x4000_0000, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let mut scanner = Scanner::default();
            let stream = [&b"D"[..], &len.to_be_bytes()].concat();
            assert!(scanner.next(&mut &stream[..]).is_err(), "{len}");
        }
    }
}
