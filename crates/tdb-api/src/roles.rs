//! Roles that a project declares.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tdb_client::lists::{Created, Done, Success};
use tdb_client::roles::{CreateRole, Role, RoleList};
use tdb_control::{Control, model};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Body, Caller, InPath};
use crate::pages::PageParams;
use crate::refusal::Answer;

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list_roles, create_role))
        .routes(routes!(delete_role))
}

/// List the roles that a project declares
#[utoipa::path(get, path = "/projects/{id}/roles", tag = "projects",
    params(("id" = String, Path, description = "The project's id (prj_…) or name"), PageParams),
    responses((status = 200, description = "Roles by name", body = Success<RoleList>)))]
async fn list_roles(
    State(control): State<Control>,
    caller: Caller<PageParams>,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<RoleList>>> {
    let page = caller.params.by_key()?;
    let found = control.roles.list(&caller.identity, &id, &page).await?;
    let (page, next) = caller.params.cut(found, |role| role.name.to_string())?;
    Ok(Json(Success::of(RoleList::page(
        page.into_iter().map(render).collect(),
        next,
    ))))
}

/// Declare a role without login that schemas may grant to
#[utoipa::path(post, path = "/projects/{id}/roles", tag = "projects", request_body = CreateRole,
    params(("id" = String, Path, description = "The project's id (prj_…) or name")),
    responses((status = 201, description = "The role; each server with databases of the project has it", body = Success<Created<Role>>)))]
async fn create_role(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
    Body(request): Body<CreateRole>,
) -> Answer<(StatusCode, Json<Success<Created<Role>>>)> {
    let made = control.roles.create(&caller.identity, &id, &request.name).await?;
    let created = Created {
        message: format!("role \"{}\" is declared", made.name),
        body: render(made),
    };
    Ok((StatusCode::CREATED, Json(Success::of(created))))
}

/// Take back the declaration of a role that nothing of the project uses
#[utoipa::path(delete, path = "/projects/{id}/roles/{name}", tag = "projects",
    params(("id" = String, Path, description = "The project's id (prj_…) or name"), ("name" = String, Path, description = "The role's name")),
    responses((status = 200, description = "The project's databases no longer have it", body = Success<Done>)))]
async fn delete_role(
    State(control): State<Control>,
    caller: Caller,
    InPath((id, name)): InPath<(String, String)>,
) -> Answer<Json<Success<Done>>> {
    let name = control.roles.delete(&caller.identity, &id, &name).await?;
    Ok(Json(Success::of(Done {
        message: format!("role \"{name}\" is no longer declared"),
    })))
}

fn render(role: model::DeclaredRole) -> Role {
    Role {
        name: role.name.to_string(),
        created_at: role.created_at,
        warnings: role.warnings,
    }
}
