//! The prepared statements of a client whose requests run on changing server connections. The client's names are a namespace
//! that belongs to the client; [`ClientStatements`] holds it, with the messages that prepared the statements. Each server
//! connection has [`ServerStatements`]: what is prepared there, under which name.
//!
//! A request that uses a statement is forwarded after the messages that prepare it on the connection, if it is missing there.
//! The client's name is kept unless another statement has it on this connection; then the statement gets a name of the proxy
//! and the request is rewritten. A statement that a client does not have is removed from the connection first, so that the
//! server itself reports the error.
//!
//! A Parse of a client is always executed: as with a direct connection, it finds the current definition of the tables.
//!
//! What a request changes is assumed until its reply arrives, and taken back after an error. Until then the requests after the
//! next Sync must wait (`Names::is_settled`).

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::backend::frame;
use crate::descriptions::{Describing, Description};
use crate::flow::RequestId;
use crate::frame::Frame;
use crate::frontend::{BIND, CLOSE, DESCRIBE, PARSE, QUERY};

/// The length to which PostgreSQL truncates the names of statements (NAMEDATALEN).
const NAME_LEN_MAX: usize = 63;
/// The name in a Close that has no effect.
const ABSENT: &[u8] = b"tdb_absent";
/// The byte in Describe and Close that selects a statement; other values select a portal.
const STATEMENT: u8 = b'S';

/// What a statement occupies besides its name and text.
const ENTRY_LEN: usize = 200;

/// A statement that a client has prepared. It depends on the client's settings: two clients never use the same one, even if
/// their texts are the same. So statements are compared by identity.
#[derive(Debug)]
struct Statement {
    /// What the Parse contains after the name.
    body: Box<[u8]>,
    /// What the client was told about it.
    described: Cell<Option<Description>>,
}

/// The statements that a client has prepared.
#[derive(Debug, Default)]
pub struct ClientStatements {
    pub(crate) names: Names,
}

/// The statements that are prepared on a server connection.
#[derive(Debug, Default)]
pub struct ServerStatements {
    pub(crate) names: Names,
}

/// Statements by name; the unnamed one has the empty name.
#[derive(Debug, Default)]
pub(crate) struct Names {
    current: HashMap<Box<[u8]>, Rc<Statement>>,
    /// The length of the current names and statements.
    len: usize,
    /// The former values of names that unanswered requests have changed, oldest first.
    former: Vec<Former>,
    /// The unanswered requests for descriptions: the client's, or the proxy's, which compares them with what the client was told.
    describing: Describing<Statement>,
}

#[derive(Debug)]
struct Former {
    changed_by: RequestId,
    name: Box<[u8]>,
    statement: Option<Rc<Statement>>,
}

/// A request that was forwarded with another name of its statement. An error of the server contains that name.
#[derive(Debug, PartialEq, Eq)]
pub struct Renamed {
    /// The request.
    pub id: RequestId,
    /// The name in the client's request.
    pub name: Box<[u8]>,
    /// The name on the server connection.
    pub own: Box<[u8]>,
}

/// Who sends a message to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The client gets the reply.
    Client,
    /// The client must not get the reply, unless it is an error: then the request of the client that follows has failed.
    Proxy,
}

/// A request of the client that concerns statements.
struct Use<'r, 'f, S> {
    client: &'r mut ClientStatements,
    server: &'r mut ServerStatements,
    frame: &'r Frame<'f>,
    send: S,
    out: &'r mut Vec<u8>,
    renamed: Option<Renamed>,
}

impl Renamed {
    /// Appends an ErrorResponse to `out`, with the client's name instead of the one on the server connection.
    pub fn restore(&self, error: &Frame<'_>, out: &mut Vec<u8>) {
        let mut body = error.body();
        let begun = out.len();
        frame(out, error.tag(), |out| {
            while let Some(at) = body.windows(self.own.len()).position(|part| part == &*self.own) {
                let (before, rest) = body.split_at(at);
                out.extend_from_slice(before);
                out.extend_from_slice(&self.name);
                body = rest.get(self.own.len()..).unwrap_or_default();
            }
            out.extend_from_slice(body);
        });
        add_to_len(out, begun, error.rest);
    }
}

/// Appends to `out` what to send for a request of the client on the connection of `server`; the rest of the body of a long
/// request follows unchanged. `send` is called for each message in `out`, in order, with its tag; it returns the message's id,
/// or `None` if the server will discard the message. Replies are reported to the names of both.
pub fn take_request(
    client: &mut ClientStatements,
    server: &mut ServerStatements,
    frame: &Frame<'_>,
    send: impl FnMut(u8, Sender) -> Option<RequestId>,
    out: &mut Vec<u8>,
) -> Option<Renamed> {
    let mut request = Use {
        client,
        server,
        frame,
        send,
        out,
        renamed: None,
    };
    match frame.tag() {
        QUERY => request.query(),
        PARSE => request.parse(),
        BIND => request.bind(),
        DESCRIBE => request.describe(),
        CLOSE => request.close(),
        _ => {
            request.forward();
        }
    }
    request.renamed
}

