//! Compares what the clients of a round received through the proxy with what they received directly, message by message.
//!
//! What must differ is masked, and nothing else:
//! - BackendKeyData: each run has other processes and secrets. The recording does not contain it.
//! - The value of the reported setting `session_authorization`: a twin has another role.
//! - The process id in a NotificationResponse: replaced by the tag of the client that has it. With shared server connections
//!   no client has it, and the tag is the one in the payload.
//! - When a NotificationResponse arrives among the other messages: the server sends it when the session is idle, so that
//!   depends on the other clients. The notifications of each sender are compared separately, in their order. Those from a
//!   client that vanished are not compared: it is unknown what the server read of its messages.
//! - The RowDescription of a cancelled query, and the outcome of a query that races with its cancellation: both are correct.
//! - Notices of the proxy in the workspace, about the changes that it captures: they have no source file, unlike the server's.
//! - The line of the server's source in the error after a half-closed stream: it depends on how much of the last, incomplete
//!   message the proxy forwards.
//! - The stream of a client that vanished: it is unknown how much it received.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::client::{Ending, Recording};
use super::round::Round;
use super::script::{Cancellation, Finish, Listening, Script};
use super::twins::WORKSPACE;
use crate::Frame;

/// How many messages before the first difference are shown.
const CONTEXT: usize = 6;
/// How many bytes of a message are shown.
const SHOWN_LEN_MAX: usize = 200;

/// A difference: the client that sees it, and the description.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The position of the client's script in the round.
    pub script: usize,
    pub text: String,
}

/// How the sender of a notification is recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Senders {
    ByProcess,
    /// Each payload contains the tag of its sender.
    ByPayload,
}

/// A recording without what must differ.
#[derive(Debug, PartialEq, Eq)]
struct View {
    frames: Vec<Frame>,
    /// Channels and payloads by sender.
    notifications: BTreeMap<String, Vec<String>>,
    end: Ending,
}

/// The differences of a round, at most one for each client. Both lists have one recording for each script.
pub fn compare(round: &Round, direct: &[Recording], proxied: &[Recording], senders: Senders) -> Vec<Difference> {
    let scripts = round.scripts.iter().enumerate();
    let differences = scripts.filter_map(|(number, script)| {
        let text = foreign_tag(script, &proxied[number]).or_else(|| {
            if let Finish::Vanish(_) = script.finish {
                return None;
            }
            let expected = view(round, direct, number, Senders::ByProcess);
            if let Ending::LoginFailed(_) = expected.end {
                return Some(format!("{} cannot log in: {:?}", script.tag, expected.end));
            }
            first_difference(&expected, &view(round, proxied, number, senders))
        })?;
        Some(Difference { script: number, text })
    });
    differences.collect()
}

/// An answer that contains the tag of another client, except a notification.
fn foreign_tag(script: &Script, recording: &Recording) -> Option<String> {
    let own = script.tag.to_string();
    let answers = recording.frames.iter().filter(|frame| frame.tag != b'A');
    answers.enumerate().find_map(|(number, frame)| {
        let foreign = tags(&frame.body).into_iter().find(|tag| *tag != own)?;
        let shown = show(frame);
        Some(format!("message {number} of {own} belongs to {foreign}:\n    {shown}"))
    })
}

/// The parts of a text that have the form of a tag.
fn tags(body: &[u8]) -> Vec<String> {
    let mut tags = Vec::new();
    for (start, _) in body.iter().enumerate().filter(|(_, byte)| **byte == b'<') {
        let rest = &body[start..body.len().min(start + 60)];
        let Some(end) = rest.iter().position(|byte| *byte == b'>') else {
            continue;
        };
        let text = String::from_utf8_lossy(&rest[..=end]);
        if text.matches('/').count() == 2 {
            tags.push(text.into_owned());
        }
    }
    tags
}

fn view(round: &Round, recordings: &[Recording], number: usize, senders: Senders) -> View {
    let (script, recording) = (&round.scripts[number], &recordings[number]);
    let cancellations = script.cancellations();
    let mut segment = 0;
    let mut frames: Vec<Frame> = recording.greeting.iter().map(masked).collect();
    let mut notifications: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for frame in &recording.frames {
        match frame.tag {
            b'A' => {
                if let Some(sender) = sender(round, recordings, frame, senders) {
                    let text = frame.body.get(4..).unwrap_or_default().escape_ascii().to_string();
                    notifications.entry(sender).or_default().push(text);
                }
            }
            b'N' if script.tag.tenant == WORKSPACE && frame.field(b'F').is_none() => {}
            _ if cancellations
                .get(&segment)
                .is_some_and(|how| depends_on_time(*how, frame)) => {}
            b'E' if matches!(script.finish, Finish::HalfClose(_)) => frames.push(without_line(frame)),
            _ => frames.push(masked(frame)),
        }
        segment += usize::from(frame.tag == b'I');
    }
    // A client that ended early need not have received what was sent at the same time.
    if script.listening == Listening::No || script.finish != Finish::Terminate || !is_regular(recording) {
        notifications.clear();
    }
    View {
        frames,
        notifications,
        end: recording.end.clone(),
    }
}

