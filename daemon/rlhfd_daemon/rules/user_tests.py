"""Tests of rules, as a file of rules holds them: what comes, and what is to follow from it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

import msgspec

from rlhfd_daemon.rules.user_fields import EXPECT_FIELDS, TEST_FIELDS, Fault, faults_in, nearest

__all__ = ["Expectation", "RuleTest", "faults_of", "made_of", "series_of"]

MAX_VALUES = 100_000
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BY = r"[-+](?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_WORD = re.compile(rf"(?P<start>{_NUMBER}|[-+]?[Ii]nf|NaN|nan|_)(?P<step>{_BY})?(?:x(?P<times>\d{{1,6}}))?")


class Expectation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That ``rule`` begins to fire, or resolves; what is ``None`` may be anything."""

    rule: str
    state: Literal["firing", "resolved"] = "firing"
    step: int | None = None
    onset_step: int | None = None
    severity: Literal["info", "warning", "critical"] | None = None

    def __str__(self) -> str:
        said = {"at step": self.step, "since step": self.onset_step, "with severity": self.severity}
        return " ".join([self.rule, self.state, *(f"{what} {one}" for what, one in said.items() if one is not None)])


class RuleTest(msgspec.Struct, frozen=True, kw_only=True):
    """``series``: values by metric, one a step from step 1, ``None`` where there is none; or else ``trace``: a log.
    ``args`` are arguments of the run. ``absent`` are rules that must not fire."""

    name: str
    series: dict[str, list[float | None]] = {}
    trace: str = ""
    args: dict[str, Any] = {}
    expect: tuple[Expectation, ...] = ()
    absent: tuple[str, ...] = ()


def series_of(text: str) -> list[float | None]:
    """promtool's notation: ``1 2 _ NaN``; ``3x4`` is 3 and four more; ``1+2x3`` is 1 3 5 7; ``_x5`` is five times none.

    :raises ValueError: what cannot be read, and what could be instead.
    """
    values: list[float | None] = []
    for word in text.split():
        found = _WORD.fullmatch(word)
        if found is None:
            raise ValueError(f'"{word}" is neither a number, NaN, Inf, _ nor such as 1x5, 1+0.5x5 or _x5')
        times = int(found["times"] or 0)
        if len(values) + times >= MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
        if found["start"] == "_":
            values += [None] * (times if found["times"] else 1)
            continue
        start, step = float(found["start"]), float(found["step"] or 0)
        if found["step"] and not found["times"]:
            raise ValueError(f'"{word}" says by how much, but not how often; write {word}x5')
        values += [start + step * number for number in range(times + 1)]
    return values


def faults_of(table: Mapping[str, Any], rules: Collection[str]) -> list[Fault]:
    """Everything that is wrong with one ``[[test]]`` of a file that holds ``rules``."""
    faults = faults_in(table, TEST_FIELDS, ())
    broken = {fault.path[0] for fault in faults}
    if ("series" in table) == ("trace" in table):
        faults.append(Fault((), "needs either series or trace"))
    if not table.get("expect") and not table.get("absent"):
        faults.append(Fault((), "expects nothing; give expect or absent"))
    if "series" not in broken:
        faults += _series_faults(table.get("series", {}))
    for number, expected in enumerate(table.get("expect", ()) if "expect" not in broken else ()):
        inner = faults_in(expected, EXPECT_FIELDS, ("rule",))
        if not inner and expected["rule"] not in rules:
            inner.append(Fault(("rule",), _no_rule(expected["rule"], rules)))
        faults += [Fault(("expect", number, *fault.path), fault.message) for fault in inner]
    for number, name in enumerate(table.get("absent", ()) if "absent" not in broken else ()):
        if name not in rules:
            faults.append(Fault(("absent", number), _no_rule(name, rules)))
    return faults


def made_of(table: Mapping[str, Any], number: int) -> RuleTest:
    """The test that a ``[[test]]`` without faults means; it is the ``number``-th of its file."""
    return RuleTest(
        name=table.get("name", f"test {number}"),
        series={metric: series_of(text) for metric, text in table.get("series", {}).items()},
        trace=table.get("trace", ""),
        args=table.get("args", {}),
        expect=tuple(msgspec.convert(one, Expectation) for one in table.get("expect", ())),
        absent=tuple(table.get("absent", ())),
    )


def _series_faults(series: Mapping[str, Any]) -> Iterator[Fault]:
    for metric, text in series.items():
        if not isinstance(text, str):
            yield Fault(("series", metric), 'must be a text such as "1 2 3x10 _x5 NaN"')
            continue
        try:
            if all(one is None or math.isnan(one) for one in series_of(text)):
                yield Fault(("series", metric), "holds no number")
        except ValueError as error:
            yield Fault(("series", metric), str(error))


def _no_rule(name: str, rules: Collection[str]) -> str:
    return f'no rule "{name}" in this file; {nearest(name, sorted(rules), "its rules")}'
