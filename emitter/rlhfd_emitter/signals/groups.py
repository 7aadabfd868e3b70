"""Computes groups of signals, each on its own: a failing one loses its values, and after three in a row its turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

from rlhfd_emitter.process import Process, guarded

MAX_FAILURES = 3  # in a row; more of the same would only cost time

Subject = TypeVar("Subject")


class Failures(Counter[str]):
    """How often each group failed in a row, in one process."""


def compute(
    process: Process, groups: Mapping[str, Callable[[Subject], Mapping[str, float]]], subject: Subject
) -> dict[str, float]:
    """The values of all ``groups`` that work. A group's first failure is reported as ``signals.<group>``."""
    failures = process.shared(Failures)
    values: dict[str, float] = {}
    for name, group in groups.items():
        if failures[name] >= MAX_FAILURES:
            continue
        try:
            values.update(group(subject))
        except Exception as error:  # noqa: BLE001 - one group's failure is its own; it is reported
            failures[name] += 1
            guarded(process.report_failure, f"signals.{name}", error)
        else:
            failures[name] = 0
    return values
