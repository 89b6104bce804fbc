//! Determines which statements of a message each of its transactions committed. The text determines what a transaction can
//! have run; the number and order of the committed transactions determine which transactions of the text they are. The rows
//! are needed only where a choice remains: to which savepoint an open transaction was rolled back, which statements had no
//! effect, and which DO, CALL or SELECT called the function that ran a statement.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::attribution::{self, Part};
use super::bodies;
use super::expected::Certainty;
use super::kind::{Control, Kind};
use super::outside;
use super::scripts;
use super::segments::{Block, End, Segment, Segments, Survivors, Weights};
use super::split::Split;
use super::units::Unit;
use crate::postgres::journal::{Begun, Caller};

const AMBIGUOUS: &str = "ambiguous: it is not certain which of its statements were rolled back to a savepoint";
const UNEXPLAINED: &str =
    "some of its changes cannot be traced to one of its statements: send the statements in separate messages";
const BY_DATA: &str = "a data statement changed the schema through a function or trigger";
const TOO_LARGE: &str = "the message has too many statements that may have had no effect: run them in several messages";
pub(super) const COMMITS: &str = "a DO or CALL that commits cannot be replayed: a change is one transaction";

/// The most pairs of transactions and segments that the search visits, to bound time and memory.
const PAIRS_MAX: usize = 200_000;

/// The rows of one transaction from one message.
pub(super) struct Portion<'a> {
    pub units: Vec<Unit<'a>>,
    pub begun: Option<Begun>,
    pub goes_on: GoesOn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GoesOn {
    /// The transaction also has rows from a later message.
    Later,
    Unknown,
}

/// A statement that a transaction ran.
#[derive(Clone, Debug)]
pub(super) struct Taken<'a> {
    pub statement: usize,
    /// The units that it wrote; empty if another statement may have written them.
    pub units: Vec<Unit<'a>>,
    /// A unit with the settings that it ran with; `None` if it did not change the schema.
    pub row: Option<Unit<'a>>,
}

/// Returns the statements of each transaction, in the order in which the transactions ran, or the reason why they cannot be
/// determined.
pub(super) fn matched<'a>(
    statements: &[Split<'_>],
    portions: &[Portion<'a>],
) -> Vec<Result<Vec<Taken<'a>>, &'static str>> {
    if let [statement] = statements {
        let transactions = portions.len();
        return portions
            .iter()
            .map(|portion| alone(statement, portion, transactions))
            .collect();
    }
    let search = Search::new(statements, portions);
    let ways = match search.ways() {
        Ok(ways) => ways,
        Err(reason) => {
            let reason = if reason == UNEXPLAINED {
                unexplained(statements, portions)
            } else {
                reason
            };
            return portions.iter().map(|_| Err(reason)).collect();
        }
    };
    let taken = portions.iter().zip(&ways).enumerate();
    taken
        .map(|(at, (portion, ways))| search.agreed(at, ways).map(|parts| taken_of(portion, &parts)))
        .collect()
}

/// The reason for rows that no statement of the message explains. If the last ones of a transaction are a function's, a
/// deferred trigger has run it at the end of the transaction.
fn unexplained(statements: &[Split<'_>], portions: &[Portion<'_>]) -> &'static str {
    let by_function = |unit: &Unit<'_>| matches!(unit.row.caller, Caller::Function(_));
    let ends_so = portions
        .iter()
        .any(|portion| portion.units.last().is_some_and(by_function));
    let writes = |split: &Split<'_>| matches!(split.kind, Kind::Data | Kind::Control(Control::Commit));
    if ends_so && statements.iter().any(writes) {
        BY_DATA
    } else {
        UNEXPLAINED
    }
}

/// A message with one statement. Only a DO or CALL can have several transactions.
fn alone<'a>(
    statement: &Split<'_>,
    portion: &Portion<'a>,
    transactions: usize,
) -> Result<Vec<Taken<'a>>, &'static str> {
    let within = portion.begun == Some(Begun::Within);
    let commits = || statement.commits() || statement.calls() && calls_procedure_that_commits(portion);
    // In a transaction block (`Before`), a COMMIT in the statement would have failed, so none was executed.
    if transactions > 1 || within || portion.begun == Some(Begun::Here) && commits() {
        return Err(COMMITS);
    }
    Ok(vec![Taken {
        statement: 0,
        units: portion.units.clone(),
        row: portion.units.first().copied(),
    }])
}

/// Whether a procedure in whose call a row was written contains COMMIT or ROLLBACK. It cannot run them if it has a SET clause.
fn calls_procedure_that_commits(portion: &Portion<'_>) -> bool {
    let rows = portion.units.iter().map(|unit| unit.row);
    let mut procedures = rows.flat_map(outside::called).filter(|called| called.sets.is_empty());
    procedures.any(|called| called.body.as_deref().is_some_and(bodies::ends_transactions))
}

