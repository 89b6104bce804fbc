//! One client connection, from accept to close. [`serve`] controls the order of the steps; the steps are the other modules.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::net::IpAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tdb_auth::{NoRandom, unguessable};
use tdb_contract::{Place, PoolMode, PostgresPlace, Rights, Route, RouteKind, SessionStart};
use tdb_wire_postgres::backend;
use tdb_wire_postgres::startup::Startup;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{Instrument, field};

use super::authenticate::{self, Identity};
use super::cancel::Running;
use super::capture::Capture;
use super::dial::{DialError, Dialled};
use super::pool::{AcquireError, PoolKey, SessionState};
use super::pooled::Pooled;
use super::read_only::{self, ReadOnly};
use super::refuse::Refusal;
use super::relay::{End, Relay, Tap};
use super::render::{ClientLimit, Refused};
use super::server_login;
use super::startup::{self, Hello};
use super::{cancel, cancel::CancelKey};
use crate::Plane;
use crate::limits::Admission;
use crate::sessions::{EndReason, LiveSession, Registered};
use crate::stream::Stream;

/// The proxy sets this at login; with it, the journal's triggers report what they record.
const CAPTURE_SETTING: &str = "tdb.session";
/// The time limit for registering the author of changes, which delays the login.
const REGISTER_TIME_MAX: Duration = Duration::from_secs(1);
/// The time limit for sending the last message to a client.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);
/// The length of cancel secrets in protocol 3.2, which allows up to 256 bytes. Those of protocol 3.0 have 4.
const LONG_SECRET_LEN: usize = 32;

/// A session that is open on the server, before the client is notified.
struct Opened<'p> {
    registered: Registered<'p>,
    server: OpenedServer,
}

enum OpenedServer {
    /// A connection that only this session uses.
    Dialled(Dialled, Tap),
    /// Connections that the clients of the database share.
    Shared(Rc<PoolKey>, Rc<SessionState>, Rc<[u8]>),
}

/// A session that is open on both sides.
struct RelayedSession<'p> {
    relay: AnyRelay<'p>,
    key: CancelKey<'p>,
    registered: Registered<'p>,
    /// When its credential expires.
    expires_at: Option<SystemTime>,
}

enum AnyRelay<'p> {
    Whole(Box<Relay<'p>>),
    Pooled(Box<Pooled<'p>>),
}

impl AnyRelay<'_> {
    async fn run(&mut self) -> End {
        match self {
            AnyRelay::Whole(relay) => relay.run().await,
            AnyRelay::Pooled(relay) => relay.run().await,
        }
    }

    fn can_insert_message(&self) -> bool {
        match self {
            AnyRelay::Whole(relay) => relay.can_insert_message(),
            AnyRelay::Pooled(relay) => relay.can_insert_message(),
        }
    }

    fn is_lost(&self) -> bool {
        match self {
            AnyRelay::Whole(relay) => relay.is_lost(),
            AnyRelay::Pooled(relay) => relay.is_lost(),
        }
    }

    /// Ends the server session, or gives the connection back. Returns the client's stream.
    fn end_server(self) -> Stream {
        match self {
            AnyRelay::Whole(relay) => relay.client,
            AnyRelay::Pooled(mut relay) => {
                relay.end_server();
                relay.client
            }
        }
    }
}

/// Serves one connection until it is closed.
pub(crate) async fn serve(plane: &Plane, stream: TcpStream, address: IpAddr, admission: Admission) {
    let deadline = Instant::now() + plane.settings.login_timeout;
    match timeout_at(deadline, startup::listen(plane, stream)).await {
        Err(_) => {
            plane.metrics.login("timeout");
            tracing::info!(%address, "login timed out");
        }
        Ok(Err(refusal)) => refusal.send(plane).await,
        Ok(Ok(Hello::Gone)) => tracing::debug!(%address, "client closed the connection without a startup packet"),
        Ok(Ok(Hello::Cancel(stream, request))) => cancel::cancel(plane, stream, request).await,
        Ok(Ok(Hello::Startup(stream, _))) if admission == Admission::BeyondLimit => {
            plane.metrics.login("too_many");
            let clients_max = plane.limits.clients_max();
            let refusal = Refusal::from(Refused::TooManyClients { clients_max });
            refusal.on(stream).send(plane).await;
        }
        Ok(Ok(Hello::Startup(stream, startup))) => {
            let span = tracing::info_span!("session", id = field::Empty, user = startup.user, database = startup.database, %address);
            let session = begin(plane, stream, startup, address, deadline)
                .instrument(span.clone())
                .await;
            if let Some(mut session) = session {
                plane.metrics.sessions.inc();
                // Outside the span, which would be entered at every poll.
                let end = tokio::select! {
                    biased;
                    end = session.relay.run() => end,
                    never = expire(&session.registered.live, session.expires_at) => match never {},
                };
                plane.metrics.sessions.dec();
                close(plane, session, end).instrument(span).await;
            }
        }
    }
}

