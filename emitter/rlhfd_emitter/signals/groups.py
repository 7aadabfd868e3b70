"""Computes groups of signals, each on its own: a failing one loses its values, and after three in a row its turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from rlhfd_emitter.process import Process

Subject = TypeVar("Subject")


def compute(
    process: Process, groups: Mapping[str, Callable[[Subject], Mapping[str, float]]], subject: Subject
) -> dict[str, float]:
    """The values of all ``groups`` that work. Each is a hook of its own, ``signals.<group>``."""
    values: dict[str, float] = {}
    for name, group in groups.items():
        hook = process.hook(f"signals.{name}")
        if not hook.off:
            hook.calls += 1
            hook.guarded(_add, values, group, subject)
    return values


def _add(values: dict[str, float], group: Callable[[Subject], Mapping[str, float]], subject: Subject) -> None:
    values.update(group(subject))
