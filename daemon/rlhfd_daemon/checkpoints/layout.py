"""What a folder is: which checkpoints are in it, of which files and ranks each consists, and what is missing of it.

Decided from names, sizes and times alone (a :class:`scan.Tree`). The layouts are those of OpenRLHF: for PPO ``_actor``
and ``_critic`` with tag folders and ``<tag>_hf`` beside them; tag folders directly for SFT, reward models and DPO; and
the final export. DeepSpeed names the files of a tag folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from rlhfd_daemon.checkpoints.lacking import Missing, missing_of
from rlhfd_daemon.checkpoints.names import Named, PartKind, named
from rlhfd_daemon.checkpoints.scan import TAG, File, Tree

__all__ = ["Description", "Kind", "Layout", "Part", "Role", "describe"]

Kind = Literal["deepspeed", "export", "adapter", "universal", "file"]
Role = Literal["actor", "critic"]
ROLES: dict[str, Role] = {"_actor": "actor", "_critic": "critic"}
RECOVERY_SCRIPT = "zero_to_fp32.py"
SINGLE = (".safetensors", ".pt", ".pth", ".bin")
_MODELS = frozenset({"weights", "index", "config"})
_ADAPTERS = frozenset({"adapter", "adapter_config"})


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a checkpoint, relative to it. ``modified`` in Unix seconds by the clock of the file system, ``whole``
    as in :class:`seals.Seal`."""

    file: str
    named: Named
    size: int
    modified: float
    whole: bool | None

    @property
    def kind(self) -> PartKind:
        """See :class:`names.Named`."""
        return self.named.kind


@dataclass(frozen=True, slots=True)
class Description:
    """A checkpoint. ``path`` is relative to the root, empty for the root itself.

    ``step`` and ``best`` are what its name says. ``zero`` is what its files show: 0, 3, ``None`` while there are none,
    and 2 for ZeRO-1, too, whose files have the same names. ``missing`` are files that those which are there demand.
    ``elsewhere``: the ranks are consecutive and not the first, and nothing is there that the first rank writes, so this
    is one node's part of a checkpoint without a shared file system. ``latest``: whether the file of that name says that
    it is the newest, ``None`` without one. ``stamp`` changes with any of its files. ``problem`` says why it is not
    known in full.
    """

    path: str
    kind: Kind
    identity: tuple[int, int] = (0, 0)
    step: int | None = None
    best: bool = False
    role: Role | None = None
    parts: tuple[Part, ...] = ()
    zero: int | None = None
    missing: Missing = field(default_factory=Missing)
    elsewhere: bool = False
    latest: bool | None = None
    links: tuple[str, ...] = ()
    stamp: str = ""
    problem: str = ""

    def of(self, *kinds: PartKind) -> tuple[Part, ...]:
        """The files of these kinds."""
        return tuple(part for part in self.parts if part.kind in kinds)

    @property
    def optimizer_ranks(self) -> frozenset[tuple[int, int]]:
        """The data and model ranks that have optimizer states of ZeRO."""
        found = (part.named for part in self.of("optimizer_states"))
        return frozenset((one.data_rank or 0, one.model_rank or 0) for one in found)

    @property
    def model_world_size(self) -> int:
        """Tensor-parallel ranks, as far as files are there."""
        return 1 + max((part.named.model_rank or 0 for part in self.parts), default=0)

    @property
    def data_world_size(self) -> int | None:
        """Data-parallel ranks, as far as files are there; ``None`` without ZeRO, whose files alone tell."""
        ranks = [part.named.data_rank for part in self.of("optimizer_states", "model_states")]
        found = [rank for rank in ranks if rank is not None]
        return 1 + max(found) if found else None

    @property
    def metric_is_last(self) -> bool:
        """Whether ``metric.json`` is whole and no older than any other file: since 0.9.9 OpenRLHF writes it behind a
        barrier, after all ranks have written theirs."""
        return _metric_is_last(self.parts)

    @property
    def cut_off(self) -> tuple[str, ...]:
        """Files that do not end as their format demands."""
        return tuple(part.file for part in self.parts if part.whole is False)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(part.size for part in self.parts)

    @property
    def newest(self) -> float | None:
        """When the last file was written, Unix seconds by the clock of the file system."""
        return max((part.modified for part in self.parts), default=None)


@dataclass(frozen=True, slots=True)
class Layout:
    """What there is below a root. ``latest``: by folder that has one, the tag that it names; ``links``: symbolic links
    and special files, which are not followed. With a ``problem`` there may be more than was seen."""

    checkpoints: tuple[Description, ...] = ()
    latest: tuple[tuple[str, str], ...] = ()
    links: tuple[str, ...] = ()
    problem: str = ""

    @property
    def dangling(self) -> tuple[tuple[str, str], ...]:
        """Those of ``latest`` that name a tag which is not there: a resume fails or starts anew."""
        known = {one.path for one in self.checkpoints}
        return tuple((folder, tag) for folder, tag in self.latest if _join(folder, tag) not in known)


def describe(tree: Tree, role: Role | None = None) -> Layout:
    """What ``tree`` is; ``role`` is that of what has none by its place."""
    if not tree.name and len(tree.files) == 1:
        file = tree.files[0]
        part = Part(file.name, named(file.name), file.size, file.modified_ns / 1e9, file.seal.whole)
        one = Description("", "file", tree.identity, role=role, parts=(part,), stamp=_stamp([("", file)]))
        return Layout((one,))
    checkpoints = tuple(_checkpoints(tree, "", None, role))
    folders = list(_paths(tree, ""))
    return Layout(
        checkpoints,
        tuple((path, text) for path, folder in folders if (text := _latest(folder))),
        tuple(_join(path, link) for path, folder in folders for link in folder.links),
        next((folder.problem for folder in tree.walk() if folder.problem), ""),
    )


