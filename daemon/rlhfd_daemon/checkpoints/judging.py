"""What is wrong with a checkpoint, decided from what was found in it; pure.

Limits are those of the catalogue of rules: any value that is not finite, any tensor that became constant, files that
are missing or cut off, updates of more than a tenth, moments that are stale, steps that do not agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rlhfd_daemon.checkpoints.comparison import Comparison
from rlhfd_daemon.checkpoints.defect import KINDS as DEFECTS
from rlhfd_daemon.checkpoints.defect import Defect
from rlhfd_daemon.checkpoints.examining import WEIGHTS, Examined, Key
from rlhfd_daemon.checkpoints.groups import group_of
from rlhfd_daemon.checkpoints.health import Issue
from rlhfd_daemon.checkpoints.lacking import missing_ranks
from rlhfd_daemon.checkpoints.layout import Description
from rlhfd_daemon.checkpoints.statistics import TensorStatistics
from rlhfd_daemon.checkpoints.training_state import TrainingState

__all__ = ["issues_of", "named", "trained"]

MOVED = 0.1  # relative update of a tensor between two checkpoints
MAGNITUDES = 1.0  # of its norm, either way
MOSTLY = 0.5  # share of the elements that changed, from which one that did not change is frozen
MATRIX = 2  # dimensions: vectors (norms, biases) may be constant, and in 16 bits stay so for long
LEARNT = ("embedding", "attention", "mlp", "head")
MAX_RANKS = 100_000


def issues_of(
    found: Description,
    examined: Examined,
    state: TrainingState | None = None,
    defects: Iterable[Defect] = (),
    before: TrainingState | None = None,
    *,
    every_rank: bool = False,
) -> list[Issue]:
    """Everything wrong with the checkpoint ``found``. ``before`` is the state of the one that it was compared with.
    With ``every_rank`` those ranks lack their files that only the training state tells of; they may be on other nodes.
    """
    return [
        *_of_files(found, [*defects, *examined.defects]),
        *(_of_ranks(found, state) if every_rank else ()),
        *_not_finite(examined),
        *_constant(examined),
        *_structure(examined),
        *_moved(examined),
        *_frozen(examined),
        *_steps(found, state, before),
        *_stale(examined),
    ]


def _of_files(found: Description, defects: Sequence[Defect]) -> Iterator[Issue]:
    files = max(len(found.parts) + found.missing.count, 1)
    told = {defect.file for defect in defects if defect.kind in ("missing", "truncated", "malformed")}
    for name in found.missing.names:
        if name not in told:
            yield Issue("unreadable", name, "is missing", 1 / files)
    for name in found.cut_off:
        if name not in told:
            yield Issue("unreadable", name, "does not end as its format demands: it was cut off", 1 / files)
    for defect in defects:
        kind = DEFECTS[defect.kind].issue
        if kind is not None:
            subject = f"{defect.file}: {defect.tensor}" if defect.tensor else defect.file
            yield Issue(kind, subject, defect.summary, 1 / files, dict(defect.evidence))


def _of_ranks(found: Description, state: TrainingState | None) -> Iterator[Issue]:
    """The last ranks leave no gap: how many there are, the state of the training says."""
    world = None if state is None else state.dp_world_size
    if world is None or not 0 < world <= MAX_RANKS or not found.zero or found.elsewhere:
        return
    files = [(part.file, part.named) for part in found.parts]
    lacking = missing_ranks(files, world, lambda *_: False)
    for name in lacking.names:
        if name not in found.missing.names:
            what = f"is missing: the training state is of {world} data-parallel ranks"
            yield Issue("unreadable", name, what, 1 / len(files), {"ranks": world, "missing": lacking.count})


def _not_finite(examined: Examined) -> Iterator[Issue]:
    for is_weight, kind in ((True, "non_finite"), (False, "moments_non_finite")):
        chosen = {key: one for key, one in examined.tensors.items() if (key[0] in WEIGHTS) is is_weight}
        total = sum(one.elements for one in chosen.values())
        for key, one in chosen.items():
            if one.nan or one.infinite:
                summary = f"{one.nan} NaN and {one.infinite} infinite of {one.elements} elements"
                evidence: dict[str, object] = {"nan": one.nan, "infinite": one.infinite, "elements": one.elements}
                yield Issue(kind, named(key), summary, (one.nan + one.infinite) / total, evidence)


def _constant(examined: Examined) -> Iterator[Issue]:
    """Tensors that became constant since the checkpoint before, and matrices that no initialisation leaves constant."""
    weights = _weights(examined)
    total = sum(one.elements for one in weights.values())
    for key, one in weights.items():
        compared = examined.comparisons.get(key)
        is_suspect = _is_learnt(examined, key) or (compared is not None and compared.changed > 0)
        if one.constant and is_suspect:
            summary = "all zero" if one.largest == 0 else f"all {one.min:g}"
            yield Issue("constant", named(key), summary, one.elements / total, {"value": one.min})


def _is_learnt(examined: Examined, key: Key) -> bool:
    return group_of(key[1]) in LEARNT and len(examined.shapes[key]) >= MATRIX


def _structure(examined: Examined) -> Iterator[Issue]:
    both = examined.structure
    if both is None or not both.common:  # nothing in common: of another model, or of another format
        return
    count = len(both.common) + len(both.vanished) + len(both.reshaped)
    for names, what, kind in (
        (both.vanished, "was in the checkpoint before and is not here", "structure"),
        (both.appeared, "was not in the checkpoint before", "structure"),
        (both.reshaped, "has another shape than in the checkpoint before", "structure"),
        (both.retyped, "has another type than in the checkpoint before", "dtype"),
    ):
        for name in names:
            yield Issue(kind, name, what, 1 / count)


def _moved(examined: Examined) -> Iterator[Issue]:
    """Not what begins at zero, as LoRA's second matrix and biases do: its first steps are as large as itself."""
    chosen = {
        key: one
        for key, one in trained(examined).items()
        if _is_learnt(examined, key) or group_of(key[1]) in ("norm", "other")
    }
    total = sum(one.elements for one in chosen.values())
    for key, one in chosen.items():
        magnitudes, update = one.orders_of_magnitude or 0.0, one.relative_update or 0.0
        if update > MOVED or abs(magnitudes) >= MAGNITUDES:
            summary = f"moved by {update:.3g} of its norm, which is {one.norm_ratio or 0.0:.3g} times what it was"
            evidence: dict[str, object] = {
                "relative_update": update, "cosine": one.cosine, "norm_ratio": one.norm_ratio,
            }  # fmt: skip
            yield Issue("moved", named(key), summary, one.elements / total, evidence)


