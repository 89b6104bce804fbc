//! The typed client over HTTP: one blocking method for each endpoint. Methods that return a list fetch all its pages.

use std::fmt::Write as _;
use std::io::Read;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tdb_problems::system::described;
use thiserror::Error;
use ureq::http::{Request, request};

use crate::accounts::{
    ApiKeyList, CreateApiKey, CreateProject, CreatedApiKey, CreatedProject, LogIn, LoggedIn, ProjectList,
    RotatedCredential, SignUp, SignedUp,
};
use crate::blueprints::{Blueprint, BlueprintList, VersionList};
use crate::credentials::{CreateCredential, CreatedCredential, CredentialList};
use crate::deployments::{CreateDeployment, Job, JobList};
use crate::drift::{Drift, DriftRefresh, RefreshDrift, RepairDrift, RepairedDrift};
use crate::events::Events;
use crate::extensions::{CreateExtension, ExtensionList};
use crate::limits::{SetTenantLimits, TenantLimits};
use crate::lists::{Created, Done, Paged};
use crate::problems::Problem;
use crate::queries::{AdminQuery, AdminQueryResults, Query, QueryResult};
use crate::roles::{CreateRole, Role, RoleList};
use crate::servers::{RegisterServer, Server, ServerList, ServerTest};
use crate::service::{Health, Service};
use crate::settings::{ChangeSettings, WorkspaceSettings};
use crate::tenants::{CreateTenant, DeletedTenant, Tenant, TenantList};
use crate::workspaces::{
    Change, ChangeList, CreateWorkspace, Diff, Revert, SkipChanges, Workspace, WorkspaceList, WorkspaceSchema,
};

/// The longest time for a request and its answer. It is longer than the API's deadline, so that the API's answer arrives
/// first.
const DEADLINE: Duration = Duration::from_secs(150);
/// The longest accepted answer, in bytes.
const ANSWER_LEN_MAX: u64 = 256 * 1024 * 1024;

/// Why a request failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No connection could be made, or it was lost before the answer was complete.
    #[error("cannot reach the API at {url}")]
    Unreachable {
        /// The API's address.
        url: String,
        /// The error of the connection.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The API refused the request.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// The answer is not one of this API: the address may be that of another service.
    #[error("{url} gave an answer that is not TenantsDB's (status {status}): {excerpt}")]
    Foreign {
        /// The address.
        url: String,
        /// The HTTP status of the answer.
        status: u16,
        /// The beginning of the answer, or why it could not be read.
        excerpt: String,
    },
}

/// The result of a request.
pub type Result<T> = std::result::Result<T, ClientError>;

/// A client of one instance's API, with or without an API key.
pub struct Client {
    agent: ureq::Agent,
    base: String,
    key: Option<String>,
}

/// How to delete a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Keep the name and the data, so that the tenant can be restored.
    Soft,
    /// Remove the databases permanently.
    Hard,
}

