"""Labelled logs, and the alerts that analyzers give for them, on the way that `rlhfd check` takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detecting.scoring import Alarm, Label, alarms
from rlhfd_alerts.alert import Transition
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_daemon.analyzers import Analyzer, build
from rlhfd_daemon.check import Check, Feed, alert_of
from rlhfd_daemon.config import AnalyzersConfig
from rlhfd_daemon.pipeline import Pipeline
from rlhfd_daemon.traces import Naming, Row, RowTrace, find

__all__ = ["FIXTURES", "Analyzers", "Log", "checked", "labelled", "listened", "ours"]

FIXTURES = Path(__file__).parents[1] / "fixtures" / "traces"
Analyzers = Callable[[], Sequence[Analyzer]]


@dataclass(frozen=True)
class Log:
    """A labelled run: a file, or rows that were made up."""

    label: Label
    path: Path | None = None
    made: Callable[[], Iterable[Row]] = tuple

    def rows(self) -> Iterable[Row]:
        if self.path is None:
            return self.made()
        trace = find(self.path)
        assert isinstance(trace, RowTrace)
        return trace.rows(lambda _damaged: None)


def labelled(root: Path = FIXTURES) -> Iterator[Log]:
    """The logs of every folder of ``root`` with a labels.json."""
    for listing in sorted(root.glob("*/labels.json")):
        for entry in json.loads(listing.read_text()):
            path = listing.parent / entry["file"]
            label = Label(
                name=path.name.removesuffix(".jsonl.gz"),
                group=_group(entry),
                steps=entry["steps"],
                fault=entry["fault"],
                onset=entry["onset_step"],
            )
            yield Log(label, path)


def _group(entry: Mapping[str, Any]) -> str:
    if not entry["synthetic"]:
        return "openrlhf"
    name = str(entry["file"])
    return "long" if "_long" in name else "scaled" if "_scaled" in name else "generated"


def ours() -> Sequence[Analyzer]:
    """The analyzers as a daemon without configuration has them."""
    return build(AnalyzersConfig())


def checked(path: Path) -> list[Mapping[str, Any]]:
    """The objects that `rlhfd check --json` prints."""
    check = Check(path, AnalyzersConfig())
    return [alert_of(transition, check.has_times) for transition in check.transitions()]


def listened(log: Log, analyzers: Analyzers | None = None) -> list[Alarm]:
    """What the analyzers say of a log; ``None``: those of `rlhfd check` itself, where there is a file."""
    if analyzers is None and log.path is not None:
        return list(alarms(checked(log.path)))
    feed = Feed(Pipeline((analyzers or ours)(), Lifecycle()), Naming(), run=log.label.name)
    decided: list[Transition] = []
    for row in log.rows():
        decided += feed.take(row)
    return list(alarms(alert_of(transition, True) for transition in decided))
