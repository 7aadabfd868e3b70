"""Whether the evaluation falls away from the reward that is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.rewards.correlation import Correlation, pearson
from rlhfd_daemon.rewards.overoptimisation import GoldFit, GoldLaw

__all__ = ["Evaluated", "gold", "judge_evaluations"]

_DROP = 0.05  # of the gain


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
    """Kind, severity, text, value and limit of an issue, if the run has gone past what its reward is good for."""
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
