//! Collects the statements of a workspace's transaction that changed data in messages without DDL. The journal does not
//! record them and they are not part of a change, so the developer is notified. They are recognized by command tags; DDL is
//! never recognized by command tags.

use tdb_contract::DataStatements;
use tdb_wire_postgres::frame::Frame;
use tdb_wire_postgres::frontend::{PARSE, QUERY};

/// The number of statements that are listed for a transaction; the others are only counted.
const STATEMENTS_MAX: usize = 20;
/// The number of characters that are kept of a statement's text.
const TEXT_LEN_MAX: usize = 200;

#[derive(Debug)]
pub(crate) struct DataTap {
    server_pid: i32,
    /// The number of texts sent since the last ReadyForQuery, and the last of them. If there are several, it is not known
    /// which tag belongs to which text.
    texts: u32,
    text: String,
    /// Since the last ReadyForQuery: the tags of statements that changed data, whether a COPY from the client started, and
    /// whether the journal has recorded the text.
    tags: Vec<String>,
    copies_in: bool,
    journaled: bool,
    /// The listed statements of this transaction.
    statements: Vec<String>,
    /// The number of further statements.
    more: usize,
    in_transaction: bool,
}

impl DataTap {
    pub(crate) fn new(server_pid: i32) -> Self {
        Self {
            server_pid,
            texts: 0,
            text: String::new(),
            tags: Vec::new(),
            copies_in: false,
            journaled: false,
            statements: Vec::new(),
            more: 0,
            in_transaction: false,
        }
    }

    /// Whether [`Self::on_request`] needs messages of this type.
    pub(crate) fn reads(tag: u8) -> bool {
        tag == QUERY || tag == PARSE
    }

    pub(crate) fn on_request(&mut self, frame: &Frame<'_>) {
        if !Self::reads(frame.tag()) {
            return;
        }
        let mut strings = frame.body().split(|byte| *byte == 0);
        if frame.tag() == PARSE {
            strings.next();
        }
        self.texts = self.texts.saturating_add(1);
        self.text = excerpt(strings.next().unwrap_or_default());
    }

    pub(crate) fn on_copy_in(&mut self) {
        self.copies_in = true;
    }

    /// The journal has recorded the text of this message.
    pub(crate) fn on_journal_marker(&mut self) {
        self.journaled = true;
    }

    /// Takes the body of a CommandComplete.
    pub(crate) fn on_tag(&mut self, body: &[u8]) {
        let tag = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(body));
        let changes_data = match tag.split(' ').next() {
            Some("INSERT" | "UPDATE" | "DELETE" | "MERGE") => true,
            Some("COPY") => self.copies_in,
            _ => false,
        };
        if changes_data && self.tags.len() <= STATEMENTS_MAX {
            self.tags.push(tag.into_owned());
        }
    }

    /// Called for each ReadyForQuery. Returns the data statements of the transaction that was committed.
    pub(crate) fn on_ready(&mut self, committed: bool, idle: bool) -> Option<DataStatements> {
        let of_message = std::mem::take(&mut self.tags);
        if !self.journaled && !of_message.is_empty() && (self.in_transaction || !idle) {
            if self.texts == 1 && !self.text.is_empty() {
                self.note(self.text.clone());
            } else {
                of_message.into_iter().for_each(|tag| self.note(tag));
            }
        }
        (self.texts, self.copies_in, self.journaled) = (0, false, false);
        self.in_transaction = !idle;
        if !committed && !idle {
            return None;
        }
        let mut statements = std::mem::take(&mut self.statements);
        let more = std::mem::take(&mut self.more);
        if more > 0 {
            statements.push(format!("and {more} more"));
        }
        let server_pid = self.server_pid;
        (!statements.is_empty()).then_some(DataStatements { server_pid, statements })
    }

    fn note(&mut self, statement: String) {
        if self.statements.len() < STATEMENTS_MAX {
            self.statements.push(statement);
        } else {
            self.more += 1;
        }
    }
}

