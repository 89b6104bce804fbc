//! ErrorResponse and NoticeResponse: building the proxy's, parsing a server's, and the table of SQLSTATEs that the proxy
//! uses.

use std::fmt::Write as _;

use crate::backend::frame;

/// The SQLSTATEs (PostgreSQL manual, appendix "Error Codes") of the proxy's messages, and what the proxy uses them for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SqlState {
    /// The client or the server violated the protocol.
    ProtocolViolation,
    /// The database server did not answer, or the connection to it was lost.
    ConnectionFailure,
    /// A protocol version or feature that is not supported.
    FeatureNotSupported,
    /// The connection is not encrypted although TLS is required, or the login is refused for another such reason.
    InvalidAuthorization,
    /// The user does not exist or the password is wrong; clients cannot tell which.
    InvalidPassword,
    /// The database does not exist, or its name is invalid.
    UnknownDatabase,
    /// The credential does not cover the database.
    NotAllowed,
    /// A limit on the number of clients is reached.
    TooManyConnections,
    /// The control plane could not be reached.
    CannotConnectNow,
    /// A read-only session tried to write.
    ReadOnly,
    /// The session is ended by the control plane or by a shutdown.
    AdminShutdown,
    /// A message is longer than the protocol allows.
    ProgramLimitExceeded,
    /// An internal error of the proxy.
    InternalError,
    /// The private SQLSTATE of the journal's marker notice, which is not forwarded to clients.
    Journaled,
    /// The SQLSTATE of warnings.
    Warning,
    /// The SQLSTATE of notices.
    Success,
}

impl SqlState {
    /// The code, five characters.
    pub fn code(self) -> &'static str {
        match self {
            SqlState::ProtocolViolation => "08P01",
            SqlState::ConnectionFailure => "08006",
            SqlState::FeatureNotSupported => "0A000",
            SqlState::InvalidAuthorization => "28000",
            SqlState::InvalidPassword => "28P01",
            SqlState::UnknownDatabase => "3D000",
            SqlState::NotAllowed => "42501",
            SqlState::TooManyConnections => "53300",
            SqlState::CannotConnectNow => "57P03",
            SqlState::ReadOnly => "25006",
            SqlState::AdminShutdown => "57P01",
            SqlState::ProgramLimitExceeded => "54000",
            SqlState::InternalError => "XX000",
            SqlState::Journaled => "TD001",
            SqlState::Warning => "01000",
            SqlState::Success => "00000",
        }
    }
}

/// The severity of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The session ends.
    Fatal,
    /// The statement fails. The session continues.
    Error,
    /// Something was not done as requested. The session continues.
    Warning,
    /// Information. The session continues.
    Notice,
}

/// An error or notice of the proxy, in PostgreSQL's style.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The severity.
    pub severity: Severity,
    /// The SQLSTATE.
    pub state: SqlState,
    /// One line, lower case, without a full stop.
    pub message: String,
    /// Full sentences with the numbers or names of this case.
    pub detail: Option<String>,
    /// Full sentences that say what to do.
    pub hint: Option<String>,
}

impl Report {
    /// An error after which the session is closed.
    pub fn fatal(state: SqlState, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Fatal,
            state,
            message: message.into(),
            detail: None,
            hint: None,
        }
    }

    /// An error of one statement; the session continues.
    pub fn error(state: SqlState, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            ..Self::fatal(state, message)
        }
    }

    /// A notice; the session continues.
    pub fn notice(message: impl Into<String>) -> Self {
        let (severity, state) = (Severity::Notice, SqlState::Success);
        Self {
            severity,
            state,
            message: message.into(),
            detail: None,
            hint: None,
        }
    }

    /// A warning; the session continues.
    pub fn warning(message: impl Into<String>) -> Self {
        let (severity, state) = (Severity::Warning, SqlState::Warning);
        Self {
            severity,
            state,
            message: message.into(),
            detail: None,
            hint: None,
        }
    }

    /// The same report with a hint.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same report with a detail.
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Appends the message to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (tag, severity) = match self.severity {
            Severity::Fatal => (b'E', "FATAL"),
            Severity::Error => (b'E', "ERROR"),
            Severity::Warning => (b'N', "WARNING"),
            Severity::Notice => (b'N', "NOTICE"),
        };
        frame(out, tag, |out| {
            let mut field = |name: u8, value: &str| {
                out.push(name);
                // A zero byte would end the field early.
                out.extend(value.bytes().filter(|byte| *byte != 0));
                out.push(0);
            };
            field(b'S', severity);
            field(b'V', severity);
            field(b'C', self.state.code());
            field(b'M', &self.message);
            self.detail.iter().for_each(|detail| field(b'D', detail));
            self.hint.iter().for_each(|hint| field(b'H', hint));
            out.push(0);
        });
    }
}

