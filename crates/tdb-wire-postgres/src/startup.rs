//! The first message of a client: a request for encryption, a cancel request, or the startup packet.

use thiserror::Error;

/// The longest accepted first message in bytes, PostgreSQL's limit too (MAX_STARTUP_PACKET_LENGTH). Longer ones are refused
/// before memory is allocated.
pub const OPENING_LEN_MAX: usize = 10_000;
/// The shortest first message in bytes: length and code.
const OPENING_LEN_MIN: usize = 8;

const CANCEL_CODE: u32 = 80_877_102;
const TLS_CODE: u32 = 80_877_103;
const GSS_CODE: u32 = 80_877_104;
const MAJOR: u16 = 3;
/// The newest supported minor version: 3.2 (PostgreSQL 18), which has longer cancel keys.
pub const MINOR_NEWEST: u16 = 2;
/// In bytes; protocol 3.2 allows 4 to 256.
const CANCEL_SECRET_LEN_MAX: usize = 256;

/// The first message of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// SSLRequest.
    Tls,
    /// GSSENCRequest.
    Gss,
    /// CancelRequest.
    Cancel(CancelRequest),
    /// The startup packet of a session.
    Startup(Startup),
}

/// A request to cancel the running statement of a session.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// The process id from the session's BackendKeyData.
    pub pid: i32,
    /// The secret from the session's BackendKeyData, 4 to 256 bytes.
    pub secret: Vec<u8>,
}

/// A startup packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// The user who logs in; never empty.
    pub user: String,
    /// The requested database. As in PostgreSQL, it defaults to the user's name.
    pub database: String,
    /// All other parameters, in the order of the packet.
    pub parameters: Vec<(String, String)>,
    /// The minor protocol version of the session.
    pub minor: u16,
    /// The content of the NegotiateProtocolVersion that must be sent, if any.
    pub unsupported: Option<Unsupported>,
}

/// The client requested a minor version newer than [`MINOR_NEWEST`], or protocol options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The names of the protocol options (`_pq_.…`), none of which is supported.
    pub options: Vec<String>,
}

/// Why a first message is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpeningError {
    /// The message is too short, too long, or has the wrong length for its kind.
    #[error("invalid length of startup packet")]
    Length,
    /// A major version other than 3.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{MINOR_NEWEST}")]
    Version {
        /// The requested major version.
        major: u16,
        /// The requested minor version.
        minor: u16,
    },
    /// The names and values of the parameters are not zero-terminated UTF-8 pairs.
    #[error("invalid startup packet layout: {0}")]
    Layout(&'static str),
    /// A parameter occurs twice; its name.
    #[error("startup parameter \"{0}\" is given twice")]
    Twice(String),
    /// The parameter `user` is missing or empty.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
}

/// The length in bytes of the whole first message, from its first four bytes. An error if it is too short or too long.
pub fn opening_len(prefix: [u8; 4]) -> Result<usize, OpeningError> {
    let len = usize::try_from(u32::from_be_bytes(prefix)).map_err(|_| OpeningError::Length)?;
    if (OPENING_LEN_MIN..=OPENING_LEN_MAX).contains(&len) {
        Ok(len)
    } else {
        Err(OpeningError::Length)
    }
}

/// Parses the first message without its length field.
pub fn parse_opening(body: &[u8]) -> Result<Opening, OpeningError> {
    let (code, rest) = body.split_first_chunk::<4>().ok_or(OpeningError::Length)?;
    match u32::from_be_bytes(*code) {
        TLS_CODE if rest.is_empty() => Ok(Opening::Tls),
        GSS_CODE if rest.is_empty() => Ok(Opening::Gss),
        TLS_CODE | GSS_CODE => Err(OpeningError::Length),
        CANCEL_CODE => parse_cancel(rest).map(Opening::Cancel),
        _ => {
            let [a, b, c, d] = *code;
            parse_startup(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), rest).map(Opening::Startup)
        }
    }
}

fn parse_cancel(rest: &[u8]) -> Result<CancelRequest, OpeningError> {
    let (pid, secret) = rest.split_first_chunk::<4>().ok_or(OpeningError::Length)?;
    if !(4..=CANCEL_SECRET_LEN_MAX).contains(&secret.len()) {
        return Err(OpeningError::Length);
    }
    Ok(CancelRequest {
        pid: i32::from_be_bytes(*pid),
        secret: secret.to_vec(),
    })
}

fn parse_startup(major: u16, minor: u16, rest: &[u8]) -> Result<Startup, OpeningError> {
    if major != MAJOR {
        return Err(OpeningError::Version { major, minor });
    }
    let (mut user, mut database, mut parameters, mut options) = (None, None, Vec::new(), Vec::new());
    for (name, value) in pairs(rest)? {
        match name.as_str() {
            _ if name.starts_with("_pq_.") => options.push(name),
            "user" => set_once(&mut user, name, value)?,
            "database" => set_once(&mut database, name, value)?,
            _ if parameters.iter().any(|(known, _)| *known == name) => return Err(OpeningError::Twice(name)),
            _ => parameters.push((name, value)),
        }
    }
    let user: String = user
        .filter(|user: &String| !user.is_empty())
        .ok_or(OpeningError::NoUser)?;
    let database = database
        .filter(|database: &String| !database.is_empty())
        .unwrap_or_else(|| user.clone());
    let unsupported = (minor > MINOR_NEWEST || !options.is_empty()).then_some(Unsupported { options });
    Ok(Startup {
        user,
        database,
        parameters,
        minor: minor.min(MINOR_NEWEST),
        unsupported,
    })
}

