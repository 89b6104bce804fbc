//! The error messages that the proxy itself sends to clients: the SQLSTATE, message, detail and hint of each reason. All of
//! them are defined here. Errors of database servers are forwarded unchanged and are not defined here.

use std::num::NonZeroU32;
use std::time::Duration;

use tdb_names::{DATABASE_GRAMMAR, DatabaseName, DatabaseNameError};
use tdb_wire_postgres::frame::FrameError;
use tdb_wire_postgres::reading::Writing;
use tdb_wire_postgres::report::{Report, SqlState};
use tdb_wire_postgres::requests::STATEMENTS_LEN_MAX;
use tdb_wire_postgres::scram::ScramError;
use tdb_wire_postgres::startup::OpeningError;

use super::pool::ConnectionLimit;
use crate::sessions::EndReason;

/// Why the proxy refuses or ends a session.
#[derive(Debug)]
pub(crate) enum Refused {
    Opening(OpeningError),
    TooManyOpenings,
    TlsRequired,
    Replication,
    /// The limit is that of the whole proxy.
    TooManyClients {
        clients_max: u32,
    },
    Sasl(SaslFault),
    Scram(ScramError),
    /// The user does not exist, or the password is wrong; the client must not learn which.
    WrongPassword {
        user: String,
    },
    ControlPlaneUnavailable,
    DatabaseName {
        name: String,
        fault: DatabaseNameError,
    },
    OutOfScope {
        user: String,
        database: DatabaseName,
    },
    UnknownDatabase(DatabaseName),
    Suspended(DatabaseName),
    Deleted(DatabaseName),
    NotReady(DatabaseName),
    Failed(DatabaseName),
    TooManyDatabaseClients {
        database: String,
        limit: ClientLimit,
    },
    /// The database server refused the proxy's own login.
    ServerLogin,
    ServerSilent,
    ServerUnreachable,
    ServerLost,
    /// The server did not report that the session of a read-only credential is read-only.
    NotReadOnly,
    /// The session of a read-only credential may be able to write in its next transaction.
    MayWrite,
    NoRandom,
    ClientDesync(FrameError),
    Ended(EndReason),
    /// All shared connections to the database server were in use.
    NoServerConnection {
        limit: ConnectionLimit,
        waited: Duration,
    },
    /// The client's prepared statements use too much of the proxy's memory.
    TooManyStatements,
    /// A prepared statement that was prepared again has other parameters or columns than the client was told.
    ResultChanged,
    /// What the session had left in its shared server connection was lost.
    StateLost,
}

/// What limits the clients of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientLimit {
    /// That of every database whose tenant has no limit.
    Proxy(NonZeroU32),
    Tenant(NonZeroU32),
}

impl ClientLimit {
    pub(crate) fn max(self) -> NonZeroU32 {
        match self {
            ClientLimit::Proxy(max) | ClientLimit::Tenant(max) => max,
        }
    }
}

/// A message that is not a SASL response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SaslFault {
    Length(FrameError),
    Tag(u8),
    TooLong,
    Malformed,
}

impl Refused {
    pub(crate) fn report(&self) -> Report {
        let report = Report::fatal(self.sqlstate(), self.message());
        let report = match self.detail() {
            Some(detail) => report.with_detail(detail),
            None => report,
        };
        match self.hint() {
            Some(hint) => report.with_hint(hint),
            None => report,
        }
    }

    pub(crate) fn sqlstate(&self) -> SqlState {
        match self {
            Refused::Opening(OpeningError::Version { .. }) | Refused::Replication | Refused::ResultChanged => {
                SqlState::FeatureNotSupported
            }
            Refused::Opening(OpeningError::Length | OpeningError::Layout(_) | OpeningError::Twice(_))
            | Refused::TooManyOpenings
            | Refused::Sasl(_)
            | Refused::Scram(ScramError::Malformed(_) | ScramError::Mechanism)
            | Refused::ClientDesync(_) => SqlState::ProtocolViolation,
            Refused::Opening(OpeningError::NoUser)
            | Refused::TlsRequired
            | Refused::Scram(ScramError::Downgrade | ScramError::Binding) => SqlState::InvalidAuthorization,
            Refused::WrongPassword { .. } => SqlState::InvalidPassword,
            Refused::TooManyClients { .. }
            | Refused::TooManyDatabaseClients { .. }
            | Refused::NoServerConnection { .. } => SqlState::TooManyConnections,
            Refused::DatabaseName { .. } | Refused::UnknownDatabase(_) => SqlState::UnknownDatabase,
            Refused::OutOfScope { .. } => SqlState::NotAllowed,
            Refused::ControlPlaneUnavailable
            | Refused::Suspended(_)
            | Refused::Deleted(_)
            | Refused::NotReady(_)
            | Refused::Failed(_) => SqlState::CannotConnectNow,
            Refused::ServerLogin
            | Refused::ServerSilent
            | Refused::ServerUnreachable
            | Refused::ServerLost
            | Refused::StateLost
            | Refused::NotReadOnly => SqlState::ConnectionFailure,
            Refused::MayWrite => SqlState::ReadOnly,
            Refused::NoRandom | Refused::Scram(ScramError::NoRandom(_)) => SqlState::InternalError,
            Refused::Ended(_) => SqlState::AdminShutdown,
            Refused::TooManyStatements => SqlState::ProgramLimitExceeded,
        }
    }

