"""How well faults are found: recall, delay, false alarms and names on labelled runs, and what it costs.

`python tests/bench/detection.py [--quick] [--json] [--group NAME]`, or `--trace FILE` for the alerts of one run.
In brackets: 90 % intervals, by drawing the runs again. The labelled runs are in tests/fixtures/traces; those of the
group held-out are made up by tests/detecting/generator.py, which no detector was tuned on, and healthy batches of one
to eight samples by tests/detecting/small_batches.py, with a seed that no rule was chosen on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from detecting.baselines import BASELINES
from detecting.costs import costs
from detecting.logs import checked, labelled
from detecting.measure import compared, heard, measured
from detecting.planted import held_out
from detecting.report import comparison, cost_lines, plain, section
from detecting.small_batches import small_batches

GROUPS = ("generated", "scaled", "long", "openrlhf", "held-out", "small-batches")
SMALL_RUNS, SMALL_STEPS, SMALL_SEED = 64, 600, 2026


def main() -> None:
    options = parsed()
    if options.trace:
        show(options.trace)
    else:
        run(options)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs, neither baselines nor costs")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--group", choices=GROUPS, help="these runs only")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="the alerts of one run against its label")
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    """Measure what was asked for; tables are printed as they come."""
    tell = no_lines if options.json else lines
    logs = [*labelled(), *held_out(every=3 if options.quick else 1)]
    logs += small_batches(SMALL_RUNS, SMALL_STEPS, SMALL_SEED)
    wanted = {options.group} if options.group else set(GROUPS) - ({"long"} if options.quick else set())
    logs = [log for log in logs if log.label.group in wanted]
    ours = heard(logs)
    groups = list(measured(ours))
    result: dict[str, Any] = {one.group: plain(one) for one in groups}
    for one in groups:
        tell(section(one))
    if not options.quick:
        beside = list(compared(logs, ours, BASELINES))
        result["beside"] = [{"by": name, "group": one.group, **plain(one)} for name, one in beside]
        tell(comparison(beside))
        cost = costs()
        result["costs"] = plain(cost)
        tell(cost_lines(cost))
    if options.json:
        print(json.dumps(result, indent=1))


def lines(text: Any) -> None:
    print(*text, sep="\n", flush=True)


def no_lines(text: Any) -> None:
    pass


def show(path: Path) -> None:
    """The alerts of one run, and where its label has the fault."""
    label = next((log.label for log in labelled() if log.path and log.path.name == path.name), None)
    found = checked(path)
    onset = None if label is None else label.onset
    before = [one for one in found if onset is None or int(one["step"] or 0) < onset]
    lines(map(told, before))
    if label is not None and onset is not None:
        print(f"------ {label.fault} since step {onset}")
        lines(map(told, found[len(before) :]))


def told(line: Mapping[str, Any]) -> str:
    return (
        f"{line['step']!s:>6} {line['state']:<8} {line['severity']:<8} {line['family']:<10} {line['rule']:<24} "
        f"{line['episode']:<20} since {line['onset_step']}: {line['summary']}"
    )


if __name__ == "__main__":
    main()