fn taken_of<'a>(portion: &Portion<'a>, parts: &[Part]) -> Vec<Taken<'a>> {
    let unit = |at: &usize| portion.units.get(*at).copied();
    let taken = |part: &Part| Taken {
        statement: part.statement,
        units: part.units.iter().filter_map(unit).collect(),
        row: part.row.as_ref().and_then(unit),
    };
    parts.iter().map(taken).collect()
}

/// The parts of a portion, or the reason why they cannot be determined.
type Attributed = Result<Rc<Vec<Part>>, &'static str>;

/// One transaction, assumed to be one segment of the text.
#[derive(Clone)]
struct Choice {
    exceptions: usize,
    parts: Attributed,
}

struct Search<'s, 'a> {
    statements: &'s [Split<'s>],
    portions: &'s [Portion<'a>],
    segments: Segments,
    /// The numbers of statements that can write rows, and of those that always do.
    rows: Weights,
    rows_always: Weights,
    choices: RefCell<HashMap<(usize, usize), Option<Choice>>>,
}

/// A state of the search: the numbers of transactions and of segments that are already matched or skipped.
type Position = (usize, usize);

impl<'s, 'a> Search<'s, 'a> {
    fn new(statements: &'s [Split<'s>], portions: &'s [Portion<'a>]) -> Self {
        let segments = Segments::of(statements);
        let expected = |at: usize| statements.get(at).and_then(|statement| statement.expected.as_ref());
        let rows = segments.weigh(|at| usize::from(expected(at).is_some()));
        let rows_always = segments.weigh(|at| {
            let always = expected(at).is_some_and(|expected| expected.certainty == Certainty::Always);
            usize::from(always)
        });
        Self {
            statements,
            portions,
            segments,
            rows,
            rows_always,
            choices: RefCell::new(HashMap::new()),
        }
    }

    /// For each transaction, the segments that it can be in matchings with the fewest exceptions in total.
    fn ways(&self) -> Result<Vec<BTreeSet<usize>>, &'static str> {
        let mut least: HashMap<Position, usize> = HashMap::from([((0, 0), 0)]);
        let mut came_from: HashMap<Position, Vec<Position>> = HashMap::new();
        let mut queue = BTreeSet::from([(0, (0, 0))]);
        let (mut best, mut goals) = (usize::MAX, Vec::new());
        while let Some((exceptions, place)) = queue.pop_first() {
            if exceptions > best {
                break;
            }
            if least.len() > PAIRS_MAX {
                return Err(TOO_LARGE);
            }
            if place.0 == self.portions.len() {
                best = exceptions;
                goals.push(place);
                continue;
            }
            for (next, more) in self.steps(place) {
                let sum = exceptions + more;
                let known = least.get(&next).copied().unwrap_or(usize::MAX);
                if sum < known {
                    queue.remove(&(known, next));
                    queue.insert((sum, next));
                    least.insert(next, sum);
                    came_from.insert(next, vec![place]);
                } else if sum == known {
                    came_from.entry(next).or_default().push(place);
                }
            }
        }
        if goals.is_empty() {
            return Err(UNEXPLAINED);
        }
        Ok(self.walk_back(goals, &came_from))
    }

    /// The next segment is the next transaction, or it wrote no rows. Segments after the last transaction may not have run.
    fn steps(&self, (portion, segment): Position) -> Vec<(Position, usize)> {
        let Some(next) = self.segments.list.get(segment) else {
            return Vec::new();
        };
        let skipped = match next.end {
            End::Prepare | End::Rollback => 0,
            End::Commit | End::Open => self.rows_always.of(next.whole),
        };
        let mut steps = vec![((portion, segment + 1), skipped)];
        if let Some(choice) = self.choice(portion, segment) {
            steps.push(((portion + 1, segment + 1), choice.exceptions));
        }
        steps
    }

    fn walk_back(
        &self,
        mut places: Vec<Position>,
        came_from: &HashMap<Position, Vec<Position>>,
    ) -> Vec<BTreeSet<usize>> {
        let mut ways = vec![BTreeSet::new(); self.portions.len()];
        let mut seen = BTreeSet::new();
        while let Some(place) = places.pop() {
            for from in came_from.get(&place).into_iter().flatten() {
                if let Some(way) = ways.get_mut(from.0).filter(|_| from.0 < place.0) {
                    way.insert(from.1);
                }
                if seen.insert(*from) {
                    places.push(*from);
                }
            }
        }
        ways
    }

    /// The parts of a transaction, if all segments that it can be have the same effect.
    fn agreed(&self, portion: usize, ways: &BTreeSet<usize>) -> Attributed {
        let choices = ways.iter().filter_map(|segment| self.choice(portion, *segment));
        self.same(choices.map(|choice| choice.parts))
    }

    /// From several possibilities with the same effect, the one with the fewest effective statements: the additional
    /// statements of the others had no effect.
    fn same(&self, mut all: impl Iterator<Item = Attributed>) -> Attributed {
        let mut least = all.next().ok_or(UNEXPLAINED)??;
        for other in all {
            let other = other?;
            if self.effective(&other) != self.effective(&least) {
                return Err(AMBIGUOUS);
            }
            if count(&other) < count(&least) {
                least = other;
            }
        }
        Ok(least)
    }

    /// The texts of the statements that change the schema; equal neighbours count once.
    fn effective(&self, parts: &[Part]) -> Vec<&str> {
        let effective = parts.iter().filter(|part| part.row.is_some());
        let mut texts: Vec<&str> = effective
            .filter_map(|part| self.statements.get(part.statement))
            .map(|statement| statement.text)
            .collect();
        texts.dedup();
        texts
    }

    fn choice(&self, portion: usize, segment: usize) -> Option<Choice> {
        if let Some(known) = self.choices.borrow().get(&(portion, segment)) {
            return known.clone();
        }
        let choice = match (self.portions.get(portion), self.segments.list.get(segment)) {
            (Some(of), Some(text)) if of.begun != Some(Begun::Before) || text.position == 0 => {
                let is_last = portion + 1 == self.portions.len();
                self.choose(of, lists(of, text, is_last))
            }
            _ => None,
        };
        self.choices.borrow_mut().insert((portion, segment), choice.clone());
        choice
    }

    /// Attributes the rows to each of `lists`. The result is what the attributions with the fewest exceptions agree on.
    fn choose(&self, portion: &Portion<'a>, lists: Vec<Survivors>) -> Option<Choice> {
        let own = portion
            .units
            .iter()
            .filter(|unit| unit.row.caller == Caller::Client && !scripts::may_be(unit.row))
            .count();
        let mut lists: Vec<(usize, Survivors)> = lists
            .into_iter()
            .filter(|list| self.rows.of(*list) >= own)
            .map(|list| (self.rows_always.of(list).saturating_sub(portion.units.len()), list))
            .collect();
        lists.sort_by_key(|(fewest, _)| *fewest);
        let mut best: Option<(usize, Vec<Attributed>)> = None;
        for (fewest, list) in lists {
            if best.as_ref().is_some_and(|(exceptions, _)| fewest > *exceptions) {
                break;
            }
            let (exceptions, parts) = match self.attribute(portion, list) {
                Ok((exceptions, parts)) => (exceptions, Ok(Rc::new(parts))),
                Err(attribution::Fault::Unexplained) => continue,
                Err(attribution::Fault::Ambiguous(exceptions)) => (exceptions, Err(AMBIGUOUS)),
                Err(attribution::Fault::TooLarge) => (fewest, Err(TOO_LARGE)),
            };
            match &mut best {
                Some((least, all)) if *least == exceptions => all.push(parts),
                Some((least, _)) if *least < exceptions => {}
                _ => best = Some((exceptions, vec![parts])),
            }
        }
        best.map(|(exceptions, all)| Choice {
            exceptions,
            parts: self.same(all.into_iter()),
        })
    }

    fn attribute(&self, portion: &Portion<'a>, list: Survivors) -> Result<(usize, Vec<Part>), attribution::Fault> {
        let list = self.segments.statements(list);
        attribution::attribute(self.statements, &list, &portion.units)
    }
}

fn count(parts: &[Part]) -> usize {
    parts.iter().filter(|part| part.row.is_some()).count()
}

/// The lists of statements that a transaction can have committed: the whole segment, or the statements before a savepoint.
/// The latter only for the last transaction of the message: a later message can have rolled it back to the savepoint.
fn lists(portion: &Portion<'_>, segment: &Segment, is_last: bool) -> Vec<Survivors> {
    if segment.block == Block::NeedsEarlier && !matches!(portion.begun, Some(Begun::Before) | None) {
        return Vec::new();
    }
    let whole = match segment.end {
        End::Open => true,
        End::Commit | End::Prepare => portion.goes_on == GoesOn::Unknown,
        End::Rollback => false,
    };
    let saved = segment.at_savepoints.iter().filter(|_| is_last).copied();
    whole.then_some(segment.whole).into_iter().chain(saved).collect()
}
