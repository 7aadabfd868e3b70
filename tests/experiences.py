"""Made-up experiences, and a tensor with torch's names over numpy: torch is not installed where these tests run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

STEP_FIELDS = ("action_log_probs", "base_action_log_probs", "rollout_log_probs", "values", "returns", "advantages")


class Tensor(np.ndarray[Any, Any]):
    """What the signals use of ``torch.Tensor``, with torch's results."""

    def detach(self) -> Any:
        return self

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> int:
        return self.size

    def unsqueeze(self, axis: int) -> Any:
        return np.expand_dims(self, axis)

    def bool(self) -> Any:
        return self.astype(np.bool_)

    def double(self) -> Any:
        return self.astype(np.float64)

    def long(self) -> Any:
        return self.astype(np.int64)

    def abs(self) -> Any:
        return np.abs(self)

    def exp(self) -> Any:
        return np.exp(self)

    def expm1(self) -> Any:
        return np.expm1(self)

    def clamp(self, low: float, high: float) -> Any:
        return np.clip(self, low, high)

    def isfinite(self) -> Any:
        return np.isfinite(self)

    def maximum(self, other: Any) -> Any:
        return np.maximum(self, other)

    def new_empty(self, size: int | tuple[int, ...]) -> Any:
        return tensor(np.empty(size, self.dtype))

    def new_full(self, size: tuple[int, ...], value: int) -> Any:
        return tensor(np.full(size, value, self.dtype))

    def argwhere(self) -> Any:
        return np.argwhere(self)

    def index_select(self, axis: int, index: Any) -> Any:
        return np.take(self, index, axis)

    def masked_fill(self, mask: Any, value: float) -> Any:
        return tensor(np.where(mask, value, self))

    def sort(self, axis: int) -> Any:  # type: ignore[override]
        return SimpleNamespace(values=tensor(np.sort(np.asarray(self), axis)))

    def new_tensor(self, values: Sequence[float]) -> Any:
        return tensor(values, self.dtype)

    def repeat_interleave(self, times: Any) -> Any:
        return np.repeat(self, times)

    def index_add(self, axis: int, index: Any, source: Any) -> Any:
        added = self.copy()
        np.add.at(added, index, source)
        return added


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """``torch.cat``."""
    return np.concatenate(tensors, dim).view(Tensor)


def tensor(values: Any, dtype: Any = None) -> Tensor:
    """The duck tensor of a list or an array."""
    return np.array(values, dtype).view(Tensor)


def made_up(seed: int) -> list[dict[str, Any]]:
    """The fields of one step's experiences as float32 and integer arrays, with gaps as of an agent, samples without a
    token, ties, and NaN where nothing may look."""
    random = np.random.default_rng(seed)
    group, batch = int(random.integers(1, 5)), int(random.integers(1, 7))
    places = random.permutation(group * batch)
    experiences = []
    for places_here in np.array_split(places, int(random.integers(1, 4))):
        if len(places_here):
            experiences.append(_made_up_one(random, places_here))
    batches = batching(random, "rollout")
    without = [name for name in ("base_action_log_probs", "rollout_log_probs", "values") if random.random() < 0.2]
    for fields in experiences:
        fields.update(dict.fromkeys(without))
        fields["args"] = {
            "reward.clip_range": [-0.5, 0.75],
            "rollout.n_samples_per_prompt": group,
            "algo.advantage.estimator": "group_norm" if fields["values"] is None else "gae",
            **batches,
        }
        _estimate(fields)
    return experiences


def attention(random: np.random.Generator, rows: int, width: int) -> Any:
    """An attention mask (B, T), padded on the right; now and then a row has no token."""
    return (np.arange(width) < random.integers(0, width + 1, (rows, 1))).astype(np.int64)