def _frozen(examined: Examined) -> Iterator[Issue]:
    """In 16 bits small updates are rounded away: there, only matrices count, and only if most others changed."""
    chosen = trained(examined)
    total = sum(one.elements for one in chosen.values())
    changed = sum(one.elements for one in chosen.values() if one.changed)
    if not total or changed / total < MOSTLY:
        return
    for key, one in chosen.items():
        exact = examined.tensors[key].dtype in ("float32", "float64")
        if one.unchanged and (exact or _is_learnt(examined, key)):
            yield Issue("frozen", named(key), "did not change since the checkpoint before", one.elements / total)


def _steps(found: Description, state: TrainingState | None, before: TrainingState | None) -> Iterator[Issue]:
    if state is None:
        return
    said, step = state.client.get("global_step"), found.step
    # Asynchronous training names the best one after the step that was evaluated, and saves what it has by then.
    if isinstance(said, int) and step is not None and (said < step if found.best else said != step):
        yield _step(found, f"its training state is of global_step {said}", said, step)
    done = state.global_steps
    if done is not None and state.optimizer_steps:
        wanted = {done, done - (state.skipped_steps or 0)}
        if max(state.optimizer_steps) not in wanted:
            counted = max(state.optimizer_steps)
            yield _step(found, f"the optimizer has done {counted} steps, the engine {done}", counted, done)
    if before is not None and before.global_steps is not None and done is not None and done < before.global_steps:
        yield _step(
            found, f"{done} optimizer steps, {before.global_steps} in the one before", done, before.global_steps
        )


def _step(found: Description, summary: str, said: int, wanted: int) -> Issue:
    return Issue("step", found.path or "checkpoint", summary, 1.0, {"step": said, "expected": wanted})


def _stale(examined: Examined) -> Iterator[Issue]:
    """Moments that stayed as they were although the weights moved: the optimizer's files are of another checkpoint."""
    weights = [one for key, one in examined.comparisons.items() if key[0] in WEIGHTS and one.elements]
    moments = [one for key, one in examined.comparisons.items() if key[0] not in WEIGHTS and one.elements]
    if moments and any(one.changed for one in weights) and all(one.unchanged for one in moments):
        yield Issue("step", "optimizer", f"all {len(moments)} moments are those of the checkpoint before", 1.0)


def _weights(examined: Examined) -> dict[Key, TensorStatistics]:
    """Each weight once, in the type that the model computes with where that is there."""
    names = {name for kind, name in examined.tensors if kind == "weight"}
    return {
        key: one
        for key, one in examined.tensors.items()
        if key[0] == "weight" or (key[0] == "master" and key[1] not in names)
    }


def trained(examined: Examined) -> dict[Key, Comparison]:
    """Comparisons of what is trained: of the optimizer's float32 copies where there are some."""
    masters = {key: one for key, one in examined.comparisons.items() if key[0] == "master"}
    return masters or {key: one for key, one in examined.comparisons.items() if key[0] == "weight"}


def named(key: Key) -> str:
    """The subject of an issue of the tensor ``key``."""
    return key[1] if key[0] == "weight" else f"{key[1]} ({key[0]})"
