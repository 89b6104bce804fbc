//! Credentials, and how a connection is shown.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use secrecy::ExposeSecret;
use tdb_client::connections::Connection;
use tdb_client::credentials::{
    CreateCredential, CreatedCredential, Credential, CredentialList, CredentialScope, Rights,
};
use tdb_client::lists::{Done, Success};
use tdb_control::{Control, model};
use tdb_names::CredentialId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Body, Caller, InPath};
use crate::pages::{PageParams, everything, oldest_first};
use crate::refusal::{Answer, Refusal};

pub fn routes() -> OpenApiRouter<Control> {
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
    let all = control.credentials(&caller.identity, everything()).await?;
    let (page, next) = caller
        .params
        .cut(all, |credential| oldest_first(credential.created_at, credential.id))?;
    Ok(Json(Success::of(CredentialList::page(
        page.into_iter().map(render).collect(),
        next,
    ))))
}

/// Create a credential of a tenant or a workspace
#[utoipa::path(post, path = "/credentials", tag = "credentials", request_body = CreateCredential,
    responses((status = 201, description = "The credential; its password is shown this once", body = Success<CreatedCredential>)))]
async fn create_credential(
    State(control): State<Control>,
    caller: Caller,
    Body(request): Body<CreateCredential>,
) -> Answer<(StatusCode, Json<Success<CreatedCredential>>)> {
    let scope = scope(request.tenant_id.as_deref(), request.workspace.as_deref())?;
    let rights = match request.rights {
        None | Some(Rights::ReadWrite) => model::Rights::ReadWrite,
        Some(Rights::ReadOnly) => model::Rights::ReadOnly,
    };
    let made = control
        .create_credential(&caller.identity, scope, rights, request.expires_at)
        .await?;
    let answer = CreatedCredential {
        id: made.info.id.to_string(),
        connection_string: made.connection.connection_string(),
        connection: render_connection(&made.connection),
    };
    Ok((StatusCode::CREATED, Json(Success::of(answer))))
}

/// Delete a credential and end its sessions
#[utoipa::path(delete, path = "/credentials/{id}", tag = "credentials", params(("id" = String, Path, description = "The credential's id")),
    responses((status = 200, description = "It is refused from now on", body = Success<Done>)))]
async fn delete_credential(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<Done>>> {
    let credential: CredentialId = id.parse().map_err(|_| Refusal::not_found("credential", &id))?;
    control.delete_credential(&caller.identity, credential).await?;
    Ok(Json(Success::of(Done {
        message: format!("credential \"{credential}\" is deleted"),
    })))
}

fn scope(tenant: Option<&str>, workspace: Option<&str>) -> Answer<model::CredentialScope> {
    match (tenant, workspace) {
        (Some(tenant), None) => {
            let tenant = tenant.parse().map_err(|error| Refusal::invalid("tenant_id", error))?;
            Ok(model::CredentialScope::Tenant(tenant))
        }
        (None, Some(workspace)) => {
            let blueprint = workspace
                .parse()
                .map_err(|error| Refusal::invalid("workspace", error))?;
            Ok(model::CredentialScope::Workspace(blueprint))
        }
        (None, None) => Err(Refusal::invalid(
            "tenant_id",
            "is missing, and so is \"workspace\": name one of them",
        )),
        (Some(_), Some(_)) => Err(Refusal::invalid(
            "workspace",
            "must not be given together with \"tenant_id\"",
        )),
    }
}

/// A connection for its one reader; the password is there only where the use case made it.
pub fn render_connection(connection: &model::Connection) -> Connection {
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
    let (scope, name) = match credential.scope {
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
        user: credential.user.to_string(),
        scope,
        name,
        rights,
        created_at: credential.created_at,
        expires_at: credential.expires_at,
    }
}
