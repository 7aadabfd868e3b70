"""What one process has said of its hooks: how many hold, and which see nothing or went wrong."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["follow_hooks", "summary_of"]

MAX_HOOKS = 64
MAX_TEXT = 240
SUMMARISED, SUMMARY_TEXT = 6, 120  # of each process: a frame holds a hundred of them
FAILED = ("failed", "switched off")


def follow_hooks(troubles: Mapping[str, str], event: str, fields: Mapping[str, object]) -> dict[str, str]:
    """``troubles``, in words by hook, after an ``attached`` or ``hook_failed`` of the process; what failed comes
    first. Bounded."""
    if event == "attached":
        changed, failed = _mapping(fields.get("changed")), _failed(troubles)
        missing = {str(hook): _lacks(changed.get(hook)) for hook in _list(fields.get("missing"))}
        found = {**missing, **failed}
    else:
        found = {**troubles, str(fields.get("hook")): _failure(fields)}
    worst = {**_failed(found), **found}
    return {hook[:MAX_TEXT]: worst[hook][:MAX_TEXT] for hook in list(worst)[:MAX_HOOKS]}


def summary_of(troubles: Mapping[str, str]) -> dict[str, str]:
    """The first of ``troubles``, short enough to be repeated at the head of every segment."""
    return {hook[:SUMMARY_TEXT]: troubles[hook][:SUMMARY_TEXT] for hook in list(troubles)[:SUMMARISED]}


def _failed(troubles: Mapping[str, str]) -> dict[str, str]:
    return {hook: text for hook, text in troubles.items() if text.startswith(FAILED)}


def _lacks(parameters: object) -> str:
    if parameters is None:
        return "missing: no such function in the running version"
    return f"changed: the running version's function has no parameter {parameters}"


def _failure(fields: Mapping[str, object]) -> str:
    failures, error = fields.get("failures"), fields.get("error")
    if not fields.get("disabled"):
        return f"failed: {error}"
    often = f"{failures} failures in a row" if isinstance(failures, int) and failures > 1 else "a failure"
    return f"switched off after {often}: {error}"


def _mapping(value: object) -> Mapping[object, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
