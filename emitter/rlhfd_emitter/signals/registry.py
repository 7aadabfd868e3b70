"""What vLLM counts in its Prometheus registry: from samples to a snapshot, and what two snapshots say. Pure.

Names are those of vLLM 0.10 to 0.29 (``vllm/v1/metrics/loggers.py``); what a version does not have is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

QUANTILES = {"p50": 0.5, "p99": 0.99}
COUNTERS = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generated_tokens",
    "vllm:request_success_total": "requests_finished",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:prefix_cache_queries_total": "prefix_cache_queries",
    "vllm:prefix_cache_hits_total": "prefix_cache_hits",
}
GAUGES = {
    "vllm:num_requests_running": "requests_running",
    "vllm:num_requests_waiting": "requests_waiting",
    "vllm:kv_cache_usage_perc": "kv_cache_ratio",  # 0 to 1, whatever its name says
    "vllm:gpu_cache_usage_perc": "kv_cache_ratio",  # to 0.10
}
HISTOGRAMS = {
    "vllm:request_queue_time_seconds": "queue",
    "vllm:request_prefill_time_seconds": "prefill",
    "vllm:request_decode_time_seconds": "decode",
    "vllm:e2e_request_latency_seconds": "request",
    "vllm:time_to_first_token_seconds": "first_token",
    "vllm:inter_token_latency_seconds": "inter_token",
    "vllm:time_per_output_token_seconds": "inter_token",  # to 0.10
}
SLEEP = "vllm:engine_sleep_state"
TRUNCATED = "truncated"
NAMES = (*COUNTERS, *GAUGES, SLEEP, *(f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum")))


@dataclass
class Histogram:
    """``buckets``: how many observations were at most so large, by upper bound (the last is infinity)."""

    buckets: dict[float, float] = field(default_factory=dict)
    total: float = 0.0

    @property
    def count(self) -> float:
        return max(self.buckets.values(), default=0.0)

    def since(self, before: Histogram | None) -> Histogram:
        """The observations that came after ``before``."""
        if before is None or before.buckets.keys() != self.buckets.keys():
            return self
        buckets = {bound: count - before.buckets[bound] for bound, count in self.buckets.items()}
        return Histogram(buckets, self.total - before.total)


@dataclass
class Engine:
    """One engine's values at one moment. Not changed once :func:`snapshot` has handed it out."""

    counters: dict[str, float] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)

    def monotone(self) -> dict[str, float]:
        """Everything that only grows as long as the engine lives."""
        return {**self.counters, **{name: each.count for name, each in self.histograms.items()}}


Snapshot = Mapping[str, Engine]


def snapshot(families: Iterable[Any]) -> Snapshot:
    """The engines by their label ``engine`` (``"0"`` where there is none), from what ``registry.collect()`` yields."""
    engines: dict[str, Engine] = {}
    for family in families:
        for name, labels, value, *_ in family.samples:
            index, kept = labels.get("engine", "0"), _KEPT.get(name)
            if kept is not None and index.isdigit():
                keep, ours = kept
                keep(engines.get(index) or engines.setdefault(index, Engine()), ours, labels, value)
    return engines


def _count(engine: Engine, ours: str, labels: Mapping[str, str], value: float) -> None:
    engine.counters[ours] = engine.counters.get(ours, 0.0) + value
    if ours == "requests_finished" and labels.get("finished_reason") == "length":
        _count(engine, TRUNCATED, labels, value)


def _gauge(engine: Engine, ours: str, labels: Mapping[str, str], value: float) -> None:
    engine.gauges[ours] = value


def _sleep(engine: Engine, ours: str, labels: Mapping[str, str], value: float) -> None:
    if labels.get("sleep_state") == "awake":
        engine.gauges[ours] = 1.0 - value


def _bucket(engine: Engine, ours: str, labels: Mapping[str, str], value: float) -> None:
    buckets, bound = _histogram(engine, ours).buckets, float(labels["le"])
    buckets[bound] = buckets.get(bound, 0.0) + value


