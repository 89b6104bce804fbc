//! The table of all refusals: SQLSTATE and texts.

use std::collections::BTreeSet;

use tdb_auth::NoRandom;

use super::*;

const VARIANTS: usize = 31;

/// Each variant needs a number here and a row in the table; the test checks that every number has a row.
fn number(refused: &Refused) -> usize {
    match refused {
        Refused::Opening(_) => 0,
        Refused::TooManyOpenings => 1,
        Refused::TlsRequired => 2,
        Refused::Replication => 3,
        Refused::TooManyClients { .. } => 4,
        Refused::Sasl(_) => 5,
        Refused::Scram(_) => 6,
        Refused::WrongPassword { .. } => 7,
        Refused::ControlPlaneUnavailable => 8,
        Refused::DatabaseName { .. } => 9,
        Refused::OutOfScope { .. } => 10,
        Refused::UnknownDatabase(_) => 11,
        Refused::Suspended(_) => 12,
        Refused::Deleted(_) => 13,
        Refused::NotReady(_) => 14,
        Refused::Failed(_) => 15,
        Refused::TooManyDatabaseClients { .. } => 16,
        Refused::ServerLogin => 17,
        Refused::ServerSilent => 18,
        Refused::ServerUnreachable => 19,
        Refused::ServerLost => 20,
        Refused::NoRandom => 21,
        Refused::ClientDesync(_) => 22,
        Refused::Ended(EndReason::Shutdown | EndReason::Now) => 23,
        Refused::Ended(EndReason::DatabaseClosed | EndReason::CredentialRevoked | EndReason::CredentialExpired) => 24,
        Refused::NotReadOnly => 25,
        Refused::MayWrite => 26,
        Refused::NoServerConnection { .. } => 27,
        Refused::StateLost => 28,
        Refused::ResultChanged => 29,
        Refused::TooManyStatements => 30,
    }
}

fn acme() -> DatabaseName {
    "app__acme".parse().unwrap()
}

