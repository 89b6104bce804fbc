//! Blueprints and their versions.

use axum::Json;
use axum::extract::State;
use tdb_client::blueprints::{
    Blueprint, BlueprintList, BlueprintStatus, DeployedTo, DeploymentStatus, Version, VersionList,
};
use tdb_client::lists::Success;
use tdb_client::workspaces::Engine;
use tdb_control::{Control, EntryKind, Identity, model};
use tdb_names::BlueprintName;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Caller, InPath};
use crate::pages::PageParams;
use crate::refusal::{Answer, Refusal};
use crate::workspaces::render_schema;

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list_blueprints))
        .routes(routes!(read_blueprint))
        .routes(routes!(list_versions))
}

/// List blueprints
#[utoipa::path(get, path = "/blueprints", tag = "blueprints", params(PageParams),
    responses((status = 200, description = "Blueprints by name", body = Success<BlueprintList>)))]
async fn list_blueprints(
    State(control): State<Control>,
    caller: Caller<PageParams>,
) -> Answer<Json<Success<BlueprintList>>> {
    let found = control
        .blueprints
        .list(&caller.identity, &caller.params.by_key()?)
        .await?;
    let (page, next) = caller.params.cut(found, |blueprint| blueprint.name.to_string())?;
    Ok(Json(Success::of(BlueprintList::page(
        page.into_iter()
            .map(|blueprint| render(blueprint, &caller.identity))
            .collect(),
        next,
    ))))
}

/// One blueprint with its schema
#[utoipa::path(get, path = "/blueprints/{name}", tag = "blueprints", params(("name" = String, Path, description = "The blueprint's name")),
    responses((status = 200, description = "The blueprint", body = Success<Blueprint>)))]
async fn read_blueprint(
    State(control): State<Control>,
    caller: Caller,
    InPath(name): InPath<String>,
) -> Answer<Json<Success<Blueprint>>> {
    let blueprint = control.blueprints.find(&caller.identity, &named(&name)?).await?;
    Ok(Json(Success::of(render(blueprint, &caller.identity))))
}

/// A blueprint's versions
#[utoipa::path(get, path = "/blueprints/{name}/versions", tag = "blueprints",
    params(("name" = String, Path, description = "The blueprint's name"), PageParams),
    responses((status = 200, description = "Versions in their order", body = Success<VersionList>)))]
async fn list_versions(
    State(control): State<Control>,
    caller: Caller<PageParams>,
    InPath(name): InPath<String>,
) -> Answer<Json<Success<VersionList>>> {
    let asked = caller.params.by_key()?;
    let found = control.versions.list(&caller.identity, &named(&name)?, &asked).await?;
    let (page, next) = caller.params.cut(found, |version| version.number.to_string())?;
    Ok(Json(Success::of(VersionList::page(
        page.into_iter().map(render_version).collect(),
        next,
    ))))
}

fn named(text: &str) -> Answer<BlueprintName> {
    text.parse().map_err(|_| Refusal::not_found(EntryKind::Blueprint, text))
}

fn render(blueprint: model::Blueprint, identity: &Identity) -> Blueprint {
    let status = match blueprint.status {
        model::BlueprintStatus::Draft => BlueprintStatus::Draft,
        model::BlueprintStatus::Ready => BlueprintStatus::Ready,
        model::BlueprintStatus::Broken => BlueprintStatus::Broken,
    };
    let counts = blueprint.counts;
    let tenant = |to: model::DeployedTo| DeployedTo {
        tenant_id: to.tenant.to_string(),
        version: to.version,
    };
    Blueprint {
        id: blueprint.name.to_string(),
        name: blueprint.name.to_string(),
        version: blueprint.version,
        status,
        database: Engine::PostgreSql,
        database_type: Engine::PostgreSql,
        workspace: blueprint.name.to_string(),
        workspace_id: blueprint.name.to_string(),
        project_id: identity.project().to_string(),
        created_at: blueprint.created_at,
        drained_at: blueprint.drained_at,
        schema: blueprint.schema.map(render_schema),
        server_error: blueprint.server_error,
        deployment_status: DeploymentStatus {
            deployed: counts.deployed,
            deployed_to_count: counts.deployed_to_count,
            ready_to_deploy: counts.ready_to_deploy,
            total_ddl_statements: counts.total_ddl_statements,
        },
        deployed_to: blueprint.deployed_to.into_iter().map(tenant).collect(),
    }
}

fn render_version(version: model::Version) -> Version {
    Version {
        version: version.number,
        change_ids: version.change_ids,
        created_at: version.created_at,
        author: version.author,
        statements: version.statements,
        fingerprint: version.fingerprint,
        verified: version.verified,
        reason: version.reason,
    }
}
