"""A judged checkpoint as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from rlhfd_alerts.finding import Severity
from rlhfd_alerts.text import one_line
from rlhfd_daemon.checkpoints.health import KINDS, Issue
from rlhfd_daemon.checkpoints.judgement import Judgement
from rlhfd_daemon.checkpoints.report import Report
from rlhfd_daemon.checkpoints.statistics import TensorStatistics

__all__ = ["history", "lines"]

SHOWN = 10  # issues of one kind
ZEROS = 0.05  # a share that is worth a word
_SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}
_STYLES = {Severity.CRITICAL: "bold red", Severity.WARNING: "yellow", Severity.INFO: "cyan", None: "green"}


def lines(one: Report, width: int) -> Iterator[Text]:
    """What is known of it, worst first; paths and names in files cannot change the terminal."""
    found = one.found
    about = [
        found.kind,
        found.role,
        None if found.step is None else f"step {found.step}",
        "best" if found.best else None,
    ]
    about.append(f"{found.size / 1e6:.1f} MB in {len(found.parts)} files")
    yield Text(one_line(one.path), style="bold")
    yield Text("  " + ", ".join(part for part in about if part))
    label = "healthy" if one.severity is None else one.severity.value
    yield Text(f"  health {one.score:.3f} ({label})", style=_STYLES[one.severity])
    state = one.inventory.state
    if state is not None:
        step = state.client.get("global_step")
        said = {
            "global step": step if isinstance(step, int) else None,
            "optimizer steps": state.global_steps, "skipped": state.skipped_steps, "ZeRO": state.zero_stage,
            "data-parallel ranks": state.dp_world_size, "loss scale": state.loss_scale,
            "learning rate": state.learning_rates[0] if state.learning_rates else None,
        }  # fmt: skip
        yield Text("  " + ", ".join(f"{name} {value:g}" for name, value in said.items() if value is not None))
    yield from _table(one)
    if one.compared is not None and one.examined.comparisons:
        yield Text(f"  since {one_line(one.compared)}: {_drift(one)}")
    yield from _issues(one.issues)


def history(boot: str, found: Sequence[Judgement]) -> Iterator[Text]:
    """A line for each judgement of one launch, oldest first."""
    yield Text(f"launch {one_line(boot)}", style="bold")
    yield Text(
        f"  {'step':>8}  {'of':6}{'format':10}{'health':>7}{'MB':>10}{'norm':>10}{'update':>9}  issues", style="dim"
    )
    for one in found:
        answer = one.answer
        severity = None if answer.severity is None else Severity(answer.severity)
        numbers = "".join(
            f"{'' if value is None else f'{value:.3g}':>{width}}"
            for value, width in ((answer.norm, 10), (answer.relative_update, 9))
        )
        issues = ", ".join(f"{issue.count} {issue.kind} ({one_line(issue.subject)[:60]})" for issue in answer.issues)
        step, size = "" if one.step is None else one.step, f"{answer.bytes / 1e6:,.1f}"
        yield Text(
            f"  {step:>8}  {one.role or 'model':6}{one.format:10}{answer.score:7.3f}{size:>10}{numbers}  {issues}",
            style=_STYLES[severity] if severity is not None else "",
        )


def _table(one: Report) -> Iterator[Text]:
    """A line for each group; it fits into 80 columns unless something is wrong."""
    yield Text(f"  {'':26}{'elements':>14}{'mean':>10}{'std':>9}{'min':>9}{'max':>9}", style="dim")
    for (kind, group), found in sorted(one.examined.groups.items()):
        name = f"{kind} {group} {_SHORT.get(found.dtype, found.dtype)}"
        numbers = zip((found.mean, found.std, found.min, found.max), (10, 9, 9, 9), strict=True)
        told = "".join(f"{'' if value is None else f'{value:.2g}':>{space}}" for value, space in numbers)
        yield Text(f"  {name:26}{found.elements:>14,}{told}{_odd(found)}")


def _odd(one: TensorStatistics) -> str:
    ratio = one.zero_ratio
    zeros = f"{100 * ratio:.2g} % zero" if ratio and ratio > ZEROS else ""
    found = (zeros, f"{one.nan:,} NaN" if one.nan else "", f"{one.infinite:,} infinite" if one.infinite else "")
    return "".join(f"  {part}" for part in found if part)


def _drift(one: Report) -> str:
    found = [each for key, each in one.examined.comparisons.items() if key[0] in ("weight", "master")]
    updates = sorted(each.relative_update for each in found if each.relative_update is not None)
    unchanged = sum(each.unchanged for each in found)
    middle = f", median relative update {updates[len(updates) // 2]:.3g}, largest {updates[-1]:.3g}" if updates else ""
    return f"{len(found)} tensors compared, {unchanged} unchanged{middle}"


def _issues(issues: tuple[Issue, ...]) -> Iterator[Text]:
    ordered = sorted(KINDS, key=lambda name: -KINDS[name].severity.rank)
    for name in ordered:
        chosen = [one for one in issues if one.kind == name]
        if not chosen:
            continue
        kind = KINDS[name]
        yield Text(f"  {kind.severity.value} {kind.rule}: {len(chosen)}", style=_STYLES[kind.severity])
        for one in chosen[:SHOWN]:
            yield Text(f"    {one_line(one.subject)}: {one_line(one.summary)}")
        if len(chosen) > SHOWN:
            yield Text(f"    and {len(chosen) - SHOWN} more")
        yield Text(f"    {kind.remedy}", style="dim")
