"""Parameters of the models that OpenRLHF trains find their group by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfd_daemon.checkpoints.groups import GROUPS, group_of

NAMES = {
    # Llama, Mistral, Qwen 2 and 3
    "model.embed_tokens.weight": "embedding",
    "model.layers.0.self_attn.q_proj.weight": "attention",
    "model.layers.0.self_attn.k_proj.bias": "attention",
    "model.layers.0.self_attn.q_norm.weight": "norm",
    "model.layers.11.mlp.gate_proj.weight": "mlp",
    "model.layers.11.input_layernorm.weight": "norm",
    "model.layers.11.post_attention_layernorm.weight": "norm",
    "model.norm.weight": "norm",
    "lm_head.weight": "head",
    # Gemma
    "model.layers.3.pre_feedforward_layernorm.weight": "norm",
    "model.language_model.layers.3.self_attn.o_proj.weight": "attention",
    # GPT-2
    "transformer.wte.weight": "embedding",
    "transformer.wpe.weight": "embedding",
    "transformer.h.0.ln_1.weight": "norm",
    "transformer.h.0.attn.c_attn.weight": "attention",
    "transformer.h.0.attn.c_proj.weight": "attention",
    "transformer.h.0.mlp.c_fc.weight": "mlp",
    "transformer.h.0.mlp.c_proj.weight": "mlp",
    "transformer.ln_f.bias": "norm",
    # GPT-NeoX
    "gpt_neox.embed_in.weight": "embedding",
    "gpt_neox.layers.2.attention.query_key_value.weight": "attention",
    "gpt_neox.layers.2.mlp.dense_h_to_4h.weight": "mlp",
    "gpt_neox.layers.2.post_attention_layernorm.bias": "norm",
    "gpt_neox.final_layer_norm.weight": "norm",
    "embed_out.weight": "head",
    # Mixtral, Qwen MoE, DeepSeek
    "model.layers.0.block_sparse_moe.gate.weight": "mlp",
    "model.layers.0.block_sparse_moe.experts.3.w1.weight": "mlp",
    "model.layers.0.mlp.shared_expert_gate.weight": "mlp",
    "model.layers.0.self_attn.kv_a_layernorm.weight": "norm",
    # PEFT, OpenRLHF's reward and value head, optimizers, DeepSpeed's prefix
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight": "lora",
    "score.weight": "head",
    "module.model.embed_tokens.weight": "embedding",
    "model.layers.0.mlp.up_proj.weight.exp_avg": "moments",
    "exp_avg_sq/module.model.norm.weight": "moments",
    "something.new": "other",
    "": "other",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_is_in_its_group(name: str) -> None:
    assert group_of(name) == NAMES[name]


def test_every_group_has_an_example() -> None:
    assert set(NAMES.values()) == set(GROUPS)


@given(st.text())
def test_every_name_has_a_group(name: str) -> None:
    assert group_of(name) in GROUPS


def test_a_hostile_name_takes_no_time() -> None:
    assert group_of("norm" * 1_000_000 + "-") == "other"
    assert group_of(".".join(["normnorm-"] * 100_000)) == "other"
