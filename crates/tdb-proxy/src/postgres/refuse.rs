//! Refusals before the relay starts, and the only function that sends them.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::render::Refused;
use crate::Plane;
use crate::stream::Stream;

/// The time limit for sending a refusal and closing the connection.
const SEND_TIME_MAX: Duration = Duration::from_secs(2);

/// Why a connection is closed before it is relayed.
pub(crate) struct Refusal {
    /// The stream to send it on; `None` if the connection was lost, or the caller adds the stream.
    stream: Option<Stream>,
    reason: Reason,
}

enum Reason {
    Refused(Box<Refused>),
    /// An ErrorResponse of the database server, forwarded unchanged.
    Server(Vec<u8>, String),
    /// Only logged.
    Silent(&'static str, io::Error),
}

impl Refusal {
    /// Forwards the server's error: `frame` is the complete message, `code` its SQLSTATE.
    pub(crate) fn server(frame: Vec<u8>, code: String) -> Self {
        Self {
            stream: None,
            reason: Reason::Server(frame, code),
        }
    }

    /// Closes the connection without a message; `what` is logged.
    pub(crate) fn silent(what: &'static str, error: io::Error) -> Self {
        Self {
            stream: None,
            reason: Reason::Silent(what, error),
        }
    }

    /// Adds the stream to send it on, unless it has one.
    pub(crate) fn on(mut self, stream: Stream) -> Self {
        self.stream.get_or_insert(stream);
        self
    }

    /// Logs the refusal, sends it to the client and closes the connection.
    pub(crate) async fn send(self, plane: &Plane) {
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
            // Failures are ignored: the connection is closed in any case.
            let _ = timeout(SEND_TIME_MAX, stream.close_with(&out)).await;
        }
    }
}

/// Without a stream; [`Refusal::on`] adds it.
impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self {
            stream: None,
            reason: Reason::Refused(Box::new(refused)),
        }
    }
}
