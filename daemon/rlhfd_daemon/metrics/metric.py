"""What is known about one metric: its unit, its meaning, who makes it, and its key in every OpenRLHF version."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import msgspec

__all__ = ["OLDEST", "Framework", "KeyRange", "Metric", "Unit", "metric", "observed", "release"]

Framework = Literal["openrlhf", "trl", "verl"]
Unit = Literal[
    "nats", "nats_per_token", "ratio", "tokens", "tokens_per_second", "seconds", "bytes", "bytes_per_second",
    "watts", "celsius", "hertz", "count", "per_second", "1",
]  # fmt: skip

OLDEST = "0.5.0"  # no tag before it was read
_RELEASE = re.compile(r"v?(\d{1,9}(?:\.\d{1,9})*)", re.ASCII)


def release(version: str | None) -> tuple[int, ...] | None:
    """The release numbers of a version, to be compared: ``0.9.10`` is later than ``0.9.9``, ``0.10`` equals ``0.10.0``.

    Post- and pre-releases count as the release they belong to. ``None`` for what is no version.
    """
    found = _RELEASE.match(version or "")
    if found is None:
        return None
    numbers = [int(part) for part in found.group(1).split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


class KeyRange(msgspec.Struct, frozen=True):
    """``key`` as loggers show it, from OpenRLHF version ``first`` through ``last`` (``None``: still so).

    In a key, ``<datasource>`` stands for a data set's name and ``<n>`` for a number.
    """

    key: str
    first: str = OLDEST
    last: str | None = None
    note: str = ""

    def covers(self, version: str | None) -> bool:
        """Whether that OpenRLHF logs this key; a version that is not known excludes nothing."""
        asked, first, last = release(version), release(self.first), release(self.last)
        if asked is None:
            return True
        return (first is None or first <= asked) and (last is None or asked <= last)


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table.

    ``name`` is the canonical name: today's OpenRLHF key with its ``train/`` or ``eval/``. ``unit`` is the unit after
    :func:`~rlhfd_daemon.metrics.normalise`; ``ratio`` is 0 to 1, ``1`` has no unit. ``role`` is the class of the
    process that computes it. ``source`` is where the quantity comes from in the literature, ``healthy`` what public
    healthy runs show; both may be empty. Aliases name the same quantity in the same unit, nothing merely similar.
    ``origin`` says who makes the value: OpenRLHF logs it, or rlhfd observes or computes it beside OpenRLHF.
    """

    name: str
    unit: Unit
    meaning: str
    source: str
    role: str
    keys: tuple[KeyRange, ...]
    aliases_trl: tuple[str, ...] = ()
    aliases_verl: tuple[str, ...] = ()
    healthy: str = ""
    origin: Literal["openrlhf", "rlhfd"] = "openrlhf"


def metric(
    name: str,
    unit: Unit,
    role: str,
    meaning: str,
    *,
    first: str = OLDEST,
    last: str | None = None,
    note: str = "",
    earlier: Sequence[KeyRange] = (),
    source: str = "",
    healthy: str = "",
    trl: Sequence[str] = (),
    verl: Sequence[str] = (),
) -> Metric:
    """A row whose key is its name from ``first`` through ``last``, after the ``earlier`` ones."""
    return Metric(
        name=name,
        unit=unit,
        meaning=meaning,
        source=source,
        role=role,
        keys=(*earlier, KeyRange(name, first, last, note)),
        aliases_trl=tuple(trl),
        aliases_verl=tuple(verl),
        healthy=healthy,
    )


def observed(
    name: str,
    unit: Unit,
    role: str,
    meaning: str,
    *,
    source: str = "",
    healthy: str = "",
    trl: Sequence[str] = (),
    verl: Sequence[str] = (),
) -> Metric:
    """A row of what rlhfd itself observes or computes; no OpenRLHF version logs it."""
    return Metric(
        name=name,
        unit=unit,
        meaning=meaning,
        source=source,
        role=role,
        keys=(KeyRange(name),),
        aliases_trl=tuple(trl),
        aliases_verl=tuple(verl),
        healthy=healthy,
        origin="rlhfd",
    )
