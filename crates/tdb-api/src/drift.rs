//! Drift of tenants from their versions.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use tdb_client::drift::{Difference, Drift, TenantDrift, Unchecked, WorkspaceDrift};
use tdb_client::lists::Success;
use tdb_control::{Control, model};
use tdb_names::BlueprintName;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::Caller;
use crate::refusal::{Answer, Refusal};

pub fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(read_drift))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DriftParams {
    /// Only this blueprint.
    blueprint: Option<String>,
}

/// Tenants whose schema differs from their version's
#[utoipa::path(get, path = "/drift", tag = "drift", params(DriftParams),
    responses((status = 200, description = "Only tenants that differ, object by object, and workspaces with what no change accounts for", body = Success<Drift>)))]
async fn read_drift(State(control): State<Control>, caller: Caller<DriftParams>) -> Answer<Json<Success<Drift>>> {
    let parse = |name: &String| {
        name.parse::<BlueprintName>()
            .map_err(|error| Refusal::invalid("blueprint", error))
    };
    let blueprint = caller.params.blueprint.as_ref().map(parse).transpose()?;
    let report = control.drift(&caller.identity, blueprint.as_ref()).await?;
    Ok(Json(Success::of(render(report))))
}

fn render(report: model::DriftReport) -> Drift {
    let unchecked = |(tenant, reason): (tdb_names::TenantName, String)| Unchecked {
        tenant_id: tenant.to_string(),
        reason,
    };
    Drift {
        count: report.tenants.len(),
        tenants: report.tenants.into_iter().map(render_tenant).collect(),
        workspaces: report.workspaces.into_iter().map(render_workspace).collect(),
        unchecked: report.unreachable.into_iter().map(unchecked).collect(),
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
