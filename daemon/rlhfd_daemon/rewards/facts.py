"""What the analysis of a file has found, as tables: for a terminal, a page and a program alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from rlhfd_daemon.rewards.analysis import Analysis
from rlhfd_daemon.rewards.correlation import spearman
from rlhfd_daemon.rewards.drift import ks, psi
from rlhfd_daemon.rewards.issues import KINDS, Issue
from rlhfd_daemon.rewards.judge_relations import RELATED, fit_of, groups_in, related
from rlhfd_daemon.rewards.values import validity
from rlhfd_daemon.rewards.window import Window

__all__ = ["Table", "issue_object", "tables"]

Cell = str | float | int | None
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_MAX_PROMPTS = 10


@dataclass(frozen=True, slots=True)
class Table:
    """``key`` names it in JSON, ``columns`` its cells; ``note`` says how to read it."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def objects(self) -> list[dict[str, Cell]]:
        """One mapping for each row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def issue_object(issue: Issue) -> dict[str, Any]:
    """An issue for a program."""
    return {
        "kind": issue.kind,
        "severity": issue.severity.value,
        "summary": issue.summary,
        "remedy": KINDS[issue.kind].remedy,
        "value": issue.value,
        "limit": issue.limit,
        "first_step": issue.first_step,
        "last_step": issue.last_step,
        "first_sample": issue.first,
        "last_sample": issue.last,
    }


def tables(analysis: Analysis) -> list[Table]:
    """All tables that have a row."""
    found = [
        _reward(analysis),
        _windows(analysis),
        _relations(analysis),
        _advantages(analysis),
        _scorer(analysis),
        _dead_prompts(analysis),
        _evaluation(analysis),
        _calibration(analysis),
    ]
    return [table for table in found if table.rows]


def _reward(analysis: Analysis) -> Table:
    all_of = analysis.overview
    count = all_of.moments.count
    rows: list[tuple[Cell, ...]] = [
        ("samples", all_of.samples),
        ("missing", all_of.missing),
        ("not_finite", all_of.not_finite),
        ("failed", all_of.failed),
    ]
    if count:
        rows += [("mean", all_of.moments.x), ("std", (all_of.moments.xx / count) ** 0.5)]
        rows += [(f"p{100 * share:g}", all_of.quantiles.quantile(share)) for share in _QUANTILES]
    note = f"ranks of quantiles are within {all_of.quantiles.error:.1%} of the count"
    return Table("reward", "Reward, all samples", ("name", "value"), tuple(rows), note)


def _both(analysis: Analysis) -> Iterator[tuple[str, Window]]:
    if analysis.reference is not None:
        yield "first", analysis.reference
    if analysis.latest is not None and analysis.count > len(analysis.latest.samples):
        yield "last", analysis.latest


def _windows(analysis: Analysis) -> Table:
    described = {name: _described(window) for name, window in _both(analysis)}
    first, last = described.get("first", {}), described.get("last", {})
    rows: list[tuple[Cell, ...]] = [(name, first[name], last.get(name)) for name in first]
    if last and analysis.reference is not None and analysis.latest is not None:
        before, now = analysis.reference.rewards, analysis.latest.rewards
        if before and now:
            distance, index = ks(before, now), psi(before, now)
            rows += [("ks", None, distance.statistic), ("ks_p", None, distance.p_value)]
            rows += [("psi", None, index.statistic), ("psi_p", None, index.p_value)]
    note = "icc: share of the variance between prompts; PSI below 0.1 is stable, from 0.25 on shifted"
    return Table("windows", "The first window and the last", ("name", "first", "last"), tuple(rows), note)


def _described(window: Window) -> dict[str, Cell]:
    rewards, groups = window.rewards, groups_in(window)
    return {
        "samples": len(window.samples),
        "mean": fmean(rewards) if rewards else None,
        "std": pstdev(rewards) if rewards else None,
        "levels": len(set(rewards)),
        "bad_ratio": validity([one.reward for one in window.samples]).bad_ratio,
        "dead_group_ratio": groups.dead_ratio if groups.count else None,
        "icc": groups.icc if groups.count > 1 else None,
    }


def _relations(analysis: Analysis) -> Table:
    columns = ("window", "with", "inside_each", "r", "low", "high", "spearman", "samples")
    rows: list[tuple[Cell, ...]] = []
    for name, window in _both(analysis):
        for column in RELATED:
            having = window.having(column)
            found = related(having, column)
            if found is None:
                continue
            one, strata = found
            rank = spearman([getattr(sample, column) for sample in having], [sample.reward or 0.0 for sample in having])
            rows.append((name, column, strata, one.r, one.low, one.high, None if rank is None else rank.r, one.count))
    note = "r inside strata with its 95 % interval; Spearman's over all samples of the window"
    return Table("relations", "What the reward goes with", columns, tuple(rows), note)


def _advantages(analysis: Analysis) -> Table:
    columns = ("window", "estimator", "r", "at_least", "kl_held_fixed", "off_centre", "fault")
    rows: list[tuple[Cell, ...]] = []
    for name, window in _both(analysis):
        fit = fit_of(window, analysis.settings.estimator)
        if fit is not None:
            held = "yes" if fit.with_kl else "no"
            rows.append((name, fit.estimator, fit.r, fit.needed, held, fit.off_centre, fit.fault))
    return Table("advantages", "Advantages against rewards", columns, tuple(rows))


def _scorer(analysis: Analysis) -> Table:
    rows: list[tuple[Cell, ...]] = []
    whole = analysis.overview
    stable, same, normal = whole.stability(), whole.consistency(), whole.normalisation()
    if stable is not None:
        rows.append(("stability", stable.stability, f"over {stable.steps} steps; 1 is what chance gives"))
    if same is not None:
        rows.append(("consistency", same.consistency, f"{same.repeated} answers scored again, {same.differing} differ"))
    if normal is not None:
        rows.append(("normalisation_slope", normal.slope, f"{normal.slope_low:.4g} to {normal.slope_high:.4g} by step"))
        rows.append(("normalisation_order", normal.order, "rank correlation before and after"))
    return Table("scorer", "The scorer", ("name", "value", "detail"), tuple(rows))


def _dead_prompts(analysis: Analysis) -> Table:
    found = analysis.overview.dead_prompts()
    rows = tuple((prompt, seen) for prompt, seen in found.most_common(_MAX_PROMPTS))
    note = f"{len(found)} prompts never had two different rewards in one group, seen in two steps and more"
    return Table("dead_prompts", "Prompts that teach nothing", ("prompt", "steps"), rows, note)


def _evaluation(analysis: Analysis) -> Table:
    fit = analysis.overview.gold()
    rows: list[tuple[Cell, ...]] = []
    if fit is not None:
        rows = [
            ("alpha", fit.alpha), ("beta", fit.beta), ("start", fit.start), ("residual", fit.residual),
            ("evaluations", fit.count), ("sqrt_kl_now", fit.now), ("sqrt_kl_at_peak", fit.peak),
            ("peak_has_passed", "yes" if fit.passed else "no"),
        ]  # fmt: skip
    note = "R(d) = start + d (alpha - beta log d), d = sqrt(KL); Gao et al. 2023, arXiv:2210.10760"
    return Table("evaluation", "Reward against evaluation", ("name", "value"), tuple(rows), note)


def _calibration(analysis: Analysis) -> Table:
    found = analysis.overview.calibration()
    columns = ("from", "to", "samples", "predicted", "observed")
    if found is None:
        return Table("calibration", "Calibration", columns, ())
    one, how = found
    area = "unknown" if one.auc is None else f"{one.auc:.3f}"
    note = f"ECE {one.ece:.3f}, Brier {one.brier:.3f}, area under the curve {area}; scores as probabilities: {how}"
    rows = tuple((each.low, each.high, each.count, each.predicted, each.observed) for each in one.bins)
    return Table("calibration", "Calibration", columns, rows, note)
