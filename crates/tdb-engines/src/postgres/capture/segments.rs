//! The transactions in the text of a message, each with the statements that it does not roll back itself. In a simple
//! Query the server skips the rest of the message after an error, so a transaction ran completely or not at all. The
//! last one that ran is an exception if it has savepoints: after an error or the end of the message, a later message
//! can have rolled it back to one of them and committed.

use super::kind::{Control, Kind};
use super::split::Split;

/// Statements that may have been committed together.
#[derive(Debug)]
pub(super) struct Segment {
    pub end: End,
    /// The number of the transaction in the message, from 0. The first can have begun before the message.
    pub position: usize,
    /// The statements according to the text.
    pub whole: Survivors,
    /// The statements before each savepoint.
    pub at_savepoints: Vec<Survivors>,
    /// Whether the transaction block that savepoints need is in the text.
    pub block: Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// It is, or the segment has no savepoint.
    Begun,
    /// It is not: without a block from an earlier message, the first savepoint fails.
    NeedsEarlier,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Commit,
    /// PREPARE TRANSACTION: any session can commit it later or roll it back.
    Prepare,
    Rollback,
    /// Not in this message's text: it ends with the message or in a later one.
    Open,
}

/// A list of statements, as a linked list that shares its beginning with others: its last element, `None` if it is empty.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Survivors(Option<usize>);

#[derive(Debug)]
struct Node {
    statement: usize,
    before: Survivors,
}

#[derive(Debug, Default)]
pub(super) struct Segments {
    nodes: Vec<Node>,
    pub list: Vec<Segment>,
}

impl Segments {
    /// Finds the transactions in the statements of a message.
    pub(super) fn of(statements: &[Split<'_>]) -> Self {
        let mut segments = Self::default();
        let mut open = Walk::default();
        let mut position = 0;
        for (index, statement) in statements.iter().enumerate() {
            match statement.kind {
                Kind::Control(control @ (Control::Commit | Control::Prepare | Control::Rollback)) => {
                    segments.end(&mut open, end(control), position);
                    open.in_block = is_chained(statement);
                    position += 1;
                }
                Kind::Control(Control::Savepoint) => open.save(name(statement)),
                Kind::Control(Control::Release) => open.release(&name(statement)),
                Kind::Control(Control::RollbackTo) => open.roll_back_to(&name(statement)),
                Kind::Control(Control::Begin) => open.in_block = true,
                _ => {
                    segments.nodes.push(Node {
                        statement: index,
                        before: open.live,
                    });
                    open.live = Survivors(Some(segments.nodes.len() - 1));
                }
            }
        }
        segments.end(&mut open, End::Open, position);
        segments
    }

    fn end(&mut self, open: &mut Walk, end: End, position: usize) {
        let Walk {
            live, mut saved, block, ..
        } = std::mem::take(open);
        saved.retain(|at| at.0.is_some());
        saved.dedup();
        if live.0.is_some() || !saved.is_empty() {
            self.list.push(Segment {
                end,
                position,
                whole: live,
                at_savepoints: saved,
                block: block.unwrap_or(Block::Begun),
            });
        }
    }

    /// The indexes of the statements, in the order of the text.
    pub(super) fn statements(&self, survivors: Survivors) -> Vec<usize> {
        let mut found = Vec::new();
        let mut at = survivors;
        while let Some(node) = at.0.and_then(|at| self.nodes.get(at)) {
            found.push(node.statement);
            at = node.before;
        }
        found.reverse();
        found
    }

    /// Computes the sum of `weight` over the statements of each list, for [`Weights::of`].
    pub(super) fn weigh(&self, weight: impl Fn(usize) -> usize) -> Weights {
        let mut sums = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let before = node.before.0.and_then(|at| sums.get(at)).copied().unwrap_or(0);
            sums.push(before + weight(node.statement));
        }
        Weights(sums)
    }
}

pub(super) struct Weights(Vec<usize>);

impl Weights {
    /// The sum over a list.
    pub(super) fn of(&self, survivors: Survivors) -> usize {
        survivors.0.and_then(|at| self.0.get(at)).copied().unwrap_or(0)
    }
}

/// The state of the current transaction while the text is read.
#[derive(Default)]
struct Walk {
    live: Survivors,
    savepoints: Vec<(String, Survivors)>,
    /// The value of `live` at each savepoint so far.
    saved: Vec<Survivors>,
    /// Whether the text has begun a transaction block.
    in_block: bool,
    /// Whether the first savepoint was in a block of the text; `None` without a savepoint.
    block: Option<Block>,
}

impl Walk {
    fn save(&mut self, name: String) {
        self.need_block();
        self.savepoints.push((name, self.live));
        self.saved.push(self.live);
    }

    fn need_block(&mut self) {
        self.block.get_or_insert(if self.in_block {
            Block::Begun
        } else {
            Block::NeedsEarlier
        });
    }

    fn release(&mut self, name: &str) {
        self.need_block();
        if let Some(at) = self.savepoints.iter().rposition(|(known, _)| known == name) {
            self.savepoints.truncate(at);
        }
    }

    /// Rolling back to a savepoint of an earlier message undoes all statements of this one so far.
    fn roll_back_to(&mut self, name: &str) {
        self.need_block();
        let at = self.savepoints.iter().rposition(|(known, _)| known == name);
        self.live = at
            .and_then(|at| self.savepoints.get(at))
            .map_or(Survivors(None), |(_, live)| *live);
        self.savepoints.truncate(at.map_or(0, |at| at + 1));
    }
}

fn end(control: Control) -> End {
    match control {
        Control::Prepare => End::Prepare,
        Control::Rollback => End::Rollback,
        Control::Commit | Control::Begin | Control::Savepoint | Control::Release | Control::RollbackTo => End::Commit,
    }
}

/// Whether it has AND CHAIN, which begins a new transaction block.
fn is_chained(statement: &Split<'_>) -> bool {
    let chain = statement.tree.get("TransactionStmt").and_then(|stmt| stmt.get("chain"));
    chain.and_then(|chain| chain.as_bool()).unwrap_or_default()
}

fn name(statement: &Split<'_>) -> String {
    let name = statement
        .tree
        .get("TransactionStmt")
        .and_then(|stmt| stmt.get("savepoint_name"));
    name.and_then(|name| name.as_str()).unwrap_or_default().to_owned()
}
