//! Settings of a workspace.

use axum::Json;
use axum::extract::State;
use tdb_client::lists::Success;
use tdb_client::settings::{Applied, ChangeSettings, NewTenants, TenantDdl, WaitingTenant, WorkspaceSettings};
use tdb_control::{Control, model};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Body, Caller, InPath};
use crate::refusal::Answer;
use crate::workspaces::named;

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(read_settings, change_settings))
}

/// A workspace's settings, and which tenants have them
#[utoipa::path(get, path = "/workspaces/{id}/settings", tag = "workspaces",
    params(("id" = String, Path, description = "The workspace's name")),
    responses((status = 200, description = "The settings", body = Success<WorkspaceSettings>)))]
async fn read_settings(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<WorkspaceSettings>>> {
    let settings = control.settings.find(&caller.identity, &named(&id)?).await?;
    Ok(Json(Success::of(render(settings))))
}

/// Change settings; they are applied to tenants one by one
#[utoipa::path(post, path = "/workspaces/{id}/settings", tag = "workspaces", request_body = ChangeSettings,
    params(("id" = String, Path, description = "The workspace's name")),
    responses((status = 200, description = "The settings, and which tenants do not have them yet", body = Success<WorkspaceSettings>)))]
async fn change_settings(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
    Body(request): Body<ChangeSettings>,
) -> Answer<Json<Success<WorkspaceSettings>>> {
    let change = model::SettingsChange {
        tenant_ddl: request.tenant_ddl.map(|word| match word {
            TenantDdl::Allow => model::TenantDdl::Allow,
            TenantDdl::Deny => model::TenantDdl::Deny,
        }),
        new_tenants: request.new_tenants.map(|word| match word {
            NewTenants::Head => model::NewTenants::Head,
            NewTenants::Deployed => model::NewTenants::Deployed,
        }),
    };
    let settings = control.settings.change(&caller.identity, &named(&id)?, change).await?;
    Ok(Json(Success::of(render(settings))))
}

fn render(settings: model::WorkspaceSettings) -> WorkspaceSettings {
    let waiting = settings.waiting.into_iter().map(|tenant| WaitingTenant {
        tenant_id: tenant.tenant.to_string(),
        attempts: tenant.attempts,
        error: tenant.error,
    });
    WorkspaceSettings {
        workspace: settings.blueprint.to_string(),
        tenant_ddl: match settings.tenant_ddl {
            model::TenantDdl::Allow => TenantDdl::Allow,
            model::TenantDdl::Deny => TenantDdl::Deny,
        },
        new_tenants: match settings.new_tenants {
            model::NewTenants::Head => NewTenants::Head,
            model::NewTenants::Deployed => NewTenants::Deployed,
        },
        applied: Applied {
            total_tenants: settings.tenants,
            waiting_tenants: settings.waiting_tenants,
            waiting: waiting.collect(),
        },
    }
}
