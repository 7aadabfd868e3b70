"""Absence: a metric that no longer comes with the steps of its process, and one that no longer changes."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from math import isfinite

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.dispatch import Watch
from rlhfd_daemon.analyzers.families import family_of
from rlhfd_daemon.analyzers.presence import DORMANT, Key, Process, Together
from rlhfd_daemon.analyzers.series import MAX_SERIES, labels
from rlhfd_daemon.config_analyzers import AbsenceConfig
from rlhfd_daemon.runs import DAEMON_ROLE
from rlhfd_daemon.sample import Happening, Sample, SeriesKey

__all__ = ["FROZEN", "MISSING", "Absence"]

MISSING, FROZEN = "missing_key", "frozen_metric"
MAX_NAMED = 5
MISSING_REMEDY = (
    "Look at the log of the process that computes it (docs/metrics.md says which): an exception that was caught, a "
    "data source that ran dry, or a resume with other options. OpenRLHF logs the entropy only with "
    "--actor.entropy_coef and the critic only with --algo.advantage.estimator gae."
)
FROZEN_REMEDY = (
    "A measurement that repeats itself bit by bit is none: compare with the run's own log. If the trainer logs it so, "
    "look for a reward service that answers the same to everything (--reward.remote_url), a data loader that returns "
    "one batch, or weights that no longer move (--actor.adam.lr, --actor.lr_scheduler)."
)
REPEAT_REMEDY = (
    "Whatever logs for this process sends the same values again, or the loop turns without training: compare with "
    "the run's own log, look whether the data loader still delivers, and resume with --ckpt.load_enable if not."
)


class _Series:
    """What one metric of one process says of itself and of the others."""

    __slots__ = ("_config", "_key", "_process")

    def __init__(self, process: Process, key: Key, config: AbsenceConfig) -> None:
        self._process, self._key, self._config = process, key, config

    def observe(self, sample: Sample) -> Iterable[Finding]:
        step, key, process = sample.step, self._key, self._process
        if step is None:
            return ()
        found = () if step == process.step else self._turned(sample, step)
        turn, value = process.turn, sample.value
        if turn - key.turn != 1:
            if turn == key.turn:
                return found  # the same step once more
            found += self._came_back(sample)
        key.turn = turn
        key.seen += 1
        if value == key.value:
            key.same += 1
            if key.same == self._config.frozen_steps - 1:
                process.suspects = True
        elif isfinite(value):
            if key.same:
                found += self._moved(sample)
            key.changes += 1
            key.value, key.since, key.since_time = value, step, sample.time
        else:
            key.odd += 1
        return found

    def _turned(self, sample: Sample, step: int) -> tuple[Finding, ...]:
        """A sample of another step than the last one of this process."""
        process, config = self._process, self._config
        found: list[Finding] = []
        if process.is_resumed(step):
            found += [_missing(one, sample, active=False) for one in process.gone()]
            found += [_frozen(one, sample, active=False) for one in process.still()]
            process.resume()
        if not process.is_next(step, sample.time):
            return tuple(found)
        lost = process.missing(config.missing_steps, config.min_history)
        if lost is not None:
            found.append(_missing(lost, sample, active=True))
        still = process.frozen(config.frozen_steps, config.frozen_history) if process.suspects else None
        if still is not None:
            found.append(_frozen(still, sample, active=True))
        return tuple(found)

    def _came_back(self, sample: Sample) -> tuple[Finding, ...]:
        """The metric comes after turns without it, or for the first time."""
        key, absent = self._key, self._process.turn - 1 - self._key.turn
        gone, key.gone = key.gone, None
        if gone is None:
            if key.turn != DORMANT:
                key.missed += absent
                key.longest = max(key.longest, absent)
            return ()
        gone.waiting -= 1
        return (_missing(gone, sample, active=False),) if gone.waiting == 0 else ()

    def _moved(self, sample: Sample) -> tuple[Finding, ...]:
        """Another value after equal ones. Those of a reported standstill are forgotten."""
        key = self._key
        same, key.same = key.same, 0
        frozen, key.frozen = key.frozen, None
        if frozen is None:
            return ()
        key.seen -= same
        frozen.waiting -= 1
        return (_frozen(frozen, sample, active=False),) if frozen.waiting == 0 else ()


class Absence:
    """Looks at each process as a whole, step by step; what comes without a step is of no concern."""

    def __init__(self, config: AbsenceConfig) -> None:
        self._config = config
        self._processes: dict[tuple[str, str, str, int | None], Process] = {}
        self._series: dict[SeriesKey, _Series | None] = {}
        self.refused = 0

    def watch(self, first: Sample) -> Watch | None:
        series = self._of(first)
        return None if series is None else series.observe

    def observe(self, sample: Sample) -> Iterable[Finding]:
        series = self._of(sample)
        return () if series is None else series.observe(sample)

    def happened(self, event: Happening) -> Iterable[Finding]:
        return ()

    def tick(self, now: float) -> Iterable[Finding]:
        return ()

    def forget(self, run: str, boot: str) -> None:
        self._processes = {key: one for key, one in self._processes.items() if key[:2] != (run, boot)}
        self._series = {key: one for key, one in self._series.items() if key[:2] != (run, boot)}

    def _of(self, sample: Sample) -> _Series | None:
        name = sample.series
        if name in self._series:
            return self._series[name]
        if len(self._series) >= MAX_SERIES:
            self.refused += 1
            return None
        concerns = sample.step is not None and sample.role != DAEMON_ROLE
        if not concerns or _is_one_of(sample.name, self._config.ignore):
            self._series[name] = None
            return None
        process = self._processes.setdefault(name[:4], Process())
        key = process.watch(Key(sample.name, may_freeze=not _is_one_of(sample.name, self._config.constant)))
        series = self._series[name] = _Series(process, key, self._config)
        return series


def _is_one_of(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _missing(one: Together, sample: Sample, active: bool) -> Finding:
    have = "has" if len(one.names) == 1 else "have"
    text = f"{_named(one)} {have} not come since step {one.onset_step}, while others of the same process keep coming"
    over = f"{_named(one)} {have} come again at step {sample.step}"
    return _finding(MISSING, "data", one, sample, active, text if active else over, MISSING_REMEDY)


def _frozen(one: Together, sample: Sample, active: bool) -> Finding:
    families = {family_of(name) for name in one.names}
    repeats = one.whole and len(families) > 1
    subject = f"all that used to vary ({_named(one)})" if repeats else _named(one)
    held = "has had the same value" if len(one.names) == 1 else "have had the same values"
    text = f"{subject} {held}, bit by bit, since step {one.onset_step}"
    over = f"{_named(one)} changed again at step {sample.step}"
    # One quantity that stands still is that quantity's trouble, several are the trouble of what delivers them.
    family = families.pop() if len(families) == 1 else "data"
    remedy = REPEAT_REMEDY if repeats else FROZEN_REMEDY
    return _finding(FROZEN, family, one, sample, active, text if active else over, remedy)


def _named(one: Together) -> str:
    more = len(one.names) - MAX_NAMED
    return ", ".join(one.names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _finding(rule: str, family: str, one: Together, sample: Sample, active: bool, text: str, remedy: str) -> Finding:
    return Finding(
        run=sample.run,
        boot=sample.boot,
        rule=rule,
        family=family,
        metric=one.names[0],
        severity=Severity.WARNING,
        active=active,
        step=sample.step,
        time=sample.time,
        value=one.value,
        baseline=None,
        onset_step=one.onset_step,
        onset_time=one.onset_time,
        summary=text,
        remedy=remedy,
        evidence=one.evidence,
        labels=labels(sample),
    )