    fn message(&self) -> String {
        match self {
            Refused::Opening(error) => error.to_string(),
            Refused::TooManyOpenings => "too many encryption requests".to_owned(),
            Refused::TlsRequired => "this server accepts encrypted connections only".to_owned(),
            Refused::Replication => "replication connections are not supported".to_owned(),
            Refused::TooManyClients { .. } => "sorry, too many clients already".to_owned(),
            Refused::Sasl(SaslFault::Length(error)) => error.to_string(),
            Refused::Sasl(SaslFault::Tag(tag)) => format!("expected a SASL response, got message type {tag}"),
            Refused::Sasl(SaslFault::TooLong) => "SASL message too long".to_owned(),
            Refused::Sasl(SaslFault::Malformed) => "malformed SASL message".to_owned(),
            Refused::Scram(error) => error.to_string(),
            Refused::WrongPassword { user } => format!("password authentication failed for user \"{user}\""),
            Refused::ControlPlaneUnavailable => "could not reach the control plane to check this login".to_owned(),
            Refused::DatabaseName { name, .. } => format!("invalid database name \"{name}\""),
            Refused::OutOfScope { user, database } => {
                format!("user \"{user}\" is not allowed to connect to database \"{database}\"")
            }
            Refused::UnknownDatabase(database) => format!("database \"{database}\" does not exist"),
            Refused::Suspended(database) => format!("database \"{database}\" is suspended"),
            Refused::Deleted(database) => format!("database \"{database}\" is deleted"),
            Refused::NotReady(database) => format!("database \"{database}\" is not ready"),
            Refused::Failed(database) => format!("database \"{database}\" is in status \"error\""),
            Refused::TooManyDatabaseClients { database, .. } => {
                format!("too many clients for database \"{database}\"")
            }
            Refused::ServerLogin => "the database server refused the proxy's own login".to_owned(),
            Refused::ServerSilent => "timed out connecting to the database server".to_owned(),
            Refused::ServerUnreachable => "could not connect to the database server".to_owned(),
            Refused::ServerLost => "the connection to the database server was lost".to_owned(),
            Refused::NoServerConnection { .. } => "no connection to the database server is free".to_owned(),
            Refused::TooManyStatements => "too many prepared statements".to_owned(),
            Refused::ResultChanged => "cached plan must not change result type".to_owned(),
            Refused::StateLost => "the state of the session was lost".to_owned(),
            Refused::NotReadOnly => "the database server did not confirm that this session is read-only".to_owned(),
            Refused::MayWrite => {
                "terminating connection because it changed a setting that keeps it read-only".to_owned()
            }
            Refused::NoRandom => "could not generate a random cancel key".to_owned(),
            Refused::ClientDesync(error) => error.to_string(),
            Refused::Ended(reason) => match reason {
                EndReason::DatabaseClosed => "terminating connection because the database was suspended or deleted",
                EndReason::CredentialRevoked => "terminating connection because its credential was revoked or changed",
                EndReason::CredentialExpired => "terminating connection because its credential has expired",
                EndReason::Shutdown | EndReason::Now => "terminating connection due to administrator command",
            }
            .to_owned(),
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Refused::TooManyClients { clients_max } => Some(format!("The proxy's limit clients_max is {clients_max}.")),
            Refused::TooManyDatabaseClients { limit, .. } => Some(match limit {
                ClientLimit::Proxy(max) => format!("The proxy's limit database_clients_max is {max}."),
                ClientLimit::Tenant(max) => format!("The tenant's limit clients_max is {max}."),
            }),
            Refused::DatabaseName { fault, .. } => Some(format!("The name is invalid because {fault}.")),
            Refused::Failed(_) => {
                Some("Creating the database has failed. The control plane continues to retry.".to_owned())
            }
            Refused::MayWrite => Some("The setting is default_transaction_read_only.".to_owned()),
            Refused::NoServerConnection { limit, waited } => {
                let limit = match limit {
                    ConnectionLimit::Server(max) => format!("proxy's limit server_connections_max ({max})"),
                    ConnectionLimit::Tenant(max) => format!("tenant's limit server_connections_max ({max})"),
                };
                let waited = waited.as_secs();
                Some(format!("All connections that the {limit} allows were in use for {waited} s."))
            }
            Refused::TooManyStatements => Some(format!(
                "Those of one client have at most {} MB together.",
                STATEMENTS_LEN_MAX / 1024 / 1024
            )),
            Refused::ResultChanged => Some(
                "A table of a prepared statement has changed. It is not known whether the statement was executed.".to_owned(),
            ),
            Refused::StateLost => Some(
                "The server connection that held the settings of the session was closed, or the settings could not be restored on another one."
                    .to_owned(),
            ),
            Refused::Opening(_)
            | Refused::TooManyOpenings
            | Refused::TlsRequired
            | Refused::Replication
            | Refused::Sasl(_)
            | Refused::Scram(_)
            | Refused::WrongPassword { .. }
            | Refused::ControlPlaneUnavailable
            | Refused::OutOfScope { .. }
            | Refused::UnknownDatabase(_)
            | Refused::Suspended(_)
            | Refused::Deleted(_)
            | Refused::NotReady(_)
            | Refused::ServerLogin
            | Refused::ServerSilent
            | Refused::ServerUnreachable
            | Refused::ServerLost
            | Refused::NotReadOnly
            | Refused::NoRandom
            | Refused::ClientDesync(_)
            | Refused::Ended(_) => None,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Refused::TlsRequired => Some("Connect with sslmode=require."),
            Refused::Replication => Some("Connect to the database server itself."),
            Refused::TooManyClients { .. } | Refused::TooManyDatabaseClients { .. } => {
                Some("Close connections that are not needed, or raise the limit.")
            }
            Refused::DatabaseName { .. } => Some(DATABASE_GRAMMAR),
            Refused::OutOfScope { .. } => Some("Use the credential that was created for this database."),
            Refused::UnknownDatabase(_) => Some("Run tdb tenants list or tdb workspaces list to see the databases."),
            Refused::Suspended(_) => Some("Resume the tenant to connect again."),
            Refused::Deleted(_) => Some("Restore the tenant to connect again."),
            Refused::NotReady(_) => Some("The database is being created or removed. Try again in a few seconds."),
            Refused::Failed(_) => Some("Run tdb tenants get or tdb workspaces get to see the error."),
            Refused::ControlPlaneUnavailable | Refused::ServerSilent | Refused::ServerUnreachable => {
                Some("Try again later.")
            }
            Refused::ServerLogin => Some("Your password is correct. Report this to the operator of the proxy."),
            Refused::NotReadOnly => Some("Report this to the operator of the proxy."),
            Refused::MayWrite => Some(WRITER_HINT),
            Refused::NoServerConnection { .. } => Some("End transactions that are idle, or raise the limit."),
            Refused::TooManyStatements => Some("Close statements that are not needed (DEALLOCATE)."),
            Refused::StateLost | Refused::ResultChanged => Some("Connect again."),
            Refused::Ended(reason) => Some(match reason {
                EndReason::DatabaseClosed => "Resume or restore the tenant to connect again.",
                EndReason::CredentialRevoked => "Connect again with a valid credential.",
                EndReason::CredentialExpired => "Connect again with a credential that is still valid.",
                EndReason::Shutdown | EndReason::Now => "Connect again. Another proxy may accept the connection.",
            }),
            Refused::Opening(_)
            | Refused::TooManyOpenings
            | Refused::Sasl(_)
            | Refused::Scram(_)
            | Refused::WrongPassword { .. }
            | Refused::ServerLost
            | Refused::NoRandom
            | Refused::ClientDesync(_) => None,
        }
    }
}

const WRITER_HINT: &str = "Use a credential that is not read-only.";

/// The error for one refused message in the session of a read-only credential.
pub(crate) fn refused_statement(writing: Writing) -> Report {
    let (state, hint) = match writing {
        Writing::Reset => (SqlState::ReadOnly, RESET_HINT),
        Writing::AfterEnd => (SqlState::ReadOnly, AFTER_END_HINT),
        Writing::TooLong => (SqlState::ProgramLimitExceeded, "Send long values as parameters."),
        Writing::Do
        | Writing::Call
        | Writing::ReadWrite
        | Writing::PrepareTransaction
        | Writing::Maintenance
        | Writing::Unclear => (SqlState::ReadOnly, WRITER_HINT),
    };
    let report = Report::error(state, format!("{} with a read-only credential", writing.message())).with_hint(hint);
    match writing.detail() {
        Some(detail) => report.with_detail(detail),
        None => report,
    }
}

const RESET_HINT: &str = "Pass the name or the value of the setting to set_config as a plain string literal.";
const AFTER_END_HINT: &str = "Send the statement after the server has confirmed the end of the transaction.";

#[cfg(test)]
mod tests;
