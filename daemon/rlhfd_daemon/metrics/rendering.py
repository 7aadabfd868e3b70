"""The table as docs/metrics.md, for a terminal, and one row in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from rlhfd_daemon.metrics.metric import KeyRange, Metric
from rlhfd_daemon.metrics.table import GROUPS, TABLE

__all__ = ["entry", "markdown", "table"]

HEAD = """\
# Metrics

<!-- Rendered by `rlhfd metrics --markdown`; change daemon/rlhfd_daemon/metrics instead. -->

Every metric that OpenRLHF's PPO, SFT, reward-model and DPO trainers log. PPO stands for GRPO, RLOO and REINFORCE++ too.
A metric's name is the key of today's OpenRLHF with its `train/` or `eval/`. Versions were read in the tags 0.5.0 to
0.11.0 and the releases 0.11.1 and 0.11.2.

- **Units** are those after normalisation. `ratio` is 0 to 1; `nats_per_token` is a mean over response tokens; `1` has
  no unit. What a version logs in another unit is converted, and a value that says nothing, such as the 0 that stands
  for "not measured", becomes unknown.
- **Computed in** is the class of the process that makes the value. PPO's values are all logged by `PPOTrainer`, in
  async runs by `TrainingActor`.
- **Healthy** is what public runs without a fault show. It is no threshold.
- **TRL, verl**: the same quantity in the same unit there (TRL 1.16 and its older PPO trainer; verl 0.9). Keys that are
  merely similar are left out.
- Reward functions and agents may add keys of their own by `extra_logs`: those pass through as they are.
"""


def markdown(groups: dict[str, tuple[Metric, ...]] = GROUPS) -> str:
    """The page docs/metrics.md, with a final newline."""
    return "\n".join([HEAD, *(line for title, rows in groups.items() for line in _section(title, rows))])


def _section(title: str, rows: Sequence[Metric]) -> Iterator[str]:
    yield f"## {title}\n"
    yield "| Metric | Unit | Meaning | Computed in | OpenRLHF | TRL | verl |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        cells = (
            f"`{row.name}`",
            row.unit,
            "<br>".join(_paragraphs(row)),
            row.role,
            "<br>".join(_versions(key, row) for key in row.keys),
            _codes(row.aliases_trl),
            _codes(row.aliases_verl),
        )
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _paragraphs(row: Metric) -> Iterator[str]:
    yield row.meaning
    if row.healthy:
        yield f"*Healthy:* {row.healthy}."
    if row.source:
        yield f"*Source:* {row.source}."


def _codes(keys: Sequence[str]) -> str:
    return "<br>".join(f"`{key}`" for key in keys)


def _versions(key: KeyRange, row: Metric) -> str:
    if row.origin == "rlhfd":
        return "rlhfd"
    since = f"{key.first} to {key.last}" if key.last else f"since {key.first}"
    named = since if key.key == row.name else f"`{key.key}` {since}"
    return f"{named}; {key.note}" if key.note else named


def table(rows: Sequence[Metric] = TABLE) -> Table:
    """All rows for a terminal: name, unit, versions, meaning."""
    grid = Table(box=None, pad_edge=False)
    for title in ("METRIC", "UNIT", "OPENRLHF", "MEANING"):
        grid.add_column(title, no_wrap=title in ("UNIT",), overflow="fold")
    for row in rows:
        logged = ", ".join(f"{key.first}-{key.last or ''}" for key in row.keys)
        since = logged if row.origin == "openrlhf" else "rlhfd"
        grid.add_row(*(text.replace("[", r"\[") for text in (row.name, row.unit, since, row.meaning)))
    return grid


def entry(row: Metric) -> str:
    """One row in lines of ``what: value``; what is empty is left out."""
    lines = {
        "metric": row.name,
        "unit": row.unit,
        "meaning": row.meaning,
        "computed in": row.role,
        "OpenRLHF": "; ".join(_versions(key, row) for key in row.keys),
        "TRL": ", ".join(row.aliases_trl),
        "verl": ", ".join(row.aliases_verl),
        "healthy": row.healthy,
        "source": row.source,
    }
    return "\n".join(f"{what + ':':<13}{value}" for what, value in lines.items() if value)
