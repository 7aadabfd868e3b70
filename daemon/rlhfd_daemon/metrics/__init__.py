"""The canonical metric registry: names, units and meanings of what OpenRLHF logs, in every version."""

from rlhfd_daemon.metrics.metric import Framework, KeyRange, Metric
from rlhfd_daemon.metrics.normalise import RunContext, normalise
from rlhfd_daemon.metrics.table import GROUPS, TABLE, find, lookup

__all__ = ["GROUPS", "TABLE", "Framework", "KeyRange", "Metric", "RunContext", "find", "lookup", "normalise"]
