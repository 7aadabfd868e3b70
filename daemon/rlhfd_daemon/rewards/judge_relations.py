"""Judges of what the reward goes with: length, repetition, KL, advantages, prompts, labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import sqrt

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.rewards.advantages import AdvantageFit, fit_advantages, recognise
from rlhfd_daemon.rewards.calibration import auc, auc_error
from rlhfd_daemon.rewards.correlation import Correlation, within
from rlhfd_daemon.rewards.groups import Groups, grouped, groups_of
from rlhfd_daemon.rewards.issues import Issue
from rlhfd_daemon.rewards.sample import Sample
from rlhfd_daemon.rewards.special import NORMAL_95, NORMAL_999, least_share
from rlhfd_daemon.rewards.window import Settings, Window, group_of, strata_of

__all__ = ["RELATED", "advantage_issue", "fit_of", "follows_issue", "groups_in", "judge_relations", "related"]

RELATED = ("length", "repetition", "kl")
_STRONG, _VERY_STRONG = 0.25, 0.40
_DEAD, _ALMOST_ALL = 0.5, 0.9
_LEAST_GROUPS = 8
_LEAST_LABELS = 20
_LOST, _SURE = 0.1, 5.0
_WHAT = {"length": "length", "repetition": "repetition", "kl": "KL"}
_TEXTS = {
    "reversed": ("advantage_reversed", Severity.CRITICAL),
    "weak": ("advantage_weak", Severity.WARNING),
    "off_centre": ("advantage_off_centre", Severity.WARNING),
}


def judge_relations(window: Window, reference: Window | None, settings: Settings) -> Iterator[Issue]:
    """All of them; only the agreement with labels needs a reference."""
    for name in RELATED:
        found = related(window.having(name), name, NORMAL_999)
        if found is not None:
            yield from follows_issue(window, name, *found)
    fit = fit_of(window, settings.estimator)
    if fit is not None:
        yield from advantage_issue(window, fit)
    yield from _dead(window, reference)
    if reference is not None:
        yield from _labels(window, reference)


def follows_issue(window: Window, name: str, found: Correlation, strata: str) -> Iterator[Issue]:
    """The issue of a reward that goes with ``name``, by its correlation inside ``strata`` with a 99.9 % interval."""
    if found.sure > _STRONG:
        severity = Severity.CRITICAL if found.sure > _VERY_STRONG else Severity.WARNING
        text = f"reward and {_WHAT[name]} correlate within each {strata}: {_told(found)}"
        yield window.placed(partial(Issue, f"follows_{name}", severity, text, found.r, _STRONG))


def advantage_issue(window: Window, fit: AdvantageFit) -> Iterator[Issue]:
    """The issue of advantages that are not what their estimator makes."""
    if fit.fault is not None:
        kind, severity = _TEXTS[fit.fault]
        yield window.placed(partial(Issue, kind, severity, _advantage_text(fit), fit.r, fit.needed))


def related(samples: Sequence[Sample], name: str, z: float = NORMAL_95) -> tuple[Correlation, str] | None:
    """The correlation of the reward with the field ``name`` inside strata (see :func:`window.strata_of`), and which
    these are."""
    live, strata, what = strata_of(samples)
    found = within([getattr(one, name) for one in live], [one.reward or 0.0 for one in live], strata, z)
    return None if found is None else (found, what)


def fit_of(window: Window, estimator: str | None) -> AdvantageFit | None:
    """How the advantages fit their estimator, or the one that is recognised; ``None`` if neither is known."""
    whole = [one for one in window.whole_groups if one.advantage is not None and abs(one.advantage) < float("inf")]
    if len(whole) < _LEAST_GROUPS:
        whole = [one for one in window.having("advantage") if estimator in ("gae", "reinforce")]
    if not whole:
        return None
    rewards, advantages = [one.reward or 0.0 for one in whole], [one.advantage or 0.0 for one in whole]
    steps, prompts = [one.step for one in whole], [one.prompt for one in whole]
    name = estimator or recognise(rewards, advantages, steps, prompts)
    kls = [0.0 if one.kl is None else one.kl * (one.length or 1.0) for one in whole]
    return None if name is None else fit_advantages(name, rewards, advantages, steps, prompts, kls)


def _advantage_text(fit: AdvantageFit) -> str:
    held = ", KL held fixed" if fit.with_kl else ""
    centre = "" if fit.off_centre is None else f"; group means are {fit.off_centre:.2f} of the spread off 0"
    return f"advantages of {fit.estimator} correlate with rewards by {fit.r:.2f}{held}, at least {fit.needed:g}{centre}"


def groups_in(window: Window, best: float | None = None, worst: float | None = None) -> Groups:
    """The prompts' groups of a window."""
    whole = window.whole_groups
    by_group = grouped([group_of(one) for one in whole], [one.reward or 0.0 for one in whole])
    return groups_of(by_group.values(), best, worst)


def _dead(window: Window, reference: Window | None) -> Iterator[Issue]:
    seen = [*window.rewards, *(() if reference is None else reference.rewards)]
    found = groups_in(window, max(seen, default=None), min(seen, default=None))
    if found.count < _LEAST_GROUPS or least_share(found.dead, found.count) <= _DEAD:
        return
    severity = Severity.CRITICAL if found.dead_ratio > _ALMOST_ALL else Severity.WARNING
    text = (
        f"{found.dead} of {found.count} prompts' groups have no variance: {found.dead_best} all at the best reward, "
        f"{found.dead_worst} all at the worst"
    )
    yield window.placed(partial(Issue, "dead_groups", severity, text, found.dead_ratio, _DEAD))


def _labels(window: Window, reference: Window) -> Iterator[Issue]:
    now, before = _area(window), _area(reference)
    if now is None or before is None:
        return
    lost = before[0] - now[0]
    if lost > _LOST and lost > _SURE * sqrt(now[1] ** 2 + before[1] ** 2):
        text = f"a good answer scores above a bad one in {now[0]:.0%} of the pairs, at first in {before[0]:.0%}"
        yield window.placed(partial(Issue, "label_agreement_lost", Severity.CRITICAL, text, lost, _LOST))


def _area(window: Window) -> tuple[float, float] | None:
    labelled = [one for one in window.having() if one.label is not None]
    labels = [bool(one.label) for one in labelled]
    good, bad = sum(labels), len(labels) - sum(labels)
    if min(good, bad) < _LEAST_LABELS:
        return None
    area = auc([one.reward or 0.0 for one in labelled], labels)
    return None if area is None else (area, auc_error(area, good, bad))


def _told(one: Correlation) -> str:
    return f"{one.r:.2f} ({one.low:.2f} to {one.high:.2f}, {one.count} samples)"
