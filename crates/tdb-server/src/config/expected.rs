//! What the value of an option must be, for error messages. The messages of the deserializer name types of Rust ("expected a
//! nonzero u32"), so they are not shown.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use tdb_names::{ServerName, TlsMode};
use toml::{Table, Value};

use super::{ClientTlsMode, LogFormat, PoolMode, PublicAddress};

/// A type of option values.
pub(crate) trait OptionValue: DeserializeOwned {
    /// Completes the sentence "must be …".
    const EXPECTED: &'static str;
}

/// Converts `value`. The error is the predicate of a sentence about the key.
pub(super) fn read<T: OptionValue>(value: Value) -> Result<T, String> {
    let given = given(&value);
    value
        .try_into()
        .map_err(|_| format!("must be {}, not {given}", T::EXPECTED))
}

/// The value as in the document; for lists and tables, which can be long, only the type.
fn given(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        Value::String(_) | Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {
            value.to_string()
        }
    }
}

macro_rules! expected {
    ($($option:ty: $expected:literal;)*) => {
        $(impl OptionValue for $option {
            const EXPECTED: &'static str = $expected;
        })*
    };
}

expected! {
    bool: "true or false";
    NonZeroU16: "a port number from 1 to 65535";
    NonZeroU32: "a whole number from 1 to 4294967295";
    NonZeroUsize: "a whole number from 6";
    String: "text in quotes";
    PathBuf: "the path of a file in quotes";
    Vec<String>: "a list of names in quotes, such as [\"postgis\", \"vector\"]";
    SocketAddr: "an IP address and a port in quotes, such as \"127.0.0.1:6432\"";
    PublicAddress: "a host and a port in quotes, such as \"db.example.com:6432\"";
    ServerName: "a name of at most 40 lower-case letters, digits, \"-\" and \"_\" in quotes";
    ClientTlsMode: "\"disable\", \"prefer\" or \"require\"";
    PoolMode: "\"session\" or \"auto\"";
    TlsMode: "\"disable\", \"prefer\", \"require\", \"verify-ca\" or \"verify-full\"";
    LogFormat: "\"text\" or \"json\"";
    Table: "a table such as [proxy]";
    Vec<Table>: "tables such as [[servers]]";
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::reader::Kind;
    use super::super::reference::options;
    use super::super::{Config, Problem};

    /// The problems of a document with the line `KEY = VALUE` in the section of `key`, apart from those about missing keys.
    fn problems(key: &str, value: &str) -> Vec<String> {
        let section = match key.rsplit_once('.') {
            None => String::new(),
            Some(("servers[0]", _)) => "[[servers]]".to_owned(),
            Some((section, _)) => format!("[{section}]"),
        };
        let name = key.rsplit('.').next().unwrap_or(key);
        let text = format!("{section}\n{name} = {value}");
        let error = Config::parse(&text, Path::new("/proxy.toml"), &|_| None).unwrap_err();
        let problems = error.problems.iter().map(Problem::to_string);
        problems.filter(|problem| !problem.contains(": is missing")).collect()
    }

    #[test]
    fn a_wrong_value_is_answered_with_what_the_key_expects() {
        let cases = [
            ("api.signup", "\"yes\"", "true or false, not \"yes\""),
            ("servers[0].port", "0", "a port number from 1 to 65535, not 0"),
            ("servers[0].port", "70000", "a port number from 1 to 65535, not 70000"),
            ("proxy.clients_max", "0", "a whole number from 1 to 4294967295, not 0"),
            ("proxy.clients_max", "-1", "a whole number from 1 to 4294967295, not -1"),
            (
                "proxy.clients_max",
                "4294967296",
                "a whole number from 1 to 4294967295, not 4294967296",
            ),
            (
                "proxy.database_clients_max",
                "1.5",
                "a whole number from 1 to 4294967295, not 1.5",
            ),
            (
                "proxy.database_clients_max",
                "\"many\"",
                "a whole number from 1 to 4294967295, not \"many\"",
            ),
            ("store.connections_max", "0", "a whole number from 6, not 0"),
            ("servers[0].host", "5", "text in quotes, not 5"),
            ("proxy.tls.key", "true", "the path of a file in quotes, not true"),
            (
                "servers[0].extensions",
                "\"vector\"",
                "a list of names in quotes, such as [\"postgis\", \"vector\"], not \"vector\"",
            ),
            (
                "metrics.listen",
                "9877",
                "an IP address and a port in quotes, such as \"127.0.0.1:6432\", not 9877",
            ),
            (
                "proxy.public_address",
                "[]",
                "a host and a port in quotes, such as \"db.example.com:6432\", not a list",
            ),
            (
                "servers[0].name",
                "\"Main\"",
                "a name of at most 40 lower-case letters, digits, \"-\" and \"_\" in quotes, not \"Main\"",
            ),
            (
                "proxy.tls.mode",
                "\"on\"",
                "\"disable\", \"prefer\" or \"require\", not \"on\"",
            ),
            (
                "servers[0].tls",
                "{}",
                "\"disable\", \"prefer\", \"require\", \"verify-ca\" or \"verify-full\", not a table",
            ),
            ("log.format", "1", "\"text\" or \"json\", not 1"),
            (
                "shutdown_timeout",
                "30",
                "a duration in quotes, such as \"30s\" or \"2m 30s\", not 30",
            ),
            ("store", "\"url\"", "a table such as [proxy], not \"url\""),
            ("servers", "{}", "tables such as [[servers]], not a table"),
            (
                "secrets.master_key",
                "{ fil = \"x\" }",
                "{ env = \"NAME\" } or { file = \"path\" }",
            ),
            (
                "secrets.master_key",
                "{ env = 1 }",
                "{ env = \"NAME\" } or { file = \"path\" }",
            ),
            ("secrets.master_key", "{}", "{ env = \"NAME\" } or { file = \"path\" }"),
        ];
        for (key, value, expected) in cases {
            assert_eq!(
                problems(key, value),
                [format!("{key}: must be {expected}")],
                "{key} = {value}"
            );
        }
        let level = problems("log.level", "\"a=b=c\"");
        assert!(level[0].starts_with("log.level: must be \"error\", "), "{level:?}");
    }

    #[test]
    fn no_error_about_an_option_names_types_of_rust() {
        let values = [
            "0",
            "-1",
            "99999999999",
            "1.5",
            "true",
            "\"?\"",
            "\"\"",
            "[]",
            "[1]",
            "{}",
            "{ a = 1 }",
            "2020-01-01",
        ];
        let options = options();
        let keys = options.iter().filter(|option| !matches!(option.kind, Kind::Section));
        for option in keys {
            let gap = if option.section.is_empty() { "" } else { "." };
            let key = format!("{}{gap}{}", option.section, option.key);
            for problem in values.iter().flat_map(|value| problems(&key, value)) {
                let words = [
                    "expected", "invalid", "u16", "u32", "usize", "nonzero", "struct", "variant", "sequence", "`",
                ];
                assert!(words.iter().all(|word| !problem.contains(word)), "{problem}");
            }
        }
    }
}
