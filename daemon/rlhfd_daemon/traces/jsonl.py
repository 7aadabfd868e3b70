"""JSON lines: one object for each step, as OpenRLHF users, TRL's callbacks and rlhfd's own step files write them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from rlhfd_daemon.traces.row import Row, RowMaker
from rlhfd_daemon.traces.source import Source

__all__ = ["Jsonl", "parsed"]

LOOKED_AT = 50


class Jsonl:
    """NaN and Infinity may be bare tokens, as Python's json writes them."""

    name = "JSON lines"

    def claims(self, head: bytes) -> bool:
        """One of the first lines is an object."""
        lines = (line for line in head.splitlines() if line.strip())
        return any(isinstance(parsed(line.decode("utf-8", "replace")), dict) for line in islice(lines, LOOKED_AT))

    def rows(self, source: Source) -> Iterator[Row]:
        """A line that is no object is damaged, unless it is the last one, still being written."""
        maker = RowMaker()
        for line in source.lines():
            if not line.text.strip():
                continue
            found = parsed(line.text)
            if not isinstance(found, dict):
                if line.ended:
                    source.damaged(f"line {line.number}", "not a JSON object")
                continue
            row = maker.make(found)
            if row is not None:
                yield row


def parsed(text: str) -> Any:
    """What ``text`` is in JSON, ``None`` if it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
