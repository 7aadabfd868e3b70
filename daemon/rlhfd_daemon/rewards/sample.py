"""One scored answer, as the files of OpenRLHF's, TRL's and verl's users have it, under their names or ours."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from rlhfd_daemon.errors import TraceError
from rlhfd_daemon.traces.row import STEP_KEYS, WEAK_STEP_KEYS, number

__all__ = ["COLUMNS", "Columns", "Sample"]

_T = TypeVar("_T")
# In the order in which they are taken. verl's dumps: input, output, score, step, acc; TRL's: prompt, completion,
# advantage and the names of the reward functions.
COLUMNS: dict[str, tuple[str, ...]] = {
    "step": (*STEP_KEYS, *WEAK_STEP_KEYS),
    "prompt": ("prompt_id", "uid", "group_id", "prompt", "prompts", "input", "query", "question"),
    "response": ("response_id", "response", "output", "completion", "answer"),
    "reward": ("reward", "rewards", "score", "scores", "reward_score", "rm_score", "total_reward"),
    "raw_reward": ("raw_reward", "reward_raw", "raw_score", "unnormalized_reward"),
    "length": ("response_length", "length", "completion_length", "completion_tokens", "num_tokens", "response_tokens"),
    "advantage": ("advantage", "advantages", "adv"),
    "label": ("label", "correct", "is_correct", "acc", "accuracy", "labels"),
    "probability": ("probability", "prob", "p_correct"),
    "kl": ("kl", "kl_mean", "approx_kl", "kl_div"),
    "repetition": ("repetition", "repetition_ratio", "repetition_rate"),
    "eval_reward": ("eval_reward", "gold_reward", "eval_score", "gold_score", "true_reward", "gold"),
    "latency": ("latency_seconds", "reward_seconds", "reward_latency_seconds", "latency"),
    "failed": ("failed", "error", "reward_error", "exception"),
}
_KNOWN = frozenset(name for names in COLUMNS.values() for name in names)
_MAX_NAME = 64
_NGRAM = 4
_LEAST_WORDS = 12
_MAX_WORDS = 20_000


@dataclass(frozen=True, slots=True)
class Sample:
    """Unknown is ``None``; a ``reward`` may be NaN. ``prompt`` and ``response`` are names or digests, never texts;
    ``length`` is in tokens, or characters where only the text is known; ``kl`` is in nats, per token or answer."""

    step: int | None = None
    prompt: str | None = None
    response: str | None = None
    reward: float | None = None
    raw_reward: float | None = None
    length: float | None = None
    advantage: float | None = None
    label: bool | None = None
    probability: float | None = None
    kl: float | None = None
    repetition: float | None = None
    eval_reward: float | None = None
    latency_seconds: float | None = None
    failed: bool = False


class Columns:
    """Which column means what in one file. ``named`` are the user's: our name to the file's."""

    def __init__(self, named: Mapping[str, str] | None = None) -> None:
        named = named or {}
        wrong = sorted(set(named) - set(COLUMNS))
        if wrong:
            raise TraceError(f"--column {wrong[0]}=...: no such column; there are {', '.join(COLUMNS)}")
        self._names = {ours: ((named[ours],) if ours in named else theirs) for ours, theirs in COLUMNS.items()}
        self._named = frozenset(named.values())
        self.used: dict[str, str] = {}  # ours to theirs, as found

    def sample(self, row: Mapping[str, object]) -> Sample | None:
        """The sample of one row, ``None`` if it has no column that is known."""
        if not any(name in _KNOWN or name in self._named for name in row):
            return None
        prompt, response = self._find(row, "prompt", _text), self._find(row, "response", _text)
        length, repetition = self._find(row, "length", _number), self._find(row, "repetition", _number)
        if response is not None and not self.used.get("response", "").endswith("_id"):
            length = float(len(response)) if length is None else length
            repetition = repetition_of(response) if repetition is None else repetition
        step = self._find(row, "step", _number)
        return Sample(
            step=int(step) if step is not None and step == step and abs(step) < 1 << 62 else None,
            prompt=_digest(prompt),
            response=_digest(response),
            reward=self._reward(row),
            raw_reward=self._find(row, "raw_reward", _number),
            length=length,
            advantage=self._find(row, "advantage", _number),
            label=self._find(row, "label", _truth),
            probability=self._find(row, "probability", _number),
            kl=self._find(row, "kl", _number),
            repetition=repetition,
            eval_reward=self._find(row, "eval_reward", _number),
            latency_seconds=self._find(row, "latency", _number),
            failed=bool(self._find(row, "failed", lambda value: value or None)),
        )

    def _find(self, row: Mapping[str, object], ours: str, read: Callable[[object], _T | None]) -> _T | None:
        for theirs in self._names[ours]:
            if theirs in row and (found := read(row[theirs])) is not None:
                self.used.setdefault(ours, theirs)
                return found
        return None

    def _reward(self, row: Mapping[str, object]) -> float | None:
        found = self._find(row, "reward", _number)
        if found is not None or any(name in row for name in self._names["reward"]):
            return found
        if "completion" not in row or "reward" in self._named:
            return None
        # TRL: one column for each reward function, which it adds up (with weights that are not in the file).
        parts = {name: value for name, value in row.items() if name not in _KNOWN and isinstance(value, (int, float))}
        numbers = [value for value in map(_number, parts.values()) if value is not None]
        if not numbers:
            return None
        self.used.setdefault("reward", " + ".join(sorted(parts)))
        return sum(numbers)


def repetition_of(text: str) -> float | None:
    """The share of 4-grams of words that came before in the same text; ``None`` for fewer than 12 words."""
    words = text.split(None, _MAX_WORDS)[:_MAX_WORDS]
    if len(words) < _LEAST_WORDS:
        return None
    grams = [tuple(words[at : at + _NGRAM]) for at in range(len(words) - _NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams)


def _number(value: object) -> float | None:
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    return number(value)


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, float):
        return None
    return str(value)  # numbers as names, and chats as lists of messages


def _digest(text: str | None) -> str | None:
    if text is None or (len(text) <= _MAX_NAME and text.isprintable() and " " not in text):
        return text
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).hexdigest()


def _truth(value: object) -> bool | None:
    return bool(value) if value in (0, 1) and isinstance(value, (bool, int, float)) else None