/// Each refusal with its SQLSTATE, and its message, detail and hint.
fn table() -> Vec<(Refused, &'static str, &'static str)> {
    let length = FrameError { len: 3 };
    let fault = "app".parse::<DatabaseName>().unwrap_err();
    let (user, name) = ("ann".to_owned(), "app".to_owned());
    vec![
        (
            Refused::Opening(OpeningError::Length),
            "08P01",
            "invalid length of startup packet",
        ),
        (
            Refused::Opening(OpeningError::Version { major: 2, minor: 0 }),
            "0A000",
            "unsupported frontend protocol 2.0: server supports 3.0 to 3.2",
        ),
        (
            Refused::Opening(OpeningError::Layout("an empty name")),
            "08P01",
            "invalid startup packet layout: an empty name",
        ),
        (
            Refused::Opening(OpeningError::Twice("a".to_owned())),
            "08P01",
            "startup parameter \"a\" is given twice",
        ),
        (
            Refused::Opening(OpeningError::NoUser),
            "28000",
            "no PostgreSQL user name specified in startup packet",
        ),
        (Refused::TooManyOpenings, "08P01", "too many encryption requests"),
        (
            Refused::TlsRequired,
            "28000",
            "this server accepts encrypted connections only | Connect with sslmode=require.",
        ),
        (
            Refused::Replication,
            "0A000",
            "replication connections are not supported | Connect to the database server itself.",
        ),
        (
            Refused::TooManyClients { clients_max: 9 },
            "53300",
            "sorry, too many clients already | The proxy's limit clients_max is 9. | Close connections that are not needed, or raise the limit.",
        ),
        (
            Refused::Sasl(SaslFault::Length(length)),
            "08P01",
            "a message with the invalid length 3",
        ),
        (
            Refused::Sasl(SaslFault::Tag(81)),
            "08P01",
            "expected a SASL response, got message type 81",
        ),
        (Refused::Sasl(SaslFault::TooLong), "08P01", "SASL message too long"),
        (Refused::Sasl(SaslFault::Malformed), "08P01", "malformed SASL message"),
        (
            Refused::Scram(ScramError::Malformed("no nonce")),
            "08P01",
            "malformed SCRAM message: no nonce",
        ),
        (
            Refused::Scram(ScramError::Mechanism),
            "08P01",
            "the client selected an authentication mechanism that was not offered",
        ),
        (
            Refused::Scram(ScramError::Downgrade),
            "28000",
            "SCRAM channel binding negotiation error",
        ),
        (
            Refused::Scram(ScramError::Binding),
            "28000",
            "SCRAM channel binding check failed",
        ),
        (
            Refused::Scram(ScramError::NoRandom(NoRandom)),
            "XX000",
            "the operating system's random source failed",
        ),
        (
            Refused::WrongPassword { user: user.clone() },
            "28P01",
            "password authentication failed for user \"ann\"",
        ),
        (
            Refused::ControlPlaneUnavailable,
            "57P03",
            "could not reach the control plane to check this login | Try again later.",
        ),
        (
            Refused::DatabaseName { name, fault },
            "3D000",
            "invalid database name \"app\" | The name is invalid because it is neither <blueprint>_dev nor <blueprint>__<tenant>. | A database name is <blueprint>_dev for a workspace or <blueprint>__<tenant> for a tenant; names are lower-case letters and digits joined by single \"_\" or \"-\".",
        ),
        (
            Refused::OutOfScope { user, database: acme() },
            "42501",
            "user \"ann\" is not allowed to connect to database \"app__acme\" | Use the credential that was created for this database.",
        ),
        (
            Refused::UnknownDatabase(acme()),
            "3D000",
            "database \"app__acme\" does not exist | Run tdb tenants list or tdb workspaces list to see the databases.",
        ),
        (
            Refused::Suspended(acme()),
            "57P03",
            "database \"app__acme\" is suspended | Resume the tenant to connect again.",
        ),
        (
            Refused::Deleted(acme()),
            "57P03",
            "database \"app__acme\" is deleted | Restore the tenant to connect again.",
        ),
        (
            Refused::NotReady(acme()),
            "57P03",
            "database \"app__acme\" is not ready | The database is being created or removed. Try again in a few seconds.",
        ),
        (
            Refused::Failed(acme()),
            "57P03",
            "database \"app__acme\" is in status \"error\" | Creating the database has failed. The control plane continues to retry. | Run tdb tenants get or tdb workspaces get to see the error.",
        ),
        (
            Refused::TooManyDatabaseClients {
                database: "app__acme".to_owned(),
                limit: ClientLimit::Proxy(NonZeroU32::MIN),
            },
            "53300",
            "too many clients for database \"app__acme\" | The proxy's limit database_clients_max is 1. | Close connections that are not needed, or raise the limit.",
        ),
        (
            Refused::TooManyDatabaseClients {
                database: "app__acme".to_owned(),
                limit: ClientLimit::Tenant(NonZeroU32::MIN),
            },
            "53300",
            "too many clients for database \"app__acme\" | The tenant's limit clients_max is 1. | Close connections that are not needed, or raise the limit.",
        ),
        (
            Refused::ServerLogin,
            "08006",
            "the database server refused the proxy's own login | Your password is correct. Report this to the operator of the proxy.",
        ),
        (
            Refused::ServerSilent,
            "08006",
            "timed out connecting to the database server | Try again later.",
        ),
        (
            Refused::ServerUnreachable,
            "08006",
            "could not connect to the database server | Try again later.",
        ),
        (
            Refused::ServerLost,
            "08006",
            "the connection to the database server was lost",
        ),
        (
            Refused::NoServerConnection {
                limit: ConnectionLimit::Server(20),
                waited: Duration::from_millis(30_001),
            },
            "53300",
            "no connection to the database server is free | All connections that the proxy's limit server_connections_max (20) allows were in use for 30 s. | End transactions that are idle, or raise the limit.",
        ),
        (
            Refused::NoServerConnection {
                limit: ConnectionLimit::Tenant(2),
                waited: Duration::from_secs(5),
            },
            "53300",
            "no connection to the database server is free | All connections that the tenant's limit server_connections_max (2) allows were in use for 5 s. | End transactions that are idle, or raise the limit.",
        ),
        (
            Refused::TooManyStatements,
            "54000",
            "too many prepared statements | Those of one client have at most 64 MB together. | Close statements that are not needed (DEALLOCATE).",
        ),
        (
            Refused::ResultChanged,
            "0A000",
            "cached plan must not change result type | A table of a prepared statement has changed. It is not known whether the statement was executed. | Connect again.",
        ),
        (
            Refused::StateLost,
            "08006",
            "the state of the session was lost | The server connection that held the settings of the session was closed, or the settings could not be restored on another one. | Connect again.",
        ),
        (
            Refused::NotReadOnly,
            "08006",
            "the database server did not confirm that this session is read-only | Report this to the operator of the proxy.",
        ),
        (
            Refused::MayWrite,
            "25006",
            "terminating connection because it changed a setting that keeps it read-only | The setting is default_transaction_read_only. | Use a credential that is not read-only.",
        ),
        (Refused::NoRandom, "XX000", "could not generate a random cancel key"),
        (
            Refused::ClientDesync(length),
            "08P01",
            "a message with the invalid length 3",
        ),
        (
            Refused::Ended(EndReason::DatabaseClosed),
            "57P01",
            "terminating connection because the database was suspended or deleted | Resume or restore the tenant to connect again.",
        ),
        (
            Refused::Ended(EndReason::CredentialRevoked),
            "57P01",
            "terminating connection because its credential was revoked or changed | Connect again with a valid credential.",
        ),
        (
            Refused::Ended(EndReason::CredentialExpired),
            "57P01",
            "terminating connection because its credential has expired | Connect again with a credential that is still valid.",
        ),
        (
            Refused::Ended(EndReason::Shutdown),
            "57P01",
            "terminating connection due to administrator command | Connect again. Another proxy may accept the connection.",
        ),
        (
            Refused::Ended(EndReason::Now),
            "57P01",
            "terminating connection due to administrator command | Connect again. Another proxy may accept the connection.",
        ),
    ]
}

#[test]
fn each_refusal_has_its_sqlstate_and_texts() {
    let mut seen = BTreeSet::new();
    for (refused, sqlstate, texts) in table() {
        seen.insert(number(&refused));
        let report = refused.report();
        let parts = [Some(report.message), report.detail, report.hint];
        let rendered: Vec<String> = parts.into_iter().flatten().collect();
        assert_eq!((report.state.code(), rendered.join(" | ").as_str()), (sqlstate, texts));
    }
    assert_eq!(seen, (0..VARIANTS).collect());
}