/// Appends to `out` the messages after which exactly the client's statements are on the connection, under the client's names,
/// for a text that uses such names. See [`take_request`] for `send`. The caller appends a Sync.
pub fn expose(
    client: &ClientStatements,
    server: &mut ServerStatements,
    mut send: impl FnMut(u8, Sender) -> Option<RequestId>,
    out: &mut Vec<u8>,
) {
    let own = &client.names.current;
    let others: Vec<Box<[u8]>> = server
        .names
        .current
        .iter()
        .filter(|(name, statement)| own.get(*name).is_none_or(|own| !Rc::ptr_eq(own, statement)))
        .map(|(name, _)| name.clone())
        .collect();
    for name in others {
        server.close(&name, &mut send, out);
    }
    for (name, statement) in own {
        if server.names.get(name).is_none() {
            server.prepare(name, statement, &mut send, out);
        }
    }
}

impl<S: FnMut(u8, Sender) -> Option<RequestId>> Use<'_, '_, S> {
    /// Forwards the request unchanged.
    fn forward(&mut self) -> Option<RequestId> {
        self.out.extend_from_slice(self.frame.bytes);
        (self.send)(self.frame.tag(), Sender::Client)
    }

    fn query(&mut self) {
        if let Some(id) = self.forward() {
            self.forget_unnamed(id);
        }
    }

    /// The server removes the unnamed statement before it executes the request, even if that fails.
    fn forget_unnamed(&mut self, id: RequestId) {
        let before = id.before();
        self.client.names.set(before, b"", None);
        self.server.names.set(before, b"", None);
    }

    fn parse(&mut self) {
        let Some((name, body)) = split_name(self.frame.body()) else {
            self.forward();
            return;
        };
        let key = truncated(name);
        let statement = Rc::new(Statement::new(body));
        let target = match (self.client.names.get(key), self.server.names.get(key)) {
            _ if key.is_empty() => key.to_vec(),
            (Some(own), present) => {
                // The server refuses the name, whichever statement has it.
                if present.is_none() {
                    self.prepare(key, &own);
                }
                self.forward();
                return;
            }
            (None, Some(_)) => statement.own_name(),
            (None, _) => key.to_vec(),
        };
        if !key.is_empty() {
            self.remove(&target);
        }
        if let Some(id) = self.forward_renamed(name, &target, 0) {
            if key.is_empty() {
                self.forget_unnamed(id);
            }
            self.client.names.set(id, key, Some(statement.clone()));
            self.server.names.set(id, &target, Some(statement));
        }
    }

    fn bind(&mut self) {
        let body = self.frame.body();
        let portal_len = body.iter().position(|byte| *byte == 0).unwrap_or(body.len());
        let _ = self.use_name(portal_len + 1);
    }

    fn describe(&mut self) {
        match self.frame.body().first() {
            Some(&STATEMENT) => {
                let body = self.frame.body().get(1..).unwrap_or_default();
                let statement = split_name(body).and_then(|(name, _)| self.client.names.get(truncated(name)));
                let id = self.use_name(1);
                if let (Some(id), Some(statement)) = (id, statement) {
                    self.client.names.describing.begin(id, statement);
                }
            }
            _ => {
                self.forward();
            }
        }
    }

    /// Forwards a request that uses the statement whose name begins at byte `start` of the body.
    fn use_name(&mut self, start: usize) -> Option<RequestId> {
        let Some((name, _)) = split_name(self.frame.body().get(start..).unwrap_or_default()) else {
            return self.forward();
        };
        let target = self.provide(truncated(name));
        self.forward_renamed(name, &target, start)
    }

    fn close(&mut self) {
        let name = match self.frame.body().split_first() {
            Some((&STATEMENT, rest)) => split_name(rest).map(|(name, _)| name),
            _ => None,
        };
        let Some(name) = name else {
            self.forward();
            return;
        };
        let key = truncated(name);
        let target = match self.client.names.get(key) {
            _ if key.is_empty() => key.to_vec(),
            Some(statement) => self.server.name_of(key, &statement),
            None => ABSENT.to_vec(),
        };
        if let Some(id) = self.forward_renamed(name, &target, 1) {
            self.client.names.set(id, key, None);
            self.server.names.set(id, &target, None);
        }
    }

