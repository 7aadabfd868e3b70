"""The report of `rlhfd reward` as one HTML file that needs no network: plotly's own JavaScript is in it.

Everything that comes from the file is escaped: text as HTML, numbers as JSON without ``<``. The charts have names of
ours only, since plotly reads some markup in texts.
"""

from __future__ import annotations

import html
import importlib.resources
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from rlhfd_daemon.errors import DaemonError
from rlhfd_daemon.reward_report import cell_text, extent
from rlhfd_daemon.rewards.analysis import Analysis
from rlhfd_daemon.rewards.facts import Table, tables
from rlhfd_daemon.rewards.issues import KINDS, Issue

__all__ = ["charts", "page"]

_MAX_POINTS = 2000
_BARS = 40
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
table{border-collapse:collapse;margin:.5em 0}th,td{padding:.15em .7em;border-bottom:1px solid #ddd;text-align:right}
th:first-child,td:first-child,td.text{text-align:left}.note{color:#666}.chart{height:320px}
.critical{color:#b00020}.warning{color:#a15c00}.info{color:#00639b}.issue{margin:1em 0}
@media (prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}.note{color:#aaa}
.critical{color:#ff7b8a}.warning{color:#ffb454}.info{color:#6cc4ff}}
"""
_DRAW = """
const dark = matchMedia("(prefers-color-scheme:dark)").matches;
for (const chart of JSON.parse(document.getElementById("charts").textContent)) {
  const layout = Object.assign({margin: {l: 60, r: 20, t: 40, b: 45}, paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)", font: {color: dark ? "#ddd" : "#222"}, legend: {orientation: "h"}}, chart.layout);
  Plotly.newPlot(chart.id, chart.data, layout, {displaylogo: false, responsive: true});
}
"""


def page(analysis: Analysis, path: str, damages: int) -> str:
    """The whole page. :raises DaemonError: plotly is not installed."""
    drawn = charts(analysis)
    body = "".join((
        f"<h1>Reward of {html.escape(path)}</h1>",
        f"<p>{analysis.overview.samples} samples, {damages} damaged places skipped.</p>",
        *_issues(analysis.issues()),
        *(f'<div class="chart" id="{chart["id"]}"></div>' for chart in drawn),
        *map(_table, tables(analysis)),
    ))  # fmt: skip
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Reward of {html.escape(path)}</title><style>{_STYLE}</style>"
        f"<script>{_plotly()}</script></head><body>{body}"
        f'<script type="application/json" id="charts">{_embedded(drawn)}</script><script>{_DRAW}</script></body></html>'
    )


def _plotly() -> str:
    try:
        source = importlib.resources.files("plotly") / "package_data" / "plotly.min.js"
        return source.read_text("utf-8").replace("</script", "<\\/script")
    except (ImportError, OSError) as error:
        raise DaemonError("--html needs plotly: pip install 'rlhfd[daemon]'") from error


def _embedded(value: Any) -> str:
    """JSON that no HTML parser takes for markup."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")


def _issues(issues: Sequence[Issue]) -> Iterator[str]:
    if not issues:
        yield "<p>Nothing found.</p>"
    for issue in issues:
        yield (
            f'<div class="issue"><b class="{issue.severity.value}">{issue.severity.value.upper()}</b> '
            f"<b>{html.escape(issue.summary)}</b><br>{html.escape(issue.kind)}, {html.escape(extent(issue))}<br>"
            f"{html.escape(KINDS[issue.kind].remedy)}</div>"
        )


def _table(table: Table) -> str:
    used = [at for at in range(len(table.columns)) if any(row[at] is not None for row in table.rows)]
    head = "".join(f"<th>{html.escape(table.columns[at].replace('_', ' '))}</th>" for at in used)
    rows = "".join(
        "<tr>" + "".join(
            f"<td{' class=text' if isinstance(row[at], str) else ''}>{html.escape(cell_text(row[at]))}</td>"
            for at in used
        ) + "</tr>"
        for row in table.rows
    )  # fmt: skip
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    return f"<h2>{html.escape(table.title)}</h2><table><tr>{head}</tr>{rows}</table>{note}"


def charts(analysis: Analysis) -> list[dict[str, Any]]:
    """What to draw, as plotly takes it; numbers are finite or ``None``."""
    found = [_course(analysis), _spread(analysis), _others(analysis), _reliability(analysis), _gold(analysis)]
    return [chart for chart in found if chart["data"]]


def _chart(name: str, title: str, data: list[dict[str, Any]], x: str, y: str) -> dict[str, Any]:
    layout = {"title": {"text": title}, "xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    return {"id": name, "data": data, "layout": layout}


def _line(name: str, x: Sequence[float], y: Sequence[float | None], **more: Any) -> dict[str, Any]:
    clean = [None if value is None or not math.isfinite(value) else value for value in y]
    return {"type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": clean, **more}


def _course(analysis: Analysis) -> dict[str, Any]:
    rows, x = _rows(analysis)
    data = []
    if len(rows) > 1:
        edges = [[row.reward + sign * (row.std or 0.0) if row.reward is not None else None for row in rows]
                 for sign in (-1, 1)]  # fmt: skip
        faint = {"line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
        data = [
            _line("", x, edges[0], **faint),
            _line("one standard deviation", x, edges[1], **faint, fill="tonexty"),
            _line("reward", x, [row.reward for row in rows]),
        ]
        if any(row.eval_reward is not None for row in rows):
            data.append(
                _line("evaluation", x, [row.eval_reward for row in rows], connectgaps=True, mode="lines+markers")
            )
    return _chart("course", "Mean reward by step", data, "step", "reward")


def _others(analysis: Analysis) -> dict[str, Any]:
    rows, x = _rows(analysis)
    data = []
    if len(rows) > 1 and any(row.dead_ratio is not None for row in rows):
        data.append(_line("groups without variance", x, [row.dead_ratio for row in rows]))
    if len(rows) > 1 and any(row.missing for row in rows):
        data.append(_line("missing rewards", x, [row.missing / row.count if row.count else None for row in rows]))
    return _chart("others", "Shares by step", data, "step", "share")


def _rows(analysis: Analysis) -> tuple[list[Any], list[float]]:
    """At most two thousand steps."""
    rows = analysis.overview.steps.rows
    rows = rows[:: max(1, math.ceil(len(rows) / _MAX_POINTS))]
    return rows, [at if row.step is None else row.step for at, row in enumerate(rows)]


def _spread(analysis: Analysis) -> dict[str, Any]:
    windows = [("first window", analysis.reference), ("last window", analysis.latest)]
    rewards = {name: window.rewards for name, window in windows if window is not None and window.rewards}
    data = []
    if rewards:
        low, high = min(map(min, rewards.values())), max(map(max, rewards.values()))
        bins = {"start": low, "end": high, "size": (high - low) / _BARS or 1.0}
        data = [
            {"type": "histogram", "histnorm": "probability", "name": name, "x": values, "xbins": bins, "opacity": 0.6}
            for name, values in rewards.items()
        ]
    chart = _chart("spread", "Distribution of the reward", data, "reward", "share")
    chart["layout"]["barmode"] = "overlay"
    return chart


def _reliability(analysis: Analysis) -> dict[str, Any]:
    found = analysis.overview.calibration()
    data = []
    if found is not None:
        bins = found[0].bins
        data = [
            _line("observed", [one.predicted for one in bins], [one.observed for one in bins], mode="lines+markers"),
            _line("perfect", [0, 1], [0, 1], line={"dash": "dot"}),
        ]
    return _chart("reliability", "Reliability", data, "predicted probability", "observed share")


def _gold(analysis: Analysis) -> dict[str, Any]:
    fit = analysis.overview.gold()
    data = []
    if fit is not None:
        known = [(math.sqrt(row.kl), row.eval_reward) for row in analysis.overview.steps.rows
                 if row.kl is not None and row.kl > 0 and row.eval_reward is not None]  # fmt: skip
        far = max(distance for distance, _ in known)
        x = [far * at / 100 for at in range(101)]
        data = [
            _line("evaluation", [one for one, _ in known], [other for _, other in known], mode="markers"),
            _line("fit", x, [fit.at(distance) for distance in x]),
        ]
    return _chart("gold", "Evaluation by distance from the reference policy", data, "sqrt(KL)", "evaluation")