def _sum(engine: Engine, ours: str, labels: Mapping[str, str], value: float) -> None:
    _histogram(engine, ours).total += value


def _histogram(engine: Engine, ours: str) -> Histogram:
    found = engine.histograms.get(ours)
    return engine.histograms.setdefault(ours, Histogram()) if found is None else found


# What is done with a sample, by its name, and what it is called here. One look-up for each of hundreds of samples.
_KEPT: dict[str, tuple[Callable[[Engine, str, Mapping[str, str], float], None], str]] = {
    **{name: (_count, ours) for name, ours in COUNTERS.items()},
    **{name: (_gauge, ours) for name, ours in GAUGES.items()},
    **{f"{name}_bucket": (_bucket, ours) for name, ours in HISTOGRAMS.items()},
    **{f"{name}_sum": (_sum, ours) for name, ours in HISTOGRAMS.items()},
    SLEEP: (_sleep, "sleeping"),
}


def metrics(before: Engine | None, now: Engine, busy_seconds: float) -> dict[str, float]:
    """What ``now`` says, compared with ``before`` (``None``: with the engine's start).

    ``busy_seconds`` is how long requests were under way in between. Where anything has shrunk, the engine's counters
    began anew, and everything counts from there.
    """
    if before is not None and _shrunk(before.monotone(), now.monotone()):
        before = None
    earlier = Engine() if before is None else before
    grown = {name: value - earlier.counters.get(name, 0.0) for name, value in now.counters.items()}
    found = dict(now.gauges)
    for name in ("prompt_tokens", "generated_tokens", "requests_finished"):
        if name in now.counters:
            found[f"{name}_total"] = now.counters[name]
    if "preemptions" in grown:
        found["preemptions"] = grown["preemptions"]
    if busy_seconds > 0:
        for name in ("prompt_tokens", "generated_tokens"):
            if name in grown:
                found[f"{name}_per_second"] = grown[name] / busy_seconds
    found.update(_ratio("truncated_ratio", grown, TRUNCATED, "requests_finished"))
    found.update(_ratio("prefix_cache_hit_ratio", grown, "prefix_cache_hits", "prefix_cache_queries"))
    for name, histogram in now.histograms.items():
        found.update(_latency(name, histogram.since(earlier.histograms.get(name))))
    return found


def _shrunk(before: Mapping[str, float], now: Mapping[str, float]) -> bool:
    return any(now.get(name, 0.0) < value for name, value in before.items())


def _ratio(name: str, grown: Mapping[str, float], part: str, whole: str) -> dict[str, float]:
    if part not in grown or grown.get(whole, 0.0) <= 0:
        return {}
    return {name: grown[part] / grown[whole]}


def _latency(name: str, histogram: Histogram) -> dict[str, float]:
    if histogram.count <= 0:
        return {}
    bounds = sorted(histogram.buckets)
    counts = [histogram.buckets[bound] for bound in bounds]
    found = {f"{name}/mean_seconds": histogram.total / histogram.count}
    for label, share in QUANTILES.items():
        value = quantile(share, bounds, counts)
        if value is not None:
            found[f"{name}/{label}_seconds"] = value
    return found


def quantile(share: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """An estimate of the ``share`` quantile, 0 to 1, as PromQL's ``histogram_quantile`` makes it.

    ``bounds`` are the buckets' upper bounds, ascending, the last infinite; ``counts`` how many observations were at
    most so large. Linear within the bucket, whose lower end is 0 in the first one; the greatest finite bound for what
    lies beyond it; ``None`` without observations or with a single bucket.
    """
    if len(bounds) < 2 or counts[-1] <= 0:
        return None
    rank = share * counts[-1]
    at = next(i for i, count in enumerate(counts) if count >= rank)
    if at == len(bounds) - 1:
        return bounds[-2]
    low, below = (bounds[at - 1], counts[at - 1]) if at else (0.0, 0.0)
    inside = counts[at] - below
    return low if inside <= 0 else low + (bounds[at] - low) * (rank - below) / inside
