//! Which statements of a message committed: each is matched, in order, to the journal's units by tag and object.
//! DDL without a unit was rolled back or did nothing; units that no DDL claims belong to a DO, CALL or SELECT.

use super::split::{Control, Kind, Split};
use super::units::Unit;

/// A statement and what it left; nothing for statements that only may be left out.
pub(super) struct Committed<'a> {
    pub statement: Split<'a>,
    pub units: Vec<Unit<'a>>,
}

/// Statements times units of one message. Past it a message is not worth the memory.
const CELLS_MAX: usize = 16_000_000;

const AMBIGUOUS: &str = "ambiguous: its statements cannot be told apart in the journal";

/// The part of the message that the units came from, with each statement's units.
pub(super) fn committed<'a>(statements: Vec<Split<'a>>, units: Vec<Unit<'a>>) -> Result<Vec<Committed<'a>>, String> {
    if statements.len() == 1 {
        let mut statements = statements;
        let statement = statements.pop().ok_or(AMBIGUOUS)?;
        return Ok(vec![Committed { statement, units }]);
    }
    if statements.len().saturating_mul(units.len()) > CELLS_MAX {
        return Err("too many statements in one message".to_owned());
    }
    let mut candidates = Vec::new();
    for segment in segments(&statements) {
        match assign(&statements, &segment, &units) {
            Outcome::One(assignment) => candidates.push(assignment),
            Outcome::None => {}
            Outcome::Many => return Err(AMBIGUOUS.to_owned()),
        }
    }
    let [assignment] = <[Assignment; 1]>::try_from(candidates).map_err(|found| match found.is_empty() {
        true => "no statement of it explains what the journal has".to_owned(),
        false => AMBIGUOUS.to_owned(),
    })?;
    let mut owned: Vec<Option<Split<'a>>> = statements.into_iter().map(Some).collect();
    let mut committed = Vec::new();
    for (index, claimed) in assignment {
        let Some(statement) = owned.get_mut(index).and_then(Option::take) else {
            continue;
        };
        let units = claimed.iter().filter_map(|unit| units.get(*unit).copied()).collect();
        committed.push(Committed { statement, units });
    }
    Ok(committed)
}

/// Statement → its units, for the live statements of one segment.
type Assignment = Vec<(usize, Vec<usize>)>;

enum Outcome {
    None,
    One(Assignment),
    Many,
}

