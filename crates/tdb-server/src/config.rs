//! The configuration file `proxy.toml`. Reading it opens no socket. Secrets are read here and are `SecretString` from then
//! on. The defaults are defined only in this file; the shipped `proxy.toml` shows them.

mod expected;
mod proxy;
mod reader;
#[cfg(test)]
mod reference;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tdb_auth::{ApiKey, MasterKey};
use tdb_control::Signup;
use tdb_names::{ServerName, TlsMode};
use tdb_store::StoreUrl;
use toml::Table;
use tracing_subscriber::EnvFilter;

pub(crate) use proxy::{PoolMode, Proxy, SERVER_CONNECTIONS_MAX};
pub(crate) use reader::Problem;
use reader::{Outside, Section};

const API_PORT: u16 = 9876;
const METRICS_PORT: u16 = 9877;
const POSTGRES_PORT: NonZeroU16 = match NonZeroU16::new(5432) {
    Some(port) => port,
    None => NonZeroU16::MAX,
};

/// Two for each of the three roles.
const STORE_CONNECTIONS_MIN: usize = 6;
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What a log level must be, for error messages.
pub(crate) const LEVEL_EXPECTED: &str =
    "\"error\", \"warn\", \"info\", \"debug\", \"trace\" or a filter such as \"info,tdb_proxy=debug\"";

#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The file's path, for errors that are detected later.
    pub source: PathBuf,
    pub proxy: Proxy,
    pub api_listen: SocketAddr,
    /// Whether `POST /signup` is enabled.
    pub signup: Signup,
    pub metrics_listen: SocketAddr,
    pub store: Store,
    pub master_key: SecretString,
    /// The first API key; required if the store is empty.
    pub bootstrap_key: Option<SecretString>,
    /// Database servers to enrol at the start.
    pub servers: Vec<Server>,
    /// Certificate authorities for `verify-ca` and `verify-full`; `None` means those of the operating system.
    pub upstream_ca: Option<PathBuf>,
    pub log: Log,
    /// How long clients can finish their transactions at a shutdown.
    pub shutdown_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct PublicAddress {
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub mode: ClientTlsMode,
    pub files: Option<CertificateFiles>,
}

/// Whether clients of the proxy can or must use TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClientTlsMode {
    Disable,
    Prefer,
    Require,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub url: StoreUrl,
    pub connections_max: NonZeroUsize,
}

/// A database server and its administrator.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub name: ServerName,
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: SecretString,
    pub tls: TlsMode,
    /// Extensions that developers can create although they need a superuser.
    pub extensions: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    pub format: LogFormat,
    /// A level or a filter such as `info,tdb_proxy=debug`.
    pub level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// A file is not a valid configuration. Contains all reasons, each with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    pub file: PathBuf,
    pub problems: Vec<Problem>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = match self.problems.len() {
            1 => "1 error".to_owned(),
            count => format!("{count} errors"),
        };
        write!(f, "{} has {errors}:", self.file.display())?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Config {
    /// Reads the file and the secrets that it names.
    pub(crate) fn load(file: &Path) -> Result<Self, ConfigError> {
        let failed = |message: String| ConfigError {
            file: file.to_owned(),
            problems: vec![Problem {
                path: String::new(),
                message,
            }],
        };
        let text = std::fs::read_to_string(file)
            .map_err(|e| failed(format!("cannot be read: {e}; use --config for another file")))?;
        Self::parse(&text, file, &|name| std::env::var(name).ok())
    }

    /// The defaults, with the two secrets that have no default. `source` is the path for error messages.
    pub(crate) fn with_secrets(
        url: &SecretString,
        master_key: &SecretString,
        source: &Path,
    ) -> Result<Self, ConfigError> {
        let text = "store.url = { env = \"url\" }\nsecrets.master_key = { env = \"key\" }";
        let secret = |name: &str| if name == "url" { url } else { master_key };
        Self::parse(text, source, &|name| Some(secret(name).expose_secret().to_owned()))
    }

    /// Reads a document as if it were the content of `file`; relative paths start at the file's directory.
    pub(crate) fn parse(
        text: &str,
        file: &Path,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let failed = |problems| ConfigError {
            file: file.to_owned(),
            problems,
        };
        let directory = file.parent().unwrap_or(Path::new("."));
        let table: Table = text.parse().map_err(|e| failed(vec![Problem::of_syntax(&e)]))?;
        let outside = Outside::new(directory, environment);
        let mut problems = Vec::new();
        let read = read_root(Section::root(table, &outside), file, &mut problems);
        match read {
            Some(config) if problems.is_empty() => Ok(config),
            Some(_) | None => Err(failed(problems)),
        }
    }

    /// An error in the value of `key` that was detected after reading.
    pub(crate) fn problem(&self, key: &str, message: String) -> ConfigError {
        let problem = Problem {
            path: key.to_owned(),
            message,
        };
        ConfigError {
            file: self.source.clone(),
            problems: vec![problem],
        }
    }

    /// The address in connection strings.
    pub(crate) fn public_address(&self) -> PublicAddress {
        let listen = self.proxy.listen;
        let own = || PublicAddress {
            host: listen.ip().to_string(),
            port: listen.port(),
        };
        self.proxy.public_address.clone().unwrap_or_else(own)
    }
}

