//! Extensions that PostgreSQL lets only a superuser make, made for developers by the administrator of a server that allows
//! it: a change of its own.

use std::collections::HashMap;
use std::sync::Arc;

use tdb_engines::postgres::extensions::{self, ExtensionError};
use tdb_names::{BlueprintName, ServerName};
use tdb_problems::ProblemCode;
use tdb_store::{changes, servers};

use crate::core::Core;
use crate::error::{ControlError, Result, query_failed, upstream};
use crate::identity::{Identity, KeyScope};
use crate::lifecycle::place::database_name;
use crate::lifecycle::servers::Servers;
use crate::lifecycle::workspaces::Workspaces;
use crate::model::{ChangeInfo, ExtensionInfo};
use crate::schema::blueprints::info;
use crate::schema::drain::Drains;

/// Of a server's allow list: everything but [`reaches_too_far`].
const ALL: &str = "*";
/// PostgreSQL's limit for identifiers; versions are as long as names of files may be.
const NAME_LEN_MAX: usize = 63;
/// What gives files, code outside of the database, networks, or a look at other databases. `*` leaves these out; an
/// operator may name one.
const TOO_FAR: [&str; 13] = [
    "adminpack",
    "dblink",
    "http",
    "old_snapshot",
    "pageinspect",
    "pg_buffercache",
    "pg_cron",
    "pg_net",
    "pg_prewarm",
    "pg_stat_statements",
    "pg_surgery",
    "pg_walinspect",
    "xml2",
];

/// Extensions of workspaces.
#[derive(Clone)]
pub struct Extensions {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) drains: Drains,
    pub(crate) workspaces: Workspaces,
}

impl Extensions {
    /// What the workspace's server has, and may be asked for.
    pub async fn list(&self, identity: &Identity, blueprint: &BlueprintName) -> Result<Vec<ExtensionInfo>> {
        identity.require(KeyScope::Read)?;
        let row = self.workspaces.row(identity, blueprint).await?;
        let name = &row.physical.server;
        let server = self.servers.admin(name).await?;
        let available = extensions::available(&server, database_name(&row.physical)?).await;
        let allowed = self.allowed_extensions(name).await?;
        let mut found = available.map_err(|e| upstream(name, e))?;
        found.retain(|extension| is_allowed(&allowed, &extension.name) || extension.installed_version.is_some());
        let shown = found.into_iter().map(|extension| ExtensionInfo {
            name: extension.name,
            default_version: extension.default_version,
            installed_version: extension.installed_version,
            schema: extension.schema,
        });
        Ok(shown.collect())
    }

    /// Makes an extension in the workspace as the server's administrator; tenants get it by deployment.
    pub async fn create(
        &self,
        identity: &Identity,
        blueprint: &BlueprintName,
        name: &str,
        version: Option<&str>,
    ) -> Result<ChangeInfo> {
        identity.require(KeyScope::Write)?;
        check_word("name", name)?;
        version.map_or(Ok(()), |version| check_word("version", version))?;
        let row = self.workspaces.ready(identity, blueprint).await?;
        let place = &row.physical.server;
        if !is_allowed(&self.allowed_extensions(place).await?, name) {
            let detail = format!("extension \"{name}\" is not allowed on server \"{place}\"");
            let hint = "Whoever runs this installation allows it with \"extensions\" of the server in proxy.toml.";
            return Err(ControlError::refused(ProblemCode::ExtensionNotAllowed, detail, hint));
        }
        let server = self.servers.admin(place).await?;
        let made = extensions::create(&server, database_name(&row.physical)?, name, version).await;
        let xid = made.map_err(|error| refused(place, name, error))?;
        Box::pin(self.drains.drain_row(&row)).await?;
        let xid = i64::try_from(xid).map_err(ControlError::internal)?;
        let tx = self.core.store.project(identity.project()).await?;
        let change = changes::by_xid(&tx, row.id, xid).await?;
        let mut change = change.ok_or_else(|| ControlError::internal("the extension was not captured"))?;
        change.author = identity.author();
        changes::set_author(&tx, row.id, change.id, &change.author).await?;
        tx.commit().await?;
        Ok(info(change, &HashMap::new()))
    }

    async fn allowed_extensions(&self, server: &ServerName) -> Result<Vec<String>> {
        let tx = self.core.store.jobs().await?;
        let allowed = servers::extensions(&tx, server).await?;
        tx.rollback().await?;
        Ok(allowed)
    }
}

fn is_allowed(allowed: &[String], name: &str) -> bool {
    let named = allowed.iter().any(|allowed| allowed == name);
    named || allowed.iter().any(|allowed| allowed == ALL) && !reaches_too_far(name)
}

fn reaches_too_far(name: &str) -> bool {
    // Languages that are not confined end in u.
    let language = name.starts_with("pl") && name.ends_with('u');
    language || name.ends_with("_fdw") || TOO_FAR.contains(&name)
}

/// As PostgreSQL wants names and versions of extensions: fit for a file's name.
fn check_word(field: &'static str, word: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.+".contains(c);
    let whole = (1..=NAME_LEN_MAX).contains(&word.len()) && word.chars().all(fits);
    if whole && !word.contains("--") && !word.starts_with('-') && !word.ends_with('-') {
        return Ok(());
    }
    let rule = format!("must be 1 to {NAME_LEN_MAX} letters, digits and _ - . +");
    Err(ControlError::Invalid { field, rule })
}

fn refused(server: &ServerName, name: &str, error: ExtensionError) -> ControlError {
    match error {
        ExtensionError::Unknown => ControlError::Invalid {
            field: "name",
            rule: format!("is \"{name}\", which server \"{server}\" does not have in this version"),
        },
        ExtensionError::Exists { .. } => ControlError::Exists {
            what: "extension",
            name: name.to_owned(),
            hint: None,
        },
        ExtensionError::Unsafe { .. } => {
            let detail = format!("extension \"{name}\" cannot be made: {error}");
            let hint = "Rename the schema, or drop the extension in it and have it made by this endpoint first.";
            ControlError::refused(ProblemCode::ExtensionNotAllowed, detail, hint)
        }
        ExtensionError::Engine(error) => query_failed(server, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_means_all_that_stay_within_their_database() {
        let all = [ALL.to_owned()];
        for name in ["postgis", "vector", "bloom", "plpgsql_check"] {
            assert!(is_allowed(&all, name), "{name}");
        }
        for name in [
            "file_fdw",
            "postgres_fdw",
            "plpython3u",
            "plperlu",
            "dblink",
            "adminpack",
            "xml2",
        ] {
            assert!(!is_allowed(&all, name), "{name}");
            assert!(is_allowed(&[name.to_owned()], name), "{name}");
        }
        assert!(!is_allowed(&[], "bloom"));
    }

    #[test]
    fn names_are_fit_for_files() {
        for word in ["uuid-ossp", "1.1", "3.0dev+x"] {
            assert!(check_word("name", word).is_ok(), "{word}");
        }
        for word in ["", "a--b", "-a", "a/b", "a\"b", "ä", &"x".repeat(64)] {
            assert!(check_word("name", word).is_err(), "{word}");
        }
    }
}
