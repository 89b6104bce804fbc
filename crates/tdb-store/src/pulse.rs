//! Detects a store that no longer replies. A slow reply is waited for as long as the store accepts new connections;
//! once it does not, all waiting calls fail together instead of each at its own deadline.

use std::pin::pin;
use std::time::Duration;

use prometheus::Histogram;
use tdb_auth::ClientTls;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::error::{Result, StoreError};
use crate::url::StoreUrl;

/// After this time without a reply, the caller checks whether the store accepts connections. Together with
/// [`CHECK_TIME_MAX`] this is less than the three seconds within which an API request fails if the store hangs.
const PATIENCE: Duration = Duration::from_millis(400);
const CHECK_TIME_MAX: Duration = Duration::from_millis(2400);
/// The result of a check is reused for this time: `/health` needs no key, so anyone can request checks.
const CHECK_AGE_MAX: Duration = Duration::from_millis(500);
/// Longer than the server's statement timeout, so that usually the server reports it.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(crate) struct Pulse {
    url: StoreUrl,
    tls: ClientTls,
    answers: Histogram,
    /// Only one check runs at a time.
    last: Mutex<Option<Check>>,
}

#[derive(Debug)]
struct Check {
    ended: Instant,
    outcome: Result<(), String>,
}

impl Pulse {
    /// The role in `url` needs no rights except to connect.
    pub(crate) fn new(url: StoreUrl, tls: ClientTls, answers: Histogram) -> Self {
        Self {
            url,
            tls,
            answers,
            last: Mutex::new(None),
        }
    }

    /// Opens a connection, or returns the result of a check that ended less than 0.5 seconds ago. Ends within 2.4
    /// seconds. Cancel safe.
    pub(crate) async fn check(&self) -> Result<()> {
        let mut last = self.last.lock().await;
        if let Some(check) = last.as_ref()
            && check.ended.elapsed() < CHECK_AGE_MAX
        {
            return check.outcome.clone().map_err(StoreError::unavailable);
        }
        let outcome = match timeout(CHECK_TIME_MAX, self.url.answers(&self.tls)).await {
            Ok(answer) => answer.map_err(|error| match error {
                StoreError::Unavailable { reason } => reason,
                other => other.to_string(),
            }),
            Err(_) => Err(format!("no connection within {CHECK_TIME_MAX:?}")),
        };
        let check = last.insert(Check {
            ended: Instant::now(),
            outcome,
        });
        check.outcome.clone().map_err(StoreError::unavailable)
    }

    /// Like [`Self::answered`], for a statement: its duration is measured.
    pub(crate) async fn statement<T, E>(&self, future: impl Future<Output = Result<T, E>>) -> Result<T>
    where
        StoreError: From<E>,
    {
        let asked = Instant::now();
        let answer = self.answered(future).await;
        self.answers.observe(asked.elapsed().as_secs_f64());
        answer
    }

    /// Waits for a reply of the store. As cancel safe as `future`.
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