impl TryFrom<String> for PublicAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let split = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        let port = split.and_then(|(_, port)| port.parse().ok());
        match (split, port) {
            (Some((host, _)), Some(port)) => Ok(Self {
                host: host.to_owned(),
                port,
            }),
            (_, None) | (None, Some(_)) => Err("not a host and a port".to_owned()),
        }
    }
}

/// `None` only if a required value is missing, which is then among the problems.
fn read_root(mut root: Section<'_>, source: &Path, problems: &mut Vec<Problem>) -> Option<Config> {
    let proxy = proxy::read(root.section("proxy", problems), problems);
    let (api_listen, signup) = read_api(root.section("api", problems), problems);
    let metrics_listen = read_listen(root.section("metrics", problems), METRICS_PORT, problems);
    let store = read_store(root.section("store", problems), problems);
    let master_key = read_master_key(root.section("secrets", problems), problems);
    let bootstrap_key = read_bootstrap(root.section("bootstrap", problems), problems);
    let sections = root.sections("servers", problems);
    let servers: Vec<_> = sections
        .into_iter()
        .map(|section| read_server(section, problems))
        .collect();
    let mut upstream = root.section("upstream", problems);
    let upstream_ca = upstream.file("ca_file", problems);
    upstream.close(problems);
    let log = read_log(root.section("log", problems), problems);
    let shutdown_timeout = root.duration("shutdown_timeout", Duration::from_secs(30), problems);
    root.close(problems);
    Some(Config {
        source: source.to_owned(),
        proxy,
        api_listen,
        signup,
        metrics_listen,
        store: store?,
        master_key: master_key?,
        bootstrap_key,
        servers: servers.into_iter().collect::<Option<_>>()?,
        upstream_ca,
        log,
        shutdown_timeout,
    })
}

fn read_tls(mut section: Section<'_>, problems: &mut Vec<Problem>) -> Tls {
    let mode = section.value("mode", ClientTlsMode::Disable, problems);
    let certificate = section.file("certificate", problems);
    let key = section.file("key", problems);
    let files = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(CertificateFiles { certificate, key }),
        (Some(_), None) => {
            problems.push(section.problem("key", "is missing, and certificate is given"));
            None
        }
        (None, Some(_)) => {
            problems.push(section.problem("certificate", "is missing, and key is given"));
            None
        }
        (None, None) if mode != ClientTlsMode::Disable => {
            problems.push(section.problem("certificate", "is missing; this mode needs certificate and key"));
            None
        }
        (None, None) => None,
    };
    section.close(problems);
    Tls { mode, files }
}

fn read_api(mut section: Section<'_>, problems: &mut Vec<Problem>) -> (SocketAddr, Signup) {
    let listen = section.value("listen", loopback(API_PORT), problems);
    let signup = if section.value("signup", false, problems) {
        Signup::Open
    } else {
        Signup::Closed
    };
    section.close(problems);
    (listen, signup)
}

fn read_listen(mut section: Section<'_>, port: u16, problems: &mut Vec<Problem>) -> SocketAddr {
    let listen = section.value("listen", loopback(port), problems);
    section.close(problems);
    listen
}

fn read_store(mut section: Section<'_>, problems: &mut Vec<Problem>) -> Option<Store> {
    let url = section.required_secret("url", problems);
    let url = url.and_then(|url| {
        StoreUrl::parse(&url)
            .map_err(|e| problems.push(section.problem("url", &e.to_string())))
            .ok()
    });
    let default = NonZeroUsize::new(24).unwrap_or(NonZeroUsize::MIN);
    let connections_max = section.value("connections_max", default, problems);
    if connections_max.get() < STORE_CONNECTIONS_MIN {
        let message = format!("must be a whole number from {STORE_CONNECTIONS_MIN}, not {connections_max}");
        problems.push(section.problem("connections_max", &message));
    }
    section.close(problems);
    Some(Store {
        url: url?,
        connections_max,
    })
}

