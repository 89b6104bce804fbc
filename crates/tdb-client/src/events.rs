//! Events of a deployment, read from the API's stream of server-sent events.

use std::io::{self, BufRead, BufReader, Read};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::deployments::{Job, Target};
use crate::lists::words;

/// The longest accepted line in bytes. A target's error can contain a long statement.
const LINE_LEN_MAX: u64 = 16 * 1024 * 1024;

words! {
    /// What an event's data is.
    EventName {
        /// A target that changed.
        Target = "target",
        /// The deployment as a whole, without its targets.
        Deployment = "deployment",
    }
}

/// An event of a stream (WHATWG HTML, 9.2), field by field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventFields {
    /// What the data is.
    pub event: EventName,
    /// Increases within a deployment. Send the last one as `Last-Event-ID` to continue after it.
    pub id: String,
    /// JSON: a `Target` or a `Job`, as the event's name says.
    pub data: String,
}

/// A parsed event of a deployment.
#[derive(Clone, Debug, PartialEq)]
pub enum DeploymentEvent {
    /// A target that changed.
    Target(Target),
    /// The deployment as a whole, without its targets.
    Deployment(Job),
}

/// Server-sent events, each with its id, from which on an interrupted stream can be resumed. The iterator ends with the
/// stream.
pub struct Events<R> {
    stream: BufReader<R>,
}

impl<R: Read> Events<R> {
    /// Reads events from the body of an answer.
    pub fn new(stream: R) -> Self {
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Reads a line without its terminator; `None` at the end of the stream.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let read = (&mut self.stream).take(LINE_LEN_MAX).read_line(&mut line)?;
        if read == 0 {
            return Ok(None);
        }
        match line.strip_suffix('\n') {
            Some(whole) => Ok(Some(whole.trim_end_matches('\r').to_owned())),
            None => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the stream ended within a line",
            )),
        }
    }

    fn read(&mut self) -> io::Result<Option<(u64, DeploymentEvent)>> {
        let (mut name, mut id, mut data) = (String::new(), None, String::new());
        while let Some(line) = self.line()? {
            if line.is_empty() {
                match event(&name, &data)? {
                    Some(event) => return Ok(Some((id.unwrap_or(0), event))),
                    None => (name, data) = (String::new(), String::new()),
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut name),
                "id" => id = value.parse().ok(),
                "data" => data.push_str(value),
                // A comment, or a field that this version does not know.
                _ => {}
            }
        }
        Ok(None)
    }
}

impl<R: Read> Iterator for Events<R> {
    type Item = io::Result<(u64, DeploymentEvent)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

fn event(name: &str, data: &str) -> io::Result<Option<DeploymentEvent>> {
    fn parsed<T: DeserializeOwned>(data: &str) -> io::Result<T> {
        serde_json::from_str(data).map_err(io::Error::other)
    }
    let name = EventName::ALL.iter().find(|known| known.as_str() == name);
    Ok(match name {
        Some(EventName::Target) => Some(DeploymentEvent::Target(parsed(data)?)),
        Some(EventName::Deployment) => Some(DeploymentEvent::Deployment(parsed(data)?)),
        None => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_unknown_events_are_skipped() {
        let text = concat!(
            ": keep-alive\n\n",
            "event: weather\ndata: rain\n\n",
            "event: target\nid: 7\ndata: {\"tenant_id\":\"acme\",\"status\":\"done\",\"from\":1,\"to\":2,\"changes_done\":1,",
            "\"changes_total\":1,\"drift\":false,\"attempts\":1,\"duration_ms\":3}\r\n\r\n",
            "event: target\nid: 8\ndata: {\"cut"
        );
        let mut events = Events::new(text.as_bytes());
        match events.next() {
            Some(Ok((7, DeploymentEvent::Target(target)))) => assert_eq!(target.tenant_id, "acme"),
            other => panic!("{other:?}"),
        }
        assert!(events.next().is_some_and(|cut| cut.is_err()));
    }
}
