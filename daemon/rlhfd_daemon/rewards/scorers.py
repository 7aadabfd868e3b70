"""Scores of single answers by a remote reward model or a reward function, each with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from rlhfd_daemon.errors import DaemonError, TraceError
from rlhfd_daemon.rewards.canary import Pair

if TYPE_CHECKING:  # imported where a request is made
    import aiohttp

__all__ = ["FunctionScorer", "HttpScorer", "Scorer", "ScoringError", "score_all"]

_CHILD = Path(__file__).with_name("function_child.py")
_MAX_ANSWER_BYTES = 1 << 20
_STOP_SECONDS = 2.0


class ScoringError(DaemonError):
    """A score that could not be had; the text says why, without the answer or its prompt."""


class Scorer(Protocol):
    """Scores one pair at a time."""

    name: str

    async def score(self, pair: Pair) -> float:
        """The reward. :raises ScoringError: there is none, or not in time."""
        ...

    async def close(self) -> None:
        """Let go of everything; bounded, safe to call twice."""
        ...


class HttpScorer:
    """A remote reward model: ``POST {"query": [...], "prompts": [...], "labels": [...]}``, answered by
    ``{"rewards": [...]}``. No redirects, no proxy of the environment.

    :raises TraceError: ``url`` is no HTTP URL.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TraceError("--url must be an http or https URL, such as http://rm:5000/get_reward")
        self.name = f"{parts.scheme}://{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        self._url = url
        self._timeout = timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    async def score(self, pair: Pair) -> float:
        import aiohttp

        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._timeout)
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        try:
            async with self._session.post(self._url, json=_request(pair), allow_redirects=False) as response:
                if response.status != 200:
                    raise ScoringError(f"HTTP status {response.status}")
                body = await response.content.read(_MAX_ANSWER_BYTES + 1)
                while len(body) <= _MAX_ANSWER_BYTES and (more := await response.content.read(_MAX_ANSWER_BYTES)):
                    body += more
        except asyncio.TimeoutError as error:
            raise ScoringError(f"no answer within {self._timeout:g} s") from error
        except aiohttp.ClientError as error:
            raise ScoringError(f"{type(error).__name__}: no answer from {self.name}") from error
        if len(body) > _MAX_ANSWER_BYTES:
            raise ScoringError("an answer of more than 1 MiB")
        return _reward(body)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class FunctionScorer:
    """A reward function in a child process, which is killed where it takes too long and started anew for the next
    pair. ``python`` is the interpreter that has what the function imports."""

    def __init__(self, path: Path, timeout_seconds: float, python: str = sys.executable) -> None:
        if not path.is_file():
            raise TraceError(f"--function {path}: no such file")
        self.name = str(path)
        self._command = (python, str(_CHILD), str(path.resolve()))
        self._timeout = timeout_seconds
        self._child: asyncio.subprocess.Process | None = None

    async def score(self, pair: Pair) -> float:
        try:
            return _reward(await asyncio.wait_for(self._ask(pair), self._timeout))
        except asyncio.TimeoutError as error:
            await self.close()
            raise ScoringError(f"no answer within {self._timeout:g} s; killed") from error
        except (OSError, ValueError) as error:  # ValueError: a line beyond the limit
            await self.close()
            raise ScoringError(f"the function's process: {error}") from error

    async def _ask(self, pair: Pair) -> bytes:
        if self._child is None:
            # A group of its own: what the function has started goes with it, and Ctrl-C does not reach it.
            self._child = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_MAX_ANSWER_BYTES,
                start_new_session=True,
            )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(_request(pair)).encode() + b"\n")
        await self._child.stdin.drain()
        line = await self._child.stdout.readline()
        if not line:
            await self.close()
            raise ScoringError("the function ended its process")
        return line

    async def close(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(child.wait(), _STOP_SECONDS)


def _request(pair: Pair) -> Mapping[str, list[Any]]:
    return {"query": [pair.query], "prompts": [pair.prompt], "labels": [pair.label]}


def _reward(body: bytes) -> float:
    """The one reward of an answer; it may be NaN."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ScoringError("an answer that is no JSON") from error
    if isinstance(answer, dict) and "error" in answer and "rewards" not in answer:
        raise ScoringError(str(answer["error"])[:200])
    found = answer.get("rewards") if isinstance(answer, dict) else None
    while isinstance(found, list) and len(found) == 1:
        found = found[0]
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise ScoringError('an answer without one number in "rewards"')
    try:
        return float(found)
    except OverflowError:
        return math.inf if found > 0 else -math.inf


async def score_all(
    scorer: Scorer, pairs: list[Pair], attempts: int
) -> tuple[dict[str, float], list[float | None], dict[str, str]]:
    """Each pair, one after the other, with up to ``attempts`` calls until one succeeds: scores by key, the seconds of
    each call (``None``: failed), and by name why a pair has no score."""
    scores: dict[str, float] = {}
    latencies: list[float | None] = []
    failures: dict[str, str] = {}
    for pair in pairs:
        for _ in range(attempts):
            begin = time.monotonic()
            try:
                scores[pair.key] = await scorer.score(pair)
            except ScoringError as error:
                latencies.append(None)
                failures[pair.name] = str(error)
            else:
                latencies.append(time.monotonic() - begin)
                failures.pop(pair.name, None)
                break
    return scores, latencies, failures