impl Client {
    /// A client for the API at the address `base`, such as `http://127.0.0.1:9876`. Connects on the first request.
    pub fn new(base: &str, key: Option<String>) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(DEADLINE))
            .timeout_connect(Some(Duration::from_secs(10)))
            .user_agent(concat!("tdb/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.new_agent(),
            base: base.trim_end_matches('/').to_owned(),
            key,
        }
    }

    /// `GET /`.
    pub fn service(&self) -> Result<Service> {
        self.get("/")
    }

    /// `GET /health`.
    pub fn health(&self) -> Result<Health> {
        self.get("/health")
    }

    /// `POST /signup`.
    pub fn sign_up(&self, request: &SignUp) -> Result<Created<SignedUp>> {
        self.post("/signup", request)
    }

    /// `POST /login`.
    pub fn log_in(&self, request: &LogIn) -> Result<LoggedIn> {
        self.post("/login", request)
    }

    /// `GET /projects`.
    pub fn projects(&self) -> Result<ProjectList> {
        self.list("/projects")
    }

    /// `POST /projects`.
    pub fn create_project(&self, request: &CreateProject) -> Result<Created<CreatedProject>> {
        self.post("/projects", request)
    }

    /// `GET /projects/{id}/roles`; `project` is an id or a name.
    pub fn roles(&self, project: &str) -> Result<RoleList> {
        self.list(&format!("/projects/{}/roles", segment(project)))
    }

    /// `POST /projects/{id}/roles`.
    pub fn create_role(&self, project: &str, request: &CreateRole) -> Result<Created<Role>> {
        self.post(&format!("/projects/{}/roles", segment(project)), request)
    }

    /// `DELETE /projects/{id}/roles/{name}`.
    pub fn delete_role(&self, project: &str, name: &str) -> Result<Done> {
        self.delete(&format!("/projects/{}/roles/{}", segment(project), segment(name)))
    }

    /// `DELETE /projects/{id}`.
    pub fn delete_project(&self, id: &str) -> Result<Done> {
        self.delete(&format!("/projects/{}", segment(id)))
    }

    /// `POST /projects/{id}/credential`.
    pub fn rotate_project_credential(&self, id: &str) -> Result<RotatedCredential> {
        self.post_nothing(&format!("/projects/{}/credential", segment(id)))
    }

    /// `GET /apikeys`.
    pub fn api_keys(&self) -> Result<ApiKeyList> {
        self.list("/apikeys")
    }

    /// `POST /apikeys`.
    pub fn create_api_key(&self, request: &CreateApiKey) -> Result<Created<CreatedApiKey>> {
        self.post("/apikeys", request)
    }

    /// `DELETE /apikeys/{id}`.
    pub fn delete_api_key(&self, id: &str) -> Result<Done> {
        self.delete(&format!("/apikeys/{}", segment(id)))
    }

    /// `GET /workspaces`.
    pub fn workspaces(&self) -> Result<WorkspaceList> {
        self.list("/workspaces")
    }

    /// `POST /workspaces`.
    pub fn create_workspace(&self, request: &CreateWorkspace) -> Result<Created<Workspace>> {
        self.post("/workspaces", request)
    }

    /// `GET /workspaces/{name}`.
    pub fn workspace(&self, name: &str) -> Result<Workspace> {
        self.get(&format!("/workspaces/{}", segment(name)))
    }

    /// `DELETE /workspaces/{name}`.
    pub fn delete_workspace(&self, name: &str) -> Result<Done> {
        self.delete(&format!("/workspaces/{}", segment(name)))
    }

    /// `GET /workspaces/{name}/schema`.
    pub fn workspace_schema(&self, name: &str) -> Result<WorkspaceSchema> {
        self.get(&format!("/workspaces/{}/schema", segment(name)))
    }

    /// `GET /workspaces/{name}/diff`.
    pub fn workspace_diff(&self, name: &str) -> Result<Diff> {
        self.list(&format!("/workspaces/{}/diff", segment(name)))
    }

    /// `DELETE /workspaces/{name}/diff/{ddl_id}`.
    pub fn skip_change(&self, name: &str, ddl_id: u32) -> Result<Change> {
        self.delete(&format!("/workspaces/{}/diff/{ddl_id}", segment(name)))
    }

    /// `DELETE /workspaces/{name}/diff`. All changes are skipped, or none.
    pub fn skip_changes(&self, name: &str, ddl_ids: &[u32]) -> Result<ChangeList> {
        let request = SkipChanges {
            ddl_ids: ddl_ids.to_vec(),
        };
        let body = serde_json::to_string(&request).map_err(|error| self.foreign(0, error.to_string()))?;
        self.send("DELETE", &format!("/workspaces/{}/diff", segment(name)), Some(body))
    }

    /// `POST /workspaces/{name}/diff/{ddl_id}/revert`.
    pub fn revert_change(&self, name: &str, ddl_id: u32) -> Result<Revert> {
        self.post_nothing(&format!("/workspaces/{}/diff/{ddl_id}/revert", segment(name)))
    }

    /// `POST /workspaces/{name}/queries`.
    pub fn workspace_query(&self, name: &str, query: &Query) -> Result<QueryResult> {
        self.post(&format!("/workspaces/{}/queries", segment(name)), query)
    }

    /// `GET /workspaces/{name}/settings`.
    pub fn settings(&self, name: &str) -> Result<WorkspaceSettings> {
        self.get(&format!("/workspaces/{}/settings", segment(name)))
    }

    /// `POST /workspaces/{name}/settings`.
    pub fn change_settings(&self, name: &str, change: &ChangeSettings) -> Result<WorkspaceSettings> {
        self.post(&format!("/workspaces/{}/settings", segment(name)), change)
    }

    /// `GET /workspaces/{name}/extensions`.
    pub fn extensions(&self, name: &str) -> Result<ExtensionList> {
        self.list(&format!("/workspaces/{}/extensions", segment(name)))
    }

    /// `POST /workspaces/{name}/extensions`.
    pub fn create_extension(&self, name: &str, request: &CreateExtension) -> Result<Change> {
        self.post(&format!("/workspaces/{}/extensions", segment(name)), request)
    }

    /// `GET /blueprints`.
    pub fn blueprints(&self) -> Result<BlueprintList> {
        self.list("/blueprints")
    }

    /// `GET /blueprints/{name}`.
    pub fn blueprint(&self, name: &str) -> Result<Blueprint> {
        self.get(&format!("/blueprints/{}", segment(name)))
    }

    /// `GET /blueprints/{blueprint}/versions`.
    pub fn versions(&self, blueprint: &str) -> Result<VersionList> {
        self.list(&format!("/blueprints/{}/versions", segment(blueprint)))
    }

    /// `GET /tenants`.
    pub fn tenants(&self) -> Result<TenantList> {
        self.list("/tenants")
    }

    /// `POST /tenants`.
    pub fn create_tenant(&self, request: &CreateTenant) -> Result<Created<Tenant>> {
        self.post("/tenants", request)
    }

    /// `GET /tenants/{name}`.
    pub fn tenant(&self, name: &str) -> Result<Tenant> {
        self.get(&format!("/tenants/{}", segment(name)))
    }

    /// `DELETE /tenants/{name}`.
    pub fn delete_tenant(&self, name: &str, deletion: Deletion) -> Result<DeletedTenant> {
        let how = match deletion {
            Deletion::Soft => "",
            Deletion::Hard => "?hard=true",
        };
        self.delete(&format!("/tenants/{}{how}", segment(name)))
    }

    /// `POST /tenants/{name}/suspend`.
    pub fn suspend_tenant(&self, name: &str) -> Result<Tenant> {
        self.post_nothing(&format!("/tenants/{}/suspend", segment(name)))
    }

    /// `POST /tenants/{name}/resume`.
    pub fn resume_tenant(&self, name: &str) -> Result<Tenant> {
        self.post_nothing(&format!("/tenants/{}/resume", segment(name)))
    }

    /// `POST /tenants/{name}/restore`.
    pub fn restore_tenant(&self, name: &str) -> Result<Tenant> {
        self.post_nothing(&format!("/tenants/{}/restore", segment(name)))
    }

    /// `GET /tenants/{name}/limits`.
    pub fn tenant_limits(&self, name: &str) -> Result<TenantLimits> {
        self.get(&format!("/tenants/{}/limits", segment(name)))
    }

    /// `PUT /tenants/{name}/limits`.
    pub fn set_tenant_limits(&self, name: &str, limits: &SetTenantLimits) -> Result<TenantLimits> {
        self.put(&format!("/tenants/{}/limits", segment(name)), limits)
    }

    /// `GET /tenants/{name}/deployments`.
    pub fn tenant_deployments(&self, name: &str) -> Result<JobList> {
        self.list(&format!("/tenants/{}/deployments", segment(name)))
    }

    /// `GET /deployments`.
    pub fn deployments(&self) -> Result<JobList> {
        self.list("/deployments")
    }

    /// `POST /deployments`.
    pub fn create_deployment(&self, request: &CreateDeployment) -> Result<Created<Job>> {
        self.post("/deployments", request)
    }

    /// `GET /deployments/{id}`.
    pub fn deployment(&self, id: &str) -> Result<Job> {
        self.get(&format!("/deployments/{}", segment(id)))
    }

    /// `POST /deployments/{id}/retry`.
    pub fn retry_deployment(&self, id: &str) -> Result<Job> {
        self.post_nothing(&format!("/deployments/{}/retry", segment(id)))
    }

    /// `GET /deployments/{id}/events`: the events after the one with the id `last`. The stream ends with the deployment. It
    /// can also be interrupted; the caller then requests the events after the last one that it has received.
    pub fn deployment_events(&self, id: &str, last: Option<u64>) -> Result<Events<impl Read + use<>>> {
        let path = format!("/deployments/{}/events", segment(id));
        let mut request = self.request("GET", &path);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last.to_string());
        }
        let unreachable = |source| self.unreachable(source);
        let request = request.body(()).map_err(ureq::Error::Http).map_err(unreachable)?;
        let mut response = self.agent.run(request).map_err(unreachable)?;
        let status = response.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(Events::new(response.into_body().into_reader()));
        }
        let text = response.body_mut().read_to_string().map_err(unreachable)?;
        match serde_json::from_str(&text) {
            Ok(problem) => Err(ClientError::Problem(problem)),
            Err(_) => Err(self.foreign(status, text.chars().take(200).collect())),
        }
    }

    /// `POST /admin/query`.
    pub fn admin_query(&self, query: &AdminQuery) -> Result<AdminQueryResults> {
        self.post("/admin/query", query)
    }

    /// `GET /servers`.
    pub fn servers(&self) -> Result<ServerList> {
        self.list("/servers")
    }

    /// `GET /servers/{name}`.
    pub fn server(&self, name: &str) -> Result<Server> {
        self.get(&format!("/servers/{}", segment(name)))
    }

    /// `POST /servers`.
    pub fn register_server(&self, request: &RegisterServer) -> Result<Created<Server>> {
        self.post("/servers", request)
    }

    /// `POST /servers/{name}/test`.
    pub fn test_server(&self, name: &str) -> Result<ServerTest> {
        self.post_nothing(&format!("/servers/{}/test", segment(name)))
    }

    /// `POST /servers/{name}/drain`.
    pub fn drain_server(&self, name: &str) -> Result<Server> {
        self.post_nothing(&format!("/servers/{}/drain", segment(name)))
    }

    /// `POST /servers/{name}/resume`.
    pub fn resume_server(&self, name: &str) -> Result<Server> {
        self.post_nothing(&format!("/servers/{}/resume", segment(name)))
    }

    /// `DELETE /servers/{name}`.
    pub fn delete_server(&self, name: &str) -> Result<Done> {
        self.delete(&format!("/servers/{}", segment(name)))
    }

    /// `GET /credentials`.
    pub fn credentials(&self) -> Result<CredentialList> {
        self.list("/credentials")
    }

    /// `POST /credentials`.
    pub fn create_credential(&self, request: &CreateCredential) -> Result<Created<CreatedCredential>> {
        self.post("/credentials", request)
    }

    /// `DELETE /credentials/{id}`.
    pub fn delete_credential(&self, id: &str) -> Result<Done> {
        self.delete(&format!("/credentials/{}", segment(id)))
    }

    /// `GET /drift`, for one blueprint or for all.
    pub fn drift(&self, blueprint: Option<&str>) -> Result<Drift> {
        match blueprint {
            Some(blueprint) => self.get(&format!("/drift?blueprint={}", segment(blueprint))),
            None => self.get("/drift"),
        }
    }

    /// `POST /drift/refresh`, for one blueprint or for all.
    pub fn refresh_drift(&self, blueprint: Option<&str>) -> Result<DriftRefresh> {
        let blueprint = blueprint.map(str::to_owned);
        self.post("/drift/refresh", &RefreshDrift { blueprint })
    }

    /// `POST /drift/repair`.
    pub fn repair_drift(&self, request: &RepairDrift) -> Result<RepairedDrift> {
        self.post("/drift/repair", request)
    }

    /// Fetches all pages of a list.
    fn list<L: Paged + DeserializeOwned>(&self, path: &str) -> Result<L> {
        let mut whole: L = self.get(path)?;
        while let Some(cursor) = whole.next_cursor() {
            let next = self.get(&format!("{path}?cursor={}", segment(cursor)))?;
            whole.append(next);
        }
        Ok(whole)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send("GET", path, None)
    }

    fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send("DELETE", path, None)
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.send_body("POST", path, body)
    }

    fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.send_body("PUT", path, body)
    }

    fn send_body<T: DeserializeOwned>(&self, method: &str, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_string(body).map_err(|error| self.foreign(0, error.to_string()))?;
        self.send(method, path, Some(body))
    }

    fn post_nothing<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send("POST", path, Some("{}".to_owned()))
    }

    fn send<T: DeserializeOwned>(&self, method: &str, path: &str, body: Option<String>) -> Result<T> {
        let (status, text) = self
            .exchange(method, path, body)
            .map_err(|source| self.unreachable(source))?;
        let answer = if (200..300).contains(&status) {
            serde_json::from_str(&text).map(Ok)
        } else {
            serde_json::from_str(&text).map(Err)
        };
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(problem)) => Err(ClientError::Problem(problem)),
            Err(_) => Err(self.foreign(status, text.chars().take(200).collect())),
        }
    }

    fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Option<String>,
    ) -> std::result::Result<(u16, String), ureq::Error> {
        let request = self.request(method, path);
        let mut response = match body {
            Some(body) => {
                let request = request.header("Content-Type", "application/json").body(body);
                self.agent.run(request.map_err(ureq::Error::Http)?)?
            }
            None => self.agent.run(request.body(()).map_err(ureq::Error::Http)?)?,
        };
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_LEN_MAX)
            .read_to_string()?;
        Ok((response.status().as_u16(), text))
    }

    fn request(&self, method: &str, path: &str) -> request::Builder {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.header("Authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    fn unreachable(&self, source: ureq::Error) -> ClientError {
        ClientError::Unreachable {
            url: self.base.clone(),
            source: Box::new(source),
        }
    }

    fn foreign(&self, status: u16, excerpt: String) -> ClientError {
        ClientError::Foreign {
            url: self.base.clone(),
            status,
            excerpt,
        }
    }
}

/// Why an address could not be reached, as text.
pub fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => described(error),
        other => other.to_string(),
    }
}

/// Escapes all characters that are not unreserved (RFC 3986, 2.3), and `.`, so that a name cannot change the path.
fn segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => escaped.push(char::from(byte)),
            b'.' => escaped.push_str("%2E"),
            // Writing to a String cannot fail.
            other => _ = write!(escaped, "%{other:02X}"),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_escapes_its_path_segment() {
        assert_eq!(segment("my-app_1"), "my-app_1");
        assert_eq!(segment("../x?a=b#c d/ä"), "%2E%2E%2Fx%3Fa%3Db%23c%20d%2F%C3%A4");
    }
}
