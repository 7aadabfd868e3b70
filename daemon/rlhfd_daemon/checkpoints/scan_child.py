"""The process that scans: the folders of checkpoints may be on a mount that hangs, and then it hangs alone.

In: one JSON object a line, ``{"root": path, "role": role or null, "known": digest, "hint": bool}``. Out: one a line,
``{"root": path, "digest": digest}`` and, unless ``known`` is that digest, ``"layout"`` (a :class:`layout.Layout`, or
null if there is nothing at the path), or instead of it ``"error"``; ``"scanned"`` says that it looked. With ``hint`` it
does not, and says that nothing is new, unless inotify told it so since the last scan of that root. Ends with its stdin.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from dataclasses import replace
from typing import Any, cast

import msgspec

from rlhfd_daemon.checkpoints.defect import Refused
from rlhfd_daemon.checkpoints.inotify import Changes
from rlhfd_daemon.checkpoints.layout import Layout, Role, describe
from rlhfd_daemon.checkpoints.scan import Scanner, Tree

__all__ = ["Scans", "main"]

MAX_PARTS = 20_000
NICE = 10


class Scans:
    """The scans of one root, with what is remembered between them; losing it costs a scan."""

    def __init__(self, root: str, *, watched: bool = True) -> None:
        self._root = root
        self._scanner = Scanner()
        self._changes: Changes | None = None
        if watched:
            with contextlib.suppress(OSError):
                self._changes = Changes()
        self._folders: list[str] = []
        self._digest = ""
        self._sure = False  # all folders were watched before they were scanned

    def answer(self, role: Role | None, known: str, hint: bool) -> dict[str, Any]:
        """As the module says, without the root."""
        if hint and known == self._digest and not self._is_news():
            return {"digest": known}
        return {"scanned": True, **self._scanned(role, known)}

    def _scanned(self, role: Role | None, known: str) -> dict[str, Any]:
        try:
            layout = self._scan(role)
        except Refused as refused:
            return {"digest": "", "error": refused.defect.summary}
        built = msgspec.to_builtins(layout)
        self._digest = hashlib.sha256(json.dumps(built).encode()).hexdigest()[:32]
        return {"digest": self._digest} if self._digest == known else {"digest": self._digest, "layout": built}

    def _is_news(self) -> bool:
        """Without inotify only time brings news."""
        if self._changes is None:
            return False
        return not self._sure or self._changes.any()

    def _scan(self, role: Role | None) -> Layout | None:
        if self._changes is not None:
            self._changes.any()  # what happened until now, the scan sees
        tree = self._scanner.scan(self._root)
        if tree is None:
            self._sure, self._folders = self._changes is None, []
            return None
        folders = list(_folders(tree, self._root))
        if self._changes is not None:
            # One that came during the scan was not watched while it was scanned: scan again.
            self._sure = folders == self._folders
            if not self._sure and not self._changes.watch(self._root, folders):
                self._changes.close()
                self._changes = None
        self._folders = folders
        return _bounded(describe(tree, role))


def _folders(tree: Tree, path: str) -> list[str]:
    if not tree.name:  # a single file
        return []
    return [path, *(found for folder in tree.folders for found in _folders(folder, os.path.join(path, folder.name)))]


def _bounded(layout: Layout) -> Layout:
    """Without the files of those checkpoints that have more than anyone looks at."""
    room = MAX_PARTS
    kept = []
    for one in layout.checkpoints:
        if len(one.parts) > room:
            one = replace(one, parts=(), problem=f"it has {len(one.parts)} files, more than are looked at")
        room -= len(one.parts)
        kept.append(one)
    return Layout(tuple(kept), layout.latest, layout.links[:MAX_PARTS], layout.problem)


def main() -> None:
    """Answer until stdin ends."""
    with contextlib.suppress(OSError):
        os.nice(NICE)
    scans: dict[str, Scans] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        root = cast("str", asked["root"])
        one = scans.setdefault(root, Scans(root))
        answer = one.answer(asked.get("role"), asked.get("known", ""), bool(asked.get("hint")))
        sys.stdout.write(json.dumps({"root": root, **answer}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
