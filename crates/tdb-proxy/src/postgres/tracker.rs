//! What a session is doing, from the tags that pass: whether replies are owed and whether a transaction is open. Source:
//! PostgreSQL manual, "Message Flow".

use tdb_wire_postgres::frame::{FrameError, Scanner, Step};

pub const QUERY: u8 = b'Q';
const FUNCTION_CALL: u8 = b'F';
const SYNC: u8 = b'S';
const COPY_DONE: u8 = b'c';
const COPY_FAIL: u8 = b'f';
const READY_FOR_QUERY: u8 = b'Z';
pub const COPY_IN_RESPONSE: u8 = b'G';
const COPY_BOTH_RESPONSE: u8 = b'W';
pub const IDLE: u8 = b'I';

#[derive(Debug)]
pub struct Tracker {
    client: Scanner,
    server: Scanner,
    /// ReadyForQuery messages the server still owes.
    owed: u32,
    /// The last message that asked for one was a simple Query.
    last_simple: bool,
    /// Between CopyInResponse and the client's CopyDone or CopyFail, where the server ignores Sync.
    copying: bool,
    /// Of the last ReadyForQuery: I, T or E.
    status: u8,
    /// The next byte of the server is a ReadyForQuery's status.
    status_next: bool,
}

impl Tracker {
    /// For a session whose first ReadyForQuery has been passed on.
    pub fn new() -> Self {
        Self {
            client: Scanner::default(),
            server: Scanner::default(),
            owed: 0,
            last_simple: false,
            copying: false,
            status: IDLE,
            status_next: false,
        }
    }

    /// Nothing is owed and no transaction is open.
    pub fn is_idle(&self) -> bool {
        self.owed == 0 && self.status == IDLE && !self.copying
    }

    /// A message of ours may be put into the stream to the client.
    pub fn is_server_at_boundary(&self) -> bool {
        self.server.is_at_boundary()
    }

    /// Looks at bytes from the client.
    pub fn saw_from_client(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        while let Step::Header(header) = self.client.next(&mut bytes)? {
            match header.tag {
                QUERY | FUNCTION_CALL => self.ask(header.tag == QUERY),
                SYNC if !self.copying => self.ask(false),
                COPY_DONE | COPY_FAIL => self.copying = false,
                _ => {}
            }
        }
        Ok(())
    }

    /// Looks at bytes from the server.
    pub fn saw_from_server(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        loop {
            if self.status_next
                && let Some(status) = bytes.first()
            {
                self.status = *status;
                self.status_next = false;
            }
            let Step::Header(header) = self.server.next(&mut bytes)? else {
                return Ok(());
            };
            match header.tag {
                READY_FOR_QUERY => {
                    self.owed = self.owed.saturating_sub(1);
                    self.copying = false;
                    self.status_next = true;
                }
                COPY_IN_RESPONSE | COPY_BOTH_RESPONSE => {
                    self.copying = true;
                    // Syncs sent along with the Execute that began the copy are ignored by the server.
                    self.owed = u32::from(self.last_simple);
                }
                _ => {}
            }
        }
    }

    fn ask(&mut self, simple: bool) {
        self.owed = self.owed.saturating_add(1);
        self.last_simple = simple;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &len.to_be_bytes(), body].concat()
    }

    #[test]
    fn replies_owed_and_open_transactions_are_not_idle() {
        let mut tracker = Tracker::new();
        assert!(tracker.is_idle());
        tracker.saw_from_client(&frame(b'Q', b"begin\0")).unwrap();
        assert!(!tracker.is_idle());
        let reply = [frame(b'C', b"BEGIN\0"), frame(b'Z', b"T")].concat();
        reply.chunks(1).for_each(|byte| tracker.saw_from_server(byte).unwrap());
        assert!(!tracker.is_idle());
        tracker
            .saw_from_client(&[frame(b'P', b""), frame(b'S', b""), frame(b'S', b"")].concat())
            .unwrap();
        tracker.saw_from_server(&frame(b'Z', b"I")).unwrap();
        assert!(!tracker.is_idle());
        tracker.saw_from_server(&frame(b'Z', b"I")).unwrap();
        assert!(tracker.is_idle());
    }

    #[test]
    fn a_copy_in_the_extended_protocol_owes_one_reply() {
        let mut tracker = Tracker::new();
        tracker
            .saw_from_client(&[frame(b'B', b""), frame(b'E', b""), frame(b'S', b"")].concat())
            .unwrap();
        tracker.saw_from_server(&frame(b'G', b"\0\0\0")).unwrap();
        tracker
            .saw_from_client(&[frame(b'd', b"row"), frame(b'c', b""), frame(b'S', b"")].concat())
            .unwrap();
        assert!(!tracker.is_idle());
        tracker
            .saw_from_server(&[frame(b'C', b"COPY 1\0"), frame(b'Z', b"I")].concat())
            .unwrap();
        assert!(tracker.is_idle());
    }

    #[test]
    fn a_copy_by_simple_query_owes_one_reply() {
        let mut tracker = Tracker::new();
        tracker.saw_from_client(&frame(b'Q', b"copy t from stdin\0")).unwrap();
        tracker.saw_from_server(&frame(b'G', b"\0\0\0")).unwrap();
        tracker
            .saw_from_client(&[frame(b'd', b"row"), frame(b'c', b"")].concat())
            .unwrap();
        assert!(!tracker.is_idle());
        tracker
            .saw_from_server(&[frame(b'C', b"COPY 1\0"), frame(b'Z', b"I")].concat())
            .unwrap();
        assert!(tracker.is_idle());
    }
}
