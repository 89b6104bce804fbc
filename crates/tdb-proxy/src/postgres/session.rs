//! One client from accept to its end. This function owns the order of things; the modules beside it are its steps.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::net::IpAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tdb_auth::{NoRandom, unguessable};
use tdb_contract::{ClientLimit, Place, PostgresPlace, Repair, Rights, Route, RouteKind, SessionStart};
use tdb_wire_postgres::backend;
use tdb_wire_postgres::startup::Startup;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{Instrument, field};

use super::authenticate::{self, Identity};
use super::capture::Capture;
use super::dial::{self, DialError, Dialled};
use super::read_only::{self, ReadOnly};
use super::refuse::Refusal;
use super::relay::{End, Relay, Tap};
use super::render::Refused;
use super::startup::{self, Hello};
use super::{cancel, cancel::CancelKey};
use crate::Plane;
use crate::limits::Admission;
use crate::sessions::{EndReason, Live, Registered};
use crate::stream::Stream;

/// Set by us at login; makes the journal say when it was written to.
const CAPTURE_SETTING: &str = "tdb.session";
/// Setting a role again is two statements at its server.
const REPAIR_TIME_MAX: Duration = Duration::from_secs(5);
/// Registering the author must not hold up a login for longer.
const REGISTER_TIME_MAX: Duration = Duration::from_secs(1);
/// What a client gets to read the last words.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(1);
/// Protocol 3.0 has room for 4 bytes, 3.2 for up to 256.
const LONG_SECRET_LEN: usize = 32;

/// A session at its server, of which the client does not know yet.
struct Opened<'p> {
    registered: Registered<'p>,
    dialled: Dialled,
    tap: Tap,
}

/// A session that can be relayed.
struct Session<'p> {
    relay: Relay<'p>,
    key: CancelKey<'p>,
    registered: Registered<'p>,
    /// When its credential runs out.
    expires_at: Option<SystemTime>,
}

/// Serves one connection to its end.
pub(crate) async fn serve(plane: &Plane, stream: TcpStream, address: IpAddr, admission: Admission) {
    let deadline = Instant::now() + plane.settings.login_timeout;
    match timeout_at(deadline, startup::listen(plane, stream)).await {
        Err(_) => {
            plane.metrics.login("timeout");
            tracing::info!(%address, "a client did not log in in time");
        }
        Ok(Err(refusal)) => refusal.say(plane).await,
        Ok(Ok(Hello::Gone)) => tracing::debug!(%address, "a client went away without a word"),
        Ok(Ok(Hello::Cancel(stream, request))) => cancel::cancel(plane, stream, request).await,
        Ok(Ok(Hello::Startup(stream, _))) if admission == Admission::Full => {
            plane.metrics.login("too_many");
            let clients_max = plane.limits.clients_max();
            let refusal = Refusal::from(Refused::TooManyClients { clients_max });
            refusal.on(stream).say(plane).await;
        }
        Ok(Ok(Hello::Startup(stream, startup))) => {
            let span = tracing::info_span!("session", id = field::Empty, user = startup.user, database = startup.database, %address);
            let begun = begin(plane, stream, startup, address, deadline)
                .instrument(span.clone())
                .await;
            if let Some(mut session) = begun {
                plane.metrics.sessions.inc();
                // Outside the span: it would be entered for every query.
                let end = tokio::select! {
                    biased;
                    end = session.relay.run() => end,
                    never = expire(&session.registered.live, session.expires_at) => match never {},
                };
                plane.metrics.sessions.dec();
                take_leave(plane, session, end).instrument(span).await;
            }
        }
    }
}

/// From the startup packet to the first ReadyForQuery; whoever is refused is told so here.
async fn begin(
    plane: &Plane,
    mut stream: Stream,
    mut startup: Startup,
    address: IpAddr,
    deadline: Instant,
) -> Option<Session<'_>> {
    let (identity, route) = match timeout_at(deadline, log_in(plane, &mut stream, &mut startup, address)).await {
        Ok(Ok(found)) => found,
        Ok(Err(refusal)) => {
            refusal.on(stream).say(plane).await;
            return None;
        }
        Err(_) => {
            plane.metrics.login("timeout");
            tracing::info!("the client did not log in in time");
            return None;
        }
    };
    match open(plane, &startup, &identity, &route, address).await {
        Ok(opened) => {
            let expires_at = identity.credential.expires_at;
            greet(plane, stream, &startup, &route, opened, expires_at).await
        }
        Err(refusal) => {
            refusal.on(stream).say(plane).await;
            None
        }
    }
}

