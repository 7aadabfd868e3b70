"""Writes the attention mask of every batch of SFT, reward models and DPO to ``LAB_DUMP``, where OpenRLHF makes it.

``batch-<rank>-<count>.npy``, counted from 1: of SFT each batch that is trained on; of pairs chosen and rejected answers
together, each time they are joined: for the model, for DPO's reference model, and in evaluations.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from lab_imports import after_import

_count = 0


def _write(mask: Any) -> None:
    global _count
    import numpy

    _count += 1
    numpy.save(Path(os.environ["LAB_DUMP"], f"batch-{os.environ['RANK']}-{_count:04d}.npy"), mask.numpy())


@after_import("openrlhf.trainer.sft_trainer")
def _dump_sft(module: ModuleType) -> None:
    original = module.iter_grad_accum_global_norm

    def iter_grad_accum_global_norm(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for batch, normalizers in original(*args, **kwargs):
            _write(batch[1].squeeze(1))
            yield batch, normalizers

    module.iter_grad_accum_global_norm = iter_grad_accum_global_norm


@after_import("openrlhf.trainer.rm_trainer")
def _dump_rm(module: ModuleType) -> None:
    _dump_pairs(module.RewardModelTrainer)


@after_import("openrlhf.trainer.dpo_trainer")
def _dump_dpo(module: ModuleType) -> None:
    _dump_pairs(module.DPOTrainer)


def _dump_pairs(trainer: Any) -> None:
    original = trainer.concatenated_inputs

    @functools.wraps(original)
    def concatenated_inputs(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        _write(result[1])
        return result

    trainer.concatenated_inputs = concatenated_inputs
