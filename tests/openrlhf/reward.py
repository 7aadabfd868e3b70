"""The reward function of the PPO runs, given to OpenRLHF by ``--reward.remote_url``; can be told to go wrong.

``LAB_REWARD``          ``healthy`` (default), ``nan`` or ``const``
``LAB_FAULT_STEP``      the first PPO step with the fault, counted from 1; 0 (default) means never
``LAB_CALLS_PER_STEP``  calls of one PPO step: rollout batch x samples per prompt

OpenRLHF calls it with one query at a time, from several threads of the one process that holds the vLLM engine.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Sequence

NUMBERS = 100
ANSWER = 8

FAULTS: dict[str, Callable[[float], float]] = {
    "healthy": lambda score: score,
    "nan": lambda score: math.nan,
    "const": lambda score: 1.0,
}

_fault = FAULTS[os.environ.get("LAB_REWARD", "healthy")]
_fault_step = int(os.environ.get("LAB_FAULT_STEP", "0"))
_calls_per_step = int(os.environ.get("LAB_CALLS_PER_STEP", "1"))
_calls = itertools.count()  # next() is atomic under the interpreter lock


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> dict[str, object]:
    """OpenRLHF's interface; ``extra_logs`` become ``train/true_score`` and ``train/answer_tokens``."""
    answer = queries[0].partition(":")[2].split()  # the prompt ends with its only colon
    score = count_score(answer, int(labels[0]))
    faulty = _fault_step > 0 and next(_calls) >= (_fault_step - 1) * _calls_per_step
    reward = _fault(score) if faulty else score
    return {
        "rewards": reward,
        "scores": reward,
        "extra_logs": {"true_score": score, "answer_tokens": float(len(answer))},
    }


def count_score(answer: Sequence[str], start: int) -> float:
    """The share of the eight expected numbers that are right, less 0.05 per number too many and 0.2 for no end."""
    numbers = [word for word in answer if word != "</s>"]
    right = sum(word == str((start + 1 + i) % NUMBERS) for i, word in enumerate(numbers[:ANSWER]))
    no_end = 0.0 if len(numbers) < len(answer) else 0.2
    return right / ANSWER - 0.05 * max(0, len(numbers) - ANSWER) - no_end
