//! API keys of the caller's project.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use secrecy::ExposeSecret;
use tdb_client::accounts::{ApiKey, ApiKeyList, CreateApiKey, CreatedApiKey, Scope};
use tdb_client::lists::{Created, Done, Success};
use tdb_control::{Control, Identity, KeyScope, model};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Body, Caller, InPath};
use crate::pages::{PageParams, oldest_first};
use crate::refusal::{Answer, Refusal};

const NAME_DEFAULT: &str = "key";
/// The scopes of a key that is created without scopes.
const SCOPES_DEFAULT: [Scope; 2] = [Scope::Read, Scope::Write];

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list_api_keys, create_api_key))
        .routes(routes!(delete_api_key))
}

/// List API keys
#[utoipa::path(get, path = "/apikeys", tag = "apikeys", params(PageParams),
    responses((status = 200, description = "Keys by prefix, oldest first", body = Success<ApiKeyList>)))]
async fn list_api_keys(
    State(control): State<Control>,
    caller: Caller<PageParams>,
) -> Answer<Json<Success<ApiKeyList>>> {
    let found = control
        .accounts
        .api_keys(&caller.identity, &caller.params.by_age()?)
        .await?;
    let (page, next) = caller.params.cut(found, |key| oldest_first(key.created_at, key.id))?;
    Ok(Json(Success::of(ApiKeyList::page(
        page.into_iter().map(|key| render(key, &caller.identity)).collect(),
        next,
    ))))
}

/// Create an API key
#[utoipa::path(post, path = "/apikeys", tag = "apikeys", request_body = CreateApiKey,
    responses((status = 201, description = "The key, which is shown only once", body = Success<Created<CreatedApiKey>>)))]
async fn create_api_key(
    State(control): State<Control>,
    caller: Caller,
    Body(request): Body<CreateApiKey>,
) -> Answer<(StatusCode, Json<Success<Created<CreatedApiKey>>>)> {
    let name = key_name(request.name, request.project_name)?;
    let scopes = request.scopes.unwrap_or_else(|| SCOPES_DEFAULT.to_vec());
    if scopes.is_empty() {
        return Err(Refusal::invalid("scopes", "must name at least one scope"));
    }
    let scopes: Vec<KeyScope> = scopes.into_iter().map(parse_scope).collect();
    let made = control
        .accounts
        .create_api_key(&caller.identity, &name, &scopes)
        .await?;
    let answer = CreatedApiKey {
        api_key: made.key.expose_secret().to_owned(),
        key: render(made.info, &caller.identity),
    };
    let message = format!("API key \"{}\" is created; the key is shown only once", answer.key.name);
    Ok((
        StatusCode::CREATED,
        Json(Success::of(Created { message, body: answer })),
    ))
}

/// Delete an API key
#[utoipa::path(delete, path = "/apikeys/{id}", tag = "apikeys", params(("id" = String, Path, description = "The key's id or name")),
    responses((status = 200, description = "It is no longer accepted", body = Success<Done>)))]
async fn delete_api_key(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<Done>>> {
    control.accounts.delete_api_key(&caller.identity, &id).await?;
    Ok(Json(Success::of(Done {
        message: format!("API key \"{id}\" is deleted"),
    })))
}

fn parse_scope(scope: Scope) -> KeyScope {
    match scope {
        Scope::Read => KeyScope::Read,
        Scope::Write => KeyScope::Write,
        Scope::Admin => KeyScope::Admin,
    }
}

fn render_scope(scope: KeyScope) -> Scope {
    match scope {
        KeyScope::Read => Scope::Read,
        KeyScope::Write => Scope::Write,
        KeyScope::Admin => Scope::Admin,
    }
}

/// The name, in our field or in the one that the hosted product uses.
fn key_name(name: Option<String>, project_name: Option<String>) -> Answer<String> {
    match (name, project_name) {
        (Some(_), Some(_)) => Err(Refusal::invalid(
            "project_name",
            "must not be given together with \"name\"",
        )),
        (Some(name), None) | (None, Some(name)) => Ok(name),
        (None, None) => Ok(NAME_DEFAULT.to_owned()),
    }
}

fn render(key: model::ApiKeyInfo, identity: &Identity) -> ApiKey {
    ApiKey {
        id: key.id.to_string(),
        project_id: identity.project().to_string(),
        project_name: key.name.clone(),
        is_active: true,
        name: key.name,
        prefix: key.prefix,
        scopes: key.scopes.into_iter().map(render_scope).collect(),
        created_at: key.created_at,
        last_used_at: key.last_used_at,
    }
}
