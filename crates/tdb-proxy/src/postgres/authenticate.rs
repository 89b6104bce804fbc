//! Who is it, and what may it open. Until the password is proven, an unknown user and a wrong password take the same steps
//! and get the same words; only then are the database, its scope and its state looked at.

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

/// Longer SASL messages are no SCRAM.
const SASL_LEN_MAX: u32 = 4096;
/// How often a login looks again for what was taken back while it looked.
const RESOLVE_TRIES: usize = 5;
const PASSWORD_MESSAGE: u8 = b'p';

/// A credential whose password was proven. Only [`authenticate`] makes one.
pub(crate) struct Identity {
    user: UserName,
    pub credential: Rc<Credential>,
    _proven: (),
}

/// Asks for the password and checks it. Writes up to AuthenticationSASLFinal, not AuthenticationOk. Not cancel safe.
pub(crate) async fn authenticate(
    plane: &Plane,
    stream: &mut Stream,
    startup: &Startup,
    address: IpAddr,
) -> Result<Identity, Refusal> {
    let known = match startup.user.parse::<UserName>() {
        Ok(user) => {
            let credential = plane.routes.credential(&user).await.map_err(unavailable)?;
            credential.map(|credential| (user, credential))
        }
        Err(_) => None,
    };
    let known = known.filter(|(_, known)| known.expires_at.is_none_or(|expiry| expiry > SystemTime::now()));
    // The mock costs the same whether it is used or not.
    let mock = ScramVerifier::mock(&startup.user, &plane.mock_secret);
    let verifier = known
        .as_ref()
        .map_or(mock, |(_, known)| known.login.scram_sha_256.clone());
    let outcome = exchange(plane, stream, verifier).await?;
    match (outcome, known) {
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

/// Finds the database the client asked for. When it returns, neither the credential nor the route has been taken back
/// meanwhile: a client may take its time between its messages, and its session is not registered yet, so nobody could
/// tell it to end.
pub(crate) async fn resolve(
    plane: &Plane,
    mut identity: Identity,
    startup: &Startup,
) -> Result<(Identity, Rc<Route>), Refusal> {
    for _ in 0..RESOLVE_TRIES {
        let route = route(plane, &identity, startup).await?;
        let proven = &identity.credential;
        if plane.routes.holds(&identity.user, proven) {
            return Ok((identity, route));
        }
        let now = plane.routes.credential(&identity.user).await.map_err(unavailable)?;
        let same = |now: &Rc<Credential>| now.id == proven.id && now.login == proven.login;
        match now.filter(same) {
            Some(credential) => identity.credential = credential,
            None => return Err(wrong_password(startup)),
        }
    }
    Err(unavailable(Unavailable {
        reason: "the credential changes all the time".to_owned(),
    }))
}

/// Where the database is, if this identity may open it.
async fn route(plane: &Plane, identity: &Identity, startup: &Startup) -> Result<Rc<Route>, Refusal> {
    let credential = &identity.credential;
    let database: DatabaseName = startup.database.parse().map_err(|fault| Refused::DatabaseName {
        name: startup.database.clone(),
        fault,
    })?;
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
    tracing::warn!(%error, "cannot look up a login");
    Refused::ControlPlaneUnavailable.into()
}

fn lost(error: std::io::Error) -> Refusal {
    Refusal::silent("the connection was lost during authentication", error)
}
