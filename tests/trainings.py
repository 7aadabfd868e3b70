"""Made-up training calls of policy and critic, in the arrays of ``lab_dump_training.py``, and their run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from experiences import attention, batching, maker, tensor
from in_place import recorder
from rlhfd_emitter.process import Process
from rlhfd_emitter.signals import training
from rlhfd_emitter.wrappers import after, before

POLICY = ("log_probs", "old_log_probs", "advantages", "action_mask")
CRITIC = ("values", "old_values", "returns", "action_mask")


class PolicyLoss:
    """What a hook sees of OpenRLHF's."""

    def __init__(self, **settings: Any) -> None:
        vars(self).update(settings)

    def forward(
        self,
        log_probs: Any,
        old_log_probs: Any,
        advantages: Any,
        action_mask: Any = None,
        rollout_log_probs: Any = None,
    ) -> str:
        return "loss"


class ValueLoss(PolicyLoss):
    def forward(self, values: Any, old_values: Any, returns: Any, action_mask: Any = None) -> str:  # type: ignore[override]
        return "loss"


class Engine:
    """DeepSpeed's: one step for every ``accumulation`` calls, with the next of ``norms``; ``None`` is an overflow."""

    def __init__(self, norms: list[Any], accumulation: int = 1, global_steps: int = 0) -> None:
        self.norms, self.accumulation, self.global_steps = iter(norms), accumulation, global_steps
        self.skipped_steps = self.calls = 0
        self.norm: Any = None

    def step(self) -> None:
        self.calls += 1
        if self.calls % self.accumulation == 0:
            self.global_steps += 1
            norm = next(self.norms)
            self.skipped_steps += norm is None
            self.norm = self.norm if norm is None else norm

    def get_global_grad_norm(self) -> Any:
        return self.norm


class Strategy:
    def optimizer_step(self, _optimizer: Any, model: Any, _scheduler: Any, name: str = "model", **kwargs: Any) -> None:
        getattr(model, "model", model).step()


def made_up(seed: int, kind: str) -> dict[str, Any]:
    """One call of ``kind`` as float32, with NaN where nothing may look, in micro-batches of different widths."""
    random = np.random.default_rng(seed)
    arrays: dict[str, Any] = {"low": 0.2, "high": 0.3} if kind == "policy" else {"clip": 0.5}
    if kind == "policy" and seed % 3 == 0:
        arrays["dual"] = 2.0
    batches = int(random.integers(1, 5))
    for i in range(batches):
        shape = (int(random.integers(1, 5)), int(random.integers(1, 30)))
        mask = random.integers(0, 2, shape)
        mask *= int(random.random() > 0.1)
        first = -random.exponential(1, shape)
        fields = (first, first + random.normal(0, 0.3, shape), random.standard_t(3, shape))
        for name, values in zip(POLICY if kind == "policy" else CRITIC, fields, strict=False):
            arrays[f"{i}/{name}"] = np.where(mask == 1, values, np.nan).astype(np.float32)
        arrays[f"{i}/action_mask"] = mask
        arrays[f"{i}/attention_mask"] = attention(random, shape[0], shape[1] + 1)
    arrays["args"] = json.dumps(batching(random, "train"))
    arrays["steps"], arrays["norms"] = np.ones(batches, np.int64), random.exponential(1, batches)
    return arrays


def run(
    process: Process,
    kind: str,
    arrays: Mapping[str, Any],
    *,
    make: Callable[[Any], Any] = tensor,
    engine: Any = None,
    **settings: Any,
) -> dict[str, float]:
    """Train through the hooks on what ``arrays`` hold, and return the metrics of the frame, its cost left out."""
    names = POLICY if kind == "policy" else CRITIC
    bounds = {"low": "clip_eps_low", "high": "clip_eps_high", "dual": "dual_clip", "clip": "clip_eps"}
    held = {attribute: float(arrays[name]) for name, attribute in bounds.items() if name in arrays}
    owner, observer = (PolicyLoss, training.policy_loss) if kind == "policy" else (ValueLoss, training.value_loss)
    forward = before(observer)(process, owner.forward)
    step = training.optimizer_step(process, Strategy.optimizer_step)
    collate = after(training.collated)(process, lambda mask: SimpleNamespace(attention_mask=mask))
    engine = engine or Engine([float(norm) for norm in arrays["norms"]])
    loss, model = owner(**{**held, **settings}), SimpleNamespace(model=engine) if kind == "policy" else engine

    def train(_trainer: Any) -> str:
        for i in range(len({name.partition("/")[0] for name in arrays if "/" in name})):
            if f"{i}/attention_mask" in arrays:
                collate(make(arrays[f"{i}/attention_mask"]))
            fields = {name: make(arrays[f"{i}/{name}"]) for name in names}
            mask = fields.pop("action_mask")
            assert forward(loss, *fields.values(), action_mask=mask) == "loss"
            step(Strategy(), None, model, None, name=kind)
        return "status"

    sent = len(recorder(process).metrics)
    trainer = maker(json.loads(str(arrays.get("args", "{}"))))
    assert training.ppo_train(kind)(process, train)(trainer) == "status"
    (frame,) = recorder(process).metrics[sent:] or [(None, {})]
    frame[1].pop("rlhfd/overhead/training_seconds", None)
    return frame[1]
