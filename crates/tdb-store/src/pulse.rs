//! Whether the store answers at all. An answer that takes long is waited for as long as the store takes new connections;
//! once it does not, everything that waits for it fails together, instead of each at its own deadline.

use std::pin::pin;
use std::time::Duration;

use prometheus::Histogram;
use tdb_auth::ClientTls;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::error::{Result, StoreError};
use crate::url::StoreUrl;

/// An answer that takes longer makes its caller look whether the store answers. With [`CHECK_TIME_MAX`] less than the
/// three seconds in which a caller of the API learns that the store hangs.
const PATIENCE: Duration = Duration::from_millis(400);
const CHECK_TIME_MAX: Duration = Duration::from_millis(2400);
/// A check serves all who ask within this time: `/health` wants no key.
const CHECK_AGE_MAX: Duration = Duration::from_millis(500);
/// Longer than the server's own limit for a statement, so that usually the server says so.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(crate) struct Pulse {
    url: StoreUrl,
    tls: ClientTls,
    answers: Histogram,
    /// One check at a time.
    last: Mutex<Option<Check>>,
}

#[derive(Debug)]
struct Check {
    ended: Instant,
    outcome: Result<(), String>,
}

impl Pulse {
    /// `url` needs no rights but to connect.
    pub(crate) fn new(url: StoreUrl, tls: ClientTls, answers: Histogram) -> Self {
        Self {
            url,
            tls,
            answers,
            last: Mutex::new(None),
        }
    }

    /// Opens a connection, or learns how that ended less than a moment ago. Ends within 2.4 seconds. Cancel safe.
    pub(crate) async fn check(&self) -> Result<()> {
        let mut last = self.last.lock().await;
        if let Some(check) = last.as_ref()
            && check.ended.elapsed() < CHECK_AGE_MAX
        {
            return check.outcome.clone().map_err(StoreError::unavailable);
        }
        let outcome = match timeout(CHECK_TIME_MAX, self.url.answers(&self.tls)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no connection within {CHECK_TIME_MAX:?}")),
        };
        let check = last.insert(Check {
            ended: Instant::now(),
            outcome,
        });
        check.outcome.clone().map_err(StoreError::unavailable)
    }

    /// As [`Self::answered`], of a statement: how long it takes is measured.
    pub(crate) async fn statement<T, E>(&self, future: impl Future<Output = Result<T, E>>) -> Result<T>
    where
        StoreError: From<E>,
    {
        let asked = Instant::now();
        let answer = self.answered(future).await;
        self.answers.observe(asked.elapsed().as_secs_f64());
        answer
    }

    /// Waits for an answer of the store. As cancel safe as `future`.
    pub(crate) async fn answered<T, E>(&self, future: impl Future<Output = Result<T, E>>) -> Result<T>
    where
        StoreError: From<E>,
    {
        let mut future = pin!(future);
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        while Instant::now() < deadline {
            if let Ok(answer) = timeout(PATIENCE, &mut future).await {
                return Ok(answer?);
            }
            tokio::select! {
                biased;
                answer = &mut future => return Ok(answer?),
                checked = self.check() => checked?,
            }
        }
        Err(StoreError::unavailable(format!("no answer within {ANSWER_TIME_MAX:?}")))
    }
}
