//! Determines which statement of a transaction wrote which of its rows. The client's statements are aligned with the rows;
//! rows of a function belong to statements between the neighbouring rows that can have called the function.

use std::cell::OnceCell;

use super::alignment::{self, Aligned, Leaves, Sides, Unaligned};
use super::context::STATEMENT;
use super::expected::{Certainty, Names};
use super::kind::Kind;
use super::scripts;
use super::split::Split;
use super::units::Unit;
use crate::postgres::journal::{Caller, Event};

/// A statement that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub statement: usize,
    /// The units that it wrote; empty if they may be another statement's.
    pub units: Vec<usize>,
    /// A unit with the settings that it ran with; `None` if it wrote nothing.
    pub row: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Unexplained,
    /// Several attributions are possible, with this number of exceptions.
    Ambiguous(usize),
    TooLarge,
}

/// Attributes `units` to the statements `list`, which all ran. Returns the number of exceptions and one part per
/// statement. A statement that may have had no effect gets a row too: replayed, it has no effect again.
pub(super) fn attribute(
    statements: &[Split<'_>],
    list: &[usize],
    units: &[Unit<'_>],
) -> Result<(usize, Vec<Part>), Fault> {
    let split = |position: usize| list.get(position).and_then(|index| statements.get(*index));
    let own = Own {
        positions: (0..list.len())
            .filter(|position| split(*position).is_some_and(|split| split.expected.is_some()))
            .collect(),
        splits: (0..list.len())
            .filter_map(split)
            .filter(|split| split.expected.is_some())
            .collect(),
        units: (0..units.len())
            .filter(|at| {
                units
                    .get(*at)
                    .is_some_and(|unit| !matches!(unit.row.caller, Caller::Function(_)))
            })
            .collect(),
        all: units,
        names: units.iter().map(|_| OnceCell::new()).collect(),
    };
    let alignment = alignment::align(&own).map_err(|fault| match fault {
        Unaligned::Impossible => Fault::Unexplained,
        Unaligned::TooLarge => Fault::TooLarge,
    })?;
    let mut parts: Vec<Part> = list
        .iter()
        .map(|statement| Part {
            statement: *statement,
            units: Vec::new(),
            row: None,
        })
        .collect();
    let ambiguous = |_| Fault::Ambiguous(alignment.exceptions);
    let claimed = own.give(&alignment.statements, &mut parts).map_err(ambiguous)?;
    let between = Between {
        splits: (0..list.len()).filter_map(split).collect(),
        units,
    };
    let unlikely = between.give(&claimed, &mut parts).map_err(|fault| match fault {
        Fault::Ambiguous(unlikely) => Fault::Ambiguous(alignment.exceptions + unlikely),
        other => other,
    })?;
    settle(statements, units.len(), &mut parts);
    Ok((alignment.exceptions + unlikely, parts))
}

/// Where one of several statements with the same text wrote a row, keeps the first that can have written it: rows are in the
/// order of their statements, and the others had no effect. Changes nothing if it cannot do so for every such row.
fn settle(statements: &[Split<'_>], rows: usize, parts: &mut [Part]) {
    let mut able: Vec<Vec<usize>> = vec![Vec::new(); rows];
    for (position, part) in parts.iter().enumerate() {
        let shared = part.row.iter().filter(|_| part.units.is_empty());
        for row in part.units.iter().chain(shared) {
            able.get_mut(*row).into_iter().for_each(|able| able.push(position));
        }
    }
    let part = |position: usize| parts.get(position);
    let text = |position: usize| part(position).and_then(|part| statements.get(part.statement)?.text.into());
    let mut settled = Vec::new();
    let mut last = 0;
    for (row, able) in able.iter().enumerate().filter(|(_, able)| !able.is_empty()) {
        let alike = able
            .windows(2)
            .all(|two| matches!(two, [one, other] if text(*one) == text(*other)));
        let alone = able.len() == 1 || able.iter().all(|at| part(*at).is_some_and(|part| part.units.len() < 2));
        let Some(first) = able
            .iter()
            .copied()
            .find(|position| *position >= last && alike && alone)
        else {
            return;
        };
        last = first;
        settled.extend(
            able.iter()
                .filter(|_| able.len() > 1)
                .map(|position| (row, *position, first)),
        );
    }
    for (row, position, first) in settled {
        if let Some(part) = parts.get_mut(position) {
            part.row = (position == first).then_some(row);
            part.units = part.row.into_iter().collect();
        }
    }
}

/// The client's statements that can write rows, and the rows that no function wrote.
struct Own<'p, 'a> {
    /// The positions of the statements in the list.
    positions: Vec<usize>,
    splits: Vec<&'p Split<'p>>,
    /// The units that a statement of the client wrote, or may have written.
    units: Vec<usize>,
    all: &'p [Unit<'a>],
    /// The names of each of all units, computed when first needed.
    names: Vec<OnceCell<Vec<String>>>,
}

impl Sides for Own<'_, '_> {
    fn statements(&self) -> usize {
        self.splits.len()
    }

    fn rows(&self) -> usize {
        self.units.len()
    }

    fn always(&self, statement: usize) -> bool {
        let expected = self.splits.get(statement).and_then(|split| split.expected.as_ref());
        expected.is_some_and(|expected| expected.certainty == Certainty::Always)
    }

    fn fits(&self, statement: usize, row: usize) -> bool {
        let expected = self.splits.get(statement).and_then(|split| split.expected.as_ref());
        let (Some(expected), Some(unit)) = (expected, self.unit(row)) else {
            return false;
        };
        unit.row.tag.starts_with(expected.tag) && self.is_called(row, &expected.names)
    }

    fn optional(&self, row: usize) -> bool {
        self.unit(row)
            .is_some_and(|unit| unit.row.caller == Caller::Unknown || scripts::may_be(unit.row))
    }
}

impl<'a> Own<'_, 'a> {
    fn unit(&self, row: usize) -> Option<&Unit<'a>> {
        self.units.get(row).and_then(|at| self.all.get(*at))
    }

    fn is_called(&self, row: usize, names: &Names) -> bool {
        let Some((unit, cell)) = self
            .unit(row)
            .zip(self.units.get(row).and_then(|at| self.names.get(*at)))
        else {
            return false;
        };
        let called = cell.get_or_init(|| unit.names());
        match names {
            Names::Unknown => true,
            Names::OneOf(names) => called.iter().any(|name| names.contains(name)),
            Names::Beginning(begin) => called.iter().any(|name| name.starts_with(begin.as_str())),
        }
    }

    /// For each unit that a statement wrote, the first and the last position of the statements that can have written it.
    fn give(&self, aligned: &[Aligned], parts: &mut [Part]) -> Result<Vec<Option<(usize, usize)>>, Differ> {
        let mut claimed: Vec<Option<(usize, usize)>> = vec![None; self.all.len()];
        let mut used = None;
        for (statement, (position, aligned)) in self.positions.iter().zip(aligned).enumerate() {
            let rows = aligned.rows.iter();
            let units: Vec<usize> = rows.filter_map(|row| self.units.get(*row).copied()).collect();
            let (Some(first), Some(part)) = (units.first(), parts.get_mut(*position)) else {
                continue;
            };
            // In the alignment in which it wrote none, its object was temporary: replayed, it would have an effect.
            if aligned.leaves == Leaves::PerhapsNone && self.always(statement) {
                return Err(Differ);
            }
            agree(self.all, &units)?;
            part.row = Some(*first);
            if let Some(free) = units.iter().copied().find(|at| used.is_none_or(|used| *at > used)) {
                part.units.push(free);
                used = Some(free);
            }
            for at in units {
                if let Some(claim) = claimed.get_mut(at) {
                    *claim = Some((claim.map_or(*position, |(first, _)| first), *position));
                }
            }
        }
        Ok(claimed)
    }
}

