"""A two-turn agent for the PPO runs, given to OpenRLHF by ``--train.agent_func_path``: it is told once to go on."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from openrlhf.utils.agent import AgentInstanceBase, MultiTurnAgentExecutor

TURNS = 2
FEEDBACK = " count from 7 : "


class Counter(AgentInstanceBase):
    """The model's environment for one prompt; each turn is rewarded by :func:`counted`."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self._turn = 0

    async def step(self, state_dict: dict[str, Any], **kwargs: object) -> dict[str, Any]:
        """OpenRLHF's interface; ``extra_logs`` become ``train/turns``."""
        self._turn += 1
        score = counted(state_dict["action_text"])
        return {
            "rewards": torch.tensor(score),
            "scores": torch.tensor(score),
            "environment_feedback": FEEDBACK if self._turn < TURNS else "",
            "done": self._turn >= TURNS,
            "sampling_params": state_dict["sampling_params"],
            "extra_logs": {"turns": float(self._turn)},
        }


class AgentExecutor(MultiTurnAgentExecutor):
    """The class that OpenRLHF looks for in this file."""

    def __init__(self) -> None:
        super().__init__(Counter)


def counted(text: str) -> float:
    """The share of numbers in ``text`` that are one more than the number before them."""
    numbers = [int(word) for word in text.split() if word.isdigit()]
    pairs = list(itertools.pairwise(numbers))
    return sum(after == before + 1 for before, after in pairs) / len(pairs) if pairs else 0.0
