"""Rules: what is watched, when it counts as wrong, and what to do then; as data."""

from rlhfd_daemon.rules.rule import Argument, Clause, Rule, Signal

__all__ = ["Argument", "Clause", "Rule", "Signal"]
