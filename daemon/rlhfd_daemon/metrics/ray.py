"""What the daemon sees of Ray on the node, from process titles and the raylet's files."""

from __future__ import annotations

from rlhfd_daemon.metrics.metric import Metric, Unit, observed

__all__ = ["RAY"]

ACTOR, RAYLET = "each Ray actor on the node", "raylet"


def _store(name: str, unit: Unit, meaning: str, *, healthy: str = "") -> Metric:
    return observed(f"ray/{name}", unit, RAYLET, meaning, healthy=healthy)


RAY: tuple[Metric, ...] = (
    observed(
        "ray/<role>/busy_ratio", "ratio", ACTOR,
        "Share of the time in which a method of the actor ran, by its process title; also of actors without rlhfd. "
        "Where several methods run at once (async and threaded actors) a lower bound: Ray calls such an actor idle "
        "as soon as one of them ends.",
    ),
    observed(
        "ray/<role>/method_seconds", "seconds", ACTOR,
        "How long the method that runs now has been running, 0 if none does. Calls of the same method that follow one "
        "another at once count as one.",
    ),
    _store("object_store_capacity_bytes", "bytes", "Size of Ray's object store on the node."),
    _store(
        "object_store_used_bytes", "bytes",
        "Size of the objects in it that are needed, as `ray status` shows it. Copies that Ray may drop at any time do "
        "not count. Ray tells it every 10 s.",
    ),
    _store(
        "object_store_spilled_bytes", "bytes",
        "Size of the objects that Ray has moved to disk because the store was full. Ray tells it every 10 s.",
        healthy="0",
    ),
    _store("objects_spilled_total", "count", "Objects moved to disk since the raylet began."),
    _store("objects_restored_total", "count", "Objects read back from disk since the raylet began."),
)  # fmt: skip
