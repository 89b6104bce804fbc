//! Refusals before the relay begins, and the one place that says them.

use std::io;
use std::time::Duration;

use tdb_wire_postgres::report::Report;
use tokio::time::timeout;

use crate::Plane;
use crate::stream::Stream;

/// What a client gets to read its refusal.
const SAY_TIME_MAX: Duration = Duration::from_secs(2);

/// Why a connection ends before it is relayed.
pub struct Refusal {
    /// The stream to say it on; none where there is nobody to say it to, or where the caller still has it.
    stream: Option<Stream>,
    words: Words,
}

enum Words {
    Report(Box<Report>),
    /// An ErrorResponse of the database server, passed on as it came.
    Server(Vec<u8>, String),
    Silent(&'static str, io::Error),
}

impl Refusal {
    pub fn new(stream: Stream, report: Report) -> Self {
        Self {
            stream: Some(stream),
            words: Words::Report(Box::new(report)),
        }
    }

    /// To be given its stream by [`Self::on`].
    pub fn said(report: Report) -> Self {
        Self {
            stream: None,
            words: Words::Report(Box::new(report)),
        }
    }

    /// The server's own error, a whole frame; `code` for log and metrics.
    pub fn server(frame: Vec<u8>, code: String) -> Self {
        Self {
            stream: None,
            words: Words::Server(frame, code),
        }
    }

    /// Nobody can be told.
    pub fn silent(what: &'static str, error: io::Error) -> Self {
        Self {
            stream: None,
            words: Words::Silent(what, error),
        }
    }

    pub fn on(mut self, stream: Stream) -> Self {
        self.stream.get_or_insert(stream);
        self
    }

    /// Tells the client and closes.
    pub async fn say(self, plane: &Plane) {
        let mut out = Vec::new();
        match self.words {
            Words::Silent(what, error) => return tracing::info!(%error, "{what}"),
            Words::Report(report) => {
                tracing::info!(sqlstate = report.state.code(), "{}", report.message);
                plane.metrics.refusal(report.state.code());
                report.write(&mut out);
            }
            Words::Server(frame, code) => {
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
