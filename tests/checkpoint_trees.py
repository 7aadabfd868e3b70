"""Small checkpoints of every layout, as OpenRLHF, DeepSpeed and Transformers name them: files in order of writing."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

from rlhfd_daemon.checkpoints.layout import Layout, describe
from rlhfd_daemon.checkpoints.scan import Scanner

__all__ = [
    "adapter", "deepspeed", "export", "look", "ppo", "safetensors", "torch_archive", "under", "universal", "write",
]  # fmt: skip

Files = dict[str, bytes]


def torch_archive(size: int = 64) -> bytes:
    """What ends as a file of ``torch.save``: stored, with its directory at the end."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(size))
    return buffer.getvalue()


def safetensors(elements: int = 16, name: str = "weight") -> bytes:
    """One float32 tensor of ones."""
    data = struct.pack(f"<{elements}f", *[1.0] * elements)
    header = json.dumps({name: {"dtype": "F32", "shape": [elements], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def metric(value: float | None = None) -> bytes:
    return json.dumps({"metric_key": "eval_default_pass1", "metric_value": value}).encode()


def deepspeed(zero: int, data: int = 1, model: int = 1, *, prefix: str = "bf16_", experts: int = 0) -> Files:
    """What is in the folder of a tag, without ``metric.json``."""
    archive = torch_archive()
    files: Files = {}
    for layer in range(2 if experts else 0):
        for expert in range(experts):
            files[f"layer_{layer}_expert_{expert}_mp_rank_00_model_states.pt"] = archive
    for rank in range(model):
        if zero == 3:
            for owner in range(data):
                files[f"zero_pp_rank_{owner}_mp_rank_{rank:02d}_model_states.pt"] = archive
        else:
            files[f"mp_rank_{rank:02d}_model_states.pt"] = archive
    for rank in range(model if zero else 0):
        for owner in range(data):
            files[f"{prefix}zero_pp_rank_{owner}_mp_rank_{rank:02d}_optim_states.pt"] = archive
    return files


def export(shards: int = 1, *, binary: bool = False) -> Files:
    """What ``save_pretrained`` of a model and its tokenizer leaves."""
    stem, ending, content = (
        ("pytorch_model", "bin", torch_archive()) if binary else ("model", "safetensors", safetensors())
    )
    files: Files = {}
    if shards == 1:
        files[f"{stem}.{ending}"] = content
    else:
        names = [f"{stem}-{number:05d}-of-{shards:05d}.{ending}" for number in range(1, shards + 1)]
        files |= dict.fromkeys(names, content)
        index = {"metadata": {"total_size": 64}, "weight_map": {f"layer.{i}": name for i, name in enumerate(names)}}
        files[f"{stem}.{ending}.index.json"] = json.dumps(index).encode()
    return {**files, "config.json": b'{"model_type": "llama"}', "tokenizer.json": b"{}", "tokenizer_config.json": b"{}"}


def adapter(*, binary: bool = False) -> Files:
    """A LoRA adapter; ``binary`` as under ZeRO-3 or tensor parallelism."""
    weights = {"adapter_model.bin": torch_archive()} if binary else {"adapter_model.safetensors": safetensors()}
    return {
        "adapter_config.json": b'{"peft_type": "LORA", "r": 8}',
        **weights,
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b"{}",
    }


def universal(parameters: int = 3, *, frozen: int = 1) -> Files:
    """What ``ds_to_universal`` makes of a tag; the last ``frozen`` parameters have no moments."""
    files: Files = {"mp_rank_00_model_states.pt": torch_archive(), "zero/optimizer_state.pt": torch_archive()}
    for number in range(parameters):
        moments = ("exp_avg.pt", "exp_avg_sq.pt") if number < parameters - frozen else ()
        for file in ("fp32.pt", *moments):
            files[f"zero/model.layers.{number}.weight/{file}"] = torch_archive()
    return files


def ppo(step: int, zero: int = 2, data: int = 1) -> Files:
    """One save of PPO with ``--ckpt.save_hf``, below ``--ckpt.path``."""
    files: Files = {}
    for role in ("_actor", "_critic"):
        files |= under(f"{role}/global_step{step}", deepspeed(zero, data))
        files[f"{role}/zero_to_fp32.py"] = b"#!/usr/bin/env python\n"
        files[f"{role}/latest"] = f"global_step{step}".encode()
        files[f"{role}/global_step{step}/metric.json"] = metric()
    return files | under(f"global_step{step}_hf", export())


def under(folder: str, files: Mapping[str, bytes]) -> Files:
    """``files`` in ``folder``."""
    return {f"{folder}/{name}": content for name, content in files.items()}


def write(root: Path, files: Mapping[str, bytes], *, age_seconds: float | None = None) -> Path:
    """Write ``files`` below ``root``; as old as is said, each a millisecond younger than the one before it."""
    root.mkdir(parents=True, exist_ok=True)
    for number, (name, content) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if age_seconds is not None:
            modified = int(path.stat().st_mtime_ns - age_seconds * 1e9) + number * 1_000_000
            os.utime(path, ns=(modified, modified))
    return root


def look(root: Path) -> Layout:
    """What is there."""
    tree = Scanner().scan(str(root))
    assert tree is not None
    return describe(tree)
