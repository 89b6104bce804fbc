//! Feeds any bytes in pieces of any size. The reader must return all bytes unchanged, and the same frames as for one piece.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tdb_wire_postgres::frame::{Piece, Reader};

/// All bytes in order, the frames that were read, and the headers of the others, each up to the first error.
type Seen = (Vec<u8>, Vec<(u8, usize)>, Vec<(u8, u32)>);

/// Returns what was seen, and whether there was no error.
fn find<'a>(parts: impl Iterator<Item = &'a [u8]>, modulus: u8) -> (Seen, bool) {
    let (mut reader, mut bytes, mut read, mut passed) = (Reader::default(), Vec::new(), Vec::new(), Vec::new());
    for mut part in parts {
        loop {
            let saw = |header: tdb_wire_postgres::frame::Header| passed.push((header.tag, header.body_len));
            match reader.next(&mut part, |tag| tag.is_multiple_of(modulus), saw) {
                Ok(Piece::Span(span)) => bytes.extend_from_slice(span),
                Ok(Piece::Frame(frame)) => {
                    bytes.extend_from_slice(frame.bytes);
                    read.push((frame.tag(), frame.body().len()));
                }
                Ok(Piece::Spent) => break,
                Err(_) => return ((bytes, read, passed), false),
            }
        }
    }
    ((bytes, read, passed), true)
}

fuzz_target!(|data: &[u8]| {
    let [modulus, chunk, stream @ ..] = data else { return };
    let (modulus, chunk) = (modulus % 4 + 1, usize::from(*chunk) + 1);
    let (whole, fine) = find(std::iter::once(stream), modulus);
    let (cut, cut_fine) = find(stream.chunks(chunk), modulus);
    assert_eq!(fine, cut_fine);
    assert!(stream.starts_with(&cut.0));
    assert_eq!((&whole.1, &whole.2), (&cut.1, &cut.2));
    if fine {
        assert_eq!(whole.0, cut.0);
    }
});
