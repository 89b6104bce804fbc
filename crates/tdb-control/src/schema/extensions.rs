//! Extensions that only a superuser may create. The administrator creates those that the server's configuration allows,
//! as a separate change, at a request of the API or before a developer's `CREATE EXTENSION` runs.

use std::collections::HashMap;
use std::iter;
use std::sync::Arc;

use tdb_contract::{Prepared, WorkspaceText};
use tdb_engines::postgres::extensions::written::{self, Written};
use tdb_engines::postgres::extensions::{self, ExtensionError, MadeBy, Missing, Wanted};
use tdb_engines::postgres::session_settings;
use tdb_names::{BlueprintName, ServerName};
use tdb_problems::ProblemCode;
use tdb_store::workspaces::WorkspaceRow;
use tdb_store::{changes, servers, workspaces};

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result, query_failed, upstream};
use crate::identity::{Identity, KeyScope};
use crate::lifecycle::place::database_name;
use crate::lifecycle::servers::Servers;
use crate::lifecycle::workspaces::Workspaces;
use crate::model::{ChangeInfo, ExtensionInfo};
use crate::schema::blueprints::info;
use crate::schema::drain::Drains;

/// The entry of a server's list of allowed extensions that stands for all except those that reach beyond their
/// database.
const ALL: &str = "*";
/// PostgreSQL's limit for identifiers. Names and versions are part of file names, so both have this limit.
const NAME_LEN_MAX: usize = 63;
/// Extensions that give access to files, to code outside of the database, to the network, or to other databases. `*`
/// does not include them; the operator may list them by name.
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

/// Extensions of workspaces: list and create.
#[derive(Clone)]
pub struct Extensions {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) drains: Drains,
    pub(crate) workspaces: Workspaces,
}

impl Extensions {
    /// The extensions that the workspace has or may be given.
    pub async fn list(&self, identity: &Identity, blueprint: &BlueprintName) -> Result<Vec<ExtensionInfo>> {
        identity.require(KeyScope::Read)?;
        let row = self.workspaces.row(identity, blueprint).await?;
        let name = &row.physical.server;
        let server = self.servers.admin(name).await?;
        let database = database_name(&row.physical)?;
        let available = async {
            let available = extensions::available(&server, database).await;
            available.map_err(|e| upstream(name, e))
        };
        let mut found = self.servers.patiently(name, available).await?;
        let allowed = self.allowed_extensions(name).await?;
        found.retain(|extension| is_allowed(&allowed, &extension.name) || extension.installed_version.is_some());
        let shown = found.into_iter().map(|extension| ExtensionInfo {
            name: extension.name,
            default_version: extension.default_version,
            installed_version: extension.installed_version,
            schema: extension.schema,
        });
        Ok(shown.collect())
    }

