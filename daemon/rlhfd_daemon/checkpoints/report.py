"""One checkpoint judged: read, compared with the one before, scored; what is printed of it and kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rlhfd_alerts.canonical import spell
from rlhfd_alerts.finding import Severity
from rlhfd_daemon.checkpoints.defect import Refused
from rlhfd_daemon.checkpoints.examining import Examined, Reading, examine
from rlhfd_daemon.checkpoints.health import KINDS, Issue, score, worst
from rlhfd_daemon.checkpoints.inventory import Inventory, take_inventory
from rlhfd_daemon.checkpoints.judging import issues_of
from rlhfd_daemon.checkpoints.layout import Description, Layout, describe
from rlhfd_daemon.checkpoints.opening import Folder
from rlhfd_daemon.checkpoints.reading import Pace
from rlhfd_daemon.checkpoints.scan import Scanner
from rlhfd_daemon.errors import CheckpointError

__all__ = ["Report", "layout_of", "report"]

_Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Report:
    """``path`` as the user or the run named it; ``compared`` is the path of the checkpoint before, if there was one."""

    path: str
    found: Description
    inventory: Inventory
    examined: Examined
    issues: tuple[Issue, ...]
    compared: str | None
    seconds: float

    @property
    def score(self) -> float:
        """The health, 0 to 1; see :mod:`health`."""
        return score(self.issues)

    @property
    def severity(self) -> Severity | None:
        """The worst of its issues."""
        return worst(self.issues)

    def as_json(self) -> dict[str, object]:
        """Plain data; numbers that are not finite are the texts NaN, Infinity and -Infinity."""
        found, state = self.found, self.inventory.state
        return {
            "path": self.path,
            "format": found.kind,
            "role": found.role,
            "step": found.step,
            "best": found.best,
            "bytes": found.size,
            "files": len(found.parts),
            "score": round(self.score, 6),
            "severity": None if self.severity is None else self.severity.value,
            "compared_with": self.compared,
            "issues": [_issue(one) for one in self.issues],
            "notes": [
                {"kind": one.kind, "file": one.file, "tensor": one.tensor, "summary": one.summary}
                for one in self.inventory.defects
            ],
            "training_state": None if state is None else _plain(asdict(state)),
            "groups": {"/".join(key): _plain(asdict(one)) for key, one in self.examined.groups.items()},
            "tensors": {"/".join(key): _plain(asdict(one)) for key, one in self.examined.tensors.items()},
            "comparisons": {"/".join(key): _plain(asdict(one)) for key, one in self.examined.comparisons.items()},
            "seconds": round(self.seconds, 3),
        }


def layout_of(path: Path) -> Layout:
    """The checkpoints at ``path``. Raises :class:`CheckpointError` if there are none."""
    try:
        tree = Scanner().scan(str(path))
    except Refused as refused:
        raise CheckpointError(str(refused)) from refused
    if tree is None:
        raise CheckpointError(f"{path}: there is nothing; name a checkpoint's folder or file, or the folder of several")
    layout = describe(tree)
    if not layout.checkpoints:
        raise CheckpointError(
            f"{path}: no checkpoint in it: neither DeepSpeed's files (mp_rank_*_model_states.pt) nor an export "
            f"(model.safetensors, pytorch_model.bin) nor an adapter, and no folder with one. {layout.problem}".strip()
        )
    return layout


def report(
    root: Path,
    found: Description,
    before: tuple[Path, Description] | None = None,
    *,
    pace: Pace | None = None,
    forget: bool = False,
    every_rank: bool = False,
    progress: _Progress = lambda _done, _total: None,
) -> Report:
    """Judge the checkpoint ``found`` below ``root``, beside the one ``before``; ``every_rank`` as in :mod:`judging`.

    Raises :class:`Vanished` if it goes away meanwhile, :class:`Refused` if its folder cannot be read.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        new = _reading(root, found, stack)
        old = None if before is None else _reading(*before, stack)
        done, total = 0, new.inventory.bytes

        def count(size: int) -> None:
            nonlocal done
            done += size
            progress(done, total)

        examined = examine(new, old, pace=pace, forget=forget, progress=count)
        inventory = new.inventory
        before_state = None if old is None else old.inventory.state
        issues = issues_of(found, examined, inventory.state, inventory.defects, before_state, every_rank=every_rank)
    named = os.path.join(root, found.path) if found.path else str(root)
    compared = None if before is None else os.path.join(before[0], before[1].path)
    return Report(named, found, inventory, examined, tuple(issues), compared, time.monotonic() - began)


def _reading(root: Path, found: Description, stack: ExitStack) -> Reading:
    if found.kind == "file":
        root = root.parent
    folder = stack.enter_context(Folder.open(root))
    for part in found.path.split("/") if found.path else ():
        folder = stack.enter_context(folder.folder(part))
    # Names of files are relative to the checkpoint's own folder, and that is where they are opened.
    own = Folder(os.dup(folder.descriptor))
    stack.enter_context(own)
    return Reading(own, take_inventory(own, found))


def _issue(one: Issue) -> dict[str, object]:
    kind = KINDS[one.kind]
    return {
        "kind": one.kind,
        "rule": kind.rule,
        "severity": kind.severity.value,
        "subject": one.subject,
        "summary": one.summary,
        "extent": one.extent,
        "evidence": _plain(one.evidence),
        "remedy": kind.remedy,
    }


def _plain(value: object) -> object:
    if isinstance(value, float):
        return spell(value)
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value
