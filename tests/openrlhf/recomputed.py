"""The signals of each step's experiences a second time, from the dump of ``shim/lab_dump.py``, in plain loops."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openrlhf.recomputed_filling import filling

Args = Mapping[str, Any]  # OpenRLHF's arguments by dotted name, as in the event run_start


@dataclass(frozen=True)
class Response:
    """One sample: per response token lists under the dump's names, and numbers of the whole."""

    tokens: Mapping[str, list[float]]
    spans: list[list[int]]  # of token ids, by run of adjacent response tokens
    place: int
    reward: float
    length: float
    truncated: float | None

    def mean(self, name: str) -> float | None:
        values = self.tokens.get(name)
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Step:
    """What was dumped of one call of ``make_experience_batch``."""

    responses: list[Response]
    kl_coefficient: float
    masks: list[Any]  # the attention masks of the experiences

    def tokens(self, name: str) -> list[float] | None:
        """Of all responses, one behind the other; ``None`` if the experiences did not have it."""
        rows = [response.tokens.get(name) for response in self.responses]
        return None if None in rows else [value for row in rows for value in row or ()]


PER_TOKEN = ("action_log_probs", "rollout_log_probs", "values", "returns", "advantages", "base", "raw")


def step(arrays: Mapping[str, Any]) -> Step:
    """The dump's arrays, taken apart into responses."""
    count = len({name.partition("/")[0] for name in arrays if "/" in name})
    responses = [response for i in range(count) for response in _responses(i, arrays)]
    masks = [arrays[f"{i}/attention_mask"] for i in range(count) if f"{i}/attention_mask" in arrays]
    return Step(responses, float(arrays["kl_coefficient"]), masks)


def _responses(i: int, arrays: Mapping[str, Any]) -> Iterator[Response]:
    mask = arrays[f"{i}/action_mask"]
    for row in range(len(mask)):
        places = [column for column in range(mask.shape[1]) if mask[row][column]]
        names = [name for name in PER_TOKEN if f"{i}/{name}" in arrays]
        ids = [int(arrays[f"{i}/sequences"][row][place + 1]) for place in places]
        starts = [n for n, place in enumerate(places) if n == 0 or places[n - 1] != place - 1]
        truncated = arrays.get(f"{i}/truncated")
        yield Response(
            tokens={name: [float(arrays[f"{i}/{name}"][row][place]) for place in places] for name in names},
            spans=[ids[start:end] for start, end in zip(starts, [*starts[1:], len(ids)], strict=False)],
            place=int(arrays[f"{i}/index"][row]),
            reward=float(arrays[f"{i}/rewards"][row]),
            length=float(arrays[f"{i}/response_length"][row]),
            truncated=None if truncated is None else float(truncated[row]),
        )


def steps(dump: Path) -> list[Step]:
    """Every dumped call in order; the n-th is the run's n-th step."""
    found: list[Step] = []
    for path in sorted(dump.glob("experience-[0-9]*.npz")):
        with np.load(path) as arrays:
            found.append(step(dict(arrays)))
    return found


def about(dump: Path, kind: str = "") -> list[dict[str, Any]]:
    """The JSON files of ``experience-<kind><count>``, in order."""
    return [json.loads(path.read_text()) for path in sorted(dump.glob(f"experience-{kind}[0-9]*.json"))]


def expected(one: Step, args: Args) -> dict[str, float]:
    """Every signal that there should be, by name."""
    values = {
        "rlhfd/tokens": float(sum(len(response.tokens["returns"]) for response in one.responses)),
        "rlhfd/samples": float(len(one.responses)),
        "rlhfd/kl_coefficient": one.kl_coefficient,
        "rlhfd/entropy/sampled": -float(np.mean(one.tokens("action_log_probs") or ())),
        **_spread("rlhfd/advantage", one.tokens("raw") or ()),
        **_spread("rlhfd/return", one.tokens("returns") or ()),
        **_trained(one),
        **_critic(one),
        **_divergence(one),
        **_mismatch(one),
        **_rewards(one, args),
        **_lengths(one),
        **_repetition(one),
        **_correlations(one),
        **filling("experience", one.masks, args, "rollout"),
    }
    size = sum(abs(response.reward) for response in one.responses) / len(one.responses)
    if size:
        values["rlhfd/ratio_of/advantage_reward"] = values["rlhfd/advantage/abs_mean"] / size
    return values


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    found = {"mean": np.mean(values), "std": np.std(values), "min": np.min(values), "max": np.max(values)}
    return {f"{name}/{key}": float(value) for key, value in found.items()}


def _trained(one: Step) -> dict[str, float]:
    raw, trained = one.tokens("raw") or [], one.tokens("advantages") or []
    sigma = float(np.std(trained))
    values = {
        "rlhfd/advantage/abs_mean": sum(map(abs, raw)) / len(raw),
        "rlhfd/advantage/trained_mean": sum(trained) / len(trained),
        "rlhfd/advantage/trained_std": sigma,
    }
    if sigma:
        values["rlhfd/advantage/outlier_ratio"] = sum(abs(each) > 5 * sigma for each in trained) / len(trained)
    return values


