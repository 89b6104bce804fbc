//! API keys of the caller's project.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use secrecy::ExposeSecret;
use tdb_client::accounts::{ApiKey, ApiKeyList, CreateApiKey, CreatedApiKey, Scope};
use tdb_client::lists::{Done, Success};
use tdb_control::{Control, KeyScope, model};
use tdb_names::KeyId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Body, Caller, InPath};
use crate::pages::{PageParams, everything, oldest_first};
use crate::refusal::{Answer, Refusal};

/// What a key may do that was made without saying so.
const SCOPES_DEFAULT: [Scope; 2] = [Scope::Read, Scope::Write];

pub fn routes() -> OpenApiRouter<Control> {
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
    let all = control.api_keys(&caller.identity, everything()).await?;
    let (page, next) = caller.params.cut(all, |key| oldest_first(key.created_at, key.id))?;
    Ok(Json(Success::of(ApiKeyList::page(
        page.into_iter().map(render).collect(),
        next,
    ))))
}

/// Create an API key
#[utoipa::path(post, path = "/apikeys", tag = "apikeys", request_body = CreateApiKey,
    responses((status = 201, description = "The key, shown this once", body = Success<CreatedApiKey>)))]
async fn create_api_key(
    State(control): State<Control>,
    caller: Caller,
    Body(request): Body<CreateApiKey>,
) -> Answer<(StatusCode, Json<Success<CreatedApiKey>>)> {
    let scopes = request.scopes.unwrap_or_else(|| SCOPES_DEFAULT.to_vec());
    if scopes.is_empty() {
        return Err(Refusal::invalid("scopes", "must name at least one scope"));
    }
    let scopes: Vec<KeyScope> = scopes.into_iter().map(parse_scope).collect();
    let made = control.create_api_key(&caller.identity, &request.name, &scopes).await?;
    let answer = CreatedApiKey {
        api_key: made.key.expose_secret().to_owned(),
        key: render(made.info),
    };
    Ok((StatusCode::CREATED, Json(Success::of(answer))))
}

/// Delete an API key
#[utoipa::path(delete, path = "/apikeys/{id}", tag = "apikeys", params(("id" = String, Path, description = "The key's id")),
    responses((status = 200, description = "It is refused from now on", body = Success<Done>)))]
async fn delete_api_key(
    State(control): State<Control>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Answer<Json<Success<Done>>> {
    let key: KeyId = id.parse().map_err(|_| Refusal::not_found("API key", &id))?;
    control.delete_api_key(&caller.identity, key).await?;
    Ok(Json(Success::of(Done {
        message: format!("API key \"{key}\" is deleted"),
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

fn render(key: model::ApiKeyInfo) -> ApiKey {
    ApiKey {
        id: key.id.to_string(),
        name: key.name,
        prefix: key.prefix,
        scopes: key.scopes.into_iter().map(render_scope).collect(),
        created_at: key.created_at,
        last_used_at: key.last_used_at,
    }
}
