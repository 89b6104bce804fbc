//! Queries over tenants, each with the tenant's own role.

use axum::Json;
use axum::extract::State;
use tdb_client::lists::Success;
use tdb_client::queries::{
    AdminQuery, AdminQueryResults, QueryError, QueryResult, ResultColumn, TenantOutcome, TenantResult,
};
use tdb_control::{Control, model};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Body, Caller};
use crate::refusal::{Answer, Refusal};
use crate::workspaces::check_engine;

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(query_tenants))
}

/// Run SQL in one tenant or in all tenants
#[utoipa::path(post, path = "/admin/query", tag = "queries", request_body = AdminQuery,
    responses((status = 200, description = "Each tenant's result or error", body = Success<AdminQueryResults>)))]
async fn query_tenants(
    State(control): State<Control>,
    caller: Caller,
    Body(request): Body<AdminQuery>,
) -> Answer<Json<Success<AdminQueryResults>>> {
    let results = control.queries.in_tenants(&caller.identity, parse(request)?).await?;
    Ok(Json(Success::of(AdminQueryResults {
        results: results.into_iter().map(render).collect(),
    })))
}

fn parse(request: AdminQuery) -> Answer<model::TenantQuery> {
    if let Some(engine) = &request.database_type {
        check_engine("database_type", engine)?;
    }
    let tenants = match (request.all_tenants, request.tenant_id) {
        (true, None) => model::TenantChoice::All,
        (false, Some(name)) => model::TenantChoice::Named(vec![
            name.parse().map_err(|error| Refusal::invalid("tenant_id", error))?,
        ]),
        (true, Some(_)) => {
            return Err(Refusal::invalid(
                "tenant_id",
                "must not be given together with \"all_tenants\"",
            ));
        }
        (false, None) => {
            return Err(Refusal::invalid(
                "tenant_id",
                "must be given where \"all_tenants\" is not true",
            ));
        }
    };
    Ok(model::TenantQuery {
        blueprint: request
            .blueprint
            .parse()
            .map_err(|error| Refusal::invalid("blueprint", error))?,
        tenants,
        sql: request.query,
    })
}

fn render(result: model::TenantQueryResult) -> TenantResult {
    let outcome = match result.outcome {
        Ok(result) => TenantOutcome::Answered(render_result(result)),
        Err(failure) => TenantOutcome::Failed {
            error: QueryError {
                sqlstate: failure.sqlstate,
                message: failure.message,
            },
        },
    };
    TenantResult {
        tenant_id: result.tenant.to_string(),
        outcome,
    }
}

pub(crate) fn render_result(result: model::QueryResult) -> QueryResult {
    let column = |column: model::ResultColumn| ResultColumn {
        name: column.name,
        data_type: column.type_name,
    };
    QueryResult {
        columns: result.columns.into_iter().map(column).collect(),
        rows: result.rows,
        row_count: result.row_count,
        command: result.command,
        truncated: result.truncated,
    }
}
