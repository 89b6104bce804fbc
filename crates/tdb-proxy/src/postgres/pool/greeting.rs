//! What a server reports at login, as the messages that clients get: the values of some settings. Connections that were opened
//! at different times can have different ones, after ALTER ROLE or ALTER DATABASE.

use tdb_wire_postgres::backend::PARAMETER_STATUS;
use tdb_wire_postgres::frame::{Frame, Piece, Reader};

const FRAME_LEN_MAX: u32 = 64 * 1024;

/// The messages about settings that differ from those a client was told, except those that the client has set.
pub(crate) fn changes(told: &[u8], greeting: &[u8], set: &[(String, String)]) -> Vec<u8> {
    let mut known = Vec::new();
    for_each(told, |message| known.push(message.bytes.to_vec()));
    let mut out = Vec::new();
    for_each(greeting, |message| {
        let is_set = |name: &[u8]| set.iter().any(|(set, _)| name.eq_ignore_ascii_case(set.as_bytes()));
        if let Some((name, _)) = parameter(message)
            && !is_set(name)
            && !known.iter().any(|known| known == message.bytes)
        {
            out.extend_from_slice(message.bytes);
        }
    });
    out
}

fn parameter<'m>(message: &'m Frame<'_>) -> Option<(&'m [u8], &'m [u8])> {
    let mut parts = message.body().split(|byte| *byte == 0);
    let is_parameter = message.tag() == PARAMETER_STATUS;
    parts.next().zip(parts.next()).filter(|_| is_parameter)
}

/// Calls `take` with each message.
fn for_each(mut greeting: &[u8], mut take: impl FnMut(&Frame<'_>)) {
    let mut reader = Reader::with_read_len(FRAME_LEN_MAX);
    while let Ok(Piece::Frame(message)) = reader.next(&mut greeting, |_| true, drop) {
        take(&message);
    }
}

#[cfg(test)]
mod tests {
    use tdb_wire_postgres::backend::parameter_status;

    use super::*;

    fn greeting(parameters: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in parameters {
            parameter_status(&mut out, name, value);
        }
        out
    }

    #[test]
    fn a_client_is_told_what_differs_and_was_not_set_by_it() {
        let told = greeting(&[("TimeZone", "UTC"), ("DateStyle", "ISO"), ("IntervalStyle", "postgres")]);
        let now = greeting(&[
            ("TimeZone", "Asia/Tokyo"),
            ("DateStyle", "SQL"),
            ("IntervalStyle", "postgres"),
        ]);
        let set = [("datestyle".to_owned(), "German".to_owned())];
        assert_eq!(changes(&told, &now, &set), greeting(&[("TimeZone", "Asia/Tokyo")]));
        assert_eq!(changes(&told, &told, &[]), []);
    }
}
