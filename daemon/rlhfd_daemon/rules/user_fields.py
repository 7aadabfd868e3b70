"""The fields of a user's rule: what each may hold, and what to say to somebody who wrote something else."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from rlhfd_daemon.analyzers.families import FAMILIES
from rlhfd_daemon.metrics import TABLE
from rlhfd_daemon.rules.evaluate import COMPARE
from rlhfd_daemon.rules.rule import Aggregate, Missing, Operator, Reference
from rlhfd_daemon.rules.selection import MAX_HOLD, hold_of
from rlhfd_daemon.rules.telling import PLACEHOLDERS, placeholders_in

__all__ = ["CONDITION_FIELDS", "RULE_FIELDS", "TEST_FIELDS", "Fault", "condition_of", "faults_in", "nearest"]

MAX_WINDOW, MAX_NAME = 500, 128
_CONDITION = re.compile(r"\s*(<=|>=|==|!=|<|>)\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_PLACE = re.compile(r"<[^<>]*>")
# What other tools call it.
_SYNONYMS = {
    "alert": "id", "name": "id", "expr": "metric and condition", "expression": "metric and condition",
    "threshold": "condition", "op": "condition", "operator": "condition", "annotations": "summary and remedy",
    "description": "summary", "message": "summary", "aggregator": "aggregation", "agg": "aggregation",
    "level": "severity", "duration": "for", "consecutive": "for", "no_data": "missing", "conditions": "and",
}  # fmt: skip


class Fault(NamedTuple):
    """What is wrong with one field; ``path`` is within its table."""

    path: tuple[str | int, ...]
    message: str


Test = Callable[[Any], str]  # what is wrong with a value; empty: nothing


def condition_of(text: str) -> tuple[Operator, float] | None:
    """``"> 0.5"`` as operator and number."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        return None
    operator = next(one for one in COMPARE if one == found.group(1))
    number = float(found.group(2).replace("_", ""))
    return (operator, number) if math.isfinite(number) else None


def faults_in(table: Mapping[str, Any], fields: Mapping[str, Test], required: Iterable[str]) -> list[Fault]:
    """Unknown, missing and wrong fields of ``table``, all of them."""
    faults = [Fault((key,), f"unknown field; {_instead(key, list(fields))}") for key in table if key not in fields]
    faults += [Fault((key,), "is missing") for key in required if key not in table]
    for key, test in fields.items():
        if key in table and (message := test(table[key])):
            faults.append(Fault((key,), message))
    return faults


def nearest(name: str, valid: Sequence[str], what: str = "valid here") -> str:
    """A hint: the nearest of ``valid``, or all of them."""
    found = difflib.get_close_matches(name, valid, n=1)
    return f'did you mean "{found[0]}"?' if found else f"{what}: {', '.join(valid) or 'none'}"


def _instead(key: str, valid: list[str]) -> str:
    synonym = _SYNONYMS.get(key.lower(), "")
    return f"here it is called {synonym}" if synonym and synonym.split()[0] in valid else nearest(key, valid)


def _is_text(value: Any) -> str:
    return "" if isinstance(value, str) and value.strip() else "must be a text"


def _is_metric(value: Any) -> str:
    if _is_text(value) or len(value) > MAX_NAME:
        return f"must be the name of a metric, of up to {MAX_NAME} characters"
    if _PLACE.search(value) and value not in {row.name for row in TABLE}:
        known = [row.name for row in TABLE if "<" in row.name]
        return f"a name with <...> must be one of the metric table; use * for anything; {nearest(value, known)}"
    return ""


def _is_condition(value: Any) -> str:
    if isinstance(value, str) and condition_of(value) is not None:
        return ""
    return 'must be a comparison with a number, such as "> 0.5" (one of <, <=, >, >=, ==, !=)'


def _is_hold(value: Any) -> str:
    return "" if hold_of(value) else f'must be a number of steps, 1 to {MAX_HOLD}, or such as "3 of 5"'


def _is_number(value: Any) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300
    return "" if is_number else "must be a number"


def _is_flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _is_id(value: Any) -> str:
    fits = isinstance(value, str) and _ID.fullmatch(value) is not None
    return "" if fits else "must be 1 to 64 letters, digits, '_', '-' or '.'"


def _is_template(value: Any) -> str:
    if not isinstance(value, str):
        return "must be a text"
    unknown = [one for one in placeholders_in(value) if one not in PLACEHOLDERS and not one.startswith("labels.")]
    return f"{{{unknown[0]}}} is no placeholder; {nearest(unknown[0], [*PLACEHOLDERS, 'labels.x'])}" if unknown else ""


def _is_labels(value: Any) -> str:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        return 'must be texts by name, such as {team = "rl"}'
    odd = [name for name in value if not _LABEL.fullmatch(name) or name in ("role", "rank")]
    return f'"{odd[0]}" is no name for a label (role and rank are taken)' if odd else ""


def _is_texts(value: Any) -> str:
    fits = isinstance(value, list) and all(isinstance(one, str) and one for one in value)
    return "" if fits else 'must be a list of texts, such as ["my-*"]'


def _is_tables(value: Any) -> str:
    fits = isinstance(value, list) and all(isinstance(one, dict) for one in value)
    return "" if fits else "must be a list of tables"


def _is_table(value: Any) -> str:
    return "" if isinstance(value, dict) else "must be a table"


def _whole(least: int, most: int) -> Test:
    def test(value: Any) -> str:
        fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        return "" if fits else f"must be a whole number, {least} to {most}"

    return test


def _one_of(*choices: str) -> Test:
    def test(value: Any) -> str:
        if isinstance(value, str) and value in choices:
            return ""
        return f'"{value}" is not known; {nearest(str(value), choices, "must be one of")}'

    return test


CONDITION_FIELDS: dict[str, Test] = {
    "metric": _is_metric,
    "condition": _is_condition,
    "aggregation": _one_of(*get_args(Aggregate)),
    "window": _whole(1, MAX_WINDOW),
    "against": _one_of(*get_args(Reference)),
    "absolute": _is_flag,
    "times": _is_metric,
}
RULE_FIELDS: dict[str, Test] = {
    "id": _is_id,
    **CONDITION_FIELDS,
    "and": _is_tables,
    "for": _is_hold,
    "keep_firing_for": _whole(1, MAX_HOLD),
    "after": _whole(0, 1_000_000),
    "severity": _one_of("info", "warning", "critical"),
    "critical": _is_number,
    "family": _one_of(*FAMILIES),
    "labels": _is_labels,
    "summary": _is_template,
    "remedy": _is_template,
    "missing": _one_of(*get_args(Missing)),
    "runs": _is_texts,
}
TEST_FIELDS: dict[str, Test] = {
    "name": _is_text,
    "series": _is_table,
    "trace": _is_text,
    "args": _is_table,
    "expect": _is_tables,
    "absent": _is_texts,
}
EXPECT_FIELDS: dict[str, Test] = {
    "rule": _is_text,
    "state": _one_of("firing", "resolved"),
    "step": _whole(0, 1 << 62),
    "onset_step": _whole(0, 1 << 62),
    "severity": _one_of("info", "warning", "critical"),
}