    /// Makes the client's statement `key` available on the connection, or makes sure that it is absent there if the client has
    /// none. Returns its name there.
    fn provide(&mut self, key: &[u8]) -> Vec<u8> {
        let present = self.server.names.get(key);
        let Some(statement) = self.client.names.get(key) else {
            self.remove(key);
            return key.to_vec();
        };
        let target = match present {
            Some(present) if Rc::ptr_eq(&present, &statement) => return key.to_vec(),
            // A Parse replaces the unnamed statement.
            Some(_) if !key.is_empty() => statement.own_name(),
            _ => key.to_vec(),
        };
        if self
            .server
            .names
            .get(&target)
            .is_none_or(|present| !Rc::ptr_eq(&present, &statement))
        {
            if !key.is_empty() {
                self.remove(&target);
            }
            self.prepare(&target, &statement);
        }
        target
    }

    fn prepare(&mut self, name: &[u8], statement: &Rc<Statement>) {
        self.server.prepare(name, statement, &mut self.send, self.out);
    }

    /// Removes the statement `name` from the connection, if there is one.
    fn remove(&mut self, name: &[u8]) {
        if self.server.names.get(name).is_some() {
            self.server.close(name, &mut self.send, self.out);
        }
    }

    /// Forwards the request with `target` instead of `name`, which begins at byte `start` of the body.
    fn forward_renamed(&mut self, name: &[u8], target: &[u8], start: usize) -> Option<RequestId> {
        if truncated(name) == target {
            return self.forward();
        }
        let (head, rest) = self.frame.body().split_at(start.min(self.frame.body().len()));
        let tail = rest.get(name.len()..).unwrap_or_default();
        let begun = self.out.len();
        frame(self.out, self.frame.tag(), |out| {
            out.extend_from_slice(head);
            out.extend_from_slice(target);
            out.extend_from_slice(tail);
        });
        add_to_len(self.out, begun, self.frame.rest);
        let id = (self.send)(self.frame.tag(), Sender::Client);
        self.renamed = id.map(|id| Renamed {
            id,
            name: name.into(),
            own: target.into(),
        });
        id
    }
}

impl ClientStatements {
    /// Whether replies with descriptions are awaited.
    pub(crate) fn is_describing(&self) -> bool {
        !self.names.describing.is_empty()
    }

    /// Takes a reply with a description that the client has requested.
    pub(crate) fn described(&mut self, id: RequestId, reply: &Frame<'_>) {
        if let Some((statement, description)) = self.names.describing.take(id, reply) {
            statement.described.set(Some(description));
        }
    }
}

impl ServerStatements {
    /// Takes a reply with a description that the proxy has requested. False if it is not what the client was told.
    pub(crate) fn is_as_described(&mut self, id: RequestId, reply: &Frame<'_>) -> bool {
        let found = self.names.describing.take(id, reply);
        found.is_none_or(|(statement, description)| statement.described.get() == Some(description))
    }

    /// The name of a client's statement on the connection; a name that does not exist if it is not there.
    fn name_of(&self, key: &[u8], statement: &Rc<Statement>) -> Vec<u8> {
        let is_there = |name: &[u8]| {
            let present = self.names.current.get(name);
            present.is_some_and(|present| Rc::ptr_eq(present, statement))
        };
        let own = statement.own_name();
        match (is_there(key), is_there(&own)) {
            (true, _) => key.to_vec(),
            (false, true) => own,
            (false, false) => ABSENT.to_vec(),
        }
    }

    /// All statements were removed by a query of the proxy.
    pub fn forget_all(&mut self) {
        self.names.current.clear();
        self.names.len = 0;
    }

    /// The unnamed statement was removed by a query of the proxy.
    pub fn forget_unnamed(&mut self) {
        self.names.put([].into(), None);
    }

    /// The number of statements with a name.
    pub fn count(&self) -> usize {
        self.names.current.keys().filter(|name| !name.is_empty()).count()
    }

    fn prepare(
        &mut self,
        name: &[u8],
        statement: &Rc<Statement>,
        send: &mut impl FnMut(u8, Sender) -> Option<RequestId>,
        out: &mut Vec<u8>,
    ) {
        frame(out, PARSE, |out| {
            out.extend_from_slice(name);
            out.push(0);
            out.extend_from_slice(&statement.body);
        });
        if let Some(id) = send(PARSE, Sender::Proxy) {
            self.names.set(id, name, Some(statement.clone()));
        }
        if statement.described.get().is_some() {
            frame(out, DESCRIBE, |out| {
                out.push(STATEMENT);
                out.extend_from_slice(name);
                out.push(0);
            });
            if let Some(id) = send(DESCRIBE, Sender::Proxy) {
                self.names.describing.begin(id, statement.clone());
            }
        }
    }

