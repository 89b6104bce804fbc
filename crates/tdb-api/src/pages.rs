//! Pages of lists: `?limit=&cursor=`. A cursor is the sort key of the last entry seen, so a page stays right when entries
//! before it come or go.

use serde::Deserialize;
use tdb_control::Limit;
use time::OffsetDateTime;
use utoipa::IntoParams;

use crate::refusal::{Answer, Refusal};

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// Most entries of a page: 1 to 1000, by default 100.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl PageParams {
    fn limit(&self) -> Answer<usize> {
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        let fits = usize::try_from(limit).ok().filter(|_| (1..=LIMIT_MAX).contains(&limit));
        fits.ok_or_else(|| Refusal::invalid("limit", format!("must be 1 to {LIMIT_MAX}")))
    }

    /// Orders `entries` by `key`, and gives the page and the next page's cursor. Keys are unique within a list.
    pub fn cut<T>(&self, mut entries: Vec<T>, key: impl Fn(&T) -> String) -> Answer<(Vec<T>, Option<String>)> {
        let limit = self.limit()?;
        if let Some(cursor) = &self.cursor {
            entries.retain(|entry| key(entry) > *cursor);
        }
        entries.sort_by_cached_key(&key);
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next = entries.last().filter(|_| more).map(key);
        Ok((entries, next))
    }
}

/// What a page is cut from.
pub fn everything() -> Limit {
    Limit::new(Limit::MAX).unwrap_or(Limit::DEFAULT)
}

/// A sort key that puts older entries first.
pub fn oldest_first(time: OffsetDateTime, id: impl std::fmt::Display) -> String {
    format!("{:020}.{id}", time.unix_timestamp_nanos() / 1000)
}

/// A sort key that puts newer entries first.
pub fn newest_first(time: OffsetDateTime, id: impl std::fmt::Display) -> String {
    let backwards = i128::from(i64::MAX).saturating_sub(time.unix_timestamp_nanos() / 1000);
    format!("{backwards:020}.{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: u32, cursor: Option<String>) -> PageParams {
        PageParams {
            limit: Some(limit),
            cursor,
        }
    }

    #[test]
    fn pages_put_together_are_the_whole_list_even_when_an_entry_goes() {
        let mut entries = vec!["c", "a", "e", "b", "d"];
        let (first, cursor) = page(2, None).cut(entries.clone(), |e| (*e).to_owned()).unwrap();
        assert_eq!((first, cursor.as_deref()), (vec!["a", "b"], Some("b")));
        entries.retain(|entry| *entry != "b");
        let (rest, cursor) = page(3, cursor).cut(entries, |e| (*e).to_owned()).unwrap();
        assert_eq!((rest, cursor), (vec!["c", "d", "e"], None));
    }

    #[test]
    fn a_limit_out_of_range_is_refused_by_name() {
        for limit in [0, 1001] {
            let refusal = page(limit, None).cut(vec!["a"], |e| (*e).to_owned()).unwrap_err();
            assert_eq!(refusal.more.field.as_deref(), Some("limit"));
        }
    }

    #[test]
    fn time_keys_order_both_ways() {
        let (old, new) = (
            OffsetDateTime::UNIX_EPOCH,
            OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000),
        );
        assert!(oldest_first(old, 1) < oldest_first(new, 1));
        assert!(newest_first(new, 1) < newest_first(old, 1));
    }
}
