//! The content of a request as a tree: a JSON body or a query string. Names are unique, text is UTF-8, and the depth is
//! limited. Typed values are read from it by [`crate::typed`].

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_json::error::Category;
use tdb_problems::ProblemCode;

use crate::refusal::{Answer, Refusal};

/// No valid request of this API is nested deeper than four levels.
const DEPTH_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Document {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Document>),
    Object(Vec<(String, Document)>),
    /// A value in a query string, where every scalar is text.
    Word(String),
}

/// Why valid JSON cannot be a request.
enum Fault {
    Duplicate(String),
    TooDeep,
}

impl Document {
    pub(crate) fn of_body(bytes: &[u8]) -> Answer<Self> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| malformed(format!("the body is not UTF-8 at byte {}", error.valid_up_to())))?;
        let fault = Cell::new(None);
        let mut reader = serde_json::Deserializer::from_str(text);
        let seed = Seed {
            depth: 0,
            fault: &fault,
        };
        let read = seed.deserialize(&mut reader).and_then(|document| {
            reader.end()?;
            Ok(document)
        });
        read.map_err(|error| match fault.take() {
            Some(Fault::Duplicate(name)) => {
                malformed(format!("the body has the field \"{name}\" more than once")).about(name)
            }
            Some(Fault::TooDeep) => malformed(format!("the body is nested deeper than {DEPTH_MAX} levels")),
            None => not_json(&error),
        })
    }

    /// Parses `application/x-www-form-urlencoded`, as in a URL's query.
    pub(crate) fn of_query(query: &str) -> Answer<Self> {
        let mut fields: Vec<(String, Document)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode =
                |text| decoded(text).ok_or_else(|| malformed("the query string is not UTF-8, percent-encoded"));
            let (name, value) = (decode(name)?, decode(value)?);
            if fields.iter().any(|(known, _)| *known == name) {
                let detail = format!("the query string has the parameter \"{name}\" more than once");
                return Err(malformed(detail).about(name));
            }
            fields.push((name, Document::Word(value)));
        }
        Ok(Document::Object(fields))
    }
}

fn malformed(detail: impl Into<String>) -> Refusal {
    Refusal::new(ProblemCode::MalformedRequest, detail)
}

fn not_json(error: &serde_json::Error) -> Refusal {
    malformed(match error.classify() {
        Category::Eof => "the body ends before its JSON value does".to_owned(),
        Category::Syntax | Category::Data | Category::Io => format!(
            "the body is not JSON at line {}, column {}",
            error.line(),
            error.column()
        ),
    })
}

/// `None` if the text is not percent-encoded UTF-8.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        (rest, _) = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits)
                    .ok()
                    .filter(|pair| !pair.starts_with('+'))?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                (after, ())
            }
            (b'%', _) => return None,
            (b'+', after) => (after, bytes.push(b' ')),
            (byte, after) => (after, bytes.push(*byte)),
        };
    }
    String::from_utf8(bytes).ok()
}

struct Seed<'a> {
    depth: usize,
    fault: &'a Cell<Option<Fault>>,
}

impl Seed<'_> {
    /// The seed for nested values; an error if they are nested too deep.
    fn within<E: de::Error>(&self) -> Result<Seed<'_>, E> {
        let depth = self.depth + 1;
        if depth > DEPTH_MAX {
            self.fault.set(Some(Fault::TooDeep));
            return Err(E::custom("too deep"));
        }
        Ok(Seed {
            depth,
            fault: self.fault,
        })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Document;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Document, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Document, E> {
        Ok(Document::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Document, E> {
        Ok(Document::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Document, E> {
        Ok(Document::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Document, E> {
        Ok(Document::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Document, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("not a finite number"))?;
        Ok(Document::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Document, E> {
        Ok(Document::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Document, E> {
        Ok(Document::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Document, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element_seed(self.within()?)? {
            entries.push(entry);
        }
        Ok(Document::List(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let (mut fields, mut names) = (Vec::new(), HashSet::new());
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                self.fault.set(Some(Fault::Duplicate(name)));
                return Err(A::Error::custom("duplicate"));
            }
            fields.push((name, map.next_value_seed(self.within()?)?));
        }
        Ok(Document::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_not_json_is_malformed_with_its_position() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let table: [(&[u8], &str); 10] = [
            (b"{", "ends before"),
            (b"", "ends before"),
            (b"{} x", "at line 1, column 4"),
            (b"{\"a\":1,}", "at line 1"),
            (b"{\"a\":1e999}", "at line 1"),
            (b"\"\\ud800\"", "at line 1"),
            (b"nul", "ends before"),
            (b"\"\xff\"", "not UTF-8 at byte 1"),
            (b"{\"a\":{\"b\":1,\"b\":2}}", "\"b\" more than once"),
            (deep.as_bytes(), "nested deeper than 16"),
        ];
        for (body, said) in table {
            let refusal = Document::of_body(body).unwrap_err();
            assert_eq!(refusal.code, ProblemCode::MalformedRequest);
            assert!(refusal.detail.contains(said), "{}", refusal.detail);
        }
    }

    #[test]
    fn a_query_string_is_decoded_strictly() {
        let word = |text: &str| Document::Word(text.to_owned());
        let fields = vec![("a".to_owned(), word("x y")), ("b c".to_owned(), word("ä"))];
        assert_eq!(
            Document::of_query("a=x+y&b%20c=%C3%A4").unwrap(),
            Document::Object(fields)
        );
        assert_eq!(Document::of_query("").unwrap(), Document::Object(Vec::new()));
        for wrong in ["a=%ff", "a=%4", "a=%zz", "a=%", "a=%+1", "a=1&a=2", "%ff=1"] {
            let refusal = Document::of_query(wrong).unwrap_err();
            assert_eq!(refusal.code, ProblemCode::MalformedRequest, "{wrong}");
        }
    }
}
