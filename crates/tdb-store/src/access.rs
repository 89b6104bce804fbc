//! Grants and row-level security policies of the store. Applying them locks every table, so they are applied only if
//! they differ from what is in force: a process that starts does not delay running ones.

use ring::digest::{SHA256, digest};
use tokio_postgres::Client;

use crate::migrations;
use crate::setup::{SetupError, StoreLogins, hex};
use crate::tx::answered;

const RULES: &str = include_str!("../migrations/access.sql");
/// A SQL expression for the state of grants and policies in the catalog.
const STATE: &str = include_str!("../migrations/access_state.sql");

/// Applies the rules if the rules, the names of the login roles or the state in the catalog have changed since the last
/// time.
pub(crate) async fn apply(client: &Client, logins: &StoreLogins) -> Result<(), SetupError> {
    let names = [&logins.api.name, &logins.data_plane.name, &logins.jobs.name];
    let rules = format!("{RULES}{names:?}");
    let state = format!("'{}' || {STATE}", hex(digest(&SHA256, rules.as_bytes()).as_ref()));
    let in_force = format!("SELECT access IS NOT DISTINCT FROM {state} FROM control_plane.system_config");
    let in_force = answered(client.query_one(&in_force, &[])).await?;
    if in_force.try_get(0).map_err(SetupError::schema_of)? {
        return Ok(());
    }
    let settings = "SELECT set_config('tdb.role_api', $1, false), set_config('tdb.role_data_plane', $2, false),
                           set_config('tdb.role_jobs', $3, false)";
    answered(client.query(settings, &[names[0], names[1], names[2]])).await?;
    let script = format!("BEGIN;\n{RULES}\n;UPDATE control_plane.system_config SET access = {state}; COMMIT");
    let applied = migrations::run(client, &script).await;
    applied.map_err(|error| SetupError::access(error.into()))
}
