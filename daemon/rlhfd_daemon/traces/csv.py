"""CSV with a header line; comma, semicolon or tab."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

from rlhfd_daemon.errors import TraceError
from rlhfd_daemon.traces.row import Row, RowMaker
from rlhfd_daemon.traces.source import Line, Source

__all__ = ["Csv", "measured"]

DELIMITERS = ",;\t"


class Csv:
    """One line for each step; an empty cell is unknown, a text is left out."""

    name = "CSV"

    def claims(self, head: bytes) -> bool:
        """Two columns or more that have names, and a number somewhere in the line below."""
        if b"\0" in head:
            return False
        lines = [line for line in head.decode("utf-8", "replace").splitlines() if line.strip()][:2]
        if not lines:
            return False
        names = _cells(lines[0], _delimiter(lines[0]))
        if len(names) < 2 or not all(names[1:]) or any(measured(name) is not None for name in names):
            return False
        values = _cells(lines[1], _delimiter(lines[0])) if len(lines) > 1 else []
        return len(values) == len(names) and any(isinstance(measured(value), float) for value in values)

    def rows(self, source: Source) -> Iterator[Row]:
        """A line with too few or too many cells is damaged; of a last line without an end the last cell is left out,
        since half a number is a number, too."""
        maker = RowMaker()
        names: Sequence[str] = ()
        delimiter = ","
        for line in source.lines():
            if not line.text.strip():
                continue
            if not names:
                delimiter = _delimiter(line.text)
                names = _header(source, line, delimiter)
                continue
            cells = _cells(line.text, delimiter)
            if not line.ended:
                cells = cells[: min(len(cells), len(names)) - 1]
            elif len(cells) != len(names):
                source.damaged(f"line {line.number}", f"{len(cells)} cells under {len(names)} names")
                continue
            elif tuple(cells) == tuple(names):
                continue  # the header once more, by a run that was resumed
            row = maker.make({name: _value(cell) for name, cell in zip(names, cells, strict=False)})
            if row is not None:
                yield row


def _header(source: Source, line: Line, delimiter: str) -> Sequence[str]:
    names = _cells(line.text, delimiter)
    if len(names) < 2:
        raise TraceError(f"{source.path}: line {line.number} is no CSV header; expected names with commas between")
    return names


def _delimiter(text: str) -> str:
    return max(DELIMITERS, key=text.count)


def _cells(text: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _value(cell: str) -> object:
    found = measured(cell)
    return cell if found is None else found


def measured(text: str) -> float | None:
    """The number that ``text`` is, ``None`` if it is none."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None