/// A statement is replayed with the settings of its row, so if several rows are possible, their settings must be equal.
fn agree(all: &[Unit<'_>], units: &[usize]) -> Result<(), Differ> {
    let mut rows = units.iter().filter_map(|at| all.get(*at)).map(|unit| unit.row);
    let Some(first) = rows.next() else { return Ok(()) };
    if rows.all(|row| row.search_path == first.search_path && row.settings == first.settings) {
        Ok(())
    } else {
        Err(Differ)
    }
}

/// Two possibilities that would be replayed differently.
struct Differ;

/// The rows of functions between the rows of the client's statements.
struct Between<'p, 'a> {
    /// By position in the list.
    splits: Vec<&'p Split<'p>>,
    units: &'p [Unit<'a>],
}

impl Between<'_, '_> {
    /// Attributes these rows. Returns the number of exceptions: calls that are not visible in the text of the statement.
    fn give(&self, claimed: &[Option<(usize, usize)>], parts: &mut [Part]) -> Result<usize, Fault> {
        let mut exceptions = 0;
        let mut from = 0;
        let mut unit = 0;
        while unit < self.units.len() {
            if let Some(Some((first, _))) = claimed.get(unit) {
                // The next rows are not from this statement: the functions that it calls run before its own row is written.
                from = first + 1;
                unit += 1;
                continue;
            }
            let end = (unit..self.units.len()).find(|at| claimed.get(*at).is_some_and(Option::is_some));
            let to = end
                .and_then(|end| claimed.get(end).copied().flatten())
                .map(|(_, last)| last);
            let run: Vec<usize> = (unit..end.unwrap_or(self.units.len())).collect();
            exceptions += self.give_run(from..to.map_or(self.splits.len(), |to| to + 1), &run, parts)?;
            unit = end.unwrap_or(self.units.len());
        }
        Ok(exceptions)
    }

