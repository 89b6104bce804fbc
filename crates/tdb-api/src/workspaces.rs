//! Workspaces, their schema, their pending changes, and queries in them.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tdb_client::lists::{Created, Done, Success};
use tdb_client::queries::{Query, QueryResult};
use tdb_client::workspaces::{
    Change, ChangeList, ChangeState, Column, CreateWorkspace, Diff, Engine, Part, Revert, Schema, SchemaKind,
    SkipChanges, Table, Tables, Workspace, WorkspaceList, WorkspaceSchema, WorkspaceStatus,
};
use tdb_control::{Control, ControlError, EntryKind, model};
use tdb_names::BlueprintName;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::credentials::render_connection;
use crate::extract::{Body, Caller, InPath, Nothing};
use crate::pages::PageParams;
use crate::queries::render_result;
use crate::refusal::{Answer, Refusal};

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list_workspaces, create_workspace))
        .routes(routes!(read_workspace, delete_workspace))
        .routes(routes!(read_workspace_schema))
        .routes(routes!(diff_workspace, skip_changes))
        .routes(routes!(skip_change))
        .routes(routes!(revert_change))
        .routes(routes!(query_workspace))
}

/// List workspaces
#[utoipa::path(get, path = "/workspaces", tag = "workspaces", params(PageParams),
    responses((status = 200, description = "Workspaces by name", body = Success<WorkspaceList>)))]
async fn list_workspaces(
    State(control): State<Control>,
    caller: Caller<PageParams>,
) -> Answer<Json<Success<WorkspaceList>>> {
    let found = control
        .workspaces
        .list(&caller.identity, &caller.params.by_key()?)
        .await?;
    let (page, next) = caller.params.cut(found, |workspace| workspace.blueprint.to_string())?;
    Ok(Json(Success::of(WorkspaceList::page(
        page.into_iter().map(render).collect(),
        next,
    ))))
}

/// Create a workspace and its blueprint
#[utoipa::path(post, path = "/workspaces", tag = "workspaces", request_body = CreateWorkspace,
    responses((status = 201, description = "The workspace, with its password, which is shown only once", body = Success<Created<Workspace>>)))]
async fn create_workspace(
    State(control): State<Control>,
    caller: Caller,
    Body(request): Body<CreateWorkspace>,
) -> Answer<(StatusCode, Json<Success<Created<Workspace>>>)> {
    let blueprint: BlueprintName = request.name.parse().map_err(|error| Refusal::invalid("name", error))?;
    check_engine("database", &request.database)?;
    let made = control.workspaces.create(&caller.identity, &blueprint).await?;
    let mut answer = render(made.workspace);
    answer.connection_string = made.connection.connection_string();
    answer.connection = render_connection(&made.connection);
    let message = format!("workspace \"{blueprint}\" is created; connect to \"{blueprint}_dev\" to build its schema");
    Ok((
        StatusCode::CREATED,
        Json(Success::of(Created { message, body: answer })),
    ))
}

/// One workspace with its schema
#[utoipa::path(get, path = "/workspaces/{id}", tag = "workspaces", params(("id" = String, Path, description = "The workspace's name")),
    responses((status = 200, description = "The workspace", body = Success<Workspace>)))]
async fn read_workspace(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<Workspace>>> {
    let workspace = control.workspaces.find(&caller.identity, &named(&id)?).await?;
    Ok(Json(Success::of(render(workspace))))
}

/// Delete a workspace that has no tenants
#[utoipa::path(delete, path = "/workspaces/{id}", tag = "workspaces", params(("id" = String, Path, description = "The workspace's name")),
    responses((status = 200, description = "Workspace and blueprint are deleted", body = Success<Done>)))]
async fn delete_workspace(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<Done>>> {
    let blueprint = named(&id)?;
    control.workspaces.delete(&caller.identity, &blueprint).await?;
    Ok(Json(Success::of(Done {
        message: format!("workspace \"{blueprint}\" and its blueprint are deleted"),
    })))
}

/// A workspace's tables
#[utoipa::path(get, path = "/workspaces/{id}/schema", tag = "workspaces", params(("id" = String, Path, description = "The workspace's name")),
    responses((status = 200, description = "The schema as it is now", body = Success<WorkspaceSchema>)))]