/// Continues from the startup packet to the first ReadyForQuery. `None` if the client was refused; it has then received the
/// error.
async fn begin(
    plane: &Plane,
    mut stream: Stream,
    mut startup: Startup,
    address: IpAddr,
    deadline: Instant,
) -> Option<RelayedSession<'_>> {
    let (identity, route) = match timeout_at(deadline, log_in(plane, &mut stream, &mut startup, address)).await {
        Ok(Ok(resolved)) => resolved,
        Ok(Err(refusal)) => {
            refusal.on(stream).send(plane).await;
            return None;
        }
        Err(_) => {
            plane.metrics.login("timeout");
            tracing::info!("login timed out");
            return None;
        }
    };
    match open(plane, &startup, &identity, &route, address).await {
        Ok(opened) => {
            let expires_at = identity.credential.expires_at;
            start_relay(plane, stream, &startup, &route, opened, expires_at).await
        }
        Err(refusal) => {
            refusal.on(stream).send(plane).await;
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

/// Refuses replication: a walsender serves a whole server, not one database.
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

/// Registers the session and logs in to its server.
async fn open<'p>(
    plane: &'p Plane,
    startup: &Startup,
    identity: &Identity,
    route: &Rc<Route>,
    address: IpAddr,
) -> Result<Opened<'p>, Refusal> {
    let limit = match route.limits.clients_max {
        None => ClientLimit::Proxy(plane.settings.database_clients_max),
        Some(max) => ClientLimit::Tenant(max),
    };
    // Before the connection to the server, so that a suspension in the meantime ends this session too.
    let Some(registered) = plane.sessions.register(route.kind, identity.credential.id, limit.max()) else {
        plane.metrics.login("too_many");
        let database = startup.database.clone();
        return Err(Refused::TooManyDatabaseClients { database, limit }.into());
    };
    let rights = identity.credential.rights;
    let server = match (pool_mode(plane, route), rights, route.kind) {
        (PoolMode::Auto, Rights::ReadWrite, RouteKind::Tenant(_)) => {
            let shared = open_shared(plane, &registered, startup, identity, route).await;
            shared.inspect_err(|_| plane.metrics.login("server"))?
        }
        _ => {
            let dialled = dial_server(plane, &registered, startup, rights, route).await;
            let dialled = dialled.inspect_err(|_| plane.metrics.login("server"))?;
            let tap = tap(plane, rights, route, &dialled)?;
            register_author(plane, startup, identity, route, address, dialled.key.pid).await;
            OpenedServer::Dialled(dialled, tap)
        }
    };
    plane.metrics.login("ok");
    tracing::Span::current().record("id", registered.live.id);
    let pid = match &server {
        OpenedServer::Dialled(dialled, _) => Some(dialled.key.pid),
        OpenedServer::Shared(..) => None,
    };
    tracing::info!(server = %place(route).server.name, pid, "session started");
    Ok(Opened { registered, server })
}

fn pool_mode(plane: &Plane, route: &Route) -> PoolMode {
    route.limits.pool_mode.unwrap_or(plane.settings.pool_mode)
}

/// Gets the server's greeting: from the last login with the same parameters, or with a connection.
async fn open_shared(
    plane: &Plane,
    registered: &Registered<'_>,
    startup: &Startup,
    identity: &Identity,
    route: &Rc<Route>,
) -> Result<OpenedServer, Refusal> {
    let place = place(route);
    let database = authenticate::database(startup)?;
    let project = &identity.credential.project;
    let key = Rc::new(PoolKey {
        kind: route.kind,
        share: plane.pool.share(route.kind, project, &database, route.limits),
        server: (*place.server).clone(),
        database: place.database.clone(),
        role: place.role.clone(),
        parameters: startup.parameters.clone(),
    });
    let state = Rc::new(SessionState::default());
    if let Some(greeting) = plane.pool.greeting(&key) {
        return Ok(OpenedServer::Shared(key, state, greeting));
    }
    let end_requested = poll_fn(|cx| registered.live.poll_end(cx).map_or(Poll::Pending, Poll::Ready));
    let acquired = tokio::select! {
        biased;
        reason = end_requested => return Err(Refused::Ended(reason).into()),
        acquired = plane.pool.acquire(plane, &key, place, &state) => acquired,
    };
    match acquired {
        Ok(connection) => {
            state.between_messages.set(true);
            plane.pool.release(&state, connection);
        }
        Err(AcquireError::Dial(error)) => return Err(dial_refusal(route, error)),
        Err(error) => return Err(no_connection(error).into()),
    }
    let greeting = plane.pool.greeting(&key).unwrap_or_else(|| Rc::from([]));
    Ok(OpenedServer::Shared(key, state, greeting))
}

