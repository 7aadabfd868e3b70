"""The rules on padding and on unequal ranks: silent on batches of ordinary lengths, also small ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.analyzers.rules import RuleAnalyzer
from rlhfd_daemon.config_rules import RulesConfig
from rlhfd_daemon.interpret import Interpreter
from rlhfd_daemon.rules.catalogue import filling
from rlhfd_daemon.rules.facts import Facts
from rlhfd_emitter.signals.micro_batches import Layout, MicroBatch, summary
from wire import frame

STEPS = 200
PADDED, PACKED = Layout(), Layout(True, 2)


def lengths(random: np.random.Generator, spread: float, count: int) -> list[int]:
    """A prompt of 50 tokens and an answer of 200 in the median, at most 2,000."""
    return [50 + min(2000, round(200 * float(np.exp(random.normal(0, spread))))) for _ in range(count)]


def told(
    ranks: int, samples: int, rows: int, spread: float, layout: Layout = PADDED, name: str = "policy", seed: int = 0
) -> Iterator[str]:
    """The ids of the rules that fire on a run whose ranks train on ``samples`` each, ``rows`` at a time."""
    random, interpreter = np.random.default_rng(seed), Interpreter()
    analyzer = RuleAnalyzer(RulesConfig(), filling.ROWS, Facts)
    for rank in range(ranks):
        interpreter.samples(frame(kind="event", event="process_start", fields={"world_size": ranks}, rank=rank), 0, 0)
    for step in range(1, STEPS + 1):
        for rank in range(ranks):
            metrics = summary(f"rlhfd/{name}", batched(lengths(random, spread, samples), rows), layout)
            for sample in interpreter.samples(frame(metrics=metrics, rank=rank, step=step), step, step):
                for finding in analyzer.observe(sample):
                    assert finding.severity is Severity.INFO
                    yield finding.rule


def batched(found: Sequence[int], rows: int) -> list[MicroBatch]:
    parts = [found[start : start + rows] for start in range(0, len(found), rows)]
    return [MicroBatch(len(part), max(part), sum(part)) for part in parts]


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ["policy", "model"])
def test_answers_of_ordinary_lengths_are_neither_mostly_padding_nor_unequal(ranks: int, rows: int, name: str) -> None:
    for seed in range(3):
        assert list(told(ranks, 8, rows, 0.5, name=name, seed=seed)) == []


@pytest.mark.parametrize(("name", "rule"), [("policy", "padding_wasteful"), ("model", "supervised_padding_wasteful")])
def test_micro_batches_of_many_long_tails_are_mostly_padding_until_they_are_packed(name: str, rule: str) -> None:
    assert set(told(1, 64, 32, 0.9, name=name)) == {rule}
    assert list(told(1, 64, 32, 0.9, PACKED, name=name)) == []


@pytest.mark.parametrize(("ranks", "samples"), [(8, 1), (8, 2), (64, 4)])
def test_many_ranks_with_few_samples_of_ordinary_lengths_are_not_told(ranks: int, samples: int) -> None:
    assert list(told(ranks, samples, 1, 0.5)) == []


def test_ranks_with_few_samples_of_very_different_lengths_wait_for_one_another() -> None:
    assert set(told(8, 1, 1, 0.9)) == {"ranks_uneven"}


def test_samples_beyond_the_limit_of_dynamic_batches_are_told_and_full_ones_are_not() -> None:
    assert set(told(1, 8, 1, 0.3, Layout(True, 1, 200))) == {"micro_batch_overfull"}
    assert list(told(1, 8, 1, 0.3, Layout(True, 1, 500))) == []