fn excerpt(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text.get(..TEXT_LEN_MAX * 4).unwrap_or(text));
    let text = text.trim().trim_end_matches(';').trim_end();
    match text.char_indices().nth(TEXT_LEN_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &len.to_be_bytes(), body].concat()
    }

    fn frame(bytes: &[u8]) -> Frame<'_> {
        Frame { bytes, rest: 0 }
    }

    /// One message of a transaction that stays open, and the tags of its replies.
    fn send(tap: &mut DataTap, text: &str, answers: &[&str]) {
        let body = [text.as_bytes(), b"\0"].concat();
        tap.on_request(&frame(&message(QUERY, &body)));
        answers.iter().for_each(|tag| tap.on_tag(tag.as_bytes()));
        assert_eq!(tap.on_ready(false, false), None);
    }

    fn left_out(tap: &mut DataTap) -> Vec<String> {
        tap.on_tag(b"COMMIT\0");
        tap.on_ready(true, true).map(|data| data.statements).unwrap_or_default()
    }

    #[test]
    fn a_data_statement_between_two_of_ddl_is_noted_with_its_text() {
        let mut tap = DataTap::new(1);
        send(&mut tap, "BEGIN", &["BEGIN\0"]);
        tap.on_journal_marker();
        send(&mut tap, "ALTER TABLE t ADD c int", &["ALTER TABLE\0"]);
        send(&mut tap, "UPDATE t SET c = 1", &["UPDATE 3\0"]);
        let parse = [b"s1\0DELETE FROM t\0\0\0".as_slice()].concat();
        tap.on_request(&frame(&message(PARSE, &parse)));
        tap.on_tag(b"DELETE 1\0");
        tap.on_ready(false, false);
        assert_eq!(left_out(&mut tap), ["UPDATE t SET c = 1", "DELETE FROM t"]);
        assert!(left_out(&mut tap).is_empty(), "reported once");
    }

    #[test]
    fn journaled_texts_reads_and_autocommitted_data_are_not_noted() {
        let mut tap = DataTap::new(1);
        tap.on_tag(b"INSERT 0 1\0");
        assert_eq!(tap.on_ready(true, true), None);
        tap.on_journal_marker();
        send(
            &mut tap,
            "BEGIN; CREATE TABLE t (); INSERT INTO t DEFAULT VALUES",
            &["INSERT 0 1\0"],
        );
        send(&mut tap, "COPY t TO STDOUT", &["COPY 5\0"]);
        send(&mut tap, "SELECT 1", &["SELECT 1\0"]);
        assert!(left_out(&mut tap).is_empty());
    }

    #[test]
    fn a_rolled_back_transaction_leaves_nothing_for_the_next() {
        let mut tap = DataTap::new(1);
        send(&mut tap, "UPDATE t SET c = 1", &["UPDATE 3\0"]);
        tap.on_tag(b"ROLLBACK\0");
        // Returned for a drain, which finds no change of this session.
        tap.on_ready(false, true);
        assert!(left_out(&mut tap).is_empty());
    }

    #[test]
    fn pipelined_and_copied_data_is_noted_by_its_tags_and_bounded() {
        let mut tap = DataTap::new(1);
        for text in [b"UPDATE a\0", b"UPDATE b\0"] {
            tap.on_request(&frame(&message(QUERY, text)));
        }
        tap.on_tag(b"UPDATE 1\0");
        tap.on_ready(false, false);
        tap.on_copy_in();
        tap.on_tag(b"COPY 9\0");
        tap.on_ready(false, false);
        for _ in 0..30 {
            send(&mut tap, &"x".repeat(1000), &["INSERT 0 1\0"]);
        }
        let noted = left_out(&mut tap);
        assert_eq!(noted.len(), STATEMENTS_MAX + 1);
        assert_eq!(noted[..2], ["UPDATE 1", "COPY 9"]);
        assert_eq!(noted[2].chars().count(), TEXT_LEN_MAX + 1);
        assert_eq!(noted[STATEMENTS_MAX], "and 12 more");
    }
}