async fn read_workspace_schema(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<WorkspaceSchema>>> {
    let blueprint = named(&id)?;
    let schema = control.workspaces.schema(&caller.identity, &blueprint).await?;
    Ok(Json(Success::of(WorkspaceSchema {
        workspace: blueprint.to_string(),
        schema: render_schema(schema),
    })))
}

/// Changes that some tenant does not have
#[utoipa::path(get, path = "/workspaces/{id}/diff", tag = "workspaces",
    params(("id" = String, Path, description = "The workspace's name"), PageParams),
    responses((status = 200, description = "Changes in their order", body = Success<Diff>)))]
async fn diff_workspace(
    State(control): State<Control>,
    caller: Caller<PageParams>,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<Diff>>> {
    let asked = caller.params.by_key()?;
    let diff = control.blueprints.diff(&caller.identity, &named(&id)?, &asked).await?;
    let (page, next) = caller.params.cut(diff.changes, |change| change.id.to_string())?;
    Ok(Json(Success::of(Diff {
        list: ChangeList::page(page.into_iter().map(render_change).collect(), next),
        drained_at: diff.drained_at,
        server_error: diff.server_error,
    })))
}

/// Skip a change: no version will contain it
#[utoipa::path(delete, path = "/workspaces/{id}/diff/{ddl_id}", tag = "workspaces",
    params(("id" = String, Path, description = "The workspace's name"), ("ddl_id" = u32, Path, description = "The change's number")),
    responses((status = 200, description = "The change as it is now", body = Success<Change>)))]
async fn skip_change(
    State(control): State<Control>,
    caller: Caller,
    InPath((id, ddl_id)): InPath<(String, String)>,
) -> Answer<Json<Success<Change>>> {
    let blueprint = named(&id)?;
    let number = change_number(&ddl_id)?;
    let skipped = control
        .skips
        .skip(&caller.identity, &blueprint, &BTreeSet::from([number]))
        .await?;
    let change = skipped.into_iter().next();
    let change = change.ok_or(ControlError::NotFound {
        what: EntryKind::Change,
        name: ddl_id,
    })?;
    Ok(Json(Success::of(render_change(change))))
}

/// Skip several changes at once, all or none of them
#[utoipa::path(delete, path = "/workspaces/{id}/diff", tag = "workspaces", request_body = SkipChanges,
    params(("id" = String, Path, description = "The workspace's name")),
    responses((status = 200, description = "The changes as they are now", body = Success<ChangeList>)))]
async fn skip_changes(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
    Body(request): Body<SkipChanges>,
) -> Answer<Json<Success<ChangeList>>> {
    let numbers: BTreeSet<u32> = request.ddl_ids.into_iter().collect();
    let skipped = control.skips.skip(&caller.identity, &named(&id)?, &numbers).await?;
    Ok(Json(Success::of(ChangeList::page(
        skipped.into_iter().map(render_change).collect(),
        None,
    ))))
}

/// Undo a change by executing the inverse DDL in the workspace
#[utoipa::path(post, path = "/workspaces/{id}/diff/{ddl_id}/revert", tag = "workspaces",
    params(("id" = String, Path, description = "The workspace's name"), ("ddl_id" = u32, Path, description = "The change's number")),
    responses((status = 200, description = "The change and its inverse as they are now", body = Success<Revert>)))]
async fn revert_change(
    State(control): State<Control>,
    caller: Caller,
    InPath((id, ddl_id)): InPath<(String, String)>,
    _: Body<Nothing>,
) -> Answer<Json<Success<Revert>>> {
    let reverted = control
        .reverts
        .revert(&caller.identity, &named(&id)?, change_number(&ddl_id)?)
        .await?;
    Ok(Json(Success::of(Revert {
        change: render_change(reverted.change),
        inverse: render_change(reverted.inverse),
    })))
}

