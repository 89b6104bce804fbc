//! A version's number in the forms that requests can use.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

const EXPECTED: &str = "a version such as 3, \"v3\" or \"3.0\"";

/// A version: `3`, `"3"`, `"v3"` or `"3.0"`; at least 1. Answers contain the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct VersionNumber(u32);

impl VersionNumber {
    /// The version's number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for VersionNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let bare = bare.strip_suffix(".0").unwrap_or(bare);
        let digits = bare.bytes().all(|byte| byte.is_ascii_digit());
        // The metadata store has versions as PostgreSQL's integer.
        let number = bare.parse::<i32>().ok().filter(|number| digits && *number > 0);
        let number = number.and_then(|number| u32::try_from(number).ok());
        number.map(Self).ok_or_else(|| format!("must be {EXPECTED}"))
    }
}

impl<'de> Deserialize<'de> for VersionNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Forms)
    }
}

struct Forms;

impl Visitor<'_> for Forms {
    type Value = VersionNumber;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<VersionNumber, E> {
        self.visit_str(&number.to_string())
    }

    /// JSON does not distinguish `3.0` from `3`.
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<VersionNumber, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<VersionNumber, E> {
        text.parse().map_err(E::custom)
    }
}

impl PartialSchema for VersionNumber {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int32)))
            .minimum(Some(1));
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[vV]?0*[1-9][0-9]{0,8}(\\.0)?$"));
        let forms = OneOfBuilder::new()
            .description(Some("`3`, `\"3\"`, `\"v3\"` or `\"3.0\"`"))
            .item(number)
            .item(text);
        RefOr::T(Schema::OneOf(forms.build()))
    }
}

impl ToSchema for VersionNumber {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_four_forms() {
        for form in ["3", "\"3\"", "\"v3\"", "\"3.0\"", "\"v3.0\"", "3.0"] {
            assert_eq!(serde_json::from_str::<VersionNumber>(form).unwrap().get(), 3, "{form}");
        }
        for wrong in [
            "0",
            "-1",
            "\"\"",
            "\"v\"",
            "\"3.1\"",
            "3.5",
            "\"+3\"",
            "\"3 \"",
            "true",
            "4294967296",
            "\"v0\"",
        ] {
            assert!(serde_json::from_str::<VersionNumber>(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            serde_json::to_string(&"v3".parse::<VersionNumber>().unwrap()).unwrap(),
            "3"
        );
    }
}
