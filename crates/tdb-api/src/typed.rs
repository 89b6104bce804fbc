//! Reads typed values from a [`Document`]. A value that does not fit is refused with its path and its rule, in the
//! terms of JSON: serde's own messages name Rust types and are never shown.

use std::fmt::{self, Display};

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use tdb_problems::ProblemCode;

use crate::document::Document;
use crate::refusal::{Answer, Refusal};

const MUST_BE_OBJECT: &str = "must be an object";
const MUST_BE_LIST: &str = "must be a list";
const MUST_BE_STRING: &str = "must be a string";
const MUST_BE_BOOL: &str = "must be true or false";
const MUST_BE_NUMBER: &str = "must be a number";
const NO_NUL: &str = "must not contain the character U+0000";

/// Reads a whole body.
pub(crate) fn of_body<T: DeserializeOwned>(document: &Document) -> Answer<T> {
    T::deserialize(Value(document)).map_err(|misfit| misfit.refusal("the body", "field", ProblemCode::UnknownField))
}

/// Reads all parameters of a query string.
pub(crate) fn of_query<T: DeserializeOwned>(document: &Document) -> Answer<T> {
    let refusal = |misfit: Misfit| misfit.refusal("the query string", "parameter", ProblemCode::UnknownParameter);
    T::deserialize(Value(document)).map_err(refusal)
}

/// What does not fit, and where: the path from the value up to the root.
#[derive(Debug)]
struct Misfit {
    steps: Vec<Step>,
    what: What,
}

#[derive(Debug)]
enum Step {
    Field(String),
    Entry(usize),
}

#[derive(Debug)]
enum What {
    Unknown {
        name: String,
        known: &'static [&'static str],
    },
    Missing,
    Breaks(String),
}

impl Misfit {
    fn breaks(rule: impl Into<String>) -> Self {
        Self {
            steps: Vec::new(),
            what: What::Breaks(rule.into()),
        }
    }

    fn at(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for step in self.steps.iter().rev() {
            match step {
                Step::Field(name) if path.is_empty() => path.push_str(name),
                Step::Field(name) => path.push_str(&format!(".{name}")),
                Step::Entry(at) => path.push_str(&format!("[{at}]")),
            }
        }
        path
    }

    fn refusal(self, whole: &str, part: &str, unknown: ProblemCode) -> Refusal {
        let path = self.path();
        match self.what {
            What::Unknown { name, known } => {
                let place = if path.is_empty() {
                    String::new()
                } else {
                    format!(" in \"{path}\"")
                };
                let mut refusal = Refusal::new(unknown, format!("unknown {part} \"{name}\"{place}")).about(&name);
                if !known.is_empty() {
                    refusal = refusal.hint(format!("Known {part}s: {}.", quoted(known)));
                }
                refusal
            }
            What::Missing => Refusal::invalid(path, "is missing"),
            What::Breaks(rule) if path.is_empty() => Refusal::new(ProblemCode::InvalidValue, format!("{whole} {rule}")),
            What::Breaks(rule) => Refusal::invalid(path, rule),
        }
    }
}

fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    words.join(", ")
}

fn one_of(words: &[&str]) -> String {
    match words {
        [only] => format!("must be \"{only}\""),
        several => format!("must be one of {}", quoted(several)),
    }
}

/// Errors of visitors. `expected` is shown only in the form that visitors of this project's types write.
impl de::Error for Misfit {
    fn custom<T: Display>(rule: T) -> Self {
        Self::breaks(rule.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::breaks(format!("must be {expected}"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::breaks(format!("must be {expected}"))
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::breaks(format!("must be {expected}"))
    }

    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Self {
        Self::breaks(one_of(known))
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        let name = name.to_owned();
        Self {
            steps: Vec::new(),
            what: What::Unknown { name, known },
        }
    }

    fn missing_field(name: &'static str) -> Self {
        Self {
            steps: vec![Step::Field(name.to_owned())],
            what: What::Missing,
        }
    }

    fn duplicate_field(name: &'static str) -> Self {
        Self::breaks("is given more than once").at(Step::Field(name.to_owned()))
    }
}

impl Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not fit", self.path())
    }
}

impl std::error::Error for Misfit {}

/// A part of a document, to be deserialized.
#[derive(Clone, Copy)]
struct Value<'de>(&'de Document);

