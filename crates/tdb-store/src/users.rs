//! Table `users`: people with an email address and a password, stored as a slow hash. It is accessed through functions
//! only.

use tdb_names::ProjectId;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::error::{Result, StoreError};
use crate::row::{column, parsed};
use crate::tx::Tx;

/// A user.
#[derive(Clone, Debug)]
pub struct UserRow {
    /// The user's id.
    pub id: Uuid,
    /// The account it belongs to.
    pub account: Uuid,
}

/// Creates a user in the account of the transaction's project. False if the email address is already in use.
pub async fn insert(tx: &Tx, id: Uuid, email: &str, password: &str) -> Result<bool> {
    let sql = "SELECT sign_up($1, $2, $3) AS made";
    column(&tx.query_one(sql, &[&id, &email, &password]).await?, "made")
}

/// A user and the hash of its password. In a transaction of [`crate::Store::jobs`].
pub async fn by_email(tx: &Tx, email: &str) -> Result<Option<(UserRow, String)>> {
    let sql = "SELECT id, account, password FROM user_by_email($1)";
    let row = tx.query_opt(sql, &[&email]).await?;
    let user = |row: &Row| {
        let user = UserRow {
            id: column(row, "id")?,
            account: column(row, "account")?,
        };
        Ok::<_, StoreError>((user, column(row, "password")?))
    };
    row.as_ref().map(user).transpose()
}

/// The oldest project of an account. In a transaction of [`crate::Store::jobs`].
pub async fn first_project(tx: &Tx, account: Uuid) -> Result<Option<ProjectId>> {
    let sql = "SELECT project_id FROM projects WHERE account = $1 ORDER BY created_at, project_id LIMIT 1";
    let row = tx.query_opt(sql, &[&account]).await?;
    row.as_ref().map(|row| parsed(row, "project_id")).transpose()
}