/// Run SQL in a workspace; DDL is captured as usual
#[utoipa::path(post, path = "/workspaces/{id}/queries", tag = "workspaces", request_body = Query,
    params(("id" = String, Path, description = "The workspace's name")),
    responses((status = 200, description = "The last result", body = Success<QueryResult>)))]
async fn query_workspace(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
    Body(request): Body<Query>,
) -> Answer<Json<Success<QueryResult>>> {
    let result = control
        .queries
        .in_workspace(&caller.identity, &named(&id)?, &request.query)
        .await?;
    Ok(Json(Success::of(render_result(result))))
}

/// A text that is not a valid name does not name any object.
pub(crate) fn named(text: &str) -> Answer<BlueprintName> {
    text.parse().map_err(|_| Refusal::not_found(EntryKind::Workspace, text))
}

fn change_number(text: &str) -> Answer<u32> {
    text.parse().map_err(|_| Refusal::not_found(EntryKind::Change, text))
}

pub(crate) fn check_engine(field: &str, text: &str) -> Answer<()> {
    let known = |engine: &&Engine| engine.as_str().eq_ignore_ascii_case(text);
    if Engine::ALL.iter().any(|engine| known(&engine)) {
        return Ok(());
    }
    let names: Vec<String> = Engine::ALL.iter().map(|engine| format!("\"{engine}\"")).collect();
    Err(Refusal::invalid(field, format!("must be {}", names.join(" or "))))
}

fn render(workspace: model::Workspace) -> Workspace {
    let status = match workspace.status {
        model::WorkspaceStatus::Provisioning => WorkspaceStatus::Provisioning,
        model::WorkspaceStatus::Ready => WorkspaceStatus::Ready,
        model::WorkspaceStatus::Deleting => WorkspaceStatus::Deleting,
    };
    Workspace {
        id: workspace.blueprint.to_string(),
        uuid: workspace.id.to_string(),
        name: workspace.blueprint.to_string(),
        blueprint: workspace.blueprint.to_string(),
        database: Engine::PostgreSql,
        status,
        version: workspace.version,
        created_at: workspace.created_at,
        drained_at: workspace.drained_at,
        undeployed_changes: workspace.undeployed_changes,
        schema: workspace.schema.map(render_schema),
        server_error: workspace.server_error,
        connection_string: workspace.connection.connection_string(),
        connection: render_connection(&workspace.connection),
        last_error: workspace.last_error,
    }
}

pub(crate) fn render_schema(schema: model::Schema) -> Schema {
    let tables: Vec<Table> = schema.tables.into_iter().map(render_table).collect();
    Schema {
        kind: SchemaKind::Tables,
        data: Tables {
            table_count: tables.len(),
            tables,
        },
    }
}

fn render_table(table: model::Table) -> Table {
    let column = |column: model::SchemaColumn| Column {
        name: column.name,
        data_type: column.type_name,
        nullable: column.nullable,
        default: column.default,
    };
    let part = |object: model::SchemaObject| Part {
        name: object.name,
        definition: object.definition,
    };
    Table {
        name: table.name,
        columns: table.columns.into_iter().map(column).collect(),
        indexes: table.indexes.into_iter().map(part).collect(),
        constraints: table.constraints.into_iter().map(part).collect(),
    }
}

pub(crate) fn render_change(change: model::ChangeInfo) -> Change {
    let state = match change.state {
        model::ChangeState::Pending => ChangeState::Pending,
        model::ChangeState::Deployed => ChangeState::Deployed,
        model::ChangeState::Skipped => ChangeState::Skipped,
        model::ChangeState::Reverted => ChangeState::Reverted,
        model::ChangeState::Broken => ChangeState::Broken,
    };
    Change {
        ddl_id: change.id,
        version: change.version,
        statements: change.statements,
        command_tags: change.command_tags,
        objects: change.objects,
        author: change.author,
        created_at: change.created_at,
        left_out: change.left_out,
        state,
        reason: change.reason,
        repair: change.repair,
        reverts: change.reverts,
    }
}
