"""One hook: counts what goes wrong in it, switches itself off alone after three failures in a row, knows its cost."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from contextvars import ContextVar
from time import perf_counter
from typing import Any

from rlhfd_emitter.log import warn

MAX_FAILURES = 3  # in a row; more of the same would only cost time
MAX_ERROR = 500

Function = Callable[..., Any]


class Hook:
    """What runs of ours at the symbol ``name``, or for the signals of a group, ``signals.<group>``.

    ``off``: it failed :data:`MAX_FAILURES` times in a row and is not called any more in this process. ``error`` is
    what went wrong last, ``failures`` how often in a row. ``calls`` and ``seconds``: how often it was called so far,
    and for how long our own code ran. ``report`` is told the first failure and the switching off, nothing else.
    """

    def __init__(self, name: str, report: Callable[[Hook], None] | None = None) -> None:
        self.name = name
        self.off = False
        self.error = ""
        self.failures = 0
        self.calls = 0
        self.seconds = 0.0
        self._report = report
        self._limit = MAX_FAILURES if report is not None else sys.maxsize
        self._in_a_row: dict[str, int] = {}  # by action: one that fails is not excused by another that works

    def guarded(self, action: Callable[..., object], *arguments: object, **keywords: object) -> object:
        """Call our own ``action``; whatever goes wrong in it stays here. ``None`` if it failed. Any thread."""
        clock = perf_counter()
        result = None
        try:
            result = action(*arguments, **keywords)
        except Exception as error:  # noqa: BLE001 - the oath: a hook never harms the call it watches
            self._failed(action, error)
        else:
            if self._in_a_row:
                self._in_a_row.pop(_name(action), None)
        self.seconds += perf_counter() - clock
        return result

    def bind(self, action: Callable[..., object], *arguments: object) -> object:
        """Like :meth:`guarded`, for what is done once: one failure switches the hook off."""
        limit, self._limit = self._limit, 1
        try:
            return self.guarded(action, *arguments)
        finally:
            self._limit = limit

    def _failed(self, action: Callable[..., object], error: BaseException) -> None:
        name, first = _name(action), not self.error
        self.failures = self._in_a_row[name] = self._in_a_row.get(name, 0) + 1
        self.error = describe(error)
        ends = self.failures >= self._limit and not self.off
        self.off = self.off or ends
        try:
            if self._report is None:
                warn("hook", "rlhfd: a hook failed and was ignored: %s", self.error)
            elif ends:
                warn(f"{self.name} is off", "rlhfd: hook %s failed and is switched off: %s", self.name, self.error)
                self._report(self)
            elif first:
                warn(self.name, "rlhfd: hook %s failed and was ignored: %s", self.name, self.error)
                self._report(self)
        except Exception:  # noqa: BLE001 - logging is the user's, too
            return


_UNBOUND = Hook("")
_current: ContextVar[Hook] = ContextVar("rlhfd_hook", default=_UNBOUND)


def bound() -> Hook:
    """The hook that is being bound, or whose original is running: the innermost of this context.

    An asynchronous generator has no context of its own; its wrapper keeps what this says while it is being bound.
    """
    return _current.get()


def guarded(action: Callable[..., object], *arguments: object, **keywords: object) -> object:
    """Call our own ``action`` on the account of the hook that is running; see :meth:`Hook.guarded`."""
    return _current.get().guarded(action, *arguments, **keywords)


def unbound(action: Callable[..., object], *arguments: object) -> object:
    """Call our own ``action`` on nobody's account: what goes wrong is one line a minute in the log."""
    return _UNBOUND.guarded(action, *arguments)


def attach(hook: Hook, wrapper: Callable[[Any, Function], Function], process: object, original: Function) -> Function:
    """``original`` with ``wrapper`` round it; once ``hook`` is off, calls go straight to ``original``.

    ``original`` itself is the answer if the wrapper declines or fails. The wrapper of an asynchronous generator has
    to look at ``hook.off`` and to count its calls itself.
    """
    held = hook.bind(_wrapped, hook, wrapper, process, original)
    if held is None or held is original or inspect.isasyncgenfunction(held):
        return original if held is None else held
    replacement: Function = held  # type: ignore[assignment]
    return (_coroutine if inspect.iscoroutinefunction(replacement) else _plain)(hook, replacement, original)


def _wrapped(hook: Hook, wrapper: Callable[[Any, Function], Function], process: object, original: Function) -> Function:
    outer = _current.get()
    _current.set(hook)
    try:
        return wrapper(process, original)
    finally:
        _current.set(outer)


def _plain(hook: Hook, replacement: Function, original: Function) -> Function:
    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if hook.off:
            return original(*args, **kwargs)
        hook.calls += 1
        outer = _current.get()
        _current.set(hook)
        try:
            return replacement(*args, **kwargs)
        finally:
            _current.set(outer)

    return wrapper


def _coroutine(hook: Hook, replacement: Function, original: Function) -> Function:
    @functools.wraps(original)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        if hook.off:
            return await original(*args, **kwargs)
        hook.calls += 1
        outer = _current.get()
        _current.set(hook)
        try:
            return await replacement(*args, **kwargs)
        finally:
            _current.set(outer)

    return wrapper


def _name(action: Callable[..., object]) -> str:
    return getattr(action, "__qualname__", None) or type(action).__name__


def describe(error: BaseException) -> str:
    """``ValueError: what it says``, of bounded length; an error that cannot be printed is its type."""
    try:
        return f"{type(error).__name__}: {error}"[:MAX_ERROR]
    except Exception:  # noqa: BLE001 - somebody else's __str__
        return type(error).__name__