fn set_once(slot: &mut Option<String>, name: String, value: String) -> Result<(), OpeningError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(OpeningError::Twice(name)),
    }
}

/// Parses zero-terminated names and values. The list ends with an additional zero byte, and nothing may follow it.
fn pairs(rest: &[u8]) -> Result<Vec<(String, String)>, OpeningError> {
    let texts = rest
        .strip_suffix(b"\0")
        .ok_or(OpeningError::Layout("expected terminator as last byte"))?;
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    let texts = texts
        .strip_suffix(b"\0")
        .ok_or(OpeningError::Layout("unterminated value"))?;
    let mut texts = texts.split(|byte| *byte == 0).map(|text| {
        String::from_utf8(text.to_vec()).map_err(|_| OpeningError::Layout("names and values must be UTF-8"))
    });
    let mut pairs = Vec::new();
    while let Some(name) = texts.next() {
        let value = texts.next().ok_or(OpeningError::Layout("a name without a value"))?;
        let name = name?;
        if name.is_empty() {
            return Err(OpeningError::Layout("an empty name"));
        }
        pairs.push((name, value?));
    }
    Ok(pairs)
}

impl std::fmt::Debug for CancelRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelRequest {{ pid: {}, secret: … }}", self.pid)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn startup(version: u32, texts: &[&str]) -> Vec<u8> {
        let mut body = version.to_be_bytes().to_vec();
        for text in texts {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        body
    }

    fn parse(texts: &[&str]) -> Result<Startup, OpeningError> {
        match parse_opening(&startup(3 << 16, texts))? {
            Opening::Startup(startup) => Ok(startup),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_user_database_and_all_other_parameters() {
        let startup = parse(&[
            "user",
            "ann",
            "database",
            "app_dev",
            "options",
            "-c a=b",
            "search_path",
            "",
        ])
        .unwrap();
        assert_eq!(
            (startup.user.as_str(), startup.database.as_str(), startup.minor),
            ("ann", "app_dev", 0)
        );
        assert_eq!(
            startup.parameters,
            [("options".into(), "-c a=b".into()), ("search_path".into(), "".into())]
        );
        assert_eq!(startup.unsupported, None);
        assert_eq!(parse(&["user", "ann"]).unwrap().database, "ann");
    }

    #[test]
    fn newer_minors_and_protocol_options_are_negotiated() {
        let opening = parse_opening(&startup((3 << 16) | 9999, &["user", "a", "_pq_.x", "1", "_pq_.y", ""])).unwrap();
        let Opening::Startup(startup) = opening else { panic!() };
        assert_eq!(startup.minor, MINOR_NEWEST);
        assert_eq!(startup.unsupported.unwrap().options, ["_pq_.x", "_pq_.y"]);
        assert!(startup.parameters.is_empty());
    }

    #[test]
    fn broken_packets_are_refused() {
        for len in [0u32, 1, 3, 4, 7, 10_001, 0x7fff_ffff, u32::MAX] {
            assert_eq!(opening_len(len.to_be_bytes()), Err(OpeningError::Length), "{len}");
        }
        assert!(opening_len(10_000u32.to_be_bytes()).is_ok());
        assert_eq!(parse(&[]), Err(OpeningError::NoUser));
        assert_eq!(parse(&["user", ""]), Err(OpeningError::NoUser));
        assert_eq!(
            parse(&["user", "a", "user", "b"]),
            Err(OpeningError::Twice("user".into()))
        );
        assert_eq!(
            parse(&["user", "a", "x", "1", "x", "2"]),
            Err(OpeningError::Twice("x".into()))
        );
        assert!(matches!(parse(&["user"]), Err(OpeningError::Layout(_))));
        assert!(matches!(parse(&["user", "a", "", "b"]), Err(OpeningError::Layout(_))));
        for version in [2 << 16, 4 << 16, 0, 1] {
            assert!(matches!(
                parse_opening(&startup(version, &["user", "a"])),
                Err(OpeningError::Version { .. })
            ));
        }
        let mut unterminated = startup(3 << 16, &["user", "a"]);
        unterminated.pop();
        unterminated.pop();
        assert!(parse_opening(&unterminated).is_err());
        assert!(parse_opening(&[&TLS_CODE.to_be_bytes()[..], b"x"].concat()).is_err());
    }

    #[test]
    fn cancel_keys_have_4_to_256_bytes() {
        let cancel = |secret: usize| {
            let body = [&CANCEL_CODE.to_be_bytes()[..], &7i32.to_be_bytes(), &vec![9; secret]].concat();
            parse_opening(&body)
        };
        assert!(matches!(cancel(4), Ok(Opening::Cancel(CancelRequest { pid: 7, .. }))));
        assert!(cancel(256).is_ok());
        assert!(cancel(3).is_err());
        assert!(cancel(257).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_opening(&bytes);
            let _ = parse_opening(&[&(3u32 << 16).to_be_bytes()[..], &bytes].concat());
        }
    }
}
