"""The wrappers that hooks.py puts round OpenRLHF's functions. Each calls the original once, whatever happens."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rlhfd_emitter import metadata
from rlhfd_emitter.hook import Function as Function
from rlhfd_emitter.hook import attach, bound
from rlhfd_emitter.process import Process, guarded, ray_role

Wrapper = Callable[[Process, Function], Function]
Reader = TypeVar("Reader", bound=Function)


def reads(*parameters: str) -> Callable[[Reader], Reader]:
    """Declare which parameters of the original a wrapper, or the observer of :func:`before`, reads; ``a|b`` for either.

    An original that lacks one of them is left alone, and ``attached`` and ``rlhfd doctor`` say so.
    """

    def declare(reader: Reader) -> Reader:
        reader.__reads__ = parameters  # type: ignore[attr-defined]
        return reader

    return declare


def read_by(wrapper: Function) -> tuple[str, ...]:
    """What :func:`reads` declared; empty if nothing."""
    return getattr(wrapper, "__reads__", ())


def positional(original: Function) -> tuple[str, ...]:
    """The names of the parameters of ``original`` that take an argument by its place, in order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, one in inspect.signature(original).parameters.items() if one.kind in kinds)


def named(names: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a call by name. Binding them to the signature would say the same and take ten times as long."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def before(observe: Callable[[Process, Mapping[str, Any]], None]) -> Wrapper:
    """Call ``observe(process, arguments by name)`` before the original."""

    @reads(*read_by(observe))
    def wrap(process: Process, original: Function) -> Function:
        names = positional(original)

        def look(args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            observe(process, named(names, args, kwargs))

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            guarded(look, args, kwargs)
            return original(*args, **kwargs)

        return wrapper

    wrap.__name__ = observe.__name__
    return wrap


def after(observe: Callable[[Process, Any], None]) -> Wrapper:
    """Call ``observe(process, result)`` after the original has returned."""

    def wrap(process: Process, original: Function) -> Function:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            guarded(observe, process, result)
            return result

        return wrapper

    wrap.__name__ = observe.__name__
    return wrap


def together(*wrappers: Wrapper) -> Wrapper:
    """All of ``wrappers`` round one original, the first outermost; each is a hook of its own."""

    @reads(*dict.fromkeys(parameter for wrapper in wrappers for parameter in read_by(wrapper)))
    def wrap(process: Process, original: Function) -> Function:
        whole = bound().name
        for wrapper in reversed(wrappers):
            original = attach(process.hook(f"{whole} ({wrapper.__name__})"), wrapper, process, original)
        return original

    return wrap


def phase(name: str | None = None, observe_result: Callable[[Process, Any], None] | None = None) -> Wrapper:
    """Report the call as a phase: ``name``, or for ``execute_batch`` the name of the method it runs."""

    @reads(*([] if name else ["method_name"]))
    def wrap(process: Process, original: Function) -> Function:
        def begin(args: tuple[object, ...], kwargs: dict[str, object]) -> object:
            method = kwargs.get("method_name", args[1] if len(args) > 1 else None)
            return process.begin(name or (method if isinstance(method, str) else original.__name__))

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            token: Any = guarded(begin, args, kwargs)
            try:
                result = original(*args, **kwargs)
            except BaseException as error:
                guarded(process.end, token, error)
                raise
            guarded(process.end, token)
            if observe_result is not None:
                guarded(observe_result, process, result)
            return result

        return wrapper

    wrap.__name__ = "phase"
    return wrap


def tokens(process: Process, original: Function) -> Function:
    """``ray.util.queue.Queue.get``: tells ``GenerateSamplesActor`` of asynchronous training the trainer's last step.

    It waits for tokens of that number (``rollout_slots``). The first ones are 0, also where a run goes on from a
    checkpoint, and say nothing. Its other queue, and those of anyone else, hold no bare integers.
    """

    def take(got: object) -> None:
        if process.role == "GenerateSamplesActor" and type(got) is int and got > 0:
            process.step = got

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        got = original(*args, **kwargs)
        guarded(take, got)
        return got

    return wrapper


def numbers(logs: Mapping[str, object], prefix: str) -> dict[str, object]:
    """OpenRLHF's status dictionary under the names its loggers use; texts such as ``generated_samples`` stay here."""
    return {f"{prefix}{key}": value for key, value in logs.items() if value is not None and hasattr(value, "__float__")}


@reads("world_size", "rank")
def actor_start(process: Process, arguments: Mapping[str, Any]) -> None:
    """``BaseDistributedActor.__init__(self, world_size, rank, master_addr, master_port)``."""
    role = type(arguments["self"]).__name__
    process.open(role, arguments.get("rank"), world_size=arguments.get("world_size"))


@reads("strategy")
def trainer_start(process: Process, arguments: Mapping[str, Any]) -> None:
    """``__init__`` of a trainer: the one place that holds ``strategy.args``."""
    strategy = arguments.get("strategy")
    size = getattr(strategy, "world_size", None)  # the PPO trainer's never joins a process group
    process.open(type(arguments["self"]).__name__, **({} if size is None else {"world_size": size}))
    args = getattr(strategy, "args", None)
    if args is not None:
        trainer = type(arguments["self"]).__name__
        process.report_run(metadata.flatten(args), versions=metadata.versions(), trainer=trainer)


def engine_start(process: Process, arguments: Mapping[str, Any]) -> None:
    """``AsyncLLM.__init__``: the front end of a vLLM engine, in the rollout actor."""
    process.open("RolloutRayActor")


def generator_start(process: Process, arguments: Mapping[str, Any]) -> None:
    """``SamplesGenerator.__init__``: in ``PPOTrainer``, or in ``GenerateSamplesActor`` when training asynchronously."""
    if (role := ray_role()) is not None:  # else the trainer's own __init__, which comes next, knows who it is
        process.open(role)


@reads("global_step|global_steps", "logs_dict")
def step_logs(process: Process, arguments: Mapping[str, Any]) -> None:
    """``save_logs_and_checkpoints``: copied before the call, since some versions pop from the dictionary."""
    trainer = arguments["self"]
    step = arguments.get("global_step", arguments.get("global_steps"))
    emitter = process.open(type(trainer).__name__)
    process.step = step
    strategy = getattr(trainer, "strategy", None)
    logs = arguments.get("logs_dict")
    if logs and (strategy is None or strategy.is_rank_0()):
        emitter.emit(step, numbers(logs, "train/"))
    process.report_cost(time.monotonic())


def eval_logs(process: Process, result: Any) -> None:
    """``compute_eval_metrics``: the evaluation's metrics, at the last step that was logged."""
    if process.emitter is not None and isinstance(result, Mapping):
        process.emitter.emit(process.step, numbers(result, "eval/"))
