//! What a store has besides its tables: the installation's name and three login roles, created by the database's owner.
//! The roles' names contain the installation's, so that several installations can share a cluster. Their secrets are
//! stored encrypted with the master key, so that an operator configures only one URL and one key.

use secrecy::SecretString;
use tdb_auth::{ClientTls, ITERATIONS_RANDOM_SECRET, MasterKey, RootsError, ScramVerifier, base32, upstream_secret};
use thiserror::Error;
use tokio_postgres::Client;

use crate::error::{StoreError, detail};
use crate::migrations::{self, MigrationState};
use crate::tx::answered;
use crate::url::StoreUrl;

/// Statements that are executed before the first migration.
pub(crate) const SCHEMA: &str = "CREATE SCHEMA IF NOT EXISTS control_plane;
    CREATE TABLE IF NOT EXISTS control_plane.schema_migrations (
        number integer PRIMARY KEY,
        name text NOT NULL,
        checksum text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now())";

/// Why the store could not be set up or opened. Each message says what to do.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The server is too old.
    #[error("the metadata store runs PostgreSQL {found}; 13 or later is needed")]
    Version {
        /// Its major version.
        found: i32,
    },
    /// A migration is not applied.
    #[error("the metadata store has not been set up or is behind this program; run `tenantsdb migrate up`")]
    NotMigrated,
    /// The text of an applied migration differs from this program's.
    #[error(
        "migration {number} ({name}) was changed after it had been applied; run the program that applied it, or restore its text"
    )]
    Changed {
        /// The migration's number.
        number: i32,
        /// The migration's name.
        name: String,
    },
    /// The store has a migration that this program does not have.
    #[error("migration {number} ({name}) was applied by a newer program; run that program")]
    Newer {
        /// The migration's number.
        number: i32,
        /// The migration's name.
        name: String,
    },
    /// PostgreSQL returned an error for a migration, which was rolled back.
    #[error("migration {number} ({name}) failed: {}", detail(.cause))]
    Failed {
        /// The migration's number.
        number: i32,
        /// The migration's name.
        name: String,
        /// PostgreSQL's error. It is not a source, because its text is in the message.
        cause: tokio_postgres::Error,
    },
    /// The lock for migrations was not released in time.
    #[error("another program has been migrating the metadata store for a minute; try again when it has finished")]
    Locked,
    /// The schema could not be created or read.
    #[error("cannot create the schema control_plane: {0}; the URL's user must own the database")]
    Schema(String),
    /// Grants and policies could not be applied.
    #[error("cannot apply the access rules of the metadata store: {0}; the URL's user must own the database")]
    Access(String),
    /// Login roles are missing, and this user cannot create them.
    #[error(
        "the user of the metadata store's URL may not create roles; give it CREATEROLE, or run this as an administrator and try again:\n{sql}"
    )]
    MissingRoles {
        /// The statements that an administrator has to run.
        sql: String,
    },
    /// A login role could bypass the policies.
    #[error(
        "the role \"{name}\" is a superuser or bypasses row-level security; run: ALTER ROLE \"{name}\" NOSUPERUSER NOBYPASSRLS"
    )]
    TooMighty {
        /// The role.
        name: String,
    },
    /// PUBLIC may connect to the store's database.
    #[error(
        "every role may connect to the metadata store's database; run: REVOKE ALL ON DATABASE \"{database}\" FROM PUBLIC"
    )]
    OpenToAll {
        /// The database.
        database: String,
    },
    /// The master key cannot decrypt the store's secrets.
    #[error("the master key is not the one this metadata store was set up with")]
    MasterKey,
    /// The certificates for TLS could not be loaded.
    #[error("TLS to the metadata store: {0}")]
    Tls(#[from] RootsError),
    /// The store failed during the setup.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A role of the store and how to log in as it.
#[derive(Debug)]
pub(crate) struct StoreLogin {
    pub(crate) name: String,
    pub(crate) secret: SecretString,
}

#[derive(Debug)]
pub(crate) struct StoreLogins {
    pub(crate) api: StoreLogin,
    pub(crate) data_plane: StoreLogin,
    pub(crate) jobs: StoreLogin,
}

/// A store that can be opened: every migration is applied, and its login roles are recorded.
#[derive(Debug)]
pub(crate) struct CheckedStore {
    pub(crate) installation: String,
    pub(crate) logins: StoreLogins,
}

/// Checks the store as its owner and changes nothing.
pub(crate) async fn look(url: &StoreUrl, master_key: &MasterKey, tls: &ClientTls) -> Result<CheckedStore, SetupError> {
    let connected = url.connect("setup", tls).await?;
    let client = &connected.client;
    let pending = migrations::checked(client).await?;
    if pending
        .iter()
        .any(|migration| migration.state == MigrationState::Pending)
    {
        return Err(SetupError::NotMigrated);
    }
    let Some(installation) = installation(client).await? else {
        return Err(SetupError::NotMigrated);
    };
    let login = async |purpose| {
        recorded(client, master_key, purpose)
            .await?
            .ok_or(SetupError::NotMigrated)
    };
    let logins = StoreLogins {
        api: login("api").await?,
        data_plane: login("data_plane").await?,
        jobs: login("jobs").await?,
    };
    Ok(CheckedStore { installation, logins })
}

/// Generates the installation's name, once.
pub(crate) async fn name_installation(client: &Client) -> Result<(), SetupError> {
    let sql = "INSERT INTO control_plane.system_config (installation) VALUES ($1) ON CONFLICT DO NOTHING";
    let name = base32(8).map_err(StoreError::from)?;
    answered(client.execute(sql, &[&name])).await?;
    Ok(())
}

/// Creates those of the three login roles that are missing. The secret is stored first: a role without a stored secret
/// could not be used.
pub(crate) async fn login_roles(client: &Client, master_key: &MasterKey) -> Result<StoreLogins, SetupError> {
    let installation = installation(client).await?.ok_or(SetupError::NotMigrated)?;
    let login = async |purpose: &'static str| match recorded(client, master_key, purpose).await? {
        Some(login) => Ok(login),
        None => record(client, master_key, purpose, &format!("cp_{purpose}_{installation}")).await,
    };
    let logins = StoreLogins {
        api: login("api").await?,
        data_plane: login("data_plane").await?,
        jobs: login("jobs").await?,
    };
    let mut missing = Vec::new();
    for login in [&logins.api, &logins.data_plane, &logins.jobs] {
        if !exists(client, &login.name).await? {
            missing.push(create_role(login)?);
        }
    }
    if !missing.is_empty() {
        create(client, &missing.join("\n")).await?;
    }
    Ok(logins)
}

