"""Wrappers round OpenRLHF's reward calls: a reward function, a remote reward model, an agent's environment."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from itertools import islice
from typing import Any

from rlhfd_emitter.frame import number
from rlhfd_emitter.hook import Hook, bound
from rlhfd_emitter.metadata import redact_url
from rlhfd_emitter.process import Process, guarded
from rlhfd_emitter.signals.reward_calls import Call, Calls
from rlhfd_emitter.wrappers import Function

MAX_ERROR = 300
MAX_ITEMS = 1024
OPENRLHF = "openrlhf.utils.agent"
GIVEN_UP = (asyncio.CancelledError, GeneratorExit)

Judge = Callable[[Any], "str | None"]

# OpenRLHF makes a task of each request and tries it there again: a task has a copy of its maker's context.
_remote: ContextVar[Call | None] = ContextVar("rlhfd_remote", default=None)
_tried: ContextVar[Call | None] = ContextVar("rlhfd_tried", default=None)


def reward_function(process: Process, original: Function) -> Function:
    """``SingleTurnAgentExecutor.__init__``: what it has loaded as ``reward_func`` is watched from then on."""

    def watch(executor: Any) -> None:
        function = vars(executor).get("reward_func")
        if callable(function) and not hasattr(function, "__rlhfd__"):
            executor.reward_func = watched(process, "reward_func", function, lacking)

    return _after_init(original, watch)


def environment(process: Process, original: Function) -> Function:
    """``MultiTurnAgentExecutor.__init__``: ``step`` of the agent's class gives the reward; ``reset`` may hang, too."""

    def watch(executor: Any, agent_class: Any) -> None:
        for name, judge, counted in (("step", lacking_tensor, True), ("reset", None, False)):
            owner = next((each for each in agent_class.__mro__ if name in vars(each)), None)
            method = vars(owner).get(name)
            # OpenRLHF's own are not worth it: a reset that does nothing, a step that raises.
            if owner is None or owner.__module__ == OPENRLHF or hasattr(method, "__rlhfd__"):
                continue
            if inspect.iscoroutinefunction(method):
                setattr(owner, name, watched(process, name, method, judge, counted))

    return _after_init(original, watch)


def remote_model(process: Process, original: Function) -> Function:
    """``SingleTurnAgentExecutor._fetch_rewards_via_http``: a call with all its attempts."""
    if not inspect.iscoroutinefunction(original):
        return original
    watched_call = watched(process, "http", original, lacking_answers)

    @functools.wraps(original)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return await watched_call(*args, **kwargs)
        finally:
            _remote.set(None)

    return wrapper


def attempt(process: Process, original: Function) -> Function:
    """aiohttp's ``ClientSession._request``, through which every request goes; only those for rewards are noted."""
    if not inspect.iscoroutinefunction(original):
        return original

    @functools.wraps(original)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = _remote.get()
        if call is None:
            return await original(*args, **kwargs)
        guarded(_try, call)
        try:
            response = await original(*args, **kwargs)
        except Exception as error:
            call.trouble = str(guarded(_told, error))
            raise
        guarded(_answered, call, response)
        return response

    return wrapper


class _Watch:
    """What is done before and after each call of one kind, on the account of ``hook``."""

    def __init__(self, process: Process, hook: Hook, kind: str, judge: Judge | None, counted: bool) -> None:
        self.hook = hook
        self._process, self._kind, self._judge, self._counted = process, kind, judge, counted
        self._calls = process.shared(Calls)

    def begin(self) -> Call:
        call = self._calls.begin(self._process, self._kind, self._counted)
        if self._kind == "http":
            _remote.set(call)
        return call

    def returned(self, call: Call | None, result: Any) -> None:
        if call is None:
            return
        wrong = None
        try:
            wrong = self._judge(result) if self._judge is not None else None
        finally:  # a call that cannot be judged is over, too
            self._calls.end(self._process, call, _with_trouble(call, wrong))

    def raised(self, call: Call | None, error: BaseException) -> None:
        if call is None:
            return
        if isinstance(error, GIVEN_UP):
            self._calls.end(self._process, call, counted=False)
        else:
            told: Any = self.hook.guarded(_told, error) or type(error).__name__
            self._calls.end(self._process, call, _with_trouble(call, told), error)