async fn log_in(
    plane: &Plane,
    stream: &mut Stream,
    startup: &mut Startup,
    address: IpAddr,
) -> Result<(Identity, Rc<Route>), Refusal> {
    refuse_replication(startup)?;
    if let Some(unsupported) = &startup.unsupported {
        let mut out = Vec::new();
        backend::negotiate_protocol_version(&mut out, startup.minor, unsupported);
        stream.write_all(&out).await.map_err(lost)?;
    }
    let identity = authenticate::authenticate(plane, stream, startup, address).await?;
    authenticate::resolve(plane, identity, startup).await
}

/// Walsenders belong to a server, not to a database.
fn refuse_replication(startup: &mut Startup) -> Result<(), Refusal> {
    let is_off = |value: &str| ["false", "off", "no", "0", "f", "n"].contains(&value.to_ascii_lowercase().as_str());
    let wanted = startup
        .parameters
        .iter()
        .any(|(name, value)| name == "replication" && !is_off(value));
    startup.parameters.retain(|(name, _)| name != "replication");
    if wanted {
        return Err(Refused::Replication.into());
    }
    Ok(())
}

/// Registers the session and logs it in at its server.
async fn open<'p>(
    plane: &'p Plane,
    startup: &Startup,
    identity: &Identity,
    route: &Rc<Route>,
    address: IpAddr,
) -> Result<Opened<'p>, Refusal> {
    let clients_max = match route.clients_max {
        ClientLimit::Unlimited => plane.settings.database_clients_max,
        ClientLimit::At(max) => max,
    };
    // Registered before the server is dialled: a suspension in between ends this session too.
    let Some(registered) = plane.sessions.register(route.kind, identity.credential.id, clients_max) else {
        plane.metrics.login("too_many");
        let database = startup.database.clone();
        return Err(Refused::TooManyDatabaseClients { database, clients_max }.into());
    };
    let dialled = dial_server(plane, &registered, startup, identity.credential.rights, route).await;
    let dialled = dialled.inspect_err(|_| plane.metrics.login("server"))?;
    let tap = tap(plane, identity.credential.rights, route, &dialled)?;
    announce(plane, startup, identity, route, address, dialled.key.pid).await;
    plane.metrics.login("ok");
    tracing::Span::current().record("id", registered.live.id);
    tracing::info!(server = %place(route).server.name, pid = dialled.key.pid, "session begins");
    Ok(Opened {
        registered,
        dialled,
        tap,
    })
}

/// What a session that only reads runs in a workspace is never captured.
fn tap(plane: &Plane, rights: Rights, route: &Route, dialled: &Dialled) -> Result<Tap, Refusal> {
    match (rights, route.kind) {
        (Rights::ReadOnly, _) => {
            let Some(guard) = ReadOnly::new(&dialled.greeting, plane.metrics.clone()) else {
                plane.metrics.login("server");
                tracing::error!(server = %place(route).server.name, "the server does not report default_transaction_read_only");
                return Err(Refused::NotReadOnly.into());
            };
            Ok(Tap::ReadOnly(Box::new(guard)))
        }
        (Rights::ReadWrite, RouteKind::Workspace(workspace)) => {
            let (sink, metrics) = (plane.sink.clone(), plane.metrics.clone());
            let capture = Capture::new(sink, workspace, dialled.key.pid, metrics);
            Ok(Tap::Capture(Box::new(capture)))
        }
        (Rights::ReadWrite, RouteKind::Tenant(_)) => Ok(Tap::Nothing),
    }
}

