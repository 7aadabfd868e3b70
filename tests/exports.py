"""Hugging Face exports of a small model, written by hand."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]
NAMES = (
    "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.input_layernorm.weight", "model.layers.1.self_attn.q_proj.weight", "lm_head.weight",
)  # fmt: skip
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def weights(seed: int = 0, moved: float = 0.0) -> Weights:
    """Of a small model; ``moved`` is the size of a random step away from it."""
    start, step = np.random.default_rng(seed), np.random.default_rng(99)
    found: Weights = {}
    for name in NAMES:
        if "norm" in name:
            found[name] = np.ones(64, np.float32)
        else:
            found[name] = start.normal(0, 0.02, (64, 64)).astype(np.float32)
        found[name] += (moved * step.normal(0, 0.02, found[name].shape)).astype(np.float32)
    return found


def save(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    header: dict[str, object] = {}
    data = b""
    for name, one in tensors.items():
        dtype = {"float32": "F32", "float16": "F16"}[one.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(one.shape), "data_offsets": [len(data), len(data) + one.nbytes]}
        data += one.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def export(folder: Path, tensors: Mapping[str, NDArray[Any]], step: int = 10) -> Path:
    """A Hugging Face export of two shards, as OpenRLHF names it."""
    path = folder / f"global_step{step}_hf"
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    names = list(tensors)
    save(path / FIRST, {name: tensors[name] for name in names[:3]})
    save(path / SECOND, {name: tensors[name] for name in names[3:]})
    places = {name: FIRST if name in names[:3] else SECOND for name in names}
    total = sum(one.nbytes for one in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path
