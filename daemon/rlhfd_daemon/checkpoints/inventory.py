"""What the files of one checkpoint hold: pieces of parameters, the state of the training, defects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rlhfd_daemon.checkpoints import deepspeed, safetensors, torchzip
from rlhfd_daemon.checkpoints.contents import Contents, shared
from rlhfd_daemon.checkpoints.defect import Defect, Refused
from rlhfd_daemon.checkpoints.layout import Description
from rlhfd_daemon.checkpoints.opening import Folder, Identity
from rlhfd_daemon.checkpoints.partitions import Piece
from rlhfd_daemon.checkpoints.tensor import Tensor
from rlhfd_daemon.checkpoints.training_state import TrainingState

__all__ = ["Inventory", "take_inventory"]

_SAFE_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Inventory:
    """``identities`` are those of the files that were read, to be opened again with; ``state`` only of DeepSpeed."""

    pieces: tuple[Piece, ...] = ()
    state: TrainingState | None = None
    defects: tuple[Defect, ...] = ()
    identities: Mapping[str, Identity] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes of the elements of all pieces."""
        return sum(piece.tensor.nbytes for piece in self.pieces)


def take_inventory(folder: Folder, found: Description) -> Inventory:
    """What the checkpoint ``found``, whose files are in ``folder``, holds. Raises :class:`Vanished` if it goes away."""
    if found.kind in ("deepspeed", "universal"):
        tag = deepspeed.read(folder)
        return Inventory(tag.pieces, tag.state, tag.defects, tag.identities)
    names = [part.file for part in found.parts]
    if _SAFE_INDEX in names:
        contents = [safetensors.read_index(folder, _SAFE_INDEX)]
    else:
        wanted = names if found.kind == "file" else [part.file for part in found.of("weights", "adapter")]
        contents = [_read(folder, name) for name in wanted]
    return _merged(contents)


def _read(folder: Folder, name: str) -> Contents:
    try:
        opened = folder.file(name)
    except Refused as refused:
        return Contents(defects=(refused.defect,))
    with opened:
        return safetensors.read(opened) if name.endswith(".safetensors") else torchzip.read(opened)


def _merged(contents: Iterable[Contents]) -> Inventory:
    tensors: list[Tensor] = []
    defects: list[Defect] = []
    identities: dict[str, Identity] = {}
    places: dict[str, str] = {}
    for one in contents:
        twice = [tensor.name for tensor in one.tensors if places.setdefault(tensor.name, tensor.file) != tensor.file]
        if twice:
            summary = f"{len(twice)} tensors are in {places[twice[0]]}, too"
            defects.append(Defect("inconsistent", next(iter(one.identities), ""), summary, twice[0]))
        tensors += [tensor for tensor in one.tensors if places[tensor.name] == tensor.file]
        defects += one.defects
        identities |= one.identities
    known = {defect.kind for defect in defects}
    defects += [] if "shared" in known else shared(tensors)
    return Inventory(
        tuple(Piece("weight", one.name, one.shape, 0, one) for one in tensors), None, tuple(defects), identities
    )
