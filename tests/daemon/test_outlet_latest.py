"""The latest value of everything: bounded, newest launch only, gone some time after a run's end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from recorded import Feed
from rlhfd_daemon.config import GpuConfig, PollersConfig
from rlhfd_daemon.outlets import latest as module
from rlhfd_daemon.outlets.all import lives
from rlhfd_daemon.outlets.latest import Latest
from rlhfd_daemon.runs import DAEMON_ROLE, Runs

NOW = 1_700_000_000.0
Key = tuple[str | None, str | None, int | None, str]


class Store:
    """A store with everything before it."""

    def __init__(self, **bounds: Any) -> None:
        self.runs = Runs()
        self.latest = Latest(self.runs, **bounds)
        self.feed = Feed(self.runs, self.latest)

    def at(self, now: float) -> dict[Key, float]:
        """What is shown, by run, role, rank and name."""
        return {
            (run, *process, sample.name): sample.value
            for run, process, samples in self.latest.shown(now)
            for sample in samples
        }

    def observe(self, at: float, run: str, metrics: Mapping[str, float], boot: str = "b") -> None:
        self.feed(at, run=run, boot=boot, role=DAEMON_ROLE, rank=None, metrics=dict(metrics))


def test_the_last_value_of_every_process_is_kept() -> None:
    store = Store()
    for step, value in enumerate([1.0, 2.0, math.inf]):
        store.feed(NOW + step, step=step, metrics={"loss": value, f"only_{step}": 0.0})
    store.feed(NOW, rank=1, metrics={"loss": 7.0})
    store.feed(NOW, role="judge", rank=None, metrics={"loss": 8.0})
    assert store.at(NOW + 2) == {
        ("r", "trainer", 0, "loss"): math.inf,
        ("r", "trainer", 0, "only_0"): 0.0,
        ("r", "trainer", 0, "only_1"): 0.0,
        ("r", "trainer", 0, "only_2"): 0.0,
        ("r", "trainer", 1, "loss"): 7.0,
        ("r", "judge", None, "loss"): 8.0,
    }


def test_what_follows_from_events_belongs_to_the_process_it_is_about() -> None:
    store = Store()
    for rank in (0, 1):
        store.feed(NOW, kind="event", event="process_start", rank=rank, fields={"world_size": 2})
    for event in ("phase_begin", "phase_end"):
        for rank in (0, 1):
            fields = {"phase": "train", "id": 1, "seconds": 2.0 + rank}
            store.feed(NOW + rank, kind="event", event=event, rank=rank, fields=fields)
    shown = store.at(NOW + 1)
    assert shown[("r", "trainer", 0, "phase/train/seconds")] == 2.0
    assert shown[("r", "trainer", 1, "phase/train/seconds")] == 3.0
    assert shown[("r", "trainer", None, "phase/train/slowest_rank")] == 1.0


def test_what_the_daemon_saw_of_a_run_has_no_role_and_of_the_node_no_run() -> None:
    store = Store()
    store.feed(NOW, metrics={"loss": 1.0})
    store.observe(NOW, "r", {"process/a-0/rss_bytes": 5.0})
    store.observe(NOW, "node:h", {"host/cpu_ratio": 0.5})
    shown = store.at(NOW)
    assert shown[("r", None, None, "process/a-0/rss_bytes")] == 5.0
    assert shown[(None, None, None, "host/cpu_ratio")] == 0.5
    assert store.latest.value("r", "b", "process/a-0/rss_bytes") is not None
    assert store.latest.value("r", "other", "process/a-0/rss_bytes") is None


def test_a_run_whose_name_looks_like_the_node_stays_a_run() -> None:
    store = Store()
    store.feed(NOW, run="node:h", metrics={"host/cpu_ratio": 0.9})
    store.observe(NOW, "node:h", {"host/cpu_ratio": 0.5})
    assert store.at(NOW) == {
        ("node:h", "trainer", 0, "host/cpu_ratio"): 0.9,
        (None, None, None, "host/cpu_ratio"): 0.5,
    }


def test_of_two_launches_of_one_name_the_newer_one_is_shown_even_while_the_older_still_speaks() -> None:
    store = Store()
    store.feed(NOW, boot="one", metrics={"loss": 1.0, "old": 1.0})
    store.feed(NOW + 1, boot="two", metrics={"loss": 2.0})
    store.feed(NOW + 2, boot="one", metrics={"loss": 3.0})
    assert store.at(NOW + 2) == {("r", "trainer", 0, "loss"): 2.0}


def test_a_run_that_ended_is_shown_for_a_quarter_of_an_hour() -> None:
    store = Store()
    store.feed(NOW, metrics={"loss": 1.0})
    store.feed(NOW, run="goes on", metrics={"loss": 1.0})
    store.feed(NOW + 1, kind="event", event="process_stop")
    assert ("r", "trainer", 0, "loss") in store.at(NOW + 900)
    assert {run for run, *_ in store.at(NOW + 902)} == {"goes on"}
    store.at(NOW + 915)
    assert store.latest.series == 1, "and is forgotten"


def test_a_series_without_a_value_for_an_hour_disappears() -> None:
    store = Store()
    store.feed(NOW, metrics={"once": 1.0, "often": 1.0})
    store.feed(NOW + 3000, metrics={"often": 2.0})
    assert len(store.at(NOW + 3500)) == 2
    assert store.at(NOW + 3700) == {("r", "trainer", 0, "often"): 2.0}
    store.feed(NOW + 3800, metrics={"once": 3.0})
    assert store.at(NOW + 3800)[("r", "trainer", 0, "once")] == 3.0


def test_what_pollers_no_longer_see_is_gone_within_minutes() -> None:
    store = Store(polled=lives(PollersConfig()))
    store.feed(NOW, run="r", metrics={"gpu/0/own": 1.0})
    store.observe(NOW, "r", {"process/PolicyModelActor-0/rss_bytes": 1.0, "phase/train/skew_seconds": 1.0})
    store.observe(NOW, "node:h", {"gpu/0/power_watts": 300.0, "gpu/1/power_watts": 300.0, "disk/root/free_bytes": 9.0})
    store.observe(NOW + 60, "node:h", {"gpu/0/power_watts": 310.0, "gpu/1/power_watts": 290.0})
    store.observe(NOW + 140, "node:h", {"gpu/0/power_watts": 320.0})
    store.feed(NOW + 140, run="r", metrics={"loss": 1.0})
    names = {name for *_, name in store.at(NOW + 149)}
    assert names == {
        "gpu/0/own", "phase/train/skew_seconds", "gpu/0/power_watts", "disk/root/free_bytes", "loss"
    }  # fmt: skip


def test_a_long_interval_keeps_values_as_long() -> None:
    slow = PollersConfig(gpu=GpuConfig(interval_seconds=250.0))
    store = Store(polled=lives(slow))
    store.observe(NOW, "node:h", {"gpu/0/power_watts": 300.0})
    assert store.at(NOW + 800)
    store.observe(NOW + 811, "node:h", {"host/load_1m": 1.0})
    assert {name for *_, name in store.at(NOW + 821)} == {"host/load_1m"}


def test_at_most_64_runs_are_shown_the_newest_and_those_that_live_first() -> None:
    store = Store()
    store.feed(NOW - 1, run="oldest, but lives", metrics={"loss": 1.0})
    for number in range(100):
        store.feed(NOW + number, run=f"run-{number}", metrics={"loss": 1.0})
        store.feed(NOW + number, run=f"run-{number}", kind="event", event="process_stop")
    shown = {run for run, *_ in store.at(NOW + 100)}
    assert len(shown) == module.MAX_RUNS == 64
    assert {"oldest, but lives", "run-99", "run-37"} <= shown
    assert "run-36" not in shown


def test_names_of_the_user_s_own_are_bounded_per_run_and_those_of_the_table_are_not() -> None:
    store = Store()
    for first in range(0, 400, 100):
        store.feed(NOW, metrics={f"own/{number}": 1.0 for number in range(first, first + 100)})
    store.feed(NOW, metrics={"train/kl": 1.0, "own/399": 2.0, "own/0": 2.0})
    store.feed(NOW, run="other", metrics={"own/399": 3.0})
    shown = store.at(NOW)
    assert sum(name.startswith("own/") for run, _, _, name in shown if run == "r") == module.MAX_USER_NAMES == 200
    assert shown[("r", "trainer", 0, "own/0")] == 2.0
    assert ("r", "trainer", 0, "train/kl") in shown
    assert ("other", "trainer", 0, "own/399") in shown
    assert store.latest.dropped_total == 201


def test_a_flood_of_series_stays_within_the_bound_and_what_was_known_is_kept_up_to_date() -> None:
    store = Store(max_series=50)
    store.feed(NOW, metrics={"loss": 1.0})
    for rank in range(1, 100):
        store.feed(NOW, rank=rank, metrics={"loss": 1.0})
    store.feed(NOW + 1, metrics={"loss": 2.0})
    assert store.latest.series == len(store.at(NOW + 1)) == 50
    assert store.at(NOW + 1)[("r", "trainer", 0, "loss")] == 2.0
    assert store.latest.dropped_total == 50


def test_one_run_cannot_take_all_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SERIES_PER_RUN", 20)
    store = Store(max_series=50)
    for rank in range(100):
        store.feed(NOW, rank=rank, metrics={"loss": 1.0})
    store.feed(NOW, run="other", metrics={"loss": 1.0})
    assert len(store.at(NOW)) == 21


def test_when_it_is_full_room_is_made_by_forgetting_what_is_over() -> None:
    store = Store(max_series=50)
    for rank in range(50):
        store.feed(NOW, run="old", rank=rank, metrics={"loss": 1.0})
        store.feed(NOW, run="old", rank=rank, kind="event", event="process_stop")
    store.feed(NOW + 2000, metrics={"loss": 1.0})
    assert store.at(NOW + 2000) == {("r", "trainer", 0, "loss"): 1.0}
