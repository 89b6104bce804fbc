//! Aligns two sequences that have the same order: statements that write a row when they take effect, and rows. The
//! result is which statement can have written which row, over all alignments with the fewest exceptions. An exception
//! is a statement without the row that it always writes, or, for rows that allow it, a row that no statement of the
//! sequence wrote.

/// The limits for the number of exceptions, tried in this order until there is an alignment.
const EXCEPTIONS: [usize; 3] = [0, 8, usize::MAX];
/// The most cells of a table, to bound memory and time. Usual messages need one cell per statement.
const CELLS_MAX: usize = 8_000_000;

/// The two sequences.
pub(super) trait Sides {
    fn statements(&self) -> usize;
    fn rows(&self) -> usize;
    /// Whether the statement writes a row whenever it runs.
    fn always(&self, statement: usize) -> bool;
    /// Whether the statement can have written the row.
    fn fits(&self, statement: usize, row: usize) -> bool;
    /// Whether something other than a statement of the sequence can have written the row.
    fn optional(&self, row: usize) -> bool;
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Alignment {
    pub exceptions: usize,
    /// One entry per statement.
    pub statements: Vec<Aligned>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Aligned {
    /// The rows that the statement wrote in at least one of the alignments, ascending.
    pub rows: Vec<usize>,
    pub leaves: Leaves,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    /// It writes a row in every alignment.
    Row,
    /// In at least one alignment it writes none.
    PerhapsNone,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unaligned {
    Impossible,
    TooLarge,
}

pub(super) fn align(sides: &impl Sides) -> Result<Alignment, Unaligned> {
    if let Some(one_to_one) = one_to_one(sides) {
        return Ok(one_to_one);
    }
    for limit in EXCEPTIONS {
        let table = Table::fill(sides, limit)?;
        if let Some(table) = table.filter(|table| table.exceptions() <= limit && table.exceptions() != NEVER) {
            return Ok(table.alignment(sides));
        }
    }
    Err(Unaligned::Impossible)
}

/// The only alignment if there are as many statements as rows, every row fits its statement and no row is optional.
fn one_to_one(sides: &impl Sides) -> Option<Alignment> {
    let len = sides.statements();
    let each = len == sides.rows() && (0..len).all(|at| !sides.optional(at) && sides.fits(at, at));
    each.then(|| Alignment {
        exceptions: 0,
        statements: (0..len)
            .map(|at| Aligned {
                rows: vec![at],
                leaves: Leaves::Row,
            })
            .collect(),
    })
}

const NEVER: usize = usize::MAX;

/// Before each statement, for each row of a band: the fewest exceptions from the beginning up to the row, and from the
/// row to the end.
struct Table {
    from_begin: Vec<Band>,
    to_end: Vec<Band>,
}

/// The rows that can be next at one statement, with a number of exceptions each.
struct Band {
    first: usize,
    cells: Vec<usize>,
}

impl Band {
    fn at(&self, row: usize) -> usize {
        let at = row.checked_sub(self.first).and_then(|at| self.cells.get(at));
        at.copied().unwrap_or(NEVER)
    }

    fn lower(&mut self, row: usize, exceptions: usize) {
        if let Some(cell) = row.checked_sub(self.first).and_then(|at| self.cells.get_mut(at)) {
            *cell = exceptions.min(*cell);
        }
    }

    fn rows(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.cells.len()
    }
}

impl Table {
    /// `None` if there is no alignment with at most `limit` exceptions.
    fn fill(sides: &impl Sides, limit: usize) -> Result<Option<Self>, Unaligned> {
        let Some(bands) = bands(sides, limit)? else {
            return Ok(None);
        };
        let empty = || -> Vec<Band> {
            let band = |rows: &std::ops::Range<usize>| Band {
                first: rows.start,
                cells: vec![NEVER; rows.len()],
            };
            bands.iter().map(band).collect()
        };
        let (mut from_begin, mut to_end) = (empty(), empty());
        forwards(sides, &mut from_begin);
        backwards(sides, &mut to_end);
        Ok(Some(Self { from_begin, to_end }))
    }

    fn exceptions(&self) -> usize {
        self.to_end.first().map_or(NEVER, |band| band.at(0))
    }

    fn alignment(&self, sides: &impl Sides) -> Alignment {
        let exceptions = self.exceptions();
        let steps = self.from_begin.iter().zip(self.to_end.iter().skip(1)).enumerate();
        let aligned = |(statement, (before, after)): (usize, (&Band, &Band))| {
            let takes = |row: &usize| {
                let sum = before.at(*row).saturating_add(after.at(*row + 1));
                sum == exceptions && *row < sides.rows() && sides.fits(statement, *row)
            };
            let always = usize::from(sides.always(statement));
            let skips = |row: usize| {
                let sum = before.at(row).saturating_add(after.at(row)).saturating_add(always);
                sum == exceptions
            };
            Aligned {
                rows: before.rows().filter(takes).collect(),
                leaves: if before.rows().any(skips) {
                    Leaves::PerhapsNone
                } else {
                    Leaves::Row
                },
            }
        };
        Alignment {
            exceptions,
            statements: steps.map(aligned).collect(),
        }
    }
}

/// The rows that can be next before each statement and after the last one; `None` if there are none for one of them.
fn bands(sides: &impl Sides, limit: usize) -> Result<Option<Vec<std::ops::Range<usize>>>, Unaligned> {
    let (statements, rows) = (sides.statements(), sides.rows());
    let optional = (0..rows).filter(|row| sides.optional(*row)).count().min(limit);
    let mut bands = Vec::with_capacity(statements + 1);
    let (mut skippable, mut cells) = (limit, 0);
    for statement in 0..=statements {
        let left_over = rows.saturating_sub(statements - statement).saturating_sub(optional);
        let low = statement.saturating_sub(skippable).max(left_over);
        let high = (statement + optional).min(rows);
        if low > high {
            return Ok(None);
        }
        cells += high - low + 1;
        if cells > CELLS_MAX {
            return Err(Unaligned::TooLarge);
        }
        bands.push(low..high + 1);
        if statement < statements && !sides.always(statement) {
            skippable = skippable.saturating_add(1);
        }
    }
    Ok(Some(bands))
}

fn forwards(sides: &impl Sides, bands: &mut [Band]) {
    if let Some(first) = bands.first_mut() {
        first.lower(0, 0);
    }
    for statement in 0..bands.len() {
        let (now, next) = bands.split_at_mut(statement + 1);
        let Some(now) = now.last_mut() else { return };
        for row in now.rows() {
            let exceptions = now.at(row);
            if exceptions == NEVER {
                continue;
            }
            if row < sides.rows() && sides.optional(row) {
                now.lower(row + 1, exceptions + 1);
            }
            if let Some(next) = next.first_mut() {
                next.lower(row, exceptions + usize::from(sides.always(statement)));
                if row < sides.rows() && sides.fits(statement, row) {
                    next.lower(row + 1, exceptions);
                }
            }
        }
    }
}

fn backwards(sides: &impl Sides, bands: &mut [Band]) {
    if let Some(last) = bands.last_mut() {
        last.lower(sides.rows(), 0);
    }
    for statement in (0..bands.len()).rev() {
        let (now, next) = bands.split_at_mut(statement + 1);
        let Some(now) = now.last_mut() else { return };
        for row in now.rows().rev() {
            if row < sides.rows() && sides.optional(row) {
                let after = now.at(row + 1);
                now.lower(row, after.saturating_add(1));
            }
            if let Some(next) = next.first() {
                let passed = next.at(row);
                now.lower(row, passed.saturating_add(usize::from(sides.always(statement))));
                if row < sides.rows() && sides.fits(statement, row) {
                    now.lower(row, next.at(row + 1));
                }
            }
        }
    }
}
