"""Rules that say what a missing value means: looked at for every step that has passed without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import nan

from rlhfd_alerts.finding import Finding
from rlhfd_daemon.rules.plan import Plan, Reader
from rlhfd_daemon.rules.watching import Look, Run, Series
from rlhfd_daemon.sample import Sample

__all__ = ["missed"]

MAX_LOOKS = 500  # as many as a rule can remember


def missed(run: Run, name: str, boot: str, now: float) -> Iterator[Finding]:
    """What the steps without a value begin and end. A step is over when a later one of the same process has begun."""
    seen: set[Plan] = set()
    for (role, rank, metric), series in run.series.items():
        looks = [] if series is None else [one for one in series.looks if one.plan.rule.missing != "unknown"]
        seen.update(look.plan for look in looks)
        if series is not None and looks and series.history.step is not None:
            sample = Sample(name, boot, role, rank, series.process.step, metric, nan, now, 0)
            yield from _looked(series, looks, sample, series.history.step)
    for plan in run.plans.by_absence:
        if plan not in seen:
            yield from _never_seen(run, plan, name, boot, now)
        elif plan in run.never_seen:
            begun = run.never_seen.pop(plan)[0].looks[0].begun
            if begun is not None:
                yield replace(begun, active=False, time=now, summary=f"{plan.metric} has come")


def _looked(series: Series, looks: Sequence[Look], sample: Sample, since: int) -> Iterator[Finding]:
    new = 0 if sample.step is None else sample.step - 1 - since - series.missed
    if new <= 0:
        return
    series.missed += new
    series.history.is_finite = False
    for _ in range(min(new, MAX_LOOKS)):
        for look in looks:
            for found in look.looked(look.plan.rule.missing == "alert", series, sample):
                yield replace(found, value=None, summary=f"{found.summary}; it has no value since step {since + 1}")


def _never_seen(run: Run, plan: Plan, name: str, boot: str, now: float) -> Iterator[Finding]:
    """A metric that has not come in this run at all, looked at by the process that has come furthest."""
    process = run.newest
    if process is None or process.step is None or plan.rule.missing != "alert":
        return
    if plan not in run.never_seen:
        run.never_seen[plan] = (Series(run, plan.metric, Reader([plan], [], []), process), process.step - 1)
    series, since = run.never_seen[plan]
    sample = Sample(name, boot, process.role, process.rank, process.step, plan.metric, nan, now, 0)
    yield from _looked(series, series.looks, sample, since)