/// The fields of a server's error or notice that the proxy uses. A missing SQLSTATE or message is empty: a hostile server
/// may omit any field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The SQLSTATE.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// The secondary message, if there is one.
    pub detail: Option<String>,
    /// The server's suggestion, if there is one.
    pub hint: Option<String>,
}

/// Parses the body of an ErrorResponse or NoticeResponse.
pub fn parse(body: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    for field in body.split(|byte| *byte == 0) {
        let Some((kind, value)) = field.split_first() else {
            continue;
        };
        let value = || String::from_utf8_lossy(value).into_owned();
        match kind {
            b'C' => parsed.code = value(),
            b'M' => parsed.message = value(),
            b'D' => parsed.detail = Some(value()),
            b'H' => parsed.hint = Some(value()),
            _ => {}
        }
    }
    parsed
}

/// Name and value in the body of a ParameterStatus.
pub fn parse_parameter(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut texts = body.split(|byte| *byte == 0);
    Some((texts.next()?, texts.next()?))
}

/// Whether the body of an ErrorResponse, or its beginning, has a severity after which the server ends the session. The field `V`,
/// which is not translated, is one of the first two. Copies nothing.
pub fn is_fatal(body: &[u8]) -> bool {
    body.split(|byte| *byte == 0)
        .any(|field| matches!(field, b"VFATAL" | b"VPANIC"))
}

/// Whether a notice's body has the SQLSTATE of the journal's marker. Copies nothing.
pub fn is_journal_marker(body: &[u8]) -> bool {
    let marker = SqlState::Journaled.code().as_bytes();
    body.split(|byte| *byte == 0)
        .any(|field| field.split_first() == Some((&b'C', marker)))
}

impl std::fmt::Display for Parsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.code)?;
        f.write_char(' ')?;
        f.write_str(&self.message)
    }
}

/// Whether an error is about the last value of a sequence: by the function of the server that reports it, since messages are
/// translated.
pub(crate) fn is_of_last_value(error: &[u8]) -> bool {
    let mut fields = error.split(|byte| *byte == 0);
    fields.any(|field| matches!(field, b"Rcurrval_oid" | b"Rlastval"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back_and_cannot_be_split_by_zero_bytes() {
        let mut out = Vec::new();
        let report = Report::fatal(SqlState::UnknownDatabase, "no \"a\0b\"")
            .with_hint("Look.")
            .with_detail("D");
        report.write(&mut out);
        assert_eq!(out[0], b'E');
        assert_eq!(
            usize::try_from(u32::from_be_bytes([out[1], out[2], out[3], out[4]])).unwrap(),
            out.len() - 1
        );
        assert_eq!(
            parse(&out[5..]),
            Parsed {
                code: "3D000".into(),
                message: "no \"ab\"".into(),
                detail: Some("D".into()),
                hint: Some("Look.".into()),
            }
        );
        assert_eq!(out.last(), Some(&0));
    }

    #[test]
    fn bodies_without_fields_are_read_as_empty() {
        assert_eq!(parse(b""), Parsed::default());
        assert_eq!(parse(b"\0\0\0"), Parsed::default());
        assert!(is_journal_marker(b"SNOTICE\0CTD001\0Mddl 1\0\0"));
        assert!(!is_journal_marker(b"SNOTICE\0C00000\0MCTD001\0\0"));
        assert!(is_fatal(b"SFATAL\0VFATAL\0C57P01\0\0") && is_fatal(b"SPANIK\0VPANIC\0"));
        assert!(!is_fatal(b"SERROR\0VERROR\0MVFATAL\0\0"));
    }
}
