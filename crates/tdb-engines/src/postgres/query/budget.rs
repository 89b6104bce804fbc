//! Bounds the memory that the results of several queries use together.

use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

/// The memory, in bytes, that the results of several queries may use together. It is an estimate: the bytes of the rows as
/// received from the server, and the size of the values that contain them.
#[derive(Debug)]
pub struct ResultBudget {
    left: AtomicUsize,
}

impl ResultBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Arc<Self> {
        let left = AtomicUsize::new(bytes);
        Arc::new(Self { left })
    }

    fn take(&self, bytes: usize) -> bool {
        let rest = |left: usize| left.checked_sub(bytes);
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        taken.is_ok()
    }
}

/// What one result has taken from the budget. It is given back when the result is discarded.
pub(super) struct Share {
    budget: Arc<ResultBudget>,
    taken: usize,
}

impl Share {
    pub(super) fn of(budget: &Arc<ResultBudget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            taken: 0,
        }
    }

    /// Takes the memory of a row of `len` bytes and `columns` values; `false` if that is more than is left.
    pub(super) fn takes_row(&mut self, len: usize, columns: usize) -> bool {
        self.takes(len.saturating_add(columns.saturating_mul(size_of::<Value>())))
    }

    /// Takes the memory that the escapes of JSON add to these values; `false` if that is more than is left.
    pub(super) fn takes_escapes(&mut self, row: &[Value]) -> bool {
        let added = row
            .iter()
            .filter_map(Value::as_str)
            .flat_map(str::bytes)
            .map(|byte| match byte {
                // As long as \u0001, or shorter.
                0..0x20 => 5,
                b'"' | b'\\' => 1,
                _ => 0,
            });
        self.takes(added.sum())
    }

    /// Takes the memory of the descriptions of columns, `lens` bytes each; `false` if that is more than is left.
    pub(super) fn takes_columns(&mut self, lens: impl Iterator<Item = usize>) -> bool {
        self.takes(lens.sum())
    }

    /// The result is kept as long as the budget is used.
    pub(super) fn keep(mut self) {
        self.taken = 0;
    }

    fn takes(&mut self, bytes: usize) -> bool {
        let has_room = self.budget.take(bytes);
        if has_room {
            self.taken += bytes;
        }
        has_room
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discarded_result_gives_its_memory_back_and_a_kept_one_does_not() {
        let budget = ResultBudget::new(100);
        let (mut first, mut second) = (Share::of(&budget), Share::of(&budget));
        assert!(first.takes_row(60, 0) && !second.takes_row(60, 0) && second.takes_row(40, 0));
        drop(first);
        assert!(second.takes_row(60, 0) && !second.takes_row(1, 0));
        second.keep();
        assert!(!Share::of(&budget).takes_row(1, 0));
    }

    #[test]
    fn what_json_escapes_takes_more_memory() {
        let budget = ResultBudget::new(11);
        let mut share = Share::of(&budget);
        let mut takes = |text: &str| share.takes_escapes(&[Value::Null, text.into()]);
        assert!(takes("\u{1}\u{1f}\"a"));
        assert!(takes("plain") && !takes("\\"));
    }

    #[test]
    fn a_row_of_many_empty_values_counts_with_its_values() {
        let budget = ResultBudget::new(1_000);
        assert!(!Share::of(&budget).takes_row(2 + 4 * 100, 100));
    }
}
