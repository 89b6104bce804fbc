//! Projects and the rotation of their database credential.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use secrecy::ExposeSecret;
use tdb_client::accounts::{CreateProject, CreatedProject, Project, ProjectList, RotatedCredential};
use tdb_client::lists::{Created, Done, Success};
use tdb_control::{Control, model};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::credentials::render_connection;
use crate::extract::{Body, Caller, InPath, Nothing};
use crate::pages::{PageParams, oldest_first};
use crate::refusal::Answer;

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list_projects, create_project))
        .routes(routes!(delete_project))
        .routes(routes!(rotate_project_credential))
}

/// List projects
#[utoipa::path(get, path = "/projects", tag = "projects", params(PageParams),
    responses((status = 200, description = "Projects, oldest first", body = Success<ProjectList>)))]
async fn list_projects(
    State(control): State<Control>,
    caller: Caller<PageParams>,
) -> Answer<Json<Success<ProjectList>>> {
    let found = control
        .accounts
        .projects(&caller.identity, &caller.params.by_age()?)
        .await?;
    let (page, next) = caller
        .params
        .cut(found, |project| oldest_first(project.created_at, &project.id))?;
    Ok(Json(Success::of(ProjectList::page(
        page.into_iter().map(render).collect(),
        next,
    ))))
}

/// Create a project
#[utoipa::path(post, path = "/projects", tag = "projects", request_body = CreateProject,
    responses((status = 201, description = "The project, with its first key and its credential", body = Success<Created<CreatedProject>>)))]
async fn create_project(
    State(control): State<Control>,
    caller: Caller,
    Body(request): Body<CreateProject>,
) -> Answer<(StatusCode, Json<Success<Created<CreatedProject>>>)> {
    let made = control.accounts.create_project(&caller.identity, &request.name).await?;
    let answer = CreatedProject {
        project: render(made.project),
        api_key: made.api_key.expose_secret().to_owned(),
        connection_string: made.connection.connection_string(),
        connection: render_connection(&made.connection),
    };
    let message = format!(
        "project \"{}\" is created; key and password are shown only once",
        answer.project.id
    );
    Ok((
        StatusCode::CREATED,
        Json(Success::of(Created { message, body: answer })),
    ))
}

/// Delete a project that is empty
#[utoipa::path(delete, path = "/projects/{id}", tag = "projects", params(("id" = String, Path, description = "The project's id (prj_…) or name")),
    responses((status = 200, description = "It is gone", body = Success<Done>)))]
async fn delete_project(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<Done>>> {
    let id = control.accounts.delete_project(&caller.identity, &id).await?;
    Ok(Json(Success::of(Done {
        message: format!("project \"{id}\" is deleted"),
    })))
}

/// Give the project's database credential a new password
#[utoipa::path(post, path = "/projects/{id}/credential", tag = "projects", params(("id" = String, Path, description = "The project's id (prj_…) or name")),
    responses((status = 200, description = "The new password; the old one is no longer accepted", body = Success<RotatedCredential>)))]
async fn rotate_project_credential(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
    _: Body<Nothing>,
) -> Answer<Json<Success<RotatedCredential>>> {
    let (id, made) = control
        .accounts
        .rotate_project_credential(&caller.identity, &id)
        .await?;
    Ok(Json(Success::of(RotatedCredential {
        id: id.to_string(),
        connection_string: made.connection.connection_string(),
        connection: render_connection(&made.connection),
    })))
}

fn render(project: model::Project) -> Project {
    Project {
        id: project.id.to_string(),
        project_id: project.id.to_string(),
        name: project.name,
        api_key_count: project.api_keys,
        created_at: project.created_at,
    }
}
