"""From a real Prometheus registry that looks like vLLM's to the metrics of each engine."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rlhfd_emitter.signals.registry import NAMES, Engine, Snapshot, metrics, quantile, snapshot

BUCKETS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0)
LABELS = ("model_name", "engine")
LATENCIES = {
    "queue": "vllm:request_queue_time_seconds",
    "prefill": "vllm:request_prefill_time_seconds",
    "decode": "vllm:request_decode_time_seconds",
    "request": "vllm:e2e_request_latency_seconds",
    "first_token": "vllm:time_to_first_token_seconds",
    "inter_token": "vllm:inter_token_latency_seconds",
}


class Vllm:
    """What ``PrometheusStatLogger`` of vLLM 0.29 registers, as far as it is read, and one thing that is not."""

    def __init__(self, engines: Sequence[str] = ("0",), cache: str = "vllm:kv_cache_usage_perc") -> None:
        self.registry = CollectorRegistry()
        each: Any = {"labelnames": LABELS, "registry": self.registry}
        self.running = Gauge("vllm:num_requests_running", "", **each)
        self.waiting = Gauge("vllm:num_requests_waiting", "", **each)
        self.cache = Gauge(cache, "", **each)
        self.awake = Gauge("vllm:engine_sleep_state", "", (*LABELS, "sleep_state"), registry=self.registry)
        self.prompt = Counter("vllm:prompt_tokens", "", **each)
        self.generated = Counter("vllm:generation_tokens", "", **each)
        self.finished = Counter("vllm:request_success", "", (*LABELS, "finished_reason"), registry=self.registry)
        self.preempted = Counter("vllm:num_preemptions", "", **each)
        self.queries = Counter("vllm:prefix_cache_queries", "", **each)
        self.hits = Counter("vllm:prefix_cache_hits", "", **each)
        self.latencies = {ours: Histogram(name, "", buckets=BUCKETS, **each) for ours, name in LATENCIES.items()}
        other = Gauge("python_gc", "", registry=self.registry)
        other.set(1)
        for engine in engines:
            for one in (self.running, self.waiting, self.cache, self.prompt, self.generated, self.preempted,
                        self.queries, self.hits, *self.latencies.values()):  # fmt: skip
                one.labels("m", engine)
            for reason in ("stop", "length", "abort"):
                self.finished.labels("m", engine, reason)

    def finish(self, seconds: float, tokens: int, reason: str = "stop", engine: str = "0") -> None:
        self.finished.labels("m", engine, reason).inc()
        self.generated.labels("m", engine).inc(tokens)
        self.prompt.labels("m", engine).inc(10)
        for histogram in self.latencies.values():
            histogram.labels("m", engine).observe(seconds)

    def read(self) -> Snapshot:
        return snapshot(self.registry.restricted_registry(NAMES).collect())


def test_two_readings_say_what_happened_in_between() -> None:
    vllm = Vllm()
    vllm.finish(0.4, 100)
    before = vllm.read()["0"]
    vllm.finish(0.2, 30)
    vllm.finish(0.6, 50, "length")
    vllm.running.labels("m", "0").set(3)
    vllm.waiting.labels("m", "0").set(7)
    vllm.cache.labels("m", "0").set(0.25)
    vllm.preempted.labels("m", "0").inc(2)
    vllm.queries.labels("m", "0").inc(40)
    vllm.hits.labels("m", "0").inc(10)
    vllm.awake.labels("m", "0", "awake").set(1)
    vllm.awake.labels("m", "0", "discard_all").set(0)
    found = metrics(before, vllm.read()["0"], 4.0)
    latencies = {name: found.pop(name) for name in list(found) if "/" in name}
    assert found == {
        "requests_running": 3, "requests_waiting": 7, "kv_cache_ratio": 0.25, "sleeping": 0,
        "prompt_tokens_total": 30, "generated_tokens_total": 180, "requests_finished_total": 3,
        "prompt_tokens_per_second": 5, "generated_tokens_per_second": 20, "preemptions": 2,
        "truncated_ratio": 0.5, "prefix_cache_hit_ratio": 0.25,
    }  # fmt: skip
    assert {name.partition("/")[0] for name in latencies} == set(LATENCIES)
    for name in LATENCIES:
        parts = [latencies[f"{name}/{part}_seconds"] for part in ("mean", "p50", "p99")]
        assert parts == pytest.approx([0.4, 0.3, 0.5 + 0.3 * 0.98])


def test_without_requests_there_is_no_latency_no_share_and_no_speed_but_an_engine_that_hangs_has_speed_0() -> None:
    vllm = Vllm()
    vllm.finish(0.4, 100)
    now = vllm.read()["0"]
    quiet = metrics(now, now, 0.0)
    assert set(quiet) == {
        "requests_running", "requests_waiting", "kv_cache_ratio", "prompt_tokens_total", "generated_tokens_total",
        "requests_finished_total", "preemptions",
    }  # fmt: skip
    assert metrics(now, now, 5.0)["generated_tokens_per_second"] == 0


def test_the_first_reading_counts_from_the_engine_s_start() -> None:
    vllm = Vllm()
    vllm.finish(0.2, 60)
    found = metrics(None, vllm.read()["0"], 2.0)
    assert found["generated_tokens_per_second"] == 30
    assert found["request/mean_seconds"] == pytest.approx(0.2)


def test_an_engine_that_began_anew_counts_from_there() -> None:
    old, new = Vllm(), Vllm()
    for _ in range(5):
        old.finish(4.0, 100)
    new.finish(0.2, 500)
    new.finish(0.2, 400)
    found = metrics(old.read()["0"], new.read()["0"], 10.0)
    assert (found["generated_tokens_per_second"], found["generated_tokens_total"]) == (90, 900)
    assert found["request/mean_seconds"] == pytest.approx(0.2)


def test_engines_of_one_process_are_told_apart() -> None:
    vllm = Vllm(("0", "1"))
    vllm.finish(0.2, 60, engine="1")
    found = vllm.read()
    totals = {index: metrics(None, engine, 1.0)["generated_tokens_total"] for index, engine in found.items()}
    assert totals == {"0": 0, "1": 60}


def test_older_names_are_known_and_two_names_of_one_thing_count_once() -> None:
    vllm = Vllm(cache="vllm:gpu_cache_usage_perc")
    vllm.cache.labels("m", "0").set(0.5)
    older = Histogram("vllm:time_per_output_token_seconds", "", LABELS, buckets=BUCKETS, registry=vllm.registry)
    for seconds in (0.4, 0.6):
        older.labels("m", "0").observe(seconds)
        vllm.latencies["inter_token"].labels("m", "0").observe(seconds)
    found = metrics(None, vllm.read()["0"], 1.0)
    assert found["kv_cache_ratio"] == 0.5
    assert found["inter_token/mean_seconds"] == pytest.approx(0.5)
    assert found["inter_token/p50_seconds"] == pytest.approx(0.5)


def test_an_engine_asleep_says_so_and_without_anything_of_vllm_there_is_no_engine() -> None:
    vllm = Vllm()
    vllm.awake.labels("m", "0", "awake").set(0)
    vllm.awake.labels("m", "0", "discard_all").set(1)
    assert metrics(None, vllm.read()["0"], 0.0)["sleeping"] == 1
    empty = CollectorRegistry()
    Gauge("other", "", registry=empty)
    assert snapshot(empty.restricted_registry(NAMES).collect()) == {}
    assert metrics(None, Engine(), 1.0) == {}


QUANTILES = [
    # share, bounds, counts, expected
    (0.5, (1, 2, math.inf), (0, 4, 4), 1.5),
    (0.99, (1, 2, math.inf), (0, 4, 4), 1.99),
    (0.5, (1, 2, math.inf), (4, 4, 4), 0.5),
    (0.25, (1, 2, math.inf), (1, 4, 4), 1.0),
    (0.5, (1, 2, math.inf), (1, 1, 4), 2),
    (1.0, (1, 2, 4, math.inf), (1, 1, 2, 2), 4.0),
    (0.0, (1, 2, math.inf), (0, 4, 4), 0.0),
    (0.5, (1, 2, math.inf), (0, 0, 0), None),
    (0.5, (math.inf,), (4,), None),
    (0.5, (), (), None),
]


@pytest.mark.parametrize(("share", "bounds", "counts", "expected"), QUANTILES)
def test_a_quantile_is_linear_within_its_bucket(
    share: float, bounds: Sequence[float], counts: Sequence[float], expected: float | None
) -> None:
    found = quantile(share, bounds, counts)
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("seed", range(5))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(seed: int) -> None:
    values = sorted(random.Random(seed).expovariate(1) for _ in range(500))
    bounds = (*BUCKETS, math.inf)
    counts = [sum(value <= bound for value in values) for bound in bounds]
    for share in (0.5, 0.9, 0.99):
        true = values[math.ceil(share * len(values)) - 1]
        upper = next(i for i, bound in enumerate(bounds) if true <= bound)
        found = quantile(share, bounds, counts)
        assert found is not None
        assert (bounds[upper - 1] if upper else 0.0) <= found <= bounds[upper]
