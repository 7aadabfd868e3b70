"""The catalogue as docs/rules.md, for a terminal, and one rule in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.analyzers.families import FAMILIES
from rlhfd_daemon.rules.catalogue import CATALOGUE
from rlhfd_daemon.rules.rule import Argument, Clause, Rule, Signal

__all__ = ["entry", "in_words", "markdown", "table"]

HEAD = """\
# Rules

<!-- Rendered by `rlhfd rules list --markdown`; change daemon/rlhfd_daemon/rules/catalogue instead. -->

What rlhfd watches out for, in {count} rules. `rlhfd rules show ID` prints one of them, `rlhfd metrics NAME` says what
a metric is. A rule whose metric a run does not send is reported as not checked, with the reason.

- **When** must hold as a whole, and as often as **held** says: "3 of 5" are three of the last five values. *Usual* is
  the median of the 50 values before, *at first* that of the first 20.
- **Severity** is `critical` where the run is lost or burns money, `warning` where somebody should look, `info` where
  it explains other findings. A second limit, where there is one, raises it to `critical`.
- **Only** and **not** name runs that the rule is for. A fact about a run that is not known forbids nothing, unless the
  rule says "known".
- **Then often** names rules whose findings usually follow: they become part of the same episode.
- Every limit can be changed, and every rule be silenced, in `[analyzers.rules]` of the configuration.
"""


def markdown(rules: Sequence[Rule] = CATALOGUE) -> str:
    """The page docs/rules.md, with a final newline."""
    lines = [HEAD.format(count=len(rules))]
    for family, members in _by_family(rules):
        links = ", ".join(f"[{rule.id}](#{rule.id})" for rule in members)
        lines += [f"## {family}", "", links, "", *(line for rule in members for line in _section(rule))]
    return "\n".join(lines)


def _by_family(rules: Sequence[Rule]) -> Iterator[tuple[str, list[Rule]]]:
    for family in FAMILIES:
        members = [rule for rule in rules if rule.family == family]
        if members:
            yield family, members


def _section(rule: Rule) -> Iterator[str]:
    yield f'### <a id="{rule.id}"></a>{rule.id}'
    yield ""
    yield f"{rule.title}. *{_severity(rule)}*"
    yield ""
    for name, text in _details(rule, code="`").items():
        if text:
            yield f"- **{name}:** {text}"
    yield ""


def _details(rule: Rule, code: str = "") -> dict[str, str]:
    """What is said of a rule, by heading; what does not apply is empty."""
    metrics = ", ".join(f"{code}{metric}{code}" for metric in rule.metrics)
    decided = f"decided by the analyzer {code}{rule.analyzer}{code} ({metrics})" if rule.analyzer else ""
    return {
        "When": decided or " and ".join(in_words(clause, code) for clause in rule.when),
        "Held": _hold(rule),
        "Only": "; ".join((*map(_fact, rule.requires), *(f"known: {_fact(one)}" for one in rule.strictly))),
        "Not": "; ".join(map(_fact, rule.excludes)),
        "Do": rule.remedy,
        "Source": rule.source,
        "Known false alarms": rule.false_positives,
        "Then often": ", ".join(_link(one, code) for one in rule.explains),
    }


def _link(rule_id: str, code: str) -> str:
    return f"[{rule_id}](#{rule_id})" if code else rule_id


def _severity(rule: Rule) -> str:
    if rule.critical is None or rule.severity is Severity.CRITICAL:
        return rule.severity.value
    return f"{rule.severity.value}, critical at {rule.critical:g}"


def _hold(rule: Rule) -> str:
    k, n = rule.hold
    times = "" if rule.analyzer or (k, n) == (1, 1) else f"{k} of {n}" if k < n else f"{n} in a row"
    after = f"after {rule.after} values" if rule.after else ""
    return ", ".join(filter(None, (times, after)))


def _fact(fact: str) -> str:
    return fact.replace("_", " ")


def in_words(clause: Clause, code: str = "") -> str:
    """A clause as one would say it."""
    signal = clause.signal
    limit = _limit(clause.limit, code)
    unit = {"baseline": " times usual", "first": " times that at first"}.get(signal.against, "")
    return f"{_signal(signal, code)} {clause.operator} {limit}{unit}"


def _limit(limit: float | Argument, code: str) -> str:
    if isinstance(limit, Argument):
        factor = "" if limit.factor == 1 else f"{limit.factor:g} × "
        return f"{factor}{code}--{limit.names[0]}{code}"
    return f"{limit:.15g}"


def _signal(signal: Signal, code: str) -> str:
    name = f"{code}{signal.metric}{code}"
    name = f"|{name}|" if signal.absolute else name
    if signal.take == "drawdown":
        name = f"loss of {name} (mean of {signal.over}) since its best, as a share of its range,"
    elif signal.take != "last":
        name = f"{signal.take} of the last {signal.over} {name}"
    return f"{name} × {code}{signal.by}{code}" if signal.by else name


def table(rules: Sequence[Rule] = CATALOGUE) -> Table:
    """Rules for a terminal: id, family, severity, title."""
    grid = Table(box=None, pad_edge=False)
    for title in ("RULE", "FAMILY", "SEVERITY", "WHAT"):
        grid.add_column(title, no_wrap=title != "WHAT", overflow="fold")
    for rule in rules:
        grid.add_row(rule.id, rule.family, rule.severity.value, rule.title.replace("[", r"\["))
    return grid


def entry(rule: Rule) -> str:
    """One rule in lines of ``what: value``; what is empty is left out."""
    lines = {
        "rule": rule.id,
        "title": rule.title,
        "family": rule.family,
        "severity": _severity(rule),
        **{name.lower(): text for name, text in _details(rule).items()},
        "flags": ", ".join(rule.flags),
    }
    width = max(map(len, lines)) + 2
    return "\n".join(f"{what + ':':<{width}}{value}" for what, value in lines.items() if value)
