"""The reward function of the PPO runs, given to OpenRLHF by ``--reward.remote_url``; can be told to go wrong.

``LAB_REWARD``          ``healthy`` (default) or another of ``FAULTS``; ``slow``: one call sleeps ``LAB_SLOW_SECONDS``,
                        ``slower``: each call takes ten times ``LAB_CALL_SECONDS``
``LAB_FAULT_STEP``      the first PPO step with the fault, counted from 1; 0 (default) means never
``LAB_CALLS_PER_STEP``  calls of one PPO step: rollout batch x samples per prompt
``LAB_CALL_SECONDS``    what every call takes at least; each third one twice as long
``LAB_REWARD_TIMES``    gets one JSON object a call: ``pid``, ``began`` and ``ended`` (Unix seconds), ``seconds``

OpenRLHF calls it with one query at a time, from several threads of the one process that holds the vLLM engine.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import time
from collections.abc import Callable, Sequence

NUMBERS = 100
ANSWER = 8

Answer = Sequence[str]


def _changed(answer: Answer, start: int) -> float:
    """Another scorer: all or nothing."""
    return float(count_score(answer, start) > 0.99)


def _repeated(answer: Answer) -> float:
    """The share of words that are the same as the one before."""
    return sum(one == other for one, other in itertools.pairwise(answer)) / max(1, len(answer) - 1)


# From the score, the words of the answer, the number it has to begin after, and the number of the call.
FAULTS: dict[str, Callable[[float, Answer, int, int], float]] = {
    "healthy": lambda score, *_: score,
    "nan": lambda *_: math.nan,
    "some_nan": lambda score, answer, start, call: math.nan if call % 33 == 0 else score,
    "const": lambda *_: 1.0,
    "noise": lambda score, answer, start, call: random.Random(call).uniform(-0.5, 1.0),
    "flip": lambda score, *_: -score,
    "length": lambda score, answer, *_: score + 0.15 * len(answer),
    "repetition": lambda score, answer, *_: score + 2.0 * _repeated(answer),
    "changed": lambda score, answer, start, call: _changed(answer, start),
    "scaled": lambda score, *_: 25.0 * score,  # OpenRLHF clips at 10
    "slow": lambda score, *_: score,
    "slower": lambda score, *_: score,
}

_kind = os.environ.get("LAB_REWARD", "healthy")
_fault = FAULTS[_kind]
_fault_step = int(os.environ.get("LAB_FAULT_STEP", "0"))
_calls_per_step = int(os.environ.get("LAB_CALLS_PER_STEP", "1"))
_slow_seconds = float(os.environ.get("LAB_SLOW_SECONDS", "0"))
_call_seconds = float(os.environ.get("LAB_CALL_SECONDS", "0"))
_times = os.environ.get("LAB_REWARD_TIMES")
_calls = itertools.count()  # next() is atomic under the interpreter lock


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> dict[str, object]:
    """OpenRLHF's interface; ``extra_logs`` become ``train/true_score`` and ``train/answer_tokens``."""
    began, clock = time.time(), time.perf_counter()
    number = next(_calls)
    first_faulty = (_fault_step - 1) * _calls_per_step
    faulty = _fault_step > 0 and number >= first_faulty
    _sleep(number, _kind == "slow" and number == first_faulty, 10 if faulty and _kind == "slower" else 1)
    answer = queries[0].partition(":")[2].split()  # the prompt ends with its only colon
    start = int(labels[0])
    score = count_score(answer, start)
    reward = _fault(score, answer, start, number) if faulty else score
    if _times:
        _note(_times, began, time.perf_counter() - clock)
    return {
        "rewards": reward,
        "scores": reward,
        "extra_logs": {"true_score": score, "answer_tokens": float(len(answer))},
    }


def _sleep(number: int, slow: bool, times: int) -> None:
    seconds = _call_seconds * (2 if number % 3 == 0 else 1) * times
    if slow or seconds:
        time.sleep(_slow_seconds if slow else seconds)


def _note(path: str, began: float, seconds: float) -> None:
    line = json.dumps({"pid": os.getpid(), "began": began, "ended": time.time(), "seconds": seconds})
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def count_score(answer: Sequence[str], start: int) -> float:
    """The share of the eight expected numbers that are right, less 0.05 per number too many and 0.2 for no end."""
    numbers = [word for word in answer if word != "</s>"]
    right = sum(word == str((start + 1 + i) % NUMBERS) for i, word in enumerate(numbers[:ANSWER]))
    no_end = 0.0 if len(numbers) < len(answer) else 0.2
    return right / ANSWER - 0.05 * max(0, len(numbers) - ANSWER) - no_end
