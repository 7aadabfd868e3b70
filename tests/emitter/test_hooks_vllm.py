"""The wrapper round vLLM's request generator: one phase while requests are under way, and nothing else changes."""

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


def test_an_engine_that_is_no_async_generator_is_left_alone_and_reported(observed: Observed) -> None:
    plain = "class AsyncLLM:\n    def __init__(self): pass\n    async def generate(self, prompt): return prompt\n"
    frames = observed.frames(
        "import asyncio\nfrom vllm.v1.engine.async_llm import AsyncLLM\n"
        "assert asyncio.run(AsyncLLM().generate('p')) == 'p'\n",
        files={"vllm/v1/engine/async_llm.py": plain},
    )
    assert phases(frames) == []
    assert events(frames, "attached")[-1]["missing"] == ["vllm.v1.engine.async_llm.AsyncLLM.generate"]
