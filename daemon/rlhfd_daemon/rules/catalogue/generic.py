"""A metric that leaves its own course: for every metric, by what it did before."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import ENTROPY, INFO, OURS, WARNING

__all__ = ["ROWS"]

COMPARE = (
    "The alert says for the metric what to look at. Compare with the run's other metrics at the onset step: the one "
    "that moved first is the likely cause."
)
PAGE = "Page 1954, Continuous Inspection Schemes; limits by kind of metric, see docs/detection.md"

ROWS = (
    row(
        "level_change", "A metric has another level", "custom", WARNING,
        analyzer="adaptive", metrics=("*",),
        summary="{metric} is {value}, where another level was to be expected",
        remedy=COMPARE, source=PAGE, false_positives="A change of data or settings that was intended.",
    ),
    row(
        "trend_change", "A metric has another trend", "custom", WARNING,
        analyzer="adaptive", metrics=("*",),
        summary="{metric} rises or falls to {value}, away from its course",
        remedy=COMPARE, source=PAGE, false_positives="A change of data or settings that was intended.",
    ),
    row(
        "spikes", "A metric spikes again and again", "custom", WARNING,
        analyzer="adaptive", metrics=("*",),
        summary="{metric} spikes again and again",
        remedy=COMPARE, source=PAGE,
    ),
    row(
        "spread_change", "A metric scatters more than before", "custom", INFO,
        analyzer="adaptive", metrics=("*",),
        summary="{metric} scatters far more than before",
        remedy=COMPARE, source=PAGE,
    ),
    row(
        "entropy_floor", "Entropy will reach its floor", "entropy", INFO,
        analyzer="forecast", metrics=(ENTROPY,),
        explains=("entropy_vanished", "entropy_low", "dead_groups"),
        summary="at its pace the entropy is used up soon",
        remedy="Raise --actor.entropy_coef, the upper clip bound (--actor.eps_clip_low_high) or "
        "--rollout.temperature in time, or end the run when the reward no longer rises.",
        source=f"Cui et al. 2025, arXiv:2505.22617; {OURS}",
    ),
)  # fmt: skip
