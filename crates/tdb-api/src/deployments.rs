//! Deployments: plan, start, follow, retry.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tdb_client::deployments::{CreateDeployment, Job, JobList, JobStatus, Target, TargetError, TargetStatus};
use tdb_client::lists::{Created, Success};
use tdb_client::versions::VersionNumber;
use tdb_control::{Control, EntryKind, model};
use tdb_names::{JobId, TenantName};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Body, Caller, InPath, Nothing};
use crate::pages::{PageParams, newest_first};
use crate::refusal::{Answer, Refusal};

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list_deployments, create_deployment))
        .routes(routes!(read_deployment))
        .routes(routes!(retry_deployment))
}

/// List deployments
#[utoipa::path(get, path = "/deployments", tag = "deployments", params(PageParams),
    responses((status = 200, description = "Deployments without their targets, newest first", body = Success<JobList>)))]
async fn list_deployments(
    State(control): State<Control>,
    caller: Caller<PageParams>,
) -> Answer<Json<Success<JobList>>> {
    let found = control
        .deployments
        .list(&caller.identity, &caller.params.by_news()?)
        .await?;
    let (page, next) = caller.params.cut(found, job_key)?;
    Ok(Json(Success::of(JobList::page(
        page.into_iter().map(render_summary).collect(),
        next,
    ))))
}

/// Bring tenants to a version, or show what that would do
#[utoipa::path(post, path = "/deployments", tag = "deployments", request_body = CreateDeployment, responses(
    (status = 200, description = "The plan of a dry run", body = Success<Created<Job>>),
    (status = 201, description = "The deployment, which runs in the background", body = Success<Created<Job>>)))]
async fn create_deployment(
    State(control): State<Control>,
    caller: Caller,
    Body(request): Body<CreateDeployment>,
) -> Answer<(StatusCode, Json<Success<Created<Job>>>)> {
    let dry = request.dry_run;
    let request = parse(request)?;
    let (status, deployment) = if dry {
        let plan = control.deployments.plan(&caller.identity, request).await?;
        (StatusCode::OK, render_deployment(plan))
    } else {
        let deployment = control.deployments.create(&caller.identity, request).await?;
        (StatusCode::CREATED, render_deployment(deployment))
    };
    let message = match &deployment.job_id {
        Some(id) => format!("deployment \"{id}\" has started"),
        None => "this is a plan; nothing was changed".to_owned(),
    };
    let body = Created {
        message,
        body: deployment,
    };
    Ok((status, Json(Success::of(body))))
}

/// One deployment with its targets
#[utoipa::path(get, path = "/deployments/{id}", tag = "deployments", params(("id" = String, Path, description = "dep_…")),
    responses((status = 200, description = "The deployment", body = Success<Job>)))]
async fn read_deployment(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<Job>>> {
    let deployment = control.deployments.find(&caller.identity, &job(&id)?).await?;
    Ok(Json(Success::of(render_deployment(deployment))))
}

/// Retry the failed tenants
#[utoipa::path(post, path = "/deployments/{id}/retry", tag = "deployments", params(("id" = String, Path, description = "dep_…")),
    responses((status = 200, description = "The deployment, running again", body = Success<Job>)))]
async fn retry_deployment(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
    _: Body<Nothing>,
) -> Answer<Json<Success<Job>>> {
    let deployment = control.deployments.retry(&caller.identity, &job(&id)?).await?;
    Ok(Json(Success::of(render_deployment(deployment))))
}

pub(crate) fn job(text: &str) -> Answer<JobId> {
    text.parse()
        .map_err(|_| Refusal::not_found(EntryKind::Deployment, text))
}

fn parse(request: CreateDeployment) -> Answer<model::DeploymentRequest> {
    let blueprint = request
        .blueprint_name
        .parse()
        .map_err(|error| Refusal::invalid("blueprint_name", error))?;
    let tenants = match (request.deploy_all, request.tenants) {
        (true, None) => model::TenantChoice::All,
        (false, Some(names)) if !names.is_empty() => model::TenantChoice::Named(parse_names(&names)?),
        (true, Some(_)) => {
            return Err(Refusal::invalid(
                "tenants",
                "must not be given together with \"deploy_all\"",
            ));
        }
        (false, _) => {
            return Err(Refusal::invalid(
                "tenants",
                "must name at least one tenant where \"deploy_all\" is not true",
            ));
        }
    };
    Ok(model::DeploymentRequest {
        blueprint,
        version: request.version.map(VersionNumber::get),
        tenants,
    })
}

fn parse_names(names: &[String]) -> Answer<Vec<TenantName>> {
    let parse = |(at, name): (usize, &String)| {
        name.parse()
            .map_err(|error| Refusal::invalid(format!("tenants[{at}]"), error))
    };
    names.iter().enumerate().map(parse).collect()
}

/// The key by which a deployment is sorted in lists.
pub(crate) fn job_key(job: &model::JobSummary) -> String {
    newest_first(job.created_at, job.id.as_ref().map(JobId::as_str).unwrap_or_default())
}

pub(crate) fn render_deployment(deployment: model::Deployment) -> Job {
    let mut job = render_summary(deployment.summary);
    job.targets = Some(deployment.targets.into_iter().map(render_target).collect());
    job
}

pub(crate) fn render_summary(job: model::JobSummary) -> Job {
    let status = match job.status {
        model::DeploymentStatus::Planned => JobStatus::Planned,
        model::DeploymentStatus::Running => JobStatus::Running,
        model::DeploymentStatus::Completed => JobStatus::Completed,
        model::DeploymentStatus::Failed => JobStatus::Failed,
    };
    let through = job.completed_tenants.saturating_add(job.failed_tenants);
    let failed = match job.failed_tenants {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    Job {
        progress: job.progress(),
        progress_display: format!("{through} of {} tenants{failed}", job.total_tenants),
        job_id: job.id.map(String::from),
        blueprint_id: job.blueprint.to_string(),
        from_versions: job.from_versions,
        version: job.version,
        status,
        total_tenants: job.total_tenants,
        completed_tenants: job.completed_tenants,
        failed_tenants: job.failed_tenants,
        started_at: job.started_at,
        completed_at: job.completed_at,
        targets: None,
    }
}

pub(crate) fn render_target(target: model::DeploymentTarget) -> Target {
    let status = match target.status {
        model::TargetStatus::Pending => TargetStatus::Pending,
        model::TargetStatus::Running => TargetStatus::Running,
        model::TargetStatus::Retrying => TargetStatus::Retrying,
        model::TargetStatus::Done => TargetStatus::Done,
        model::TargetStatus::Skipped => TargetStatus::Skipped,
        model::TargetStatus::Failed => TargetStatus::Failed,
    };
    let error = |failure: model::SqlFailure| TargetError {
        sqlstate: failure.sqlstate,
        message: failure.message,
        statement: failure.statement,
    };
    Target {
        tenant_id: target.tenant.to_string(),
        status,
        from: target.from,
        to: target.to,
        changes_done: target.changes_done,
        changes_total: target.changes_total,
        drift: target.drift == Some(model::Comparison::Differs),
        attempts: target.attempts,
        error: target.error.map(error),
        duration_ms: target
            .duration
            .and_then(|duration| u64::try_from(duration.as_millis()).ok()),
    }
}
