"""Judges of the rewards as such: each takes a window, what came before it, and says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import fmean, pstdev

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.rewards.drift import PSI_LARGE, ks, psi, spread
from rlhfd_daemon.rewards.issues import Issue
from rlhfd_daemon.rewards.values import (
    FAR,
    VERY_FAR,
    Validity,
    new_repeats,
    outliers,
    saturation,
    validity,
)
from rlhfd_daemon.rewards.window import Settings, Window

__all__ = ["judge_changes", "judge_levels", "judge_validity"]

CHANCE = 1e-6
LEAST = 32  # samples
_SATURATED = 0.05
_LATE = 0.01
_BAD = 0.01
_OUTLYING, _OTHERS = 0.01, 0.1
_SHIFT = 0.35
_SPREAD_AT_ONCE, _SPREAD = 2.0, 5.0


def judge_validity(window: Window, settings: Settings) -> Iterator[Issue]:
    """Missing, failed, NaN, late."""
    samples = window.samples
    found = validity(
        [one.reward for one in samples],
        [one.failed for one in samples],
        [one.latency_seconds for one in samples],
        settings.deadline_seconds,
    )
    if found.bad_ratio > 0:
        severity = Severity.CRITICAL if found.bad_ratio > _BAD else Severity.WARNING
        yield window.placed(partial(Issue, "missing", severity, _bad(found), found.bad_ratio, _BAD))
    if found.failed:
        ratio = found.failed / found.count
        severity = Severity.CRITICAL if ratio > _BAD else Severity.WARNING
        text = f"{found.failed} of {found.count} reward calls failed"
        yield window.placed(partial(Issue, "failed", severity, text, ratio, _BAD))
    if found.late > _LATE * found.count:
        ratio = found.late / found.count
        text = f"{found.late} of {found.count} reward calls took longer than {settings.deadline_seconds:g} s"
        yield window.placed(partial(Issue, "late", Severity.WARNING, text, ratio, _LATE))


def _bad(found: Validity) -> str:
    parts = {"missing": found.missing, "NaN": found.nan, "infinite": found.infinite}
    named = ", ".join(f"{count} {name}" for name, count in parts.items() if count)
    return f"of {found.count} samples {named}"


def judge_levels(window: Window, settings: Settings) -> Iterator[Issue]:
    """No variance, pile-ups, outliers; needs nothing to compare with."""
    rewards = window.rewards
    if len(rewards) < LEAST:
        return
    if min(rewards) == max(rewards):
        text = f"all {len(rewards)} rewards are {rewards[0]:g}"
        yield window.placed(partial(Issue, "constant", Severity.CRITICAL, text, 0.0, 0.0))
        return
    piled = saturation(rewards, settings.clip)
    if piled is not None:
        for ratio, at, end in ((piled.low_ratio, piled.low, "lower"), (piled.high_ratio, piled.high, "upper")):
            if ratio > _SATURATED:
                where = f"the {end} end of the clip range" if piled.known else f"their {end} extreme"
                text = f"{ratio:.1%} of the rewards are at {where}, {at:g}"
                yield window.placed(partial(Issue, "saturated", Severity.WARNING, text, ratio, _SATURATED))
    far = outliers(rewards, FAR)
    # More than a tenth are no outliers, but a second kind of answers.
    few = far is not None and far.ratio <= _OTHERS
    if far is not None and few and (far.deviations >= VERY_FAR or far.ratio > _OUTLYING):
        text = (
            f"a reward of {far.value:.4g} is {far.deviations:.0f} robust deviations away; {far.ratio:.1%} are far out"
        )
        yield window.placed(partial(Issue, "outliers", Severity.WARNING, text, far.deviations, VERY_FAR))


def judge_changes(window: Window, reference: Window, previous: Window) -> Iterator[Issue]:
    """Against the frozen first window, and against the window before."""
    now, first, before = window.rewards, reference.rewards, previous.rewards
    if min(len(now), len(first), len(before)) < LEAST:
        return
    for one in new_repeats(first, now):
        text = f"{one.ratio:.1%} of the rewards are exactly {one.value:g}, before {one.before_ratio:.1%}"
        yield window.placed(partial(Issue, "repeated_value", Severity.WARNING, text, one.ratio, 0.05))
    yield from _out_of_range(window, reference)
    step = ks(before, now)
    if step.statistic > _SHIFT and step.p_value < CHANCE:
        text = f"rewards of mean {fmean(before):.4g} before and {fmean(now):.4g} now (KS D {step.statistic:.2f})"
        yield window.placed(partial(Issue, "shifted", Severity.WARNING, text, step.statistic, _SHIFT))
    moved = psi(first, now)
    if moved.statistic > PSI_LARGE and moved.p_value < CHANCE:
        against = ks(first, now)
        text = (
            f"rewards of mean {fmean(first):.4g} at first and {fmean(now):.4g} now "
            f"(PSI {moved.statistic:.2f}, KS D {against.statistic:.2f}, p {against.p_value:.1g})"
        )
        yield window.placed(partial(Issue, "drifted", Severity.INFO, text, moved.statistic, PSI_LARGE))
    if not (window.graded or reference.graded or previous.graded):
        yield from _spread(window, reference, previous)


def _out_of_range(window: Window, reference: Window) -> Iterator[Issue]:
    if not (window.graded and reference.graded):
        return
    low, high = min(reference.rewards), max(reference.rewards)
    reach = (high - low) or max(1.0, abs(high))
    outside = [value for value in window.rewards if value > high + reach or value < low - reach]
    if len(outside) > _SATURATED * len(window.rewards):
        worst = max(outside, key=abs)
        text = f"rewards of {worst:g}, where they were from {low:g} to {high:g} at first"
        yield window.placed(partial(Issue, "out_of_range", Severity.WARNING, text, abs(worst), high + reach))


def _spread(window: Window, reference: Window, previous: Window) -> Iterator[Issue]:
    for other, limit, since in ((previous, _SPREAD_AT_ONCE, "before"), (reference, _SPREAD, "at first")):
        found = spread(other.rewards, window.rewards)
        ratio = found.ratio
        if ratio is None or found.p_value >= CHANCE or 1 / limit < ratio < limit:
            continue
        text = f"standard deviation {pstdev(window.rewards):.4g}, {since} {pstdev(other.rewards):.4g}"
        yield window.placed(partial(Issue, "spread_changed", Severity.WARNING, text, ratio, limit))
        return
