"""The wrappers round vLLM's ``AsyncLLM``, the front end of an engine, in OpenRLHF's rollout actor."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from rlhfd_emitter.hook import Hook, bound
from rlhfd_emitter.process import Process, guarded
from rlhfd_emitter.wrappers import Function, Wrapper, named, positional, reads

# OpenRLHF's `WorkerWrap`: called once a parameter, by NCCL or Ray and by CUDA IPC.
UPDATES = ("update_weight", "update_weight_cuda_ipc")


class Requests:
    """The requests of this process that are under way: one ``generation`` phase while there is at least one.

    Changed in the event loop's thread; ``under_way`` and :meth:`busy_seconds` may be read in any. ``over`` is set each
    time the last one has ended.
    """

    def __init__(self) -> None:
        self.under_way = 0
        self.over = threading.Event()
        self._busy: tuple[float, float | None] = (0.0, None)  # seconds until now, and since when it goes on
        self._token: Any = None

    def begin(self, process: Process, hook: Hook) -> None:
        self.under_way += 1
        if self.under_way == 1:
            self._busy = (self._busy[0], time.monotonic())
            self._token = hook.guarded(process.begin, "generation")

    def end(self, process: Process, hook: Hook) -> None:
        self.under_way -= 1
        if self.under_way == 0:
            self._busy = (self.busy_seconds(), None)
            self.over.set()
            over, self._token = self._token, None
            hook.guarded(process.end, over)

    def busy_seconds(self) -> float:
        """How long at least one request was under way, since the process began."""
        seconds, since = self._busy
        return seconds if since is None else seconds + time.monotonic() - since


def requests(process: Process, original: Function) -> Function:
    """``AsyncLLM.generate``: see :class:`Requests`."""
    if not inspect.isasyncgenfunction(original):
        return original
    hook, known = bound(), process.shared(Requests)

    @functools.wraps(original)
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        watched = not hook.off  # at the beginning: who was counted in is counted out
        if watched:
            hook.calls += 1
            known.begin(process, hook)
        outputs = original(*args, **kwargs)
        try:
            async for output in outputs:
                yield output
        finally:
            if watched:
                known.end(process, hook)
            await outputs.aclose()

    return wrapper


def coroutine_phase(name: str) -> Wrapper:
    """Report each call of a coroutine function as a phase."""

    def wrap(process: Process, original: Function) -> Function:
        if not inspect.iscoroutinefunction(original):
            return original

        @functools.wraps(original)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            token: Any = guarded(process.begin, name)
            try:
                result = await original(*args, **kwargs)
            except BaseException as error:
                guarded(process.end, token, error)
                raise
            guarded(process.end, token)
            return result

        return wrapper

    return wrap


@dataclass
class WeightSync:
    """One update of this engine's weights, from the beginning of its first call to the end of its last."""

    token: Any
    first: object
    began: float = field(default_factory=time.perf_counter)
    in_calls: float = 0.0
    calls: int = 0


@dataclass(frozen=True)
class _Update:
    """One call: one parameter. OpenRLHF marks the last one of a broadcast (``empty_cache``)."""

    sync: WeightSync
    is_last: bool
    began: float


class WeightSyncs:
    """The update of this process's engine that is under way, if any."""

    def __init__(self) -> None:
        self._open: WeightSync | None = None

    def begin(self, process: Process, parameter: object, is_last: bool) -> _Update:
        """A call for ``parameter`` begins. If an update began with it and is still open, that one was broken off."""
        if self._open is not None and self._open.first == parameter:
            process.end(self._open.token, RuntimeError("the weight update began anew"))
            self._open = None
        if self._open is None:
            self._open = WeightSync(process.begin("weight_sync"), parameter)
        return _Update(self._open, is_last, time.perf_counter())

    def end(self, process: Process, update: _Update, error: BaseException | None = None) -> None:
        """The call is over; ``error`` is what ended it, if it did not end well."""
        sync, now = update.sync, time.perf_counter()
        if self._open is not sync:
            return
        sync.calls += 1
        sync.in_calls += now - update.began
        if error is None and not update.is_last:
            return
        self._open = None
        process.end(sync.token, error)
        if error is None and process.emitter is not None:
            seconds = {"seconds": now - sync.began, "call_seconds": sync.in_calls, "calls": float(sync.calls)}
            metrics = {f"rlhfd/engine/weight_sync/{name}": value for name, value in seconds.items()}
            process.emitter.emit(process.step, metrics)


@reads("method", "args")
def weight_sync(process: Process, original: Function) -> Function:
    """``AsyncLLM.collective_rpc``: OpenRLHF's weight updates, each one ``weight_sync`` phase with its durations."""
    if not inspect.iscoroutinefunction(original):
        return original
    names = positional(original)
    syncs = process.shared(WeightSyncs)

    def look(args: tuple[object, ...], kwargs: dict[str, object]) -> _Update | None:
        arguments = named(names, args, kwargs)
        sent = arguments.get("args") or ()
        if arguments.get("method") not in UPDATES or not sent or type(sent[-1]) is not bool:
            return None
        return syncs.begin(process, sent[0], sent[-1])

    @functools.wraps(original)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        update: Any = guarded(look, args, kwargs)
        if update is None:
            return await original(*args, **kwargs)
        try:
            result = await original(*args, **kwargs)
        except BaseException as error:
            guarded(syncs.end, process, update, error)
            raise
        guarded(syncs.end, process, update)
        return result

    return wrapper
