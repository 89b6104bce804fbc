//! Sign-up and login. These endpoints require no key; they return one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::Json;
use axum::extract::{ConnectInfo, FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use secrecy::ExposeSecret;
use tdb_client::accounts::{LogIn, LoggedIn, LoginProject, SignUp, SignedUp};
use tdb_client::lists::{Created, Success};
use tdb_control::{Control, model};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::credentials::render_connection;
use crate::extract::Body;
use crate::refusal::{Answer, Refusal};

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(sign_up)).routes(routes!(log_in))
}

/// The client's address. If a router is called without a socket, the loopback address.
struct Address(IpAddr);

impl<S: Send + Sync> FromRequestParts<S> for Address {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Answer<Self> {
        let dialled = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        Ok(Self(
            dialled.map_or(Ipv4Addr::LOCALHOST.into(), |ConnectInfo(address)| address.ip()),
        ))
    }
}

/// Create a user with an account and a project
#[utoipa::path(post, path = "/signup", tag = "accounts", request_body = SignUp,
    responses((status = 201, description = "The project; key and password are shown only once", body = Success<Created<SignedUp>>)))]
async fn sign_up(
    State(control): State<Control>,
    address: Address,
    Body(request): Body<SignUp>,
) -> Answer<(StatusCode, Json<Success<Created<SignedUp>>>)> {
    let made = control
        .users
        .sign_up(
            &request.email,
            request.password.into(),
            request.project_name.as_deref(),
            address.0,
        )
        .await?;
    let answer = SignedUp {
        project_id: made.project.id.to_string(),
        api_key: made.api_key.expose_secret().to_owned(),
        connection_string: made.connection.connection_string(),
        connection: render_connection(&made.connection),
    };
    let message = format!(
        "project \"{}\" is created; key and password are shown only once",
        answer.project_id
    );
    Ok((
        StatusCode::CREATED,
        Json(Success::of(Created { message, body: answer })),
    ))
}

/// Get an API key with an email address and a password
#[utoipa::path(post, path = "/login", tag = "accounts", request_body = LogIn,
    responses((status = 200, description = "A key, shown only once", body = Success<LoggedIn>)))]
async fn log_in(
    State(control): State<Control>,
    address: Address,
    Body(request): Body<LogIn>,
) -> Answer<Json<Success<LoggedIn>>> {
    let session = control
        .users
        .log_in(&request.email, request.password.into(), address.0)
        .await?;
    let key = session.api_key.expose_secret();
    let project = |project: &model::Project| LoginProject {
        project_id: project.id.to_string(),
        name: project.name.clone(),
        api_key_count: project.api_keys,
        api_key: (project.id == session.project).then(|| key.to_owned()),
    };
    Ok(Json(Success::of(LoggedIn {
        projects: session.projects.iter().map(project).collect(),
        project_id: session.project.to_string(),
        api_key: key.to_owned(),
    })))
}
