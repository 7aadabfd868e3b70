"""What `rlhfd check` tells people: episodes, the worst first; in each the first cause, what followed, what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.text import Text

from rlhfd_alerts.alert import AlertState, Episode, Transition
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_alerts.sparkline import sparkline
from rlhfd_daemon.check import Check

__all__ = ["Report"]

STYLES = {Severity.CRITICAL: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan"}
INDENT = " " * 10
MAX_KEPT = 1024  # episodes
MAX_SHOWN = 50  # episodes
MAX_MEMBERS = 8  # of one episode
MAX_SPANS = 3
NAME_WIDTH = 44


@dataclass
class _Member:
    """One condition of an episode: when it held, each time; the end is ``None`` while it does."""

    finding: Finding
    spans: list[tuple[int | None, int | None]] = field(default_factory=list)


@dataclass
class _Told:
    """An episode as it stood last, and its conditions by fingerprint."""

    last: Episode | None
    severity: Severity
    members: dict[str, _Member] = field(default_factory=dict)

    def ordered(self) -> list[_Member]:
        """The first cause first."""
        if self.last is None:
            return list(self.members.values())
        known = [self.last.cause.fingerprint, *(member.fingerprint for member in self.last.members)]
        return [self.members[key] for key in dict.fromkeys((*known, *self.members)) if key in self.members]


class Report:
    """Takes the transitions as they come, and renders what they were. ``width`` is the terminal's."""

    def __init__(self, width: int) -> None:
        self._width = max(60, min(width, 120))
        self._episodes: dict[str, _Told] = {}
        self._counts = dict.fromkeys(reversed(Severity), 0)

    def add(self, transition: Transition) -> None:
        """Take one transition into account."""
        alert, finding = transition.alert, transition.alert.finding
        key = finding.episode or alert.fingerprint
        told = self._episodes.get(key)
        if told is None:
            if len(self._episodes) >= MAX_KEPT:
                return
            told = self._episodes[key] = _Told(transition.episode, finding.severity)
            self._counts[finding.severity] += 1
        self._raise(told, finding.severity)
        told.last = transition.episode
        member = told.members.setdefault(alert.fingerprint, _Member(finding))
        if transition.state is AlertState.RESOLVED:
            member.spans[-1:] = [(finding.onset_step, alert.last_step)]
        elif not member.spans or member.spans[-1][1] is not None:
            member.spans.append((finding.onset_step, None))

    def _raise(self, told: _Told, severity: Severity) -> None:
        if severity.rank > told.severity.rank:
            self._counts[told.severity] -= 1
            self._counts[severity] += 1
            told.severity = severity

    def lines(self, check: Check) -> Iterator[Text]:
        """The report, line by line."""
        told = sorted(self._episodes.values(), key=lambda one: -one.severity.rank)
        names_run = len({member.finding.run for one in told for member in one.members.values()}) > 1
        for one in told[:MAX_SHOWN]:
            yield from self._block(one, names_run)
            yield Text("")
        if len(told) > MAX_SHOWN:
            yield Text(f"and {len(told) - MAX_SHOWN} more episodes")
        yield self._total(check)

    def _block(self, told: _Told, names_run: bool) -> Iterator[Text]:
        members = told.ordered()
        cause = members[0].finding
        run = f"{cause.run}: " if names_run else ""
        first, *rest = self._wrapped(f"{run}{cause.summary}")
        yield Text.assemble((f"{told.severity.value.upper():<10}", STYLES[told.severity]), (first, "bold"))
        yield from (Text(INDENT + line, "bold") for line in rest)
        if told.last is not None:
            yield Text(f"{INDENT}{_extent(told)}, confidence {told.last.confidence:.2f}")
        width = min(NAME_WIDTH, max(len(member.finding.metric) for member in members[:MAX_MEMBERS]))
        for member in members[:MAX_MEMBERS]:
            finding = member.finding
            shape = sparkline([value for _, value in finding.evidence])
            what = f"{finding.family}, {finding.rule}, {_when(member)}"
            yield Text(f"{INDENT}{_plain(finding.metric)[:NAME_WIDTH]:<{width}}  {shape:<16}  {_plain(what)}")
        if len(members) > MAX_MEMBERS:
            yield Text(f"{INDENT}and {len(members) - MAX_MEMBERS} more")
        yield from (Text(INDENT + line) for line in self._wrapped(cause.remedy))

    def _wrapped(self, text: str) -> list[str]:
        return textwrap.wrap(_plain(text), self._width - len(INDENT)) or [""]

    def _total(self, check: Check) -> Text:
        found = ", ".join(f"{count} {severity.value}" for severity, count in self._counts.items() if count)
        episodes = f"{len(self._episodes)} episode{'s' if len(self._episodes) > 1 else ''}: {found}"
        skipped = f", {check.damages} damaged places skipped" if check.damages else ""
        read = f"{check.coverage.steps} steps of {len(check.coverage.metrics)} metrics read from {check.trace.path}"
        return Text(f"{_plain(read)} ({check.format_name}{skipped}); {episodes if found else 'nothing found'}.")


def _extent(told: _Told) -> str:
    """From the first onset of all members to the end of the last."""
    begins = [begin for member in told.members.values() for begin, _ in member.spans if begin is not None]
    last = None if told.last is None or told.last.state is AlertState.FIRING else told.last.ended_step
    times = "" if told.last is None or told.last.opening < 2 else f", {told.last.opening} times"
    return _span(min(begins, default=None), last) + times


def _when(member: _Member) -> str:
    spans = [_span(*span) for span in member.spans]
    more = f" and {len(spans) - MAX_SPANS} more times" if len(spans) > MAX_SPANS else ""
    return ", ".join(spans[:MAX_SPANS]) + more


def _span(begin: int | None, end: int | None) -> str:
    since = "from the start" if begin is None else f"since step {begin}"
    return since if end is None or begin is None else f"steps {begin} to {end}"


def _plain(text: str) -> str:
    """Names come from files: nothing that could steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
