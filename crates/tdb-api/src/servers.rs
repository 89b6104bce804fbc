//! Database servers of the data plane, for the operator of the installation.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tdb_client::lists::{Created, Done, Success};
use tdb_client::servers::{RegisterServer, Server, ServerList, ServerStatus, ServerTest, TlsMode};
use tdb_control::{Control, EntryKind, ServerEnrolment, model};
use tdb_names::{ServerEndpoint, ServerName};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Body, Caller, InPath, Nothing};
use crate::pages::PageParams;
use crate::refusal::{Answer, Refusal};

const PORT_DEFAULT: u16 = 5432;
const TEXT_LEN_MAX: usize = 255;
const EXTENSIONS_MAX: usize = 200;
const PASSWORD_LEN_MAX: usize = 1024;

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list_servers, register_server))
        .routes(routes!(read_server, delete_server))
        .routes(routes!(test_server))
        .routes(routes!(drain_server))
        .routes(routes!(resume_server))
}

/// List database servers
#[utoipa::path(get, path = "/servers", tag = "servers", params(PageParams),
    responses((status = 200, description = "Servers by name", body = Success<ServerList>)))]
async fn list_servers(State(control): State<Control>, caller: Caller<PageParams>) -> Answer<Json<Success<ServerList>>> {
    let found = control
        .registry
        .list(&caller.identity, &caller.params.by_key()?)
        .await?;
    let (page, next) = caller.params.cut(found, |server| server.name.to_string())?;
    Ok(Json(Success::of(ServerList::page(
        page.into_iter().map(render).collect(),
        next,
    ))))
}

/// Register a database server: check it, prepare it, and place new databases on it
#[utoipa::path(post, path = "/servers", tag = "servers", request_body = RegisterServer,
    responses((status = 201, description = "The server", body = Success<Created<Server>>)))]
async fn register_server(
    State(control): State<Control>,
    caller: Caller,
    Body(request): Body<RegisterServer>,
) -> Answer<(StatusCode, Json<Success<Created<Server>>>)> {
    let made = control.registry.register(&caller.identity, parse(request)?).await?;
    let body = render(made);
    let message = format!("server \"{}\" is registered", body.name);
    Ok((StatusCode::CREATED, Json(Success::of(Created { message, body }))))
}

/// One database server
#[utoipa::path(get, path = "/servers/{name}", tag = "servers", params(("name" = String, Path, description = "The server's name")),
    responses((status = 200, description = "The server", body = Success<Server>)))]
async fn read_server(
    State(control): State<Control>,
    caller: Caller,
    InPath(name): InPath<String>,
) -> Answer<Json<Success<Server>>> {
    let server = control.registry.find(&caller.identity, &named(&name)?).await?;
    Ok(Json(Success::of(render(server))))
}

/// Remove a database server that has no databases of this installation
#[utoipa::path(delete, path = "/servers/{name}", tag = "servers", params(("name" = String, Path, description = "The server's name")),
    responses((status = 200, description = "It is no longer used", body = Success<Done>)))]
async fn delete_server(
    State(control): State<Control>,
    caller: Caller,
    InPath(name): InPath<String>,
) -> Answer<Json<Success<Done>>> {
    let name = named(&name)?;
    control.registry.remove(&caller.identity, &name).await?;
    Ok(Json(Success::of(Done {
        message: format!(
            "server \"{name}\" is no longer used; its database \"tdb_base\" and the roles \"tdb_template\", \"tdb_migrators\", \"tdb_readers\" and \"tdb_writers\" stay there"
        ),
    })))
}

/// Test a database server: whether it is reachable, its version, rights and free connections
#[utoipa::path(post, path = "/servers/{name}/test", tag = "servers", params(("name" = String, Path, description = "The server's name")),
    responses((status = 200, description = "It is fit", body = Success<ServerTest>)))]
async fn test_server(
    State(control): State<Control>,
    caller: Caller,
    InPath(name): InPath<String>,
    _: Body<Nothing>,
) -> Answer<Json<Success<ServerTest>>> {
    let test = control.registry.test(&caller.identity, &named(&name)?).await?;
    Ok(Json(Success::of(ServerTest {
        name: test.name.to_string(),
        version: version(test.version),
        max_connections: test.connections_max,
        reserved_connections: test.connections_reserved,
        databases: test.databases,
        took_ms: test.took_ms(),
    })))
}

/// Place no new databases on a server; its existing databases stay in use
#[utoipa::path(post, path = "/servers/{name}/drain", tag = "servers", params(("name" = String, Path, description = "The server's name")),
    responses((status = 200, description = "The server", body = Success<Server>)))]
