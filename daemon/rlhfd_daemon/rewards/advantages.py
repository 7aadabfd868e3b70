"""What advantages must look like, given the rewards and the estimator that OpenRLHF made them with.

From ``experience_maker.py`` of OpenRLHF 0.11.2, for a sample whose reward is r in a prompt's group of n, with gamma 1
and no KL in the reward (then a sample's advantage is the same at all its tokens):

=================== ============================================== ==========================================
estimator           advantage                                      so, when healthy
=================== ============================================== ==========================================
group_norm          (r - mean) / (std + 1e-9), std with n - 1      r = 1 in each group, mean 0, std 1
dr_grpo             r - mean                                       r = 1 in each group, mean 0, slope 1
rloo                r - mean of the others = (r - mean) n/(n - 1)  r = 1 in each group, mean 0, slope n/(n-1)
reinforce_baseline  r - mean, then whitened over all tokens        r = 1 in each group, one slope in a step
reinforce           r, whitened over all tokens                    r = 1 in a step, one slope in it
gae                 r - value, discounted; whitened                r > 0 in a step; 1 only if values are flat
=================== ============================================== ==========================================

The clip range applies after the group's baseline. KL in the reward takes ``kl_coef`` times the KL from there on away
at each token, so that the correlation falls below 1; it is then judged with the KL held fixed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from rlhfd_daemon.rewards.correlation import Correlation, partial, within
from rlhfd_daemon.rewards.groups import grouped

__all__ = ["ESTIMATORS", "AdvantageFit", "Estimator", "fit_advantages", "recognise"]

_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Estimator:
    """``by_group``: the correlation is looked at inside each prompt's group, else inside each step. ``exact`` is the
    least correlation without KL in the reward, ``with_kl`` with it (and with whitening over tokens)."""

    name: str
    by_group: bool
    centred: bool
    whitened: bool
    exact: float
    with_kl: float


ESTIMATORS: dict[str, Estimator] = {
    one.name: one
    for one in (
        Estimator("group_norm", True, True, False, 0.99, 0.7),
        Estimator("dr_grpo", True, True, False, 0.99, 0.7),
        Estimator("rloo", True, True, False, 0.99, 0.7),
        Estimator("reinforce_baseline", True, False, True, 0.99, 0.7),
        Estimator("reinforce", False, False, True, 0.99, 0.7),
        Estimator("gae", False, False, True, 0.0, 0.0),
    )
}


@dataclass(frozen=True, slots=True)
class AdvantageFit:
    """``correlation`` inside the estimator's strata (with KL held fixed where ``with_kl``), ``needed`` the least that
    is healthy, ``off_centre`` the median over groups of |mean| over the spread of all advantages (0 is healthy where
    the estimator centres each group; ``None`` where it does not)."""

    estimator: str
    correlation: Correlation
    r: float
    needed: float
    with_kl: bool
    off_centre: float | None

    @property
    def fault(self) -> str | None:
        """``"reversed"``, ``"weak"``, ``"off_centre"``, or ``None``."""
        if self.correlation.high < 0 and self.r < 0:
            return "reversed"
        if max(self.r, self.correlation.high if self.needed < 0.9 else self.r) < self.needed:
            return "weak"
        if self.estimator == "gae" and self.correlation.sure <= 0:
            # A critic that knows 94 % of the variance leaves sqrt(1 - 0.94) to the advantages.
            return "weak" if self.correlation.high < 0.25 else None
        if self.off_centre is not None and self.off_centre > 0.1 and not self.with_kl:
            return "off_centre"
        return None


def fit_advantages(
    estimator: str,
    rewards: Sequence[float],
    advantages: Sequence[float],
    steps: Sequence[Hashable],
    prompts: Sequence[Hashable],
    kls: Sequence[float] | None = None,
) -> AdvantageFit | None:
    """Compare with what ``estimator`` makes; the sequences belong together, one item a sample, all finite. ``kls`` are
    those in the reward: ``None``, or all 0, if there are none. ``None`` if too few samples vary.

    :raises KeyError: no such estimator.
    """
    known = ESTIMATORS[estimator]
    groups = list(zip(steps, prompts, strict=True))
    strata: Sequence[Hashable] = groups if known.by_group else steps
    x, y = _scaled(known, rewards, advantages, steps, groups)
    found = within(x, y, strata)
    if found is None:
        return None
    with_kl = kls is not None and any(kls)
    r = found.r
    if with_kl and kls is not None:
        other, third = within(x, kls, strata), within(y, kls, strata)
        if other is not None and third is not None:
            held = partial(found.r, other.r, third.r)
            r = found.r if held is None else held
    off = _off_centre(advantages, groups) if known.centred else None
    return AdvantageFit(estimator, found, r, known.with_kl if with_kl else known.exact, with_kl, off)


def _scaled(
    known: Estimator,
    rewards: Sequence[float],
    advantages: Sequence[float],
    steps: Sequence[Hashable],
    groups: Sequence[Hashable],
) -> tuple[Sequence[float], Sequence[float]]:
    """Where the slope differs from group to group, or by whitening from step to step, that is taken out first."""
    if known.name == "group_norm":
        scale = {key: _std(one) or 1.0 for key, one in grouped(groups, rewards).items()}
        return [one / scale[key] for one, key in zip(rewards, groups, strict=True)], advantages
    if known.whitened:
        strata = groups if known.by_group else steps
        return _by_step(rewards, strata, steps), _by_step(advantages, strata, steps)
    return rewards, advantages


def _by_step(values: Sequence[float], strata: Sequence[Hashable], steps: Sequence[Hashable]) -> list[float]:
    """Deviations from the mean of the stratum in units of their spread in the step."""
    means = {key: fmean(one) for key, one in grouped(strata, values).items()}
    deviations = [value - means[key] for value, key in zip(values, strata, strict=True)]
    spread = {key: _std(one) or 1.0 for key, one in grouped(steps, deviations).items()}
    return [one / spread[key] for one, key in zip(deviations, steps, strict=True)]


def _off_centre(advantages: Sequence[float], groups: Sequence[Hashable]) -> float | None:
    spread = _std(advantages)
    if spread == 0:
        return None
    return median(abs(fmean(one)) for one in grouped(groups, advantages).values()) / spread


def recognise(
    rewards: Sequence[float], advantages: Sequence[float], steps: Sequence[Hashable], prompts: Sequence[Hashable]
) -> str | None:
    """The estimator whose formula gives these advantages, for nine of ten live groups; ``None`` if no formula does
    (``gae``, KL in the reward, another trainer)."""
    slopes: list[tuple[int, float, float]] = []
    groups = list(zip(steps, prompts, strict=True))
    pairs = grouped(groups, zip(rewards, advantages, strict=True))
    for one in pairs.values():
        r, a = [pair[0] for pair in one], [pair[1] for pair in one]
        if len(r) >= 2 and _std(r) > 0:
            low, high = r.index(min(r)), r.index(max(r))
            slopes.append((len(r), _std(r), (a[high] - a[low]) / (r[high] - r[low])))
    if len(slopes) < 4:
        return None
    formulas = {
        "group_norm": [slope * std for _, std, slope in slopes],
        "rloo": [slope * (n - 1) / n for n, _, slope in slopes],
        "dr_grpo": [slope for _, _, slope in slopes],
    }
    centred = (_off_centre(advantages, groups) or 0.0) < _TOLERANCE
    for name, unit in formulas.items():
        if centred and sum(1 for one in unit if abs(one - 1) < _TOLERANCE) >= 0.9 * len(unit):
            return name
    return None


def _std(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = fmean(values)
    return float((sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5)
