//! What clients were told about their prepared statements. If a table has changed, a statement that is prepared again has other
//! parameters or columns, and the client would misread the values. PostgreSQL refuses to execute such a statement ("cached
//! plan must not change result type"); the proxy compares the descriptions.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use crate::backend::{NO_DATA, PARAMETER_DESCRIPTION, ROW_DESCRIPTION};
use crate::flow::RequestId;
use crate::frame::Frame;

/// The types of a statement's parameters, and the names and types of its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Description(u64);

/// The unanswered requests for descriptions, in order, with what `T` is for.
#[derive(Debug)]
pub(crate) struct Describing<T> {
    requests: Vec<(RequestId, Rc<T>)>,
    parameters: DefaultHasher,
}

impl<T> Default for Describing<T> {
    fn default() -> Self {
        Self {
            requests: Vec::new(),
            parameters: DefaultHasher::new(),
        }
    }
}

impl<T> Describing<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(crate) fn begin(&mut self, id: RequestId, of: Rc<T>) {
        self.requests.push((id, of));
    }

    /// The requests before `first_owed` are answered, or were discarded; `None`: all requests.
    pub(crate) fn answered(&mut self, first_owed: Option<RequestId>) {
        self.requests
            .retain(|(id, _)| first_owed.is_some_and(|first| *id >= first));
    }

    /// Takes a reply. `Some` if it completes a description.
    pub(crate) fn take(&mut self, id: RequestId, reply: &Frame<'_>) -> Option<(Rc<T>, Description)> {
        let at = self.requests.iter().position(|(of, _)| *of == id)?;
        match reply.tag() {
            PARAMETER_DESCRIPTION => {
                self.parameters = DefaultHasher::new();
                reply.body().hash(&mut self.parameters);
                None
            }
            ROW_DESCRIPTION | NO_DATA => {
                let mut hasher = self.parameters.clone();
                hash_columns(reply.body(), &mut hasher);
                let (_, of) = self.requests.remove(at);
                Some((of, Description(hasher.finish())))
            }
            _ => None,
        }
    }
}

/// Names, types and type modifiers. A column that was dropped and added again has another number, which does not matter.
fn hash_columns(body: &[u8], hasher: &mut DefaultHasher) {
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some(len) = rest.iter().position(|byte| *byte == 0) {
        let (name, fields) = rest.split_at(len + 1);
        let Some((fields, after)) = fields.split_first_chunk::<18>() else {
            return;
        };
        let [_, _, _, _, _, _, column_type @ .., _, _] = fields;
        (name, column_type).hash(hasher);
        rest = after;
    }
}