async fn drain_server(
    State(control): State<Control>,
    caller: Caller,
    InPath(name): InPath<String>,
    _: Body<Nothing>,
) -> Answer<Json<Success<Server>>> {
    let server = control.registry.drain(&caller.identity, &named(&name)?).await?;
    Ok(Json(Success::of(render(server))))
}

/// Place new databases on a drained server again
#[utoipa::path(post, path = "/servers/{name}/resume", tag = "servers", params(("name" = String, Path, description = "The server's name")),
    responses((status = 200, description = "The server", body = Success<Server>)))]
async fn resume_server(
    State(control): State<Control>,
    caller: Caller,
    InPath(name): InPath<String>,
    _: Body<Nothing>,
) -> Answer<Json<Success<Server>>> {
    let server = control.registry.resume(&caller.identity, &named(&name)?).await?;
    Ok(Json(Success::of(render(server))))
}

fn named(text: &str) -> Answer<ServerName> {
    text.parse().map_err(|_| Refusal::not_found(EntryKind::Server, text))
}

fn parse(request: RegisterServer) -> Answer<ServerEnrolment> {
    let name = request.name.parse().map_err(|error| Refusal::invalid("name", error))?;
    let fits = |text: &str, len_max: usize| (1..=len_max).contains(&text.len()) && !text.chars().any(char::is_control);
    if !fits(&request.host, TEXT_LEN_MAX) || request.host.contains(char::is_whitespace) {
        return Err(Refusal::invalid(
            "host",
            format!("must be a host name or address of 1 to {TEXT_LEN_MAX} characters"),
        ));
    }
    let port = request.port.unwrap_or(PORT_DEFAULT);
    if port == 0 {
        return Err(Refusal::invalid("port", "must be 1 to 65535"));
    }
    if !fits(&request.admin_user, TEXT_LEN_MAX) {
        return Err(Refusal::invalid(
            "admin_user",
            format!("must be 1 to {TEXT_LEN_MAX} characters long"),
        ));
    }
    if !fits(&request.admin_password, PASSWORD_LEN_MAX) {
        return Err(Refusal::invalid(
            "admin_password",
            format!("must be 1 to {PASSWORD_LEN_MAX} characters long"),
        ));
    }
    let extensions = request.extensions.unwrap_or_default();
    if extensions.len() > EXTENSIONS_MAX || !extensions.iter().all(|name| fits(name, TEXT_LEN_MAX)) {
        return Err(Refusal::invalid(
            "extensions",
            format!("must be at most {EXTENSIONS_MAX} names of 1 to {TEXT_LEN_MAX} characters"),
        ));
    }
    let tls = match request.tls.unwrap_or(TlsMode::Prefer) {
        TlsMode::Disable => tdb_names::TlsMode::Disable,
        TlsMode::Prefer => tdb_names::TlsMode::Prefer,
        TlsMode::Require => tdb_names::TlsMode::Require,
        TlsMode::VerifyCa => tdb_names::TlsMode::VerifyCa,
        TlsMode::VerifyFull => tdb_names::TlsMode::VerifyFull,
    };
    Ok(ServerEnrolment {
        endpoint: ServerEndpoint {
            name,
            host: request.host,
            port,
            tls,
        },
        admin_user: request.admin_user,
        admin_secret: request.admin_password.into(),
        opaque_names: request.opaque_names.unwrap_or(false),
        extensions,
    })
}

fn version(number: i32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

fn render(server: model::ServerInfo) -> Server {
    Server {
        name: server.name.to_string(),
        host: server.host,
        port: server.port,
        tls: match server.tls {
            tdb_names::TlsMode::Disable => TlsMode::Disable,
            tdb_names::TlsMode::Prefer => TlsMode::Prefer,
            tdb_names::TlsMode::Require => TlsMode::Require,
            tdb_names::TlsMode::VerifyCa => TlsMode::VerifyCa,
            tdb_names::TlsMode::VerifyFull => TlsMode::VerifyFull,
        },
        status: match server.status {
            model::ServerStatus::Active => ServerStatus::Active,
            model::ServerStatus::Draining => ServerStatus::Draining,
        },
        version: server.version.map(version),
        opaque_names: server.opaque_names,
        workspaces: server.workspaces,
        tenant_databases: server.tenant_databases,
        created_at: server.created_at,
        answered_at: server.answered_at,
        silent_since: server.silent_since,
    }
}
