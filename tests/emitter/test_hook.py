"""A hook that goes wrong is reported, and after three times in a row it alone is switched off."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from rlhfd_emitter.hook import MAX_FAILURES, Hook, attach, bound, describe, guarded, unbound
from rlhfd_emitter.process import Process
from rlhfd_emitter.vllm_wrappers import requests
from rlhfd_emitter.wrappers import before, phase, together


class Reports:
    """What a hook says of itself: failures in a row, and whether it is off."""

    def __init__(self) -> None:
        self.said: list[tuple[int, bool]] = []

    def __call__(self, hook: Hook) -> None:
        self.said.append((hook.failures, hook.off))


class Emitter:
    """Keeps events."""

    muted = False

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))

    def named(self, kind: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == kind]


@pytest.fixture
def process() -> Process:
    made = Process()
    made.emitter = Emitter()  # type: ignore[assignment]
    return made


def said(process: Process) -> Emitter:
    emitter: Any = process.emitter
    return emitter  # type: ignore[no-any-return]


def fail(*_: object) -> None:
    raise ValueError("oops")


def test_a_hook_is_off_after_three_failures_in_a_row_and_says_so_twice_at_most() -> None:
    reports = Reports()
    hook = Hook("h", reports)
    for action in (fail, fail, len, fail, fail, fail):
        assert hook.guarded(action, "") in (None, 0)
    assert (hook.off, hook.error) == (True, "ValueError: oops")
    assert reports.said == [(1, False), (MAX_FAILURES, True)]
    for _ in range(5):  # calls that were under way
        hook.guarded(fail)
    assert len(reports.said) == 2


def test_an_action_that_always_fails_is_not_excused_by_another_that_works() -> None:
    hook = Hook("h", Reports())
    for _ in range(MAX_FAILURES):
        hook.guarded(len, "")
        hook.guarded(fail)
    assert hook.off


def test_what_fails_in_a_wrapper_counts_for_its_own_hook_and_the_original_stays(process: Process) -> None:
    broken, sound = process.hook("broken"), process.hook("sound")
    seen: list[int] = []
    inner = attach(sound, before(lambda process, arguments: seen.append(arguments["x"])), process, lambda x: x + 1)
    outer = attach(broken, before(fail), process, lambda x: inner(x) * 10)
    assert [outer(x) for x in range(5)] == [10, 20, 30, 40, 50]
    assert seen == [0, 1, 2, 3, 4]
    assert (broken.off, sound.off) == (True, False)
    assert (broken.calls, sound.calls) == (MAX_FAILURES, 5)
    assert [(one["hook"], one["failures"], one["disabled"]) for one in said(process).named("hook_failed")] == [
        ("broken", 1, False), ("broken", MAX_FAILURES, True),
    ]  # fmt: skip


def test_a_hook_that_is_off_costs_no_more_than_a_look(process: Process) -> None:
    hook, calls = process.hook("h"), 0

    def wrapper(process: Process, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            guarded(fail)
            return original(*args)

        return wrapped

    attached = attach(hook, wrapper, process, max)
    assert [attached(1, 2) for _ in range(10)] == [2] * 10
    assert calls == MAX_FAILURES


def test_a_phase_that_could_not_begin_does_not_end(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    attached = attach(process.hook("h"), phase("p"), process, lambda: None)
    attached()
    monkeypatch.setattr(process, "begin", fail)
    for _ in range(MAX_FAILURES):
        attached()
    monkeypatch.undo()
    attached()
    kinds = [kind for kind, _ in said(process).events]
    assert kinds == ["phase_begin", "phase_end", "hook_failed", "hook_failed"]


def test_a_phase_that_is_under_way_when_its_hook_is_switched_off_is_closed(process: Process) -> None:
    hook = process.hook("h")

    def original(depth: int) -> None:
        if depth:
            attached(depth - 1)
        else:
            hook.off = True

    attached = attach(hook, phase("p"), process, original)
    attached(3)
    attached(3)
    begun, ended = said(process).named("phase_begin"), said(process).named("phase_end")
    assert sorted(one["id"] for one in begun) == sorted(one["id"] for one in ended)
    assert len(begun) == 4


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_error_that_cannot_be_printed_closes_its_phase_all_the_same(process: Process) -> None:
    def original() -> None:
        raise UnprintableError

    with pytest.raises(UnprintableError):
        attach(process.hook("h"), phase("p"), process, original)()
    assert [one["error"] for one in said(process).named("phase_end")] == ["UnprintableError"]
    assert not said(process).named("hook_failed")
    assert len(describe(ValueError("x" * 10_000))) <= 500


def test_of_several_wrappers_at_one_symbol_the_broken_one_alone_is_switched_off(process: Process) -> None:
    def broken(process: Process, arguments: object) -> None:
        fail()

    attached = attach(process.hook("s"), together(before(broken), phase("p")), process, lambda x: x)
    assert [attached(x) for x in range(6)] == list(range(6))
    assert len(said(process).named("phase_end")) == 6
    assert {one["hook"] for one in said(process).named("hook_failed")} == {"s (broken)"}


def test_a_wrapper_that_cannot_be_made_leaves_the_original_and_is_reported_once_there_is_an_emitter() -> None:
    process = Process()

    def original() -> str:
        return "original"

    attached = attach(process.hook("s"), together(fail, phase("p")), process, original)  # type: ignore[arg-type]
    assert attached() == "original"
    assert process.hook("s (fail)").off
    assert not process.hook("s").off
    assert attach(process.hook("t"), fail, process, original) is original  # type: ignore[arg-type]
    assert process.hook("t").off


def test_each_thread_has_its_own_running_hook(process: Process) -> None:
    together_now = threading.Barrier(8)
    names: dict[int, list[str]] = {}

    def original(number: int) -> None:
        for _ in range(50):
            together_now.wait(10)
            names.setdefault(number, []).append(bound().name)

    hooked = [attach(process.hook(f"h{number}"), before(lambda *_: None), process, original) for number in range(8)]
    threads = [threading.Thread(target=call, args=(number,)) for number, call in enumerate(hooked)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == {number: [f"h{number}"] * 50 for number in range(8)}
    assert bound().name == ""


def test_coroutines_that_run_at_the_same_time_have_each_their_own(process: Process) -> None:
    def wrapper(process: Process, original: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapped(fails: bool) -> str:
            await asyncio.sleep(0)
            guarded(fail if fails else len, "")
            return str(await original(fails))

        return wrapped

    async def original(fails: bool) -> str:
        await asyncio.sleep(0)
        return bound().name

    good, bad = (attach(process.hook(name), wrapper, process, original) for name in ("good", "bad"))

    async def main() -> list[str]:
        return list(await asyncio.gather(*(one(one is bad) for _ in range(6) for one in (good, bad))))

    assert asyncio.run(main()) == ["good", "bad"] * 6
    assert (process.hook("bad").off, process.hook("good").off) == (True, False)
    assert asyncio.run(bad(True)) == ""  # nothing of ours is running any more
    assert asyncio.iscoroutinefunction(bad)


def test_requests_that_overlap_the_switching_off_are_all_served_and_their_phase_is_closed(process: Process) -> None:
    async def generate(count: int) -> Any:
        for index in range(count):
            await asyncio.sleep(0)
            yield index

    hook = process.hook("generate")
    attached = attach(hook, requests, process, generate)

    async def collect(count: int) -> list[int]:
        return [output async for output in attached(count)]

    async def main() -> None:
        slow = asyncio.create_task(collect(20))
        await asyncio.sleep(0)
        hook.off = True
        assert await asyncio.gather(*(collect(3) for _ in range(4))) == [[0, 1, 2]] * 4
        assert await slow == list(range(20))

    asyncio.run(main())
    assert [kind for kind, _ in said(process).events] == ["phase_begin", "phase_end"]
    assert hook.calls == 1


def test_requests_switch_off_after_three_phases_that_could_not_begin(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def generate(count: int) -> Any:
        for index in range(count):
            yield index

    attached = attach(process.hook("generate"), requests, process, generate)
    monkeypatch.setattr(process, "begin", fail)

    async def main() -> list[list[int]]:
        async def collect() -> list[int]:
            return [output async for output in attached(2)]

        return [await collect() for _ in range(5)]

    assert asyncio.run(main()) == [[0, 1]] * 5
    assert process.hook("generate").off
    assert [kind for kind, _ in said(process).events] == ["hook_failed"] * 2


def test_what_no_hook_answers_for_is_charged_to_none(process: Process) -> None:
    attached = attach(process.hook("h"), before(lambda *_: None), process, lambda: [unbound(fail) for _ in range(9)])
    attached()
    assert not process.hook("h").off
    assert not said(process).events


def test_a_hook_knows_how_often_it_was_called_and_how_long_its_own_code_ran(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[float] = []
    monkeypatch.setattr("rlhfd_emitter.hook.perf_counter", lambda: sum(spent))

    def work(process: Process, arguments: object) -> None:
        spent.append(0.25)

    attached = attach(process.hook("h"), before(work), process, lambda: spent.append(8.0))
    attached()
    attached()
    assert process.hook("h").calls == 2
    assert process.hook("h").seconds == 0.5


def test_a_process_says_once_a_minute_what_share_of_its_time_the_hooks_took(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int | None, dict[str, float]]] = []
    monkeypatch.setattr(said(process), "emit", lambda step, metrics: sent.append((step, metrics)), raising=False)
    start = time.monotonic()
    process.hook("h").seconds, process.hook("signals.kl").seconds = 0.6, 0.5
    process.report_cost(start + 59.0)
    assert sent == []
    process.report_cost(start + 60.1)
    process.report_cost(start + 61.0)
    process.hook("h").seconds += 1.2
    process.report_cost(start + 180.1)
    names = [(step, *metrics) for step, metrics in sent]
    assert names == [(None, "rlhfd/overhead/hooks_ratio")] * 2
    assert [next(iter(metrics.values())) for _, metrics in sent] == pytest.approx([0.01, 0.01], rel=0.01)
