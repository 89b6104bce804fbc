//! Pages of lists: `?limit=&cursor=`. A cursor is the sort key of the last entry of a page, so the next page is correct
//! even if earlier entries are added or removed.

use std::str::FromStr;

use serde::Deserialize;
use tdb_control::{Limit, Page};
use time::OffsetDateTime;
use utoipa::IntoParams;

use crate::refusal::{Answer, Refusal};

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageParams {
    /// The maximum number of entries per page: 1 to 1000, by default 100.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// The `next_cursor` of the previous page.
    pub cursor: Option<String>,
}

impl PageParams {
    /// A page of entries that are sorted by a name or a number.
    pub(crate) fn by_key<K: FromStr>(&self) -> Answer<Page<K>> {
        self.page(|cursor| cursor.parse().ok())
    }

    /// A page of entries that are sorted by [`oldest_first`].
    pub(crate) fn by_age<I: FromStr>(&self) -> Answer<Page<(OffsetDateTime, I)>> {
        self.page(|cursor| {
            let (micros, id) = split(cursor)?;
            Some((moment(micros)?, id))
        })
    }

    /// A page of entries that are sorted by [`newest_first`].
    pub(crate) fn by_news<I: FromStr>(&self) -> Answer<Page<(OffsetDateTime, I)>> {
        self.page(|cursor| {
            let (micros, id) = split(cursor)?;
            Some((moment(i64::MAX.checked_sub(micros)?)?, id))
        })
    }

    /// One entry more than the page shows, to know whether there is another page.
    fn page<K>(&self, parse: impl Fn(&str) -> Option<K>) -> Answer<Page<K>> {
        let after = self.cursor.as_deref().map(|cursor| {
            let foreign = || Refusal::invalid("cursor", "is not a next_cursor of this list");
            parse(cursor).ok_or_else(foreign)
        });
        let rows = self.limit()?.saturating_add(1);
        Ok(Page {
            after: after.transpose()?,
            limit: Limit::new(rows).unwrap_or(Limit::DEFAULT),
        })
    }

    fn limit(&self) -> Answer<u32> {
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        let fits = (1..=LIMIT_MAX).contains(&limit);
        let refused = || Refusal::invalid("limit", format!("must be 1 to {LIMIT_MAX}"));
        fits.then_some(limit).ok_or_else(refused)
    }

    /// The page, and the cursor of the next page. `entries` are those that were requested.
    pub(crate) fn cut<T>(&self, mut entries: Vec<T>, key: impl Fn(&T) -> String) -> Answer<(Vec<T>, Option<String>)> {
        let limit = usize::try_from(self.limit()?).unwrap_or(usize::MAX);
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next = entries.last().filter(|_| more).map(key);
        Ok((entries, next))
    }

    /// The same for a complete list, which is sorted by its keys; these are unique.
    pub(crate) fn cut_whole<T>(
        &self,
        mut entries: Vec<T>,
        key: impl Fn(&T) -> String,
    ) -> Answer<(Vec<T>, Option<String>)> {
        if let Some(cursor) = &self.cursor {
            entries.retain(|entry| key(entry) > *cursor);
        }
        entries.sort_by_cached_key(&key);
        self.cut(entries, key)
    }
}

fn split<I: FromStr>(cursor: &str) -> Option<(i64, I)> {
    let (micros, id) = cursor.split_once('.')?;
    Some((micros.parse().ok()?, id.parse().ok()?))
}

fn moment(micros: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok()
}

/// A sort key that puts older entries first.
pub(crate) fn oldest_first(time: OffsetDateTime, id: impl std::fmt::Display) -> String {
    format!("{:020}.{id}", time.unix_timestamp_nanos() / 1000)
}

/// A sort key that puts newer entries first.
pub(crate) fn newest_first(time: OffsetDateTime, id: impl std::fmt::Display) -> String {
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
        let (first, cursor) = page(2, None).cut_whole(entries.clone(), |e| (*e).to_owned()).unwrap();
        assert_eq!((first, cursor.as_deref()), (vec!["a", "b"], Some("b")));
        entries.retain(|entry| *entry != "b");
        let (rest, cursor) = page(3, cursor).cut_whole(entries, |e| (*e).to_owned()).unwrap();
        assert_eq!((rest, cursor), (vec!["c", "d", "e"], None));
    }

    #[test]
    fn one_more_is_asked_for_than_is_shown() {
        let params = page(2, Some("b".to_owned()));
        let asked: Page<String> = params.by_key().unwrap();
        assert_eq!(
            (asked.after.as_deref(), asked.limit),
            (Some("b"), Limit::new(3).unwrap())
        );
        let (shown, next) = params.cut(vec!["c", "d", "e"], |e| (*e).to_owned()).unwrap();
        assert_eq!((shown, next.as_deref()), (vec!["c", "d"], Some("d")));
        let (shown, next) = params.cut(vec!["c", "d"], |e| (*e).to_owned()).unwrap();
        assert_eq!((shown, next), (vec!["c", "d"], None));
    }

    #[test]
    fn a_limit_out_of_range_or_a_foreign_cursor_is_refused_by_name() {
        for limit in [0, 1001] {
            let refusal = page(limit, None).by_key::<String>().unwrap_err();
            assert_eq!(refusal.more.field.as_deref(), Some("limit"));
        }
        for cursor in ["", "x", "1", "x.1", "99999999999999999999.1"] {
            let refusal = page(1, Some(cursor.to_owned())).by_age::<u32>().unwrap_err();
            assert_eq!(refusal.more.field.as_deref(), Some("cursor"), "{cursor}");
        }
    }

    #[test]
    fn a_time_comes_back_from_its_cursor() {
        let at = OffsetDateTime::UNIX_EPOCH + time::Duration::microseconds(1_764_000_000_123_456);
        let from = |cursor: String| page(1, Some(cursor));
        assert_eq!(from(oldest_first(at, 7)).by_age::<u32>().unwrap().after, Some((at, 7)));
        assert_eq!(from(newest_first(at, 7)).by_news::<u32>().unwrap().after, Some((at, 7)));
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