/// Only the store's own roles may connect to its database: roles of tenants may exist in the same cluster.
pub(crate) async fn check_privacy(client: &Client) -> Result<(), SetupError> {
    let sql = "SELECT current_database()::text AS database, EXISTS (SELECT FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
               WHERE d.datname = current_database() AND a.grantee = 0 AND a.privilege_type = 'CONNECT') AS open";
    let row = answered(client.query_one(sql, &[])).await?;
    match row.try_get("open").map_err(SetupError::schema_of)? {
        true => Err(SetupError::OpenToAll {
            database: row.try_get("database").map_err(SetupError::schema_of)?,
        }),
        false => Ok(()),
    }
}

async fn installation(client: &Client) -> Result<Option<String>, SetupError> {
    let row = answered(client.query_opt("SELECT installation FROM control_plane.system_config", &[])).await?;
    row.map(|row| row.try_get(0).map_err(SetupError::schema_of)).transpose()
}

async fn recorded(client: &Client, master_key: &MasterKey, purpose: &str) -> Result<Option<StoreLogin>, SetupError> {
    let sql = "SELECT name, secret FROM control_plane.store_roles WHERE purpose = $1";
    let Some(row) = answered(client.query_opt(sql, &[&purpose])).await? else {
        return Ok(None);
    };
    let name: String = row.try_get(0).map_err(SetupError::schema_of)?;
    let sealed: Vec<u8> = row.try_get(1).map_err(SetupError::schema_of)?;
    let secret = master_key
        .open(&context(&name), &sealed)
        .map_err(|_| SetupError::MasterKey)?;
    Ok(Some(StoreLogin { name, secret }))
}

async fn record(client: &Client, master_key: &MasterKey, purpose: &str, name: &str) -> Result<StoreLogin, SetupError> {
    let secret = upstream_secret().map_err(StoreError::from)?;
    let sealed = master_key.seal(&context(name), &secret).map_err(StoreError::from)?;
    let sql = "INSERT INTO control_plane.store_roles (purpose, name, secret) VALUES ($1, $2, $3)";
    answered(client.execute(sql, &[&purpose, &name, &sealed])).await?;
    Ok(StoreLogin {
        name: name.to_owned(),
        secret,
    })
}

fn context(role: &str) -> String {
    format!("store-role:{role}")
}

/// Whether the role exists. An error if it is too powerful.
async fn exists(client: &Client, name: &str) -> Result<bool, SetupError> {
    let sql = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = $1";
    match answered(client.query_opt(sql, &[&name])).await? {
        None => Ok(false),
        Some(row) if row.try_get(0).map_err(SetupError::schema_of)? => {
            Err(SetupError::TooMighty { name: name.to_owned() })
        }
        Some(_) => Ok(true),
    }
}

/// A statement with a verifier, never with the password, since statements are logged. Neither part can contain a quote.
fn create_role(login: &StoreLogin) -> Result<String, SetupError> {
    let verifier = ScramVerifier::derive(&login.secret, ITERATIONS_RANDOM_SECRET).map_err(StoreError::from)?;
    Ok(format!("CREATE ROLE {} LOGIN PASSWORD '{verifier}';", login.name))
}

async fn create(client: &Client, sql: &str) -> Result<(), SetupError> {
    let may = "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user";
    let may: bool = answered(client.query_one(may, &[]))
        .await?
        .try_get(0)
        .map_err(SetupError::schema_of)?;
    if !may {
        return Err(SetupError::MissingRoles { sql: sql.to_owned() });
    }
    answered(client.batch_execute(sql)).await?;
    Ok(())
}

impl SetupError {
    pub(crate) fn schema(error: StoreError) -> Self {
        match error {
            StoreError::Database(source) => SetupError::Schema(detail(&source)),
            other => SetupError::Store(other),
        }
    }

    pub(crate) fn access(error: StoreError) -> Self {
        match error {
            StoreError::Database(source) => SetupError::Access(detail(&source)),
            other => SetupError::Store(other),
        }
    }

    /// A column of the schema has another type than expected.
    pub(crate) fn schema_of(error: tokio_postgres::Error) -> Self {
        SetupError::Store(StoreError::Database(error))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
