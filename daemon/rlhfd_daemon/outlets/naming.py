"""From a metric's name to its Prometheus family: `gpu/0/power_watts` is `rlhfd_gpu_power_watts{gpu="0"}`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from rlhfd_daemon.metrics import Metric, lookup

__all__ = ["USER", "Family", "Series", "series"]

_PLACEHOLDER = re.compile(r"<(\w+)>")
_WHOLE_PART = re.compile(r"(?:^|(?<=/))<\w+>(?=/|$)")
_VALUES = {"n": r"\d+", "datasource": ".+"}  # every other placeholder stands for one part of a path
_LABELS = {"role": "process"}
_SUFFIXES = {
    "ratio": "ratio", "seconds": "seconds", "bytes": "bytes", "tokens": "tokens", "watts": "watts",
    "celsius": "celsius", "hertz": "hertz", "per_second": "per_second", "tokens_per_second": "tokens_per_second",
    "bytes_per_second": "bytes_per_second",
}  # fmt: skip
# Prometheus keeps these endings for other types than gauges.
_RESERVED = ("_total", "_count", "_sum", "_bucket", "_created", "_info")


class Family(NamedTuple):
    """``name`` with its unit, without the ``_total`` of a counter."""

    name: str
    kind: Literal["gauge", "counter"]
    unit: str
    help: str


class Series(NamedTuple):
    """``labels`` are what the metric's own name says; run, role and rank come on top."""

    family: Family
    labels: tuple[tuple[str, str], ...]


USER = Family("rlhfd_user_metric", "gauge", "", "A metric of the user's own, in no row of rlhfd's table.")


def series(name: str) -> Series:
    """Where the metric ``name`` of a sample belongs."""
    row = lookup(name)
    labels = None if row is None else _labels(name, row)
    if row is None or labels is None:
        return Series(USER, (("name", name),))
    return Series(family(row), labels)


@functools.cache  # one entry for each row of the table
def family(row: Metric) -> Family:
    """The family of a row: lower case, no word twice in succession, the unit at the end. A placeholder that is a whole
    part of the path is only a label. What rlhfd counts is a counter; OpenRLHF's `step_total` is none."""
    words = ["rlhfd"]
    for word in re.split(r"[^a-z0-9]+", _WHOLE_PART.sub("", row.name).lower()):
        if word and word != words[-1]:
            words.append(word)
    is_counter = words[-1] == "total" and row.origin == "rlhfd"
    stem = "_".join(words[:-1] if is_counter else words)
    unit = _SUFFIXES.get(row.unit, "")
    if unit and not stem.endswith(f"_{unit}"):
        stem = f"{stem}_{unit}"
    if stem.endswith(_RESERVED):
        stem = f"{stem}_value"
    meaning = row.meaning if row.unit in ("1", "count") else f"{row.meaning} Unit: {row.unit.replace('_', ' ')}."
    return Family(stem, "counter" if is_counter else "gauge", unit if stem.endswith(unit) else "", meaning)


def _labels(name: str, row: Metric) -> tuple[tuple[str, str], ...] | None:
    """What stands for the placeholders; ``None`` if ``name`` matches the row only as a text, placeholders and all."""
    for key in row.keys:
        pattern, labels = _pattern(key.key)
        for spelling in (name, f"train/{name}", f"eval/{name}"):
            found = pattern.fullmatch(spelling)
            if found is not None:
                return tuple(zip(labels, found.groups(), strict=True))
    return None


@functools.cache  # one entry for each key of the table
def _pattern(key: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    pieces, labels, end = [], list[str](), 0
    for found in _PLACEHOLDER.finditer(key):
        pieces += [re.escape(key[end : found.start()]), f"({_VALUES.get(found[1], '[^/]+')})"]
        labels.append(next(label for label in _candidates(found[1], key[: found.start()]) if label not in labels))
        end = found.end()
    return re.compile("".join(pieces) + re.escape(key[end:])), tuple(labels)


def _candidates(placeholder: str, before: str) -> Iterator[str]:
    """A number that is a part of a path of its own is called after the part before it: `gpu/<n>/`."""
    label = _LABELS.get(placeholder, placeholder)
    parts = before.split("/")
    if placeholder == "n" and len(parts) > 1 and not parts[-1]:
        label = re.sub(r"[^a-z0-9]+", "_", parts[-2].lower()).strip("_") or label
    yield label
    yield from (f"{label}_{number}" for number in range(2, 10))
