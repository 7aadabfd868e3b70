"""What rlhfd observes of the reward calls in the vLLM engines' processes (``rlhfd_emitter.signals.rewards``)."""

from __future__ import annotations

from rlhfd_daemon.metrics.metric import Metric, Unit, observed

__all__ = ["REWARD_CALLS"]

ENGINE = "RolloutRayActor"
TAIL = "Dean and Barroso 2013, The Tail at Scale"


def _row(name: str, unit: Unit, meaning: str, source: str = "") -> Metric:
    return observed(f"rlhfd/reward_call/{name}", unit, ENGINE, meaning, source=source)


REWARD_CALLS: tuple[Metric, ...] = (
    _row(
        "count", "count",
        "Calls that ended since the last such frame: of a reward function, of a remote reward model, or of an agent's "
        "step. A frame comes when a batch of calls is over, or after 10 seconds.",
    ),
    _row(
        "failed_count", "count",
        "Those that raised, or gave no reward, or NaN; of a remote reward model, when its last attempt failed, too.",
    ),
    _row("failed_ratio", "ratio", "failed_count over count. Absent if no call ended."),
    _row(
        "retries", "count",
        "Requests to a remote reward model beyond the first of each call. Absent without one.",
    ),
    _row(
        "latency_mean_seconds", "seconds",
        "Mean time of a call, failed ones included; with a remote reward model all its attempts and the waits between.",
        TAIL,
    ),
    _row("latency_p50_seconds", "seconds", "Median, linear between neighbours; exact up to 4096 calls a frame.", TAIL),
    _row("latency_p99_seconds", "seconds", "99th percentile, in the same way.", TAIL),
    _row("latency_max_seconds", "seconds", "The longest call.", TAIL),
    _row("in_flight", "count", "Calls under way at the time of the frame."),
    _row("oldest_seconds", "seconds", "How long the oldest of these has been under way: a hanging call shows here."),
)  # fmt: skip
