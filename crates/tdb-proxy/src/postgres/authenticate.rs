//! Authentication, and the check that the client may open the database. Before the password is verified, an unknown user and
//! a wrong password take the same steps and get the same message; the database, the scope and the state are checked after.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::SystemTime;

use tdb_auth::ScramVerifier;
use tdb_contract::{Credential, Route, RouteState, Unavailable};
use tdb_names::{DatabaseName, UserName};
use tdb_wire_postgres::backend;
use tdb_wire_postgres::frame::parse_header;
use tdb_wire_postgres::login::parse_sasl_initial;
use tdb_wire_postgres::scram::{self, Binding, Outcome};
use tdb_wire_postgres::startup::Startup;
use tokio::time::sleep;

use super::refuse::Refusal;
use super::render::{Refused, SaslFault};
use crate::Plane;
use crate::stream::Stream;

/// The maximum length of a SASL message; SCRAM messages are far shorter.
const SASL_LEN_MAX: u32 = 4096;
/// The number of lookups of a login whose credential keeps changing in the meantime.
const RESOLVE_ATTEMPTS: usize = 5;
const PASSWORD_MESSAGE: u8 = b'p';

/// A credential whose password was verified. Only [`authenticate`] can create it.
pub(crate) struct Identity {
    user: UserName,
    pub credential: Rc<Credential>,
    _proven: (),
}

/// Runs the SCRAM exchange and verifies the password. Sends the messages up to AuthenticationSASLFinal, without
/// AuthenticationOk. Not cancel safe.
pub(crate) async fn authenticate(
    plane: &Plane,
    stream: &mut Stream,
    startup: &Startup,
    address: IpAddr,
) -> Result<Identity, Refusal> {
    let credential = match startup.user.parse::<UserName>() {
        Ok(user) => {
            let credential = plane.routes.credential(&user).await.map_err(unavailable)?;
            credential.map(|credential| (user, credential))
        }
        Err(_) => None,
    };
    let credential = credential.filter(|(_, found)| found.expires_at.is_none_or(|expiry| expiry > SystemTime::now()));
    // Always computed, so that the time does not show whether the user exists.
    let mock = ScramVerifier::mock(&startup.user, &plane.mock_secret);
    let verifier = credential
        .as_ref()
        .map_or(mock, |(_, found)| found.login.scram_sha_256.clone());
    let outcome = exchange(plane, stream, verifier).await?;
    match (outcome, credential) {
        (Outcome::Genuine(last), Some((user, credential))) => {
            plane.limits.login_succeeded(&startup.user, address);
            let mut out = Vec::new();
            backend::authentication_sasl_final(&mut out, &last);
            stream.write_all(&out).await.map_err(lost)?;
            Ok(Identity {
                user,
                credential,
                _proven: (),
            })
        }
        (Outcome::Genuine(_) | Outcome::WrongPassword, _) => {
            plane.metrics.login("wrong_password");
            sleep(plane.limits.login_failed(&startup.user, address)).await;
            Err(wrong_password(startup))
        }
    }
}

/// Resolves the requested database. The credential is still valid after the route was looked up: the client may have been
/// slow to answer, and a session that is not registered yet is not ended when its credential is revoked.
pub(crate) async fn resolve(
    plane: &Plane,
    mut identity: Identity,
    startup: &Startup,
) -> Result<(Identity, Rc<Route>), Refusal> {
    for _ in 0..RESOLVE_ATTEMPTS {
        let route = route(plane, &identity, startup).await?;
        let verified = &identity.credential;
        if plane.routes.holds(&identity.user, verified) {
            return Ok((identity, route));
        }
        let current = plane.routes.credential(&identity.user).await.map_err(unavailable)?;
        let is_same = |current: &Rc<Credential>| current.id == verified.id && current.login == verified.login;
        match current.filter(is_same) {
            Some(credential) => identity.credential = credential,
            None => return Err(wrong_password(startup)),
        }
    }
    Err(unavailable(Unavailable {
        reason: "the credential changed during each lookup".to_owned(),
    }))
}

/// The requested database.
pub(crate) fn database(startup: &Startup) -> Result<DatabaseName, Refusal> {
    let database = startup.database.parse();
    database.map_err(|fault| {
        let name = startup.database.clone();
        Refused::DatabaseName { name, fault }.into()
    })
}

/// The route to the requested database, if the credential's scope covers it and it accepts clients.
async fn route(plane: &Plane, identity: &Identity, startup: &Startup) -> Result<Rc<Route>, Refusal> {
    let credential = &identity.credential;
    let database = database(startup)?;
    if !credential.scope.covers(&database) {
        let user = startup.user.clone();
        return Err(Refused::OutOfScope { user, database }.into());
    }
    let route = plane
        .routes
        .route(&credential.project, &database, credential.rights)
        .await
        .map_err(unavailable)?;
    let Some(route) = route else {
        return Err(Refused::UnknownDatabase(database).into());
    };
    match route.state {
        RouteState::Active => Ok(route),
        RouteState::Suspended => Err(Refused::Suspended(database).into()),
        RouteState::Deleted => Err(Refused::Deleted(database).into()),
        RouteState::NotReady => Err(Refused::NotReady(database).into()),
        RouteState::Failed => Err(Refused::Failed(database).into()),
    }
}

async fn exchange(plane: &Plane, stream: &mut Stream, verifier: ScramVerifier) -> Result<Outcome, Refusal> {
    let binding = match (&plane.tls, stream.is_encrypted()) {
        (Some(tls), true) => tls
            .end_point_hash()
            .map_or(Binding::None, |hash| Binding::ServerEndPoint(hash.to_vec())),
        _ => Binding::None,
    };
    let mut out = Vec::new();
    backend::authentication_sasl(&mut out, scram::mechanisms(&binding));
    stream.write_all(&out).await.map_err(lost)?;
    let initial = read_sasl(stream).await?;
    let (mechanism, client_first) = parse_sasl_initial(&initial).ok_or(Refused::Sasl(SaslFault::Malformed))?;
    let (state, reply) = scram::begin(mechanism, client_first, &binding, verifier).map_err(Refused::Scram)?;
    out.clear();
    backend::authentication_sasl_continue(&mut out, &reply);
    stream.write_all(&out).await.map_err(lost)?;
    let proof = read_sasl(stream).await?;
    Ok(state.finish(&proof).map_err(Refused::Scram)?)
}

fn wrong_password(startup: &Startup) -> Refusal {
    let user = startup.user.clone();
    Refused::WrongPassword { user }.into()
}

async fn read_sasl(stream: &mut Stream) -> Result<Vec<u8>, Refusal> {
    let mut header = [0; 5];
    stream.read_exact(&mut header).await.map_err(lost)?;
    let header = parse_header(header).map_err(|error| Refused::Sasl(SaslFault::Length(error)))?;
    if header.tag != PASSWORD_MESSAGE {
        return Err(Refused::Sasl(SaslFault::Tag(header.tag)).into());
    }
    if header.body_len > SASL_LEN_MAX {
        return Err(Refused::Sasl(SaslFault::TooLong).into());
    }
    let mut body = vec![0; usize::try_from(header.body_len).unwrap_or(0)];
    stream.read_exact(&mut body).await.map_err(lost)?;
    Ok(body)
}

fn unavailable(error: Unavailable) -> Refusal {
    tracing::warn!(%error, "cannot look up the credential or the route of a login");
    Refused::ControlPlaneUnavailable.into()
}

fn lost(error: std::io::Error) -> Refusal {
    Refusal::silent("the connection was lost during authentication", error)
}
