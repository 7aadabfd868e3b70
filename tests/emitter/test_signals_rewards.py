"""Reward calls: nothing changes for them, and what is told of them is what happened."""

from __future__ import annotations

import asyncio
import math
import os
import pickle
import statistics
import threading
import time
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from experiences import tensor
from observed import V0_11, Observed, phases
from rlhfd_emitter import hooks
from rlhfd_emitter.hook import attach
from rlhfd_emitter.process import Process
from rlhfd_emitter.signals import reward_calls, rewards
from rlhfd_emitter.signals.reward_calls import NAME, Calls, Tally
from support import wait_for

# OpenRLHF's, less the generation; the wait between two attempts is short.
AGENT = """
import asyncio, itertools
import aiohttp
class AgentInstanceBase:
    async def reset(self, states, **kwargs):
        return states
    async def step(self, state_dict, **kwargs):
        raise NotImplementedError
class MultiTurnAgentExecutor:
    def __init__(self, agent_instance_cls):
        self.agent_instance_cls = agent_instance_cls
    async def execute(self, prompt):
        instance = self.agent_instance_cls()
        await instance.reset({"observation": prompt})
        return (await instance.step({"action_text": prompt}))["rewards"].item()
class SingleTurnAgentExecutor:
    def __init__(self, remote_rm_url=None):
        self.reward_endpoints = [remote_rm_url] if isinstance(remote_rm_url, str) else []
        self.reward_func = None if self.reward_endpoints else remote_rm_url
    async def execute(self, prompt):
        try:
            fetch = self._fetch_rewards_via_func if self.reward_func else self._fetch_rewards_via_http
            (answer,) = await fetch([prompt], [prompt], [prompt])
            return answer.get("rewards")
        except Exception as error:
            return error
    async def _fetch_rewards_via_func(self, queries_list, prompts_list, labels_list):
        return [await asyncio.to_thread(self.reward_func, queries_list, prompts_list, labels_list)]
    async def _fetch_rewards_via_http(self, queries_list, prompts_list, labels_list):
        async def _post_request(url, data, try_max_times=5):
            for _ in range(try_max_times):
                try:
                    async with aiohttp.ClientSession() as session:
                        async with session.post(url, json=data) as response:
                            response.raise_for_status()
                            return await response.json()
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.01)
            raise RuntimeError(f"Request error for {try_max_times} times")
        url, payload = self.reward_endpoints[0], {"query": queries_list}
        return await asyncio.gather(asyncio.create_task(_post_request(url, payload)))
"""


class Recorder:
    """In place of the emitter."""

    muted = False

    def __init__(self) -> None:
        self.frames: list[dict[str, float]] = []
        self.events: list[tuple[str, dict[str, Any]]] = []

    def emit(self, step: int | None, metrics: dict[str, float]) -> None:
        assert step is None
        self.frames.append({name.removeprefix(f"{NAME}/"): value for name, value in metrics.items()})

    def event(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))

    def named(self, kind: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == kind]


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    """A process that emits to a :class:`Recorder` and whose thread does not tick: the test does."""
    monkeypatch.setattr(Calls, "_run", lambda self, process: None)
    found = Process()
    found.emitter = Recorder()  # type: ignore[assignment]
    return found


@pytest.fixture
def agent(process: Process) -> Any:
    """The module with its hooks."""
    module = ModuleType("openrlhf.utils.agent")
    exec(AGENT, module.__dict__)
    hooks.bind(process, module)
    return module


def recorder(process: Process) -> Recorder:
    assert isinstance(process.emitter, Recorder)
    return process.emitter


def tick(process: Process, later: float = 1.0) -> None:
    process.shared(Calls).tick(process, time.monotonic() + later)


