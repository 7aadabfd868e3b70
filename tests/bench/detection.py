"""How well faults are found: recall, delay, false alarms and names on labelled runs, and what it costs.

`python tests/bench/detection.py [--quick] [--json] [--group NAME]`, or `--trace FILE` for the alerts of one run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from detecting.logs import Analyzers, Log, checked, labelled, listened
from detecting.report import finite, per_fault, row, table
from detecting.scoring import GENERATED_FAULTS, Alarm, Label, Verdict, chance, judge
from detecting.summary import summary

CHANCE_STEPS = 300
GROUPS = ("generated", "scaled", "long", "openrlhf")


def main() -> None:
    options = parsed()
    if options.trace:
        show(options.trace)
        return
    logs = [log for log in labelled() if options.group in (None, log.label.group)]
    if options.quick:
        logs = [log for log in logs if log.label.group != "long"]
    result = scored(logs, None, options)
    if options.json:
        print(json.dumps(result, indent=1))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without long runs, baselines and costs")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--group", choices=GROUPS)
    parser.add_argument("--trace", type=Path, metavar="FILE", help="the alerts of one run against its label")
    return parser.parse_args()


def scored(logs: Sequence[Log], analyzers: Analyzers | None, options: argparse.Namespace) -> dict[str, Any]:
    """Judge every log, print what was not asked for as JSON, and return all of it."""
    began = time.process_time()
    found = [(log.label, listened(log, analyzers)) for log in logs]
    spent = time.process_time() - began
    verdicts = [judge(label, alarms) for label, alarms in found]
    result: dict[str, Any] = {"cpu_seconds": round(spent, 2)}
    for group in dict.fromkeys(log.label.group for log in logs):
        mine = [one for one in verdicts if one.label.group == group]
        by_chance = chanced(found, group)
        whole, faults = summary(mine), per_fault(mine)
        result[group] = {"chance": by_chance, **finite({"all": whole, **faults})}
        if not options.json:
            lines = [row("all", whole, by_chance), *(row(name, one) for name, one in faults.items())]
            print(f"\n{group}", *table(lines), *missed(mine), sep="\n")
    if not options.json:
        print(f"\n{spent:.1f} s of CPU for {sum(log.label.steps for log in logs)} steps")
    return result


def chanced(found: Sequence[tuple[Label, list[Alarm]]], group: str) -> float:
    healthy = [(label, alarms) for label, alarms in found if label.group == group and label.fault is None]
    return chance([one for one in healthy if one[0].steps == CHANCE_STEPS], GENERATED_FAULTS, CHANCE_STEPS // 2 + 1)


def missed(verdicts: Sequence[Verdict]) -> list[str]:
    """A line for each run that was not judged as one would wish."""
    lines = []
    for one in verdicts:
        if one.label.is_scored and one.label.detectable and not one.named:
            first = "nothing" if one.first is None else f"{one.first.family} by {one.first.rule} {one.first.metric}"
            lines.append(f"  {one.label.name}: {first}")
        if one.false_episodes:
            lines.append(f"  {one.label.name}: {one.false_episodes} false episodes in {one.label.clean_steps} steps")
    return lines


def show(path: Path) -> None:
    """The alerts of one run, and where its label has the fault."""
    label = next((log.label for log in labelled() if log.path and log.path.name == path.name), None)
    lines = checked(path)
    onset = None if label is None else label.onset
    before = [one for one in lines if onset is None or int(one["step"] or 0) < onset]
    print(*map(told, before), sep="\n")
    if label is not None and onset is not None:
        print(f"------ {label.fault} since step {onset}", *map(told, lines[len(before) :]), sep="\n")


def told(line: Mapping[str, Any]) -> str:
    return (
        f"{line['step']!s:>6} {line['state']:<8} {line['severity']:<8} {line['family']:<10} {line['rule']:<24} "
        f"{line['episode']:<20} since {line['onset_step']}: {line['summary']}"
    )


if __name__ == "__main__":
    main()