    /// Creates an extension in the workspace as the server's administrator. Tenants get it by deployment.
    pub async fn create(&self, identity: &Identity, blueprint: &BlueprintName, wanted: &Wanted) -> Result<ChangeInfo> {
        identity.require(KeyScope::Write)?;
        check_word("name", &wanted.name)?;
        wanted
            .version
            .as_deref()
            .map_or(Ok(()), |version| check_word("version", version))?;
        wanted.schema.as_deref().map_or(Ok(()), check_schema)?;
        let row = self.workspaces.ready(identity, blueprint).await?;
        let allowed = self.allowed_extensions(&row.physical.server).await?;
        let xid = self.make_extension(&row, wanted, &allowed, None).await?;
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

    /// Called by the proxy before a text runs: see [`Self::make_written`].
    pub(crate) async fn prepare_text(&self, text: WorkspaceText) -> Result<Prepared> {
        let tx = self.core.store.jobs().await?;
        let row = workspaces::by_id(&tx, text.workspace).await?;
        tx.rollback().await?;
        match row {
            Some(row) => {
                let mut prepared = self.make_written(&row, &text.text, text.server_pid).await;
                let text = prepared.text.as_deref().unwrap_or(&text.text);
                prepared.text = for_the_role(&row, text)?.or(prepared.text);
                Ok(prepared)
            }
            None => Ok(Prepared::default()),
        }
    }

    /// Creates the extensions that a developer's text is about to create and that only a superuser may create.
    /// `speaker` is the process id of the session that will run the text.
    pub(crate) async fn make_written(&self, row: &WorkspaceRow, text: &str, speaker: i32) -> Prepared {
        let written = written::extensions(text);
        let mut prepared = Prepared::default();
        let mut made = Vec::new();
        for (at, one) in written.iter().enumerate() {
            let before = written.get(..at).unwrap_or_default();
            if let Err(error) = self.make_one(row, one, before, speaker, &mut made).await {
                prepared.warnings.push(explained(&one.wanted.name, &error));
            }
        }
        if !made.is_empty() {
            self.drains.drain_if_possible(row).await;
            prepared.text = Some(written::with_conditions(text, &written, &made));
        }
        prepared
    }

    /// Creates what only the administrator can create of the statement `written`. `before` are the statements before it in
    /// the text. Appends to `made` the names of extensions that the text contains and that exist now, also if it then fails.
    async fn make_one(
        &self,
        row: &WorkspaceRow,
        written: &Written,
        before: &[Written],
        speaker: i32,
        made: &mut Vec<String>,
    ) -> Result<()> {
        let Wanted { name, version, .. } = &written.wanted;
        let fit =
            check_word("name", name).is_ok() && version.as_deref().is_none_or(|v| check_word("version", v).is_ok());
        if !fit {
            return Ok(());
        }
        let place = &row.physical.server;
        let server = self.servers.admin(place).await?;
        let database = database_name(&row.physical)?;
        let failed = |error| upstream(place, error);
        let lacks = extensions::lacks(&server, database, &written.wanted).await;
        let Some(missing) = lacks.map_err(failed)? else {
            return Ok(());
        };
        // Without CASCADE, what it requires is created only if a statement before it would have done so.
        let required = extensions::requirements(&server, database, name).await;
        let required: Vec<(Missing, &Written)> = required
            .map_err(failed)?
            .into_iter()
            .filter_map(|one| {
                let own = before.iter().find(|other| other.wanted.name == one.name);
                own.or(written.cascade.then_some(written)).map(|by| (one, by))
            })
            .collect();
        // A trusted extension is created too if an extension that only a superuser may create can need it.
        if iter::once(&missing)
            .chain(required.iter().map(|(one, _)| one))
            .all(|one| one.made_by == MadeBy::Owner)
        {
            return Ok(());
        }
        let itself = (missing.made_by == MadeBy::Superuser).then_some((&missing, written));
        let all = required.iter().map(|(one, by)| (one, *by)).chain(itself);
        let schemas: Vec<&str> = all.filter_map(|(one, by)| schema_to_exist(one, by)).collect();
        // Before anything is created: what is created stays if the text fails.
        if let Some(schema) = extensions::absent_schema(&server, database, &schemas)
            .await
            .map_err(failed)?
        {
            let rule = format!("is \"{schema}\", which does not exist");
            return Err(ControlError::Invalid { field: "schema", rule });
        }
        let allowed = self.allowed_extensions(place).await?;
        for (one, by) in &required {
            let by_name = by.wanted.name == one.name;
            let version = by.wanted.version.clone().filter(|_| by_name);
            self.make_missing(row, one, version, by, &allowed, speaker).await?;
            made.extend(by_name.then(|| one.name.clone()));
        }
        if missing.made_by == MadeBy::Owner {
            return Ok(());
        }
        self.make_missing(row, &missing, version.clone(), written, &allowed, speaker)
            .await?;
        made.push(name.clone());
        Ok(())
    }

    /// Creates one extension of a text. As in PostgreSQL, the schema that the text names applies to all extensions that
    /// CASCADE creates and that have no fixed schema.
    async fn make_missing(
        &self,
        row: &WorkspaceRow,
        missing: &Missing,
        version: Option<String>,
        written: &Written,
        allowed: &[String],
        speaker: i32,
    ) -> Result<()> {
        let fixed = missing.fixed_schema.as_ref().filter(|_| written.cascade);
        let wanted = Wanted {
            name: missing.name.clone(),
            version,
            schema: fixed.or(written.wanted.schema.as_ref()).cloned(),
        };
        let own = [missing.name.clone()];
        let allowed = match missing.made_by {
            MadeBy::Owner => own.as_slice(),
            MadeBy::Superuser => allowed,
        };
        self.make_extension(row, &wanted, allowed, Some(speaker))
            .await
            .map(drop)
    }

    /// Returns the id of the transaction that created it.
    async fn make_extension(
        &self,
        row: &WorkspaceRow,
        wanted: &Wanted,
        allowed: &[String],
        speaker: Option<i32>,
    ) -> Result<u64> {
        let place = &row.physical.server;
        let name = &wanted.name;
        if !is_allowed(allowed, name) {
            let detail = format!("extension \"{name}\" is not allowed on server \"{place}\"");
            let hint = "Name it in \"extensions\" of a server, in proxy.toml or with POST /servers. \"tenantsdb dev\" allows those that give no \
                        access beyond the database, and no others.";
            return Err(ControlError::refused(ProblemCode::ExtensionNotAllowed, detail, hint));
        }
        let server = self.servers.admin(place).await?;
        let (database, owner) = (database_name(&row.physical)?, &row.physical.roles.owner.name);
        let made = extensions::create(&server, database, owner, wanted, speaker).await;
        made.map_err(|error| refused(place, name, error))
    }

    async fn allowed_extensions(&self, server: &ServerName) -> Result<Vec<String>> {
        let tx = self.core.store.jobs().await?;
        let allowed = servers::extensions(&tx, server).await?;
        tx.rollback().await?;
        Ok(allowed)
    }
}

/// The schema that must exist before `written` creates the extension `one`. PostgreSQL creates one that the extension prescribes.
fn schema_to_exist<'w>(one: &Missing, written: &'w Written) -> Option<&'w str> {
    let schema = written.wanted.schema.as_deref()?;
    one.fixed_schema.is_none().then_some(schema)
}