def watched(process: Process, kind: str, original: Function, judge: Judge | None, counted: bool = True) -> Function:
    """``original``, a function or a coroutine function, with its calls noted; ``judge`` says why a result is none.

    To be called while a hook is bound or runs: the calls come later, from anywhere, and are that hook's.
    """
    hook = bound()
    watch = _Watch(process, hook, kind, judge, counted)

    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        if hook.off:
            return original(*args, **kwargs)
        call: Any = hook.guarded(watch.begin)
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            hook.guarded(watch.raised, call, error)
            raise
        hook.guarded(watch.returned, call, result)
        return result

    @functools.wraps(original)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        if hook.off:
            return await original(*args, **kwargs)
        call: Any = hook.guarded(watch.begin)
        try:
            result = await original(*args, **kwargs)
        except BaseException as error:
            hook.guarded(watch.raised, call, error)
            raise
        hook.guarded(watch.returned, call, result)
        return result

    chosen: Any = coroutine if inspect.iscoroutinefunction(original) else function
    chosen.__rlhfd__ = True
    return chosen  # type: ignore[no-any-return]


def lacking(answer: Any) -> str | None:
    """Why OpenRLHF finds no reward in ``answer``; ``None`` if it does, or if that cannot be said."""
    if not isinstance(answer, Mapping):
        return None if hasattr(answer, "get") else f"returned {type(answer).__name__}, not a dictionary"
    value = answer.get("rewards")
    values = list(islice(value, MAX_ITEMS)) if isinstance(value, (list, tuple)) else [value]
    return next((wrong for wrong in map(_lacking, values) if wrong), None)


def lacking_tensor(answer: Any) -> str | None:
    """The same of an agent's step, whose reward OpenRLHF takes by ``.item()``."""
    wrong = lacking(answer)
    if wrong is None and isinstance(answer, Mapping) and not hasattr(answer.get("rewards"), "item"):
        return f"returned rewards of type {type(answer.get('rewards')).__name__}, not a tensor"
    return wrong


def lacking_answers(answers: Any) -> str | None:
    """The same of a list of answers, one a request."""
    if not isinstance(answers, list):
        return None
    return next((wrong for wrong in map(lacking, answers) if wrong), None) if answers else "returned no answer"


def _lacking(value: Any) -> str | None:
    if value is None or isinstance(value, (str, bytes, Mapping)):
        return "returned no rewards" if value is None else f"returned rewards of type {type(value).__name__}"
    try:
        converted = number(value)
    except Exception:  # noqa: BLE001 - a tensor of several values, or a type of the user's: OpenRLHF decides
        return None
    return "returned NaN" if converted is not None and math.isnan(converted) else None


def _after_init(original: Function, watch: Callable[..., None]) -> Function:
    """``original``, an ``__init__``; afterwards ``watch`` gets the object and, if it takes one more, the argument."""
    arguments = len(inspect.signature(watch).parameters)

    def look(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = inspect.signature(original).bind(*args, **kwargs).arguments
        watch(*list(bound.values())[:arguments])

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        guarded(look, args, kwargs)
        return result

    return wrapper


def _try(call: Call) -> None:
    again = _tried.get() is call
    _tried.set(call)
    call.retries = (call.retries or 0) + again


def _answered(call: Call, response: Any) -> None:
    status = response.status
    call.trouble = f"HTTP {status}" if status >= 400 else ""


def _told(error: BaseException) -> str:
    return redact_url(f"{type(error).__name__}: {error}"[:MAX_ERROR])


def _with_trouble(call: Call, failure: str | None) -> str | None:
    return f"{failure}; last attempt: {call.trouble}" if failure and call.trouble else failure