/// The statements of each transaction that the message can have committed, without those a savepoint took back.
fn segments(statements: &[Split<'_>]) -> Vec<Vec<usize>> {
    let mut segments = Vec::new();
    let mut live: Vec<usize> = Vec::new();
    let mut savepoints: Vec<(String, usize)> = Vec::new();
    for (index, statement) in statements.iter().enumerate() {
        match statement.kind {
            Kind::Control(Control::Commit) => {
                segments.push(std::mem::take(&mut live));
                savepoints.clear();
            }
            Kind::Control(Control::Rollback) => {
                live.clear();
                savepoints.clear();
            }
            Kind::Control(Control::Savepoint) => savepoints.push((savepoint_name(statement), live.len())),
            Kind::Control(Control::RollbackTo) => {
                let name = savepoint_name(statement);
                // A savepoint of an earlier message takes back all that this one did so far.
                match savepoints.iter().rposition(|(known, _)| *known == name) {
                    Some(position) => {
                        live.truncate(savepoints.get(position).map_or(0, |(_, len)| *len));
                        savepoints.truncate(position + 1);
                    }
                    None => {
                        live.clear();
                        savepoints.clear();
                    }
                }
            }
            Kind::Control(Control::Begin) => {}
            _ => live.push(index),
        }
    }
    segments.push(live);
    segments.retain(|segment| !segment.is_empty());
    segments
}

fn savepoint_name(statement: &Split<'_>) -> String {
    let name = statement
        .tree
        .get("TransactionStmt")
        .and_then(|stmt| stmt.get("savepoint_name"));
    name.and_then(|name| name.as_str()).unwrap_or_default().to_owned()
}

/// Best number of claims from here on, and in how many ways (2 stands for more).
type Cell = (u32, u8);

/// The assignment in which DDL claims the most units.
fn assign(statements: &[Split<'_>], segment: &[usize], units: &[Unit<'_>]) -> Outcome {
    let fits = |row: usize, unit: usize| -> bool {
        let statement = segment.get(row).and_then(|index| statements.get(*index));
        match (statement, units.get(unit)) {
            (Some(statement), Some(unit)) => {
                !statement.tag.is_empty() && unit.row.tag.starts_with(&statement.tag) && unit.concerns(&statement.names)
            }
            _ => false,
        }
    };
    let table = Table::fill(segment.len(), units.len(), &fits);
    if table.best(0, 0).1 > 1 {
        return Outcome::Many;
    }
    let claims = table.trace(&fits);
    give_to_carriers(statements, segment, units.len(), &claims)
}

struct Table {
    width: usize,
    rows: usize,
    /// `best[i][j]`: statements from i and units from j; `claim[i][j]`: where i claims a unit from j on.
    best: Vec<Cell>,
    claim: Vec<Cell>,
}

impl Table {
    fn fill(rows: usize, units: usize, fits: &dyn Fn(usize, usize) -> bool) -> Self {
        let width = units + 1;
        let mut table = Self {
            width,
            rows,
            best: vec![(0, 1); width * (rows + 1)],
            claim: vec![(0, 0); width * (rows + 1)],
        };
        for row in (0..rows).rev() {
            for unit in (0..width).rev() {
                let mut claim = if unit < units {
                    table.claiming(row, unit + 1)
                } else {
                    (0, 0)
                };
                if unit < units && fits(row, unit) {
                    let (rest, ways) = table.best(row + 1, unit + 1);
                    claim = better(claim, (rest + 1, ways));
                }
                table.set(row, unit, claim);
            }
        }
        table
    }

    fn best(&self, row: usize, unit: usize) -> Cell {
        self.best.get(row * self.width + unit).copied().unwrap_or((0, 1))
    }

    fn claiming(&self, row: usize, unit: usize) -> Cell {
        self.claim.get(row * self.width + unit).copied().unwrap_or((0, 0))
    }

    fn set(&mut self, row: usize, unit: usize, claim: Cell) {
        let best = better(self.best(row + 1, unit), claim);
        let at = row * self.width + unit;
        if let (Some(c), Some(b)) = (self.claim.get_mut(at), self.best.get_mut(at)) {
            *c = claim;
            *b = best;
        }
    }

    /// The unit that each statement claims in the one best assignment.
    fn trace(&self, fits: &dyn Fn(usize, usize) -> bool) -> Vec<Option<usize>> {
        let mut claims = Vec::with_capacity(self.rows);
        let mut unit = 0;
        for row in 0..self.rows {
            let best = self.best(row, unit).0;
            let claimed = (unit + 1 < self.width
                && self.claiming(row, unit).1 > 0
                && self.claiming(row, unit).0 == best)
                .then(|| (unit..self.width - 1).find(|at| fits(row, *at) && self.best(row + 1, at + 1).0 + 1 == best))
                .flatten();
            // A tie with passing the statement over would have been ambiguous.
            let claimed = claimed.filter(|_| self.best(row + 1, unit).0 < best);
            if let Some(at) = claimed {
                unit = at + 1;
            }
            claims.push(claimed);
        }
        claims
    }
}

fn better(a: Cell, b: Cell) -> Cell {
    match (a.1, b.1) {
        (0, _) => b,
        (_, 0) => a,
        _ if a.0 > b.0 => a,
        _ if b.0 > a.0 => b,
        _ => (a.0, a.1.saturating_add(b.1).min(2)),
    }
}

/// Each run of units that no DDL claimed goes to the one statement between its neighbours that can have hidden DDL.
fn give_to_carriers(statements: &[Split<'_>], segment: &[usize], units: usize, claims: &[Option<usize>]) -> Outcome {
    let mut taken: Vec<Vec<usize>> = claims.iter().map(|claim| claim.iter().copied().collect()).collect();
    let mut unit = 0;
    while unit < units {
        if claims.contains(&Some(unit)) {
            unit += 1;
            continue;
        }
        let run_end = (unit..units).find(|at| claims.contains(&Some(*at))).unwrap_or(units);
        let before = |at: &usize| claims.iter().position(|claim| *claim == Some(*at));
        let from = unit.checked_sub(1).as_ref().and_then(before).map_or(0, |row| row + 1);
        let to = before(&run_end).unwrap_or(segment.len());
        let mut carriers = (from..to).filter(|row| {
            let statement = segment.get(*row).and_then(|index| statements.get(*index));
            statement.is_some_and(|statement| {
                let able = matches!(statement.kind, Kind::Carrier | Kind::Data | Kind::Prepared);
                able && (statement.calls || statement.kind != Kind::Carrier)
            })
        });
        match (carriers.next(), carriers.next()) {
            (Some(row), None) => {
                if let Some(own) = taken.get_mut(row) {
                    own.extend(unit..run_end);
                }
            }
            (Some(_), Some(_)) => return Outcome::Many,
            (None, _) => return Outcome::None,
        }
        unit = run_end;
    }
    Outcome::One(segment.iter().copied().zip(taken).collect())
}