    fn close(&mut self, name: &[u8], send: &mut impl FnMut(u8, Sender) -> Option<RequestId>, out: &mut Vec<u8>) {
        frame(out, CLOSE, |out| {
            out.push(STATEMENT);
            out.extend_from_slice(name);
            out.push(0);
        });
        if let Some(id) = send(CLOSE, Sender::Proxy) {
            self.names.set(id, name, None);
        }
    }
}

impl Statement {
    fn new(body: &[u8]) -> Self {
        Self {
            body: body.into(),
            described: Cell::new(None),
        }
    }

    /// The name on a server connection where another statement has the client's name. Unique while the statement exists.
    fn own_name(self: &Rc<Self>) -> Vec<u8> {
        format!("tdb_{:x}", Rc::as_ptr(self).addr()).into_bytes()
    }
}

impl Names {
    /// Whether all changes are confirmed. A request after a Sync can be processed only if this holds for the client's and the
    /// connection's.
    pub(crate) fn is_settled(&self) -> bool {
        self.former.is_empty()
    }

    /// The length of the names and statements, which is the memory that they use.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The requests before `first_owed` are answered; `None`: all requests.
    pub(crate) fn answered(&mut self, first_owed: Option<RequestId>) {
        self.former
            .retain(|former| first_owed.is_some_and(|first| former.changed_by >= first));
        self.describing.answered(first_owed);
    }

    /// The request `id` failed, and those after it, up to `first_owed`, were discarded.
    pub(crate) fn failed(&mut self, id: RequestId, first_owed: Option<RequestId>) {
        self.undo(|former| former.changed_by >= id && first_owed.is_none_or(|first| former.changed_by < first));
    }

    /// The request `id`, a Query, failed.
    pub(crate) fn query_failed(&mut self, id: RequestId) {
        self.undo(|former| former.changed_by == id);
    }

    /// The request `id` removes one statement.
    pub(crate) fn removed(&mut self, id: RequestId, name: &[u8]) {
        self.set(id, truncated(name), None);
    }

    /// The request `id` has removed the statements (DEALLOCATE ALL, DISCARD ALL). Only what later requests have set remains.
    pub(crate) fn cleared(&mut self, id: RequestId) {
        self.former.retain(|former| former.changed_by > id);
        let later: HashSet<Box<[u8]>> = self.former.iter().map(|former| former.name.clone()).collect();
        self.current.retain(|name, _| later.contains(name));
        self.len = self
            .current
            .iter()
            .map(|(name, statement)| entry_len(name.len(), statement))
            .sum();
        let mut first = later;
        for former in &mut self.former {
            if first.remove(&former.name) {
                former.statement = None;
            }
        }
    }

    fn get(&self, name: &[u8]) -> Option<Rc<Statement>> {
        self.current.get(name).cloned()
    }

    fn set(&mut self, changed_by: RequestId, name: &[u8], statement: Option<Rc<Statement>>) {
        if statement.is_none() && !self.current.contains_key(name) {
            return;
        }
        let former = self.put(name.into(), statement);
        self.former.push(Former {
            changed_by,
            name: name.into(),
            statement: former,
        });
    }

    /// Requests after a Sync are only processed if those before it have changed nothing, so the changes to undo are the last.
    fn undo(&mut self, is_undone: impl Fn(&Former) -> bool) {
        while let Some(former) = self.former.pop_if(|former| is_undone(former)) {
            self.put(former.name, former.statement);
        }
    }

    fn put(&mut self, name: Box<[u8]>, statement: Option<Rc<Statement>>) -> Option<Rc<Statement>> {
        let added = statement
            .as_ref()
            .map_or(0, |statement| entry_len(name.len(), statement));
        let name_len = name.len();
        let former = match statement {
            Some(statement) => self.current.insert(name, statement),
            None => self.current.remove(&name),
        };
        let removed = former.as_ref().map_or(0, |former| entry_len(name_len, former));
        self.len = (self.len + added).saturating_sub(removed);
        former
    }
}

fn entry_len(name_len: usize, statement: &Statement) -> usize {
    name_len + statement.body.len() + ENTRY_LEN
}

/// Adds to the length of the frame that begins at byte `start` the part of its body that follows separately.
fn add_to_len(out: &mut [u8], start: usize, rest: u32) {
    if let Some(slot) = out.get_mut(start + 1..start + 5)
        && let Ok(len) = <[u8; 4]>::try_from(&*slot)
    {
        let len = u32::from_be_bytes(len).saturating_add(rest);
        slot.copy_from_slice(&len.to_be_bytes());
    }
}

fn truncated(name: &[u8]) -> &[u8] {
    name.get(..NAME_LEN_MAX).unwrap_or(name)
}

/// The name at the beginning of a body, and what follows its zero byte.
fn split_name(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let (name, rest) = body.split_at(end);
    Some((name, rest.get(1..).unwrap_or_default()))
}
