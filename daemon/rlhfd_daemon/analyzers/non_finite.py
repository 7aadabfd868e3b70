"""NaN and infinity: never normal in a training metric, and from one step to the next the whole run is lost."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rlhfd_alerts.canonical import spell
from rlhfd_alerts.finding import Finding, Severity
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


class _State:
    __slots__ = ("active", "evidence", "finite", "onset_step", "onset_time")

    def __init__(self) -> None:
        self.active = False
        self.finite = 0
        self.onset_step: int | None = None
        self.onset_time = 0.0
        self.evidence = Evidence()


class NonFinite:
    """Begins with the first non-finite value of a series, ends after ``clear_after`` finite ones in a row."""

    def __init__(self, config: NonFiniteConfig) -> None:
        self._config = config
        self._series: SeriesTable[_State] = SeriesTable(_State)

    def observe(self, sample: Sample) -> Iterable[Finding]:
        state = self._series.get(sample)
        if state is None:
            return ()
        state.evidence.add(sample.step, sample.value)
        if not math.isfinite(sample.value):
            state.finite = 0
            if state.active:
                return ()
            state.active, state.onset_step, state.onset_time = True, sample.step, sample.time
            return (self._finding(sample, state, f"{sample.name} became {spell(sample.value)} {at_step(sample.step)}"),)
        state.finite += 1
        if state.active and state.finite >= self._config.clear_after:
            state.active = False
            return (self._finding(sample, state, f"{sample.name} is finite again {at_step(sample.step)}"),)
        return ()

    def happened(self, event: Happening) -> Iterable[Finding]:
        return ()

    def tick(self, now: float) -> Iterable[Finding]:
        return ()

    def forget(self, run: str, boot: str) -> None:
        self._series.forget(run, boot)

    def _finding(self, sample: Sample, state: _State, summary: str) -> Finding:
        return Finding(
            run=sample.run,
            boot=sample.boot,
            rule=RULE,
            family="nonfinite",
            metric=sample.name,
            severity=Severity.CRITICAL,
            active=state.active,
            step=sample.step,
            time=sample.time,
            value=sample.value,
            baseline=None,
            onset_step=state.onset_step,
            onset_time=state.onset_time,
            summary=summary,
            remedy=REMEDY,
            evidence=state.evidence.values(),
            labels=labels(sample),
        )
