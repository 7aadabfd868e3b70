"""The process that calls a reward function of a user: a script of its own, which imports nothing of rlhfd.

Argument: the file with ``reward_func(queries, prompts, labels)``, as OpenRLHF's --reward.remote_url takes it. In: one
JSON object a line, ``{"query": [...], "prompts": [...], "labels": [...]}``. Out, on what was its stdout: one line each,
``{"rewards": [...]}`` or ``{"error": "..."}``. What the function prints goes to stderr. Ends with its stdin.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from typing import Any

MAX_ERROR = 500


def load(path: str) -> Callable[..., Any]:
    """The function, loaded as OpenRLHF loads it."""
    spec = importlib.util.spec_from_file_location("reward_func", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., Any] = module.reward_func
    return found


def numbers(result: Any) -> list[float]:
    """A mapping with ``rewards`` or, in older versions, the rewards themselves: a tensor, a list or a number."""
    found: Any = result.get("rewards") if isinstance(result, dict) else result
    if hasattr(found, "tolist"):
        found = found.tolist()
    if not isinstance(found, (list, tuple)):
        found = [found]
    return [float(one.item() if hasattr(one, "item") else one) for one in found]


def main() -> None:
    """Answer until stdin ends."""
    # This folder is no place for a user's function to import from.
    sys.path[:] = [
        entry for entry in sys.path if os.path.abspath(entry or ".") != os.path.dirname(os.path.abspath(__file__))
    ]
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    function: Callable[..., Any] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            function = function or load(sys.argv[1])
            answer: dict[str, Any] = {
                "rewards": numbers(function(request["query"], request["prompts"], request["labels"]))
            }
        except BaseException as error:  # noqa: BLE001 - whatever a user's function raises, SystemExit too, is its answer
            answer = {"error": f"{type(error).__name__}: {error}"[:MAX_ERROR]}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
