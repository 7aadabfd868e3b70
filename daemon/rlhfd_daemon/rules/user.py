"""Files of rules that users write: TOML, every mistake named with its line, nothing ever evaluated as code."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhfd_daemon.errors import ConfigError, Problem
from rlhfd_daemon.metrics import TABLE, find
from rlhfd_daemon.rules.rule import Rule
from rlhfd_daemon.rules.toml_lines import lines_of, nearest_line
from rlhfd_daemon.rules.user_fields import Fault, nearest
from rlhfd_daemon.rules.user_rule import rule_faults, rule_of
from rlhfd_daemon.rules.user_tests import RuleTest, faults_of, made_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

__all__ = ["RuleFile", "read_rules", "user_rules"]

MAX_BYTES = 256 * 1024
NEAR = 0.9


@dataclass(frozen=True)
class RuleFile:
    """What one file holds. ``hints`` are no mistakes, but may be."""

    path: Path
    rules: tuple[Rule, ...]
    tests: tuple[RuleTest, ...]
    hints: tuple[Problem, ...]


def user_rules(files: Iterable[str]) -> tuple[Rule, ...]:
    """The rules in ``files``. :raises ConfigError: everything that is wrong with them."""
    return tuple(rule for file in read_rules([Path(one) for one in files]) for rule in file.rules)


def read_rules(paths: Sequence[Path]) -> list[RuleFile]:
    """The contents of the files. :raises ConfigError: everything that is wrong with any of them."""
    taken: dict[str, str] = dict.fromkeys(built_in_ids(), "")
    problems: list[Problem] = []
    files = []
    for path in paths:
        try:
            files.append(_read(path, taken))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError.of("", problems)
    return files


def built_in_ids() -> frozenset[str]:
    """The ids that are taken, those of the catalogue."""
    from rlhfd_daemon.rules.catalogue import CATALOGUE

    return frozenset(rule.id for rule in CATALOGUE)


def _read(path: Path, taken: dict[str, str]) -> RuleFile:
    text = _text(path)
    try:
        raw = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and integers beyond Python's limit of digits
        raise ConfigError.of("", [Problem(str(path), f"not valid TOML: {error}")]) from error
    lines = lines_of(text)

    def problem(place: tuple[str | int, ...], name: str, message: str) -> Problem:
        field = _spelled(place[2:])
        where = f"{path}:{nearest_line(lines, place)}: {name}"
        return Problem(f"{where}: {field}" if field else where, message)

    problems = [problem((key,), key, f"unknown; {nearest(key, ['rule', 'test'])}") for key in raw if key not in _TABLES]
    tables = {key: _tables(raw.get(key, [])) for key in _TABLES}
    for key in _TABLES:
        if tables[key] is None:
            problems.append(problem((key,), key, f"must be an array of tables: [[{key}]]"))
    rules, tests = tables["rule"] or [], tables["test"] or []
    names = {number: f"rule {table.get('id', number + 1)}" for number, table in enumerate(rules)}
    for number, table in enumerate(rules):
        faults = [*rule_faults(table), *_taken(table, taken)]
        taken.setdefault(str(table.get("id", "")), f"{path}:{nearest_line(lines, ('rule', number, 'id'))}")
        problems += [problem(("rule", number, *fault.path), names[number], fault.message) for fault in faults]
    ids = [table["id"] for table in rules if isinstance(table.get("id"), str)]
    for number, table in enumerate(tests):
        name = f"test {table.get('name', number + 1)}"
        problems += [problem(("test", number, *one.path), name, one.message) for one in faults_of(table, ids)]
    if problems:
        raise ConfigError.of(
            "", sorted(problems, key=lambda one: int(one.field.removeprefix(f"{path}:").split(":")[0]))
        )
    made = tuple(rule_of(table) for table in rules)
    hints = [
        problem(("rule", number, "metric"), names[number], hint)
        for number, rule in enumerate(made)
        for hint in _odd_metrics(rule)
    ]
    return RuleFile(path, made, tuple(made_of(table, number) for number, table in enumerate(tests, 1)), tuple(hints))


_TABLES = ("rule", "test")


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ConfigError.of("", [Problem(str(path), f"longer than {MAX_BYTES >> 10} KiB")])
        # As a text file is read: TOML knows two ends of a line.
        return raw.decode("utf-8").replace("\r\n", "\n")
    except OSError as error:
        raise ConfigError.of("", [Problem(str(path), f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError.of("", [Problem(str(path), f"not UTF-8 text (byte {error.start})")]) from error


def _tables(value: object) -> list[dict[str, Any]] | None:
    return value if isinstance(value, list) and all(isinstance(one, dict) for one in value) else None


def _taken(table: dict[str, Any], taken: dict[str, str]) -> list[Fault]:
    name = table.get("id")
    if not isinstance(name, str) or name not in taken:
        return []
    if taken[name]:
        return [Fault(("id",), f'"{name}" is already at {taken[name]}')]
    hint = f"to change its limits, write [analyzers.rules.override.{name}] in the daemon's configuration"
    return [Fault(("id",), f'"{name}" is a built-in rule; {hint}')]


def _odd_metrics(rule: Rule) -> list[str]:
    """Metrics that the table does not know, but nearly: of the user's own, or misspelt."""
    known = [row.name for row in TABLE]
    found = []
    for metric in rule.metrics:
        if find(metric) is None and "*" not in metric:
            near = difflib.get_close_matches(metric, known, n=1, cutoff=NEAR)
            found += [f'{metric} is not in the metric table; did you mean "{one}"?' for one in near]
    return found


def _spelled(path: Sequence[str | int]) -> str:
    text = ""
    for one in path:
        text += f"[{one + 1}]" if isinstance(one, int) else f".{one}" if text else one
    return text