def _paths(tree: Tree, path: str) -> Iterator[tuple[str, Tree]]:
    yield path, tree
    for folder in tree.folders:
        yield from _paths(folder, _join(path, folder.name))


def _checkpoints(tree: Tree, path: str, above: Tree | None, role: Role | None) -> Iterator[Description]:
    if tree.name in ROLES:
        role = ROLES[tree.name]
    elif any(folder.name in ROLES for folder in tree.folders):
        role = "actor"  # of the exports beside them: OpenRLHF makes none of the critic there
    kind = _kind(tree)
    if kind is not None:
        yield _described(tree, path, kind, above, role)
    if kind not in ("deepspeed", "universal"):
        for folder in tree.folders:
            yield from _checkpoints(folder, _join(path, folder.name), tree, role)


def _kind(tree: Tree) -> Kind | None:
    """By the files, of which the name's suffix says what they are to become."""
    tag = TAG.fullmatch(tree.name)
    kinds = {named(file.name).kind for file in tree.files}
    parameters = [folder for folder in tree.folders if folder.name == "zero"]
    if parameters and ((tag and tag["suffix"] == "_universal") or any(parameters[0].folders)):
        return "universal"
    if tag and tag["suffix"] == "_universal":
        return "universal"
    if kinds & {"model_states", "optimizer_states", "expert_states"} or (tag and not tag["suffix"]):
        return "deepspeed"
    if kinds & _ADAPTERS:
        return "adapter"
    if kinds & _MODELS or (tag and tag["suffix"] == "_hf"):
        return "export"
    return None


def _described(tree: Tree, path: str, kind: Kind, above: Tree | None, role: Role | None) -> Description:
    tag = TAG.fullmatch(tree.name)
    files = [("", file) for file in tree.files]
    if kind == "universal":
        files = [("", file) for file in tree.files if named(file.name).kind == "model_states"]
        files += [(f"zero{where}", file) for where, file in _parameters(tree)]
    parts = tuple(
        Part(_join(where, file.name), _named(where, file), file.size, file.modified_ns / 1e9, file.seal.whole)
        for where, file in files
    )
    if kind in ("export", "adapter"):
        parts = tuple(part for part in parts if part.kind != "other")
    beside = {file.name for file in above.files} if above is not None else set()
    latest = _latest(above) if above is not None else ""
    has_script = RECOVERY_SCRIPT in beside
    elsewhere = kind == "deepspeed" and not latest and not has_script and _elsewhere(parts)
    has_script = has_script and not _metric_is_last(parts)
    demands = {name for file in tree.files for name in file.seal.demands}
    return Description(
        path,
        kind,
        tree.identity,
        step=int(tag["step"]) if tag else None,
        best=bool(tag and tag["best"]),
        role=role,
        parts=parts,
        zero=_zero(parts) if kind == "deepspeed" else None,
        missing=missing_of(kind, [(part.file, part.named) for part in parts], demands, has_script, elsewhere),
        elsewhere=elsewhere,
        latest=latest == tree.name if latest else None,
        links=tree.links,
        stamp=_stamp([("", file) for file in tree.files] if kind == "deepspeed" else files),
        problem=tree.problem or next((one.problem for one in _inner(tree, kind) if one.problem), ""),
    )


def _inner(tree: Tree, kind: Kind) -> Iterator[Tree]:
    return (one for folder in tree.folders for one in folder.walk()) if kind == "universal" else iter(())


def _parameters(tree: Tree) -> Iterator[tuple[str, File]]:
    for zero in tree.folders:
        if zero.name == "zero":
            yield from (("", file) for file in zero.files)
            yield from ((f"/{folder.name}", file) for folder in zero.folders for file in folder.files)


def _named(where: str, file: File) -> Named:
    return Named("parameter") if where else named(file.name)


def _zero(parts: tuple[Part, ...]) -> int | None:
    models = [part.named for part in parts if part.kind == "model_states"]
    if any(one.data_rank is not None for one in models):
        return 3
    if any(part.kind == "optimizer_states" for part in parts):
        return 2
    return 0 if models else None


def _elsewhere(parts: tuple[Part, ...]) -> bool:
    """Whether the ranks do not begin with the first and have no gap, and the first has written nothing here."""
    if any(part.kind == "metric" for part in parts):
        return False
    kinds = ("optimizer_states", "model_states")
    ranks = {part.named.data_rank or 0 for part in parts if part.kind in kinds}
    return bool(ranks) and min(ranks) > 0 and max(ranks) - min(ranks) + 1 == len(ranks)


def _metric_is_last(parts: tuple[Part, ...]) -> bool:
    written = [part.modified for part in parts if part.kind == "metric" and part.whole]
    others = [part.modified for part in parts if part.kind not in ("metric", "other")]
    return bool(written and others) and min(written) >= max(others)


def _latest(tree: Tree) -> str:
    return next((file.seal.text for file in tree.files if file.name == "latest"), "")


def _stamp(files: list[tuple[str, File]]) -> str:
    lines = (f"{where}/{file.name}\0{file.inode}\0{file.size}\0{file.modified_ns}" for where, file in files)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
