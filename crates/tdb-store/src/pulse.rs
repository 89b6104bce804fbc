//! Detects a store that no longer replies. A slow reply is waited for as long as the store accepts new connections;
//! once it does not, all waiting calls fail together instead of each at its own deadline.

use std::pin::pin;
use std::sync::Arc;
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
    /// Only one check runs at a time. It continues when its caller is dropped: others may wait for its outcome.
    last: Arc<Mutex<Option<Check>>>,
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
            last: Arc::default(),
        }
    }

    /// Opens a connection, or returns the result of a check that ended less than 0.5 seconds ago. Ends within 2.4
    /// seconds. Cancel safe.
    pub(crate) async fn check(&self) -> Result<()> {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some(check) = last.as_ref()
            && check.ended.elapsed() < CHECK_AGE_MAX
        {
            return check.outcome.clone().map_err(StoreError::unavailable);
        }
        let (url, tls) = (self.url.clone(), self.tls.clone());
        let check = tokio::spawn(async move {
            let outcome = ask(&url, &tls).await;
            let check = Check {
                ended: Instant::now(),
                outcome: outcome.clone(),
            };
            *last = Some(check);
            outcome
        });
        check
            .await
            .unwrap_or_else(|error| Err(error.to_string()))
            .map_err(StoreError::unavailable)
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

async fn ask(url: &StoreUrl, tls: &ClientTls) -> Result<(), String> {
    match timeout(CHECK_TIME_MAX, url.answers(tls)).await {
        Ok(answer) => answer.map_err(|error| match error {
            StoreError::Unavailable { reason } => reason,
            other => other.to_string(),
        }),
        Err(_) => Err(format!("no connection within {CHECK_TIME_MAX:?}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prometheus::HistogramOpts;
    use tdb_auth::Roots;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_caller_that_gives_up_does_not_delay_those_who_wait_for_its_check() {
        // Accepts connections, as the kernel does for a stopped process, and replies to none.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = StoreUrl::parse(&format!("postgresql://u@127.0.0.1:{port}/d?sslmode=disable").into()).unwrap();
        let answers = Histogram::with_opts(HistogramOpts::new("answers", "answers")).unwrap();
        let pulse = Pulse::new(url, ClientTls::new(&Roots::system()).unwrap(), answers);
        let (given_up, checked) = tokio::join!(timeout(Duration::from_millis(500), pulse.check()), pulse.check());
        assert!(given_up.is_err());
        checked.unwrap_err();
        listener.accept().await.unwrap();
        let second = timeout(Duration::from_millis(100), listener.accept());
        second.await.unwrap_err();
    }
}