impl<'de> Value<'de> {
    fn text(self) -> Result<&'de str, Misfit> {
        match self.0 {
            Document::Text(text) | Document::Word(text) if text.contains('\0') => Err(Misfit::breaks(NO_NUL)),
            Document::Text(text) | Document::Word(text) => Ok(text),
            _ => Err(Misfit::breaks(MUST_BE_STRING)),
        }
    }

    /// JSON has only one kind of number: `1.0` is a whole number.
    fn whole(self) -> Option<i128> {
        match self.0 {
            Document::Number(number) => {
                let whole = number
                    .as_i64()
                    .map(i128::from)
                    .or_else(|| number.as_u64().map(i128::from));
                whole.or_else(|| {
                    let float = number
                        .as_f64()
                        .filter(|float| float.fract() == 0.0 && float.abs() < 1e15)?;
                    format!("{float}").parse().ok()
                })
            }
            Document::Word(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn integer<T: TryFrom<i128>>(self, least: impl Display, most: impl Display) -> Result<T, Misfit> {
        let fits = self.whole().and_then(|whole| T::try_from(whole).ok());
        fits.ok_or_else(|| Misfit::breaks(format!("must be a whole number from {least} to {most}")))
    }

    fn fields<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Document::Object(fields) => visitor.visit_map(Fields {
                rest: fields.iter(),
                at: None,
            }),
            _ => Err(Misfit::breaks(MUST_BE_OBJECT)),
        }
    }

    fn entries<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Document::List(entries) => visitor.visit_seq(Entries {
                rest: entries.iter().enumerate(),
            }),
            _ => Err(Misfit::breaks(MUST_BE_LIST)),
        }
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
            visitor.$visit(self.integer::<$type>(<$type>::MIN, <$type>::MAX)?)
        })+
    };
}

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = Misfit;

    integers! {
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Document::Null => visitor.visit_unit(),
            Document::Bool(value) => visitor.visit_bool(*value),
            Document::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (None, Some(value), _) => visitor.visit_i64(value),
                (None, None, Some(value)) => visitor.visit_f64(value),
                (None, None, None) => Err(Misfit::breaks(MUST_BE_NUMBER)),
            },
            Document::Text(_) | Document::Word(_) => visitor.visit_borrowed_str(self.text()?),
            Document::List(_) => self.entries(visitor),
            Document::Object(_) => self.fields(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Document::Bool(value) => visitor.visit_bool(*value),
            Document::Word(text) if text == "true" || text == "false" => visitor.visit_bool(text == "true"),
            _ => Err(Misfit::breaks(MUST_BE_BOOL)),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let number = match self.0 {
            Document::Number(number) => number.as_f64(),
            Document::Word(text) => text.parse().ok(),
            _ => None,
        };
        visitor.visit_f64(number.ok_or_else(|| Misfit::breaks(MUST_BE_NUMBER))?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Document::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.entries(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.fields(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.fields(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        let word = self.text().map_err(|_| Misfit::breaks(one_of(words)))?;
        visitor.visit_enum(Word(word))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { char bytes byte_buf unit unit_struct tuple tuple_struct identifier }
}

struct Fields<'de> {
    rest: std::slice::Iter<'de, (String, Document)>,
    at: Option<(&'de str, &'de Document)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        let Some((name, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.at = Some((name, value));
        seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let (name, value) = self.at.take().ok_or_else(|| Misfit::breaks(MUST_BE_OBJECT))?;
        let read = seed.deserialize(Value(value));
        read.map_err(|misfit| misfit.at(Step::Field(name.to_owned())))
    }
}

struct Entries<'de> {
    rest: std::iter::Enumerate<std::slice::Iter<'de, Document>>,
}

impl<'de> SeqAccess<'de> for Entries<'de> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        let Some((at, entry)) = self.rest.next() else {
            return Ok(None);
        };
        let read = seed.deserialize(Value(entry));
        read.map(Some).map_err(|misfit| misfit.at(Step::Entry(at)))
    }
}

/// A variant of an enum; variants in requests have no content.
struct Word<'de>(&'de str);

impl<'de> EnumAccess<'de> for Word<'de> {
    type Error = Misfit;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Misfit> {
        let word: StrDeserializer<'_, Misfit> = StrDeserializer::new(self.0);
        Ok((seed.deserialize(word)?, self))
    }
}