/// Dials with the client's parameters and ours. A login that the server refuses is reported to the control plane, as a
/// client may have changed the role, and tried once more where that was so.
async fn dial_server(
    plane: &Plane,
    registered: &Registered<'_>,
    startup: &Startup,
    rights: Rights,
    route: &Rc<Route>,
) -> Result<Dialled, Refusal> {
    let mut parameters = startup.parameters.clone();
    parameters.retain(|(name, _)| name != CAPTURE_SETTING);
    match (rights, route.kind) {
        // The last one counts, and RESET goes back to it.
        (Rights::ReadOnly, _) => parameters.push((read_only::SETTING.to_owned(), "on".to_owned())),
        (Rights::ReadWrite, RouteKind::Workspace(_)) => parameters.push((CAPTURE_SETTING.to_owned(), "1".to_owned())),
        (Rights::ReadWrite, RouteKind::Tenant(_)) => {}
    }
    let told = poll_fn(|cx| registered.live.poll_end(cx).map_or(Poll::Pending, Poll::Ready));
    let dialled = async {
        let first = dial_once(plane, route, &parameters).await;
        match first {
            Err(DialError::Refused { parsed, .. }) if may_be_changed(&parsed.code) && repair(plane, route).await => {
                dial_once(plane, route, &parameters).await
            }
            other => other,
        }
    };
    tokio::select! {
        biased;
        reason = told => Err(Refused::Ended(reason).into()),
        dialled = dialled => dialled.map_err(|error| dial_refusal(route, error)),
    }
}

async fn dial_once(plane: &Plane, route: &Rc<Route>, parameters: &[(String, String)]) -> Result<Dialled, DialError> {
    let dialled = dial::dial(&plane.upstream_tls, place(route), parameters);
    let limit = plane.settings.upstream_connect_timeout;
    timeout(limit, dialled).await.unwrap_or(Err(DialError::Deadline))
}

/// Wrong password or role, a library that cannot be loaded: what a role can do to itself.
fn may_be_changed(sqlstate: &str) -> bool {
    sqlstate.starts_with("28") || sqlstate.starts_with("58") || sqlstate == "XX000"
}

async fn repair(plane: &Plane, route: &Route) -> bool {
    match timeout(REPAIR_TIME_MAX, plane.sink.login_refused(route.kind)).await {
        Ok(Ok(Repair::Done)) => true,
        Ok(Ok(Repair::NotNeeded)) => false,
        Ok(Err(error)) => {
            tracing::warn!(%error, role = place(route).role, "a role that its server refuses cannot be checked");
            false
        }
        Err(_) => {
            tracing::warn!(
                role = place(route).role,
                "checking a role that its server refuses takes too long"
            );
            false
        }
    }
}

/// The listener of PostgreSQL's protocol serves no other engine's routes.
fn place(route: &Route) -> &PostgresPlace {
    let Place::Postgres(place) = &route.place;
    place
}

/// The server's own words reach the client, unless they are about our credential, which is no fault of the client's.
fn dial_refusal(route: &Route, error: DialError) -> Refusal {
    let server = &place(route).server.name;
    match error {
        DialError::Refused { parsed, frame } => match parsed.code.as_str() {
            "28P01" | "28000" => {
                tracing::error!(%server, role = place(route).role, sqlstate = parsed.code, "secret_out_of_step: the database server refuses the proxy's credential");
                Refused::ServerLogin.into()
            }
            _ => Refusal::server(frame, parsed.code),
        },
        DialError::Deadline => {
            tracing::warn!(%server, "the database server does not answer in time");
            Refused::ServerSilent.into()
        }
        error => {
            let source = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            tracing::warn!(%server, %error, source, "cannot log in at the database server");
            Refused::ServerUnreachable.into()
        }
    }
}

/// Tells the change log who speaks, before the client can say anything.
async fn announce(plane: &Plane, startup: &Startup, identity: &Identity, route: &Route, address: IpAddr, pid: i32) {
    let RouteKind::Workspace(workspace) = route.kind else {
        return;
    };
    let application_name = startup.parameters.iter().find(|(name, _)| name == "application_name");
    let start = SessionStart {
        workspace,
        server: place(route).server.name.clone(),
        server_pid: pid,
        credential: identity.credential.id,
        client: address,
        application_name: application_name.map(|(_, value)| value.clone()).unwrap_or_default(),
    };
    match timeout(REGISTER_TIME_MAX, plane.sink.session_started(start)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "changes of this session will not know their author"),
        Err(_) => tracing::warn!("changes of this session will not know their author: registering takes too long"),
    }
}

