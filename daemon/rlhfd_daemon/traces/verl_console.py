"""verl's console log: lines like ``step:7 - actor/entropy:0.41 - critic/score/mean:0.5`` among others.

verl/utils/logger/aggregate_logger.py, ``concat_dict_to_str``; values may be numpy's (``np.float64(0.5)``), Ray puts
``(TaskRunner pid=123)`` before a line and a terminal colours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlhfd_daemon.traces.csv import measured
from rlhfd_daemon.traces.row import Row, RowMaker
from rlhfd_daemon.traces.source import Source

__all__ = ["VerlConsole"]

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_STEP = re.compile(r"(?:^|[\s\])])step:(\d{1,18}) - (?=\S+:)")
_WRAPPED = re.compile(r"[A-Za-z_][\w.]*\((.*)\)")


class VerlConsole:
    """What other lines say is passed over."""

    name = "verl console"

    def claims(self, head: bytes) -> bool:
        """One of the first lines is a step."""
        text = head.decode("utf-8", "replace")
        return b"\0" not in head and any(_STEP.search(_COLOUR.sub("", line)) for line in text.splitlines())

    def rows(self, source: Source) -> Iterator[Row]:
        """Of a last line without an end the last value is left out, since half a number is a number, too."""
        maker = RowMaker()
        for line in source.lines():
            text = _COLOUR.sub("", line.text)
            found = _STEP.search(text)
            if found is None:
                continue
            parts = text[found.end() :].split(" - ")
            row = maker.make({"step": int(found[1]), **dict(_values(parts if line.ended else parts[:-1]))})
            if row is not None:
                yield row


def _values(parts: list[str]) -> Iterator[tuple[str, float]]:
    for part in parts:
        key, _, text = part.strip().rpartition(":")
        wrapped = _WRAPPED.fullmatch(text)
        value = measured(wrapped[1] if wrapped else text)
        if key and value is not None:
            yield key, value
