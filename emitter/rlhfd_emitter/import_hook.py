"""Calls a function right after a named module was imported, without importing it ourselves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

AfterImport = Callable[[ModuleType], object]


class AfterImportFinder:
    """A ``sys.meta_path`` entry that lets the other finders find, then adds a step after the module's execution.

    Matches by module name, never by path: Ray unpacks a ``working_dir`` copy of OpenRLHF anywhere.
    """

    def __init__(self, callbacks: dict[str, AfterImport]) -> None:
        self._callbacks = callbacks
        self._searching: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._callbacks or fullname in self._searching:
            return None
        self._searching.add(fullname)
        try:
            spec = _find_with_others(self, fullname, path, target)
        finally:
            self._searching.discard(fullname)
        if spec is not None and spec.loader is not None:
            self._add_step(spec.loader)
        return spec

    def _add_step(self, loader: object) -> None:
        original = getattr(loader, "exec_module", None)
        if original is None or getattr(original, "__rlhfd__", None) is self:
            return

        # Asks for the name again: a loader may serve many modules, as those of other import hooks often do.
        def exec_module(module: ModuleType) -> None:
            name = module.__name__
            original(module)
            if name in self._callbacks:
                self._callbacks[name](module)

        exec_module.__rlhfd__ = self  # type: ignore[attr-defined]
        try:
            loader.exec_module = exec_module  # type: ignore[attr-defined]
        except (AttributeError, TypeError):
            return  # a loader without room for attributes: this module stays unobserved


def _find_with_others(
    own: object, fullname: str, path: Sequence[str] | None, target: ModuleType | None
) -> ModuleSpec | None:
    for finder in list(sys.meta_path):
        if finder is own or not hasattr(finder, "find_spec"):
            continue
        spec = finder.find_spec(fullname, path, target)
        if spec is not None:
            return spec
    return None


def install(callbacks: dict[str, AfterImport]) -> None:
    """Watch for the modules named in ``callbacks``; those already imported get their call now."""
    sys.meta_path.insert(0, AfterImportFinder(callbacks))
    for name, callback in callbacks.items():
        module = sys.modules.get(name)
        if module is not None:
            callback(module)
