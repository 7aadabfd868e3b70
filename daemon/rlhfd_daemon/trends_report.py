"""What `rlhfd check --trends` adds: how every metric went, as a table or as one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rich.text import Text

from rlhfd_alerts.canonical import spell
from rlhfd_daemon.analyzers.moments import Direction
from rlhfd_daemon.analyzers.trends import WHOLE, Trend, Trends

__all__ = ["lines", "objects"]

MAX_SHOWN = 3  # windows of a metric, the newest; --json has all
NAME_WIDTH = 44
ARROWS: dict[Direction, str] = {"increasing": "↗", "decreasing": "↘", "stable": "→"}


def objects(trends: Trends) -> Iterator[dict[str, object]]:
    """The object of each line of `--json`; numbers that are not finite are texts, as in alerts."""
    for one in _all(trends):
        yield {
            "kind": "trend",
            "run": one.run,
            "metric": one.metric,
            "role": one.role,
            "rank": one.rank,
            "window": one.window,
            "first_step": one.first_step,
            "last_step": one.last_step,
            "count": one.count,
            "mean": spell(one.mean),
            "std": spell(one.std),
            "min": spell(one.min),
            "max": spell(one.max),
            "slope": spell(one.slope),
            "direction": one.direction,
        }


def lines(trends: Trends) -> Iterator[Text]:
    """The table: of each metric the newest windows, then the whole run."""
    found = list(_all(trends))
    if not found:
        return
    name_width = min(NAME_WIDTH, max(len(_title(one, found)) for one in found))
    width = max(len(one.window) for one in found)
    numbers = "".join(f"{title:>11}" for title in ("mean", "std", "min", "max", "per step"))
    yield Text(f"{'':<{name_width}}  {'':<{width}}{numbers}", "bold")
    for _, group in groupby(found, key=lambda one: (one.run, one.role, one.rank, one.metric)):
        windows = list(group)
        shown = windows[-MAX_SHOWN - 1 :] if windows[-1].window == WHOLE else windows[-MAX_SHOWN:]
        title = _title(windows[0], found)[:NAME_WIDTH]
        for one in shown:
            values = "".join(f"{value:>11.4g}" for value in (one.mean, one.std, one.min, one.max, one.slope))
            yield Text(f"{title:<{name_width}}  {one.window:<{width}}{values}  {ARROWS[one.direction]} {one.direction}")
            title = ""
    yield Text("")


def _all(trends: Trends) -> Iterable[Trend]:
    return (trend for run, boot in trends.launches for trend in trends.table(run, boot))


def _title(one: Trend, found: Sequence[Trend]) -> str:
    """The metric, and whose it is where the log has several processes."""
    several = len({(trend.role, trend.rank) for trend in found}) > 1
    whose = f" ({one.role}{'' if one.rank is None else f' {one.rank}'})" if several else ""
    return "".join(char if char.isprintable() else " " for char in one.metric + whose)