/// Why a session got no server connection, as an error for its client.
fn no_connection(error: AcquireError) -> Refused {
    match error {
        AcquireError::Dial(DialError::Deadline) => Refused::ServerSilent,
        AcquireError::Dial(DialError::Refused { .. }) => Refused::ServerLogin,
        AcquireError::Dial(_) => Refused::ServerUnreachable,
        AcquireError::Full { limit, waited } => Refused::NoServerConnection { limit, waited },
        AcquireError::Lost | AcquireError::Restore(_) => Refused::StateLost,
    }
}

/// How the session's messages are processed. Read-only sessions of a workspace are not captured.
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

/// Logs in to the server with the client's startup parameters and the proxy's. If the server refuses, a client may have
/// changed the role: the control plane checks it, and the login is retried once if the role was restored.
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
        // The last value of a parameter wins, and RESET restores it.
        (Rights::ReadOnly, _) => parameters.push((read_only::SETTING.to_owned(), "on".to_owned())),
        (Rights::ReadWrite, RouteKind::Workspace(_)) => parameters.push((CAPTURE_SETTING.to_owned(), "1".to_owned())),
        (Rights::ReadWrite, RouteKind::Tenant(_)) => {}
    }
    let end_requested = poll_fn(|cx| registered.live.poll_end(cx).map_or(Poll::Pending, Poll::Ready));
    let dialled = server_login::log_in(plane, route.kind, place(route), &parameters);
    tokio::select! {
        biased;
        reason = end_requested => Err(Refused::Ended(reason).into()),
        dialled = dialled => dialled.map_err(|error| dial_refusal(route, error)),
    }
}

/// Where the database is. Routes of other engines cannot reach this listener.
fn place(route: &Route) -> &PostgresPlace {
    let Place::Postgres(place) = &route.place;
    place
}

/// The refusal for a failed login to the server. The client gets the server's error, unless it is about the proxy's own
/// login, which the client cannot correct.
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
            tracing::warn!(%server, "timed out connecting to the database server");
            Refused::ServerSilent.into()
        }
        error => {
            let source = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            tracing::warn!(%server, %error, source, "cannot log in to the database server");
            Refused::ServerUnreachable.into()
        }
    }
}

/// Registers the author of changes in a workspace, before the client can send a statement.
async fn register_author(
    plane: &Plane,
    startup: &Startup,
    identity: &Identity,
    route: &Route,
    address: IpAddr,
    pid: i32,
) {
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
        Ok(Err(error)) => tracing::warn!(%error, "changes of this session will have no author"),
        Err(_) => tracing::warn!("changes of this session will have no author: registering it timed out"),
    }
}

/// Sends the client the messages from AuthenticationOk to ReadyForQuery, with the proxy's cancel key instead of the server's.
async fn start_relay<'p>(
    plane: &'p Plane,
    mut stream: Stream,
    startup: &Startup,
    route: &Rc<Route>,
    opened: Opened<'p>,
    expires_at: Option<SystemTime>,
) -> Option<RelayedSession<'p>> {
    let Opened { registered, server } = opened;
    let Ok(secret) = cancel_secret(startup) else {
        Refusal::from(Refused::NoRandom).on(stream).send(plane).await;
        return None;
    };
    let running = Rc::new(Running::default());
    let (greeting, pid): (&[u8], i32) = match &server {
        OpenedServer::Dialled(dialled, _) => {
            running.set(Some(dialled.key));
            (&dialled.greeting, dialled.key.pid)
        }
        OpenedServer::Shared(_, state, greeting) => {
            *state.told.borrow_mut() = greeting.clone();
            (greeting, session_pid(registered.live.id))
        }
    };
    let mut out = Vec::new();
    backend::authentication_ok(&mut out);
    out.extend_from_slice(greeting);
    backend::backend_key_data(&mut out, pid, &secret);
    backend::ready_for_query(&mut out);
    let key = plane
        .cancel_keys
        .insert(pid, secret, place(route).server.clone(), running.clone());
    let live = registered.live.clone();
    match timeout(CLOSE_TIME_MAX, stream.write_all(&out)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => {
            tracing::info!("session ended: the connection to the client was lost");
            if let OpenedServer::Shared(key, state, _) = server {
                plane.pool.session_ended(&key, &state, None);
            }
            return None;
        }
    }
    let relay = match server {
        OpenedServer::Dialled(dialled, tap) => {
            let counters = [&plane.metrics.from_clients_bytes, &plane.metrics.to_clients_bytes];
            let relay = Relay::new(stream, dialled.stream, tap, live, &plane.scratch, counters);
            AnyRelay::Whole(Box::new(relay))
        }
        OpenedServer::Shared(key, state, _) => {
            let relay = Pooled::new(plane, stream, key, place(route).clone(), state, running, live);
            AnyRelay::Pooled(Box::new(relay))
        }
    };
    Some(RelayedSession {
        relay,
        key,
        registered,
        expires_at,
    })
}