fn read_master_key(mut section: Section<'_>, problems: &mut Vec<Problem>) -> Option<SecretString> {
    let key = section.required_secret("master_key", problems);
    let wrong = key.as_ref().and_then(|key| MasterKey::parse(key).err());
    problems.extend(wrong.map(|e| section.problem("master_key", &e.to_string())));
    section.close(problems);
    key
}

fn read_bootstrap(mut section: Section<'_>, problems: &mut Vec<Problem>) -> Option<SecretString> {
    let key = section.secret("api_key", problems);
    if key
        .as_ref()
        .is_some_and(|key| ApiKey::parse(key.expose_secret()).is_none())
    {
        problems.push(section.problem(
            "api_key",
            "must be tdb_sk_ and 43 characters of base64url (256 random bits)",
        ));
    }
    section.close(problems);
    key
}

fn read_server(mut section: Section<'_>, problems: &mut Vec<Problem>) -> Option<Server> {
    let name = section.required("name", problems);
    let host = section.required_text("host", problems);
    let port = section.value("port", POSTGRES_PORT, problems);
    let user = section.required_text("user", problems);
    let password = section.required_secret("password", problems);
    let tls = section.value("tls", TlsMode::Prefer, problems);
    let extensions = section.value("extensions", Vec::new(), problems);
    section.close(problems);
    Some(Server {
        name: name?,
        host: host?,
        port: port.get(),
        user: user?,
        password: password?,
        tls,
        extensions,
    })
}

fn read_log(mut section: Section<'_>, problems: &mut Vec<Problem>) -> Log {
    let format = section.value("format", LogFormat::Text, problems);
    let level: String = section.value("level", "info".to_owned(), problems);
    if log_filter(&level).is_none() {
        problems.push(section.problem("level", &format!("must be {LEVEL_EXPECTED}, not \"{level}\"")));
    }
    section.close(problems);
    Log { format, level }
}

