"""Absence: a metric that no longer comes with the steps of its process, and one that no longer changes."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.families import family_of
from rlhfd_daemon.analyzers.presence import DORMANT, Key, Process, Together
from rlhfd_daemon.analyzers.series import MAX_SERIES, labels
from rlhfd_daemon.config_analyzers import AbsenceConfig
from rlhfd_daemon.runs import DAEMON_ROLE
from rlhfd_daemon.sample import Happening, Sample

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


class Absence:
    """Common path: two dictionary look-ups a sample. Samples without a step are of no concern."""

    def __init__(self, config: AbsenceConfig) -> None:
        self._config = config
        self._processes: dict[tuple[str, str, str, int | None], Process] = {}
        self._names = 0
        self.refused = 0
        # The samples of a frame share their strings: the process of the last sample is that of most.
        self._run = self._boot = self._role = ""
        self._rank: int | None = None
        self._process = Process()

    def observe(self, sample: Sample) -> Iterable[Finding]:
        step = sample.step
        if step is None:
            return ()
        role, run, boot = sample.role is self._role, sample.run is self._run, sample.boot is self._boot
        is_same = role and run and boot and sample.rank == self._rank
        process = self._process if is_same else self._process_of(sample)
        name = sample.name
        key = process.keys[name] if name in process.keys else self._meet(process, sample)
        if key is None:
            return ()
        found: tuple[Finding, ...] = () if step == process.step else self._turned(process, sample, step)
        turn = process.turn
        since = turn - key.turn
        if since != 1:
            if since == 0:
                return found  # the same step once more
            found += self._came_back(process, key, sample)
        key.turn = turn
        key.seen += 1
        value = sample.value
        if value == key.value:
            key.same += 1
            if key.same == self._config.frozen_steps - 1:
                process.suspects = True
        elif value - value == 0.0:  # finite
            if key.same:
                found += self._moved(key, sample)
            key.changes += 1
            key.value, key.since, key.since_time = value, step, sample.time
        else:
            key.odd += 1
        return found

    def happened(self, event: Happening) -> Iterable[Finding]:
        return ()

    def tick(self, now: float) -> Iterable[Finding]:
        return ()

    def forget(self, run: str, boot: str) -> None:
        for key in [key for key in self._processes if key[:2] == (run, boot)]:
            self._names -= len(self._processes.pop(key).keys)
        self._role = ""

    def _process_of(self, sample: Sample) -> Process:
        key = (sample.run, sample.boot, sample.role, sample.rank)
        process = self._processes.get(key)
        if process is None:
            process = Process()
            if self._names < MAX_SERIES:
                self._processes[key] = process
        self._run, self._boot, self._role, self._rank, self._process = *key, process
        return process

    def _meet(self, process: Process, sample: Sample) -> Key | None:
        """The first time that this process sends this metric."""
        if self._names >= MAX_SERIES:
            self.refused += 1
            return None
        self._names += 1
        name, config = sample.name, self._config
        if sample.role == DAEMON_ROLE or any(fnmatchcase(name, pattern) for pattern in config.ignore):
            process.keys[name] = None
            return None
        return process.watch(Key(name, not any(fnmatchcase(name, pattern) for pattern in config.constant)))

    def _turned(self, process: Process, sample: Sample, step: int) -> tuple[Finding, ...]:
        """A sample of another step than the last one of this process."""
        found: list[Finding] = []
        if process.is_resumed(step):
            found += [_missing(one, sample, active=False) for one in process.gone()]
            found += [_frozen(one, sample, active=False) for one in process.still()]
            process.resume()
        if not process.is_next(step, sample.time):
            return tuple(found)
        config = self._config
        lost = process.missing(config.missing_steps, config.min_history)
        if lost is not None:
            found.append(_missing(lost, sample, active=True))
        still = process.frozen(config.frozen_steps, config.frozen_history) if process.suspects else None
        if still is not None:
            found.append(_frozen(still, sample, active=True))
        return tuple(found)

    def _came_back(self, process: Process, key: Key, sample: Sample) -> tuple[Finding, ...]:
        """A metric after turns without it, or for the first time."""
        absent = process.turn - 1 - key.turn
        gone, key.gone = key.gone, None
        if gone is None:
            if key.turn != DORMANT:
                key.missed += absent
                key.longest = max(key.longest, absent)
            return ()
        gone.waiting -= 1
        return (_missing(gone, sample, active=False),) if gone.waiting == 0 else ()

    def _moved(self, key: Key, sample: Sample) -> tuple[Finding, ...]:
        """Another value after equal ones. Those of a reported standstill are forgotten."""
        same, key.same = key.same, 0
        frozen, key.frozen = key.frozen, None
        if frozen is None:
            return ()
        key.seen -= same
        frozen.waiting -= 1
        return (_frozen(frozen, sample, active=False),) if frozen.waiting == 0 else ()


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
