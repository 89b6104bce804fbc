//! Times in requests: RFC 3339, with an error message that shows an example.

use serde::de::{Deserialize, Deserializer, Error};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Deserializes an optional field.
pub(crate) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OffsetDateTime>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let parse = |text: String| OffsetDateTime::parse(&text, &Rfc3339);
    let time = text.map(parse).transpose();
    time.map_err(|_| D::Error::custom("must be a time such as 2030-01-31T00:00:00Z (RFC 3339)"))
}