    /// Attributes the rows `run` to those statements in `window` that most likely called the function. If there are
    /// several, the ones that did not call it have no effect when replayed.
    fn give_run(&self, window: std::ops::Range<usize>, run: &[usize], parts: &mut [Part]) -> Result<usize, Fault> {
        let mut exceptions = 0;
        let mut left = run.to_vec();
        while let Some(first) = left.first().and_then(|at| self.units.get(*at)) {
            let call = Call::of(first.row);
            let in_script = |split: &Split<'_>| scripts::may_be_within(first.row) && split.runs_script();
            let likelihood = |split: &Split<'_>| {
                let by_script = in_script(split).then_some(Likelihood::Possible);
                call.likelihood(split).or(by_script)
            };
            let (same, others): (Vec<usize>, Vec<usize>) = left
                .iter()
                .partition(|at| self.units.get(**at).is_some_and(|unit| Call::of(unit.row) == call));
            left = others;
            let able: Vec<(usize, Likelihood)> = window
                .clone()
                .filter_map(|position| Some((position, likelihood(self.splits.get(position)?)?)))
                .collect();
            let best = able
                .iter()
                .map(|(_, likelihood)| *likelihood)
                .max()
                .ok_or(Fault::Unexplained)?;
            let chosen = able
                .iter()
                .filter(|(_, likelihood)| *likelihood == best)
                .map(|(position, _)| *position);
            self.share(&chosen.collect::<Vec<_>>(), &same, parts)
                .map_err(|_| Fault::Ambiguous(exceptions))?;
            exceptions += usize::from(best < Likelihood::Certain);
        }
        Ok(exceptions)
    }

    fn share(&self, chosen: &[usize], units: &[usize], parts: &mut [Part]) -> Result<(), Differ> {
        let each_its_own = chosen.len() == units.len();
        if chosen.len() > 1 && !each_its_own {
            agree(self.units, units)?;
        }
        for (n, position) in chosen.iter().enumerate() {
            let Some(part) = parts.get_mut(*position) else { continue };
            let own = match (each_its_own, n) {
                (true, _) => units.get(n..=n).unwrap_or_default(),
                (false, 0) => units,
                (false, _) => &[],
            };
            part.row = part.row.or(own.first().or(units.first()).copied());
            part.units.extend(own);
            part.units.sort_unstable();
        }
        Ok(())
    }
}