def batching(random: np.random.Generator, stage: str) -> dict[str, Any]:
    """Arguments about micro-batches: packed or not, of a fixed number of rows or of tokens."""
    args: dict[str, Any] = {"ds.ring_attn_size": 1, "ds.tensor_parallel_size": 1, "ds.packing_samples": False}
    if random.random() < 0.6:
        args |= {"ds.packing_samples": True, "ds.ring_attn_size": int(random.integers(1, 5))}
    if random.random() < 0.4:
        args |= {"train.dynamic_batch_enable": True, f"{stage}.max_tokens_per_gpu": int(random.integers(1, 100))}
        args["ds.tensor_parallel_size"] = int(random.integers(1, 3))
    return args


def _made_up_one(random: np.random.Generator, places: Any) -> dict[str, Any]:
    rows, width = len(places), int(random.integers(3, 40))
    mask = np.zeros((rows, width), np.int64)
    for row in range(rows):
        start, end = sorted(random.integers(0, width, 2))
        mask[row, start : end + 1] = 1
        mask[row, int(random.integers(0, width))] = 0
        mask[row] *= random.random() > 0.1
    policy = -random.exponential(1, mask.shape)
    fields = {
        "sequences": random.integers(0, 4, (rows, width + 1)) + 150_000,
        "attention_mask": attention(random, rows, width + 1),
        "action_mask": mask,
        "index": [int(place) for place in places],
        "rewards": np.round(random.normal(0, 0.5, rows), 1),
        "response_length": mask.sum(1),
        "truncated": random.random(rows) < 0.3,
        "action_log_probs": policy,
        "base_action_log_probs": policy + random.normal(0, 0.3, mask.shape),
        "rollout_log_probs": policy + random.normal(0, 0.05, mask.shape),
        "values": random.normal(0, 1, mask.shape),
        "returns": random.normal(0.5, 2, mask.shape),
        "advantages": random.standard_t(2, mask.shape),
    }
    for name in STEP_FIELDS:
        fields[name] = np.where(mask == 1, fields[name], np.nan)
    return {name: _float32(values) for name, values in fields.items()}


def _float32(values: Any) -> Any:
    return values.astype(np.float32) if getattr(values, "dtype", None) == np.float64 else values


def _estimate(fields: dict[str, Any]) -> None:
    """The advantages before whitening: what ``shim/lab_dump.py`` takes from the estimator itself."""
    values = 0 if fields["values"] is None else fields["values"].astype(np.float64)
    fields["raw"] = fields["returns"].astype(np.float64) - values


def dumped(experiences: Sequence[Mapping[str, Any]], kl_coefficient: float) -> dict[str, Any]:
    """The arrays that ``shim/lab_dump.py`` would write of them."""
    arrays: dict[str, Any] = {"kl_coefficient": kl_coefficient}
    for i, fields in enumerate(experiences):
        names = {"base_action_log_probs": "base"}
        kept = {name: value for name, value in fields.items() if value is not None and name != "args"}
        arrays.update({f"{i}/{names.get(name, name)}": np.asarray(value) for name, value in kept.items()})
    return arrays


def experience(fields: Mapping[str, Any], make: Any = tensor) -> Any:
    """An object with OpenRLHF's attributes, its arrays as tensors."""
    held = {name: make(value) if isinstance(value, np.ndarray) else value for name, value in fields.items()}
    return SimpleNamespace(info={}, **held)


def maker(args: Mapping[str, Any], kl_coefficient: float = 0.01) -> Any:
    """What the signals read of a ``RemoteExperienceMaker``; ``args`` by dotted name."""
    root = SimpleNamespace()
    for name, value in args.items():
        *folders, last = name.split(".")
        place = root
        for folder in folders:
            vars(place).setdefault(folder, SimpleNamespace())
            place = getattr(place, folder)
        setattr(place, last, value)
    estimator = args.get("algo.advantage.estimator")
    return SimpleNamespace(args=root, advantage_estimator=estimator, kl_ctl=SimpleNamespace(value=kl_coefficient))
