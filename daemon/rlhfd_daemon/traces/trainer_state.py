"""Hugging Face's ``trainer_state.json``, and any JSON file that is one list of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rlhfd_daemon.errors import TraceError
from rlhfd_daemon.traces.row import Row, RowMaker
from rlhfd_daemon.traces.source import Source

__all__ = ["TrainerState"]

MAX_BYTES = 256 << 20  # the format has no lines, so it is read whole
KEY = b'"log_history"'


class TrainerState:
    """transformers.TrainerState.save_to_json: an object whose ``log_history`` is a list of objects with ``step``."""

    name = "trainer_state.json"

    def claims(self, head: bytes) -> bool:
        """A JSON object with the key, or one that begins with a line of its own; or a list of objects."""
        start = head.lstrip()
        first = start.split(b"\n", 1)[0].strip()
        if start.startswith(b"["):
            return b"{" in start[:100]
        return start.startswith(b"{") and (KEY in head or first == b"{")

    def rows(self, source: Source) -> Iterator[Row]:
        with source.open() as file:
            data = source.read(file, MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise TraceError(f"{source.path}: one JSON value of more than {MAX_BYTES >> 20} MiB; write JSON lines")
        maker = RowMaker()
        for index, entry in enumerate(self._entries(source, data)):
            if not isinstance(entry, dict):
                source.damaged(f"entry {index + 1}", "not a JSON object")
            elif (row := maker.make(entry)) is not None:
                yield row

    def _entries(self, source: Source, data: bytes) -> list[Any]:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{source.path}: not a whole JSON value: {error}") from error
        entries = found.get("log_history") if isinstance(found, dict) else found
        if not isinstance(entries, list):
            raise TraceError(f"{source.path}: a JSON object without a list `log_history`; expected trainer_state.json")
        return entries