/// The filter of a level or of directives such as `info,tdb_proxy=debug`. The parser takes any other word for a target of which
/// everything is logged, so a word alone must be a level.
pub(crate) fn log_filter(text: &str) -> Option<EnvFilter> {
    let is_level = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
    let mut words = text.split(',');
    let known = words.all(|word| word.is_empty() || word.contains(['=', '[']) || is_level(word));
    text.parse().ok().filter(|_| known)
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

const fn number(value: u32) -> NonZeroU32 {
    match NonZeroU32::new(value) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../proxy.toml");
    const SECRETS_ONLY: &str = r#"
        [store]
        url = { env = "TENANTSDB_STORE_URL" }
        [secrets]
        master_key = { env = "TENANTSDB_MASTER_KEY" }
        [bootstrap]
        api_key = { env = "TENANTSDB_API_KEY" }
    "#;

    fn environment(name: &str) -> Option<String> {
        match name {
            "TENANTSDB_STORE_URL" => Some("postgresql://cp_owner:x@db/tdb_control".to_owned()),
            "TENANTSDB_MASTER_KEY" => Some(MasterKey::generate().unwrap().expose_secret().to_owned()),
            "TENANTSDB_API_KEY" => Some(ApiKey::generate().unwrap().reveal().to_owned()),
            "EMPTY" => Some(" \n".to_owned()),
            _ => None,
        }
    }

    fn parse(text: &str) -> Result<Config, Vec<String>> {
        let read = Config::parse(text, Path::new("/etc/tenantsdb/proxy.toml"), &environment);
        read.map_err(|error| error.problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn the_shipped_file_equals_the_defaults() {
        let shipped = format!("{:?}", parse(SHIPPED).unwrap());
        assert_eq!(shipped, format!("{:?}", parse(SECRETS_ONLY).unwrap()));
    }

    #[test]
    fn sign_up_is_enabled_only_by_the_file() {
        assert_eq!(parse(SECRETS_ONLY).unwrap().signup, Signup::Closed);
        let open = format!("{SECRETS_ONLY}\n[api]\nsignup = true");
        assert_eq!(parse(&open).unwrap().signup, Signup::Open);
        assert!(parse(&format!("{SECRETS_ONLY}\n[api]\nsignup = \"yes\"")).unwrap_err()[0].starts_with("api.signup"));
    }

    #[test]
    fn all_problems_are_reported_together_with_their_keys() {
        let text = r#"
            lsten = 1
            shutdown_timeout = "soon"
            [proxy]
            listen = "nowhere"
            clients_max = 0
            login_timeout = "0s"
            public_address = "db.example.com"
            [proxy.tls]
            mode = "require"
            ciphers = "all"
            [store]
            url = "postgresql://in-clear"
            [secrets]
            master_key = { env = "ABSENT" }
            [bootstrap]
            api_key = { env = "EMPTY" }
            [[servers]]
            name = "Not A Name"
            host = "db"
            user = "postgres"
            tls = "maybe"
            [log]
            format = "xml"
        "#;
        let problems = parse(text).unwrap_err();
        let expected = [
            "lsten: is not an option; valid here are proxy, api, metrics, store, secrets, bootstrap, servers, upstream, log, shutdown_timeout",
            "shutdown_timeout: must be a duration in quotes, such as \"30s\" or \"2m 30s\", not \"soon\"",
            "proxy.listen: must be an IP address and a port in quotes, such as \"127.0.0.1:6432\", not \"nowhere\"",
            "proxy.clients_max: must be a whole number from 1 to 4294967295, not 0",
            "proxy.login_timeout: must be longer than zero",
            "proxy.public_address: must be a host and a port in quotes, such as \"db.example.com:6432\", not \"db.example.com\"",
            "proxy.tls.certificate: is missing",
            "proxy.tls.ciphers: is not an option; valid here are mode, certificate, key",
            "store.url: is a secret",
            "secrets.master_key: environment variable ABSENT is not set",
            "bootstrap.api_key: is empty",
            "servers[0].name: must be a name of at most 40 lower-case letters",
            "servers[0].password: is missing",
            "servers[0].tls: must be \"disable\", \"prefer\", ",
            "log.format: must be \"text\" or \"json\", not \"xml\"",
        ];
        for start in expected {
            assert!(
                problems.iter().any(|p| p.starts_with(start)),
                "{start} is not among {problems:#?}"
            );
        }
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    }

    #[test]
    fn errors_that_were_found_only_after_reading_are_among_all() {
        let text = r#"
            [proxy.tls]
            certificate = "absent.crt"
            key = "/absent/key"
            [store]
            connections_max = 5
            [[servers]]
            name = "main"
            host = " "
            user = ""
            [log]
            level = "loud"
        "#;
        let mut problems = parse(text).unwrap_err();
        problems.sort();
        let expected = [
            "log.level: must be \"error\", ",
            "proxy.tls.certificate: cannot read /etc/tenantsdb/absent.crt: ",
            "proxy.tls.key: cannot read /absent/key: ",
            "secrets.master_key: is missing",
            "servers[0].host: is empty",
            "servers[0].password: is missing",
            "servers[0].user: is empty",
            "store.connections_max: must be a whole number from 6, not 5",
            "store.url: is missing",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, start) in problems.iter().zip(expected) {
            assert!(problem.starts_with(start), "{problem} should start with {start}");
        }
    }

    #[test]
    fn a_word_alone_must_be_a_level() {
        for text in [
            "error",
            "trace",
            "info,tdb_proxy=debug",
            "tdb_proxy=debug",
            "WARN,tdb_api=off",
            "",
        ] {
            assert!(log_filter(text).is_some(), "{text}");
        }
        for text in ["loud", "inf", "warning", "info,tdb_proxy", "tdb_proxy=loud"] {
            assert!(log_filter(text).is_none(), "{text}");
        }
    }

    #[test]
    fn options_without_a_default_are_required() {
        let problems = parse("").unwrap_err();
        assert_eq!(problems, ["store.url: is missing", "secrets.master_key: is missing"]);
    }

    #[test]
    fn invalid_toml_is_reported_with_its_position() {
        let problems = parse("[proxy\nlisten = 1").unwrap_err();
        assert!(problems[0].contains("line 1"), "{problems:?}");
    }

    #[test]
    fn secrets_can_be_in_files_and_are_in_no_output() {
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("url"), "postgresql://cp_owner:hidden@db/x\n").unwrap();
        let text = SECRETS_ONLY.replace("{ env = \"TENANTSDB_STORE_URL\" }", "{ file = \"url\" }");
        let config = Config::parse(&text, &dir.path().join("proxy.toml"), &environment).unwrap();
        assert_eq!(config.store.url.user(), "cp_owner");
        assert!(!format!("{config:?}").contains("hidden"));
    }
}
