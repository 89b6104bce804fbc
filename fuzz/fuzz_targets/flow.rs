//! Feeds any frames in both directions. The state of the session must be the same however the bytes are split, and there
//! must be no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tdb_wire_postgres::flow::{Flow, RequestId};
use tdb_wire_postgres::frame::Piece;

/// Each byte of the input is a frame: its direction, its tag, and for ReadyForQuery its status.
const CLIENT: &[u8] = b"QPBDECSFdcfHX?";
const SERVER: &[u8] = b"ZZZ123tTnDCIsVGHWdcENAS?";
const STATUS: &[u8] = b"ITE";

fuzz_target!(|data: &[u8]| {
    let (mut whole, mut cut) = (Flow::new(), Flow::new());
    for byte in data {
        let (side, number) = (byte & 0x80, usize::from(byte & 0x7f));
        let tags = if side == 0 { CLIENT } else { SERVER };
        let tag = tags[number % tags.len()];
        let body: &[u8] = if side != 0 && tag == b'Z' {
            &STATUS[number % 3..][..1]
        } else {
            b"body"
        };
        let len = u32::try_from(body.len() + 4).unwrap();
        let frame = [&[tag], &len.to_be_bytes()[..], body].concat();
        let together = pass(&mut whole, side, &frame);
        let apart = frame.chunks(2).fold(None, |id, part| pass(&mut cut, side, part).or(id));
        assert_eq!(together, apart);
    }
    let state = |flow: &Flow| {
        let (transaction, copy) = (flow.transaction(), flow.copy());
        (
            flow.is_idle(),
            flow.is_certain(),
            flow.is_full(),
            flow.is_terminated(),
            transaction,
            copy,
        )
    };
    assert_eq!(state(&whole), state(&cut));
    assert!(whole.is_server_at_boundary());
});

fn pass(flow: &mut Flow, side: u8, mut bytes: &[u8]) -> Option<RequestId> {
    let mut found = None;
    loop {
        let passed = match side {
            0 => flow.from_client(&mut bytes, |_| true),
            _ => flow.from_server(&mut bytes, |_| true),
        };
        match passed.expect("valid lengths") {
            (Piece::Spent, _) => return found,
            (_, id) => found = id.or(found),
        }
    }
}