impl<'de> VariantAccess<'de> for Word<'de> {
    type Error = Misfit;

    fn unit_variant(self) -> Result<(), Misfit> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Misfit> {
        Err(Misfit::breaks(MUST_BE_OBJECT))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Misfit> {
        Err(Misfit::breaks(MUST_BE_OBJECT))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Misfit> {
        Err(Misfit::breaks(MUST_BE_OBJECT))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use tdb_client::credentials::CreateCredential;
    use tdb_client::tenants::CreateTenant;

    use super::*;

    fn refused<T: DeserializeOwned>(body: &str) -> Refusal {
        let read = Document::of_body(body.as_bytes()).and_then(|document| of_body::<T>(&document));
        read.err().unwrap_or_else(|| panic!("{body} was read"))
    }

    #[test]
    fn a_wrong_body_is_refused_by_field_and_rule() {
        let invalid = ProblemCode::InvalidValue;
        let table = [
            ("[]", invalid, None, "the body must be an object"),
            ("null", invalid, None, "the body must be an object"),
            ("\"x\"", invalid, None, "the body must be an object"),
            ("{}", invalid, Some("tenant_id"), "\"tenant_id\" is missing"),
            (
                r#"{"tenant_id":"a"}"#,
                invalid,
                Some("databases"),
                "\"databases\" is missing",
            ),
            (
                r#"{"tenant_id":1,"databases":[]}"#,
                invalid,
                Some("tenant_id"),
                "\"tenant_id\" must be a string",
            ),
            (
                r#"{"tenant_id":"a\u0000","databases":[]}"#,
                invalid,
                Some("tenant_id"),
                "\"tenant_id\" must not contain the character U+0000",
            ),
            (
                r#"{"tenant":"a"}"#,
                ProblemCode::UnknownField,
                Some("tenant"),
                "unknown field \"tenant\"",
            ),
            (
                r#"{"tenant_id":"a","databases":{}}"#,
                invalid,
                Some("databases"),
                "\"databases\" must be a list",
            ),
            (
                r#"{"tenant_id":"a","databases":["b"]}"#,
                invalid,
                Some("databases[0]"),
                "\"databases[0]\" must be an object",
            ),
            (
                r#"{"tenant_id":"a","databases":[{"blueprnt":"b"}]}"#,
                ProblemCode::UnknownField,
                Some("blueprnt"),
                "unknown field \"blueprnt\" in \"databases[0]\"",
            ),
            (
                r#"{"tenant_id":"a","databases":[{}]}"#,
                invalid,
                Some("databases[0].blueprint"),
                "\"databases[0].blueprint\" is missing",
            ),
            (
                r#"{"tenant_id":"a","databases":[{"blueprint":"b","isolation_level":-1}]}"#,
                invalid,
                Some("databases[0].isolation_level"),
                "\"databases[0].isolation_level\" must be a whole number from 0 to 4294967295",
            ),
            (
                r#"{"tenant_id":"a","databases":[{"blueprint":"b","isolation_level":99999999999999999999999}]}"#,
                invalid,
                Some("databases[0].isolation_level"),
                "\"databases[0].isolation_level\" must be a whole number from 0 to 4294967295",
            ),
        ];
        for (body, code, field, detail) in table {
            let refusal = refused::<CreateTenant>(body);
            assert_eq!((refusal.code, refusal.more.field.as_deref()), (code, field), "{body}");
            assert_eq!(refusal.detail, detail);
        }
    }

    #[test]
    fn words_times_and_whole_numbers_have_rules_of_their_own() {
        let refusal = refused::<CreateCredential>(r#"{"tenant_id":"a","rights":"rx"}"#);
        assert_eq!(refusal.detail, "\"rights\" must be one of \"rw\", \"ro\"");
        let refusal = refused::<CreateCredential>(r#"{"tenant_id":"a","rights":{"ro":1}}"#);
        assert_eq!(refusal.detail, "\"rights\" must be one of \"rw\", \"ro\"");
        for time in ["\"tomorrow\"", "1", "\"2030-01-31\"", "[]"] {
            let refusal = refused::<CreateCredential>(&format!(r#"{{"tenant_id":"a","expires_at":{time}}}"#));
            assert!(
                refusal.detail.starts_with("\"expires_at\" must be a "),
                "{}",
                refusal.detail
            );
        }
        let whole = r#"{"tenant_id":"a","databases":[{"blueprint":"b","isolation_level":1.0}]}"#;
        let whole: CreateTenant = of_body(&Document::of_body(whole.as_bytes()).unwrap()).unwrap();
        assert_eq!(whole.databases[0].isolation_level, Some(1));
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Params {
        limit: Option<u32>,
        #[serde(default)]
        hard: bool,
    }

    #[test]
    fn parameters_are_read_from_their_text() {
        let read = |query: &str| of_query::<Params>(&Document::of_query(query).unwrap());
        let params = read("limit=3&hard=true").unwrap();
        assert_eq!((params.limit, params.hard), (Some(3), true));
        for (query, detail) in [
            ("limit=x", "\"limit\" must be a whole number from 0 to 4294967295"),
            ("limit=", "\"limit\" must be a whole number from 0 to 4294967295"),
            ("hard=1", "\"hard\" must be true or false"),
            ("soft=1", "unknown parameter \"soft\""),
        ] {
            assert_eq!(read(query).unwrap_err().detail, detail);
        }
    }
}
