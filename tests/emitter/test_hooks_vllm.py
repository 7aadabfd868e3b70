"""The wrappers round vLLM's engine: phases of requests, weight updates and sleep, and nothing else changes."""

from __future__ import annotations

import pytest

from observed import Observed, events, phases

ENGINE = """
import asyncio
from vllm.v1.engine.async_llm import AsyncLLM
engine = AsyncLLM({"model": "m"})
async def collect(prompt, count, request_id="id"):
    return [output async for output in engine.generate(prompt, count, request_id)]
def show(main):
    async def whole():
        await main()
        await asyncio.sleep(0.01)  # generators that were left behind are closed by the loop
    asyncio.run(whole())
    print(engine.ended)
"""
PROGRAMS = {
    "to the end": """
async def main():
    print(await collect("a", 3))
""",
    "nothing to yield": """
async def main():
    print(await collect("a", 0))
""",
    "by keywords": """
async def main():
    print([output async for output in engine.generate(prompt="a", sampling_params=2, request_id="x")])
""",
    "an early break": """
async def main():
    async for output in engine.generate("a", 3, "x"):
        print(output)
        break
""",
    "closed by hand": """
async def main():
    outputs = engine.generate("a", 3, "x")
    print(await outputs.__anext__())
    await outputs.aclose()
    print(engine.ended)
    print([output async for output in outputs])
""",
    "an exception": """
async def main():
    try:
        await collect("fail", 3, "request 7")
    except ValueError as error:
        print("raised", error, error.__context__)
""",
    "a cancellation": """
async def main():
    task = asyncio.create_task(collect("a", 10**9))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print("cancelled", task.cancelled())
""",
    "a timeout": """
async def main():
    try:
        await asyncio.wait_for(collect("a", 10**9), 0.05)
    except asyncio.TimeoutError:
        print("too late")
""",
    "concurrency": """
async def main():
    print(await asyncio.gather(*(collect(name, count + 1) for count, name in enumerate("abcd"))))
""",
}


@pytest.mark.parametrize("how", PROGRAMS)
def test_requests_end_as_they_do_without_us_and_are_one_phase(how: str, observed: Observed) -> None:
    program = ENGINE + PROGRAMS[how] + "show(main)\n"
    expected = observed.output(program, hooks=False)
    assert observed.output(program) == expected
    assert observed.stderr == ""
    frames = observed.receiver.frames(observed.run)
    assert phases(frames) == ["+generation", "-generation"]
    assert {frame.role for frame in frames} == {"RolloutRayActor"}
    (begin,), (end,) = events(frames, "phase_begin"), events(frames, "phase_end")
    assert begin["id"] == end["id"]
    assert 0 <= end["seconds"] < 30


def test_requests_one_after_the_other_are_phases_of_their_own_and_overlapping_ones_are_not(observed: Observed) -> None:
    frames = observed.frames(
        ENGINE
        + """
async def main():
    await collect("a", 2)
    slow = asyncio.create_task(collect("slow", 50))
    await asyncio.sleep(0)
    for _ in range(3):
        await collect("quick", 1)
    await slow
    await collect("a", 2)
show(main)
"""
    )
    assert phases(frames) == ["+generation", "-generation"] * 3


@pytest.mark.parametrize("part", ["begin", "end"])
def test_a_hook_that_goes_wrong_changes_no_request(part: str, observed: Observed) -> None:
    faulty = f"if process:\n    def fail(*args): raise ZeroDivisionError\n    process.{part} = fail\n"
    for how in ("to the end", "an exception", "a cancellation"):
        program = faulty + ENGINE + PROGRAMS[how] + "show(main)\n"
        assert observed.output(program) == observed.output(program, hooks=False)


def test_an_engine_of_another_shape_is_left_alone_and_reported(observed: Observed) -> None:
    plain = """
class AsyncLLM:
    def __init__(self): pass
    async def generate(self, prompt): return prompt
    def collective_rpc(self, method, args): return method
    def sleep(self): return "asleep"
    async def wake_up(self): return "awake"
"""
    frames = observed.frames(
        "import asyncio\nfrom vllm.v1.engine.async_llm import AsyncLLM\nengine = AsyncLLM()\n"
        "assert asyncio.run(engine.generate('p')) == 'p'\n"
        "assert engine.collective_rpc('update_weight', ('w', True)) == 'update_weight'\n"
        "assert (engine.sleep(), asyncio.run(engine.wake_up())) == ('asleep', 'awake')\n",
        files={"vllm/v1/engine/async_llm.py": plain},
    )
    assert phases(frames) == ["+wake_up", "-wake_up"]
    absent = ("generate", "collective_rpc", "sleep", "pause_generation", "resume_generation")
    assert events(frames, "attached")[-1]["missing"] == [f"vllm.v1.engine.async_llm.AsyncLLM.{name}" for name in absent]


