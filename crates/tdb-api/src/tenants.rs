//! Tenants, from creation to deletion.

use std::collections::HashSet;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use tdb_client::deployments::JobList;
use tdb_client::lists::{Created, Success};
use tdb_client::tenants::{
    CreateTenant, CreateTenantDatabase, DatabaseStatus, DeletedTenant, Tenant, TenantConnection, TenantDatabase,
    TenantList, TenantStatus,
};
use tdb_client::versions::VersionNumber;
use tdb_client::workspaces::Engine;
use tdb_control::{Control, EntryKind, model};
use tdb_names::TenantName;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::deployments::{job_key, render_deployment};
use crate::extract::{Body, Caller, InPath, Nothing};
use crate::pages::PageParams;
use crate::refusal::{Answer, Refusal};

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list_tenants, create_tenant))
        .routes(routes!(read_tenant, delete_tenant))
        .routes(routes!(suspend_tenant))
        .routes(routes!(resume_tenant))
        .routes(routes!(restore_tenant))
        .routes(routes!(list_tenant_deployments))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeletionParams {
    /// `true` drops databases and roles permanently; otherwise name and data are kept, and `restore` brings the tenant
    /// back.
    #[serde(default)]
    #[param(required = false)]
    hard: bool,
}

/// List tenants
#[utoipa::path(get, path = "/tenants", tag = "tenants", params(PageParams),
    responses((status = 200, description = "Tenants by name", body = Success<TenantList>)))]
async fn list_tenants(State(control): State<Control>, caller: Caller<PageParams>) -> Answer<Json<Success<TenantList>>> {
    let found = control.tenants.list(&caller.identity, &caller.params.by_key()?).await?;
    let (page, next) = caller.params.cut(found, |tenant| tenant.name.to_string())?;
    Ok(Json(Success::of(TenantList::page(
        page.into_iter().map(render).collect(),
        next,
    ))))
}

/// Create a tenant, or databases of further blueprints for one that exists
#[utoipa::path(post, path = "/tenants", tag = "tenants", request_body = CreateTenant, responses(
    (status = 201, description = "The tenant is ready; its passwords are shown only once", body = Success<Created<Tenant>>),
    (status = 202, description = "It is still being created; its passwords are shown only once", body = Success<Created<Tenant>>)))]
async fn create_tenant(
    State(control): State<Control>,
    caller: Caller,
    Body(request): Body<CreateTenant>,
) -> Answer<(StatusCode, Json<Success<Created<Tenant>>>)> {
    let made = control.tenants.create(&caller.identity, parse(request)?).await?;
    let mut answer = render(made.tenant);
    answer.warnings = made.warnings;
    let status = match answer.status {
        TenantStatus::Provisioning => StatusCode::ACCEPTED,
        TenantStatus::Ready
        | TenantStatus::Suspended
        | TenantStatus::Migrating
        | TenantStatus::Deleted
        | TenantStatus::Error => StatusCode::CREATED,
    };
    let message = match status {
        StatusCode::ACCEPTED => format!("tenant \"{}\" is being created", answer.tenant_id),
        _ => format!("tenant \"{}\" is created", answer.tenant_id),
    };
    Ok((status, Json(Success::of(Created { message, body: answer }))))
}

/// One tenant
#[utoipa::path(get, path = "/tenants/{id}", tag = "tenants", params(("id" = String, Path, description = "The tenant's name")),
    responses((status = 200, description = "The tenant", body = Success<Tenant>)))]
async fn read_tenant(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<Tenant>>> {
    let tenant = control.tenants.find(&caller.identity, &named(&id)?).await?;
    Ok(Json(Success::of(render(tenant))))
}

/// Delete a tenant, softly or permanently
#[utoipa::path(delete, path = "/tenants/{id}", tag = "tenants",
    params(("id" = String, Path, description = "The tenant's name"), DeletionParams),
    responses((status = 200, description = "It is deleted", body = Success<DeletedTenant>),
              (status = 202, description = "It is being deleted permanently, which takes longer", body = Success<DeletedTenant>)))]
async fn delete_tenant(
    State(control): State<Control>,
    caller: Caller<DeletionParams>,
    InPath(id): InPath<String>,
) -> Answer<(StatusCode, Json<Success<DeletedTenant>>)> {
    let name = named(&id)?;
    let deletion = if caller.params.hard {
        model::Deletion::Hard
    } else {
        model::Deletion::Soft
    };
    let left = control.tenants.delete(&caller.identity, &name, deletion).await?;
    let (status, message) = match (deletion, left) {
        (model::Deletion::Soft, _) => (
            StatusCode::OK,
            format!("tenant \"{name}\" is deleted; its name and data are kept until it is deleted hard"),
        ),
        (model::Deletion::Hard, None) => (
            StatusCode::OK,
            format!("tenant \"{name}\", its databases and its credentials are deleted"),
        ),
        (model::Deletion::Hard, Some(_)) => (
            StatusCode::ACCEPTED,
            format!("tenant \"{name}\" is being deleted; its credentials are deleted, its databases not yet"),
        ),
    };
    let answer = DeletedTenant {
        tenant_id: name.to_string(),
        status: TenantStatus::Deleted,
        message,
    };
    Ok((status, Json(Success::of(answer))))
}

/// Suspend a tenant: its sessions end and its clients are refused
#[utoipa::path(post, path = "/tenants/{id}/suspend", tag = "tenants", params(("id" = String, Path, description = "The tenant's name")),
    responses((status = 200, description = "Its sessions have ended", body = Success<Tenant>)))]
