"""A fixed set of answers whose scores must stay what they were: read, remembered, compared. No I/O but files.

The baseline is a JSON file, ``{"version": 1, "scorer": ..., "scores": {key: score}}``. A pair's key is a digest of all
that is sent for it, so that a changed pair is a new one and never compared with the old.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhfd_daemon.errors import TraceError
from rlhfd_daemon.traces.jsonl import parsed
from rlhfd_daemon.traces.row import Damaged
from rlhfd_daemon.traces.source import Source

__all__ = [
    "Baseline",
    "Budget",
    "Change",
    "Pair",
    "budget_of",
    "compare",
    "read_baseline",
    "read_pairs",
    "write_baseline",
]

MAX_PAIRS = 10_000
_VERSION = 1
_MAX_BASELINE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Pair:
    """``name`` is the pair's id in its file, or its line. ``query`` is prompt and answer as one text, as the scorer
    gets it."""

    name: str
    query: str
    prompt: str
    label: Any

    @property
    def key(self) -> str:
        """The same for the same text, prompt and label."""
        text = json.dumps([self.query, self.prompt, self.label], sort_keys=True, default=str)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Baseline:
    """What each pair's key scored, and who scored it."""

    scorer: str
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Change:
    """A pair that no longer scores what it did."""

    name: str
    old: float
    new: float


@dataclass(frozen=True, slots=True)
class Budget:
    """Of ``calls`` how many failed, and how long those took that did not; quantiles are values that occurred."""

    calls: int
    failed: int
    p50_seconds: float | None
    p95_seconds: float | None
    p99_seconds: float | None

    @property
    def failed_ratio(self) -> float:
        """The share of calls that failed."""
        return self.failed / self.calls if self.calls else 0.0


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file, one JSON object a line: ``query``, or ``prompt`` and ``response``; ``label`` and ``id`` may
    be there.

    :raises TraceError: the file or a line is not as it should be. A canary must be whole: nothing is passed over.
    """

    def refuse(damaged: Damaged) -> None:
        raise TraceError(str(damaged))

    source = Source(path, refuse)
    source.head()
    found = []
    for line in source.lines():
        if line.text.strip():
            found.append(_pair(parsed(line.text), f"{path}: line {line.number}", f"line {line.number}"))
        if len(found) > MAX_PAIRS:
            raise TraceError(f"{path}: more than {MAX_PAIRS} pairs; a canary needs some dozen")
    if not found:
        raise TraceError(f"{path}: no pairs")
    return found


def _pair(row: Any, where: str, name: str) -> Pair:
    if not isinstance(row, dict):
        raise TraceError(f'{where}: not a JSON object; expected {{"prompt": ..., "response": ...}}')
    texts = {key: row[key] for key in ("query", "prompt", "response") if row.get(key) is not None}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise TraceError(f"{where}: {key} must be a text")
    if "query" not in texts and not {"prompt", "response"} <= texts.keys():
        raise TraceError(f"{where}: needs query, or prompt and response")
    query = texts.get("query", texts.get("prompt", "") + texts.get("response", ""))
    return Pair(str(row.get("id", name)), query, texts.get("prompt", ""), row.get("label"))


def read_baseline(path: Path) -> Baseline | None:
    """``None`` if there is no such file. :raises TraceError: it is no baseline."""
    try:
        if path.stat().st_size > _MAX_BASELINE_BYTES:
            raise TraceError(f"{path}: too large for a baseline")
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: no JSON; name another --baseline, or remove it") from error
    scores = found.get("scores") if isinstance(found, dict) and found.get("version") == _VERSION else None
    if not isinstance(scores, dict) or not all(type(value) in (int, float) for value in scores.values()):
        raise TraceError(f"{path}: no baseline of version {_VERSION}; name another --baseline, or remove it")
    return Baseline(str(found.get("scorer", "")), {key: float(value) for key, value in scores.items()})


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Whole or not at all. :raises TraceError: the file cannot be written."""
    body = {"version": _VERSION, "scorer": baseline.scorer, "scores": dict(baseline.scores)}
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("w", encoding="utf-8") as file:
            json.dump(body, file, indent=1, allow_nan=True)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise TraceError(f"--baseline {path}: cannot be written: {error.strerror}") from error


def compare(pairs: Sequence[Pair], baseline: Baseline, scores: Mapping[str, float], tolerance: float) -> list[Change]:
    """The pairs whose score differs by more than ``tolerance``; NaN is equal to NaN only. ``scores`` are by key."""
    found = []
    for pair in pairs:
        if pair.key in baseline.scores and pair.key in scores:
            old, new = baseline.scores[pair.key], scores[pair.key]
            same = old == new or (math.isnan(old) and math.isnan(new)) or abs(new - old) <= tolerance
            if not same:
                found.append(Change(pair.name, old, new))
    return found


def budget_of(latencies: Sequence[float | None]) -> Budget:
    """``latencies`` in seconds of all calls, ``None`` for one that failed."""
    ordered = sorted(one for one in latencies if one is not None)
    at = [ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None for share in (0.5, 0.95, 0.99)]
    return Budget(len(latencies), len(latencies) - len(ordered), *at)