/// The pid that a client is told if its statements run in changing server processes.
fn session_pid(session: u64) -> i32 {
    i32::try_from(session % (i32::MAX as u64)).unwrap_or(0) + 1
}

fn cancel_secret(startup: &Startup) -> Result<Vec<u8>, NoRandom> {
    match startup.minor {
        0 | 1 => Ok(unguessable::<4>()?.to_vec()),
        _ => Ok(unguessable::<LONG_SECRET_LEN>()?.to_vec()),
    }
}

/// Requests the end of the session when its credential expires. Never returns.
async fn expire(live: &LiveSession, expires_at: Option<SystemTime>) -> Infallible {
    if let Some(at) = expires_at {
        // Zero if it expired during the login.
        sleep(at.duration_since(SystemTime::now()).unwrap_or_default()).await;
        live.request_end(EndReason::CredentialExpired);
    }
    pending().await
}

async fn close(plane: &Plane, session: RelayedSession<'_>, end: End) {
    let RelayedSession {
        relay, key, registered, ..
    } = session;
    // Before the server connection is closed, since another session can then get its pid.
    drop(key);
    let refused = log_end(end);
    if relay.is_lost() {
        tracing::warn!("the server's replies did not match the client's requests");
    }
    let mut last_message = Vec::new();
    if let Some(refused) = refused.filter(|_| relay.can_insert_message()) {
        refused.report().write(&mut last_message);
        plane.metrics.refusal(refused.sqlstate().code());
    }
    // The server session ends first, since the client may be slow to read.
    let mut client = relay.end_server();
    let _ = timeout(CLOSE_TIME_MAX, async {
        if !last_message.is_empty() {
            client.write_all(&last_message).await?;
        }
        client.shutdown().await
    })
    .await;
    // The session now counts as ended; waiters need not wait for the client.
    drop(registered);
    let _ = timeout(CLOSE_TIME_MAX, client.linger()).await;
}

/// Logs how a session ended. Returns the error to send to its client, if any.
fn log_end(end: End) -> Option<Refused> {
    match end {
        End::Server => {
            tracing::info!("session ended");
            None
        }
        End::ClientLost(error) => {
            tracing::info!(%error, "session ended: the connection to the client was lost");
            None
        }
        End::ServerLost(error) => {
            tracing::warn!(%error, "session ended: the connection to the server was lost");
            Some(Refused::ServerLost)
        }
        End::ClientDesync(error) => {
            tracing::info!(%error, "session ended: the client violated the protocol");
            Some(Refused::ClientDesync(error))
        }
        End::ServerDesync(error) => {
            tracing::error!(%error, "session ended: the server violated the protocol");
            None
        }
        End::MayWrite => {
            tracing::warn!("session ended: a read-only session is no longer certain to be read-only");
            Some(Refused::MayWrite)
        }
        End::NoConnection(error) => {
            tracing::warn!(%error, "session ended: no server connection");
            Some(no_connection(error))
        }
        End::TooManyStatements => {
            tracing::info!("session ended: the client's prepared statements are too long");
            Some(Refused::TooManyStatements)
        }
        End::ResultChanged => {
            tracing::info!(
                "session ended: a prepared statement has other parameters or columns than the client was told"
            );
            Some(Refused::ResultChanged)
        }
        End::Requested(reason) => {
            tracing::info!(?reason, "session ended on request");
            Some(Refused::Ended(reason))
        }
    }
}

fn lost(error: std::io::Error) -> Refusal {
    Refusal::silent("the connection was lost during login", error)
}
