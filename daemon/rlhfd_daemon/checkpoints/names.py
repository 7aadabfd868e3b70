"""What the name of a file says about its part in a checkpoint: DeepSpeed's, Transformers' and PEFT's names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Named", "PartKind", "model_file", "named", "optimizer_file", "shard_file"]

PartKind = Literal[
    "model_states", "optimizer_states", "expert_states", "expert_optimizer_states",  # of DeepSpeed
    "weights", "index", "adapter", "config", "adapter_config", "tokenizer",  # of an export
    "parameter", "metric", "other",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Named:
    """``data_rank`` is the place in the data-parallel group, which with ring attention has the ranks of the ring in it,
    ``model_rank`` that in the tensor-parallel one. ``shard`` is ``number of total`` as in ``-00001-of-00002``.
    ``prefix`` is what is before ``zero_`` in the name of an optimizer file: ``bf16_`` or nothing."""

    kind: PartKind
    data_rank: int | None = None
    model_rank: int | None = None
    layer: int | None = None
    expert: int | None = None
    shard: tuple[int, int] | None = None
    prefix: str = ""


# runtime/engine.py of DeepSpeed: _get_ckpt_name, _get_rank_zero_ckpt_name, _get_expert_ckpt_name,
# _get_optimizer_ckpt_name. Numbers have no more digits than any cluster needs.
_DEEPSPEED = (
    ("model_states", r"(?:zero_pp_rank_(?P<data>\d{1,6})_)?mp_rank_(?P<model>\d{1,6})_model_states\.pt"),
    (
        "optimizer_states",
        r"(?P<prefix>(?:bf16_|fp16_)?)zero_pp_rank_(?P<data>\d{1,6})_mp_rank_(?P<model>\d{1,6})_optim_states\.pt",
    ),
    (
        "expert_states",
        r"(?:layer_(?P<layer>\d{1,6})_)?expert_(?P<expert>\d{1,6})_mp_rank_(?P<model>\d{1,6})_model_states\.pt",
    ),
    ("expert_optimizer_states", r"expp_rank_(?P<data>\d{1,6})_mp_rank_(?P<model>\d{1,6})_optim_states\.pt"),
)
_SHARD = r"(?:-(?P<shard>\d{1,6})-of-(?P<total>\d{1,6}))?"
_EXPORT = (
    ("weights", rf"(?:model{_SHARD}\.safetensors)"),
    ("weights", rf"(?:pytorch_model{_SHARD}\.bin)"),
    ("adapter", r"adapter_model\.(?:safetensors|bin)"),
    ("index", r"(?:model\.safetensors|pytorch_model\.bin)\.index\.json"),
    ("config", r"config\.json"),
    ("adapter_config", r"adapter_config\.json"),
    (
        "tokenizer",
        r"tokenizer(?:_config)?\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(?:json|txt)|merges\.txt"
        r"|[\w.-]{1,64}\.model|chat_template\.jinja",
    ),
    ("metric", r"metric\.json"),
)
_PATTERNS: tuple[tuple[PartKind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.ASCII))  # type: ignore[misc]
    for kind, pattern in (*_DEEPSPEED, *_EXPORT)
)


def named(name: str) -> Named:
    """What the file ``name`` is; ``other`` if that is not known."""
    for kind, pattern in _PATTERNS:
        if found := pattern.fullmatch(name):
            said = found.groupdict()
            shard = (int(said["shard"]), int(said["total"])) if said.get("shard") else None
            data, model, layer, expert = (
                int(said[one]) if said.get(one) else None for one in ("data", "model", "layer", "expert")
            )
            return Named(kind, data, model, layer, expert, shard, said.get("prefix") or "")
    return Named("other")


def optimizer_file(prefix: str, data_rank: int, model_rank: int) -> str:
    """The name of the optimizer states of a rank under ZeRO."""
    return f"{prefix}zero_pp_rank_{data_rank}_mp_rank_{model_rank:02d}_optim_states.pt"


def model_file(data_rank: int | None, model_rank: int) -> str:
    """The name of the model states: of each rank under ZeRO-3, else of each tensor-parallel rank."""
    return f"{'' if data_rank is None else f'zero_pp_rank_{data_rank}_'}mp_rank_{model_rank:02d}_model_states.pt"


def shard_file(example: str, number: int) -> str:
    """The name of another shard of the same model."""
    return re.sub(r"-(\d+)-of-", lambda found: f"-{number:0{len(found[1])}d}-of-", example)
