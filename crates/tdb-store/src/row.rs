//! Conversion of columns to types. A value that does not parse was not written by this code, and is an error.

use std::str::FromStr;

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::error::StoreError;

pub(crate) fn column<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, StoreError> {
    row.try_get(name).map_err(|_| StoreError::corrupt(name))
}

/// A text column, parsed.
pub(crate) fn parsed<T: FromStr>(row: &Row, name: &str) -> Result<T, StoreError> {
    let text: &str = column(row, name)?;
    text.parse().map_err(|_| StoreError::corrupt(name))
}

/// A count, which the schema constrains to be at least zero.
pub(crate) fn count(row: &Row, name: &str) -> Result<u32, StoreError> {
    u32::try_from(column::<i32>(row, name)?).map_err(|_| StoreError::corrupt(name))
}

/// The `count(*)` of a query.
pub(crate) fn total(row: &Row, name: &str) -> Result<u32, StoreError> {
    u32::try_from(column::<i64>(row, name)?).map_err(|_| StoreError::corrupt(name))
}

/// Defines an enum whose variants are stored as words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// All variants.
            pub const ALL: &'static [Self] = &[$($name::$variant),+];

            /// The word that is stored in the table.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::error::StoreError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err($crate::error::StoreError::corrupt(stringify!($name))),
                }
            }
        }
    };
}
pub(crate) use words;

pub(crate) fn number(value: u32) -> Result<i32, StoreError> {
    i32::try_from(value).map_err(|_| StoreError::corrupt("number"))
}

pub(crate) fn numbers(values: &[u32]) -> Result<Vec<i32>, StoreError> {
    values.iter().map(|value| number(*value)).collect()
}

/// An `int[]` column of counts.
pub(crate) fn counts(row: &Row, name: &str) -> Result<Vec<u32>, StoreError> {
    let values: Vec<i32> = column(row, name)?;
    let parsed: Result<Vec<u32>, _> = values.into_iter().map(u32::try_from).collect();
    parsed.map_err(|_| StoreError::corrupt(name))
}
