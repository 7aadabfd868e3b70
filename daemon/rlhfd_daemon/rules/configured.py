"""The rules of a configuration: the built-in ones, those in files, and whether what it says of them can be meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from msgspec.structs import replace

from rlhfd_daemon.analyzers.rules import RuleAnalyzer
from rlhfd_daemon.config_rules import RuleOverride, RulesConfig
from rlhfd_daemon.errors import ConfigError, Problem
from rlhfd_daemon.rules.catalogue import CATALOGUE
from rlhfd_daemon.rules.facts import Facts
from rlhfd_daemon.rules.rule import Rule
from rlhfd_daemon.rules.selection import hold_of
from rlhfd_daemon.rules.user import read_rules, user_rules
from rlhfd_daemon.rules.user_fields import nearest

__all__ = ["build", "hints_of", "problems_of", "resolved", "rules_of"]

SECTION = "analyzers.rules"


def build(config: RulesConfig) -> RuleAnalyzer:
    """The analyzer of all rules. :raises ConfigError: a file is bad."""
    return RuleAnalyzer(config, rules_of(config), Facts)


def rules_of(config: RulesConfig) -> tuple[Rule, ...]:
    """All rules that ``config`` knows of. :raises ConfigError: a file is bad."""
    return (*(CATALOGUE if config.built_in else ()), *user_rules(config.files))


def resolved(config: RulesConfig, folder: Path) -> RulesConfig:
    """``config`` with files whose paths start at the folder of the configuration file."""
    return replace(config, files=tuple(str(folder / Path(file).expanduser()) for file in config.files))


def problems_of(config: RulesConfig) -> list[Problem]:
    """Everything that is wrong with the files, and with what is said of single rules."""
    try:
        own = [rule for file in read_rules([Path(file) for file in config.files]) for rule in file.rules]
    except ConfigError as error:
        return list(error.problems)
    rules = {rule.id: rule for rule in (*CATALOGUE, *own)}
    problems = [*_silenced(SECTION, config.mute, rules), *_overridden(SECTION, config.override, rules)]
    for pattern, section in config.runs.items():
        name = f'{SECTION}.runs."{pattern}"'
        problems += [*_silenced(name, section.mute, rules), *_overridden(name, section.override, rules)]
    return problems


def hints_of(config: RulesConfig) -> list[Problem]:
    """What is no mistake in the files, but may be: metrics that are nearly one of the table. :raises ConfigError: a
    file is bad."""
    return [hint for file in read_rules([Path(one) for one in config.files]) for hint in file.hints]


def _silenced(section: str, patterns: tuple[str, ...], rules: Mapping[str, Rule]) -> Iterator[Problem]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in rules):
            yield Problem(f"{section}.mute", f'"{pattern}" matches no rule; {_nearest(pattern, rules)}')


def _overridden(section: str, overrides: Mapping[str, RuleOverride], rules: Mapping[str, Rule]) -> Iterator[Problem]:
    for name, override in overrides.items():
        place = f"{section}.override.{name}"
        if name not in rules:
            yield Problem(place, f"no such rule; {_nearest(name, rules)}")
            continue
        if override.hold is not None and hold_of(override.hold) is None:
            yield Problem(f"{place}.hold", 'must be a number of steps, or such as "3 of 5"')
        fields = {"limit": override.limit, "critical": override.critical, "hold": override.hold}
        for field, value in fields.items():
            if value is not None and not rules[name].when:
                yield Problem(
                    f"{place}.{field}", f"the analyzer {rules[name].analyzer} decides, not a limit of the rule"
                )


def _nearest(name: str, rules: Mapping[str, Rule]) -> str:
    hint = nearest(name, list(rules), "")
    return hint if hint.startswith("did") else "`rlhfd rules list` shows them"