/// Sends everything from AuthenticationOk to ReadyForQuery, with a cancel key of ours in place of the server's.
async fn greet<'p>(
    plane: &'p Plane,
    mut stream: Stream,
    startup: &Startup,
    route: &Rc<Route>,
    opened: Opened<'p>,
    expires_at: Option<SystemTime>,
) -> Option<Session<'p>> {
    let Opened {
        registered,
        dialled,
        tap,
    } = opened;
    let Ok(secret) = cancel_secret(startup) else {
        Refusal::from(Refused::NoRandom).on(stream).say(plane).await;
        return None;
    };
    let mut out = Vec::new();
    backend::authentication_ok(&mut out);
    out.extend_from_slice(&dialled.greeting);
    backend::backend_key_data(&mut out, dialled.key.pid, &secret);
    out.extend_from_slice(&dialled.ready);
    let key = plane
        .cancel_keys
        .insert(dialled.key.pid, secret, place(route).server.clone(), dialled.key.secret);
    match timeout(FAREWELL_TIME_MAX, stream.write_all(&out)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => {
            tracing::info!("session ends: the client is gone");
            return None;
        }
    }
    let counters = [&plane.metrics.from_clients_bytes, &plane.metrics.to_clients_bytes];
    let live = registered.live.clone();
    let relay = Relay::new(stream, dialled.stream, tap, live, &plane.scratch, counters);
    Some(Session {
        relay,
        key,
        registered,
        expires_at,
    })
}

fn cancel_secret(startup: &Startup) -> Result<Vec<u8>, NoRandom> {
    match startup.minor {
        0 | 1 => Ok(unguessable::<4>()?.to_vec()),
        _ => Ok(unguessable::<LONG_SECRET_LEN>()?.to_vec()),
    }
}

/// Tells the session to end when its credential runs out, and has nothing to say itself.
async fn expire(live: &Live, expires_at: Option<SystemTime>) -> Infallible {
    if let Some(at) = expires_at {
        // Past already: it ran out during the login.
        sleep(at.duration_since(SystemTime::now()).unwrap_or_default()).await;
        live.tell(EndReason::CredentialExpired);
    }
    pending().await
}

async fn take_leave(plane: &Plane, session: Session<'_>, end: End) {
    let Session {
        mut relay,
        key,
        registered,
        ..
    } = session;
    // Before the server connection closes: its pid may be another session's next.
    drop(key);
    let refused = log_end(end);
    if relay.is_lost() {
        tracing::warn!("the server's replies did not fit the client's requests");
    }
    let mut last_words = Vec::new();
    if let Some(refused) = refused.filter(|_| relay.may_speak()) {
        refused.report().write(&mut last_words);
        plane.metrics.refusal(refused.sqlstate().code());
    }
    // The server's work ends first; the client may take its time to read.
    drop(relay.server);
    let _ = timeout(FAREWELL_TIME_MAX, async {
        if !last_words.is_empty() {
            relay.client.write_all(&last_words).await?;
        }
        relay.client.shutdown().await
    })
    .await;
    // Whoever waits for the session's end need not wait for its client.
    drop(registered);
    let _ = timeout(FAREWELL_TIME_MAX, relay.client.linger()).await;
}

/// Logs how a session ended; gives what its client has to be told.
fn log_end(end: End) -> Option<Refused> {
    match end {
        End::Server => {
            tracing::info!("session ends");
            None
        }
        End::ClientLost(error) => {
            tracing::info!(%error, "session ends: the client is gone");
            None
        }
        End::ServerLost(error) => {
            tracing::warn!(%error, "session ends: the connection to the server was lost");
            Some(Refused::ServerLost)
        }
        End::ClientDesync(error) => {
            tracing::info!(%error, "session ends: the client broke the protocol");
            Some(Refused::ClientDesync(error))
        }
        End::ServerDesync(error) => {
            tracing::error!(%error, "session ends: the server broke the protocol");
            None
        }
        End::MayWrite => {
            tracing::warn!("session ends: a read-only client changed what its transactions may do");
            Some(Refused::MayWrite)
        }
        End::Told(reason) => {
            tracing::info!(?reason, "session ends: it was told to");
            Some(Refused::Ended(reason))
        }
    }
}

fn lost(error: std::io::Error) -> Refusal {
    Refusal::silent("the connection was lost during login", error)
}
