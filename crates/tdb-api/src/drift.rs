//! Drift: tenants whose schema differs from their version.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use tdb_client::drift::{
    Difference, Drift, DriftRefresh, RefreshDrift, RepairDrift, RepairedDrift, TenantDrift, Unchecked, WorkspaceDrift,
};
use tdb_client::lists::Success;
use tdb_control::{Control, model};
use tdb_names::BlueprintName;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Body, Caller};
use crate::refusal::{Answer, Refusal};

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(read_drift))
        .routes(routes!(refresh_drift))
        .routes(routes!(repair_drift))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DriftParams {
    /// Only this blueprint.
    blueprint: Option<String>,
}

/// Tenants whose schema differs from their version, as of the last comparison of each
#[utoipa::path(get, path = "/drift", tag = "drift", params(DriftParams),
    responses((status = 200, description = "Only tenants that differ, object by object, and workspaces with differences that no change explains", body = Success<Drift>)))]
async fn read_drift(State(control): State<Control>, caller: Caller<DriftParams>) -> Answer<Json<Success<Drift>>> {
    let blueprint = named(caller.params.blueprint.as_deref())?;
    let report = control.drifts.report(&caller.identity, blueprint.as_ref()).await?;
    Ok(Json(Success::of(render(report))))
}

/// Compare tenants' schemas again, in the background
#[utoipa::path(post, path = "/drift/refresh", tag = "drift", request_body = RefreshDrift,
    responses((status = 202, description = "The number of tenants to compare; GET /drift returns how many are still pending", body = Success<DriftRefresh>)))]
async fn refresh_drift(
    State(control): State<Control>,
    caller: Caller,
    Body(request): Body<RefreshDrift>,
) -> Answer<(StatusCode, Json<Success<DriftRefresh>>)> {
    let blueprint = named(request.blueprint.as_deref())?;
    let tenants = control.drifts.refresh(&caller.identity, blueprint.as_ref()).await?;
    Ok((StatusCode::ACCEPTED, Json(Success::of(DriftRefresh { tenants }))))
}

/// Correct what a tenant's database records about applied changes
#[utoipa::path(post, path = "/drift/repair", tag = "drift", request_body = RepairDrift,
    responses((status = 200, description = "The rows of tdb.deployed_change that were wrong and are correct now. The schema is not changed", body = Success<RepairedDrift>)))]
async fn repair_drift(
    State(control): State<Control>,
    caller: Caller,
    Body(request): Body<RepairDrift>,
) -> Answer<Json<Success<RepairedDrift>>> {
    let blueprint = request.blueprint.parse();
    let blueprint = blueprint.map_err(|error| Refusal::invalid("blueprint", error))?;
    let tenant = request.tenant_id.parse();
    let tenant = tenant.map_err(|error| Refusal::invalid("tenant_id", error))?;
    let repaired = control.drifts.repair(&caller.identity, &blueprint, &tenant).await?;
    let repaired: Vec<Difference> = repaired.into_iter().map(render_difference).collect();
    Ok(Json(Success::of(RepairedDrift {
        count: repaired.len(),
        repaired,
    })))
}

fn named(blueprint: Option<&str>) -> Answer<Option<BlueprintName>> {
    let parse = |name: &str| name.parse().map_err(|error| Refusal::invalid("blueprint", error));
    blueprint.map(parse).transpose()
}

fn render(report: model::DriftReport) -> Drift {
    let unchecked = |unchecked: model::Unchecked| Unchecked {
        tenant_id: unchecked.tenant.to_string(),
        blueprint: unchecked.blueprint.to_string(),
        checked_at: unchecked.checked_at,
        reason: unchecked.reason,
    };
    Drift {
        count: report.tenants.len(),
        checked: report.databases.saturating_sub(report.pending),
        pending: report.pending,
        checked_at: report.checked_at,
        tenants: report.tenants.into_iter().map(render_tenant).collect(),
        workspaces: report.workspaces.into_iter().map(render_workspace).collect(),
        unchecked: report.unchecked.into_iter().map(unchecked).collect(),
    }
}

fn render_workspace(drift: model::WorkspaceDrift) -> WorkspaceDrift {
    WorkspaceDrift {
        workspace: drift.blueprint.to_string(),
        differences: drift.differences.into_iter().map(render_difference).collect(),
    }
}

fn render_tenant(drift: model::TenantDrift) -> TenantDrift {
    TenantDrift {
        tenant_id: drift.tenant.to_string(),
        blueprint: drift.blueprint.to_string(),
        version: drift.version,
        checked_at: drift.checked_at,
        differences: drift.differences.into_iter().map(render_difference).collect(),
    }
}

fn render_difference(difference: model::Difference) -> Difference {
    Difference {
        object: difference.object,
        expected: difference.expected,
        found: difference.found,
    }
}
