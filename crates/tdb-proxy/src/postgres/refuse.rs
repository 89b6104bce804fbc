//! Refusals before the relay begins, and the one place that sends them.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::render::Refused;
use crate::Plane;
use crate::stream::Stream;

/// What a client gets to read its refusal.
const SAY_TIME_MAX: Duration = Duration::from_secs(2);

/// Why a connection ends before it is relayed.
pub(crate) struct Refusal {
    /// The stream to send it on; none where the client is gone, or where the caller still has it.
    stream: Option<Stream>,
    reason: Reason,
}

enum Reason {
    Refused(Box<Refused>),
    /// An ErrorResponse of the database server, passed on as it came.
    Server(Vec<u8>, String),
    Silent(&'static str, io::Error),
}

impl Refusal {
    /// The server's own error, a whole frame; `code` for log and metrics.
    pub(crate) fn server(frame: Vec<u8>, code: String) -> Self {
        Self {
            stream: None,
            reason: Reason::Server(frame, code),
        }
    }

    /// The client cannot be told.
    pub(crate) fn silent(what: &'static str, error: io::Error) -> Self {
        Self {
            stream: None,
            reason: Reason::Silent(what, error),
        }
    }

    pub(crate) fn on(mut self, stream: Stream) -> Self {
        self.stream.get_or_insert(stream);
        self
    }

    /// Tells the client and closes.
    pub(crate) async fn say(self, plane: &Plane) {
        let mut out = Vec::new();
        match self.reason {
            Reason::Silent(what, error) => return tracing::info!(%error, "{what}"),
            Reason::Refused(refused) => {
                let report = refused.report();
                tracing::info!(sqlstate = report.state.code(), "{}", report.message);
                plane.metrics.refusal(report.state.code());
                report.write(&mut out);
            }
            Reason::Server(frame, code) => {
                tracing::info!(sqlstate = code, "the database server refused the connection");
                out = frame;
            }
        }
        if let Some(mut stream) = self.stream {
            // Whether the client reads it is its own affair.
            let _ = timeout(SAY_TIME_MAX, stream.say_last(&out)).await;
        }
    }
}

/// To be given its stream by [`Refusal::on`].
impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self {
            stream: None,
            reason: Reason::Refused(Box::new(refused)),
        }
    }
}
