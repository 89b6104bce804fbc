//! Database servers of the data plane, to look at.

use axum::Json;
use axum::extract::State;
use tdb_client::lists::Success;
use tdb_client::servers::{Server, ServerList};
use tdb_control::{Control, model};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Caller, InPath};
use crate::pages::{PageParams, everything};
use crate::refusal::{Answer, Refusal};

pub fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list_servers))
        .routes(routes!(read_server))
}

/// List database servers
#[utoipa::path(get, path = "/servers", tag = "servers", params(PageParams),
    responses((status = 200, description = "Servers by name", body = Success<ServerList>)))]
async fn list_servers(State(control): State<Control>, caller: Caller<PageParams>) -> Answer<Json<Success<ServerList>>> {
    let all = control.servers(&caller.identity, everything()).await?;
    let (page, next) = caller.params.cut(all, |server| server.name.to_string())?;
    Ok(Json(Success::of(ServerList::page(
        page.into_iter().map(render).collect(),
        next,
    ))))
}

/// One database server
#[utoipa::path(get, path = "/servers/{name}", tag = "servers", params(("name" = String, Path, description = "The server's name")),
    responses((status = 200, description = "The server", body = Success<Server>)))]
async fn read_server(
    State(control): State<Control>,
    caller: Caller,
    InPath(name): InPath<String>,
) -> Answer<Json<Success<Server>>> {
    let all = control.servers(&caller.identity, everything()).await?;
    let found = all.into_iter().find(|server| server.name.as_str() == name);
    let server = found.ok_or_else(|| Refusal::not_found("server", &name))?;
    Ok(Json(Success::of(render(server))))
}

fn render(server: model::ServerInfo) -> Server {
    Server {
        name: server.name.to_string(),
        host: server.host,
        port: server.port,
        version: server
            .version
            .map(|number| format!("{}.{}", number / 10_000, number % 10_000)),
        opaque_names: server.opaque_names,
        workspaces: server.workspaces,
        tenant_databases: server.tenant_databases,
        created_at: server.created_at,
    }
}
