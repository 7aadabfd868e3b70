"""What vLLM counts about its engines, as rlhfd reads it in the rollout actor (``rlhfd_emitter.signals.engine``)."""

from __future__ import annotations

from rlhfd_daemon.metrics.metric import Metric, Unit, observed

__all__ = ["ENGINE"]

ROLE = "RolloutRayActor"
VLLM = "vLLM documentation, Production Metrics"
PAGED = "Kwon et al. 2023 (PagedAttention), arXiv:2309.06180"
ESTIMATED = "estimated from the buckets of vLLM's histogram, linear within one"
BUSY = "per second in which requests were under way, since the last reading"


def _engine(name: str, unit: Unit, meaning: str, source: str = VLLM) -> Metric:
    return observed(f"rlhfd/engine/<n>/{name}", unit, ROLE, meaning, source=source)


def _actor(name: str, unit: Unit, meaning: str) -> Metric:
    return observed(f"rlhfd/{name}", unit, ROLE, meaning)


def _latency(name: str, what: str, whose: str = "requests that finished") -> tuple[Metric, ...]:
    since = f"of the {whose} since the last reading; absent if there is none"
    return (
        _engine(f"{name}/mean_seconds", "seconds", f"{what}: mean {since}."),
        _engine(f"{name}/p50_seconds", "seconds", f"{what}: median {since}; {ESTIMATED}."),
        _engine(f"{name}/p99_seconds", "seconds", f"{what}: 99th percentile {since}; {ESTIMATED}."),
    )


ENGINE: tuple[Metric, ...] = (
    _actor(
        "engine/requests_under_way", "count",
        "Requests that the actor has handed to its engines and that have not ended, whatever the engines know of them. "
        "Readings are every 5 s while there are any, and when the last one has ended.",
    ),
    _engine(
        "requests_running", "count",
        "Requests in the engine's batch, as of its last iteration. The number in the name is vLLM's index of the "
        "engine in this actor: 0, more only with data parallelism inside the actor.",
    ),
    _engine("requests_waiting", "count", "Requests that wait to be scheduled, as of its last iteration."),
    _engine("requests_finished_total", "count", "Requests finished since the engine began, aborted ones included."),
    _engine(
        "truncated_ratio", "ratio",
        "Share of the requests finished since the last reading that ended at a token limit; absent if there is none.",
    ),
    *_latency("queue", "Time from a request's arrival in the engine until it was first scheduled"),
    *_latency("prefill", "Time from then to its first token"),
    *_latency("decode", "Time from its first token to its last"),
    *_latency("request", "Time from the request's arrival in the actor to its last token"),
    *_latency("first_token", "Time from the request's arrival in the actor to its first token", "first tokens"),
    *_latency("inter_token", "Time between two tokens of a request", "tokens behind a first one"),
    _engine("prompt_tokens_total", "tokens", "Prompt tokens processed since the engine began, cached ones included."),
    _engine("generated_tokens_total", "tokens", "Tokens generated since the engine began."),
    _engine("prompt_tokens_per_second", "tokens_per_second", f"Prompt tokens processed {BUSY}."),
    _engine("generated_tokens_per_second", "tokens_per_second", f"Tokens generated {BUSY}: 0 is an engine that hangs."),
    _engine("kv_cache_ratio", "ratio", "Share of the blocks of the KV cache that are in use.", PAGED),
    _engine(
        "preemptions", "count",
        "Requests put back since the last reading because the KV cache was full; they are computed anew.", PAGED,
    ),
    _engine(
        "prefix_cache_hit_ratio", "ratio",
        "Of the tokens looked up in the prefix cache since the last reading, the share found. Absent without it.",
    ),
    _engine(
        "sleeping", "1",
        "1 from sleep() to the first wake_up(), which may wake the weights only; else 0. Absent where vLLM does not "
        "say.",
    ),
    _actor(
        "engine/weight_sync/seconds", "seconds",
        "One update of this actor's weights, from the beginning of the first parameter's call to the end of the "
        "last one's.",
    ),
    _actor(
        "engine/weight_sync/call_seconds", "seconds",
        "Time in those calls: broadcast and loading. The rest is spent between them in the policy.",
    ),
    _actor("engine/weight_sync/calls", "count", "Those calls, one a parameter."),
    _actor("overhead/engine_seconds", "seconds", "Time that rlhfd took for one reading of vLLM's metrics."),
)  # fmt: skip
