"""What became of each client's checks, and the table of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """`ok`, `skipped` or `FAILED`, and why."""

    word: str
    detail: str

    def failed(self) -> bool:
        return self.word not in ("ok", "skipped")


@dataclass(frozen=True)
class Row:
    client: str
    version: str
    outcomes: dict[str, Outcome]

    def passed(self) -> bool:
        return any(outcome.word == "ok" for outcome in self.outcomes.values())

    def failed(self) -> bool:
        return any(outcome.failed() for outcome in self.outcomes.values())

    def line(self) -> str:
        words = [outcome.word for outcome in self.outcomes.values()]
        counts = ", ".join(f"{words.count(word)} {word}" for word in ("ok", "skipped", "FAILED") if word in words)
        return f"{self.client} {self.version}: {counts}"


def markdown(checks: list[str], rows: list[Row]) -> str:
    """The table, then a line for each thing that failed or was left out."""
    cells = [["client", "version", *checks]]
    cells += [[row.client, row.version, *(row.outcomes[check].word for check in checks)] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    cells.insert(1, ["-" * width for width in widths])
    table = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |" for line in cells]
    return "\n".join([*table, "", *_notes(checks, rows)])


def _notes(checks: list[str], rows: list[Row]) -> list[str]:
    """Checks of one client that share a reason share a line."""
    notes = []
    for row in rows:
        reasons: dict[Outcome, list[str]] = {}
        for check in checks:
            if row.outcomes[check].word != "ok":
                reasons.setdefault(row.outcomes[check], []).append(check)
        notes += [f"- {row.client}: {', '.join(of)} {why.word}: {why.detail}" for why, of in reasons.items()]
    return notes
