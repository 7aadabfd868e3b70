"""Calls functions right after a named module has been executed; costs nothing for modules that nobody asked for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Patch = Callable[[ModuleType], object]

_patches: dict[str, list[Patch]] = {}
_searching = threading.local()


def after_import(name: str) -> Callable[[Patch], Patch]:
    """Decorator: call the function with module ``name`` once that has been executed, or now if it already was."""

    def register(patch: Patch) -> Patch:
        _patches.setdefault(name, []).append(patch)
        module = sys.modules.get(name)
        if module is not None:
            patch(module)
        return patch

    return register


class PatchFinder:
    """A ``sys.meta_path`` entry that asks all the other entries for the module and adds a step to its loader.

    All the others, also those in front of it: another hook of the same kind may sit on either side, and each
    has to get its own layer round ``exec_module``. The names being searched are remembered per thread, so two
    such hooks that ask each other end at the file-system finder instead of in a loop.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        searching: set[str] = _searching.__dict__.setdefault("names", set())
        if fullname not in _patches or fullname in searching:
            return None
        searching.add(fullname)
        try:
            spec = self._ask_the_others(fullname, path, target)
        finally:
            searching.discard(fullname)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            _add_step(spec.loader, fullname)
        return spec

    def _ask_the_others(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        return None


def _add_step(loader: Any, fullname: str) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        for patch in _patches[fullname]:
            patch(module)

    loader.exec_module = exec_module


def install() -> None:
    """Put the finder in front of ``sys.meta_path``, once per process."""
    if not any(isinstance(finder, PatchFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, PatchFinder())  # type: ignore[arg-type]