/// Whether it depends on the time of a cancel request that this message is sent.
fn depends_on_time(cancellation: Cancellation, frame: &Frame) -> bool {
    match (cancellation, frame.tag) {
        (Cancellation::Certain | Cancellation::Possible, b'T') => true,
        (Cancellation::Possible, b'D' | b'C') => true,
        (Cancellation::Possible, b'E') => frame.field(b'C').as_deref() == Some("57014"),
        _ => false,
    }
}

/// Whether the session continued until Terminate; the last answer before it is ReadyForQuery.
fn is_regular(recording: &Recording) -> bool {
    let last = recording.frames.iter().rfind(|frame| frame.tag != b'A');
    last.is_some_and(|frame| frame.tag == b'Z')
}

fn masked(frame: &Frame) -> Frame {
    let name = b"session_authorization\0";
    let mut frame = frame.clone();
    if frame.tag == b'S' && frame.body.starts_with(name) {
        frame.body.truncate(name.len());
    }
    frame
}

/// An error without the line of the server's source.
fn without_line(frame: &Frame) -> Frame {
    let fields = frame.body.split(|byte| *byte == 0);
    let kept: Vec<&[u8]> = fields.filter(|field| field.first() != Some(&b'L')).collect();
    Frame {
        tag: frame.tag,
        body: kept.join(&0),
    }
}

/// The client of the round that sent a notification; `None` if it vanished.
fn sender(round: &Round, recordings: &[Recording], frame: &Frame, senders: Senders) -> Option<String> {
    let pid = frame.body.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes));
    let number = match senders {
        Senders::ByProcess => recordings.iter().position(|recording| Some(recording.pid) == pid),
        Senders::ByPayload => {
            // After the process id.
            let tag = tags(frame.body.get(4..).unwrap_or_default()).into_iter().next();
            let mut scripts = round.scripts.iter();
            scripts.position(|script| Some(script.tag.to_string()) == tag)
        }
    };
    let Some(number) = number else {
        return Some(format!("unknown process {pid:?}"));
    };
    let script = &round.scripts[number];
    match script.finish {
        Finish::Vanish(_) => None,
        Finish::Terminate | Finish::HalfClose(_) => Some(script.tag.to_string()),
    }
}

fn first_difference(expected: &View, found: &View) -> Option<String> {
    if expected == found {
        return None;
    }
    let mut text = String::new();
    let same = expected.frames.iter().zip(&found.frames);
    let number = same.take_while(|(expected, found)| expected == found).count();
    let of = |view: &View| view.frames.get(number).map_or(format!("{:?}", view.end), show);
    if expected.frames != found.frames {
        let _ = writeln!(text, "message {number} differs:");
        for frame in &expected.frames[number.saturating_sub(CONTEXT)..number] {
            let _ = writeln!(text, "    {}", show(frame));
        }
        let _ = writeln!(text, "  directly: {}\n  proxied:  {}", of(expected), of(found));
    }
    if expected.end != found.end {
        let _ = writeln!(
            text,
            "the end differs: directly {:?}, proxied {:?}",
            expected.end, found.end
        );
    }
    if expected.notifications != found.notifications {
        let (expected, found) = (&expected.notifications, &found.notifications);
        let _ = writeln!(
            text,
            "notifications differ:\n  directly: {expected:?}\n  proxied:  {found:?}"
        );
    }
    Some(text)
}

/// How many messages of each type the clients received.
pub fn count(recordings: &[Recording], counts: &mut BTreeMap<char, usize>) {
    for frame in recordings.iter().flat_map(|recording| &recording.frames) {
        *counts.entry(char::from(frame.tag)).or_default() += 1;
    }
}

fn show(frame: &Frame) -> String {
    let shown = &frame.body[..frame.body.len().min(SHOWN_LEN_MAX)];
    format!(
        "{} {:5} \"{}\"",
        char::from(frame.tag),
        frame.body.len(),
        shown.escape_ascii()
    )
}
