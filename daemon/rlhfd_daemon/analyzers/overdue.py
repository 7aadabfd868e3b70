"""Checkpoints that used to come at a steady interval of steps and no longer do. Live only: logs do not hold them."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.dispatch import Watch
from rlhfd_daemon.config_analyzers import AbsenceConfig
from rlhfd_daemon.sample import Happening, Sample

__all__ = ["RULE", "Checkpoints", "NoCheckpoint"]

RULE = "no_checkpoint"
REMEDY = (
    "Look at the log of the process that saves and at the free space below --ckpt.path (disk/<device>/free_bytes); "
    "--ckpt.save_steps says how often it should, --ckpt.max_num and --ckpt.max_mem how many are kept. Until one is "
    "written, a crash costs everything since the last."
)
PHASES = frozenset({"checkpoint", "save_model"})
MAX_RUNS = 4096
WATCHED = 3  # series of it
INTERVALS = 2  # alike, before they are a habit
KEPT = 5
JITTER = 0.2  # of an interval, at least one step: a rank saves a little before or after the trainer says its step

_Run = tuple[str, str]


class Checkpoints:
    """Those of one run as one of its processes, the ``writer``, writes them; ``last`` is the step of the newest."""

    def __init__(self, writer: tuple[str, int | None, object]) -> None:
        self.writer = writer
        self.last: int | None = None
        self.is_overdue = False
        self._intervals: list[int] = []

    def written(self, step: int) -> None:
        """One was written at ``step``."""
        if self.last is not None and step > self.last and not self.is_overdue:
            self._intervals = [*self._intervals, step - self.last][-KEPT:]
        elif self.last is not None and step < self.last:  # resumed
            self._intervals = []
        self.last = step

    @property
    def interval(self) -> int | None:
        """Steps from one to the next; ``None`` without a habit."""
        if len(self._intervals) < INTERVALS:
            return None
        usual = median(self._intervals)
        steady = all(abs(one - usual) <= max(1.0, JITTER * usual) for one in self._intervals)
        return round(usual) if steady else None

    def is_late(self, step: int, intervals: int) -> bool:
        """Whether the next one should have come more than ``intervals`` intervals before ``step``."""
        interval = self.interval
        return interval is not None and self.last is not None and step - self.last - interval > intervals * interval


class NoCheckpoint:
    """Begins when the next checkpoint is late, ends with it."""

    def __init__(self, config: AbsenceConfig) -> None:
        self._intervals = config.checkpoint_intervals
        self._runs: dict[_Run, Checkpoints] = {}
        self._steps: dict[_Run, int] = {}
        self._leaders: dict[_Run, tuple[str, int | None]] = {}  # whose step is the run's: who was first to say one
        self._watched: dict[_Run, int] = {}

    def watch(self, first: Sample) -> Watch | None:
        key = (first.run, first.boot)
        if first.step is None or (key not in self._leaders and len(self._leaders) >= MAX_RUNS):
            return None
        leader = self._leaders.setdefault(key, (first.role, first.rank))
        watched = self._watched.get(key, 0)
        if leader != (first.role, first.rank) or watched >= WATCHED:
            return None
        self._watched[key] = watched + 1
        return self.observe

    def observe(self, sample: Sample) -> Iterable[Finding]:
        step, key = sample.step, (sample.run, sample.boot)
        if step is None or step == self._steps.get(key):
            return ()
        self._steps[key] = step
        known = self._runs.get(key)
        if known is None or known.is_overdue or not known.is_late(step, self._intervals):
            return ()
        known.is_overdue = True
        text = (
            f"no checkpoint since step {known.last}, at step {step} now; they used to come every {known.interval} steps"
        )
        return (_finding(key, known, step, sample.time, text),)

    def happened(self, event: Happening) -> Iterable[Finding]:
        if event.name != "phase_end" or event.fields.get("phase") not in PHASES or event.fields.get("error"):
            return ()
        key = (event.run, event.boot)
        step = self._steps.get(key) if event.step is None else event.step  # model actors do not know their step
        if step is None:
            return ()
        writer = (event.role, event.rank, event.fields["phase"])
        known = self._runs.setdefault(key, Checkpoints(writer))
        if known.writer != writer:
            return ()
        known.written(step)
        if not known.is_overdue:
            return ()
        known.is_overdue = False
        return (_finding(key, known, step, event.time, "a checkpoint has been written again"),)

    def tick(self, now: float) -> Iterable[Finding]:
        return ()

    def forget(self, run: str, boot: str) -> None:
        for known in (self._runs, self._steps, self._leaders, self._watched):
            known.pop((run, boot), None)


def _finding(key: _Run, known: Checkpoints, step: int, time: float, text: str) -> Finding:
    since = known.last if known.last is not None else step
    return Finding(
        run=key[0],
        boot=key[1],
        rule=RULE,
        family="checkpoint",
        metric="checkpoint",
        severity=Severity.WARNING,
        active=known.is_overdue,
        step=step,
        time=time,
        value=float(step - since),
        baseline=None if known.interval is None else float(known.interval),
        onset_step=since + (known.interval or 0),
        onset_time=time,
        summary=text,
        remedy=REMEDY,
        labels=(("role", known.writer[0]),),
    )