def run(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    async def main() -> list[Any]:
        return await asyncio.gather(*coroutines, return_exceptions=True)

    return asyncio.run(main())


def good(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, object]:
    return {"rewards": float(len(queries[0]))}


def test_all_of_an_agent_module_is_bound(process: Process, agent: Any) -> None:
    assert sorted(process.bound) == [
        f"openrlhf.utils.agent.{name}"
        for name in (
            "MultiTurnAgentExecutor.__init__",
            "SingleTurnAgentExecutor.__init__",
            "SingleTurnAgentExecutor._fetch_rewards_via_http",
        )
    ]
    assert process.missing == []


def test_calls_from_many_threads_are_counted_and_measured(process: Process, agent: Any) -> None:
    measured: list[float] = []

    def sleeping(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, object]:
        began = time.perf_counter()
        time.sleep(0.002 * len(queries[0]))
        measured.append(time.perf_counter() - began)
        return good(queries, prompts, labels)

    executor = agent.SingleTurnAgentExecutor(sleeping)
    answers = run(*(executor.execute("x" * (number % 10)) for number in range(200)))
    assert answers == [float(number % 10) for number in range(200)]
    tick(process)
    (frame,) = recorder(process).frames
    assert (frame["count"], frame["failed_count"], frame["failed_ratio"], frame["in_flight"]) == (200, 0, 0, 0)
    wanted = {
        "latency_mean_seconds": statistics.mean(measured), "latency_max_seconds": max(measured),
        "latency_p50_seconds": statistics.median(measured),
        "latency_p99_seconds": statistics.quantiles(measured, n=100, method="inclusive")[98],
    }  # fmt: skip
    # What is measured round the call takes longer; how much is the machine's, so it is told by the median alone.
    assert {name for name, seconds in wanted.items() if frame[name] < seconds - 1e-6} == set()
    assert frame["latency_p50_seconds"] == pytest.approx(wanted["latency_p50_seconds"], abs=0.05)
    assert frame["latency_p50_seconds"] <= frame["latency_p99_seconds"] <= frame["latency_max_seconds"]
    assert "retries" not in frame
    tick(process)
    assert len(recorder(process).frames) == 1  # there is nothing more to tell


WRONG: list[tuple[Any, str]] = [
    (None, "returned NoneType, not a dictionary"),
    (1.0, "returned float, not a dictionary"),
    ({}, "returned no rewards"),
    ({"rewards": None, "scores": 1.0}, "returned no rewards"),
    ({"rewards": [0.5, None]}, "returned no rewards"),
    ({"rewards": math.nan}, "returned NaN"),
    ({"rewards": [1, math.nan]}, "returned NaN"),
    ({"rewards": "1.0"}, "returned rewards of type str"),
    ({"rewards": {"a": 1}}, "returned rewards of type dict"),
]


@pytest.mark.parametrize(("answer", "why"), WRONG)
def test_an_answer_without_a_reward_is_a_failure(answer: Any, why: str, process: Process, agent: Any) -> None:
    executor = agent.SingleTurnAgentExecutor(lambda *batches: answer)
    assert executor.reward_func([], [], []) is answer
    tick(process)
    (frame,) = recorder(process).frames
    assert (frame["count"], frame["failed_count"], frame["failed_ratio"]) == (1, 1, 1)
    (failed,) = recorder(process).named("reward_failed")
    assert (failed["error"], failed["call"], failed["pid"]) == (why, "reward_func", os.getpid())
    assert (failed["failed"], failed["calls"], failed["step"]) == (1, 1, None)


class Odd:
    """A reward of the user's own type."""

    def __float__(self) -> float:
        raise ValueError("several values")


@pytest.mark.parametrize("reward", [0.0, 1, True, [0.5], [], math.inf, tensor([[0.5, 1.0]]), tensor(0.5), Odd()])
def test_an_answer_that_openrlhf_can_take_or_that_we_cannot_judge_is_none(
    reward: Any, process: Process, agent: Any
) -> None:
    agent.SingleTurnAgentExecutor(lambda *batches: {"rewards": reward}).reward_func([], [], [])
    tick(process)
    assert recorder(process).frames[0]["failed_count"] == 0
    assert recorder(process).named("reward_failed") == []


@pytest.mark.parametrize("error", [ValueError("no such label"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_is_a_failure_and_comes_through(error: BaseException, process: Process, agent: Any) -> None:
    def raising(*batches: object) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        agent.SingleTurnAgentExecutor(raising).reward_func([], [], [])
    assert caught.value is error
    tick(process)
    assert recorder(process).frames[0]["failed_ratio"] == 1
    (failed,) = recorder(process).named("reward_failed")
    assert failed["error"] == f"{type(error).__name__}: {error}"
    assert recorder(process).named("phase_end")[0]["error"] == f"{type(error).__name__}: {error}"


def test_errors_are_cut_and_their_urls_redacted(process: Process, agent: Any) -> None:
    def raising(*batches: object) -> None:
        raise OSError("https://me:SECRET@rm/get?token=SECRET " + "x" * 10_000)

    run(agent.SingleTurnAgentExecutor(raising).execute("a"))
    (failed,) = recorder(process).named("reward_failed")
    assert "SECRET" not in failed["error"]
    assert len(failed["error"]) < 400


def test_failures_are_told_at_once_and_once_a_frame(process: Process, agent: Any) -> None:
    function = agent.SingleTurnAgentExecutor(lambda *batches: None).reward_func
    for _ in range(100):
        function([], [], [])
    assert [one["failed"] for one in recorder(process).named("reward_failed")] == [1]
    tick(process)
    function([], [], [])
    assert [(one["failed"], one["calls"]) for one in recorder(process).named("reward_failed")] == [(1, 1), (101, 101)]
    assert recorder(process).frames[0]["failed_count"] == 100


def test_one_call_of_a_batch_is_a_phase_and_then_the_oldest_slow_one(process: Process) -> None:
    calls, events = process.shared(Calls), recorder(process).events
    for _ in range(1000):
        calls.end(process, calls.begin(process, "reward_func"))
    assert [kind for kind, _ in events] == ["phase_begin", "phase_end"]
    hanging, quick = (calls.begin(process, "reward_func") for _ in range(2))
    calls.tick(process, hanging.began + reward_calls.SLOW_SECONDS - 0.1)
    assert len(events) == 2
    calls.tick(process, hanging.began + reward_calls.SLOW_SECONDS + 0.1)
    assert [kind for kind, _ in events[2:]] == ["phase_begin"]
    calls.end(process, quick)
    assert len(events) == 3
    calls.end(process, hanging)
    assert [kind for kind, _ in events[3:]] == ["phase_end"]
    assert {fields["phase"] for _, fields in events} == {"reward"}
    assert events[3][1]["id"] == events[2][1]["id"]


def test_a_phase_that_was_opened_late_is_as_long_as_its_call(process: Process) -> None:
    calls = process.shared(Calls)
    calls.end(process, calls.begin(process, "reward_func"))
    slow = calls.begin(process, "reward_func")
    slow.began -= 25
    calls.tick(process, time.monotonic())
    calls.end(process, slow)
    assert 25 <= recorder(process).named("phase_end")[1]["seconds"] < 30


def test_a_hanging_call_is_told_at_intervals(process: Process) -> None:
    calls = process.shared(Calls)
    hanging = calls.begin(process, "http")
    for second in range(1, 46):
        calls.tick(process, hanging.began + second)
    frames = recorder(process).frames
    assert [round(frame["oldest_seconds"]) for frame in frames] == [10, 20, 30, 40]
    assert {(frame["count"], frame["in_flight"]) for frame in frames} == {(0, 1)}
    assert not any("latency" in name or "ratio" in name for frame in frames for name in frame)


def test_a_batch_is_told_when_generation_is_over(process: Process) -> None:
    token = process.begin("generation")
    calls = process.shared(Calls)
    calls.end(process, calls.begin(process, "reward_func"))
    tick(process)
    assert recorder(process).frames == []
    process.end(token)
    tick(process)
    assert [frame["count"] for frame in recorder(process).frames] == [1]


class Service:
    """A remote reward model: answers with ``statuses`` in turn, the last for ever."""

    def __init__(self, *statuses: int, answer: Any = None) -> None:
        self.statuses, self.answer = list(statuses), {"rewards": 0.5} if answer is None else answer
        self.requests = 0

    async def serve(self, request: web.Request) -> web.Response:
        await request.json()
        self.requests += 1
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return web.json_response(self.answer, status=status)

    async def asked(self, agent: Any, times: int) -> list[Any]:
        """What ``times`` calls at once give."""
        application = web.Application()
        application.router.add_post("/", self.serve)
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            executor = agent.SingleTurnAgentExecutor(f"http://127.0.0.1:{runner.addresses[0][1]}/")
            return await asyncio.gather(*(executor.execute("a") for _ in range(times)))
        finally:
            await runner.cleanup()


@pytest.fixture
def attempts(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp with its hook."""
    request: Callable[..., Any] = aiohttp.ClientSession._request
    monkeypatch.setattr(aiohttp.ClientSession, "_request", rewards.attempt(process, request))


@pytest.mark.usefixtures("attempts")
def test_retries_of_a_remote_model_are_counted(process: Process, agent: Any) -> None:
    service = Service(500, 503, 500, 200)
    assert asyncio.run(service.asked(agent, 8)) == [0.5] * 8
    tick(process)
    (frame,) = recorder(process).frames
    assert (frame["count"], frame["failed_count"], frame["retries"]) == (8, 0, 3)
    assert service.requests == 11
    assert frame["latency_max_seconds"] > 0.01


@pytest.mark.usefixtures("attempts")
def test_a_remote_model_that_stays_broken_is_a_failure_with_its_last_status(process: Process, agent: Any) -> None:
    answers = asyncio.run(Service(502).asked(agent, 2))
    assert [str(answer) for answer in answers] == ["Request error for 5 times"] * 2
    tick(process)
    (frame,) = recorder(process).frames
    assert (frame["count"], frame["failed_count"], frame["retries"]) == (2, 2, 8)
    (failed,) = recorder(process).named("reward_failed")
    assert failed["error"] == "RuntimeError: Request error for 5 times; last attempt: HTTP 502"
    assert (failed["call"], failed["retries"]) == ("http", 4)


@pytest.mark.usefixtures("attempts")
def test_a_remote_model_that_is_not_there_is_a_failure_with_the_reason(process: Process, agent: Any) -> None:
    run(agent.SingleTurnAgentExecutor("http://127.0.0.1:1/").execute("a"))
    (failed,) = recorder(process).named("reward_failed")
    assert "last attempt: ClientConnectorError: Cannot connect" in failed["error"]


@pytest.mark.usefixtures("attempts")
@pytest.mark.parametrize("answer", [{"scores": 1}, {"rewards": math.nan}, ["x"]])
def test_a_remote_model_that_answers_without_a_reward_is_a_failure(answer: Any, process: Process, agent: Any) -> None:
    asyncio.run(Service(200, answer=answer).asked(agent, 1))
    tick(process)
    assert recorder(process).frames[0]["failed_count"] == 1


@pytest.mark.usefixtures("attempts")
def test_other_requests_of_the_process_are_none_of_ours(process: Process, agent: Any) -> None:
    async def main() -> None:
        await Service(200).asked(agent, 1)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.post("http://127.0.0.1:1/")

    asyncio.run(main())
    tick(process)
    assert recorder(process).frames[0]["retries"] == 0


@pytest.mark.usefixtures("attempts")
def test_a_cancelled_call_is_neither_counted_nor_left_under_way(process: Process, agent: Any) -> None:
    executor = agent.SingleTurnAgentExecutor("http://127.0.0.1:1/")

    async def main() -> None:
        task = asyncio.create_task(executor._fetch_rewards_via_http(["a"], ["a"], ["a"]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())
    tick(process)
    assert recorder(process).frames == recorder(process).named("reward_failed") == []
    assert [kind for kind, _ in recorder(process).events[1:]] == ["phase_begin", "phase_end"]


class Environment:
    """Of the user's; ``step`` is inherited by :class:`Game`."""

    async def reset(self, states: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return states

    async def step(self, state_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        text = state_dict["action_text"]
        if text == "raise":
            raise KeyError(text)
        return {"rewards": 1.0 if text == "float" else tensor([0.5])[0]}


class Game(Environment):
    pass


def test_an_agent_s_steps_are_calls_and_its_class_stays_what_it_is(process: Process, agent: Any) -> None:
    environments = {name: value for name, value in vars(Environment).items() if name in ("step", "reset")}
    try:
        executor = agent.MultiTurnAgentExecutor(agent_instance_cls=Game)
        agent.MultiTurnAgentExecutor(Game)  # a second time changes nothing
        assert executor.agent_instance_cls is Game
        assert isinstance(pickle.loads(pickle.dumps(Game())), Game)
        assert run(executor.execute("a"), executor.execute("b")) == [0.5, 0.5]
        assert isinstance(run(executor.execute("raise"))[0], KeyError)
        assert isinstance(run(executor.execute("float"))[0], AttributeError)
    finally:
        for name, value in environments.items():
            setattr(Environment, name, value)
    tick(process)
    (frame,) = recorder(process).frames
    assert (frame["count"], frame["failed_count"]) == (4, 2)
    assert [one["error"] for one in recorder(process).named("reward_failed")] == ["KeyError: 'raise'"]


def test_an_agent_without_a_step_of_its_own_is_left_alone(process: Process, agent: Any) -> None:
    agent.AgentInstanceBase.__module__ = "openrlhf.utils.agent"
    steps = agent.AgentInstanceBase.step
    agent.MultiTurnAgentExecutor(agent.AgentInstanceBase)
    assert agent.AgentInstanceBase.step is steps


def test_a_reset_is_watched_but_not_counted_unless_it_fails(process: Process) -> None:
    calls = process.shared(Calls)
    reset = calls.begin(process, "reset", counted=False)
    calls.tick(process, reset.began + 1)
    calls.end(process, reset)
    assert [kind for kind, _ in recorder(process).events] == ["phase_begin", "phase_end"]
    tick(process)
    assert recorder(process).frames == []
    calls.end(process, calls.begin(process, "reset", counted=False), failure="OSError: no such container")
    assert recorder(process).named("reward_failed")[0]["call"] == "reset"


@pytest.mark.parametrize("part", ["begin", "end", "shared"])
def test_whatever_goes_wrong_in_us_stays_with_us(
    part: str, process: Process, agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = agent.SingleTurnAgentExecutor(good)
    calls = process.shared(Calls)

    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError

    for target in (process, calls):
        monkeypatch.setattr(target, part, broken, raising=False)
    assert executor.reward_func(["abc"], [], []) == {"rewards": 3.0}
    assert agent.SingleTurnAgentExecutor(good).reward_func(["ab"], [], []) == {"rewards": 2.0}


def test_no_call_is_kept_when_its_phase_cannot_be_reported(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(process, "begin", broken)
    calls = process.shared(Calls)
    for _ in range(5):
        calls.end(process, calls.begin(process, "reward_func"))
    assert calls._under_way == {}
    tick(process)
    assert recorder(process).frames[0]["count"] == 5


def test_memory_is_bounded_and_the_quantiles_of_many_calls_are_near() -> None:
    tally = Tally()
    for number in range(100_000):
        tally.add(number / 100_000, False, None)
    found = tally.metrics()
    assert len(tally._latencies) == reward_calls.MAX_LATENCIES
    assert found[f"{NAME}/count"] == 100_000
    assert found[f"{NAME}/latency_mean_seconds"] == pytest.approx(0.5, abs=1e-4)
    assert found[f"{NAME}/latency_p50_seconds"] == pytest.approx(0.5, abs=0.05)
    assert found[f"{NAME}/latency_p99_seconds"] == pytest.approx(0.99, abs=0.01)
    assert found[f"{NAME}/latency_max_seconds"] == 0.99999


def test_the_random_numbers_of_the_training_stay_what_they_are() -> None:
    import random

    random.seed(7)
    wanted = random.random()
    random.seed(7)
    tally = Tally()
    for _ in range(reward_calls.MAX_LATENCIES + 10):
        tally.add(1.0, False, None)
    assert random.random() == wanted


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_within_a_call_starts_with_none(process: Process) -> None:
    calls = process.shared(Calls)
    calls.begin(process, "reward_func")
    with calls._lock:  # another thread of the parent's may hold it
        child = os.fork()
        if child == 0:
            fresh = not calls._lock.locked() and calls._under_way == {} and calls._phase is None
            os._exit(0 if fresh else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(calls._under_way) == 1


def test_calls_are_told_by_a_thread_of_their_own(observed: Observed) -> None:
    program = """
import asyncio, time
from openrlhf.utils.agent import SingleTurnAgentExecutor
if process: process.open("RolloutRayActor")
def reward(queries, prompts, labels):
    if queries[0] == "slow":
        time.sleep(1.2)
    return {"rewards": 1.0} if queries[0] != "bad" else None
executor = SingleTurnAgentExecutor(reward)
async def main(*prompts):
    return await asyncio.gather(*(executor.execute(prompt) for prompt in prompts))
print(asyncio.run(main("a", "b", "bad")))
time.sleep(1)
print(asyncio.run(main("c", "slow")))
time.sleep(1)
"""
    files = {**V0_11, "openrlhf/utils/agent.py": AGENT}
    assert observed.output(program, files=files) == observed.output(program, hooks=False, files=files)
    assert observed.stderr == ""
    frames = observed.receiver.frames(observed.run)
    told = [frame.metrics for frame in frames if frame.kind == "metrics"]
    assert [(one[f"{NAME}/count"], one[f"{NAME}/failed_count"]) for one in told] == [(3, 1), (2, 0)]
    assert told[1][f"{NAME}/latency_max_seconds"] >= 1.2
    assert phases(frames)[-2:] == ["+reward", "-reward"]
    assert [frame.fields["error"] for frame in frames if frame.event == "reward_failed"] == [
        "returned NoneType, not a dictionary"
    ]


def test_the_thread_of_a_process_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_calls, "TICK_SECONDS", 0.01)
    process = Process()
    process.emitter = Recorder()  # type: ignore[assignment]
    calls = process.shared(Calls)
    for _ in range(3):
        calls.end(process, calls.begin(process, "reward_func"))
        wait_for(lambda: not calls._wake.is_set())
    assert sum(thread is calls._thread for thread in threading.enumerate()) == 1
    assert sum(frame["count"] for frame in recorder(process).frames) == 3


def test_a_hook_that_fails_in_its_calls_switches_itself_off_and_they_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def broken(*arguments: object) -> None:
        begun.append(arguments)
        raise OSError("broken")

    monkeypatch.setattr(Calls, "begin", broken)
    process = Process()
    hook = process.hook("openrlhf.utils.agent.SingleTurnAgentExecutor.__init__")

    class Executor:
        def __init__(self) -> None:
            self.reward_func: Callable[[int], int] = lambda query: query + 1

    init: Any = attach(hook, rewards.reward_function, process, Executor.__init__)
    monkeypatch.setattr(Executor, "__init__", init)
    function = Executor().reward_func
    assert [function(query) for query in range(5)] == [1, 2, 3, 4, 5]
    assert (hook.off, len(begun)) == (True, 3)
