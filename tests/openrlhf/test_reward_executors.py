"""OpenRLHF's own executors under observation, without an engine: results stay, and each failure is counted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from observed import Receiver, events
from openrlhf.lab import Lab

NAME = "rlhfd/reward_call"

# OpenRLHF's own executors, without an engine.
EXECUTORS = """
import asyncio, json, sys, time
from types import SimpleNamespace as N
import torch
from rlhfd_emitter import hooks
process = hooks.install()
process.open("RolloutRayActor")
from openrlhf.utils.agent import AgentInstanceBase, MultiTurnAgentExecutor, SingleTurnAgentExecutor
class Engine:
    async def generate(self, prompt_token_ids, sampling_params, multi_modal_data=None):
        return N(outputs=[N(token_ids=[5], text="five", finish_reason="stop", logprobs=None)])
class Tokenizer:
    def __call__(self, text, **kwargs):
        return {"input_ids": torch.tensor([[1, 2]])}
    def decode(self, ids, **kwargs):
        return "a query"
class Game(AgentInstanceBase):
    def __init__(self): pass
    async def step(self, state_dict, **kwargs):
        await asyncio.sleep(0.01)
        if state_dict["label"] == "broken":
            raise LookupError("no such move")
        return {"rewards": torch.tensor(0.25), "environment_feedback": "", "done": True}
async def main(executor, *labels):
    sampling = N(max_tokens=4, logprobs=None)
    calls = [executor.execute("a prompt", label, sampling, 64, Tokenizer(), Engine()) for label in labels]
    found = await asyncio.gather(*calls, return_exceptions=True)
    return [repr(one) if isinstance(one, Exception) else one["reward"] for one in found]
results = []
for executor, labels in (
    (SingleTurnAgentExecutor(sys.argv[1]), ["good", "none", "raise", "nan"]), (MultiTurnAgentExecutor(Game), ["good"]),
    (MultiTurnAgentExecutor(Game), ["broken", "good"]),
):
    results.append(asyncio.run(main(executor, *labels)))
    time.sleep(1)
print(json.dumps(results))
"""
FUNCTION = """
def reward_func(queries, prompts, labels):
    if labels[0] == "raise":
        raise ValueError("no label")
    return {"good": {"rewards": 0.5}, "none": None, "nan": {"rewards": float("nan")}}[labels[0]]
"""

pytestmark = pytest.mark.timeout(300)


def test_openrlhf_s_executors_give_what_they_gave_and_each_failure_is_counted(lab: Lab, tmp_path: Path) -> None:
    function = tmp_path / "reward.py"
    function.write_text(FUNCTION)
    with Receiver() as receiver:
        environ = {**lab.environment(), "RLHFD_RUN": "executors", "RLHFD_ENDPOINT": receiver.endpoint}
        command = [str(lab.python), "-c", EXECUTORS, str(function)]
        done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        frames = receiver.frames("executors")
    printed = done.stdout.splitlines()[-1]
    assert printed == "[[0.5, null, null, NaN], [0.25], [\"LookupError('no such move')\", 0.25]]"
    told = [frame.metrics for frame in frames if f"{NAME}/count" in frame.metrics]
    assert [(one[f"{NAME}/count"], one[f"{NAME}/failed_count"]) for one in told] == [(4, 3), (1, 0), (2, 1)]
    assert told[1][f"{NAME}/latency_max_seconds"] >= 0.01
    errors = [failed["error"] for failed in events(frames, "reward_failed")]
    assert errors[0] in ("returned NoneType, not a dictionary", "ValueError: no label", "returned NaN")
    assert errors[1:] == ["LookupError: no such move"]
    assert events(frames, "attached")[-1]["missing"] == []
