"""Names of TRL, verl and older OpenRLHF versions, and names without ``train/``, as the metric table has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import get_args

from rlhfd_daemon.metrics import Framework, Metric, lookup

__all__ = ["Naming", "framework_of"]

MAX_NAMES = 20_000


class Naming:
    """The names of one log. Which framework wrote it is decided by its first row with a known name and then stays, so
    that no series changes its name; so does which of two keys of the same meaning gets the table's name."""

    def __init__(self) -> None:
        self.framework: Framework | None = None
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()

    def canonical(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """``metrics`` under the table's names; a key that is in no row keeps its own."""
        if self.framework is None:
            self.framework = framework_of(metrics)
        new = [key for key in metrics if key not in self._names]
        if new and len(self._names) < MAX_NAMES:
            for key in sorted(new, key=self._preference):
                self._name(key)
        return {self._names.get(key, key): value for key, value in metrics.items()}

    def _name(self, key: str) -> None:
        found = None if self.framework is None else _meaning(key, self.framework)
        name = key if found is None or found in self._taken else found
        self._names[key] = name
        self._taken.add(name)

    def _preference(self, key: str) -> tuple[bool, int, str]:
        """The table's own spelling first, then the aliases in the table's order."""
        row = None if self.framework is None else lookup(key, self.framework)
        bare = key.removeprefix("train/")
        aliases: tuple[str, ...] = ()
        if row is not None and self.framework != "openrlhf":
            aliases = row.aliases_trl if self.framework == "trl" else row.aliases_verl
        return (row is None or row.name != key, aliases.index(bare) if bare in aliases else len(aliases), key)


def framework_of(keys: Collection[str]) -> Framework | None:
    """Whose names these are: the one that knows most of them, OpenRLHF in doubt; ``None`` if none knows any.

    Of two that know as many, TRL or verl wins with a name that OpenRLHF never had.
    """
    ours = {key for key in keys if _meaning(key, "openrlhf") is not None}
    best: tuple[int, bool, Framework] | None = (len(ours), False, "openrlhf") if ours else None
    for framework in get_args(Framework):
        theirs = {key for key in keys if framework != "openrlhf" and lookup(key, framework) is not None}
        score = (len(theirs), bool(theirs - ours), framework)
        if theirs and (best is None or score[:2] > best[:2]):
            best = score
    return None if best is None else best[2]


def _meaning(key: str, framework: Framework) -> str | None:
    """The table's name of a key, ``None`` if there is none. A placeholder in it stays what it is in the key."""
    row = lookup(key, framework)
    if row is None:
        return None
    if framework != "openrlhf":
        return None if "<" in row.name else row.name
    known = key in _keys(row) or f"train/{key}" in _keys(row) or "<" in row.name
    return (key if "<" in row.name else row.name) if known else None


def _keys(row: Metric) -> tuple[str, ...]:
    return tuple(key_range.key for key_range in row.keys)
