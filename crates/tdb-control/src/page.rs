//! Parts of lists.

use std::num::NonZeroU32;

/// A part of a list: what comes after the entry with the key `after`, at most `limit` entries.
#[derive(Clone, Debug)]
pub struct Page<K> {
    pub after: Option<K>,
    pub limit: Limit,
}

impl<K> Default for Page<K> {
    fn default() -> Self {
        Self {
            after: None,
            limit: Limit::DEFAULT,
        }
    }
}

/// Most rows of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(NonZeroU32);

impl Limit {
    pub const MAX: u32 = 100_000;
    pub const DEFAULT: Limit = Limit(NonZeroU32::new(100).unwrap());

    /// 1 to [`Limit::MAX`].
    pub fn new(limit: u32) -> Option<Self> {
        NonZeroU32::new(limit)
            .filter(|limit| limit.get() <= Self::MAX)
            .map(Self)
    }

    pub(crate) fn rows(self) -> i64 {
        i64::from(self.0.get())
    }
}
