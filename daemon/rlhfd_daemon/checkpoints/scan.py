"""The folders below one that a user named: names, sizes, times, and whether each file ends as its format demands.

Bounded in entries, folders and depth. Nothing is followed but the path that was named, nothing is written, and of a
file no more is read than its end, its header or, if it is JSON, itself. What goes away meanwhile is left out: rotation
deletes while this looks. May hang on a dead mount, so it belongs into a child process.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from rlhfd_daemon.checkpoints.defect import Refused, Vanished
from rlhfd_daemon.checkpoints.opening import Folder
from rlhfd_daemon.checkpoints.seals import Seal, Stamp, seal_of

__all__ = ["MAX_DEPTH", "MAX_ENTRIES", "MAX_FOLDERS", "TAG", "File", "Scanner", "Tree"]

MAX_ENTRIES = 100_000
MAX_FOLDERS = 10_000
MAX_DEPTH = 5
"""Folders below the root: ``checkpoints_ppo_ray/_actor/global_step1_universal/zero/<parameter>`` below ``./ckpt``."""

TAG = re.compile(r"(?P<best>best_)?global_step(?P<step>\d{1,15})(?P<suffix>_hf|_universal)?", re.ASCII)
"""What OpenRLHF calls the folders of checkpoints, and DeepSpeed the universal ones."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file. ``modified_ns`` by the clock of the file system; for ``seal`` see :func:`seals.seal_of`."""

    name: str
    size: int
    modified_ns: int
    inode: int
    seal: Seal = field(default_factory=Seal)


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder. ``identity`` is device and inode; ``links`` are the symbolic links, pipes and the like in it, none of
    them looked into; ``problem`` says why it is not known in full, empty if it is."""

    name: str
    identity: tuple[int, int] = (0, 0)
    files: tuple[File, ...] = ()
    folders: tuple[Tree, ...] = ()
    links: tuple[str, ...] = ()
    problem: str = ""

    def walk(self) -> Iterator[Tree]:
        """This one and all below it."""
        yield self
        for folder in self.folders:
            yield from folder.walk()


class Scanner:
    """Scans, and remembers the ends of files that have not changed since the scan before."""

    def __init__(self, *, entries: int = MAX_ENTRIES, folders: int = MAX_FOLDERS) -> None:
        self._limits = entries, folders
        self._known: dict[Stamp, Seal] = {}

    def scan(self, path: str) -> Tree | None:
        """What is at ``path``; ``None`` if there is nothing. A single file is a tree without a name that holds only it.

        Raises :class:`Refused` if the path itself cannot be read.
        """
        look = _Look(*self._limits, self._known)
        try:
            if not stat.S_ISDIR(os.stat(path).st_mode):
                return look.single(path)
            with Folder.open(path) as root:
                return look.tree(root, os.path.basename(os.path.normpath(path)), MAX_DEPTH)
        except (Vanished, FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Refused("io", path, f"cannot be read: {error.strerror}") from error
        finally:
            self._known = look.seen


class _Look:
    """One scan, with what is left of its budget."""

    def __init__(self, entries: int, folders: int, known: dict[Stamp, Seal]) -> None:
        self._entries = entries
        self._folders = folders
        self._known = known
        self.seen: dict[Stamp, Seal] = {}

    def single(self, path: str) -> Tree:
        # The link that the user named is followed, as is a folder's.
        folder, name = os.path.split(os.path.realpath(path))
        with Folder.open(folder) as opened:
            found = os.stat(name, dir_fd=opened.descriptor, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise Refused("special", path, "is neither a folder nor a regular file")
            return Tree("", (found.st_dev, found.st_ino), (self._file(opened, name, found),))

    def tree(self, folder: Folder, name: str, depth: int) -> Tree:
        own = os.fstat(folder.descriptor)
        files: list[File] = []
        inner: list[str] = []
        links: list[str] = []
        problem = ""
        for entry, found in self._listed(folder):
            if stat.S_ISREG(found.st_mode):
                files.append(self._file(folder, entry, found))
            elif stat.S_ISDIR(found.st_mode):
                inner.append(entry)
            else:
                links.append(entry)
        if self._entries <= 0:
            problem = "more entries than are looked at"
        trees = []
        for entry in sorted(name for name in inner if depth and _wanted(name, folder.name)):
            if self._folders <= 0:
                problem = problem or "more folders than are looked at"
                break
            self._folders -= 1
            tree = self._below(folder, entry, depth)
            trees += [tree] if tree is not None else []
        files.sort(key=lambda file: file.name)
        return Tree(name, (own.st_dev, own.st_ino), tuple(files), tuple(trees), tuple(sorted(links)), problem)

    def _below(self, folder: Folder, entry: str, depth: int) -> Tree | None:
        try:
            with folder.folder(entry) as opened:
                return self.tree(opened, entry, depth - 1)
        except Vanished:
            return None
        except Refused as refused:  # one that may not be entered
            return Tree(entry, problem=refused.defect.summary)
        except OSError as error:  # its disk fails
            return Tree(entry, problem=f"cannot be read: {error.strerror}")

    def _listed(self, folder: Folder) -> Iterator[tuple[str, os.stat_result]]:
        try:
            with os.scandir(folder.descriptor) as entries:
                for entry in entries:
                    self._entries -= 1
                    if self._entries <= 0:
                        return
                    if not entry.name.isprintable():  # or not UTF-8: nothing that is looked for here
                        continue
                    try:
                        yield entry.name, os.stat(entry.name, dir_fd=folder.descriptor, follow_symlinks=False)
                    except FileNotFoundError:  # rotation
                        continue
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise Vanished(folder.name) from error
            raise Refused("io", folder.name or ".", f"cannot be read: {error.strerror}") from error

    def _file(self, folder: Folder, name: str, found: os.stat_result) -> File:
        stamp = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, name
        seal = self._known.get(stamp)
        if seal is None:
            seal = seal_of(folder, name)
        self.seen[stamp] = seal
        return File(name, found.st_size, found.st_mtime_ns, found.st_ino, seal)


def _wanted(name: str, parent: str) -> bool:
    """Whether to look into the folder ``name``: in a checkpoint's only where a universal one has its parameters."""
    holds = TAG.fullmatch(parent.rpartition("/")[2])
    return name == "zero" if holds and holds["suffix"] != "_hf" else not name.startswith(".")
