"""What `rlhfd check` tells people: the worst first, alerts with the same remedy together, then one line in sum."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.text import Text

from rlhfd_alerts.alert import AlertState, Transition
from rlhfd_alerts.content import sparkline
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.check import Check, episode_of

__all__ = ["Report"]

STYLES = {Severity.CRITICAL: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan"}
INDENT = " " * 10
MAX_ALERTS = 4096  # kept for the report
MAX_METRICS = 8  # of one block
MAX_EPISODES = 3
NAME_WIDTH = 44


@dataclass
class _Alert:
    """All episodes of one alert: from the step it began on to the one on which it was over, ``None`` if never."""

    first: Finding
    episodes: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)


class Report:
    """Takes the transitions as they come, and renders what they were. ``width`` is the terminal's."""

    def __init__(self, width: int) -> None:
        self._width = max(60, min(width, 120))
        self._alerts: dict[str, _Alert] = {}

    def add(self, transition: Transition) -> None:
        """Take one transition into account."""
        alert, finding = transition.alert, transition.alert.finding
        if alert.fingerprint not in self._alerts and len(self._alerts) >= MAX_ALERTS:
            return
        known = self._alerts.setdefault(alert.fingerprint, _Alert(finding))
        end = alert.last_step if transition.state is AlertState.RESOLVED else None
        known.episodes[episode_of(transition)] = (finding.onset_step, end)

    def lines(self, check: Check) -> Iterator[Text]:
        """The report, line by line."""
        blocks: dict[tuple[str, str, str], list[_Alert]] = {}
        for alert in sorted(self._alerts.values(), key=lambda one: -one.first.severity.rank):
            finding = alert.first
            blocks.setdefault((finding.run, finding.rule, finding.remedy), []).append(alert)
        names_run = len({run for run, _, _ in blocks}) > 1
        for block in blocks.values():
            yield from self._block(block, names_run)
            yield Text("")
        yield self._total(check)

    def _block(self, alerts: Sequence[_Alert], names_run: bool) -> Iterator[Text]:
        finding = alerts[0].first
        run = f"{finding.run}: " if names_run else ""
        more = f" (and {len(alerts) - 1} more)" if len(alerts) > 1 else ""
        first, *rest = self._wrapped(f"{run}{finding.summary}{more}")
        yield Text.assemble((f"{finding.severity.value.upper():<10}", STYLES[finding.severity]), (first, "bold"))
        yield from (Text(INDENT + line, "bold") for line in rest)
        width = min(NAME_WIDTH, max(len(alert.first.metric) for alert in alerts))
        for alert in alerts[:MAX_METRICS]:
            shape = sparkline([value for _, value in alert.first.evidence])
            name = _plain(alert.first.metric)[:NAME_WIDTH]
            yield Text(f"{INDENT}{name:<{width}}  {shape:<16}  {alert.first.family}, {_when(alert)}")
        if len(alerts) > MAX_METRICS:
            yield Text(f"{INDENT}and {len(alerts) - MAX_METRICS} more metrics")
        yield from (Text(INDENT + line) for line in self._wrapped(finding.remedy))

    def _wrapped(self, text: str) -> list[str]:
        return textwrap.wrap(_plain(text), self._width - len(INDENT)) or [""]

    def _total(self, check: Check) -> Text:
        counts = dict.fromkeys(reversed(Severity), 0)
        for alert in self._alerts.values():
            counts[alert.first.severity] += 1
        found = ", ".join(f"{count} {severity.value}" for severity, count in counts.items() if count) or "nothing found"
        skipped = f", {check.damages} damaged places skipped" if check.damages else ""
        read = f"{check.coverage.steps} steps of {len(check.coverage.metrics)} metrics read from {check.trace.path}"
        return Text(f"{_plain(read)} ({check.format_name}{skipped}); {found}.")


def _when(alert: _Alert) -> str:
    spans = [_span(*span) for span in alert.episodes.values()]
    more = f" and {len(spans) - MAX_EPISODES} more times" if len(spans) > MAX_EPISODES else ""
    return ", ".join(spans[:MAX_EPISODES]) + more


def _span(begin: int | None, end: int | None) -> str:
    since = "from the start" if begin is None else f"since step {begin}"
    return since if end is None or begin is None else f"steps {begin} to {end}"


def _plain(text: str) -> str:
    """Names come from files: nothing that could steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
