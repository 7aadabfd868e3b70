"""The thread that reads vLLM's registry in the rollout actor, beside a program that looks like one."""

from __future__ import annotations

import pytest

from observed import Observed, events

ENGINE = """
import asyncio, sys, threading, time
from prometheus_client import REGISTRY, Counter, Gauge
from rlhfd_emitter.signals import engine as reader
reader.INTERVAL_SECONDS, reader.LEAST_SECONDS = 0.2, 0.05
from vllm.v1.engine.async_llm import AsyncLLM
running = Gauge("vllm:num_requests_running", "", ["engine"]).labels("0")
tokens = Counter("vllm:generation_tokens", "", ["engine"]).labels("0")
engine = AsyncLLM({"model": "m"})
def reported(name, value, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if any(sent.get(name) == value for sent in emitted):
            return True
        time.sleep(0.01)
    return False
emitted = []
real = process.emitter.emit
def emit(step, metrics):
    emitted.append(dict(metrics))
    real(step, metrics)
process.emitter.emit = emit
async def collect(prompt, count):
    return [output async for output in engine.generate(prompt, count, "id")]
"""
PREFIX = "rlhfd/engine/"


def test_what_an_engine_did_is_read_when_its_last_request_ends(observed: Observed) -> None:
    program = """
async def main():
    await collect("a", 2)
    tokens.inc(2)
for count in (2, 4):
    asyncio.run(main())
    assert reported("rlhfd/engine/0/generated_tokens_total", count)
"""
    assert observed.output(ENGINE.replace("0.2, 0.05", "600.0, 0.05") + program) == ""


def test_nothing_is_said_of_an_engine_that_does_nothing(observed: Observed) -> None:
    program = """
async def main():
    await collect("a", 2)
    tokens.inc(2)
asyncio.run(main())
assert reported("rlhfd/engine/0/generated_tokens_total", 2)
time.sleep(1.0)  # five turns of the thread
print(len(emitted), process.step, emitted[-1]["rlhfd/engine/requests_under_way"])
"""
    out = observed.output(ENGINE + program)
    assert observed.stderr == ""
    frames = observed.receiver.frames(observed.run)
    found = [frame for frame in frames if frame.kind == "metrics"]
    assert {frame.role for frame in found} == {"RolloutRayActor"}
    assert {frame.step for frame in found} == {None}
    assert out.split()[1:] == ["None", "0.0"]
    assert len(found) == int(out.split()[0]) <= 4, "quiet once nothing changes"
    assert found[-1].metrics[f"{PREFIX}0/generated_tokens_total"] == 2
    assert 0 < found[-1].metrics["rlhfd/overhead/engine_seconds"] < 1
    assert events(frames, "hook_failed") == []


def test_an_engine_that_hangs_with_its_event_loop_blocked_is_still_read(observed: Observed) -> None:
    program = """
async def main():
    outputs = engine.generate("a", 3, "id")
    await outputs.__anext__()
    running.set(1)
    assert reported("rlhfd/engine/0/requests_running", 1.0)  # blocks the loop
    seen = len(emitted)
    while len(emitted) < seen + 3:
        time.sleep(0.01)
    print([emitted[-1][f"rlhfd/engine/{name}"] for name in
           ("requests_under_way", "0/requests_running", "0/generated_tokens_per_second")])
    await outputs.aclose()
asyncio.run(main())
"""
    assert observed.output(ENGINE + program) == "[1.0, 1.0, 0.0]\n"
    assert observed.stderr == ""


def test_without_prometheus_client_only_the_requests_are_told(observed: Observed) -> None:
    program = """
del sys.modules["prometheus_client"]
async def main():
    outputs = engine.generate("a", 3, "id")
    await outputs.__anext__()
    assert reported("rlhfd/engine/requests_under_way", 1.0)
    await outputs.aclose()
asyncio.run(main())
assert reported("rlhfd/engine/requests_under_way", 0.0)
print(sorted({name for sent in emitted for name in sent}), "prometheus_client" in sys.modules)
"""
    out = observed.output(ENGINE + program)
    assert out == "['rlhfd/engine/requests_under_way', 'rlhfd/overhead/engine_seconds'] False\n"


@pytest.mark.parametrize("fault", ["raise ZeroDivisionError", "raise MemoryError"])
def test_a_registry_that_fails_is_reported_and_switched_off_and_harms_nothing(fault: str, observed: Observed) -> None:
    program = f"""
class Broken:
    def describe(self): return []
    def collect(self):
        {fault}
REGISTRY._names_to_collectors["vllm:num_requests_running"] = Broken()
async def main():
    for _ in range(3):
        print(await collect("a", 2))
        time.sleep(0.3)
asyncio.run(main())
"""
    assert observed.output(ENGINE + program) == "['a0', 'a1']\n" * 3
    lines = observed.stderr.splitlines()
    assert [line for line in lines if not line.startswith("rlhfd: hook signals.engine failed")] == []
    failed = events(observed.receiver.frames(observed.run), "hook_failed")
    assert {fields["hook"] for fields in failed} == {"signals.engine"}
    assert len(lines) == len(failed) <= 2  # the first failure, and that it is switched off


def test_the_thread_holds_up_neither_exit_nor_a_forked_child(observed: Observed) -> None:
    program = """
import os
child = os.fork()
if child == 0:
    names = [thread.name for thread in threading.enumerate()]
    print("rlhfd-engine" in names, flush=True)
    os._exit(0)
os.waitpid(child, 0)
(thread,) = [thread for thread in threading.enumerate() if thread.name == "rlhfd-engine"]
print(thread.daemon)
"""
    assert observed.output(ENGINE + program) == "False\nTrue\n"
