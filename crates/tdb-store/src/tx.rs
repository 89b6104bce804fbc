//! One transaction of the metadata store. A use case is one `Tx`: it commits as a whole, or, dropped, leaves nothing and
//! its connection is closed. The project of its rows is set in the same transaction, never for the session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use deadpool_postgres::Object;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::error::{Result, StoreError};
use crate::pulse::Pulse;

/// For connections outside the pools.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

pub type Parameter<'a> = &'a (dyn ToSql + Sync);

/// An open transaction. Once a statement failed, or its future was dropped, nothing of it can be committed.
#[derive(Debug)]
pub struct Tx {
    /// Taken by commit and rollback only.
    connection: Option<Object>,
    pulse: Arc<Pulse>,
    /// Statements without a good answer: PostgreSQL would answer COMMIT with a silent ROLLBACK.
    unanswered: AtomicU32,
}

impl Tx {
    /// `BEGIN`, and what else this transaction needs: constant SQL, or identifiers valid by their type.
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

    pub async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        self.counted(async |connection| {
            let statement = connection.prepare_cached(sql).await?;
            connection.query(&statement, parameters).await
        })
        .await
    }

    /// The first row, if there is one.
    pub async fn query_opt(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Option<Row>> {
        Ok(self.query(sql, parameters).await?.into_iter().next())
    }

    /// The first row, which the query always gives (an aggregate, a RETURNING of an INSERT).
    pub async fn query_one(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Row> {
        let row = self.query_opt(sql, parameters).await?;
        row.ok_or(StoreError::NotFound { what: "a row" })
    }

    /// How many rows were affected.
    pub async fn execute(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64> {
        self.counted(async |connection| {
            let statement = connection.prepare_cached(sql).await?;
            connection.execute(&statement, parameters).await
        })
        .await
    }

    /// `Unavailable` and `TimedOut` leave open whether it committed.
    pub async fn commit(mut self) -> Result<()> {
        if self.unanswered.load(Ordering::Relaxed) > 0 {
            return Err(StoreError::unavailable("a statement of the transaction failed"));
        }
        self.end("COMMIT").await
    }

    pub async fn rollback(mut self) -> Result<()> {
        self.end("ROLLBACK").await
    }

    /// The connection goes back to its pool only after the server said that the transaction is over.
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
        // Whatever is still under way there, no other transaction meets it.
        if let Some(connection) = self.connection.take() {
            drop(Object::take(connection));
        }
    }
}

/// Every await on the store outside a transaction has this deadline.
pub(crate) async fn answered<T, E: Into<StoreError>>(future: impl Future<Output = Result<T, E>>) -> Result<T> {
    match timeout(ANSWER_TIME_MAX, future).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(StoreError::timed_out(format!("no answer within {ANSWER_TIME_MAX:?}"))),
    }
}