def _critic(one: Step) -> dict[str, float]:
    values, returns = one.tokens("values"), one.tokens("returns") or []
    if values is None:
        return {}
    left = np.array(returns) - np.array(values)
    return {
        "rlhfd/value/mean": float(np.mean(values)),
        "rlhfd/value/std": float(np.std(values)),
        **({"rlhfd/explained_variance": 1 - float(np.var(left) / np.var(returns))} if np.var(returns) else {}),
    }


def _divergence(one: Step) -> dict[str, float]:
    base = one.tokens("base")
    if base is None:
        return {}
    ratios = [policy - reference for policy, reference in zip(one.tokens("action_log_probs") or (), base, strict=True)]
    return {
        "rlhfd/kl/k1": sum(ratios) / len(ratios),
        "rlhfd/kl/k3": sum(math.exp(-each) - 1 + each for each in ratios) / len(ratios),
        "rlhfd/kl/max": max(ratios),
    }


def _mismatch(one: Step) -> dict[str, float]:
    rollout, training = one.tokens("rollout_log_probs"), one.tokens("action_log_probs") or []
    if rollout is None:
        return {}
    apart = [abs(math.exp(a) - math.exp(b)) for a, b in zip(rollout, training, strict=True)]
    logs = [min(20.0, max(-20.0, b - a)) for a, b in zip(rollout, training, strict=True)]
    weights = [math.exp(each) for each in logs]
    normalised = [each / (sum(weights) / len(weights)) for each in weights]
    return {
        "rlhfd/mismatch/prob_diff_mean": sum(apart) / len(apart),
        "rlhfd/mismatch/prob_diff_max": max(apart),
        "rlhfd/mismatch/k1": -sum(logs) / len(logs),
        "rlhfd/mismatch/k3": sum(w - 1 - each for w, each in zip(weights, logs, strict=True)) / len(logs),
        "rlhfd/mismatch/chi2": sum(w**2 for w in weights) / len(weights) - 1,
        "rlhfd/mismatch/ess_ratio": len(normalised) / sum(each**2 for each in normalised),
    }


def _rewards(one: Step, args: Args) -> dict[str, float]:
    rewards = [response.reward for response in one.responses]
    low, high = args["reward.clip_range"]
    values = _spread("rlhfd/reward", rewards)
    values.update({f"rlhfd/reward/p{percent}": float(np.percentile(rewards, percent)) for percent in (10, 50, 90)})
    values["rlhfd/reward/clipped_ratio"] = sum(not low < each < high for each in rewards) / len(rewards)
    size = int(args["rollout.n_samples_per_prompt"])
    if size > 1:
        ordered = [response.reward for response in sorted(one.responses, key=lambda response: response.place)]
        groups = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        values["rlhfd/group/zero_std_ratio"] = sum(len(set(group)) == 1 for group in groups) / len(groups)
        answers = [(each.place // size, [token for span in each.spans for token in span]) for each in one.responses]
        values["rlhfd/group/duplicate_ratio"] = sum(each in answers[:at] for at, each in enumerate(answers)) / len(
            answers
        )
    return values


def _lengths(one: Step) -> dict[str, float]:
    lengths = [response.length for response in one.responses]
    values = _spread("rlhfd/response_length", lengths)
    del values["rlhfd/response_length/std"]
    quantiles = {f"p{percent}": float(np.percentile(lengths, percent)) for percent in (50, 90, 99)}
    values.update({f"rlhfd/response_length/{name}": value for name, value in quantiles.items()})
    none = sum(not response.tokens["returns"] for response in one.responses)
    values["rlhfd/response_length/zero_ratio"] = none / len(one.responses)
    truncated = [response.truncated for response in one.responses if response.truncated is not None]
    if truncated:
        values["rlhfd/response_length/truncated_ratio"] = sum(truncated) / len(truncated)
    return values


def _repetition(one: Step) -> dict[str, float]:
    spans = [span for response in one.responses for span in response.spans]
    pairs = [(a, b) for span in spans for a, b in itertools.pairwise(span)]
    shares = []
    for response in one.responses:
        grams = [tuple(span[i : i + 4]) for span in response.spans for i in range(len(span) - 3)]
        if grams:
            shares.append(1 - len(set(grams)) / len(grams))
    values = {"rlhfd/repetition/consecutive_ratio": sum(a == b for a, b in pairs) / len(pairs)} if pairs else {}
    return {**values, **({"rlhfd/repetition/seq_rep_4": sum(shares) / len(shares)} if shares else {})}


def _correlations(one: Step) -> dict[str, float]:
    pairs: dict[str, list[tuple[float | None, float]]] = {
        "reward_length": [(response.length, response.reward) for response in one.responses],
        "advantage_reward": [(response.mean("raw"), response.reward) for response in one.responses],
    }
    if one.tokens("base") is not None:
        means = [(each.mean("action_log_probs"), each.mean("base"), each.reward) for each in one.responses]
        pairs["kl_reward"] = [(None if a is None or b is None else a - b, reward) for a, b, reward in means]
    found: dict[str, float] = {}
    for name, rows in pairs.items():
        left, right = ([row[side] for row in rows if row[0] is not None] for side in (0, 1))
        if len(set(left)) > 1 and len(set(right)) > 1:
            found[f"rlhfd/correlation/{name}"] = float(np.corrcoef(left, right)[0, 1])  # type: ignore[arg-type]
    return found