async fn suspend_tenant(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
    _: Body<Nothing>,
) -> Answer<Json<Success<Tenant>>> {
    let tenant = control.tenants.suspend(&caller.identity, &named(&id)?).await?;
    Ok(Json(Success::of(render(tenant))))
}

/// Accept a suspended tenant's clients again
#[utoipa::path(post, path = "/tenants/{id}/resume", tag = "tenants", params(("id" = String, Path, description = "The tenant's name")),
    responses((status = 200, description = "The tenant", body = Success<Tenant>)))]
async fn resume_tenant(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
    _: Body<Nothing>,
) -> Answer<Json<Success<Tenant>>> {
    let tenant = control.tenants.resume(&caller.identity, &named(&id)?).await?;
    Ok(Json(Success::of(render(tenant))))
}

/// Restore a softly deleted tenant
#[utoipa::path(post, path = "/tenants/{id}/restore", tag = "tenants", params(("id" = String, Path, description = "The tenant's name")),
    responses((status = 200, description = "The tenant", body = Success<Tenant>)))]
async fn restore_tenant(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
    _: Body<Nothing>,
) -> Answer<Json<Success<Tenant>>> {
    let tenant = control.tenants.restore(&caller.identity, &named(&id)?).await?;
    Ok(Json(Success::of(render(tenant))))
}

/// Deployments that had the tenant as a target
#[utoipa::path(get, path = "/tenants/{id}/deployments", tag = "tenants",
    params(("id" = String, Path, description = "The tenant's name"), PageParams),
    responses((status = 200, description = "Deployments with this tenant's target, newest first", body = Success<JobList>)))]
async fn list_tenant_deployments(
    State(control): State<Control>,
    caller: Caller<PageParams>,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<JobList>>> {
    let asked = caller.params.by_news()?;
    let found = control
        .deployments
        .of_tenant(&caller.identity, &named(&id)?, &asked)
        .await?;
    let (page, next) = caller.params.cut(found, |deployment| job_key(&deployment.summary))?;
    Ok(Json(Success::of(JobList::page(
        page.into_iter().map(render_deployment).collect(),
        next,
    ))))
}

pub(crate) fn named(text: &str) -> Answer<TenantName> {
    text.parse().map_err(|_| Refusal::not_found(EntryKind::Tenant, text))
}

fn parse(request: CreateTenant) -> Answer<model::TenantRequest> {
    let name = request
        .tenant_id
        .parse()
        .map_err(|error| Refusal::invalid("tenant_id", error))?;
    if request.databases.is_empty() {
        return Err(Refusal::invalid("databases", "must name at least one blueprint"));
    }
    let databases = request
        .databases
        .into_iter()
        .enumerate()
        .map(|(at, database)| parse_database(at, &database))
        .collect::<Answer<Vec<_>>>()?;
    let mut named = HashSet::new();
    if let Some(at) = databases
        .iter()
        .position(|database: &model::DatabaseRequest| !named.insert(&database.blueprint))
    {
        let field = format!("databases[{at}].blueprint");
        return Err(Refusal::invalid(field, "must not be named twice"));
    }
    Ok(model::TenantRequest {
        name,
        databases,
        environment: None,
    })
}

fn parse_database(at: usize, database: &CreateTenantDatabase) -> Answer<model::DatabaseRequest> {
    let field = |name: &str| format!("databases[{at}].{name}");
    let isolation_level = match database.isolation_level {
        None | Some(1) => model::IsolationLevel::Pooled,
        Some(_) => return Err(Refusal::invalid(field("isolation_level"), "must be 1")),
    };
    Ok(model::DatabaseRequest {
        blueprint: database
            .blueprint
            .parse()
            .map_err(|error| Refusal::invalid(field("blueprint"), error))?,
        isolation_level,
        version: database.version.map(VersionNumber::get),
    })
}

fn render(tenant: model::Tenant) -> Tenant {
    let status = match tenant.status {
        model::TenantStatus::Provisioning => TenantStatus::Provisioning,
        model::TenantStatus::Ready => TenantStatus::Ready,
        model::TenantStatus::Suspended => TenantStatus::Suspended,
        model::TenantStatus::Migrating => TenantStatus::Migrating,
        model::TenantStatus::Deleted => TenantStatus::Deleted,
        model::TenantStatus::Error => TenantStatus::Error,
    };
    Tenant {
        tenant_id: tenant.name.to_string(),
        status,
        environment: tenant.environment,
        created_at: tenant.created_at,
        databases: tenant.databases.into_iter().map(render_database).collect(),
        warnings: Vec::new(),
    }
}

fn render_database(database: model::TenantDatabase) -> TenantDatabase {
    let status = match database.status {
        model::DatabaseStatus::Provisioning => DatabaseStatus::Provisioning,
        model::DatabaseStatus::Ready => DatabaseStatus::Ready,
        model::DatabaseStatus::Deleting => DatabaseStatus::Deleting,
        model::DatabaseStatus::Error => DatabaseStatus::Error,
    };
    TenantDatabase {
        blueprint: database.blueprint.to_string(),
        database_type: Engine::PostgreSql,
        isolation_level: u32::from(database.isolation_level.number()),
        version: database.version,
        server: database.server.to_string(),
        status,
        connection: TenantConnection {
            database: database
                .connection
                .database
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            connection_string: database.connection.connection_string(),
        },
        last_error: database.last_error,
    }
}
