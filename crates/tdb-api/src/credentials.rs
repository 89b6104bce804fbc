//! Credentials, and how connections are rendered.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use secrecy::ExposeSecret;
use tdb_client::connections::Connection;
use tdb_client::credentials::{
    CreateCredential, CreatedCredential, Credential, CredentialList, CredentialScope, OpenedDatabase, Rights,
};
use tdb_client::lists::{Created, Done, Success};
use tdb_control::{Control, model};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Body, Caller, InPath};
use crate::pages::{PageParams, oldest_first};
use crate::refusal::{Answer, Refusal};

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list_credentials, create_credential))
        .routes(routes!(delete_credential))
}

/// List credentials
#[utoipa::path(get, path = "/credentials", tag = "credentials", params(PageParams),
    responses((status = 200, description = "Credentials, oldest first", body = Success<CredentialList>)))]
async fn list_credentials(
    State(control): State<Control>,
    caller: Caller<PageParams>,
) -> Answer<Json<Success<CredentialList>>> {
    let found = control
        .credentials
        .list(&caller.identity, &caller.params.by_age()?)
        .await?;
    let (page, next) = caller
        .params
        .cut(found, |credential| oldest_first(credential.created_at, credential.id))?;
    Ok(Json(Success::of(CredentialList::page(
        page.into_iter().map(render).collect(),
        next,
    ))))
}

/// Create a credential of a tenant, a workspace or the whole project
#[utoipa::path(post, path = "/credentials", tag = "credentials", request_body = CreateCredential,
    responses((status = 201, description = "The credential; its password is shown only once", body = Success<Created<CreatedCredential>>)))]
async fn create_credential(
    State(control): State<Control>,
    caller: Caller,
    Body(request): Body<CreateCredential>,
) -> Answer<(StatusCode, Json<Success<Created<CreatedCredential>>>)> {
    let scope = scope(&request)?;
    let rights = match request.rights {
        None | Some(Rights::ReadWrite) => model::Rights::ReadWrite,
        Some(Rights::ReadOnly) => model::Rights::ReadOnly,
    };
    let request = model::CredentialRequest {
        scope,
        rights,
        name: request.name,
        expires_at: request.expires_at,
    };
    let made = control.credentials.create(&caller.identity, request).await?;
    let opened = |connection: &model::Connection| OpenedDatabase {
        database: connection
            .database
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        connection_string: connection.connection_string(),
    };
    let answer = CreatedCredential {
        id: made.info.id.to_string(),
        connection_string: made.connection.connection_string(),
        connection: render_connection(&made.connection),
        databases: made.databases.iter().map(opened).collect(),
        name: made.info.name,
    };
    let message = format!(
        "credential \"{}\" is created; its password is shown only once",
        answer.name
    );
    Ok((
        StatusCode::CREATED,
        Json(Success::of(Created { message, body: answer })),
    ))
}

/// Delete a credential and end its sessions
#[utoipa::path(delete, path = "/credentials/{id}", tag = "credentials", params(("id" = String, Path, description = "The credential's id, name or user name")),
    responses((status = 200, description = "It is no longer accepted", body = Success<Done>)))]
async fn delete_credential(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<Done>>> {
    control.credentials.delete(&caller.identity, &id).await?;
    Ok(Json(Success::of(Done {
        message: format!("credential \"{id}\" is deleted"),
    })))
}

fn scope(request: &CreateCredential) -> Answer<model::CredentialScope> {
    match (&request.tenant_id, &request.workspace, request.project) {
        (Some(tenant), None, false) => {
            let tenant = tenant.parse().map_err(|error| Refusal::invalid("tenant_id", error))?;
            Ok(model::CredentialScope::Tenant(tenant))
        }
        (None, Some(workspace), false) => {
            let blueprint = workspace
                .parse()
                .map_err(|error| Refusal::invalid("workspace", error))?;
            Ok(model::CredentialScope::Workspace(blueprint))
        }
        (None, None, true) => Ok(model::CredentialScope::Project),
        (None, None, false) => Err(Refusal::invalid(
            "tenant_id",
            "is missing, and so are \"workspace\" and \"project\": give one of them",
        )),
        (_, Some(_), _) => Err(Refusal::invalid(
            "workspace",
            "must be the only one of \"tenant_id\", \"workspace\" and \"project\"",
        )),
        (Some(_), None, true) => Err(Refusal::invalid(
            "project",
            "must be the only one of \"tenant_id\", \"workspace\" and \"project\"",
        )),
    }
}

/// Renders a connection. It has a password only if the use case just generated one.
pub(crate) fn render_connection(connection: &model::Connection) -> Connection {
    Connection {
        host: connection.host.clone(),
        port: connection.port,
        database: connection.database.as_ref().map(ToString::to_string),
        user: connection.user.to_string(),
        password: connection
            .password
            .as_ref()
            .map(|password| password.expose_secret().to_owned()),
    }
}

fn render(credential: model::CredentialInfo) -> Credential {
    let (scope, opens) = match credential.scope {
        model::CredentialScope::Project => (CredentialScope::Project, None),
        model::CredentialScope::Workspace(blueprint) => (CredentialScope::Workspace, Some(blueprint.to_string())),
        model::CredentialScope::Tenant(tenant) => (CredentialScope::Tenant, Some(tenant.to_string())),
    };
    let rights = match credential.rights {
        model::Rights::ReadWrite => Rights::ReadWrite,
        model::Rights::ReadOnly => Rights::ReadOnly,
    };
    Credential {
        id: credential.id.to_string(),
        name: credential.name,
        user: credential.user.to_string(),
        scope,
        opens,
        rights,
        created_at: credential.created_at,
        expires_at: credential.expires_at,
    }
}
