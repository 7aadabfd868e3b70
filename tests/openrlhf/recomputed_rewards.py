"""The summary of each step's rewards a second time, from the dump, with numpy's covariances over plain lists."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openrlhf.recomputed import Args, Response, Step

__all__ = ["check_summary"]

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}  # raw advantages were rounded to float32 on the way


def check_summary(fields: Mapping[str, Any], one: Step, args: Args) -> None:
    """``fields`` are those of the event that the step should have."""
    size = int(args["rollout.n_samples_per_prompt"])
    counts = Counter(response.reward for response in one.responses)
    assert (fields["samples"], fields["missing"]) == (len(one.responses), 0)
    assert fields["clip"] == [float(each) for each in args["reward.clip_range"]]
    assert dict(zip(fields["values"], fields["counts"], strict=True)) == counts
    prompts = [response.place // size for response in one.responses] if size > 1 else None
    columns: dict[str, list[float | None]] = {
        "length": [response.length for response in one.responses],
        "repetition": list(map(_repeated, one.responses)),
    }
    if one.tokens("base") is not None:
        columns["kl"] = list(map(_kl, one.responses))
    rewards = [response.reward for response in one.responses]
    for name in ("length", "repetition", "kl"):
        told = fields.get(name)
        assert (told is not None) == (name in columns), name
        if told is not None:
            strata = [[0] * len(rewards), *([prompts] if prompts else [])]
            assert len(told) == len(strata)
            for sums, keys in zip(told, strata, strict=True):
                np.testing.assert_allclose(sums, _sums((rewards, columns[name]), keys), **CLOSE, err_msg=name)
    _check_advantages(fields, one, args, rewards, columns, prompts)


def _check_advantages(
    fields: Mapping[str, Any],
    one: Step,
    args: Args,
    rewards: list[float],
    columns: Mapping[str, list[float | None]],
    prompts: list[int] | None,
) -> None:
    estimator = args["algo.advantage.estimator"]
    assert fields["estimator"] == estimator
    x: Sequence[float | None] = rewards
    if estimator == "group_norm" and prompts:
        groups = defaultdict(list)
        for key, reward in zip(prompts, rewards, strict=True):
            groups[key].append(reward)
        scale = {key: (np.std(each, ddof=1) if len(each) > 1 else 0.0) or 1.0 for key, each in groups.items()}
        x = [float(reward / scale[key]) for key, reward in zip(prompts, rewards, strict=True)]
    table: list[Sequence[float | None]] = [x, [response.mean("raw") for response in one.responses]]
    if "kl" in columns and one.kl_coefficient and not args.get("algo.kl.use_loss"):
        pairs = zip(columns["kl"], columns["length"], strict=True)
        table.append([None if kl is None else kl * (length or 0.0) for kl, length in pairs])
    keys = prompts if prompts and estimator not in ("gae", "reinforce") else [0] * len(rewards)
    np.testing.assert_allclose(fields["advantage"], _sums(table, keys), **CLOSE, err_msg="advantage")


def _sums(columns: Sequence[Sequence[float | None]], keys: Sequence[int]) -> list[float]:
    found = np.zeros(2 + len(columns) * (len(columns) + 1) // 2)
    for key in set(keys):
        rows = [
            row for row, mine in zip(zip(*columns, strict=True), keys, strict=True) if mine == key and None not in row
        ]
        if len({row[0] for row in rows}) < 2:
            continue
        products = np.cov(np.array(rows, dtype=float).T, ddof=0) * len(rows)
        found += np.array([len(rows), 1, *products[np.triu_indices(len(columns))]])
    return [float(each) for each in found]


def _repeated(response: Response) -> float | None:
    grams = [tuple(span[i : i + 4]) for span in response.spans for i in range(len(span) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else None


def _kl(response: Response) -> float | None:
    policy, base = response.mean("action_log_probs"), response.mean("base")
    return None if policy is None or base is None else policy - base
