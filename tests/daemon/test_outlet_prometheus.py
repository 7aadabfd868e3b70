"""The page: names, labels and values as Prometheus reads them, and how the daemon itself fares."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from recorded import Feed
from rlhfd_daemon.outlets.latest import Latest
from rlhfd_daemon.outlets.prometheus import Exposition
from rlhfd_daemon.outlets.self_metrics import self_families
from rlhfd_daemon.runs import DAEMON_ROLE, Runs

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
STREAM = {"ended": None, "gaps": 2, "drops": {"metrics:ring_full": 3}}
STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "ingest": {
        "messages_total": 12, "frames_total": 9, "duplicates_total": 1, "rejected_total": {"schema": 2},
        "notifications_total": 4,
    },
    "framelog": {"bytes": 4096, "segments": 1, "degraded": None, "unrecorded_total": 0, "quarantined_total": 0},
    "targets": {"ops": {"last_error": "refused", "pending": 3}},
    "pollers": {"host": {"polls": 5, "failures": 1, "observations": 4, "last_seconds": 0.25, "last_error": None}},
    "alerts": [{"severity": "critical"}, {"severity": "critical"}],
    "episodes": [{"severity": "critical"}, {"severity": "warning"}],
    "runs": [{"run": "r", "live": True, "streams": [STREAM, {**STREAM, "ended": "process_stop"}]}],
    "steps": {"written_total": 7, "dropped_total": 0, "error": None},
}  # fmt: skip


class Served:
    """A page with everything before it."""

    def __init__(self, status: Mapping[str, Any] | None = None) -> None:
        self.runs = Runs()
        self.feed = Feed(self.runs, latest := Latest(self.runs))
        self.exposition = Exposition(latest, lambda: status or {})

    def text(self, accept: str = "") -> str:
        return self.exposition.render(self.exposition.gather(), accept).body.decode()

    def values(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        found = [sample for family in parse(self.text()) for sample in family.samples]
        values = {(one.name, frozenset(one.labels.items())): one.value for one in found}
        assert len(values) == len(found), "no series twice"
        return values

    def value(self, series: str, **labels: str) -> float:
        return self.values()[(series, frozenset(labels.items()))]


def test_values_have_the_labels_of_their_process_and_of_their_name() -> None:
    page, now = Served(), time.time()
    page.feed(now, step=3, role="PPOTrainer", rank=None, metrics={"train/kl": 0.25, "judge/score": 2.0})
    page.feed(now, run="node:h", role=DAEMON_ROLE, rank=None, metrics={"gpu/1/power_watts": 300.0})
    page.feed(now, role=DAEMON_ROLE, rank=None, metrics={"process/Policy-3/rss_bytes": 4.0})
    assert page.value("rlhfd_train_kl", run="r", role="PPOTrainer") == 0.25
    assert page.value("rlhfd_user_metric", run="r", role="PPOTrainer", name="judge/score") == 2.0
    assert page.value("rlhfd_gpu_power_watts", gpu="1") == 300.0
    assert page.value("rlhfd_process_rss_bytes", run="r", process="Policy-3") == 4.0
    assert page.value("rlhfd_run_step", run="r") == 3
    assert page.value("rlhfd_run_live", run="r") == 1


def test_neither_step_nor_boot_is_ever_a_label() -> None:
    page, now = Served(STATUS), time.time()
    for step in range(5):
        page.feed(now, step=step, boot="6f1c", metrics={"train/kl": float(step)})
    labels = {label for _, pairs in page.values() for label, _ in pairs}
    assert labels <= {"run", "role", "rank", "version", "reason", "state", "severity", "target", "poller"}
    assert "6f1c" not in page.text()


def test_values_that_are_not_finite_are_shown_as_such() -> None:
    page = Served()
    page.feed(time.time(), metrics={"train/kl": math.nan, "train/return": -math.inf, "train/reward": math.inf})
    assert math.isnan(page.value("rlhfd_train_kl", run="r", role="trainer", rank="0"))
    assert page.value("rlhfd_train_return", run="r", role="trainer", rank="0") == -math.inf
    assert page.value("rlhfd_train_reward", run="r", role="trainer", rank="0") == math.inf


def test_two_names_of_one_metric_are_one_series_with_the_newer_value() -> None:
    page, now = Served(), time.time()
    page.feed(now, metrics={"train/kl": 1.0})
    page.feed(now + 1, metrics={"kl": 2.0})
    assert page.value("rlhfd_train_kl", run="r", role="trainer", rank="0") == 2.0
    page.feed(now + 2, metrics={"train/kl": 3.0})
    assert page.value("rlhfd_train_kl", run="r", role="trainer", rank="0") == 3.0


def test_what_rlhfd_counts_is_a_counter_with_the_ending_of_one() -> None:
    page = Served()
    page.feed(time.time(), run="node:h", role=DAEMON_ROLE, rank=None, metrics={"host/oom_kills_total": 2.0})
    assert page.value("rlhfd_host_oom_kills_total") == 2.0
    assert "# TYPE rlhfd_host_oom_kills_total counter" in page.text().splitlines()


def test_openmetrics_is_given_to_who_asks_for_it() -> None:
    page = Served(STATUS)
    page.feed(time.time(), metrics={"train/kl": 0.5, "train/timing/generation": 2.0, "own": 1.0})
    assert page.text(OPENMETRICS).endswith("# EOF\n")
    families = {family.name: family for family in parse_openmetrics(page.text(OPENMETRICS))}  # type: ignore[no-untyped-call, unused-ignore]
    assert families["rlhfd_train_timing_generation_seconds"].unit == "seconds"
    assert families["rlhfd_frames"].type == "counter"
    assert families["rlhfd_train_kl"].samples[0].value == 0.5


@pytest.mark.parametrize("accept", ["text/html", "*/*", "text/plain;version=abc", ";;=,", f"{OPENMETRICS};x=y", "é"])
def test_a_strange_accept_header_gets_a_page(accept: str) -> None:
    assert "rlhfd_build_info" in Served().text(accept)


@given(name=st.text(min_size=1), run=st.text(min_size=1))
def test_whatever_a_run_or_metric_is_called_comes_back_from_the_page(name: str, run: str) -> None:
    name, run = (text.encode("utf-8", "ignore").decode()[:30] or "x" for text in (name, run))
    page = Served()
    page.feed(time.time(), run=run, metrics={name: 1.0})
    mine = [dict(labels) for (family, labels), _ in page.values().items() if family == "rlhfd_user_metric"]
    assert mine == [{"run": run, "role": "trainer", "rank": "0", "name": name}]


def test_how_the_daemon_fares_is_on_the_page() -> None:
    page = Served(STATUS)
    page.feed(time.time(), metrics={"loss": 1.0})
    expected: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {
        ("rlhfd_build_info", (("version", "1.2.3"),)): 1,
        ("rlhfd_frames_total", ()): 9,
        ("rlhfd_frames_duplicate_total", ()): 1,
        ("rlhfd_frames_rejected_total", (("reason", "schema"),)): 2,
        ("rlhfd_notifications_total", ()): 4,
        ("rlhfd_framelog_bytes", ()): 4096,
        ("rlhfd_framelog_degraded", ()): 0,
        ("rlhfd_alerts_firing", (("severity", "critical"),)): 2,
        ("rlhfd_alerts_firing", (("severity", "info"),)): 0,
        ("rlhfd_episodes_open", (("severity", "critical"),)): 1,
        ("rlhfd_episodes_open", (("severity", "warning"),)): 1,
        ("rlhfd_episodes_open", (("severity", "info"),)): 0,
        ("rlhfd_target_notifications", (("target", "ops"), ("state", "pending"))): 3,
        ("rlhfd_target_failing", (("target", "ops"),)): 1,
        ("rlhfd_poller_polls_total", (("poller", "host"),)): 5,
        ("rlhfd_poller_failures_total", (("poller", "host"),)): 1,
        ("rlhfd_poller_last_duration_seconds", (("poller", "host"),)): 0.25,
        ("rlhfd_streams", (("state", "live"),)): 1,
        ("rlhfd_streams", (("state", "ended"),)): 1,
        ("rlhfd_emitter_drops_total", (("run", "r"), ("reason", "metrics:ring_full"))): 6,
        ("rlhfd_emitter_gaps_total", (("run", "r"),)): 4,
        ("rlhfd_series", ()): 1,
        ("rlhfd_series_dropped_total", ()): 0,
        ("rlhfd_steps_written_total", ()): 7,
    }
    found = page.values()
    assert {key: found.get((key[0], frozenset(key[1]))) for key in expected} == expected
    assert found[("process_resident_memory_bytes", frozenset())] > 1e6


def test_a_log_that_takes_nothing_is_a_one() -> None:
    degraded = {**STATUS["framelog"], "degraded": "No space left on device"}
    assert Served({**STATUS, "framelog": degraded}).value("rlhfd_framelog_degraded") == 1


def test_reasons_that_emitters_invent_are_bounded() -> None:
    streams = [{**STREAM, "drops": {f"reason-{one}-{two}": 1 for two in range(30)}} for one in range(10)]
    status = {"runs": [{"run": "r", "live": True, "streams": streams}], "shown_runs": [
        {"run": "r", "step": None, "live": True, "last_seen": 1.0}]}  # fmt: skip
    (drops,) = (family for family in self_families(status) if family.name == "rlhfd_emitter_drops")
    assert len(drops.samples) == 33
    assert sum(sample.value for sample in drops.samples) == 300


def test_runs_that_are_not_shown_are_no_labels() -> None:
    assert "rlhfd_emitter_gaps_total{" not in Served(STATUS).text()