UPDATES = """
async def update(name, last, method="update_weight", **more):
    return await engine.collective_rpc(method, args=(name, "bf16", (2, 2), last), **more)
async def broadcast(count=3):
    return [await update(f"w{index}", index == count - 1) for index in range(count)]
"""
CALLS = {
    "weights": "print(await broadcast(), await broadcast(1))",
    "weights by CUDA IPC": """
    handles = {"GPU-1": (print, ())}
    print(await engine.collective_rpc("update_weight_cuda_ipc", args=("w", "bf16", (2,), handles, True)))
""",
    "positional": "print(await engine.collective_rpc('update_weight', 5.0, ('w', 'bf16', (2,), True)))",
    "a weight that fails": """
    await update("w0", False)
    try:
        await update("fail", False)
    except ValueError as error:
        print(error, error.__context__)
    print(await broadcast())
""",
    "anew": "print(await update('w0', False), await broadcast())",
    "something else": "print(await engine.collective_rpc('init_process_group', args=('host', 1, True)))",
    "another signature": "print(await engine.collective_rpc('update_weight', args=('w', 'bf16', (2,))))",
    "sleep": "print(await engine.sleep(), await engine.wake_up(tags=['weights']), await engine.wake_up())",
    "a wake_up that fails": """
    try:
        await engine.wake_up(["fail"])
    except ValueError as error:
        print(error, error.__context__)
""",
    "pause": "print(await engine.pause_generation(mode='keep'), await engine.resume_generation())",
    "a cancelled call": """
    task = asyncio.create_task(update("w0", False))
    await asyncio.sleep(0)
    task.cancel()
    print(await asyncio.gather(task, return_exceptions=True))
""",
}
SYNC = ["+weight_sync", "-weight_sync"]
SEEN = {
    "weights": SYNC * 2,
    "weights by CUDA IPC": SYNC,
    "positional": SYNC,
    "a weight that fails": SYNC * 2,
    "anew": SYNC * 2,
    "something else": [],
    "another signature": [],
    "sleep": ["+sleep", "-sleep", *["+wake_up", "-wake_up"] * 2],
    "a wake_up that fails": ["+wake_up", "-wake_up"],
    "pause": ["+pause_generation", "-pause_generation", "+resume_generation", "-resume_generation"],
    "a cancelled call": SYNC,
}
ERRORS = {
    "a weight that fails": "ValueError: update_weight",
    "anew": "RuntimeError: the weight update began anew",
    "a wake_up that fails": "ValueError: no memory",
    "a cancelled call": "CancelledError: ",
}


@pytest.mark.parametrize("how", CALLS)
def test_calls_of_the_engine_are_phases_and_do_what_they_do_without_us(how: str, observed: Observed) -> None:
    program = ENGINE + UPDATES + f"async def main():\n    {CALLS[how].strip()}\nshow(main)\n"
    expected = observed.output(program, hooks=False)
    assert observed.output(program) == expected
    assert observed.stderr == ""
    frames = observed.receiver.frames(observed.run)
    assert phases(frames) == SEEN[how]
    errors = [fields["error"] for fields in events(frames, "phase_end") if "error" in fields]
    assert errors == ([ERRORS[how]] if how in ERRORS else [])


def test_a_weight_update_tells_how_long_it_took_and_in_how_many_calls(observed: Observed) -> None:
    frames = observed.frames(
        ENGINE
        + UPDATES
        + """
async def main():
    await update("w0", False)
    await asyncio.sleep(0.1)
    await update("w1", False)
    await update("w2", True)
show(main)
"""
    )
    (found,) = [frame.metrics for frame in frames if frame.kind == "metrics"]
    names = {name.rpartition("/")[2]: value for name, value in found.items()}
    assert set(names) == {"seconds", "call_seconds", "calls"}
    assert names["calls"] == 3
    assert 0.1 <= names["seconds"] < 10
    assert 0 < names["call_seconds"] <= names["seconds"] - 0.1
    (end,) = events(frames, "phase_end")
    assert end["seconds"] == pytest.approx(names["seconds"], abs=0.05)


@pytest.mark.parametrize("part", ["begin", "end"])
def test_a_hook_that_goes_wrong_changes_no_call(part: str, observed: Observed) -> None:
    faulty = f"if process:\n    def fail(*args): raise ZeroDivisionError\n    process.{part} = fail\n"
    for how in ("weights", "a weight that fails", "sleep", "a wake_up that fails", "pause"):
        program = faulty + ENGINE + UPDATES + f"async def main():\n    {CALLS[how].strip()}\nshow(main)\n"
        assert observed.output(program) == observed.output(program, hooks=False)
