//! What a tenant's clients may use in a proxy.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use tdb_client::limits::{LIMIT_MAX, PoolMode, QUEUE_TIMEOUT_MAX, SetTenantLimits, TenantLimits};
use tdb_client::lists::Success;
use tdb_control::{Control, model};
use tdb_names::TenantName;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Body, Caller, InPath};
use crate::refusal::{Answer, Refusal};
use crate::tenants::named;

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(read_limits, replace_limits))
}

/// What a tenant's clients may use
#[utoipa::path(get, path = "/tenants/{id}/limits", tag = "tenants", params(("id" = String, Path, description = "The tenant's name")),
    responses((status = 200, description = "The limits; null is what the proxy's configuration says", body = Success<TenantLimits>)))]
async fn read_limits(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<TenantLimits>>> {
    let tenant = named(&id)?;
    let limits = control.limits.find(&caller.identity, &tenant).await?;
    Ok(Json(Success::of(render(&tenant, &limits))))
}

/// Replace all limits of a tenant's clients; proxies apply them within a second
#[utoipa::path(put, path = "/tenants/{id}/limits", tag = "tenants", request_body = SetTenantLimits,
    params(("id" = String, Path, description = "The tenant's name")),
    responses((status = 200, description = "The new limits; null is what the proxy's configuration says", body = Success<TenantLimits>)))]
async fn replace_limits(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
    Body(request): Body<SetTenantLimits>,
) -> Answer<Json<Success<TenantLimits>>> {
    let tenant = named(&id)?;
    let limits = parse(&request)?;
    control.limits.replace(&caller.identity, &tenant, &limits).await?;
    Ok(Json(Success::of(render(&tenant, &limits))))
}

fn parse(request: &SetTenantLimits) -> Answer<model::TenantLimits> {
    let queue_timeout = within("queue_timeout", request.queue_timeout, QUEUE_TIMEOUT_MAX)?;
    Ok(model::TenantLimits {
        pool_mode: request.pool_mode.map(|mode| match mode {
            PoolMode::Session => model::PoolMode::Session,
            PoolMode::Auto => model::PoolMode::Auto,
        }),
        clients_max: within("clients_max", request.clients_max, LIMIT_MAX)?,
        server_connections_max: within("server_connections_max", request.server_connections_max, LIMIT_MAX)?,
        queue_timeout: queue_timeout.map(|seconds| Duration::from_secs(seconds.get().into())),
    })
}

/// The value of a field, at most `max`.
fn within(field: &str, value: Option<u32>, max: u32) -> Answer<Option<NonZeroU32>> {
    let fits = |value| NonZeroU32::new(value).filter(|value| value.get() <= max);
    let limit = value.map(|value| fits(value).ok_or_else(|| rule(max)));
    limit.transpose().map_err(|rule| Refusal::invalid(field, rule))
}

fn rule(max: u32) -> String {
    format!("must be a whole number from 1 to {max}, or null")
}

fn render(tenant: &TenantName, limits: &model::TenantLimits) -> TenantLimits {
    let seconds = limits.queue_timeout.map(|time| u32::try_from(time.as_secs()));
    TenantLimits {
        tenant_id: tenant.to_string(),
        pool_mode: limits.pool_mode.map(|mode| match mode {
            model::PoolMode::Session => PoolMode::Session,
            model::PoolMode::Auto => PoolMode::Auto,
        }),
        clients_max: limits.clients_max.map(NonZeroU32::get),
        server_connections_max: limits.server_connections_max.map(NonZeroU32::get),
        queue_timeout: seconds.map(|seconds| seconds.unwrap_or(u32::MAX)),
    }
}