/// The text with ALTER ROLE CURRENT_USER for an ALTER DATABASE of the workspace that sets what its sessions begin with. `None` for
/// any other text.
pub(crate) fn for_the_role(row: &WorkspaceRow, text: &str) -> Result<Option<String>> {
    let logical = format!("{}_dev", row.blueprint);
    Ok(session_settings::for_role(
        text,
        &[database_name(&row.physical)?, &logical],
    ))
}

fn is_allowed(allowed: &[String], name: &str) -> bool {
    let named = allowed.iter().any(|allowed| allowed == name);
    named || allowed.iter().any(|allowed| allowed == ALL) && !reaches_too_far(name)
}

fn reaches_too_far(name: &str) -> bool {
    // The names of languages that are not confined to the database end in u.
    let language = name.starts_with("pl") && name.ends_with('u');
    language || name.ends_with("_fdw") || TOO_FAR.contains(&name)
}

/// PostgreSQL's rules for names and versions of extensions: they must be usable in a file name.
fn check_word(field: &'static str, word: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.+".contains(c);
    let whole = (1..=NAME_LEN_MAX).contains(&word.len()) && word.chars().all(fits);
    if whole && !word.contains("--") && !word.starts_with('-') && !word.ends_with('-') {
        return Ok(());
    }
    let rule = format!("must be 1 to {NAME_LEN_MAX} letters, digits and _ - . +");
    Err(ControlError::Invalid { field, rule })
}

/// Any identifier that PostgreSQL does not truncate.
fn check_schema(schema: &str) -> Result<()> {
    if (1..=NAME_LEN_MAX).contains(&schema.len()) && !schema.contains('\0') {
        return Ok(());
    }
    Err(ControlError::Invalid {
        field: "schema",
        rule: format!("must be 1 to {NAME_LEN_MAX} bytes without NUL"),
    })
}

/// A warning for the developer whose text PostgreSQL is about to refuse.
fn explained(name: &str, error: &ControlError) -> String {
    match error {
        ControlError::Refused {
            detail,
            hint: Some(hint),
            ..
        } => format!("{detail}: {hint}"),
        other => format!(
            "extension \"{name}\" could not be created by the administrator, whose session does not see uncommitted changes: {}. Create what it \
             needs, such as its schema, in an earlier message and transaction.",
            other.explained()
        ),
    }
}

fn refused(server: &ServerName, name: &str, error: ExtensionError) -> ControlError {
    match error {
        ExtensionError::Unknown => ControlError::Invalid {
            field: "name",
            rule: format!("is \"{name}\", which server \"{server}\" does not have in this version"),
        },
        ExtensionError::Exists { .. } => ControlError::Exists {
            what: EntryKind::Extension,
            name: name.to_owned(),
            hint: None,
        },
        ExtensionError::Schema { schema } => ControlError::Invalid {
            field: "schema",
            rule: format!("is \"{schema}\", which is not for extensions"),
        },
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
