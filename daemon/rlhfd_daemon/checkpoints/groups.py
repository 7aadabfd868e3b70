"""Which part of a model a parameter belongs to, by its name in the models that OpenRLHF trains."""

from __future__ import annotations

import re
from typing import Literal, get_args

__all__ = ["GROUPS", "Group", "group_of"]

Group = Literal["embedding", "attention", "mlp", "norm", "head", "lora", "moments", "other"]
GROUPS: tuple[Group, ...] = get_args(Group)

MAX_PART = 200  # characters; nobody's parameters have longer parts, and patterns may take long for them

# Of a part of a name, the parts being between dots. The first group that has one decides. Names are those of
# transformers' models (Llama, Mistral, Mixtral, Qwen 2 and 3 and MoE, Gemma 1 to 3, GPT-2, GPT-NeoX, DeepSeek), of
# PEFT, of torch's and DeepSpeed's optimizers, and of OpenRLHF's value head.
_PATTERNS: tuple[tuple[Group, re.Pattern[str]], ...] = tuple(
    (group, re.compile(pattern, re.ASCII))  # type: ignore[misc]
    for group, pattern in (
        ("moments", r"exp_avg|exp_avg_sq|exp_inf|max_exp_avg_sq|momentum_buffer|square_avg"),
        ("lora", r"lora_\w+"),
        ("head", r"lm_head|embed_out|score|value_head|v_head|classifier|output_layer"),
        ("norm", r"\w*norm\w*|ln_\w+|\w+_ln"),
        ("embedding", r"embed_tokens|wte|wpe|embed_in|embed_positions|\w*embeddings?"),
        ("attention", r"\w*attn\w*|\w*attention\w*|[qkvo]_proj|qkv_proj|rotary_emb"),
        ("mlp", r"\w*mlp\w*|block_sparse_moe|experts|shared_experts?|feed_?forward|ffn|(?:gate|up|down)_proj|fc[12]"),
    )
)


def group_of(name: str) -> Group:
    """The group of the parameter ``name``, which may have prefixes (``module.``, ``base_model.model.``) and may be one
    of the optimizer's (``exp_avg`` and the like between dots or slashes)."""
    parts = [part for part in name.replace("/", ".").split(".") if len(part) <= MAX_PART]
    return next((group for group, pattern in _PATTERNS if any(map(pattern.fullmatch, parts))), "other")
