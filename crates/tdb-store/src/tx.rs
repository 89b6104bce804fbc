//! One transaction of the metadata store. A use case is one `Tx`. If it is dropped without a commit, nothing is stored
//! and its connection is closed. The project of its rows is set within the transaction, never for the session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use deadpool_postgres::Object;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::error::{Result, StoreError};
use crate::pulse::Pulse;

/// For connections outside of the pools.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

/// A parameter of a statement.
pub type Parameter<'a> = &'a (dyn ToSql + Sync);

/// An open transaction. After a statement failed, or its future was dropped, the transaction cannot be committed.
#[derive(Debug)]
pub struct Tx {
    /// `None` only after commit or rollback.
    connection: Option<Object>,
    pulse: Arc<Pulse>,
    /// Whether a statement failed: PostgreSQL would execute COMMIT as ROLLBACK without an error.
    unanswered: AtomicU32,
}

impl Tx {
    /// Executes `BEGIN` and further statements that this transaction needs: constant SQL, or identifiers that are valid
    /// by their type.
    pub(crate) async fn begin(
        pulse: &Arc<Pulse>,
        connection: impl Future<Output = Result<Object>>,
        opening: &str,
    ) -> Result<Self> {
        let tx = Self {
            connection: Some(pulse.answered(connection).await?),
            pulse: Arc::clone(pulse),
            unanswered: AtomicU32::new(0),
        };
        pulse.answered(tx.connection()?.batch_execute(opening)).await?;
        Ok(tx)
    }

    /// All rows. Not cancel safe: if the future is dropped, the transaction cannot be committed.
    pub async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        self.counted(async |connection| {
            let statement = connection.prepare_cached(sql).await?;
            connection.query(&statement, parameters).await
        })
        .await
    }

    /// The first row, if any.
    pub async fn query_opt(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Option<Row>> {
        Ok(self.query(sql, parameters).await?.into_iter().next())
    }

    /// The first row, for a query that always returns one (an aggregate, an INSERT with RETURNING).
    pub async fn query_one(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Row> {
        let row = self.query_opt(sql, parameters).await?;
        row.ok_or(StoreError::NotFound { what: "a row" })
    }

    /// The number of affected rows.
    pub async fn execute(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64> {
        self.counted(async |connection| {
            let statement = connection.prepare_cached(sql).await?;
            connection.execute(&statement, parameters).await
        })
        .await
    }

    /// Commits. After [`StoreError::Unavailable`] and [`StoreError::TimedOut`] it is unknown whether the transaction
    /// was committed.
    pub async fn commit(mut self) -> Result<()> {
        if self.unanswered.load(Ordering::Relaxed) > 0 {
            return Err(StoreError::unavailable("a statement of the transaction failed"));
        }
        self.end("COMMIT").await
    }

    /// Rolls back and returns the connection to the pool.
    pub async fn rollback(mut self) -> Result<()> {
        self.end("ROLLBACK").await
    }

    /// The connection is returned to its pool only after the server confirmed the end of the transaction.
    async fn end(&mut self, command: &str) -> Result<()> {
        self.pulse.answered(self.connection()?.batch_execute(command)).await?;
        drop(self.connection.take());
        Ok(())
    }

    async fn counted<T>(&self, run: impl AsyncFnOnce(&Object) -> Result<T, tokio_postgres::Error>) -> Result<T> {
        let connection = self.connection()?;
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        let answer = self.pulse.statement(run(connection)).await?;
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
        Ok(answer)
    }

    fn connection(&self) -> Result<&Object> {
        self.connection
            .as_ref()
            .ok_or_else(|| StoreError::unavailable("the transaction is over"))
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        // Whatever the connection is still executing, it is not reused.
        if let Some(connection) = self.connection.take() {
            drop(Object::take(connection));
        }
    }
}

/// Awaits a reply of the store outside of a transaction, with a deadline.
pub(crate) async fn answered<T, E: Into<StoreError>>(future: impl Future<Output = Result<T, E>>) -> Result<T> {
    match timeout(ANSWER_TIME_MAX, future).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(StoreError::timed_out(format!("no answer within {ANSWER_TIME_MAX:?}"))),
    }
}
