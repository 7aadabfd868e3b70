"""What can be wrong with a reward: the table of kinds, and an issue of one kind over a stretch of samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rlhfd_alerts.finding import Severity

__all__ = ["KINDS", "Issue", "Kind", "merged"]


@dataclass(frozen=True, slots=True)
class Kind:
    """``meaning`` for whoever reads the table, ``remedy`` for whoever has the issue, ``source`` of its limit."""

    meaning: str
    remedy: str
    source: str


@dataclass(frozen=True, slots=True)
class Issue:
    """One kind of trouble in the samples ``first`` to ``last`` (numbers in the file, from 0) of the steps named;
    ``value`` against ``limit`` is what decided, the worst of the stretch."""

    kind: str
    severity: Severity
    summary: str
    value: float
    limit: float
    first: int = 0
    last: int = 0
    first_step: int | None = None
    last_step: int | None = None


_READ = "Read samples of these steps: what is longer, repeated or off topic and yet rewarded is the hole. "

KINDS: dict[str, Kind] = {
    "missing": Kind(
        "rewards that are missing, NaN or infinite",
        "Let the reward function return a defined reward on errors; look at the reward service (--reward.remote_url) "
        "and its log.",
        "agent.py of OpenRLHF swallows the error; more than 1 % is critical",
    ),
    "failed": Kind(
        "reward calls that failed", "Look at the reward service and its log; OpenRLHF tries five times, then goes on.",
        "any",
    ),
    "late": Kind(
        "reward calls that took longer than the deadline",
        "Give the reward service more replicas (--reward.remote_url takes several, comma-separated).",
        "1 % of the calls; OpenRLHF gives up after 180 s",
    ),
    "constant": Kind(
        "rewards without variance",
        "The reward tells answers no longer apart, and nothing is learnt: look for errors that became a constant.",
        "all samples of a window",
    ),
    "saturated": Kind(
        "rewards at the clip range, or piled up at their extreme",
        "Rescale the reward or normalise it (--reward.normalize_enable), or widen --reward.clip_range.",
        "5 % of the samples; the number is our choice",
    ),
    "outliers": Kind(
        "rewards far from all others",
        "Look at these samples; clip (--reward.clip_range) or mend the scorer: one such reward rules its whole batch.",
        "20 robust standard deviations, or 8 for 1 % of the samples; our choice",
    ),
    "repeated_value": Kind(
        "one value that many samples share and did not before",
        "Look for a default on errors, a cache or a time limit in the scorer.",
        "5 % of the samples, beyond chance (1e-6), four times as often as before",
    ),
    "out_of_range": Kind(
        "a scorer of few values that gives values far outside of those it had",
        "The scale of the reward was changed: find out which scorer answers, and go back.",
        "twice the range of the frozen window",
    ),
    "shifted": Kind(
        "the distribution changes from one window to the next",
        "Find what changed at that step: reward service, its model or template, the prompts' mix. Probe it with "
        "rlhfd reward probe.",
        "Kolmogorov-Smirnov D > 0.35 with p < 1e-6 between neighbouring windows",
    ),
    "drifted": Kind(
        "the distribution is no longer that of the frozen window",
        "Learning moves it, too: compare with the evaluation. The same answers must still get the same score "
        "(rlhfd reward probe).",
        "PSI > 0.25 (Siddiqi 2006) and beyond chance (Yurdakul 2018)",
    ),
    "spread_changed": Kind(
        "the spread of a scorer with continuous values has changed",
        "A scorer with another scale, noise or clipping: probe it with rlhfd reward probe.",
        "a factor of 2 with p < 1e-6 (Brown and Forsythe 1974) between neighbouring windows, or of 5 since the start",
    ),
    "follows_length": Kind(
        "longer answers get more reward",
        _READ + "Penalise length (--reward.overlong_buffer_len), or train the reward model on pairs of equal length.",
        "r > 0.25, critical from 0.4 (RLDK's limits), for the whole 99.9 % interval",
    ),
    "follows_repetition": Kind(
        "repetitive answers get more reward", _READ + "Penalise repetition in the reward function.",
        "r > 0.25, critical from 0.4, as for length",
    ),
    "follows_kl": Kind(
        "the reward pays for leaving the reference policy",
        _READ + "Raise --algo.kl.init_coef or lower --actor.adam.lr.",
        "r > 0.25, critical from 0.4, as for length",
    ),
    "advantage_reversed": Kind(
        "advantages go against the rewards",
        "The sign of the reward or the advantage is wrong: stop, the policy learns the opposite.",
        "the estimator's definition (experience_maker.py)",
    ),
    "advantage_weak": Kind(
        "advantages do not follow the rewards as their estimator defines",
        "KL, clipping or a penalty outweighs the reward (--algo.kl.init_coef, --reward.clip_range), or prompts and "
        "samples are paired wrongly (--rollout.n_samples_per_prompt).",
        "the estimator's definition (experience_maker.py)",
    ),
    "advantage_off_centre": Kind(
        "advantages of a prompt's group do not have mean 0",
        "Groups are cut across batches, or samples were dropped after the baseline was taken.",
        "the estimator's definition (experience_maker.py)",
    ),
    "dead_groups": Kind(
        "prompts whose answers all get the same reward",
        "Take harder or easier prompts, more --rollout.n_samples_per_prompt, or --algo.dynamic_filtering_enable.",
        "half of the groups, critical from 0.9; Yu et al. 2025 (DAPO), arXiv:2503.14476; numbers ours",
    ),
    "unstable": Kind(
        "the reward jumps from step to step more than its samples explain",
        "The scorer, or the mix of prompts, is another one from step to step: look for replicas of different versions.",
        "16 times the variance that the samples explain, with p < 1e-6",
    ),
    "inconsistent": Kind(
        "the same answer gets different scores",
        "Make the scorer deterministic: temperature 0, evaluation mode (no dropout), the same model in all replicas.",
        "5 % of the variance is noise, critical from 20 %; our choice",
    ),
    "reordered": Kind(
        "normalisation puts answers in another order",
        "Normalise by one increasing function for all samples; look for clipping and for statistics per batch.",
        "rank correlation below 0.99",
    ),
    "over_optimised": Kind(
        "the reward that is trained on rises, the one that is not falls",
        "Stop at the best evaluation (--ckpt.best_metric_key), raise --algo.kl.init_coef, or train a new reward model "
        "on the policy's answers.",
        "Gao et al. 2023, arXiv:2210.10760: the fitted peak has passed by two standard errors",
    ),
    "uncalibrated": Kind(
        "scores are no probabilities of the labels",
        "Calibrate the reward model before its scores are compared with a threshold; for the ranking alone look at "
        "the area under the curve.",
        "ECE > 0.12 (RLDK's limit)",
    ),
    "label_agreement_lost": Kind(
        "good answers no longer score above bad ones as they did",
        "The scorer has changed or is being exploited: re-score old answers (rlhfd reward probe) and read new ones.",
        "area under the curve lower by 0.1 than in the frozen window, and by 5 standard errors",
    ),
}  # fmt: skip


def merged(issues: Iterable[Issue]) -> list[Issue]:
    """Issues of one kind whose stretches touch or overlap become one, with the worst of them; in order of beginning,
    the most severe first."""
    found: list[Issue] = []
    last: dict[str, int] = {}
    for issue in sorted(issues, key=lambda one: one.first):
        at = last.get(issue.kind)
        if at is not None and issue.first <= found[at].last + 1:
            found[at] = _joined(found[at], issue)
        else:
            last[issue.kind] = len(found)
            found.append(issue)
    return sorted(found, key=lambda one: (-one.severity.rank, one.first))


def _joined(one: Issue, other: Issue) -> Issue:
    worst = max((one, other), key=lambda issue: (issue.severity.rank, abs(issue.value - issue.limit)))
    later = other if other.last >= one.last else one
    return replace(worst, first=one.first, first_step=one.first_step, last=later.last, last_step=later.last_step)
