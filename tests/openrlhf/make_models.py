"""Writes small models of the architectures that OpenRLHF trains, before and after a few optimizer steps.

Usage: python make_models.py FOLDER, in the environment of OpenRLHF. Each ``NAME`` has ``global_step1_hf`` and
``global_step2_hf``, each with a ``told.json`` beside it: torch's statistics of every tensor.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]
import transformers  # type: ignore[import-not-found]
from checkpoint_in_torch import told  # type: ignore[import-not-found]

SIZES = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "llama": ("Llama", SIZES, torch.bfloat16),
    "llama-sharded": ("Llama", SIZES, torch.float32),
    "qwen2": ("Qwen2", {**SIZES, "tie_word_embeddings": True}, torch.bfloat16),
    "qwen3": ("Qwen3", SIZES, torch.float32),
    "mistral": ("Mistral", SIZES, torch.bfloat16),
    "gemma2": ("Gemma2", SIZES, torch.float32),
    "mixtral": ("Mixtral", {**SIZES, "num_local_experts": 4}, torch.bfloat16),
    "gpt2-bin": (
        "GPT2", {"vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}, torch.float32,
    ),
}  # fmt: skip
STEPS = 3
LEARNING_RATE = 1e-4


def save(model: Any, folder: Path, name: str) -> None:
    if name.endswith("-bin"):
        folder.mkdir(parents=True)
        model.config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        model.save_pretrained(folder, max_shard_size="100KB" if name.endswith("-sharded") else "5GB")
    folder.with_suffix(".json").write_text(json.dumps(told(folder)))


def main(root: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name, (kind, settings, dtype) in MODELS.items():
        config = getattr(transformers, f"{kind}Config")(**settings)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        save(model, root / name / "global_step1_hf", name)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        for _ in range(STEPS):
            tokens = torch.randint(3, 512, (8, 32))
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        save(model, root / name / "global_step2_hf", name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
