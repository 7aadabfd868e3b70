"""What `rlhfd check` says of rules that it could not look at: grouped by what they lack."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.text import Text

from rlhfd_daemon.rules.unchecked import Unchecked

__all__ = ["lines", "objects", "of"]

PREFIX = "not checked: "


def objects(found: Iterable[Unchecked]) -> Iterator[dict[str, object]]:
    """The objects of `--json --unchecked`, one a rule."""
    for one in found:
        yield {"kind": "not_checked", "rule": one.rule, "reason": one.reason}


def of(told: Iterable[Mapping[str, str]]) -> list[Unchecked]:
    """What a daemon told."""
    return [Unchecked(**one) for one in told]


def lines(found: Sequence[Unchecked], width: int, whole: bool) -> Iterator[Text]:
    """With ``whole`` each reason with its rules, otherwise how many there are."""
    lacking = [one for one in found if one.reason.startswith(PREFIX)]
    if not lacking:
        return
    if not whole:
        yield Text(f"{len(lacking)} rules not checked, for want of what they read; --unchecked says why each.")
        return
    rules: dict[str, list[str]] = {}
    for one in lacking:
        rules.setdefault(one.reason, []).append(one.rule)
    for reason, ids in sorted(rules.items()):
        yield from (Text(line) for line in textwrap.wrap(reason, width, subsequent_indent="  "))
        yield from (Text(line) for line in textwrap.wrap(", ".join(ids), width - 4, initial_indent="    ",
                                                         subsequent_indent="    "))  # fmt: skip
    yield Text("")
