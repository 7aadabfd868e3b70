"""The health of a checkpoint as one number, and what takes from it.

The score is the product over the kinds of issues of ``1 - loss``. The loss of a kind goes from its ``least``, as soon
as there is one issue of it, to its ``most``, when all that it can concern is concerned: ``least + (most - least) *
extent``, where the extents of the issues of a kind add up to at most 1. So one more issue, or a larger one, never
raises the score; a checkpoint without issues has 1.0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rlhfd_alerts.finding import Severity

__all__ = ["KINDS", "Issue", "Kind", "score", "worst"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of issue: the rule that its alert has, what it takes from the score, what to do."""

    rule: str
    severity: Severity
    least: float
    most: float
    meaning: str
    remedy: str


_RESUME = "Do not resume from this one: take the newest that is healthy (rlhfd checkpoints RUN shows them)."

KINDS: dict[str, Kind] = {
    "non_finite": Kind(
        "checkpoint_non_finite", Severity.CRITICAL, 0.6, 1.0,
        "weights that are NaN or infinite; extent: their share of the elements",
        f"{_RESUME} Look for the first non-finite loss or gradient norm before it; bf16 instead of fp16, a smaller "
        "--actor.adam.lr and gradient clipping (--actor.max_norm) help against it.",
    ),
    "moments_non_finite": Kind(
        "checkpoint_moments", Severity.CRITICAL, 0.5, 0.9,
        "optimizer moments that are NaN or infinite; extent: their share of the elements",
        "The weights may still be good, the next optimizer step ruins them: resume with weights alone "
        "(load the Hugging Face export as the model), or from the checkpoint before.",
    ),
    "unreadable": Kind(
        "checkpoint_files", Severity.CRITICAL, 0.7, 1.0,
        "files that are missing, cut off or not what their format demands; extent: their share of the files",
        f"{_RESUME} Look for a full disk, a killed process or a file system that was away while it was written.",
    ),
    "refused": Kind(
        "checkpoint_refused", Severity.CRITICAL, 0.5, 1.0,
        "files that nobody should load: pickles that would run code, archives that unpack to far more than they are",
        "Find out who wrote that file before anything loads it; torch.load(weights_only=True) at the least.",
    ),
    "constant": Kind(
        "checkpoint_constant", Severity.CRITICAL, 0.3, 0.9,
        "tensors that are zero or constant and should not be; extent: their share of the elements",
        "Compare with the checkpoint before (--compare); ZeRO-3 parameters that an export did not gather are zeros.",
    ),
    "structure": Kind(
        "checkpoint_structure", Severity.CRITICAL, 0.4, 0.9,
        "tensors that appeared, vanished or changed their shape since the checkpoint before; extent: their share",
        "The model that was saved is not the one of before: look at what changed in the arguments or in the export.",
    ),
    "moved": Kind(
        "checkpoint_moved", Severity.WARNING, 0.15, 0.6,
        "tensors that moved ten times further than is usual, or by more than a tenth, between two checkpoints; extent: "
        "their share of the elements",
        "Look at the gradient norm and the learning rate between the two; a shard of another run looks the same.",
    ),
    "frozen": Kind(
        "checkpoint_frozen", Severity.CRITICAL, 0.2, 0.6,
        "tensors that did not change while others did; extent: their share of the elements",
        "Parameters that are not trained: look at LoRA targets (--ds.lora.target_modules), "
        "--actor.freeze_visual_encoder and ZeRO-3 leaf modules of MoE models.",
    ),
    "step": Kind(
        "checkpoint_step", Severity.CRITICAL, 0.3, 0.5,
        "steps that do not agree: of the folder's name, the training state, the optimizer, the run",
        "A resume would repeat or skip data and schedule: look which of the files is of another checkpoint.",
    ),
    "dtype": Kind(
        "checkpoint_dtype", Severity.WARNING, 0.06, 0.2,
        "tensors of another type than before; extent: their share of the tensors",
        "Look whether --ds.param_dtype or the export changed: fp16 has a smaller range than bf16.",
    ),
    "unread": Kind(
        "checkpoint_unread", Severity.WARNING, 0.06, 0.3,
        "files or tensors that are not judged: beyond the limits, or of a format that is not read; extent: their share "
        "of the files",
        "Nothing is known of what is in there; look with the program that wrote it. docs/checkpoints.md names the "
        "limits and formats.",
    ),
}  # fmt: skip
"""By name. The table of docs/checkpoints.md is made of it."""


@dataclass(frozen=True, slots=True)
class Issue:
    """Something wrong: ``subject`` is a tensor or a file, ``extent`` the share (0 to 1) that is concerned."""

    kind: str
    subject: str
    summary: str
    extent: float = 1.0
    evidence: dict[str, object] = field(default_factory=dict)

    @property
    def severity(self) -> Severity:
        """As its kind."""
        return KINDS[self.kind].severity


def score(issues: Iterable[Issue]) -> float:
    """The health, 0 to 1, of a checkpoint that has ``issues``."""
    extents: dict[str, float] = {}
    for one in issues:
        extents[one.kind] = min(extents.get(one.kind, 0.0) + max(one.extent, 0.0), 1.0)
    health = 1.0
    for name, extent in sorted(extents.items()):
        kind = KINDS[name]
        health *= 1.0 - (kind.least + (kind.most - kind.least) * extent)
    return health


def worst(issues: Iterable[Issue]) -> Severity | None:
    """The worst severity among ``issues``."""
    return max((one.severity for one in issues), key=lambda severity: severity.rank, default=None)
