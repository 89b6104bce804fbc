//! Splits, matches and renders the rows of a journal whose message is any text. There must be no panic and at most one change
//! for one transaction.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tdb_engines::postgres::capture::changes;
use tdb_engines::postgres::journal::{Begun, Caller, Event, EventKind, EventState, Message, Object};
use time::OffsetDateTime;

fuzz_target!(|text: &str| {
    let now = OffsetDateTime::UNIX_EPOCH;
    let message = Arc::new(Message {
        pid: 1,
        backend_start: now,
        sent_at: now,
        query: text.to_owned(),
    });
    let row = |seq, kind, tag: &str, object: &str, identity: &str| Event {
        seq,
        xid: 7,
        message: Arc::clone(&message),
        begun: Some(Begun::Here),
        kind,
        tag: tag.to_owned(),
        objects: vec![Object {
            kind: Some(object.to_owned()),
            schema: Some("public".to_owned()),
            identity: Some(identity.to_owned()),
            ..Object::default()
        }],
        caller: Caller::Client,
        temporary: Vec::new(),
        search_path: "\"$user\", public".to_owned(),
        session_role: "r_owner".to_owned(),
        settings: BTreeMap::new(),
        state: EventState::New,
    };
    let rows = [
        row(1, EventKind::End, "CREATE TABLE", "table", "public.t"),
        row(2, EventKind::End, "ALTER TABLE", "table", "public.t"),
        row(3, EventKind::Drop, "DROP TABLE", "table", "public.u"),
    ];
    for len in 1..=rows.len() {
        let found = changes(&rows[..len], "r_owner");
        assert!(found.len() <= 1, "one transaction, one change");
    }
});
