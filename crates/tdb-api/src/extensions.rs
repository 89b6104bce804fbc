//! Extensions that only a superuser can create; the server's administrator creates them if the server allows them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tdb_client::extensions::{CreateExtension, Extension, ExtensionList};
use tdb_client::lists::Success;
use tdb_client::workspaces::Change;
use tdb_control::{Control, model};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Body, Caller, InPath};
use crate::pages::PageParams;
use crate::refusal::Answer;
use crate::workspaces::{named, render_change};

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(list_extensions, create_extension))
}

/// Extensions that a workspace has or can get
#[utoipa::path(get, path = "/workspaces/{id}/extensions", tag = "workspaces",
    params(("id" = String, Path, description = "The workspace's name"), PageParams),
    responses((status = 200, description = "Extensions by name", body = Success<ExtensionList>)))]
async fn list_extensions(
    State(control): State<Control>,
    caller: Caller<PageParams>,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<ExtensionList>>> {
    let all = control.extensions.list(&caller.identity, &named(&id)?).await?;
    let (page, next) = caller.params.cut_whole(all, |extension| extension.name.clone())?;
    Ok(Json(Success::of(ExtensionList::page(
        page.into_iter().map(render).collect(),
        next,
    ))))
}

/// Create an extension as the server's administrator; deployments create it in tenants
#[utoipa::path(post, path = "/workspaces/{id}/extensions", tag = "workspaces", request_body = CreateExtension,
    params(("id" = String, Path, description = "The workspace's name")),
    responses((status = 201, description = "The change that creates it", body = Success<Change>)))]
async fn create_extension(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
    Body(request): Body<CreateExtension>,
) -> Answer<(StatusCode, Json<Success<Change>>)> {
    let blueprint = named(&id)?;
    let wanted = model::WantedExtension {
        name: request.name,
        version: request.version,
        schema: request.schema,
    };
    let change = control.extensions.create(&caller.identity, &blueprint, &wanted).await?;
    Ok((StatusCode::CREATED, Json(Success::of(render_change(change)))))
}

fn render(extension: model::ExtensionInfo) -> Extension {
    Extension {
        name: extension.name,
        default_version: extension.default_version,
        installed_version: extension.installed_version,
        schema: extension.schema,
    }
}
