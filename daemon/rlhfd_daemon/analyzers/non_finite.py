"""NaN and infinity: never normal in a training metric, and from one step to the next the whole run is lost."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

from rlhfd_alerts.canonical import spell
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.dispatch import Watch
from rlhfd_daemon.analyzers.series import Evidence, SeriesTable, at_step, labels
from rlhfd_daemon.config import NonFiniteConfig
from rlhfd_daemon.sample import Happening, Sample

RULE = "non_finite"
# OpenRLHF issues 1120, 528 and 288 and PR 1240: DeepSpeed skips every optimizer step from then on without a word.
REMEDY = (
    "Stop the run: optimizer steps on NaN gradients are skipped or spoil the weights. Look at the reward function's "
    "or reward model's output for this step, then resume from the last checkpoint written before it "
    "(--ckpt.load_enable). If the reward was finite, lower --actor.adam.lr or use --ds.param_dtype bf16."
)


class _Series:
    __slots__ = ("_active", "_clear_after", "_evidence", "_finite", "_onset_step", "_onset_time")

    def __init__(self, clear_after: int) -> None:
        self._clear_after = clear_after
        self._active = False
        self._finite = 0
        self._onset_step: int | None = None
        self._onset_time = 0.0
        self._evidence = Evidence()

    def observe(self, sample: Sample) -> Iterable[Finding]:
        value = sample.value
        self._evidence.add(sample)
        if isfinite(value):
            return () if not self._active else self._calms_down(sample)
        self._finite = 0
        if self._active:
            return ()
        self._active, self._onset_step, self._onset_time = True, sample.step, sample.time
        return (self._finding(sample, f"{sample.name} became {spell(value)} {at_step(sample.step)}"),)

    def _calms_down(self, sample: Sample) -> Iterable[Finding]:
        self._finite += 1
        if self._finite < self._clear_after:
            return ()
        self._active = False
        return (self._finding(sample, f"{sample.name} is finite again {at_step(sample.step)}"),)

    def _finding(self, sample: Sample, summary: str) -> Finding:
        return Finding(
            run=sample.run,
            boot=sample.boot,
            rule=RULE,
            family="nonfinite",
            metric=sample.name,
            severity=Severity.CRITICAL,
            active=self._active,
            step=sample.step,
            time=sample.time,
            value=sample.value,
            baseline=None,
            onset_step=self._onset_step,
            onset_time=self._onset_time,
            summary=summary,
            remedy=REMEDY,
            evidence=self._evidence.values(),
            labels=labels(sample),
        )


class NonFinite:
    """Begins with the first non-finite value of a series, ends after ``clear_after`` finite ones in a row."""

    def __init__(self, config: NonFiniteConfig) -> None:
        self._series: SeriesTable[_Series] = SeriesTable(lambda: _Series(config.clear_after))

    def watch(self, first: Sample) -> Watch | None:
        series = self._series.get(first)
        return None if series is None else series.observe

    def observe(self, sample: Sample) -> Iterable[Finding]:
        series = self._series.get(sample)
        return () if series is None else series.observe(sample)

    def happened(self, event: Happening) -> Iterable[Finding]:
        return ()

    def tick(self, now: float) -> Iterable[Finding]:
        return ()

    def forget(self, run: str, boot: str) -> None:
        self._series.forget(run, boot)
