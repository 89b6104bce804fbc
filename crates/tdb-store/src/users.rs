//! Table `users`: people with an email and a password, of which a slow hash is kept. It is reached through functions only.

use tdb_names::ProjectId;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::error::{Result, StoreError};
use crate::row::{column, parsed};
use crate::tx::Tx;

#[derive(Clone, Debug)]
pub struct UserRow {
    pub id: Uuid,
    pub account: Uuid,
}

/// A user of the account of the transaction's project; false where the email is somebody's already.
pub async fn insert(tx: &Tx, id: Uuid, email: &str, password: &str) -> Result<bool> {
    let sql = "SELECT sign_up($1, $2, $3) AS made";
    column(&tx.query_one(sql, &[&id, &email, &password]).await?, "made")
}

/// With the password's hash; in a transaction of [`crate::Store::jobs`].
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

/// The account's oldest project; in a transaction of [`crate::Store::jobs`].
pub async fn first_project(tx: &Tx, account: Uuid) -> Result<Option<ProjectId>> {
    let sql = "SELECT project_id FROM projects WHERE account = $1 ORDER BY created_at, project_id LIMIT 1";
    let row = tx.query_opt(sql, &[&account]).await?;
    row.as_ref().map(|row| parsed(row, "project_id")).transpose()
}
