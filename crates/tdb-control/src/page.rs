//! Pagination of lists.

use std::num::NonZeroU32;

/// One page of a list: at most `limit` entries after the entry with the key `after`.
#[derive(Clone, Debug)]
pub struct Page<K> {
    /// The key of the last entry of the page before; `None` for the first page.
    pub after: Option<K>,
    /// The maximum number of entries.
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

/// The maximum number of entries of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(NonZeroU32);

impl Limit {
    /// The largest limit of a list. The API allows less, and reads one entry more than the request asks for.
    pub const MAX: u32 = 100_000;
    /// The limit of [`Page::default`].
    pub const DEFAULT: Limit = Limit(NonZeroU32::new(100).unwrap());

    /// `None` unless `limit` is between 1 and [`Limit::MAX`].
    pub fn new(limit: u32) -> Option<Self> {
        NonZeroU32::new(limit)
            .filter(|limit| limit.get() <= Self::MAX)
            .map(Self)
    }

    pub(crate) fn rows(self) -> i64 {
        i64::from(self.0.get())
    }
}