/// The outermost call in which a row's statement ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call<'a> {
    Unknown,
    /// The script of an extension.
    Script,
    /// A DO, and the statement in its body if the context contains it.
    Block(Option<&'a str>),
    /// PostgreSQL's context line about a function.
    Function(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Likelihood {
    Possible,
    Likely,
    Certain,
}

/// PostgreSQL's name for the function of a DO.
const BLOCK: &str = "inline_code_block";
impl<'a> Call<'a> {
    fn of(row: &'a Event) -> Self {
        if scripts::may_be(row) {
            return Self::Script;
        }
        let Caller::Function(context) = &row.caller else {
            return Self::Unknown;
        };
        let context = context.trim_end();
        let (before, last) = context.rsplit_once('\n').unwrap_or(("", context));
        if !last.contains(BLOCK) {
            return Self::Function(last);
        }
        let statement = before
            .rfind(STATEMENT)
            .and_then(|at| before.get(at + STATEMENT.len()..));
        Self::Block(statement.map(|statement| statement.trim_end().trim_end_matches('"')))
    }

    /// How likely it is that the statement made the call; `None` if it cannot have made it.
    fn likelihood(self, split: &Split<'_>) -> Option<Likelihood> {
        let is_block = split.tree.get("DoStmt").is_some();
        match (self, split.kind) {
            (_, Kind::Control(_) | Kind::Silent | Kind::Journal | Kind::NotSchema) => None,
            (Self::Unknown, Kind::Carrier) => (is_block || !split.functions.is_empty()).then_some(Likelihood::Certain),
            (Self::Unknown, Kind::Data | Kind::Prepared) => Some(Likelihood::Certain),
            (Self::Unknown, _) => None,
            (Self::Script, _) => split.runs_script().then_some(Likelihood::Certain),
            (Self::Block(statement), _) => is_block.then(|| in_block(statement, split.text)),
            (Self::Function(_), _) if is_block => None,
            (Self::Function(line), _) if split.functions.iter().any(|name| is_about(line, name)) => {
                Some(Likelihood::Certain)
            }
            // Through a view, a trigger or an operator.
            (Self::Function(_), Kind::Carrier | Kind::Data | Kind::Prepared) => Some(Likelihood::Possible),
            (Self::Function(_), _) => ["AlterTableStmt", "AlterDomainStmt", "CreateTableAsStmt", "IndexStmt"]
                .iter()
                .any(|node| split.tree.get(node).is_some())
                .then_some(Likelihood::Possible),
        }
    }
}

/// Whether a context line names the function. PostgreSQL writes `s.f(integer)`, and `"f"` for a function in SQL.
pub(super) fn is_about(line: &str, function: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    line.match_indices(function).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        let after = line.get(at + function.len()..).and_then(|after| after.chars().next());
        !before.is_some_and(is_part) && matches!(after, Some('(' | '"'))
    })
}

fn in_block(statement: Option<&str>, block: &str) -> Likelihood {
    let Some(statement) = statement else {
        return Likelihood::Certain;
    };
    // PL/pgSQL runs PERFORM as SELECT.
    let performed = statement.strip_prefix("SELECT ").unwrap_or(statement);
    if block.contains(performed) {
        Likelihood::Certain
    } else if block.to_ascii_lowercase().contains("execute") {
        Likelihood::Likely
    } else {
        Likelihood::Possible
    }
}
