//! Groups the journal rows of a message into units: the one or two rows of one executed statement.

use crate::postgres::ident::{parts, unquoted};
use crate::postgres::journal::{Event, EventKind};

/// The rows of one executed statement: its row and, if there is a second one, the row of the objects that it dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit<'a> {
    pub row: &'a Event,
    pub dropped: Option<&'a Event>,
}

/// `sql_drop` fires before `ddl_command_end` of the same statement; a plain DROP has only the first.
pub(super) fn gather<'a>(rows: &[&'a Event]) -> Vec<Unit<'a>> {
    let mut units: Vec<Unit<'a>> = Vec::with_capacity(rows.len());
    let mut rows = rows.iter().peekable();
    while let Some(row) = rows.next() {
        let same = |next: &&&Event| row.kind == EventKind::Drop && next.kind == EventKind::End && next.tag == row.tag;
        match rows.next_if(|next| same(next)) {
            Some(end) => units.push(Unit {
                row: end,
                dropped: Some(row),
            }),
            None => units.push(Unit { row, dropped: None }),
        }
    }
    units
}

impl<'a> Unit<'a> {
    /// The identities of the objects that it created, altered or dropped.
    pub(super) fn identities(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let dropped = self.dropped.into_iter().flat_map(|row| row.objects.iter());
        let own = self.row.objects.iter();
        own.chain(dropped).filter_map(|object| object.identity.as_deref())
    }

    /// The names of its objects and of what contains them.
    pub(super) fn names(&self) -> Vec<String> {
        self.identities().flat_map(components).collect()
    }
}

/// The names in an identity such as `public."My Table"`, `trg on public.t`, `f(integer)`.
pub(super) fn components(identity: &str) -> impl Iterator<Item = String> {
    let names = parts(identity, &[".", "(", ")", ",", " "]).into_iter().map(unquoted);
    names.filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_fall_apart_into_names() {
        let parts = |identity| components(identity).collect::<Vec<_>>();
        assert_eq!(parts(r#"public."My.Table""#), ["public", "My.Table"]);
        assert_eq!(parts("trg on public.t"), ["trg", "on", "public", "t"]);
        assert_eq!(parts(r#"s.f(integer,"a""b")"#), ["s", "f", "integer", "a\"b"]);
    }
}
