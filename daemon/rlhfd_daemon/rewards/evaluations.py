"""Whether the evaluation falls away from the reward that is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import sqrt
from statistics import fmean
from typing import Protocol

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.rewards.correlation import Correlation, pearson
from rlhfd_daemon.rewards.overoptimisation import GoldFit, GoldLaw

__all__ = ["Evaluated", "gold", "judge_evaluations"]

_DROP = 0.05  # of the gain
_LEAST, _SURE = 3, 4.0


class Evaluated(Protocol):
    """The means of a step, or of the steps since the last evaluation; ``kl`` in nats, unknown is ``None``."""

    @property
    def reward(self) -> float | None: ...
    @property
    def kl(self) -> float | None: ...
    @property
    def eval_reward(self) -> float | None: ...


def gold(rows: Sequence[Evaluated]) -> GoldFit | None:
    """Gao's law, from the rows that have both an evaluation and KL."""
    law = GoldLaw()
    for row in rows:
        if row.eval_reward is not None and row.kl is not None:
            law.add(row.kl, row.eval_reward)
    return law.fit()


def judge_evaluations(rows: Sequence[Evaluated]) -> Iterator[tuple[str, Severity, str, float, float]]:
    """Kind, severity, text, value and limit of an issue, if the run has gone past what its reward is good for. A fitted
    fall alone is none: the form has a peak, an evaluation that has merely stopped to rise has not."""
    if not _has_fallen([row.eval_reward for row in rows if row.eval_reward is not None]):
        return
    fit = gold(rows)
    if fit is not None and fit.peak is not None and fit.passed and _proxy_holds(rows):
        top, now = fit.at(fit.peak), fit.at(fit.now)
        if top - now > max(_DROP * (top - fit.start), fit.residual):
            text = (
                f"the evaluation's fitted peak was at sqrt(KL) {fit.peak:.3g}, the run is at {fit.now:.3g}: "
                f"{top:.4g} then, {now:.4g} now"
            )
            yield "over_optimised", Severity.CRITICAL, text, fit.now, fit.peak
            return
    falls = _diverges(rows)
    if falls is not None:
        text = f"in the second half the reward rises and the evaluation falls (r with step {falls.r:.2f})"
        yield "over_optimised", Severity.CRITICAL, text, falls.r, 0.0


def _has_fallen(values: Sequence[float]) -> bool:
    """Whether the last eighth (three and more) is lower than the best such stretch by what chance does not explain, and
    by a twentieth of what had been gained. Chance is judged by the changes from one to the next."""
    size = max(_LEAST, len(values) // 8)
    if len(values) < 2 * size:
        return False
    means = [fmean(values[at : at + size]) for at in range(len(values) - size + 1)]
    noise = sqrt(fmean((after - before) ** 2 for before, after in pairwise(values)) / 2)
    fall = max(means) - means[-1]
    return fall > max(_SURE * noise * sqrt(2 / size), _DROP * (max(means) - means[0]))


def _later(rows: Sequence[Evaluated], name: str) -> Correlation | None:
    """The correlation with the step, over the second half of the evaluations."""
    known = [row for row in rows if row.eval_reward is not None and row.reward is not None]
    known = known[len(known) // 2 :]
    return pearson([float(at) for at in range(len(known))], [getattr(row, name) for row in known], 3.3)


def _proxy_holds(rows: Sequence[Evaluated]) -> bool:
    found = _later(rows, "reward")
    return found is None or found.high > 0


def _diverges(rows: Sequence[Evaluated]) -> Correlation | None:
    proxy, evaluation = _later(rows, "reward"), _later(rows, "eval_reward")
    both = proxy is not None and evaluation is not None and proxy.low > 0 and evaluation.high < 0
    return evaluation if both else None
