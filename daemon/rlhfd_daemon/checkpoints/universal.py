"""DeepSpeed's universal checkpoints: in ``zero/`` a folder for each parameter, a file for each kind of tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rlhfd_daemon.checkpoints import torchzip
from rlhfd_daemon.checkpoints.defect import Defect, Refused
from rlhfd_daemon.checkpoints.opening import Folder, Identity
from rlhfd_daemon.checkpoints.partitions import Piece

__all__ = ["Universal", "read"]

_FILES = {"fp32.pt": "master", "exp_avg.pt": "exp_avg", "exp_avg_sq.pt": "exp_avg_sq"}


@dataclass(frozen=True, slots=True)
class Universal:
    """As ``deepspeed.Tag``; the state is in the files beside ``zero/``."""

    pieces: tuple[Piece, ...] = ()
    defects: tuple[Defect, ...] = ()
    identities: Mapping[str, Identity] = field(default_factory=dict)


def read(folder: Folder) -> Universal:
    """What is in ``zero/`` of ``folder``. Raises :class:`Vanished`."""
    pieces: list[Piece] = []
    defects: list[Defect] = []
    identities: dict[str, Identity] = {}
    try:
        with folder.folder("zero") as zero:
            for parameter in zero.names():
                try:
                    with zero.folder(parameter) as files:
                        for name in files.names():
                            if name in _FILES:
                                _take(files, name, parameter, pieces, defects, identities)
                except Refused as refused:
                    if not parameter.endswith(".pt"):  # beside the folders lies optimizer_state.pt
                        defects.append(refused.defect)
    except Refused as refused:
        defects.append(refused.defect)
    return Universal(tuple(pieces), tuple(defects), identities)


def _take(
    files: Folder,
    name: str,
    parameter: str,
    pieces: list[Piece],
    defects: list[Defect],
    identities: dict[str, Identity],
) -> None:
    with files.file(name) as opened:
        contents = torchzip.read(opened)
    identities.update(contents.identities)
    defects.extend(contents.defects)
    for tensor in contents.tensors:
        if tensor.name in ("", "param"):
            pieces.append(Piece(_FILES[name], parameter, tensor.shape, 0, replace(tensor, name=parameter)))
